-- Reading many requests. The filter is the same everywhere: ids $1, live states $2, batches $3, projects $4, error
-- codes $5, targets $6; NULL accepts any value.

-- :part matches
-- Written so that NULL arguments leave nothing behind in the plan.
    ($1::bigint[] IS NULL OR v.id = ANY ($1))
    AND ($2::text[] IS NULL OR v.state = ANY ($2))
    AND ($3::text[] IS NULL OR v.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR v.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR v.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR v.target = ANY ($6))

-- :name requests
-- Requests with their live state, between ids $7 and $8 (exclusive), at most $9, newest first if $10.
SELECT
    v.id, v.target, v.project_id::text AS project_id, v.name, v.description, v.on_conflict, v.priority, v.batch, v.project_name,
    v.not_before, v.requested_by, v.created_at, v.state, v.attempts, v.connection_id::text AS connection_id, v.adopted,
    v.error_code, v.error_message, v.next_attempt_at, v.finished_at,
    -- :only connections
    v.credential, v.org_id::text AS org_id, v.credentials_hash
    -- :only rotations
    '' AS credential, NULL AS org_id, NULL AS credentials_hash, 'rotation' AS kind, v.rotation_id::text AS rotation_id, v.connection,
    v.waits_for, v.environment, v.secret_path, v.secret_name, v.interval_days, to_char(v.rotate_at, 'HH24:MI') AS rotate_at,
    v.key_name, v.spend_limit::float8 AS spend_limit, v.limit_reset, v.include_byok, v.key_issued, v.left_behind
    -- :all
FROM provisioner.{own}{listed} AS v
WHERE
    {matches}
    AND ($7::bigint IS NULL OR v.id > $7)
    AND ($8::bigint IS NULL OR v.id < $8)
ORDER BY CASE WHEN $10::boolean THEN v.id END DESC, v.id
LIMIT $9;

-- :name counts
-- The number of requests that the filter matches, by live state.
SELECT v.state, count(*) AS requests
FROM provisioner.{own}{listed} AS v
WHERE
    {matches}
GROUP BY v.state;

-- :name ids
-- The ids above $7 of the first $8 requests that the filter matches, in order.
SELECT v.id
FROM provisioner.{own}{listed} AS v
WHERE
    {matches}
    AND v.id > $7
ORDER BY v.id
LIMIT $8;

-- :name causes
-- The error codes of failed requests that the filter matches, with their numbers, most frequent first.
SELECT coalesce(q.error_code, '') AS error_code, count(*) AS requests
FROM provisioner.{requests} AS q
WHERE
    q.status = 'failed'
    AND ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR 'failed' = ANY ($2))
    AND ($3::text[] IS NULL OR q.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR q.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR q.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR q.target = ANY ($6))
GROUP BY coalesce(q.error_code, '')
ORDER BY 2 DESC, 1;

-- :name unknown
-- The ids among $1 that no request of any kind has, in the given order.
SELECT i.id
FROM unnest($1::bigint[]) WITH ORDINALITY AS i (id, place)
WHERE NOT EXISTS (SELECT FROM provisioner.{own}requests AS q WHERE q.id = i.id)
ORDER BY i.place;

-- :name unknown_batches
-- The batches among $1 that contain no request of any kind, in the given order.
SELECT b.batch
FROM unnest($1::text[]) WITH ORDINALITY AS b (batch, place)
WHERE NOT EXISTS (SELECT FROM provisioner.{own}requests AS q WHERE q.batch = b.batch)
ORDER BY b.place;

-- :name targets
-- Every target that a request names. It jumps from one to the next in the index: there are few targets, and many
-- requests.
WITH RECURSIVE named AS (
    (SELECT q.target FROM provisioner.{requests} AS q ORDER BY q.target LIMIT 1)
    UNION ALL
    SELECT (
        SELECT q.target FROM provisioner.{requests} AS q WHERE q.target > n.target ORDER BY q.target LIMIT 1
    )
    FROM named AS n
    WHERE n.target IS NOT NULL
)
SELECT n.target FROM named AS n WHERE n.target IS NOT NULL;
