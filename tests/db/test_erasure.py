"""Erasure: what was said of somebody goes, everywhere; that something was done stays, and nothing else can be changed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, conninfo, errors, sql

from provenance import Trail, schema
from provenance.errors import InvalidAction, MisusedAction, NotCaptured, SchemaNotReady, TableRefused
from provenance.testing import RecordedActions
from tests.support import colours, databases
from tests.support.colours import Awaiting, Blocking, done

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
colour = colours.colour
pytestmark = pytest.mark.anyio

Connection = psycopg.Connection[Any]
NAME = "Ada Lovelace"


@pytest.fixture
def people(eye: Connection) -> None:
    """A captured table."""
    eye.execute("CREATE TABLE people (id integer PRIMARY KEY, name text, town text, born date)")
    eye.execute("SELECT provenance.capture_table('people', masked => '{born}')")


async def act(colour: Blocking, query: str, params: tuple[object, ...] = (), **given: Any) -> Any:
    """Do something about a person."""
    async with colour.track("act", **{"payload": {"name": NAME}, "metadata": {"of": NAME}, **given}) as action:
        await done(action.connection.execute(query, params))
        action.result = given.get("payload", [NAME])
    return action.id


async def fail(colour: Blocking, **given: Any) -> None:
    with pytest.raises(LookupError):
        async with colour.track("act", **given):
            raise LookupError(f"no such person: {NAME}")


def kept(eye: Connection) -> str:
    """Return everything there is in the tables of the trail, as text."""
    tables = ("actions", "action_intents", "row_changes", "idempotency_keys")
    return "\n".join(
        row[0]
        for table in tables
        for row in eye.execute(
            sql.SQL("SELECT to_json(t)::text FROM {} t").format(sql.Identifier("provenance", table))
        ).fetchall()
    )


@pytest.mark.usefixtures("people")
async def test_all_that_a_user_did(colour: Blocking, recorded_actions: RecordedActions, eye: Connection) -> None:
    """Bodies go, of ended actions, pending ones and row changes; who, what, when and which columns stay."""
    await act(colour, "INSERT INTO people VALUES (1, 'Ada Lovelace', 'London', '1815-12-10')", user_id="ada")
    await act(
        colour,
        "UPDATE people SET town = 'Ada Lovelace', born = '1815-12-11'",
        user_id="ada",
        idempotency_key="k",
        entity_type="person",
        entity_id=1,
    )
    await act(colour, "DELETE FROM people", user_id="ada")
    await fail(colour, user_id="ada")
    pending = await done(colour.trail.begin("wait", concept="work", user_id="ada", payload=NAME))
    of_another = {"user_id": "bob", "payload": "kept", "metadata": None}
    other = await act(colour, "INSERT INTO people VALUES (2, 'Bob', 'Paris')", **of_another)
    before = eye.execute("SELECT id, status, user_id, xid, recorded_at FROM provenance.actions ORDER BY id").fetchall()

    erased = await done(colour.trail.erase(user_id="ada", reason="asked to be forgotten"))
    assert (erased.actions, erased.pending, erased.row_changes, erased.idempotency_keys) == (4, 1, 3, 1)
    assert NAME not in kept(eye)
    assert "London" not in kept(eye)
    after = eye.execute("SELECT id, status, user_id, xid, recorded_at FROM provenance.actions ORDER BY id").fetchall()
    assert after[:-1] == before
    *acts, wait, of_bob, it = recorded_actions.all()
    for action in acts:
        assert (action.payload, action.result, action.metadata, action.error_message) == (None, None, None, None)
        assert (action.erased_by_action_id, action.user_id) == (erased.action_id, "ada")
    assert acts[-1].error_type == "LookupError"
    assert (wait.id, wait.payload, wait.erased_by_action_id, wait.status) == (pending, None, it.id, "pending")
    assert (of_bob.id, of_bob.payload, of_bob.result, of_bob.erased_by_action_id) == (other, "kept", "kept", None)
    assert it.payload == {"reason": "asked to be forgotten", "user_id": "ada"}
    assert it.result == {"actions": 4, "pending": 1, "row_changes": 3, "idempotency_keys": 1}
    assert eye.execute("SELECT count(*) FROM provenance.action_intents").fetchone() == (1,)

    items = (await done(colour.trail.changes.history("people", 1))).items
    hidden = dict.fromkeys(("id", "name", "town", "born"), "[redacted]")
    assert [(change.operation.value, change.key, change.old, change.new, change.changed) for change in items] == [
        ("delete", "1", hidden, None, ("id", "name", "town", "born")),
        ("update", "1", hidden, hidden, ("town", "born")),
        ("insert", "1", None, hidden, ("id", "name", "town", "born")),
    ]
    assert (await done(colour.trail.changes.as_of("people", 1, acts[2].started_at))) == hidden
    ((of_bob_change,), _) = (await done(colour.trail.changes.history("people", 2))).items, None
    assert of_bob_change.new["name"] == "Bob"
    assert schema.verify(eye) == []


@pytest.mark.usefixtures("people")
async def test_twice_is_once(colour: Blocking, eye: Connection) -> None:
    """What is gone is not taken out again, and why it was done is kept."""
    await act(colour, "INSERT INTO people VALUES (1)", user_id="ada", entity_type="person", entity_id=1)
    for number in (1, 0):
        erased = await done(colour.trail.erase(entity=("person", 1), reason="because"))
        assert (erased.actions, erased.row_changes) == (number, number)
    assert await done(colour.trail.erase(user_id="ada", reason="because")) != erased
    reasons = eye.execute("SELECT payload ->> 'reason' FROM provenance.actions WHERE action_type = 'erase'").fetchall()
    assert reasons == [("because",)] * 3


async def test_what_is_in_doubt(colour: Blocking, recorded_actions: RecordedActions, eye: Connection) -> None:
    """Why nobody can know may quote an error: it goes, and that nobody can know stays."""
    with pytest.raises(LookupError):
        async with colour.track("act", user_id="ada") as action:
            await done(action.connection.execute("COMMIT"))
            raise LookupError(f"no such person: {NAME}")
    (before,) = recorded_actions.all()
    assert NAME in (before.error_message or "")
    assert (await done(colour.trail.erase(user_id="ada", reason="because"))).pending == 1
    after, _ = recorded_actions.all()
    assert (after.status, after.error_message) == ("unknown", "nobody can know its outcome; why is erased")
    assert NAME not in kept(eye)
    assert (await done(colour.trail.erase(user_id="ada", reason="because"))).pending == 0


async def test_what_ends_after_it_was_erased(
    colour: Blocking, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """The row says by which action its beginning was erased, and what came later can be erased, too."""
    begun = [await done(colour.trail.begin("act", concept="work", user_id="ada", payload=NAME)) for _ in range(2)]
    erased = await done(colour.trail.erase(user_id="ada", reason="because"))
    await done(colour.trail.complete(begun[0], {"of": NAME}))
    await done(colour.trail.complete(begun[1]))
    first, second, _ = recorded_actions.all()
    assert [(found.payload, found.erased_by_action_id) for found in (first, second)] == [(None, erased.action_id)] * 2
    again = await done(colour.trail.erase(user_id="ada", reason="because"))
    first, second, *_ = recorded_actions.all()
    assert (again.actions, first.erased_by_action_id, second.erased_by_action_id) == (
        1,
        again.action_id,
        erased.action_id,
    )
    assert NAME not in kept(eye)


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
async def test_at_the_stricter_levels(
    colour: Blocking, recorded_actions: RecordedActions, level: IsolationLevel
) -> None:
    """A pool of such connections makes no difference; a transaction that is open at such a level says so."""
    if isinstance(colour, Awaiting):
        async with colour.pool.connection() as connection:
            await connection.set_isolation_level(level)
    else:
        with colour.pool.connection() as connection:
            connection.isolation_level = level
    async with colour.track("act", user_id="ada", payload=NAME):
        pass
    with pytest.raises(MisusedAction, match=r"erase: .* call it outside of that block"):
        async with colour.track("around"):
            await done(colour.trail.erase(user_id="ada", reason="because"))
    assert (await done(colour.trail.erase(user_id="ada", reason="because"))).actions == 1
    assert connection.isolation_level == level
    assert recorded_actions.all()[-1].status == "completed"


@pytest.mark.usefixtures("people")
async def test_an_entity_within_a_tenant(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """What others did to it, in this tenant only; another entity is not touched."""
    for number, (tenant, entity) in enumerate((("t", "1"), ("u", "1"), ("", "1"), ("t", "2"))):
        await act(
            colour,
            "INSERT INTO people VALUES (%s)",
            (number,),
            tenant_id=tenant,
            user_id=tenant,
            entity_type="person",
            entity_id=entity,
        )
    for tenant, count in (("t", 1), ("", 1), (None, 1)):
        erased = await done(colour.trail.erase(entity=("person", 1), tenant_id=tenant, reason="because"))
        assert (erased.actions, erased.row_changes) == (count, count)
    assert [found.payload for found in recorded_actions.all() if found.action_type == "act"] == [
        None,
        None,
        None,
        {"name": NAME},
    ]


@pytest.mark.usefixtures("people")
async def test_a_row_whoever_changed_it(colour: Blocking, eye: Connection) -> None:
    """Adopted, changed outside any action and under another key as well; its neighbours in the same statement stay."""
    eye.execute("SELECT provenance.release_table('people'); INSERT INTO people VALUES (1, 'Ada Lovelace'), (2, 'Bob')")
    eye.execute("SELECT provenance.capture_table('people'), provenance.adopt_table('people')")
    await act(colour, "UPDATE people SET town = 'here: ' || name", payload=None, metadata=None)
    eye.execute("UPDATE people SET id = 3 WHERE id = 1")
    erased = await done(colour.trail.erase(row=("people", 1), reason="because"))
    assert (erased.actions, erased.row_changes) == (0, 3)
    assert NAME not in "\n".join(line for line in kept(eye).splitlines() if "row_slot" in line)
    (*_, bob) = (await done(colour.trail.changes.history("people", 2))).items
    assert bob.new["name"] == "Bob"
    items = (await done(colour.trail.changes.history("people", 1))).items
    assert {change.new["name"] for change in items if change.new} == {"[redacted]"}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, InvalidAction, "expected one of user_id, entity and row"),
        ({"user_id": "u", "entity": ("e", 1)}, InvalidAction, "expected one of user_id, entity and row"),
        ({"user_id": "u", "reason": " "}, InvalidAction, "reason: expected a text that says why"),
        ({"user_id": "u", "reason": None}, InvalidAction, "reason: expected a text that says why"),
        ({"entity": ("", 1)}, InvalidAction, "entity"),
        ({"row": ("people", 1.5j)}, InvalidAction, "key: expected"),
        ({"row": ("work", 1)}, NotCaptured, "work"),
        ({"row": ("no_such", 1)}, NotCaptured, "no_such"),
        ({"row": ("people", [1, 2])}, InvalidAction, "row: "),
        ({"row": ("no such", 1)}, TableRefused, "no such is no name in SQL"),
    ],
)
@pytest.mark.usefixtures("people")
async def test_what_cannot_be_erased(
    colour: Blocking, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    """It says what was expected."""
    with pytest.raises(error, match=said):
        await done(colour.trail.erase(**{"reason": "because", **given}))


# --- Nothing else can be changed -------------------------------------------------------------------------------------


@pytest.fixture
def erasing(eye: Connection, provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection of the owner's that is inside an action that erases."""
    eye.execute("CREATE TABLE people (id integer PRIMARY KEY, name text); SELECT provenance.capture_table('people')")
    with Trail(provenance_dsn) as trail:
        for number in (1, 2):
            with trail.track_action("act", concept="work", payload=1, user_id="ada") as action:
                action.connection.execute("INSERT INTO people VALUES (%s, 'x')", (number,))
        trail.erase(user_id="bob", reason="because")
        with trail.track_action("said", concept="work", payload=1, user_id="bob"):
            pass
        trail.erase(user_id="bob", reason="because")
        with trail.track_action("erase", concept="trail", durability="intent") as action:
            yield action.connection


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM provenance.actions",
        "DELETE FROM provenance.row_changes",
        "UPDATE provenance.actions SET user_id = NULL",
        "UPDATE provenance.actions SET payload = NULL",
        "UPDATE provenance.actions SET payload = '2', erased_by_action_id = {it}",
        "UPDATE provenance.actions SET payload = NULL, status = 'failed', erased_by_action_id = {it}",
        "UPDATE provenance.actions SET payload = NULL, recorded_at = now(), erased_by_action_id = {it}",
        "UPDATE provenance.actions SET payload = NULL, erased_by_action_id = id",
        "UPDATE provenance.actions SET error_message = 'x', payload = NULL, erased_by_action_id = {it}",
        (
            "UPDATE provenance.actions SET payload = NULL, result = NULL, erased_by_action_id = {it} "
            "WHERE action_type = 'erase'"
        ),
        "UPDATE provenance.actions SET erased_by_action_id = {it} WHERE action_type = 'said'",
        "UPDATE provenance.row_changes SET new_row = '()'",
        "UPDATE provenance.row_changes SET new_row = NULL",
        "UPDATE provenance.row_changes SET new_row = '(1,y)', shape_id = provenance.erased_shape(shape_id)",
        "UPDATE provenance.row_changes SET new_row = '()', old_row = '()', shape_id = provenance.erased_shape(shape_id)",
        "UPDATE provenance.row_changes SET new_row = '()', row_key = 'x', shape_id = provenance.erased_shape(shape_id)",
        (
            "UPDATE provenance.row_changes SET new_row = '()', masked_changes = '{name}', "
            "shape_id = provenance.erased_shape(shape_id)"
        ),
    ],
)
def test_an_erasure_lets_through_nothing_else(erasing: Connection, statement: str) -> None:
    """Not even by the owner, in a transaction that erases."""
    with pytest.raises(errors.InsufficientPrivilege, match="is insert-only"), erasing.transaction():
        erasing.execute(statement.replace("{it}", "provenance.changing_action_id('erase')").encode())
    erased = erasing.execute("SELECT * FROM provenance.erase('ada', NULL, NULL, NULL, NULL, NULL, NULL)").fetchone()
    assert erased == (2, 0, 2, 0)


@pytest.mark.parametrize("declared", [False, True], ids=["not declared", "of another transaction"])
def test_only_in_an_action_that_says_so(eye: Connection, provenance_dsn: str, declared: bool) -> None:
    """Neither the function nor the same change by hand does anything without one that is known of."""
    with Trail(provenance_dsn) as trail:
        with trail.track_action("act", concept="work", payload=1, user_id="ada"):
            pass
        with trail.track_action("erase", concept="trail", durability="intent" if declared else "atomic") as action:
            change = "UPDATE provenance.actions SET payload = NULL, erased_by_action_id = %s"
            with psycopg.connect(provenance_dsn) as session:
                session.execute(f"SET LOCAL provenance.action_id = '{action.id}'".encode())
                for query, params in (
                    ("SELECT provenance.erase('ada', NULL, NULL, NULL, NULL, NULL, NULL)", ()),
                    (change, (action.id,)),
                ):
                    with (
                        pytest.raises((errors.ObjectNotInPrerequisiteState, errors.InsufficientPrivilege)),
                        session.transaction(),
                    ):
                        session.execute(query.encode(), params)
    assert eye.execute("SELECT payload FROM provenance.actions WHERE action_type = 'act'").fetchone() == (1,)


def test_who_may_not_erase(eye: Connection, provenance_dsn: str) -> None:
    """Writers, readers and maintainers are told who may; the attempt is recorded."""
    name = f"provenance_role_{secrets.token_hex(8)}"
    eye.execute(f"CREATE ROLE {name} LOGIN".encode())
    eye.execute("SELECT provenance.grant_writer(%(name)s), provenance.grant_maintainer(%(name)s)", {"name": name})
    try:
        with Trail(conninfo.make_conninfo(provenance_dsn, user=name)) as trail:
            with pytest.raises(SchemaNotReady, match="connect as the role that owns the schema provenance"):
                trail.erase(user_id="ada", reason="because")
            (found,) = trail.actions.search(action_type="erase").items
            assert (found.status, json.dumps(found.payload)) == ("failed", '{"reason": "because", "user_id": "ada"}')
    finally:
        eye.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())
