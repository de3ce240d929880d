"""``provenance partition``: sees to it that every month has its partitions, and every row is in that of its month."""

from __future__ import annotations

import attrs
import click
import psycopg

from provenance.cli.database import connected
from provenance.cli.output import clean, columns, emit, emit_json
from provenance.cli.parameters import ahead_option, hold_option, json_option
from provenance.cli.problems import BadNews
from provenance.drivers import SyncConnection, run
from provenance.models import Partition
from provenance.statements import partitions as statements
from provenance.statements.partitions import TABLES
from provenance.translation import sentence, translated


@attrs.define
class Done:
    """What became of the partitions."""

    made: list[str]
    moved: dict[str, int]
    problems: list[str]
    left: list[str]
    """What is left to another session, which is moving or erasing rows."""


@click.command(short_help="Make the partitions of the coming months.")
@ahead_option
@hold_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@click.pass_obj
def partition(dsn: str | None, *, ahead: int, hold: float, dry_run: bool, as_json: bool) -> None:
    """Make the partitions of this month and the coming ones, and move the rows into them that had none to go to.

    Safe to run at any time, several at once included; a daily cron job is the place for it. Exits with 1 when rows stay in a
    default partition that belong elsewhere.
    """
    with connected(dsn) as connection:
        done = _planned(connection, ahead) if dry_run else keep_months(connection, ahead, hold)
        with translated("reading which partitions there are", rights="reader"):
            there = run(connection, statements.PARTITIONS)
    if as_json:
        found = [{**attrs.asdict(one), "month": one.month and f"{one.month:%Y-%m}"} for one in there]
        emit_json({**attrs.asdict(done), "partitions": found})
    else:
        _report(done, there, dry_run=dry_run)
    if problems := done.left + done.problems:
        raise BadNews("; ".join(problems))


def _planned(connection: SyncConnection, ahead: int) -> Done:
    with translated("looking into the default partitions", rights="owner"):
        moved = {name: count for table in TABLES for name, count in run(connection, statements.strays(table)).items()}
    made = [name for name in run(connection, statements.missing(ahead)) if name not in moved]
    return Done(made, moved, [], [])


def keep_months(connection: SyncConnection, ahead: int, hold: float) -> Done:
    """See to it that every month has its partitions, and every row is in that of its month."""
    done = Done([], {}, [], [])
    with translated("making partitions", rights="maintainer"):
        for table in TABLES:
            try:
                done.moved |= run(connection, statements.empty_default(table, hold))
            # The other table, and the coming months, are none the worse for it.
            except psycopg.errors.ObjectInUse as error:
                done.left.append(sentence(error))
            except (psycopg.errors.LockNotAvailable, psycopg.errors.ObjectNotInPrerequisiteState) as error:
                done.problems.append(sentence(error))
        done.made = run(connection, statements.ensure(ahead))
    return done


def _report(done: Done, there: list[Partition], *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for name, count in done.moved.items():
        click.echo(f"{count} row(s) {would}moved into provenance.{clean(name)}")
    for name in done.made:
        click.echo(f"provenance.{clean(name)} {would}made")
    emit(
        columns(
            ("TABLE", "MONTH", "ROWS", "SIZE"),
            [
                (
                    one.table,
                    "default" if one.month is None else f"{one.month:%Y-%m}",
                    "not counted" if one.rows is None else f"{one.rows:,}",
                    size(one.bytes),
                )
                for one in there
            ],
        )
    )


def size(of_bytes: int) -> str:
    """Return a size in the largest binary unit of which there are ten."""
    value = float(of_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 10 * 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.0f} GiB"
