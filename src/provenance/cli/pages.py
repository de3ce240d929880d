"""Shows one page of actions, for the commands that list them."""

from __future__ import annotations

import click

from provenance.cli.output import ActionList, action_fields, emit, emit_json
from provenance.models import Action, Page


def show_page(page: Page[Action], *, as_json: bool) -> None:
    """Print a page, and on standard error how to get the next one."""
    if as_json:
        emit_json({"actions": [action_fields(action) for action in page], "next": page.next})
        return
    if not page.items:
        click.echo("No actions found.", err=True)
        return
    emit(ActionList(page))
    if page.next is not None:
        click.echo(f"There are older ones: add --before {page.next}", err=True)
