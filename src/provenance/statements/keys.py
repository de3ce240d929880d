"""Idempotency keys: claimed for an action, or held by another."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import attrs
import psycopg

from provenance.models import JSONValue, Status
from provenance.statements import Rows, Statement
from provenance.statements.recording import ActionRow

TAKEN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
"""What a claim ends with while the key is being used: at its own limit, or at one of the connection's."""


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


def claim(row: ActionRow, key: str, *, may_wait: bool) -> Statement[Claim]:
    """Claim *key* for an action.

    Args:
        row: the action.
        key: the key.
        may_wait: whether to wait for a transaction that has claimed it and not ended, 5 s at most; else that is an error.
    """
    return Statement(
        """SELECT c.claimed, c.same_input, c.holder, c.status, c.result::text
             FROM provenance.claim_key(
                  %(tenant_id)s, %(action_type)s, %(key)s, %(input_digest)s, %(id)s, %(may_wait)s) AS c""",
        {
            "tenant_id": row.tenant_id,
            "action_type": row.action_type,
            "key": key,
            "input_digest": input_digest(row),
            "id": row.id,
            "may_wait": may_wait,
        },
        _claim,
    )


def input_digest(row: ActionRow) -> bytes:
    """Return what tells the input of an action from others: on what, and with which payload, secrets apart."""
    payload = None if row.payload is None else json.loads(row.payload)
    text = json.dumps([row.concept, row.entity_type, row.entity_id, payload], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
