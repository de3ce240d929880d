"""Months that have left as Iceberg tables, too: of the same files, with the catalog in the same Postgres.

It needs the extra ``iceberg``. Rows are neither read nor written: what is in which file is taken from the files' own
statistics, by which readers leave out those that cannot hold what they look for.
"""

# PyIceberg has types, of which many are not known.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from psycopg import conninfo

from provenance import drivers
from provenance.archive import files
from provenance.archive.columns import TABLES, Table
from provenance.archive.files import Manifest, Month
from provenance.archive.ledger import NOTES, told_of
from provenance.archive.steps import hold_still
from provenance.errors import NotConfigured
from provenance.statements import Statement, nothing
from provenance.translation import translated

SCHEMA = "provenance_iceberg"
"""Where PyIceberg keeps its catalog, in the database of the trail."""

_CATALOG = "provenance"
_SCHEMA = Statement(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}", None, nothing)

# Which editions are in a table, and by which action they were written, stands in its properties.
_EDITION = "provenance.edition."
_ROOT = "provenance.root"
_PART = re.compile(r"/month=(\d{4}-\d{2})/part-(\d+)\.parquet$")


@attrs.frozen(kw_only=True)
class Published:
    """An Iceberg table, and what became of it."""

    table: str
    """As it is called in the catalog."""
    rows: int
    added: int
    """How many editions of months have come to it."""
    removed: int
    """How many have gone: their months have come back, or were written again."""


def publish(connection: drivers.SyncConnection, address: str, root: Path) -> list[Published]:
    """Make the Iceberg tables ``provenance.actions`` and ``provenance.row_changes`` what has left the database.

    Run again, it adds what has left since, and takes out what has come back. Nothing leaves, comes back or is erased
    meanwhile.

    Args:
        connection: of the owner of the schema; with no transaction open.
        address: of the same database, for the catalog.
        root: the directory of the archive; the files of the tables are below it.

    Raises:
        NotConfigured: the extra is not installed.
        ArchiveBusy: somebody is moving or erasing rows.
        ArchiveError: a manifest cannot be read.
        SchemaNotReady: this role may not.
    """
    root = root.absolute()
    with translated("publishing an archive", rights="owner"):
        drivers.run(connection, _SCHEMA)
        with connection.transaction():
            hold_still(connection)
            away = {one.told for one in drivers.run(connection, NOTES) if one.away}
            there = [(month, files.manifest_there(month, root)) for month in files.contents(root)]
            wanted = [(month, manifest) for month, manifest in there if told_of(month, manifest) in away]
            catalog = _catalog(address, root)
            try:
                return [
                    _published(catalog, table, root, [one for one in wanted if one[0].table is table])
                    for table in TABLES.values()
                ]
            finally:
                catalog.close()


def _catalog(address: str, root: Path) -> Any:
    try:
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415 - only with the extra
        from sqlalchemy import URL  # noqa: PLC0415 - only with the extra
    except ImportError as error:
        raise NotConfigured(
            "what publishes archives is not installed; run: pip install 'provenance-trail[iceberg]'"
        ) from error
    parts = {key: str(value) for key, value in conninfo.conninfo_to_dict(address).items()}
    url = URL.create(
        "postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        database=parts.pop("dbname", None),
        query=parts | {"options": f"{parts.get('options', '')} -csearch_path={SCHEMA}".strip()},
    )
    catalog = SqlCatalog(_CATALOG, uri=url.render_as_string(hide_password=False), warehouse=f"{root.as_uri()}/iceberg")
    catalog.create_namespace_if_not_exists(_CATALOG)
    return catalog


def _published(catalog: Any, table: Table, root: Path, wanted: Iterable[tuple[Month, Manifest]]) -> Published:
    from provenance.archive import parquet  # noqa: PLC0415 - only with the extra

    published = catalog.create_table_if_not_exists(
        f"{_CATALOG}.{table.name}", schema=parquet.schema_of((*table.columns, *table.added))
    )
    said = published.properties
    editions = {_name(month): (manifest, month) for month, manifest in wanted}
    old = {key.removeprefix(_EDITION): value for key, value in said.items() if key.startswith(_EDITION)}
    moved = said.get(_ROOT, str(root)) != str(root)
    kept = {
        name
        for name, action in old.items()
        if not moved and name in editions and str(editions[name][0].action_id) == action
    }
    gone = old.keys() - kept
    new = {name: one for name, one in editions.items() if name not in kept}
    added = [str(root / file.path) for manifest, _ in new.values() for file in manifest.files]
    if gone or new:
        with published.transaction() as transaction:
            if gone:
                with transaction.update_snapshot().overwrite() as removing:
                    for task in published.scan().plan_files():
                        if _edition_of(task.file.file_path) in gone:
                            removing.delete_data_file(task.file)
                transaction.remove_properties(*(f"{_EDITION}{name}" for name in gone))
            if added:
                transaction.add_files(added, check_duplicate_files=False)
            transaction.set_properties(
                {_ROOT: str(root), **{f"{_EDITION}{name}": str(one.action_id) for name, (one, _) in new.items()}}
            )
    rows = sum(manifest.rows for manifest, _ in editions.values())
    return Published(table=f"{_CATALOG}.{table.name}", rows=rows, added=len(new), removed=len(gone))


def _name(month: Month) -> str:
    return f"{month.first:%Y-%m}-{month.edition}"


def _edition_of(path: str) -> str | None:
    found = _PART.search(path)
    return None if found is None else f"{found[1]}-{found[2]}"
