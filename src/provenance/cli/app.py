"""The command ``provenance`` itself: its options, and the commands below it."""

from __future__ import annotations

from typing import Any

import click

import provenance
from provenance.cli.archive import archive
from provenance.cli.changes import as_of, blame, changes
from provenance.cli.concept import concept
from provenance.cli.demo import demo
from provenance.cli.doctor import doctor
from provenance.cli.erase import erase
from provenance.cli.geo import geo
from provenance.cli.history import history
from provenance.cli.hold import hold
from provenance.cli.log import log
from provenance.cli.maintain import maintain
from provenance.cli.migrate import migrate
from provenance.cli.partition import partition
from provenance.cli.problems import EXIT_CODES, translated
from provenance.cli.recover import recover
from provenance.cli.refresh import refresh
from provenance.cli.retention import retention
from provenance.cli.show import show
from provenance.cli.status import status
from provenance.cli.tables import adopt, capture, coverage, stamp
from provenance.cli.upkeep import upkeep


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with translated():
            try:
                return super().invoke(ctx)
            except click.NoSuchOption as error:
                # Where a person would put it; click suggests others that look alike.
                if error.option_name != "--dsn" or error.ctx is None:
                    raise
                _, *command = error.ctx.command_path.split()
                raise click.UsageError(
                    f"--dsn stands before the command: provenance --dsn ADDRESS {' '.join(command)}", error.ctx
                ) from error


@click.group(cls=_Commands, epilog=EXIT_CODES)
@click.option(
    "--dsn",
    envvar="PROVENANCE_DSN",
    show_envvar=True,
    metavar="ADDRESS",
    help="The database: postgresql://user@host/name, or host=... dbname=... A password is better kept out of the command "
    "line; use the environment variable, or ~/.pgpass.",
)
@click.version_option(provenance.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, dsn: str | None) -> None:
    """Read and look after an audit trail in Postgres."""
    ctx.obj = dsn


for _command in (
    migrate,
    status,
    log,
    show,
    history,
    stamp,
    capture,
    adopt,
    coverage,
    changes,
    blame,
    as_of,
    concept,
    geo,
    maintain,
    partition,
    upkeep,
    archive,
    hold,
    retention,
    refresh,
    recover,
    erase,
    doctor,
    demo,
):
    cli.add_command(_command)
