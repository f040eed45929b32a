-- :name read
-- The budget of target $1 for calls of kind $2, and the time.
SELECT
    version, extract(EPOCH FROM clock_timestamp())::double precision AS now,
    metered, permits, period, starts_at, ends_at, next_at, granted, answered, used, blocked_until,
    ended_at, late, theirs, their_pace, seen_at, searching, bare_since, address, slowed_until, configured
FROM provisioner.permits
WHERE target = $1 AND kind = $2;

-- :name open
-- Create the row of an unused budget; another worker may be quicker.
INSERT INTO provisioner.permits (target, kind, metered, permits, period, address, configured)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING;

-- :name write
-- Write the budget unless it was changed since version $3 was read.
UPDATE provisioner.permits
SET
    version = version + 1, metered = $4, permits = $5, period = $6, starts_at = $7, ends_at = $8, next_at = $9,
    granted = $10, answered = $11, used = $12, blocked_until = $13,
    ended_at = $14, late = $15, theirs = $16, their_pace = $17, seen_at = $18, searching = $19,
    bare_since = $20, address = $21, slowed_until = $22, configured = $23,
    updated_at = clock_timestamp()
WHERE target = $1 AND kind = $2 AND version = $3
RETURNING version;

-- :name shared
-- Whether our role may write budgets, both new and existing ones.
SELECT
    has_table_privilege('provisioner.permits', 'INSERT') AND has_table_privilege('provisioner.permits', 'UPDATE') AS shared;
