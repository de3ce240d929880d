"""Databases with Citus in them, and one that only looks so.

Citus is in none of the package registries this suite installs from. Without it, an ordinary database stands in that has what
the flavor asks Citus for: three of its tables, three of its settings, and two of its functions, which do nothing but note
for what they were called. What Postgres itself makes of the flavor is tried there, and what Citus does is not.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from provenance import schema

Connection = psycopg.Connection[Any]

REAL = os.environ.get("PROVENANCE_CITUS_DSN")
"""The address of a database that nobody uses on a coordinator, with the extension in it; ``None``: there is none."""

needs_citus = pytest.mark.skipif(REAL is None, reason="PROVENANCE_CITUS_DSN names no database with Citus")

_STAND_IN = """
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
CREATE TABLE pg_catalog.pg_dist_local_group (groupid integer);
CREATE TABLE pg_catalog.pg_dist_node (groupid integer);
INSERT INTO pg_catalog.pg_dist_local_group VALUES (0);
INSERT INTO pg_catalog.pg_dist_node VALUES (0), (1), (2);
GRANT SELECT ON pg_catalog.pg_dist_partition, pg_catalog.pg_dist_local_group, pg_catalog.pg_dist_node TO PUBLIC;
CREATE FUNCTION pg_catalog.citus_add_local_table_to_metadata(table_name regclass) RETURNS void
    LANGUAGE sql RETURN NULL;
CREATE FUNCTION pg_catalog.create_distributed_table(table_name regclass, distribution_column text) RETURNS void
    LANGUAGE sql AS 'INSERT INTO pg_catalog.pg_dist_partition VALUES (table_name)';
"""


@contextmanager
def stand_in(server: str) -> Iterator[str]:
    """Yield the address of an empty database in which somebody asks Citus for something, and nobody answers."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    address = conninfo.make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        for setting in (
            "citus.propagate_set_commands = 'local'",
            "citus.use_citus_managed_tables = off",
            "citus.enable_local_execution = on",
        ):
            admin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
        try:
            with psycopg.connect(address) as connection:
                connection.execute(_STAND_IN.encode())
            yield address
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def emptied(address: str) -> Iterator[str]:
    """Yield the address of a real one, to be left as it was found."""
    with psycopg.connect(address, autocommit=True) as connection:
        found = connection.execute("SELECT to_regnamespace('provenance'), to_regclass('orders')").fetchone()
        assert (None, None) == found, "PROVENANCE_CITUS_DSN names a database that somebody uses"
        try:
            yield address
        finally:
            connection.execute("DROP TABLE IF EXISTS orders, notes")
            schema.down(connection, to=0)
