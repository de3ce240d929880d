"""Legal holds, in both colours: what must neither be erased nor leave. Placing and releasing each is an action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, TypedDict, Unpack

from psycopg import IsolationLevel

from provenance import drivers, tracking
from provenance.errors import InvalidAction
from provenance.models import LegalHold
from provenance.statements import holds as statements
from provenance.translation import translated
from provenance.values import Identifier, identifier, tenant
from provenance.values import name as checked
from provenance.values import reason as why


class Scope(TypedDict, total=False):
    """What a hold keeps: all actions that fit everything said, and what they changed."""

    tenant_id: Identifier
    """Of this tenant; ``""`` for what belongs to none."""
    user_id: Identifier
    """By this user."""
    entity: tuple[str, Identifier]
    """On this entity: its type and id."""
    concept: str
    action_type: str
    since: datetime
    """Begun at or after this aware time."""
    until: datetime
    """Begun before this aware time."""


def _scope(**given: Unpack[Scope]) -> dict[str, Any]:
    # A misspelt one would hold everything.
    if unknown := given.keys() - Scope.__annotations__.keys():
        raise TypeError(f"unknown {', '.join(sorted(unknown))}; expected {', '.join(Scope.__annotations__)}")
    for what, value in given.items():
        if value is None:
            raise InvalidAction(f"{what}: expected what to hold, got None; leave it out to hold all")
        if value == "" and what != "tenant_id":
            raise InvalidAction(f"{what}: expected what to hold, got an empty text; leave it out to hold all")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidAction(f"{what}: expected a time with a time zone; use datetime.now(UTC)")
    kind, entity_id = given.get("entity", (None, None))
    return {
        "tenant_id": tenant(given.get("tenant_id")),
        "user_id": identifier(given.get("user_id"), "user_id"),
        "entity_type": None if kind is None else checked(kind, "entity"),
        "entity_id": identifier(entity_id, "entity"),
        "concept": checked(given["concept"], "concept") if "concept" in given else None,
        "action_type": checked(given["action_type"], "action_type") if "action_type" in given else None,
        "since": given.get("since"),
        "until": given.get("until"),
    }


def _placed(found: list[LegalHold], name: str) -> LegalHold:
    if not found:
        raise InvalidAction(f"name: there is a legal hold {name} already; release it first, or choose another name")
    return found[0]


def _released(found: list[LegalHold], name: str) -> LegalHold:
    if not found:
        raise InvalidAction(f"name: there is no legal hold {name}; `provenance hold list` lists all")
    return found[0]


class _Holds:
    track_action: type[tracking.track_action]

    def _hold_action(self, action_type: str, name: str, reason: str, scope: dict[str, Any]) -> tracking.track_action:
        checked(name, "name")
        said = {what: str(value) for what, value in scope.items() if value is not None}
        return self.track_action(
            action_type,
            concept="trail",
            entity_type="legal_hold",
            entity_id=name,
            payload={"reason": why(reason), **said},
        ).at(IsolationLevel.READ_COMMITTED)


class Holds(_Holds, ABC):
    """What a :class:`Trail` keeps for a court."""

    @abstractmethod
    def connection(self) -> AbstractContextManager[drivers.SyncConnection]:
        """Lend a connection for the time of a block."""

    def place_hold(
        self,
        name: str,
        *,
        reason: str,
        **scope: Unpack[Scope],
    ) -> LegalHold:
        """Keep all actions that fit everything given, and what they changed, from being erased and from leaving.

        With nothing given, it is all there is. What is recorded later is held too. It needs the rights of the owner of the
        schema, and waits while a month leaves.

        Args:
            name: of the hold, as that of the case.
            reason: why, for whoever asks later.
            scope: see :class:`Scope`.

        Raises:
            InvalidAction: there is a hold of this name, or something given is of no use.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        asked = _scope(**scope)
        with (
            self._hold_action("place_hold", name, reason, asked) as action,
            translated("placing a hold", rights="owner"),
        ):
            drivers.run(action.connection, statements.WAIT)
            return _placed(drivers.run(action.connection, statements.place(name, why(reason), asked, action.id)), name)

    def release_hold(self, name: str, *, reason: str) -> LegalHold:
        """Release a legal hold, and return what it was.

        Args:
            name: of the hold.
            reason: why, for whoever asks later.

        Raises:
            InvalidAction: there is no hold of this name.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        with (
            self._hold_action("release_hold", name, reason, {}) as action,
            translated("releasing a hold", rights="owner"),
        ):
            return _released(drivers.run(action.connection, statements.release(name)), name)

    def holds(self) -> list[LegalHold]:
        """Return the legal holds there are, the oldest first."""
        with translated("reading the legal holds", rights="owner"), self.connection() as connection:
            return drivers.run(connection, statements.HOLDS)


class AsyncHolds(_Holds, ABC):
    """What an :class:`AsyncTrail` keeps for a court."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[drivers.AsyncConnection]:
        """Lend a connection for the time of a block."""

    async def place_hold(
        self,
        name: str,
        *,
        reason: str,
        **scope: Unpack[Scope],
    ) -> LegalHold:
        """Keep all actions that fit everything given, and what they changed, from being erased and from leaving.

        With nothing given, it is all there is. What is recorded later is held too. It needs the rights of the owner of the
        schema, and waits while a month leaves.

        Args:
            name: of the hold, as that of the case.
            reason: why, for whoever asks later.
            scope: see :class:`Scope`.

        Raises:
            InvalidAction: there is a hold of this name, or something given is of no use.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        asked = _scope(**scope)
        async with self._hold_action("place_hold", name, reason, asked) as action:
            with translated("placing a hold", rights="owner"):
                await drivers.arun(action.connection, statements.WAIT)
                placing = statements.place(name, why(reason), asked, action.id)
                return _placed(await drivers.arun(action.connection, placing), name)

    async def release_hold(self, name: str, *, reason: str) -> LegalHold:
        """Release a legal hold, and return what it was.

        Args:
            name: of the hold.
            reason: why, for whoever asks later.

        Raises:
            InvalidAction: there is no hold of this name.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        async with self._hold_action("release_hold", name, reason, {}) as action:
            with translated("releasing a hold", rights="owner"):
                return _released(await drivers.arun(action.connection, statements.release(name)), name)

    async def holds(self) -> list[LegalHold]:
        """Return the legal holds there are, the oldest first."""
        with translated("reading the legal holds", rights="owner"):
            async with self.connection() as connection:
                return await drivers.arun(connection, statements.HOLDS)
