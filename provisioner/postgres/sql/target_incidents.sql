-- Why workers hold creates back at a target: each worker has breakers of its own and reports for itself.

-- :name report
-- Report why worker $3 holds back at target $1 ($2). Writes nothing while the same was reported a moment ago.
INSERT INTO provisioner.target_incidents AS t (target, reason, reporter)
VALUES ($1, $2, $3)
ON CONFLICT (target, reporter) DO UPDATE SET reason = excluded.reason, reported_at = clock_timestamp()
WHERE t.reason <> excluded.reason OR t.reported_at < clock_timestamp() - interval '3 seconds';

-- :name resolve
-- Target $1 works for worker $2; what workers that are gone have left behind goes, too.
DELETE FROM provisioner.target_incidents AS t
WHERE t.target = $1 AND (t.reporter = $2 OR t.reported_at < clock_timestamp() - interval '1 minute');
