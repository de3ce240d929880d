"""Letting months leave and come back.

A month leaves in one transaction: its rows are written to files, the files are read back and compared with what the server
says of the rows, and then the partition is dropped, with a note of where it has gone. Whatever ends this, the month is in
the database or in the archive, and known to be; the files of an attempt that came to
nothing are written again by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from provenance import drivers, ids
from provenance.archive import files
from provenance.archive.columns import TABLES, Summary, Values, completed, selected, summarized
from provenance.archive.files import Month
from provenance.archive.ledger import NOTES, Archived, editions
from provenance.archive.steps import FETCHED, Tell, attached, hold_still, moments, nobody, patiently, recorded
from provenance.errors import ArchiveError, Held
from provenance.journal.spool import Damaged, Spool
from provenance.statements import Rows, Statement, holds, nothing, truth
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
        left = drivers.run(connection, editions(table, month))
        leaving = Month(TABLES[table], month, 1 + max((one.edition for one in left), default=0))
        if not attached(connection, leaving):
            raise ArchiveError(
                f"there is no partition provenance.{leaving.partition}; `provenance partition` lists all"
            )
        if moments(leaving)[1] > datetime.now(UTC):
            raise ArchiveError(f"{month:%Y-%m} is not over")
        if table == "actions":
            _refuse_open(connection, leaving, spools)
        if (name := drivers.run(connection, holds.on(table, leaving.partition))) is not None:
            raise Held(f"the legal hold {name} keeps some of {leaving}; it may leave once the hold is released")
        _tidy(connection, root, leaving)
        buckets = drivers.run(connection, summarized(leaving.table, leaving.partition))
        expected = sum(buckets.values(), Summary())
        # Those of later editions are of rows that have come back since.
        for one in files.contents(root):
            if (one.table, one.first) == (leaving.table, leaving.first) and one.edition > leaving.edition:
                files.discard(one, root)
        try:
            _exported(connection, leaving, root, buckets, action.id, tell)
            drivers.run(connection, _forgotten(leaving))
            drivers.run(connection, _noted(leaving, root, expected, action.id))
            _drop(connection, leaving, expected.rows, longest_hold)
        except BaseException:
            # It stays, and what is in it may be erased.
            files.discard(leaving, root)
            raise
        archived = Archived(
            table=table,
            month=month,
            edition=leaving.edition,
            rows=expected.rows,
            digest=expected.digest,
            location=str(root),
            action_id=action.id,
        )
        action.result = {"rows": expected.rows, "edition": leaving.edition}
    return archived


def _exported(  # noqa: PLR0917 - it is one step of the above
    connection: drivers.SyncConnection,
    month: Month,
    root: Path,
    buckets: dict[str, Summary],
    action_id: UUID,
    tell: Tell,
) -> None:
    """See to it that the files of a month are there, and hold what the server says the table holds."""
    expected = sum(buckets.values(), Summary())
    if not _there_already(month, root, expected):
        _write(connection, month, root, buckets, tell)
        if files.close(month, root, buckets, action_id).summary != expected:
            raise ArchiveError(f"{month} changed while it was archived; run it again")


def _there_already(month: Month, root: Path, expected: Summary) -> bool:
    """Return whether the files of a month are what is to be written: it had left before."""
    manifest = files.manifest_of(month, root)
    if manifest is None or manifest.summary != expected:
        return False
    try:
        files.check(month, root, manifest)
    except ArchiveError:
        return False
    return True


def _tidy(connection: drivers.SyncConnection, root: Path, leaving: Month) -> None:
    """Remove what attempts have left that were killed: what is in it may have been erased since.

    It is known by the action that it was. Months that this database knows nothing of are those of another one, to be kept.

    Raises:
        ArchiveError: there are such months.
    """
    noted = {(one.table, one.month, one.edition, one.rows, one.digest) for one in drivers.run(connection, NOTES)}
    for month in files.contents(root):
        manifest = files.manifest_there(month, root)
        if (month.table.name, month.first, month.edition, manifest.rows, manifest.digest) in noted:
            continue
        if not drivers.run(connection, _known(manifest.action_id)):
            raise ArchiveError(f"{root} holds {month}, which have not left this database; name another directory")
        if month != leaving:
            files.discard(month, root)


def _known(action_id: UUID) -> Statement[bool]:
    return Statement(
        "SELECT EXISTS (SELECT FROM provenance.action_log l WHERE l.id = %(id)s)", {"id": action_id}, truth
    )


def _forgotten(month: Month) -> Statement[None]:
    """Take out the notes of what has come back and leaves again."""
    return Statement(
        """DELETE FROM provenance.archived_months m
            WHERE m.table_name = %(table)s AND m.month = %(month)s AND m.restored_at IS NOT NULL""",
        {"table": month.table.name, "month": month.first},
        nothing,
    )


def _write(
    connection: drivers.SyncConnection, month: Month, root: Path, buckets: dict[str, Summary], tell: Tell
) -> None:
    files.discard(month, root)
    done, total = 0, sum(summary.rows for summary in buckets.values())

    def rows(bucket: str) -> Iterator[Values]:
        nonlocal done
        with connection.cursor("provenance_archive", row_factory=tuple_row) as cursor:
            cursor.execute(selected(month.table, month.partition, bucket))
            while fetched := cursor.fetchmany(FETCHED):
                yield from completed(month.table, fetched)
                done += len(fetched)
                tell(done, total)

    for bucket in buckets:
        files.write(month, root, bucket, rows(bucket))


def _noted(month: Month, root: Path, summary: Summary, action_id: UUID) -> Statement[None]:
    return Statement(
        """INSERT INTO provenance.archived_months (table_name, month, edition, rows, digest, location, action_id)
           VALUES (%(table)s, %(month)s, %(edition)s, %(rows)s, %(digest)s, %(location)s, %(action)s)""",
        {
            "table": month.table.name,
            "month": month.first,
            "edition": month.edition,
            "rows": summary.rows,
            "digest": Decimal(summary.digest),
            "location": str(root),
            "action": action_id,
        },
        nothing,
    )


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
            raise ArchiveError(f"{month} changed while it was archived; run it again")
        connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, partition))
        connection.execute(sql.SQL("DROP TABLE {}").format(partition))

    try:
        patiently(connection, month, drop)
    except psycopg.errors.QueryCanceled as error:
        raise ArchiveError(
            f"counting the rows of {month} takes longer than the table may be locked ({longest_hold:g} s); vacuum "
            f"provenance.{month.partition}, or allow for more"
        ) from error


def _count(rows: Rows) -> int:
    return int(rows[0][0])


def _refuse_open(connection: drivers.SyncConnection, month: Month, spools: Iterable[Path]) -> None:
    """Refuse a month of which something may still be recorded.

    Raises:
        ArchiveError: it is such a month.
    """
    first, last = moments(month)
    begun = drivers.run(
        connection,
        Statement(
            """SELECT count(*) FROM provenance.action_intents i
                WHERE i.id >= provenance.uuid_floor(%(first)s) AND i.id < provenance.uuid_floor(%(last)s)""",
            {"first": first, "last": last},
            _count,
        ),
    )
    if begun:
        raise ArchiveError(
            f"{begun} action(s) that were begun in {month.first:%Y-%m} have no recorded outcome; run `provenance recover`, "
            "and end with trail.complete() or trail.fail() what `provenance log --status unknown` lists"
        )
    for spool in spools:
        if waiting := sum(first <= at < last for at in _spooled(spool)):
            raise ArchiveError(
                f"{waiting} row(s) of {month.first:%Y-%m} wait in the spool {spool}; run `provenance recover --spool "
                f"{spool}`"
            )


def _spooled(spool: Path) -> Iterator[datetime]:
    """Yield when the actions were begun whose rows wait in a spool."""
    for path in (*spool.glob("*.rows"), *spool.glob("*.rows.begun")):
        try:
            entry = Spool.read(path)
        except Damaged as error:
            raise ArchiveError(
                f"{path} cannot be read ({error}); nobody knows of which months it holds rows"
            ) from error
        for row in entry.rows if entry is not None else ():
            if (begun := ids.moment_of(UUID(json.loads(row)["id"]))) is not None:
                yield begun
