"""Which months may leave, and which have left."""

from __future__ import annotations

from datetime import date
from uuid import UUID

import attrs

from provenance import drivers
from provenance.statements import Rows, Statement
from provenance.statements.partitions import PARTITIONS
from provenance.translation import translated


@attrs.frozen(kw_only=True)
class Due:
    """A month that may leave."""

    table: str
    month: date
    rows: int | None
    """About how many rows it has; ``None``: not known."""
    bytes: int


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


def due_months(connection: drivers.SyncConnection, keep: int, today: date) -> list[Due]:
    """Return the months that may leave, the oldest first.

    Args:
        connection: of a reader.
        keep: how many whole months before the current one are to stay.
        today: in UTC.
    """
    number = today.year * 12 + today.month - 1 - keep
    with translated("reading which partitions there are", rights="reader"):
        there = drivers.run(connection, PARTITIONS)
    return sorted(
        (
            Due(table=one.table, month=one.month, rows=one.rows, bytes=one.bytes)
            for one in there
            if one.month is not None and one.month.year * 12 + one.month.month - 1 < number
        ),
        key=lambda due: (due.month, due.table),
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
        )
        for table, month, edition, count, digest, location, action_id in rows
    ]


LEDGER = Statement(
    """SELECT m.table_name::text, m.month, m.edition, m.rows, m.digest, m.location, m.action_id
         FROM provenance.archived_months m ORDER BY m.month, m.table_name, m.edition""",
    None,
    _archived,
)


def ledger(connection: drivers.SyncConnection) -> list[Archived]:
    """Return what has left, the oldest month first."""
    with translated("reading what is archived", rights="owner"):
        return drivers.run(connection, LEDGER)


def editions(table: str, month: date) -> Statement[list[Archived]]:
    return Statement(
        """SELECT m.table_name::text, m.month, m.edition, m.rows, m.digest, m.location, m.action_id
             FROM provenance.archived_months m WHERE m.table_name = %(table)s AND m.month = %(month)s
            ORDER BY m.edition FOR UPDATE""",
        {"table": table, "month": month},
        _archived,
    )
