"""Blocks that nobody can leave any more: an exception out of a signal handler struck between body and ``__exit__``."""

from __future__ import annotations

import logging

import attrs

from provenance import drivers
from provenance.failures import Failure
from provenance.models import Status
from provenance.recording.blocks import Block
from provenance.recording.steps import Giveback, Journal, JournalDoubt, Steps

logger = logging.getLogger("provenance")

_ABANDONED = "an interruption hit the end of the block before anything could be done about it"


def cut_off(block: Block) -> None:
    """Make sure that the work of a block nobody can leave any more is not committed behind its owner's back.

    No I/O that waits. A transaction of the caller's is the caller's again, to end as it likes.
    """
    unit = block.unit
    if unit is not None and block.enclosing is None and not unit.ended:
        drivers.release(unit.connection)
        if not unit.joined:
            drivers.cut(unit.connection)


def bury(block: Block) -> Steps[None]:
    """Record what became of a block nobody can leave any more, and give back what it held."""
    unit = block.unit
    logger.error("provenance: %s: %s", block.label, _ABANDONED)
    failure = Failure(error_type=None, error_code=None, error_message=_ABANDONED)
    if unit is None:
        yield JournalDoubt((block.row(Status.PENDING, failure),))
    elif block.enclosing is not None or unit.ended:
        # A block around it cannot commit either: it finds this one still open.
        yield Journal((block.row(Status.FAILED, failure),))
    else:
        # Its connection was let go when it was cut off, and may be held by a block that has been entered since.
        unit.ended = True
        unit.leave_untold()
        if unit.pooled:
            yield Giveback(unit.connection, True)
        if unit.joined or unit.meddled:
            # Its transaction is the caller's, who may commit it or not; or the body has ended it.
            standing = (attrs.evolve(row, error_message=_ABANDONED) for row in unit.standing)
            yield JournalDoubt((block.row(Status.PENDING, failure), *standing, *unit.in_doubt))
            if unit.settled:
                yield Journal(unit.take_settled())
        else:
            yield Journal((block.row(Status.FAILED, failure), *unit.take_all_undone()))
