"""Requests that do some work, to be served many at once; and what must be recorded of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg

from provenance import Action, AsyncTrail, Trail, current_action, set_actor
from provenance.testing import RecordedActions

_INSERT = "INSERT INTO work (id) VALUES (%s)"
_PLACES = ("outer", "first", "second", "third")

Facts = dict[str, tuple[str, str | None]]
"""Status and parent of each action of a request."""


class Failed(Exception):
    """What some of them raise."""


@attrs.frozen
class Job:
    """An action with two inside it, one of which has one inside; which of them fail is decided by its number."""

    number: int
    request_id: UUID = attrs.field(factory=uuid4)

    @property
    def actor(self) -> tuple[str, str]:
        return f"user-{self.number}", f"tenant-{self.number}"

    @property
    def outer_fails(self) -> bool:
        return self.number % 5 == 0

    @property
    def second_fails(self) -> bool:
        return self.number % 3 == 0

    def id(self, place: int) -> int:
        """Return the id of the work that one of the actions does."""
        return self.number * 10 + place

    def expected(self) -> Facts:
        finished = "rolled_back" if self.outer_fails else "completed"
        return {
            "outer": ("failed" if self.outer_fails else "completed", None),
            "first": (finished, "outer"),
            "second": ("failed" if self.second_fails else finished, "outer"),
            "third": ("rolled_back" if self.second_fails else finished, "second"),
        }

    def expected_work(self) -> set[tuple[int, str, UUID]]:
        """Return which work there is, and which action of which request did it."""
        if self.outer_fails:
            return set()
        places = _PLACES[:2] if self.second_fails else _PLACES
        return {(self.id(place), action_type, self.request_id) for place, action_type in enumerate(places)}

    def work(self, trail: Trail) -> None:
        """Do it, in the request that is open."""
        set_actor(user_id=self.actor[0], tenant_id=self.actor[1])
        with suppress(Failed), trail.track_action("outer", concept="work", entity_id=self.number) as outer:
            outer.connection.execute(_INSERT, (self.id(0),))
            with trail.track_action("first", concept="work", entity_id=self.number) as first:
                first.connection.execute(_INSERT, (self.id(1),))
            with suppress(Failed), trail.track_action("second", concept="work", entity_id=self.number) as second:
                second.connection.execute(_INSERT, (self.id(2),))
                with trail.track_action("third", concept="work", entity_id=self.number) as third:
                    third.connection.execute(_INSERT, (self.id(3),))
                assert current_action() is second
                if self.second_fails:
                    raise Failed
            assert current_action() is outer
            if self.outer_fails:
                raise Failed

    async def awork(self, trail: AsyncTrail) -> None:
        """Do the same asynchronously."""
        set_actor(user_id=self.actor[0], tenant_id=self.actor[1])
        with suppress(Failed):
            async with trail.track_action("outer", concept="work", entity_id=self.number) as outer:
                await outer.connection.execute(_INSERT, (self.id(0),))
                async with trail.track_action("first", concept="work", entity_id=self.number) as first:
                    await first.connection.execute(_INSERT, (self.id(1),))
                with suppress(Failed):
                    async with trail.track_action("second", concept="work", entity_id=self.number) as second:
                        await second.connection.execute(_INSERT, (self.id(2),))
                        async with trail.track_action("third", concept="work", entity_id=self.number) as third:
                            await asyncio.sleep(0)
                            await third.connection.execute(_INSERT, (self.id(3),))
                        assert current_action() is second
                        if self.second_fails:
                            raise Failed
                assert current_action() is outer
                if self.outer_fails:
                    raise Failed


def _facts(job: Job, rows: Sequence[Action]) -> Facts:
    """Return what is recorded of one request, after checking that each row is wholly its own."""
    types = {row.id: row.action_type for row in rows}
    found: Facts = {}
    for row in rows:
        assert (str(job.number), *job.actor) == (row.entity_id, row.user_id, row.tenant_id)
        assert row.action_type not in found
        assert "outer" == types[row.root_id]
        found[row.action_type] = (row.status.value, row.parent_action_id and types[row.parent_action_id])
    return found


def assert_all_recorded(jobs: Sequence[Job], recorded: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Fail unless the trail and the work in this database are exactly what the jobs did."""
    assert [(len(_PLACES) * len(jobs),)] == eye.execute("SELECT count(*) FROM provenance.action_log").fetchall()
    assert {job.number: job.expected() for job in jobs} == {
        job.number: _facts(job, recorded.all(request_id=job.request_id)) for job in jobs
    }
    done = eye.execute(
        "SELECT w.id, a.action_type, a.request_id FROM work w LEFT JOIN provenance.actions a ON a.id = w.action_id"
    ).fetchall()
    assert set().union(*(job.expected_work() for job in jobs)) == set(done)
