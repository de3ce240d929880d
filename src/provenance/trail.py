"""The trail: where actions are recorded and read, in both colours, and the module-level default."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import drivers, tracking
from provenance.capture import AsyncTables, Tables
from provenance.changes import AsyncChangeRepository, ChangeRepository
from provenance.erasure import AsyncErasing, Erasing
from provenance.errors import NotConfigured
from provenance.forking import renew_in_children
from provenance.holds import AsyncHolds, Holds
from provenance.journal import AsyncJournal, Journal
from provenance.outliving import AsyncOutliving, Outliving
from provenance.policies import AsyncPolicies, Policies
from provenance.recording import Block, Colour, Step, bury, steps
from provenance.recording.steps import Checkout, CheckSchema, Forget, Giveback, Intend, Quiesce, Run, Settle
from provenance.recovery import AsyncRecovering, Recovering
from provenance.refreshing import AsyncViews, Views
from provenance.repository import ActionRepository, AsyncActionRepository
from provenance.setting_up import OnUnavailable, SetUp, SpoolOrPath, as_spool, checked_address, pool_maker
from provenance.statements import recording as statements
from provenance.statements.partitions import NEXT
from provenance.tracking.hosts import Durability
from provenance.translation import translated, unavailable
from provenance.upkeep import AsyncPartitions, Partitions, making_months
from provenance.values import Redactor


class Trail(SetUp, Outliving, Tables, Views, Recovering, Erasing, Holds, Policies, Partitions):
    """Records and reads actions with blocking I/O.

    ``trail.track_action`` is :class:`provenance.track_action` bound to this trail; ``trail.actions`` and
    ``trail.changes`` read.

    Args:
        pool: a :class:`psycopg_pool.ConnectionPool` of the application, which is never closed here, or an address (a
            conninfo string or URL) to make a pool of the trail's own for.
        journal: the address the journal connects to, when it is not that of the pool. The journal is a pool of at most
            two connections for rows that must outlive the work they tell of.
        redactor: what is hidden in payloads, results, metadata and error messages.
        max_size: the size of the trail's own pool, where it makes one.
        spool: a directory of this user's where rows are kept that the journal cannot write, until it can. Without one they
            are logged.
        on_unavailable: whether new actions are to be refused with :class:`TrailUnavailable` (``"raise"``) while it is known
            that the journal cannot be reached, or go on, and their rows to the spool.
        durability: as for :class:`track_action`, for all actions that do not say otherwise.

    Raises:
        NotConfigured: an address is malformed, or the spool is not a directory of this user alone.
    """

    colour = Colour.SYNC

    def __init__(
        self,
        pool: ConnectionPool[Any] | str,
        *,
        journal: str | None = None,
        redactor: Redactor | None = None,
        max_size: int = 10,
        spool: SpoolOrPath | None = None,
        on_unavailable: OnUnavailable = "spool",
        durability: Durability = "atomic",
    ) -> None:
        super().__init__(redactor, on_unavailable, durability)
        self.pool: ConnectionPool[Any]
        if isinstance(pool, str):
            self._make_pool = pool_maker(ConnectionPool[Any], pool, max_size, drivers.suit_pooler)
            self.pool = self._make_pool()
        elif isinstance(pool, AsyncConnectionPool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise NotConfigured(
                "pool: this is an AsyncConnectionPool; it goes with AsyncTrail, or configure(async_pool=)"
            )
        else:
            self.pool = pool
        self._journal = Journal(
            checked_address(journal) if journal else self.pool.conninfo,
            kwargs=None if journal else self.pool.kwargs,
            spool=as_spool(spool),
        )
        self._outage = self._journal.outage
        self.actions = ActionRepository(self.connection)
        self.changes = ChangeRepository(self.connection)
        self.track_action = tracking.bound(self)
        renew_in_children(self)

    def perform(self, step: Step) -> Any:
        """Do the I/O that a tracked block asks for."""
        match step:
            case Run(connection, work):
                return drivers.run_together(connection, work)
            case Checkout(block, checked):
                return self._checkout(block, checked=checked)
            case CheckSchema(connection):
                self._check_schema(connection)
            case Giveback(block, broken):
                self._give_back(block, broken=broken)
            case steps.Journal(rows):
                self._journal.write(rows)
            case steps.JournalDoubt(rows):
                self._journal.write_doubt(rows)
            case Quiesce():
                pass  # whoever has a query in progress on the connection is suspended in this very thread
            case Settle(rows, action_id, xid):
                return self._journal.settle(rows, action_id, xid)
            case Intend(evidence, action, claim):
                return self._journal.intend(evidence, action, claim, may_wait=not self._fail_closed)
            case Forget(action_ids):  # pragma: no branch - the last kind of step
                self._journal.forget(action_ids)
        return None

    def _open(self) -> None:
        """Open the trail's own pool, on first use so that a fork before it does no harm; a given one is left alone."""
        self._check_open()
        if self._make_pool is not None:
            self.pool.open()

    @contextmanager
    def connection(self) -> Generator[drivers.SyncConnection]:
        """Lend a connection of the trail's pool for the time of a block, outside any action; to read with."""
        self._open()
        with self.pool.connection() as connection:
            yield connection

    def _bury(self) -> None:
        while self.abandoned:
            block = self.abandoned.popleft()
            try:
                tracking.drive(bury(block), self.perform)
            except BaseException:
                # An interruption: it may not be recorded yet, or have its connection still.
                self.abandoned.appendleft(block)
                raise

    def _checkout(self, block: Block, *, checked: bool) -> drivers.SyncConnection:
        if self.abandoned:
            self._bury()
        try:
            self._open()
            if checked:
                self._outage.suspect()
                self.pool.check()
            connection: drivers.SyncConnection
            block.borrowed = connection = self.pool.getconn()
        except psycopg.OperationalError as error:
            self._outage.suspect()
            raise unavailable(error, "the action") from error
        if not connection.autocommit:
            # So that psycopg sends no BEGIN of its own: ours goes out together with the settings.
            block.switched = True
            try:
                drivers.switch_autocommit(connection, on=True)
            except psycopg.ProgrammingError as error:
                # Somebody used it after giving it back; the pool cleans it up.
                block.switched = False
                block.borrowed = None
                self.pool.putconn(connection)
                raise unavailable(error, "the action") from error
        return connection

    def _give_back(self, block: Block, *, broken: bool) -> None:
        connection: drivers.SyncConnection = block.borrowed
        if broken:
            connection.close()
        if block.switched:
            if not connection.closed:
                drivers.switch_autocommit(connection, on=False)
            block.switched = False
        # Before the pool has it: interrupted in there, it may be somebody else's already, and must not be given back again.
        block.borrowed = None
        self.pool.putconn(connection)

    def _check_schema(self, connection: drivers.SyncConnection | None) -> None:
        self._check_open()
        if self.ready or (self._outage.down and self._may_wait(connection)):
            return
        with self._perhaps_later(connection), translated("recording"):
            if connection is None:
                (found,) = self._journal.run(statements.INSTALLED)
            else:
                found = drivers.run(connection, statements.INSTALLED)
            self._schema_found(found)
            if found.months_due:
                with making_months():
                    self._journal.run(NEXT)

    def close(self) -> None:
        """Close what the trail opened: its journal, and its pool unless that was handed in."""
        self._bury()
        self._closed = True
        self._journal.close()
        if self._make_pool is not None:
            self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTrail(
    SetUp,
    AsyncOutliving,
    AsyncTables,
    AsyncViews,
    AsyncRecovering,
    AsyncErasing,
    AsyncHolds,
    AsyncPolicies,
    AsyncPartitions,
):
    """Records and reads actions with ``await``; see :class:`Trail`.

    Args:
        pool: a :class:`psycopg_pool.AsyncConnectionPool`, or an address. A pool of the trail's own is opened on first
            use and belongs to the event loop running then.
        journal: as for :class:`Trail`.
        redactor: as for :class:`Trail`.
        max_size: as for :class:`Trail`.
        spool: as for :class:`Trail`; it may be the same directory.
        on_unavailable: as for :class:`Trail`.
        durability: as for :class:`Trail`.

    Raises:
        NotConfigured: as for :class:`Trail`.
    """

    colour = Colour.ASYNC

    def __init__(
        self,
        pool: AsyncConnectionPool[Any] | str,
        *,
        journal: str | None = None,
        redactor: Redactor | None = None,
        max_size: int = 10,
        spool: SpoolOrPath | None = None,
        on_unavailable: OnUnavailable = "spool",
        durability: Durability = "atomic",
    ) -> None:
        super().__init__(redactor, on_unavailable, durability)
        self.pool: AsyncConnectionPool[Any]
        if isinstance(pool, str):
            self._make_pool = pool_maker(AsyncConnectionPool[Any], pool, max_size, drivers.asuit_pooler)
            self.pool = self._make_pool()
        elif isinstance(pool, ConnectionPool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise NotConfigured("pool: this is a ConnectionPool; it goes with Trail, or configure(pool=)")
        else:
            self.pool = pool
        self._journal = AsyncJournal(
            checked_address(journal) if journal else self.pool.conninfo,
            kwargs=None if journal else self.pool.kwargs,
            spool=as_spool(spool),
        )
        self._outage = self._journal.outage
        self.actions = AsyncActionRepository(self.connection)
        self.changes = AsyncChangeRepository(self.connection)
        self.track_action = tracking.bound(self)
        renew_in_children(self)

    async def perform(self, step: Step) -> Any:
        """Do the I/O that a tracked block asks for."""
        match step:
            case Run(connection, work):
                return await drivers.arun_together(connection, work)
            case Checkout(block, checked):
                return await self._checkout(block, checked=checked)
            case CheckSchema(connection):
                await self._check_schema(connection)
            case Giveback(block, broken):
                await self._give_back(block, broken=broken)
            case steps.Journal(rows):
                await self._journal.write(rows)
            case steps.JournalDoubt(rows):
                await self._journal.write_doubt(rows)
            case Quiesce(connection):
                await drivers.aquiesce(connection)
            case Settle(rows, action_id, xid):
                return await self._journal.settle(rows, action_id, xid)
            case Intend(evidence, action, claim):
                return await self._journal.intend(evidence, action, claim, may_wait=not self._fail_closed)
            case Forget(action_ids):  # pragma: no branch - the last kind of step
                await self._journal.forget(action_ids)
        return None

    async def _open(self) -> None:
        """Open the trail's own pool, on first use because that needs an event loop; a given one is left alone."""
        self._check_open()
        if self._make_pool is not None:
            await self.pool.open()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[drivers.AsyncConnection]:
        """Lend a connection of the trail's pool for the time of a block, outside any action; to read with."""
        await self._open()
        async with self.pool.connection() as connection:
            yield connection

    async def _bury(self) -> None:
        while self.abandoned:
            block = self.abandoned.popleft()
            try:
                await tracking.adrive(bury(block), self.perform)
            except BaseException:
                # An interruption: it may not be recorded yet, or have its connection still.
                self.abandoned.appendleft(block)
                raise

    async def _checkout(self, block: Block, *, checked: bool) -> drivers.AsyncConnection:
        await self._bury()
        try:
            await self._open()
            if checked:
                self._outage.suspect()
                await self.pool.check()
            connection: drivers.AsyncConnection
            block.borrowed = connection = await self.pool.getconn()
        except psycopg.OperationalError as error:
            self._outage.suspect()
            raise unavailable(error, "the action") from error
        if not connection.autocommit:
            # So that psycopg sends no BEGIN of its own: ours goes out together with the settings.
            block.switched = True
            try:
                await drivers.aswitch_autocommit(connection, on=True)
            except psycopg.ProgrammingError as error:
                block.switched = False
                block.borrowed = None
                await self.pool.putconn(connection)
                raise unavailable(error, "the action") from error
        return connection

    async def _give_back(self, block: Block, *, broken: bool) -> None:
        connection: drivers.AsyncConnection = block.borrowed
        if broken:
            await connection.close()
        if block.switched:
            if not connection.closed:
                await drivers.aswitch_autocommit(connection, on=False)
            block.switched = False
        # Before the pool has it: interrupted in there, it may be somebody else's already, and must not be given back again.
        block.borrowed = None
        await self.pool.putconn(connection)

    async def _check_schema(self, connection: drivers.AsyncConnection | None) -> None:
        self._check_open()
        if self.ready or (self._outage.down and self._may_wait(connection)):
            return
        with self._perhaps_later(connection), translated("recording"):
            if connection is None:
                (found,) = await self._journal.run(statements.INSTALLED)
            else:
                found = await drivers.arun(connection, statements.INSTALLED)
            self._schema_found(found)
            if found.months_due:
                with making_months():
                    await self._journal.run(NEXT)

    async def close(self) -> None:
        """Close what the trail opened: its journal, and its pool unless that was handed in."""
        await self._bury()
        self._closed = True
        await self._journal.close()
        if self._make_pool is not None:
            await self.pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
