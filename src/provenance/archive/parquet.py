"""Rows as Parquet files."""

# pyarrow comes without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from provenance.archive.columns import Column, Kind, Values
from provenance.errors import ArchiveError, NotConfigured

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise NotConfigured(
        "what reads and writes archives is not installed; run: pip install 'provenance-trail[archive]'"
    ) from error

# What is held in memory at a time.
_GROUP_ROWS = 20_000
_GROUP_BYTES = 16 * 1024**2
_READ_ROWS = 2_000

_ARROW = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.MOMENT: pa.timestamp("us", tz="UTC"),
}


def _size(values: Values) -> int:
    return sum(len(value) for value in values if isinstance(value, str))


def _groups(rows: Iterable[Values]) -> Iterator[list[Values]]:
    """Yield rows in groups that memory can hold."""
    group: list[Values] = []
    size = 0
    for values in rows:
        group.append(values)
        size += _size(values)
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """Return what a file of such columns consists of."""
    return pa.schema([(column.name, _ARROW[column.kind]) for column in columns])


def write(path: Path, columns: Iterable[Column], rows: Iterable[Values]) -> None:
    """Write a file, a group of rows at a time."""
    schema = schema_of(columns)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(rows):
            arrays = [
                _array(values, field.type) for field, values in zip(schema, zip(*group, strict=True), strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _array(values: Iterable[Any], kind: Any) -> Any:
    return pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)


def read(path: Path, columns: Iterable[Column]) -> Iterator[Values]:
    """Yield the values of columns, a few rows at a time in memory.

    Raises:
        ArchiveError: the file is not there, or cannot be read.
    """
    names = [column.name for column in columns]
    try:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=names):
                yield from zip(*(_plain(column) for column in batch.columns), strict=True)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{path} cannot be read ({type(error).__name__}); restore the file from a backup") from error


def _plain(column: Any) -> list[Any]:
    values: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return values


def count(path: Path) -> int:
    """Return how many rows a file says it has."""
    return int(pq.read_metadata(path).num_rows)
