"""``provenance migrate``."""

from __future__ import annotations

from typing import Any, LiteralString

import attrs
import click
import psycopg

from provenance import schema
from provenance.cli.database import connected
from provenance.cli.output import clean, columns, emit, emit_json, moment
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews, Misuse
from provenance.errors import AS_OWNER, SchemaNotReady
from provenance.schema import Migration
from provenance.schema.flavors import FLAVORS
from provenance.schema.runner import listed

_flavor_option = click.option(
    "--flavor", type=click.Choice(FLAVORS), help="For the coordinator of Citus; once installed, it stays."
)


@click.group()
def migrate() -> None:
    """Install, upgrade, check and remove the database schema."""


@migrate.command(short_help="Apply what is missing, and make partitions.")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="Stop after this version.")
@_flavor_option
@json_option
@click.pass_obj
def up(dsn: str | None, *, to: int | None, flavor: str | None, as_json: bool) -> None:
    """Apply what is missing, and make the partitions of the coming months.

    Safe to run from several deploys at once.
    """
    with connected(dsn) as connection:
        applied = schema.up(connection, to=to, flavor=flavor)
    if as_json:
        emit_json({"applied": _fields(applied)})
        return
    for migration in applied:
        click.echo(f"applied {_name(migration)}")
    if not applied:
        click.echo("nothing to apply")


@migrate.command()
@click.option("--to", type=click.IntRange(min=0), required=True, metavar="N", help="The version to go back to.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def down(dsn: str | None, to: int, yes: bool, as_json: bool) -> None:
    """Take migrations back, newest first; 0 removes the schema.

    Recorded actions that live in what is dropped are lost.
    """
    with connected(dsn) as connection:
        doomed = [state.version for state in schema.status(connection) if state.applied_at and state.version > to]
        if doomed and (standing := schema.obstacles(connection, to=to)):
            raise BadNews(f"nothing was taken back, because of what stands on the schema: {listed(standing)}")
        if doomed and not yes:
            click.confirm(
                f"This takes back {len(doomed)} migration(s), down to version {to}. Recorded actions are lost with the "
                "tables they are in. Go on?",
                abort=True,
                err=True,
            )
        reverted = schema.down(connection, to=to)
    if as_json:
        emit_json({"reverted": _fields(reverted)})
        return
    for migration in reverted:
        click.echo(f"took back {_name(migration)}")
    if not reverted:
        click.echo("nothing to take back")


@migrate.command(short_help="Print the migrations as SQL, for other tools.")
@click.option(
    "--from",
    "since",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="The version there is.",
)
@click.option("--to", type=click.IntRange(min=0), metavar="N", help="The version to go to; the last one unless given.")
@_flavor_option
def sql(*, since: int, to: int | None, flavor: str | None) -> None:
    """Print the SQL that takes the schema from a version to another one; back, where --to is less than --from.

    For people and tools that run SQL themselves. It is one statement. No database is needed.
    """
    newest = schema.known_migrations()[-1].version
    click.echo(schema.script(since, newest if to is None else to, flavor=flavor), nl=False)


@migrate.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """List the migrations and whether they are applied.

    Exits with 1 when what is applied does not fit this version of the library: when something is missing, too.
    """
    with connected(ctx.obj) as connection:
        states = schema.status(connection)
    if as_json:
        emit_json({"migrations": [attrs.asdict(state) for state in states]})
    else:
        rows = (
            (
                f"{state.version:04}",
                clean(state.name),
                moment(state.applied_at) if state.applied_at else "not applied",
                clean(state.applied_by or ""),
                clean(state.problem or ""),
            )
            for state in states
        )
        emit(columns(("VERSION", "NAME", "APPLIED", "BY", "PROBLEM"), rows))
    if any(state.problem or state.applied_at is None for state in states):
        ctx.exit(BadNews.exit_code)


@migrate.command(short_help="Compare the schema with what the migrations make.")
@json_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Compare the schema in the database with what the migrations make, and name each difference.

    Exits with 1 when there are any.
    """
    with connected(ctx.obj) as connection:
        if not any(state.applied_at for state in schema.status(connection)):
            raise SchemaNotReady("the provenance schema is missing in this database; run `provenance migrate up`")
        differences = schema.verify(connection)
    if as_json:
        emit_json({"differences": [attrs.asdict(difference) for difference in differences]})
    else:
        for difference in differences:
            click.echo(clean(str(difference)))
        if not differences:
            click.echo("no differences")
    if differences:
        ctx.exit(BadNews.exit_code)


@migrate.command(short_help="Give database roles the rights they need.")
@click.option("--writer", "writers", multiple=True, metavar="ROLE", help="May record actions, and no more.")
@click.option("--reader", "readers", multiple=True, metavar="ROLE", help="May read the trail.")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="ID",
    help="Readers may read rows of this tenant only; '' for those of none.",
)
@click.option(
    "--maintainer", "maintainers", multiple=True, metavar="ROLE", help="May do the upkeep, and read the trail."
)
@json_option
@click.pass_obj
def grant(
    dsn: str | None,
    *,
    writers: tuple[str, ...],
    readers: tuple[str, ...],
    tenants: tuple[str, ...],
    maintainers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Give existing database roles the rights they need; each option may be repeated."""
    if not (writers or readers or maintainers):
        raise click.UsageError("give --writer ROLE, --reader ROLE or --maintainer ROLE")
    if tenants and not readers:
        raise click.UsageError("--tenant says what a reader may read; give --reader ROLE too")
    with connected(dsn) as connection, connection.transaction():
        for role in writers:
            _grant(connection, "SELECT provenance.grant_writer(%s)", role)
        for role in readers:
            for tenant in tenants or (None,):
                _grant(connection, "SELECT provenance.grant_tenant_reader(%s, %s)", role, tenant)
        for role in maintainers:
            _grant(connection, "SELECT provenance.grant_maintainer(%s)", role)
    if as_json:
        emit_json({"writers": writers, "readers": readers, "tenants": tenants, "maintainers": maintainers})
        return
    of_whom = f" of {', '.join(map(repr, tenants))}" if tenants else ""
    for role in writers:
        click.echo(f"{clean(role)} may record actions")
    for role in readers:
        click.echo(f"{clean(role)} may read the trail{clean(of_whom)}")
    for role in maintainers:
        click.echo(f"{clean(role)} may do the upkeep of the trail, and read it")


@migrate.command(short_help="Make a database role for each purpose.")
@click.option("--prefix", default="provenance", show_default=True, metavar="NAME", help="What their names begin with.")
@json_option
@click.pass_obj
def roles(dsn: str | None, *, prefix: str, as_json: bool) -> None:
    """Make roles that nobody can log in as: an owner, to whom the schema is given, a writer, a reader and a maintainer.

    Grant them to the roles that applications and people log in as.
    """
    with connected(dsn) as connection, connection.transaction():
        made = [name for (name,) in _grant(connection, "SELECT provenance.make_roles(%s)", prefix)]
    if as_json:
        emit_json({"roles": made})
        return
    for name in made:
        click.echo(clean(name))


def _grant(connection: psycopg.Connection[object], query: LiteralString, role: str, *more: str | None) -> list[Any]:
    try:
        return connection.execute(query, (role, *more)).fetchall()
    except psycopg.errors.UndefinedObject as error:
        raise Misuse(
            f"there is no database role {role}; create it first, and run this again (no right was given)"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaNotReady(
            f"this database role may not grant rights on the trail ({error.diag.message_primary}); {AS_OWNER}"
        ) from error


def _name(migration: Migration) -> str:
    return f"{migration.version:04} {migration.name}"


def _fields(migrations: list[Migration]) -> list[dict[str, object]]:
    return [{"version": migration.version, "name": migration.name} for migration in migrations]
