"""``provenance doctor``: whether the audit trail can be relied on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import attrs
import click
import psycopg
from rich.text import Text

from provenance.cli.database import connected
from provenance.cli.output import clean, emit, emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews
from provenance.doctor import CHECKS, Finding, Limits, Severity, diagnose
from provenance.doctor import spools as spool_checks

_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.UNCHECKED: "dim"}

# Of longer remedies the beginning is shown.
_LINES = 20


@click.command(short_help="Say whether the trail can be relied on.")
@click.option(
    "--spool", "spools", multiple=True, type=click.Path(path_type=Path), metavar="DIR", help="A spool to look at."
)
@click.option(
    "--skip", multiple=True, type=click.Choice(CHECKS), metavar="CHECK", help=f"Leave this out: {', '.join(CHECKS)}."
)
@click.option(
    "--days",
    type=click.IntRange(1, 3_650),
    default=7,
    show_default=True,
    metavar="N",
    help="How far back rows are looked at.",
)
@click.option(
    "--minutes",
    type=click.IntRange(1, 525_600),
    default=60,
    show_default=True,
    metavar="N",
    help="How long a transaction may be open.",
)
@click.option("--strict", is_flag=True, help="Exit with 1, too, when something could not be looked at.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    spools: tuple[Path, ...],
    skip: tuple[str, ...],
    days: int,
    minutes: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Name everything because of which the trail of this database cannot be relied on, each with a remedy.

    Changes nothing. Exits with 1 when something is found. What this role may not look at is named, and counts with --strict
    only.
    """
    limits = Limits(recent=timedelta(days=days), transaction=timedelta(minutes=minutes))
    try:
        with connected(ctx.obj) as connection:
            findings = diagnose(connection, spools, skip=skip, limits=limits)
    except psycopg.OperationalError:
        if "spool" not in skip and not as_json:
            # What waits there is what matters now.
            emit_those([finding for spool in spools for finding in spool_checks.examined(spool)])
        raise
    healthy = all(finding.severity is Severity.UNCHECKED for finding in findings)
    if as_json:
        emit_json({"healthy": healthy, "findings": [attrs.asdict(finding) for finding in findings]})
    else:
        # The worst first; in each, in the order in which they were found.
        for severity in Severity:
            emit_those([finding for finding in findings if finding.severity is severity])
        if healthy and findings:
            click.echo(f"Nothing is known to be wrong; {len(findings)} things could not be looked at.")
        elif healthy:
            click.echo("Nothing is wrong.")
    if not healthy or (strict and findings):
        ctx.exit(BadNews.exit_code)


def emit_those(findings: list[Finding]) -> None:
    """Print findings, each with its remedy indented below it."""
    for finding in findings:
        word = Text(finding.severity.value, _COLOURS[finding.severity])
        emit(Text.assemble(word, clean(f" {finding.check}: {finding.subject}: {finding.problem}")))
        lines = finding.remedy.split("\n")
        for line in lines[:_LINES]:
            emit(Text(f"    {clean(line)}"))
        if len(lines) > _LINES:
            emit(Text(f"    … {len(lines) - _LINES} more lines; --json prints them all", "dim"))
