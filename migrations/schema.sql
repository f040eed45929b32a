-- What the migrations make, for reading and for diffs; nobody runs it. Renewed by `python -m tests.support.schema`.

CREATE SCHEMA provisioner;

CREATE FUNCTION provisioner.add_history(targets text[], succeeded bigint[], failed bigint[], retried bigint[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM provisioner.history AS h WHERE h.span = 60 AND h.at < clock_timestamp() - interval '6 hours';
    DELETE FROM provisioner.history AS h WHERE h.span = 3600 AND h.at < clock_timestamp() - interval '30 days';
    INSERT INTO provisioner.history AS h (span, at, target, succeeded, failed, retried)
    SELECT s.span, date_bin(make_interval(secs => s.span), clock_timestamp(), 'epoch'), a.target, a.succeeded, a.failed, a.retried
    FROM unnest(add_history.targets, add_history.succeeded, add_history.failed, add_history.retried)
        AS a (target, succeeded, failed, retried)
    CROSS JOIN (VALUES (60), (3600)) AS s (span)
    -- In a fixed order, so that two concurrent calls wait for each other without a deadlock.
    ORDER BY s.span, a.target
    ON CONFLICT (span, at, target) DO UPDATE SET
        succeeded = h.succeeded + excluded.succeeded, failed = h.failed + excluded.failed, retried = h.retried + excluded.retried;
$$;

CREATE FUNCTION provisioner.also_left(before text, more text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN position(more IN before) > 0 THEN before ELSE nullif(concat_ws('; ', before, more), '') END
$$;

CREATE FUNCTION provisioner.begin_again(ids bigint[]) RETURNS TABLE(id bigint, was text)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.box_failed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO provisioner.failed_boxes (id, failed_at, box)
    VALUES (new.id, clock_timestamp(), hashtextextended(new.credential, 0));
    RETURN NULL;
END
$$;

CREATE TABLE provisioner.connection_requests (
    id bigint NOT NULL,
    target text DEFAULT 'default'::text,
    project_id uuid,
    name text DEFAULT 'openrouter'::text,
    description text,
    credential text DEFAULT 'default'::text,
    on_conflict text DEFAULT 'fail'::text,
    priority smallint DEFAULT 0,
    batch text,
    project_name text,
    wanted text DEFAULT 'present'::text,
    not_before timestamp with time zone,
    requested_by text DEFAULT CURRENT_USER,
    created_at timestamp with time zone DEFAULT now(),
    status text DEFAULT 'pending'::text,
    connection_id uuid,
    org_id uuid,
    credentials_hash text,
    adopted boolean DEFAULT false,
    key_fingerprint text,
    attempts integer DEFAULT 0,
    error_code text,
    error_message text,
    finished_at timestamp with time zone
)
WITH (fillfactor='35', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='50000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='50000');

COMMENT ON TABLE provisioner.connection_requests IS 'Each row requests one connection in an Infisical project';

COMMENT ON COLUMN provisioner.connection_requests.project_name IS 'The project''s name for people: shown, never sent';

COMMENT ON COLUMN provisioner.connection_requests.wanted IS 'present, or absent: no connection of ours is to exist';

COMMENT ON COLUMN provisioner.connection_requests.key_fingerprint IS 'Salted fingerprint of the last key that Infisical accepted';

CREATE FUNCTION provisioner.broken_rule(r provisioner.connection_requests) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
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
$_$;

CREATE FUNCTION provisioner.cancel(ids bigint[]) RETURNS TABLE(id bigint, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    undone bigint[];
    done bigint[] := '{}';
    ending bigint[];
    refused bigint[] := '{}';
    lately bigint[];
    lately_ending bigint[];
    one bigint;
    aside bigint[];
BEGIN
    BEGIN
        -- Only failed ones: the row in flight of any other is locked before its request.
        PERFORM provisioner.lock_requests(ARRAY (
            SELECT q.id FROM provisioner.requests AS q WHERE q.id = ANY (cancel.ids) AND q.status = 'failed'
        ));
        aside := ARRAY (SELECT q.id FROM provisioner.requests AS q WHERE q.id = ANY (cancel.ids) AND q.status = 'failed');
        PERFORM provisioner.finish(aside, 'cancelled');
    EXCEPTION WHEN OTHERS THEN
        IF provisioner.is_about_all(SQLSTATE) THEN
            RAISE;
        END IF;
        RAISE NOTICE 'failed requests are left as they are: %', SQLERRM;
        aside := '{}';
    END;
    -- A request may change places between two statements, so missing ones are searched again; each round sees what was
    -- committed before it began. A deadlock with a worker, which also takes many rows at once, costs one round.
    FOR round IN 1..20 LOOP
        BEGIN
            SELECT array_agg(q.id) INTO undone
            FROM provisioner.requests AS q
            WHERE q.id = ANY (cancel.ids) AND q.status = 'pending' AND q.id <> ALL (done || refused);
            EXIT WHEN undone IS NULL;
            -- Locks are taken in the common order: the row in flight before its request, and the request before its
            -- place in line.
            UPDATE provisioner.in_flight AS f SET cancelled = true
            FROM (SELECT g.id FROM provisioner.in_flight AS g WHERE g.id = ANY (undone) ORDER BY g.id FOR UPDATE) AS held
            WHERE f.id = held.id;
            PERFORM provisioner.lock_requests(ARRAY (
                SELECT u.id FROM unnest(undone) AS u (id) WHERE NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = u.id)
            ));
            WITH unlined AS (
                DELETE FROM provisioner.ready AS r WHERE r.id = ANY (undone) RETURNING r.id, r.target, r.rank, r.project_id
            ),
            unscheduled AS (
                DELETE FROM provisioner.waiting AS w WHERE w.id = ANY (undone) RETURNING w.id, w.target, w.rank, w.project_id
            ),
            found AS (
                SELECT u.*, d.id IS NOT NULL AS doubted
                FROM (SELECT * FROM unlined UNION ALL SELECT * FROM unscheduled) AS u
                -- One by one, so that no plan reads all evidence.
                LEFT JOIN LATERAL (SELECT c.id FROM provisioner.sent_creates AS c WHERE c.id = u.id LIMIT 1) AS d ON true
            ),
            postponed AS (
                INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
                SELECT f.id, now(), f.target, f.rank, f.project_id FROM found AS f WHERE f.doubted
                ON CONFLICT (id) DO UPDATE SET run_at = excluded.run_at
                RETURNING waiting.id
            ),
            -- In this statement, not before it: only now is it certain that no worker has the request.
            remembered AS (
                UPDATE provisioner.attempt_state AS s SET cancelled = true FROM found AS f
                WHERE s.id = f.id AND s.id = ANY (undone) AND f.doubted
            )
            SELECT
                coalesce(array_agg(f.id) FILTER (WHERE NOT f.doubted), '{}'),
                coalesce(array_agg(f.id) FILTER (WHERE f.doubted), '{}')
            INTO lately, lately_ending
            FROM found AS f;
            PERFORM provisioner.finish(lately, 'cancelled');
            done := done || lately || lately_ending;
            ending := ending || lately_ending;
            SELECT done || coalesce(array_agg(f.id), '{}'), ending || coalesce(array_agg(f.id), '{}')
            INTO done, ending
            FROM provisioner.in_flight AS f
            WHERE f.id = ANY (undone) AND f.cancelled AND f.id <> ALL (done);
        EXCEPTION
            WHEN deadlock_detected THEN
                NULL;  -- this round is rolled back, and the next one tries again
            WHEN OTHERS THEN
                IF provisioner.is_about_all(SQLSTATE) THEN
                    RAISE;
                ELSIF cardinality(undone) = 1 THEN
                    RAISE NOTICE 'request % is left as it is: %', undone[1], SQLERRM;
                    refused := refused || undone;
                ELSE
                    -- Somebody's trigger or constraint refuses one of them; the others are done anyway.
                    FOREACH one IN ARRAY undone LOOP
                        SELECT
                            done || coalesce(array_agg(c.id), '{}'),
                            ending || coalesce(array_agg(c.id) FILTER (WHERE c.outcome = 'ending'), '{}')
                        INTO done, ending
                        FROM provisioner.cancel(ARRAY[one]) AS c;
                    END LOOP;
                    EXIT;
                END IF;
        END;
    END LOOP;
    RETURN QUERY
    SELECT c.id, c.outcome
    FROM (
        SELECT d.id, CASE WHEN d.id = ANY (ending) THEN 'ending' ELSE 'cancelled' END AS outcome FROM unnest(done) AS d (id)
        UNION ALL
        SELECT a.id, 'put aside' FROM unnest(aside) AS a (id)
    ) AS c
    ORDER BY c.id;
END
$$;

COMMENT ON FUNCTION provisioner.cancel(ids bigint[]) IS 'Cancel requests, including failed ones; returns what changed';

CREATE FUNCTION provisioner.connection_requests_counted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(n.target, '') || '', coalesce(n.batch, ''), coalesce(n.requested_by, ''),
            provisioner.counted_as(n.status, n.wanted, n.connection_id), coalesce(n.error_code, ''),
            count(*), min(n.created_at), max(n.finished_at), max(n.id)
        FROM new_rows AS n
        GROUP BY 1, 2, 3, 4, 5;
    WHEN 'UPDATE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(c.target, '') || '', coalesce(c.batch, ''), coalesce(c.requested_by, ''), c.counted_as,
            coalesce(c.error_code, ''), sum(c.requests), min(c.created_at), max(c.finished_at), max(c.id)
        FROM (
            SELECT
                o.target, o.batch, o.requested_by, provisioner.counted_as(o.status, o.wanted, o.connection_id) AS counted_as, o.error_code,
                -1 AS requests, NULL AS created_at, NULL AS finished_at, NULL AS id
            FROM old_rows AS o
            UNION ALL
            SELECT
                n.target, n.batch, n.requested_by, provisioner.counted_as(n.status, n.wanted, n.connection_id), n.error_code,
                1, n.created_at, n.finished_at, n.id
            FROM new_rows AS n
        ) AS c
        GROUP BY 1, 2, 3, 4, 5
        HAVING sum(c.requests) <> 0;
    WHEN 'DELETE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(o.target, '') || '', coalesce(o.batch, ''), coalesce(o.requested_by, ''),
            provisioner.counted_as(o.status, o.wanted, o.connection_id), coalesce(o.error_code, ''), -count(*)
        FROM old_rows AS o
        GROUP BY 1, 2, 3, 4, 5;
    ELSE
        DELETE FROM provisioner.counts AS k WHERE k.target = split_part(k.target, '/', 1) || '';
        DELETE FROM provisioner.count_changes AS h WHERE h.target = split_part(h.target, '/', 1) || '';
    END CASE;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.connections_followed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    ids bigint[];
    revived bigint[];
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
    SELECT array_agg(r.id), array_agg(r.id) FILTER (WHERE r.status = 'failed' AND n.status IN ('pending', 'succeeded'))
    INTO ids, revived
    FROM new_rows AS n
    JOIN old_rows AS o ON o.id = n.id
    -- One by one, for a join may be planned as a scan of all rotations.
    CROSS JOIN LATERAL (
        SELECT t.id, t.status
        FROM provisioner.rotation_requests AS t
        WHERE
            t.target = n.target AND t.project_id = n.project_id AND t.connection = n.name
            AND (t.status = 'pending' OR (t.status = 'failed' AND t.error_code = 'connection_failed'))
        OFFSET 0
    ) AS r
    WHERE n.status IS DISTINCT FROM o.status OR n.name IS DISTINCT FROM o.name;
    IF revived IS NOT NULL THEN
        PERFORM provisioner.begin_again(revived);
    END IF;
    PERFORM provisioner.follow_connections(ids);
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.connections_joined() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
    PERFORM provisioner.follow_connections(ids);
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.counted_as(status text, wanted text, recorded uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE
        WHEN status <> 'pending' THEN status
        WHEN status IS NULL THEN ''
        WHEN wanted = 'absent' THEN 'removing'
        WHEN recorded IS NOT NULL THEN 'updating'
        ELSE 'pending'
    END
$$;

CREATE FUNCTION provisioner.disown_requests(ids bigint[], code text, message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM provisioner.ready AS r WHERE r.id = ANY (ids);
    PERFORM provisioner.finish(
        ARRAY (SELECT q.id FROM provisioner.requests AS q WHERE q.id = ANY (ids) AND q.status = 'pending'), 'failed', code, message
    );
END
$$;

CREATE FUNCTION provisioner.fail_unknown_targets(target text, most integer, code text, message text) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    lined bigint[];
    one bigint;
BEGIN
    SELECT array_agg(r.id) INTO lined
    FROM (
        SELECT l.id FROM provisioner.ready AS l
        WHERE l.target = fail_unknown_targets.target
        ORDER BY l.target, l.rank, l.turn, l.id
        LIMIT fail_unknown_targets.most
        FOR UPDATE SKIP LOCKED
    ) AS r;
    IF lined IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM provisioner.disown_requests(lined, code, message);
        SET CONSTRAINTS ALL IMMEDIATE;
        RETURN QUERY SELECT unnest(lined);
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    FOREACH one IN ARRAY lined LOOP
        BEGIN
            PERFORM provisioner.disown_requests(ARRAY [one], code, message);
            SET CONSTRAINTS ALL IMMEDIATE;
            RETURN NEXT one;
        EXCEPTION WHEN OTHERS THEN
            WITH gone AS (
                DELETE FROM provisioner.ready AS r WHERE r.id = one RETURNING r.id, r.target, r.rank, r.project_id
            )
            INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
            SELECT g.id, clock_timestamp() + interval '5 minutes', g.target, g.rank, g.project_id FROM gone AS g
            ON CONFLICT (id) DO NOTHING;
        END;
    END LOOP;
END
$$;

CREATE FUNCTION provisioner.finish(ids bigint[], status text, code text DEFAULT NULL::text, message text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.fold_counts(most integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    folded integer;
    zeros tid[];
    targets text[];
    succeeded bigint[];
    failed bigint[];
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
            -- Requests that existed long ago and are gone do not count for the beginning.
            started_at = CASE WHEN k.requests = 0 THEN excluded.started_at ELSE least(k.started_at, excluded.started_at) END,
            ended_at = greatest(k.ended_at, excluded.ended_at),
            newest = greatest(k.newest, excluded.newest)
        RETURNING k.ctid, k.requests
    ),
    happened AS (
        SELECT
            t.target, coalesce(sum(t.requests) FILTER (WHERE t.status = 'succeeded'), 0)::bigint AS succeeded,
            coalesce(sum(t.requests) FILTER (WHERE t.status = 'failed'), 0)::bigint AS failed
        FROM taken AS t
        WHERE t.requests > 0 AND t.status IN ('succeeded', 'failed')
        GROUP BY t.target
    )
    SELECT
        (SELECT count(*) FROM taken), ARRAY (SELECT n.ctid FROM kept AS n WHERE n.requests = 0),
        (SELECT array_agg(h.target) FROM happened AS h), (SELECT array_agg(h.succeeded) FROM happened AS h),
        (SELECT array_agg(h.failed) FROM happened AS h)
    INTO folded, zeros, targets, succeeded, failed;
    -- They have been locked since they were changed, so nothing was added to them meanwhile.
    DELETE FROM provisioner.counts AS k WHERE k.ctid = ANY (zeros) AND k.requests = 0;
    IF targets IS NOT NULL THEN
        PERFORM provisioner.add_history(targets, succeeded, failed, array_fill(0::bigint, ARRAY [cardinality(targets)]));
    END IF;
    RETURN folded;
END
$$;

CREATE FUNCTION provisioner.follow_connections(ids bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
BEGIN
    IF coalesce(cardinality(ids), 0) = 0 THEN
        RETURN;  -- nobody is woken for nothing: a sweep asks every few seconds
    END IF;
    PERFORM set_config('provisioner.recording', 'on', true);
    UPDATE provisioner.waiting AS w SET run_at = 'infinity', quarantine = 'connection'
    FROM provisioner.requests AS q
    WHERE
        w.id = ANY (ids) AND w.quarantine IS NULL AND q.id = w.id AND q.needs_connection
        -- What may have been made is looked up first, which needs no connection.
        AND NOT EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = w.id);
    UPDATE provisioner.waiting AS w
    SET
        -- A create that was lost lately may still be carried out.
        run_at = greatest(q.not_before, now(), (
            SELECT s.updated_at + provisioner.time_to_show() FROM provisioner.attempt_state AS s WHERE s.id = w.id
        )),
        quarantine = NULL
    FROM provisioner.requests AS q
    WHERE w.id = ANY (ids) AND w.quarantine = 'connection' AND q.id = w.id AND NOT q.needs_connection;
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
            r.id = ANY (ids) AND r.status = 'pending' AND r.wanted = 'present'
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

CREATE FUNCTION provisioner.is_about_all(code text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT left(code, 2) IN ('25', '53', '57', '58', 'XX') OR code IN ('40001', '55P03')
$$;

COMMENT ON FUNCTION provisioner.is_about_all(code text) IS 'Whether an error code concerns more than one row';

CREATE FUNCTION provisioner.keep_counts(requests regclass, line text, recorded text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION provisioner.keys_deleted(ids bigint[]) RETURNS TABLE(id bigint)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE provisioner.rotation_requests AS r SET left_behind = NULL
    WHERE r.id = ANY (keys_deleted.ids) AND r.left_behind IS NOT NULL
    RETURNING r.id
$$;

COMMENT ON FUNCTION provisioner.keys_deleted(ids bigint[]) IS 'Note that the keys which rotations left behind are deleted at OpenRouter';

CREATE FUNCTION provisioner.live_state(status text, wanted text, recorded uuid, flying bigint, waits bigint, quarantine text, said text, cancelled boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE
        WHEN status <> 'pending' THEN status
        WHEN waits IS NOT NULL AND quarantine LIKE '%:%' THEN 'quarantined'
        WHEN waits IS NOT NULL AND said IS NOT NULL AND NOT cancelled THEN 'retrying'
        WHEN wanted = 'absent' THEN 'removing'
        WHEN recorded IS NOT NULL THEN 'updating'
        WHEN flying IS NOT NULL THEN 'in_flight'
        WHEN waits IS NOT NULL THEN 'waiting'
        ELSE 'ready'
    END
$$;

CREATE FUNCTION provisioner.lock_requests(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM FROM provisioner.connection_requests AS q WHERE q.id = ANY (ids) ORDER BY q.id FOR UPDATE;
    PERFORM FROM provisioner.rotation_requests AS r WHERE r.id = ANY (ids) ORDER BY r.id FOR UPDATE;
END
$$;

CREATE FUNCTION provisioner.misplaced(after bigint, most integer, OUT ids bigint[], OUT last bigint) RETURNS record
    LANGUAGE sql STABLE
    AS $$
    WITH part AS MATERIALIZED (
        SELECT q.id, q.status FROM provisioner.requests AS q
        WHERE q.id > misplaced.after
        ORDER BY q.id
        LIMIT misplaced.most
    )
    SELECT
        array_agg(p.id ORDER BY p.id) FILTER (
            WHERE p.status = 'pending' AND (
                NOT EXISTS (SELECT FROM provisioner.places AS l WHERE l.id = p.id)
                OR EXISTS (SELECT FROM provisioner.overlooked AS o WHERE o.id = p.id)
            )
        ),
        max(p.id)
    FROM part AS p
$$;

CREATE FUNCTION provisioner.not_updated(request bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = not_updated.request) THEN
        RAISE EXCEPTION 'a trigger on the table of requests keeps request % from being updated', not_updated.request
        USING ERRCODE = 'triggered_action_exception';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.note_edits(request bigint, columns text[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO provisioner.edits AS e (id, name, description, credential, others)
    SELECT
        request, 'name' = ANY (columns), 'description' = ANY (columns), 'credential' = ANY (columns),
        ARRAY (SELECT c FROM unnest(columns) AS c WHERE c NOT IN ('name', 'description', 'credential'))
    ON CONFLICT (id) DO UPDATE SET
        name = e.name OR excluded.name, description = e.description OR excluded.description,
        credential = e.credential OR excluded.credential, others = e.others || excluded.others
$$;

CREATE FUNCTION provisioner.pause(target text) RETURNS TABLE(target text, paused_at timestamp with time zone, paused_by text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- The forecasts are renewed at the next poll, because the present ones do not know of the pause.
    UPDATE provisioner.forecast_turn SET due_at = clock_timestamp();
    UPDATE provisioner.line_forecasts AS l SET ends_at = NULL, ends_why = 'paused', urgency = 0
    WHERE split_part(l.target, '/', 1) = pause.target;
    UPDATE provisioner.forecasts AS f SET ends_at = NULL, ends_why = 'paused', urgency = 0
    WHERE split_part(f.target, '/', 1) = pause.target;
    INSERT INTO provisioner.targets AS t (target, paused_at, paused_by)
    VALUES (pause.target, now(), session_user)
    ON CONFLICT (target) DO UPDATE SET paused_at = now(), paused_by = session_user WHERE t.paused_at IS NULL
    RETURNING t.target, t.paused_at, t.paused_by
$$;

COMMENT ON FUNCTION provisioner.pause(target text) IS 'Pause a target; returns nothing if it was paused already';

CREATE FUNCTION provisioner.place(ids bigint[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.put_in_line(ids bigint[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    request provisioner.connection_requests;
    rule text;
    reason text;
    broken integer := 0;
    overlooked bigint[] := ARRAY (SELECT o.id FROM provisioner.overlooked AS o WHERE o.id = ANY (put_in_line.ids));
BEGIN
    PERFORM FROM provisioner.sweeps FOR UPDATE;  -- one at a time: two might give a request two places
    FOR request IN
        SELECT q.* FROM provisioner.connection_requests AS q
        WHERE q.id = ANY (ids) AND q.status = 'pending' AND NOT EXISTS (SELECT FROM provisioner.places AS p WHERE p.id = q.id)
        ORDER BY q.id
        FOR UPDATE OF q SKIP LOCKED
    LOOP
        rule := provisioner.broken_rule(request);
        CONTINUE WHEN rule IS NULL OR (rule = 'credential' AND request.credential LIKE 'sealed:%:wiped');
        ids := array_remove(ids, request.id);
        BEGIN
            PERFORM provisioner.refuse(rule, request);
        EXCEPTION WHEN OTHERS THEN
            reason := SQLERRM;
        END;
        BEGIN
            PERFORM provisioner.finish(ARRAY [request.id], 'failed', 'invalid_request', reason);
            SET CONSTRAINTS ALL IMMEDIATE;
            broken := broken + 1;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- somebody's trigger refuses it; `doctor` names it
        END;
    END LOOP;
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL
    WHERE w.id = ANY (overlooked) AND w.quarantine = 'rotations';
    PERFORM provisioner.follow_connections(overlooked);
    RETURN broken + cardinality(overlooked) + provisioner.place(ids);
END
$$;

CREATE FUNCTION provisioner.quarantine_code(quarantine text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN quarantine LIKE 'project:%' THEN 'permission_denied' WHEN quarantine LIKE 'credential:%' THEN 'credential_refused' END
$$;

CREATE FUNCTION provisioner.recount() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    corrected bigint;
BEGIN
    PERFORM FROM provisioner.sweeps FOR UPDATE;  -- two at once would both correct them
    INSERT INTO provisioner.count_changes (target, batch, requested_by, status, error_code, requests, started_at, ended_at, newest)
    SELECT m.* FROM provisioner.miscounted AS m;
    GET DIAGNOSTICS corrected = ROW_COUNT;
    DELETE FROM provisioner.set_apart AS a
    WHERE NOT EXISTS (
        SELECT FROM provisioner.requests AS q
        WHERE q.id = a.id AND q.status = a.status AND q.error_code IS NOT DISTINCT FROM a.error_code
    );
    INSERT INTO provisioner.set_apart (id, status, error_code)
    SELECT q.id, q.status, q.error_code
    FROM provisioner.requests AS q
    WHERE q.status IN ('failed', 'cancelled', 'removed')
    ON CONFLICT (id) DO NOTHING;
    RETURN corrected;
END
$$;

COMMENT ON FUNCTION provisioner.recount() IS 'Correct the counts of requests after rows were written with triggers off; reads all requests';

CREATE FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION provisioner.refuse_recorded_columns() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION 'request %: only workers may change %', old.id, TG_ARGV[0]
    USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Set status to pending to retry it, or use provisioner.cancel, provisioner.retry and provisioner.remove.';
END
$$;

CREATE FUNCTION provisioner.rekey(ids bigint[]) RETURNS TABLE(id bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    request provisioner.connection_requests;
BEGIN
    FOR request IN
        SELECT q.* FROM provisioner.connection_requests AS q
        WHERE
            q.id = ANY (rekey.ids) AND q.connection_id IS NOT NULL AND q.wanted = 'present'
            AND q.status IN ('succeeded', 'pending', 'failed')
            AND (NOT q.adopted OR q.on_conflict = 'replace') AND q.credential NOT LIKE 'sealed:%:wiped'
            AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id)
        ORDER BY q.id
        FOR UPDATE
    LOOP
        BEGIN
            PERFORM provisioner.note_edits(request.id, ARRAY ['credential']);
            PERFORM provisioner.reopen(request.id);
            id := request.id;
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            IF provisioner.is_about_all(SQLSTATE) THEN
                RAISE;
            END IF;
            RAISE NOTICE 'request % is left as it is: %', request.id, SQLERRM;
        END;
    END LOOP;
END
$$;

COMMENT ON FUNCTION provisioner.rekey(ids bigint[]) IS 'Send the credential''s present key again; returns the requests for which it is sent';

CREATE FUNCTION provisioner.remove(ids bigint[], adopted boolean DEFAULT false) RETURNS TABLE(id bigint, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    request record;
BEGIN
    FOR request IN
        -- Rotations first: what removes a connection removes its rotations, too, and they are told of once.
        SELECT q.id, q.adopted, q.wanted, q.target LIKE '%/%' AS rotates FROM provisioner.requests AS q
        WHERE q.id = ANY (remove.ids) AND (q.wanted = 'present' OR q.status IN ('failed', 'cancelled'))
        ORDER BY rotates DESC, q.id
    LOOP
        BEGIN
            IF remove.adopted AND request.adopted THEN
                INSERT INTO provisioner.edits AS e (id, adopted) VALUES (request.id, true)
                ON CONFLICT (id) DO UPDATE SET adopted = true;
            END IF;
            IF request.rotates THEN
                UPDATE provisioner.rotation_requests AS r
                SET wanted = 'absent', status = CASE WHEN r.wanted = 'absent' THEN 'pending' ELSE r.status END
                WHERE r.id = request.id;
            ELSE
                UPDATE provisioner.connection_requests AS q
                SET wanted = 'absent', status = CASE WHEN q.wanted = 'absent' THEN 'pending' ELSE q.status END
                WHERE q.id = request.id;
                IF remove.adopted OR request.wanted = 'absent' THEN
                    PERFORM provisioner.remove_rotations_of(request.id, remove.adopted);
                END IF;
            END IF;
            SELECT
                q.id,
                CASE
                    WHEN q.status = 'removed' THEN 'removed'
                    WHEN request.adopted AND NOT remove.adopted THEN 'let go'
                    ELSE 'removing'
                END
            INTO id, outcome
            FROM provisioner.requests AS q WHERE q.id = request.id;
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            IF provisioner.is_about_all(SQLSTATE) THEN
                RAISE;
            END IF;
            RAISE NOTICE 'request % is left as it is: %', request.id, SQLERRM;
        END;
    END LOOP;
END
$$;

COMMENT ON FUNCTION provisioner.remove(ids bigint[], adopted boolean) IS 'Remove connections and rotations; adopted ones only with adopted => true';

CREATE FUNCTION provisioner.remove_gone(target text, project uuid) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM provisioner.seen_projects AS s WHERE s.target = remove_gone.target AND s.project_id = remove_gone.project;
    SELECT count(*) FROM provisioner.remove(ARRAY(
        SELECT q.id FROM provisioner.connection_requests AS q
        WHERE
            q.target = remove_gone.target AND q.project_id = remove_gone.project
            AND q.wanted = 'present' AND q.status <> 'cancelled'
    ))
$$;

CREATE FUNCTION provisioner.remove_rotations_of(request bigint, adopted boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    users bigint[] := ARRAY (
        SELECT r.id
        FROM provisioner.connection_requests AS c
        JOIN provisioner.rotation_requests AS r
            ON r.target = c.target AND r.project_id = c.project_id AND r.connection = c.name
        WHERE c.id = request AND (NOT r.adopted OR remove_rotations_of.adopted)
        ORDER BY r.id
    );
BEGIN
    PERFORM provisioner.remove(users, remove_rotations_of.adopted);
    IF EXISTS (
        SELECT FROM provisioner.rotation_requests AS r WHERE r.id = ANY (users) AND r.wanted = 'absent' AND r.status = 'pending'
    ) THEN
        UPDATE provisioner.waiting AS w SET run_at = 'infinity', quarantine = 'rotations' WHERE w.id = request;
    END IF;
END
$$;

CREATE FUNCTION provisioner.reopen(request bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.repair(ids bigint[], wrong text[]) RETURNS TABLE(id bigint, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    found record;
    request provisioner.requests;
    sent text[];
BEGIN
    FOR found IN
        SELECT g.id, array_agg(DISTINCT g.what) AS what FROM unnest(repair.ids, repair.wrong) AS g (id, what) GROUP BY g.id ORDER BY g.id
    LOOP
        BEGIN
            PERFORM provisioner.lock_requests(ARRAY [found.id]);
            SELECT q.* INTO request FROM provisioner.requests AS q WHERE q.id = found.id;
            CONTINUE WHEN request.id IS NULL;
            sent := ARRAY (
                SELECT w FROM unnest(found.what) AS w
                WHERE w NOT IN ('gone', 'failing') AND NOT (
                    w = 'credential' AND EXISTS (
                        SELECT FROM provisioner.connection_requests AS q WHERE q.id = found.id AND q.credential LIKE 'sealed:%:wiped'
                    )
                )
            );
            id := found.id;
            outcome := CASE
                WHEN request.status <> 'succeeded' OR request.wanted <> 'present' THEN 'not now'
                WHEN request.adopted AND request.on_conflict <> 'replace' THEN 'adopted'
                WHEN sent <> '{}' OR 'gone' = ANY (found.what) THEN 'repairing'
                WHEN 'failing' = ANY (found.what) THEN 'failing'
                ELSE 'wiped'
            END;
            IF outcome = 'repairing' THEN
                IF sent <> '{}' THEN
                    PERFORM provisioner.note_edits(found.id, sent);
                END IF;
                PERFORM provisioner.reopen(found.id);
            END IF;
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            IF provisioner.is_about_all(SQLSTATE) THEN
                RAISE;
            END IF;
            RAISE NOTICE 'request % is left as it is: %', found.id, SQLERRM;
        END;
    END LOOP;
END
$$;

COMMENT ON FUNCTION provisioner.repair(ids bigint[], wrong text[]) IS 'Put connections and rotations in line that differ from what was recorded';

CREATE FUNCTION provisioner.request_credential_edited() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL WHERE w.id = new.id AND w.quarantine IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.request_discovered(target text, projects uuid[], names text[], credential text, batch text) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH new AS (
        INSERT INTO provisioner.connection_requests (target, project_id, project_name, credential, batch)
        SELECT
            request_discovered.target, p.id, p.name, request_discovered.credential, request_discovered.batch
        FROM unnest(request_discovered.projects, request_discovered.names) AS p (id, name)
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT count(*) FROM new
$$;

CREATE FUNCTION provisioner.request_edited() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.request_set_apart() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.request_status_edited() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION provisioner.request_wished() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.requests_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.requests_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.requests_truncated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.resume(target text) RETURNS TABLE(target text, paused_at timestamp with time zone, paused_by text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE provisioner.forecast_turn SET due_at = '-infinity';
    WITH held AS (
        SELECT t.target, t.paused_at, t.paused_by FROM provisioner.targets AS t
        WHERE t.target = resume.target AND t.paused_at IS NOT NULL
        FOR UPDATE
    ),
    freed AS (
        UPDATE provisioner.targets AS t SET paused_at = NULL, paused_by = NULL FROM held AS h WHERE t.target = h.target
    )
    SELECT h.target, h.paused_at, h.paused_by FROM held AS h
$$;

COMMENT ON FUNCTION provisioner.resume(target text) IS 'Resume a paused target; returns since when it was paused and by whom';

CREATE FUNCTION provisioner.retry(ids bigint[]) RETURNS TABLE(id bigint, was text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    found_ids bigint[];
    states text[];
    one bigint;
BEGIN
    -- A deadlock with a worker, which takes many at once too, costs a round.
    FOR round IN 1..20 LOOP
        BEGIN
            SELECT coalesce(array_agg(b.id), '{}'), coalesce(array_agg(b.was), '{}') INTO found_ids, states
            FROM provisioner.begin_again(ARRAY (
                SELECT q.id FROM provisioner.requests AS q
                WHERE q.id = ANY (retry.ids) AND q.status IN ('failed', 'cancelled', 'removed')
            )) AS b;
            WITH waits AS (
                SELECT w.id, w.target, w.quarantine
                FROM provisioner.waiting AS w
                WHERE w.id = ANY (retry.ids) AND w.run_at > now() AND w.id NOT IN (SELECT unnest(found_ids))
                    AND (
                        w.quarantine LIKE '%:%'
                        OR (
                            w.quarantine IS NULL
                            AND EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id AND NOT s.cancelled)
                        )
                    )
                ORDER BY w.id
                FOR UPDATE
            ),
            hurried AS (
                UPDATE provisioner.waiting AS w
                SET run_at = now(), quarantine = NULL
                FROM waits AS f
                WHERE w.id = f.id
                RETURNING w.id, CASE WHEN f.quarantine IS NULL THEN 'retrying' ELSE 'quarantined' END AS was
            ),
            -- A request that waits for a quarantined key cannot precede its release, so the key's next probe becomes
            -- due now.
            probed AS (
                UPDATE provisioner.credential_health AS h
                SET probe_at = now(), version = h.version + 1
                WHERE h.quarantined_since IS NOT NULL
                    AND EXISTS (SELECT FROM waits AS w WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential)
            ),
            -- Likewise for a project without the machine identity: the list of projects is read again, or a create
            -- becomes due.
            listed AS (
                UPDATE provisioner.project_checks AS k
                SET read_pause = '0 seconds', probed_at = NULL
                WHERE EXISTS (SELECT FROM waits AS w WHERE w.target = k.target AND w.quarantine LIKE 'project:%')
            ),
            reprobed AS (
                UPDATE provisioner.project_health AS h
                SET probe_at = now()
                WHERE h.cause = 'no_permission'
                    AND EXISTS (SELECT FROM waits AS w WHERE w.target = h.target AND w.quarantine = 'project:' || h.project_id)
            )
            SELECT found_ids || coalesce(array_agg(h.id), '{}'), states || coalesce(array_agg(h.was), '{}')
            INTO found_ids, states
            FROM hurried AS h;
            EXIT;
        EXCEPTION
            WHEN deadlock_detected THEN
                found_ids := NULL;
            WHEN OTHERS THEN
                found_ids := NULL;
                states := NULL;
                IF provisioner.is_about_all(SQLSTATE) THEN
                    RAISE;
                ELSIF cardinality(retry.ids) = 1 THEN
                    RAISE NOTICE 'request % is left as it is: %', retry.ids[1], SQLERRM;
                ELSE
                    FOR one IN SELECT DISTINCT i FROM unnest(retry.ids) AS i ORDER BY i LOOP
                        SELECT found_ids || coalesce(array_agg(c.id), '{}'), states || coalesce(array_agg(c.was), '{}')
                        INTO found_ids, states
                        FROM provisioner.retry(ARRAY[one]) AS c;
                    END LOOP;
                END IF;
                EXIT;
        END;
    END LOOP;
    RETURN QUERY SELECT c.id, c.was FROM unnest(found_ids, states) AS c (id, was) ORDER BY c.id;
END
$$;

COMMENT ON FUNCTION provisioner.retry(ids bigint[]) IS 'Retry failed, cancelled, removed or waiting requests';

CREATE FUNCTION provisioner.rotation_edited() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
        RAISE EXCEPTION 'the id of request % cannot be changed', old.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request.';
    END IF;
    IF current_setting('provisioner.renaming', true) = 'on' THEN
        RETURN NULL;  -- its connection has another name now, and is the same
    END IF;
    IF recorded AND fixed <> '{}' THEN
        RAISE EXCEPTION 'request % already has a rotation, which was created with its %: that cannot be changed', new.id,
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
        PERFORM provisioner.note_edits(new.id, patched);
    ELSIF new.status <> 'pending' OR old.status <> 'pending' OR changed <@ '{project_name}' AND naming = '{}' THEN
        RETURN NULL;
    END IF;
    IF fixed <> '{}' THEN
        -- It may have another project or connection now, so an old quarantine says nothing about it.
        UPDATE provisioner.waiting AS w SET quarantine = NULL WHERE w.id = new.id AND w.quarantine LIKE '%:%';
    END IF;
    IF NOT provisioner.reopen(new.id) THEN
        RAISE EXCEPTION 'request % is in flight: its % cannot be changed now', new.id, array_to_string(changed, ', ')
        USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.rotation_ended() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.rotation_requests_counted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(n.target, '') || '/rotations', coalesce(n.batch, ''), coalesce(n.requested_by, ''),
            provisioner.counted_as(n.status, n.wanted, n.rotation_id), coalesce(n.error_code, ''),
            count(*), min(n.created_at), max(n.finished_at), max(n.id)
        FROM new_rows AS n
        GROUP BY 1, 2, 3, 4, 5;
    WHEN 'UPDATE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(c.target, '') || '/rotations', coalesce(c.batch, ''), coalesce(c.requested_by, ''), c.counted_as,
            coalesce(c.error_code, ''), sum(c.requests), min(c.created_at), max(c.finished_at), max(c.id)
        FROM (
            SELECT
                o.target, o.batch, o.requested_by, provisioner.counted_as(o.status, o.wanted, o.rotation_id) AS counted_as, o.error_code,
                -1 AS requests, NULL AS created_at, NULL AS finished_at, NULL AS id
            FROM old_rows AS o
            UNION ALL
            SELECT
                n.target, n.batch, n.requested_by, provisioner.counted_as(n.status, n.wanted, n.rotation_id), n.error_code,
                1, n.created_at, n.finished_at, n.id
            FROM new_rows AS n
        ) AS c
        GROUP BY 1, 2, 3, 4, 5
        HAVING sum(c.requests) <> 0;
    WHEN 'DELETE' THEN
        INSERT INTO provisioner.count_changes
        SELECT
            coalesce(o.target, '') || '/rotations', coalesce(o.batch, ''), coalesce(o.requested_by, ''),
            provisioner.counted_as(o.status, o.wanted, o.rotation_id), coalesce(o.error_code, ''), -count(*)
        FROM old_rows AS o
        GROUP BY 1, 2, 3, 4, 5;
    ELSE
        DELETE FROM provisioner.counts AS k WHERE k.target = split_part(k.target, '/', 1) || '/rotations';
        DELETE FROM provisioner.count_changes AS h WHERE h.target = split_part(h.target, '/', 1) || '/rotations';
    END CASE;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.rotations_first() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM provisioner.remove_rotations_of(new.id, false);
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.rotations_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM provisioner.place(ARRAY (SELECT n.id FROM new_rows AS n WHERE n.status = 'pending'));
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.sealing_key() RETURNS TABLE(key_id text, public_key text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.key_id, encode(k.public_key, 'base64')
    FROM provisioner.sealing_keys AS k
    WHERE k.retired_at IS NULL
    ORDER BY k.created_at DESC, k.key_id
    LIMIT 1
$$;

COMMENT ON FUNCTION provisioner.sealing_key() IS 'The current sealing key: its id and its public half in base64';

CREATE FUNCTION provisioner.set_limit(target text, writes integer DEFAULT NULL::integer, period interval DEFAULT '00:01:00'::interval, in_flight integer DEFAULT NULL::integer) RETURNS TABLE(target text, writes integer, period double precision, in_flight integer, limited_at timestamp with time zone, limited_by text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE provisioner.forecast_turn SET due_at = least(due_at, clock_timestamp());
    WITH wanted AS (
        SELECT
            coalesce(set_limit.writes, set_limit.in_flight) IS NOT NULL AS limited,
            CASE WHEN set_limit.writes IS NOT NULL THEN extract(EPOCH FROM set_limit.period)::double precision END AS seconds
    )
    INSERT INTO provisioner.targets AS t (target, writes_limit, writes_period, in_flight_limit, limited_at, limited_by)
    SELECT
        set_limit.target, set_limit.writes, w.seconds, set_limit.in_flight,
        CASE WHEN w.limited THEN now() END, CASE WHEN w.limited THEN session_user END
    FROM wanted AS w
    ON CONFLICT ON CONSTRAINT targets_pkey DO UPDATE SET
        writes_limit = CASE WHEN excluded.limited_at IS NOT NULL THEN coalesce(excluded.writes_limit, t.writes_limit) END,
        writes_period = CASE WHEN excluded.limited_at IS NOT NULL THEN coalesce(excluded.writes_period, t.writes_period) END,
        in_flight_limit = CASE WHEN excluded.limited_at IS NOT NULL THEN coalesce(excluded.in_flight_limit, t.in_flight_limit) END,
        limited_at = excluded.limited_at,
        limited_by = excluded.limited_by
    RETURNING t.target, t.writes_limit, t.writes_period, t.in_flight_limit, t.limited_at, t.limited_by
$$;

COMMENT ON FUNCTION provisioner.set_limit(target text, writes integer, period interval, in_flight integer) IS 'Limit a target while workers run; with the target alone, restore the settings';

CREATE FUNCTION provisioner.sweep(most integer, pause interval, OUT seen integer, OUT placed integer, OUT done boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    place bigint;
    newest bigint;
    newest_rotation bigint;
    next bigint;
    strays bigint[];
    fresh bigint[];
BEGIN
    seen := 0;
    placed := 0;
    done := false;
    SELECT s.position INTO place FROM provisioner.sweeps AS s
    WHERE s.swept_at <= clock_timestamp() - sweep.pause
    FOR UPDATE SKIP LOCKED;
    IF place IS NULL THEN
        RETURN;
    END IF;
    SELECT min(n.id) INTO newest
    FROM (SELECT q.id FROM provisioner.connection_requests AS q ORDER BY q.id DESC LIMIT sweep.most / 4) AS n;
    SELECT min(n.id) INTO newest_rotation
    FROM (SELECT r.id FROM provisioner.rotation_requests AS r ORDER BY r.id DESC LIMIT sweep.most / 4) AS n;
    SELECT m.ids, m.last INTO strays, next FROM provisioner.misplaced(place, sweep.most) AS m;
    -- What was just checked is not checked again.
    SELECT m.ids INTO fresh FROM provisioner.misplaced(greatest(newest - 1, next, place), sweep.most) AS m;
    strays := ARRAY (
        SELECT unnest(strays) UNION SELECT unnest(fresh)
        UNION SELECT unnest(m.ids) FROM provisioner.misplaced(newest_rotation - 1, sweep.most) AS m
    );
    seen := cardinality(strays);
    IF seen > 0 THEN
        placed := provisioner.put_in_line(strays);
    END IF;
    done := next IS NULL;
    UPDATE provisioner.sweeps SET position = coalesce(next, 0), swept_at = clock_timestamp();
END
$$;

CREATE FUNCTION provisioner.take_place(request bigint, until timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION provisioner.time_to_show() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT interval '40 seconds' $$;

CREATE FUNCTION provisioner.turn_attempt_log(keep interval) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '100ms'
    AS $_$
DECLARE
    day date;
    part text;
BEGIN
    FOR day IN SELECT d::date FROM generate_series(current_date, current_date + 2, interval '1 day') AS d LOOP
        part := 'attempts_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('provisioner.' || part) IS NULL THEN
            -- Records in the default partition are moved into their day. The parent table is locked first, because
            -- writers lock it before the partitions.
            LOCK TABLE provisioner.attempts IN SHARE UPDATE EXCLUSIVE MODE;
            LOCK TABLE provisioner.attempts_other IN ACCESS EXCLUSIVE MODE;
            CONTINUE WHEN to_regclass('provisioner.' || part) IS NOT NULL;
            EXECUTE format('CREATE TABLE provisioner.%I (LIKE provisioner.attempts)', part);
            EXECUTE format(
                'WITH moved AS (DELETE FROM provisioner.attempts_other WHERE ended_at >= %L AND ended_at < %L RETURNING *)'
                ' INSERT INTO provisioner.%I SELECT * FROM moved',
                day::timestamptz, (day + 1)::timestamptz, part
            );
            EXECUTE format(
                'ALTER TABLE provisioner.attempts ATTACH PARTITION provisioner.%I FOR VALUES FROM (%L) TO (%L)',
                part, day::timestamptz, (day + 1)::timestamptz
            );
        END IF;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'provisioner.attempts'::regclass AND c.relname ~ '^attempts_[0-9]{8}$'
            AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - keep
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS provisioner.%I', part);
    END LOOP;
    DELETE FROM provisioner.attempts_other AS a WHERE a.ended_at < now() - keep;
    RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN false;
END
$_$;

CREATE FUNCTION provisioner.utf16_length(given text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT length(given) + length(regexp_replace(given, '[^\U00010000-\U0010FFFF]', '', 'g'))
$$;

CREATE FUNCTION provisioner.while_pending(status text, live anyelement, recorded anyelement) RETURNS anyelement
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN status = 'pending' THEN live ELSE recorded END
$$;

CREATE TABLE provisioner.failed_boxes (
    id bigint NOT NULL,
    failed_at timestamp with time zone NOT NULL,
    box bigint NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.failed_boxes IS 'Sealed keys of failed requests, which are wiped after a time';

CREATE FUNCTION provisioner.wipe_boxes(boxes provisioner.failed_boxes[]) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    ids bigint[];
    changed integer;
BEGIN
    PERFORM set_config('provisioner.recording', 'on', true);
    SELECT array_agg(q.id) INTO ids
    FROM provisioner.connection_requests AS q
    WHERE
        q.id = ANY (ARRAY (SELECT b.id FROM unnest(boxes) AS b)) AND q.status = 'failed'
        AND hashtextextended(q.credential, 0) IN (SELECT b.box FROM unnest(boxes) AS b WHERE b.id = q.id);
    UPDATE provisioner.connection_requests AS q
    SET
        credential = provisioner.wiped(q.credential, to_char(now() AT TIME ZONE 'UTC', ':YYYY-MM-DD')),
        error_message = concat_ws(
            '; ', q.error_message,
            to_char(now() AT TIME ZONE 'UTC', '"the sealed key was wiped on "YYYY-MM-DD": give the row a new one before a retry"')
        )
    WHERE q.id = ANY (ids) AND q.status = 'failed'
        AND hashtextextended(q.credential, 0) IN (SELECT b.box FROM unnest(boxes) AS b WHERE b.id = q.id);
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed < coalesce(cardinality(ids), 0) AND cardinality(boxes) = 1 THEN
        PERFORM provisioner.not_updated(ids[1]);
    ELSIF changed < coalesce(cardinality(ids), 0) THEN
        RAISE EXCEPTION 'not all could be wiped' USING ERRCODE = 'triggered_action_exception';
    END IF;
    DELETE FROM provisioner.failed_boxes AS f
    WHERE f.failed_at = ANY (ARRAY (SELECT b.failed_at FROM unnest(boxes) AS b))
        AND f.box IN (SELECT b.box FROM unnest(boxes) AS b WHERE b.id = f.id);
    PERFORM set_config('provisioner.recording', before, true);
    RETURN changed;
END
$$;

CREATE FUNCTION provisioner.wipe_failed_boxes(keep interval, most integer, OUT due integer, OUT wiped integer) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    boxes provisioner.failed_boxes[];
    box provisioner.failed_boxes;
    ids bigint[];
BEGIN
    SELECT array_agg(b), count(*) INTO boxes, due
    FROM (
        SELECT f.* FROM provisioner.failed_boxes AS f
        WHERE f.failed_at <= now() - wipe_failed_boxes.keep
        ORDER BY f.failed_at
        LIMIT wipe_failed_boxes.most
        FOR UPDATE SKIP LOCKED
    ) AS b;
    wiped := 0;
    IF due = 0 THEN
        RETURN;
    END IF;
    BEGIN
        wiped := provisioner.wipe_boxes(boxes);
        SET CONSTRAINTS ALL IMMEDIATE;  -- deferred triggers must fire here
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        wiped := 0;
    END;
    FOREACH box IN ARRAY boxes LOOP
        BEGIN
            wiped := wiped + provisioner.wipe_boxes(ARRAY [box]);
            SET CONSTRAINTS ALL IMMEDIATE;
        EXCEPTION WHEN OTHERS THEN
            UPDATE provisioner.failed_boxes AS f
            SET failed_at = now() - wipe_failed_boxes.keep + interval '1 hour'
            WHERE f.failed_at = box.failed_at AND f.id = box.id AND f.box = box.box;
        END;
    END LOOP;
END
$$;

CREATE FUNCTION provisioner.wiped(credential text, day text DEFAULT ''::text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE
        WHEN credential LIKE 'sealed:%' AND credential NOT LIKE '%:wiped'
            THEN 'sealed:' || split_part(credential, ':', 2) || day || ':wiped'
        ELSE credential
    END
$$;

CREATE FUNCTION provisioner.withhold_readable_key() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    new.credential := '';
    RETURN new;
END
$$;

CREATE TABLE provisioner.attempt_state (
    id bigint NOT NULL,
    attempt integer NOT NULL,
    sent integer NOT NULL,
    failures integer NOT NULL,
    streak integer DEFAULT 0 NOT NULL,
    streak_of text,
    since timestamp with time zone NOT NULL,
    cancelled boolean DEFAULT false NOT NULL,
    error_code text,
    error_message text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

CREATE TABLE provisioner.attempts (
    request_id bigint NOT NULL,
    attempt integer NOT NULL,
    worker bigint NOT NULL,
    action text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    http_status smallint,
    req_id text,
    outcome text NOT NULL,
    error_code text,
    error_message text
)
PARTITION BY RANGE (ended_at);

CREATE TABLE provisioner.attempts_other (
    request_id bigint CONSTRAINT attempts_request_id_not_null NOT NULL,
    attempt integer CONSTRAINT attempts_attempt_not_null NOT NULL,
    worker bigint CONSTRAINT attempts_worker_not_null NOT NULL,
    action text CONSTRAINT attempts_action_not_null NOT NULL,
    started_at timestamp with time zone CONSTRAINT attempts_started_at_not_null NOT NULL,
    ended_at timestamp with time zone CONSTRAINT attempts_ended_at_not_null NOT NULL,
    http_status smallint,
    req_id text,
    outcome text CONSTRAINT attempts_outcome_not_null NOT NULL,
    error_code text,
    error_message text
);

CREATE TABLE provisioner.count_changes (
    target text CONSTRAINT counts_target_not_null NOT NULL,
    batch text CONSTRAINT counts_batch_not_null NOT NULL,
    requested_by text CONSTRAINT counts_requested_by_not_null NOT NULL,
    status text CONSTRAINT counts_status_not_null NOT NULL,
    error_code text CONSTRAINT counts_error_code_not_null NOT NULL,
    requests bigint CONSTRAINT counts_requests_not_null NOT NULL,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    newest bigint,
    change bigint NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.count_changes IS 'Changes by statements, until a worker folds them into counts';

CREATE TABLE provisioner.counts (
    target text NOT NULL,
    batch text NOT NULL,
    requested_by text NOT NULL,
    status text NOT NULL,
    error_code text NOT NULL,
    requests bigint NOT NULL,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    newest bigint
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.counts IS 'The number of requests of each kind, without the changes in count_changes';

COMMENT ON COLUMN provisioner.counts.newest IS 'The largest id that was ever of this kind';

CREATE TABLE provisioner.forecast_turn (
    one boolean DEFAULT true NOT NULL,
    made_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    due_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE provisioner.forecasts (
    target text NOT NULL,
    batch text NOT NULL,
    ends_at timestamp with time zone,
    ends_why text,
    urgency smallint
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.forecasts IS 'When each batch will have ended in each line, or why that is unknown';

CREATE TABLE provisioner.in_flight (
    id bigint NOT NULL,
    worker bigint NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    claimed_at timestamp with time zone NOT NULL,
    attempt integer NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    cancelled boolean DEFAULT false NOT NULL,
    target text NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');

CREATE TABLE provisioner.line_forecasts (
    target text NOT NULL,
    seen_at double precision NOT NULL,
    ended bigint NOT NULL,
    busy boolean NOT NULL,
    seconds double precision NOT NULL,
    permits double precision NOT NULL,
    got double precision NOT NULL,
    pace double precision,
    ends_at timestamp with time zone,
    ends_why text,
    urgency smallint
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.line_forecasts IS 'How fast each line moves, and when everything in it will have ended';

COMMENT ON COLUMN provisioner.line_forecasts.permits IS 'Permits that the limiter left us in the last `seconds` with work in line; `got` requests ended with them';

COMMENT ON COLUMN provisioner.line_forecasts.pace IS 'Requests a second that will end; NULL while that is unknown';

COMMENT ON COLUMN provisioner.line_forecasts.urgency IS 'The position of ends_why among the reasons: the smallest is given';

CREATE TABLE provisioner.ready (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    id bigint NOT NULL,
    project_id uuid NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

CREATE VIEW provisioner.request_counts WITH (security_barrier='true') AS
 SELECT target,
    NULLIF(batch, ''::text) AS batch,
    NULLIF(requested_by, ''::text) AS requested_by,
        CASE
            WHEN (status = ANY (ARRAY['updating'::text, 'removing'::text])) THEN 'pending'::text
            ELSE status
        END AS status,
    NULLIF(error_code, ''::text) AS error_code,
    (sum(requests))::bigint AS requests,
    min(started_at) AS started_at,
    max(ended_at) AS ended_at,
    max(newest) AS newest,
    status AS counted_as
   FROM ( SELECT k.target,
            k.batch,
            k.requested_by,
            k.status,
            k.error_code,
            k.requests,
            k.started_at,
            k.ended_at,
            k.newest
           FROM provisioner.counts k
          WHERE (k.requests <> 0)
        UNION ALL
         SELECT h.target,
            h.batch,
            h.requested_by,
            h.status,
            h.error_code,
            h.requests,
            h.started_at,
            h.ended_at,
            h.newest
           FROM provisioner.count_changes h) c
  WHERE ((requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege))
  GROUP BY target, batch, requested_by, status, error_code
 HAVING (sum(requests) <> (0)::numeric);

COMMENT ON VIEW provisioner.request_counts IS 'The number of requests of each kind, quickly in a table of any size';

COMMENT ON COLUMN provisioner.request_counts.counted_as IS 'The status, or updating or removing for a pending request that does that';

CREATE TABLE provisioner.rotation_requests (
    id bigint NOT NULL,
    target text DEFAULT 'default'::text NOT NULL,
    project_id uuid NOT NULL,
    name text DEFAULT 'openrouter'::text NOT NULL,
    connection text DEFAULT 'openrouter'::text NOT NULL,
    environment text DEFAULT 'prod'::text NOT NULL,
    secret_path text DEFAULT '/'::text NOT NULL,
    secret_name text DEFAULT 'OPENROUTER_API_KEY'::text NOT NULL,
    interval_days integer DEFAULT 30 NOT NULL,
    rotate_at time without time zone DEFAULT '00:00:00'::time without time zone NOT NULL,
    key_name text DEFAULT '{project_name} {environment}'::text NOT NULL,
    spend_limit numeric,
    limit_reset text,
    include_byok boolean,
    description text,
    on_conflict text DEFAULT 'fail'::text NOT NULL,
    priority smallint DEFAULT 0 NOT NULL,
    batch text,
    project_name text,
    wanted text DEFAULT 'present'::text NOT NULL,
    with_secrets boolean DEFAULT false NOT NULL,
    revoke_keys boolean DEFAULT false NOT NULL,
    not_before timestamp with time zone,
    requested_by text DEFAULT CURRENT_USER NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    rotation_id uuid,
    connection_id uuid,
    key_issued text,
    adopted boolean DEFAULT false NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    left_behind text,
    error_code text,
    error_message text,
    finished_at timestamp with time zone,
    CONSTRAINT rotation_requests_batch_check CHECK (((length(batch) >= 1) AND (length(batch) <= 200))),
    CONSTRAINT rotation_requests_created_at_check CHECK (((created_at >= '0001-01-02 00:00:00+00'::timestamp with time zone) AND (created_at < '9999-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT rotation_requests_description_check CHECK ((provisioner.utf16_length(description) <= 255)),
    CONSTRAINT rotation_requests_environment_check CHECK (((environment ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text) AND (length(environment) <= 64))),
    CONSTRAINT rotation_requests_interval_days_check CHECK (((interval_days >= 1) AND (interval_days <= 3650))),
    CONSTRAINT rotation_requests_key_name_check CHECK (((key_name ~ '\S'::text) AND (length(key_name) <= 200))),
    CONSTRAINT rotation_requests_limit_reset_check CHECK ((limit_reset = ANY (ARRAY['daily'::text, 'weekly'::text, 'monthly'::text]))),
    CONSTRAINT rotation_requests_name_check CHECK (((length(name) <= 64) AND (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text))),
    CONSTRAINT rotation_requests_not_before_check CHECK (((not_before >= '0001-01-02 00:00:00+00'::timestamp with time zone) AND (not_before < '9999-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT rotation_requests_on_conflict_check CHECK ((on_conflict = ANY (ARRAY['fail'::text, 'adopt'::text]))),
    CONSTRAINT rotation_requests_priority_check CHECK ((priority > '-32768'::integer)),
    CONSTRAINT rotation_requests_project_name_check CHECK ((((length(project_name) >= 1) AND (length(project_name) <= 200)) AND (project_name !~ '[\u0001-\u001F\u007F-\u009F]'::text))),
    CONSTRAINT rotation_requests_requested_by_check CHECK ((length(requested_by) <= 200)),
    CONSTRAINT rotation_requests_rotate_at_check CHECK ((rotate_at < '24:00:00'::time without time zone)),
    CONSTRAINT rotation_requests_secret_name_check CHECK ((secret_name ~ '^[^:/\s]{1,200}$'::text)),
    CONSTRAINT rotation_requests_secret_path_check CHECK (((secret_path ~ '^/([^/\s]+/)*[^/\s]*$'::text) AND (length(secret_path) <= 500))),
    CONSTRAINT rotation_requests_spend_limit_check CHECK (((spend_limit >= 0.000001) AND (spend_limit < '1000000000'::numeric))),
    CONSTRAINT rotation_requests_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text, 'removed'::text]))),
    CONSTRAINT rotation_requests_target_check CHECK ((target ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text)),
    CONSTRAINT rotation_requests_wanted_check CHECK ((wanted = ANY (ARRAY['present'::text, 'absent'::text])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='50000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='50000');

COMMENT ON TABLE provisioner.rotation_requests IS 'Each row requests one secret rotation: a key of its own for a project';

COMMENT ON COLUMN provisioner.rotation_requests.connection IS 'The name of the connection with the management key, in the same project';

COMMENT ON COLUMN provisioner.rotation_requests.key_name IS 'The key''s name at OpenRouter, in which {project_name}, {project_id} and {environment} are replaced';

COMMENT ON COLUMN provisioner.rotation_requests.with_secrets IS 'Whether removing it also deletes its secret';

COMMENT ON COLUMN provisioner.rotation_requests.revoke_keys IS 'Whether removing it also revokes its keys at OpenRouter';

COMMENT ON COLUMN provisioner.rotation_requests.key_issued IS 'The name under which OpenRouter lists the key';

COMMENT ON COLUMN provisioner.rotation_requests.left_behind IS 'Which other keys stay or may stay at OpenRouter, and what to do; set it to NULL when that is done';

CREATE VIEW provisioner.requests AS
 SELECT q.id,
    q.target,
    q.batch,
    q.requested_by,
    q.status,
    q.error_code,
    q.created_at,
    q.finished_at,
    q.attempts,
    q.wanted,
    q.connection_id AS recorded_id,
    provisioner.counted_as(q.status, q.wanted, q.connection_id) AS counted_as,
    q.project_id,
    q.project_name,
    q.error_message,
    q.priority,
    q.not_before,
    q.adopted,
    q.on_conflict,
    false AS needs_connection
   FROM provisioner.connection_requests q
UNION ALL
 SELECT r.id,
    (r.target || '/rotations'::text) AS target,
    r.batch,
    r.requested_by,
    r.status,
    r.error_code,
    r.created_at,
    r.finished_at,
    r.attempts,
    r.wanted,
    r.rotation_id AS recorded_id,
    provisioner.counted_as(r.status, r.wanted, r.rotation_id) AS counted_as,
    r.project_id,
    r.project_name,
    r.error_message,
    r.priority,
    r.not_before,
    r.adopted,
    r.on_conflict,
    ((r.wanted = 'present'::text) AND (r.rotation_id IS NULL) AND (NOT (EXISTS ( SELECT
           FROM provisioner.connection_requests c
          WHERE ((c.target = r.target) AND (c.project_id = r.project_id) AND (c.name = r.connection) AND (c.status = 'succeeded'::text)))))) AS needs_connection
   FROM provisioner.rotation_requests r;

COMMENT ON VIEW provisioner.requests IS 'All requests of every kind, in brief; a rotation''s target is that of its line';

CREATE TABLE provisioner.waiting (
    id bigint NOT NULL,
    run_at timestamp with time zone NOT NULL,
    target text NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    quarantine text
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON COLUMN provisioner.waiting.quarantine IS 'What the request waits for together with others, such as a credential that was refused';

CREATE TABLE provisioner.workers (
    id bigint NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    targets text[] NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    stopping boolean DEFAULT false NOT NULL,
    created integer DEFAULT 0 NOT NULL,
    pace double precision DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON COLUMN provisioner.workers.pace IS 'Recent creates a second';

CREATE VIEW provisioner.target_progress WITH (security_barrier='true') AS
 WITH lines AS (
         SELECT c.batch,
            c.target,
            c.counted_as,
            NULL::text AS state,
            c.requests,
            c.started_at,
            c.ended_at
           FROM provisioner.request_counts c
        UNION ALL
         SELECT q.batch,
            q.target,
            q.counted_as,
            provisioner.live_state(q.status, q.wanted, q.recorded_id, f_1.id, NULL::bigint, NULL::text, NULL::text, NULL::boolean) AS live_state,
            1,
            NULL::timestamp with time zone,
            NULL::timestamp with time zone
           FROM (provisioner.in_flight f_1
             JOIN provisioner.requests q ON ((q.id = f_1.id)))
          WHERE ((q.status = 'pending'::text) AND ((q.requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege)))
        UNION ALL
         SELECT q.batch,
            q.target,
            provisioner.counted_as(q.status, q.wanted, q.connection_id) AS counted_as,
            provisioner.live_state(q.status, q.wanted, q.connection_id, NULL::bigint, w.id, w.quarantine, s.error_message, s.cancelled) AS live_state,
            1,
            NULL::timestamp with time zone,
            NULL::timestamp with time zone
           FROM ((provisioner.waiting w
             JOIN provisioner.connection_requests q ON ((q.id = w.id)))
             LEFT JOIN provisioner.attempt_state s ON ((s.id = w.id)))
          WHERE ((q.status = 'pending'::text) AND ((q.requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege)))
        UNION ALL
         SELECT r.batch,
            w.target,
            provisioner.counted_as(r.status, r.wanted, r.rotation_id) AS counted_as,
            provisioner.live_state(r.status, r.wanted, r.rotation_id, NULL::bigint, w.id, w.quarantine, s.error_message, s.cancelled) AS live_state,
            1,
            NULL::timestamp with time zone,
            NULL::timestamp with time zone
           FROM ((provisioner.rotation_requests r
             JOIN provisioner.waiting w ON ((w.id = r.id)))
             LEFT JOIN provisioner.attempt_state s ON ((s.id = w.id)))
          WHERE ((r.status = 'pending'::text) AND ((r.requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege)))
        ), summed AS (
         SELECT l.batch,
            l.target,
            (GROUPING(l.batch) = 1) AS total,
            COALESCE(sum(l.requests) FILTER (WHERE ((l.state IS NULL) AND (l.counted_as = ANY (ARRAY['pending'::text, 'updating'::text, 'removing'::text])))), (0)::numeric) AS unfinished,
            count(*) FILTER (WHERE (l.state = 'waiting'::text)) AS waiting,
            count(*) FILTER (WHERE (l.state = 'in_flight'::text)) AS in_flight,
            count(*) FILTER (WHERE (l.state = 'retrying'::text)) AS retrying,
            count(*) FILTER (WHERE (l.state = 'quarantined'::text)) AS quarantined,
            (COALESCE(sum(l.requests) FILTER (WHERE ((l.state IS NULL) AND (l.counted_as = 'updating'::text))), (0)::numeric) - (count(*) FILTER (WHERE ((l.state = ANY (ARRAY['retrying'::text, 'quarantined'::text])) AND (l.counted_as = 'updating'::text))))::numeric) AS updating,
            (COALESCE(sum(l.requests) FILTER (WHERE ((l.state IS NULL) AND (l.counted_as = 'removing'::text))), (0)::numeric) - (count(*) FILTER (WHERE ((l.state = ANY (ARRAY['retrying'::text, 'quarantined'::text])) AND (l.counted_as = 'removing'::text))))::numeric) AS removing,
            COALESCE(sum(l.requests) FILTER (WHERE (l.counted_as = 'succeeded'::text)), (0)::numeric) AS succeeded,
            COALESCE(sum(l.requests) FILTER (WHERE (l.counted_as = 'failed'::text)), (0)::numeric) AS failed,
            COALESCE(sum(l.requests) FILTER (WHERE (l.counted_as = 'cancelled'::text)), (0)::numeric) AS cancelled,
            COALESCE(sum(l.requests) FILTER (WHERE (l.counted_as = 'removed'::text)), (0)::numeric) AS removed,
            min(l.started_at) AS started_at,
            max(l.ended_at) AS last_finished_at
           FROM lines l
          GROUP BY GROUPING SETS ((l.batch, l.target), (l.target))
        ), foreseen AS (
         SELECT s.batch,
            s.target,
            s.total,
            s.unfinished,
            s.waiting,
            s.in_flight,
            s.retrying,
            s.quarantined,
            s.updating,
            s.removing,
            s.succeeded,
            s.failed,
            s.cancelled,
            s.removed,
            s.started_at,
            s.last_finished_at,
            ((((((s.unfinished - (s.waiting)::numeric) - (s.in_flight)::numeric) - (s.retrying)::numeric) - (s.quarantined)::numeric) - s.updating) - s.removing) AS ready,
            ((((s.unfinished + s.succeeded) + s.failed) + s.cancelled) + s.removed) AS requests,
                CASE
                    WHEN ((s.unfinished > (0)::numeric) AND (t.due_at > (now() - '00:00:15'::interval)) AND w.told) THEN w.ends_at
                    ELSE NULL::timestamp with time zone
                END AS ends_at,
                CASE
                    WHEN (s.unfinished = (0)::numeric) THEN NULL::text
                    WHEN ((t.due_at > (now() - '00:00:15'::interval)) AND w.told) THEN w.ends_why
                    WHEN ((t.due_at > (now() - '00:00:15'::interval)) OR (EXISTS ( SELECT
                       FROM provisioner.workers k
                      WHERE ((k.lease_until > now()) AND (s.target = ANY (k.targets)))))) THEN 'not known yet'::text
                    ELSE 'nobody at work'::text
                END AS ends_why,
            w.urgency
           FROM ((summed s
             CROSS JOIN provisioner.forecast_turn t)
             LEFT JOIN LATERAL ( SELECT f_1.ends_at,
                    f_1.ends_why,
                    f_1.urgency,
                    ((f_1.ends_at IS NOT NULL) OR (f_1.ends_why IS NOT NULL)) AS told
                   FROM ( SELECT o.ends_at,
                            o.ends_why,
                            o.urgency,
                            false AS whole
                           FROM provisioner.forecasts o
                          WHERE ((NOT s.total) AND (o.target = s.target) AND (o.batch = COALESCE(s.batch, ''::text)))
                        UNION ALL
                         SELECT l.ends_at,
                            l.ends_why,
                            l.urgency,
                            true
                           FROM provisioner.line_forecasts l
                          WHERE ((l.target = s.target) AND (s.total OR (s.started_at < t.made_at)))) f_1
                  ORDER BY f_1.whole
                 LIMIT 1) w ON (true))
        )
 SELECT batch,
    target,
    total,
    (requests)::bigint AS requests,
    waiting,
    (ready)::bigint AS ready,
    in_flight,
    (succeeded)::bigint AS succeeded,
    (failed)::bigint AS failed,
    (cancelled)::bigint AS cancelled,
    (removed)::bigint AS removed,
    started_at,
        CASE
            WHEN (unfinished = (0)::numeric) THEN last_finished_at
            ELSE NULL::timestamp with time zone
        END AS ended_at,
        CASE
            WHEN ((unfinished > (0)::numeric) AND (ends_why IS NULL)) THEN GREATEST(ends_at, now())
            ELSE NULL::timestamp with time zone
        END AS ends_at,
    ends_why,
    retrying,
    quarantined,
    (updating)::bigint AS updating,
    (removing)::bigint AS removing,
    (unfinished)::bigint AS unfinished,
    urgency,
    last_finished_at
   FROM foreseen f
  WHERE (requests > (0)::numeric);

COMMENT ON VIEW provisioner.target_progress IS 'The progress of each line of a target, in total and by batch';

CREATE VIEW provisioner.progress WITH (security_barrier='true') AS
 SELECT split_part(target, '/'::text, 1) AS target,
    batch,
    total,
    (sum(requests))::bigint AS requests,
    (sum(waiting))::bigint AS waiting,
    (sum(ready))::bigint AS ready,
    (sum(in_flight))::bigint AS in_flight,
    (sum(succeeded))::bigint AS succeeded,
    (sum(failed))::bigint AS failed,
    (sum(cancelled))::bigint AS cancelled,
    min(started_at) AS started_at,
        CASE
            WHEN (sum(unfinished) = (0)::numeric) THEN max(last_finished_at)
            ELSE NULL::timestamp with time zone
        END AS ended_at,
        CASE
            WHEN ((sum(unfinished) > (0)::numeric) AND (count(ends_why) = 0)) THEN GREATEST(max(ends_at), now())
            ELSE NULL::timestamp with time zone
        END AS ends_at,
    (sum(removed))::bigint AS removed,
    (array_agg(ends_why ORDER BY (ends_why IS NULL), urgency))[1] AS ends_why,
    (sum(retrying))::bigint AS retrying,
    (sum(quarantined))::bigint AS quarantined,
    (sum(updating))::bigint AS updating,
    (sum(removing))::bigint AS removing
   FROM provisioner.target_progress f
  GROUP BY GROUPING SETS ((batch, total), ((split_part(target, '/'::text, 1)), batch, total));

COMMENT ON VIEW provisioner.progress IS 'The progress of each target with all its lines, and of everything (target NULL), in total and by batch';

CREATE VIEW provisioner.batch_progress WITH (security_barrier='true') AS
 SELECT p.batch,
    p.total,
    p.requests,
    p.waiting,
    p.ready,
    p.in_flight,
    p.succeeded,
    p.failed,
    p.cancelled,
    p.started_at,
    p.ended_at,
    p.ends_at,
    p.removed,
    p.ends_why,
    p.retrying,
    p.quarantined,
    p.updating,
    p.removing
   FROM provisioner.progress p
  WHERE (p.target IS NULL)
UNION ALL
 SELECT NULL::text AS batch,
    true AS total,
    0 AS requests,
    0 AS waiting,
    0 AS ready,
    0 AS in_flight,
    0 AS succeeded,
    0 AS failed,
    0 AS cancelled,
    NULL::timestamp with time zone AS started_at,
    NULL::timestamp with time zone AS ended_at,
    NULL::timestamp with time zone AS ends_at,
    0 AS removed,
    NULL::text AS ends_why,
    0 AS retrying,
    0 AS quarantined,
    0 AS updating,
    0 AS removing
  WHERE (NOT (EXISTS ( SELECT
           FROM provisioner.progress)));

COMMENT ON VIEW provisioner.batch_progress IS 'The progress of each batch and of everything, and when it will end';

CREATE TABLE provisioner.concurrency (
    target text NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    address text NOT NULL,
    in_flight_limit integer NOT NULL,
    metered boolean DEFAULT false NOT NULL,
    usual double precision,
    calls integer DEFAULT 0 NOT NULL,
    accepted integer DEFAULT 0 NOT NULL,
    elapsed double precision DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    headers integer DEFAULT 0 NOT NULL,
    pressed boolean DEFAULT false NOT NULL,
    ended_at double precision DEFAULT 0 NOT NULL,
    stalled_at double precision,
    stalled_with integer DEFAULT 0 NOT NULL,
    cliff integer,
    cliff_at double precision DEFAULT 0 NOT NULL,
    bar integer DEFAULT 0 NOT NULL,
    memory double precision DEFAULT 21600 NOT NULL,
    workers bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    held integer[] DEFAULT '{}'::integer[] NOT NULL,
    wanted integer[] DEFAULT '{}'::integer[] NOT NULL,
    running integer[] DEFAULT '{}'::integer[] NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.concurrency IS 'The limit on a target''s creates in flight over all its workers; times as in permits';

COMMENT ON COLUMN provisioner.concurrency.address IS 'The server that this was learned from: a target with another address starts anew';

COMMENT ON COLUMN provisioner.concurrency.usual IS 'Latency of creates in seconds while few are in flight';

COMMENT ON COLUMN provisioner.concurrency.calls IS 'Calls of the present round; likewise the five columns after it';

COMMENT ON COLUMN provisioner.concurrency.stalled_at IS 'When the present stall was noticed; NULL while calls end';

COMMENT ON COLUMN provisioner.concurrency.cliff IS 'The number in flight that stopped the server, at cliff_at';

COMMENT ON COLUMN provisioner.concurrency.bar IS 'The highest limit after the cliff, until hours have passed';

COMMENT ON COLUMN provisioner.concurrency.memory IS 'For how many seconds the bar applies; less than six hours for a suspected cliff';

COMMENT ON COLUMN provisioner.concurrency.held IS 'Slots of each worker, in their order; likewise wanted and running';

ALTER TABLE provisioner.connection_requests ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provisioner.connection_requests_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE provisioner.count_changes ALTER COLUMN change ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provisioner.count_changes_change_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE provisioner.credential_health (
    target text NOT NULL,
    credential text NOT NULL,
    fingerprint text NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    accepted_at timestamp with time zone,
    trials integer DEFAULT 0 NOT NULL,
    tried_at timestamp with time zone,
    refusals integer DEFAULT 0 NOT NULL,
    quarantined_since timestamp with time zone,
    reason text,
    probing boolean DEFAULT false NOT NULL,
    probe_at timestamp with time zone,
    probe_pause interval DEFAULT '00:01:00'::interval NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE provisioner.credential_health IS 'What OpenRouter said recently about the API keys in use, identified by salted fingerprints';

COMMENT ON COLUMN provisioner.credential_health.quarantined_since IS 'Since when requests with this key wait; NULL while they do not';

CREATE TABLE provisioner.discover_rounds (
    target text NOT NULL,
    started_at timestamp with time zone NOT NULL
);

CREATE TABLE provisioner.drifts (
    id bigint NOT NULL,
    target text NOT NULL,
    drift text,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    missed_at timestamp with time zone,
    unread boolean DEFAULT false NOT NULL
)
WITH (fillfactor='70');

COMMENT ON TABLE provisioner.drifts IS 'Recorded connections that differ from what Infisical has';

COMMENT ON COLUMN provisioner.drifts.drift IS 'How it differs; NULL while that is not certain';

COMMENT ON COLUMN provisioner.drifts.seen_at IS 'When it was last checked: anything recorded later is not known to differ';

COMMENT ON COLUMN provisioner.drifts.unread IS 'Its project could not be read in the last round';

CREATE TABLE provisioner.edits (
    id bigint NOT NULL,
    name boolean DEFAULT false NOT NULL,
    description boolean DEFAULT false NOT NULL,
    credential boolean DEFAULT false NOT NULL,
    adopted boolean DEFAULT false NOT NULL,
    others text[] DEFAULT '{}'::text[] NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.edits IS 'Edits of recorded requests that are not in Infisical yet';

CREATE TABLE provisioner.fair_cursors (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE provisioner.history (
    span integer NOT NULL,
    at timestamp with time zone NOT NULL,
    target text NOT NULL,
    succeeded bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    retried bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.history IS 'What happened in each minute of the last hours, and in each hour of the last weeks';

COMMENT ON COLUMN provisioner.history.span IS 'Length of the period in seconds, 60 or 3600, beginning at `at`';

COMMENT ON COLUMN provisioner.history.retried IS 'Attempts that ended in a retry';

CREATE TABLE provisioner.installation (
    id text DEFAULT "left"(md5((gen_random_uuid())::text), 8) NOT NULL
);

COMMENT ON TABLE provisioner.installation IS 'The id of this database, which markers in descriptions contain';

CREATE TABLE provisioner.key_verdicts (
    fingerprint text NOT NULL,
    verdict text NOT NULL,
    asked_at timestamp with time zone NOT NULL
);

CREATE TABLE provisioner.project_health (
    target text NOT NULL,
    project_id uuid NOT NULL,
    cause text NOT NULL,
    reason text NOT NULL,
    since timestamp with time zone NOT NULL,
    confirmed boolean DEFAULT true NOT NULL,
    probing boolean DEFAULT false NOT NULL,
    probe_at timestamp with time zone,
    probe_pause interval DEFAULT '00:00:10'::interval NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE provisioner.project_health IS 'Projects whose requests wait until the machine identity may create there';

COMMENT ON COLUMN provisioner.project_health.confirmed IS 'A create was refused there; otherwise only a list showed the identity to be outside';

CREATE VIEW provisioner.listed_requests AS
 SELECT q.id,
    q.target,
    q.project_id,
    q.name,
    q.name AS place,
    q.description,
        CASE
            WHEN (q.credential ~~ 'sealed:%'::text) THEN ('sealed:'::text || split_part(q.credential, ':'::text, 2))
            ELSE q.credential
        END AS credential,
        CASE
            WHEN ((q.credential ~~ 'sealed:%'::text) AND (q.credential !~~ '%:wiped'::text)) THEN split_part(q.credential, ':'::text, 2)
            ELSE NULL::text
        END AS sealed_by,
    q.on_conflict,
    q.priority,
    q.batch,
    q.project_name,
    q.wanted,
    q.not_before,
    q.requested_by,
    q.created_at,
    q.status,
    provisioner.live_state(q.status, q.wanted, q.connection_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled) AS state,
    provisioner.while_pending(q.status, COALESCE(s.sent, q.attempts), q.attempts) AS attempts,
    q.connection_id,
    q.org_id,
    q.credentials_hash,
    q.adopted,
    q.key_fingerprint,
    provisioner.while_pending(q.status, COALESCE(s.error_code, provisioner.quarantine_code(w.quarantine)), q.error_code) AS error_code,
    provisioner.while_pending(q.status,
        CASE
            WHEN (s.error_message IS NOT NULL) THEN s.error_message
            WHEN (w.quarantine ~~ 'credential:%'::text) THEN ( SELECT h.reason
               FROM provisioner.credential_health h
              WHERE ((h.target = w.target) AND (h.credential = substr(w.quarantine, 12)) AND (h.quarantined_since IS NOT NULL))
             LIMIT 1)
            WHEN (w.quarantine ~~ 'project:%'::text) THEN ( SELECT h.reason
               FROM provisioner.project_health h
              WHERE ((h.target = w.target) AND (h.project_id = (substr(w.quarantine, 9))::uuid)))
            ELSE NULL::text
        END, q.error_message) AS error_message,
        CASE
            WHEN isfinite(w.run_at) THEN w.run_at
            ELSE NULL::timestamp with time zone
        END AS next_attempt_at,
    q.finished_at
   FROM (((provisioner.connection_requests q
     LEFT JOIN provisioner.in_flight f ON ((f.id = q.id)))
     LEFT JOIN provisioner.waiting w ON ((w.id = q.id)))
     LEFT JOIN provisioner.attempt_state s ON ((s.id = q.id)));

COMMENT ON VIEW provisioner.listed_requests IS 'Every request with its live state; for a sealed credential only its key''s id';

COMMENT ON COLUMN provisioner.listed_requests.place IS 'Its position in its project, the order in which recorded requests are compared';

COMMENT ON COLUMN provisioner.listed_requests.sealed_by IS 'The key that seals it at present; NULL if there is no box (any more)';

CREATE VIEW provisioner.listed_rotations AS
 SELECT q.id,
    q.target,
    q.project_id,
    q.name,
    ((((q.environment || ':'::text) || q.secret_path) || ':'::text) || q.name) AS place,
    q.description,
    q.connection,
    q.environment,
    q.secret_path,
    q.secret_name,
    q.interval_days,
    q.rotate_at,
    q.key_name,
    q.spend_limit,
    q.limit_reset,
    q.include_byok,
    q.on_conflict,
    q.priority,
    q.batch,
    q.project_name,
    q.wanted,
    q.not_before,
    q.requested_by,
    q.created_at,
    q.status,
    provisioner.live_state(q.status, q.wanted, q.rotation_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled) AS state,
        CASE
            WHEN (w.quarantine = 'connection'::text) THEN q.connection
            ELSE NULL::text
        END AS waits_for,
    provisioner.while_pending(q.status, COALESCE(s.sent, q.attempts), q.attempts) AS attempts,
    q.rotation_id,
    q.connection_id,
    q.key_issued,
    q.adopted,
    q.left_behind,
    provisioner.while_pending(q.status, COALESCE(s.error_code, provisioner.quarantine_code(w.quarantine)), q.error_code) AS error_code,
    provisioner.while_pending(q.status,
        CASE
            WHEN (s.error_message IS NOT NULL) THEN s.error_message
            WHEN (w.quarantine ~~ 'project:%'::text) THEN ( SELECT h.reason
               FROM provisioner.project_health h
              WHERE ((h.target = w.target) AND (h.project_id = (substr(w.quarantine, 9))::uuid)))
            ELSE NULL::text
        END, q.error_message) AS error_message,
        CASE
            WHEN isfinite(w.run_at) THEN w.run_at
            ELSE NULL::timestamp with time zone
        END AS next_attempt_at,
    q.finished_at
   FROM (((provisioner.rotation_requests q
     LEFT JOIN provisioner.in_flight f ON ((f.id = q.id)))
     LEFT JOIN provisioner.waiting w ON ((w.id = q.id)))
     LEFT JOIN provisioner.attempt_state s ON ((s.id = q.id)));

COMMENT ON VIEW provisioner.listed_rotations IS 'Every rotation with its live state';

COMMENT ON COLUMN provisioner.listed_rotations.place IS 'Its position in its project, the order in which recorded requests are compared';

CREATE TABLE provisioner.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE VIEW provisioner.miscounted AS
 SELECT target,
    batch,
    requested_by,
    status,
    error_code,
    (sum(requests))::bigint AS requests,
    min(started_at) AS started_at,
    max(ended_at) AS ended_at,
    max(newest) AS newest
   FROM ( SELECT COALESCE(q.target, ''::text) AS target,
            COALESCE(q.batch, ''::text) AS batch,
            COALESCE(q.requested_by, ''::text) AS requested_by,
            q.counted_as AS status,
            COALESCE(q.error_code, ''::text) AS error_code,
            count(*) AS requests,
            min(q.created_at) AS started_at,
            max(q.finished_at) AS ended_at,
            max(q.id) AS newest
           FROM provisioner.requests q
          GROUP BY q.target, q.batch, q.requested_by, q.counted_as, q.error_code
        UNION ALL
         SELECT k.target,
            k.batch,
            k.requested_by,
            k.status,
            k.error_code,
            (- k.requests),
            NULL::timestamp with time zone,
            NULL::timestamp with time zone,
            NULL::bigint
           FROM provisioner.counts k
        UNION ALL
         SELECT h.target,
            h.batch,
            h.requested_by,
            h.status,
            h.error_code,
            (- h.requests),
            NULL::timestamp with time zone,
            NULL::timestamp with time zone,
            NULL::bigint
           FROM provisioner.count_changes h) c
  GROUP BY target, batch, requested_by, status, error_code
 HAVING (sum(requests) <> (0)::numeric);

COMMENT ON VIEW provisioner.miscounted IS 'By how much the counts of requests are wrong; reads all requests';

CREATE TABLE provisioner.notice_batches (
    batch text NOT NULL,
    ended_at timestamp with time zone NOT NULL
);

CREATE TABLE provisioner.notice_concerns (
    kind text NOT NULL,
    subject text NOT NULL,
    since timestamp with time zone NOT NULL,
    told boolean NOT NULL,
    gone_at timestamp with time zone
);

CREATE TABLE provisioner.notice_turn (
    one boolean DEFAULT true NOT NULL,
    checked_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE provisioner.notices (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    event text NOT NULL,
    content jsonb NOT NULL,
    noticed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    sent_at timestamp with time zone,
    error text
);

COMMENT ON TABLE provisioner.notices IS 'Notices for notify.url: delivered once sent_at is set, otherwise tried (again) at due_at';

COMMENT ON COLUMN provisioner.notices.error IS 'Why the last delivery failed';

CREATE VIEW provisioner.overlooked AS
 SELECT w.id
   FROM ((provisioner.waiting w
     JOIN provisioner.rotation_requests r ON ((r.id = w.id)))
     JOIN provisioner.connection_requests c ON (((c.target = r.target) AND (c.project_id = r.project_id) AND (c.name = r.connection))))
  WHERE ((w.quarantine = 'connection'::text) AND (c.status <> 'pending'::text))
UNION ALL
 SELECT w.id
   FROM (provisioner.waiting w
     JOIN provisioner.connection_requests c ON ((c.id = w.id)))
  WHERE ((w.quarantine = 'rotations'::text) AND (NOT (EXISTS ( SELECT
           FROM provisioner.rotation_requests r
          WHERE ((r.target = c.target) AND (r.project_id = c.project_id) AND (r.connection = c.name) AND (r.wanted = 'absent'::text) AND (r.status = 'pending'::text))))));

COMMENT ON VIEW provisioner.overlooked IS 'Requests that still wait for a connection, or for rotations, whose requests have ended';

CREATE VIEW provisioner.own_attempt_state WITH (security_barrier='true') AS
 SELECT id,
    attempt,
    sent,
    failures,
    streak,
    streak_of,
    since,
    cancelled,
    error_code,
    error_message,
    updated_at
   FROM provisioner.attempt_state t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE VIEW provisioner.own_attempts WITH (security_barrier='true') AS
 SELECT request_id,
    attempt,
    worker,
    action,
    started_at,
    ended_at,
    http_status,
    req_id,
    outcome,
    error_code,
    error_message
   FROM provisioner.attempts t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.request_id) AND (q.requested_by = CURRENT_USER))));

CREATE VIEW provisioner.own_waiting WITH (security_barrier='true') AS
 SELECT id,
    run_at,
    target,
    rank,
    project_id,
    quarantine
   FROM provisioner.waiting t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE VIEW provisioner.own_credential_health WITH (security_barrier='true') AS
 SELECT target,
    credential,
    quarantined_since,
    probe_at,
    reason
   FROM provisioner.credential_health h
  WHERE (EXISTS ( SELECT
           FROM provisioner.own_waiting w
          WHERE ((w.target = h.target) AND (w.quarantine = ('credential:'::text || h.credential)))));

CREATE VIEW provisioner.own_drifts WITH (security_barrier='true') AS
 SELECT id,
    target,
    drift,
    since,
    seen_at,
    missed_at,
    unread
   FROM provisioner.drifts t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE VIEW provisioner.own_in_flight WITH (security_barrier='true') AS
 SELECT id,
    worker,
    fence,
    claimed_at,
    attempt,
    rank,
    project_id,
    cancelled,
    target
   FROM provisioner.in_flight t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE VIEW provisioner.own_listed_requests WITH (security_barrier='true') AS
 SELECT id,
    target,
    project_id,
    name,
    place,
    description,
    credential,
    sealed_by,
    on_conflict,
    priority,
    batch,
    project_name,
    wanted,
    not_before,
    requested_by,
    created_at,
    status,
    state,
    attempts,
    connection_id,
    org_id,
    credentials_hash,
    adopted,
    key_fingerprint,
    error_code,
    error_message,
    next_attempt_at,
    finished_at
   FROM provisioner.listed_requests v
  WHERE (requested_by = CURRENT_USER);

CREATE VIEW provisioner.own_listed_rotations WITH (security_barrier='true') AS
 SELECT id,
    target,
    project_id,
    name,
    place,
    description,
    connection,
    environment,
    secret_path,
    secret_name,
    interval_days,
    rotate_at,
    key_name,
    spend_limit,
    limit_reset,
    include_byok,
    on_conflict,
    priority,
    batch,
    project_name,
    wanted,
    not_before,
    requested_by,
    created_at,
    status,
    state,
    waits_for,
    attempts,
    rotation_id,
    connection_id,
    key_issued,
    adopted,
    left_behind,
    error_code,
    error_message,
    next_attempt_at,
    finished_at
   FROM provisioner.listed_rotations v
  WHERE (requested_by = CURRENT_USER);

CREATE VIEW provisioner.own_project_health WITH (security_barrier='true') AS
 SELECT target,
    project_id,
    since,
    probe_at,
    reason
   FROM provisioner.project_health h
  WHERE (EXISTS ( SELECT
           FROM provisioner.own_waiting w
          WHERE ((w.target = h.target) AND (w.quarantine = ('project:'::text || h.project_id)))));

CREATE VIEW provisioner.own_quarantined_credentials WITH (security_barrier='true') AS
 SELECT target,
    credential,
    quarantined_since AS since,
    reason,
    probe_at AS next_probe_at,
    ( SELECT count(*) AS count
           FROM provisioner.own_waiting w
          WHERE ((w.target = h.target) AND (w.quarantine = ('credential:'::text || h.credential)))) AS requests
   FROM provisioner.own_credential_health h
  WHERE (quarantined_since IS NOT NULL);

CREATE VIEW provisioner.own_ready AS
 SELECT target,
    rank,
    turn,
    id,
    project_id
   FROM provisioner.ready r
  WHERE false;

CREATE VIEW provisioner.own_requests WITH (security_barrier='true') AS
 SELECT id,
    target,
    batch,
    requested_by,
    status,
    error_code,
    created_at,
    finished_at,
    attempts,
    wanted,
    recorded_id,
    counted_as,
    project_id,
    project_name,
    error_message,
    priority,
    not_before,
    adopted,
    on_conflict,
    needs_connection
   FROM provisioner.requests q
  WHERE (requested_by = CURRENT_USER);

CREATE TABLE provisioner.sent_creates (
    id bigint NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone NOT NULL,
    proof text DEFAULT 'none'::text NOT NULL,
    target text NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    exact boolean NOT NULL,
    key_fingerprint text
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.sent_creates IS 'Creates whose outcome is not proven: they may have made the connection';

COMMENT ON COLUMN provisioner.sent_creates.proof IS 'none: it may be committed later; taken: Infisical answered that the name is taken';

COMMENT ON COLUMN provisioner.sent_creates.exact IS 'Whether description is exactly what was sent; false if a marker may have been added';

CREATE VIEW provisioner.own_sent_creates WITH (security_barrier='true') AS
 SELECT id,
    sent_at,
    ended_at,
    proof,
    target,
    project_id,
    name,
    description,
    exact,
    key_fingerprint
   FROM provisioner.sent_creates t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE TABLE provisioner.unrecorded (
    id bigint NOT NULL,
    fence bigint NOT NULL,
    connection_id text,
    reason text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tries integer DEFAULT 1 NOT NULL,
    retry_at timestamp with time zone NOT NULL,
    calls jsonb NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE provisioner.unrecorded IS 'Outcomes that could not be recorded yet, and why; they are recorded when the cause is gone';

COMMENT ON COLUMN provisioner.unrecorded.connection_id IS 'The connection that was made, if any';

CREATE VIEW provisioner.own_unrecorded WITH (security_barrier='true') AS
 SELECT id,
    fence,
    connection_id,
    reason,
    since,
    tries,
    retry_at,
    calls
   FROM provisioner.unrecorded t
  WHERE (EXISTS ( SELECT
           FROM provisioner.requests q
          WHERE ((q.id = t.id) AND (q.requested_by = CURRENT_USER))));

CREATE TABLE provisioner.permits (
    target text NOT NULL,
    kind text NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    metered boolean,
    permits integer,
    period double precision DEFAULT 60 NOT NULL,
    starts_at double precision,
    ends_at double precision,
    next_at double precision DEFAULT 0 NOT NULL,
    granted integer DEFAULT 0 NOT NULL,
    answered integer DEFAULT 0 NOT NULL,
    used integer DEFAULT 0 NOT NULL,
    blocked_until double precision DEFAULT 0 NOT NULL,
    ended_at double precision,
    late integer DEFAULT 0 NOT NULL,
    theirs integer DEFAULT 0 NOT NULL,
    their_pace double precision DEFAULT 0 NOT NULL,
    seen_at double precision DEFAULT 0 NOT NULL,
    searching boolean DEFAULT false NOT NULL,
    bare_since double precision,
    address text DEFAULT ''::text NOT NULL,
    slowed_until double precision DEFAULT 0 NOT NULL,
    configured boolean DEFAULT false NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.permits IS 'Budgets within the rate limits; times are seconds since 1970 on this server''s clock';

COMMENT ON COLUMN provisioner.permits.metered IS 'Whether there is a rate limiter; NULL while that is unknown';

COMMENT ON COLUMN provisioner.permits.permits IS 'Permits per window';

COMMENT ON COLUMN provisioner.permits.period IS 'Length of a window in seconds';

COMMENT ON COLUMN provisioner.permits.ends_at IS 'The earliest bound that the answers gave for the end of this window';

COMMENT ON COLUMN provisioner.permits.used IS 'Permits used in this window according to the server, by us and by others';

COMMENT ON COLUMN provisioner.permits.late IS 'Requests that were in flight when this window began';

COMMENT ON COLUMN provisioner.permits.theirs IS 'Permits that other clients certainly used in this window';

COMMENT ON COLUMN provisioner.permits.their_pace IS 'Permits a second that other clients used recently';

COMMENT ON COLUMN provisioner.permits.searching IS 'Whether no answer names the limit, so that it has to be searched';

COMMENT ON COLUMN provisioner.permits.bare_since IS 'Since when answers lack the limiter headers that they should carry';

COMMENT ON COLUMN provisioner.permits.address IS 'The server that this was learned from: a target with another address starts anew';

COMMENT ON COLUMN provisioner.permits.slowed_until IS 'No permit before this time, because of an operator''s limit';

COMMENT ON COLUMN provisioner.permits.configured IS 'Whether the limit comes from the settings, not from answers';

CREATE VIEW provisioner.places AS
 SELECT w.id
   FROM provisioner.waiting w
UNION ALL
 SELECT r.id
   FROM provisioner.ready r
UNION ALL
 SELECT f.id
   FROM provisioner.in_flight f;

COMMENT ON VIEW provisioner.places IS 'The requests that have a place: that wait, stand in line, or are in flight';

CREATE TABLE provisioner.target_incidents (
    target text NOT NULL,
    reporter text NOT NULL,
    reason text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    reported_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

CREATE VIEW provisioner.present_incidents AS
 SELECT target,
    reporter,
    reason,
    since,
    reported_at
   FROM provisioner.target_incidents d
  WHERE (reported_at > (clock_timestamp() - '00:00:15'::interval));

COMMENT ON VIEW provisioner.present_incidents IS 'Why workers withhold creates at a target at present';

CREATE TABLE provisioner.project_checks (
    target text NOT NULL,
    read_at timestamp with time zone,
    read_pause interval NOT NULL,
    probed_at timestamp with time zone
)
WITH (fillfactor='50');

CREATE VIEW provisioner.quarantined_credentials AS
 SELECT target,
    credential,
    fingerprint,
    quarantined_since AS since,
    reason,
    probe_at AS next_probe_at,
    ( SELECT count(*) AS count
           FROM provisioner.waiting w
          WHERE ((w.target = h.target) AND (w.quarantine = ('credential:'::text || h.credential)))) AS requests
   FROM provisioner.credential_health h
  WHERE (quarantined_since IS NOT NULL);

COMMENT ON VIEW provisioner.quarantined_credentials IS 'Credentials whose API key is refused: correct the key, and their requests go on';

CREATE VIEW provisioner.quarantined_projects AS
 SELECT target,
    project_id,
    ( SELECT q.project_name
           FROM provisioner.connection_requests q
          WHERE ((q.target = h.target) AND (q.project_id = h.project_id) AND (q.project_name IS NOT NULL))
         LIMIT 1) AS project_name,
    cause,
    reason,
    since,
    probe_at AS next_probe_at,
    ( SELECT count(*) AS count
           FROM provisioner.waiting w
          WHERE ((w.target = h.target) AND (w.quarantine = ('project:'::text || h.project_id)))) AS requests
   FROM provisioner.project_health h;

COMMENT ON VIEW provisioner.quarantined_projects IS 'Projects in which the machine identity may not create: add it, and their requests go on';

CREATE TABLE provisioner.verify_rounds (
    target text NOT NULL,
    holder text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    previous_at timestamp with time zone,
    project_id uuid,
    name text,
    finished_at timestamp with time zone
)
WITH (fillfactor='50');

COMMENT ON COLUMN provisioner.verify_rounds.previous_at IS 'When the previous round began, if it was completed';

CREATE VIEW provisioner.request_status WITH (security_barrier='true') AS
 SELECT q.id,
    q.target,
    q.project_id,
    q.name,
    q.batch,
    q.priority,
    q.requested_by,
    q.created_at,
    q.state,
    q.attempts,
    q.connection_id,
    q.org_id,
    q.credentials_hash,
    q.adopted,
    q.error_code,
    q.error_message,
    q.next_attempt_at,
        CASE
            WHEN (q.status = 'pending'::text) THEN ((( WITH RECURSIVE lines AS (
                    ( SELECT r.target
                       FROM provisioner.ready r
                      ORDER BY r.target
                     LIMIT 1)
                    UNION ALL
                     SELECT ( SELECT r.target
                               FROM provisioner.ready r
                              WHERE (r.target > l_1.target)
                              ORDER BY r.target
                             LIMIT 1) AS target
                       FROM lines l_1
                      WHERE (l_1.target IS NOT NULL)
                    )
             SELECT jsonb_object_agg(h.id, h.place) AS jsonb_object_agg
               FROM (lines l
                 CROSS JOIN LATERAL ( SELECT r.id,
                        row_number() OVER (ORDER BY r.rank, r.turn, r.id) AS place
                       FROM provisioner.ready r
                      WHERE (r.target = l.target)
                      ORDER BY r.rank, r.turn, r.id
                     LIMIT 1000) h)) ->> (q.id)::text))::bigint
            ELSE NULL::bigint
        END AS queue_position,
    q.finished_at,
    q.project_name,
    q.wanted,
    q.key_fingerprint,
        CASE
            WHEN ((q.status = 'succeeded'::text) AND (d.seen_at > q.finished_at)) THEN d.drift
            ELSE NULL::text
        END AS drift,
        CASE
            WHEN ((q.status <> 'succeeded'::text) OR d.unread) THEN NULL::timestamp with time zone
            WHEN ((q.finished_at < v.started_at) AND ((v.finished_at IS NOT NULL) OR (ROW(q.project_id, q.name) <= ROW(v.project_id, v.name)))) THEN v.started_at
            WHEN (q.finished_at < v.previous_at) THEN v.previous_at
            ELSE NULL::timestamp with time zone
        END AS verified_at
   FROM ((provisioner.listed_requests q
     LEFT JOIN provisioner.drifts d ON ((d.id = q.id)))
     LEFT JOIN provisioner.verify_rounds v ON ((v.target = q.target)))
  WHERE ((q.requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege));

COMMENT ON VIEW provisioner.request_status IS 'Every request with its live state';

COMMENT ON COLUMN provisioner.request_status.queue_position IS 'Its position in the line of its target; NULL beyond the first thousand';

COMMENT ON COLUMN provisioner.request_status.drift IS 'How its connection differs from what was recorded, according to standing verification';

COMMENT ON COLUMN provisioner.request_status.verified_at IS 'When it was last compared, at the earliest: the beginning of that round';

ALTER TABLE provisioner.rotation_requests ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provisioner.rotation_requests_id_seq
    START WITH 1000000000001
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW provisioner.rotation_status WITH (security_barrier='true') AS
 SELECT q.id,
    q.target,
    q.project_id,
    q.name,
    q.connection,
    q.environment,
    q.secret_path,
    q.secret_name,
    q.batch,
    q.priority,
    q.requested_by,
    q.created_at,
    q.state,
    q.waits_for,
    q.attempts,
    q.rotation_id,
    q.connection_id,
    q.key_issued,
    q.adopted,
    q.left_behind,
    q.error_code,
    q.error_message,
    q.next_attempt_at,
    q.finished_at,
    q.project_name,
        CASE
            WHEN ((q.status = 'succeeded'::text) AND (d.seen_at > q.finished_at)) THEN d.drift
            ELSE NULL::text
        END AS drift,
        CASE
            WHEN ((q.status <> 'succeeded'::text) OR d.unread) THEN NULL::timestamp with time zone
            WHEN ((q.finished_at < v.started_at) AND ((v.finished_at IS NOT NULL) OR (ROW(q.project_id, q.place) <= ROW(v.project_id, v.name)))) THEN v.started_at
            WHEN (q.finished_at < v.previous_at) THEN v.previous_at
            ELSE NULL::timestamp with time zone
        END AS verified_at,
    q.description,
    q.on_conflict,
    q.not_before,
    q.wanted,
    q.interval_days,
    q.rotate_at,
    q.key_name,
    q.spend_limit,
    q.limit_reset,
    q.include_byok
   FROM ((provisioner.listed_rotations q
     LEFT JOIN provisioner.drifts d ON ((d.id = q.id)))
     LEFT JOIN provisioner.verify_rounds v ON ((v.target = (q.target || '/rotations'::text))))
  WHERE ((q.requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege));

COMMENT ON VIEW provisioner.rotation_status IS 'Every rotation with its live state, and what it waits for';

COMMENT ON COLUMN provisioner.rotation_status.waits_for IS 'The connection of the same project that has to exist first';

COMMENT ON COLUMN provisioner.rotation_status.drift IS 'How it differs from what was recorded, according to standing verification';

COMMENT ON COLUMN provisioner.rotation_status.verified_at IS 'When it was last compared, at the earliest: the beginning of that round';

CREATE TABLE provisioner.salt (
    salt uuid DEFAULT gen_random_uuid() NOT NULL
);

CREATE TABLE provisioner.sealing_keys (
    key_id text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone
);

CREATE TABLE provisioner.seen_projects (
    target text NOT NULL,
    project_id uuid NOT NULL,
    address text NOT NULL,
    missed integer DEFAULT 0 NOT NULL,
    missed_since timestamp with time zone
)
WITH (fillfactor='70');

CREATE TABLE provisioner.set_apart (
    id bigint NOT NULL,
    status text NOT NULL,
    error_code text
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON TABLE provisioner.set_apart IS 'Requests that failed, were cancelled or are removed, for searches';

CREATE TABLE provisioner.sweeps (
    one boolean DEFAULT true NOT NULL,
    "position" bigint DEFAULT 0 NOT NULL,
    swept_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
)
WITH (fillfactor='50');

COMMENT ON TABLE provisioner.sweeps IS 'The progress of the search for pending requests without a place in line';

CREATE TABLE provisioner.targets (
    target text NOT NULL,
    known_at timestamp with time zone,
    paused_at timestamp with time zone,
    paused_by text,
    clock_low double precision,
    clock_high double precision,
    clock_at timestamp with time zone,
    writes_limit integer,
    writes_period double precision,
    in_flight_limit integer,
    limited_at timestamp with time zone,
    limited_by text,
    CONSTRAINT targets_check CHECK (((writes_limit IS NULL) = (writes_period IS NULL))),
    CONSTRAINT targets_in_flight_limit_check CHECK (((in_flight_limit >= 1) AND (in_flight_limit <= 4096))),
    CONSTRAINT targets_writes_limit_check CHECK (((writes_limit >= 1) AND (writes_limit <= 9999999))),
    CONSTRAINT targets_writes_period_check CHECK (((writes_period >= (1)::double precision) AND (writes_period <= (359996400)::double precision)))
)
WITH (fillfactor='50');

COMMENT ON COLUMN provisioner.targets.clock_low IS 'By how many seconds Infisical''s createdAt is ahead of this server''s clock, at least';

COMMENT ON COLUMN provisioner.targets.writes_limit IS 'Writes in writes_period seconds that an operator allows; NULL for what the settings say';

COMMENT ON COLUMN provisioner.targets.in_flight_limit IS 'Creates in flight that an operator allows, over all workers; NULL for what the settings say';

ALTER TABLE provisioner.workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provisioner.workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY provisioner.attempts ATTACH PARTITION provisioner.attempts_other DEFAULT;

ALTER TABLE ONLY provisioner.attempt_state
    ADD CONSTRAINT attempt_state_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.attempts
    ADD CONSTRAINT attempts_of_request PRIMARY KEY (request_id, attempt, ended_at);

ALTER TABLE ONLY provisioner.attempts_other
    ADD CONSTRAINT attempts_other_pkey PRIMARY KEY (request_id, attempt, ended_at);

ALTER TABLE ONLY provisioner.concurrency
    ADD CONSTRAINT concurrency_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.connection_requests
    ADD CONSTRAINT connection_requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.connection_requests
    ADD CONSTRAINT connection_requests_wanted_once UNIQUE (target, project_id, name);

ALTER TABLE ONLY provisioner.count_changes
    ADD CONSTRAINT count_changes_pkey PRIMARY KEY (change);

ALTER TABLE ONLY provisioner.counts
    ADD CONSTRAINT counts_pkey PRIMARY KEY (target, batch, requested_by, status, error_code);

ALTER TABLE ONLY provisioner.credential_health
    ADD CONSTRAINT credential_health_pkey PRIMARY KEY (target, credential, fingerprint);

ALTER TABLE ONLY provisioner.discover_rounds
    ADD CONSTRAINT discover_rounds_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.drifts
    ADD CONSTRAINT drifts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.edits
    ADD CONSTRAINT edits_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.failed_boxes
    ADD CONSTRAINT failed_boxes_until PRIMARY KEY (failed_at, id, box);

ALTER TABLE ONLY provisioner.fair_cursors
    ADD CONSTRAINT fair_cursors_pkey PRIMARY KEY (target, rank);

ALTER TABLE ONLY provisioner.forecast_turn
    ADD CONSTRAINT forecast_turn_pkey PRIMARY KEY (one);

ALTER TABLE ONLY provisioner.forecasts
    ADD CONSTRAINT forecasts_pkey PRIMARY KEY (target, batch);

ALTER TABLE ONLY provisioner.history
    ADD CONSTRAINT history_pkey PRIMARY KEY (span, at, target);

ALTER TABLE ONLY provisioner.in_flight
    ADD CONSTRAINT in_flight_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.key_verdicts
    ADD CONSTRAINT key_verdicts_pkey PRIMARY KEY (fingerprint);

ALTER TABLE ONLY provisioner.line_forecasts
    ADD CONSTRAINT line_forecasts_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY provisioner.notice_batches
    ADD CONSTRAINT notice_batches_pkey PRIMARY KEY (batch);

ALTER TABLE ONLY provisioner.notice_concerns
    ADD CONSTRAINT notice_concerns_pkey PRIMARY KEY (kind, subject);

ALTER TABLE ONLY provisioner.notice_turn
    ADD CONSTRAINT notice_turn_pkey PRIMARY KEY (one);

ALTER TABLE ONLY provisioner.notices
    ADD CONSTRAINT notices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.permits
    ADD CONSTRAINT permits_pkey PRIMARY KEY (target, kind);

ALTER TABLE ONLY provisioner.project_checks
    ADD CONSTRAINT project_checks_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.project_health
    ADD CONSTRAINT project_health_pkey PRIMARY KEY (target, project_id);

ALTER TABLE ONLY provisioner.ready
    ADD CONSTRAINT ready_in_order PRIMARY KEY (target, rank, turn, id);

ALTER TABLE ONLY provisioner.rotation_requests
    ADD CONSTRAINT rotation_requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.rotation_requests
    ADD CONSTRAINT rotation_requests_wanted_once UNIQUE (target, project_id, environment, secret_path, name);

ALTER TABLE ONLY provisioner.salt
    ADD CONSTRAINT salt_pkey PRIMARY KEY (salt);

ALTER TABLE ONLY provisioner.sealing_keys
    ADD CONSTRAINT sealing_keys_pkey PRIMARY KEY (key_id);

ALTER TABLE ONLY provisioner.seen_projects
    ADD CONSTRAINT seen_projects_pkey PRIMARY KEY (target, project_id);

ALTER TABLE ONLY provisioner.sent_creates
    ADD CONSTRAINT sent_creates_pkey PRIMARY KEY (id, sent_at);

ALTER TABLE ONLY provisioner.set_apart
    ADD CONSTRAINT set_apart_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.sweeps
    ADD CONSTRAINT sweeps_pkey PRIMARY KEY (one);

ALTER TABLE ONLY provisioner.target_incidents
    ADD CONSTRAINT target_incidents_pkey PRIMARY KEY (target, reporter);

ALTER TABLE ONLY provisioner.targets
    ADD CONSTRAINT targets_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.unrecorded
    ADD CONSTRAINT unrecorded_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.verify_rounds
    ADD CONSTRAINT verify_rounds_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.waiting
    ADD CONSTRAINT waiting_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX attempt_state_error ON provisioner.attempt_state USING btree (error_code, id) WHERE (error_code IS NOT NULL);

CREATE INDEX connection_requests_batch ON provisioner.connection_requests USING btree (batch, id) WHERE (batch IS NOT NULL);

CREATE INDEX connection_requests_name ON provisioner.connection_requests USING btree (name text_pattern_ops, id);

CREATE INDEX connection_requests_project_name ON provisioner.connection_requests USING btree (lower(project_name) text_pattern_ops, id) WHERE (project_name IS NOT NULL);

CREATE INDEX credential_health_quarantined ON provisioner.credential_health USING btree (target) WHERE ((quarantined_since IS NOT NULL) AND (credential !~~ 'sealed-%'::text));

CREATE INDEX drifts_missed ON provisioner.drifts USING btree (target, missed_at) WHERE (drift IS NULL);

CREATE INDEX ready_by_id ON provisioner.ready USING btree (id);

CREATE INDEX ready_of_project ON provisioner.ready USING btree (target, project_id, rank, turn);

CREATE INDEX rotation_requests_batch ON provisioner.rotation_requests USING btree (batch) WHERE (batch IS NOT NULL);

CREATE INDEX rotation_requests_left_behind ON provisioner.rotation_requests USING btree (id) WHERE (left_behind IS NOT NULL);

CREATE INDEX set_apart_by_error ON provisioner.set_apart USING btree (error_code, id) WHERE (error_code IS NOT NULL);

CREATE INDEX set_apart_by_status ON provisioner.set_apart USING btree (status, id);

CREATE INDEX waiting_quarantined ON provisioner.waiting USING btree (target, quarantine) WHERE (quarantine IS NOT NULL);

CREATE INDEX waiting_until ON provisioner.waiting USING btree (run_at);

ALTER INDEX provisioner.attempts_of_request ATTACH PARTITION provisioner.attempts_other_pkey;

CREATE TRIGGER box_failed AFTER UPDATE OF status, credential ON provisioner.connection_requests FOR EACH ROW WHEN (((new.status = 'failed'::text) AND (new.credential ~~ 'sealed:%'::text) AND (new.credential !~~ '%:wiped'::text) AND ((old.status IS DISTINCT FROM new.status) OR (old.credential IS DISTINCT FROM new.credential)))) EXECUTE FUNCTION provisioner.box_failed();

CREATE TRIGGER connections_followed AFTER UPDATE ON provisioner.connection_requests REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_followed();

CREATE TRIGGER connections_joined AFTER INSERT ON provisioner.connection_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_joined();

CREATE TRIGGER counted_again AFTER UPDATE ON provisioner.connection_requests REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connection_requests_counted();

CREATE TRIGGER counted_again AFTER UPDATE ON provisioner.rotation_requests REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotation_requests_counted();

CREATE TRIGGER counted_in AFTER INSERT ON provisioner.connection_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connection_requests_counted();

CREATE TRIGGER counted_in AFTER INSERT ON provisioner.rotation_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotation_requests_counted();

CREATE TRIGGER counted_none AFTER TRUNCATE ON provisioner.connection_requests FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connection_requests_counted();

CREATE TRIGGER counted_none AFTER TRUNCATE ON provisioner.rotation_requests FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotation_requests_counted();

CREATE TRIGGER counted_out AFTER DELETE ON provisioner.connection_requests REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connection_requests_counted();

CREATE TRIGGER counted_out AFTER DELETE ON provisioner.rotation_requests REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotation_requests_counted();

CREATE TRIGGER refuse_recorded_columns AFTER UPDATE OF status, connection_id, org_id, credentials_hash, adopted, key_fingerprint, attempts, error_code, error_message, finished_at ON provisioner.connection_requests FOR EACH ROW WHEN (((current_setting('provisioner.recording'::text, true) IS DISTINCT FROM 'on'::text) AND (((new.status IS DISTINCT FROM old.status) AND (new.status <> 'pending'::text)) OR ((((((new.connection_id IS DISTINCT FROM old.connection_id) OR (new.org_id IS DISTINCT FROM old.org_id)) OR (new.credentials_hash IS DISTINCT FROM old.credentials_hash)) OR (new.adopted IS DISTINCT FROM old.adopted)) OR (new.key_fingerprint IS DISTINCT FROM old.key_fingerprint)) OR (new.attempts IS DISTINCT FROM old.attempts)) OR ((new.status = old.status) AND (((new.error_code IS DISTINCT FROM old.error_code) OR (new.error_message IS DISTINCT FROM old.error_message)) OR (new.finished_at IS DISTINCT FROM old.finished_at)))))) EXECUTE FUNCTION provisioner.refuse_recorded_columns('status, connection_id, org_id, credentials_hash, adopted, key_fingerprint, attempts, error_code, error_message and finished_at');

CREATE TRIGGER refuse_recorded_columns AFTER UPDATE OF status, rotation_id, connection_id, key_issued, adopted, attempts, left_behind, error_code, error_message, finished_at ON provisioner.rotation_requests FOR EACH ROW WHEN (((current_setting('provisioner.recording'::text, true) IS DISTINCT FROM 'on'::text) AND (((new.status <> old.status) AND (new.status <> 'pending'::text)) OR (((((new.rotation_id IS DISTINCT FROM old.rotation_id) OR (new.connection_id IS DISTINCT FROM old.connection_id)) OR (new.key_issued IS DISTINCT FROM old.key_issued)) OR (new.adopted IS DISTINCT FROM old.adopted)) OR (new.attempts IS DISTINCT FROM old.attempts)) OR ((new.left_behind IS NOT NULL) AND (new.left_behind IS DISTINCT FROM old.left_behind)) OR ((new.status = old.status) AND (((new.error_code IS DISTINCT FROM old.error_code) OR (new.error_message IS DISTINCT FROM old.error_message)) OR (new.finished_at IS DISTINCT FROM old.finished_at)))))) EXECUTE FUNCTION provisioner.refuse_recorded_columns('status, rotation_id, connection_id, key_issued, adopted, attempts, error_code, error_message and finished_at');

CREATE TRIGGER request_credential_edited AFTER UPDATE OF credential, target, project_id ON provisioner.connection_requests FOR EACH ROW WHEN (((new.status = 'pending'::text) AND (((new.credential IS DISTINCT FROM old.credential) OR (new.target IS DISTINCT FROM old.target)) OR (new.project_id IS DISTINCT FROM old.project_id)))) EXECUTE FUNCTION provisioner.request_credential_edited();

CREATE TRIGGER request_edited AFTER UPDATE OF id, target, project_id, name, description, credential, on_conflict, priority, batch, project_name, wanted, not_before ON provisioner.connection_requests FOR EACH ROW WHEN (((((((((((((old.id IS DISTINCT FROM new.id) OR (old.target IS DISTINCT FROM new.target)) OR (old.project_id IS DISTINCT FROM new.project_id)) OR (old.name IS DISTINCT FROM new.name)) OR (old.description IS DISTINCT FROM new.description)) OR (old.on_conflict IS DISTINCT FROM new.on_conflict)) OR (old.priority IS DISTINCT FROM new.priority)) OR (old.batch IS DISTINCT FROM new.batch)) OR (old.project_name IS DISTINCT FROM new.project_name)) OR (old.wanted IS DISTINCT FROM new.wanted)) OR (old.not_before IS DISTINCT FROM new.not_before)) OR ((new.credential IS DISTINCT FROM old.credential) AND ((new.credential ~~ 'sealed:%:wiped'::text) IS NOT TRUE)))) EXECUTE FUNCTION provisioner.request_edited();

CREATE TRIGGER request_forgotten AFTER DELETE ON provisioner.connection_requests FOR EACH ROW WHEN ((old.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_forgotten AFTER DELETE ON provisioner.rotation_requests FOR EACH ROW WHEN ((old.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart AFTER UPDATE OF status, error_code ON provisioner.connection_requests FOR EACH ROW WHEN ((((old.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text])) OR (new.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) AND ((old.status IS DISTINCT FROM new.status) OR (old.error_code IS DISTINCT FROM new.error_code)))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart AFTER UPDATE OF status, error_code ON provisioner.rotation_requests FOR EACH ROW WHEN ((((old.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text])) OR (new.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) AND ((old.status IS DISTINCT FROM new.status) OR (old.error_code IS DISTINCT FROM new.error_code)))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart_at_once AFTER INSERT ON provisioner.connection_requests FOR EACH ROW WHEN ((new.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_set_apart_at_once AFTER INSERT ON provisioner.rotation_requests FOR EACH ROW WHEN ((new.status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'removed'::text]))) EXECUTE FUNCTION provisioner.request_set_apart();

CREATE TRIGGER request_status_edited AFTER UPDATE OF status ON provisioner.connection_requests FOR EACH ROW WHEN (((new.status IS DISTINCT FROM old.status) AND ((new.status = 'pending'::text) OR (new.status IS NULL) OR (new.status <> ALL (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'removed'::text]))))) EXECUTE FUNCTION provisioner.request_status_edited();

CREATE TRIGGER request_status_edited AFTER UPDATE OF status ON provisioner.rotation_requests FOR EACH ROW WHEN (((new.status = 'pending'::text) AND (old.status <> 'pending'::text))) EXECUTE FUNCTION provisioner.request_status_edited();

CREATE TRIGGER request_wished AFTER UPDATE OF wanted ON provisioner.connection_requests FOR EACH ROW WHEN ((new.wanted IS DISTINCT FROM old.wanted)) EXECUTE FUNCTION provisioner.request_wished();

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.connection_requests REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.rotation_requests REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE TRIGGER requests_inserted AFTER INSERT ON provisioner.connection_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_inserted();

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.connection_requests FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated('0', '1000000000000');

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.rotation_requests FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated('1000000000001', '9223372036854775807');

CREATE TRIGGER rotation_deleted AFTER DELETE ON provisioner.rotation_requests FOR EACH ROW WHEN (((old.wanted = 'absent'::text) AND (old.status = 'pending'::text))) EXECUTE FUNCTION provisioner.rotation_ended();

CREATE TRIGGER rotation_edited AFTER UPDATE OF id, target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at, key_name, spend_limit, limit_reset, include_byok, description, priority, not_before, project_name ON provisioner.rotation_requests FOR EACH ROW EXECUTE FUNCTION provisioner.rotation_edited();

CREATE TRIGGER rotation_ended AFTER UPDATE OF status, wanted ON provisioner.rotation_requests FOR EACH ROW WHEN (((old.wanted = 'absent'::text) AND (old.status = 'pending'::text) AND ((new.wanted <> 'absent'::text) OR (new.status <> 'pending'::text)))) EXECUTE FUNCTION provisioner.rotation_ended();

CREATE TRIGGER rotation_wished AFTER UPDATE OF wanted ON provisioner.rotation_requests FOR EACH ROW WHEN ((new.wanted IS DISTINCT FROM old.wanted)) EXECUTE FUNCTION provisioner.request_wished();

CREATE TRIGGER rotations_first AFTER UPDATE OF wanted ON provisioner.connection_requests FOR EACH ROW WHEN (((new.wanted = 'absent'::text) AND (old.wanted IS DISTINCT FROM 'absent'::text))) EXECUTE FUNCTION provisioner.rotations_first();

CREATE TRIGGER rotations_inserted AFTER INSERT ON provisioner.rotation_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.rotations_inserted();

CREATE TRIGGER withhold_readable_key BEFORE INSERT ON provisioner.connection_requests FOR EACH ROW WHEN (((new.credential <> 'default'::text) AND ((new.credential !~* '^[a-z0-9][a-z0-9_-]{0,39}$'::text) OR (new.credential ~* '^sk-'::text)) AND (new.credential !~ '^sealed:[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]+={0,2}$'::text))) EXECUTE FUNCTION provisioner.withhold_readable_key();

ALTER TABLE ONLY provisioner.sent_creates
    ADD CONSTRAINT sent_creates_id_fkey FOREIGN KEY (id) REFERENCES provisioner.attempt_state(id) ON DELETE CASCADE;

ALTER TABLE provisioner.connection_requests ENABLE ROW LEVEL SECURITY;

CREATE POLICY deletable ON provisioner.connection_requests FOR DELETE USING (true);

CREATE POLICY deletable ON provisioner.rotation_requests FOR DELETE USING (true);

CREATE POLICY editable ON provisioner.connection_requests FOR UPDATE USING (true);

CREATE POLICY editable ON provisioner.rotation_requests FOR UPDATE USING (true);

CREATE POLICY in_their_own_name ON provisioner.connection_requests FOR INSERT WITH CHECK ((requested_by = CURRENT_USER));

CREATE POLICY in_their_own_name ON provisioner.rotation_requests FOR INSERT WITH CHECK ((requested_by = CURRENT_USER));

ALTER TABLE provisioner.rotation_requests ENABLE ROW LEVEL SECURITY;

CREATE POLICY visible ON provisioner.connection_requests FOR SELECT USING ((
CASE
    WHEN ((requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege)) THEN true
    ELSE NULL::boolean
END IS NOT NULL));

CREATE POLICY visible ON provisioner.rotation_requests FOR SELECT USING ((
CASE
    WHEN ((requested_by = CURRENT_USER) OR ( SELECT has_table_privilege(('provisioner.ready'::regclass)::oid, 'SELECT'::text) AS has_table_privilege)) THEN true
    ELSE NULL::boolean
END IS NOT NULL));

REVOKE ALL ON FUNCTION provisioner.add_history(targets text[], succeeded bigint[], failed bigint[], retried bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.also_left(before text, more text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.begin_again(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.box_failed() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.broken_rule(r provisioner.connection_requests) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.cancel(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.connection_requests_counted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.connections_followed() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.connections_joined() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.counted_as(status text, wanted text, recorded uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.disown_requests(ids bigint[], code text, message text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.fail_unknown_targets(target text, most integer, code text, message text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.finish(ids bigint[], status text, code text, message text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.fold_counts(most integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.follow_connections(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.is_about_all(code text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.keep_counts(requests regclass, line text, recorded text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.keys_deleted(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.live_state(status text, wanted text, recorded uuid, flying bigint, waits bigint, quarantine text, said text, cancelled boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.lock_requests(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.misplaced(after bigint, most integer, OUT ids bigint[], OUT last bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.not_updated(request bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.note_edits(request bigint, columns text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.pause(target text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.place(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.put_in_line(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.recount() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.refuse_recorded_columns() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rekey(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.remove(ids bigint[], adopted boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.remove_gone(target text, project uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.remove_rotations_of(request bigint, adopted boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.reopen(request bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.repair(ids bigint[], wrong text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_credential_edited() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_discovered(target text, projects uuid[], names text[], credential text, batch text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_edited() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_set_apart() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_status_edited() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_wished() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_deleted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_inserted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_truncated() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.resume(target text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.retry(ids bigint[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rotation_edited() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rotation_ended() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rotation_requests_counted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rotations_first() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.rotations_inserted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.sealing_key() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.set_limit(target text, writes integer, period interval, in_flight integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.sweep(most integer, pause interval, OUT seen integer, OUT placed integer, OUT done boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.take_place(request bigint, until timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.time_to_show() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.turn_attempt_log(keep interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.utf16_length(given text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.wipe_boxes(boxes provisioner.failed_boxes[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.wipe_failed_boxes(keep interval, most integer, OUT due integer, OUT wiped integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.wiped(credential text, day text) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.withhold_readable_key() FROM PUBLIC;
