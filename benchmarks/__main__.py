"""``python -m benchmarks``: run workloads on a server of their own, and print the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
import click

from benchmarks import capture, geography, ingest, middleware, peers, reads, soak, startup, storage, writes
from benchmarks.measuring import Result
from benchmarks.places import PLACES
from benchmarks.plots import draw
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
    actions: tuple[int, ...]
    soak_seconds: float

    def most_actions(self, limit: int) -> int:
        """Return how many actions a workload is measured on that is measured on one trail."""
        return min(limit, max(self.actions))


WORKLOADS: dict[str, Callable[[Options], Sequence[Result]]] = {
    "writes": lambda wanted: writes.run(wanted.rounds, wanted.places),
    "peers": lambda wanted: peers.run(wanted.rounds, wanted.places),
    "middleware": lambda wanted: middleware.run(wanted.rounds),
    "startup": lambda wanted: startup.run(wanted.rounds),
    "capture": lambda wanted: capture.run(new_database(wanted.server, "capture"), wanted.rounds),
    "geography": lambda wanted: geography.run(
        new_database(wanted.server, "geography"), wanted.rounds, cities=wanted.cities
    ),
    "reads": lambda wanted: reads.run(wanted.rounds, wanted.actions),
    "storage": lambda wanted: storage.run(wanted.rounds, wanted.most_actions(3_000_000)),
    "ingest": lambda wanted: ingest.run(wanted.rounds, wanted.most_actions(2_000_000)),
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
    help="Where writes and peers are measured; everywhere when left out. Can be given several times.",
)
@click.option("--cities", type=click.IntRange(min=1), help="How many of them geography covers; all when left out.")
@click.option(
    "--actions",
    type=click.IntRange(min=2_000),
    multiple=True,
    default=[10_000, 100_000, 1_000_000, 10_000_000],
    show_default=True,
    help="How many actions there are in a trail that is read. Can be given several times. Storage and ingest are measured "
    "on three and two millions, or on the most of these.",
)
@click.option(
    "--soak-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="For how long soak serves requests.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.md",
    help="Write the report there, too, with pictures beside it.",
)
def main(
    *,
    workloads: tuple[str, ...],
    rounds: int,
    places: tuple[str, ...],
    cities: int | None,
    actions: tuple[int, ...],
    soak_seconds: float,
    output: Path | None,
) -> None:
    """Measure what provenance costs, and print a report in Markdown.

    A WORKLOAD is one of those that benchmarks/__main__.py lists; all of them when none is named.
    """
    if output is not None:
        # Now, and not after an hour of measuring.
        output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Sequence[Result]] = {}
    with running_server() as server:
        known = {"Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **facts(server), "Rounds": f"{rounds:,}"}
        wanted = Options(server, rounds, cities, places or tuple(PLACES), actions, soak_seconds)
        # Named twice is measured once.
        for name in dict.fromkeys(workloads or WORKLOADS):
            click.echo(f"measuring {name} ...", err=True)
            results[name] = WORKLOADS[name](wanted)
    # Printed first: a file that cannot be written loses nothing.
    click.echo(report(known, results), nl=False)
    if output is not None:
        _write(known, results, output)


def _write(known: Mapping[str, str], results: Mapping[str, Sequence[Result]], output: Path) -> None:
    pictures = {name: f"{output.stem}-{name}.svg" for name in results}
    for name, found in results.items():
        draw(found, output.with_name(pictures[name]))
    output.write_text(report(known, results, pictures), encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
