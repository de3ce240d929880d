"""The benchmarks run: nothing else would notice that they have fallen behind what they measure."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from benchmarks.__main__ import WORKLOADS, main


def test_every_workload_ends_in_a_report(tmp_path: Path) -> None:
    """Each workload, as small as it gets, checks what it measured and says what came of it."""
    small = ["--rounds", "2", "--cities", "300", "--place", "local", "--place", "distant", "--actions", "2000"]
    small += ["--soak-seconds", "1"]
    written = tmp_path / "new" / "report.md"
    small += ["--output", str(written)]
    done = CliRunner().invoke(main, small, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for name in WORKLOADS:
        assert f"\n## {name}\n" in done.stdout
        assert f"](report-{name}.svg)" in written.read_text()
        assert written.with_name(f"report-{name}.svg").read_text().count("<!-- ") > 3
    assert "| backfill | 2 |" in done.stdout
    # What it costs to be read grows with the trail.
    assert "| Variant | 2,000 actions: p50 / p99, ms |" in done.stdout
    # A row that is written once and never changed leaves nothing behind.
    assert "| Dead rows per action | tracked: at most 0 rows | 0 | met |" in done.stdout
