"""The journal: a tiny connection pool of the trail's own, for rows that must outlive the work they tell of.

It is never the application's pool: a second connection per failure out of a pool that is exhausted by the very requests that
are failing would wait for itself. Every write is one small transaction with its own deadline, and leaves no session
state behind, so that it may run through a transaction pooler.

When the journal cannot be reached, the row is logged at ERROR level, complete (secrets are hidden already), so that a
person can still put it back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import drivers
from provenance.errors import TrailUnavailable
from provenance.statements import Statement, recording
from provenance.statements.recording import ActionRow
from provenance.translation import unavailable

logger = logging.getLogger("provenance")

T = TypeVar("T")

DEADLINE = timedelta(seconds=5)
"""How long a journal write may wait, first for a connection and then for the server."""

_SIZE = 2


def _lost(rows: Sequence[ActionRow], error: Exception) -> None:
    logger.error(
        "provenance: %d action(s) could not be recorded (%s); rows: %s",
        len(rows),
        type(error).__name__,
        f"[{','.join(map(recording.row_json, rows))}]",
    )


def _kept(action_id: UUID, error: Exception) -> None:
    logger.info("provenance: the intent of %s could not be dropped (%s)", action_id, type(error).__name__)


# Spelled out, because settle() relies on each statement seeing what was committed before it.
_BEGIN = recording.begin(psycopg.IsolationLevel.READ_COMMITTED, read_only=False, deferrable=None)


def _transaction(*work: Statement[Any]) -> tuple[Statement[Any], ...]:
    return (_BEGIN, *recording.journal_settings(DEADLINE), *work, recording.COMMIT)


class Journal:
    """The blocking colour.

    Args:
        conninfo: where to connect, as :class:`psycopg_pool.ConnectionPool` takes it.
        kwargs: further connection arguments, likewise.
    """

    def __init__(self, conninfo: Any, *, kwargs: Any = None) -> None:
        self._pool: ConnectionPool[drivers.SyncConnection] = ConnectionPool(
            conninfo,
            kwargs=kwargs,
            min_size=0,
            max_size=_SIZE,
            num_workers=1,
            timeout=DEADLINE.total_seconds(),
            configure=self._configure,
            # A connection here may have been idle for days.
            check=ConnectionPool.check_connection,
            name="provenance-journal",
            open=False,
        )

    @staticmethod
    def _configure(connection: drivers.SyncConnection) -> None:
        connection.autocommit = True
        if connection.info.encoding != "utf-8":
            # The rows may hold what the application's encoding cannot. Transaction poolers keep track of this setting.
            connection.execute("SET client_encoding = 'UTF8'")
        # Nothing here runs often enough to gain from it, and behind an old transaction pooler it fails.
        connection.prepare_threshold = None

    def run(self, *work: Statement[Any]) -> list[Any]:
        """Run statements in one durable transaction of their own and return their answers.

        Raises:
            TrailUnavailable: no connection can be had.
            psycopg.Error: the server refused a statement.
        """
        try:
            self._pool.open()
            connection = self._pool.getconn()
        except psycopg.OperationalError as error:
            raise unavailable(error, "the journal") from error
        try:
            answers = drivers.run_together(connection, _transaction(*work))
        finally:
            self._pool.putconn(connection)
        return answers[-1 - len(work) : -1]

    def write(self, rows: Sequence[ActionRow]) -> None:
        """Write rows that are not there yet. Never raises: what cannot be written is logged."""
        self._attempt(rows, recording.insert_missing(rows))

    def write_doubt(self, rows: Sequence[ActionRow]) -> None:
        """Write evidence of actions whose outcome nobody can know. Never raises."""
        self._attempt(rows, recording.insert_doubt(rows))

    def settle(self, rows: Iterable[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        """Write rows unless the transaction in doubt wrote them first, and return what is recorded of *action_id*.

        The INSERT comes first because it waits for a transaction that is still committing; a SELECT would not see it.
        Several processes may work on a resumed action, so its row counts only if it is that of *xid*.
        """
        _, status, committed = self.run(
            recording.insert_missing(rows), recording.outcome(action_id), recording.committed(xid)
        )
        return status if committed else None

    def forget(self, action_id: UUID) -> None:
        """Drop the evidence that an action was begun. Never raises: with its outcome recorded, nobody sees it."""
        try:
            self.run(recording.forget_intent(action_id))
        except (psycopg.Error, TrailUnavailable) as error:
            _kept(action_id, error)

    def _attempt(self, rows: Sequence[ActionRow], statement: Statement[None]) -> None:
        try:
            self.run(statement)
        except (psycopg.Error, TrailUnavailable) as error:
            _lost(rows, error)

    def close(self) -> None:
        """Close the journal's connections."""
        self._pool.close()


class AsyncJournal:
    """The awaiting colour; see :class:`Journal`."""

    def __init__(self, conninfo: Any, *, kwargs: Any = None) -> None:
        self._pool: AsyncConnectionPool[drivers.AsyncConnection] = AsyncConnectionPool(
            conninfo,
            kwargs=kwargs,
            min_size=0,
            max_size=_SIZE,
            num_workers=1,
            timeout=DEADLINE.total_seconds(),
            configure=self._configure,
            check=AsyncConnectionPool.check_connection,
            name="provenance-journal",
            open=False,
        )

    @staticmethod
    async def _configure(connection: drivers.AsyncConnection) -> None:
        await connection.set_autocommit(True)
        if connection.info.encoding != "utf-8":
            await connection.execute("SET client_encoding = 'UTF8'")
        connection.prepare_threshold = None

    async def run(self, *work: Statement[Any]) -> list[Any]:
        """Run statements in one durable transaction of their own and return their answers; see :meth:`Journal.run`."""
        try:
            await self._pool.open()
            connection = await self._pool.getconn()
        except psycopg.OperationalError as error:
            raise unavailable(error, "the journal") from error
        try:
            answers = await drivers.arun_together(connection, _transaction(*work))
        finally:
            await self._pool.putconn(connection)
        return answers[-1 - len(work) : -1]

    async def write(self, rows: Sequence[ActionRow]) -> None:
        """Write rows that are not there yet. Never raises: what cannot be written is logged."""
        await self._attempt(rows, recording.insert_missing(rows))

    async def write_doubt(self, rows: Sequence[ActionRow]) -> None:
        """Write evidence of actions whose outcome nobody can know. Never raises."""
        await self._attempt(rows, recording.insert_doubt(rows))

    async def settle(self, rows: Iterable[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        """Write rows unless the transaction in doubt wrote them first; see :meth:`Journal.settle`."""
        _, status, committed = await self.run(
            recording.insert_missing(rows), recording.outcome(action_id), recording.committed(xid)
        )
        return status if committed else None

    async def forget(self, action_id: UUID) -> None:
        """Drop the evidence that an action was begun; see :meth:`Journal.forget`."""
        try:
            await self.run(recording.forget_intent(action_id))
        except (psycopg.Error, TrailUnavailable) as error:
            _kept(action_id, error)

    async def _attempt(self, rows: Sequence[ActionRow], statement: Statement[None]) -> None:
        try:
            await self.run(statement)
        except (psycopg.Error, TrailUnavailable) as error:
            _lost(rows, error)

    async def close(self) -> None:
        """Close the journal's connections."""
        await self._pool.close()
