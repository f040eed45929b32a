-- The first statements of each new session.

-- :name facts
-- The server's process id (a pooler invents the one that it tells its clients), the encoding, and the settings $1.
SELECT
    pg_catalog.pg_backend_pid() AS pid, pg_catalog.current_setting('server_encoding') AS encoding,
    ARRAY(
        SELECT pg_catalog.current_setting(n.name, true)
        FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS n (name, place)
        ORDER BY n.place
    ) AS settings;

-- :name set
-- Set the settings $1 to the values $2, until the end of the transaction if $3.
SELECT pg_catalog.set_config(($1::pg_catalog.text[])[s.place], ($2::pg_catalog.text[])[s.place], $3::pg_catalog.bool)
FROM pg_catalog.generate_subscripts($1::pg_catalog.text[], 1) AS s (place);
