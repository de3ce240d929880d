"""``provenance geo``."""

from __future__ import annotations

import attrs
import click

from provenance.cli.database import connected, recording
from provenance.cli.declared import module, split
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews, Misuse
from provenance.cli.progress import progress_bar
from provenance.context import request_scope
from provenance.geo import LevelColumns, Moved, add_reference, backfill, carry_back, drop_reference
from provenance.geo.batches import BATCH, counted


@click.group()
def geo() -> None:
    """Move tables from columns for levels of places to one id."""


@geo.command("backfill", short_help="Give the rows of a table the ids of their locations.")
@click.argument("source", metavar="FILE_OR_MODULE:NAME")
@click.option("--back", is_flag=True, help="Write the columns for levels from the ids instead, and drop the ids.")
@click.option("--overwrite", is_flag=True, help="With --back: also columns that name other places than the id does.")
@click.option("--batch", type=click.IntRange(min=1), default=BATCH, show_default=True, help="Rows of a transaction.")
@json_option
@click.pass_obj
def backfill_command(dsn: str | None, *, source: str, back: bool, overwrite: bool, batch: int, as_json: bool) -> None:
    """Give the rows of a table the ids of their locations, and make those that are missing.

    FILE_OR_MODULE:NAME is where the table is declared, as LevelColumns: places.py:COVERAGE, or app.places:COVERAGE. The
    column for the id is added if it is not there. Stop it whenever you like, and run it again: it goes on where it was.
    """
    if overwrite and not back:
        raise click.UsageError("--overwrite goes with --back")
    form = _declared(source)
    with connected(dsn) as connection, recording(dsn) as trail, request_scope():
        if not back:
            add_reference(connection, form)
        with progress_bar(clean(form.table)) as progress:
            if back:
                moved = carry_back(trail, form, batch=batch, overwrite=overwrite, progress=progress)
            else:
                moved = backfill(trail, form, batch=batch, progress=progress)
        _report(form, moved, as_json=as_json)
        if moved.left:
            raise BadNews(
                f"{form.table} has {counted(moved.left, 'row')} that somebody wrote meanwhile, and that can be done now; "
                "run it again"
            )
        if moved.differing:
            raise BadNews(
                f"{form.table} has {counted(moved.differing, 'row')} with an id that says something else than the columns, "
                "so one of the two was written later; set the id to null where the columns are right, and run it again"
            )
        if back:
            drop_reference(connection, form)


def _declared(source: str) -> LevelColumns:
    place, name = split(source)
    if not name:
        raise Misuse(
            f"{source} names no table; put the name of its declaration after a colon, as in places.py:COVERAGE"
        )
    found = getattr(module(place), name, None)
    if not isinstance(found, LevelColumns):
        raise Misuse(f"there is no LevelColumns named {name} in {place}; declare the table there, or correct the name")
    return found


def _report(form: LevelColumns, moved: Moved, *, as_json: bool) -> None:
    if as_json:
        emit_json({"table": form.table, **attrs.asdict(moved)})
        return
    done = (
        counted(moved.rows, "row"),
        counted(moved.locations, "new location"),
        counted(moved.batches, "batch", "batches"),
    )
    click.echo(f"{clean(form.table)}: {', '.join(done)}")
