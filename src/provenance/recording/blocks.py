"""What is known of open blocks, and of the transactions they share."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast
from uuid import UUID

import attrs
from psycopg import IsolationLevel

from provenance import drivers, ids
from provenance.context import CurrentAction, RequestFrame, innermost_action, set_innermost_action
from provenance.drivers import AnyConnection
from provenance.failures import Failure, describe
from provenance.models import ActionRef, Status
from provenance.recording.callers import ActionSpec, Colour, Owner, inherit, owner_here
from provenance.statements.intents import Evidence, Intent, Transaction
from provenance.statements.recording import ActionRow, Settings

# Called for every transaction: list[ActionRow] takes several times as long to make the same list.
_no_rows = cast("Callable[[], list[ActionRow]]", list)
_none_owed = cast("Callable[[], list[tuple[Block, ActionRow]]]", list)
_no_blocks = cast("Callable[[], list[Block]]", list)


@attrs.define(kw_only=True, eq=False)
class Unit:
    """One transaction of ours, or one savepoint in a caller's, with the rows that wait for its end.

    Code may be interrupted between any two calls, and a row must not be lost then. So it is put where it goes before it is
    taken from where it was: the primary key sees to it that nothing is recorded twice.
    """

    connection: AnyConnection
    outermost: Block
    owner: Owner
    joined: bool
    """The transaction is the caller's: it is never committed or rolled back here."""
    standing: list[ActionRow] = attrs.field(factory=_no_rows)
    """Inner blocks that were left and whose work is still part of the transaction, in the order they were left: finished
    ones, and failed ones without a savepoint, which are undone with the block around them."""
    settled: list[ActionRow] = attrs.field(factory=_no_rows)
    """Inner blocks whose outcome is final already: failed, or undone."""
    owed: list[tuple[Block, ActionRow]] = attrs.field(factory=_none_owed)
    """Inner blocks that have finished without the server knowing it, in the order in which they were left."""
    in_doubt: list[ActionRow] = attrs.field(factory=_no_rows)
    """Inner blocks whose body ended the transaction around them."""
    open_blocks: list[Block] = attrs.field(factory=_no_blocks)
    ended: bool = False
    """The unit is over."""
    undoing: bool = False
    """Its savepoint is being rolled back: if that is gone, it has been."""
    ending: bool = False
    """Its COMMIT or ROLLBACK has been asked for: that the transaction is over is not the body's doing."""
    undone: bool = False
    """Its work is undone, and the rows that say so may not be written yet."""
    meddled: bool = False
    """The body ended the transaction: neither its work nor the client's picture of the connection can be relied on."""

    @property
    def status(self) -> int:
        """The state of its transaction, a ``TransactionStatus``."""
        return drivers.transaction_status(self.connection)

    def __str__(self) -> str:
        return self.outermost.label

    @property
    def innermost(self) -> Block | None:
        """The innermost block that somebody can still leave, or ``None`` when the unit is over."""
        for block in reversed(self.open_blocks):
            if block.open:
                return block
        return None

    def pop(self, block: Block) -> None:
        """Close a block, if it is open, and with it blocks inside that were never left: abandoned generators."""
        while block in self.open_blocks:
            if (top := self.open_blocks[-1]) is not block:
                block.doomed = f"{top.label} inside {block.label} was still open at its end"
            self.open_blocks.pop()

    def end(self) -> None:
        """Let go of the connection: no block is open on it any more."""
        self.ended = True
        drivers.release(self.connection)

    def drop_undone(self, done: int) -> None:
        """Settle the finished blocks that a rolled-back savepoint of the caller's took with it."""
        # In a transaction that the body began by itself, the setting says nothing about the one before.
        while not self.meddled and self.standing and (self.standing[-1].ordinal or 0) > done:
            self.settled.append(_undone(self.standing[-1], "a savepoint around the finished block was rolled back"))
            self.standing.pop()

    def marked(self, block: Block) -> Block:
        """Return the block that the settings name, as far as the server knows, when *block* is the innermost one open."""
        for left, _ in self.owed:
            if left.marked:
                return left
        return block.nearest_marked

    def leave_untold(self) -> None:
        """Count what is owed among what waits for the end of the unit: its fate is that of the rest."""
        drivers.nothing_before_next(self.connection)
        self.standing += [row for _, row in self.owed]
        self.owed.clear()

    def finished(self, block: Block) -> tuple[ActionRow, ...]:
        """Return the rows of the unit's outermost block and of those inside it, as they are when it commits.

        What the server does not know of stands if the settings are those of the block that was left last.
        """
        if not self.owed:
            return block.row(Status.COMPLETED, fence=block.ref.id), *self.standing
        rows = (
            block.row(Status.COMPLETED, fence=self.marked(block).ref.id),
            *self.standing,
            *(attrs.evolve(row, ordinal=None) for _, row in self.owed),
        )
        self.leave_untold()
        return rows

    def drop_above(self, height: int) -> None:
        """Settle the blocks inside a block whose work is undone now."""
        self.leave_untold()
        while len(self.standing) > height:
            row = self.standing[-1]
            self.settled.append(
                row if row.status == Status.FAILED else _undone(row, "undone with the enclosing action")
            )
            self.standing.pop()

    def meddle(self, enclosing: Block, how: str) -> None:
        """Note that a body ended the transaction, so that the block around it cannot succeed."""
        self.meddled = True
        enclosing.doomed = how

    def all_undone(self) -> tuple[ActionRow, ...]:
        """Return every waiting row as it stands when the whole unit is undone."""
        self.drop_above(0)
        return tuple(self.settled)

    def knows(self, block: Block) -> bool:
        """Return whether the row of an inner block waits already."""
        waiting = (*self.standing, *self.settled, *self.in_doubt, *(row for _, row in self.owed))
        return any(row.id == block.ref.id for row in waiting)


def _undone(row: ActionRow, why: str) -> ActionRow:
    return attrs.evolve(row, status=Status.ROLLED_BACK, ordinal=None, error_message=why)


class Block(CurrentAction):
    """One run of a tracked block: what is known of it, and where it stands."""

    __slots__ = (
        "around",
        "before",
        "borrowed",
        "colour",
        "correlation_id",
        "declared",
        "doomed",
        "enclosing",
        "entity_id",
        "entity_type",
        "failure",
        "handle",
        "height",
        "host",
        "intended",
        "interruption",
        "key",
        "level",
        "marked",
        "metadata",
        "owner",
        "parent_id",
        "payload",
        "request_id",
        "result",
        "resumed",
        "root_known",
        "savepoint",
        "spec",
        "started_ns",
        "started_us",
        "surrounding",
        "switched",
        "tenant_id",
        "unit",
        "unit_owner",
        "xid",
    )

    def __init__(
        self,
        spec: ActionSpec,
        *,
        host: Any,
        colour: Colour,
        frame: RequestFrame | None,
        around: Block | None,
        parent: ActionRef | UUID | None,
        payload: str | None,
        metadata: str | None,
        intended: bool = False,
        key: str | None = None,
    ) -> None:
        now_ns = time.time_ns()
        own_id = ids.new_id_at(now_ns)
        # The root above a bare id is looked up by the database when the row is written.
        self.root_known = not isinstance(parent, UUID)
        self.parent_id = parent.id if isinstance(parent, ActionRef) else parent
        root_id = parent.root_id if isinstance(parent, ActionRef) else parent or own_id
        super().__init__(ActionRef(own_id, root_id), frame)
        self.started_us = now_ns // 1000  # by the wall clock
        self.started_ns = time.monotonic_ns()
        self.intended = intended
        """There is to be evidence that the action was begun, from before its body runs."""
        self.declared = False  # there may be such evidence already
        self.key = key
        """Of several actions with the same one, one is done."""
        # At which level a transaction of its own must be, whatever that of its connection.
        self.level: IsolationLevel | None = None
        self.resumed = False
        self.host = host
        self.colour = colour
        self.owner = self.unit_owner = owner_here()
        self.surrounding = innermost_action()
        """What was the innermost action before, to be put back."""
        # What the enclosing action was told explicitly holds inside it too.
        self.spec: ActionSpec = spec if around is None else inherit(spec, around.spec)
        self.request_id = self.spec.request_id or (frame.request_id if frame else None)
        self.correlation_id = frame.correlation_id if frame else None
        self.tenant_id = self.spec.tenant_id or (frame.tenant_id if frame else "")
        self.entity_type, self.entity_id = spec.entity_type, spec.entity_id
        self.payload = payload
        self.metadata = metadata
        self.result: str | None = None
        self.failure: Failure | None = None
        self.unit: Unit | None = None
        # What it has from the pool, and whether that was not in autocommit mode before.
        self.borrowed: Any = None
        self.switched = False
        self.around = around
        """The block this one was opened in, whatever connection that is on."""
        self.xid: str | None = None
        """The transaction, where its receipt may be somebody else's: of actions there is evidence of."""
        self.enclosing: Block | None = None
        self.marked = True
        """The settings of the transaction name it while it is the innermost one, and what it changes is stamped with it."""
        self.savepoint: UUID | None = None
        """What the savepoint around it is named after, where it has one."""
        self.before: Settings | None = None
        """The transaction's settings when the block was entered."""
        self.height = 0
        self.doomed: str | None = None
        self.interruption: BaseException | None = None
        """What interrupted the recording; raised once that is done."""
        self.handle: object = None
        """What the body sees of the block, from its beginning on; set by the tracking layer."""

    @classmethod
    def resuming(cls, intent: Intent, *, host: Any, colour: Colour, frame: RequestFrame | None) -> Block:
        """Return a block that goes on with an action begun elsewhere, under its identity."""
        spec = ActionSpec(
            action_type=intent.action_type,
            concept=intent.concept,
            entity_type=intent.entity_type,
            entity_id=intent.entity_id,
            user_id=intent.user_id,
            tenant_id=intent.tenant_id,
            request_id=intent.request_id,
        )
        block = cls(
            spec,
            host=host,
            colour=colour,
            frame=frame,
            around=None,
            parent=None,
            payload=intent.payload,
            metadata=intent.metadata,
            intended=True,
        )
        # The duration counts from the beginning, on another machine perhaps, so here it is by the wall clock.
        started_us = ids.microseconds(intent.started_at)
        block.started_ns -= max(block.started_us - started_us, 0) * 1000
        block.started_us = started_us
        block.ref = ActionRef(intent.id, intent.root_id)
        block.parent_id = intent.parent_action_id
        block.correlation_id = intent.correlation_id
        block.resumed = True
        return block

    def described(self, error: BaseException) -> Failure:
        """Return what to store about an error of this block's."""
        return describe(error, self.host.redactor)

    @property
    def nearest_marked(self) -> Block:
        """The block itself, or the nearest one around it that the settings name."""
        block = self
        while not block.marked and block.enclosing is not None:
            block = block.enclosing
        return block

    def resume(self) -> None:
        """Make the block the innermost action here, in whatever thread, task or Context this is."""
        self.surrounding = innermost_action()
        set_innermost_action(self)
        self.owner = owner_here()
        if self.unit is not None:
            self.unit_owner, self.unit.owner = self.unit.owner, self.owner

    def suspend(self) -> None:
        """Put back what was the innermost action before; by value, and only where this block still is it."""
        if innermost_action() is self:
            surrounding = self.surrounding
            set_innermost_action(None if surrounding is None else live_action(surrounding))
        if self.unit is not None:
            self.unit.owner = self.unit_owner

    def close(self) -> None:
        """Note that the block has been left, or that nobody can leave it any more."""
        self.open = False

    @property
    def of_the_parent(self) -> bool:
        """Whether this process was forked inside the block: its parent is to end it, on a connection of its own."""
        return self.owner[0] != os.getpid()

    @property
    def unfinished(self) -> bool:
        """Whether something is still to be done about the block, by this process."""
        return (self.open or self.borrowed is not None) and not self.of_the_parent

    @property
    def stale(self) -> bool:
        """Whether the block is not around what runs here, though the context says so."""
        if self.open and (self.unit is None or not self.unit.ended):
            return False
        # Another task may have been started inside a block that has ended since: that is what caused it.
        return self.owner == owner_here()

    @property
    def label(self) -> str:
        return f"track_action({self.spec.action_type!r})"

    def row(
        self, status: Status, failure: Failure | None = None, *, ordinal: int | None = None, fence: UUID | None = None
    ) -> ActionRow:
        """Return the block's row as of now."""
        elapsed_ns = time.monotonic_ns() - self.started_ns
        return ActionRow(
            id=self.ref.id,
            root_id=self.ref.root_id if self.root_known else None,
            parent_action_id=self.parent_id,
            action_type=self.spec.action_type,
            concept=self.spec.concept,
            status=str.__str__(status),
            tenant_id=self.tenant_id,
            user_id=self.spec.user_id or (self.frame.user_id if self.frame else None),
            request_id=self.request_id,
            correlation_id=self.correlation_id,
            entity_type=self.entity_type,
            entity_id=self.entity_id,
            payload=self.payload,
            result=self.result,
            metadata=self.metadata,
            error_type=failure.error_type if failure else None,
            error_code=failure.error_code if failure else None,
            error_message=failure.error_message if failure else None,
            started_at=ids.moment(self.started_us),
            completed_at=ids.moment(self.started_us + elapsed_ns // 1000),
            duration_ms=elapsed_ns / 1_000_000,
            ordinal=ordinal,
            fence=fence,
            intended=self.intended,
        )

    def evidence(self, transaction: Transaction | None, *, joined: bool = False) -> Evidence:
        """Return what is to be known of the block before its body runs."""
        return Evidence(
            row=self.row(Status.PENDING),
            worker=f"{_host_name()}:{os.getpid()}",
            transaction=transaction,
            joined=joined,
            key=self.key if transaction is None else None,
        )


@cache
def _host_name() -> str:
    return socket.gethostname()


def live_action(action: CurrentAction | None) -> CurrentAction | None:
    """Return the nearest action, from this one outwards, that is really around what runs here.

    A block of this very task is not once it has ended, or once nobody can leave it any more: blocks that were left out of
    order, or in a hurry, are left behind in the context.
    """
    while isinstance(action, Block) and action.stale:
        action = action.around
    return action


def unit_on(connection: AnyConnection) -> Unit | None:
    """Return the unit that is open on a connection.

    A service that passes its connection on nests in it, and a second task that would interleave savepoints on it is refused.
    """
    unit: Unit | None = drivers.holder(connection)
    return unit
