"""Brings a database to what is declared, in one transaction, or says why not and changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import attrs
import psycopg
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.concepts import changing, database, ddl, origins
from provenance.concepts.changing import Change, Script
from provenance.concepts.database import Connection
from provenance.concepts.definition import Concept, linked
from provenance.concepts.errors import ConceptRefused
from provenance.statements import command

# Of two deploys that start at once the second waits, and then finds nothing to do. The bytes of "concept" as a number.
_LOCK_KEY = int.from_bytes(b"concept", "big")

# What to do about an error, by its SQLSTATE.
_AGAIN = "run it again"
_RENAME = "rename what is there, or drop it"
_REMEDIES = {
    "0A000": "pass the concepts whose views show it too, and take off the table what else uses it",
    "25006": "connect to a server that may be written to, and not read-only",
    "2BP01": "drop that first, and make it again afterwards; if it is the view of another concept, pass that concept too",
    "40001": _AGAIN,
    "40P01": _AGAIN,
    "42501": "connect as the role that owns the tables and the schema provenance",
    "42701": _RENAME,
    "42710": _RENAME,
    "42P01": "if that was dropped by hand, make it again with its part of what `provenance concept sql` prints",
    "42P07": _RENAME,
    "55P03": f"another transaction has held a lock for {ddl.LOCK_TIMEOUT}; run it again when that has ended",
    "57014": _AGAIN,
}
# Data, features, columns, types and functions that an expression cannot have.
_OF_EXPRESSIONS = ("22", "0A000", "42703", "42804", "42883")


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
    what = "applying the declaration"
    with _transaction(connection, what):
        database.rows(connection, "SELECT pg_advisory_xact_lock(%(key)s)", key=_LOCK_KEY)
        planned = _plan(connection, concepts, drop_columns=drop_columns)
        if planned.script.up:
            with _located(what, concepts, planned.script.up):
                drivers.run(connection, command(database.as_sql(planned.script.up)))
            database.check_owner(connection)
    return planned


def remove(connection: Connection, *concepts: Concept) -> None:
    """Remove the tables of concepts with all their rows, in one transaction. What was captured of them stays in the trail.

    Raises:
        InvalidConcept: the concepts do not fit together.
        ConceptRefused: one is not there, is not that of the concept, or something else depends on it; nothing is removed.
    """
    together = linked(*concepts)
    with _transaction(connection, "removing the concepts"):
        database.rows(connection, "SELECT pg_advisory_xact_lock(%(key)s)", key=_LOCK_KEY)
        for concept in together:
            if database.installed(connection, concept) is None:
                raise ConceptRefused(f"there is no table {concept.table}, so there is nothing to remove; leave it out")
            if database.is_captured(connection, concept):
                database.rows(connection, "SELECT provenance.release_table(%(table)s::regclass)", table=concept.table)
        drivers.run(connection, command(database.as_sql(ddl.down_sql(*together))))


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
            drivers.run(connection, command("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
            database.rows(
                connection,
                """SELECT pg_catalog.set_config(s.name, s.setting, true)
                     FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), ('client_encoding', 'UTF8'),
                                  ('lock_timeout', %(lock_timeout)s),
                                  ('standard_conforming_strings', 'on')) AS s (name, setting)""",
                lock_timeout=ddl.LOCK_TIMEOUT,
            )
            yield
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise  # the connection broke off: that says nothing about the declaration
        raise ConceptRefused(f"{what} failed and changed nothing: {_explained(error)}") from error


@contextmanager
def _located(what: str, concepts: Iterable[Concept], script: str) -> Generator[None]:
    """Name the expression of the declaration that an error is about: the server names a place in SQL that nobody wrote."""
    try:
        yield
    except psycopg.Error as error:
        if (where := _origin(error, concepts, script)) is None:
            raise
        said = _sentence(error, error.diag.message_hint or "correct the declaration")
        raise ConceptRefused(f"{what} failed and changed nothing: {where}: {said}") from error


def _origin(error: psycopg.Error, concepts: Iterable[Concept], script: str) -> str | None:
    diag = error.diag
    if diag.internal_query is not None and diag.internal_position is not None:
        return origins.at(concepts, diag.internal_query, int(diag.internal_position))
    if diag.statement_position is not None:
        return origins.at(concepts, script, int(diag.statement_position))
    # Of what is added to a table that is there, the server does not say at which place it is wrong.
    if (error.sqlstate or "").startswith(_OF_EXPRESSIONS):
        return origins.within(concepts, diag.context or "")
    return None


def _explained(error: psycopg.Error) -> str:
    """Return what the server said and what to do about it, on one line."""
    remedy = _REMEDIES.get(error.sqlstate or "") or error.diag.message_hint or "correct the declaration, or the rows"
    return _sentence(error, remedy)


def _sentence(error: psycopg.Error, remedy: str) -> str:
    said = error.diag.message_primary or type(error).__name__
    # What is wrong with a row is said with what is in it.
    if error.diag.message_detail and not (error.sqlstate or "").startswith(("22", "23")):
        said += f" ({error.diag.message_detail.rstrip('.')})"
    return " ".join(f"{said}; {remedy[:1].lower()}{remedy[1:].rstrip('.')}".split())


def _plan(connection: Connection, concepts: tuple[Concept, ...], *, drop_columns: bool) -> Plan:
    together = linked(*concepts)
    database.check_functions(connection)
    created: list[Concept] = []
    wanted: list[Change] = []
    for concept in together:
        if (installed := database.installed(connection, concept)) is None:
            database.check_free(connection, concept)
            created.append(concept)
        else:
            wanted.append(_change(connection, installed, concept, drop_columns=drop_columns))
    changed = [pair for pair in wanted if pair.old != pair.new]
    for concept in [*created, *(pair.new for pair in changed)]:
        database.check_types(connection, concept)
        database.check_references(connection, concept, together)
    for concept in together:
        # Those that have not changed, too: what they read may have.
        database.check_reads(connection, concept, together)
    return Plan(
        created=tuple(concept.name for concept in created),
        changed=tuple(pair.new.name for pair in changed),
        script=_script(created, wanted),
    )


def _change(connection: Connection, old: Concept, new: Concept, *, drop_columns: bool) -> Change:
    wanted = database.compared(connection, old, new)
    changing.refuse(wanted, drop_columns=drop_columns)
    if old != new:
        database.check_dropped(connection, wanted)
        # The way back is made of these, and a comment can be edited.
        database.check_types(connection, old)
    return wanted


def _script(created: list[Concept], wanted: list[Change]) -> Script:
    """Return one script. New tables come first: a changed view may show what is in them; new views last."""
    back = list(reversed(created))
    return Script(
        up=ddl.script([*map(ddl.create_table, created), *changing.change(*wanted), *map(ddl.create_view, created)]),
        down=ddl.script(
            [
                *map(ddl.drop_view, back),
                *changing.change(*(pair.back() for pair in reversed(wanted))),
                *map(ddl.drop_table, back),
            ]
        ),
    )
