"""What goes to standard output: for a person at a terminal, for a pipe, or as JSON.

Stored text may come from anywhere, and a terminal obeys control characters. So every text that is shown passes through
:func:`clean`; in JSON the encoder escapes what is not ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import attrs
import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from provenance.models import Action, ActionTree, Status

# In a pipe nothing is wrapped or cut: a line is as long as it is.
_UNBOUNDED = 1_000_000

# Zero-width (non-)joiners count as format characters, but Persian and many Indian languages are written with them.
_JOINERS = "\u200c\u200d"

_COLOURS = {
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.ROLLED_BACK: "yellow",
    Status.PENDING: "cyan",
    Status.UNKNOWN: "magenta",
}


def clean(text: str) -> str:
    r"""Return *text* with everything that a terminal may obey, or that may reorder a line, written as ``\x1b``."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode() for char in text
    )


def emit(*parts: RenderableType) -> None:
    """Print for a person, in colour and fitted to the width; or plainly, where standard output is not a terminal."""
    fitted = Console(highlight=False, markup=False, emoji=False)
    unbounded = Console(highlight=False, markup=False, emoji=False, width=_UNBOUNDED)
    if fitted.is_terminal:
        for part in parts:
            # A tree that rich fits to a narrow terminal loses its deep branches; the terminal can wrap its lines.
            (unbounded if isinstance(part, Tree) else fitted).print(part)
        return
    with unbounded.capture() as captured:
        unbounded.print(*parts, sep="\n")
    # Cells are padded to their column, the last one too.
    click.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False)


def emit_json(document: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def action_fields(action: Action) -> dict[str, Any]:
    """Return an action for :func:`emit_json`: the names of the model, times in ISO 8601, ids as text."""
    return attrs.asdict(action, recurse=False)


def tree_fields(tree: ActionTree) -> list[dict[str, Any]]:
    """Return the actions of a tree for :func:`emit_json`, parents first, each with its ``depth``.

    A list and not nested objects, because JSON readers limit nesting, and a chain of actions may be longer.
    """
    return [{"depth": depth, **action_fields(action)} for depth, action in tree.walk()]


def moment(at: datetime) -> str:
    """Return an aware datetime in UTC, to the millisecond."""
    return at.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def duration(milliseconds: float | None) -> str:
    """Return a duration in the unit that suits it; empty when it is not known."""
    if milliseconds is None:
        return ""
    if milliseconds < 1_000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1_000:.1f} s"


def entity(action: Action) -> str:
    """Return what an action is about, as ``TYPE:ID``; empty when it names nothing in full."""
    return "" if action.entity is None else clean(f"{action.entity.type}:{action.entity.id}")


def error(action: Action) -> str:
    """Return the class and the message of an action's error; empty when it has none."""
    kind = (action.error_type or "").rpartition(".")[2]
    return clean(": ".join(part for part in (kind, action.error_message) if part))


def status(action: Action) -> Text:
    """Return an action's status, in its colour."""
    return Text(action.status.value, _COLOURS[action.status])


def line(action: Action) -> Text:
    """Return an action in one line: what, how it ended, how long it took, by whom, on what, and why it failed."""
    parts: list[Text | str | tuple[str, str]] = [(clean(action.action_type), "bold"), "  ", status(action)]
    if took := duration(action.duration_ms):
        parts.append(f"  {took}")
    if action.user_id is not None:
        parts.append(f"  by {clean(action.user_id)}")
    if about := entity(action):
        parts.append(f"  on {about}")
    if why := error(action):
        parts.append((f"  {why}", _COLOURS[action.status]))
    return Text.assemble(*parts)


def grow(below: Tree, tree: ActionTree, *, ids: bool = False) -> None:
    """Draw a tree of actions below a node. Of one whose parent is not there, for it has left, that is said.

    Args:
        below: the node.
        tree: the actions.
        ids: whether to show each one's id.
    """
    path = [below]
    above: list[UUID] = []
    for depth, action in tree.walk():
        del path[depth + 1 :], above[depth:]
        label = line(action)
        if ids:
            label.append(f"  {action.id}", "dim")
        if action.parent_action_id not in (None, *above[-1:]):
            label.append(f"  caused by {action.parent_action_id}, which is not here", "yellow")
        path.append(path[depth].add(label))
        above.append(action.id)


def columns(titles: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table without rules.

    Args:
        titles: the heads of the columns.
        rows: their cells, cleaned.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


class ActionList:
    """Actions to print, one a line: as a table, or one after the other where that would be too wide.

    Args:
        actions: what to list.
    """

    def __init__(self, actions: Iterable[Action]) -> None:
        self._actions = tuple(actions)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say to rich what to print."""
        table = self._table()
        if console.measure(table, options=options.update(max_width=_UNBOUNDED)).maximum <= options.max_width:
            yield table
            return
        for action in self._actions:
            yield Text.assemble(f"{moment(action.started_at)}  ", line(action))
            yield Text(f"  {action.id}", "dim")

    def _table(self) -> Table:
        rows = (
            (
                moment(action.started_at),
                status(action),
                clean(action.action_type),
                entity(action),
                clean(action.user_id or ""),
                duration(action.duration_ms),
                str(action.id),
                error(action),
            )
            for action in self._actions
        )
        return columns(("STARTED", "STATUS", "ACTION", "ENTITY", "USER", "TOOK", "ID", "ERROR"), rows)
