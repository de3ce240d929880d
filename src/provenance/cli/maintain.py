"""``provenance maintain``: all the upkeep that is due, one step after the other; what a cron line calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import attrs
import click
import psycopg

from provenance import Trail, request_scope
from provenance.archive import due_months, due_rows
from provenance.cli.archive import leave
from provenance.cli.database import connected, recording
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import ahead_option, destination_option, hold_option, json_option, spool_option
from provenance.cli.partition import keep_months
from provenance.cli.problems import BadNews
from provenance.cli.refresh import refreshed
from provenance.cli.retention import retired
from provenance.drivers import run
from provenance.errors import ArchiveBusy, ProvenanceError, TrailUnavailable
from provenance.statements.upkeep import STALE_STATISTICS, analyze
from provenance.translation import sentence, unreachable


@attrs.define
class _Step:
    """What was done in a step, and what stood in the way."""

    step: str
    done: list[str] = attrs.field(factory=list[str])
    left: str | None = None
    """Why it is left to another session, which is at it, or to the next time."""
    problem: str | None = None

    @property
    def ended(self) -> bool:
        """All that was due is done."""
        return self.left is None and self.problem is None


@attrs.frozen(kw_only=True)
class _Options:
    dsn: str | None
    ahead: int
    hold: float
    spools: tuple[Path, ...]
    root: Path | None


@click.command(short_help="Do all the upkeep that is due.")
@ahead_option
@click.option("--refresh", is_flag=True, help="Refresh the resolved views, too.")
@click.option("--retention", is_flag=True, help="Let go what no policy keeps any more, too.")
@click.option(
    "--keep",
    type=click.IntRange(0, 1200),
    metavar="MONTHS",
    help="Let whole months leave, too, of which so many before this one stay.",
)
@destination_option
@spool_option
@hold_option
@json_option
@click.pass_obj
def maintain(
    dsn: str | None,
    *,
    ahead: int,
    refresh: bool,
    retention: bool,
    keep: int | None,
    root: Path | None,
    spools: tuple[Path, ...],
    hold: float,
    as_json: bool,
) -> None:
    """Do all the upkeep that is due: the line for cron.

    Writes what waits in the spools, finds out what became of actions without an outcome, makes the partitions of the coming
    months and moves the rows into them that had none, and has the planner look at the tables again. With the options below
    it refreshes views, lets go what no retention policy keeps, and lets months leave for an archive.

    Safe to run at any time, several at once included: what another session is at is left to that. Goes on after a step that
    fails, and exits with 1 then.
    """
    if keep is not None and root is None:
        raise click.UsageError("--keep MONTHS needs --to DIR, the directory of the archive")
    options = _Options(dsn=dsn, ahead=ahead, hold=hold, spools=spools, root=root)
    steps: list[_Step] = []
    with recording(dsn) as trail, request_scope():
        for name, work in _steps(trail, options, refresh=refresh, retention=retention, keep=keep):
            step = _Step(name)
            if name == "archive" and steps[-1].step == "retention" and not steps[-1].ended:
                # What is to be deleted would be in the archive for ever.
                step.left = "rows that no policy keeps have not gone yet"
            else:
                _attempt(work, step)
            steps.append(step)
            if not as_json:
                _say(step)
    if as_json:
        emit_json([attrs.asdict(step) for step in steps])
    if problems := [f"{step.step}: {step.problem}" for step in steps if step.problem is not None]:
        raise BadNews("; ".join(problems))


def _say(step: _Step) -> None:
    for line in step.done:
        click.echo(f"{step.step}: {clean(line)}")
    if step.left is not None:
        click.echo(f"{step.step}: left for now, {clean(step.left)}")
    elif step.problem is None and not step.done:
        click.echo(f"{step.step}: nothing to do")


Work = Callable[[_Step], None]


def _attempt(work: Work, step: _Step) -> None:
    try:
        work(step)
    except TrailUnavailable:
        # What comes next needs the database too.
        raise
    except ArchiveBusy as error:
        step.left = str(error)
    except ProvenanceError as error:
        step.problem = str(error)
    except psycopg.Error as error:
        if unreachable(error):
            raise
        step.problem = sentence(error)


def _steps(
    trail: Trail, options: _Options, *, refresh: bool, retention: bool, keep: int | None
) -> Iterator[tuple[str, Work]]:
    """Yield what is to be done: first what others wait for, and last what takes long."""
    for spool in options.spools:
        yield f"spool {spool}", partial(_replay, options, spool)
    yield "recover", partial(_recover, trail)
    yield "partitions", partial(_partitions, options)
    if refresh:
        yield "views", partial(_refresh, trail)
    if retention:
        yield "retention", partial(_retire, trail, options)
    if keep is not None and options.root is not None:
        yield "archive", partial(_archive, trail, options, options.root, keep)
    yield "statistics", partial(_analyze, options)


def _replay(options: _Options, spool: Path, step: _Step) -> None:
    with recording(options.dsn, spool) as trail:
        if written := trail.replay():
            step.done.append(f"{written} row(s) written that had been kept")


def _recover(trail: Trail, step: _Step) -> None:
    found = trail.recover()
    said = {"completed": found.completed, "failed": found.failed, "rolled back": found.rolled_back}
    step.done += [f"{count} action(s) found to be {what}" for what, count in said.items() if count]
    if found.unknown:
        step.done.append(
            f"{found.unknown} action(s) of which nobody can say what became; `provenance log --status unknown` lists them"
        )


def _partitions(options: _Options, step: _Step) -> None:
    with connected(options.dsn) as connection:
        done = keep_months(connection, options.ahead, options.hold)
    step.done += [f"{count} row(s) moved into {name}" for name, count in done.moved.items()]
    step.done += [f"{name} made" for name in done.made]
    step.left = "; ".join(dict.fromkeys(done.left)) or None
    step.problem = "; ".join(done.problems) or None


def _refresh(trail: Trail, step: _Step) -> None:
    failed: list[str] = []
    for view in trail.views():
        # What has not changed needs no refresh; of what is not known it may.
        if not view.resolved or view.changed_rows == 0:
            continue
        outcome = refreshed(trail, view.view, blocking=False)
        if outcome.error is not None:
            failed.append(f"{outcome.view} is not refreshed: {outcome.error}")
        elif outcome.refreshed:
            step.done.append(f"{outcome.view} refreshed")
    step.problem = "; ".join(failed) or None


def _retire(trail: Trail, options: _Options, step: _Step) -> None:
    done, problem = retired(trail, due_rows(trail), options.root, options.spools)
    step.done += [
        f"{one.table} {one.month:%Y-%m}: {one.deleted} row(s) deleted, {one.archived} archived, "
        f"{sum(one.held.values())} kept by a hold"
        for one in done
    ]
    if problem is not None:
        raise problem


def _archive(trail: Trail, options: _Options, root: Path, keep: int, step: _Step) -> None:
    with connected(options.dsn) as connection:
        due = due_months(connection, keep, datetime.now(UTC).date())
    done, problems = leave(trail, due, root, options.spools, options.hold)
    step.done += [f"{one.table} {one.month:%Y-%m} has left: {one.rows} row(s)" for one in done]
    step.left = "; ".join(str(one) for one in problems if isinstance(one, ArchiveBusy)) or None
    step.problem = "; ".join(str(one) for one in problems if not isinstance(one, ArchiveBusy)) or None


def _analyze(options: _Options, step: _Step) -> None:
    with connected(options.dsn) as connection:
        stale = run(connection, STALE_STATISTICS)
        for table in stale:
            run(connection, analyze(table))
        in_use = run(connection, STALE_STATISTICS)
    step.done += [f"{table} analyzed" for table in stale if table not in in_use]
    if in_use:
        step.left = f"another session works on {', '.join(in_use)}"
