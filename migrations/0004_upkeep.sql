-- Functions for workers, beside claiming and settling, that keep every request moving whatever a row contains and
-- whatever somebody's trigger does with it.

-- A user's trigger that returns NULL silently skips an update. The settlement must then fail as a whole, because its
-- connection would be recorded nowhere. A deleted request has nothing to be recorded in.
CREATE FUNCTION provisioner.not_updated(request bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = not_updated.request) THEN
        RAISE EXCEPTION 'a trigger on the table of requests keeps request % from being updated', not_updated.request
        USING ERRCODE = 'triggered_action_exception';
    END IF;
    RETURN NULL;
END
$$;

-- Wipe at most `most` sealed keys of requests that failed at least `keep` ago, if they are still failed and still have
-- that key. The day is kept in the rest of the credential, because `retry` clears the message. Rows are found by id
-- from an array, so the wide table is never read as a whole. All at once; if one cannot be updated, one by one, and
-- that one again in an hour.
CREATE FUNCTION provisioner.wipe_failed_boxes(keep interval, most integer, OUT due integer, OUT wiped integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION provisioner.wipe_boxes(boxes provisioner.failed_boxes[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

-- Fail at most `most` requests in line for a target that no worker has ever had, with this error; returns their ids. If
-- a target's workers are merely away, its requests wait for them. All at once; if one cannot be updated, one by one,
-- and that one leaves the line for a while.
CREATE FUNCTION provisioner.fail_unknown_targets(target text, most integer, code text, message text) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION provisioner.disown_requests(ids bigint[], code text, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM provisioner.ready AS r WHERE r.id = ANY (ids);
    PERFORM provisioner.finish(
        ARRAY (SELECT q.id FROM provisioner.requests AS q WHERE q.id = ANY (ids) AND q.status = 'pending'), 'failed', code, message
    );
END
$$;

-- Find the pending requests without a place (in line, waiting or in flight) among the `most` requests above the id
-- `after`. Such rows were written with triggers off (a restore, replication) and would never be claimed. It is one
-- statement and so sees one moment, in which every moving request has a place. `last` is the last id that was checked,
-- NULL at the end.
CREATE FUNCTION provisioner.misplaced(after bigint, most integer, OUT ids bigint[], OUT last bigint)
LANGUAGE sql STABLE AS $$
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

-- Put pending requests without a place in line; returns how many got one, or were failed because they break a rule that
-- nothing had checked. Runs with the rights of the owner, who alone may put other users' requests in line.
CREATE FUNCTION provisioner.put_in_line(ids bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Check the newest `most` requests, and the next `most` after the end of the last sweep, and put those without a place
-- in line. Does nothing within `pause` after the last sweep. `done`: the end was reached, and the next sweep starts
-- over.
CREATE FUNCTION provisioner.sweep(most integer, pause interval, OUT seen integer, OUT placed integer, OUT done boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Add recent events to the present minute and hour, and delete what is too old to be shown.
CREATE FUNCTION provisioner.add_history(targets text[], succeeded bigint[], failed bigint[], retried bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Fold at most `most` changes into the counts; returns how many. Two concurrent calls take different changes, and lock
-- rows in the same order. A count of zero is deleted, so batches whose requests were deleted leave nothing behind.
-- Successes and failures also go into the history.
CREATE FUNCTION provisioner.fold_counts(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Rotate the attempt log: create partitions for the next days, and drop those older than `keep`. It runs with the
-- owner's rights, because workers may not change the schema. Days are UTC days. It waits for no lock: behind a dump or
-- an open transaction, every settlement would queue behind it. Returns false if something was in the way; call it again
-- then. There is time, because partitions are created two days ahead, and records without one go to the default
-- partition. Of two concurrent calls, the second finds nothing to do.
CREATE FUNCTION provisioner.turn_attempt_log(keep interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
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
$$;

SELECT provisioner.turn_attempt_log(interval '30 days');

-- Functions belong to their owner alone until `provisioner grant` gives others the right.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;

-- Request a connection in each of these projects that has no request yet; returns how many are new. With the owner's
-- rights, because workers may not insert requests otherwise.
CREATE FUNCTION provisioner.request_discovered(target text, projects uuid[], names text[], credential text, batch text)
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

REVOKE EXECUTE ON FUNCTION provisioner.request_discovered(text, uuid[], text[], text, text) FROM PUBLIC;

-- Mark the requests of a project that was certainly deleted from Infisical as not wanted; returns how many. Each
-- recorded connection is still deleted by its id, and Infisical's 404 ends the request as removed. Cancelled requests
-- are left alone. With the owner's rights, because workers may not remove otherwise.
CREATE FUNCTION provisioner.remove_gone(target text, project uuid) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM provisioner.seen_projects AS s WHERE s.target = remove_gone.target AND s.project_id = remove_gone.project;
    SELECT count(*) FROM provisioner.remove(ARRAY(
        SELECT q.id FROM provisioner.connection_requests AS q
        WHERE
            q.target = remove_gone.target AND q.project_id = remove_gone.project
            AND q.wanted = 'present' AND q.status <> 'cancelled'
    ))
$$;

REVOKE EXECUTE ON FUNCTION provisioner.remove_gone(text, uuid) FROM PUBLIC;
