"""What the catalogue says of a table whose columns for levels are to become one id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import psycopg

from provenance.concepts import ConceptRefused, column_types, database
from provenance.concepts.naming import quoted
from provenance.geo.level_columns import LevelColumns

_COLUMNS = """
SELECT c.relkind::pg_catalog.text, a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       -- Columns that are only included in the index come after those of the key.
       CASE WHEN pg_catalog.array_position(p.indkey::pg_catalog.int2[], a.attnum) < p.indnkeyatts
            THEN pg_catalog.array_position(p.indkey::pg_catalog.int2[], a.attnum) END,
       a.attgenerated <> '', a.attnotnull OR a.atthasdef
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_index AS p ON p.indrelid = c.oid AND p.indisprimary
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s
 ORDER BY 4, a.attnum"""


_IS_THERE = "SELECT pg_catalog.to_regclass(%(name)s) IS NOT NULL"


@attrs.frozen
class Source:
    """A table that is fit to be moved."""

    key: Mapping[str, str]
    """The columns of its primary key, in the order of that, with their types."""
    has_reference: bool
    """Whether the column for the id is there."""
    generated: tuple[str, ...]
    """The columns for levels that nobody can write."""


def read_source(connection: psycopg.Connection[Any], form: LevelColumns) -> Source:
    """Look at a table.

    Raises:
        ConceptRefused: it is not there, or not fit: a view, without primary key, with columns that are missing or of another
            type.
    """
    schema, table = form.place
    rows = database.rows(connection, _COLUMNS, schema=schema, table=table)
    if not rows:
        raise ConceptRefused(f"there is no table {form.table}; create it first, or correct the name")
    if (kind := rows[0][0]) not in {"r", "p"}:
        raise ConceptRefused(
            f"{form.table} is {database.KINDS[kind]}, whose rows cannot be given ids; name the table itself"
        )
    types = {name: written for _, name, written, _, _, _ in rows}
    key = {name: written for _, name, written, position, _, _ in rows if position is not None}
    if not key:
        raise ConceptRefused(f"{form.table} has no primary key, so its rows cannot be told apart; add one")
    if missing := [column for column in form.columns.values() if column not in types]:
        raise ConceptRefused(f"{form.table} has no column {missing[0]}; it has {', '.join(types)}")
    if types.get(form.reference, "uuid") != "uuid":
        raise ConceptRefused(
            f"{form.table}.{quoted(form.reference)} is of type {types[form.reference]} and cannot hold an id; give another "
            "reference="
        )
    if form.reference in (name for _, name, _, _, _, filled in rows if filled):
        raise ConceptRefused(
            f"{form.table}.{quoted(form.reference)} is not null, or has a value by itself, so it is not known which rows "
            "have an id; make it nullable without a default"
        )
    for level, column in form.columns.items():
        _check_type(form, level, column, types[column])
    locations = form.geography.concept.table
    if database.rows(connection, _IS_THERE, name=locations) != [(True,)]:
        raise ConceptRefused(
            f"there is no table {locations} for the locations; apply the concept of the geography first"
        )
    generated = [name for _, name, _, _, computed, _ in rows if computed and name in form.columns.values()]
    return Source(key, form.reference in types, tuple(generated))


def _check_type(form: LevelColumns, level: str, column: str, written: str) -> None:
    """Refuse a column whose values may be no keys: a cast would make other ones of them."""
    wanted = form.types[level]
    if column_types.same(written, wanted) or all(map(column_types.is_integer, (written, wanted))):
        return
    raise ConceptRefused(
        f"{form.table}.{quoted(column)} is of type {written}, and the key of a {level} is of type {wanted}; correct the "
        "type of the level, or of the column"
    )
