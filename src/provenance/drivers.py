"""Runs statements on psycopg connections, in both colours: the only place that talks to the server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from provenance.errors import MisusedAction
from provenance.statements import Row, Statement

T = TypeVar("T")

SyncConnection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
AnyConnection = SyncConnection | AsyncConnection


def transaction_status(connection: AnyConnection) -> TransactionStatus:
    """Return the state of the connection's transaction as the client knows it; no round trip."""
    return TransactionStatus(connection.pgconn.transaction_status)


def in_pipeline(connection: AnyConnection) -> bool:
    """Return whether the connection is in pipeline mode, where the client does not know the transaction's state."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def answers_bytes(connection: AnyConnection) -> bool:
    """Return whether text comes from the connection as bytes, because it has no encoding."""
    # A pooler repeats the name as the client has spelled it.
    spelled = connection.pgconn.parameter_status(b"client_encoding") or b""
    return spelled.upper().translate(None, b"-_ ") == b"SQLASCII"


_BACKEND = "SELECT pg_backend_pid()"


def _behind_pooler(connection: AnyConnection, backend: Row | None) -> bool:
    """Return whether another process than the one that greeted the client has done its query."""
    return backend is not None and connection.info.backend_pid != backend[0]


def suit_pooler(connection: SyncConnection) -> None:
    """Prepare nothing on a new connection behind a pooler: what one client prepared, another one would stumble over.

    A pooler answers for many processes, and so greets its clients with a number of its own.
    """
    connection.autocommit = True
    with _cursor(connection) as cursor:
        pooled = _behind_pooler(connection, cursor.execute(_BACKEND, prepare=False).fetchone())
    connection.autocommit = False
    if pooled:
        connection.prepare_threshold = None


async def asuit_pooler(connection: AsyncConnection) -> None:
    """Prepare nothing on a new connection behind a pooler; see :func:`suit_pooler`."""
    await connection.set_autocommit(True)
    async with _acursor(connection) as cursor:
        await cursor.execute(_BACKEND, prepare=False)
        pooled = _behind_pooler(connection, await cursor.fetchone())
    await connection.set_autocommit(False)
    if pooled:
        connection.prepare_threshold = None


def _joined(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> sql.Composed | None:
    """Return the statements as one simple-protocol message, or ``None`` where they cannot be one.

    Parameters and pipeline mode need the extended protocol, and psycopg sends the BEGIN it owes on its own.
    """
    begun = connection.autocommit or transaction_status(connection) != TransactionStatus.IDLE
    if not begun or in_pipeline(connection) or any(statement.params is not None for statement in statements):
        return None
    parts = [
        statement.query if isinstance(statement.query, sql.Composed) else sql.SQL(statement.query)
        for statement in statements
    ]
    return sql.SQL("; ").join(parts)


def _prepare(statement: Statement[Any]) -> bool | None:
    """Leave preparing to psycopg for statements with parameters; transaction control gains nothing from it."""
    return False if statement.params is None else statement.prepare


# Not connection.cursor(): what class of cursor the application uses, and what rows it likes, is its own business.
def _cursor(connection: SyncConnection) -> psycopg.Cursor[Row]:
    return psycopg.Cursor(connection, row_factory=tuple_row)


def _acursor(connection: AsyncConnection) -> psycopg.AsyncCursor[Row]:
    return psycopg.AsyncCursor(connection, row_factory=tuple_row)


def _rows(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if cursor.description else []


async def _arows(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    return await cursor.fetchall() if cursor.description else []


def run(connection: SyncConnection, statement: Statement[T]) -> T:
    """Run one statement and return its decoded answer."""
    with _cursor(connection) as cursor:
        cursor.execute(statement.query, statement.params, prepare=_prepare(statement))
        return statement.decode(_rows(cursor))


async def arun(connection: AsyncConnection, statement: Statement[T]) -> T:
    """Run one statement and return its decoded answer."""
    async with _acursor(connection) as cursor:
        await cursor.execute(statement.query, statement.params, prepare=_prepare(statement))
        return statement.decode(await _arows(cursor))


def run_together(connection: SyncConnection, statements: Sequence[Statement[Any]]) -> list[Any]:
    """Run statements in one round trip, the later ones only if the earlier ones succeed; return the decoded answers."""
    if (message := _joined(connection, statements)) is not None:
        with _cursor(connection) as cursor:
            cursor.execute(message, prepare=False)
            answers: list[list[Row]] = []
            for _ in statements:
                answers.append(_rows(cursor))
                cursor.nextset()
    else:
        with connection.pipeline():
            cursors = [
                _cursor(connection).execute(statement.query, statement.params, prepare=_prepare(statement))
                for statement in statements
            ]
        answers = [_rows(cursor) for cursor in cursors]
    return [statement.decode(rows) for statement, rows in zip(statements, answers, strict=True)]


async def arun_together(connection: AsyncConnection, statements: Sequence[Statement[Any]]) -> list[Any]:
    """Run statements in one round trip, the later ones only if the earlier ones succeed; return the decoded answers."""
    if (message := _joined(connection, statements)) is not None:
        async with _acursor(connection) as cursor:
            await cursor.execute(message, prepare=False)
            answers: list[list[Row]] = []
            for _ in statements:
                answers.append(await _arows(cursor))
                cursor.nextset()
    else:
        async with connection.pipeline():
            cursors = [
                await _acursor(connection).execute(statement.query, statement.params, prepare=_prepare(statement))
                for statement in statements
            ]
        answers = [await _arows(cursor) for cursor in cursors]
    return [statement.decode(rows) for statement, rows in zip(statements, answers, strict=True)]


_HELD = ("commit", "rollback", "close")


def hold(connection: AnyConnection, owner: str) -> None:
    """Refuse ``commit()``, ``rollback()`` and ``close()`` on the connection until :func:`release`.

    The methods are shadowed on the instance, so that the body keeps the very connection it may have been given, with its
    type, cursors and adapters.
    """
    for method in _HELD:

        def refuse(*_: object, method: str = method, **__: object) -> None:
            raise MisusedAction(
                f"{method}() is refused inside {owner}: the block ends the transaction itself; return from it to commit, "
                "raise or call action.fail() to roll back"
            )

        setattr(connection, method, refuse)


def cut(connection: AnyConnection) -> None:
    """Close the connection at once, whatever it is doing; the server rolls its transaction back."""
    connection.pgconn.finish()


def hang_up(connection: AnyConnection) -> None:
    """Shut the connection's socket down, so that whoever is waiting on it gets an error at once.

    Not :func:`cut`: that takes the socket away under a waiting thread. To be called only while the connection is known to be
    in use; afterwards its socket may be another one's.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as its_socket:
        its_socket.shutdown(socket.SHUT_RDWR)


async def aquiesce(connection: AsyncConnection) -> None:
    """Wait up to a second for a query in progress, an abandoned stream() that the event loop is about to close."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1), connection.lock:
            pass


def release(connection: AnyConnection) -> None:
    """Give the connection its own methods back."""
    for method in _HELD:
        vars(connection).pop(method, None)
