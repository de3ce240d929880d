"""Archives as Iceberg tables: they are what has left, and are so again after months have left or come back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from provenance import Trail, schema
from provenance.archive import archive_month, restore_month, retire_month
from provenance.archive import iceberg as publishing
from provenance.archive.iceberg import Published, publish
from provenance.errors import ArchiveBusy, NotConfigured, SchemaNotReady
from tests.support import databases, months, roles
from tests.support.months import first_of, insert

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

Connection = psycopg.Connection[Any]

MARCH, APRIL = date(2021, 3, 1), date(2021, 4, 1)


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, in autocommit mode: a March and an April long past, of four tenants."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        for number in (3, 4):
            for table in ("actions", "row_changes"):
                months.make(connection, table, first_of(2021, number))
            for day in range(1, 13):
                moment = datetime(2021, number, day, tzinfo=UTC)
                action_id = insert(connection, "actions", moment, tenant_id=f"t{day % 4}", action_type=f"a{day % 2}")
                insert(connection, "row_changes", moment, seq=day, action_id=action_id, tenant_id=f"t{day % 4}")
        yield connection
        connection.execute("DROP SCHEMA IF EXISTS provenance_iceberg CASCADE")


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """The owner's trail."""
    with Trail(provenance_dsn) as trail:
        yield trail


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the archive is to be: no path that needs no care."""
    return tmp_path / "an archive"


def counts(published: Published) -> tuple[int, int, int]:
    return published.rows, published.added, published.removed


def ids(connection: Connection) -> set[str]:
    """Return the ids of all actions but those of the trail itself."""
    return {row[0] for row in connection.execute("SELECT id::text FROM provenance.actions WHERE concept <> 'trail'")}


class Reader:
    """Somebody with PyIceberg, who knows the address of the database."""

    def __init__(self, dsn: str) -> None:
        parts = conninfo.conninfo_to_dict(dsn)
        options = f"host={parts['host']}&options=-csearch_path%3Dprovenance_iceberg"
        self.uri = f"postgresql+psycopg://{parts['user']}@/{parts['dbname']}?{options}"

    def rows(self, table: str, condition: str | None = None) -> tuple[int, list[dict[str, Any]]]:
        """Return how many files had to be read, and what is in them."""
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
        from pyiceberg.expressions import AlwaysTrue  # noqa: PLC0415

        catalog = SqlCatalog("provenance", uri=self.uri)
        try:
            scan = catalog.load_table(f"provenance.{table}").scan(row_filter=condition or AlwaysTrue())
            return len(list(scan.plan_files())), scan.to_arrow().to_pylist()
        finally:
            catalog.close()


def test_what_has_left_is_in_the_tables(owner: Connection, trail: Trail, root: Path, provenance_dsn: str) -> None:
    """All of it, and nothing else; whoever asks for one tenant, or some days, need not read all files."""
    everything = ids(owner)
    archive_month(trail, root, "row_changes", MARCH)
    archive_month(trail, root, "actions", MARCH)
    assert [
        Published(table="provenance.actions", rows=12, added=1, removed=0),
        Published(table="provenance.row_changes", rows=12, added=1, removed=0),
    ] == publish(owner, provenance_dsn, root)
    reader = Reader(provenance_dsn)
    files, rows = reader.rows("actions")
    assert everything - ids(owner) == {row["id"] for row in rows}
    assert (2, {"completed"}) == (files, {row["status"] for row in rows})
    assert {datetime(2021, 3, day, tzinfo=UTC) for day in range(1, 13)} == {row["started_at"] for row in rows}
    archive_month(trail, root, "actions", APRIL)
    assert [(24, 1, 0), (12, 0, 0)] == [counts(one) for one in publish(owner, provenance_dsn, root)]
    files, rows = reader.rows("actions", "tenant_id = 't1' and started_at < '2021-04-01T00:00:00+00:00'")
    assert (1, 3) == (files, len(rows))
    assert 12 == len(reader.rows("row_changes")[1])
    assert [(24, 0, 0), (12, 0, 0)] == [counts(one) for one in publish(owner, provenance_dsn, root)]
    restore_month(trail, root, "actions", APRIL)
    assert (12, 0, 1) == counts(publish(owner, provenance_dsn, root)[0])
    assert everything - ids(owner) == {row["id"] for row in reader.rows("actions")[1]}
    assert [] == schema.verify(owner)


def test_what_comes_back_is_not_in_the_tables(owner: Connection, trail: Trail, root: Path, provenance_dsn: str) -> None:
    """Nor what it was before it left again; what left by a policy is."""
    reader = Reader(provenance_dsn)
    archive_month(trail, root, "actions", MARCH)
    publish(owner, provenance_dsn, root)
    restore_month(trail, root, "actions", MARCH)
    assert [(0, 0, 1), (0, 0, 0)] == [counts(one) for one in publish(owner, provenance_dsn, root)]
    assert (0, []) == reader.rows("actions")
    trail.set_retention("some", keep=timedelta(days=9), action_type="a1", outcome="archive", reason="r")
    for table in ("row_changes", "actions"):
        retire_month(trail, table, MARCH, root=root)
    assert [(6, 1, 0), (6, 1, 0)] == [counts(one) for one in publish(owner, provenance_dsn, root)]
    assert {"a1"} == {row["action_type"] for row in reader.rows("actions")[1]}
    archive_month(trail, root, "actions", MARCH)
    assert (12, 1, 0) == counts(publish(owner, provenance_dsn, root)[0])
    # Another edition under the same name.
    restore_month(trail, root, "actions", MARCH)
    insert(owner, "actions", datetime(2021, 3, 30, tzinfo=UTC))
    archive_month(trail, root, "actions", MARCH)
    (actions, _) = publish(owner, provenance_dsn, root)
    assert (13, 1, 2) == (actions.rows, actions.added, actions.removed)
    assert 13 == len(reader.rows("actions")[1])


def test_an_archive_that_was_moved(owner: Connection, trail: Trail, root: Path, provenance_dsn: str) -> None:
    """Its files are looked for where they are now."""
    archive_month(trail, root, "actions", MARCH)
    publish(owner, provenance_dsn, root)
    elsewhere = root.with_name("elsewhere")
    shutil.copytree(root, elsewhere)
    assert (12, 1, 1) == counts(publish(owner, provenance_dsn, elsewhere)[0])
    shutil.rmtree(root / "actions")
    assert 12 == len(Reader(provenance_dsn).rows("actions")[1])


def test_nothing_leaves_meanwhile(owner: Connection, root: Path, provenance_dsn: str) -> None:
    """What is being written is not there yet."""
    with psycopg.connect(provenance_dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(31651020444888674)")
        with pytest.raises(ArchiveBusy, match="moved or erased by another session"):
            publish(owner, provenance_dsn, root)


def test_whoever_is_not_the_owner_publishes_nothing(owner: Connection, root: Path, provenance_dsn: str) -> None:
    """It says whose right it is."""
    with (
        roles.writer(provenance_dsn) as (_, dsn),
        psycopg.connect(dsn, autocommit=True) as connection,
        pytest.raises(SchemaNotReady, match="connect as the role that owns the schema provenance"),
    ):
        publish(connection, dsn, root)


def test_without_the_extra(owner: Connection, root: Path, provenance_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which one is missing."""
    monkeypatch.setitem(sys.modules, "pyiceberg.catalog.sql", None)
    with pytest.raises(NotConfigured, match=r"pip install 'provenance-trail\[iceberg\]'"):
        publish(owner, provenance_dsn, root)


def test_files_of_somebody_else_stay(owner: Connection) -> None:
    """In a table of ours only those go that are named as ours."""
    assert publishing._edition_of("file:///a/actions/tenant_hash=0/month=2021-03/part-12.parquet") == "2021-03-12"
    assert publishing._edition_of("file:///a/other.parquet") is None
