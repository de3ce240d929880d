"""Whether a pooler stands between a connection and the server, and what follows from it."""

from __future__ import annotations

import psycopg
from psycopg.rows import tuple_row

from provenance.drivers.connections import AnyConnection, AsyncConnection, SyncConnection
from provenance.statements import Row

_BACKEND = "SELECT pg_backend_pid()"


def _behind_pooler(connection: AnyConnection, backend: Row | None) -> bool:
    """Return whether another process than the one that greeted the client has done its query."""
    return backend is not None and connection.info.backend_pid != backend[0]


def suit_pooler(connection: SyncConnection) -> None:
    """Prepare nothing on a new connection behind a pooler: what one client prepared, another one would stumble over.

    A pooler answers for many processes, and so greets its clients with a number of its own.
    """
    connection.autocommit = True
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        pooled = _behind_pooler(connection, cursor.execute(_BACKEND, prepare=False).fetchone())
    connection.autocommit = False
    if pooled:
        connection.prepare_threshold = None


async def asuit_pooler(connection: AsyncConnection) -> None:
    """Prepare nothing on a new connection behind a pooler; see :func:`suit_pooler`."""
    await connection.set_autocommit(True)
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(_BACKEND, prepare=False)
        pooled = _behind_pooler(connection, await cursor.fetchone())
    await connection.set_autocommit(False)
    if pooled:
        connection.prepare_threshold = None
