"""Brings a database to what is declared, in one transaction, or says why not and changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from provenance.concepts import changing, ddl, declaration
from provenance.concepts.changing import Script
from provenance.concepts.definition import RESERVED, Concept, Reference, Target, linked
from provenance.concepts.errors import ConceptRefused
from provenance.concepts.naming import quoted
from provenance.errors import SchemaNotReady

Connection = psycopg.Connection[Any]

# Of two deploys that start at once the second waits, and then finds nothing to do. The bytes of "concept" as a number.
_LOCK_KEY = int.from_bytes(b"concept", "big")

_KINDS = {
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


@attrs.frozen(kw_only=True)
class Plan:
    """What has to be done to a database."""

    created: tuple[str, ...]
    """The concepts that it does not have yet."""
    changed: tuple[str, ...]
    """The concepts whose declaration has changed."""
    script: Script


def plan(connection: Connection, *concepts: Concept, drop_columns: bool = False) -> Plan:
    """Return what would make the database what is declared. Reads only.

    Args:
        connection: with no transaction open.
        concepts: all that refer to each other by name.
        drop_columns: as for :func:`changes`.

    Raises:
        InvalidConcept: the concepts do not fit together.
        ConceptRefused: something is in the way, is not found, or would be lost.
        SchemaNotReady: the database lacks the provenance schema, or has an older one.
    """
    with _transaction(connection, "reading the catalogue"):
        return _plan(connection, concepts, drop_columns=drop_columns)


def apply(connection: Connection, *concepts: Concept, drop_columns: bool = False) -> Plan:
    """Make the database what is declared, in one transaction, and return what was done.

    Safe to run from several deploys at once: of two, the second finds nothing to do.

    Args:
        connection: as the role that shall own the tables; with no transaction open.
        concepts: as for :func:`plan`.
        drop_columns: as for :func:`changes`.

    Raises:
        InvalidConcept, ConceptRefused, SchemaNotReady: as for :func:`plan`; nothing has been changed.
    """
    with _transaction(connection, "applying the declaration"):
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        planned = _plan(connection, concepts, drop_columns=drop_columns)
        if planned.script.up:
            connection.execute(planned.script.up.encode())
    return planned


def remove(connection: Connection, *concepts: Concept) -> None:
    """Remove the tables of concepts with all their rows, in one transaction.

    Raises:
        InvalidConcept: the concepts do not fit together.
        ConceptRefused: one is not there, is not that of the concept, or something else depends on it; nothing is removed.
    """
    together = linked(*concepts)
    with _transaction(connection, "removing the concepts"):
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        for concept in together:
            if _installed(connection, concept) is None:
                raise ConceptRefused(f"there is no table {concept.table}, so there is nothing to remove; leave it out")
        connection.execute(ddl.down_sql(*together).encode())


@contextmanager
def _transaction(connection: Connection, what: str) -> Generator[None]:
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise ConceptRefused(
            f"{what} needs a connection with no transaction open; commit or roll back first, or run the SQL of plan() or "
            "up_sql() yourself"
        )
    try:
        with connection.transaction():
            # At a stricter level the catalogue would be read as it was before the lock was waited for.
            connection.execute(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = pg_catalog, pg_temp"
            )
            yield
    except psycopg.errors.LockNotAvailable as error:
        raise ConceptRefused(
            f"{what} waited {ddl.LOCK_TIMEOUT} for a lock that another transaction holds, and changed nothing; run it again "
            "when that has ended"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConceptRefused(
            f"{what} failed and changed nothing: {error.diag.message_primary}; connect as the role that owns the tables and "
            "the schema provenance"
        ) from error
    except psycopg.errors.DependentObjectsStillExist as error:
        raise ConceptRefused(
            f"{what} failed and changed nothing: {error.diag.message_primary} ({error.diag.message_detail}); drop that "
            "first, and make it again afterwards"
        ) from error
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise  # the connection broke off: that says nothing about the declaration
        raise ConceptRefused(
            f"{what} failed and changed nothing: {error.diag.message_primary}; correct the declaration, or the rows"
        ) from error


def _rows(connection: Connection, query: str, params: Iterable[object] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), tuple(params)).fetchall()


def _plan(connection: Connection, concepts: tuple[Concept, ...], *, drop_columns: bool) -> Plan:
    together = linked(*concepts)
    _check_functions(connection)
    created: list[Concept] = []
    pairs: list[tuple[Concept, Concept]] = []
    for concept in together:
        if (installed := _installed(connection, concept)) is None:
            _check_free(connection, concept)
            created.append(concept)
        else:
            changing.refuse(installed, concept, drop_columns=drop_columns)
            pairs.append((installed, concept))
    changed = [new for old, new in pairs if old != new]
    declared = {concept.table: {*RESERVED, *concept.columns} for concept in together}
    for concept in [*created, *changed]:
        _check_types(connection, concept)
        for reference in concept.references:
            if reference.target is not None:
                _check_reference(connection, concept, reference, reference.target, declared)
    return Plan(
        created=tuple(concept.name for concept in created),
        changed=tuple(concept.name for concept in changed),
        script=_script(created, pairs),
    )


def _script(created: list[Concept], pairs: list[tuple[Concept, Concept]]) -> Script:
    """Return one script. New tables come first: a changed view may show what is in them; new views last."""
    back = list(reversed(created))
    return Script(
        up=ddl.script([*map(ddl.create_table, created), *changing.change(*pairs), *map(ddl.create_view, created)]),
        down=ddl.script(
            [
                *map(ddl.drop_view, back),
                *changing.change(*((new, old) for old, new in reversed(pairs))),
                *map(ddl.drop_table, back),
            ]
        ),
    )


# -- what is in the way --


def _check_functions(connection: Connection) -> None:
    [(found,)] = _rows(
        connection,
        """SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = 'provenance'
              AND p.proname IN ('uuid_v7', 'require_action', 'stamp_insert', 'stamp_update', 'touch')""",
    )
    if found < 5:
        raise SchemaNotReady(
            "the provenance schema is missing in this database, or too old for concepts; run `provenance migrate up`"
        )


def _relation(connection: Connection, place: tuple[str, str]) -> tuple[str, str | None] | None:
    """Return the kind and the comment of a relation, or ``None`` when there is none of that name."""
    found = _rows(
        connection,
        """SELECT c.relkind::text, obj_description(c.oid, 'pg_class')
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %s AND c.relname = %s""",
        place,
    )
    return (found[0][0], found[0][1]) if found else None


def _installed(connection: Connection, concept: Concept) -> Concept | None:
    """Return the declaration that the concept's table was made from, or ``None`` when there is no such table."""
    found = _relation(connection, concept.place)
    if found is None:
        return None
    kind, comment = found
    installed = declaration.read(comment, concept.table) if kind == "r" else None
    if installed is None:
        raise ConceptRefused(
            f"{concept.table} is {_KINDS[kind]} that was not made from a declaration; give the concept {concept.name} "
            "another table, or move that one out of the way"
        )
    if installed.name != concept.name:
        raise ConceptRefused(
            f"{concept.table} is the table of the concept {installed.name}; give the concept {concept.name} another one"
        )
    return installed


def _check_free(connection: Connection, concept: Concept) -> None:
    schema, _ = concept.place
    if not _rows(connection, "SELECT FROM pg_namespace WHERE nspname = %s", [schema]):
        raise ConceptRefused(f"there is no schema {quoted(schema)} for {concept.table}; create it first")
    for name in concept.relations():
        if (found := _relation(connection, (schema, name))) is not None:
            raise ConceptRefused(
                f"the concept {concept.name} needs the name {ddl.qualified((schema, name))}, which is {_KINDS[found[0]]} "
                "already; rename that, or give the concept another table"
            )
    if _rows(
        connection,
        """SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = %s AND p.proname = %s AND p.pronargs = 0""",
        concept.refresh,
    ):
        raise ConceptRefused(
            f"the concept {concept.name} needs the name {ddl.qualified(concept.refresh)}, which is a function already; "
            "rename that, or give the concept another table"
        )


def _check_types(connection: Connection, concept: Concept) -> None:
    for name, written in concept.types.items():
        try:
            with connection.transaction():
                [(known,)] = _rows(connection, "SELECT to_regtype(%s) IS NOT NULL", [written])
        except psycopg.errors.SyntaxError:
            known = False
        if not known:
            raise ConceptRefused(
                f"Postgres does not know the type {written} of {concept.name}.{name}; correct it, create it first, or write "
                "it with its schema"
            )


def _check_reference(
    connection: Connection, concept: Concept, reference: Reference, target: Target, declared: Mapping[str, set[str]]
) -> None:
    what = f"the reference {concept.name}.{reference.column}"
    wanted = [target.key, *(source for _, source in reference.labels)]
    if target.table in declared:
        columns = {name: ("uuid", name == "id") for name in declared[target.table]}
    else:
        columns = _target_columns(connection, target, what)
    for name in wanted:
        if name not in columns:
            raise ConceptRefused(
                f"{what} resolves to {target.table}, which has no column {name}; it has {', '.join(columns)}"
            )
    key_type, unique = columns[target.key]
    if not unique:
        raise ConceptRefused(
            f"{what} resolves to {target.table}.{quoted(target.key)}, which may hold the same value twice; reference a "
            "column with a unique index of its own"
        )
    try:
        with connection.transaction():
            _rows(connection, f"SELECT NULL::{key_type} = NULL::{reference.type}")
    except psycopg.errors.UndefinedFunction as error:
        raise ConceptRefused(
            f"{what} is of type {reference.type}, and {target.table}.{quoted(target.key)} is of type {key_type}; declare "
            f"the reference as {key_type}"
        ) from error


def _target_columns(connection: Connection, target: Target, what: str) -> dict[str, tuple[str, bool]]:
    """Return the columns of a table with their types, and whether no two of its rows have the same value there."""
    found = _relation(connection, target.place)
    if found is None or found[0] not in _READABLE:
        raise ConceptRefused(f"{what} resolves to {target.table}, and there is no such table; create it first")
    rows = _rows(
        connection,
        # Nothing is known about the rows of a view or foreign table; a refresh that finds two of one key says so.
        """SELECT a.attname, format_type(a.atttypid, a.atttypmod),
                  c.relkind IN ('v', 'f') OR EXISTS (
                      SELECT FROM pg_index x
                       WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indpred IS NULL
                         AND x.indnkeyatts = 1 AND x.indkey[0] = a.attnum)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attnum""",
        target.place,
    )
    return {name: (written, unique) for name, written, unique in rows}
