-- The history of one request; for searches, see `candidates.sql`.

-- :name drift
-- How the connection of request $1 differs from what was recorded, and when it was last compared.
SELECT s.drift, s.verified_at FROM provisioner.request_status AS s WHERE s.id = $1;
