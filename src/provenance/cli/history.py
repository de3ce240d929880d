"""``provenance history``."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import click

from provenance.cli.database import actions
from provenance.cli.pages import show_page
from provenance.cli.parameters import archive_option, json_option, page_options


@click.command()
@click.argument("entity_type", metavar="TYPE")
@click.argument("entity_id", metavar="ID")
@page_options
@archive_option
@json_option
@click.pass_obj
def history(
    dsn: str | None,
    *,
    entity_type: str,
    entity_id: str,
    limit: int,
    before: UUID | None,
    archive: Path | None,
    as_json: bool,
) -> None:
    """List what was done to the entity TYPE ID, newest first."""
    with actions(dsn, archive) as repository:
        page = repository.entity_history(entity_type, entity_id, before=before, limit=limit)
    show_page(page, as_json=as_json)
