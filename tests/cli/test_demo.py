"""``demo``: from nothing to the story that the trail tells."""

from __future__ import annotations

import builtins
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from provenance.cli.app import cli
from provenance.examples.zmanim import tables
from provenance.examples.zmanim.service import ZmanimLinkingService
from tests.cli.conftest import Run

SCRIPT = Path(sys.executable).parent / "provenance"

# One of the three fronts; {} is a request id, # a number, and a duration stands as "# ms".
FRONT = """\
201 Created  link dawn  {}
└── link_zman  completed  # ms  by dvora  on publisher_zman:#
    └── notify_publisher  completed  # ms  by dvora  on notification:#
201 Created  copy sunrise  {}
└── copy_zman  completed  # ms  by dvora  on publisher_zman:#
    └── notify_publisher  completed  # ms  by dvora  on notification:#
409 Conflict  link dawn once more  {}
└── link_zman  failed  # ms  by yosef  DuplicateZman: publisher # has zman # already
404 Not Found  link a zman that does not exist  {}
└── link_zman  failed  # ms  by yosef  SourceNotFound: there is no zman #
200 OK  link three at once, one of them a duplicate  {}
└── import_zmanim  completed  # ms  by dvora  on publisher:#
    ├── link_zman  failed  # ms  by dvora  DuplicateZman: publisher # has zman # already
    ├── link_zman  completed  # ms  by dvora  on publisher_zman:#
    │   └── notify_publisher  completed  # ms  by dvora  on notification:#
    └── link_zman  completed  # ms  by dvora  on publisher_zman:#
        └── notify_publisher  completed  # ms  by dvora  on notification:#
200 OK  edit the formula of the copy  {}
└── edit_formula  completed  # ms  by yosef  on publisher_zman:#
500 Internal Server Error  rebalance coverage, and crash  {}
└── rebalance_coverage  failed  # ms  by yosef  on publisher:#  ZeroDivisionError: division by zero
    └── notify_publisher  rolled_back  # ms  by yosef  on notification:#  undone with the enclosing action
"""

TALLIES = """\
Rows in the application's tables, and the completed actions that made them
TABLE             ROWS  ACTIONS  OF TYPE
publisher_zmanim  12    12       link_zman, copy_zman  match
notifications     12    12       notify_publisher      match
"""

# Few of the cities are enough to see that the journey is told; the largest first, and those that it looks at.
CITIES = ["--cities", "50"]
COUNTED = "3,540 of 3,540 rows of coverage were given the ids of 3,540 locations, in 1 batches and"
JOURNEY = """\
LEVEL  NAME       HIERARCHY                                              IN HEBREW                                               LATITUDE  LONGITUDE
city   Jerusalem  Jerusalem > Israel > Asia                              Jerusalem > Israel > אסיה                               31.77     35.22
city   Lakewood   Lakewood > New Jersey > United States > North America  Lakewood > New Jersey > United States > אמריקה הצפונית  40.10     -74.22
city   Vila       Vila > Andorra > Europe                                Vila > Andorra > אירופה                                 42.53     1.57
"""  # noqa: E501 - as it is printed
RENAMED = """\
A region is renamed, and the resolved view refreshed
WHEN    HIERARCHY
before  Lakewood > New Jersey > United States > North America
after   Lakewood > Garden State > United States > North America"""


def _masked(text: str) -> str:
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "{}", text)
    return re.sub(r"(?<=[ :])[0-9]+([.][0-9])?(?= |$)", "#", text, flags=re.MULTILINE)


def _expect_story(text: str) -> None:
    head, flask, starlette, wsgi, history, tallies, journey, renamed, blame = text.split("\n\n")
    assert re.fullmatch(
        r"One service behind three web fronts, on PostgreSQL [0-9][^\n]*\.\n"
        r"Each request with its X-Request-ID, and the actions recorded under it:",
        head,
    )
    for name, front in (
        ("Flask (served by werkzeug)", flask),
        ("Starlette (served by uvicorn)", starlette),
        ("plain WSGI (served by werkzeug)", wsgi),
    ):
        assert f"{name}\n{FRONT}".splitlines() == _masked(front).splitlines()
    title, _, newest, oldest = history.splitlines()
    assert "History of publisher_zman 2, newest first" == title
    assert (["edit_formula", "yosef"], ["copy_zman", "dvora"]) == (newest.split()[3:6:2], oldest.split()[3:6:2])
    assert TALLIES == f"{tallies}\n"
    title, counted, *shown = journey.splitlines()
    assert "Geography: a column for each level becomes one id" == title
    assert re.fullmatch(COUNTED + " [0-9.]+ s[.]", counted)
    assert JOURNEY.splitlines() == shown
    assert RENAMED == renamed
    title, _, *lines = blame.splitlines()
    assert title.startswith("Who set what in publisher_coverage ")
    makers = {words[0]: words[4] for words in map(str.split, lines)}
    assert ("import_coverage", "backfill_locations") == (makers["city_id"], makers["geo_location_id"])


def test_the_story_in_a_pipe() -> None:
    """With nothing but the package: plain text on standard output, nothing on standard error, code 0."""
    environment = {name: value for name, value in os.environ.items() if name != "PROVENANCE_DSN"}
    result = subprocess.run(
        [SCRIPT, "demo", *CITIES],
        env={**environment, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (result.returncode, result.stderr)
    _expect_story(result.stdout)


def test_the_story_as_json(provenance_server: str) -> None:
    """One document, from a database of its own on the server given."""
    result = subprocess.run(
        [SCRIPT, "demo", *CITIES, "--json"],
        env={**os.environ, "PROVENANCE_DSN": provenance_server},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (result.returncode, result.stderr)
    story = json.loads(result.stdout)
    assert ["server_version", "fronts", "history", "tallies", "journey", "problems"] == list(story)
    assert ["Flask", "Starlette", "plain WSGI"] == [front["name"] for front in story["fronts"]]
    for front in story["fronts"]:
        assert [201, 201, 409, 404, 200, 200, 500] == [request["status"] for request in front["requests"]]
        for request in front["requests"]:
            [tree] = request["trees"]
            assert {request["request_id"]} == {action["request_id"] for action in tree}
            assert {request["user"]} == {action["user_id"] for action in tree}
            assert 0 == tree[0]["depth"]
    assert {"type": "publisher_zman", "id": "2"} == story["history"]["entity"]
    assert ["edit_formula", "copy_zman"] == [action["action_type"] for action in story["history"]["actions"]]
    assert [("publisher_zmanim", 12, 12, 12), ("notifications", 12, 12, 12)] == [
        (tally["table"], tally["rows"], tally["matched"], tally["actions"]) for tally in story["tallies"]
    ]
    journey = story["journey"]
    assert 3540 == journey["coverage"] == journey["moved"]["rows"]
    assert ["IL", "US", "AD"] == [location["codes"]["country"] for location in journey["locations"]]
    assert {"import_coverage", "backfill_locations"} == {entry["action"]["action_type"] for entry in journey["blame"]}
    assert [] == story["problems"]


def test_the_story_within_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers, pools and the embedded database are all gone when the command returns."""
    monkeypatch.delenv("PROVENANCE_DSN", raising=False)
    result = click.testing.CliRunner().invoke(cli, ["demo", *CITIES], catch_exceptions=False)
    assert (0, "") == (result.exit_code, result.stderr)
    _expect_story(result.stdout)


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the application forget to track its notifications."""

    def notify(self: ZmanimLinkingService, publisher_id: int, message: str) -> None:
        with self._trail.pool.connection() as connection:
            connection.execute(
                "INSERT INTO notifications (publisher_id, message) VALUES (%s, %s)", (publisher_id, message)
            )

    monkeypatch.setattr(ZmanimLinkingService, "_notify", notify)


@pytest.mark.usefixtures("untracked")
def test_rows_without_an_action_are_noticed(run: Run, provenance_server: str) -> None:
    """The tally differs, and the code is 1, after the story has been told."""
    result = run("demo", *CITIES, dsn=provenance_server)
    assert (
        1,
        (
            "Error: the trail does not say what happened: 15 rows in notifications name 0 completed actions as their "
            "makers, and the trail has 0\n"
        ),
    ) == (result.exit_code, result.stderr)
    assert "notifications     15    0        notify_publisher      differ\n" in result.stdout


@pytest.mark.usefixtures("untracked")
def test_what_was_noticed_is_in_the_json_too(run: Run, provenance_server: str) -> None:
    """The document is printed whole before the error."""
    result = run("demo", *CITIES, "--json", dsn=provenance_server)
    assert 1 == result.exit_code
    assert 1 == len(json.loads(result.stdout)["problems"])


@pytest.mark.parametrize("code", [0, 3])
def test_the_scratch_database_is_dropped(
    run: Run, provenance_server: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Whether the walk succeeds or breaks off, nothing stays on the server."""
    create, databases = tables.create, []

    def creating(connection: psycopg.Connection[Any]) -> None:
        databases.append(connection.info.dbname)
        create(connection)
        if code:
            connection.execute("SELECT 1/0")

    monkeypatch.setattr(tables, "create", creating)
    result = run("demo", *CITIES, dsn=provenance_server)
    error = "Error: the database cannot be reached, or broke off: division by zero\n" if code else ""
    assert (code, error) == (result.exit_code, result.stderr)
    [database] = databases
    with psycopg.connect(provenance_server) as admin:
        assert [] == admin.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchall()


def test_a_missing_extra_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without, say, Flask the command says what to install."""
    original: Callable[..., Any] = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "provenance.examples.zmanim.walkthrough":
            raise ModuleNotFoundError("No module named 'flask'", name="flask")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    result = run("demo", *CITIES, dsn="host=/nowhere")
    assert (
        2,
        "",
        "Error: the demo needs flask, which is not installed; run: pip install 'provenance-trail[demo]'\n",
    ) == (result.exit_code, result.stdout, result.stderr)
