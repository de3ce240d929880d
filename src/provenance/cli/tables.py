"""``provenance stamp``, ``capture``, ``adopt`` and ``coverage``: what of the application's tables is accounted for."""

from __future__ import annotations

import attrs
import click
from click.core import ParameterSource
from psycopg import sql

from provenance.capture import MAX_BYTES, capture_statement, checked_settings, refused
from provenance.cli.database import connected, recording
from provenance.cli.output import clean, columns, emit, emit_json, moment
from provenance.cli.parameters import json_option
from provenance.drivers import run
from provenance.models import TableCoverage
from provenance.statements import Statement, tables
from provenance.statements.changes import COVERAGE
from provenance.translation import translated
from provenance.values import Redactor

_sql_option = click.option(
    "--sql", "as_sql", is_flag=True, help="Change nothing; print the SQL, to go into a migration of your own."
)


def _print_sql(statement: Statement[None]) -> None:
    quoted = {name: sql.Literal(value).as_string(None) for name, value in (statement.params or {}).items()}
    # Collapsed before the values are in it: white space inside them is theirs.
    click.echo(f"{' '.join(str(statement.query).split()) % quoted};")


@click.command(short_help="Note in each row of TABLE which actions made and changed it.")
@click.argument("table")
@click.option("--strict", is_flag=True, help="Refuse writes to the table outside any action.")
@click.option("--undo", is_flag=True, help="Take the stamps off again, and drop the columns with what is in them.")
@click.option("--yes", is_flag=True, help="With --undo: do not ask.")
@_sql_option
@click.pass_obj
def stamp(dsn: str | None, *, table: str, strict: bool, undo: bool, yes: bool, as_sql: bool) -> None:
    """Have the database note in each row of TABLE which action made it and which last changed it."""
    if undo and strict:
        raise click.UsageError("--strict does not go with --undo")
    if as_sql:
        _print_sql(tables.unstamp(table) if undo else tables.stamp(table, strict=strict))
        return
    if undo and not yes:
        _ask_to_undo(dsn, table)
    with recording(dsn) as trail:
        if undo:
            trail.unstamp(table)
        else:
            trail.stamp(table, strict=strict)
    click.echo(f"{clean(table)} is {'not stamped any more' if undo else 'stamped'}.")


def _ask_to_undo(dsn: str | None, table: str) -> None:
    with connected(dsn) as connection, refused(table):
        doomed = run(connection, tables.noted_columns(table))
    if doomed:
        click.confirm(
            f"This drops {', '.join(doomed)} of {clean(table)}, with what is in {'them' if len(doomed) > 1 else 'it'}. "
            "Go on?",
            abort=True,
            err=True,
        )


@click.command(short_help="Store what the rows of TABLE are before and after changes.")
@click.argument("table")
@click.option("--exclude", multiple=True, metavar="COLUMN", help="Leave this column out altogether.")
@click.option("--mask", multiple=True, metavar="COLUMN", help="Store of this column only that it changed.")
@click.option(
    "--keep", multiple=True, metavar="COLUMN", help="Store this column although its name sounds like a secret."
)
@click.option(
    "--max-bytes",
    type=click.IntRange(64, 16_777_216),
    default=MAX_BYTES,
    show_default=True,
    metavar="N",
    help="Replace longer values by their length and digest.",
)
@click.option("--release", is_flag=True, help="Stop capturing; what was stored stays.")
@_sql_option
@click.pass_obj
def capture(
    dsn: str | None,
    *,
    table: str,
    exclude: tuple[str, ...],
    mask: tuple[str, ...],
    keep: tuple[str, ...],
    max_bytes: int,
    release: bool,
    as_sql: bool,
) -> None:
    """Store from now on what the rows of TABLE were before and after each change.

    Say it again to change the settings, and after an ALTER TABLE.
    """
    if release:
        _refuse_settings()
    if as_sql and release:
        _print_sql(tables.release(table))
    elif as_sql:
        settings = checked_settings(exclude, mask, keep, max_bytes)
        with connected(dsn) as connection, refused(table):
            names = run(connection, tables.columns(table))
        _print_sql(capture_statement(table, names, settings, Redactor()))
    else:
        with recording(dsn) as trail:
            if release:
                trail.release(table)
            else:
                trail.capture(table, exclude=exclude, mask=mask, keep=keep, max_bytes=max_bytes)
        click.echo(f"{clean(table)} is {'not captured any more' if release else 'captured'}.")


def _refuse_settings() -> None:
    """Refuse settings of a capture that is to end, also those that are as they are by default."""
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("exclude", "mask", "keep", "max_bytes")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} {'do' if len(given) > 1 else 'does'} not go with --release")


@click.command(short_help="Store the rows that TABLE had before it was captured.")
@click.argument("table")
@click.pass_obj
def adopt(dsn: str | None, *, table: str) -> None:
    """Store the rows of TABLE that have been there since before it was captured."""
    with recording(dsn) as trail:
        adopted = trail.adopt(table)
    click.echo(f"{adopted} rows of {clean(table)} adopted.")


def _watched(found: TableCoverage) -> str:
    words = [
        word
        for word, is_so in (("stamped", found.stamped), ("strict", found.strict), ("captured", found.captured))
        if is_so
    ]
    return (", ".join(words) or "no") + (", with gaps" if found.gaps else "")


def _share(found: TableCoverage) -> str:
    if found.rows is None or found.untracked_rows is None:
        return ""
    return f"{100 * found.untracked_rows / found.rows:.1f} %" if found.rows else "no rows"


def _last(found: TableCoverage) -> str:
    if found.last_untracked_at is None:
        return ""
    return clean(f"{moment(found.last_untracked_at)} by {found.last_untracked_by}")


@click.command(short_help="List your tables, and what was written outside any action.")
@json_option
@click.pass_obj
def coverage(dsn: str | None, *, as_json: bool) -> None:
    """List the application's tables, and what was written to them outside any action."""
    with connected(dsn) as connection, translated("reading the coverage", rights="reader"):
        found = run(connection, COVERAGE)
    if as_json:
        emit_json([attrs.asdict(table) for table in found])
        return
    rows = [
        (
            clean(table.table),
            _watched(table),
            "" if table.rows is None else str(table.rows),
            _share(table),
            _last(table),
        )
        for table in found
    ]
    emit(columns(("TABLE", "ACCOUNTED FOR", "ROWS", "WITHOUT ACTION", "LAST UNTRACKED WRITE"), rows))
    for table in found:
        for gap in table.gaps:
            click.echo(clean(f"{table.table}: {gap}"))
