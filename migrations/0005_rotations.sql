-- How the second kind of request moves: a secret rotation, which makes an ordinary API key with a connection's management key and
-- writes it into a secret. Its queue, leases, evidence and attempts are those of connections: ids tell the kinds apart, and its
-- line is that of `target/rotations`, a target of its own with budgets and incidents of its own.

-- Nothing in it is secret, so its rules are plain constraints. Ids begin where those of connections never come.
CREATE TABLE provisioner.rotation_requests (
    id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1000000000001) PRIMARY KEY,
    target text NOT NULL DEFAULT 'default' CHECK (target ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    project_id uuid NOT NULL,
    name text NOT NULL DEFAULT 'openrouter' CHECK (length(name) <= 64 AND name ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    connection text NOT NULL DEFAULT 'openrouter',
    environment text NOT NULL DEFAULT 'prod' CHECK (environment ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(environment) <= 64),
    secret_path text NOT NULL DEFAULT '/' CHECK (secret_path ~ '^/([^/\s]+/)*[^/\s]*$' AND length(secret_path) <= 500),
    secret_name text NOT NULL DEFAULT 'OPENROUTER_API_KEY' CHECK (secret_name ~ '^[^:/\s]{1,200}$'),
    interval_days integer NOT NULL DEFAULT 30 CHECK (interval_days BETWEEN 1 AND 3650),
    rotate_at time NOT NULL DEFAULT '00:00',
    key_name text NOT NULL DEFAULT '{project_name} {environment}' CHECK (key_name ~ '\S' AND length(key_name) <= 200),
    spend_limit numeric CHECK (spend_limit > 0 AND spend_limit < 1e9),
    limit_reset text CHECK (limit_reset IN ('daily', 'weekly', 'monthly')),
    include_byok boolean,
    description text CHECK (provisioner.utf16_length(description) <= 255),
    on_conflict text NOT NULL DEFAULT 'fail' CHECK (on_conflict IN ('fail', 'adopt')),
    priority smallint NOT NULL DEFAULT 0 CHECK (priority > -32768),
    batch text CHECK (length(batch) BETWEEN 1 AND 200),
    project_name text CHECK (length(project_name) BETWEEN 1 AND 200 AND project_name !~ '[\u0001-\u001F\u007F-\u009F]'),
    wanted text NOT NULL DEFAULT 'present' CHECK (wanted IN ('present', 'absent')),
    with_secrets boolean NOT NULL DEFAULT false,
    revoke_keys boolean NOT NULL DEFAULT false,
    not_before timestamptz CHECK (isfinite(not_before)),
    requested_by text NOT NULL DEFAULT current_user,
    created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'succeeded', 'failed', 'cancelled', 'removed')),
    rotation_id uuid,
    connection_id uuid,
    key_issued text,
    adopted boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0,
    left_behind text,
    error_code text,
    error_message text,
    finished_at timestamptz,
    CONSTRAINT rotation_requests_wanted_once UNIQUE (target, project_id, environment, secret_path, name)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 50000
);

CREATE INDEX rotation_requests_batch ON provisioner.rotation_requests (batch) WHERE batch IS NOT NULL;

-- Few rotations have left a key behind, and everybody who looks at the status asks for them.
CREATE INDEX rotation_requests_left_behind ON provisioner.rotation_requests (id) WHERE left_behind IS NOT NULL;

COMMENT ON TABLE provisioner.rotation_requests IS 'One row is one secret rotation that somebody wants: a key of its own for a project';
COMMENT ON COLUMN provisioner.rotation_requests.connection IS 'The connection with the management key, by its name in the same project';
COMMENT ON COLUMN provisioner.rotation_requests.key_name IS 'The key''s name at OpenRouter; {project_name}, {project_id} and {environment} are filled in';
COMMENT ON COLUMN provisioner.rotation_requests.with_secrets IS 'Whether removing it deletes its secret, too';
COMMENT ON COLUMN provisioner.rotation_requests.revoke_keys IS 'Whether removing it revokes its keys at OpenRouter, too';
COMMENT ON COLUMN provisioner.rotation_requests.key_issued IS 'The name under which OpenRouter lists the key';
COMMENT ON COLUMN provisioner.rotation_requests.left_behind IS 'Which other keys may have been left behind at OpenRouter, and what to do';

-- What both kinds have in common, with the line that each request stands in.
CREATE VIEW provisioner.requests AS
SELECT
    q.id, q.target, q.batch, q.requested_by, q.status, q.error_code, q.created_at, q.finished_at, q.attempts, q.project_id,
    q.project_name, q.error_message
FROM provisioner.connection_requests AS q
UNION ALL
SELECT
    r.id, r.target || '/rotations', r.batch, r.requested_by, r.status, r.error_code, r.created_at, r.finished_at,
    r.attempts, r.project_id, r.project_name, r.error_message
FROM provisioner.rotation_requests AS r;

COMMENT ON VIEW provisioner.requests IS 'All requests of every kind, in brief; a rotation''s target is that of its line';

-- Give the pending ones of these rotations a place, unless they have one: until its connection is there a rotation waits for ever,
-- in no scan of what is due. Those whose connection failed for good fail with it.
CREATE FUNCTION provisioner.place_rotations(ids bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    placed integer;
BEGIN
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
    SELECT
        r.id,
        CASE WHEN c.status = 'succeeded' OR r.wanted = 'absent' THEN greatest(r.not_before, now()) ELSE 'infinity' END,
        r.target || '/rotations', -r.priority, r.project_id,
        CASE WHEN c.status IS DISTINCT FROM 'succeeded' AND r.wanted = 'present' THEN 'connection' END
    FROM provisioner.rotation_requests AS r
    LEFT JOIN provisioner.connection_requests AS c
        ON c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection
    WHERE
        r.id = ANY (place_rotations.ids) AND r.status = 'pending'
        AND NOT EXISTS (SELECT FROM provisioner.ready AS l WHERE l.id = r.id)
        AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = r.id)
    ON CONFLICT (id) DO NOTHING;
    GET DIAGNOSTICS placed = ROW_COUNT;
    PERFORM provisioner.follow_connections(place_rotations.ids);
    RETURN placed;
END
$$;

-- Let those of these rotations that wait for their connection go its way.
CREATE FUNCTION provisioner.follow_connections(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.waiting AS w
    SET run_at = greatest(r.not_before, now()), quarantine = NULL
    FROM provisioner.rotation_requests AS r
    JOIN provisioner.connection_requests AS c
        ON c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection
    WHERE
        w.id = ANY (follow_connections.ids) AND w.quarantine = 'connection' AND r.id = w.id AND r.id = ANY (follow_connections.ids)
        AND c.status = 'succeeded';
    WITH failed AS (
        SELECT
            r.id,
            'its connection ' || quote_literal(r.connection) || ' (request ' || c.id || ') '
            || CASE c.status WHEN 'failed' THEN 'failed with ' || coalesce(c.error_code, 'an error') ELSE 'is ' || c.status END
            || '; once that is fixed and retried, this rotation goes on by itself' AS reason
        FROM provisioner.rotation_requests AS r
        JOIN provisioner.connection_requests AS c
            ON c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection
        WHERE
            r.id = ANY (follow_connections.ids) AND r.status = 'pending' AND r.wanted = 'present'
            AND c.status NOT IN ('pending', 'succeeded')
    ),
    unplaced AS (
        DELETE FROM provisioner.waiting AS w USING failed AS f
        WHERE w.id = f.id AND w.quarantine = 'connection'
        RETURNING w.id
    )
    UPDATE provisioner.rotation_requests AS r
    SET status = 'failed', error_code = 'connection_failed', error_message = f.reason, finished_at = clock_timestamp()
    FROM failed AS f
    WHERE r.id = f.id AND r.id IN (SELECT u.id FROM unplaced AS u);
    -- Heard as: look at everything.
    PERFORM pg_notify('provisioner', '');
END
$$;

CREATE FUNCTION provisioner.rotations_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM provisioner.place_rotations(ARRAY (SELECT n.id FROM new_rows AS n WHERE n.status = 'pending'));
    RETURN NULL;
END
$$;

CREATE TRIGGER rotations_inserted AFTER INSERT ON provisioner.rotation_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_inserted();

-- Whatever changes a connection's status, by whomever: the rotations that wait for it hear of it, and those that failed with it are
-- pending again as soon as it is. Costs a statement nothing while there are no rotations.
CREATE FUNCTION provisioner.connections_followed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM provisioner.rotation_requests) THEN
        RETURN NULL;
    END IF;
    WITH changed AS (
        SELECT n.target, n.project_id, n.name, n.status
        FROM new_rows AS n
        JOIN old_rows AS o ON o.id = n.id
        WHERE n.status IS DISTINCT FROM o.status
    ),
    concerned AS (
        SELECT r.id, r.status, c.status AS now_is
        FROM changed AS c
        JOIN provisioner.rotation_requests AS r
            ON r.target = c.target AND r.project_id = c.project_id AND r.connection = c.name
        WHERE r.status = 'pending' OR (r.status = 'failed' AND r.error_code = 'connection_failed')
    ),
    revived AS (
        UPDATE provisioner.rotation_requests AS r
        SET status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL
        FROM concerned AS c
        WHERE r.id = c.id AND c.status = 'failed' AND c.now_is IN ('pending', 'succeeded')
    )
    SELECT array_agg(c.id) INTO ids FROM concerned AS c;
    IF ids IS NOT NULL THEN
        PERFORM provisioner.follow_connections(ids);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER connections_followed AFTER UPDATE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_followed();

-- A connection that is asked for after its rotation, and that has ended already: a row that somebody writes so.
CREATE FUNCTION provisioner.connections_joined() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM provisioner.rotation_requests) THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(r.id) INTO ids
    FROM new_rows AS n
    JOIN provisioner.rotation_requests AS r
        ON r.target = n.target AND r.project_id = n.project_id AND r.connection = n.name AND r.status = 'pending'
    WHERE n.status <> 'pending';
    IF ids IS NOT NULL THEN
        PERFORM provisioner.follow_connections(ids);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER connections_joined AFTER INSERT ON provisioner.connection_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_joined();

-- What is sent cannot be edited once something may have been made of it; what it waits for and where it stands follow the edit.
CREATE FUNCTION provisioner.rotation_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sent boolean := (
        old.target, old.project_id, old.name, old.connection, old.environment, old.secret_path, old.secret_name, old.interval_days,
        old.rotate_at, old.key_name, old.spend_limit, old.limit_reset, old.include_byok, old.description
    ) IS DISTINCT FROM (
        new.target, new.project_id, new.name, new.connection, new.environment, new.secret_path, new.secret_name, new.interval_days,
        new.rotate_at, new.key_name, new.spend_limit, new.limit_reset, new.include_byok, new.description
    );
BEGIN
    IF old.id <> new.id THEN
        RAISE EXCEPTION 'request % keeps its id: id cannot be changed', old.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request.';
    END IF;
    IF sent AND new.rotation_id IS NOT NULL THEN
        RAISE EXCEPTION 'request % has its rotation, and what was asked for cannot be changed any more', new.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Change the rotation in Infisical, or insert another request.';
    END IF;
    IF sent AND EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id) THEN
        RAISE EXCEPTION 'request %: an earlier create may have made its rotation, so what was asked for cannot be changed now', new.id
        USING ERRCODE = 'object_in_use', HINT = 'Retry it, so that the rotation is looked up, or cancel it; edit it when it has ended.';
    END IF;
    IF new.status = 'pending' AND old.status = 'pending' THEN
        DELETE FROM provisioner.waiting AS w WHERE w.id = new.id;
        DELETE FROM provisioner.ready AS l WHERE l.id = new.id;
        IF EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = new.id) THEN
            RAISE EXCEPTION 'request % is in flight and cannot be changed now', new.id
            USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
        END IF;
        PERFORM provisioner.place_rotations(ARRAY [new.id]);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_edited
AFTER UPDATE OF
id, target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at, key_name, spend_limit,
limit_reset, include_byok, description, priority, not_before
ON provisioner.rotation_requests
FOR EACH ROW EXECUTE FUNCTION provisioner.rotation_edited();

-- A rotation that somebody sets to pending is to be tried again: it gets a place, unless it has one.
CREATE FUNCTION provisioner.rotation_status_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM provisioner.place_rotations(ARRAY [new.id]);
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_status_edited AFTER UPDATE OF status ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.status = 'pending' AND old.status <> 'pending')
EXECUTE FUNCTION provisioner.rotation_status_edited();

-- Another wish. What is not wanted and certainly never was made has ended at once; everything else is the workers' to do, and does
-- not wait for its connection. What is in flight is put back in line when its attempt has ended.
CREATE FUNCTION provisioner.rotation_wished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new.wanted = 'present' AND new.status = 'cancelled' THEN
        RETURN NULL;  -- what was cancelled stays that, until somebody retries it
    END IF;
    DELETE FROM provisioner.waiting AS w WHERE w.id = new.id;
    DELETE FROM provisioner.ready AS l WHERE l.id = new.id;
    IF EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = new.id) THEN
        RETURN NULL;
    END IF;
    IF
        new.wanted = 'absent' AND new.rotation_id IS NULL
        AND NOT EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id)
    THEN
        UPDATE provisioner.rotation_requests AS r
        SET status = 'removed', error_code = NULL, error_message = NULL, finished_at = clock_timestamp()
        WHERE r.id = new.id;
    ELSIF new.status = 'pending' THEN
        PERFORM provisioner.place_rotations(ARRAY [new.id]);
    ELSE
        UPDATE provisioner.rotation_requests AS r
        SET status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL
        WHERE r.id = new.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_wished AFTER UPDATE OF wanted ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.wanted IS DISTINCT FROM old.wanted)
EXECUTE FUNCTION provisioner.rotation_wished();

-- A connection that is not wanted any more is removed after the rotations of ours that use it: Infisical does not delete what is in use.
-- It waits for them, in no scan of what is due.
CREATE FUNCTION provisioner.rotations_first() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.rotation_requests AS r SET wanted = 'absent'
    WHERE
        r.target = new.target AND r.project_id = new.project_id AND r.connection = new.name AND r.wanted = 'present'
        AND NOT r.adopted;
    IF EXISTS (
        SELECT FROM provisioner.rotation_requests AS r
        WHERE
            r.target = new.target AND r.project_id = new.project_id AND r.connection = new.name AND r.wanted = 'absent'
            AND r.status = 'pending'
    ) THEN
        UPDATE provisioner.waiting AS w SET run_at = 'infinity', quarantine = 'rotations' WHERE w.id = new.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotations_first AFTER UPDATE OF wanted ON provisioner.connection_requests
FOR EACH ROW WHEN (new.wanted = 'absent' AND old.wanted IS DISTINCT FROM 'absent')
EXECUTE FUNCTION provisioner.rotations_first();

-- The last of the rotations that a connection's removal waits for has ended, well or not.
CREATE FUNCTION provisioner.rotation_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL
    FROM provisioner.connection_requests AS q
    WHERE
        q.target = new.target AND q.project_id = new.project_id AND q.name = new.connection AND w.id = q.id
        AND w.quarantine = 'rotations'
        AND NOT EXISTS (
            SELECT FROM provisioner.rotation_requests AS r
            WHERE
                r.target = new.target AND r.project_id = new.project_id AND r.connection = new.connection
                AND r.wanted = 'absent' AND r.status = 'pending'
        );
    IF FOUND THEN
        PERFORM pg_notify('provisioner', '');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_ended AFTER UPDATE OF status ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.wanted = 'absent' AND new.status <> 'pending' AND old.status = 'pending')
EXECUTE FUNCTION provisioner.rotation_ended();

CREATE TRIGGER rotations_deleted AFTER DELETE ON provisioner.rotation_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE FUNCTION provisioner.rotations_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM provisioner.ready AS l WHERE l.id > 1000000000000;
    DELETE FROM provisioner.waiting AS w WHERE w.id > 1000000000000;
    DELETE FROM provisioner.in_flight AS f WHERE f.id > 1000000000000;
    DELETE FROM provisioner.unrecorded AS u WHERE u.id > 1000000000000;
    DELETE FROM provisioner.attempt_state AS s WHERE s.id > 1000000000000;
    DELETE FROM provisioner.counts AS k WHERE k.target LIKE '%/rotations';
    DELETE FROM provisioner.count_changes AS k WHERE k.target LIKE '%/rotations';
    RETURN NULL;
END
$$;

CREATE TRIGGER rotations_truncated AFTER TRUNCATE ON provisioner.rotation_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_truncated();

-- The counts of rotations, under the target of their line.
CREATE FUNCTION provisioner.rotations_counted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        INSERT INTO provisioner.count_changes
        SELECT
            o.target || '/rotations', coalesce(o.batch, ''), o.requested_by, o.status, coalesce(o.error_code, ''), -count(*)
        FROM old_rows AS o
        GROUP BY o.target, o.batch, o.requested_by, o.status, o.error_code;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO provisioner.count_changes
        SELECT
            n.target || '/rotations', coalesce(n.batch, ''), n.requested_by, n.status, coalesce(n.error_code, ''), count(*),
            min(n.created_at), max(n.finished_at), max(n.id)
        FROM new_rows AS n
        GROUP BY n.target, n.batch, n.requested_by, n.status, n.error_code;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotations_counted_in AFTER INSERT ON provisioner.rotation_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_counted();

CREATE TRIGGER rotations_counted_again AFTER UPDATE ON provisioner.rotation_requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_counted();

CREATE TRIGGER rotations_counted_out AFTER DELETE ON provisioner.rotation_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_counted();

-- Call rotations off, as `cancel` does with connections.
CREATE FUNCTION provisioner.cancel_rotations(ids bigint[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    ending bigint[];
    found_ids bigint[];
    doubted bigint[];
BEGIN
    -- In the order of others: who is in flight before its request, its request before its place in line.
    WITH marked AS (
        UPDATE provisioner.in_flight AS f SET cancelled = true
        FROM (
            SELECT g.id FROM provisioner.in_flight AS g
            WHERE g.id = ANY (cancel_rotations.ids) AND g.id > 1000000000000 ORDER BY g.id FOR UPDATE
        ) AS held
        WHERE f.id = held.id
        RETURNING f.id
    )
    SELECT coalesce(array_agg(m.id), '{}') INTO ending FROM marked AS m;
    PERFORM 1 FROM provisioner.rotation_requests AS r WHERE r.id = ANY (cancel_rotations.ids) ORDER BY r.id FOR UPDATE;
    WITH unlined AS (
        DELETE FROM provisioner.ready AS l WHERE l.id = ANY (cancel_rotations.ids) AND l.id > 1000000000000
        RETURNING l.id, l.target, l.rank, l.project_id
    ),
    unscheduled AS (
        DELETE FROM provisioner.waiting AS w WHERE w.id = ANY (cancel_rotations.ids) AND w.id > 1000000000000
        RETURNING w.id, w.target, w.rank, w.project_id
    ),
    placed AS (
        SELECT u.*, EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = u.id) AS doubted
        FROM (SELECT * FROM unlined UNION ALL SELECT * FROM unscheduled) AS u
    )
    SELECT coalesce(array_agg(p.id), '{}'), coalesce(array_agg(p.id) FILTER (WHERE p.doubted), '{}')
    INTO found_ids, doubted
    FROM placed AS p;
    -- Who has an attempt in doubt is looked up once more, when a late commit would show.
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT r.id, now() + interval '45 seconds', r.target || '/rotations', -r.priority, r.project_id
    FROM provisioner.rotation_requests AS r
    WHERE r.id = ANY (doubted);
    UPDATE provisioner.attempt_state AS s SET cancelled = true WHERE s.id = ANY (doubted);
    UPDATE provisioner.rotation_requests AS r SET status = 'cancelled', finished_at = clock_timestamp()
    WHERE r.id = ANY (found_ids) AND r.id <> ALL (doubted) AND r.status = 'pending';
    RETURN QUERY
    WITH put_aside AS (
        UPDATE provisioner.rotation_requests AS r SET status = 'cancelled'
        WHERE r.id = ANY (cancel_rotations.ids) AND r.status = 'failed'
        RETURNING r.id
    )
    SELECT f, CASE WHEN f = ANY (doubted) OR f = ANY (ending) THEN 'ending' ELSE 'cancelled' END
    FROM unnest(found_ids || ending) AS f
    UNION ALL
    SELECT p.id, 'put aside' FROM put_aside AS p;
END
$$;

-- Try rotations again, as `retry` does with connections.
CREATE FUNCTION provisioner.retry_rotations(ids bigint[]) RETURNS TABLE (id bigint, was text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    UPDATE provisioner.attempt_state AS s
    SET failures = 0, streak = 0, streak_of = NULL, cancelled = false
    FROM provisioner.rotation_requests AS r
    WHERE s.id = r.id AND r.id = ANY (retry_rotations.ids) AND r.status IN ('failed', 'cancelled', 'removed');
    RETURN QUERY
    WITH reopened AS (
        UPDATE provisioner.rotation_requests AS r
        SET
            status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL,
            wanted = CASE before.status WHEN 'removed' THEN 'present' ELSE r.wanted END
        FROM (
            SELECT q.id, q.status FROM provisioner.rotation_requests AS q
            WHERE q.id = ANY (retry_rotations.ids) AND q.status IN ('failed', 'cancelled', 'removed')
            FOR UPDATE
        ) AS before
        WHERE r.id = before.id
        RETURNING r.id, before.status AS was
    ),
    hurried AS (
        UPDATE provisioner.waiting AS w SET run_at = now()
        WHERE
            w.id = ANY (retry_rotations.ids) AND w.id > 1000000000000 AND w.run_at > now() AND w.quarantine IS NULL
            AND EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id AND NOT s.cancelled)
        RETURNING w.id, 'waiting' AS was
    )
    SELECT r.id, r.was FROM reopened AS r UNION ALL SELECT h.id, h.was FROM hurried AS h;
END
$$;

-- Have rotations removed, as `remove` does with connections. What becomes of secrets and keys is what their rows say.
CREATE FUNCTION provisioner.remove_rotations(ids bigint[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found_ids bigint[];
BEGIN
    SELECT array_agg(q.id) INTO found_ids
    FROM (
        SELECT r.id FROM provisioner.rotation_requests AS r
        WHERE r.id = ANY (remove_rotations.ids) AND (r.wanted = 'present' OR r.status IN ('failed', 'cancelled'))
        ORDER BY r.id
        FOR UPDATE
    ) AS q;
    UPDATE provisioner.rotation_requests AS r
    SET wanted = 'absent', status = CASE r.wanted WHEN 'absent' THEN 'pending' ELSE r.status END
    WHERE r.id = ANY (found_ids);
    RETURN QUERY
    SELECT
        r.id, CASE WHEN r.status = 'removed' THEN 'removed' WHEN r.adopted THEN 'let go' ELSE 'removing' END
    FROM provisioner.rotation_requests AS r
    WHERE r.id = ANY (found_ids)
    ORDER BY r.id;
END
$$;

-- Somebody has deleted the keys at OpenRouter that these rotations left behind, so nobody needs to look for them any more.
CREATE FUNCTION provisioner.keys_deleted(ids bigint[]) RETURNS TABLE (id bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE provisioner.rotation_requests AS r SET left_behind = NULL
    WHERE r.id = ANY (keys_deleted.ids) AND r.left_behind IS NOT NULL
    RETURNING r.id
$$;

COMMENT ON FUNCTION provisioner.keys_deleted(bigint[]) IS 'Note that the keys which rotations left behind are deleted at OpenRouter';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
