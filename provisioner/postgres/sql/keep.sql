-- :name register
-- Enter this process as a worker: name $1, version $2, targets $3, a lease of $4. From then on the targets are known.
WITH made_known AS (
    INSERT INTO provisioner.targets AS t (target, known_at)
    SELECT unnest($3::text[]), now()
    ON CONFLICT (target) DO UPDATE SET known_at = now() WHERE t.known_at IS NULL
)
INSERT INTO provisioner.workers (name, version, targets, lease_until)
VALUES ($1, $2, $3, clock_timestamp() + $4)
RETURNING id;

-- :name renew
-- Renew the lease of worker $1 by $2 and tell how it fares. No row: the lease ran out and others have taken over.
UPDATE provisioner.workers
SET lease_until = clock_timestamp() + $2, seen_at = clock_timestamp(), created = $3, pace = $4, stopping = $5
WHERE id = $1
RETURNING id;

-- :name leave
-- Strike worker $1 off the list, once it holds nothing any more.
DELETE FROM provisioner.workers AS w
WHERE w.id = $1 AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.worker = w.id)
RETURNING w.id;

-- :name look
-- What a worker looks at every second: whether anything is in line for its targets $1 from (rank, turn, id) = ($2, $3, $7) on,
-- whether something is due, whose lease ran out, who is paused. Also tells newcomers how far the queues $4 have been served ($5, $6).
-- One statement, and no write while nothing moves.
WITH served AS (
    INSERT INTO provisioner.turns (target, rank, turn)
    SELECT * FROM unnest($4::text[], $5::integer[], $6::bigint[])
    ON CONFLICT (target, rank) DO UPDATE SET turn = excluded.turn WHERE turns.turn < excluded.turn
),
lines AS (
    SELECT l.target, head.rank, head.turn, head.id
    FROM unnest($1::text[], $2::integer[], $3::bigint[], $7::bigint[]) AS l (target, rank, turn, id)
    CROSS JOIN LATERAL (
        SELECT r.rank, r.turn, r.id
        FROM provisioner.ready AS r
        WHERE r.target = l.target AND (r.rank, r.turn, r.id) >= (l.rank, l.turn, l.id)
        ORDER BY r.target, r.rank, r.turn, r.id
        LIMIT 1
    ) AS head
)
SELECT
    clock_timestamp() AS now,
    (SELECT w.run_at FROM provisioner.waiting AS w ORDER BY w.run_at LIMIT 1) AS next_due,
    EXISTS (SELECT FROM provisioner.workers AS k WHERE k.lease_until < now()) AS lapsed,
    ARRAY (SELECT t.target FROM provisioner.targets AS t WHERE t.paused_at IS NOT NULL) AS paused,
    ARRAY (SELECT l.target FROM lines AS l) AS targets,
    ARRAY (SELECT l.rank FROM lines AS l) AS ranks,
    ARRAY (SELECT l.turn FROM lines AS l) AS turns,
    ARRAY (SELECT l.id FROM lines AS l) AS ids;

-- :name promote
-- Put at most $1 requests whose time has come in line, each project's one behind the other.
WITH due AS (
    DELETE FROM provisioner.waiting
    WHERE ctid = ANY (ARRAY (
        SELECT w.ctid
        FROM provisioner.waiting AS w
        WHERE w.run_at <= now()
        ORDER BY w.run_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, target, rank, project_id, run_at
),
queued AS (
    INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
    SELECT
        d.target, d.rank,
        coalesce(t.turn, 0) + row_number() OVER (PARTITION BY d.target, d.rank, d.project_id ORDER BY d.run_at, d.id),
        d.id, d.project_id
    FROM due AS d
    LEFT JOIN provisioner.turns AS t ON t.target = d.target AND t.rank = d.rank
    RETURNING target, rank, turn
)
SELECT q.target, q.rank, min(q.turn) AS turn, count(*) AS moved
FROM queued AS q
GROUP BY q.target, q.rank
ORDER BY q.target, q.rank;

-- :name rescue
-- Take over what workers held whose lease ran out. Their attempts may have made the connection: they wait for $1, then are
-- looked up. Who was cancelled meanwhile waits until a late commit would show, for its look-up is the last. Also takes over
-- claims whose worker is no longer listed at all.
WITH lapsed AS (
    SELECT w.id, w.name FROM provisioner.workers AS w WHERE w.lease_until < now() FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM provisioner.in_flight AS f
    WHERE
        f.worker IN (SELECT l.id FROM lapsed AS l)
        OR NOT EXISTS (SELECT FROM provisioner.workers AS w WHERE w.id = f.worker)
    RETURNING f.*
),
struck AS (
    DELETE FROM provisioner.workers AS w USING lapsed AS l WHERE w.id = l.id
),
kept AS (
    INSERT INTO provisioner.setbacks (id, attempt, sent, failures, since, unknown, cancelled, error_code, error_message)
    SELECT
        t.id, t.attempt, 1, 0, t.claimed_at, true, t.cancelled, 'outcome_unknown',
        'the worker was lost while it worked on this; the connection is looked up before it is created again'
    FROM taken AS t
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, sent = setbacks.sent + 1, unknown = true,
        cancelled = setbacks.cancelled OR excluded.cancelled,
        error_code = excluded.error_code, error_message = excluded.error_message, updated_at = now()
),
logged AS (
    INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, outcome, error_code, error_message)
    SELECT
        t.id, t.attempt, t.worker, 'create', t.claimed_at, clock_timestamp(), 'outcome unknown', 'outcome_unknown',
        'the worker was lost while it worked on this'
    FROM taken AS t
),
waiting AS (
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT
        t.id, clock_timestamp() + CASE WHEN t.cancelled THEN greatest($1, interval '45 seconds') ELSE $1 END,
        t.target, t.rank, t.project_id
    FROM taken AS t
)
SELECT
    (SELECT count(*) FROM taken) AS requests,
    ARRAY (SELECT l.name FROM lapsed AS l) AS workers;

-- :name strangers
-- Targets that have requests in line and that no worker has ever known. One step of the index for each target.
WITH RECURSIVE queues AS (
    (SELECT r.target FROM provisioner.ready AS r ORDER BY r.target, r.rank, r.turn, r.id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT r.target FROM provisioner.ready AS r WHERE r.target > q.target ORDER BY r.target, r.rank, r.turn, r.id LIMIT 1
    )
    FROM queues AS q
    WHERE q.target IS NOT NULL
)
SELECT q.target FROM queues AS q
WHERE
    q.target IS NOT NULL
    AND NOT EXISTS (SELECT FROM provisioner.targets AS t WHERE t.target = q.target AND t.known_at IS NOT NULL);

-- :name disown
-- Fail at most $2 requests in line for target $1, which no worker has ever known. A target whose workers are away is another
-- matter: its requests wait for them.
WITH gone AS (
    DELETE FROM provisioner.ready
    WHERE ctid = ANY (ARRAY (
        SELECT r.ctid FROM provisioner.ready AS r
        WHERE r.target = $1
        ORDER BY r.target, r.rank, r.turn, r.id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
UPDATE provisioner.connection_requests AS q
SET
    status = 'failed', error_code = 'target_unknown', finished_at = clock_timestamp(),
    error_message = 'no worker knows the target ' || quote_literal(q.target)
        || '; name it in the settings as [targets.' || q.target || '], then retry'
FROM gone AS g
WHERE q.id = g.id
RETURNING q.id;

-- :name left
-- What `run --drain` still waits for: ready, in flight, or waiting for another attempt; not what is scheduled for later, nor
-- what is held until somebody mends its credential, nor what belongs to a paused target or to others' targets ($1 are ours).
SELECT
    EXISTS (
        SELECT FROM provisioner.ready AS r
        WHERE r.target = ANY ($1::text[])
            AND r.target NOT IN (SELECT t.target FROM provisioner.targets AS t WHERE t.paused_at IS NOT NULL)
    )
    OR EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.target = ANY ($1::text[]))
    OR EXISTS (
        SELECT FROM provisioner.waiting AS w
        WHERE w.target = ANY ($1::text[])
            AND w.target NOT IN (SELECT t.target FROM provisioner.targets AS t WHERE t.paused_at IS NOT NULL)
            AND w.hold IS NULL
            AND (w.run_at <= now() OR EXISTS (SELECT FROM provisioner.setbacks AS s WHERE s.id = w.id))
    ) AS left;

-- :name wipe
-- Wipe at most $2 sealed keys of requests that failed $1 ago or earlier, if they are still failed and still have that key. The
-- day stands in what is left of the credential, for `retry` forgets the message. Rows are found by id out of an array: the
-- wide table is never read whole.
WITH due AS (
    DELETE FROM provisioner.failed_boxes
    WHERE ctid = ANY (ARRAY (
        SELECT b.ctid FROM provisioner.failed_boxes AS b
        WHERE b.failed_at <= now() - $1::interval
        ORDER BY b.failed_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, box
),
wiped AS (
    UPDATE provisioner.connection_requests AS q
    SET
        credential = 'sealed:' || split_part(q.credential, ':', 2) || to_char(now() AT TIME ZONE 'UTC', ':YYYY-MM-DD":wiped"'),
        error_message = concat_ws(
            '; ', q.error_message,
            to_char(now() AT TIME ZONE 'UTC', '"the sealed key was wiped on "YYYY-MM-DD": give the row a new one before a retry"')
        )
    WHERE
        q.id = ANY (ARRAY (SELECT d.id FROM due AS d)) AND q.status = 'failed'
        AND hashtextextended(q.credential, 0) IN (SELECT d.box FROM due AS d WHERE d.id = q.id)
    RETURNING q.id
)
SELECT (SELECT count(*) FROM due) AS due, (SELECT count(*) FROM wiped) AS wiped;

-- :name fold
-- Fold at most $1 changes into the counts of requests.
SELECT provisioner.fold_counts($1) AS folded;
