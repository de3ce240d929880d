"""``retention``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.cli.conftest import Run
from tests.support import months
from tests.support.months import first_of, insert


def some(dsn: str) -> None:
    """Have three actions of a month long past."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        months.make(owner, "actions", first_of(2021, 3))
        for action_type, user_id in (("login", "ada"), ("login", "bob"), ("pay", "ada")):
            insert(owner, "actions", datetime(2021, 3, 9, tzinfo=UTC), action_type=action_type, user_id=user_id)


def test_policies(run: Run, run_json: Callable[..., Any]) -> None:
    """Set, listed, replaced and removed; to a person and to a program."""
    assert "there is no policy: everything is kept for ever\n" == run("retention", "list").stdout
    said = run("retention", "set", "all", "--days", "365", "--reason", "a law")
    assert "the policy all keeps everything for 365 days, then deletes it\n" == said.stdout
    kind = ("--tenant", "", "--concept", "account", "--type", "login")
    said = run("retention", "set", "some", "--days", "9", "--reason", "a law", "--then", "archive", *kind)
    assert "the policy some keeps tenant '', concept account, type login for 9 days, then archives it\n" == said.stdout
    lines = run("retention", "list").stdout.splitlines()
    assert ["POLICY", "KEEPS", "HOW", "LONG", "REASON"] == lines[0].split()
    assert 3 == len(lines)
    assert [365, 9] == [one["days"] for one in run_json("retention", "list")]
    said = run("retention", "set", "ever", "--tenant", "vip", "--forever", "--reason", "a contract")
    assert "the policy ever keeps tenant vip for ever\n" == said.stdout
    assert 0 == run("retention", "remove", "ever", "--reason", "it ended").exit_code
    assert run_json("retention", "set", "some", "--forever", "--reason", "another law")["days"] is None
    assert "some" == run_json("retention", "remove", "some", "--reason", "no law")["name"]
    assert "the policy all is removed\n" == run("retention", "remove", "all", "--reason", "no law").stdout
    for options in ((), ("--days", "9", "--forever")):
        refused = run("retention", "set", "all", "--reason", "a law", *options)
        assert (2, True) == (refused.exit_code, "give one of --days N and --forever" in refused.stderr)


def test_what_has_to_go(run: Run, run_json: Callable[..., Any], provenance_dsn: str, tmp_path: Path) -> None:
    """It is said first; then it goes, except what is held; then there is nothing."""
    some(provenance_dsn)
    assert "nothing has to go\n" == run("retention", "run").stdout
    assert "nothing has to go\n" == run("retention", "run", "--execute").stdout
    assert 0 == run("retention", "set", "logins", "--type", "login", "--days", "90", "--reason", "a law").exit_code
    assert 0 == run("hold", "place", "case", "--user", "ada", "--reason", "a court").exit_code
    lines = [line.split() for line in run("retention", "run").stdout.splitlines()]
    assert [
        ["TABLE", "MONTH", "ROWS", "POLICY", "THEN"],
        ["actions", "2021-03", "1", "logins", "delete"],
        ["actions", "2021-03", "1", "logins", "kept", "by", "the", "hold", "case"],
        ["Nothing", "is", "done", "without", "--execute."],
    ] == lines
    assert ["logins", "logins"] == [one["policy"] for one in run_json("retention", "run")]
    done = run("retention", "run", "--execute")
    assert "actions 2021-03: 1 row(s) deleted, 0 archived, 1 kept by the hold case\n" == done.stdout
    # What is held is nothing to be done.
    assert [] == run_json("retention", "run", "--execute")
    assert 0 == run("hold", "release", "case", "--reason", "settled").exit_code
    assert 0 == run("retention", "set", "pay", "--days", "9", "--then", "archive", "--reason", "a law").exit_code
    refused = run("retention", "run", "--execute")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert (
        "Error: 1 row(s) of actions of 2021-03 go to an archive, as their policies say; name its directory\n"
        == refused.stderr
    )
    (gone,) = run_json("retention", "run", "--execute", "--to", str(tmp_path))
    assert ("2021-03", 1, 1, {}) == (gone["month"], gone["deleted"], gone["archived"], gone["held"])


def test_what_cannot_go(run: Run, provenance_dsn: str, tmp_path: Path) -> None:
    """It says why, and exits with 1."""
    some(provenance_dsn)
    assert 0 == run("retention", "set", "all", "--days", "90", "--reason", "a law").exit_code
    (tmp_path / "x.rows").write_text("nothing of ours")
    refused = run("retention", "run", "--execute", "--spool", str(tmp_path))
    assert (1, True) == (refused.exit_code, "nobody knows of which months it holds rows" in refused.stderr)


def test_blame_says_what_may_be_missing(run: Run, run_json: Callable[..., Any], provenance_dsn: str) -> None:
    """So that nobody is blamed for what somebody else did later."""
    with psycopg.connect(provenance_dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE t (id integer PRIMARY KEY, v text)")
        owner.execute("SELECT provenance.capture_table('t')")
        owner.execute("INSERT INTO t VALUES (1, 'a')")
        owner.execute("UPDATE provenance.captured_tables SET incomplete_until = '2021-03-09Z'")
    told = run("blame", "t", "1")
    assert (
        "Row changes until 2021-03-09 00:00:00.000Z may have left the database: of what is told of an earlier one, "
        "neither who nor the value nor the end of the row need be the last.\n"
    ) == told.stderr
    assert "2021-03-09T00:00:00+00:00" == run_json("blame", "t", "1")["incomplete_until"]
    told = run("changes", "t", "1")
    assert (
        "Row changes until 2021-03-09 00:00:00.000Z may have left the database, and are not listed then.\n"
        == told.stderr
    )
    assert "2021-03-09T00:00:00+00:00" == run_json("changes", "t", "1")["incomplete_until"]
