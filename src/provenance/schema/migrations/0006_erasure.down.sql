DO $$
BEGIN
    IF EXISTS (SELECT FROM provenance.legal_holds) THEN
        RAISE EXCEPTION 'there are legal holds, which would be gone'
            USING ERRCODE = 'restrict_violation', HINT = 'provenance hold list lists them; release them first, if that may be.';
    END IF;
END
$$;
DROP FUNCTION
    provenance.erase,
    provenance.covers,
    provenance.erased_shape,
    provenance.changed_columns;
DROP TABLE provenance.legal_holds;
CREATE OR REPLACE FUNCTION provenance.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RAISE EXCEPTION 'provenance.% is insert-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Recorded actions are evidence; whole months leave by detaching their partition.';
END
$$;
DROP FUNCTION provenance.tells_why, provenance.changing_action_id(text);
COMMENT ON COLUMN provenance.actions.erased_by_action_id IS NULL;
CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 5;
