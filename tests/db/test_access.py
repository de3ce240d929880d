"""What the roles may do: a writer records and nothing else, a reader reads, the others learn what to ask for."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from unittest.mock import ANY
from uuid import UUID

import psycopg
import pytest
from psycopg import conninfo, errors, sql
from psycopg_pool import ConnectionPool

from provenance import ids
from provenance.errors import ActionNotPending, SchemaNotReady
from provenance.testing import RecordedActions
from provenance.trail import AsyncTrail, Trail

Connection = psycopg.Connection[Any]
Rights = Literal["writer", "reader", "nothing"]


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection of the role that owns the schema."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def log_in(provenance_dsn: str, owner: Connection) -> Iterator[Callable[[Rights], str]]:
    """Yield what makes a role with these rights and returns the address it logs in with; it may use the table work."""
    roles: list[sql.Identifier] = []

    def make(rights: Rights) -> str:
        name = f"provenance_{rights}_{secrets.token_hex(8)}"
        role = sql.Identifier(name)
        roles.append(role)
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        owner.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON work TO {}").format(role))
        if rights == "writer":
            owner.execute("SELECT provenance.grant_writer(%s)", (name,))
        elif rights == "reader":
            owner.execute("SELECT provenance.grant_reader(%s)", (name,))
        return conninfo.make_conninfo(provenance_dsn, user=name)

    yield make
    for role in roles:
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


@pytest.fixture
def writer(log_in: Callable[[Rights], str]) -> str:
    """Return the address of a role that was granted to write and nothing else."""
    return log_in("writer")


@pytest.fixture
def writing(writer: str) -> Iterator[Trail]:
    """Yield a trail over a pool of the application's that logs in as the writer."""
    with (
        ConnectionPool(writer, min_size=1, max_size=2, open=True, kwargs={"autocommit": True}) as pool,
        Trail(pool) as trail,
    ):
        yield trail


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Return the application's own table."""
    return connection.execute("SELECT id, action_id FROM work ORDER BY id").fetchall()


# --- The writer can do all that the library does ---------------------------------------------------------------------


def test_a_writer_records_success(writing: Trail, recorded_actions: RecordedActions, owner: Connection) -> None:
    """Work and row commit together, and the database says who it was."""
    with writing.track_action("add", concept="work", payload={"a": 1}) as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
        action.result = {"id": 1}
    row = recorded_actions.one()
    assert (row.status, row.payload, row.result) == ("completed", {"a": 1}, {"id": 1})
    assert rows(owner) == [(1, row.id)]
    role = conninfo.conninfo_to_dict(writing.pool.conninfo)["user"]
    assert owner.execute("SELECT db_user FROM provenance.actions").fetchall() == [(role,)]


def test_a_writer_records_failure(writing: Trail, recorded_actions: RecordedActions, owner: Connection) -> None:
    """The exception goes on, the work is gone, the failed row is there."""
    with pytest.raises(ValueError, match="no"), writing.track_action("add", concept="work") as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
        raise ValueError("no")
    assert (recorded_actions.one().status, recorded_actions.one().error_message, rows(owner)) == ("failed", "no", [])


def test_a_writer_records_what_commit_refuses(
    writing: Trail, recorded_actions: RecordedActions, owner: Connection
) -> None:
    """A deferred constraint speaks up at COMMIT, after the row was inserted: it is the failed row that stays."""
    with (
        pytest.raises(errors.UniqueViolation),
        writing.track_action("add", concept="work") as action,
    ):
        action.connection.execute("INSERT INTO work (id, secret) VALUES (1, 's'), (2, 's')")
    assert (recorded_actions.one().status, recorded_actions.one().error_code, rows(owner)) == ("failed", "23505", [])


def test_a_writer_records_nested_actions(writing: Trail, recorded_actions: RecordedActions, owner: Connection) -> None:
    """Children that finished, failed and were undone, all in one write."""
    with writing.track_action("outer", concept="work") as outer:
        outer.connection.execute("INSERT INTO work (id) VALUES (1)")
        with writing.track_action("kept", concept="work") as inner:
            inner.connection.execute("INSERT INTO work (id) VALUES (2)")
        with pytest.raises(KeyError), writing.track_action("lost", concept="work") as inner:
            inner.connection.execute("INSERT INTO work (id) VALUES (3)")
            raise KeyError("k")
        with (
            outer.connection.transaction(force_rollback=True),
            writing.track_action("undone", concept="work") as inner,
        ):
            inner.connection.execute("INSERT INTO work (id) VALUES (4)")
    recorded_actions.expect("""
        outer completed
          kept completed
          lost failed
          undone rolled_back
    """)
    assert [row[0] for row in rows(owner)] == [1, 2]


def test_a_writer_joins_a_transaction(
    writing: Trail, writer: str, recorded_actions: RecordedActions, owner: Connection
) -> None:
    """The completed row lives and dies with the caller's transaction; a failure is recorded at once."""
    with psycopg.connect(writer) as connection:
        with writing.track_action("committed", concept="work", connection=connection):
            connection.execute("INSERT INTO work (id) VALUES (1)")
        connection.commit()
        with writing.track_action("rolled back", concept="work", connection=connection):
            connection.execute("INSERT INTO work (id) VALUES (2)")
        connection.rollback()
        with (
            pytest.raises(errors.UniqueViolation),
            writing.track_action("failed", concept="work", connection=connection),
        ):
            connection.execute("INSERT INTO work (id) VALUES (1)")
        recorded_actions.expect("""
            committed completed
            failed failed
        """)
        connection.rollback()
    assert [row[0] for row in rows(owner)] == [1]


def test_a_writer_records_detached_actions(writing: Trail, recorded_actions: RecordedActions) -> None:
    """Work outside Postgres, with its own short transaction at the end."""
    with writing.track_action("send", concept="mail", transaction=False):
        pass
    with pytest.raises(OSError, match="refused"), writing.track_action("send", concept="mail", transaction=False):
        raise OSError("refused")
    recorded_actions.expect("""
        send completed
        send failed
    """)


def test_a_writer_names_a_parent_by_its_bare_id(writing: Trail, recorded_actions: RecordedActions) -> None:
    """The database looks the root up for a role that may not."""
    with writing.track_action("root", concept="work") as root, writing.track_action("child", concept="work") as child:
        pass
    with writing.track_action("later", concept="work", parent=child.id):
        pass
    begun = writing.begin("begun", concept="work", parent=child.id)
    assert {row.root_id for row in recorded_actions.all()} == {root.id}
    assert recorded_actions.one(action_type="later").parent_action_id == child.id
    assert recorded_actions.one(status="pending").id == begun


def test_a_writer_begins_completes_fails_and_resumes(
    writing: Trail, recorded_actions: RecordedActions, owner: Connection
) -> None:
    """Actions that outlive a block, with and without work in the database."""
    completed, failed, resumed, joined = (
        writing.begin(name, concept="order", payload={"n": name}, expires_in=timedelta(hours=1))
        for name in ("completed", "failed", "resumed", "joined")
    )
    assert {row.status for row in recorded_actions.all()} == {"pending"}
    writing.complete(completed, {"ok": True})
    writing.fail(failed, ValueError("no"))
    with writing.resume(resumed) as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
    with writing.pool.connection() as connection, connection.transaction():
        connection.execute("INSERT INTO work (id) VALUES (2)")
        writing.complete(joined, connection=connection)
    found = {row.id: (row.status, row.result, row.error_message, row.payload) for row in recorded_actions.all()}
    assert found == {
        completed: ("completed", {"ok": True}, None, {"n": "completed"}),
        failed: ("failed", None, "no", {"n": "failed"}),
        resumed: ("completed", None, None, {"n": "resumed"}),
        joined: ("completed", None, None, {"n": "joined"}),
    }
    assert owner.execute("SELECT count(*) FROM provenance.action_intents").fetchone() == (0,)
    assert rows(owner) == [(1, resumed), (2, None)]
    for finish in (writing.complete, writing.resume, lambda action_id: writing.fail(action_id, "late")):
        with pytest.raises(ActionNotPending):
            finish(completed)


def test_a_writer_records_with_await(writer: str, recorded_actions: RecordedActions, owner: Connection) -> None:
    """The awaiting colour needs no other rights."""

    async def work() -> None:
        async with AsyncTrail(writer) as trail:
            async with (
                trail.track_action("outer", concept="work") as outer,
                trail.track_action("inner", concept="work") as inner,
            ):
                await inner.connection.execute("INSERT INTO work (id) VALUES (1)")
            with pytest.raises(ValueError, match="no"):
                async with trail.track_action("failed", concept="work", parent=outer.id):
                    raise ValueError("no")
            async with trail.track_action("detached", concept="mail", transaction=False):
                pass
            begun = await trail.begin("begun", concept="order")
            async with await trail.resume(begun) as action:
                await action.connection.execute("INSERT INTO work (id) VALUES (2)")

    asyncio.run(work())
    recorded_actions.expect("""
        outer completed
          inner completed
          failed failed
        detached completed
        begun completed
    """)
    assert [row[0] for row in rows(owner)] == [1, 2]


def test_a_writer_in_sql(writer: str, recorded_actions: RecordedActions) -> None:
    """The functions are all that a session in SQL needs."""
    with psycopg.connect(writer, autocommit=True) as session, session.transaction():
        session.execute("SELECT provenance.record_action('outer', 'job')")
        session.execute("SELECT provenance.record_action('inner', 'job')")
        for _ in range(2):
            session.execute("SELECT provenance.complete_action(provenance.current_action_id())")
        session.execute("SELECT provenance.set_context(provenance.uuid_v7()), provenance.schema_version()")
    recorded_actions.expect("""
        outer completed
          inner completed
    """)


# --- The writer can do nothing else ----------------------------------------------------------------------------------

COLUMNS = "id, root_id, action_type, concept, status, started_at, completed_at, duration_ms"
VALUES = "provenance.uuid_v7(), provenance.uuid_v7(), 'a', 'c', 'completed', now(), now(), 1"
BEGUN = "id, root_id, action_type, concept, started_at"
BEGUN_VALUES = "provenance.uuid_v7(), provenance.uuid_v7(), 'a', 'c', now()"

CHANGE = "seq, recorded_at, row_slot, ordinal, table_id, shape_id, operation, row_key"
CHANGE_VALUES = "1, now(), 1, 1, 1, 1, 'insert', '1'"
# Settings of a captured table. As a value, and not from the table: that one may not read the table must not be what refuses
# a call of a function.
SETTINGS = json.dumps(
    {
        "id": 1,
        "table_name": "public.work",
        "key_columns": ["id"],
        "excluded": [],
        "masked": [],
        "suspicious": "secret",
        "max_bytes": 1000,
    }
)

# Calls of what grant_reader() grants; {row} stands for the settings of the captured table. That these are all of the granted
# functions is checked below.
CALLS_OF_A_READER = [
    "SELECT provenance.is_recorded('018bcfe5-6800-7abc-8def-0123456789ab')",
    "SELECT provenance.row_values('(1,\"a b\",)')",
    "SELECT provenance.captures_of('work', 'public.work')",
    "SELECT * FROM provenance.rows_as_of('work', 'public.work', now())",
    "SELECT provenance.changes_missing_until(1)",
    "SELECT provenance.captured_id('work'::regclass)",
    "SELECT * FROM provenance.captured_columns({row}, 'work'::regclass)",
    "SELECT provenance.row_fields({row}, 'work'::regclass)",
    "SELECT provenance.row_slot(1, '1')",
    "SELECT provenance.column_sql('work', 1, 'id')",
    "SELECT provenance.row_sql({row}, 'work'::regclass, 'work')",
    "SELECT provenance.key_sql({row}, 'work'::regclass, 'work')",
    "SELECT provenance.key_digest('1')",
    "SELECT provenance.coverage()",
    "SELECT provenance.truncated_with('work'::regclass)",
    "SELECT provenance.key_texts('{{1}}', 'work'::regclass, '{{1}}')",
    "SELECT COALESCE(max(view_name), 'none') FROM provenance.resolved_views()",
]
# They tell what stands in the catalogue, where everybody may read it. Refreshing a view needs them as well.
CALLS_OF_BOTH = [
    "SELECT provenance.qualified_name('work'::regclass)",
    "SELECT provenance.view_function('work'::regclass)",
    "SELECT provenance.below_view('work'::regclass)",
]
CALLS_OF_NOBODY = [
    "SELECT provenance.capture_table('work')",
    "SELECT provenance.release_table('work')",
    "SELECT provenance.adopt_table('work')",
    "SELECT provenance.shape_id({row}, 'work'::regclass)",
    "SELECT provenance.tenant_of('00000000-0000-0000-0000-000000000001')",
    "SELECT provenance.record_truncate(1, 'work'::regclass, 1, now(), NULL, '')",
    "SELECT provenance.change_sql({row}, 'work'::regclass, 1, 'insert', '{{}}', NULL, NULL)",
    "SELECT provenance.check_table('work'::regclass, 'captured')",
    "SELECT provenance.text_settings()",
    "SELECT nextval('provenance.row_changes_number')",
    "SELECT setval('provenance.row_changes_number', 1)",
    "SELECT last_value FROM provenance.row_changes_number",
    "SELECT nextval('provenance.captured_tables_id_seq')",
]

FORBIDDEN = [
    # Reading.
    "SELECT id FROM provenance.actions",
    "SELECT FROM provenance.actions",
    "SELECT id FROM provenance.action_intents",
    "SELECT id FROM provenance.action_log",
    "SELECT version FROM provenance.migrations",
    "SELECT id FROM provenance.actions_default",
    "TABLE provenance.{month}",
    "COPY provenance.actions TO STDOUT",
    "INSERT INTO provenance.actions ({columns}) VALUES ({values}) RETURNING id",
    "SELECT seq FROM provenance.row_changes",
    "SELECT FROM provenance.row_changes",
    "SELECT new_row FROM provenance.row_changes_default",
    "TABLE provenance.{changes}",
    "SELECT fields FROM provenance.row_shapes",
    "SELECT table_name FROM provenance.captured_tables",
    "COPY provenance.row_changes TO STDOUT",
    # Changing.
    "UPDATE provenance.actions SET status = 'failed'",
    "UPDATE provenance.{month} SET status = 'failed'",
    "UPDATE provenance.action_intents SET expires_at = NULL",
    "DELETE FROM provenance.actions",
    "DELETE FROM provenance.action_intents",
    "DELETE FROM provenance.migrations",
    "TRUNCATE provenance.actions",
    "TRUNCATE provenance.action_intents",
    "TRUNCATE provenance.{month}",
    "MERGE INTO provenance.actions USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO provenance.actions ({columns}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET status = 'failed'",
    "UPDATE provenance.row_changes SET new_row = NULL",
    "UPDATE provenance.{changes} SET action_id = NULL",
    "UPDATE provenance.row_shapes SET fields = '[]'",
    "UPDATE provenance.captured_tables SET masked = '{{}}'",
    "DELETE FROM provenance.row_changes",
    "DELETE FROM provenance.row_shapes",
    "DELETE FROM provenance.captured_tables",
    "TRUNCATE provenance.row_changes",
    "TRUNCATE provenance.{changes}",
    "TRUNCATE provenance.row_shapes",
    "TRUNCATE provenance.captured_tables",
    "MERGE INTO provenance.row_changes USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    # Saying what is the database's word.
    "INSERT INTO provenance.actions ({columns}, recorded_at) VALUES ({values}, '1999-01-01')",
    "INSERT INTO provenance.actions ({columns}, xid) VALUES ({values}, '1'::xid8)",
    "INSERT INTO provenance.actions ({columns}, db_user) VALUES ({values}, 'somebody else')",
    "INSERT INTO provenance.action_intents ({begun}, recorded_at) VALUES ({begun_values}, '1999-01-01')",
    "INSERT INTO provenance.action_intents ({begun}, db_user) VALUES ({begun_values}, 'somebody else')",
    "INSERT INTO provenance.migrations (version, name, checksum) VALUES (2, 'n', 'c')",
    # Saying what only triggers say.
    "INSERT INTO provenance.row_changes ({change}) VALUES ({change_values})",
    "INSERT INTO provenance.row_shapes (table_id, fields) VALUES (1, '[]')",
    "INSERT INTO provenance.captured_tables (table_name) VALUES ('public.work')",
    "COPY provenance.row_changes FROM STDIN",
    # Going around the front door.
    "INSERT INTO provenance.{changes} ({change}) VALUES ({change_values})",
    "INSERT INTO provenance.row_changes_default ({change}) VALUES ({change_values})",
    "ALTER TABLE provenance.row_changes DISABLE TRIGGER refuse_change",
    "ALTER TABLE provenance.row_changes DETACH PARTITION provenance.{changes}",
    "ALTER SEQUENCE provenance.row_changes_number RESTART",
    "DROP TABLE provenance.row_changes",
    "DROP TRIGGER refuse_change ON provenance.row_changes",
    "CREATE TABLE mine PARTITION OF provenance.row_changes FOR VALUES FROM ('1999-01-01') TO ('1999-02-01')",
    "CREATE RULE swallow AS ON INSERT TO provenance.row_changes DO INSTEAD NOTHING",
    "DROP FUNCTION provenance.capture_1() CASCADE",
    "ALTER TABLE work DISABLE TRIGGER provenance_capture_insert",
    "DROP TRIGGER provenance_capture_insert ON work",
    # Triggers that speak with the rights of the owner, on a table of one's own.
    *(
        "CREATE TABLE mine (id integer PRIMARY KEY, created_by_action_id uuid, updated_by_action_id uuid); "
        f"CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION provenance.{function}()"
        for function in ("stamp_insert", "stamp_update", "require_action", "touch", "refuse_change")
    ),
    (
        "CREATE TABLE mine (id integer PRIMARY KEY, secret text, action_id uuid); "
        "CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION provenance.capture_1()"
    ),
    "INSERT INTO provenance.{month} ({columns}) VALUES ({values})",
    "INSERT INTO provenance.actions_default ({columns}) VALUES ({values})",
    "COPY provenance.actions FROM STDIN",
    "ALTER TABLE provenance.actions DISABLE TRIGGER refuse_change",
    "ALTER TABLE provenance.actions DETACH PARTITION provenance.{month}",
    "DROP TABLE provenance.actions",
    "DROP TRIGGER refuse_change ON provenance.actions",
    "CREATE TABLE provenance.mine (id integer)",
    "CREATE TABLE mine PARTITION OF provenance.actions FOR VALUES FROM (MINVALUE) TO ('00000000000000000000000000000001')",
    "CREATE RULE swallow AS ON INSERT TO provenance.actions DO INSTEAD NOTHING",
    "CREATE TRIGGER mine BEFORE INSERT ON provenance.actions FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change()",
    "CREATE OR REPLACE FUNCTION provenance.outcome(action_id uuid) RETURNS text RETURN 'completed'",
    "SET session_replication_role = replica",
    # Functions that are not a writer's.
    "SELECT provenance.ensure_partitions()",
    "SELECT provenance.uuid_floor(now())",
    "SELECT provenance.grant_writer(current_user)",
    "SELECT provenance.grant_reader(current_user)",
    "GRANT SELECT ON provenance.actions TO CURRENT_USER",
    "GRANT SELECT ON provenance.row_changes TO CURRENT_USER",
    *CALLS_OF_A_READER,
    *CALLS_OF_NOBODY,
]


@pytest.fixture(scope="module")
def shared(provenance_server: str, provenance_template: str) -> Iterator[dict[str, str]]:
    """Yield the addresses of a writer, a reader and the owner in a database that holds one ended and one pending action.

    Row changes of the table work are captured: one row, written in the ended action.
    """
    database = f"provenance_test_{secrets.token_hex(8)}"
    roles = {rights: f"provenance_{rights}_{secrets.token_hex(8)}" for rights in ("writer", "reader")}
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(database), sql.Identifier(provenance_template)
            )
        )
        address = conninfo.make_conninfo(provenance_server, dbname=database)
        with psycopg.connect(address, autocommit=True) as own:
            for rights, role in roles.items():
                own.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
                own.execute(f"SELECT provenance.grant_{rights}(%s)".encode(), (role,))
                own.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(role)))
            for role in roles.values():
                own.execute(sql.SQL("GRANT SELECT, INSERT ON work TO {}").format(sql.Identifier(role)))
            assert own.execute("SELECT provenance.capture_table('work', masked => '{secret}')").fetchone() == (1,)
            with own.transaction():
                own.execute("SELECT provenance.record_action('ended', 'c')")
                own.execute("INSERT INTO work (id, secret) VALUES (1, 's')")
                own.execute("SELECT provenance.complete_action(provenance.current_action_id())")
            own.execute("SELECT provenance.record_action('pending', 'c')")
        yield {
            "owner": address,
            **{rights: conninfo.make_conninfo(address, user=role) for rights, role in roles.items()},
        }
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        for role in roles.values():
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def refused(address: str, statement: str) -> None:
    """Expect that a role has no right to execute the statement."""
    with psycopg.connect(address, autocommit=True) as session, pytest.raises(errors.InsufficientPrivilege):
        session.execute(spelled(statement))


def spelled(statement: str) -> bytes:
    """Return the statement with its columns, values and the partitions of this month."""
    month = f"{datetime.now(UTC):%Y_%m}"
    text = statement.format(
        columns=COLUMNS,
        values=VALUES,
        begun=BEGUN,
        begun_values=BEGUN_VALUES,
        change=CHANGE,
        change_values=CHANGE_VALUES,
        row=f"json_populate_record(NULL::provenance.captured_tables, '{SETTINGS}')",
        month=f"actions_{month}",
        changes=f"row_changes_{month}",
    )
    return text.encode()


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_a_writer_can_do_nothing_else(shared: dict[str, str], statement: str) -> None:
    """Neither look at what is recorded nor touch it, whichever way it is tried."""
    refused(shared["writer"], statement)


def test_a_writer_may_insert_what_it_vouches_for(shared: dict[str, str]) -> None:
    """The statements that are refused to a writer fail for what they add, not for what they share."""
    with psycopg.connect(shared["writer"]) as session:
        for statement in (
            "INSERT INTO provenance.actions ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",
            "INSERT INTO provenance.action_intents ({begun}) VALUES ({begun_values})",
        ):
            session.execute(spelled(statement))
        session.rollback()


@pytest.mark.parametrize("statement", [statement for statement in FORBIDDEN if "({change})" in statement])
def test_only_the_right_is_missing_to_forge_a_change(shared: dict[str, str], statement: str) -> None:
    """The owner of the schema could, so nothing else is wrong with these statements."""
    with psycopg.connect(shared["owner"]) as session:
        # A row of this month is not for the default partition; where it belongs is looked at after who may say it.
        early = spelled(statement).replace(b"now()", b"'1999-01-01'") if "_default" in statement else spelled(statement)
        session.execute(early)
        session.rollback()


def test_what_a_writer_writes_is_captured(shared: dict[str, str]) -> None:
    """The trigger has the right to say it that the writer does not have, and says who it was."""
    role = conninfo.conninfo_to_dict(shared["writer"])["user"]
    with psycopg.connect(shared["owner"]) as session:
        session.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(str(role))))
        (action_id,) = session.execute("SELECT provenance.record_action('write', 'c')").fetchone() or (None,)
        session.execute("INSERT INTO work (id) VALUES (2)")
        session.execute("RESET SESSION AUTHORIZATION")
        found = session.execute(
            "SELECT operation, action_id, db_user FROM provenance.row_changes WHERE row_key = '2'"
        ).fetchall()
        session.rollback()
    assert found == [("insert", action_id, role)]


def test_a_writer_cannot_drop_evidence_of_what_has_no_outcome(shared: dict[str, str]) -> None:
    """The function that tidies up is no way to hide an action that was begun."""
    with psycopg.connect(shared["writer"]) as session:
        (action_id,) = session.execute("SELECT provenance.record_action('hidden', 'c')").fetchone() or (None,)
        session.execute("SELECT provenance.forget_intent(%s)", (action_id,))
        row = session.execute("SELECT provenance.pending_action(%s) ->> 'action_type'", (action_id,)).fetchone()
        assert row == ("hidden",)
        session.rollback()


# --- The reader ------------------------------------------------------------------------------------------------------


def test_a_reader_reads(shared: dict[str, str]) -> None:
    """Ended and pending actions, through the view and the repositories."""
    with psycopg.connect(shared["reader"]) as session:
        found = session.execute("SELECT action_type, status FROM provenance.action_log ORDER BY id").fetchall()
    assert found == [("ended", "completed"), ("pending", "pending")]
    with ConnectionPool(shared["reader"], min_size=1, open=True) as pool, Trail(pool) as trail:
        ended, pending = reversed(trail.actions.search().items)
        assert (ended.action_type, pending.action_type) == ("ended", "pending")
        assert trail.actions.get(ended.id) == ended
        tree = trail.actions.tree(pending.id)
        assert tree is not None
        assert (tree.action.id, tree.children) == (pending.id, ())
        assert [link.action.id for link in trail.actions.chain(ended.id)] == [ended.id]
        assert [link.action.id for link in trail.actions.ancestors(ended.id)] == [ended.id]


def test_a_reader_reads_row_changes(shared: dict[str, str]) -> None:
    """What was written, what its fields are, and which tables are captured; masked values are nowhere."""
    with psycopg.connect(shared["reader"]) as session:
        assert session.execute(
            "SELECT c.table_name, r.operation, r.row_key, provenance.row_values(r.new_row), s.fields::jsonb -> 1 "
            "FROM provenance.row_changes r JOIN provenance.captured_tables c ON c.id = r.table_id "
            "JOIN provenance.row_shapes s ON s.id = r.shape_id "
            "JOIN provenance.action_log a ON a.id = r.action_id AND a.action_type = 'ended'"
        ).fetchone() == ("public.work", "insert", "1", ["1", ANY], ["secret", "text", True])
        assert session.execute(
            "SELECT row_key FROM provenance.rows_as_of('work', 'public.work', clock_timestamp(), '{1}')"
        ).fetchall() == [("1",)]


@pytest.mark.parametrize("statement", [*CALLS_OF_A_READER, *CALLS_OF_BOTH])
def test_a_reader_may_call_what_reading_needs(shared: dict[str, str], statement: str) -> None:
    """What is refused to a writer is refused for the right alone."""
    with psycopg.connect(shared["reader"], autocommit=True) as session:
        assert session.execute(spelled(statement)).fetchone() is not None


def test_a_reader_may_call_nothing_that_writes(shared: dict[str, str]) -> None:
    """Whatever functions are granted to it, they neither change anything nor run with the rights of the owner."""
    with psycopg.connect(shared["reader"]) as session:
        granted = session.execute(
            """SELECT proname, provolatile = 'v', prosecdef FROM pg_proc
                WHERE pronamespace = 'provenance'::regnamespace AND has_function_privilege(oid, 'EXECUTE')"""
        ).fetchall()
    assert {(writes, borrowed) for _, writes, borrowed in granted} == {(False, False)}
    # All that are called above are among them; one that is granted and not called has no example there yet.
    called = [*CALLS_OF_A_READER, *CALLS_OF_BOTH]
    assert {row[0] for row in granted} == {re.findall(r"provenance\.(\w+)\(", call)[0] for call in called}


def test_a_reader_needs_the_right_to_a_table_to_read_what_is_in_it_now(shared: dict[str, str]) -> None:
    """What was in it is in the trail; a row that has not changed since is read from the table, with the reader's rights."""
    role = sql.Identifier(str(conninfo.conninfo_to_dict(shared["reader"])["user"]))
    with psycopg.connect(shared["owner"], autocommit=True) as own:
        own.execute(sql.SQL("REVOKE SELECT ON work FROM {}").format(role))
        try:
            refused(shared["reader"], "SELECT * FROM provenance.rows_as_of('work', 'public.work', now())")
        finally:
            own.execute(sql.SQL("GRANT SELECT ON work TO {}").format(role))


# What a reader may do; and of a GRANT without the right to it, Postgres only warns whoever has any right there.
READING = ("SELECT", "TABLE", "COPY provenance.actions TO", "COPY provenance.row_changes TO", "GRANT")


@pytest.mark.parametrize(
    "statement",
    [
        *(statement for statement in FORBIDDEN if not statement.startswith(READING)),
        "SELECT version FROM provenance.migrations",
        "SELECT provenance.ensure_partitions()",
        "SELECT provenance.record_action('a', 'c')",
        "SELECT provenance.complete_action('00000000-0000-0000-0000-000000000001')",
        "SELECT provenance.grant_writer(current_user)",
        *CALLS_OF_NOBODY,
        "INSERT INTO provenance.actions ({columns}) VALUES ({values})",
        "INSERT INTO provenance.action_intents ({begun}) VALUES ({begun_values})",
    ],
)
def test_a_reader_can_do_nothing_else(shared: dict[str, str], statement: str) -> None:
    """It can neither write nor change."""
    refused(shared["reader"], statement)


# --- Roles that may not ----------------------------------------------------------------------------------------------

REMEDY = re.compile(
    r"this database role lacks a right that .* needs \(permission denied for .*\); connect as another role, or have the "
    r"owner of the schema run `provenance migrate grant --writer ROLE`"
)


@pytest.mark.parametrize("rights", ["nothing", "reader"])
def test_who_may_not_write_learns_it_before_the_work_begins(
    log_in: Callable[[Rights], str], rights: Rights, owner: Connection, recorded_actions: RecordedActions
) -> None:
    """In every mode and both colours, one clear error with the remedy, and no body runs."""
    address = log_in(rights)
    ran: list[str] = []

    def attempts(trail: Trail) -> Iterator[Callable[[], object]]:
        def own() -> None:
            with trail.track_action("own", concept="work"):
                ran.append("own")

        def joined() -> None:
            with psycopg.connect(address) as connection:
                connection.execute("SELECT 1")
                try:
                    with trail.track_action("joined", concept="work", connection=connection):
                        ran.append("joined")
                finally:
                    # The caller's transaction is still usable, and still the caller's.
                    connection.execute("INSERT INTO work (id, action_id) VALUES (1, NULL)")
                    connection.rollback()

        def detached() -> None:
            with trail.track_action("detached", concept="work", transaction=False):
                ran.append("detached")

        yield own
        yield joined
        yield detached
        yield lambda: trail.begin("begun", concept="work")
        yield lambda: trail.complete(ids.new_id())
        yield lambda: trail.resume(ids.new_id())

    with ConnectionPool(address, min_size=1, open=True) as pool, Trail(pool) as trail:
        for attempt in attempts(trail):
            with pytest.raises(SchemaNotReady) as caught:
                attempt()
            assert REMEDY.fullmatch(str(caught.value))

    async def work() -> None:
        async with AsyncTrail(address) as trail:
            with pytest.raises(SchemaNotReady) as caught:
                async with trail.track_action("own", concept="work"):
                    ran.append("async")
            assert REMEDY.fullmatch(str(caught.value))
            with pytest.raises(SchemaNotReady):
                await trail.begin("begun", concept="work")

    asyncio.run(work())
    assert (ran, rows(owner), recorded_actions.all()) == ([], [], [])


def test_rights_that_are_granted_later_are_noticed(
    log_in: Callable[[Rights], str], owner: Connection, recorded_actions: RecordedActions
) -> None:
    """A trail that was refused once is not refused for ever."""
    address = log_in("nothing")
    with ConnectionPool(address, min_size=1, open=True) as pool, Trail(pool) as trail:
        with pytest.raises(SchemaNotReady), trail.track_action("early", concept="work"):
            pass
        owner.execute("SELECT provenance.grant_writer(%s)", (conninfo.conninfo_to_dict(address)["user"],))
        with trail.track_action("late", concept="work"):
            pass
    recorded_actions.expect("late completed")


def test_a_pooled_connection_is_given_back_after_a_refusal(log_in: Callable[[Rights], str]) -> None:
    """Being refused again and again does not empty the pool."""
    with ConnectionPool(log_in("nothing"), min_size=1, max_size=1, timeout=10, open=True) as pool, Trail(pool) as trail:
        for _ in range(3):
            with pytest.raises(SchemaNotReady), trail.track_action("refused", concept="work"):
                pass
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_ids_of_a_writer_are_unknown_to_it_afterwards(writing: Trail) -> None:
    """A writer gets a clear error of the server's when it tries to read through its trail."""
    with writing.track_action("add", concept="work") as action:
        pass
    assert isinstance(action.id, UUID)
    with pytest.raises(SchemaNotReady, match="reading the trail"):
        writing.actions.get(action.id)
