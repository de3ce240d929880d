-- Who may read what: rows of a tenant are shown to roles that are bound to it, and roles of their own for each purpose.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 5;

-- A setting would be no more than a filter, for whoever can read can set it. A database role cannot be chosen.
CREATE TABLE provenance.readers (
    role_name name NOT NULL,
    tenant_id text,
    CONSTRAINT readers_key UNIQUE NULLS NOT DISTINCT (role_name, tenant_id)
);

COMMENT ON TABLE provenance.readers IS 'Which database roles may read rows of which tenant; of a null one, all. Who inherits from such a role may too.';

-- By name, so that it survives a dump; roles that are gone are nobody's.
ALTER TABLE provenance.readers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_bindings ON provenance.readers FOR SELECT USING (
    EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role_name AND pg_catalog.pg_has_role(r.oid, 'USAGE')));

-- Whoever is bound to nothing sees nothing. The questions do not depend on the row, and are asked once for each statement.
-- As an array: a subquery's start would be weighed against an index for each month, and months read whole and sorted.
ALTER TABLE provenance.actions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants ON provenance.actions FOR SELECT USING (
    (SELECT EXISTS (SELECT FROM provenance.readers r WHERE r.tenant_id IS NULL))
    OR tenant_id = ANY (ARRAY(SELECT r.tenant_id FROM provenance.readers r WHERE r.tenant_id IS NOT NULL)));
CREATE POLICY writers ON provenance.actions FOR INSERT WITH CHECK (true);

ALTER TABLE provenance.action_intents ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants ON provenance.action_intents FOR SELECT USING (
    (SELECT EXISTS (SELECT FROM provenance.readers r WHERE r.tenant_id IS NULL))
    OR tenant_id = ANY (ARRAY(SELECT r.tenant_id FROM provenance.readers r WHERE r.tenant_id IS NOT NULL)));
CREATE POLICY writers ON provenance.action_intents FOR INSERT WITH CHECK (true);

ALTER TABLE provenance.row_changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants ON provenance.row_changes FOR SELECT USING (
    (SELECT EXISTS (SELECT FROM provenance.readers r WHERE r.tenant_id IS NULL))
    OR tenant_id = ANY (ARRAY(SELECT r.tenant_id FROM provenance.readers r WHERE r.tenant_id IS NOT NULL)));

-- Policies hold for what is asked of the table. A partition that is asked directly has none, and shows nothing.
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN
        SELECT i.inhrelid FROM pg_inherits i
         WHERE i.inhparent IN ('provenance.actions'::regclass, 'provenance.row_changes'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', partition);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION provenance.grant_reader(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM provenance.grant_tenant_reader(role_name, NULL);
END
$$;

COMMENT ON FUNCTION provenance.grant_reader(name) IS 'Let a role read the trail of all tenants.';

CREATE FUNCTION provenance.grant_tenant_reader(role_name name, tenant_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- A role that may read nothing and yet is bound is another one, of the same name as one that was dropped.
    IF NOT has_table_privilege(role_name, 'provenance.actions', 'SELECT') THEN
        DELETE FROM provenance.readers r WHERE r.role_name = grant_tenant_reader.role_name;
    END IF;
    -- All tenants and some are two answers to one question, and the last one holds. Otherwise a role that was to see some
    -- would go on seeing all.
    DELETE FROM provenance.readers r
     WHERE r.role_name = grant_tenant_reader.role_name
       AND (r.tenant_id IS NULL) <> (grant_tenant_reader.tenant_id IS NULL);
    EXECUTE format('GRANT USAGE ON SCHEMA provenance TO %I', role_name);
    EXECUTE format(
        'GRANT SELECT ON provenance.actions, provenance.action_intents, provenance.action_log, provenance.row_changes, '
        'provenance.row_shapes, provenance.captured_tables, provenance.readers TO %I', role_name);
    EXECUTE format(
        'GRANT SELECT (table_name, month, rows, restored_at) ON provenance.archived_months TO %I', role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.is_recorded(uuid), provenance.row_values(text), '
        'provenance.captures_of, provenance.rows_as_of, provenance.changes_missing_until, '
        'provenance.coverage, provenance.truncated_with, provenance.key_texts, provenance.captured_id, '
        'provenance.qualified_name, provenance.captured_columns, provenance.row_fields, '
        'provenance.row_slot, provenance.column_sql, provenance.row_sql, provenance.key_sql, '
        'provenance.key_digest, provenance.resolved_views, provenance.view_function, provenance.below_view TO %I', role_name);
    INSERT INTO provenance.readers (role_name, tenant_id)
    VALUES (grant_tenant_reader.role_name, grant_tenant_reader.tenant_id)
    ON CONFLICT DO NOTHING;
END
$$;

COMMENT ON FUNCTION provenance.grant_tenant_reader(name, text) IS 'Let a role read the trail of one tenant.';

CREATE FUNCTION provenance.grant_maintainer(role_name name) RETURNS void
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

COMMENT ON FUNCTION provenance.grant_maintainer(name) IS 'Let a role do the upkeep of the trail, and read it.';

-- Roles belong to the cluster, so several databases with the same prefix share them.
CREATE FUNCTION provenance.make_roles(prefix text DEFAULT 'provenance') RETURNS SETOF name
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    purpose text;
    owner CONSTANT name := prefix || '_owner';
    object record;
BEGIN
    FOREACH purpose IN ARRAY ARRAY['owner', 'writer', 'reader', 'maintainer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = prefix || '_' || purpose) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', prefix || '_' || purpose);
        END IF;
        RETURN NEXT prefix || '_' || purpose;
    END LOOP;
    -- Whoever gives something away must belong to whom it is given.
    IF NOT pg_has_role(owner, 'USAGE') THEN
        EXECUTE format('GRANT %I TO CURRENT_USER', owner);
    END IF;
    EXECUTE format('ALTER SCHEMA provenance OWNER TO %I', owner);
    -- What is done there is done with the rights of the owner.
    IF to_regprocedure('provenance.commit_in_two_phases()') IS NOT NULL THEN
        EXECUTE format('ALTER SCHEMA provenance_citus OWNER TO %I', owner);
        EXECUTE format('ALTER TABLE provenance_citus.two_phase OWNER TO %I', owner);
    END IF;
    FOR object IN
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
               provenance.qualified_name(c.oid) AS name
          FROM pg_class c
         WHERE c.relnamespace = 'provenance'::regnamespace AND c.relowner <> owner::regrole
           AND (c.relkind IN ('r', 'p', 'v')
                -- That of an identity column goes with its table.
                OR c.relkind = 'S' AND NOT EXISTS (
                    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'))
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
          FROM pg_proc p WHERE p.pronamespace = 'provenance'::regnamespace AND p.proowner <> owner::regrole
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', object.kind, object.name, owner);
    END LOOP;
    PERFORM provenance.grant_writer(prefix || '_writer');
    PERFORM provenance.grant_reader(prefix || '_reader');
    PERFORM provenance.grant_maintainer(prefix || '_maintainer');
END
$$;

COMMENT ON FUNCTION provenance.make_roles(text) IS 'Make group roles for owning, writing, reading and maintaining the trail, with their rights; give the schema to the first.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;
