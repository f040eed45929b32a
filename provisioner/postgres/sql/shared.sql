-- What workers tell one another about a target and about keys.

-- :name clock
-- The clock of target $1, if a worker measured it within a day: an unchecked clock drifts.
SELECT t.clock_low AS low, t.clock_high AS high
FROM provisioner.targets AS t
WHERE t.target = $1 AND t.clock_at > now() - interval '1 day' AND t.clock_low <= t.clock_high;

-- :name save_clock
-- Infisical's clock at target $1 is $2 to $3 seconds ahead of this server's.
INSERT INTO provisioner.targets AS t (target, clock_low, clock_high, clock_at)
VALUES ($1, $2, $3, now())
ON CONFLICT (target) DO UPDATE SET clock_low = excluded.clock_low, clock_high = excluded.clock_high, clock_at = now();

-- :name report
-- Report that worker $3 withholds creates at target $1 because of $2: each worker has its own breakers. Writes nothing if
-- the same was reported a moment ago.
INSERT INTO provisioner.target_incidents AS t (target, reason, reporter)
VALUES ($1, $2, $3)
ON CONFLICT (target, reporter) DO UPDATE SET reason = excluded.reason, reported_at = clock_timestamp()
WHERE t.reason <> excluded.reason OR t.reported_at < clock_timestamp() - interval '3 seconds';

-- :name resolve
-- Target $1 works for worker $2; reports of workers that are gone are removed too.
DELETE FROM provisioner.target_incidents AS t
WHERE t.target = $1 AND (t.reporter = $2 OR t.reported_at < clock_timestamp() - interval '1 minute');

-- :name verdict
-- The verdict on the key with fingerprint $1, and its age in seconds.
SELECT v.verdict, extract(EPOCH FROM clock_timestamp() - v.asked_at)::double precision AS age
FROM provisioner.key_verdicts AS v
WHERE v.fingerprint = $1;

-- :name save_verdict
-- Store verdict $2 on the key with fingerprint $1.
INSERT INTO provisioner.key_verdicts (fingerprint, verdict, asked_at) VALUES ($1, $2, clock_timestamp())
ON CONFLICT (fingerprint) DO UPDATE SET verdict = excluded.verdict, asked_at = excluded.asked_at;
