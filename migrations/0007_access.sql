-- Who sees which requests. Who may do what is a matter of plain GRANTs, which `provisioner grant` gives; the rows follow from
-- them: a role that may read the line (the table `ready`) sees every request, everybody else sees those that they asked for
-- themselves, and asks in no other name. So there is no list of roles to keep, membership in roles works as it does everywhere,
-- and nobody can take requests out of the line without seeing them.
--
-- The owner is not bound by this, and neither are superusers: their COPY goes straight into the table. PostgreSQL refuses COPY
-- to those who are bound; they copy into a temporary table and insert from there.

ALTER TABLE provisioner.connection_requests ENABLE ROW LEVEL SECURITY;

-- The look at the privilege is a query of its own, so that it is done once a statement, not once a row. The CASE is for the
-- planner: of a plain OR it thinks that half of the rows pass, and joins a worker's claims in a quadratic way; of IS NOT NULL it
-- thinks that nearly all do, and plans as it does for the owner.
CREATE POLICY visible ON provisioner.connection_requests FOR SELECT
USING (
    CASE
        WHEN requested_by = current_user OR (SELECT has_table_privilege('provisioner.ready'::regclass, 'SELECT')) THEN true
    END IS NOT NULL
);

CREATE POLICY in_their_own_name ON provisioner.connection_requests FOR INSERT
WITH CHECK (requested_by = current_user);

-- Privileges alone decide who changes and deletes what they see.
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
