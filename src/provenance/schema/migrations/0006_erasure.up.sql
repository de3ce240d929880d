-- Erasure: what was said of somebody is taken out of the rows that say it; that something was done stays.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 6;

COMMENT ON COLUMN provenance.actions.erased_by_action_id IS 'The action that took out payload, result, metadata and error message; null while they are as they were recorded.';

-- By which action evidence changes in this transaction: one that was declared, so that it is known of whatever becomes of it.
CREATE FUNCTION provenance.changing_action_id(action_type text) RETURNS uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT i.id FROM provenance.action_intents i
         WHERE i.id = provenance.current_action_id() AND i.action_type = changing_action_id.action_type
           AND i.concept = ''trail'' AND i.work_xid = pg_current_xact_id_if_assigned()
           AND i.system_identifier = provenance.system_identifier()';

COMMENT ON FUNCTION provenance.changing_action_id(text) IS 'The declared action of this type in whose transaction this is, or null.';

-- What is said of an erasure, a hold or a retention policy is why it was done, and not to be erased.
CREATE FUNCTION provenance.tells_why(concept text, action_type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN tells_why.concept = 'trail' AND tells_why.action_type IN (
        'erase', 'place_hold', 'release_hold', 'set_retention', 'remove_retention', 'apply_retention');

COMMENT ON FUNCTION provenance.tells_why IS 'Whether an action says why something is not in the trail any more, or has to stay.';

-- Two changes are let through, in a transaction that says by which action: that bodies go, and nothing else; and that rows go
-- that nobody must keep any more, those apart that tell what was done to the trail.
CREATE OR REPLACE FUNCTION provenance.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    before jsonb;
    after jsonb;
BEGIN
    IF TG_OP = 'DELETE' AND provenance.changing_action_id('apply_retention') IS NOT NULL
       AND to_jsonb(OLD) ->> 'concept' IS DISTINCT FROM 'trail' THEN
        RETURN OLD;
    ELSIF TG_OP = 'UPDATE' AND provenance.changing_action_id('erase') IS NOT NULL THEN
        before := to_jsonb(OLD);
        after := to_jsonb(NEW);
        IF before ? 'row_slot' THEN
            IF before - '{shape_id,old_row,new_row,masked_changes}'::text[]
               = after - '{shape_id,old_row,new_row,masked_changes}'::text[]
               AND NEW.shape_id = provenance.erased_shape(OLD.shape_id)
               AND NEW.old_row IS NOT DISTINCT FROM (CASE WHEN OLD.old_row IS NOT NULL THEN '()' END)
               AND NEW.new_row IS NOT DISTINCT FROM (CASE WHEN OLD.new_row IS NOT NULL THEN '()' END)
               AND NEW.masked_changes IS NOT DISTINCT FROM provenance.changed_columns(
                   OLD.shape_id, OLD.old_row, OLD.new_row, OLD.masked_changes)
            THEN
                RETURN NEW;
            END IF;
        ELSIF before - '{payload,result,metadata,error_message,erased_by_action_id}'::text[]
              = after - '{payload,result,metadata,error_message,erased_by_action_id}'::text[]
              AND num_nonnulls(NEW.payload, NEW.result, NEW.metadata, NEW.error_message) = 0
              AND num_nonnulls(OLD.payload, OLD.result, OLD.metadata, OLD.error_message) > 0
              AND NOT provenance.tells_why(OLD.concept, OLD.action_type)
              AND NEW.erased_by_action_id = provenance.changing_action_id('erase')
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'provenance.% is insert-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Recorded actions are evidence; whole months leave by detaching their partition.';
END
$$;

-- The names of the columns that a change has changed: all that is left of it.
CREATE FUNCTION provenance.changed_columns(shape_id integer, old_row text, new_row text, masked_changes text[])
    RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT CASE WHEN old_row IS NULL OR new_row IS NULL THEN masked_changes
            ELSE (SELECT array_agg(f.name ORDER BY f.place)
                    FROM (SELECT field ->> 0 AS name, place, (field ->> 2)::boolean AS masked,
                                 count(*) FILTER (WHERE NOT (field ->> 2)::boolean) OVER (ORDER BY place) AS slot
                            FROM json_array_elements((SELECT s.fields FROM provenance.row_shapes s
                                                       WHERE s.id = shape_id)::json)
                                 WITH ORDINALITY AS fields (field, place)) AS f
                   WHERE CASE WHEN f.masked THEN f.name = ANY (masked_changes)
                              ELSE (provenance.row_values(old_row))[f.slot]
                                   IS DISTINCT FROM (provenance.row_values(new_row))[f.slot] END) END
$$;

COMMENT ON FUNCTION provenance.changed_columns IS 'The names of the columns that differ between two stored rows of a shape.';

-- The shape of rows of which nothing is stored but that they were there: every column is masked.
CREATE FUNCTION provenance.erased_shape(shape_id integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    erased text;
    of_table integer;
    found_id integer;
BEGIN
    SELECT s.table_id, (SELECT json_agg(json_build_array(field ->> 0, field ->> 1, true) ORDER BY place)::text
                          FROM json_array_elements(s.fields::json) WITH ORDINALITY AS fields (field, place))
      INTO of_table, erased
      FROM provenance.row_shapes s WHERE s.id = shape_id;
    SELECT s.id INTO found_id FROM provenance.row_shapes s
     WHERE s.table_id = of_table AND s.fields = erased ORDER BY s.id LIMIT 1;
    IF found_id IS NULL THEN
        INSERT INTO provenance.row_shapes (table_id, fields) VALUES (of_table, erased) RETURNING id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

COMMENT ON FUNCTION provenance.erased_shape IS 'The shape that rows of a shape have when they are erased.';

-- What must neither be erased nor leave until it is released: all that fits what is said of it. What is left out does not
-- matter, so one that says nothing holds everything.
CREATE TABLE provenance.legal_holds (
    name text NOT NULL,
    reason text NOT NULL,
    tenant_id text,
    user_id text,
    entity_type text,
    entity_id text,
    concept text,
    action_type text,
    since timestamptz,
    until timestamptz,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action_id uuid NOT NULL,
    CONSTRAINT legal_holds_pkey PRIMARY KEY (name)
);

COMMENT ON TABLE provenance.legal_holds IS 'What must neither be erased nor leave for an archive, until it is released.';

-- Of what is not known, nothing fits.
CREATE FUNCTION provenance.covers(
    hold provenance.legal_holds, tenant_id text, user_id text, entity_type text, entity_id text, concept text,
    action_type text, moment timestamptz
) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((covers.hold).tenant_id IS NULL OR (covers.hold).tenant_id = covers.tenant_id)
       AND ((covers.hold).user_id IS NULL OR (covers.hold).user_id = covers.user_id)
       AND ((covers.hold).entity_type IS NULL OR (covers.hold).entity_type = covers.entity_type)
       AND ((covers.hold).entity_id IS NULL OR (covers.hold).entity_id = covers.entity_id)
       AND ((covers.hold).concept IS NULL OR (covers.hold).concept = covers.concept)
       AND ((covers.hold).action_type IS NULL OR (covers.hold).action_type = covers.action_type)
       AND ((covers.hold).since IS NULL OR (covers.hold).since <= covers.moment)
       AND ((covers.hold).until IS NULL OR (covers.hold).until > covers.moment);

COMMENT ON FUNCTION provenance.covers IS 'Whether a legal hold holds what is known of an action.';

-- Takes out what was recorded of a user or of an entity, and of the rows that those actions changed; or of one row of a captured
-- table, whoever changed it. Called by the library inside an action of its own; see changing_action_id().
CREATE FUNCTION provenance.erase(
    subject_user text, subject_type text, subject_id text, subject_relation regclass, subject_table text,
    subject_key text[], subject_tenant text,
    OUT actions bigint, OUT pending bigint, OUT row_changes bigint, OUT keys bigint
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    by_action CONSTANT uuid := provenance.changing_action_id('erase');
    -- That there is doubt must stay; an error message may be part of why.
    erased_doubt CONSTANT text := 'nobody can know its outcome; why is erased';
    subjects uuid[];
    tables integer[];
    row_keys text[];
    held text;
BEGIN
    IF by_action IS NULL THEN
        RAISE EXCEPTION 'provenance.erase() is to be called inside an action that says why'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Use `provenance erase`, or trail.erase().';
    END IF;
    -- Rows that are being moved to another table would be erased here and stand there. What moves them holds this lock.
    PERFORM pg_advisory_xact_lock_shared(31651020444888674);
    IF subject_table IS NOT NULL THEN
        tables := provenance.captures_of(subject_relation, subject_table);
        row_keys := provenance.key_texts(tables, subject_relation, subject_key);
    END IF;
    subjects := ARRAY(
        SELECT a.id FROM provenance.actions a
         WHERE (a.user_id = subject_user OR (a.entity_type = subject_type AND a.entity_id = subject_id))
           AND (subject_tenant IS NULL OR a.tenant_id = subject_tenant)
           AND NOT provenance.tells_why(a.concept, a.action_type)
        UNION ALL
        SELECT i.id FROM provenance.action_intents i
         WHERE (i.user_id = subject_user OR (i.entity_type = subject_type AND i.entity_id = subject_id))
           AND (subject_tenant IS NULL OR i.tenant_id = subject_tenant)
           AND NOT provenance.tells_why(i.concept, i.action_type));

    UPDATE provenance.actions a
       SET payload = NULL, result = NULL, metadata = NULL, error_message = NULL, erased_by_action_id = by_action
     WHERE a.id = ANY (subjects)
       AND num_nonnulls(a.payload, a.result, a.metadata, a.error_message) > 0;
    GET DIAGNOSTICS actions = ROW_COUNT;

    UPDATE provenance.action_intents i
       SET payload = NULL, metadata = NULL, doubt = CASE WHEN i.doubt IS NOT NULL THEN erased_doubt END,
           erased_by_action_id = by_action
     WHERE i.id = ANY (subjects)
       AND (num_nonnulls(i.payload, i.metadata) > 0 OR i.doubt <> erased_doubt);
    GET DIAGNOSTICS pending = ROW_COUNT;

    SELECT h.name INTO held
      FROM provenance.legal_holds h
     WHERE EXISTS (
               SELECT FROM provenance.actions a
                WHERE a.id = ANY (subjects)
                  AND provenance.covers(h, a.tenant_id, a.user_id, a.entity_type, a.entity_id, a.concept, a.action_type,
                                        a.started_at))
        OR EXISTS (
               SELECT FROM provenance.action_intents i
                WHERE i.id = ANY (subjects)
                  AND provenance.covers(h, i.tenant_id, i.user_id, i.entity_type, i.entity_id, i.concept, i.action_type,
                                        i.started_at))
     ORDER BY h.name LIMIT 1;

    -- The first row of each statement tells where its other rows are.
    WITH erased AS (
    UPDATE provenance.row_changes r
       SET shape_id = provenance.erased_shape(r.shape_id),
           old_row = CASE WHEN r.old_row IS NOT NULL THEN '()' END,
           new_row = CASE WHEN r.new_row IS NOT NULL THEN '()' END,
           masked_changes = provenance.changed_columns(r.shape_id, r.old_row, r.new_row, r.masked_changes)
      FROM (SELECT f.seq, f.recorded_at, f.action_id, NULL::integer AS table_id, NULL::integer AS ordinal
              FROM provenance.row_changes f
             WHERE f.action_id = ANY (subjects) AND f.ordinal = 1
            UNION
            SELECT f.seq, f.recorded_at, f.action_id, f.table_id, f.ordinal
              FROM provenance.row_changes f
             WHERE f.row_slot = ANY (ARRAY(
                       SELECT provenance.row_slot(t, k) FROM unnest(tables) t, unnest(row_keys) k))
               AND f.row_key = ANY (row_keys)
            UNION
            SELECT f.seq, f.recorded_at, f.action_id, f.table_id, f.ordinal
              FROM provenance.row_changes f
             WHERE f.table_id = ANY (tables) AND f.old_key = ANY (row_keys)) AS found
     WHERE r.seq = found.seq AND r.recorded_at = found.recorded_at AND r.action_id IS NOT DISTINCT FROM found.action_id
       AND (found.ordinal IS NULL OR (r.table_id = found.table_id AND r.ordinal = found.ordinal))
       AND (subject_tenant IS NULL OR r.tenant_id = subject_tenant)
       AND (r.old_row <> '()' OR r.new_row <> '()')
    RETURNING r.action_id, r.tenant_id, r.recorded_at)
    SELECT (SELECT count(*) FROM erased),
           COALESCE(held, (
               SELECT h.name
                 FROM provenance.legal_holds h
                WHERE EXISTS (
                          SELECT FROM erased e LEFT JOIN provenance.action_log a ON a.id = e.action_id
                           -- Of an action that has left nothing is known, and it might be what is held.
                           WHERE CASE WHEN a.id IS NULL AND e.action_id IS NOT NULL
                                      THEN provenance.covers(h, e.tenant_id, h.user_id, h.entity_type, h.entity_id,
                                                             h.concept, h.action_type, e.recorded_at)
                                      ELSE provenance.covers(h, e.tenant_id, a.user_id, a.entity_type, a.entity_id,
                                                             a.concept, a.action_type,
                                                             COALESCE(a.started_at, e.recorded_at)) END)
                ORDER BY h.name LIMIT 1))
      INTO row_changes, held;
    IF held IS NOT NULL THEN
        RAISE EXCEPTION 'the legal hold % keeps what was to be erased', held
            USING ERRCODE = 'restrict_violation', HINT = 'Erase it once the hold is released.';
    END IF;

    -- A digest of something short could be guessed.
    UPDATE provenance.idempotency_keys k SET input_digest = ''
     WHERE k.action_id = ANY (subjects) AND k.input_digest <> '';
    GET DIAGNOSTICS keys = ROW_COUNT;
END
$$;

COMMENT ON FUNCTION provenance.erase IS 'Take the bodies out of what was recorded of a user, an entity or a row.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;
