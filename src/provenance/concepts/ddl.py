"""The SQL that makes a concept, and the SQL that takes it back: text for a migration that people review. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent

from provenance.concepts import declaration
from provenance.concepts.checks import RESERVED
from provenance.concepts.definition import Concept, linked
from provenance.concepts.naming import literal, quoted
from provenance.concepts.parts import Attribute, LiveIndex, Reference

LOCK_TIMEOUT = "5s"
"""How long a statement waits for a lock before it gives up: whoever comes after it waits behind it."""

EQUALS = "OPERATOR(pg_catalog.=)"
"""Equality as Postgres itself has it, whatever operators of that name the search_path leads to."""

# A statement by itself is a transaction, whatever runs it: no change stops halfway, and no view is lost with its rights.
# pg_temp last: otherwise a temporary table of the same name would come first, even before pg_catalog.
PROLOGUE = """\
-- One statement: all of it happens, or nothing.
DO {tag}
#variable_conflict use_column
DECLARE
    previous_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    previous_timeout CONSTANT pg_catalog.text := pg_catalog.current_setting('lock_timeout');
BEGIN
PERFORM pg_catalog.set_config('lock_timeout', '{lock_timeout}', true);
-- Built-in names mean the built-in things here, whatever the search_path is; at the end it is what it was.
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
"""
EPILOGUE = """\
PERFORM pg_catalog.set_config('search_path', previous_path, true);
PERFORM pg_catalog.set_config('lock_timeout', previous_timeout, true);
END
{tag};
"""


def up_sql(*concepts: Concept) -> str:
    """Return the SQL that makes concepts: their tables first, then the views that resolve references between them.

    Raises:
        InvalidConcept: the concepts do not fit together; see :func:`linked`.
    """
    together = linked(*concepts)
    return script([*map(create_table, together), *map(create_view, together)])


def down_sql(*concepts: Concept) -> str:
    """Return the SQL that removes what :func:`up_sql` makes, with all rows; it stops where anything else depends on it."""
    together = linked(*reversed(concepts))
    return script([*map(drop_view, together), *map(drop_table, together)])


def script(parts: Iterable[str]) -> str:
    """Return one script of several parts, or nothing for none."""
    body = "\n".join(part for part in parts if part)
    tag = "$provenance$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    prologue, epilogue = PROLOGUE.format(tag=tag, lock_timeout=LOCK_TIMEOUT), EPILOGUE.format(tag=tag)
    return f"{prologue}\n{body}\n{epilogue}" if body else ""


def qualified(place: tuple[str, str]) -> str:
    """Return a schema and a name as SQL."""
    return ".".join(map(quoted, place))


# -- the table --


def create_table(concept: Concept) -> str:
    """Return the statements that make the table, its indexes, its triggers and its comments."""
    table = qualified(concept.place)
    lines = [
        f"id uuid DEFAULT provenance.uuid_v7() CONSTRAINT {quoted(concept.pkey)} PRIMARY KEY",
        *(column(reference) for reference in concept.references),
        *(column(attribute) for attribute in concept.attributes),
        "created_by_action_id uuid NOT NULL",
        "updated_by_action_id uuid NOT NULL",
        "created_at timestamptz NOT NULL DEFAULT clock_timestamp()",
        "updated_at timestamptz NOT NULL DEFAULT clock_timestamp()",
        "deleted_at timestamptz",
        *(f"CONSTRAINT {quoted(a.constraint)} CHECK ({a.check})" for a in concept.attributes if a.check is not None),
    ]
    parts = [
        f"CREATE TABLE {table} (\n    " + ",\n    ".join(lines) + "\n);\n",
        live_index(concept),
        *(table_index(concept, index) for index in concept.indexes),
        "\n",
        triggers(table),
        "\n",
        table_comment(concept),
        f"COMMENT ON COLUMN {table}.created_by_action_id IS 'The action that made the row: provenance.action_log.id.';\n",
        f"COMMENT ON COLUMN {table}.updated_by_action_id IS 'The action that changed it last: provenance.action_log.id.';\n",
        f"COMMENT ON COLUMN {table}.deleted_at IS 'Null while the row is live.';\n",
        *(column_comment(concept, reference) for reference in concept.references),
    ]
    return "".join(parts)


def drop_table(concept: Concept) -> str:
    """Return the statement that removes the table with everything on it."""
    return f"DROP TABLE {qualified(concept.place)};\n"


def column(declared: Reference | Attribute) -> str:
    """Return the definition of a column, without its check."""
    name = declared.column if isinstance(declared, Reference) else declared.name
    default = declared.default if isinstance(declared, Attribute) else None
    return (
        f"{quoted(name)} {declared.type}"
        + ("" if declared.nullable else " NOT NULL")
        + ("" if default is None else f" DEFAULT ({default})")
    )


def live_index(concept: Concept) -> str:
    """Return the index that lists all live rows, newest first: ids carry the time."""
    name, table = quoted(concept.live_index), qualified(concept.place)
    return f"CREATE INDEX {name} ON {table} (id) WHERE deleted_at IS NULL;\n"


def table_index(concept: Concept, index: LiveIndex) -> str:
    """Return the statement that makes a declared index on the table."""
    name, table = quoted(concept.index_name(index)), qualified(concept.place)
    columns = ", ".join(map(quoted, index.columns))
    if not index.unique:
        return f"CREATE INDEX {name} ON {table} ({columns}, id) WHERE deleted_at IS NULL;\n"
    # Otherwise any number of rows could have the same natural key, as soon as a part of it is null.
    nulls = " NULLS NOT DISTINCT" if concept.nullable.intersection(index.columns) else ""
    return f"CREATE UNIQUE INDEX {name} ON {table} ({columns}){nulls} WHERE deleted_at IS NULL;\n"


def triggers(table: str) -> str:
    """Return the triggers that note actions and times, and refuse writes outside any action.

    All but the last are those of a table that was stamped strictly, by the same names, so that coverage() knows them.
    """
    return f"""\
CREATE TRIGGER provenance_require_action BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action();
CREATE TRIGGER provenance_require_action_truncate BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action();
CREATE TRIGGER provenance_stamp_insert BEFORE INSERT ON {table}
    FOR EACH ROW EXECUTE FUNCTION provenance.stamp_insert();
CREATE TRIGGER provenance_stamp_update BEFORE UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION provenance.stamp_update();
CREATE TRIGGER provenance_touch BEFORE UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION provenance.touch();
"""


def table_comment(concept: Concept) -> str:
    """Return the statement that keeps the declaration with the table."""
    return f"COMMENT ON TABLE {qualified(concept.place)} IS {literal(declaration.written(concept))};\n"


def column_comment(concept: Concept, reference: Reference) -> str:
    """Return the statement that says what a reference is to."""
    target = reference.target
    where = "of another system" if target is None else f"out of {target.table}.{quoted(target.key)}"
    comment = literal(f"An id {where}; not a foreign key, on purpose.")
    return f"COMMENT ON COLUMN {qualified(concept.place)}.{quoted(reference.column)} IS {comment};\n"


# -- the resolved view --


def create_view(concept: Concept) -> str:
    """Return the statements that make the resolved view and the function that refreshes it."""
    return view(concept) + "\n" + refresh_function(concept)


def drop_view(concept: Concept) -> str:
    """Return the statements that remove both."""
    return f"DROP FUNCTION {qualified(concept.refresh)}();\nDROP MATERIALIZED VIEW {qualified(concept.resolved)};\n"


def view(concept: Concept) -> str:
    """Return the statements that make the resolved view, its indexes and its comment."""
    name = qualified(concept.resolved)
    return "".join(
        [
            view_definition(concept),
            # REFRESH ... CONCURRENTLY tells rows apart by it.
            f"CREATE UNIQUE INDEX {quoted(concept.view_key)} ON {name} (id);\n",
            *view_indexes(concept).values(),
            f"COMMENT ON MATERIALIZED VIEW {name} IS {literal(view_comment(concept))};\n",
        ]
    )


def view_comment(concept: Concept) -> str:
    """Return what is said of the resolved view."""
    return f"Live rows of {concept.table} with what their references name, as of the last refresh."


def view_indexes(concept: Concept) -> dict[str, str]:
    """Return the statements that make the declared indexes on the view, by name."""
    name = qualified(concept.resolved)
    return {
        (made := concept.view_index_name(index)): (
            f"CREATE INDEX {quoted(made)} ON {name} ({', '.join(map(quoted, index.columns))}, id);\n"
        )
        for index in concept.indexes
    }


def view_definition(concept: Concept) -> str:
    """Return the statement that makes the resolved view alone."""
    return f"CREATE MATERIALIZED VIEW {qualified(concept.resolved)} AS\n{resolved_query(concept)};\n"


def resolved_query(concept: Concept) -> str:
    """Return the query that the resolved view keeps the answer of."""
    if not concept.computed:
        return _resolving(concept)
    computed = "".join(f",\n       ({made.sql}) AS {quoted(made.name)}" for made in concept.computed)
    inner = indent(_resolving(concept), " " * 8)
    return f"SELECT resolved.*{computed}\n  FROM (\n{inner}\n       ) AS resolved"  # noqa: S608 - see below


def _resolving(concept: Concept) -> str:
    columns, joins = [f"live.{quoted(name)}" for name in ("id", *concept.columns, *RESERVED[1:-1])], list[str]()
    for number, reference in enumerate(concept.references, 1):
        if (target := reference.target) is None:
            continue
        alias, key, held = f"ref{number}", quoted(target.key), quoted(reference.column)
        columns += [f"{alias}.{quoted(source)} AS {quoted(label)}" for label, source in reference.labels]
        columns.append(f"live.{held} IS NOT NULL AND {alias}.{key} IS NULL AS {quoted(reference.flag)}")
        joins.append(f"  LEFT JOIN {target.table} AS {alias} ON {alias}.{key} {EQUALS} live.{held}\n")
    selected, joined = ",\n       ".join(columns), "".join(joins)
    return f"""\
SELECT {selected}
  FROM {qualified(concept.place)} AS live
{joined} WHERE live.deleted_at IS NULL"""  # noqa: S608 - every name is quoted


def refresh_function(concept: Concept) -> str:
    """Return the statements that make the function that refreshes the view.

    Only the owner of a view may refresh it, so the function does it with the owner's rights. Who may call it is granted.
    It answers false when another session is refreshing the view.
    """
    name, view_name = qualified(concept.refresh), qualified(concept.resolved)
    # By this very text provenance.view_function() knows it where the name was cut.
    body = f"SELECT provenance.refresh_view({literal(view_name)})"
    return f"""\
CREATE FUNCTION {name}() RETURNS boolean
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS {literal(body)};
REVOKE ALL ON FUNCTION {name}() FROM PUBLIC;
COMMENT ON FUNCTION {name}() IS {literal(f"Bring {view_name} up to date, without locking out its readers.")};
"""
