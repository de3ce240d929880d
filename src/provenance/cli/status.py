"""``provenance status``: whether the schema fits, and how fresh the resolved views are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import click

from provenance.cli.database import connected
from provenance.cli.output import clean, columns, emit, emit_json, moment
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews
from provenance.drivers import run
from provenance.errors import SchemaNotReady
from provenance.models import ViewState
from provenance.setting_up import SCHEMA_VERSION
from provenance.statements.version import VERSION
from provenance.statements.views import VIEWS
from provenance.translation import translated


@click.command(short_help="Say whether the schema fits, and how fresh the views are.")
@json_option
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Say whether the schema fits this version of the library, and how fresh the resolved views are.

    Exits with 1 when the schema does not fit.
    """
    with connected(ctx.obj) as connection:
        version, unread = run(connection, VERSION), None
        fits = version is not None and version >= SCHEMA_VERSION
        try:
            with translated("reading the state of the views", rights="reader"):
                views = run(connection, VIEWS) if fits else []
        except SchemaNotReady as error:
            # Whoever only records may know that the schema fits.
            views, unread = [], str(error)
    if as_json:
        schema = {"version": version, "needed": SCHEMA_VERSION, "fits": fits}
        emit_json({"schema": schema, "views": [attrs.asdict(view) for view in views]})
    else:
        installed = "missing" if version is None else f"at version {version}"
        needed = "as needed" if fits else f"version {SCHEMA_VERSION} is needed; run `provenance migrate up`"
        click.echo(f"The schema is {installed}, {needed}.")
        show_views(views)
    if unread is not None:
        click.echo(f"The views are not looked at: {clean(unread)}", err=True)
    if not fits:
        ctx.exit(BadNews.exit_code)


def show_views(views: list[ViewState]) -> None:
    """Say how fresh they are, after an empty line; nothing where there are none."""
    if not views:
        return
    now = datetime.now(UTC)
    click.echo()
    emit(
        columns(
            ("VIEW", "LAST REFRESH", "AGE", "ROWS CHANGED SINCE"),
            [
                (
                    clean(view.view),
                    moment(view.refreshed_at) if view.refreshed_at else "none recorded",
                    age(now - view.refreshed_at) if view.refreshed_at else "",
                    "not known" if view.changed_rows is None else str(view.changed_rows),
                )
                for view in views
            ],
        )
    )


def age(past: timedelta) -> str:
    """Return how long ago something was, in the largest unit that is full; clocks may differ."""
    seconds = max(int(past.total_seconds()), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
