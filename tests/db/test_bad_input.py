"""What callers get for bad arguments, bad set-ups and bodies that misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import IsolationLevel, sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import provenance
from provenance import AsyncTrail, Trail, current_action, track_action
from provenance.errors import (
    InvalidAction,
    MisusedAction,
    NotCommitted,
    NotConfigured,
    ProvenanceError,
    SchemaNotReady,
    TrailUnavailable,
    UnserializableValue,
    WrongColour,
)
from provenance.journal import connections
from provenance.testing import RecordedActions
from tests.support import databases

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

INSERT = "INSERT INTO work (id) VALUES (%s)"
LEAKED = "hunter2"


def present(eye: psycopg.Connection[Any]) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


@pytest.fixture
def single(provenance_dsn: str) -> Iterator[Trail]:
    """A trail on a pool with one connection: if that is lost, the next block cannot begin."""
    with ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=1, open=True) as pool, Trail(pool) as trail:
        yield trail


# --- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"action_type": ""}, "action_type is empty"),
        ({"action_type": "x" * 101}, "action_type has 101 characters"),
        ({"action_type": None}, "action_type: expected .* got NoneType"),
        ({"action_type": "a\x00b"}, "action_type has characters that cannot be printed"),
        ({"concept": ""}, "concept is empty"),
        ({"concept": "x" * 1_000_000}, "concept has 1000000 characters"),
        ({"concept": b"zman"}, "concept: expected .* got bytes"),
        ({"entity_type": ""}, "entity_type is empty"),
        ({"entity_id": 1.5}, "entity_id: expected .* got float"),
        ({"user_id": object()}, "user_id: expected .* got object"),
        ({"tenant_id": True}, "tenant_id: expected .* got bool"),
        ({"metadata": ["a"]}, "metadata: expected a mapping, got list"),
        ({"connection": "postgresql:///app"}, "connection: expected a psycopg connection, got str"),
    ],
)
def test_bad_argument(given: dict[str, Any], said: str) -> None:
    """At the call, before any trail is needed; a ValueError that does not repeat what it was given."""
    arguments: dict[str, Any] = {"action_type": "add", "concept": "work"} | given
    with pytest.raises(InvalidAction, match=said) as caught:
        track_action(**arguments)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("wrong", ["zz", 5, "", b"0" * 16])
def test_bad_action_id(trail: Trail, recorded_actions: RecordedActions, wrong: Any) -> None:
    """Whatever takes an action's id says so, before any SQL."""
    uses: list[Callable[[], object]] = [
        lambda: trail.complete(wrong),
        lambda: trail.fail(wrong, "reason"),
        lambda: trail.resume(wrong),
        lambda: trail.actions.get(wrong),
        lambda: trail.actions.chain(wrong),
        lambda: trail.actions.ancestors(wrong),
        lambda: trail.actions.tree(wrong),
        lambda: trail.actions.search(before=wrong),
        lambda: trail.track_action("add", concept="work", parent=wrong),
    ]
    for use in uses:
        with pytest.raises(InvalidAction, match="expected the UUID of an action"):
            use()
    assert recorded_actions.all() == []


def test_an_action_id_as_text(trail: Trail) -> None:
    """It may come out of a URL or a message."""
    begun = trail.begin("add", concept="work")
    trail.complete(str(begun))  # type: ignore[arg-type]
    found = trail.actions.get(str(begun))  # type: ignore[arg-type]
    assert found is not None
    assert found.status == "completed"


@pytest.mark.parametrize("wrong", [5, None, timedelta(), timedelta(seconds=-1)])
def test_bad_expiry(trail: Trail, recorded_actions: RecordedActions, wrong: Any) -> None:
    """An action that expires at once would never be pending."""
    with pytest.raises(InvalidAction, match="a timedelta above zero"):
        trail.begin("add", concept="work", expires_in=wrong)
    assert recorded_actions.all() == []


def test_bad_reason(trail: Trail) -> None:
    """A reason is text or an exception."""
    begun = trail.begin("add", concept="work")
    wrong: Any = 5
    with pytest.raises(InvalidAction, match="got int"):
        trail.fail(begun, wrong)
    with trail.track_action("add", concept="work") as action, pytest.raises(InvalidAction, match="got int"):
        action.fail(wrong)


def test_an_exception_as_reason(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It is recorded as if it had been raised."""
    with trail.track_action("add", concept="work") as action:
        action.fail(ValueError("taken"))
    row = recorded_actions.one()
    assert ("failed", "ValueError", "taken") == (row.status, row.error_type, row.error_message)


@pytest.mark.parametrize("address", ["foo bar", "postgresql://u:hunter2@[/x", "nonsense=1"])
def test_malformed_address(address: str) -> None:
    """Refused where it is given, and not quoted: a part of it may be the password."""
    uses: list[Callable[[], object]] = [
        lambda: Trail(address),
        lambda: AsyncTrail(address),
        lambda: provenance.configure(address),
        lambda: Trail("dbname=x", journal=address),
    ]
    for use in uses:
        with pytest.raises(NotConfigured, match="malformed") as caught:
            use()
        assert LEAKED not in str(caught.value)


def test_bad_request_id() -> None:
    """At the call, naming the accepted forms."""
    with pytest.raises(ValueError, match="UUID"):
        track_action("add", concept="work", request_id="x")


@pytest.mark.parametrize("argument", ["payload", "metadata"])
@pytest.mark.parametrize("given", [{"transaction": True}, {"transaction": False}])
def test_unserialisable_value(
    trail: Trail, recorded_actions: RecordedActions, argument: str, given: dict[str, Any]
) -> None:
    """Before the work, naming the path inside the value and not the value."""
    value = {"items": [{"ok": 1}, {"bad": threading.Lock()}]}
    with (
        pytest.raises(UnserializableValue, match=rf"{argument}\b.*items.*1.*bad.*lock") as caught,
        track_action("add", concept="work", **{argument: value}, **given),
    ):
        pytest.fail("entered")
    assert isinstance(caught.value, TypeError)
    assert ("", 0) == (recorded_actions.outline(), trail.pool.get_stats().get("requests_num", 0))


def test_unserialisable_value_of_a_begun_action(trail: Trail, recorded_actions: RecordedActions) -> None:
    """begin(), complete() and their like refuse the same."""
    with pytest.raises(UnserializableValue, match="payload"):
        trail.begin("add", concept="work", payload=object())
    action_id = trail.begin("add", concept="work")
    with pytest.raises(UnserializableValue, match="result"):
        trail.complete(action_id, object())
    assert "add pending" == recorded_actions.outline()


def test_unserialisable_result(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Inside the block it is too late to refuse: the work stands, the value is marked, and a warning says where."""
    with track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        action.result = {"fine": 1, "bad": [object()]}
        action.metadata = {"also": object()}
    row = recorded_actions.one()
    assert ("completed", [1]) == (row.status, present(eye))
    assert isinstance(row.result, dict)
    assert isinstance(row.metadata, dict)
    assert 1 == row.result["fine"]
    assert 2 == len([record for record in caplog.records if record.levelname == "WARNING"])


@pytest.mark.parametrize("text", ["nul \x00", "surrogate \ud800", "x" * 1_000_000, "\u202e \x07 \x7f"])
def test_hostile_text(trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], text: str) -> None:
    """Text that a column cannot hold never costs the row, neither of a success nor of a failure."""
    with track_action(
        "add", concept="work", entity_id=text, user_id=text, payload={text: text}, metadata={"a": text}
    ) as action:
        action.connection.execute(INSERT, (1,))
        action.result = text
    with suppress(ValueError), track_action("add", concept="work"):
        raise ValueError(text)
    with track_action("add", concept="work") as action:
        action.fail(text)
    with track_action("add", concept="work", transaction=False) as action:
        action.result = [text]
    assert ["completed", "failed", "failed", "completed"] == [row.status for row in recorded_actions.all()]
    assert [1] == present(eye)


def test_error_that_cannot_be_shown(single: Trail, recorded_actions: RecordedActions) -> None:
    """An exception whose text fails to be made is recorded by its type."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(MuteError), single.track_action("add", concept="work"):
        raise MuteError
    row = recorded_actions.one()
    assert ("failed", "") == (row.status, row.error_message or "")
    assert (row.error_type or "").endswith("MuteError")


def test_error_whose_attributes_cannot_be_read(single: Trail, recorded_actions: RecordedActions) -> None:
    """Nor does it matter what else of an exception fails: the row is there, the connection goes back."""

    class TrappedError(Exception):
        @property
        def orig(self) -> Exception:
            raise RuntimeError("no")

    with pytest.raises(TrappedError), single.track_action("add", concept="work"):
        raise TrappedError("caught")
    with single.track_action("next", concept="work"):
        pass
    recorded_actions.expect("""
        add failed
        next completed
    """)


# --- Set-up ----------------------------------------------------------------------------------------------------------


def begin(trail: Trail) -> None:
    trail.begin("add", concept="work")


def enter(trail: Trail) -> None:
    with trail.track_action("add", concept="work"):
        pytest.fail("entered")


def enter_detached(trail: Trail) -> None:
    with trail.track_action("add", concept="work", transaction=False):
        pytest.fail("entered")


def resume(trail: Trail) -> None:
    trail.resume(uuid4())


def complete(trail: Trail) -> None:
    trail.complete(uuid4())


ENTRANCES = [enter, enter_detached, begin, resume, complete]


@pytest.mark.parametrize("use", [enter, begin])
def test_no_trail(use: Callable[[Any], None]) -> None:
    """The error says what to call."""
    with pytest.raises(NotConfigured, match=r"provenance\.configure\(dsn\)") as caught:
        use(provenance if use is enter else provenance.get_trail())
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("given", [{}, {"conninfo": "postgresql:///app", "pool": object()}])
def test_configured_with_nothing_or_with_too_much(given: dict[str, Any]) -> None:
    """An address or pools, and not both."""
    with pytest.raises(NotConfigured, match="either an address or the pools"):
        provenance.configure(**given)


@pytest.fixture
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """A trail whose server is down, with little patience."""
    address = make_conninfo(host=str(tmp_path), port=5499, dbname="app", user="nobody")
    monkeypatch.setattr(connections, "DEADLINE", timedelta(milliseconds=200))
    with ConnectionPool(address, min_size=0, max_size=1, timeout=0.2, open=True) as pool, Trail(pool) as trail:
        yield trail


@pytest.mark.parametrize("use", ENTRANCES)
def test_server_down(dead: Trail, use: Callable[[Trail], None]) -> None:
    """One ConnectionError that says what to look at, before the work begins, and soon."""
    with pytest.raises(TrailUnavailable, match=r"check that .*the database is up") as caught:
        use(dead)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


@pytest.mark.parametrize("opened", [False, True])
def test_pool_of_the_application_closed(provenance_dsn: str, opened: bool) -> None:
    """Not opened yet, or closed already."""
    pool = ConnectionPool(provenance_dsn, min_size=0, max_size=1, open=opened)
    if opened:
        pool.close()
    with Trail(pool) as trail, pytest.raises(TrailUnavailable, match="check that the pool is open"):
        enter(trail)


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_address(given: str) -> None:
    """What a variable that is not set makes of it; libpq would look for some server or other."""
    with pytest.raises(NotConfigured, match="the address of the database is empty"):
        provenance.configure(given)


@pytest.mark.parametrize(("given", "said"), [("", "got an empty text"), (5, "got int")])
def test_a_spool_that_is_no_directory(provenance_dsn: str, given: Any, said: str) -> None:
    """An empty text would be the current directory."""
    with pytest.raises(NotConfigured, match=f"spool: expected a directory.*{said}"):
        Trail(provenance_dsn, spool=given)


def test_a_pool_of_the_other_colour(provenance_dsn: str) -> None:
    """It is told at once, and where it belongs."""

    async def main() -> None:
        pool: Any = AsyncConnectionPool(provenance_dsn, open=False)
        with pytest.raises(NotConfigured, match="it goes with AsyncTrail"):
            provenance.configure(pool=pool)

    asyncio.run(main())
    other: Any = ConnectionPool(provenance_dsn, open=False)
    with pytest.raises(NotConfigured, match="it goes with Trail"):
        provenance.configure(async_pool=other)


def test_pool_exhausted(single: Trail) -> None:
    """The pool's own timeout is the limit."""
    with single.pool.connection(), pytest.raises(TrailUnavailable, match="the pool is open and large enough"):
        enter(single)


@pytest.mark.parametrize("use", ENTRANCES)
def test_trail_closed(provenance_dsn: str, use: Callable[[Trail], None]) -> None:
    """A trail that is used after close() says so in its own words."""
    trail = Trail(provenance_dsn)
    with trail.track_action("add", concept="work"), trail.track_action("mail", concept="work", transaction=False):
        pass
    trail.close()
    with pytest.raises(TrailUnavailable, match="closed"):
        use(trail)


@pytest.fixture
def unmigrated(provenance_server: str) -> Iterator[str]:
    """The address of a database without the schema."""
    name = f"provenance_test_{uuid4().hex}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        yield make_conninfo(provenance_server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_schema_not_migrated(unmigrated: str) -> None:
    """Before the work begins, naming the remedy, in every way to begin."""
    with Trail(unmigrated) as trail:
        for use in ENTRANCES:
            with pytest.raises(SchemaNotReady, match="run `provenance migrate up`"):
                use(trail)
        with (
            psycopg.connect(unmigrated) as connection,
            pytest.raises(SchemaNotReady, match="run `provenance migrate up`"),
            trail.track_action("add", concept="work", connection=connection),
        ):
            pytest.fail("entered")


def test_schema_not_migrated_leaves_the_callers_transaction(unmigrated: str) -> None:
    """The savepoint around the question goes, and what the caller did before stays."""
    with Trail(unmigrated) as trail, psycopg.connect(unmigrated) as connection:
        connection.execute("CREATE TABLE notes (text text)")
        with suppress(SchemaNotReady), trail.track_action("add", concept="work", connection=connection):
            pytest.fail("entered")
        connection.execute("INSERT INTO notes VALUES ('still here')")
        connection.commit()
        assert [("still here",)] == connection.execute("SELECT text FROM notes").fetchall()


def test_schema_migrated_afterwards(unmigrated: str) -> None:
    """The trail looks again."""
    with Trail(unmigrated) as trail:
        with suppress(SchemaNotReady):
            enter(trail)
        with psycopg.connect(unmigrated, autocommit=True) as connection:
            provenance.schema.up(connection)  # type: ignore[attr-defined]
        with trail.track_action("add", concept="work"):
            pass
        assert ["completed"] == [row.status for row in trail.actions.search().items]


def test_reading_what_is_not_migrated(unmigrated: str) -> None:
    """The repositories say it too."""
    with Trail(unmigrated) as trail, pytest.raises(SchemaNotReady, match="run `provenance migrate up`"):
        trail.actions.get(uuid4())


def test_what_the_server_said_is_the_cause(unmigrated: str) -> None:
    """An error is not its own cause."""
    with Trail(unmigrated) as trail:
        with pytest.raises(SchemaNotReady) as caught:
            enter(trail)
        assert isinstance(caught.value.__cause__, psycopg.Error)


@contextmanager
def role(server: str, dsn: str, *grants: str) -> Iterator[str]:
    """Yield the address of the test's database for a role with nothing but these grants."""
    name = f"provenance_role_{uuid4().hex[:16]}"
    with psycopg.connect(server, autocommit=True) as admin, psycopg.connect(dsn, autocommit=True) as owner:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        for grant in grants:
            owner.execute(grant.format(name).encode())
        yield make_conninfo(dsn, user=name)
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_role_without_rights(provenance_server: str, provenance_dsn: str) -> None:
    """Before the work begins, naming the remedy."""
    with role(provenance_server, provenance_dsn) as address, Trail(address) as trail:
        for use in ENTRANCES:
            with pytest.raises(
                SchemaNotReady, match=r"lacks a right that .* needs .*`provenance migrate grant --(writer|reader) ROLE`"
            ):
                use(trail)


def test_role_that_may_only_write(
    provenance_server: str, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A writer that cannot read the trail can record everything there is to record."""
    grants = ("SELECT provenance.grant_writer('{}')", "GRANT SELECT, INSERT ON work TO {}")
    with role(provenance_server, provenance_dsn, *grants) as address, Trail(address) as trail:
        with trail.track_action("outer", concept="work") as action:
            action.connection.execute(INSERT, (1,))
            with suppress(ZeroDivisionError), trail.track_action("inner", concept="work"):
                raise ZeroDivisionError
            with trail.track_action("child", concept="work", parent=action.id, transaction=False):
                pass
        with suppress(psycopg.Error), trail.track_action("late", concept="work") as action:
            action.connection.execute("INSERT INTO work (id, secret) VALUES (2, 'a'), (3, 'a')")
        with suppress(NotCommitted), trail.track_action("meddling", concept="work") as action:
            action.connection.execute("COMMIT")
        action_id = trail.begin("begun", concept="work")
        with trail.resume(action_id) as action:
            action.connection.execute(INSERT, (4,))
        trail.fail(trail.begin("other", concept="work"), "no")
        with psycopg.connect(address) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM provenance.actions")
    recorded_actions.expect("""
        outer completed
          inner failed
          child completed
        late failed
        meddling unknown
        begun completed
        other failed
    """)
    assert [1, 4] == present(eye)


# --- Colours ---------------------------------------------------------------------------------------------------------


def test_with_when_only_an_async_pool_is_configured(provenance_dsn: str, trail: Trail) -> None:
    """The error names the colour there is, and what to pass for the other."""
    pool = AsyncConnectionPool(provenance_dsn, min_size=0, max_size=1, open=False)
    provenance.configure(async_pool=pool)
    with pytest.raises(NotConfigured, match=r"only `async with` is configured; use `async with`, or pass pool="):
        enter(provenance)  # type: ignore[arg-type]


def test_async_with_when_only_a_pool_is_configured(provenance_dsn: str, trail: Trail) -> None:
    """And the reverse."""

    async def main() -> None:
        async with track_action("add", concept="work"):
            pytest.fail("entered")

    with ConnectionPool(provenance_dsn, min_size=0, max_size=1, open=True) as pool:
        provenance.configure(pool=pool)
        with pytest.raises(NotConfigured, match=r"only `with` is configured; use `with`, or pass async_pool="):
            asyncio.run(main())


def test_trail_of_the_other_colour(provenance_dsn: str, trail: Trail) -> None:
    """A block made by a trail belongs to its colour."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as other:
            with pytest.raises(NotConfigured, match="use `with` with it"):
                async with trail.track_action("add", concept="work"):
                    pytest.fail("entered")
            with pytest.raises(NotConfigured, match="use `async with` with it"), other.track_action("a", concept="b"):
                pytest.fail("entered")

    asyncio.run(main())


def test_blocks_of_two_colours_in_one_task(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """``with`` inside an open ``async with`` would commit apart from it, unnoticed: refused, both ways."""

    async def main() -> None:
        async with provenance.get_async_trail():
            async with track_action("asynchronous", concept="work"):
                with (
                    pytest.raises(WrongColour, match=r"`with` inside an open `async with` of the same task"),
                    track_action("add", concept="work"),
                ):
                    pytest.fail("entered")
            with (
                track_action("blocking", concept="work"),
                pytest.raises(WrongColour, match=r"`async with` inside an open `with` of the same task"),
            ):
                async with track_action("add", concept="work"):
                    pytest.fail("entered")

    asyncio.run(main())
    recorded_actions.expect("""
        asynchronous completed
        blocking completed
    """)


def test_blocks_of_two_colours_that_are_apart_on_purpose(
    trail: Trail, recorded_actions: RecordedActions, provenance_dsn: str
) -> None:
    """A detached block, one on a connection of its own, and one in another thread are meant to be apart."""

    def elsewhere() -> None:
        with track_action("elsewhere", concept="work"):
            pass

    async def main() -> None:
        async with provenance.get_async_trail(), track_action("outer", concept="work"):
            with track_action("detached", concept="work", transaction=False):
                pass
            with psycopg.connect(provenance_dsn) as own, track_action("own", concept="work", connection=own):
                pass
            await asyncio.to_thread(elsewhere)

    asyncio.run(main())
    recorded_actions.expect("""
        outer completed
          detached completed
          own completed
          elsewhere completed
    """)


def test_connection_of_the_other_colour(trail: Trail, provenance_dsn: str) -> None:
    """Naming which goes with which."""

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(provenance_dsn) as connection:
            with (
                pytest.raises(WrongColour, match=r"AsyncConnection with `async with`"),
                track_action("add", concept="work", connection=connection),
            ):
                pytest.fail("entered")
        with psycopg.connect(provenance_dsn) as blocking:
            async with provenance.get_async_trail():
                with pytest.raises(WrongColour, match=r"psycopg\.Connection goes with `with`"):
                    async with track_action("add", concept="work", connection=blocking):
                        pytest.fail("entered")

    asyncio.run(main())


def test_outcome_on_a_connection_of_the_other_colour(trail: Trail, provenance_dsn: str) -> None:
    """complete() and fail() refuse it as a block does."""

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(provenance_dsn) as connection:
            wrong: Any = connection
            with pytest.raises(WrongColour):
                trail.complete(uuid4(), connection=wrong)

    asyncio.run(main())


# --- One object, several uses ----------------------------------------------------------------------------------------


def test_one_object_used_again(trail: Trail, recorded_actions: RecordedActions) -> None:
    """One after the other, each use is an action of its own."""
    block = track_action("add", concept="work")
    for _ in range(2):
        with block:
            pass
    assert "add completed\nadd completed" == recorded_actions.outline()


def test_one_object_entered_twice(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Inside itself it is refused, and the first use is not disturbed."""
    block = track_action("add", concept="work")
    with block as action:
        with pytest.raises(MisusedAction, match=r"open already; call track_action\(\) anew"), block:
            pytest.fail("entered")
        assert current_action() is action
    assert "add completed" == recorded_actions.outline()


def test_one_object_in_many_threads(trail: Trail, recorded_actions: RecordedActions) -> None:
    """At the same time one enters and the others are refused; no row is mixed up."""
    block = track_action("add", concept="work")
    start, over = threading.Barrier(8), threading.Barrier(8)
    entered: list[str] = []
    refused: list[str] = []

    def use(name: str) -> None:
        start.wait(10)
        try:
            with block as action:
                action.entity_id = name
                entered.append(name)
                over.wait(10)
        except MisusedAction:
            refused.append(name)
            over.wait(10)

    threads = [threading.Thread(target=use, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (1, 7) == (len(entered), len(refused))
    assert [("completed", entered[0])] == [(row.status, row.entity_id) for row in recorded_actions.all()]


def test_one_object_in_two_tasks(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """Tasks are no different."""

    async def main() -> list[str]:
        async with AsyncTrail(provenance_dsn) as trail:
            block = trail.track_action("add", concept="work")

            async def use() -> str:
                try:
                    async with block as action:
                        await action.connection.execute("SELECT 1")
                except MisusedAction:
                    return "refused"
                return "entered"

            return await asyncio.gather(use(), use())

    assert ["entered", "refused"] == sorted(asyncio.run(main()))
    assert "add completed" == recorded_actions.outline()


def test_left_without_having_been_entered(trail: Trail) -> None:
    """__exit__ alone is a mistake in the caller."""
    with pytest.raises(MisusedAction, match="left without having been entered"):
        track_action("add", concept="work").__exit__(None, None, None)


def test_handle_after_its_block(trail: Trail) -> None:
    """The connection is somebody else's by then."""
    with track_action("add", concept="work") as action:
        pass
    with pytest.raises(MisusedAction, match="has ended"):
        _ = action.connection


def test_two_trails(
    single: Trail, provenance_server: str, provenance_template: str, recorded_actions: RecordedActions
) -> None:
    """A block of one trail inside a block of another works in, and is recorded in, the database of its own."""
    name = f"provenance_test_{uuid4().hex}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        try:
            with Trail(make_conninfo(provenance_server, dbname=name)) as other:
                with (
                    single.track_action("here", concept="work"),
                    other.track_action("there", concept="work") as there,
                ):
                    database = there.connection.info.dbname
                assert (name, ["there"]) == (database, [row.action_type for row in other.actions.search().items])
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    assert "here completed" == recorded_actions.outline()


def test_connection_that_somebody_left_in_a_transaction(single: Trail, recorded_actions: RecordedActions) -> None:
    """Misused elsewhere, it costs at most one block, and the pool does not lose it."""
    connection = single.pool.getconn()
    single.pool.putconn(connection)
    connection.execute("SELECT 1")
    with suppress(ProvenanceError), single.track_action("first", concept="work"):
        pass
    with single.track_action("second", concept="work"):
        pass
    assert "second completed" == recorded_actions.outline().splitlines()[-1]


# --- Bodies that end the transaction ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
def test_ending_it_by_method(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], method: str
) -> None:
    """Refused on the spot; a body that lives with that can still succeed."""
    with single.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        with pytest.raises(MisusedAction, match=rf"{method}\(\) is refused inside track_action\('add'\)"):
            getattr(action.connection, method)()
    assert ("add completed", [1]) == (recorded_actions.outline(), present(eye))


def test_ending_it_by_method_asynchronously(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Awaiting changes nothing."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail, trail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            for method in ("commit", "rollback", "close"):
                with pytest.raises(MisusedAction, match=rf"{method}\(\) is refused"):
                    await getattr(action.connection, method)()

    asyncio.run(main())
    assert ("add completed", [1]) == (recorded_actions.outline(), present(eye))


TEXTS = {
    "COMMIT": [1],
    "COMMIT; BEGIN": [1],
    "COMMIT AND CHAIN": [1],
    "ROLLBACK": [],
    "ROLLBACK; BEGIN": [],
    "END; SELECT 1": [1],
}


@pytest.mark.parametrize("text", TEXTS)
def test_ending_it_by_text(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], text: str
) -> None:
    """Nobody can know what became of the work: the caller is told, and the row says exactly that."""
    with (
        pytest.raises(NotCommitted, match="ended its own transaction"),
        single.track_action("add", concept="work") as action,
    ):
        action.connection.execute(INSERT, (1,))
        action.connection.execute(text.encode())
    assert ("add unknown", TEXTS[text]) == (recorded_actions.outline(), present(eye))
    with single.track_action("next", concept="work"):
        pass
    assert "add unknown\nnext completed" == recorded_actions.outline()


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT",
        "COMMIT; BEGIN",
        "COMMIT; SELECT 1 / 0",
    ],
)
def test_ending_it_by_text_and_failing(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], text: str
) -> None:
    """A failure afterwards does not make it known either: no failed row while the work is there."""
    with pytest.raises((LookupError, psycopg.Error)), single.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        for statement in text.split("; "):
            action.connection.execute(statement.encode())
        raise LookupError
    assert ("add unknown", [1]) == (recorded_actions.outline(), present(eye))


def test_the_one_blind_spot(single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Committing by text, beginning anew and then failing in the database looks like any failure; see the explanation."""
    with pytest.raises(psycopg.errors.DivisionByZero), single.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        for statement in ("COMMIT", "BEGIN", "SELECT 1 / 0"):
            action.connection.execute(statement.encode())
    assert ("add failed", [1]) == (recorded_actions.outline(), present(eye))


def test_swallowed_database_error(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The server would answer COMMIT with a rollback and no error; the caller gets one."""
    with (
        pytest.raises(NotCommitted, match="a database error inside the block was swallowed"),
        single.track_action("add", concept="work") as action,
    ):
        action.connection.execute(INSERT, (1,))
        with suppress(psycopg.Error):
            action.connection.execute(INSERT, (1,))
    row = recorded_actions.one()
    assert ("failed", "provenance.errors.NotCommitted", []) == (row.status, row.error_type, present(eye))


def test_swallowed_database_error_and_fail(single: Trail, recorded_actions: RecordedActions) -> None:
    """A body that says so itself has its own reason recorded, and nothing is raised."""
    with single.track_action("add", concept="work") as action:
        with suppress(psycopg.Error):
            action.connection.execute("SELECT 1 / 0")
        action.fail("could not divide")
    assert ("failed", "could not divide") == (
        recorded_actions.one().status,
        recorded_actions.one().error_message,
    )


def test_settings_reset_by_the_body(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Without the action's id in the transaction nothing shows that it is still the same: refused."""
    with pytest.raises(NotCommitted), single.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        action.connection.execute("RESET ALL")
    assert [] == present(eye)
    assert recorded_actions.outline() in {"add failed", "add unknown"}


# --- Errors of COMMIT ------------------------------------------------------------------------------------------------


def test_deferred_constraint(single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """COMMIT's own error comes out as it is, with a failed row that does not quote the key."""
    with (
        pytest.raises(psycopg.errors.UniqueViolation) as caught,
        single.track_action("outer", concept="work"),
        single.track_action("inner", concept="work") as action,
    ):
        action.connection.execute("INSERT INTO work (id, secret) VALUES (1, 'hunter2'), (2, 'hunter2')")
    assert caught.value.diag.constraint_name == "late"
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)
    row = recorded_actions.one(action_type="outer")
    assert ("psycopg.errors.UniqueViolation", "23505") == (row.error_type, row.error_code)
    assert 'duplicate key value violates unique constraint "late"' == row.error_message
    assert [] == present(eye)


def serializable(trail: Trail) -> None:
    """Make the trail's connections SERIALIZABLE."""
    with trail.pool.connection() as connection:
        connection.isolation_level = IsolationLevel.SERIALIZABLE


def pivot(connection: psycopg.Connection[Any], dsn: str, number: int) -> None:
    """Make the connection's SERIALIZABLE transaction fail: commit another that it cannot be put in order with."""
    connection.execute("SELECT count(*) FROM work").fetchone()
    with psycopg.connect(dsn) as other:
        other.isolation_level = IsolationLevel.SERIALIZABLE
        other.execute("SELECT count(*) FROM work").fetchone()
        connection.execute(INSERT, (number,))
        other.execute(INSERT, (number + 100,))
        other.commit()


@pytest.mark.parametrize("at_once", [True, False])
def test_retrying_serialization_failures(
    single: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    at_once: bool,
) -> None:
    """They come out as they are, from the body or from COMMIT, so that a retry loop works; each attempt has its row."""
    serializable(single)
    for attempt in range(10):
        try:
            with single.track_action("add", concept="work", metadata={"attempt": attempt}) as action:
                if attempt < 2:
                    pivot(action.connection, provenance_dsn, attempt)
                else:
                    action.connection.execute(INSERT, (attempt,))
                if at_once:
                    action.connection.execute("SELECT count(*) FROM work")
        except psycopg.errors.SerializationFailure:
            continue
        break
    assert [("failed", "40001"), ("failed", "40001"), ("completed", None)] == [
        (row.status, row.error_code) for row in recorded_actions.all()
    ]
    assert [2, 100, 101] == present(eye)


# --- What is stored about errors -------------------------------------------------------------------------------------

TABLES = """
CREATE TYPE mood AS ENUM ('happy');
CREATE DOMAIN short AS text CHECK (length(VALUE) < 3);
CREATE TABLE parent (secret text PRIMARY KEY, other varchar(3), CHECK (secret <> 'hunter2'));
CREATE TABLE child (secret text REFERENCES parent, taken text UNIQUE, EXCLUDE USING btree (secret WITH =));
CREATE TABLE parted (secret text) PARTITION BY LIST (secret);
"""
QUOTING = {
    "not null": "INSERT INTO work (id, secret) VALUES (NULL, 'hunter2')",
    "unique": "INSERT INTO child (taken) VALUES ('hunter2'), ('hunter2')",
    "check": "INSERT INTO parent VALUES ('hunter2')",
    "foreign key": "INSERT INTO child (secret) VALUES ('hunter2')",
    "exclusion": "INSERT INTO child (secret) VALUES ('hunter2'), ('hunter2')",
    "domain": "SELECT 'hunter2'::short",
    "partition": "INSERT INTO parted VALUES ('hunter2')",
    "too long": "INSERT INTO parent (other) VALUES ('hunter2')",
    "integer": "SELECT 'hunter2'::integer",
    "uuid": "SELECT 'hunter2'::uuid",
    "json": "SELECT '{\"a\": hunter2}'::json",
    "date": "SELECT 'hunter2'::date",
    "enum": "SELECT 'hunter2'::mood",
    "array": "SELECT 'hunter2'::integer[]",
    "quotes inside": 'SELECT \'"hunter2" "\'::integer',
    "encoding": "SELECT encode('a', 'hunter2')",
    "inside a function": "DO $$ BEGIN PERFORM 'hunter2'::text::integer; END $$",
}
STILL_QUOTING = {
    "text search": "SELECT to_tsquery('hunter2 hunter2')",
    "text search vector": "SELECT 'hunter2:x'::tsvector",
    "German": "DO $$ BEGIN RAISE invalid_text_representation USING MESSAGE = "
    "'ungültige Eingabesyntax für Typ integer: »hunter2«'; END $$",
    "Spanish": "DO $$ BEGIN RAISE invalid_text_representation USING MESSAGE = "
    "'la sintaxis de entrada no es válida para tipo integer: «hunter2»'; END $$",
}


def quoted(trail: Trail, recorded: RecordedActions, statements: dict[str, str]) -> list[str]:
    """Return which of these errors put the secret into the trail."""
    for case, statement in statements.items():
        with (
            pytest.raises(psycopg.Error),
            trail.track_action("add", concept="work", entity_id=case) as action,
        ):
            action.connection.execute(statement.encode())
    rows = recorded.all()
    assert [(case, "failed") for case in statements] == [(row.entity_id, row.status) for row in rows]
    assert all(row.error_message and row.error_code for row in rows)
    return [row.entity_id or "" for row in rows if LEAKED in repr(row)]


def test_database_errors_do_not_quote_the_row(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Neither the row nor the value that was refused gets into the trail."""
    eye.execute(TABLES)
    assert [] == quoted(trail, recorded_actions, QUOTING)


def test_database_errors_that_quote_otherwise(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Whatever quotation marks the server's language uses, and where a syntax error is one of a value."""
    assert [] == quoted(trail, recorded_actions, STILL_QUOTING)


def test_client_side_errors_do_not_quote_the_value(trail: Trail, recorded_actions: RecordedActions) -> None:
    """A date that Python cannot hold."""
    with pytest.raises(psycopg.DataError), track_action("add", concept="work") as action:
        action.connection.execute("SELECT '31415-01-01'::date").fetchone()
    assert "31415" not in repr(recorded_actions.one())


class WrapperError(Exception):
    """As SQLAlchemy wraps the driver's error."""

    def __init__(self, orig: BaseException) -> None:
        super().__init__(f"({type(orig).__name__}) {orig}\n[SQL: INSERT]\n[parameters: {{'secret': 'hunter2'}}]")
        self.orig = orig


class ServiceError(Exception):
    """What a service raises instead."""


def as_it_is(error: psycopg.Error) -> None:
    raise error


def wrapped(error: psycopg.Error) -> None:
    raise WrapperError(error) from error


def wrapped_without_cause(error: psycopg.Error) -> None:
    raise WrapperError(error) from None


def embedded(error: psycopg.Error) -> None:
    raise ServiceError(f"could not save: {error}") from error


def embedded_from_none(error: psycopg.Error) -> None:
    try:
        raise error
    except psycopg.Error as caught:
        raise ServiceError(f"could not save: {caught}") from None


def represented(error: psycopg.Error) -> None:
    raise ServiceError(repr(error)) from error


def two_levels_up(error: psycopg.Error) -> None:
    between = KeyError(str(error))
    between.__cause__ = error
    raise ServiceError(between) from between


def on_one_line(error: psycopg.Error) -> None:
    raise ServiceError(" ".join(str(error).split())) from error


def embedded_wrapper(error: psycopg.Error) -> None:
    wrapper = WrapperError(error)
    raise ServiceError(f"could not save: {wrapper}") from wrapper


def cut_short(error: psycopg.Error) -> None:
    raise ServiceError(str(error)[:120]) from error


def unchained(error: psycopg.Error) -> None:
    raise ServiceError(f"could not save: {error}")


def grouped(error: psycopg.Error) -> None:
    raise ExceptionGroup(f"could not save: {error}", [error])


@pytest.mark.parametrize(
    "raise_",
    [
        as_it_is,
        wrapped,
        wrapped_without_cause,
        embedded,
        embedded_from_none,
        represented,
        two_levels_up,
        on_one_line,
        embedded_wrapper,
        cut_short,
        unchained,
        grouped,
    ],
)
def test_other_errors_do_not_quote_the_row(
    trail: Trail, recorded_actions: RecordedActions, raise_: Callable[[psycopg.Error], None]
) -> None:
    """Nor does an exception of the application that is made of one, whatever the application does with its text."""
    found: list[psycopg.Error] = []
    errors = (psycopg.Error, WrapperError, ServiceError, ExceptionGroup)
    with pytest.raises(errors) as caught, track_action("add", concept="work") as action:
        try:
            action.connection.execute(QUOTING["not null"])
        except psycopg.Error as error:
            found.append(error)
        raise_(found[0])
    assert LEAKED in f"{caught.value} {getattr(caught.value, 'orig', '')}"
    row = recorded_actions.one()
    assert "failed" == row.status
    assert LEAKED not in repr(row)


def test_secrets_of_the_payload_are_hidden(trail: Trail, recorded_actions: RecordedActions) -> None:
    """By the words inside a key, wherever it is."""
    with track_action(
        "add",
        concept="work",
        payload={"user": {"secretKey": LEAKED, "password_confirmation": LEAKED, "monkey": "visible"}},
        metadata={"authorization": LEAKED},
    ) as action:
        action.result = [{"api_token": LEAKED}]
        action.connection.execute("INSERT INTO work (id, secret) VALUES (1, %s)", (str(Jsonb({})),))
    row = recorded_actions.one()
    assert LEAKED not in repr(row)
    assert {
        "user": {"secretKey": "[redacted]", "password_confirmation": "[redacted]", "monkey": "visible"}
    } == row.payload
