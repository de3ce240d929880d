"""Months long past, with rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from provenance import ids

Connection = psycopg.Connection[Any]


def id_at(moment: datetime) -> UUID:
    """Return a UUIDv7 of a moment."""
    return UUID(int=ids.floor_id(moment).int | uuid4().int & (1 << 62) - 1)


def make(owner: Connection, table: str, first: datetime) -> str:
    """Make the partition of a month, and return its name."""
    name = f"{table}_{first:%Y_%m}"
    owner.execute("SELECT provenance.make_partition(%s, %s)", (table, name))
    owner.execute("SELECT provenance.attach_partition(%s, %s, %s)", (table, name, first))
    return name


def insert(owner: Connection, table: str, moment: datetime, **values: object) -> Any:
    """Insert a row of a moment, and return its id or number."""
    row: dict[str, object]
    if table == "actions":
        action_id = id_at(moment)
        row = {"id": action_id, "root_id": action_id, "action_type": "t", "concept": "c", "status": "completed"}
        row |= {"started_at": moment, "completed_at": moment, "duration_ms": 1.25, "payload": '{"a": 1}'}
    else:
        row = {"seq": 1, "recorded_at": moment, "row_slot": 1, "ordinal": 1, "table_id": 1, "shape_id": 1}
        row |= {"operation": "INSERT", "row_key": "(1)", "new_row": "(1,x)"}
    row |= values
    owner.execute(
        sql.SQL("INSERT INTO provenance.{} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        ),
        row,
    )
    return row["id" if table == "actions" else "seq"]


def contents(connection: Connection, table: str) -> list[str]:
    """Return every row as text, sorted."""
    found = connection.execute(sql.SQL("SELECT r::text FROM provenance.{} r ORDER BY 1").format(sql.Identifier(table)))
    return [row[0] for row in found.fetchall()]


def places(connection: Connection, table: str) -> dict[str, int]:
    """Return how many rows are in which partition."""
    query = "SELECT tableoid::regclass::text, count(*) FROM provenance.{} GROUP BY 1"
    found = connection.execute(sql.SQL(query).format(sql.Identifier(table))).fetchall()
    return {name.removeprefix("provenance."): count for name, count in found}


def attached(connection: Connection) -> list[str]:
    """Return the names of all partitions."""
    rows = connection.execute(
        "SELECT p.relid::regclass::text FROM unnest(%s::regclass[]) t CROSS JOIN pg_partition_tree(t) p WHERE p.isleaf",
        (["provenance.actions", "provenance.row_changes"],),
    ).fetchall()
    return [name.removeprefix("provenance.") for (name,) in rows]


def first_of(year: int, number: int) -> datetime:
    """Return the first moment of a month."""
    return datetime(year, number, 1, tzinfo=UTC)
