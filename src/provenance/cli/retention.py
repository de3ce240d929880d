"""``provenance retention``: how long what is recorded must be kept, and letting go what need not be any more."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import click

from provenance import Trail, request_scope
from provenance.archive import Retired, due_rows, retire_month
from provenance.cli.archive import gone
from provenance.cli.database import recording
from provenance.cli.output import clean, columns, emit, emit_json
from provenance.cli.parameters import destination_option, json_option, spool_option
from provenance.cli.problems import BadNews
from provenance.cli.progress import progress_bar
from provenance.errors import ArchiveBusy, ArchiveError
from provenance.models import RetentionOutcome, RetentionPolicy
from provenance.policies import LONGEST, Kind
from provenance.statements.retention import Count

Due = list[tuple[str, date, list[Count]]]


@click.group(short_help="Say how long to keep what, and let it go.")
def retention() -> None:
    """Say how long what is recorded must be kept, and let go what need not be any more."""


@retention.command("set", short_help="Set a policy.")
@click.argument("name")
@click.option("--days", type=click.IntRange(1, LONGEST.days), metavar="N", help="Keep them for so many days.")
@click.option("--forever", is_flag=True, help="Keep them for ever.")
@click.option("--tenant", metavar="ID", help="Of this tenant; '' for what belongs to none.")
@click.option("--concept", metavar="NAME", help="On this concept.")
@click.option("--type", "action_type", metavar="TYPE", help="Of this action type.")
@click.option(
    "--then",
    "outcome",
    type=click.Choice(["delete", "archive"]),
    default="delete",
    show_default=True,
    help="What becomes of them then.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever asks later.")
@json_option
@click.pass_obj
def set_(
    dsn: str | None,
    *,
    name: str,
    days: int | None,
    forever: bool,
    tenant: str | None,
    concept: str | None,
    action_type: str | None,
    outcome: str,
    reason: str,
    as_json: bool,
) -> None:
    """Keep all actions that fit all options, and what they changed, for so long; without any, everything.

    Of several policies the one holds that says most of an action, and of those that say as much the one that keeps it the
    longest. What no policy fits is kept for ever. Nothing goes before `provenance retention run --execute`.
    """
    if (days is None) != forever:
        raise click.UsageError("give one of --days N and --forever")
    given = {"tenant_id": tenant, "concept": concept, "action_type": action_type}
    kind = cast("Kind", {what: value for what, value in given.items() if value is not None})
    keep = None if days is None else timedelta(days=days)
    with recording(dsn) as trail, request_scope():
        policy = trail.set_retention(name, keep=keep, reason=reason, outcome=cast("RetentionOutcome", outcome), **kind)
    if as_json:
        emit_json(_fields(policy))
    else:
        click.echo(f"the policy {clean(name)} keeps {_kind(policy)} {_length(policy)}")


@retention.command(short_help="Remove a policy.")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever asks later.")
@json_option
@click.pass_obj
def remove(dsn: str | None, *, name: str, reason: str, as_json: bool) -> None:
    """Remove a policy. What no other one fits is kept for ever."""
    with recording(dsn) as trail, request_scope():
        policy = trail.remove_retention(name, reason=reason)
    if as_json:
        emit_json(_fields(policy))
    else:
        click.echo(f"the policy {clean(name)} is removed")


@retention.command("list")
@json_option
@click.pass_obj
def list_(dsn: str | None, *, as_json: bool) -> None:
    """List the policies there are."""
    with recording(dsn) as trail:
        found = trail.retention_policies()
    if as_json:
        emit_json([_fields(one) for one in found])
    elif not found:
        click.echo("there is no policy: everything is kept for ever")
    else:
        rows = ((clean(one.name), _kind(one), _length(one), clean(one.reason)) for one in found)
        emit(columns(("POLICY", "KEEPS", "HOW LONG", "REASON"), rows))


_SAID = {"tenant_id": "tenant", "concept": "concept", "action_type": "type"}


def _kind(one: RetentionPolicy) -> str:
    """Return what a policy is for, in words."""
    said = [
        f"{word} {clean(value) or repr('')}"
        for name, word in _SAID.items()
        if (value := getattr(one, name)) is not None
    ]
    return ", ".join(said) or "everything"


def _length(one: RetentionPolicy) -> str:
    if one.keep is None:
        return "for ever"
    return f"for {one.keep.days} days, then {'deletes' if one.outcome == 'delete' else 'archives'} it"


def _fields(one: RetentionPolicy) -> dict[str, Any]:
    fields = attrs.asdict(one)
    keep: timedelta | None = fields.pop("keep")
    return {**fields, "days": None if keep is None else keep.days}


@retention.command(short_help="Let go what need not be kept.")
@click.option("--execute", is_flag=True, help="Do it; otherwise only say what would be done.")
@destination_option
@spool_option
@json_option
@click.pass_obj
def run(dsn: str | None, *, execute: bool, root: Path | None, spools: tuple[Path, ...], as_json: bool) -> None:
    """Say what nobody must keep any more, and with --execute let it go.

    The row changes before the actions, and the oldest first; each month of each as an action of its own, which says how many
    rows went by which policy. What a legal hold keeps stays. Exits with 1 when a month cannot go; the others go.
    """
    with recording(dsn) as trail:
        due = due_rows(trail)
        if not execute:
            _show(due, as_json=as_json)
            return
        done, problem = retired(trail, due, root, spools)
    if as_json:
        emit_json([{**attrs.asdict(one), "month": f"{one.month:%Y-%m}"} for one in done])
    elif done or problem is None:
        report(done)
    if problem is not None:
        raise BadNews(str(problem))


def retired(
    trail: Trail, due: Due, root: Path | None, spools: tuple[Path, ...]
) -> tuple[list[Retired], ArchiveError | None]:
    """Let go what is due, and return what has gone, and what kept the rest from going: one month keeps no other one here."""
    done: list[Retired] = []
    problems: list[ArchiveError] = []
    with request_scope():
        for table, month, counts in due:
            if all(count.hold is not None for count in counts):
                continue
            try:
                with progress_bar(f"{table} {month:%Y-%m}") as tell:
                    done.append(
                        retire_month(trail, table, month, root=root and root.absolute(), spools=spools, tell=tell)
                    )
            except ArchiveError as error:
                if isinstance(error, ArchiveBusy):
                    return done, error
                # Or else it has gone with another session, in the meantime.
                if not gone(trail, table, month):
                    problems.append(error)
    return done, ArchiveError("; ".join(map(str, problems))) if problems else None


def report(done: list[Retired]) -> None:
    """Say what has gone."""
    for one in done:
        kept = "".join(f", {rows} kept by the hold {clean(hold)}" for hold, rows in one.held.items())
        click.echo(f"{one.table} {one.month:%Y-%m}: {one.deleted} row(s) deleted, {one.archived} archived{kept}")
    if not done:
        click.echo("nothing has to go")


def _show(due: Due, *, as_json: bool) -> None:
    rows = [(table, f"{month:%Y-%m}", count) for table, month, counts in due for count in counts]
    if as_json:
        emit_json([{"table": table, "month": month, **attrs.asdict(count)} for table, month, count in rows])
    elif not rows:
        click.echo("nothing has to go")
    else:
        emit(
            columns(
                ("TABLE", "MONTH", "ROWS", "POLICY", "THEN"),
                [
                    (
                        table,
                        month,
                        f"{count.rows:,}",
                        clean(count.policy),
                        count.outcome if count.hold is None else f"kept by the hold {clean(count.hold)}",
                    )
                    for table, month, count in rows
                ],
            )
        )
        click.echo("Nothing is done without --execute.")
