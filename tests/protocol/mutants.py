"""Deliberately broken variants of the protocol. The machine must notice every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from provenance import recording, tracking
from provenance.recording import Block, Run, Steps, Unit
from provenance.statements import recording as statements
from provenance.statements.recording import ActionRow

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
    original = recording.attrs.evolve

    def evolve(instance: Any, **changes: Any) -> Any:
        changes.pop("fenced", None)
        return original(instance, **changes)

    patch.setattr(recording.attrs, "evolve", evolve)


def failure_written_on_the_aborted_connection(patch: pytest.MonkeyPatch) -> None:
    """The failed row goes where the work went, before that is rolled back."""
    roll_back = recording._roll_back

    def write_first(block: Block, unit: Unit) -> Steps[bool]:
        row = block.row(recording.Status.FAILED)
        try:
            yield Run(unit.connection, (statements.insert_missing((row,)),))
        except recording.psycopg.Error:
            pass
        return (yield from roll_back(block, unit))

    patch.setattr(recording, "_roll_back", write_first)
    patch.setattr(recording, "_write", lambda unit, rows: iter(()))


def joined_failure_written_on_the_callers_transaction(patch: pytest.MonkeyPatch) -> None:
    """The failed row of a joined block lives and dies with the caller's transaction."""

    def write(unit: Unit, rows: tuple[ActionRow, ...]) -> Steps[None]:
        if rows:
            yield Run(unit.connection, (statements.insert_missing(rows),))

    patch.setattr(recording, "_write", write)


def swallowed_errors_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    """COMMIT is sent without a row when the transaction is aborted, and its tag is not looked at."""

    def leave_own(block: Block, unit: Unit, verdict: Any) -> Steps[None]:
        if verdict.failure is None or verdict.refusal is not None:
            yield Run(unit.connection, (statements.COMMIT,))
            yield recording.Journal((block.row(recording.Status.COMPLETED),))
            return
        yield from original(block, unit, verdict)

    original = recording._leave_own
    patch.setattr(recording, "_leave_own", leave_own)


def any_task_may_join(patch: pytest.MonkeyPatch) -> None:
    """Who opened a block does not matter."""
    patch.setattr(recording, "owner_here", lambda: (0, None))


def inner_failure_rolls_nothing_back(patch: pytest.MonkeyPatch) -> None:
    """A failed inner block leaves its work in the transaction."""

    def undo(block: Block, unit: Unit) -> Steps[bool]:
        assert block.savepoint is not None
        if unit.status != recording.TransactionStatus.INTRANS:
            return (yield from original(block, unit))
        yield Run(unit.connection, (statements.release(block.savepoint),))
        return False

    original = recording._undo_savepoint
    patch.setattr(recording, "_undo_savepoint", undo)


def finished_blocks_survive_the_outer_failure(patch: pytest.MonkeyPatch) -> None:
    """Inner blocks stay completed although the transaction around them was rolled back."""
    evolve = recording.attrs.evolve
    patch.setattr(recording, "_undone", lambda row, why: evolve(row, ordinal=None))


def the_bodys_exception_is_replaced(patch: pytest.MonkeyPatch) -> None:
    """An error of the recording takes the place of the body's own."""

    def exit_(self: tracking.track_action, exc_type: Any, exc: Any, tb: Any) -> None:
        run = self._take()
        try:
            tracking.drive(recording.leave(run.block, exc), run.host.perform)
        finally:
            run.block.open = False
        if exc is not None:
            raise recording.NotCommitted("replaced")

    async def aexit(self: tracking.track_action, exc_type: Any, exc: Any, tb: Any) -> None:
        run = self._take()
        try:
            await tracking.adrive(recording.leave(run.block, exc), run.host.perform)
        finally:
            run.block.open = False
        if exc is not None:
            raise recording.NotCommitted("replaced")

    patch.setattr(tracking.track_action, "__exit__", exit_)
    patch.setattr(tracking.track_action, "__aexit__", aexit)


def a_chained_transaction_passes_for_the_first(patch: pytest.MonkeyPatch) -> None:
    """Entering an inner block does not look whether the transaction is still the one the outer block opened."""
    patch.setattr(recording, "_meddle", lambda unit, enclosing, how: None)


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
]
