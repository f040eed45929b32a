-- What the demo's user writes, on the user's own database.

-- :name projects
CREATE TABLE projects (infisical_project_id uuid);

-- :name fill
INSERT INTO projects SELECT unnest($1::uuid[]);

-- :name onboard
INSERT INTO provisioner.connection_requests (project_id)
SELECT infisical_project_id FROM projects ON CONFLICT DO NOTHING;

-- :name progress
SELECT ready, waiting, in_flight, succeeded, failed FROM provisioner.batch_progress WHERE total;

-- :name rows
SELECT
    id, project_id::text, name, status, connection_id::text, credentials_hash, adopted, error_code, error_message
FROM provisioner.connection_requests
ORDER BY id;
