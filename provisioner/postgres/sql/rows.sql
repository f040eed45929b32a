-- Whether the rows are as the triggers would have left them.

-- :name start
-- Behind which id the newest $1 requests begin, and whether these are all.
SELECT
    coalesce((SELECT q.id FROM provisioner.connection_requests AS q ORDER BY q.id DESC OFFSET $1 LIMIT 1), 0) AS last,
    NOT EXISTS (SELECT FROM provisioner.connection_requests AS q ORDER BY q.id DESC OFFSET $1 LIMIT 1) AS whole;

-- :name miscounted
-- How many counts are wrong.
SELECT count(*) AS counts FROM provisioner.miscounted AS m;
