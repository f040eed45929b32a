-- Functions for operators: cancel, retry, pause a target, correct the counts, seal a key.

-- Whether an error concerns more than its own row: then trying the other rows one by one only takes time.
CREATE FUNCTION provisioner.is_about_all(code text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT left(code, 2) IN ('25', '53', '57', '58', 'XX') OR code IN ('40001', '55P03')
$$;

COMMENT ON FUNCTION provisioner.is_about_all(text) IS 'Whether an error code concerns more than one row';

-- Cancel requests. One that is in line ends at once. One in flight finishes, and a connection that it makes is
-- recorded. One with an attempt in doubt is looked up, the last time after a late commit would show (`core/policy.py`).
-- Returns what changed: `cancelled`, or `ending` for requests that have yet to end. Requests that somebody's trigger or
-- constraint refuses are left alone, and named in a notice.
CREATE FUNCTION provisioner.cancel(ids bigint[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    undone bigint[];
    done bigint[] := '{}';
    ending bigint[];
    refused bigint[] := '{}';
    lately bigint[];
    lately_ending bigint[];
    skipped boolean;
    one bigint;
    aside bigint[];
BEGIN
    PERFORM set_config('provisioner.recording', 'on', true);
    BEGIN
        WITH failed AS (
            SELECT q.id FROM provisioner.connection_requests AS q
            WHERE q.id = ANY (cancel.ids) AND q.status = 'failed'
            ORDER BY q.id
            FOR UPDATE
        ),
        put_aside AS (
            UPDATE provisioner.connection_requests AS q
            SET
                status = 'cancelled',
                credential = provisioner.wiped(q.credential)
            FROM failed AS f
            WHERE q.id = f.id
            RETURNING q.id
        ),
        failed_rotations AS (
            SELECT r.id FROM provisioner.rotation_requests AS r
            WHERE r.id = ANY (cancel.ids) AND r.status = 'failed'
            ORDER BY r.id
            FOR UPDATE
        ),
        rotations_put_aside AS (
            UPDATE provisioner.rotation_requests AS r SET status = 'cancelled' FROM failed_rotations AS f
            WHERE r.id = f.id
            RETURNING r.id
        )
        SELECT coalesce(array_agg(p.id), '{}') INTO aside
        FROM (SELECT * FROM put_aside UNION ALL SELECT * FROM rotations_put_aside) AS p;
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
            PERFORM 1 FROM provisioner.connection_requests AS q
            WHERE q.id = ANY (undone) AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id)
            ORDER BY q.id FOR UPDATE;
            PERFORM 1 FROM provisioner.rotation_requests AS r
            WHERE r.id = ANY (undone) AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = r.id)
            ORDER BY r.id FOR UPDATE;

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
            ),
            finished AS (
                UPDATE provisioner.connection_requests AS q
                SET
                    status = 'cancelled', finished_at = clock_timestamp(),
                    attempts = coalesce((SELECT s.sent FROM provisioner.attempt_state AS s WHERE s.id = q.id), q.attempts),
                    credential = provisioner.wiped(q.credential)
                FROM found AS f
                WHERE q.id = f.id AND q.id = ANY (undone) AND NOT f.doubted
                RETURNING q.id
            ),
            finished_rotations AS (
                UPDATE provisioner.rotation_requests AS r
                SET
                    status = 'cancelled', finished_at = clock_timestamp(),
                    attempts = coalesce((SELECT s.sent FROM provisioner.attempt_state AS s WHERE s.id = r.id), r.attempts)
                FROM found AS f
                WHERE r.id = f.id AND r.id = ANY (undone) AND NOT f.doubted
                RETURNING r.id
            )
            SELECT
                array_agg(f.id), array_agg(f.id) FILTER (WHERE f.doubted),
                count(*) FILTER (WHERE NOT f.doubted)
                > (SELECT count(*) FROM finished) + (SELECT count(*) FROM finished_rotations)
            INTO lately, lately_ending, skipped
            FROM found AS f;
            IF skipped THEN
                RAISE EXCEPTION 'a trigger keeps it from being changed';
            END IF;
            done := done || coalesce(lately, '{}');
            ending := ending || coalesce(lately_ending, '{}');

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

    PERFORM set_config('provisioner.recording', before, true);
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

COMMENT ON FUNCTION provisioner.cancel(bigint[]) IS 'Cancel requests, including failed ones; returns what changed';

-- Retry requests: failed and cancelled ones with a fresh set of attempts, waiting ones at once. It stays known whether
-- an earlier attempt may have made the connection. Returns what changed; refused requests are named in a notice, as
-- above.
CREATE FUNCTION provisioner.retry(ids bigint[]) RETURNS TABLE (id bigint, was text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    before text := coalesce(current_setting('provisioner.recording', true), '');
    found_ids bigint[];
    states text[];
    skipped boolean;
    one bigint;
BEGIN
    PERFORM set_config('provisioner.recording', 'on', true);
    -- A deadlock with a worker, which also takes many rows at once, costs one round.
    FOR round IN 1..20 LOOP
        BEGIN
            WITH ended AS (
                SELECT q.id, q.status, q.target, q.priority, q.project_id
                FROM provisioner.connection_requests AS q
                WHERE q.id = ANY (retry.ids) AND q.status IN ('failed', 'cancelled', 'removed')
                ORDER BY q.id
                FOR UPDATE
            ),
            reopened AS (
                UPDATE provisioner.connection_requests AS q
                SET
                    status = 'pending', error_code = NULL, error_message = NULL, finished_at = NULL,
                    wanted = CASE WHEN e.status = 'removed' THEN 'present' ELSE q.wanted END
                FROM ended AS e
                WHERE q.id = e.id
                RETURNING q.id
            ),
            forgiven AS (
                UPDATE provisioner.attempt_state AS s
                SET failures = 0, streak = 0, cancelled = false, error_code = NULL, error_message = NULL, updated_at = now()
                FROM ended AS e
                WHERE s.id = e.id
            ),
            lined AS (
                INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
                SELECT e.id, now(), e.target, -e.priority, e.project_id FROM ended AS e
                ON CONFLICT (id) DO NOTHING
            ),
            waits AS (
                SELECT w.id, w.target, w.quarantine
                FROM provisioner.waiting AS w
                WHERE w.id = ANY (retry.ids) AND w.run_at > now()
                    AND (
                        w.quarantine IS NOT NULL
                        OR EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id AND NOT s.cancelled)
                    )
                ORDER BY w.id
                FOR UPDATE
            ),
            hurried AS (
                UPDATE provisioner.waiting AS w
                SET run_at = now(), quarantine = NULL
                FROM waits AS f
                WHERE w.id = f.id
                RETURNING w.id, CASE WHEN f.quarantine LIKE '%:%' THEN 'quarantined' ELSE 'retrying' END AS was
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
            SELECT
                array_agg(c.id ORDER BY c.id), array_agg(c.was ORDER BY c.id),
                (SELECT count(*) FROM ended) > (SELECT count(*) FROM reopened)
            INTO found_ids, states, skipped
            FROM (SELECT e.id, e.status AS was FROM ended AS e UNION ALL SELECT h.id, h.was FROM hurried AS h) AS c;
            IF skipped THEN
                RAISE EXCEPTION 'a trigger keeps it from being changed';
            END IF;
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
    PERFORM set_config('provisioner.recording', before, true);
    RETURN QUERY
    SELECT c.id, c.was FROM unnest(found_ids, states) AS c (id, was)
    UNION ALL SELECT r.id, r.was FROM provisioner.retry_rotations(retry.ids) AS r;
END
$$;

COMMENT ON FUNCTION provisioner.retry(bigint[]) IS 'Retry failed, cancelled, removed or waiting requests';

-- Remove connections by setting `wanted` to absent. Adopted ones are let go, and deleted only with `adopted`. Returns
-- what will happen: `removing`, `let go` (somebody else's connection stays), or `removed` if nothing was made. Requests
-- that somebody's trigger or constraint refuses are left alone, and named in a notice.
CREATE FUNCTION provisioner.remove(ids bigint[], adopted boolean DEFAULT false) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    connection provisioner.connection_requests;
    request record;
BEGIN
    FOR request IN
        -- Rotations first: removing a connection removes its rotations too, and they are reported once.
        SELECT r.id, r.adopted, true AS rotates FROM provisioner.rotation_requests AS r
        WHERE r.id = ANY (remove.ids) AND (r.wanted = 'present' OR r.status IN ('failed', 'cancelled'))
        UNION ALL
        SELECT q.id, q.adopted, false FROM provisioner.connection_requests AS q
        WHERE q.id = ANY (remove.ids) AND (q.wanted = 'present' OR q.status IN ('failed', 'cancelled'))
        ORDER BY rotates DESC, id
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
                SELECT q.* INTO connection FROM provisioner.connection_requests AS q WHERE q.id = request.id;
                UPDATE provisioner.connection_requests AS q
                SET wanted = 'absent', status = CASE WHEN q.wanted = 'absent' THEN 'pending' ELSE q.status END
                WHERE q.id = request.id;
                IF remove.adopted OR connection.wanted = 'absent' THEN
                    PERFORM provisioner.remove_rotations_of(connection, remove.adopted);
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

COMMENT ON FUNCTION provisioner.remove(bigint[], boolean) IS 'Remove connections and rotations; adopted ones only with adopted => true';

-- Send the credential's present key again, except to adopted connections that are left alone, and without a key: a
-- sealed key is wiped after its use. Returns the requests whose connection gets its key.
CREATE FUNCTION provisioner.rekey(ids bigint[]) RETURNS TABLE (id bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
            INSERT INTO provisioner.edits AS e (id, credential) VALUES (request.id, true)
            ON CONFLICT (id) DO UPDATE SET credential = true;
            PERFORM provisioner.reopen(request);
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

COMMENT ON FUNCTION provisioner.rekey(bigint[]) IS 'Send the credential''s present key again; returns the requests for which it is sent';

-- Put connections in line that differ from what was recorded, with the difference for each: `gone`, `name`,
-- `description` or `credential`. A missing connection is made again, and everything else is sent. That is impossible
-- for an adopted connection that is left alone, and for a wiped key. Returns `repairing`, `adopted`, `wiped`, or `not
-- now` for a request that is not succeeded at present.
CREATE FUNCTION provisioner.repair(ids bigint[], wrong text[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found record;
    request provisioner.connection_requests;
    renamed boolean;
    described boolean;
    rekeyed boolean;
BEGIN
    FOR found IN
        SELECT g.id, array_agg(g.what) AS what FROM unnest(repair.ids, repair.wrong) AS g (id, what) GROUP BY g.id ORDER BY g.id
    LOOP
        BEGIN
            SELECT q.* INTO request FROM provisioner.connection_requests AS q WHERE q.id = found.id FOR UPDATE;
            CONTINUE WHEN request.id IS NULL;
            id := request.id;
            renamed := 'name' = ANY (found.what);
            described := 'description' = ANY (found.what);
            rekeyed := 'credential' = ANY (found.what) AND request.credential NOT LIKE 'sealed:%:wiped';
            outcome := CASE
                WHEN request.status <> 'succeeded' OR request.wanted <> 'present' THEN 'not now'
                WHEN request.adopted AND request.on_conflict <> 'replace' THEN 'adopted'
                WHEN NOT ('gone' = ANY (found.what) OR renamed OR described OR rekeyed) THEN 'wiped'
                ELSE 'repairing'
            END;
            IF outcome = 'repairing' THEN
                IF renamed OR described OR rekeyed THEN
                    INSERT INTO provisioner.edits AS e (id, name, description, credential)
                    VALUES (request.id, renamed, described, rekeyed)
                    ON CONFLICT (id) DO UPDATE SET
                        name = e.name OR excluded.name, description = e.description OR excluded.description,
                        credential = e.credential OR excluded.credential;
                END IF;
                PERFORM provisioner.reopen(request);
            END IF;
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            IF provisioner.is_about_all(SQLSTATE) THEN
                RAISE;
            END IF;
            RAISE NOTICE 'request % is left as it is: %', found.id, SQLERRM;
        END;
    END LOOP;
    RETURN QUERY SELECT r.id, r.outcome FROM provisioner.repair_rotations(repair.ids, repair.wrong) AS r;
END
$$;

COMMENT ON FUNCTION provisioner.repair(bigint[], text[]) IS 'Put connections and rotations in line that differ from what was recorded';

-- Pause a target: no more claims; what is in flight finishes.
CREATE FUNCTION provisioner.pause(target text) RETURNS TABLE (target text, paused_at timestamptz, paused_by text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION provisioner.pause(text) IS 'Pause a target; returns nothing if it was paused already';

CREATE FUNCTION provisioner.resume(target text) RETURNS TABLE (target text, paused_at timestamptz, paused_by text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION provisioner.resume(text) IS 'Resume a paused target; returns since when it was paused and by whom';

-- Limit a target while workers run. Omitted arguments leave a limit unchanged; the target alone restores the settings.
CREATE FUNCTION provisioner.set_limit(
    target text, writes integer DEFAULT NULL, period interval DEFAULT '1 minute', in_flight integer DEFAULT NULL
)
RETURNS TABLE (target text, writes integer, period double precision, in_flight integer, limited_at timestamptz, limited_by text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION provisioner.set_limit(text, integer, interval, integer) IS 'Limit a target while workers run; with the target alone, restore the settings';

-- Correct the counts; returns how many were wrong. It is one statement and so sees one moment: a transaction that
-- changes requests also writes its changes of the counts, so nothing has to stop for this.
CREATE FUNCTION provisioner.recount() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    corrected bigint;
BEGIN
    PERFORM FROM provisioner.sweeps FOR UPDATE;  -- two at once would both correct them
    INSERT INTO provisioner.count_changes (target, batch, requested_by, status, error_code, requests, started_at, ended_at, newest)
    SELECT m.* FROM provisioner.miscounted AS m;
    GET DIAGNOSTICS corrected = ROW_COUNT;
    DELETE FROM provisioner.set_apart AS a
    WHERE NOT EXISTS (
        SELECT FROM provisioner.connection_requests AS q
        WHERE q.id = a.id AND q.status = a.status AND q.error_code IS NOT DISTINCT FROM a.error_code
    );
    INSERT INTO provisioner.set_apart (id, status, error_code)
    SELECT q.id, q.status, q.error_code
    FROM provisioner.connection_requests AS q
    WHERE q.status IN ('failed', 'cancelled', 'removed')
    ON CONFLICT (id) DO NOTHING;
    RETURN corrected;
END
$$;

COMMENT ON FUNCTION provisioner.recount() IS 'Correct the counts of requests after rows were written with triggers off; reads all requests';

-- What is needed to seal an API key: the id and the public half (base64) of the newest sealing key.
CREATE FUNCTION provisioner.sealing_key() RETURNS TABLE (key_id text, public_key text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.key_id, encode(k.public_key, 'base64')
    FROM provisioner.sealing_keys AS k
    WHERE k.retired_at IS NULL
    ORDER BY k.created_at DESC, k.key_id
    LIMIT 1
$$;

COMMENT ON FUNCTION provisioner.sealing_key() IS 'The current sealing key: its id and its public half in base64';

-- Functions belong to their owner alone until `provisioner grant` gives others the right.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
