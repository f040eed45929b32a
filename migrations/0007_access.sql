-- Which requests a role sees. Plain GRANTs, given by `provisioner grant`, say what a role may do, and the visible rows
-- follow from them: a role that may read the line (the table `ready`) sees every request, and other roles see the
-- requests that they inserted, and can only insert in their own name. So there is no list of roles to maintain, role
-- membership works as everywhere, and no role can take requests out of the line without seeing them.
--
-- The owner and superusers are exempt, so their COPY goes straight into the table. PostgreSQL refuses COPY for roles
-- under row-level security; they copy into a temporary table and insert from there.

ALTER TABLE provisioner.connection_requests ENABLE ROW LEVEL SECURITY;

-- The privilege is checked in a subquery, so that this happens once per statement instead of once per row. The CASE is
-- for the planner: for a plain OR it assumes that half of the rows pass, and joins a worker's claims quadratically; for
-- IS NOT NULL it assumes that nearly all do, and plans as for the owner.
CREATE POLICY visible ON provisioner.connection_requests FOR SELECT
USING (
    CASE
        WHEN requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')) THEN true
    END IS NOT NULL
);

CREATE POLICY in_their_own_name ON provisioner.connection_requests FOR INSERT
WITH CHECK (requested_by = current_user);

-- Privileges alone decide who changes and deletes visible rows.
CREATE POLICY editable ON provisioner.connection_requests FOR UPDATE USING (true);

CREATE POLICY deletable ON provisioner.connection_requests FOR DELETE USING (true);

ALTER TABLE provisioner.rotation_requests ENABLE ROW LEVEL SECURITY;

-- The rules of connection_requests, for the same reasons.
CREATE POLICY visible ON provisioner.rotation_requests FOR SELECT
USING (
    CASE
        WHEN requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')) THEN true
    END IS NOT NULL
);

CREATE POLICY in_their_own_name ON provisioner.rotation_requests FOR INSERT WITH CHECK (requested_by = current_user);

CREATE POLICY editable ON provisioner.rotation_requests FOR UPDATE USING (true);
CREATE POLICY deletable ON provisioner.rotation_requests FOR DELETE USING (true);
