-- Standing verification: a round over everything recorded at a target, one worker at a time, and the differences.

-- :name take
-- Take the turn at target $1 as $2 for $3, if no worker has it, and if a round is in progress or the last one began $4
-- ago. No row: it is not our turn. A new round begins if there was none, or if the last one has ended.
INSERT INTO provisioner.verify_rounds AS r (target, holder, lease_until)
VALUES ($1, $2, clock_timestamp() + $3::interval)
ON CONFLICT (target) DO UPDATE SET
    holder = excluded.holder,
    lease_until = excluded.lease_until,
    previous_at = CASE WHEN r.finished_at IS NULL THEN r.previous_at ELSE r.started_at END,
    started_at = CASE WHEN r.finished_at IS NULL THEN r.started_at ELSE clock_timestamp() END,
    project_id = CASE WHEN r.finished_at IS NULL THEN r.project_id END,
    name = CASE WHEN r.finished_at IS NULL THEN r.name END,
    finished_at = NULL
WHERE r.lease_until < clock_timestamp() AND (r.finished_at IS NULL OR r.started_at < clock_timestamp() - $4::interval)
RETURNING r.target, r.holder, r.started_at, r.project_id::text AS project_id, r.name;

-- :name next_missed
-- When the next request that was missed at target $1 may be checked again, $2 after it was missed. No row: none is
-- missed.
SELECT d.missed_at + $2::interval AS at
FROM provisioner.drifts AS d
WHERE d.target = $1 AND d.drift IS NULL AND d.missed_at IS NOT NULL AND NOT d.unread
ORDER BY d.missed_at
LIMIT 1;

-- :name since
-- Since when those of the requests $1 that were missed have been missed.
SELECT d.id, d.missed_at FROM provisioner.drifts AS d WHERE d.id = ANY ($1::bigint[]) AND d.missed_at IS NOT NULL;

-- :name advance
-- Keep the turn at target $1 as $2 for $3, after project $4 and name $5 if given. No row: another worker has it.
UPDATE provisioner.verify_rounds AS r
SET
    lease_until = clock_timestamp() + $3::interval,
    project_id = coalesce($4::uuid, r.project_id), name = coalesce($5::text, r.name)
WHERE r.target = $1 AND r.holder = $2 AND r.lease_until > clock_timestamp()
RETURNING r.target;

-- :name note
-- Store the differences of the requests $1 of target $2: drifts $3, missed since $4, unreadable $5.
INSERT INTO provisioner.drifts AS d (id, target, drift, missed_at, unread)
SELECT v.id, $2, v.drift, v.missed_at, v.unread
FROM unnest($1::bigint[], $3::text[], $4::timestamptz[], $5::boolean[]) AS v (id, drift, missed_at, unread)
ON CONFLICT (id) DO UPDATE SET
    drift = CASE WHEN excluded.unread THEN d.drift ELSE excluded.drift END, missed_at = excluded.missed_at,
    unread = excluded.unread, seen_at = clock_timestamp(),
    since = CASE WHEN d.drift IS NULL THEN clock_timestamp() ELSE d.since END;

-- :name clear
-- The requests $1 are as they were recorded.
DELETE FROM provisioner.drifts AS d WHERE d.id = ANY ($1::bigint[]);

-- :name finish
-- The round of target $1 that $2 has is over; differences of requests that are no longer recorded are cleared.
WITH ended AS (
    UPDATE provisioner.verify_rounds AS r
    SET finished_at = clock_timestamp(), lease_until = clock_timestamp()
    WHERE r.target = $1 AND r.holder = $2
    RETURNING r.target
)
DELETE FROM provisioner.drifts AS d
USING ended AS e
WHERE
    d.target = e.target
    AND NOT EXISTS (SELECT FROM provisioner.{requests} AS q WHERE q.id = d.id AND q.status = 'succeeded');

-- :name leave
-- Let another worker continue at target $1, from where $2 stopped.
UPDATE provisioner.verify_rounds AS r SET lease_until = clock_timestamp() WHERE r.target = $1 AND r.holder = $2;
