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

from provenance.recording.abandoned import bury, cut_off, cut_short
from provenance.recording.blocks import Block, live_action
from provenance.recording.callers import ActionSpec, Colour, owner_here
from provenance.recording.entering import enclosing_block, enter, refuse_open_unit, withdraw
from provenance.recording.leaving import leave
from provenance.recording.steps import Step, Steps

__all__ = [
    "ActionSpec",
    "Block",
    "Colour",
    "Step",
    "Steps",
    "bury",
    "cut_off",
    "cut_short",
    "enclosing_block",
    "enter",
    "leave",
    "live_action",
    "owner_here",
    "refuse_open_unit",
    "withdraw",
]
