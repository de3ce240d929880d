"""The process dies before each single step it would take, in every mode; then the trail says what became of its work.

A step is a simple query, the execution of a prepared one, or a sync: a line is cut between two statements that are sent
together, too.

Its death is what the server sees of it: all its lines are cut at once, and nothing is heard of it any more.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import anyio
import attrs
import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from provenance.errors import ProvenanceError
from provenance.trail import AsyncTrail, Trail
from tests.support import databases
from tests.support.proxy import Line, Proxy

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
pytestmark = [pytest.mark.anyio, pytest.mark.direct("it is the server that is to notice that a process is dead")]

PATIENCE = 20.0
_LOOKS = 1000
LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


class Boom(Exception):
    """What a body raises."""


class Process:
    """What runs until it dies: a trail and a connection of one colour, all of whose lines lead through a proxy."""

    def __init__(self, way: Proxy, awaiting: bool, level: IsolationLevel) -> None:
        self.way, self.awaiting, self.level = way, awaiting, level
        self.trail: Any = (AsyncTrail if awaiting else Trail)(way.address, durability="intent")
        self.begun: list[UUID] = []
        """Which actions have begun: their bodies ran."""
        self.key = uuid4()
        self._connections: list[Any] = []
        # Who is dead does not wait: asked for a connection, the pool looks now and then whether it still has to.
        pool = self.trail._journal._pool
        pool.getconn = partial(self._agetconn if awaiting else self._getconn, pool.getconn)

    def _getconn(self, getconn: Callable[[float], Any]) -> Any:
        for _ in range(_LOOKS):
            with suppress(PoolTimeout):
                return getconn(PATIENCE / _LOOKS)
            if self.way.down:
                break
        raise PoolTimeout

    async def _agetconn(self, getconn: Callable[[float], Any]) -> Any:
        for _ in range(_LOOKS):
            with suppress(PoolTimeout):
                return await getconn(PATIENCE / _LOOKS)
            if self.way.down:
                break
        raise PoolTimeout

    async def connect(self, *, autocommit: bool) -> Any:
        if self.awaiting:
            made = await psycopg.AsyncConnection.connect(self.way.address, autocommit=autocommit)
            self._connections.append(made)
            await made.set_isolation_level(self.level)
            return made
        connection = psycopg.connect(self.way.address, autocommit=autocommit)
        self._connections.append(connection)
        connection.isolation_level = self.level
        return connection

    @asynccontextmanager
    async def track(self, **given: Any) -> AsyncIterator[Any]:
        block = self.trail.track_action("act", concept="work", **given)
        if self.awaiting:
            async with block as action:
                self.begun.append(action.id)
                yield action
        else:
            with block as action:
                self.begun.append(action.id)
                yield action

    async def do(self, answer: Any) -> Any:
        return await answer if self.awaiting else answer

    async def work(self, action: Any, connection: Any) -> None:
        """Do what can be seen afterwards if it was committed."""
        await self.do(connection.execute("INSERT INTO done VALUES (%s)", (action.id,)))

    async def close(self) -> None:
        for connection in self._connections:
            await self.do(connection.close())
        # Its pool would wait for the end of an attempt to connect.
        await self.do(self.trail._journal._pool.close(timeout=0))
        await self.do(self.trail.close())


Scenario = Callable[[Process], Awaitable[None]]


async def own(process: Process) -> None:
    """A transaction of its own."""
    connection = await process.connect(autocommit=True)
    async with process.track(connection=connection) as action:
        await process.work(action, connection)


async def own_failing(process: Process) -> None:
    """One whose body raises."""
    connection = await process.connect(autocommit=True)
    with suppress(Boom):
        async with process.track(connection=connection) as action:
            await process.work(action, connection)
            raise Boom


async def nested(process: Process) -> None:
    """Blocks inside: one that finishes, one that fails, one in the one that finishes."""
    connection = await process.connect(autocommit=True)
    async with process.track(connection=connection) as outer:
        await process.work(outer, connection)
        async with process.track() as inner:
            await process.work(inner, connection)
            with suppress(Boom):
                async with process.track() as innermost:
                    await process.work(innermost, connection)
                    raise Boom
        async with process.track(savepoint=False) as inner:
            await process.work(inner, connection)


async def joined(process: Process) -> None:
    """Blocks in a caller's transaction, one undone by a savepoint of the caller's, one failing; the caller commits."""
    connection = await process.connect(autocommit=False)
    await process.do(connection.execute("SAVEPOINT mine"))
    async with process.track(connection=connection) as undone:
        await process.work(undone, connection)
    await process.do(connection.execute("ROLLBACK TO mine"))
    async with process.track(connection=connection) as kept:
        await process.work(kept, connection)
        async with process.track() as inner:
            await process.work(inner, connection)
    with suppress(Boom):
        async with process.track(connection=connection) as failing:
            await process.work(failing, connection)
            raise Boom
    await process.do(connection.commit())


async def joined_and_undone(process: Process) -> None:
    """Blocks in a caller's transaction that the caller rolls back."""
    connection = await process.connect(autocommit=False)
    async with process.track(connection=connection) as action:
        await process.work(action, connection)
        async with process.track() as inner:
            await process.work(inner, connection)
    await process.do(connection.rollback())


async def keyed(process: Process) -> None:
    """Work that is to be done once, at the second attempt."""
    connection = await process.connect(autocommit=True)
    for fails in (True, False):
        with suppress(Boom):
            async with process.track(connection=connection, idempotency_key=process.key) as action:
                await process.work(action, connection)
                if fails:
                    raise Boom


async def resumed(process: Process) -> None:
    """An action that was begun before, and goes on in a block."""
    action_id = await process.do(process.trail.begin("act", concept="work", expires_in=timedelta(milliseconds=1)))
    connection = await process.connect(autocommit=True)
    block = process.trail.resume(action_id, connection=connection)
    if process.awaiting:
        async with await block as action:
            await process.work(action, connection)
    else:
        with block as action:
            await process.work(action, connection)


async def detached(process: Process) -> None:
    """Work outside the database, with and without success."""
    for fails in (True, False):
        with suppress(Boom):
            async with process.track(transaction=False):
                if fails:
                    raise Boom


@attrs.define
class Death:
    """Cuts all lines before the step with this number."""

    process: Process
    number: int
    sent: int = 0
    come: bool = False

    def __call__(self, line: Line, kind: bytes, body: bytes) -> None:
        if self.come:
            raise OSError
        if kind not in (b"Q", b"E", b"S"):
            return  # nothing is done before one of these
        self.sent += 1
        if self.sent == self.number:
            self.come = True
            self.process.way.go_down()
            raise OSError


async def gone(eye: psycopg.Connection[Any]) -> None:
    """Wait until the server has noticed that the process is dead."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend' AND application_name <> 'survivor'"
    )
    with anyio.fail_after(PATIENCE):
        while eye.execute(query).fetchone():  # noqa: ASYNC110 - the server tells nobody
            await anyio.sleep(0.002)


def check(eye: psycopg.Connection[Any], begun: list[UUID], scenario: Scenario) -> None:
    """See that the trail says what became of the work."""
    found: dict[UUID, str] = {}
    for action_id, status in eye.execute("SELECT id, status FROM provenance.action_log").fetchall():
        assert action_id not in found, "one row for each action"
        found[action_id] = status
    done = [row[0] for row in eye.execute("SELECT action_id FROM done").fetchall()]
    for action_id in done:
        assert found.get(action_id) == "completed", "I1: committed work has a completed action"
    for action_id, status in found.items():
        if status == "completed" and scenario is not detached:
            assert action_id in done, "I2: the work of a completed action is there"
    assert set(begun) <= found.keys(), "nothing that was begun is lost"
    # Nobody can know of work outside the database, nor of what was begun for somebody else to finish.
    if scenario not in (detached, resumed):
        assert not {"pending", "unknown"} & set(found.values()), "I3: everything is resolved"


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("awaiting", [False, True], ids=["with", "async with"])
@pytest.mark.parametrize(
    "scenario",
    [own, own_failing, nested, joined, joined_and_undone, keyed, resumed, detached],
    ids=lambda found: found.__name__,
)
async def test_death_before_each_step(
    scenario: Scenario,
    awaiting: bool,
    level: IsolationLevel,
    provenance_dsn: str,
    eye: psycopg.Connection[Any],
) -> None:
    """Whichever is the last one that arrives, committed work has its completed action, and everything begun is resolved."""
    eye.execute("CREATE TABLE done (action_id uuid NOT NULL)")
    with Trail(make_conninfo(provenance_dsn, application_name="survivor")) as survivor, Proxy(provenance_dsn) as way:
        for number in itertools.count(1):
            process = Process(way, awaiting, level)
            death = way.before_forward = Death(process, number)
            with suppress(psycopg.Error, ProvenanceError):
                await scenario(process)
            await process.close()
            way.before_forward, way.down = None, False
            await gone(eye)
            survivor.recover()
            check(eye, process.begun, scenario)
            if not death.come:
                break
        # The last run was not cut short.
        assert number > 5
        assert process.begun or scenario is resumed
