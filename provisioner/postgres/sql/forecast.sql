-- The forecasts, which one worker renews for all: the facts it reads, and the results it writes.

-- :name turn
-- Take the turn, which comes again in $1. No row: it was not due, or another worker has it.
UPDATE provisioner.forecast_turn AS t
SET due_at = clock_timestamp() + $1::interval
WHERE t.ctid = ANY (ARRAY (
    SELECT o.ctid FROM provisioner.forecast_turn AS o WHERE o.due_at <= clock_timestamp() FOR UPDATE SKIP LOCKED
))
RETURNING t.due_at;

-- :name made
-- The computation took so long that the next one is not due before $1 from now.
UPDATE provisioner.forecast_turn
SET made_at = clock_timestamp(), due_at = greatest(due_at, clock_timestamp() + $1::interval);

-- :name lines
-- Each line with work left: what blocks it, its budget, an operator's limit, and the previous measurement. Rotations
-- share the budget of the connections if they have none of their own.
SELECT
    c.target, c.pending, c.ended,
    t.paused_at IS NOT NULL AS paused,
    (SELECT count(*) FROM provisioner.workers AS k WHERE k.lease_until > clock_timestamp() AND c.target = ANY (k.targets)) AS workers,
    EXISTS (
        SELECT FROM provisioner.present_incidents AS d WHERE d.target = c.target
    ) OR EXISTS (
        -- A stall: no calls end any more. After 150 s it is an outage instead.
        SELECT FROM provisioner.concurrency AS y
        WHERE y.target = c.target AND y.stalled_at > extract(EPOCH FROM clock_timestamp()) - 150
    ) AS troubled,
    t.writes_limit, t.writes_period,
    l.seen_at, l.ended AS ended_before, l.busy, l.seconds, l.permits AS allowed, l.got,
    extract(EPOCH FROM clock_timestamp())::double precision AS now,
    p.metered, p.permits, p.period, p.starts_at, p.ends_at, p.next_at, p.granted, p.answered, p.used, p.blocked_until,
    p.ended_at, p.late, p.theirs, p.their_pace, p.seen_at AS others_seen_at, p.searching, p.bare_since, p.address, p.slowed_until,
    p.configured
FROM (
    SELECT
        r.target, coalesce(sum(r.requests) FILTER (WHERE r.status = 'pending'), 0)::bigint AS pending,
        coalesce(sum(r.requests) FILTER (WHERE r.status IN ('succeeded', 'failed', 'removed')), 0)::bigint AS ended
    FROM provisioner.request_counts AS r
    GROUP BY r.target
) AS c
LEFT JOIN provisioner.targets AS t ON t.target = split_part(c.target, '/', 1)
LEFT JOIN provisioner.line_forecasts AS l ON l.target = c.target
LEFT JOIN LATERAL (
    SELECT b.* FROM provisioner.permits AS b
    WHERE b.kind = 'write' AND b.target IN (c.target, split_part(c.target, '/', 1))
    ORDER BY length(b.target) DESC
    LIMIT 1
) AS p ON true
WHERE c.pending > 0
ORDER BY c.target;

-- :name pending
-- The number of pending requests of each batch in each line, most recently begun first; at most $1. `moving` has what
-- blocks them.
SELECT
    c.target, coalesce(c.batch, '') AS batch, sum(c.requests)::bigint AS requests, max(c.newest) AS newest
FROM provisioner.request_counts AS c
WHERE c.status = 'pending'
GROUP BY c.target, coalesce(c.batch, '')
HAVING sum(c.requests) > 0
ORDER BY max(c.newest) DESC
LIMIT $1;

-- :name moving
-- The requests of each batch that are in flight or waiting, by reason: scheduled, retried, or held until somebody acts;
-- and when the first and the last of them are due, in seconds from now.
SELECT
    m.target, coalesce(q.batch, '') AS batch, m.kind, count(*) AS requests,
    coalesce(extract(EPOCH FROM min(m.run_at) - clock_timestamp()), 0)::double precision AS first,
    coalesce(extract(EPOCH FROM max(m.run_at) - clock_timestamp()), 0)::double precision AS last
FROM (
    SELECT f.id, f.target, 'in_flight' AS kind, NULL::timestamptz AS run_at FROM provisioner.in_flight AS f
    UNION ALL
    SELECT
        w.id, w.target,
        CASE
            WHEN w.quarantine IS NOT NULL THEN split_part(w.quarantine, ':', 1)
            WHEN EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id) THEN 'retried'
            ELSE 'scheduled'
        END,
        CASE WHEN isfinite(w.run_at) THEN w.run_at END
    FROM provisioner.waiting AS w
) AS m
-- One by one, because a join is planned as a scan of the wide table.
CROSS JOIN LATERAL (SELECT r.batch FROM provisioner.requests AS r WHERE r.id = m.id AND r.status = 'pending' LIMIT 1) AS q
GROUP BY m.target, coalesce(q.batch, ''), m.kind;

-- :name front
-- The number of requests of each batch among the first $2 of the lines $1, and the position of the last of them.
SELECT h.target, coalesce(q.batch, '') AS batch, count(*) AS requests, max(h.place) AS place
FROM unnest($1::text[]) AS l (target)
CROSS JOIN LATERAL (
    SELECT f.id, l.target, row_number() OVER (ORDER BY f.rank, f.turn, f.id) AS place
    FROM (
        SELECT r.id, r.rank, r.turn FROM provisioner.ready AS r
        WHERE r.target = l.target
        ORDER BY r.target, r.rank, r.turn, r.id
        LIMIT $2
    ) AS f
) AS h
-- One by one, because a join is planned as a scan of the wide table.
CROSS JOIN LATERAL (SELECT r.batch FROM provisioner.requests AS r WHERE r.id = h.id LIMIT 1) AS q
GROUP BY h.target, coalesce(q.batch, '');

-- :name edge
-- The request at position $2 of each of the lines $1.
SELECT l.target, e.rank, e.turn, e.id
FROM unnest($1::text[]) AS l (target)
CROSS JOIN LATERAL (
    SELECT r.rank, r.turn, r.id FROM provisioner.ready AS r
    WHERE r.target = l.target
    ORDER BY r.target, r.rank, r.turn, r.id
    OFFSET $2::bigint - 1
    LIMIT 1
) AS e;

-- :name sample
-- About $1 requests in line, chosen at random, whatever the line's length: pages of the table's file are drawn, and the
-- rows on them are used. A page contains at most 120 of them.
SELECT r.target, r.rank, r.turn, r.id, coalesce(q.batch, '') AS batch
FROM provisioner.ready AS r
-- One by one, because a join is planned as a scan of the wide table.
CROSS JOIN LATERAL (SELECT w.batch FROM provisioner.requests AS w WHERE w.id = r.id LIMIT 1) AS q
WHERE r.ctid = ANY (ARRAY (
    SELECT ('(' || floor(random() * s.pages)::bigint || ',' || 1 + floor(random() * 120)::integer || ')')::tid
    FROM (SELECT greatest(pg_relation_size('provisioner.ready') / 8192, 1) AS pages) AS s
    CROSS JOIN generate_series(1, $1::integer)
));

-- :name newest
-- The positions of the requests $1 in line; those not in line are left out.
SELECT r.id, r.rank, r.turn FROM provisioner.ready AS r WHERE r.id = ANY ($1::bigint[]);

-- :name write_lines
-- Store each line's measurement, and the forecast for everything left in it.
INSERT INTO provisioner.line_forecasts AS l (
    target, seen_at, ended, busy, seconds, permits, got, pace, ends_at, ends_why, urgency
)
SELECT
    g.target, g.seen_at, g.ended, g.busy, g.seconds, g.permits, g.got, g.pace,
    clock_timestamp() + make_interval(secs => g.ends_in), g.ends_why, g.urgency
FROM unnest(
    $1::text[], $2::float8[], $3::bigint[], $4::boolean[], $5::float8[], $6::float8[], $7::float8[], $8::float8[], $9::float8[],
    $10::text[], $11::smallint[]
) AS g (target, seen_at, ended, busy, seconds, permits, got, pace, ends_in, ends_why, urgency)
ON CONFLICT (target) DO UPDATE SET
    seen_at = excluded.seen_at, ended = excluded.ended, busy = excluded.busy, seconds = excluded.seconds,
    permits = excluded.permits, got = excluded.got, pace = excluded.pace, ends_at = excluded.ends_at, ends_why = excluded.ends_why,
    urgency = excluded.urgency;

-- :name write
-- Store each batch's forecast if it has changed: a hundredth of the remaining time makes no difference.
INSERT INTO provisioner.forecasts AS f (target, batch, ends_at, ends_why, urgency)
SELECT g.target, g.batch, clock_timestamp() + make_interval(secs => g.ends_in), g.ends_why, g.urgency
FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::smallint[]) AS g (target, batch, ends_in, ends_why, urgency)
ON CONFLICT (target, batch) DO UPDATE
SET ends_at = excluded.ends_at, ends_why = excluded.ends_why, urgency = excluded.urgency
WHERE
    f.ends_why IS DISTINCT FROM excluded.ends_why
    OR abs(extract(EPOCH FROM f.ends_at - excluded.ends_at)) > 0.01 * extract(EPOCH FROM excluded.ends_at - clock_timestamp());

-- :name forget
-- Forget batches of which nothing is left: all except the batches $2 of the lines $1.
WITH idle AS (
    UPDATE provisioner.line_forecasts AS l SET busy = false, ends_at = NULL, ends_why = NULL
    WHERE l.target <> ALL ($1::text[]) AND (l.busy OR l.ends_at IS NOT NULL OR l.ends_why IS NOT NULL)
)
DELETE FROM provisioner.forecasts AS f
WHERE NOT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[]) AS k (target, batch) WHERE k.target = f.target AND k.batch = f.batch
);
