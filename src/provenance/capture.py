"""Stamping and capturing tables, in both colours. Each change of what is accounted for is itself an action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from itertools import combinations
from typing import TypedDict

import psycopg

from provenance import drivers, tracking
from provenance.errors import InvalidAction, SchemaNotReady, TableRefused
from provenance.models import TableCoverage
from provenance.statements import Statement, changes, tables
from provenance.translation import named, sentence, translated
from provenance.values import Redactor

MAX_BYTES = 32_768
"""How long the text of a value may be to be stored as it is, unless said otherwise."""


@contextmanager
def refused(table: str) -> Generator[None]:
    """Say in terms of the table what the database has against it.

    Args:
        table: its name, as given.

    Raises:
        TableRefused: the table is not there, or not fit, or in use.
        SchemaNotReady: the role lacks a right.
    """
    try:
        with named("table", table):
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        if error.diag.message_hint:
            # Of the trail's owner, as capture_table() says, and not of this role.
            raise TableRefused(sentence(error)) from error
        raise SchemaNotReady(
            f"this database role lacks a right to do this to {table} ({error.diag.message_primary}); connect as the role "
            "that ran `provenance migrate up`, which must own the table or be a member of the role that does, or as a "
            "superuser"
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise TableRefused(
            "the table could not be locked within two seconds, because a long transaction is using it; nothing was "
            "changed; try again later"
        ) from error
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError) as error:
        raise TableRefused(sentence(error)) from error


class Settings(TypedDict):
    """How a table is to be captured."""

    exclude: list[str]
    mask: list[str]
    keep: list[str]
    max_bytes: int


def checked_settings(exclude: Sequence[str], mask: Sequence[str], keep: Sequence[str], max_bytes: int) -> Settings:
    """Return the settings, checked: a text where a list of columns is expected would be taken for a list of letters.

    Raises:
        TypeError: there is such a text.
        InvalidAction: two settings name the same column, and contradict each other.
    """
    lists = (("exclude", exclude), ("mask", mask), ("keep", keep))
    for what, names in lists:
        if isinstance(names, str):
            raise TypeError(f'{what}: expected a list of columns, got text; write ["{names}"] for a single one')
    for (one, its), (other, others) in combinations(lists, 2):
        if both := [name for name in its if name in others]:
            raise InvalidAction(f"{one} and {other} both name the column {both[0]}; name it in one of them only")
    return {"exclude": list(exclude), "mask": list(mask), "keep": list(keep), "max_bytes": max_bytes}


def capture_statement(table: str, columns: Sequence[str], settings: Settings, redactor: Redactor) -> Statement[None]:
    """Return the statement that captures a table, with the columns masked whose names sound like a secret."""
    if unknown := [name for name in settings["keep"] if name not in columns]:
        raise TableRefused(f"keep: {table} has no column {unknown[0]}; its columns are {', '.join(columns)}")
    hidden = {*settings["mask"], *settings["exclude"]}
    harmless = [
        name for name in columns if name not in hidden and (name in settings["keep"] or not redactor.hides(name))
    ]
    sounding = [name for name in columns if name not in hidden and name not in harmless]
    return tables.capture(
        table,
        excluded=settings["exclude"],
        masked=[*settings["mask"], *sounding],
        kept=harmless,
        max_bytes=settings["max_bytes"],
        suspicious=redactor.suspicious,
    )


class _Tables:
    track_action: type[tracking.track_action]
    redactor: Redactor

    def _about(self, action_type: str, table: str, payload: object = None) -> tracking.track_action:
        return self.track_action(action_type, concept="table", entity_type="table", entity_id=table, payload=payload)


class Tables(_Tables, ABC):
    """What a :class:`Trail` does to tables."""

    @abstractmethod
    def connection(self) -> AbstractContextManager[drivers.SyncConnection]:
        """Lend a connection for the time of a block."""

    def stamp(self, table: str, *, strict: bool = False) -> None:
        """Have the database note in each row of a table which action made it and which last changed it.

        Adds the columns ``created_by_action_id`` and ``updated_by_action_id`` and the triggers that fill them; again, to
        change *strict*. Rows that are there already stay without an action.

        Args:
            table: as in SQL, with its schema unless that is in the search path.
            strict: refuse writes to the table outside any action.

        Raises:
            TableRefused: it is not there, or not fit, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table), self._about("stamp_table", table, {"strict": strict}) as action:
            drivers.run(action.connection, tables.stamp(table, strict=strict))

    def unstamp(self, table: str) -> None:
        """Undo :meth:`stamp`: the triggers, and the columns unless they were there before.

        Raises:
            TableRefused: it is not stamped, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table), self._about("unstamp_table", table) as action:
            drivers.run(action.connection, tables.unstamp(table))

    def capture(
        self,
        table: str,
        *,
        exclude: Sequence[str] = (),
        mask: Sequence[str] = (),
        keep: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Store from now on what the rows of a table were before and after each change.

        Again, to change the settings; after an ``ALTER TABLE``, that also makes writes as cheap as before. The table's rows
        of today are stored when they change, or all at once by :meth:`adopt`.

        Args:
            table: as for :meth:`stamp`; it must have a primary key.
            exclude: columns to leave out altogether.
            mask: columns of which only is stored that they changed, besides those whose name sounds like a secret to the
                trail's redactor. Columns added later are judged in the same way, with some doubt against them.
            keep: columns to store although their name sounds like a secret.
            max_bytes: values whose text is longer are replaced by their length and digest; 64 to 16,777,216.

        Raises:
            TableRefused: it is not there, or not fit, or in use; or it has no such column.
            SchemaNotReady: this role lacks a right.
            InvalidAction: a column is in two of the lists.
        """
        settings = checked_settings(exclude, mask, keep, max_bytes)
        with refused(table), self._about("capture_table", table, settings) as action:
            columns = drivers.run(action.connection, tables.columns(table))
            statement = capture_statement(table, columns, settings, self.redactor)
            drivers.run(action.connection, statement)

    def release(self, table: str) -> None:
        """Stop capturing the row changes of a table; what was captured stays.

        Raises:
            TableRefused: it is not captured, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table), self._about("release_table", table) as action:
            drivers.run(action.connection, tables.release(table))

    def adopt(self, table: str) -> int:
        """Store the rows of a captured table that have been there since before it was captured, and have not changed since.

        Safe to run again, and while others write.

        Returns:
            How many rows were stored.

        Raises:
            TableRefused: it is not captured.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table), self._about("adopt_table", table) as action:
            adopted = drivers.run(action.connection, tables.adopt(table))
            action.result = {"rows": adopted}
        return adopted

    def coverage(self) -> list[TableCoverage]:
        """Return how much of every table of the application is accounted for; counts the rows of those that are stamped."""
        with translated("reading the coverage", rights="reader"), self.connection() as connection:
            return drivers.run(connection, changes.COVERAGE)


class AsyncTables(_Tables, ABC):
    """What an :class:`AsyncTrail` does to tables."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[drivers.AsyncConnection]:
        """Lend a connection for the time of a block."""

    async def stamp(self, table: str, *, strict: bool = False) -> None:
        """Have the database note in each row of a table which action made it and which last changed it.

        Adds the columns ``created_by_action_id`` and ``updated_by_action_id`` and the triggers that fill them; again, to
        change *strict*. Rows that are there already stay without an action.

        Args:
            table: as in SQL, with its schema unless that is in the search path.
            strict: refuse writes to the table outside any action.

        Raises:
            TableRefused: it is not there, or not fit, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table):
            async with self._about("stamp_table", table, {"strict": strict}) as action:
                await drivers.arun(action.connection, tables.stamp(table, strict=strict))

    async def unstamp(self, table: str) -> None:
        """Undo :meth:`stamp`: the triggers, and the columns unless they were there before.

        Raises:
            TableRefused: it is not stamped, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table):
            async with self._about("unstamp_table", table) as action:
                await drivers.arun(action.connection, tables.unstamp(table))

    async def capture(
        self,
        table: str,
        *,
        exclude: Sequence[str] = (),
        mask: Sequence[str] = (),
        keep: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Store from now on what the rows of a table were before and after each change.

        Again, to change the settings; after an ``ALTER TABLE``, that also makes writes as cheap as before. The table's rows
        of today are stored when they change, or all at once by :meth:`adopt`.

        Args:
            table: as for :meth:`stamp`; it must have a primary key.
            exclude: columns to leave out altogether.
            mask: columns of which only is stored that they changed, besides those whose name sounds like a secret to the
                trail's redactor. Columns added later are judged in the same way, with some doubt against them.
            keep: columns to store although their name sounds like a secret.
            max_bytes: values whose text is longer are replaced by their length and digest; 64 to 16,777,216.

        Raises:
            TableRefused: it is not there, or not fit, or in use; or it has no such column.
            SchemaNotReady: this role lacks a right.
            InvalidAction: a column is in two of the lists.
        """
        settings = checked_settings(exclude, mask, keep, max_bytes)
        with refused(table):
            async with self._about("capture_table", table, settings) as action:
                columns = await drivers.arun(action.connection, tables.columns(table))
                statement = capture_statement(table, columns, settings, self.redactor)
                await drivers.arun(action.connection, statement)

    async def release(self, table: str) -> None:
        """Stop capturing the row changes of a table; what was captured stays.

        Raises:
            TableRefused: it is not captured, or in use.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table):
            async with self._about("release_table", table) as action:
                await drivers.arun(action.connection, tables.release(table))

    async def adopt(self, table: str) -> int:
        """Store the rows of a captured table that have been there since before it was captured, and have not changed since.

        Safe to run again, and while others write.

        Returns:
            How many rows were stored.

        Raises:
            TableRefused: it is not captured.
            SchemaNotReady: this role lacks a right.
        """
        with refused(table):
            async with self._about("adopt_table", table) as action:
                adopted = await drivers.arun(action.connection, tables.adopt(table))
                action.result = {"rows": adopted}
        return adopted

    async def coverage(self) -> list[TableCoverage]:
        """Return how much of every table of the application is accounted for; counts the rows of those that are stamped."""
        with translated("reading the coverage", rights="reader"):
            async with self.connection() as connection:
                return await drivers.arun(connection, changes.COVERAGE)
