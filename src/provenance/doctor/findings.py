"""What the doctor says, and what a check is."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from datetime import timedelta

import attrs

from provenance.drivers import SyncConnection

READER = "connect as a reader of all tenants: provenance migrate grant --reader ROLE"


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """What is recorded, or will be, cannot be relied on."""
    WARNING = "warning"
    """It can, but something needs care before that changes, or a part of the trail tells less than it could."""
    UNCHECKED = "unchecked"
    """Nothing is known to be wrong; this could not be looked at."""


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that is not as it should be, or could not be looked at."""

    check: str
    """Which check found it."""
    severity: Severity
    subject: str
    """What it is about: a table, a role, a setting."""
    problem: str
    """What is wrong, and why that matters."""
    remedy: str
    """SQL or a command to run; where nothing can be run, what to do. Of what is unchecked: with which rights it could be."""


@attrs.frozen(kw_only=True)
class Limits:
    """How far the doctor looks, and from where on something is too much."""

    recent: timedelta = timedelta(days=7)
    """How far back rows are looked at."""
    rows: int = 100_000
    """How many rows of a table are looked at, the newest first."""
    pages: int = 12_800
    """How many pages of a stamped table, or of a partition of it, are looked at, the last ones: 100 MB."""
    grace: timedelta = timedelta(minutes=5)
    """How long recovery may take to come by."""
    transaction: timedelta = timedelta(hours=1)
    """How long a transaction may be open."""
    clock: timedelta = timedelta(minutes=1)
    """By how much the clocks of the application and of the database may differ."""
    index_bytes: int = 10 * 1024**2
    """How much an index may be larger than its rows need."""
    index_ratio: float = 2.5
    """How many times as large as its rows need an index may be. Half-filled pages are common."""
    unfrozen: int = 100_000_000
    """How many transactions after that of an intent the server may soon forget it."""


class NotSeen(Exception):
    """What a check looks at is shown to this role in part only."""


@attrs.frozen(kw_only=True)
class Check:
    """One thing to look at."""

    name: str
    """Of the family that it belongs to."""
    what: str
    """What is not known when it cannot be done."""
    needs: str
    """With which rights it can be."""
    look: Callable[[SyncConnection, Limits], Iterable[Finding]]
    of_trail: bool = True
    """It needs the schema."""
    of_rows: bool = False
    """It looks at rows of every tenant."""


def unchecked(name: str, what: str, needs: str, subject: str = "this database") -> Finding:
    """Return what to say of something that could not be looked at."""
    return Finding(
        check=name, severity=Severity.UNCHECKED, subject=subject, problem=f"not checked: {what}", remedy=needs
    )


def ago(past: timedelta) -> str:
    """Return a span of time in its largest full unit."""
    seconds = max(int(past.total_seconds()), 0)
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
