"""What a row of the trail is in an archive: its columns, the digest of its values, and what is added for those who read it.

The digest is the same whoever makes it, the server of the rows in the table or we of the rows in a file, and in whatever
order they come: a sum. So it says whether a file holds what the table held.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, LiteralString

import attrs
from psycopg import sql

from provenance.statements import Rows, Statement, retention
from provenance.statements.rows import shape_of

Values = Sequence[Any]
"""The values of a row, in the order of its columns: text, int, float or ``None``."""


class Kind(Enum):
    """How a column is stored."""

    TEXT = "text"
    """As Postgres prints it: UUIDs and JSON too, which not every reader of Parquet knows."""
    INTEGER = "integer"
    FLOAT = "float"
    MOMENT = "moment"
    """Microseconds since 1970, in UTC."""


@attrs.frozen
class Column:
    """A column of a table of the trail."""

    name: LiteralString
    kind: Kind = Kind.TEXT

    @property
    def selected(self) -> LiteralString:
        """Its value, in SQL."""
        if self.kind is Kind.MOMENT:
            return f"(extract(epoch FROM t.{self.name}) * 1000000)::bigint"
        if self.kind is Kind.FLOAT:
            return f"t.{self.name}"
        # Not every type that is stored as a number can be cast to one.
        return f"t.{self.name}::text" if self.kind is Kind.TEXT else f"t.{self.name}::text::bigint"

    @property
    def digested(self) -> LiteralString:
        """What of it goes into the digest, in SQL: text, or null."""
        if self.kind is Kind.FLOAT:
            # What is no number is so in many ways, which do not survive being read.
            return f"CASE WHEN t.{self.name} = 'NaN' THEN 'nan' ELSE encode(float8send(t.{self.name}), 'hex') END"
        return f"({self.selected})::text"

    def text(self, value: Any) -> str | None:
        """Return the same of a value."""
        if value is None:
            return None
        if self.kind is not Kind.FLOAT:
            return str(value)
        return "nan" if math.isnan(value) else struct.pack(">d", value).hex()

    def copied(self, value: Any) -> Any:
        """Return a value for ``COPY`` to put back."""
        return _EPOCH + timedelta(microseconds=value) if self.kind is Kind.MOMENT and value is not None else value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _columns(text: LiteralString, **kinds: Kind) -> tuple[Column, ...]:
    return tuple(Column(name, kinds.get(name, Kind.TEXT)) for name in text.split())


@attrs.frozen
class Table:
    """A table of the trail, as it is archived."""

    name: LiteralString
    columns: tuple[Column, ...]
    added: tuple[Column, ...] = ()
    """What is worked out for those who read the archive."""
    joined: LiteralString = ""
    """What that is worked out from, in SQL."""
    sources: tuple[LiteralString, ...] = ()
    add: Callable[[Values, Values], Values] = lambda _values, _sources: ()
    """Works it out, from the values of a row and those of the sources."""


def _texts(values: Values, sources: Values) -> Values:
    """Take rows apart: names of columns and the texts of their values; a masked one is missing."""
    table_name, fields = sources
    *_, old_row, new_row, _masked_changes, _tenant_id, _db_user = values
    if fields is None:
        return (table_name, None, None)
    shape = _shape(fields)
    return (table_name, *(None if row is None else json.dumps(shape.texts(row)) for row in (old_row, new_row)))


_shape = cache(shape_of)

TABLES = {
    table.name: table
    for table in (
        Table(
            "actions",
            _columns(
                "id root_id parent_action_id action_type concept status tenant_id user_id request_id correlation_id "
                "entity_type entity_id payload result metadata error_type error_code error_message started_at completed_at "
                "duration_ms recorded_at xid db_user erased_by_action_id",
                started_at=Kind.MOMENT,
                completed_at=Kind.MOMENT,
                recorded_at=Kind.MOMENT,
                duration_ms=Kind.FLOAT,
                xid=Kind.INTEGER,
            ),
        ),
        Table(
            "row_changes",
            _columns(
                "seq recorded_at row_slot ordinal table_id shape_id action_id xid operation row_key old_key old_row new_row "
                "masked_changes tenant_id db_user",
                recorded_at=Kind.MOMENT,
                **dict.fromkeys(("seq", "row_slot", "ordinal", "table_id", "shape_id", "xid"), Kind.INTEGER),
            ),
            added=_columns("table_name old new"),
            joined="LEFT JOIN provenance.captured_tables c ON c.id = t.table_id "
            "LEFT JOIN provenance.row_shapes s ON s.id = t.shape_id",
            sources=("c.table_name", "s.fields"),
            add=_texts,
        ),
    )
}
"""What is archived, by name."""

BUCKET: LiteralString = "left(md5(t.tenant_id), 1)"
"""Which part of a month a row is in, in SQL: the first digit of the MD5 of its tenant."""


def bucket_of(tenant_id: str) -> str:
    """Return the same of a tenant."""
    return hashlib.md5(tenant_id.encode(), usedforsecurity=False).hexdigest()[0]


# The beginning of a SHA-256 that a positive bigint can hold: it is to find mistakes, not forgers.
_DIGITS: LiteralString = "15"
_BITS: LiteralString = "60"


def row_digest(columns: Sequence[Column], values: Values) -> int:
    """Return the digest of a row."""
    texts = (column.text(value) for column, value in zip(columns, values, strict=True))
    told = "".join("-" if text is None else f"{len(text)}:{text}" for text in texts)
    return int(hashlib.sha256(told.encode()).hexdigest()[: int(_DIGITS)], 16)


def _digest_sql(table: Table) -> LiteralString:
    told: LiteralString = " || ".join(
        f"COALESCE(length({column.digested}) || ':' || {column.digested}, '-')" for column in table.columns
    )
    return f"('x' || left(encode(sha256(convert_to({told}, 'UTF8')), 'hex'), {_DIGITS}))::bit({_BITS})::bigint"


@attrs.frozen
class Summary:
    """How many rows there are, and the sum of their digests."""

    rows: int = 0
    digest: int = 0

    def __add__(self, other: Summary) -> Summary:
        return Summary(self.rows + other.rows, self.digest + other.digest)


def _summaries(rows: Rows) -> dict[str, Summary]:
    return {bucket: Summary(count, int(digest)) for bucket, count, digest in rows}


def _summarizing(table: Table) -> LiteralString:
    return f"SELECT {BUCKET}, count(*), sum({_digest_sql(table)}) FROM "  # noqa: S608 - names of columns


def summarized(table: Table, partition: str, chosen: LiteralString = "") -> Statement[dict[str, Summary]]:
    """Summarize the rows of a partition, by bucket: all, or those that *chosen* joins."""
    query: LiteralString = f"{_summarizing(table)} ONLY provenance.{{}} t {chosen} GROUP BY 1 ORDER BY 1"
    return Statement(sql.SQL(query).format(sql.Identifier(partition)), None, _summaries)


def taken_out(table: Table, partition: str, outcome: str) -> Statement[dict[str, Summary]]:
    """Take out the chosen rows of an outcome, and summarize those that went."""
    return Statement(
        retention.taken_out(partition, outcome, f"{_summarizing(table)} gone t GROUP BY 1"), None, _summaries
    )


def selected(table: Table, partition: str, bucket: str, chosen: LiteralString = "") -> sql.Composed:
    """Return the query for the rows of a partition in a bucket: their columns, and what else is known of them."""
    wanted: LiteralString = ", ".join([*(column.selected for column in table.columns), *table.sources])
    query: LiteralString = f"SELECT {wanted} FROM ONLY provenance.{{}} t {chosen} {table.joined} WHERE {BUCKET} = {{}}"  # noqa: S608
    return sql.SQL(query).format(sql.Identifier(partition), sql.Literal(bucket))


def completed(table: Table, rows: Iterable[Values]) -> list[Values]:
    """Return rows as they are in a file: without the sources, and with what is worked out from them."""
    width = len(table.columns)
    return [(*row[:width], *table.add(row[:width], row[width:])) for row in rows]
