"""Many at once: no row has another's request, actor or parent, and every action is there exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import provenance
from provenance import AsyncTrail, Trail, current_action, request_scope, set_actor, track_action
from provenance.errors import NoCurrentAction
from provenance.testing import RecordedActions
from tests.support import databases
from tests.support.jobs import Job, assert_all_recorded

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

TASKS = 200
THREADS = 32
INSERT = "INSERT INTO work (id) VALUES (%s)"


def present(eye: psycopg.Connection[Any]) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


class Boom(Exception):
    """What a body raises."""


# --- Requests ------------------------------------------------------------------------------------------------------


def serve(job: Job, trail: Trail) -> None:
    with request_scope(job.request_id):
        job.work(trail)


async def aserve(job: Job, trail: AsyncTrail) -> None:
    with request_scope(job.request_id):
        await job.awork(trail)


def test_tasks(provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """200 tasks at once, each a request with its own actor."""
    jobs = [Job(number) for number in range(TASKS)]

    async def main() -> None:
        async with AsyncTrail(provenance_dsn, max_size=16) as trail:
            await asyncio.gather(*(aserve(job, trail) for job in jobs))

    asyncio.run(main())
    assert_all_recorded(jobs, recorded_actions, eye)


def test_threads(provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """32 threads at once, each with several requests after one another."""
    jobs = [Job(number) for number in range(THREADS * 4)]
    together = threading.Barrier(THREADS)

    with Trail(provenance_dsn, max_size=16) as trail, ThreadPoolExecutor(THREADS) as threads:

        def serve_several(first: int) -> None:
            together.wait(30)
            for job in jobs[first::THREADS]:
                serve(job, trail)

        list(threads.map(serve_several, range(THREADS)))
    assert_all_recorded(jobs, recorded_actions, eye)


def test_tasks_and_threads_together(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """An event loop whose tasks work themselves and in threads, with blocks of both colours."""
    jobs = [Job(number) for number in range(64)]

    async def main() -> None:
        async with AsyncTrail(provenance_dsn, max_size=8) as atrail:
            with Trail(provenance_dsn, max_size=8) as trail:
                await asyncio.gather(
                    *(
                        aserve(job, atrail)
                        if job.number % 2
                        else asyncio.to_thread(contextvars.Context().run, serve, job, trail)
                        for job in jobs
                    )
                )

    asyncio.run(main())
    assert_all_recorded(jobs, recorded_actions, eye)


# --- Concurrency inside one block ------------------------------------------------------------------------------------


def outline_as_sets(recorded: RecordedActions) -> dict[str, set[tuple[str, str]]]:
    """Return, for every parent by type, the types and statuses of what it caused; ``""`` for no parent."""
    rows = recorded.all()
    types = {row.id: row.action_type for row in rows}
    found: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        parent = types[row.parent_action_id] if row.parent_action_id else ""
        found.setdefault(parent, set()).add((row.action_type, row.status.value))
    return found


@pytest.mark.parametrize("outer_fails", [False, True])
def test_gather_inside_a_block(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], outer_fails: bool
) -> None:
    """The children have a connection and a transaction each, and nothing of the parent but its id."""
    connections: list[object] = []

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail:
            all_open = asyncio.Barrier(3)

            async def child(number: int) -> None:
                async with trail.track_action(f"child-{number}", concept="work") as action:
                    connections.append(action.connection)
                    await all_open.wait()
                    await action.connection.execute(INSERT, (number,))
                    async with trail.track_action(f"grandchild-{number}", concept="work") as inner:
                        assert inner.connection is action.connection
                    if number == 2:
                        raise Boom

            async with trail.track_action("outer", concept="work") as outer:
                connections.append(outer.connection)
                await outer.connection.execute(INSERT, (10,))
                await asyncio.gather(*map(child, (1, 2, 3)), return_exceptions=True)
                assert current_action() is outer
                if outer_fails:
                    raise Boom

    with suppress(Boom):
        asyncio.run(main())
    assert 4 == len({id(connection) for connection in connections})
    assert {
        "": {("outer", "failed" if outer_fails else "completed")},
        "outer": {("child-1", "completed"), ("child-2", "failed"), ("child-3", "completed")},
        "child-1": {("grandchild-1", "completed")},
        "child-2": {("grandchild-2", "rolled_back")},
        "child-3": {("grandchild-3", "completed")},
    } == outline_as_sets(recorded_actions)
    assert ([1, 3] if outer_fails else [1, 3, 10]) == present(eye)
    assert {recorded_actions.one(action_type="outer").id} == {row.root_id for row in recorded_actions.all()}


def test_task_group_inside_a_block(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """One child's failure cancels the others and fails the block; each row says what became of its own work."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail:
            done = asyncio.Event()

            async def quick() -> None:
                async with trail.track_action("quick", concept="work") as action:
                    await action.connection.execute(INSERT, (1,))
                done.set()

            async def slow() -> None:
                async with trail.track_action("slow", concept="work") as action:
                    await action.connection.execute(INSERT, (2,))
                    await asyncio.Event().wait()

            async def failing() -> None:
                await done.wait()
                async with trail.track_action("failing", concept="work") as action:
                    await action.connection.execute(INSERT, (3,))
                    raise Boom

            async with trail.track_action("outer", concept="work"), asyncio.TaskGroup() as group:
                for child in (quick, slow, failing):
                    group.create_task(child())

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    assert {
        "": {("outer", "failed")},
        "outer": {("quick", "completed"), ("slow", "failed"), ("failing", "failed")},
    } == outline_as_sets(recorded_actions)
    assert [1] == present(eye)


def child(number: int) -> None:
    with track_action("child", concept="work") as action:
        action.connection.execute(INSERT, (number,))


def test_executor_with_a_copied_context(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Blocking code in a thread of the loop's is a child, and commits apart."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with provenance.get_async_trail(), track_action("outer", concept="work"):
            await loop.run_in_executor(None, contextvars.copy_context().run, child, 1)
            await asyncio.to_thread(child, 2)
            raise Boom

    with suppress(Boom):
        asyncio.run(main())
    recorded_actions.expect("""
        outer failed
          child completed
          child completed
    """)
    assert [1, 2] == present(eye)


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("copied", [True, False])
def test_thread_started_inside_a_block(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], copied: bool
) -> None:
    """With the context of the block it is a child, without it nothing at all; its transaction is its own either way."""
    with suppress(Boom), track_action("outer", concept="work"):
        context = contextvars.copy_context() if copied else contextvars.Context()
        in_a_thread(lambda: context.run(child, 1))
        raise Boom
    recorded_actions.expect("outer failed\n  child completed" if copied else "outer failed\nchild completed")
    assert [1] == present(eye)


def test_thread_that_outlives_its_block(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What it does later is still caused by the block, and it gets no connection of it."""
    over = threading.Event()
    refused: list[bool] = []

    def later() -> None:
        over.wait(10)
        try:
            current_action()
        except NoCurrentAction:
            refused.append(True)
        child(1)

    with track_action("outer", concept="work"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(later))
        thread.start()
    over.set()
    thread.join()
    assert ([True], "outer completed\n  child completed", [1]) == (refused, recorded_actions.outline(), present(eye))


def test_copied_context_in_the_same_thread(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """copy_context().run() is the same thread of control, so what runs in it is part of the block."""
    with suppress(Boom), track_action("outer", concept="work"):
        contextvars.copy_context().run(child, 1)
        raise Boom
    recorded_actions.expect("""
        outer failed
          child rolled_back
    """)
    assert [] == present(eye)


def test_empty_context_in_the_same_thread(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """In a Context that knows of no block there is none."""
    with suppress(Boom), track_action("outer", concept="work"):
        contextvars.Context().run(child, 1)
        raise Boom
    recorded_actions.expect("""
        outer failed
        child completed
    """)
    assert [1] == present(eye)


def test_actor_set_in_a_thread_pool(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Authentication in a thread is seen by the request that asked for it, and by no other."""

    async def serve(number: int) -> None:
        with request_scope(correlation_id=f"request-{number}"):
            async with track_action("serve", concept="work"):
                await asyncio.to_thread(set_actor, user_id=number)

    async def main() -> None:
        async with provenance.get_async_trail():
            await asyncio.gather(*map(serve, range(8)))

    asyncio.run(main())
    assert {(f"request-{number}", str(number)) for number in range(8)} == {
        (row.correlation_id, row.user_id) for row in recorded_actions.all()
    }


def test_task_that_outlives_its_request(trail: Trail, recorded_actions: RecordedActions) -> None:
    """What a forgotten task does after the request is over is not part of it, and says where it came from."""
    request_id = uuid4()

    async def main() -> None:
        async with provenance.get_async_trail():
            over = asyncio.Event()

            async def forgotten() -> None:
                await over.wait()
                async with track_action("late", concept="work"):
                    pass

            with request_scope(request_id, user_id="ann"):
                async with track_action("serve", concept="work"):
                    task = asyncio.create_task(forgotten())
            over.set()
            await task

    asyncio.run(main())
    late = recorded_actions.one(action_type="late")
    assert (None, None, None, {"originated_by": {"request_id": str(request_id)}}) == (
        late.request_id,
        late.user_id,
        late.parent_action_id,
        late.metadata,
    )
    assert [late.action_type] != [row.action_type for row in recorded_actions.all(request_id=request_id)]


@pytest.mark.parametrize("name", ["itself", "ref"])
def test_parent_named_in_another_thread(trail: Trail, recorded_actions: RecordedActions, name: str) -> None:
    """A child hung below an open inner action is in the tree of the outermost one."""
    with track_action("outer", concept="work") as outer, track_action("inner", concept="work") as inner:
        parent: Any = inner if name == "itself" else getattr(inner, name)

        def elsewhere() -> None:
            with track_action("elsewhere", concept="work", parent=parent):
                pass

        in_a_thread(elsewhere)
    recorded_actions.expect("""
        outer completed
          inner completed
            elsewhere completed
    """)
    tree = trail.actions.tree(outer.id)
    assert tree is not None
    assert ["outer", "inner", "elsewhere"] == [action.action_type for _, action in tree.walk()]


def test_parent_named_by_its_bare_id(trail: Trail, recorded_actions: RecordedActions) -> None:
    """The root above it is not recorded yet, so the child is found by following parents, not in the tree."""
    with track_action("outer", concept="work") as outer, track_action("inner", concept="work") as inner:

        def elsewhere() -> None:
            with track_action("elsewhere", concept="work", parent=inner.id):
                pass

        in_a_thread(elsewhere)
    assert ["outer", "inner", "elsewhere"] == [link.action.action_type for link in trail.actions.chain(outer.id)]
