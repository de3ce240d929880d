"""Deliberately broken variants of the protocol. The machine must notice every one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from provenance import drivers
from provenance.recording import blocks, entering, leaving, owed
from provenance.recording.blocks import Block, Unit
from provenance.recording.steps import Journal, Run, Steps
from provenance.statements import commands
from provenance.statements import recording as statements
from provenance.statements.recording import ActionRow
from provenance.tracking import block as tracked

Mutation = Callable[[pytest.MonkeyPatch], None]


def no_done_marker(patch: pytest.MonkeyPatch) -> None:
    """Finished inner blocks are believed to stand, whatever savepoint was rolled back around them."""
    original = Block.row

    def row(self: Block, *args: Any, **kwargs: Any) -> ActionRow:
        return original(self, *args, **{**kwargs, "ordinal": None})

    patch.setattr(Block, "row", row)
    patch.setattr(Unit, "drop_undone", lambda self, done: None)


def no_guard_on_the_terminal_insert(patch: pytest.MonkeyPatch) -> None:
    """The completed row is inserted in whatever transaction there is at the end."""
    original = Block.row

    def row(self: Block, *args: Any, **kwargs: Any) -> ActionRow:
        return original(self, *args, **{**kwargs, "fence": None})

    patch.setattr(Block, "row", row)


def failure_written_on_the_aborted_connection(patch: pytest.MonkeyPatch) -> None:
    """The failed row goes where the work went, before that is rolled back."""
    roll_back = leaving._roll_back

    def write_first(block: Block, unit: Unit) -> Steps[bool]:
        row = block.row(leaving.Status.FAILED)
        with suppress(leaving.psycopg.Error):
            yield Run(unit.connection, (statements.insert_missing((row,)),))
        return (yield from roll_back(block, unit))

    patch.setattr(leaving, "_roll_back", write_first)
    patch.setattr(leaving, "_write", lambda unit, rows: iter(()))


def joined_failure_written_on_the_callers_transaction(patch: pytest.MonkeyPatch) -> None:
    """The failed row of a joined block lives and dies with the caller's transaction."""

    def write(unit: Unit, rows: tuple[ActionRow, ...]) -> Steps[None]:
        if rows:
            yield Run(unit.connection, (statements.insert_missing(rows),))

    patch.setattr(leaving, "_write", write)


def swallowed_errors_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    """COMMIT is sent without a row when the transaction is aborted, and its tag is not looked at."""

    def leave_own(block: Block, unit: Unit, verdict: Any) -> Steps[None]:
        if verdict.failure is None or verdict.refusal is not None:
            yield Run(unit.connection, (statements.COMMIT,))
            yield Journal((block.row(leaving.Status.COMPLETED),))
            return
        yield from original(block, unit, verdict)

    original = leaving._leave_own
    patch.setattr(leaving, "_leave_own", leave_own)


def any_task_may_join(patch: pytest.MonkeyPatch) -> None:
    """Who opened a block does not matter."""
    for module in (blocks, entering):
        patch.setattr(module, "owner_here", lambda: (os.getpid(), 0, None))


def inner_failure_rolls_nothing_back(patch: pytest.MonkeyPatch) -> None:
    """A failed inner block leaves its work in the transaction."""

    def undo(block: Block, unit: Unit) -> Steps[bool]:
        assert block.savepoint is not None
        if unit.status != leaving.TransactionStatus.INTRANS:
            return (yield from original(block, unit))
        yield Run(unit.connection, (commands(statements.release(block.savepoint)),))
        return False

    original = leaving._undo_savepoint
    patch.setattr(leaving, "_undo_savepoint", undo)


def finished_blocks_survive_the_outer_failure(patch: pytest.MonkeyPatch) -> None:
    """Inner blocks stay completed although the transaction around them was rolled back."""
    evolve = leaving.attrs.evolve
    patch.setattr(blocks, "_undone", lambda row, why: evolve(row, ordinal=None))


def the_bodys_exception_is_replaced(patch: pytest.MonkeyPatch) -> None:
    """An error of the recording takes the place of the body's own."""

    def exit_(self: tracked.track_action, exc_type: Any, exc: Any, tb: Any) -> None:
        block = self._entered()
        block.suspend()
        try:
            tracked.drive(leaving.leave(block, exc), block.host.perform)
        finally:
            self._let_go()
        if exc is not None:
            raise leaving.NotCommitted("replaced")

    async def aexit(self: tracked.track_action, exc_type: Any, exc: Any, tb: Any) -> None:
        block = self._entered()
        block.suspend()
        try:
            await tracked.adrive(leaving.leave(block, exc), block.host.perform)
        finally:
            self._let_go()
        if exc is not None:
            raise leaving.NotCommitted("replaced")

    patch.setattr(tracked.track_action, "__exit__", exit_)
    patch.setattr(tracked.track_action, "__aexit__", aexit)


def a_chained_transaction_passes_for_the_first(patch: pytest.MonkeyPatch) -> None:
    """Entering an inner block does not look whether the transaction is still the one the outer block opened."""
    patch.setattr(Unit, "meddle", lambda self, enclosing, how: None)


def the_end_of_an_inner_block_is_told_too_late(patch: pytest.MonkeyPatch) -> None:
    """The body around it goes on before the server knows that the inner block has ended."""
    patch.setattr(owed, "tell_before_next", lambda unit: None)


def what_the_server_was_not_told_needs_no_fence(patch: pytest.MonkeyPatch) -> None:
    """Whether the settings are still those of the block that was left last is not looked at."""
    original = Unit.finished

    def finished(self: Unit, block: Block) -> tuple[ActionRow, ...]:
        unknown = bool(self.owed)
        first, *others = original(self, block)
        return (leaving.attrs.evolve(first, fence=None) if unknown else first), *others

    patch.setattr(Unit, "finished", finished)


def savepoints_are_rolled_back_unannounced(patch: pytest.MonkeyPatch) -> None:
    """After blocks that do not stamp, whatever comes next is let through."""
    patch.setattr(drivers, "undoes_nothing", lambda work: True)


ALL: list[Mutation] = [
    no_done_marker,
    no_guard_on_the_terminal_insert,
    failure_written_on_the_aborted_connection,
    joined_failure_written_on_the_callers_transaction,
    swallowed_errors_are_not_noticed,
    any_task_may_join,
    inner_failure_rolls_nothing_back,
    finished_blocks_survive_the_outer_failure,
    the_bodys_exception_is_replaced,
    a_chained_transaction_passes_for_the_first,
    the_end_of_an_inner_block_is_told_too_late,
    what_the_server_was_not_told_needs_no_fence,
    savepoints_are_rolled_back_unannounced,
]
