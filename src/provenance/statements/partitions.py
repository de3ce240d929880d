"""The statements that tell which partitions there are, and that make those which are missing."""

from __future__ import annotations

from datetime import date
from typing import LiteralString

from psycopg import sql

from provenance.models import Partition
from provenance.statements import Rows, Statement

TABLES = ("actions", "row_changes")
"""What is partitioned by month."""

MONTHS_AHEAD = 6
"""For how many months there should be partitions beyond this one."""
FURTHEST = 120
"""For how many there may be."""


def month_after(first: date, later: int) -> date:
    """Return the first day of a month so many months after another one."""
    count = first.year * 12 + first.month - 1 + later
    return date(count // 12, count % 12 + 1, 1)


def _partitions(rows: Rows) -> list[Partition]:
    return [
        Partition(
            table=table,
            name=name,
            month=month,
            rows=None if rows < 0 else int(rows),
            bytes=size,
            index_bytes=index_size,
        )
        for table, month, name, rows, size, index_size in rows
    ]


NAMED: LiteralString = (
    r"p.relname::text AS table_name, to_date(substring(c.relname from '\d{4}_\d{2}$'), 'YYYY_MM') AS month"
)
"""Of which table and of which month a partition ``c`` is, in SQL; the default partition is of none."""
FROM_PARTITIONS: LiteralString = """FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
          JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         WHERE p.relnamespace = to_regnamespace('provenance') AND p.relkind = 'p'"""
"""All partitions there are."""

PARTITIONS = Statement(
    f"""SELECT {NAMED}, c.relname::text, c.reltuples,
               pg_catalog.pg_total_relation_size(c.oid), pg_catalog.pg_indexes_size(c.oid)
          {FROM_PARTITIONS}
         ORDER BY 1, 2 NULLS LAST""",
    None,
    _partitions,
)


def _names(rows: Rows) -> list[str]:
    return [row[0] for row in rows]


def ensure(months_ahead: int) -> Statement[list[str]]:
    """Make the partitions of this month and so many more; answers the names of the new ones."""
    return Statement("SELECT provenance.ensure_partitions(%(ahead)s)", {"ahead": months_ahead}, _names)


NEXT = Statement(
    """SELECT m.name FROM (SELECT pg_try_advisory_xact_lock(31651020444888673) AS alone OFFSET 0) AS l
        CROSS JOIN LATERAL provenance.ensure_partitions(1) AS m (name) WHERE l.alone""",
    None,
    _names,
)
"""Make this month's and the next one's, unless somebody else makes months or migrates, who is not waited for."""


def missing(months_ahead: int) -> Statement[list[str]]:
    """Return the names of those that :func:`ensure` would make."""
    return Statement(
        """SELECT n.name
             FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS t (name, place)
            CROSS JOIN generate_series(0, %(ahead)s) AS m (later)
            CROSS JOIN LATERAL (
                SELECT t.name || to_char(date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')
                                         + make_interval(months => m.later), '_YYYY_MM')) AS n (name)
            WHERE to_regclass('provenance.' || n.name) IS NULL
            ORDER BY t.place, m.later""",
        {"tables": list(TABLES), "ahead": months_ahead},
        _names,
    )


def _counts(rows: Rows) -> dict[str, int]:
    return dict(rows)


def strays(table: str, limit: int | None = None) -> Statement[dict[str, int]]:
    """Count the rows in the default partition of a table by the partition that they belong in.

    Those that :func:`empty_default` leaves there are not counted: of an id that is no UUIDv7 nobody knows the month, and of
    a month in the future it is rather the clock that is wrong.
    """
    by_id = table == "actions"
    return Statement(
        sql.SQL(
            """SELECT {name} || to_char(f.moment AT TIME ZONE 'UTC', '_YYYY_MM'), count(*)
                 FROM (SELECT {moment} AS moment FROM ONLY provenance.{default} d WHERE {known} LIMIT {limit}) f
                WHERE f.moment < date_trunc('month', clock_timestamp(), 'UTC') + interval '2 months'
                GROUP BY 1 ORDER BY 1"""
        ).format(
            name=sql.Literal(table),
            default=sql.Identifier(f"{table}_default"),
            moment=sql.SQL("provenance.uuid_moment(d.id)" if by_id else "d.recorded_at"),
            known=sql.SQL("substr(d.id::text, 15, 1) = '7'" if by_id else "true"),
            limit=sql.Literal(limit),
        ),
        None,
        _counts,
    )


def empty_default(table: str, longest_hold: float) -> Statement[dict[str, int]]:
    """Move the rows of a default partition to where they belong; answers how many came into which new partition.

    To be run at READ COMMITTED, as the last thing in its transaction.

    Args:
        table: the name of the partitioned table.
        longest_hold: for how many seconds the table may be locked at a time.
    """
    return Statement(
        "SELECT partition, moved FROM provenance.empty_default(%(table)s, make_interval(secs => %(hold)s))",
        {"table": table, "hold": longest_hold},
        _counts,
    )
