-- Intents: what tells, whatever ends a process, what became of an action that it had begun.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 3;

ALTER TABLE provenance.action_intents ADD COLUMN joined boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN provenance.action_intents.work_xid IS 'The top-level transaction of the work, assigned before this row was committed.';
COMMENT ON COLUMN provenance.action_intents.joined IS 'The work is a savepoint in a transaction of the caller''s, which may be committed without it.';

-- Blocks that are open in a transaction of a caller's, each of them a row in that very transaction and under its savepoint. So
-- there is one to be seen only where the body of a block has ended that transaction behind everybody's back; what is undone
-- with the savepoint leaves none.
CREATE TABLE provenance.open_blocks (
    action_id uuid NOT NULL,
    CONSTRAINT open_blocks_pkey PRIMARY KEY (action_id)
);

COMMENT ON TABLE provenance.open_blocks IS 'Declared actions that were under way when the transaction around them was committed.';

CREATE FUNCTION provenance.open_block(action_id uuid) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'INSERT INTO provenance.open_blocks (action_id) VALUES (open_block.action_id)';

COMMENT ON FUNCTION provenance.open_block(uuid) IS 'Note that a block has begun in this transaction, which is not its own.';

CREATE FUNCTION provenance.close_blocks(action_ids uuid[]) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'DELETE FROM provenance.open_blocks b WHERE b.action_id = ANY (action_ids)';

COMMENT ON FUNCTION provenance.close_blocks(uuid[]) IS 'Note that blocks have ended in this transaction, before it.';

-- A transaction id means nothing in another cluster. Writers may not be allowed to read the control data themselves.
CREATE FUNCTION provenance.system_identifier() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT c.system_identifier FROM pg_control_system() c';

COMMENT ON FUNCTION provenance.system_identifier() IS 'Which database cluster this is.';

-- Whoever has an intent locked is settling it. To wait for that, with the row of the action inserted already, could be to
-- wait for one that waits for this row.
CREATE OR REPLACE FUNCTION provenance.forget_intent(action_id uuid) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'DELETE FROM provenance.action_intents i
         WHERE i.id IN (SELECT j.id FROM provenance.action_intents j WHERE j.id = action_id FOR UPDATE SKIP LOCKED)
           AND EXISTS (SELECT FROM provenance.actions a WHERE a.id = i.id)';

-- Work outside the database is known to be under way while its process says so.
CREATE FUNCTION provenance.extend_intents(action_ids uuid[], lease interval) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'UPDATE provenance.action_intents i SET expires_at = clock_timestamp() + lease
         WHERE i.id IN (SELECT j.id FROM provenance.action_intents j
                         WHERE j.id = ANY (action_ids) AND j.work_xid IS NULL FOR UPDATE SKIP LOCKED)';

COMMENT ON FUNCTION provenance.extend_intents IS 'Say that work outside the database is still under way, and for how long that holds.';

CREATE FUNCTION provenance.doubt_intent(action_id uuid, reason text) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'UPDATE provenance.action_intents i SET doubt = reason WHERE i.id = action_id AND i.doubt IS NULL';

COMMENT ON FUNCTION provenance.doubt_intent IS 'Note why nobody can know the outcome of an action that was begun.';

-- What became of an action. The transaction is looked at first and the row second, each with a snapshot of its own: a row that
-- is not there after its transaction was seen to be committed never comes. No clock has a say: a transaction may take as
-- long as it likes. And none of these INSERTs can be wrong: where the work commits after all, its own INSERT of the same id
-- fails, and the work with it.
CREATE FUNCTION provenance.resolve(action_id uuid) RETURNS text
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    it provenance.action_intents;
    xact_status text;
    outcome text;
    reason text;
BEGIN
    IF current_setting('transaction_isolation') NOT LIKE 'read %' THEN
        RAISE EXCEPTION 'provenance.resolve() cannot see what others have done meanwhile at isolation level %',
            current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Call it in a transaction of its own, at READ COMMITTED.';
    END IF;
    SELECT i.* INTO it FROM provenance.action_intents i WHERE i.id = action_id FOR UPDATE SKIP LOCKED;
    IF it.id IS NULL AND EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = action_id) THEN
        -- Somebody is settling it. To wait for that would keep recovery from all those behind it.
        RETURN COALESCE(provenance.outcome(action_id), 'pending');
    END IF;
    IF it.work_xid IS NOT NULL AND it.system_identifier = provenance.system_identifier() THEN
        BEGIN
            xact_status := pg_xact_status(it.work_xid);
        EXCEPTION WHEN invalid_parameter_value THEN
            -- It lies in the future: the database is older than this evidence.
            xact_status := NULL;
        END;
    END IF;
    outcome := provenance.outcome(action_id);
    IF it.id IS NULL THEN
        RETURN outcome;
    END IF;
    IF outcome IS NULL AND it.doubt IS NULL
       AND (xact_status = 'aborted'
            OR (xact_status = 'committed' AND it.joined
                AND NOT EXISTS (SELECT FROM provenance.open_blocks b WHERE b.action_id = it.id))) THEN
        INSERT INTO provenance.actions (
            id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, correlation_id,
            entity_type, entity_id, payload, metadata, error_message, started_at, completed_at, duration_ms,
            erased_by_action_id)
        SELECT it.id, it.root_id, it.parent_action_id, it.action_type, it.concept, 'rolled_back', it.tenant_id, it.user_id,
               it.request_id, it.correlation_id, it.entity_type, it.entity_id, it.payload, it.metadata,
               CASE xact_status
                    WHEN 'aborted' THEN 'its transaction was rolled back without an outcome; found by recovery'
                    ELSE 'its savepoint was rolled back without an outcome; found by recovery' END,
               it.started_at, ended.at, extract(epoch FROM ended.at - it.started_at) * 1000, it.erased_by_action_id
          FROM GREATEST(it.started_at, clock_timestamp()) AS ended (at)
        ON CONFLICT DO NOTHING;
        outcome := provenance.outcome(action_id);
    END IF;
    IF outcome IS NOT NULL THEN
        DELETE FROM provenance.action_intents i WHERE i.id = action_id;
        DELETE FROM provenance.open_blocks b WHERE b.action_id = it.id;
        RETURN outcome;
    END IF;
    IF it.work_xid IS NOT NULL AND it.doubt IS NULL AND xact_status IS DISTINCT FROM 'in progress' THEN
        reason := CASE
            WHEN xact_status = 'committed' THEN 'the block did not end its transaction, and yet it is committed'
            WHEN it.system_identifier IS DISTINCT FROM provenance.system_identifier()
                THEN 'its transaction was one of another database cluster'
            ELSE 'the server no longer knows what became of its transaction' END;
        PERFORM provenance.doubt_intent(action_id, reason);
        RETURN 'unknown';
    END IF;
    RETURN CASE WHEN it.doubt IS NOT NULL OR it.expires_at < clock_timestamp() THEN 'unknown' ELSE 'pending' END;
END
$$;

COMMENT ON FUNCTION provenance.resolve(uuid) IS 'Find out what became of an action, record it if nobody has, and return its status; null if it was never begun.';

-- In pages, so that those nobody can resolve keep nobody from the ones behind them.
CREATE FUNCTION provenance.recover(
    after uuid, page_size integer,
    OUT last_id uuid, OUT completed integer, OUT failed integer, OUT rolled_back integer, OUT pending integer,
    OUT unknown integer
)
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT max(found.id::text)::uuid,
       count(*) FILTER (WHERE found.status = 'completed')::integer,
       count(*) FILTER (WHERE found.status = 'failed')::integer,
       count(*) FILTER (WHERE found.status = 'rolled_back')::integer,
       count(*) FILTER (WHERE found.status = 'pending')::integer,
       count(*) FILTER (WHERE found.status = 'unknown')::integer
  FROM (SELECT page.id, provenance.resolve(page.id)
          FROM (SELECT i.id FROM provenance.action_intents i
                 WHERE after IS NULL OR i.id > after ORDER BY i.id LIMIT page_size) AS page
         ORDER BY page.id) AS found (id, status)
$$;

COMMENT ON FUNCTION provenance.recover IS 'Resolve a page of the actions without an outcome, in the order of their ids; count what became of them.';

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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;
