-- Whether rows are as the triggers would have left them.

-- :name start
-- The id after which the newest $1 requests begin, and whether these are all.
SELECT
    coalesce((SELECT q.id FROM provisioner.connection_requests AS q ORDER BY q.id DESC OFFSET $1 LIMIT 1), 0) AS last,
    NOT EXISTS (SELECT FROM provisioner.connection_requests AS q ORDER BY q.id DESC OFFSET $1 LIMIT 1) AS whole;

-- :name miscounted
-- The number of wrong counts.
SELECT count(*) AS counts FROM provisioner.miscounted AS m;

-- :name unasked
-- Of $1 waiting rotations, the number whose connection has no request; the oldest of them, and its connection.
SELECT count(*) AS rotations, min(r.id) AS example_id, (array_agg(r.connection ORDER BY r.id))[1] AS connection
FROM (SELECT a.id FROM provisioner.waiting AS a WHERE a.quarantine = 'connection' LIMIT $1) AS w
JOIN provisioner.rotation_requests AS r ON r.id = w.id
WHERE
    NOT EXISTS (
        SELECT FROM provisioner.connection_requests AS q
        WHERE q.target = r.target AND q.project_id = r.project_id AND q.name = r.connection
    );
