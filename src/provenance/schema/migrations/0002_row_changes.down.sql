-- Tables that are still captured stop this: their triggers depend on their functions. Those of tables that are gone go too.
DO $$
DECLARE
    capture regprocedure;
BEGIN
    FOR capture IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = 'provenance'::regnamespace AND p.proname ~ '^capture_[0-9]+$'
         ORDER BY p.oid
    LOOP
        EXECUTE format('DROP FUNCTION %s', capture);
    END LOOP;
END
$$;
DROP FUNCTION
    provenance.resolved_views(),
    provenance.refresh_view(regclass, boolean),
    provenance.view_to_refresh(regclass),
    provenance.below_view(oid),
    provenance.view_function(oid),
    provenance.coverage(),
    provenance.rows_as_of(regclass, text, timestamptz, text[]),
    provenance.changes_missing_until(integer),
    provenance.key_texts(integer[], regclass, text[]),
    provenance.captures_of(regclass, text),
    provenance.adopt_table(regclass),
    provenance.release_table(regclass),
    provenance.capture_table,
    provenance.captured_id(oid),
    provenance.capture_source,
    provenance.record_truncate,
    provenance.change_sql,
    provenance.images_sql,
    provenance.image_sql,
    provenance.key_sql,
    provenance.row_sql,
    provenance.column_sql(text, integer, text),
    provenance.row_slot(integer, text),
    provenance.shape_id,
    provenance.row_fields,
    provenance.captured_columns,
    provenance.key_digest(text),
    provenance.cut_row(text, integer),
    provenance.text_settings(),
    provenance.row_values(text),
    provenance.tenant_of(uuid),
    provenance.unstamp_table(regclass),
    provenance.stamp_table(regclass, boolean),
    provenance.truncated_with(regclass),
    provenance.check_table(oid, text),
    provenance.allow_triggers(oid),
    provenance.is_distributed(oid),
    provenance.qualified_name(oid),
    provenance.touch(),
    provenance.require_action(),
    provenance.stamp_update(),
    provenance.stamp_insert();
DROP TABLE provenance.row_changes, provenance.row_shapes, provenance.captured_tables;
DROP SEQUENCE provenance.row_changes_number;
CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 1;
CREATE OR REPLACE FUNCTION provenance.grant_reader(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA provenance TO %I', role_name);
    EXECUTE format('GRANT SELECT ON provenance.actions, provenance.action_intents, provenance.action_log TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION provenance.is_recorded(uuid) TO %I', role_name);
END
$$;
CREATE OR REPLACE FUNCTION provenance.grant_writer(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA provenance TO %I', role_name);
    EXECUTE format(
        'GRANT INSERT (id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, '
        'correlation_id, entity_type, entity_id, payload, result, metadata, error_type, error_code, error_message, '
        'started_at, completed_at, duration_ms) ON provenance.actions TO %I', role_name);
    EXECUTE format(
        'GRANT INSERT (id, root_id, parent_action_id, action_type, concept, tenant_id, user_id, request_id, '
        'correlation_id, entity_type, entity_id, payload, metadata, started_at, expires_at, doubt, work_xid, '
        'system_identifier, worker) ON provenance.action_intents TO %I', role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.schema_version(), provenance.uuid_v7(), provenance.current_action_id(), '
        'provenance.set_context(uuid), provenance.outcome(uuid), provenance.root_of(uuid), provenance.record_action, '
        'provenance.incoming_actions(json), provenance.write_actions(json), provenance.write_missing_actions(json), '
        'provenance.refuse_archived(json), '
        'provenance.complete_action, provenance.pending_action(uuid), provenance.forget_intent(uuid) TO %I', role_name);
END
$$;
