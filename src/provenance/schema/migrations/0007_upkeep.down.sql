DROP FUNCTION provenance.empty_default;
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
