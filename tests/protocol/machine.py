"""A model of programs that use tracked blocks, run against a real server and held against the invariants.

One machine serves both colours: its operations are coroutines. The blocking colour runs them to their end without an
event loop (nothing in them ever waits); the other runs all of them in one task, because a block belongs to the task that
opened it.

What is believed is only the database: which rows of work are there, and what the trail says of the actions that wrote
them.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import attrs
import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance.errors import MisusedAction, NotCommitted
from provenance.trail import AsyncTrail, Trail

T = TypeVar("T")


class Boom(Exception):
    """What a body raises."""


@attrs.define(eq=False)
class Unit:
    """One transaction that blocks share."""

    joined: bool
    tainted: bool = False
    """The body ended the transaction by SQL text."""
    chained: bool = False
    """… and began another one, so that only the server could tell."""
    finished: bool = False
    """Its outermost block returned: what happens next is up to whoever owns the transaction."""


@attrs.define(eq=False)
class Block:
    """An open or closed tracked block."""

    manager: Any
    action: Any
    unit: Unit
    parent: UUID | None
    stamp: UUID
    """What its work is stamped with: its own id, or that of the nearest block around it that stamps."""
    solid: list[int] = attrs.field(factory=list)
    """Work written directly in the block, outside any savepoint of the user's: it shares the block's fate."""
    written: list[int] = attrs.field(factory=list)
    """All work written while the block was the innermost."""
    returned: bool | None = None
    """Whether leaving it told the caller that the work is committed (or waits for the enclosing transaction)."""

    @property
    def id(self) -> UUID:
        found: UUID = self.action.id
        return found


@attrs.define(eq=False)
class Savepoint:
    """A ``connection.transaction()`` of the user's inside a block."""

    manager: Any


# --- The two colours -------------------------------------------------------------------------------------------------


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a blocking operation waited")


class Blocking:
    """Runs the machine with blocking connections."""

    def __init__(self, dsn: str) -> None:
        self.pool = ConnectionPool(dsn, min_size=1, max_size=4, timeout=1, open=True)
        self.trail = Trail(self.pool)

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        return _finish(operation)

    async def connect(self, dsn: str, **options: Any) -> Any:
        return psycopg.connect(dsn, **options)

    async def enter(self, manager: Any) -> Any:
        return manager.__enter__()

    async def leave(self, manager: Any, error: BaseException | None) -> Any:
        return manager.__exit__(type(error) if error else None, error, None)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def elsewhere(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a body in another thread, with a copy of this context."""
        context = contextvars.copy_context()
        failures: list[BaseException] = []

        def target() -> None:
            try:
                context.run(_finish, body())
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failures.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def close(self) -> None:
        self.trail.close()
        self.pool.close()


class Awaiting:
    """Runs the machine with asynchronous connections, all operations in one task."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._work: asyncio.Queue[tuple[Coroutine[Any, Any, Any], asyncio.Future[Any]] | None] = asyncio.Queue()
        self._task = self.loop.create_task(self._serve())
        self.pool, self.trail = self.loop.run_until_complete(self._open(dsn))

    async def _open(self, dsn: str) -> tuple[AsyncConnectionPool[Any], AsyncTrail]:
        pool = AsyncConnectionPool(dsn, min_size=1, max_size=4, timeout=1, open=False)
        await pool.open()
        return pool, AsyncTrail(pool)

    async def _serve(self) -> None:
        while (item := await self._work.get()) is not None:
            operation, done = item
            try:
                done.set_result(await operation)
            except BaseException as error:  # noqa: BLE001 - handed over to the test's thread
                done.set_exception(error)

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        done: asyncio.Future[T] = self.loop.create_future()
        self._work.put_nowait((operation, done))
        return self.loop.run_until_complete(done)

    async def connect(self, dsn: str, **options: Any) -> Any:
        return await psycopg.AsyncConnection.connect(dsn, **options)

    async def enter(self, manager: Any) -> Any:
        return await manager.__aenter__()

    async def leave(self, manager: Any, error: BaseException | None) -> Any:
        return await manager.__aexit__(type(error) if error else None, error, None)

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await function(*args)

    def elsewhere(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a body in another task, with a copy of the serving task's context."""

        async def spawn() -> None:
            await asyncio.create_task(body())

        self.run(spawn())

    def close(self) -> None:
        async def stop() -> None:
            await self.trail.close()
            await self.pool.close()

        self.loop.run_until_complete(stop())
        self._work.put_nowait(None)
        self.loop.run_until_complete(self._task)
        self.loop.close()


Colour = Blocking | Awaiting

# --- The machine -----------------------------------------------------------------------------------------------------

_METHODS = ("commit", "rollback", "close")
_ENDINGS = ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN", "ROLLBACK; BEGIN")


class Programs(RuleBasedStateMachine):
    """Random programs. Subclasses name the colour, the database and a connection to look with."""

    colour: Colour
    dsn: str
    eye: psycopg.Connection[Any]
    next_id = 0

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[Block | Savepoint] = []
        self.blocks: list[Block] = []
        self.caller: Any = None
        self.caller_tainted = False

    # -- helpers --

    @property
    def innermost(self) -> Block | None:
        return next((frame for frame in reversed(self.stack) if isinstance(frame, Block)), None)

    @property
    def top_is_block(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1], Block)

    @property
    def usable(self) -> bool:
        block = self.innermost
        if block is None:
            return False
        return block.action.connection.info.transaction_status != TransactionStatus.INERROR

    @classmethod
    def new_id(cls) -> int:
        Programs.next_id += 1
        return Programs.next_id

    async def execute(self, connection: Any, query: str, params: tuple[object, ...] = ()) -> bool:
        """Return whether it was run: the statement after an inner block may find out what its body did."""
        try:
            await self.colour.call(connection.execute, query, params or None)
        except NotCommitted:
            assert self.innermost is not None
            assert self.innermost.unit.tainted
            return False
        return True

    async def insert(self, block: Block) -> None:
        work = self.new_id()
        if not await self.execute(block.action.connection, "INSERT INTO work (id) VALUES (%s)", (work,)):
            return
        block.written.append(work)
        if self.stack and self.stack[-1] is block:
            block.solid.append(work)

    # -- rules --

    @initialize(
        kind=st.sampled_from(["own", "joined", "joined in a savepoint", "idle autocommit"]),
        isolation=st.sampled_from([None, *IsolationLevel]),
    )
    def begin(self, kind: str, isolation: IsolationLevel | None) -> None:
        if kind == "own":
            return
        autocommit = kind == "idle autocommit"
        self.caller = self.colour.run(self.colour.connect(self.dsn, autocommit=autocommit))
        if isolation is not None:
            setter = self.caller.set_isolation_level
            self.colour.run(self.colour.call(setter, isolation)) if isinstance(self.colour, Awaiting) else setattr(
                self.caller, "isolation_level", isolation
            )
        if kind == "joined in a savepoint":
            self.colour.run(self.execute(self.caller, "SAVEPOINT mine"))

    @rule(savepoint=st.booleans(), stamp=st.sampled_from([True, True, False]))
    def enter(self, savepoint: bool, stamp: bool) -> None:
        outer = self.innermost
        manager = self.colour.trail.track_action(
            "step", concept="work", savepoint=savepoint, stamp=stamp, connection=None if outer else self.caller
        )
        if outer is None and self.caller is not None and self.caller.closed:
            return
        try:
            action = self.colour.run(self.colour.enter(manager))
        except MisusedAction:
            # The transaction is aborted, or over: it says so instead of opening a block that cannot be.
            return
        except NotCommitted:
            assert outer is not None
            assert outer.unit.tainted
            return
        if outer is not None:
            unit = outer.unit
        else:
            unit = Unit(joined=self.caller is not None and not self.caller.autocommit, tainted=self.caller_tainted)
        stamped_with = action.id if stamp or outer is None else outer.stamp
        block = Block(manager, action, unit, outer.id if outer else None, stamped_with)
        self.blocks.append(block)
        self.stack.append(block)
        self.write()

    @precondition(lambda self: self.usable)
    @rule()
    def write(self) -> None:
        block = self.innermost
        assert block is not None
        self.colour.run(self.insert(block))

    # Not after the body ended the transaction: psycopg's own bookkeeping does not survive that.
    @precondition(lambda self: self.usable and not self.innermost.unit.tainted)
    @rule()
    def open_savepoint(self) -> None:
        block = self.innermost
        assert block is not None
        manager = block.action.connection.transaction()
        self.colour.run(self.colour.enter(manager))
        self.stack.append(Savepoint(manager))

    @precondition(lambda self: self.stack and isinstance(self.stack[-1], Savepoint))
    @rule(undo=st.booleans())
    def close_savepoint(self, undo: bool) -> None:
        frame = self.stack.pop()
        # In a transaction that the body ended, the savepoint is gone and closing it fails; somebody catches that.
        with suppress(psycopg.Error, NotCommitted):
            self.colour.run(self.colour.leave(frame.manager, psycopg.Rollback() if undo else None))

    @precondition(lambda self: self.usable and not self.innermost.unit.tainted)
    @rule(undo=st.booleans(), stamp=st.booleans())
    def work_within_savepoint(self, undo: bool, stamp: bool) -> None:
        """A whole block between a savepoint and its end, which the rules above seldom come to by chance."""
        self.open_savepoint()
        self.enter(savepoint=False, stamp=stamp)
        self.leave()
        self.close_savepoint(undo)

    # One rule for all that goes wrong, so that most programs get far before something does.
    @precondition(lambda self: self.usable)
    @rule(kind=st.sampled_from(["swallow an error", "violate later", "end inside", *_METHODS, *_ENDINGS]))
    def mishap(self, kind: str) -> None:
        block = self.innermost
        assert block is not None
        if kind == "swallow an error":
            with suppress(psycopg.errors.DivisionByZero):
                self.colour.run(self.execute(block.action.connection, "SELECT 1 / 0"))
        elif kind == "violate later":
            self.violate_deferred_constraint(block)
        elif kind == "end inside":
            self.end_inside_an_inner_block()
        elif kind in _METHODS:
            self.end_by_method(block, kind)
        else:
            self.end_by_text(block, kind)

    def end_inside_an_inner_block(self) -> None:
        """What nobody is told of before something comes after the inner block, or the one around it ends."""
        outer = self.innermost
        self.enter(savepoint=False, stamp=True)
        block = self.innermost
        assert block is not None
        if block is not outer:
            self.end_by_text(block, "ROLLBACK; BEGIN")
            self.leave()

    def violate_deferred_constraint(self, block: Block) -> None:
        first, second = self.new_id(), self.new_id()
        query = "INSERT INTO work (id, secret) VALUES (%s, %s)"
        # Outside a transaction, which is where a body finds itself after a COMMIT of its own, the second one fails at once.
        with suppress(psycopg.errors.UniqueViolation):
            for work in (first, second):
                # Refused, it leaves the transaction aborted.
                if not self.colour.run(self.execute(block.action.connection, query, (work, f"same {first}"))):
                    break
                block.written.append(work)

    def end_by_method(self, block: Block, method: str) -> None:
        try:
            self.colour.run(self.colour.call(getattr(block.action.connection, method)))
        except MisusedAction:
            return
        raise AssertionError(f"{method}() was let through")

    def end_by_text(self, block: Block, query: str) -> None:
        with suppress(psycopg.Error):
            self.colour.run(self.execute(block.action.connection, query))
        block.unit.tainted = True
        block.unit.chained |= "CHAIN" in query or "BEGIN" in query
        self.caller_tainted |= self.caller is not None

    @precondition(lambda self: self.top_is_block)
    @rule()
    def leave(self) -> None:
        self.close_block(None)

    @precondition(lambda self: self.top_is_block)
    @rule()
    def leave_failing(self) -> None:
        block = self.innermost
        assert block is not None
        block.action.fail("said so")
        self.close_block(None, failed=True)

    @precondition(lambda self: self.innermost is not None)
    @rule(levels=st.integers(1, 4))
    def raise_through(self, levels: int) -> None:
        """Raise in the body; somebody catches it after that many frames."""
        error = Boom()
        for _ in range(min(levels, len(self.stack))):
            if isinstance(self.stack[-1], Block):
                self.close_block(error)
            else:
                frame = self.stack.pop()
                with suppress(psycopg.Error, NotCommitted):
                    self.colour.run(self.colour.leave(frame.manager, error))

    @precondition(lambda self: self.innermost is not None)
    @rule(fails=st.booleans())
    def track_elsewhere(self, fails: bool) -> None:
        """A block opened in another thread or task: a child, in a transaction of its own."""
        outer = self.innermost
        assert outer is not None
        manager = self.colour.trail.track_action("elsewhere", concept="work")

        async def body() -> None:
            action = await self.colour.enter(manager)
            block = Block(manager, action, Unit(joined=False), outer.id, action.id)
            self.blocks.append(block)
            await self.insert(block)
            block.solid = list(block.written)
            error = Boom() if fails else None
            await self.colour.leave(manager, error)
            block.returned = not fails

        self.colour.elsewhere(body)
        block = self.blocks[-1]
        there = self.eye.execute("SELECT count(*) FROM work WHERE id = ANY(%s)", (block.written,)).fetchone()
        assert there == (0 if fails else 1,), "a block of another task is part of this one's transaction"

    # -- leaving --

    def close_block(self, error: Boom | None, *, failed: bool = False) -> None:
        block = self.stack.pop()
        assert isinstance(block, Block)
        nested = self.innermost is not None and self.innermost.unit is block.unit
        try:
            swallowed = self.colour.run(self.colour.leave(block.manager, error))
        except (NotCommitted, psycopg.Error):
            assert error is None, "the body's own exception was replaced"
            block.returned = False
        else:
            assert not swallowed, "the body's exception was swallowed"
            block.returned = error is None and not failed
            if not nested:
                block.unit.finished = block.returned

    def teardown(self) -> None:
        try:
            while self.stack:
                if self.top_is_block:
                    self.close_block(None)
                else:
                    self.close_savepoint(undo=False)
            committed_by_caller = self.end_caller()
            self.check(committed_by_caller)
        finally:
            if self.caller is not None:
                self.colour.run(self.colour.call(self.caller.close))

    def end_caller(self) -> bool:
        """End the caller's transaction; half of the programs commit."""
        if self.caller is None or self.caller.autocommit:
            return True
        if len(self.blocks) % 2:
            self.colour.run(self.colour.call(self.caller.rollback))
            return False
        aborted = self.caller.info.transaction_status == TransactionStatus.INERROR
        try:
            self.colour.run(self.colour.call(self.caller.commit))
        except psycopg.Error:
            return False
        return not aborted

    # -- the invariants --

    def check(self, committed_by_caller: bool) -> None:
        ids = [block.id for block in self.blocks]
        rows = self.eye.execute(
            "SELECT id, status, parent_action_id FROM provenance.action_log WHERE id = ANY(%s)", (ids,)
        ).fetchall()
        work = [work for block in self.blocks for work in block.written]
        there = dict(self.eye.execute("SELECT id, action_id FROM work WHERE id = ANY(%s)", (work,)).fetchall())
        recorded: dict[UUID, list[tuple[str, UUID | None]]] = {}
        for action_id, status, parent in rows:
            recorded.setdefault(action_id, []).append((status, parent))
        for block in self.blocks:
            self.check_block(block, recorded.get(block.id, []), there, committed_by_caller)

    def check_block(
        self,
        block: Block,
        rows: list[tuple[str, UUID | None]],
        there: dict[int, UUID],
        committed_by_caller: bool,
    ) -> None:
        present = [work for work in block.written if work in there]
        if not rows:
            # Only a finished block in a caller's transaction that was undone afterwards leaves nothing.
            assert block.unit.joined and block.unit.finished and block.returned, "an action left no row"
            assert not committed_by_caller or self.caller_tainted, "an action left no row though the caller committed"
            assert self.caller_tainted or not present, "I1: committed work without an action"
            return
        assert len(rows) == 1, "an action left two rows"
        status, parent = rows[0]
        assert parent == block.parent
        if block.unit.tainted:
            # Nobody can know: the trail may say just that, and must not say that committed work failed. The exception: a
            # body that commits, begins anew in SQL and then leaves an aborted transaction cannot be told from one that
            # simply failed.
            assert status != "completed" or all(work in there for work in block.solid)
            assert block.unit.chained or not present or status in ("unknown", "completed"), f"I4: {status}"
            return
        assert status in ("completed", "failed", "rolled_back")
        if status == "completed":
            assert all(work in there for work in block.solid), "I2: completed, but its work is not there"
            assert block.returned, "completed, but the caller was told otherwise"
        else:
            assert not present, f"I4: {status}, but its work is there"
        assert not present or status == "completed", "I1: committed work without a completed action"
        assert all(there[work] == block.stamp for work in present), "work is stamped with another action"
