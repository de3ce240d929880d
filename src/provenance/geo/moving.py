"""The statements that move a table from columns for levels to one id, and back, a range of its primary key at a time.

What has been moved is known from the table itself, so there is nothing to remember and nothing to disagree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs
from psycopg import sql

from provenance.concepts import ddl
from provenance.concepts.naming import quoted
from provenance.concepts.statements import escaped
from provenance.geo import statements
from provenance.geo.level_columns import LevelColumns
from provenance.geo.statements import Contradiction, Mask
from provenance.statements import Rows, Statement, nothing

T = TypeVar("T")

Key = tuple[str, ...]
"""The values of a primary key, as text."""


@attrs.frozen
class Range:
    """Rows after one key, up to another; ``None`` is the beginning or the end of the table."""

    after: Key | None = None
    upto: Key | None = None


@attrs.frozen
class State:
    """How many rows of a table are in which state."""

    waiting: int
    """They name a place, and have no id."""
    differing: int
    """Their id says something else than their columns."""
    contested: int
    """Of these, those whose columns name a place: it is not known which is right."""
    unmovable: int
    """Their id says what columns cannot: its location is not there, or names a level without a column, or nothing."""


@attrs.frozen
class Moving:
    """Makes the statements.

    Args:
        form: the table and its columns.
        key: the columns of its primary key, with their types.
    """

    form: LevelColumns
    key: Mapping[str, str]

    @property
    def _locations(self) -> str:
        return ddl.qualified(self.form.geography.concept.place)

    # -- there --

    @property
    def waiting(self) -> str:
        """The condition that a row names a place, and has no id for it yet."""
        held = ", ".join(self.form.held("s").values())
        return f"s.{quoted(self.form.reference)} IS NULL AND pg_catalog.num_nonnulls({held}) > 0"

    def masks(self, rows: Range) -> Statement[list[Mask]]:
        """Which levels are given together in the waiting rows of a range."""
        held = self.form.held("s")
        levels = [level.name for level in self.form.geography.levels]
        given = ", ".join(f"{held[name]} IS NOT NULL" if name in held else "false" for name in levels)
        return self._over(f"SELECT DISTINCT {given} FROM {self.form.table} AS s WHERE {self.waiting}", rows, _masks)  # noqa: S608

    def contradictions(self, rows: Range) -> Statement[list[Contradiction]] | None:
        """What the waiting rows of a range say against the tables of places; ``None`` when these say nothing."""
        text = statements.contradictions_sql(self.form.geography, "b", self.form.held("b"))
        return self._from_waiting(text, rows, statements.contradictions_found) if text else None

    def add(self, rows: Range) -> Statement[int]:
        """Make the locations of the waiting rows of a range; how many there were not yet."""
        made = statements.insert(self.form.geography, "FROM b", self.form.held("b"))
        also = f", made AS ({made} RETURNING 1)"
        return self._from_waiting("SELECT pg_catalog.count(*) FROM made", rows, _number, also=also)

    def move(self, rows: Range, given: Mask) -> Statement[int]:
        """Give the waiting rows of a range their ids, those where just these levels are given; how many.

        A row that somebody changes meanwhile is looked at as it is then; it goes on waiting if its location is not there.
        """
        held, reference = self.form.held("s"), quoted(self.form.reference)
        return self._counted(
            f"UPDATE {self.form.table} AS s "  # noqa: S608
            f"SET {reference} = {statements.its_location(self.form.geography, given, held)} "
            f"WHERE {self.waiting} AND {statements.just(self.form.geography, given, held)}",
            rows,
        )

    # -- and back --

    @property
    def moved(self) -> str:
        """The condition that a row's id names other places than its columns do, for a location ``l``."""
        held = self.form.held("s")
        columns = {level.name: f"l.{quoted(level.column)}" for level in self.form.geography.levels}
        return (
            f"l.id OPERATOR(pg_catalog.=) s.{quoted(self.form.reference)} AND "
            f"({', '.join(held.values())}) IS DISTINCT FROM ({', '.join(columns[name] for name in held)})"
        )

    def carry_back(self, rows: Range) -> Statement[int]:
        """Write the places of a range's locations into the columns; how many rows that changed."""
        levels = {level.name: level.column for level in self.form.geography.levels}
        set_columns = ", ".join(
            f"{quoted(column)} = l.{quoted(levels[name])}" for name, column in self.form.columns.items()
        )
        text = f"UPDATE {self.form.table} AS s SET {set_columns} FROM {self._locations} AS l WHERE {self.moved}"  # noqa: S608
        return self._counted(text, rows)

    def state(self) -> Statement[State]:
        """How many rows are in which state."""
        held, reference = ", ".join(self.form.held("s").values()), f"s.{quoted(self.form.reference)}"
        levels = self.form.geography.levels
        own = ", ".join(f"l.{quoted(level.column)}" for level in levels if level.name in self.form.columns)
        others = [f"l.{quoted(level.column)} IS NOT NULL" for level in levels if level.name not in self.form.columns]
        # The location that names nothing at all cannot be told from none, once there are columns only.
        lost = " OR ".join(["l.id IS NULL", f"pg_catalog.num_nonnulls({own}) = 0", *others])
        differs = f"l.id IS NOT NULL AND ({held}) IS DISTINCT FROM ({own})"
        given = f"pg_catalog.num_nonnulls({held}) > 0"
        text = (
            f"SELECT pg_catalog.count(*) FILTER (WHERE {self.waiting}), "  # noqa: S608
            f"pg_catalog.count(*) FILTER (WHERE {differs}), "
            f"pg_catalog.count(*) FILTER (WHERE {differs} AND {given}), "
            f"pg_catalog.count(*) FILTER (WHERE {reference} IS NOT NULL AND ({lost})) "
            f"FROM {self.form.table} AS s LEFT JOIN {self._locations} AS l ON l.id OPERATOR(pg_catalog.=) {reference}"
        )
        return Statement(sql.Composed([escaped(text)]), {}, lambda rows: State(*map(int, rows[0])))

    # -- ranges --

    def alone(self, lock_class: int) -> Statement[None]:
        """Wait until no other batch of the table is in work."""
        query = "SELECT pg_catalog.pg_advisory_xact_lock(%(class)s::pg_catalog.int4, pg_catalog.hashtext(%(table)s))"
        return Statement(query, {"class": lock_class, "table": self.form.table}, nothing)

    def bound(self, condition: str, after: Key | None, size: int) -> Statement[Key | None]:
        """The key of the row that ends a batch; ``None`` when fewer are left."""
        selected = ", ".join(f"s.{quoted(name)}::pg_catalog.text" for name in self.key)
        order = ", ".join(f"s.{quoted(name)}" for name in self.key)
        where, params = self._within(Range(after))
        query = (
            escaped(f"SELECT {selected} FROM {self.form.table} AS s WHERE {condition}")  # noqa: S608
            + where
            + escaped(f" ORDER BY {order} LIMIT 1 OFFSET ")
            + sql.Placeholder("skip")
        )
        return Statement(
            query, params | {"skip": size - 1}, lambda rows: tuple(rows[0]) if rows else None, prepare=False
        )

    def _over(self, text: str, rows: Range, decode: Callable[[Rows], T]) -> Statement[T]:
        """Return a statement that ends in a condition, narrowed to a range."""
        where, params = self._within(rows)
        return Statement(escaped(text) + where, params, decode, prepare=False)

    def _counted(self, text: str, rows: Range) -> Statement[int]:
        where, params = self._within(rows)
        return Statement(
            escaped(f"WITH done AS ({text}")
            + where
            + escaped(f" RETURNING s.{quoted(self.form.reference)} AS id) SELECT pg_catalog.count(id) FROM done"),  # noqa: S608
            params,
            _number,
            prepare=False,
        )

    def _from_waiting(self, text: str, rows: Range, decode: Callable[[Rows], T], *, also: str = "") -> Statement[T]:
        """Return a statement that reads the waiting rows of a range from ``b``."""
        where, params = self._within(rows)
        columns = ", ".join(self.form.held("s").values())
        head = escaped(f"WITH b AS (SELECT {columns} FROM {self.form.table} AS s WHERE {self.waiting}")  # noqa: S608
        return Statement(head + where + escaped(f"){also} {text}"), params, decode, prepare=False)

    def _within(self, rows: Range) -> tuple[sql.Composed, dict[str, object]]:
        columns = escaped(", ".join(f"s.{quoted(name)}" for name in self.key))
        where, params = sql.Composed([]), dict[str, object]()
        for name, symbol, bound in (("after", ">", rows.after), ("upto", "<=", rows.upto)):
            if bound is None:
                continue
            values = [
                sql.SQL("{}::{}").format(sql.Placeholder(f"{name}{number}"), escaped(written))
                for number, written in enumerate(self.key.values())
            ]
            compared = escaped(statements.operator(symbol, *self.key.values()))
            where += sql.SQL(" AND ROW({}) {} ROW({})").format(columns, compared, sql.SQL(", ").join(values))
            params |= {f"{name}{number}": value for number, value in enumerate(bound)}
        return where, params


def _number(rows: Rows) -> int:
    return int(rows[0][0])


def _masks(rows: Rows) -> list[Mask]:
    return [tuple(map(bool, row)) for row in rows]
