-- Whether this is a database to which the flavor fits. Said before anything is changed.
DO $$
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
        RAISE EXCEPTION 'this database has no Citus; run CREATE EXTENSION citus, or leave the flavor out'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF (SELECT g.groupid FROM pg_dist_local_group g) <> 0 THEN
        RAISE EXCEPTION 'this is a worker of Citus, and the trail belongs on its coordinator; connect there'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_dist_node n WHERE n.groupid = 0) THEN
        RAISE EXCEPTION 'Citus does not count this coordinator among its nodes; run SELECT citus_set_coordinator_host(''HOST''), with the name by which workers reach it'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF current_setting('citus.propagate_set_commands', true) IS DISTINCT FROM 'local' THEN
        RAISE EXCEPTION 'workers of Citus are not told which action is current; run ALTER DATABASE % SET citus.propagate_set_commands = ''local'', and connect anew', quote_ident(current_database())
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF current_setting('citus.use_citus_managed_tables', true) = 'on' THEN
        RAISE EXCEPTION 'Citus would take the months of the trail for tables of its own; set citus.use_citus_managed_tables to off'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF current_setting('citus.enable_local_execution', true) = 'off' THEN
        RAISE EXCEPTION 'Citus would connect to itself for each action, as the owner of the trail; set citus.enable_local_execution to on'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid
                WHERE c.relnamespace = to_regnamespace('provenance')) THEN
        RAISE EXCEPTION 'tables of the trail are distributed; bring them back first, with undistribute_table() or citus_schema_undistribute()'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Else a schema that is made might become one that Citus keeps on some worker, and its functions would be made on all of
    -- them. Not by SET LOCAL, which Citus would tell them.
    PERFORM set_config(s.name, 'off', true)
       FROM (VALUES ('citus.enable_schema_based_sharding'), ('citus.enable_ddl_propagation')) AS s (name)
      WHERE current_setting(s.name, true) IS NOT NULL;
END
$$;
