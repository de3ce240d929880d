"""What the doctor says of partitions, roles, tables and rows: each is planted, named, and cured where that can be."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import conninfo, sql

from provenance import ids
from provenance.doctor import CHECKS, Finding, Limits, Severity, diagnose, server
from provenance.errors import NotConfigured
from provenance.statements import Statement
from provenance.trail import Trail
from tests.support.doctor import SERVER, cure, wrong

Connection = psycopg.Connection[Any]
NOW = datetime.now(UTC)


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection of the role that owns the schema."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(owner: Connection) -> Iterator[Callable[..., str]]:
    """Yield what makes a role, and returns its name."""
    made: list[sql.Identifier] = []

    def make(*options: str) -> str:
        name = f"provenance_{secrets.token_hex(8)}"
        made.append(sql.Identifier(name))
        owner.execute(f"CREATE ROLE {name} {' '.join(options or ('LOGIN',))}".encode())
        return name

    yield make
    for identifier in made:
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(identifier))


@pytest.fixture
def prefix(owner: Connection, role: Callable[..., str]) -> Iterator[str]:
    """Yield the prefix of the roles for each purpose, the first of which owns the schema; they are taken back afterwards."""
    prefix = role()
    names = [name for (name,) in owner.execute("SELECT provenance.make_roles(%s)", (prefix,)).fetchall()]
    yield prefix
    owner.execute(f"REASSIGN OWNED BY {prefix}_owner TO CURRENT_USER".encode())
    for name in names:
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def only(connection: Connection, check: str, **options: Any) -> Finding:
    """Return the only thing that is wrong."""
    (finding,) = wrong(connection, **options)
    assert check == finding.check
    return finding


def month(offset: int) -> str:
    """Return the month so many months after this one, as in the names of partitions."""
    count = NOW.year * 12 + NOW.month - 1 + offset
    return f"{count // 12}_{count % 12 + 1:02}"


def insert_action(connection: Connection, action_id: UUID, **values: object) -> None:
    """Insert an action that took no time."""
    at = datetime.fromtimestamp((action_id.int >> 80) / 1000, UTC)
    columns: dict[str, object] = {
        "id": action_id,
        "root_id": action_id,
        "action_type": "t",
        "concept": "c",
        "status": "completed",
        "started_at": at,
        "completed_at": at,
        "recorded_at": at,
        "duration_ms": 1,
        **values,
    }
    connection.execute(
        sql.SQL("INSERT INTO provenance.actions ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(sql.Placeholder, columns))
        ),
        columns,
    )


def insert_intent(connection: Connection, **values: object) -> UUID:
    """Insert evidence of an action that was begun an hour ago."""
    at = NOW - timedelta(hours=1)
    columns: dict[str, object] = {
        "id": ids.floor_id(at),
        "root_id": ids.floor_id(at),
        "action_type": "t",
        "concept": "c",
        "started_at": at,
        "recorded_at": at,
        **values,
    }
    connection.execute(
        sql.SQL("INSERT INTO provenance.action_intents ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(sql.Placeholder, columns))
        ),
        columns,
    )
    return ids.floor_id(at)


def detach(connection: Connection, table: str, *months: int) -> None:
    """Drop the partitions of these months."""
    for offset in months:
        connection.execute(f"DROP TABLE provenance.{table}_{month(offset)}".encode())


@pytest.mark.parametrize("table", ["actions", "row_changes"])
@pytest.mark.parametrize(
    ("gone", "severity", "since"),
    [
        (range(7), Severity.ERROR, 0),
        (range(1, 7), Severity.ERROR, 1),
        (range(2, 7), Severity.WARNING, 2),
        (range(3, 7), Severity.WARNING, 3),
        ([3], Severity.WARNING, 3),
    ],
)
def test_months_without_a_partition(
    owner: Connection, table: str, gone: list[int], severity: Severity, since: int
) -> None:
    """This month's or the next one's is an error, one within three months a warning."""
    detach(owner, table, *gone)
    finding = only(owner, "partitions")
    assert (severity, f"provenance.{table}") == (finding.severity, finding.subject)
    assert f"has no partition for {month(since).replace('_', '-')}" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


def test_partitions_far_ahead_are_not_asked_for(owner: Connection) -> None:
    """Three months ahead are enough."""
    detach(owner, "actions", 4, 5, 6)
    assert [] == wrong(owner)


def test_rows_in_the_default_partitions(owner: Connection, trail: Trail) -> None:
    """Of each month that has any; the remedy makes a partition of them, with guards and all, and no row is lost."""
    owner.execute("CREATE TABLE told (id integer PRIMARY KEY)")
    trail.capture("told")
    last_year = NOW - timedelta(days=400)
    insert_action(owner, ids.floor_id(last_year))
    insert_action(owner, ids.floor_id(last_year - timedelta(days=60)))
    detach(owner, "row_changes", 0)
    with trail.track_action("t", concept="c") as action:
        action.connection.execute("INSERT INTO told VALUES (1)")
    changes = owner.execute("SELECT * FROM provenance.row_changes").fetchall()
    first, second, third, missing = wrong(owner)
    assert ["provenance.actions_default"] * 2 == [first.subject, second.subject]
    assert [f"{last_year:%Y-%m}"] == [
        f"{last_year:%Y-%m}" for one in (second,) if f"of {last_year:%Y-%m}" in one.problem
    ]
    assert ("provenance.row_changes_default", "provenance.row_changes") == (third.subject, missing.subject)
    for finding in (first, second, third):
        assert Severity.WARNING == finding.severity
        cure(owner, finding)
    assert [] == wrong(owner)
    assert changes == owner.execute("SELECT * FROM provenance.row_changes").fetchall()
    assert (0, 0) == owner.execute(
        """SELECT (SELECT count(*) FROM provenance.actions_default), (SELECT count(*) FROM provenance.row_changes_default)"""
    ).fetchone()


@pytest.mark.parametrize("table", ["actions", "row_changes"])
def test_a_detached_partition(owner: Connection, table: str) -> None:
    """That, and not each trigger that it lacks; the remedy attaches it again."""
    name = f"provenance.{table}_{month(6)}"
    owner.execute(f"ALTER TABLE provenance.{table} DETACH PARTITION {name}".encode())
    finding = only(owner, "partitions")
    assert (Severity.WARNING, name) == (finding.severity, finding.subject)
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_partition_that_is_being_detached(owner: Connection) -> None:
    """What was broken off can be finished, and then leave."""
    name = f"provenance.actions_{month(6)}"
    owner.execute("DROP TABLE provenance.actions_default")
    with psycopg.connect(owner.info.dsn) as other, psycopg.connect(owner.info.dsn, autocommit=True) as third:
        other.execute("SELECT * FROM provenance.actions")
        third.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            third.execute(f"ALTER TABLE provenance.actions DETACH PARTITION {name} CONCURRENTLY".encode())
    finding = next(one for one in wrong(owner) if one.subject == name)
    assert "was being detached" in finding.problem
    cure(owner, finding)
    assert ["is detached from provenance.actions: its rows are in no answer"] == [
        one.problem for one in wrong(owner) if one.subject == name
    ]


@pytest.mark.parametrize(
    ("parent", "bounds"),
    [
        ("actions", "FROM (provenance.uuid_floor('2035-01-01')) TO (provenance.uuid_floor('2036-01-01'))"),
        ("row_changes", "FROM ('2035-01-01 03:00') TO ('2035-02-01')"),
    ],
)
def test_a_partition_of_another_month_than_its_name_says(owner: Connection, parent: str, bounds: str) -> None:
    """Rows of the month that it is named after go to the default partition, and no partition can be made for them."""
    name = f"{parent}_{month(1)}"
    owner.execute(
        f"ALTER TABLE provenance.{parent} DETACH PARTITION provenance.{name};"
        f"ALTER TABLE provenance.{parent} ATTACH PARTITION provenance.{name} FOR VALUES {bounds}".encode()
    )
    finding = only(owner, "partitions")
    assert (f"provenance.{name}", Severity.ERROR) == (finding.subject, finding.severity)
    assert "does not hold the rows of the month in its name, but those FROM ('" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


@pytest.mark.parametrize(
    ("made", "parent"),
    [
        (
            """CREATE TABLE public."Else Where" PARTITION OF provenance.actions
                   FOR VALUES FROM (provenance.uuid_floor('2035-01-01')) TO (provenance.uuid_floor('2036-01-01'))""",
            "provenance.actions",
        ),
        ('CREATE TABLE public."Else Where" () INHERITS (provenance.action_intents)', "provenance.action_intents"),
    ],
)
def test_a_part_of_the_trail_in_another_schema(owner: Connection, made: str, parent: str) -> None:
    """Whoever owns it can do to its rows what he likes, and they are taken for the trail's."""
    owner.execute(made.encode())
    finding = only(owner, "partitions")
    assert ('public."Else Where"', Severity.ERROR) == (finding.subject, finding.severity)
    assert f"is a part of {parent} and not in its schema" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


@pytest.mark.parametrize(
    ("option", "what"), [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "passes by row-level security")]
)
def test_a_writer_with_more_power_than_it_should_have(
    owner: Connection, role: Callable[..., str], option: str, what: str
) -> None:
    """Whether it was granted the right to write itself, or through a group."""
    group, member = role("NOLOGIN"), role("LOGIN", option)
    owner.execute("SELECT provenance.grant_writer(%s)", (group,))
    assert [] == wrong(owner)
    owner.execute(f"GRANT {group} TO {member}".encode())
    finding = only(owner, "roles")
    assert (Severity.ERROR, f"role {member}") == (finding.severity, finding.subject)
    assert f"may record, and {what}" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_writer_that_is_a_member_of_the_owner(owner: Connection, role: Callable[..., str], prefix: str) -> None:
    """It could disable the guards; it is to be taken out."""
    assert [] == wrong(owner)
    member = role()
    owner.execute(f"GRANT {prefix}_writer, {prefix}_owner TO {member}".encode())
    finding = only(owner, "roles")
    assert f"role {member}" == finding.subject
    assert "may record, and is a member of its owner" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


@pytest.mark.parametrize("by", ["itself", "a group"])
@pytest.mark.parametrize("mighty", ["pg_write_all_data", "pg_write_server_files", "pg_execute_server_program"])
def test_a_writer_of_everything(owner: Connection, role: Callable[..., str], mighty: str, by: str) -> None:
    """It can forge what the database says of a row, or take over the server; through a group as well."""
    member, group = role(), role("NOLOGIN")
    owner.execute("SELECT provenance.grant_writer(%s)", (member,))
    assert [] == wrong(owner)
    # It holds in every database of the cluster, others of which may be examined just now.
    with owner.transaction(force_rollback=True):
        if by == "itself":
            owner.execute(f"GRANT {mighty} TO {member}".encode())
        else:
            owner.execute(f"GRANT {mighty} TO {group}; GRANT {group} TO {member}".encode())
        finding = only(owner, "roles")
        assert (f"role {member}", Severity.ERROR) == (finding.subject, finding.severity)
        assert f"may record, and is a member of {mighty}" in finding.problem
        cure(owner, finding)
        assert [] == wrong(owner)


def test_a_writer_that_may_give_out_the_owner(owner: Connection, role: Callable[..., str], prefix: str) -> None:
    """It is one statement away from being the owner. Who made both roles, and may give out both, is no writer by that."""
    if owner.info.server_version < 160_000:
        pytest.skip("a membership cannot be held without being used before Postgres 16")
    member, maker = role(), role("LOGIN", "CREATEROLE")
    owner.execute(f"GRANT {prefix}_writer TO {member}".encode())
    owner.execute(
        f"GRANT {prefix}_owner, {prefix}_writer TO {maker} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE".encode()
    )
    assert [] == wrong(owner)
    owner.execute(f"GRANT {prefix}_owner TO {member} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE".encode())
    finding = only(owner, "roles")
    assert (f"role {member}", True) == (finding.subject, "is a member of its owner" in finding.problem)
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_writer_that_owns_the_trail(owner: Connection, role: Callable[..., str], prefix: str) -> None:
    """It was granted what it has anyhow, which tells that an application uses it."""
    name = role()
    owner.execute(f"ALTER ROLE {prefix}_owner LOGIN".encode())
    owner.execute("SELECT provenance.grant_writer(%s)", (f"{prefix}_owner",))
    owner.execute("SELECT provenance.grant_writer(%s)", (name,))
    finding = only(owner, "roles")
    assert (f"role {prefix}_owner", True) == (finding.subject, "owns the trail" in finding.problem)


@pytest.mark.parametrize(
    ("take", "lacks"),
    [
        ("USAGE ON SCHEMA provenance", "USAGE on the schema"),
        ("INSERT (status) ON provenance.actions", "INSERT on actions"),
        ("INSERT (payload) ON provenance.action_intents", "INSERT on action_intents"),
        ("EXECUTE ON FUNCTION provenance.outcome(uuid)", "EXECUTE on outcome"),
        ("EXECUTE ON FUNCTION provenance.resolve(uuid)", "EXECUTE on resolve"),
    ],
)
def test_a_writer_that_lacks_a_right(owner: Connection, role: Callable[..., str], take: str, lacks: str) -> None:
    """It cannot record, or not all; it is to be granted anew."""
    name = role()
    owner.execute("SELECT provenance.grant_writer(%s)", (name,))
    assert [] == wrong(owner)
    owner.execute(f"REVOKE {take} FROM {name}".encode())
    finding = only(owner, "roles")
    assert (f"role {name}", Severity.ERROR) == (finding.subject, finding.severity)
    assert f"may record, and lacks {lacks}: " in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


@pytest.mark.parametrize("where", ["IN SCHEMA provenance ", ""])
def test_rights_that_new_partitions_would_be_born_with(owner: Connection, role: Callable[..., str], where: str) -> None:
    """Granted by default, in the schema or everywhere."""
    name = role()
    with owner.transaction(force_rollback=True):
        owner.execute(
            f"ALTER DEFAULT PRIVILEGES {where}GRANT SELECT, UPDATE, DELETE ON TABLES TO {name};"
            f"ALTER DEFAULT PRIVILEGES {where}GRANT EXECUTE ON FUNCTIONS TO {name}".encode()
        )
        finding = only(owner, "roles")
        assert (f"role {name}", Severity.ERROR) == (finding.subject, finding.severity)
        assert "would be given DELETE, UPDATE on every new partition" in finding.problem
        cure(owner, finding)
        assert [] == wrong(owner)


def test_a_role_that_may_read_and_is_no_reader(owner: Connection, role: Callable[..., str]) -> None:
    """Whether on a table or on a column."""
    name = role()
    owner.execute(f"GRANT SELECT ON provenance.idempotency_keys TO {name}".encode())
    owner.execute(f"GRANT SELECT (payload) ON provenance.actions TO {name}".encode())
    finding = only(owner, "roles")
    assert (Severity.WARNING, f"role {name}") == (finding.severity, finding.subject)
    assert "may read provenance.actions, provenance.idempotency_keys" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_reader_of_a_tenant_that_sees_all(owner: Connection, role: Callable[..., str]) -> None:
    """Its binding is worth nothing."""
    name = role("LOGIN", "BYPASSRLS")
    owner.execute("SELECT provenance.grant_tenant_reader(%s, 'acme')", (name,))
    finding = only(owner, "roles")
    assert (Severity.ERROR, f"role {name}") == (finding.severity, finding.subject)
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_binding_of_a_role_that_is_gone(owner: Connection) -> None:
    """Whoever gets its name next would read."""
    owner.execute("INSERT INTO provenance.readers VALUES ('it''s gone', 'acme')")
    finding = only(owner, "roles")
    assert """role "it's gone\"""" == finding.subject
    cure(owner, finding)
    assert [] == wrong(owner)


TABLES = """
CREATE TABLE told (id integer PRIMARY KEY);
CREATE TABLE split (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE split_a PARTITION OF split FOR VALUES FROM (0) TO (10);
"""


@pytest.fixture
def tables(owner: Connection, trail: Trail) -> Trail:
    """Return a trail with a table that is stamped and captured, and a partitioned one."""
    owner.execute(TABLES)
    for table in ("told", "split"):
        trail.stamp(table, strict=True)
        trail.capture(table, max_bytes=77)
    return trail


@pytest.mark.parametrize(
    ("plant", "table", "said"),
    [
        (
            "ALTER TABLE told DISABLE TRIGGER provenance_stamp_update",
            "public.told",
            "provenance_stamp_update is disabled on public.told",
        ),
        (
            "ALTER TABLE told ENABLE TRIGGER provenance_capture_delete",
            "public.told",
            "provenance_capture_delete is not enabled always on public.told",
        ),
        (
            "ALTER TABLE told ENABLE REPLICA TRIGGER provenance_require_action",
            "public.told",
            "provenance_require_action is enabled in replica sessions only on public.told",
        ),
        (
            "DROP TRIGGER provenance_capture_update ON told",
            "public.told",
            "provenance_capture_update is missing on public.told",
        ),
        (
            "DROP TRIGGER provenance_stamp_insert ON told",
            "public.told",
            "provenance_stamp_insert is missing on public.told",
        ),
        (
            """CREATE FUNCTION idle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
               CREATE OR REPLACE TRIGGER provenance_capture_delete AFTER DELETE ON told
                   FOR EACH STATEMENT EXECUTE FUNCTION idle();
               ALTER TABLE told ENABLE ALWAYS TRIGGER provenance_capture_delete""",
            "public.told",
            "provenance_capture_delete is not what was made on public.told",
        ),
        (
            """CREATE OR REPLACE TRIGGER provenance_stamp_update BEFORE UPDATE ON told
                   FOR EACH ROW WHEN (false) EXECUTE FUNCTION provenance.stamp_update()""",
            "public.told",
            "provenance_stamp_update is not what was made on public.told",
        ),
        (
            """CREATE OR REPLACE TRIGGER provenance_require_action BEFORE INSERT ON told
                   FOR EACH STATEMENT EXECUTE FUNCTION provenance.require_action()""",
            "public.told",
            "provenance_require_action is not what was made on public.told",
        ),
        (
            """CREATE OR REPLACE TRIGGER provenance_stamp_update BEFORE UPDATE OF id ON told
                   FOR EACH ROW EXECUTE FUNCTION provenance.stamp_update()""",
            "public.told",
            "provenance_stamp_update is not what was made on public.told",
        ),
        (
            "CREATE TABLE split_b PARTITION OF split FOR VALUES FROM (10) TO (20)",
            "public.split",
            (
                "provenance_capture_truncate is missing on public.split_b; "
                "provenance_require_action_truncate is missing on public.split_b"
            ),
        ),
    ],
)
def test_broken_stamps_and_captures(owner: Connection, tables: Trail, plant: str, table: str, said: str) -> None:
    """Each trigger that is not as it should be, on which table or partition; the remedy keeps the settings."""
    assert [] == wrong(owner)
    settings = owner.execute("SELECT max_bytes, kept FROM provenance.captured_tables ORDER BY id").fetchall()
    owner.execute(plant.encode())
    finding = only(owner, "tables")
    assert (Severity.ERROR, table) == (finding.severity, finding.subject)
    assert finding.problem.startswith(f"{said}: ")
    cure(owner, finding)
    assert [] == wrong(owner)
    assert (
        settings
        == owner.execute(
            "SELECT max_bytes, kept FROM provenance.captured_tables WHERE released_at IS NULL ORDER BY table_name DESC"
        ).fetchall()
    )


def test_a_broken_concept(owner: Connection, tables: Trail) -> None:
    """Its table comes with its stamps, and so does the remedy."""
    owner.execute(
        """CREATE TRIGGER provenance_touch BEFORE UPDATE ON told FOR EACH ROW EXECUTE FUNCTION provenance.touch();
           DROP TRIGGER provenance_stamp_insert ON told"""
    )
    assert "provenance concept sql FILE --apply" == only(owner, "tables").remedy


def test_a_capture_that_is_gone(owner: Connection, tables: Trail) -> None:
    """All its triggers were dropped."""
    owner.execute("DROP FUNCTION provenance.capture_1() CASCADE")
    finding = only(owner, "tables")
    assert (Severity.ERROR, "public.told") == (finding.severity, finding.subject)
    assert "nothing captures it" in finding.problem
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_captured_table_that_is_gone(owner: Connection, tables: Trail) -> None:
    """It was dropped without being released first."""
    owner.execute("DROP TABLE told; DROP FUNCTION provenance.capture_1()")
    finding = only(owner, "tables")
    assert (Severity.WARNING, "public.told") == (finding.severity, finding.subject)
    cure(owner, finding)
    assert [] == wrong(owner)


def test_a_captured_table_that_was_written_past_the_trail(owner: Connection, trail: Trail) -> None:
    """How often, when last and by whom, of late."""
    owner.execute(TABLES)
    trail.capture("told")
    owner.execute("INSERT INTO told VALUES (1), (2)")
    owner.execute("UPDATE told SET id = 3 WHERE id = 1")
    finding = only(owner, "tables")
    user = owner.info.user
    assert (Severity.WARNING, "public.told") == (finding.severity, finding.subject)
    assert "by 2 statements in the last 7 days" in finding.problem
    assert f"by {user}: " in finding.problem
    assert "provenance stamp public.told --strict" in finding.remedy


@pytest.mark.parametrize("table", ["told", "split"])
def test_a_stamped_table_that_was_written_past_the_trail(owner: Connection, trail: Trail, table: str) -> None:
    """Rows without an action; the remedy has an action adopt them."""
    owner.execute(TABLES)
    trail.stamp(table)
    insert = sql.SQL("INSERT INTO {} VALUES (%s)").format(sql.Identifier(table))
    for number in (1, 2):
        owner.execute(insert, (number,))
    with trail.track_action("t", concept="c") as action:
        action.connection.execute(insert, (3,))
    finding = only(owner, "tables")
    assert (Severity.WARNING, f"public.{table}") == (finding.severity, finding.subject)
    assert finding.problem.startswith("has 2 rows")
    cure(owner, finding)
    assert [] == wrong(owner)


def test_only_the_end_of_a_large_table_is_looked_at(owner: Connection, trail: Trail) -> None:
    """What was written past the trail long ago is not found, for the sake of what is running."""
    owner.execute(TABLES)
    owner.execute("INSERT INTO told SELECT g FROM generate_series(1, 1000) g")
    trail.stamp("told")
    found = only(owner, "tables", limits=Limits(pages=1)).problem
    assert "1000 rows" in only(owner, "tables").problem
    assert "1000 rows" not in found


def test_actions_that_recovery_would_find_out_about(owner: Connection, trail: Trail) -> None:
    """Their transactions are over, and recovery does not run."""
    with owner.transaction(force_rollback=True):
        ((xid, system),) = owner.execute(
            "SELECT pg_current_xact_id()::text, system_identifier FROM pg_control_system()"
        ).fetchall()
    action_id = insert_intent(owner, work_xid=xid, system_identifier=system)
    finding = only(owner, "intents")
    assert (Severity.WARNING, "provenance recover") == (finding.severity, finding.remedy)
    assert finding.problem.startswith("1 actions show as pending although their transactions are over")
    assert str(action_id) in finding.problem
    assert Severity.ERROR == only(owner, "intents", limits=Limits(unfrozen=-1)).severity
    trail.recover()
    assert [] == wrong(owner)


def test_an_action_of_another_cluster(owner: Connection) -> None:
    """Its transaction is one of there: recovery says that nobody can know."""
    insert_intent(owner, work_xid="999999999", system_identifier=1)
    assert "provenance recover" == only(owner, "intents").remedy


def test_actions_in_progress(owner: Connection, provenance_dsn: str) -> None:
    """They may take as long as they like; what was begun just now may still be settled."""
    with psycopg.connect(provenance_dsn) as other:
        ((xid, system),) = other.execute(
            "SELECT pg_current_xact_id()::text, system_identifier FROM pg_control_system()"
        ).fetchall()
        insert_intent(owner, work_xid=xid, system_identifier=system)
        now = ids.floor_id(NOW)
        insert_intent(owner, id=now, root_id=now, recorded_at=datetime.now(UTC), doubt="just now")
        assert [] == wrong(owner)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"expires_at": NOW - timedelta(minutes=30)}, "were never finished"),
        ({"doubt": "nobody knows"}, "have an outcome that nobody knows"),
    ],
)
def test_actions_that_a_person_must_decide(owner: Connection, values: dict[str, object], said: str) -> None:
    """Expired or doubtful; the remedy says how to give them an outcome."""
    action_id = insert_intent(owner, **values)
    finding = only(owner, "intents")
    assert (Severity.WARNING, True) == (finding.severity, finding.problem.startswith(f"1 actions {said}"))
    assert "SELECT provenance.complete_action('ID', status => 'failed', error_message => 'REASON')" in finding.remedy
    owner.execute("SELECT provenance.complete_action(%s, status => 'failed', error_message => 'x')", (action_id,))
    assert [] == wrong(owner)


def test_orphans(owner: Connection) -> None:
    """Recent actions below a parent of which nothing is recorded; not ones whose parent has an intent, or may be at work."""
    ago = [ids.floor_id(NOW - timedelta(hours=hours)) for hours in range(6)]
    parents = [ids.floor_id(NOW - timedelta(hours=7)), ids.floor_id(NOW - timedelta(hours=8))]
    gone = ids.floor_id(NOW - timedelta(hours=9))
    left = ids.floor_id(NOW - timedelta(days=60))
    insert_action(owner, parents[0])
    insert_intent(owner, id=parents[1], root_id=parents[1])
    for action_id, parent in zip(ago[2:], [*parents, gone, left], strict=True):
        insert_action(owner, action_id, parent_action_id=parent)
    insert_action(owner, ids.floor_id(NOW - timedelta(minutes=1)), parent_action_id=gone)
    finding = only(owner, "orphans")
    assert (Severity.WARNING, str(ago[4])) == (finding.severity, finding.subject)
    assert finding.problem.startswith("of the parents of 1 actions of the last 7 days nothing is recorded")
    assert [] == wrong(owner, limits=Limits(recent=timedelta(hours=2)))


def test_keys_that_nothing_holds(owner: Connection) -> None:
    """Not ones of actions with an outcome or an intent, nor ones that were claimed just now."""
    done, begun, gone = (ids.floor_id(NOW - timedelta(hours=hours)) for hours in (2, 3, 4))
    insert_action(owner, done)
    insert_intent(owner, id=begun, root_id=begun)
    for key, action_id, at in (
        ("done", done, NOW - timedelta(hours=2)),
        ("begun", begun, NOW - timedelta(hours=2)),
        ("it's gone", gone, NOW - timedelta(hours=2)),
        ("now", ids.new_id(), NOW),
        ("long ago", ids.new_id(), NOW - timedelta(days=30)),
    ):
        owner.execute(
            "INSERT INTO provenance.idempotency_keys VALUES ('acme', 'pay', %s, '', %s, %s)", (key, action_id, at)
        )
    finding = only(owner, "keys")
    assert (Severity.WARNING, "idempotency keys of pay") == (finding.severity, finding.subject)
    assert ("1 are held" in finding.problem, "(it's gone)" in finding.problem) == (True, True)
    cure(owner, finding)
    assert [] == wrong(owner)


@pytest.mark.parametrize(("off", "said"), [(90, "clock of a host is ahead"), (-90, "clock of a host is behind")])
def test_clocks_that_are_off(owner: Connection, off: int, said: str) -> None:
    """By more than a minute, either way; the example is the newest."""
    at = NOW - timedelta(hours=2)
    action_id = ids.floor_id(at)
    insert_action(owner, action_id, completed_at=at + timedelta(seconds=off))
    insert_action(owner, ids.floor_id(NOW - timedelta(hours=3)))
    finding = only(owner, "clocks")
    assert (Severity.WARNING, f"hosts that record as {owner.info.user}") == (finding.severity, finding.subject)
    assert (True, True) == (said in finding.problem, "up to 90 s" in finding.problem)
    assert str(action_id) in finding.problem


def test_rows_that_are_rightly_recorded_late(owner: Connection) -> None:
    """Blocks inside others are recorded with these, and a spool is replayed: neither tells of a clock."""
    at = NOW - timedelta(hours=2)
    early = at - timedelta(minutes=5)
    with owner.transaction():
        insert_action(owner, ids.floor_id(at), completed_at=early)
        insert_action(owner, ids.floor_id(at + timedelta(seconds=1)), completed_at=early)
    insert_action(owner, ids.floor_id(at + timedelta(seconds=2)), completed_at=early, parent_action_id=ids.floor_id(at))
    assert [] == wrong(owner)


def test_a_bloated_index(owner: Connection) -> None:
    """Much larger than its entries need; not if it is small. The remedy builds it anew."""
    limits = Limits(index_bytes=50_000)
    owner.execute(
        """INSERT INTO provenance.idempotency_keys
           SELECT '', 't', 'key ' || g, '', gen_random_uuid() FROM generate_series(1, 5000) g"""
    )
    owner.execute("DELETE FROM provenance.idempotency_keys WHERE key NOT LIKE '%7'")
    owner.execute("VACUUM ANALYZE provenance.idempotency_keys")
    found = wrong(owner, limits=limits)
    assert [("indexes", "provenance.idempotency_keys_pkey")] == [
        (one.check, one.subject) for one in found if one.subject.endswith("pkey")
    ]
    assert [] == [one for one in wrong(owner) if one.check == "indexes"]
    for finding in found:
        assert "REINDEX INDEX CONCURRENTLY" in finding.remedy
        cure(owner, finding)
    owner.execute("ANALYZE provenance.idempotency_keys")
    assert [] == wrong(owner, limits=limits)


def test_a_server_that_forgets(owner: Connection) -> None:
    """Each setting that makes it lose what it was given, with the statement that turns it on."""
    wanted = {
        f"{name}{' of this server' if name == 'synchronous_commit' else ''}": f"ALTER SYSTEM SET {name} = on"
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if owner.execute("SELECT current_setting(%s)", (name,)).fetchone() == ("off",)
    }
    found = [one for one in diagnose(owner) if one.check == "durability" and " role " not in one.subject]
    assert wanted == {one.subject: one.remedy.partition(";")[0] for one in found}


SPELLED = ["off", "false", "no", "0", "OFF"]


@pytest.mark.parametrize("off", SPELLED)
def test_synchronous_commit_of_a_database_and_of_a_role(owner: Connection, role: Callable[..., str], off: str) -> None:
    """Off by default for some, however that is spelled; the remedies take that back."""
    name, database = role(), owner.info.dbname
    owner.execute(f"ALTER DATABASE {database} SET synchronous_commit = '{off}'".encode())
    owner.execute(f"ALTER ROLE {name} SET synchronous_commit = '{off}'".encode())
    owner.execute(f"ALTER ROLE {name} IN DATABASE {database} SET synchronous_commit = '{off}'".encode())
    skip = tuple(check for check in CHECKS if check != "durability")
    found = [one for one in wrong(owner, skip=skip) if name in one.subject or database in one.subject]
    assert {
        f"synchronous_commit of database {database}",
        f"synchronous_commit of role {name}",
        f"synchronous_commit of role {name} in database {database}",
    } == {one.subject for one in found}
    for finding in found:
        cure(owner, finding)
    assert [] == [one for one in wrong(owner, skip=skip) if name in one.subject or database in one.subject]


def test_synchronous_commit_of_all_roles(owner: Connection) -> None:
    """Neither of a role nor of a database."""
    skip = tuple(check for check in CHECKS if check != "durability")
    # It holds in every database of the cluster, others of which may be examined just now.
    with owner.transaction(force_rollback=True):
        owner.execute("ALTER ROLE ALL SET synchronous_commit = off")
        (finding,) = [one for one in wrong(owner, skip=skip) if one.subject == "synchronous_commit of all roles"]
        assert finding.remedy == "ALTER ROLE ALL RESET synchronous_commit;"
        cure(owner, finding)
        assert [] == [one for one in wrong(owner, skip=skip) if one.subject == finding.subject]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        *((f"row_security = '{off}'", "gets an error instead of recording") for off in SPELLED),
        ("default_transaction_read_only = yes", "nothing can be recorded"),
        ("session_replication_role = Replica", "are passed by"),
    ],
)
def test_settings_that_keep_a_writer_from_recording(
    owner: Connection, role: Callable[..., str], setting: str, problem: str
) -> None:
    """Of the role, of the database, and of the role in the database. Those of a role that records nothing are its own."""
    name, other, database = role(), role(), owner.info.dbname
    owner.execute("SELECT provenance.grant_writer(%s)", (name,))
    owner.execute(f"ALTER ROLE {other} SET {setting}".encode())
    assert [] == wrong(owner)
    whose = [f"role {name}", f"database {database}", f"role {name} in database {database}"]
    for who in ("ROLE " + name, "DATABASE " + database, f"ROLE {name} IN DATABASE {database}"):
        owner.execute(f"ALTER {who} SET {setting}".encode())
    found = wrong(owner)
    assert {f"{setting.partition(' ')[0]} of {who}" for who in whose} == {one.subject for one in found}
    assert {("roles", Severity.ERROR)} == {(one.check, one.severity) for one in found}
    for finding in found:
        assert problem in finding.problem
        cure(owner, finding)
    assert [] == wrong(owner)


def test_transactions_that_are_open_for_long(owner: Connection, provenance_dsn: str) -> None:
    """Of other sessions, with the statement that ends them."""
    with psycopg.connect(provenance_dsn) as other:
        other.execute("SELECT count(*) FROM provenance.actions")
        pid = other.info.backend_pid
        limits = Limits(transaction=timedelta())
        (found,) = [
            one
            for one in diagnose(owner, limits=limits)
            if one.check == "transactions" and one.subject.startswith(f"session {pid} ")
        ]
        assert (Severity.WARNING, f"SELECT pg_terminate_backend({pid});") == (found.severity, found.remedy)
        assert [] == [one for one in diagnose(owner) if one.check == "transactions"]
        cure(owner, found)
        with suppress(psycopg.OperationalError):
            other.execute("SELECT 1")


def test_a_reader_is_told_what_it_could_not_look_at(
    owner: Connection, role: Callable[..., str], provenance_dsn: str
) -> None:
    """It fails at nothing, finds what it can, and is told which rights the rest needs."""
    name = role()
    owner.execute("SELECT provenance.grant_reader(%s)", (name,))
    insert_intent(owner, doubt="nobody knows")
    with psycopg.connect(conninfo.make_conninfo(provenance_dsn, user=name), autocommit=True) as reader:
        found = diagnose(reader, skip=("durability",))
    assert ["intents"] == [one.check for one in found if one.severity is not Severity.UNCHECKED]
    unchecked = [one for one in found if one.severity is Severity.UNCHECKED]
    assert ["schema", "partitions", "roles", "keys", "indexes", "transactions"] == [one.check for one in unchecked]
    assert all(one.problem.startswith("not checked: ") for one in unchecked)
    assert {"connect as the role that owns the schema provenance", "grant pg_monitor to this role"} == {
        one.remedy for one in unchecked
    }


def test_a_member_of_the_owner(owner: Connection, role: Callable[..., str], prefix: str, provenance_dsn: str) -> None:
    """It looks at everything but the sessions of others, and needs to be no superuser."""
    member = role()
    owner.execute(f"GRANT {prefix}_owner TO {member}".encode())
    with psycopg.connect(conninfo.make_conninfo(provenance_dsn, user=member), autocommit=True) as connection:
        found = diagnose(connection, skip=("durability",))
    assert [("transactions", Severity.UNCHECKED)] == [(one.check, one.severity) for one in found]


def test_a_reader_of_one_tenant(owner: Connection, role: Callable[..., str], provenance_dsn: str) -> None:
    """It is not told of orphans and the like that are none, because it sees a part of the rows."""
    name = role()
    owner.execute("SELECT provenance.grant_tenant_reader(%s, 'acme')", (name,))
    gone = ids.floor_id(NOW - timedelta(hours=3))
    insert_action(owner, gone)
    insert_action(owner, ids.floor_id(NOW - timedelta(hours=2)), tenant_id="acme", parent_action_id=gone)
    with psycopg.connect(conninfo.make_conninfo(provenance_dsn, user=name), autocommit=True) as reader:
        found = diagnose(reader, skip=SERVER)
    assert {Severity.UNCHECKED} == {one.severity for one in found}
    assert {"intents", "orphans", "clocks"} <= {one.check for one in found}


def test_a_stamped_table_that_a_reader_may_not_read(
    owner: Connection, trail: Trail, role: Callable[..., str], provenance_dsn: str
) -> None:
    """It is named."""
    owner.execute(TABLES)
    trail.stamp("told")
    name = role()
    owner.execute("SELECT provenance.grant_reader(%s)", (name,))
    with psycopg.connect(conninfo.make_conninfo(provenance_dsn, user=name), autocommit=True) as reader:
        (hidden,) = [one for one in diagnose(reader) if one.check == "tables"]
    assert (Severity.UNCHECKED, "public.told", "SELECT on them") == (hidden.severity, hidden.subject, hidden.remedy)


def test_a_table_that_is_locked(owner: Connection, trail: Trail, provenance_dsn: str) -> None:
    """Nobody is waited for: that check is left out, and said to be."""
    with psycopg.connect(provenance_dsn) as other:
        other.execute("LOCK TABLE provenance.action_intents IN ACCESS EXCLUSIVE MODE")
        found = diagnose(owner, skip=(*SERVER, "orphans", "keys", "indexes", "schema", "roles"))
    assert {("intents", Severity.UNCHECKED)} == {(one.check, one.severity) for one in found}
    assert "it took too long" in found[0].problem


def test_a_part_of_the_schema_is_missing(owner: Connection) -> None:
    """What needs it is left out, and said to be."""
    owner.execute("DROP TABLE provenance.idempotency_keys")
    found = diagnose(owner, skip=(*SERVER, "schema"))
    assert [("keys", Severity.UNCHECKED)] == [(one.check, one.severity) for one in found]
    assert "a part of the schema is missing" in found[0].problem


def test_a_check_that_there_is_not(owner: Connection) -> None:
    """A slip of the pen does not pass for a check that is left out."""
    with pytest.raises(NotConfigured, match="there is no check rolls; there are schema, "):
        diagnose(owner, skip=("rolls",))


def test_it_changes_nothing_and_waits_for_nobody(owner: Connection, trail: Trail) -> None:
    """It runs while others write, and they are not kept waiting."""
    stop = threading.Event()
    counted: list[int] = []

    def work() -> None:
        count = 0
        while not stop.is_set():
            with trail.track_action("t", concept="c"):
                count += 1
        counted.append(count)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        assert [] == wrong(owner)
    finally:
        stop.set()
        writer.join()
    assert (counted[0],) == owner.execute("SELECT count(*) FROM provenance.actions").fetchone()


@pytest.mark.parametrize("name", ["autovacuum", "fsync"])
def test_settings_of_the_server(owner: Connection, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ones that no test may change for all others are told of as the server would."""
    monkeypatch.setattr(server, "_OFF", Statement(f"SELECT '{name}'", None, lambda rows: [rows[0][0]]))
    found = diagnose(owner, skip=[check for check in CHECKS if check not in SERVER])
    (finding,) = [one for one in found if one.subject == name]
    assert (Severity.ERROR, f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();") == (
        finding.severity,
        finding.remedy,
    )


def test_spools_too(owner: Connection, tmp_path: Path) -> None:
    """Those that are named, unless they are to be left out."""
    (finding,) = diagnose(owner, [tmp_path / "gone"], skip=SERVER)
    assert ("spool", str(tmp_path / "gone")) == (finding.check, finding.subject)
    assert [] == diagnose(owner, [tmp_path / "gone"], skip=(*SERVER, "spool"))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text(provenance_server: str, encoding: str) -> None:
    """A dump can be restored into one; it says how the right one is made."""
    name = f"provenance_narrow_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        address = conninfo.make_conninfo(provenance_server, dbname=name)
        with psycopg.connect(address, autocommit=True, client_encoding="utf8") as connection:
            (finding,) = [
                one for one in diagnose(connection) if one.subject == "this database" and one.check == "durability"
            ]
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert finding.severity is Severity.ERROR
    assert encoding in finding.problem
    assert "ENCODING 'UTF8'" in finding.remedy
