-- The requests of one command, by their ids.

-- :name progress
-- The requests $1 by status and error, and how many of each needed more than one attempt.
SELECT
    q.status, coalesce(q.error_code, '') AS error_code, count(*) AS requests,
    count(*) FILTER (WHERE greatest(q.attempts, coalesce(s.sent, 0)) > 1) AS retried
FROM provisioner.{own}requests AS q
LEFT JOIN provisioner.{own}attempt_state AS s ON s.id = q.id
WHERE q.id = ANY ($1::bigint[])
GROUP BY 1, 2;

-- :name retry
-- Retry those of the requests $1 that failed with one of the codes $2.
SELECT count(*)
FROM provisioner.retry(
    ARRAY(
        SELECT q.id
        FROM provisioner.connection_requests AS q
        WHERE
            q.id = ANY ($1::bigint[]) AND q.status = 'failed'
            AND q.error_code = ANY ($2::text[])
    )
);

-- :name standing
-- What the unfinished ones of the requests $1 wait for: `kind`, the subject, and how many.
WITH pending AS (
    SELECT
        CASE
            WHEN t.paused_at IS NOT NULL THEN 'paused'
            WHEN w.quarantine LIKE 'credential:%' THEN 'quarantined'
            WHEN w.quarantine LIKE 'project:%' THEN 'outside'
            WHEN w.quarantine = 'connection' THEN 'scheduled'
            WHEN w.run_at > now() AND NOT EXISTS (SELECT FROM provisioner.attempt_state AS s WHERE s.id = w.id)
                THEN 'scheduled'
            WHEN NOT EXISTS (
                SELECT FROM provisioner.workers AS o WHERE o.lease_until > clock_timestamp() AND q.target = ANY (o.targets)
            ) THEN 'unserved'
            ELSE 'unfinished'
        END AS kind,
        q.target, w.quarantine
    FROM provisioner.requests AS q
    LEFT JOIN provisioner.waiting AS w ON w.id = q.id
    LEFT JOIN provisioner.targets AS t ON t.target = split_part(q.target, '/', 1)
    WHERE q.id = ANY ($1::bigint[]) AND q.status = 'pending'
)
SELECT
    p.kind,
    CASE WHEN p.kind IN ('paused', 'unserved', 'outside') THEN p.target WHEN p.kind = 'quarantined' THEN substr(p.quarantine, 12) ELSE '' END
        AS whose,
    count(*) AS requests
FROM pending AS p
GROUP BY 1, 2
ORDER BY 3 DESC, 1, 2;

-- :name rotations
-- The number of rotations among the requests $1, and what five of them may have left behind at OpenRouter.
SELECT
    count(*) AS rotations,
    count(q.left_behind) AS leaving,
    (array_agg(q.left_behind ORDER BY q.id) FILTER (WHERE q.left_behind IS NOT NULL))[1:5] AS left_behind
FROM provisioner.rotation_requests AS q
WHERE q.id = ANY ($1::bigint[]);
