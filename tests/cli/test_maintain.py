"""``maintain`` and ``upkeep``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance import AsyncTrail, Recovery, Trail, TrailUnavailable
from provenance.archive import due_rows, ledger
from provenance.archive.ledger import Due
from provenance.cli.archive import leave
from provenance.cli.partition import Done
from provenance.cli.retention import retired
from provenance.journal import Spool
from provenance.journal.spool import Kind
from provenance.statements import Statement, nothing
from provenance.statements.recording import row_json
from provenance.statements.retention import Count
from tests.cli.conftest import Run
from tests.support import months, roles
from tests.support.months import first_of, insert
from tests.support.rows import action_row

Connection = psycopg.Connection[Any]

INSIDE = datetime(2021, 3, 9, tzinfo=UTC)
THIS_MONTH = f"{datetime.now(UTC):%Y_%m}"
IDLE = ["recover: nothing to do", "partitions: nothing to do", "statistics: nothing to do"]


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, to a database of which the tables are analyzed."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("ANALYZE provenance.actions, provenance.row_changes")
        yield connection


def lapse(owner: Connection, spool: Path) -> None:
    """Have everything due that can be: rows without a partition and in a spool, an action without an outcome, old rows."""
    for table in ("actions", "row_changes"):
        for number in (2, 3):
            months.make(owner, table, first_of(2021, number))
    for action_type in ("login", "login", "pay"):
        insert(owner, "actions", INSIDE, action_type=action_type)
    owner.execute(f"DROP TABLE provenance.actions_{THIS_MONTH}".encode())
    insert(owner, "actions", datetime.now(UTC), action_type="new")
    with owner.transaction(force_rollback=True):
        undone = owner.execute("SELECT pg_current_xact_id()::text").fetchone()
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at, work_xid, system_identifier)"
        " SELECT i, i, 'lost', 'c', now(), %s::xid8, provenance.system_identifier() FROM provenance.uuid_v7() i",
        undone,
    )
    Spool(spool).put(Kind.OUTCOME, [row_json(action_row(action_type="kept", status="failed"))])
    view(owner)


def view(owner: Connection) -> None:
    """Have a resolved view that was never refreshed."""
    owner.execute("CREATE MATERIALIZED VIEW seen AS SELECT id FROM work")
    owner.execute("CREATE UNIQUE INDEX ON seen (id)")
    owner.execute(
        "CREATE FUNCTION refresh_seen() RETURNS boolean LANGUAGE sql SECURITY DEFINER"
        " AS 'SELECT provenance.refresh_view(''seen'')'"
    )


def types(owner: Connection) -> list[str]:
    """Return the types of all actions but those of upkeep, sorted."""
    query = "SELECT action_type FROM provenance.action_log WHERE concept NOT IN ('trail', 'view') ORDER BY 1"
    return [row[0] for row in owner.execute(query).fetchall()]


def failures(errors: str) -> str:
    """Return standard error without warnings of months that get no partition before their rows are moved."""
    return "".join(
        line for line in errors.splitlines(keepends=True) if not line.startswith("Warning: no partition for ")
    )


def policy(dsn: str) -> None:
    with Trail(dsn) as trail:
        trail.set_retention("logins", keep=timedelta(days=90), action_type="login", reason="a law")


def test_nothing_to_do(run: Run, owner: Connection) -> None:
    """It says so."""
    done = run("maintain")
    assert (0, IDLE) == (done.exit_code, done.stdout.splitlines())


def test_what_is_due_is_done(run: Run, owner: Connection, provenance_dsn: str, tmp_path: Path) -> None:
    """Everything, in one go; and then there is nothing to do."""
    lapse(owner, tmp_path / "spool")
    policy(provenance_dsn)
    options = (
        "--spool",
        str(tmp_path / "spool"),
        "--refresh",
        "--retention",
        "--keep",
        "6",
        "--to",
        str(tmp_path / "a"),
    )
    done = run("maintain", *options, "--ahead", "7")
    assert (0, "") == (done.exit_code, done.stderr)
    lines = done.stdout.splitlines()
    assert [
        f"spool {tmp_path}/spool: 1 row(s) written that had been kept",
        "recover: 1 action(s) found to be rolled back",
    ] == lines[:2]
    assert f"partitions: 4 row(s) moved into actions_{THIS_MONTH}" == lines[2]
    assert ["partitions: actions_", "partitions: row_chan"] == [line[:20] for line in lines[3:5]]
    assert [
        "views: public.seen refreshed",
        "retention: actions 2021-03: 2 row(s) deleted, 0 archived, 0 kept by a hold",
        "archive: row_changes 2021-02 has left: 0 row(s)",
        "archive: actions 2021-02 has left: 0 row(s)",
        "archive: row_changes 2021-03 has left: 0 row(s)",
        "archive: actions 2021-03 has left: 1 row(s)",
        "statistics: nothing to do",
    ] == lines[5:]
    assert ["kept", "lost", "new"] == types(owner)
    again = run("maintain", *options, "--ahead", "7")
    assert {"nothing to do"} == {line.rpartition(": ")[2] for line in again.stdout.splitlines()}


def test_the_planner_looks_again_each_week(run_json: Callable[..., Any], provenance_dsn: str) -> None:
    """At the tables as a whole, which autovacuum does not."""
    for expected in (["actions analyzed", "row_changes analyzed"], []):
        (step,) = [step for step in run_json("maintain") if step["step"] == "statistics"]
        assert expected == step["done"]


def test_what_stands_in_the_way_of_one_step_is_not_in_that_of_others(
    run: Run, owner: Connection, provenance_dsn: str, tmp_path: Path
) -> None:
    """What failed is said in one sentence, and with exit code 1."""
    lapse(owner, tmp_path / "spool")
    policy(provenance_dsn)
    owner.execute("DROP INDEX seen_id_idx")
    with Trail(provenance_dsn) as trail:
        trail.place_hold("case", reason="a court", action_type="pay")
        trail.begin("open", concept="c")
    done = run("maintain", "--retention", "--refresh", "--keep", "0", "--to", str(tmp_path / "a"), "--json")
    assert 1 == done.exit_code
    assert "Error: views: public.seen is not refreshed:" in done.stderr
    assert "; archive: the legal hold case keeps some of actions of 2021-03" in done.stderr
    steps = {step["step"]: step for step in json.loads(done.stdout)}
    assert ["row_changes 2021-02 has left: 0 row(s)"] == steps["archive"]["done"][:1]
    assert ["seen"] == [str(steps["views"]["problem"])[7:11]]
    assert ["actions 2021-03: 2 row(s) deleted, 0 archived, 0 kept by a hold"] == steps["retention"]["done"]
    assert steps["retention"]["problem"] is None
    with Trail(provenance_dsn) as trail:
        trail.set_retention("all", keep=None, reason="r")
        trail.set_retention(
            "pay", keep=trail.retention_policies()[1].keep, action_type="new", outcome="archive", reason="r"
        )
        trail.release_hold("case", reason="settled")
    assert 0 == run("maintain", "--retention", "--keep", "6", "--to", str(tmp_path / "a")).exit_code


def test_what_nobody_can_know_is_said(run: Run, owner: Connection, provenance_dsn: str) -> None:
    """It is for somebody to decide."""
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at, doubt)"
        " SELECT i, i, 'lost', 'c', now(), 'nobody knows' FROM provenance.uuid_v7() i"
    )
    done = run("maintain")
    assert (0, True) == (
        done.exit_code,
        "recover: 1 action(s) of which nobody can say what became; `provenance log --status unknown` lists them"
        in done.stdout,
    )


def test_what_another_session_is_at_is_left_to_it(
    run: Run, owner: Connection, provenance_dsn: str, tmp_path: Path
) -> None:
    """That is nothing wrong."""
    lapse(owner, tmp_path / "spool")
    policy(provenance_dsn)
    with psycopg.connect(provenance_dsn) as erasing:
        erasing.execute("SELECT pg_advisory_xact_lock_shared(31651020444888674)")
        done = run("maintain", "--retention", "--keep", "6", "--to", str(tmp_path / "a"))
        assert (0, "") == (done.exit_code, failures(done.stderr))
        for step in ("partitions", "retention", "archive"):
            assert f"{step}: left for now, " in done.stdout
        assert "archive: left for now, rows that no policy keeps have not gone yet\n" in done.stdout
        assert 1 == run("partition").exit_code
    assert ["login", "login", "lost", "new", "pay"] == types(owner)
    assert 0 == run("maintain", "--retention", "--keep", "6", "--to", str(tmp_path / "a")).exit_code
    assert ["lost", "new"] == types(owner)


def test_a_view_that_another_session_refreshes(run: Run, owner: Connection, provenance_dsn: str) -> None:
    """It is left to that."""
    view(owner)
    with psycopg.connect(provenance_dsn) as refreshing:
        refreshing.execute("SELECT provenance.refresh_view('seen')")
        assert "views: nothing to do" in run("maintain", "--refresh").stdout.splitlines()
        refreshing.rollback()
    assert "views: public.seen refreshed" in run("maintain", "--refresh").stdout.splitlines()


def test_several_at_once(owner: Connection, provenance_dsn: str, tmp_path: Path) -> None:
    """Each thing is done once, by one of them, and all end well."""
    lapse(owner, tmp_path / "spool")
    policy(provenance_dsn)
    for number in range(4, 13):
        for table in ("actions", "row_changes"):
            months.make(owner, table, first_of(2021, number))
        insert(owner, "actions", datetime(2021, number, 9, tzinfo=UTC), action_type="login")
    command = [sys.executable, "-m", "provenance", "maintain", "--retention", "--refresh"]
    command += ["--spool", str(tmp_path / "spool"), "--keep", "6", "--to", str(tmp_path / "a")]
    environment = {"PROVENANCE_DSN": provenance_dsn, "PATH": "/usr/bin:/bin"}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [(0, "")] * 3 == [
        (process.returncode, failures(errors)) for process, errors in zip(processes, said, strict=True)
    ]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    assert ["kept", "lost", "new"] == types(owner)
    left = [(one.table, one.month) for one in ledger(owner)]
    assert (22, 22) == (len(left), len(set(left)))
    deleted = (
        "SELECT sum((result ->> 'deleted')::integer) FROM provenance.actions WHERE action_type = 'apply_retention'"
    )
    assert (11,) == owner.execute(deleted).fetchone()


def test_a_month_that_has_gone_meanwhile(owner: Connection, provenance_dsn: str, tmp_path: Path) -> None:
    """Another session has seen to it, and the next one is seen to."""
    months.make(owner, "actions", first_of(2021, 3))
    insert(owner, "actions", INSIDE, action_type="login")
    policy(provenance_dsn)
    past, here = datetime(2021, 2, 1, tzinfo=UTC).date(), datetime(2021, 3, 1, tzinfo=UTC).date()
    with Trail(provenance_dsn) as trail:
        counts = [Count("logins", "delete", None, 1)]
        done, problem = retired(trail, [("actions", past, counts), ("actions", here, counts)], None, ())
        assert ([1], None) == ([one.deleted for one in done], problem)
        due = [Due(table="actions", month=month, rows=None, bytes=0) for month in (past, here)]
        left, problems = leave(trail, due, tmp_path, (), 1.0)
        assert ([here], []) == ([one.month for one in left], problems)


def test_a_maintainer_may(run: Run, owner: Connection, provenance_dsn: str, tmp_path: Path) -> None:
    """What takes nothing away."""
    lapse(owner, tmp_path / "spool")
    with roles.writer(provenance_dsn) as (name, dsn):
        owner.execute("SELECT provenance.grant_maintainer(%s)", (name,))
        done = run("maintain", dsn=dsn)
        assert (0, f"partitions: 2 row(s) moved into actions_{THIS_MONTH}") == (
            done.exit_code,
            done.stdout.splitlines()[1],
        )
        refused = run("maintain", "--retention", dsn=dsn)
        assert (1, True) == (refused.exit_code, "Error: retention: this database role lacks a right" in refused.stderr)


def test_what_the_server_breaks_off_is_one_step(
    run: Run, owner: Connection, provenance_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has answered, so the others are done."""
    slow = Statement("SELECT pg_sleep(60)", None, nothing)
    monkeypatch.setattr("provenance.archive.retiring.statements.DUE_MONTHS", slow)
    done = run("maintain", "--retention", dsn=f"{provenance_dsn} options='-c statement_timeout=300'")
    assert (1, "Error: retention: canceling statement due to statement timeout\n") == (done.exit_code, done.stderr)
    assert "statistics: nothing to do" in done.stdout.splitlines()
    monkeypatch.setattr("provenance.archive.retiring.statements.DUE_MONTHS", Statement(_HANGING_UP, None, nothing))
    done = run("maintain", "--retention")
    assert (3, False) == (done.exit_code, "statistics" in done.stdout)


_HANGING_UP = "DO $$BEGIN RAISE EXCEPTION 'going down' USING ERRCODE = '57P01'; END$$"


def test_a_table_that_is_worked_on_is_not_looked_at(run: Run, provenance_dsn: str) -> None:
    """Nor said to have been."""
    with psycopg.connect(provenance_dsn) as other:
        other.execute("LOCK TABLE provenance.actions IN SHARE UPDATE EXCLUSIVE MODE")
        done = run("maintain")
    assert ["statistics: row_changes analyzed", "statistics: left for now, another session works on actions"] == (
        done.stdout.splitlines()[2:]
    )


def test_a_month_that_cannot_go_keeps_no_other(owner: Connection, provenance_dsn: str, tmp_path: Path) -> None:
    """What a policy archives waits for a directory, and what others delete goes."""
    for number, action_type in ((3, "pay"), (4, "login")):
        months.make(owner, "actions", first_of(2021, number))
        insert(owner, "actions", datetime(2021, number, 9, tzinfo=UTC), action_type=action_type)
    policy(provenance_dsn)
    with Trail(provenance_dsn) as trail:
        trail.set_retention("pay", keep=timedelta(days=9), action_type="pay", outcome="archive", reason="a law")
        done, problem = retired(trail, due_rows(trail), None, ())
    assert [1] == [one.deleted for one in done]
    assert "1 row(s) of actions of 2021-03 go to an archive, as their policies say; name its directory" == str(problem)


def test_misuse(run: Run) -> None:
    """Months leave for somewhere."""
    refused = run("maintain", "--keep", "6")
    assert (2, True) == (refused.exit_code, "--keep MONTHS needs --to DIR" in refused.stderr)


def test_no_database(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no going on without one, from the beginning or from some step on."""

    def lost(_trail: Trail) -> Recovery:
        raise TrailUnavailable("the server is gone")

    monkeypatch.setattr(Trail, "recover", lost)
    gone = run("maintain")
    assert (3, "", "Error: the server is gone\n") == (gone.exit_code, gone.stdout, gone.stderr)
    monkeypatch.undo()

    def refuse(*_: object) -> Done:
        raise psycopg.OperationalError("connection to server at x failed: nobody is there")

    monkeypatch.setattr("provenance.cli.maintain.keep_months", refuse)
    gone = run("maintain")
    assert (3, "recover: nothing to do\n") == (gone.exit_code, gone.stdout)
    assert 3 == run("maintain", dsn=f"host={tmp_path} connect_timeout=1").exit_code


# --- The report -------------------------------------------------------------------------------------------------------


def test_what_the_trail_takes(run: Run, run_json: Callable[..., Any], owner: Connection, tmp_path: Path) -> None:
    """To a person and to a program: tables, indexes and how often they were used, views, and growth."""
    lapse(owner, tmp_path / "spool")
    owner.execute("ANALYZE provenance.actions, provenance.row_changes")
    found = run_json("upkeep")
    tables = {table["table"]: table for table in found["tables"]}
    assert (8, "2021-02", -1, 4) == tuple(tables["actions"][what] for what in ("months", "oldest", "ahead", "rows"))
    assert (9, 6) == (tables["row_changes"]["months"], tables["row_changes"]["ahead"])
    for table in tables.values():
        assert 0 < table["index_bytes"] < table["bytes"]
    owner.execute("SELECT pg_stat_force_next_flush()")
    owner.execute("SET enable_seqscan = off")
    owner.execute("SELECT FROM provenance.actions WHERE user_id = 'ada'")
    owner.execute("SELECT pg_stat_force_next_flush()")
    indexes = {index["name"]: index for index in run_json("upkeep")["indexes"]}
    assert (9, False) == (indexes["actions_user"]["scans"], indexes["actions_user"]["unused"])
    assert indexes["actions_tenant"]["unused"]
    assert (True, False) == (indexes["open_blocks_pkey"]["unique"], indexes["open_blocks_pkey"]["unused"])
    assert (
        sum(index["bytes"] for index in indexes.values() if index["table"] == "actions")
        == tables["actions"]["index_bytes"]
    )
    assert ["public.seen"] == [view["view"] for view in found["views"]]
    shown = run("upkeep").stdout
    assert ["TABLE", "MONTHS", "SINCE", "AHEAD", "ROWS", "SIZE", "INDEXES", "A", "MONTH", "IN", "A", "YEAR"] == (
        shown.splitlines()[0].split()
    )
    assert "none" in shown.splitlines()[1]
    assert "This server counts since it began, or lost its counts. That it has not used an index yet" in shown
    assert "VIEW" in shown
    owner.execute("SELECT pg_stat_reset()")
    since = run_json("upkeep")["counted_since"]
    assert since is not None
    assert f"This server counts since {since[:10]}" in run("upkeep").stdout


@pytest.mark.anyio
async def test_the_report_in_python(provenance_dsn: str) -> None:
    """In both colours."""
    async with AsyncTrail(provenance_dsn) as later:
        found = await later.upkeep()
    with Trail(provenance_dsn) as trail:
        assert trail.upkeep().tables == found.tables
    assert ("actions", "row_changes") == tuple(table.table for table in found.tables)
