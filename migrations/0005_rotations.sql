-- The second kind of request: a secret rotation, which makes an ordinary API key with a connection's management key and
-- writes it into a secret. It shares the queue, leases, evidence and attempts of connections: the ids tell the kinds
-- apart, and its line is `target/rotations`, which acts as a target with its own budgets and incidents.

-- No column is secret, so the rules are plain constraints. Its ids begin where those of connections never get.
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
    rotate_at time NOT NULL DEFAULT '00:00' CHECK (rotate_at < '24:00'),
    key_name text NOT NULL DEFAULT '{project_name} {environment}' CHECK (key_name ~ '\S' AND length(key_name) <= 200),
    spend_limit numeric CHECK (spend_limit >= 0.000001 AND spend_limit < 1e9),
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
    not_before timestamptz CHECK (not_before >= '0001-01-02 00:00:00+00' AND not_before < '9999-01-01 00:00:00+00'),
    requested_by text NOT NULL DEFAULT current_user CHECK (length(requested_by) <= 200),
    created_at timestamptz NOT NULL DEFAULT now()
        CHECK (created_at >= '0001-01-02 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00'),
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

-- Few rotations have left a key behind, and every status asks for them.
CREATE INDEX rotation_requests_left_behind ON provisioner.rotation_requests (id) WHERE left_behind IS NOT NULL;

COMMENT ON TABLE provisioner.rotation_requests IS 'Each row requests one secret rotation: a key of its own for a project';
COMMENT ON COLUMN provisioner.rotation_requests.connection IS 'The name of the connection with the management key, in the same project';
COMMENT ON COLUMN provisioner.rotation_requests.key_name IS 'The key''s name at OpenRouter, in which {project_name}, {project_id} and {environment} are replaced';
COMMENT ON COLUMN provisioner.rotation_requests.with_secrets IS 'Whether removing it also deletes its secret';
COMMENT ON COLUMN provisioner.rotation_requests.revoke_keys IS 'Whether removing it also revokes its keys at OpenRouter';
COMMENT ON COLUMN provisioner.rotation_requests.key_issued IS 'The name under which OpenRouter lists the key';
COMMENT ON COLUMN provisioner.rotation_requests.left_behind IS 'Which other keys stay or may stay at OpenRouter, and what to do; set it to NULL when that is done';

-- Combine descriptions of what was left behind at OpenRouter, without repetition. Written so that it is inlined.
CREATE FUNCTION provisioner.also_left(before text, more text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN position(more IN before) > 0 THEN before ELSE nullif(concat_ws('; ', before, more), '') END
$$;

-- The common columns of both kinds, with each request's line.
CREATE VIEW provisioner.requests AS
SELECT
    q.id, q.target, q.batch, q.requested_by, q.status, q.error_code, q.created_at, q.finished_at, q.attempts,
    q.wanted, q.connection_id AS recorded_id, provisioner.counted_as(q.status, q.wanted, q.connection_id) AS counted_as,
    q.project_id, q.project_name, q.error_message
FROM provisioner.connection_requests AS q
UNION ALL
SELECT
    r.id, r.target || '/rotations', r.batch, r.requested_by, r.status, r.error_code, r.created_at, r.finished_at,
    r.attempts, r.wanted, r.rotation_id, provisioner.counted_as(r.status, r.wanted, r.rotation_id), r.project_id,
    r.project_name, r.error_message
FROM provisioner.rotation_requests AS r;

COMMENT ON VIEW provisioner.requests IS 'All requests of every kind, in brief; a rotation''s target is that of its line';

-- Give pending rotations without a place one. A rotation waits without a time limit for its connection, and no scan for
-- due requests finds it. If the connection failed for good, the rotation fails with it. A recorded rotation needs no
-- connection.
CREATE FUNCTION provisioner.place_rotations(ids bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    placed integer;
BEGIN
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
    SELECT
        r.id, CASE WHEN n.connection THEN 'infinity' ELSE greatest(r.not_before, now()) END,
        r.target || '/rotations', -r.priority, r.project_id, CASE WHEN n.connection THEN 'connection' END
    FROM provisioner.rotation_requests AS r
    LEFT JOIN provisioner.connection_requests AS c
        ON c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection
    CROSS JOIN LATERAL (
        SELECT c.status IS DISTINCT FROM 'succeeded' AND r.wanted = 'present' AND r.rotation_id IS NULL AS connection
    ) AS n
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

-- Update these rotations after a change of the connection they wait for.
CREATE FUNCTION provisioner.follow_connections(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
BEGIN
    IF coalesce(cardinality(follow_connections.ids), 0) = 0 THEN
        RETURN;  -- nothing is woken needlessly: a sweep calls this every few seconds
    END IF;
    PERFORM set_config('provisioner.recording', 'on', true);
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
            || '; once that is fixed and retried, this rotation continues automatically' AS reason
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
    PERFORM set_config('provisioner.recording', before, true);
    -- An empty payload means: poll everything.
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

-- When a connection's status changes, update the rotations that wait for it; those that failed with it become pending
-- again with it. When it gets another name, its rotations name it so. This costs a statement nothing while there are no
-- rotations.
CREATE FUNCTION provisioner.connections_followed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    ids bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM provisioner.rotation_requests) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id WHERE o.name <> n.name) THEN
        PERFORM set_config('provisioner.renaming', 'on', true);
        UPDATE provisioner.rotation_requests AS r
        SET connection = n.name
        FROM new_rows AS n
        JOIN old_rows AS o ON o.id = n.id
        WHERE o.name <> n.name AND r.target = o.target AND r.project_id = o.project_id AND r.connection = o.name;
        PERFORM set_config('provisioner.renaming', '', true);
    END IF;
    WITH changed AS (
        SELECT n.target, n.project_id, n.name, n.status
        FROM new_rows AS n
        JOIN old_rows AS o ON o.id = n.id
        WHERE n.status IS DISTINCT FROM o.status OR n.name IS DISTINCT FROM o.name
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
        WHERE
            r.id = c.id AND c.status = 'failed' AND c.now_is IN ('pending', 'succeeded')
            AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    )
    SELECT array_agg(c.id) INTO ids FROM concerned AS c;
    PERFORM set_config('provisioner.recording', before, true);
    IF ids IS NOT NULL THEN
        PERFORM provisioner.follow_connections(ids);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER connections_followed AFTER UPDATE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_followed();

-- Handle a connection that is inserted after its rotation with a final status, as somebody may write it.
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

-- Put a rotation in line anew, whatever its status and place; whether no worker has it. A lost update or create may
-- still be carried out, and what is done now must come after it.
CREATE FUNCTION provisioner.reopen_rotation(r provisioner.rotation_requests) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    lately timestamptz;
BEGIN
    -- It may change places between two statements, so this is repeated.
    FOR round IN 1..20 LOOP
        DELETE FROM provisioner.waiting AS w WHERE w.id = r.id;
        EXIT WHEN FOUND;
        DELETE FROM provisioner.ready AS l WHERE l.id = r.id;
        EXIT WHEN FOUND OR r.status <> 'pending';
        IF EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = r.id) THEN
            RETURN false;
        END IF;
    END LOOP;
    PERFORM set_config('provisioner.recording', 'on', true);
    SELECT s.updated_at INTO lately FROM provisioner.attempt_state AS s WHERE s.id = r.id;
    IF r.status = 'pending' THEN
        PERFORM provisioner.place_rotations(ARRAY [r.id]);
    ELSE
        UPDATE provisioner.rotation_requests AS q SET status = 'pending' WHERE q.id = r.id;
    END IF;
    UPDATE provisioner.waiting AS w SET run_at = greatest(w.run_at, lately + provisioner.time_to_show())
    WHERE w.id = r.id AND isfinite(w.run_at) AND lately IS NOT NULL;
    PERFORM set_config('provisioner.recording', before, true);
    RETURN true;
END
$$;

-- Handle an edit of a rotation. What Infisical accepts in a PATCH is noted after the rotation is recorded, and sent;
-- what it was made with stays. Nothing can be edited while a create is in flight or in doubt, because its result would
-- be recorded with the wrong values.
CREATE FUNCTION provisioner.rotation_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := ARRAY (
        SELECT n.key FROM jsonb_each(to_jsonb(new)) AS n
        JOIN jsonb_each(to_jsonb(old)) AS o ON o.key = n.key
        WHERE n.value <> o.value
        ORDER BY n.key
    );
    patched text[] := ARRAY (
        SELECT c FROM unnest(changed) AS c
        WHERE c IN ('name', 'description', 'secret_name', 'interval_days', 'rotate_at', 'spend_limit', 'limit_reset', 'include_byok')
    );
    fixed text[] := ARRAY (
        SELECT c FROM unnest(changed) AS c
        WHERE c IN ('target', 'project_id', 'connection', 'environment', 'secret_path', 'key_name')
    );
    -- The name of a key that may have been left behind is reported as it was sent.
    naming text[] := ARRAY (
        SELECT c FROM unnest(changed) AS c WHERE c = 'project_name' AND new.key_name LIKE '%{project_name}%'
    );
    recorded boolean := new.rotation_id IS NOT NULL;
BEGIN
    IF old.id <> new.id THEN
        RAISE EXCEPTION 'request % keeps its id: id cannot be changed', old.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request.';
    END IF;
    IF current_setting('provisioner.renaming', true) = 'on' THEN
        RETURN NULL;  -- its connection has another name now, and is the same
    END IF;
    IF recorded AND fixed <> '{}' THEN
        RAISE EXCEPTION 'request % has its rotation, which was made with its %: that cannot be changed any more', new.id,
            array_to_string(fixed, ', ')
        USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Insert another request, and set wanted = ''absent'' in this one if its rotation is not needed any more.';
    END IF;
    IF recorded AND new.adopted AND patched <> '{}' THEN
        RAISE EXCEPTION 'request % has adopted somebody else''s rotation, which is left as it is: its % cannot be changed', new.id,
            array_to_string(patched, ', ')
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Change the rotation in Infisical.';
    END IF;
    IF
        NOT recorded AND patched || fixed || naming <> '{}'
        AND EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id)
    THEN
        RAISE EXCEPTION 'request %: an earlier create may have made its rotation, so its % cannot be changed now', new.id,
            array_to_string(patched || fixed || naming, ', ')
        USING ERRCODE = 'object_in_use', HINT = 'Retry it, so that the rotation is looked up, or cancel it; edit it when it has ended.';
    END IF;
    IF recorded AND patched <> '{}' THEN
        INSERT INTO provisioner.edits AS e (id, name, description, others)
        VALUES (
            new.id, 'name' = ANY (patched), 'description' = ANY (patched),
            array_remove(array_remove(patched, 'name'), 'description')
        )
        ON CONFLICT (id) DO UPDATE SET
            name = e.name OR excluded.name, description = e.description OR excluded.description,
            others = e.others || excluded.others;
    ELSIF new.status <> 'pending' OR old.status <> 'pending' OR changed <@ '{project_name}' AND naming = '{}' THEN
        RETURN NULL;
    END IF;
    IF NOT provisioner.reopen_rotation(new) THEN
        RAISE EXCEPTION 'request % is in flight: its % cannot be changed now', new.id, array_to_string(changed, ', ')
        USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_edited
AFTER UPDATE OF
id, target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at, key_name, spend_limit,
limit_reset, include_byok, description, priority, not_before, project_name
ON provisioner.rotation_requests
FOR EACH ROW EXECUTE FUNCTION provisioner.rotation_edited();

-- A rotation that somebody sets to pending is retried, and made again if it was removed: it gets a place, unless it has
-- one.
CREATE FUNCTION provisioner.rotation_status_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
BEGIN
    PERFORM set_config('provisioner.recording', 'on', true);
    IF new.finished_at IS NOT NULL OR new.error_code IS NOT NULL OR (old.status = 'removed' AND new.wanted = 'absent') THEN
        UPDATE provisioner.rotation_requests AS r
        SET
            error_code = NULL, error_message = NULL, finished_at = NULL,
            wanted = CASE WHEN old.status = 'removed' THEN 'present' ELSE r.wanted END
        WHERE r.id = new.id;
    END IF;
    UPDATE provisioner.attempt_state AS s
    SET failures = 0, streak = 0, streak_of = NULL, cancelled = false, error_code = NULL, error_message = NULL, updated_at = now()
    WHERE s.id = new.id;
    PERFORM provisioner.place_rotations(ARRAY [new.id]);
    PERFORM set_config('provisioner.recording', before, true);
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_status_edited AFTER UPDATE OF status ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.status = 'pending' AND old.status <> 'pending')
EXECUTE FUNCTION provisioner.rotation_status_edited();

-- As for connections, only workers may write what they record. People may note that a key that was left behind is
-- deleted.
CREATE FUNCTION provisioner.refuse_recorded_of_rotations() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'request %: status, rotation_id, connection_id, key_issued, adopted, attempts, error_code, error_message and'
        ' finished_at are what workers record, and cannot be changed', old.id
    USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Set status to pending to retry it, or use provisioner.cancel, provisioner.retry and provisioner.remove.';
END
$$;

CREATE TRIGGER refuse_recorded_of_rotations
AFTER UPDATE OF
status, rotation_id, connection_id, key_issued, adopted, attempts, left_behind, error_code, error_message, finished_at
ON provisioner.rotation_requests
FOR EACH ROW
WHEN (
    current_setting('provisioner.recording', true) IS DISTINCT FROM 'on'
    AND (
        (new.status <> old.status AND new.status <> 'pending')
        OR (new.rotation_id, new.connection_id, new.key_issued, new.adopted, new.attempts)
        IS DISTINCT FROM (old.rotation_id, old.connection_id, old.key_issued, old.adopted, old.attempts)
        OR (new.left_behind IS NOT NULL AND new.left_behind IS DISTINCT FROM old.left_behind)
        OR (
            new.status = old.status
            AND (new.error_code, new.error_message, new.finished_at)
            IS DISTINCT FROM (old.error_code, old.error_message, old.finished_at)
        )
    )
)
EXECUTE FUNCTION provisioner.refuse_recorded_of_rotations();

-- Handle an edit of `wanted`. What is not wanted and was certainly never made ends at once; everything else is work for
-- a worker, and does not wait for the connection. A rotation in flight is put back in line when its attempt has ended.
CREATE FUNCTION provisioner.rotation_wished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
BEGIN
    IF new.wanted = 'present' AND new.status = 'cancelled' THEN
        RETURN NULL;  -- a cancelled request stays cancelled until somebody retries it
    END IF;
    IF EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = new.id) THEN
        RETURN NULL;
    END IF;
    IF
        new.wanted = 'absent' AND new.rotation_id IS NULL
        AND NOT EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id)
    THEN
        DELETE FROM provisioner.waiting AS w WHERE w.id = new.id;
        DELETE FROM provisioner.ready AS l WHERE l.id = new.id;
        PERFORM set_config('provisioner.recording', 'on', true);
        UPDATE provisioner.rotation_requests AS r
        SET status = 'removed', error_code = NULL, error_message = NULL, finished_at = clock_timestamp()
        WHERE r.id = new.id;
        DELETE FROM provisioner.attempt_state AS s WHERE s.id = new.id;
        PERFORM set_config('provisioner.recording', before, true);
    ELSE
        PERFORM provisioner.reopen_rotation(new);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_wished AFTER UPDATE OF wanted ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.wanted IS DISTINCT FROM old.wanted)
EXECUTE FUNCTION provisioner.rotation_wished();

-- Remove the rotations that use a connection which is no longer wanted: Infisical does not delete what is in use. The
-- connection waits for them, and no scan for due requests finds it. Adopted rotations stay, unless their removal was
-- requested.
CREATE FUNCTION provisioner.remove_rotations_of(c provisioner.connection_requests, adopted boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    users bigint[] := ARRAY (
        SELECT r.id FROM provisioner.rotation_requests AS r
        WHERE
            r.target = c.target AND r.project_id = c.project_id AND r.connection = c.name
            AND (NOT r.adopted OR remove_rotations_of.adopted)
        ORDER BY r.id
    );
BEGIN
    PERFORM provisioner.remove(users, remove_rotations_of.adopted);
    IF EXISTS (
        SELECT FROM provisioner.rotation_requests AS r WHERE r.id = ANY (users) AND r.wanted = 'absent' AND r.status = 'pending'
    ) THEN
        UPDATE provisioner.waiting AS w SET run_at = 'infinity', quarantine = 'rotations' WHERE w.id = c.id;
    END IF;
END
$$;

CREATE FUNCTION provisioner.rotations_first() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM provisioner.remove_rotations_of(new, false);
    RETURN NULL;
END
$$;

CREATE TRIGGER rotations_first AFTER UPDATE OF wanted ON provisioner.connection_requests
FOR EACH ROW WHEN (new.wanted = 'absent' AND old.wanted IS DISTINCT FROM 'absent')
EXECUTE FUNCTION provisioner.rotations_first();

-- The last rotation that a connection's removal waits for has ended, or is wanted again.
CREATE FUNCTION provisioner.rotation_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL
    FROM provisioner.connection_requests AS q
    WHERE
        q.target = old.target AND q.project_id = old.project_id AND q.name = old.connection AND w.id = q.id
        AND w.quarantine = 'rotations'
        AND NOT EXISTS (
            SELECT FROM provisioner.rotation_requests AS r
            WHERE
                r.target = old.target AND r.project_id = old.project_id AND r.connection = old.connection
                AND r.wanted = 'absent' AND r.status = 'pending'
        );
    IF FOUND THEN
        PERFORM pg_notify('provisioner', '');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER rotation_ended AFTER UPDATE OF status, wanted ON provisioner.rotation_requests
FOR EACH ROW
WHEN (old.wanted = 'absent' AND old.status = 'pending' AND (new.wanted <> 'absent' OR new.status <> 'pending'))
EXECUTE FUNCTION provisioner.rotation_ended();

CREATE TRIGGER rotation_deleted AFTER DELETE ON provisioner.rotation_requests
FOR EACH ROW WHEN (old.wanted = 'absent' AND old.status = 'pending')
EXECUTE FUNCTION provisioner.rotation_ended();

CREATE TRIGGER rotations_deleted AFTER DELETE ON provisioner.rotation_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE TRIGGER rotations_truncated AFTER TRUNCATE ON provisioner.rotation_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated('1000000000001', '9223372036854775807');

-- Rotations are counted under the targets of their lines.
SELECT provisioner.keep_counts('provisioner.rotation_requests', '/rotations', 'rotation_id');

-- Retry rotations, as `retry` does with connections. Rotations that wait for their connection continue to wait.
CREATE FUNCTION provisioner.retry_rotations(ids bigint[]) RETURNS TABLE (id bigint, was text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH reopened AS (
        UPDATE provisioner.rotation_requests AS r SET status = 'pending'
        FROM (
            SELECT q.id, q.status FROM provisioner.rotation_requests AS q
            WHERE q.id = ANY (retry_rotations.ids) AND q.status IN ('failed', 'cancelled', 'removed')
            ORDER BY q.id
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
        RETURNING w.id, 'retrying' AS was
    )
    SELECT r.id, r.was FROM reopened AS r UNION ALL SELECT h.id, h.was FROM hurried AS h;
END
$$;

-- Note that the keys which these rotations left behind at OpenRouter have been deleted.
CREATE FUNCTION provisioner.keys_deleted(ids bigint[]) RETURNS TABLE (id bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE provisioner.rotation_requests AS r SET left_behind = NULL
    WHERE r.id = ANY (keys_deleted.ids) AND r.left_behind IS NOT NULL
    RETURNING r.id
$$;

COMMENT ON FUNCTION provisioner.keys_deleted(bigint[]) IS 'Note that the keys which rotations left behind are deleted at OpenRouter';

-- Put rotations in line that differ from what was recorded, as `repair` does with connections. The difference is
-- `gone`, `failing`, a column, or `automatic`: somebody switched the rotation off. Infisical itself repeats what
-- failed: then the outcome is `failing`.
CREATE FUNCTION provisioner.repair_rotations(ids bigint[], wrong text[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found record;
    request provisioner.rotation_requests;
    sent text[];
BEGIN
    FOR found IN
        SELECT g.id, array_agg(DISTINCT g.what) AS what
        FROM unnest(repair_rotations.ids, repair_rotations.wrong) AS g (id, what)
        WHERE g.id > 1000000000000
        GROUP BY g.id
        ORDER BY g.id
    LOOP
        SELECT r.* INTO request FROM provisioner.rotation_requests AS r WHERE r.id = found.id FOR UPDATE;
        CONTINUE WHEN request.id IS NULL;
        id := request.id;
        sent := array_remove(array_remove(found.what, 'gone'), 'failing');
        outcome := CASE
            WHEN request.status <> 'succeeded' OR request.wanted <> 'present' THEN 'not now'
            WHEN request.adopted THEN 'adopted'
            WHEN sent = '{}' AND NOT 'gone' = ANY (found.what) THEN 'failing'
            ELSE 'repairing'
        END;
        IF outcome = 'repairing' THEN
            IF sent <> '{}' THEN
                INSERT INTO provisioner.edits AS e (id, name, description, others)
                VALUES (
                    request.id, 'name' = ANY (sent), 'description' = ANY (sent),
                    array_remove(array_remove(sent, 'name'), 'description')
                )
                ON CONFLICT (id) DO UPDATE SET
                    name = e.name OR excluded.name, description = e.description OR excluded.description,
                    others = e.others || excluded.others;
            END IF;
            PERFORM provisioner.reopen_rotation(request);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
