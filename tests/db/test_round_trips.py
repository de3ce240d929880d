"""What tracking costs on the wire, counted there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance.trail import AsyncTrail, Trail
from tests.support.proxy import Proxy

WORK = "INSERT INTO work (id) VALUES (%s)"


@pytest.fixture
def proxy(provenance_dsn: str) -> Iterator[Proxy]:
    with Proxy(provenance_dsn) as running:
        yield running


class Sync:
    """Runs the cases of a sync trail; the first run of each kind is not counted."""

    def __init__(self, proxy: Proxy, pool: ConnectionPool[Any], trail: Trail) -> None:
        self.proxy, self.pool, self.trail = proxy, pool, trail
        self.ids = iter(range(1_000_000))

    def insert(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(WORK, (next(self.ids),))

    def count(self, case: Callable[[], object]) -> int:
        case()
        before = self.proxy.round_trips
        case()
        return self.proxy.round_trips - before


@pytest.fixture
def sync(proxy: Proxy) -> Iterator[Sync]:
    with (
        ConnectionPool(proxy.address, min_size=1, max_size=1) as pool,
        Trail(pool) as trail,
    ):
        yield Sync(proxy, pool, trail)


def test_a_single_write_takes_no_more_round_trips_than_the_bare_transaction(sync: Sync) -> None:
    """BEGIN goes with the setting, COMMIT goes with the row."""

    def bare() -> None:
        with sync.pool.connection() as connection:
            sync.insert(connection)

    def tracked() -> None:
        with sync.trail.track_action("add", concept="work") as action:
            sync.insert(action.connection)

    assert (sync.count(bare), sync.count(tracked)) == (3, 3)


def test_an_inner_block_takes_one_trip_to_enter_and_one_to_leave(sync: Sync) -> None:
    """As psycopg's nested transaction() does; its row waits for the outermost block."""

    def tracked() -> None:
        with sync.trail.track_action("outer", concept="work") as action:
            sync.insert(action.connection)
            for _ in range(10):
                with sync.trail.track_action("inner", concept="work") as inner:
                    sync.insert(inner.connection)

    assert sync.count(tracked) == 3 + 10 * 3


def test_a_joined_block_takes_one_trip_to_enter_and_one_to_leave(sync: Sync) -> None:
    """The savepoint and the row ride with them."""

    def tracked() -> None:
        with sync.pool.connection() as connection:
            sync.insert(connection)
            with sync.trail.track_action("join", concept="work", connection=connection) as action:
                sync.insert(action.connection)

    assert sync.count(tracked) == 3 + 1 + 2


def test_a_failure_takes_two_trips_to_record(sync: Sync) -> None:
    """One rolls back, one writes the row durably, on the connection that is there."""

    def tracked() -> None:
        with pytest.raises(ValueError, match="no"), sync.trail.track_action("fail", concept="work") as action:
            sync.insert(action.connection)
            raise ValueError("no")

    assert sync.count(tracked) == 2 + 2


def test_the_same_counts_hold_asynchronously(proxy: Proxy) -> None:
    """Both colours perform the same steps."""

    async def main() -> list[int]:
        ids = iter(range(1_000_000))
        async with (
            AsyncConnectionPool(proxy.address, min_size=1, max_size=1, open=False) as pool,
            AsyncTrail(pool) as trail,
        ):

            async def bare() -> None:
                async with pool.connection() as connection:
                    await connection.execute(WORK, (next(ids),))

            async def tracked() -> None:
                async with trail.track_action("add", concept="work") as action:
                    await action.connection.execute(WORK, (next(ids),))

            async def nested() -> None:
                async with trail.track_action("outer", concept="work"), trail.track_action("inner", concept="work"):
                    pass

            counts = []
            for case in (bare, tracked, nested):
                await case()
                before = proxy.round_trips
                await case()
                counts.append(proxy.round_trips - before)
            return counts

    assert asyncio.run(main()) == [3, 3, 4]
