"""The check that nothing has drifted: it names each difference, and nothing else."""

from __future__ import annotations

import json
import re
import runpy
import secrets
import sys
from collections import Counter
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


def last_month(connection: Connection, table: str) -> str:
    """Return the name of a monthly partition."""
    row = connection.execute(
        "SELECT max(relname::text) FROM pg_class WHERE relkind = 'r' AND relname ~ %s",
        (f"^{table}_[0-9]{{4}}_[0-9]{{2}}$",),
    ).fetchone()
    assert row is not None
    return str(row[0])


def partitions(connection: Connection, table: str) -> list[str]:
    """Return the names of all partitions of a table."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
        (f"provenance.{table}",),
    ).fetchall()
    return [row[0] for row in rows]


@pytest.fixture
def capture(connection: Connection) -> str:
    """Return the name of the function that captures the row changes of a table."""
    row = connection.execute("SELECT provenance.capture_table('work')").fetchone()
    assert row is not None
    assert schema.verify(connection) == []
    return f"capture_{row[0]}"


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
    """Actions, pending ones, further months, captures, readers, writers and the application's own tables are no drift."""
    connection.execute("SELECT provenance.complete_action(provenance.record_action('a', 'c'))")
    connection.execute("SELECT provenance.record_action('left open', 'c')")
    connection.execute("SELECT provenance.ensure_partitions(30)")
    connection.execute("SELECT provenance.grant_writer(%s), provenance.grant_reader(%s)", (role, role))
    connection.execute("CREATE TABLE mine (id uuid DEFAULT provenance.current_action_id())")
    connection.execute("CREATE VIEW recent AS SELECT id FROM provenance.action_log")
    connection.execute("""
        CREATE TABLE stamped (id integer PRIMARY KEY, created_by_action_id uuid, updated_by_action_id uuid);
        CREATE TRIGGER stamp BEFORE INSERT ON stamped FOR EACH ROW EXECUTE FUNCTION provenance.stamp_insert();
        CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
        SELECT provenance.capture_table(name) FROM unnest('{work,stamped,parted}'::regclass[]) name;
        INSERT INTO work (id) VALUES (1);
        INSERT INTO stamped (id) VALUES (1);
        INSERT INTO parted (id) VALUES (1);
        SELECT provenance.adopt_table('work');
        ALTER TABLE parted ADD name text;
        SELECT provenance.capture_table('work', masked => '{secret}');
        SELECT provenance.release_table('stamped')""")
    assert connection.execute("SELECT count(*) FROM provenance.row_changes").fetchone() == (3,)
    assert schema.verify(connection) == []


# Each statement, and the kinds and names it must be known by. {month} is a monthly partition, {all} stands for every
# partition, {role} for a role; {changes} and {every} are a monthly partition and every partition of row_changes.
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
    ("ALTER TABLE provenance.row_changes ADD COLUMN extra text", {"column row_changes.extra", "column {every}.extra"}),
    (
        "ALTER TABLE provenance.row_changes ALTER COLUMN xid DROP DEFAULT",
        {"column row_changes.xid", "column {every}.xid"},
    ),
    (
        "ALTER TABLE provenance.row_changes ALTER COLUMN seq DROP NOT NULL",
        {"column row_changes.seq", "column {every}.seq"},
    ),
    ("ALTER TABLE provenance.{changes} ALTER COLUMN db_user SET DEFAULT 'me'", {"column {changes}.db_user"}),
    ("ALTER TABLE provenance.{changes} SET UNLOGGED", {"relation {changes}"}),
    ("ALTER TABLE provenance.row_changes_default SET UNLOGGED", {"relation row_changes_default"}),
    ("ALTER TABLE provenance.row_shapes ALTER COLUMN fields DROP NOT NULL", {"column row_shapes.fields"}),
    ("ALTER TABLE provenance.captured_tables DROP COLUMN masked", {"column captured_tables.masked"}),
    (
        "ALTER TABLE provenance.captured_tables SET UNLOGGED",
        {"relation captured_tables", "relation captured_tables_id_seq"},
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
    (
        "DROP INDEX provenance.row_changes_slot",
        {"index row_changes_slot", "index {every}_row_slot_idx"},
    ),
    ("DROP INDEX provenance.row_shapes_table", {"index row_shapes_table"}),
    ("CREATE INDEX extra ON provenance.{changes} (db_user)", {"index extra"}),
    (
        "ALTER TABLE provenance.captured_tables DROP CONSTRAINT captured_tables_pkey",
        {"constraint captured_tables.captured_tables_pkey", "index captured_tables_pkey"},
    ),
    (
        "ALTER TABLE provenance.{changes} ADD CONSTRAINT odd CHECK (operation <> 'delete') NOT VALID",
        {"constraint {changes}.odd"},
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
    ("ALTER TABLE provenance.row_changes DISABLE TRIGGER refuse_truncate", {"trigger row_changes.refuse_truncate"}),
    (
        "ALTER TABLE provenance.{changes} DISABLE TRIGGER ALL",
        {"trigger {changes}.refuse_change", "trigger {changes}.refuse_truncate"},
    ),
    ("ALTER TABLE provenance.{changes} ENABLE TRIGGER refuse_truncate", {"trigger {changes}.refuse_truncate"}),
    (
        "ALTER TABLE provenance.row_changes_default ENABLE REPLICA TRIGGER refuse_change",
        {"trigger row_changes_default.refuse_change"},
    ),
    ("DROP TRIGGER refuse_truncate ON provenance.{changes}", {"trigger {changes}.refuse_truncate"}),
    (
        "DROP TRIGGER refuse_change ON provenance.row_changes",
        {"trigger row_changes.refuse_change", "trigger {every}.refuse_change"},
    ),
    (
        """CREATE TRIGGER odd BEFORE UPDATE ON provenance.{changes}
           FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
        {"trigger {changes}.odd"},
    ),
    ("CREATE RULE swallow AS ON INSERT TO provenance.actions DO INSTEAD NOTHING", {"rule actions.swallow"}),
    ("CREATE RULE swallow AS ON INSERT TO provenance.row_changes DO INSTEAD NOTHING", {"rule row_changes.swallow"}),
    ("CREATE RULE swallow AS ON INSERT TO provenance.{changes} DO INSTEAD NOTHING", {"rule {changes}.swallow"}),
    ("CREATE RULE swallow AS ON INSERT TO provenance.{month} DO INSTEAD NOTHING", {"rule {month}.swallow"}),
    # Row-level security.
    ("ALTER TABLE provenance.actions DISABLE ROW LEVEL SECURITY", {"relation actions"}),
    ("ALTER TABLE provenance.{month} DISABLE ROW LEVEL SECURITY", {"relation {month}"}),
    ("ALTER TABLE provenance.action_intents FORCE ROW LEVEL SECURITY", {"relation action_intents"}),
    ("CREATE POLICY none ON provenance.actions USING (false) WITH CHECK (true)", {'policy actions."none"'}),
    ("CREATE POLICY hidden ON provenance.actions FOR INSERT WITH CHECK (tenant_id <> '')", {"policy actions.hidden"}),
    ("ALTER TABLE provenance.row_changes DISABLE ROW LEVEL SECURITY", {"relation row_changes"}),
    ("ALTER POLICY tenants ON provenance.actions USING (true)", {"policy actions.tenants"}),
    ("ALTER POLICY tenants ON provenance.row_changes TO pg_monitor", {"policy row_changes.tenants"}),
    ("DROP POLICY own_bindings ON provenance.readers", {"policy readers.own_bindings"}),
    ("CREATE POLICY none ON provenance.row_changes USING (false)", {'policy row_changes."none"'}),
    # Partitions.
    (
        "ALTER TABLE provenance.actions DETACH PARTITION provenance.{month}",
        {"relation {month}", "trigger {month}.refuse_change"},
    ),
    (
        "ALTER TABLE provenance.row_changes DETACH PARTITION provenance.{changes}",
        {"relation {changes}", "trigger {changes}.refuse_change"},
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
    ("ALTER FUNCTION provenance.stamp_insert() STABLE", {"function stamp_insert()"}),
    (
        """CREATE OR REPLACE FUNCTION provenance.stamp_update() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
           AS 'BEGIN RETURN NEW; END'""",
        {"function stamp_update()"},
    ),
    ("ALTER FUNCTION provenance.require_action() SET search_path = public", {"function require_action()"}),
    ("ALTER FUNCTION provenance.touch() RESET search_path", {"function touch()"}),
    # Owners.
    ("ALTER TABLE provenance.action_intents OWNER TO {role}", {"relation action_intents"}),
    ("ALTER TABLE provenance.{month} OWNER TO {role}", {"relation {month}"}),
    ("ALTER FUNCTION provenance.outcome(uuid) OWNER TO {role}", {"function outcome(action_id uuid)"}),
    (
        "ALTER TABLE provenance.row_shapes OWNER TO {role}",
        {"relation row_shapes", "relation row_shapes_id_seq"},
    ),
    ("ALTER TABLE provenance.{changes} OWNER TO {role}", {"relation {changes}"}),
    ("ALTER SEQUENCE provenance.row_changes_number OWNER TO {role}", {"relation row_changes_number"}),
    # Grants to everybody.
    ("GRANT USAGE ON SCHEMA provenance TO PUBLIC", {"grant PUBLIC on schema provenance"}),
    ("GRANT SELECT ON provenance.actions TO PUBLIC", {"grant PUBLIC on actions"}),
    ("GRANT SELECT (id) ON provenance.{month} TO PUBLIC", {"grant PUBLIC on {month}.id"}),
    ("GRANT EXECUTE ON FUNCTION provenance.outcome(uuid) TO PUBLIC", {"grant PUBLIC on provenance.outcome(uuid)"}),
    ("GRANT SELECT ON provenance.row_changes TO PUBLIC", {"grant PUBLIC on row_changes"}),
    ("GRANT SELECT (new_row) ON provenance.{changes} TO PUBLIC", {"grant PUBLIC on {changes}.new_row"}),
    ("GRANT USAGE ON SEQUENCE provenance.row_changes_number TO PUBLIC", {"grant PUBLIC on row_changes_number"}),
    (
        "GRANT EXECUTE ON FUNCTION provenance.stamp_insert() TO PUBLIC",
        {"grant PUBLIC on provenance.stamp_insert()"},
    ),
    # Grants that let a role change the past or say what only the database may say.
    ("GRANT CREATE ON SCHEMA provenance TO {role}", {"grant {role} on schema provenance"}),
    ("GRANT UPDATE ON provenance.actions TO {role}", {"grant {role} on actions"}),
    ("GRANT UPDATE (status) ON provenance.actions TO {role}", {"grant {role} on actions.status"}),
    ("GRANT DELETE ON provenance.action_intents TO {role}", {"grant {role} on action_intents"}),
    ("GRANT TRUNCATE ON provenance.{month} TO {role}", {"grant {role} on {month}"}),
    ("GRANT TRIGGER ON provenance.actions_default TO {role}", {"grant {role} on actions_default"}),
    ("GRANT INSERT ON provenance.actions TO {role}", {"grant {role} on actions"}),
    ("GRANT INSERT (recorded_at) ON provenance.actions TO {role}", {"grant {role} on actions.recorded_at"}),
    (
        "GRANT INSERT (erased_by_action_id) ON provenance.actions TO {role}",
        {"grant {role} on actions.erased_by_action_id"},
    ),
    ("GRANT INSERT (db_user) ON provenance.action_intents TO {role}", {"grant {role} on action_intents.db_user"}),
    ("GRANT INSERT ON provenance.migrations TO {role}", {"grant {role} on migrations"}),
    ("GRANT UPDATE ON provenance.row_changes TO {role}", {"grant {role} on row_changes"}),
    ("GRANT UPDATE (new_row) ON provenance.row_changes TO {role}", {"grant {role} on row_changes.new_row"}),
    ("GRANT DELETE ON provenance.row_shapes TO {role}", {"grant {role} on row_shapes"}),
    ("GRANT UPDATE ON provenance.captured_tables TO {role}", {"grant {role} on captured_tables"}),
    ("GRANT TRUNCATE ON provenance.{changes} TO {role}", {"grant {role} on {changes}"}),
    ("GRANT TRIGGER ON provenance.row_changes_default TO {role}", {"grant {role} on row_changes_default"}),
    ("GRANT INSERT ON provenance.row_changes TO {role}", {"grant {role} on row_changes"}),
    ("GRANT INSERT (recorded_at) ON provenance.row_changes TO {role}", {"grant {role} on row_changes.recorded_at"}),
    ("GRANT INSERT (db_user) ON provenance.row_changes TO {role}", {"grant {role} on row_changes.db_user"}),
    ("GRANT UPDATE ON SEQUENCE provenance.row_changes_number TO {role}", {"grant {role} on row_changes_number"}),
]


@pytest.mark.parametrize(("statement", "names"), DRIFT, ids=[statement for statement, _ in DRIFT])
def test_a_difference_is_named(connection: Connection, role: str, statement: str, names: set[str]) -> None:
    """What was changed is named, and nothing else is."""
    words = {
        "month": last_month(connection, "actions"),
        "changes": last_month(connection, "row_changes"),
        "role": role,
    }
    expected = {
        name.format(**words, all=of_actions, every=of_changes)
        for name in names
        for of_actions in partitions(connection, "actions")
        for of_changes in partitions(connection, "row_changes")
    }
    connection.execute(statement.format(**words).encode())
    assert {f"{found.kind} {found.name}" for found in schema.verify(connection)} == expected


# What is done to the function of a captured table.
TAMPERED = [
    "ALTER FUNCTION provenance.{capture}() SECURITY INVOKER",
    "ALTER FUNCTION provenance.{capture}() RESET ALL",
    "ALTER FUNCTION provenance.{capture}() RESET search_path",
    "ALTER FUNCTION provenance.{capture}() SET search_path = public, pg_catalog",
    "ALTER FUNCTION provenance.{capture}() SET timezone = 'Asia/Kolkata'",
    "ALTER FUNCTION provenance.{capture}() RESET enable_nestloop",
    "ALTER FUNCTION provenance.{capture}() SET session_replication_role = replica",
    "ALTER FUNCTION provenance.{capture}() STABLE",
    "ALTER FUNCTION provenance.{capture}() STRICT",
    "ALTER FUNCTION provenance.{capture}() PARALLEL SAFE",
    "ALTER FUNCTION provenance.{capture}() OWNER TO {role}",
    """CREATE OR REPLACE FUNCTION provenance.{capture}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
       AS 'BEGIN RETURN NULL; END'""",
    """DO $$ BEGIN
           EXECUTE replace(pg_get_functiondef('provenance.{capture}()'::regprocedure), 'o.row <> n.row', 'false');
       END $$""",
]


@pytest.mark.parametrize("statement", TAMPERED)
def test_a_capture_function_that_was_changed_is_named(
    connection: Connection, role: str, capture: str, statement: str
) -> None:
    """It runs with the rights of the owner, and prints values under settings that decide how they look."""
    connection.execute(statement.format(capture=capture, role=role).encode())
    (difference,) = schema.verify(connection)
    assert (difference.kind, difference.name) == ("function", f"{capture}()")
    assert difference.expected is not None
    assert difference.found is not None


def test_a_capture_function_that_anybody_may_execute_is_named(connection: Connection, capture: str) -> None:
    """With it as the trigger of a table of their own, they could record changes that never happened."""
    connection.execute(f"GRANT EXECUTE ON FUNCTION provenance.{capture}() TO PUBLIC".encode())
    (difference,) = schema.verify(connection)
    assert (difference.kind, difference.name) == ("grant", f"PUBLIC on provenance.{capture}()")


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("capture_x() RETURNS trigger", "capture_x()"),
        ("capture_12(integer) RETURNS integer", "capture_12(integer)"),
        ("xcapture_12() RETURNS trigger", "xcapture_12()"),
        ("capture_12_() RETURNS trigger", "capture_12_()"),
        ("capture_12() RETURNS integer", "capture_12()"),
    ],
)
def test_what_only_looks_like_a_capture_function_is_named(connection: Connection, made: str, name: str) -> None:
    """A name is no excuse."""
    connection.execute(
        f"""CREATE FUNCTION provenance.{made} LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            REVOKE ALL ON ALL FUNCTIONS IN SCHEMA provenance FROM PUBLIC""".encode()
    )
    assert [(found.kind, found.name) for found in schema.verify(connection)] == [("function", name)]


@pytest.mark.parametrize("table", ["actions", "row_changes"])
def test_a_month_that_is_no_partition_is_named(connection: Connection, table: str) -> None:
    """A table with the name of a month is compared with the default partition of the table it is named after."""
    connection.execute(f"CREATE TABLE provenance.{table}_2001_01 (LIKE provenance.{table} INCLUDING ALL)".encode())
    found = {f"{one.kind} {one.name}" for one in schema.verify(connection)}
    assert found == {
        f"relation {table}_2001_01",
        f"trigger {table}_2001_01.refuse_change",
        f"trigger {table}_2001_01.refuse_truncate",
    }


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


@pytest.mark.parametrize("table", ["actions", "row_changes"])
def test_what_is_missing_is_named_part_by_part(connection: Connection, table: str) -> None:
    """Of a table that is gone every column, index, constraint and trigger is missed."""
    expected = catalogue.expected_catalogue()
    connection.execute(f"DROP TABLE provenance.{table}_default".encode())
    found = schema.verify(connection)
    assert [(one.kind, one.name) for one in found] == [
        (kind, name) for kind, entries in expected.items() for name in sorted(entries) if f"{table}_default" in name
    ]
    assert {one.found for one in found} == {None}
    columns = connection.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (f"provenance.{table}",)
    ).fetchone()
    indexes = connection.execute(
        "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", (f"provenance.{table}",)
    ).fetchone()
    kinds = Counter(one.kind for one in found)
    assert (kinds["relation"], (kinds["column"],), (kinds["index"],), kinds["trigger"]) == (1, columns, indexes, 2)
    assert len(found) > 20


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
    provenance_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Running the module after a migration was added gives the new file, character by character.

    Months and the functions of captured tables are left out.
    """
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("SELECT provenance.ensure_partitions(9), provenance.capture_table('work')")
    monkeypatch.setattr(sys, "argv", ["catalogue", provenance_dsn])
    runpy.run_path(catalogue.__file__, run_name="__main__")
    printed = capsys.readouterr().out
    assert json.loads(printed) == catalogue.expected_catalogue()
    assert printed == json.dumps(catalogue.expected_catalogue(), indent=1) + "\n"
    assert not re.search(r"(actions|row_changes|capture)_\d", printed)
