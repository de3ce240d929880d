"""Several statements in one round trip, on the internals of psycopg and by its public interface."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import PipelineStatus, TransactionStatus

from provenance import drivers
from provenance.drivers import running
from provenance.errors import NotCommitted
from provenance.models import Action
from provenance.statements import Statement, as_they_are, command, commands
from tests.support import colours, databases
from tests.support.colours import Blocking, done
from tests.support.outages import until

colour = colours.colour
eye = databases.eye

BEGIN, COMMIT, ROLLBACK = command("BEGIN"), command(b"COMMIT"), command(sql.SQL("ROLLBACK") + sql.SQL(""))
INSERT = "INSERT INTO work (id) VALUES (%(id)s)"

pytestmark = pytest.mark.anyio


def insert(number: int) -> Statement[Any]:
    return Statement(INSERT, {"id": number}, as_they_are)


def ask(query: Any, **params: object) -> Statement[Any]:
    return Statement(query, params or None, as_they_are)


@pytest.fixture(params=["familiar", "unfamiliar"])
def _road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the server in turn."""
    assert running.FAMILIAR
    monkeypatch.setattr(running, "FAMILIAR", request.param == "familiar")


@pytest.fixture
async def connection(colour: Blocking) -> AsyncIterator[Any]:
    """A connection in autocommit mode."""
    connected = await colour.connect(autocommit=True)
    yield connected
    await done(connected.close())


async def together(connection: Any, *statements: Statement[Any]) -> list[Any]:
    """Run statements in one round trip, in the colour of the connection."""
    run = drivers.run_together if isinstance(connection, psycopg.Connection) else drivers.arun_together
    return await done(run(connection, statements))


async def numbers(connection: Any) -> list[int]:
    cursor = await done(connection.execute("SELECT id FROM work ORDER BY id"))
    return [number for (number,) in await done(cursor.fetchall())]


async def prepared(connection: Any) -> list[str]:
    cursor = await done(
        connection.execute("SELECT statement FROM pg_prepared_statements WHERE NOT from_sql ORDER BY 1", prepare=False)
    )
    return [statement for (statement,) in await done(cursor.fetchall())]


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("params", [{}, {"one": 1}])
async def test_each_statement_is_answered_with_its_own_rows(connection: Any, params: dict[str, int]) -> None:
    """In their order, with Python values, whether any of them has parameters or none."""
    identity = UUID("01890000-0000-7000-8000-000000000001")
    asked = ask("SELECT %(one)s::integer", **params) if params else ask("SELECT 1")
    statements = (BEGIN, asked, ask(f"VALUES ('{identity}'::uuid), (NULL)"), command("SET LOCAL a.b = 'c'"), COMMIT)
    assert await together(connection, *statements) == [None, [(1,)], [(identity,), (None,)], None, None]
    assert connection.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.usefixtures("_road")
async def test_a_statement_may_be_several_commands(connection: Any) -> None:
    """Its answers are counted, so that what comes after it gets its own."""
    several = commands("BEGIN", "SET LOCAL a.b = 'c'", "SET LOCAL a.d = 'e'")
    for reading in (ask("SELECT current_setting('a.b'), 1"), ask("SELECT current_setting('a.b'), %(n)s::integer", n=1)):
        assert await together(connection, several, reading, COMMIT) == [None, [("c", 1)], None]


@pytest.mark.usefixtures("_road")
async def test_parameters_may_be_numbered(connection: Any) -> None:
    """They are sent as they are, of whatever type the server takes them to be; nulls too."""
    query = "SELECT $1::integer, $2, $1::text, $3::uuid"
    numbered = Statement(query, {}, as_they_are, numbered=("7", "seven", None))
    for _ in range(8):
        assert await together(connection, BEGIN, numbered, COMMIT) == [None, [(7, "seven", "7", None)], None]
    run = drivers.run if isinstance(connection, psycopg.Connection) else drivers.arun
    assert await done(run(connection, numbered)) == [(7, "seven", "7", None)]


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("wrong", [command("SELECT 1/0"), ask("SELECT 1/%(zero)s::integer", zero=0)])
async def test_what_follows_an_error_is_not_done(connection: Any, wrong: Statement[Any]) -> None:
    """The first error is raised, and the connection can be used again."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        await together(connection, BEGIN, insert(1), wrong, insert(2), COMMIT)
    assert connection.pgconn.pipeline_status == PipelineStatus.OFF
    assert connection.info.transaction_status == TransactionStatus.INERROR
    await together(connection, ROLLBACK)
    assert await numbers(connection) == []
    await together(connection, BEGIN, insert(3), COMMIT)
    assert await numbers(connection) == [3]


@pytest.mark.usefixtures("_road")
async def test_the_begin_that_psycopg_owes_is_sent(colour: Blocking) -> None:
    """A connection that is not in autocommit mode begins its transaction with the first statement."""
    connection = await colour.connect()
    await together(connection, insert(1), command("SELECT 1"))
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    await together(connection, insert(2), insert(3))
    await done(connection.rollback())
    assert await numbers(connection) == []
    await done(connection.close())


@pytest.mark.usefixtures("_road")
async def test_the_pipeline_of_the_caller_is_used(connection: Any) -> None:
    """Within one that is open already, nothing else is possible."""
    if isinstance(connection, psycopg.Connection):
        with connection.pipeline():
            answers = await together(connection, ask("SELECT 1"), ask("SELECT %(n)s::integer", n=2))
    else:
        async with connection.pipeline():
            answers = await together(connection, ask("SELECT 1"), ask("SELECT %(n)s::integer", n=2))
    assert answers == [[(1,)], [(2,)]]


@pytest.mark.direct("a pooler has other servers")
async def test_what_is_done_often_is_prepared_and_given_up_after_a_rollback(connection: Any) -> None:
    """As psycopg itself does: its own cursors use what was prepared here, and the other way round."""
    for number in range(8):
        await together(connection, BEGIN, insert(number), COMMIT)
    assert await prepared(connection) == [INSERT.replace("%(id)s", "$1")]
    await done(connection.execute(INSERT, {"id": 100}))
    assert len(await prepared(connection)) == 1
    await together(connection, BEGIN, insert(101), ROLLBACK)
    assert await prepared(connection) == []
    await together(connection, BEGIN, insert(102), COMMIT)
    assert await numbers(connection) == [*range(8), 100, 102]


@pytest.mark.direct("a pooler has other servers")
async def test_no_more_is_prepared_than_the_connection_may(connection: Any) -> None:
    """The eldest is given up for the newest."""
    connection.prepared_max, connection.prepare_threshold = 2, 0
    for number in range(5):
        answers = await together(connection, BEGIN, ask(f"SELECT {number} + %(n)s::integer", n=0), COMMIT)
        assert answers[1] == [(number,)]
    assert await prepared(connection) == ["SELECT 3 + $1::integer", "SELECT 4 + $1::integer"]


@pytest.mark.direct("a pooler has other servers")
async def test_what_was_not_reached_does_not_count_as_prepared(connection: Any) -> None:
    """An error before it, in the trip in which it would have been prepared; and the next one goes well."""
    connection.prepare_threshold = 0
    with pytest.raises(psycopg.errors.DivisionByZero):
        await together(connection, BEGIN, ask("SELECT 1/%(zero)s::integer", zero=0), insert(1), COMMIT)
    # To a savepoint psycopg would not have to go back: nothing is given up here.
    connection.pgconn.exec_(b"ROLLBACK")
    await together(connection, BEGIN, insert(2), COMMIT)
    assert await numbers(connection) == [2]


@pytest.mark.usefixtures("_road")
async def test_nothing_is_prepared_on_a_connection_that_forbids_it(connection: Any) -> None:
    """As behind a pooler."""
    connection.prepare_threshold = None
    for number in range(8):
        await together(connection, BEGIN, insert(number), COMMIT)
    assert len(await numbers(connection)) == 8
    assert await prepared(connection) == []


@pytest.mark.direct("it is the pooler's server that ends")
@pytest.mark.parametrize("params", [{}, {"pid": 0}])
async def test_a_server_that_hangs_up_says_why(connection: Any, params: dict[str, int]) -> None:
    """Its last words are the error, and not that the line is dead."""
    last = ask("SELECT pg_terminate_backend(pg_backend_pid() + %(pid)s)", **params) if params else None
    with pytest.raises(psycopg.errors.AdminShutdown):
        await together(connection, BEGIN, last or ask("SELECT pg_terminate_backend(pg_backend_pid())"), COMMIT)
    assert connection.closed


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("statement", [insert(1), command("SELECT 1")])
async def test_a_closed_connection_is_an_error_of_psycopg(colour: Blocking, statement: Statement[Any]) -> None:
    """Whoever calls tells by its class that nothing has been done."""
    connection = await colour.connect(autocommit=True)
    await done(connection.close())
    with pytest.raises(psycopg.OperationalError):
        await together(connection, statement, COMMIT)


@pytest.mark.usefixtures("_road")
async def test_more_than_fits_into_the_buffers_of_a_socket(connection: Any) -> None:
    """In both directions at once."""
    text = "x" * 8_000_000
    asked = ask("SELECT %(text)s::text", text=text)
    assert await together(connection, BEGIN, asked, asked, COMMIT) == [None, [(text,)], [(text,)], None]


@pytest.mark.usefixtures("_road")
async def test_adapters_of_the_connection_hold(connection: Any) -> None:
    """The application may have its own."""
    connection.adapters.register_loader("int4", psycopg.types.string.TextLoader)
    assert await together(connection, ask("SELECT %(n)s::integer", n=1)) == [[("1",)]]
    assert await together(connection, ask("SELECT 1::integer")) == [[("1",)]]


def _asleep(eye: psycopg.Connection[Any]) -> bool:
    # The client knows only that it has asked. A query that has not begun when its cancellation arrives runs to its end.
    sleepers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    return eye.execute(sleepers).fetchall() == [(1,)]


def _interrupt(eye: psycopg.Connection[Any]) -> None:
    asyncio.run(until(lambda: _asleep(eye)))
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("params", [{}, {"seconds": 30}])
def test_ctrl_c_ends_the_wait(provenance_dsn: str, eye: psycopg.Connection[Any], params: dict[str, int]) -> None:
    """The query is cancelled, and the connection can be used."""
    asked = ask("SELECT pg_sleep(%(seconds)s)", **params) if params else ask("SELECT pg_sleep(30)")
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        interrupting = threading.Thread(target=_interrupt, args=(eye,))
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            drivers.run_together(connection, (BEGIN, asked, insert(1), COMMIT))
        interrupting.join()
        assert connection.info.transaction_status == TransactionStatus.INERROR
        drivers.run_together(connection, (ROLLBACK,))
        assert connection.execute("SELECT count(*) FROM work").fetchone() == (0,)


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("params", [{}, {"seconds": 30}])
def test_a_cancelled_task_ends_the_wait(
    provenance_dsn: str, eye: psycopg.Connection[Any], params: dict[str, int]
) -> None:
    """As Ctrl-C does."""
    asked = ask("SELECT pg_sleep(%(seconds)s)", **params) if params else ask("SELECT pg_sleep(30)")

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(provenance_dsn, autocommit=True) as connection:
            waiting = asyncio.create_task(drivers.arun_together(connection, (BEGIN, asked, insert(1), COMMIT)))
            await until(lambda: _asleep(eye))
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()
            assert connection.info.transaction_status == TransactionStatus.INERROR
            await drivers.arun_together(connection, (ROLLBACK,))
            assert await numbers(connection) == []

    asyncio.run(main())


@pytest.mark.usefixtures("_road")
async def test_actions_are_recorded_either_way(colour: Blocking) -> None:
    """Of its own transaction, nested, joined, failed and refused."""
    async with colour.track("outer") as outer:
        await done(outer.connection.execute(INSERT, {"id": 1}))
        async with colour.track("inner") as inner:
            await done(inner.connection.execute(INSERT, {"id": 2}))
        with suppress(ZeroDivisionError):
            async with colour.track("failed"):
                raise ZeroDivisionError
    connection = await colour.connect()
    async with colour.track("joined", connection=connection):
        await done(connection.execute(INSERT, {"id": 3}))
    await done(connection.commit())
    with pytest.raises(NotCommitted):
        async with colour.track("swallowed") as swallowed:
            with suppress(psycopg.Error):
                await done(swallowed.connection.execute("SELECT 1/0"))
    assert await numbers(connection) == [1, 2, 3]
    await done(connection.close())
    found: Sequence[Action] = (await done(colour.trail.actions.search())).items
    assert {action.action_type: action.status.value for action in found} == {
        "outer": "completed",
        "inner": "completed",
        "failed": "failed",
        "joined": "completed",
        "swallowed": "failed",
    }
