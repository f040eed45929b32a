-- The measured clock that a target's Infisical uses for creation times.

-- :name load
-- The clock of target $1, if a worker measured it within a day: an unchecked clock drifts.
SELECT t.clock_low AS low, t.clock_high AS high
FROM provisioner.targets AS t
WHERE t.target = $1 AND t.clock_at > now() - interval '1 day' AND t.clock_low <= t.clock_high;

-- :name save
-- Infisical's clock at target $1 is $2 to $3 seconds ahead of this server's.
INSERT INTO provisioner.targets AS t (target, clock_low, clock_high, clock_at)
VALUES ($1, $2, $3, now())
ON CONFLICT (target) DO UPDATE SET clock_low = excluded.clock_low, clock_high = excluded.clock_high, clock_at = now();
