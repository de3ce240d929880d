"""Every error this library raises on its own account.

Each one also subclasses the builtin a caller would expect, so that ``except ValueError`` keeps working in code that has
never heard of this library. Errors of the caller's own body are never wrapped: they leave a block as they came.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

AS_OWNER = "connect as the role that owns the schema provenance"
"""What to do for whoever lacks a right that only the owner has."""


class ProvenanceError(Exception):
    """The base of all errors raised by provenance."""


class InvalidRequestID(ProvenanceError, ValueError):
    """A text is none of the request-id forms that :func:`provenance.parse_request_id` accepts."""


class InvalidAction(ProvenanceError, ValueError):
    """An argument of an action is empty, too long or of the wrong kind; raised at the call, before any SQL."""


class UnserializableValue(ProvenanceError, TypeError):
    """A payload or metadata value has no JSON form; the message names the path to it, never the value."""


class NotConfigured(ProvenanceError, RuntimeError):
    """There is no trail, or none of the colour (sync or async) that was asked for."""


class WrongColour(ProvenanceError, TypeError):
    """A ``with`` met something that belongs to ``async with``, or the reverse."""


class MisusedAction(ProvenanceError, RuntimeError):
    """An action object, or the connection inside it, was used in a way that would mix up rows."""


class NoRequestScope(ProvenanceError, LookupError):
    """There is no open request frame to act on: neither a middleware nor ``request_scope`` is active."""


class NoCurrentAction(ProvenanceError, LookupError):
    """``current_action()`` was called where no action is open."""


class TrailUnavailable(ProvenanceError, ConnectionError):
    """The database cannot be reached; raised before the work begins."""


class SchemaNotReady(ProvenanceError, RuntimeError):
    """The database lacks the provenance schema, or has an older one than this version needs."""


class NotCommitted(ProvenanceError, RuntimeError):
    """The block returned normally, but its work is not committed.

    Either the block swallowed a database error and left its transaction aborted, or it ended the transaction itself,
    or the row that proves the action could not be written. What an inner block did to the transaction in SQL is found
    out, and raised, by what comes next on the connection: a statement, another block, or the end of the block around it.
    """


class AlreadyDone(ProvenanceError, RuntimeError):
    """What was to be done under an idempotency key has been done, with the same input; raised before the body runs.

    Args:
        action_id: the action that did it.
        result: what that was: its ``result``, as it is stored.
    """

    def __init__(self, message: str, action_id: UUID, result: Any) -> None:
        super().__init__(message)
        self.action_id = action_id
        self.result = result


class IdempotencyConflict(ProvenanceError, ValueError):
    """An idempotency key has been used with another input; raised before the body runs."""


class IdempotencyKeyBusy(ProvenanceError, RuntimeError):
    """Another action holds the idempotency key, and has no outcome yet; raised before the body runs."""


class ActionNotPending(ProvenanceError, LookupError):
    """``complete``, ``fail`` or ``resume`` named an action that is not waiting for an outcome."""


class MigrationError(ProvenanceError, RuntimeError):
    """The schema cannot be migrated: an unknown version, an edited migration, a failing statement."""


class TableRefused(ProvenanceError, ValueError):
    """A table cannot be stamped or captured as it is, or a view not refreshed; the message says why, and what to do."""


class NotCaptured(ProvenanceError, LookupError):
    """Nothing is known of the rows that were asked for: their table was not captured, or not yet."""


class Held(ProvenanceError, RuntimeError):
    """A legal hold keeps what was to be erased or to leave for an archive; nothing of it is done."""


class ArchiveError(ProvenanceError, RuntimeError):
    """A month cannot be archived, restored or read as it is; the message says why. It is where it was."""


class ArchiveBusy(ArchiveError):
    """Another session is moving or erasing rows of the trail; try again later. Nothing has left or come back."""
