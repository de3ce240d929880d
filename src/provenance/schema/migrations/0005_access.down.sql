DROP FUNCTION
    provenance.make_roles(text),
    provenance.grant_maintainer(name),
    provenance.grant_tenant_reader(name, text);
CREATE OR REPLACE FUNCTION provenance.grant_reader(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA provenance TO %I', role_name);
    EXECUTE format(
        'GRANT SELECT ON provenance.actions, provenance.action_intents, provenance.action_log, provenance.row_changes, '
        'provenance.row_shapes, provenance.captured_tables TO %I', role_name);
    EXECUTE format(
        'GRANT SELECT (table_name, month, rows, restored_at) ON provenance.archived_months TO %I', role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.is_recorded(uuid), provenance.row_values(text), '
        'provenance.captures_of, provenance.rows_as_of, provenance.changes_missing_until, '
        'provenance.coverage, provenance.truncated_with, provenance.key_texts, provenance.captured_id, '
        'provenance.qualified_name, provenance.captured_columns, provenance.row_fields, '
        'provenance.row_slot, provenance.column_sql, provenance.row_sql, provenance.key_sql, '
        'provenance.key_digest, provenance.resolved_views, provenance.view_function, provenance.below_view TO %I', role_name);
END
$$;
COMMENT ON FUNCTION provenance.grant_reader(name) IS 'Let a role read the trail.';
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN
        SELECT i.inhrelid FROM pg_inherits i
         WHERE i.inhparent IN ('provenance.actions'::regclass, 'provenance.row_changes'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', partition);
    END LOOP;
END
$$;
DROP POLICY tenants ON provenance.row_changes;
ALTER TABLE provenance.row_changes DISABLE ROW LEVEL SECURITY;
DROP POLICY tenants ON provenance.action_intents;
DROP POLICY writers ON provenance.action_intents;
ALTER TABLE provenance.action_intents DISABLE ROW LEVEL SECURITY;
DROP POLICY tenants ON provenance.actions;
DROP POLICY writers ON provenance.actions;
ALTER TABLE provenance.actions DISABLE ROW LEVEL SECURITY;
DROP TABLE provenance.readers;
CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 4;
