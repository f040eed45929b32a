-- Why workers withhold creates at a target: each worker has its own breakers and reports for itself.

-- :name report
-- Report that worker $3 withholds creates at target $1 because of $2. Writes nothing if the same was reported a moment
-- ago.
INSERT INTO provisioner.target_incidents AS t (target, reason, reporter)
VALUES ($1, $2, $3)
ON CONFLICT (target, reporter) DO UPDATE SET reason = excluded.reason, reported_at = clock_timestamp()
WHERE t.reason <> excluded.reason OR t.reported_at < clock_timestamp() - interval '3 seconds';

-- :name resolve
-- Target $1 works for worker $2; reports of workers that are gone are removed too.
DELETE FROM provisioner.target_incidents AS t
WHERE t.target = $1 AND (t.reporter = $2 OR t.reported_at < clock_timestamp() - interval '1 minute');
