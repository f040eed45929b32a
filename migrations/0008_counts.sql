-- How many requests there are of each kind, kept by counting what each statement changes: to count the wide table means to
-- read it, which a person at a terminal can wait for with a million rows, and not with twenty.
--
-- A statement appends what it changed to `count_changes`: no row is shared, so nobody waits for anybody. Workers fold the
-- changes into `counts` every few seconds. Empty text stands for NULL, so that the columns can be a key.

CREATE TABLE provisioner.counts (
    target text NOT NULL,
    batch text NOT NULL,
    requested_by text NOT NULL,
    status text NOT NULL,
    error_code text NOT NULL,
    requests bigint NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    newest bigint,
    PRIMARY KEY (target, batch, requested_by, status, error_code)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE provisioner.count_changes (LIKE provisioner.counts, change bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.counts IS 'How many requests there are of each kind, but for what count_changes adds';
COMMENT ON TABLE provisioner.count_changes IS 'What statements changed, until a worker folds it into counts';
COMMENT ON COLUMN provisioner.counts.newest IS 'The largest id that ever came to be of this kind';

-- One function for each event, for a trigger sees only the rows that its event has.
CREATE FUNCTION provisioner.requests_counted_in() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO provisioner.count_changes
    SELECT
        coalesce(n.target, ''), coalesce(n.batch, ''), coalesce(n.requested_by, ''), coalesce(n.status, ''),
        coalesce(n.error_code, ''), count(*), min(n.created_at), max(n.finished_at), max(n.id)
    FROM new_rows AS n
    GROUP BY n.target, n.batch, n.requested_by, n.status, n.error_code;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.requests_counted_out() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO provisioner.count_changes
    SELECT
        coalesce(o.target, ''), coalesce(o.batch, ''), coalesce(o.requested_by, ''), coalesce(o.status, ''),
        coalesce(o.error_code, ''), -count(*)
    FROM old_rows AS o
    GROUP BY o.target, o.batch, o.requested_by, o.status, o.error_code;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.requests_counted_again() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO provisioner.count_changes
    SELECT
        coalesce(c.target, ''), coalesce(c.batch, ''), coalesce(c.requested_by, ''), coalesce(c.status, ''),
        coalesce(c.error_code, ''), sum(c.requests), min(c.created_at), max(c.finished_at), max(c.id)
    FROM (
        SELECT o.target, o.batch, o.requested_by, o.status, o.error_code, -1 AS requests, NULL AS created_at, NULL AS finished_at, NULL AS id
        FROM old_rows AS o
        UNION ALL
        SELECT n.target, n.batch, n.requested_by, n.status, n.error_code, 1, n.created_at, n.finished_at, n.id
        FROM new_rows AS n
    ) AS c
    GROUP BY c.target, c.batch, c.requested_by, c.status, c.error_code
    HAVING sum(c.requests) <> 0;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.requests_counted_none() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    TRUNCATE provisioner.counts, provisioner.count_changes;
    RETURN NULL;
END
$$;

-- Fold at most `most` changes into the counts; returns how many. Two who fold at once take different changes, and rows in the
-- same order. A count of zero is taken out: whoever deletes requests of many batches leaves none of them behind.
CREATE FUNCTION provisioner.fold_counts(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folded integer;
    zeros tid[];
BEGIN
    WITH taken AS (
        DELETE FROM provisioner.count_changes
        WHERE ctid = ANY (ARRAY (SELECT c.ctid FROM provisioner.count_changes AS c LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING *
    ),
    kept AS (
        INSERT INTO provisioner.counts AS k
        SELECT
            t.target, t.batch, t.requested_by, t.status, t.error_code, sum(t.requests), min(t.started_at), max(t.ended_at),
            max(t.newest)
        FROM taken AS t
        GROUP BY t.target, t.batch, t.requested_by, t.status, t.error_code
        ORDER BY t.target, t.batch, t.requested_by, t.status, t.error_code
        ON CONFLICT (target, batch, requested_by, status, error_code) DO UPDATE SET
            requests = k.requests + excluded.requests,
            -- What there was long ago, and is no more, began nothing.
            started_at = CASE WHEN k.requests = 0 THEN excluded.started_at ELSE least(k.started_at, excluded.started_at) END,
            ended_at = greatest(k.ended_at, excluded.ended_at),
            newest = greatest(k.newest, excluded.newest)
        RETURNING k.ctid, k.requests
    )
    SELECT (SELECT count(*) FROM taken), ARRAY (SELECT n.ctid FROM kept AS n WHERE n.requests = 0) INTO folded, zeros;
    -- They are locked since they were changed, so nobody has added to them meanwhile.
    DELETE FROM provisioner.counts AS k WHERE k.ctid = ANY (zeros) AND k.requests = 0;
    RETURN folded;
END
$$;

-- Nobody changes requests between the count and the first trigger.
LOCK TABLE provisioner.connection_requests IN SHARE ROW EXCLUSIVE MODE;

INSERT INTO provisioner.counts
SELECT
    coalesce(q.target, ''), coalesce(q.batch, ''), coalesce(q.requested_by, ''), coalesce(q.status, ''), coalesce(q.error_code, ''),
    count(*), min(q.created_at), max(q.finished_at), max(q.id)
FROM provisioner.connection_requests AS q
GROUP BY q.target, q.batch, q.requested_by, q.status, q.error_code;

CREATE TRIGGER requests_counted_in AFTER INSERT ON provisioner.connection_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_counted_in();

CREATE TRIGGER requests_counted_again AFTER UPDATE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_counted_again();

CREATE TRIGGER requests_counted_out AFTER DELETE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_counted_out();

CREATE TRIGGER requests_counted_none AFTER TRUNCATE ON provisioner.connection_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_counted_none();

-- Whoever may read the line sees all, everybody else what they asked for themselves: the rule of `0006_access.sql`.
CREATE VIEW provisioner.request_counts WITH (security_barrier) AS
SELECT
    c.target, nullif(c.batch, '') AS batch, nullif(c.requested_by, '') AS requested_by, c.status,
    nullif(c.error_code, '') AS error_code, sum(c.requests)::bigint AS requests, min(c.started_at) AS started_at,
    max(c.ended_at) AS ended_at, max(c.newest) AS newest
FROM (
    SELECT k.* FROM provisioner.counts AS k WHERE k.requests <> 0
    UNION ALL
    SELECT
        h.target, h.batch, h.requested_by, h.status, h.error_code, h.requests, h.started_at, h.ended_at, h.newest
    FROM provisioner.count_changes AS h
) AS c
WHERE c.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'))
GROUP BY c.target, c.batch, c.requested_by, c.status, c.error_code
HAVING sum(c.requests) <> 0;

COMMENT ON VIEW provisioner.request_counts IS 'How many requests there are of each kind, quick whatever their number';

-- As before, from the counts. Only what is in flight or waits is looked at one by one; what else is pending is in line.
CREATE OR REPLACE VIEW provisioner.batch_progress WITH (security_barrier) AS
WITH lines AS (
    SELECT c.batch, c.target, c.status AS state, c.requests, c.started_at, c.ended_at, NULL::timestamptz AS run_at
    FROM provisioner.request_counts AS c
    UNION ALL
    SELECT q.batch, q.target, 'in_flight', 1, NULL, NULL, NULL
    FROM provisioner.in_flight AS f
    JOIN provisioner.requests AS q ON q.id = f.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
    UNION ALL
    SELECT q.batch, q.target, 'waiting', 1, NULL, NULL, CASE WHEN isfinite(w.run_at) THEN w.run_at END
    FROM provisioner.waiting AS w
    JOIN provisioner.requests AS q ON q.id = w.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
),
summed AS (
    SELECT
        l.batch, l.target, grouping(l.batch) = 1 AS total,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'pending'), 0) AS unfinished,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'waiting'), 0) AS waiting,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'in_flight'), 0) AS in_flight,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'succeeded'), 0) AS succeeded,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'failed'), 0) AS failed,
        coalesce(sum(l.requests) FILTER (WHERE l.state = 'cancelled'), 0) AS cancelled,
        min(l.started_at) AS started_at,
        max(l.ended_at) AS last_finished_at,
        max(l.run_at) AS last_run_at
    FROM lines AS l
    GROUP BY GROUPING SETS ((l.batch, l.target), (l.target))
),
foreseen AS (
    SELECT
        s.*, s.unfinished - s.waiting - s.in_flight AS ready,
        s.unfinished + s.succeeded + s.failed + s.cancelled AS requests,
        s.unfinished / nullif(
            coalesce(
                (
                    SELECT
                        greatest(
                            p.permits / p.period
                            - CASE WHEN p.seen_at > extract(EPOCH FROM now()) - p.period THEN p.their_pace ELSE 0 END,
                            p.permits / p.period / 4
                        )
                    FROM provisioner.permits AS p
                    WHERE p.target = s.target AND p.kind = 'write' AND p.metered
                ),
                (SELECT sum(k.pace) FROM provisioner.workers AS k WHERE k.lease_until > now() AND s.target = ANY (k.targets))
            ), 0
        ) AS seconds
    FROM summed AS s
),
shown AS (
    SELECT
        f.batch, f.total, sum(f.requests)::bigint AS requests, sum(f.waiting)::bigint AS waiting, sum(f.ready)::bigint AS ready,
        sum(f.in_flight)::bigint AS in_flight, sum(f.succeeded)::bigint AS succeeded, sum(f.failed)::bigint AS failed,
        sum(f.cancelled)::bigint AS cancelled, min(f.started_at) AS started_at,
        CASE WHEN sum(f.unfinished) = 0 THEN max(f.last_finished_at) END AS ended_at,
        CASE
            WHEN sum(f.unfinished) > 0 AND bool_and(f.unfinished = 0 OR f.seconds IS NOT NULL)
                THEN greatest(now() + make_interval(secs => least(max(f.seconds)::double precision, 1e9)), max(f.last_run_at))
        END AS ends_at
    FROM foreseen AS f
    WHERE f.requests > 0
    GROUP BY f.batch, f.total
)
SELECT * FROM shown
UNION ALL
SELECT NULL, true, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL
WHERE NOT EXISTS (SELECT FROM shown);

REVOKE EXECUTE ON FUNCTION
provisioner.requests_counted_in(), provisioner.requests_counted_out(), provisioner.requests_counted_again(),
provisioner.requests_counted_none(), provisioner.fold_counts(integer)
FROM PUBLIC;
