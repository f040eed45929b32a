-- Operators' actions, through the functions of the schema, so that the command line can do nothing that SQL could not.

-- :part canonical
-- The canonical name of a request's credential: names are compared without case, `_` as `-`.
replace(lower(btrim(q.credential)), '_', '-')

-- :name cancel
-- Cancel requests $1 and count the outcomes.
SELECT c.outcome AS word, count(*) AS requests FROM provisioner.cancel($1) AS c GROUP BY c.outcome;

-- :name retry
-- Retry requests $1 and count their previous states.
SELECT r.was AS word, count(*) AS requests FROM provisioner.retry($1) AS r GROUP BY r.was;

-- :name pause
-- Pause target $1. No row: it is paused already.
SELECT p.paused_at, p.paused_by FROM provisioner.pause($1) AS p;

-- :name resume
-- Resume target $1, and return since when it was paused. No row: it was not paused.
SELECT p.paused_at, p.paused_by FROM provisioner.resume($1) AS p;

-- :name set_limit
-- Limit target $1 to $2 writes in $3 and to $4 creates in flight; NULL leaves a limit unchanged, and all NULL lift the
-- limits.
SELECT l.writes, l.period, l.in_flight, l.limited_at, l.limited_by FROM provisioner.set_limit($1, $2, $3, $4) AS l;

-- :name held
-- Since when target $1 is paused, and by whom. No row: it is not.
SELECT t.paused_at, t.paused_by FROM provisioner.targets AS t WHERE t.target = $1 AND t.paused_at IS NOT NULL;

-- :name served
-- Every target that workers serve, or that was paused or learned about before.
SELECT s.target FROM provisioner.workers AS w CROSS JOIN LATERAL unnest(w.targets) AS s (target)
UNION
SELECT t.target FROM provisioner.targets AS t
UNION
SELECT p.target FROM provisioner.permits AS p;

-- :name removal_preview
-- What `remove` would do to each of the requests $1, including adopted ones if $2: the words of the function, or why it
-- would do nothing.
SELECT
    q.id,
    CASE
        WHEN q.wanted = 'absent' AND q.status = 'removed' THEN 'absent'
        WHEN q.wanted = 'absent' AND q.status NOT IN ('failed', 'cancelled') THEN 'on its way'
        WHEN q.adopted AND q.made IS NOT NULL AND NOT $2::boolean THEN 'let go'
        WHEN
            q.made IS NOT NULL
            OR EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id)
            OR EXISTS (SELECT FROM provisioner.sent_creates AS c WHERE c.id = q.id)
            THEN 'removing'
        ELSE 'removed'
    END AS word
FROM (
    SELECT c.id, c.wanted, c.status, c.adopted, c.connection_id AS made FROM provisioner.connection_requests AS c
    UNION ALL
    SELECT r.id, r.wanted, r.status, r.adopted, r.rotation_id FROM provisioner.rotation_requests AS r
) AS q
WHERE q.id = ANY ($1::bigint[])
ORDER BY q.id;

-- :name remove
-- Remove requests $1, including adopted ones if $2, and count the outcomes.
SELECT r.outcome AS word, count(*) AS requests FROM provisioner.remove($1, $2) AS r GROUP BY r.outcome;

-- :name rekeying_preview
-- What `rekey` would do to each of the requests $1 whose credential is one of $2 (NULL: any): `sent`, or why it would
-- do nothing. With fingerprints $4 of the credentials $3, connections that have the key already are left alone; NULL:
-- no comparison.
SELECT
    q.id,
    CASE
        WHEN q.wanted <> 'present' OR q.connection_id IS NULL OR q.status NOT IN ('succeeded', 'pending', 'failed') THEN 'nothing'
        WHEN q.adopted AND q.on_conflict <> 'replace' THEN 'adopted'
        WHEN q.credential LIKE 'sealed:%:wiped' THEN 'wiped'
        WHEN $3::text[] IS NOT NULL AND (k.print IS NULL OR q.key_fingerprint IS NULL) THEN 'not known'
        WHEN $3::text[] IS NOT NULL AND k.print = q.key_fingerprint THEN 'present'
        WHEN EXISTS (SELECT FROM provisioner.in_flight AS f WHERE f.id = q.id) THEN 'in flight'
        ELSE 'sent'
    END AS word
FROM provisioner.connection_requests AS q
LEFT JOIN unnest($3::text[], $4::text[]) AS k (credential, print) ON k.credential = {canonical}
WHERE
    q.id = ANY ($1::bigint[])
    AND ($2::text[] IS NULL OR {canonical} = ANY ($2::text[]))
ORDER BY q.id;

-- :name rekey
-- Send the connections of requests $1 their credential's present key.
SELECT 'sent' AS word, count(*) AS requests FROM provisioner.rekey($1) AS r;

-- :name take_along
-- Of the rotations among the requests $1, or using a connection of one: remove their secrets ($2) and their keys ($3)
-- with them.
UPDATE provisioner.rotation_requests AS r
SET with_secrets = r.with_secrets OR $2, revoke_keys = r.revoke_keys OR $3
WHERE
    r.id = ANY ($1::bigint[])
    OR r.id = ANY (ARRAY (
        SELECT u.id
        FROM provisioner.connection_requests AS q
        JOIN provisioner.rotation_requests AS u
            ON u.target = q.target AND u.project_id = q.project_id AND u.connection = q.name
        WHERE q.id = ANY ($1::bigint[])
    ));

-- :name repair
-- Put requests $1 in line to correct what is wrong with them, $2.
SELECT r.id, r.outcome FROM provisioner.repair($1, $2) AS r;

-- :name soon
-- For this transaction: stop after $1 milliseconds.
SELECT set_config('statement_timeout', $1, true);

-- :name outdated
-- The number of connections, of batch $3 if given, whose key differs from the fingerprints $2 of the credentials $1. It
-- reads all requests once, so it is for a person who looks once, not for every second, and is limited to the time a
-- person waits.
SELECT count(*) AS requests
FROM provisioner.connection_requests AS q
JOIN unnest($1::text[], $2::text[]) AS k (credential, print) ON k.credential = {canonical}
WHERE
    q.status = 'succeeded' AND q.key_fingerprint <> k.print AND (NOT q.adopted OR q.on_conflict = 'replace')
    AND ($3::text IS NULL OR q.batch = $3);

-- :name left_behind
-- Rotations that may have left keys behind at OpenRouter.
SELECT r.id FROM provisioner.rotation_requests AS r WHERE r.left_behind IS NOT NULL ORDER BY r.id;

-- :name keys_deleted
-- Note that the keys which rotations $1 left behind are deleted at OpenRouter.
SELECT d.id FROM provisioner.keys_deleted($1) AS d;
