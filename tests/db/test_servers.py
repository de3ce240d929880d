"""The server becomes a standby, as in a failover that the application has not followed yet, or freezes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from provenance import schema
from provenance.errors import TrailUnavailable
from tests.support import outages
from tests.support.cluster import Cluster
from tests.support.colours import Awaiting, Blocking, done
from tests.support.outages import until

hurried = outages.hurried
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("hurried"), pytest.mark.direct("the server is the test's own")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server with a trail."""
    with Cluster() as made:
        with made.connect() as owner:
            schema.up(owner)
            owner.execute("CREATE TABLE work (id integer)")
        yield made


@pytest.fixture
def standby(cluster: Cluster) -> Cluster:
    """It has become a standby."""
    cluster.stop()
    (cluster.home / "standby.signal").touch()
    cluster.start()
    return cluster


@pytest.fixture(params=[Blocking, Awaiting])
def colour(request: pytest.FixtureRequest) -> Blocking:
    """A trail of each colour in turn, not open yet."""
    made: Blocking = request.param()
    return made


async def test_a_standby_takes_nothing_and_nothing_is_lost(colour: Blocking, standby: Cluster, tmp_path: Path) -> None:
    """Work fails with the database's own word and rows are kept; they are written when the server has been promoted."""
    begun: list[tuple[UUID, str]] = []
    await colour.open(standby.conninfo, spool=tmp_path / "spool")
    async with colour.track("send", transaction=False) as action:
        begun.append((action.id, "completed"))
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with colour.track("add") as action:
            begun.append((action.id, "failed"))
            await done(action.connection.execute("INSERT INTO work VALUES (1)"))
    health = colour.trail.health
    assert (health().reachable, health().kept, health().refused) == (False, 2, 0)
    with pytest.raises(TrailUnavailable, match=r"takes no writes \(cannot set transaction read-write mode .* standby"):
        await done(colour.trail.begin("later", concept="work"))

    with standby.connect() as owner:
        owner.execute("SELECT pg_promote()")
        await until(lambda: health().reachable and health().replayed == 2)
        found = owner.execute(
            "SELECT id, status FROM provenance.actions WHERE id = ANY (%s) ORDER BY id", ([one for one, _ in begun],)
        ).fetchall()
    await colour.close()
    assert found == begun


async def test_a_frozen_backend_is_not_waited_for(colour: Blocking, cluster: Cluster, tmp_path: Path) -> None:
    """The caller is free within the deadline; the row is there once, although the frozen one goes on later."""
    address = make_conninfo(cluster.conninfo, application_name="the journal")
    await colour.open(cluster.conninfo, journal=address, spool=tmp_path / "spool")
    async with colour.track("first", transaction=False):
        pass
    with cluster.connect() as owner:
        (pid,) = (
            owner.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'the journal'").fetchone() or ()
        )
        psutil.Process(pid).suspend()
        try:
            async with colour.track("second", transaction=False) as action:
                pass
            assert colour.trail.health().kept == 1
            await until(lambda: colour.trail.health().replayed == 1)
        finally:
            psutil.Process(pid).resume()
        await until(lambda: not psutil.pid_exists(pid))
        found = owner.execute("SELECT status FROM provenance.actions WHERE id = %s", (action.id,)).fetchall()
    await colour.close()
    assert found == [("completed",)]
