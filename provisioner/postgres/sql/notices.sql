-- Notices: what to send, and what was sent.

-- :name turn
-- Take the turn to check for notices, unless another worker has within $1. No row, and nothing written: another worker
-- has. Batches that ended while notices were off for a day are not reported in one flood when they are on again.
UPDATE provisioner.notice_turn AS t
SET
    checked_at = clock_timestamp(),
    since = CASE WHEN t.checked_at > clock_timestamp() - interval '1 day' THEN t.since ELSE clock_timestamp() END
WHERE t.checked_at < clock_timestamp() - $1::interval
RETURNING t.checked_at;

-- :name hold
-- Keep the turn that was taken at $1 until the end of the transaction. No row: another worker has taken one since.
SELECT t.checked_at FROM provisioner.notice_turn AS t WHERE t.checked_at = $1 FOR UPDATE;

-- :name finished
-- Batches with nothing pending whose end was not reported, oldest end first. Ends over a week old are ignored.
SELECT
    c.batch, sum(c.requests)::bigint AS requests,
    coalesce(sum(c.requests) FILTER (WHERE c.status = 'succeeded'), 0)::bigint AS succeeded,
    coalesce(sum(c.requests) FILTER (WHERE c.status = 'failed'), 0)::bigint AS failed,
    min(c.started_at) AS started_at, max(c.ended_at) AS ended_at
FROM provisioner.request_counts AS c
LEFT JOIN provisioner.notice_batches AS b ON b.batch = c.batch
CROSS JOIN provisioner.notice_turn AS t
WHERE c.batch IS NOT NULL
GROUP BY c.batch, b.ended_at, t.since
HAVING
    count(*) FILTER (WHERE c.status = 'pending') = 0
    AND max(c.ended_at) > greatest(t.since, b.ended_at, clock_timestamp() - interval '7 days')
ORDER BY max(c.ended_at), c.batch
LIMIT 100;

-- :name known
-- The alerts that were seen before.
SELECT c.kind, c.subject, c.since, c.told, c.gone_at FROM provisioner.notice_concerns AS c ORDER BY c.kind, c.subject;

-- :name forget
-- Forget the alerts that were seen before; the present ones are stored next.
DELETE FROM provisioner.notice_concerns;

-- :name remember
-- Store the present alerts: kinds $1, subjects $2, since $3, whether sent $4, gone since $5.
INSERT INTO provisioner.notice_concerns (kind, subject, since, told, gone_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::boolean[], $5::timestamptz[]);

-- :name told
-- Remember that the ends $2 of the batches $1 were reported.
INSERT INTO provisioner.notice_batches (batch, ended_at)
SELECT * FROM unnest($1::text[], $2::timestamptz[])
ON CONFLICT (batch) DO UPDATE SET ended_at = excluded.ended_at;

-- :name enqueue
-- Put notices into the outbox: events $1, contents $2.
INSERT INTO provisioner.notices (event, content) SELECT * FROM unnest($1::text[], $2::jsonb[]);

-- :name take
-- Take the notice that has been due longest, for $1: this worker sends it within that time, or another one does.
UPDATE provisioner.notices
SET due_at = clock_timestamp() + $1::interval, tries = tries + 1
WHERE ctid = ANY (ARRAY(
    SELECT n.ctid FROM provisioner.notices AS n
    WHERE n.sent_at IS NULL AND n.due_at <= clock_timestamp()
    ORDER BY n.due_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
))
RETURNING id, event, content, noticed_at, tries, clock_timestamp() - noticed_at AS age;

-- :name sent
-- Notice $1 was delivered.
UPDATE provisioner.notices SET sent_at = clock_timestamp(), error = NULL WHERE id = $1 AND sent_at IS NULL;

-- :name failed
-- Try $2 of notice $1 failed because of $3: it is due again in $4.
UPDATE provisioner.notices SET due_at = clock_timestamp() + $4::interval, error = $3 WHERE id = $1 AND tries = $2;

-- :name drop
-- Notice $1 is given up.
DELETE FROM provisioner.notices WHERE id = $1;

-- :name tidy
-- Forget notices that were delivered a week ago, and ends of batches that are no longer needed.
WITH batches AS (
    DELETE FROM provisioner.notice_batches AS b WHERE b.ended_at < clock_timestamp() - interval '8 days'
)
DELETE FROM provisioner.notices AS n WHERE n.sent_at < clock_timestamp() - interval '7 days';

-- :name waiting
-- The number of notices that were tried and not delivered, since when, and the latest reason.
SELECT
    count(*) AS notices, min(n.noticed_at) AS since, (array_agg(n.error ORDER BY n.due_at DESC))[1] AS error
FROM provisioner.notices AS n
WHERE n.sent_at IS NULL AND n.error IS NOT NULL;
