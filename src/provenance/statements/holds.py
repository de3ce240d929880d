"""The statements that place, release and list legal holds, and ask for one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from provenance.models import LegalHold
from provenance.statements import Rows, Statement, nothing

_COLUMNS: LiteralString = (
    "h.name, h.reason, h.tenant_id, h.user_id, h.entity_type, h.entity_id, h.concept, h.action_type, h.since, h.until, "
    "h.placed_at, h.action_id"
)

WAIT = Statement("SELECT pg_advisory_xact_lock(31651020444888674)", None, nothing)
"""Wait for whoever erases, moves rows or lets them go, so that what is said from now on is what happens from now on."""


def _holds(rows: Rows) -> list[LegalHold]:
    return [
        LegalHold(
            name=name,
            reason=reason,
            tenant_id=tenant_id,
            user_id=user_id,
            entity_type=entity_type,
            entity_id=entity_id,
            concept=concept,
            action_type=action_type,
            since=since and since.astimezone(UTC),
            until=until and until.astimezone(UTC),
            placed_at=placed_at.astimezone(UTC),
            action_id=action_id,
        )
        for (
            name,
            reason,
            tenant_id,
            user_id,
            entity_type,
            entity_id,
            concept,
            action_type,
            since,
            until,
            placed_at,
            action_id,
        ) in rows
    ]


HOLDS = Statement(
    f"SELECT {_COLUMNS} FROM provenance.legal_holds h ORDER BY h.placed_at, h.name",
    None,
    _holds,
)


def place(name: str, reason: str, scope: Mapping[str, object], action_id: UUID) -> Statement[list[LegalHold]]:
    """Place a hold; answers none where one has this name already."""
    return Statement(
        f"""INSERT INTO provenance.legal_holds AS h (name, reason, tenant_id, user_id, entity_type, entity_id, concept,
                   action_type, since, until, action_id)
            VALUES (%(name)s, %(reason)s, %(tenant_id)s, %(user_id)s, %(entity_type)s, %(entity_id)s, %(concept)s,
                    %(action_type)s, %(since)s, %(until)s, %(action_id)s)
            ON CONFLICT DO NOTHING RETURNING {_COLUMNS}""",
        {"name": name, "reason": reason, "action_id": action_id, **scope},
        _holds,
    )


def release(name: str) -> Statement[list[LegalHold]]:
    """Release a hold; answers none where none has this name."""
    return Statement(
        f"DELETE FROM provenance.legal_holds h WHERE h.name = %(name)s RETURNING {_COLUMNS}",
        {"name": name},
        _holds,
    )


def _name(rows: Rows) -> str | None:
    return rows[0][0] if rows else None


COVERED: dict[str, LiteralString] = {
    "actions": "provenance.covers("
    "h, t.tenant_id, t.user_id, t.entity_type, t.entity_id, t.concept, t.action_type, t.started_at)",
    "row_changes": "CASE WHEN a.id IS NULL AND t.action_id IS NOT NULL"
    " THEN provenance.covers(h, t.tenant_id, h.user_id, h.entity_type, h.entity_id, h.concept, h.action_type,"
    " t.recorded_at)"
    " ELSE provenance.covers(h, t.tenant_id, a.user_id, a.entity_type, a.entity_id, a.concept, a.action_type,"
    " COALESCE(a.started_at, t.recorded_at)) END",
}
"""Whether a hold ``h`` holds a row ``t`` of a table, in SQL; of a row change, ``a`` is the action that made it.

A row change is held as that is; one without an action by its tenant and its time alone. Of an action that has left nothing
else is known, and it might be what is held.
"""


def on(table: str, partition: str) -> Statement[str | None]:
    """Return the name of a hold on any of the rows of a partition, or ``None``."""
    joined: LiteralString = "" if table == "actions" else "LEFT JOIN provenance.action_log a ON a.id = t.action_id"
    query: LiteralString = (
        "SELECT h.name FROM provenance.legal_holds h "
        f"WHERE EXISTS (SELECT FROM ONLY provenance.{{}} t {joined} WHERE {COVERED[table]}) ORDER BY h.name LIMIT 1"
    )
    return Statement(sql.SQL(query).format(sql.Identifier(partition)), None, _name)
