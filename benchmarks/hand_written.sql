-- What people write themselves, to compare capture with. Each of the two finds the history of a row by an index and notes the
-- action, as capture does.

CREATE TABLE audit_diffs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action_id uuid DEFAULT provenance.current_action_id(),
    table_name text NOT NULL,
    operation text NOT NULL,
    row_id bigint NOT NULL,
    diff jsonb
);
CREATE INDEX ON audit_diffs (table_name, row_id);

CREATE FUNCTION audit_diff() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_diffs (table_name, operation, row_id, diff)
    SELECT TG_TABLE_NAME, TG_OP, NEW.id, jsonb_object_agg(n.key, jsonb_build_array(o.value, n.value))
      FROM jsonb_each(to_jsonb(OLD)) AS o JOIN jsonb_each(to_jsonb(NEW)) AS n USING (key)
     WHERE o.value IS DISTINCT FROM n.value;
    RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER UPDATE ON diffed FOR EACH ROW EXECUTE FUNCTION audit_diff();

CREATE TABLE audit_rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action_id uuid DEFAULT provenance.current_action_id(),
    table_name text NOT NULL,
    operation text NOT NULL,
    row_id bigint NOT NULL,
    old_row jsonb,
    new_row jsonb
);
CREATE INDEX ON audit_rows (table_name, row_id);

CREATE FUNCTION audit_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_rows (table_name, operation, row_id, old_row, new_row)
    SELECT TG_TABLE_NAME, TG_OP, n.id, to_jsonb(o), to_jsonb(n) FROM old_rows AS o JOIN new_rows AS n USING (id);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER UPDATE ON copied REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION audit_statement();
