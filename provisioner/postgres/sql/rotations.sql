-- What of the statements for rotations is not as for connections: see `kinds.py`.

-- :name claim
-- As `claim` of `claim.sql`, with all that making a rotation needs.
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
        q.*, s.attempt, coalesce(s.sent, CASE WHEN q.rotation_id IS NOT NULL THEN q.attempts END) AS sent, s.failures,
        s.streak, s.streak_of, s.since, s.cancelled, p.rank, p.turn
    FROM picked AS p
    JOIN provisioner.rotation_requests AS q ON q.id = p.id AND q.status = 'pending'
    LEFT JOIN provisioner.attempt_state AS s ON s.id = p.id
),
marked AS (
    INSERT INTO provisioner.in_flight (id, attempt, worker, target, rank, project_id, claimed_at, fence)
    SELECT w.id, coalesce(w.attempt, 0) + 1, $5, $1, w.rank, w.project_id, clock_timestamp(), $7
    FROM wanted AS w
    ON CONFLICT (id) DO NOTHING
    RETURNING id, attempt, claimed_at
)
SELECT
    w.id, w.target, w.project_id::text, w.name, w.description, w.on_conflict, m.attempt, m.claimed_at, w.sent, w.failures, w.streak,
    w.streak_of, w.since, w.cancelled, w.rotation_id::text, w.rank, w.turn,
    w.environment, w.secret_path, w.secret_name, w.interval_days, w.rotate_at, w.key_name, w.spend_limit::float8,
    w.limit_reset, w.include_byok, w.project_name, c.connection_id::text, w.wanted, w.adopted, w.with_secrets, w.revoke_keys,
    w.key_issued
FROM wanted AS w
JOIN marked AS m ON m.id = w.id
LEFT JOIN LATERAL (
    SELECT k.connection_id FROM provisioner.connection_requests AS k
    WHERE k.target = w.target AND k.project_id = w.project_id AND k.name = w.connection
    LIMIT 1
) AS c ON true
ORDER BY w.rank, w.turn, w.id;

-- :name succeed
-- Record rotations, with the name of each one's key, and in words what other creates may have left behind: a failure before may have
-- said that already.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest(
        $2::bigint[], $3::integer[], $4::uuid[], $5::uuid[], $6::text[], $7::boolean[], $8::integer[], $9::text[], $10::bigint[]
    ) AS o (id, attempt, rotation_id, connection_id, key_issued, adopted, sent, left_behind, fence)
    WHERE f.id = ANY ($2::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1
        AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING o.*
),
forgotten AS (
    DELETE FROM provisioner.attempt_state AS s USING settled AS o WHERE s.id = o.id
),
updated AS (
    UPDATE provisioner.rotation_requests AS q
    SET
        status = CASE WHEN q.wanted = 'absent' THEN $12::text ELSE $11::text END, rotation_id = o.rotation_id,
        connection_id = o.connection_id, key_issued = o.key_issued, adopted = o.adopted, attempts = o.sent,
        left_behind = CASE
            WHEN position(o.left_behind IN q.left_behind) > 0 THEN q.left_behind
            ELSE nullif(concat_ws('; ', q.left_behind, o.left_behind), '')
        END, error_code = NULL, error_message = NULL,
        finished_at = clock_timestamp()
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id, q.status, q.target, q.priority, q.project_id
),
wished_otherwise AS (
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT u.id, clock_timestamp(), u.target || '/rotations', -u.priority, u.project_id
    FROM updated AS u
    WHERE u.status = 'pending'
)
SELECT u.id FROM updated AS u
UNION ALL
SELECT provisioner.not_updated(s.id) FROM settled AS s WHERE (s.id IN (SELECT u.id FROM updated AS u)) IS NOT TRUE;

-- :name remove
-- Nothing of ours is there any more: forget the rotation. What stays or may stay at OpenRouter is said, as what was left before is.
-- What is wanted again, or was found gone, goes back in line.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest(
        $2::bigint[], $3::integer[], $4::integer[], $5::text[], $6::bigint[]
    ) AS o (id, attempt, sent, left_behind, fence)
    WHERE f.id = ANY ($2::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1
        AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING o.*
),
forgotten AS (
    DELETE FROM provisioner.attempt_state AS s USING settled AS o WHERE s.id = o.id
),
unedited AS (
    DELETE FROM provisioner.edits AS e USING settled AS o WHERE e.id = o.id
),
updated AS (
    UPDATE provisioner.rotation_requests AS q
    SET
        status = CASE WHEN q.wanted = 'absent' THEN $7::text ELSE $8::text END, attempts = o.sent,
        finished_at = clock_timestamp(), error_code = NULL, error_message = NULL, rotation_id = NULL, connection_id = NULL,
        key_issued = NULL, adopted = false, left_behind = CASE
            WHEN position(o.left_behind IN q.left_behind) > 0 THEN q.left_behind
            ELSE nullif(concat_ws('; ', q.left_behind, o.left_behind), '')
        END
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id, q.status, q.target, q.priority, q.project_id
),
wanted_again AS (
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT u.id, clock_timestamp(), u.target || '/rotations', -u.priority, u.project_id
    FROM updated AS u
    WHERE u.status = 'pending'
)
SELECT u.id FROM updated AS u
UNION ALL
SELECT provisioner.not_updated(s.id) FROM settled AS s WHERE (s.id IN (SELECT u.id FROM updated AS u)) IS NOT TRUE;

-- :name succeeded
-- As `succeeded` of `recorded.sql`; $5 is a target or its line, and $7 a rotation's place in its project.
SELECT
    q.id, q.target AS target, q.project_id::text AS project_id, q.project_name, q.name, q.description, q.adopted,
    q.rotation_id::text AS rotation_id, q.environment, q.secret_path, q.secret_name, q.interval_days, q.rotate_at,
    q.spend_limit::float8 AS spend_limit, q.limit_reset, q.include_byok
FROM provisioner.rotation_requests AS q
WHERE
    q.status = 'succeeded' AND q.rotation_id IS NOT NULL
    AND ($1::bigint[] IS NULL OR q.id = ANY ($1))
    AND ($2::text[] IS NULL OR q.batch = ANY ($2))
    AND ($3::uuid[] IS NULL OR q.project_id = ANY ($3))
    AND ($4::text[] IS NULL OR q.target = ANY ($4) OR q.target || '/rotations' = ANY ($4))
    AND (
        $5::text IS NULL
        OR (q.target, q.project_id, q.environment || ':' || q.secret_path || ':' || q.name)
        > (replace($5, '/rotations', ''), $6::uuid, $7::text)
    )
ORDER BY q.target, q.project_id, q.environment || ':' || q.secret_path || ':' || q.name
LIMIT $8;

-- :name missed
-- As `missed` of `verifying.sql`.
SELECT
    q.id, q.target AS target, q.project_id::text AS project_id, q.project_name, q.name, q.description, q.adopted,
    q.rotation_id::text AS rotation_id, q.environment, q.secret_path, q.secret_name, q.interval_days, q.rotate_at,
    q.spend_limit::float8 AS spend_limit, q.limit_reset, q.include_byok
FROM provisioner.drifts AS d
JOIN provisioner.rotation_requests AS q ON q.id = d.id
WHERE
    d.target = $1 AND d.drift IS NULL AND d.missed_at < clock_timestamp() - $2::interval
    AND q.status = 'succeeded' AND q.rotation_id IS NOT NULL
ORDER BY q.project_id
LIMIT $3;

-- :name requests
-- As `requests` of `browse.sql`, with what only a rotation has.
SELECT
    v.id, v.target, v.project_id::text AS project_id, v.name, v.description, '' AS credential, v.on_conflict, v.priority, v.batch,
    v.project_name, v.not_before, v.requested_by, v.created_at, v.state, v.attempts, v.connection_id::text AS connection_id,
    NULL AS org_id, NULL AS credentials_hash, v.adopted, v.error_code, v.error_message, v.next_attempt_at, v.finished_at,
    'rotation' AS kind, v.rotation_id::text AS rotation_id, v.connection, v.waits_for, v.environment, v.secret_path,
    v.secret_name, v.interval_days, to_char(v.rotate_at, 'HH24:MI') AS rotate_at, v.key_name, v.spend_limit::float8 AS spend_limit,
    v.limit_reset, v.include_byok, v.key_issued, v.left_behind
FROM provisioner.rotation_status AS v
WHERE
    ($1::bigint[] IS NULL OR v.id = ANY ($1))
    AND ($2::text[] IS NULL OR v.state = ANY ($2))
    AND ($3::text[] IS NULL OR v.batch = ANY ($3))
    AND ($4::uuid[] IS NULL OR v.project_id = ANY ($4))
    AND ($5::text[] IS NULL OR v.error_code = ANY ($5))
    AND ($6::text[] IS NULL OR v.target = ANY ($6))
    AND ($7::bigint IS NULL OR v.id > $7)
    AND ($8::bigint IS NULL OR v.id < $8)
ORDER BY CASE WHEN $10::boolean THEN v.id END DESC, v.id
LIMIT $9;

-- :name rekeying_preview
-- Nobody sends a rotation a key: Infisical makes it. The arguments are those of `operations.sql`.
SELECT q.id, 'rotation' AS word
FROM provisioner.rotation_requests AS q
WHERE q.id = ANY ($1::bigint[]) AND num_nonnulls($2::text[], $3::text[], $4::text[]) >= 0
ORDER BY q.id;

-- :name leave_behind
-- Requests $2 have failed and may have left behind what $3 says: keep it, for those of them that were settled by worker $1, $4.
UPDATE provisioner.rotation_requests AS q
SET
    left_behind = CASE
        WHEN position(o.left_behind IN q.left_behind) > 0 THEN q.left_behind
        ELSE concat_ws('; ', q.left_behind, o.left_behind)
    END
FROM unnest($2::bigint[], $3::text[]) AS o (id, left_behind)
WHERE q.id = o.id AND q.id = ANY ($4::bigint[]) AND $1::bigint IS NOT NULL;

-- :name left_behind
-- Rotations that may have left keys behind at OpenRouter.
SELECT r.id FROM provisioner.rotation_requests AS r WHERE r.left_behind IS NOT NULL ORDER BY r.id;

-- :name keys_deleted
-- The keys that rotations $1 left behind are deleted at OpenRouter.
SELECT d.id FROM provisioner.keys_deleted($1) AS d;

-- :name awaited
-- The request of the connection that rotation $1 needs. No row: nobody has asked for it.
SELECT q.id AS awaited_id, q.status AS awaited_status
FROM provisioner.rotation_requests AS r
JOIN provisioner.connection_requests AS q ON q.target = r.target AND q.project_id = r.project_id AND q.name = r.connection
WHERE r.id = $1;
