-- One onboarding: the requests that a command asked for, by their ids.

-- :name progress
-- How the requests $1 are, by status and error, and how many of each were tried more than once.
SELECT
    q.status, coalesce(q.error_code, '') AS error_code, count(*) AS requests,
    count(*) FILTER (WHERE greatest(q.attempts, coalesce(s.sent, 0)) > 1) AS retried
FROM provisioner.connection_requests AS q
LEFT JOIN provisioner.attempt_state AS s ON s.id = q.id
WHERE q.id = ANY ($1::bigint[])
GROUP BY 1, 2;

-- :name retry
-- Put those of the requests $1 back in line that failed because of their credential: the settings at hand may have another.
SELECT count(*)
FROM provisioner.retry(
    ARRAY(
        SELECT q.id
        FROM provisioner.connection_requests AS q
        WHERE
            q.id = ANY ($1::bigint[]) AND q.status = 'failed'
            AND q.error_code IN ('credential_refused', 'credential_unknown', 'credential_unreadable')
    )
);
