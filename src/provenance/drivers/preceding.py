"""Runs something right before whatever a connection is used for next.

All of psycopg meets in ``connection.wait()``: cursors of every kind, COPY, pipelines, ``connection.transaction()``. It is
shadowed on the instance for as long as there is something to come first. Only who talks to ``connection.pgconn`` passes by.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.abc import PQGen

from provenance.drivers.connections import AnyConnection, AsyncConnection, SyncConnection

Work = PQGen[Any]
"""What is done with a connection, as psycopg hands it to ``connection.wait()``."""
First = Callable[[], PQGen[None]]
"""Makes the work that is to come first."""


def nothing(work: Work) -> bool:
    """Tell of all work that it is to be preceded."""
    return False


def before_next(connection: AnyConnection, first: First, *, unless: Callable[[Work], bool] = nothing) -> None:
    """Have *first* run once, right before whatever the connection is used for next; what it raises is raised there.

    In a wait of its own, so that a time limit of what comes next does not strike it.

    Args:
        connection: any connection.
        first: what is to come first.
        unless: tells of work that it need not be preceded; what comes after it is asked about again.
    """
    vars(connection)["wait"] = (
        _preceded(connection, first, unless)
        if isinstance(connection, psycopg.Connection)
        else _apreceded(connection, first, unless)
    )


def nothing_before_next(connection: AnyConnection) -> None:
    """Forget what was to come first."""
    vars(connection).pop("wait", None)


def undoes_nothing(work: Work) -> bool:
    """Return whether it can be seen that work does not roll back to a savepoint: a statement that does not say so.

    Of work that psycopg does in any other way than by executing a statement it cannot.
    """
    query: object = inspect.getgeneratorlocals(work).get("query") if inspect.isgenerator(work) else None
    if isinstance(query, bytes):
        return b"rollback" not in query.lower()
    return isinstance(query, str) and "rollback" not in query.lower()


def _ends_something(work: Work) -> bool:
    """Return whether work ends a ``transaction()`` or a pipeline, which psycopg would take to be open still without it."""
    return getattr(work, "__name__", None) == "_exit_gen"


def _preceded(connection: SyncConnection, first: First, unless: Callable[[Work], bool]) -> object:
    ask = type(connection).wait

    def wait(work: Work, *args: Any, **kwargs: Any) -> Any:
        if not unless(work):
            nothing_before_next(connection)
            try:
                ask(connection, first())
            except Exception:
                if _ends_something(work):
                    # That it fails as well, in such a transaction, says nothing more.
                    with suppress(Exception):
                        ask(connection, work)
                raise
        return ask(connection, work, *args, **kwargs)

    return wait


def _apreceded(connection: AsyncConnection, first: First, unless: Callable[[Work], bool]) -> object:
    ask = type(connection).wait

    async def wait(work: Work, *args: Any, **kwargs: Any) -> Any:
        if not unless(work):
            nothing_before_next(connection)
            try:
                await ask(connection, first())
            except Exception:
                if _ends_something(work):
                    # That it fails as well, in such a transaction, says nothing more.
                    with suppress(Exception):
                        await ask(connection, work)
                raise
        return await ask(connection, work, *args, **kwargs)

    return wait
