"""The gazetteer that the reference application loads."""

from __future__ import annotations

from typing import Any

import psycopg

from provenance.examples.zmanim.places import load


def test_all_places_of_the_gazetteer(database: psycopg.Connection[Any]) -> None:
    """Every row lies in rows that are there."""
    load(database)
    counts = [
        database.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608
        for table in ("continents", "countries", "regions", "districts", "cities")
    ]
    assert [(7,), (252,), (51,), (3235,), (234_908,)] == counts
    orphans = database.execute(
        """SELECT count(*) FROM cities c
            WHERE NOT EXISTS (SELECT FROM countries n WHERE n.id = c.country_id)
               OR c.region_id IS NOT NULL AND NOT EXISTS (SELECT FROM regions r WHERE r.id = c.region_id)"""
    ).fetchone()
    assert orphans == (0,)
    assert [("Africa", "אפריקה")] == database.execute("SELECT name, name_he FROM continents WHERE id = 1").fetchall()
