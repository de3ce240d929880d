-- The action table and what is needed to write and read it.
-- Every name is qualified, and every function either pins its search_path or is parsed when it is created (RETURN): a schema
-- that somebody else may write to must not decide what format() means in the session of a superuser.

-- Terminal rows only, inserted once and never changed. The primary key is the fence: whoever inserts an id first has said
-- what became of that action.
CREATE TABLE provenance.actions (
    id uuid NOT NULL,
    root_id uuid NOT NULL,
    parent_action_id uuid,
    action_type text NOT NULL,
    concept text NOT NULL,
    status text NOT NULL,
    tenant_id text NOT NULL DEFAULT '',
    user_id text,
    request_id uuid,
    correlation_id text,
    entity_type text,
    entity_id text,
    payload jsonb,
    result jsonb,
    metadata jsonb,
    error_type text,
    error_code text,
    error_message text,
    started_at timestamptz NOT NULL,
    completed_at timestamptz NOT NULL,
    duration_ms double precision NOT NULL,
    -- These three are the database's own word: writers are not granted these columns.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    db_user text NOT NULL DEFAULT session_user,
    -- Of no use before there is erasure.
    erased_by_action_id uuid,
    CONSTRAINT actions_pkey PRIMARY KEY (id),
    CONSTRAINT actions_status_check CHECK (status IN ('completed', 'failed', 'rolled_back')),
    -- An infinite time, or one of the year 12000, would make every listing it is in unreadable to most clients. Not BETWEEN:
    -- of several, a dump that is restored loses parentheses, and the constraint would look changed.
    CONSTRAINT actions_times_check CHECK (
        started_at >= '1970-01-01 00:00Z' AND started_at <= '9000-01-01 00:00Z'
        AND completed_at >= '1970-01-01 00:00Z' AND completed_at <= '9000-01-01 00:00Z')
) PARTITION BY RANGE (id);

COMMENT ON TABLE provenance.actions IS 'What was done: one insert-only row per ended action, partitioned by month of its UUIDv7.';

-- What did this request do?
CREATE INDEX actions_request ON provenance.actions (request_id) WHERE request_id IS NOT NULL;
-- Which actions carry another system's name for this work?
CREATE INDEX actions_correlation ON provenance.actions (correlation_id) WHERE correlation_id IS NOT NULL;
-- The whole tree of an action, and the steps down from it. Most actions are alone in their tree and pay for neither.
CREATE INDEX actions_root ON provenance.actions (root_id) WHERE parent_action_id IS NOT NULL;
CREATE INDEX actions_parent ON provenance.actions (parent_action_id) WHERE parent_action_id IS NOT NULL;
-- History of an entity, of a user, of a tenant: newest first, in pages.
CREATE INDEX actions_entity ON provenance.actions (entity_type, entity_id, id) WHERE entity_id IS NOT NULL;
CREATE INDEX actions_user ON provenance.actions (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX actions_tenant ON provenance.actions (tenant_id, id) WHERE tenant_id <> '';

-- Rows of a month nobody made a partition for land here, so that a missed chore never fails a user's work.
CREATE TABLE provenance.actions_default PARTITION OF provenance.actions DEFAULT;

-- Evidence of actions whose outcome is not recorded yet; deleted when it is.
CREATE TABLE provenance.action_intents (
    id uuid NOT NULL,
    root_id uuid NOT NULL,
    parent_action_id uuid,
    action_type text NOT NULL,
    concept text NOT NULL,
    tenant_id text NOT NULL DEFAULT '',
    user_id text,
    request_id uuid,
    correlation_id text,
    entity_type text,
    entity_id text,
    payload jsonb,
    metadata jsonb,
    started_at timestamptz NOT NULL,
    expires_at timestamptz,
    doubt text,
    work_xid xid8,
    system_identifier bigint,
    worker text,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    db_user text NOT NULL DEFAULT session_user,
    erased_by_action_id uuid,
    CONSTRAINT action_intents_pkey PRIMARY KEY (id),
    -- What would not fit an index of provenance.actions is refused when the action is begun, and not for ever after when
    -- it is to be completed. The library cuts to the same lengths.
    CONSTRAINT action_intents_names_check CHECK (
        length(action_type) >= 1 AND length(action_type) <= 100 AND length(concept) >= 1 AND length(concept) <= 100
        AND length(entity_type) >= 1 AND length(entity_type) <= 100),
    CONSTRAINT action_intents_ids_check CHECK (
        length(tenant_id) <= 256 AND length(user_id) <= 256 AND length(correlation_id) <= 256
        AND length(entity_id) <= 256),
    CONSTRAINT action_intents_times_check CHECK (started_at BETWEEN '1970-01-01 00:00Z' AND '9000-01-01 00:00Z')
);

COMMENT ON TABLE provenance.action_intents IS 'What was begun and has no recorded outcome yet.';
COMMENT ON COLUMN provenance.action_intents.expires_at IS 'After this moment nobody is expected to report an outcome.';
COMMENT ON COLUMN provenance.action_intents.doubt IS 'Why nobody can know the outcome; null while somebody may.';

CREATE INDEX action_intents_request ON provenance.action_intents (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX action_intents_root ON provenance.action_intents (root_id);
CREATE INDEX action_intents_parent ON provenance.action_intents (parent_action_id) WHERE parent_action_id IS NOT NULL;

-- Each pending action is looked up in its partition: a join would read all ids there are before it shows the newest 50. In
-- a language that keeps its plans, so that whoever reads the view does not plan for every month a second time.
CREATE FUNCTION provenance.is_recorded(action_id uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM provenance.actions a WHERE a.id = action_id);
END
$$;

COMMENT ON FUNCTION provenance.is_recorded(uuid) IS 'Whether an outcome of the action is recorded where the caller may read.';

-- Everything there is to read. security_invoker: otherwise the view would read with its owner's rights and pass by
-- row-level security. statement_timestamp(): all rows of one answer are judged by one clock reading, and conditions on the
-- view reach the indexes, which a volatile function in it would prevent.
CREATE VIEW provenance.action_log WITH (security_invoker = true) AS
SELECT a.id, a.root_id, a.parent_action_id, a.action_type, a.concept, a.status, a.tenant_id, a.user_id,
       a.request_id, a.correlation_id, a.entity_type, a.entity_id, a.payload, a.result, a.metadata,
       a.error_type, a.error_code, a.error_message, a.started_at, a.completed_at, a.duration_ms, a.recorded_at,
       a.erased_by_action_id
  FROM provenance.actions a
UNION ALL
SELECT i.id, i.root_id, i.parent_action_id, i.action_type, i.concept,
       CASE WHEN i.doubt IS NOT NULL OR i.expires_at < statement_timestamp() THEN 'unknown' ELSE 'pending' END,
       i.tenant_id, i.user_id, i.request_id, i.correlation_id, i.entity_type, i.entity_id, i.payload,
       NULL::jsonb, i.metadata, NULL::text, NULL::text, i.doubt, i.started_at, NULL::timestamptz,
       NULL::double precision, i.recorded_at, i.erased_by_action_id
  FROM provenance.action_intents i
 WHERE NOT provenance.is_recorded(i.id);

COMMENT ON VIEW provenance.action_log IS 'All actions: ended ones, and begun ones as pending or, when nobody can know any more, unknown.';

CREATE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 1;

-- A time-ordered UUID (RFC 9562, version 7) for callers in SQL: a random version-4 one with the clock laid over its first
-- 48 bits; setting bits 52 and 53 turns the version nibble 0100 into 0111.
CREATE FUNCTION provenance.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT encode(
    set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
        52, 1), 53, 1),
    'hex')::uuid
$$;

CREATE FUNCTION provenance.current_action_id() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('provenance.action_id', true), '')::uuid;

COMMENT ON FUNCTION provenance.current_action_id() IS 'The action this transaction is in, or null; usable as a column default.';

-- SET LOCAL by EXECUTE and not set_config(): only the statement form reaches the workers of a distributed Postgres.
CREATE FUNCTION provenance.set_context(action_id uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('SET LOCAL provenance.action_id = %L', COALESCE(action_id::text, ''));
END
$$;

COMMENT ON FUNCTION provenance.set_context(uuid) IS 'Make an action the current one until the transaction ends; null for none.';

-- The next two let a writer that may not read the tables learn the one fact it needs.
CREATE FUNCTION provenance.outcome(action_id uuid) RETURNS text
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT a.status FROM provenance.actions a WHERE a.id = action_id';

COMMENT ON FUNCTION provenance.outcome(uuid) IS 'The recorded status of an action, or null.';

CREATE FUNCTION provenance.root_of(action_id uuid) RETURNS uuid
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT a.root_id FROM provenance.actions a WHERE a.id = action_id
        UNION ALL
        SELECT i.root_id FROM provenance.action_intents i WHERE i.id = action_id
        LIMIT 1';

COMMENT ON FUNCTION provenance.root_of(uuid) IS 'The root of the tree a recorded action is in, or null.';

-- What the library writes. As functions, for a connection that must not prepare statements, as behind many a pooler and in
-- Django, would have the INSERT below planned for every action, which takes longer than running it; the plans of a function
-- are kept by the session. They have no search_path of their own: that of the first would keep it from becoming a part of the
-- others, and that of the others would hold in triggers that somebody put on the table. So they use no operator and no
-- unqualified name.

CREATE FUNCTION provenance.incoming_actions(rows json) RETURNS TABLE (
    id uuid, root_id uuid, parent_action_id uuid, action_type text, concept text, status text, tenant_id text, user_id text,
    request_id uuid, correlation_id text, entity_type text, entity_id text, payload jsonb, result jsonb, metadata jsonb,
    error_type text, error_code text, error_message text, started_at timestamptz, completed_at timestamptz,
    duration_ms double precision)
    LANGUAGE sql STABLE
    AS $$
SELECT CASE WHEN r.fence IS NULL OR pg_catalog.textne(u.inside, '') THEN r.id END,
       CASE WHEN r.fence IS NULL OR pg_catalog.texteq(u.inside, r.fence)
            THEN COALESCE(r.root_id, provenance.root_of(r.parent_action_id), r.parent_action_id) END,
       r.parent_action_id, r.action_type, r.concept,
       CASE WHEN u.undone THEN 'rolled_back' ELSE r.status END,
       r.tenant_id, r.user_id, r.request_id, r.correlation_id, r.entity_type, r.entity_id,
       r.payload, r.result, r.metadata, r.error_type, r.error_code,
       CASE WHEN u.undone THEN 'a savepoint around the finished block was rolled back' ELSE r.error_message END,
       r.started_at, r.completed_at, r.duration_ms
  FROM pg_catalog.json_to_recordset(incoming_actions.rows) AS r (
       id pg_catalog.uuid, root_id pg_catalog.uuid, parent_action_id pg_catalog.uuid, action_type pg_catalog.text,
       concept pg_catalog.text, status pg_catalog.text, tenant_id pg_catalog.text, user_id pg_catalog.text,
       request_id pg_catalog.uuid, correlation_id pg_catalog.text, entity_type pg_catalog.text, entity_id pg_catalog.text,
       payload pg_catalog.jsonb, result pg_catalog.jsonb, metadata pg_catalog.jsonb, error_type pg_catalog.text,
       error_code pg_catalog.text, error_message pg_catalog.text, started_at pg_catalog.timestamptz,
       completed_at pg_catalog.timestamptz, duration_ms pg_catalog.float8, ordinal pg_catalog.int8, fence pg_catalog.text)
 CROSS JOIN LATERAL (
       SELECT COALESCE(pg_catalog.int8gt(r.ordinal,
                  CASE WHEN pg_catalog.textne(pg_catalog.current_setting('provenance.done', true), '')
                       THEN pg_catalog.current_setting('provenance.done', true)::pg_catalog.int8 ELSE 0 END), false) AS undone,
              pg_catalog.split_part(pg_catalog.current_setting('provenance.block', true), ' ', 1) AS inside
       ) AS u
$$;

COMMENT ON FUNCTION provenance.incoming_actions(json) IS 'Rows of actions as the library sends them, with what became of them in this transaction.';

CREATE FUNCTION provenance.write_actions(rows json) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    INSERT INTO provenance.actions (
        id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, correlation_id,
        entity_type, entity_id, payload, result, metadata, error_type, error_code, error_message,
        started_at, completed_at, duration_ms)
    SELECT * FROM provenance.incoming_actions(rows);
END
$$;

COMMENT ON FUNCTION provenance.write_actions(json) IS 'Record actions as part of their work: one that is there already makes it fail.';

-- The smallest UUID whose first 48 bits are that moment's milliseconds: the bound between two partitions.
CREATE FUNCTION provenance.uuid_floor(at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

-- What has left: each month of a table that is in an archive and not here any more. A month that got rows again afterwards
-- may leave again.
CREATE TABLE provenance.archived_months (
    table_name name NOT NULL,
    month date NOT NULL,
    edition integer NOT NULL,
    rows bigint NOT NULL,
    digest numeric NOT NULL,
    location text NOT NULL,
    action_id uuid,
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    restored_at timestamptz,
    whole boolean NOT NULL DEFAULT true,
    CONSTRAINT archived_months_pkey PRIMARY KEY (table_name, month, edition)
);

COMMENT ON TABLE provenance.archived_months IS 'Which months are in an archive and not here any more.';
COMMENT ON COLUMN provenance.archived_months.digest IS 'The sum of a digest of each row, in whatever order they are.';
COMMENT ON COLUMN provenance.archived_months.action_id IS 'The action by which it left.';
COMMENT ON COLUMN provenance.archived_months.restored_at IS 'When it has come back; null while it is away.';
COMMENT ON COLUMN provenance.archived_months.whole IS 'False where only rows have left that nobody had to keep here, and the others stay.';

CREATE FUNCTION provenance.is_archived(action_id uuid) RETURNS boolean
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT EXISTS (
    SELECT FROM provenance.archived_months m
     WHERE m.table_name = 'actions' AND m.restored_at IS NULL
       AND is_archived.action_id >= provenance.uuid_floor(m.month::timestamp AT TIME ZONE 'UTC')
       AND is_archived.action_id < provenance.uuid_floor((m.month + interval '1 month') AT TIME ZONE 'UTC'))
$$;

COMMENT ON FUNCTION provenance.is_archived(uuid) IS 'Whether the month of an action has left, or some of it has.';

-- Whether somebody else has recorded them is for the archive to say.
CREATE FUNCTION provenance.refuse_archived(rows json) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM provenance.archived_months m WHERE m.restored_at IS NULL)
       AND EXISTS (SELECT FROM provenance.incoming_actions(rows) r
                    WHERE provenance.is_archived(r.id)
                      -- What has no outcome yet has not left.
                      AND NOT EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = r.id)) THEN
        RAISE EXCEPTION 'the month of this action is archived'
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'Look it up in the archive; if it is not there, restore the month and write it again.';
    END IF;
END
$$;

COMMENT ON FUNCTION provenance.refuse_archived(json) IS 'Refuse actions of a month that has left.';

CREATE FUNCTION provenance.write_missing_actions(rows json) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    -- No conflict target: a writer would need SELECT for it, and a distributed table has another key. In the order of their
    -- ids, so that two who insert the same rows never wait for each other.
    INSERT INTO provenance.actions (
        id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, correlation_id,
        entity_type, entity_id, payload, result, metadata, error_type, error_code, error_message,
        started_at, completed_at, duration_ms)
    SELECT * FROM provenance.incoming_actions(rows) r ORDER BY r.id
    ON CONFLICT DO NOTHING;
    -- Afterwards: the month may have left while this waited for it.
    PERFORM provenance.refuse_archived(rows);
END
$$;

COMMENT ON FUNCTION provenance.write_missing_actions(json) IS 'Record those actions that nobody else has recorded; waits for a transaction that is just doing so.';

CREATE FUNCTION provenance.record_action(
    action_type text,
    concept text,
    user_id text DEFAULT NULL,
    tenant_id text DEFAULT '',
    request_id uuid DEFAULT NULL,
    parent_action_id uuid DEFAULT NULL,
    entity_type text DEFAULT NULL,
    entity_id text DEFAULT NULL,
    payload jsonb DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    expires_in interval DEFAULT '1 day',
    correlation_id text DEFAULT NULL,
    id uuid DEFAULT NULL,
    started_at timestamptz DEFAULT NULL,
    root_id uuid DEFAULT NULL
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    new_id uuid := COALESCE(record_action.id, provenance.uuid_v7());
    parent uuid := COALESCE(record_action.parent_action_id, provenance.current_action_id());
BEGIN
    INSERT INTO provenance.action_intents (
        id, root_id, parent_action_id, action_type, concept, tenant_id, user_id, request_id, correlation_id,
        entity_type, entity_id, payload, metadata, started_at, expires_at)
    VALUES (
        new_id, COALESCE(record_action.root_id, provenance.root_of(parent),
            -- Below a tracked block that is open: its row is not there yet, but it has left its root in the transaction.
            CASE WHEN split_part(current_setting('provenance.block', true), ' ', 1) = parent::text
                 THEN split_part(current_setting('provenance.block', true), ' ', 2)::uuid END,
            parent, new_id), parent,
        record_action.action_type, record_action.concept, COALESCE(record_action.tenant_id, ''), record_action.user_id,
        record_action.request_id, record_action.correlation_id, record_action.entity_type, record_action.entity_id,
        record_action.payload, record_action.metadata, COALESCE(record_action.started_at, clock_timestamp()),
        clock_timestamp() + record_action.expires_in);
    PERFORM provenance.set_context(new_id);
    RETURN new_id;
END
$$;

COMMENT ON FUNCTION provenance.record_action IS 'Begin an action and make it the current one of this transaction; finish it with complete_action().';

CREATE FUNCTION provenance.complete_action(
    action_id uuid,
    result jsonb DEFAULT NULL,
    status text DEFAULT 'completed',
    error_message text DEFAULT NULL,
    error_type text DEFAULT NULL,
    error_code text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    parent uuid;
    ended timestamptz := clock_timestamp();
BEGIN
    -- A plain INSERT: of two that finish the same action the second fails, and its work with it.
    INSERT INTO provenance.actions (
        id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, correlation_id,
        entity_type, entity_id, payload, result, metadata, error_type, error_code, error_message,
        started_at, completed_at, duration_ms, erased_by_action_id)
    SELECT i.id, i.root_id, i.parent_action_id, i.action_type, i.concept, complete_action.status, i.tenant_id,
           i.user_id, i.request_id, i.correlation_id, i.entity_type, i.entity_id, i.payload, complete_action.result,
           i.metadata, complete_action.error_type, complete_action.error_code, complete_action.error_message,
           i.started_at, ended, extract(epoch FROM ended - i.started_at) * 1000, i.erased_by_action_id
      FROM provenance.action_intents i
     WHERE i.id = action_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'action % is not pending', action_id
            USING ERRCODE = 'no_data_found',
                  HINT = 'It was never begun, or it already has an outcome: see provenance.outcome().';
    END IF;
    DELETE FROM provenance.action_intents i WHERE i.id = action_id RETURNING i.parent_action_id INTO parent;
    IF provenance.current_action_id() = action_id THEN
        PERFORM provenance.set_context(parent);
    END IF;
END
$$;

COMMENT ON FUNCTION provenance.complete_action IS 'Record the outcome of an action begun with record_action().';

-- For a process that takes over an action begun elsewhere.
CREATE FUNCTION provenance.pending_action(action_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT to_jsonb(i) - ''db_user'' FROM provenance.action_intents i
         WHERE i.id = action_id AND i.doubt IS NULL
           AND NOT EXISTS (SELECT FROM provenance.actions a WHERE a.id = i.id)';

COMMENT ON FUNCTION provenance.pending_action(uuid) IS 'What was recorded when an action was begun, or null unless it is pending.';

CREATE FUNCTION provenance.forget_intent(action_id uuid) RETURNS void
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'DELETE FROM provenance.action_intents i
         WHERE i.id = action_id AND EXISTS (SELECT FROM provenance.actions a WHERE a.id = i.id)';

COMMENT ON FUNCTION provenance.forget_intent(uuid) IS 'Drop the evidence that an action was begun, once its outcome is recorded.';

CREATE FUNCTION provenance.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RAISE EXCEPTION 'provenance.% is insert-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Recorded actions are evidence; whole months leave by detaching their partition.';
END
$$;

-- ALWAYS: an ordinary trigger sleeps under session_replication_role = replica. Row triggers are cloned to partitions, TRUNCATE
-- ones are not, so ensure_partitions() gives each partition its own.
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON provenance.actions
    FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.actions ENABLE ALWAYS TRIGGER refuse_change;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON provenance.actions
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.actions ENABLE ALWAYS TRIGGER refuse_truncate;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON provenance.actions_default
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.actions_default ENABLE ALWAYS TRIGGER refuse_truncate;

-- The moment a UUIDv7 carries.
CREATE FUNCTION provenance.uuid_moment(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT to_timestamp(('x0000' || substr(replace(id::text, '-', ''), 1, 12))::bit(64)::bigint / 1000.0) $$;

-- The bounds of a month, as they stand in ATTACH PARTITION and in a condition.
CREATE FUNCTION provenance.month_bounds(parent name, month timestamptz, OUT key name, OUT first text, OUT last text)
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    AS $$
SELECT a.attname,
       quote_literal(CASE WHEN by_id THEN provenance.uuid_floor(month)::text ELSE month::text END),
       quote_literal(CASE WHEN by_id THEN provenance.uuid_floor(month + interval '1 month')::text
                          ELSE (month + interval '1 month')::text END)
  FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
 CROSS JOIN LATERAL (SELECT a.atttypid = 'uuid'::regtype) AS kind (by_id)
 WHERE c.relnamespace = 'provenance'::regnamespace AND c.relname = parent
$$;

-- Make a partition apart, as it is to be once it is attached.
CREATE FUNCTION provenance.make_partition(parent name, partition text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('CREATE TABLE provenance.%I (LIKE provenance.%I INCLUDING ALL)', partition, parent);
    EXECUTE format(
        'CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON provenance.%I '
        'FOR EACH STATEMENT EXECUTE FUNCTION provenance.refuse_change()', partition);
    EXECUTE format('ALTER TABLE provenance.%I ENABLE ALWAYS TRIGGER refuse_truncate', partition);
    IF (SELECT c.relrowsecurity FROM pg_class c
         WHERE c.relnamespace = 'provenance'::regnamespace AND c.relname = parent) THEN
        EXECUTE format('ALTER TABLE provenance.%I ENABLE ROW LEVEL SECURITY', partition);
    END IF;
END
$$;

CREATE FUNCTION provenance.attach_partition(parent name, partition text, month timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    bounds CONSTANT record := provenance.month_bounds(parent, month);
BEGIN
    EXECUTE format(
        'ALTER TABLE provenance.%I ATTACH PARTITION provenance.%I FOR VALUES FROM (%s) TO (%s)',
        parent, partition, bounds.first, bounds.last);
END
$$;

-- A partition is made apart and then attached: CREATE TABLE … PARTITION OF would lock all of provenance.actions, and with it
-- every tracked operation, for as long as the oldest transaction that has read or written the trail stays open. Attaching
-- locks the default partition alone, and waits for it only briefly: the lock on the one before is still held then, and
-- whoever waits for that shall not be found to be in a deadlock, which is looked for after a second.
CREATE FUNCTION provenance.ensure_partitions(months_ahead integer DEFAULT 6) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET lock_timeout = '500ms'
    AS $$
DECLARE
    first_month timestamp := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
    month timestamptz;
    parent name;
    partition text;
BEGIN
    -- Two at once would both find the month missing. The key is that of the migrations. Nobody waits for whoever waits here.
    PERFORM set_config('lock_timeout', '30s', true);
    PERFORM pg_advisory_xact_lock(31651020444888673);
    PERFORM set_config('lock_timeout', '500ms', true);
    FOR parent IN
        SELECT c.relname FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
         WHERE c.relnamespace = 'provenance'::regnamespace
         ORDER BY c.relname
    LOOP
        FOR month IN SELECT generate_series(first_month, first_month + make_interval(months => months_ahead), '1 month')
                            AT TIME ZONE 'UTC' LOOP
            partition := parent || '_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
            CONTINUE WHEN to_regclass('provenance.' || partition) IS NOT NULL;
            BEGIN
                PERFORM provenance.make_partition(parent, partition);
                PERFORM provenance.attach_partition(parent, partition, month);
            EXCEPTION
                WHEN check_violation THEN
                    RAISE WARNING 'no partition for %: %_default already holds rows of that month',
                        to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), parent
                        USING HINT = 'They stay readable there; `provenance partition` moves them into one.';
                    CONTINUE;
                WHEN lock_not_available THEN
                    RAISE WARNING 'no partition for % yet: a long transaction is using %_default',
                        to_char(month AT TIME ZONE 'UTC', 'YYYY-MM'), parent
                        USING HINT = 'Nothing is lost meanwhile; run it again later.';
                    EXIT;
                WHEN duplicate_table OR unique_violation THEN
                    -- Whoever moves rows out of the default partition has made it in the meantime.
                    CONTINUE;
            END;
            RETURN NEXT partition;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION provenance.ensure_partitions(integer) IS 'Make the monthly partitions from this month on; returns the names of the new ones.';

CREATE FUNCTION provenance.grant_writer(role_name name) RETURNS void
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

COMMENT ON FUNCTION provenance.grant_writer(name) IS 'Let a role record actions, and nothing else.';

CREATE FUNCTION provenance.grant_reader(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA provenance TO %I', role_name);
    EXECUTE format('GRANT SELECT ON provenance.actions, provenance.action_intents, provenance.action_log TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION provenance.is_recorded(uuid) TO %I', role_name);
END
$$;

COMMENT ON FUNCTION provenance.grant_reader(name) IS 'Let a role read the trail.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;

SELECT provenance.ensure_partitions();
