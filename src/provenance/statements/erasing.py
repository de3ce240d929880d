"""The statement that takes out of the trail what was said of somebody."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from provenance.statements import Rows, Statement


@attrs.frozen(kw_only=True)
class Subject:
    """Of whom or of what: a user, an entity, or a row of a captured table; everywhere, or within a tenant."""

    user_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    table: str | None = None
    key: Sequence[str] | None = None
    tenant_id: str | None = None


@attrs.frozen
class Erased:
    """How much was taken out."""

    actions: int
    pending: int
    row_changes: int
    idempotency_keys: int


def _erased(rows: Rows) -> Erased:
    (counts,) = rows
    return Erased(*counts)


def erase(subject: Subject) -> Statement[Erased]:
    """Take the bodies out, inside the action that says why."""
    return Statement(
        """SELECT e.actions, e.pending, e.row_changes, e.keys
             FROM provenance.erase(
                  %(user_id)s, %(entity_type)s, %(entity_id)s, to_regclass(%(table)s), %(table)s, %(key)s::text[],
                  %(tenant_id)s) AS e""",
        attrs.asdict(subject, recurse=False),
        _erased,
    )
