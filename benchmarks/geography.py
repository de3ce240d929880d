"""The workload of geography: giving the rows of a table with a column for each level the ids of their locations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg

from benchmarks.measuring import Comparison, Times, interleaved
from provenance import schema
from provenance.concepts import apply
from provenance.examples.zmanim import places, tables
from provenance.geo import add_reference, backfill
from provenance.trail import Trail

# A run takes seconds, and so few of them tell enough.
_MOST_ROUNDS = 3

# The loop of old looks through all locations for each row, so its cost grows with the square. This many it can be given.
_LOOPED = 20_000

_ROW_LOOP = Path(__file__).with_name("row_loop.sql")

_COVER = """
INSERT INTO publisher_coverage (publisher_id, continent_id, country_id, region_id, city_id)
SELECT 1, country.continent_id, country.id, city.region_id, city.id
  FROM cities AS city JOIN countries AS country ON country.id = city.country_id ORDER BY city.id"""

_METHOD = f"""\
The coverage of the cities of the gazetteer by one publisher, a row each, so that there are as many locations as rows. Before
each measurement the ids are null again, all locations gone, and the tables vacuumed. `row loop, as it was` is written after
the design that this library replaces: for each row, in one transaction, a function looks for the location with
`IS NOT DISTINCT FROM`, which no index serves, and inserts it if there is none; its cost per row grows with their number.
`row loop, indexed` is the same with a lookup that has an index. Both are given the first {_LOOPED:,} rows only, and record
no action. `backfill` is the library's, on all rows: in batches, contradictions refused, actions recorded."""


def run(address: str, rounds: int, *, cities: int | None = None) -> list[Comparison]:
    """Measure on an empty database, with so many of the largest cities or all, and return the comparison."""
    with psycopg.connect(address, autocommit=True) as connection, Trail(address) as trail:
        schema.up(connection)
        tables.create(connection)
        places.load(connection, cities=cities)
        connection.execute(_COVER)
        apply(connection, places.GEOGRAPHY.concept)
        add_reference(connection, places.COVERAGE)
        connection.execute(_ROW_LOOP.read_bytes())
        samples = interleaved(
            {
                "row loop, as it was": lambda: _measured(connection, _loop(connection, "row_loop_as_it_was", _LOOPED)),
                "row loop, indexed": lambda: _measured(connection, _loop(connection, "row_loop_indexed", _LOOPED)),
                "backfill": lambda: _measured(connection, lambda: backfill(trail, places.COVERAGE).rows),
            },
            rounds=min(rounds, _MOST_ROUNDS),
        )
    return [
        Comparison(
            title="From columns for levels to one id",
            method=_METHOD,
            unit="µs per row",
            digits=1,
            samples=samples,
            baseline="row loop, as it was",
            goals=[Times("backfill", 1 / 20)],
            why="close to it: met on some days, missed on others",
        )
    ]


def _loop(connection: psycopg.Connection[Any], function: str, rows: int) -> Callable[[], int]:
    def loop() -> int:
        found = connection.execute(f"SELECT {function}(%s)".encode(), [rows]).fetchone()
        assert found is not None  # noqa: S101
        return int(found[0])

    return loop


def _measured(connection: psycopg.Connection[Any], work: Callable[[], int]) -> float:
    """Return microseconds per row."""
    with _fresh(connection):
        begun = perf_counter()
        rows = work()
        seconds = perf_counter() - begun
    return seconds * 1e6 / rows


@contextmanager
def _fresh(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Put everything back, and see afterwards that each row that has an id has that of its own places."""
    connection.execute("SELECT forget_locations()")
    connection.execute("VACUUM FULL publisher_coverage")
    connection.execute("VACUUM ANALYZE publisher_coverage")
    connection.execute("CHECKPOINT")
    yield
    wrong = connection.execute(
        """SELECT count(*) FROM publisher_coverage c LEFT JOIN geo_locations l ON l.id = c.geo_location_id
            WHERE c.geo_location_id IS NOT NULL
              AND (l.city_id, l.region_id, l.country_id, l.continent_id)
                  IS DISTINCT FROM (c.city_id, c.region_id, c.country_id, c.continent_id)"""
    ).fetchone()
    if wrong != (0,):
        raise RuntimeError(f"{wrong} rows have the id of another location")
