"""Refreshing resolved views, in both colours. Each refresh is an action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager

import psycopg

from provenance import drivers, tracking
from provenance.errors import TableRefused
from provenance.models import Refresh, ViewState
from provenance.statements import Statement
from provenance.statements import views as statements
from provenance.statements.views import VIEWS, Found
from provenance.tracking import AsyncTrackedAction, TrackedAction
from provenance.translation import named, sentence, translated


@contextmanager
def _looking(view: str) -> Generator[None]:
    with translated("refreshing a view"):
        try:
            with named("view", view):
                yield
        except (psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported) as error:
            raise TableRefused(f"{sentence(error)}; name a materialized view") from error


@contextmanager
def _refreshing() -> Generator[None]:
    """Explain what is known to stand in the way. What the view's own query raises is the application's to see."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise TableRefused(
            "the view could not be locked within five seconds, because a long transaction is using it or its tables; it is "
            "as it was; try again later"
        ) from error
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise TableRefused(sentence(error)) from error


def _statement(found: Found, *, concurrently: bool) -> Statement[bool]:
    """Return how this role refreshes a view.

    Raises:
        TableRefused: it cannot.
    """
    if not found.materialized:
        raise TableRefused(f"{found.view} is not a materialized view, so there is nothing to refresh; name one")
    if found.allowed:
        return statements.refresh(found.view, concurrently=concurrently)
    if found.function is not None and found.callable:
        return statements.refresh_through(found.function)
    refused = f"{found.view} belongs to {found.owner}, and this role may not refresh it"
    if found.function is not None:
        raise TableRefused(f"{refused}; have its owner grant EXECUTE on the function {found.function}() to this role")
    raise TableRefused(f"{refused}; connect as its owner, or have that role make a function for others to call")


class _Views:
    track_action: type[tracking.track_action]

    def _refresh_action(self, view: str, *, concurrently: bool) -> tracking.track_action:
        return self.track_action(
            "refresh_view",
            concept="view",
            entity_type="view",
            entity_id=view,
            payload={"concurrently": concurrently},
        )

    def _note(self, action: TrackedAction | AsyncTrackedAction, found: Found, *, refreshed: bool) -> Refresh:
        action.result = {"refreshed": refreshed, "rows_written": found.rows_written}
        return Refresh(view=found.view, refreshed=refreshed, action_id=action.id)


class Views(_Views, ABC):
    """What a :class:`Trail` does to resolved views."""

    @abstractmethod
    def connection(self) -> AbstractContextManager[drivers.SyncConnection]:
        """Lend a connection for the time of a block."""

    def refresh(self, view: str, *, concurrently: bool = True) -> Refresh:
        """Bring a materialized view up to date, as an action of its own; inside an action, as a part of that.

        When another session is refreshing the same view, this one does not wait for it, and answers so. What has changed
        since that session began may then need another refresh.

        Args:
            view: as in SQL, with its schema unless that is in the search path. A role that neither owns it nor may maintain
                it refreshes it through its owner's function ``refresh_<view>()``, which decides by itself how.
            concurrently: let others read the view meanwhile. It needs a unique index on columns of the view.

        Raises:
            TableRefused: it is not there, or no materialized view, or lacks the index; or it is not this role's to refresh;
                or it is in use.
            psycopg.Error: its query failed. The view is as it was.
        """
        with self._refresh_action(view, concurrently=concurrently) as action:
            with _looking(view):
                found = drivers.run(action.connection, statements.find(view))
            action.entity_id = found.view
            statement = _statement(found, concurrently=concurrently)
            with _refreshing():
                refreshed = drivers.run(action.connection, statement)
            return self._note(action, found, refreshed=refreshed)

    def views(self) -> list[ViewState]:
        """Return for every resolved view how fresh it is; views that others read come before these.

        A resolved view is a materialized view with a function ``refresh_<view>()`` of its owner's, as those of concepts
        have. Others are told of once they have been refreshed by :meth:`refresh`.
        """
        with translated("reading the state of the views", rights="reader"), self.connection() as connection:
            return drivers.run(connection, VIEWS)


class AsyncViews(_Views, ABC):
    """What an :class:`AsyncTrail` does to resolved views."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[drivers.AsyncConnection]:
        """Lend a connection for the time of a block."""

    async def refresh(self, view: str, *, concurrently: bool = True) -> Refresh:
        """Bring a materialized view up to date, as an action of its own; inside an action, as a part of that.

        When another session is refreshing the same view, this one does not wait for it, and answers so. What has changed
        since that session began may then need another refresh.

        Args:
            view: as in SQL, with its schema unless that is in the search path. A role that neither owns it nor may maintain
                it refreshes it through its owner's function ``refresh_<view>()``, which decides by itself how.
            concurrently: let others read the view meanwhile. It needs a unique index on columns of the view.

        Raises:
            TableRefused: it is not there, or no materialized view, or lacks the index; or it is not this role's to refresh;
                or it is in use.
            psycopg.Error: its query failed. The view is as it was.
        """
        async with self._refresh_action(view, concurrently=concurrently) as action:
            with _looking(view):
                found = await drivers.arun(action.connection, statements.find(view))
            action.entity_id = found.view
            statement = _statement(found, concurrently=concurrently)
            with _refreshing():
                refreshed = await drivers.arun(action.connection, statement)
            return self._note(action, found, refreshed=refreshed)

    async def views(self) -> list[ViewState]:
        """Return for every resolved view how fresh it is; views that others read come before these.

        A resolved view is a materialized view with a function ``refresh_<view>()`` of its owner's, as those of concepts
        have. Others are told of once they have been refreshed by :meth:`refresh`.
        """
        with translated("reading the state of the views", rights="reader"):
            async with self.connection() as connection:
                return await drivers.arun(connection, VIEWS)
