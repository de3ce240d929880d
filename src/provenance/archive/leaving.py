"""Letting months leave.

A month leaves in one transaction: its rows are written to files, the files are read back and compared with what the server
says of the rows, and then the partition is dropped, with a note of where it has gone. Whatever ends this, the month is in
the database or in the archive, and known to be; the files of an attempt that came to nothing are written again by the next
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from provenance import drivers
from provenance.archive.exporting import exported, next_edition
from provenance.archive.files import Month
from provenance.archive.ledger import Archived
from provenance.archive.steps import MonthStays, Tell, hold_still, moments, nobody, patiently, recorded
from provenance.archive.unfinished import refuse_begun, refuse_spooled
from provenance.errors import Held
from provenance.statements import holds
from provenance.statements.retention import deleted_later, forget_keys
from provenance.trail import Trail


def archive_month(
    trail: Trail,
    root: Path,
    table: str,
    month: date,
    *,
    spools: Iterable[Path] = (),
    longest_hold: float = 1.0,
    tell: Tell = nobody,
) -> Archived:
    """Write a month to files, see that they hold what the database holds, and drop it.

    Erasing waits meanwhile. The table is locked only at the end: for at most *longest_hold* seconds, after waiting for the
    lock for half a second at a time.

    Args:
        trail: of the owner of the schema, whose right it is to drop what is recorded.
        root: the directory of the archive.
        table: ``"actions"`` or ``"row_changes"``.
        month: its first day.
        spools: where rows may wait that belong to it.
        longest_hold: for how many seconds the table may be locked at a time.
        tell: is told how many rows are written, and how many there are.

    Raises:
        ArchiveError: the month is not here, or not over, or something of it may still be recorded; or it changed meanwhile,
            or the table could not be locked. It is where it was.
        Held: a legal hold keeps some of it. It is where it was.
    """
    with recorded(trail, "archive_month", table, month, root) as action:
        connection = action.connection
        hold_still(connection)
        leaving = next_edition(connection, table, month)
        if moments(leaving)[1] > datetime.now(UTC):
            raise MonthStays(f"{month:%Y-%m} is not over")
        if table == "actions":
            refuse_begun(connection, leaving)
            refuse_spooled(leaving, spools)
        if (name := drivers.run(connection, holds.on(table, leaving.partition))) is not None:
            raise Held(f"the legal hold {name} keeps some of {leaving}; it may leave once the hold is released")
        if (policy := drivers.run(connection, deleted_later(table, month))) is not None:
            raise MonthStays(
                f"the retention policy {policy} deletes some of {leaving}, which an archive would keep for ever; let it go "
                "first (`provenance retention run`), or keep months for longer than that policy does"
            )
        with exported(connection, leaving, root, action.id, tell) as archived:
            if table == "actions":
                drivers.run(connection, forget_keys(leaving.partition))
            _drop(connection, leaving, archived.rows, longest_hold)
        action.result = {"rows": archived.rows, "edition": leaving.edition}
    return archived


def _drop(connection: drivers.SyncConnection, month: Month, rows: int, longest_hold: float) -> None:
    """Drop the partition of a month, if nothing has come to it since its rows were counted."""
    names = month.table.name, month.partition, f"{month.table.name}_default"
    parent, partition, default = (sql.Identifier("provenance", name) for name in names)
    limit = sql.Literal(f"{int(longest_hold * 1000)}ms")

    def drop() -> None:
        connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(parent))
        # Everybody waits by now: nobody is waited for any more.
        connection.execute(
            sql.SQL("LOCK TABLE ONLY {}, ONLY {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(partition, default)
        )
        connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(limit))
        there = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(partition)).fetchall()
        if there != [(rows,)]:
            raise MonthStays(f"{month} changed while it was archived; run it again")
        connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, partition))
        connection.execute(sql.SQL("DROP TABLE {}").format(partition))

    try:
        patiently(connection, month, drop)
    except psycopg.errors.QueryCanceled as error:
        raise MonthStays(
            f"counting the rows of {month} takes longer than the table may be locked ({longest_hold:g} s); vacuum "
            f"provenance.{month.partition}, or allow for more"
        ) from error
