"""What letting a month leave and letting it come back have in common."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
from psycopg import IsolationLevel

from provenance import drivers
from provenance.archive.columns import TABLES
from provenance.archive.files import Month
from provenance.errors import ArchiveBusy, ArchiveError
from provenance.statements import Statement, truth
from provenance.statements.partitions import PARTITIONS, month_after
from provenance.tracking import TrackedAction
from provenance.trail import Trail
from provenance.translation import translated


class MonthStays(ArchiveError):
    """Something keeps this month from leaving, and no other."""


Tell = Callable[[int, int], None]
"""Is told how many rows are done, and how many there are."""


def nobody(_done: int, _total: int) -> None:
    """Tell nobody."""


TRIES = 60
"""How often it is tried to lock a table."""

FETCHED = 500
"""How many rows are fetched, or told of, at a time."""


def moments(month: Month) -> tuple[datetime, datetime]:
    """Return from when until when a month is."""
    first, following = (
        datetime(day.year, day.month, 1, tzinfo=UTC) for day in (month.first, month_after(month.first, 1))
    )
    return first, following


@contextmanager
def recorded(trail: Trail, action_type: str, table: str, month: date, root: Path | None) -> Generator[TrackedAction]:
    """Do it as an action of its own, in its own transaction."""
    if table not in TABLES or month.day != 1:
        raise ArchiveError(
            f"expected one of {', '.join(TABLES)} and the first day of a month, got {table!r} and {month}"
        )
    with (
        translated("archiving", rights="owner"),
        trail.track_action(
            action_type,
            concept="trail",
            entity_type="partition",
            entity_id=f"{table}_{month:%Y_%m}",
            payload=None if root is None else {"location": str(root)},
            # Known of whatever ends it: the files that it leaves say by which action they were written.
            durability="intent",
        ).at(IsolationLevel.READ_COMMITTED) as action,
    ):
        try:
            yield action
        except OSError as error:
            raise ArchiveError(
                f"{root} cannot be written or read ({error.strerror}: {error.filename}); nothing has left or come back"
            ) from error
        except psycopg.errors.UniqueViolation as error:
            raise ArchiveError(
                f"rows of {table} of {month:%Y-%m} are here already ({error.diag.message_detail}); nothing has come back"
            ) from error


# Rows that were erased while they are copied would stand in the archive as they were. Erasing waits for whoever holds this.
_HOLD_STILL = Statement("SELECT pg_try_advisory_xact_lock(31651020444888674)", None, truth)


def hold_still(connection: drivers.SyncConnection) -> None:
    """Have no row change by being erased, and every number come with all its digits.

    Raises:
        ArchiveBusy: somebody is erasing or moving rows.
    """
    connection.execute("SET LOCAL extra_float_digits = 1")
    if not drivers.run(connection, _HOLD_STILL):
        raise ArchiveBusy("rows of the trail are being moved or erased by another session; run it again later")


def attached(connection: drivers.SyncConnection, month: Month) -> bool:
    return any(one.name == month.partition for one in drivers.run(connection, PARTITIONS))


def patiently(connection: drivers.SyncConnection, month: Month, work: Callable[[], None]) -> None:
    """Do what needs the lock of a whole table, which is waited for only briefly: others queue up behind.

    For less than a second, after which they would look for a deadlock.
    """
    for _ in range(TRIES):
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '500ms'")
                work()
                connection.execute("SET LOCAL lock_timeout TO DEFAULT")
                connection.execute("SET LOCAL statement_timeout TO DEFAULT")
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(random.random())  # noqa: S311 - not to meet again whoever does the same
        else:
            return
    raise ArchiveError(
        f"provenance.{month.table.name} was in use by one transaction or another each of {TRIES} times it was to be locked"
        "; run it again later, or end the long transactions"
    )
