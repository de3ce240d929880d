"""Rows of the trail for tests of what happens to them."""

from __future__ import annotations

from typing import Any

import attrs

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
        "fenced": False,
    }
    return ActionRow(**{**empty, **needed, **changed})
