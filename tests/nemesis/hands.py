"""The two colours behind one face. Programs are coroutines; the blocking colour simply blocks in them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg

from provenance.trail import AsyncTrail, Trail

Program = Callable[["Blocking", int], Coroutine[Any, Any, None]]

_PAUSE = 0.02


class Blocking:
    """``with``, in threads."""

    def __init__(self, way: str, journal: str, spool: Path) -> None:
        self.way = way
        self.trail: Any = self._trail(journal=journal, max_size=2, spool=spool, durability="intent")

    def _trail(self, **options: Any) -> Any:
        return Trail(self.way, **options)

    async def connect(self, *, autocommit: bool) -> Any:
        return psycopg.connect(self.way, autocommit=autocommit, connect_timeout=5)

    def track(self, kind: str, **given: Any) -> AbstractAsyncContextManager[Any]:
        @asynccontextmanager
        async def entered() -> AsyncIterator[Any]:
            with self.trail.track_action(kind, concept="work", **given) as action:
                yield action

        return entered()

    async def done(self, answer: Any) -> Any:
        return answer

    async def isolate(self, connection: Any, level: psycopg.IsolationLevel | None) -> None:
        connection.isolation_level = level

    def within(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """Return what cancels what is done inside it, where that can be."""
        return nullcontext()

    async def pause(self) -> None:
        """Leave the machine to others: what has just failed would fail again."""
        time.sleep(_PAUSE)  # noqa: ASYNC251 - the blocking colour

    def run(self, program: Program, count: int) -> None:
        """Run a program that never ends, several times at once."""
        threads = [threading.Thread(target=self._finish, args=(program, number)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _finish(self, program: Program, number: int) -> None:
        program(self, number).send(None)
        raise AssertionError("a blocking operation waited")


class Awaiting(Blocking):
    """``async with``, in tasks."""

    def _trail(self, **options: Any) -> Any:
        return AsyncTrail(self.way, **options)

    async def connect(self, *, autocommit: bool) -> Any:
        return await psycopg.AsyncConnection.connect(self.way, autocommit=autocommit, connect_timeout=5)

    def track(self, kind: str, **given: Any) -> AbstractAsyncContextManager[Any]:
        block: AbstractAsyncContextManager[Any] = self.trail.track_action(kind, concept="work", **given)
        return block

    async def done(self, answer: Any) -> Any:
        return await answer

    async def isolate(self, connection: Any, level: psycopg.IsolationLevel | None) -> None:
        await connection.set_isolation_level(level)

    def within(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    async def pause(self) -> None:
        await asyncio.sleep(_PAUSE)

    def run(self, program: Program, count: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(program(self, number) for number in range(count)))

        asyncio.run(all_of_them())
