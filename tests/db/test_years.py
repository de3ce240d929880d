"""Months leave one by one while everybody works and the archiver is killed now and then: nothing is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import databases, years

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

# Python, its libraries and what is held of rows.
_ENOUGH = 300 * 1024**2


@pytest.mark.direct("the archiver needs a connection of its own for a long time")
def test_years_leave(provenance_dsn: str, tmp_path: Path) -> None:
    """Counts and digests are the same in the table, in the files, and in the table again; nobody's work fails."""
    report = years.run(
        provenance_dsn, tmp_path / "archive", actions=6_000, past=years.past_months(6), kills=4, longest=1.0, calm=0.2
    )
    assert report.rows == 7_200
    assert report.killed > 0
    assert report.written > 0
    assert report.memory_bytes < _ENOUGH
