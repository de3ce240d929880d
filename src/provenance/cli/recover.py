"""``provenance recover``: finds out what became of actions that have no outcome."""

from __future__ import annotations

import attrs
import click

from provenance.cli.database import recording
from provenance.cli.output import emit_json
from provenance.cli.parameters import json_option


@click.command(short_help="Find out what became of actions without an outcome.")
@json_option
@click.pass_obj
def recover(dsn: str | None, *, as_json: bool) -> None:
    """Find out what became of actions that were begun and have no recorded outcome, and record it.

    Safe to run at any time, several at once included: what is still in progress stays as it is.
    """
    with recording(dsn) as trail:
        found = trail.recover()
    if as_json:
        emit_json(attrs.asdict(found))
        return
    said = {
        "completed": found.completed,
        "failed": found.failed,
        "rolled back": found.rolled_back,
        "still pending": found.pending,
        "unknown: nobody can say what became of them": found.unknown,
    }
    for what, count in said.items():
        if count:
            click.echo(f"{count} {what}")
    if not any(said.values()):
        click.echo("Every action that was begun has an outcome.")
