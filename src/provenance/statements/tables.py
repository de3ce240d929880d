"""The statements that stamp and capture tables: one call each of a function that checks, locks and does all of it."""

from __future__ import annotations

from collections.abc import Sequence

from provenance.statements import Rows, Statement, nothing


def stamp(table: str, *, strict: bool) -> Statement[None]:
    """Have the database note which action made and which last changed each row."""
    return Statement(
        "SELECT provenance.stamp_table(%(table)s::regclass, %(strict)s)", {"table": table, "strict": strict}, nothing
    )


def unstamp(table: str) -> Statement[None]:
    """Undo :func:`stamp`."""
    return Statement("SELECT provenance.unstamp_table(%(table)s::regclass)", {"table": table}, nothing)


def _names(rows: Rows) -> list[str]:
    return [name for (name,) in rows]


def noted_columns(table: str) -> Statement[list[str]]:
    """The columns that :func:`unstamp` drops: those that stamping added, by what it wrote about them."""
    return Statement(
        """SELECT a.attname::text FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = %(table)s::regclass AND a.attname IN ('created_by_action_id', 'updated_by_action_id')
              AND pg_catalog.col_description(a.attrelid, a.attnum) = 'An action, noted by provenance.'
            ORDER BY a.attnum""",
        {"table": table},
        _names,
    )


def columns(table: str) -> Statement[list[str]]:
    """The columns of a table, in order."""
    return Statement(
        """SELECT a.attname::text FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
        {"table": table},
        _names,
    )


def capture(
    table: str,
    *,
    excluded: Sequence[str],
    masked: Sequence[str],
    kept: Sequence[str],
    max_bytes: int,
    suspicious: str,
) -> Statement[None]:
    """Store from now on what rows were before and after each change."""
    return Statement(
        """SELECT provenance.capture_table(
               %(table)s::regclass, excluded => %(excluded)s::text[], masked => %(masked)s::text[],
               kept => %(kept)s::text[], max_bytes => %(max_bytes)s, suspicious => %(suspicious)s)""",
        {
            "table": table,
            "excluded": list(excluded),
            "masked": list(masked),
            "kept": list(kept),
            "max_bytes": max_bytes,
            "suspicious": suspicious,
        },
        nothing,
    )


def release(table: str) -> Statement[None]:
    """Stop capturing."""
    return Statement("SELECT provenance.release_table(%(table)s::regclass)", {"table": table}, nothing)


def _count(rows: Rows) -> int:
    return int(rows[0][0])


def adopt(table: str) -> Statement[int]:
    """Store the rows that have been there since before the table was captured; answers how many."""
    return Statement("SELECT provenance.adopt_table(%(table)s::regclass)", {"table": table}, _count)
