"""The repository of a concept: what it writes and reads, and that every write is part of an action."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import provenance
from provenance import ids, track_action
from provenance.concepts import (
    AsyncConceptRepository,
    Attribute,
    Concept,
    ConceptRepository,
    DanglingReference,
    EntityNotFound,
    InvalidEntity,
    LiveIndex,
    Reference,
    Target,
    apply,
    linked,
)
from provenance.errors import (
    MisusedAction,
    NoCurrentAction,
    SchemaNotReady,
    TableRefused,
    TrailUnavailable,
    UnserializableValue,
    WrongColour,
)
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import colours, roles
from tests.support.colours import Blocking, done

pytestmark = pytest.mark.anyio

colour = colours.colour

USER, NOTE, ODD, BARE = linked(
    Concept(name="user", attributes=[Attribute(name="name", type="text")]),
    Concept(
        name="note",
        references=[
            Reference(column="user_id", to="user", labels={"user_name": "name"}),
            Reference(
                column="publisher_id",
                type="integer",
                to=Target(table="public.publishers"),
                labels={"publisher": "name"},
                nullable=True,
            ),
        ],
        attributes=[
            Attribute(name="title", type="text"),
            Attribute(name="status", type="text", default="'new'"),
            Attribute(name="body", type="jsonb", nullable=True),
            Attribute(name="raw", type="json", nullable=True),
        ],
        indexes=[LiveIndex(columns=["user_id"]), LiveIndex(columns=["title"], unique=True)],
    ),
    Concept(
        name="odd",
        references=[Reference(column="100% (id)", to="user", labels={"%s": "name"})],
        attributes=[Attribute(name="self", type="int"), Attribute(name="%(entity_id)s", type="text")],
    ),
    Concept(name="bare"),
)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def provenance_dsn(provenance_dsn: str) -> str:
    """The address of a database with the concepts in it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE publishers (id integer PRIMARY KEY, name text); INSERT INTO publishers VALUES (1, 'Har Nof')"
        )
        apply(connection, USER, NOTE, ODD, BARE)
    return provenance_dsn


def repository(colour: Blocking, concept: Concept = NOTE) -> Any:
    return (ConceptRepository if type(colour) is Blocking else AsyncConceptRepository)(concept, colour.trail)


@pytest.fixture
def notes(colour: Blocking) -> Any:
    """The repository of notes, of either colour."""
    return repository(colour)


async def user(colour: Blocking, name: str = "ada") -> UUID:
    async with colour.track("sign_up"):
        made = await done(repository(colour, USER).create(name=name))
    assert isinstance(made.id, UUID)
    return made.id


async def several(colour: Blocking, notes: Any, count: int, **values: Any) -> list[UUID]:
    """Make notes, and return their ids, newest first."""
    made: list[UUID] = []
    async with colour.track("write"):
        for number in range(count):
            note = await done(notes.create(title=f"{number} {uuid4()}", **values))
            made.append(note.id)
    return sorted(made, reverse=True)


async def test_a_row_is_made_as_part_of_the_action(
    colour: Blocking, notes: Any, recorded_actions: RecordedActions
) -> None:
    """It has what was given, defaults for the rest, the action and the time; and the action is about it."""
    author = await user(colour)
    async with colour.track("write") as action:
        made = await done(notes.create(user_id=author, title="dawn", body={"a": [1, None]}))
    assert {
        "user_id": author,
        "publisher_id": None,
        "title": "dawn",
        "status": "new",
        "body": {"a": [1, None]},
        "raw": None,
    } == made.values
    assert ("dawn", action.id, action.id, None) == (
        made["title"],
        made.created_by_action_id,
        made.updated_by_action_id,
        made.deleted_at,
    )
    assert made.created_at.tzinfo is UTC
    assert made.created_at <= made.updated_at <= made.created_at + timedelta(seconds=1)
    assert datetime.now(UTC) - made.created_at < timedelta(minutes=1)
    assert made == await done(notes.get(made.id))
    recorded = recorded_actions.one(action_type="write")
    assert ("completed", "note", str(made.id)) == (recorded.status, recorded.entity_type, recorded.entity_id)


async def test_a_read_inside_the_action_sees_what_it_wrote(colour: Blocking, notes: Any) -> None:
    """Others do not, until it has committed."""
    author = await user(colour)
    other = await colour.connect(autocommit=True)
    async with colour.track("write"):
        made = await done(notes.create(user_id=author, title="dawn"))
        assert made == await done(notes.get(str(made.id)))
        assert [made] == list(await done(notes.list_live()))
        assert [] == list(await done(notes.list_resolved()))
        await done(notes.refresh())
        assert [made.id] == [note.id for note in await done(notes.list_resolved())]
        cursor = await done(other.execute("SELECT count(*) FROM notes"))
        assert (0,) == await done(cursor.fetchone())
    await done(other.close())
    assert made == await done(notes.get(made.id))


async def test_a_refresh_is_an_action(colour: Blocking, notes: Any, recorded_actions: RecordedActions) -> None:
    """About the view; inside an action, a part of that. While another session refreshes the view, nothing is done."""
    assert await done(notes.refresh())
    async with colour.track("write"):
        assert await done(notes.refresh())
    other = await colour.connect()
    await done(other.execute("SELECT refresh_notes_resolved()"))
    assert not await done(notes.refresh())
    await done(other.close())
    recorded_actions.expect("""
        refresh_view completed
        write completed
          refresh_view completed
        refresh_view completed
    """)
    assert {"public.notes_resolved"} == {action.entity_id for action in recorded_actions.all(entity_type="view")}


async def test_an_update_changes_what_it_names(colour: Blocking, notes: Any, recorded_actions: RecordedActions) -> None:
    """The rest stays; the action that made the row stays; the action of the update is about the row."""
    (note_id,) = await several(colour, notes, 1, user_id=await user(colour))
    before = await done(notes.get(note_id))
    async with colour.track("mark") as action:
        after = await done(notes.update(note_id, status="old", body=[1]))
    assert {**before.values, "status": "old", "body": [1]} == after.values
    assert (before.created_by_action_id, action.id, before.created_at) == (
        after.created_by_action_id,
        after.updated_by_action_id,
        after.created_at,
    )
    assert after.updated_at > before.updated_at
    assert str(note_id) == recorded_actions.one(action_type="mark").entity_id


async def test_the_innermost_action_is_the_one_that_is_noted(colour: Blocking, notes: Any) -> None:
    """As everywhere."""
    author = await user(colour)
    async with colour.track("outer"), colour.track("inner") as inner:
        made = await done(notes.create(user_id=author, title="dawn"))
    assert inner.id == made.created_by_action_id


async def test_soft_delete_and_restore(colour: Blocking, notes: Any) -> None:
    """A deleted row is in no listing, and is there to be asked for."""
    kept, note_id = await several(colour, notes, 2, user_id=await user(colour))
    async with colour.track("delete") as action:
        deleted = await done(notes.soft_delete(note_id))
    await done(notes.refresh())
    assert (note_id, action.id) == (deleted.id, deleted.updated_by_action_id)
    assert deleted.deleted_at.tzinfo is UTC
    assert None is await done(notes.get(note_id))
    assert deleted == await done(notes.get(note_id, include_deleted=True))
    assert [kept] == [note.id for note in await done(notes.list_live())]
    assert [kept] == [note.id for note in await done(notes.list_resolved())]
    async with colour.track("restore"):
        restored = await done(notes.restore(note_id))
    assert None is restored.deleted_at
    assert restored == await done(notes.get(note_id))


async def test_a_row_whose_natural_key_was_taken_stays_deleted(
    colour: Blocking, notes: Any, recorded_actions: RecordedActions
) -> None:
    """Postgres says so, in its own error; the action is a failed one."""
    author = await user(colour)
    async with colour.track("write"):
        first = await done(notes.create(user_id=author, title="dawn"))
        await done(notes.soft_delete(first.id))
        await done(notes.create(user_id=author, title="dawn"))
    with pytest.raises(psycopg.errors.UniqueViolation, match="notes_title_key"):
        async with colour.track("restore"):
            await done(notes.restore(first.id))
    assert "failed" == recorded_actions.one(action_type="restore").status
    assert None is await done(notes.get(first.id))


@pytest.mark.parametrize(
    ("method", "values", "what"),
    [("update", {"title": "x"}, "live"), ("soft_delete", {}, "live"), ("restore", {}, "deleted")],
)
async def test_a_row_that_is_not_there(
    colour: Blocking, notes: Any, recorded_actions: RecordedActions, *, method: str, values: Any, what: str
) -> None:
    """The action fails, because nothing of what it says has happened."""
    missing = uuid4()
    with pytest.raises(EntityNotFound, match=rf"^there is no {what} note {missing}; look with get"):
        async with colour.track("try"):
            await done(getattr(notes, method)(missing, **values))
    assert "failed" == recorded_actions.one(action_type="try").status


async def test_pages_of_what_is_resolved(colour: Blocking, notes: Any) -> None:
    """Newest first, with labels, in pages that rows made meanwhile do not shift."""
    author = await user(colour)
    made = await several(colour, notes, 5, user_id=author, publisher_id=1)
    await done(notes.refresh())
    first = await done(notes.list_resolved(limit=2))
    newer = await several(colour, notes, 1, user_id=author)
    await done(notes.refresh())
    second = await done(notes.list_resolved(before=first.next, limit=2))
    third = await done(notes.list_resolved(before=str(second.next), limit=2))
    assert made == [note.id for page in (first, second, third) for note in page]
    assert None is third.next
    assert newer[0] == (await done(notes.list_resolved(limit=1))).items[0].id
    note = first.items[0]
    assert ({"user_name": "ada", "publisher": "Har Nof"}, (), None) == (note.labels, note.dangling, note.deleted_at)
    assert ("ada", author) == (note["user_name"], note["user_id"])
    live = await done(notes.get(note.id))
    assert (live.values, live.created_by_action_id, live.created_at, live.updated_at) == (
        note.values,
        note.created_by_action_id,
        note.created_at,
        note.updated_at,
    )


@pytest.mark.parametrize("method", ["list_live", "list_resolved"])
async def test_listings_by_values(colour: Blocking, notes: Any, method: str) -> None:
    """Of references and attributes, all of them together; None means null, JSON is compared as JSON."""
    ada, eve = await user(colour, "ada"), await user(colour, "eve")
    of_ada = await several(colour, notes, 2, user_id=ada, publisher_id=1)
    of_eve = await several(colour, notes, 1, user_id=eve, status="old", body={"b": 1, "a": 2})
    await done(notes.refresh())

    async def found(**where: Any) -> list[UUID]:
        return [note.id for note in await done(getattr(notes, method)(where=where))]

    assert of_ada == await found(user_id=ada)
    assert of_ada == await found(user_id=str(ada), publisher_id=1)
    assert of_eve == await found(publisher_id=None, status="old")
    assert of_eve == await found(body={"a": 2, "b": 1})
    assert [] == await found(user_id=eve, status="new")


async def test_dangling_references_are_listed(colour: Blocking, notes: Any) -> None:
    """Which row, which reference, which id; a page holds whole rows."""
    author, nobody = await user(colour), uuid4()
    (one,) = await several(colour, notes, 1, user_id=author, publisher_id=7)
    await several(colour, notes, 1, user_id=author, publisher_id=1)
    (both,) = await several(colour, notes, 1, user_id=nobody, publisher_id=8)
    await done(notes.refresh())
    first = await done(notes.dangling(limit=1))
    assert (
        DanglingReference(entity_id=both, column="user_id", value=nobody),
        DanglingReference(entity_id=both, column="publisher_id", value=8),
    ) == first.items
    second = await done(notes.dangling(before=first.next, limit=1))
    assert (DanglingReference(entity_id=one, column="publisher_id", value=7),) == second.items
    assert None is second.next
    shown = await done(notes.list_resolved(where={"user_id": nobody}))
    assert [("user_id", "publisher_id")] == [note.dangling for note in shown]
    assert [{"user_name": None, "publisher": None}] == [note.labels for note in shown]


async def test_the_history_of_a_row(colour: Blocking, notes: Any) -> None:
    """The actions about it, newest first, in pages."""
    author = await user(colour)
    async with colour.track("write"):
        note = await done(notes.create(user_id=author, title="dawn"))
    async with colour.track("mark"):
        await done(notes.update(note.id, status="old"))
    async with colour.track("delete"):
        await done(notes.soft_delete(note.id))
    first = await done(notes.history(note.id, limit=2))
    second = await done(notes.history(str(note.id), before=first.next, limit=2))
    assert ["delete", "mark", "write"] == [action.action_type for page in (first, second) for action in page]


async def test_an_action_that_says_what_it_is_about_keeps_it(
    colour: Blocking, notes: Any, recorded_actions: RecordedActions
) -> None:
    """Another entity, or another row; the type alone is completed by the first row."""
    author = await user(colour)
    async with colour.track("other", entity_type="mailbox", entity_id=7):
        await done(notes.create(user_id=author, title="a"))
    async with colour.track("other type", entity_type="mailbox"):
        await done(notes.create(user_id=author, title="b"))
    async with colour.track("typed", entity_type="note"):
        first = await done(notes.create(user_id=author, title="c"))
        await done(notes.create(user_id=author, title="d"))
    assert [("mailbox", "7"), ("mailbox", None), ("note", str(first.id))] == [
        (action.entity_type, action.entity_id)
        for action in (recorded_actions.one(action_type=name) for name in ("other", "other type", "typed"))
    ]


@pytest.mark.parametrize("value", [{"a": 1}, [1, "zwei", None], "text", 1.5, 0, False, "", {"%s": "é☃"}])
async def test_json_values_come_back_as_they_went(colour: Blocking, notes: Any, value: Any) -> None:
    """Whatever the application's connections do with JSON columns otherwise."""
    author = await user(colour)
    async with colour.track("write") as action:
        for kind in ("json", "jsonb"):
            action.connection.adapters.register_loader(kind, TextLoader)
        made = await done(notes.create(user_id=author, title="dawn", body=value, raw=value))
    assert (value, value) == (made["body"], made["raw"])
    assert value == (await done(notes.get(made.id)))["body"]


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", [{1, 2}, object(), {"a": float("nan")}, datetime.now(UTC), DEEP], ids=type)
async def test_a_value_without_a_json_form(colour: Blocking, notes: Any, value: Any) -> None:
    """It is named, and not repeated."""
    with pytest.raises(UnserializableValue, match=r"^note\.body: expected a value with a JSON form"):
        await done(notes.update(uuid4(), body=value))


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ({1: "a", "1": "b"}, "a key of type int"),
        ([{"a": [{None: 1}]}], "a key of type NoneType"),
        ("a\0", "text with U+0000 or a surrogate"),
        ({"a": ["b", ("\ud800",)]}, "text with U+0000 or a surrogate"),
        ({"\udfff": 1}, "text with U+0000 or a surrogate"),
    ],
)
async def test_a_value_that_would_come_back_as_another(colour: Blocking, notes: Any, value: Any, flaw: str) -> None:
    """Or not at all: Python has a JSON form for it, and Postgres has not."""
    expected = f"note.body: expected a value with a JSON form, without {flaw}; convert it first"
    with pytest.raises(UnserializableValue, match=re.escape(expected)):
        await done(notes.update(uuid4(), body=value))


async def test_labels_that_are_json(colour: Blocking) -> None:
    """As attributes that are JSON are: in the view and live, whatever the application's connections do with JSON columns."""
    setup = await colour.connect(autocommit=True)
    await done(setup.execute("CREATE TABLE pages (id int PRIMARY KEY, body jsonb, raw json, name text)"))
    await done(setup.execute("""INSERT INTO pages VALUES (1, '{"a": [1]}', '"x"', '"x"'), (2, 'null', NULL, NULL)"""))
    labels = {name: name for name in ("body", "raw", "name")}
    link = Concept(
        name="link",
        references=[Reference(column="page", type="int", to=Target(table="public.pages"), labels=labels)],
        attributes=[Attribute(name="kept", type="pg_catalog.jsonb")],
    )
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        apply(connection, link)
    await done(setup.close())
    links = repository(colour, link)
    made: list[UUID] = []
    for page in (1, 2, 3):
        async with colour.track("write"):
            made.append((await done(links.create(page=page, kept={"b": None}))).id)
    expected: list[dict[str, Any]] = [
        {"body": {"a": [1]}, "raw": "x", "name": '"x"'},
        {"body": None, "raw": None, "name": None},
        {"body": None, "raw": None, "name": None},
    ]
    async with colour.track("read") as action:
        for kind in ("json", "jsonb"):
            action.connection.adapters.register_loader(kind, TextLoader)
        await done(links.refresh())
        live = [await done(links.resolve(row)) for row in made]
        shown = {row.id: row for row in await done(links.list_resolved())}
    assert expected == [row.labels for row in live]
    assert expected == [shown[row].labels for row in made]
    assert [{"b": None}] * 3 == [row["kept"] for row in live]


@pytest.mark.direct("PgBouncer refuses startup options")
async def test_an_operator_of_somebody_elses_compares_nothing(colour: Blocking) -> None:
    """Even one that fits better than Postgres's own, first in the search path."""
    code = Concept(name="code", attributes=[Attribute(name="name", type="varchar(9)")])
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        apply(connection, code)
        for kind in ("varchar", "uuid"):
            connection.execute(
                f"""CREATE FUNCTION never({kind}, {kind}) RETURNS boolean RETURN false;
                    CREATE OPERATOR public.= (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = never);
                    CREATE OPERATOR public.< (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = never)""".encode()
            )
    opened = type(colour)()
    await opened.open(psycopg.conninfo.make_conninfo(colour.dsn, options="-c search_path=public,pg_catalog"))
    codes = repository(opened, code)
    async with opened.track("write"):
        first = await done(codes.create(name="a"))
    async with opened.track("write"):
        second = await done(codes.create(name="b"))
    await done(codes.refresh())
    assert first == await done(codes.get(first.id))
    assert first.id == (await done(codes.resolve(first.id))).id
    for listing in (codes.list_live, codes.list_resolved):
        assert [first.id] == [found.id for found in await done(listing(where={"name": "a"}))]
        assert [first.id] == [found.id for found in await done(listing(before=second.id))]
    async with opened.track("rename"):
        await done(codes.update(first.id, name="c"))
    await opened.close()


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [
        ("char(3)", "abc", "abd"),
        ("bit(3)", "101", "100"),
        ("numeric(10,2)", 0.1, 0.2),
        ("float(4)", 0.1, 0.2),
        ("varchar(3)", "abcd", "abc"),
        ("text", 5, 6),
        ("int[]", [1, 2], [1]),
        ("interval day to second(0)", timedelta(hours=1), timedelta(hours=2)),
        ("public.mood", "good", "bad"),
    ],
)
async def test_what_a_value_is_compared_as(colour: Blocking, kind: str, value: Any, other: Any) -> None:
    """As the column's type, and whole: what is too long for it equals nothing in it."""
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('good', 'bad')")
        thing = Concept(name="thing", attributes=[Attribute(name="kind", type=kind)])
        apply(connection, thing)
    things = repository(colour, thing)
    kept = other if value == "abcd" else value
    async with colour.track("write"):
        made = await done(things.create(kind=str(kept) if kind == "text" else kept))
    expected = [] if value == "abcd" else [made.id]
    assert expected == [found.id for found in await done(things.list_live(where={"kind": value}))]
    assert len(expected) != len(await done(things.list_live(where={"kind": other})))


async def test_the_type_of_a_column_changes_while_the_application_runs(colour: Blocking) -> None:
    """Its connections go on, however often they have sent the same statement before."""
    counter = Concept(name="counter", attributes=[Attribute(name="n", type="int")])
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        apply(connection, counter)
        counters = repository(colour, counter)
        for wide in (False, True):
            for number in range(7):
                async with colour.track("count"):
                    made = await done(counters.create(n=number))
                    assert number == (await done(counters.get(made.id)))["n"]
                await done(counters.list_live())
                await done(counters.list_resolved())
            if not wide:
                apply(connection, attrs.evolve(counter, attributes=[Attribute(name="n", type="bigint")]))
    assert 14 == len(await done(counters.list_live()))


@pytest.mark.parametrize(
    ("method", "arguments", "values", "said"),
    [
        ("create", [], {"titel": "a", "id": 1}, "creating a note: it has no titel, id; expected user_id, publisher_id"),
        ("update", [uuid4()], {"created_at": 1}, "updating a note: it has no created_at; expected user_id"),
        ("update", [uuid4()], {}, "updating a note: nothing to change; name at least one"),
        ("update", ["7"], {"title": "a"}, "entity_id: expected the UUID of a note"),
        ("get", [7], {}, "entity_id: expected the UUID of a note"),
        ("soft_delete", [None], {}, "entity_id: expected the UUID of a note"),
        ("history", ["x"], {}, "entity_id: expected the UUID of a note"),
        ("list_live", [], {"before": "x"}, "before: expected the UUID of a note"),
        ("list_live", [], {"limit": 0}, "limit: expected 1 to 1000, got 0"),
        ("list_resolved", [], {"limit": 1001}, "limit: expected 1 to 1000, got 1001"),
        ("list_live", [], {"limit": "5"}, "limit: expected a number from 1 to 1000, got str"),
        ("list_live", [], {"limit": None}, "limit: expected a number from 1 to 1000, got NoneType"),
        ("dangling", [], {"limit": True}, "limit: expected a number from 1 to 1000, got bool"),
        ("list_live", [], {"where": None}, "where: expected a mapping of names to values, got NoneType"),
        ("list_resolved", [], {"where": ["title"]}, "where: expected a mapping of names to values, got list"),
        ("list_resolved", [], {"where": {"titel": 1}}, "listing by values of a note: it has no titel"),
        ("list_live", [], {"where": {"raw": {}}}, "note.raw is json, which Postgres does not compare"),
    ],
)
async def test_a_call_that_does_not_fit(notes: Any, method: str, arguments: Any, values: Any, said: str) -> None:
    """One sentence, before any SQL, and before an action is missed."""
    with pytest.raises(InvalidEntity) as caught:
        await done(getattr(notes, method)(*arguments, **values))
    assert str(caught.value).startswith(said)


async def test_nothing_is_written_outside_an_action(notes: Any) -> None:
    """It says what is missing, and reading goes on."""
    with pytest.raises(NoCurrentAction, match="writing a note needs an action that tells of it, and none is open here"):
        await done(notes.create(user_id=uuid4(), title="dawn"))
    assert 0 == len(await done(notes.list_live()))


async def test_an_action_of_another_trail_is_no_place_to_write(
    colour: Blocking, notes: Any, provenance_dsn: str
) -> None:
    """Its database may be another one. Reading takes a connection of the right trail."""
    other = type(colour)()
    await other.open(provenance_dsn)
    async with other.track("elsewhere"):
        with pytest.raises(MisusedAction, match=r"track_action\('elsewhere'\), is recorded by another trail"):
            await done(notes.create(user_id=uuid4(), title="dawn"))
        assert 0 == len(await done(notes.list_live()))
    await other.close()


async def test_an_action_without_a_connection(colour: Blocking, notes: Any) -> None:
    """It cannot write; it can read."""
    async with colour.track("call", transaction=False):
        with pytest.raises(MisusedAction, match="transaction=False, so it holds no connection"):
            await done(notes.create(user_id=uuid4(), title="dawn"))
        assert 0 == len(await done(notes.list_live()))


async def test_a_block_that_nobody_can_leave_is_passed_over(colour: Blocking, notes: Any) -> None:
    """The write is part of the action around it."""
    author = await user(colour)
    async with colour.track("outer") as outer:
        lost = colour.trail.track_action("lost", concept="work", transaction=False)
        await done(lost.__enter__() if type(colour) is Blocking else lost.__aenter__())
        del lost
        made = await done(notes.create(user_id=author, title="dawn"))
    assert outer.id == made.created_by_action_id


async def test_a_concept_that_is_not_in_the_database(colour: Blocking) -> None:
    """Missing or older than its declaration; it says what to run, inside an action and outside."""
    missing = repository(colour, Concept(name="ghost"))
    newer = repository(colour, Concept(name="user", attributes=[Attribute(name="nick", type="text")]))
    with pytest.raises(
        SchemaNotReady, match=r'lacks the concept ghost as it is declared \(relation "public.ghosts" does'
    ):
        await done(missing.list_live())
    with pytest.raises(
        SchemaNotReady, match=r'lacks the concept ghost as it is declared \(relation "public.ghosts_resolved" does'
    ):
        await done(missing.refresh())
    with pytest.raises(
        SchemaNotReady, match=r"lacks the concept user .*nick does not exist\); run your migrations, or"
    ):
        async with colour.track("rename"):
            await done(newer.update(uuid4(), nick="a"))


async def test_a_trigger_of_the_application_fails(colour: Blocking, notes: Any) -> None:
    """On what the application itself lacks: that is for the application to see, and says nothing about the concept."""
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        connection.execute(
            """CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM FROM nowhere; RETURN NEW; END';
               CREATE TRIGGER fails AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fails()"""
        )
    with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
        async with colour.track("write"):
            await done(notes.create(user_id=uuid4(), title="dawn"))


@pytest.fixture
async def bare_writer(request: pytest.FixtureRequest, provenance_dsn: str, colour: Blocking) -> AsyncIterator[Any]:
    """A function that grants to a role, and the same colour connected as that role, which may only write to the trail."""
    with roles.writer(provenance_dsn) as (name, address):

        def grant(rights: str) -> None:
            with psycopg.connect(provenance_dsn, autocommit=True) as owner:
                owner.execute(f"GRANT {rights} TO {name}".encode())

        opened = type(colour)()
        await opened.open(address)
        yield grant, opened
        await opened.close()


def lacks(right: str) -> str:
    return (
        f"this database role lacks a right that working with the concept note needs (permission denied for {right}); have "
        "the owner of that grant it, or connect as another role"
    )


async def test_a_role_without_rights_is_told_which_it_lacks(bare_writer: Any) -> None:
    """One after another, whatever is asked, inside an action and outside; with all of them it works."""
    grant, colour = bare_writer
    notes = repository(colour)

    async def create() -> UUID:
        async with colour.track("write"):
            note = await done(notes.create(title="dawn", user_id=uuid4()))
        made: UUID = note.id
        return made

    async def refused(answer: Callable[[], Any]) -> str:
        with pytest.raises((SchemaNotReady, TableRefused)) as caught:
            await done(answer())
        return str(caught.value)

    assert lacks("table notes") == await refused(create) == await refused(notes.list_live)
    grant("SELECT, INSERT, UPDATE ON notes")
    made = await create()
    assert made == (await done(notes.get(made))).id
    assert lacks("table users") == await refused(lambda: notes.resolve(made))
    grant("SELECT ON users")
    assert lacks("table publishers") == await refused(lambda: notes.resolve(made))
    grant("SELECT ON publishers")
    assert made == (await done(notes.resolve(made))).id
    assert lacks("materialized view notes_resolved") == await refused(notes.list_resolved)
    grant("SELECT ON notes_resolved")
    assert 0 == len(await done(notes.list_resolved()))
    assert "have its owner grant EXECUTE on the function public.refresh_notes_resolved()" in await refused(
        notes.refresh
    )
    grant("EXECUTE ON FUNCTION refresh_notes_resolved()")
    assert await done(notes.refresh())
    assert "permission denied for view action_log" in await refused(lambda: notes.history(made))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE notes ENABLE ROW LEVEL SECURITY", "violates row-level security policy"),
        (
            """CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM FROM users; RETURN NEW; END';
               CREATE TRIGGER fails AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fails()""",
            "permission denied for table users",
        ),
    ],
)
async def test_what_is_refused_and_no_right_of_the_repository(
    bare_writer: Any, provenance_dsn: str, change: str, said: str
) -> None:
    """A row that a policy forbids, and what a trigger of the application may not, come as they are."""
    grant, colour = bare_writer
    grant("SELECT, INSERT ON notes")
    with psycopg.connect(provenance_dsn, autocommit=True) as owner:
        owner.execute(change.encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=said):
        async with colour.track("write"):
            await done(repository(colour).create(title="dawn", user_id=uuid4()))


async def test_a_refresh_that_is_refused(colour: Blocking, notes: Any) -> None:
    """It says why."""
    other = await colour.connect(autocommit=True)
    await done(other.execute("DROP INDEX notes_resolved_pkey"))
    await done(other.close())
    with pytest.raises(TableRefused, match="create a unique index with no WHERE clause"):
        await done(notes.refresh())


async def test_a_database_that_cannot_be_reached(colour: Blocking, notes: Any) -> None:
    """An error of ours that says where to look."""
    taken = await done(colour.pool.getconn())
    colour.pool.timeout = 0.05
    with pytest.raises(TrailUnavailable, match="no database connection for reading a note"):
        await done(notes.list_live())
    await done(colour.pool.putconn(taken))


@pytest.mark.direct("PgBouncer refuses startup options")
async def test_a_read_that_takes_too_long(provenance_dsn: str, colour: Blocking) -> None:
    """What the server says of the query comes as it is."""
    limited = psycopg.conninfo.make_conninfo(provenance_dsn, options="-c lock_timeout=10ms")
    opened = type(colour)()
    await opened.open(limited)
    locked = await colour.connect()
    await done(locked.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE"))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        await done(repository(opened).list_live())
    await done(locked.close())
    await opened.close()


async def test_names_that_psycopg_might_take_for_something_else(colour: Blocking) -> None:
    """Percent signs, parentheses, and names of parameters."""
    odd = repository(colour, ODD)
    author = await user(colour)
    values = {"100% (id)": author, "self": 1, "%(entity_id)s": "%s"}
    async with colour.track("write"):
        made = await done(odd.create(**values))
        changed = await done(odd.update(made.id, self=2))
    await done(odd.refresh())
    assert {**values, "self": 2} == changed.values
    (shown,) = await done(odd.list_resolved(where={"100% (id)": author, "%(entity_id)s": "%s"}))
    assert {"%s": "ada"} == shown.labels


async def test_a_concept_without_columns_of_its_own(colour: Blocking) -> None:
    """It has an id, and can be deleted."""
    bare = repository(colour, BARE)
    async with colour.track("write"):
        made = await done(bare.create())
    await done(bare.refresh())
    assert [made.id] == [entity.id for entity in await done(bare.list_resolved())]
    assert () == (await done(bare.dangling())).items
    with pytest.raises(InvalidEntity, match="it has no title; expected nothing"):
        await done(bare.create(title="a"))


async def test_without_a_trail_it_is_the_configured_one(trail: Trail) -> None:
    """As for module-level track_action; a repository may be made before that is configured."""
    blocking, awaiting = ConceptRepository(USER), AsyncConceptRepository(USER)
    with track_action("sign_up", concept="user"):
        made = blocking.create(name="ada")
    async with provenance.get_async_trail():
        async with track_action("rename", concept="user"):
            await awaiting.update(made.id, name="eve")
        assert "eve" == (await awaiting.get(made.id))["name"]  # type: ignore[index]
    found = blocking.get(made.id)
    assert found is not None
    assert "eve" == found["name"]


def test_both_colours_have_the_same_methods() -> None:
    """The same names, parameters and answers, but for the await and the trail."""

    def signatures(cls: type) -> dict[str, str]:
        return {name: str(inspect.signature(member)) for name, member in vars(cls).items() if not name.startswith("_")}

    assert signatures(ConceptRepository) == signatures(AsyncConceptRepository)
    methods = {"create", "update", "soft_delete", "restore", "get", "resolve", "list_live"}
    assert methods | {"list_resolved", "dangling", "refresh", "history"} == set(signatures(ConceptRepository))


def test_ids_are_made_by_the_database(trail: Trail) -> None:
    """Their time is that of the row, so that newest first is by id."""
    with track_action("sign_up", concept="user"):
        made = ConceptRepository(USER).create(name="ada")
    assert abs((made.id.int >> 80) * 1_000 - ids.microseconds(made.created_at)) < 1_000_000


async def test_a_trail_of_the_other_colour(colour: Blocking) -> None:
    """It is refused when the repository is made, and not at the first call."""
    wrong = AsyncConceptRepository if type(colour) is Blocking else ConceptRepository
    with pytest.raises(WrongColour, match=r"repository of note needs an? \w*Trail, got \w*Trail; pass one, or use the"):
        wrong(NOTE, colour.trail)


@pytest.mark.parametrize("pool", [ConnectionPool, AsyncConnectionPool])
def test_a_repository_is_made_without_a_database(pool: Any) -> None:
    """Nothing is opened before the first call."""
    trail = provenance.Trail(pool("host=nowhere", open=False)) if pool is ConnectionPool else None
    assert isinstance(ConceptRepository(NOTE, trail), ConceptRepository)
