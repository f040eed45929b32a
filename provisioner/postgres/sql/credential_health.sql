-- The shared state of API keys. `core/key_health.py` decides; these statements store its decisions.

-- :name salt
-- The salt of fingerprints.
SELECT s.salt::text FROM provisioner.salt AS s;

-- :name read
-- The state of the key with fingerprint $3 of credential $2 at target $1, and the time.
SELECT
    clock_timestamp() AS now, h.version,
    h.accepted_at, h.trials, h.tried_at, h.refusals, h.quarantined_since, h.reason, h.probing, h.probe_at, h.probe_pause
FROM (VALUES (1)) AS one (row)
LEFT JOIN provisioner.credential_health AS h ON h.target = $1 AND h.credential = $2 AND h.fingerprint = $3;

-- :name write
-- Write the state unless it was changed since version $4 was read (0: there was no row), and in the same statement make
-- $14 of the requests that wait for the credential due (NULL: all of them). No row: another worker was quicker.
WITH written AS (
    INSERT INTO provisioner.credential_health AS h (
        target, credential, fingerprint, version, accepted_at, trials, tried_at, refusals, quarantined_since, reason, probing,
        probe_at, probe_pause
    )
    VALUES ($1, $2, $3, 1, $5, $6, $7, $8, $9, $10, $11, $12, $13)
    ON CONFLICT (target, credential, fingerprint) DO UPDATE SET
        version = h.version + 1, accepted_at = excluded.accepted_at, trials = excluded.trials,
        tried_at = excluded.tried_at, refusals = excluded.refusals, quarantined_since = excluded.quarantined_since,
        reason = excluded.reason, probing = excluded.probing, probe_at = excluded.probe_at,
        probe_pause = excluded.probe_pause
    WHERE h.version = $4
    RETURNING h.version
),
released AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), quarantine = NULL
    WHERE
        EXISTS (SELECT FROM written)
        AND w.id = ANY (ARRAY (
            SELECT f.id FROM provisioner.waiting AS f
            WHERE f.target = $1 AND f.quarantine = 'credential:' || $2
            LIMIT $14
        ))
    RETURNING w.id
)
SELECT (SELECT count(*) FROM released) AS released FROM written;

-- :name replace
-- A key with fingerprint $3 has replaced the quarantined ones of credential $2: the waiting requests are due now.
WITH replaced AS (
    DELETE FROM provisioner.credential_health AS h
    WHERE h.target = $1 AND h.credential = $2 AND h.fingerprint <> $3 AND h.quarantined_since IS NOT NULL
    RETURNING h.fingerprint
),
released AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), quarantine = NULL
    WHERE w.target = $1 AND w.quarantine = 'credential:' || $2
    RETURNING w.id
)
SELECT EXISTS (SELECT FROM released) OR EXISTS (SELECT FROM replaced) AS released;

-- :name hold_back
-- Take at most $4 requests with credential $2 out of the line, except those that were refused before, which may finish.
-- They are tried again after $3.
WITH gone AS (
    DELETE FROM provisioner.ready
    WHERE ctid = ANY (ARRAY (
        SELECT r.ctid
        FROM provisioner.ready AS r
        JOIN provisioner.connection_requests AS q ON q.id = r.id
        WHERE
            r.target = $1 AND replace(lower(q.credential), '_', '-') = $2
            AND NOT EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = r.id AND s.failures > 0)
        LIMIT $4
        FOR UPDATE OF r SKIP LOCKED
    ))
    RETURNING id, target, rank, project_id
)
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
SELECT g.id, clock_timestamp() + $3, g.target, g.rank, g.project_id, 'credential:' || $2 FROM gone AS g
RETURNING id;

-- :name quarantined
-- The quarantined keys of target $1 that concern this worker: all of named credentials, because the worker may have
-- another key for them by now, and those sealed keys that it has in hand ($2), because there may be thousands.
SELECT
    clock_timestamp() AS now, h.credential, h.fingerprint, h.version,
    h.accepted_at, h.trials, h.tried_at, h.refusals, h.quarantined_since, h.reason, h.probing, h.probe_at, h.probe_pause
FROM provisioner.credential_health AS h
WHERE h.target = $1 AND h.quarantined_since IS NOT NULL AND h.credential NOT LIKE 'sealed-%'
UNION ALL
SELECT
    clock_timestamp(), h.credential, h.fingerprint, h.version,
    h.accepted_at, h.trials, h.tried_at, h.refusals, h.quarantined_since, h.reason, h.probing, h.probe_at, h.probe_pause
FROM provisioner.credential_health AS h
WHERE h.target = $1 AND h.credential = ANY ($2::text[]) AND h.quarantined_since IS NOT NULL;

-- :name forget
-- Forget at most $3 keys of target $1 that were not tried for $2 and for which nothing waits.
DELETE FROM provisioner.credential_health
WHERE (target, credential, fingerprint) IN (
    SELECT h.target, h.credential, h.fingerprint
    FROM provisioner.credential_health AS h
    WHERE
        h.target = $1 AND h.tried_at < clock_timestamp() - $2::interval
        AND (h.quarantined_since IS NULL OR h.credential LIKE 'sealed-%')
        AND NOT EXISTS (
            SELECT FROM provisioner.waiting AS w WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential
        )
    LIMIT $3
);
