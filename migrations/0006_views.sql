-- Views for people: every request with its live state, counts, and the progress of batches.
--
-- Views read with the rights of their owner, who bypasses row-level security. So they choose the rows themselves, by
-- the rule of `0007_access.sql`: a role that may read the line sees every request, other roles their own. They are
-- security barriers, so that a function in a user's WHERE never sees excluded rows.

-- The live state of a request. `recorded` is what was made for it; `flying` and `waits` are its id if it is in flight
-- or waits; `quarantine` is what it waits for together with others; `said` is why its last attempt failed; `cancelled`
-- means that it will not be tried again. What blocks it says more than what remains to be done, so that comes first. A
-- quarantine is `credential:…` or `project:…`; a request that waits for another one, such as a rotation for its
-- connection, is not quarantined. Written so that it is inlined.
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

-- What is known of a request while it is pending, and what its row says once it has ended. Written so that it is inlined.
CREATE FUNCTION provisioner.while_pending(status text, live anyelement, recorded anyelement) RETURNS anyelement
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN status = 'pending' THEN live ELSE recorded END
$$;

-- The error code of a quarantine: a request that was never tried has no other.
CREATE FUNCTION provisioner.quarantine_code(quarantine text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN quarantine LIKE 'project:%' THEN 'permission_denied' WHEN quarantine LIKE 'credential:%' THEN 'credential_refused' END
$$;

-- Every request in the form of listings: with its live state, with its attempts while it is pending, and with only the
-- key's id for a sealed credential. Other views and queries build on it, and columns that they do not use cost nothing.
-- It does not restrict rows, so it is for roles that may see all of them.
CREATE VIEW provisioner.listed_requests AS
SELECT
    q.id, q.target, q.project_id, q.name, q.name AS place, q.description,
    CASE WHEN q.credential LIKE 'sealed:%' THEN 'sealed:' || split_part(q.credential, ':', 2) ELSE q.credential END AS credential,
    CASE
        WHEN q.credential LIKE 'sealed:%' AND q.credential NOT LIKE '%:wiped' THEN split_part(q.credential, ':', 2)
    END AS sealed_by,
    q.on_conflict, q.priority, q.batch, q.project_name, q.wanted, q.not_before, q.requested_by, q.created_at, q.status,
    provisioner.live_state(
        q.status, q.wanted, q.connection_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled
    ) AS state,
    provisioner.while_pending(q.status, coalesce(s.sent, q.attempts), q.attempts) AS attempts,
    q.connection_id, q.org_id, q.credentials_hash, q.adopted, q.key_fingerprint,
    provisioner.while_pending(q.status, coalesce(s.error_code, provisioner.quarantine_code(w.quarantine)), q.error_code) AS error_code,
    provisioner.while_pending(
        q.status,
        CASE
            WHEN s.error_message IS NOT NULL THEN s.error_message
            WHEN w.quarantine LIKE 'credential:%' THEN (
                SELECT h.reason FROM provisioner.credential_health AS h
                WHERE h.target = w.target AND h.credential = substr(w.quarantine, 12) AND h.quarantined_since IS NOT NULL
                LIMIT 1
            )
            WHEN w.quarantine LIKE 'project:%' THEN (
                SELECT h.reason FROM provisioner.project_health AS h
                WHERE h.target = w.target AND h.project_id = substr(w.quarantine, 9)::uuid
            )
        END,
        q.error_message
    ) AS error_message,
    CASE WHEN isfinite(w.run_at) THEN w.run_at END AS next_attempt_at, q.finished_at
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id;

COMMENT ON VIEW provisioner.listed_requests IS 'Every request with its live state; for a sealed credential only its key''s id';
COMMENT ON COLUMN provisioner.listed_requests.place IS 'Its position in its project, the order in which recorded requests are compared';
COMMENT ON COLUMN provisioner.listed_requests.sealed_by IS 'The key that seals it at present; NULL if there is no box (any more)';

-- The same for rotations. What they wait for is their connection.
CREATE VIEW provisioner.listed_rotations AS
SELECT
    q.id, q.target, q.project_id, q.name, q.environment || ':' || q.secret_path || ':' || q.name AS place, q.description,
    q.connection, q.environment, q.secret_path, q.secret_name, q.interval_days, q.rotate_at, q.key_name, q.spend_limit,
    q.limit_reset, q.include_byok, q.on_conflict, q.priority, q.batch, q.project_name, q.wanted, q.not_before, q.requested_by,
    q.created_at, q.status,
    provisioner.live_state(q.status, q.wanted, q.rotation_id, f.id, w.id, w.quarantine, s.error_message, s.cancelled) AS state,
    CASE WHEN w.quarantine = 'connection' THEN q.connection END AS waits_for,
    provisioner.while_pending(q.status, coalesce(s.sent, q.attempts), q.attempts) AS attempts,
    q.rotation_id, q.connection_id, q.key_issued, q.adopted, q.left_behind,
    provisioner.while_pending(q.status, coalesce(s.error_code, provisioner.quarantine_code(w.quarantine)), q.error_code) AS error_code,
    provisioner.while_pending(
        q.status,
        CASE
            WHEN s.error_message IS NOT NULL THEN s.error_message
            WHEN w.quarantine LIKE 'project:%' THEN (
                SELECT h.reason FROM provisioner.project_health AS h
                WHERE h.target = w.target AND h.project_id = substr(w.quarantine, 9)::uuid
            )
        END,
        q.error_message
    ) AS error_message,
    CASE WHEN isfinite(w.run_at) THEN w.run_at END AS next_attempt_at, q.finished_at
FROM provisioner.rotation_requests AS q
LEFT JOIN provisioner.in_flight AS f ON f.id = q.id
LEFT JOIN provisioner.waiting AS w ON w.id = q.id
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id;

COMMENT ON VIEW provisioner.listed_rotations IS 'Every rotation with its live state';
COMMENT ON COLUMN provisioner.listed_rotations.place IS 'Its position in its project, the order in which recorded requests are compared';

-- Only the first thousand requests of each target's line have a position: numbering a line of a million takes a second,
-- even to show one row. The positions are computed once per statement into one object, and only if the column is used:
-- a join would change every other plan. Targets are found by jumping from one to the next in the index, because there
-- are few.
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
        -- A request recorded during a round may be behind its position already; the next round checks it.
        WHEN q.status <> 'succeeded' OR d.unread THEN NULL
        WHEN q.finished_at < v.started_at AND (v.finished_at IS NOT NULL OR (q.project_id, q.name) <= (v.project_id, v.name)) THEN v.started_at
        WHEN q.finished_at < v.previous_at THEN v.previous_at
    END AS verified_at
FROM provisioner.listed_requests AS q
LEFT JOIN provisioner.drifts AS d ON d.id = q.id
LEFT JOIN provisioner.verify_rounds AS v ON v.target = q.target
WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'));

COMMENT ON VIEW provisioner.request_status IS 'Every request with its live state';
COMMENT ON COLUMN provisioner.request_status.drift IS 'How its connection differs from what was recorded, according to standing verification';
COMMENT ON COLUMN provisioner.request_status.verified_at IS 'When it was last compared, at the earliest: the beginning of that round';
COMMENT ON COLUMN provisioner.request_status.queue_position IS 'Its position in the line of its target; NULL beyond the first thousand';

-- A role that may read the line sees all requests, other roles their own: the rule of `0007_access.sql`.
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

COMMENT ON VIEW provisioner.request_counts IS 'The number of requests of each kind, quickly in a table of any size';
COMMENT ON COLUMN provisioner.request_counts.counted_as IS 'The status, or updating or removing for a pending request that does that';

-- What prevents workers from creating. A worker that has not repeated its report is gone, or no longer withholds calls.
CREATE VIEW provisioner.present_incidents AS
SELECT d.* FROM provisioner.target_incidents AS d WHERE d.reported_at > clock_timestamp() - interval '15 seconds';

COMMENT ON VIEW provisioner.present_incidents IS 'Why workers withhold creates at a target at present';

-- One row for each target and batch, one (batch NULL, total false) for its requests without a batch, one (total true)
-- for the target. The end is the latest forecast. Only requests in flight or waiting are read one by one; all other
-- pending requests are in line.
CREATE VIEW provisioner.target_progress WITH (security_barrier) AS
WITH lines AS (
    SELECT
        c.batch, c.target, c.counted_as, NULL AS state, c.requests, c.started_at, c.ended_at
    FROM provisioner.request_counts AS c
    UNION ALL
    SELECT
        q.batch, q.target, q.counted_as,
        provisioner.live_state(q.status, q.wanted, q.recorded_id, f.id, NULL, NULL, NULL, NULL), 1, NULL, NULL
    FROM provisioner.in_flight AS f
    JOIN provisioner.requests AS q ON q.id = f.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
    UNION ALL
    -- Not through the view of all kinds: there may be many waiting requests, and each would be looked up in every kind.
    SELECT
        q.batch, q.target, provisioner.counted_as(q.status, q.wanted, q.connection_id),
        provisioner.live_state(q.status, q.wanted, q.connection_id, NULL, w.id, w.quarantine, s.error_message, s.cancelled), 1,
        NULL, NULL
    FROM provisioner.waiting AS w
    JOIN provisioner.connection_requests AS q ON q.id = w.id
    LEFT JOIN provisioner.attempt_state AS s ON s.id = w.id
    WHERE
        q.status = 'pending'
        AND (q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
    UNION ALL
    SELECT
        r.batch, w.target, provisioner.counted_as(r.status, r.wanted, r.rotation_id),
        provisioner.live_state(r.status, r.wanted, r.rotation_id, NULL, w.id, w.quarantine, s.error_message, s.cancelled), 1,
        NULL, NULL
    FROM provisioner.rotation_requests AS r
    JOIN provisioner.waiting AS w ON w.id = r.id
    LEFT JOIN provisioner.attempt_state AS s ON s.id = w.id
    WHERE
        r.status = 'pending'
        AND (r.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')))
),
-- Updates and removals are shown as such wherever they are, unless they are retried or quarantined: then that is the
-- state.
summed AS (
    SELECT
        l.batch, l.target, grouping(l.batch) = 1 AS total,
        coalesce(sum(l.requests) FILTER (WHERE l.state IS NULL AND l.counted_as IN ('pending', 'updating', 'removing')), 0) AS unfinished,
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
        max(l.ended_at) AS last_finished_at
    FROM lines AS l
    GROUP BY GROUPING SETS ((l.batch, l.target), (l.target))
),
-- A forecast that is not renewed is ignored. A batch that is newer than the last forecast has none yet; if there are
-- too many batches, one without its own forecast ends no later than its line.
foreseen AS (
    SELECT
        s.*,
        s.unfinished - s.waiting - s.in_flight - s.retrying - s.quarantined - s.updating - s.removing AS ready,
        s.unfinished + s.succeeded + s.failed + s.cancelled + s.removed AS requests,
        CASE WHEN s.unfinished > 0 AND t.due_at > now() - interval '15 seconds' AND w.told THEN w.ends_at END AS ends_at,
        CASE
            WHEN s.unfinished = 0 THEN NULL
            WHEN t.due_at > now() - interval '15 seconds' AND w.told THEN w.ends_why
            WHEN
                t.due_at > now() - interval '15 seconds'
                OR EXISTS (SELECT FROM provisioner.workers AS k WHERE k.lease_until > now() AND s.target = ANY (k.targets))
                THEN 'not known yet'
            ELSE 'nobody at work'
        END AS ends_why,
        w.urgency
    FROM summed AS s
    CROSS JOIN provisioner.forecast_turn AS t
    LEFT JOIN LATERAL (
        SELECT f.ends_at, f.ends_why, f.urgency, f.ends_at IS NOT NULL OR f.ends_why IS NOT NULL AS told
        FROM (
            SELECT o.ends_at, o.ends_why, o.urgency, false AS whole FROM provisioner.forecasts AS o
            WHERE NOT s.total AND o.target = s.target AND o.batch = coalesce(s.batch, '')
            UNION ALL
            SELECT l.ends_at, l.ends_why, l.urgency, true FROM provisioner.line_forecasts AS l
            WHERE l.target = s.target AND (s.total OR s.started_at < t.made_at)
        ) AS f
        ORDER BY f.whole
        LIMIT 1
    ) AS w ON true
)
SELECT
    f.batch, f.target, f.total, f.requests::bigint AS requests, f.waiting, f.ready::bigint AS ready, f.in_flight,
    f.succeeded::bigint AS succeeded, f.failed::bigint AS failed, f.cancelled::bigint AS cancelled, f.removed::bigint AS removed,
    f.started_at, CASE WHEN f.unfinished = 0 THEN f.last_finished_at END AS ended_at,
    CASE WHEN f.unfinished > 0 AND f.ends_why IS NULL THEN greatest(f.ends_at, now()) END AS ends_at,
    f.ends_why, f.retrying, f.quarantined, f.updating::bigint AS updating, f.removing::bigint AS removing,
    f.unfinished::bigint AS unfinished, f.urgency, f.last_finished_at
FROM foreseen AS f
WHERE f.requests > 0;

COMMENT ON VIEW provisioner.target_progress IS 'The progress of each line of a target, in total and by batch';

-- The same over the lines of each target, and over everything (target NULL): one row per batch, one (batch NULL, total false) for
-- requests without a batch, one (total true) for all of it. The slowest line determines the end.
CREATE VIEW provisioner.progress WITH (security_barrier) AS
SELECT
    split_part(f.target, '/', 1) AS target, f.batch, f.total, sum(f.requests)::bigint AS requests, sum(f.waiting)::bigint AS waiting,
    sum(f.ready)::bigint AS ready, sum(f.in_flight)::bigint AS in_flight, sum(f.succeeded)::bigint AS succeeded,
    sum(f.failed)::bigint AS failed, sum(f.cancelled)::bigint AS cancelled, min(f.started_at) AS started_at,
    CASE WHEN sum(f.unfinished) = 0 THEN max(f.last_finished_at) END AS ended_at,
    CASE WHEN sum(f.unfinished) > 0 AND count(f.ends_why) = 0 THEN greatest(max(f.ends_at), now()) END AS ends_at,
    sum(f.removed)::bigint AS removed,
    (array_agg(f.ends_why ORDER BY f.ends_why IS NULL, f.urgency))[1] AS ends_why,
    sum(f.retrying)::bigint AS retrying,
    sum(f.quarantined)::bigint AS quarantined,
    sum(f.updating)::bigint AS updating,
    sum(f.removing)::bigint AS removing
FROM provisioner.target_progress AS f
GROUP BY GROUPING SETS ((f.batch, f.total), (split_part(f.target, '/', 1), f.batch, f.total));

COMMENT ON VIEW provisioner.progress IS 'The progress of each target with all its lines, and of everything (target NULL), in total and by batch';

CREATE VIEW provisioner.batch_progress WITH (security_barrier) AS
SELECT
    p.batch, p.total, p.requests, p.waiting, p.ready, p.in_flight, p.succeeded, p.failed, p.cancelled, p.started_at, p.ended_at, p.ends_at,
    p.removed, p.ends_why, p.retrying, p.quarantined, p.updating, p.removing
FROM provisioner.progress AS p
WHERE p.target IS NULL
UNION ALL
SELECT NULL, true, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0, NULL, 0, 0, 0, 0
WHERE NOT EXISTS (SELECT FROM provisioner.progress);

COMMENT ON VIEW provisioner.batch_progress IS 'The progress of each batch and of everything, and when it will end';

-- What must be added to the counts to correct them.
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
    q.id, q.target, q.project_id, q.name, q.connection, q.environment, q.secret_path, q.secret_name, q.batch, q.priority,
    q.requested_by, q.created_at, q.state, q.waits_for, q.attempts, q.rotation_id, q.connection_id, q.key_issued, q.adopted,
    q.left_behind, q.error_code, q.error_message, q.next_attempt_at, q.finished_at, q.project_name,
    CASE WHEN q.status = 'succeeded' AND d.seen_at > q.finished_at THEN d.drift END AS drift,
    CASE
        WHEN q.status <> 'succeeded' OR d.unread THEN NULL
        WHEN q.finished_at < v.started_at AND (v.finished_at IS NOT NULL OR (q.project_id, q.place) <= (v.project_id, v.name)) THEN v.started_at
        WHEN q.finished_at < v.previous_at THEN v.previous_at
    END AS verified_at,
    q.description, q.on_conflict, q.not_before, q.wanted, q.interval_days, q.rotate_at, q.key_name, q.spend_limit, q.limit_reset,
    q.include_byok
FROM provisioner.listed_rotations AS q
LEFT JOIN provisioner.drifts AS d ON d.id = q.id
LEFT JOIN provisioner.verify_rounds AS v ON v.target = q.target || '/rotations'
WHERE q.requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT'));

COMMENT ON COLUMN provisioner.rotation_status.verified_at IS 'When it was last compared, at the earliest: the beginning of that round';
COMMENT ON COLUMN provisioner.rotation_status.drift IS 'How it differs from what was recorded, according to standing verification';
COMMENT ON VIEW provisioner.rotation_status IS 'Every rotation with its live state, and what it waits for';
COMMENT ON COLUMN provisioner.rotation_status.waits_for IS 'The connection of the same project that has to exist first';

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

-- The tables behind the requests, for roles that only see their own requests; they have the same columns. Statements read
-- them where they say `{own}`, see `queries.py`.
CREATE VIEW provisioner.own_requests WITH (security_barrier) AS
SELECT q.* FROM provisioner.requests AS q WHERE q.requested_by = current_user;

CREATE VIEW provisioner.own_listed_requests WITH (security_barrier) AS
SELECT v.* FROM provisioner.listed_requests AS v WHERE v.requested_by = current_user;

CREATE VIEW provisioner.own_listed_rotations WITH (security_barrier) AS
SELECT v.* FROM provisioner.listed_rotations AS v WHERE v.requested_by = current_user;

CREATE VIEW provisioner.own_waiting WITH (security_barrier) AS
SELECT t.* FROM provisioner.waiting AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_in_flight WITH (security_barrier) AS
SELECT t.* FROM provisioner.in_flight AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_attempt_state WITH (security_barrier) AS
SELECT t.* FROM provisioner.attempt_state AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_sent_creates WITH (security_barrier) AS
SELECT t.* FROM provisioner.sent_creates AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_unrecorded WITH (security_barrier) AS
SELECT t.* FROM provisioner.unrecorded AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_drifts WITH (security_barrier) AS
SELECT t.* FROM provisioner.drifts AS t WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.id AND q.requested_by = current_user);

CREATE VIEW provisioner.own_attempts WITH (security_barrier) AS
SELECT t.* FROM provisioner.attempts AS t
WHERE EXISTS (SELECT FROM provisioner.requests AS q WHERE q.id = t.request_id AND q.requested_by = current_user);

-- The live state tells how long the line before a request is: `queue_position`.
CREATE VIEW provisioner.own_ready AS SELECT r.* FROM provisioner.ready AS r WHERE false;

-- Keys and projects that the role's own requests wait for.
CREATE VIEW provisioner.own_credential_health WITH (security_barrier) AS
SELECT h.target, h.credential, h.quarantined_since, h.probe_at, h.reason
FROM provisioner.credential_health AS h
WHERE EXISTS (SELECT FROM provisioner.own_waiting AS w WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential);

CREATE VIEW provisioner.own_project_health WITH (security_barrier) AS
SELECT h.target, h.project_id, h.since, h.probe_at, h.reason
FROM provisioner.project_health AS h
WHERE EXISTS (SELECT FROM provisioner.own_waiting AS w WHERE w.target = h.target AND w.quarantine = 'project:' || h.project_id);

CREATE VIEW provisioner.own_quarantined_credentials WITH (security_barrier) AS
SELECT
    h.target, h.credential, h.quarantined_since AS since, h.reason, h.probe_at AS next_probe_at,
    (
        SELECT count(*) FROM provisioner.own_waiting AS w
        WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential
    ) AS requests
FROM provisioner.own_credential_health AS h
WHERE h.quarantined_since IS NOT NULL;

REVOKE EXECUTE ON FUNCTION provisioner.live_state(text, text, uuid, bigint, bigint, text, text, boolean) FROM PUBLIC;
