"""``refresh`` and ``status``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from provenance.cli.status import age
from provenance.setting_up import SCHEMA_VERSION
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run

SETUP = """
CREATE TABLE source (id integer PRIMARY KEY);
INSERT INTO source VALUES (1);
CREATE MATERIALIZED VIEW lower AS SELECT id FROM source;
CREATE MATERIALIZED VIEW above AS SELECT id, 1 / id AS part FROM lower;
CREATE UNIQUE INDEX ON lower (id);
CREATE UNIQUE INDEX ON above (id);
CREATE MATERIALIZED VIEW bare AS SELECT id FROM source;
"""
FUNCTION = """
CREATE FUNCTION refresh_{0}() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$SELECT provenance.refresh_view('public.{0}')$$;
"""


@pytest.fixture
def eye(provenance_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode, to a database with two resolved views, one of the other, and one that is none."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(SETUP)
        for view in ("above", "lower"):
            connection.execute(FUNCTION.format(view).encode())
        connection.execute("SELECT pg_stat_force_next_flush()")
        yield connection


def test_all_resolved_views(run: Run, eye: psycopg.Connection[Any], recorded_actions: RecordedActions) -> None:
    """In their order, each as an action of its own, in one request."""
    eye.execute("INSERT INTO source VALUES (2)")
    result = run("refresh")
    assert (0, "public.lower is refreshed.\npublic.above is refreshed.\n", "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )
    assert [(1, 1), (2, 0)] == eye.execute("SELECT * FROM above ORDER BY id").fetchall()
    first, second = recorded_actions.all()
    assert ("public.lower", "public.above") == (first.entity_id, second.entity_id)
    assert first.request_id is not None
    assert first.request_id == second.request_id
    assert (None, None) == (first.parent_action_id, second.parent_action_id)


def test_views_by_name(run: Run, run_json: Callable[..., Any], eye: psycopg.Connection[Any]) -> None:
    """In the order in which they are named; as JSON too. In the blocking way, one needs no unique index."""
    result = run("refresh", "bare", "lower", "--blocking")
    assert (0, "public.bare is refreshed.\npublic.lower is refreshed.\n") == (result.exit_code, result.stdout)
    assert [{"view": "public.lower", "refreshed": True, "error": None}] == run_json("refresh", "lower")


def test_a_view_that_another_session_is_refreshing(
    run: Run, run_json: Callable[..., Any], eye: psycopg.Connection[Any]
) -> None:
    """It is left to that, and nothing has failed."""
    with psycopg.connect(eye.info.dsn) as other:
        other.execute("SELECT refresh_lower()")
        result = run("refresh", "lower")
        assert (0, "public.lower is being refreshed by another session.\n") == (result.exit_code, result.stdout)
        assert [{"view": "public.lower", "refreshed": False, "error": None}] == run_json("refresh", "lower")


def test_it_goes_on_after_one_fails(run: Run, eye: psycopg.Connection[Any], recorded_actions: RecordedActions) -> None:
    """What the database said is told of each, and at the end which have failed."""
    eye.execute("INSERT INTO source VALUES (0)")
    eye.execute("REFRESH MATERIALIZED VIEW lower")
    result = run("refresh", "nope", "above", "lower")
    assert (1, "public.lower is refreshed.\n") == (result.exit_code, result.stdout)
    assert (
        "nope is not refreshed: there is no view nope; write its name with its schema, unless that is in the search path\n"
        "above is not refreshed: division by zero\n"
        "Error: not refreshed: nope, above\n"
    ) == result.stderr
    assert ["failed", "failed", "completed"] == [action.status for action in recorded_actions.all()]


def test_no_view_to_refresh(run: Run, run_json: Callable[..., Any]) -> None:
    """Said on standard error, with what would be one, and that others can be named."""
    result = run("refresh")
    assert (
        0,
        "",
        (
            "No materialized view has a function refresh_<view>() of its owner's; name those to refresh: provenance refresh "
            "VIEW...\n"
        ),
    ) == (result.exit_code, result.stdout, result.stderr)
    assert [] == run_json("refresh")


def test_status(run: Run, run_json: Callable[..., Any], eye: psycopg.Connection[Any], trail: Trail) -> None:
    """The schema, and for each view when it was refreshed and what has changed since."""
    refreshed = trail.refresh("lower")
    eye.execute("INSERT INTO source VALUES (2)")
    eye.execute("SELECT pg_stat_force_next_flush()")
    result = run("status")
    assert (0, "") == (result.exit_code, result.stderr)
    schema, empty, titles, lower, above = result.stdout.splitlines()
    assert (f"The schema is at version {SCHEMA_VERSION}, as needed.", "") == (schema, empty)
    assert ["VIEW", "LAST", "REFRESH", "AGE", "ROWS", "CHANGED", "SINCE"] == titles.split()
    assert ("public.lower", "s", "1") == (lower.split()[0], *lower.split()[-2:])
    assert ["public.above", "none", "recorded", "not", "known"] == above.split()
    document = run_json("status")
    assert {"version": SCHEMA_VERSION, "needed": SCHEMA_VERSION, "fits": True} == document["schema"]
    shown = document["views"][0]
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(shown.pop("refreshed_at")) < timedelta(minutes=1)
    assert {
        "view": "public.lower",
        "resolved": True,
        "populated": True,
        "action_id": str(refreshed.action_id),
        "changed_rows": 1,
    } == shown


def test_status_without_views(run: Run) -> None:
    """The schema alone."""
    assert f"The schema is at version {SCHEMA_VERSION}, as needed.\n" == run("status").stdout


def test_status_of_a_schema_that_does_not_fit(run: Run, provenance_dsn: str) -> None:
    """It says what to do, and exits with 1."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer RETURN 1")
        result = run("status")
        said = f"The schema is at version 1, version {SCHEMA_VERSION} is needed; run `provenance migrate up`.\n"
        assert (1, said, "") == (result.exit_code, result.stdout, result.stderr)
        connection.execute("DROP FUNCTION provenance.schema_version()")
    result = run("status")
    assert (1, f"The schema is missing, version {SCHEMA_VERSION} is needed; run `provenance migrate up`.\n") == (
        result.exit_code,
        result.stdout,
    )


def test_status_without_a_schema(run: Run, empty_dsn: str) -> None:
    """As for one that is too old."""
    result = run("status", "--json", dsn=empty_dsn)
    assert (1, '"fits": false') == (result.exit_code, result.stdout.split("\n")[4].strip())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 m"), (3_599, "59 m"), (7_200, "2 h"), (86_400 * 3 + 5, "3 d")],
)
def test_ages(seconds: float, text: str) -> None:
    """In the largest unit that is full; never negative, because clocks differ."""
    assert text == age(timedelta(seconds=seconds))
