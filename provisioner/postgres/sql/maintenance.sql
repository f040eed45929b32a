-- :name register
-- Register this process as a worker: name $1, version $2, targets $3, a lease of $4. From now on the targets are known.
WITH made_known AS (
    INSERT INTO provisioner.targets AS t (target, known_at)
    SELECT unnest($3::text[]), now()
    ON CONFLICT (target) DO UPDATE SET known_at = now() WHERE t.known_at IS NULL
)
INSERT INTO provisioner.workers (name, version, targets, lease_until)
VALUES ($1, $2, $3, clock_timestamp() + $4)
RETURNING id;

-- :name renew
-- Renew the lease of worker $1 by $2 and store its heartbeat. No row: the lease has expired, and others have taken
-- over.
UPDATE provisioner.workers
SET lease_until = clock_timestamp() + $2, seen_at = clock_timestamp(), created = $3, pace = $4, stopping = $5
WHERE id = $1
RETURNING id;

-- :name leave
-- Remove worker $1 from the list once it has no claims.
DELETE FROM provisioner.workers AS w
WHERE w.id = $1 AND NOT EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.worker = w.id)
RETURNING w.id;

-- :name poll
-- What a worker polls every second: whether anything is in line for its targets $1 from (rank, turn, id) = ($2, $3, $7)
-- on, whether anything is due, which leases have expired, and which targets are paused. It also stores how far the
-- queues $4 have been served ($5, $6), which is where new requests join. And it says whether anything needs another
-- query, so that an idle worker asks nothing else: outcomes that were set aside and are due, quarantined keys and
-- projects, slots that somebody waits for, operators' limits, forecasts that are due. One statement, and no write while
-- nothing moves.
WITH served AS (
    INSERT INTO provisioner.fair_cursors (target, rank, turn)
    SELECT * FROM unnest($4::text[], $5::integer[], $6::bigint[])
    ON CONFLICT (target, rank) DO UPDATE SET turn = excluded.turn WHERE fair_cursors.turn < excluded.turn
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
    (SELECT w.run_at FROM provisioner.waiting AS w WHERE w.run_at < 'infinity' ORDER BY w.run_at LIMIT 1) AS next_due,
    EXISTS (SELECT FROM provisioner.workers AS k WHERE k.lease_until < now()) AS lapsed,
    ARRAY (
        SELECT l.target FROM unnest($1::text[]) AS l (target)
        WHERE EXISTS (
            SELECT FROM provisioner.targets AS t
            WHERE t.target IN (l.target, split_part(l.target, '/', 1)) AND t.paused_at IS NOT NULL
        )
    ) AS paused,
    EXISTS (SELECT FROM provisioner.unrecorded AS u WHERE u.retry_at <= clock_timestamp()) AS late,
    ARRAY (
        SELECT l.target FROM unnest($1::text[]) AS l (target)
        WHERE
            EXISTS (
                SELECT FROM provisioner.credential_health AS h
                WHERE h.target = l.target AND h.quarantined_since IS NOT NULL AND h.credential NOT LIKE 'sealed-%'
            )
            OR EXISTS (SELECT FROM provisioner.project_health AS h WHERE h.target = l.target)
    ) AS troubled,
    ARRAY (
        SELECT c.target FROM provisioner.concurrency AS c
        WHERE
            c.target = ANY ($1::text[])
            AND EXISTS (SELECT FROM unnest(c.held, c.wanted) AS h (held, wanted) WHERE h.held < h.wanted)
    ) AS awaited,
    (
        SELECT jsonb_object_agg(
            t.target, jsonb_build_object(
                'writes', t.writes_limit, 'period', t.writes_period, 'in_flight', t.in_flight_limit, 'by', t.limited_by
            )
        )
        FROM provisioner.targets AS t
        WHERE t.target = ANY ($1::text[]) AND t.limited_at IS NOT NULL
    ) AS limits,
    ARRAY (SELECT l.target FROM lines AS l) AS targets,
    ARRAY (SELECT l.rank FROM lines AS l) AS ranks,
    ARRAY (SELECT l.turn FROM lines AS l) AS turns,
    ARRAY (SELECT l.id FROM lines AS l) AS ids,
    EXISTS (SELECT FROM provisioner.forecast_turn AS o WHERE o.due_at <= clock_timestamp())
    AND (
        EXISTS (SELECT FROM lines)
        OR EXISTS (SELECT FROM provisioner.forecasts)
        OR EXISTS (SELECT FROM provisioner.waiting AS w WHERE w.run_at < 'infinity' ORDER BY w.run_at LIMIT 1)
    ) AS forecast_due;

-- :name promote
-- Put at most $1 due requests in line, each project's one behind the other. Retried requests have had their turn
-- already, so they go before all untried ones, at negative turns that begin at the present first retried request.
-- There, too, a project's requests follow each other, so that one project's thousand retries delay nobody else's.
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
told AS (
    SELECT d.*, s.id IS NOT NULL AS tried
    FROM due AS d
    -- One by one, because a join may be planned as a scan of every request that was ever tried.
    LEFT JOIN LATERAL (
        SELECT a.id FROM provisioner.attempt_state AS a
        WHERE a.id = d.id AND a.error_message IS NOT NULL AND NOT a.cancelled
        LIMIT 1
    ) AS s ON true
),
-- Written with arrays, so that no plan can compare every row with every project.
newcomers AS (
    SELECT d.target, d.rank, d.project_id, d.tried, array_agg(d.id ORDER BY d.run_at, d.id) AS ids
    FROM told AS d
    GROUP BY d.target, d.rank, d.project_id, d.tried
),
queued AS (
    INSERT INTO provisioner.ready (target, rank, turn, id, project_id)
    SELECT n.target, n.rank, b.turn + u.place, u.id, n.project_id
    FROM newcomers AS n
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN NOT n.tried THEN coalesce(
                    (SELECT t.turn FROM provisioner.fair_cursors AS t WHERE t.target = n.target AND t.rank = n.rank), 0
                )
                ELSE coalesce(
                    (
                        SELECT r.turn FROM provisioner.ready AS r
                        WHERE r.target = n.target AND r.project_id = n.project_id AND r.rank = n.rank AND r.turn < 0
                        ORDER BY r.turn DESC
                        LIMIT 1
                    ),
                    (
                        SELECT r.turn - 1 FROM provisioner.ready AS r
                        WHERE r.target = n.target AND r.rank = n.rank AND r.turn < 0
                        ORDER BY r.turn, r.id
                        LIMIT 1
                    ),
                    -1000000000000
                )
            END AS turn
    ) AS b
    CROSS JOIN LATERAL unnest(n.ids) WITH ORDINALITY AS u (id, place)
    RETURNING target, rank, turn
)
SELECT q.target, q.rank, min(q.turn) AS turn, count(*) AS moved
FROM queued AS q
GROUP BY q.target, q.rank
ORDER BY q.target, q.rank;

-- :name rescue
-- Take over the claims of workers whose lease has expired. Their attempts may have made the connection: they wait for
-- $1, with the error $3 and the message $4. This also takes over claims whose worker is no longer listed at all, except
-- those that were set aside.
WITH lapsed AS (
    SELECT w.id, w.name FROM provisioner.workers AS w WHERE w.lease_until < now() FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM provisioner.in_flight AS f
    WHERE
        f.worker IN (SELECT l.id FROM lapsed AS l)
        OR (
            NOT EXISTS (SELECT FROM provisioner.workers AS w WHERE w.id = f.worker)
            AND NOT EXISTS (SELECT FROM provisioner.unrecorded AS u WHERE u.id = f.id AND u.fence = f.fence)
        )
    RETURNING f.*
),
struck AS (
    DELETE FROM provisioner.workers AS w USING lapsed AS l WHERE w.id = l.id
),
kept AS (
    INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, cancelled, error_code, error_message)
    SELECT
        t.id, t.attempt, 1, 0, t.claimed_at, t.cancelled, $3, $4
    FROM taken AS t
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, sent = attempt_state.sent + 1,
        cancelled = attempt_state.cancelled OR excluded.cancelled,
        error_code = excluded.error_code, error_message = excluded.error_message, updated_at = now()
),
doubted AS (
    -- The claim is the evidence. What was sent cannot have been edited since, but a marker may have been added. For
    -- requests whose result carries the claim's mark, the mark is the evidence.
    INSERT INTO provisioner.sent_creates (id, sent_at, ended_at, target, project_id, name, description, exact, key_fingerprint)
    SELECT
        t.id, t.claimed_at, clock_timestamp(), q.target, q.project_id, q.name,
        btrim(coalesce(q.description, ''), $2), false,
        CASE WHEN q.marked THEN t.id || '.' || t.attempt || '-' || lpad(to_hex(t.fence & 16777215), 6, '0') END
    FROM taken AS t
    -- One by one, because a join is planned as a scan of the wide table.
    CROSS JOIN LATERAL (
        SELECT
            r.target, r.project_id, r.name, r.description, false AS marked,
            r.wanted = 'absent' AND r.connection_id IS NOT NULL AS no_create
        FROM provisioner.connection_requests AS r
        WHERE r.id = t.id
        UNION ALL
        SELECT r.target, r.project_id, r.name, r.description, true, r.rotation_id IS NOT NULL
        FROM provisioner.rotation_requests AS r
        WHERE r.id = t.id
        LIMIT 1
    ) AS q
    -- Nothing is created for a request that is only to be deleted, nor by a claim of a recorded rotation.
    WHERE q.no_create IS NOT TRUE
    ON CONFLICT (id, sent_at) DO UPDATE SET ended_at = greatest(sent_creates.ended_at, excluded.ended_at)
),
logged AS (
    INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, outcome, error_code, error_message)
    SELECT
        t.id, t.attempt, t.worker, 'create', t.claimed_at, clock_timestamp(), 'unknown', $3, $4
    FROM taken AS t
),
waiting AS (
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT t.id, clock_timestamp() + $1, t.target, t.rank, t.project_id FROM taken AS t
)
SELECT
    (SELECT count(*) FROM taken) AS requests,
    ARRAY (SELECT l.name FROM lapsed AS l) AS workers;

-- :name strangers
-- Targets that have requests in line and that no worker has ever had, or has now: `targets` may have been emptied by
-- hand, or omitted from a restore. One step of the index per target.
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
    AND NOT EXISTS (SELECT FROM provisioner.targets AS t WHERE t.target = q.target AND t.known_at IS NOT NULL)
    AND NOT EXISTS (SELECT FROM provisioner.workers AS w WHERE q.target = ANY (w.targets));

-- :name fail_unknown_targets
-- Fail at most $2 requests in line for target $1, which no worker has ever had, with the error $3 and the message $4.
SELECT d.id FROM provisioner.fail_unknown_targets($1, $2, $3, $4) AS d (id);

-- :name left
-- What `run --drain` still waits for: requests that are ready, in flight, or waiting for another attempt. It does not
-- wait for what is scheduled for later, held until somebody fixes its credential, set aside, paused, or another
-- worker's target ($1 are ours).
SELECT
    EXISTS (
        SELECT FROM provisioner.ready AS r
        WHERE r.target = ANY ($1::text[])
            AND split_part(r.target, '/', 1) NOT IN (SELECT t.target FROM provisioner.targets AS t WHERE t.paused_at IS NOT NULL)
    )
    OR EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.target = ANY ($1::text[]) AND f.worker <> 0)
    OR EXISTS (
        SELECT FROM provisioner.waiting AS w
        WHERE w.target = ANY ($1::text[])
            AND split_part(w.target, '/', 1) NOT IN (SELECT t.target FROM provisioner.targets AS t WHERE t.paused_at IS NOT NULL)
            AND w.quarantine IS NULL
            AND (w.run_at <= now() OR EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id))
    ) AS left;

-- :name wipe
-- Wipe at most $2 sealed keys of requests that failed at least $1 ago.
SELECT b.due, b.wiped FROM provisioner.wipe_failed_boxes($1::interval, $2) AS b;

-- :name fold
-- Fold at most $1 changes into the counts of requests.
SELECT provisioner.fold_counts($1) AS folded;

-- :name retried
-- Add $2 attempts that ended in a retry to the history of the targets $1.
SELECT provisioner.add_history($1::text[], z.none, z.none, $2::bigint[])
FROM (SELECT array_fill(0::bigint, ARRAY[cardinality($2::bigint[])]) AS none) AS z;

-- :name turn_log
-- Rotate the attempt log, dropping what is older than $1; false if a lock prevented it.
SELECT provisioner.turn_attempt_log($1) AS turned;

-- :name sweep
-- Put up to about $1 pending requests without a place in line, unless that was done within $2.
SELECT s.seen, s.placed, s.done FROM provisioner.sweep($1, $2) AS s;

-- :name misplaced
-- Those of the $2 requests above the id $1 that are pending without a place in line; and the last id that was checked.
SELECT coalesce(m.ids, '{}') AS ids, m.last FROM provisioner.misplaced($1, $2) AS m;

-- :name put_in_line
-- Put the requests $1, which are pending without a place, in line.
SELECT provisioner.put_in_line($1::bigint[]) AS placed;

-- :name recount
-- Correct the counts of requests.
SELECT provisioner.recount() AS corrected;
