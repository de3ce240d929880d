"""The I/O that an operation may ask for. The coloured layer performs it; see :mod:`provenance.tracking.driving`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar
from uuid import UUID

import attrs

from provenance.context import CurrentAction
from provenance.recording.blocks import Block
from provenance.statements import Statement
from provenance.statements.intents import Evidence
from provenance.statements.keys import Claim
from provenance.statements.recording import ActionRow

T = TypeVar("T")

# Steps are never changed. They are not frozen, for setting a field of a frozen instance is a call of its own.


class _Passing:
    """A step that an interruption (Ctrl-C, a cancelled task) may end; the operation is told and decides."""

    insist: bool = False


class _Insisting:
    """A step that must not be lost and may be done twice: interrupted, it is done again before the interruption goes on."""

    insist: bool = True


@attrs.define
class Checkout(_Passing):
    """Take a connection from the pool. Answer: the connection, idle and in autocommit mode.

    The block is known to have it from the moment it has left the pool.
    """

    block: Block
    checked: bool = False
    """Have the pool look first which of its connections still work: one that it lent out did not."""


@attrs.define
class Giveback(_Passing):
    """Give the connection that a block has from the pool back to it. Answer: nothing."""

    block: Block
    broken: bool


@attrs.define
class Run:
    """Run statements in one round trip. Answer: the list of decoded answers."""

    connection: Any
    statements: tuple[Statement[Any], ...]
    insist: bool = False
    """Whether it must not be lost to an interruption, and may be done twice."""


@attrs.define
class Quiesce(_Insisting):
    """Wait briefly for a query that is still in progress on the connection. Answer: nothing; never raises."""

    connection: Any


@attrs.define
class CheckSchema(_Passing):
    """Make sure, once per trail, that the schema is there. Answer: nothing."""

    connection: Any
    """Where to look; ``None`` for the journal's."""


@attrs.define
class Journal(_Insisting):
    """Write rows through the journal's own connection, durably and at once. Answer: nothing; never raises."""

    rows: tuple[ActionRow, ...]


@attrs.define
class JournalDoubt(_Insisting):
    """Write evidence of actions nobody can know the outcome of. Answer: nothing; never raises."""

    rows: tuple[ActionRow, ...]


@attrs.define
class Settle(_Insisting):
    """Write rows unless the transaction in doubt wrote them first. Answer: the recorded status of *action_id*.

    With *xid*, that of the transaction in doubt, the answer is ``None`` unless that very transaction is committed.
    """

    rows: tuple[ActionRow, ...]
    action_id: UUID
    xid: str | None


@attrs.define
class Intend(_Passing):
    """Make durable that an action is begun. Raises if it cannot be: then nothing of it may be done.

    Answer: what came of claiming its key, if it is to be claimed; only if it was, the action is begun.
    """

    evidence: Evidence
    action: CurrentAction
    """While it is open, the lease is extended, where the evidence has one."""
    claim: Statement[Claim] | None = None


@attrs.define
class Forget(_Insisting):
    """Drop the evidence that actions were begun whose outcome is recorded now. Answer: nothing; never raises."""

    action_ids: tuple[UUID, ...]


Step = Checkout | Giveback | Run | Quiesce | CheckSchema | Journal | JournalDoubt | Settle | Intend | Forget
Steps = Generator[Step, Any, T]
