"""Retention policies, in both colours: how long what must be kept. Setting and removing each is an action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from typing import Any, TypedDict, Unpack, get_args

from psycopg import IsolationLevel

from provenance import drivers, tracking
from provenance.errors import InvalidAction
from provenance.models import RetentionOutcome, RetentionPolicy
from provenance.statements import retention as statements
from provenance.statements.holds import WAIT
from provenance.translation import translated
from provenance.values import Identifier, tenant
from provenance.values import name as checked
from provenance.values import reason as why

_DAY = timedelta(days=1)
LONGEST = timedelta(days=36_525)
"""A hundred years; longer is for ever."""


class Kind(TypedDict, total=False):
    """Of which actions: of all that fit everything said."""

    tenant_id: Identifier
    """Of this tenant; ``""`` for what belongs to none."""
    concept: str
    action_type: str


def _said(keep: timedelta | None, outcome: RetentionOutcome, given: Kind) -> dict[str, Any]:
    # A misspelt one would be a policy for everything.
    if unknown := given.keys() - Kind.__annotations__.keys():
        raise TypeError(f"unknown {', '.join(sorted(unknown))}; expected {', '.join(Kind.__annotations__)}")
    for what, value in given.items():
        if value is None or (value == "" and what != "tenant_id"):
            raise InvalidAction(f"{what}: expected of what the policy is; leave it out for all")
    if given.get("concept") == "trail":
        raise InvalidAction("concept: what was done to the trail itself is always kept; leave that to us")
    length: Any = keep
    if length is not None and (not isinstance(length, timedelta) or length % _DAY or not _DAY <= length <= LONGEST):
        raise InvalidAction(
            "keep: expected a number of whole days up to a hundred years, as timedelta(days=90), or None for ever"
        )
    if outcome not in get_args(RetentionOutcome):
        raise InvalidAction(f"outcome: expected delete or archive, got {outcome!r}")
    return {
        "days": None if keep is None else keep.days,
        "outcome": outcome,
        "tenant_id": tenant(given.get("tenant_id")),
        "concept": checked(given["concept"], "concept") if "concept" in given else None,
        "action_type": checked(given["action_type"], "action_type") if "action_type" in given else None,
    }


def _removed(found: list[RetentionPolicy], name: str) -> RetentionPolicy:
    if not found:
        raise InvalidAction(f"name: there is no retention policy {name}; `provenance retention list` lists all")
    return found[0]


class _Policies:
    track_action: type[tracking.track_action]

    def _policy_action(self, action_type: str, name: str, reason: str, said: dict[str, Any]) -> tracking.track_action:
        checked(name, "name")
        return self.track_action(
            action_type,
            concept="trail",
            entity_type="retention_policy",
            entity_id=name,
            payload={"reason": why(reason), **said},
        ).at(IsolationLevel.READ_COMMITTED)


class Policies(_Policies, ABC):
    """What a :class:`Trail` knows of how long it is to keep what."""

    @abstractmethod
    def connection(self) -> AbstractContextManager[drivers.SyncConnection]:
        """Lend a connection for the time of a block."""

    def set_retention(
        self,
        name: str,
        *,
        keep: timedelta | None,
        reason: str,
        outcome: RetentionOutcome = "delete",
        **kind: Unpack[Kind],
    ) -> RetentionPolicy:
        """Set for how long actions are kept that fit everything given, and what they changed.

        Of several policies the one holds that says most of an action, and of those that say as much the one that keeps it
        the longest; what no policy fits is kept for ever. Nothing goes by this alone: ``provenance retention run`` does it.
        It needs the rights of the owner of the schema, and waits while rows go by the policies there were.

        Args:
            name: of the policy; one that has it already is replaced.
            keep: for how many whole days; ``None`` for ever.
            reason: why, for whoever asks later.
            outcome: what becomes of them then: ``"delete"``, or ``"archive"`` for Parquet files.
            kind: see :class:`Kind`; with nothing given, it is for all there is.

        Raises:
            InvalidAction: something given is of no use.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        said = _said(keep, outcome, kind)
        with (
            self._policy_action("set_retention", name, reason, said) as action,
            translated("setting a retention policy", rights="owner"),
        ):
            drivers.run(action.connection, WAIT)
            (policy,) = drivers.run(action.connection, statements.put(name, why(reason), said, action.id))
            return policy

    def remove_retention(self, name: str, *, reason: str) -> RetentionPolicy:
        """Remove a retention policy, and return what it was.

        Args:
            name: of the policy.
            reason: why, for whoever asks later.

        Raises:
            InvalidAction: there is no policy of this name.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        with (
            self._policy_action("remove_retention", name, reason, {}) as action,
            translated("removing a retention policy", rights="owner"),
        ):
            drivers.run(action.connection, WAIT)
            return _removed(drivers.run(action.connection, statements.remove(name)), name)

    def retention_policies(self) -> list[RetentionPolicy]:
        """Return the retention policies there are, by name."""
        with translated("reading the retention policies", rights="owner"), self.connection() as connection:
            return drivers.run(connection, statements.POLICIES)


class AsyncPolicies(_Policies, ABC):
    """What an :class:`AsyncTrail` knows of how long it is to keep what."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[drivers.AsyncConnection]:
        """Lend a connection for the time of a block."""

    async def set_retention(
        self,
        name: str,
        *,
        keep: timedelta | None,
        reason: str,
        outcome: RetentionOutcome = "delete",
        **kind: Unpack[Kind],
    ) -> RetentionPolicy:
        """Set for how long actions are kept that fit everything given, and what they changed.

        Of several policies the one holds that says most of an action, and of those that say as much the one that keeps it
        the longest; what no policy fits is kept for ever. Nothing goes by this alone: ``provenance retention run`` does it.
        It needs the rights of the owner of the schema, and waits while rows go by the policies there were.

        Args:
            name: of the policy; one that has it already is replaced.
            keep: for how many whole days; ``None`` for ever.
            reason: why, for whoever asks later.
            outcome: what becomes of them then: ``"delete"``, or ``"archive"`` for Parquet files.
            kind: see :class:`Kind`; with nothing given, it is for all there is.

        Raises:
            InvalidAction: something given is of no use.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        said = _said(keep, outcome, kind)
        async with self._policy_action("set_retention", name, reason, said) as action:
            with translated("setting a retention policy", rights="owner"):
                await drivers.arun(action.connection, WAIT)
                (policy,) = await drivers.arun(action.connection, statements.put(name, why(reason), said, action.id))
                return policy

    async def remove_retention(self, name: str, *, reason: str) -> RetentionPolicy:
        """Remove a retention policy, and return what it was.

        Args:
            name: of the policy.
            reason: why, for whoever asks later.

        Raises:
            InvalidAction: there is no policy of this name.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        async with self._policy_action("remove_retention", name, reason, {}) as action:
            with translated("removing a retention policy", rights="owner"):
                await drivers.arun(action.connection, WAIT)
                return _removed(await drivers.arun(action.connection, statements.remove(name)), name)

    async def retention_policies(self) -> list[RetentionPolicy]:
        """Return the retention policies there are, by name."""
        with translated("reading the retention policies", rights="owner"):
            async with self.connection() as connection:
                return await drivers.arun(connection, statements.POLICIES)
