"""What holding an idempotency key means for a block that wants it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from provenance.errors import AlreadyDone, IdempotencyConflict, IdempotencyKeyBusy
from provenance.models import Status
from provenance.recording.blocks import Block
from provenance.statements.keys import Claim
from provenance.statements.recording import ActionRow


def check(block: Block, claim: Claim, standing: Iterable[ActionRow] = ()) -> None:
    """Refuse a block whose key another action has.

    Args:
        block: the block.
        claim: what came of claiming its key.
        standing: finished blocks of the same transaction, whose rows are not written yet.

    Raises:
        AlreadyDone: that one is completed, and had the same input.
        IdempotencyConflict: it had another input.
        IdempotencyKeyBusy: it has no outcome yet.
    """
    if claim.claimed:
        return
    key = f"idempotency key {block.key!r}"
    if not claim.same_input:
        raise IdempotencyConflict(
            f"{block.label}: {key} was used by action {claim.holder} with another input; use another key for other work"
        )
    done = f"{block.label}: {key} was used before, and action {claim.holder} did the work; its result is on this error"
    if claim.status is Status.COMPLETED:
        raise AlreadyDone(done, claim.holder, claim.result)
    for row in standing:
        if row.id == claim.holder and row.status == Status.COMPLETED:
            raise AlreadyDone(done, claim.holder, None if row.result is None else json.loads(row.result))
    raise IdempotencyKeyBusy(
        f"{block.label}: {key} is held by action {claim.holder}, which has no outcome yet; try again later, and if its "
        "process is gone, see trail.resolve() or give it an outcome with trail.complete() or trail.fail()"
    )


def busy(block: Block) -> IdempotencyKeyBusy:
    """Return what to raise when whoever is claiming the key has not ended its transaction in time."""
    return IdempotencyKeyBusy(
        f"{block.label}: idempotency key {block.key!r} is being used by an action that has not ended within 5 s; try again "
        "later"
    )
