"""Reading the trail: the same methods in both colours, one statement each.

Begun actions are found too, as pending. Ids of users, tenants and entities may be text, int or UUID, as when recording.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import TypedDict, TypeVar, Unpack
from uuid import UUID

from provenance import drivers
from provenance.errors import InvalidAction
from provenance.ids import parse_request_id
from provenance.models import Action, ActionTree, ChainLink, Page, Status
from provenance.statements import Statement, reading
from provenance.statements.reading import Filter
from provenance.translation import translated
from provenance.values import Identifier, identifier

T = TypeVar("T")


def _request(request_id: UUID | str) -> UUID:
    return parse_request_id(request_id) if isinstance(request_id, str) else request_id


class Filters(TypedDict, total=False):
    """What :meth:`ActionRepository.search` can be asked for."""

    action_type: str
    concept: str
    status: Status | str
    user_id: Identifier
    tenant_id: Identifier
    request_id: UUID | str
    correlation_id: str
    entity_type: str
    entity_id: Identifier
    since: datetime
    """Begun at or after this aware time, to the millisecond."""
    until: datetime
    """Begun before this aware time."""


def filter_of(**given: Unpack[Filters]) -> Filter:
    """Return what is asked for, checked."""
    # A misspelt filter would otherwise ask for nothing, and find everything.
    if unknown := given.keys() - Filters.__annotations__.keys():
        raise TypeError(f"unknown filter {', '.join(sorted(unknown))}; expected {', '.join(Filters.__annotations__)}")
    for what, value in given.items():
        # None is what a caller without a user or a tenant would pass; leaving the condition out would show it everything.
        if value is None:
            raise InvalidAction(f"{what}: expected a value to look for, got None; leave it out to find all")
    return Filter(
        action_type=_text(given.get("action_type"), "action_type"),
        concept=_text(given.get("concept"), "concept"),
        status=_status(given["status"]) if "status" in given else None,
        user_id=_text(given.get("user_id"), "user_id"),
        # Rows of no tenant carry the empty text.
        tenant_id="" if given.get("tenant_id") == "" else _text(given.get("tenant_id"), "tenant_id"),
        request_id=_request(given["request_id"]) if "request_id" in given else None,
        correlation_id=_text(given.get("correlation_id"), "correlation_id"),
        entity_type=_text(given.get("entity_type"), "entity_type"),
        entity_id=_text(given.get("entity_id"), "entity_id"),
        since=given.get("since"),
        until=given.get("until"),
    )


def _status(value: Status | str) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise InvalidAction(f"status: expected one of {', '.join(Status)}") from None


def _text(value: Identifier | None, what: str) -> str | None:
    """Return the text to look for, in the form it is stored in.

    An empty one is refused: it would otherwise ask for nothing, and find everything.
    """
    if value == "":
        raise InvalidAction(f"{what}: expected a value to look for, got an empty text; leave it out to find all")
    return identifier(value, what)


class ActionRepository:
    """Reads actions.

    Args:
        connect: gives a connection for the time of a ``with`` block: the ``connection`` method of a
            :class:`psycopg_pool.ConnectionPool`.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[drivers.SyncConnection]]) -> None:
        self._connect = connect

    def _run(self, statement: Statement[T]) -> T:
        with translated("reading the trail", rights="reader"), self._connect() as connection:
            return drivers.run(connection, statement)

    def get(self, action_id: UUID) -> Action | None:
        """Return an action, or ``None``."""
        return self._run(reading.get(action_id))

    def by_request(self, request_id: UUID | str, *, limit: int = 1_000) -> list[Action]:
        """Return what a request did, oldest first.

        Raises:
            InvalidRequestID: the text is of no accepted form.
        """
        return self._run(reading.by_request(_request(request_id), limit=limit))

    def chain(self, action_id: UUID, *, max_depth: int = reading.MAX_DEPTH) -> list[ChainLink]:
        """Return an action and everything it caused, parents before children, with the steps between.

        Ends on a cycle, and after *max_depth* steps (at most 100).
        """
        return self._run(reading.chain(action_id, max_depth=max_depth))

    def ancestors(self, action_id: UUID, *, max_depth: int = reading.MAX_DEPTH) -> list[ChainLink]:
        """Return an action and what led to it, nearest first, with the steps between; bounded as :meth:`chain` is."""
        return self._run(reading.ancestors(action_id, max_depth=max_depth))

    def tree(self, action_id: UUID) -> ActionTree | None:
        """Return the whole tree that an action is in, from its root down, or ``None``."""
        return self._run(reading.tree(action_id))

    def entity_history(
        self, entity_type: str, entity_id: Identifier, *, before: UUID | None = None, limit: int = 50
    ) -> Page[Action]:
        """Return what was done to an entity, newest first, a page at a time."""
        wanted = filter_of(entity_type=entity_type, entity_id=entity_id)
        return self._run(reading.search(wanted, before=before, limit=limit))

    def by_user(self, user_id: Identifier, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return what a user did, newest first, a page at a time."""
        return self._run(reading.search(filter_of(user_id=user_id), before=before, limit=limit))

    def by_tenant(self, tenant_id: Identifier, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return what was done for a tenant, newest first, a page at a time."""
        return self._run(reading.search(filter_of(tenant_id=tenant_id), before=before, limit=limit))

    def search(self, *, before: UUID | None = None, limit: int = 50, **wanted: Unpack[Filters]) -> Page[Action]:
        """Return the actions that fit all that is given, newest first, a page at a time.

        Args:
            before: the ``next`` of the page before this one.
            limit: how many rows at most, up to 1,000.
            wanted: see :class:`Filters`.
        """
        return self._run(reading.search(filter_of(**wanted), before=before, limit=limit))


class AsyncActionRepository:
    """Reads actions with ``await``.

    Args:
        connect: as for :class:`ActionRepository`, of a :class:`psycopg_pool.AsyncConnectionPool`.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[drivers.AsyncConnection]]) -> None:
        self._connect = connect

    async def _run(self, statement: Statement[T]) -> T:
        with translated("reading the trail", rights="reader"):
            async with self._connect() as connection:
                return await drivers.arun(connection, statement)

    async def get(self, action_id: UUID) -> Action | None:
        """Return an action, or ``None``."""
        return await self._run(reading.get(action_id))

    async def by_request(self, request_id: UUID | str, *, limit: int = 1_000) -> list[Action]:
        """Return what a request did, oldest first.

        Raises:
            InvalidRequestID: the text is of no accepted form.
        """
        return await self._run(reading.by_request(_request(request_id), limit=limit))

    async def chain(self, action_id: UUID, *, max_depth: int = reading.MAX_DEPTH) -> list[ChainLink]:
        """Return an action and everything it caused, parents before children, with the steps between.

        Ends on a cycle, and after *max_depth* steps (at most 100).
        """
        return await self._run(reading.chain(action_id, max_depth=max_depth))

    async def ancestors(self, action_id: UUID, *, max_depth: int = reading.MAX_DEPTH) -> list[ChainLink]:
        """Return an action and what led to it, nearest first, with the steps between; bounded as :meth:`chain` is."""
        return await self._run(reading.ancestors(action_id, max_depth=max_depth))

    async def tree(self, action_id: UUID) -> ActionTree | None:
        """Return the whole tree that an action is in, from its root down, or ``None``."""
        return await self._run(reading.tree(action_id))

    async def entity_history(
        self, entity_type: str, entity_id: Identifier, *, before: UUID | None = None, limit: int = 50
    ) -> Page[Action]:
        """Return what was done to an entity, newest first, a page at a time."""
        wanted = filter_of(entity_type=entity_type, entity_id=entity_id)
        return await self._run(reading.search(wanted, before=before, limit=limit))

    async def by_user(self, user_id: Identifier, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return what a user did, newest first, a page at a time."""
        return await self._run(reading.search(filter_of(user_id=user_id), before=before, limit=limit))

    async def by_tenant(self, tenant_id: Identifier, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return what was done for a tenant, newest first, a page at a time."""
        return await self._run(reading.search(filter_of(tenant_id=tenant_id), before=before, limit=limit))

    async def search(self, *, before: UUID | None = None, limit: int = 50, **wanted: Unpack[Filters]) -> Page[Action]:
        """Return the actions that fit all that is given, newest first, a page at a time.

        Args:
            before: the ``next`` of the page before this one.
            limit: how many rows at most, up to 1,000.
            wanted: see :class:`Filters`.
        """
        return await self._run(reading.search(filter_of(**wanted), before=before, limit=limit))
