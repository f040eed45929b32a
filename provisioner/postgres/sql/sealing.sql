-- :name publish
-- Publish a public key; the newest one is used for sealing.
INSERT INTO provisioner.sealing_keys (key_id, public_key) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING;

-- :name current
-- The key used for sealing.
SELECT k.key_id, decode(k.public_key, 'base64') AS public_key FROM provisioner.sealing_key() AS k;

-- :name known
-- Every key, and how many unfinished requests have a key sealed with it.
SELECT
    coalesce(k.key_id, s.key_id) AS key_id, k.created_at, coalesce(s.boxes, 0) AS boxes,
    k.key_id IS NOT DISTINCT FROM (SELECT c.key_id FROM provisioner.sealing_key() AS c) AS current
FROM provisioner.sealing_keys AS k
FULL JOIN (
    SELECT c.sealed_by AS key_id, count(*) AS boxes
    FROM provisioner.listed_requests AS c
    WHERE c.sealed_by IS NOT NULL
    GROUP BY c.sealed_by
) AS s ON s.key_id = k.key_id
ORDER BY k.created_at DESC NULLS LAST, 1;

-- :name boxes
-- Up to $3 sealed keys after id $2 that were sealed with another key than $1.
SELECT q.id, q.project_id::text, q.name, q.credential
FROM provisioner.connection_requests AS q
WHERE
    q.id > $2 AND q.credential LIKE 'sealed:%' AND q.credential NOT LIKE '%:wiped'
    AND split_part(q.credential, ':', 2) <> $1
ORDER BY q.id
LIMIT $3;

-- :name reseal
-- Replace boxes by new ones, unless they were changed meanwhile.
UPDATE provisioner.connection_requests AS q
SET credential = b.fresh
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS b (id, stale, fresh)
WHERE q.id = b.id AND q.credential = b.stale
RETURNING q.id;
