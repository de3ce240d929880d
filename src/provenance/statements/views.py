"""The statements that look at resolved views and refresh them."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import attrs
from psycopg import sql

from provenance.models import ViewState
from provenance.statements import Rows, Statement, truth


@attrs.frozen(kw_only=True)
class Found:
    """A view that is to be refreshed, and how this role may do that."""

    view: str
    """Qualified, and quoted where SQL needs it, as :attr:`function` is."""
    materialized: bool
    allowed: bool
    """The role owns it, or may do for other reasons."""
    owner: str
    function: str | None
    """Of the owner's, which refreshes it for others."""
    callable: bool
    """The role may call that."""
    rows_written: int
    """To what the view reads, since the server began to count."""


def _found(rows: Rows) -> Found:
    view, materialized, allowed, owner, function, may_call, written, _ = rows[0]
    return Found(
        view=view,
        materialized=materialized,
        allowed=allowed,
        owner=owner,
        function=function,
        callable=may_call,
        rows_written=written,
    )


def find(view: str) -> Statement[Found]:
    """Look at a view, and note that the current action tells of its refresh: the database then records no other."""
    return Statement(
        """SELECT v.view_name, v.is_materialized, v.is_allowed, v.owner_name, v.function_name, v.is_callable,
                  v.rows_written,
                  pg_catalog.set_config('provenance.refreshing', provenance.current_action_id()::pg_catalog.text, true)
             FROM provenance.view_to_refresh(%(view)s::pg_catalog.regclass) v""",
        {"view": view},
        _found,
    )


def refresh(view: str, *, concurrently: bool) -> Statement[bool]:
    """Refresh a view with the rights of this role; answers ``False`` when another session is doing so."""
    return Statement(
        "SELECT provenance.refresh_view(%(view)s::pg_catalog.regclass, %(concurrently)s)",
        {"view": view, "concurrently": concurrently},
        truth,
    )


def refresh_through(function: Any) -> Statement[bool]:
    """Refresh a view with the rights of its owner, through a function, whose name is quoted already."""
    return Statement(sql.SQL("SELECT {}()").format(sql.SQL(function)), None, truth)


def _states(rows: Rows) -> list[ViewState]:
    return [
        ViewState(
            view=view,
            resolved=resolved,
            populated=populated,
            refreshed_at=at.astimezone(UTC) if at else None,
            action_id=action_id,
            changed_rows=changed,
        )
        for view, resolved, populated, at, action_id, changed in rows
    ]


VIEWS = Statement(
    """SELECT view_name, is_resolved, is_populated, refreshed_at, action_id, changed_rows
         FROM provenance.resolved_views()""",
    None,
    _states,
)
