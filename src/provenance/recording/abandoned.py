"""Blocks that an exception out of a signal handler struck: between body and ``__exit__``, where nobody can leave them any
more, or while they were left.
"""

from __future__ import annotations

import logging

import attrs
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.failures import Failure
from provenance.models import Status
from provenance.recording.blocks import Block
from provenance.recording.leaving import leave_detached, take_back
from provenance.recording.steps import Giveback, Journal, JournalDoubt, Steps

logger = logging.getLogger("provenance")

_ABANDONED = "an interruption hit the end of the block before anything could be done about it"


def cut_off(block: Block) -> None:
    """Make sure that the work of a block nobody can leave any more is not committed behind its owner's back.

    No I/O that waits. A transaction of the caller's is the caller's again, to end as it likes.
    """
    unit, connection = block.unit, block.borrowed
    if unit is not None and block.enclosing is None:
        # A block that has been entered since may hold it.
        if drivers.holder(unit.connection) is unit:
            drivers.release(unit.connection)
        connection = None if unit.joined or unit.ended else unit.connection
        if connection is not None and unit.status == TransactionStatus.IDLE and not unit.ending:
            unit.meddled = True
    if connection is not None and drivers.transaction_status(connection) != TransactionStatus.IDLE:
        drivers.cut(connection)


def bury(block: Block) -> Steps[None]:
    """Record what became of a block nobody can leave any more, and give back what it held."""
    logger.error("provenance: %s: %s", block.label, _ABANDONED)
    failure = Failure(error_type=None, error_code=None, error_message=_ABANDONED)
    if block.handle is not None:
        yield from _record_lost(block, failure)
    elif block.declared:
        # Its body has not run.
        yield Journal((block.row(Status.FAILED, failure),))
    if block.borrowed is not None:
        yield Giveback(block, broken=True)


def cut_short(block: Block, error: BaseException | None, stroke: BaseException) -> Steps[None]:
    """Record a block whose leaving was interrupted where nothing was waited for, so that anything may have been done.

    Args:
        block: the block.
        error: what its body raised.
        stroke: what interrupted leaving it.
    """
    unit = block.unit
    if not block.open:
        pass  # it is recorded
    elif unit is None:
        # Once more: it is recorded once.
        yield from leave_detached(block, error)
    elif block.enclosing is not None and not unit.ended:
        block.enclosing.doomed = f"{block.label} inside {block.enclosing.label} was interrupted at its end"
        unit.pop(block)
        if not unit.knows(block):
            unit.settled.append(block.row(Status.FAILED, block.described(error or stroke)))
    elif unit.joined and not unit.ended and not unit.undone:
        yield from take_back(block, unit, block.described(error or stroke))
        unit.end()
    else:
        cut_off(block)
        yield from _record_lost(block, block.described(error or stroke))
    block.close()
    if block.borrowed is not None:
        yield Giveback(block, broken=True)


def _record_lost(block: Block, failure: Failure) -> Steps[None]:
    """Record what became of a block that is cut off, perhaps for the second time."""
    unit = block.unit
    if unit is None:
        yield JournalDoubt((block.row(Status.PENDING, failure),))
        return
    if block.enclosing is not None:
        # A block around it cannot commit either: it finds this one still open.
        yield Journal((block.row(Status.FAILED, failure),))
        return
    if unit.undone or not (unit.joined or unit.meddled):
        yield Journal((block.row(Status.FAILED, failure), *unit.all_undone()))
    elif not unit.ended:
        # Its transaction is the caller's, who may commit it or not; or the body has ended it.
        unit.leave_untold()
        standing = (attrs.evolve(row, error_message=failure.error_message) for row in unit.standing)
        yield JournalDoubt((block.row(Status.PENDING, failure), *standing, *unit.in_doubt))
        if unit.settled:
            yield Journal(tuple(unit.settled))
    unit.ended = True
