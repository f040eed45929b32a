-- Sealed keys of failed requests are kept for a while, for a retry, and then wiped. Which ones are due stands in a table of
-- its own: the wide table has no index that could tell, and must not be read whole.

-- One row for each sealed key that a failed request has had. `box` is a hash of it: should the request be given another
-- key meanwhile, that one has a row, and a time, of its own. The time stands first in the key: a request
-- that fails again has another one, and never waits for a wiper.
CREATE TABLE provisioner.failed_boxes (
    id bigint NOT NULL,
    failed_at timestamptz NOT NULL,
    box bigint NOT NULL,
    CONSTRAINT failed_boxes_until PRIMARY KEY (failed_at, id, box)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.failed_boxes IS 'Sealed keys of failed requests, which are wiped after a time';

-- A trigger and no part of the settlement: whatever fails a request, older workers too, it is noticed.
CREATE FUNCTION provisioner.box_failed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO provisioner.failed_boxes (id, failed_at, box)
    VALUES (new.id, clock_timestamp(), hashtextextended(new.credential, 0));
    RETURN NULL;
END
$$;

CREATE TRIGGER box_failed AFTER UPDATE OF status, credential ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    new.status = 'failed' AND new.credential LIKE 'sealed:%' AND new.credential NOT LIKE '%:wiped'
    AND (old.status, old.credential) IS DISTINCT FROM (new.status, new.credential)
)
EXECUTE FUNCTION provisioner.box_failed();

INSERT INTO provisioner.failed_boxes (id, failed_at, box)
SELECT q.id, coalesce(q.finished_at, now()), hashtextextended(q.credential, 0)
FROM provisioner.connection_requests AS q
WHERE q.status = 'failed' AND q.credential LIKE 'sealed:%' AND q.credential NOT LIKE '%:wiped';

REVOKE EXECUTE ON FUNCTION provisioner.box_failed() FROM PUBLIC;

-- A readable key in an insert is taken out before the row is stored, and the row is refused after the statement as ever.
-- Otherwise the refused row would stand in the table's file until the next vacuum, and in the WAL for longer. It does not
-- refuse by itself: an error that a COPY meets at one of its rows shows the whole line, to the client and in the server's log.
CREATE FUNCTION provisioner.withhold_readable_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    new.credential := '';
    RETURN new;
END
$$;

CREATE TRIGGER withhold_readable_key BEFORE INSERT ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    new.credential <> 'default'
    AND (new.credential !~* '^[a-z0-9][a-z0-9_-]{0,39}$' OR new.credential ~* '^sk-')
    AND new.credential !~ '^sealed:[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]+={0,2}$'
)
EXECUTE FUNCTION provisioner.withhold_readable_key();

REVOKE EXECUTE ON FUNCTION provisioner.withhold_readable_key() FROM PUBLIC;
