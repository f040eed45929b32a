-- What was recorded, for comparison with Infisical.

-- :part facts
-- The columns to compare.
    q.id, q.target, q.project_id::text AS project_id, q.project_name, q.name, q.description, q.adopted, q.{made}::text AS {made},
    -- :only connections
    q.on_conflict, q.credentials_hash, q.key_fingerprint, replace(lower(btrim(q.credential)), '_', '-') AS credential
    -- :only rotations
    q.environment, q.secret_path, q.secret_name, q.interval_days, q.rotate_at, q.spend_limit::float8 AS spend_limit, q.limit_reset,
    q.include_byok
    -- :all

-- :name succeeded
-- Succeeded requests in the order of their projects, so that each project is read once: at most $8 after (target $5,
-- project $6, place $7), if ids $1, batches $2, projects $3 and targets $4 match; NULL accepts any.
SELECT
    {facts}
FROM provisioner.{listed} AS q
WHERE
    q.status = 'succeeded' AND q.{made} IS NOT NULL
    AND ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR q.batch = ANY ($2))
    AND ($3::uuid[] IS NULL OR q.project_id = ANY ($3))
    AND ($4::text[] IS NULL OR q.target = ANY ($4))
    AND ($5::text IS NULL OR (q.target, q.project_id, q.place) > ($5, $6::uuid, $7::text))
ORDER BY q.target, q.project_id, q.place
LIMIT $8;

-- :name missed
-- Requests of line $1 that were missed at least $2 ago, in this round of standing verification or before, and were not
-- checked again: at most $3.
SELECT
    {facts}
FROM provisioner.drifts AS d
JOIN provisioner.{listed} AS q ON q.id = d.id
WHERE
    d.target = $1 AND d.drift IS NULL AND d.missed_at < clock_timestamp() - $2::interval
    AND q.status = 'succeeded' AND q.{made} IS NOT NULL
ORDER BY q.target, q.project_id, q.place
LIMIT $3;

-- :name asked_for
-- Which of the connections (project $2, name $3) at target $1 have a request already: its status and what it made.
SELECT q.project_id::text AS project_id, q.name, q.status, q.connection_id::text AS connection_id
FROM unnest($2::uuid[], $3::text[]) AS a (project_id, name)
JOIN provisioner.connection_requests AS q ON q.target = $1 AND q.project_id = a.project_id AND q.name = a.name;

-- :name elsewhere
-- The request of another target than $1 that has recorded connection $4, named $3 in project $2. Names are unique
-- there, so the unique index finds it one target at a time. It exists if two targets are the same Infisical.
SELECT q.id, q.target
FROM provisioner.connection_requests AS q
WHERE
    q.target = ANY (ARRAY(SELECT t.target FROM provisioner.targets AS t WHERE t.target <> $1))
    AND q.project_id = $2::uuid AND q.name = $3 AND q.connection_id = $4::uuid
LIMIT 1;

-- :name installation
-- The id of this database.
SELECT i.id FROM provisioner.installation AS i;
