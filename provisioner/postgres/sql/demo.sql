-- The queries of the demo.

-- :name progress
-- The number of requests that have ended.
SELECT succeeded + failed AS ended FROM provisioner.batch_progress WHERE total;

-- :name rows
-- Every request, for the auditor.
SELECT
    id, project_id::text, name, status, connection_id::text, credentials_hash, adopted, error_code, error_message,
    NOT adopted AND EXISTS (
        SELECT FROM provisioner.attempts AS a WHERE a.request_id = q.id AND a.outcome = 'found'
    ) AS found_again
FROM provisioner.connection_requests AS q
ORDER BY id;

-- :name rotations
-- Every rotation, for the auditor.
SELECT
    r.id, r.project_id::text, r.name, r.status, r.rotation_id::text, r.connection_id::text, r.key_issued, r.left_behind,
    r.error_code, r.error_message
FROM provisioner.rotation_requests AS r
ORDER BY r.id;
