"""``provenance recover``: finds out what became of actions that have no outcome."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import attrs
import click

from provenance.cli.database import recording
from provenance.cli.output import emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import Misuse

_MARK = "rows: ["


def logged_rows(lines: TextIO) -> Iterator[str]:
    """Yield the rows in lines of a log, or in a file of the quarantine: JSON objects as text.

    Raises:
        Misuse: what should be rows is not.
    """
    for number, line in enumerate(lines, 1):
        at = line.find(_MARK)
        if at < 0 and not line.startswith("{"):
            continue
        found: object
        try:
            found, _ = json.JSONDecoder().raw_decode(line, at + len(_MARK) - 1 if at >= 0 else 0)
        except ValueError as error:
            raise Misuse(f"line {number} holds no whole row: {error}; a log may cut long lines") from None
        rows = cast("list[object]", found) if isinstance(found, list) else [found]
        for row in rows:
            if not isinstance(row, dict) or "id" not in row:
                raise Misuse(f"line {number} holds something that is no row")
            yield json.dumps(row)


@click.command(short_help="Find out what became of actions without an outcome.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Write what waits in this spool first.",
)
@click.option(
    "--logged",
    type=click.File(encoding="utf-8", errors="strict"),
    metavar="FILE",
    help="Write the rows first that this log has for want of a spool; - is standard input.",
)
@json_option
@click.pass_obj
def recover(dsn: str | None, *, spool: Path | None, logged: TextIO | None, as_json: bool) -> None:
    """Find out what became of actions that were begun and have no recorded outcome, and record it.

    Safe to run at any time, several at once included: what is still in progress stays as it is.
    """
    rows = list(logged_rows(logged)) if logged else []
    with recording(dsn, spool) as trail:
        written = trail.replay(rows) if spool or rows else None
        found = trail.recover()
    if as_json:
        emit_json({**attrs.asdict(found), **({} if written is None else {"written": written})})
        return
    if written is not None:
        click.echo(f"{written} row(s) written that had been kept")
    said = {
        "completed": found.completed,
        "failed": found.failed,
        "rolled back": found.rolled_back,
        "still pending": found.pending,
        "unknown: nobody can say what became of them; provenance log --status unknown lists them": found.unknown,
    }
    for what, count in said.items():
        if count:
            click.echo(f"{count} {what}")
    if not any(said.values()):
        click.echo("Every action that was begun has an outcome.")
