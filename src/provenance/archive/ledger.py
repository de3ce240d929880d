"""Which months may leave, and which have left."""

from __future__ import annotations

from datetime import date
from typing import LiteralString
from uuid import UUID

import attrs

from provenance import drivers
from provenance.archive.files import Manifest, Month
from provenance.statements import Rows, Statement
from provenance.statements.partitions import PARTITIONS, month_after
from provenance.translation import translated


@attrs.frozen(kw_only=True)
class Due:
    """A month that may leave."""

    table: str
    month: date
    rows: int | None
    """About how many rows it has; ``None``: not known."""
    bytes: int


Told = tuple[str, date, int, int, int]
"""Table, month, edition, number of rows and digest."""


@attrs.frozen(kw_only=True)
class Archived:
    """A month that has left, or has come back."""

    table: str
    month: date
    """Its first day."""
    edition: int
    """1 the first time, more for rows that came after it had left."""
    rows: int
    digest: int
    location: str
    """The directory of the archive."""
    action_id: UUID | None
    """The action by which it left."""
    away: bool = True
    """It has not come back since."""
    whole: bool = True
    """False: only rows that nobody had to keep here; the others stay."""

    @property
    def told(self) -> Told:
        """What tells it from all others."""
        return self.table, self.month, self.edition, self.rows, self.digest


def told_of(month: Month, manifest: Manifest) -> Told:
    """Return the same of what a directory holds."""
    return month.table.name, month.first, month.edition, manifest.rows, manifest.digest


def due_months(connection: drivers.SyncConnection, keep: int, today: date) -> list[Due]:
    """Return the months that may leave, the oldest first, and row changes before the actions that made them.

    Args:
        connection: of a reader.
        keep: how many whole months before the current one are to stay.
        today: in UTC.
    """
    kept = month_after(today, -keep)
    with translated("reading which partitions there are", rights="reader"):
        there = drivers.run(connection, PARTITIONS)
    return sorted(
        (
            Due(table=one.table, month=one.month, rows=one.rows, bytes=one.bytes)
            for one in there
            if one.month is not None and one.month < kept
        ),
        # Row changes first: by the action that made it is known who may want it erased or held.
        key=lambda due: (due.month, due.table == "actions"),
    )


def _archived(rows: Rows) -> list[Archived]:
    return [
        Archived(
            table=table,
            month=month,
            edition=edition,
            rows=count,
            digest=int(digest),
            location=location,
            action_id=action_id,
            away=away,
            whole=whole,
        )
        for table, month, edition, count, digest, location, action_id, away, whole in rows
    ]


_COLUMNS: LiteralString = (
    "m.table_name::text, m.month, m.edition, m.rows, m.digest, m.location, m.action_id, m.restored_at IS NULL, m.whole"
)

NOTES = Statement(
    f"SELECT {_COLUMNS} FROM provenance.archived_months m ORDER BY m.month, m.table_name, m.edition",  # noqa: S608 - names
    None,
    _archived,
)
"""What has ever left, and whether it is away still."""


def ledger(connection: drivers.SyncConnection) -> list[Archived]:
    """Return what has left, the oldest month first."""
    with translated("reading what is archived", rights="owner"):
        return [one for one in drivers.run(connection, NOTES) if one.away]


def editions(table: str, month: date) -> Statement[list[Archived]]:
    """Return the editions of a month that are away, and have nobody else change that."""
    return Statement(
        f"""SELECT {_COLUMNS} FROM provenance.archived_months m
             WHERE m.table_name = %(table)s AND m.month = %(month)s AND m.restored_at IS NULL
             ORDER BY m.edition FOR UPDATE""",  # noqa: S608 - names of columns
        {"table": table, "month": month},
        _archived,
    )
