"""Idempotency keys: claimed for an action, or held by another."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import attrs

from provenance.models import JSONValue, Status
from provenance.statements import Rows, Statement
from provenance.statements.recording import ActionRow


@attrs.frozen(kw_only=True)
class Claim:
    """What came of claiming a key."""

    claimed: bool
    """The action has it."""
    same_input: bool
    """Whoever has it has the same input."""
    holder: UUID
    """The action that has it."""
    status: Status | None
    """What is recorded of that one; ``None``: nothing yet."""
    result: JSONValue


def _claim(rows: Rows) -> Claim:
    ((claimed, same_input, holder, status, result),) = rows
    return Claim(
        claimed=claimed,
        same_input=same_input,
        holder=holder,
        status=None if status is None else Status(status),
        result=None if result is None else json.loads(result),
    )


def claim(row: ActionRow, key: str) -> Statement[Claim]:
    """Claim *key* for an action. Waits for a transaction that is just claiming it, but not for ever."""
    return Statement(
        """SELECT c.claimed, c.same_input, c.holder, c.status, c.result::text
             FROM provenance.claim_key(%(tenant_id)s, %(action_type)s, %(key)s, %(input_digest)s, %(id)s) AS c""",
        {
            "tenant_id": row.tenant_id,
            "action_type": row.action_type,
            "key": key,
            "input_digest": input_digest(row),
            "id": row.id,
        },
        _claim,
    )


def input_digest(row: ActionRow) -> bytes:
    """Return what tells the input of an action from others: on what, and with which payload, secrets apart."""
    payload = None if row.payload is None else json.loads(row.payload)
    text = json.dumps([row.concept, row.entity_type, row.entity_id, payload], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
