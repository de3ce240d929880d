"""The statements about locations: made from the levels; no I/O.

None is prepared: what plan is good depends on how many locations there are, and a prepared one outlives their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import attrs
from psycopg import sql

from provenance.concepts import column_types, ddl
from provenance.concepts.naming import literal, quoted
from provenance.concepts.statements import escaped
from provenance.geo.levels import Geography, Way
from provenance.statements import Rows, Statement

Places = Mapping[str, Any]
"""The key of a place, or ``None``, for each level."""

Mask = tuple[bool, ...]
"""Which levels are given."""


def operator(symbol: str, *types: str) -> str:
    """Return a comparison of values of built-in types, whatever operators the search_path has.

    What it is for types that are not built in is looked for as in any query.
    """
    return symbol if None in map(column_types.bare, types) else f"OPERATOR(pg_catalog.{symbol})"


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
        f"l.{quoted(level.column)} {operator('=', level.type)} {columns[level.name]}"
        if there
        else f"l.{quoted(level.column)} IS NULL"
        for level, there in zip(geography.levels, given, strict=True)
    ]
    conditions += ["l.deleted_at IS NULL", f"l.named OPERATOR(pg_catalog.=) {sum(given)}"]
    return f"(SELECT l.id FROM {ddl.qualified(geography.concept.place)} AS l WHERE {' AND '.join(conditions)})"  # noqa: S608


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
        f"INSERT INTO {ddl.qualified(geography.concept.place)} ({names}, level, named) "
        f"SELECT DISTINCT {values}, {geography.level_sql(columns)}, pg_catalog.num_nonnulls({values}) {source} "
        f"ORDER BY {order} "
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
    types = {level.name: level.type for level in geography.levels}
    branches = [
        _contradiction(source, columns, way, broader, types[broader])
        for way, broader in geography.ways()
        if way[0][0].name in columns and broader in columns
    ]
    return " UNION ALL ".join(branches) and f"{' UNION ALL '.join(branches)} ORDER BY 6 DESC, 1, 2, 3"


def _contradiction(source: str, columns: Mapping[str, str], way: Way, broader: str, written: str) -> str:
    """Return the query for rows whose place does not lie in their broader one, for a way between the levels."""
    (narrow, _), *passed = way
    joins, key = list[str](), columns[narrow.name]
    for number, (level, column) in enumerate(way):
        alias = f"t{number}"
        joins.append(f"JOIN {level.table} AS {alias} ON {alias}.{quoted(level.key)} {operator('=', level.type)} {key}")
        key = f"{alias}.{quoted(column)}"
    # Where a level on the way is given, it is compared by itself.
    conditions = [f"{columns[level.name]} IS NULL" for level, _ in passed if level.name in columns]
    conditions.append(f"{key} {operator('<>', written)} {columns[broader]}")
    return (
        f"SELECT {literal(narrow.name)}, {columns[narrow.name]}::pg_catalog.text, {literal(broader)}, "  # noqa: S608
        f"{columns[broader]}::pg_catalog.text, {key}::pg_catalog.text, pg_catalog.count(*) "
        f"FROM {source} {' '.join(joins)} WHERE {' AND '.join(conditions)} GROUP BY 2, 4, 5"
    )


def contradictions_found(rows: Rows) -> list[Contradiction]:
    """Decode the answer of that query."""
    return [Contradiction(*row) for row in rows]


# -- one location or many: the wanted places are parameters --


def _wanted(geography: Geography, wanted: Sequence[Places], text: str) -> tuple[sql.Composed, dict[str, object]]:
    """Return SQL that reads the wanted places from ``w``, numbered in ``w.n`` from 1, and its parameters."""
    # Without a length: a cast to varchar(5) would cut a key off, and find another one.
    types = [column_types.bare(level.type) or level.type for level in geography.levels]
    arrays = [
        sql.SQL("{}::{}[]").format(sql.Placeholder(level.name), escaped(written))
        for level, written in zip(geography.levels, types, strict=True)
    ]
    names = ", ".join(quoted(level.column) for level in geography.levels)
    query = sql.SQL(
        "WITH w AS (SELECT * FROM ROWS FROM (pg_catalog.unnest({})) WITH ORDINALITY AS w({}, n)) {}"
    ).format(sql.SQL("), pg_catalog.unnest(").join(arrays), escaped(names), escaped(text))
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
    return Statement(*_wanted(geography, wanted, text), _found, prepare=False)


def _found(rows: Rows) -> dict[int, UUID]:
    return {int(number) - 1: found for number, found in rows if found is not None}


def add(geography: Geography, wanted: Sequence[Places]) -> Statement[int]:
    """Add those that are not there; how many were added."""
    text = f"{insert(geography, 'FROM w', _columns(geography))} RETURNING 1"
    return Statement(*_wanted(geography, wanted, text), len, prepare=False)


def contradictions(geography: Geography, wanted: Sequence[Places]) -> Statement[list[Contradiction]] | None:
    """What of the wanted the tables of places contradict; ``None`` when they say nothing about each other."""
    text = contradictions_sql(geography, "w", _columns(geography))
    return Statement(*_wanted(geography, wanted, text), contradictions_found, prepare=False) if text else None
