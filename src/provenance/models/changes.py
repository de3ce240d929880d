"""What rows were before and after each change, and who made it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from datetime import datetime
from uuid import UUID

import attrs

from provenance.models.actions import Action


class Operation(enum.StrEnum):
    """What was done to a row."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    """Removed with all others of its table."""
    BASELINE = "baseline"
    """Nothing: it was there before its table was captured, and was adopted."""


@attrs.frozen(kw_only=True)
class Truncated:
    """Stands for a value that was too long to keep."""

    bytes: int
    """The length of its text form, in UTF-8 or whatever the database's encoding is."""
    sha256: str
    """Of its text form in UTF-8, as hex."""


RowValues = Mapping[str, object]
"""The values of a row by column, in the order of the table.

Values of built-in types are what psycopg makes of them; those of other types, and those that Python cannot hold, are their
Postgres text. A masked value is ``"[redacted]"``, one that was too long is :class:`Truncated`.
"""


@attrs.frozen(kw_only=True)
class RowChange:
    """One change of one row."""

    id: str
    """Names the change, for paging. Ordered only within one answer."""
    table: str
    """Qualified, and quoted where SQL needs it, as of when the table was last captured."""
    operation: Operation
    key: str
    """The primary key after the change, or before it where nothing is left, as text; of several columns, as the text of a
    composite value. A long or masked one is a digest."""
    old_key: str | None
    """The primary key before the change, where that was changed."""
    old: RowValues | None
    new: RowValues | None
    changed: tuple[str, ...]
    """The columns that differ between *old* and *new*: all of them where there is only one."""
    action_id: UUID | None
    """``None``: written outside any action."""
    tenant_id: str
    recorded_at: datetime
    """When the statement was done, by the database's clock, in UTC; it counts once its transaction committed."""
    db_user: str
    xid: int
    """The transaction; the same as that of the action's row, where both were written in one."""


@attrs.frozen(kw_only=True)
class ChangePage:
    """One page of row changes.

    Pass ``next`` as ``before=`` (``after=`` where the oldest come first) to get the following page; it is ``None`` on the
    last one.
    """

    items: tuple[RowChange, ...]
    next: str | None
    incomplete_until: datetime | None = None
    """Of the history of a row: until when others may have left the database."""

    def __iter__(self) -> Iterator[RowChange]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@attrs.frozen(kw_only=True)
class Blame:
    """Who last set one column of a row."""

    column: str
    value: object
    """What it was set to; see :data:`RowValues`."""
    change: RowChange | None
    """``None``: it has not changed since the table is captured."""
    action: Action | None
    """``None``: set outside any action, or by one that is not recorded yet."""


@attrs.frozen(kw_only=True)
class Ending:
    """What a row with some key came to its end by: it was removed, or got another key."""

    change: RowChange
    """A ``delete`` or ``truncate``; or an ``update``, whose ``key`` is the one that the row has got."""
    action: Action | None
    """``None``: done outside any action, or by one that is not recorded yet."""


@attrs.frozen(kw_only=True)
class RowBlame:
    """Who last set each column of a row, and whether it is there still; iterates over the columns."""

    columns: tuple[Blame, ...]
    """In the order of the table; empty where nothing of the row is stored."""
    ended: Ending | None
    """``None``: the last that is stored of the row is not its end."""
    incomplete_until: datetime | None = None
    """Until when changes may have left the database: of what is told of an earlier one, neither who nor the value nor the
    end of the row need be the last."""

    def __iter__(self) -> Iterator[Blame]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@attrs.frozen(kw_only=True)
class TableRow:
    """A row of a table as it was."""

    key: str
    values: RowValues


@attrs.frozen(kw_only=True)
class TableCoverage:
    """How much of a table is accounted for."""

    table: str
    stamped: bool
    """Its rows say which action made and which last changed them."""
    strict: bool
    """Writes outside any action are refused."""
    captured: bool
    """What rows were before and after each change is stored."""
    rows: int | None
    """``None``: not stamped, or not readable for this role."""
    untracked_rows: int | None
    """Last written outside any action, or not since the table was stamped."""
    last_untracked_at: datetime | None
    """When a captured table was last written to outside any action."""
    last_untracked_by: str | None
    """The database user who did."""
    gaps: tuple[str, ...]
    """Triggers that are missing, disabled or asleep in replica sessions, on the table and on each of its partitions.

    Stamp or capture the table again to mend them. Where only TRUNCATE aimed at a partition escapes, the table counts as
    stamped, strict or captured all the same.
    """
