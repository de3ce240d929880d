"""Who may read which rows, and roles for owning, writing, reading and maintaining the trail."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, errors, sql

from provenance import schema
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import databases

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

Connection = psycopg.Connection[Any]
FORBIDDEN = ["DELETE FROM provenance.actions", "CREATE TABLE provenance.mine ()", "TABLE provenance.migrations"]
TABLES = ["actions", "action_intents", "action_log", "row_changes"]


@pytest.fixture
def log_in(provenance_dsn: str, eye: Connection) -> Iterator[Callable[..., Connection]]:
    """Makes a role, gives it what *grants* says with its name in place of {}, and connects as it."""
    made: list[str] = []
    connections: list[Connection] = []

    def make(*grants: str, options: str = "") -> Connection:
        name = f"provenance_role_{secrets.token_hex(8)}"
        eye.execute(f"CREATE ROLE {name} LOGIN {options}".encode())
        made.append(name)
        for grant in grants:
            eye.execute(grant.format(name).encode())
        connections.append(psycopg.connect(provenance_dsn, user=name, autocommit=True))
        return connections[-1]

    yield make
    for connection in connections:
        connection.close()
    for name in made:
        eye.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.fixture
def tenants(trail: Trail, eye: Connection) -> None:
    """Of two tenants, and of none, an action, a pending one, and a row change."""
    eye.execute("SELECT provenance.capture_table('work')")
    for number, tenant in enumerate(("ada", "bob", "")):
        with trail.track_action("add", concept="work", tenant_id=tenant) as action:
            action.connection.execute("INSERT INTO work (id) VALUES (%s)", (number,))
        trail.begin("wait", concept="work", tenant_id=tenant)


def seen(connection: Connection) -> dict[str, list[str]]:
    """Return of which tenants a role sees rows, in each table."""
    return {
        table: [
            row[0]
            for row in connection.execute(
                sql.SQL("SELECT tenant_id FROM {} ORDER BY 1").format(sql.Identifier("provenance", table))
            ).fetchall()
        ]
        for table in TABLES
    }


def rows(*of: str) -> dict[str, list[str]]:
    """Return what a role sees that may read these tenants."""
    once, twice = sorted(of), sorted([*of, *of])
    return {"actions": once, "action_intents": once, "action_log": twice, "row_changes": once}


ONE = "SELECT provenance.grant_tenant_reader('{}', 'ada')"


@pytest.mark.usefixtures("tenants")
@pytest.mark.parametrize(
    ("grants", "of"),
    [
        (["SELECT provenance.grant_reader('{}')"], ("", "ada", "bob")),
        ([ONE], ("ada",)),
        ([ONE, ONE], ("ada",)),
        ([ONE, "SELECT provenance.grant_tenant_reader('{}', '')"], ("", "ada")),
        ([ONE, "DELETE FROM provenance.readers"], ()),
        ([ONE, "SELECT provenance.grant_tenant_reader('{}', NULL)"], ("", "ada", "bob")),
        ([ONE, "INSERT INTO provenance.readers VALUES ('no_such_role', NULL)"], ("ada",)),
    ],
    ids=["all", "one", "twice", "one and none", "taken back", "one and all", "beside a role that is gone"],
)
def test_a_reader_sees_the_tenants_it_is_bound_to(
    log_in: Callable[..., Connection], grants: list[str], of: tuple[str, ...]
) -> None:
    """In every table, and through the view; bound to none it sees nothing."""
    assert seen(log_in(*grants)) == rows(*of)


@pytest.mark.usefixtures("tenants")
def test_another_role_of_the_same_name_inherits_nothing(eye: Connection, provenance_dsn: str) -> None:
    """The tenants that a role was bound to are not those of one that is made when it is gone."""
    name = f"provenance_role_{secrets.token_hex(8)}"
    role = sql.Identifier(name)
    for tenant in ("ada", "bob"):
        eye.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        eye.execute("SELECT provenance.grant_tenant_reader(%s, %s)", (name, tenant))
        with psycopg.connect(provenance_dsn, user=name, autocommit=True) as connection:
            assert seen(connection) == rows(tenant)
        eye.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


@pytest.mark.usefixtures("tenants")
def test_no_setting_makes_a_difference(log_in: Callable[..., Connection]) -> None:
    """Whoever can read can set one."""
    reader = log_in(ONE)
    for setting in ("provenance.tenant_id", "provenance.block", "app.tenant", "row_security"):
        with suppress(errors.InvalidParameterValue):
            reader.execute(f"SET {setting} = 'bob'".encode())
        assert seen(reader) == rows("ada")
    reader.execute("SET row_security = off")
    for table in TABLES:
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(f"SELECT FROM provenance.{table}".encode())


@pytest.mark.usefixtures("tenants")
def test_a_member_reads_what_its_group_reads(log_in: Callable[..., Connection], eye: Connection) -> None:
    """If it inherits; else once it takes the group's role."""
    group = log_in(ONE).info.user
    heir = log_in(f"GRANT {group} TO {{}}")
    assert seen(heir) == rows("ada")
    other = log_in(f"GRANT {group} TO {{}}", options="NOINHERIT")
    with pytest.raises(errors.InsufficientPrivilege):
        seen(other)
    other.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(group)))
    assert seen(other) == rows("ada")


@pytest.mark.usefixtures("tenants")
def test_the_repositories_show_the_same(
    log_in: Callable[..., Connection], provenance_dsn: str, eye: Connection
) -> None:
    """What another tenant did is not there, whichever way it is asked for."""
    reader = log_in(ONE, "GRANT SELECT ON work TO {}").info.user
    (of_bob,) = eye.execute("SELECT id FROM provenance.actions WHERE tenant_id = 'bob'").fetchone() or ()
    with Trail(conninfo.make_conninfo(provenance_dsn, user=reader)) as trail:
        assert [found.tenant_id for found in trail.actions.search().items] == ["ada", "ada"]
        assert trail.actions.get(of_bob) is None
        assert trail.actions.by_tenant("bob").items == ()
        assert [change.tenant_id for change in trail.changes.history("work", 0).items] == ["ada"]
        assert trail.changes.history("work", 1).items == ()


@pytest.mark.usefixtures("tenants")
def test_a_partition_shows_nothing(log_in: Callable[..., Connection], eye: Connection) -> None:
    """Not even where somebody has granted it, and not those that are made later."""
    eye.execute("SELECT provenance.ensure_partitions(9)")
    partitions = [
        name
        for (name,) in eye.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent IN "
            "('provenance.actions'::regclass, 'provenance.row_changes'::regclass)"
        ).fetchall()
    ]
    assert len(partitions) == 22
    reader = log_in("SELECT provenance.grant_reader('{}')", *(f"GRANT SELECT ON {name} TO {{}}" for name in partitions))
    for name in partitions:
        assert reader.execute(f"SELECT FROM {name}".encode()).fetchall() == []


def test_a_writer_is_not_hindered(
    log_in: Callable[..., Connection], provenance_dsn: str, recorded_actions: RecordedActions, eye: Connection
) -> None:
    """It inserts rows of every tenant and reads none, and functions with the rights of the owner see all."""
    name = log_in("SELECT provenance.grant_writer('{}')", "GRANT INSERT ON work TO {}").info.user
    with Trail(conninfo.make_conninfo(provenance_dsn, user=name), durability="intent") as trail:
        for number, tenant in enumerate(("ada", "bob")):
            with trail.track_action("add", concept="work", tenant_id=tenant, idempotency_key="k") as action:
                action.connection.execute("INSERT INTO work (id) VALUES (%s)", (number,))
            with suppress(ZeroDivisionError), trail.track_action("add", concept="work", tenant_id=tenant):
                raise ZeroDivisionError
        assert trail.resolve(action.id) == "completed"
    found = [(one.tenant_id, one.status.value) for one in recorded_actions.all()]
    assert found == [("ada", "completed"), ("ada", "failed"), ("bob", "completed"), ("bob", "failed")]


# --- Roles -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix(eye: Connection) -> Iterator[str]:
    """What the names of roles begin with that are dropped in the end."""
    made = f"provenance_{secrets.token_hex(4)}"
    yield made
    owner = eye.execute("SELECT session_user::text").fetchone()
    assert owner is not None
    for purpose in ("writer", "reader", "maintainer", "owner"):
        name = sql.Identifier(f"{made}_{purpose}")
        if eye.execute("SELECT FROM pg_roles WHERE rolname = %s", (f"{made}_{purpose}",)).fetchone():
            eye.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(name, sql.Identifier(owner[0])))
            eye.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def test_roles_for_each_purpose(
    prefix: str,
    log_in: Callable[..., Connection],
    provenance_dsn: str,
    eye: Connection,
    recorded_actions: RecordedActions,
) -> None:
    """The schema belongs to one nobody logs in as; who is a member of another may do what that is for, and no more."""
    eye.execute("CREATE TABLE captured (id integer PRIMARY KEY); SELECT provenance.capture_table('captured')")
    for _ in range(2):
        made = [name for (name,) in eye.execute("SELECT provenance.make_roles(%s)", (prefix,)).fetchall()]
        assert made == [f"{prefix}_{purpose}" for purpose in ("owner", "writer", "reader", "maintainer")]
        assert schema.verify(eye) == []
    assert eye.execute("SELECT DISTINCT rolcanlogin FROM pg_roles WHERE rolname = ANY (%s)", (made,)).fetchall() == [
        (False,)
    ]
    eye.execute("INSERT INTO captured VALUES (1)")
    assert eye.execute("SELECT count(*) FROM provenance.row_changes").fetchone() == (1,)

    writer = log_in(f"GRANT {prefix}_writer TO {{}}")
    address = conninfo.make_conninfo(provenance_dsn, user=writer.info.user)
    with Trail(address) as trail, trail.track_action("add", concept="work"):
        pass
    with pytest.raises(errors.InsufficientPrivilege):
        writer.execute("SELECT FROM provenance.actions")
    reader = log_in(f"GRANT {prefix}_reader TO {{}}")
    assert reader.execute("SELECT action_type FROM provenance.action_log").fetchall() == [("add",)]
    maintainer = log_in(f"GRANT {prefix}_maintainer TO {{}}")
    assert maintainer.execute("SELECT count(*) FROM provenance.ensure_partitions(7)").fetchone() == (2,)
    assert maintainer.execute("SELECT rolled_back FROM provenance.recover(NULL, 10)").fetchone() == (0,)
    assert maintainer.execute("SELECT action_type FROM provenance.action_log").fetchall() == [("add",)]
    for one in (writer, reader, maintainer):
        for statement in FORBIDDEN:
            with pytest.raises(errors.InsufficientPrivilege):
                one.execute(statement.encode())
    assert schema.verify(eye) == []


def test_a_member_of_the_owner_migrates(
    prefix: str, log_in: Callable[..., Connection], provenance_dsn: str, eye: Connection
) -> None:
    """What it makes belongs to the owner as well."""
    eye.execute("SELECT provenance.make_roles(%s)", (prefix,))
    member = log_in(f"GRANT {prefix}_owner TO {{}}")
    taken_back = schema.down(member, to=2)
    assert schema.up(member) == list(reversed(taken_back))
    assert schema.verify(eye) == []
    owners = eye.execute(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'provenance'::regnamespace"
    ).fetchall()
    assert owners == [(f"{prefix}_owner",)]
    assert member.execute("SELECT current_user = session_user").fetchone() == (True,)


def test_roles_are_made_by_one_who_may(prefix: str, log_in: Callable[..., Connection], eye: Connection) -> None:
    """Nothing is changed by the others."""
    eye.execute("GRANT EXECUTE ON FUNCTION provenance.make_roles TO PUBLIC; GRANT USAGE ON SCHEMA provenance TO PUBLIC")
    with pytest.raises(errors.InsufficientPrivilege):
        log_in().execute("SELECT provenance.make_roles(%s)", (prefix,))
    assert eye.execute("SELECT FROM pg_roles WHERE starts_with(rolname, %s)", (prefix,)).fetchall() == []


@pytest.mark.usefixtures("tenants")
def test_the_last_word_on_what_a_reader_sees_holds(log_in: Callable[..., Connection], eye: Connection) -> None:
    """Bound to tenants after it had been let to see all, it sees these only; and the other way round."""
    reader = log_in("SELECT provenance.grant_reader('{}')")
    assert {table: ["", "ada", "bob"] for table in TABLES if table != "action_log"}.items() <= seen(reader).items()
    for tenant in ("ada", "bob"):
        eye.execute("SELECT provenance.grant_tenant_reader(%s, %s)", (reader.info.user, tenant))
    assert all("" not in tenants_seen and "ada" in tenants_seen for tenants_seen in seen(reader).values())
    eye.execute("SELECT provenance.grant_reader(%s)", (reader.info.user,))
    assert all("" in tenants_seen for tenants_seen in seen(reader).values())
    bound = eye.execute("SELECT tenant_id FROM provenance.readers WHERE role_name = %s", (reader.info.user,))
    assert bound.fetchall() == [(None,)]
