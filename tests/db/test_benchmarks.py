"""The benchmarks run: nothing else would notice that they have fallen behind what they measure."""

from __future__ import annotations

from click.testing import CliRunner

from benchmarks.__main__ import WORKLOADS, main


def test_every_workload_ends_in_a_report() -> None:
    """Each workload, as small as it gets, checks what it measured and says what came of it."""
    small = ["--rounds", "2", "--cities", "300", "--place", "local", "--place", "distant", "--soak-seconds", "1"]
    done = CliRunner().invoke(main, small, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for name in WORKLOADS:
        assert f"\n## {name}\n" in done.stdout
    assert "| backfill | 2 |" in done.stdout
