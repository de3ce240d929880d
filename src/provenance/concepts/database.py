"""What a database has, and whether a declaration fits it: reads the catalogue, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from provenance import drivers
from provenance.concepts import changing, column_types, ddl, declaration
from provenance.concepts.changing import Change
from provenance.concepts.checks import RESERVED
from provenance.concepts.definition import Concept
from provenance.concepts.errors import ConceptRefused
from provenance.concepts.naming import quoted
from provenance.concepts.parts import Reference, Target
from provenance.errors import SchemaNotReady
from provenance.statements import Row, Statement

Connection = psycopg.Connection[Any]

KINDS = {
    "r": "a table",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "I": "an index",
    "S": "a sequence",
    "c": "a composite type",
}
_READABLE = frozenset("rpvmf")


def rows(connection: Connection, query: LiteralString | sql.Composed, **params: object) -> list[Row]:
    """Return the rows that a query answers with."""
    return drivers.run(connection, Statement(query, params, list))


def as_sql(text: Any) -> sql.Composed:
    """Return SQL that is made of a declaration, for a statement without parameters."""
    return sql.Composed([sql.SQL(text)])


# -- what is there --


def _relation(connection: Connection, place: tuple[str, str]) -> tuple[str, str | None] | None:
    """Return the kind and the comment of a relation, or ``None`` when there is none of that name."""
    found = rows(
        connection,
        """SELECT c.relkind::text, obj_description(c.oid, 'pg_class')
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %(schema)s AND c.relname = %(name)s""",
        schema=place[0],
        name=place[1],
    )
    return (found[0][0], found[0][1]) if found else None


def installed(connection: Connection, concept: Concept) -> Concept | None:
    """Return the declaration that the concept's table was made from, or ``None`` when there is no such table.

    Raises:
        ConceptRefused: it is something else, or has lost its declaration.
    """
    found = _relation(connection, concept.place)
    if found is None:
        return None
    kind, comment = found
    declared = declaration.read(comment, concept.table) if kind == "r" else None
    if declared is None:
        if _has_trigger(connection, concept, "provenance_touch"):
            raise ConceptRefused(
                f"{concept.table} is the table of a concept, and its comment no longer says of which; restore its comment "
                "from your migrations"
            )
        raise ConceptRefused(
            f"{concept.table} is {KINDS[kind]} that was not made from a declaration; give the concept {concept.name} "
            "another table, or move that one out of the way"
        )
    if declared.name != concept.name:
        raise ConceptRefused(
            f"{concept.table} is the table of the concept {declared.name}; give the concept {concept.name} another one"
        )
    return declared


def is_captured(connection: Connection, concept: Concept) -> bool:
    """Return whether row changes of the concept's table are captured."""
    return _has_trigger(connection, concept, "provenance_capture_insert")


def _has_trigger(connection: Connection, concept: Concept, name: str) -> bool:
    [(found,)] = rows(
        connection,
        """SELECT EXISTS (
               SELECT FROM pg_trigger t WHERE t.tgrelid = %(table)s::regclass AND t.tgname = %(name)s)""",
        table=concept.table,
        name=name,
    )
    return bool(found)


# -- what is in the way --


def check_functions(connection: Connection) -> None:
    """Refuse a database whose provenance schema lacks what tables of concepts use."""
    [(found,)] = rows(
        connection,
        """SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = 'provenance'
              AND p.proname IN ('uuid_v7', 'require_action', 'stamp_insert', 'stamp_update', 'touch', 'refresh_view')""",
    )
    if found < 6:
        raise SchemaNotReady(
            "the provenance schema is missing in this database, or too old for concepts; run `provenance migrate up`"
        )


def check_owner(connection: Connection) -> None:
    """Refuse a role that owns views from now on and could not refresh them."""
    [(role, able)] = rows(
        connection,
        """SELECT quote_ident(current_user),
                  has_function_privilege('provenance.refresh_view(regclass, boolean)', 'EXECUTE')""",
    )
    if not able:
        raise ConceptRefused(
            f"the resolved views would belong to {role}, which lacks the rights on the trail to refresh them; run "
            f"`provenance migrate grant --writer {role}` first (nothing was changed)"
        )


def check_free(connection: Connection, concept: Concept) -> None:
    """Refuse a concept that needs a schema that is not there, or a name that is taken."""
    schema, _ = concept.place
    if not rows(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s", schema=schema):
        raise ConceptRefused(f"there is no schema {quoted(schema)} for {concept.table}; create it first")
    for name in concept.relations():
        if (found := _relation(connection, (schema, name))) is not None:
            raise ConceptRefused(
                f"the concept {concept.name} needs the name {ddl.qualified((schema, name))}, which is {KINDS[found[0]]} "
                "already; rename that, or give the concept another table"
            )
    if rows(
        connection,
        """SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = %(schema)s AND p.proname = %(name)s AND p.pronargs = 0""",
        schema=schema,
        name=concept.refresh[1],
    ):
        raise ConceptRefused(
            f"the concept {concept.name} needs the name {ddl.qualified(concept.refresh)}, which is a function already; "
            "rename that, or give the concept another table"
        )


def check_types(connection: Connection, concept: Concept) -> None:
    """Refuse a type that Postgres does not know, or that says more than a type."""
    for name, written in concept.types.items():
        if _type_oid(connection, written) is None:
            raise ConceptRefused(
                f"Postgres does not know the type {written} of {concept.name}.{name}; correct it, create it first, or write "
                "it with its schema"
            )


def _type_oid(connection: Connection, written: str) -> int | None:
    try:
        with connection.transaction():
            [row] = rows(connection, "SELECT to_regtype(%(written)s)::oid", written=written)
    except (psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported):
        return None  # no type is written like that
    oid: int | None = row[0]
    return oid


Columns = Mapping[str, tuple[str, bool]]
"""The columns of a table with their types, and whether no two of its rows have the same value there."""


def check_references(connection: Connection, concept: Concept, together: Iterable[Concept]) -> None:
    """Refuse a reference to what is not there, or cannot be found by what it holds."""
    for reference in concept.references:
        if reference.target is not None:
            _check_reference(connection, concept, reference, reference.target, together)


def check_reads(connection: Connection, concept: Concept, together: Iterable[Concept]) -> None:
    """Refuse a reference that reads a column which is not there, or of a type that it cannot be compared with."""
    for reference in concept.references:
        if reference.reads and (target := reference.target) is not None:
            what = f"the reference {concept.name}.{reference.column}"
            columns = _columns(connection, target, what, together)
            for name, wanted in reference.reads:
                _check_column(name, columns, target, what)
                if not _comparable(connection, held := columns[name][0], wanted):
                    raise ConceptRefused(
                        f"{what} resolves to {target.table}, whose column {name} is of type {held} and is compared with "
                        f"the type {wanted}; name another column, or correct the types"
                    )


def _check_column(name: str, columns: Columns, target: Target, what: str) -> None:
    if name not in columns:
        raise ConceptRefused(
            f"{what} resolves to {target.table}, which has no column {name}; it has {', '.join(columns)}"
        )


def _comparable(connection: Connection, one: str, other: str) -> bool:
    try:
        with connection.transaction():
            rows(connection, as_sql(f"SELECT NULL::{one} {ddl.EQUALS} NULL::{other}"))
    except psycopg.errors.UndefinedFunction:
        return False
    return True


def _check_reference(
    connection: Connection, concept: Concept, reference: Reference, target: Target, together: Iterable[Concept]
) -> None:
    what = f"the reference {concept.name}.{reference.column}"
    columns = _columns(connection, target, what, together)
    for name in (target.key, *(source for _, source in reference.labels)):
        _check_column(name, columns, target, what)
    key_type, unique = columns[target.key]
    if not unique:
        raise ConceptRefused(
            f"{what} resolves to {target.table}.{quoted(target.key)}, which may hold the same value twice; reference a "
            "column with a unique index of its own"
        )
    for written in (key_type, reference.type):
        _check_equality(connection, written, what)
    if not _comparable(connection, key_type, reference.type):
        raise ConceptRefused(
            f"{what} is of type {reference.type}, and {target.table}.{quoted(target.key)} is of type {key_type}; declare "
            f"the reference as {key_type}"
        )


def _check_equality(connection: Connection, written: str, what: str) -> None:
    """Refuse a type that has an idea of equality of its own, which a view that uses Postgres's own would not respect."""
    found = rows(
        connection,
        """WITH RECURSIVE compared (oid) AS (
               SELECT to_regtype(%(written)s)::oid
               UNION ALL
               SELECT t.typbasetype FROM compared c JOIN pg_type t ON t.oid = c.oid AND t.typtype = 'd')
           SELECT o.oid::regoperator::text
             FROM compared c
             JOIN pg_opclass k ON k.opcintype = c.oid AND k.opcdefault
             JOIN pg_am m ON m.oid = k.opcmethod AND m.amname = 'btree'
             JOIN pg_amop e ON e.amopfamily = k.opcfamily AND e.amopstrategy = 3
                           AND e.amoplefttype = c.oid AND e.amoprighttype = c.oid
             JOIN pg_operator o ON o.oid = e.amopopr AND o.oprnamespace <> 'pg_catalog'::regnamespace""",
        written=written,
    )
    if found:
        raise ConceptRefused(
            f"{what} is compared as {written}, by an operator that is not Postgres's own, {found[0][0]}, and resolved views "
            "use those alone; reference a column of a built-in type"
        )


def _columns(connection: Connection, target: Target, what: str, together: Iterable[Concept]) -> Columns:
    """Return the columns of what a reference resolves to, which may still have to be made."""
    for concept in together:
        if concept.table == target.table:
            return {name: (concept.types.get(name, "uuid"), name == "id") for name in (*RESERVED, *concept.columns)}
    found = _relation(connection, target.place)
    if found is None or found[0] not in _READABLE:
        raise ConceptRefused(f"{what} resolves to {target.table}, and there is no such table; create it first")
    held = rows(
        connection,
        # Nothing is known about the rows of a view or foreign table; a refresh that finds two of one key says so.
        """SELECT a.attname, format_type(a.atttypid, a.atttypmod),
                  c.relkind IN ('v', 'f') OR EXISTS (
                      SELECT FROM pg_index x
                       WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indpred IS NULL
                         AND x.indnkeyatts = 1 AND x.indkey[0] = a.attnum)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum""",
        schema=target.place[0],
        name=target.place[1],
    )
    return {name: (written, unique) for name, written, unique in held}


# -- what changes --


def compared(connection: Connection, old: Concept, new: Concept) -> Change:
    """Return a change with what the declarations do not say themselves."""
    both = [name for name in new.types if name in old.types]
    alike = frozenset(name for name in both if _is_same_type(connection, old.types[name], new.types[name]))
    present = frozenset[str]() if old.indexes == new.indexes else _index_statements(connection, new)
    return Change(old=old, new=new, alike=alike, present=present)


def _is_same_type(connection: Connection, one: str, other: str) -> bool:
    if column_types.same(one, other):
        return True
    oids = {_type_oid(connection, written) for written in (one, other)}
    return len(oids) == 1 and None not in oids and len({_modifier(connection, one), _modifier(connection, other)}) == 1


def _modifier(connection: Connection, known: str) -> int:
    """Return the length, precision or fields of a type, as Postgres encodes them."""
    with psycopg.Cursor(connection) as cursor:
        cursor.execute(as_sql(f"SELECT NULL::{known}"), prepare=False)
        assert cursor.pgresult is not None  # noqa: S101 - it has just been executed
        return cursor.pgresult.fmod(0)


def _index_statements(connection: Connection, concept: Concept) -> frozenset[str]:
    """Return the statements of the valid indexes on a table, written as in :func:`ddl.table_index`."""
    found = rows(
        connection,
        """SELECT pg_get_indexdef(x.indexrelid) FROM pg_index x
            WHERE x.indrelid = %(table)s::regclass AND x.indisvalid AND NOT x.indisprimary""",
        table=concept.table,
    )
    live = "WHERE deleted_at IS NULL"
    return frozenset(
        f"{text.replace(' USING btree (', ' (').replace('WHERE (deleted_at IS NULL)', live)};\n" for (text,) in found
    )


def check_dropped(connection: Connection, wanted: Change) -> None:
    """Refuse to drop a column that takes along what is to stay, or what the declaration knows nothing of."""
    names = changing.dropped(wanted)
    checks = changing.checks(wanted.old)
    kept = {a.constraint: a.name for a in wanted.new.attributes if a.check and a.check == checks.get(a.constraint)}
    declared = {*checks, *changing.table_indexes(wanted.old)}
    for column, name, described in _taken_along(connection, wanted.old, names):
        if name in kept:
            raise changing.lost_check(kept[name], column)
        if name not in declared:
            raise ConceptRefused(
                f"dropping the column {column} would take along the {described}, which is not declared; drop that first, "
                "and make it anew without the column if it is still needed"
            )


def _taken_along(connection: Connection, concept: Concept, columns: list[str]) -> list[Row]:
    """Return what Postgres drops with columns without a word, except their defaults: its column, name and description."""
    return rows(
        connection,
        """SELECT a.attname, COALESCE(k.conname, i.relname)::text, pg_describe_object(d.classid, d.objid, 0)
             FROM pg_attribute a
             JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
                             AND d.refobjsubid = a.attnum AND d.deptype = 'a'
             LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
             LEFT JOIN pg_class i ON d.classid = 'pg_class'::regclass AND i.oid = d.objid
            WHERE a.attrelid = %(table)s::regclass AND a.attname = ANY (%(columns)s)
              AND d.classid <> 'pg_attrdef'::regclass AND k.contype IS DISTINCT FROM 'n'
            ORDER BY a.attnum, 2""",
        table=concept.table,
        columns=columns,
    )
