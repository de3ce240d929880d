"""Both colours do the same in every mode; and a cancelled task leaves a row, a usable connection and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

import provenance
from provenance import current_action, request_scope
from provenance.errors import ActionNotPending, MisusedAction, NotCommitted
from provenance.testing import RecordedActions
from provenance.trail import AsyncTrail, Trail
from tests.support import colours, databases
from tests.support.colours import Blocking, done

pytestmark = pytest.mark.anyio

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
colour = colours.colour

INSERT = "INSERT INTO work (id) VALUES (%s)"
CANCELLED = "asyncio.exceptions.CancelledError"
PATIENCE = 10.0


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


def present(eye: psycopg.Connection[Any]) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


# --- Every mode, in both colours -------------------------------------------------------------------------------------


async def test_own_transaction(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Work and row commit together, and the work is stamped with the action."""
    request_id = UUID("0197b1f2-0000-7000-8000-00000000abcd")
    with request_scope(request_id, user_id=7, tenant_id="acme", correlation_id="order-1"):
        async with colour.track(
            "add", entity_type="item", entity_id=1, payload={"password": "x", "n": 1}, metadata={"via": "test"}
        ) as action:
            assert current_action() is action
            await done(action.connection.execute(INSERT, (1,)))
            action.result = {"id": 1}
    row = recorded_actions.one()
    assert ("add", "work", "completed", "7", "acme", request_id, "order-1") == (
        row.action_type,
        row.concept,
        row.status,
        row.user_id,
        row.tenant_id,
        row.request_id,
        row.correlation_id,
    )
    assert ("item", "1", {"password": "[redacted]", "n": 1}, {"id": 1}, {"via": "test"}) == (
        row.entity_type,
        row.entity_id,
        row.payload,
        row.result,
        row.metadata,
    )
    assert (action.id, action.id, None) == (row.id, row.root_id, row.parent_action_id)
    assert row.completed_at is not None
    assert row.completed_at > row.started_at
    assert [(1, action.id)] == eye.execute("SELECT id, action_id FROM work").fetchall()


async def test_own_transaction_that_fails(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The exception goes on as it is, the work is gone, the failed row keeps a result that was set."""
    error = LookupError("no such thing")
    with pytest.raises(LookupError) as caught:
        async with colour.track("add") as action:
            await done(action.connection.execute(INSERT, (1,)))
            action.result = {"tried": 1}
            raise error
    assert caught.value is error
    row = recorded_actions.one()
    assert ("failed", "LookupError", None, "no such thing", {"tried": 1}) == (
        row.status,
        row.error_type,
        row.error_code,
        row.error_message,
        row.result,
    )
    assert [] == present(eye)


async def test_failing_without_raising(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """fail() undoes the work and lets the body return."""
    async with colour.track("add") as action:
        await done(action.connection.execute(INSERT, (1,)))
        action.fail("sold out")
        action.fail("sold out today")
    row = recorded_actions.one()
    assert ("failed", None, "sold out today", []) == (row.status, row.error_type, row.error_message, present(eye))


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_joined_transaction(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], ending: str
) -> None:
    """The row lives and dies with the caller's transaction."""
    connection = await colour.connect()
    await done(connection.execute(INSERT, (1,)))
    async with colour.track("add", connection=connection) as action:
        assert action.connection is connection
        await done(connection.execute(INSERT, (2,)))
    assert "" == recorded_actions.outline()
    await done(getattr(connection, ending)())
    await done(connection.close())
    expected = ("add completed", [1, 2]) if ending == "commit" else ("", [])
    assert expected == (recorded_actions.outline(), present(eye))


async def test_joined_transaction_that_fails(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The block alone is undone, and its row is there before the caller decides."""
    connection = await colour.connect()
    await done(connection.execute(INSERT, (1,)))
    with pytest.raises(ZeroDivisionError):
        async with colour.track("add", connection=connection):
            await done(connection.execute(INSERT, (2,)))
            raise ZeroDivisionError
    assert "add failed" == recorded_actions.outline()
    await done(connection.commit())
    await done(connection.close())
    assert [1] == present(eye)


async def test_nested(colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """An inner failure that is caught undoes the inner work only."""
    async with colour.track("order") as outer:
        await done(outer.connection.execute(INSERT, (1,)))
        async with colour.track("reserve") as inner:
            assert inner.connection is outer.connection
            await done(inner.connection.execute(INSERT, (2,)))
            async with colour.track("count"):
                pass
        with suppress(ValueError):
            async with colour.track("notify") as inner:
                await done(inner.connection.execute(INSERT, (3,)))
                raise ValueError
        assert current_action() is outer
    recorded_actions.expect("""
        order completed
          reserve completed
            count completed
          notify failed
    """)
    assert {outer.id} == {action.root_id for action in recorded_actions.all()}
    assert [1, 2] == present(eye)


async def test_nested_in_a_failure(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What finished inside is undone with the block around it, and says so."""
    with pytest.raises(KeyError):
        async with colour.track("order") as outer:
            async with colour.track("reserve"):
                await done(outer.connection.execute(INSERT, (2,)))
            raise KeyError("x")
    recorded_actions.expect("""
        order failed
          reserve rolled_back
    """)
    assert [] == present(eye)


async def test_detached(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """No transaction is held; the row is there when the block ends, whichever way."""
    async with colour.track("mail", transaction=False) as action:
        with pytest.raises(MisusedAction, match="transaction=False"):
            _ = action.connection
        action.result = "sent"
    with pytest.raises(OSError, match="refused"):
        async with colour.track("mail", transaction=False):
            raise OSError("refused")
    async with colour.track("mail", transaction=False) as action:
        action.fail("bounced")
    assert [
        ("completed", "sent", None, None),
        ("failed", None, "OSError", "refused"),
        ("failed", None, None, "bounced"),
    ] == [(row.status, row.result, row.error_type, row.error_message) for row in recorded_actions.all()]


async def test_detached_inside_a_block_that_fails(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Work outside Postgres stays done."""
    with pytest.raises(KeyError):
        async with colour.track("order"):
            async with colour.track("mail", transaction=False):
                pass
            raise KeyError("x")
    recorded_actions.expect("""
        order failed
          mail completed
    """)


async def test_begun_and_completed(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """A begun action is pending until it is completed, once."""
    with request_scope(user_id="ann"):
        action_id = await done(colour.trail.begin("import", concept="file", entity_type="file", entity_id="a.csv"))
    row = recorded_actions.one()
    assert (action_id, "pending", "ann", "a.csv", None) == (
        row.id,
        row.status,
        row.user_id,
        row.entity_id,
        row.completed_at,
    )
    await done(colour.trail.complete(action_id, {"rows": 3}))
    row = recorded_actions.one()
    assert ("completed", {"rows": 3}, "ann") == (row.status, row.result, row.user_id)
    with pytest.raises(ActionNotPending, match=str(action_id)):
        await done(colour.trail.complete(action_id))
    with pytest.raises(ActionNotPending, match=str(action_id)):
        await done(colour.trail.resume(action_id))


@pytest.mark.parametrize(
    ("error", "stored"), [("no disk", (None, "no disk")), (OSError("no disk"), ("OSError", "no disk"))]
)
async def test_begun_and_failed(
    colour: Blocking, recorded_actions: RecordedActions, error: str | Exception, stored: tuple[str | None, str]
) -> None:
    """A begun action fails with a reason or an exception."""
    action_id = await done(colour.trail.begin("import", concept="file"))
    await done(colour.trail.fail(action_id, error))
    row = recorded_actions.one()
    assert ("failed", stored) == (row.status, (row.error_type, row.error_message))
    with pytest.raises(ActionNotPending):
        await done(colour.trail.fail(action_id, "again"))


async def test_begun_and_expired(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Without an outcome in time it is unknown, and a late one still counts."""
    action_id = await done(colour.trail.begin("import", concept="file", expires_in=timedelta(microseconds=1)))
    assert "import unknown" == recorded_actions.outline()
    await done(colour.trail.complete(action_id))
    assert "import completed" == recorded_actions.outline()


async def test_outcome_as_part_of_the_work(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Completed on a connection, it is completed only if that connection commits."""
    action_id = await done(colour.trail.begin("import", concept="file"))
    connection = await colour.connect()
    await done(colour.trail.complete(action_id, connection=connection))
    await done(connection.rollback())
    assert "import pending" == recorded_actions.outline()
    await done(colour.trail.fail(action_id, "gave up", connection=connection))
    await done(connection.commit())
    await done(connection.close())
    assert "import failed" == recorded_actions.outline()


async def test_resumed(colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """A block goes on with the action under its id; what it does inside are its children."""
    action_id = await done(colour.trail.begin("import", concept="file", payload={"n": 1}))
    async with colour.entering(await done(colour.trail.resume(action_id))) as action:
        assert action.id == action_id
        await done(action.connection.execute(INSERT, (1,)))
        async with colour.track("row"):
            pass
        action.result = "ok"
    recorded_actions.expect("""
        import completed
          row completed
    """)
    row = recorded_actions.one(action_type="import")
    assert ({"n": 1}, "ok") == (row.payload, row.result)
    assert [(1, action_id)] == eye.execute("SELECT id, action_id FROM work").fetchall()
    assert [(0,)] == eye.execute("SELECT count(*) FROM provenance.action_intents").fetchall()


async def test_resumed_and_failed(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A block that fails gives the action its outcome too."""
    action_id = await done(colour.trail.begin("import", concept="file"))
    with pytest.raises(ValueError, match="bad row"):
        async with colour.entering(await done(colour.trail.resume(action_id))):
            raise ValueError("bad row")
    row = recorded_actions.one()
    assert (action_id, "failed", "bad row") == (row.id, row.status, row.error_message)
    assert [(0,)] == eye.execute("SELECT count(*) FROM provenance.action_intents").fetchall()


async def test_resumed_twice(colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Of two that go on with the same action one commits; the work of the other is rolled back."""
    action_id = await done(colour.trail.begin("import", concept="file"))
    first = await done(colour.trail.resume(action_id))
    second = await done(colour.trail.resume(action_id))
    async with colour.entering(first) as action:
        await done(action.connection.execute(INSERT, (1,)))
    with pytest.raises(NotCommitted) as caught:
        async with colour.entering(second) as action:
            await done(action.connection.execute(INSERT, (2,)))
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)
    assert ("import completed", [1]) == (recorded_actions.outline(), present(eye))


# --- Cancelled -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def atrail(provenance_dsn: str) -> AsyncIterator[AsyncTrail]:
    """A trail with one connection: a block that does not give it back starves the next one."""
    async with (
        AsyncConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=5, open=False, name="app") as pool,
        AsyncTrail(pool) as trail,
    ):
        yield trail


def waiting(eye: psycopg.Connection[Any], event: str) -> bool:
    """Say whether a session of this database waits for an event of this name or type."""
    found = eye.execute(
        """SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND %s IN (wait_event, wait_event_type)""",
        (event,),
    ).fetchone()
    assert found is not None
    return bool(found[0])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the server
            await asyncio.sleep(0.005)


async def once_it_sleeps(eye: psycopg.Connection[Any], act: Callable[[], object]) -> None:
    """Act when the server is at a query: one that is just on its way there would miss the request to cancel it."""
    await until(lambda: waiting(eye, "PgSleep"))
    act()


async def unless_given_up(eye: psycopg.Connection[Any]) -> None:
    """Give a write that waits for a lock the time to be given up, which it must not be."""
    deadline = time.monotonic() + 0.3
    while waiting(eye, "Lock") and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


@contextmanager
def trail_locked(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Keep everybody else from writing actions until the connection is closed."""
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE provenance.actions IN EXCLUSIVE MODE")
        yield connection


@pytest.fixture
def slow_commit(eye: psycopg.Connection[Any]) -> Callable[[float], None]:
    """Return what makes every COMMIT that follows work take so many seconds."""

    def slow(seconds: float) -> None:
        eye.execute(
            f"""CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END'""".encode()
        )
        eye.execute(
            """CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION dawdle()"""
        )

    return slow


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and fail unless that is how it ends."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def assert_clean(trail: AsyncTrail) -> None:
    """Fail unless the only connection is there without a trace of what happened, and no task was left behind."""
    async with asyncio.timeout(PATIENCE), trail.pool.connection() as connection:
        assert not {"commit", "rollback", "close"} & vars(connection).keys()
        assert connection.autocommit is False
        cursor = await connection.execute("SELECT current_setting('provenance.action_id', true)")
        assert (await cursor.fetchone()) in [(None,), ("",)]
    library = str(Path(provenance.__file__).parent)
    assert [] == [task for task in asyncio.all_tasks() if task.get_stack()[-1].f_code.co_filename.startswith(library)]


async def assert_one_cancelled(trail: AsyncTrail, recorded: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Fail unless there is one failed action, no work, and nothing else was left behind."""
    row = recorded.one()
    assert ("failed", CANCELLED, []) == (row.status, row.error_type, present(eye))
    await assert_clean(trail)


async def test_cancelled_in_the_body(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The failed row is there when the cancellation goes on."""
    inside = asyncio.Event()

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    await cancelled(task)
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_cancelled_in_a_query(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A query that runs is interrupted, and its connection serves again."""

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            await action.connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(body())
    await until(lambda: waiting(eye, "PgSleep"))
    await cancelled(task)
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_cancelled_during_commit(
    atrail: AsyncTrail,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    slow_commit: Callable[[float], None],
) -> None:
    """A COMMIT that the cancellation interrupts has not happened, and the row says so."""
    slow_commit(60)

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))

    task = asyncio.create_task(body())
    await until(lambda: waiting(eye, "PgSleep"))
    await cancelled(task)
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_cancelled_twice_during_commit(
    atrail: AsyncTrail,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    slow_commit: Callable[[float], None],
) -> None:
    """When not even the interruption can be waited for, the trail is asked, and says whether the work is there."""
    slow_commit(0.5)

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))

    task = asyncio.create_task(body())
    await until(lambda: waiting(eye, "PgSleep"))
    task.cancel()
    await asyncio.sleep(0)
    await cancelled(task)
    assert (recorded_actions.outline(), present(eye)) in [("add completed", [1]), ("add failed", [])]
    await assert_clean(atrail)


async def raises(action: Any) -> None:
    raise ValueError("no")


async def fails(action: Any) -> None:
    action.fail("no")


async def swallows(action: Any) -> None:
    with suppress(psycopg.Error):
        await action.connection.execute("SELECT 1 / 0")


async def breaks_a_deferred_constraint(action: Any) -> None:
    await action.connection.execute("INSERT INTO work (id, secret) VALUES (2, 'same'), (3, 'same')")


@pytest.mark.parametrize(
    ("ending", "error_type"),
    [
        (raises, "ValueError"),
        (fails, None),
        (swallows, "provenance.errors.NotCommitted"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_while_the_failure_is_written(
    *,
    atrail: AsyncTrail,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    provenance_dsn: str,
    ending: Callable[[Any], Awaitable[None]],
    error_type: str | None,
    times: int,
) -> None:
    """The row is written to its end, once, however often the task is cancelled meanwhile; then the cancellation goes on."""

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            await ending(action)

    with trail_locked(provenance_dsn) as lock:
        task = asyncio.create_task(body())
        await until(lambda: waiting(eye, "Lock"))
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await unless_given_up(eye)
        lock.rollback()
        with pytest.raises(asyncio.CancelledError):
            await task
    row = recorded_actions.one()
    assert ("failed", error_type, []) == (row.status, row.error_type, present(eye))
    await assert_clean(atrail)


async def test_cancelled_in_the_body_and_while_that_is_written(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], provenance_dsn: str
) -> None:
    """The second cancellation does not cut the record of the first."""
    inside = asyncio.Event()

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            inside.set()
            await asyncio.Event().wait()

    with trail_locked(provenance_dsn) as lock:
        task = asyncio.create_task(body())
        await inside.wait()
        task.cancel()
        await until(lambda: waiting(eye, "Lock"))
        task.cancel()
        await unless_given_up(eye)
        lock.rollback()
        with pytest.raises(asyncio.CancelledError):
            await task
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_cancelled_while_it_waits_for_a_connection(atrail: AsyncTrail, recorded_actions: RecordedActions) -> None:
    """Nothing has begun, so nothing is recorded, and the connection is not lost."""
    async with atrail.pool.connection():
        task = asyncio.create_task(atrail.track_action("add", concept="work").__aenter__())
        await until(lambda: atrail.pool.get_stats()["requests_waiting"] == 1)
        await cancelled(task)
    assert "" == recorded_actions.outline()
    await assert_clean(atrail)


async def test_cancelled_while_it_enters(atrail: AsyncTrail, recorded_actions: RecordedActions) -> None:
    """The same block can be entered afterwards, on the same pool."""
    block = atrail.track_action("add", concept="work")

    async def enter() -> None:
        async with block:
            pass

    async with atrail.pool.connection():
        task = asyncio.create_task(enter())
        await until(lambda: atrail.pool.get_stats()["requests_waiting"] == 1)
        await cancelled(task)
    await enter()
    assert "add completed" == recorded_actions.outline()


async def test_cancelled_detached(atrail: AsyncTrail, recorded_actions: RecordedActions) -> None:
    """A detached block has its row too."""
    inside = asyncio.Event()

    async def body() -> None:
        async with atrail.track_action("mail", concept="work", transaction=False):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    await cancelled(task)
    assert ("failed", CANCELLED) == (recorded_actions.one().status, recorded_actions.one().error_type)
    await assert_clean(atrail)


async def test_cancelled_in_a_joined_block(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], provenance_dsn: str
) -> None:
    """The caller's transaction is still the caller's."""
    async with await psycopg.AsyncConnection.connect(provenance_dsn) as connection:
        await connection.execute(INSERT, (1,))

        async def body() -> None:
            async with atrail.track_action("add", concept="work", connection=connection):
                await connection.execute(INSERT, (2,))
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(body())
        await until(lambda: waiting(eye, "PgSleep"))
        await cancelled(task)
        assert ("failed", CANCELLED) == (recorded_actions.one().status, recorded_actions.one().error_type)
        await connection.commit()
    assert [1] == present(eye)
    await assert_clean(atrail)


async def test_timeout(atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """asyncio.timeout() around a block still becomes TimeoutError."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            limit.reschedule(loop.time())
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_timeout_of_an_inner_block(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The enclosing block goes on without the work of the inner one."""
    loop = asyncio.get_running_loop()
    async with atrail.track_action("order", concept="work") as order:
        await order.connection.execute(INSERT, (1,))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit, atrail.track_action("ask", concept="work"):
                await order.connection.execute(INSERT, (2,))
                asyncio.create_task(once_it_sleeps(eye, lambda: limit.reschedule(loop.time())))  # noqa: RUF006
                await order.connection.execute("SELECT pg_sleep(60)")
        await order.connection.execute(INSERT, (3,))
    recorded_actions.expect("""
        order completed
          ask failed
    """)
    assert [1, 3] == present(eye)
    await assert_clean(atrail)


async def test_cancel_scope(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A cancel scope, which cancels again at every step until it is left, gets its cancellation back."""
    with anyio.CancelScope() as scope:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_move_on_after(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A deadline that passes in a query."""
    with anyio.move_on_after(PATIENCE) as scope:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            asyncio.create_task(once_it_sleeps(eye, lambda: setattr(scope, "deadline", anyio.current_time())))  # noqa: RUF006
            await action.connection.execute("SELECT pg_sleep(60)")
    assert scope.cancelled_caught
    await assert_one_cancelled(atrail, recorded_actions, eye)


async def test_cancel_scope_while_the_failure_is_written(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], provenance_dsn: str
) -> None:
    """A scope that is cancelled while the row waits for a lock."""
    with anyio.CancelScope() as scope:

        async def cancel_when_it_waits(lock: psycopg.Connection[Any]) -> None:
            await until(lambda: waiting(eye, "Lock"))
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await unless_given_up(eye)
            lock.rollback()

        with trail_locked(provenance_dsn) as lock:
            other = asyncio.create_task(cancel_when_it_waits(lock))
            try:
                async with atrail.track_action("add", concept="work") as action:
                    await action.connection.execute(INSERT, (1,))
                    raise ValueError("no")
            finally:
                with anyio.CancelScope(shield=True):
                    await other
    assert scope.cancelled_caught
    row = recorded_actions.one()
    assert ("failed", "ValueError", []) == (row.status, row.error_type, present(eye))
    await assert_clean(atrail)


async def test_sibling_of_a_failing_task(
    atrail: AsyncTrail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A task group that cancels a block gets its group of errors as always."""
    inside = asyncio.Event()

    async def body() -> None:
        async with atrail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            inside.set()
            await asyncio.Event().wait()

    async def sibling() -> None:
        await inside.wait()
        raise LookupError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(body())
            group.create_task(sibling())
    assert [LookupError] == [type(error) for error in caught.value.exceptions]
    await assert_one_cancelled(atrail, recorded_actions, eye)


def test_cancelled_by_the_end_of_the_loop(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A task that asyncio.run() cancels when it ends has its row."""

    async def body(inside: asyncio.Event) -> None:
        async with AsyncTrail(provenance_dsn) as trail, trail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            inside.set()
            await asyncio.Event().wait()

    async def main() -> asyncio.Task[None]:
        inside = asyncio.Event()
        task = asyncio.create_task(body(inside))
        await asyncio.wait_for(inside.wait(), 30)
        return task

    task = asyncio.run(main())
    assert task.cancelled()
    row = recorded_actions.one()
    assert ("failed", CANCELLED, []) == (row.status, row.error_type, present(eye))


def test_end_of_the_loop_while_the_failure_is_written(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """asyncio.run() cancels every task, the one that writes the row too."""
    over = threading.Event()

    async def body() -> None:
        async with AsyncTrail(provenance_dsn) as trail, trail.track_action("add", concept="work") as action:
            await action.connection.execute(INSERT, (1,))
            raise ValueError("no")

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(body())
        await until(lambda: waiting(eye, "Lock"))
        return task

    with trail_locked(provenance_dsn) as lock:

        def release() -> None:
            over.wait(PATIENCE)
            asyncio.run(unless_given_up(eye))
            lock.rollback()

        thread = threading.Thread(target=release)
        thread.start()

        async def main_then_release() -> asyncio.Task[None]:
            task = await main()
            # The first thing to run once the loop is being torn down, and every task has been cancelled.
            asyncio.get_running_loop().call_soon(over.set)
            return task

        task = asyncio.run(main_then_release())
        thread.join()
    assert task.cancelled()
    row = recorded_actions.one()
    assert ("failed", "ValueError", []) == (row.status, row.error_type, present(eye))


# --- Interrupted without asyncio -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_more_than_an_exception(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], error: BaseException
) -> None:
    """What is not an Exception goes on as it is, and is recorded like one."""
    with pytest.raises(type(error)) as caught, trail.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        raise error
    assert caught.value is error
    row = recorded_actions.one()
    assert ("failed", type(error).__name__, str(error), []) == (
        row.status,
        row.error_type,
        row.error_message or "",
        present(eye),
    )


@contextmanager
def interrupted_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send this process a real Ctrl-C as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_query(trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """The query is interrupted, the work undone, the row there."""
    with (
        pytest.raises(KeyboardInterrupt),
        interrupted_when(lambda: waiting(eye, "PgSleep")),
        trail.track_action("add", concept="work") as action,
    ):
        action.connection.execute(INSERT, (1,))
        action.connection.execute("SELECT pg_sleep(60)")
    row = recorded_actions.one()
    assert ("failed", "KeyboardInterrupt", []) == (row.status, row.error_type, present(eye))


def test_ctrl_c_during_commit(
    trail: Trail,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    slow_commit: Callable[[float], None],
) -> None:
    """A COMMIT that is interrupted has not happened."""
    slow_commit(60)
    with (
        pytest.raises(KeyboardInterrupt),
        interrupted_when(lambda: waiting(eye, "PgSleep")),
        trail.track_action("add", concept="work") as action,
    ):
        action.connection.execute(INSERT, (1,))
    row = recorded_actions.one()
    assert ("failed", "KeyboardInterrupt", []) == (row.status, row.error_type, present(eye))
