"""``provenance refresh``: brings resolved views up to date."""

from __future__ import annotations

import attrs
import click
import psycopg

from provenance import request_scope
from provenance.cli.database import recording
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews
from provenance.errors import TableRefused
from provenance.trail import Trail
from provenance.translation import sentence


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a view."""

    view: str
    refreshed: bool
    error: str | None = None


@click.command(short_help="Bring materialized views up to date.")
@click.argument("views", nargs=-1, metavar="[VIEW]...")
@click.option("--blocking", is_flag=True, help="Lock out readers meanwhile: quicker, and needs no unique index.")
@json_option
@click.pass_obj
def refresh(dsn: str | None, *, views: tuple[str, ...], blocking: bool, as_json: bool) -> None:
    """Bring each VIEW up to date; all resolved views when none is named, in the order in which they read each other.

    Goes on after one fails, and exits with 1 then. A view that another session is refreshing is left to that.
    """
    outcomes: list[Outcome] = []
    with recording(dsn) as trail, request_scope():
        for view in views or [found.view for found in trail.views() if found.resolved]:
            outcomes.append(refreshed(trail, view, blocking=blocking))
            if not as_json:
                _report(outcomes[-1])
    if as_json:
        emit_json([attrs.asdict(outcome) for outcome in outcomes])
    elif not outcomes:
        click.echo(
            "No materialized view has a function refresh_<view>() of its owner's; name those to refresh: provenance "
            "refresh VIEW...",
            err=True,
        )
    if failed := [outcome.view for outcome in outcomes if outcome.error is not None]:
        raise BadNews(f"not refreshed: {', '.join(failed)}")


def refreshed(trail: Trail, view: str, *, blocking: bool) -> Outcome:
    """Refresh a view."""
    try:
        done = trail.refresh(view, concurrently=not blocking)
    except TableRefused as error:
        return Outcome(view=view, refreshed=False, error=str(error))
    except psycopg.Error as error:
        return Outcome(view=view, refreshed=False, error=sentence(error))
    return Outcome(view=done.view, refreshed=done.refreshed)


def _report(outcome: Outcome) -> None:
    if outcome.error is not None:
        click.echo(f"{clean(outcome.view)} is not refreshed: {clean(outcome.error)}", err=True)
    elif outcome.refreshed:
        click.echo(f"{clean(outcome.view)} is refreshed.")
    else:
        click.echo(f"{clean(outcome.view)} is being refreshed by another session.")
