"""What entering and leaving a tracked block must do, written once for both colours.

Each operation is a generator. It yields the I/O it needs as a step, gets the answer sent in (or the error thrown in), and
decides what comes next; the coloured layer only performs steps. The transaction status is read from the client's memory,
so deciding never costs a round trip.

The rules, in short:

* The row of a successful block is part of the block's own transaction: it commits with the work or not at all.
* The row of a failed block is written outside it, after the work is undone.
* Rows of inner blocks wait in the *unit* (one transaction, or one savepoint in a caller's) and are written with the
  outermost one in a single statement. Meanwhile the server remembers in a transaction-local setting which inner block
  finished last: a savepoint rolled back around finished blocks takes the setting back with it, so the statement can tell
  which of them still stand.
* What became of a transaction that the body itself ended cannot be known here. It is recorded as exactly that.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from asyncio import Task, current_task
from collections.abc import Generator
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import attrs
import psycopg
from psycopg.pq import TransactionStatus

from provenance import drivers, failures, ids
from provenance.context import CurrentAction, RequestFrame
from provenance.drivers import AnyConnection
from provenance.errors import MisusedAction, NotCommitted, TrailUnavailable, WrongColour
from provenance.failures import Failure
from provenance.models import ActionRef, Status
from provenance.statements import Statement
from provenance.statements import recording as statements
from provenance.statements.recording import ActionRow, Intent, Settings

logger = logging.getLogger("provenance")

T = TypeVar("T")


class Colour(Enum):
    """Whether a block waits by blocking or by ``await``."""

    SYNC = "with"
    ASYNC = "async with"


# --- Steps: the I/O an operation may ask for -------------------------------------------------------------------------


@attrs.frozen
class Checkout:
    """Take a connection from the pool. Answer: the connection, idle and in autocommit mode."""


@attrs.frozen
class Giveback:
    """Give a connection back to the pool. Answer: nothing."""

    connection: Any
    broken: bool


@attrs.frozen
class Run:
    """Run statements in one round trip. Answer: the list of decoded answers."""

    connection: Any
    statements: tuple[Statement[Any], ...]


@attrs.frozen
class CheckSchema:
    """Make sure, once per trail, that the schema is there. Answer: nothing."""

    connection: Any
    """Where to look; ``None`` for the journal's."""


@attrs.frozen
class Journal:
    """Write rows through the journal's own connection, durably and at once. Answer: nothing; never raises."""

    rows: tuple[ActionRow, ...]


@attrs.frozen
class JournalDoubt:
    """Write evidence of actions nobody can know the outcome of. Answer: nothing; never raises."""

    rows: tuple[ActionRow, ...]


@attrs.frozen
class Settle:
    """Write rows unless the transaction in doubt wrote them first. Answer: the recorded status of *action_id*."""

    rows: tuple[ActionRow, ...]
    action_id: UUID


@attrs.frozen
class ForgetIntent:
    """Drop the evidence that an action was begun, if its outcome is recorded now. Answer: nothing; never raises."""

    action_id: UUID


Step = Checkout | Giveback | Run | CheckSchema | Journal | JournalDoubt | Settle | ForgetIntent
Steps = Generator[Step, Any, T]

# --- State -----------------------------------------------------------------------------------------------------------

Owner = tuple[int, "Task[Any] | None"]


def owner_here() -> Owner:
    """Return who is running: a thread and, inside asyncio, a task."""
    try:
        task = current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), task


@attrs.frozen(kw_only=True)
class ActionSpec:
    """What the caller said about an action, checked."""

    action_type: str
    concept: str
    entity_type: str | None = None
    entity_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    request_id: UUID | None = None


@attrs.define(kw_only=True, eq=False)
class Unit:
    """One transaction of ours, or one savepoint in a caller's, with the rows that wait for its end."""

    connection: AnyConnection
    owner: Owner
    joined: bool
    """The transaction is the caller's: it is never committed or rolled back here."""
    pooled: bool
    """The connection goes back to the pool."""
    before: UUID | None = None
    """The action the caller's transaction was in before."""
    standing: list[ActionRow] = attrs.field(factory=list)
    """Inner blocks that were left and whose work is still part of the transaction, in the order they were left: finished
    ones, and failed ones without a savepoint, which are undone with the block around them."""
    settled: list[ActionRow] = attrs.field(factory=list)
    """Inner blocks whose outcome is final already: failed, or undone."""
    in_doubt: list[ActionRow] = attrs.field(factory=list)
    """Inner blocks whose body ended the transaction around them."""
    open_blocks: list[Block] = attrs.field(factory=list)
    ended: bool = False
    """The unit is over."""
    meddled: bool = False
    """The body ended the transaction: neither its work nor the client's picture of the connection can be relied on."""

    @property
    def status(self) -> TransactionStatus:
        return drivers.transaction_status(self.connection)

    def drop_undone(self, done: int) -> None:
        """Settle the finished blocks that a rolled-back savepoint of the caller's took with it."""
        while self.standing and (self.standing[-1].ordinal or 0) > done:
            self.settled.append(_undone(self.standing.pop(), "a savepoint around the finished block was rolled back"))

    def drop_above(self, height: int) -> None:
        """Settle the blocks inside a block whose work is undone now."""
        while len(self.standing) > height:
            row = self.standing.pop()
            self.settled.append(row if row.status == Status.FAILED else _undone(row, "undone with the enclosing action"))

    def take_settled(self) -> tuple[ActionRow, ...]:
        rows = tuple(self.settled)
        self.settled.clear()
        return rows

    def take_all_undone(self) -> tuple[ActionRow, ...]:
        """Return every waiting row as it stands when the whole unit is undone."""
        self.drop_above(0)
        return self.take_settled()


def _undone(row: ActionRow, why: str) -> ActionRow:
    return attrs.evolve(row, status=Status.ROLLED_BACK, ordinal=None, error_message=why)


# Which unit is open on a connection: a service that passes its connection on nests in it, and a second task that would
# interleave savepoints on it is refused.
_units: WeakKeyDictionary[AnyConnection, Unit] = WeakKeyDictionary()

# Numbers of finished inner blocks. One counter for the process, so that they grow along any one transaction, even over
# several units in it.
_ordinals = itertools.count(1)


class Block(CurrentAction):
    """One run of a tracked block: what is known of it, and where it stands."""

    __slots__ = (
        "colour",
        "correlation_id",
        "doomed",
        "enclosing",
        "entity_id",
        "entity_type",
        "failure",
        "handle",
        "height",
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
        "started_at",
        "started_ns",
        "tenant_id",
        "unit",
    )

    def __init__(
        self,
        spec: ActionSpec,
        *,
        colour: Colour,
        frame: RequestFrame | None,
        around: Block | None,
        parent: ActionRef | UUID | None,
        payload: str | None,
        metadata: str | None,
    ) -> None:
        now_ns = time.time_ns()
        own_id = ids.new_id_at(now_ns)
        # The root above a bare id is looked up by the database when the row is written.
        self.root_known = not isinstance(parent, UUID)
        self.parent_id = parent.id if isinstance(parent, ActionRef) else parent
        root_id = parent.root_id if isinstance(parent, ActionRef) else parent or own_id
        super().__init__(ActionRef(own_id, root_id), frame)
        self.started_at = ids.moment(now_ns)
        self.started_ns = time.monotonic_ns()
        self.resumed = False
        self.colour = colour
        self.owner = owner_here()
        # What the enclosing action was told explicitly holds inside it too.
        self.spec: ActionSpec = spec if around is None else _inherit(spec, around.spec)
        self.request_id = self.spec.request_id or (frame.request_id if frame else None)
        self.correlation_id = frame.correlation_id if frame else None
        self.tenant_id = self.spec.tenant_id or (frame.tenant_id if frame else "")
        self.entity_type = spec.entity_type
        self.entity_id = spec.entity_id
        self.payload = payload
        self.metadata = metadata
        self.result: str | None = None
        self.failure: str | None = None
        self.unit: Unit | None = None
        self.enclosing: Block | None = None
        self.savepoint: str | None = None
        self.height = 0
        self.doomed: str | None = None
        self.handle: object = None
        """What the body sees of the block; set by the tracking layer."""

    @classmethod
    def resuming(cls, intent: Intent, *, colour: Colour, frame: RequestFrame | None) -> Block:
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
            spec, colour=colour, frame=frame, around=None, parent=None, payload=intent.payload, metadata=intent.metadata
        )
        # The duration counts from the beginning, on another machine perhaps, so here it is by the wall clock.
        waited = max(block.started_at - intent.started_at, timedelta())
        block.started_ns -= waited // timedelta(microseconds=1) * 1000
        block.started_at = intent.started_at
        block.ref = ActionRef(intent.id, intent.root_id)
        block.parent_id = intent.parent_action_id
        block.correlation_id = intent.correlation_id
        block.resumed = True
        return block

    @property
    def label(self) -> str:
        return f"track_action({self.spec.action_type!r})"

    def row(self, status: Status, failure: Failure | None = None, *, ordinal: int | None = None) -> ActionRow:
        """Return the block's row as of now."""
        elapsed_ns = time.monotonic_ns() - self.started_ns
        return ActionRow(
            id=self.ref.id,
            root_id=self.ref.root_id if self.root_known else None,
            parent_action_id=self.parent_id,
            action_type=self.spec.action_type,
            concept=self.spec.concept,
            status=status.value,
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
            started_at=self.started_at.isoformat(),
            completed_at=(self.started_at + timedelta(microseconds=elapsed_ns // 1000)).isoformat(),
            duration_ms=elapsed_ns / 1_000_000,
            ordinal=ordinal,
        )


def _inherit(spec: ActionSpec, outer: ActionSpec) -> ActionSpec:
    return attrs.evolve(
        spec,
        user_id=spec.user_id or outer.user_id,
        tenant_id=spec.tenant_id or outer.tenant_id,
        request_id=spec.request_id or outer.request_id,
    )


# --- Entering --------------------------------------------------------------------------------------------------------


def enclosing_block(around: Block | None, colour: Colour, connection: AnyConnection | None) -> Block | None:
    """Return the block in whose transaction a new one belongs, or ``None``.

    Only code of the same thread and task may share a connection: two tasks that interleave savepoints would record work
    that does not exist.

    Raises:
        MisusedAction: the connection belongs to an action that another task or thread has open.
        WrongColour: the enclosing block of this task is of the other colour, so its connection cannot be used.
    """
    if connection is not None:
        unit = _units.get(connection)
        if unit is None:
            return None
        if unit.owner != owner_here():
            raise MisusedAction(
                "this connection is inside an action that another task or thread has open; give each its own connection"
            )
        return unit.open_blocks[-1]
    if around is None or not around.open or around.unit is None or around.unit.owner != owner_here():
        return None
    if around.colour is not colour:
        raise WrongColour(
            f"`{colour.value}` inside an open `{around.colour.value}` of the same task would work on another connection "
            f"and commit apart from {around.label}; use `{around.colour.value}` here too, or pass connection="
        )
    return around.unit.open_blocks[-1]


def enter(block: Block, *, connection: AnyConnection | None, transaction: bool, savepoint: bool) -> Steps[None]:
    """Open the block: nothing of the body has run yet, so whatever fails here has changed nothing.

    Raises:
        TrailUnavailable: the database cannot be reached.
        SchemaNotReady: it has not been migrated.
        MisusedAction: the transaction to work in is not usable.
    """
    if not transaction:
        yield CheckSchema(None)
    elif block.enclosing is not None:
        yield from _enter_nested(block, block.enclosing, savepoint=savepoint)
    elif connection is None:
        yield from _enter_own(block, (yield Checkout()), pooled=True)
    elif connection.autocommit and drivers.transaction_status(connection) == TransactionStatus.IDLE:
        yield from _enter_own(block, connection, pooled=False)
    else:
        yield from _enter_joined(block, connection)


def _open_unit(block: Block, connection: AnyConnection, *, joined: bool, pooled: bool, before: UUID | None) -> None:
    block.unit = Unit(connection=connection, owner=block.owner, joined=joined, pooled=pooled, before=before)
    block.unit.open_blocks.append(block)
    _units[connection] = block.unit
    drivers.hold(connection, block.label)


def _enter_own(block: Block, connection: AnyConnection, *, pooled: bool) -> Steps[None]:
    begin = statements.begin(connection.isolation_level, connection.read_only, connection.deferrable)
    try:
        yield CheckSchema(connection)
        yield Run(connection, (begin, statements.set_action(block.ref.id)))
    except BaseException as error:
        if pooled:
            yield Giveback(connection, True)
        raise _unavailable(block, error) from error
    _open_unit(block, connection, joined=False, pooled=pooled, before=None)


def _enter_joined(block: Block, connection: AnyConnection) -> Steps[None]:
    if drivers.transaction_status(connection) == TransactionStatus.INERROR:
        raise MisusedAction(
            f"{block.label}: the transaction of the given connection is aborted by an earlier error; roll it back first"
        )
    block.savepoint = f"provenance_{block.ref.id.hex}"
    opening = (statements.savepoint(block.savepoint), statements.READ_SETTINGS, statements.set_action(block.ref.id))
    settings: Settings
    try:
        _, settings, _ = yield Run(connection, opening)
    except psycopg.Error as error:
        raise _unavailable(block, error) from error
    try:
        yield CheckSchema(connection)
    except BaseException:
        yield Run(connection, (statements.rollback_to(block.savepoint), statements.release(block.savepoint)))
        raise
    _open_unit(block, connection, joined=True, pooled=False, before=settings.action_id)


def _unavailable(block: Block, error: BaseException) -> BaseException:
    """Return what to raise when opening the transaction failed."""
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return TrailUnavailable(
            f"{block.label}: the connection is not usable ({type(error).__name__}: {error}); nothing has been done yet"
        )
    return error


def _enter_nested(block: Block, enclosing: Block, *, savepoint: bool) -> Steps[None]:
    unit = enclosing.unit
    assert unit is not None  # noqa: S101 - enclosing_block() returns blocks with a unit only
    if unit.status != TransactionStatus.INTRANS:
        raise MisusedAction(
            f"{block.label}: the transaction of the enclosing {enclosing.label} is not usable any more: an error aborted "
            "it or the body ended it; let the enclosing block end first"
        )
    opening = [statements.READ_SETTINGS, statements.set_action(block.ref.id)]
    if savepoint:
        block.savepoint = f"provenance_{block.ref.id.hex}"
        opening.insert(1, statements.savepoint(block.savepoint))
    settings: Settings
    settings, *_ = yield Run(unit.connection, tuple(opening))
    if settings.action_id is None:
        _meddle(unit, enclosing, f"the body of {enclosing.label} ended its transaction and began another")
        raise MisusedAction(f"{block.label}: {enclosing.doomed}; let the enclosing block end first")
    unit.drop_undone(settings.done)
    block.unit, block.height = unit, len(unit.standing)
    unit.open_blocks.append(block)


def _meddle(unit: Unit, enclosing: Block, how: str) -> None:
    unit.meddled = True
    enclosing.doomed = how


# --- Leaving ---------------------------------------------------------------------------------------------------------

_ENDED = "the block ended its own transaction; what became of its work cannot be known"


def leave(block: Block, error: BaseException | None) -> Steps[None]:
    """Close the block and record its outcome.

    With *error*, the body raised it: nothing is raised here, the caller lets it go on.

    Raises:
        NotCommitted: the body returned normally, but its work is not committed.
        psycopg.Error: the server refused the COMMIT.
    """
    try:
        yield from _leave(block, error)
    finally:
        if block.resumed:
            yield ForgetIntent(block.ref.id)


def _leave(block: Block, error: BaseException | None) -> Steps[None]:
    unit = block.unit
    if unit is None:
        yield from _leave_detached(block, error)
        return
    if unit.ended or block not in unit.open_blocks:
        yield from _leave_late(block, error)
        return
    _pop(unit, block)
    verdict = _verdict(block, unit, error)
    if block.enclosing is not None:
        yield from _leave_nested(block, block.enclosing, unit, verdict)
        return
    unit.ended = True
    _units.pop(unit.connection, None)
    drivers.release(unit.connection)
    if unit.joined:
        yield from _leave_joined(block, unit, verdict)
        return
    try:
        yield from _leave_own(block, unit, verdict)
    finally:
        if unit.pooled:
            yield Giveback(unit.connection, unit.meddled or unit.status != TransactionStatus.IDLE)


@attrs.frozen(kw_only=True)
class _Verdict:
    """How a body ended."""

    raised: bool = False
    """The body raised, so nothing else may be."""
    failure: Failure | None = None
    """What to store."""
    refusal: NotCommitted | None = None
    """What to raise although the body returned."""


def _not_committed(reason: str) -> _Verdict:
    refusal = NotCommitted(f"{reason}; its work is rolled back")
    return _Verdict(failure=failures.describe(refusal), refusal=refusal)


def _pop(unit: Unit, block: Block) -> None:
    """Close the block, and with it blocks inside that were never left: abandoned generators."""
    while unit.open_blocks:
        top = unit.open_blocks.pop()
        if top is block:
            return
        block.doomed = f"{top.label} inside {block.label} was still open at its end"


def _verdict(block: Block, unit: Unit, error: BaseException | None) -> _Verdict:
    if error is not None:
        return _Verdict(raised=True, failure=failures.describe(error))
    if block.failure is not None:
        return _Verdict(failure=Failure(error_type=None, error_code=None, error_message=block.failure))
    if block.doomed is not None:
        return _not_committed(block.doomed)
    if unit.status == TransactionStatus.INERROR:
        return _not_committed(
            f"{block.label}: a database error inside the block was swallowed and left the transaction aborted"
        )
    if unit.status not in (TransactionStatus.INTRANS, TransactionStatus.IDLE):
        return _not_committed(f"{block.label}: the connection was lost inside the block")
    return _Verdict()


def _leave_detached(block: Block, error: BaseException | None) -> Steps[None]:
    if error is not None:
        row = block.row(Status.FAILED, failures.describe(error))
    elif block.failure is not None:
        row = block.row(Status.FAILED, Failure(error_type=None, error_code=None, error_message=block.failure))
    else:
        row = block.row(Status.COMPLETED)
    yield Journal((row,))


def _leave_late(block: Block, error: BaseException | None) -> Steps[None]:
    """Leave a block whose transaction ended before it: a generator that outlived the block it was started in."""
    if error is not None:
        yield Journal((block.row(Status.FAILED, failures.describe(error)),))
        return
    refusal = NotCommitted(f"{block.label}: the enclosing block ended first and took the work with it")
    yield Journal((block.row(Status.ROLLED_BACK, failures.describe(refusal)),))
    raise refusal


def _leave_own(block: Block, unit: Unit, verdict: _Verdict) -> Steps[None]:
    if verdict.failure is None and unit.status == TransactionStatus.INTRANS:
        yield from _commit(block, unit)
        return
    ended = yield from _roll_back(block, unit)
    yield from _record_failure(block, unit, verdict.failure, ended=ended)
    _raise_refusal(block, verdict, ended=ended)


def _raise_refusal(block: Block, verdict: _Verdict, *, ended: bool) -> None:
    if ended and not verdict.raised:
        raise NotCommitted(f"{block.label}: {_ENDED}; let the block commit, or raise to roll back")
    if verdict.refusal is not None:
        raise verdict.refusal


def _roll_back(block: Block, unit: Unit) -> Steps[bool]:
    """Undo the work; return whether the body had ended the block's transaction before."""
    status = unit.status
    try:
        if status == TransactionStatus.INTRANS:
            settings: Settings
            settings, _ = yield Run(unit.connection, (statements.READ_SETTINGS, statements.ROLLBACK))
            return unit.meddled or settings.action_id is None
        if status == TransactionStatus.INERROR:
            yield Run(unit.connection, (statements.ROLLBACK,))
    except psycopg.Error as error:
        # The server undoes the work when it notices that the connection is gone.
        logger.warning("provenance: rolling back %s failed: %s", block.label, type(error).__name__)
    return unit.meddled or status == TransactionStatus.IDLE


def _record_failure(block: Block, unit: Unit, failure: Failure | None, *, ended: bool) -> Steps[None]:
    unit.meddled = ended
    if ended:
        doubt = failure.error_message if failure else None
        reason = Failure(
            error_type=None, error_code=None, error_message=_ENDED + (f"; it then failed: {doubt}" if doubt else "")
        )
        standing = [attrs.evolve(row, error_message=_ENDED) for row in unit.standing]
        unit.standing.clear()
        yield from _write(unit, unit.take_settled())
        yield JournalDoubt((block.row(Status.PENDING, reason), *standing, *unit.in_doubt))
        return
    yield from _write(unit, (block.row(Status.FAILED, failure), *unit.take_all_undone()))


_DEADLINE = timedelta(seconds=5)


def _write(unit: Unit, rows: tuple[ActionRow, ...]) -> Steps[None]:
    """Write rows of undone work durably: on the block's own connection while it is healthy, else through the journal."""
    if not rows:
        return
    if not unit.joined and unit.status == TransactionStatus.IDLE:
        transaction = (
            statements.BEGIN,
            *statements.journal_settings(_DEADLINE),
            statements.insert_missing(rows),
            statements.COMMIT,
        )
        try:
            yield Run(unit.connection, transaction)
        except psycopg.Error as error:
            logger.info("provenance: writing on the work's connection failed: %s", type(error).__name__)
        else:
            return
    yield Journal(rows)


def _commit(block: Block, unit: Unit) -> Steps[None]:
    row = attrs.evolve(block.row(Status.COMPLETED), fenced=True)
    rows = (row, *unit.standing, *unit.settled)
    try:
        # COMMIT of an aborted transaction returns normally, with the tag ROLLBACK. It cannot be reached here: the INSERT
        # before it, in the same trip, raises in an aborted transaction.
        yield Run(unit.connection, (statements.insert(rows), statements.COMMIT))
    except BaseException as error:  # noqa: BLE001 - an interruption here leaves the outcome open like any error
        yield from _not_acknowledged(block, unit, error)


def _fence_down(error: BaseException) -> bool:
    """Whether the INSERT found itself in another transaction than the one the block opened."""
    return isinstance(error, psycopg.errors.NotNullViolation) and error.diag.column_name == "id"


def _not_acknowledged(block: Block, unit: Unit, error: BaseException) -> Steps[None]:
    """Handle a final INSERT and COMMIT that did not both come back as done."""
    failure = failures.describe(error)
    if unit.status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        # Not committed for certain: the COMMIT was never reached.
        try:
            yield Run(unit.connection, (statements.ROLLBACK,))
        except psycopg.Error:
            logger.warning("provenance: rolling back %s failed", block.label)
        yield from _record_failure(block, unit, failure, ended=_fence_down(error))
        if _fence_down(error):
            raise NotCommitted(f"{block.label}: {_ENDED}; let the block commit, or raise to roll back") from error
        if isinstance(error, psycopg.Error) and not (error.sqlstate or "").startswith("40"):
            raise NotCommitted(
                f"{block.label}: the row of the action could not be written, so its work is rolled back: "
                f"{failure.error_message}"
            ) from error
        # Serialization failures and deadlocks go out as they are: callers retry on them. So do interruptions.
        raise error
    if unit.status == TransactionStatus.IDLE and isinstance(error, psycopg.Error) and error.sqlstate is not None:
        # The server answered COMMIT with an error: a deferred constraint, a serialization failure.
        yield from _record_failure(block, unit, failure, ended=False)
        raise error
    yield from _settle(block, unit, error, failure)


def _settle(block: Block, unit: Unit, error: BaseException, failure: Failure) -> Steps[None]:
    """Find out what became of a COMMIT whose answer was lost. The action's row is the receipt."""
    if unit.pooled:
        # Before asking: an open transaction on this connection would hold the answer back.
        yield Giveback(unit.connection, True)
        unit.pooled = False
    rows = (block.row(Status.FAILED, failure), *unit.take_all_undone())
    try:
        status = yield Settle(rows, block.ref.id)
    except Exception as unreachable:  # noqa: BLE001 - whatever keeps the answer away, the caller gets its own error
        logger.error(  # noqa: TRY400 - a traceback could quote the row
            "provenance: the outcome of %s %s is not known: its COMMIT was not acknowledged (%s) and the journal cannot "
            "be asked (%s)",
            block.label,
            block.ref.id,
            failure.error_type,
            type(unreachable).__name__,
        )
        error.add_note(f"provenance: whether action {block.ref.id} was committed is not known")
        raise error from None
    if status != Status.COMPLETED or not isinstance(error, Exception):
        raise error


def _leave_joined(block: Block, unit: Unit, verdict: _Verdict) -> Steps[None]:
    assert block.savepoint is not None  # noqa: S101 - a joined block always has one
    if verdict.failure is None:
        closing = (
            statements.insert((block.row(Status.COMPLETED), *unit.standing)),
            statements.release(block.savepoint),
            statements.set_action(unit.before),
        )
        try:
            yield Run(unit.connection, closing)
        except psycopg.Error as error:
            failure = failures.describe(error)
            refusal = NotCommitted(
                f"{block.label}: the row of the action could not be written, so its work is rolled back: "
                f"{failure.error_message}"
            )
            refusal.__cause__ = error
            verdict = _Verdict(failure=failure, refusal=refusal)
        else:
            yield from _journal(unit.take_settled())
            return
    ended = (yield from _undo_savepoint(block, unit)) or unit.meddled
    yield from _record_failure(block, unit, verdict.failure, ended=ended)
    _raise_refusal(block, verdict, ended=ended)


def _journal(rows: tuple[ActionRow, ...]) -> Steps[None]:
    if rows:
        yield Journal(rows)


def _undo_savepoint(block: Block, unit: Unit) -> Steps[bool]:
    """Roll back to the block's savepoint; return whether it was gone, because the body ended the transaction around it.

    Rolling back takes the settings back as well: the enclosing action is the current one again.
    """
    assert block.savepoint is not None  # noqa: S101 - called for blocks with a savepoint only
    if unit.status == TransactionStatus.IDLE:
        return True
    try:
        yield Run(unit.connection, (statements.rollback_to(block.savepoint), statements.release(block.savepoint)))
    except psycopg.errors.InvalidSavepointSpecification:
        return True
    except psycopg.Error as error:
        # The connection is lost: the server undoes everything.
        logger.warning("provenance: rolling back %s failed: %s", block.label, type(error).__name__)
    return False


def _leave_nested(block: Block, enclosing: Block, unit: Unit, verdict: _Verdict) -> Steps[None]:
    if verdict.failure is None:
        refusal = yield from _finish_nested(block, enclosing, unit)
        if refusal is None:
            return
        verdict = _Verdict(failure=failures.describe(refusal), refusal=refusal)
    row = block.row(Status.FAILED, verdict.failure)
    if block.savepoint is None:
        # Its work cannot be undone alone.
        enclosing.doomed = f"{block.label} failed inside {enclosing.label} and has no savepoint to go back to"
        if unit.status == TransactionStatus.INTRANS:
            yield Run(unit.connection, (statements.set_action(enclosing.ref.id),))
        unit.standing.append(row)
    elif (yield from _undo_savepoint(block, unit)):
        _meddle(unit, enclosing, f"{block.label} inside {enclosing.label} ended the transaction around it")
        unit.in_doubt.append(attrs.evolve(row, error_message=_ENDED))
    else:
        unit.drop_above(block.height)
        unit.settled.append(row)
        if unit.joined:
            # The caller may undo its whole transaction later; these outcomes hold whatever it does.
            yield Journal(unit.take_settled())
    if verdict.refusal is not None:
        raise verdict.refusal


def _finish_nested(block: Block, enclosing: Block, unit: Unit) -> Steps[NotCommitted | None]:
    """Note that an inner block has finished; return why it cannot count as finished, if so."""
    ordinal = next(_ordinals)
    closing = [statements.READ_SETTINGS, statements.set_action(enclosing.ref.id), statements.set_done(ordinal)]
    if block.savepoint is not None:
        closing.insert(1, statements.release(block.savepoint))
    try:
        settings: Settings
        settings, *_ = yield Run(unit.connection, tuple(closing))
    except psycopg.Error as error:
        refusal = NotCommitted(f"{block.label}: the savepoint around the block is gone: its body ended the transaction")
        refusal.__cause__ = error
        return refusal
    except BaseException as interruption:
        # Ctrl-C or a cancelled task: whether the block counts as finished is not known, so it must not.
        enclosing.doomed = f"{block.label} inside {enclosing.label} was interrupted at its end"
        unit.settled.append(block.row(Status.FAILED, failures.describe(interruption)))
        raise
    unit.drop_undone(settings.done)
    if settings.action_id is None:
        # A block without savepoint notices only here that its body ended the transaction.
        _meddle(unit, enclosing, f"{block.label} inside {enclosing.label} ended the transaction around it")
        unit.in_doubt.append(block.row(Status.PENDING, Failure(error_type=None, error_code=None, error_message=_ENDED)))
        raise NotCommitted(f"{block.label}: {_ENDED}")
    if settings.action_id != block.ref.id:
        return NotCommitted(f"{block.label}: its body rolled back to a savepoint from before the block")
    unit.standing.append(block.row(Status.COMPLETED, ordinal=ordinal))
    return None
