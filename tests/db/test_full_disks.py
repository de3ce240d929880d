"""The disk of the database is full, and has room again: nothing is lost, nothing contradicts the work."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool

from provenance import schema
from provenance.errors import ProvenanceError
from provenance.models import Recovery
from provenance.trail import Trail
from tests.support import outages
from tests.support.cluster import Cluster, until
from tests.support.outages import settled

hurried = outages.hurried
pytestmark = [
    pytest.mark.usefixtures("hurried"),
    pytest.mark.direct("the server is the test's own"),
]


class Boom(Exception):
    """What a body raises."""


class Disk:
    """A small file system that can be filled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as ballast, suppress(OSError):
            while ballast.write(b"\0" * 4096):
                pass

    def make_room(self) -> None:
        """Take away what it was filled with."""
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A file system of 48 MB, at a place that whoever the server runs as can reach."""
    place = Path("/tmp", f"provenance-disk-{uuid4().hex[:8]}")  # noqa: S108 - made here, and by nobody else
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place], check=False)
        if mounted.returncode:
            pytest.skip("file systems may not be mounted here, so none can be filled")
        yield Disk(place)
        subprocess.run(["umount", "--lazy", place], check=True)
    finally:
        place.rmdir()


class Application:
    """What works all the time, and remembers what it was told."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self.begun: list[UUID] = []
        self.done: list[UUID] = []
        self.refused = 0
        """Actions that were refused before their body ran."""

    def act(self) -> None:
        """Succeed and fail in a transaction, and succeed outside of one."""
        self._once(fails=False)
        self._once(fails=True)
        self._once(fails=False, transaction=False)

    def _once(self, *, fails: bool, transaction: bool = True) -> None:
        mine: list[UUID] = []
        kind = "act" if transaction else "send"
        try:
            with self._trail.track_action(
                kind, concept="work", payload={"text": "x" * 3_000}, transaction=transaction
            ) as action:
                mine.append(action.id)
                if transaction:
                    action.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (action.id, "y" * 3_000))
                if fails:
                    raise Boom  # noqa: TRY301 - it stands for what a body raises
            self.done += mine
        except (Boom, psycopg.Error, ProvenanceError):
            self.refused += not mine
        self.begun += mine

    def judge(self, eye: psycopg.Connection[Any]) -> Counter[str]:
        """Compare what there is with what was told; return how many actions came to which end."""
        found = eye.execute(
            """SELECT a.id, a.action_type, a.status, (SELECT count(*) FROM ledger l WHERE l.action_id = a.id)
                 FROM provenance.action_log a"""
        ).fetchall()
        assert Counter(self.begun) == Counter(row[0] for row in found)
        assert set(self.done) <= {action_id for action_id, _, status, _ in found if status == "completed"}
        acts = {(status, work) for _, kind, status, work in found if kind == "act"}
        assert acts <= {("completed", 1), ("failed", 0), ("rolled_back", 0)}
        return Counter(str(row[2]) for row in found)


# Bytes that the files of the write-ahead log have left.
_LEFT = """
SELECT count(*) FILTER (WHERE name > pg_walfile_name(pg_current_wal_insert_lsn())) * each
       + each - mod(pg_current_wal_insert_lsn() - '0/0', each) AS room
  FROM pg_ls_waldir() CROSS JOIN (SELECT pg_size_bytes(current_setting('wal_segment_size'))) AS files (each)
 WHERE name ~ '^[0-9A-F]{24}$' GROUP BY each"""


def use_up(owner: psycopg.Connection[Any], reserve: int) -> None:
    """Write to the log until so many bytes are left."""
    while (found := owner.execute(_LEFT).fetchone()) and (more := min(int(found[0]) - reserve, 1_000_000)) > 0:
        owner.execute("SELECT pg_logical_emit_message(false, 'ballast', repeat('x', %s))", (more,))


def install(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection)
        connection.execute("CREATE TABLE ledger (action_id uuid NOT NULL, text text NOT NULL)")


def test_the_disk_of_the_trail_is_full(disk: Disk, tmp_path: Path) -> None:
    """What cannot be completed is undone and fails; that it failed is kept, and written when there is room."""
    with Cluster() as cluster, cluster.connect() as owner:
        shutil.chown(disk.place, cluster.user)
        home = disk.place / "data"
        home.mkdir()
        shutil.chown(home, cluster.user)
        owner.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(home))))
        owner.execute("CREATE DATABASE app")
        address = make_conninfo(cluster.conninfo, dbname="app")
        owner.execute("ALTER DATABASE app SET default_tablespace = small")
        install(address)
        with psycopg.connect(address, autocommit=True) as eye, Trail(address, spool=tmp_path / "spool") as trail:
            eye.execute("ALTER TABLE ledger SET TABLESPACE pg_default")
            application = Application(trail)
            application.act()
            disk.fill()
            until(lambda: application.act() or trail.health().kept >= 10, "the disk to be full")
            disk.make_room()
            settled(trail, patience=60)
            application.act()
            ends = application.judge(eye)
            assert trail.health().lost == trail.health().refused == 0
    assert ends["completed"] >= 4
    assert ends["failed"] >= 10


def test_the_disk_of_the_write_ahead_log_is_full(disk: Disk, tmp_path: Path) -> None:
    """The server goes down in the middle of a COMMIT and cannot start; when it can, all is found out."""
    cluster = Cluster()
    shutil.move(cluster.home / "pg_wal", disk.place / "wal")
    subprocess.run(["chown", "-R", f"{cluster.user or os.geteuid()}:", disk.place], check=True)
    (cluster.home / "pg_wal").symlink_to(disk.place / "wal")
    spool = tmp_path / "spool"
    with cluster:
        install(cluster.conninfo)
        with (
            ConnectionPool(cluster.conninfo, timeout=1.0, open=True) as pool,
            Trail(pool, spool=spool, durability="intent") as trail,
        ):
            application = Application(trail)
            application.act()
            disk.fill()
            with cluster.connect() as owner:
                use_up(owner, 500_000)
            until(lambda: application.act() or not cluster.runs, "the server to go down")
            with pytest.raises(RuntimeError, match="No space left on device"):
                cluster.start()
            application.act()
            disk.make_room()
            cluster.start()
            settled(trail, patience=60)
            until(lambda: trail.recover() == Recovery(), "everything to be found out")
            application.act()
            with cluster.connect() as eye:
                ends = application.judge(eye)
            assert trail.health().lost == trail.health().refused == 0
    assert min(ends["completed"], ends["failed"]) > 2
