"""``provenance changes``, ``blame`` and ``as-of``: what rows were before and after each change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import attrs
import click
from rich.console import RenderableType
from rich.text import Text

from provenance.cli.database import changes as reading
from provenance.cli.output import action_fields, clean, columns, emit, emit_json
from provenance.cli.output import moment as shown_moment
from provenance.cli.parameters import json_option, limit_option, moment
from provenance.cli.problems import BadNews
from provenance.models import Action, Blame, ChangePage, Ending, Operation, RowChange, RowValues, Truncated

_LONGEST_VALUE = 60


def _plain(value: object) -> Any:
    """Return a value in a form that JSON has."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Truncated():
            return {"$truncated": attrs.asdict(value)}
        case dict():
            members = cast("dict[object, object]", value)
            return {str(key): _plain(item) for key, item in members.items()}
        case Mapping():
            row = cast("RowValues", value)
            return {name: _plain(item) for name, item in row.items()}
        case list():
            return [_plain(item) for item in cast("list[object]", value)]
        case bytes():
            return f"\\x{value.hex()}"
        case _:
            return str(value)


def _change_fields(change: RowChange) -> dict[str, Any]:
    fields = {field.name: getattr(change, field.name) for field in attrs.fields(RowChange)}
    return fields | {"old": _plain(change.old), "new": _plain(change.new), "changed": list(change.changed)}


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, Truncated):
        return f"{value.bytes} bytes"
    plain = _plain(value)
    # Numbers too, which JSON prints as Python does; what is text already stays without quotes.
    text = clean(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _told(change: RowChange) -> str:
    """Return what a change did, in one line."""
    old: RowValues = change.old or {}
    new: RowValues = change.new or {}
    if change.old is not None and change.new is not None:
        parts = [f"{clean(name)}: {_text(old[name])} → {_text(new[name])}" for name in change.changed]
    else:
        parts = [f"{clean(name)}: {_text(value)}" for name, value in (new or old).items() if value is not None]
    return ", ".join(parts)


def _show(page: ChangePage, *, as_json: bool, more: str) -> None:
    if as_json:
        fields = [_change_fields(change) for change in page]
        emit_json({"changes": fields, "next": page.next, "incomplete_until": page.incomplete_until})
        return
    if page.incomplete_until:
        click.echo(
            f"Row changes until {shown_moment(page.incomplete_until)} may have left the database, and are not listed then.",
            err=True,
        )
    if not page.items:
        click.echo("No changes found.", err=True)
        return
    rows = [
        (
            shown_moment(change.recorded_at),
            change.operation.value,
            clean(change.table),
            clean(f"{change.old_key} → {change.key}" if change.old_key is not None else change.key),
            _told(change),
            str(change.action_id or f"none, by {clean(change.db_user)}"),
        )
        for change in page
    ]
    emit(columns(("RECORDED", "OPERATION", "TABLE", "KEY", "VALUES", "ACTION"), rows))
    if page.next is not None:
        click.echo(f"There are {more} {page.next}", err=True)


@click.command("changes", short_help="List the changes of a row, or those of an action.")
@click.argument("table", required=False)
@click.argument("key", nargs=-1)
@click.option("--action", type=click.UUID, metavar="ID", help="List what this action changed instead, oldest first.")
@click.option("--alone", is_flag=True, help="With --action: without what the actions that it caused changed.")
@click.option("--before", metavar="ID", help="Go on where a page of a row's history ended, with the id it named.")
@click.option("--after", metavar="ID", help="Go on where a page of an action's changes ended, with the id it named.")
@limit_option("changes")
@json_option
@click.pass_obj
def changes(
    dsn: str | None,
    *,
    table: str | None,
    key: tuple[str, ...],
    action: UUID | None,
    alone: bool,
    before: str | None,
    after: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the changes of the row of TABLE with this primary key, newest first.

    Give the values of a key of several columns one after the other.
    """
    if (action is None) == (table is None) or (table is None) == bool(key):
        raise click.UsageError("give either TABLE and KEY, or --action.")
    with reading(dsn) as repository:
        if action is not None:
            page = repository.of_action(action, descendants=not alone, after=after, limit=limit)
            _show(page, as_json=as_json, more="later ones: add --after")
        else:
            page = repository.history(table or "", key, before=before, limit=limit)
            _show(page, as_json=as_json, more="older ones: add --before")


def _who(found: Blame) -> tuple[str, ...]:
    if found.change is None:
        return ("before the capture", "", "", "")
    if found.action is None:
        known = "" if found.change.action_id is None else str(found.change.action_id)
        return (shown_moment(found.change.recorded_at), known or f"none, by {clean(found.change.db_user)}", "", "")
    action = found.action
    return (
        shown_moment(found.change.recorded_at),
        clean(f"{action.action_type}  {action.id}"),
        clean(action.user_id or ""),
        str(action.request_id or ""),
    )


def blame_table(found: Iterable[Blame]) -> RenderableType:
    """Return what :meth:`provenance.ChangeRepository.blame` says, to be printed."""
    rows = [(clean(entry.column), _text(entry.value), *_who(entry)) for entry in found]
    return columns(("COLUMN", "VALUE", "SET", "BY ACTION", "USER", "REQUEST"), rows)


def blame_fields(found: Blame) -> dict[str, Any]:
    """Return one of it, for JSON."""
    return {"column": found.column, "value": _plain(found.value), **_cause_fields(found.change, found.action)}


def _cause_fields(change: RowChange | None, action: Action | None) -> dict[str, Any]:
    return {
        "change": _change_fields(change) if change else None,
        "action": action_fields(action) if action else None,
    }


def _ended(ending: Ending) -> str:
    """Return in one line that a row is gone or has another key, since when and by whom."""
    change, action = ending.change, ending.action
    match change.operation:
        case Operation.DELETE:
            how = "was deleted"
        case Operation.TRUNCATE:
            how = "was removed by TRUNCATE"
        case _:
            how = f"got the key {change.key}"
    if action is not None:
        by = f"by {action.action_type} {action.id}" + (f", user {action.user_id}" if action.user_id else "")
    elif change.action_id is not None:
        by = f"by {change.action_id}"
    else:
        by = f"outside any action, by {change.db_user}"
    return clean(f"This row {how} at {shown_moment(change.recorded_at)} {by}.")


@click.command(short_help="Tell who last set each column of a row.")
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@json_option
@click.pass_obj
def blame(dsn: str | None, *, table: str, key: tuple[str, ...], as_json: bool) -> None:
    """Tell for every column of the row of TABLE with this primary key who last set it, and who removed the row."""
    with reading(dsn) as repository:
        found = repository.blame(table, key)
    if as_json:
        ended = _cause_fields(found.ended.change, found.ended.action) if found.ended else None
        emit_json(
            {
                "columns": [blame_fields(entry) for entry in found],
                "ended": ended,
                "incomplete_until": found.incomplete_until,
            }
        )
        return
    if not found:
        raise BadNews(f"no change of {table} {' '.join(key)} is stored")
    if found.ended:
        click.echo(_ended(found.ended))
    emit(blame_table(found))
    if found.incomplete_until:
        click.echo(
            f"Row changes until {shown_moment(found.incomplete_until)} may have left the database: of what is told of an "
            "earlier one, neither who nor the value nor the end of the row need be the last.",
            err=True,
        )


@click.command("as-of", short_help="Show a table, or a row of it, as it was at some time.")
@click.argument("at", type=moment, metavar="WHEN")
@click.argument("table")
@click.argument("key", nargs=-1)
@json_option
@click.pass_obj
def as_of(dsn: str | None, *, at: datetime, table: str, key: tuple[str, ...], as_json: bool) -> None:
    """Show TABLE, or its row with this primary key, as it was at WHEN.

    WHEN is an ISO 8601 time, in UTC unless it says otherwise, or an age such as 15m, 2h, 7d.
    """
    with reading(dsn) as repository:
        if key:
            row = repository.as_of(table, key, at)
            rows = [] if row is None else [row]
        else:
            rows = [found.values for found in repository.table_as_of(table, at)]
    if as_json:
        emit_json([_plain(row) for row in rows])
        return
    if not rows:
        click.echo("No rows found.", err=True)
        return
    titles = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[Text(_text(row[name])) if name in row else Text() for name in titles] for row in rows]
    emit(columns([clean(title) for title in titles], cells))
