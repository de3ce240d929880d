"""Both colours of a trail behind one face, so that a test says once what must hold for both.

The tests are coroutines; the blocking colour simply blocks in them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance.trail import AsyncTrail, Trail


async def done(answer: Any) -> Any:
    """Return what a method of either colour answers."""
    return await answer if inspect.isawaitable(answer) else answer


class Blocking:
    """``with``. Its pool has one connection, so that a block that does not give it back starves the next one."""

    dsn: str
    pool: Any
    trail: Any

    async def open(self, dsn: str, **options: Any) -> None:
        self.dsn = dsn
        self.pool = ConnectionPool(dsn, min_size=1, max_size=1, timeout=5, open=True)
        self.trail = Trail(self.pool, **options)

    async def connect(self, **options: Any) -> Any:
        return psycopg.connect(self.dsn, **options)

    def entering(self, block: Any) -> AbstractAsyncContextManager[Any]:
        """Return something for ``async with`` that enters and leaves *block*."""

        @asynccontextmanager
        async def entered() -> AsyncIterator[Any]:
            with block as action:
                yield action

        return entered()

    def track(self, action_type: str, **given: Any) -> AbstractAsyncContextManager[Any]:
        return self.entering(self.trail.track_action(action_type, concept="work", **given))

    async def close(self) -> None:
        self.trail.close()
        self.pool.close()


class Awaiting(Blocking):
    """``async with``."""

    async def open(self, dsn: str, **options: Any) -> None:
        self.dsn = dsn
        self.pool = AsyncConnectionPool(dsn, min_size=1, max_size=1, timeout=5, open=False)
        await self.pool.open()
        self.trail = AsyncTrail(self.pool, **options)

    async def connect(self, **options: Any) -> Any:
        return await psycopg.AsyncConnection.connect(self.dsn, **options)

    def entering(self, block: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[Any]:
        return block

    async def close(self) -> None:
        await self.trail.close()
        await self.pool.close()


@pytest.fixture(params=[Blocking, Awaiting])
async def colour(request: pytest.FixtureRequest, provenance_dsn: str) -> AsyncIterator[Blocking]:
    """A trail of each colour in turn."""
    opened: Blocking = request.param()
    await opened.open(provenance_dsn)
    yield opened
    await opened.close()
