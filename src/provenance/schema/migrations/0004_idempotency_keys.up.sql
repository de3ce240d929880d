-- Idempotency keys: of several attempts under one key, one is done.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 4;

-- Not partitioned: a key must be unique whenever it comes again.
CREATE TABLE provenance.idempotency_keys (
    tenant_id text NOT NULL,
    action_type text NOT NULL,
    key text NOT NULL,
    input_digest bytea NOT NULL,
    action_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, action_type, key),
    CONSTRAINT idempotency_keys_length_check CHECK (length(key) BETWEEN 1 AND 256)
);

COMMENT ON TABLE provenance.idempotency_keys IS 'Which action was done under a key that its caller chose.';

-- For whoever looks for keys that nobody will send again.
CREATE INDEX idempotency_keys_claimed_at ON provenance.idempotency_keys (claimed_at);

-- Waits, if it may, for whoever is just doing the work, and not for ever: in one queue, so that one deadline is enough however
-- many come first. The claim is part of the transaction: rolled back with the work, it leaves the key to the next attempt. A
-- claim that is there although its action failed, of work outside the database, goes to the next attempt too. Where the key is
-- taken, this tells its holder what came of it the first time.
CREATE FUNCTION provenance.claim_key(
    tenant_id text, action_type text, key text, input_digest bytea, action_id uuid, may_wait boolean,
    OUT claimed boolean, OUT same_input boolean, OUT holder uuid, OUT status text, OUT result jsonb
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
    AS $$
DECLARE
    it provenance.idempotency_keys;
    queue CONSTANT bigint := hashtextextended(
        format('provenance %L %L %L', claim_key.tenant_id, claim_key.action_type, claim_key.key), 0);
BEGIN
    SELECT k.* INTO it FROM provenance.idempotency_keys k
     WHERE k.tenant_id = claim_key.tenant_id AND k.action_type = claim_key.action_type AND k.key = claim_key.key;
    -- Who claims a key for somebody else's action would be told the result of that.
    IF it.action_id IS DISTINCT FROM claim_key.action_id
       AND (EXISTS (SELECT FROM provenance.actions a WHERE a.id = claim_key.action_id)
            OR EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = claim_key.action_id)) THEN
        RAISE EXCEPTION 'action % has begun already, and a key is claimed before', claim_key.action_id
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT a.status, a.result INTO status, result FROM provenance.actions a WHERE a.id = it.action_id;
    IF status IS DISTINCT FROM 'completed' THEN
        IF may_wait THEN
            PERFORM pg_advisory_xact_lock(queue);
        ELSIF NOT pg_try_advisory_xact_lock(queue) THEN
            RAISE EXCEPTION 'idempotency key % is being claimed', quote_literal(claim_key.key)
                USING ERRCODE = 'lock_not_available';
        END IF;
        LOOP
            INSERT INTO provenance.idempotency_keys (tenant_id, action_type, key, input_digest, action_id)
            VALUES (claim_key.tenant_id, claim_key.action_type, claim_key.key, claim_key.input_digest, claim_key.action_id)
            ON CONFLICT DO NOTHING;
            claimed := FOUND;
            SELECT k.* INTO it FROM provenance.idempotency_keys k
             WHERE k.tenant_id = claim_key.tenant_id AND k.action_type = claim_key.action_type AND k.key = claim_key.key
               FOR UPDATE;
            -- Else somebody is tidying up.
            EXIT WHEN FOUND;
        END LOOP;
    END IF;
    IF claimed THEN
        same_input := true;
        holder := claim_key.action_id;
        status := NULL;
        result := NULL;
        RETURN;
    END IF;
    -- Twice the same attempt, when the answer to the first was lost.
    claimed := it.action_id = claim_key.action_id;
    holder := it.action_id;
    same_input := it.input_digest = claim_key.input_digest;
    SELECT a.status, a.result INTO status, result FROM provenance.actions a WHERE a.id = it.action_id;
    IF status IN ('failed', 'rolled_back') THEN
        UPDATE provenance.idempotency_keys k
           SET input_digest = claim_key.input_digest, action_id = claim_key.action_id, claimed_at = clock_timestamp()
         WHERE k.tenant_id = it.tenant_id AND k.action_type = it.action_type AND k.key = it.key;
        claimed := true;
        same_input := true;
        holder := claim_key.action_id;
        status := NULL;
    END IF;
    IF NOT same_input THEN
        result := NULL;
    END IF;
END
$$;

COMMENT ON FUNCTION provenance.claim_key IS 'Claim an idempotency key for an action, or learn who holds it and what came of that.';

CREATE FUNCTION provenance.holds_key(action_id uuid, tenant_id text, action_type text, key text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT EXISTS (SELECT FROM provenance.idempotency_keys k
                        WHERE k.tenant_id = holds_key.tenant_id AND k.action_type = holds_key.action_type
                          AND k.key = holds_key.key AND k.action_id = holds_key.action_id)';

COMMENT ON FUNCTION provenance.holds_key IS 'Whether an action has an idempotency key.';

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
        'provenance.recover, provenance.open_block, provenance.close_blocks, '
        'provenance.claim_key, provenance.holds_key, provenance.refresh_view, provenance.view_to_refresh, provenance.view_function, '
        'provenance.below_view, provenance.qualified_name TO %I', role_name);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;
