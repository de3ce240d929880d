"""The command that takes out of the trail what was recorded of somebody."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def acts(trail: Trail) -> None:
    """What somebody did."""
    with trail.connection() as connection, connection.transaction():
        connection.execute("CREATE TABLE pairs (a text, b integer, c text, PRIMARY KEY (a, b))")
        connection.execute("SELECT provenance.capture_table('pairs')")
    for tenant in ("", "t"):
        with trail.track_action(
            "act", concept="work", user_id="ada", tenant_id=tenant, entity_type="e", entity_id=1, payload="secret"
        ) as action:
            action.connection.execute("INSERT INTO pairs VALUES (%s, 1, 'secret')", (tenant,))


def bodies(recorded_actions: RecordedActions) -> list[Any]:
    return [found.payload for found in recorded_actions.all() if found.action_type == "act"]


@pytest.mark.parametrize(
    ("given", "said", "left"),
    [
        (["--user", "ada"], "2 action(s), 0 pending action(s) and 2 row change(s) erased", [None, None]),
        (["--entity", "e:1"], "2 action(s), 0 pending action(s) and 2 row change(s) erased", [None, None]),
        (
            ["--user", "ada", "--tenant", ""],
            "1 action(s), 0 pending action(s) and 1 row change(s) erased",
            [None, "secret"],
        ),
        (
            ["--row", "pairs", "--key", "t", "--key", "1"],
            "0 action(s), 0 pending action(s) and 1 row change(s) erased",
            ["secret", "secret"],
        ),
    ],
    ids=["user", "entity", "tenant", "row"],
)
def test_of_whom(run: Run, given: list[str], said: str, left: list[Any], recorded_actions: RecordedActions) -> None:
    """It says how much, and which action tells of it."""
    result = run("erase", *given, "--reason", "asked", "--yes")
    it = recorded_actions.all()[-1]
    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout == f"{said}\nrecorded as action {it.id}\n"
    assert bodies(recorded_actions) == left
    assert it.request_id is not None


def test_as_json(run_json: Callable[..., Any], recorded_actions: RecordedActions) -> None:
    """The counts, and the action."""
    found = run_json("erase", "--user", "ada", "--reason", "asked", "--yes")
    assert found == {
        "action_id": str(recorded_actions.all()[-1].id),
        "actions": 2,
        "pending": 0,
        "row_changes": 2,
        "idempotency_keys": 0,
    }


@pytest.mark.parametrize(
    ("given", "whom"),
    [
        (["--user", "ada"], "user ada"),
        (["--entity", "e:1"], "e 1"),
        (["--row", "pairs", "--key", "t", "--key", "1"], "pairs t 1"),
    ],
)
def test_it_asks_first(run: Run, given: list[str], whom: str, recorded_actions: RecordedActions) -> None:
    """Nothing is done without a yes."""
    result = run("erase", *given, "--reason", "asked", answer="n\n")
    assert (1, "") == (result.exit_code, result.stdout)
    assert f"This takes what was recorded of {whom} out of the trail, for good. Go on? [y/N]" in result.stderr
    assert bodies(recorded_actions) == ["secret", "secret"]
    assert len(recorded_actions.all()) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "give one of --user ID, --entity TYPE:ID and --row TABLE"),
        (["--user", "u", "--entity", "e:1"], "give one of --user ID, --entity TYPE:ID and --row TABLE"),
        (["--row", "pairs"], "--row TABLE and --key VALUE go together"),
        (["--user", "u", "--key", "1"], "--row TABLE and --key VALUE go together"),
    ],
)
def test_what_is_missing(run: Run, given: list[str], said: str) -> None:
    """It says so: code 2."""
    result = run("erase", *given, "--reason", "asked", dsn="host=/nowhere")
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"Error: {said}\n" in result.stderr


def test_what_was_erased_is_shown(run: Run, recorded_actions: RecordedActions) -> None:
    """An action says by which other its bodies were taken out."""
    run("erase", "--user", "ada", "--reason", "asked", "--yes")
    first, *_, it = recorded_actions.all()
    shown = run("show", str(first.id)).stdout
    assert any(line.split() == ["erased", "by", str(it.id)] for line in shown.splitlines())
    assert "secret" not in shown


def test_by_somebody_who_may_not(run: Run, provenance_dsn: str) -> None:
    """Code 4, and whom to ask."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        role = f"provenance_role_{secrets.token_hex(8)}"
        connection.execute(f"CREATE ROLE {role}; SELECT provenance.grant_writer('{role}')".encode())
        dsn = psycopg.conninfo.make_conninfo(provenance_dsn, options=f"-c role={role}")
        result = run("erase", "--user", "ada", "--reason", "asked", "--yes", dsn=dsn)
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    assert (4, "") == (result.exit_code, result.stdout)
    assert "connect as the role that owns the schema provenance" in result.stderr


def test_nothing_of_that_name(run: Run) -> None:
    """It is said, for a name may be misspelt; the erasure is an action all the same."""
    result = run("erase", "--user", "adda", "--reason", "asked", "--yes")
    assert (0, "Nothing was found; is it spelled as it was recorded?\n") == (result.exit_code, result.stderr)
    assert "0 action(s), 0 pending action(s) and 0 row change(s) erased\nrecorded as action " in result.stdout
