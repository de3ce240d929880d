"""Inner blocks that were left and that the server has not been told of yet.

That an inner block has finished changes one thing in the database: which action the work after it belongs to. So it is told
when there is such work. The next inner block tells it along with its own beginning; any other statement on the connection is
preceded by it; and when the block around ends, it is enough to know that nothing came in between.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import attrs
import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.errors import NotCommitted
from provenance.models import Status
from provenance.recording.blocks import Block, Unit
from provenance.recording.steps import Run, Steps
from provenance.statements import Statement, commands
from provenance.statements import recording as statements
from provenance.statements.recording import Settings

ENDED = "the block ended its own transaction; what became of its work cannot be known"

_UNSET = Settings()

# There is no savepoint of that name, or no transaction.
_GONE = (psycopg.errors.InvalidSavepointSpecification, psycopg.errors.NoActiveSqlTransaction)


# Numbers of finished inner blocks. One counter for the process, so that they grow along any one transaction, even over
# several units in it.
_ordinals = itertools.count(1)


def owe(unit: Unit, block: Block) -> NotCommitted | None:
    """Note that an inner block has finished; it is told before anything else is done on the connection.

    Returns:
        What to raise if its body ended the transaction, so that there is nothing to be told.
    """
    unit.owed.append((block, block.row(Status.COMPLETED, ordinal=next(_ordinals))))
    if unit.status != TransactionStatus.INTRANS:
        return _meddled(unit)
    tell_before_next(unit)
    return None


def tell_before_next(unit: Unit) -> None:
    """Have what is owed told before anything else is done on the connection for which it makes a difference.

    Whose work it is makes none after blocks that are not marked; a savepoint that is rolled back does.
    """
    telling = partial(_telling, unit)
    if any([block.marked for block, _ in unit.owed]):  # noqa: C419 - a generator costs more
        drivers.before_next(unit.connection, telling)
    else:
        drivers.before_next(unit.connection, telling, unless=drivers.undoes_nothing)


def restored(block: Block, *first: str) -> tuple[Statement[None], ...]:
    """Return the statements that put the settings back as they were when the block was entered, after other commands."""
    return statements.make(block.before or _UNSET, *first)


def words(unit: Unit) -> tuple[Statement[Any], ...]:
    """Return the statements that tell what is owed, to be run right after the settings have been read."""
    if not unit.owed:
        return ()
    _, last = unit.owed[-1]
    marked = [block for block, _ in unit.owed if block.marked]
    # With a savepoint go those inside it.
    savepoints = [block.savepoint for block in marked if block.savepoint is not None]
    releasing = (statements.release(savepoints[-1]),) if savepoints else ()
    first = *releasing, statements.done(last.ordinal or 0)
    return restored(marked[-1], *first) if marked else (commands(*first),)


def tell(unit: Unit) -> Steps[None]:
    """Tell what is owed.

    Raises:
        NotCommitted: it turns out that the body of one of the blocks ended the transaction.
    """
    if not unit.owed:
        return
    drivers.nothing_before_next(unit.connection)
    try:
        settings, *_ = yield Run(unit.connection, (statements.READ_SETTINGS, *words(unit)))
        told(unit, settings)
    except BaseException as error:
        not_told(unit, error)
        raise


def _telling(unit: Unit) -> PQGen[None]:
    try:
        settings, *_ = yield from drivers.message(unit.connection, (statements.READ_SETTINGS, *words(unit)))
        told(unit, settings)
    except BaseException as error:
        not_told(unit, error)
        raise


def told(unit: Unit, settings: Settings) -> Settings:
    """Take note of what the server said just before it was told, and return what holds since then.

    Raises:
        NotCommitted: it turns out that the body of one of the blocks ended the transaction, or undid the block's beginning.
    """
    if not unit.owed:
        unit.drop_undone(settings.done)
        return settings
    innermost, _ = unit.owed[0]
    if not settings.block:
        # Without a savepoint that would be missed.
        raise _meddled(unit)
    inside, enclosing = unit.marked(innermost), _enclosing(unit)
    before = [block.before for block, _ in unit.owed if block.before is not None]
    restored_to = before[-1] if before else settings
    last = unit.owed[-1][1].ordinal or 0
    # What is owed is not among what the server can say is undone.
    unit.drop_undone(settings.done)
    if not settings.are_of(inside.ref):
        enclosing.doomed = f"the body of {inside.label} rolled back to a savepoint from before the block"
        unit.leave_untold()
        raise NotCommitted(f"{inside.label}: its body rolled back to a savepoint from before the block")
    unit.leave_untold()
    return Settings(restored_to.action, restored_to.block, last)


def not_told(unit: Unit, error: BaseException) -> None:
    """See to it that the block around cannot succeed: it is not known whether the server has been told.

    Raises:
        NotCommitted: it is known that the body of one of the blocks ended the transaction.
    """
    if not unit.owed:
        return  # it was told, and found something wrong
    if isinstance(error, _GONE):
        raise _meddled(unit) from error
    innermost, _ = unit.owed[0]
    enclosing = _enclosing(unit)
    enclosing.doomed = f"{innermost.label} inside {enclosing.label} was interrupted at its end"
    unit.leave_untold()


def _enclosing(unit: Unit) -> Block:
    enclosing = unit.owed[-1][0].enclosing
    assert enclosing is not None  # noqa: S101 - only inner blocks owe anything
    return enclosing


def _meddled(unit: Unit) -> NotCommitted:
    innermost, _ = unit.owed[0]
    enclosing = _enclosing(unit)
    unit.meddle(enclosing, f"{innermost.label} inside {enclosing.label} ended the transaction around it")
    unit.in_doubt += [
        attrs.evolve(row, status=Status.PENDING, ordinal=None, error_message=ENDED) for _, row in unit.owed
    ]
    drivers.nothing_before_next(unit.connection)
    unit.owed.clear()
    return NotCommitted(f"{innermost.label}: {ENDED}")
