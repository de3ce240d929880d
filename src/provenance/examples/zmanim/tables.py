"""Creates the application's tables, with a few publishers and master definitions to begin with."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import psycopg


def create(connection: psycopg.Connection[Any]) -> None:
    """Create the tables in a database that has the provenance schema."""
    with connection.transaction():
        connection.execute((files("provenance.examples.zmanim") / "tables.sql").read_bytes())
