"""The statements about actions that are begun: evidence of them, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import attrs

from provenance import ids
from provenance.errors import InvalidAction
from provenance.models import Recovery, Status
from provenance.statements import Rows, Statement, nothing
from provenance.statements.recording import ActionRow, row_json, rows_param

LEASE = timedelta(seconds=60)
"""How long work outside the database is known to be under way after its process was last heard of."""


@attrs.frozen
class Transaction:
    """Which transaction some work is part of. Its id means nothing in another cluster."""

    xid: str
    system_identifier: int


def _transaction(rows: Rows) -> Transaction:
    ((xid, system_identifier),) = rows
    return Transaction(xid, system_identifier)


# Inside a savepoint too, the id is that of the whole transaction.
CURRENT_TRANSACTION = Statement("SELECT pg_current_xact_id()::text, provenance.system_identifier()", None, _transaction)


@attrs.frozen(kw_only=True)
class Evidence:
    """What tells later, whatever ends this process, what became of an action."""

    row: ActionRow
    """The action as it is begun."""
    worker: str
    """Which process does it, for a person to read."""
    transaction: Transaction | None
    """Where the work is done; ``None`` for work outside the database."""
    joined: bool = False
    """The transaction is the caller's: it may be committed without the work."""
    key: str | None = None
    """The idempotency key without which it is not to be done, of work outside the database."""

    @property
    def leased(self) -> bool:
        """Whether the work is known to be under way for one lease only, unless that is extended."""
        return self.transaction is None


def evidence_json(evidence: Evidence) -> str:
    """Return the evidence as a JSON object."""
    transaction = evidence.transaction
    more = {
        "worker": evidence.worker,
        "key": evidence.key,
        "work_xid": transaction and transaction.xid,
        "system_identifier": transaction and transaction.system_identifier,
        "joined": evidence.joined,
        "lease": f"{LEASE.total_seconds()} seconds" if evidence.leased else None,
    }
    return f"{row_json(evidence.row)[:-1]},{json.dumps(more)[1:]}"


_INSERT = """
INSERT INTO provenance.action_intents (
    id, root_id, parent_action_id, action_type, concept, tenant_id, user_id, request_id, correlation_id,
    entity_type, entity_id, payload, metadata, started_at, expires_at, doubt, work_xid, system_identifier, worker, joined)
SELECT r.id, COALESCE(r.root_id, provenance.root_of(r.parent_action_id), r.parent_action_id), r.parent_action_id,
       r.action_type, r.concept, r.tenant_id, r.user_id, r.request_id, r.correlation_id, r.entity_type, r.entity_id,
       r.payload, r.metadata, r.started_at, clock_timestamp() + r.lease, r.error_message, r.work_xid,
       r.system_identifier, r.worker, COALESCE(r.joined, false)
  FROM json_to_recordset(%(rows)s::json) AS r (
       id uuid, root_id uuid, parent_action_id uuid, action_type text, concept text, tenant_id text,
       user_id text, request_id uuid, correlation_id text, entity_type text, entity_id text,
       payload jsonb, metadata jsonb, error_message text, started_at timestamptz,
       lease interval, work_xid xid8, system_identifier bigint, worker text, joined boolean, key text)
 WHERE r.key IS NULL OR provenance.holds_key(r.id, r.tenant_id, r.action_type, r.key)
 ORDER BY r.id
ON CONFLICT DO NOTHING"""


def insert(rows: Iterable[ActionRow | str]) -> Statement[None]:
    """Insert evidence that is not there yet: rows, or what :func:`evidence_json` made."""
    return Statement(_INSERT, rows_param(rows), nothing)


def insert_doubt(rows: Iterable[ActionRow | str]) -> tuple[Statement[None], Statement[None]]:
    """Insert evidence of actions whose outcome nobody can know, or add to what there is; ``error_message`` says why.

    In the order of their ids, as everybody who locks several: nobody waits in a circle.
    """
    inserted = insert(rows)
    return inserted, Statement(
        """SELECT provenance.doubt_intent(s.id, s.error_message)
             FROM (SELECT r.id, r.error_message
                     FROM json_to_recordset(%(rows)s::json) AS r (id uuid, error_message text)
                    ORDER BY r.id OFFSET 0) AS s""",
        inserted.params,
        nothing,
    )


def _any(rows: Rows) -> bool:
    return bool(rows)


def forget(action_ids: Sequence[UUID]) -> Statement[bool]:
    """Drop the evidence of actions whose outcome is recorded. Answer: whether this transaction can see to that.

    At the stricter levels it could not see evidence that was committed after it began, and two that drop evidence at the
    same time could look like a serialization failure.
    """
    return Statement(
        """SELECT provenance.forget_intent(i) FROM unnest(%(ids)s::uuid[]) AS i
            WHERE current_setting('transaction_isolation') LIKE 'read %%'""",
        {"ids": list(action_ids)},
        _any,
    )


def intended(rows: Iterable[ActionRow | str]) -> list[UUID]:
    """Return the ids of those rows there may be evidence of."""
    found: list[UUID] = []
    for row in rows:
        if not isinstance(row, str):
            if row.intended:
                found.append(row.id)
        elif '"intended":true' in row:  # of a payload too, perhaps; then there is nothing to drop
            found.append(UUID(json.loads(row)["id"]))
    return found


def forget_all(action_ids: Sequence[UUID]) -> tuple[Statement[bool], ...]:
    """Drop the evidence of actions, if there are any: no statement where there is none."""
    return (forget(action_ids),) if action_ids else ()


def open_block(action_id: UUID) -> Statement[None]:
    """Note, in the caller's transaction, that a block has begun there that is declared."""
    return Statement("SELECT provenance.open_block(%(id)s)", {"id": action_id}, nothing)


def close_blocks(action_ids: Sequence[UUID]) -> tuple[Statement[None], ...]:
    """Note, in the caller's transaction, that blocks have ended there, if there are any."""
    statement = Statement("SELECT provenance.close_blocks(%(ids)s)", {"ids": list(action_ids)}, nothing)
    return (statement,) if action_ids else ()


def extend(action_ids: Sequence[UUID]) -> Statement[None]:
    """Say that work outside the database is still under way: for another lease."""
    return Statement(
        "SELECT provenance.extend_intents(%(ids)s, %(lease)s)", {"ids": list(action_ids), "lease": LEASE}, nothing
    )


@attrs.frozen(kw_only=True)
class Intent:
    """What is known of an action that was begun elsewhere. Bodies are JSON text."""

    id: UUID
    root_id: UUID
    parent_action_id: UUID | None
    action_type: str
    concept: str
    tenant_id: str
    user_id: str | None
    request_id: UUID | None
    correlation_id: str | None
    entity_type: str | None
    entity_id: str | None
    payload: str | None
    metadata: str | None
    started_at: datetime


def _intent(rows: Rows) -> Intent | None:
    (found,) = rows
    if found[0] is None:
        return None
    fields = dict(zip(_INTENT, found, strict=True))
    return Intent(**{**fields, "started_at": fields["started_at"].astimezone(UTC)})


_INTENT = tuple(field.name for field in attrs.fields(Intent))


def pending_action(action_id: UUID) -> Statement[Intent | None]:
    """Ask what was recorded when an action was begun; ``None`` unless it is pending.

    Taken apart by the server: connections of the application's may have their own idea of what a JSON column is.
    """
    return Statement(
        """SELECT (p ->> 'id')::uuid, (p ->> 'root_id')::uuid, (p ->> 'parent_action_id')::uuid, p ->> 'action_type',
                  p ->> 'concept', p ->> 'tenant_id', p ->> 'user_id', (p ->> 'request_id')::uuid,
                  p ->> 'correlation_id', p ->> 'entity_type', p ->> 'entity_id',
                  NULLIF(p -> 'payload', 'null')::text, NULLIF(p -> 'metadata', 'null')::text,
                  (p ->> 'started_at')::timestamptz
             FROM provenance.pending_action(%(id)s) AS p""",
        {"id": ids.as_action_id(action_id, "action_id")},
        _intent,
    )


_BEGUN = (
    "id", "root_id", "parent_action_id", "action_type", "concept", "tenant_id", "user_id", "request_id", "correlation_id",
    "entity_type", "entity_id", "payload", "metadata", "started_at",
)  # fmt: skip


def begin_action(row: ActionRow, expires_in: timedelta) -> Statement[None]:
    """Record that an action was begun.

    Raises:
        InvalidAction: *expires_in* is no time to wait.
    """
    given: object = expires_in
    if not isinstance(given, timedelta) or given <= timedelta():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidAction("expires_in: expected a timedelta above zero")
    params: dict[str, object] = {name: getattr(row, name) for name in _BEGUN}
    return Statement(
        """SELECT provenance.record_action(
               action_type => %(action_type)s, concept => %(concept)s, user_id => %(user_id)s,
               tenant_id => %(tenant_id)s, request_id => %(request_id)s, parent_action_id => %(parent_action_id)s,
               entity_type => %(entity_type)s, entity_id => %(entity_id)s, payload => %(payload)s::jsonb,
               metadata => %(metadata)s::jsonb, expires_in => %(expires_in)s, correlation_id => %(correlation_id)s,
               id => %(id)s, started_at => %(started_at)s::timestamptz, root_id => %(root_id)s)""",
        {**params, "expires_in": expires_in},
        nothing,
    )


def complete_action(
    action_id: UUID,
    *,
    status: str,
    result: str | None,
    error_message: str | None = None,
    error_type: str | None = None,
    error_code: str | None = None,
) -> Statement[None]:
    """Record the outcome of an action that was begun."""
    return Statement(
        """SELECT provenance.complete_action(
               %(id)s, result => %(result)s::jsonb, status => %(status)s, error_message => %(error_message)s,
               error_type => %(error_type)s, error_code => %(error_code)s)""",
        {
            "id": ids.as_action_id(action_id, "action_id"),
            "status": status,
            "result": result,
            "error_message": error_message,
            "error_type": error_type,
            "error_code": error_code,
        },
        nothing,
    )


def _optional_status(rows: Rows) -> Status | None:
    ((value,),) = rows
    return None if value is None else Status(value)


def resolve(action_id: UUID) -> Statement[Status | None]:
    """Find out what became of an action, and record it if nobody has; ``None`` if it was never begun."""
    return Statement(
        "SELECT provenance.resolve(%(id)s)", {"id": ids.as_action_id(action_id, "action_id")}, _optional_status
    )


@attrs.frozen
class Page:
    """What became of one page of the actions without an outcome."""

    last: UUID | None
    """The last one on it; ``None`` when there are no more."""
    found: Recovery


def _page(rows: Rows) -> Page:
    ((last, *counts),) = rows
    return Page(last, Recovery(*counts))


def recover(after: UUID | None, page_size: int) -> Statement[Page]:
    """Resolve the next actions without an outcome, in the order of their ids."""
    return Statement(
        """SELECT r.last_id, r.completed, r.failed, r.rolled_back, r.pending, r.unknown
             FROM provenance.recover(%(after)s, %(size)s) AS r""",
        {"after": after, "size": page_size},
        _page,
    )
