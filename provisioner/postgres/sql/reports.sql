-- The contents of `status`. Without a batch ($1 is NULL) they cover everything.

-- :part shown
-- What is shown of each.
SELECT
    p.batch, p.total, p.requests, p.waiting, p.ready, p.in_flight, p.succeeded, p.failed, p.cancelled, p.removed, p.started_at,
    p.ended_at, p.ends_at, p.ends_why, p.retrying, p.quarantined, p.updating, p.removing, count(*) OVER () AS found

-- :part page
-- The total, or batch $1 alone; then at most $2 batches, those with work left first, and then the latest first.
    AND ($1::text IS NULL OR (NOT p.total AND p.batch = $1))
ORDER BY p.total DESC, p.ended_at IS NOT NULL, p.started_at DESC, p.batch
LIMIT $2

-- :name progress
-- The progress of target $3 with all its lines, or of everything.
{shown}
FROM provisioner.progress AS p
WHERE p.target IS NOT DISTINCT FROM $3::text
{page};

-- :name progress_of_line
-- The progress of line $3 alone, such as `TARGET/rotations`.
{shown}
FROM provisioner.target_progress AS p
WHERE p.target = $3
{page};

-- :name targets
-- Each target with its pending work, its limiter's and operators' limits, and the number of workers that serve it. A
-- cliff is shown only if it is remembered for $2 seconds; otherwise it is only suspected.
WITH counted AS (
    SELECT c.target, sum(c.requests)::bigint AS pending
    FROM provisioner.request_counts AS c
    WHERE c.status = 'pending' AND ($1::text IS NULL OR c.batch = $1)
    GROUP BY c.target
),
served AS (
    SELECT s.target, count(*) AS workers
    FROM provisioner.workers AS w
    CROSS JOIN LATERAL unnest(w.targets) AS s (target)
    WHERE w.lease_until > clock_timestamp()
    GROUP BY s.target
),
troubled AS (
    SELECT t.target, count(*) AS workers, min(t.since) AS since, (array_agg(t.reason ORDER BY t.reported_at DESC))[1] AS reason
    FROM provisioner.present_incidents AS t
    GROUP BY t.target
),
limits AS (
    SELECT p.* FROM provisioner.permits AS p WHERE p.kind = 'write'
),
known AS (
    SELECT c.target FROM counted AS c
    UNION SELECT s.target FROM served AS s
    UNION SELECT p.target FROM limits AS p
    UNION SELECT t.target FROM provisioner.targets AS t
    UNION SELECT d.target FROM troubled AS d
),
stalled AS (
    SELECT
        c.target, c.in_flight_limit, to_timestamp(c.cliff_at) AS cliff_at, to_timestamp(c.stalled_at) AS stalled_at,
        CASE WHEN c.memory >= $2 THEN c.cliff END AS cliff
    FROM provisioner.concurrency AS c
)
SELECT
    k.target,
    coalesce(c.pending, 0) AS pending, coalesce(s.workers, 0) AS workers,
    p.metered, p.permits, p.period,
    CASE WHEN p.seen_at > extract(EPOCH FROM clock_timestamp()) - p.period THEN p.their_pace ELSE 0 END AS others,
    CASE
        WHEN p.blocked_until > extract(EPOCH FROM clock_timestamp()) THEN to_timestamp(p.blocked_until)
    END AS blocked_until,
    coalesce(p.configured, false) AS configured, t.writes_limit AS allowed_writes, t.writes_period AS allowed_period,
    t.in_flight_limit AS allowed_in_flight, t.limited_at, t.limited_by,
    t.paused_at, t.paused_by, d.reason AS trouble, d.since AS trouble_since, coalesce(d.workers, 0) AS troubled,
    f.in_flight_limit, f.cliff, CASE WHEN f.cliff IS NOT NULL THEN f.cliff_at END AS cliff_at, f.stalled_at,
    (SELECT l.pace FROM provisioner.line_forecasts AS l WHERE l.target = k.target AND l.seen_at > extract(EPOCH FROM clock_timestamp()) - 60) AS pace
FROM known AS k
LEFT JOIN counted AS c ON c.target = k.target
LEFT JOIN served AS s ON s.target = k.target
LEFT JOIN limits AS p ON p.target = k.target
LEFT JOIN provisioner.targets AS t ON t.target = k.target
LEFT JOIN troubled AS d ON d.target = k.target
LEFT JOIN stalled AS f ON f.target = k.target
ORDER BY k.target;

-- :name ends
-- The seconds until everything at each target ends, if there is a forecast.
SELECT l.target, greatest(extract(EPOCH FROM l.ends_at - clock_timestamp()), 0)::float8 AS seconds
FROM provisioner.line_forecasts AS l
CROSS JOIN provisioner.forecast_turn AS t
WHERE l.ends_at IS NOT NULL AND t.due_at > clock_timestamp() - interval '15 seconds'
ORDER BY l.target;

-- :name workers
-- The number of live workers, of lost workers, and the recent creates a second.
SELECT
    count(*) FILTER (WHERE w.lease_until > clock_timestamp()) AS living,
    count(*) FILTER (WHERE w.lease_until <= clock_timestamp()) AS lost,
    coalesce(sum(w.pace) FILTER (WHERE w.lease_until > clock_timestamp()), 0) AS pace
FROM provisioner.workers AS w;

-- :name crew
-- The individual workers: their heartbeats, and their claims in flight.
SELECT
    w.id, w.name, w.version, w.targets, w.started_at, w.seen_at, w.lease_until > clock_timestamp() AS alive, w.stopping,
    w.created, w.pace, coalesce(f.requests, 0) AS in_flight
FROM provisioner.workers AS w
LEFT JOIN (SELECT i.worker, count(*) AS requests FROM provisioner.{own}in_flight AS i GROUP BY i.worker) AS f ON f.worker = w.id
ORDER BY w.id
LIMIT 200;

-- :name lines
-- The number of pending requests of each target by state, and since when the oldest waits. What is in line is the rest
-- of the pending requests, and the oldest in line has the smallest id: counting the line, or comparing all its times,
-- would read all of it. Only if there are updates or removals at all is each moving request checked for that.
WITH pending AS (
    SELECT c.target, c.counted_as, sum(c.requests)::bigint AS requests
    FROM provisioner.request_counts AS c
    WHERE c.status = 'pending'
    GROUP BY c.target, c.counted_as
),
moving AS (
    SELECT m.target, m.state, count(*) AS requests, m.counted_as, min(m.claimed_at) AS since
    FROM (
        SELECT
            k.target, k.claimed_at, c.counted_as,
            CASE
                WHEN k.quarantine LIKE '%:%' THEN 'quarantined'
                WHEN k.error_message IS NOT NULL AND NOT k.cancelled THEN 'retrying'
                WHEN c.counted_as <> 'pending' THEN c.counted_as
                WHEN k.claimed_at IS NOT NULL THEN 'in_flight'
                ELSE 'waiting'
            END AS state
        FROM (
            SELECT f.id, f.target, f.claimed_at, NULL AS quarantine, NULL AS error_message, false AS cancelled
            FROM provisioner.{own}in_flight AS f
            UNION ALL
            SELECT w.id, w.target, NULL, w.quarantine, s.error_message, s.cancelled
            FROM provisioner.{own}waiting AS w
            LEFT JOIN provisioner.{own}attempt_state AS s ON s.id = w.id
        ) AS k
        CROSS JOIN LATERAL (
            SELECT
                CASE
                    WHEN (SELECT count(*) FILTER (WHERE p.counted_as <> 'pending') FROM pending AS p) = 0 THEN 'pending'
                    ELSE (SELECT q.counted_as FROM provisioner.{own}requests AS q WHERE q.id = k.id)
                END AS counted_as
        ) AS c
    ) AS m
    GROUP BY m.target, m.state, m.counted_as
),
-- Updates and removals are shown as such wherever they are, unless they are retried or quarantined.
told AS (
    SELECT m.target, m.state, m.requests, m.since FROM moving AS m WHERE m.state NOT IN ('updating', 'removing')
    UNION ALL
    SELECT p.target, CASE p.counted_as WHEN 'pending' THEN 'ready' ELSE p.counted_as END, p.requests, NULL FROM pending AS p
    UNION ALL
    SELECT m.target, CASE m.counted_as WHEN 'pending' THEN 'ready' ELSE m.counted_as END, -m.requests, NULL
    FROM moving AS m
    WHERE m.state NOT IN ('updating', 'removing')
),
summed AS (
    SELECT t.target, t.state, sum(t.requests)::bigint AS requests, min(t.since) AS since
    FROM told AS t
    GROUP BY t.target, t.state
    HAVING sum(t.requests) > 0
)
SELECT
    s.target, s.state, s.requests,
    CASE s.state
        WHEN 'in_flight' THEN extract(EPOCH FROM clock_timestamp() - s.since)::float8
        WHEN 'ready' THEN (
            SELECT
                CASE
                    WHEN isfinite(greatest(q.created_at, q.not_before))
                        THEN extract(EPOCH FROM clock_timestamp() - greatest(q.created_at, q.not_before))::float8
                END
            FROM provisioner.connection_requests AS q
            WHERE q.id = (SELECT r.id FROM provisioner.{own}ready AS r WHERE r.target = s.target ORDER BY r.id LIMIT 1)
        )
    END AS oldest
FROM summed AS s;

-- :name budgets
-- The budgets that all workers share. A window that is over counts as unused.
SELECT
    p.target, p.kind, p.metered, p.permits, p.period, p.configured,
    CASE
        WHEN coalesce(p.ends_at, p.starts_at + p.period) > extract(EPOCH FROM clock_timestamp()) THEN p.used ELSE 0
    END AS used,
    greatest(p.blocked_until - extract(EPOCH FROM clock_timestamp()), 0)::float8 AS blocked
FROM provisioner.permits AS p
ORDER BY p.target, p.kind;

-- :name limits
-- The operators' limits, and who set them.
SELECT t.target, t.writes_limit AS writes, t.writes_period AS period, t.in_flight_limit AS in_flight, t.limited_by AS by
FROM provisioner.targets AS t
WHERE t.limited_at IS NOT NULL
ORDER BY t.target;

-- :name concurrency
-- The limit on creates in flight at each target, and the number that stopped its server, if that is proven: a proven
-- cliff is remembered for $1 seconds.
SELECT c.target, c.in_flight_limit, CASE WHEN c.memory >= $1 THEN c.cliff END AS cliff, c.stalled_at IS NOT NULL AS stalled
FROM provisioner.concurrency AS c
ORDER BY c.target;

-- :name failures
-- Failed requests by error code; the newest of each is the example, or if it has been retried meanwhile, the newest
-- whose attempts are still known.
SELECT g.error_code, g.requests, e.id AS example_id, e.error_message AS example, g.newest_at
FROM (
    SELECT
        coalesce(c.error_code, '') AS error_code, sum(c.requests)::bigint AS requests, max(c.newest) AS newest,
        max(c.ended_at) AS newest_at
    FROM provisioner.request_counts AS c
    WHERE
        c.status = 'failed' AND ($1::text IS NULL OR c.batch = $1)
        AND ($2::text IS NULL OR $2 IN (c.target, split_part(c.target, '/', 1)))
    GROUP BY coalesce(c.error_code, '')
) AS g
LEFT JOIN LATERAL (
    (
        SELECT q.id, q.error_message
        FROM provisioner.{own}requests AS q
        WHERE q.id = g.newest AND q.status = 'failed' AND coalesce(q.error_code, '') = g.error_code
    )
    UNION ALL
    (
        SELECT q.id, q.error_message
        FROM provisioner.{own}attempt_state AS s
        JOIN provisioner.{own}requests AS q ON q.id = s.id
        WHERE
            q.status = 'failed' AND coalesce(q.error_code, '') = g.error_code
            AND ($1::text IS NULL OR q.batch = $1) AND ($2::text IS NULL OR $2 IN (q.target, split_part(q.target, '/', 1)))
        ORDER BY s.id DESC
        LIMIT 1
    )
    LIMIT 1
) AS e ON true
ORDER BY g.requests DESC, g.error_code;

-- :name leftovers
-- What is left of the targets $1 when `run --drain` ends, by what blocks it: `kind`, the subject, and how many.
WITH pending AS (
    SELECT
        CASE
            WHEN t.paused_at IS NOT NULL THEN 'paused'
            WHEN w.quarantine LIKE 'credential:%' THEN 'quarantined'
            WHEN w.quarantine LIKE 'project:%' THEN 'outside'
            WHEN w.run_at > now() AND NOT EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id)
                THEN 'scheduled'
            ELSE 'unfinished'
        END AS kind,
        w.target, w.quarantine, 1 AS requests
    FROM provisioner.waiting AS w
    LEFT JOIN provisioner.targets AS t ON t.target = w.target
    WHERE w.target = ANY ($1::text[])
    UNION ALL
    SELECT CASE WHEN f.worker = 0 THEN 'unrecorded' ELSE 'unfinished' END, f.target, NULL, 1
    FROM provisioner.in_flight AS f
    WHERE f.target = ANY ($1::text[])
    UNION ALL
    -- All other pending requests are in line; the line itself is not counted.
    SELECT CASE WHEN t.paused_at IS NOT NULL THEN 'paused' ELSE 'unfinished' END, l.target, NULL, l.requests
    FROM (
        SELECT c.target, c.requests FROM provisioner.request_counts AS c WHERE c.status = 'pending'
        UNION ALL
        SELECT w.target, -count(*) FROM provisioner.waiting AS w GROUP BY w.target
        UNION ALL
        SELECT f.target, -count(*) FROM provisioner.in_flight AS f GROUP BY f.target
    ) AS l
    LEFT JOIN provisioner.targets AS t ON t.target = l.target
    WHERE l.target = ANY ($1::text[])
),
ended AS (
    SELECT c.status AS kind, coalesce(c.error_code, '') AS whose, c.requests
    FROM provisioner.request_counts AS c
    WHERE c.target = ANY ($1::text[]) AND c.status IN ('succeeded', 'failed', 'removed')
)
SELECT
    p.kind,
    CASE WHEN p.kind IN ('paused', 'outside') THEN p.target WHEN p.kind = 'quarantined' THEN substr(p.quarantine, 12) ELSE '' END AS whose,
    sum(p.requests)::bigint AS requests
FROM pending AS p
GROUP BY 1, 2
HAVING sum(p.requests) > 0
UNION ALL
SELECT e.kind, e.whose, sum(e.requests)::bigint FROM ended AS e GROUP BY 1, 2 HAVING sum(e.requests) > 0
ORDER BY 3 DESC, 1, 2;

-- :name now
-- The present time.
SELECT clock_timestamp();

-- :name outside
-- Projects in which the machine identity may not create, by target, and the number of requests that wait for them.
SELECT
    o.target, count(DISTINCT o.project_id) AS projects, count(*) AS requests,
    (array_agg(coalesce(o.project_name, o.project_id::text) ORDER BY o.since, o.project_id))[1] AS example,
    (array_agg(o.reason ORDER BY o.since, o.project_id))[1] AS reason
FROM (
    SELECT h.target, h.project_id, q.project_name, h.since, h.reason
    FROM provisioner.{own}project_health AS h
    JOIN provisioner.{own}waiting AS w ON w.target = h.target AND w.quarantine = 'project:' || h.project_id
    JOIN provisioner.connection_requests AS q ON q.id = w.id
    WHERE $1::text IS NULL OR q.batch = $1
) AS o
GROUP BY o.target
ORDER BY o.target;

-- :name unrecorded
-- Outcomes that the database does not record: how many, and the longest-standing one.
SELECT count(*) AS requests, (array_agg(u.id ORDER BY u.since))[1] AS example_id, (array_agg(u.reason ORDER BY u.since))[1] AS example
FROM provisioner.{own}unrecorded AS u
WHERE
    $1::text IS NULL
    OR EXISTS (SELECT FROM provisioner.connection_requests AS q WHERE q.id = u.id AND q.batch = $1);

-- :name history
-- The minutes of the last $1 and the hours of the last $2, over all targets.
SELECT
    h.span, h.at, sum(h.succeeded)::bigint AS succeeded, sum(h.failed)::bigint AS failed, sum(h.retried)::bigint AS retried
FROM provisioner.history AS h
WHERE
    h.span = 60 AND h.at > clock_timestamp() - $1::interval
    OR h.span = 3600 AND h.at > clock_timestamp() - $2::interval
GROUP BY h.span, h.at
ORDER BY h.span, h.at;

-- :name retries
-- Retried and quarantined requests by reason: since when, when the next attempt is due, and an example, if known. A
-- request that was taken out of the line for a quarantine was never tried, and has the quarantine's own reason. All
-- projects of a target that are quarantined for the same reason count as one cause. Only waiting requests are read.
WITH stuck AS (
    SELECT
        w.id, w.target, w.run_at, s.since, s.error_message IS NULL AS is_silent,
        CASE WHEN w.quarantine LIKE 'project:%' THEN 'project' WHEN w.quarantine LIKE '%:%' THEN w.quarantine END AS quarantine,
        coalesce(s.error_code, provisioner.quarantine_code(w.quarantine), '') AS error_code
    FROM provisioner.{own}waiting AS w
    LEFT JOIN provisioner.{own}attempt_state AS s ON s.id = w.id
    WHERE
        (w.quarantine LIKE '%:%' OR (s.error_message IS NOT NULL AND NOT s.cancelled))
        -- Every waiting request is pending, so that need not be checked.
        AND ($1::text IS NULL OR EXISTS (SELECT FROM provisioner.{own}requests AS q WHERE q.id = w.id AND q.batch = $1))
),
causes AS (
    SELECT
        k.target, k.error_code, k.quarantine, count(*) AS requests, min(k.since) AS since, min(k.run_at) AS next_at,
        min(k.id) AS example_id, min(k.id) FILTER (WHERE NOT k.is_silent) AS telling
    FROM stuck AS k
    GROUP BY k.target, k.error_code, k.quarantine
)
SELECT
    c.target, c.error_code, c.quarantine, c.requests, coalesce(h.since, c.since) AS since, coalesce(h.next_at, c.next_at) AS next_at,
    c.example_id,
    coalesce((SELECT s.error_message FROM provisioner.{own}attempt_state AS s WHERE s.id = c.telling), h.reason) AS example
FROM causes AS c
LEFT JOIN LATERAL (
    SELECT min(k.quarantined_since) AS since, min(k.probe_at) AS next_at, min(k.reason) AS reason
    FROM provisioner.{own}credential_health AS k
    WHERE k.target = c.target AND c.quarantine = 'credential:' || k.credential AND k.quarantined_since IS NOT NULL
    UNION ALL
    SELECT min(p.since), min(p.probe_at), min(p.reason)
    FROM provisioner.{own}project_health AS p
    WHERE p.target = c.target AND c.quarantine = 'project'
    ORDER BY 1
    LIMIT 1
) AS h ON c.quarantine IS NOT NULL
ORDER BY c.requests DESC, c.target, c.error_code
LIMIT 50;

-- :name keys
-- Keys that OpenRouter refuses: since when, why, when the next probe is due, and how many requests wait for them.
SELECT k.target, k.credential, k.since, k.reason, k.next_probe_at, k.requests
FROM provisioner.{own}quarantined_credentials AS k
ORDER BY k.requests DESC, k.since
LIMIT 50;

-- :name left_behind
-- The number of rotations per target that may have left keys behind at OpenRouter. A partial index contains only those.
SELECT r.target, count(*) AS rotations
FROM provisioner.rotation_requests AS r
WHERE r.left_behind IS NOT NULL AND ($1::text IS NULL OR r.batch = $1)
GROUP BY r.target
ORDER BY r.target;

-- :name drifted
-- The number of recorded connections and rotations per line that differ from what was recorded, if they are still
-- recorded.
SELECT d.target, count(*) AS requests, d.target LIKE '%/rotations' AS are_rotations
FROM provisioner.{own}drifts AS d
WHERE
    d.drift IS NOT NULL
    AND EXISTS (
        SELECT FROM provisioner.{own}requests AS q
        WHERE q.id = d.id AND q.status = 'succeeded' AND d.seen_at > q.finished_at AND ($1::text IS NULL OR q.batch = $1)
    )
GROUP BY d.target
ORDER BY d.target;
