"""``provenance upkeep``: how the trail fills its disk, and what it will take."""

from __future__ import annotations

import attrs
import click

from provenance.cli.database import recording
from provenance.cli.output import clean, columns, emit, emit_json, moment
from provenance.cli.parameters import json_option
from provenance.cli.partition import size
from provenance.cli.status import show_views
from provenance.models import Growth, IndexUse, TableUpkeep, Upkeep


@click.command(short_help="Say how the trail fills its disk.")
@json_option
@click.pass_obj
def upkeep(dsn: str | None, *, as_json: bool) -> None:
    """Say what the trail takes on disk, which of its indexes are used, how fresh the views are, and how it grows."""
    with recording(dsn) as trail:
        found = trail.upkeep()
    if as_json:
        emit_json(_fields(found))
        return
    emit(
        columns(
            ("TABLE", "MONTHS", "SINCE", "AHEAD", "ROWS", "SIZE", "INDEXES", "A MONTH", "IN A YEAR"),
            [_table(table) for table in found.tables],
        )
    )
    click.echo("")
    emit(columns(("INDEX", "TABLE", "SIZE", "USED", "LAST"), [_index(index) for index in found.indexes]))
    _caveat(found)
    show_views(list(found.views))


def _fields(found: Upkeep) -> dict[str, object]:
    document = attrs.asdict(found)
    for table in document["tables"]:
        table["oldest"] = table["oldest"] and f"{table['oldest']:%Y-%m}"
    for index, fields in zip(found.indexes, document["indexes"], strict=True):
        fields["unused"] = index.unused
    return document


def _table(table: TableUpkeep) -> tuple[str, ...]:
    return (
        table.table,
        f"{table.months}",
        "" if table.oldest is None else f"{table.oldest:%Y-%m}",
        "none" if table.ahead < 0 else f"{table.ahead}",
        _count(table.rows),
        size(table.bytes),
        size(table.index_bytes),
        "not known" if table.growth is None else _growth(table.growth),
        "not known" if table.bytes_in_a_year is None else size(table.bytes_in_a_year),
    )


def _count(rows: int | None) -> str:
    return "not counted" if rows is None else f"{rows:,}"


def _growth(grows: Growth) -> str:
    return size(grows.bytes) if grows.rows is None else f"{size(grows.bytes)}, {grows.rows:,} rows"


def _index(index: IndexUse) -> tuple[str, ...]:
    used = "keeps it unique" if index.unique and not index.scans else f"{index.scans:,} times"
    last = moment(index.used_at) if index.used_at else ""
    return clean(index.name), clean(index.table), size(index.bytes), "not yet" if index.unused else used, last


def _caveat(found: Upkeep) -> None:
    """Say what it means that an index is not used yet."""
    since = "it began, or lost its counts" if found.counted_since is None else moment(found.counted_since)
    click.echo(
        f"\nThis server counts since {since}. That it has not used an index yet is no reason to drop it:\n"
        "a standby counts by itself, and what is asked once a year, or of somebody who is to be erased, is asked then."
    )
