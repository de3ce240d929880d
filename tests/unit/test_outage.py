"""What the thread that mends an outage does when things change under its hands."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance.errors import TrailUnavailable
from provenance.journal import outage
from provenance.journal.outage import Outage
from provenance.journal.spool import Kind, Spool
from provenance.statements import Statement
from tests.support.rows import action_row

Attempt = Callable[[Statement[Any]], object]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries again soon."""
    monkeypatch.setattr(outage, "_FIRST_PAUSE", 0.002)
    monkeypatch.setattr(outage, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
def kept(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def during(kept: Spool) -> Iterator[Callable[[Attempt], Outage]]:
    """Makes outages over the spool."""
    made: list[Outage] = []

    def make(attempt: Attempt) -> Outage:
        made.append(Outage(kept, attempt))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def until_mended(found: Outage) -> None:
    """Wait for the thread to end."""
    thread = found._thread
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()


def test_it_goes_on_while_files_come(kept: Spool, during: Callable[[Attempt], Outage]) -> None:
    """What another process puts while the last file is replayed is replayed too."""
    written: list[str] = []

    def attempt(statement: Statement[Any]) -> None:
        assert statement.params is not None
        written.append(str(statement.params["rows"]))
        if len(written) < 3:
            kept.put(Kind.OUTCOME, [str(len(written))])

    kept.put(Kind.OUTCOME, ["0"])
    found = during(attempt)
    found.wake()
    until_mended(found)
    assert written == ["[0]", "[1]", "[2]"]
    assert kept.waiting() == []


def test_an_outage_that_begins_while_the_last_one_ends_is_mended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would last for ever: whoever refuses work meanwhile never asks for anything that would end it."""
    found = Outage(None, lambda statement: None)
    reached, again = found._reached, [TrailUnavailable()]

    def reached_and_lost() -> None:
        reached()
        if again:
            found.begin(again.pop())

    monkeypatch.setattr(found, "_reached", reached_and_lost)
    found.begin(TrailUnavailable())
    until_mended(found)
    found.stop()
    assert (again, found.down) == ([], False)


def test_a_file_that_another_process_has_done_is_passed_over(
    kept: Spool, during: Callable[[Attempt], Outage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the reading of it."""
    kept.put(Kind.OUTCOME, ["0"])
    (gone,) = kept.waiting()
    monkeypatch.setattr(kept, "waiting", lambda: [gone] if gone.exists() else [])
    monkeypatch.setattr(kept, "read", kept.done)
    found = during(lambda statement: pytest.fail("there is nothing to write"))
    found.wake()
    until_mended(found)
    assert found.health().replayed == 0


def test_a_refusal_for_now_is_no_reason_to_set_rows_aside(kept: Spool, during: Callable[[Attempt], Outage]) -> None:
    """A lock, a full disk, a lacking right: the rows wait, and are tried again."""
    refusals: list[Exception] = [
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.DiskFull(),
        psycopg.errors.InsufficientPrivilege(),
        TrailUnavailable(),
    ]

    def attempt(statement: Statement[Any]) -> None:
        if refusals:
            raise refusals.pop()

    kept.put(Kind.OUTCOME, ["0"])
    found = during(attempt)
    found.wake()
    until_mended(found)
    assert (found.health().replayed, found.health().refused) == (1, 0)


@pytest.mark.parametrize(
    "error", [psycopg.errors.CheckViolation(), psycopg.errors.ProgramLimitExceeded(), psycopg.DataError("NUL")]
)
def test_rows_that_are_at_fault_are_no_outage(
    kept: Spool, during: Callable[[Attempt], Outage], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused when they are written, they go to quarantine at once."""
    found = during(lambda statement: pytest.fail("nothing is to be tried"))
    found.keep(Kind.OUTCOME, [action_row()], error)
    assert (found.down, found.health().refused, kept.usage().quarantined) == (False, 1, 1)
    assert "set aside" in caplog.text


def test_a_quarantine_that_cannot_be_written(
    kept: Spool, during: Callable[[Attempt], Outage], caplog: pytest.LogCaptureFixture
) -> None:
    """The row is logged in full."""
    (kept.directory / "quarantine").rmdir()
    found = during(lambda statement: None)
    found.keep(Kind.OUTCOME, [action_row()], psycopg.errors.CheckViolation())
    assert found._lost == 1
    assert "quarantine cannot be written: No such file or directory); rows: [{" in caplog.text
    (kept.directory / "quarantine").mkdir()


def test_rows_at_fault_without_a_spool(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged in full, and are no outage either."""
    found = Outage(None, lambda statement: pytest.fail("nothing is to be tried"))
    found.keep(Kind.OUTCOME, [action_row()], psycopg.errors.CheckViolation())
    assert (found.down, found.health().refused, found.health().lost) == (False, 1, 1)
    assert "(the database refuses them: 23514); rows: [{" in caplog.text


def test_what_is_kept_for_an_outage_that_has_just_ended_is_replayed(
    kept: Spool, during: Callable[[Attempt], Outage], caplog: pytest.LogCaptureFixture
) -> None:
    """No error was met, so there is no incident; but the file is not left lying."""
    written = threading.Event()
    found = during(lambda statement: written.set())
    found.keep(Kind.OUTCOME, [action_row()], None)
    assert written.wait(10)
    until_mended(found)
    assert kept.waiting() == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_doubt_that_cannot_be_kept_is_not_logged_as_a_row(
    kept: Spool, during: Callable[[Attempt], Outage], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be untrue; only the count tells, and whoever asked says that the outcome is not known."""
    kept.max_bytes = 1
    found = during(lambda statement: None)
    found.keep_doubtful([action_row()], TrailUnavailable())
    assert found.health().lost == 1
    assert "rows: [" not in caplog.text


def test_it_is_stopped_for_good(kept: Spool, during: Callable[[Attempt], Outage]) -> None:
    """What comes after that stays in the spool for the next process."""
    found = during(lambda statement: pytest.fail("it is stopped"))
    found.stop()
    found.keep(Kind.OUTCOME, [action_row()], TrailUnavailable())
    assert (found.down, len(kept.waiting()), found._thread) == (True, 1, None)
