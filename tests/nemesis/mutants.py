"""Deliberately broken variants of the protocol, by name, and the faults that bring them to light.

They are applied in the workers and in the recoveries, never in what judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest

from provenance.errors import TrailUnavailable
from provenance.journal import AsyncJournal, Journal
from provenance.models import Recovery, Status
from provenance.recording import entering, leaving, owed, steps
from provenance.recording.blocks import Block, Unit
from provenance.recording.steps import Run, Steps
from provenance.statements import Statement, command, intents
from provenance.statements import recording as statements
from provenance.statements.recording import ActionRow
from provenance.trail import Trail
from tests.nemesis.profiles import Profile


def _rows(block: Block, unit: Unit) -> Steps[tuple[ActionRow, ...]]:
    """Return what is to be written when the block commits, as it must be written by anybody who does so apart."""
    yield from owed.tell(unit)
    (settings,) = yield Run(unit.connection, (statements.READ_SETTINGS,))
    unit.drop_undone(settings.done)
    standing = (attrs.evolve(row, ordinal=None) for row in unit.standing)
    return (block.row(Status.COMPLETED), *standing, *unit.settled)


def row_before_the_work(patch: pytest.MonkeyPatch) -> None:
    """Dual write: the row is written apart, and then the work is committed."""

    def commit(block: Block, unit: Unit) -> Steps[None]:
        rows = yield from _rows(block, unit)
        yield steps.Journal(rows)
        yield Run(unit.connection, (statements.COMMIT,))

    patch.setattr(leaving, "_commit", commit)


def row_after_the_work(patch: pytest.MonkeyPatch) -> None:
    """Dual write: the work is committed, and then the row is written apart."""

    def commit(block: Block, unit: Unit) -> Steps[None]:
        rows = yield from _rows(block, unit)
        yield Run(unit.connection, (statements.COMMIT,))
        yield steps.Journal(rows)

    patch.setattr(leaving, "_commit", commit)


def recovery_by_time(patch: pytest.MonkeyPatch) -> None:
    """What was begun more than a second ago is taken for dead, and nobody is asked."""
    query = """
        WITH old AS (
            DELETE FROM provenance.action_intents i WHERE i.recorded_at < clock_timestamp() - interval '1 second'
            RETURNING i.*)
        INSERT INTO provenance.actions (
            id, root_id, parent_action_id, action_type, concept, status, tenant_id, payload, started_at, completed_at,
            duration_ms)
        SELECT o.id, o.root_id, o.parent_action_id, o.action_type, o.concept, 'rolled_back', o.tenant_id, o.payload,
               o.started_at, clock_timestamp(), 0
          FROM old o
        ON CONFLICT DO NOTHING"""

    def recover(self: Trail) -> Recovery:
        self._journal.run(command(query))
        return Recovery()

    patch.setattr(Trail, "recover", recover)


def guessed_transaction(patch: pytest.MonkeyPatch) -> None:
    """The intent names the transaction id that would be next, before the work's transaction has one."""
    guess = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, provenance.system_identifier()"
    patch.setattr(intents, "CURRENT_TRANSACTION", Statement(guess, None, intents.CURRENT_TRANSACTION.decode))


def intent_with_the_work(patch: pytest.MonkeyPatch) -> None:
    """The intent is part of the transaction whose fate it is to tell."""

    def begun(block: Block, answers: list[Any], *, joined: bool, standing: Sequence[ActionRow] = ()) -> Steps[None]:
        block.xid = answers[-1].xid
        evidence = block.evidence(answers[-1], joined=joined)
        unit = block.unit or (block.enclosing and block.enclosing.unit)
        connection = unit.connection if unit else connections.pop(block.ref.id)
        yield Run(connection, (intents.insert([intents.evidence_json(evidence)]),))

    connections: dict[UUID, Any] = {}
    originals = entering._enter_own, entering._enter_joined

    def enter_own(block: Block, connection: Any) -> Steps[None]:
        connections[block.ref.id] = connection
        return originals[0](block, connection)

    def enter_joined(block: Block, connection: Any) -> Steps[None]:
        connections[block.ref.id] = connection
        return originals[1](block, connection)

    patch.setattr(entering, "_begun", begun)
    patch.setattr(entering, "_enter_own", enter_own)
    patch.setattr(entering, "_enter_joined", enter_joined)


def journal_that_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    """The journal commits with ``synchronous_commit = off``."""
    original = statements.journal_settings

    def journal_settings(timeout: timedelta) -> list[Statement[None]]:
        return [command("SET LOCAL synchronous_commit = off"), *original(timeout)[1:]]

    patch.setattr(statements, "journal_settings", journal_settings)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """The work is committed although its action has been given an outcome: ``ON CONFLICT DO NOTHING``."""

    def insert(rows: Sequence[ActionRow], *, prepares: bool) -> Statement[None]:
        return statements.insert_missing(rows)

    patch.setattr(statements, "insert", insert)


def select_when_in_doubt(patch: pytest.MonkeyPatch) -> None:
    """When the answer to COMMIT is lost, it is looked whether the row is there, and not waited for whoever may write it."""

    def settle(self: Journal, rows: Sequence[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        (status,) = self._run_twice(statements.outcome(action_id))
        if status is None:
            self.write(rows)
        return status  # type: ignore[no-any-return]

    async def asettle(self: AsyncJournal, rows: Sequence[ActionRow], action_id: UUID, xid: str | None) -> str | None:
        (status,) = await self._run_twice(statements.outcome(action_id))
        if status is None:
            await self.write(rows)
        return status  # type: ignore[no-any-return]

    patch.setattr(Journal, "settle", settle)
    patch.setattr(AsyncJournal, "settle", asettle)


def no_answer_is_good_news(patch: pytest.MonkeyPatch) -> None:
    """When the answer to COMMIT is lost, it is taken for done."""

    def settle(*_: object) -> str:
        return Status.COMPLETED.value

    async def asettle(*_: object) -> str:
        return Status.COMPLETED.value

    patch.setattr(Journal, "settle", settle)
    patch.setattr(AsyncJournal, "settle", asettle)


def intents_may_be_missing(patch: pytest.MonkeyPatch) -> None:
    """An intent that cannot be written is done without, though there is a spool."""

    def keep_intent(self: Any, evidence: Any, error: Exception | None, *, may_wait: bool) -> None:
        self.begin(error or TrailUnavailable("during an outage"))

    patch.setattr("provenance.journal.outage.Outage.keep_intent", keep_intent)


def finished_is_taken_for_ended(patch: pytest.MonkeyPatch) -> None:
    """A joined block that is interrupted when it has been finished is taken for one that ended its transaction."""

    def is_written(*_: object) -> Steps[bool]:
        return False
        yield

    patch.setattr(leaving, "_is_written", is_written)


@attrs.frozen
class Mutant:
    """A broken variant, and what brings it to light."""

    apply: Callable[[pytest.MonkeyPatch], None]
    profile: Profile


_KILLS = Profile(kills=4.0, terminations=4.0, linger=0.05, round=3.0)
_CUTS = Profile(cuts=15.0, slow_commits=0.5, round=3.0)

ALL: dict[str, Mutant] = {
    mutation.__name__: Mutant(mutation, profile)
    for mutation, profile in {
        row_before_the_work: _CUTS,
        row_after_the_work: _CUTS,
        recovery_by_time: Profile(linger=2.0, round=5.0),
        guessed_transaction: attrs.evolve(_KILLS, crashes=0.4),
        intent_with_the_work: _KILLS,
        # Anybody's durable commit makes everything before it durable, so there must be few.
        journal_that_does_not_wait: Profile(
            crashes=2.0, linger=0.5, workers=1, recoveries=1, round=2.0, settings=("wal_writer_delay=10s",)
        ),
        no_fence: Profile(verdicts=10.0, linger=0.1, round=3.0),
        select_when_in_doubt: _CUTS,
        no_answer_is_good_news: _CUTS,
        finished_is_taken_for_ended: Profile(cancellations=0.8, round=3.0),
        # It takes a worker two seconds to notice an outage, and then it must be killed inside a body.
        intents_may_be_missing: Profile(kills=1.0, outages=1.0, outage=6.0, linger=0.5, round=5.0),
    }.items()
}
