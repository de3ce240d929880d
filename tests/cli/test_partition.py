"""``partition``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from provenance import ids
from provenance.cli.partition import size
from provenance.statements import Statement, nothing
from provenance.statements import partitions as statements
from tests.cli.conftest import Run

Connection = psycopg.Connection[Any]


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, to a database of which actions of this month and of one long ago are in the default."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(f"DROP TABLE provenance.actions_{datetime.now(UTC):%Y_%m}".encode())
        for moment in (datetime.now(UTC), datetime(2020, 2, 29, tzinfo=UTC)):
            connection.execute(
                "INSERT INTO provenance.actions (id, root_id, action_type, concept, status, started_at, completed_at,"
                " duration_ms) VALUES (%(id)s, %(id)s, 't', 'c', 'completed', now(), now(), 1)",
                {"id": UUID(int=ids.floor_id(moment).int | 7 << 76)},
            )
        yield connection


THIS_MONTH = f"{datetime.now(UTC):%Y_%m}"


def test_what_is_missing_is_made(run: Run, owner: Connection) -> None:
    """Rows are moved first, or their month would get no partition; and then there is nothing to be done."""
    result = run("partition", "--ahead", "7")
    lines = result.stdout.splitlines()
    assert (0, "") == (result.exit_code, result.stderr)
    assert [
        "1 row(s) moved into provenance.actions_2020_02",
        f"1 row(s) moved into provenance.actions_{THIS_MONTH}",
    ] == lines[:2]
    assert [True, True, False] == [line.endswith(" made") for line in lines[2:5]]
    assert ["TABLE", "MONTH", "ROWS", "SIZE"] == lines[4].split()
    assert ["actions", "2020-02"] == lines[5].split()[:2]
    assert ["row_changes", "default", "not", "counted"] == lines[-1].split()[:4]
    assert run("partition", "--ahead", "7").stdout.startswith("TABLE")


def test_what_would_be_done(run: Run, run_json: Callable[..., Any], owner: Connection) -> None:
    """And nothing is."""
    said = run("partition", "--dry-run", "--ahead", "7").stdout
    assert f"1 row(s) would be moved into provenance.actions_{THIS_MONTH}\n" in said
    assert 2 == said.count(" would be made\n")
    document = run_json("partition", "--dry-run")
    assert ([], {"actions_2020_02": 1, f"actions_{THIS_MONTH}": 1}, []) == (
        document["made"],
        document["moved"],
        document["problems"],
    )
    assert owner.execute("SELECT count(*) FROM provenance.actions_default").fetchone() == (2,)
    months = [one["month"] for one in document["partitions"] if one["table"] == "actions"]
    assert THIS_MONTH.replace("_", "-") not in months
    assert months[-1] is None


def test_rows_that_cannot_be_moved_yet(run: Run, owner: Connection) -> None:
    """It exits with 1 and says why; what else there is to do is done."""
    with psycopg.connect(owner.info.dsn) as erasing:
        erasing.execute("SELECT pg_advisory_xact_lock_shared(31651020444888674)")
        result = run("partition", "--ahead", "7")
    assert 1 == result.exit_code
    assert "Error: rows of the trail are being moved or erased by another session; run it again later" in result.stderr
    assert 2 == result.stdout.count(" made\n")


def test_whoever_may_not(run: Run, owner: Connection, provenance_dsn: str) -> None:
    """It says which right is missing, and who gives it."""
    owner.execute("CREATE ROLE provenance_nobody LOGIN")
    try:
        result = run("partition", dsn=f"{provenance_dsn} user=provenance_nobody")
    finally:
        owner.execute("DROP ROLE provenance_nobody")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "this database role lacks a right that making partitions needs" in result.stderr


@pytest.mark.parametrize(
    ("of_bytes", "said"),
    [(0, "0 B"), (10_239, "10239 B"), (10_240, "10 KiB"), (8 << 20, "8192 KiB"), (1 << 50, "1048576 GiB")],
)
def test_sizes(of_bytes: int, said: str) -> None:
    """In the largest unit of which there are ten."""
    assert said == size(of_bytes)


def test_a_table_that_is_always_in_use(run: Run, owner: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coming months are made all the same, and it says what stood in the way."""
    refused = "DO $$BEGIN RAISE EXCEPTION 'in use' USING ERRCODE = 'lock_not_available', HINT = 'Run it later.'; END$$"
    monkeypatch.setattr(statements, "empty_default", lambda *_: Statement(refused, None, nothing))
    result = run("partition", "--ahead", "7")
    assert (1, "Error: in use; run it later; in use; run it later\n") == (
        result.exit_code,
        "".join(line for line in result.stderr.splitlines(keepends=True) if line.startswith("Error")),
    )
    assert "made" in result.stdout
