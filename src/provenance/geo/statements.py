"""The statements about locations: made from the levels; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import attrs
from psycopg import sql

from provenance.concepts import ddl
from provenance.concepts.naming import literal, quoted
from provenance.geo.levels import Geography
from provenance.statements import Rows, Statement

Places = Mapping[str, Any]
"""The key of a place, or ``None``, for each level."""

Mask = tuple[bool, ...]
"""Which levels are given."""


def as_sql(text: Any) -> sql.SQL:
    """Return SQL in which names stand quoted, hence no literal; a percent sign is no parameter."""
    return sql.SQL(text.replace("%", "%%"))


def mask(geography: Geography, places: Places) -> Mask:
    """Return which levels are given."""
    return tuple(places[level.name] is not None for level in geography.levels)


def just(geography: Geography, given: Mask, columns: Mapping[str, str]) -> str:
    """Return the condition that a row gives these levels and no others.

    Args:
        geography: the levels.
        given: which of them.
        columns: SQL for those that the row has, by level.
    """
    return " AND ".join(
        f"{columns[level.name]} IS {'NOT NULL' if there else 'NULL'}"
        for level, there in zip(geography.levels, given, strict=True)
        if level.name in columns
    )


def its_location(geography: Geography, given: Mask, columns: Mapping[str, str]) -> str:
    """Return SQL for the id of the location of a row that gives just these levels; null when there is none.

    Equality where there is a value and ``IS NULL`` elsewhere, because no index serves ``IS NOT DISTINCT FROM``. A scalar
    subquery looks into that index for each row, whatever the planner believes of a table that has just been filled.
    """
    conditions = [
        f"l.{quoted(level.column)} = {columns[level.name]}" if there else f"l.{quoted(level.column)} IS NULL"
        for level, there in zip(geography.levels, given, strict=True)
    ]
    table = ddl.qualified(geography.concept.place)
    return f"(SELECT l.id FROM {table} AS l WHERE {' AND '.join(conditions)} AND l.deleted_at IS NULL)"  # noqa: S608


def insert(geography: Geography, source: str, columns: Mapping[str, str]) -> str:
    """Return SQL that adds the locations of a source unless they are there.

    Always in the same order, so that two who add the same ones do not wait for each other crosswise.
    """
    levels = [level for level in geography.levels if level.name in columns]
    names = ", ".join(quoted(level.column) for level in levels)
    values = ", ".join(columns[level.name] for level in levels)
    key = ", ".join(map(quoted, geography.key))
    order = ", ".join(str(number) for number in range(1, len(levels) + 1))
    return (
        f"INSERT INTO {ddl.qualified(geography.concept.place)} ({names}, level) "
        f"SELECT DISTINCT {values}, {geography.level_sql(columns)} {source} ORDER BY {order} "
        f"ON CONFLICT ({key}) WHERE deleted_at IS NULL DO NOTHING"
    )


# -- contradictions --


@attrs.frozen
class Contradiction:
    """A place that does not lie within another that is named with it."""

    level: str
    place: str
    broader: str
    named: str
    actual: str
    rows: int
    """How many rows of the source say so."""

    def __str__(self) -> str:
        return f"{self.level} {self.place} lies in {self.broader} {self.actual}, not in {self.named}"


def contradictions_sql(geography: Geography, source: str, columns: Mapping[str, str]) -> str:
    """Return the query for what a source says that the tables of places contradict; empty when nothing could.

    Args:
        geography: its levels.
        source: a relation with its alias, to be joined.
        columns: of that relation, by level.
    """
    branches = [
        f"SELECT {literal(level.name)}, {columns[level.name]}::text, {literal(broader)}, {columns[broader]}::text, "  # noqa: S608
        f"t.{quoted(column)}::text, pg_catalog.count(*) FROM {source} JOIN {level.table} AS t "
        f"ON t.{quoted(level.key)} = {columns[level.name]} "
        f"WHERE t.{quoted(column)} <> {columns[broader]} GROUP BY 2, 4, 5"
        for level in geography.levels
        for broader, column in level.within.items()
        if level.name in columns and broader in columns
    ]
    return " UNION ALL ".join(branches) and f"{' UNION ALL '.join(branches)} ORDER BY 6 DESC, 1, 2, 3"


def contradictions_found(rows: Rows) -> list[Contradiction]:
    """Decode the answer of that query."""
    return [Contradiction(*row) for row in rows]


# -- one location or many: the wanted places are parameters --


def _wanted(geography: Geography, wanted: Sequence[Places], text: str) -> tuple[sql.Composed, dict[str, object]]:
    """Return SQL that reads the wanted places from ``w``, numbered in ``w.n`` from 1, and its parameters."""
    arrays = [sql.SQL("{}::{}[]").format(sql.Placeholder(level.name), as_sql(level.type)) for level in geography.levels]
    names = ", ".join(quoted(level.column) for level in geography.levels)
    query = sql.SQL(
        "WITH w AS (SELECT * FROM ROWS FROM (pg_catalog.unnest({})) WITH ORDINALITY AS w({}, n)) {}"
    ).format(sql.SQL("), pg_catalog.unnest(").join(arrays), as_sql(names), as_sql(text))
    return query, {level.name: [places[level.name] for places in wanted] for level in geography.levels}


def _columns(geography: Geography) -> dict[str, str]:
    return {level.name: f"w.{quoted(level.column)}" for level in geography.levels}


def find(geography: Geography, wanted: Sequence[Places]) -> Statement[dict[int, UUID]]:
    """The ids of those that are there, by their place in the list."""
    columns = _columns(geography)
    text = " UNION ALL ".join(
        f"SELECT w.n, {its_location(geography, given, columns)} FROM w WHERE {just(geography, given, columns)}"  # noqa: S608
        for given in dict.fromkeys(mask(geography, places) for places in wanted)
    )
    return Statement(*_wanted(geography, wanted, text), _found)


def _found(rows: Rows) -> dict[int, UUID]:
    return {int(number) - 1: found for number, found in rows if found is not None}


def add(geography: Geography, wanted: Sequence[Places]) -> Statement[int]:
    """Add those that are not there; how many were added."""
    text = f"{insert(geography, 'FROM w', _columns(geography))} RETURNING 1"
    return Statement(*_wanted(geography, wanted, text), len)


def contradictions(geography: Geography, wanted: Sequence[Places]) -> Statement[list[Contradiction]] | None:
    """What of the wanted the tables of places contradict; ``None`` when they say nothing about each other."""
    text = contradictions_sql(geography, "w", _columns(geography))
    return Statement(*_wanted(geography, wanted, text), contradictions_found) if text else None
