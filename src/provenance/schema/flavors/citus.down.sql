-- The trigger went with provenance.actions.
DO $$
BEGIN
    IF to_regnamespace('provenance_citus') IS NOT NULL THEN
        DROP FUNCTION provenance_citus.commit_in_two_phases();
        DROP TABLE provenance_citus.two_phase;
        DROP SCHEMA provenance_citus;
    END IF;
END
$$;
