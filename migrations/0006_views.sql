-- What people look at: every request with its live state, how many there are, and the progress of batches.
--
-- Views read with their owner's rights, whom row-level security lets through. So they choose the rows themselves, by the rule
-- of `0007_access.sql`: who may read the line sees every request, everybody else their own. They are barriers, for a
-- function in somebody's WHERE must not be shown what the rule leaves out.

-- The live state of a request. `recorded` is what was made for it, `flying` and `waits` are its id where it is in flight, or waits;
-- `quarantine` is why it waits together with others, `said` why its last attempt came to nothing, `cancelled` that nobody attempts it
-- again. What keeps it from going on says more than what is to be done, so that comes first. A quarantine is `credential:…` or
-- `project:…`; what only waits for another request, such as a rotation for its connection, is not quarantined. Written so that it is
-- inlined.
CREATE FUNCTION provisioner.live_state(
    status text, wanted text, recorded uuid, flying bigint, waits bigint, quarantine text, said text, cancelled boolean
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN status <> 'pending' THEN status
        WHEN waits IS NOT NULL AND quarantine LIKE '%:%' THEN 'quarantined'
        WHEN waits IS NOT NULL AND said IS NOT NULL AND NOT cancelled THEN 'retrying'
        WHEN wanted = 'absent' THEN 'removing'
        WHEN recorded IS NOT NULL THEN 'updating'
        WHEN flying IS NOT NULL THEN 'in_flight'
        WHEN waits IS NOT NULL THEN 'waiting'
        ELSE 'ready'
    END
$$;

-- Every request as listings show it: with its live state, with what is known of its attempts while it is pending, and of a sealed
-- credential with its key's id alone. Other views and queries are made of it; what they do not ask for is not looked up. It chooses no
-- rows, so it is for those who may see all.
CREATE VIEW provisioner.listed_requests AS
SELECT
    q.id, q.target, q.project_id, q.name, q.description,
    CASE WHEN q.credential LIKE 'sealed:%' THEN 'sealed:' || split_part(q.credential, ':', 2) ELSE q.credential END AS credential,
    CASE
        WHEN q.credential LIKE 'sealed:%' AND q.credential NOT LIKE '%:wiped' THEN split_part(q.credential, ':', 2)
    END AS sealed_by,
    q.on_conflict, q.priority, q.batch, q.project_name, q.wanted, q.not_before, q.requested_by, q.created_at, q.status,
    provisioner.live_state(
        q.status, q.wanted, q.connection_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled
    ) AS state,
    CASE WHEN q.status = 'pending' THEN coalesce(s.sent, q.attempts) ELSE q.attempts END AS attempts,
    q.connection_id, q.org_id, q.credentials_hash, q.adopted, q.key_fingerprint,
    CASE WHEN q.status = 'pending' THEN s.error_code ELSE q.error_code END AS error_code,
    CASE WHEN q.status = 'pending' THEN s.error_message ELSE q.error_message END AS error_message,
    w.run_at AS next_attempt_at, q.finished_at
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id;

COMMENT ON VIEW provisioner.listed_requests IS 'Every request with its live state; of a sealed credential only its key''s id';
COMMENT ON COLUMN provisioner.listed_requests.sealed_by IS 'The key that still seals it; NULL when there is no box (any more)';

-- The first thousand requests of each target's line have a place: to number a line of a million takes a second, even to show one
-- row. The places are looked up in one object that is made once a statement, and only if somebody asks for the column: a join
-- would change the plans of everybody else. Targets are found by jumping from one to the next in the index: there are few.
CREATE VIEW provisioner.request_status WITH (security_barrier) AS
SELECT
    q.id, q.target, q.project_id, q.name, q.batch, q.priority, q.requested_by, q.created_at,
    q.state, q.attempts, q.connection_id, q.org_id, q.credentials_hash, q.adopted, q.error_code, q.error_message, q.next_attempt_at,
    CASE
        WHEN q.status = 'pending' THEN ((
            WITH RECURSIVE lines AS (
                (SELECT r.target FROM provisioner.ready AS r ORDER BY r.target LIMIT 1)
                UNION ALL
                SELECT (SELECT r.target FROM provisioner.ready AS r WHERE r.target > l.target ORDER BY r.target LIMIT 1)
                FROM lines AS l
                WHERE l.target IS NOT NULL
            )
            SELECT jsonb_object_agg(h.id, h.place)
            FROM lines AS l
            CROSS JOIN LATERAL (
                SELECT r.id, row_number() OVER (ORDER BY r.rank, r.turn, r.id) AS place
                FROM provisioner.ready AS r
                WHERE r.target = l.target
                ORDER BY r.rank, r.turn, r.id
                LIMIT 1000
            ) AS h
        ) ->> q.id::text)::bigint
    END AS queue_position,
    q.finished_at,
    q.project_name,
    q.wanted,
    q.key_fingerprint,
    CASE WHEN q.status = 'succeeded' AND d.seen_at > q.finished_at THEN d.drift END AS drift,
    CASE
        -- What was recorded while a round was under way may have been behind it already: the next one sees it.
        WHEN q.status <> 'succeeded' OR d.unread THEN NULL
        WHEN q.finished_at < v.started_at AND (v.finished_at IS NOT NULL OR (q.project_id, q.name) <= (v.project_id, v.name)) THEN v.started_at
        WHEN q.finished_at < v.previous_at THEN v.previous_at
    END AS verified_at
FROM provisioner.listed_requests AS q
LEFT JOIN provisioner.drifts AS d ON d.id = q.id
LEFT JOIN provisioner.verify_rounds AS v ON v.target = q.target
WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'));

COMMENT ON VIEW provisioner.request_status IS 'Every request with its live state';
COMMENT ON COLUMN provisioner.request_status.drift IS 'How its connection differs from what was recorded, as standing verification found';
COMMENT ON COLUMN provisioner.request_status.verified_at IS 'When it was compared last, at the earliest: that round began then';
COMMENT ON COLUMN provisioner.request_status.queue_position IS 'Its place in the line of its target; NULL behind the first thousand';

-- Who may read the line sees all, everybody else what they asked for themselves: the rule of `0007_access.sql`.
CREATE VIEW provisioner.request_counts WITH (security_barrier) AS
SELECT
    c.target, nullif(c.batch, '') AS batch, nullif(c.requested_by, '') AS requested_by,
    CASE WHEN c.status IN ('updating', 'removing') THEN 'pending' ELSE c.status END AS status,
    nullif(c.error_code, '') AS error_code, sum(c.requests)::bigint AS requests, min(c.started_at) AS started_at,
    max(c.ended_at) AS ended_at, max(c.newest) AS newest, c.status AS counted_as
FROM (
    SELECT k.* FROM provisioner.counts AS k WHERE k.requests <> 0
    UNION ALL
    SELECT
        h.target, h.batch, h.requested_by, h.status, h.error_code, h.requests, h.started_at, h.ended_at, h.newest
    FROM provisioner.count_changes AS h
) AS c
WHERE c.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'))
GROUP BY c.target, c.batch, c.requested_by, c.status, c.error_code
HAVING sum(c.requests) <> 0;

COMMENT ON VIEW provisioner.request_counts IS 'How many requests there are of each kind, quick whatever their number';
COMMENT ON COLUMN provisioner.request_counts.counted_as IS 'The status; of a pending one that changes or removes what was made, updating or removing';

-- How many creates a second to expect of each target: what its limiter allows, less what other clients of the same address were
-- seen to use within the last window; or, where there is none, what its workers did over the last while. However much others
-- use, a quarter is ours. Never more than an operator allows.
CREATE VIEW provisioner.target_paces AS
SELECT
    t.target,
    CASE WHEN t.pace > o.writes_limit / o.writes_period THEN o.writes_limit / o.writes_period ELSE t.pace END AS pace
FROM (
    SELECT
        t.target,
        coalesce(
            (
                SELECT
                    greatest(
                        p.permits / p.period
                        - CASE WHEN p.seen_at > extract(EPOCH FROM now()) - p.period THEN p.their_pace ELSE 0 END,
                        p.permits / p.period / 4
                    )
                FROM provisioner.permits AS p
                WHERE p.target = t.target AND p.kind = 'write' AND p.metered
            ),
            (SELECT sum(k.pace) FROM provisioner.workers AS k WHERE k.lease_until > now() AND t.target = ANY (k.targets))
        ) AS pace
    FROM (
        SELECT p.target FROM provisioner.permits AS p
        UNION
        SELECT unnest(k.targets) FROM provisioner.workers AS k
    ) AS t
) AS t
LEFT JOIN provisioner.targets AS o ON o.target = split_part(t.target, '/', 1);

COMMENT ON VIEW provisioner.target_paces IS 'How many creates a second to expect of each target; NULL while nobody knows';

-- One row a batch, one (batch NULL, total false) for requests without a batch, one (total true) for everything. The end is
-- estimated for each target from its pace; the slowest target decides. Only what is in flight or waits is looked at one by one;
-- what else is pending is in line.
CREATE VIEW provisioner.batch_progress WITH (security_barrier) AS
WITH lines AS (
    SELECT
        c.batch, c.target, c.counted_as, NULL AS state, c.requests, c.started_at, c.ended_at, NULL::timestamptz AS run_at,
        NULL AS quarantine
    FROM provisioner.request_counts AS c
    UNION ALL
    SELECT
        q.batch, q.target, q.counted_as,
        provisioner.live_state(q.status, q.wanted, q.recorded_id, f.id, NULL, NULL, NULL, NULL), 1, NULL, NULL, NULL, NULL
    FROM provisioner.in_flight AS f
    JOIN provisioner.requests AS q ON q.id = f.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
    UNION ALL
    SELECT
        q.batch, q.target, q.counted_as,
        provisioner.live_state(q.status, q.wanted, q.recorded_id, NULL, w.id, w.quarantine, s.error_message, s.cancelled), 1,
        NULL, NULL, CASE WHEN isfinite(w.run_at) THEN w.run_at ELSE '-infinity' END, w.quarantine
    FROM provisioner.waiting AS w
    JOIN provisioner.requests AS q ON q.id = w.id
    LEFT JOIN provisioner.attempt_state AS s ON s.id = w.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
),
-- `waits` and `flies`: those that have a place elsewhere than in line. What changes or removes a connection is told apart wherever it
-- is, unless it is retried or quarantined: then that is its state.
summed AS (
    SELECT
        l.batch, l.target, grouping(l.batch) = 1 AS total,
        coalesce(sum(l.requests) FILTER (WHERE l.state IS NULL AND l.counted_as IN ('pending', 'updating', 'removing')), 0) AS unfinished,
        count(*) FILTER (WHERE l.run_at IS NOT NULL) AS waits,
        count(*) FILTER (WHERE l.state IS NOT NULL AND l.run_at IS NULL) AS flies,
        count(*) FILTER (WHERE l.state = 'waiting') AS waiting,
        count(*) FILTER (WHERE l.state = 'in_flight') AS in_flight,
        count(*) FILTER (WHERE l.state = 'retrying') AS retrying,
        count(*) FILTER (WHERE l.state = 'quarantined') AS quarantined,
        coalesce(sum(l.requests) FILTER (WHERE l.state IS NULL AND l.counted_as = 'updating'), 0)
        - count(*) FILTER (WHERE l.state IN ('retrying', 'quarantined') AND l.counted_as = 'updating') AS updating,
        coalesce(sum(l.requests) FILTER (WHERE l.state IS NULL AND l.counted_as = 'removing'), 0)
        - count(*) FILTER (WHERE l.state IN ('retrying', 'quarantined') AND l.counted_as = 'removing') AS removing,
        coalesce(sum(l.requests) FILTER (WHERE l.counted_as = 'succeeded'), 0) AS succeeded,
        coalesce(sum(l.requests) FILTER (WHERE l.counted_as = 'failed'), 0) AS failed,
        coalesce(sum(l.requests) FILTER (WHERE l.counted_as = 'cancelled'), 0) AS cancelled,
        coalesce(sum(l.requests) FILTER (WHERE l.counted_as = 'removed'), 0) AS removed,
        min(l.started_at) AS started_at,
        max(l.ended_at) AS last_finished_at,
        max(l.run_at) FILTER (WHERE l.quarantine IS NULL AND isfinite(l.run_at)) AS last_run_at,
        bool_or(l.quarantine LIKE 'project:%') AS of_projects,
        count(*) FILTER (
            WHERE l.run_at > now() + interval '5 seconds' AND l.state NOT IN ('retrying', 'quarantined') AND l.quarantine IS NULL
        ) AS scheduled
    FROM lines AS l
    GROUP BY GROUPING SETS ((l.batch, l.target), (l.target))
),
-- Where the last request of each batch stands, among the first five thousand of its line: projects take turns, and priorities go
-- first, so what a batch has left says little about its end.
places AS (
    SELECT q.batch, s.target, count(*) AS seen, max(h.place) AS place
    FROM summed AS s
    CROSS JOIN LATERAL (
        SELECT f.id, row_number() OVER (ORDER BY f.rank, f.turn, f.id) AS place
        FROM (
            SELECT r.id, r.rank, r.turn FROM provisioner.ready AS r
            WHERE r.target = s.target
            ORDER BY r.target, r.rank, r.turn, r.id
            LIMIT 5000
        ) AS f
    ) AS h
    -- One by one, for a join is planned as a scan of the wide table.
    CROSS JOIN LATERAL (SELECT r.batch FROM provisioner.connection_requests AS r WHERE r.id = h.id LIMIT 1) AS q
    WHERE s.total AND s.unfinished > s.waits
    GROUP BY q.batch, s.target
),
obstacles AS (
    SELECT
        s.target,
        CASE
            WHEN EXISTS (SELECT FROM provisioner.targets AS t WHERE t.target = s.target AND t.paused_at IS NOT NULL) THEN 1
            WHEN NOT EXISTS (
                SELECT FROM provisioner.workers AS k WHERE k.lease_until > now() AND s.target = ANY (k.targets)
            ) THEN 2
            WHEN EXISTS (
                SELECT FROM provisioner.target_incidents AS d
                WHERE d.target = s.target AND d.reported_at > now() - interval '15 seconds'
            ) THEN 3
        END AS obstacle
    FROM summed AS s
    WHERE s.total AND s.unfinished > 0
),
foreseen AS (
    SELECT
        s.*,
        s.unfinished - s.waiting - s.in_flight - s.retrying - s.quarantined - s.updating - s.removing AS ready,
        s.unfinished + s.succeeded + s.failed + s.cancelled + s.removed AS requests,
        CASE
            WHEN s.total OR s.unfinished <= s.waits + s.flies THEN s.unfinished
            WHEN l.seen >= s.unfinished - s.waits - s.flies THEN l.place + w.flies
            ELSE w.unfinished
        END / nullif(p.pace, 0) AS seconds,
        CASE
            WHEN s.unfinished = 0 THEN NULL
            WHEN o.obstacle IS NOT NULL THEN o.obstacle
            WHEN s.quarantined > 0 THEN CASE WHEN s.of_projects THEN 5 ELSE 4 END
            WHEN s.scheduled = s.unfinished THEN 6
            WHEN p.pace IS NULL OR p.pace = 0 THEN 7
        END AS obstacle
    FROM summed AS s
    LEFT JOIN provisioner.target_paces AS p ON p.target = s.target
    LEFT JOIN obstacles AS o ON o.target = s.target
    LEFT JOIN summed AS w ON w.total AND w.target = s.target
    LEFT JOIN places AS l ON NOT s.total AND l.target = s.target AND l.batch IS NOT DISTINCT FROM s.batch
),
shown AS (
    SELECT
        f.batch, f.total, sum(f.requests)::bigint AS requests, sum(f.waiting)::bigint AS waiting, sum(f.ready)::bigint AS ready,
        sum(f.in_flight)::bigint AS in_flight, sum(f.succeeded)::bigint AS succeeded, sum(f.failed)::bigint AS failed,
        sum(f.cancelled)::bigint AS cancelled, min(f.started_at) AS started_at,
        CASE WHEN sum(f.unfinished) = 0 THEN max(f.last_finished_at) END AS ended_at,
        CASE
            WHEN sum(f.unfinished) > 0 AND min(f.obstacle) IS NULL
                THEN greatest(now() + make_interval(secs => least(max(f.seconds)::double precision, 1e9)), max(f.last_run_at))
        END AS ends_at,
        sum(f.removed)::bigint AS removed,
        CASE min(f.obstacle)
            WHEN 1 THEN 'paused' WHEN 2 THEN 'nobody at work' WHEN 3 THEN 'the target is in trouble' WHEN 4 THEN 'held for a key'
            WHEN 5 THEN 'held for a project' WHEN 6 THEN 'scheduled for later' WHEN 7 THEN 'the pace is not known yet'
        END AS ends_why,
        sum(f.retrying)::bigint AS retrying,
        sum(f.quarantined)::bigint AS quarantined,
        sum(f.updating)::bigint AS updating,
        sum(f.removing)::bigint AS removing
    FROM foreseen AS f
    WHERE f.requests > 0
    GROUP BY f.batch, f.total
)
SELECT * FROM shown
UNION ALL
SELECT NULL, true, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0, NULL, 0, 0, 0, 0
WHERE NOT EXISTS (SELECT FROM shown);

COMMENT ON VIEW provisioner.batch_progress IS 'How far each batch and everything together has come, and when it will end';

-- What the counts lack.
CREATE VIEW provisioner.miscounted AS
SELECT
    c.target, c.batch, c.requested_by, c.status, c.error_code, sum(c.requests)::bigint AS requests,
    min(c.started_at) AS started_at, max(c.ended_at) AS ended_at, max(c.newest) AS newest
FROM (
    SELECT
        coalesce(q.target, '') AS target, coalesce(q.batch, '') AS batch, coalesce(q.requested_by, '') AS requested_by,
        q.counted_as AS status, coalesce(q.error_code, '') AS error_code,
        count(*) AS requests, min(q.created_at) AS started_at, max(q.finished_at) AS ended_at, max(q.id) AS newest
    FROM provisioner.requests AS q
    GROUP BY q.target, q.batch, q.requested_by, q.counted_as, q.error_code
    UNION ALL
    SELECT k.target, k.batch, k.requested_by, k.status, k.error_code, -k.requests, NULL, NULL, NULL FROM provisioner.counts AS k
    UNION ALL
    SELECT h.target, h.batch, h.requested_by, h.status, h.error_code, -h.requests, NULL, NULL, NULL
    FROM provisioner.count_changes AS h
) AS c
GROUP BY c.target, c.batch, c.requested_by, c.status, c.error_code
HAVING sum(c.requests) <> 0;

COMMENT ON VIEW provisioner.miscounted IS 'By how much the counts of requests are wrong; reads all requests';

CREATE VIEW provisioner.rotation_status WITH (security_barrier) AS
SELECT
    r.id, r.target, r.project_id, r.name, r.connection, r.environment, r.secret_path, r.secret_name, r.batch, r.priority,
    r.requested_by, r.created_at,
    provisioner.live_state(
        r.status, r.wanted, r.rotation_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled
    ) AS state,
    CASE WHEN w.quarantine = 'connection' THEN r.connection END AS waits_for,
    CASE WHEN r.status = 'pending' THEN coalesce(s.sent, r.attempts) ELSE r.attempts END AS attempts,
    r.rotation_id, r.connection_id, r.key_issued, r.adopted, r.left_behind,
    CASE WHEN r.status = 'pending' THEN s.error_code ELSE r.error_code END AS error_code,
    CASE WHEN r.status = 'pending' THEN s.error_message ELSE r.error_message END AS error_message,
    CASE WHEN isfinite(w.run_at) THEN w.run_at END AS next_attempt_at,
    r.finished_at, r.project_name, r.description, r.on_conflict, r.not_before, r.wanted, r.interval_days, r.rotate_at, r.key_name,
    r.spend_limit, r.limit_reset, r.include_byok
FROM provisioner.rotation_requests AS r
LEFT JOIN provisioner.in_flight AS f ON f.id = r.id
LEFT JOIN provisioner.waiting AS w ON w.id = r.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = r.id
WHERE r.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'));

COMMENT ON VIEW provisioner.rotation_status IS 'Every rotation with its live state, and what it waits for';
COMMENT ON COLUMN provisioner.rotation_status.waits_for IS 'The connection of the same project that has to be there first';

CREATE VIEW provisioner.quarantined_projects AS
SELECT
    h.target, h.project_id,
    (
        SELECT q.project_name FROM provisioner.connection_requests AS q
        WHERE q.target = h.target AND q.project_id = h.project_id AND q.project_name IS NOT NULL
        LIMIT 1
    ) AS project_name,
    h.cause, h.reason, h.since, h.probe_at AS next_probe_at,
    (
        SELECT count(*) FROM provisioner.waiting AS w
        WHERE w.target = h.target AND w.quarantine = 'project:' || h.project_id
    ) AS requests
FROM provisioner.project_health AS h;

COMMENT ON VIEW provisioner.quarantined_projects IS 'Projects in which the machine identity may not create: add it, and their requests go on';

CREATE VIEW provisioner.quarantined_credentials AS
SELECT
    h.target, h.credential, h.fingerprint, h.quarantined_since AS since, h.reason, h.probe_at AS next_probe_at,
    (
        SELECT count(*) FROM provisioner.waiting AS w
        WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential
    ) AS requests
FROM provisioner.credential_health AS h
WHERE h.quarantined_since IS NOT NULL;

COMMENT ON VIEW provisioner.quarantined_credentials IS 'Credentials whose API key is refused: correct the key, and their requests go on';

REVOKE EXECUTE ON FUNCTION provisioner.live_state(text, text, uuid, bigint, bigint, text, text, boolean) FROM PUBLIC;
