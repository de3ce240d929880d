"""What is easily got right for one colour only, said once for both."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from provenance import ActionRef, AsyncTrackedAction, AsyncTrail, Trail, drivers
from provenance.errors import NotCommitted, TrailUnavailable
from provenance.recording import steps
from provenance.testing import RecordedActions
from tests.support import colours, databases
from tests.support.colours import Awaiting, Blocking, done

pytestmark = pytest.mark.anyio

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
colour = colours.colour

INSERT = "INSERT INTO work (id) VALUES (%s)"


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


async def test_a_finished_inner_block_is_undone_inside_a_joined_one(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """The caller's savepoint took it back. Once that is noticed it is durable, whatever the caller's transaction becomes."""
    connection = await colour.connect()
    async with colour.track("outer", connection=connection):
        await done(connection.execute("SAVEPOINT mine"))
        async with colour.track("inner"):
            await done(connection.execute(INSERT, (1,)))
        await done(connection.execute("ROLLBACK TO SAVEPOINT mine"))
        async with colour.track("next"):
            await done(connection.execute(INSERT, (1,)))
    assert recorded_actions.outline() == "inner rolled_back"
    await done(connection.commit())
    await done(connection.close())
    recorded_actions.expect("""
        outer completed
          inner rolled_back
          next completed
    """)


@pytest.mark.parametrize("savepoint", [True, False])
async def test_a_transaction_ended_by_text(
    colour: Blocking, recorded_actions: RecordedActions, savepoint: bool
) -> None:
    """What became of the work cannot be known, and the trail says so."""
    with suppress(NotCommitted):
        async with colour.track("outer") as outer:
            async with colour.track("inner", savepoint=savepoint) as inner:
                await done(inner.connection.execute(INSERT, (1,)))
                await done(inner.connection.execute("COMMIT"))
            await done(outer.connection.execute(INSERT, (2,)))
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


class Interrupted(BaseException):
    """What a signal handler raises."""


async def test_interrupted_when_the_pool_has_the_connection_back(
    colour: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the pool's or somebody else's by then: it is given back once, and works."""
    putconn, given_back = colour.pool.putconn, []

    def interrupted(connection: Any) -> None:
        given_back.append(connection)
        putconn(connection)
        raise Interrupted

    async def ainterrupted(connection: Any) -> None:
        given_back.append(connection)
        await putconn(connection)
        raise Interrupted

    monkeypatch.setattr(colour.pool, "putconn", ainterrupted if isinstance(colour, Awaiting) else interrupted)
    with pytest.raises(Interrupted):
        async with colour.track("add"):
            pass
    monkeypatch.undo()
    connection = await done(colour.pool.getconn())
    await done(connection.execute("SELECT 1"))
    await done(colour.pool.putconn(connection))
    assert given_back == [connection]


async def test_interrupted_when_a_connection_is_lent(colour: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application gets it as it was: without autocommit."""
    switch, aswitch = drivers.switch_autocommit, drivers.aswitch_autocommit
    strikes = iter([Interrupted()])

    def interrupted(connection: Any, *, on: bool) -> None:
        switch(connection, on=on)
        for stroke in strikes:
            raise stroke

    async def ainterrupted(connection: Any, *, on: bool) -> None:
        await aswitch(connection, on=on)
        for stroke in strikes:
            raise stroke

    monkeypatch.setattr(drivers, "switch_autocommit", interrupted)
    monkeypatch.setattr(drivers, "aswitch_autocommit", ainterrupted)
    with pytest.raises(Interrupted):
        async with colour.track("add"):
            pytest.fail("the body ran")
    connection = await done(colour.pool.getconn())
    assert not connection.autocommit
    await done(colour.pool.putconn(connection))


async def test_interrupted_while_a_lost_block_is_recorded(
    colour: Blocking, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt records it, and its connection is the pool's again: the pool has no other."""
    perform = colour.trail.perform
    strikes = iter([Interrupted()])

    def interrupted(step: Any) -> Any:
        if isinstance(step, steps.Giveback):
            for stroke in strikes:
                raise stroke
        return perform(step)

    lost = colour.trail.track_action("lost", concept="work")
    action = await lost.__aenter__() if isinstance(colour, Awaiting) else lost.__enter__()
    await done(action.connection.execute(INSERT, (1,)))
    del lost, action
    gc.collect()
    monkeypatch.setattr(colour.trail, "perform", interrupted)
    for _ in range(2):
        with suppress(Interrupted):
            async with colour.track("next"):
                pass
    recorded_actions.expect("""
        lost failed
        next completed
    """)


async def test_recording_a_failure_that_fails(
    colour: Blocking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The body's own exception goes on as it is, and the log says what happened."""
    perform = colour.trail.perform

    def broken(step: Any) -> Any:
        return 1 / 0 if isinstance(step, steps.Journal) else perform(step)

    monkeypatch.setattr(colour.trail, "perform", broken)
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with colour.track("ship", transaction=False):
            raise error
    assert caught.value is error
    (record,) = caplog.records
    assert record.message.startswith(
        "provenance: recording the failure of track_action('ship') failed (ZeroDivisionError) at"
    )
    assert "mine" not in caplog.text


@pytest.mark.parametrize(("trail", "colour"), [(Trail, Blocking), (AsyncTrail, Awaiting)])
async def test_a_trail_with_a_pool_of_its_own_reads_what_it_began(
    provenance_dsn: str, trail: Any, colour: type[Blocking]
) -> None:
    """Begun, read as pending, resumed, and read as completed with its place in the tree."""
    opened = trail(provenance_dsn)
    begun = await done(opened.begin("ship", concept="order"))
    pending = await done(opened.actions.get(begun))
    async with colour().entering(await done(opened.resume(begun))) as action:
        await done(action.connection.execute("SELECT 1"))
    ended = await done(opened.actions.get(begun))
    await done(opened.close())
    assert ("pending", "completed") == (pending.status, ended.status)
    assert ActionRef(begun, begun) == ended.ref


async def test_the_pools_connection_comes_back_as_it_was(colour: Blocking) -> None:
    """A pool whose connections are not in autocommit mode gets them back so, after success and failure."""
    for work in ("SELECT 1", "SELECT 1/0"):
        with suppress(psycopg.Error):
            async with colour.track("add") as action:
                await done(action.connection.execute(work))
        connection = await done(colour.pool.getconn())
        assert connection.autocommit is False
        await done(colour.pool.putconn(connection))


async def test_a_pool_without_a_free_connection(colour: Blocking) -> None:
    """An error of ours that says what to look at, before the work begins."""
    taken = await done(colour.pool.getconn())
    colour.pool.timeout = 0.05
    with pytest.raises(TrailUnavailable, match="large enough"):
        async with colour.track("add"):
            pytest.fail("entered")
    await done(colour.pool.putconn(taken))


async def test_a_stream_that_is_broken_off(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Nobody keeps it, so it is closed, by the event loop a moment later; what it leaves behind decides."""
    with suppress(NotCommitted):
        async with colour.track("add") as action:
            await done(action.connection.execute(INSERT, (1,)))
            stream = action.connection.cursor().stream("SELECT generate_series(1, 100000)")
            if isinstance(action, AsyncTrackedAction):
                async for _ in stream:
                    break
            else:
                for _ in stream:
                    break
            del stream
    async with colour.track("next") as action:
        cursor = await done(action.connection.execute("SELECT count(*) FROM work"))
        (there,) = await done(cursor.fetchone())
    assert [there == 1, True] == [
        recorded_actions.one(action_type="add").status == "completed",
        recorded_actions.one(action_type="next").status == "completed",
    ]


async def test_a_stream_kept_open(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """The connection is closed after a moment, and nothing is committed."""
    with pytest.raises(NotCommitted, match="still in progress"):
        async with colour.track("add") as action:
            await done(action.connection.execute(INSERT, (1,)))
            stream = action.connection.cursor().stream("SELECT generate_series(1, 3)")
            await done(stream.__anext__() if isinstance(action, AsyncTrackedAction) else next(stream))
    await done(stream.aclose() if isinstance(colour, Awaiting) else stream.close())
    assert recorded_actions.outline() == "add failed"


async def test_a_block_that_nobody_can_leave(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """The pool's only connection serves the next block."""

    async def lose() -> None:
        block = colour.trail.track_action("lost", concept="work")
        action = await block.__aenter__() if isinstance(colour, Awaiting) else block.__enter__()
        await done(action.connection.execute(INSERT, (1,)))

    await lose()
    async with colour.track("next") as action:
        await done(action.connection.execute(INSERT, (2,)))
    recorded_actions.expect("""
        lost failed
        next completed
    """)


async def test_resuming_on_a_connection_of_the_callers(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """In a transaction of the caller's the outcome is part of it; on an idle connection it is durable at once."""
    for autocommit in (False, True):
        begun = await done(colour.trail.begin("pay", concept="work"))
        connection = await colour.connect(autocommit=autocommit)
        async with colour.entering(await done(colour.trail.resume(begun, connection=connection))):
            await done(connection.execute("SELECT 1"))
        before = await done(colour.trail.actions.get(begun))
        await done(connection.commit())
        after = await done(colour.trail.actions.get(begun))
        await done(connection.close())
        assert ("completed" if autocommit else "pending", "completed") == (before.status, after.status)


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_rows_that_a_narrow_encoding_cannot_hold(
    provenance_dsn: str, recorded_actions: RecordedActions, kind: type[Blocking]
) -> None:
    """The journal's connections have an encoding of their own."""
    colour = kind()
    await colour.open(f"{provenance_dsn} client_encoding=LATIN1")
    await done(colour.trail.complete(await done(colour.trail.begin("pay", concept="work", user_id="€日本"))))
    await colour.close()
    assert "€日本" == recorded_actions.one().user_id


@pytest.mark.direct("the pooler's own servers are ended")
@pytest.mark.parametrize("durability", ["atomic", "intent"])
async def test_connections_that_died_in_the_pool_cost_nobody_his_work(
    colour: Blocking, provenance_dsn: str, durability: str
) -> None:
    """The server was restarted while they lay there: nothing has been done on them, so that others are taken."""
    await done(colour.pool.resize(min_size=3, max_size=3))
    await done(colour.pool.wait())
    async with colour.track("first", durability=durability):
        pass
    with psycopg.connect(provenance_dsn, autocommit=True) as admin:
        for _ in range(2):
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            for number in range(3):
                async with colour.track("add", durability=durability, entity_id=number) as action:
                    await done(action.connection.execute(INSERT, (number,)))
            admin.execute("TRUNCATE work")
    found = await done(colour.trail.actions.search())
    assert [("add", "completed")] * 6 + [("first", "completed")] == [
        (one.action_type, one.status) for one in found.items
    ]


@pytest.mark.direct("the pooler's own servers are ended")
async def test_a_given_connection_that_is_dead_is_not_replaced(colour: Blocking, provenance_dsn: str) -> None:
    """It is the caller's, who is told at once."""
    connection = await colour.connect(autocommit=True)
    with psycopg.connect(provenance_dsn, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    with pytest.raises(TrailUnavailable, match="nothing has been done yet"):
        async with colour.track("add", connection=connection):
            pytest.fail("the body ran")
    await done(connection.close())
