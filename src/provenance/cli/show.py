"""``provenance show``."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import click
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from provenance.cli.database import actions
from provenance.cli.output import action_fields, clean, duration, emit, emit_json, entity, grow, moment, tree_fields
from provenance.cli.parameters import archive_option, json_option
from provenance.cli.problems import BadNews
from provenance.models import Action, JSONValue


@click.command()
@click.argument("action_id", type=click.UUID)
@archive_option
@json_option
@click.pass_obj
def show(dsn: str | None, action_id: UUID, archive: Path | None, as_json: bool) -> None:
    """Show an action in full, and the whole tree it is part of."""
    with actions(dsn, archive) as repository:
        action, tree = repository.get(action_id), repository.tree(action_id)
    if action is None or tree is None:
        raise BadNews(f"action {action_id} is not recorded in this {'archive' if archive else 'database'}")
    if as_json:
        emit_json({"action": action_fields(action), "tree": tree_fields(tree)})
        return
    drawn = Tree(Text("the tree it is in", "bold"))
    grow(drawn, tree, ids=True)
    emit(_details(action), "", drawn)


def _details(action: Action) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(action):
        if value:
            table.add_row(Text(name, "bold"), Text(value))
    return table


def _facts(action: Action) -> list[tuple[str, str]]:
    return [
        ("action", clean(action.action_type)),
        ("id", str(action.id)),
        ("concept", clean(action.concept)),
        ("entity", entity(action)),
        ("status", action.status.value),
        ("error type", clean(action.error_type or "")),
        ("error code", clean(action.error_code or "")),
        ("error", clean(action.error_message or "")),
        ("user", clean(action.user_id or "")),
        ("tenant", clean(action.tenant_id)),
        ("request", str(action.request_id or "")),
        ("correlation", clean(action.correlation_id or "")),
        ("started", moment(action.started_at)),
        ("completed", moment(action.completed_at) if action.completed_at else ""),
        ("took", duration(action.duration_ms)),
        ("payload", _json(action.payload)),
        ("result", _json(action.result)),
        ("metadata", _json(action.metadata)),
        ("erased by", str(action.erased_by_action_id or "")),
    ]


def _json(value: JSONValue) -> str:
    if value is None:
        return ""
    # Line by line: the line breaks are ours, what is inside the lines is not.
    return "\n".join(clean(line) for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n"))
