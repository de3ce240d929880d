-- Upkeep: what years of rows need.

CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 7;

-- How long what must be kept. What is left out does not matter; what no policy says anything of is kept for ever.
CREATE TABLE provenance.retention_policies (
    name text NOT NULL,
    reason text NOT NULL,
    days integer,
    outcome text NOT NULL,
    tenant_id text,
    concept text,
    action_type text,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action_id uuid NOT NULL,
    CONSTRAINT retention_policies_pkey PRIMARY KEY (name),
    CONSTRAINT retention_policies_days_check CHECK (days >= 1),
    CONSTRAINT retention_policies_outcome_check CHECK (outcome IN ('delete', 'archive'))
);

COMMENT ON TABLE provenance.retention_policies IS 'How long what is recorded must be kept, and what becomes of it then.';
COMMENT ON COLUMN provenance.retention_policies.days IS 'For how many days; null: for ever.';

-- The one that says most of it; of those that say as much, the one that keeps it the longest.
CREATE FUNCTION provenance.retention_of(tenant_id text, concept text, action_type text)
    RETURNS provenance.retention_policies
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
SELECT p FROM provenance.retention_policies p
 WHERE (p.tenant_id IS NULL OR p.tenant_id = retention_of.tenant_id)
   AND (p.concept IS NULL OR p.concept = retention_of.concept)
   AND (p.action_type IS NULL OR p.action_type = retention_of.action_type)
 ORDER BY num_nonnulls(p.tenant_id, p.concept, p.action_type) DESC, p.days DESC NULLS FIRST, p.outcome, p.name
 LIMIT 1
$$;

COMMENT ON FUNCTION provenance.retention_of IS 'The policy that says how long actions of this kind are kept, or null.';

-- Rows of months nobody made a partition for get one. All in one transaction, so that no row is in two places or in none,
-- whatever ends it.
--
-- They are copied while everybody reads and writes; then, with the table locked, what has come since is copied too, and the
-- partitions take the place of the rows. It is the whole table that is locked: whoever had waited for the default partition
-- alone would find that its row does not belong there any more, and fail. And the lock is waited for only briefly, because
-- whoever comes meanwhile queues behind: less than a second, after which others would look for a deadlock.
CREATE FUNCTION provenance.empty_default(
    table_name name, longest_hold interval DEFAULT '1 second', tries integer DEFAULT 30,
    OUT partition text, OUT moved bigint
) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET lock_timeout = '500ms'
    AS $$
DECLARE
    source CONSTANT name := table_name || '_default';
    moving CONSTANT name := table_name || '_moving';
    remaining CONSTANT name := table_name || '_remaining';
    bounds record;
    moment text;
    columns text;
    month timestamptz;
    months timestamptz[];
    copying text;
    seen pg_snapshot;
    later pg_snapshot;
    copied jsonb := '{}';
    more jsonb;
    there bigint;
    index text;
    began timestamptz;
BEGIN
    SELECT b.* INTO bounds FROM provenance.month_bounds(table_name, clock_timestamp()) b;
    IF bounds.key IS NULL THEN
        RAISE EXCEPTION 'provenance.% has no partitions', table_name
            USING ERRCODE = 'wrong_object_type', HINT = 'Name actions or row_changes.';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'provenance.empty_default() must see what is committed while it runs'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call it at READ COMMITTED.';
    END IF;
    -- Erasing holds it too.
    IF NOT pg_try_advisory_xact_lock(31651020444888674) THEN
        RAISE EXCEPTION 'rows of the trail are being moved or erased by another session'
            USING ERRCODE = 'object_in_use', HINT = 'Run it again later.';
    END IF;

    moment := CASE bounds.key WHEN 'id' THEN 'provenance.uuid_moment(d.id)' ELSE format('d.%I', bounds.key) END;
    -- Of an id that is no UUIDv7 nobody knows when it was made, and a clock far off is no reason to make a month.
    EXECUTE format(
        'SELECT array_agg(DISTINCT date_trunc(''month'', %1$s)) FROM ONLY provenance.%2$I d '
        ' WHERE %1$s < date_trunc(''month'', clock_timestamp()) + interval ''2 months'' %3$s',
        moment, source, CASE bounds.key WHEN 'id' THEN 'AND substr(d.id::text, 15, 1) = ''7''' END)
       INTO months;
    months := ARRAY(
        SELECT m FROM unnest(months) m
         -- One that is there is detached, or the rows could not be here.
         WHERE to_regclass('provenance.' || table_name || '_' || to_char(m, 'YYYY_MM')) IS NULL ORDER BY m);
    IF months = '{}' THEN
        RETURN;
    END IF;

    -- Through a table of the same shape, which nobody else sees, copies find their way to their month.
    EXECUTE format('CREATE TABLE provenance.%I (LIKE provenance.%I) PARTITION BY RANGE (%I)', moving, table_name, bounds.key);
    PERFORM provenance.make_partition(table_name, remaining);
    EXECUTE format('ALTER TABLE provenance.%I ATTACH PARTITION provenance.%I DEFAULT', moving, remaining);
    FOREACH month IN ARRAY months LOOP
        bounds := provenance.month_bounds(table_name, month);
        partition := table_name || '_' || to_char(month, 'YYYY_MM');
        BEGIN
            PERFORM provenance.make_partition(table_name, partition);
        EXCEPTION WHEN lock_not_available OR duplicate_table OR unique_violation THEN
            RAISE EXCEPTION 'partitions of the trail are being made by another session'
                USING ERRCODE = 'object_in_use', HINT = 'Run it again later.';
        END;
        -- With this it is not looked through when it is attached.
        EXECUTE format(
            'ALTER TABLE provenance.%1$I ADD CONSTRAINT of_its_month CHECK (%2$I >= %3$s AND %2$I < %4$s)',
            partition, bounds.key, bounds.first, bounds.last);
        PERFORM provenance.attach_partition(moving, partition, month);
    END LOOP;

    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
      FROM pg_attribute a
     WHERE a.attrelid = format('provenance.%I', table_name)::regclass AND a.attnum > 0 AND NOT a.attisdropped;
    -- What this has seen it need not copy when it is run again. (Rows from another cluster have an xid of that one. The first
    -- run copies them as it copies all; should a later one take them for new, the count will tell, where no key does.)
    copying := format(
        'WITH copied AS ('
            'INSERT INTO provenance.%1$I (%2$s) SELECT %2$s FROM ONLY provenance.%3$I d '
            ' WHERE $1 IS NULL '
            '    OR (d.xid < pg_snapshot_xmax(pg_current_snapshot()) AND NOT pg_visible_in_snapshot(d.xid, $1)) '
            'ON CONFLICT DO NOTHING RETURNING tableoid), '
        'counted AS (SELECT c.relname AS name, count(*) AS rows FROM copied JOIN pg_class c ON c.oid = copied.tableoid '
                    'GROUP BY 1 '
                    'UNION ALL SELECT b.key, b.value::bigint FROM jsonb_each_text($2) b) '
        'SELECT pg_current_snapshot(), '
               'COALESCE((SELECT jsonb_object_agg(t.name, t.rows) '
                           'FROM (SELECT name, sum(rows) AS rows FROM counted GROUP BY 1) AS t), ''{}'')',
        moving, columns, source);

    FOR attempt IN 1..tries LOOP
        FOR pass IN 1..10 LOOP
            began := clock_timestamp();
            EXECUTE copying INTO seen, copied USING seen, copied;
            EXIT WHEN clock_timestamp() - began < longest_hold / 2;
            IF pass = 10 THEN
                RAISE EXCEPTION 'looking through provenance.% takes % again and again, and the table would be locked meanwhile',
                    source, clock_timestamp() - began
                    USING ERRCODE = 'object_not_in_prerequisite_state',
                          HINT = format('Give a longest_hold of twice that; it is %s.', longest_hold);
            END IF;
        END LOOP;
        BEGIN
            EXECUTE format('LOCK TABLE ONLY provenance.%I IN ACCESS EXCLUSIVE MODE', table_name);
            began := clock_timestamp();
            -- Nobody else is to wait for whoever looks into the default partition by itself.
            EXECUTE format('LOCK TABLE ONLY provenance.%I IN ACCESS EXCLUSIVE MODE NOWAIT', source);
            EXECUTE copying INTO later, more USING seen, copied;
            EXECUTE format('SELECT count(*) FROM ONLY provenance.%I', source) INTO there;
            IF there <> (SELECT COALESCE(sum(m.value::bigint), 0) FROM jsonb_each_text(more) m) THEN
                RAISE EXCEPTION 'the rows of provenance.% cannot be told from each other by the transactions they came with',
                    source
                    USING ERRCODE = 'data_exception', HINT = 'Nothing is moved. Run it again when nobody writes.';
            END IF;
            IF clock_timestamp() - began > longest_hold THEN
                RAISE EXCEPTION 'too slow' USING ERRCODE = 'lock_not_available';
            END IF;
            EXECUTE format('ALTER TABLE provenance.%I DETACH PARTITION provenance.%I', table_name, source);
            EXECUTE format('DROP TABLE provenance.%I', source);
            FOREACH month IN ARRAY months LOOP
                partition := table_name || '_' || to_char(month, 'YYYY_MM');
                EXECUTE format('ALTER TABLE provenance.%I DETACH PARTITION provenance.%I', moving, partition);
                PERFORM provenance.attach_partition(table_name, partition, month);
                EXECUTE format('ALTER TABLE provenance.%I DROP CONSTRAINT of_its_month', partition);
                moved := COALESCE((more ->> partition)::bigint, 0);
                RETURN NEXT;
            END LOOP;
            -- What remains is the new default partition, under the names of the old one.
            EXECUTE format('ALTER TABLE provenance.%I DETACH PARTITION provenance.%I', moving, remaining);
            FOR index IN
                SELECT c.relname FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
                 WHERE x.indrelid = format('provenance.%I', remaining)::regclass
            LOOP
                EXECUTE format('ALTER INDEX provenance.%I RENAME TO %I', index, replace(index, remaining, source));
            END LOOP;
            EXECUTE format('ALTER TABLE provenance.%I RENAME TO %I', remaining, source);
            EXECUTE format('ALTER TABLE provenance.%I ATTACH PARTITION provenance.%I DEFAULT', table_name, source);
            EXECUTE format('DROP TABLE provenance.%I', moving);
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt < tries THEN
                PERFORM pg_sleep(random());
            END IF;
        END;
    END LOOP;
    RAISE EXCEPTION 'each of % times, one transaction or another was using provenance.%, or looking through it took longer than %',
        tries, table_name, longest_hold
        USING ERRCODE = 'lock_not_available', HINT = 'Nothing is moved. Run it again later, or end the long transactions.';
END
$$;

COMMENT ON FUNCTION provenance.empty_default IS 'Move the rows of the default partition into partitions of their months, which it makes; the last thing to do in a transaction.';

CREATE OR REPLACE FUNCTION provenance.grant_maintainer(role_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM provenance.grant_reader(role_name);
    EXECUTE format(
        'GRANT EXECUTE ON FUNCTION provenance.schema_version(), provenance.ensure_partitions(integer), '
        'provenance.empty_default(name, interval, integer), provenance.resolve(uuid), provenance.recover, '
        'provenance.outcome(uuid) TO %I', role_name);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC;
