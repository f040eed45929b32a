-- Looking at many requests. The filter is the same everywhere: ids $1, live states $2, batches $3, projects $4, error codes
-- $5, targets $6; NULL means any. It is written so that what is NULL leaves nothing behind in the plan.

-- :name requests
-- Requests with their live state, between ids $7 and $8 (both left out), at most $9, the newest first if $10. A sealed
-- credential is shown by its key's id only. Not by the view request_status: that numbers the whole queue.
SELECT
    q.id, q.target, q.project_id::text AS project_id, q.name, q.description,
    c.credential, q.on_conflict, q.priority, q.batch, q.project_name, q.not_before, q.requested_by, q.created_at,
    l.state,
    CASE WHEN q.status = 'pending' THEN coalesce(s.sent, q.attempts) ELSE q.attempts END AS attempts,
    q.connection_id::text AS connection_id, q.org_id::text AS org_id, q.credentials_hash, q.adopted,
    l.error_code,
    CASE WHEN q.status = 'pending' THEN s.error_message ELSE q.error_message END AS error_message,
    w.run_at AS next_attempt_at, q.finished_at
FROM provisioner.connection_requests AS q
JOIN provisioner.request_credentials AS c ON c.id = q.id
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id
CROSS JOIN LATERAL (
    SELECT
        provisioner.live_state(q.status, q.wanted, q.connection_id, f.id, w.id) AS state,
        CASE WHEN q.status = 'pending' THEN s.error_code ELSE q.error_code END AS error_code
) AS l
WHERE
    ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR l.state = ANY ($2))
    AND ($3::text[] IS NULL OR q.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR q.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR l.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR q.target = ANY ($6))
    AND ($7::bigint IS NULL OR q.id > $7)
    AND ($8::bigint IS NULL OR q.id < $8)
ORDER BY CASE WHEN $10::boolean THEN q.id END DESC, q.id
LIMIT $9;

-- :name further
-- How many more requests the filter matches between ids $7 and $8, counted up to $9: the rest of the table is not read for a number.
SELECT count(*) AS requests
FROM (
    SELECT FROM provisioner.request_status AS v
    WHERE
        ($1::bigint[] IS NULL OR v.id = ANY ($1))
        AND ($2::text[] IS NULL OR v.state = ANY ($2))
        AND ($3::text[] IS NULL OR v.batch = ANY ($3))
        AND ($4::uuid[] IS NULL OR v.project_id = ANY ($4))
        AND ($5::text[] IS NULL OR v.error_code = ANY ($5))
        AND ($6::text[] IS NULL OR v.target = ANY ($6))
        AND ($7::bigint IS NULL OR v.id > $7)
        AND ($8::bigint IS NULL OR v.id < $8)
    LIMIT $9
) AS m;

-- :name counts
-- How many requests the filter matches, by their live state. `retrying` are those that were tried before and will be again.
SELECT l.state, count(*) AS requests, count(*) FILTER (WHERE s.id IS NOT NULL AND NOT s.cancelled) AS retrying
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id
CROSS JOIN LATERAL (
    SELECT
        provisioner.live_state(q.status, q.wanted, q.connection_id, f.id, w.id) AS state,
        CASE WHEN q.status = 'pending' THEN s.error_code ELSE q.error_code END AS error_code
) AS l
WHERE
    ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR l.state = ANY ($2))
    AND ($3::text[] IS NULL OR q.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR q.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR l.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR q.target = ANY ($6))
GROUP BY l.state;

-- :name ids
-- The ids above $7 of the first $8 requests that the filter matches, in order.
SELECT q.id
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id
CROSS JOIN LATERAL (
    SELECT
        provisioner.live_state(q.status, q.wanted, q.connection_id, f.id, w.id) AS state,
        CASE WHEN q.status = 'pending' THEN s.error_code ELSE q.error_code END AS error_code
) AS l
WHERE
    ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR l.state = ANY ($2))
    AND ($3::text[] IS NULL OR q.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR q.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR l.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR q.target = ANY ($6))
    AND q.id > $7
ORDER BY q.id
LIMIT $8;

-- :name causes
-- Why requests that the filter matches have failed, and how many for each reason, the most frequent first.
SELECT coalesce(q.error_code, '') AS error_code, count(*) AS requests
FROM provisioner.connection_requests AS q
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
-- Which of the ids $1 no request of any kind has, in the order in which they were given.
SELECT i.id
FROM unnest($1::bigint[]) WITH ORDINALITY AS i (id, place)
WHERE NOT EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = i.id)
ORDER BY i.place;

-- :name unknown_batches
-- Which of the batches $1 no request of any kind is in, in the order in which they were given.
SELECT b.batch
FROM unnest($1::text[]) WITH ORDINALITY AS b (batch, place)
WHERE NOT EXISTS (SELECT FROM provisioner.requests AS q WHERE q.batch = b.batch)
ORDER BY b.place;

-- :name targets
-- Every target that a request names. By jumping from one to the next in the index: there are few, and many requests.
WITH RECURSIVE named AS (
    (SELECT q.target FROM provisioner.connection_requests AS q ORDER BY q.target LIMIT 1)
    UNION ALL
    SELECT (
        SELECT q.target FROM provisioner.connection_requests AS q WHERE q.target > n.target ORDER BY q.target LIMIT 1
    )
    FROM named AS n
    WHERE n.target IS NOT NULL
)
SELECT n.target FROM named AS n WHERE n.target IS NOT NULL;
