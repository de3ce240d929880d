"""What is told of how the trail grows."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.models import Growth, IndexUse, Partition
from provenance.statements.partitions import month_after
from provenance.upkeep.report import growth, report, table_upkeep

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)


def partition(month: date | None, rows: int | None = 10, size: int = 1000, table: str = "actions") -> Partition:
    """Return a partition of a month."""
    name = f"{table}_default" if month is None else f"{table}_{month:%Y_%m}"
    return Partition(table=table, name=name, month=month, rows=rows, bytes=size, index_bytes=size // 2)


def test_a_table_grows_as_its_last_three_months_have() -> None:
    """Whatever was before, is now, or is in the default partition; what is not known of rows is left out."""
    past = [
        partition(date(2025, 11, 1), 7000, 10**9),
        partition(date(2025, 12, 1), 10, 100),
        partition(date(2026, 1, 1), None, 200),
        partition(date(2026, 2, 1), 30, 600),
    ]
    now = [partition(date(2026, 3, 1), 5000, 10**9), partition(date(2026, 4, 1), 0, 80), partition(None, 9, 90)]
    assert Growth(months=3, rows=20, bytes=300) == growth(past + now, NOW)
    assert Growth(months=2, rows=30, bytes=400) == growth(past[1:], NOW)
    assert Growth(months=1, rows=None, bytes=200) == growth(past[1:3], NOW)


def test_the_month_in_which_it_began_tells_nothing() -> None:
    """It may have begun on its last day."""
    began, now = partition(date(2026, 2, 1), 2, 20), partition(date(2026, 3, 1), 105, 1050)
    assert Growth(months=0, rows=310, bytes=3100) == growth([began, now], NOW)
    assert growth([began], NOW) is None


def test_a_new_table_grows_as_this_month_does() -> None:
    """Once a day of it is over."""
    (size,) = [partition(date(2026, 3, 1), 105, 1050)]
    # A third of a month with 31 days.
    assert Growth(months=0, rows=310, bytes=3100) == growth([size], NOW)
    assert Growth(months=0, rows=None, bytes=3100) == growth([partition(date(2026, 3, 1), None, 1050)], NOW)
    assert growth([size], NOW.replace(day=1)) is None
    assert growth([partition(None)], NOW) is None


@pytest.mark.parametrize(
    ("later", "ahead"), [([], -1), ([0], 0), ([1], -1), ([0, 1, 2], 2), ([0, 1, 3], 1), ([-1, 0], 0)]
)
def test_how_far_ahead_there_are_months(later: list[int], ahead: int) -> None:
    """Without a gap."""
    partitions = [partition(month_after(date(2026, 3, 1), number)) for number in later]
    assert ahead == table_upkeep("actions", [*partitions, partition(None)], NOW).ahead


@given(st.lists(st.tuples(st.integers(-40, 8), st.none() | st.integers(0, 10**6), st.integers(0, 10**12)), max_size=9))
def test_sums(given_months: list[tuple[int, int | None, int]]) -> None:
    """They are those of the partitions, and the forecast goes on from there."""
    months = {number: (rows, size) for number, rows, size in given_months}
    partitions = [partition(month_after(date(2026, 3, 1), number), *said) for number, said in months.items()]
    found = table_upkeep("actions", partitions, NOW)
    assert sum(one.bytes for one in partitions) == found.bytes
    assert (len(months), min(months, default=None)) == (
        found.months,
        None if found.oldest is None else (found.oldest.year - 2026) * 12 + found.oldest.month - 3,
    )
    if found.growth is None:
        assert found.bytes_in_a_year is None
    else:
        assert found.bytes + 12 * found.growth.bytes == found.bytes_in_a_year
    known = [one.rows for one in partitions if one.rows is not None]
    assert (sum(known) if known else None) == found.rows


def test_each_table_by_itself() -> None:
    """In the order of their names."""
    both = [partition(date(2026, 2, 1), table=table) for table in ("row_changes", "actions", "actions")]
    found = report(both, [], [], None, NOW)
    assert [("actions", 2000), ("row_changes", 1000)] == [(table.table, table.bytes) for table in found.tables]
    assert (NOW, None, (), ()) == (found.measured_at, found.counted_since, found.indexes, found.views)


@pytest.mark.parametrize(("about", "unused"), [({}, True), ({"scans": 1}, False), ({"unique": True}, False)])
def test_what_is_not_used(about: dict[str, Any], unused: bool) -> None:
    """What keeps something unique is of use though nobody asks it."""
    index = IndexUse(**({"table": "t", "name": "i", "unique": False, "bytes": 1, "scans": 0, "used_at": None} | about))
    assert unused == index.unused
