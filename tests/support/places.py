"""A small world: five levels of places, and a geography over them."""

from __future__ import annotations

from typing import Any

import psycopg

from provenance.concepts import apply
from provenance.geo import Geography, Level

TABLES = """
CREATE TABLE continents (id integer PRIMARY KEY, name text NOT NULL, name_he text);
CREATE TABLE countries (id integer PRIMARY KEY, name text NOT NULL, name_he text, iso text, continent_id integer,
                        lat numeric, lng numeric);
CREATE TABLE regions (id integer PRIMARY KEY, name text NOT NULL, country_id integer);
CREATE TABLE districts (id integer PRIMARY KEY, name text NOT NULL, region_id integer);
CREATE TABLE cities (id integer PRIMARY KEY, name text, name_he text, country_id integer, region_id integer,
                     district_id integer, lat double precision, lng double precision);
INSERT INTO continents VALUES (1, 'Asia', 'אסיה'), (2, 'North America', NULL);
INSERT INTO countries VALUES (10, 'Israel', 'ישראל', 'IL', 1, 31.5, 34.75),
                             (20, 'United States', NULL, 'US', 2, 39.76, -98.5);
INSERT INTO regions VALUES (100, 'Jerusalem District', 10), (200, 'New Jersey', 20);
INSERT INTO districts VALUES (2000, 'Ocean County', 200);
INSERT INTO cities VALUES (1000, 'Jerusalem', 'ירושלים', 10, 100, NULL, 31.769, 35.2163),
                          (3000, 'Lakewood', NULL, 20, 200, 2000, NULL, NULL),
                          (4000, NULL, NULL, NULL, NULL, NULL, 1, 2);
"""

GEOGRAPHY = Geography(
    levels=[
        Level(name="continent", table="public.continents", languages={"he": "name_he"}),
        Level(
            name="country",
            table="public.countries",
            languages={"he": "name_he"},
            code="iso",
            latitude="lat",
            longitude="lng",
            within={"continent": "continent_id"},
        ),
        Level(name="region", table="public.regions", within={"country": "country_id"}),
        Level(name="district", table="public.districts", within={"region": "region_id"}),
        Level(
            name="city",
            table="public.cities",
            languages={"he": "name_he"},
            latitude="lat",
            longitude="lng",
            within={"country": "country_id", "region": "region_id", "district": "district_id"},
        ),
    ]
)
LEVELS = tuple(level.name for level in GEOGRAPHY.levels)


def make(connection: psycopg.Connection[Any]) -> None:
    """Make the tables of places, and that of locations."""
    connection.execute(TABLES)
    apply(connection, GEOGRAPHY.concept)
