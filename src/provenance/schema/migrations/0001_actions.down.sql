DROP VIEW provenance.action_log;
DROP FUNCTION provenance.is_recorded(uuid);
DROP TABLE provenance.actions, provenance.action_intents, provenance.archived_months;
DROP FUNCTION
    provenance.grant_reader(name),
    provenance.grant_writer(name),
    provenance.ensure_partitions(integer),
    provenance.attach_partition,
    provenance.make_partition(name, text),
    provenance.month_bounds,
    provenance.uuid_moment(uuid),
    provenance.uuid_floor(timestamptz),
    provenance.refuse_change(),
    provenance.forget_intent(uuid),
    provenance.pending_action(uuid),
    provenance.complete_action,
    provenance.record_action,
    provenance.write_missing_actions(json),
    provenance.refuse_archived(json),
    provenance.is_archived(uuid),
    provenance.write_actions(json),
    provenance.incoming_actions(json),
    provenance.root_of(uuid),
    provenance.outcome(uuid),
    provenance.set_context(uuid),
    provenance.current_action_id(),
    provenance.uuid_v7(),
    provenance.schema_version();
