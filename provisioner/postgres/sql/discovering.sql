-- New projects of an Infisical get their requests by themselves: one worker looks in each round.

-- :name take
-- Take the round at target $1, unless one began within the last $2. No row: it is not time, or somebody else's.
INSERT INTO provisioner.discover_rounds AS r (target, started_at) VALUES ($1, clock_timestamp())
ON CONFLICT (target) DO UPDATE SET started_at = clock_timestamp()
WHERE r.started_at < clock_timestamp() - $2::interval
RETURNING r.target;

-- :name ask
-- Ask for a connection in projects $2 of target $1, called $3, with credential $4 and batch $5, where nobody has asked.
SELECT provisioner.request_discovered($1, $2::uuid[], $3::text[], $4, $5) AS requests;
