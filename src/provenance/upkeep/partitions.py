"""The monthly partitions of the trail, and how they fill the disk, in both colours."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from provenance import drivers
from provenance.errors import InvalidAction, TrailUnavailable
from provenance.models import Partition, Upkeep
from provenance.statements import Statement
from provenance.statements import partitions as statements
from provenance.statements.partitions import FURTHEST, MONTHS_AHEAD, PARTITIONS
from provenance.statements.upkeep import COUNTED_SINCE, INDEXES
from provenance.statements.views import VIEWS
from provenance.translation import translated
from provenance.upkeep.report import report

logger = logging.getLogger("provenance")


@contextmanager
def making_months() -> Generator[None]:
    """Make partitions by the way, when a process starts: it must not fail for want of them."""
    try:
        yield
    except (psycopg.Error, TrailUnavailable) as error:
        logger.warning(
            "provenance: there is no partition for the next month, and making it failed (%s); run `provenance partition`",
            type(error).__name__,
        )
    else:
        logger.info("provenance: made the partitions of the coming months")


def _ensure(months_ahead: int) -> Statement[list[str]]:
    given: Any = months_ahead
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= FURTHEST:
        raise InvalidAction(f"months_ahead: expected a number of months from 0 to {FURTHEST}, got {given!r}")
    return statements.ensure(given)


class Partitions(ABC):
    """What a :class:`Trail` does about its partitions."""

    @abstractmethod
    def connection(self) -> AbstractContextManager[drivers.SyncConnection]:
        """Lend a connection for the time of a block."""

    def partitions(self) -> list[Partition]:
        """Return which partitions there are: of each table the oldest month first, and its default partition last."""
        with translated("reading which partitions there are", rights="reader"), self.connection() as connection:
            return drivers.run(connection, statements.PARTITIONS)

    def upkeep(self) -> Upkeep:
        """Return how the trail fills its disk: partitions, indexes and whether they are used, views, and how it grows.

        Raises:
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        with translated("looking at how the disk fills", rights="reader"), self.connection() as connection:
            return report(
                drivers.run(connection, PARTITIONS),
                drivers.run(connection, INDEXES),
                drivers.run(connection, VIEWS),
                drivers.run(connection, COUNTED_SINCE),
                datetime.now(UTC),
            )

    def ensure_partitions(self, months_ahead: int = MONTHS_AHEAD) -> list[str]:
        """Make the partitions of this month and the coming ones, where they are missing.

        Safe at any time, by several processes at once, and while everybody records. It needs the rights of a maintainer.
        A month of which there are rows already gets none, and one whose default partition a long transaction is using gets
        none yet: the server warns of both, and nothing is lost.

        Args:
            months_ahead: how many months beyond this one, from 0 to 120.

        Returns:
            The names of the new ones.

        Raises:
            InvalidAction: *months_ahead* is out of range.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        statement = _ensure(months_ahead)
        with translated("making partitions", rights="maintainer"), self.connection() as connection:
            return drivers.run(connection, statement)


class AsyncPartitions(ABC):
    """What an :class:`AsyncTrail` does about its partitions."""

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[drivers.AsyncConnection]:
        """Lend a connection for the time of a block."""

    async def partitions(self) -> list[Partition]:
        """Return which partitions there are: of each table the oldest month first, and its default partition last."""
        with translated("reading which partitions there are", rights="reader"):
            async with self.connection() as connection:
                return await drivers.arun(connection, statements.PARTITIONS)

    async def upkeep(self) -> Upkeep:
        """Return how the trail fills its disk: partitions, indexes and whether they are used, views, and how it grows.

        Raises:
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        with translated("looking at how the disk fills", rights="reader"):
            async with self.connection() as connection:
                return report(
                    await drivers.arun(connection, PARTITIONS),
                    await drivers.arun(connection, INDEXES),
                    await drivers.arun(connection, VIEWS),
                    await drivers.arun(connection, COUNTED_SINCE),
                    datetime.now(UTC),
                )

    async def ensure_partitions(self, months_ahead: int = MONTHS_AHEAD) -> list[str]:
        """Make the partitions of this month and the coming ones, where they are missing.

        Safe at any time, by several processes at once, and while everybody records. It needs the rights of a maintainer.
        A month of which there are rows already gets none, and one whose default partition a long transaction is using gets
        none yet: the server warns of both, and nothing is lost.

        Args:
            months_ahead: how many months beyond this one, from 0 to 120.

        Returns:
            The names of the new ones.

        Raises:
            InvalidAction: *months_ahead* is out of range.
            SchemaNotReady: this role may not.
            TrailUnavailable: the database cannot be reached.
        """
        statement = _ensure(months_ahead)
        with translated("making partitions", rights="maintainer"):
            async with self.connection() as connection:
                return await drivers.arun(connection, statement)
