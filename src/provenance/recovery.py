"""Finding out what became of actions that were begun and have no outcome yet, in both colours.

A scheduler may call this at any time, and from any number of processes at once: what is found is decided by the database,
from the transaction of the work and the row of the action, and never from the time that has passed.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from uuid import UUID

from provenance.journal import AsyncJournal, Journal
from provenance.models import Recovery, Status
from provenance.statements import intents
from provenance.translation import translated

# A page is one transaction of the journal's, which has a deadline.
_PAGE_SIZE = 500


class Recovering(ABC):
    """What a :class:`Trail` knows of actions without an outcome."""

    _journal: Journal

    def replay(self, logged: Iterable[str] = ()) -> int:
        """Write what waits in the spool now, instead of in the background, and rows that could only be logged.

        Args:
            logged: rows as they stand in the log, each a JSON object. What is recorded already stays as it is.

        Returns:
            How many rows were written; those that the database does not take are set aside in the spool, or logged.

        Raises:
            TrailUnavailable: the database cannot be reached.
            SchemaNotReady: it has not been migrated, or this role may not record.
        """
        with translated("writing what was kept"):
            return self._journal.outage.replay() + self._journal.outage.restore(logged)

    def resolve(self, action_id: UUID) -> Status | None:
        """Find out what became of an action, and record it if nobody has.

        Args:
            action_id: of any action.

        Returns:
            Its status: pending while its transaction is in progress or its outcome is waited for; unknown when nobody can
            know; ``None`` if it is not recorded that it was ever begun.

        Raises:
            InvalidAction: *action_id* is no UUID.
            TrailUnavailable: the database cannot be reached.
            SchemaNotReady: it has not been migrated, or this role may not record.
        """
        statement = intents.resolve(action_id)
        with translated("resolving an action"):
            status: Status | None
            (status,) = self._journal.run(statement)
        return status

    def recover(self) -> Recovery:
        """Resolve all actions that were begun and have no outcome yet, of processes that were killed for instance.

        Call it now and then, as ``provenance recover`` does. It hinders nobody, and does no harm when it is called twice.

        Returns:
            How many of them there are, by what became of them.

        Raises:
            TrailUnavailable, SchemaNotReady: as for :meth:`resolve`. What has been found out by then is recorded.
        """
        found, page = Recovery(), intents.recover(None, _PAGE_SIZE)
        with translated("recovering actions"):
            while True:
                (answer,) = self._journal.run(page)
                if answer.last is None:
                    return found
                found += answer.found
                page = intents.recover(answer.last, _PAGE_SIZE)


class AsyncRecovering(ABC):
    """What an :class:`AsyncTrail` knows of actions without an outcome."""

    _journal: AsyncJournal

    async def resolve(self, action_id: UUID) -> Status | None:
        """Find out what became of an action, and record it if nobody has.

        Args:
            action_id: of any action.

        Returns:
            Its status: pending while its transaction is in progress or its outcome is waited for; unknown when nobody can
            know; ``None`` if it is not recorded that it was ever begun.

        Raises:
            InvalidAction: *action_id* is no UUID.
            TrailUnavailable: the database cannot be reached.
            SchemaNotReady: it has not been migrated, or this role may not record.
        """
        statement = intents.resolve(action_id)
        with translated("resolving an action"):
            status: Status | None
            (status,) = await self._journal.run(statement)
        return status

    async def recover(self) -> Recovery:
        """Resolve all actions that were begun and have no outcome yet, of processes that were killed for instance.

        Call it now and then, as ``provenance recover`` does. It hinders nobody, and does no harm when it is called twice.

        Returns:
            How many of them there are, by what became of them.

        Raises:
            TrailUnavailable, SchemaNotReady: as for :meth:`resolve`. What has been found out by then is recorded.
        """
        found, page = Recovery(), intents.recover(None, _PAGE_SIZE)
        with translated("recovering actions"):
            while True:
                (answer,) = await self._journal.run(page)
                if answer.last is None:
                    return found
                found += answer.found
                page = intents.recover(answer.last, _PAGE_SIZE)
