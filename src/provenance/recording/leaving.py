"""What leaving a block must do: the part of the protocol that decides what the trail will say."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import attrs
import psycopg
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.errors import NotCommitted, TrailUnavailable
from provenance.failures import Failure
from provenance.models import Status
from provenance.recording.blocks import Block, Unit
from provenance.recording.owed import ENDED, owe, restored
from provenance.recording.steps import Forget, Giveback, Journal, JournalDoubt, Quiesce, Run, Settle, Steps
from provenance.statements import Statement, commands, intents
from provenance.statements import recording as statements
from provenance.statements.recording import ActionRow, Settings

# What runs here may be dropped where it waits, by an interruption that struck further out: it is closed then, by a
# GeneratorExit, and must not ask for I/O any more.

logger = logging.getLogger("provenance")

T = TypeVar("T")


def leave(block: Block, error: BaseException | None) -> Steps[None]:
    """Close the block and record its outcome. If it raises with the block still open, it was cut short.

    With *error*, the body raised it: nothing is raised here, the caller lets it go on. A process that was forked inside the
    block leaves it without a word.

    Raises:
        NotCommitted: the body returned normally, but its work is not committed.
        psycopg.Error: the server refused the COMMIT.
    """
    if block.of_the_parent:
        block.close()
        return
    refusal = yield from _leave(block, error)
    try:
        if block.interruption is not None:
            raise block.interruption from refusal
        if refusal is not None:
            raise refusal
    finally:
        del refusal  # or its traceback and this frame would keep each other, and the block, alive


def _leave(block: Block, error: BaseException | None) -> Steps[BaseException | None]:
    """Leave the block and return what is to be raised."""
    refusal = yield from _outcome(block, error)
    if block.unit is not None and block.unit.outermost is block and not block.unit.ended:
        block.unit.end()
    block.close()
    if block.borrowed is not None:
        assert block.unit is not None  # noqa: S101 - only a block with a unit has a connection from the pool
        yield Giveback(block, block.unit.meddled or block.unit.status != TransactionStatus.IDLE)
    return refusal


def _outcome(block: Block, error: BaseException | None) -> Steps[BaseException | None]:
    unit = block.unit
    if unit is None:
        yield from leave_detached(block, error)
        return None
    if unit.ended or block not in unit.open_blocks:
        return (yield from _leave_late(block, error))
    unit.pop(block)
    status = unit.status
    if status == TransactionStatus.ACTIVE:
        yield Quiesce(unit.connection)
        status = unit.status
    verdict = _verdict(block, status, error)
    if block.enclosing is not None:
        return (yield from _leave_nested(block, block.enclosing, unit, verdict))
    if unit.joined:
        return (yield from _leave_joined(block, unit, verdict))
    return (yield from _leave_own(block, unit, verdict))


@attrs.frozen(kw_only=True)
class _Verdict:
    """How a body ended."""

    raised: bool = False
    """The body raised, so nothing else may be."""
    failure: Failure | None = None
    """What to store."""
    refusal: Exception | None = None
    """What to raise although the body returned."""


_GOOD = _Verdict()


def _not_committed(block: Block, reason: str) -> _Verdict:
    refusal = NotCommitted(f"{reason}; its work is rolled back")
    return _Verdict(failure=block.described(refusal), refusal=refusal)


def _verdict(block: Block, status: int, error: BaseException | None) -> _Verdict:
    if error is not None:
        return _Verdict(raised=True, failure=block.described(error))
    if block.failure is not None:
        return _Verdict(failure=block.failure)
    if block.doomed is not None:
        return _not_committed(block, block.doomed)
    if status in (TransactionStatus.INTRANS, TransactionStatus.IDLE):
        return _GOOD
    if status == TransactionStatus.INERROR:
        return _not_committed(
            block, f"{block.label}: a database error inside the block was swallowed and left the transaction aborted"
        )
    if status == TransactionStatus.ACTIVE:
        return _not_committed(
            block,
            f"{block.label}: a query is still in progress on the connection, a stream() that was not read to its end "
            "perhaps; close it inside the block",
        )
    return _not_committed(block, f"{block.label}: the connection was lost inside the block")


def leave_detached(block: Block, error: BaseException | None) -> Steps[None]:
    if error is not None:
        row = block.row(Status.FAILED, block.described(error))
    elif block.failure is not None:
        row = block.row(Status.FAILED, block.failure)
    else:
        row = block.row(Status.COMPLETED)
    yield Journal((row,))


def _leave_late(block: Block, error: BaseException | None) -> Steps[NotCommitted | None]:
    """Leave a block whose transaction ended before it: a generator that outlived the block it was started in."""
    if error is not None:
        yield Journal((block.row(Status.FAILED, block.described(error)),))
        return None
    refusal = NotCommitted(f"{block.label}: the enclosing block ended first and took the work with it")
    yield Journal((block.row(Status.ROLLED_BACK, block.described(refusal)),))
    return refusal


def _leave_own(block: Block, unit: Unit, verdict: _Verdict) -> Steps[BaseException | None]:
    if verdict.failure is None and unit.status == TransactionStatus.INTRANS:
        return (yield from _commit(block, unit))
    ended = yield from _roll_back(block, unit)
    yield from _record_failure(block, unit, verdict.failure, ended=ended)
    return _refusal(block, verdict, ended=ended)


def _refusal(block: Block, verdict: _Verdict, *, ended: bool) -> Exception | None:
    return _ended(block) if ended and not verdict.raised else verdict.refusal


def _ended(block: Block) -> NotCommitted:
    return NotCommitted(f"{block.label}: {ENDED}; let the block commit, or raise to roll back")


def _roll_back(block: Block, unit: Unit) -> Steps[bool]:
    """Undo the work; return whether the body had ended the block's transaction before."""
    unit.leave_untold()
    status = unit.status
    unit.ending = status != TransactionStatus.IDLE
    try:
        if status == TransactionStatus.INTRANS:
            settings: Settings
            settings, _ = yield Run(unit.connection, (statements.READ_SETTINGS, statements.ROLLBACK))
            return unit.meddled or not settings.block
        if status == TransactionStatus.INERROR:
            yield Run(unit.connection, (statements.ROLLBACK,))
        elif status == TransactionStatus.ACTIVE:
            _cut(block, unit)
    except psycopg.Error as error:
        # The server undoes the work when it notices that the connection is gone.
        logger.warning("provenance: rolling back %s failed: %s", block.label, type(error).__name__)
    except GeneratorExit:
        raise
    except BaseException as interruption:  # noqa: BLE001 - raised at the end, when the row is written
        block.interruption = interruption
        yield from _attempt(unit, statements.ROLLBACK)
    return unit.meddled or status == TransactionStatus.IDLE


def _cut(block: Block, unit: Unit) -> None:
    """Close a connection that cannot be told to roll back, because a query is in progress on it: the server will do it."""
    logger.warning("provenance: closing the connection of %s, on which a query is still in progress", block.label)
    drivers.cut(unit.connection)


def _attempt(unit: Unit, statement: Statement[T]) -> Steps[T | None]:
    """Run a clean-up statement where the transaction is open still; ``None`` if the connection is lost."""
    if unit.status not in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        return None
    try:
        (answer,) = yield Run(unit.connection, (statement,), insist=True)
    except psycopg.Error as error:
        logger.warning("provenance: cleaning up failed: %s", type(error).__name__)
        return None
    return cast("T", answer)


def _record_failure(block: Block, unit: Unit, failure: Failure | None, *, ended: bool) -> Steps[None]:
    unit.meddled, unit.undone = ended, not ended
    unit.leave_untold()
    if ended:
        doubt = failure.error_message if failure else None
        reason = Failure(
            error_type=None, error_code=None, error_message=ENDED + (f"; it then failed: {doubt}" if doubt else "")
        )
        standing = [attrs.evolve(row, error_message=ENDED) for row in unit.standing]
        yield from _write(unit, tuple(unit.settled))
        yield JournalDoubt((block.row(Status.PENDING, reason), *standing, *unit.in_doubt))
        return
    yield from _write(unit, (block.row(Status.FAILED, failure), *unit.all_undone()))


_DEADLINE = timedelta(seconds=5)


def _write(unit: Unit, rows: tuple[ActionRow, ...]) -> Steps[None]:
    """Write rows of undone work durably: on the block's own connection while it is healthy, else through the journal."""
    if not rows:
        return
    if not unit.joined and unit.status == TransactionStatus.IDLE:
        evidence = intents.intended(rows)
        transaction = (
            statements.BEGIN,
            *statements.journal_settings(_DEADLINE),
            statements.insert_missing(rows),
            *intents.forget_all(evidence),
            statements.COMMIT,
        )
        try:
            answers = yield Run(unit.connection, transaction, insist=True)
        except psycopg.Error as error:
            logger.info("provenance: writing on the work's connection failed: %s", type(error).__name__)
        else:
            yield from _forget_later(evidence, answers)
            return
    yield Journal(rows)


def _forget_later(evidence: list[UUID], answers: list[Any]) -> Steps[None]:
    """Drop the evidence apart from the transaction that wrote the rows, if that could not."""
    if evidence and not answers[-2]:
        yield Forget(tuple(evidence))


def _commit(block: Block, unit: Unit) -> Steps[BaseException | None]:
    try:
        # In here, for an interruption may come at any time, and there is a failure to be recorded then.
        rows = (*unit.finished(block), *unit.settled)
        evidence = intents.intended(rows)
        inserted = statements.insert(rows, prepares=drivers.prepares(unit.connection))
        closing = inserted, *(intents.forget_all(evidence) if evidence else ()), statements.COMMIT
        # COMMIT of an aborted transaction returns normally, with the tag ROLLBACK. It cannot be reached here: the INSERT
        # before it, in the same trip, raises in an aborted transaction.
        unit.ending = True
        answers = yield Run(unit.connection, closing)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - an interruption here leaves the outcome open like any error
        return (yield from _not_acknowledged(block, unit, error))
    if evidence:
        yield from _forget_later(evidence, answers)
    return None


def _null(error: BaseException) -> str | None:
    return error.diag.column_name if isinstance(error, psycopg.errors.NotNullViolation) else None


def _fence_down(error: BaseException) -> bool:
    """Whether the INSERT found itself in another transaction than the one the block opened."""
    return _null(error) == "id"


def _not_acknowledged(block: Block, unit: Unit, error: BaseException) -> Steps[BaseException | None]:
    """Handle a final INSERT and COMMIT that did not both come back as done; return what is to be raised."""
    failure = block.described(error)
    if unit.status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        # Not committed for certain: the COMMIT was never reached.
        yield from _attempt(unit, statements.ROLLBACK)
        yield from _record_failure(block, unit, failure, ended=_fence_down(error))
        if _fence_down(error):
            return _caused(_ended(block), error)
        return _unwritten(block, error) if isinstance(error, psycopg.Error) else error
    if unit.status == TransactionStatus.IDLE and isinstance(error, psycopg.Error) and error.sqlstate is not None:
        # The server answered COMMIT with an error: a deferred constraint, a serialization failure.
        yield from _record_failure(block, unit, failure, ended=False)
        return error
    return (yield from _settle(block, unit, error, failure))


def _caused(refusal: Exception, error: BaseException) -> Exception:
    refusal.__cause__ = error
    return refusal


def _unwritten(block: Block, error: psycopg.Error) -> Exception:
    """Return what to raise when the row could not be written, and the work is rolled back with it."""
    if (error.sqlstate or "").startswith("40"):
        # Serialization failures and deadlocks go out as they are: callers retry on them.
        return error
    reason = block.described(error).error_message
    if _fence_down(error):
        reason = "the settings that mark the block were reset inside it"
    elif _null(error) == "root_id":
        reason = "the body of an inner block rolled back to a savepoint from before that block"
    if isinstance(error, psycopg.errors.UniqueViolation) and error.diag.schema_name == "provenance":
        # The primary key is the fence: of several that work on the same action one can commit.
        reason = f"action {block.ref.id} has been given an outcome elsewhere"
    refusal = NotCommitted(
        f"{block.label}: the row of the action could not be written, so its work is rolled back: {reason}"
    )
    return _caused(refusal, error)


def _settle(block: Block, unit: Unit, error: BaseException, failure: Failure) -> Steps[BaseException | None]:
    """Find out what became of a COMMIT whose answer was lost. The action's row is the receipt."""
    rows = (block.row(Status.FAILED, failure), *unit.all_undone())
    # Before asking: an open transaction on this connection would hold the answer back.
    if unit.status == TransactionStatus.ACTIVE:
        _cut(block, unit)
    unit.end()
    if block.borrowed is not None:
        yield Giveback(block, broken=True)
    try:
        status = yield Settle(rows, block.ref.id, block.xid)
    except (psycopg.Error, TrailUnavailable) as unreachable:
        logger.error(  # noqa: TRY400 - a traceback could quote the row
            "provenance: the outcome of %s %s is not known: its COMMIT was not acknowledged (%s) and the journal cannot "
            "be asked (%s)",
            block.label,
            block.ref.id,
            failure.error_type,
            type(unreachable).__name__,
        )
        error.add_note(f"provenance: whether action {block.ref.id} was committed is not known")
        return error
    return None if status == Status.COMPLETED and isinstance(error, psycopg.Error) else error


def _leave_joined(block: Block, unit: Unit, verdict: _Verdict) -> Steps[BaseException | None]:
    assert block.savepoint is not None  # noqa: S101 - a joined block always has one
    if verdict.failure is None:
        try:
            # In here, for an interruption may come at any time, and there is a savepoint to go back to then.
            rows = unit.finished(block)
            declared = intents.intended(rows)
            closing = (
                statements.insert(rows, prepares=drivers.prepares(unit.connection)),
                *intents.close_blocks(declared),
                # Comes back should the caller roll back. At the stricter levels it stays until it is recovered.
                *intents.forget_all(declared),
                *restored(block),
                # Last: whatever of this fails or is interrupted before, the savepoint is still there.
                commands(statements.release(block.savepoint)),
            )
            yield Run(unit.connection, closing)
        except psycopg.Error as error:
            verdict = _Verdict(failure=block.described(error), refusal=_unwritten(block, error))
        except GeneratorExit:
            raise
        except BaseException as interruption:  # noqa: BLE001 - returned at the end, when the row is written
            yield from take_back(block, unit, block.described(interruption))
            return interruption
        else:
            yield from _journal(unit.settled)
            return None
    ended = (yield from _undo_savepoint(block, unit)) or unit.meddled
    yield from _record_failure(block, unit, verdict.failure, ended=ended)
    return _refusal(block, verdict, ended=ended)


def take_back(block: Block, unit: Unit, failure: Failure) -> Steps[None]:
    """Undo a joined block that was interrupted at its end, unless that has been done, or the block had been finished."""
    settings: Settings | None = None
    if unit.status == TransactionStatus.INTRANS:
        settings = yield from _attempt(unit, statements.READ_SETTINGS)
    # There is no savepoint any more then, which must not be taken for a body that ended the transaction.
    over = _as_at_entry(block, settings)
    if over and not unit.undoing and (yield from _is_written(block, unit)):
        # Its row is part of the caller's transaction, as its work is.
        yield from _journal(unit.settled)
        return
    ended = unit.meddled
    if not (over and unit.undoing):
        ended = (yield from _undo_savepoint(block, unit)) or ended
    yield from _record_failure(block, unit, failure, ended=ended)


def _as_at_entry(block: Block, settings: Settings | None) -> bool:
    """Return whether the server is known to have put the settings back as they were.

    That they are not the block's says less: they are those of an inner one whose end has not been told.
    """
    return settings is not None and block.before is not None and settings.block == block.before.block


def _is_written(block: Block, unit: Unit) -> Steps[bool]:
    status = yield from _attempt(unit, statements.outcome(block.ref.id))
    return status == Status.COMPLETED


def _journal(rows: list[ActionRow]) -> Steps[None]:
    if rows:
        yield Journal(tuple(rows))


def _undo_savepoint(block: Block, unit: Unit) -> Steps[bool]:
    """Roll back to the block's savepoint; return whether it was gone, because the body ended the transaction around it.

    Rolling back takes the settings back as well: the enclosing action is the current one again.
    """
    assert block.savepoint is not None  # noqa: S101 - called for blocks with a savepoint only
    unit.leave_untold()
    if unit.status == TransactionStatus.IDLE:
        return True
    if unit.status == TransactionStatus.ACTIVE:
        _cut(block, unit)
        return False
    unit.undoing = block is unit.outermost
    try:
        yield Run(unit.connection, (statements.rollback_over(block.savepoint),))
    except psycopg.errors.InvalidSavepointSpecification:
        return True
    except psycopg.Error as error:
        # The connection is lost: the server undoes everything.
        logger.warning("provenance: rolling back %s failed: %s", block.label, type(error).__name__)
    except GeneratorExit:
        raise
    except BaseException as interruption:  # noqa: BLE001 - raised at the end, when the row is written
        block.interruption = interruption
        settings: Settings | None = None
        if unit.status == TransactionStatus.INTRANS:
            settings = yield from _attempt(unit, statements.READ_SETTINGS)
        # Unless it was done when the interruption came.
        if not _as_at_entry(block, settings):
            yield from _attempt(unit, statements.rollback_to(block.savepoint))
    return False


def _leave_nested(block: Block, enclosing: Block, unit: Unit, verdict: _Verdict) -> Steps[BaseException | None]:
    if verdict.failure is None:
        return owe(unit, block)
    unit.leave_untold()
    row = block.row(Status.FAILED, verdict.failure)
    if block.savepoint is None:
        # Its work cannot be undone alone.
        enclosing.doomed = f"{block.label} failed inside {enclosing.label} and has no savepoint to go back to"
        if block.marked and unit.status == TransactionStatus.INTRANS:
            yield Run(unit.connection, restored(block), insist=True)
        unit.standing.append(row)
    elif (yield from _undo_savepoint(block, unit)):
        unit.meddle(enclosing, f"{block.label} inside {enclosing.label} ended the transaction around it")
        unit.in_doubt.append(attrs.evolve(row, error_message=ENDED))
    else:
        unit.drop_above(block.height)
        unit.settled.append(row)
        if unit.joined:
            # The caller may undo its whole transaction later; these outcomes hold whatever it does.
            yield from _journal(unit.settled)
            unit.settled.clear()
    return verdict.refusal
