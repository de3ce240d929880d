"""Rows of the trail for tests of what happens to them."""

from __future__ import annotations

from typing import Any

import attrs
import psycopg
from psycopg import sql

from provenance import ids
from provenance.statements.recording import ActionRow

_MOMENT = "2026-03-01T12:30:15.250000+00:00"


def action_row(**changed: Any) -> ActionRow:
    """Return a row of a new id, in a tree of its own, with every optional column empty unless it is given."""
    made = changed.get("id") or ids.new_id()
    empty: dict[str, Any] = dict.fromkeys(field.name for field in attrs.fields(ActionRow))
    needed = {
        "id": made,
        "root_id": made,
        "action_type": "t",
        "concept": "c",
        "status": "completed",
        "tenant_id": "",
        "started_at": _MOMENT,
        "completed_at": _MOMENT,
        "duration_ms": 1.5,
        "fence": None,
    }
    return ActionRow(**{**empty, **needed, **changed})


def stored(eye: psycopg.Connection[Any]) -> str:
    """Return everything that any table of the schema holds, as text."""
    tables = eye.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'provenance'::regnamespace AND relkind = 'r'"
    ).fetchall()
    query = sql.SQL("SELECT t::text FROM {} AS t")
    return "".join(str(eye.execute(query.format(sql.Identifier("provenance", name))).fetchall()) for (name,) in tables)
