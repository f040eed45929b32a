-- A queue as it stands after months of work: straight into the tables, past the triggers, the indexes made afterwards.
-- {rows} requests of {projects} projects in {batches} batches, at two targets. The oldest three quarters have ended, some of
-- them badly; of the newest quarter most are in line, some wait for a retry, for a key, for a project or for their time.

-- :name begin
SET session_replication_role = replica;
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';
CREATE TABLE public.kept AS
    SELECT c.conrelid::regclass::text AS of_table, c.conname AS name, pg_get_constraintdef(c.oid) AS def
    FROM pg_constraint AS c
    WHERE c.conname IN ('connection_requests_wanted_once', 'ready_in_order');
CREATE TABLE public.indexes AS
    SELECT i.schemaname || '.' || i.indexname AS name, i.indexdef AS def
    FROM pg_indexes AS i
    WHERE
        i.schemaname = 'provisioner' AND i.tablename IN ('connection_requests', 'ready')
        AND i.indexname NOT IN ('connection_requests_pkey', 'connection_requests_wanted_once', 'ready_in_order');
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT * FROM public.kept LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.of_table, one.name);
    END LOOP;
    FOR one IN SELECT * FROM public.indexes LOOP
        EXECUTE format('DROP INDEX %s', one.name);
    END LOOP;
END $$;

-- :name requests
-- Requests {first} to {last}. `luck` is a number from 0 to 999 that says what became of each.
INSERT INTO provisioner.connection_requests (
    id, target, project_id, project_name, name, description, credential, batch, requested_by, created_at,
    status, connection_id, org_id, credentials_hash, key_fingerprint, attempts, error_code, error_message, finished_at, not_before
) OVERRIDING SYSTEM VALUE
SELECT
    s.g, CASE WHEN s.p % 5 = 0 THEN 'eu' ELSE 'default' END,
    md5('project-' || s.p)::uuid,
    (ARRAY['Payments', 'Search', 'Checkout', 'Ledger', 'Support', 'Fraud', 'Growth', 'Mobile', 'Data', 'Platform'])[s.p % 10 + 1]
        || ' ' || s.p,
    CASE s.g / {projects} WHEN 0 THEN 'openrouter' ELSE 'openrouter-' || s.g / {projects} END,
    'for the assistants of a team', CASE WHEN s.p % 3 = 0 THEN 'team-a' ELSE 'default' END,
    CASE WHEN s.g % 20 <> 0 THEN 'import-' || lpad((s.g * {batches} / ({rows} + 1))::text, 4, '0') END,
    CASE WHEN s.p % 2 = 0 THEN current_user ELSE 'onboarding' END,
    now() - make_interval(secs => ({rows} - s.g) * 0.5),
    s.status,
    CASE WHEN s.status = 'succeeded' THEN md5('connection-' || s.g)::uuid END,
    CASE WHEN s.status = 'succeeded' THEN md5('organization')::uuid END,
    CASE WHEN s.status = 'succeeded' THEN encode(sha256(s.g::text::bytea), 'hex') END,
    CASE WHEN s.status = 'succeeded' THEN left(md5((s.p % 3)::text), 16) END,
    CASE WHEN s.status = 'pending' THEN 0 WHEN s.status = 'failed' THEN 5 ELSE 1 END,
    CASE WHEN s.status = 'failed' THEN
        CASE
            WHEN s.g % 50000 = 7 THEN 'invalid_request' WHEN s.luck < 12 THEN 'permission_denied' WHEN s.luck < 20 THEN 'project_not_found'
            WHEN s.luck < 26 THEN 'name_conflict' ELSE 'gave_up'
        END
    END,
    CASE WHEN s.status = 'failed' THEN 'You are not allowed to create-app-connections on app-connections' END,
    CASE WHEN s.status <> 'pending' THEN now() - make_interval(secs => ({rows} - s.g) * 0.4) END,
    CASE WHEN s.status = 'pending' AND s.luck BETWEEN 30 AND 39 THEN now() + interval '5 hours' END
FROM (
    SELECT
        n.g, n.p, n.luck,
        CASE
            WHEN n.g % 50000 = 7 AND n.g < {rows} * 3 / 4 THEN 'failed'
            WHEN n.g >= {rows} * 3 / 4 AND n.luck < 900 THEN 'pending'
            WHEN n.g < {rows} * 3 / 4 AND n.luck < 30 THEN 'failed'
            WHEN n.luck BETWEEN 40 AND 44 THEN 'cancelled' WHEN n.g % 1000000 = 8 THEN 'removed'
            ELSE 'succeeded'
        END AS status
    FROM (
        SELECT g, g % {projects} AS p, (g * 2654435761 / 65536 % 1000)::integer AS luck
        FROM generate_series({first}::bigint, {last}::bigint) AS g
    ) AS n
) AS s;

-- :name places
-- The first 64 of what is pending are in flight; luck below 20: tried and waiting, half of it for the key of team-a or for a
-- project; 30 to 39: scheduled; the others are in line.
INSERT INTO provisioner.in_flight (id, worker, claimed_at, attempt, rank, project_id, target)
SELECT q.id, 1, now(), 1, 0, q.project_id, q.target
FROM provisioner.connection_requests AS q WHERE q.status = 'pending' ORDER BY q.id LIMIT 64;
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
SELECT
    q.id, coalesce(q.not_before, now() + make_interval(secs => q.id % 300)), q.target, 0, q.project_id,
    CASE
        WHEN q.not_before IS NOT NULL THEN NULL WHEN q.credential = 'team-a' THEN 'credential:team-a'
        WHEN q.id % 40 = 1 THEN 'project:' || q.project_id
    END
FROM (SELECT q.*, (q.id * 2654435761 / 65536 % 1000)::integer AS luck FROM provisioner.connection_requests AS q WHERE q.status = 'pending') AS q
WHERE (q.luck < 20 OR q.not_before IS NOT NULL) AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id);
INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
SELECT q.target, -q.priority, row_number() OVER (PARTITION BY q.target, q.project_id ORDER BY q.id), q.id, q.project_id
FROM provisioner.connection_requests AS q
WHERE
    q.status = 'pending' AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id)
    AND NOT EXISTS (SELECT FROM provisioner.waiting AS w WHERE w.id = q.id);
INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_code, error_message)
SELECT q.id, 5, 5, 5, q.created_at, q.error_code, q.error_message
FROM provisioner.connection_requests AS q WHERE q.status = 'failed'
UNION ALL
SELECT
    w.id, 2, 2, 1, now() - make_interval(secs => w.id % 900), CASE WHEN w.id % 3 = 0 THEN 'outcome_unknown' ELSE 'permission_denied' END,
    'You are not allowed to create-app-connections on app-connections'
FROM provisioner.waiting AS w
JOIN provisioner.connection_requests AS q ON q.id = w.id
WHERE q.not_before IS NULL;
INSERT INTO provisioner.project_health (target, project_id, cause, reason, since)
SELECT DISTINCT w.target, w.project_id, 'permission', 'the machine identity is not a member', now()
FROM provisioner.waiting AS w WHERE w.quarantine LIKE 'project:%';
INSERT INTO provisioner.credential_health (target, credential, fingerprint, quarantined_since, reason, probe_at)
SELECT t.target, 'team-a', 'f', now() - interval '10 minutes', 'the key is refused', now() FROM (VALUES ('default'), ('eu')) AS t (target);
INSERT INTO provisioner.drifts (id, target, drift, seen_at)
SELECT q.id, q.target, 'renamed', now() FROM provisioner.connection_requests AS q WHERE q.status = 'succeeded' AND q.id % 10000 = 1;
INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, http_status, req_id, outcome)
SELECT q.id, 1, 1, 'create', q.finished_at - interval '1 second', q.finished_at, 200, 'req-0123456789abcd', 'created'
FROM provisioner.connection_requests AS q WHERE q.status = 'succeeded' AND q.id > {rows} / 2;
INSERT INTO provisioner.workers (name, version, targets, lease_until, pace)
VALUES ('host-a:1', '1', '{{default,eu}}', now() + interval '30 days', 1.5), ('host-b:1', '1', '{{default,eu}}', now() + interval '30 days', 1.5);
INSERT INTO provisioner.targets (target, known_at) VALUES ('default', now()), ('eu', now());
INSERT INTO provisioner.permits (target, kind, metered, permits, period, used)
VALUES ('default', 'write', true, 200, 60, 20), ('eu', 'write', true, 200, 60, 20);
INSERT INTO provisioner.fair_cursors (target, rank, turn) VALUES ('default', 0, 0), ('eu', 0, 0);
INSERT INTO provisioner.history (span, at, target, succeeded, failed, retried)
SELECT 60, date_trunc('minute', now()) - make_interval(mins => m), t.target, 190, m % 7, m % 5
FROM generate_series(0, 359) AS m, (VALUES ('default'), ('eu')) AS t (target)
UNION ALL
SELECT 3600, date_trunc('hour', now()) - make_interval(hours => h), t.target, 11400, h % 30, h % 90
FROM generate_series(0, 719) AS h, (VALUES ('default'), ('eu')) AS t (target);

-- :name end
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT * FROM public.indexes LOOP
        EXECUTE one.def;
    END LOOP;
    FOR one IN SELECT * FROM public.kept LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', one.of_table, one.name, one.def);
    END LOOP;
END $$;
DROP TABLE public.kept, public.indexes;
SELECT provisioner.recount();
SELECT setval(pg_get_serial_sequence('provisioner.connection_requests', 'id'), {rows});
SET session_replication_role = origin;
