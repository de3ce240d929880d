"""``provenance log``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import cast
from uuid import UUID

import click

from provenance.cli.database import actions
from provenance.cli.pages import show_page
from provenance.cli.parameters import archive_option, entity_ref, json_option, moment, page_options, request_key
from provenance.models import EntityRef, Status
from provenance.repository import Filters


@click.command()
@click.option("--type", "action_type", metavar="TYPE", help="Of this action type.")
@click.option("--concept", metavar="NAME", help="On this concept.")
@click.option("--status", type=click.Choice([status.value for status in Status]), help="With this status.")
@click.option("--user", metavar="ID", help="By this user.")
@click.option("--tenant", metavar="ID", help="For this tenant; '' for none.")
@click.option("--request", type=request_key, metavar="ID", help="In this request.")
@click.option("--correlation", metavar="TEXT", help="Under this name of another system.")
@click.option("--entity", type=entity_ref, metavar="TYPE:ID", help="On this entity.")
@click.option(
    "--since",
    type=moment,
    metavar="WHEN",
    help="Begun then or later: an ISO 8601 time, in UTC unless it says otherwise, or an age such as 15m, 2h, 7d.",
)
@click.option("--until", type=moment, metavar="WHEN", help="Begun before that.")
@page_options
@archive_option
@json_option
@click.pass_obj
def log(
    dsn: str | None,
    *,
    action_type: str | None,
    concept: str | None,
    status: str | None,
    user: str | None,
    tenant: str | None,
    request: UUID | None,
    correlation: str | None,
    entity: EntityRef | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    before: UUID | None,
    archive: Path | None,
    as_json: bool,
) -> None:
    """List actions, newest first, that fit all options."""
    given = {
        "action_type": action_type,
        "concept": concept,
        "status": status,
        "user_id": user,
        "tenant_id": tenant,
        "request_id": request,
        "correlation_id": correlation,
        "entity_type": entity.type if entity else None,
        "entity_id": entity.id if entity else None,
        "since": since,
        "until": until,
    }
    wanted = cast("Filters", {name: value for name, value in given.items() if value is not None})
    with actions(dsn, archive) as repository:
        page = repository.search(before=before, limit=limit, **wanted)
    show_page(page, as_json=as_json)
