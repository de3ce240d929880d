-- Citus: the trail stays on the coordinator, and the rows that actions change may be on workers.

-- Citus commits what was written on one worker there, and only then the transaction here. Were this server to end in between,
-- the work would stand and its row would not. Where something that Citus counts as a table of its own is written here too, it
-- prepares the workers, commits here, which is the decision, and then has them commit. So each transaction that records an
-- action deletes from a table of that kind, in which there never is a row: nobody waits, and nothing is left behind. It has a
-- schema of its own, for Citus puts another one beside it.
DO $$
DECLARE
    acting CONSTANT text := current_setting('role');
    owner CONSTANT name := (SELECT r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
                             WHERE n.nspname = 'provenance');
BEGIN
    PERFORM set_config('citus.enable_ddl_propagation', 'on', true);
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
        -- As who connected: the owner of the trail need not have that right.
        PERFORM set_config('role', 'none', true);
    END IF;
    EXECUTE format('CREATE SCHEMA provenance_citus AUTHORIZATION %I', owner);
    PERFORM set_config('role', acting, true);
END
$$;

CREATE TABLE provenance_citus.two_phase (nothing boolean);

COMMENT ON TABLE provenance_citus.two_phase IS 'Always empty. Writing to it has Citus commit in two phases.';

SELECT citus_add_local_table_to_metadata('provenance_citus.two_phase');

SELECT set_config('citus.enable_ddl_propagation', 'off', true);

CREATE FUNCTION provenance.commit_in_two_phases() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM provenance_citus.two_phase;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION provenance.commit_in_two_phases() IS 'Statement trigger: have Citus commit this transaction in two phases.';

REVOKE ALL ON FUNCTION provenance.commit_in_two_phases() FROM PUBLIC;

CREATE TRIGGER commit_in_two_phases BEFORE INSERT ON provenance.actions
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.commit_in_two_phases();
-- ALWAYS: an ordinary trigger sleeps under session_replication_role = replica.
ALTER TABLE provenance.actions ENABLE ALWAYS TRIGGER commit_in_two_phases;
