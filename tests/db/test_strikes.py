"""An exception out of a signal handler (Ctrl-C, a worker's time limit) between any two calls: rows tell the truth."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest
from psycopg_pool import ConnectionPool

import provenance
from provenance import TrackedAction, Trail, request_scope, track_action
from provenance.context import set_innermost_action
from provenance.errors import ProvenanceError
from provenance.journal import answered
from provenance.testing import RecordedActions
from tests.support import databases
from tests.support.proxy import Line, Proxy

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

OURS = str(Path(provenance.__file__).parent)


class CtrlC(BaseException):
    """What a signal handler raises."""


class TimeLimit(Exception):
    """The same, where it is an Exception, as of some task queues."""


class Boom(Exception):
    """What a body raises."""


@attrs.define
class Striker:
    """Raises where Python looks for signals: where a function of ours begins or goes on, or a C function returns to it."""

    at: int
    error: type[BaseException]
    seen: int = 0
    where: str | None = None
    spared: bool = False

    @property
    def nobody_leaves(self) -> bool:
        """Whether it struck before the block that was being left was known to be."""
        return self.where is not None and self.where.startswith(("track_action.__exit__ ", "track_action._entered "))

    @property
    def in_a_check(self) -> bool:
        """Whether it struck in what the journal's pool calls to see whether a connection works."""
        return self.where is not None and self.where.startswith(("Journal._check ", "Answered.will_do "))

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if self.spared or event not in {"call", "c_return"} or not code.co_filename.startswith(OURS):
            return
        # What is raised in there is nobody's. It runs whenever an object of an earlier run is collected.
        if "__del__" in {code.co_name, frame.f_back and frame.f_back.f_code.co_name}:
            return
        self.seen += 1
        if self.seen == self.at:
            sys.setprofile(None)
            self.where = f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno}), {event}"
            raise self.error


@attrs.define
class Program:
    """What a body works with, and which work it has done in which action."""

    trail: Trail
    connection: psycopg.Connection[Any]
    striker: Striker
    work: dict[UUID, int] = attrs.field(factory=dict)
    declared: bool = False
    ends_the_transaction: bool = False
    """The body commits by SQL text: the library cannot know of what."""

    _ids = itertools.count(1)

    def track(self, action_type: str, **given: Any) -> track_action:
        return self.trail.track_action(action_type, concept="work", **given)

    def insert(self, action: TrackedAction, connection: psycopg.Connection[Any] | None = None) -> None:
        self.striker.spared = True
        self.work[action.id] = id_ = next(self._ids)
        connection = connection or action.connection
        self.striker.spared = False
        connection.execute("INSERT INTO work (id) VALUES (%s)", (id_,))

    def untrue(self, rows: RecordedActions, eye: psycopg.Connection[Any], request_id: UUID) -> Iterator[str]:
        """Say what the trail has wrong about the blocks whose bodies ran."""
        there = {row[0] for row in eye.execute("SELECT id FROM work").fetchall()}
        found = {row.id: row for row in rows.all(request_id=request_id)}
        for action_id, id_ in self.work.items():
            row = found.pop(action_id, None)
            fate = "there" if id_ in there else "gone"
            if row is None:
                yield f"no row, and the work is {fate}"
            elif row.status == "unknown" and (self.striker.nobody_leaves or self.ends_the_transaction):
                continue  # its transaction is the caller's, or was the body's
            elif (str(row.status), fate) not in {("completed", "there"), ("failed", "gone"), ("rolled_back", "gone")}:
                yield f"{row.action_type} is {row.status}, and the work is {fate}"
        for row in found.values():
            # It may have been made durable that it is begun, and then it has to have an outcome.
            if not (self.declared and row.status == "failed"):
                yield f"a row of a block whose body never ran: {row.action_type} {row.status}"


ANY = (CtrlC, TimeLimit, Boom, ProvenanceError, psycopg.Error)


def returns(program: Program) -> None:
    with program.track("outer") as action:
        program.insert(action)


def raises(program: Program) -> None:
    with program.track("outer") as action:
        program.insert(action)
        raise Boom


def returns_inside(program: Program) -> None:
    with program.track("outer") as outer:
        program.insert(outer)
        with program.track("inner") as inner:
            program.insert(inner)


def goes_on_after_an_inner_block(program: Program) -> None:
    with program.track("outer") as outer:
        with suppress(*ANY), program.track("inner") as inner:
            program.insert(inner)
        with suppress(*ANY), program.track("inner") as inner:
            program.insert(inner)
            raise Boom
        program.insert(outer)


def declares(program: Program) -> None:
    program.declared = True
    with program.track("outer", durability="intent") as action:
        program.insert(action)


def works_outside(program: Program) -> None:
    program.connection.commit()
    program.connection.autocommit = True
    with program.track("outer", transaction=False) as action:
        program.insert(action, program.connection)


def joins(program: Program) -> None:
    with program.track("joined", connection=program.connection) as action:
        program.insert(action)


def joins_and_raises(program: Program) -> None:
    with program.track("joined", connection=program.connection) as action:
        program.insert(action)
        raise Boom


def joins_with_an_inner_block(program: Program) -> None:
    with program.track("joined", connection=program.connection) as action:
        program.insert(action)
        with program.track("inner") as inner:
            program.insert(inner)


def joins_and_raises_after_an_inner_block(program: Program) -> None:
    with program.track("joined", connection=program.connection) as action:
        program.insert(action)
        with program.track("inner") as inner:
            program.insert(inner)
        raise Boom


def begins_on_a_connection_of_its_own(program: Program) -> None:
    program.connection.commit()
    program.connection.autocommit = True
    with program.track("outer", connection=program.connection) as action:
        program.insert(action)


def swallows_an_error(program: Program) -> None:
    with program.track("outer") as action:
        program.insert(action)
        with suppress(psycopg.Error):
            action.connection.execute("SELECT 1 / 0")


def commits_by_text(program: Program) -> None:
    program.ends_the_transaction = True
    with program.track("outer") as action:
        program.insert(action)
        action.connection.execute("COMMIT")


def commits_by_text_and_raises(program: Program) -> None:
    program.ends_the_transaction = True
    with program.track("outer") as action:
        program.insert(action)
        action.connection.execute("COMMIT")
        raise Boom


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """A trail whose pool has one connection: one that is not given back is missed."""
    with ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=5, open=True) as pool, Trail(pool) as trail:
        yield trail
    set_innermost_action(None)


def run(body: Callable[[Program], None], program: Program) -> str | None:
    """Run it and return the name of the error that came out: the error itself would keep the block alive."""
    sys.setprofile(program.striker)
    try:
        body(program)
    except ANY as error:
        return type(error).__name__
    finally:
        sys.setprofile(None)
    return None


BODIES = [
    returns,
    raises,
    returns_inside,
    goes_on_after_an_inner_block,
    declares,
    works_outside,
    joins,
    joins_and_raises,
    joins_with_an_inner_block,
    joins_and_raises_after_an_inner_block,
    begins_on_a_connection_of_its_own,
    swallows_an_error,
    commits_by_text,
    commits_by_text_and_raises,
]


GO_ON = [goes_on_after_an_inner_block]


@pytest.mark.parametrize("error", [CtrlC, TimeLimit])
@pytest.mark.parametrize("body", BODIES)
def test_struck_anywhere(
    trail: Trail,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    body: Callable[[Program], None],
    error: type[BaseException],
) -> None:
    """Each block whose body ran has one row, completed exactly if its work is there; and the next block has a connection."""
    with trail.track_action("first", concept="work"):
        pass
    found: list[str] = []
    for at in itertools.count(1):
        striker, request_id = Striker(at, error), uuid4()
        with closing(psycopg.connect(trail.pool.conninfo)) as connection:
            connection.execute("SELECT 1")
            program = Program(trail, connection, striker)
            with request_scope(request_id):
                came_out = run(body, program)
            # One that goes on after anything may end well; and what a check of the pool's raises is the pool's.
            if came_out is None and body not in GO_ON and striker.where and not striker.in_a_check:
                found.append(f"{at} {striker.where}: it is not raised")
            with suppress(psycopg.Error):
                connection.commit()
        if striker.where is None:
            break
        try:
            with trail.track_action("next", concept="work") as action:
                action.connection.execute("SELECT 1")
        except ProvenanceError as refused:
            found.append(f"{at} {striker.where}: {refused!r}")
            break
        if answered._enough.get():
            found.append(f"{at} {striker.where}: connections of the journal's are not asked any more whether they work")
        found += [f"{at} {striker.where}: {what}" for what in program.untrue(recorded_actions, eye, request_id)]
    assert not found, "\n".join(found)
    assert at > 100


@pytest.fixture
def time_limit() -> Iterator[Callable[[], None]]:
    """Return what raises a time limit in the main thread, wherever that is."""

    def strike(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, strike)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def strike_once_it_sleeps(eye: psycopg.Connection[Any], pid: int, time_limit: Callable[[], None]) -> None:
    asking = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    for _ in range(10_000):
        if eye.execute(asking, (pid,)).fetchall():
            time_limit()
            return


def test_struck_while_a_commit_is_waited_for(
    trail: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    time_limit: Callable[[], None],
) -> None:
    """The time limit is raised although the work turns out to be committed; and the connection holds nothing up."""
    eye.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'"
    )
    eye.execute(
        "CREATE CONSTRAINT TRIGGER dawdles AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        watching = threading.Thread(target=strike_once_it_sleeps, args=(eye, connection.info.backend_pid, time_limit))
        with pytest.raises(TimeLimit), trail.track_action("add", concept="work", connection=connection):
            connection.execute("INSERT INTO work (id) VALUES (1)")
            watching.start()
        assert connection.closed
        watching.join()
    (row,) = recorded_actions.all()
    assert (row.status.value, eye.execute("SELECT id FROM work").fetchall()) == ("completed", [(1,)])


@pytest.mark.parametrize("autocommit", [True, False])
def test_struck_while_the_beginning_is_waited_for(
    trail: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    time_limit: Callable[[], None],
    *,
    autocommit: bool,
) -> None:
    """The body does not run, and the connection, whose answer nobody will read, is closed: nobody uses it by mistake."""
    released = threading.Event()

    def hold(line: Line, kind: bytes, body: bytes) -> None:
        proxy.before_forward = None
        time_limit()
        released.wait()

    with trail.track_action("first", concept="work"):
        pass
    with Proxy(provenance_dsn) as proxy, psycopg.connect(proxy.address, autocommit=autocommit) as connection:
        connection.execute("SELECT 1")
        proxy.before_forward = hold
        try:
            with pytest.raises(TimeLimit), trail.track_action("add", concept="work", connection=connection):
                pytest.fail("the body ran")
        finally:
            released.set()
        assert connection.closed
    assert [row.action_type for row in recorded_actions.all()] == ["first"]
