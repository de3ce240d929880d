"""Which connection a statement about rows of a concept goes through.

Writes are part of the current action, and there must be one. So are reads inside an action, because a body must see what
it has written itself; elsewhere they take a connection of the trail's.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import NoneType
from typing import TypeVar

import psycopg

from provenance import drivers
from provenance.configuration import get_async_trail, get_trail
from provenance.context import innermost_action
from provenance.errors import MisusedAction, NoCurrentAction, SchemaNotReady, TableRefused, WrongColour
from provenance.recording import Block
from provenance.statements import Statement
from provenance.tracking import AsyncTrackedAction, TrackedAction, current_action
from provenance.trail import AsyncTrail, Trail
from provenance.translation import unavailable, unreachable

T = TypeVar("T")


def _acting() -> tuple[TrackedAction | AsyncTrackedAction, Block] | None:
    """Return the current action and its block, or ``None`` outside any."""
    try:
        action = current_action()
    except NoCurrentAction:
        return None
    block = innermost_action()
    while isinstance(block, Block) and block.handle is not action:
        block = block.around
    assert isinstance(block, Block)  # noqa: S101 - current_action() has found it on the same way
    return action, block


@contextmanager
def explained(what: str) -> Generator[None]:
    """Say of a statement about a concept what the database lacks, or what it does not let this role do.

    Args:
        what: the concept.

    Raises:
        SchemaNotReady: the database does not have what is declared, or the role lacks a right.
    """
    try:
        yield
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        if error.diag.context is not None:
            raise  # it is not our statement that names what is not there, but a trigger of the application's
        raise _lacking(what, error) from error
    except psycopg.errors.InsufficientPrivilege as error:
        # Policies have the same SQLSTATE, and are about rows; functions are the application's, as above.
        if error.diag.context is not None or not (error.diag.source_function or "").startswith("aclcheck_error"):
            raise
        raise SchemaNotReady(
            f"this database role lacks a right that working with the concept {what} needs "
            f"({error.diag.message_primary}); have the owner of that grant it, or connect as another role"
        ) from error


def _lacking(what: str, error: psycopg.Error) -> SchemaNotReady:
    return SchemaNotReady(
        f"the database lacks the concept {what} as it is declared ({error.diag.message_primary}); run your "
        "migrations, or `provenance concept sql --apply`"
    )


class _Access:
    """What both colours have in common."""

    def __init__(self, what: str) -> None:
        self._what = what

    def _writing(self, trail: object) -> TrackedAction | AsyncTrackedAction:
        """Return the current action, which a write is to be part of."""
        found = _acting()
        if found is None:
            raise NoCurrentAction(
                f"writing a {self._what} needs an action that tells of it, and none is open here; call this inside a "
                "track_action block"
            )
        action, block = found
        if block.host is not trail:
            raise MisusedAction(
                f"writing a {self._what}: the current action, {block.label}, is recorded by another trail than this "
                "repository's; open one on the same trail"
            )
        return action

    def _reading(self, trail: object) -> TrackedAction | AsyncTrackedAction | None:
        """Return the current action if a read shall be part of it."""
        found = _acting()
        if found is None or found[1].host is not trail or found[1].unit is None:
            return None
        return found[0]

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            with explained(self._what):
                yield
        except TableRefused as error:
            # The view is looked for by its name, which may be in no such schema either.
            if isinstance(cause := error.__cause__, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
                raise _lacking(self._what, cause) from error
            raise

    @contextmanager
    def _reached(self) -> Generator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            if not unreachable(error):
                raise
            raise unavailable(error, f"reading a {self._what}") from error


class Access(_Access):
    """Runs statements, blocking.

    Args:
        what: the concept, for errors.
        trail: the configured one when left out.

    Raises:
        WrongColour: it is a trail of the other colour.
    """

    def __init__(self, what: str, trail: Trail | None) -> None:
        super().__init__(what)
        if not isinstance(trail, (Trail, NoneType)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongColour(
                f"a blocking repository of {what} needs a Trail, got {type(trail).__name__}; pass one, or use the async "
                "repository"
            )
        self._given_trail = trail

    @property
    def trail(self) -> Trail:
        """Whose actions writes are part of, and whose connections reads take."""
        return self._given_trail or get_trail()

    def acting(self) -> TrackedAction:
        """Return the current action.

        Raises:
            NoCurrentAction, MisusedAction: there is none, or it is of another trail.
        """
        action = self._writing(self.trail)
        assert isinstance(action, TrackedAction)  # noqa: S101 - it is of a trail of this colour
        return action

    def write(self, statement: Statement[T]) -> T:
        """Run a statement as a part of the current action.

        Raises:
            NoCurrentAction, MisusedAction: there is no current action of this trail that has a connection.
            SchemaNotReady: the database does not have what is declared, or the role lacks a right.
        """
        action = self.acting()
        with self._explained():
            return drivers.run(action.connection, statement)

    def read(self, statement: Statement[T]) -> T:
        """Run a statement in the current action, if there is one, or by itself.

        Raises:
            TrailUnavailable: outside an action, the database cannot be reached.
            SchemaNotReady: as for :meth:`write`.
        """
        trail = self.trail
        action = self._reading(trail)
        with self._explained():
            if isinstance(action, TrackedAction):
                return drivers.run(action.connection, statement)
            with self._reached(), trail.connection() as connection:
                return drivers.run(connection, statement)

    def refresh(self, view: str) -> bool:
        """Refresh a view; see :meth:`Trail.refresh`.

        Raises:
            TableRefused: this role may not, or the view is in use.
            SchemaNotReady: as for :meth:`write`.
        """
        with self._explained():
            return self.trail.refresh(view).refreshed


class AsyncAccess(_Access):
    """Runs statements with ``await``; see :class:`Access`."""

    def __init__(self, what: str, trail: AsyncTrail | None) -> None:
        super().__init__(what)
        if not isinstance(trail, (AsyncTrail, NoneType)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongColour(
                f"an async repository of {what} needs an AsyncTrail, got {type(trail).__name__}; pass one, or use the "
                "blocking repository"
            )
        self._given_trail = trail

    @property
    def trail(self) -> AsyncTrail:
        """Whose actions writes are part of, and whose connections reads take."""
        return self._given_trail or get_async_trail()

    def acting(self) -> AsyncTrackedAction:
        """Return the current action; see :meth:`Access.acting`."""
        action = self._writing(self.trail)
        assert isinstance(action, AsyncTrackedAction)  # noqa: S101 - it is of a trail of this colour
        return action

    async def write(self, statement: Statement[T]) -> T:
        """Run a statement as a part of the current action; see :meth:`Access.write`."""
        action = self.acting()
        with self._explained():
            return await drivers.arun(action.connection, statement)

    async def read(self, statement: Statement[T]) -> T:
        """Run a statement in the current action, if there is one, or by itself; see :meth:`Access.read`."""
        trail = self.trail
        action = self._reading(trail)
        with self._explained():
            if isinstance(action, AsyncTrackedAction):
                return await drivers.arun(action.connection, statement)
            with self._reached():
                async with trail.connection() as connection:
                    return await drivers.arun(connection, statement)

    async def refresh(self, view: str) -> bool:
        """Refresh a view; see :meth:`Access.refresh`."""
        with self._explained():
            return (await self.trail.refresh(view)).refreshed
