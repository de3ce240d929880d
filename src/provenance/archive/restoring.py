"""Letting a month come back."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import attrs
import psycopg
from psycopg import sql

from provenance import drivers
from provenance.archive import files
from provenance.archive.columns import TABLES, Summary, summarized
from provenance.archive.files import Month
from provenance.archive.ledger import Archived, editions
from provenance.archive.steps import FETCHED, Tell, attached, hold_still, moments, nobody, patiently, recorded
from provenance.errors import ArchiveError
from provenance.statements import Statement, nothing
from provenance.trail import Trail


def restore_month(trail: Trail, root: Path, table: str, month: date, *, tell: Tell = nobody) -> Archived:
    """Bring a month back that has left: all its editions. The files stay where they are.

    Args:
        trail: of the owner of the schema.
        root: the directory of the archive.
        table: ``"actions"`` or ``"row_changes"``.
        month: its first day.
        tell: is told how many rows are there, and how many there will be.

    Returns:
        What has come back, all editions together.

    Raises:
        ArchiveError: the month has not left, or the files are not what was written, or the table could not be locked.
            Nothing has come back.
    """
    with recorded(trail, "restore_month", table, month, root) as action:
        connection = action.connection
        hold_still(connection)
        left = drivers.run(connection, editions(table, month))
        if not left:
            raise ArchiveError(
                f"{table} of {month:%Y-%m} have not left this database; `provenance archive list` lists what has"
            )
        coming = Month(TABLES[table], month, left[-1].edition)
        # Rows that came after it had left have a partition of their own.
        before = Summary()
        if there := attached(connection, coming):
            before = sum(drivers.run(connection, summarized(coming.table, coming.partition)).values(), Summary())
        else:
            drivers.run(connection, _make(coming))
        expected = sum((Summary(one.rows, one.digest) for one in left), Summary())
        done = 0
        for one in left:
            done = _copy(connection, root, Month(coming.table, month, one.edition), one, done, expected.rows, tell)
        found = sum(drivers.run(connection, summarized(coming.table, coming.partition)).values(), Summary())
        if found != before + expected:
            raise ArchiveError(f"the rows of {coming} are not what has left; nothing is restored")
        drivers.run(connection, _back(coming))
        if not there:
            _attach(connection, coming)
        action.result = {"rows": expected.rows, "editions": len(left)}
    return attrs.evolve(left[-1], rows=expected.rows, digest=expected.digest, location=str(root), away=False)


def _copy(  # noqa: PLR0917 - it is one step of the above
    connection: drivers.SyncConnection, root: Path, month: Month, left: Archived, done: int, total: int, tell: Tell
) -> int:
    """Copy an edition into the partition of its month, and return how many rows are there then."""
    # Editions may have been written to several directories.
    for place in (root, Path(left.location)):
        manifest = files.manifest_of(month, place)
        if manifest is not None and manifest.summary == Summary(left.rows, left.digest):
            break
    else:
        raise ArchiveError(f"{root} does not hold the {month} that has left; that was written to {left.location}")
    columns = month.table.columns
    query = sql.SQL("COPY provenance.{} ({}) FROM STDIN").format(
        sql.Identifier(month.partition), sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for values in files.read(month, place, manifest.files):
            copy.write_row([column.copied(value) for column, value in zip(columns, values, strict=True)])
            done += 1
            if done % FETCHED == 0 or done == total:
                tell(done, total)
    return done


def _make(month: Month) -> Statement[None]:
    return Statement(
        "SELECT provenance.make_partition(%(table)s, %(partition)s)",
        {"table": month.table.name, "partition": month.partition},
        nothing,
    )


def _back(month: Month) -> Statement[None]:
    return Statement(
        """UPDATE provenance.archived_months m SET restored_at = clock_timestamp()
            WHERE m.table_name = %(table)s AND m.month = %(month)s AND m.restored_at IS NULL""",
        {"table": month.table.name, "month": month.first},
        nothing,
    )


def _attach(connection: drivers.SyncConnection, month: Month) -> None:
    key, first, last = connection.execute(
        "SELECT b.key, b.first, b.last FROM provenance.month_bounds(%s, %s) b", (month.table.name, moments(month)[0])
    ).fetchall()[0]
    partition, column = sql.Identifier("provenance", month.partition), sql.Identifier(key)
    # With this it is not looked through while others wait. The bounds are literals of the server's own making.
    connection.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT of_its_month CHECK ({} >= {} AND {} < {})").format(
            partition, column, sql.SQL(first), column, sql.SQL(last)
        )
    )

    def attach() -> None:
        connection.execute(
            "SELECT provenance.attach_partition(%s, %s, %s)", (month.table.name, month.partition, moments(month)[0])
        )
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT of_its_month").format(partition))

    try:
        patiently(connection, month, attach)
    except psycopg.errors.CheckViolation as error:
        raise ArchiveError(
            f"rows of {month} have come to provenance.{month.table.name}_default since it left; run `provenance partition`, "
            "which moves them into a partition of their own, and restore the month then"
        ) from error
