-- What whoever seals an API key needs to know: the id and the public half (base64) of the newest key.
CREATE FUNCTION provisioner.sealing_key() RETURNS TABLE (key_id text, public_key text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.key_id, encode(k.public_key, 'base64')
    FROM provisioner.sealing_keys AS k
    WHERE k.retired_at IS NULL
    ORDER BY k.created_at DESC, k.key_id
    LIMIT 1
$$;

COMMENT ON FUNCTION provisioner.sealing_key() IS 'The current sealing key: its id and its public half in base64';

REVOKE EXECUTE ON FUNCTION provisioner.sealing_key() FROM PUBLIC;
