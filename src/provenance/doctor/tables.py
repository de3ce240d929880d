"""Stamped and captured tables: whether their triggers are whole, and what was written past the trail."""

from __future__ import annotations

from functools import partial

import attrs
from psycopg import sql

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity, unchecked
from provenance.drivers import SyncConnection, run
from provenance.schema.runner import listed
from provenance.statements import Row, Rows, Statement, as_they_are

_NAME = "tables"
_finding = partial(Finding, check=_NAME)


# provenance.coverage() tells the same of those triggers that a table has, and counts the rows of stamped tables, which may
# take its time. A trigger is wanted where another one of its kind is.
_GAPS = Statement(
    """WITH watched AS (
           SELECT t.tgrelid AS relation, c.relkind = 'p' AS by_row, k.kind
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            CROSS JOIN LATERAL (
                  SELECT substring(t.tgname FROM '^provenance_(stamp|require_action|capture)')) AS k (kind)
            WHERE k.kind IS NOT NULL AND NOT c.relispartition GROUP BY 1, 2, 3),
       gap AS (
           SELECT w.relation, m.member, w.kind, 'provenance_' || n.name AS name,
                  CASE WHEN t.oid IS NULL THEN 'missing'
                       WHEN t.tgqual IS NOT NULL OR cardinality(t.tgattr::int2[]) > 0
                            OR t.tgtype <> (CASE WHEN w.by_row THEN n.by_row_type ELSE n.type END)
                            OR p.pronamespace <> to_regnamespace('provenance') OR p.proname !~ n.function
                            THEN 'not what was made'
                       WHEN t.tgenabled = 'D' THEN 'disabled'
                       WHEN w.kind = 'capture' AND t.tgenabled <> 'A' THEN 'not enabled always'
                       WHEN t.tgenabled = 'R' THEN 'enabled in replica sessions only' END AS what
             FROM watched w
             -- The types are those of pg_trigger.h: row 1, before 2, insert 4, delete 8, update 16, truncate 32.
             JOIN (VALUES ('stamp', 'stamp_insert', '^stamp_insert$', 7, 7),
                          ('stamp', 'stamp_update', '^stamp_update$', 19, 19),
                          ('require_action', 'require_action', '^require_action$', 30, 31),
                          ('require_action', 'require_action_truncate', '^require_action$', 34, 34),
                          ('capture', 'capture_insert', '^capture_[0-9]+$', 4, 29),
                          ('capture', 'capture_truncate', '^capture_[0-9]+$', 34, 34),
                          ('capture', 'capture_update', '^capture_[0-9]+$', 16, NULL),
                          ('capture', 'capture_delete', '^capture_[0-9]+$', 8, NULL)
                  ) AS n (kind, name, function, type, by_row_type)
               ON n.kind = w.kind AND (n.by_row_type IS NOT NULL OR NOT w.by_row)
            CROSS JOIN LATERAL (
                  SELECT w.relation UNION SELECT p.relid FROM pg_partition_tree(w.relation) p WHERE p.isleaf
                  ) AS m (member)
             LEFT JOIN (pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid)
               ON t.tgrelid = m.member AND t.tgname = 'provenance_' || n.name)
       SELECT g.relation::regclass::text,
              string_agg(format('%s is %s on %s', g.name, g.what, g.member::regclass), '; '
                         ORDER BY g.member::regclass::text, g.name),
              string_agg(DISTINCT CASE
                  WHEN g.what NOT IN ('missing', 'not what was made')
                  THEN format('ALTER TABLE %s ENABLE %sTRIGGER %I;', g.member::regclass,
                              CASE WHEN g.kind = 'capture' THEN 'ALWAYS ' ELSE '' END, g.name)
                  WHEN g.kind = 'capture'
                  THEN format('SELECT provenance.capture_table(%L, excluded => %L, masked => %L, kept => %L, '
                              'max_bytes => %s, suspicious => %L);',
                              g.relation::regclass, s.excluded, s.masked, s.kept, s.max_bytes, s.suspicious)
                  WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = g.relation AND t.tgname = 'provenance_touch')
                  THEN 'provenance concept sql FILE --apply'
                  ELSE format('SELECT provenance.stamp_table(%L, strict => %s);', g.relation::regclass,
                              EXISTS (SELECT FROM watched o
                                       WHERE o.relation = g.relation AND o.kind = 'require_action')::text)
                  END, E'\\n')
         FROM gap g
         LEFT JOIN LATERAL (
              SELECT c.* FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                JOIN provenance.captured_tables c ON 'capture_' || c.id = p.proname
               WHERE t.tgrelid = g.relation AND t.tgname ~ '^provenance_capture' LIMIT 1) s ON true
        WHERE g.what IS NOT NULL GROUP BY g.relation ORDER BY 1""",
    None,
    as_they_are,
)

# A table that was renamed took its triggers along.
_LOST = Statement(
    """SELECT c.table_name, to_regclass(c.table_name) IS NOT NULL,
              format('SELECT provenance.capture_table(%L, excluded => %L, masked => %L, kept => %L, max_bytes => %s, '
                     'suspicious => %L);', c.table_name, c.excluded, c.masked, c.kept, c.max_bytes, c.suspicious),
              format('UPDATE provenance.captured_tables SET released_at = clock_timestamp() WHERE id = %s;', c.id)
         FROM provenance.captured_tables c
        WHERE c.released_at IS NULL
          AND NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                           WHERE p.pronamespace = to_regnamespace('provenance') AND p.proname = 'capture_' || c.id)
        ORDER BY 1""",
    None,
    as_they_are,
)


def _broken(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        *(
            _finding(
                severity=Severity.ERROR,
                subject=table,
                problem=f"{gaps}: what is written there is accounted for in part only",
                remedy=remedy,
            )
            for table, gaps, remedy in run(connection, _GAPS)
        ),
        *(
            _finding(
                severity=Severity.ERROR if is_there else Severity.WARNING,
                subject=table,
                problem="is noted as captured, and nothing captures it: changes are not stored"
                if is_there
                else "is noted as captured, and is not there: it was dropped while it was captured",
                remedy=f"{capture}\n{release}" if is_there else release,
            )
            for table, is_there, capture, release in run(connection, _LOST)
        ),
    ]


def _untracked(limits: Limits) -> Statement[list[Row]]:
    """Find what was written past the trail to captured tables."""
    return Statement(
        """SELECT c.table_name, count(*), max(r.recorded_at), (array_agg(DISTINCT r.db_user))[1:3]
             FROM provenance.captured_tables c
            CROSS JOIN LATERAL (
                  SELECT r.recorded_at, r.db_user FROM provenance.row_changes r
                   WHERE r.table_id = c.id AND r.ordinal = 1 AND r.action_id IS NULL AND r.seq > 0
                     AND r.recorded_at > statement_timestamp() - %(recent)s
                     AND r.recorded_at < statement_timestamp() + interval '1 day'
                   ORDER BY r.seq DESC LIMIT %(rows)s) r
            WHERE c.released_at IS NULL GROUP BY c.table_name ORDER BY 1""",
        {"recent": limits.recent, "rows": limits.rows},
        as_they_are,
    )


def _past_the_trail(connection: SyncConnection, limits: Limits) -> list[Finding]:
    return [
        _finding(
            severity=Severity.WARNING,
            subject=table,
            problem=f"was written outside any action by {count} statements in the last {limits.recent.days} days, the last "
            f"at {at:%Y-%m-%d %H:%M}Z, by {', '.join(users)}: nobody knows why",
            remedy=f"write inside track_action(); to have such writes refused: provenance stamp {table} --strict",
        )
        for table, count, at, users in run(connection, _untracked(limits))
    ]


@attrs.frozen
class _Stamped:
    """A stamped table that is not captured, or a partition of it."""

    table: str
    schema: str
    name: str
    pages: int
    readable: bool


def _stamped(rows: Rows) -> list[_Stamped]:
    return [_Stamped(*row) for row in rows]


_STAMPED = Statement(
    """SELECT t.tgrelid::regclass::text, n.nspname::text, c.relname::text,
              pg_relation_size(c.oid) / current_setting('block_size')::integer,
              has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, 'updated_by_action_id', 'SELECT')
         FROM pg_trigger t
         JOIN pg_class top ON top.oid = t.tgrelid AND NOT top.relispartition
        CROSS JOIN LATERAL (
              SELECT t.tgrelid WHERE top.relkind = 'r'
               UNION SELECT p.relid FROM pg_partition_tree(t.tgrelid) p WHERE p.isleaf) m (member)
         JOIN pg_class c ON c.oid = m.member AND c.relkind = 'r'
         JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.tgname = 'provenance_stamp_update'
          AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'updated_by_action_id')
          AND NOT EXISTS (SELECT FROM pg_trigger k WHERE k.tgrelid = t.tgrelid AND k.tgname ~ '^provenance_capture')
        ORDER BY 1, 2, 3""",
    None,
    _stamped,
)


def _count(rows: Rows) -> int:
    return int(rows[0][0])


def _unstamped(table: _Stamped, pages: int) -> Statement[int]:
    """Count the rows without an action among the last pages."""
    return Statement(
        sql.SQL("SELECT count(*) FROM {} t WHERE t.ctid >= {}::tid AND t.updated_by_action_id IS NULL").format(
            sql.Identifier(table.schema, table.name), sql.Literal(f"({max(table.pages - pages, 0)},0)")
        ),
        None,
        _count,
    )


_ADOPT = """BEGIN;
SELECT provenance.record_action('adopt_rows', 'table', entity_type => 'table', entity_id => {text});
UPDATE {table} SET updated_by_action_id = NULL WHERE updated_by_action_id IS NULL;
SELECT provenance.complete_action(provenance.current_action_id());
COMMIT;"""


def _without_action(connection: SyncConnection, limits: Limits) -> list[Finding]:
    tables = run(connection, _STAMPED)
    counts: dict[str, int] = {}
    for table in tables:
        if table.readable:
            counts[table.table] = counts.get(table.table, 0) + run(connection, _unstamped(table, limits.pages))
    hidden = list(dict.fromkeys(table.table for table in tables if not table.readable))
    return [
        *(
            _finding(
                severity=Severity.WARNING,
                subject=name,
                problem=f"has {count} rows that were last written outside any action, or before it was stamped: nobody "
                "knows by what",
                remedy=_ADOPT.format(text=sql.Literal(name).as_string(None), table=name),
            )
            for name, count in counts.items()
            if count
        ),
        *([unchecked(_NAME, "whether rows are without an action", "SELECT on them", listed(hidden))] if hidden else []),
    ]


BROKEN = Check(
    name=_NAME, what="whether the triggers of stamped and captured tables are whole", needs=READER, look=_broken
)
UNTRACKED = Check(
    name=_NAME,
    what="whether captured tables were written outside any action",
    needs=READER,
    look=_past_the_trail,
    of_rows=True,
)
UNSTAMPED = Check(
    name=_NAME, what="whether stamped tables were written outside any action", needs=READER, look=_without_action
)
