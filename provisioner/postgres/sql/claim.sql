-- :name claim
-- Move the next requests in line of target $1, from (rank, turn, id) = ($2, $3, $6) on and at most $4, into flight for
-- worker $5, and return everything needed to carry them out. The rows are deleted by ctid from an array: a join with
-- the locking query is planned for a tenth of the table and reads all of it. Starting where the last claim ended skips
-- dead index entries, which an old transaction elsewhere may keep for hours. The wide row is read once, for the claim
-- and for its result. $7 is the fence. A request that somebody has made not pending leaves the line without being
-- claimed. A request that is in flight already causes an error instead of using ON CONFLICT, which would write a second
-- WAL record for each row (measured: 48 bytes).
WITH picked AS (
    DELETE FROM provisioner.ready
    WHERE ctid = ANY (ARRAY (
        SELECT r.ctid
        FROM provisioner.ready AS r
        WHERE r.target = $1 AND (r.rank, r.turn, r.id) >= ($2, $3, $6)
        ORDER BY r.target, r.rank, r.turn, r.id
        LIMIT $4
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, rank, turn
),
wanted AS MATERIALIZED (
    SELECT
        q.id, q.project_id, q.name, q.description, q.on_conflict, q.{made} AS recorded_id, q.wanted, q.adopted, q.project_name,
        -- :only connections
        q.credential,
        -- :only rotations
        q.target, q.connection, q.environment, q.secret_path, q.secret_name, q.interval_days, q.rotate_at, q.key_name, q.spend_limit,
        q.limit_reset, q.include_byok, q.with_secrets, q.revoke_keys, q.key_issued,
        -- :all
        s.attempt, coalesce(s.sent, CASE WHEN q.{made} IS NOT NULL THEN q.attempts END) AS sent, s.failures, s.streak, s.streak_of,
        s.since, s.cancelled, p.rank, p.turn
    FROM picked AS p
    JOIN provisioner.{requests} AS q ON q.id = p.id AND q.status = 'pending'
    LEFT JOIN provisioner.attempt_state AS s ON s.id = p.id
),
marked AS (
    INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at, fence)
    SELECT w.id, coalesce(w.attempt, 0) + 1, $5, $1, w.rank, w.project_id, clock_timestamp(), $7
    FROM wanted AS w
    RETURNING id, attempt, claimed_at
)
SELECT
    w.id, w.project_id::text, w.name, w.description, w.on_conflict, w.recorded_id::text, w.wanted, w.adopted, w.project_name,
    m.attempt, m.claimed_at, w.sent, w.failures, w.streak, w.streak_of, w.since, w.cancelled, w.rank, w.turn,
    -- :only connections
    w.credential
    -- :only rotations
    c.connection_id::text, w.environment, w.secret_path, w.secret_name, w.interval_days, w.rotate_at, w.key_name,
    w.spend_limit::float8, w.limit_reset, w.include_byok, w.with_secrets, w.revoke_keys, w.key_issued
    -- :all
FROM wanted AS w
JOIN marked AS m ON m.id = w.id
-- :only rotations
LEFT JOIN LATERAL (
    SELECT k.connection_id FROM provisioner.connection_requests AS k
    WHERE k.target = w.target AND k.project_id = w.project_id AND k.name = w.connection
    LIMIT 1
) AS c ON true
-- :all
ORDER BY w.rank, w.turn, w.id;

-- :name retried
-- The number of retried requests in line for target $1 at rank $2, counted up to $3. A claim of retried requests asks
-- for no more than that: with the end of their range as a condition, the planner assumes a small range, reads it whole
-- and sorts it.
SELECT count(*) AS requests
FROM (
    SELECT FROM provisioner.ready AS r
    WHERE r.target = $1 AND r.rank = $2 AND r.turn < 0
    ORDER BY r.target, r.rank, r.turn, r.id
    LIMIT $3
) AS t;

-- :name untangle
-- By some accident, one of the next $4 requests in line of target $1, from (rank, turn, id) = ($2, $3, $5) on, is in
-- flight already or in line twice: remove its extra places. Rows that others are claiming may be in between, so a
-- thousand more are read.
DELETE FROM provisioner.ready
WHERE ctid = ANY (ARRAY (
    SELECT r.ctid
    FROM (
        SELECT n.ctid, n.target, n.rank, n.turn, n.id FROM provisioner.ready AS n
        WHERE n.target = $1 AND (n.rank, n.turn, n.id) >= ($2, $3, $5)
        ORDER BY n.target, n.rank, n.turn, n.id
        LIMIT $4::bigint + 1000
    ) AS r
    WHERE
        EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = r.id)
        OR EXISTS (
            SELECT FROM provisioner.ready AS o
            WHERE o.id = r.id AND (o.target, o.rank, o.turn) < (r.target, r.rank, r.turn)
        )
));

-- :name release
-- Give back claims $2 of worker $1, made under the fences $3, for which nothing was sent: they return to the position
-- that the queue has reached. Those that were cancelled meanwhile get status $4, or $5 if an earlier attempt is in
-- doubt (`core/endings.py`).
WITH freed AS (
    DELETE FROM provisioner.in_flight AS f
    WHERE
        f.worker = $1 AND f.id = ANY ($2::bigint[]) AND f.fence = ANY ($3::bigint[])
        AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING
        f.id, f.target, f.rank, f.project_id, f.cancelled,
        CASE
            WHEN NOT f.cancelled THEN 'pending'
            WHEN EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = f.id) THEN $5::text
            ELSE $4::text
        END AS standing
),
remembered AS (
    UPDATE provisioner.attempt_state AS s SET cancelled = true FROM freed AS f
    WHERE s.id = f.id AND f.cancelled AND f.standing = 'pending'
),
ended AS (
    UPDATE provisioner.{requests} AS q
    SET
        -- :only connections
        credential = provisioner.wiped(q.credential),
        -- :all
        status = f.standing, finished_at = clock_timestamp()
    FROM freed AS f
    WHERE q.id = f.id AND f.standing <> 'pending'
    RETURNING q.id
)
INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
SELECT f.target, f.rank, CASE WHEN s.id IS NOT NULL THEN -1000000000000 ELSE coalesce(t.turn, 0) END, f.id, f.project_id
FROM freed AS f
LEFT JOIN provisioner.fair_cursors AS t ON t.target = f.target AND t.rank = f.rank
-- One by one, because a join may be planned as a scan of every request that was ever tried.
LEFT JOIN LATERAL (SELECT a.id FROM provisioner.attempt_state AS a WHERE a.id = f.id AND a.error_message IS NOT NULL LIMIT 1) AS s ON true
WHERE f.id NOT IN (SELECT e.id FROM ended AS e)
RETURNING id;

-- :name abandon
-- Claim $2 of worker $1, made under fence $3, cannot be given back: it was cancelled, and somebody's trigger prevents
-- recording that. No worker owns it then, so it is rescued, and looked up before its end is recorded or set aside.
UPDATE provisioner.in_flight AS f SET worker = 0 WHERE f.worker = $1 AND f.id = $2 AND f.fence = $3;

-- :name doubt
-- The creates of requests $1 whose outcome is not proven.
SELECT
    c.id, c.target, c.project_id::text, c.name, c.description, c.sent_at, c.ended_at, c.proof, c.exact, c.key_fingerprint
FROM unnest($1::bigint[]) AS claimed (id)
-- One by one: without statistics, a larger number of rows would be planned as a scan of the whole table.
CROSS JOIN LATERAL (SELECT s.* FROM provisioner.sent_creates AS s WHERE s.id = claimed.id LIMIT 1000) AS c;

-- :name edits
-- Edits of the requests $1 since their connections were recorded.
SELECT e.id, e.name, e.description, e.credential, e.adopted, e.others
FROM unnest($1::bigint[]) AS claimed (id)
CROSS JOIN LATERAL (SELECT w.* FROM provisioner.edits AS w WHERE w.id = claimed.id LIMIT 1) AS e;

-- :name lost
-- Claims of worker $1 for target $2 that it does not know: a claim was committed, but its answer was lost. $3 are the
-- claims that the worker does know; $4 is their minimum age.
SELECT f.id, f.fence
FROM provisioner.in_flight AS f
WHERE f.worker = $1 AND f.target = $2 AND NOT (f.id = ANY ($3::bigint[])) AND f.claimed_at <= clock_timestamp() - $4::interval;
