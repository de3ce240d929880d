"""Applies migrations, takes them back, and says which are applied.

Each step is a transaction of its own under an advisory *transaction* lock, and looks at the ledger once it holds the
lock: of two deploys that start at once, one applies a step and the other finds it applied. A session-level lock would
be lost, or left held, behind a transaction pooler.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import attrs
import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from provenance.errors import AS_OWNER, MigrationError
from provenance.schema.flavors import INSTALLED, KEEP_HERE, citus, flavor_named
from provenance.schema.migrations import Migration, known_migrations

Connection = psycopg.Connection[Any]

# An arbitrary constant that nothing else in the database is likely to use: the bytes of "provena" as a number.
LOCK_KEY = int.from_bytes(b"provena", "big")
"""Of the lock under which the schema is changed."""

LEDGER = """
CREATE SCHEMA IF NOT EXISTS provenance;
CREATE TABLE IF NOT EXISTS provenance.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL DEFAULT session_user,
    CONSTRAINT migrations_pkey PRIMARY KEY (version)
);
COMMENT ON TABLE provenance.migrations IS 'Which steps of the provenance schema are applied.';
"""
"""Makes the table in which it is noted what is applied."""


_LEDGER_EXISTS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'provenance' AND c.relname = 'migrations')
"""

_OTHER_OWNER = """
SELECT r.rolname FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
 WHERE n.nspname = 'provenance' AND r.rolname <> current_user AND pg_catalog.pg_has_role(r.oid, 'MEMBER')
"""


@attrs.frozen(kw_only=True)
class Applied:
    """A line of the ledger."""

    version: int
    name: str
    checksum: str
    applied_at: datetime
    applied_by: str


@attrs.frozen(kw_only=True)
class MigrationState:
    """A migration, and whether and how it is applied."""

    version: int
    name: str
    applied_at: datetime | None
    applied_by: str | None
    problem: str | None
    """Why the ledger and this version of the library disagree about it, or ``None``."""


def _ledger(connection: Connection) -> dict[int, Applied]:
    with connection.cursor(row_factory=scalar_row) as cursor:
        # Not to_regclass(): it may answer from a cache that knows nothing of what was done while the lock was waited for.
        if not cursor.execute(_LEDGER_EXISTS).fetchone():
            return {}
    with connection.cursor(row_factory=class_row(Applied)) as cursor:
        rows = cursor.execute(
            "SELECT version, name, checksum, applied_at, applied_by FROM provenance.migrations ORDER BY version"
        ).fetchall()
    return {row.version: row for row in rows}


def _problem(applied: Applied, known: Migration | None) -> str | None:
    if known is None:
        return (
            f"migration {applied.version:04} ({applied.name}) is applied, but this version of provenance does not "
            "know it; upgrade the library"
        )
    if known.checksum != applied.checksum:
        return (
            f"migration {applied.version:04} ({applied.name}) is not the one that was applied: its text was edited "
            "since; restore the released file"
        )
    return None


def _refuse_bytes(connection: Connection) -> None:
    if connection.info.encoding == "ascii":
        raise MigrationError(
            "the connection's client_encoding is SQL_ASCII, so that no text can be read from it; connect with "
            "client_encoding=utf8"
        )


def _refuse_encoding(connection: Connection) -> None:
    """Refuse a database in which not every text can be stored: it would undo the work that a row tells of."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raise MigrationError(
            f"this database's encoding is {encoding}, and the trail needs UTF8, to hold whatever text an application works "
            "with; make the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )


@contextmanager
def _reading_the_ledger(kind: type[psycopg.Error]) -> Generator[None]:
    try:
        yield
    except kind as error:
        raise MigrationError(
            f"the ledger of migrations cannot be read: {error.diag.message_primary or error}; {AS_OWNER}"
        ) from error


def status(connection: Connection) -> list[MigrationState]:
    """Return every migration that is known or applied, in order. Reads only.

    Raises:
        MigrationError: the role may not read the ledger, the connection is not usable, or its encoding does not do.
    """
    _refuse_bytes(connection)
    with _reading_the_ledger(psycopg.Error), connection.transaction():
        ledger = _ledger(connection)
    known = {migration.version: migration for migration in known_migrations()}
    states: list[MigrationState] = []
    for version in sorted(ledger.keys() | known.keys()):
        applied = ledger.get(version)
        states.append(
            MigrationState(
                version=version,
                name=applied.name if applied else known[version].name,
                applied_at=applied.applied_at if applied else None,
                applied_by=applied.applied_by if applied else None,
                problem=_problem(applied, known.get(version)) if applied else None,
            )
        )
    return states


def _refuse_disagreement(ledger: dict[int, Applied]) -> None:
    known = {migration.version: migration for migration in known_migrations()}
    for applied in ledger.values():
        if problem := _problem(applied, known.get(applied.version)):
            raise MigrationError(problem)


def _act_as_owner(connection: Connection) -> None:
    """Make what is made belong to the role that owns the schema, where that is a role this one is a member of."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        owner = cursor.execute(_OTHER_OWNER).fetchone()
        if owner is not None:
            cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))


@contextmanager
def _locked_step(connection: Connection, what: str, before_it: str = "") -> Generator[dict[int, Applied]]:
    """A transaction that holds the migration lock, with the ledger as it is under that lock."""
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise MigrationError("migrations need a connection with no transaction open; commit or roll back first")
    _refuse_bytes(connection)
    ledger: dict[int, Applied] = {}
    try:
        with connection.transaction():
            # At a stricter level the ledger would be read as it was before the lock was waited for. The path decides what
            # now() and text mean in the text of a migration.
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
            _act_as_owner(connection)
            with _reading_the_ledger(psycopg.errors.InsufficientPrivilege):
                ledger = _ledger(connection)
            _refuse_disagreement(ledger)
            yield ledger
    except psycopg.Error as error:
        raise MigrationError(f"{what} failed and changed nothing: {_reason(error, ledger)}{before_it}") from error


# Of so many objects that stand in the way, the name is told.
_NAMED = 10


def listed(found: Sequence[str]) -> str:
    """Return the first ten of what stands in the way, and how many more there are."""
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return ", ".join([*found[:_NAMED], *more])


def _reason(error: psycopg.Error, ledger: dict[int, Applied]) -> str:
    said = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{said}; {AS_OWNER if ledger else 'connect as a role that has CREATE on the database'}"
    if not isinstance(error, psycopg.errors.DependentObjectsStillExist):
        return said
    objects = (error.diag.message_detail or "").splitlines()
    return (
        f"{said} ({listed(objects)}); release captured tables with `provenance capture TABLE "
        "--release`, take the stamps off others with `provenance stamp TABLE --undo`, take concepts back with `provenance "
        "concept sql FILE --down`, and drop what else is named"
    )


def _named(migration: Migration) -> str:
    return f"{migration.version:04} ({migration.name})"


def _before_it(done: list[Migration], what: str) -> str:
    """Return what else there is to say when a step fails: the steps before it stand."""
    return f"; {what} before that: {', '.join(map(_named, done))}" if done else ""


def up(connection: Connection, *, to: int | None = None, flavor: str | None = None) -> list[Migration]:
    """Apply the migrations that are missing, and make the partitions of the coming months.

    Args:
        connection: to the database, as the role that shall own the schema; with no transaction open.
        to: the last version to apply; all of them when left out.
        flavor: ``"citus"`` for the coordinator of Citus. Once installed it stays, whether it is named again or not.

    Returns:
        The migrations this call applied; another deploy may have applied some meanwhile.

    Raises:
        MigrationError: the encoding of the database or of the connection does not do, the ledger does not fit this version
            of the library, the flavor does not fit the database, or a statement failed. Migrations before the failing one
            stay applied.
    """
    _refuse_encoding(connection)
    chosen = flavor_named(flavor)
    if chosen and to is not None:
        raise MigrationError("a flavor is for the newest version; leave out at which version to stop")
    done: list[Migration] = []
    oldest_first = [migration for migration in known_migrations() if to is None or migration.version <= to]
    waiting = oldest_first
    while waiting:
        migration, *waiting = waiting
        with _locked_step(connection, f"migration {_named(migration)}", _before_it(done, "applied")) as ledger:
            if migration.version in ledger:
                continue
            if any(earlier.version not in ledger for earlier in oldest_first if earlier.version < migration.version):
                # Between two steps another deploy has taken back what was applied.
                waiting = oldest_first
                continue
            connection.execute(chosen.check.encode() if chosen else f"SELECT {KEEP_HERE}")
            if not ledger:
                # It needs CREATE on the database, which the owner of the schema may lack.
                connection.execute(LEDGER)
            connection.execute(migration.up.encode())
            connection.execute(
                "INSERT INTO provenance.migrations (version, name, checksum) VALUES (%s, %s, %s)",
                (migration.version, migration.name, migration.checksum),
            )
            done.append(migration)
    if to is not None and to < known_migrations()[-1].version:
        return done
    if chosen:
        with _locked_step(connection, f"the flavor {chosen.name}", _before_it(done, "applied")) as ledger:
            connection.execute(chosen.check.encode())
            with connection.cursor(row_factory=scalar_row) as cursor:
                installed = cursor.execute(f"SELECT {INSTALLED}").fetchone()
            if ledger and not installed:
                connection.execute(chosen.up.encode())
    with _locked_step(connection, "making partitions", _before_it(done, "applied")) as ledger:
        # Between two steps another deploy may have taken everything back.
        if ledger:
            connection.execute("SELECT provenance.ensure_partitions()")
    return done


def down(connection: Connection, *, to: int) -> list[Migration]:
    """Take migrations back, newest first. Recorded actions that lived in what is dropped are lost.

    Args:
        connection: as for :func:`up`.
        to: the version to go back to; 0 removes the schema altogether.

    Returns:
        The migrations that were taken back.

    Raises:
        MigrationError: as for :func:`up`.
    """
    done: list[Migration] = []
    newest_first = [migration for migration in reversed(known_migrations()) if migration.version > to]
    waiting = newest_first
    while waiting:
        migration, *waiting = waiting
        with _locked_step(
            connection, f"taking back migration {_named(migration)}", _before_it(done, "taken back")
        ) as ledger:
            if migration.version not in ledger:
                continue
            if max(ledger) > migration.version:
                # Between two steps another deploy has applied again what was taken back.
                waiting = newest_first
                continue
            connection.execute(migration.down.encode())
            connection.execute("DELETE FROM provenance.migrations WHERE version = %s", (migration.version,))
            if len(ledger) == 1:
                connection.execute(citus().down.encode())
                # RESTRICT, the default: whatever else somebody put into the schema stops the removal.
                connection.execute("DROP TABLE provenance.migrations; DROP SCHEMA provenance")
            done.append(migration)
    return done
