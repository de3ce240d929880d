"""``archive``, and reading with ``--archive``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.conftest import Run
from tests.support import months
from tests.support.months import first_of, id_at, insert

Connection = psycopg.Connection[Any]


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, to a database that has two months long past with three actions."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        for number in (2, 3):
            months.make(connection, "actions", first_of(2021, number))
        for days in (1, 2, 40):
            moment = first_of(2021, 2) + timedelta(days=days)
            insert(connection, "actions", moment, entity_type="e", entity_id="7", action_type=f"after_{days}")
        yield connection


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the archive is to be."""
    return tmp_path / "archive"


def test_months_leave_and_come_back(run: Run, run_json: Callable[..., Any], owner: Connection, root: Path) -> None:
    """What each command says, to a person and to a program."""
    arguments = ("archive", "run", "--to", str(root), "--keep", "12")
    listed = run(*arguments, "--dry-run").stdout.splitlines()
    assert [["TABLE", "MONTH", "ROWS", "SIZE"], ["actions", "2021-02"], ["actions", "2021-03"]] == [
        listed[0].split(),
        *(line.split()[:2] for line in listed[1:]),
    ]
    assert ["2021-02", "2021-03"] == [one["month"] for one in run_json(*arguments, "--dry-run")]
    assert not root.exists()
    assert "no month has left\n" == run("archive", "list").stdout
    result = run(*arguments)
    assert (0, "actions 2021-02 has left: 2 row(s)\nactions 2021-03 has left: 1 row(s)\n") == (
        result.exit_code,
        result.stdout,
    )
    assert "no month is due\n" == run(*arguments).stdout == run(*arguments, "--dry-run").stdout
    assert [] == run_json(*arguments)
    first, second = run_json("archive", "list")
    assert ("2021-02", 2, str(root), 1) == (first["month"], first["rows"], first["location"], first["edition"])
    lines = run("archive", "list").stdout.splitlines()
    assert ["actions", "2021-03", "1", str(root), second["action_id"]] == lines[2].split()
    assert "2 of 2 month(s) are as they were written\n" == run("archive", "verify", str(root)).stdout
    assert [(2, None), (1, None)] == [(one["rows"], one["problem"]) for one in run_json("archive", "verify", str(root))]
    restored = run("archive", "restore", "2021-02", "--from", str(root))
    assert (0, "actions 2021-02 is back: 2 row(s)\n") == (restored.exit_code, restored.stdout)
    (again,) = run_json("archive", "restore", "2021-03", "--from", str(root), "--table", "actions")
    assert ("actions", "2021-03", 1) == (again["table"], again["month"], again["rows"])
    assert [] == run_json("archive", "list")
    assert ["2021-02", "2021-03"] == [one["month"] for one in run_json(*arguments)]


def test_what_stands_in_the_way(run: Run, owner: Connection, root: Path) -> None:
    """That month stays, and others leave; it exits with 1 and says why this one has not."""
    months.make(owner, "row_changes", first_of(2021, 3))
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at)"
        " VALUES (%(id)s, %(id)s, 't', 'c', now())",
        {"id": id_at(first_of(2021, 2))},
    )
    result = run("archive", "run", "--to", str(root), "--keep", "12")
    assert (1, "row_changes 2021-03 has left: 0 row(s)\nactions 2021-03 has left: 1 row(s)\n") == (
        result.exit_code,
        result.stdout,
    )
    assert "Error: 1 action(s) that were begun in 2021-02 have no recorded outcome" in result.stderr
    result = run("archive", "run", "--to", str(root), "--keep", "12", "--json")
    assert (1, []) == (result.exit_code, json.loads(result.stdout))


def test_actions_stay_as_long_as_what_they_changed(run: Run, owner: Connection, root: Path) -> None:
    """They tell whether that is held, and whom to ask before it is erased."""
    months.make(owner, "row_changes", first_of(2021, 2))
    insert(owner, "row_changes", first_of(2021, 2), tenant_id="t")
    owner.execute(
        "INSERT INTO provenance.legal_holds (name, reason, tenant_id, action_id)"
        " VALUES ('case', 'a court', 't', provenance.uuid_v7())"
    )
    result = run("archive", "run", "--to", str(root), "--keep", "12")
    assert (1, "actions 2021-03 has left: 1 row(s)\n") == (result.exit_code, result.stdout)
    assert "Error: the legal hold case keeps some of row_changes of 2021-02" in result.stderr


def test_an_archive_that_cannot_be_written(run: Run, owner: Connection, tmp_path: Path) -> None:
    """The first month is as good as all others."""
    (tmp_path / "file").touch()
    result = run("archive", "run", "--to", str(tmp_path / "file" / "archive"), "--keep", "12")
    assert (1, "") == (result.exit_code, result.stdout)
    assert 1 == result.stderr.count("cannot be written or read")


def test_what_is_damaged(run: Run, owner: Connection, root: Path) -> None:
    """It exits with 1 and names the file."""
    run("archive", "run", "--to", str(root), "--keep", "12")
    path = root / "actions" / "tenant_hash=d" / "month=2021-03" / "part-1.parquet"
    path.write_bytes(b"")
    result = run("archive", "verify", str(root))
    assert (1, "1 of 2 month(s) are as they were written\n") == (result.exit_code, result.stdout)
    assert f"Error: {path} is not the file that was written; restore it from a backup\n" == result.stderr
    result = run("archive", "restore", "2021-03", "--from", str(root))
    assert (1, "") == (result.exit_code, result.stdout)


@pytest.mark.parametrize("given", ["2021", "2021-13", "March", "2021-03-01"])
def test_what_is_no_month(run: Run, root: Path, given: str) -> None:
    """The message says what one looks like."""
    root.mkdir()
    result = run("archive", "restore", given, "--from", str(root))
    assert 2 == result.exit_code
    assert "expected a month such as 2026-01." in result.stderr


def test_a_month_that_has_not_left(run: Run, owner: Connection, root: Path) -> None:
    """It says what lists those that have."""
    root.mkdir()
    result = run("archive", "restore", "2021-03", "--from", str(root))
    assert (1, "") == (result.exit_code, result.stdout)
    assert "Error: 2021-03 has not left this database; `provenance archive list` lists what has\n" == result.stderr


def test_reading_an_archive(run: Run, run_json: Callable[..., Any], owner: Connection, root: Path) -> None:
    """``log``, ``history`` and ``show`` say of it what they said of the database, which they do not need then."""
    (action_id,) = owner.execute("SELECT id FROM provenance.actions WHERE action_type = 'after_2'").fetchone() or ("",)
    wanted = [
        ("log", "--until", "2022-01-01"),
        ("history", "e", "7"),
        ("show", str(action_id)),
        ("log", "--type", "after_1"),
    ]
    expected = [run(*arguments).stdout for arguments in wanted]
    run("archive", "run", "--to", str(root), "--keep", "12")
    nowhere = "host=/nowhere"
    assert expected == [run(*arguments, "--archive", str(root), dsn=nowhere).stdout for arguments in wanted]
    assert run("show", str(id_at(first_of(2021, 2))), "--archive", str(root)).stderr.endswith(
        "is not recorded in this archive\n"
    )
    result = run("log", "--archive", str(root / "actions"))
    assert (1, True) == (
        result.exit_code,
        "is no archive; `provenance archive run --to DIR` makes one" in result.stderr,
    )
    page = run_json("log", "--archive", str(root), "--limit", "2")
    assert page["next"] == page["actions"][-1]["id"] == str(action_id)


def test_iceberg_tables(run: Run, run_json: Callable[..., Any], owner: Connection, root: Path) -> None:
    """What came to them, and what went; to a person and to a program."""
    assert 0 == run("archive", "run", "--to", str(root), "--keep", "12").exit_code
    assert (
        "provenance.actions: 3 row(s), 2 edition(s) added, 0 removed\n"
        "provenance.row_changes: 0 row(s), 0 edition(s) added, 0 removed\n"
    ) == run("archive", "iceberg", str(root)).stdout
    assert [3, 0] == [one["rows"] for one in run_json("archive", "iceberg", str(root))]
    owner.execute("DROP SCHEMA provenance_iceberg CASCADE")
