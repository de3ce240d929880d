"""What a body may read and say of its own action."""

from __future__ import annotations

import json
import logging
from typing import Any, cast
from uuid import UUID

import psycopg

from provenance import failures
from provenance.context import innermost_action
from provenance.errors import MisusedAction, NoCurrentAction
from provenance.models import ActionRef, JSONValue
from provenance.recording import Block, owner_here
from provenance.values import Redactor, identifier, name, to_json_marked

logger = logging.getLogger("provenance")


class ActionHandle:
    """What the handles of both colours have in common."""

    __slots__ = ("_block", "_redactor")

    def __init__(self, block: Block, redactor: Redactor) -> None:
        self._block = block
        self._redactor = redactor

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._block.spec.action_type!r} {self.id}>"

    @property
    def id(self) -> UUID:
        """The action's id, a UUIDv7; fixed before the body runs."""
        return self._block.ref.id

    @property
    def ref(self) -> ActionRef:
        """The action's place in its tree, as ``parent=`` takes it."""
        return self._block.ref

    @property
    def request_id(self) -> UUID | None:
        """The request the action belongs to."""
        return self._block.request_id

    @property
    def entity_type(self) -> str | None:
        """The kind of thing the action is about."""
        return self._block.entity_type

    @entity_type.setter
    def entity_type(self, value: str) -> None:
        self._block.entity_type = name(value, "entity_type")

    @property
    def entity_id(self) -> str | None:
        """Which thing the action is about: text, int or UUID; kept as text."""
        return self._block.entity_id

    @entity_id.setter
    def entity_id(self, value: str | int | UUID) -> None:
        self._block.entity_id = identifier(value, "entity_id")

    @property
    def result(self) -> JSONValue:
        """What came out of it, as it will be stored: converted to JSON when assigned, with secrets hidden.

        A value without a JSON form never undoes the work: it is stored marked, and a warning is logged.
        """
        return _parsed(self._block.result)

    @result.setter
    def result(self, value: object) -> None:
        self._block.result = self._converted(value, "result")

    @property
    def metadata(self) -> JSONValue:
        """Whatever else is worth keeping; assigned and stored as :attr:`result` is."""
        return _parsed(self._block.metadata)

    @metadata.setter
    def metadata(self, value: object) -> None:
        self._block.metadata = self._converted(value, "metadata")

    def fail(self, reason: str | BaseException) -> None:
        """Make the action a failed one without raising: its work is rolled back when the block ends.

        For a view that answers 409 instead of raising. Code after it still runs; the last reason given is stored.

        Raises:
            InvalidAction: the reason is neither text nor an exception.
        """
        self._block.failure = failures.stated(reason, self._redactor)

    def _converted(self, value: object, what: str) -> str | None:
        text, warning = to_json_marked(value, self._redactor, what=what)
        if warning is not None:
            logger.warning("provenance: %s of %s: %s", what, self._block.label, warning)
        return text


def _parsed(text: str | None) -> JSONValue:
    return None if text is None else cast("JSONValue", json.loads(text))


class TrackedAction(ActionHandle):
    """The handle of a ``with`` block."""

    __slots__ = ()

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection whose transaction the action is part of.

        Raises:
            MisusedAction: the action is detached, or has ended.
        """
        connection: psycopg.Connection[Any] = _connection(self._block)
        return connection


class AsyncTrackedAction(ActionHandle):
    """The handle of an ``async with`` block."""

    __slots__ = ()

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        """The connection whose transaction the action is part of.

        Raises:
            MisusedAction: the action is detached, or has ended.
        """
        connection: psycopg.AsyncConnection[Any] = _connection(self._block)
        return connection


def _connection(block: Block) -> Any:
    if block.unit is None:
        raise MisusedAction(f"{block.label} has transaction=False, so it holds no connection; use one of your own")
    if not block.open or block not in block.unit.open_blocks:
        raise MisusedAction(f"{block.label} has ended; its connection is no longer yours to use")
    return block.unit.connection


def current_action() -> TrackedAction | AsyncTrackedAction:
    """Return the handle of the innermost action this code runs inside.

    Raises:
        NoCurrentAction: there is none.
    """
    block = innermost_action()
    # One that was left in a hurry is left behind. In another task, a block that has ended says who started it, no more.
    while isinstance(block, Block) and not block.open and block.owner == owner_here():
        block = block.around
    if isinstance(block, Block) and block.open and isinstance(block.handle, (TrackedAction, AsyncTrackedAction)):
        return block.handle
    raise NoCurrentAction("no action is open here; call this inside a track_action block")
