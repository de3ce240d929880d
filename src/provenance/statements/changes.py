"""The statements that read row changes.

Rows are stored as the text of a composite value, and what changed is worked out here: see :mod:`provenance.statements.rows`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import LiteralString
from uuid import UUID

import attrs

from provenance import ids
from provenance.errors import InvalidAction
from provenance.models import (
    Action,
    Blame,
    ChangePage,
    Ending,
    Operation,
    RowBlame,
    RowChange,
    RowValues,
    TableCoverage,
    TableRow,
)
from provenance.statements import Row, Rows, Statement, reading
from provenance.statements.rows import Key, key_parts, shape_of

_COLUMNS: LiteralString = (
    "r.table_id, r.seq, r.ordinal, c.table_name, r.operation, r.row_key, r.old_key, r.old_row, r.new_row, "
    "r.masked_changes, r.action_id, r.tenant_id, r.recorded_at, r.db_user, r.xid::text, s.fields"
)
_WIDTH = len(_COLUMNS.split(", "))

_MEANING: LiteralString = """LEFT JOIN provenance.captured_tables c ON c.id = r.table_id
              LEFT JOIN provenance.row_shapes s ON s.id = r.shape_id"""

# The first row of a statement is stored even if nothing in it changed.
_CHANGED: LiteralString = "(r.old_row IS DISTINCT FROM r.new_row OR r.masked_changes IS NOT NULL)"

# The captures of a table; asking for them is what refuses a table that has none. Everything else is joined to them from the
# left: they must be asked for whatever plan the server makes, so there may be a row without a change in the answer.
_WANTED: LiteralString = """wanted AS MATERIALIZED (
    SELECT c.ids, provenance.key_texts(c.ids, to_regclass(%(table)s), %(key)s::text[]) COLLATE "C" AS keys
      FROM (SELECT provenance.captures_of(to_regclass(%(table)s), %(table)s) AS ids OFFSET 0) c)"""
# Where in them the changes of a row are found.
_OF_ROW: LiteralString = """r.row_slot = ANY (ARRAY(
                           SELECT provenance.row_slot(t, k) FROM unnest({of}.ids) t, unnest({of}.keys) k))
                       AND r.row_key = ANY ({of}.keys)"""
_OF_WANTED: LiteralString = _OF_ROW.replace("{of}", "wanted")
_OF_LIFE: LiteralString = _OF_ROW.replace("{of}", "life")

_MISSING_UNTIL: LiteralString = (
    "(SELECT max(provenance.changes_missing_until(i)) FROM wanted CROSS JOIN unnest(wanted.ids) i)"
)


_shape = cache(shape_of)


def _change(row: Row) -> RowChange:
    (
        table_id,
        seq,
        ordinal,
        table,
        operation,
        key,
        old_key,
        old_row,
        new_row,
        masked_changes,
        action_id,
        tenant_id,
        recorded_at,
        db_user,
        xid,
        fields,
    ) = row
    shape = _shape(fields)
    old, new = shape.texts(old_row), shape.texts(new_row)
    return RowChange(
        id=f"{table_id}.{seq}.{ordinal}",
        table=table,
        operation=Operation(operation),
        key=key,
        old_key=old_key,
        old=shape.values(old),
        new=shape.values(new),
        changed=shape.changed(old, new, masked_changes or ()),
        action_id=action_id,
        tenant_id=tenant_id,
        recorded_at=recorded_at.astimezone(UTC),
        db_user=db_user,
        xid=int(xid),
    )


def _found(rows: Rows) -> list[Row]:
    """Return the rows that hold a change."""
    return [row for row in rows if row[0] is not None]


def _page(rows: Rows, limit: int) -> ChangePage:
    items = tuple(_change(row) for row in _found(rows)[:limit])
    return ChangePage(items=items, next=items[-1].id if len(rows) > limit else None)


def _missing_until(rows: Rows) -> datetime | None:
    """Return until when changes of a row may have left, which is the last column of each."""
    until: datetime | None = rows[0][-1]
    return until and until.astimezone(UTC)


def _history(rows: Rows, limit: int) -> ChangePage:
    return attrs.evolve(_page([row[:-1] for row in rows], limit), incomplete_until=_missing_until(rows))


def _cursor(given: str | None, what: str) -> tuple[int | None, int | None, int | None]:
    if given is None:
        return None, None, None
    parts = given.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidAction(f"{what}: expected the next of a page of changes")
    table_id, seq, ordinal = map(int, parts)
    return table_id, seq, ordinal


def history(table: str, key: Key, *, before: str | None, limit: int) -> Statement[ChangePage]:
    """What was done to the rows that had this key, newest first."""
    limit = reading.checked_limit(limit)
    table_id, seq, ordinal = _cursor(before, "before")
    older: LiteralString = """(%(table_id)s::integer IS NULL
                   OR (r.table_id, r.seq, r.ordinal) < (%(table_id)s::integer, %(seq)s::bigint, %(ordinal)s::integer))"""
    return Statement(
        f"""WITH {_WANTED}
            SELECT {_COLUMNS}, {_MISSING_UNTIL}
              FROM wanted LEFT JOIN LATERAL (
                   SELECT r.* FROM provenance.row_changes r WHERE {_OF_WANTED} AND {_CHANGED} AND {older}
                   UNION ALL
                   SELECT r.* FROM provenance.row_changes r
                    WHERE r.table_id = ANY (wanted.ids) AND r.old_key = ANY (wanted.keys) AND {older}
                    ORDER BY table_id DESC, seq DESC, ordinal DESC LIMIT %(limit)s) r ON true
              {_MEANING}
             ORDER BY r.table_id DESC, r.seq DESC, r.ordinal DESC""",
        {
            "table": table,
            "key": key_parts(key),
            "table_id": table_id,
            "seq": seq,
            "ordinal": ordinal,
            "limit": limit + 1,
        },
        lambda rows: _history(rows, limit),
    )


def of_action(action_id: UUID, *, descendants: bool, after: str | None, limit: int) -> Statement[ChangePage]:
    """What an action changed, and what it caused did, oldest first.

    The first row of each statement tells in what span of numbers and time to look; there its other rows lie together.
    """
    limit = reading.checked_limit(limit)
    table_id, seq, ordinal = _cursor(after, "after")
    return Statement(
        f"""WITH RECURSIVE {reading.DOWN},
            span AS (
                SELECT d.id AS action_id, min(f.seq) AS first, max(f.seq) AS last,
                       min(f.recorded_at) AS since, max(f.recorded_at) AS until
                  FROM (SELECT DISTINCT id FROM down) d CROSS JOIN LATERAL (
                       SELECT r.seq, r.recorded_at FROM provenance.row_changes r
                        WHERE r.action_id = d.id AND r.ordinal = 1 OFFSET 0) f
                 GROUP BY d.id, f.seq = 0)
            SELECT {_COLUMNS}
              FROM span CROSS JOIN LATERAL (
                   SELECT i.* FROM provenance.row_changes i
                    WHERE i.action_id = span.action_id AND i.seq BETWEEN span.first AND span.last
                      AND i.recorded_at BETWEEN span.since AND span.until OFFSET 0) r
              {_MEANING}
             WHERE {_CHANGED}
               AND (%(seq)s::bigint IS NULL
                    OR (r.seq, r.table_id, r.ordinal) > (%(seq)s::bigint, %(table_id)s::integer, %(ordinal)s::integer))
             ORDER BY r.seq, r.table_id, r.ordinal LIMIT %(limit)s""",
        {
            "id": ids.as_action_id(action_id, "action_id"),
            "depth": reading.MAX_DEPTH if descendants else 0,
            "table_id": table_id,
            "seq": seq,
            "ordinal": ordinal,
            "limit": limit + 1,
        },
        lambda rows: _page(rows, limit),
    )


def _of_the_row(rows: Rows) -> list[Row]:
    """Return the rows that hold a change, newest first; that in which the key was left only where nothing came later.

    In one statement a row may get the key that another one leaves.
    """
    found = [row[:-1] for row in _found(rows)]
    kept = [row for row in found if not row[-1]]
    left = [row for row in found if row[-1] and (not kept or row[:2] > kept[0][:2])]
    return left + kept


def _blamed(rows: Rows) -> RowBlame:
    """Read the changes of a row from the newest back, and note the first that set each column.

    A column that no change set is as the oldest change found it.
    """
    found: dict[str, Blame] = {}
    values: RowValues | None = None
    ended: Ending | None = None
    for number, row in enumerate(_of_the_row(rows)):
        change = _change(row[:_WIDTH])
        action: Action | None = reading.decode_action(row[_WIDTH:-1]) if row[_WIDTH] is not None else None
        if change.new is None or row[-1]:
            # What the row was when it went: below is who had set it so.
            values = change.old if values is None else values
            ended = Ending(change=change, action=action) if number == 0 else ended
            continue
        values = change.new if values is None else values
        for column in change.changed:
            if column in values and column not in found:
                found[column] = Blame(column=column, value=values[column], change=change, action=action)
    columns = tuple(
        found.get(column, Blame(column=column, value=value, change=None, action=None))
        for column, value in (values or {}).items()
    )
    return RowBlame(columns=columns, ended=ended, incomplete_until=_missing_until(rows))


def blame(table: str, key: Key) -> Statement[RowBlame]:
    """Who last set each column of the row that has this key, or had it last, also under earlier keys of the same row.

    Each step goes from the statement in which the row got its key back to the one in which it got the key before that.
    """
    origin: LiteralString = """SELECT r.table_id, r.seq, r.old_key FROM provenance.row_changes r
                        WHERE {of_row} AND (r.operation = 'insert' OR r.old_key IS NOT NULL){earlier}
                        ORDER BY r.table_id DESC, r.seq DESC LIMIT 1"""
    first = origin.replace("{of_row}", _OF_WANTED).replace("{earlier}", "")
    earlier = origin.replace("{of_row}", _OF_ROW.replace("{of}", "before")).replace(
        "{earlier}", " AND (r.table_id, r.seq) < (life.from_table, life.from_seq)"
    )
    return Statement(
        f"""WITH RECURSIVE {_WANTED}, life (ids, keys, until_table, until_seq, from_table, from_seq, old_key) AS (
                SELECT wanted.ids, wanted.keys, 2147483647, 9223372036854775807::bigint, origin.*
                  FROM wanted LEFT JOIN LATERAL ({first}) origin ON true
                UNION ALL
                SELECT life.ids, before.keys, life.from_table, life.from_seq, origin.*
                  FROM life CROSS JOIN LATERAL (SELECT life.ids, ARRAY[life.old_key] AS keys) before
                  LEFT JOIN LATERAL ({earlier}) origin ON true
                 WHERE life.old_key IS NOT NULL)
            SELECT {_COLUMNS}, {reading.COLUMNS}, r.is_left,
                   {_MISSING_UNTIL}
              FROM life LEFT JOIN LATERAL (
                   SELECT r.*, false AS is_left FROM provenance.row_changes r
                    WHERE {_OF_LIFE} AND (r.table_id, r.seq) < (life.until_table, life.until_seq)
                      AND (life.from_seq IS NULL OR (r.table_id, r.seq) >= (life.from_table, life.from_seq))
                   UNION ALL
                   (SELECT r.*, true FROM provenance.row_changes r
                     WHERE life.until_table = 2147483647 AND r.table_id = ANY (life.ids) AND r.old_key = ANY (life.keys)
                     ORDER BY r.table_id DESC, r.seq DESC LIMIT 1)
                   OFFSET 0) r ON true
              {_MEANING}
              LEFT JOIN LATERAL (
                   SELECT l.* FROM provenance.action_log l WHERE l.id = r.action_id OFFSET 0) a ON true
             ORDER BY r.table_id DESC, r.seq DESC, r.ordinal DESC""",
        {"table": table, "key": key_parts(key)},
        _blamed,
    )


def _moment(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise InvalidAction("at: expected a datetime with a time zone, such as datetime.now(UTC)")
    return at


def _rows(rows: Rows) -> list[TableRow]:
    found: list[TableRow] = []
    for key, fields, text in rows:
        shape = _shape(fields)
        values = shape.values(shape.texts(text))
        assert values is not None  # noqa: S101 - rows that were not there are left out by the statement
        found.append(TableRow(key=key, values=values))
    return found


def as_of(table: str, key: Key, at: datetime) -> Statement[RowValues | None]:
    """A row as it was, or ``None`` when there was none with this key."""

    def one(rows: Rows) -> RowValues | None:
        return next((row.values for row in _rows(rows)), None)

    # The newest form of the key comes first.
    query: LiteralString = f"""WITH {_WANTED}
        SELECT f.* FROM wanted
         CROSS JOIN LATERAL provenance.rows_as_of(to_regclass(%(table)s), %(table)s, %(at)s, wanted.keys) f
         ORDER BY array_position(wanted.keys, f.row_key COLLATE "C")"""
    return Statement(query, {"table": table, "at": _moment(at), "key": key_parts(key)}, one)


def table_as_of(table: str, at: datetime) -> Statement[list[TableRow]]:
    """All rows of a table as they were."""
    return Statement(
        """SELECT row_key, fields, row_text FROM provenance.rows_as_of(to_regclass(%(table)s), %(table)s, %(at)s)
            ORDER BY row_key""",
        {"table": table, "at": _moment(at)},
        _rows,
    )


def _coverage(rows: Rows) -> list[TableCoverage]:
    return [
        TableCoverage(
            table=table,
            stamped=stamped,
            strict=strict,
            captured=captured,
            rows=row_count,
            untracked_rows=untracked,
            last_untracked_at=at.astimezone(UTC) if at else None,
            last_untracked_by=by,
            gaps=tuple(gaps),
        )
        for table, stamped, strict, captured, row_count, untracked, at, by, gaps in rows
    ]


COVERAGE = Statement(
    """SELECT table_name, is_stamped, is_strict, is_captured, row_count, untracked_rows, last_untracked_at,
              last_untracked_by, gaps FROM provenance.coverage()""",
    None,
    _coverage,
)
