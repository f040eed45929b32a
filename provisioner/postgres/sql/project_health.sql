-- The projects that are quarantined because the machine identity may not create there. `core/project_health.py`
-- decides; these statements store its decisions.

-- :name checks
-- When the projects of target $1 were checked, and the time.
SELECT clock_timestamp() AS now, c.read_at, c.read_pause, c.probed_at
FROM (VALUES (1)) AS one (row)
LEFT JOIN provisioner.project_checks AS c ON c.target = $1;

-- :name check
-- Write the checks of target $1 unless they were changed since they were read ($2, $3). No row: another worker was
-- quicker.
INSERT INTO provisioner.project_checks AS c (target, read_at, read_pause, probed_at)
VALUES ($1, $4, $5, $6)
ON CONFLICT (target) DO UPDATE SET
    read_at = excluded.read_at, read_pause = excluded.read_pause, probed_at = excluded.probed_at
WHERE c.read_at IS NOT DISTINCT FROM $2 AND c.probed_at IS NOT DISTINCT FROM $3
RETURNING c.target;

-- :name quarantined
-- The quarantined projects of target $1.
SELECT
    q.project_id::text, q.cause, q.reason, q.since, q.confirmed, q.probing, q.probe_at, q.probe_pause
FROM provisioner.project_health AS q
WHERE q.target = $1;

-- :name keep
-- Quarantine project $2 of target $1, or keep it quarantined.
INSERT INTO provisioner.project_health AS q (
    target, project_id, cause, reason, since, confirmed, probing, probe_at, probe_pause
)
SELECT $1, k.* FROM unnest(
    $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::boolean[], $7::boolean[], $8::timestamptz[], $9::interval[]
) AS k
ON CONFLICT (target, project_id) DO UPDATE SET
    cause = excluded.cause, reason = excluded.reason, confirmed = q.confirmed OR excluded.confirmed,
    probing = excluded.probing, probe_at = excluded.probe_at, probe_pause = excluded.probe_pause;

-- :name hold_back
-- Take at most $4 requests for projects $2 of target $1 out of the line. They are tried again after $3.
WITH gone AS (
    DELETE FROM provisioner.ready
    WHERE ctid = ANY (ARRAY (
        SELECT r.ctid
        FROM provisioner.ready AS r
        WHERE r.target = $1 AND r.project_id = ANY ($2::uuid[])
        LIMIT $4
        FOR UPDATE OF r SKIP LOCKED
    ))
    RETURNING id, target, rank, project_id
)
INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id, quarantine)
SELECT g.id, clock_timestamp() + $3::interval, g.target, g.rank, g.project_id, 'project:' || g.project_id FROM gone AS g
RETURNING id;

-- :name release
-- Projects $2 of target $1 are no longer quarantined: the requests that wait for them are due now.
WITH free AS (
    DELETE FROM provisioner.project_health AS q WHERE q.target = $1 AND q.project_id = ANY ($2::uuid[])
),
released AS (
    UPDATE provisioner.waiting AS w
    SET run_at = now(), quarantine = NULL
    WHERE w.target = $1 AND w.quarantine = ANY (SELECT 'project:' || p::text FROM unnest($2::uuid[]) AS p)
    RETURNING w.id
)
SELECT count(*) AS released FROM released;

-- :name release_stragglers
-- Requests at target $1 that began to wait for one of the projects $2 (NULL: any) after its release are due now.
UPDATE provisioner.waiting AS w
SET run_at = now(), quarantine = NULL
WHERE
    w.target = $1
    AND w.quarantine = ANY (coalesce(
        (SELECT array_agg('project:' || p::text) FROM unnest($2::uuid[]) AS p),
        (SELECT array_agg(DISTINCT o.quarantine) FROM provisioner.waiting AS o WHERE o.target = $1 AND o.quarantine LIKE 'project:%')
    ))
    AND NOT EXISTS (
        SELECT FROM provisioner.project_health AS q WHERE q.target = $1 AND w.quarantine = 'project:' || q.project_id
    );

-- :name probe
-- One request may create in project $2 of target $1 now; $3 and $4 say when the next may, unless a probe was granted
-- since $5.
WITH probed AS (
    UPDATE provisioner.project_health AS q SET probing = true, probe_at = $3, probe_pause = $4
    WHERE q.target = $1 AND q.project_id = $2 AND q.probe_at IS NOT DISTINCT FROM $5
    RETURNING q.project_id
)
UPDATE provisioner.waiting AS w
SET run_at = now(), quarantine = NULL
WHERE w.id = ANY (ARRAY (
    SELECT f.id FROM provisioner.waiting AS f
    WHERE f.target = $1 AND f.quarantine = 'project:' || (SELECT p.project_id::text FROM probed AS p)
    ORDER BY f.id
    LIMIT 1
))
RETURNING w.id;

-- :name take_probe
-- Take the probe of project $2 of target $1, unless another worker has.
UPDATE provisioner.project_health AS q SET probing = false
WHERE q.target = $1 AND q.project_id = $2 AND q.probing
RETURNING q.project_id;

-- :name wanted
-- At most $2 projects for which requests at target $1 are in flight or in line; claims of other workers may not have
-- been sent yet. It jumps from project to project in the index: a few projects may have a million requests.
WITH RECURSIVE project AS (
    (
        SELECT r.project_id FROM provisioner.ready AS r WHERE r.target = $1 ORDER BY r.target, r.project_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT r.project_id FROM provisioner.ready AS r
        WHERE r.target = $1 AND r.project_id > p.project_id
        ORDER BY r.target, r.project_id
        LIMIT 1
    )
    FROM project AS p
    WHERE p.project_id IS NOT NULL
)
SELECT f.project_id::text FROM provisioner.in_flight AS f WHERE f.target = $1
UNION
SELECT n.project_id::text FROM (SELECT p.project_id FROM project AS p WHERE p.project_id IS NOT NULL LIMIT $2) AS n;

-- :name called
-- The name of project $2 of target $1, according to its requests.
SELECT q.project_name FROM provisioner.connection_requests AS q
WHERE q.target = $1 AND q.project_id = $2 AND q.project_name IS NOT NULL
LIMIT 1;

-- :name forget
-- Forget projects of target $1 that have been quarantined for longer than $2 and for which nothing waits.
DELETE FROM provisioner.project_health AS q
WHERE
    q.target = $1 AND q.since < clock_timestamp() - $2::interval
    AND NOT EXISTS (
        SELECT FROM provisioner.waiting AS w WHERE w.target = q.target AND w.quarantine = 'project:' || q.project_id
    );
