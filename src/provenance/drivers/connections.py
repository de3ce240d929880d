"""What is known of psycopg connections, and what they are kept from."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus

from provenance.errors import MisusedAction

SyncConnection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
AnyConnection = SyncConnection | AsyncConnection


def transaction_status(connection: AnyConnection) -> int:
    """Return the state of the connection's transaction, a ``TransactionStatus``, as the client knows it; no round trip."""
    return connection.pgconn.transaction_status


def in_pipeline(connection: AnyConnection) -> bool:
    """Return whether the connection is in pipeline mode, where the client does not know the transaction's state."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def prepares(connection: AnyConnection) -> bool:
    """Return whether statements that come again on the connection are prepared."""
    return connection.prepare_threshold is not None


def answers_bytes(connection: AnyConnection) -> bool:
    """Return whether text comes from the connection as bytes, because it has no encoding."""
    # A pooler repeats the name as the client has spelled it.
    spelled = connection.pgconn.parameter_status(b"client_encoding") or b""
    return spelled.upper().translate(None, b"-_ ") == b"SQLASCII"


def _refuse(method: str, holder: object, /, *_: object, **__: object) -> None:
    raise MisusedAction(
        f"{method}() is refused inside {holder}: the block ends the transaction itself; return from it to commit, "
        "raise or call action.fail() to roll back"
    )


_HOLDER = "provenance_holder"
_HELD = ("commit", "rollback", "close")


def hold(connection: AnyConnection, holder: object) -> None:
    """Refuse ``commit()``, ``rollback()`` and ``close()`` on the connection until :func:`release`.

    The methods are shadowed on the instance, so that the body keeps the very connection it may have been given, with its
    type, cursors and adapters.
    """
    own = vars(connection)
    own[_HOLDER] = holder
    for method in _HELD:
        own[method] = partial(_refuse, method, holder)


def holder(connection: AnyConnection) -> Any:
    """Return what holds the connection, or ``None``."""
    return vars(connection).get(_HOLDER)


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
    own = vars(connection)
    # Its holder last: if this is interrupted, it can be seen that it is not done.
    for name in (*_HELD, "wait", _HOLDER):
        own.pop(name, None)
