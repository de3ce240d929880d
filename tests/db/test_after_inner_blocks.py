"""The server is told that an inner block has ended when it must know: right before whatever comes next on the connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from provenance.errors import MisusedAction, NotCommitted
from provenance.recording.steps import Run
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import colours
from tests.support.colours import Blocking, done

colour = colours.colour

pytestmark = pytest.mark.anyio

INSERT = "INSERT INTO work (id) VALUES (%s)"
WHOSE = "SELECT current_setting('provenance.action_id')"


async def _executed(connection: Any) -> None:
    await done(connection.execute(INSERT, (1,)))


async def _many(connection: Any) -> None:
    await done(connection.cursor().executemany(INSERT, [(1,), (2,)]))


async def _copied(connection: Any) -> None:
    if isinstance(connection, psycopg.Connection):
        with connection.cursor() as cursor, cursor.copy("COPY work (id) FROM STDIN") as copy:
            copy.write_row((1,))
    else:
        async with connection.cursor() as cursor, cursor.copy("COPY work (id) FROM STDIN") as copy:
            await copy.write_row((1,))


async def _in_a_savepoint(connection: Any) -> None:
    if isinstance(connection, psycopg.Connection):
        with connection.transaction():
            connection.execute(INSERT, (1,))
    else:
        async with connection.transaction():
            await connection.execute(INSERT, (1,))


async def _in_a_pipeline(connection: Any) -> None:
    if isinstance(connection, psycopg.Connection):
        with connection.pipeline():
            connection.execute(INSERT, (1,))
            connection.execute(INSERT, (2,))
    else:
        async with connection.pipeline():
            await connection.execute(INSERT, (1,))
            await connection.execute(INSERT, (2,))


async def _streamed(connection: Any) -> None:
    stream = connection.cursor().stream(INSERT + " RETURNING id", (1,))
    if isinstance(connection, psycopg.Connection):
        assert list(stream) == [(1,)]
    else:
        assert [row async for row in stream] == [(1,)]


async def _by_a_cursor_of_the_server(connection: Any) -> None:
    cursor = connection.cursor(name="mine")
    await done(cursor.execute(WHOSE))
    [(whose,)] = await done(cursor.fetchall())
    await done(cursor.close())
    await done(connection.execute("INSERT INTO work (id, action_id) VALUES (1, %s)", (whose,)))


@pytest.mark.parametrize("savepoint", [True, False])
@pytest.mark.parametrize(
    "work",
    [_executed, _many, _copied, _in_a_savepoint, _in_a_pipeline, _streamed, _by_a_cursor_of_the_server],
)
async def test_what_comes_after_an_inner_block_is_not_part_of_it(
    colour: Blocking, work: Callable[[Any], Any], *, savepoint: bool
) -> None:
    """However psycopg is asked to do it."""
    async with colour.track("outer") as outer:
        async with colour.track("inner", savepoint=savepoint) as inner:
            await done(inner.connection.execute(INSERT, (100,)))
        await work(outer.connection)
    connection = await colour.connect()
    cursor = await done(connection.execute("SELECT DISTINCT action_id, id >= 100 FROM work"))
    assert dict(await done(cursor.fetchall())) == {outer.id: False, inner.id: True}
    await done(connection.close())


async def test_what_comes_after_blocks_inside_one_another_is_part_of_the_one_around_them(colour: Blocking) -> None:
    """They are told of together."""
    async with colour.track("outer") as outer:
        async with colour.track("middle"), colour.track("inner", savepoint=False):
            pass
        cursor = await done(outer.connection.execute(WHOSE))
        assert await done(cursor.fetchall()) == [(str(outer.id),)]
    rows = (await done(colour.trail.actions.search())).items
    assert {(row.action_type, row.status.value) for row in rows} == {
        ("outer", "completed"),
        ("middle", "completed"),
        ("inner", "completed"),
    }


@pytest.mark.parametrize(
    "undo", ["ROLLBACK TO SAVEPOINT mine", b"rollback to mine", sql.SQL("ROLLBACK TO mine"), None], ids=str
)
async def test_a_savepoint_of_the_callers_takes_blocks_with_it_that_do_not_stamp(
    colour: Blocking, recorded_actions: RecordedActions, undo: Any
) -> None:
    """However psycopg is told to roll it back."""
    async with colour.track("outer") as outer:
        mine = outer.connection.transaction("mine")
        await done(mine.__enter__() if isinstance(outer.connection, psycopg.Connection) else mine.__aenter__())
        async with colour.track("undone", stamp=False) as undone:
            await done(undone.connection.execute(INSERT, (1,)))
        async with colour.track("undone too", stamp=False):
            pass
        if undo is not None:
            await done(outer.connection.execute(undo))
        elif isinstance(outer.connection, psycopg.Connection):
            mine.__exit__(psycopg.Rollback, psycopg.Rollback(), None)
        else:
            await mine.__aexit__(psycopg.Rollback, psycopg.Rollback(), None)
        async with colour.track("stands", stamp=False):
            pass
        await done(outer.connection.execute(INSERT, (2,)))
    recorded_actions.expect("""
        outer completed
          undone rolled_back
          undone too rolled_back
          stands completed
    """)


async def test_blocks_that_do_not_stamp_leave_stamps_to_the_one_around_them(colour: Blocking) -> None:
    """Also after others that stamp, and for those that stamp inside them."""
    async with colour.track("outer") as outer:
        async with colour.track("stamps"):
            pass
        async with colour.track("does not", stamp=False) as inner:
            await done(inner.connection.execute(INSERT, (1,)))
            async with colour.track("stamps inside") as innermost:
                await done(innermost.connection.execute(INSERT, (2,)))
            await done(inner.connection.execute(INSERT, (3,)))
        await done(outer.connection.execute(INSERT, (4,)))
        async with colour.track("stamps last") as last, colour.track("does not at all", stamp=False):
            await done(last.connection.execute(INSERT, (5,)))
    connection = await colour.connect()
    cursor = await done(connection.execute("SELECT action_id FROM work ORDER BY id"))
    stamps = [stamp for (stamp,) in await done(cursor.fetchall())]
    assert stamps == [outer.id, innermost.id, outer.id, outer.id, last.id]
    await done(connection.close())
    assert {row.status.value for row in (await done(colour.trail.actions.search())).items} == {"completed"}


async def test_a_failure_of_a_block_that_does_not_stamp_dooms_the_one_around_it(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """It has nothing to go back to."""
    with pytest.raises(NotCommitted, match="has no savepoint"):
        async with colour.track("outer"):
            async with colour.track("before", stamp=False):
                pass
            with suppress(ZeroDivisionError):
                async with colour.track("inner", stamp=False):
                    raise ZeroDivisionError
    recorded_actions.expect("""
        outer failed
          before rolled_back
          inner failed
    """)


async def test_a_body_that_does_not_stamp_and_ends_the_transaction_is_found_out(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """At the latest when the block around it ends."""
    with pytest.raises(NotCommitted):
        async with colour.track("outer"), colour.track("inner", stamp=False) as inner:
            await done(inner.connection.execute("COMMIT; BEGIN"))
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


async def test_a_key_or_an_intent_makes_a_block_stamp(colour: Blocking) -> None:
    """It must talk to the server anyway."""
    async with colour.track("outer") as outer, colour.track("inner", stamp=False, idempotency_key="k") as inner:
        cursor = await done(outer.connection.execute(WHOSE))
        assert await done(cursor.fetchall()) == [(str(inner.id),)]


async def test_a_savepoint_of_the_callers_takes_finished_blocks_with_it(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """What was told before is told again by nobody, and the block after it says what is left."""
    async with colour.track("outer") as outer:
        await done(outer.connection.execute("SAVEPOINT mine"))
        async with colour.track("undone"):
            pass
        await done(outer.connection.execute("ROLLBACK TO SAVEPOINT mine"))
        async with colour.track("stands"):
            pass
    recorded_actions.expect("""
        outer completed
          undone rolled_back
          stands completed
    """)


_MEDDLING = pytest.mark.parametrize("savepoint", [True, False])


@_MEDDLING
async def test_the_next_statement_finds_out_that_an_inner_body_ended_the_transaction(
    colour: Blocking, recorded_actions: RecordedActions, *, savepoint: bool
) -> None:
    """It is not run, and the block around cannot commit."""
    with pytest.raises(NotCommitted, match="cannot be known"):
        async with colour.track("outer") as outer:
            async with colour.track("inner", savepoint=savepoint) as inner:
                await done(inner.connection.execute("COMMIT; BEGIN"))
            with pytest.raises(NotCommitted, match=r"inner.*ended its own transaction"):
                await done(outer.connection.execute(INSERT, (1,)))
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


@_MEDDLING
async def test_the_next_block_finds_out_that_an_inner_body_ended_the_transaction(
    colour: Blocking, recorded_actions: RecordedActions, *, savepoint: bool
) -> None:
    """It is not entered, and the block around cannot commit."""
    with pytest.raises(NotCommitted, match="cannot be known"):
        async with colour.track("outer"):
            async with colour.track("inner", savepoint=savepoint) as inner:
                await done(inner.connection.execute("COMMIT; BEGIN"))
            with pytest.raises(NotCommitted, match=r"inner.*ended its own transaction"):
                async with colour.track("next"):
                    pytest.fail("it was entered")
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


async def test_the_end_of_a_savepoint_finds_out_and_is_an_end_nevertheless(colour: Blocking) -> None:
    """psycopg must not take it to be open for ever after: the caller could not even roll back."""
    connection = await colour.connect()
    with suppress(NotCommitted):
        async with colour.track("joined", connection=connection):
            mine = connection.transaction()
            blocking = isinstance(connection, psycopg.Connection)
            await done(mine.__enter__() if blocking else mine.__aenter__())
            async with colour.track("inner", savepoint=False):
                await done(connection.execute("ROLLBACK; BEGIN"))
            with pytest.raises(NotCommitted):
                await done(mine.__exit__(None, None, None) if blocking else mine.__aexit__(None, None, None))
    await done(connection.rollback())
    await done(connection.close())


async def _go_on(colour: Blocking, connection: Any, how: str) -> None:
    """Do what cannot be done any more."""
    if how == "a statement":
        await done(connection.execute(INSERT, (1,)))
        return
    async with colour.track("next", idempotency_key="key" if how == "a block with a key" else None):
        pytest.fail("it was entered")


@pytest.mark.parametrize("goes_on_with", ["a statement", "a block with a key"])
async def test_the_next_statement_finds_out_that_an_inner_body_undid_its_own_beginning(
    colour: Blocking, recorded_actions: RecordedActions, goes_on_with: str
) -> None:
    """And the next block does, whether it has something to say of its own or not."""
    with pytest.raises(NotCommitted):
        async with colour.track("outer") as outer:
            await done(outer.connection.execute("SAVEPOINT mine"))
            async with colour.track("inner", savepoint=False) as inner:
                await done(inner.connection.execute("ROLLBACK TO SAVEPOINT mine"))
            with pytest.raises(NotCommitted, match="rolled back to a savepoint from before"):
                await _go_on(colour, outer.connection, goes_on_with)
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)


async def _kill(colour: Blocking, connection: Any) -> None:
    killer = await colour.connect(autocommit=True)
    await done(killer.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,)))
    await done(killer.close())


@pytest.mark.direct("it is the pooler's server that ends")
@pytest.mark.parametrize("goes_on_with", ["a statement", "a block", "a block with a key"])
async def test_a_connection_that_is_lost_before_the_server_was_told(
    colour: Blocking, recorded_actions: RecordedActions, goes_on_with: str
) -> None:
    """The server undoes everything, and the rows say so, though the error was swallowed."""
    with pytest.raises(NotCommitted):
        async with colour.track("outer") as outer:
            async with colour.track("inner"):
                pass
            await _kill(colour, outer.connection)
            with suppress(Exception):
                await _go_on(colour, outer.connection, goes_on_with)
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)


async def test_a_key_that_another_action_has_leaves_the_block_around_alone(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """What was owed has been said by then."""
    async with colour.track("keyed", idempotency_key="k"):
        pass
    async with colour.track("outer") as outer:
        async with colour.track("inner"):
            pass
        with suppress(Exception):
            async with colour.track("keyed", idempotency_key="k"):
                pytest.fail("it was entered")
        await done(outer.connection.execute(INSERT, (1,)))
    recorded_actions.expect("""
        keyed completed
        outer completed
          inner completed
    """)


@pytest.fixture
def interrupted(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Have the beginning of the next block be interrupted, before it is sent or after."""
    perform = trail.perform
    when: list[bool] = []

    def interrupted_once(step: Any) -> Any:
        if not when or not isinstance(step, Run):
            return perform(step)
        if when.pop():
            perform(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(trail, "perform", interrupted_once)
    return when.append


def test_an_interruption_before_the_next_block_was_begun_changes_nothing(
    trail: Trail, recorded_actions: RecordedActions, interrupted: Callable[[bool], None]
) -> None:
    """What is owed is still told before the next statement."""
    with trail.track_action("outer", concept="work") as outer:
        with trail.track_action("inner", concept="work"):
            pass
        interrupted(False)
        with pytest.raises(KeyboardInterrupt), trail.track_action("next", concept="work"):
            pytest.fail("it was entered")
        assert outer.connection.execute(WHOSE).fetchone() == (str(outer.id),)
    recorded_actions.expect("""
        outer completed
          inner completed
    """)


@pytest.mark.parametrize("savepoint", [True, False])
def test_an_interruption_after_the_next_block_was_begun_dooms_the_block_around(
    trail: Trail, recorded_actions: RecordedActions, interrupted: Callable[[bool], None], *, savepoint: bool
) -> None:
    """What the server said before it was told is lost, and with it what the caller may have undone."""
    with pytest.raises(NotCommitted, match="interrupted at its end"), trail.track_action("outer", concept="work"):
        with trail.track_action("inner", concept="work"):
            pass
        interrupted(True)
        with (
            pytest.raises(KeyboardInterrupt),
            trail.track_action("next", concept="work", savepoint=savepoint),
        ):
            pytest.fail("it was entered")
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)


def test_who_talks_to_libpq_is_not_preceded(trail: Trail) -> None:
    """It is said in the docs: nothing but psycopg's own methods can be waited for."""
    with trail.track_action("outer", concept="work") as outer:
        with trail.track_action("inner", concept="work") as inner:
            pass
        assert outer.connection.pgconn.exec_(WHOSE.encode()).get_value(0, 0) == str(inner.id).encode()
        outer.connection.execute("SELECT 1")
        assert outer.connection.pgconn.exec_(WHOSE.encode()).get_value(0, 0) == str(outer.id).encode()


def test_the_connection_is_itself_again_afterwards(trail: Trail) -> None:
    """Nothing stays behind on it, whether it was told or not."""
    with trail.track_action("outer", concept="work") as outer:
        connection = outer.connection
        with trail.track_action("inner", concept="work"):
            pass
    assert not {"wait", "commit", "rollback", "close"} & set(vars(connection))
    with pytest.raises(MisusedAction):
        _ = outer.connection
