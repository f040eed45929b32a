-- The requesters' table, the small tables behind it, and what workers share with each other.
--
-- A row of the requesters' table is wide, and gets one INSERT and one UPDATE in its life; everything that changes more
-- often is in small tables. So no column of the wide table that is ever updated may be indexed, and each page has room
-- for the row's new version (HOT). In measurements the table ends up smaller this way than with pages that are full at
-- first.
--
-- Every table has a primary key: if all tables of a database are published (`FOR ALL TABLES`), PostgreSQL refuses to
-- update and delete rows of tables without a replica identity.

CREATE SCHEMA IF NOT EXISTS provisioner;

-- Rules are enforced by triggers (`0002_triggers.sql`), not by CHECK or NOT NULL: those print the failing row,
-- including its credential, to the client and into the server's log.
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
    wanted text DEFAULT 'present',
    not_before timestamptz,
    requested_by text DEFAULT current_user,
    created_at timestamptz DEFAULT now(),
    status text DEFAULT 'pending',
    connection_id uuid,
    org_id uuid,
    credentials_hash text,
    adopted boolean DEFAULT false,
    key_fingerprint text,
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

-- With the id, so that a page of a large batch is one range of the index.
CREATE INDEX connection_requests_batch ON provisioner.connection_requests (batch, id) WHERE batch IS NOT NULL;
-- For searches by name among ten million requests. Neither column changes when a request is settled.
CREATE INDEX connection_requests_name ON provisioner.connection_requests (name text_pattern_ops, id);
CREATE INDEX connection_requests_project_name ON provisioner.connection_requests (lower(project_name) text_pattern_ops, id)
WHERE project_name IS NOT NULL;
COMMENT ON COLUMN provisioner.connection_requests.project_name IS 'The project''s name for people: shown, never sent';
COMMENT ON COLUMN provisioner.connection_requests.wanted IS 'present, or absent: no connection of ours is to exist';
COMMENT ON COLUMN provisioner.connection_requests.key_fingerprint IS 'Salted fingerprint of the last key that Infisical accepted';
COMMENT ON TABLE provisioner.connection_requests IS 'Each row requests one connection in an Infisical project';

-- The length of a text as Infisical counts it: in UTF-16 code units, so a character beyond U+FFFF counts as two.
CREATE FUNCTION provisioner.utf16_length(given text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT length(given) + length(regexp_replace(given, '[^\U00010000-\U0010FFFF]', '', 'g'))
$$;

-- A secret rotation that somebody wants. Nothing in it is secret, so its rules are plain constraints. Ids begin where those of connections
-- never come, so they tell the kinds apart in all the tables behind.
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

-- The identity of this database. Markers in descriptions contain it, so that two databases of one organization, such as
-- production and staging, never claim each other's connections. A copy of a database must be given another id.
CREATE TABLE provisioner.installation (
    id text PRIMARY KEY DEFAULT left(md5(gen_random_uuid()::text), 8)
);

INSERT INTO provisioner.installation DEFAULT VALUES;

COMMENT ON TABLE provisioner.installation IS 'The id of this database, which markers in descriptions contain';

-- Requests that may be claimed, in the order in which they are claimed. `rank` is the negated priority. `turn` is the
-- virtual time of fair queueing: each project has at most about one request per turn, so claiming in the order of turns
-- serves the projects in rotation, and is still one plain range of one index.
CREATE TABLE provisioner.ready (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    id bigint NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT ready_in_order PRIMARY KEY (target, rank, turn, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX ready_of_project ON provisioner.ready (target, project_id, rank, turn);

-- For edits, cancellations and deletions: a project may have tens of thousands of requests in line.
CREATE INDEX ready_by_id ON provisioner.ready (id);

-- The turn up to which each queue has been served, which is where new requests join. Workers update it about once a
-- second.
CREATE TABLE provisioner.fair_cursors (
    target text NOT NULL,
    rank integer NOT NULL,
    turn bigint NOT NULL,
    PRIMARY KEY (target, rank)
) WITH (fillfactor = 50);

-- Requests that are not due yet: scheduled ones, and retries.
CREATE TABLE provisioner.waiting (
    id bigint PRIMARY KEY,
    run_at timestamptz NOT NULL,
    target text NOT NULL,
    rank integer NOT NULL,
    project_id uuid NOT NULL,
    quarantine text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX waiting_until ON provisioner.waiting (run_at);
COMMENT ON COLUMN provisioner.waiting.quarantine IS 'What the request waits for together with others, such as a credential that was refused';
CREATE INDEX waiting_quarantined ON provisioner.waiting (target, quarantine) WHERE quarantine IS NOT NULL;

-- Requests that a worker has claimed: the durable intent, committed before the first byte is sent. `fence` is a random
-- number, new with each claim: after a TRUNCATE … RESTART IDENTITY or a restore, ids and attempts are used again, and
-- answers to earlier calls must not be recorded for the requests that have the same numbers now. Worker 0 is not a
-- worker: it owns outcomes that are set aside, see `unrecorded`. The columns are in an order that needs no padding.
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

-- Outcomes that the database refused to record, because of the row itself or of somebody's trigger, index or
-- constraint. The request stays in flight, under worker 0, so that its connection is not created twice. Upkeep tries
-- again to record the outcome, with growing pauses, and succeeds when the cause is gone. `calls` are the statements of
-- `settle.sql` with their arguments.
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
COMMENT ON COLUMN provisioner.unrecorded.connection_id IS 'The connection that was made, if any';

-- The history of requests that did not succeed at once. `since` is the beginning of the first attempt, and `streak` the
-- number of latest failures in a row of the kind `streak_of`.
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

-- For searches by error code.
CREATE INDEX attempt_state_error ON provisioner.attempt_state (error_code, id) WHERE error_code IS NOT NULL;

-- Requests that ended without success: few among many. An index of the wide table cannot find them, because its status
-- is updated. This table is only for searches: nothing else depends on it.
CREATE TABLE provisioner.set_apart (
    id bigint PRIMARY KEY,
    status text NOT NULL,
    error_code text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX set_apart_by_status ON provisioner.set_apart (status, id);
CREATE INDEX set_apart_by_error ON provisioner.set_apart (error_code, id) WHERE error_code IS NOT NULL;
COMMENT ON TABLE provisioner.set_apart IS 'Requests that failed, were cancelled or are removed, for searches';

-- What was edited of requests with a recorded connection, until Infisical has it: an update sends exactly this.
-- `others` are columns that connections do not have. `adopted`: a connection that somebody else made is to be deleted
-- too.
CREATE TABLE provisioner.edits (
    id bigint PRIMARY KEY,
    name boolean NOT NULL DEFAULT false,
    description boolean NOT NULL DEFAULT false,
    credential boolean NOT NULL DEFAULT false,
    adopted boolean NOT NULL DEFAULT false,
    others text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.edits IS 'Edits of recorded requests that are not in Infisical yet';

-- Creates that were sent and whose outcome no answer proved: what was sent, when it was sent, and when it ended. A
-- connection that is found belongs to the request if one of these can have made it. A request that is answered at its
-- first attempt never has a row here, because its row in `in_flight` is all the evidence it needs. Rows are deleted
-- with the rest of the request's attempt state.
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
COMMENT ON COLUMN provisioner.sent_creates.exact IS 'Whether description is exactly what was sent; false if a marker may have been added';

-- The attempt log, partitioned by day so that old entries can be dropped. Its key identifies the call: a record that is
-- repeated after a lost commit already exists.
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

-- The number of requests of each kind, maintained by counting the changes of each statement: counting the wide table
-- means reading it, which a person can wait for with a million rows but not with twenty million. A statement appends
-- its changes to `count_changes`, so no row is shared and nothing waits. Workers fold the changes into `counts` every
-- few seconds. Empty text stands for NULL, so that the columns can be a key.

CREATE TABLE provisioner.counts (
    target text NOT NULL,
    batch text NOT NULL,
    requested_by text NOT NULL,
    status text NOT NULL,
    error_code text NOT NULL,
    requests bigint NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    newest bigint,
    PRIMARY KEY (target, batch, requested_by, status, error_code)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE provisioner.count_changes (LIKE provisioner.counts, change bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.counts IS 'The number of requests of each kind, without the changes in count_changes';
COMMENT ON TABLE provisioner.count_changes IS 'Changes by statements, until a worker folds them into counts';
COMMENT ON COLUMN provisioner.counts.newest IS 'The largest id that was ever of this kind';

-- Recent history by minute and by hour: how many requests succeeded and failed, and how many attempts ended in a retry.
-- Written when changes of counts are folded, every few seconds, and never by a request.
CREATE TABLE provisioner.history (
    span integer NOT NULL,
    at timestamptz NOT NULL,
    target text NOT NULL,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    retried bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (span, at, target)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.history IS 'What happened in each minute of the last hours, and in each hour of the last weeks';
COMMENT ON COLUMN provisioner.history.span IS 'Length of the period in seconds, 60 or 3600, beginning at `at`';
COMMENT ON COLUMN provisioner.history.retried IS 'Attempts that ended in a retry';

-- One row for each sealed key that a failed request has had. `box` is a hash of the key: if the request is given
-- another key meanwhile, that key has its own row and time. The time comes first in the key, so that a request that
-- fails again gets a new row and never waits for the wiping.
CREATE TABLE provisioner.failed_boxes (
    id bigint NOT NULL,
    failed_at timestamptz NOT NULL,
    box bigint NOT NULL,
    CONSTRAINT failed_boxes_until PRIMARY KEY (failed_at, id, box)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE provisioner.failed_boxes IS 'Sealed keys of failed requests, which are wiped after a time';

-- The progress of the sweep. One row, locked while a sweep runs; only this schema's roles can lock it.
CREATE TABLE provisioner.sweeps (
    one boolean PRIMARY KEY DEFAULT true,
    position bigint NOT NULL DEFAULT 0,
    swept_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO provisioner.sweeps DEFAULT VALUES;

COMMENT ON TABLE provisioner.sweeps IS 'The progress of the search for pending requests without a place in line';

-- The workers. A worker owns its claims until `lease_until`; it renews the lease for all of them at once.
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

COMMENT ON COLUMN provisioner.workers.pace IS 'Recent creates a second';

-- What operators have set for a target, and what workers found out about it.
CREATE TABLE provisioner.targets (
    target text PRIMARY KEY,
    known_at timestamptz,
    paused_at timestamptz,
    paused_by text,
    clock_low double precision,
    clock_high double precision,
    clock_at timestamptz,
    writes_limit integer CHECK (writes_limit BETWEEN 1 AND 9999999),
    writes_period double precision CHECK (writes_period BETWEEN 1 AND 359996400),
    in_flight_limit integer CHECK (in_flight_limit BETWEEN 1 AND 4096),
    limited_at timestamptz,
    limited_by text,
    CHECK ((writes_limit IS NULL) = (writes_period IS NULL))
) WITH (fillfactor = 50);

COMMENT ON COLUMN provisioner.targets.writes_limit IS 'Writes in writes_period seconds that an operator allows; NULL for what the settings say';
COMMENT ON COLUMN provisioner.targets.in_flight_limit IS 'Creates in flight that an operator allows, over all workers; NULL for what the settings say';

COMMENT ON COLUMN provisioner.targets.clock_low IS 'By how many seconds Infisical''s createdAt is ahead of this server''s clock, at least';

-- Why workers withhold creates at a target. Each worker has its own breakers and repeats its report about once a
-- second; a report that is not repeated has expired.
CREATE TABLE provisioner.target_incidents (
    target text NOT NULL,
    reporter text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, reporter)
) WITH (fillfactor = 50);

-- One row per budget: a target's writes, reads or logins within the rate limits, shared by all workers.
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
    slowed_until double precision NOT NULL DEFAULT 0,
    configured boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, kind)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.permits IS 'Budgets within the rate limits; times are seconds since 1970 on this server''s clock';
COMMENT ON COLUMN provisioner.permits.metered IS 'Whether there is a rate limiter; NULL while that is unknown';
COMMENT ON COLUMN provisioner.permits.permits IS 'Permits per window';
COMMENT ON COLUMN provisioner.permits.period IS 'Length of a window in seconds';
COMMENT ON COLUMN provisioner.permits.ends_at IS 'The earliest bound that the answers gave for the end of this window';
COMMENT ON COLUMN provisioner.permits.late IS 'Requests that were in flight when this window began';
COMMENT ON COLUMN provisioner.permits.theirs IS 'Permits that other clients certainly used in this window';
COMMENT ON COLUMN provisioner.permits.their_pace IS 'Permits a second that other clients used recently';
COMMENT ON COLUMN provisioner.permits.searching IS 'Whether no answer names the limit, so that it has to be searched';
COMMENT ON COLUMN provisioner.permits.used IS 'Permits used in this window according to the server, by us and by others';
COMMENT ON COLUMN provisioner.permits.bare_since IS 'Since when answers lack the limiter headers that they should carry';
COMMENT ON COLUMN provisioner.permits.slowed_until IS 'No permit before this time, because of an operator''s limit';
COMMENT ON COLUMN provisioner.permits.configured IS 'Whether the limit comes from the settings, not from answers';
COMMENT ON COLUMN provisioner.permits.address IS 'The server that this was learned from: a target with another address starts anew';

-- The limit on a target's creates in flight over all workers: one row per target, with what was learned about its
-- server, and each worker's part of the limit. It is read, decided on, and written back with optimistic locking.
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

COMMENT ON TABLE provisioner.concurrency IS 'The limit on a target''s creates in flight over all its workers; times as in permits';
COMMENT ON COLUMN provisioner.concurrency.address IS 'The server that this was learned from: a target with another address starts anew';
COMMENT ON COLUMN provisioner.concurrency.usual IS 'Latency of creates in seconds while few are in flight';
COMMENT ON COLUMN provisioner.concurrency.calls IS 'Calls of the present round; likewise the five columns after it';
COMMENT ON COLUMN provisioner.concurrency.stalled_at IS 'When the present stall was noticed; NULL while calls end';
COMMENT ON COLUMN provisioner.concurrency.cliff IS 'The number in flight that stopped the server, at cliff_at';
COMMENT ON COLUMN provisioner.concurrency.bar IS 'The highest limit after the cliff, until hours have passed';
COMMENT ON COLUMN provisioner.concurrency.memory IS 'For how many seconds the bar applies; less than six hours for a suspected cliff';
COMMENT ON COLUMN provisioner.concurrency.held IS 'Slots of each worker, in their order; likewise wanted and running';

-- When the remaining work will end, as forecast for all by one worker every few seconds (`core/forecast.py`), so that
-- reading it is cheap. One row holds the turn, and is locked during a forecast. If it is long overdue, nobody renews
-- the forecasts any more.
CREATE TABLE provisioner.forecast_turn (
    one boolean PRIMARY KEY DEFAULT true,
    made_at timestamptz NOT NULL DEFAULT '-infinity',
    due_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO provisioner.forecast_turn DEFAULT VALUES;

-- One row per line: what its permits achieved recently, the resulting pace, and the forecast for everything in it.
CREATE TABLE provisioner.line_forecasts (
    target text PRIMARY KEY,
    seen_at double precision NOT NULL,
    ended bigint NOT NULL,
    busy boolean NOT NULL,
    seconds double precision NOT NULL,
    permits double precision NOT NULL,
    got double precision NOT NULL,
    pace double precision,
    ends_at timestamptz,
    ends_why text,
    urgency smallint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.line_forecasts IS 'How fast each line moves, and when everything in it will have ended';
COMMENT ON COLUMN provisioner.line_forecasts.pace IS 'Requests a second that will end; NULL while that is unknown';
COMMENT ON COLUMN provisioner.line_forecasts.permits IS 'Permits that the limiter left us in the last `seconds` with work in line; `got` requests ended with them';
COMMENT ON COLUMN provisioner.line_forecasts.urgency IS 'The position of ends_why among the reasons: the smallest is given';

-- The forecast of each batch in each line; the empty batch contains requests without one.
CREATE TABLE provisioner.forecasts (
    target text NOT NULL,
    batch text NOT NULL,
    ends_at timestamptz,
    ends_why text,
    urgency smallint,
    PRIMARY KEY (target, batch)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.forecasts IS 'When each batch will have ended in each line, or why that is unknown';

-- Fingerprints must be the same for all workers of this database, and useless to anybody else.
CREATE TABLE provisioner.salt (
    salt uuid PRIMARY KEY DEFAULT gen_random_uuid()
);

INSERT INTO provisioner.salt DEFAULT VALUES;

-- One row per key: a credential whose key is replaced gets a new row, with nothing held against it.
-- `core/key_health.py` defines what the columns mean and how they change; `version` is for optimistic locking.
CREATE TABLE provisioner.credential_health (
    target text NOT NULL,
    credential text NOT NULL,
    fingerprint text NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    accepted_at timestamptz,
    trials integer NOT NULL DEFAULT 0,
    tried_at timestamptz,
    refusals integer NOT NULL DEFAULT 0,
    quarantined_since timestamptz,
    reason text,
    probing boolean NOT NULL DEFAULT false,
    probe_at timestamptz,
    probe_pause interval NOT NULL DEFAULT '60 seconds',
    PRIMARY KEY (target, credential, fingerprint)
) WITH (fillfactor = 50);

COMMENT ON TABLE provisioner.credential_health IS 'What OpenRouter said recently about the API keys in use, identified by salted fingerprints';
COMMENT ON COLUMN provisioner.credential_health.quarantined_since IS 'Since when requests with this key wait; NULL while they do not';

-- Each worker reads the rows of named credentials about once a second; there may be thousands of sealed ones.
CREATE INDEX credential_health_quarantined ON provisioner.credential_health (target)
WHERE quarantined_since IS NOT NULL AND credential NOT LIKE 'sealed-%';

-- OpenRouter's answers about keys, identified by salted fingerprints.
CREATE TABLE provisioner.key_verdicts (
    fingerprint text PRIMARY KEY,
    verdict text NOT NULL,
    asked_at timestamptz NOT NULL
);

-- One row per project in which the machine identity may not create, and whose requests wait. `core/project_health.py`
-- defines what the columns mean and how they change.
CREATE TABLE provisioner.project_health (
    target text NOT NULL,
    project_id uuid NOT NULL,
    cause text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL,
    confirmed boolean NOT NULL DEFAULT true,
    probing boolean NOT NULL DEFAULT false,
    probe_at timestamptz,
    probe_pause interval NOT NULL DEFAULT '10 seconds',
    PRIMARY KEY (target, project_id)
) WITH (fillfactor = 50);

COMMENT ON TABLE provisioner.project_health IS 'Projects whose requests wait until the machine identity may create there';
COMMENT ON COLUMN provisioner.project_health.confirmed IS 'A create was refused there; otherwise only a list showed the identity to be outside';

-- When any worker last read the list of a target's projects, and probed a project.
CREATE TABLE provisioner.project_checks (
    target text PRIMARY KEY,
    read_at timestamptz,
    read_pause interval NOT NULL,
    probed_at timestamptz
) WITH (fillfactor = 50);

-- The public halves of the sealing key pairs.
CREATE TABLE provisioner.sealing_keys (
    key_id text PRIMARY KEY,
    public_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);

-- Notices of the fleet, used only if `notify.url` is set. One row holds the turn: the worker that moves `checked_at` on
-- checks for notices and sends them. What ended before `since` is not reported.
CREATE TABLE provisioner.notice_turn (
    one boolean PRIMARY KEY DEFAULT true,
    checked_at timestamptz NOT NULL DEFAULT '-infinity',
    since timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO provisioner.notice_turn DEFAULT VALUES;

-- Problems that need a person: since when, whether a notice was sent, and since when the problem is gone.
CREATE TABLE provisioner.notice_concerns (
    kind text NOT NULL,
    subject text NOT NULL,
    since timestamptz NOT NULL,
    told boolean NOT NULL,
    gone_at timestamptz,
    PRIMARY KEY (kind, subject)
);

-- Batches whose end was reported, and which end: a batch that continues and ends again is reported again.
CREATE TABLE provisioner.notice_batches (
    batch text PRIMARY KEY,
    ended_at timestamptz NOT NULL
);

-- The outbox. A notice is written in the transaction that remembers its event, and sent afterwards. At `due_at` it may
-- be taken (again); taking it moves that time on, so that another worker sends what a dead one took. Receivers
-- recognise repeated deliveries by the id. Ids are random, so that they differ from those of another installation at
-- the same receiver.
CREATE TABLE provisioner.notices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    event text NOT NULL,
    content jsonb NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    error text
);

COMMENT ON TABLE provisioner.notices IS 'Notices for notify.url: delivered once sent_at is set, otherwise tried (again) at due_at';
COMMENT ON COLUMN provisioner.notices.error IS 'Why the last delivery failed';

-- When any worker last asked Infisical for new projects.
CREATE TABLE provisioner.discover_rounds (
    target text PRIMARY KEY,
    started_at timestamptz NOT NULL
);

-- Projects with requests that appeared in a list of Infisical's at this address, if `discover.on_gone` says that the
-- requests of deleted projects are removed: only these can be missed. `missed` counts the lists in a row that lacked
-- the project.
CREATE TABLE provisioner.seen_projects (
    target text NOT NULL,
    project_id uuid NOT NULL,
    address text NOT NULL,
    missed integer NOT NULL DEFAULT 0,
    missed_since timestamptz,
    PRIMARY KEY (target, project_id)
) WITH (fillfactor = 70);

-- Standing verification: one row per target. A round goes over everything recorded there, ordered by project and name;
-- the holder of the lease continues after (project_id, name). Nothing is written for a request that is as it was
-- recorded.
CREATE TABLE provisioner.verify_rounds (
    target text PRIMARY KEY,
    holder text NOT NULL,
    lease_until timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    previous_at timestamptz,
    project_id uuid,
    name text,
    finished_at timestamptz
) WITH (fillfactor = 50);

COMMENT ON COLUMN provisioner.verify_rounds.previous_at IS 'When the previous round began, if it was completed';

-- Recorded connections that differ, or may differ, from what was recorded. `missed_at`: it was missing, and is checked
-- again.
CREATE TABLE provisioner.drifts (
    id bigint PRIMARY KEY,
    target text NOT NULL,
    drift text,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    missed_at timestamptz,
    unread boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);

CREATE INDEX drifts_missed ON provisioner.drifts (target, missed_at) WHERE drift IS NULL;

COMMENT ON TABLE provisioner.drifts IS 'Recorded connections that differ from what Infisical has';
COMMENT ON COLUMN provisioner.drifts.drift IS 'How it differs; NULL while that is not certain';
COMMENT ON COLUMN provisioner.drifts.seen_at IS 'When it was last checked: anything recorded later is not known to differ';
COMMENT ON COLUMN provisioner.drifts.unread IS 'Its project could not be read in the last round';

-- What a request is counted as: its status, and while it is pending and changes or removes what was made, that. Empty text stands
-- for NULL.
CREATE FUNCTION provisioner.counted_as(status text, wanted text, recorded uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN status <> 'pending' THEN status
        WHEN status IS NULL THEN ''
        WHEN wanted = 'absent' THEN 'removing'
        WHEN recorded IS NOT NULL THEN 'updating'
        ELSE 'pending'
    END
$$;

-- What all kinds of request have in common, with the line that each stands in. `needs_connection`: a rotation is made with a
-- connection that is not there yet. What nobody asks for is not looked up.
CREATE VIEW provisioner.requests AS
SELECT
    q.id, q.target, q.batch, q.requested_by, q.status, q.error_code, q.created_at, q.finished_at, q.attempts,
    q.wanted, q.connection_id AS recorded_id, provisioner.counted_as(q.status, q.wanted, q.connection_id) AS counted_as,
    q.project_id, q.project_name, q.error_message, q.priority, q.not_before, q.adopted, q.on_conflict, false AS needs_connection
FROM provisioner.connection_requests AS q
UNION ALL
SELECT
    r.id, r.target || '/rotations', r.batch, r.requested_by, r.status, r.error_code, r.created_at, r.finished_at,
    r.attempts, r.wanted, r.rotation_id, provisioner.counted_as(r.status, r.wanted, r.rotation_id), r.project_id,
    r.project_name, r.error_message, r.priority, r.not_before, r.adopted, r.on_conflict,
    r.wanted = 'present' AND r.rotation_id IS NULL AND NOT EXISTS (
        SELECT FROM provisioner.connection_requests AS c
        WHERE c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection AND c.status = 'succeeded'
    )
FROM provisioner.rotation_requests AS r;

COMMENT ON VIEW provisioner.requests IS 'All requests of every kind, in brief; a rotation''s target is that of its line';

-- Where pending requests are. One that is pending and not here is nobody's, which the sweep puts right.
CREATE VIEW provisioner.places AS
SELECT w.id FROM provisioner.waiting AS w
UNION ALL
SELECT r.id FROM provisioner.ready AS r
UNION ALL
SELECT f.id FROM provisioner.in_flight AS f;

COMMENT ON VIEW provisioner.places IS 'The requests that have a place: that wait, stand in line, or are in flight';

-- A rotation and its connection, or two rotations of one, may end at the same moment, in transactions that do not see each
-- other: then what waits for the other goes on waiting, until the sweep lets it follow.
CREATE VIEW provisioner.overlooked AS
SELECT w.id
FROM provisioner.waiting AS w
JOIN provisioner.rotation_requests AS r ON r.id = w.id
JOIN provisioner.connection_requests AS c ON c.target = r.target AND c.project_id = r.project_id AND c.name = r.connection
WHERE w.quarantine = 'connection' AND c.status <> 'pending'
UNION ALL
SELECT w.id
FROM provisioner.waiting AS w
JOIN provisioner.connection_requests AS c ON c.id = w.id
WHERE w.quarantine = 'rotations' AND NOT EXISTS (
    SELECT FROM provisioner.rotation_requests AS r
    WHERE
        r.target = c.target AND r.project_id = c.project_id AND r.connection = c.name AND r.wanted = 'absent'
        AND r.status = 'pending'
);

COMMENT ON VIEW provisioner.overlooked IS 'Requests that still wait for a connection, or for rotations, whose requests have ended';
