-- Rights: for `provisioner grant`, and to check those of a role.

-- :name place
-- The schema's owner, whether we may act as the owner, and our own role. No row: there is no schema yet.
SELECT
    n.nspowner::regrole::text AS owner, pg_has_role(current_user, n.nspowner, 'USAGE') AS ours, current_user::text AS role,
    quote_ident(current_database()) AS database
FROM pg_namespace AS n
WHERE n.nspname = 'provisioner';

-- :name roles
-- Those of the roles $1 that exist, with the properties that limit or exceed the rights they are given.
SELECT
    r.rolname::text AS name, quote_ident(r.rolname) AS quoted,
    r.oid = n.nspowner AS owns, r.rolsuper OR r.rolbypassrls AS unbound, pg_has_role(r.oid, n.nspowner, 'MEMBER') AS as_owner,
    has_database_privilege(r.oid, current_database(), 'CONNECT') AS connects,
    has_database_privilege(r.oid, current_database(), 'TEMPORARY') AS stages
FROM pg_roles AS r
JOIN pg_namespace AS n ON n.nspname = 'provisioner'
WHERE r.rolname = ANY ($1::text[]);

-- :name lacking
-- The positions, counted from 1, of the rights that role $1 (ours if NULL) lacks: privilege $2 on the object $4 of kind
-- $3, or on its column $5 alone.
SELECT n.place::integer AS place
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS n (privilege, kind, name, part, place)
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN n.kind = 'SCHEMA' THEN has_schema_privilege(w.role, n.name, n.privilege)
            WHEN NOT has_schema_privilege(w.role, 'provisioner', 'USAGE') THEN false
            WHEN n.kind = 'FUNCTION' THEN has_function_privilege(w.role, 'provisioner.' || n.name, n.privilege)
            WHEN n.part IS NULL THEN has_table_privilege(w.role, 'provisioner.' || n.name, n.privilege)
            ELSE has_column_privilege(w.role, 'provisioner.' || n.name, n.part, n.privilege)
        END AS granted
    FROM (VALUES (coalesce($1::name, current_user))) AS w (role)
) AS has
WHERE NOT has.granted
ORDER BY n.place;

-- :name grantees
-- Every role that may use the schema, except its owner.
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END AS role
FROM pg_namespace AS n
CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
WHERE n.nspname = 'provisioner' AND a.grantee <> n.nspowner
ORDER BY 1;

-- :name lock
-- Concurrent changes of one table's rights fail. This is not an advisory lock, which anyone who can connect could take
-- and keep: only the schema's owner can take it.
LOCK TABLE provisioner.migrations IN SHARE ROW EXCLUSIVE MODE;

-- :name sees_all
-- Whether we see every request, or only our own.
SELECT
    coalesce(has_table_privilege(to_regclass('provisioner.ready'), 'SELECT'), true)
    OR NOT has_schema_privilege('provisioner', 'USAGE') AS sees_all;
