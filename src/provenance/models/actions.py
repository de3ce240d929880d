"""Actions, and what is made of several: trees, chains, pages."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import attrs

T = TypeVar("T")

JSONValue = None | bool | int | float | str | Sequence["JSONValue"] | Mapping[str, "JSONValue"]
"""A value as it comes back from a JSON column."""


class Status(enum.StrEnum):
    """How an action ended, or that it has not."""

    PENDING = "pending"
    """Begun, and its outcome is not known yet."""
    COMPLETED = "completed"
    """Its work is committed."""
    FAILED = "failed"
    """It raised, or said so with ``action.fail()``; its work is undone."""
    ROLLED_BACK = "rolled_back"
    """It did not fail by itself, but its work is undone: with a transaction around it, or because its process ended."""
    UNKNOWN = "unknown"
    """Nobody can know any more; derived when read, never stored."""


@attrs.frozen
class ActionRef:
    """The place of an action in its tree: enough to hang a child below it, in another process too."""

    id: UUID
    root_id: UUID


@attrs.frozen(kw_only=True)
class EntityRef:
    """One row of a concept, as actions name it."""

    type: str
    id: str


@attrs.frozen(kw_only=True)
class Action:
    """One recorded action.

    ``started_at``, ``completed_at`` and ``recorded_at`` are aware datetimes in UTC; the first two are the writer's
    clock, the last is the database's.
    ``duration_ms`` is measured with a monotonic clock, in fractional milliseconds.
    """

    id: UUID
    root_id: UUID
    parent_action_id: UUID | None
    action_type: str
    concept: str
    status: Status
    tenant_id: str
    user_id: str | None
    request_id: UUID | None
    correlation_id: str | None
    entity_type: str | None
    entity_id: str | None
    payload: JSONValue
    result: JSONValue
    metadata: JSONValue
    error_type: str | None
    error_code: str | None
    """SQLSTATE of a database error."""
    error_message: str | None
    started_at: datetime
    completed_at: datetime | None
    duration_ms: float | None
    recorded_at: datetime | None
    erased_by_action_id: UUID | None = None
    """The action that took out payload, result, metadata and error message; see ``Trail.erase``."""

    @property
    def ref(self) -> ActionRef:
        """The action's place in its tree, as ``parent=`` takes it."""
        return ActionRef(self.id, self.root_id)

    @property
    def entity(self) -> EntityRef | None:
        """The entity the action is about, when it names one in full."""
        if self.entity_type is None or self.entity_id is None:
            return None
        return EntityRef(type=self.entity_type, id=self.entity_id)


@attrs.frozen(kw_only=True)
class ActionTree:
    """An action with everything it caused, oldest child first."""

    action: Action
    children: tuple[ActionTree, ...] = ()

    def walk(self) -> Iterator[tuple[int, Action]]:
        """Yield every action of the tree with its depth, parents before children; the top has depth 0."""
        stack: list[tuple[int, ActionTree]] = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node.action
            stack.extend((depth + 1, child) for child in reversed(node.children))


@attrs.frozen(kw_only=True)
class ChainLink:
    """One member of a causal chain; ``depth`` counts the steps from the action that was asked about."""

    action: Action
    depth: int


@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """One page of a listing.

    Pass ``next`` as ``before=`` to get the following page; it is ``None`` on the last one.
    """

    items: tuple[T, ...]
    next: UUID | None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@attrs.frozen
class Recovery:
    """How many actions had been begun and had no outcome, by what became of them."""

    completed: int = 0
    """An outcome was recorded, only the evidence was left."""
    failed: int = 0
    """Likewise."""
    rolled_back: int = 0
    """Of most of these it was found out now."""
    pending: int = 0
    """Their transaction is in progress, or their outcome is waited for."""
    unknown: int = 0
    """Nobody can know, or nobody has reported an outcome in time; one may still be reported."""

    def __add__(self, other: Recovery) -> Recovery:
        return Recovery(*map(operator.add, attrs.astuple(self), attrs.astuple(other)))
