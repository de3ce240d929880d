"""Applying migrations, taking them back, and what happens when that goes wrong or happens twice at once."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import attrs
import psycopg
import pytest
from psycopg import IsolationLevel, conninfo, sql
from psycopg.rows import dict_row

from provenance import schema
from provenance.errors import MigrationError
from provenance.schema import Migration, known_migrations, runner
from provenance.setting_up import SCHEMA_VERSION

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def database(provenance_server: str) -> Iterator[str]:
    """Yield the address of a database that tests of this module use one after the other."""
    name = f"provenance_empty_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield conninfo.make_conninfo(provenance_server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_dsn(database: str) -> Iterator[str]:
    """Yield the address of a database with nothing in it, and empty it afterwards."""
    yield database
    with psycopg.connect(database, autocommit=True) as admin:
        for (name,) in admin.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall():
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        admin.execute("CREATE SCHEMA public")


@pytest.fixture
def connection(empty_dsn: str) -> Iterator[Connection]:
    """Yield a connection to the empty database."""
    with psycopg.connect(empty_dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture
def role(provenance_server: str, empty_dsn: str) -> Iterator[str]:
    """Yield the name of a role without any rights that can log in."""
    name = f"provenance_role_{secrets.token_hex(8)}"
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        yield name
        admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def scalar(connection: Connection, query: str, *parameters: object) -> Any:
    """Return the first column of the first row."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


def schema_exists(connection: Connection) -> bool:
    return bool(scalar(connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'provenance')"))


ORIGINAL = known_migrations()
LATEST = len(ORIGINAL)
ADDED = Migration(
    version=LATEST + 1,
    name="added",
    up="CREATE TABLE provenance.added (id integer)",
    down="DROP TABLE provenance.added",
)


@pytest.fixture
def also_known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes further migrations known to this version of the library."""

    def add(*more: Migration) -> None:
        monkeypatch.setattr(runner, "known_migrations", lambda: (*ORIGINAL, *more))

    return add


# --- What is shipped -------------------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps() -> None:
    """Each has both directions, and a place in the order."""
    assert [migration.version for migration in ORIGINAL] == list(range(1, len(ORIGINAL) + 1))
    assert all(migration.up and migration.down for migration in ORIGINAL)


def test_the_checksum_covers_both_directions() -> None:
    """A migration whose way back was edited is not the one that was released; the border between the two counts."""
    changed = [
        attrs.evolve(ADDED, up=ADDED.up + " "),
        attrs.evolve(ADDED, down=ADDED.down + " "),
        attrs.evolve(ADDED, up=ADDED.up + ADDED.down[0], down=ADDED.down[1:]),
    ]
    assert len({ADDED.checksum, *(migration.checksum for migration in changed)}) == 4
    assert attrs.evolve(ADDED, name="renamed").checksum == ADDED.checksum


# --- Up, down, status ------------------------------------------------------------------------------------------------


def test_up_applies_everything_and_says_so(connection: Connection) -> None:
    """The migrations that were applied are returned, and the ledger knows who did it and when."""
    started = datetime.now(UTC)
    assert schema.up(connection) == list(ORIGINAL)
    states = schema.status(connection)
    assert [(state.version, state.name, state.problem) for state in states] == [
        (step.version, step.name, None) for step in ORIGINAL
    ]
    for state in states:
        assert state.applied_by == scalar(connection, "SELECT session_user::text")
        assert state.applied_at is not None
        assert abs(state.applied_at - started).total_seconds() < 60
    assert schema.verify(connection) == []


def test_the_last_migration_makes_the_schema_that_the_library_writes(connection: Connection) -> None:
    """The version that the database says, the one that the library asks for and the number of steps are one."""
    schema.up(connection)
    assert scalar(connection, "SELECT provenance.schema_version()") == SCHEMA_VERSION == LATEST


def test_up_twice_applies_nothing_the_second_time(connection: Connection) -> None:
    """Deploying the same version again changes nothing."""
    schema.up(connection)
    before = schema.status(connection)
    assert schema.up(connection) == []
    assert schema.status(connection) == before


@pytest.mark.parametrize("table", ["actions", "row_changes"])
def test_up_makes_the_partitions_of_the_coming_months(connection: Connection, table: str) -> None:
    """This month and six more, also when all migrations were applied long ago."""
    schema.up(connection)
    query = (  # one of two names
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class "  # noqa: S608
        f"WHERE relkind = 'r' AND relname ~ '^{table}_[0-9]{{4}}_[0-9]{{2}}$'"
    )
    made = scalar(connection, query)
    assert len(made) == 7
    connection.execute(sql.SQL("DROP TABLE provenance.{}").format(sql.Identifier(made[-1])))
    schema.up(connection)
    assert scalar(connection, query) == made


def test_status_of_an_empty_database(connection: Connection) -> None:
    """Known migrations show as not applied, and looking creates nothing."""
    assert [
        (state.version, state.name, state.applied_at, state.applied_by, state.problem)
        for state in schema.status(connection)
    ] == [(step.version, step.name, None, None, None) for step in ORIGINAL]
    assert not schema_exists(connection)


def test_up_to_a_version(connection: Connection, also_known: Callable[..., None]) -> None:
    """What lies above the named version is left alone."""
    also_known(ADDED)
    assert schema.up(connection, to=0) == []
    assert not schema_exists(connection)
    assert schema.up(connection, to=1) == [ORIGINAL[0]]
    assert [state.applied_at is not None for state in schema.status(connection)] == [True, *[False] * LATEST]
    assert schema.up(connection, to=LATEST) == list(ORIGINAL[1:])
    assert [state.applied_at is not None for state in schema.status(connection)] == [*[True] * LATEST, False]
    assert schema.up(connection) == [ADDED]


def test_down_to_a_version(connection: Connection, also_known: Callable[..., None]) -> None:
    """Only what lies above the named version is taken back, and it can be applied again."""
    also_known(ADDED)
    schema.up(connection)
    assert schema.down(connection, to=LATEST) == [ADDED]
    assert scalar(connection, "SELECT to_regclass('provenance.added')") is None
    assert schema.verify(connection) == []
    assert schema.down(connection, to=LATEST) == []
    assert schema.up(connection) == [ADDED]
    assert schema.down(connection, to=1) == [ADDED, *reversed(ORIGINAL[1:])]
    assert [state.applied_at is not None for state in schema.status(connection)] == [True, *[False] * LATEST]
    assert schema.up(connection) == [*ORIGINAL[1:], ADDED]
    assert schema.down(connection, to=0) == [ADDED, *reversed(ORIGINAL)]
    assert not schema_exists(connection)


_SNAPSHOT = """
    SELECT 'class', oid::regclass::text, relkind::text || relowner FROM pg_class
     WHERE relnamespace <> 'pg_toast'::regnamespace
    UNION ALL SELECT 'proc', oid::regprocedure::text, prosrc FROM pg_proc
    UNION ALL SELECT 'namespace', nspname, nspacl::text FROM pg_namespace
    UNION ALL SELECT 'type', oid::regtype::text, typtype::text FROM pg_type
    UNION ALL SELECT 'constraint', conname, conrelid::regclass::text FROM pg_constraint
    UNION ALL SELECT 'trigger', tgname, tgrelid::regclass::text FROM pg_trigger
    UNION ALL SELECT 'rule', rulename, ev_class::regclass::text FROM pg_rewrite
    UNION ALL SELECT 'default', adrelid::regclass::text, adnum::text FROM pg_attrdef
    UNION ALL SELECT 'description', objoid::text, description FROM pg_description
    UNION ALL SELECT 'default acl', oid::text, defaclacl::text FROM pg_default_acl
    UNION ALL SELECT 'dependency', classid::regclass::text || objid, refclassid::regclass::text || refobjid FROM pg_depend
    UNION ALL SELECT 'shared dependency', classid::text || objid, refobjid::text FROM pg_shdepend
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY 1, 2, 3"""


# Everything that one does with a captured table in its life, up to its release; and triggers that are all dropped again.
_CAPTURING = """
    SELECT provenance.capture_table('work');
    INSERT INTO work (id) VALUES (1), (2);
    SELECT provenance.adopt_table('work');
    UPDATE work SET id = 3 WHERE id = 1;
    DELETE FROM work;
    SELECT provenance.release_table('work');
    CREATE TRIGGER required BEFORE INSERT ON work FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action();
    DROP TRIGGER required ON work"""


def test_down_to_nothing_leaves_the_database_as_it_was(connection: Connection) -> None:
    """After recording, capturing, granting and taking back, the catalogues hold exactly what they held before."""
    connection.execute("CREATE TABLE work (id integer PRIMARY KEY)")
    before = connection.execute(_SNAPSHOT).fetchall()
    schema.up(connection)
    connection.execute(_CAPTURING)
    assert scalar(connection, "SELECT count(*) FROM provenance.row_changes") == 5
    connection.execute("SELECT provenance.complete_action(provenance.record_action('a', 'c'))")
    connection.execute("SELECT provenance.record_action('left open', 'c')")
    connection.execute("SELECT provenance.ensure_partitions(14)")
    connection.execute("SELECT provenance.grant_reader('pg_monitor'), provenance.grant_writer('pg_monitor')")
    assert connection.execute(_SNAPSHOT).fetchall() != before
    assert schema.down(connection, to=0) == list(reversed(ORIGINAL))
    assert connection.execute(_SNAPSHOT).fetchall() == before
    assert schema.down(connection, to=0) == []
    assert [state.applied_at for state in schema.status(connection)] == [None] * LATEST


@pytest.mark.parametrize("version", range(1, LATEST + 1))
def test_down_by_one_leaves_what_the_steps_before_made(connection: Connection, version: int) -> None:
    """Each step takes back all that is its own, and puts back what it replaced."""
    # A function that is parsed when it is made has no source; its definition tells what it does.
    definitions = """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text FROM pg_proc p
         WHERE p.pronamespace = to_regnamespace('provenance') ORDER BY 1"""
    connection.execute("CREATE TABLE work (id integer PRIMARY KEY)")
    schema.up(connection, to=version - 1)
    before = [connection.execute(query).fetchall() for query in (_SNAPSHOT, definitions)]
    schema.up(connection, to=version)
    if version >= 2:
        connection.execute(_CAPTURING)
    assert schema.down(connection, to=version - 1) == [ORIGINAL[version - 1]]
    assert [connection.execute(query).fetchall() for query in (_SNAPSHOT, definitions)] == before


def test_down_and_up_again(connection: Connection) -> None:
    """A schema that was taken back can be made anew."""
    for _ in range(2):
        assert schema.up(connection) == list(ORIGINAL)
        assert schema.verify(connection) == []
        assert schema.down(connection, to=0) == list(reversed(ORIGINAL))


_REMEDY = (
    "; release captured tables with `provenance capture TABLE --release`, take the stamps off others with `provenance stamp "
    "TABLE --undo`, take concepts back with `provenance concept sql FILE --down`, and drop what else is named"
)
_STAMPED = "CREATE TABLE work (id integer PRIMARY KEY, created_by_action_id uuid, updated_by_action_id uuid); "


@pytest.mark.parametrize(
    ("version", "foreign", "obstacle"),
    [
        (
            1,
            "CREATE TABLE provenance.somebody_elses (id integer)",
            (
                "schema provenance because other objects depend on it (table provenance.somebody_elses depends on schema "
                "provenance)"
            ),
        ),
        (
            1,
            "CREATE TABLE work (id uuid DEFAULT provenance.current_action_id())",
            (
                "desired object(s) because other objects depend on them (default value for column id of table public.work "
                "depends on function provenance.current_action_id())"
            ),
        ),
        (
            1,
            "CREATE VIEW mine AS SELECT id FROM provenance.action_log",
            (
                "view provenance.action_log because other objects depend on it (view public.mine depends on view "
                "provenance.action_log)"
            ),
        ),
        (
            2,
            "CREATE VIEW mine AS SELECT seq FROM provenance.row_changes",
            (
                "desired object(s) because other objects depend on them (view public.mine depends on table "
                "provenance.row_changes)"
            ),
        ),
        (
            2,
            "CREATE TABLE work (id bigint DEFAULT nextval('provenance.row_changes_number'))",
            (
                "sequence provenance.row_changes_number because other objects depend on it (default value for column id of "
                "table public.work depends on sequence provenance.row_changes_number)"
            ),
        ),
        *(
            (
                2,
                f"{_STAMPED} CREATE TRIGGER mine {when} ON work {each} EXECUTE FUNCTION provenance.{function}()",
                (
                    f"desired object(s) because other objects depend on them (trigger mine on table public.work depends on "
                    f"function provenance.{function}())"
                ),
            )
            for function, when, each in (
                ("stamp_insert", "BEFORE INSERT", "FOR EACH ROW"),
                ("stamp_update", "BEFORE UPDATE", "FOR EACH ROW"),
                ("touch", "BEFORE UPDATE", "FOR EACH ROW"),
                ("require_action", "BEFORE INSERT", "FOR EACH STATEMENT"),
            )
        ),
    ],
)
def test_down_does_not_take_what_is_not_its_own(
    connection: Connection, version: int, foreign: str, obstacle: str
) -> None:
    """Whatever else lives in the schema, or stands on it, stops the removal; of the step that it stops all is left."""
    schema.up(connection)
    # The steps after the one that is stopped are taken back, as far as one can go.
    schema.down(connection, to=version)
    connection.execute(foreign.encode())
    before = connection.execute(_SNAPSHOT).fetchall()
    ledger = connection.execute("TABLE provenance.migrations").fetchall()
    schema.up(connection)
    for before_it in (taken_back(down_to=version), ""):
        with pytest.raises(MigrationError) as caught:
            schema.down(connection, to=0)
        migration = ORIGINAL[version - 1]
        assert str(caught.value) == (
            f"taking back migration {version:04} ({migration.name}) failed and changed nothing: cannot drop {obstacle}"
            f"{_REMEDY}{before_it}"
        )
        assert connection.execute(_SNAPSHOT).fetchall() == before
        assert connection.execute("TABLE provenance.migrations").fetchall() == ledger


def taken_back(*, down_to: int) -> str:
    """Return what is said of the steps that were taken back before one that fails."""
    names = [f"{step.version:04} ({step.name})" for step in reversed(ORIGINAL) if step.version > down_to]
    return f"; taken back before that: {', '.join(names)}"


def test_down_names_the_tables_that_are_captured_and_stamped(connection: Connection) -> None:
    """Ten of what stands in the way, and how many more there are; released, they stand in it no more."""
    schema.up(connection)
    tables = [f"t{number}" for number in range(6)]
    for table in tables:
        connection.execute(f"CREATE TABLE {table} (id integer PRIMARY KEY)".encode())
        connection.execute(f"SELECT provenance.capture_table('{table}'), provenance.stamp_table('{table}')".encode())
    with pytest.raises(MigrationError, match=r"on table public\.t0 depends on function provenance\.capture_1\(\)"):
        schema.down(connection, to=0)
    for table in tables:
        connection.execute(f"SELECT provenance.release_table('{table}')".encode())
    with pytest.raises(
        MigrationError, match=r"\(trigger .* on table public\.t0 .*, and 2 more\); release captured"
    ) as caught:
        schema.down(connection, to=0)
    assert 10 == str(caught.value).count(" on table public.t")
    for table in tables:
        connection.execute(f"SELECT provenance.unstamp_table('{table}')".encode())
    assert schema.down(connection, to=0) == list(reversed(ORIGINAL[:2]))


def test_a_step_that_fails_says_what_was_done_before_it(connection: Connection) -> None:
    """It changed nothing itself, but the later ones are gone; upwards, the earlier ones stay."""
    schema.up(connection)
    connection.execute("CREATE TABLE provenance.mine (id integer)")
    with pytest.raises(MigrationError) as caught:
        schema.down(connection, to=0)
    assert str(caught.value) == (
        "taking back migration 0001 (actions) failed and changed nothing: cannot drop schema provenance because other "
        "objects depend on it (table provenance.mine depends on schema provenance)"
        f"{_REMEDY}{taken_back(down_to=1)}"
    )
    assert scalar(connection, "SELECT array_agg(version) FROM provenance.migrations") == [1]
    connection.execute("CREATE TABLE provenance.row_changes (id integer); DROP TABLE provenance.mine")
    with pytest.raises(MigrationError, match=r"already exists$"):
        schema.up(connection)
    connection.execute("DROP TABLE provenance.row_changes")
    assert schema.down(connection, to=0) == [ORIGINAL[0]]
    connection.execute("CREATE SCHEMA provenance; CREATE TABLE provenance.row_changes (id integer)")
    with pytest.raises(MigrationError) as caught:
        schema.up(connection)
    assert str(caught.value) == (
        'migration 0002 (row_changes) failed and changed nothing: relation "row_changes" already exists; '
        "applied before that: 0001 (actions)"
    )


def test_down_does_not_stop_a_capture(connection: Connection) -> None:
    """As long as a table is captured its trigger needs what would be dropped; nothing that was captured is lost."""
    connection.execute("CREATE TABLE work (id integer PRIMARY KEY)")
    schema.up(connection)
    connection.execute("SELECT provenance.capture_table('work')")
    connection.execute("INSERT INTO work (id) VALUES (1)")
    schema.down(connection, to=2)
    before = connection.execute(_SNAPSHOT).fetchall()
    schema.up(connection)
    with pytest.raises(MigrationError) as caught:
        schema.down(connection, to=0)
    assert str(caught.value).startswith("taking back migration 0002 (row_changes) failed and changed nothing: ")
    assert connection.execute(_SNAPSHOT).fetchall() == before
    connection.execute("INSERT INTO work (id) VALUES (2)")
    assert scalar(connection, "SELECT count(*) FROM provenance.row_changes") == 2
    connection.execute("SELECT provenance.release_table('work')")
    assert schema.down(connection, to=0) == list(reversed(ORIGINAL[:2]))


def test_down_takes_what_captured_a_table_that_is_gone(connection: Connection) -> None:
    """Nobody can release a table that was dropped, or that lost its trigger; its function is in nobody's way."""
    connection.execute("CREATE TABLE work (id integer PRIMARY KEY)")
    schema.up(connection)
    connection.execute("SELECT provenance.capture_table('work')")
    connection.execute("DROP TABLE work")
    assert schema.down(connection, to=0) == list(reversed(ORIGINAL))
    assert not schema_exists(connection)


# --- Connections as they come ----------------------------------------------------------------------------------------


def test_a_connection_without_autocommit_will_do(empty_dsn: str) -> None:
    """psycopg's default mode: the work is committed all the same, and no transaction is left open."""
    with psycopg.connect(empty_dsn) as connection:
        assert schema.up(connection) == list(ORIGINAL)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        connection.rollback()
        assert schema.verify(connection) == []
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_connection_that_answers_dictionaries_will_do(empty_dsn: str) -> None:
    """The row factory is the application's business."""
    with psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as connection:
        assert schema.up(connection) == list(ORIGINAL)
        assert [state.version for state in schema.status(connection)] == [step.version for step in ORIGINAL]
        assert schema.verify(connection) == []
        assert schema.down(connection, to=0) == list(reversed(ORIGINAL))


def test_an_open_transaction_is_refused(empty_dsn: str) -> None:
    """A step is a transaction of its own; inside another one it could be undone later."""
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("SELECT 1")
        for migrate in (lambda: schema.up(connection), lambda: schema.down(connection, to=0)):
            with pytest.raises(
                MigrationError,
                match=r"^migrations need a connection with no transaction open; commit or roll back first$",
            ):
                migrate()
        connection.rollback()
        assert not schema_exists(connection)


def test_a_hostile_search_path_does_not_matter(connection: Connection) -> None:
    """Functions of the same names in front of the server's own do not get into the schema."""
    connection.execute("""
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''1999-01-01''::timestamptz';
        CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS 'SELECT ''1''::xid8';
        CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''stolen''';
        CREATE FUNCTION evil.hashtext(text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION evil.same(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
        CREATE OPERATOR evil.| (FUNCTION = evil.same, LEFTARG = bigint, RIGHTARG = bigint);
        CREATE DOMAIN evil.text AS pg_catalog.text;
        CREATE TABLE evil.migrations (version integer);
        SET search_path = evil, pg_catalog""")
    assert schema.up(connection) == list(ORIGINAL)
    assert schema.verify(connection) == []
    assert scalar(connection, "SHOW search_path") == "evil, pg_catalog"


def test_an_ordinary_role_may_own_the_schema(connection: Connection, empty_dsn: str, role: str) -> None:
    """CREATE on the database is all it takes."""
    connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
        sql.Identifier(connection.info.dbname), sql.Identifier(role)))  # fmt: skip
    with psycopg.connect(conninfo.make_conninfo(empty_dsn, user=role), autocommit=True) as own:
        assert schema.up(own) == list(ORIGINAL)
        assert [state.applied_by for state in schema.status(own)] == [role] * LATEST
        assert schema.verify(own) == []
        assert schema.verify(connection) == []
        assert schema.down(own, to=0) == list(reversed(ORIGINAL))


def test_a_role_without_rights(connection: Connection, empty_dsn: str, role: str) -> None:
    """It learns what is missing, and nothing is left behind."""
    with psycopg.connect(conninfo.make_conninfo(empty_dsn, user=role), autocommit=True) as own:
        with pytest.raises(
            MigrationError,
            match=r"^migration 0001 \(actions\) failed and changed nothing: permission denied for database",
        ):
            schema.up(own)
        assert not schema_exists(connection)
        schema.up(connection)
        for migrate in (lambda: schema.up(own), lambda: schema.down(own, to=0)):
            with pytest.raises(
                MigrationError, match=r"^the ledger of migrations cannot be read: permission denied for schema"
            ):
                migrate()
        with pytest.raises(
            MigrationError, match=r"^the ledger of migrations cannot be read: permission denied for schema"
        ):
            schema.status(own)


# --- What must not be built upon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("edited", ORIGINAL, ids=lambda migration: migration.name)
def test_an_edited_migration_is_refused(connection: Connection, edited: Migration) -> None:
    """A text that is not the applied one, the first or the last, stops both directions and shows in the status."""
    schema.up(connection)
    connection.execute("UPDATE provenance.migrations SET checksum = 'other' WHERE version = %s", (edited.version,))
    problem = (
        f"migration {edited.version:04} ({edited.name}) is not the one that was applied: its text was edited since; "
        "restore the released file"
    )
    for migrate in (lambda: schema.up(connection), lambda: schema.down(connection, to=0)):
        with pytest.raises(MigrationError) as caught:
            migrate()
        assert str(caught.value) == problem
    assert [state.problem for state in schema.status(connection)] == [
        problem if migration == edited else None for migration in ORIGINAL
    ]
    assert scalar(connection, "SELECT count(*) FROM provenance.migrations") == LATEST
    assert schema.verify(connection) == []


def test_a_newer_schema_is_refused(connection: Connection) -> None:
    """An old version of the library does not touch what a newer one made."""
    schema.up(connection)
    connection.execute("INSERT INTO provenance.migrations (version, name, checksum) VALUES (42, 'future', 'x')")
    problem = "migration 0042 (future) is applied, but this version of provenance does not know it; upgrade the library"
    for migrate in (lambda: schema.up(connection), lambda: schema.down(connection, to=0)):
        with pytest.raises(MigrationError) as caught:
            migrate()
        assert str(caught.value) == problem
    states = schema.status(connection)
    assert [(state.version, state.name, state.problem) for state in states] == [
        *((migration.version, migration.name, None) for migration in ORIGINAL),
        (42, "future", problem),
    ]
    assert states[-1].applied_at is not None


# --- Steps that fail -------------------------------------------------------------------------------------------------


def test_a_failing_first_step_leaves_nothing(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the schema or the ledger."""
    before = connection.execute(_SNAPSHOT).fetchall()
    first, *others = ORIGINAL
    broken = attrs.evolve(first, up=first.up + "; SELECT 1 / 0")
    monkeypatch.setattr(runner, "known_migrations", lambda: (broken, *others))
    with pytest.raises(MigrationError) as caught:
        schema.up(connection)
    assert str(caught.value) == "migration 0001 (actions) failed and changed nothing: division by zero"
    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)
    assert connection.execute(_SNAPSHOT).fetchall() == before


def test_a_failing_later_step_leaves_the_earlier_ones(connection: Connection, also_known: Callable[..., None]) -> None:
    """What was applied stays applied and usable; of the failing step nothing is there; mended, it goes on."""
    half = "CREATE TABLE provenance.half (); ALTER TABLE provenance.actions ADD COLUMN half text; SELECT no_such_column"
    also_known(attrs.evolve(ADDED, up=half))
    with pytest.raises(MigrationError) as caught:
        schema.up(connection)
    assert str(caught.value) == (
        f'migration {ADDED.version:04} (added) failed and changed nothing: column "no_such_column" does not exist; '
        f"applied before that: {', '.join(f'{step.version:04} ({step.name})' for step in ORIGINAL)}"
    )
    assert schema.verify(connection) == []
    assert [state.applied_at is not None for state in schema.status(connection)] == [*[True] * LATEST, False]
    also_known(ADDED)
    assert schema.up(connection) == [ADDED]


def test_a_failing_step_back_leaves_everything(connection: Connection, also_known: Callable[..., None]) -> None:
    """The ledger still has the step, and what it made is there."""
    also_known(attrs.evolve(ADDED, down="DROP TABLE provenance.added; DROP TABLE provenance.no_such_table"))
    schema.up(connection)
    with pytest.raises(MigrationError) as caught:
        schema.down(connection, to=0)
    assert str(caught.value) == (
        f"taking back migration {ADDED.version:04} (added) failed and changed nothing: "
        'table "no_such_table" does not exist'
    )
    assert scalar(connection, "SELECT to_regclass('provenance.added') IS NOT NULL")
    assert [state.applied_at is not None for state in schema.status(connection)] == [True] * (LATEST + 1)


# --- Two at once -----------------------------------------------------------------------------------------------------


def at_once(dsn: str, *calls: Callable[[Connection], Any], isolation: IsolationLevel | None = None) -> list[Any]:
    """Run each call in a thread and on a connection of its own, all starting together; return their answers."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[Connection], Any]) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.isolation_level = isolation
            barrier.wait(timeout=30)
            return call(connection)

    with ThreadPoolExecutor(len(calls)) as executor:
        return list(executor.map(run, calls))


@pytest.mark.parametrize("isolation", [None, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_deploys_that_start_at_once_all_succeed(
    connection: Connection, empty_dsn: str, isolation: IsolationLevel | None
) -> None:
    """Each step is applied by one of them and found applied by the others, at any isolation level, round after round."""

    def by_version(answers: list[list[Migration]]) -> list[Migration]:
        return sorted(chain.from_iterable(answers), key=lambda migration: migration.version)

    for _ in range(3):
        answers = at_once(empty_dsn, *[schema.up] * 4, isolation=isolation)
        assert by_version(answers) == list(ORIGINAL)
        assert schema.verify(connection) == []
        answers = at_once(empty_dsn, *[lambda c: schema.down(c, to=0)] * 3, isolation=isolation)
        assert by_version(answers) == list(ORIGINAL)
        assert not schema_exists(connection)


def test_deploys_in_two_processes_both_succeed(connection: Connection, empty_dsn: str) -> None:
    """The lock is the server's, not the process's."""
    script = """
import sys, psycopg
from provenance import schema
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(schema.up(connection)), flush=True)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in started]
    # Between two steps the lock is free, so that either of them may apply the second.
    assert sum(int(answer) for answer in answers) == LATEST
    assert [process.returncode for process in started] == [0, 0]
    assert schema.verify(connection) == []


def test_up_and_down_at_once_never_break_the_schema(connection: Connection, empty_dsn: str) -> None:
    """Whoever is last wins, and what is left is whole."""
    for _ in range(3):
        at_once(empty_dsn, schema.up, lambda c: schema.down(c, to=0), schema.up, lambda c: schema.down(c, to=0))
        schema.up(connection)
        assert schema.verify(connection) == []


def test_what_was_taken_back_meanwhile_gets_no_partitions(
    connection: Connection, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another deploy may take everything back after the last step; the first one has nothing left to do."""
    step = runner._locked_step

    def after_the_last_step(connection: Connection, what: str, *done: str) -> Any:
        if what == "making partitions":
            with psycopg.connect(empty_dsn, autocommit=True) as other:
                schema.down(other, to=0)
        return step(connection, what, *done)

    monkeypatch.setattr(runner, "_locked_step", after_the_last_step)
    assert schema.up(connection) == list(ORIGINAL)
    assert not schema_exists(connection)


def test_what_was_applied_again_meanwhile_is_taken_back_too(
    connection: Connection, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another deploy may apply a step anew once it was taken back; going down starts over, and ends where it must."""
    schema.up(connection)
    step = runner._locked_step
    interfering = iter([ORIGINAL[0]])

    def before_the_last_step(connection: Connection, what: str, *done: str) -> Any:
        if what.startswith("taking back migration 0001") and next(interfering, None):
            with psycopg.connect(empty_dsn, autocommit=True) as other:
                schema.up(other)
        return step(connection, what, *done)

    monkeypatch.setattr(runner, "_locked_step", before_the_last_step)
    assert [migration.version for migration in schema.down(connection, to=0)] == [*range(LATEST, 1, -1)] * 2 + [1]
    assert not schema_exists(connection)


def test_what_was_taken_back_meanwhile_is_applied_again(
    connection: Connection, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another deploy may take a step back once it was applied; going up starts over, and ends where it must."""
    step = runner._locked_step
    interfering = iter([ORIGINAL[0]])

    def before_the_last_step(connection: Connection, what: str, *done: str) -> Any:
        if what.startswith(f"migration {LATEST:04}") and next(interfering, None):
            with psycopg.connect(empty_dsn, autocommit=True) as other:
                schema.down(other, to=0)
        return step(connection, what, *done)

    monkeypatch.setattr(runner, "_locked_step", before_the_last_step)
    versions = [migration.version for migration in schema.up(connection)]
    assert versions == [*range(1, LATEST), *range(1, LATEST + 1)]
    assert schema.verify(connection) == []


def test_a_step_waits_for_the_lock_and_then_reads_the_ledger(connection: Connection, empty_dsn: str) -> None:
    """While another deploy holds the lock nothing is looked at; afterwards its work is found done.

    The connection has looked for the ledger before and may remember that there is none.
    """
    with (
        psycopg.connect(empty_dsn) as other,
        psycopg.connect(empty_dsn, autocommit=True, application_name="second deploy") as own,
        ThreadPoolExecutor(1) as executor,
    ):
        assert [state.applied_at for state in schema.status(own)] == [None] * LATEST
        other.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(b"provena", "big"),))
        waiting = executor.submit(schema.up, own)
        deadline = time.monotonic() + 30
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'second deploy' AND wait_event = 'advisory'"
        )
        while not scalar(connection, query):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not schema_exists(connection)
        # What the other deploy would have done in the transaction that holds the lock.
        other.execute(runner.LEDGER.encode())
        for migration in ORIGINAL:
            other.execute(migration.up.encode())
            other.execute(
                "INSERT INTO provenance.migrations (version, name, checksum) VALUES (%s, %s, %s)",
                (migration.version, migration.name, migration.checksum),
            )
        other.commit()
        assert waiting.result(timeout=30) == []
    assert schema.verify(connection) == []


@pytest.mark.direct("PgBouncer takes another server connection")
def test_a_lost_connection_is_a_migration_error(connection: Connection, empty_dsn: str) -> None:
    """The caller has one kind of error to catch."""
    with psycopg.connect(empty_dsn, autocommit=True) as own:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (own.info.backend_pid,))
        with pytest.raises(MigrationError, match=r"^migration 0001 \(actions\) failed and changed nothing: "):
            schema.up(own)
        with pytest.raises(MigrationError, match=r"^the ledger of migrations cannot be read: "):
            schema.status(own)
    assert not schema_exists(connection)


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def narrow_dsn(provenance_server: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Yield an encoding other than UTF8, and the address of a database that has it."""
    name = sql.Identifier(f"provenance_narrow_{secrets.token_hex(8)}")
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        made = sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0")
        admin.execute(made.format(name, sql.Literal(request.param)))
        yield request.param, conninfo.make_conninfo(provenance_server, dbname=name.as_string(None).strip('"'))
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.mark.parametrize("client", [None, "utf8"])
def test_a_database_that_cannot_hold_every_text_is_refused(narrow_dsn: tuple[str, str], client: str | None) -> None:
    """Before anything is made, with how to make one that can."""
    encoding, address = narrow_dsn
    with psycopg.connect(address, autocommit=True, client_encoding=client) as connection:
        with pytest.raises(MigrationError, match=rf"encoding is {encoding}, .* ENCODING 'UTF8' TEMPLATE template0"):
            schema.up(connection)
        assert connection.execute("SELECT to_regnamespace('provenance')").fetchone() in {(None,)}


@pytest.mark.parametrize("use", [schema.up, schema.status, lambda connection: schema.down(connection, to=0)])
def test_a_connection_without_encoding_is_refused(empty_dsn: str, use: Callable[[Connection], object]) -> None:
    """What the ledger says would come as bytes, and look like migrations of somebody else's."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        schema.up(connection)
    with (
        psycopg.connect(empty_dsn, autocommit=True, client_encoding="sql_ascii") as connection,
        pytest.raises(MigrationError, match="connect with client_encoding=utf8"),
    ):
        use(connection)
