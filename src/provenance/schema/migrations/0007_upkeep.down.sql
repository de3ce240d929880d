DO $$
BEGIN
    IF EXISTS (SELECT FROM provenance.retention_policies) THEN
        RAISE EXCEPTION 'there are retention policies, which would be gone'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'provenance retention list lists them; remove them first, if that may be.';
    END IF;
END
$$;
DROP FUNCTION provenance.retention_of, provenance.empty_default;
DROP TABLE provenance.retention_policies;
CREATE OR REPLACE FUNCTION provenance.grant_maintainer(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM provenance.grant_reader(role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.schema_version(), provenance.ensure_partitions(integer), '
        'provenance.resolve(uuid), provenance.recover, provenance.outcome(uuid) TO %I', role_name);
END
$$;
CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 6;
