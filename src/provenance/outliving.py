"""Actions that outlive a block, or the process that has begun them, in both colours."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict, Unpack
from uuid import UUID

from provenance import drivers
from provenance.failures import stated
from provenance.journal import AsyncJournal, Journal
from provenance.models import Status
from provenance.recording import Colour
from provenance.statements import Statement, intents
from provenance.statements.intents import Intent
from provenance.tracking import Parent, track_action
from provenance.tracking.block import check_colour
from provenance.translation import not_pending, translated
from provenance.values import Redactor, to_json

DEFAULT_EXPIRY = timedelta(days=1)
"""How long the outcome of a begun action is waited for, unless said otherwise."""


class Begun(TypedDict, total=False):
    """What may be said of an action when it is begun, beyond its type and concept; see :class:`track_action`."""

    entity_type: str | None
    entity_id: str | int | UUID | None
    payload: object
    metadata: Mapping[str, object] | None
    user_id: str | int | UUID | None
    tenant_id: str | int | UUID | None
    request_id: UUID | str | None
    parent: Parent | None


def _pending(intent: Intent | None, action_id: UUID) -> Intent:
    if intent is None:
        raise not_pending(action_id)
    return intent


class _Outcomes(ABC):
    """What gives a begun action its outcome, in either colour."""

    redactor: Redactor
    colour: Colour
    track_action: type[track_action]

    def _completion(self, action_id: UUID, result: object) -> Statement[None]:
        return intents.complete_action(
            action_id, status=Status.COMPLETED.value, result=to_json(result, self.redactor, what="result")
        )

    def _failure(self, action_id: UUID, error: str | BaseException) -> Statement[None]:
        failure = stated(error, self.redactor)
        return intents.complete_action(
            action_id,
            status=Status.FAILED.value,
            result=None,
            error_message=failure.error_message,
            error_type=failure.error_type,
            error_code=failure.error_code,
        )


class Outliving(_Outcomes):
    """The actions of a :class:`Trail` that outlive a block."""

    _journal: Journal

    def begin(
        self, action_type: str, *, concept: str, expires_in: timedelta = DEFAULT_EXPIRY, **given: Unpack[Begun]
    ) -> UUID:
        """Record, durably and at once, that an action has begun that will outlive this block or process.

        It shows as pending until :meth:`complete`, :meth:`fail` or :meth:`resume`, here or elsewhere, gives it an outcome,
        and as unknown once *expires_in* has passed without one.

        Args:
            action_type: as for :class:`track_action`.
            concept: as for :class:`track_action`.
            expires_in: how long an outcome is waited for.
            given: see :class:`Begun`.

        Returns:
            The action's id.

        Raises:
            InvalidAction, UnserializableValue: as for :class:`track_action`.
            TrailUnavailable: the database cannot be reached.
            SchemaNotReady: it has not been migrated.
        """
        row = self.track_action(action_type, concept=concept, transaction=False, **given).pending_row()
        with translated("begin()", row.id):
            self._journal.run(intents.begin_action(row, expires_in))
        return row.id

    def complete(
        self, action_id: UUID, result: object = None, *, connection: drivers.SyncConnection | None = None
    ) -> None:
        """Record that a begun action is completed.

        Args:
            action_id: what :meth:`begin` returned.
            result: what came of it: anything with a JSON form.
            connection: where the work was done; the outcome is then part of the transaction open there. Without it the
                outcome is durable at once.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
            InvalidAction: *action_id* is no UUID.
            UnserializableValue: *result* has no JSON form.
        """
        self._finish(action_id, self._completion(action_id, result), connection)

    def fail(
        self, action_id: UUID, error: str | BaseException, *, connection: drivers.SyncConnection | None = None
    ) -> None:
        """Record that a begun action failed.

        Args:
            action_id: what :meth:`begin` returned.
            error: the reason, or the exception that is it.
            connection: as for :meth:`complete`.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
        """
        self._finish(action_id, self._failure(action_id, error), connection)

    def _finish(self, action_id: UUID, statement: Statement[None], connection: drivers.SyncConnection | None) -> None:
        with translated("a begun action", action_id):
            if connection is None:
                self._journal.run(statement)
            else:
                check_colour(connection, self.colour)
                drivers.run(connection, statement)

    def resume(self, action_id: UUID, *, connection: drivers.SyncConnection | None = None) -> track_action:
        """Return a block that goes on with a begun action and gives it its outcome, as ``track_action`` would.

        Of several processes that resume the same action one can commit; the work of the others is rolled back.

        Args:
            action_id: what :meth:`begin` returned.
            connection: as for :class:`track_action`.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
        """
        with translated("a begun action", action_id):
            (intent,) = self._journal.run(intents.pending_action(action_id))
        return self.track_action.resuming(_pending(intent, action_id), connection)


class AsyncOutliving(_Outcomes):
    """The actions of an :class:`AsyncTrail` that outlive a block."""

    _journal: AsyncJournal

    async def begin(
        self, action_type: str, *, concept: str, expires_in: timedelta = DEFAULT_EXPIRY, **given: Unpack[Begun]
    ) -> UUID:
        """Record, durably and at once, that an action has begun that will outlive this block or process.

        It shows as pending until :meth:`complete`, :meth:`fail` or :meth:`resume`, here or elsewhere, gives it an outcome,
        and as unknown once *expires_in* has passed without one.

        Args:
            action_type: as for :class:`track_action`.
            concept: as for :class:`track_action`.
            expires_in: how long an outcome is waited for.
            given: see :class:`Begun`.

        Returns:
            The action's id.

        Raises:
            InvalidAction, UnserializableValue: as for :class:`track_action`.
            TrailUnavailable: the database cannot be reached.
            SchemaNotReady: it has not been migrated.
        """
        row = self.track_action(action_type, concept=concept, transaction=False, **given).pending_row()
        with translated("begin()", row.id):
            await self._journal.run(intents.begin_action(row, expires_in))
        return row.id

    async def complete(
        self, action_id: UUID, result: object = None, *, connection: drivers.AsyncConnection | None = None
    ) -> None:
        """Record that a begun action is completed.

        Args:
            action_id: what :meth:`begin` returned.
            result: what came of it: anything with a JSON form.
            connection: where the work was done; the outcome is then part of the transaction open there. Without it the
                outcome is durable at once.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
            InvalidAction: *action_id* is no UUID.
            UnserializableValue: *result* has no JSON form.
        """
        await self._finish(action_id, self._completion(action_id, result), connection)

    async def fail(
        self, action_id: UUID, error: str | BaseException, *, connection: drivers.AsyncConnection | None = None
    ) -> None:
        """Record that a begun action failed.

        Args:
            action_id: what :meth:`begin` returned.
            error: the reason, or the exception that is it.
            connection: as for :meth:`complete`.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
        """
        await self._finish(action_id, self._failure(action_id, error), connection)

    async def _finish(
        self, action_id: UUID, statement: Statement[None], connection: drivers.AsyncConnection | None
    ) -> None:
        with translated("a begun action", action_id):
            if connection is None:
                await self._journal.run(statement)
            else:
                check_colour(connection, self.colour)
                await drivers.arun(connection, statement)

    async def resume(self, action_id: UUID, *, connection: drivers.AsyncConnection | None = None) -> track_action:
        """Return a block that goes on with a begun action and gives it its outcome, as ``track_action`` would.

        Of several processes that resume the same action one can commit; the work of the others is rolled back.

        Args:
            action_id: what :meth:`begin` returned.
            connection: as for :class:`track_action`.

        Raises:
            ActionNotPending: it was never begun, or already has an outcome.
        """
        with translated("a begun action", action_id):
            (intent,) = await self._journal.run(intents.pending_action(action_id))
        return self.track_action.resuming(_pending(intent, action_id), connection)
