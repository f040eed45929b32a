-- Everything about one request.

-- :name standing
-- The situation of request $1, of any kind: its position in line, what it waits for, and what blocks it. The position
-- only counts the requests before it. Its line is also the name that workers serve, whereas a person pauses the target
-- with all of its lines.
WITH its AS (
    SELECT r.target, r.rank, r.turn, r.id FROM provisioner.{own}ready AS r WHERE r.id = $1
)
SELECT
    clock_timestamp() AS now,
    EXISTS (SELECT FROM provisioner.{own}sent_creates AS e WHERE e.id = q.id) AS unknown,
    coalesce(s.cancelled, false) OR coalesce(f.cancelled, false) AS cancel_requested,
    coalesce(s.failures, 0) AS failures,
    w.quarantine,
    f.claimed_at, k.name AS worker,
    u.reason AS unrecorded, u.connection_id AS unrecorded_connection, u.retry_at AS recorded_again_at,
    (
        SELECT nullif(count(*), 0)
        FROM its AS m
        JOIN provisioner.{own}ready AS r ON r.target = m.target AND (r.rank, r.turn, r.id) <= (m.rank, m.turn, m.id)
        WHERE q.status = 'pending'
    ) AS place,
    (
        SELECT count(*) FROM provisioner.workers AS k
        WHERE k.lease_until > clock_timestamp() AND q.target = ANY (k.targets)
    ) AS workers,
    (SELECT l.pace FROM provisioner.line_forecasts AS l WHERE l.target = q.target) AS pace,
    t.paused_at, t.paused_by,
    (
        SELECT d.reason FROM provisioner.present_incidents AS d
        WHERE d.target = q.target
        ORDER BY d.reported_at DESC
        LIMIT 1
    ) AS trouble
FROM provisioner.{own}requests AS q
LEFT JOIN provisioner.{own}in_flight AS f ON f.id = q.id AND q.status = 'pending'
LEFT JOIN provisioner.workers AS k ON k.id = f.worker
LEFT JOIN provisioner.{own}unrecorded AS u ON u.id = f.id AND u.fence = f.fence
LEFT JOIN provisioner.{own}waiting AS w ON w.id = q.id AND q.status = 'pending'
LEFT JOIN provisioner.{own}attempt_state AS s ON s.id = q.id
LEFT JOIN provisioner.targets AS t ON t.target = split_part(q.target, '/', 1)
WHERE q.id = $1;

-- :name place
-- The position of our own request $1 in line; NULL beyond the first thousand.
SELECT s.queue_position AS place FROM provisioner.request_status AS s WHERE s.id = $1;

-- :name awaited
-- The request of the connection that rotation $1 needs. No row: there is none.
SELECT q.id AS awaited_id, q.status AS awaited_status
FROM provisioner.rotation_requests AS r
JOIN provisioner.connection_requests AS q ON q.target = r.target AND q.project_id = r.project_id AND q.name = r.connection
WHERE r.id = $1;

-- :name attempts
-- The latest $2 stored calls for request $1, oldest first, and how many there are. Calls that ended before the request
-- was created belong to another request that had its id before a TRUNCATE … RESTART IDENTITY.
WITH latest AS (
    SELECT a.*, count(*) OVER () AS found
    FROM provisioner.{own}attempts AS a
    JOIN provisioner.{own}requests AS q ON q.id = a.request_id
    WHERE a.request_id = $1 AND (a.ended_at >= q.created_at OR q.created_at > clock_timestamp())
    ORDER BY a.ended_at DESC, a.started_at DESC
    LIMIT $2
)
SELECT
    l.attempt, l.worker, l.action, l.started_at, l.ended_at, l.http_status, l.req_id, l.outcome, l.error_code, l.error_message,
    l.found
FROM latest AS l
ORDER BY l.ended_at, l.started_at;

-- :name drift
-- How what request $1 recorded differs from Infisical, and when it was last compared.
SELECT s.drift, s.verified_at FROM provisioner.request_status AS s WHERE s.id = $1
UNION ALL
SELECT r.drift, r.verified_at FROM provisioner.rotation_status AS r WHERE r.id = $1;
