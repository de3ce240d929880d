"""What years of rows take: sizes, which indexes are used, and how it grows. Decisions only; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from provenance.models import Growth, IndexUse, Partition, TableUpkeep, Upkeep, ViewState
from provenance.statements.partitions import month_after

# Months that are over, of which growth is told: enough to even out, and not so many that it tells of long ago.
_MONTHS = 3


def growth(partitions: Iterable[Partition], now: datetime) -> Growth | None:
    """Say by how much a table grows in a month: as its last months have, or, of a new one, as this month has so far.

    Args:
        partitions: of the table.
        now: an aware time in UTC.

    Returns:
        ``None`` where there is nothing to tell it by: no month is over, and this one has hardly begun.
    """
    this_month = now.date().replace(day=1)
    of_month = {one.month: one for one in partitions if one.month is not None}
    last = [month for back in range(1, _MONTHS + 1) if (month := month_after(this_month, -back)) in of_month]
    # The oldest of all may be the one in which the trail began, on whichever day.
    over = [of_month[month] for month in last if month != min(of_month)]
    if over:
        rows = [one.rows for one in over if one.rows is not None]
        return Growth(
            months=len(over),
            rows=sum(rows) // len(rows) if rows else None,
            bytes=sum(one.bytes for one in over) // len(over),
        )
    begun = datetime(this_month.year, this_month.month, 1, tzinfo=UTC)
    following = month_after(this_month, 1)
    share = (now - begun) / (datetime(following.year, following.month, 1, tzinfo=UTC) - begun)
    current = of_month.get(this_month)
    if current is None or now.day == 1:
        return None
    return Growth(
        months=0, rows=None if current.rows is None else int(current.rows / share), bytes=int(current.bytes / share)
    )


def _ahead(partitions: Iterable[Partition], now: datetime) -> int:
    months = {one.month for one in partitions}
    this_month = now.date().replace(day=1)
    return next(number for number in range(-1, len(months) + 1) if month_after(this_month, number + 1) not in months)


def table_upkeep(table: str, partitions: Sequence[Partition], now: datetime) -> TableUpkeep:
    """Sum up a table."""
    known = [one.rows for one in partitions if one.rows is not None]
    grows = growth(partitions, now)
    size = sum(one.bytes for one in partitions)
    return TableUpkeep(
        table=table,
        months=sum(one.month is not None for one in partitions),
        oldest=min((one.month for one in partitions if one.month is not None), default=None),
        ahead=_ahead(partitions, now),
        rows=sum(known) if known else None,
        bytes=size,
        index_bytes=sum(one.index_bytes for one in partitions),
        growth=grows,
        bytes_in_a_year=None if grows is None else size + 12 * grows.bytes,
    )


def report(
    partitions: Sequence[Partition],
    indexes: Sequence[IndexUse],
    views: Sequence[ViewState],
    counted_since: datetime | None,
    now: datetime,
) -> Upkeep:
    """Put everything together."""
    tables = sorted({one.table for one in partitions})
    return Upkeep(
        measured_at=now,
        counted_since=counted_since,
        tables=tuple(table_upkeep(table, [one for one in partitions if one.table == table], now) for table in tables),
        indexes=tuple(indexes),
        views=tuple(views),
    )
