-- What the demo's user writes, on the user's own database.

-- :name projects
-- The user's own table, as every company has one.
CREATE TABLE projects (infisical_project_id uuid);

-- :name fill
-- The projects that the simulated Infisical has.
INSERT INTO projects SELECT unnest($1::uuid[]);

-- :name onboard
-- The whole of onboarding.
INSERT INTO provisioner.connection_requests (project_id)
SELECT infisical_project_id FROM projects ON CONFLICT DO NOTHING;

-- :name progress
-- How far everything is.
SELECT ready, waiting, in_flight, succeeded, failed FROM provisioner.batch_progress WHERE total;

-- :name rows
-- Every request, for the auditor.
SELECT
    id, project_id::text, name, status, connection_id::text, credentials_hash, adopted, error_code, error_message,
    NOT adopted AND EXISTS (
        SELECT FROM provisioner.attempts AS a WHERE a.request_id = q.id AND a.outcome = 'found'
    ) AS found_again
FROM provisioner.connection_requests AS q
ORDER BY id;
