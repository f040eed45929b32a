-- OpenRouter's answers about keys, by fingerprint.

-- :name load
-- The verdict on the key with fingerprint $1, and its age in seconds.
SELECT v.verdict, extract(EPOCH FROM clock_timestamp() - v.asked_at)::double precision AS age
FROM provisioner.key_verdicts AS v
WHERE v.fingerprint = $1;

-- :name save
-- Store verdict $2 on the key with fingerprint $1.
INSERT INTO provisioner.key_verdicts (fingerprint, verdict, asked_at) VALUES ($1, $2, clock_timestamp())
ON CONFLICT (fingerprint) DO UPDATE SET verdict = excluded.verdict, asked_at = excluded.asked_at;
