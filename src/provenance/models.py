"""What the trail hands back: frozen, keyword-only values."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Generic, Literal, TypeVar
from uuid import UUID

import attrs

T = TypeVar("T")

JSONValue = None | bool | int | float | str | Sequence["JSONValue"] | Mapping[str, "JSONValue"]
"""A value as it comes back from a JSON column."""


RetentionOutcome = Literal["delete", "archive"]
"""What becomes of rows that nobody must keep any more."""


class Status(enum.StrEnum):
    """How an action ended, or that it has not."""

    PENDING = "pending"
    """Begun, and its outcome is not known yet."""
    COMPLETED = "completed"
    """Its work is committed."""
    FAILED = "failed"
    """It raised, or said so with ``action.fail()``; its work is undone."""
    ROLLED_BACK = "rolled_back"
    """It did not fail by itself, but its work is undone: with a transaction around it, or because its process ended."""
    UNKNOWN = "unknown"
    """Nobody can know any more; derived when read, never stored."""


@attrs.frozen
class ActionRef:
    """The place of an action in its tree: enough to hang a child below it, in another process too."""

    id: UUID
    root_id: UUID


@attrs.frozen(kw_only=True)
class EntityRef:
    """One row of a concept, as actions name it."""

    type: str
    id: str


@attrs.frozen(kw_only=True)
class Action:
    """One recorded action.

    ``started_at``, ``completed_at`` and ``recorded_at`` are aware datetimes in UTC; the first two are the writer's
    clock, the last is the database's.
    ``duration_ms`` is measured with a monotonic clock, in fractional milliseconds.
    """

    id: UUID
    root_id: UUID
    parent_action_id: UUID | None
    action_type: str
    concept: str
    status: Status
    tenant_id: str
    user_id: str | None
    request_id: UUID | None
    correlation_id: str | None
    entity_type: str | None
    entity_id: str | None
    payload: JSONValue
    result: JSONValue
    metadata: JSONValue
    error_type: str | None
    error_code: str | None
    """SQLSTATE of a database error."""
    error_message: str | None
    started_at: datetime
    completed_at: datetime | None
    duration_ms: float | None
    recorded_at: datetime | None
    erased_by_action_id: UUID | None = None
    """The action that took out payload, result, metadata and error message; see ``Trail.erase``."""

    @property
    def ref(self) -> ActionRef:
        """The action's place in its tree, as ``parent=`` takes it."""
        return ActionRef(self.id, self.root_id)

    @property
    def entity(self) -> EntityRef | None:
        """The entity the action is about, when it names one in full."""
        if self.entity_type is None or self.entity_id is None:
            return None
        return EntityRef(type=self.entity_type, id=self.entity_id)


@attrs.frozen(kw_only=True)
class ActionTree:
    """An action with everything it caused, oldest child first."""

    action: Action
    children: tuple[ActionTree, ...] = ()

    def walk(self) -> Iterator[tuple[int, Action]]:
        """Yield every action of the tree with its depth, parents before children; the top has depth 0."""
        stack: list[tuple[int, ActionTree]] = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node.action
            stack.extend((depth + 1, child) for child in reversed(node.children))


@attrs.frozen(kw_only=True)
class ChainLink:
    """One member of a causal chain; ``depth`` counts the steps from the action that was asked about."""

    action: Action
    depth: int


@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """One page of a listing.

    Pass ``next`` as ``before=`` to get the following page; it is ``None`` on the last one.
    """

    items: tuple[T, ...]
    next: UUID | None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


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


@attrs.frozen
class Recovery:
    """How many actions had been begun and had no outcome, by what became of them."""

    completed: int = 0
    """An outcome was recorded, only the evidence was left."""
    failed: int = 0
    """Likewise."""
    rolled_back: int = 0
    """Of most of these it was found out now."""
    pending: int = 0
    """Their transaction is in progress, or their outcome is waited for."""
    unknown: int = 0
    """Nobody can know, or nobody has reported an outcome in time; one may still be reported."""

    def __add__(self, other: Recovery) -> Recovery:
        return Recovery(*map(operator.add, attrs.astuple(self), attrs.astuple(other)))


@attrs.frozen(kw_only=True)
class Erasure:
    """How much was taken out of the trail."""

    action_id: UUID
    """The action that tells of it."""
    actions: int
    """Actions whose payload, result, metadata or error message is gone."""
    pending: int
    """Begun actions whose payload or metadata is gone. What their outcome says is still to come."""
    row_changes: int
    """Row changes of which is left that they were made, and to which columns."""
    idempotency_keys: int
    """Keys whose input cannot be compared any more."""


@attrs.frozen(kw_only=True)
class Refresh:
    """What came of refreshing a view."""

    view: str
    """With its schema, quoted where SQL needs it."""
    refreshed: bool
    """``False``: another session is refreshing it, so this one did not."""
    action_id: UUID


@attrs.frozen(kw_only=True)
class LegalHold:
    """What must neither be erased nor leave for an archive, until it is released: all that fits everything said here."""

    name: str
    reason: str
    tenant_id: str | None = None
    user_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    concept: str | None = None
    action_type: str | None = None
    since: datetime | None = None
    """Begun then or later."""
    until: datetime | None = None
    """Begun before that."""
    placed_at: datetime
    """By the database's clock."""
    action_id: UUID
    """The action that placed it."""


@attrs.frozen(kw_only=True)
class RetentionPolicy:
    """How long actions must be kept that fit everything said here, and what they changed; and what becomes of them then."""

    name: str
    reason: str
    keep: timedelta | None
    """For whole days; ``None``: for ever."""
    outcome: RetentionOutcome
    """``"delete"`` or ``"archive"``."""
    tenant_id: str | None = None
    """``""`` for what belongs to none; ``None``: whatever it is."""
    concept: str | None = None
    action_type: str | None = None
    set_at: datetime
    """By the database's clock."""
    action_id: UUID
    """The action that set it."""


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
