"""Intents: an action is known of before its body runs, and what became of it is found out, whatever ended its process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo

from provenance import NotCommitted, Recovery, Status, TrailUnavailable, ids
from provenance.errors import InvalidAction, NotConfigured, SchemaNotReady
from provenance.journal import Spool, heartbeat
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import colours, databases, outages
from tests.support.colours import Awaiting, Blocking, done
from tests.support.databases import work
from tests.support.outages import until
from tests.support.proxy import Line, Proxy

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
colour = colours.colour
line = outages.line
hurried = outages.hurried
pytestmark = pytest.mark.anyio

INSERT = "INSERT INTO work (id) VALUES (%s)"
PATIENCE = 10.0
LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]

Opened = Callable[..., Awaitable[Blocking]]


class Boom(Exception):
    """What a body raises."""


@pytest.fixture(params=[Blocking, Awaiting])
async def opened(request: pytest.FixtureRequest, provenance_dsn: str, line: Proxy) -> AsyncIterator[Opened]:
    """Opens a trail of each colour that declares all it does, whose journal, but not its pool, is behind the line."""
    colours: list[Blocking] = []

    async def open_trail(**options: Any) -> Blocking:
        colour: Blocking = request.param()
        await colour.open(provenance_dsn, **{"journal": line.address, "durability": "intent", **options})
        colours.append(colour)
        return colour

    yield open_trail
    for colour in colours:
        await colour.close()


def evidence(eye: psycopg.Connection[Any]) -> list[str]:
    """Return which actions there is evidence of."""
    found = eye.execute("SELECT action_type FROM provenance.action_intents ORDER BY id").fetchall()
    return [row[0] for row in found]


def seen(recorded_actions: RecordedActions) -> dict[str, str]:
    """Return what the trail says of each action type."""
    return {found.action_type: found.status.value for found in recorded_actions.all()}


# --- Declared before the body, and dropped with the outcome ----------------------------------------------------------


async def test_it_is_pending_while_the_body_runs(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """For everybody to see, with what is known of it: own, inner and detached ones."""
    colour = await opened()
    async with colour.track("outer", payload={"n": 1, "password": "x"}, entity_type="e", entity_id=7) as action:
        assert seen(recorded_actions) == {"outer": "pending"}
        found = recorded_actions.one()
        assert (found.id, found.payload, found.entity_id) == (action.id, {"n": 1, "password": "[redacted]"}, "7")
        async with colour.track("inner") as inner, colour.track("mail", transaction=False):
            assert seen(recorded_actions) == {"outer": "pending", "inner": "pending", "mail": "pending"}
            assert {found.root_id for found in recorded_actions.all()} == {action.id}
            assert recorded_actions.all()[1].parent_action_id == action.id
            rows = eye.execute(
                "SELECT id, work_xid IS NULL, system_identifier, joined, worker, expires_at IS NULL, doubt "
                "FROM provenance.action_intents ORDER BY id"
            ).fetchall()
            (cluster,) = eye.execute("SELECT system_identifier FROM pg_control_system()").fetchone() or ()
            worker = f"{os.uname().nodename}:{os.getpid()}"
            assert rows[:2] == [(one.id, False, cluster, False, worker, True, None) for one in (action, inner)]
            assert rows[2][1:] == (True, None, False, worker, False, None)
    assert seen(recorded_actions) == {"outer": "completed", "inner": "completed", "mail": "completed"}
    assert evidence(eye) == []


async def test_a_joined_one_too(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Its evidence goes with the caller's commit, and stays until then."""
    colour = await opened()
    connection = await colour.connect()
    async with colour.track("joined", connection=connection):
        await done(connection.execute(INSERT, (1,)))
    assert seen(recorded_actions) == {"joined": "pending"}
    assert eye.execute("SELECT joined FROM provenance.action_intents").fetchall() == [(True,)]
    await done(connection.commit())
    assert (seen(recorded_actions), evidence(eye), work(eye)) == ({"joined": "completed"}, [], [1])
    await done(connection.close())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
@pytest.mark.parametrize("fails", [False, True], ids=["completes", "fails"])
async def test_the_evidence_goes_with_the_outcome(
    opened: Opened,
    level: IsolationLevel,
    fails: bool,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
) -> None:
    """At every isolation level, of blocks of all modes, whether they end well or not."""
    colour = await opened()
    connection = await colour.connect(autocommit=True)
    await done(
        connection.set_isolation_level(level)
        if isinstance(colour, Awaiting)
        else setattr(connection, "isolation_level", level)
    )
    with suppress(Boom):
        async with colour.track("outer", connection=connection), colour.track("inner"):
            await done(connection.execute(INSERT, (1,)))
            if fails:
                raise Boom
    with suppress(Boom):
        async with colour.track("mail", transaction=False):
            if fails:
                raise Boom
    assert set(seen(recorded_actions).values()) == {"failed" if fails else "completed"}
    assert len(recorded_actions.all()) == 3
    assert evidence(eye) == []
    await done(connection.close())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name.lower())
async def test_a_block_in_a_transaction_of_any_level(
    opened: Opened, level: IsolationLevel, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """At the stricter ones the evidence is left for recovery, and nobody sees it any more."""
    colour = await opened()
    connection = await colour.connect()
    await done(connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()))
    async with colour.track("joined", connection=connection):
        await done(connection.execute(INSERT, (1,)))
    await done(connection.commit())
    strict = level is not IsolationLevel.READ_COMMITTED
    assert (seen(recorded_actions), evidence(eye)) == ({"joined": "completed"}, ["joined"] * strict)
    assert await done(colour.trail.recover()) == Recovery(completed=int(strict))
    assert (seen(recorded_actions), evidence(eye)) == ({"joined": "completed"}, [])
    await done(connection.close())


async def test_a_savepoint_that_failed_leaves_no_evidence(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The outcome of a caught inner failure is recorded with the outer block's."""
    colour = await opened()
    async with colour.track("outer"):
        with suppress(Boom):
            async with colour.track("inner"):
                raise Boom
    assert (seen(recorded_actions), evidence(eye)) == ({"outer": "completed", "inner": "failed"}, [])


async def test_only_what_asks_for_it_is_declared(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """By default nothing is; what a trail says holds for actions that do not say otherwise."""
    async with colour.track("plain"), colour.track("declared", durability="intent"):
        assert seen(recorded_actions) == {"declared": "pending"}
    assert seen(recorded_actions) == {"plain": "completed", "declared": "completed"}


async def test_a_trail_that_declares_all_but_some(opened: Opened, recorded_actions: RecordedActions) -> None:
    """An action may do without."""
    colour = await opened()
    async with colour.track("plain", durability="atomic"):
        assert seen(recorded_actions) == {}


async def test_what_durability_may_be(opened: Opened) -> None:
    """One of two words."""
    colour = await opened()
    with pytest.raises(InvalidAction, match='durability: expected "atomic" or "intent", not \'intend\''):
        colour.track("a", durability="intend")
    with pytest.raises(NotConfigured, match='durability: expected "atomic" or "intent", not None'):
        await opened(durability=None)


async def test_it_costs_one_trip_of_the_journal(opened: Opened, line: Proxy, recorded_actions: RecordedActions) -> None:
    """To declare it; dropping the evidence rides with the outcome."""
    colour = await opened()

    async def once() -> int:
        before = line.round_trips
        async with colour.track("a"):
            pass
        return line.round_trips - before

    await once()
    # It has answered just now, so it is not asked first whether it works.
    assert await once() == 1
    assert seen(recorded_actions) == {"a": "completed"}


# --- Found out afterwards --------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
import psycopg
from provenance import Trail

dsn, mode, what = sys.argv[1:]
trail = Trail(dsn, durability="intent")
connection = psycopg.connect(dsn) if mode == "joined" else None
with trail.track_action("outer", concept="work", connection=connection, transaction=mode != "detached") as outer:
    if mode != "detached":
        outer.connection.execute("INSERT INTO work (id) VALUES (1)")
    with trail.track_action("inner", concept="work", transaction=mode != "detached"):
        if what == "commit":
            outer.connection.execute("COMMIT")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(dsn: str, mode: str, what: str = "") -> None:
    """Have a process killed inside two blocks."""
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, dsn, mode, what], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")


async def gone(eye: psycopg.Connection[Any]) -> None:
    """Wait until the server has noticed that the process is gone."""
    await until(
        lambda: (
            eye.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND state LIKE 'idle in transaction%' LIMIT 1"
            ).fetchone()
            is None
        )
    )


@pytest.mark.parametrize("mode", ["own", "joined"])
async def test_a_killed_process(
    colour: Blocking, mode: str, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Its actions are rolled back, as its work is, and recovery records it."""
    killed(provenance_dsn, mode)
    await gone(eye)
    assert seen(recorded_actions) == {"outer": "pending", "inner": "pending"}
    assert await done(colour.trail.recover()) == Recovery(rolled_back=2)
    assert seen(recorded_actions) == {"outer": "rolled_back", "inner": "rolled_back"}
    (outer, inner) = recorded_actions.all()
    assert outer.error_message == "its transaction was rolled back without an outcome; found by recovery"
    assert (inner.parent_action_id, inner.root_id, inner.error_type) == (outer.id, outer.id, None)
    assert outer.duration_ms is not None
    assert outer.duration_ms > 0
    assert (work(eye), evidence(eye)) == ([], [])
    assert await done(colour.trail.recover()) == Recovery()


async def test_a_killed_process_that_had_committed_by_itself(
    colour: Blocking, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Of work that was committed behind the block's back nobody claims that it was rolled back."""
    killed(provenance_dsn, "own", "commit")
    await gone(eye)
    for _ in range(2):
        assert await done(colour.trail.recover()) == Recovery(unknown=2)
        assert seen(recorded_actions) == {"outer": "unknown", "inner": "unknown"}
    assert recorded_actions.all()[0].error_message == "the block did not end its transaction, and yet it is committed"
    assert work(eye) == [1]


async def test_a_block_that_committed_by_itself_and_lived(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The doubt is noted on the evidence there is, and recovery does not think it knows better."""
    colour = await opened()
    with pytest.raises(NotCommitted):
        async with colour.track("own") as action:
            await done(action.connection.execute(INSERT, (1,)))
            await done(action.connection.execute("COMMIT"))
    assert await done(colour.trail.recover()) == Recovery(unknown=1)
    found = recorded_actions.one()
    assert (found.status, found.error_message) == (
        "unknown",
        "the block ended its own transaction; what became of its work cannot be known",
    )
    assert work(eye) == [1]


@pytest.mark.parametrize("inner", [False, True])
async def test_a_joined_block_that_commits_by_itself(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], *, inner: bool
) -> None:
    """Nobody claims that it was rolled back: neither while it goes on, nor afterwards."""
    colour = await opened()
    connection = await colour.connect()
    with pytest.raises(NotCommitted):
        async with colour.track("outer", connection=connection), AsyncExitStack() as stack:
            if inner:
                await stack.enter_async_context(colour.track("inner"))
            await done(connection.execute(INSERT, (1,)))
            await done(connection.execute("COMMIT"))
            assert await done(colour.trail.recover()) == Recovery(unknown=1 + inner)
    assert await done(colour.trail.recover()) == Recovery(unknown=1 + inner)
    assert (set(seen(recorded_actions).values()), work(eye)) == ({"unknown"}, [1])
    await done(connection.close())
    for action in recorded_actions.all():
        await done(colour.trail.complete(action.id))
    assert await done(colour.trail.recover()) == Recovery()


async def test_an_outcome_in_an_open_transaction_keeps_nobody_waiting(
    colour: Blocking, recorded_actions: RecordedActions
) -> None:
    """Recovery passes by what somebody is just settling."""
    connection = await colour.connect()
    for _ in range(3):
        async with colour.track("undone", connection=connection, durability="intent"):
            pass
    _, second, _ = recorded_actions.all()
    await done(connection.rollback())
    await done(connection.execute("SELECT provenance.complete_action(%s, status => 'failed')", (second.id,)))
    assert await done(colour.trail.recover()) == Recovery(pending=1, rolled_back=2)
    assert await done(colour.trail.resolve(second.id)) == "pending"
    await done(connection.commit())
    assert await done(colour.trail.recover()) == Recovery()
    assert [action.status.value for action in recorded_actions.all()] == ["rolled_back", "failed", "rolled_back"]
    await done(connection.close())


def test_doubts_are_noted_in_the_order_in_which_recovery_goes(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Inner blocks end before outer ones. Who waits for the first of them holds none of the others: no circle."""
    entered, go_on = threading.Event(), threading.Event()

    def work_and_meddle() -> None:
        with suppress(NotCommitted), trail.track_action("outer", concept="work") as outer, ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(trail.track_action("inner", concept="work", durability="intent"))
            outer.connection.execute("COMMIT")
            entered.set()
            go_on.wait(PATIENCE)

    with Trail(provenance_dsn) as trail, psycopg.connect(provenance_dsn) as sweeper:
        worker = threading.Thread(target=work_and_meddle)
        worker.start()
        entered.wait(PATIENCE)
        (first,), *_, (last,) = eye.execute("SELECT id FROM provenance.action_intents ORDER BY id").fetchall()
        sweeper.execute("SELECT 1 FROM provenance.action_intents WHERE id = %s FOR UPDATE", (first,))
        go_on.set()
        while not eye.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            assert worker.is_alive()
        try:
            sweeper.execute("SELECT 1 FROM provenance.action_intents WHERE id = %s FOR UPDATE NOWAIT", (last,))
        finally:
            sweeper.rollback()
            worker.join()
        assert (trail.health().reachable, trail.health().lost) == (True, 0)
    assert {action.status.value for action in recorded_actions.all()} == {"unknown"}


async def test_work_outside_the_database_of_a_killed_process(
    colour: Blocking, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """It is unknown once nobody has been heard of for a lease, and an outcome may still be reported."""
    killed(provenance_dsn, "detached")
    assert await done(colour.trail.recover()) == Recovery(pending=2)
    eye.execute("UPDATE provenance.action_intents SET expires_at = clock_timestamp()")
    assert await done(colour.trail.recover()) == Recovery(unknown=2)
    assert seen(recorded_actions) == {"outer": "unknown", "inner": "unknown"}
    outer, _ = recorded_actions.all()
    await done(colour.trail.complete(outer.id, {"asked": "the mail server"}))
    assert seen(recorded_actions) == {"outer": "completed", "inner": "unknown"}


async def test_a_caller_that_rolls_back(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Finished blocks in its transaction leave no row of their own, but recovery knows."""
    colour = await opened()
    connection = await colour.connect()
    async with colour.track("outer", connection=connection), colour.track("inner"):
        await done(connection.execute(INSERT, (1,)))
    assert await done(colour.trail.recover()) == Recovery(pending=2)
    await done(connection.rollback())
    assert await done(colour.trail.recover()) == Recovery(rolled_back=2)
    assert (seen(recorded_actions), work(eye)) == ({"outer": "rolled_back", "inner": "rolled_back"}, [])
    await done(connection.close())


async def test_a_caller_that_rolls_back_to_a_savepoint(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """That its transaction is committed does not mean that the block's work is."""
    colour = await opened()
    connection = await colour.connect()
    await done(connection.execute(INSERT, (1,)))
    await done(connection.execute("SAVEPOINT mine"))
    async with colour.track("undone", connection=connection):
        await done(connection.execute(INSERT, (2,)))
    await done(connection.execute("ROLLBACK TO mine"))
    async with colour.track("kept", connection=connection):
        await done(connection.execute(INSERT, (3,)))
    await done(connection.commit())
    assert await done(colour.trail.recover()) == Recovery(rolled_back=1)
    assert (seen(recorded_actions), work(eye)) == ({"undone": "rolled_back", "kept": "completed"}, [1, 3])
    undone, _ = recorded_actions.all()
    assert undone.error_message == "its savepoint was rolled back without an outcome; found by recovery"
    await done(connection.close())


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
async def test_a_commit_whose_answer_is_lost(
    opened: Opened, after: bool, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The action is as its work is, and no evidence stays."""
    with Proxy(provenance_dsn) as way:
        colour = await opened()
        connection = await colour.connect()
        await done(connection.close())
        connection = (
            await psycopg.AsyncConnection.connect(way.address, autocommit=True)
            if isinstance(colour, Awaiting)
            else psycopg.connect(way.address, autocommit=True)
        )

        def cut_before(one: Line, kind: bytes, body: bytes) -> None:
            if b"COMMIT" in body:
                one.cut()
                raise OSError

        def cut_after(one: Line, answer: bytes) -> None:
            if b"COMMIT\0" in answer:
                one.cut()
                raise OSError

        with suppress(psycopg.OperationalError):
            async with colour.track("a", connection=connection):
                await done(connection.execute(INSERT, (1,)))
                way.after_answer, way.before_forward = (cut_after, None) if after else (None, cut_before)
        await done(connection.close())
    assert seen(recorded_actions) == {"a": "completed" if after else "failed"}
    assert (work(eye), evidence(eye)) == ([1] if after else [], [])


async def test_what_cannot_be_resolved_keeps_nobody_waiting(
    colour: Blocking, provenance_dsn: str, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind them on later pages are reached."""
    monkeypatch.setattr("provenance.recovery._PAGE_SIZE", 2)
    with psycopg.connect(provenance_dsn, autocommit=True) as session:
        await done(colour.trail.begin("waiting", concept="work"))
        for _ in range(5):
            await done(colour.trail.begin("waiting", concept="work"))
        connection = await colour.connect()
        for _ in range(3):
            async with colour.track("undone", connection=connection, durability="intent"):
                pass
        await done(connection.close())
        await gone(session)
        assert await done(colour.trail.recover()) == Recovery(pending=6, rolled_back=3)
        assert seen(recorded_actions) == {"waiting": "pending", "undone": "rolled_back"}


def strange(eye: psycopg.Connection[Any], **columns: Any) -> UUID:
    """Leave evidence with something unusual about it; return the action's id."""
    action_id = ids.new_id()
    given = {
        "work_xid": "(pg_current_xact_id()::text)::xid8",
        "system_identifier": "(SELECT system_identifier FROM pg_control_system())",
        **columns,
    }
    eye.execute(
        f"INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at, {', '.join(given)}) "  # noqa: S608
        f"VALUES (%(id)s, %(id)s, 'strange', 'work', clock_timestamp(), {', '.join(given.values())})".encode(),
        {"id": action_id},
    )
    return action_id


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"system_identifier": "4711"}, "its transaction was one of another database cluster"),
        ({"system_identifier": "NULL"}, "its transaction was one of another database cluster"),
        ({"work_xid": "'99999999999'"}, "the server no longer knows what became of its transaction"),
    ],
    ids=["another cluster", "no cluster", "from the future"],
)
async def test_evidence_nobody_can_use(
    colour: Blocking,
    columns: dict[str, str],
    reason: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
) -> None:
    """Nothing is invented: it is unknown, and says why; an outcome may still be reported."""
    action_id = strange(eye, **columns)
    for _ in range(2):
        assert await done(colour.trail.resolve(action_id)) is Status.UNKNOWN
    assert (recorded_actions.one().status, recorded_actions.one().error_message) == ("unknown", reason)
    await done(colour.trail.fail(action_id, "it is told"))
    assert await done(colour.trail.resolve(action_id)) is Status.FAILED


async def test_resolving_one(opened: Opened, eye: psycopg.Connection[Any]) -> None:
    """Pending while its transaction is in progress, however long that takes; then what it is; of a stranger nothing."""
    colour = await opened()
    connection = await colour.connect()
    async with colour.track("a", connection=connection) as action:
        assert await done(colour.trail.resolve(action.id)) is Status.PENDING
        eye.execute("UPDATE provenance.action_intents SET started_at = started_at - interval '1 year'")
        assert await done(colour.trail.resolve(action.id)) is Status.PENDING
    await done(connection.rollback())
    assert await done(colour.trail.resolve(action.id)) is Status.ROLLED_BACK
    assert await done(colour.trail.resolve(action.id)) is Status.ROLLED_BACK
    assert await done(colour.trail.resolve(uuid4())) is None
    with pytest.raises(InvalidAction, match="action_id"):
        await done(colour.trail.resolve("17"))
    await done(connection.close())


async def test_not_where_the_past_is_seen(eye: psycopg.Connection[Any], provenance_dsn: str) -> None:
    """In a transaction that does not see what has been committed since, it would say what is not so."""
    with psycopg.connect(provenance_dsn) as session:
        session.isolation_level = IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="cannot see what others have done meanwhile"):
            session.execute("SELECT provenance.resolve(%s)", (strange(eye),))


async def test_an_outcome_given_by_force(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The first word stands: the work of one that is thought dead, and is not, is rolled back."""
    colour = await opened()
    with pytest.raises(NotCommitted, match="has been given an outcome elsewhere"):
        async with colour.track("zombie") as action:
            await done(action.connection.execute(INSERT, (1,)))
            await done(colour.trail.fail(action.id, "it hangs"))
    found = recorded_actions.one()
    assert (found.status, found.error_message, work(eye), evidence(eye)) == ("failed", "it hangs", [], [])


# --- When it cannot be declared --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
async def test_without_a_spool_nothing_is_begun(
    opened: Opened, line: Proxy, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What cannot be made durable is not done: own, joined, inner and detached; and the connection is as it was."""
    colour = await opened()
    connection = await colour.connect()
    async with colour.track("before", durability="atomic"):
        line.go_down()
        for more in ({}, {"connection": connection}, {"transaction": False}):
            with pytest.raises(TrailUnavailable, match="cannot be made durable that the action is begun"):
                async with colour.track("a", **more):
                    pytest.fail("the body ran")
    await done(connection.execute(INSERT, (1,)))
    await done(connection.commit())
    with pytest.raises(TrailUnavailable, match="nothing has been done yet"):
        async with colour.track("a"):
            pytest.fail("the body ran")
    line.down = False
    await until(lambda: colour.trail.health().reachable)
    async with colour.track("after") as action:
        await done(action.connection.execute(INSERT, (2,)))
    assert (seen(recorded_actions), evidence(eye)) == ({"before": "completed", "after": "completed"}, [])
    assert work(eye) == [1, 2]
    await done(connection.close())


@pytest.mark.usefixtures("hurried")
async def test_with_a_spool_it_is_kept_there(
    opened: Opened,
    line: Proxy,
    tmp_path: Path,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
) -> None:
    """It survives the process like the journal's own rows, and is settled like all evidence when it comes in."""
    colour = await opened(spool=tmp_path / "spool")
    connection = await colour.connect()
    line.go_down()
    async with colour.track("undone", connection=connection), colour.track("within"):
        pass
    await done(connection.rollback())
    async with colour.track("kept"):
        pass
    async with colour.track("mail", transaction=False):
        pass
    assert colour.trail.health().kept == 5
    assert seen(recorded_actions) == {"kept": "completed"}
    line.down = False
    await until(lambda: colour.trail.health().replayed == 5 and colour.trail.health().spool.waiting == 0)
    assert seen(recorded_actions) == {
        "kept": "completed",
        "mail": "completed",
        "undone": "pending",
        "within": "pending",
    }
    assert await done(colour.trail.recover()) == Recovery(rolled_back=2, completed=1)
    assert evidence(eye) == []
    await done(connection.close())


@pytest.mark.usefixtures("hurried")
async def test_a_trail_that_refuses_work_it_could_not_record(opened: Opened, line: Proxy, tmp_path: Path) -> None:
    """The spool will not do for it, from the first action on."""
    colour = await opened(spool=tmp_path / "spool", on_unavailable="raise")
    async with colour.track("before"):
        pass
    line.go_down()
    for _ in range(2):
        with pytest.raises(TrailUnavailable, match="nothing has been done yet"):
            async with colour.track("a"):
                pytest.fail("the body ran")
    assert colour.trail.health().kept == 0


@pytest.mark.usefixtures("hurried")
async def test_a_full_spool(opened: Opened, line: Proxy, tmp_path: Path) -> None:
    """It says so, and nothing is begun."""
    colour = await opened(spool=Spool(tmp_path / "spool", max_bytes=10))
    line.go_down()
    with pytest.raises(TrailUnavailable, match=r"begun \(the spool is full\); nothing has been done yet"):
        async with colour.track("a"):
            pytest.fail("the body ran")


async def test_a_role_that_may_not_declare(opened: Opened, provenance_dsn: str, eye: psycopg.Connection[Any]) -> None:
    """It is told whom to ask; this is no outage."""
    eye.execute("CREATE ROLE provenance_mute LOGIN; GRANT USAGE ON SCHEMA provenance TO provenance_mute")
    try:
        colour = await opened(journal=make_conninfo(provenance_dsn, user="provenance_mute"))
        with pytest.raises(SchemaNotReady, match="migrate grant --writer"):
            async with colour.track("a"):
                pytest.fail("the body ran")
        assert colour.trail.health().reachable
    finally:
        eye.execute("DROP OWNED BY provenance_mute; DROP ROLE provenance_mute")


async def test_one_that_is_interrupted_while_it_is_declared(
    provenance_dsn: str, line: Proxy, recorded_actions: RecordedActions
) -> None:
    """Nothing of it is done, and it has an outcome at once: it may have been made durable that it is begun."""
    colour = Awaiting()
    await colour.open(provenance_dsn, journal=line.address, durability="intent")
    loop, held = asyncio.get_running_loop(), threading.Event()
    entering = loop.create_future()

    def hold(one: Line, kind: bytes, body: bytes) -> None:
        if b"action_intents" in body:
            loop.call_soon_threadsafe(entering.set_result, None)
            held.wait(PATIENCE)

    line.before_forward = hold

    async def track() -> None:
        async with colour.track("a"):
            pytest.fail("the body ran")

    task = asyncio.ensure_future(track())
    await entering
    task.cancel()
    line.before_forward = None
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen(recorded_actions) == {"a": "failed"}
    async with colour.track("b"):
        pass
    await colour.close()


# --- Work outside the database ---------------------------------------------------------------------------------------


async def test_while_its_process_lives_it_is_pending(
    opened: Opened, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes."""
    monkeypatch.setattr(heartbeat, "_EVERY", 0.02)
    colour = await opened()

    def lease() -> Any:
        (found,) = eye.execute("SELECT expires_at FROM provenance.action_intents").fetchone() or (None,)
        return found

    async with colour.track("mail", transaction=False):
        first = lease()
        await until(lambda: lease() > first)
        async with colour.track("mail", transaction=False):
            eye.execute("UPDATE provenance.action_intents SET expires_at = clock_timestamp()")
            await until(lambda: [found.status for found in recorded_actions.all()] == ["pending", "pending"])
    assert seen(recorded_actions) == {"mail": "completed"}
    await until(lambda: not any(thread.name == "provenance-heartbeat" for thread in threading.enumerate()))
    async with colour.track("mail", transaction=False):
        first = lease()
        await until(lambda: lease() > first)


@pytest.mark.usefixtures("hurried")
async def test_a_sign_of_life_that_does_not_arrive(
    opened: Opened,
    line: Proxy,
    recorded_actions: RecordedActions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next one may."""
    monkeypatch.setattr(heartbeat, "_EVERY", 0.02)
    colour = await opened()
    async with colour.track("mail", transaction=False):
        line.go_down()
        await until(lambda: "it cannot be said that work is under way" in caplog.text)
        line.down = False
    await until(lambda: colour.trail.health().reachable)


# --- Many at once ----------------------------------------------------------------------------------------------------


def test_sweepers_and_workers_at_once(provenance_dsn: str, recorded_actions: RecordedActions, eye: Any) -> None:
    """Nobody waits for another in a circle, nothing is overwritten, and the trail says of each action what became of it."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def guarded(run: Callable[[], None]) -> threading.Thread:
        def target() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        return thread

    with Trail(provenance_dsn, durability="intent", max_size=6) as trail:

        def worker(number: int) -> Callable[[], None]:
            def run() -> None:
                for turn in range(25):
                    key = number * 1000 + turn
                    with (
                        suppress(Boom),
                        trail.track_action("outer", concept="work", entity_type="work", entity_id=key) as action,
                    ):
                        for fails in (True, False):
                            with suppress(Boom), trail.track_action("inner", concept="work"):
                                action.connection.execute(INSERT, (key + 500 * fails,))
                                if fails:
                                    raise Boom
                        if turn % 3 == 0:
                            raise Boom

            return run

        def sweep() -> None:
            while not ended.is_set():
                trail.recover()

        sweepers = [guarded(sweep) for _ in range(2)]
        for thread in [guarded(worker(number)) for number in range(4)]:
            thread.join()
        ended.set()
        for thread in sweepers:
            thread.join()
        assert errors == []
        assert trail.health().kept == 0
        assert trail.health().lost == 0
        trail.recover()
    assert evidence(eye) == []
    found = recorded_actions.all()
    assert len(found) == 300
    completed = {int(one.entity_id) for one in found if one.entity_id and one.status is Status.COMPLETED}
    assert completed == set(work(eye))
    assert {one.status for one in found} <= {Status.COMPLETED, Status.FAILED, Status.ROLLED_BACK}
