-- The users' table, the tiny tables that move behind it, and the statement triggers between them.
--
-- The users' row is wide and gets one INSERT and one UPDATE in its life; whatever changes more often lives in tables that
-- stay small. So no column of the wide table that is ever updated may be indexed, and there is room on each page for the
-- new version of the row (HOT): measured, the table ends up smaller so than with pages that are full at first.

CREATE SCHEMA IF NOT EXISTS provisioner;

-- Rules are kept by the statement trigger below, not by CHECK or NOT NULL: those print the failing row, and with it the
-- row's credential, to the client and into the server's log.
CREATE TABLE provisioner.connection_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target text DEFAULT 'default',
    project_id uuid,
    name text DEFAULT 'openrouter',
    description text,
    credential text DEFAULT 'default',
    on_conflict text DEFAULT 'fail',
    priority smallint DEFAULT 0,
    batch text,
    project_name text,
    not_before timestamptz,
    requested_by text DEFAULT current_user,
    created_at timestamptz DEFAULT now(),
    status text DEFAULT 'pending',
    connection_id uuid,
    org_id uuid,
    credentials_hash text,
    adopted boolean DEFAULT false,
    attempts integer DEFAULT 0,
    error_code text,
    error_message text,
    finished_at timestamptz,
    CONSTRAINT connection_requests_wanted_once UNIQUE (target, project_id, name)
) WITH (
    fillfactor = 35,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 50000
);

CREATE INDEX connection_requests_batch ON provisioner.connection_requests (batch) WHERE batch IS NOT NULL;

COMMENT ON COLUMN provisioner.connection_requests.project_name IS 'What people call the project: shown, never sent';
COMMENT ON TABLE provisioner.connection_requests IS 'One row is one connection that somebody wants in an Infisical project';

-- Every table has a primary key: in a database whose tables are all published (`FOR ALL TABLES`), PostgreSQL refuses to
-- update and delete rows that nothing identifies.

-- Requests that may be claimed, in the order in which they are. `rank` is the negated priority. `turn` is the virtual time
-- of fair queueing: each project has at most about one request a turn, so claiming in the order of turns serves the
-- projects one after another and is still one plain range of one index.
CREATE TABLE provisioner.ready (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    id bigint NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT ready_in_order PRIMARY KEY (target, rank, turn, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX ready_of_project ON provisioner.ready (target, project_id, rank, turn);
-- For those who edit, cancel or delete requests: a project may have tens of thousands in line.
CREATE INDEX ready_by_id ON provisioner.ready (id);

-- Up to which turn each queue has been served: where newcomers join. Workers write it about once a second.
CREATE TABLE provisioner.fair_cursors (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    PRIMARY KEY (target, rank)
) WITH (fillfactor = 50);

-- Requests whose time has not come: scheduled ones, and those that are tried again later.
CREATE TABLE provisioner.waiting (
    id bigint PRIMARY KEY,
    run_at timestamptz NOT NULL,
    target text NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    quarantine text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX waiting_until ON provisioner.waiting (run_at);

COMMENT ON COLUMN provisioner.waiting.quarantine IS 'Why it is held back together with others, such as the credential that was refused';

-- Requests that a worker has claimed: the durable intent, committed before the first byte is sent.
-- `fence` is drawn by lot for each claim: ids and attempts come again after a TRUNCATE … RESTART IDENTITY or a restore, and the
-- answers of what was in flight before must not be recorded for what has their numbers now. Worker 0 stands for nobody:
-- what cannot be recorded is set aside under it, see `unrecorded`. Columns in the order in which they need no padding.
CREATE TABLE provisioner.in_flight (
    id bigint PRIMARY KEY,
    worker bigint NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    claimed_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    cancelled boolean NOT NULL DEFAULT false,
    target text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Outcomes that the database would not record, because of the row or of what somebody's trigger, index or constraint makes of
-- it. The request stays in flight, under worker 0, so nobody makes its connection a second time; maintenance tries to record
-- the outcome again, with growing pauses, and it is when the cause is gone. `calls` are the statements of `settle.sql` with
-- their arguments.
CREATE TABLE provisioner.unrecorded (
    id bigint PRIMARY KEY,
    fence bigint NOT NULL,
    connection_id text,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 1,
    retry_at timestamptz NOT NULL,
    calls jsonb NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE provisioner.unrecorded IS 'Outcomes that could not be recorded yet, and why; they are recorded when the cause is gone';
COMMENT ON COLUMN provisioner.unrecorded.connection_id IS 'The connection that was made, if one was';

-- What happened so far to requests that met anything but success at once. `since` is when the first attempt began,
-- `streak` how many of the last failures in a row were of the kind `streak_of`.
CREATE TABLE provisioner.attempt_state (
    id bigint PRIMARY KEY,
    attempt integer NOT NULL,
    sent integer NOT NULL,
    failures integer NOT NULL,
    streak integer NOT NULL DEFAULT 0,
    streak_of text,
    since timestamptz NOT NULL,
    cancelled boolean NOT NULL DEFAULT false,
    error_code text,
    error_message text,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Creates that left and whose outcome no answer proved: what was sent, when, and when their end was known. A connection that is
-- found is the request's own when one of these can have made it. A request that is answered at its first attempt never has one:
-- its row of `in_flight` is all the evidence there is. Gone with what else is known of the request's attempts.
CREATE TABLE provisioner.sent_creates (
    id bigint NOT NULL REFERENCES provisioner.attempt_state (id) ON DELETE CASCADE,
    sent_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    proof text NOT NULL DEFAULT 'none',
    target text NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    exact boolean NOT NULL,
    key_fingerprint text,
    PRIMARY KEY (id, sent_at)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.sent_creates IS 'Creates whose outcome is not proven: they may have made the connection';
COMMENT ON COLUMN provisioner.sent_creates.proof IS 'none: it may be committed later; taken: Infisical answered that the name is taken';
COMMENT ON COLUMN provisioner.sent_creates.exact IS 'Whether description is what was sent, or a marker may have been added';

-- Who is at work. A worker's requests are its own until `lease_until`; it renews the lease for all of them at once.
CREATE TABLE provisioner.workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    targets text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL,
    stopping boolean NOT NULL DEFAULT false,
    created integer NOT NULL DEFAULT 0,
    pace double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON COLUMN provisioner.workers.pace IS 'Creates a second, lately';

-- What operators decide about a target, and what the workers found out about it.
CREATE TABLE provisioner.targets (
    target text PRIMARY KEY,
    known_at timestamptz,
    paused_at timestamptz,
    paused_by text,
    clock_low double precision,
    clock_high double precision,
    clock_at timestamptz
) WITH (fillfactor = 50);

COMMENT ON COLUMN provisioner.targets.clock_low IS 'Seconds that Infisical''s createdAt is ahead of this server''s clock, at the least';

-- Why workers hold creates back at a target. Each worker has breakers of its own and reports again about once a second; a
-- report that is not repeated is over.
CREATE TABLE provisioner.target_incidents (
    target text NOT NULL,
    reporter text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, reporter)
) WITH (fillfactor = 50);

-- One row a budget: a target's writes, reads or logins within the rate limits, shared by all workers.
CREATE TABLE provisioner.permits (
    target text NOT NULL,
    kind text NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    metered boolean,
    permits integer,
    period double precision NOT NULL DEFAULT 60,
    starts_at double precision,
    ends_at double precision,
    next_at double precision NOT NULL DEFAULT 0,
    granted integer NOT NULL DEFAULT 0,
    answered integer NOT NULL DEFAULT 0,
    used integer NOT NULL DEFAULT 0,
    blocked_until double precision NOT NULL DEFAULT 0,
    ended_at double precision,
    late integer NOT NULL DEFAULT 0,
    theirs integer NOT NULL DEFAULT 0,
    their_pace double precision NOT NULL DEFAULT 0,
    seen_at double precision NOT NULL DEFAULT 0,
    searching boolean NOT NULL DEFAULT false,
    bare_since double precision,
    address text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, kind)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.permits IS 'Budgets within the rate limits; times are seconds since 1970 on this server''s clock';
COMMENT ON COLUMN provisioner.permits.metered IS 'Whether there is a limiter; NULL while nobody knows';
COMMENT ON COLUMN provisioner.permits.permits IS 'Permits a window';
COMMENT ON COLUMN provisioner.permits.period IS 'Length of a window in seconds';
COMMENT ON COLUMN provisioner.permits.ends_at IS 'The earliest bound that the answers gave for the end of this window';
COMMENT ON COLUMN provisioner.permits.late IS 'Requests that were under way when this window began';
COMMENT ON COLUMN provisioner.permits.theirs IS 'Permits that others certainly used in this window';
COMMENT ON COLUMN provisioner.permits.their_pace IS 'Permits a second that others used lately';
COMMENT ON COLUMN provisioner.permits.searching IS 'Whether no answer names the limit, and it is searched';
COMMENT ON COLUMN provisioner.permits.used IS 'Permits used in this window as the server counts, by us and by others';
COMMENT ON COLUMN provisioner.permits.bare_since IS 'Since when answers that should carry the limiter''s headers do not';
COMMENT ON COLUMN provisioner.permits.address IS 'The server that this was learned from: a target with another address starts anew';

-- How many creates may be in flight at a target, over all its workers: one row a target, with what was learned of its server
-- and each worker's part of the limit. It is read, decided on, and written back unless somebody else was quicker.
CREATE TABLE provisioner.concurrency (
    target text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    address text NOT NULL,
    in_flight_limit integer NOT NULL,
    metered boolean NOT NULL DEFAULT false,
    usual double precision,
    calls integer NOT NULL DEFAULT 0,
    accepted integer NOT NULL DEFAULT 0,
    elapsed double precision NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    headers integer NOT NULL DEFAULT 0,
    pressed boolean NOT NULL DEFAULT false,
    ended_at double precision NOT NULL DEFAULT 0,
    stalled_at double precision,
    stalled_with integer NOT NULL DEFAULT 0,
    cliff integer,
    cliff_at double precision NOT NULL DEFAULT 0,
    bar integer NOT NULL DEFAULT 0,
    memory double precision NOT NULL DEFAULT 21600,
    workers bigint[] NOT NULL DEFAULT '{}',
    held integer[] NOT NULL DEFAULT '{}',
    wanted integer[] NOT NULL DEFAULT '{}',
    running integer[] NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.concurrency IS 'How many creates may be in flight at a target, over all its workers; times as in permits';
COMMENT ON COLUMN provisioner.concurrency.address IS 'The server that this was learned from: a target with another address starts anew';
COMMENT ON COLUMN provisioner.concurrency.usual IS 'Latency of creates in seconds while few are in flight';
COMMENT ON COLUMN provisioner.concurrency.calls IS 'Calls of the present round; likewise the five columns after it';
COMMENT ON COLUMN provisioner.concurrency.stalled_at IS 'When it was noticed that no call ends any more; NULL while calls end';
COMMENT ON COLUMN provisioner.concurrency.cliff IS 'As many in flight at once stopped the server, at cliff_at';
COMMENT ON COLUMN provisioner.concurrency.bar IS 'How far the limit goes after the cliff, until hours have gone by';
COMMENT ON COLUMN provisioner.concurrency.memory IS 'For how many seconds the limit does not go beyond the bar; less than six hours: the cliff is only suspected';
COMMENT ON COLUMN provisioner.concurrency.held IS 'Slots of each of the workers, in their order; likewise wanted and running';

-- The attempt log. Partitioned by day, so that forgetting is dropping. Its key is the call: one that is written down again,
-- because nobody heard that it was, is there already.
CREATE TABLE provisioner.attempts (
    request_id bigint NOT NULL,
    attempt integer NOT NULL,
    worker bigint NOT NULL,
    action text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    http_status smallint,
    req_id text,
    outcome text NOT NULL,
    error_code text,
    error_message text,
    CONSTRAINT attempts_of_request PRIMARY KEY (request_id, attempt, ended_at)
) PARTITION BY RANGE (ended_at);

CREATE TABLE provisioner.attempts_other PARTITION OF provisioner.attempts DEFAULT;

-- The public halves of the sealing key pairs.
CREATE TABLE provisioner.sealing_keys (
    key_id text PRIMARY KEY,
    public_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);

-- How long Infisical takes a text to be: it counts UTF-16 code units, so what lies beyond U+FFFF counts as two.
CREATE FUNCTION provisioner.utf16_length(given text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT length(given) + length(regexp_replace(given, '[^\U00010000-\U0010FFFF]', '', 'g'))
$$;

-- Which rule a row breaks, as the name of its column; NULL when it breaks none.
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
        WHEN r.not_before < '0001-01-02 00:00:00+00' OR r.not_before >= '9999-01-01 00:00:00+00' THEN 'not_before'
        WHEN r.created_at < '0001-01-02 00:00:00+00' OR r.created_at >= '9999-01-01 00:00:00+00' THEN 'created_at'
        WHEN r.status IS NULL OR r.status NOT IN ('pending', 'succeeded', 'failed', 'cancelled') THEN 'status'
    END
$$;

-- Refuse a row in words that name the column and the rule, and never show the credential.
CREATE FUNCTION provisioner.refuse(rule text, r provisioner.connection_requests) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    given text := CASE rule
        WHEN 'target' THEN r.target WHEN 'name' THEN r.name WHEN 'on_conflict' THEN r.on_conflict
        WHEN 'batch' THEN r.batch WHEN 'status' THEN r.status
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
        WHEN 'not_before' THEN 'must be a point in time before the year 9999; infinity is none'
        WHEN 'created_at' THEN 'must be a point in time before the year 9999; infinity is none'
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

-- Put rows in line. One notification a statement: a commit with notifications takes a lock of the whole database. Its
-- payload says where in line the newcomers stand, as target,rank,turn;…: workers need not look at what they have passed.
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

-- A request that is edited keeps the rules, and takes its place anew while it is pending. What it is known by (target, project,
-- name, description) cannot be edited while a create is under way or in doubt: the connection that this create makes would be
-- recorded nowhere. The workers' own updates never come here: of these columns they only ever wipe a sealed credential.
CREATE FUNCTION provisioner.request_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    checked provisioner.connection_requests := new;
    rule text;
    moved boolean := (old.target, old.project_id) IS DISTINCT FROM (new.target, new.project_id);
    renamed boolean := moved OR (old.name, old.description) IS DISTINCT FROM (new.name, new.description);
    placed boolean := moved OR (old.priority, old.not_before) IS DISTINCT FROM (new.priority, new.not_before);
    taken boolean := false;
BEGIN
    -- What is left of a wiped key is no credential, and stays with the row.
    IF new.credential LIKE 'sealed:%:wiped' AND new.credential = old.credential THEN
        checked.credential := 'default';
    END IF;
    rule := provisioner.broken_rule(checked);
    IF rule IS NOT NULL THEN
        PERFORM provisioner.refuse(rule, new);
    END IF;
    -- Under another id its answer would be recorded nowhere, and its place in line would be nobody's.
    IF old.id <> new.id THEN
        RAISE EXCEPTION 'request % keeps its id: id cannot be changed', old.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request.';
    END IF;
    IF moved AND new.connection_id IS NOT NULL THEN
        RAISE EXCEPTION 'request % has its connection: its target and project_id cannot be changed any more', new.id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another request for the other project.';
    END IF;

    -- It may change places between two statements, so it is looked for again; whoever takes it out of its place has it. That is so
    -- for a new name, too: a claim that is made meanwhile would send the old one.
    IF new.status = 'pending' AND old.status = 'pending' AND (renamed OR placed) THEN
        FOR round IN 1..20 LOOP
            UPDATE provisioner.waiting AS w
            SET
                run_at = CASE WHEN placed THEN coalesce(new.not_before, now()) ELSE w.run_at END,
                target = new.target, rank = -new.priority, project_id = new.project_id
            WHERE w.id = new.id;
            taken := FOUND;
            EXIT WHEN taken;
            DELETE FROM provisioner.ready AS r WHERE r.id = old.id;
            taken := FOUND;
            IF taken THEN
                INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
                VALUES (new.id, coalesce(new.not_before, now()), new.target, -new.priority, new.project_id);
                EXIT;
            END IF;
            PERFORM 1 FROM provisioner.in_flight AS f WHERE f.id = new.id;
            EXIT WHEN FOUND;
        END LOOP;
        -- Without a place it is nowhere yet, which the sweep of `0009_upkeep.sql` puts right.
        IF NOT taken AND EXISTS (
            SELECT FROM provisioner.waiting AS w WHERE w.id = new.id
            UNION ALL SELECT FROM provisioner.ready AS r WHERE r.id = new.id
            UNION ALL SELECT FROM provisioner.in_flight AS f WHERE f.id = new.id
        ) THEN
            RAISE EXCEPTION 'request % is in flight: its target, project_id, name, description, priority and not_before cannot be'
                ' changed now', new.id
            USING ERRCODE = 'object_in_use', HINT = 'Cancel it, or wait until it has ended.';
        END IF;
    END IF;

    IF renamed THEN
        -- Who has the name is known after a conflict: what was sent before is of no use under another one.
        IF old.status = 'failed' AND old.error_code = 'name_conflict' THEN
            DELETE FROM provisioner.sent_creates AS c WHERE c.id = new.id;
        ELSIF EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = new.id) THEN
            RAISE EXCEPTION 'request %: an earlier create may have made its connection, so its target, project_id, name and'
                ' description cannot be changed now', new.id
            USING ERRCODE = 'object_in_use',
                HINT = 'Retry it, so that the connection is looked up, or cancel it; edit it when it has ended.';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER request_edited
AFTER UPDATE OF id, target, project_id, name, description, credential, on_conflict, priority, batch, project_name, not_before
ON provisioner.connection_requests
FOR EACH ROW
WHEN (
    (
        old.id, old.target, old.project_id, old.name, old.description, old.on_conflict, old.priority, old.batch,
        old.project_name, old.not_before
    )
    IS DISTINCT FROM (
        new.id, new.target, new.project_id, new.name, new.description, new.on_conflict, new.priority, new.batch,
        new.project_name, new.not_before
    )
    OR (new.credential IS DISTINCT FROM old.credential AND (new.credential LIKE 'sealed:%:wiped') IS NOT TRUE)
)
EXECUTE FUNCTION provisioner.request_edited();

CREATE FUNCTION provisioner.requests_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- In the order of the journey: what changes places meanwhile is met at the next one.
    DELETE FROM provisioner.waiting AS w USING old_rows AS o WHERE w.id = o.id;
    DELETE FROM provisioner.ready AS r USING old_rows AS o WHERE r.id = o.id;
    DELETE FROM provisioner.in_flight AS f USING old_rows AS o WHERE f.id = o.id;
    DELETE FROM provisioner.waiting AS w USING old_rows AS o WHERE w.id = o.id;
    DELETE FROM provisioner.attempt_state AS s USING old_rows AS o WHERE s.id = o.id;
    DELETE FROM provisioner.unrecorded AS u USING old_rows AS o WHERE u.id = o.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER requests_deleted AFTER DELETE ON provisioner.connection_requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_deleted();

CREATE FUNCTION provisioner.requests_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    TRUNCATE
        provisioner.ready, provisioner.waiting, provisioner.in_flight, provisioner.unrecorded, provisioner.attempt_state,
        provisioner.sent_creates, provisioner.failed_boxes;
    RETURN NULL;
END
$$;

CREATE TRIGGER requests_truncated AFTER TRUNCATE ON provisioner.connection_requests
FOR EACH STATEMENT EXECUTE FUNCTION provisioner.requests_truncated();

-- The second kind of request. Nothing in it is secret, so its rules are plain constraints. Ids begin where those of connections never come.
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
    not_before timestamptz CHECK (isfinite(not_before)),
    requested_by text NOT NULL DEFAULT current_user,
    created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'succeeded', 'failed', 'cancelled')),
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

COMMENT ON TABLE provisioner.rotation_requests IS 'One row is one secret rotation that somebody wants: a key of its own for a project';
COMMENT ON COLUMN provisioner.rotation_requests.connection IS 'The connection with the management key, by its name in the same project';
COMMENT ON COLUMN provisioner.rotation_requests.key_name IS 'The key''s name at OpenRouter; {project_name}, {project_id} and {environment} are filled in';
COMMENT ON COLUMN provisioner.rotation_requests.key_issued IS 'The name under which OpenRouter lists the key';
COMMENT ON COLUMN provisioner.rotation_requests.left_behind IS 'Which other keys may have been left behind at OpenRouter, and what to do';

-- What both kinds have in common, with the line that each request stands in.
CREATE VIEW provisioner.requests AS
SELECT q.id, q.target, q.batch, q.requested_by, q.status FROM provisioner.connection_requests AS q
UNION ALL
SELECT r.id, r.target || '/rotations', r.batch, r.requested_by, r.status FROM provisioner.rotation_requests AS r;

COMMENT ON VIEW provisioner.requests IS 'All requests of every kind, in brief; a rotation''s target is that of its line';

-- Days of the attempt log: makes the next ones, drops those that are older than `keep`. Runs with the owner's rights, for
-- workers may not change the schema. Days are UTC days. It waits for nobody: while it waited for a dump, or for a transaction
-- that was left open, every settlement would stand behind it. False: somebody is in the way, and it is to be called again;
-- there is time, for days are made two ahead and what has no day has a place all the same. Two at once: the second finds it done.
CREATE FUNCTION provisioner.turn_attempt_log(keep interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
DECLARE
    day date;
    part text;
BEGIN
    FOR day IN SELECT d::date FROM generate_series(current_date, current_date + 2, interval '1 day') AS d LOOP
        part := 'attempts_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('provisioner.' || part) IS NULL THEN
            -- What came before its day had a place is moved into it. The table itself comes first: whoever writes takes it
            -- before the days.
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

-- Functions belong to their owner alone until `provisioner grant` says otherwise.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
