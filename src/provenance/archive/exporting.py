"""Writing rows of a month to files, as one transaction sees them, and noting where they have gone."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import LiteralString
from uuid import UUID

from psycopg.rows import tuple_row

from provenance import drivers
from provenance.archive import files
from provenance.archive.columns import TABLES, Summary, Values, completed, selected, summarized
from provenance.archive.files import Month
from provenance.archive.ledger import NOTES, Archived, editions, told_of
from provenance.archive.steps import FETCHED, Tell, attached
from provenance.errors import ArchiveError
from provenance.statements import Statement, nothing, truth


def next_edition(connection: drivers.SyncConnection, table: str, month: date) -> Month:
    """Return what is to leave of a month, as the next edition of it.

    Raises:
        ArchiveError: the month is not here.
    """
    left = drivers.run(connection, editions(table, month))
    leaving = Month(TABLES[table], month, 1 + max((one.edition for one in left), default=0))
    if not attached(connection, leaving):
        raise ArchiveError(f"there is no partition provenance.{leaving.partition}; `provenance partition` lists all")
    return leaving


@contextmanager
def exported(
    connection: drivers.SyncConnection,
    leaving: Month,
    root: Path,
    action_id: UUID,
    tell: Tell,
    *,
    chosen: LiteralString = "",
) -> Generator[Archived]:
    """Write rows of a month to files that hold what the server says of them, and note it; then they can go.

    If what follows fails, the files are removed: the rows stay, and what is in them may be erased.

    Args:
        connection: in the transaction in which they go.
        leaving: the edition that they make.
        root: the directory of the archive.
        action_id: by which action.
        tell: is told how many rows are written, and how many there are.
        chosen: joins which of them, in SQL; all, if it is empty.

    Raises:
        ArchiveError: the files do not hold that, or are of another database.
    """
    _tidy(connection, root, leaving)
    buckets = drivers.run(connection, summarized(leaving.table, leaving.partition, chosen))
    expected = sum(buckets.values(), Summary())
    # Those of later editions are of rows that have come back since.
    for one in files.contents(root):
        if (one.table, one.first) == (leaving.table, leaving.first) and one.edition > leaving.edition:
            files.discard(one, root)
    try:
        if not _there_already(leaving, root, expected):
            _write(connection, leaving, root, buckets, tell, chosen)
            _agree(files.close(leaving, root, buckets, action_id).summary, expected, leaving)
        drivers.run(connection, _forgotten(leaving))
        drivers.run(connection, _noted(leaving, root, expected, action_id, whole=not chosen))
        yield Archived(
            table=leaving.table.name,
            month=leaving.first,
            edition=leaving.edition,
            rows=expected.rows,
            digest=expected.digest,
            location=str(root),
            action_id=action_id,
            whole=not chosen,
        )
    except BaseException:
        files.discard(leaving, root)
        raise


def _tidy(connection: drivers.SyncConnection, root: Path, leaving: Month) -> None:
    """Remove what attempts have left that were killed: what is in it may have been erased since.

    It is known by the action that it was. Months that this database knows nothing of are those of another one, to be kept.

    Raises:
        ArchiveError: there are such months.
    """
    noted = {one.told for one in drivers.run(connection, NOTES)}
    for month in files.contents(root):
        manifest = files.manifest_there(month, root)
        if told_of(month, manifest) in noted:
            continue
        if not drivers.run(connection, _known(manifest.action_id)):
            raise ArchiveError(f"{root} holds {month}, which have not left this database; name another directory")
        if month != leaving:
            files.discard(month, root)


def _known(action_id: UUID) -> Statement[bool]:
    return Statement(
        "SELECT EXISTS (SELECT FROM provenance.action_log l WHERE l.id = %(id)s)", {"id": action_id}, truth
    )


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


def _agree(found: Summary, expected: Summary, month: Month) -> None:
    if found != expected:
        raise ArchiveError(f"{month} changed while it was archived; run it again")


def _write(  # noqa: PLR0917 - it is one step of the above
    connection: drivers.SyncConnection,
    month: Month,
    root: Path,
    buckets: dict[str, Summary],
    tell: Tell,
    chosen: LiteralString,
) -> None:
    files.discard(month, root)
    done, total = 0, sum(summary.rows for summary in buckets.values())

    def rows(bucket: str) -> Iterator[Values]:
        nonlocal done
        with connection.cursor("provenance_archive", row_factory=tuple_row) as cursor:
            cursor.execute(selected(month.table, month.partition, bucket, chosen))
            while fetched := cursor.fetchmany(FETCHED):
                yield from completed(month.table, fetched)
                done += len(fetched)
                tell(done, total)

    for bucket in buckets:
        files.write(month, root, bucket, rows(bucket))


def _forgotten(month: Month) -> Statement[None]:
    """Take out the notes of what has come back and leaves again."""
    return Statement(
        """DELETE FROM provenance.archived_months m
            WHERE m.table_name = %(table)s AND m.month = %(month)s AND m.restored_at IS NOT NULL""",
        {"table": month.table.name, "month": month.first},
        nothing,
    )


def _noted(month: Month, root: Path, summary: Summary, action_id: UUID, *, whole: bool) -> Statement[None]:
    return Statement(
        """INSERT INTO provenance.archived_months (table_name, month, edition, rows, digest, location, action_id, whole)
           VALUES (%(table)s, %(month)s, %(edition)s, %(rows)s, %(digest)s, %(location)s, %(action)s, %(whole)s)""",
        {
            "table": month.table.name,
            "month": month.first,
            "edition": month.edition,
            "rows": summary.rows,
            "digest": Decimal(summary.digest),
            "location": str(root),
            "action": action_id,
            "whole": whole,
        },
        nothing,
    )
