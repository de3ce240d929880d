"""``python -m benchmarks``: run workloads on a server of their own, and print the report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

import attrs
import click

from benchmarks import capture, geography, middleware, soak, startup, writes
from benchmarks.measuring import Comparison
from benchmarks.places import PLACES
from benchmarks.report import report
from benchmarks.server import facts, new_database, running_server


@attrs.frozen
class Options:
    """What is wanted."""

    server: str
    """The address of a server on which a workload may make databases."""
    rounds: int
    cities: int | None
    places: tuple[str, ...]
    soak_seconds: float


WORKLOADS: dict[str, Callable[[Options], list[Comparison]]] = {
    "writes": lambda wanted: writes.run(wanted.rounds, wanted.places),
    "middleware": lambda wanted: middleware.run(wanted.rounds),
    "startup": lambda wanted: startup.run(wanted.rounds),
    "capture": lambda wanted: capture.run(new_database(wanted.server, "capture"), wanted.rounds),
    "geography": lambda wanted: geography.run(
        new_database(wanted.server, "geography"), wanted.rounds, cities=wanted.cities
    ),
    "soak": lambda wanted: soak.run(new_database(wanted.server, "soak"), wanted.soak_seconds),
}
"""What can be measured."""


@click.command()
@click.argument("workloads", nargs=-1, type=click.Choice(list(WORKLOADS)), metavar="[WORKLOAD]...")
@click.option("--rounds", type=click.IntRange(min=2), default=30, show_default=True, help="How often all is measured.")
@click.option(
    "--place",
    "places",
    type=click.Choice(list(PLACES)),
    multiple=True,
    help="Where writes are measured; everywhere when left out. Can be given several times.",
)
@click.option("--cities", type=click.IntRange(min=1), help="How many of them geography covers; all when left out.")
@click.option(
    "--soak-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="For how long soak serves requests.",
)
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    metavar="FILE.md",
    help="Write the report there, too.",
)
def main(
    *,
    workloads: tuple[str, ...],
    rounds: int,
    places: tuple[str, ...],
    cities: int | None,
    soak_seconds: float,
    output: TextIO | None,
) -> None:
    """Measure what provenance costs, and print a report in Markdown.

    A WORKLOAD is one of those that benchmarks/__main__.py lists; all of them when none is named.
    """
    results: dict[str, list[Comparison]] = {}
    with running_server() as server:
        known = {"Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **facts(server), "Rounds": f"{rounds:,}"}
        wanted = Options(server, rounds, cities, places or tuple(PLACES), soak_seconds)
        # Named twice is measured once.
        for name in dict.fromkeys(workloads or WORKLOADS):
            click.echo(f"measuring {name} ...", err=True)
            results[name] = WORKLOADS[name](wanted)
    text = report(known, results)
    # Printed first: a file that cannot be written loses nothing.
    click.echo(text, nl=False)
    if output is not None:
        output.write(text)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
