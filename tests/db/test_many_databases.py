"""Many databases, one trail: two services on servers of their own, replicated to a third, as the how-to says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import conninfo, sql

from provenance import Trail, extract, inject, request_scope, schema
from provenance.archive import archive_month
from tests.support import months
from tests.support.cluster import Cluster, until
from tests.support.months import first_of, insert

Connection = psycopg.Connection[Any]

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "many-databases.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NUMBERING, PUBLISHING, GRANTING, SUBSCRIBING, LAGGING = (text for language, text in BLOCKS if not language)
ROUNDS = 60
COMPARED = ("actions", "row_changes", "captured_tables", "row_shapes")


class Boom(Exception):
    """What some work raises."""


@pytest.fixture(scope="module")
def services() -> Iterator[list[Cluster]]:
    """Two services with a table each, whose changes are captured, and their trails are published."""
    with Cluster(settings=("wal_level=logical",)) as first, Cluster(settings=("wal_level=logical",)) as second:
        for number, cluster in enumerate((first, second), 1):
            with cluster.connect() as owner:
                schema.up(owner)
                owner.execute(NUMBERING.replace("1000001", f"{number}000001").encode())
                owner.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
                owner.execute("SELECT provenance.stamp_table('orders'), provenance.capture_table('orders')")
                owner.execute((PUBLISHING + GRANTING).encode())
        yield [first, second]


@pytest.fixture(scope="module")
def archive(services: list[Cluster]) -> Iterator[Cluster]:
    """The archive server, which has subscribed to both."""
    with Cluster() as cluster:
        with cluster.connect() as owner:
            schema.up(owner)
            for name, service in zip(("first", "second"), services, strict=True):
                address = conninfo.make_conninfo(service.conninfo, user="trail_archive")
                owner.execute(
                    SUBSCRIBING.replace("provenance_first", f"provenance_{name}")
                    .replace("host=first.example dbname=shop user=trail_archive", address.replace("'", "''"))
                    .encode()
                )
        yield cluster


def work(cluster: Cluster, service: int) -> int:
    """Record actions that change rows, however often the server breaks off; return how many were acknowledged."""
    recorded = 0
    with Trail(cluster.conninfo) as trail:
        for number in range(ROUNDS):
            with suppress(Boom, psycopg.Error, ConnectionError), request_scope(user_id=f"u{service}"):
                with trail.track_action("note", concept="order", entity_type="order", entity_id=number) as action:
                    action.connection.execute(
                        "INSERT INTO orders VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
                        (number % 20, f"{service} {number}"),
                    )
                    if number % 7 == 3:
                        raise Boom
                recorded += 1
    return recorded


def of_table(query: LiteralString, table: str) -> sql.Composed:
    return sql.SQL(query).format(sql.Identifier(table))


def contents(cluster: Cluster) -> dict[str, set[str]]:
    """Return every row of what is replicated, as text."""
    with cluster.connect() as connection:
        return {
            table: {row for (row,) in connection.execute(of_table("SELECT t::text FROM provenance.{} t", table))}
            for table in COMPARED
        }


def caught_up(services: list[Cluster], archive: Cluster) -> bool:
    """Return whether the archive server has everything that the services have."""
    there = contents(archive)
    return all(rows <= there[table] for service in services for table, rows in contents(service).items())


def test_nothing_is_lost_and_nothing_is_doubled(services: list[Cluster], archive: Cluster) -> None:
    """While both are at work, and each of the three servers crashes; what leaves a service stays in the archive."""
    first, second = services
    with first.connect() as owner:
        for table in ("actions", "row_changes"):
            months.make(owner, table, first_of(2021, 3))
        for day in range(1, 28):
            insert(owner, "actions", datetime(2021, 3, day, tzinfo=UTC), action_type="old")
    with ThreadPoolExecutor(2) as executor:
        running = [executor.submit(work, cluster, number) for number, cluster in enumerate(services, 1)]
        for cluster in (archive, second, first):
            cluster.crash()
            cluster.start()
        assert all(one.result() for one in running)
    until(lambda: caught_up(services, archive), "the archive server to catch up")
    whole = contents(archive)
    theirs = [contents(service) for service in services]
    for table in COMPARED:
        assert theirs[0][table].isdisjoint(theirs[1][table])
        assert theirs[0][table] | theirs[1][table] == whole[table]
    with archive.connect() as connection:
        for table in ("actions", "row_changes"):
            counted = connection.execute(of_table("SELECT count(*) FROM provenance.{}", table)).fetchone()
            assert (len(whole[table]),) == counted
        assert [] == schema.verify(connection)


def test_a_month_that_leaves_a_service_stays_in_the_archive(
    services: list[Cluster], archive: Cluster, tmp_path: Path
) -> None:
    """It is dropped there, and here it is as it was."""
    with services[1].connect() as owner:
        months.make(owner, "actions", first_of(2021, 4))
        kept = [insert(owner, "actions", datetime(2021, 4, day, tzinfo=UTC)) for day in range(1, 28)]
    until(lambda: caught_up(services, archive), "the archive server to catch up")
    with Trail(services[1].conninfo) as trail:
        assert 27 == archive_month(trail, tmp_path, "actions", date(2021, 4, 1)).rows
        with trail.track_action("afterwards", concept="order"):
            pass
        assert trail.actions.get(kept[0]) is None
    until(lambda: caught_up(services, archive), "the archive server to catch up")
    with archive.connect() as connection:
        there = "SELECT count(*) FROM provenance.actions WHERE id = ANY (%s)"
        assert (27,) == connection.execute(there, (kept,)).fetchone()


def test_what_a_request_did_everywhere(services: list[Cluster], archive: Cluster) -> None:
    """One service calls another, and the archive server has the whole tree, with the rows that each has changed."""
    with (
        Trail(services[0].conninfo) as here,
        Trail(services[1].conninfo) as there,
        request_scope(user_id="ada") as frame,
        here.track_action("order", concept="order") as order,
    ):
        order.connection.execute("INSERT INTO orders VALUES (1001, 'ordered')")
        headers: dict[str, str] = {}
        inject(headers)
        with extract(headers), there.track_action("deliver", concept="order", parent=order.ref) as deliver:
            deliver.connection.execute("INSERT INTO orders VALUES (1001, 'delivered')")
        request_id = frame.request_id
    until(lambda: caught_up(services, archive), "the archive server to catch up")
    with Trail(archive.conninfo) as trail:
        tree = trail.actions.tree(order.id)
        assert tree is not None
        assert ["order", "deliver"] == [action.action_type for _, action in tree.walk()]
        assert {order.id, deliver.id} == {action.id for action in trail.actions.by_request(request_id)}
        notes = {
            action_id: [
                change.new["note"] for change in trail.changes.of_action(action_id, descendants=False) if change.new
            ]
            for action_id in (order.id, deliver.id)
        }
        assert {order.id: ["ordered"], deliver.id: ["delivered"]} == notes
        assert 1 <= trail.erase(user_id="ada", reason="asked to").row_changes
    with Trail(services[0].conninfo) as trail:
        (change,) = trail.changes.of_action(order.id, descendants=False)
        assert change.new
        assert "ordered" == change.new["note"]


def test_how_far_it_is_behind(services: list[Cluster], archive: Cluster) -> None:
    """A service says it of each subscription."""
    with services[0].connect() as connection:
        ((name, active, behind),) = connection.execute(LAGGING.encode()).fetchall()
    assert ("provenance_first", True) == (name, active)
    assert behind.endswith(("bytes", "kB"))
