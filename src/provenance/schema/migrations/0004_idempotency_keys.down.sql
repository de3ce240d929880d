DROP FUNCTION provenance.holds_key, provenance.claim_key;
DROP TABLE provenance.idempotency_keys;
CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 3;
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
        'system_identifier, worker, joined) ON provenance.action_intents TO %I', role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.schema_version(), provenance.uuid_v7(), provenance.current_action_id(), '
        'provenance.set_context(uuid), provenance.outcome(uuid), provenance.root_of(uuid), provenance.record_action, '
        'provenance.incoming_actions(json), provenance.write_actions(json), provenance.write_missing_actions(json), '
        'provenance.refuse_archived(json), '
        'provenance.complete_action, provenance.pending_action(uuid), provenance.forget_intent(uuid), '
        'provenance.system_identifier(), provenance.extend_intents, provenance.doubt_intent, provenance.resolve(uuid), '
        'provenance.recover, provenance.open_block, provenance.close_blocks, provenance.refresh_view, '
        'provenance.view_to_refresh, provenance.view_function, '
        'provenance.below_view, provenance.qualified_name TO %I', role_name);
END
$$;
