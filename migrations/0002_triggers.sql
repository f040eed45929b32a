-- Triggers on the requesters' table: they enforce the rules, give requests their place in line, and count them. Except
-- for what depends on a single row, this is done once per statement.

-- What remains of a credential after its sealed key is wiped: the id of the sealing key and, on request, `day` as in
-- `:2026-11-28`. Wiped and other credentials are unchanged.
CREATE FUNCTION provisioner.wiped(credential text, day text DEFAULT '') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN credential LIKE 'sealed:%' AND credential NOT LIKE '%:wiped'
            THEN 'sealed:' || split_part(credential, ':', 2) || day || ':wiped'
        ELSE credential
    END
$$;

-- The rule that a row breaks, as the name of its column; NULL if it breaks none.
CREATE FUNCTION provisioner.broken_rule(r provisioner.connection_requests) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN r.project_id IS NULL THEN 'project_id'
        WHEN r.target IS NULL OR (r.target <> 'default' AND r.target !~ '^[a-z0-9][a-z0-9-]{0,62}$') THEN 'target'
        WHEN r.name IS NULL OR length(r.name) > 64 OR r.name !~ '^[a-z0-9]+(-[a-z0-9]+)*$' THEN 'name'
        WHEN octet_length(r.description) > 255 AND provisioner.utf16_length(r.description) > 255 THEN 'description'
        WHEN r.credential IS NULL OR NOT (
            r.credential = 'default'
            OR (r.credential ~ '^sealed:[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]+={0,2}$' AND length(r.credential) BETWEEN 80 AND 5000)
            OR (r.credential ~* '^[a-z0-9][a-z0-9_-]{0,39}$' AND r.credential !~* '^sk-')
        ) THEN 'credential'
        WHEN r.on_conflict IS NULL OR r.on_conflict NOT IN ('fail', 'adopt', 'replace') THEN 'on_conflict'
        WHEN r.priority IS NULL OR r.priority = -32768 THEN 'priority'
        WHEN length(r.batch) NOT BETWEEN 1 AND 200 THEN 'batch'
        WHEN length(r.project_name) NOT BETWEEN 1 AND 200 OR r.project_name ~ '[\u0001-\u001F\u007F-\u009F]' THEN 'project_name'
        WHEN length(r.requested_by) > 200 THEN 'requested_by'
        WHEN r.wanted IS NULL OR r.wanted NOT IN ('present', 'absent') THEN 'wanted'
        WHEN r.not_before < '0001-01-02 00:00:00+00' OR r.not_before >= '9999-01-01 00:00:00+00' THEN 'not_before'
        WHEN r.created_at < '0001-01-02 00:00:00+00' OR r.created_at >= '9999-01-01 00:00:00+00' THEN 'created_at'
        WHEN r.status IS NULL OR r.status NOT IN ('pending', 'succeeded', 'failed', 'cancelled', 'removed') THEN 'status'
    END
$$;

-- Refuse a row with a message that names the column and the rule, and never shows the credential.
CREATE FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    given text := CASE rule
        WHEN 'target' THEN r.target WHEN 'name' THEN r.name WHEN 'on_conflict' THEN r.on_conflict
        WHEN 'batch' THEN r.batch WHEN 'status' THEN r.status WHEN 'wanted' THEN r.wanted
        WHEN 'description' THEN provisioner.utf16_length(r.description) || ' characters' WHEN 'not_before' THEN r.not_before::text
        WHEN 'created_at' THEN r.created_at::text
    END;
    must text := CASE rule
        WHEN 'project_id' THEN 'is required: the UUID of the Infisical project'
        WHEN 'target' THEN 'must be the name of a configured target: 1 to 63 lower-case letters, digits and hyphens'
        WHEN 'name' THEN 'must be 1 to 64 lower-case letters, digits and single hyphens between them'
        WHEN 'description' THEN 'must be at most 255 characters, an emoji counted as two'
        WHEN 'credential' THEN 'must be the name of a configured credential (1 to 40 letters, digits, hyphens, underscores)'
            || ' or sealed:<key id>:<base64>; a readable API key is never stored'
        WHEN 'on_conflict' THEN 'must be fail, adopt or replace'
        WHEN 'priority' THEN 'must be a number from -32767 to 32767; 0 is the default'
        WHEN 'batch' THEN 'must be 1 to 200 characters'
        WHEN 'project_name' THEN 'must be one line of 1 to 200 characters'
        WHEN 'requested_by' THEN 'must be at most 200 characters'
        WHEN 'not_before' THEN 'must be a point in time before the year 9999; infinity is none'
        WHEN 'created_at' THEN 'must be a point in time before the year 9999; infinity is none'
        WHEN 'wanted' THEN 'must be present or absent'
        WHEN 'status' THEN 'must be pending, succeeded, failed, cancelled or removed'
    END;
BEGIN
    RAISE EXCEPTION '% %', rule, must || coalesce(' (given: ' || quote_literal(left(given, 80)) || ')', '')
    USING
        ERRCODE = CASE WHEN rule = 'project_id' THEN 'not_null_violation' ELSE 'check_violation' END,
        SCHEMA = 'provisioner', TABLE = 'connection_requests', COLUMN = rule,
        CONSTRAINT = 'connection_requests_' || rule || '_check';
END
$$;

-- Remove a readable key from an insert before the row is stored; the row is then refused after the statement as usual.
-- Otherwise the refused row would remain in the table's file until the next vacuum, and in the WAL for longer. This
-- trigger does not refuse by itself: an error during COPY shows the whole line to the client and in the server's log.
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

-- Put rows in line, with one notification per statement: a commit with notifications takes a lock of the whole
-- database. The payload contains the positions of the new requests, as target,rank,turn;…, so that workers need not
-- read positions that they have passed.
CREATE FUNCTION provisioner.requests_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad provisioner.connection_requests;
    heads text;
BEGIN
    SELECT n.* INTO bad FROM new_rows AS n WHERE provisioner.broken_rule(n) IS NOT NULL LIMIT 1;
    IF FOUND THEN
        PERFORM provisioner.refuse(provisioner.broken_rule(bad), bad);
    END IF;

    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT n.id, n.not_before, n.target, -n.priority, n.project_id
    FROM new_rows AS n
    WHERE n.status = 'pending' AND n.not_before > now();

    -- A project's new requests follow each other, after those that it already has in line. Written with arrays, so that
    -- no plan can compare every row with every project.
    WITH newcomers AS (
        SELECT n.target, -n.priority AS rank, n.project_id, array_agg(n.id ORDER BY n.id) AS ids
        FROM new_rows AS n
        WHERE n.status = 'pending' AND (n.not_before IS NULL OR n.not_before <= now())
        GROUP BY n.target, n.priority, n.project_id
    ),
    queued AS (
        INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
        SELECT c.target, c.rank, coalesce(last.turn, t.turn, 0) + u.place, u.id, c.project_id
        FROM newcomers AS c
        LEFT JOIN provisioner.fair_cursors AS t ON t.target = c.target AND t.rank = c.rank
        LEFT JOIN LATERAL (
            SELECT r.turn
            FROM provisioner.ready AS r
            WHERE
                r.target = c.target AND r.project_id = c.project_id AND r.rank = c.rank
                AND r.turn > coalesce(t.turn, 0)
            ORDER BY r.turn DESC
            LIMIT 1
        ) AS last ON true
        CROSS JOIN LATERAL unnest(c.ids) WITH ORDINALITY AS u (id, place)
        RETURNING target, rank, turn
    ),
    heads_of_queues AS (
        SELECT q.target, q.rank, min(q.turn) AS turn FROM queued AS q GROUP BY q.target, q.rank
    )
    SELECT string_agg(h.target || ',' || h.rank || ',' || h.turn, ';') INTO heads FROM heads_of_queues AS h;

    IF heads IS NOT NULL THEN
        PERFORM pg_notify('provisioner', CASE WHEN length(heads) < 7000 THEN heads ELSE '' END);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER requests_inserted AFTER INSERT ON provisioner.connection_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_inserted();

-- Lock these requests of any kind, in an order that all keep.
CREATE FUNCTION provisioner.lock_requests(ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM provisioner.connection_requests AS q WHERE q.id = ANY (ids) ORDER BY q.id FOR UPDATE;
    PERFORM FROM provisioner.rotation_requests AS r WHERE r.id = ANY (ids) ORDER BY r.id FOR UPDATE;
END
$$;

-- Record that these requests have ended: cancelled, removed, or failed with an error. What is cancelled keeps the error that it had. A
-- sealed key is wiped, unless a retry needs it. A trigger of somebody's that keeps one of them from being updated is an error.
CREATE FUNCTION provisioner.finish(ids bigint[], status text, code text DEFAULT NULL, message text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    connections bigint[] := ARRAY (SELECT q.id FROM provisioner.connection_requests AS q WHERE q.id = ANY (ids));
    rotations bigint[] := ARRAY (SELECT r.id FROM provisioner.rotation_requests AS r WHERE r.id = ANY (ids));
    unchanged bigint := cardinality(connections) + cardinality(rotations);
    changed bigint;
BEGIN
    PERFORM set_config('provisioner.recording', 'on', true);
    IF connections <> '{}' THEN
        UPDATE provisioner.connection_requests AS q
        SET
            status = finish.status,
            -- A failed request that is put aside ended when it failed.
            finished_at = CASE WHEN finish.status = 'cancelled' THEN coalesce(q.finished_at, clock_timestamp()) ELSE clock_timestamp() END,
            error_code = CASE WHEN finish.status = 'cancelled' THEN q.error_code ELSE code END,
            error_message = CASE WHEN finish.status = 'cancelled' THEN q.error_message ELSE message END,
            attempts = coalesce((SELECT s.sent FROM provisioner.attempt_state AS s WHERE s.id = q.id), q.attempts),
            credential = CASE WHEN finish.status = 'failed' THEN q.credential ELSE provisioner.wiped(q.credential) END
        WHERE q.id = ANY (connections);
        GET DIAGNOSTICS changed = ROW_COUNT;
        unchanged := unchanged - changed;
    END IF;
    IF rotations <> '{}' THEN
        UPDATE provisioner.rotation_requests AS r
        SET
            status = finish.status,
            finished_at = CASE WHEN finish.status = 'cancelled' THEN coalesce(r.finished_at, clock_timestamp()) ELSE clock_timestamp() END,
            error_code = CASE WHEN finish.status = 'cancelled' THEN r.error_code ELSE code END,
            error_message = CASE WHEN finish.status = 'cancelled' THEN r.error_message ELSE message END,
            attempts = coalesce((SELECT s.sent FROM provisioner.attempt_state AS s WHERE s.id = r.id), r.attempts)
        WHERE r.id = ANY (rotations);
        GET DIAGNOSTICS changed = ROW_COUNT;
        unchanged := unchanged - changed;
    END IF;
    IF unchanged > 0 THEN
        RAISE EXCEPTION 'a trigger keeps it from being changed' USING ERRCODE = 'triggered_action_exception';
    END IF;
    PERFORM set_config('provisioner.recording', before, true);
END
$$;

-- Make those of these requests pending that have ended, and tell how each had ended; what was removed is wanted again. A trigger gives
-- each its place.
CREATE FUNCTION provisioner.begin_again(ids bigint[]) RETURNS TABLE (id bigint, was text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    ended bigint[];
    statuses text[];
    unchanged bigint;
    changed bigint;
BEGIN
    PERFORM provisioner.lock_requests(ids);
    SELECT array_agg(q.id ORDER BY q.id), array_agg(q.status ORDER BY q.id), count(*) INTO ended, statuses, unchanged
    FROM provisioner.requests AS q
    WHERE q.id = ANY (ids) AND q.status <> 'pending';
    PERFORM set_config('provisioner.recording', 'on', true);
    IF EXISTS (SELECT FROM provisioner.connection_requests AS q WHERE q.id = ANY (ended)) THEN
        UPDATE provisioner.connection_requests AS q
        SET
            status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL,
            wanted = CASE WHEN q.status = 'removed' THEN 'present' ELSE q.wanted END
        WHERE q.id = ANY (ended);
        GET DIAGNOSTICS changed = ROW_COUNT;
        unchanged := unchanged - changed;
    END IF;
    IF EXISTS (SELECT FROM provisioner.rotation_requests AS r WHERE r.id = ANY (ended)) THEN
        UPDATE provisioner.rotation_requests AS r
        SET
            status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL,
            wanted = CASE WHEN r.status = 'removed' THEN 'present' ELSE r.wanted END
        WHERE r.id = ANY (ended);
        GET DIAGNOSTICS changed = ROW_COUNT;
        unchanged := unchanged - changed;
    END IF;
    PERFORM set_config('provisioner.recording', before, true);
    IF unchanged > 0 THEN
        RAISE EXCEPTION 'a trigger keeps it from being changed' USING ERRCODE = 'triggered_action_exception';
    END IF;
    RETURN QUERY SELECT e.id, e.was FROM unnest(ended, statuses) AS e (id, was);
END
$$;

-- Give those of these requests a place that are pending and have none; returns how many. Until its connection is there a rotation waits
-- for ever, in no scan of what is due.
CREATE FUNCTION provisioner.place(ids bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    placed integer;
    rotations bigint[];
BEGIN
    WITH newcomers AS (
        INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
        SELECT
            n.id, CASE WHEN n.needs_connection THEN 'infinity' ELSE greatest(n.not_before, now()) END, n.target, -n.priority,
            n.project_id, CASE WHEN n.needs_connection THEN 'connection' END
        FROM (
            SELECT q.id, q.not_before, q.target, q.priority, q.project_id, q.needs_connection
            FROM provisioner.requests AS q
            WHERE
                q.id = ANY (ids) AND q.status = 'pending'
                -- One by one, for a join may be planned as a scan of all that has a place.
                AND (SELECT p.id FROM provisioner.places AS p WHERE p.id = q.id LIMIT 1) IS NULL
            OFFSET 0  -- so that a connection is looked for once
        ) AS n
        ON CONFLICT (id) DO NOTHING
        RETURNING id, target
    )
    SELECT count(*), array_agg(n.id) FILTER (WHERE n.target LIKE '%/%') INTO placed, rotations FROM newcomers AS n;
    PERFORM provisioner.follow_connections(rotations);
    RETURN placed;
END
$$;

-- Let a pending request that is not in flight wait until then, under the target, the project and the priority that it has now. False if
-- it is in flight, and NULL if it has no place. It may change places between two statements, so it is looked for again. What waits for
-- its connection goes on waiting.
CREATE FUNCTION provisioner.take_place(request bigint, until timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    FOR round IN 1..20 LOOP
        UPDATE provisioner.waiting AS w
        SET
            run_at = CASE WHEN w.quarantine = 'connection' THEN w.run_at ELSE coalesce(until, w.run_at) END,
            target = q.target, rank = -q.priority, project_id = q.project_id
        FROM provisioner.requests AS q
        WHERE w.id = request AND q.id = request;
        IF FOUND THEN
            RETURN true;
        END IF;
        DELETE FROM provisioner.ready AS l WHERE l.id = request;
        IF FOUND THEN
            INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
            SELECT q.id, coalesce(until, q.not_before, now()), q.target, -q.priority, q.project_id
            FROM provisioner.requests AS q
            WHERE q.id = request;
            RETURN true;
        END IF;
        EXIT WHEN EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = request);
    END LOOP;
    RETURN CASE WHEN EXISTS (SELECT FROM provisioner.places AS p WHERE p.id = request) THEN false END;
END
$$;

-- Note what was edited of a recorded request, by its columns, until Infisical has it.
CREATE FUNCTION provisioner.note_edits(request bigint, columns text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO provisioner.edits AS e (id, name, description, credential, others)
    SELECT
        request, 'name' = ANY (columns), 'description' = ANY (columns), 'credential' = ANY (columns),
        ARRAY (SELECT c FROM unnest(columns) AS c WHERE c NOT IN ('name', 'description', 'credential'))
    ON CONFLICT (id) DO UPDATE SET
        name = e.name OR excluded.name, description = e.description OR excluded.description,
        credential = e.credential OR excluded.credential, others = e.others || excluded.others
$$;

-- How long after a call was given up all that it did is to be seen: `LATE_COMMIT` and `REPLICA_LAG` of `core/doubt.py`.
CREATE FUNCTION provisioner.time_to_show() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT interval '40 seconds' $$;

-- Put a request that has ended back in line, or let one that is pending wait; false if it is in flight. A change or a create that was
-- lost lately may still be carried out, and what is done now must come after it.
CREATE FUNCTION provisioner.reopen(request bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lately timestamptz := (SELECT s.updated_at FROM provisioner.attempt_state AS s WHERE s.id = request);
    q record;
    placed boolean := true;
BEGIN
    SELECT r.status, r.target, r.not_before INTO q FROM provisioner.requests AS r WHERE r.id = request;
    PERFORM provisioner.begin_again(ARRAY [request]);
    IF lately IS NOT NULL OR q.status = 'pending' THEN
        placed := provisioner.take_place(request, greatest(lately + provisioner.time_to_show(), q.not_before, now()));
    END IF;
    IF q.target LIKE '%/%' THEN
        PERFORM provisioner.follow_connections(ARRAY [request]);
    END IF;
    RETURN placed;
END
$$;

-- An edited request must keep the rules, and takes its place anew while it is pending. Its identity (target, project,
-- name, description) cannot be edited while a call is in flight or in doubt: the connection that this call makes would
-- be recorded nowhere. Edits of a recorded connection are noted, and the request is pending until Infisical has them.
-- The workers' own updates never fire this trigger: of these columns they only ever wipe a sealed credential.
CREATE FUNCTION provisioner.request_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    checked provisioner.connection_requests := new;
    rule text;
    moved boolean := (old.target, old.project_id) IS DISTINCT FROM (new.target, new.project_id);
    renamed boolean := moved OR (old.name, old.description) IS DISTINCT FROM (new.name, new.description);
    rekeyed boolean := new.credential IS DISTINCT FROM old.credential AND (new.credential LIKE 'sealed:%:wiped') IS NOT TRUE;
    placed boolean := moved OR (old.priority, old.not_before) IS DISTINCT FROM (new.priority, new.not_before);
    recorded boolean := new.connection_id IS NOT NULL;
BEGIN
    -- What remains of a wiped key is not a credential, and stays with the row.
    IF new.credential LIKE 'sealed:%:wiped' AND new.credential = old.credential THEN
        checked.credential := 'default';
    END IF;
    rule := provisioner.broken_rule(checked);
    IF rule IS NOT NULL THEN
        PERFORM provisioner.refuse(rule, new);
    END IF;
    -- Under another id its answer could not be recorded, and its place in line would belong to nothing.
    IF old.id <> new.id THEN
        RAISE EXCEPTION 'the id of request % cannot be changed', old.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request.';
    END IF;
    IF moved AND recorded THEN
        RAISE EXCEPTION 'request % already has a connection: its target and project_id cannot be changed', new.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request for the other project.';
    END IF;
    IF recorded AND new.adopted AND new.on_conflict <> 'replace' AND (renamed OR rekeyed) THEN
        RAISE EXCEPTION 'request % has adopted somebody else''s connection, which is left as it is: its name, description and'
            ' credential cannot be changed', new.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Set on_conflict to replace if the connection is yours to change.';
    END IF;

    -- A claim that is made meanwhile would send the old values, so the request leaves its place first.
    IF new.status = 'pending' AND old.status = 'pending' AND (renamed OR placed) THEN
        IF NOT provisioner.take_place(new.id, CASE WHEN placed THEN coalesce(new.not_before, now()) END) THEN
            RAISE EXCEPTION 'request % is in flight: its target, project_id, name, description, priority and not_before cannot be'
                ' changed now', new.id
            USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
        END IF;
    END IF;

    IF renamed THEN
        -- After a conflict it is known who has the name, so earlier creates do not matter under another name.
        IF old.status = 'failed' AND old.error_code = 'name_conflict' THEN
            DELETE FROM provisioner.sent_creates AS c WHERE c.id = new.id;
        ELSIF EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id) THEN
            RAISE EXCEPTION 'request %: an earlier create may have made its connection, so its target, project_id, name and'
                ' description cannot be changed now', new.id
            USING ERRCODE = 'object_in_use',
                HINT = 'Retry it, so that the connection is looked up, or cancel it; edit it when it has ended.';
        END IF;
    END IF;

    -- What a create in doubt has made has the old key too.
    IF
        (recorded AND (renamed OR rekeyed))
        OR (rekeyed AND EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id))
    THEN
        PERFORM provisioner.note_edits(
            new.id,
            array_remove(ARRAY [
                CASE WHEN old.name <> new.name THEN 'name' END,
                CASE WHEN old.description IS DISTINCT FROM new.description THEN 'description' END,
                CASE WHEN rekeyed THEN 'credential' END
            ], NULL)
        );
    END IF;
    IF recorded AND (renamed OR rekeyed) THEN
        PERFORM provisioner.reopen(new.id);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER request_edited
AFTER UPDATE OF id, target, project_id, name, description, credential, on_conflict, priority, batch, project_name, wanted, not_before
ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    (
        old.id, old.target, old.project_id, old.name, old.description, old.on_conflict, old.priority, old.batch,
        old.project_name, old.wanted, old.not_before
    )
    IS DISTINCT FROM (
        new.id, new.target, new.project_id, new.name, new.description, new.on_conflict, new.priority, new.batch,
        new.project_name, new.wanted, new.not_before
    )
    OR (new.credential IS DISTINCT FROM old.credential AND (new.credential LIKE 'sealed:%:wiped') IS NOT TRUE)
)
EXECUTE FUNCTION provisioner.request_edited();

-- Another wish, whatever the kind. What is not wanted and certainly never was made has ended at once; everything else is the workers' to
-- do, and does not wait for its connection. What is in flight is put back in line when its attempt has ended.
CREATE FUNCTION provisioner.request_wished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new.wanted = 'present' AND new.status = 'cancelled' THEN
        RETURN NULL;  -- what was cancelled stays that, until somebody retries it
    END IF;
    IF
        new.wanted = 'absent'
        AND EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = new.id AND q.recorded_id IS NULL)
        AND NOT EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id)
        AND (new.status <> 'pending' OR provisioner.take_place(new.id, NULL))
    THEN
        DELETE FROM provisioner.waiting AS w WHERE w.id = new.id;
        PERFORM provisioner.finish(ARRAY [new.id], 'removed');
        DELETE FROM provisioner.attempt_state AS s WHERE s.id = new.id;
    ELSE
        PERFORM provisioner.reopen(new.id);
    END IF;
    RETURN NULL;
END
$$;

-- After `request_edited`, which keeps the rules: triggers fire in the order of their names.
CREATE TRIGGER request_wished AFTER UPDATE OF wanted ON provisioner.connection_requests
FOR EACH ROW WHEN (new.wanted IS DISTINCT FROM old.wanted) EXECUTE FUNCTION provisioner.request_wished();

-- After `rotation_edited`, likewise.
CREATE TRIGGER rotation_wished AFTER UPDATE OF wanted ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.wanted IS DISTINCT FROM old.wanted) EXECUTE FUNCTION provisioner.request_wished();

-- A request that is set to pending, by hand or by `begin_again`, is to be tried again, and made again if it was removed: it gets a place,
-- unless it has one.
CREATE FUNCTION provisioner.request_status_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
BEGIN
    IF new.status IS DISTINCT FROM 'pending' THEN
        PERFORM provisioner.refuse('status', new);  -- a connection's: rotations have a constraint
    END IF;
    IF new.finished_at IS NOT NULL OR new.error_code IS NOT NULL OR (old.status = 'removed' AND new.wanted = 'absent') THEN
        PERFORM set_config('provisioner.recording', 'on', true);
        EXECUTE format(
            'UPDATE %s SET error_code = NULL, error_message = NULL, finished_at = NULL, wanted = $2 WHERE id = $1', TG_RELID::regclass
        )
        USING new.id, CASE WHEN old.status = 'removed' THEN 'present' ELSE new.wanted END;
        PERFORM set_config('provisioner.recording', before, true);
    END IF;
    UPDATE provisioner.attempt_state AS s
    SET failures = 0, streak = 0, streak_of = NULL, cancelled = false, error_code = NULL, error_message = NULL
    WHERE s.id = new.id;
    PERFORM provisioner.place(ARRAY [new.id]);
    RETURN NULL;
END
$$;

CREATE TRIGGER request_status_edited AFTER UPDATE OF status ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    new.status IS DISTINCT FROM old.status
    AND (new.status = 'pending' OR new.status IS NULL OR new.status NOT IN ('succeeded', 'failed', 'cancelled', 'removed'))
)
EXECUTE FUNCTION provisioner.request_status_edited();

CREATE TRIGGER request_status_edited AFTER UPDATE OF status ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.status = 'pending' AND old.status <> 'pending')
EXECUTE FUNCTION provisioner.request_status_edited();

-- A request that waits for a quarantined key or project and gets another one is due at once.
CREATE FUNCTION provisioner.request_credential_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL WHERE w.id = new.id AND w.quarantine IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE TRIGGER request_credential_edited AFTER UPDATE OF credential, target, project_id ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    new.status = 'pending'
    AND (new.credential, new.target, new.project_id) IS DISTINCT FROM (old.credential, old.target, old.project_id)
)
EXECUTE FUNCTION provisioner.request_credential_edited();

-- A trigger instead of a part of the settlement, so that it covers every way to fail a request, including older
-- workers.
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

-- Maintains the table of requests that ended without success. One by one, because they are few; a success costs a
-- comparison.
CREATE FUNCTION provisioner.request_set_apart() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'DELETE' AND new.status IN ('failed', 'cancelled', 'removed') THEN
        INSERT INTO provisioner.set_apart AS a (id, status, error_code)
        VALUES (new.id, new.status, new.error_code)
        ON CONFLICT (id) DO UPDATE SET status = excluded.status, error_code = excluded.error_code;
    ELSE
        DELETE FROM provisioner.set_apart AS a WHERE a.id = old.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER request_set_apart_at_once AFTER INSERT ON provisioner.connection_requests
FOR EACH ROW WHEN (new.status IN ('failed', 'cancelled', 'removed'))
EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart AFTER UPDATE OF status, error_code ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    (old.status IN ('failed', 'cancelled', 'removed') OR new.status IN ('failed', 'cancelled', 'removed'))
    AND (old.status, old.error_code) IS DISTINCT FROM (new.status, new.error_code)
)
EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_forgotten AFTER DELETE ON provisioner.connection_requests
FOR EACH ROW WHEN (old.status IN ('failed', 'cancelled', 'removed'))
EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart_at_once AFTER INSERT ON provisioner.rotation_requests
FOR EACH ROW WHEN (new.status IN ('failed', 'cancelled', 'removed'))
EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart AFTER UPDATE OF status, error_code ON provisioner.rotation_requests
FOR EACH ROW
WHEN (
    (old.status IN ('failed', 'cancelled', 'removed') OR new.status IN ('failed', 'cancelled', 'removed'))
    AND (old.status, old.error_code) IS DISTINCT FROM (new.status, new.error_code)
)
EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_forgotten AFTER DELETE ON provisioner.rotation_requests
FOR EACH ROW WHEN (old.status IN ('failed', 'cancelled', 'removed'))
EXECUTE FUNCTION provisioner.request_set_apart();

-- Only workers may write what they record: with a false connection id, the wrong connection would be changed or
-- removed. Statements that record set a parameter of their own transaction; anyone may retry by setting `status =
-- 'pending'`.
CREATE FUNCTION provisioner.refuse_recorded_columns() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'request %: only workers may change %', old.id, TG_ARGV[0]
    USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Set status to pending to retry it, or use provisioner.cancel, provisioner.retry and provisioner.remove.';
END
$$;

-- AFTER, because a trigger before an update locks each row first, which costs each settlement 80 bytes of WAL.
CREATE TRIGGER refuse_recorded_columns
AFTER UPDATE OF status, connection_id, org_id, credentials_hash, adopted, key_fingerprint, attempts, error_code, error_message, finished_at
ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    current_setting('provisioner.recording', true) IS DISTINCT FROM 'on'
    AND (
        (new.status IS DISTINCT FROM old.status AND new.status <> 'pending')
        OR (
            new.connection_id, new.org_id, new.credentials_hash, new.adopted, new.key_fingerprint, new.attempts
        ) IS DISTINCT FROM (
            old.connection_id, old.org_id, old.credentials_hash, old.adopted, old.key_fingerprint, old.attempts
        )
        OR (
            new.status = old.status
            AND (new.error_code, new.error_message, new.finished_at)
            IS DISTINCT FROM (old.error_code, old.error_message, old.finished_at)
        )
    )
)
EXECUTE FUNCTION provisioner.refuse_recorded_columns(
    'status, connection_id, org_id, credentials_hash, adopted, key_fingerprint, attempts, error_code, error_message and finished_at'
);

-- That a left-behind key has been deleted is for people to say.
CREATE TRIGGER refuse_recorded_columns
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
EXECUTE FUNCTION provisioner.refuse_recorded_columns(
    'status, rotation_id, connection_id, key_issued, adopted, attempts, error_code, error_message and finished_at'
);

CREATE FUNCTION provisioner.requests_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- In the order of a request's journey, so that a request that moves meanwhile is found at its next place.
    DELETE FROM provisioner.waiting AS w USING old_rows AS o WHERE w.id = o.id;
    DELETE FROM provisioner.ready AS r USING old_rows AS o WHERE r.id = o.id;
    DELETE FROM provisioner.in_flight AS f USING old_rows AS o WHERE f.id = o.id;
    DELETE FROM provisioner.waiting AS w USING old_rows AS o WHERE w.id = o.id;
    DELETE FROM provisioner.attempt_state AS s USING old_rows AS o WHERE s.id = o.id;
    DELETE FROM provisioner.unrecorded AS u USING old_rows AS o WHERE u.id = o.id;
    DELETE FROM provisioner.edits AS e USING old_rows AS o WHERE e.id = o.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.rotation_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

-- A table of requests was emptied. The places and the evidence of the other kinds, whose ids are in ranges of their own, are not to go
-- with it: the arguments are the first and the last id of this kind.
CREATE FUNCTION provisioner.requests_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first bigint := TG_ARGV[0];
    last bigint := TG_ARGV[1];
BEGIN
    IF NOT EXISTS (SELECT FROM provisioner.requests) THEN
        TRUNCATE
            provisioner.ready, provisioner.waiting, provisioner.in_flight, provisioner.unrecorded, provisioner.attempt_state,
            provisioner.sent_creates, provisioner.edits, provisioner.failed_boxes, provisioner.set_apart;
        RETURN NULL;
    END IF;
    DELETE FROM provisioner.ready AS r WHERE r.id BETWEEN first AND last;
    DELETE FROM provisioner.waiting AS w WHERE w.id BETWEEN first AND last;
    DELETE FROM provisioner.in_flight AS f WHERE f.id BETWEEN first AND last;
    DELETE FROM provisioner.unrecorded AS u WHERE u.id BETWEEN first AND last;
    DELETE FROM provisioner.attempt_state AS s WHERE s.id BETWEEN first AND last;
    DELETE FROM provisioner.edits AS e WHERE e.id BETWEEN first AND last;
    DELETE FROM provisioner.failed_boxes AS b WHERE b.id BETWEEN first AND last;
    DELETE FROM provisioner.set_apart AS a WHERE a.id BETWEEN first AND last;
    RETURN NULL;
END
$$;

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.connection_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated('0', '1000000000000');

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.rotation_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated('1000000000001', '9223372036854775807');

-- Maintain the counts of a table of requests. `line` is the suffix of its lines after the target's name, and `recorded`
-- the column with the id of what was made. Each kind of request has its own function, generated from this text: the
-- rows of a transition table have no type, so a function for all kinds could not refer to that column. Only the branch
-- of the present event is planned, so each branch may use what only its event has.
CREATE FUNCTION provisioner.keep_counts(requests regclass, line text, recorded text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $keep$
DECLARE
    name text := (SELECT c.relname || '_counted' FROM pg_class AS c WHERE c.oid = keep_counts.requests);
BEGIN
    EXECUTE format($create$
CREATE FUNCTION provisioner.%1$I() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(n.target, '') || %2$L, coalesce(n.batch, ''), coalesce(n.requested_by, ''),
            provisioner.counted_as(n.status, n.wanted, n.%3$I), coalesce(n.error_code, ''),
            count(*), min(n.created_at), max(n.finished_at), max(n.id)
        FROM new_rows AS n
        GROUP BY 1, 2, 3, 4, 5;
    WHEN 'UPDATE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(c.target, '') || %2$L, coalesce(c.batch, ''), coalesce(c.requested_by, ''), c.counted_as,
            coalesce(c.error_code, ''), sum(c.requests), min(c.created_at), max(c.finished_at), max(c.id)
        FROM (
            SELECT
                o.target, o.batch, o.requested_by, provisioner.counted_as(o.status, o.wanted, o.%3$I) AS counted_as, o.error_code,
                -1 AS requests, NULL AS created_at, NULL AS finished_at, NULL AS id
            FROM old_rows AS o
            UNION ALL
            SELECT
                n.target, n.batch, n.requested_by, provisioner.counted_as(n.status, n.wanted, n.%3$I), n.error_code,
                1, n.created_at, n.finished_at, n.id
            FROM new_rows AS n
        ) AS c
        GROUP BY 1, 2, 3, 4, 5
        HAVING sum(c.requests) <> 0;
    WHEN 'DELETE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(o.target, '') || %2$L, coalesce(o.batch, ''), coalesce(o.requested_by, ''),
            provisioner.counted_as(o.status, o.wanted, o.%3$I), coalesce(o.error_code, ''), -count(*)
        FROM old_rows AS o
        GROUP BY 1, 2, 3, 4, 5;
    ELSE
        DELETE FROM provisioner.counts AS k WHERE k.target = split_part(k.target, '/', 1) || %2$L;
        DELETE FROM provisioner.count_changes AS h WHERE h.target = split_part(h.target, '/', 1) || %2$L;
    END CASE;
    RETURN NULL;
END
$$;
CREATE TRIGGER counted_in AFTER INSERT ON %4$s
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.%1$I();
CREATE TRIGGER counted_again AFTER UPDATE ON %4$s
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.%1$I();
CREATE TRIGGER counted_out AFTER DELETE ON %4$s
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.%1$I();
CREATE TRIGGER counted_none AFTER TRUNCATE ON %4$s FOR EACH STATEMENT EXECUTE FUNCTION provisioner.%1$I();
$create$, name, line, recorded, requests);
END
$keep$;

SELECT provisioner.keep_counts('provisioner.connection_requests', '', 'connection_id');
SELECT provisioner.keep_counts('provisioner.rotation_requests', '/rotations', 'rotation_id');

-- Functions belong to their owner alone until `provisioner grant` gives others the right.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
