-- The story of one request; where many are looked for: see `candidates.sql`.

-- :name drift
-- How the connection of request $1 differs from what was recorded, and when it was compared last.
SELECT s.drift, s.verified_at FROM provisioner.request_status AS s WHERE s.id = $1;
