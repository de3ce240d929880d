"""A journey through geography: coverage by columns for levels becomes coverage by one id, and places get other names."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import attrs
import psycopg

from provenance import Blame, Trail
from provenance.concepts import apply
from provenance.examples.zmanim.places import COVERAGE, GEOGRAPHY, load
from provenance.geo import GeoRepository, Location, Moved, add_reference, backfill
from provenance.geo.batches import Progress

WANTED = {281184: "Jerusalem", 5100280: "Lakewood", 3038832: "Vila"}
"""The cities that are looked at, by their ids in the gazetteer."""

_EXPECTED = (
    "Jerusalem > Israel > Asia",
    "Lakewood > New Jersey > United States > North America",
    "Vila > Andorra > Europe",
)
_RENAMED = "Garden State"

# Publishers take turns, so that each covers a third of the world; every level has coverage of its own.
_COVER = """
INSERT INTO publisher_coverage (publisher_id, continent_id, country_id, region_id, district_id, city_id)
SELECT 1 + place.city_id % 3, country.continent_id, place.country_id, place.region_id, NULL, place.city_id
  FROM (SELECT id AS city_id, country_id, region_id FROM cities) AS place
  JOIN countries AS country ON country.id = place.country_id
UNION ALL
SELECT 1 + district.id % 3, country.continent_id, district.country_id, district.region_id, district.id, NULL
  FROM districts AS district JOIN countries AS country ON country.id = district.country_id
UNION ALL
SELECT 1 + id % 3, continent_id, id, NULL, NULL, NULL FROM countries"""


@attrs.frozen(kw_only=True)
class Journey:
    """What was seen on the way."""

    coverage: int
    """How many rows of coverage there were."""
    moved: Moved
    seconds: float
    """How long it took to give them ids."""
    locations: tuple[Location, ...]
    stale: str
    """The hierarchy of a city in a region that was just renamed, before the resolved view was refreshed."""
    refreshed: str
    """The same, after."""
    row: int
    blame: tuple[Blame, ...]
    """Who set what in the coverage of that city."""

    def problems(self) -> list[str]:
        """Return a sentence for each thing that is not as it must be."""
        found: list[str] = []
        if self.moved.rows != self.coverage or self.moved.left:
            found.append(f"{self.moved.rows} of {self.coverage} rows of coverage were given ids")
        hierarchies = tuple(location.hierarchy for location in self.locations)
        if hierarchies != _EXPECTED:
            found.append(f"expected {'; '.join(_EXPECTED)}; got {'; '.join(hierarchies)}")
        expected = (_EXPECTED[1], _EXPECTED[1].replace("New Jersey", _RENAMED))
        if (self.stale, self.refreshed) != expected:
            found.append(f"expected {' and after the refresh '.join(expected)}; got {self.stale} and {self.refreshed}")
        makers = {entry.column: entry.action.action_type for entry in self.blame if entry.action is not None}
        if (makers.get("city_id"), makers.get("geo_location_id")) != ("import_coverage", "backfill_locations"):
            found.append(f"the row of coverage names other actions as its makers: {makers}")
        return found


def travel(conninfo: str, trail: Trail, *, cities: int, progress: Progress | None = None) -> Journey:
    """Load the places, give publishers coverage of all of them, give the coverage ids, and look at what came of it.

    Args:
        conninfo: the address of a database with the application's tables and the provenance schema.
        trail: of that database.
        cities: how many, as for :func:`provenance.examples.zmanim.places.load`.
        progress: called with how many rows have ids, and how many shall have them.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        load(connection, cities=cities)
        apply(connection, GEOGRAPHY.concept)
        add_reference(connection, COVERAGE)
    trail.capture("public.publisher_coverage")
    with trail.track_action("import_coverage", concept="coverage", user_id="dvora") as action:
        coverage = action.connection.execute(_COVER).rowcount
        action.result = {"rows": coverage}
    begun = perf_counter()
    moved = backfill(trail, COVERAGE, progress=progress)
    seconds = perf_counter() - begun

    places = GeoRepository(GEOGRAPHY, trail)
    rows = {city: _coverage_of(trail, city) for city in WANTED}
    locations = places.resolve_many(location for _, location in rows.values())
    places.rows.refresh()
    row, location = rows[5100280]
    lakewood = locations[location]
    with trail.track_action("rename_region", concept="region", user_id="yosef", payload={"name": _RENAMED}) as action:
        action.connection.execute("UPDATE regions SET name = %s WHERE code = 'NJ'", (_RENAMED,))
    stale = _listed(places, lakewood)
    places.rows.refresh()
    return Journey(
        coverage=coverage,
        moved=moved,
        seconds=seconds,
        locations=tuple(locations[location] for _, location in rows.values()),
        stale=stale,
        refreshed=_listed(places, lakewood),
        row=row,
        blame=tuple(trail.changes.blame("public.publisher_coverage", row)),
    )


def _coverage_of(trail: Trail, city: int) -> tuple[int, Any]:
    """Return the id of the row that covers a city, and of its location."""
    with trail.connection() as connection:
        [(row, location)] = connection.execute(
            "SELECT id, geo_location_id FROM publisher_coverage WHERE city_id = %s", (city,)
        ).fetchall()
    return row, location


def _listed(places: GeoRepository, location: Location) -> str:
    """Return a location's hierarchy as the resolved view has it."""
    [listed] = places.list_resolved(where=location.places)
    return listed.hierarchy
