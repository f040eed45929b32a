-- Bulk loading. Rows are staged in a temporary table of the transaction, so that all of them are compared and inserted
-- at once.

-- :name rights
-- Whether our role may insert, whether it sees other people's requests and their contents, and its name.
SELECT
    has_schema_privilege('provisioner', 'USAGE')
    AND has_column_privilege('provisioner.connection_requests', 'project_id', 'INSERT') AS inserts,
    has_schema_privilege('provisioner', 'USAGE')
    AND has_column_privilege('provisioner.connection_requests', 'description', 'UPDATE') AS updates,
    has_table_privilege('provisioner.ready', 'SELECT')
    AND has_column_privilege('provisioner.connection_requests', 'credential', 'SELECT') AS sees_all,
    current_user::text AS role;

-- :name stage
-- A table for the rows of one file. It works with transaction poolers, because it ends with the transaction.
CREATE TEMPORARY TABLE submitted (
    line bigint, target text, project_id uuid, name text, description text, credential text, on_conflict text,
    priority smallint, batch text, project_name text, not_before timestamptz,
    rotation_name text, rotation_environment text, rotation_secret_path text, rotation_secret_name text,
    rotation_interval_days integer, rotation_rotate_at text, rotation_key_name text, rotation_spend_limit double precision,
    rotation_limit_reset text, rotation_include_byok boolean, rotation_description text, rotation_on_conflict text, given text[]
) ON COMMIT DROP;

-- :name stage_rotations
-- The rotations that the rows request: those with a value in any rotation column. The names are those of their table.
CREATE TEMPORARY TABLE submitted_rotations ON COMMIT DROP AS
SELECT
    s.line, s.target, s.project_id, coalesce(s.rotation_name, 'openrouter') AS name, s.name AS connection,
    coalesce(s.rotation_environment, 'prod') AS environment, coalesce(s.rotation_secret_path, '/') AS secret_path,
    coalesce(s.rotation_secret_name, 'OPENROUTER_API_KEY') AS secret_name, coalesce(s.rotation_interval_days, 30) AS interval_days,
    coalesce(s.rotation_rotate_at, '00:00')::time AS rotate_at,
    coalesce(s.rotation_key_name, '{{project_name}} {{environment}}') AS key_name, s.rotation_spend_limit::numeric AS spend_limit,
    s.rotation_limit_reset AS limit_reset, s.rotation_include_byok AS include_byok, s.rotation_description AS description,
    coalesce(s.rotation_on_conflict, 'fail') AS on_conflict, s.priority, s.batch, s.project_name, s.not_before
FROM pg_temp.submitted AS s
WHERE
    num_nonnulls(
        s.rotation_name, s.rotation_environment, s.rotation_secret_path, s.rotation_secret_name, s.rotation_interval_days,
        s.rotation_rotate_at, s.rotation_key_name, s.rotation_spend_limit, s.rotation_limit_reset, s.rotation_include_byok,
        s.rotation_description, s.rotation_on_conflict
    ) > 0;

-- :name no_connections
-- The lines request rotations only.
DELETE FROM pg_temp.submitted;

-- :name rotation_repeats
-- Keep the first line for each rotation, remove the others, and return their conflicts, as `repeats` does.
WITH firsts AS (
    SELECT DISTINCT ON (s.target, s.project_id, s.environment, s.secret_path, s.name) s.*
    FROM pg_temp.submitted_rotations AS s
    ORDER BY s.target, s.project_id, s.environment, s.secret_path, s.name, s.line
),
repeated AS (
    DELETE FROM pg_temp.submitted_rotations AS s
    USING firsts AS f
    WHERE
        s.target = f.target AND s.project_id = f.project_id AND s.environment = f.environment AND s.secret_path = f.secret_path
        AND s.name = f.name AND s.line > f.line
    RETURNING s.line, f.line AS first_line, ARRAY(
        SELECT a.key
        FROM jsonb_each(to_jsonb(s)) AS a
        JOIN jsonb_each(to_jsonb(f)) AS b ON b.key = a.key
        WHERE a.value <> b.value AND a.key <> 'line'
        ORDER BY a.key
    ) AS columns
)
SELECT
    r.line, r.first_line, r.columns,
    count(*) FILTER (WHERE r.columns = '{}') OVER () AS identical,
    count(*) FILTER (WHERE r.columns <> '{}') OVER () AS conflicting
FROM repeated AS r
ORDER BY r.columns = '{}', r.line
LIMIT $1;

-- :name staged_rotations
-- The number of rotations that the rows request, and how many of them exist with other values.
SELECT
    count(*) AS rotations, count(*) FILTER (WHERE d.different) AS different, min(s.line) FILTER (WHERE d.different) AS first_different
FROM pg_temp.submitted_rotations AS s
LEFT JOIN provisioner.rotation_requests AS q
    ON q.target = s.target AND q.project_id = s.project_id AND q.environment = s.environment AND q.secret_path = s.secret_path
        AND q.name = s.name
CROSS JOIN LATERAL (
    SELECT
        q.id IS NOT NULL
        AND (
            q.connection, q.secret_name, q.interval_days, q.rotate_at, q.key_name, q.spend_limit, q.limit_reset, q.include_byok,
            q.description, q.on_conflict
        ) IS DISTINCT FROM (
            s.connection, s.secret_name, s.interval_days, s.rotate_at, s.key_name, s.spend_limit, s.limit_reset, s.include_byok,
            s.description, s.on_conflict
        ) AS different
) AS d;

-- :name insert_rotations
-- Insert the rotations that do not exist yet.
WITH inserted AS (
    INSERT INTO provisioner.rotation_requests (
        target, project_id, name, connection, environment, secret_path, secret_name, interval_days, rotate_at, key_name,
        spend_limit, limit_reset, include_byok, description, on_conflict, priority, batch, project_name, not_before
    )
    SELECT
        s.target, s.project_id, s.name, s.connection, s.environment, s.secret_path, s.secret_name, s.interval_days, s.rotate_at,
        s.key_name, s.spend_limit, s.limit_reset, s.include_byok, s.description, s.on_conflict, s.priority, s.batch,
        s.project_name, s.not_before
    FROM pg_temp.submitted_rotations AS s
    ORDER BY s.line
    ON CONFLICT (target, project_id, environment, secret_path, name) DO NOTHING
    RETURNING id
)
SELECT count(*) FROM inserted;

-- :name rotation_ids
-- The rotations of the file's lines, including existing ones.
SELECT q.id
FROM pg_temp.submitted_rotations AS s
INNER JOIN provisioner.rotation_requests AS q
    ON q.target = s.target AND q.project_id = s.project_id AND q.environment = s.environment AND q.secret_path = s.secret_path
        AND q.name = s.name
ORDER BY q.id;

-- :name repeats
-- Keep the first line for each connection, remove the others, and return their conflicts: the first $1, and how many
-- there are. No row: nothing was repeated.
WITH firsts AS (
    SELECT DISTINCT ON (s.target, s.project_id, s.name) s.*
    FROM pg_temp.submitted AS s
    ORDER BY s.target, s.project_id, s.name, s.line
),
repeated AS (
    DELETE FROM pg_temp.submitted AS s
    USING firsts AS f
    WHERE s.target = f.target AND s.project_id = f.project_id AND s.name = f.name AND s.line > f.line
    RETURNING s.line, f.line AS first_line, array_remove(ARRAY[
        CASE WHEN s.description IS DISTINCT FROM f.description THEN 'description' END,
        CASE WHEN s.credential IS DISTINCT FROM f.credential THEN 'credential' END,
        CASE WHEN s.on_conflict IS DISTINCT FROM f.on_conflict THEN 'on_conflict' END,
        CASE WHEN s.priority IS DISTINCT FROM f.priority THEN 'priority' END,
        CASE WHEN s.batch IS DISTINCT FROM f.batch THEN 'batch' END,
        CASE WHEN s.project_name IS DISTINCT FROM f.project_name THEN 'project_name' END,
        CASE WHEN s.not_before IS DISTINCT FROM f.not_before THEN 'not_before' END
    ], NULL) AS columns
)
SELECT
    r.line, r.first_line, r.columns,
    count(*) FILTER (WHERE r.columns = '{}') OVER () AS identical,
    count(*) FILTER (WHERE r.columns <> '{}') OVER () AS conflicting
FROM repeated AS r
ORDER BY r.columns = '{}', r.line
LIMIT $1;

-- :part of_each_target
-- How many lines of each target there are, and the states of the requests that exist.
SELECT
    s.target,
    count(*) AS wanted,
    count(*) FILTER (WHERE q.status = 'pending') AS pending,
    count(*) FILTER (WHERE q.status = 'succeeded') AS succeeded,
    count(*) FILTER (WHERE q.status = 'failed') AS failed,
    count(*) FILTER (WHERE q.status = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE d.different) AS different,
    min(s.line) FILTER (WHERE d.different) AS first_different
FROM pg_temp.submitted AS s
LEFT JOIN provisioner.connection_requests AS q
    ON q.target = s.target AND q.project_id = s.project_id AND q.name = s.name

-- :part other
-- What of a request differs from its line.
        q.description IS DISTINCT FROM s.description
        OR q.on_conflict IS DISTINCT FROM s.on_conflict
        OR q.project_name IS DISTINCT FROM s.project_name

-- :name compare
-- What exists already, by target and state. Sealed credentials cannot be compared: each box is different, and is wiped
-- in the end.
{of_each_target}
CROSS JOIN LATERAL (
    SELECT q.id IS NOT NULL AND (
        {other}
        OR (q.credential IS DISTINCT FROM s.credential AND NOT (q.credential LIKE 'sealed:%' AND s.credential LIKE 'sealed:%'))
    ) AS different
) AS d
GROUP BY s.target
ORDER BY s.target;

-- :name compare_own
-- The same for a role that only sees its own requests, and no credential.
{of_each_target}
CROSS JOIN LATERAL (
    SELECT q.id IS NOT NULL AND (
        {other}
    ) AS different
) AS d
GROUP BY s.target
ORDER BY s.target;

-- :name stage_changes
-- The differences between lines and existing requests, where a line has a value. A sealed key always counts as
-- different.
CREATE TEMPORARY TABLE submitted_changes ON COMMIT DROP AS
SELECT
    s.line, q.id, t.*
FROM pg_temp.submitted AS s
JOIN provisioner.connection_requests AS q ON q.target = s.target AND q.project_id = s.project_id AND q.name = s.name
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN 'description' = ANY (s.given) THEN s.description ELSE q.description END AS description,
        CASE
            WHEN
                'credential' = ANY (s.given)
                AND replace(lower(s.credential), '_', '-') <> replace(lower(btrim(q.credential)), '_', '-')
                THEN s.credential
            ELSE q.credential
        END AS credential,
        CASE WHEN 'priority' = ANY (s.given) THEN s.priority ELSE q.priority END AS priority,
        CASE WHEN 'not_before' = ANY (s.given) THEN s.not_before ELSE q.not_before END AS not_before,
        CASE WHEN 'project_name' = ANY (s.given) THEN s.project_name ELSE q.project_name END AS project_name,
        CASE WHEN 'batch' = ANY (s.given) THEN s.batch ELSE q.batch END AS batch
) AS t
WHERE
    (t.description, t.credential, t.priority, t.not_before, t.project_name, t.batch)
    IS DISTINCT FROM (q.description, q.credential, q.priority, q.not_before, q.project_name, q.batch);

-- :name changes
-- The requests that would be changed, and the line that changes each.
SELECT c.id, c.line FROM pg_temp.submitted_changes AS c ORDER BY c.id;

-- :name change
-- Apply the changed values to requests $1.
UPDATE provisioner.connection_requests AS q
SET
    description = c.description, credential = c.credential, priority = c.priority, not_before = c.not_before,
    project_name = c.project_name, batch = c.batch
FROM pg_temp.submitted_changes AS c
WHERE q.id = c.id AND q.id = ANY ($1::bigint[]);

-- :name insert
-- Insert the requests that do not exist yet, in the order of the file. One statement, so the workers are notified once.
WITH inserted AS (
    INSERT INTO provisioner.connection_requests (
        target, project_id, name, description, credential, on_conflict, priority, batch, project_name, not_before
    )
    SELECT
        s.target, s.project_id, s.name, s.description, s.credential, s.on_conflict, s.priority, s.batch, s.project_name,
        s.not_before
    FROM pg_temp.submitted AS s
    ORDER BY s.line
    ON CONFLICT (target, project_id, name) DO NOTHING
    RETURNING id
)
SELECT count(*) FROM inserted;

-- :name ids
-- The requests of the file's lines, including existing ones.
SELECT q.id
FROM pg_temp.submitted AS s
INNER JOIN provisioner.connection_requests AS q ON q.target = s.target AND q.project_id = s.project_id AND q.name = s.name
ORDER BY q.id;
