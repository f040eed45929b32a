-- Ids between $1 and $2 (exclusive), at most $3, newest first if $4: where to look for a filter's matches. Each
-- statement follows an index only as far as it is read. See `postgres/candidates.py`.

-- :part page
-- The next of them.
ORDER BY CASE WHEN $4::boolean THEN id END DESC, id LIMIT $3

-- :name prepare
-- For this transaction: plan each statement for its arguments, use index scans, and stop after $1 milliseconds.
SELECT
    set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'off', true),
    set_config('jit', 'off', true), set_config('statement_timeout', $1, true);

-- :name counted
-- In lines whose names end with $5: how many requests are counted as one of $1 (any if NULL), with error codes $3, in
-- batches $2 and at targets $4; how many there are of that kind in all, in the batches, and pending; and the newest id
-- that was ever of that kind.
SELECT
    coalesce(sum(c.requests) FILTER (WHERE c.is_of_kind AND c.is_in_batch AND c.is_at_target), 0)::bigint AS matching,
    max(c.newest) FILTER (WHERE c.is_of_kind AND c.is_in_batch AND c.is_at_target) AS newest,
    coalesce(sum(c.requests) FILTER (WHERE c.is_of_kind), 0)::bigint AS of_kind,
    coalesce(sum(c.requests) FILTER (WHERE c.is_in_batch), 0)::bigint AS of_batch,
    coalesce(sum(c.requests) FILTER (WHERE c.status = 'pending'), 0)::bigint AS pending
FROM (
    SELECT
        r.requests, r.newest, r.status,
        ($1::text[] IS NULL OR r.counted_as = ANY ($1)) AND ($3::text[] IS NULL OR r.error_code = ANY ($3)) AS is_of_kind,
        $2::text[] IS NULL OR r.batch = ANY ($2) AS is_in_batch,
        $4::text[] IS NULL OR split_part(r.target, '/', 1) = ANY ($4) AS is_at_target
    FROM provisioner.request_counts AS r
    WHERE split_part(r.target, '/', 2) = $5
) AS c;

-- :name given
-- The given ids $5.
SELECT g.id FROM unnest($5::bigint[]) AS g (id)
WHERE g.id > $1 AND g.id < $2
{page};

-- :name of_projects
-- Requests of projects $5 at targets $6, or at any: the query jumps from one target to the next.
WITH RECURSIVE named AS (
    (SELECT q.target FROM provisioner.{requests} AS q ORDER BY q.target LIMIT 1)
    UNION ALL
    SELECT (SELECT q.target FROM provisioner.{requests} AS q WHERE q.target > n.target ORDER BY q.target LIMIT 1)
    FROM named AS n
    WHERE n.target IS NOT NULL
)
SELECT q.id
FROM (SELECT unnest($6::text[]) AS target UNION SELECT n.target FROM named AS n WHERE $6::text[] IS NULL AND n.target IS NOT NULL) AS t
CROSS JOIN unnest($5::uuid[]) AS p (project_id)
JOIN provisioner.{requests} AS q ON q.target = t.target AND q.project_id = p.project_id
WHERE q.id > $1 AND q.id < $2
{page};

-- :name in_batches
-- Requests in batches $5.
SELECT l.id
FROM unnest($5::text[]) AS b (batch)
CROSS JOIN LATERAL (
    SELECT q.id
    FROM provisioner.{requests} AS q
    WHERE q.batch = b.batch AND q.id > $1 AND q.id < $2
    {page}
) AS l
{page};

-- :name apart
-- Requests that ended without success, with status $5 and error codes $6 or any.
SELECT l.id
FROM unnest($5::text[]) AS s (status)
CROSS JOIN LATERAL (
    (
        SELECT a.id FROM provisioner.set_apart AS a
        WHERE $6::text[] IS NULL AND a.status = s.status AND a.id > $1 AND a.id < $2
        {page}
    )
    UNION ALL
    SELECT o.id
    FROM unnest($6::text[]) AS e (error_code)
    CROSS JOIN LATERAL (
        SELECT a.id FROM provisioner.set_apart AS a
        WHERE a.error_code = e.error_code AND a.status = s.status AND a.id > $1 AND a.id < $2
        {page}
    ) AS o
) AS l
{page};

-- :name tried
-- Requests whose last error is one of $5, whatever their state.
SELECT l.id
FROM unnest($5::text[]) AS e (error_code)
CROSS JOIN LATERAL (
    (
        SELECT s.id FROM provisioner.attempt_state AS s
        WHERE s.error_code = e.error_code AND s.id > $1 AND s.id < $2
        {page}
    )
    UNION
    (
        SELECT a.id FROM provisioner.set_apart AS a
        WHERE a.error_code = e.error_code AND a.id > $1 AND a.id < $2
        {page}
    )
    UNION
    -- Never tried, and quarantined for it.
    (
        SELECT w.id FROM provisioner.waiting AS w
        WHERE
            w.quarantine IS NOT NULL AND provisioner.quarantine_code(w.quarantine) = e.error_code
            AND w.id > $1 AND w.id < $2
        {page}
    )
) AS l
{page};

-- :name in_line
-- Requests in line if $5, waiting if $6, in flight if $7.
SELECT l.id
FROM (
    (
        SELECT r.id FROM provisioner.ready AS r
        WHERE $5::boolean AND r.id > $1 AND r.id < $2
        {page}
    )
    UNION
    (
        SELECT w.id FROM provisioner.waiting AS w
        WHERE $6::boolean AND w.id > $1 AND w.id < $2
        {page}
    )
    UNION
    (
        SELECT f.id FROM provisioner.in_flight AS f
        WHERE $7::boolean AND f.id > $1 AND f.id < $2
        {page}
    )
) AS l
{page};

-- :name ends
-- The oldest and the newest request between $1 and $2.
SELECT
    (SELECT q.id FROM provisioner.{requests} AS q WHERE q.id > $1 AND q.id < $2 ORDER BY q.id LIMIT 1) AS oldest,
    (SELECT q.id FROM provisioner.{requests} AS q WHERE q.id > $1 AND q.id < $2 ORDER BY q.id DESC LIMIT 1) AS newest;

-- :name walk
-- All requests that ended as one of $5, at targets $6, with a name like $7; NULL accepts any. Nothing is joined: if few
-- of many match, only the cost of a row that does not match counts.
SELECT q.id
FROM provisioner.{requests} AS q
WHERE
    q.id > $1 AND q.id < $2
    AND ($5::text[] IS NULL OR q.status = ANY ($5))
    AND ($6::text[] IS NULL OR q.target = ANY ($6))
    AND ($7::text IS NULL OR q.name ILIKE $7 OR q.project_name ILIKE $7 OR q.batch ILIKE $7)
{page};

-- :name named_so
-- Those of the requests $1 that have a name like $2, in order.
SELECT g.id
FROM unnest($1::bigint[]) WITH ORDINALITY AS g (id, place)
JOIN provisioner.{requests} AS q ON q.id = g.id
WHERE q.name ILIKE $2 OR q.project_name ILIKE $2 OR q.batch ILIKE $2
ORDER BY g.place;

-- :name called
-- Requests whose name, or whose project's name, is $5; and of those whose name begins with it, before $6, about two
-- thousand of each kind.
SELECT l.id
FROM (
    (
        SELECT q.id FROM provisioner.{requests} AS q
        WHERE q.name = $5 AND q.id > $1 AND q.id < $2
        {page}
    )
    UNION
    (
        SELECT q.id FROM provisioner.{requests} AS q
        WHERE q.project_name IS NOT NULL AND lower(q.project_name) = $5 AND q.id > $1 AND q.id < $2
        {page}
    )
    UNION
    (SELECT q.id FROM provisioner.{requests} AS q WHERE q.name ~>=~ $5 AND q.name ~<~ $6 LIMIT 2000)
    UNION
    (
        SELECT q.id FROM provisioner.{requests} AS q
        WHERE q.project_name IS NOT NULL AND lower(q.project_name) ~>=~ $5 AND lower(q.project_name) ~<~ $6
        LIMIT 2000
    )
) AS l
WHERE l.id > $1 AND l.id < $2
{page};
