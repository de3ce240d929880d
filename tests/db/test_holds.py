"""Legal holds: what is held is neither erased nor leaves, until it is released."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance import Trail, request_scope, schema
from provenance.archive import archive_month
from provenance.errors import Held, InvalidAction, MigrationError, SchemaNotReady
from provenance.testing import RecordedActions
from tests.support import colours, databases, months, roles
from tests.support.colours import Blocking, done
from tests.support.months import first_of, insert

pytestmark = pytest.mark.anyio

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
colour = colours.colour

Connection = psycopg.Connection[Any]

MARCH = date(2021, 3, 1)
INSIDE = datetime(2021, 3, 9, 12, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, in autocommit mode: an action of a March long past, and a row that it changed."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        for table in ("actions", "row_changes"):
            months.make(connection, table, first_of(2021, 3))
        about = {"tenant_id": "t", "user_id": "ada", "entity_type": "account", "entity_id": "7"}
        action_id = insert(connection, "actions", INSIDE, **about, action_type="close", concept="account")
        insert(connection, "row_changes", INSIDE, action_id=action_id, tenant_id="t", shape_id=shape(connection))
        yield connection


def shape(connection: Connection) -> int:
    """Return the shape of rows of a table with a number and a text."""
    (number,) = connection.execute(
        """INSERT INTO provenance.row_shapes (table_id, fields)
           VALUES (1, '[["id","integer",false],["name","text",false]]') RETURNING id"""
    ).fetchone() or (0,)
    return int(number)


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """The owner's trail."""
    with Trail(provenance_dsn) as trail:
        yield trail


HOLDING: list[dict[str, Any]] = [
    {},
    {"tenant_id": "t"},
    {"user_id": "ada"},
    {"entity": ("account", 7)},
    {"concept": "account"},
    {"action_type": "close"},
    {"since": INSIDE, "until": INSIDE + timedelta(milliseconds=1)},
    {"tenant_id": "t", "user_id": "ada", "entity": ("account", "7"), "concept": "account", "action_type": "close"},
]
NOT_HOLDING: list[dict[str, Any]] = [
    {"tenant_id": ""},
    {"user_id": "bob"},
    {"entity": ("account", 8)},
    {"entity": ("user", 7)},
    {"concept": "zman"},
    {"action_type": "open"},
    {"since": INSIDE + timedelta(milliseconds=1)},
    {"until": INSIDE},
    {"user_id": "ada", "concept": "zman"},
]


@pytest.mark.parametrize("scope", HOLDING)
def test_what_is_held_stays(owner: Connection, trail: Trail, tmp_path: Path, scope: dict[str, Any]) -> None:
    """It is neither erased, as an action or as a row, nor leaves; that it was tried is recorded. Released, it does both."""
    held = trail.place_hold("case 7", reason="Ada ./. Bob", **scope)
    assert [held] == trail.holds()
    for what in ({"user_id": "ada"}, {"entity": ("account", 7)}):
        with pytest.raises(
            Held, match="the legal hold case 7 keeps what was to be erased; erase it once the hold is released"
        ):
            trail.erase(reason="asked to", **what)
    for table in ("actions", "row_changes"):
        with pytest.raises(Held, match=f"the legal hold case 7 keeps some of {table} of 2021-03; it may leave once"):
            archive_month(trail, tmp_path, table, MARCH)
    assert owner.execute(
        "SELECT count(*) FROM provenance.actions WHERE payload IS NOT NULL AND user_id = 'ada'"
    ).fetchone() == (1,)
    assert held == trail.release_hold("case 7", reason="settled")
    assert 1 == trail.erase(reason="asked to", user_id="ada").actions
    for table in ("row_changes", "actions"):
        assert archive_month(trail, tmp_path, table, MARCH)


@pytest.mark.parametrize("scope", NOT_HOLDING)
def test_what_is_not_held_goes(owner: Connection, trail: Trail, tmp_path: Path, scope: dict[str, Any]) -> None:
    """Whatever one thing does not fit."""
    trail.place_hold("case 7", reason="Ada ./. Bob", **scope)
    erased = trail.erase(reason="asked to", user_id="ada")
    assert (1, 1) == (erased.actions, erased.row_changes)
    for table in ("row_changes", "actions"):
        assert archive_month(trail, tmp_path, table, MARCH)


def test_what_is_begun_is_held(owner: Connection, trail: Trail) -> None:
    """It has no outcome yet, and a payload."""
    trail.begin("open", concept="account", user_id="bob", payload={"name": "Bob"})
    trail.place_hold("case 8", reason="Bob", user_id="bob")
    with pytest.raises(Held, match="the legal hold case 8"):
        trail.erase(reason="asked to", user_id="bob")


def test_rows_are_held_by_what_changed_them(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """Whoever asks for the row. One that was changed outside any action is held by its tenant and its time alone."""
    owner.execute("CREATE TABLE told (id integer PRIMARY KEY, name text)")
    trail.capture("told")
    with trail.track_action("tell", concept="secret", user_id="eve") as action:
        action.connection.execute("INSERT INTO told VALUES (1, 'x')")
    owner.execute("INSERT INTO told VALUES (2, 'y')")
    trail.place_hold("case 9", reason="Eve", concept="secret")
    with pytest.raises(Held, match="the legal hold case 9"):
        trail.erase(reason="asked to", row=("told", 1))
    assert 1 == trail.erase(reason="asked to", row=("told", 2)).row_changes
    owner.execute("UPDATE told SET name = 'z' WHERE id = 2")
    trail.place_hold("case 10", reason="all of it", tenant_id="")
    with pytest.raises(Held, match="the legal hold case 10"):
        trail.erase(reason="asked to", row=("told", 2))


def test_changes_of_actions_that_have_left_are_held(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """Nothing but their tenant and their time is known of them, and they might be what is held."""
    archive_month(trail, tmp_path, "actions", MARCH)
    trail.place_hold("user", reason="perhaps hers", user_id="bob")
    with pytest.raises(Held, match="the legal hold user keeps some of row_changes of 2021-03"):
        archive_month(trail, tmp_path, "row_changes", MARCH)
    trail.release_hold("user", reason="settled")
    trail.place_hold("tenant", reason="another's", tenant_id="other", user_id="ada")
    assert archive_month(trail, tmp_path, "row_changes", MARCH)


def test_changes_of_what_is_begun_are_held(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """By what was said when it was begun."""
    begun = trail.begin("tell", concept="account", user_id="eve")
    insert(owner, "row_changes", INSIDE, action_id=begun, shape_id=shape(owner))
    trail.place_hold("case 11", reason="Eve", user_id="eve")
    with pytest.raises(Held, match="the legal hold case 11 keeps some of row_changes"):
        archive_month(trail, tmp_path, "row_changes", MARCH)


def test_a_hold_waits_for_whoever_is_erasing(owner: Connection, trail: Trail, provenance_dsn: str) -> None:
    """What has been placed holds: nothing is erased afterwards that was begun before."""
    with psycopg.connect(provenance_dsn) as erasing:
        erasing.execute("SELECT pg_advisory_xact_lock_shared(31651020444888674)")
        with ThreadPoolExecutor(1) as executor:
            placing = executor.submit(trail.place_hold, "case 12", reason="a court")
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
            while owner.execute(waiting).fetchone() == (0,):
                assert not placing.done()
            erasing.rollback()
            assert "case 12" == placing.result().name


def test_why_something_is_held_is_not_erased(owner: Connection, trail: Trail) -> None:
    """Neither by whom it was, nor by the hold."""
    with request_scope(user_id="judge"):
        trail.place_hold("case 13", reason="a court", user_id="nobody")
        trail.release_hold("case 13", reason="settled")
    for what in ({"user_id": "judge"}, {"entity": ("legal_hold", "case 13")}):
        assert 0 == trail.erase(reason="asked to", **what).actions
    said = {(one.payload or {})["reason"] for one in trail.actions.entity_history("legal_hold", "case 13")}
    assert {"settled", "a court", "asked to"} == said


def test_holds_are_not_migrated_away(owner: Connection, trail: Trail) -> None:
    """They would be gone without a word."""
    trail.place_hold("case 14", reason="a court")
    with pytest.raises(MigrationError, match="there are legal holds, which would be gone"):
        schema.down(owner, to=5)
    assert ["case 14"] == [hold.name for hold in trail.holds()]
    trail.release_hold("case 14", reason="settled")
    schema.down(owner, to=5)
    schema.up(owner)


async def test_holds_are_actions(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Placing and releasing each, with why; a name is there once."""
    since = datetime(2027, 1, 1, tzinfo=UTC)
    placed = await done(colour.trail.place_hold("case", reason="a court", tenant_id="", user_id=7, since=since))
    assert ("", "7", None, since) == (placed.tenant_id, placed.user_id, placed.concept, placed.since)
    assert [placed] == await done(colour.trail.holds())
    with pytest.raises(
        InvalidAction, match="there is a legal hold case already; release it first, or choose another name"
    ):
        await done(colour.trail.place_hold("case", reason="again"))
    assert placed == await done(colour.trail.release_hold("case", reason="settled"))
    with pytest.raises(InvalidAction, match="there is no legal hold case; `provenance hold list` lists all"):
        await done(colour.trail.release_hold("case", reason="settled"))
    assert [] == await done(colour.trail.holds())
    first, _, third, _ = recorded_actions.all()
    assert ("place_hold", "case", {"reason": "a court", "tenant_id": "", "user_id": "7", "since": str(since)}) == (
        first.action_type,
        first.entity_id,
        first.payload,
    )
    assert placed.action_id == first.id
    assert ("release_hold", {"reason": "settled"}) == (third.action_type, third.payload)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "a\x00"}, "name has characters that cannot be printed"),
        ({"name": " "}, "name.*expected printable text of 1 to 100 characters"),
        ({"name": None}, "name.*expected printable text of 1 to 100 characters"),
        ({"reason": ""}, "reason: expected a text that says why"),
        ({"user_id": None}, "user_id: expected what to hold, got None; leave it out to hold all"),
        ({"since": datetime(2027, 1, 1)}, "since: expected a time with a time zone"),  # noqa: DTZ001 - that is what is wrong
        ({"user_id": ""}, "user_id: expected what to hold, got an empty text"),
        ({"concept": ""}, "concept"),
        ({"entity": ("", 1)}, "entity"),
    ],
)
async def test_holds_that_make_no_sense(colour: Blocking, given: dict[str, Any], problem: str) -> None:
    """Rather than holding more than was meant."""
    with pytest.raises(InvalidAction, match=problem):
        await done(colour.trail.place_hold(**({"name": "case", "reason": "a court"} | given)))
    assert [] == await done(colour.trail.holds())


async def test_reasons_that_no_column_can_hold(colour: Blocking) -> None:
    """They are written as any other text that is recorded."""
    found = await done(colour.trail.place_hold("case", reason="a\x00\ud800", user_id="nobody"))
    assert "a\\u0000\\ud800" == found.reason
    assert [found] == await done(colour.trail.holds())


async def test_a_misspelt_scope(colour: Blocking) -> None:
    """It would hold everything."""
    with pytest.raises(TypeError, match="unknown tenant; expected tenant_id, user_id"):
        await done(colour.trail.place_hold("case", reason="a court", tenant="t"))


def test_only_the_owner_holds(owner: Connection, provenance_dsn: str) -> None:
    """A maintainer may neither place, release nor read them."""
    with roles.writer(provenance_dsn) as (name, dsn), Trail(dsn) as trail:
        owner.execute("SELECT provenance.grant_maintainer(%s)", (name,))
        for attempt in (
            lambda: trail.place_hold("case", reason="a court"),
            lambda: trail.release_hold("case", reason="a court"),
            trail.holds,
        ):
            with pytest.raises(SchemaNotReady, match="connect as the role that owns the schema provenance"):
                attempt()
