-- The checks of `doctor` in the database, using only what every role may read; incomplete results are marked as such.

-- :name server
-- The server, and our role on it.
SELECT
    current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only,
    current_user::text AS role, clock_timestamp() AS now, current_setting('jit') = 'on' AS jit,
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all, current_setting('server_encoding') AS encoding,
    current_setting('fsync') = 'on' AS fsync, current_setting('full_page_writes') = 'on' AS full_page_writes;

-- :name defaults
-- The defaults of our role, of this database or of both, as name=value.
SELECT c.setting
FROM pg_db_role_setting AS s
CROSS JOIN unnest(s.setconfig) AS c (setting)
WHERE
    s.setrole IN (0, (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = session_user))
    AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
ORDER BY c.setting;

-- :name published
-- The publications that contain tables of ours, and the tables whose rows have no replica identity.
SELECT
    p.pubname AS publication, count(*) AS tables,
    array_agg(p.tablename::text ORDER BY p.tablename) FILTER (
        WHERE c.relreplident = 'n'
        OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary))
    ) AS bare
FROM pg_publication_tables AS p
JOIN pg_class AS c ON c.oid = to_regclass(format('%I.%I', p.schemaname, p.tablename))
WHERE p.schemaname = 'provisioner'
GROUP BY p.pubname
ORDER BY p.pubname;

-- :name holding
-- What blocks vacuum: transactions of this database that began over $1 ago and have a snapshot or have changed
-- something, prepared transactions of that age, and replication slots that are unused or far behind. Statements are
-- shown only up to their first literal, which may be a secret.
SELECT
    'session ' || a.pid AS what, coalesce(a.usename, '') AS role, coalesce(a.application_name, '') AS application,
    extract(EPOCH FROM clock_timestamp() - a.xact_start)::double precision AS seconds,
    CASE
        WHEN a.query LIKE '<%' THEN ''
        ELSE left(regexp_replace(substring(coalesce(a.query, '') FROM '^[^''[:digit:]$]*'), '\s+', ' ', 'g'), 60)
    END AS query,
    NULL::bigint AS wal,
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
    '', NULL, format('ROLLBACK PREPARED %L', x.gid)
FROM pg_prepared_xacts AS x
WHERE x.database = current_database() AND x.prepared < clock_timestamp() - $1::interval
UNION ALL
SELECT
    'replication slot ' || s.slot_name, '', CASE WHEN s.active THEN 'in use' ELSE 'not in use' END, NULL, '',
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END,
    format('SELECT pg_drop_replication_slot(%L)', s.slot_name)
FROM pg_replication_slots AS s
WHERE
    NOT s.temporary
    AND (
        (NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL OR s.restart_lsn IS NOT NULL))
        OR age(s.xmin) > 10000000
    )
ORDER BY 4 DESC NULLS LAST;
