"""``provenance demo``."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
import click
import psycopg
from psycopg import conninfo, sql
from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from provenance.cli.changes import blame_fields, blame_table
from provenance.cli.database import address
from provenance.cli.output import (
    ActionList,
    action_fields,
    clean,
    columns,
    emit,
    emit_json,
    grow,
    tree_fields,
)
from provenance.cli.parameters import json_option
from provenance.cli.problems import BadNews, Misuse, SchemaTrouble
from provenance.cli.progress import progress_bar
from provenance.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from provenance.examples.zmanim.journey import Journey
    from provenance.examples.zmanim.walkthrough import Exchange, Front, Story


@click.command(short_help="Run an example application, and show its trail.")
@click.option(
    "--cities",
    type=click.IntRange(min=1),
    metavar="N",
    default=10_000,
    show_default=True,
    help="How many cities to load, the largest first, of 234,908.",
)
@json_option
@click.pass_obj
def demo(dsn: str | None, *, cities: int, as_json: bool) -> None:
    """Run an example application, and show what the trail says about it.

    The application is served by Flask, Starlette and plain WSGI, on free loopback ports, and gets real requests. Then
    its publishers get coverage of the largest cities of the world, which is moved from columns for levels to one id.
    Without a database address it starts an embedded Postgres; with one, it works in a database of its own there.
    Either is gone afterwards. Exits with 1 when the trail does not say what happened.
    """
    try:
        from provenance.examples.zmanim.walkthrough import walk  # noqa: PLC0415 - only with the extra
    except ModuleNotFoundError as error:
        raise Misuse(
            f"the demo needs {error.name}, which is not installed; run: pip install 'provenance-trail[demo]'"
        ) from error
    with _scratch_database(dsn) as scratch, progress_bar("giving coverage its ids") as progress:
        story = walk(scratch, cities=cities, progress=progress)
    problems = story.problems()
    if as_json:
        emit_json(_fields(story, problems))
    else:
        emit(*_rendered(story))
    if problems:
        raise BadNews("the trail does not say what happened: " + "; ".join(problems))


@contextmanager
def _scratch_database(dsn: str | None) -> Generator[str]:
    """Yield the address of a new database, on the server given or on an embedded one; it is dropped at the end."""
    if dsn is None:
        with EmbeddedPostgres() as server, _scratch_database(server.conninfo) as scratch:
            yield scratch
        return
    name = f"provenance_demo_{secrets.token_hex(4)}"
    with psycopg.connect(address(dsn), autocommit=True) as admin:
        try:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaTrouble(
                f"the demo makes a database of its own, and this role may not ({error.diag.message_primary}); connect as a "
                "role that has CREATEDB, or give no address, for an embedded server"
            ) from error
        try:
            yield conninfo.make_conninfo(address(dsn), dbname=name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _rendered(story: Story) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(f"One service behind three web fronts, on PostgreSQL {clean(story.server_version)}.", "bold"),
        "Each request with its X-Request-ID, and the actions recorded under it:",
    ]
    for front in story.fronts:
        parts += ["", Text(f"{front.name} (served by {front.server})", "bold underline")]
        parts += [_drawn(exchange) for exchange in front.exchanges]
    parts += [
        "",
        Text(f"History of {clean(story.entity.type)} {clean(story.entity.id)}, newest first", "bold underline"),
        ActionList(story.history),
        "",
        Text("Rows in the application's tables, and the completed actions that made them", "bold underline"),
        columns(
            ("TABLE", "ROWS", "ACTIONS", "OF TYPE", ""),
            (
                (
                    tally.table,
                    str(tally.rows),
                    str(tally.actions),
                    ", ".join(tally.action_types),
                    "differ" if tally.problem() else "match",
                )
                for tally in story.tallies
            ),
        ),
    ]
    return parts + (_travelled(story.journey) if story.journey else [])


def _travelled(journey: Journey) -> list[RenderableType]:
    moved = journey.moved
    return [
        "",
        Text("Geography: a column for each level becomes one id", "bold underline"),
        (
            f"{moved.rows:,} of {journey.coverage:,} rows of coverage were given the ids of {moved.locations:,} locations, "
            f"in {moved.batches} batches and {journey.seconds:.1f} s."
        ),
        columns(
            ("LEVEL", "NAME", "HIERARCHY", "IN HEBREW", "LATITUDE", "LONGITUDE"),
            (
                (
                    location.level,
                    clean(location.name or ""),
                    clean(location.hierarchy),
                    clean(location.hierarchies["he"]),
                    f"{location.latitude:.2f}",
                    f"{location.longitude:.2f}",
                )
                for location in journey.locations
            ),
        ),
        "",
        Text("A region is renamed, and the resolved view refreshed", "bold underline"),
        columns(("WHEN", "HIERARCHY"), (("before", clean(journey.stale)), ("after", clean(journey.refreshed)))),
        "",
        Text(f"Who set what in publisher_coverage {journey.row}", "bold underline"),
        blame_table(journey.blame),
    ]


def _drawn(exchange: Exchange) -> Tree:
    status = HTTPStatus(exchange.status)
    drawn = Tree(
        Text.assemble(
            (f"{status.value} {status.phrase}", "green" if status < HTTPStatus.BAD_REQUEST else "red"),
            f"  {exchange.step.title}  ",
            (clean(exchange.request_id), "dim"),
        )
    )
    for tree in exchange.trees:
        grow(drawn, tree)
    return drawn


def _fields(story: Story, problems: list[str]) -> dict[str, Any]:
    return {
        "server_version": story.server_version,
        "fronts": [_front_fields(front) for front in story.fronts],
        "history": {
            "entity": attrs.asdict(story.entity),
            "actions": [action_fields(action) for action in story.history],
        },
        "tallies": [attrs.asdict(tally) for tally in story.tallies],
        "journey": _journey_fields(story.journey) if story.journey else None,
        "problems": problems,
    }


def _journey_fields(journey: Journey) -> dict[str, Any]:
    return {
        **{name: getattr(journey, name) for name in ("coverage", "seconds", "stale", "refreshed", "row")},
        "moved": attrs.asdict(journey.moved),
        "locations": [attrs.asdict(location) for location in journey.locations],
        "blame": [blame_fields(entry) for entry in journey.blame],
    }


def _front_fields(front: Front) -> dict[str, Any]:
    return {
        "name": front.name,
        "server": front.server,
        "requests": [
            {
                **attrs.asdict(exchange.step),
                "request_id": exchange.request_id,
                "status": exchange.status,
                "trees": [tree_fields(tree) for tree in exchange.trees],
            }
            for exchange in front.exchanges
        ],
    }
