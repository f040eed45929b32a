-- What `doctor` looks at in the database. Only what any role may see; where a role sees less, it is said.

-- :name server
-- What this server is, and as whom we are here.
SELECT
    current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only,
    current_user::text AS role, clock_timestamp() AS now, pg_backend_pid() AS pid,
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all;

-- :name lacking
-- Which rights a worker needs and the current role lacks: each as RIGHT on WHAT. No row: it has them all.
WITH tables (name, rights) AS (
    VALUES
        ('connection_requests', 'SELECT,UPDATE'), ('ready', 'SELECT,INSERT,UPDATE,DELETE'),
        ('waiting', 'SELECT,INSERT,UPDATE,DELETE'), ('in_flight', 'SELECT,INSERT,DELETE'),
        ('setbacks', 'SELECT,INSERT,UPDATE,DELETE'), ('workers', 'SELECT,INSERT,UPDATE,DELETE'),
        ('turns', 'SELECT,INSERT,UPDATE'), ('permits', 'SELECT,INSERT,UPDATE'), ('targets', 'SELECT,INSERT,UPDATE'),
        ('troubles', 'SELECT,INSERT,UPDATE,DELETE'), ('attempts', 'INSERT'), ('credential_health', 'SELECT,INSERT,UPDATE,DELETE'), ('salt', 'SELECT'),
        ('migrations', 'SELECT')
),
needed AS (
    SELECT to_regclass('provisioner.' || t.name) AS relation, t.name, n.privilege
    FROM tables AS t
    CROSS JOIN LATERAL unnest(string_to_array(t.rights, ',')) AS n (privilege)
)
SELECT n.privilege || ' on ' || n.name AS lacking
FROM needed AS n
WHERE n.relation IS NOT NULL AND NOT has_table_privilege(n.relation, n.privilege)
UNION ALL
SELECT 'EXECUTE on ' || f.name
FROM (VALUES ('turn_attempt_log(interval)')) AS f (name)
WHERE NOT has_function_privilege('provisioner.' || f.name, 'EXECUTE')
ORDER BY 1;

-- :name usable
-- Whether the current role may look into the schema at all; NULL if there is none.
SELECT has_schema_privilege(n.oid, 'USAGE') AS usable FROM pg_namespace AS n WHERE n.nspname = 'provisioner';

-- :name holding
-- Who holds up the clean-up of finished rows: transactions of this database that began over $1 ago and have a snapshot or
-- changed something, prepared transactions of that age, and what standbys and replication slots keep.
SELECT
    'session ' || a.pid AS what, coalesce(a.usename, '') AS role, coalesce(a.application_name, '') AS application,
    extract(EPOCH FROM clock_timestamp() - a.xact_start)::double precision AS seconds,
    format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
FROM pg_stat_activity AS a
WHERE
    a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL)
    AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
    AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'walsender')
    AND (a.xact_start < clock_timestamp() - $1::interval OR age(a.backend_xmin) > 10000000)
UNION ALL
SELECT
    'prepared transaction ' || x.gid, x.owner::text, '', extract(EPOCH FROM clock_timestamp() - x.prepared)::double precision,
    format('ROLLBACK PREPARED %L', x.gid)
FROM pg_prepared_xacts AS x
WHERE x.database = current_database() AND x.prepared < clock_timestamp() - $1::interval
UNION ALL
SELECT
    'replication slot ' || s.slot_name, '', CASE WHEN s.active THEN 'in use' ELSE 'not in use' END, NULL,
    format('SELECT pg_drop_replication_slot(%L)', s.slot_name)
FROM pg_replication_slots AS s
WHERE s.xmin IS NOT NULL AND (NOT s.active OR age(s.xmin) > 10000000)
ORDER BY 4 DESC NULLS LAST;
