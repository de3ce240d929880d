"""What the doctor says of spools, and of what no test can bring about in a server."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest

from provenance.doctor import Severity
from provenance.doctor.findings import Finding, ago
from provenance.doctor.server import held_up, unfrozen
from provenance.doctor.spools import examined
from provenance.journal.spool import Kind, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return a spool with nothing in it."""
    return Spool(tmp_path / "its rows")


def follow(remedy: str) -> None:
    """Run it as a person would."""
    subprocess.run(["sh", "-c", remedy], check=True)


def only(directory: Path) -> Finding:
    """Return the only thing that is wrong with a spool."""
    (finding,) = examined(directory)
    assert "spool" == finding.check
    return finding


def test_an_empty_spool(spool: Spool) -> None:
    """Nothing is wrong with it; nor with one that has no quarantine yet."""
    assert [] == examined(spool.directory)
    (spool.directory / "quarantine").rmdir()
    assert [] == examined(spool.directory)


def test_a_spool_that_is_not_there(tmp_path: Path) -> None:
    """It is not made; the remedy does that."""
    directory = tmp_path / "it's gone"
    finding = only(directory)
    assert (Severity.ERROR, True) == (finding.severity, finding.problem.startswith("is not there"))
    assert not directory.exists()
    follow(finding.remedy)
    assert [] == examined(directory)


def test_a_spool_that_is_no_directory(tmp_path: Path) -> None:
    """A file, for instance."""
    (tmp_path / "file").touch()
    assert only(tmp_path / "file").problem.startswith("is no directory")


def test_files_that_wait(spool: Spool) -> None:
    """How many and for how long; also one whose writer gave it up. They are left as they are."""
    spool.put(Kind.OUTCOME, ['{"id": 1}'])
    (spool.directory / "x.rows.begun").write_text("", encoding="utf-8")
    (waiting,) = spool.directory.glob("*.rows")
    os.utime(waiting, (0, time.time() - 7_300))
    finding = only(spool.directory)
    assert (Severity.WARNING, str(spool.directory)) == (finding.severity, finding.subject)
    assert finding.problem.startswith("2 files wait for the database, the oldest for 2 hours")
    assert waiting.exists()
    assert (spool.directory / "x.rows.begun").exists()


def test_files_that_are_damaged(spool: Spool) -> None:
    """Named; what the remedy sets aside, and a process would have, is told of as such."""
    (spool.directory / "x.rows").write_text("provenance spool 1 ", encoding="utf-8")
    damaged, waiting = examined(spool.directory)
    assert (Severity.ERROR, Severity.WARNING) == (damaged.severity, waiting.severity)
    assert "1 files are not as they were written (x.rows)" in damaged.problem
    follow(damaged.remedy.partition("then: ")[2])
    aside = only(spool.directory)
    assert (Severity.ERROR, str(spool.directory / "quarantine")) == (aside.severity, aside.subject)
    assert aside.problem.startswith("1 files were set aside")
    follow(aside.remedy.partition("then: ")[2])
    assert ["1 files are", "1 files wait"] == [" ".join(one.problem.split()[:3]) for one in examined(spool.directory)]


@pytest.mark.parametrize("part", [".", "quarantine"])
def test_a_spool_that_others_may_enter(spool: Spool, part: str) -> None:
    """Its rows are nobody else's; the remedy shuts it."""
    directory = (spool.directory / part).resolve()
    directory.chmod(0o755)
    finding = only(spool.directory)
    assert (Severity.ERROR, str(directory)) == (finding.severity, finding.subject)
    assert finding.problem.startswith("has mode 755")
    follow(finding.remedy)
    assert [] == examined(spool.directory)


def test_a_spool_of_another_user(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be looked at, which says nothing against it."""

    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    finding = only(spool.directory)
    assert (Severity.UNCHECKED, "run this as the user whose spool it is") == (finding.severity, finding.remedy)


def test_a_prepared_transaction() -> None:
    """Worse than one of a session, which ends one day."""
    forgotten = held_up("prepared transaction 'x'", timedelta(days=3), "ROLLBACK PREPARED 'x';", True)
    assert (Severity.ERROR, True) == (forgotten.severity, "has been open for 3 days" in forgotten.problem)
    assert "COMMIT PREPARED" in forgotten.remedy


def test_a_database_that_vacuum_does_not_keep_up_with() -> None:
    """From half again of where it should have come by."""
    assert [] == unfrozen(300_000_000, 300_000_000)
    (finding,) = unfrozen(300_000_001, 300_000_000)
    assert (Severity.ERROR, "VACUUM (FREEZE);") == (finding.severity, finding.remedy)
    assert "at 200000000" in finding.problem


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7_200, "2 hours"), (86_400 * 3, "3 days")],
)
def test_spans_of_time(seconds: float, text: str) -> None:
    """In the largest unit that there are two of; never negative, because clocks differ."""
    assert text == ago(timedelta(seconds=seconds))
