-- Which API keys work, and which are quarantined because OpenRouter refuses them.

-- A fingerprint has to be the same for all workers of this database, and say nothing to anybody else.
CREATE TABLE provisioner.salt (
    salt uuid PRIMARY KEY DEFAULT gen_random_uuid()
);

INSERT INTO provisioner.salt DEFAULT VALUES;

-- One row a key: a credential whose key is replaced has another row, and nothing is known against it. What the columns mean and
-- how they change is `core/key_health.py`; `version` tells whether somebody else has written meanwhile.
CREATE TABLE provisioner.credential_health (
    target text NOT NULL,
    credential text NOT NULL,
    fingerprint text NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    accepted_at timestamptz,
    trials integer NOT NULL DEFAULT 0,
    tried_at timestamptz,
    refusals integer NOT NULL DEFAULT 0,
    quarantined_since timestamptz,
    reason text,
    probing boolean NOT NULL DEFAULT false,
    probe_at timestamptz,
    probe_pause interval NOT NULL DEFAULT '60 seconds',
    PRIMARY KEY (target, credential, fingerprint)
) WITH (fillfactor = 50);

COMMENT ON TABLE provisioner.credential_health IS 'What OpenRouter said lately of the API keys in use, known by salted fingerprints';
COMMENT ON COLUMN provisioner.credential_health.quarantined_since IS 'Since when requests with this key wait; NULL while they do not';

CREATE VIEW provisioner.quarantined_credentials AS
SELECT
    h.target, h.credential, h.fingerprint, h.quarantined_since AS since, h.reason, h.probe_at AS next_probe_at,
    (
        SELECT count(*) FROM provisioner.waiting AS w
        WHERE w.target = h.target AND w.quarantine = 'credential:' || h.credential
    ) AS requests
FROM provisioner.credential_health AS h
WHERE h.quarantined_since IS NOT NULL;

COMMENT ON VIEW provisioner.quarantined_credentials IS 'Credentials whose API key is refused: correct the key, and their requests go on';

-- Each worker asks about once a second for those of named credentials; there may be thousands of sealed ones.
CREATE INDEX credential_health_quarantined ON provisioner.credential_health (target)
WHERE quarantined_since IS NOT NULL AND credential NOT LIKE 'sealed-%';

CREATE INDEX waiting_quarantined ON provisioner.waiting (target, quarantine) WHERE quarantine IS NOT NULL;

-- A request that waits for a quarantined key and gets another credential is due at once.
CREATE FUNCTION provisioner.request_credential_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE provisioner.waiting AS w SET run_at = now(), quarantine = NULL WHERE w.id = new.id AND w.quarantine IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE TRIGGER request_credential_edited AFTER UPDATE OF credential ON provisioner.connection_requests
FOR EACH ROW
WHEN (new.status = 'pending' AND new.credential IS DISTINCT FROM old.credential)
EXECUTE FUNCTION provisioner.request_credential_edited();

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA provisioner FROM PUBLIC;
