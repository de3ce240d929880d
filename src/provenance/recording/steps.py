"""The I/O that an operation may ask for. The coloured layer performs it; see :mod:`provenance.tracking.driving`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar
from uuid import UUID

import attrs

from provenance.statements import Statement
from provenance.statements.recording import ActionRow

T = TypeVar("T")


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
