-- The second kind of request: a secret rotation, which makes an ordinary API key with a connection's management key and
-- writes it into a secret. It shares the queue, leases, evidence and attempts of connections: the ids tell the kinds
-- apart, and its line is `target/rotations`, which acts as a target with its own budgets and incidents.

-- Combine descriptions of what was left behind at OpenRouter, without repetition. Written so that it is inlined.
CREATE FUNCTION provisioner.also_left(before text, more text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN position(more IN before) > 0 THEN before ELSE nullif(concat_ws('; ', before, more), '') END
$$;

-- Let these rotations go the way of their connections: until that is there they wait for ever, in no scan of what is due; once it is,
-- they are due; and with one that failed for good they fail. What is recorded already needs no connection.
CREATE FUNCTION provisioner.follow_connections(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION provisioner.rotations_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM provisioner.place(ARRAY (SELECT n.id FROM new_rows AS n WHERE n.status = 'pending'));
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
    PERFORM provisioner.follow_connections(ids);
    RETURN NULL;
END
$$;

CREATE TRIGGER connections_joined AFTER INSERT ON provisioner.connection_requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.connections_joined();

-- A rotation that is edited. What Infisical takes in a PATCH is noted once the rotation is recorded, and sent; what it was made with
-- stays. Nothing of it can be edited while a create is under way or in doubt: what that makes would be recorded as something else.
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

CREATE TRIGGER rotation_edited
AFTER UPDATE OF
id, target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at, key_name, spend_limit,
limit_reset, include_byok, description, priority, not_before, project_name
ON provisioner.rotation_requests
FOR EACH ROW EXECUTE FUNCTION provisioner.rotation_edited();

-- Have the rotations removed that use a connection which is not wanted any more: Infisical does not delete what is in use. The
-- connection waits for them, in no scan of what is due. What was adopted stays, unless its removal was asked for.
CREATE FUNCTION provisioner.remove_rotations_of(request bigint, adopted boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION provisioner.rotations_first() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM provisioner.remove_rotations_of(new.id, false);
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

-- Somebody has deleted the keys at OpenRouter that these rotations left behind, so nobody needs to look for them any more.
CREATE FUNCTION provisioner.keys_deleted(ids bigint[]) RETURNS TABLE (id bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE provisioner.rotation_requests AS r SET left_behind = NULL
    WHERE r.id = ANY (keys_deleted.ids) AND r.left_behind IS NOT NULL
    RETURNING r.id
$$;

COMMENT ON FUNCTION provisioner.keys_deleted(bigint[]) IS 'Note that the keys which rotations left behind are deleted at OpenRouter';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
