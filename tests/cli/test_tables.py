"""``stamp``, ``capture``, ``adopt``, ``coverage``, ``changes``, ``blame`` and ``as-of``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from provenance.cli.output import moment
from provenance.trail import Trail
from tests.cli.conftest import Run


@pytest.fixture
def eye(provenance_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another connection, in autocommit mode."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield connection


def said(run: Run, *arguments: str, **options: Any) -> str:
    result = run(*arguments, **options)
    assert (0, "") == (result.exit_code, result.stderr)
    return result.stdout


def test_stamp_and_undo(run: Run, eye: psycopg.Connection[Any]) -> None:
    """Each says what is so now."""
    assert said(run, "stamp", "work", "--strict") == "work is stamped.\n"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        eye.execute("INSERT INTO work (id) VALUES (1)")
    assert said(run, "stamp", "work", "--undo", "--yes") == "work is not stamped any more.\n"
    eye.execute("INSERT INTO work (id) VALUES (1)")


def test_undoing_stamps_asks_first(run: Run, eye: psycopg.Connection[Any]) -> None:
    """It says what is lost, on standard error; no, and nobody there to answer, is code 1 and changes nothing."""
    eye.execute("CREATE TABLE half (id integer, created_by_action_id uuid)")
    question = (
        "This drops updated_by_action_id of half, with what is in it. Go on? [y/N]: ",
        "This drops created_by_action_id, updated_by_action_id of work, with what is in them. Go on? [y/N]: ",
    )
    for table, asked in zip(("half", "work"), question, strict=True):
        said(run, "stamp", table)
        for answer in ("n\n", ""):
            result = run("stamp", table, "--undo", answer=answer)
            assert (1, "") == (result.exit_code, result.stdout)
            assert asked in result.stderr
            assert "stamped" in run("coverage").stdout
        result = run("stamp", table, "--undo", answer="y\n")
        assert (0, f"{table} is not stamped any more.\n") == (result.exit_code, result.stdout)


def test_undoing_stamps_does_not_ask_where_nothing_is_lost(run: Run, eye: psycopg.Connection[Any]) -> None:
    """The columns were there before the stamps, or there are none."""
    eye.execute("CREATE TABLE own (id integer, created_by_action_id uuid, updated_by_action_id uuid)")
    said(run, "stamp", "own")
    assert said(run, "stamp", "own", "--undo") == "own is not stamped any more.\n"
    result = run("stamp", "own", "--undo")
    assert (1, "Error: public.own is not stamped\n") == (result.exit_code, result.stderr)


def test_capture_adopt_and_release(run: Run, eye: psycopg.Connection[Any]) -> None:
    """Each says what is so now."""
    eye.execute("INSERT INTO work (id) VALUES (1), (2)")
    assert said(run, "capture", "work", "--mask", "action_id", "--keep", "secret") == "work is captured.\n"
    assert said(run, "adopt", "work") == "2 rows of work adopted.\n"
    assert said(run, "capture", "work", "--release") == "work is not captured any more.\n"


SQL_NAME = "is no name in SQL; write a part with spaces, capitals or signs in double quotes"


@pytest.mark.parametrize("command", ["stamp", "stamp --undo", "capture", "capture --release", "adopt", "changes"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Weird Table", f"""Weird Table {SQL_NAME}, as in '"Weird Table"'"""),
        ("app.a b", f"""app.a b {SQL_NAME}, as in 'app."a b"'"""),
        ('"a', f"""\"a {SQL_NAME}, as in '"My Table"'"""),
        ("", "expected the name of a table, got an empty text"),
    ],
)
def test_a_text_that_is_no_name_is_refused_with_the_name_that_is_meant(
    run: Run, command: str, name: str, message: str
) -> None:
    """As every command would have it."""
    first, *options = command.split()
    result = run(first, *options, name, *(["1"] if first == "changes" else []))
    assert result.stderr in {f"Error: {message}\n", f"Error: table: {message}\n"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stamp", "work", "--undo", "--strict"], "--strict does not go with --undo"),
        (["stamp", "work", "--undo", "--strict", "--sql"], "--strict does not go with --undo"),
        (["capture", "work", "--release", "--mask", "secret"], "--mask does not go with --release"),
        (
            ["capture", "work", "--release", "--exclude", "a", "--keep", "b"],
            "--exclude, --keep do not go with --release",
        ),
        (["capture", "work", "--release", "--max-bytes", "32768"], "--max-bytes does not go with --release"),
        (
            ["capture", "work", "--mask", "secret", "--exclude", "secret"],
            "exclude and mask both name the column secret; name it in one of them only",
        ),
        (
            ["capture", "work", "--mask", "secret", "--keep", "secret", "--sql"],
            "mask and keep both name the column secret; name it in one of them only",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(run: Run, arguments: list[str], message: str) -> None:
    """Nobody could tell which one is meant: wrong usage, and nothing was changed."""
    result = run(*arguments)
    assert (2, f"Error: {message}") == (result.exit_code, result.stderr.splitlines()[-1])
    assert ["public.work", "no"] == run("coverage").stdout.split()[-2:]


def test_a_refusal_is_one_sentence(run: Run) -> None:
    """On standard error, with the exit code for bad news."""
    result = run("capture", "nope")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: there is no table nope; write its name with its schema, unless that is in the search path\n",
    )
    result = run("changes", "work", "1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: row changes of public.work have never been captured;")


def test_the_sql_for_migrations_of_ones_own_does_the_same(run: Run, eye: psycopg.Connection[Any]) -> None:
    """Printed, and then run by somebody else, up and down."""
    for arguments in (
        ["stamp", "work", "--strict"],
        ["capture", "work", "--exclude", "action_id", "--max-bytes", "100"],
        ["stamp", "work", "--undo"],
        ["capture", "work", "--release"],
    ):
        printed = said(run, *arguments, "--sql")
        assert printed.startswith("SELECT provenance.")
        eye.execute(printed.encode())
    settings = eye.execute("SELECT excluded, masked, kept, max_bytes FROM provenance.captured_tables").fetchall()
    kept = ["id", "created_by_action_id", "updated_by_action_id"]
    assert settings == [(["action_id"], ["secret"], kept, 100)]


def test_the_sql_keeps_names_as_they_are(run: Run, eye: psycopg.Connection[Any]) -> None:
    """White space inside a quoted name belongs to it, and so do percent signs."""
    eye.execute('CREATE TABLE "a  b" (id integer PRIMARY KEY, "c \t\n d %s" text)')
    for arguments in (["stamp", '"a  b"'], ["capture", '"a  b"', "--mask", "c \t\n d %s"]):
        eye.execute(said(run, *arguments, "--sql").encode())
    assert eye.execute("SELECT table_name, masked FROM provenance.captured_tables").fetchall() == [
        ('public."a  b"', ["c \t\n d %s"])
    ]


def test_coverage(run: Run, run_json: Callable[..., Any], trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """As a table and as JSON."""
    eye.execute("CREATE TABLE other (id integer PRIMARY KEY); CREATE TABLE third (id integer)")
    trail.stamp("work")
    trail.stamp("third")
    trail.capture("work")
    eye.execute("INSERT INTO work (id) VALUES (1)")
    lines = said(run, "coverage").splitlines()
    assert [line.split("  ")[0] for line in lines] == ["TABLE", "public.other", "public.third", "public.work"]
    assert "stamped, captured" in lines[3]
    assert "100.0 %" in lines[3]
    assert lines[3].endswith("by postgres")
    assert "no rows" in lines[2]
    work = run_json("coverage")[2]
    assert (work["table"], work["untracked_rows"], work["captured"]) == ("public.work", 1, True)


def test_gaps_of_the_coverage(
    run: Run, run_json: Callable[..., Any], trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """Below the table, what is wrong with each that has any."""
    trail.capture("work")
    eye.execute("ALTER TABLE work DISABLE TRIGGER provenance_capture_truncate")
    lines = said(run, "coverage").splitlines()
    assert lines[1].split() == ["public.work", "no,", "with", "gaps"]
    assert lines[2:] == ["public.work: disabled on public.work: capture_truncate"]
    assert run_json("coverage")[0]["gaps"] == ["disabled on public.work: capture_truncate"]


@pytest.fixture
def history(trail: Trail, eye: psycopg.Connection[Any]) -> Any:
    """A table with a few changes, and the action that made most of them."""
    eye.execute("""CREATE TABLE t (id integer, part text, name text, more bytea, data jsonb, born date,
                                   PRIMARY KEY (id, part));
                   INSERT INTO t (id, part) VALUES (9, 'old')""")
    trail.capture("t", max_bytes=100)
    with trail.track_action("make", concept="t", user_id="dvora") as action:
        action.connection.execute(
            "INSERT INTO t VALUES (1, 'a', 'x', %s, '{\"k\": [1, null]}', '2026-01-02')", (b"\0",)
        )
        action.connection.execute("UPDATE t SET name = %s WHERE id = 1", ("y" * 90,))
        action.connection.execute("UPDATE t SET id = 2 WHERE id = 1")
    eye.execute("UPDATE t SET name = %s WHERE id = 2", ("z" * 200,))
    return action


def test_changes_of_a_row(run: Run, run_json: Callable[..., Any], history: Any) -> None:
    """Newest first, what changed and by whom; as JSON whole."""
    lines = said(run, "changes", "t", "2", "a", terminal=None).splitlines()
    assert len(lines) >= 3
    text = " ".join(lines)
    assert "200 bytes" in text
    assert "(1,a) → (2,a)" in text
    assert "none, by postgres" in text
    document = run_json("changes", "t", "1", "a")
    assert document["next"] is None
    assert [change["operation"] for change in document["changes"]] == ["update", "update", "insert"]
    insert = document["changes"][2]
    assert insert["new"] == {
        "id": 1,
        "part": "a",
        "name": "x",
        "more": "\\x00",
        "data": {"k": [1, None]},
        "born": "2026-01-02",
    }
    assert insert["action_id"] == str(history.id)
    (newest, _) = run_json("changes", "t", "2", "a")["changes"]
    assert newest["new"]["name"]["$truncated"]["bytes"] == 200


def test_changes_in_pages(run: Run, history: Any) -> None:
    """Standard error says how to go on."""
    result = run("changes", "t", "1", "a", "--limit", "2")
    before = result.stderr.rpartition("--before ")[2].strip()
    assert result.stderr.startswith("There are older ones: add --before ")
    assert "insert" in said(run, "changes", "t", "1", "a", "--before", before)
    result = run("changes", "--action", str(history.id), "--limit", "1")
    after = result.stderr.rpartition("--after ")[2].strip()
    assert result.stderr.startswith("There are later ones: add --after ")
    assert "insert" not in said(run, "changes", "--action", str(history.id), "--after", after, "--alone")


def test_no_changes(run: Run, history: Any) -> None:
    """Said on standard error."""
    result = run("changes", "t", "7", "a")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No changes found.\n")


@pytest.mark.parametrize("arguments", [["changes"], ["changes", "t"], ["changes", "t", "1", "--action", str(b"")]])
def test_changes_of_nothing_in_particular(run: Run, arguments: list[str]) -> None:
    """Wrong usage."""
    assert run(*arguments).exit_code == 2


def test_blame(run: Run, run_json: Callable[..., Any], history: Any) -> None:
    """Per column: the value, since when, by what action and user."""
    text = " ".join(said(run, "blame", "t", "2", "a").split())
    assert f"make {history.id}" in text
    assert "dvora" in text
    assert "none, by postgres" in text
    blame = {entry["column"]: entry for entry in run_json("blame", "t", "2", "a")["columns"]}
    assert blame["more"]["action"]["user_id"] == "dvora"
    assert blame["name"]["action"] is None
    result = run("blame", "t", "7", "a")
    assert (result.exit_code, result.stderr) == (1, "Error: no change of t 7 a is stored\n")


def test_blame_of_a_row_that_is_gone(
    run: Run, run_json: Callable[..., Any], trail: Trail, history: Any, eye: psycopg.Connection[Any]
) -> None:
    """The first line says so, with when, by what and by whom; and so does JSON."""
    gone = {}
    for end in ("UPDATE t SET id = 3 WHERE id = 2", "DELETE FROM t WHERE id = 3", "TRUNCATE t"):
        with trail.track_action("end", concept="t", user_id="a\x1bb") as action:
            action.connection.execute(end)
        gone[end] = action.id
    for key, how, action_id in zip(
        (["2", "a"], ["3", "a"], ["9", "old"]),
        ("got the key (3,a)", "was deleted", "was removed by TRUNCATE"),
        gone.values(),
        strict=True,
    ):
        first, heads, *_ = said(run, "blame", "t", *key).splitlines()
        ended = run_json("blame", "t", *key)["ended"]
        at = datetime.fromisoformat(ended["change"]["recorded_at"])
        assert first == f"This row {how} at {moment(at)} by end {action_id}, user a\\x1bb."
        assert heads.startswith("COLUMN")
        assert (ended["action"]["id"], ended["change"]["action_id"]) == (str(action_id), str(action_id))


def test_blame_of_a_row_that_went_outside_any_recorded_action(
    run: Run, run_json: Callable[..., Any], history: Any, eye: psycopg.Connection[Any]
) -> None:
    """Who did it is told as far as it is known; and nothing of the kind once there is a row again."""
    with eye.transaction():
        eye.execute("SELECT provenance.set_context('00000000-0000-7000-8000-000000000001')")
        eye.execute("DELETE FROM t WHERE id = 9")
    eye.execute("DELETE FROM t WHERE id = 2")
    assert said(run, "blame", "t", "9", "old").splitlines()[0].endswith("Z by 00000000-0000-7000-8000-000000000001.")
    assert said(run, "blame", "t", "2", "a").splitlines()[0].endswith("Z outside any action, by postgres.")
    assert run_json("blame", "t", "2", "a")["ended"]["action"] is None
    eye.execute("INSERT INTO t VALUES (2, 'a')")
    assert run_json("blame", "t", "2", "a")["ended"] is None
    assert said(run, "blame", "t", "2", "a").startswith("COLUMN")


def test_blame_of_what_is_older_than_the_capture(
    run: Run, run_json: Callable[..., Any], history: Any, eye: psycopg.Connection[Any]
) -> None:
    """Said so; and an action that has no row yet is named by its id."""
    with eye.transaction():
        eye.execute("SELECT provenance.set_context('00000000-0000-7000-8000-000000000001')")
        eye.execute("UPDATE t SET name = 'n' WHERE id = 9")
    text = said(run, "blame", "t", "9", "old")
    assert "before the capture" in text
    assert "00000000-0000-7000-8000-000000000001" in text
    assert run_json("blame", "t", "9", "old")["columns"][0]["change"] is None


def test_as_of(run: Run, run_json: Callable[..., Any], history: Any, eye: psycopg.Connection[Any]) -> None:
    """A row, or the whole table."""
    (at,) = eye.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert at is not None
    eye.execute("DELETE FROM t WHERE id = 2")
    when = at.isoformat()
    assert [row["id"] for row in run_json("as-of", when, "t")] == [2, 9]
    assert run_json("as-of", when, "t", "2", "a")[0]["born"] == "2026-01-02"
    lines = said(run, "as-of", when, "t").splitlines()
    assert lines[0].split() == ["id", "part", "name", "more", "data", "born"]
    result = run("as-of", when, "t", "7", "a")
    assert (result.exit_code, result.stderr) == (0, "No rows found.\n")


def test_values_are_shown_as_json(run: Run, trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Not as Python has them: documents, lists and truth values, in every command that shows values."""
    eye.execute("CREATE TABLE j (id integer PRIMARY KEY, data jsonb, tags text[], ok boolean, no text)")
    trail.capture("j")
    eye.execute("""INSERT INTO j VALUES (1, '{"n": null, "s": "é", "ok": true}', '{a,NULL}', true)""")
    shown = {"data": '{"n": null, "s": "é", "ok": true}', "tags": '["a", null]', "ok": "true"}
    for arguments in (["changes", "j", "1"], ["blame", "j", "1"], ["as-of", "0s", "j"]):
        text = said(run, *arguments)
        assert [value in text for value in shown.values()] == [True, True, True]
        assert "None" not in text
        assert "True" not in text
