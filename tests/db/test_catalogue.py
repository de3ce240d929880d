"""The check that nothing has drifted: it names each difference, and nothing else."""

from __future__ import annotations

import json
import re
import runpy
import secrets
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql
from psycopg.rows import dict_row

from provenance import schema
from provenance.schema import catalogue
from provenance.schema.catalogue import Difference

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def database(provenance_server: str, provenance_template: str) -> Iterator[str]:
    """Yield a fresh installation that the tests of this module share."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        yield conninfo.make_conninfo(provenance_server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def connected(database: str) -> Iterator[Connection]:
    """Yield a connection to it."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def connection(connected: Connection) -> Iterator[Connection]:
    """Yield a connection in a transaction that will be rolled back, whatever is broken in it; roles included."""
    with connected.transaction(force_rollback=True):
        yield connected


@pytest.fixture
def month(connection: Connection) -> str:
    """Yield the name of a monthly partition."""
    row = connection.execute(
        "SELECT max(relname::text) FROM pg_class WHERE relname ~ '^actions_[0-9]{4}_[0-9]{2}$'"
    ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def role(connection: Connection) -> str:
    """Return the name of a role, gone with the transaction."""
    name = f"provenance_role_{secrets.token_hex(8)}"
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    return name


def test_a_fresh_installation_has_no_differences(connection: Connection) -> None:
    """Nothing is said of what is as it should be, on any supported server."""
    assert schema.verify(connection) == []


def test_use_makes_no_differences(connection: Connection, role: str) -> None:
    """Actions, pending ones, further months, readers, writers and the application's own tables are no drift."""
    connection.execute("SELECT provenance.complete_action(provenance.record_action('a', 'c'))")
    connection.execute("SELECT provenance.record_action('left open', 'c')")
    connection.execute("SELECT provenance.ensure_partitions(30)")
    connection.execute("SELECT provenance.grant_writer(%s), provenance.grant_reader(%s)", (role, role))
    connection.execute("CREATE TABLE mine (id uuid DEFAULT provenance.current_action_id())")
    connection.execute("CREATE VIEW recent AS SELECT id FROM provenance.action_log")
    assert schema.verify(connection) == []


# Each statement, and the kinds and names it must be known by. {month} is a monthly partition, {all} stands for every
# partition, {role} for a role.
DRIFT: list[tuple[str, set[str]]] = [
    # Tables and their columns.
    ("ALTER TABLE provenance.actions ADD COLUMN extra text", {"column actions.extra", "column {all}.extra"}),
    ("ALTER TABLE provenance.action_intents DROP COLUMN worker", {"column action_intents.worker"}),
    ("ALTER TABLE provenance.action_intents ALTER COLUMN root_id DROP NOT NULL", {"column action_intents.root_id"}),
    (
        "ALTER TABLE provenance.actions ALTER COLUMN recorded_at DROP DEFAULT",
        {"column actions.recorded_at", "column {all}.recorded_at"},
    ),
    ("ALTER TABLE provenance.{month} ALTER COLUMN xid DROP DEFAULT", {"column {month}.xid"}),
    ("ALTER TABLE provenance.action_intents SET UNLOGGED", {"relation action_intents"}),
    ("ALTER TABLE provenance.{month} SET UNLOGGED", {"relation {month}"}),
    ("ALTER TABLE provenance.action_intents SET (fillfactor = 50)", {"relation action_intents"}),
    ("CREATE SEQUENCE provenance.numbers", {"relation numbers"}),
    ("CREATE MATERIALIZED VIEW provenance.copy AS SELECT 1 AS one", {"relation copy"}),
    (
        "CREATE TABLE provenance.extra (id integer PRIMARY KEY)",
        {"relation extra", "column extra.id", "constraint extra.extra_pkey", "index extra_pkey"},
    ),
    # The view.
    ("ALTER VIEW provenance.action_log RESET (security_invoker)", {"relation action_log"}),
    ("ALTER VIEW provenance.action_log SET (security_barrier = true)", {"relation action_log"}),
    # Constraints and indexes.
    ("DROP INDEX provenance.actions_entity", {"index actions_entity", "index {all}_entity_type_entity_id_id_idx"}),
    ("DROP INDEX provenance.action_intents_root", {"index action_intents_root"}),
    ("CREATE INDEX extra ON provenance.action_intents (worker)", {"index extra"}),
    ("CREATE INDEX extra ON provenance.{month} (error_type)", {"index extra"}),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'provenance.action_intents_root'::regclass",
        {"index action_intents_root"},
    ),
    (
        "ALTER TABLE provenance.actions DROP CONSTRAINT actions_status_check",
        {"constraint actions.actions_status_check", "constraint {all}.actions_status_check"},
    ),
    (
        "ALTER TABLE provenance.action_intents DROP CONSTRAINT action_intents_pkey",
        {"constraint action_intents.action_intents_pkey", "index action_intents_pkey"},
    ),
    (
        "ALTER TABLE provenance.{month} ADD CONSTRAINT odd CHECK (concept <> 'odd') NOT VALID",
        {"constraint {month}.odd"},
    ),
    # Triggers and rules.
    ("ALTER TABLE provenance.actions DISABLE TRIGGER refuse_truncate", {"trigger actions.refuse_truncate"}),
    (
        "ALTER TABLE provenance.{month} DISABLE TRIGGER ALL",
        {"trigger {month}.refuse_change", "trigger {month}.refuse_truncate"},
    ),
    ("ALTER TABLE provenance.{month} ENABLE TRIGGER refuse_truncate", {"trigger {month}.refuse_truncate"}),
    (
        "ALTER TABLE provenance.actions_default ENABLE REPLICA TRIGGER refuse_change",
        {"trigger actions_default.refuse_change"},
    ),
    ("DROP TRIGGER refuse_truncate ON provenance.{month}", {"trigger {month}.refuse_truncate"}),
    (
        "DROP TRIGGER refuse_change ON provenance.actions",
        {"trigger actions.refuse_change", "trigger {all}.refuse_change"},
    ),
    (
        """CREATE TRIGGER odd BEFORE UPDATE ON provenance.{month}
           FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
        {"trigger {month}.odd"},
    ),
    ("CREATE RULE swallow AS ON INSERT TO provenance.actions DO INSTEAD NOTHING", {"rule actions.swallow"}),
    ("CREATE RULE swallow AS ON INSERT TO provenance.{month} DO INSTEAD NOTHING", {"rule {month}.swallow"}),
    # Row-level security.
    ("ALTER TABLE provenance.actions ENABLE ROW LEVEL SECURITY", {"relation actions"}),
    ("ALTER TABLE provenance.action_intents FORCE ROW LEVEL SECURITY", {"relation action_intents"}),
    ("CREATE POLICY none ON provenance.actions USING (false) WITH CHECK (true)", {"policy actions.none"}),
    ("CREATE POLICY hidden ON provenance.actions FOR INSERT WITH CHECK (tenant_id <> '')", {"policy actions.hidden"}),
    # Partitions.
    (
        "ALTER TABLE provenance.actions DETACH PARTITION provenance.{month}",
        {"relation {month}", "trigger {month}.refuse_change"},
    ),
    # Functions.
    ("DROP FUNCTION provenance.uuid_v7()", {"function uuid_v7()"}),
    (
        "CREATE FUNCTION provenance.odd() RETURNS integer RETURN 1; REVOKE ALL ON FUNCTION provenance.odd() FROM PUBLIC",
        {"function odd()"},
    ),
    ("ALTER FUNCTION provenance.outcome(uuid) SECURITY INVOKER", {"function outcome(action_id uuid)"}),
    ("ALTER FUNCTION provenance.outcome(uuid) RESET search_path", {"function outcome(action_id uuid)"}),
    ("ALTER FUNCTION provenance.outcome(uuid) CALLED ON NULL INPUT", {"function outcome(action_id uuid)"}),
    ("ALTER FUNCTION provenance.outcome(uuid) VOLATILE", {"function outcome(action_id uuid)"}),
    ("ALTER FUNCTION provenance.current_action_id() PARALLEL UNSAFE", {"function current_action_id()"}),
    (
        """CREATE OR REPLACE FUNCTION provenance.current_action_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
           RETURN NULL::uuid""",
        {"function current_action_id()"},
    ),
    (
        """CREATE OR REPLACE FUNCTION provenance.refuse_change() RETURNS trigger LANGUAGE plpgsql
           SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'""",
        {"function refuse_change()"},
    ),
    # Owners.
    ("ALTER TABLE provenance.action_intents OWNER TO {role}", {"relation action_intents"}),
    ("ALTER TABLE provenance.{month} OWNER TO {role}", {"relation {month}"}),
    ("ALTER FUNCTION provenance.outcome(uuid) OWNER TO {role}", {"function outcome(action_id uuid)"}),
    # Grants to everybody.
    ("GRANT USAGE ON SCHEMA provenance TO PUBLIC", {"grant PUBLIC on schema provenance"}),
    ("GRANT SELECT ON provenance.actions TO PUBLIC", {"grant PUBLIC on actions"}),
    ("GRANT SELECT (id) ON provenance.{month} TO PUBLIC", {"grant PUBLIC on {month}.id"}),
    ("GRANT EXECUTE ON FUNCTION provenance.outcome(uuid) TO PUBLIC", {"grant PUBLIC on provenance.outcome(uuid)"}),
    # Grants that let a role change the past or say what only the database may say.
    ("GRANT CREATE ON SCHEMA provenance TO {role}", {"grant {role} on schema provenance"}),
    ("GRANT UPDATE ON provenance.actions TO {role}", {"grant {role} on actions"}),
    ("GRANT UPDATE (status) ON provenance.actions TO {role}", {"grant {role} on actions.status"}),
    ("GRANT DELETE ON provenance.action_intents TO {role}", {"grant {role} on action_intents"}),
    ("GRANT TRUNCATE ON provenance.{month} TO {role}", {"grant {role} on {month}"}),
    ("GRANT TRIGGER ON provenance.actions_default TO {role}", {"grant {role} on actions_default"}),
    ("GRANT INSERT ON provenance.actions TO {role}", {"grant {role} on actions"}),
    ("GRANT INSERT (recorded_at) ON provenance.actions TO {role}", {"grant {role} on actions.recorded_at"}),
    ("GRANT INSERT (db_user) ON provenance.action_intents TO {role}", {"grant {role} on action_intents.db_user"}),
    ("GRANT INSERT ON provenance.migrations TO {role}", {"grant {role} on migrations"}),
]


@pytest.mark.parametrize(("statement", "names"), DRIFT, ids=[statement for statement, _ in DRIFT])
def test_a_difference_is_named(connection: Connection, month: str, role: str, statement: str, names: set[str]) -> None:
    """What was changed is named, and nothing else is."""
    partitions = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'provenance.actions'::regclass"
    ).fetchall()
    expected = {
        name.format(month=month, role=role, all=partition.removeprefix("provenance."))
        for name in names
        for (partition,) in partitions
    }
    connection.execute(statement.format(month=month, role=role).encode())
    assert {f"{found.kind} {found.name}" for found in schema.verify(connection)} == expected


def test_a_view_that_was_replaced_is_named(connection: Connection) -> None:
    """The columns and options of a view say nothing of what it shows."""
    (text,) = connection.execute("SELECT pg_get_viewdef('provenance.action_log'::regclass)").fetchone() or ("",)
    replace = "CREATE OR REPLACE VIEW provenance.action_log WITH (security_invoker = true) AS "
    connection.execute((replace + text).encode())
    assert schema.verify(connection) == []
    hiding = text.replace(
        "FROM provenance.actions a\nUNION", "FROM provenance.actions a WHERE a.tenant_id <> 'x'\nUNION"
    )
    assert hiding != text
    connection.execute((replace + hiding).encode())
    (difference,) = schema.verify(connection)
    assert (difference.kind, difference.name) == ("relation", "action_log")
    assert re.fullmatch(
        r"relation action_log differs: expected view with security_invoker=true as [0-9a-f]{32}; "
        r"found view with security_invoker=true as [0-9a-f]{32}",
        str(difference),
    )


def test_a_default_argument_that_was_changed_is_named(connection: Connection) -> None:
    """A function is more than its body."""
    replace = "SELECT replace(pg_get_functiondef('provenance.ensure_partitions'::regproc), 'DEFAULT 6', 'DEFAULT 0')"
    (definition,) = connection.execute(replace.encode()).fetchone() or ("",)
    assert "DEFAULT 0" in definition
    connection.execute(definition.encode())
    assert [(found.kind, found.name) for found in schema.verify(connection)] == [
        ("function", "ensure_partitions(months_ahead integer)")
    ]


def test_what_is_missing_is_named_part_by_part(connection: Connection) -> None:
    """Of a table that is gone every column, index, constraint and trigger is missed."""
    expected = catalogue.expected_catalogue()
    connection.execute("DROP TABLE provenance.actions_default")
    found = schema.verify(connection)
    assert [(one.kind, one.name) for one in found] == [
        (kind, name) for kind, entries in expected.items() for name in sorted(entries) if "actions_default" in name
    ]
    assert {one.found for one in found} == {None}
    assert len(found) > 30


def test_a_database_without_the_schema_misses_everything(connection: Connection) -> None:
    """Nothing is there, and that is no error."""
    everything = sum(len(entries) for entries in catalogue.expected_catalogue().values())
    connection.execute("DROP TABLE work; DROP SCHEMA provenance CASCADE")
    differences = schema.verify(connection)
    assert len(differences) == everything
    assert {difference.found for difference in differences} == {None}


def test_what_a_difference_says() -> None:
    """One clear line each."""

    def said(expected: str | None, found: str | None) -> str:
        return str(Difference(kind="index", name="actions_root", expected=expected, found=found))

    assert said("a", None) == "index actions_root is missing"
    assert said(None, "b") == "index actions_root should not be there: b"
    assert said("a", "b") == "index actions_root differs: expected a; found b"


def test_looking_leaves_the_session_as_it_was(database: str) -> None:
    """Settings that the check needs do not leak into a transaction of the caller's."""
    query = "SELECT current_setting('search_path'), current_setting('timezone'), current_setting('datestyle')"
    with psycopg.connect(database, row_factory=dict_row) as connection:
        connection.execute(
            "SET search_path = public, provenance; SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'"
        )
        connection.commit()
        before = connection.execute(query).fetchone()
        assert schema.verify(connection) == []
        assert connection.execute(query).fetchone() == before
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_the_expected_catalogue_is_what_the_module_prints(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Running the module after a migration was added gives the new file, character by character, months left out."""
    monkeypatch.setattr(sys, "argv", ["catalogue", database])
    runpy.run_path(catalogue.__file__, run_name="__main__")
    printed = capsys.readouterr().out
    assert json.loads(printed) == catalogue.expected_catalogue()
    assert printed == json.dumps(catalogue.expected_catalogue(), indent=1) + "\n"
    assert not re.search(r"actions_\d{4}", printed)
