"""``provenance archive``: months that leave the database for files, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import attrs
import click

from provenance import Trail, request_scope
from provenance.archive import (
    Archived,
    Due,
    Month,
    archive_month,
    contents,
    due_months,
    ledger,
    restore_month,
    verify_month,
)
from provenance.archive.columns import TABLES
from provenance.archive.steps import MonthStays
from provenance.cli.database import address, connected, recording
from provenance.cli.output import clean, columns, emit, emit_json
from provenance.cli.parameters import hold_option, json_option, month_of, spool_option
from provenance.cli.partition import size
from provenance.cli.problems import BadNews
from provenance.cli.progress import progress_bar
from provenance.errors import ArchiveError, Held

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group(short_help="Let months leave for files, and come back.")
def archive() -> None:
    """Let months leave the database for files, and come back."""


@archive.command(short_help="Let months leave.")
@click.option("--to", "root", type=_DIRECTORY, required=True, metavar="DIR", help="The directory of the archive.")
@click.option(
    "--keep",
    type=click.IntRange(0, 1200),
    required=True,
    metavar="MONTHS",
    help="How many whole months before this one stay.",
)
@spool_option
@hold_option
@click.option("--dry-run", is_flag=True, help="Say which months would leave.")
@json_option
@click.pass_obj
def run(
    dsn: str | None, *, root: Path, keep: int, spools: tuple[Path, ...], hold: float, dry_run: bool, as_json: bool
) -> None:
    """Write the months that are older than --keep says to Parquet files, see that they are all there, and drop them.

    The oldest first, each as an action of its own. It can be interrupted at any time and run again: a month is in the
    database until it is in the archive. Says what keeps a month from leaving, goes on with the next one, and exits with 1.
    """
    with connected(dsn) as connection:
        due = due_months(connection, keep, datetime.now(UTC).date())
    if dry_run:
        _show_due(due, as_json=as_json)
        return
    with recording(dsn) as trail, request_scope():
        done, problems = leave(trail, due, root, spools, hold, tell=_nobody if as_json else _say)
    if as_json:
        emit_json([_fields(one) for one in done])
    elif not due:
        click.echo("no month is due")
    if problems:
        raise BadNews("; ".join(map(str, problems)))


def _nobody(_one: Archived) -> None:
    pass


def leave(
    trail: Trail,
    due: list[Due],
    root: Path,
    spools: tuple[Path, ...],
    hold: float,
    *,
    tell: Callable[[Archived], None] = _nobody,
) -> tuple[list[Archived], list[ArchiveError | Held]]:
    """Let months leave, and return those that have left, and what kept others from leaving.

    Of a month whose row changes stay, the actions stay too: they tell who may want those erased or held.
    """
    done: list[Archived] = []
    staying: dict[date, ArchiveError | Held] = {}
    for one in due:
        if one.month in staying:
            continue
        try:
            with progress_bar(f"{one.table} {one.month:%Y-%m}") as progress:
                done.append(
                    archive_month(
                        trail, root.absolute(), one.table, one.month, spools=spools, longest_hold=hold, tell=progress
                    )
                )
        except (ArchiveError, Held) as error:
            if gone(trail, one.table, one.month):
                # With another session, in the meantime.
                continue
            staying[one.month] = error
            if not isinstance(error, (MonthStays, Held)):
                # What is wrong with the archive, or with the server, is so with all months.
                break
        else:
            tell(done[-1])
    return done, list(staying.values())


def gone(trail: Trail, table: str, month: date) -> bool:
    """Return whether a month is not here any more."""
    return all((one.table, one.month) != (table, month) for one in trail.partitions())


def _say(one: Archived) -> None:
    click.echo(f"{_named(one)} has left: {one.rows} row(s)")


def _named(one: Archived | Due) -> str:
    return f"{one.table} {one.month:%Y-%m}"


def _fields(one: Archived | Due) -> dict[str, Any]:
    return {**attrs.asdict(one), "month": f"{one.month:%Y-%m}"}


def _show_due(due: list[Due], *, as_json: bool) -> None:
    if as_json:
        emit_json([_fields(one) for one in due])
    elif not due:
        click.echo("no month is due")
    else:
        rows = (
            (one.table, f"{one.month:%Y-%m}", "not counted" if one.rows is None else f"{one.rows:,}", size(one.bytes))
            for one in due
        )
        emit(columns(("TABLE", "MONTH", "ROWS", "SIZE"), rows))


@archive.command("list")
@json_option
@click.pass_obj
def list_(dsn: str | None, *, as_json: bool) -> None:
    """List the months that have left the database."""
    with connected(dsn) as connection:
        left = ledger(connection)
    if as_json:
        emit_json([_fields(one) for one in left])
    elif not left:
        click.echo("no month has left")
    else:
        rows = (
            (one.table, f"{one.month:%Y-%m}", f"{one.rows:,}", clean(one.location), str(one.action_id)) for one in left
        )
        emit(columns(("TABLE", "MONTH", "ROWS", "WHERE", "ACTION"), rows))


@archive.command(short_help="See that the files are what was written.")
@click.argument("root", type=_EXISTING, metavar="DIR")
@json_option
def verify(*, root: Path, as_json: bool) -> None:
    """See that the files in DIR are what they were when they were written; no database is needed.

    Exits with 1 when one is not.
    """
    found: list[dict[str, Any]] = []
    months = contents(root)
    with progress_bar("verifying") as tell:
        for number, month in enumerate(months, 1):
            found.append({"table": month.table.name, "month": f"{month.first:%Y-%m}", **_verified(root, month)})
            tell(number, len(months))
    problems = [one["problem"] for one in found if one["problem"] is not None]
    if as_json:
        emit_json(found)
    else:
        click.echo(f"{len(found) - len(problems)} of {len(found)} month(s) are as they were written")
    if problems:
        raise BadNews("; ".join(problems))


def _verified(root: Path, month: Month) -> dict[str, Any]:
    try:
        return {"rows": verify_month(root, month).rows, "problem": None}
    except ArchiveError as error:
        return {"rows": None, "problem": str(error)}


@archive.command(short_help="Make Iceberg tables of what has left.")
@click.argument("root", type=_EXISTING, metavar="DIR")
@json_option
@click.pass_obj
def iceberg(dsn: str | None, *, root: Path, as_json: bool) -> None:
    """Make Iceberg tables of the files in DIR, and keep their catalog in the database.

    Run it again after months have left or come back.
    """
    from provenance.archive.iceberg import publish  # noqa: PLC0415 - only with the extra

    with connected(dsn) as connection:
        published = publish(connection, address(dsn), root)
    if as_json:
        emit_json([attrs.asdict(one) for one in published])
    else:
        for one in published:
            click.echo(f"{one.table}: {one.rows} row(s), {one.added} edition(s) added, {one.removed} removed")


@archive.command()
@click.argument("month", type=month_of, metavar="YYYY-MM")
@click.option("--from", "root", type=_EXISTING, required=True, metavar="DIR", help="The directory of the archive.")
@click.option("--table", type=click.Choice([*TABLES]), help="Only of this table.")
@json_option
@click.pass_obj
def restore(dsn: str | None, *, month: date, root: Path, table: str | None, as_json: bool) -> None:
    """Bring a month back into the database. The files stay where they are."""
    with connected(dsn) as connection:
        wanted = _left(ledger(connection), month, table)
    done: list[Archived] = []
    with recording(dsn) as trail, request_scope():
        for name in wanted:
            with progress_bar(f"{name} {month:%Y-%m}") as tell:
                done.append(restore_month(trail, root.absolute(), name, month, tell=tell))
            if not as_json:
                click.echo(f"{_named(done[-1])} is back: {done[-1].rows} row(s)")
    if as_json:
        emit_json([_fields(one) for one in done])


def _left(left: Iterable[Archived], month: date, table: str | None) -> list[str]:
    """Return of which tables a month has left."""
    found = sorted({one.table for one in left if one.month == month and table in (None, one.table)})
    if not found:
        raise BadNews(f"{month:%Y-%m} has not left this database; `provenance archive list` lists what has")
    return found
