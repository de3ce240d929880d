"""``doctor``: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance.cli import doctor as command
from provenance.doctor import CHECKS, Finding, Severity
from provenance.journal import Spool
from provenance.journal.spool import Kind
from provenance.statements.recording import row_json
from tests.cli.conftest import Run
from tests.support.rows import action_row

# The server that the tests run on loses everything in a crash, for the sake of speed.
SERVER = ("--skip", "durability")


@pytest.fixture
def eye(provenance_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the owner's."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


def test_a_fresh_installation(run: Run) -> None:
    """Nothing is wrong, and that is all; with 0."""
    result = run("doctor", *SERVER)
    assert (0, "Nothing is wrong.\n", "") == (result.exit_code, result.stdout, result.stderr)
    result = run("doctor", *SERVER, "--json")
    assert (0, {"healthy": True, "findings": []}) == (result.exit_code, json.loads(result.stdout))


def test_findings_are_printed_with_their_remedies(run: Run, eye: psycopg.Connection[Any], tmp_path: Path) -> None:
    """The worst first, each with what to run; with 1, until that was run."""
    eye.execute("ALTER TABLE provenance.action_intents SET (fillfactor = 50)")
    eye.execute("ALTER TABLE provenance.action_intents ALTER COLUMN worker SET DEFAULT E'a\\nb'")
    (tmp_path / "file").touch()
    result = run("doctor", *SERVER, "--spool", str(tmp_path / "file"))
    assert (1, "") == (result.exit_code, result.stderr)
    lines = result.stdout.splitlines()
    assert [
        "error schema: action_intents.worker: column was changed: what is recorded is not what the library means",
        f"error spool: {tmp_path}/file: is no directory: a process that is to use it does not start",
        "warning schema: action_intents: relation has storage settings: the trail cannot be written or read as it should be",
        "    ALTER TABLE provenance.action_intents RESET (fillfactor);",
    ] == [lines[0], lines[2], *lines[4:]]
    assert all(line.startswith("    ") for line in (lines[1], lines[3]))
    eye.execute(lines[-1].encode())
    eye.execute("ALTER TABLE provenance.action_intents ALTER COLUMN worker DROP DEFAULT")
    assert 0 == run("doctor", *SERVER).exit_code


def test_findings_as_json(run: Run, eye: psycopg.Connection[Any]) -> None:
    """One document, also when something is wrong."""
    eye.execute("ALTER TABLE provenance.actions_default DISABLE TRIGGER refuse_truncate")
    result = run("doctor", *SERVER, "--json")
    assert (1, "") == (result.exit_code, result.stderr)
    assert {
        "healthy": False,
        "findings": [
            {
                "check": "schema",
                "severity": "error",
                "subject": "actions_default.refuse_truncate",
                "problem": "trigger is disabled: recorded rows can be changed, or none be written",
                "remedy": "ALTER TABLE provenance.actions_default ENABLE ALWAYS TRIGGER refuse_truncate;",
            }
        ],
    } == json.loads(result.stdout)


def test_what_could_not_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, with what it needs."""
    command.emit_those(
        [Finding(check="keys", severity=Severity.UNCHECKED, subject="it", problem="not checked: x", remedy="be y")]
    )
    assert "unchecked keys: it: not checked: x\n    be y\n" == capsys.readouterr().out


def test_a_long_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """Its beginning is shown; a terminal is not made to obey what is in it."""
    remedy = "\n".join(["\x1b[2J", *["line"] * 30])
    command.emit_those([Finding(check="x", severity=Severity.ERROR, subject="s", problem="p", remedy=remedy)])
    lines = capsys.readouterr().out.splitlines()
    assert (22, "    \\x1b[2J", "    … 11 more lines; --json prints them all") == (len(lines), lines[1], lines[-1])


def test_a_reader(run: Run, eye: psycopg.Connection[Any], provenance_dsn: str) -> None:
    """What it may not look at is no reason to fail."""
    eye.execute("CREATE ROLE provenance_doctor LOGIN")
    try:
        eye.execute("SELECT provenance.grant_reader('provenance_doctor')")
        address = psycopg.conninfo.make_conninfo(provenance_dsn, user="provenance_doctor")
        result, strict = run("doctor", *SERVER, dsn=address), run("doctor", "--strict", *SERVER, dsn=address)
    finally:
        eye.execute("DROP OWNED BY provenance_doctor; DROP ROLE provenance_doctor")
    left = result.stdout.count("unchecked ")
    last = f"Nothing is known to be wrong; {left} things could not be looked at."
    assert (0, last) == (result.exit_code, result.stdout.splitlines()[-1])
    assert (1, result.stdout) == (strict.exit_code, strict.stdout)
    assert "unchecked keys: this database: not checked: whether idempotency keys are held by nothing" in result.stdout


def test_no_schema(run: Run, empty_dsn: str) -> None:
    """That is what is wrong."""
    result = run("doctor", *SERVER, dsn=empty_dsn)
    assert 1 == result.exit_code
    assert "error schema: schema provenance: is missing" in result.stdout
    assert "    provenance migrate up" in result.stdout.splitlines()


def test_how_far_it_looks(run: Run, eye: psycopg.Connection[Any]) -> None:
    """Days of rows, and minutes of transactions."""
    eye.execute(
        """INSERT INTO provenance.idempotency_keys
           VALUES ('', 't', 'k', '', gen_random_uuid(), now() - interval '10 days 5 minutes')"""
    )
    assert [0, 1] == [run("doctor", *SERVER, "--days", days).exit_code for days in ("10", "11")]
    assert [0, 1] == [
        run("doctor", *SERVER, "--days", "11", "--minutes", minutes).exit_code for minutes in ("14406", "14404")
    ]


def test_a_check_that_there_is_not(run: Run) -> None:
    """Wrong usage; those that there are, are named."""
    result = run("doctor", "--skip", "rolls")
    assert 2 == result.exit_code
    assert all(f"'{check}'" in result.stderr for check in CHECKS)


def test_a_spool_is_looked_at_though_the_database_is_down(run: Run, tmp_path: Path) -> None:
    """That is when it matters."""
    spool = Spool(tmp_path / "spool")
    spool.put(Kind.OUTCOME, [row_json(action_row(status="failed"))])
    result = run("doctor", "--spool", str(spool.directory), dsn="host=127.0.0.1 port=1 connect_timeout=1")
    assert 3 == result.exit_code
    assert f"warning spool: {spool.directory}: " in result.stdout
    assert "the database cannot be reached" in result.stderr
    as_json = run("doctor", "--json", "--spool", str(spool.directory), dsn="host=127.0.0.1 port=1 connect_timeout=1")
    assert (3, "") == (as_json.exit_code, as_json.stdout)
