"""Ctrl-C or a cancellation before or after any step of a block's I/O: its row still tells the truth."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, Literal, get_args
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest

from provenance import current_action, request_scope
from provenance.errors import NotCommitted
from provenance.testing import RecordedActions
from tests.support import databases
from tests.support.colours import Awaiting, Blocking, done

pytestmark = pytest.mark.anyio

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


When = Literal["before", "after"]


@attrs.define
class Interruption:
    """Happens before or after one step, which may be as bad for the connection as for the block.

    Checking a connection out and in is the pool's own business.
    """

    when: When
    step: int
    disconnects: bool = False
    seen: int = 0

    def due(self, step: Any) -> str | None:
        """Count a step, and say when to interrupt at it, if so."""
        if type(step).__name__ in {"Checkout", "Giveback", "CheckSchema"}:
            return None
        self.seen += 1
        return self.when if self.seen == self.step else None

    def strike(self, step: Any) -> None:
        """Break the connection, if it is to be broken."""
        if self.disconnects and (connection := getattr(step, "connection", None)) is not None:
            # As psycopg does when it is interrupted for the second time.
            connection.pgconn.finish()

    @property
    def happened(self) -> bool:
        return self.seen >= self.step

    def __str__(self) -> str:
        return f"{self.when} step {self.step}"


class InterruptedBlocking(Blocking):
    """Ctrl-C raises wherever the thread is."""

    def interrupt(self, interruption: Interruption) -> None:
        perform = self.trail.perform

        def interrupted(step: Any) -> Any:
            when = interruption.due(step)
            if when == "before":
                interruption.strike(step)
                raise KeyboardInterrupt
            try:
                return perform(step)
            finally:
                if when == "after":
                    interruption.strike(step)
                    raise KeyboardInterrupt

        self.trail.perform = interrupted

    def leave_alone(self) -> None:
        del self.trail.perform


class InterruptedAwaiting(Awaiting, InterruptedBlocking):
    """The task that runs the block is cancelled; it notices where it waits."""

    def interrupt(self, interruption: Interruption) -> None:
        perform, victim = self.trail.perform, asyncio.current_task()
        assert victim is not None

        async def interrupted(step: Any) -> Any:
            when = interruption.due(step)
            if when == "before":
                interruption.strike(step)
                victim.cancel()
                await asyncio.sleep(0)
            try:
                return await perform(step)
            finally:
                if when == "after":
                    interruption.strike(step)
                    victim.cancel()
                    await asyncio.sleep(0)

        self.trail.perform = interrupted


@pytest.fixture
async def colour(request: pytest.FixtureRequest, provenance_dsn: str) -> AsyncIterator[InterruptedBlocking]:
    """Each colour in turn."""
    made: InterruptedBlocking = request.param()
    await made.open(provenance_dsn)
    yield made
    await made.close()


class Boom(Exception):
    """What a body raises."""


class Program:
    """One run of a program, and which work each block that it entered has done."""

    _ids = itertools.count(1)

    def __init__(self, colour: InterruptedBlocking) -> None:
        self.track: Callable[..., AbstractAsyncContextManager[Any]] = colour.track
        self.colour = colour
        self.request_id = uuid4()
        self.work: dict[UUID, list[int]] = {}
        self.outlives_interruptions = False

    def entered(self) -> list[int]:
        return self.work.setdefault(current_action().id, [])

    async def insert(self) -> None:
        action: Any = current_action()
        self.entered().append(id_ := next(self._ids))
        await done(action.connection.execute("INSERT INTO work (id) VALUES (%s)", (id_,)))

    async def run(self, body: Callable[[Program], Awaitable[None]], interruption: Interruption) -> BaseException | None:
        """Run the program with an interruption in it and return what came out."""
        self.colour.interrupt(interruption)
        try:
            with request_scope(self.request_id):
                await body(self)
        except BaseException as error:  # noqa: BLE001 - that is what is asked for
            return error
        finally:
            self.colour.leave_alone()
        return None

    def untrue(
        self, error: BaseException | None, recorded: RecordedActions, eye: psycopg.Connection[Any]
    ) -> Iterator[str]:
        """Say what the trail has wrong about the blocks that were entered, and whether another error than ours came out."""
        if not isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) and not (
            self.outlives_interruptions and (error is None or isinstance(error, (NotCommitted, psycopg.Error)))
        ):
            yield f"ended with {error!r}"
        there = {row[0] for row in eye.execute("SELECT id FROM work").fetchall()}
        rows = {row.id: row for row in recorded.all(request_id=self.request_id)}
        for action_id, work in self.work.items():
            fate = "there" if there & {*work} else "gone"
            row = rows.pop(action_id, None)
            if row is None:
                yield f"no row, and the work is {fate}"
            elif row.status not in ("completed", "failed", "rolled_back"):
                yield f"{row.action_type} is {row.status}, although its outcome can be known"
            elif work and (row.status == "completed", fate) not in [(True, "there"), (False, "gone")]:
                yield f"{row.action_type} is {row.status}, and the work is {fate}"
        yield from (f"a row of a block that was never entered: {row.action_type}" for row in rows.values())


async def returns(program: Program) -> None:
    async with program.track("outer"):
        await program.insert()


async def raises(program: Program) -> None:
    async with program.track("outer"):
        await program.insert()
        raise Boom


async def fails(program: Program) -> None:
    async with program.track("outer") as action:
        await program.insert()
        action.fail("no")


async def swallows_an_error(program: Program) -> None:
    async with program.track("outer") as action:
        await program.insert()
        with suppress(psycopg.Error):
            await done(action.connection.execute("SELECT 1 / 0"))


async def breaks_a_deferred_constraint(program: Program) -> None:
    async with program.track("outer") as action:
        await program.insert()
        await done(action.connection.execute("INSERT INTO work (id, secret) VALUES (-1, 'same'), (-2, 'same')"))


async def returns_inside(program: Program) -> None:
    async with program.track("outer"):
        await program.insert()
        async with program.track("inner"):
            await program.insert()
        await program.insert()


async def raises_inside(program: Program) -> None:
    async with program.track("outer"):
        await program.insert()
        with suppress(Boom):
            async with program.track("inner"):
                await program.insert()
                raise Boom
        await program.insert()


async def goes_on_after_an_inner_block(program: Program) -> None:
    program.outlives_interruptions = True
    async with program.track("outer"):
        await program.insert()
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            async with program.track("inner"):
                await program.insert()
        await program.insert()


async def goes_on_after_an_inner_failure(program: Program) -> None:
    program.outlives_interruptions = True
    async with program.track("outer"):
        await program.insert()
        with suppress(Boom, KeyboardInterrupt, asyncio.CancelledError):
            async with program.track("inner"):
                await program.insert()
                raise Boom
        await program.insert()


async def returns_detached(program: Program) -> None:
    async with program.track("outer", transaction=False):
        program.entered()


async def raises_detached(program: Program) -> None:
    async with program.track("outer", transaction=False):
        program.entered()
        raise Boom


COLOURS = [InterruptedBlocking, InterruptedAwaiting]
BODIES = [
    returns,
    raises,
    fails,
    swallows_an_error,
    breaks_a_deferred_constraint,
    returns_inside,
    raises_inside,
    goes_on_after_an_inner_block,
    goes_on_after_an_inner_failure,
    returns_detached,
    raises_detached,
]


CASES = list(itertools.product(COLOURS, BODIES, [False, True]))


@pytest.mark.parametrize(("colour", "body", "disconnects"), CASES, indirect=["colour"])
async def test_interrupted_anywhere(
    colour: InterruptedBlocking,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    body: Callable[[Program], Awaitable[None]],
    *,
    disconnects: bool,
) -> None:
    """Each block that was entered has one row, which is completed exactly if its work is there; the interruption goes on;
    and the pool's only connection serves the next block.
    """
    found: list[str] = []
    for when in get_args(When):
        for step in itertools.count(1):
            program, interruption = Program(colour), Interruption(when, step, disconnects)
            # In a task of its own, so that a cancellation ends that one.
            error = await asyncio.create_task(program.run(body, interruption))
            if not interruption.happened:
                break
            found += [f"{interruption}: {problem}" for problem in program.untrue(error, recorded_actions, eye)]
            async with colour.track("next") as action:
                await done(action.connection.execute("SELECT 1"))
    assert [] == found


async def joins(program: Program, connection: Any) -> None:
    async with program.track("joined", connection=connection):
        await program.insert()


async def joins_with_an_inner_block(program: Program, connection: Any) -> None:
    async with program.track("joined", connection=connection):
        await program.insert()
        async with program.track("inner"):
            await program.insert()


async def joins_and_raises(program: Program, connection: Any) -> None:
    async with program.track("joined", connection=connection):
        await program.insert()
        raise Boom


@pytest.mark.parametrize("colour", COLOURS, indirect=True)
@pytest.mark.parametrize("body", [joins, joins_with_an_inner_block, joins_and_raises])
@pytest.mark.parametrize("disconnects", [False, True])
async def test_a_joined_block_interrupted_anywhere(
    colour: InterruptedBlocking,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    body: Callable[[Program, Any], Awaitable[None]],
    *,
    disconnects: bool,
) -> None:
    """The caller commits if it can, and each row is completed exactly if the work is there; nothing is unknown."""
    found: list[str] = []
    for when in get_args(When):
        for step in itertools.count(1):
            program, interruption = Program(colour), Interruption(when, step, disconnects)
            connection = await colour.connect(autocommit=False)
            error = await asyncio.create_task(program.run(partial(body, connection=connection), interruption))
            with suppress(psycopg.OperationalError):
                await done(connection.commit())
            await done(connection.close())
            if not interruption.happened:
                break
            found += [f"{interruption}: {problem}" for problem in program.untrue(error, recorded_actions, eye)]
    assert [] == found


@pytest.mark.parametrize("colour", COLOURS, indirect=True)
@pytest.mark.parametrize(("autocommit", "when"), list(itertools.product([True, False], ["before", "after"])))
async def test_an_interrupted_entry_leaves_the_callers_connection_as_it_was(
    colour: InterruptedBlocking, autocommit: bool, when: When
) -> None:
    """The body has not run, so the connection's transaction is what it was, and the action is not its current one."""
    connection = await colour.connect(autocommit=autocommit)
    if not autocommit:
        await done(connection.execute("SELECT 1"))
    before = connection.info.transaction_status

    async def body(program: Program) -> None:
        async with program.track("outer", connection=connection):
            pytest.fail("entered")

    async with colour.track("first"):
        pass
    error = await asyncio.create_task(Program(colour).run(body, Interruption(when, 1)))
    assert isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))
    after = connection.info.transaction_status
    cursor = await done(connection.execute("SELECT provenance.current_action_id()"))
    current = await done(cursor.fetchone())
    await done(connection.close())
    assert (before, (None,)) == (after, current)


@pytest.mark.parametrize("colour", COLOURS, indirect=True)
async def test_work_outside_that_is_interrupted_before_it_begins_keeps_no_key(
    colour: InterruptedBlocking, recorded_actions: RecordedActions
) -> None:
    """Wherever entering it is interrupted: the next attempt does the work, and nothing is left in doubt."""

    async def attempt(key: str, interruption: Interruption) -> None:
        colour.interrupt(interruption)
        # Here, because an event loop ends with a task that lets Ctrl-C through.
        with suppress(KeyboardInterrupt):
            async with colour.track("send", transaction=False, idempotency_key=key):
                ran.append(key)

    ran: list[str] = []
    for number, when in enumerate(get_args(When)):
        for step in itertools.count(1):
            key, interruption = f"{number} {step}", Interruption(when, step)
            with suppress(asyncio.CancelledError):
                await asyncio.create_task(attempt(key, interruption))
            colour.leave_alone()
            if not interruption.happened:
                break
            if key not in ran:
                async with colour.track("send", transaction=False, idempotency_key=key):
                    ran.append(key)
        assert step > 2
    assert {found.status.value for found in recorded_actions.all()} == {"completed", "failed"}
