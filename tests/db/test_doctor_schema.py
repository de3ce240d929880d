"""What the doctor says of a schema that is not as it was made: each deviation is planted, named, and cured by its remedy."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from provenance.doctor import Severity, diagnose
from provenance.schema.migrations import known_migrations
from tests.support.doctor import SERVER, cure, wrong

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def connected(provenance_server: str, provenance_template: str) -> Iterator[Connection]:
    """Yield a connection to a fresh installation that the tests of this module share."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        with psycopg.connect(conninfo.make_conninfo(provenance_server, dbname=name), autocommit=True) as opened:
            yield opened
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connection(connected: Connection) -> Iterator[Connection]:
    """Yield a connection in a transaction that will be rolled back, whatever is broken in it; roles included."""
    with connected.transaction(force_rollback=True):
        connected.execute("CREATE ROLE provenance_somebody")
        yield connected


CURABLE = {
    "a guard is disabled": (
        "ALTER TABLE provenance.actions DISABLE TRIGGER refuse_change",
        "trigger is disabled",
        "actions.refuse_change",
    ),
    "a guard sleeps in replica sessions": (
        "ALTER TABLE provenance.row_changes ENABLE TRIGGER refuse_truncate",
        "trigger does not fire in every session",
        "row_changes.refuse_truncate",
    ),
    "a partition has no guard": (
        "DROP TRIGGER refuse_truncate ON provenance.row_changes_default",
        "trigger is missing",
        "row_changes_default.refuse_truncate",
    ),
    "a table has no guard": (
        "DROP TRIGGER refuse_change ON provenance.row_changes",
        "trigger is missing",
        "row_changes.refuse_change",
    ),
    "a guard guards less": (
        """DROP TRIGGER refuse_change ON provenance.actions;
           CREATE TRIGGER refuse_change BEFORE DELETE ON provenance.actions
               FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change()""",
        "trigger was changed",
        "actions.refuse_change",
    ),
    "somebody's trigger": (
        """CREATE TRIGGER also BEFORE INSERT ON provenance.actions
               FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change()""",
        "trigger should not be there",
        "actions.also",
    ),
    "a right to change the past": (
        "GRANT UPDATE, DELETE ON provenance.actions TO provenance_somebody",
        "has a right that nobody should have",
        "provenance_somebody on actions",
    ),
    "a right to forge": (
        "GRANT INSERT (recorded_at) ON provenance.actions TO provenance_somebody",
        "has a right that nobody should have",
        "provenance_somebody on actions.recorded_at",
    ),
    "everybody may call a function": (
        "GRANT EXECUTE ON FUNCTION provenance.resolve(uuid) TO PUBLIC",
        "has a right that nobody should have",
        "PUBLIC on provenance.resolve(uuid)",
    ),
    "everybody may use the schema": (
        "GRANT USAGE ON SCHEMA provenance TO PUBLIC",
        "has a right that nobody should have",
        "PUBLIC on schema provenance",
    ),
    "everybody may read": (
        "GRANT SELECT ON provenance.actions TO PUBLIC",
        "has a right that nobody should have",
        "PUBLIC on actions",
    ),
    "readers see all tenants": (
        "ALTER TABLE provenance.row_changes DISABLE ROW LEVEL SECURITY",
        "row level security is disabled",
        "row_changes",
    ),
    "the owner is bound": (
        "ALTER TABLE provenance.readers FORCE ROW LEVEL SECURITY",
        "row level security binds the owner too",
        "readers",
    ),
    "somebody owns a table": (
        "ALTER TABLE provenance.action_intents OWNER TO provenance_somebody",
        "relation is owned by provenance_somebody",
        "action_intents",
    ),
    "somebody owns a partition": (
        "ALTER TABLE provenance.actions_default OWNER TO provenance_somebody",
        "relation is owned by provenance_somebody",
        "actions_default",
    ),
    "somebody owns a function": (
        "ALTER FUNCTION provenance.outcome(uuid) OWNER TO provenance_somebody",
        "function is owned by provenance_somebody",
        "outcome(action_id uuid)",
    ),
    "a crash empties a table": (
        "ALTER TABLE provenance.idempotency_keys SET UNLOGGED",
        "relation is not logged",
        "idempotency_keys",
    ),
    "nobody vacuums a table": (
        "ALTER TABLE provenance.action_intents SET (autovacuum_enabled = false, fillfactor = 50)",
        "relation has storage settings",
        "action_intents",
    ),
    "two things at once": (
        """ALTER TABLE provenance.action_intents SET (autovacuum_enabled = false);
           ALTER TABLE provenance.action_intents DISABLE ROW LEVEL SECURITY""",
        "row level security is disabled",
        "action_intents",
    ),
    "somebody's table": ("CREATE TABLE provenance.mine ()", "relation should not be there", "mine"),
    "somebody's view": ("CREATE VIEW provenance.mine AS SELECT 1 AS one", "relation should not be there", "mine"),
    "somebody's function": (
        """CREATE FUNCTION provenance.mine(integer) RETURNS integer RETURN 1;
           REVOKE ALL ON FUNCTION provenance.mine FROM PUBLIC""",
        "function should not be there",
        "mine(integer)",
    ),
    "somebody's rule": (
        "CREATE RULE mine AS ON INSERT TO provenance.readers DO INSTEAD NOTHING",
        "rule should not be there",
        "readers.mine",
    ),
    "somebody's policy": (
        "CREATE POLICY mine ON provenance.actions FOR SELECT USING (true)",
        "policy should not be there",
        "actions.mine",
    ),
    "somebody's column": (
        "ALTER TABLE provenance.actions ADD COLUMN mine integer",
        "column should not be there",
        "actions.mine",
    ),
    "somebody's constraint": (
        "ALTER TABLE provenance.actions ADD CONSTRAINT mine CHECK (id IS NOT NULL)",
        "constraint should not be there",
        "actions.mine",
    ),
    "a constraint is missing": (
        "ALTER TABLE provenance.action_intents DROP CONSTRAINT action_intents_ids_check",
        "constraint is missing",
        "action_intents.action_intents_ids_check",
    ),
    "a constraint says less": (
        """ALTER TABLE provenance.actions DROP CONSTRAINT actions_status_check;
           ALTER TABLE provenance.actions ADD CONSTRAINT actions_status_check CHECK (status <> '')""",
        "constraint was changed",
        "actions.actions_status_check",
    ),
    "an index is missing": ("DROP INDEX provenance.action_intents_root", "index is missing", "action_intents_root"),
    "an index is missing everywhere": ("DROP INDEX provenance.actions_user", "index is missing", "actions_user"),
    "somebody's index": (
        "CREATE INDEX mine ON provenance.action_intents (worker)",
        "index should not be there",
        "mine",
    ),
    "somebody's index everywhere": (
        "CREATE INDEX mine ON provenance.actions (status)",
        "index should not be there",
        "mine",
    ),
    "an index is on something else": (
        """DROP INDEX provenance.action_intents_root;
           CREATE INDEX action_intents_root ON provenance.action_intents (worker)""",
        "index was changed",
        "action_intents_root",
    ),
    "an index is on something else everywhere": (
        "DROP INDEX provenance.actions_user; CREATE INDEX actions_user ON provenance.actions (status)",
        "index was changed",
        "actions_user",
    ),
    "somebody's table with all that tables have": (
        """CREATE TABLE provenance.mine (id integer PRIMARY KEY, also text);
           GRANT SELECT ON provenance.mine TO PUBLIC""",
        "relation should not be there",
        "mine",
    ),
    "a trigger with a name that is SQL": (
        """CREATE TRIGGER "x on provenance.actions; DROP TABLE provenance.readers; --" BEFORE INSERT ON provenance.actions
               FOR EACH ROW EXECUTE FUNCTION provenance.refuse_change()""",
        "trigger should not be there",
        'actions."x on provenance.actions; DROP TABLE provenance.readers; --"',
    ),
    "a column with an odd name": (
        'ALTER TABLE provenance.readers ADD COLUMN "a.b on ""c""" integer',
        "column should not be there",
        'readers."a.b on ""c"""',
    ),
    "a policy with an odd name": (
        'CREATE POLICY "Odd Name" ON provenance.actions FOR SELECT USING (true)',
        "policy should not be there",
        'actions."Odd Name"',
    ),
    "a table with an odd name": (
        'CREATE TABLE provenance."Odd.Name on x" ()',
        "relation should not be there",
        '"Odd.Name on x"',
    ),
    "an index with an odd name": (
        'CREATE INDEX "Odd Name" ON provenance.readers (tenant_id)',
        "index should not be there",
        '"Odd Name"',
    ),
    "a role with an odd name": (
        """CREATE ROLE "provenance x on y";
           GRANT UPDATE (status), DELETE ON provenance.actions TO "provenance x on y" """,
        "has a right that nobody should have",
        '"provenance x on y" on actions.status',
    ),
    "somebody's procedure": (
        """CREATE PROCEDURE provenance.mine() LANGUAGE sql AS 'SELECT 1';
           REVOKE ALL ON PROCEDURE provenance.mine FROM PUBLIC""",
        "function should not be there",
        "mine()",
    ),
    "somebody owns the schema": (
        "ALTER SCHEMA provenance OWNER TO provenance_somebody",
        "schema is owned by provenance_somebody",
        "provenance",
    ),
    "a primary key is missing": (
        "ALTER TABLE provenance.idempotency_keys DROP CONSTRAINT idempotency_keys_pkey",
        "constraint is missing",
        "idempotency_keys.idempotency_keys_pkey",
    ),
    "a primary key is missing everywhere": (
        "ALTER TABLE provenance.actions DROP CONSTRAINT actions_pkey",
        "constraint is missing",
        "actions.actions_pkey",
    ),
    "times are not checked": (
        "ALTER TABLE provenance.actions DROP CONSTRAINT actions_times_check",
        "constraint is missing",
        "actions.actions_times_check",
    ),
    "an index is invalid": (
        """UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'provenance.action_intents_root'::regclass""",
        "index is invalid",
        "action_intents_root",
    ),
}


def test_a_fresh_installation_is_clean(connection: Connection) -> None:
    """The owner is told nothing at all, not even that something could not be looked at."""
    assert [] == diagnose(connection, skip=SERVER)


@pytest.mark.parametrize("deviation", CURABLE)
def test_each_deviation_is_named_and_cured(connection: Connection, deviation: str) -> None:
    """What is wrong and with what; after the remedy nothing is wrong any more."""
    plant, what, subject = CURABLE[deviation]
    connection.execute(plant.encode())
    found = wrong(connection)
    named = [finding for finding in found if finding.problem.startswith(what)]
    assert [("schema", True)] == [(one.check, subject in one.subject.split(", ")) for one in named]
    for finding in found:
        cure(connection, finding)
    assert [] == wrong(connection)


@pytest.mark.parametrize(
    ("plant", "subject", "remedy"),
    [
        (
            """CREATE OR REPLACE FUNCTION provenance.outcome(action_id uuid) RETURNS text LANGUAGE sql STABLE STRICT
                   SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$SELECT 'completed'$$""",
            "outcome(action_id uuid)",
            "make it again as 0001_actions.up.sql does",
        ),
        ("DROP FUNCTION provenance.forget_intent(uuid)", "forget_intent(action_id uuid)", "0003_recovery.up.sql"),
        ("DROP VIEW provenance.action_log", "action_log", "0001_actions.up.sql"),
        ("DROP POLICY tenants ON provenance.actions", "actions.tenants", "0005_access.up.sql"),
        (
            "ALTER TABLE provenance.action_intents ALTER COLUMN recorded_at SET DEFAULT now()",
            "action_intents.recorded_at",
            "make it again as",
        ),
        (
            "ALTER TABLE provenance.row_shapes ALTER COLUMN id DROP IDENTITY",
            "row_shapes_id_seq",
            "make it again as the migrations do",
        ),
        (
            """CREATE FUNCTION provenance.capture_7() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
               REVOKE ALL ON FUNCTION provenance.capture_7 FROM PUBLIC""",
            "capture_7()",
            "provenance capture TABLE",
        ),
        (
            "ALTER SEQUENCE provenance.row_changes_number MAXVALUE 500 CYCLE",
            "row_changes_number",
            "make it again as 0002_row_changes.up.sql does",
        ),
        (
            "ALTER VIEW provenance.action_log SET (security_invoker = false)",
            "action_log",
            "make it again as 0001_actions.up.sql does",
        ),
    ],
)
def test_what_no_single_statement_mends(connection: Connection, plant: str, subject: str, remedy: str) -> None:
    """The migration that makes it is named, the last one where there are several."""
    connection.execute(plant.encode())
    found = [finding for finding in wrong(connection) if subject in finding.subject]
    assert [True] == [remedy in finding.remedy for finding in found]


@pytest.mark.parametrize(
    "setting",
    [
        "intervalstyle = 'iso_8601'",
        "intervalstyle = 'sql_standard'",
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "datestyle = 'German, DMY'",
        "timezone = 'Asia/Kolkata'",
        "search_path = provenance, public",
        "bytea_output = 'escape'",
        "client_encoding = 'SQL_ASCII'",
        "default_transaction_isolation = 'serializable'",
    ],
)
def test_how_the_session_prints_things_changes_nothing(connection: Connection, setting: str) -> None:
    """Definitions are printed alike, and times are read, whatever its role or its database has set."""
    connection.execute(f"SET LOCAL {setting}".encode())
    assert [] == diagnose(connection, skip=SERVER)


def test_a_dump_without_comments_costs_a_capture_its_mark(connection: Connection) -> None:
    """That is no accusation: the function may be what was made. To capture the table again puts it right."""
    connection.execute("CREATE TABLE mine (id integer PRIMARY KEY); SELECT provenance.capture_table('mine')")
    [(name,)] = connection.execute(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'provenance'::regnamespace AND p.proname ~ '^capture_[0-9]'"
    ).fetchall()
    connection.execute(sql.SQL("COMMENT ON FUNCTION provenance.{} IS NULL").format(sql.Identifier(name)))
    (finding,) = wrong(connection)
    assert (f"{name}()", Severity.WARNING) == (finding.subject, finding.severity)
    assert "lost its mark, as in a dump without comments" in finding.problem
    connection.execute("SELECT provenance.capture_table('mine')")
    assert [] == wrong(connection)


def test_every_constraint_survives_being_dumped_and_restored(connection: Connection) -> None:
    """Each is still what it was once it is made anew as it is printed, which is what a dump does."""
    for table, name, definition in connection.execute(
        """SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid)
             FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
            WHERE k.connamespace = 'provenance'::regnamespace AND k.contype = 'c' AND NOT c.relispartition"""
    ).fetchall():
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}".encode())
    assert [] == wrong(connection)


def test_fifty_differences_stay_readable(connection: Connection) -> None:
    """One finding for all that is wrong in the same way: ten are named, and the remedy has a line for each."""
    for number in range(50):
        connection.execute(f"CREATE TABLE provenance.mine_{number:02} ()".encode())
    (finding,) = wrong(connection)
    assert "mine_09, and 40 more" in finding.subject
    assert 50 == len(finding.remedy.splitlines())


def test_a_missing_schema(connection: Connection) -> None:
    """That, with the command, and that nothing else could be looked at; the server is."""
    connection.execute("DROP SCHEMA provenance CASCADE")
    missing, others = diagnose(connection, skip=SERVER)
    assert ("schema", Severity.ERROR, "provenance migrate up") == (missing.check, missing.severity, missing.remedy)
    assert missing.problem.startswith("is missing")
    assert (Severity.UNCHECKED, True) == (others.severity, "partitions, roles, tables" in others.problem)


def test_a_schema_that_is_behind(connection: Connection) -> None:
    """Each missing migration is named, and nothing is compared with what they would make."""
    newest = known_migrations()[-1]
    connection.execute("DELETE FROM provenance.migrations WHERE version = %s", (newest.version,))
    (finding,) = wrong(connection)
    assert f"migrations are not applied: {newest.version:04} ({newest.name})" in finding.problem
    assert "provenance migrate up" == finding.remedy


def test_migrations_that_are_not_the_released_ones(connection: Connection) -> None:
    """One that was edited, and one that this version of the library does not know."""
    connection.execute("UPDATE provenance.migrations SET checksum = 'x' WHERE version = 2")
    connection.execute("INSERT INTO provenance.migrations (version, name, checksum) VALUES (9999, 'later', 'x')")
    edited, later = wrong(connection)
    assert ("edited" in edited.problem, "0002_row_changes.up.sql" in edited.remedy) == (True, True)
    assert ("9999 (later)" in later.problem, later.remedy) == (True, "pip install --upgrade provenance-trail")


@pytest.mark.parametrize(
    ("version", "said"),
    [("1", "is too old"), (None, "is missing"), ("9999", "is at version 9999, and this version of the library knows")],
)
def test_a_reader_is_told_of_the_version(connection: Connection, version: str | None, said: str) -> None:
    """It may not read the ledger, but what the schema says of itself."""
    connection.execute("SELECT provenance.grant_reader('provenance_somebody')")
    if version is None:
        connection.execute("DROP FUNCTION provenance.schema_version()")
    else:
        connection.execute(
            f"CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer IMMUTABLE RETURN {version}".encode()
        )
    connection.execute("SET LOCAL ROLE provenance_somebody")
    first = diagnose(connection, skip=SERVER)[0]
    assert (Severity.ERROR, True) == (first.severity, first.problem.startswith(said))


def test_what_is_skipped(connection: Connection) -> None:
    """Is not looked at."""
    connection.execute("ALTER TABLE provenance.actions DISABLE TRIGGER refuse_change")
    assert [] == wrong(connection, skip=(*SERVER, "schema"))
    connection.execute("DROP SCHEMA provenance CASCADE")
    assert [] == wrong(connection, skip=(*SERVER, "schema"))


def test_the_callers_transaction_is_left_as_it_was(connection: Connection) -> None:
    """It may write afterwards, with its own settings."""
    connection.execute("SET LOCAL statement_timeout = '7s'")
    diagnose(connection)
    connection.execute("DELETE FROM work")
    settings = "current_setting('statement_timeout'), current_setting('transaction_read_only')"
    assert ("7s", "off") == connection.execute(f"SELECT {settings}".encode()).fetchone()
