"""What tracking costs on the wire, counted there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance.errors import AlreadyDone
from provenance.statements import recording as statements
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


@pytest.mark.parametrize("savepoint", [True, False])
def test_an_inner_block_takes_one_trip(sync: Sync, *, savepoint: bool) -> None:
    """It ends with the beginning of the next one, or with the block around it; its row waits for the outermost one."""

    def tracked() -> None:
        with sync.trail.track_action("outer", concept="work") as action:
            sync.insert(action.connection)
            for _ in range(10):
                with sync.trail.track_action("inner", concept="work", savepoint=savepoint) as inner:
                    sync.insert(inner.connection)

    assert sync.count(tracked) == 3 + 10 * 2


def test_an_inner_block_that_does_not_stamp_takes_none(sync: Sync) -> None:
    """Nor when the outer block goes on, or another one like it is inside."""

    def tracked() -> None:
        with sync.trail.track_action("outer", concept="work") as action:
            for _ in range(10):
                with sync.trail.track_action("inner", concept="work", stamp=False) as inner:
                    sync.insert(inner.connection)
                    with sync.trail.track_action("innermost", concept="work", stamp=False):
                        pass
                sync.insert(action.connection)

    assert sync.count(tracked) == 2 + 10 * 2


def test_an_inner_block_takes_two_trips_when_its_outer_block_goes_on(sync: Sync) -> None:
    """What comes after it must not count as part of it."""

    def tracked() -> None:
        with sync.trail.track_action("outer", concept="work") as action:
            for _ in range(10):
                with sync.trail.track_action("inner", concept="work") as inner:
                    sync.insert(inner.connection)
                sync.insert(action.connection)

    assert sync.count(tracked) == 2 + 10 * 4


def test_inner_blocks_inside_one_another_end_together(sync: Sync) -> None:
    """However many there are."""

    def tracked() -> None:
        track = sync.trail.track_action
        with track("outer", concept="work") as action:
            with track("one", concept="work"), track("two", concept="work"), track("three", concept="work"):
                pass
            sync.insert(action.connection)

    assert sync.count(tracked) == 2 + 3 + 1 + 1


def test_what_a_failing_block_has_left_unsaid_need_not_be_said(sync: Sync) -> None:
    """The blocks inside it are undone with it."""

    def tracked() -> None:
        with pytest.raises(ValueError, match="no"), sync.trail.track_action("outer", concept="work"):
            with sync.trail.track_action("inner", concept="work") as inner:
                sync.insert(inner.connection)
            raise ValueError("no")

    assert sync.count(tracked) == 1 + 2 + 2


def test_a_joined_block_takes_one_trip_to_enter_and_one_to_leave(sync: Sync) -> None:
    """The savepoint and the row ride with them."""

    def tracked() -> None:
        with sync.pool.connection() as connection:
            sync.insert(connection)
            with sync.trail.track_action("join", concept="work", connection=connection) as action:
                sync.insert(action.connection)

    assert sync.count(tracked) == 3 + 1 + 2


def test_a_joined_block_that_comes_first_begins_the_transaction_along_with_itself(sync: Sync) -> None:
    """As with the sessions of ORMs, whose drivers owe the server a BEGIN."""

    def tracked() -> None:
        with (
            sync.pool.connection() as connection,
            sync.trail.track_action("join", concept="work", connection=connection) as action,
        ):
            sync.insert(action.connection)

    assert sync.count(tracked) == 1 + 1 + 1 + 1


def test_a_failure_takes_two_trips_to_record(sync: Sync) -> None:
    """One rolls back, one writes the row durably, on the connection that is there."""

    def tracked() -> None:
        with pytest.raises(ValueError, match="no"), sync.trail.track_action("fail", concept="work") as action:
            sync.insert(action.connection)
            raise ValueError("no")

    assert sync.count(tracked) == 2 + 2


def test_an_intent_takes_one_trip_more_and_a_transaction_of_its_own(sync: Sync) -> None:
    """It is durable before the body runs; the outcome drops it along with the work."""

    def tracked() -> None:
        with sync.trail.track_action("add", concept="work", durability="intent") as action:
            sync.insert(action.connection)

    assert sync.count(tracked) == 3 + 1


def test_an_idempotency_key_takes_no_trip(sync: Sync) -> None:
    """It is claimed along with the beginning."""
    keys = iter(range(1_000_000))

    def tracked() -> None:
        with sync.trail.track_action("add", concept="work", idempotency_key=next(keys)) as action:
            sync.insert(action.connection)

    assert sync.count(tracked) == 3


def test_a_joined_block_that_is_refused_takes_two_trips_and_leaves_no_savepoint(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of work that was done before does not nest a subtransaction for each piece in the caller's transaction."""
    savepoints: list[str] = []
    savepoint = statements.savepoint
    monkeypatch.setattr(
        statements, "savepoint", lambda id_: savepoints.append(f"provenance_{id_.hex}") or savepoint(id_)
    )
    with sync.trail.track_action("pay", concept="work", idempotency_key="1"):
        pass
    with sync.pool.connection() as connection:
        connection.execute("SELECT 1")

        def refused() -> None:
            with (
                pytest.raises(AlreadyDone),
                sync.trail.track_action("pay", concept="work", idempotency_key="1", connection=connection),
            ):
                pytest.fail("the body ran")

        assert sync.count(refused) == 2
        with pytest.raises(psycopg.errors.InvalidSavepointSpecification):
            connection.execute(f"RELEASE SAVEPOINT {savepoints[-1]}".encode())
        connection.rollback()


def test_work_outside_the_database_takes_one_trip(sync: Sync) -> None:
    """BEGIN, settings, row and COMMIT are one message."""

    def tracked() -> None:
        with sync.trail.track_action("add", concept="work", transaction=False):
            pass

    assert sync.count(tracked) == 1


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

    assert asyncio.run(main()) == [3, 3, 3]
