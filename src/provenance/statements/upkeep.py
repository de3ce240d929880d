"""The statements that look at how the trail fills its disk."""

from __future__ import annotations

from datetime import UTC, datetime

from psycopg import sql

from provenance.models import IndexUse
from provenance.statements import Rows, Statement, nothing


def _indexes(rows: Rows) -> list[IndexUse]:
    return [
        IndexUse(
            table=table,
            name=name,
            unique=unique,
            bytes=int(size),
            scans=int(scans),
            used_at=used_at and used_at.astimezone(UTC),
        )
        for table, name, unique, size, scans, used_at in rows
    ]


INDEXES = Statement(
    """SELECT COALESCE(tp.relname, t.relname)::text, COALESCE(ip.relname, i.relname)::text, bool_or(x.indisunique),
              sum(pg_catalog.pg_relation_size(i.oid)), sum(s.idx_scan),
              -- Postgres notes it since version 16.
              max((to_jsonb(s) ->> 'last_idx_scan')::timestamptz)
         FROM pg_catalog.pg_index x
         JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
         JOIN pg_catalog.pg_stat_all_indexes s ON s.indexrelid = i.oid
         LEFT JOIN (pg_catalog.pg_inherits ih JOIN pg_catalog.pg_class ip ON ip.oid = ih.inhparent) ON ih.inhrelid = i.oid
         LEFT JOIN (pg_catalog.pg_inherits th JOIN pg_catalog.pg_class tp ON tp.oid = th.inhparent) ON th.inhrelid = t.oid
        WHERE t.relnamespace = to_regnamespace('provenance') AND t.relkind = 'r'
        GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2""",
    None,
    _indexes,
)
"""How large the indexes are and how often they were used: those of all partitions of a table together."""


def _names(rows: Rows) -> list[str]:
    return [name for (name,) in rows]


STALE_STATISTICS = Statement(
    """SELECT c.relname::text FROM pg_catalog.pg_class c
         LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
        WHERE c.relnamespace = to_regnamespace('provenance') AND c.relkind = 'p'
          AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
          AND COALESCE(s.last_analyze, '-infinity') < statement_timestamp() - interval '7 days'
        ORDER BY 1""",
    None,
    _names,
)
"""The partitioned tables whose statistics as a whole are older than a week, of those that this role may analyze.

Autovacuum sees to those of each partition, and never to those of the whole, by which the planner judges what is asked of it:
https://www.postgresql.org/docs/current/routine-vacuuming.html
"""


def analyze(table: str) -> Statement[None]:
    """Make the statistics of a partitioned table, without waiting for anybody; outside any transaction."""
    return Statement(sql.SQL("ANALYZE (SKIP_LOCKED) provenance.{}").format(sql.Identifier(table)), None, nothing)


def _since(rows: Rows) -> datetime | None:
    at: datetime | None = rows[0][0]
    return at and at.astimezone(UTC)


COUNTED_SINCE = Statement(
    "SELECT d.stats_reset FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()", None, _since
)
"""Since when the server counts how often indexes are used; ``None``: since it began, or lost its counts."""
