"""The flavor for Citus: as far as Postgres goes on a database that stands in, and all of it where there is a Citus.

With ``PROVENANCE_CITUS_DSN`` set each of these is run there too, but for what is about the stand-in.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import conninfo
from psycopg.rows import scalar_row

from provenance import AsyncTrail, Trail, schema
from provenance.doctor import diagnose
from provenance.drivers import messages, trips
from provenance.errors import MigrationError, TableRefused
from provenance.models import Status
from provenance.schema import known_migrations, script
from tests.support.citus import REAL, emptied, needs_citus, stand_in

Connection = psycopg.Connection[Any]

LATEST = known_migrations()[-1].version
ORDERS = range(40)
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "citus.md"


class Boom(Exception):
    """What some work raises."""


@pytest.fixture
def look_alike(provenance_server: str) -> Iterator[str]:
    """The address of a database that looks as if there were a Citus, and nothing else in it."""
    with stand_in(provenance_server) as address:
        yield address


@pytest.fixture
def owner(look_alike: str) -> Iterator[Connection]:
    """A connection to it."""
    with psycopg.connect(look_alike, autocommit=True) as connection:
        yield connection


@pytest.fixture(
    params=[
        pytest.param("stand-in", id="stand-in"),
        pytest.param("citus", id="citus", marks=needs_citus),
    ]
)
def coordinator(request: pytest.FixtureRequest, provenance_server: str) -> Iterator[str]:
    """The address of a database with the flavor, one distributed table that is stamped, and one that is not distributed."""
    with stand_in(provenance_server) if request.param == "stand-in" else emptied(str(REAL)) as address:
        with psycopg.connect(address, autocommit=True) as owner:
            schema.up(owner, flavor="citus")
            owner.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
            owner.execute("SELECT create_distributed_table('orders', 'id')")
            owner.execute("CREATE TABLE notes (id bigint PRIMARY KEY, note text)")
            owner.execute("SELECT provenance.stamp_table('orders'), provenance.capture_table('notes')")
        yield address


@pytest.fixture(autouse=True)
def manner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trail on Citus changes for its process is changed back."""
    monkeypatch.setattr(messages.MANNER, "apart", False)


@pytest.fixture
def trail(coordinator: str) -> Iterator[Trail]:
    """A trail there."""
    with Trail(coordinator) as trail:
        yield trail


@pytest.fixture
def eye(coordinator: str) -> Iterator[Connection]:
    """A connection that looks on."""
    with psycopg.connect(coordinator, autocommit=True) as connection:
        yield connection


def one(connection: Connection, query: LiteralString) -> Any:
    """Return the one value that a query answers."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query).fetchone()


def outcomes(connection: Connection) -> dict[str, str]:
    """Return the status of each action by its type."""
    return dict(
        connection.execute("SELECT action_type, status FROM provenance.actions WHERE concept = 'order'").fetchall()
    )


# --- Installing -------------------------------------------------------------------------------------------------------


def test_a_postgres_without_citus_is_refused(provenance_dsn: str) -> None:
    """In one sentence, before anything is changed; by the runner and by the script."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA provenance CASCADE")
        with pytest.raises(
            MigrationError, match="this database has no Citus; run CREATE EXTENSION citus, or leave the fl"
        ):
            schema.up(connection, flavor="citus")
        with pytest.raises(psycopg.Error, match="this database has no Citus"):
            connection.execute(script(0, LATEST, flavor="citus").encode())
        assert one(connection, "SELECT to_regnamespace('provenance')") is None
        # Of what is there already, nothing is changed either.
        schema.up(connection)
        with pytest.raises(
            MigrationError, match="the flavor citus failed and changed nothing: this database has no Citus"
        ):
            schema.up(connection, flavor="citus")
        assert [] == schema.verify(connection)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("UPDATE pg_dist_local_group SET groupid = 1", "this is a worker of Citus"),
        (
            "DELETE FROM pg_dist_node WHERE groupid = 0",
            "does not count this coordinator .* SELECT citus_set_coordinator_host",
        ),
        (
            "SET citus.propagate_set_commands = 'none'",
            "workers .* are not told .*ALTER DATABASE provenance_test_.* SET citus",
        ),
        ("RESET citus.propagate_set_commands; SET citus.propagate_set_commands = ''", "workers of Citus are not told"),
        ("SET citus.use_citus_managed_tables = on", "set citus.use_citus_managed_tables to off"),
        ("SET citus.enable_local_execution = off", "set citus.enable_local_execution to on"),
    ],
)
def test_a_citus_that_is_set_up_otherwise_is_refused(owner: Connection, spoil: LiteralString, said: str) -> None:
    """With what to do about it; nothing is changed."""
    owner.execute(f"SET allow_system_table_mods = on; {spoil}".encode())
    with pytest.raises(MigrationError, match=said):
        schema.up(owner, flavor="citus")
    assert one(owner, "SELECT to_regnamespace('provenance')") is None


def test_a_trail_that_is_distributed_itself_is_refused(owner: Connection) -> None:
    """Its statements are made for tables that are where they are run."""
    schema.up(owner)
    owner.execute("SELECT create_distributed_table('provenance.actions', 'tenant_id')")
    with pytest.raises(MigrationError, match="tables of the trail are distributed; bring them back first"):
        schema.up(owner, flavor="citus")


def test_a_schema_of_somebody_elses_is_left_alone(owner: Connection) -> None:
    """It is in the way of the flavor, and is not taken for it."""
    owner.execute("CREATE SCHEMA provenance_citus; CREATE TABLE provenance_citus.two_phase (id int)")
    with pytest.raises(MigrationError, match='changed nothing: schema "provenance_citus" already exists'):
        schema.up(owner, flavor="citus")
    assert [] == schema.verify(owner)
    schema.down(owner, to=0)
    assert 0 == one(owner, "SELECT count(*) FROM provenance_citus.two_phase")


@pytest.fixture
def deployer(owner: Connection) -> Iterator[str]:
    """A role that is no superuser and may make schemas, and roles."""
    owner.execute("CREATE ROLE test_citus_deployer LOGIN CREATEROLE")
    owner.execute(f"GRANT CREATE ON DATABASE {owner.info.dbname} TO test_citus_deployer".encode())
    yield "test_citus_deployer"
    for role in ("deployer", "owner", "writer", "reader", "maintainer"):
        with suppress(psycopg.errors.UndefinedObject):
            owner.execute(f"DROP OWNED BY test_citus_{role} CASCADE; DROP ROLE test_citus_{role}".encode())


@pytest.mark.parametrize("order", ["roles last", "roles first", "script"])
def test_the_flavor_belongs_to_whom_the_trail_belongs(owner: Connection, deployer: str, order: str) -> None:
    """Who has given the trail away cannot have its owner do anything; and all can be taken back."""
    parts = {"host": owner.info.host, "port": owner.info.port, "dbname": owner.info.dbname, "user": deployer}
    with psycopg.connect(**parts, autocommit=True) as deploying:  # pyright: ignore[reportArgumentType]
        schema.up(
            deploying, flavor="citus" if order == "roles last" else None, to=None if order != "script" else LATEST - 1
        )
        deploying.execute("SELECT provenance.make_roles('test_citus')")
        if order == "script":
            deploying.execute(script(LATEST - 1, LATEST, flavor="citus").encode())
        else:
            schema.up(deploying, flavor="citus")
        assert [] == schema.verify(deploying)
        owners = owner.execute(
            """SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname LIKE 'provenance%'
               UNION SELECT relowner::regrole::text FROM pg_class WHERE relname = 'two_phase'
               UNION SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'commit_in_two_phases'"""
        ).fetchall()
        assert [("test_citus_owner",)] == owners
        owner.execute("ALTER SCHEMA provenance_citus OWNER TO test_citus_deployer")
        assert ["schema provenance_citus differs: expected schema; found schema owned by test_citus_deployer"] == [
            str(difference) for difference in schema.verify(owner)
        ]
        owner.execute("ALTER SCHEMA provenance_citus OWNER TO test_citus_owner")
        schema.down(deploying, to=0)
        assert 0 == one(owner, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'provenance%'")


def test_the_flavor_is_installed_once_and_stays(owner: Connection) -> None:
    """With the schema or later, and whether it is named again or not; taken back with the schema, nothing is left."""
    schema.up(owner)
    assert [] == schema.up(owner, flavor="citus")
    for flavor in ("citus", None):
        assert [] == schema.up(owner, flavor=flavor)
        assert [] == schema.verify(owner)
    schema.down(owner, to=1)
    schema.up(owner)
    assert [] == schema.verify(owner)
    schema.down(owner, to=0)
    assert 0 == one(owner, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'provenance%'")


def test_a_script_installs_what_the_runner_installs(owner: Connection) -> None:
    """As one statement; and what takes the schema back takes the flavor with it."""
    schema.up(owner, flavor="citus")
    before = schema.catalogue.read_catalogue(owner)
    schema.down(owner, to=0)
    owner.execute(script(0, LATEST, flavor="citus").encode())
    assert before == schema.catalogue.read_catalogue(owner)
    assert [] == schema.verify(owner)
    owner.execute(script(LATEST, LATEST - 1).encode())
    owner.execute(script(LATEST - 1, LATEST, flavor="citus").encode())
    assert [] == schema.verify(owner)
    owner.execute(script(LATEST, 0).encode())
    assert 0 == one(owner, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'provenance%'")


def test_a_flavor_is_for_the_newest_version(owner: Connection) -> None:
    """And there is but one."""
    with pytest.raises(MigrationError, match="leave out at which version to stop"):
        schema.up(owner, to=3, flavor="citus")
    with pytest.raises(MigrationError, match="there is no flavor 'cockroach'; there is citus"):
        schema.up(owner, flavor="cockroach")
    for since, to in ((LATEST, 0), (0, 3), (LATEST, LATEST)):
        with pytest.raises(MigrationError, match=f"a flavor is for a way up to the newest version, {LATEST}"):
            script(since, to, flavor="citus")
    assert one(owner, "SELECT to_regnamespace('provenance')") is None


def test_the_flavor_is_taken_off_as_the_page_says(owner: Connection) -> None:
    """What is left is what an ordinary installation is."""
    schema.up(owner, flavor="citus")
    *_, away = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    owner.execute(away.encode())
    assert [] == schema.verify(owner)
    assert 1 == one(owner, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'provenance%'")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("DROP TRIGGER commit_in_two_phases ON provenance.actions", "trigger actions.commit_in_two_phases is missing"),
        ("ALTER TABLE provenance.actions DISABLE TRIGGER commit_in_two_phases", "actions.commit_in_two_phases differs"),
        (
            """CREATE OR REPLACE FUNCTION provenance.commit_in_two_phases() RETURNS trigger LANGUAGE plpgsql
               AS 'BEGIN RETURN NULL; END'""",
            "function commit_in_two_phases() differs",
        ),
    ],
)
def test_what_is_done_to_the_flavor_is_noticed(owner: Connection, spoil: LiteralString, said: str) -> None:
    """As whatever else is done to the schema."""
    schema.up(owner, flavor="citus")
    owner.execute(spoil)
    (difference,) = schema.verify(owner)
    assert said in str(difference)


def test_settings_without_which_workers_learn_nothing(owner: Connection) -> None:
    """The doctor names them, with what sets them right; without the flavor they are nobody's business."""
    schema.up(owner)
    owner.execute("SET citus.propagate_set_commands = 'none'; SET citus.use_citus_managed_tables = on")
    assert [] == [one for one in diagnose(owner) if one.subject.startswith("citus.")]
    owner.execute("RESET ALL")
    schema.up(owner, flavor="citus")
    assert [] == [one for one in diagnose(owner) if one.subject.startswith("citus.")]
    owner.execute("SET citus.propagate_set_commands = 'none'; SET citus.use_citus_managed_tables = on")
    found = [one for one in diagnose(owner) if one.subject.startswith("citus.")]
    database = owner.info.dbname
    assert [f"{name} of {database}" for name in ("citus.propagate_set_commands", "citus.use_citus_managed_tables")] == [
        one.subject for one in found
    ]
    assert f"ALTER DATABASE {database} SET citus.propagate_set_commands = local;" == found[0].remedy
    # Restored where there is no Citus, they do no harm.
    owner.execute("SET allow_system_table_mods = on; DROP TABLE pg_catalog.pg_dist_partition CASCADE")
    assert [] == [one for one in diagnose(owner) if one.subject.startswith("citus.")]


# --- Recording --------------------------------------------------------------------------------------------------------


def test_whatever_records_an_action_writes_to_a_table_of_citus(owner: Connection, look_alike: str) -> None:
    """Which has it commit in two phases: in a transaction of the block's own, in the caller's, and by SQL; as a writer."""
    schema.up(owner, flavor="citus")
    owner.execute(
        "CREATE TABLE seen (at text); CREATE TABLE orders (id int);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "'BEGIN INSERT INTO public.seen VALUES (TG_OP); RETURN NULL; END';"
        "CREATE TRIGGER see AFTER DELETE ON provenance_citus.two_phase EXECUTE FUNCTION see();"
        "SELECT provenance.make_roles('test_citus'); CREATE ROLE test_citus_app LOGIN IN ROLE test_citus_writer;"
        "GRANT SELECT, INSERT ON orders TO test_citus_app"
    )
    seen: Callable[[], int] = lambda: one(owner, "WITH s AS (DELETE FROM seen RETURNING 1) SELECT count(*) FROM s")  # noqa: E731
    app = conninfo.make_conninfo(look_alike, user="test_citus_app")
    try:
        with Trail(app) as trail, psycopg.connect(app) as connection:
            with trail.track_action("alone", concept="order") as action:
                action.connection.execute("INSERT INTO orders VALUES (1)")
            assert 1 == seen()
            with trail.track_action("outer", concept="order"), trail.track_action("inner", concept="order"):
                pass
            assert 1 == seen()
            with suppress(Boom), trail.track_action("failing", concept="order"):
                raise Boom
            assert 1 == seen()
            with trail.track_action("joined", concept="order", connection=connection):
                connection.execute("INSERT INTO orders VALUES (2)")
            connection.commit()
            assert 1 == seen()
            with trail.track_action("intended", concept="order", durability="intent"):
                pass
            assert 1 == seen()
            connection.execute("SELECT provenance.complete_action(provenance.record_action('by_sql', 'order'))")
            connection.commit()
            assert 1 == seen()
        assert 7 == len(outcomes(owner))
        assert [] == schema.verify(owner)
    finally:
        owner.execute("REASSIGN OWNED BY test_citus_owner TO CURRENT_USER")
        for role in ("app", "owner", "writer", "reader", "maintainer"):
            owner.execute(f"DROP OWNED BY test_citus_{role}; DROP ROLE test_citus_{role}".encode())


@needs_citus
def test_an_action_has_citus_commit_in_two_phases() -> None:
    """Work on one worker is prepared there, and committed after its row; without an action Citus does not do so."""
    with emptied(str(REAL)) as address, psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection, flavor="citus")
        connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
        connection.execute("SELECT create_distributed_table('orders', 'id')")
        said: list[str] = []
        connection.add_notice_handler(lambda diagnostic: said.append(diagnostic.message_primary or ""))
        connection.execute("SET citus.log_remote_commands = on; SET client_min_messages = notice")
        with connection.transaction():
            connection.execute("INSERT INTO orders VALUES (1, 'untracked')")
        assert [] == [text for text in said if "PREPARE TRANSACTION" in text]
        with Trail(address) as trail, trail.track_action("note", concept="order", connection=connection):
            connection.execute("INSERT INTO orders VALUES (2, 'tracked')")
        assert [] != [text for text in said if "PREPARE TRANSACTION" in text]
        assert 2 == one(connection, "SELECT count(*) FROM orders")


def test_rows_on_workers_are_stamped(trail: Trail, eye: Connection) -> None:
    """All of them, with the action that made and the one that changed them, and none outside any."""
    with trail.track_action("place", concept="order") as placing:
        placing.connection.cursor().executemany(
            "INSERT INTO orders VALUES (%s, 'new')", [(number,) for number in ORDERS]
        )
    with trail.track_action("note", concept="order") as noting:
        noting.connection.execute("UPDATE orders SET note = 'old' WHERE id < 20")
    eye.execute("UPDATE orders SET note = 'untracked' WHERE id = 0")
    found = eye.execute("SELECT id, created_by_action_id, updated_by_action_id FROM orders ORDER BY id").fetchall()
    assert [
        (number, placing.id, None if number == 0 else noting.id if number < 20 else placing.id) for number in ORDERS
    ] == found


def test_strict_stamps_refuse_what_is_outside_any_action(trail: Trail, eye: Connection) -> None:
    """On workers too, where nothing of the trail is but these functions."""
    trail.stamp("orders", strict=True)
    with trail.track_action("place", concept="order") as action:
        action.connection.execute("INSERT INTO orders VALUES (1, 'new')")
    for statement in ("INSERT INTO orders VALUES (2, 'x')", "UPDATE orders SET note = 'x'", "DELETE FROM orders"):
        with pytest.raises(psycopg.Error, match="refused: no action is current"):
            eye.execute(statement.encode())
    trail.unstamp("orders")
    eye.execute("DELETE FROM orders")
    assert "created_by_action_id" not in str(eye.execute("SELECT * FROM orders").description)


def test_what_fails_is_undone_everywhere(trail: Trail, eye: Connection) -> None:
    """And has its row; inside another one only the inner work goes."""
    with suppress(Boom), trail.track_action("fails", concept="order") as action:
        action.connection.cursor().executemany("INSERT INTO orders VALUES (%s)", [(number,) for number in ORDERS])
        raise Boom
    with trail.track_action("outer", concept="order") as outer:
        outer.connection.execute("INSERT INTO orders VALUES (1)")
        with trail.track_action("first", concept="order"):
            outer.connection.execute("INSERT INTO orders VALUES (2), (3)")
        with suppress(Boom), trail.track_action("second", concept="order"):
            outer.connection.execute("INSERT INTO orders VALUES (4), (5)")
            raise Boom
        with suppress(Boom), outer.connection.transaction(), trail.track_action("third", concept="order"):
            outer.connection.execute("INSERT INTO orders VALUES (6), (7)")
            outer.connection.execute("SELECT 1")
        with suppress(Boom), outer.connection.transaction():
            with trail.track_action("undone", concept="order"):
                outer.connection.execute("INSERT INTO orders VALUES (8), (9)")
            raise Boom
    assert [1, 2, 3, 6, 7] == [number for (number,) in eye.execute("SELECT id FROM orders ORDER BY id")]
    assert {
        "fails": "failed",
        "outer": "completed",
        "first": "completed",
        "second": "failed",
        "third": "completed",
        "undone": "rolled_back",
    } == outcomes(eye)
    tree = trail.actions.tree(outer.id)
    assert tree is not None
    assert 4 == len(tree.children)


def test_work_in_a_transaction_of_the_callers(trail: Trail, coordinator: str, eye: Connection) -> None:
    """It lives and dies with that."""
    with psycopg.connect(coordinator) as connection:
        for name, end in (("lost", connection.rollback), ("kept", connection.commit)):
            with trail.track_action(name, concept="order", connection=connection):
                connection.execute("INSERT INTO orders VALUES (1), (2), (3)")
                with trail.track_action(f"{name}_inside", concept="order"):
                    connection.execute("INSERT INTO orders VALUES (4)")
            end()
    assert {"kept": "completed", "kept_inside": "completed"} == outcomes(eye)
    assert 4 == one(eye, "SELECT count(*) FROM orders")


def test_an_intent_whose_process_ends(trail: Trail, eye: Connection) -> None:
    """Its transaction tells what became of it, and of its work on the workers."""
    with (
        pytest.raises(psycopg.OperationalError),
        trail.track_action("place", concept="order", durability="intent") as action,
    ):
        action.connection.cursor().executemany("INSERT INTO orders VALUES (%s)", [(number,) for number in ORDERS])
        eye.execute("SELECT pg_terminate_backend(%s)", (action.connection.info.backend_pid,))
        action.connection.execute("SELECT 1")
    trail.recover()
    recorded = trail.actions.get(action.id)
    assert recorded is not None
    assert recorded.status in (Status.FAILED, Status.ROLLED_BACK)
    assert 0 == one(eye, "SELECT count(*) FROM orders")


def test_only_rows_that_are_here_can_be_captured(trail: Trail, eye: Connection) -> None:
    """Of a table of Citus's it is refused, with a reason."""
    with pytest.raises(TableRefused, match=r"orders cannot be captured: it is a table of Citus, .* stamp it instead"):
        trail.capture("orders")
    with trail.track_action("note", concept="order") as action:
        action.connection.execute("INSERT INTO notes VALUES (1, 'here')")
        action.connection.execute("INSERT INTO orders VALUES (1, 'there')")
    (change,) = trail.changes.of_action(action.id).items
    assert ("public.notes", {"id": 1, "note": "here"}) == (change.table, change.new)
    eye.execute("TRUNCATE notes")


def test_the_function_of_a_capture_stays_here(owner: Connection) -> None:
    """Citus, which makes each function on all servers unless it is told otherwise, is told so for this one alone."""
    schema.up(owner, flavor="citus")
    owner.execute(
        "CREATE TABLE notes (id int PRIMARY KEY); CREATE TABLE seen (tag text, propagates text);"
        "CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO public.seen VALUES (tg_tag, current_setting(''citus.enable_ddl_propagation'')); END';"
        "CREATE EVENT TRIGGER see ON ddl_command_end EXECUTE FUNCTION see()"
    )
    with owner.transaction():
        owner.execute("SET LOCAL citus.enable_ddl_propagation = on")
        owner.execute("SELECT provenance.capture_table('notes')")
        assert "on" == one(owner, "SELECT current_setting('citus.enable_ddl_propagation')")
    found = set(owner.execute("SELECT tag, propagates FROM seen").fetchall())
    assert {("CREATE FUNCTION", "off"), ("CREATE TRIGGER", "on")} <= found
    assert ("CREATE FUNCTION", "on") not in found


def test_a_table_of_citus_is_not_stamped_without_the_flavor(owner: Connection, look_alike: str) -> None:
    """Its stamps would stay empty."""
    schema.up(owner)
    owner.execute("CREATE TABLE orders (id int); SELECT create_distributed_table('orders', 'id')")
    with (
        Trail(look_alike) as trail,
        pytest.raises(TableRefused, match="run `provenance migrate up --flavor citus` first"),
    ):
        trail.stamp("orders")
    schema.up(owner, flavor="citus")
    with owner.transaction():
        owner.execute("SELECT provenance.stamp_table('orders')")
        assert ("on", "sequential") == (
            one(owner, "SELECT current_setting('citus.enable_unsafe_triggers')"),
            one(owner, "SELECT current_setting('citus.multi_shard_modify_mode')"),
        )
    assert "" == one(owner, "SELECT current_setting('citus.enable_unsafe_triggers')")


# --- How statements are sent ------------------------------------------------------------------------------------------


def messages_of(connection: psycopg.Connection[Any], work: Callable[[], object]) -> list[str]:
    """Return the SQL of each message that is sent on a connection while some work is done."""
    with tempfile.TemporaryFile("w+") as file:
        connection.pgconn.trace(file.fileno())
        try:
            work()
        finally:
            connection.pgconn.untrace()
        file.seek(0)
        return re.findall(r"\t(?:Query|Parse)\t \"(?:[^\"]*\" \")?([^\"]*)\"", file.read())


@pytest.mark.parametrize("familiar", [True, False])
@pytest.mark.parametrize("autocommit", [True, False])
def test_no_statement_shares_its_message_with_a_setting(
    trail: Trail, monkeypatch: pytest.MonkeyPatch, *, familiar: bool, autocommit: bool
) -> None:
    """Citus does on its workers whatever stands in a message with SET LOCAL, once more. From the first action on."""
    monkeypatch.setattr("provenance.drivers.running.FAMILIAR", familiar)

    def work() -> None:
        with trail.track_action("outer", concept="order", connection=connection):
            with trail.track_action("inner", concept="order"):
                connection.execute("INSERT INTO orders VALUES (1)")
            connection.execute("INSERT INTO orders VALUES (2)")
            with suppress(Boom), trail.track_action("fails", concept="order"):
                raise Boom
            connection.execute("INSERT INTO orders VALUES (3)")

    trail.pool.open()
    with trail.pool.connection() as connection:
        connection.autocommit = autocommit
        sent = messages_of(connection, work)
        connection.commit()
        connection.autocommit = False
    assert messages.MANNER.apart
    assert [] == [text for text in sent if ";" in text and "SET LOCAL" in text]
    assert {"BEGIN", "SAVEPOINT", "RELEASE", "SET", "INSERT"} <= {text.split()[0].strip(";") for text in sent}


def test_the_other_colour_learns_it_too(coordinator: str) -> None:
    """When it is first used."""

    async def work() -> None:
        async with AsyncTrail(coordinator) as trail, trail.track_action("place", concept="order") as action:
            await action.connection.execute("INSERT INTO orders VALUES (1, 'new')")

    asyncio.run(work())
    assert messages.MANNER.apart


def test_elsewhere_several_statements_are_one_message(provenance_dsn: str) -> None:
    """A trail on an ordinary Postgres changes nothing."""
    with Trail(provenance_dsn) as trail, trail.pool as pool, pool.connection() as connection:

        def work() -> None:
            with trail.track_action("alone", concept="order", connection=connection):
                pass

        assert [] != [text for text in messages_of(connection, work) if "; SET LOCAL" in text]
    assert not messages.MANNER.apart
    assert trips.MANNER is messages.MANNER
