-- :name read
-- The concurrency of target $1, the time, which of the workers with a part of it have a valid lease, and the operator's
-- limits there, for all of the target's lines.
SELECT
    c.version, extract(EPOCH FROM clock_timestamp())::double precision AS now,
    ARRAY (SELECT w.id FROM provisioner.workers AS w WHERE w.id = ANY (c.workers) AND w.lease_until > clock_timestamp()) AS alive,
    t.writes_limit AS allowed_writes, t.writes_period AS allowed_period, t.in_flight_limit AS allowed_in_flight,
    c.workers, c.held, c.wanted, c.running,
    c.address, c.in_flight_limit, c.metered, c.usual, c.calls, c.accepted, c.elapsed, c.failed, c.headers, c.pressed, c.ended_at,
    c.stalled_at, c.stalled_with, c.cliff, c.cliff_at, c.bar, c.memory
FROM provisioner.concurrency AS c
LEFT JOIN provisioner.targets AS t ON t.target = split_part(c.target, '/', 1)
WHERE c.target = $1;

-- :name open
-- Create the row of a target that no worker has used yet; another worker may be quicker.
INSERT INTO provisioner.concurrency (target, address, in_flight_limit) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- :name write
-- Write the row unless it was changed since version $2 was read.
UPDATE provisioner.concurrency
SET
    version = version + 1, workers = $3, held = $4, wanted = $5, running = $6,
    address = $7, in_flight_limit = $8, metered = $9, usual = $10, calls = $11, accepted = $12, elapsed = $13, failed = $14,
    headers = $15, pressed = $16, ended_at = $17, stalled_at = $18, stalled_with = $19, cliff = $20, cliff_at = $21, bar = $22,
    memory = $23, updated_at = clock_timestamp()
WHERE target = $1 AND version = $2
RETURNING version;
