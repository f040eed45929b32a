-- Looking for requests by what people know of them, of any number, and in time: see `postgres/search.py`.

-- :name candidates
-- Ids of requests that have ended as one of $1, or of any if that is NULL, by what their own rows say: batches $2, projects $3,
-- error codes $4, targets $5, between ids $6 and $7, a name like $8; at most $9, the newest first if $10. Nothing is joined: where
-- few of millions match, what a row costs that does not is all that counts.
SELECT q.id
FROM provisioner.connection_requests AS q
WHERE
    ($1::text[] IS NULL OR q.status = ANY ($1))
    AND ($2::text[] IS NULL OR q.batch = ANY ($2))
    AND ($3::uuid[] IS NULL OR q.project_id = ANY ($3))
    AND ($4::text[] IS NULL OR q.error_code = ANY ($4))
    AND ($5::text[] IS NULL OR q.target = ANY ($5))
    AND ($6::bigint IS NULL OR q.id > $6)
    AND ($7::bigint IS NULL OR q.id < $7)
    AND ($8::text IS NULL OR q.name ILIKE $8 OR q.project_name ILIKE $8 OR q.batch ILIKE $8)
ORDER BY CASE WHEN $10::boolean THEN q.id END DESC, q.id
LIMIT $9;

-- :name kinds
-- How many requests there are that have ended as one of $1, of batches $2, with error codes $3, of targets $4, in the kind of line $5,
-- and the newest of them.
SELECT coalesce(sum(c.requests), 0)::bigint AS requests, max(c.newest) AS newest
FROM provisioner.request_counts AS c
WHERE
    c.status = ANY ($1::text[])
    AND ($2::text[] IS NULL OR c.batch = ANY ($2))
    AND ($3::text[] IS NULL OR c.error_code = ANY ($3))
    AND ($4::text[] IS NULL OR split_part(c.target, '/', 1) = ANY ($4))
    AND split_part(c.target, '/', 2) = $5;

-- :name moving
-- Ids between $1 and $2 of requests that wait or are in flight, at most $3.
SELECT m.id
FROM (SELECT w.id FROM provisioner.waiting AS w UNION ALL SELECT f.id FROM provisioner.in_flight AS f) AS m
WHERE ($1::bigint IS NULL OR m.id > $1) AND ($2::bigint IS NULL OR m.id < $2)
LIMIT $3;

-- :name walk
-- For this transaction: if $2 is off, walk along ids and stop, instead of reading all and sorting. Status and error code say nearly the
-- same, which the planner does not know: it expects hardly any row to match both. And however much there is, end in $1 milliseconds.
SELECT set_config('statement_timeout', $1, true), set_config('enable_seqscan', $2, true);

-- :name drift
-- How the connection of request $1 differs from what was recorded, and when it was compared last.
SELECT s.drift, s.verified_at FROM provisioner.request_status AS s WHERE s.id = $1;
