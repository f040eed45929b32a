-- Each statement settles a batch of claims of worker $1. A claim that is no longer in flight under that fence and
-- worker was rescued by others meanwhile: it is left alone and not returned.
--
-- Claims are looked up by `id = ANY ($2)`, never by a join alone: between two batches `in_flight` is empty, and once
-- VACUUM has noted that, a join is planned as a scan of all of it, which under an old transaction is every claim of the
-- last hours (measured with 30 000 of them: 445 settlements a second instead of 29 500). IS TRUE keeps IN from becoming
-- a join: it is then a hash table, whereas the planner, expecting one row, would compare every row with every row.
--
-- Each statement sets the parameter `provisioner.recording`, because nobody else may record; it lasts for the
-- transaction, so no session is needed. `core/endings.py` decides the statuses that a statement gets: for the usual
-- case, for a request that was cancelled meanwhile, and for one whose `wanted` or credential has changed. A request
-- that is then pending is in line at once.

-- :part settled
-- The settled ids; raises an error if somebody's trigger has skipped one of the updates.
SELECT u.id FROM updated AS u
UNION ALL
SELECT provisioner.not_updated(s.id) FROM settled AS s WHERE (s.id IN (SELECT u.id FROM updated AS u)) IS NOT TRUE

-- :part back_in_line
-- A pending request that was updated has more work to be done.
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)
    SELECT u.id, clock_timestamp(), u.target || '{line}', -u.priority, u.project_id FROM updated AS u WHERE u.status = 'pending'

-- :part create
-- A single create that was all that was sent, in the form of the log.
    INSERT INTO provisioner.attempts (
        request_id, attempt, worker, action, started_at, ended_at, http_status, req_id, outcome
    )
    SELECT
        o.id, o.attempt, $1, 'create', o.started_at, o.started_at + make_interval(secs => o.elapsed), o.http_status,
        o.req_id, 'created'

-- :name succeed
-- Record what was made, with status $2, or $3 if something else is wanted: one update of the wide row, which also wipes
-- the sealed key. If a single create was all that was sent, it is logged here too: this is the usual case, and saves a
-- statement and a transaction block. A create whose claim was lost was sent all the same and is logged, unless it is
-- logged already (the answer to its settlement may have been lost) or belongs to an older request that had the same id.
-- That is a separate insert: what has just ended cannot be there already, and ON CONFLICT would write a second WAL
-- record for each row (measured: 48 of 1 180 bytes).
WITH outcomes AS (
    SELECT *
    FROM unnest(
        $4::bigint[], $5::bigint[], $6::integer[], $7::integer[], $8::uuid[], $9::boolean[], $10::timestamptz[],
        $11::double precision[], $12::smallint[], $13::text[], $14::timestamptz[],
        -- :only connections
        $15::uuid[], $16::text[], $17::text[], $18::text[]
        -- :only rotations
        $15::uuid[], $16::text[], $17::text[]
        -- :all
    ) AS o (
        id, fence, attempt, sent, made, adopted, started_at, elapsed, http_status, req_id, claimed_at,
        -- :only connections
        org_id, credentials_hash, key_fingerprint, credential
        -- :only rotations
        connection_id, key_issued, left_behind
        -- :all
    )
),
gone AS (
    DELETE FROM provisioner.in_flight AS f
    WHERE
        f.id = ANY ($4::bigint[]) AND f.worker = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
        AND ((f.id, f.fence) IN (SELECT o.id, o.fence FROM outcomes AS o)) IS TRUE
    RETURNING f.id, f.fence, f.attempt
),
settled AS (
    SELECT o.* FROM outcomes AS o WHERE ((o.id, o.fence) IN (SELECT g.id, g.fence FROM gone AS g)) IS TRUE
),
logged AS (
    {create}
    FROM settled AS o
    WHERE o.started_at IS NOT NULL
),
confessed AS (
    {create}
    FROM outcomes AS o
    WHERE
        o.started_at IS NOT NULL
        AND ((o.id, o.fence) IN (SELECT g.id, g.fence FROM gone AS g)) IS NOT TRUE
        AND EXISTS (SELECT FROM provisioner.{requests} AS q WHERE q.id = o.id AND q.created_at <= o.claimed_at)
        AND NOT EXISTS (
            SELECT FROM provisioner.attempts AS a
            WHERE a.request_id = o.id AND a.attempt = o.attempt AND a.action = 'create' AND a.started_at = o.started_at
        )
    ON CONFLICT DO NOTHING
),
forgotten AS (
    DELETE FROM provisioner.attempt_state AS s WHERE s.id = ANY (ARRAY (SELECT g.id FROM gone AS g WHERE g.attempt > 1))
),
updated AS (
    UPDATE provisioner.{requests} AS q
    SET
        status = CASE
            WHEN q.wanted = 'absent' THEN $3::text
            -- :only connections
            WHEN left(q.credential, 160) <> o.credential THEN $3::text
            -- :all
            ELSE $2::text
        END,
        {made} = o.made, adopted = o.adopted, attempts = o.sent, error_code = NULL, error_message = NULL,
        finished_at = clock_timestamp(),
        -- :only connections
        org_id = o.org_id, credentials_hash = o.credentials_hash,
        key_fingerprint = coalesce(o.key_fingerprint, CASE WHEN q.connection_id = o.made THEN q.key_fingerprint END),
        credential = CASE
            WHEN NOT left(q.credential, 160) <> o.credential THEN provisioner.wiped(q.credential)
            ELSE q.credential
        END
        -- :only rotations
        connection_id = o.connection_id, key_issued = o.key_issued, left_behind = provisioner.also_left(q.left_behind, o.left_behind)
        -- :all
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id, q.status, q.wanted, q.target, q.priority, q.project_id
),
-- :only connections
rekeyed AS (
    INSERT INTO provisioner.edits AS e (id, credential)
    SELECT u.id, true FROM updated AS u WHERE u.status = 'pending' AND u.wanted <> 'absent'
    ON CONFLICT (id) DO UPDATE SET credential = true
),
-- :all
wished_otherwise AS (
    {back_in_line}
)
{settled};

-- :name change
-- The edits of those of the requests $2 that worker $1 has just settled ($3) are in Infisical now. A request that got
-- another credential meanwhile is pending, and keeps them.
DELETE FROM provisioner.edits AS e
WHERE
    e.id = ANY ($2::bigint[]) AND e.id = ANY ($3::bigint[]) AND $1::bigint IS NOT NULL
    AND EXISTS (SELECT FROM provisioner.{requests} AS q WHERE q.id = e.id AND q.status = 'succeeded');

-- :name remove
-- No connection of ours exists any more: clear what was made, with status $2, or $3 if it is wanted again, and put it
-- back in line; wipe a sealed key. Add a description of what stays or may stay at OpenRouter.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest(
        $4::bigint[], $5::bigint[], $6::integer[], $7::integer[]
        -- :only rotations
        , $8::text[]
        -- :all
    ) AS o (
        id, fence, attempt, sent
        -- :only rotations
        , left_behind
        -- :all
    )
    WHERE f.id = ANY ($4::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING o.*
),
forgotten AS (
    DELETE FROM provisioner.attempt_state AS s USING settled AS o WHERE s.id = o.id
),
unedited AS (
    DELETE FROM provisioner.edits AS e USING settled AS o WHERE e.id = o.id
),
updated AS (
    UPDATE provisioner.{requests} AS q
    SET
        status = CASE WHEN q.wanted = 'absent' THEN $2::text ELSE $3::text END,
        attempts = o.sent, finished_at = clock_timestamp(), error_code = NULL, error_message = NULL, connection_id = NULL,
        adopted = false,
        -- :only connections
        org_id = NULL, credentials_hash = NULL, key_fingerprint = NULL,
        credential = CASE WHEN q.wanted = 'absent' THEN provisioner.wiped(q.credential) ELSE q.credential END
        -- :only rotations
        rotation_id = NULL, key_issued = NULL, left_behind = provisioner.also_left(q.left_behind, o.left_behind)
        -- :all
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id, q.status, q.target, q.priority, q.project_id
),
wanted_again AS (
    {back_in_line}
)
{settled};

-- :name fail
-- Record failures that need a person. The attempt state is kept: a later `retry` must still know whether one of the
-- attempts may have made the connection.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest(
        $2::bigint[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[], $7::timestamptz[], $8::boolean[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[]
    ) AS o (
        id, fence, attempt, sent, failures, since, absent, error_code, error_message, status, if_cancelled, if_edited
    )
    WHERE f.id = ANY ($2::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING o.*, CASE WHEN f.cancelled THEN o.if_cancelled ELSE o.status END AS standing
),
kept AS (
    INSERT INTO provisioner.attempt_state (id, attempt, sent, failures, since, error_code, error_message)
    SELECT o.id, o.attempt, o.sent, o.failures, o.since, o.error_code, o.error_message FROM settled AS o
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, sent = excluded.sent, failures = excluded.failures,
        error_code = excluded.error_code, error_message = excluded.error_message, updated_at = now()
),
updated AS (
    UPDATE provisioner.{requests} AS q
    SET
        status = CASE WHEN (q.wanted = 'absent') <> o.absent THEN o.if_edited ELSE o.standing END,
        attempts = o.sent,
        error_code = o.error_code,
        error_message = o.error_message,
        -- :only connections
        credential = CASE
            WHEN (q.wanted = 'absent') = o.absent AND o.standing = 'cancelled' THEN provisioner.wiped(q.credential)
            ELSE q.credential
        END,
        -- :all
        finished_at = clock_timestamp()
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id, q.status, q.target, q.priority, q.project_id
),
wished_otherwise AS (
    {back_in_line}
)
{settled};

-- :name put_back
-- Make requests wait for another attempt, or end those that were cancelled and certainly made nothing.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest(
        $2::bigint[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[], $7::timestamptz[], $8::text[], $9::text[],
        $10::double precision[], $11::text[], $12::integer[], $13::text[], $14::text[], $15::text[]
    ) AS o (
        id, fence, attempt, sent, failures, since, error_code, error_message, delay, quarantine, streak, streak_of, status, if_cancelled
    )
    WHERE f.id = ANY ($2::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING
        o.*, f.cancelled, CASE WHEN f.cancelled THEN o.if_cancelled ELSE o.status END AS standing, f.target, f.rank, f.project_id
),
kept AS (
    INSERT INTO provisioner.attempt_state (
        id, attempt, sent, failures, streak, streak_of, since, cancelled, error_code, error_message
    )
    SELECT
        o.id, o.attempt, o.sent, o.failures, o.streak, o.streak_of, o.since, o.cancelled, o.error_code, o.error_message
    FROM settled AS o
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, sent = excluded.sent, failures = excluded.failures,
        streak = excluded.streak, streak_of = excluded.streak_of,
        cancelled = attempt_state.cancelled OR excluded.cancelled,
        error_code = excluded.error_code, error_message = excluded.error_message, updated_at = now()
),
waiting AS (
    INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
    SELECT o.id, clock_timestamp() + make_interval(secs => o.delay), o.target, o.rank, o.project_id, o.quarantine
    FROM settled AS o
    WHERE o.standing = 'pending'
),
ended AS (
    UPDATE provisioner.{requests} AS q
    SET
        -- :only connections
        credential = provisioner.wiped(q.credential),
        -- :all
        status = o.standing, attempts = o.sent, finished_at = clock_timestamp()
    FROM settled AS o
    WHERE q.id = o.id AND o.standing <> 'pending'
    RETURNING q.id
)
SELECT o.id FROM settled AS o
UNION ALL
SELECT provisioner.not_updated(o.id)
FROM settled AS o
WHERE o.standing <> 'pending' AND (o.id IN (SELECT e.id FROM ended AS e)) IS NOT TRUE;

-- :name cancel
-- End requests that were cancelled and, as is now certain, made nothing: they get status $2.
WITH settled AS (
    DELETE FROM provisioner.in_flight AS f
    USING unnest($3::bigint[], $4::bigint[], $5::integer[], $6::integer[]) AS o (id, fence, attempt, sent)
    WHERE f.id = ANY ($3::bigint[]) AND f.id = o.id AND f.fence = o.fence AND f.worker = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'
    RETURNING o.*
),
forgotten AS (
    DELETE FROM provisioner.attempt_state AS s USING settled AS o WHERE s.id = o.id
),
updated AS (
    UPDATE provisioner.{requests} AS q
    SET
        -- :only connections
        credential = provisioner.wiped(q.credential),
        -- :all
        status = $2::text, attempts = o.sent, finished_at = clock_timestamp()
    FROM settled AS o
    WHERE q.id = o.id
    RETURNING q.id
)
{settled};

-- :name doubt
-- The creates in doubt of requests $2, as worker $1 knows them: for those that were just settled ($12), exactly these;
-- for those that others have taken over, these in addition, because they were sent all the same, unless another request
-- has the id now. An id without a create has none left. A request with a plain answer is never among them.
WITH known AS (
    SELECT k.*
    FROM unnest(
        $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[],
        $10::boolean[], $11::text[]
    ) AS k (id, sent_at, ended_at, proof, target, project_id, name, description, exact, key_fingerprint)
    WHERE $1::bigint IS NOT NULL
),
forgotten AS (
    DELETE FROM provisioner.sent_creates
    WHERE ctid = ANY (ARRAY (
        SELECT old.ctid
        FROM unnest($12::bigint[]) AS settled (id)
        CROSS JOIN LATERAL (
            SELECT c.ctid, c.id, c.sent_at FROM provisioner.sent_creates AS c WHERE c.id = settled.id LIMIT 1000
        ) AS old
        WHERE
            old.id = ANY ($2::bigint[])
            AND ((old.id, old.sent_at) IN (SELECT k.id, k.sent_at FROM known AS k WHERE k.sent_at IS NOT NULL)) IS NOT TRUE
    ))
)
INSERT INTO provisioner.sent_creates (
    id, sent_at, ended_at, proof, target, project_id, name, description, exact, key_fingerprint
)
SELECT k.id, k.sent_at, k.ended_at, k.proof, k.target, k.project_id, k.name, k.description, k.exact, k.key_fingerprint
FROM known AS k
CROSS JOIN LATERAL (SELECT s.id FROM provisioner.attempt_state AS s WHERE s.id = k.id LIMIT 1) AS pending
WHERE
    k.sent_at IS NOT NULL
    AND (
        k.id = ANY ($12::bigint[])
        OR EXISTS (SELECT FROM provisioner.{requests} AS q WHERE q.id = k.id AND q.created_at <= k.sent_at)
    )
ON CONFLICT (id, sent_at) DO UPDATE SET
    ended_at = greatest(sent_creates.ended_at, excluded.ended_at), proof = excluded.proof
WHERE excluded.ended_at > sent_creates.ended_at OR excluded.proof <> sent_creates.proof;

-- :name leave_behind
-- Rotations $2 have failed and may have left behind what $3 describes: store it, for those that worker $1 settled, $4.
UPDATE provisioner.rotation_requests AS q
SET left_behind = provisioner.also_left(q.left_behind, o.left_behind)
FROM unnest($2::bigint[], $3::text[]) AS o (id, left_behind)
WHERE q.id = o.id AND q.id = ANY ($4::bigint[]) AND $1::bigint IS NOT NULL;

-- :name log_attempts
-- Log the attempts. An attempt whose claim was lost (it is not among the settled ones $13) is logged too, because it
-- was sent, unless it is logged already (the answer to its settlement may have been lost) or belongs to an older
-- request that had the same id.
INSERT INTO provisioner.attempts (
    request_id, attempt, worker, action, started_at, ended_at, http_status, req_id, outcome, error_code, error_message
)
SELECT
    t.id, t.attempt, $1, t.action, t.started_at, t.started_at + make_interval(secs => t.elapsed), t.http_status, t.req_id,
    t.outcome, t.error_code, t.error_message
FROM unnest(
    $2::bigint[], $3::integer[], $4::text[], $5::timestamptz[], $6::double precision[], $7::smallint[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::timestamptz[]
) AS t (id, attempt, action, started_at, elapsed, http_status, req_id, outcome, error_code, error_message, claimed_at)
WHERE
    t.id = ANY ($13::bigint[])
    OR (
        -- The claim has this server's time; the beginning has the worker's estimate of it.
        EXISTS (SELECT FROM provisioner.{requests} AS q WHERE q.id = t.id AND q.created_at <= t.claimed_at)
        AND NOT EXISTS (
            SELECT FROM provisioner.attempts AS a
            WHERE a.request_id = t.id AND a.attempt = t.attempt AND a.action = t.action AND a.started_at = t.started_at
        )
    )
ON CONFLICT DO NOTHING;

-- :name set_aside
-- Claim $2 of worker $1 ended under fence $3, and the database does not record the outcome. It stays in flight, owned
-- by no worker, with all its data; the first try to record it again is due after $7. No row: others have taken it over.
WITH kept AS (
    UPDATE provisioner.in_flight AS f SET worker = 0 WHERE f.id = $2 AND f.fence = $3 AND f.worker = $1 RETURNING f.id
)
INSERT INTO provisioner.unrecorded (id, fence, connection_id, reason, calls, retry_at)
SELECT k.id, $3, $4, $5, $6::jsonb, clock_timestamp() + $7 FROM kept AS k
ON CONFLICT (id) DO UPDATE SET
    fence = excluded.fence, connection_id = excluded.connection_id, reason = excluded.reason, calls = excluded.calls,
    since = clock_timestamp(), tries = 1, retry_at = excluded.retry_at
RETURNING id;

-- :name take_aside
-- At most $1 outcomes that were set aside and are due. Each pause is twice as long as the previous one, up to five
-- minutes, and no other worker takes the outcome meanwhile.
UPDATE provisioner.unrecorded
SET tries = tries + 1, retry_at = clock_timestamp() + make_interval(secs => least(power(2, least(tries, 10)), 300))
WHERE ctid = ANY (ARRAY (
    SELECT u.ctid FROM provisioner.unrecorded AS u
    WHERE u.retry_at <= clock_timestamp()
    ORDER BY u.retry_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
RETURNING id, fence, calls::text;

-- :name record_aside
-- The outcome of request $1, set aside under fence $2, was recorded.
DELETE FROM provisioner.unrecorded WHERE id = $1 AND fence = $2;

-- :name explain_aside
-- Why the outcome of request $1, set aside under fence $2, still cannot be recorded.
UPDATE provisioner.unrecorded SET reason = $3 WHERE id = $1 AND fence = $2;
