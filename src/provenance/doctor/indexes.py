"""Indexes of the trail that are much larger than their rows need: estimated, from what the planner knows."""

from __future__ import annotations

from provenance.doctor.findings import Check, Finding, Limits, NotSeen, Severity
from provenance.drivers import SyncConnection, run
from provenance.errors import AS_OWNER
from provenance.statements import Row, Statement, as_they_are, truth

# Statistics of tables with row-level security are shown to those alone whom it does not bind.
_SEES_STATISTICS = Statement(
    """SELECT bool_and(NOT row_security_active(c.oid) AND has_any_column_privilege(c.oid, 'SELECT'))
         FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('provenance')
          AND c.relname IN ('actions', 'action_intents', 'row_changes')""",
    None,
    truth,
)


def _bloated(limits: Limits) -> Statement[list[Row]]:
    """Compare sizes with what so many entries of average width take, at nine tenths of a page.

    An entry has a head of 8 bytes and a pointer of 4, and is padded to 8. Equal entries are stored once, so that this is
    rather too much.
    """
    return Statement(
        """SELECT quote_ident(f.index), f.bytes, f.needed
             FROM (SELECT i.relname AS index, pg_relation_size(i.oid) AS bytes,
                          s.block * ceil(i.reltuples * (12 + ceil(w.width / 8.0) * 8) / (0.9 * (s.block - 40)))::bigint
                            + s.block AS needed
                     FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
                     JOIN pg_am m ON m.oid = i.relam AND m.amname = 'btree'
                    CROSS JOIN (SELECT current_setting('block_size')::integer AS block) s
                    CROSS JOIN LATERAL (
                          SELECT sum(COALESCE(t.avg_width, 8)) AS width
                            FROM pg_attribute a
                            LEFT JOIN pg_stats t ON t.schemaname = 'provenance' AND t.tablename = c.relname
                                                AND t.attname = a.attname AND NOT t.inherited
                           WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey)) w
                    WHERE c.relnamespace = to_regnamespace('provenance') AND i.relkind = 'i' AND i.reltuples >= 0
                      AND pg_relation_size(i.oid) > %(bytes)s) f
            WHERE f.bytes > f.needed * %(ratio)s AND f.bytes > f.needed + %(bytes)s
            ORDER BY f.bytes - f.needed DESC""",
        {"bytes": limits.index_bytes, "ratio": limits.index_ratio},
        as_they_are,
    )


def _look(connection: SyncConnection, limits: Limits) -> list[Finding]:
    if not run(connection, _SEES_STATISTICS):
        raise NotSeen
    return [
        Finding(
            check="indexes",
            severity=Severity.WARNING,
            subject=f"provenance.{name}",
            problem=f"takes {taken / 1024**2:.0f} MB, and its entries need some {needed / 1024**2:.0f} MB: it is slow, and "
            "keeps others out of memory",
            remedy=f"REINDEX INDEX CONCURRENTLY provenance.{name};",
        )
        for name, taken, needed in run(connection, _bloated(limits))
    ]


INDEXES = Check(name="indexes", what="whether indexes are bloated", needs=AS_OWNER, look=_look)
