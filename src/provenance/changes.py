"""Reading row changes: the same methods in both colours, one statement each."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import psycopg

from provenance import drivers
from provenance.errors import InvalidAction, NotCaptured, SchemaNotReady
from provenance.models import ChangePage, RowBlame, RowValues, TableRow
from provenance.statements import Statement
from provenance.statements import changes as statements
from provenance.statements.rows import Key
from provenance.translation import misnamed, sentence, translated

T = TypeVar("T")


@contextmanager
def _answered(table: str) -> Generator[None]:
    with translated("reading row changes", rights="reader"):
        try:
            yield
        except psycopg.errors.UndefinedObject as error:
            raise NotCaptured(sentence(error)) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaNotReady(
                f"this database role lacks a right that reading row changes needs ({error.diag.message_primary}); have the "
                "owner of the table grant it USAGE on its schema and, to see what was there, SELECT on it; what is the "
                "trail's, `provenance migrate grant --reader ROLE` grants"
            ) from error
        except psycopg.errors.InvalidName as error:
            raise InvalidAction(f"table: {misnamed('table', table)}") from error
        except psycopg.errors.InvalidParameterValue as error:
            raise InvalidAction(f"key: {sentence(error)}") from error
        except psycopg.errors.SyntaxError as error:
            raise InvalidAction(f"table: {sentence(error)}") from error


class ChangeRepository:
    """Reads what rows of captured tables were before and after each change.

    Tables are named as in SQL, with their schema unless that is in the search path. Keys are those of :data:`Key`: a
    value, or a list of values for a primary key of several columns.

    All methods raise :class:`NotCaptured` when nothing is known of the table, and :class:`InvalidAction` for a name or key
    that cannot be one.

    Args:
        connect: as for :class:`ActionRepository`.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[drivers.SyncConnection]]) -> None:
        self._connect = connect

    def _run(self, statement: Statement[T], table: str = "") -> T:
        with _answered(table), self._connect() as connection:
            return drivers.run(connection, statement)

    def history(self, table: str, key: Key, *, before: str | None = None, limit: int = 50) -> ChangePage:
        """Return the changes of the rows that had this primary key, newest first, a page at a time."""
        return self._run(statements.history(table, key, before=before, limit=limit), table)

    def blame(self, table: str, key: Key) -> RowBlame:
        """Return for every column of a row who last set it, also before the row got this key; nothing of an unknown row.

        Of a row that is gone, or has another key now, it tells of what it was last, and by what it ended.
        """
        return self._run(statements.blame(table, key), table)

    def as_of(self, table: str, key: Key, at: datetime) -> RowValues | None:
        """Return a row as it was, or ``None`` when there was none.

        Changes count from when their statement was done, also while their transaction was still open. Of rows that have
        not changed since, the table itself tells, which needs the right to read it.

        Once the table is released or dropped, :class:`NotCaptured` is raised where only that could tell: it was not adopted.
        """
        return self._run(statements.as_of(table, key, at), table)

    def table_as_of(self, table: str, at: datetime) -> list[TableRow]:
        """Return all rows of a table as they were; see :meth:`as_of`."""
        return self._run(statements.table_as_of(table, at), table)

    def of_action(
        self, action_id: UUID, *, descendants: bool = True, after: str | None = None, limit: int = 50
    ) -> ChangePage:
        """Return what an action changed, oldest first, a page at a time.

        Args:
            action_id: the action.
            descendants: whether to include what the actions that it caused changed.
            after: the ``next`` of the page before this one.
            limit: how many at most, up to 1,000.
        """
        return self._run(statements.of_action(action_id, descendants=descendants, after=after, limit=limit))


class AsyncChangeRepository:
    """Reads row changes with ``await``; see :class:`ChangeRepository`.

    Args:
        connect: as for :class:`AsyncActionRepository`.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[drivers.AsyncConnection]]) -> None:
        self._connect = connect

    async def _run(self, statement: Statement[T], table: str = "") -> T:
        with _answered(table):
            async with self._connect() as connection:
                return await drivers.arun(connection, statement)

    async def history(self, table: str, key: Key, *, before: str | None = None, limit: int = 50) -> ChangePage:
        """Return the changes of the rows that had this primary key, newest first, a page at a time."""
        return await self._run(statements.history(table, key, before=before, limit=limit), table)

    async def blame(self, table: str, key: Key) -> RowBlame:
        """Return for every column of a row who last set it, also before the row got this key; nothing of an unknown row.

        Of a row that is gone, or has another key now, it tells of what it was last, and by what it ended.
        """
        return await self._run(statements.blame(table, key), table)

    async def as_of(self, table: str, key: Key, at: datetime) -> RowValues | None:
        """Return a row as it was, or ``None`` when there was none.

        Changes count from when their statement was done, also while their transaction was still open. Of rows that have
        not changed since, the table itself tells, which needs the right to read it.

        Once the table is released or dropped, :class:`NotCaptured` is raised where only that could tell: it was not adopted.
        """
        return await self._run(statements.as_of(table, key, at), table)

    async def table_as_of(self, table: str, at: datetime) -> list[TableRow]:
        """Return all rows of a table as they were; see :meth:`as_of`."""
        return await self._run(statements.table_as_of(table, at), table)

    async def of_action(
        self, action_id: UUID, *, descendants: bool = True, after: str | None = None, limit: int = 50
    ) -> ChangePage:
        """Return what an action changed, oldest first, a page at a time.

        Args:
            action_id: the action.
            descendants: whether to include what the actions that it caused changed.
            after: the ``next`` of the page before this one.
            limit: how many at most, up to 1,000.
        """
        return await self._run(statements.of_action(action_id, descendants=descendants, after=after, limit=limit))
