-- What the workers know together about API keys: see migrations/0004_health.sql.

-- :name salt
-- What fingerprints are salted with.
SELECT s.salt::text FROM provisioner.salt AS s;

-- :name ask
-- Ask for leave to try the key with fingerprint $3 of credential $2 at target $1. Three tries a time, all workers counted
-- together, until the key is accepted or held; a try that says nothing for 5 s keeps nobody waiting, its worker may be lost.
-- A held key is tried by a probe, and by requests that were refused with it before ($4), so that these come to their end.
WITH asked AS (
    INSERT INTO provisioner.credential_health AS h (target, credential, fingerprint, trials, tried_at)
    VALUES ($1, $2, $3, 1, clock_timestamp())
    ON CONFLICT (target, credential, fingerprint) DO UPDATE SET
        trials = CASE WHEN h.tried_at < clock_timestamp() - interval '5 seconds' THEN h.refusals ELSE h.trials END + 1,
        tried_at = clock_timestamp(), probing = false
    WHERE
        CASE
            WHEN h.held_since IS NOT NULL THEN h.probing OR ($4 AND h.trials < 9)
            ELSE
                (h.accepted_at IS NULL OR h.accepted_at < clock_timestamp() - interval '10 minutes')
                AND (h.trials < 3 OR h.tried_at < clock_timestamp() - interval '5 seconds')
        END
    RETURNING h.target
)
SELECT
    EXISTS (SELECT FROM asked) AS granted,
    h.held_since IS NOT NULL AS held,
    CASE
        WHEN h.held_since IS NULL AND h.accepted_at >= clock_timestamp() - interval '10 minutes'
            THEN extract(EPOCH FROM clock_timestamp() - h.accepted_at)::double precision
    END AS accepted_ago
FROM (VALUES (1)) AS one (row)
LEFT JOIN provisioner.credential_health AS h ON h.target = $1 AND h.credential = $2 AND h.fingerprint = $3;

-- :name undecided
-- A try said nothing: somebody else may try.
UPDATE provisioner.credential_health AS h
SET trials = greatest(h.trials - 1, h.refusals)
WHERE h.target = $1 AND h.credential = $2 AND h.fingerprint = $3;

-- :name accepted
-- The key works: whoever was held because of it is due now.
WITH known AS (
    INSERT INTO provisioner.credential_health AS h (target, credential, fingerprint, accepted_at)
    VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (target, credential, fingerprint) DO UPDATE SET
        accepted_at = clock_timestamp(), trials = 0, refusals = 0, held_since = NULL, reason = NULL, probing = false
),
freed AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), hold = NULL
    WHERE w.target = $1 AND w.hold = 'credential:' || $2
    RETURNING w.id
)
SELECT EXISTS (SELECT FROM freed) OR EXISTS (
    SELECT FROM provisioner.credential_health AS h
    WHERE h.target = $1 AND h.credential = $2 AND h.fingerprint = $3 AND h.held_since IS NOT NULL
) AS released;

-- :name suspect
-- A key that worked is refused: it is tried like an unknown one.
UPDATE provisioner.credential_health AS h
SET accepted_at = NULL, trials = 0, refusals = 0
WHERE h.target = $1 AND h.credential = $2 AND h.fingerprint = $3 AND h.accepted_at IS NOT NULL;

-- :name refused
-- The key is refused; the third refusal holds it. A first probe goes out after half a minute.
WITH noted AS (
    INSERT INTO provisioner.credential_health AS h (target, credential, fingerprint, refusals, reason)
    VALUES ($1, $2, $3, 1, $4)
    ON CONFLICT (target, credential, fingerprint) DO UPDATE SET
        accepted_at = NULL, refusals = h.refusals + 1, reason = $4,
        held_since = CASE WHEN h.refusals >= 2 THEN coalesce(h.held_since, clock_timestamp()) END,
        probe_pause = CASE WHEN h.held_since IS NULL THEN 60 ELSE h.probe_pause END,
        probe_at = CASE WHEN h.held_since IS NULL THEN clock_timestamp() + interval '30 seconds' ELSE h.probe_at END
    RETURNING h.held_since, h.refusals
)
SELECT n.held_since IS NOT NULL AS held, n.held_since IS NOT NULL AND n.refusals = 3 AS newly FROM noted AS n;

-- :name hold_back
-- Take at most $4 requests with credential $2 out of the line, but for those that were refused before: these come to their
-- end. What it brings back waits for $3.
WITH gone AS (
    DELETE FROM provisioner.ready
    WHERE ctid = ANY (ARRAY (
        SELECT r.ctid
        FROM provisioner.ready AS r
        JOIN provisioner.connection_requests AS q ON q.id = r.id
        WHERE
            r.target = $1 AND replace(lower(q.credential), '_', '-') = $2
            AND NOT EXISTS (SELECT FROM provisioner.setbacks AS s WHERE s.id = r.id AND s.failures > 0)
        LIMIT $4
        FOR UPDATE OF r SKIP LOCKED
    ))
    RETURNING id, target, rank, project_id
)
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, hold)
SELECT g.id, clock_timestamp() + $3, g.target, g.rank, g.project_id, 'credential:' || $2 FROM gone AS g
RETURNING id;

-- :name held
-- The keys that are held at target $1. Where a probe of one of ours ($2) is due, one request that waits for it is put in line.
WITH due AS (
    UPDATE provisioner.credential_health AS h
    SET
        probing = true, probe_at = clock_timestamp() + make_interval(secs => h.probe_pause),
        probe_pause = least(h.probe_pause * 2, 300)
    WHERE
        h.target = $1 AND h.held_since IS NOT NULL AND h.probe_at <= clock_timestamp() AND h.fingerprint = ANY ($2::text[])
    RETURNING h.credential, h.fingerprint
),
freed AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), hold = NULL
    WHERE w.id = ANY (ARRAY (
        SELECT (
            SELECT f.id FROM provisioner.waiting AS f
            WHERE f.target = $1 AND f.hold = 'credential:' || d.credential
            LIMIT 1
        )
        FROM due AS d
    ))
)
SELECT
    h.credential, h.fingerprint,
    h.probing OR EXISTS (SELECT FROM due AS d WHERE d.fingerprint = h.fingerprint) AS probing
FROM provisioner.credential_health AS h
WHERE h.target = $1 AND h.held_since IS NOT NULL;

-- :name release
-- A key with fingerprint $3 has taken the place of those of credential $2 that were refused: whoever waits is due now.
WITH replaced AS (
    DELETE FROM provisioner.credential_health AS h
    WHERE h.target = $1 AND h.credential = $2 AND h.fingerprint <> $3 AND h.held_since IS NOT NULL
    RETURNING h.fingerprint
),
freed AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), hold = NULL
    WHERE w.target = $1 AND w.hold = 'credential:' || $2
    RETURNING w.id
)
SELECT EXISTS (SELECT FROM freed) OR EXISTS (SELECT FROM replaced) AS released;

-- :name trouble
-- Say why $3 holds target $1 ($2). Writes nothing while the same was said a moment ago.
INSERT INTO provisioner.troubles AS t (target, reason, teller)
VALUES ($1, $2, $3)
ON CONFLICT (target, teller) DO UPDATE SET reason = excluded.reason, told_at = clock_timestamp()
WHERE t.reason <> excluded.reason OR t.told_at < clock_timestamp() - interval '3 seconds';

-- :name works
-- Say that target $1 works for $2; what others have left behind goes, too.
DELETE FROM provisioner.troubles AS t
WHERE t.target = $1 AND (t.teller = $2 OR t.told_at < clock_timestamp() - interval '1 minute');
