"""Letting rows go that nobody must keep any more, as the retention policies say.

Of a month at a time, in one transaction: which rows are due is found out once; those that go to an archive are written to
files, as a month that leaves is, and what is taken out tells, in the same statement, what it was: the files must hold that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from datetime import date
from pathlib import Path
from uuid import UUID

import attrs
import psycopg

from provenance import drivers
from provenance.archive.columns import Summary, taken_out
from provenance.archive.exporting import exported, next_edition
from provenance.archive.files import Month
from provenance.archive.ledger import Archived
from provenance.archive.steps import Tell, hold_still, nobody, recorded
from provenance.archive.unfinished import refuse_spooled
from provenance.errors import ArchiveError
from provenance.statements import Statement, nothing
from provenance.statements import retention as statements
from provenance.statements.retention import Count
from provenance.trail import Trail
from provenance.translation import translated


@attrs.frozen(kw_only=True)
class Retired:
    """What has gone of a month."""

    table: str
    month: date
    deleted: int
    archived: int
    held: dict[str, int]
    """How many rows a legal hold keeps, by its name."""
    action_id: UUID
    """The action by which it went."""


def due_rows(trail: Trail) -> list[tuple[str, date, list[Count]]]:
    """Return of which months rows are due, and how many: those of row changes first, and the oldest first.

    What is said of actions supposes that what they changed has gone.

    Raises:
        SchemaNotReady: this role may not.
        TrailUnavailable: the database cannot be reached.
    """
    with translated("looking for what nobody must keep any more", rights="owner"):
        with trail.connection() as connection:
            months = drivers.run(connection, statements.DUE_MONTHS)
        counted = [(table, month, _counted(trail, table, month)) for table, month in months]
    return [(table, month, counts) for table, month, counts in counted if counts]


def _counted(trail: Trail, table: str, month: date) -> list[Count]:
    """Count what is due of a month, in a transaction of its own: no table stays locked for longer than that."""
    try:
        with trail.connection() as connection:
            return drivers.run(connection, statements.due(table, month))
    except psycopg.errors.UndefinedTable:
        # It has left meanwhile.
        return []


def retire_month(
    trail: Trail,
    table: str,
    month: date,
    *,
    root: Path | None = None,
    spools: Iterable[Path] = (),
    tell: Tell = nobody,
) -> Retired:
    """Let go what nobody must keep any more of a month; what a legal hold keeps stays.

    Erasing waits meanwhile; whoever reads and records does not.

    Args:
        trail: of the owner of the schema, whose right it is to delete what is recorded.
        table: ``"actions"`` or ``"row_changes"``. The row changes of an action go first; until then it stays.
        month: its first day.
        root: the directory of the archive, for policies that name it.
        spools: where rows may wait that belong to the month.
        tell: is told how many rows are written to files, and how many there are.

    Raises:
        ArchiveError: the month is not here, or something of it may still be recorded, or there is no archive for what goes
            to one, or somebody erases or moves rows. All is as it was.
    """
    with recorded(trail, "apply_retention", table, month, root) as action:
        connection = action.connection
        hold_still(connection)
        leaving = next_edition(connection, table, month)
        if table == "actions":
            refuse_spooled(leaving, spools)
        drivers.run(connection, statements.choose(table, month))
        counts = drivers.run(connection, statements.CHOSEN)
        if table == "actions":
            drivers.run(connection, statements.forget_keys(leaving.partition, statements.CHOSEN_HERE))
        retired = Retired(
            table=table,
            month=month,
            deleted=_rows(counts, "delete"),
            archived=_rows(counts, "archive"),
            held=_sums((one.hold, one.rows) for one in counts if one.hold is not None),
            action_id=action.id,
        )
        with ExitStack() as stack:
            if retired.archived:
                # Until the end of this, what fails has the files removed again.
                archived = stack.enter_context(_exported(connection, leaving, root, action.id, tell, retired.archived))
                gone = drivers.run(connection, taken_out(leaving.table, leaving.partition, "archive"))
                if sum(gone.values(), Summary()) != Summary(archived.rows, archived.digest):
                    raise ArchiveError(f"{leaving} changed while it was archived; run it again")
            if retired.deleted:
                gaps = drivers.run(connection, statements.gaps(leaving.partition)) if table == "row_changes" else {}
                _delete(connection, leaving)
                # Last, since whoever captures a table waits for it, and not for long.
                drivers.run(connection, statements.note_gaps(gaps))
        action.result = {
            "deleted": retired.deleted,
            "archived": retired.archived,
            "held": retired.held,
            "policies": _sums((one.policy, one.rows) for one in counts if one.hold is None),
        }
    return retired


def _exported(  # noqa: PLR0917 - it is one step of the above
    connection: drivers.SyncConnection, leaving: Month, root: Path | None, action_id: UUID, tell: Tell, rows: int
) -> AbstractContextManager[Archived]:
    if root is None:
        raise ArchiveError(f"{rows} row(s) of {leaving} go to an archive, as their policies say; name its directory")
    return exported(connection, leaving, root, action_id, tell, chosen=statements.LEAVING)


def _rows(counts: list[Count], outcome: str) -> int:
    return sum(one.rows for one in counts if one.hold is None and one.outcome == outcome)


def _sums(named: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, rows in named:
        found[name] += rows
    return dict(sorted(found.items()))


def _delete(connection: drivers.SyncConnection, month: Month) -> None:
    query = statements.taken_out(month.partition, "delete", "SELECT count(*) FROM gone")
    drivers.run(connection, Statement(query, None, nothing))
