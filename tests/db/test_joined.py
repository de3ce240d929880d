"""A block on a connection of the caller's: whoever opened the transaction ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import ClientCursor, IsolationLevel, RawCursor, ServerCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, namedtuple_row, scalar_row

from provenance import AsyncTrail, Trail, track_action
from provenance.errors import InvalidAction, MisusedAction, NotCommitted
from provenance.testing import RecordedActions
from tests.support import databases

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

INSERT = "INSERT INTO work (id) VALUES (%s)"
Connection = psycopg.Connection[Any]


@pytest.fixture
def caller(provenance_dsn: str, trail: Trail) -> Iterator[Connection]:
    """The caller's connection, as psycopg makes it: autocommit off."""
    connection = psycopg.connect(provenance_dsn)
    yield connection
    connection.close()


@pytest.fixture
def idle(provenance_dsn: str, trail: Trail) -> Iterator[Connection]:
    """The caller's connection in autocommit mode."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


def present(eye: Connection) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


def stamp(connection: Connection) -> UUID | None:
    """Return the action that the connection's transaction is in."""
    row = connection.execute("SELECT provenance.current_action_id()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def status(connection: Connection) -> TransactionStatus:
    return connection.info.transaction_status


# --- Who ends the transaction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [True, False])
def test_the_caller_commits(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection, begun: bool
) -> None:
    """With autocommit off, whether a transaction is open yet or not, it is the caller's and stays open."""
    if begun:
        caller.execute(INSERT, (1,))
    with track_action("add", concept="work", connection=caller) as action:
        assert action.connection is caller
        caller.execute(INSERT, (2,))
    assert (TransactionStatus.INTRANS, "", []) == (status(caller), recorded_actions.outline(), present(eye))
    caller.commit()
    assert ("add completed", [1, 2] if begun else [2]) == (recorded_actions.outline(), present(eye))


@pytest.mark.parametrize("begun", [True, False])
def test_the_caller_rolls_back(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection, begun: bool
) -> None:
    """What the caller undoes was not done: there is no row."""
    if begun:
        caller.execute(INSERT, (1,))
    with track_action("add", concept="work", connection=caller):
        caller.execute(INSERT, (2,))
    caller.rollback()
    assert ("", []) == (recorded_actions.outline(), present(eye))


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_caller_ends_it_after_a_failure(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection, ending: str
) -> None:
    """The failed row is there at once and stays, whatever becomes of the caller's transaction."""
    caller.execute(INSERT, (1,))
    with suppress(ZeroDivisionError), track_action("add", concept="work", connection=caller):
        caller.execute(INSERT, (2,))
        raise ZeroDivisionError
    assert (TransactionStatus.INTRANS, "add failed") == (status(caller), recorded_actions.outline())
    getattr(caller, ending)()
    assert ("add failed", [1] if ending == "commit" else []) == (recorded_actions.outline(), present(eye))


def test_a_database_error_leaves_the_callers_transaction_usable(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """The savepoint takes the error."""
    caller.execute(INSERT, (1,))
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        track_action("add", concept="work", connection=caller),
    ):
        caller.execute(INSERT, (1,))
    caller.execute(INSERT, (2,))
    caller.commit()
    row = recorded_actions.one()
    assert ("failed", "23505", [1, 2]) == (row.status, row.error_code, present(eye))


@pytest.mark.parametrize("commits", [True, False])
def test_autocommit_and_idle(
    idle: Connection, recorded_actions: RecordedActions, eye: Connection, commits: bool
) -> None:
    """There is no transaction to join, so the block has its own, as psycopg's transaction() would."""
    with suppress(ZeroDivisionError), track_action("add", concept="work", connection=idle) as action:
        assert action.connection is idle
        assert TransactionStatus.INTRANS == status(idle)
        idle.execute(INSERT, (1,))
        if not commits:
            raise ZeroDivisionError
    expected = ("add completed", [1]) if commits else ("add failed", [])
    assert (TransactionStatus.IDLE, *expected) == (status(idle), recorded_actions.outline(), present(eye))
    assert idle.autocommit
    assert not idle.closed


@pytest.mark.parametrize("commits", [True, False])
def test_inside_a_transaction_block(
    idle: Connection, recorded_actions: RecordedActions, eye: Connection, commits: bool
) -> None:
    """psycopg's transaction() around it is the caller's."""
    with suppress(ZeroDivisionError), idle.transaction():
        idle.execute(INSERT, (1,))
        with track_action("add", concept="work", connection=idle):
            idle.execute(INSERT, (2,))
        assert "" == recorded_actions.outline()
        if not commits:
            raise ZeroDivisionError
    expected = ("add completed", [1, 2]) if commits else ("", [])
    assert expected == (recorded_actions.outline(), present(eye))


def test_inside_a_transaction_begun_by_text(
    idle: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """So is one that the caller opened with SQL."""
    idle.execute("BEGIN")
    with track_action("add", concept="work", connection=idle):
        idle.execute(INSERT, (1,))
    assert (TransactionStatus.INTRANS, "") == (status(idle), recorded_actions.outline())
    idle.execute("COMMIT")
    assert ("add completed", [1]) == (recorded_actions.outline(), present(eye))


def test_a_transaction_block_inside(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """The body may use transaction() for savepoints of its own."""
    with track_action("add", concept="work", connection=caller):
        with caller.transaction():
            caller.execute(INSERT, (1,))
        with suppress(ZeroDivisionError), caller.transaction():
            caller.execute(INSERT, (2,))
            raise ZeroDivisionError
    caller.commit()
    assert ("add completed", [1]) == (recorded_actions.outline(), present(eye))


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_ending_it_inside_is_refused(
    provenance_dsn: str, trail: Trail, recorded_actions: RecordedActions, method: str, autocommit: bool
) -> None:
    """commit(), rollback() and close() say why not; outside the block they work again."""
    with psycopg.connect(provenance_dsn, autocommit=autocommit) as connection:
        with track_action("add", concept="work", connection=connection):
            with pytest.raises(MisusedAction, match=rf"{method}\(\) is refused inside track_action\('add'\)"):
                getattr(connection, method)()
            connection.execute(INSERT, (1,))
        connection.commit()
    assert "add completed" == recorded_actions.outline()


def test_a_context_block_of_the_connection_inside_is_refused(
    caller: Connection, recorded_actions: RecordedActions
) -> None:
    """``with connection:`` commits and closes at its end, which a block cannot have."""
    with pytest.raises(MisusedAction), track_action("add", concept="work", connection=caller), caller:
        caller.execute(INSERT, (1,))
    assert not caller.closed
    assert "add failed" == recorded_actions.outline()


@pytest.mark.parametrize("text", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"])
def test_ending_it_by_text_is_found_out(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection, text: str
) -> None:
    """Nobody can know what became of the work, and the row says exactly that."""
    with (
        pytest.raises(NotCommitted, match="ended its own transaction"),
        track_action("add", concept="work", connection=caller),
    ):
        caller.execute(INSERT, (1,))
        caller.execute(text.encode())
    assert "add unknown" == recorded_actions.outline()
    assert ([1] if text.startswith("COMMIT") else []) == present(eye)
    caller.rollback()
    assert TransactionStatus.IDLE == status(caller)


# --- What else the caller has in the transaction ---------------------------------------------------------------------


def test_two_blocks_in_sequence(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """They share the transaction and are no relatives."""
    for number in (1, 2):
        with track_action("add", concept="work", connection=caller):
            caller.execute(INSERT, (number,))
    caller.commit()
    assert [("completed", None)] * 2 == [(row.status, row.parent_action_id) for row in recorded_actions.all()]
    assert [1, 2] == present(eye)


def test_second_of_two_blocks_fails(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """The first one is not touched."""
    with track_action("first", concept="work", connection=caller):
        caller.execute(INSERT, (1,))
        with track_action("inner", concept="work"):
            caller.execute(INSERT, (2,))
    with suppress(ZeroDivisionError), track_action("second", concept="work", connection=caller):
        caller.execute(INSERT, (3,))
        with track_action("inside", concept="work"):
            caller.execute(INSERT, (4,))
        raise ZeroDivisionError
    caller.commit()
    recorded_actions.expect("""
        first completed
          inner completed
        second failed
          inside rolled_back
    """)
    assert [1, 2] == present(eye)


def test_callers_savepoint_rolled_back_around_a_block(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """The row goes with the work."""
    caller.execute("SAVEPOINT before")
    with track_action("first", concept="work", connection=caller), track_action("inner", concept="work"):
        caller.execute(INSERT, (1,))
    caller.execute("ROLLBACK TO before")
    with track_action("second", concept="work", connection=caller):
        caller.execute(INSERT, (2,))
    caller.commit()
    assert ("second completed", [2]) == (recorded_actions.outline(), present(eye))


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_own_context_comes_back(caller: Connection, eye: Connection, fails: bool) -> None:
    """What set_context() said before the block holds after it."""
    own = uuid4()
    caller.execute("SELECT provenance.set_context(%s)", (own,))
    with suppress(ZeroDivisionError), track_action("add", concept="work", connection=caller) as action:
        assert action.id == stamp(caller)
        if fails:
            raise ZeroDivisionError
    assert own == stamp(caller)
    caller.execute(INSERT, (1,))
    caller.commit()
    assert [(1, own)] == eye.execute("SELECT id, action_id FROM work").fetchall()


@pytest.mark.parametrize("fails", [False, True])
def test_no_context_before_means_none_after(caller: Connection, fails: bool) -> None:
    """Work after the block is not put down to it."""
    caller.execute("SELECT 1")
    with suppress(ZeroDivisionError), track_action("add", concept="work", connection=caller):
        if fails:
            raise ZeroDivisionError
    assert stamp(caller) is None


def test_inner_failures_are_durable_at_once(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """The caller may roll back for reasons of its own; that an inner block failed stays true."""
    with track_action("outer", concept="work", connection=caller):
        with suppress(ZeroDivisionError), track_action("inner", concept="work"):
            caller.execute(INSERT, (1,))
            with track_action("innermost", concept="work"):
                caller.execute(INSERT, (2,))
            raise ZeroDivisionError
        assert [("inner", "failed"), ("innermost", "rolled_back")] == [
            (row.action_type, row.status) for row in recorded_actions.all()
        ]
    caller.rollback()
    recorded_actions.expect("""
        inner failed
          innermost rolled_back
    """)
    assert [] == present(eye)


def test_swallowed_error_in_the_block(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """The block refuses, and the caller's transaction goes on without it."""
    caller.execute(INSERT, (1,))
    with (
        pytest.raises(NotCommitted, match="swallowed"),
        track_action("add", concept="work", connection=caller),
        suppress(psycopg.Error),
    ):
        caller.execute("SELECT 1 / 0")
    caller.execute(INSERT, (2,))
    caller.commit()
    assert ("add failed", [1, 2]) == (recorded_actions.outline(), present(eye))


def test_failing_without_raising(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """fail() undoes the block and nothing around it."""
    caller.execute(INSERT, (1,))
    with track_action("add", concept="work", connection=caller) as action:
        caller.execute(INSERT, (2,))
        action.fail("sold out")
    caller.commit()
    row = recorded_actions.one()
    assert ("failed", "sold out", [1]) == (row.status, row.error_message, present(eye))


def test_deferred_constraint_of_the_caller(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """A COMMIT of the caller's that fails takes the row with the work."""
    with track_action("add", concept="work", connection=caller):
        caller.execute("INSERT INTO work (id, secret) VALUES (1, 'same'), (2, 'same')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        caller.commit()
    assert ("", []) == (recorded_actions.outline(), present(eye))


# --- Which connection ------------------------------------------------------------------------------------------------


def test_connection_of_the_enclosing_block_nests(
    trail: Trail, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """A service that passes its connection on is inside the block it passed it from."""

    def service(connection: Connection) -> None:
        with track_action("inner", concept="work", connection=connection) as action:
            assert action.connection is connection
            connection.execute(INSERT, (2,))

    with track_action("outer", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        service(action.connection)
    recorded_actions.expect("""
        outer completed
          inner completed
    """)
    assert [1, 2] == present(eye)


def test_another_connection_inside_a_block_is_apart(
    caller: Connection, trail: Trail, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """It is a child all the same, and what becomes of its transaction is the caller's business."""
    with suppress(ZeroDivisionError), track_action("outer", concept="work") as action:
        action.connection.execute(INSERT, (1,))
        with track_action("apart", concept="work", connection=caller) as apart:
            assert apart.connection is not action.connection
            caller.execute(INSERT, (2,))
        caller.commit()
        raise ZeroDivisionError
    recorded_actions.expect("""
        outer failed
          apart completed
    """)
    assert [2] == present(eye)


def test_connection_in_use_by_another_thread_is_refused(caller: Connection, recorded_actions: RecordedActions) -> None:
    """Two threads would mix up their savepoints."""
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with track_action("other", concept="work", connection=caller):
                pass
        except MisusedAction as error:
            refused.append(error)

    with track_action("one", concept="work", connection=caller):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        caller.execute(INSERT, (1,))
    caller.commit()
    assert [
        "this connection is inside an action that another task or thread has open; give each its own connection"
    ] == [str(error) for error in refused]
    assert "one completed" == recorded_actions.outline()


def test_connection_in_use_by_another_task_is_refused(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """So would two tasks, even when the second was started inside the block."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail, await psycopg.AsyncConnection.connect(provenance_dsn) as shared:

            async def other() -> None:
                async with trail.track_action("other", concept="work", connection=shared):
                    pass

            async with trail.track_action("one", concept="work", connection=shared):
                with pytest.raises(MisusedAction, match="another task or thread"):
                    await asyncio.create_task(other())

    asyncio.run(main())
    assert "one completed" == recorded_actions.outline()


def test_connection_serves_another_task_afterwards(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """Once the block is over the connection is free."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail, await psycopg.AsyncConnection.connect(provenance_dsn) as shared:

            async def one() -> None:
                async with trail.track_action("one", concept="work", connection=shared):
                    pass

            await asyncio.create_task(one())
            await asyncio.create_task(one())

    asyncio.run(main())
    assert "one completed\none completed" == recorded_actions.outline()


def test_aborted_transaction_is_refused(caller: Connection, recorded_actions: RecordedActions) -> None:
    """Nothing could be recorded in it."""
    with suppress(psycopg.Error):
        caller.execute("SELECT 1 / 0")
    with (
        pytest.raises(MisusedAction, match="aborted by an earlier error; roll it back first"),
        track_action("add", concept="work", connection=caller),
    ):
        pytest.fail("entered")
    assert TransactionStatus.INERROR == status(caller)
    caller.rollback()
    with track_action("add", concept="work", connection=caller):
        pass
    caller.commit()
    assert "add completed" == recorded_actions.outline()


@pytest.mark.parametrize("broken", [psycopg.Connection.close, lambda connection: None], ids=["closed", "terminated"])
def test_broken_connection_is_refused(
    caller: Connection, eye: Connection, recorded_actions: RecordedActions, broken: Callable[[Connection], None]
) -> None:
    """The error says that nothing has been done."""
    eye.execute("SELECT pg_terminate_backend(%s, 5000)", (databases.backend(caller),))
    broken(caller)
    with (
        pytest.raises(ConnectionError, match="nothing has been done yet"),
        track_action("add", concept="work", connection=caller),
    ):
        pytest.fail("entered")
    assert "" == recorded_actions.outline()


@pytest.mark.parametrize("connection", ["postgresql:///app", object()])
def test_something_else_than_a_connection_is_refused(trail: Trail, connection: Any) -> None:
    """At the call, naming what was given."""
    with pytest.raises(InvalidAction, match=f"got {type(connection).__name__}"):
        track_action("add", concept="work", connection=connection)


# --- How the connection is set up ------------------------------------------------------------------------------------


LEVELS = [
    None,
    IsolationLevel.READ_UNCOMMITTED,
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
]


@pytest.mark.parametrize("autocommit", [True, False])
def test_isolation_level(
    provenance_dsn: str, trail: Trail, recorded_actions: RecordedActions, autocommit: bool
) -> None:
    """The connection's level is the transaction's, and failures are recorded at every level."""
    ids = iter(range(100))
    with psycopg.connect(provenance_dsn, autocommit=autocommit) as connection:
        for level in LEVELS:
            connection.isolation_level = level
            with track_action("outer", concept="work", connection=connection):
                found = connection.execute("SHOW transaction_isolation").fetchone()
                connection.execute(INSERT, (next(ids),))
                with suppress(ZeroDivisionError), track_action("inner", concept="work"):
                    raise ZeroDivisionError
            connection.commit()
            with suppress(ZeroDivisionError), track_action("failing", concept="work", connection=connection):
                connection.execute(INSERT, (next(ids),))
                raise ZeroDivisionError
            connection.commit()
            name = (level or IsolationLevel.READ_COMMITTED).name.replace("_", " ").lower()
            assert ((name,), level) == (found, connection.isolation_level)
    recorded_actions.expect("outer completed\n  inner failed\nfailing failed\n" * len(LEVELS))


def pivot(connection: Connection, provenance_dsn: str) -> None:
    """Make the connection's SERIALIZABLE transaction fail: commit another that it cannot be put in order with."""
    connection.execute("SELECT count(*) FROM work").fetchone()
    with psycopg.connect(provenance_dsn) as other:
        other.isolation_level = IsolationLevel.SERIALIZABLE
        other.execute("SELECT count(*) FROM work").fetchone()
        connection.execute(INSERT, (1,))
        other.execute(INSERT, (2,))
        other.commit()


def test_serialization_failure_goes_out_as_it_is(
    caller: Connection, provenance_dsn: str, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """The caller's retry loop has to see it."""
    caller.isolation_level = IsolationLevel.SERIALIZABLE
    with (
        pytest.raises(psycopg.errors.SerializationFailure),
        track_action("add", concept="work", connection=caller),
    ):
        pivot(caller, provenance_dsn)
    caller.rollback()
    row = recorded_actions.one()
    assert ("failed", "40001", [2]) == (row.status, row.error_code, present(eye))


@pytest.mark.parametrize("autocommit", [True, False])
def test_read_only_transaction(
    provenance_dsn: str, trail: Trail, recorded_actions: RecordedActions, autocommit: bool
) -> None:
    """A row cannot be written there: the block refuses, says why, and its failed row is written elsewhere."""
    with psycopg.connect(provenance_dsn, autocommit=autocommit) as connection:
        connection.read_only = True
        with (
            pytest.raises(NotCommitted, match="cannot execute INSERT in a read-only transaction") as caught,
            track_action("look", concept="work", connection=connection),
        ):
            connection.execute("SELECT * FROM work")
        assert isinstance(caught.value.__cause__, psycopg.errors.ReadOnlySqlTransaction)
        connection.commit()
    assert "look failed" == recorded_actions.outline()


@pytest.mark.parametrize("autocommit", [True, False])
def test_row_factory(provenance_dsn: str, trail: Trail, recorded_actions: RecordedActions, autocommit: bool) -> None:
    """What the caller's rows look like is the caller's business."""
    factories: list[Any] = [dict_row, namedtuple_row, scalar_row]
    for row_factory in factories:
        with psycopg.connect(provenance_dsn, autocommit=autocommit, row_factory=row_factory) as connection:
            connection.execute("SELECT provenance.set_context(%s)", (uuid4(),))
            with (
                track_action("outer", concept="work", connection=connection),
                track_action("inner", concept="work") as inner,
            ):
                inner.connection.execute("SELECT 1")
            with suppress(ZeroDivisionError), track_action("failing", concept="work", connection=connection):
                raise ZeroDivisionError
            connection.commit()
            assert row_factory is connection.row_factory
    recorded_actions.expect("outer completed\n  inner completed\nfailing failed\n" * len(factories))


class Shouting(psycopg.Cursor[Any]):
    """A cursor of the application's own, with another signature."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Shouting:
        assert isinstance(query, str), "the application's cursor sees the application's statements only"
        return super().execute(query, params, **kwargs)


@pytest.mark.parametrize(
    "cursor_factory",
    [ClientCursor, RawCursor, Shouting],
)
@pytest.mark.parametrize("autocommit", [True, False])
def test_cursor_factory(
    provenance_dsn: str, trail: Trail, recorded_actions: RecordedActions, cursor_factory: Any, autocommit: bool
) -> None:
    """So is what its cursors are."""
    with psycopg.connect(provenance_dsn, autocommit=autocommit, cursor_factory=cursor_factory) as connection:
        with track_action("outer", concept="work", connection=connection), track_action("inner", concept="work"):
            connection.execute("SELECT 1")
        connection.commit()
        with suppress(ZeroDivisionError), track_action("failing", concept="work", connection=connection):
            raise ZeroDivisionError
        connection.commit()
    recorded_actions.expect("""
        outer completed
          inner completed
        failing failed
    """)


def test_server_side_cursor_in_the_body(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """A named cursor lives in the block's transaction."""
    with track_action("add", concept="work", connection=caller), ServerCursor(caller, "numbers") as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for (number,) in cursor.fetchall():
            caller.execute(INSERT, (number,))
    caller.commit()
    assert ("add completed", [1, 2, 3]) == (recorded_actions.outline(), present(eye))


def test_many_blocks_that_fail_on_one_connection(caller: Connection, recorded_actions: RecordedActions) -> None:
    """psycopg begins to prepare statements after some runs; errors in between do not confuse it."""
    for number in range(24):
        with suppress(psycopg.Error), track_action("add", concept="work", connection=caller):
            caller.execute(INSERT, (number // 2,))
    caller.commit()
    assert (["completed", "failed"] * 12) == [row.status for row in recorded_actions.all()]


# --- Inside a pipeline -----------------------------------------------------------------------------------------------


@contextmanager
def pipelined(connection: Connection, pending: bool) -> Iterator[None]:
    with connection.pipeline():
        if pending:
            connection.execute("SELECT 1")
        yield


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_block_inside_a_pipeline(
    provenance_dsn: str,
    trail: Trail,
    recorded_actions: RecordedActions,
    eye: Connection,
    *,
    autocommit: bool,
    pending: bool,
) -> None:
    """With or without statements on their way, it works, or refuses at the entry with an error of ours."""
    with psycopg.connect(provenance_dsn, autocommit=autocommit) as connection:
        try:
            with pipelined(connection, pending), track_action("add", concept="work", connection=connection):
                connection.execute(INSERT, (1,))
        except MisusedAction:
            expected = ("", [])
        else:
            expected = ("add completed", [1])
        connection.commit()
    assert expected == (recorded_actions.outline(), present(eye))


def test_pipeline_around_an_inner_block(trail: Trail, recorded_actions: RecordedActions, eye: Connection) -> None:
    """The body of a block may open a pipeline and an inner block in it; it works, or refuses to enter the inner one."""
    with track_action("outer", concept="work") as outer, outer.connection.pipeline():
        outer.connection.execute(INSERT, (1,))
        expected = ("outer completed", [1])
        with suppress(MisusedAction), track_action("inner", concept="work") as inner:
            inner.connection.execute(INSERT, (2,))
            expected = ("outer completed\n  inner completed", [1, 2])
        # The body goes on in its pipeline whichever it is.
        outer.connection.execute(INSERT, (3,))
    assert (expected[0], [*expected[1], 3]) == (recorded_actions.outline(), present(eye))


def test_pipeline_inside_a_block(caller: Connection, recorded_actions: RecordedActions, eye: Connection) -> None:
    """A pipeline that ends before the block does is the body's own business."""
    with track_action("add", concept="work", connection=caller), caller.pipeline():
        for number in (1, 2, 3):
            caller.execute(INSERT, (number,))
    caller.commit()
    assert ("add completed", [1, 2, 3]) == (recorded_actions.outline(), present(eye))


def test_error_in_a_pipeline_inside_a_block(
    caller: Connection, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """An error that the pipeline reports at its end undoes the block."""
    caller.execute(INSERT, (1,))
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        track_action("add", concept="work", connection=caller),
        caller.pipeline(),
    ):
        caller.execute(INSERT, (2,))
        caller.execute(INSERT, (1,))
    caller.commit()
    assert ("add failed", [1]) == (recorded_actions.outline(), present(eye))
