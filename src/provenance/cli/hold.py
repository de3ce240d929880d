"""``provenance hold``: what must neither be erased nor leave for an archive."""

from __future__ import annotations

from datetime import datetime
from typing import cast

import attrs
import click

from provenance import request_scope
from provenance.cli.database import recording
from provenance.cli.output import clean, columns, emit, emit_json
from provenance.cli.output import moment as shown
from provenance.cli.parameters import entity_ref, json_option, moment
from provenance.holds import Scope
from provenance.models import EntityRef, LegalHold


@click.group(short_help="Keep what a court may ask for.")
def hold() -> None:
    """Keep what a court may ask for from being erased and from leaving."""


@hold.command(short_help="Hold actions, and what they changed.")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever asks later.")
@click.option("--tenant", metavar="ID", help="Of this tenant; '' for what belongs to none.")
@click.option("--user", metavar="ID", help="By this user.")
@click.option("--entity", type=entity_ref, metavar="TYPE:ID", help="On this entity.")
@click.option("--concept", metavar="NAME", help="On this concept.")
@click.option("--type", "action_type", metavar="TYPE", help="Of this action type.")
@click.option(
    "--since", type=moment, metavar="WHEN", help="Begun then or later: an ISO 8601 time, or an age such as 7d."
)
@click.option("--until", type=moment, metavar="WHEN", help="Begun before that.")
@json_option
@click.pass_obj
def place(
    dsn: str | None,
    *,
    name: str,
    reason: str,
    tenant: str | None,
    user: str | None,
    entity: EntityRef | None,
    concept: str | None,
    action_type: str | None,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Hold all actions that fit all options, and what they changed; without any, everything."""
    given = {
        "tenant_id": tenant,
        "user_id": user,
        "entity": (entity.type, entity.id) if entity else None,
        "concept": concept,
        "action_type": action_type,
        "since": since,
        "until": until,
    }
    wanted = cast("Scope", {what: value for what, value in given.items() if value is not None})
    with recording(dsn) as trail, request_scope():
        placed = trail.place_hold(name, reason=reason, **wanted)
    if as_json:
        emit_json(attrs.asdict(placed))
    else:
        click.echo(f"the hold {clean(name)} keeps {_scope(placed)}")


@hold.command()
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever asks later.")
@json_option
@click.pass_obj
def release(dsn: str | None, *, name: str, reason: str, as_json: bool) -> None:
    """Release a hold."""
    with recording(dsn) as trail, request_scope():
        released = trail.release_hold(name, reason=reason)
    if as_json:
        emit_json(attrs.asdict(released))
    else:
        click.echo(f"the hold {clean(name)} is released")


@hold.command("list")
@json_option
@click.pass_obj
def list_(dsn: str | None, *, as_json: bool) -> None:
    """List the holds there are."""
    with recording(dsn) as trail:
        found = trail.holds()
    if as_json:
        emit_json([attrs.asdict(one) for one in found])
    elif not found:
        click.echo("nothing is held")
    else:
        rows = ((clean(one.name), shown(one.placed_at), _scope(one), clean(one.reason)) for one in found)
        emit(columns(("HOLD", "PLACED", "KEEPS", "REASON"), rows))


_SAID = {
    "tenant_id": "tenant",
    "user_id": "user",
    "entity_type": "entity type",
    "entity_id": "entity",
    "concept": "concept",
    "action_type": "type",
    "since": "since",
    "until": "until",
}


def _scope(one: LegalHold) -> str:
    """Return what a hold keeps, in words."""
    said = [f"{word} {_value(value)}" for name, word in _SAID.items() if (value := getattr(one, name)) is not None]
    return ", ".join(said) or "everything"


def _value(value: str | datetime) -> str:
    return shown(value) if isinstance(value, datetime) else clean(value) or "''"
