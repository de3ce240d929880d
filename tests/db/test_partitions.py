"""Every month has its partition, and every row is in that of its month, whoever reads and writes meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from provenance import Trail, schema
from provenance.errors import InvalidAction, SchemaNotReady
from tests.support import colours, databases, roles
from tests.support.colours import Blocking, done
from tests.support.months import attached, contents, id_at, insert, places

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
colour = colours.colour

Connection = psycopg.Connection[Any]

TABLES = ("actions", "row_changes")
EMPTY = "SELECT * FROM provenance.empty_default(%s)"


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, in autocommit mode."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def neglected(owner: Connection) -> Connection:
    """The same, to a database that has no partition but the default ones."""
    neglect(owner)
    return owner


def neglect(owner: Connection) -> None:
    for name in attached(owner):
        if not name.endswith("_default"):
            owner.execute(sql.SQL("DROP TABLE provenance.{}").format(sql.Identifier(name)))


def month(months_ago: int = 0) -> datetime:
    """Return the first moment of a month, in UTC."""
    now = datetime.now(UTC)
    year, number = divmod(now.year * 12 + now.month - 1 - months_ago, 12)
    return datetime(year, number + 1, 1, tzinfo=UTC)


def named(table: str, months_ago: int = 0) -> str:
    """Return the name of a partition."""
    return f"{table}_{month(months_ago):%Y_%m}"


# --- What is moved, and what stays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_rows_move_into_their_months(neglected: Connection, table: str) -> None:
    """Of months long past, of this one and of the next, to the millisecond; each row is what it was, down to its xid."""
    last_of = timedelta(milliseconds=1)
    for moment in (
        month(14),
        month(13) - last_of,
        month(13),
        month(2),
        month(1),
        month() - last_of,
        month(),
        month(-1),
    ):
        insert(neglected, table, moment)
    before = contents(neglected, table)
    moved = dict(neglected.execute(EMPTY, (table,)).fetchall())
    expected = {named(table, 14): 2, named(table, 13): 1, named(table, 2): 1}
    expected |= {named(table, 1): 2, named(table): 1, named(table, -1): 1}
    assert (expected, expected) == (moved, places(neglected, table))
    assert before == contents(neglected, table)
    assert [] == schema.verify(neglected)
    assert [] == neglected.execute(EMPTY, (table,)).fetchall()


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_no_sensible_month_stay(neglected: Connection, table: str) -> None:
    """A clock years ahead makes no month; nor does an id that carries no time, nor a month whose partition is detached."""
    insert(neglected, table, month(1))
    insert(neglected, table, month(-2))
    insert(neglected, table, month(-40))
    neglected.execute("SELECT provenance.make_partition(%s, %s)", (table, named(table, 7)))
    insert(neglected, table, month(7))
    if table == "actions":
        insert(neglected, table, month(3), id=UUID(int=id_at(month(3)).int ^ 3 << 76))
    before = contents(neglected, table)
    assert {named(table, 1): 1} == dict(neglected.execute(EMPTY, (table,)).fetchall())
    there = {named(table, 1): 1, f"{table}_default": 4 if table == "actions" else 3}
    assert (there, before) == (places(neglected, table), contents(neglected, table))


def test_what_remains_is_the_default_partition_still(neglected: Connection) -> None:
    """With its indexes and guards, under their names, however many rows there are."""
    neglected.execute(
        "INSERT INTO provenance.actions (id, root_id, action_type, concept, status, started_at, completed_at, duration_ms)"
        " SELECT i, i, 't', 'c', 'completed', now(), now(), 1"
        " FROM (SELECT gen_random_uuid() AS i FROM generate_series(1, 999)) s"
    )
    insert(neglected, "actions", month(1))
    before = contents(neglected, "actions")
    assert {named("actions", 1): 1} == dict(neglected.execute(EMPTY, ("actions",)).fetchall())
    assert (before, []) == (contents(neglected, "actions"), schema.verify(neglected))
    assert 999 == places(neglected, "actions")["actions_default"]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="insert-only"):
        neglected.execute("TRUNCATE provenance.actions_default")


def test_whoever_uses_the_default_partition_is_not_waited_for(neglected: Connection, provenance_dsn: str) -> None:
    """Everybody else would wait meanwhile."""
    insert(neglected, "actions", month(1))
    with psycopg.connect(provenance_dsn) as other:
        other.execute("LOCK TABLE provenance.actions_default IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable, match="each of 2 times"):
            neglected.execute("SELECT provenance.empty_default('actions', tries => 2)")
    assert {"actions_default": 1} == places(neglected, "actions")


@pytest.mark.parametrize("table", TABLES)
def test_rows_with_a_transaction_of_another_cluster_move(neglected: Connection, table: str) -> None:
    """As those of a restored dump have; this cluster has not come as far."""
    insert(neglected, table, month(1), xid="4000000000000")
    insert(neglected, table, month(1), xid="3")
    before = contents(neglected, table)
    assert {named(table, 1): 2} == dict(neglected.execute(EMPTY, (table,)).fetchall())
    assert before == contents(neglected, table)


def burn(connection: Connection, count: int) -> None:
    """Use up transactions."""
    for _ in range(count):
        connection.execute("SELECT pg_current_xact_id()")


def test_rows_that_cannot_be_told_from_new_ones_stay(
    neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]
) -> None:
    """Their transaction of another cluster is just being used up by this one. Where no key tells which is which, rather none
    is moved than one twice.
    """
    (now,) = neglected.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (0,)
    for table in TABLES:
        insert(neglected, table, month(1), xid=str(now + 60))
    before = contents(neglected, "row_changes")
    with psycopg.connect(provenance_dsn) as reader:
        reader.execute("SELECT count(*) FROM provenance.row_changes")

        def end_once_it_is_copied() -> None:
            burning = connect()
            waits_for_lock(burning, neglected.info.backend_pid)
            burn(burning, 100)
            reader.rollback()

        with ThreadPoolExecutor(1) as executor:
            ended = executor.submit(end_once_it_is_copied)
            with pytest.raises(psycopg.errors.DataException, match="cannot be told from each other"):
                neglected.execute(EMPTY, ("row_changes",))
            ended.result()
    assert ({"row_changes_default": 1}, before) == (
        places(neglected, "row_changes"),
        contents(neglected, "row_changes"),
    )


@contextmanager
def used(dsn: str) -> Iterator[Trail]:
    """Open a trail that has been used, and makes no partitions any more."""
    with Trail(dsn) as trail:
        with trail.track_action("first", concept="account"):
            pass
        yield trail


@pytest.fixture
def connect(provenance_dsn: str) -> Iterator[Callable[[], Connection]]:
    """Return what opens another connection, in autocommit mode."""
    opened: list[Connection] = []

    def another() -> Connection:
        opened.append(psycopg.connect(provenance_dsn, autocommit=True))
        return opened[-1]

    yield another
    for connection in opened:
        connection.close()


def waits_for_lock(connection: Connection, pid: int) -> None:
    """Return once that session waits for a lock."""
    until(connection, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", pid)


def until(connection: Connection, question: str, *given: object) -> None:
    deadline = time.monotonic() + 30
    while connection.execute(question.encode(), given).fetchone() != (True,):
        assert time.monotonic() < deadline, question


# --- Who is in the way ------------------------------------------------------------------------------------------------


def test_a_long_transaction_keeps_rows_where_they_are(
    neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]
) -> None:
    """It is told so after some attempts, nothing is moved, and whoever writes meanwhile has waited no longer than those."""
    insert(neglected, "actions", month(1))
    with psycopg.connect(provenance_dsn) as reader:
        reader.execute("SELECT count(*) FROM provenance.actions")
        writer, waited = connect(), 0.0
        with ThreadPoolExecutor(1) as executor:
            moving = executor.submit(
                neglected.execute, "SELECT provenance.empty_default('actions', tries => 3)", prepare=False
            )
            while not moving.done():
                began = time.monotonic()
                insert(writer, "actions", datetime.now(UTC))
                waited = max(waited, time.monotonic() - began)
        with pytest.raises(
            psycopg.errors.LockNotAvailable,
            match=r"one transaction or another was using provenance\.actions",
        ):
            moving.result()
    assert {f"{named('actions', 1)}"} & places(neglected, "actions").keys() == set()
    # Half a second for the table, and as much for its default partition.
    assert waited < 5
    assert [] == schema.verify(neglected)


def test_nobody_is_found_in_a_deadlock(neglected: Connection, connect: Callable[[], Connection]) -> None:
    """One transaction has recorded and waits for a row of another's, which is about to record: both are committed."""
    neglected.execute("CREATE TABLE account (id integer PRIMARY KEY, n integer)")
    neglected.execute("INSERT INTO account VALUES (1, 0)")
    insert(neglected, "actions", month(1))
    recorded, holds_row, watching = connect(), connect(), connect()
    with ThreadPoolExecutor(2) as executor:
        recorded.execute("BEGIN")
        insert(recorded, "actions", datetime.now(UTC))
        holds_row.execute("BEGIN")
        holds_row.execute("UPDATE account SET n = 1")
        moving = executor.submit(neglected.execute, EMPTY, ("actions",))
        waits_for_lock(watching, neglected.info.backend_pid)
        waiting = executor.submit(recorded.execute, "UPDATE account SET n = 2")
        waits_for_lock(watching, recorded.info.backend_pid)
        # Whoever waits for longer than a second looks for a deadlock.
        time.sleep(1.2)
        insert(holds_row, "actions", datetime.now(UTC))
        holds_row.execute("COMMIT")
        waiting.result()
        recorded.execute("COMMIT")
        assert moving.result().fetchall()
    assert {named("actions", 1): 1, "actions_default": 2} == places(neglected, "actions")


def test_two_at_once(neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]) -> None:
    """One moves, the other is told that."""
    insert(neglected, "actions", month(1))
    with psycopg.connect(provenance_dsn) as reader, ThreadPoolExecutor(1) as executor:
        reader.execute("SELECT count(*) FROM provenance.actions")
        moving = executor.submit(neglected.execute, EMPTY, ("actions",))
        other = connect()
        waits_for_lock(other, neglected.info.backend_pid)
        with pytest.raises(psycopg.errors.ObjectInUse, match="being moved or erased by another session"):
            other.execute(EMPTY, ("actions",))
        reader.rollback()
        assert moving.result().fetchall() == [(named("actions", 1), 1)]


def test_what_is_erased_meanwhile_is_erased(
    neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]
) -> None:
    """Erasing waits until the rows are where they belong, and finds them there."""
    with used(provenance_dsn) as trail, ThreadPoolExecutor(2) as executor:
        neglect(neglected)
        with trail.track_action("sign_up", concept="account", user_id="7", payload={"name": "Ada"}):
            pass
        with psycopg.connect(provenance_dsn) as reader:
            reader.execute("SELECT count(*) FROM provenance.actions")
            moving = executor.submit(neglected.execute, EMPTY, ("actions",))
            other = connect()
            waits_for_lock(other, neglected.info.backend_pid)
            erasing = executor.submit(trail.erase, user_id="7", reason="asked to")
            until(other, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'advisory'")
            reader.rollback()
            assert moving.result().fetchall() == [(named("actions"), 1)]
        assert erasing.result().actions == 1
    assert neglected.execute("SELECT payload FROM provenance.actions WHERE user_id = '7'").fetchall() == [(None,)]


def test_what_is_being_erased_stays(
    neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]
) -> None:
    """It is not waited for, as it may take as long as it likes."""
    with used(provenance_dsn) as trail:
        with trail.track_action("sign_up", concept="account", user_id="7"):
            pass
        with trail.track_action("around", concept="account"):
            trail.erase(user_id="7", reason="asked to")
            with pytest.raises(psycopg.errors.ObjectInUse, match="being moved or erased"):
                connect().execute(EMPTY, ("actions",))


def test_a_killed_move_has_moved_nothing(
    neglected: Connection, provenance_dsn: str, connect: Callable[[], Connection]
) -> None:
    """Rows are where they were, no table is left over, and the next one moves them."""
    insert(neglected, "actions", month(1))
    moving, watching = connect(), connect()
    with psycopg.connect(provenance_dsn) as reader, ThreadPoolExecutor(1) as executor:
        reader.execute("SELECT count(*) FROM provenance.actions")
        moved = executor.submit(moving.execute, EMPTY, ("actions",))
        waits_for_lock(watching, moving.info.backend_pid)
        watching.execute("SELECT pg_terminate_backend(%s)", (moving.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            moved.result()
    assert ({"actions_default": 1}, []) == (places(neglected, "actions"), schema.verify(neglected))
    assert neglected.execute(EMPTY, ("actions",)).fetchall() == [(named("actions", 1), 1)]


def test_a_default_partition_that_takes_too_long_to_look_through(neglected: Connection) -> None:
    """Nothing is moved unless it is said that the table may be locked for so long."""
    insert(neglected, "actions", month(1))
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="the table would be locked meanwhile"
    ) as caught:
        neglected.execute("SELECT provenance.empty_default('actions', '1 microsecond')")
    assert caught.value.diag.message_hint == "Give a longest_hold of twice that; it is 00:00:00.000001."
    assert {"actions_default": 1} == places(neglected, "actions")


def test_what_cannot_be_emptied(neglected: Connection) -> None:
    """A table without partitions; any, in a transaction that does not see what is committed meanwhile."""
    with pytest.raises(psycopg.errors.WrongObjectType, match=r"provenance\.action_intents has no partitions"):
        neglected.execute(EMPTY, ("action_intents",))
    with neglected.transaction(), pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="must see what is"):
        neglected.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        neglected.execute(EMPTY, ("actions",))


# --- Under load -------------------------------------------------------------------------------------------------------


def test_moving_under_load(neglected: Connection, provenance_dsn: str) -> None:
    """Again and again, while four threads record and change rows and two read: nothing fails, is lost or there twice."""
    stopped, kept, failed, counts = threading.Event(), [0] * 4, list[BaseException](), list[int]()
    with used(provenance_dsn) as trail:
        neglected.execute("CREATE TABLE account (id integer PRIMARY KEY, n integer)")
        neglected.execute("INSERT INTO account SELECT n, 0 FROM generate_series(0, 3) n")
        trail.capture("account")
        neglect(neglected)

        def write(number: int) -> None:
            while not stopped.is_set():
                with trail.track_action("add", concept="account") as action:
                    action.connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", (number,))
                kept[number] += 1

        def read() -> None:
            while not stopped.is_set():
                counts.append(len(trail.actions.search(limit=500).items))

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - that is what is asked for
                failed.append(error)

        works: list[Callable[[], None]] = [lambda number=number: write(number) for number in range(4)]
        threads = [threading.Thread(target=guarded, args=(work,)) for work in [*works, read, read]]
        for thread in threads:
            thread.start()
        rounds = 0
        while rounds < 5 and not failed:
            # With what it has just got, the month would need no moving.
            with suppress(psycopg.errors.LockNotAvailable):
                moved = [neglected.execute(EMPTY, (table,)).fetchall() for table in TABLES]
                rounds += all(moved)
            with suppress(psycopg.errors.LockNotAvailable):
                unmake(neglected)
        stopped.set()
        for thread in threads:
            thread.join()
    assert [] == failed
    assert sum(kept) == sum(places(neglected, "actions").values())
    assert neglected.execute("SELECT sum(n) FROM account").fetchone() == (sum(kept),)
    assert sum(kept) == sum(places(neglected, "row_changes").values())
    distinct = neglected.execute("SELECT count(DISTINCT seq) FROM provenance.row_changes").fetchone()
    assert (sum(kept),) == distinct
    assert counts


def unmake(owner: Connection) -> None:
    """Put the rows of this month's partitions back into the default ones, all at once."""
    for table in TABLES:
        if named(table) not in attached(owner):
            continue
        with owner.transaction():
            owner.execute("SET LOCAL lock_timeout = '500ms'")
            parent, default, own = (
                sql.Identifier("provenance", name) for name in (table, f"{table}_default", named(table))
            )
            owner.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(parent))
            owner.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, own))
            owner.execute(sql.SQL("INSERT INTO {} SELECT * FROM {}").format(default, own))
            owner.execute(sql.SQL("DROP TABLE {}").format(own))


# --- Who may, and when ------------------------------------------------------------------------------------------------


def test_a_maintainer_may_and_a_writer_may_not(neglected: Connection, provenance_dsn: str) -> None:
    """It owns nothing, and may neither read nor change the rows that it moves."""
    insert(neglected, "actions", month(1))
    with roles.writer(provenance_dsn) as (name, dsn), psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(EMPTY, ("actions",))
        neglected.execute("SELECT provenance.grant_maintainer(%s)", (name,))
        assert connection.execute(EMPTY, ("actions",)).fetchall() == [(named("actions", 1), 1)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT provenance.make_partition('actions', 'actions_1999_01')")


@pytest.mark.anyio
async def test_a_process_that_starts_makes_the_coming_months(
    colour: Blocking, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """If its role may, and if the next month has no partition; whatever it is that it does first, and once."""
    caplog.set_level(logging.INFO, "provenance")
    neglect(owner)
    async with colour.track("first", transaction=False):
        assert named("actions", -1) in attached(owner)
    assert "provenance: made the partitions of the coming months" in caplog.messages
    neglect(owner)
    async with colour.track("second"):
        pass
    assert {"actions_default", "row_changes_default"} == {*attached(owner)}


@pytest.mark.anyio
async def test_a_process_that_may_not_make_months_works_as_well(colour: Blocking, owner: Connection) -> None:
    """What it records goes to the default partition."""
    neglect(owner)
    with roles.writer(colour.dsn) as (_, dsn):
        other = type(colour)()
        await other.open(dsn)
        async with other.track("first"):
            pass
        await other.close()
    assert {"actions_default": 1} == places(owner, "actions")


@pytest.mark.anyio
async def test_a_process_that_cannot_make_months_works_as_well(
    colour: Blocking, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and in one sentence: what was to be done is done."""
    neglect(owner)
    owner.execute(
        "CREATE OR REPLACE FUNCTION provenance.ensure_partitions(months_ahead integer DEFAULT 6) RETURNS SETOF text"
        " LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$"
    )
    async with colour.track("first"):
        pass
    assert {"actions_default": 1} == places(owner, "actions")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "provenance"]
    assert said.startswith(
        "provenance: there is no partition for the next month, and making it failed (RaiseException)"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("why", ["somebody makes months", "there are many rows"])
async def test_a_process_that_starts_waits_for_nobody(colour: Blocking, owner: Connection, why: str) -> None:
    """While another makes months or migrates, or where it would take long, it makes none."""
    neglect(owner)
    if why == "there are many rows":
        owner.execute(
            "INSERT INTO provenance.row_changes"
            " (seq, recorded_at, row_slot, ordinal, table_id, shape_id, operation, row_key)"
            " SELECT n, now(), n, 1, 1, 1, 'insert', repeat('x', 900) FROM generate_series(1, 10000) n"
        )
    else:
        owner.execute("SELECT pg_advisory_lock(31651020444888673)")
    async with colour.track("first"):
        pass
    owner.execute("SELECT pg_advisory_unlock_all()")
    assert {"actions_default", "row_changes_default"} == {*attached(owner)}


@pytest.mark.anyio
async def test_partitions_of_a_trail(colour: Blocking, owner: Connection) -> None:
    """Which there are, how large, and those that are missing made."""
    neglect(owner)
    assert sorted(named(table, -later) for table in TABLES for later in range(3)) == await done(
        colour.trail.ensure_partitions(2)
    )
    assert [] == await done(colour.trail.ensure_partitions(0))
    insert(owner, "actions", month())
    owner.execute("ANALYZE provenance.actions")
    first, second, third, default, *changes = await done(colour.trail.partitions())
    assert (named("actions"), month().date(), 1) == (first.name, first.month, first.rows)
    assert 8192 < first.bytes
    assert [month(-1).date(), month(-2).date(), None] == [one.month for one in (second, third, default)]
    assert ["row_changes"] * 4 == [one.table for one in changes]
    assert changes[0].rows is None


@pytest.mark.anyio
@pytest.mark.parametrize("given", [-1, 121, "6", None, True, 1.5])
async def test_months_that_cannot_be_made(colour: Blocking, given: Any) -> None:
    """The message says what was expected."""
    with pytest.raises(InvalidAction, match="months_ahead: expected a number of months from 0 to 120, got"):
        await done(colour.trail.ensure_partitions(given))


@pytest.mark.anyio
async def test_months_that_a_role_may_not_make(colour: Blocking) -> None:
    """It says which grant is missing."""
    with roles.writer(colour.dsn) as (_, dsn):
        other = type(colour)()
        await other.open(dsn)
        with pytest.raises(SchemaNotReady, match="run `provenance migrate grant --maintainer ROLE`"):
            await done(other.trail.ensure_partitions())
        await other.close()
