"""Idempotency keys: of several attempts at one piece of work, one is done, and the others learn what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import IsolationLevel

from provenance import AlreadyDone, IdempotencyConflict, IdempotencyKeyBusy, TrailUnavailable
from provenance.errors import InvalidAction
from provenance.journal import connections
from provenance.testing import RecordedActions
from provenance.trail import AsyncTrail, Trail
from tests.support import colours, databases
from tests.support.colours import Blocking, done
from tests.support.databases import work
from tests.support.proxy import Proxy

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
colour = colours.colour
pytestmark = pytest.mark.anyio

INSERT = "INSERT INTO work (id) VALUES (%s)"
PATIENCE = 30.0
MODES = ["own", "joined", "nested", "detached"]


class Boom(Exception):
    """What a body raises."""


def keys(eye: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Return which keys are used, and by which action."""
    return eye.execute("SELECT key, action_id FROM provenance.idempotency_keys ORDER BY key").fetchall()


class Attempt:
    """Does a piece of work under a key, in one of the modes."""

    def __init__(self, colour: Blocking, mode: str) -> None:
        self.colour, self.mode = colour, mode

    async def __call__(self, number: int = 1, *, fails: bool = False, **given: Any) -> UUID:
        more = {"idempotency_key": "k", "entity_type": "work", "entity_id": number, "payload": {"n": number}, **given}
        if self.mode == "joined":
            connection = await self.colour.connect()
            try:
                action_id = await self._do(number, fails=fails, connection=connection, **more)
                await done(connection.commit())
            finally:
                await done(connection.close())
            return action_id
        if self.mode == "nested":
            async with self.colour.track("around"):
                return await self._do(number, fails=fails, **more)
        return await self._do(number, fails=fails, transaction=self.mode == "own", **more)

    async def _do(self, number: int, *, fails: bool, **given: Any) -> UUID:
        action_id: UUID
        async with self.colour.track("pay", **given) as action:
            if self.mode != "detached":
                await done(action.connection.execute(INSERT, (number,)))
            action.result = {"receipt": number}
            if fails:
                raise Boom
            action_id = action.id
        return action_id


@pytest.fixture(params=MODES)
def attempt(request: pytest.FixtureRequest, colour: Blocking) -> Attempt:
    return Attempt(colour, request.param)


def paid(recorded_actions: RecordedActions) -> list[str]:
    """Return what became of the attempts."""
    return [found.status.value for found in recorded_actions.all() if found.action_type == "pay"]


# --- One after the other ---------------------------------------------------------------------------------------------


async def test_the_second_time_it_is_done_already(
    attempt: Attempt, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The body does not run, and the error holds the action that did the work and its result."""
    first = await attempt()
    for _ in range(2):
        with pytest.raises(AlreadyDone, match=f"idempotency key 'k' was used before, and action {first} did") as caught:
            await attempt()
        assert (caught.value.action_id, caught.value.result) == (first, {"receipt": 1})
    assert paid(recorded_actions) == ["completed"]
    assert keys(eye) == [("k", first)]
    assert work(eye) == ([] if attempt.mode == "detached" else [1])
    assert eye.execute("SELECT count(*) FROM provenance.action_intents").fetchone() == (0,)


@pytest.mark.parametrize("changed", [{"number": 2}, {"payload": {"n": 2}}, {"payload": None}, {"entity_type": "other"}])
async def test_with_another_input_it_is_a_conflict(
    attempt: Attempt, changed: dict[str, Any], recorded_actions: RecordedActions
) -> None:
    """What the key stands for is told by the payload and the entity; nothing of the first result is."""
    first = await attempt()
    with pytest.raises(IdempotencyConflict, match=f"was used by action {first} with another input") as caught:
        await attempt(**changed)
    assert not hasattr(caught.value, "result")
    assert paid(recorded_actions) == ["completed"]


async def test_after_a_failure_the_key_is_free(
    attempt: Attempt, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """For another input too: nothing has been done under it."""
    for _ in range(2):
        with suppress(Boom):
            await attempt(fails=True)
    second = await attempt(2)
    with pytest.raises(AlreadyDone):
        await attempt(2)
    assert paid(recorded_actions) == ["failed", "failed", "completed"]
    assert keys(eye) == [("k", second)]


async def test_other_keys_types_and_tenants_are_other_work(attempt: Attempt, recorded_actions: RecordedActions) -> None:
    """A key belongs to its tenant and action type; it may be a number or a UUID."""
    for given in ({}, {"idempotency_key": 7}, {"idempotency_key": UUID(int=7)}, {"tenant_id": "t"}):
        await attempt(**{"number": 10 + len(recorded_actions.all()), **given})
    async with attempt.colour.track("other", idempotency_key="k"):
        pass
    assert paid(recorded_actions) == ["completed"] * 4
    assert [found.status for found in recorded_actions.all() if found.action_type == "other"] == ["completed"]


async def test_the_order_of_the_payload_does_not_matter(attempt: Attempt) -> None:
    """It is the same input."""
    await attempt(payload={"a": 1, "b": [1, 2]})
    with pytest.raises(AlreadyDone):
        await attempt(payload={"b": [1, 2], "a": 1})
    with pytest.raises(IdempotencyConflict):
        await attempt(payload={"b": [2, 1], "a": 1})


async def test_twice_in_one_transaction(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The second one is done already although nothing is committed yet."""
    async with colour.track("around"):
        for _ in range(2):
            with suppress(Boom):
                async with colour.track("pay", idempotency_key="k") as action:
                    await done(action.connection.execute(INSERT, (1,)))
                    raise Boom
        async with colour.track("pay", idempotency_key="k") as action:
            await done(action.connection.execute(INSERT, (2,)))
            action.result = [2]
        async with colour.track("pay", idempotency_key="silent"):
            pass
        for key, result in (("k", [2]), ("silent", None)):
            with pytest.raises(AlreadyDone) as caught:
                async with colour.track("pay", idempotency_key=key):
                    pytest.fail("the body ran")
            assert caught.value.result == result
        with pytest.raises(IdempotencyConflict):
            async with colour.track("pay", idempotency_key="k", payload=1):
                pytest.fail("the body ran")
    assert paid(recorded_actions) == ["failed", "failed", "completed", "completed"]
    assert work(eye) == [2]


async def test_inside_the_block_that_holds_it(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """It is busy with itself, and nothing is broken by saying so."""
    async with colour.track("pay", idempotency_key="k"):
        with pytest.raises(IdempotencyKeyBusy, match="which has no outcome yet; try again later"):
            async with colour.track("pay", idempotency_key="k"):
                pytest.fail("the body ran")
        async with colour.track("inner"):
            pass
    assert recorded_actions.outline() == "pay completed\n  inner completed"


async def test_a_savepoint_of_the_callers_takes_the_key_back(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """With the work."""
    connection = await colour.connect()
    await done(connection.execute("SAVEPOINT mine"))
    async with colour.track("pay", idempotency_key="k", connection=connection):
        await done(connection.execute(INSERT, (1,)))
    await done(connection.execute("ROLLBACK TO mine"))
    async with colour.track("pay", idempotency_key="k", connection=connection):
        await done(connection.execute(INSERT, (2,)))
    await done(connection.commit())
    assert work(eye) == [2]
    await done(connection.close())


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
async def test_at_stricter_levels(colour: Blocking, level: IsolationLevel, eye: psycopg.Connection[Any]) -> None:
    """What was done before is known; what has been done since the transaction began is a serialization failure to retry."""
    connection = await colour.connect()
    await done(connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()))
    await done(connection.execute("SELECT 1"))
    async with colour.track("pay", idempotency_key="k"):
        pass
    with pytest.raises(psycopg.errors.SerializationFailure):
        async with colour.track("pay", idempotency_key="k", connection=connection):
            pytest.fail("the body ran")
    await done(connection.rollback())
    await done(connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()))
    with pytest.raises(AlreadyDone):
        async with colour.track("pay", idempotency_key="k", connection=connection):
            pytest.fail("the body ran")
    await done(connection.close())


# --- At once ---------------------------------------------------------------------------------------------------------


def at_once(number: int, dsn: str, attempt: Callable[[Trail], None]) -> None:
    """Have so many threads do something with one trail at the same moment, and wait for them."""
    ready = threading.Barrier(number)

    def run() -> None:
        ready.wait(PATIENCE)
        attempt(trail)

    with Trail(dsn, max_size=number) as trail:
        threads = [threading.Thread(target=run) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)


@pytest.mark.parametrize("mode", ["own", "detached"])
def test_of_many_at_once_one_is_done(
    mode: str, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The others wait for its end and learn of it, or hear at once that it is at work."""
    told: list[str] = []

    def attempt(trail: Trail) -> None:
        try:
            with trail.track_action(
                "pay", concept="work", idempotency_key="k", payload={"n": 1}, transaction=mode == "own"
            ) as action:
                told.append("done")
                if mode == "own":
                    action.connection.execute(INSERT, (1,))
        except (AlreadyDone, IdempotencyKeyBusy) as error:
            told.append(type(error).__name__)

    at_once(12, provenance_dsn, attempt)
    assert (told.count("done"), len(told)) == (1, 12)
    assert mode == "detached" or told.count("AlreadyDone") == 11
    assert paid(recorded_actions) == ["completed"]
    assert work(eye) == ([1] if mode == "own" else [])


async def test_the_wait_is_bounded(
    colour: Blocking, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Whoever waits for a transaction that does not end is told so; its own transaction can go on."""
    eye.execute("ALTER FUNCTION provenance.claim_key SET lock_timeout = '50ms'")
    one, other = await colour.connect(), await colour.connect()
    async with colour.track("pay", idempotency_key="k", connection=one):
        pass
    await done(other.execute(INSERT, (1,)))
    with pytest.raises(IdempotencyKeyBusy, match="is being used by an action that has not ended within 5 s"):
        async with colour.track("pay", idempotency_key="k", connection=other):
            pytest.fail("the body ran")
    await done(other.execute(INSERT, (2,)))
    await done(other.commit())
    with pytest.raises(IdempotencyKeyBusy):
        async with colour.track("pay", idempotency_key="k"):
            pytest.fail("the body ran")
    async with colour.track("around"):
        with pytest.raises(IdempotencyKeyBusy):
            async with colour.track("pay", idempotency_key="k"):
                pytest.fail("the body ran")
        async with colour.track("inner"):
            pass
    await done(one.commit())
    assert paid(recorded_actions) == ["completed"]
    assert work(eye) == [1, 2]
    for connection in (one, other):
        await done(connection.close())


def test_one_deadline_is_enough_however_many_come_first(provenance_dsn: str, eye: psycopg.Connection[Any]) -> None:
    """Who waits behind others that fail one after the other is told after the same time."""
    eye.execute("ALTER FUNCTION provenance.claim_key SET lock_timeout = '400ms'")
    told: list[str] = []

    def attempt(trail: Trail) -> None:
        with suppress(IdempotencyKeyBusy, Boom), trail.track_action("pay", concept="work", idempotency_key="k"):
            told.append("its turn")
            time.sleep(0.25)
            raise Boom

    at_once(5, provenance_dsn, attempt)
    # With a deadline for each one that comes first, all would have had theirs.
    assert 0 < len(told) < 4


async def test_work_outside_does_not_wait_for_a_transaction(
    colour: Blocking, recorded_actions: RecordedActions, provenance_dsn: str
) -> None:
    """It would keep a connection of the journal's; that the key is taken is no outage."""
    connection = await colour.connect()
    async with colour.track("pay", idempotency_key="k", connection=connection):
        pass
    for _ in range(3):
        with pytest.raises(IdempotencyKeyBusy, match="is being used"):
            async with colour.track("pay", idempotency_key="k", transaction=False):
                pytest.fail("the body ran")
    assert colour.trail.health().reachable
    await done(connection.commit())
    with pytest.raises(AlreadyDone):
        async with colour.track("pay", idempotency_key="k", transaction=False):
            pytest.fail("the body ran")
    await done(connection.close())
    assert paid(recorded_actions) == ["completed"]


def test_a_key_tells_nothing_of_actions_of_others(provenance_dsn: str, eye: psycopg.Connection[Any]) -> None:
    """Whoever claims one for an action that is there already is refused, by whatever way it gets there."""
    with Trail(provenance_dsn) as trail:
        with trail.track_action("pay", concept="work") as theirs:
            theirs.result = "secret"
        begun = trail.begin("pay", concept="work")
        with suppress(Boom), trail.track_action("pay", concept="work", idempotency_key="k", transaction=False):
            raise Boom
    for action_id in (theirs.id, begun):
        for key in ("k", "new"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="has begun already"):
                eye.execute("SELECT provenance.claim_key('', 'pay', %s, '', %s, true)", (key, action_id))


# --- Work outside the database ---------------------------------------------------------------------------------------


async def test_work_outside_that_never_ended(colour: Blocking, recorded_actions: RecordedActions, eye: Any) -> None:
    """Nobody does it again before somebody has said what became of it."""
    with suppress(BaseException):
        async with colour.track("pay", idempotency_key="k", transaction=False) as action:
            with pytest.raises(IdempotencyKeyBusy, match=rf"held by action {action.id}, which has no outcome yet"):
                async with colour.track("pay", idempotency_key="k", transaction=False):
                    pytest.fail("the body ran")
            raise KeyboardInterrupt
    assert paid(recorded_actions) == ["failed"]
    async with colour.track("pay", idempotency_key="k", transaction=False):
        pass
    # As a process that was killed leaves it.
    begun = await done(colour.trail.begin("pay", concept="work"))
    eye.execute("INSERT INTO provenance.idempotency_keys VALUES ('', 'pay', 'lost', '', %s)", (begun,))
    with pytest.raises(IdempotencyConflict):
        async with colour.track("pay", idempotency_key="lost", transaction=False):
            pytest.fail("the body ran")
    eye.execute(
        "UPDATE provenance.idempotency_keys SET input_digest = "
        "(SELECT input_digest FROM provenance.idempotency_keys WHERE key = 'k') WHERE key = 'lost'"
    )
    with pytest.raises(IdempotencyKeyBusy, match=r"trail\.complete"):
        async with colour.track("pay", idempotency_key="lost", transaction=False):
            pytest.fail("the body ran")
    await done(colour.trail.fail(begun, "it never arrived"))
    async with colour.track("pay", idempotency_key="lost", transaction=False):
        pass
    assert paid(recorded_actions)[-1] == "completed"


async def test_a_key_needs_the_database(provenance_dsn: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool cannot say who has it: without the database nothing is begun."""
    monkeypatch.setattr(connections, "DEADLINE", timedelta(milliseconds=300))
    with Proxy(provenance_dsn) as line, Trail(provenance_dsn, journal=line.address, spool=tmp_path / "spool") as trail:
        trail.recover()
        line.go_down()
        for _ in range(2):
            with (
                pytest.raises(TrailUnavailable, match="cannot be made durable that the action is begun"),
                trail.track_action("pay", concept="work", idempotency_key="k", transaction=False),
            ):
                pytest.fail("the body ran")
        assert trail.health().kept == 0


# --- Misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trail", [Trail, AsyncTrail])
def test_a_decorator_has_no_key(trail: Callable[..., Any], provenance_dsn: str) -> None:
    """It would use one for all calls."""
    with pytest.raises(InvalidAction, match="a decorator would use one key for all calls"):
        trail(provenance_dsn).track_action("a", concept="c", idempotency_key="k")(lambda: None)


def test_a_key_is_an_identifier(provenance_dsn: str) -> None:
    """Text, an int or a UUID; a long one is told from others that begin like it."""
    with Trail(provenance_dsn) as trail:
        with pytest.raises(InvalidAction, match="idempotency_key: expected text, an int or a UUID, got float"):
            trail.track_action("a", concept="c", idempotency_key=1.5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        for end in ("x", "y"):
            with trail.track_action("a", concept="c", idempotency_key="k" * 300 + end):
                pass
