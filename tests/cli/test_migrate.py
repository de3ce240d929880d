"""``migrate``: up, down, status, verify, grant."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from provenance import schema
from provenance.ids import new_id
from provenance.schema import known_migrations
from provenance.trail import Trail
from tests.cli.conftest import Run

NAMES = [f"{migration.version:04} {migration.name}" for migration in known_migrations()]
STEPS = [{"version": migration.version, "name": migration.name} for migration in known_migrations()]


@pytest.fixture
def role(provenance_server: str, provenance_dsn: str) -> Iterator[str]:
    """Yield the name of a new role, which loses its rights at the end."""
    name = f"app_{new_id().hex}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        with psycopg.connect(provenance_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def unused(provenance_dsn: str) -> None:
    """Drop the application's table, whose column default would keep the schema from going."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE work")


def _may(dsn: str, role: str, right: str, table: str = "actions") -> bool:
    with psycopg.connect(dsn) as connection:
        [(allowed,)] = connection.execute(
            "SELECT has_any_column_privilege(%s, 'provenance.' || %s::text, %s)", (role, table, right)
        ).fetchall()
    return bool(allowed)


def test_up_applies_what_is_missing_once(run: Run, empty_dsn: str) -> None:
    """The second run has nothing to do, and says so."""
    first, second = run("migrate", "up", dsn=empty_dsn), run("migrate", "up", dsn=empty_dsn)
    assert (0, "".join(f"applied {name}\n" for name in NAMES), "") == (first.exit_code, first.stdout, first.stderr)
    assert (0, "nothing to apply\n", "") == (second.exit_code, second.stdout, second.stderr)


def test_up_as_json(run_json: Callable[..., Any], empty_dsn: str) -> None:
    """The applied migrations are listed."""
    assert {"applied": STEPS[:1]} == run_json("migrate", "up", "--to", "1", dsn=empty_dsn)
    assert {"applied": STEPS[1:]} == run_json("migrate", "up", dsn=empty_dsn)
    assert {"applied": []} == run_json("migrate", "up", "--to", "1", dsn=empty_dsn)


# What writes a row of the tenth day of the next month into each table that has monthly partitions.
EARLY = {
    "actions": """
        INSERT INTO provenance.actions
               (id, root_id, action_type, concept, status, started_at, completed_at, duration_ms)
        SELECT id, id, 'early', 'bird', 'completed', now(), now(), 0
          FROM provenance.uuid_floor(date_trunc('month', now()) + interval '1 month 10 days') id""",
    "row_changes": """
        INSERT INTO provenance.row_changes
               (seq, recorded_at, row_slot, ordinal, table_id, shape_id, operation, row_key)
        VALUES (1, date_trunc('month', now()) + interval '1 month 10 days', 1, 1, 1, 1, 'insert', '1')""",
}


@pytest.mark.parametrize("table", EARLY)
def test_up_passes_on_warnings_of_the_server(run: Run, provenance_dsn: str, table: str) -> None:
    """A month whose rows are already in the default partition gets none; the operator hears of it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        [(partition, month)] = connection.execute(
            """SELECT %s::text || to_char(at, '_YYYY_MM'), to_char(at, 'YYYY-MM')
                 FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month' AS at) next""",
            (table,),
        ).fetchall()
        connection.execute(sql.SQL("DROP TABLE provenance.{}").format(sql.Identifier(partition)))
        connection.execute(EARLY[table].encode())
    result = run("migrate", "up")
    assert (
        0,
        "nothing to apply\n",
        f"Warning: no partition for {month}: {table}_default already holds rows of that month\n",
    ) == (result.exit_code, result.stdout, result.stderr)


def test_notices_are_not_warnings(run: Run, provenance_dsn: str) -> None:
    """Chatter of the server, such as "already exists, skipping", stays out of the way."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(
            """CREATE OR REPLACE FUNCTION provenance.ensure_partitions(months_ahead integer DEFAULT 6)
               RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'chatter'; END $$"""
        )
    assert ("nothing to apply\n", "") == ((result := run("migrate", "up")).stdout, result.stderr)


def _down_refused(run: Run, to: int) -> list[str]:
    """Return what is named as standing in the way; nobody was asked."""
    result = run("migrate", "down", "--to", str(to), answer="y\n")
    head = "Error: nothing was taken back, because of what stands on the schema: "
    assert (1, "", head) == (result.exit_code, result.stdout, result.stderr[: len(head)])
    return result.stderr[len(head) : -1].split(", ")


def test_down_names_what_stands_on_the_schema_before_it_asks(run: Run, provenance_dsn: str, unused: None) -> None:
    """Each with what releases it; done so, nothing stands in the way any more."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("""
            CREATE TABLE plain (id integer PRIMARY KEY); CREATE TABLE "Both" (id integer PRIMARY KEY);
            CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY LIST (id);
            CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
            SELECT provenance.stamp_table('plain', true), provenance.stamp_table('"Both"'),
                   provenance.capture_table('"Both"'), provenance.capture_table('parted');
            CREATE TABLE noted (id integer, action_id uuid DEFAULT provenance.current_action_id(),
                                CHECK (provenance.current_action_id() IS NOT NULL));
            CREATE VIEW shown AS SELECT id FROM provenance.actions;
            CREATE DOMAIN checked AS uuid CHECK (VALUE = provenance.current_action_id());
            CREATE MATERIALIZED VIEW it AS SELECT 1 AS id;
            CREATE FUNCTION refresh_it() RETURNS boolean LANGUAGE sql SECURITY DEFINER
                AS 'SELECT provenance.refresh_view(''public.it'')';
            CREATE TABLE made (id uuid DEFAULT provenance.uuid_v7());
            CREATE TRIGGER provenance_stamp_insert BEFORE INSERT ON made FOR EACH ROW
                EXECUTE FUNCTION provenance.stamp_insert();
            CREATE TRIGGER provenance_touch BEFORE UPDATE ON made FOR EACH ROW EXECUTE FUNCTION provenance.touch()""")
        rows = [
            'public."Both" is captured (`provenance capture public."Both" --release`)',
            'public."Both" is stamped (`provenance stamp public."Both" --undo`)',
            "public.made is the table of a concept (`provenance concept sql FILE --down`)",
            "public.parted is captured (`provenance capture public.parted --release`)",
            "public.plain is stamped (`provenance stamp public.plain --undo`)",
            "function public.refresh_it() (drop or change it)",
        ]
        earlier = [
            "default value for column action_id of table public.noted (drop or change it)",
            "constraint noted_check on table public.noted (drop or change it)",
            "rule _RETURN on view public.shown (drop or change it)",
            "constraint checked_check (drop or change it)",
        ]
        assert sorted(rows) == sorted(_down_refused(run, to=1))
        assert sorted([*rows, *earlier]) == sorted(_down_refused(run, to=0))
        connection.execute("CREATE VIEW another AS SELECT id FROM provenance.actions")
        assert "and 1 more" == _down_refused(run, to=0)[-1]
        connection.execute("""
            SELECT provenance.unstamp_table('plain'), provenance.unstamp_table('"Both"'),
                   provenance.release_table('"Both"'), provenance.release_table('parted');
            DROP FUNCTION refresh_it(); DROP TABLE made""")
        assert 0 == run("migrate", "down", "--to", "1", "--yes").exit_code
        assert len(_down_refused(run, to=0)) == 5
        connection.execute("DROP TABLE noted; DROP VIEW shown; DROP VIEW another; DROP DOMAIN checked")
    assert 0 == run("migrate", "down", "--to", "0", "--yes").exit_code


def test_down_asks_first(run: Run, unused: None) -> None:
    """It says what is lost, on standard error; no is code 1 and changes nothing."""
    result = run("migrate", "down", "--to", "0", answer="n\n")
    assert (1, "") == (result.exit_code, result.stdout)
    assert (
        f"This takes back {len(NAMES)} migration(s), down to version 0. Recorded actions are lost with the tables they "
        "are in. Go on? [y/N]: " in result.stderr
    )
    assert 0 == run("log").exit_code


def test_down_after_a_yes(run: Run, unused: None) -> None:
    """The schema is gone, and there is nothing left to take back."""
    result = run("migrate", "down", "--to", "0", answer="y\n")
    assert 0 == result.exit_code
    assert [f"took back {name}" for name in reversed(NAMES)] == result.stdout.splitlines()
    again = run("migrate", "down", "--to", "0")
    assert (0, "nothing to take back\n", "") == (again.exit_code, again.stdout, again.stderr)


def test_down_as_json(run_json: Callable[..., Any], unused: None) -> None:
    """With --yes nothing is asked."""
    assert {"reverted": STEPS[::-1]} == run_json("migrate", "down", "--to", "0", "--yes")
    assert {"reverted": []} == run_json("migrate", "down", "--to", "0")


def test_down_to_a_version(run: Run, unused: None) -> None:
    """Only what is above it is taken back, and counted when asking."""
    result = run("migrate", "down", "--to", "1", answer="y\n")
    assert (0, [f"took back {name}" for name in reversed(NAMES[1:])]) == (result.exit_code, result.stdout.splitlines())
    assert f"This takes back {len(NAMES) - 1} migration(s), down to version 1. " in result.stderr
    again = run("migrate", "down", "--to", "1")
    assert (0, "nothing to take back\n", "") == (again.exit_code, again.stdout, again.stderr)


def test_down_that_fails_is_one_sentence(run: Run, provenance_dsn: str, unused: None) -> None:
    """What somebody else put into the schema is not dropped with it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE provenance.mine ()")
    result = run("migrate", "down", "--to", "0", "--yes")
    taken_back = ", ".join(f"{step['version']:04} ({step['name']})" for step in reversed(STEPS[1:]))
    assert (
        1,
        "",
        (
            "Error: taking back migration 0001 (actions) failed and changed nothing: cannot drop schema provenance because "
            "other objects depend on it (table provenance.mine depends on schema provenance); release captured tables with "
            "`provenance capture TABLE --release`, take the stamps off others with `provenance stamp TABLE --undo`, take "
            "concepts back with `provenance concept sql FILE --down`, and drop what else is named; taken back before that: "
            f"{taken_back}\n"
        ),
    ) == (result.exit_code, result.stdout, result.stderr)


def test_status_lists_the_migrations(run: Run, run_json: Callable[..., Any]) -> None:
    """Each with when it was applied, and by whom."""
    document = run_json("migrate", "status")
    assert [(step["version"], step["name"], None) for step in STEPS] == [
        (state["version"], state["name"], state["problem"]) for state in document["migrations"]
    ]
    assert all("+00:00" in state["applied_at"] or state["applied_at"][-6] in "+-" for state in document["migrations"])
    head, *rows = run("migrate", "status").stdout.splitlines()
    assert ["VERSION", "NAME", "APPLIED", "BY", "PROBLEM"] == head.split()
    assert NAMES == [" ".join(row.split()[:2]) for row in rows]


def test_status_before_the_first_migration(run: Run, empty_dsn: str) -> None:
    """Every step is told, and that the application cannot work with this."""
    result = run("migrate", "status", dsn=empty_dsn)
    assert 1 == result.exit_code
    assert [f"{name} not applied" for name in NAMES] == [
        " ".join(row.split()) for row in result.stdout.splitlines()[1:]
    ]


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("version", [step["version"] for step in STEPS])
def test_status_of_an_edited_migration(run: Run, provenance_dsn: str, options: list[str], version: int) -> None:
    """A ledger that does not fit the library is code 1."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("UPDATE provenance.migrations SET checksum = 'other' WHERE version = %s", (version,))
    result = run("migrate", "status", *options)
    assert 1 == result.exit_code
    name = STEPS[version - 1]["name"]
    assert [f"migration {version:04} ({name}) is not the one that was applied"] == re.findall(
        r"migration \d+ \(\w+\) is not the one that was applied", result.stdout
    )


def test_verify_finds_nothing(run: Run, run_json: Callable[..., Any]) -> None:
    """A fresh installation is as it should be."""
    result = run("migrate", "verify")
    assert (0, "no differences\n", "") == (result.exit_code, result.stdout, result.stderr)
    assert {"differences": []} == run_json("migrate", "verify")


def test_verify_names_each_difference(run: Run, provenance_dsn: str) -> None:
    """One a line, with code 1."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(
            "DROP FUNCTION provenance.forget_intent(uuid); DROP FUNCTION provenance.pending_action(uuid)"
        )
    result = run("migrate", "verify")
    expected = [f"function {name}(action_id uuid) is missing\n" for name in ("forget_intent", "pending_action")]
    assert (1, "".join(expected), "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


def test_verify_as_json(run: Run, provenance_dsn: str) -> None:
    """Each difference says what was expected and what was found."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE provenance.actions ADD COLUMN extra text")
        connection.execute("ALTER TABLE provenance.row_changes ADD COLUMN extra text")
    result = run("migrate", "verify", "--json")
    assert 1 == result.exit_code
    differences = json.loads(result.stdout)["differences"]
    for table in ("actions", "row_changes"):
        assert {"kind": "column", "name": f"{table}.extra", "expected": None, "found": "text"} in differences


def test_verify_without_the_schema(run: Run, empty_dsn: str) -> None:
    """A hundred missing objects are one sentence."""
    result = run("migrate", "verify", dsn=empty_dsn)
    assert (4, "", "Error: the provenance schema is missing in this database; run `provenance migrate up`\n") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


def test_grant_to_a_writer(run: Run, provenance_dsn: str, role: str) -> None:
    """A writer may insert and not read; row changes it may not even insert: the triggers do, with rights of their own."""
    result = run("migrate", "grant", "--writer", role)
    assert (0, f"{role} may record actions\n") == (result.exit_code, result.stdout)
    assert (True, False) == (_may(provenance_dsn, role, "INSERT"), _may(provenance_dsn, role, "SELECT"))
    for table in ("row_changes", "row_shapes", "captured_tables"):
        assert [False, False] == [_may(provenance_dsn, role, right, table) for right in ("INSERT", "SELECT")]


def test_grant_to_a_reader(run: Run, provenance_dsn: str, role: str) -> None:
    """A reader may read and not insert."""
    result = run("migrate", "grant", "--reader", role)
    assert (0, f"{role} may read the trail\n") == (result.exit_code, result.stdout)
    for table in ("actions", "row_changes", "row_shapes", "captured_tables"):
        assert [False, True] == [_may(provenance_dsn, role, right, table) for right in ("INSERT", "SELECT")]


def test_grant_as_json(run_json: Callable[..., Any], role: str) -> None:
    """The roles are listed."""
    given = ("--writer", role, "--reader", role, "--tenant", "ada", "--maintainer", role)
    assert {"writers": [role], "readers": [role], "tenants": ["ada"], "maintainers": [role]} == run_json(
        "migrate", "grant", *given
    )


def test_grant_to_a_reader_of_some_tenants(run: Run, run_json: Callable[..., Any], trail: Trail, role: str) -> None:
    """It sees their rows, and no others."""
    for tenant in ("ada", "bob", ""):
        with trail.track_action("a", concept="c", tenant_id=tenant):
            pass
    result = run("migrate", "grant", "--reader", role, "--tenant", "ada", "--tenant", "")
    assert (0, f"{role} may read the trail of 'ada', ''\n") == (result.exit_code, result.stdout)
    dsn = psycopg.conninfo.make_conninfo(trail.pool.conninfo, options=f"-c role={role}")
    assert {"ada", ""} == {action["tenant_id"] for action in run_json("log", dsn=dsn)["actions"]}


def test_grant_to_a_maintainer(run: Run, trail: Trail, role: str) -> None:
    """It does the upkeep."""
    result = run("migrate", "grant", "--maintainer", role)
    assert (0, f"{role} may do the upkeep of the trail, and read it\n") == (result.exit_code, result.stdout)
    with psycopg.connect(trail.pool.conninfo, options=f"-c role={role}") as connection:
        assert connection.execute("SELECT * FROM provenance.ensure_partitions()").fetchall() == []


def test_a_tenant_without_a_reader(run: Run) -> None:
    """It says what is missing: code 2."""
    result = run("migrate", "grant", "--writer", "w", "--tenant", "ada", dsn="host=/nowhere")
    assert (2, "") == (result.exit_code, result.stdout)
    assert "Error: --tenant says what a reader may read; give --reader ROLE too\n" in result.stderr


def test_roles_for_each_purpose(run: Run, run_json: Callable[..., Any], provenance_dsn: str) -> None:
    """They are made, or found, and named."""
    prefix = f"provenance_{secrets.token_hex(4)}"
    made = [f"{prefix}_{purpose}" for purpose in ("owner", "writer", "reader", "maintainer")]
    try:
        result = run("migrate", "roles", "--prefix", prefix)
        assert (0, made, "") == (result.exit_code, result.stdout.splitlines(), result.stderr)
        assert {"roles": made} == run_json("migrate", "roles", "--prefix", prefix)
        assert (0, "no differences\n") == ((verified := run("migrate", "verify")).exit_code, verified.stdout)
    finally:
        with psycopg.connect(provenance_dsn, autocommit=True) as connection:
            for name in map(psycopg.sql.Identifier, made):
                connection.execute(psycopg.sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(name))
                connection.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def test_roles_are_made_by_one_who_may(run: Run, provenance_dsn: str, role: str) -> None:
    """Else it is code 4."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA provenance TO {role}".encode())
    result = run("migrate", "roles", dsn=psycopg.conninfo.make_conninfo(provenance_dsn, options=f"-c role={role}"))
    assert (4, "") == (result.exit_code, result.stdout)
    assert (
        "Error: this database role may not grant rights on the trail (permission denied for function" in result.stderr
    )


def test_grant_to_nobody(run: Run) -> None:
    """Without a role there is nothing to do: code 2."""
    result = run("migrate", "grant", dsn="host=/nowhere")
    assert (2, "") == (result.exit_code, result.stdout)
    assert "Error: give --writer ROLE, --reader ROLE or --maintainer ROLE\n" in result.stderr


def test_grant_is_all_or_nothing(run: Run, provenance_dsn: str, role: str) -> None:
    """A role that does not exist stops the others from getting theirs."""
    result = run("migrate", "grant", "--writer", role, "--reader", "nobody_\x1b")
    assert (
        2,
        "",
        "Error: there is no database role nobody_\\x1b; create it first, and run this again (no right was given)\n",
    ) == (result.exit_code, result.stdout, result.stderr)
    assert not _may(provenance_dsn, role, "INSERT")


def test_what_a_granted_writer_records_a_reader_sees(
    run: Run, run_json: Callable[..., Any], trail: Trail, provenance_dsn: str, role: str
) -> None:
    """The rights are enough for the commands that need them."""
    with trail.track_action("link_zman", concept="zman"):
        pass
    run("migrate", "grant", "--reader", role)
    dsn = psycopg.conninfo.make_conninfo(provenance_dsn, options=f"-c role={role}")
    assert ["link_zman"] == [action["action_type"] for action in run_json("log", dsn=dsn)["actions"]]


def test_sql_for_other_tools(run: Run) -> None:
    """Of all migrations, or from one version to another; no database is asked."""
    last = schema.known_migrations()[-1].version
    assert schema.script(0, last) == run("migrate", "sql", dsn="host=nowhere.invalid").stdout
    assert schema.script(5, 2) == run("migrate", "sql", "--from", "5", "--to", "2").stdout
    refused = run("migrate", "sql", "--from", "99")
    assert (1, True) == (refused.exit_code, "expected versions from 0 to" in refused.stderr)
