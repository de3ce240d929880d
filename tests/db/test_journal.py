"""The journal, and what is known when a connection is lost: a row never says what did not happen."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, RawCursor
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import AsyncTrail, Trail, current_action
from provenance.errors import NotCommitted, TrailUnavailable
from provenance.journal import connections
from provenance.testing import RecordedActions
from tests.support import databases
from tests.support.databases import work
from tests.support.proxy import Line, Proxy

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

INSERT = "INSERT INTO work (id) VALUES (%s)"
PATIENCE = 10.0


class Boom(Exception):
    """What a body raises."""


@pytest.fixture
def single(provenance_dsn: str) -> Iterator[Trail]:
    """A trail on a pool with one connection, which must never be needed twice at a time."""
    with ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=2, open=True) as pool, Trail(pool) as trail:
        yield trail


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals that are made from now on have little patience."""
    monkeypatch.setattr(connections, "DEADLINE", timedelta(milliseconds=200))
    monkeypatch.setattr("provenance.recording.leaving._DEADLINE", timedelta(milliseconds=200))


@pytest.fixture
def nowhere(tmp_path: Path, hurried: None) -> str:
    """The address of a server that is down."""
    return make_conninfo(host=str(tmp_path), port=5499, dbname="app", user="nobody")


@pytest.fixture
def cut_off(provenance_dsn: str, nowhere: str) -> Iterator[Trail]:
    """A trail whose journal cannot be reached, although its pool can."""
    with (
        ConnectionPool(provenance_dsn, min_size=1, max_size=2, timeout=2, open=True) as pool,
        Trail(pool, journal=nowhere) as trail,
    ):
        yield trail


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def sessions(eye: psycopg.Connection[Any], name: str) -> list[int]:
    """Return the processes of this database's sessions with an application name."""
    return [
        row[0]
        for row in eye.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s", (name,)
        ).fetchall()
    ]


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the rows that were logged instead of written."""
    found: list[dict[str, Any]] = []
    for record in caplog.records:
        if record.levelno == logging.ERROR and record.name == "provenance":
            _, _, rows = record.getMessage().partition("rows: ")
            found += json.loads(rows or "[]")
    return found


# --- Journal unreachable ---------------------------------------------------------------------------------------------


def test_joined_failure(
    cut_off: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The row is logged, complete and without secrets; the caller's exception and transaction are untouched."""
    error = Boom("no")
    with psycopg.connect(provenance_dsn) as connection:
        connection.execute(INSERT, (1,))
        with (
            pytest.raises(Boom) as caught,
            cut_off.track_action(
                "add", concept="work", connection=connection, payload={"password": "hunter2", "n": 1}
            ) as action,
        ):
            connection.execute(INSERT, (2,))
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert ("", [1]) == (recorded_actions.outline(), work(eye))
    (row,) = logged(caplog)
    assert (str(action.id), "add", "failed", "no", {"password": "[redacted]", "n": 1}) == (
        row["id"],
        row["action_type"],
        row["status"],
        row["error_message"],
        row["payload"],
    )
    assert "hunter2" not in caplog.text


def test_logged_row_can_be_put_back(
    cut_off: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the log holds is what the table wants."""
    with (
        psycopg.connect(provenance_dsn) as connection,
        suppress(Boom),
        cut_off.track_action("add", concept="work", connection=connection, metadata={"a": "ü\x00"}) as action,
    ):
        action.result = [1]
        raise Boom("no")
    (row,) = logged(caplog)
    columns = ", ".join(row)
    eye.execute(
        f"INSERT INTO provenance.actions ({columns}) SELECT {columns} "  # noqa: S608 - its own columns
        "FROM json_populate_record(NULL::provenance.actions, %s)".encode(),
        (json.dumps(row),),
    )
    found = recorded_actions.one()
    assert (action.id, "failed", [1], "no") == (found.id, found.status, found.result, found.error_message)


def test_own_failure(cut_off: Trail, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture) -> None:
    """The block's own connection is enough."""
    with suppress(Boom), cut_off.track_action("add", concept="work"):
        raise Boom
    assert ("add failed", []) == (recorded_actions.outline(), logged(caplog))


def test_own_failure_on_a_lost_connection(
    cut_off: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With neither, the row is logged."""
    with pytest.raises(psycopg.OperationalError), cut_off.track_action("add", concept="work") as action:
        eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(action.connection),))
        action.connection.execute(INSERT, (1,))
    assert ("", [("add", "failed")]) == (
        recorded_actions.outline(),
        [(row["action_type"], row["status"]) for row in logged(caplog)],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_detached_while_the_trail_is_locked(
    provenance_dsn: str, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture, hurried: None, fails: bool
) -> None:
    """The work outside is done, so nothing is raised over a row that cannot be written within the deadline."""
    with (
        Trail(provenance_dsn) as trail,
        psycopg.connect(provenance_dsn) as other,
        suppress(Boom),
        trail.track_action("mail", concept="work", transaction=False) as action,
    ):
        action.result = "sent"
        other.execute("LOCK TABLE provenance.actions IN EXCLUSIVE MODE")
        if fails:
            raise Boom
    assert "" == recorded_actions.outline()
    assert [("mail", "failed" if fails else "completed", "sent")] == [
        (row["action_type"], row["status"], row["result"]) for row in logged(caplog)
    ]


def test_detached_when_the_journal_is_gone(
    provenance_dsn: str, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture, hurried: None
) -> None:
    """Nor over one whose server went away while the block was open."""
    with ExitStack() as serving:
        proxy = serving.enter_context(Proxy(provenance_dsn))
        with (
            Trail(provenance_dsn, journal=proxy.address) as trail,
            trail.track_action("mail", concept="work", transaction=False),
        ):
            serving.close()
    assert ("", ["mail"]) == (recorded_actions.outline(), [row["action_type"] for row in logged(caplog)])


# --- The journal's own connections -----------------------------------------------------------------------------------


def test_it_is_not_the_pool_of_the_application(single: Trail, recorded_actions: RecordedActions) -> None:
    """With the only connection of the application's pool in use, everything that the journal writes is written."""
    with single.pool.connection() as connection:
        with suppress(Boom), single.track_action("joined", concept="work", connection=connection):
            with suppress(Boom), single.track_action("inner", concept="work"):
                raise Boom
            raise Boom
        with single.track_action("detached", concept="work", transaction=False):
            pass
        action_id = single.begin("begun", concept="work")
        single.complete(action_id)
    recorded_actions.expect("""
        joined failed
          inner failed
        detached completed
        begun completed
    """)


def test_nested_blocks_need_no_second_connection(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Nor do failures, generators, or an error at COMMIT."""

    @single.track_action("generator", concept="work")
    def numbers() -> Iterator[int]:
        with single.track_action("inside", concept="work") as action:
            action.connection.execute(INSERT, (1,))
        yield 1

    for _ in numbers():
        pass
    with suppress(Boom), single.track_action("outer", concept="work"):
        with suppress(Boom), single.track_action("inner", concept="work"):
            raise Boom
        raise Boom
    with suppress(psycopg.Error), single.track_action("late", concept="work") as action:
        action.connection.execute("INSERT INTO work (id, secret) VALUES (2, 'a'), (3, 'a')")
    with suppress(NotCommitted), single.track_action("meddling", concept="work") as action:
        action.connection.execute("ROLLBACK")
    recorded_actions.expect("""
        generator completed
          inside completed
        outer failed
          inner failed
        late failed
        meddling unknown
    """)
    assert [1] == work(eye)


def test_it_has_its_own_address(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """It connects where it is told to."""
    address = make_conninfo(provenance_dsn, application_name="the journal")
    with Trail(make_conninfo(provenance_dsn, application_name="the pool"), journal=address) as trail:
        with trail.track_action("mail", concept="work", transaction=False):
            pass
        assert (1, 0) == (len(sessions(eye, "the journal")), len(sessions(eye, "the pool")))
    assert "mail completed" == recorded_actions.outline()


def test_it_is_tiny(provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Thirty-two failures at once use two connections."""
    address = make_conninfo(provenance_dsn, application_name="the journal")
    with Trail(provenance_dsn, journal=address) as trail, ThreadPoolExecutor(32) as threads:

        def fail(number: int) -> None:
            with suppress(Boom), trail.track_action("mail", concept="work", transaction=False, entity_id=number):
                raise Boom

        list(threads.map(fail, range(32)))
        assert len(sessions(eye, "the journal")) <= 2
    assert [("failed", str(number)) for number in range(32)] == sorted(
        ((row.status.value, row.entity_id or "") for row in recorded_actions.all()), key=lambda row: int(row[1])
    )


def test_it_survives_a_restart_of_the_server(
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connections that died while they were idle are replaced before they are used."""
    address = make_conninfo(provenance_dsn, application_name="the journal")
    with Trail(provenance_dsn, journal=address) as trail:
        for _ in range(2):
            with trail.track_action("mail", concept="work", transaction=False):
                pass
            for pid in sessions(eye, "the journal"):
                eye.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert ("mail completed\nmail completed", []) == (recorded_actions.outline(), logged(caplog))


def test_every_write_is_durable_and_bounded(provenance_dsn: str, eye: psycopg.Connection[Any]) -> None:
    """Whatever the database's defaults are, and no setting stays behind on the connection."""
    eye.execute(f"ALTER DATABASE {eye.info.dbname} SET synchronous_commit = off".encode())
    eye.execute("CREATE TABLE settings (name text, value text)")
    eye.execute(
        """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO settings SELECT name, setting FROM pg_settings
                WHERE name IN ('synchronous_commit', 'lock_timeout', 'statement_timeout');
               RETURN NULL; END $$"""
    )
    eye.execute("CREATE TRIGGER note AFTER INSERT ON provenance.actions FOR EACH ROW EXECUTE FUNCTION note()")
    expected = {("synchronous_commit", "on"), ("lock_timeout", "5000"), ("statement_timeout", "5000")}
    with ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=2, open=True) as pool, Trail(pool) as trail:
        with trail.track_action("mail", concept="work", transaction=False):
            pass
        assert expected == set(eye.execute("DELETE FROM settings RETURNING name, value").fetchall())
        # A failed row is written on the block's own connection, under the same terms.
        with suppress(Boom), trail.track_action("add", concept="work"):
            raise Boom
        assert expected == set(eye.execute("DELETE FROM settings RETURNING name, value").fetchall())
        with pool.connection() as connection:
            left = [
                connection.execute(f"SHOW {name}".encode()).fetchone()
                for name in ("synchronous_commit", "lock_timeout", "statement_timeout")
            ]
        assert [("off",), ("0",), ("0",)] == left
        # The row of a success is part of the work, and as durable as the work is.
        with trail.track_action("add", concept="work"):
            pass
        assert ("synchronous_commit", "off") in eye.execute("SELECT name, value FROM settings").fetchall()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"row_factory": dict_row}, id="rows"),
        pytest.param({"autocommit": True}, id="autocommit"),
        pytest.param({"cursor_factory": ClientCursor}, id="client cursors"),
        pytest.param({"cursor_factory": RawCursor}, id="raw cursors"),
        pytest.param(
            {"prepare_threshold": 0},
            id="prepared at once",
        ),
        pytest.param({"prepare_threshold": None}, id="never prepared"),
        pytest.param(
            {"options": "-c default_transaction_isolation=serializable -c default_transaction_read_only=on"},
            id="serializable and read-only",
            marks=pytest.mark.direct("PgBouncer refuses startup options"),
        ),
    ],
)
def test_pool_with_other_options(
    provenance_dsn: str, recorded_actions: RecordedActions, options: dict[str, Any]
) -> None:
    """How the application likes its connections does not get in the way of a row."""
    with (
        ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=2, open=True, kwargs=options) as pool,
        Trail(pool) as trail,
    ):
        with suppress(Boom), trail.track_action("own", concept="work") as action:
            action.connection.execute("SELECT 1")
            raise Boom
        with trail.track_action("detached", concept="work", transaction=False):
            pass
        with (
            suppress(Boom),
            pool.connection() as connection,
            trail.track_action("joined", concept="work", connection=connection),
        ):
            raise Boom
        trail.complete(trail.begin("begun", concept="work"))
    recorded_actions.expect("""
        own failed
        detached completed
        joined failed
        begun completed
    """)


# --- Connection lost -------------------------------------------------------------------------------------------------


def test_terminated_before_the_next_statement(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The statement's error goes on, and the journal has the row."""
    with pytest.raises(psycopg.OperationalError), single.track_action("outer", concept="work") as action:
        with suppress(Boom), single.track_action("inner", concept="work"):
            raise Boom
        action.connection.execute(INSERT, (1,))
        eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(action.connection),))
        action.connection.execute(INSERT, (2,))
    recorded_actions.expect("""
        outer failed
          inner failed
    """)
    assert [] == work(eye)
    with single.track_action("next", concept="work"):
        pass


def test_terminated_before_the_end(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A body that has not noticed is told at COMMIT."""
    with pytest.raises(psycopg.OperationalError), single.track_action("outer", concept="work") as action:
        with single.track_action("inner", concept="work"):
            action.connection.execute(INSERT, (1,))
        eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(action.connection),))
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)
    assert [] == work(eye)
    with single.track_action("next", concept="work"):
        pass


def test_terminated_in_an_inner_block(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A body that lives with the inner error cannot commit either."""
    with pytest.raises(NotCommitted), single.track_action("outer", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        with suppress(psycopg.Error), single.track_action("inner", concept="work"):
            eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(action.connection),))
            action.connection.execute(INSERT, (2,))
    recorded_actions.expect("""
        outer failed
          inner failed
    """)
    assert [] == work(eye)


def test_terminated_in_a_joined_block(
    single: Trail, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The caller's connection is the caller's to close."""
    connection = psycopg.connect(provenance_dsn)
    with (
        pytest.raises(psycopg.OperationalError),
        single.track_action("add", concept="work", connection=connection),
    ):
        eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(connection),))
        connection.execute(INSERT, (1,))
    assert ("add failed", []) == (recorded_actions.outline(), work(eye))
    connection.close()


def test_session_that_waited_too_long(
    single: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A server that gives up on an idle transaction has undone the work."""
    # A pooler may hand its reason on before it hangs up, and psycopg does not count that among the OperationalErrors.
    given_up = (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout)
    with pytest.raises(given_up), single.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        pid = databases.backend(action.connection)
        action.connection.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
        until(lambda: not eye.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall())
    assert ("add failed", []) == (recorded_actions.outline(), work(eye))


# --- The line cut, at any message ------------------------------------------------------------------------------------


@pytest.fixture
def proxy(provenance_dsn: str) -> Iterator[Proxy]:
    """A line that can be cut."""
    with Proxy(provenance_dsn) as running:
        yield running


class Cut:
    """Cuts the line at one message: before it reaches the server, or before an answer reaches the client."""

    def __init__(self, proxy: Proxy, where: str, number: int) -> None:
        self._number = number
        self._seen = 0
        self.done = False
        if where == "before the server":
            proxy.before_forward = lambda line, kind, body: self._count(line)
        else:
            proxy.after_answer = lambda line, data: self._count(line)

    def _count(self, line: Line) -> None:
        self._seen += 1
        if self._seen == self._number:
            self.done = True
            line.cut()


def program(trail: Trail, first: int, entered: list[int]) -> None:
    """Do three pieces of work, one of them in an inner block."""
    with trail.track_action("outer", concept="work", entity_type="item", entity_id=first) as outer:
        entered.append(first)
        outer.connection.execute(INSERT, (first,))
        with trail.track_action("inner", concept="work") as inner:
            inner.connection.execute(INSERT, (first + 1,))
        outer.connection.execute(INSERT, (first + 2,))


async def aprogram(trail: AsyncTrail, first: int, entered: list[int]) -> None:
    """Do the same asynchronously."""
    async with trail.track_action("outer", concept="work", entity_type="item", entity_id=first) as outer:
        entered.append(first)
        await outer.connection.execute(INSERT, (first,))
        async with trail.track_action("inner", concept="work") as inner:
            await inner.connection.execute(INSERT, (first + 1,))
        await outer.connection.execute(INSERT, (first + 2,))


def untrue(
    recorded: RecordedActions, there: list[int], first: int, entered: list[int], error: Exception | None
) -> str | None:
    """Say what the trail or the caller was told that is not so, if anything."""
    statuses = [row.status.value for row in recorded.all(entity_type="item", entity_id=first)]
    work = [id_ for id_ in there if first <= id_ < first + 3]
    if error is None:
        truth = (["completed"], [first, first + 1, first + 2])
    elif first in entered:
        truth = (["failed"], [])
    else:
        truth = ([], [])
        if not isinstance(error, TrailUnavailable):
            return f"{error!r} at the entrance"
    return None if truth == (statuses, work) else f"{error!r}: {statuses}, {work}"


@pytest.mark.parametrize("where", ["before the server", "before the client"])
def test_line_cut_at_any_message(
    proxy: Proxy, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], where: str
) -> None:
    """The caller sees success exactly if the work is there, and the row agrees."""
    found: dict[int, str] = {}
    entered: list[int] = []
    with (
        ConnectionPool(proxy.address, min_size=1, max_size=1, timeout=PATIENCE, open=True) as pool,
        Trail(pool, journal=provenance_dsn) as trail,
    ):
        program(trail, 0, entered)
        for number in itertools.count(1):
            trail.pool.wait()
            cut, error, first = Cut(proxy, where, number), None, number * 10
            try:
                program(trail, first, entered)
            except (psycopg.Error, TrailUnavailable, NotCommitted) as caught:
                error = caught
            proxy.before_forward = proxy.after_answer = None
            if not cut.done:
                break
            if problem := untrue(recorded_actions, work(eye), first, entered, error):
                found[number] = problem
    assert number > 5
    assert {} == found


@pytest.mark.parametrize("where", ["before the server", "before the client"])
def test_line_cut_at_any_message_asynchronously(
    proxy: Proxy, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], where: str
) -> None:
    """Awaiting changes nothing."""
    found: dict[int, str] = {}
    entered: list[int] = []

    async def main() -> int:
        async with (
            AsyncConnectionPool(proxy.address, min_size=1, max_size=1, timeout=PATIENCE, open=False) as pool,
            AsyncTrail(pool, journal=provenance_dsn) as trail,
        ):
            await aprogram(trail, 0, entered)
            number = 0
            while True:
                number += 1
                await pool.wait()
                cut, error, first = Cut(proxy, where, number), None, number * 10
                try:
                    await aprogram(trail, first, entered)
                except (psycopg.Error, TrailUnavailable, NotCommitted) as caught:
                    error = caught
                proxy.before_forward = proxy.after_answer = None
                if not cut.done:
                    return number
                if problem := untrue(recorded_actions, work(eye), first, entered, error):
                    found[number] = problem

    assert asyncio.run(main()) > 5
    assert {} == found


def on_its_way(proxy: Proxy, pattern: bytes, act: Callable[[Line], None]) -> None:
    """Do something before a statement of the client's, and whatever is sent along with it, reaches the server."""

    def watch(line: Line, kind: bytes, body: bytes) -> None:
        if kind in (b"Q", b"P") and re.search(pattern, body):
            proxy.before_forward = None
            act(line)

    proxy.before_forward = watch


@pytest.fixture
def remote(proxy: Proxy, provenance_dsn: str) -> Iterator[Trail]:
    """A trail whose pool, but not its journal, is behind the line."""
    with (
        ConnectionPool(proxy.address, min_size=1, max_size=1, timeout=PATIENCE, open=True) as pool,
        Trail(pool, journal=provenance_dsn) as trail,
    ):
        yield trail


class SlowCommit:
    """Makes every COMMIT that follows work wait for a lock."""

    def __init__(self, eye: psycopg.Connection[Any]) -> None:
        self._eye = eye
        eye.execute(
            """CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
                   AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'"""
        )
        eye.execute(
            """CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED
                   FOR EACH ROW EXECUTE FUNCTION dawdle()"""
        )
        eye.execute("SELECT pg_advisory_lock(1)")

    def wait_for(self, event: str) -> None:
        """Wait until a session waits for this event."""
        until(
            lambda: bool(
                self._eye.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s", (event,)
                ).fetchall()
            )
        )

    def let_go(self) -> None:
        self._eye.execute("SELECT pg_advisory_unlock(1)")


def test_commit_that_takes_its_time(
    remote: Trail, proxy: Proxy, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The answer waits for a COMMIT that the server is still at when the line is cut, and is then known: success."""
    commit = SlowCommit(eye)

    def cut_while_it_commits() -> None:
        commit.wait_for("advisory")
        proxy.lines[0].cut()
        # The journal's INSERT waits for the transaction that is still committing.
        commit.wait_for("transactionid")
        commit.let_go()

    thread = threading.Thread(target=cut_while_it_commits)
    with remote.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        thread.start()
    thread.join()
    assert ("add completed", [1]) == (recorded_actions.outline(), work(eye))


def test_commit_that_takes_too_long(
    proxy: Proxy, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], hurried: None
) -> None:
    """When the journal cannot wait for it any longer the caller is told that nobody knows, and the row says it later."""
    commit = SlowCommit(eye)

    def cut_while_it_commits() -> None:
        commit.wait_for("advisory")
        proxy.lines[0].cut()

    thread = threading.Thread(target=cut_while_it_commits)
    with (
        ConnectionPool(proxy.address, min_size=1, max_size=1, timeout=PATIENCE, open=True) as pool,
        Trail(pool, journal=provenance_dsn) as trail,
        pytest.raises(psycopg.OperationalError) as caught,
        trail.track_action("add", concept="work") as action,
    ):
        action.connection.execute(INSERT, (1,))
        thread.start()
    thread.join()
    assert [f"provenance: whether action {action.id} was committed is not known"] == caught.value.__notes__
    assert "" == recorded_actions.outline()
    commit.let_go()
    until(lambda: work(eye) == [1])
    assert "add completed" == recorded_actions.outline()


def held_back(proxy: Proxy, pattern: bytes) -> threading.Event:
    """Hang up on the client when it sends a statement, and let the server have that only once the event is set."""
    event = threading.Event()

    def hold(line: Line) -> None:
        line.client.shutdown(socket.SHUT_RDWR)
        assert event.wait(PATIENCE)

    on_its_way(proxy, pattern, hold)
    return event


def test_row_that_arrives_too_late(
    remote: Trail, proxy: Proxy, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Once the trail says that the work failed, a COMMIT that was under way all the time cannot make it happen."""
    # Through a pooler nothing is prepared, and a function writes the row.
    let_go = held_back(proxy, rb"INSERT INTO provenance\.actions|provenance\.write_actions")
    with pytest.raises(psycopg.OperationalError), remote.track_action("add", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        pid = databases.backend(action.connection)
    assert "add failed" == recorded_actions.outline()
    let_go.set()
    until(lambda: not eye.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall())
    assert ("add failed", []) == (recorded_actions.outline(), work(eye))


@pytest.mark.parametrize("reached", [False, True])
def test_nobody_left_to_ask(
    proxy: Proxy,
    nowhere: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    *,
    reached: bool,
) -> None:
    """With line and journal gone nobody knows: the caller gets the error with a note, and nothing untrue is recorded."""
    with (
        ConnectionPool(proxy.address, min_size=1, max_size=1, timeout=PATIENCE, open=True) as pool,
        Trail(pool, journal=nowhere) as trail,
    ):
        with trail.track_action("first", concept="work"):
            pass
        with pytest.raises(psycopg.OperationalError) as caught, trail.track_action("add", concept="work") as action:
            action.connection.execute(INSERT, (1,))
            if reached:
                proxy.after_answer = lambda line, data: line.cut()
            else:
                on_its_way(proxy, b"COMMIT", Line.cut)
        proxy.after_answer = None
    assert [f"provenance: whether action {action.id} was committed is not known"] == caught.value.__notes__
    assert 1 == len([record for record in caplog.records if str(action.id) in record.getMessage()])
    if reached:
        until(lambda: work(eye) == [1])
    expected = ("first completed\nadd completed", [1]) if reached else ("first completed", [])
    assert expected == (recorded_actions.outline(), work(eye))


def test_connection_of_the_callers_cut_at_commit(
    proxy: Proxy, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """An idle autocommit connection that was passed in is settled like one of the pool's."""
    with (
        psycopg.connect(proxy.address, autocommit=True) as connection,
        Trail(provenance_dsn) as trail,
        trail.track_action("add", concept="work", connection=connection),
    ):
        connection.execute(INSERT, (1,))

        def cut_the_answer(line: Line, data: bytes) -> None:
            line.cut()

        proxy.after_answer = cut_the_answer
    assert ("add completed", [1]) == (recorded_actions.outline(), work(eye))


def test_begun_action_on_a_lost_line(
    remote: Trail, proxy: Proxy, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A resumed action that could not commit has failed; its begin is no longer pending."""
    action_id = remote.begin("begun", concept="work")
    block = remote.resume(action_id)
    on_its_way(proxy, b"COMMIT", Line.cut)
    with pytest.raises(psycopg.OperationalError), block as action:
        action.connection.execute(INSERT, (1,))
    assert ("begun failed", []) == (recorded_actions.outline(), work(eye))
    assert [(0,)] == eye.execute("SELECT count(*) FROM provenance.action_intents").fetchall()


def test_current_action_is_put_back_after_a_lost_line(remote: Trail, proxy: Proxy) -> None:
    """Whatever happens at the end of an inner block, the outer one is the current one again."""
    with suppress(psycopg.Error, NotCommitted), remote.track_action("outer", concept="work") as outer:
        with suppress(psycopg.Error, NotCommitted), remote.track_action("inner", concept="work"):
            proxy.lines[0].cut()
        assert current_action() is outer
