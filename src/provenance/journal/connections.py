"""The journal's connections: a tiny pool of the trail's own, in both colours.

It is never the application's pool: a second connection per failure out of a pool that is exhausted by the very requests that
are failing would wait for itself. Every write is one small transaction with its own deadline, and leaves no session
state behind, so that it may run through a transaction pooler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypedDict
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import drivers
from provenance.context import CurrentAction
from provenance.errors import TrailUnavailable
from provenance.forking import leave_to_parent, renew_in_children
from provenance.journal.answered import Answered, a_recent_answer_will_do
from provenance.journal.heartbeat import Heartbeat
from provenance.journal.limits import alimited, limited
from provenance.journal.outage import Outage, writing
from provenance.journal.spool import Kind, Spool
from provenance.statements import Statement, command, intents, recording
from provenance.statements.intents import Evidence
from provenance.statements.keys import TAKEN, Claim
from provenance.statements.recording import ActionRow
from provenance.translation import translated, unavailable

logger = logging.getLogger("provenance")

DEADLINE = timedelta(seconds=5)
"""How long a journal write may wait, first for a connection and then for the server."""

_SIZE = 2

# Spelled out, because settle() relies on each statement seeing what was committed before it.
_BEGIN = command(recording.begin(psycopg.IsolationLevel.READ_COMMITTED, read_only=False, deferrable=None))


def _transaction(*work: Statement[Any]) -> tuple[Statement[Any], ...]:
    return (_BEGIN, *recording.journal_settings(DEADLINE), *work, recording.COMMIT)


class _PoolOptions(TypedDict):
    min_size: int
    max_size: int
    num_workers: int
    timeout: float
    reconnect_timeout: float
    name: str
    open: bool


def _pool_options() -> _PoolOptions:
    patience = DEADLINE.total_seconds()
    return {
        "min_size": 0,
        "max_size": _SIZE,
        "num_workers": 1,
        "timeout": patience,
        # Who waits has given up then, and the next one is to find the pool trying, not waiting to try again.
        "reconnect_timeout": patience,
        "name": "provenance-journal",
        "open": False,
    }


def _hang_up_after() -> float:
    # The server ends a statement itself when its time is up. One that does not answer even then is not waited for.
    return 1.2 * DEADLINE.total_seconds()


def _again(error: psycopg.OperationalError) -> bool:
    """Whether it was only this connection that broke, or this attempt that was in the way of another one."""
    return (error.sqlstate or "08").startswith(("08", "57P", "40"))


def _declaring(evidence: Evidence, claim: Statement[Claim] | None) -> tuple[Statement[Any], ...]:
    """Return what makes an action known before it is done, if it is to be done at all."""
    declaration = intents.insert([intents.evidence_json(evidence)])
    return (declaration,) if claim is None else (claim, declaration)


def _not_dropped(action_ids: Sequence[UUID], error: Exception) -> None:
    logger.info("provenance: evidence of %d action(s) could not be dropped (%s)", len(action_ids), type(error).__name__)


def _standby(error: psycopg.NotSupportedError) -> TrailUnavailable:
    return TrailUnavailable(
        f"the journal's server takes no writes ({error.diag.message_primary}); if it has become a standby, let the address "
        "of the journal name every server that may be the primary, with target_session_attrs=read-write"
    )


class Journal:
    """The blocking colour.

    Args:
        conninfo: where to connect, as :class:`psycopg_pool.ConnectionPool` takes it.
        kwargs: further connection arguments, likewise.
        spool: where rows are kept while the database cannot be reached.
    """

    def __init__(self, conninfo: Any, *, kwargs: Any = None, spool: Spool | None = None) -> None:
        self._where = (conninfo, kwargs)
        self.outage = Outage(spool, self._attempt)
        self._heartbeat = Heartbeat(self.run)
        self._answered = Answered()
        self._pool = self._make_pool()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Take another pool in a child process."""
        leave_to_parent(self._pool)
        self._pool = self._make_pool()

    def _make_pool(self) -> ConnectionPool[drivers.SyncConnection]:
        conninfo, kwargs = self._where
        # They are checked because they may have been idle for days.
        return ConnectionPool(conninfo, kwargs=kwargs, configure=self._configure, check=self._check, **_pool_options())

    @staticmethod
    def _configure(connection: drivers.SyncConnection) -> None:
        drivers.suit_pooler(connection)
        connection.autocommit = True
        if connection.info.encoding != "utf-8":
            # The rows may hold what the application's encoding cannot. Transaction poolers keep track of this setting.
            connection.execute("SET client_encoding = 'UTF8'")

    def _check(self, connection: drivers.SyncConnection) -> None:
        if self._answered.will_do(connection):
            return
        with limited(connection, _hang_up_after()):
            connection.execute("")

    def run(self, *work: Statement[Any]) -> list[Any]:
        """Run statements in one durable transaction of their own and return their answers.

        Raises:
            TrailUnavailable: no connection can be had, or the server does not answer.
            psycopg.Error: the server refused a statement.
        """
        return self._run_on(self._pool, *work)

    def _run_on(self, pool: ConnectionPool[drivers.SyncConnection], *work: Statement[Any]) -> list[Any]:
        try:
            pool.open()
            connection = pool.getconn()
        except psycopg.OperationalError as error:
            raise unavailable(error, "the journal") from error
        try:
            with limited(connection, _hang_up_after()):
                answers = drivers.run_together(connection, _transaction(*work))
            self._answered.note(connection)
        except psycopg.NotSupportedError as error:
            # That it cannot READ WRITE during recovery. Another connection may lead to the server that has taken over.
            connection.close()
            raise _standby(error) from error
        finally:
            pool.putconn(connection)
        return answers[-1 - len(work) : -1]

    def _attempt(self, *work: Statement[Any]) -> list[Any]:
        """Run statements, with another pool if nobody gives the connections of this one back.

        An exception out of a signal handler may strike where one has just been taken.
        """
        pool = self._pool
        try:
            return self._run_on(pool, *work)
        except TrailUnavailable:
            stats = pool.get_stats()
            if stats["pool_size"] < _SIZE or stats["pool_available"]:
                raise
        with self._make_pool() as another:
            answers = self._run_on(another, *work)
        self._pool = self._make_pool()
        pool.close(timeout=0)
        return answers

    def intend(
        self, evidence: Evidence, action: CurrentAction, claim: Statement[Claim] | None, *, may_wait: bool
    ) -> Claim | None:
        """Make durable that *action* is begun, and extend the lease of the evidence, if it has one, while that is open.

        Args:
            evidence: what is to be known of it.
            action: the action.
            claim: claims the key without which it is not to be done.
            may_wait: whether the spool will do, if there is one. For a key it will not.

        Returns:
            What came of the claim.

        Raises:
            TrailUnavailable: it cannot be made durable.
            SchemaNotReady: this role may not write it.
            psycopg.Error: the server refuses it.
        """
        claimed: Claim | None = None
        keep = partial(self.outage.keep_intent, evidence, may_wait=may_wait and claim is None)
        if self.outage.down:
            keep(None)
        else:
            try:
                with translated("recording that an action is begun"):
                    *answers, _ = self._run_twice(*_declaring(evidence, claim))
                    claimed = answers[0] if answers else None
            except (psycopg.OperationalError, TrailUnavailable) as error:
                if claim is not None and isinstance(error, TAKEN):
                    raise
                keep(error)
        if evidence.leased and (claimed is None or claimed.claimed):
            self._heartbeat.begin(action)
        return claimed

    def write(self, rows: Sequence[ActionRow]) -> None:
        """Write rows that are not there yet. Never raises: what cannot be written is kept, or logged."""
        self._write(Kind.OUTCOME, rows)

    def write_doubt(self, rows: Sequence[ActionRow]) -> None:
        """Write evidence of actions whose outcome nobody can know. Never raises."""
        self._write(Kind.DOUBT, rows)

    def settle(self, rows: Sequence[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        """Write rows unless the transaction in doubt wrote them first, and return what is recorded of *action_id*.

        The INSERT comes first because it waits for a transaction that is still committing; a SELECT would not see it.
        Several processes may work on a resumed action, so its row counts only if it is that of *xid*.

        Raises:
            TrailUnavailable, psycopg.Error: the answer is not known; the rows are kept in the spool, if there is one, and
                written if they are still missing when the database can be reached.
        """
        try:
            _, status, committed, *_ = self._run_twice(
                recording.insert_missing(rows),
                recording.outcome(action_id),
                recording.committed(xid),
                *intents.forget_all(intents.intended(rows)),
            )
        except (psycopg.Error, TrailUnavailable) as error:
            self.outage.keep_doubtful(rows, error)
            raise
        return status if committed else None

    def forget(self, action_ids: Sequence[UUID]) -> None:
        """Drop the evidence that actions were begun. Never raises: with their outcome recorded, nobody sees it."""
        try:
            self.run(intents.forget(action_ids))
        except (psycopg.Error, TrailUnavailable) as error:
            _not_dropped(action_ids, error)

    def _write(self, kind: Kind, rows: Sequence[ActionRow]) -> None:
        failure: Exception | None = None
        if not self.outage.down:
            try:
                self._run_twice(*writing(kind, rows))
            except (psycopg.Error, TrailUnavailable) as error:
                failure = error
            else:
                return
        self.outage.keep(kind, rows, failure)

    def _run_twice(self, *work: Statement[Any]) -> list[Any]:
        """Run what may be done twice, on another connection if the first one breaks."""
        try:
            with a_recent_answer_will_do():
                return self.run(*work)
        except psycopg.OperationalError as error:
            if not _again(error):
                raise
            return self.run(*work)

    def close(self) -> None:
        """Close the journal's connections."""
        self._heartbeat.stop()
        self.outage.stop()
        self._pool.close()


class AsyncJournal:
    """The awaiting colour; see :class:`Journal`."""

    def __init__(self, conninfo: Any, *, kwargs: Any = None, spool: Spool | None = None) -> None:
        self._where = (conninfo, kwargs)
        self.outage = Outage(spool, self._run_apart)
        self._heartbeat = Heartbeat(self._run_apart)
        self._answered = Answered()
        self._pool = self._make_pool()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Take another pool in a child process."""
        leave_to_parent(self._pool)
        self._pool = self._make_pool()

    def _make_pool(self) -> AsyncConnectionPool[drivers.AsyncConnection]:
        conninfo, kwargs = self._where
        return AsyncConnectionPool(
            conninfo, kwargs=kwargs, configure=self._configure, check=self._check, **_pool_options()
        )

    @staticmethod
    async def _configure(connection: drivers.AsyncConnection) -> None:
        await drivers.asuit_pooler(connection)
        await connection.set_autocommit(True)
        if connection.info.encoding != "utf-8":
            await connection.execute("SET client_encoding = 'UTF8'")

    async def _check(self, connection: drivers.AsyncConnection) -> None:
        if self._answered.will_do(connection):
            return
        async with alimited(connection, _hang_up_after()):
            await connection.execute("")

    async def run(self, *work: Statement[Any]) -> list[Any]:
        """Run statements in one durable transaction of their own and return their answers; see :meth:`Journal.run`."""
        return await self._run_on(self._pool, *work)

    async def _run_on(self, pool: AsyncConnectionPool[drivers.AsyncConnection], *work: Statement[Any]) -> list[Any]:
        try:
            await pool.open()
            connection = await pool.getconn()
        except psycopg.OperationalError as error:
            raise unavailable(error, "the journal") from error
        try:
            async with alimited(connection, _hang_up_after()):
                answers = await drivers.arun_together(connection, _transaction(*work))
            self._answered.note(connection)
        except psycopg.NotSupportedError as error:
            await connection.close()
            raise _standby(error) from error
        finally:
            await pool.putconn(connection)
        return answers[-1 - len(work) : -1]

    def _run_apart(self, *work: Statement[Any]) -> list[Any]:
        """Run statements from a thread of its own, where the application's event loop does not come."""

        async def run() -> list[Any]:
            async with self._make_pool() as pool:
                return await self._run_on(pool, *work)

        return asyncio.run(run())

    async def intend(
        self, evidence: Evidence, action: CurrentAction, claim: Statement[Claim] | None, *, may_wait: bool
    ) -> Claim | None:
        """Make durable that *action* is begun; see :meth:`Journal.intend`."""
        claimed: Claim | None = None
        keep = partial(self.outage.keep_intent, evidence, may_wait=may_wait and claim is None)
        if self.outage.down:
            await asyncio.to_thread(keep, None)
        else:
            try:
                with translated("recording that an action is begun"):
                    *answers, _ = await self._run_twice(*_declaring(evidence, claim))
                    claimed = answers[0] if answers else None
            except (psycopg.OperationalError, TrailUnavailable) as error:
                if claim is not None and isinstance(error, TAKEN):
                    raise
                await asyncio.to_thread(keep, error)
        if evidence.leased and (claimed is None or claimed.claimed):
            self._heartbeat.begin(action)
        return claimed

    async def write(self, rows: Sequence[ActionRow]) -> None:
        """Write rows that are not there yet. Never raises: what cannot be written is kept, or logged."""
        await self._write(Kind.OUTCOME, rows)

    async def write_doubt(self, rows: Sequence[ActionRow]) -> None:
        """Write evidence of actions whose outcome nobody can know. Never raises."""
        await self._write(Kind.DOUBT, rows)

    async def settle(self, rows: Sequence[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        """Write rows unless the transaction in doubt wrote them first; see :meth:`Journal.settle`."""
        try:
            _, status, committed, *_ = await self._run_twice(
                recording.insert_missing(rows),
                recording.outcome(action_id),
                recording.committed(xid),
                *intents.forget_all(intents.intended(rows)),
            )
        except (psycopg.Error, TrailUnavailable) as error:
            await asyncio.to_thread(self.outage.keep_doubtful, rows, error)
            raise
        return status if committed else None

    async def forget(self, action_ids: Sequence[UUID]) -> None:
        """Drop the evidence that actions were begun; see :meth:`Journal.forget`."""
        try:
            await self.run(intents.forget(action_ids))
        except (psycopg.Error, TrailUnavailable) as error:
            _not_dropped(action_ids, error)

    async def _write(self, kind: Kind, rows: Sequence[ActionRow]) -> None:
        failure: Exception | None = None
        if not self.outage.down:
            try:
                await self._run_twice(*writing(kind, rows))
            except (psycopg.Error, TrailUnavailable) as error:
                failure = error
            else:
                return
        await asyncio.to_thread(self.outage.keep, kind, rows, failure)  # the disk may take its time

    async def _run_twice(self, *work: Statement[Any]) -> list[Any]:
        try:
            with a_recent_answer_will_do():
                return await self.run(*work)
        except psycopg.OperationalError as error:
            if not _again(error):
                raise
            return await self.run(*work)

    async def close(self) -> None:
        """Close the journal's connections."""
        await asyncio.to_thread(self._heartbeat.stop)
        await asyncio.to_thread(self.outage.stop)
        await self._pool.close()
