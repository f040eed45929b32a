-- What the migrations make, for reading and for diffs; nobody runs it. Renewed by `python -m tests.support.schema`.

CREATE SCHEMA provisioner;

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
    not_before timestamp with time zone,
    requested_by text DEFAULT CURRENT_USER,
    created_at timestamp with time zone DEFAULT now(),
    status text DEFAULT 'pending'::text,
    connection_id uuid,
    org_id uuid,
    credentials_hash text,
    adopted boolean DEFAULT false,
    attempts integer DEFAULT 0,
    error_code text,
    error_message text,
    finished_at timestamp with time zone
)
WITH (fillfactor='65', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='50000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='50000');

COMMENT ON TABLE provisioner.connection_requests IS 'One row is one connection that somebody wants in an Infisical project';

CREATE FUNCTION provisioner.broken_rule(r provisioner.connection_requests) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT CASE
        WHEN r.project_id IS NULL THEN 'project_id'
        WHEN r.target IS NULL OR (r.target <> 'default' AND r.target !~ '^[a-z0-9][a-z0-9-]{0,62}$') THEN 'target'
        WHEN r.name IS NULL OR length(r.name) > 64 OR r.name !~ '^[a-z0-9]+(-[a-z0-9]+)*$' THEN 'name'
        WHEN length(r.description) > 255 THEN 'description'
        WHEN r.credential IS NULL OR NOT (
            r.credential = 'default'
            OR (r.credential ~ '^sealed:[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]+={0,2}$' AND length(r.credential) BETWEEN 80 AND 5000)
            OR (r.credential ~* '^[a-z0-9][a-z0-9_-]{0,39}$' AND r.credential !~* '^sk-')
        ) THEN 'credential'
        WHEN r.on_conflict IS NULL OR r.on_conflict NOT IN ('fail', 'adopt', 'replace') THEN 'on_conflict'
        WHEN r.priority IS NULL THEN 'priority'
        WHEN length(r.batch) NOT BETWEEN 1 AND 200 THEN 'batch'
        WHEN NOT isfinite(r.not_before) THEN 'not_before'
        WHEN r.status IS NULL OR r.status NOT IN ('pending', 'succeeded', 'failed', 'cancelled') THEN 'status'
    END
$_$;

CREATE FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    given text := CASE rule
        WHEN 'target' THEN r.target WHEN 'name' THEN r.name WHEN 'on_conflict' THEN r.on_conflict
        WHEN 'batch' THEN r.batch WHEN 'status' THEN r.status
        WHEN 'description' THEN length(r.description) || ' characters' WHEN 'not_before' THEN r.not_before::text
    END;
    must text := CASE rule
        WHEN 'project_id' THEN 'is required: the UUID of the Infisical project'
        WHEN 'target' THEN 'must be the name of a configured target: 1 to 63 lower-case letters, digits and hyphens'
        WHEN 'name' THEN 'must be 1 to 64 lower-case letters, digits and single hyphens between them'
        WHEN 'description' THEN 'must be at most 255 characters'
        WHEN 'credential' THEN 'must be the name of a configured credential (1 to 40 letters, digits, hyphens, underscores)'
            || ' or sealed:<key id>:<base64>; a readable API key is never stored'
        WHEN 'on_conflict' THEN 'must be fail, adopt or replace'
        WHEN 'priority' THEN 'must be a number; 0 is the default'
        WHEN 'batch' THEN 'must be 1 to 200 characters'
        WHEN 'not_before' THEN 'must be a point in time'
        WHEN 'status' THEN 'must be pending, succeeded, failed or cancelled'
    END;
BEGIN
    RAISE EXCEPTION '% %', rule, must || coalesce(' (given: ' || quote_literal(left(given, 80)) || ')', '')
    USING
        ERRCODE = CASE WHEN rule = 'project_id' THEN 'not_null_violation' ELSE 'check_violation' END,
        SCHEMA = 'provisioner', TABLE = 'connection_requests', COLUMN = rule,
        CONSTRAINT = 'connection_requests_' || rule || '_check';
END
$$;

CREATE FUNCTION provisioner.request_edited() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    rule text := provisioner.broken_rule(new);
BEGIN
    IF rule IS NOT NULL THEN
        PERFORM provisioner.refuse(rule, new);
    END IF;
    IF (old.target, old.project_id, old.priority, old.not_before)
        IS NOT DISTINCT FROM (new.target, new.project_id, new.priority, new.not_before) THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM provisioner.in_flight AS f WHERE f.id = new.id;
    IF FOUND THEN
        RAISE EXCEPTION 'request % is in flight: its target, project, priority and not_before cannot be changed now', new.id
        USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
    END IF;
    DELETE FROM provisioner.ready AS r
    WHERE r.target = old.target AND r.project_id = old.project_id AND r.rank = -old.priority AND r.id = old.id;
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    VALUES (new.id, coalesce(new.not_before, now()), new.target, -new.priority, new.project_id)
    ON CONFLICT (id) DO UPDATE SET
        run_at = excluded.run_at, target = excluded.target, rank = excluded.rank, project_id = excluded.project_id;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.requests_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM provisioner.ready AS r USING old_rows AS o
    WHERE r.target = o.target AND r.project_id = o.project_id AND r.rank = -o.priority AND r.id = o.id;
    DELETE FROM provisioner.waiting AS w USING old_rows AS o WHERE w.id = o.id;
    DELETE FROM provisioner.in_flight AS f USING old_rows AS o WHERE f.id = o.id;
    DELETE FROM provisioner.setbacks AS s USING old_rows AS o WHERE s.id = o.id;
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
    -- One project's newcomers stand one behind the other, after those that it has in line already. Written with arrays, so
    -- that no plan can compare every row with every project.
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
        LEFT JOIN provisioner.turns AS t ON t.target = c.target AND t.rank = c.rank
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
BEGIN
    TRUNCATE provisioner.ready, provisioner.waiting, provisioner.in_flight, provisioner.setbacks;
    RETURN NULL;
END
$$;

CREATE FUNCTION provisioner.turn_attempt_log(keep interval) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
DECLARE
    day date;
    part text;
BEGIN
    -- Two workers may come at once; the second has nothing left to do.
    IF NOT pg_try_advisory_xact_lock(hashtextextended('provisioner.turn_attempt_log', 0)) THEN
        RETURN;
    END IF;
    FOR day IN SELECT d::date FROM generate_series(current_date, current_date + 2, interval '1 day') AS d LOOP
        part := 'attempts_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('provisioner.' || part) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE provisioner.%I PARTITION OF provisioner.attempts FOR VALUES FROM (%L) TO (%L)',
                part, day::timestamptz, (day + 1)::timestamptz
            );
        END IF;
    END LOOP;
    FOR part IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'provisioner.attempts'::regclass AND c.relname ~ '^attempts_[0-9]{8}$'
            AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - keep
    LOOP
        EXECUTE format('DROP TABLE provisioner.%I', part);
    END LOOP;
    DELETE FROM provisioner.attempts_other AS a WHERE a.ended_at < now() - keep;
END
$_$;

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

CREATE TABLE provisioner.in_flight (
    id bigint NOT NULL,
    attempt integer NOT NULL,
    worker bigint NOT NULL,
    target text NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    claimed_at timestamp with time zone NOT NULL,
    cancelled boolean DEFAULT false NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');

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
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE provisioner.permits IS 'Budgets within the rate limits; times are seconds since 1970 on this server''s clock';

COMMENT ON COLUMN provisioner.permits.metered IS 'Whether there is a limiter; NULL while nobody knows';

COMMENT ON COLUMN provisioner.permits.permits IS 'Permits a window';

COMMENT ON COLUMN provisioner.permits.period IS 'Length of a window in seconds';

COMMENT ON COLUMN provisioner.permits.ends_at IS 'The earliest bound that the answers gave for the end of this window';

COMMENT ON COLUMN provisioner.permits.used IS 'Permits used in this window as the server counts, by us and by others';

CREATE TABLE provisioner.waiting (
    id bigint NOT NULL,
    run_at timestamp with time zone NOT NULL,
    target text NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    hold text
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

COMMENT ON COLUMN provisioner.waiting.hold IS 'Why it is held back together with others, such as the credential that was refused';

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

COMMENT ON COLUMN provisioner.workers.pace IS 'Creates a second, lately';

CREATE VIEW provisioner.batch_progress AS
 WITH states AS (
         SELECT q.batch,
            q.created_at,
            q.finished_at,
                CASE
                    WHEN (q.status <> 'pending'::text) THEN q.status
                    WHEN (f.id IS NOT NULL) THEN 'in_flight'::text
                    WHEN (w.id IS NOT NULL) THEN 'waiting'::text
                    ELSE 'ready'::text
                END AS state
           FROM ((provisioner.connection_requests q
             LEFT JOIN provisioner.in_flight f ON (((f.id = q.id) AND (q.status = 'pending'::text))))
             LEFT JOIN provisioner.waiting w ON (((w.id = q.id) AND (q.status = 'pending'::text))))
        ), counted AS (
         SELECT states.batch,
            (GROUPING(states.batch) = 1) AS total,
            count(*) AS requests,
            count(*) FILTER (WHERE (states.state = 'waiting'::text)) AS waiting,
            count(*) FILTER (WHERE (states.state = 'ready'::text)) AS ready,
            count(*) FILTER (WHERE (states.state = 'in_flight'::text)) AS in_flight,
            count(*) FILTER (WHERE (states.state = 'succeeded'::text)) AS succeeded,
            count(*) FILTER (WHERE (states.state = 'failed'::text)) AS failed,
            count(*) FILTER (WHERE (states.state = 'cancelled'::text)) AS cancelled,
            min(states.created_at) AS started_at,
            max(states.finished_at) AS last_finished_at
           FROM states
          GROUP BY GROUPING SETS ((states.batch), ())
        ), pace AS (
         SELECT COALESCE(( SELECT sum(((p.permits)::double precision / p.period)) AS sum
                   FROM provisioner.permits p
                  WHERE ((p.kind = 'write'::text) AND p.metered)), ( SELECT sum(k.pace) AS sum
                   FROM provisioner.workers k
                  WHERE (k.lease_until > now()))) AS per_second
        )
 SELECT c.batch,
    c.total,
    c.requests,
    c.waiting,
    c.ready,
    c.in_flight,
    c.succeeded,
    c.failed,
    c.cancelled,
    c.started_at,
        CASE
            WHEN (((c.waiting + c.ready) + c.in_flight) = 0) THEN c.last_finished_at
            ELSE NULL::timestamp with time zone
        END AS ended_at,
        CASE
            WHEN ((((c.waiting + c.ready) + c.in_flight) > 0) AND (pace.per_second > (0)::double precision)) THEN (now() + make_interval(secs => ((((c.waiting + c.ready) + c.in_flight))::double precision / pace.per_second)))
            ELSE NULL::timestamp with time zone
        END AS ends_at
   FROM (counted c
     CROSS JOIN pace);

COMMENT ON VIEW provisioner.batch_progress IS 'How far each batch and everything together has come, and when it will end';

ALTER TABLE provisioner.connection_requests ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME provisioner.connection_requests_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE provisioner.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE provisioner.ready (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    id bigint NOT NULL,
    project_id uuid NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

CREATE TABLE provisioner.setbacks (
    id bigint NOT NULL,
    attempt integer NOT NULL,
    sent integer NOT NULL,
    failures integer NOT NULL,
    since timestamp with time zone NOT NULL,
    unknown boolean NOT NULL,
    cancelled boolean DEFAULT false NOT NULL,
    error_code text,
    error_message text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

CREATE VIEW provisioner.request_status AS
 WITH line AS (
         SELECT r.id,
            row_number() OVER (PARTITION BY r.target ORDER BY r.rank, r.turn, r.id) AS queue_position
           FROM provisioner.ready r
        )
 SELECT q.id,
    q.target,
    q.project_id,
    q.name,
    q.batch,
    q.priority,
    q.requested_by,
    q.created_at,
        CASE
            WHEN (q.status <> 'pending'::text) THEN q.status
            WHEN (f.id IS NOT NULL) THEN 'in_flight'::text
            WHEN (w.id IS NOT NULL) THEN 'waiting'::text
            ELSE 'ready'::text
        END AS state,
        CASE
            WHEN (q.status = 'pending'::text) THEN COALESCE(s.sent, q.attempts)
            ELSE q.attempts
        END AS attempts,
    q.connection_id,
    q.org_id,
    q.credentials_hash,
    q.adopted,
        CASE
            WHEN (q.status = 'pending'::text) THEN s.error_code
            ELSE q.error_code
        END AS error_code,
        CASE
            WHEN (q.status = 'pending'::text) THEN s.error_message
            ELSE q.error_message
        END AS error_message,
    w.run_at AS next_attempt_at,
    line.queue_position,
    q.finished_at
   FROM ((((provisioner.connection_requests q
     LEFT JOIN provisioner.in_flight f ON ((f.id = q.id)))
     LEFT JOIN provisioner.waiting w ON ((w.id = q.id)))
     LEFT JOIN provisioner.setbacks s ON ((s.id = q.id)))
     LEFT JOIN line ON ((line.id = q.id)));

COMMENT ON VIEW provisioner.request_status IS 'Every request with its live state and its place in the queue';

CREATE TABLE provisioner.sealing_keys (
    key_id text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone
);

CREATE TABLE provisioner.targets (
    target text NOT NULL,
    paused_at timestamp with time zone,
    paused_by text,
    trouble text,
    trouble_since timestamp with time zone
)
WITH (fillfactor='50');

CREATE TABLE provisioner.turns (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE provisioner.workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME provisioner.workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY provisioner.attempts ATTACH PARTITION provisioner.attempts_other DEFAULT;

ALTER TABLE ONLY provisioner.connection_requests
    ADD CONSTRAINT connection_requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.connection_requests
    ADD CONSTRAINT connection_requests_wanted_once UNIQUE (target, project_id, name);

ALTER TABLE ONLY provisioner.in_flight
    ADD CONSTRAINT in_flight_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY provisioner.permits
    ADD CONSTRAINT permits_pkey PRIMARY KEY (target, kind);

ALTER TABLE ONLY provisioner.sealing_keys
    ADD CONSTRAINT sealing_keys_pkey PRIMARY KEY (key_id);

ALTER TABLE ONLY provisioner.setbacks
    ADD CONSTRAINT setbacks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.targets
    ADD CONSTRAINT targets_pkey PRIMARY KEY (target);

ALTER TABLE ONLY provisioner.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (target, rank);

ALTER TABLE ONLY provisioner.waiting
    ADD CONSTRAINT waiting_pkey PRIMARY KEY (id);

ALTER TABLE ONLY provisioner.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX attempts_of_request ON ONLY provisioner.attempts USING btree (request_id);

CREATE INDEX attempts_other_request_id_idx ON provisioner.attempts_other USING btree (request_id);

CREATE INDEX connection_requests_batch ON provisioner.connection_requests USING btree (batch) WHERE (batch IS NOT NULL);

CREATE INDEX ready_in_order ON provisioner.ready USING btree (target, rank, turn, id);

CREATE INDEX ready_of_project ON provisioner.ready USING btree (target, project_id, rank, turn);

CREATE INDEX waiting_until ON provisioner.waiting USING btree (run_at);

ALTER INDEX provisioner.attempts_of_request ATTACH PARTITION provisioner.attempts_other_request_id_idx;

CREATE TRIGGER request_edited AFTER UPDATE OF target, project_id, name, description, credential, on_conflict, priority, batch, not_before ON provisioner.connection_requests FOR EACH ROW WHEN (((new.status = 'pending'::text) AND (old.status = 'pending'::text))) EXECUTE FUNCTION provisioner.request_edited();

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.connection_requests REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE TRIGGER requests_inserted AFTER INSERT ON provisioner.connection_requests REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_inserted();

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.connection_requests FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated();

REVOKE ALL ON FUNCTION provisioner.broken_rule(r provisioner.connection_requests) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.request_edited() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_deleted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_inserted() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.requests_truncated() FROM PUBLIC;

REVOKE ALL ON FUNCTION provisioner.turn_attempt_log(keep interval) FROM PUBLIC;
