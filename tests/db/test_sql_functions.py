"""What the schema does on its own: functions for sessions in SQL, guards, partitions."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import IsolationLevel, conninfo, errors, sql
from psycopg.rows import dict_row

from provenance import ids, schema
from provenance.statements.recording import ActionRow
from tests.strategies import unhurried

Connection = psycopg.Connection[Any]

MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture(scope="module")
def database(provenance_server: str, provenance_template: str) -> Iterator[str]:
    """Yield a migrated database that tests of this module share; what they do there is rolled back."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        yield conninfo.make_conninfo(provenance_server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def connected(database: str) -> Iterator[Connection]:
    """Yield a session in it."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def session(connected: Connection) -> Iterator[Connection]:
    """Yield a session in a transaction that will be rolled back."""
    with connected.transaction(force_rollback=True):
        yield connected


@pytest.fixture
def connect(provenance_dsn: str) -> Iterator[Callable[..., Connection]]:
    """Yield what opens sessions, each its own, in a database of this test's own."""
    opened: list[Connection] = []

    def open_session(**settings: Any) -> Connection:
        opened.append(psycopg.connect(provenance_dsn, **{"autocommit": True, **settings}))
        return opened[-1]

    yield open_session
    for connection in opened:
        connection.close()


def value(connection: Connection, query: str, *parameters: object) -> Any:
    """Return the only column of the first row, or ``None`` without rows."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return None if row is None else row[0]


def source_of(session: Connection, function: str) -> str:
    """Return the text of one of our functions."""
    return str(value(session, "SELECT prosrc FROM pg_proc WHERE oid = %s::regproc", f"provenance.{function}"))


def record(connection: Connection, action_type: str = "a", **arguments: object) -> UUID:
    """Begin an action in SQL."""
    named = "".join(f", {name} => %({name})s" for name in arguments)
    row = connection.execute(
        f"SELECT provenance.record_action(%(action_type)s, 'c'{named})".encode(),
        {"action_type": action_type, **arguments},
    ).fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


def complete(connection: Connection, action_id: UUID, **arguments: object) -> None:
    """Finish an action in SQL."""
    named = "".join(f", {name} => %({name})s" for name in arguments)
    connection.execute(f"SELECT provenance.complete_action(%(id)s{named})".encode(), {"id": action_id, **arguments})


def current(connection: Connection) -> UUID | None:
    found: UUID | None = value(connection, "SELECT provenance.current_action_id()")
    return found


def logged(connection: Connection, action_id: UUID) -> dict[str, Any]:
    """Return an action as the view shows it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM provenance.action_log WHERE id = %s", (action_id,)).fetchone()
    assert row is not None
    return row


INSERT = """
    INSERT INTO provenance.actions
           (id, root_id, action_type, concept, status, tenant_id, started_at, completed_at, duration_ms)
    VALUES (%s, %s, 'a', 'c', 'completed', '', now(), now(), 1)"""


def insert(connection: Connection, action_id: UUID) -> None:
    """Insert a terminal row by hand."""
    connection.execute(INSERT, (action_id, action_id))


CHANGE = """
    INSERT INTO provenance.row_changes
           (seq, recorded_at, row_slot, ordinal, table_id, shape_id, operation, row_key, new_row)
    VALUES (1, %s, 1, 1, 1, 1, 'insert', '1', '(1)')"""


def insert_change(connection: Connection, moment: datetime) -> None:
    """Insert a row change by hand."""
    connection.execute(CHANGE, (moment,))


# What has monthly partitions, in the order in which they are made.
PARTITIONED = ("actions", "row_changes")


def id_at(moment: datetime) -> UUID:
    """Return some version-7 id of a moment."""
    return UUID(int=ids.floor_id(moment).int | secrets.randbits(60))


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def waiting(connection: Connection) -> bool:
    """Return whether another session waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(value(connection, query))


# --- Ids -------------------------------------------------------------------------------------------------------------


def test_uuid_v7_is_a_version_7_uuid_of_now(session: Connection) -> None:
    """Version and variant are those of RFC 9562, the time is the server's, to the millisecond and never ahead of it."""
    rows = session.execute(
        "SELECT clock_timestamp(), provenance.uuid_v7(), clock_timestamp() FROM generate_series(1, 2000)"
    ).fetchall()
    made = [row[1] for row in rows]
    assert {(found.version, found.variant) for found in made} == {(7, UUID(int=1 << 63).variant)}
    assert len(set(made)) == 2000
    milliseconds = [found.int >> 80 for found in made]
    assert milliseconds == sorted(milliseconds)
    for before, found, after in rows:
        assert ids.floor_id(before).int >> 80 <= found.int >> 80 <= ids.floor_id(after).int >> 80


def test_uuid_v7_is_random_in_every_other_bit(session: Connection) -> None:
    """Of the 74 bits that are not time, version or variant each is sometimes 0 and sometimes 1."""
    made = [
        row[0].int for row in session.execute("SELECT provenance.uuid_v7() FROM generate_series(1, 200)").fetchall()
    ]
    fixed = 0xF << 76 | 0b11 << 62
    random_bits = ((1 << 80) - 1) & ~fixed
    ever_one = ever_zero = 0
    for found in made:
        ever_one |= found
        ever_zero |= ~found
    assert ever_one & ever_zero & random_bits == random_bits


@unhurried
@given(moments=st.lists(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)), min_size=1, max_size=50))  # noqa: DTZ001
def test_uuid_floor_is_the_librarys_floor(database: str, moments: list[datetime]) -> None:
    """Both cut a moment to the same millisecond, never to the next one; only version and variant differ."""
    aware = [moment.replace(tzinfo=UTC) for moment in moments]
    with psycopg.connect(database) as connection:
        found = value(
            connection,
            """SELECT array_agg(provenance.uuid_floor(at) ORDER BY n)
                 FROM unnest(%s::timestamptz[]) WITH ORDINALITY u (at, n)""",
            aware,
        )
    assert found == [UUID(int=ids.floor_id(moment).int >> 80 << 80) for moment in aware]


def test_uuid_floor_does_not_round_up(session: Connection) -> None:
    """The last microsecond of a month belongs to that month."""
    last = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    floor = value(session, "SELECT provenance.uuid_floor(%s)", last)
    assert floor < value(session, "SELECT provenance.uuid_floor(%s)", last + timedelta(microseconds=1))
    assert floor == UUID(int=ids.floor_id(last).int >> 80 << 80)


# --- The current action ----------------------------------------------------------------------------------------------


def test_there_is_no_current_action_at_first(connect: Callable[..., Connection]) -> None:
    """Neither before it was ever set, nor after a transaction that set it."""
    connection = connect()
    assert current(connection) is None
    with connection.transaction():
        connection.execute("SELECT provenance.set_context(%s)", (uuid4(),))
    assert current(connection) is None


def test_the_current_action_lasts_until_the_transaction_ends(session: Connection) -> None:
    """It can be changed and cleared, and a savepoint rolled back takes it back."""
    first, second = uuid4(), uuid4()
    session.execute("SELECT provenance.set_context(%s)", (first,))
    assert current(session) == first
    with session.transaction(force_rollback=True):
        session.execute("SELECT provenance.set_context(%s)", (second,))
        assert current(session) == second
    assert current(session) == first
    session.execute("SELECT provenance.set_context(NULL)")
    assert current(session) is None


def test_a_statement_of_its_own_leaves_no_current_action(connect: Callable[..., Connection]) -> None:
    """Without an open transaction each statement is one, and nothing leaks into the next."""
    connection = connect()
    action_id = record(connection)
    assert current(connection) is None
    assert logged(connection, action_id)["status"] == "pending"


def test_it_is_usable_as_a_column_default(session: Connection) -> None:
    """Rows of the application's own tables name the action they were written in."""
    session.execute("INSERT INTO work (id) VALUES (1)")
    action_id = record(session)
    session.execute("INSERT INTO work (id) VALUES (2)")
    complete(session, action_id)
    session.execute("INSERT INTO work (id) VALUES (3)")
    assert session.execute("SELECT action_id FROM work ORDER BY id").fetchall() == [(None,), (action_id,), (None,)]


# --- Recording in SQL ------------------------------------------------------------------------------------------------


def test_record_and_complete(session: Connection) -> None:
    """What was said is recorded, the action is pending in between, and the duration is above zero."""
    request = uuid4()
    action_id = record(
        session,
        "approve",
        user_id="u",
        tenant_id="t",
        request_id=request,
        entity_type="order",
        entity_id="7",
        payload='{"a": 1}',
        metadata='{"b": 2}',
        correlation_id="x",
    )
    said = {
        "id": action_id,
        "root_id": action_id,
        "parent_action_id": None,
        "action_type": "approve",
        "concept": "c",
        "tenant_id": "t",
        "user_id": "u",
        "request_id": request,
        "correlation_id": "x",
        "entity_type": "order",
        "entity_id": "7",
        "payload": {"a": 1},
        "metadata": {"b": 2},
    }
    pending = logged(session, action_id)
    assert {key: pending[key] for key in said} == said
    nothing = ("result", "error_type", "error_code", "error_message", "completed_at", "duration_ms")
    assert (pending["status"], [pending[key] for key in nothing]) == ("pending", [None] * 6)
    complete(session, action_id, result='{"ok": true}')
    ended = logged(session, action_id)
    assert {key: ended[key] for key in said} == said
    assert (ended["status"], ended["result"], ended["error_message"]) == ("completed", {"ok": True}, None)
    assert ended["started_at"] == pending["started_at"]
    exact = (ended["completed_at"] - ended["started_at"]) / MILLISECOND
    assert ended["duration_ms"] == pytest.approx(exact)
    assert ended["duration_ms"] > 0
    assert value(session, "SELECT count(*) FROM provenance.action_intents") == 0


def test_what_is_not_said_has_defaults(session: Connection) -> None:
    """A day is waited for the outcome, there is no tenant, and ids are made."""
    before = value(session, "SELECT clock_timestamp()")
    action_id = record(session, tenant_id=None)
    after = value(session, "SELECT clock_timestamp()")
    assert action_id.version == 7
    tenant, started, expires, doubt = (
        session.execute(
            "SELECT tenant_id, started_at, expires_at, doubt FROM provenance.action_intents WHERE id = %s", (action_id,)
        ).fetchone()
        or ()
    )
    assert (tenant, doubt) == ("", None)
    assert before <= started <= after
    assert timedelta(0) <= expires - started - timedelta(days=1) < timedelta(seconds=10)


def test_id_root_time_and_patience_can_be_given(session: Connection) -> None:
    """What the library knows already is taken from it."""
    action_id, root, started = ids.new_id(), ids.new_id(), datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert record(session, id=action_id, root_id=root, started_at=started, expires_in=None) == action_id
    row = session.execute("SELECT root_id, started_at, expires_at FROM provenance.action_intents").fetchone()
    assert row == (root, started, None)


def test_actions_nest(session: Connection) -> None:
    """The current action is the parent, all share the root, and completing gives the context back step by step."""
    outer = record(session, "outer")
    middle = record(session, "middle")
    inner = record(session, "inner")
    assert current(session) == inner
    for action_id, around in ((inner, middle), (middle, outer), (outer, None)):
        complete(session, action_id)
        assert current(session) == around
    rows = session.execute(
        "SELECT action_type, root_id, parent_action_id FROM provenance.actions ORDER BY action_type"
    ).fetchall()
    assert rows == [("inner", outer, middle), ("middle", outer, outer), ("outer", outer, None)]


def test_siblings_have_the_same_parent(session: Connection) -> None:
    """After one inner action the next is not its child."""
    outer = record(session, "outer")
    for _ in range(2):
        complete(session, record(session, "inner"))
    query = "SELECT parent_action_id FROM provenance.actions WHERE action_type = 'inner'"
    assert session.execute(query).fetchall() == [(outer,), (outer,)]


def test_completing_another_action_leaves_the_current_one(session: Connection) -> None:
    """Only the current action gives the context back."""
    first = record(session, "first")
    session.execute("SELECT provenance.set_context(NULL)")
    second = record(session, "second")
    complete(session, first)
    assert current(session) == second


def test_the_root_is_the_parents(session: Connection) -> None:
    """Whether the parent has ended, is pending, or is not recorded here at all."""
    root = record(session, "root")
    pending = record(session, "pending")
    assert value(session, "SELECT provenance.root_of(%s)", pending) == root
    complete(session, pending)
    assert value(session, "SELECT provenance.root_of(%s)", pending) == root
    child = record(session, parent_action_id=pending)
    elsewhere = uuid4()
    orphan = record(session, parent_action_id=elsewhere)
    assert value(session, "SELECT provenance.root_of(%s)", elsewhere) is None
    found = session.execute("SELECT id, root_id, parent_action_id FROM provenance.action_intents").fetchall()
    assert sorted(found) == sorted([(root, root, None), (child, root, pending), (orphan, elsewhere, elsewhere)])


def test_failing(session: Connection) -> None:
    """An action can end as failed, with what was learned of the error."""
    action_id = record(session)
    complete(session, action_id, status="failed", error_message="no", error_type="E", error_code="22012")
    row = logged(session, action_id)
    assert (row["status"], row["error_message"], row["error_type"], row["error_code"]) == ("failed", "no", "E", "22012")
    assert value(session, "SELECT provenance.outcome(%s)", action_id) == "failed"


def test_a_plpgsql_job_records_its_failure(session: Connection) -> None:
    """The work of an exception block is undone; the action begun before it ends as failed."""
    session.execute("""
        DO $$
        DECLARE action uuid := provenance.record_action('job', 'work');
        BEGIN
            BEGIN
                INSERT INTO work (id) VALUES (1);
                PERFORM 1 / 0;
                PERFORM provenance.complete_action(action);
            EXCEPTION WHEN OTHERS THEN
                PERFORM provenance.complete_action(
                    action, status => 'failed', error_message => SQLERRM, error_code => SQLSTATE);
            END;
        END $$""")
    assert session.execute(
        "SELECT action_type, status, error_message, error_code FROM provenance.actions"
    ).fetchall() == [("job", "failed", "division by zero", "22012")]
    assert value(session, "SELECT count(*) FROM work") == 0
    assert current(session) is None


@pytest.mark.parametrize("status", ["pending", "unknown", "Completed", "", None])
def test_only_outcomes_are_outcomes(session: Connection, status: str | None) -> None:
    """Another status is refused, and the action stays pending."""
    action_id = record(session)
    with pytest.raises((errors.CheckViolation, errors.NotNullViolation)), session.transaction():
        complete(session, action_id, status=status)
    assert logged(session, action_id)["status"] == "pending"
    assert current(session) == action_id


def test_what_was_never_begun_cannot_be_completed(session: Connection) -> None:
    """The error says which action, and what to look at."""
    action_id = uuid4()
    with pytest.raises(errors.NoDataFound) as caught, session.transaction():
        complete(session, action_id)
    assert caught.value.diag.message_primary == f"action {action_id} is not pending"
    assert "provenance.outcome()" in str(caught.value.diag.message_hint)
    with pytest.raises(errors.NoDataFound), session.transaction():
        session.execute("SELECT provenance.complete_action(NULL)")


def test_completing_twice_is_refused(session: Connection) -> None:
    """The first outcome stands."""
    action_id = record(session)
    complete(session, action_id, result="1")
    with pytest.raises(errors.NoDataFound), session.transaction():
        complete(session, action_id, status="failed")
    assert (logged(session, action_id)["status"], logged(session, action_id)["result"]) == ("completed", 1)


def test_recording_an_id_twice_is_refused(session: Connection) -> None:
    """An id names one action."""
    action_id = record(session)
    with pytest.raises(errors.UniqueViolation), session.transaction():
        record(session, id=action_id)


def test_of_two_that_complete_at_once_one_wins(connect: Callable[..., Connection]) -> None:
    """The second waits for the first and then fails, and its work with it."""
    first, second, watcher = connect(), connect(), connect()
    action_id = record(watcher)
    with ThreadPoolExecutor(1) as executor:
        with first.transaction():
            complete(first, action_id, result="1")

            def late() -> None:
                with second.transaction():
                    second.execute("INSERT INTO work (id) VALUES (2)")
                    complete(second, action_id, result="2")

            answer = executor.submit(late)
            until(lambda: waiting(watcher))
        with pytest.raises(errors.UniqueViolation):
            answer.result(timeout=30)
    assert watcher.execute("SELECT result FROM provenance.actions").fetchall() == [(1,)]
    assert value(watcher, "SELECT count(*) FROM work") == 0


def test_the_second_completes_when_the_first_is_rolled_back(connect: Callable[..., Connection]) -> None:
    """An outcome that was not committed is none."""
    first, second, watcher = connect(), connect(), connect()
    action_id = record(watcher)
    with ThreadPoolExecutor(1) as executor:
        with first.transaction(force_rollback=True):
            complete(first, action_id, result="1")
            answer = executor.submit(complete, second, action_id, result="2")
            until(lambda: waiting(watcher))
        answer.result(timeout=30)
    assert watcher.execute("SELECT result FROM provenance.actions").fetchall() == [(2,)]
    assert value(watcher, "SELECT count(*) FROM provenance.action_intents") == 0


@pytest.mark.parametrize("isolation", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_strict_isolation(connect: Callable[..., Connection], isolation: IsolationLevel) -> None:
    """Begun before the snapshot or inside it, an action is completed, and its intent is gone."""
    own, other = connect(), connect()
    own.isolation_level = isolation
    earlier = record(other)
    with own.transaction():
        value(own, "SELECT count(*) FROM work")
        inside = record(own)
        complete(own, inside)
        complete(own, earlier)
    assert {row[0] for row in own.execute("SELECT id FROM provenance.actions").fetchall()} == {earlier, inside}
    assert value(own, "SELECT count(*) FROM provenance.action_intents") == 0


@pytest.mark.parametrize("isolation", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_strict_isolation_cannot_complete_what_others_completed_since(
    connect: Callable[..., Connection], isolation: IsolationLevel
) -> None:
    """The old snapshot still shows it as pending; the fence does not."""
    own, other = connect(), connect()
    own.isolation_level = isolation
    action_id = record(other)
    with pytest.raises((errors.UniqueViolation, errors.SerializationFailure)), own.transaction():
        value(own, "SELECT count(*) FROM provenance.action_intents")
        complete(other, action_id, result="1")
        complete(own, action_id, result="2")
    assert logged(other, action_id)["result"] == 1


def test_strict_isolation_does_not_know_what_was_begun_since(connect: Callable[..., Connection]) -> None:
    """An action begun after the snapshot is refused loudly, not completed by halves."""
    own, other = connect(), connect()
    own.isolation_level = IsolationLevel.REPEATABLE_READ
    with pytest.raises(errors.NoDataFound), own.transaction():
        value(own, "SELECT count(*) FROM work")
        complete(own, record(other))


def test_one_process_begins_and_another_completes(connect: Callable[..., Connection]) -> None:
    """An action outlives the session that began it."""
    first, second = connect(), connect()
    action_id = record(first)
    first.close()
    complete(second, action_id)
    assert logged(second, action_id)["status"] == "completed"


def test_a_pending_action_is_described_until_it_has_an_outcome(session: Connection) -> None:
    """The description is everything that was recorded, without who is connected."""
    action_id = record(session, user_id="u", payload="[1]")
    found = value(session, "SELECT provenance.pending_action(%s)", action_id)
    assert {key: found[key] for key in ("id", "action_type", "user_id", "payload", "tenant_id")} == {
        "id": str(action_id),
        "action_type": "a",
        "user_id": "u",
        "payload": [1],
        "tenant_id": "",
    }
    assert "db_user" not in found
    complete(session, action_id)
    assert value(session, "SELECT provenance.pending_action(%s)", action_id) is None
    assert value(session, "SELECT provenance.pending_action(%s)", uuid4()) is None


def test_what_is_in_doubt_is_not_pending(session: Connection) -> None:
    """Nobody can go on with an action whose outcome cannot be known."""
    action_id = record(session)
    session.execute("UPDATE provenance.action_intents SET doubt = 'the link broke'")
    assert value(session, "SELECT provenance.pending_action(%s)", action_id) is None
    row = logged(session, action_id)
    assert (row["status"], row["error_message"]) == ("unknown", "the link broke")


def test_an_intent_whose_outcome_is_recorded_is_not_pending(session: Connection) -> None:
    """The terminal row counts, and the evidence can go; without an outcome it cannot."""
    action_id = record(session)
    session.execute("SELECT provenance.forget_intent(%s)", (action_id,))
    assert logged(session, action_id)["status"] == "pending"
    insert(session, action_id)
    assert value(session, "SELECT provenance.pending_action(%s)", action_id) is None
    query = "SELECT status FROM provenance.action_log WHERE id = %s"
    assert session.execute(query, (action_id,)).fetchall() == [("completed",)]
    session.execute("SELECT provenance.forget_intent(%s)", (action_id,))
    assert value(session, "SELECT count(*) FROM provenance.action_intents") == 0


def test_an_expired_action_is_unknown_and_can_still_be_completed(session: Connection) -> None:
    """Unknown is what is shown, not what is stored."""
    action_id = record(session, expires_in=timedelta(microseconds=1))
    until(lambda: logged(session, action_id)["status"] == "unknown")
    complete(session, action_id)
    assert logged(session, action_id)["status"] == "completed"


def test_the_outcome_of_an_action(session: Connection) -> None:
    """A status once it has ended, nothing before."""
    action_id = record(session)
    query = "SELECT provenance.outcome(%s)"
    assert (value(session, query, uuid4()), value(session, query, action_id)) == (None, None)
    complete(session, action_id, status="rolled_back")
    assert value(session, query, action_id) == "rolled_back"


def test_who_and_when_are_the_databases_word(session: Connection) -> None:
    """Also through the function that runs with its owner's rights."""
    role = f"provenance_role_{secrets.token_hex(8)}"
    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    session.execute("SELECT provenance.grant_writer(%s)", (role,))
    session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    action_id = record(session)
    complete(session, action_id)
    session.execute("RESET ROLE")
    row = session.execute(
        """SELECT db_user = session_user, xid = pg_current_xact_id(), recorded_at BETWEEN now() AND clock_timestamp()
             FROM provenance.actions"""
    ).fetchone()
    assert row == (True, True, True)


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("action_type", ""),
        ("action_type", "x" * 101),
        ("entity_type", ""),
        ("entity_type", "x" * 101),
        ("entity_id", "x" * 257),
        ("user_id", "x" * 257),
        ("tenant_id", "x" * 257),
        ("correlation_id", "x" * 257),
        ("started_at", "infinity"),
        ("started_at", "-infinity"),
        ("started_at", "1969-12-31 23:59:59Z"),
        ("started_at", "12000-01-01Z"),
    ],
)
def test_what_could_never_be_completed_is_refused_at_once(session: Connection, argument: str, given: str) -> None:
    """A value that no index takes, or a time that no client reads, would leave the action pending for ever."""
    with pytest.raises(errors.CheckViolation), session.transaction():
        record(session, **{argument: given})
    assert current(session) is None


def test_the_longest_values_can_be_completed(session: Connection) -> None:
    """Four-byte characters as long as they may be, which no compression shortens, fit every index."""

    def noise(length: int) -> str:
        return "".join(chr(0x1F000 + secrets.randbelow(0xF00)) for _ in range(length))

    longest = {"user_id": 256, "tenant_id": 256, "entity_id": 256, "correlation_id": 256, "entity_type": 100}
    action_id = record(session, noise(100), **{name: noise(length) for name, length in longest.items()})
    complete(session, action_id)
    assert logged(session, action_id)["status"] == "completed"


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "1969-12-31 23:59:59Z", "12000-01-01Z"])
@pytest.mark.parametrize("column", ["started_at", "completed_at"])
def test_times_that_clients_cannot_read_are_refused(session: Connection, column: str, moment: str) -> None:
    """One such row would make every listing it is in unreadable."""
    times = {"started_at": "2026-01-01Z", "completed_at": "2026-01-01Z", column: moment}
    with pytest.raises(errors.CheckViolation), session.transaction():
        session.execute(
            """INSERT INTO provenance.actions
                      (id, root_id, action_type, concept, status, started_at, completed_at, duration_ms)
               VALUES (%(id)s, %(id)s, 'a', 'c', 'completed', %(started_at)s, %(completed_at)s, 1)""",
            {"id": ids.new_id(), **times},
        )


# --- Hostile surroundings --------------------------------------------------------------------------------------------

_STOLEN = "'00000000-0000-0000-0000-000000000bad'"

# Functions of the same names and arguments as the server's own, and tables of the same names as ours.
_IMPOSTORS = f"""
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''1999-01-01Z''::timestamptz';
    CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT {_STOLEN}::text $$;
    CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'CREATE TABLE evil.hijacked ()'::text $$;
    CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$ SELECT {_STOLEN}::uuid $$;
    CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT {_STOLEN}::text $$;
    CREATE FUNCTION evil.int8send(bigint) RETURNS bytea LANGUAGE sql AS $$ SELECT '\\x00'::bytea $$;
    CREATE FUNCTION evil.repeat(text, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'f'::text $$;
    CREATE FUNCTION evil.to_char(timestamp, text) RETURNS text LANGUAGE sql AS $$ SELECT '1999_01'::text $$;
    CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$ SELECT '1'::xid8 $$;
    CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR evil.= (FUNCTION = evil.always, LEFTARG = text, RIGHTARG = text);
    CREATE FUNCTION evil.always(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR evil.= (FUNCTION = evil.always, LEFTARG = uuid, RIGHTARG = uuid);
    CREATE TABLE evil.actions (id uuid);
    CREATE TABLE evil.action_intents (id uuid);
    CREATE TEMP TABLE actions (id uuid);
    CREATE TEMP TABLE action_intents (id uuid);
    CREATE TEMP VIEW action_log AS SELECT 1 AS id;
    SET LOCAL search_path = pg_temp, evil, pg_catalog"""


def test_impostors_in_front_of_the_search_path_do_not_matter(session: Connection) -> None:
    """A whole life of actions, with every function, operator and table that could be mistaken for the real one."""
    session.execute(_IMPOSTORS.encode())
    before = value(session, "SELECT pg_catalog.clock_timestamp()")
    outer = record(session, "outer")
    inner = record(session, "inner")
    assert current(session) == inner
    assert value(session, "SELECT provenance.pending_action(%s) ->> 'action_type'", inner) == "inner"
    complete(session, inner)
    assert current(session) == outer
    assert value(session, "SELECT provenance.root_of(%s)", inner) == outer
    complete(session, outer)
    assert current(session) is None
    session.execute("SELECT provenance.set_context(%s)", (outer,))
    assert current(session) == outer
    assert value(session, "SELECT provenance.outcome(%s)", outer) == "completed"
    made = value(session, "SELECT provenance.uuid_v7()")
    assert made.version == 7
    assert made >= ids.floor_id(before)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert value(session, "SELECT provenance.uuid_floor(%s)", moment) == UUID(int=ids.floor_id(moment).int >> 80 << 80)
    assert len(session.execute("SELECT provenance.ensure_partitions(8)").fetchall()) == 2 * len(PARTITIONED)
    session.execute("SET LOCAL search_path = ''")
    assert value(session, "SELECT to_regclass('evil.hijacked')") is None
    assert session.execute(
        "SELECT action_type, started_at >= %s FROM provenance.actions ORDER BY 1", (before,)
    ).fetchall() == [
        ("inner", True),
        ("outer", True),
    ]
    assert schema.verify(session) == []


def test_a_better_matching_overload_does_not_matter(session: Connection) -> None:
    """A function whose arguments fit more closely wins wherever it lies on the search_path.

    Anybody who may create functions in a schema on the path of a superuser could have SQL of his own executed by it.
    """
    role = f"provenance_role_{secrets.token_hex(8)}"
    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    session.execute("SET LOCAL search_path = public")
    overloads = ("text, text", "text, name", "text, text, uuid, uuid", "text, text, text", "text, name, name")
    for arguments in (*overloads, "text, text, text, timestamptz, timestamptz"):
        session.execute(
            f"""CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE sql
                AS $$ SELECT 'CREATE TABLE IF NOT EXISTS public.hijacked ()' $$""".encode()
        )
    session.execute(
        """CREATE FUNCTION public.generate_series(timestamp, timestamp, text) RETURNS SETOF timestamp LANGUAGE sql
           AS $$ SELECT '1999-01-01'::timestamp $$"""
    )
    action_id = uuid4()
    session.execute("SELECT provenance.set_context(%s)", (action_id,))
    assert current(session) == action_id
    assert len(session.execute("SELECT provenance.ensure_partitions(8)").fetchall()) == 2 * len(PARTITIONED)
    session.execute("SELECT provenance.grant_writer(%s), provenance.grant_reader(%s)", (role, role))
    assert value(session, "SELECT has_table_privilege(%s, 'provenance.action_log', 'SELECT')", role) is True
    assert value(session, "SELECT to_regclass('public.hijacked')") is None


def test_row_changes_are_captured_among_impostors(session: Connection) -> None:
    """A whole life of a captured table: what is stored, and what is read, is what was written."""
    session.execute(_IMPOSTORS.encode())
    action_id = record(session)
    session.execute("SELECT provenance.capture_table('public.work', masked => '{secret}')")
    session.execute("INSERT INTO public.work (id, secret) VALUES (1, 's'), (2, NULL)")
    session.execute("UPDATE public.work SET secret = 't' WHERE pg_catalog.int4eq(id, 1)")
    session.execute("DELETE FROM public.work WHERE pg_catalog.int4eq(id, 2)")
    session.execute("SELECT provenance.adopt_table('public.work')")
    found = session.execute(
        "SELECT operation, row_key, action_id, new_row, masked_changes FROM provenance.row_changes ORDER BY seq, ordinal"
    ).fetchall()
    row = f"(1,{action_id})"
    assert found == [
        ("insert", "1", action_id, row, None),
        ("insert", "2", action_id, f"(2,{action_id})", None),
        ("update", "1", action_id, row, ["secret"]),
        ("delete", "2", action_id, None, None),
    ]
    assert session.execute(
        "SELECT row_key, row_text FROM provenance.rows_as_of('public.work', 'public.work', pg_catalog.clock_timestamp())"
    ).fetchall() == [("1", row)]
    session.execute("SELECT provenance.release_table('public.work')")
    session.execute("SET LOCAL search_path = ''")
    assert value(session, "SELECT to_regclass('evil.hijacked')") is None
    assert schema.verify(session) == []


# These run for every row or statement of somebody's table, and a SET of their own would cost each of them a visit to the
# settings. So they do without, and use nothing that is looked up on the search_path: see the tests below.
BARE = {"require_action", "stamp_insert", "stamp_update"}
# A path of the first would keep it from becoming a part of the others; theirs would hold in triggers of the application's.
WRITING = {"incoming_actions", "write_actions", "write_missing_actions"}


def test_every_function_is_safe_from_the_search_path(session: Connection) -> None:
    """Each is parsed when it is created, or brings a search_path of its own with the temporary schema last.

    Some do neither, for the reasons given above, and no others.
    """
    unsafe = session.execute(
        """SELECT proname FROM pg_proc
            WHERE pronamespace = 'provenance'::regnamespace AND prosqlbody IS NULL
              AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"""
    ).fetchall()
    assert sorted(row[0] for row in unsafe) == sorted(BARE | WRITING)


@pytest.mark.parametrize("function", sorted(BARE | WRITING))
def test_a_function_without_a_search_path_looks_nothing_up(session: Connection, function: str) -> None:
    """What it calls is qualified, and there is no operator, no unqualified cast and no declared type in it."""
    source = re.sub(r"--.*", "", source_of(session, function))
    # What is left without literals, assignments, qualified casts and the options of RAISE.
    bare = re.sub(r":=|::pg_catalog\.\w+|\b(ERRCODE|HINT) =", "", re.sub(r"'[^']*'", "", source))
    if function in WRITING:
        bare = bare.replace("SELECT * FROM", "")
    # Grammar, and what is given a list of columns.
    called = set(re.findall(r"[\w.]+(?=\s*\()", bare)) - {"COALESCE", "LATERAL", "r"}
    assert called
    assert {name.partition(".")[0] for name in called} <= {"provenance", "pg_catalog"}
    assert re.findall(r"[^\w\s.,;()]", bare) == []
    # Words that look up an operator or a type. COALESCE, IS NULL and a CASE that names no operand are grammar.
    words = {word.upper() for word in re.findall(r"\w+", bare)} - (
        {"SELECT", "PERFORM"} if function in WRITING else set()
    )
    assert not words & {
        "SELECT", "EXECUTE", "PERFORM", "NULLIF", "CAST", "IN", "ANY", "LIKE", "ILIKE", "BETWEEN", "DISTINCT"
    }  # fmt: skip
    declared = re.findall(r"\bDECLARE\b(.*?)\bBEGIN\b", bare, re.DOTALL)
    assert all(re.match(r"\s+\w+ CONSTANT pg_catalog\.\w+\s+CASE", one) for one in declared)
    assert not re.search(r"\bCASE\b(?!\s+WHEN\b)", bare)
    assert not re.search(r"(?<![\w.])(uuid|text|jsonb|timestamptz|float8|int8)\b", bare)


def test_every_column_of_a_row_is_inserted(session: Connection) -> None:
    """A field that is added to the row and forgotten in the functions would be lost without a word.

    Their columns go from one to the other by place.
    """
    fields = {field.name for field in attrs.fields(ActionRow)}
    incoming = source_of(session, "incoming_actions")
    returned = value(session, "SELECT proargnames[2:] FROM pg_proc WHERE oid = 'provenance.incoming_actions'::regproc")
    assert fields - set(returned) == {"ordinal", "fence", "intended"}
    assert set(returned) - fields == set()
    for function in ("write_actions", "write_missing_actions"):
        inserted = re.search(r"INSERT INTO provenance\.actions \(([^)]*)\)", source_of(session, function))
        assert inserted is not None
        assert re.split(r",\s*", inserted[1].strip()) == returned
    read = re.search(r"AS r \(([^)]*)\)", incoming)
    assert read is not None
    assert {column.split()[0] for column in read[1].split(",")} == fields - {"intended"}
    assert {name for name in fields if re.search(rf"\br\.{name}\b", incoming)} == fields - {"intended"}


def test_only_what_is_written_apart_from_its_work_may_be_there_already(session: Connection) -> None:
    """The row of committed work must conflict; what is written afterwards must not."""
    assert "ON CONFLICT" not in source_of(session, "write_actions")
    assert source_of(session, "write_missing_actions").count("ON CONFLICT DO NOTHING") == 1


@pytest.mark.parametrize("path", ["pg_temp, evil, pg_catalog", "evil", "pg_temp, evil"])
def test_stamping_is_safe_from_the_search_path(connect: Callable[..., Connection], path: str) -> None:
    """Functions, operators, casts and types in front of the server's own are not used by the triggers.

    Neither are they when the session has stamped before, and when the path is changed in between.
    """
    session = connect()
    session.execute("""
        CREATE TABLE stamped (id integer PRIMARY KEY, created_by_action_id uuid, updated_by_action_id uuid);
        CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON stamped
            FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action();
        CREATE TRIGGER b BEFORE INSERT ON stamped FOR EACH ROW EXECUTE FUNCTION provenance.stamp_insert();
        CREATE TRIGGER c BEFORE UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION provenance.stamp_update()""")
    hostile = f"""{_IMPOSTORS.rpartition("SET LOCAL")[0]}
        CREATE FUNCTION evil.current_action_id() RETURNS uuid LANGUAGE sql AS $$ SELECT {_STOLEN}::uuid $$;
        CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT {_STOLEN}::text $$;
        CREATE FUNCTION evil.quote_literal(text) RETURNS text LANGUAGE sql AS $$ SELECT {_STOLEN}::text $$;
        CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT {_STOLEN}::text $$;
        CREATE FUNCTION evil.uuid(text) RETURNS uuid LANGUAGE sql AS $$ SELECT {_STOLEN}::uuid $$;
        CREATE FUNCTION evil.never(boolean) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.! (FUNCTION = evil.never, RIGHTARG = boolean);
        CREATE OPERATOR evil.<> (FUNCTION = evil.always, LEFTARG = uuid, RIGHTARG = uuid);
        CREATE DOMAIN evil.uuid AS pg_catalog.text CHECK (false);
        CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
        CREATE DOMAIN evil.bool AS pg_catalog.bool CHECK (false);
        CREATE TEMP TABLE stamped (id integer)"""
    first, second = uuid4(), uuid4()
    query = "SELECT id, created_by_action_id, updated_by_action_id FROM public.stamped ORDER BY id"

    def refused(statement: str, operation: str) -> None:
        with pytest.raises(errors.ObjectNotInPrerequisiteState) as caught, session.transaction():
            session.execute(statement.encode())
        assert caught.value.diag.message_primary == f"{operation} of public.stamped refused: no action is current"

    with session.transaction(force_rollback=True):
        session.execute("SELECT provenance.set_context(%s)", (first,))
        session.execute("INSERT INTO public.stamped (id) VALUES (1)")
        session.execute(hostile.encode())
        session.execute(f"SET LOCAL search_path = {path}".encode())
        session.execute("SELECT provenance.set_context(%s)", (second,))
        session.execute("INSERT INTO public.stamped VALUES (2, %s, NULL)", (uuid4(),))
        session.execute("UPDATE public.stamped SET created_by_action_id = NULL WHERE id OPERATOR(pg_catalog.=) 1")
        assert session.execute(query).fetchall() == [(1, first, second), (2, second, second)]
        session.execute("SELECT provenance.set_context(NULL)")
        refused("INSERT INTO public.stamped (id) VALUES (3)", "INSERT")
        refused("UPDATE public.stamped SET updated_by_action_id = NULL", "UPDATE")
        refused("DELETE FROM public.stamped", "DELETE")
        session.execute("DROP TRIGGER a ON public.stamped")
        session.execute("UPDATE public.stamped SET created_by_action_id = NULL")
        assert session.execute(query).fetchall() == [(1, first, None), (2, second, None)]
    # In a session in which nothing has been planned yet.
    other = connect()
    with other.transaction(force_rollback=True):
        other.execute(hostile.encode())
        other.execute(f"SET LOCAL search_path = {path}".encode())
        other.execute("SELECT provenance.set_context(%s)", (first,))
        other.execute("INSERT INTO public.stamped (id) VALUES (1)")
        other.execute("UPDATE public.stamped SET created_by_action_id = NULL")
        assert other.execute(query).fetchall() == [(1, first, first)]


# What the owner of a table can have executed when a value of this type is assigned to a column of it.
_OF_THE_OWNER = {
    "domain": """
        CREATE FUNCTION public.noted(uuid) RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE 'ran as %', current_user; RETURN true; END $$;
        CREATE DOMAIN public.own_type AS uuid CHECK (public.noted(VALUE))""",
    "cast": """
        CREATE TYPE public.own_type AS (id uuid);
        CREATE FUNCTION public.noted(id uuid) RETURNS public.own_type LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE 'ran as %', current_user; RETURN ROW(id); END $$;
        CREATE CAST (uuid AS public.own_type) WITH FUNCTION public.noted(uuid) AS ASSIGNMENT""",
}


@pytest.mark.parametrize("how", _OF_THE_OWNER)
def test_stamping_lends_nobody_the_rights_of_the_owner(session: Connection, how: str) -> None:
    """Whoever owns a stamped table decides what its columns are, and so what is executed when one is assigned to.

    With the rights of the owner of the schema, that could disable its guards.
    """
    role = sql.Identifier(name := f"provenance_role_{secrets.token_hex(8)}")
    session.execute(sql.SQL("CREATE ROLE {0}; GRANT CREATE ON SCHEMA public TO {0}").format(role))
    session.execute("SELECT provenance.grant_writer(%s)", (name,))
    session.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
    session.execute("CREATE TABLE public.stamped (id integer, created_by_action_id uuid, updated_by_action_id uuid)")
    session.execute("RESET ROLE")
    session.execute("""
        CREATE TRIGGER b BEFORE INSERT ON stamped FOR EACH ROW EXECUTE FUNCTION provenance.stamp_insert();
        CREATE TRIGGER c BEFORE UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION provenance.stamp_update()""")
    session.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
    session.execute(_OF_THE_OWNER[how].encode())
    session.execute("""
        ALTER TABLE stamped ALTER COLUMN created_by_action_id TYPE own_type USING NULL,
                            ALTER COLUMN updated_by_action_id TYPE own_type USING NULL""")
    said: set[str | None] = set()

    def note(diag: errors.Diagnostic) -> None:
        said.add(diag.message_primary)

    session.add_notice_handler(note)
    record(session)
    session.execute("INSERT INTO stamped (id) VALUES (1)")
    session.execute("UPDATE stamped SET id = 2")
    session.remove_notice_handler(note)
    assert said == {f"ran as {name}"}


def test_capturing_a_truncate_lends_nobody_the_rights_of_the_owner(owned: tuple[str, str]) -> None:
    """What TRUNCATE removes is read by the owner of the schema, and a policy of the table's is executed by who reads.

    Neither is it executed with those rights, nor do its rows go unrecorded because it hides them.
    """
    address, owner = owned
    role = sql.Identifier(name := f"provenance_role_{secrets.token_hex(8)}")
    said: set[str | None] = set()
    with psycopg.connect(address) as session:
        session.add_notice_handler(lambda diag: said.add(diag.message_primary))
        session.execute(sql.SQL("CREATE ROLE {0}; GRANT CREATE, USAGE ON SCHEMA public TO {0}").format(role))
        session.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
        session.execute("CREATE TABLE hidden (id integer PRIMARY KEY)")
        session.execute(sql.SQL("GRANT SELECT ON hidden TO {}").format(sql.Identifier(owner)))
        session.execute("RESET ROLE")
        session.execute("SELECT provenance.capture_table('hidden')")
        session.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
        session.execute("""
            INSERT INTO hidden (id) VALUES (1);
            CREATE FUNCTION noted() RETURNS boolean LANGUAGE plpgsql AS $$
                BEGIN RAISE NOTICE 'ran as %', current_user; RETURN false; END $$;
            ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
            CREATE POLICY hiding ON hidden USING (noted())""")
        with contextlib.suppress(errors.InsufficientPrivilege), session.transaction():
            session.execute("TRUNCATE hidden")
        left = value(session, "SELECT count(*) FROM hidden")  # by its owner, to whom the policy does not apply
        session.execute("RESET ROLE")
        removed = value(session, "SELECT count(*) FROM provenance.row_changes WHERE operation = 'truncate'")
        session.rollback()
    assert said <= {f"ran as {name}"}
    assert (left, removed) in {(1, 0), (0, 1)}


def test_nobody_may_execute_anything_unless_granted(session: Connection) -> None:
    """Functions are open to everybody by default in Postgres; these are not."""
    role = f"provenance_role_{secrets.token_hex(8)}"
    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    query = """SELECT proname FROM pg_proc WHERE pronamespace = 'provenance'::regnamespace
                AND has_function_privilege(%s, oid, 'EXECUTE') ORDER BY proname"""
    assert session.execute(query, (role,)).fetchall() == []
    session.execute("SELECT provenance.grant_writer(%s)", (role,))
    assert {row[0] for row in session.execute(query, (role,)).fetchall()} == {
        "below_view",
        "claim_key",
        "close_blocks",
        "complete_action",
        "current_action_id",
        "doubt_intent",
        "extend_intents",
        "forget_intent",
        "holds_key",
        "incoming_actions",
        "open_block",
        "outcome",
        "pending_action",
        "qualified_name",
        "record_action",
        "recover",
        "refresh_view",
        "refuse_archived",
        "resolve",
        "root_of",
        "schema_version",
        "set_context",
        "system_identifier",
        "uuid_v7",
        "view_function",
        "view_to_refresh",
        "write_actions",
        "write_missing_actions",
    }


def test_what_is_made_for_a_captured_table_is_nobodys_either(session: Connection) -> None:
    """Whoever could make it the trigger of another table could record what never happened."""
    role = f"provenance_role_{secrets.token_hex(8)}"
    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    session.execute("SELECT provenance.grant_writer(%s), provenance.grant_reader(%s)", (role, role))
    # Again, with other settings: the function is replaced, and its rights must not be.
    for settings in ("", ", masked => '{secret}'"):
        captured = value(session, f"SELECT provenance.capture_table('work'{settings})")
        function = f"provenance.capture_{captured}()"
        assert value(session, "SELECT has_function_privilege(%s, %s, 'EXECUTE')", role, function) is False


def test_a_role_name_is_quoted(session: Connection) -> None:
    """A name cannot grant more than it says."""
    role = f'provenance role "{secrets.token_hex(8)}"; DROP TABLE work'
    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    session.execute("SELECT provenance.grant_writer(%s), provenance.grant_reader(%s)", (role, role))
    assert value(session, "SELECT has_schema_privilege(%s, 'provenance', 'USAGE')", role) is True
    assert value(session, "SELECT count(*) FROM work") == 0
    with pytest.raises(errors.UndefinedObject), session.transaction():
        session.execute("SELECT provenance.grant_writer('provenance_no_such_role')")


# --- Guards ----------------------------------------------------------------------------------------------------------


NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=31 * 9)
NEVER = NOW + timedelta(days=4000)
# What is tried on which table, and the table that its rows are in.
TABLES = {
    f"{table}, {where}": (table, name)
    for table in PARTITIONED
    for where, name in {
        "all": table,
        "this month": f"{table}_{NOW:%Y_%m}",
        "later": f"{table}_{LATER:%Y_%m}",
        "default": f"{table}_default",
    }.items()
}


@pytest.fixture(scope="module")
def owned(provenance_server: str) -> Iterator[tuple[str, str]]:
    """Yield the address of a database whose trail belongs to an ordinary role, with a row in each table, and that role.

    Of each partitioned table one row is in this month, one in a partition that was made later, one in the default one.
    """
    name, role = f"provenance_test_{secrets.token_hex(8)}", f"provenance_role_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(role)))
        address = conninfo.make_conninfo(provenance_server, dbname=name)
        with psycopg.connect(conninfo.make_conninfo(address, user=role), autocommit=True) as own:
            schema.up(own)
            own.execute("SELECT provenance.ensure_partitions(10)")
            for moment in (NOW, LATER, NEVER):
                insert(own, id_at(moment))
                insert_change(own, moment)
        yield address, role
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


# {} is the table; {column} one of its columns, {key} that by which it is partitioned, and {moved} a value for it.
CHANGES = {
    "UPDATE": "UPDATE {} SET {column} = 'failed'",
    "UPDATE of the key": "UPDATE {} SET {key} = {moved}",
    "DELETE": "DELETE FROM {}",
    "TRUNCATE": "TRUNCATE {}",
    "TRUNCATE ONLY": "TRUNCATE ONLY {}",
    "MERGE with UPDATE": "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN UPDATE SET {column} = 'failed'",
    "MERGE with DELETE": "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "INSERT with UPDATE": "INSERT INTO {0} SELECT * FROM {0} ON CONFLICT (id) DO UPDATE SET {column} = 'failed'",
}
WORDS = {
    "actions": {"column": "status", "key": "id", "moved": "provenance.uuid_v7()"},
    "row_changes": {"column": "operation", "key": "recorded_at", "moved": "now()"},
}
# Row changes have no unique index, so that nothing ever conflicts with one.
ATTEMPTS = [
    (table, change)
    for table, (parent, _) in TABLES.items()
    for change in CHANGES
    if not (parent == "row_changes" and change == "INSERT with UPDATE")
]


@pytest.mark.parametrize(("table", "change"), ATTEMPTS)
@pytest.mark.parametrize("who", ["owner", "superuser", "replica"])
def test_what_is_recorded_cannot_be_changed(owned: tuple[str, str], who: str, table: str, change: str) -> None:
    """Not by the owner, not by a superuser, not as replication, not in a partition, not in one that was made later."""
    parent, name = TABLES[table]
    if name == parent and change == "TRUNCATE ONLY":
        change = "TRUNCATE"  # ONLY means nothing for a partitioned table, and Postgres refuses it by itself
    address, role = owned
    user = {"user": role} if who == "owner" else {}
    with (
        psycopg.connect(conninfo.make_conninfo(address, **user), autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        if who == "replica":
            connection.execute("SET LOCAL session_replication_role = replica")
        before = connection.execute(f"SELECT * FROM provenance.{parent} ORDER BY recorded_at".encode()).fetchall()  # noqa: S608
        refused = pytest.raises(
            errors.InsufficientPrivilege, match=rf"^provenance\.{parent}\w* is insert-only: \w+ refused"
        )
        with refused as caught, connection.transaction():
            connection.execute(CHANGES[change].format(f"provenance.{name}", **WORDS[parent]).encode())
        assert str(caught.value.diag.message_hint).startswith("Recorded actions are evidence")
        after = connection.execute(f"SELECT * FROM provenance.{parent} ORDER BY recorded_at".encode()).fetchall()  # noqa: S608
        assert after == before
        assert len(after) == 3


def test_the_guarded_tables_hold_rows_to_guard(owned: tuple[str, str]) -> None:
    """One row in each: a trigger for rows does nothing where there are none."""
    address, _ = owned
    with psycopg.connect(address) as connection:
        for parent, name in TABLES.values():
            expected = 3 if name == parent else 1
            assert value(connection, f"SELECT count(*) FROM provenance.{name}") == expected  # noqa: S608


def test_truncating_what_refers_to_nothing_else_does_not_cascade(session: Connection) -> None:
    """The partitioned table and a table of the application's own in one command: nothing is emptied."""
    session.execute("INSERT INTO work (id) VALUES (1)")
    insert(session, ids.new_id())
    insert_change(session, NOW)
    for table in PARTITIONED:
        with pytest.raises(errors.InsufficientPrivilege), session.transaction():
            session.execute(f"TRUNCATE work, provenance.{table} CASCADE".encode())
        assert value(session, "SELECT count(*) FROM work") == 1
        assert value(session, f"SELECT count(*) FROM provenance.{table}") == 1  # noqa: S608


# --- Partitions ------------------------------------------------------------------------------------------------------


def partition_of(connection: Connection, action_id: UUID) -> str:
    """Insert a row and return the partition it landed in."""
    insert(connection, action_id)
    query = "SELECT tableoid::regclass::text FROM provenance.actions WHERE id = %s"
    return str(value(connection, query, action_id)).removeprefix("provenance.")


def partition_of_change(connection: Connection, moment: datetime) -> str:
    """Insert a row change of a moment and return the partition it landed in."""
    with connection.transaction(force_rollback=True):
        insert_change(connection, moment)
        query = "SELECT tableoid::regclass::text FROM provenance.row_changes WHERE recorded_at = %s"
        return str(value(connection, query, moment)).removeprefix("provenance.")


def months(*ahead: int) -> list[str]:
    """Return the names of the partitions of these months, of every partitioned table, in the order they are made in."""
    return [f"{table}_{first_of_month(month):%Y_%m}" for table in PARTITIONED for month in ahead]


def ensured(connection: Connection, ahead: int) -> list[str]:
    """Make the partitions of the coming months and return the names of the new ones."""
    return [row[0] for row in connection.execute("SELECT provenance.ensure_partitions(%s)", (ahead,)).fetchall()]


def first_of_month(ahead: int) -> datetime:
    """Return the first moment of the month so many months from now, in UTC."""
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def test_a_row_lands_in_the_month_of_its_id(session: Connection) -> None:
    """To the millisecond, in every month there is, over the turn of the year, with ids of client and server."""
    session.execute("SELECT provenance.ensure_partitions(13)")
    for ahead in range(14):
        first, next_first = first_of_month(ahead), first_of_month(ahead + 1)
        name = f"actions_{first:%Y_%m}"
        lowest = UUID(int=ids.floor_id(first).int)
        highest = UUID(int=(ids.floor_id(next_first).int >> 80 << 80) - 1)
        inside = [lowest, highest, id_at(first), id_at(first + timedelta(days=14)), id_at(next_first - MILLISECOND)]
        assert {partition_of(session, action_id) for action_id in inside} == {name}
    assert partition_of(session, value(session, "SELECT provenance.uuid_v7()")) == f"actions_{datetime.now(UTC):%Y_%m}"
    assert partition_of(session, ids.new_id()) == f"actions_{datetime.now(UTC):%Y_%m}"


def test_a_row_change_lands_in_the_month_it_was_recorded_in(session: Connection) -> None:
    """To the microsecond, in every month there is, over the turn of the year."""
    session.execute("SELECT provenance.ensure_partitions(13)")
    for ahead in range(14):
        first, next_first = first_of_month(ahead), first_of_month(ahead + 1)
        inside = [first, first + timedelta(days=14), next_first - timedelta(microseconds=1)]
        assert {partition_of_change(session, moment) for moment in inside} == {f"row_changes_{first:%Y_%m}"}
    assert partition_of_change(session, datetime.now(UTC)) == f"row_changes_{datetime.now(UTC):%Y_%m}"
    assert partition_of_change(session, first_of_month(14)) == "row_changes_default"


def test_partitions_meet_without_gap_or_overlap(session: Connection) -> None:
    """Where one month ends the next begins, and names grow with time, December to January included."""
    made = ensured(session, 25)
    assert made == months(*range(7, 26))
    session.execute("SET LOCAL timezone = 'UTC'")
    bounds = [
        value(session, "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s", name) for name in made
    ]
    firsts = [first_of_month(ahead) for ahead in range(7, 27)]
    floors = [value(session, "SELECT provenance.uuid_floor(%s)", first) for first in firsts]
    assert bounds == [
        f"FOR VALUES FROM ('{low}') TO ('{high}')"
        for limits in (floors, [f"{first:%Y-%m-%d} 00:00:00+00" for first in firsts])
        for low, high in pairwise(limits)
    ]


@pytest.mark.parametrize("moment", [datetime(2001, 2, 3, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_a_month_without_partition_has_the_default(session: Connection, moment: datetime) -> None:
    """A missed chore, or a clock far off, never fails the user's work."""
    assert partition_of(session, id_at(moment)) == "actions_default"
    assert partition_of_change(session, moment) == "row_changes_default"


def test_an_id_that_carries_no_time_has_the_default(session: Connection) -> None:
    """Whatever the id is, there is a place for it."""
    assert partition_of(session, UUID("ffffffff-ffff-4fff-bfff-ffffffffffff")) == "actions_default"
    assert partition_of(session, UUID(int=0)) == "actions_default"


def test_making_partitions_again_makes_none(session: Connection) -> None:
    """Only what is missing is made; looking back makes nothing."""
    assert session.execute("SELECT provenance.ensure_partitions()").fetchall() == []
    assert session.execute("SELECT provenance.ensure_partitions(-5)").fetchall() == []
    assert ensured(session, 7) == months(7)


def test_a_month_that_one_table_misses_is_made_for_it(session: Connection) -> None:
    """Each table has months of its own; what the other has counts for nothing."""
    for table in PARTITIONED:
        missing = f"{table}_{first_of_month(3):%Y_%m}"
        session.execute(f"DROP TABLE provenance.{missing}".encode())
        assert ensured(session, 6) == [missing]


@pytest.mark.parametrize("table", PARTITIONED)
def test_rows_in_the_default_partition_do_not_stop_the_other_months(session: Connection, table: str) -> None:
    """The month that has rows there already is warned about and left out, and they stay readable.

    It is left out for the table they are of, and not for the other.
    """
    moment = first_of_month(8) + timedelta(days=3)
    stranded = id_at(moment)
    if table == "actions":
        insert(session, stranded)
    else:
        insert_change(session, moment)
    assert value(session, f"SELECT tableoid::regclass::text FROM provenance.{table}") == f"provenance.{table}_default"  # noqa: S608
    notices: list[tuple[str | None, str | None, str | None]] = []

    def notice(diag: errors.Diagnostic) -> None:
        notices.append((diag.severity, diag.message_primary, diag.message_hint))

    session.add_notice_handler(notice)
    made = ensured(session, 9)
    session.remove_notice_handler(notice)
    assert made == [name for name in months(7, 8, 9) if name != f"{table}_{first_of_month(8):%Y_%m}"]
    assert notices == [
        (
            "WARNING",
            f"no partition for {first_of_month(8):%Y-%m}: {table}_default already holds rows of that month",
            "They stay readable there; `provenance partition` moves them into one.",
        )
    ]
    assert value(session, f"SELECT count(*) FROM provenance.{table}") == 1  # noqa: S608
    own, other = (partition_of(session, id_at(first_of_month(8))), partition_of_change(session, first_of_month(8)))
    expected = {name: f"{name}_{first_of_month(8):%Y_%m}" for name in PARTITIONED} | {table: f"{table}_default"}
    assert {"actions": own, "row_changes": other} == expected
    if table == "actions":
        assert logged(session, stranded)["status"] == "completed"
    assert schema.verify(session) == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_months_are_utc_whatever_the_sessions_time_zone(session: Connection, zone: str) -> None:
    """The bounds are the same wherever the operator sits."""
    session.execute("SELECT set_config('TimeZone', %s, true)", (zone,))
    actions, row_changes = ensured(session, 7)
    assert [actions, row_changes] == months(7)
    assert partition_of(session, id_at(first_of_month(7))) == actions
    assert partition_of(session, id_at(first_of_month(8) - MILLISECOND)) == actions
    assert partition_of_change(session, first_of_month(7)) == row_changes
    assert partition_of_change(session, first_of_month(8) - timedelta(microseconds=1)) == row_changes
    assert partition_of_change(session, first_of_month(8)) == "row_changes_default"


@pytest.mark.parametrize("style", ["German, DMY", "SQL, MDY", "Postgres, YMD"])
def test_months_do_not_depend_on_how_the_session_writes_dates(session: Connection, style: str) -> None:
    """A bound that is written one way and read another would be in another month, or in none."""
    session.execute("SELECT set_config('DateStyle', %s, true), set_config('TimeZone', 'Asia/Kolkata', true)", (style,))
    assert ensured(session, 8) == months(7, 8)
    session.execute("RESET datestyle")
    for ahead in (7, 8):
        assert partition_of_change(session, first_of_month(ahead)) == f"row_changes_{first_of_month(ahead):%Y_%m}"


def test_a_partition_made_later_is_like_the_others(session: Connection) -> None:
    """Indexes, constraints, defaults and guards, compared with those of the default partition."""
    session.execute("SELECT provenance.ensure_partitions(12)")
    assert schema.verify(session) == []


def test_making_partitions_at_once(connect: Callable[..., Connection]) -> None:
    """Two jobs that start together both succeed, and each month is made once."""
    for ahead in range(10, 40, 10):
        sessions = [connect() for _ in range(4)]
        barrier = threading.Barrier(4)

        def make(connection: Connection, ahead: int = ahead, barrier: threading.Barrier = barrier) -> int:
            barrier.wait(timeout=30)
            return len(ensured(connection, ahead))

        with ThreadPoolExecutor(4) as executor:
            made = list(executor.map(make, sessions))
        assert sum(made) == (4 if ahead == 10 else 10) * len(PARTITIONED)
    assert schema.verify(connect()) == []


def test_making_partitions_waits_for_no_writer(connect: Callable[..., Connection]) -> None:
    """A transaction that has recorded something, and one that has read one month, may stay open."""
    writer, reader, maker = connect(), connect(), connect()
    with writer.transaction(), reader.transaction():
        insert(writer, ids.new_id())
        insert_change(writer, datetime.now(UTC))
        since, before = ids.floor_id(first_of_month(0)), ids.floor_id(first_of_month(1))
        reader.execute("SELECT FROM provenance.actions WHERE id >= %s AND id < %s", (since, before))
        reader.execute(
            "SELECT FROM provenance.row_changes WHERE recorded_at >= %s AND recorded_at < %s",
            (first_of_month(0), first_of_month(1)),
        )
        assert ensured(maker, 7) == months(7)


READ = {
    "actions": "SELECT count(*) FROM provenance.action_log",
    "row_changes": "SELECT count(*) FROM provenance.row_changes",
}


@pytest.mark.direct("its users have a setting for their session")
@pytest.mark.parametrize("read", [["actions"], ["row_changes"], ["actions", "row_changes"]])
def test_making_partitions_holds_nobody_up(connect: Callable[..., Connection], read: list[str]) -> None:
    """While a long transaction reads everything, a new month waits a moment, gives up with a warning, and users go on.

    Of a table that nobody reads the months are made meanwhile.
    """
    reader, maker, user = connect(), connect(), connect()
    user.execute("SELECT provenance.capture_table('work')")
    notices: list[tuple[str | None, str | None]] = []
    maker.add_notice_handler(lambda diag: notices.append((diag.message_primary, diag.message_hint)))
    with ThreadPoolExecutor(1) as executor, contextlib.closing(reader):
        reader.execute("BEGIN")
        for table in read:
            reader.execute(READ[table].encode())
        making = executor.submit(ensured, maker, 9)
        until(lambda: waiting(user))
        user.execute("SET lock_timeout = '500ms'")
        insert(user, ids.new_id())
        action_id = record(user)
        user.execute("INSERT INTO work (id) VALUES (1)")
        complete(user, action_id)
        left_out = {f"{table}_{first_of_month(ahead):%Y_%m}" for table in read for ahead in (7, 8, 9)}
        assert making.result(timeout=30) == [name for name in months(7, 8, 9) if name not in left_out]
        assert notices == [
            (
                f"no partition for {first_of_month(7):%Y-%m} yet: a long transaction is using {table}_default",
                "Nothing is lost meanwhile; run it again later.",
            )
            for table in read
        ]
        for name in left_out:
            assert value(user, "SELECT to_regclass(%s)", f"provenance.{name}") is None
        assert schema.verify(user) == []
        reader.execute("ROLLBACK")
    assert ensured(maker, 9) == [name for name in months(7, 8, 9) if name in left_out]
    assert value(user, "SELECT count(*) FROM provenance.row_changes") == 1


def test_making_partitions_makes_nobody_a_victim(connect: Callable[..., Connection]) -> None:
    """A long transaction that has read one table may go on to the other while the months of both are made."""
    reader, maker, watcher = connect(), connect(), connect()
    with ThreadPoolExecutor(2) as executor, contextlib.closing(reader):
        reader.execute("BEGIN")
        reader.execute(READ["row_changes"].encode())
        making = executor.submit(ensured, maker, 9)
        until(lambda: waiting(watcher))
        reading = executor.submit(value, reader, READ["actions"])
        assert making.result(timeout=30) == [f"actions_{first_of_month(ahead):%Y_%m}" for ahead in (7, 8, 9)]
        assert reading.result(timeout=30) == 0
        reader.execute("ROLLBACK")
