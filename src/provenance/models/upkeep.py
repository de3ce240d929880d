"""How the trail fills its disk, and how fresh the views are."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

import attrs


@attrs.frozen(kw_only=True)
class Partition:
    """One month of a table of the trail."""

    table: str
    """``"actions"`` or ``"row_changes"``."""
    name: str
    """Of the partition, in the schema ``provenance``."""
    month: date | None
    """Its first day, in UTC; ``None``: the default partition, for rows of months that have none."""
    rows: int | None
    """How many there are about, by the server's statistics; ``None``: it has not counted yet."""
    bytes: int
    """On disk, with its indexes."""
    index_bytes: int
    """Of these, what the indexes take."""


@attrs.frozen(kw_only=True)
class Growth:
    """By how much a table of the trail grows in a month."""

    months: int
    """Of how many months that are over this is the average; 0: what this one comes to if it goes on as it began."""
    rows: int | None
    """``None``: not known."""
    bytes: int


@attrs.frozen(kw_only=True)
class TableUpkeep:
    """What a table of the trail takes."""

    table: str
    months: int
    """How many have a partition."""
    oldest: date | None
    """The first day of the oldest month that has a partition."""
    ahead: int
    """For how many months after this one there are partitions without a gap; -1: not even for this one."""
    rows: int | None
    """About; ``None``: not known."""
    bytes: int
    """On disk, with its indexes."""
    index_bytes: int
    growth: Growth | None
    """``None``: there is nothing to tell it by yet."""
    bytes_in_a_year: int | None
    """If it grows on like this and nothing leaves."""


@attrs.frozen(kw_only=True)
class IndexUse:
    """How much an index of the trail is used: that of a partitioned table on all partitions together."""

    table: str
    name: str
    unique: bool
    """It sees to it that nothing is there twice, used or not."""
    bytes: int
    scans: int
    """How often, as far as this server has counted."""
    used_at: datetime | None
    """When it was last; ``None``: never, or not known, as before Postgres 16."""

    @property
    def unused(self) -> bool:
        """It has not been used since this server counts; for what that means see the how-to on upkeep."""
        return not self.unique and not self.scans


@attrs.frozen(kw_only=True)
class Upkeep:
    """How the trail fills its disk."""

    measured_at: datetime
    """By this machine's clock."""
    counted_since: datetime | None
    """Since when the server counts how often indexes are used; ``None``: since it began, or lost its counts."""
    tables: tuple[TableUpkeep, ...]
    indexes: tuple[IndexUse, ...]
    """The largest first."""
    views: tuple[ViewState, ...]


@attrs.frozen(kw_only=True)
class Refresh:
    """What came of refreshing a view."""

    view: str
    """With its schema, quoted where SQL needs it."""
    refreshed: bool
    """``False``: another session is refreshing it, so this one did not."""
    action_id: UUID


@attrs.frozen(kw_only=True)
class ViewState:
    """How fresh a resolved view is."""

    view: str
    """With its schema, quoted where SQL needs it."""
    resolved: bool
    """Its owner has made a function that refreshes it."""
    populated: bool
    """``False``: it cannot be read until it is refreshed."""
    refreshed_at: datetime | None
    """When its last refresh was recorded, by the database's clock, in UTC; ``None``: none is."""
    action_id: UUID | None
    """The last refresh."""
    changed_rows: int | None
    """How many rows have been written since then to what it reads, by the server's statistics.

    Rows that were rolled back count too; those of the last moments not yet; those that ``TRUNCATE`` removed never. ``None``:
    not known, because no refresh is recorded, or the statistics were reset.
    """
