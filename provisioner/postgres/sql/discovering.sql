-- Automatic requests for new projects: one worker reads the list in each round.

-- :name take
-- Take the round at target $1, unless one began within the last $2. No row: it is not due, or another worker has it.
INSERT INTO provisioner.discover_rounds AS r (target, started_at) VALUES ($1, clock_timestamp())
ON CONFLICT (target) DO UPDATE SET started_at = clock_timestamp()
WHERE r.started_at < clock_timestamp() - $2::interval
RETURNING r.target;

-- :name ask
-- Request a connection in projects $2 of target $1, named $3, with credential $4 and batch $5, if there is no request
-- yet.
SELECT provisioner.request_discovered($1, $2::uuid[], $3::text[], $4, $5) AS requests;

-- :name miss
-- A list of target $1, whose address is $2, contains projects $3. Remember those with requests, and count for each
-- project of an earlier list from this address how many lists in a row have lacked it. Returns the missing projects,
-- and how many are known in total.
WITH listed AS (
    SELECT l.id FROM unnest($3::uuid[]) AS l (id)
),
new AS (
    INSERT INTO provisioner.seen_projects (target, project_id, address)
    SELECT $1, l.id, $2 FROM listed AS l
    WHERE
        NOT EXISTS (SELECT FROM provisioner.seen_projects AS s WHERE s.target = $1 AND s.project_id = l.id)
        AND EXISTS (SELECT FROM provisioner.connection_requests AS q WHERE q.target = $1 AND q.project_id = l.id)
    ON CONFLICT DO NOTHING
),
back AS (
    UPDATE provisioner.seen_projects AS s SET address = $2, missed = 0, missed_since = NULL
    FROM listed AS l
    WHERE s.target = $1 AND s.project_id = l.id AND (s.missed > 0 OR s.address <> $2)
),
missing AS (
    UPDATE provisioner.seen_projects AS s
    SET missed = s.missed + 1, missed_since = coalesce(s.missed_since, clock_timestamp())
    WHERE s.target = $1 AND s.address = $2 AND NOT EXISTS (SELECT FROM listed AS l WHERE l.id = s.project_id)
    RETURNING s.project_id, s.missed, s.missed_since
)
SELECT
    m.project_id::text, m.missed, m.missed_since,
    (
        SELECT q.project_name FROM provisioner.connection_requests AS q
        WHERE q.target = $1 AND q.project_id = m.project_id AND q.project_name IS NOT NULL
        LIMIT 1
    ) AS project_name,
    (SELECT count(*) FROM provisioner.seen_projects AS s WHERE s.target = $1 AND s.address = $2) AS known
FROM missing AS m;

-- :name spare
-- Project $2 of target $1 is missing from lists but still exists: start counting again.
UPDATE provisioner.seen_projects AS s SET missed = 0, missed_since = NULL WHERE s.target = $1 AND s.project_id = $2;

-- :name remove_gone
-- Project $2 of target $1 was certainly deleted: have its requests removed.
SELECT provisioner.remove_gone($1, $2) AS requests;
