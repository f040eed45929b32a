-- What operators do: by the functions of the schema, so that the command line can do nothing that SQL could not.

-- :name cancel
-- Call requests $1 off and count what became of them.
SELECT c.outcome AS word, count(*) AS requests FROM provisioner.cancel($1) AS c GROUP BY c.outcome;

-- :name retry
-- Try requests $1 again and count what they were.
SELECT r.was AS word, count(*) AS requests FROM provisioner.retry($1) AS r GROUP BY r.was;

-- :name pause
-- Hold target $1. No row: it is held already.
SELECT p.paused_at, p.paused_by FROM provisioner.pause($1) AS p;

-- :name resume
-- Let target $1 go on, and tell since when it was held. No row: it was not held.
SELECT p.paused_at, p.paused_by FROM provisioner.resume($1) AS p;

-- :name set_limit
-- Limit target $1 to $2 writes in $3 and to $4 creates in flight; what is NULL stays, and all of them lift the limit.
SELECT l.writes, l.period, l.in_flight, l.limited_at, l.limited_by FROM provisioner.set_limit($1, $2, $3, $4) AS l;

-- :name held
-- Since when target $1 is held, and by whom. No row: it is not.
SELECT t.paused_at, t.paused_by FROM provisioner.targets AS t WHERE t.target = $1 AND t.paused_at IS NOT NULL;

-- :name served
-- Every target that workers serve, or that was held or learned about before.
SELECT s.target FROM provisioner.workers AS w CROSS JOIN LATERAL unnest(w.targets) AS s (target)
UNION
SELECT t.target FROM provisioner.targets AS t
UNION
SELECT p.target FROM provisioner.permits AS p;
