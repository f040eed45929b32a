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

COMMENT ON FUNCTION provisioner.cancel(bigint[]) IS 'Cancel requests, including failed ones; returns what changed';

-- Try requests again: failed and cancelled ones with all their attempts before them, those that wait for their next attempt at once.
-- Whether an earlier attempt may have made something stays known. Returns what changed; what is refused is named in a notice, as above.
-- What waits for another request goes on waiting.
CREATE FUNCTION provisioner.retry(ids bigint[]) RETURNS TABLE (id bigint, was text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION provisioner.retry(bigint[]) IS 'Retry failed, cancelled, removed or waiting requests';

-- Remove connections by setting `wanted` to absent. Adopted ones are let go, and deleted only with `adopted`. Returns
-- what will happen: `removing`, `let go` (somebody else's connection stays), or `removed` if nothing was made. Requests
-- that somebody's trigger or constraint refuses are left alone, and named in a notice.
CREATE FUNCTION provisioner.remove(ids bigint[], adopted boolean DEFAULT false) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION provisioner.rekey(bigint[]) IS 'Send the credential''s present key again; returns the requests for which it is sent';

-- Put requests in line whose connection or rotation is not as it was recorded: request by request what is wrong with it, which is `gone`, a
-- column, `automatic` (somebody switched the rotation off) or `failing` (its key could not be replaced, which Infisical itself repeats).
-- What is gone is made again, everything else is sent. What was adopted and is left as it is, and a key that is wiped, cannot be. Returns
-- `repairing`, `adopted`, `wiped`, `failing`, or `not now` for what is not succeeded at the moment.
CREATE FUNCTION provisioner.repair(ids bigint[], wrong text[]) RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
