"""Errors: one sentence, a documented code, and nothing that was secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import click.testing
import psycopg
import pytest
from psycopg import conninfo, sql

from provenance.cli.app import cli
from provenance.cli.problems import Problem, translated
from provenance.errors import (
    InvalidAction,
    MigrationError,
    NotConfigured,
    ProvenanceError,
    SchemaNotReady,
    TrailUnavailable,
)
from provenance.ids import new_id
from tests.cli.conftest import Run


@pytest.fixture
def powerless(provenance_server: str, provenance_dsn: str) -> Iterator[str]:
    """Yield the address of this test's database as a role without any right."""
    name = f"powerless_{new_id().hex}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield conninfo.make_conninfo(provenance_dsn, options=f"-c role={name}")
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def _unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says where to give one."""
    monkeypatch.delenv("PROVENANCE_DSN", raising=False)
    result = click.testing.CliRunner().invoke(cli, ["log"])
    assert (2, "", "Error: no database address; give --dsn, or set PROVENANCE_DSN\n") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


def test_the_address_may_come_from_the_environment(provenance_dsn: str) -> None:
    """PROVENANCE_DSN does what --dsn does."""
    result = click.testing.CliRunner().invoke(cli, ["log"], env={"PROVENANCE_DSN": provenance_dsn})
    assert (0, "", "No actions found.\n") == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("dsn", ["hunter2", "postgresql://me:hun%zzter2@db/app", "password hunter2"])
def test_a_malformed_address_is_not_quoted(run: Run, dsn: str) -> None:
    """Any part of it may be a piece of the password."""
    result = run("log", dsn=dsn)
    assert (
        2,
        "",
        "Error: the database address is malformed; expected postgresql://user@host/database, or host=... dbname=...\n",
    ) == (result.exit_code, result.stdout, result.stderr)


def test_nobody_listens(run: Run) -> None:
    """A database that cannot be reached is code 3, with the system's reason and without the address."""
    result = run("log", dsn=f"host=127.0.0.1 port={_unused_port()} password=hunter2")
    assert (3, "", "Error: the database cannot be reached, or broke off: Connection refused\n") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


@pytest.mark.parametrize(
    "command", [["log"], ["status"], ["stamp", "a"], ["capture", "a"], ["adopt", "a"], ["refresh"]]
)
def test_the_database_does_not_exist(run: Run, provenance_dsn: str, command: list[str]) -> None:
    """The server's own reason is passed on, by commands that record an action too, and at once."""
    result = run(*command, dsn=conninfo.make_conninfo(provenance_dsn, dbname="nowhere"))
    assert (3, 'Error: the database cannot be reached, or broke off: database "nowhere" does not exist\n') == (
        result.exit_code,
        result.stderr,
    )


@pytest.mark.parametrize(
    "command", [["log"], ["history", "a", "b"], ["show", str(new_id())], ["migrate", "grant", "--reader", "a"]]
)
def test_a_database_without_the_schema(run: Run, empty_dsn: str, command: list[str]) -> None:
    """It is code 4, and the remedy is named."""
    result = run(*command, dsn=empty_dsn)
    assert (
        4,
        "",
        "Error: the provenance schema is missing in this database, or too old; run `provenance migrate up`\n",
    ) == (result.exit_code, result.stdout, result.stderr)


def test_whoever_only_records_may_know_that_the_schema_fits(run: Run, powerless: str) -> None:
    """The views are for those who read; that is said, and no failure."""
    result = run("status", dsn=powerless)
    assert (0, "The schema is at version 7, as needed.\n") == (result.exit_code, result.stdout)
    assert result.stderr.startswith(
        "The views are not looked at: this database role lacks a right that reading the state"
    )


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["log"], "reading the trail"),
        (["coverage"], "reading the coverage"),
    ],
)
def test_a_role_that_may_not_read(run: Run, powerless: str, command: list[str], what: str) -> None:
    """It is code 4, and the remedy is named: the rights of a reader."""
    result = run(*command, dsn=powerless)
    assert (
        4,
        "",
        (
            f"Error: this database role lacks a right that {what} needs (permission denied for schema provenance); connect "
            "as another role, or have the owner of the schema run `provenance migrate grant --reader ROLE`\n"
        ),
    ) == (result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def writer(powerless: str, provenance_dsn: str) -> Iterator[str]:
    """Yield the address of this test's database as a role that may record actions and no more."""
    role = conninfo.conninfo_to_dict(powerless)["options"].removeprefix("-c role=")
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("SELECT provenance.grant_writer(%s)", (role,))
        yield powerless
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (["stamp", "work"], "stamp_table"),
        (["stamp", "work", "--undo"], "unstamp_table"),
        (["capture", "work"], "capture_table"),
        (["capture", "work", "--release"], "release_table"),
        (["adopt", "work"], "adopt_table"),
    ],
)
def test_a_role_that_may_not_stamp_or_capture(run: Run, writer: str, command: list[str], function: str) -> None:
    """It is code 4, and says which role may; the attempt is on the trail."""
    result = run(*command, dsn=writer)
    assert (
        4,
        "",
        (
            f"Error: this database role lacks a right to do this to work (permission denied for function {function}); "
            "connect as the role that ran `provenance migrate up`, which must own the table or be a member of the role "
            "that does, or as a superuser\n"
        ),
    ) == (result.exit_code, result.stdout, result.stderr)
    assert f"{function.removesuffix('_table')}_table" in run("log", "--status", "failed").stdout


def test_the_owner_of_the_trail_alone_may_not_stamp_the_tables_of_others(
    run: Run, powerless: str, provenance_dsn: str
) -> None:
    """The remedy is the same, and so is the code."""
    role = sql.Identifier(conninfo.conninfo_to_dict(powerless)["options"].removeprefix("-c role="))
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("GRANT ALL ON SCHEMA provenance TO {}").format(role))
        connection.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA provenance TO {}").format(role))
        connection.execute(sql.SQL("GRANT ALL ON ALL FUNCTIONS IN SCHEMA provenance TO {}").format(role))
        result = run("stamp", "work", dsn=powerless)
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
    assert 4 == result.exit_code
    assert "(permission denied for table work); connect as the role that ran" in result.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["up"], "the ledger of migrations cannot be read: permission denied for schema provenance"),
        (
            ["down", "--to", "0", "--yes"],
            "the ledger of migrations cannot be read: permission denied for schema provenance",
        ),
        (["status"], "the ledger of migrations cannot be read: permission denied for schema provenance"),
    ],
)
def test_a_role_that_may_not_migrate(run: Run, powerless: str, command: list[str], message: str) -> None:
    """It is code 4, and no migration is said to have failed that was applied long ago."""
    result = run("migrate", *command, dsn=powerless)
    assert (4, "", f"Error: {message}; connect as the role that owns the schema provenance\n") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )


def test_a_role_that_may_not_make_the_schema(run: Run, powerless: str, empty_dsn: str) -> None:
    """It is code 4, and says what it takes."""
    result = run("migrate", "up", dsn=powerless)
    assert 4 == result.exit_code
    assert result.stderr.startswith(
        "Error: migration 0001 (actions) failed and changed nothing: permission denied for database"
    )
    assert result.stderr.endswith("; connect as a role that has CREATE on the database\n")


def test_a_role_that_may_only_look_at_the_ledger(run: Run, writer: str, provenance_dsn: str) -> None:
    """That all is applied does not make the partitions."""
    role = sql.Identifier(conninfo.conninfo_to_dict(writer)["options"].removeprefix("-c role="))
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("GRANT SELECT ON provenance.migrations TO {}").format(role))
    result = run("migrate", "up", dsn=writer)
    assert (
        4,
        (
            "Error: making partitions failed and changed nothing: permission denied for function ensure_partitions; connect "
            "as the role that owns the schema provenance\n"
        ),
    ) == (result.exit_code, result.stderr)


def test_a_role_that_may_not_make_the_database_of_the_demo(run: Run, powerless: str) -> None:
    """It is code 4; no right on the trail would help."""
    result = run("demo", dsn=powerless)
    assert (
        4,
        "",
        (
            "Error: the demo makes a database of its own, and this role may not (permission denied to create database); "
            "connect as a role that has CREATEDB, or give no address, for an embedded server\n"
        ),
    ) == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SchemaNotReady("too old"), 4, "too old"),
        (MigrationError("edited"), 1, "edited"),
        (TrailUnavailable("down"), 3, "down"),
        (NotConfigured("no extra"), 2, "no extra"),
        (InvalidAction("empty"), 2, "empty"),
        (ProvenanceError("a\x1b[2Jb\nc"), 2, r"a\x1b[2Jb\nc"),
        (
            psycopg.errors.InsufficientPrivilege("no"),
            4,
            "the database refused: InsufficientPrivilege; connect as a role that has this right",
        ),
        (
            psycopg.OperationalError("failed to resolve host 'hunter2@db': [Errno -2] Name or service not known"),
            3,
            "the database cannot be reached, or broke off: its host name is not known",
        ),
        (
            psycopg.OperationalError(
                "Multiple connection attempts failed. All failures were:\n- host: 'db', port: '5', hostaddr: '::1': "
                'connection failed: connection to server at "::1", port 5 failed: FATAL:  too many clients already\n'
                "- host: 'db', port: '5', hostaddr: '127.0.0.1': connection failed: connection to server at \"127.0.0.1\""
            ),
            3,
            "the database cannot be reached, or broke off: too many clients already",
        ),
        (
            psycopg.errors.ConnectionTimeout("connection to hunter2 timed out"),
            3,
            "the database cannot be reached, or broke off: ConnectionTimeout",
        ),
    ],
)
def test_each_kind_of_error_has_its_code(error: Exception, code: int, sentence: str) -> None:
    """What the library and the driver raise becomes a sentence that a terminal can show."""
    with pytest.raises(Problem) as problem, translated():
        raise error
    assert (code, sentence) == (problem.value.exit_code, problem.value.format_message())


def test_a_bug_is_not_dressed_up() -> None:
    """Other exceptions keep their traceback."""
    with pytest.raises(KeyError), translated():
        raise KeyError("bug")


def test_a_role_that_may_not_grant(run: Run, powerless: str) -> None:
    """It is code 4 too, and says who may."""
    result = run("migrate", "grant", "--reader", "postgres", dsn=powerless)
    assert (
        4,
        (
            "Error: this database role may not grant rights on the trail (permission denied for schema provenance); connect "
            "as the role that owns the schema provenance\n"
        ),
    ) == (result.exit_code, result.stderr)


@pytest.mark.parametrize("command", [["log"], ["migrate", "up"]])
def test_the_address_stands_before_the_command(run: Run, command: list[str]) -> None:
    """After it, it is refused with its place instead of with other options that look alike."""
    result = run(*command, "--dsn", "dbname=app", dsn="")
    assert (2, "Error: --dsn stands before the command: provenance --dsn ADDRESS " + " ".join(command)) == (
        result.exit_code,
        result.stderr.splitlines()[-1],
    )
    assert "No such option" in run(*command, "--nope", dsn="").stderr
