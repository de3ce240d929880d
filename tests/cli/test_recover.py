"""The command that finds out what became of actions without an outcome."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance import ids
from provenance.journal import Spool
from provenance.journal.spool import Kind
from provenance.statements.recording import row_json
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run
from tests.support import outages
from tests.support.proxy import Proxy
from tests.support.rows import action_row

line = outages.line
hurried = outages.hurried

_BEGUN = """
INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at, work_xid, system_identifier)
VALUES (%(id)s, %(id)s, 'a', 'c', clock_timestamp(), %(xid)s, provenance.system_identifier())"""


def begun(dsn: str, *, rolls_back: bool) -> None:
    """Leave evidence of an action whose transaction was rolled back, or was ended otherwise."""
    with psycopg.connect(dsn) as connection:
        (xid,) = connection.execute("SELECT pg_current_xact_id()::text").fetchone() or ()
        if rolls_back:
            connection.rollback()
        connection.execute(_BEGUN, {"id": ids.new_id(), "xid": xid})


def test_nothing_to_find_out(run: Run, run_json: Callable[..., Any]) -> None:
    """It says so."""
    result = run("recover")
    assert (0, "Every action that was begun has an outcome.\n", "") == (result.exit_code, result.stdout, result.stderr)
    assert run_json("recover") == {"completed": 0, "failed": 0, "rolled_back": 0, "pending": 0, "unknown": 0}


def test_what_became_of_them(run: Run, run_json: Callable[..., Any], provenance_dsn: str, trail: Trail) -> None:
    """A line for everything there is; what was found out is no news the next time."""
    for _ in range(2):
        begun(provenance_dsn, rolls_back=True)
    begun(provenance_dsn, rolls_back=False)
    trail.begin("a", concept="c")
    result = run("recover")
    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout == (
        "2 rolled back\n1 still pending\n"
        "1 unknown: nobody can say what became of them; provenance log --status unknown lists them\n"
    )
    assert run_json("recover") == {"completed": 0, "failed": 0, "rolled_back": 0, "pending": 1, "unknown": 1}


def row(status: str) -> str:
    return row_json(action_row(action_type="kept", status=status))


def test_what_waits_in_a_spool_is_written(
    run: Run, run_json: Callable[..., Any], tmp_path: Path, recorded_actions: RecordedActions
) -> None:
    """Of a machine whose application will not be started again."""
    spool = Spool(tmp_path / "spool")
    spool.put(Kind.OUTCOME, [row("failed"), row("completed")])
    result = run("recover", "--spool", str(spool.directory))
    assert (0, "") == (result.exit_code, result.stderr)
    assert "2 row(s) written that had been kept\nEvery action that was begun has an outcome.\n" == result.stdout
    assert ["kept failed", "kept completed"] == recorded_actions.outline().splitlines()
    assert spool.waiting() == []
    assert run_json("recover", "--spool", str(spool.directory))["written"] == 0


@pytest.mark.usefixtures("hurried")
def test_rows_that_could_only_be_logged_are_written(
    run: Run, tmp_path: Path, line: Proxy, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """As they stand in the log, among other lines; those that are recorded already stay as they are."""
    with Trail(line.address) as trail:
        for number in range(3):
            lost = trail.track_action("lost", concept="work", payload={"n": number}, transaction=False)
            with suppress(ZeroDivisionError), lost:
                raise ZeroDivisionError
            line.go_down()
    lines = [f"2026-11-27 12:00:00,123 {record.levelname} {record.getMessage()} [pid 7]\n" for record in caplog.records]
    assert any("rows: [" in line for line in lines)
    log = tmp_path / "app.log"
    log.write_text("an ordinary line\n" + "".join(lines) + row("pending") + "\n", encoding="utf-8")
    for _ in range(2):
        result = run("recover", "--logged", str(log))
        assert (0, "") == (result.exit_code, result.stderr)
        assert result.stdout.startswith("3 row(s) written that had been kept\n1 still pending\n")
    assert ["lost failed"] * 3 + ["kept pending"] == recorded_actions.outline().splitlines()
    assert [{"n": 0}, {"n": 1}, {"n": 2}] == [
        action.payload for action in recorded_actions.all() if action.action_type == "lost"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('rows: [{"id": "1', "line 1 holds no whole row"),
        ('{"id": ', "line 1 holds no whole row"),
        ("rows: [1]", "line 1 holds something that is no row"),
        ("{}", "line 1 holds something that is no row"),
    ],
)
def test_a_log_that_was_cut(run: Run, tmp_path: Path, line: str, said: str) -> None:
    """Nothing is written then."""
    log = tmp_path / "app.log"
    log.write_text(line, encoding="utf-8")
    result = run("recover", "--logged", str(log))
    assert (2, "") == (result.exit_code, result.stdout)
    assert said in result.stderr


@pytest.mark.parametrize("version", ["none", "old"])
def test_a_schema_that_knows_nothing_of_it(run: Run, provenance_dsn: str, version: str) -> None:
    """It says what to do."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DROP FUNCTION provenance.recover" if version == "old" else "DROP SCHEMA provenance CASCADE")
    result = run("recover")
    assert (4, "") == (result.exit_code, result.stdout)
    assert result.stderr == (
        "Error: the provenance schema is missing in this database, or too old; run `provenance migrate up`\n"
    )
