-- What was recorded, to be compared with what Infisical has.

-- :name succeeded
-- Succeeded requests in the order of their projects, so that each project is asked for once: at most $8 from behind the place
-- (target $5, project $6, name $7) on, if ids $1, batches $2, projects $3 and targets $4 allow; NULL means any.
SELECT
    q.id, q.target, q.project_id::text AS project_id, q.name, q.description, q.on_conflict, q.adopted,
    q.connection_id::text AS connection_id, q.credentials_hash,
    replace(lower(btrim(q.credential)), '_', '-') AS credential, q.key_fingerprint, q.project_name
FROM provisioner.listed_requests AS q
WHERE
    q.status = 'succeeded' AND q.connection_id IS NOT NULL
    AND ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR q.batch = ANY ($2))
    AND ($3::uuid[] IS NULL OR q.project_id = ANY ($3))
    AND ($4::text[] IS NULL OR q.target = ANY ($4))
    AND ($5::text IS NULL OR (q.target, q.project_id, q.name) > ($5, $6::uuid, $7::text))
ORDER BY q.target, q.project_id, q.name
LIMIT $8;

-- :name asked_for
-- Which of the connections (project $2, name $3) at target $1 were asked for before: the request's status and what it made.
SELECT q.project_id::text AS project_id, q.name, q.status, q.connection_id::text AS connection_id
FROM unnest($2::uuid[], $3::text[]) AS a (project_id, name)
JOIN provisioner.connection_requests AS q ON q.target = $1 AND q.project_id = a.project_id AND q.name = a.name;

-- :name elsewhere
-- The request of another target than $1 that has recorded connection $4, which is called $3 in project $2: names are unique
-- there, so one target at a time the unique index leads to it. There is one if two targets are the same Infisical.
SELECT q.id, q.target
FROM provisioner.connection_requests AS q
WHERE
    q.target = ANY (ARRAY(SELECT t.target FROM provisioner.targets AS t WHERE t.target <> $1))
    AND q.project_id = $2::uuid AND q.name = $3 AND q.connection_id = $4::uuid
LIMIT 1;

-- :name installation
-- Which database this is.
SELECT i.id FROM provisioner.installation AS i;
