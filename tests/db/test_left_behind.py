"""Blocks that are left in odd ways, or by nobody: what comes after them is recorded as if they had never been."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool

from provenance import NoCurrentAction, Trail, current_action, drivers, track_action
from provenance.context import set_innermost_action
from provenance.errors import MisusedAction, NotCommitted
from provenance.recording import Colour
from provenance.statements import recording
from provenance.testing import RecordedActions
from provenance.tracking import drive
from tests.support import databases

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

INSERT = "INSERT INTO work (id) VALUES (%s)"


@pytest.fixture
def idle(provenance_dsn: str, trail: Trail) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the caller's in autocommit mode."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _clean_context() -> Iterator[None]:
    """Leave nothing in the context for other tests; a test here may end without another block that would clear it."""
    yield
    set_innermost_action(None)


def present(eye: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


def add(trail: Trail, number: int, **given: Any) -> None:
    with trail.track_action("add", concept="work", **given) as action:
        action.connection.execute(INSERT, (number,))


# --- Suspended and abandoned ------------------------------------------------------------------------------------------


def test_a_suspended_generator_does_not_outlive_the_block_it_was_started_in(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What is done after the outer block has ended is no part of it, with and without a transaction."""

    def rows() -> Generator[int]:
        with trail.track_action("rows", concept="work"):
            yield 1

    with pytest.raises(NotCommitted, match="still open"), trail.track_action("outer", concept="work"):
        suspended = rows()
        next(suspended)
    add(trail, 1)
    with trail.track_action("mail", concept="work", transaction=False):
        pass
    suspended.close()
    add(trail, 2)
    assert [1, 2] == present(eye)
    recorded_actions.expect("""
        outer failed
          rows failed
        add completed
        mail completed
        add completed
    """)


def test_suspended_work_outside_the_database_outlives_the_transaction_it_was_begun_in(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """It is still under way, so what is done next is caused by it, in a transaction of its own."""

    def letters() -> Generator[int]:
        with (
            trail.track_action("letters", concept="work"),
            trail.track_action("mail", concept="work", transaction=False),
        ):
            yield 1

    with pytest.raises(NotCommitted, match="still open"), trail.track_action("outer", concept="work"):
        suspended = letters()
        next(suspended)
    add(trail, 1)
    suspended.close()
    assert [1] == present(eye)
    recorded_actions.expect("""
        outer failed
          letters failed
            mail failed
              add completed
    """)


class Interrupted(Exception):
    """What a time limit raises, out of a signal handler."""


def interrupted_at_the_end(trail: Trail, **given: Any) -> None:
    """Leave a block by an exception that comes after its body and before the first line of its ``__exit__``."""
    block = trail.track_action("lost", concept="work", **given)
    action = block.__enter__()
    if given.get("transaction", True):
        action.connection.execute(INSERT, (99,))
    # From here on nobody refers to the block any more: as when the interpreter is interrupted there.


def test_a_block_that_nobody_can_leave_commits_nothing(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The next block is on its own, and what was lost is recorded and said."""
    interrupted_at_the_end(trail)
    add(trail, 1)
    assert [1] == present(eye)
    recorded_actions.expect("""
        lost failed
        add completed
    """)
    said = "provenance: track_action('lost'): an interruption hit the end of the block before anything could be done about "
    said += "it"
    assert [said] == [record.message for record in caplog.records if record.name == "provenance"]


def test_a_block_that_nobody_can_leave_gives_its_connection_back(
    provenance_dsn: str, eye: psycopg.Connection[Any]
) -> None:
    """Also where the pool has no other one."""
    with ConnectionPool(provenance_dsn, min_size=1, max_size=1, timeout=5, open=True) as pool, Trail(pool) as trail:
        for _ in range(3):
            interrupted_at_the_end(trail)
            add(trail, len(present(eye)) + 1)
    assert [1, 2, 3] == present(eye)


@pytest.mark.parametrize("transaction", [True, False])
def test_a_declared_block_that_nobody_can_leave_before_its_body_has_run(
    trail: Trail, recorded_actions: RecordedActions, transaction: bool
) -> None:
    """As when it is interrupted once more while it is withdrawn: it has been made durable that it is begun."""
    lost = trail.track_action("lost", concept="work", transaction=transaction, durability="intent")
    _, entering = lost._reserve(Colour.SYNC)
    drive(entering, trail.perform)
    del lost
    add(trail, 1)
    recorded_actions.expect("""
        lost failed
        add completed
    """)


def test_a_block_that_nobody_can_leave_inside_another(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The block around it cannot succeed; blocks after it, inside the same one, are children of that one."""
    with pytest.raises(NotCommitted, match="still open"), trail.track_action("outer", concept="work"):
        interrupted_at_the_end(trail)
        add(trail, 1)
    add(trail, 2)
    assert [2] == present(eye)
    recorded_actions.expect("""
        outer failed
          lost failed
          add rolled_back
        add completed
    """)


def test_a_block_that_nobody_can_leave_around_work_outside_the_database(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What is done inside that work has a transaction of its own: the one around it is gone."""
    block = [trail.track_action("lost", concept="work")]
    block[0].__enter__().connection.execute(INSERT, (99,))
    with trail.track_action("mail", concept="work", transaction=False):
        block.clear()
        add(trail, 1)
    assert [1] == present(eye)
    recorded_actions.expect("""
        lost failed
          mail completed
            add completed
    """)


def test_a_joined_block_that_nobody_can_leave(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Its transaction is the caller's, who may commit it: nobody can know."""
    with psycopg.connect(provenance_dsn) as connection:
        with suppress(NotCommitted):
            interrupted_at_the_end(trail, connection=connection)
        add(trail, 1)
        connection.commit()
    assert [1, 99] == present(eye)
    recorded_actions.expect("""
        lost unknown
        add completed
    """)


def test_a_process_that_was_forked_inside_a_block_leaves_it_without_a_word(
    trail: Trail, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent on the connection, which is the parent's, and no row is written; see the processes in test_outage."""
    block = trail.track_action("add", concept="work")
    connection = block.__enter__().connection
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        block.__exit__(None, None, None)
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    drivers.release(connection)
    connection.close()
    trail.pool.putconn(connection)
    assert recorded_actions.all() == []


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_the_callers_transaction_is_the_callers_again(
    trail: Trail, provenance_dsn: str, eye: psycopg.Connection[Any], end: str
) -> None:
    """It can be ended at once, and not only when the next block begins."""
    with psycopg.connect(provenance_dsn) as connection:
        interrupted_at_the_end(trail, connection=connection)
        getattr(connection, end)()
    assert present(eye) == ([99] if end == "commit" else [])


def test_a_joined_block_that_nobody_can_leave_with_blocks_inside_it(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """What was undone inside it is known; what still stood is as uncertain as the block itself."""

    def lose(connection: psycopg.Connection[Any]) -> None:
        block = trail.track_action("lost", concept="work", connection=connection)
        block.__enter__()
        connection.execute("SAVEPOINT mine")
        add(trail, 1)
        connection.execute("ROLLBACK TO SAVEPOINT mine")
        add(trail, 2)

    with psycopg.connect(provenance_dsn) as connection:
        lose(connection)
        add(trail, 3)
        connection.commit()
    assert [2, 3] == present(eye)
    recorded_actions.expect("""
        lost unknown
          add rolled_back
          add unknown
        add completed
    """)


def test_a_block_that_nobody_can_leave_after_its_transaction_was_ended(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A body inside committed by text, so that part of the work is there: nobody can know what became of which."""
    block = [trail.track_action("lost", concept="work")]
    block[0].__enter__().connection.execute(INSERT, (1,))
    with suppress(NotCommitted), trail.track_action("inner", concept="work") as inner:
        inner.connection.execute("COMMIT")
    block.clear()
    add(trail, 2)
    assert [1, 2] == present(eye)
    recorded_actions.expect("""
        lost unknown
          inner unknown
        add completed
    """)


def test_a_block_on_an_idle_connection_that_nobody_can_leave(
    trail: Trail, idle: psycopg.Connection[Any], recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Its transaction is its own, so nobody gets to commit it."""
    interrupted_at_the_end(trail, connection=idle)
    with pytest.raises(psycopg.OperationalError):
        idle.execute("COMMIT")
    add(trail, 1)
    assert [1] == present(eye)
    recorded_actions.expect("""
        lost failed
        add completed
    """)


def test_an_action_that_nobody_can_leave_is_not_the_current_one(trail: Trail) -> None:
    """The one around it is, if any."""
    interrupted_at_the_end(trail)
    with pytest.raises(NoCurrentAction):
        current_action()
    with suppress(NotCommitted), trail.track_action("outer", concept="work") as outer:
        interrupted_at_the_end(trail)
        assert current_action() is outer


def test_detached_work_that_nobody_can_leave(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It may have been done; it is recorded when the trail is closed at the latest."""
    interrupted_at_the_end(trail, transaction=False)
    trail.close()
    assert recorded_actions.outline() == "lost unknown"


@pytest.mark.parametrize("joined", [False, True])
def test_an_interruption_while_the_end_is_put_together(
    idle: psycopg.Connection[Any],
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    joined: bool,
) -> None:
    """Nothing has been sent yet, so the work is undone, and the failure is recorded."""

    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted

    idle.autocommit = not joined
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted),
        track_action("add", concept="work", connection=idle),
    ):
        idle.execute(INSERT, (1,))
        patch.setattr(recording, "insert", interrupt)
    idle.commit()
    assert [] == present(eye)
    assert "add failed" == recorded_actions.outline()


def test_a_block_that_nobody_can_leave_does_not_let_go_of_what_a_later_one_holds(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions
) -> None:
    """What is done about it is done later, by another thread perhaps, when its connection is in use again."""
    with psycopg.connect(provenance_dsn) as connection:
        interrupted_at_the_end(trail, connection=connection)
        connection.rollback()
        with trail.track_action("later", concept="work", connection=connection):
            thread = threading.Thread(target=add, args=(trail, 1))
            thread.start()
            thread.join()
            with pytest.raises(MisusedAction, match="refused inside"):
                connection.commit()
    assert {("lost", "unknown"), ("later", "completed"), ("add", "completed")} == {
        (action.action_type, str(action.status)) for action in recorded_actions.all()
    }


# --- Streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_a_stream_kept_open_cannot_commit_what_is_recorded_as_failed(
    trail: Trail,
    idle: psycopg.Connection[Any],
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    nested: bool,
) -> None:
    """The connection cannot be told to roll back while a query is in progress on it, so it is closed."""
    kept: list[Any] = []

    def read(connection: psycopg.Connection[Any]) -> None:
        connection.execute(INSERT, (1,))
        kept.append(connection.cursor().stream("SELECT generate_series(1, 3)"))
        next(kept[0])
        raise Interrupted

    with suppress(Interrupted), trail.track_action("outer", concept="work", connection=idle):
        if nested:
            with trail.track_action("inner", concept="work"):
                read(idle)
        else:
            read(idle)
    kept[0].close()
    assert idle.closed
    assert [] == present(eye)
    assert {"failed"} == {str(action.status) for action in recorded_actions.all()}


def test_a_stream_kept_open_in_a_joined_block(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Nor can the caller commit it."""
    connection = psycopg.connect(provenance_dsn)
    kept: list[Any] = []
    with suppress(Interrupted), trail.track_action("add", concept="work", connection=connection):
        connection.execute(INSERT, (1,))
        kept.append(connection.cursor().stream("SELECT generate_series(1, 3)"))
        next(kept[0])
        raise Interrupted
    kept[0].close()
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()
    assert [] == present(eye)
    assert recorded_actions.outline() == "add failed"


def test_a_stream_kept_open_by_a_body_that_returns(trail: Trail, recorded_actions: RecordedActions) -> None:
    """The block says what is in the way."""
    with pytest.raises(NotCommitted, match="still in progress"), trail.track_action("add", concept="work") as action:
        stream = action.connection.cursor().stream("SELECT generate_series(1, 3)")
        next(stream)
    stream.close()
    assert recorded_actions.outline() == "add failed"


# --- Everything else ------------------------------------------------------------------------------------------------------


def test_inside_work_outside_the_database(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A block inside belongs to the transaction around it all, and would otherwise wait for it forever."""
    with pytest.raises(Interrupted), trail.track_action("outer", concept="work") as outer:
        with (
            trail.track_action("mail", concept="work", transaction=False),
            trail.track_action("inner", concept="work") as inner,
        ):
            assert inner.connection is outer.connection
            inner.connection.execute(INSERT, (1,))
        raise Interrupted
    assert [] == present(eye)
    recorded_actions.expect("""
        outer failed
          mail completed
            inner rolled_back
    """)


class Slow(Mapping[str, int]):
    """A payload that runs code of the caller's while it is read."""

    def __init__(self, trail: Trail, reading: threading.Event, go_on: threading.Event) -> None:
        self._trail, self._reading, self._go_on = trail, reading, go_on

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        with self._trail.track_action("inside", concept="work"):
            self._reading.set()
            self._go_on.wait(20)
        return iter(["a"])


def test_a_payload_that_takes_its_time(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It may open blocks of its own, and keeps no other thread waiting."""
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with trail.track_action("slow", concept="work", payload=Slow(trail, reading, go_on)):
            pass

    thread = threading.Thread(target=slow)
    thread.start()
    assert reading.wait(20)
    add(trail, 1)
    go_on.set()
    thread.join()
    assert {("add", "completed"), ("inside", "completed"), ("slow", "completed")} == {
        (action.action_type, str(action.status)) for action in recorded_actions.all()
    }


@pytest.mark.parametrize("statement", ["RESET ALL", "SET LOCAL provenance.block = ''"])
def test_settings_that_are_reset_in_a_joined_block(
    trail: Trail,
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    statement: str,
) -> None:
    """What still stands cannot be told any more, so the block is undone, and refused."""
    with (
        psycopg.connect(provenance_dsn) as connection,
        pytest.raises(NotCommitted, match="were reset"),
        trail.track_action("outer", concept="work", connection=connection),
    ):
        add(trail, 1)
        connection.execute(statement.encode())
    assert [] == present(eye)
    recorded_actions.expect("""
        outer failed
          add rolled_back
    """)


def test_a_generator_that_was_moved_between_threads(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The enclosing block stays where it is."""

    @trail.track_action("numbers", concept="work")
    def numbers() -> Generator[int]:
        yield 1
        yield 2

    with trail.track_action("outer", concept="work") as outer:
        moved = numbers()
        next(moved)
        thread = threading.Thread(target=next, args=(moved,))
        thread.start()
        thread.join()
        with trail.track_action("inner", concept="work") as inner:
            assert inner.connection is outer.connection
        assert list(moved) == []
    recorded_actions.expect("""
        outer completed
          numbers completed
          inner completed
    """)


def test_a_result_that_dislikes_being_looked_at(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It is returned as it is."""

    class Thing:
        pass

    dead = weakref.proxy(Thing())

    @trail.track_action("add", concept="work")
    def function() -> Any:
        return dead

    assert function() is dead
    assert recorded_actions.outline() == "add completed"


class HostileCause(Exception):
    @property
    def __cause__(self) -> BaseException | None:
        raise RuntimeError

    @__cause__.setter
    def __cause__(self, value: object) -> None: ...


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("error", [HostileCause(), Exits()], ids=["cause", "exits"])
def test_an_exception_that_cannot_be_described(
    trail: Trail, recorded_actions: RecordedActions, error: Exception
) -> None:
    """It goes on as it is, its action is recorded, and no connection is lost."""
    with pytest.raises(type(error)) as caught, trail.track_action("add", concept="work"):
        raise error
    assert caught.value is error
    row = recorded_actions.one()
    assert ("failed", f"{__name__}.{type(error).__name__}", "") == (row.status, row.error_type, row.error_message)


# --- Resuming ---------------------------------------------------------------------------------------------------------


def test_a_receipt_of_somebody_elses(
    trail: Trail, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Another process was first, and the link breaks: its row does not say that this work is committed."""
    begun = trail.begin("pay", concept="work")
    with pytest.raises(psycopg.OperationalError), trail.resume(begun) as action:
        action.connection.execute(INSERT, (1,))
        trail.complete(begun, {"by": "another"})
        eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(action.connection),))
    assert [] == present(eye)
    assert recorded_actions.one().result == {"by": "another"}


def test_resuming_on_a_connection_that_is_inside_an_action(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It would take the connection from the block it is in."""
    begun = trail.begin("pay", concept="work")
    with trail.track_action("outer", concept="work") as outer:
        with (
            pytest.raises(MisusedAction, match="leave connection= out"),
            trail.resume(begun, connection=outer.connection),
        ):
            pytest.fail("entered")
        with pytest.raises(MisusedAction):
            outer.connection.commit()
    assert recorded_actions.one(action_type="outer").status == "completed"


def test_resuming_does_not_depend_on_the_applications_json(trail: Trail, recorded_actions: RecordedActions) -> None:
    """An application may load its JSON columns with anything."""
    begun = trail.begin("pay", concept="work", payload={"amount": 1.5}, metadata={"a": "1e400"})
    set_json_loads(lambda data: f"custom {data!r}")
    try:
        with trail.resume(begun):
            pass
    finally:
        set_json_loads(json.loads)
    row = recorded_actions.one()
    assert ({"amount": 1.5}, {"a": "1e400"}, "completed") == (row.payload, row.metadata, row.status)


# --- Encodings --------------------------------------------------------------------------------------------------------


def test_a_connection_with_a_narrow_encoding(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """What is recorded may hold more than the application's encoding can."""
    with (
        ConnectionPool(provenance_dsn, kwargs={"client_encoding": "LATIN1"}, min_size=1, open=True) as pool,
        Trail(pool) as trail,
    ):
        begun = trail.begin("pay", concept="work", payload={"a": "€日本"}, user_id="€日本")
        trail.complete(begun)
        with suppress(Interrupted), trail.track_action("add", concept="work", user_id="€日本"):
            raise Interrupted
    assert ["€日本", "€日本"] == [action.user_id for action in recorded_actions.all()]


# A pooler repeats the name as it was spelled.
@pytest.mark.parametrize("spelled", ["SQL_ASCII", "sql_ascii", "sql-ascii"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_connection_without_encoding_is_refused(provenance_dsn: str, joined: bool, spelled: str) -> None:
    """No text can be read from it."""
    with (
        ConnectionPool(provenance_dsn, kwargs={"client_encoding": spelled}, min_size=1, max_size=1, open=True) as pool,
        Trail(pool) as trail,
    ):
        for _ in range(2):
            if joined:
                with pool.connection() as connection, pytest.raises(MisusedAction, match="client_encoding=utf8"):
                    trail.track_action("add", concept="work", connection=connection).__enter__()
            else:
                with pytest.raises(MisusedAction, match="client_encoding=utf8"):
                    trail.track_action("add", concept="work").__enter__()
