-- Domain data with provenance: which action touched a row, and what every row was before and after each change.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 2;

-- Stamping. These run with the rights of whoever writes: what is executed when a column is assigned to, a cast or the check
-- of a domain, is the choice of the table's owner, and must not run with the rights of the trail's. So they cannot call
-- current_action_id(), which only writers may; and where a distributed Postgres keeps the rows on other servers, these
-- functions are there and nothing else of this schema. They use no operator and no unqualified name, so that they need no
-- search_path of their own, which would cost every row.

CREATE FUNCTION provenance.stamp_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.created_by_action_id :=
        CASE WHEN pg_catalog.texteq(pg_catalog.current_setting('provenance.action_id', true), '') THEN NULL
             ELSE pg_catalog.current_setting('provenance.action_id', true)::pg_catalog.uuid END;
    NEW.updated_by_action_id := NEW.created_by_action_id;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION provenance.stamp_insert() IS 'Row trigger: note which action makes the row.';

-- Null where no action is current: the truth about this version of the row.
CREATE FUNCTION provenance.stamp_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.created_by_action_id := OLD.created_by_action_id;
    NEW.updated_by_action_id :=
        CASE WHEN pg_catalog.texteq(pg_catalog.current_setting('provenance.action_id', true), '') THEN NULL
             ELSE pg_catalog.current_setting('provenance.action_id', true)::pg_catalog.uuid END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION provenance.stamp_update() IS 'Row trigger: note which action changes the row; who made it cannot be changed.';

CREATE FUNCTION provenance.require_action() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    action_id CONSTANT pg_catalog.uuid :=
        CASE WHEN pg_catalog.texteq(pg_catalog.current_setting('provenance.action_id', true), '') THEN NULL
             ELSE pg_catalog.current_setting('provenance.action_id', true)::pg_catalog.uuid END;
BEGIN
    IF action_id IS NULL THEN
        RAISE EXCEPTION '% of %.% refused: no action is current', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Write inside track_action(); in SQL, call provenance.record_action() first in the transaction.';
    END IF;
    RETURN COALESCE(NEW, OLD);
END
$$;

COMMENT ON FUNCTION provenance.require_action() IS 'Trigger, of statements or of rows: refuse writes outside any action.';

CREATE FUNCTION provenance.touch() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION provenance.touch() IS 'Row trigger: note when the row is changed; when it was made cannot be changed.';

CREATE FUNCTION provenance.qualified_name(relation oid) RETURNS text
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
$$;

CREATE FUNCTION provenance.is_distributed(relation oid) RETURNS boolean
    LANGUAGE plpgsql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found boolean := false;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1)'
           INTO found USING relation;
    END IF;
    RETURN found;
END
$$;

COMMENT ON FUNCTION provenance.is_distributed(oid) IS 'Whether a table is one of Citus, which keeps its rows on other servers, or may.';

-- Citus wants to be told that a trigger on a worker is meant, until the transaction ends; those of stamps look at nothing but
-- their row and a setting. One worker after the other, or the functions could not be made there once a column is added.
CREATE FUNCTION provenance.allow_triggers(relation oid) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF provenance.is_distributed(relation) THEN
        SET LOCAL citus.enable_unsafe_triggers = on;
        SET LOCAL citus.multi_shard_modify_mode = 'sequential';
    END IF;
END
$$;

-- Refuses, with a reason and a remedy, a table that cannot be stamped or captured.
CREATE FUNCTION provenance.check_table(relation oid, purpose text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    it CONSTANT pg_class := (SELECT c FROM pg_class c WHERE c.oid = relation);
    name CONSTANT text := provenance.qualified_name(relation);
    reason CONSTANT text := CASE
        WHEN it.relkind IN ('v', 'm') THEN 'it is a view; name the table behind it'
        WHEN it.relkind = 'f' THEN 'it is a foreign table; do it in the database where its rows are'
        WHEN it.relkind NOT IN ('r', 'p') THEN 'it is no table'
        WHEN it.relpersistence = 't' THEN 'it is a temporary table; it and its rows are gone when its session ends'
        WHEN it.relispartition THEN format(
            'it is a partition; name its parent, %s',
            (SELECT provenance.qualified_name(p.relid) FROM pg_partition_ancestors(relation) p
               JOIN pg_class c ON c.oid = p.relid AND NOT c.relispartition))
        WHEN it.relnamespace IN ('provenance'::regnamespace, 'pg_catalog'::regnamespace,
                                    'information_schema'::regnamespace) THEN 'it is not a table of yours'
        WHEN purpose = 'captured' AND provenance.is_distributed(relation)
            THEN 'it is a table of Citus, whose triggers may run on other servers, where there is no trail; stamp it instead'
        WHEN purpose = 'stamped' AND provenance.is_distributed(relation)
             AND to_regprocedure('provenance.commit_in_two_phases()') IS NULL
            THEN 'it is a table of Citus; run `provenance migrate up --flavor citus` first'
        WHEN purpose LIKE '%stamped' AND EXISTS (
            SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = 'provenance_touch')
            THEN 'it is the table of a concept, which comes with its stamps; change the declaration instead'
        END;
BEGIN
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION '% cannot be %: %', name, purpose, reason USING ERRCODE = 'wrong_object_type';
    END IF;
END
$$;

-- Where triggers of TRUNCATE belong, which are not cloned: on a table, and on the partitions it has.
CREATE FUNCTION provenance.truncated_with(relation regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) p WHERE p.isleaf $$;

-- The columns are noted as ours, so that taking the stamps off leaves alone what was there before.
CREATE FUNCTION provenance.stamp_table(relation regclass, strict boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '2s'
    AS $$
DECLARE
    full_name CONSTANT text := provenance.qualified_name(relation);
    by_row CONSTANT boolean := (SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = relation);
    column_name name;
    column_type text;
    leaf regclass;
BEGIN
    PERFORM provenance.check_table(relation, 'stamped');
    PERFORM provenance.allow_triggers(relation);
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', full_name);
    FOREACH column_name IN ARRAY ARRAY['created_by_action_id', 'updated_by_action_id'] LOOP
        column_type := (
            SELECT format_type(a.atttypid, a.atttypmod) || CASE a.attgenerated WHEN '' THEN '' ELSE ', generated' END
              FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = column_name);
        IF column_type <> 'uuid' THEN
            RAISE EXCEPTION '% has a column % of its own: it is %, and not uuid', full_name, column_name, column_type
                USING ERRCODE = 'datatype_mismatch', HINT = 'Rename or convert that column first.';
        ELSIF column_type IS NULL THEN
            EXECUTE format('ALTER TABLE %s ADD COLUMN %I uuid', full_name, column_name);
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', full_name, column_name, 'An action, noted by provenance.');
        END IF;
    END LOOP;
    EXECUTE format('CREATE OR REPLACE TRIGGER provenance_stamp_insert BEFORE INSERT ON %s '
                   'FOR EACH ROW EXECUTE FUNCTION provenance.stamp_insert()', full_name);
    EXECUTE format('CREATE OR REPLACE TRIGGER provenance_stamp_update BEFORE UPDATE ON %s '
                   'FOR EACH ROW EXECUTE FUNCTION provenance.stamp_update()', full_name);
    FOR leaf IN SELECT provenance.truncated_with(relation) LOOP
        IF strict THEN
            EXECUTE format('CREATE OR REPLACE TRIGGER provenance_require_action_truncate BEFORE TRUNCATE ON %s '
                           'FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action()', leaf);
        ELSE
            EXECUTE format('DROP TRIGGER IF EXISTS provenance_require_action_truncate ON %s', leaf);
        END IF;
    END LOOP;
    IF strict THEN
        -- Row triggers are cloned to partitions, so that writes aimed at a partition do not escape.
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_require_action BEFORE INSERT OR UPDATE OR DELETE ON %s '
                       'FOR EACH %s EXECUTE FUNCTION provenance.require_action()',
                       full_name, CASE WHEN by_row THEN 'ROW' ELSE 'STATEMENT' END);
    ELSE
        EXECUTE format('DROP TRIGGER IF EXISTS provenance_require_action ON %s', full_name);
    END IF;
END
$$;

COMMENT ON FUNCTION provenance.stamp_table IS 'Have the database note which action made and which last changed each row of a table; strict: refuse writes outside any.';

CREATE FUNCTION provenance.unstamp_table(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '2s'
    AS $$
DECLARE
    full_name CONSTANT text := provenance.qualified_name(relation);
    column_name name;
    leaf regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = 'provenance_stamp_insert') THEN
        RAISE EXCEPTION '% is not stamped', full_name USING ERRCODE = 'undefined_object';
    END IF;
    PERFORM provenance.check_table(relation, 'unstamped');
    PERFORM provenance.allow_triggers(relation);
    FOR leaf IN SELECT provenance.truncated_with(relation) LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS provenance_require_action_truncate ON %s', leaf);
    END LOOP;
    EXECUTE format('DROP TRIGGER IF EXISTS provenance_require_action ON %s', full_name);
    EXECUTE format('DROP TRIGGER IF EXISTS provenance_stamp_insert ON %s', full_name);
    EXECUTE format('DROP TRIGGER IF EXISTS provenance_stamp_update ON %s', full_name);
    FOR column_name IN
        SELECT a.attname FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attname IN ('created_by_action_id', 'updated_by_action_id')
           AND col_description(a.attrelid, a.attnum) = 'An action, noted by provenance.'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I', full_name, column_name);
    END LOOP;
END
$$;

COMMENT ON FUNCTION provenance.unstamp_table IS 'Undo stamp_table(): the triggers, and the columns it added.';

-- Capture. The trigger stores whole rows, before and after, in the text form in which Postgres prints a composite value. That
-- is the cheapest form there is; what changed, and what type a value has, is worked out when it is read, with the shape.

-- One row per stretch of time in which a table was captured.
CREATE TABLE provenance.captured_tables (
    id integer GENERATED ALWAYS AS IDENTITY,
    table_name text NOT NULL,
    key_columns text[] NOT NULL,
    excluded text[] NOT NULL,
    masked text[] NOT NULL,
    suspicious text NOT NULL,
    max_bytes integer NOT NULL,
    kept text[] NOT NULL,
    captured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_at timestamptz,
    adopted_at timestamptz,
    incomplete_until timestamptz,
    CONSTRAINT captured_tables_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE provenance.captured_tables IS 'Which tables have their row changes captured, since when, and how.';
COMMENT ON COLUMN provenance.captured_tables.table_name IS 'Qualified, quoted where needed.';
COMMENT ON COLUMN provenance.captured_tables.suspicious IS 'A regular expression: columns with such a name are masked unless they are kept.';
COMMENT ON COLUMN provenance.captured_tables.kept IS 'Columns that somebody looked at and found harmless.';
COMMENT ON COLUMN provenance.captured_tables.adopted_at IS 'Since when every row there was is stored; null: one that never changed is not.';
COMMENT ON COLUMN provenance.captured_tables.incomplete_until IS 'Until when some of its changes are deleted, because nobody had to keep them; null: none are.';

CREATE TABLE provenance.row_shapes (
    id integer GENERATED ALWAYS AS IDENTITY,
    table_id integer NOT NULL,
    fields text NOT NULL,
    CONSTRAINT row_shapes_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE provenance.row_shapes IS 'What the fields of captured rows are: JSON lists of name, type and whether it is masked.';

-- Not unique: whoever finds a shape missing adds it, and never waits for another transaction that does the same.
CREATE INDEX row_shapes_table ON provenance.row_shapes (table_id);

CREATE SEQUENCE provenance.row_changes_number;

CREATE TABLE provenance.row_changes (
    -- Statements in the order in which their triggers ran; of two that wrote the same row, the order in which they wrote it.
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    row_slot bigint NOT NULL,
    ordinal integer NOT NULL,
    table_id integer NOT NULL,
    shape_id integer NOT NULL,
    action_id uuid,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    operation text NOT NULL,
    row_key text COLLATE "C" NOT NULL,
    old_key text COLLATE "C",
    old_row text,
    new_row text,
    masked_changes text[],
    tenant_id text NOT NULL DEFAULT '',
    db_user text NOT NULL DEFAULT session_user
) PARTITION BY RANGE (recorded_at);

COMMENT ON TABLE provenance.row_changes IS 'What rows were before and after each change: insert-only, partitioned by month.';
COMMENT ON COLUMN provenance.row_changes.row_key IS 'The primary key after the change, or before it where nothing is left.';
COMMENT ON COLUMN provenance.row_changes.old_key IS 'The primary key before the change, where the change was to the key itself.';
COMMENT ON COLUMN provenance.row_changes.ordinal IS 'The place of the row in its statement; the first row is there even if it did not change.';
COMMENT ON COLUMN provenance.row_changes.masked_changes IS 'Names of masked columns whose value is another one than before.';

-- Every index is paid for by every changed row, so these are as narrow as they can be.
-- History of a row, and what a table was at some time: see row_slot().
CREATE INDEX row_changes_slot ON provenance.row_changes (row_slot);
CREATE INDEX row_changes_old_key ON provenance.row_changes (table_id, old_key, seq) WHERE old_key IS NOT NULL;
-- What did this action change? One entry per statement tells where to look; the rows of a statement lie together.
CREATE INDEX row_changes_action ON provenance.row_changes (action_id, seq, recorded_at)
    WHERE ordinal = 1 AND action_id IS NOT NULL;
CREATE INDEX row_changes_seq ON provenance.row_changes USING brin (seq) WITH (pages_per_range = 16, autosummarize = on);
-- Who writes past the trail?
CREATE INDEX row_changes_untracked ON provenance.row_changes (table_id, seq) WHERE ordinal = 1 AND action_id IS NULL;

CREATE TABLE provenance.row_changes_default PARTITION OF provenance.row_changes DEFAULT;

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON provenance.row_changes
    FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.row_changes ENABLE ALWAYS TRIGGER refuse_change;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON provenance.row_changes
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.row_changes ENABLE ALWAYS TRIGGER refuse_truncate;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON provenance.row_changes_default
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.refuse_change();
ALTER TABLE provenance.row_changes_default ENABLE ALWAYS TRIGGER refuse_truncate;

CREATE FUNCTION provenance.tenant_of(action_id uuid) RETURNS text
    LANGUAGE sql STABLE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT i.tenant_id FROM provenance.action_intents i WHERE i.id = action_id
        UNION ALL
        SELECT a.tenant_id FROM provenance.actions a WHERE a.id = action_id
        LIMIT 1';

COMMENT ON FUNCTION provenance.tenant_of(uuid) IS 'The tenant of a recorded action, or null.';

-- The text of a row, taken apart: one text per field, null where the field is. Quoted fields have quotes and backslashes
-- doubled.
CREATE FUNCTION provenance.row_values(row_text text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT array_agg(CASE WHEN m[1] = '' THEN NULL
                      WHEN starts_with(m[1], '"')
                      THEN regexp_replace(substr(m[1], 2, length(m[1]) - 2), '(["\\])\1', '\1', 'g')
                      ELSE m[1] END ORDER BY n)
  FROM regexp_matches(substr(row_text, 2, length(row_text) - 2) || ',', '("(?:[^"]|"")*"|[^,]*),', 'g')
       WITH ORDINALITY AS f (m, n)
$$;

COMMENT ON FUNCTION provenance.row_values(text) IS 'Takes apart what row_changes.old_row and new_row hold.';

-- Text must look the same whoever writes and whoever reads.
CREATE FUNCTION provenance.text_settings() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'SET search_path = pg_catalog, pg_temp SET timezone = ''UTC'' SET datestyle = ''ISO'' '
           'SET intervalstyle = ''iso_8601'' SET bytea_output = ''hex'' SET extra_float_digits = 1 SET lc_monetary = ''C''';

-- Values too long to keep are replaced by their length and digest. So is one that begins as that mark does: nobody can forge
-- it then. jsonb is printed with spaces, and never does.
CREATE FUNCTION provenance.cut_row(row_text text, max_bytes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT '(' || string_agg(
           CASE WHEN v IS NULL THEN ''
                WHEN octet_length(v) > max_bytes OR starts_with(v, '{"$truncated":{"bytes":')
                THEN format('"{""$truncated"":{""bytes"":%s,""sha256"":""%s""}}"', octet_length(v),
                            encode(sha256(convert_to(v, 'UTF8')), 'hex'))
                ELSE '"' || replace(replace(v, '\', '\\'), '"', '""') || '"' END, ',' ORDER BY n) || ')'
  FROM unnest(provenance.row_values(row_text)) WITH ORDINALITY AS f (v, n)
$$;

CREATE FUNCTION provenance.key_digest(row_key text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT 'sha256:' || encode(sha256(convert_to(row_key, 'UTF8')), 'hex') $$;

-- The columns of a captured table as they are now. place: among the columns there are. hidden: what is done to keep the
-- value out. When a column that is to be hidden has gone, it may have been renamed: all columns that nobody has found harmless
-- are masked then, until somebody says anew what to hide. So are always those whose names are not all ASCII: which letters are
-- the same, and which are letters at all, depends on the collation.
CREATE FUNCTION provenance.captured_columns(
    captured provenance.captured_tables, relation oid, OUT place integer, OUT name text, OUT type text, OUT hidden text
) RETURNS SETOF record
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
WITH present AS (
    SELECT row_number() OVER (ORDER BY a.attnum)::integer AS place, a.attname::text AS name,
           format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated
      FROM pg_attribute a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped),
gone AS (
    SELECT EXISTS (SELECT unnest((captured).excluded || (captured).masked) EXCEPT SELECT p.name FROM present p) AS any)
SELECT p.place, p.name, p.type,
       CASE WHEN p.attgenerated = 'v' OR p.name = ANY ((captured).excluded) THEN 'excluded'
            WHEN p.name = ANY ((captured).masked) THEN 'masked'
            WHEN p.name <> ALL ((captured).kept)
                 AND (g.any OR p.name ~ '[^[:ascii:]]'
                      OR regexp_replace(lower(p.name), '[^a-z]', '', 'g') ~ (captured).suspicious)
            THEN 'masked'
            ELSE '' END
  FROM present p CROSS JOIN gone g
 ORDER BY p.place
$$;

CREATE FUNCTION provenance.row_fields(captured provenance.captured_tables, relation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT COALESCE(json_agg(json_build_array(c.name, c.type, c.hidden = 'masked') ORDER BY c.place), '[]')::text
  FROM provenance.captured_columns(captured, relation) c
 WHERE c.hidden <> 'excluded'
$$;

CREATE FUNCTION provenance.shape_id(captured provenance.captured_tables, relation oid) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    wanted CONSTANT text := provenance.row_fields(captured, relation);
    found_id integer := (SELECT min(s.id) FROM provenance.row_shapes s
                          WHERE s.table_id = captured.id AND s.fields = wanted);
BEGIN
    IF found_id IS NULL THEN
        INSERT INTO provenance.row_shapes (table_id, fields) VALUES (captured.id, wanted) RETURNING id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

-- Where the changes of a row are found: all rows of a table in one range, and in it, next to each other, all changes of one
-- row, with those of few others.
CREATE FUNCTION provenance.row_slot(table_id integer, row_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (table_id::bigint << 32) | (hashtext(row_key COLLATE "C")::bigint & 4294967295);

-- A column of *source*: by its place where the columns of a whole set were given their places as names, else by its name.
CREATE FUNCTION provenance.column_sql(source text, place integer, name text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT CASE WHEN source = 'by_place' THEN format('by_place.c%s', place) ELSE format('%s.%I', source, name) END $$;

-- SQL for the text of a row: what is neither excluded nor masked, as a composite value.
CREATE FUNCTION provenance.row_sql(captured provenance.captured_tables, relation oid, source text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT format('ROW(%s)::text', string_agg(provenance.column_sql(source, c.place, c.name), ', ' ORDER BY c.place))
  FROM provenance.captured_columns(captured, relation) c
 WHERE c.hidden = ''
$$;

-- SQL for the text of the key: of its single column, or of all of them as a composite value. concat() prints with the type's
-- own output function, which a cast need not do.
CREATE FUNCTION provenance.key_sql(captured provenance.captured_tables, relation oid, source text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    parts text[];
    secret boolean;
    short boolean;
    whole text;
BEGIN
    SELECT array_agg(provenance.column_sql(source, c.place, c.name) ORDER BY array_position(captured.key_columns, c.name)),
           bool_or(c.hidden <> ''), bool_and(a.attlen > 0)
      INTO parts, secret, short
      FROM provenance.captured_columns(captured, relation) c
      JOIN pg_attribute a ON a.attrelid = relation AND a.attname = c.name
     WHERE c.name = ANY (captured.key_columns);
    -- The key was changed since the table was captured. That is no reason to fail somebody's write.
    IF cardinality(parts) IS DISTINCT FROM cardinality(captured.key_columns) THEN
        RETURN format('provenance.key_digest(%s)', provenance.row_sql(captured, relation, source));
    END IF;
    whole := format(CASE cardinality(parts) WHEN 1 THEN 'concat(%s)' ELSE 'ROW(%s)::text' END, array_to_string(parts, ', '));
    RETURN CASE WHEN secret THEN format('provenance.key_digest(%s)', whole)
                WHEN short THEN whole
                ELSE format('CASE WHEN octet_length(%1$s) > 1000 THEN provenance.key_digest(%1$s) ELSE %1$s END', whole) END;
END
$$;

-- SQL for what there is to store of one row: its key, its text, and, to be compared and then dropped, its masked values.
CREATE FUNCTION provenance.image_sql(captured provenance.captured_tables, relation oid, source text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT format('%s AS key, %s AS row', provenance.key_sql(captured, relation, source),
              provenance.row_sql(captured, relation, source))
       || COALESCE((
           SELECT format(', ARRAY[%s] AS masked', string_agg(format(
                      'CASE WHEN num_nulls(%1$s) = 0 THEN concat(%1$s) END', provenance.column_sql(source, c.place, c.name)),
                      ', ' ORDER BY c.place))
             FROM provenance.captured_columns(captured, relation) c
            WHERE c.hidden = 'masked' HAVING count(*) > 0), '')
$$;

-- SQL for what there is to store of many rows, numbered: old and new rows of a statement belong together by their place,
-- because the keys may be what was changed. OFFSET 0: the text is made before rows are moved about, and once.
CREATE FUNCTION provenance.images_sql(captured provenance.captured_tables, relation oid, rows_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT format('(SELECT row_number() OVER () AS ordinal, i.* FROM (SELECT %s FROM %s AS by_place (%s) OFFSET 0) AS i)',
              provenance.image_sql(captured, relation, 'by_place'), rows_sql,
              (SELECT string_agg('c' || c.place, ', ' ORDER BY c.place)
                 FROM provenance.captured_columns(captured, relation) c))
$$;

-- The statement that stores changes. *facts*: expressions for seq, recorded_at, action_id and tenant_id. *old_images* and
-- *new_images*: from the functions above, null where there are none.
CREATE FUNCTION provenance.change_sql(
    captured provenance.captured_tables, relation oid, shape integer, operation text, facts text[],
    old_images text, new_images text
) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    present CONSTANT text := CASE WHEN new_images IS NULL THEN 'o' ELSE 'n' END;
    paired CONSTANT boolean := old_images IS NOT NULL AND new_images IS NOT NULL;
    cut CONSTANT text := replace(
        'CASE WHEN octet_length(%1$s.row) > max OR strpos(%1$s.row, ''"{""$truncated"":{""bytes"":'') > 0 '
        'THEN provenance.cut_row(%1$s.row, max) ELSE %1$s.row END', 'max', captured.max_bytes::text);
    masked CONSTANT text := (
        SELECT format('NULLIF(array_remove(ARRAY[%s], NULL), ''{}'')', string_agg(
                   format('CASE WHEN o.masked[%1$s] IS DISTINCT FROM n.masked[%1$s] THEN %2$L END', m.n, m.name), ', '))
          FROM (SELECT row_number() OVER (ORDER BY c.place) AS n, c.name
                  FROM provenance.captured_columns(captured, relation) c WHERE c.hidden = 'masked') AS m
        HAVING paired AND count(*) > 0);
BEGIN
    RETURN format(
        'INSERT INTO provenance.row_changes (seq, recorded_at, row_slot, ordinal, table_id, shape_id, action_id, tenant_id, '
        'operation, row_key, old_key, old_row, new_row, masked_changes) '
        'SELECT %s, %s, provenance.row_slot(%s, %s.key), %s, %s, %s, %s, %s, %L, %s.key, %s, %s, %s, %s FROM %s%s',
        facts[1], facts[2], captured.id, present,
        CASE WHEN operation = 'baseline' THEN 'row_number() OVER ()' ELSE present || '.ordinal' END,
        captured.id, shape, facts[3], facts[4], operation, present,
        CASE WHEN paired THEN 'NULLIF(o.key, n.key)' ELSE 'NULL' END,
        CASE WHEN old_images IS NOT NULL THEN format(cut, 'o') ELSE 'NULL' END,
        CASE WHEN new_images IS NOT NULL THEN format(cut, 'n') ELSE 'NULL' END,
        COALESCE(masked, 'NULL'),
        concat_ws(' JOIN ', old_images || ' AS o', new_images || ' AS n'),
        -- What did not change is not stored, except that every statement has a first row.
        CASE WHEN paired
             THEN ' ON n.ordinal = o.ordinal WHERE n.ordinal = 1 OR o.row <> n.row'
                  || CASE WHEN masked IS NULL THEN '' ELSE ' OR o.masked IS DISTINCT FROM n.masked' END
             WHEN operation = 'baseline'
             THEN format(' WHERE NOT EXISTS (SELECT FROM provenance.row_changes r WHERE '
                         'r.row_slot = provenance.row_slot(%1$s, n.key) AND r.table_id = %1$s AND r.row_key = n.key '
                         'OFFSET 0) AND NOT EXISTS (SELECT FROM provenance.row_changes r '
                         'WHERE r.table_id = %1$s AND r.old_key = n.key OFFSET 0)', captured.id)
             ELSE '' END);
END
$$;

-- What a TRUNCATE is about to remove. It is read with the rights of the owner of this schema, and row-level security is off:
-- the table's policies are not executed with them, and where they would hide rows the TRUNCATE is refused. For a partitioned table, the rows of the partitions that were attached since and have
-- no trigger of their own.
CREATE FUNCTION provenance.record_truncate(table_id integer, relation oid, facts_seq bigint, facts_at timestamptz,
                                           facts_action uuid, facts_tenant text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
    AS $$
DECLARE
    captured CONSTANT provenance.captured_tables := (
        SELECT c FROM provenance.captured_tables c WHERE c.id = record_truncate.table_id);
    leaf regclass;
BEGIN
    FOR leaf IN
        SELECT c.oid FROM pg_class c WHERE c.oid = relation AND c.relkind <> 'p'
        UNION ALL
        SELECT p.relid FROM pg_class c CROSS JOIN pg_partition_tree(c.oid) p
         WHERE c.oid = relation AND c.relkind = 'p' AND p.isleaf
           AND NOT EXISTS (SELECT FROM pg_trigger t
                            WHERE t.tgrelid = p.relid AND t.tgname = 'provenance_capture_truncate')
    LOOP
        EXECUTE provenance.change_sql(
                captured, leaf, provenance.shape_id(captured, leaf), 'truncate', ARRAY['$1', '$2', '$3', '$4'],
                provenance.images_sql(captured, leaf, leaf::text), NULL)
            USING facts_seq, facts_at, facts_action, facts_tenant;
    END LOOP;
END
$$;

-- The trigger function of one captured table. While the table is as it was when the function was made, the statement that
-- stores a change is in it, planned once per session; after an ALTER TABLE it is made anew each time, until the table is
-- captured again. A statement is numbered when its trigger runs, after those that triggers for each row did meanwhile. Whatever
-- would carry a number over from before it, such as a setting, is in the hands of who writes, who could then change the order.
CREATE FUNCTION provenance.capture_source(
    captured provenance.captured_tables, relation oid, shape integer, by_row boolean
) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Order does not matter to the sum. The columns of a partition may be numbered otherwise; they are found by name.
    sum_sql CONSTANT text := format(
        'SELECT bit_xor(hashtextextended(concat_ws('' '', %s a.attname, a.atttypid, a.atttypmod, a.attgenerated), 0)) '
        'FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped',
        CASE WHEN by_row THEN '' ELSE 'a.attnum,' END);
    sum bigint;
    old_images CONSTANT text := CASE
        WHEN by_row THEN format('(SELECT 1 AS ordinal, %s)', provenance.image_sql(captured, relation, 'OLD'))
        ELSE provenance.images_sql(captured, relation, 'old_rows') END;
    new_images CONSTANT text := CASE
        WHEN by_row THEN format('(SELECT 1 AS ordinal, %s)', provenance.image_sql(captured, relation, 'NEW'))
        ELSE provenance.images_sql(captured, relation, 'new_rows') END;
    facts CONSTANT text[] := ARRAY['facts.seq', 'facts.moment', 'facts.action', 'facts.tenant'];
BEGIN
    EXECUTE sum_sql INTO sum USING relation;
    RETURN format(
        $source$
<<facts>>
DECLARE
    seq CONSTANT bigint := nextval('provenance.row_changes_number');
    moment CONSTANT timestamptz := clock_timestamp();
    action CONSTANT uuid := provenance.current_action_id();
    block CONSTANT text := current_setting('provenance.block', true);
    tenant CONSTANT text := COALESCE(
        CASE WHEN action IS NULL THEN ''
             WHEN starts_with(block, action::text) THEN substr(block, 75)
             ELSE provenance.tenant_of(action) END, '');
    captured provenance.captured_tables;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM provenance.record_truncate(%1$s, TG_RELID, seq, moment, action, tenant);
    ELSIF (%2$s) = %3$s THEN
        CASE TG_OP
        WHEN 'UPDATE' THEN
            %4$s;
        WHEN 'INSERT' THEN
            %5$s;
        WHEN 'DELETE' THEN
            %6$s;
        END CASE;
    ELSE
        SELECT * INTO captured FROM provenance.captured_tables c WHERE c.id = %1$s;
        EXECUTE provenance.change_sql(
                captured, TG_RELID, provenance.shape_id(captured, TG_RELID), lower(TG_OP), ARRAY['$1', '$2', '$3', '$4'],
                CASE WHEN TG_OP <> 'INSERT' THEN %7$s END, CASE WHEN TG_OP <> 'DELETE' THEN %8$s END)
            USING seq, moment, action, tenant%9$s;
    END IF;
    RETURN NULL;
END
$source$,
        captured.id, replace(sum_sql, '$1', 'TG_RELID'), sum,
        provenance.change_sql(captured, relation, shape, 'update', facts, old_images, new_images),
        provenance.change_sql(captured, relation, shape, 'insert', facts, NULL, new_images),
        provenance.change_sql(captured, relation, shape, 'delete', facts, old_images, NULL),
        CASE WHEN by_row THEN '''(SELECT 1 AS ordinal, '' || provenance.image_sql(captured, TG_RELID, ''($5)'') || '')'''
             ELSE 'provenance.images_sql(captured, TG_RELID, ''old_rows'')' END,
        CASE WHEN by_row THEN '''(SELECT 1 AS ordinal, '' || provenance.image_sql(captured, TG_RELID, ''($6)'') || '')'''
             ELSE 'provenance.images_sql(captured, TG_RELID, ''new_rows'')' END,
        CASE WHEN by_row THEN ', OLD, NEW' ELSE '' END);
END
$$;

-- Which capture a table is under, by its trigger: a renamed table keeps it.
CREATE FUNCTION provenance.captured_id(relation oid) RETURNS integer
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT substr(p.proname, 9)::integer
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE t.tgrelid = relation AND t.tgname = 'provenance_capture_insert'
   AND p.pronamespace = 'provenance'::regnamespace AND p.proname ~ '^capture_[0-9]+$'
$$;

CREATE FUNCTION provenance.capture_table(
    relation regclass, excluded text[] DEFAULT '{}', masked text[] DEFAULT '{}', kept text[] DEFAULT '{}',
    max_bytes integer DEFAULT 32768,
    suspicious text DEFAULT
        'accesskey|accountkey|aeskey|apikey|apipass|auth|authcode|authkey|authorization|authpass|backupcode|bearer|'
        'bindpw|cardno|cardnumber|ccno|ccnumber|codeverifier|cookie|credential|creditcard|creds|csrf|cvc|cvv|dbpass|'
        'debitcard|encryptionkey|facode|factorcode|hmackey|jwt|keypass|masterkey|mfacode|otp|pass|passcode|'
        'passphrase|passwd|password|passwordhash|pin|presharedkey|privatekey|psk|pwd|recoverycode|secret|secretkey|'
        'securitycode|seedphrase|sessid|sessionid|sessionkey|sharedkey|signingkey|smscode|socialsecurity|sshkey|'
        'sshpass|ssn|storepass|token|totp|userpass|verificationcode|xsrf'
) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '2s'
    AS $$
DECLARE
    full_name CONSTANT text := provenance.qualified_name(relation);
    by_row boolean;
    present text[];
    key text[];
    missing text;
    captured provenance.captured_tables;
    owner name;
    function_name text;
    source text;
    leaf regclass;
    propagates CONSTANT text := NULLIF(current_setting('citus.enable_ddl_propagation', true), '');
BEGIN
    PERFORM provenance.check_table(relation, 'captured');
    IF max_bytes NOT BETWEEN 64 AND 16777216 THEN
        RAISE EXCEPTION 'max_bytes: expected 64 to 16777216, got %', max_bytes USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whoever writes to the table now is waited for, so that what follows sees the table as it stays.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', full_name);
    SELECT c.relkind = 'p' INTO by_row FROM pg_class c WHERE c.oid = relation;
    SELECT array_agg(a.attname::text ORDER BY a.attnum) INTO present
      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    SELECT array_agg(a.attname::text ORDER BY k.n) INTO key
      FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indrelid = relation AND i.indisprimary AND k.n <= i.indnkeyatts;
    IF key IS NULL THEN
        RAISE EXCEPTION '% cannot be captured: it has no primary key, so that nobody could tell which row a change was made to',
                full_name
            USING ERRCODE = 'invalid_table_definition', HINT = 'Give it one with ALTER TABLE … ADD PRIMARY KEY.';
    END IF;
    SELECT c INTO missing FROM unnest(excluded || masked || kept) c WHERE c <> ALL (present) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION '% has no column %', full_name, missing
            USING ERRCODE = 'undefined_column', HINT = format('Its columns are %s.', array_to_string(present, ', '));
    END IF;
    SELECT c INTO missing FROM unnest(excluded) c WHERE c = ANY (key) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'column % of % cannot be excluded: it is in the primary key', missing, full_name
            USING ERRCODE = 'invalid_column_reference', HINT = 'Mask it: the key is then kept as a digest.';
    END IF;
    SELECT r.rolname INTO owner FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'provenance';
    IF NOT has_table_privilege(owner, relation, 'SELECT')
       OR NOT has_schema_privilege(owner, (SELECT c.relnamespace FROM pg_class c WHERE c.oid = relation), 'USAGE') THEN
        RAISE EXCEPTION '% cannot be captured: the owner of the schema provenance, %, may not read it', full_name, owner
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT USAGE ON SCHEMA … TO %I; GRANT SELECT ON %s TO %I', owner, full_name, owner);
    END IF;
    UPDATE provenance.captured_tables c
       SET table_name = full_name, key_columns = key, excluded = capture_table.excluded,
           masked = capture_table.masked, suspicious = capture_table.suspicious, max_bytes = capture_table.max_bytes,
           kept = capture_table.kept
     WHERE c.id = provenance.captured_id(relation)
    RETURNING * INTO captured;
    IF NOT FOUND THEN
        INSERT INTO provenance.captured_tables (table_name, key_columns, excluded, masked, suspicious, max_bytes, kept)
        VALUES (full_name, key, excluded, masked, suspicious, max_bytes, kept)
        RETURNING * INTO captured;
    END IF;
    function_name := format('provenance.capture_%s()', captured.id);
    source := provenance.capture_source(captured, relation, provenance.shape_id(captured, relation), by_row);
    -- Citus would make the function on its workers too, where it is of no use.
    PERFORM set_config('citus.enable_ddl_propagation', 'off', true) WHERE propagates IS NOT NULL;
    -- Without nested loops: what was planned for one row must do for a million.
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %s RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER %s '
        'SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_hashjoin = off SET jit = off AS %L',
        function_name, provenance.text_settings(), source);
    -- Whether the body is still what was made here is seen by it.
    EXECUTE format('COMMENT ON FUNCTION %s IS %L', function_name, provenance.key_digest(source));
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function_name);
    EXECUTE format('ALTER FUNCTION %s OWNER TO %I', function_name, owner);
    PERFORM set_config('citus.enable_ddl_propagation', propagates, true) WHERE propagates IS NOT NULL;
    IF by_row THEN
        -- Cloned to every partition, later ones too, so that writes aimed at a partition do not escape.
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_capture_insert AFTER INSERT OR UPDATE OR DELETE ON %s '
                       'FOR EACH ROW EXECUTE FUNCTION %s', full_name, function_name);
    ELSE
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_capture_insert AFTER INSERT ON %s '
                       'REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %s', full_name, function_name);
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_capture_update AFTER UPDATE ON %s '
                       'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
                       'FOR EACH STATEMENT EXECUTE FUNCTION %s', full_name, function_name);
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_capture_delete AFTER DELETE ON %s '
                       'REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION %s', full_name, function_name);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER provenance_capture_update', full_name);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER provenance_capture_delete', full_name);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER provenance_capture_insert', full_name);
    FOR leaf IN SELECT provenance.truncated_with(relation) LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER provenance_capture_truncate BEFORE TRUNCATE ON %s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION %s', leaf, function_name);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER provenance_capture_truncate', leaf);
    END LOOP;
    RETURN captured.id;
END
$$;

COMMENT ON FUNCTION provenance.capture_table IS 'Store from now on what rows of a table were before and after each change; again, to change the settings.';

CREATE FUNCTION provenance.release_table(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '2s'
    AS $$
DECLARE
    captured CONSTANT integer := provenance.captured_id(relation);
    member regclass;
BEGIN
    IF captured IS NULL THEN
        RAISE EXCEPTION 'row changes of % are not captured', provenance.qualified_name(relation)
            USING ERRCODE = 'undefined_object';
    END IF;
    FOR member IN SELECT provenance.truncated_with(relation) LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS provenance_capture_truncate ON %s', member);
    END LOOP;
    EXECUTE format('DROP TRIGGER provenance_capture_insert ON %s', relation);
    EXECUTE format('DROP TRIGGER IF EXISTS provenance_capture_update ON %s', relation);
    EXECUTE format('DROP TRIGGER IF EXISTS provenance_capture_delete ON %s', relation);
    EXECUTE format('DROP FUNCTION provenance.capture_%s()', captured);
    UPDATE provenance.captured_tables c
       SET released_at = clock_timestamp(), table_name = provenance.qualified_name(relation)
     WHERE c.id = captured;
END
$$;

COMMENT ON FUNCTION provenance.release_table(regclass) IS 'Stop capturing; what was captured stays.';

CREATE FUNCTION provenance.adopt_table(relation regclass) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    captured CONSTANT provenance.captured_tables := (
        SELECT c FROM provenance.captured_tables c WHERE c.id = provenance.captured_id(relation));
    action CONSTANT uuid := provenance.current_action_id();
    adopted bigint;
BEGIN
    IF captured IS NULL THEN
        RAISE EXCEPTION 'row changes of % are not captured', provenance.qualified_name(relation)
            USING ERRCODE = 'undefined_object', HINT = 'Capture it first.';
    END IF;
    PERFORM pg_advisory_xact_lock(1664910189, captured.id);
    -- Numbered before every change: of a change that is not committed yet, this sees the row as it was before.
    EXECUTE provenance.change_sql(
            captured, relation, provenance.shape_id(captured, relation), 'baseline', ARRAY['0', '$1', '$2', '$3'],
            NULL, provenance.images_sql(captured, relation, relation::text))
        USING clock_timestamp(), action, COALESCE(provenance.tenant_of(action), '');
    GET DIAGNOSTICS adopted = ROW_COUNT;
    -- Rows that policies hide from who adopts are not stored.
    UPDATE provenance.captured_tables c SET adopted_at = clock_timestamp()
     WHERE c.id = captured.id AND c.adopted_at IS NULL AND NOT row_security_active(relation);
    RETURN adopted;
END
$$;

COMMENT ON FUNCTION provenance.adopt_table(regclass) IS 'Store the rows that have been there since before the table was captured.';

-- The captures of a table, also of one that was renamed or is gone. What there is not is looked for by the name that was given,
-- and only as it is: of several schemas nobody could tell which is meant.
CREATE FUNCTION provenance.captures_of(relation regclass, given_name text) RETURNS integer[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    parts text[];
    full_name text := provenance.qualified_name(relation);
    ids integer[];
    others text[];
    missing text;
BEGIN
    IF relation IS NULL THEN
        BEGIN
            parts := parse_ident(given_name);
        EXCEPTION WHEN invalid_parameter_value THEN
            RAISE EXCEPTION 'invalid name syntax' USING ERRCODE = 'invalid_name';
        END;
        full_name := (SELECT string_agg(quote_ident(p.part), '.' ORDER BY p.n)
                        FROM unnest(parts) WITH ORDINALITY AS p (part, n));
    END IF;
    ids := ARRAY(SELECT c.id FROM provenance.captured_tables c
                  WHERE c.id = provenance.captured_id(relation) OR c.table_name = full_name ORDER BY c.id);
    IF ids <> '{}' THEN
        RETURN ids;
    END IF;
    IF relation IS NOT NULL THEN
        RAISE EXCEPTION 'row changes of % have never been captured', full_name
            USING ERRCODE = 'undefined_object', HINT = format('Capture it with `provenance capture %s`.', full_name);
    END IF;
    missing := format('there is no table %s', given_name)
               || CASE cardinality(parts) WHEN 1 THEN ' in the search path' ELSE '' END;
    others := ARRAY(SELECT DISTINCT c.table_name FROM provenance.captured_tables c
                     WHERE lower((parse_ident(c.table_name))[2]) = lower(parts[cardinality(parts)])
                     ORDER BY c.table_name);
    IF others <> '{}' THEN
        RAISE EXCEPTION '%', missing
            USING ERRCODE = 'undefined_object',
                  HINT = format('Row changes of %s have been captured, so write %s.', array_to_string(others, ', '),
                                CASE cardinality(others) WHEN 1 THEN 'that' ELSE 'one of these' END);
    END IF;
    RAISE EXCEPTION '%, and none of that name has ever been captured', missing
        USING ERRCODE = 'undefined_object',
              HINT = CASE cardinality(parts) WHEN 1 THEN 'Write its name with its schema.' ELSE '' END;
END
$$;

COMMENT ON FUNCTION provenance.captures_of(regclass, text) IS 'The ids in captured_tables that belong to a table.';

-- The texts under which a key may be stored: as its columns print it, in each type that they had, or as given where it is not
-- of that type; and the digests of these. No type is asked but those of Postgres: what others do is somebody's function, and
-- must not run with the rights of whoever reads. Of a domain, the type below is asked. What would fit only when it is rounded or
-- cut off is not that key. A key that none of the table's ever was like, and under which nothing is stored, is refused: no
-- changes of it would mean nothing.
CREATE FUNCTION provenance.key_texts(ids integer[], relation regclass, parts text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    shape record;
    type text;
    printed text[];
    part text;
    texts text[] := '{}';
    wrong text;
    fault text;
    fits boolean := false;
BEGIN
    FOR shape IN
        SELECT c.table_name, array_agg(f.field ->> 1 ORDER BY array_position(c.key_columns, f.field ->> 0)) AS types,
               string_agg(format('%I %s', f.field ->> 0, f.field ->> 1), ', '
                          ORDER BY array_position(c.key_columns, f.field ->> 0)) AS columns
          FROM provenance.captured_tables c
         CROSS JOIN LATERAL (
               SELECT s.id, s.fields FROM provenance.row_shapes s WHERE s.table_id = c.id
               UNION ALL
               SELECT 2147483647, provenance.row_fields(c, relation) WHERE c.id = provenance.captured_id(relation)) AS s
         CROSS JOIN LATERAL json_array_elements(s.fields::json) AS f (field)
         WHERE c.id = ANY (ids) AND f.field ->> 0 = ANY (c.key_columns)
         GROUP BY c.id, s.id ORDER BY c.id DESC, s.id DESC
    LOOP
        printed := '{}';
        wrong := CASE WHEN cardinality(parts) <> cardinality(shape.types)
                      THEN format(CASE cardinality(parts) WHEN 1 THEN '%s value was given' ELSE '%s values were given' END,
                                  cardinality(parts)) END;
        FOR n IN 1 .. cardinality(parts) LOOP
            part := NULL;
            type := shape.types[n];
            BEGIN
                WHILE EXISTS (SELECT FROM pg_type t WHERE t.oid = to_regtype(type) AND t.typtype = 'd') LOOP
                    SELECT format_type(t.typbasetype, t.typtypmod) INTO type FROM pg_type t WHERE t.oid = to_regtype(type);
                END LOOP;
                IF EXISTS (SELECT FROM pg_type t
                            WHERE t.oid = to_regtype(type) AND t.typnamespace = 'pg_catalog'::regnamespace) THEN
                    EXECUTE format('SELECT concat(%1$L::%2$s) WHERE %1$L::%2$s = %1$L::%3$s',
                                   parts[n], type, format_type(to_regtype(type), -1)) INTO part;
                END IF;
            EXCEPTION
                WHEN data_exception THEN
                    wrong := COALESCE(wrong, format('%L is no %s', left(parts[n], 100), type));
                WHEN undefined_function OR insufficient_privilege THEN
                    -- No type for a key any more, or one of somebody who does not show it.
                    NULL;
            END;
            printed := printed || COALESCE(part, parts[n]);
        END LOOP;
        EXECUTE format(CASE cardinality(parts) WHEN 1 THEN 'SELECT %s' ELSE 'SELECT ROW(%s)::text' END,
                       (SELECT string_agg(quote_literal(p.part), ', ' ORDER BY p.n)
                          FROM unnest(printed) WITH ORDINALITY AS p (part, n))) INTO part;
        texts := texts || ARRAY[part, provenance.key_digest(part)];
        fits := fits OR wrong IS NULL;
        -- Of several shapes the newest is what is told.
        fault := COALESCE(fault, format('the key of %s is (%s), and %s', shape.table_name, shape.columns, wrong));
    END LOOP;
    -- The key may have been another before the table was captured again: what is stored is never refused.
    IF NOT fits AND fault IS NOT NULL AND NOT EXISTS (
        SELECT FROM provenance.row_changes r
         WHERE r.row_slot = ANY (ARRAY(SELECT provenance.row_slot(i, t) FROM unnest(ids) i, unnest(texts) t))
           AND r.row_key = ANY (texts)
        UNION ALL
        SELECT FROM provenance.row_changes r WHERE r.table_id = ANY (ids) AND r.old_key = ANY (texts))
    THEN
        RAISE EXCEPTION '%', fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN texts;
END
$$;

COMMENT ON FUNCTION provenance.key_texts IS 'The texts under which changes of the row with a key may be stored.';

-- Until when changes of a table may be missing: those of months that are in an archive, and those that were deleted.
CREATE FUNCTION provenance.changes_missing_until(table_id integer) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT GREATEST(c.incomplete_until, (
           SELECT max(a.ended) FROM provenance.archived_months m
            CROSS JOIN LATERAL (SELECT (m.month + interval '1 month') AT TIME ZONE 'UTC' AS ended) AS a
            WHERE m.table_name = 'row_changes' AND m.restored_at IS NULL AND m.rows > 0
              AND a.ended > c.captured_at AND m.month::timestamp AT TIME ZONE 'UTC' <= COALESCE(c.released_at, 'infinity')))
  FROM provenance.captured_tables c WHERE c.id = changes_missing_until.table_id
$$;

COMMENT ON FUNCTION provenance.changes_missing_until(integer) IS 'Until when changes of a captured table may have left, or null.';

-- The rows of a table as they were. What a key was is known from the last change before that moment; failing that from the
-- first one after it, which tells what it found; failing that from the baseline; and failing that from the table itself,
-- where the row has not changed since. Once it is not captured any more the table cannot tell, and without a baseline nobody
-- knows what else there was. At a moment in which two captures meet, the later one tells.
--
-- Where changes have left, that before the moment need not be the last one there was: only what comes after it tells.
CREATE FUNCTION provenance.rows_as_of(
    relation regclass, given_name text, moment timestamptz, wanted_keys text[] DEFAULT NULL,
    OUT row_key text, OUT fields text, OUT row_text text
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE
    AS $$
#variable_conflict use_column
DECLARE
    ids CONSTANT integer[] := provenance.captures_of(relation, given_name);
    captured provenance.captured_tables;
    ended timestamptz;
    missing_until timestamptz;
    slots bigint[];
    live text := '';
BEGIN
    SELECT c.* INTO captured FROM provenance.captured_tables c
     WHERE c.id = ANY (ids) AND c.captured_at <= moment AND (c.released_at IS NULL OR c.released_at >= moment)
     ORDER BY c.id DESC LIMIT 1;
    IF NOT FOUND THEN
        -- The stretches before and after that moment.
        SELECT max(c.released_at) INTO ended FROM provenance.captured_tables c
         WHERE c.id = ANY (ids) AND c.released_at < moment;
        SELECT c.* INTO captured FROM provenance.captured_tables c
         WHERE c.id = ANY (ids) AND c.captured_at > moment ORDER BY c.captured_at LIMIT 1;
        RAISE EXCEPTION 'what was in % at % is not known: its row changes were not captured then', given_name, moment
            USING ERRCODE = 'undefined_object',
                  HINT = CASE
                WHEN captured IS NULL THEN format('The table was released at %s, and is not captured any more.', ended)
                WHEN ended IS NOT NULL
                THEN format('The table was released at %s, and captured again at %s.', ended, captured.captured_at)
                WHEN captured.released_at IS NOT NULL
                THEN format('They were captured from %s until %s.', captured.captured_at, captured.released_at)
                ELSE format('They are captured since %s.', captured.captured_at) END;
    END IF;
    missing_until := provenance.changes_missing_until(captured.id);
    IF missing_until > moment OR missing_until IS NOT NULL AND captured.id IS DISTINCT FROM provenance.captured_id(relation)
    THEN
        RAISE EXCEPTION 'what was in % at % is not known here: some of its row changes until % have left the database',
                given_name, moment, missing_until
            USING ERRCODE = 'undefined_object',
                  HINT = 'Restore their months, if they are in an archive; what is deleted is not known any more.';
    END IF;
    slots := ARRAY(SELECT provenance.row_slot(captured.id, k) FROM unnest(wanted_keys) k);
    IF captured.id = provenance.captured_id(relation) THEN
        live := format(
            ' UNION ALL SELECT l.key, 0, %L, l.row FROM (SELECT %s AS key, %s AS row FROM %s AS live OFFSET 0) AS l '
            'WHERE ($3 IS NULL OR l.key = ANY ($3)) AND NOT EXISTS (SELECT FROM known k WHERE k.key = l.key)',
            provenance.row_fields(captured, relation), provenance.key_sql(captured, relation, 'live'),
            provenance.row_sql(captured, relation, 'live'), relation);
    ELSIF captured.adopted_at IS NULL AND NOT EXISTS (
        SELECT FROM provenance.row_changes r WHERE r.row_slot = ANY (slots) AND r.row_key = ANY (wanted_keys)
        UNION ALL
        SELECT FROM provenance.row_changes r WHERE r.table_id = captured.id AND r.old_key = ANY (wanted_keys))
    THEN
        RAISE EXCEPTION 'what was in % at % is not known: it was released or dropped without having been adopted, and rows '
                        'that did not change while it was captured are not stored', given_name, moment
            USING ERRCODE = 'undefined_object', HINT = 'Adopt a table before that.';
    END IF;
    RETURN QUERY EXECUTE
        'WITH event AS ('
        '    SELECT r.row_key AS key, r.seq, r.recorded_at, 1 AS side, r.shape_id, r.operation,'
        '           CASE WHEN r.operation <> ''insert'' AND r.old_key IS NULL THEN r.old_row END AS before,'
        '           r.new_row AS after'
        '      FROM provenance.row_changes r WHERE '
        || CASE WHEN wanted_keys IS NULL THEN 'r.row_slot BETWEEN $1::bigint << 32 AND ($1::bigint << 32) | 4294967295'
                ELSE 'r.row_slot = ANY ($4) AND r.row_key = ANY ($3)' END ||
        '    UNION ALL'
        '    SELECT r.old_key, r.seq, r.recorded_at, 0, r.shape_id, r.operation, r.old_row, NULL'
        '      FROM provenance.row_changes r'
        '     WHERE r.table_id = $1 AND r.old_key IS NOT NULL AND ($3 IS NULL OR r.old_key = ANY ($3))),'
        'past AS (SELECT DISTINCT ON (key) key, shape_id, after AS row FROM event'
        '          WHERE recorded_at <= $2 AND $5 IS NULL AND operation <> ''baseline'''
        '          ORDER BY key, seq DESC, side DESC),'
        'later AS (SELECT DISTINCT ON (key) key, shape_id, before AS row FROM event'
        '           WHERE recorded_at > $2 AND operation <> ''baseline'' ORDER BY key, seq, side),'
        'base AS (SELECT key, shape_id, after AS row FROM event WHERE $5 IS NULL AND operation = ''baseline''),'
        'known AS ('
        '    SELECT key, shape_id, row FROM past'
        '    UNION ALL SELECT key, shape_id, row FROM later WHERE key NOT IN (SELECT key FROM past)'
        '    UNION ALL SELECT key, shape_id, row FROM base'
        '     WHERE key NOT IN (SELECT key FROM past) AND key NOT IN (SELECT key FROM later)) '
        'SELECT k.key, COALESCE(s.fields, k.fields), k.row'
        '  FROM (SELECT key, shape_id, NULL::text AS fields, row FROM known WHERE row IS NOT NULL'
        || live || ') AS k LEFT JOIN provenance.row_shapes s ON s.id = k.shape_id'
        USING captured.id, moment, wanted_keys, slots, missing_until;
END
$$;

-- CREATE FUNCTION cannot take settings from elsewhere.
DO $$
DECLARE
    function regproc;
BEGIN
    FOREACH function IN ARRAY '{provenance.adopt_table,provenance.key_texts,provenance.rows_as_of}'::regproc[] LOOP
        EXECUTE format('ALTER FUNCTION %s %s', function, provenance.text_settings());
    END LOOP;
END
$$;

-- Every table of the application, and how much of it is accounted for. Counts only what is stamped, and only what the caller
-- may read.
CREATE FUNCTION provenance.coverage(
    OUT table_name text, OUT is_stamped boolean, OUT is_strict boolean, OUT is_captured boolean, OUT row_count bigint,
    OUT untracked_rows bigint, OUT last_untracked_at timestamptz, OUT last_untracked_by text, OUT gaps text[]
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    relation regclass;
    by_row boolean;
BEGIN
    FOR relation, table_name, by_row IN
        SELECT c.oid, provenance.qualified_name(c.oid), c.relkind = 'p'
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
           AND n.nspname NOT IN ('provenance', 'pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_t%'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                                     AND d.deptype = 'e')
         ORDER BY n.nspname, c.relname
    LOOP
        -- What a table has, each of its partitions must have. Only TRUNCATE aimed at a partition may be missing, because its
        -- triggers are not cloned: that is a gap, and the table is called stamped and captured all the same.
        WITH wanted AS (
            SELECT w.name, m.member, t.oid IS NULL AS is_missing, w.is_cloned,
                   CASE WHEN t.oid IS NULL THEN 'missing'
                        WHEN t.tgenabled = 'D' THEN 'disabled'
                        WHEN w.name LIKE 'capture%' AND t.tgenabled <> 'A' THEN 'not enabled always'
                        WHEN t.tgenabled = 'R' THEN 'enabled in replica sessions only' END AS gap
              FROM (SELECT substr(t.tgname, 12) AS name, t.tgname, t.tgname NOT LIKE '%truncate' AS is_cloned FROM pg_trigger t
                     WHERE t.tgrelid = relation AND t.tgname ~ '^provenance_(stamp|require_action|capture)') AS w
             CROSS JOIN provenance.truncated_with(relation) AS m (member)
              LEFT JOIN pg_trigger t ON t.tgrelid = m.member AND t.tgname = w.tgname),
        kind AS (
            SELECT k.prefix, count(*) FILTER (WHERE w.member = relation) AS triggers,
                   bool_and(w.name IS NOT NULL AND (w.gap IS NULL OR w.is_missing AND NOT w.is_cloned)) AS holds
              FROM unnest('{stamp,require_action,capture}'::text[]) AS k (prefix)
              LEFT JOIN wanted w ON starts_with(w.name, k.prefix) GROUP BY k.prefix)
        SELECT bool_or(k.holds) FILTER (WHERE k.prefix = 'stamp'),
               bool_or(k.holds) FILTER (WHERE k.prefix = 'require_action'),
               -- The triggers of an ordinary table are one for each way to write.
               bool_or(k.holds AND k.triggers = CASE WHEN by_row THEN 2 ELSE 4 END) FILTER (WHERE k.prefix = 'capture'),
               ARRAY(SELECT format('%s on %s: %s', w.gap, provenance.qualified_name(w.member),
                                   string_agg(w.name, ', ' ORDER BY w.name))
                       FROM wanted w WHERE w.gap IS NOT NULL GROUP BY w.member, w.gap ORDER BY 1)
          INTO is_stamped, is_strict, is_captured, gaps
          FROM kind k;
        row_count := NULL;
        untracked_rows := NULL;
        last_untracked_at := NULL;
        last_untracked_by := NULL;
        IF is_stamped AND has_table_privilege(relation, 'SELECT') THEN
            EXECUTE format('SELECT count(*), count(*) FILTER (WHERE t.updated_by_action_id IS NULL) FROM %s AS t', relation)
               INTO row_count, untracked_rows;
        END IF;
        IF provenance.captured_id(relation) IS NOT NULL THEN
            SELECT r.recorded_at, r.db_user INTO last_untracked_at, last_untracked_by
              FROM provenance.row_changes r
             WHERE r.table_id = provenance.captured_id(relation) AND r.ordinal = 1 AND r.action_id IS NULL AND r.seq > 0
             ORDER BY r.seq DESC LIMIT 1;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION provenance.coverage IS 'Which tables are stamped and captured, and what was written to them outside any action.';

-- Resolved views.

-- The function through which the owner of a materialized view lets others refresh it. It must run with the owner's rights:
-- whoever refreshes all views of a database must not thereby run anybody's code with rights of their own. A declaration whose
-- name was too long for refresh_<view> is known by what its function does.
CREATE FUNCTION provenance.view_function(view oid) RETURNS oid
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT p.oid
  FROM pg_class c JOIN pg_proc p ON p.pronamespace = c.relnamespace AND p.proowner = c.relowner
 WHERE c.oid = view AND c.relkind = 'm' AND p.prokind = 'f' AND p.prosecdef AND p.pronargs = 0 AND NOT p.proretset
   AND p.prorettype = 'boolean'::regtype
   AND (p.proname = 'refresh_' || c.relname
        OR p.prosrc = format('SELECT provenance.refresh_view(%L)', provenance.qualified_name(view)))
 ORDER BY p.proname <> 'refresh_' || c.relname, p.proname LIMIT 1
$$;

COMMENT ON FUNCTION provenance.view_function(oid) IS 'The function of its owner that refreshes a view for others, or null.';

-- What a view reads, directly or through other views: how many steps down that goes, and how many rows have been written
-- there since the server began to count. Materialized views on the way are counted too: what reads one is out of date as soon
-- as that is refreshed. Views can be made to read each other in a circle, hence the bound.
CREATE FUNCTION provenance.below_view(view oid, OUT depth integer, OUT rows_written bigint) RETURNS record
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
WITH RECURSIVE below (relation, depth) AS (
    SELECT view, 0
    UNION
    SELECT source.relation, below.depth + 1
      FROM below CROSS JOIN LATERAL (
           SELECT d.refobjid
             FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            WHERE r.ev_class = below.relation AND r.ev_type = '1'
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
           UNION ALL
           SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = below.relation) AS source (relation)
     WHERE below.depth < 100)
SELECT COALESCE(max(s.depth), 0),
       COALESCE(sum(pg_stat_get_tuples_inserted(s.relation) + pg_stat_get_tuples_updated(s.relation)
                    + pg_stat_get_tuples_deleted(s.relation)), 0)::bigint
  FROM (SELECT b.relation, max(b.depth) AS depth FROM below b WHERE b.relation <> view GROUP BY b.relation) AS s
$$;

COMMENT ON FUNCTION provenance.below_view IS 'How deep the sources of a view are, and how many rows have been written to them.';

-- What there is to know before a view is refreshed: whether the caller may, or else a function that does it for the caller.
CREATE FUNCTION provenance.view_to_refresh(
    view regclass, OUT view_name text, OUT is_materialized boolean, OUT is_allowed boolean, OUT owner_name text,
    OUT function_name text, OUT is_callable boolean, OUT rows_written bigint
) RETURNS record
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT provenance.qualified_name(c.oid), c.relkind = 'm',
       pg_has_role(c.relowner, 'USAGE')
       -- Older servers do not know the word.
       OR CASE WHEN current_setting('server_version_num')::integer >= 170000
               THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
       pg_get_userbyid(c.relowner)::text, quote_ident(n.nspname) || '.' || quote_ident(p.proname),
       p.oid IS NOT NULL AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE'),
       below.rows_written
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_proc p ON p.oid = provenance.view_function(c.oid)
 CROSS JOIN LATERAL provenance.below_view(c.oid) below
 WHERE c.oid = view
$$;

-- With the rights of the caller. Of two sessions that refresh the same view the second does not wait for the first. What
-- trail.refresh() does is recorded by the action it has opened; any other refresh records one here.
CREATE FUNCTION provenance.refresh_view(view regclass, concurrently boolean DEFAULT true) RETURNS boolean
    LANGUAGE plpgsql VOLATILE STRICT
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
    AS $$
DECLARE
    full_name CONSTANT text := provenance.qualified_name(view);
    -- Read before the refresh begins: what is written meanwhile may not be in it, and counts as later.
    rows_written CONSTANT bigint := (SELECT b.rows_written FROM provenance.below_view(view) b);
    is_populated CONSTANT boolean := (SELECT c.relispopulated FROM pg_class c WHERE c.oid = view);
    action uuid;
    refreshed boolean;
BEGIN
    IF (current_setting('provenance.refreshing', true) = provenance.current_action_id()::text) IS NOT TRUE THEN
        action := provenance.record_action(
            'refresh_view', 'view', entity_type => 'view', entity_id => full_name,
            payload => jsonb_build_object('concurrently', refresh_view.concurrently));
    END IF;
    refreshed := pg_try_advisory_xact_lock(1986618743, (view::oid::bigint - 2147483648)::integer);
    IF refreshed THEN
        -- A view that holds nothing yet cannot be refreshed concurrently, and has no readers to disturb.
        EXECUTE format('REFRESH MATERIALIZED VIEW %s %s',
                       CASE WHEN refresh_view.concurrently AND is_populated THEN 'CONCURRENTLY' ELSE '' END, full_name);
        -- Views that read this one are refreshed next, and count what was written to it.
        PERFORM pg_stat_force_next_flush();
    END IF;
    IF action IS NOT NULL THEN
        PERFORM provenance.complete_action(
            action, jsonb_build_object('refreshed', refreshed, 'rows_written', rows_written));
    END IF;
    RETURN refreshed;
END
$$;

COMMENT ON FUNCTION provenance.refresh_view IS 'Bring a materialized view up to date and record that; false when another session is doing so.';

-- Every view with a function of its owner that refreshes it, and every one whose refresh is recorded; what others read first.
-- What was written is not known where the server has begun to count anew.
CREATE FUNCTION provenance.resolved_views(
    OUT view_name text, OUT is_resolved boolean, OUT is_populated boolean, OUT refreshed_at timestamptz,
    OUT action_id uuid, OUT changed_rows bigint
) RETURNS SETOF record
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT v.name, v.is_resolved, v.relispopulated, last.recorded_at, last.id,
       CASE WHEN last.rows_written BETWEEN 0 AND below.rows_written AND (reset.at > last.recorded_at) IS NOT TRUE
            THEN (below.rows_written - last.rows_written)::bigint END
  FROM (SELECT c.oid, c.relispopulated, provenance.qualified_name(c.oid) AS name,
               provenance.view_function(c.oid) IS NOT NULL AS is_resolved
          FROM pg_class c WHERE c.relkind = 'm') AS v
  LEFT JOIN LATERAL (
       SELECT a.id, a.recorded_at,
              CASE WHEN jsonb_typeof(a.result -> 'rows_written') = 'number'
                   THEN (a.result ->> 'rows_written')::numeric END AS rows_written
         FROM provenance.actions a
        WHERE a.entity_type = 'view' AND a.entity_id = v.name AND a.action_type = 'refresh_view'
          AND a.status = 'completed' AND a.result @> '{"refreshed": true}'
        ORDER BY a.id DESC LIMIT 1) AS last ON true
 CROSS JOIN LATERAL provenance.below_view(v.oid) AS below
 CROSS JOIN (SELECT pg_stat_get_db_stat_reset_time(d.oid) FROM pg_database d
              WHERE d.datname = current_database()) AS reset (at)
 WHERE v.is_resolved OR last.id IS NOT NULL
 ORDER BY below.depth, v.name
$$;

COMMENT ON FUNCTION provenance.resolved_views IS 'When each resolved view was last refreshed, and how many rows have been written to its sources since.';

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
        'provenance.complete_action, provenance.pending_action(uuid), provenance.forget_intent(uuid), '
        'provenance.refresh_view, provenance.view_to_refresh, provenance.view_function, provenance.below_view, '
        'provenance.qualified_name TO %I', role_name);
END
$$;

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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;

SELECT provenance.ensure_partitions();
