"""Runs statements, in both colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from provenance.drivers.connections import (
    AnyConnection,
    AsyncConnection,
    SyncConnection,
    in_pipeline,
    transaction_status,
)
from provenance.drivers.messages import MANNER
from provenance.statements import Row, Statement, apart, as_they_are, decoded, text

T = TypeVar("T")

# With later ones the public interface is used, until somebody has looked at them.
FAMILIAR = (3, 2) <= tuple(map(int, psycopg.__version__.split(".")[:2])) <= (3, 3)
if FAMILIAR:  # pragma: no branch - no later one has been tried
    from provenance.drivers import trips


def _joined(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> bytes | None:
    """Return the statements as one message of the simple protocol, or ``None`` where they cannot be one."""
    # psycopg sends the BEGIN that it owes on its own.
    begun = connection.autocommit or transaction_status(connection) != TransactionStatus.IDLE
    if (
        MANNER.apart
        or not begun
        or in_pipeline(connection)
        or any(statement.params is not None for statement in statements)
    ):
        return None
    return b"; ".join(text(statement, connection) for statement in statements)


def _prepare(statement: Statement[Any]) -> bool | None:
    """Leave preparing to psycopg for statements with parameters; transaction control gains nothing from it."""
    return False if statement.params is None else statement.prepare


def _params(statement: Statement[Any]) -> Any:
    return statement.params if statement.numbered is None else statement.numbered


# Not connection.cursor(): what class of cursor the application uses, and what rows it likes, is its own business.
def _cursor(connection: SyncConnection, statement: Statement[Any] | None = None) -> psycopg.Cursor[Row]:
    numbered = statement is not None and statement.numbered is not None
    return (psycopg.RawCursor if numbered else psycopg.Cursor)(connection, row_factory=tuple_row)


def _acursor(connection: AsyncConnection, statement: Statement[Any] | None = None) -> psycopg.AsyncCursor[Row]:
    numbered = statement is not None and statement.numbered is not None
    return (psycopg.AsyncRawCursor if numbered else psycopg.AsyncCursor)(connection, row_factory=tuple_row)


def _answered(cursor: psycopg.Cursor[Row] | psycopg.AsyncCursor[Row]) -> bool:
    # cursor.description says so too, and makes an object for each column.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _rows(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if _answered(cursor) else []


async def _arows(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    return await cursor.fetchall() if _answered(cursor) else []


def run(connection: SyncConnection, statement: Statement[T]) -> T:
    """Run one statement and return its decoded answer."""
    with _cursor(connection, statement) as cursor:
        cursor.execute(statement.query, _params(statement), prepare=_prepare(statement))
        return statement.decode(_rows(cursor))


async def arun(connection: AsyncConnection, statement: Statement[T]) -> T:
    """Run one statement and return its decoded answer."""
    async with _acursor(connection, statement) as cursor:
        await cursor.execute(statement.query, _params(statement), prepare=_prepare(statement))
        return statement.decode(await _arows(cursor))


def switch_autocommit(connection: SyncConnection, *, on: bool) -> None:
    """Switch autocommit of a connection that nobody else has.

    Raises:
        psycopg.ProgrammingError: a transaction is open.
    """
    if FAMILIAR:
        trips.switch_autocommit(connection, on)  # pyright: ignore[reportPossiblyUnboundVariable]
    else:
        connection.autocommit = on


async def aswitch_autocommit(connection: AsyncConnection, *, on: bool) -> None:
    """Switch autocommit of a connection that nobody else has.

    Raises:
        psycopg.ProgrammingError: a transaction is open.
    """
    if FAMILIAR:
        trips.switch_autocommit(connection, on)  # pyright: ignore[reportPossiblyUnboundVariable]
    else:
        await connection.set_autocommit(on)


def run_together(connection: SyncConnection, statements: Sequence[Statement[Any]]) -> list[Any]:
    """Run statements in one round trip, the later ones only if the earlier ones succeed; return the decoded answers."""
    if FAMILIAR and not in_pipeline(connection):
        with connection.lock:
            return connection.wait(trips.trip(connection, statements))  # pyright: ignore[reportPossiblyUnboundVariable]
    return decoded(statements, _by_cursors(connection, statements), as_they_are)


async def arun_together(connection: AsyncConnection, statements: Sequence[Statement[Any]]) -> list[Any]:
    """Run statements in one round trip, the later ones only if the earlier ones succeed; return the decoded answers."""
    if FAMILIAR and not in_pipeline(connection):
        async with connection.lock:
            return await connection.wait(trips.trip(connection, statements))  # pyright: ignore[reportPossiblyUnboundVariable]
    return decoded(statements, await _aby_cursors(connection, statements), as_they_are)


def _by_cursors(connection: SyncConnection, statements: Sequence[Statement[Any]]) -> list[list[Row]]:
    single = apart(statements)
    if (message := _joined(connection, statements)) is not None:
        with _cursor(connection) as cursor:
            cursor.execute(message, prepare=False)
            answers: list[list[Row]] = []
            for _ in single:
                answers.append(_rows(cursor))
                cursor.nextset()
            return answers
    with connection.pipeline():
        cursors = [
            _cursor(connection, statement).execute(statement.query, _params(statement), prepare=_prepare(statement))
            for statement in single
        ]
    return [_rows(cursor) for cursor in cursors]


async def _aby_cursors(connection: AsyncConnection, statements: Sequence[Statement[Any]]) -> list[list[Row]]:
    single = apart(statements)
    if (message := _joined(connection, statements)) is not None:
        async with _acursor(connection) as cursor:
            await cursor.execute(message, prepare=False)
            answers: list[list[Row]] = []
            for _ in single:
                answers.append(await _arows(cursor))
                cursor.nextset()
            return answers
    async with connection.pipeline():
        cursors = [
            await _acursor(connection, statement).execute(
                statement.query, _params(statement), prepare=_prepare(statement)
            )
            for statement in single
        ]
    return [await _arows(cursor) for cursor in cursors]
