-- The trigger went with provenance.actions. A schema of that name without the function is somebody else's.
DO $$
BEGIN
    IF to_regprocedure('provenance.commit_in_two_phases()') IS NOT NULL THEN
        DROP FUNCTION provenance.commit_in_two_phases();
        DROP TABLE IF EXISTS provenance_citus.two_phase;
        DROP SCHEMA IF EXISTS provenance_citus;
    END IF;
END
$$;
