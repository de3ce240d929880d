"""The command that finds out what became of actions without an outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from provenance import ids
from provenance.trail import Trail
from tests.cli.conftest import Run

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
    assert result.stdout == "2 rolled back\n1 still pending\n1 unknown: nobody can say what became of them\n"
    assert run_json("recover") == {"completed": 0, "failed": 0, "rolled_back": 0, "pending": 1, "unknown": 1}


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
