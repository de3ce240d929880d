"""The clock goes from one month to the next while everybody works."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from provenance import schema
from tests.support import clock
from tests.support.cluster import Cluster, until

Connection = psycopg.Connection[Any]

TURN = datetime(2031, 1, 1, tzinfo=UTC)

# What each process of an application does: its clock is the server's, and its actions are dated by it.
WORKER = textwrap.dedent("""
    import sys, time
    from datetime import UTC, datetime
    from provenance import Trail

    conninfo, until = sys.argv[1], datetime.fromisoformat(sys.argv[2])
    done = 0
    with Trail(conninfo) as trail:
        while datetime.now(UTC) < until:
            with trail.track_action("add", concept="account") as action:
                action.connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", (int(sys.argv[3]),))
            done += 1
    print(done)
""")


@pytest.fixture
def before_midnight() -> Mapping[str, str]:
    """The environment of processes whose clock is so long before the turn of the year that a slow machine can start them."""
    return clock.moved_to(TURN - timedelta(seconds=15))


@pytest.fixture
def owner(before_midnight: Mapping[str, str]) -> Iterator[Connection]:
    """A connection to a server of which the clock is there."""
    with Cluster(environment=before_midnight) as cluster, cluster.connect() as connection:
        schema.up(connection)
        connection.execute("CREATE TABLE account (id integer PRIMARY KEY, n integer)")
        connection.execute("INSERT INTO account VALUES (0, 0), (1, 0)")
        connection.execute("SELECT provenance.capture_table('account')")
        yield connection


def places(connection: Connection) -> dict[str, int]:
    """Return how many rows are in which partition."""
    return dict(
        connection.execute(
            """SELECT tableoid::regclass::text, count(*) FROM provenance.actions GROUP BY 1
               UNION ALL SELECT tableoid::regclass::text, count(*) FROM provenance.row_changes GROUP BY 1"""
        ).fetchall()
    )


def work(owner: Connection, environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    """Start two processes that work over the turn of the year."""
    command = [sys.executable, "-c", WORKER, owner.info.dsn, (TURN + timedelta(seconds=3)).isoformat()]
    return [
        subprocess.Popen(
            [*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment}
        )
        for number in range(2)
    ]


def done(workers: list[subprocess.Popen[str]]) -> int:
    """Return how much they have done; nothing of it may have failed."""
    said = [worker.communicate(timeout=60) for worker in workers]
    assert [""] * len(workers) == [errors for _, errors in said]
    return sum(int(output) for output, _ in said)


def test_months_that_are_there(owner: Connection, before_midnight: Mapping[str, str]) -> None:
    """Before midnight rows go to the old month, after it to the new one, none to the default partition; and none is lost."""
    workers = work(owner, before_midnight)
    count = done(workers)
    there = places(owner)
    assert {
        f"provenance.{table}_{month}" for table in ("actions", "row_changes") for month in ("2030_12", "2031_01")
    } == there.keys()
    assert count == sum(rows for name, rows in there.items() if ".actions" in name)
    assert (count,) == owner.execute("SELECT sum(n) FROM account").fetchone()
    late = owner.execute("SELECT count(*) FROM provenance.actions_2030_12 WHERE started_at >= %s", (TURN,)).fetchone()
    assert (0,) == late


def test_months_that_nobody_made(owner: Connection, before_midnight: Mapping[str, str]) -> None:
    """The rows go to the default partition, and from there to their month, the work going on."""
    (months,) = owner.execute(
        "SELECT array_agg(relname) FROM pg_class WHERE relname ~ '^(actions|row_changes)_2031' AND relkind = 'r'"
    ).fetchone() or ([],)
    workers = work(owner, before_midnight)
    # When they start they would make them.
    until(lambda: owner.execute("SELECT min(n) > 0 FROM account").fetchone() == (True,), "both to have begun")
    for month in months:
        owner.execute(f"DROP TABLE provenance.{month}".encode())
    defaults = {f"provenance.{table}_default" for table in ("actions", "row_changes")}
    until(lambda: defaults <= places(owner).keys(), "rows of the new month")
    moved = {
        name
        for table in ("actions", "row_changes")
        for name, _ in owner.execute("SELECT * FROM provenance.empty_default(%s)", (table,)).fetchall()
    }
    assert {"actions_2031_01", "row_changes_2031_01"} == moved
    count = done(workers)
    there = places(owner)
    assert count == sum(rows for name, rows in there.items() if ".actions" in name)
    assert count == sum(rows for name, rows in there.items() if ".row_changes" in name)
    assert not {name for name in there if name.endswith("default")}
    assert (count,) == owner.execute("SELECT sum(n) FROM account").fetchone()
