"""``log``, ``history`` and ``show``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import psycopg
import pytest

from provenance.cli.output import duration, line, moment
from provenance.context import request_scope
from provenance.ids import new_id
from provenance.models import Action, Status
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run
from tests.support import months

REQUEST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def actions(trail: Trail, recorded_actions: RecordedActions) -> dict[str, Action]:
    """Three actions that differ in everything one can ask for, by their type."""
    with request_scope(REQUEST, correlation_id="job:7", user_id="dvora", tenant_id=1):
        with trail.track_action("link_zman", concept="zman", entity_type="publisher_zman", entity_id="3:a") as action:
            action.result = {"id": 3}
        with (
            pytest.raises(ValueError, match="no"),
            trail.track_action("copy_zman", concept="source", user_id="yosef", tenant_id=2, request_id=new_id()),
        ):
            raise ValueError("no")
    with request_scope():
        trail.begin("import_zmanim", concept="publisher", entity_type="publisher", entity_id=1)
    return {action.action_type: action for action in recorded_actions.all()}


def _json(action: Action) -> dict[str, Any]:
    fields = attrs.asdict(action, recurse=False)
    return json.loads(
        json.dumps(fields, default=lambda value: value.isoformat() if hasattr(value, "hour") else str(value))
    )


def test_log_lists_everything_newest_first(run_json: Callable[..., Any], actions: dict[str, Action]) -> None:
    """Each action comes whole, under the names of the model, with ISO 8601 times."""
    expected = [_json(actions[name]) for name in ("import_zmanim", "copy_zman", "link_zman")]
    assert {"actions": expected, "next": None} == run_json("log")
    assert "+00:00" == expected[0]["started_at"][-6:]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--type", "link_zman"], ["link_zman"]),
        (["--concept", "source"], ["copy_zman"]),
        (["--status", "pending"], ["import_zmanim"]),
        (["--status", "failed"], ["copy_zman"]),
        (["--user", "dvora"], ["link_zman"]),
        (["--tenant", "2"], ["copy_zman"]),
        (["--tenant", ""], ["import_zmanim"]),
        (["--request", REQUEST], ["link_zman"]),
        (["--correlation", "job:7"], ["copy_zman", "link_zman"]),
        (["--entity", "publisher_zman:3:a"], ["link_zman"]),
        (["--since", "1h"], ["import_zmanim", "copy_zman", "link_zman"]),
        (["--until", "1h"], []),
        (["--user", "yosef", "--status", "failed"], ["copy_zman"]),
        (["--user", "yosef", "--status", "completed"], []),
        (["--limit", "2"], ["import_zmanim", "copy_zman"]),
    ],
)
def test_log_filters(
    run_json: Callable[..., Any], actions: dict[str, Action], options: list[str], expected: list[str]
) -> None:
    """Every option narrows the list, and several narrow it together."""
    assert expected == [action["action_type"] for action in run_json("log", *options)["actions"]]


def test_log_between_two_moments(run_json: Callable[..., Any], actions: dict[str, Action]) -> None:
    """From the first moment on, and before the second."""
    middle = actions["copy_zman"].started_at
    later = middle + timedelta(days=1)
    assert [] == run_json("log", "--since", later.isoformat())["actions"]
    assert 3 == len(run_json("log", "--until", later.isoformat())["actions"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--status", "done"),
        ("--since", "yesterday"),
        ("--until", "-1h"),
        ("--entity", "zman"),
        ("--request", "x"),
        ("--limit", "0"),
        ("--limit", "1001"),
        ("--before", "x"),
    ],
)
def test_log_refuses_bad_values(run: Run, option: str, value: str) -> None:
    """Nothing is guessed: code 2, before the database is asked."""
    result = run("log", option, value, dsn="host=/nowhere")
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"Error: Invalid value for '{option}': " in result.stderr


def test_log_refuses_an_empty_user(run: Run) -> None:
    """The library's own refusals have the same code."""
    result = run("log", "--user", "")
    assert (2, "", "Error: user_id: expected a value to look for, got an empty text; leave it out to find all\n") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


def test_log_pages(run: Run, run_json: Callable[..., Any], actions: dict[str, Action]) -> None:
    """A page names where the next one begins, as text on standard error."""
    first = run("log", "--limit", "2")
    last_id = str(actions["copy_zman"].id)
    assert (0, f"There are older ones: add --before {last_id}\n") == (first.exit_code, first.stderr)
    assert 3 == len(first.stdout.splitlines())
    assert last_id == run_json("log", "--limit", "2")["next"]
    rest = run_json("log", "--before", last_id)
    assert (["link_zman"], None) == ([action["action_type"] for action in rest["actions"]], rest["next"])


def test_log_of_nothing(run: Run, run_json: Callable[..., Any]) -> None:
    """An empty trail is an answer, not an error; standard output stays empty for a pipe."""
    result = run("log")
    assert (0, "", "No actions found.\n") == (result.exit_code, result.stdout, result.stderr)
    assert {"actions": [], "next": None} == run_json("log")


def test_history_of_an_entity(
    run: Run, run_json: Callable[..., Any], trail: Trail, recorded_actions: RecordedActions
) -> None:
    """Newest first, in pages, of this entity alone."""
    for kind, entity_id in (("zman", 1), ("zman", 2), ("place", 1), ("zman", 1)):
        with trail.track_action("touch", concept="thing", entity_type=kind, entity_id=entity_id):
            pass
    first, *_, last = recorded_actions.all()
    document = run_json("history", "zman", "1")
    assert ([str(last.id), str(first.id)], None) == (
        [action["id"] for action in document["actions"]],
        document["next"],
    )
    page = run("history", "zman", "1", "--limit", "1")
    assert f"There are older ones: add --before {last.id}\n" == page.stderr
    assert str(first.id) in run("history", "zman", "1", "--before", str(last.id)).stdout


@pytest.fixture
def family(trail: Trail, recorded_actions: RecordedActions) -> dict[str, Action]:
    """A failed action with a child, by their type."""
    with (
        request_scope(REQUEST, correlation_id="job:7", user_id="dvora", tenant_id=1),
        pytest.raises(psycopg.errors.DivisionByZero),
        trail.track_action(
            "import",
            concept="zman",
            entity_type="publisher",
            entity_id=7,
            payload={"ids": [1]},
            metadata={"by": "cron"},
        ) as action,
    ):
        with trail.track_action("notify", concept="mail") as child:
            child.result = "שלום"
        action.connection.execute("SELECT 1/0")
    return {action.action_type: action for action in recorded_actions.all()}


def test_show_tells_all_about_an_action(run: Run, family: dict[str, Action]) -> None:
    """Every recorded fact has its line, and the tree follows."""
    action, child = family["import"], family["notify"]
    result = run("show", str(action.id))
    assert action.completed_at is not None
    facts, _, tree = result.stdout.partition("\n\n")
    lines = [re.split(r"  +", line, maxsplit=1) for line in facts.splitlines()]
    assert [
        ["action", "import"],
        ["id", str(action.id)],
        ["concept", "zman"],
        ["entity", "publisher:7"],
        ["status", "failed"],
        ["error type", action.error_type],
        ["error code", "22012"],
        ["error", action.error_message],
        ["user", "dvora"],
        ["tenant", "1"],
        ["request", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"],
        ["correlation", "job:7"],
        ["started", moment(action.started_at)],
        ["completed", moment(action.completed_at)],
        ["took", duration(action.duration_ms)],
        ["payload", "{"],
        ["", '"ids": ['],
        ["", "1"],
        ["", "]"],
        ["", "}"],
        ["metadata", "{"],
        ["", '"by": "cron"'],
        ["", "}"],
    ] == lines
    assert [
        "the tree it is in",
        f"└── {line(action).plain}  {action.id}",
        f"    └── {line(child).plain}  {child.id}",
    ] == tree.splitlines()


def test_show_leaves_out_what_is_not_known(run: Run, trail: Trail) -> None:
    """A pending action has neither end nor duration."""
    action_id = trail.begin("import", concept="zman")
    shown = run("show", str(action_id)).stdout
    assert ["action", "id", "concept", "status", "started"] == [
        line.split()[0] for line in shown.partition("\n\n")[0].splitlines()
    ]
    assert f"└── import  pending  {action_id}" == shown.splitlines()[-1]


def test_show_says_which_parent_is_missing(run: Run, provenance_dsn: str) -> None:
    """It has left, or is in another database: what it caused is not the top of a tree, and not below another either."""
    began = datetime(2026, 1, 9, tzinfo=UTC)
    root, gone = (months.id_at(began - timedelta(days=days)) for days in (2, 1))
    with psycopg.connect(provenance_dsn, autocommit=True) as owner:
        first = months.insert(owner, "actions", began, root_id=root, parent_action_id=gone)
        second, third = (
            months.insert(owner, "actions", began + timedelta(hours=hour), root_id=root, parent_action_id=parent)
            for hour, parent in ((1, root), (2, first))
        )
    assert [
        f"└── t  completed  1.2 ms  {first}  caused by {gone}, which is not here",
        f"    ├── t  completed  1.2 ms  {second}  caused by {root}, which is not here",
        f"    └── t  completed  1.2 ms  {third}",
    ] == run("show", str(second)).stdout.splitlines()[-3:]


def test_show_any_member_shows_the_whole_tree(run_json: Callable[..., Any], family: dict[str, Action]) -> None:
    """The child leads to its parent; the tree is a list with depths, parents first."""
    child = family["notify"]
    assert {
        "action": _json(child),
        "tree": [{"depth": 0, **_json(family["import"])}, {"depth": 1, **_json(child)}],
    } == run_json("show", str(child.id))
    assert Status.ROLLED_BACK == child.status


def test_show_writes_letters_of_any_script(run: Run, family: dict[str, Action]) -> None:
    """Stored JSON is shown as it was meant, not as escapes."""
    assert '"שלום"' in run("show", str(family["notify"].id)).stdout


def test_show_of_an_unknown_action(run: Run) -> None:
    """Nothing found is bad news, with or without --json."""
    unknown = UUID("01890000-0000-7000-8000-000000000000")
    for options in ([], ["--json"]):
        result = run("show", str(unknown), *options)
        assert (1, "", f"Error: action {unknown} is not recorded in this database\n") == (
            result.exit_code,
            result.stdout,
            result.stderr,
        )


def test_show_wants_a_uuid(run: Run) -> None:
    """Anything else is wrong usage."""
    assert 2 == run("show", "7", dsn="host=/nowhere").exit_code
