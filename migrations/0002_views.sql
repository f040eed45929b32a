-- What people look at: every request with its live state, and the progress of batches.
--
-- Views read with their owner's rights, whom row-level security lets through. So they choose the rows themselves, by the rule
-- of `0006_access.sql`: whoever may read the line sees every request, everybody else their own. They are barriers, for a
-- function in somebody's WHERE must not be shown what the rule leaves out.

-- The live state of a request. `flying` and `waits` are its id where it is in flight, or waits. Written so that it is inlined.
CREATE FUNCTION provisioner.live_state(status text, wanted text, connection uuid, flying bigint, waits bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN status <> 'pending' THEN status
        WHEN wanted = 'absent' THEN 'removing'
        WHEN connection IS NOT NULL THEN 'updating'
        WHEN flying IS NOT NULL THEN 'in_flight'
        WHEN waits IS NOT NULL THEN 'waiting'
        ELSE 'ready'
    END
$$;

CREATE VIEW provisioner.request_status WITH (security_barrier) AS
WITH line AS (
    SELECT
        r.id, row_number() OVER (PARTITION BY r.target ORDER BY r.rank, r.turn, r.id) AS queue_position
    FROM provisioner.ready AS r
)
SELECT
    q.id, q.target, q.project_id, q.name, q.batch, q.priority, q.requested_by, q.created_at,
    provisioner.live_state(q.status, q.wanted, q.connection_id, f.id, w.id) AS state,
    CASE WHEN q.status = 'pending' THEN coalesce(s.sent, q.attempts) ELSE q.attempts END AS attempts,
    q.connection_id, q.org_id, q.credentials_hash, q.adopted,
    CASE WHEN q.status = 'pending' THEN s.error_code ELSE q.error_code END AS error_code,
    CASE WHEN q.status = 'pending' THEN s.error_message ELSE q.error_message END AS error_message,
    w.run_at AS next_attempt_at,
    line.queue_position,
    q.finished_at,
    q.project_name,
    q.wanted,
    q.key_fingerprint
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id
LEFT JOIN line ON line.id = q.id
WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'));

COMMENT ON VIEW provisioner.request_status IS 'Every request with its live state and its place in the queue';

-- One row a batch, one (batch NULL, total false) for requests without a batch, one (total true) for everything. The end is
-- foreseen for each target from what its limiter allows, less what other clients of the same address were seen to use within
-- the last window, or, where there is none, from what its workers do lately; the slowest target decides. However much others
-- use, a quarter is ours.
CREATE VIEW provisioner.batch_progress WITH (security_barrier) AS
WITH states AS (
    SELECT
        q.batch, q.target, q.created_at, q.finished_at,
        CASE
            WHEN q.status <> 'pending' THEN q.status
            WHEN f.id IS NOT NULL THEN 'in_flight'
            WHEN w.id IS NOT NULL THEN 'waiting'
            ELSE 'ready'
        END AS state
    FROM provisioner.connection_requests AS q
    LEFT JOIN provisioner.in_flight AS f ON f.id = q.id AND q.status = 'pending'
    LEFT JOIN provisioner.waiting AS w ON w.id = q.id AND q.status = 'pending'
    WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'))
),
counted AS (
    SELECT
        batch, target, grouping(batch) = 1 AS total,
        count(*) AS requests,
        count(*) FILTER (WHERE state = 'waiting') AS waiting,
        count(*) FILTER (WHERE state = 'ready') AS ready,
        count(*) FILTER (WHERE state = 'in_flight') AS in_flight,
        count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE state = 'removed') AS removed,
        min(created_at) AS started_at,
        max(finished_at) AS last_finished_at
    FROM states
    GROUP BY GROUPING SETS ((batch, target), (target))
),
foreseen AS (
    SELECT
        c.*, c.waiting + c.ready + c.in_flight AS unfinished,
        (c.waiting + c.ready + c.in_flight) / nullif(
            coalesce(
                (
                    SELECT
                        greatest(
                            p.permits / p.period
                            - CASE WHEN p.seen_at > extract(EPOCH FROM now()) - p.period THEN p.their_pace ELSE 0 END,
                            p.permits / p.period / 4
                        )
                    FROM provisioner.permits AS p
                    WHERE p.target = c.target AND p.kind = 'write' AND p.metered
                ),
                (SELECT sum(k.pace) FROM provisioner.workers AS k WHERE k.lease_until > now() AND c.target = ANY (k.targets))
            ), 0
        ) AS seconds
    FROM counted AS c
)
SELECT
    f.batch, f.total, sum(f.requests)::bigint AS requests, sum(f.waiting)::bigint AS waiting, sum(f.ready)::bigint AS ready,
    sum(f.in_flight)::bigint AS in_flight, sum(f.succeeded)::bigint AS succeeded, sum(f.failed)::bigint AS failed,
    sum(f.cancelled)::bigint AS cancelled, min(f.started_at) AS started_at,
    CASE WHEN sum(f.unfinished) = 0 THEN max(f.last_finished_at) END AS ended_at,
    CASE
        WHEN sum(f.unfinished) > 0 AND bool_and(f.unfinished = 0 OR f.seconds IS NOT NULL)
            THEN now() + make_interval(secs => least(max(f.seconds), 1e9))
    END AS ends_at,
    sum(f.removed)::bigint AS removed
FROM foreseen AS f
GROUP BY f.batch, f.total
UNION ALL
SELECT NULL, true, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0
WHERE NOT EXISTS (
    SELECT FROM provisioner.connection_requests AS q
    WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'))
);

COMMENT ON VIEW provisioner.batch_progress IS 'How far each batch and everything together has come, and when it will end';
