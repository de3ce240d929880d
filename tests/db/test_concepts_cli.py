"""``provenance concept sql``: what it prints, what it does, and what it says of a file that it cannot use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import psycopg
import pytest

from provenance.cli.app import cli
from provenance.cli.concept import load
from provenance.concepts import Attribute, Concept, Reference, down_sql, linked, plan, up_sql

Run = Callable[..., click.testing.Result]

USER = Concept(name="user", attributes=[Attribute(name="name", type="text")])
NOTE = Concept(name="note", references=[Reference(column="user_id", to="user")])
DECLARED = """
from provenance.concepts import Attribute, Concept, Reference

user = Concept(name="user", attributes=[Attribute(name="name", type="text")])
note = Concept(name="note", references=[Reference(column="user_id", to="user")])
"""
CHANGED = DECLARED.replace("type=", "nullable=True, type=")
SHORTER = DECLARED.replace('attributes=[Attribute(name="name", type="text")]', "")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, in which a file and a module declare two concepts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVENANCE_DSN", raising=False)
    (tmp_path / "concepts.py").write_text(DECLARED, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    """Return what runs the command on a file, or on whatever else is given."""

    def invoke(*arguments: str, dsn: str | None = None, text: str | None = None) -> click.testing.Result:
        if text is not None:
            (home / "concepts.py").write_text(text, encoding="utf-8")
        if not any(argument[0] != "-" for argument in arguments):
            arguments = ("concepts.py", *arguments)
        address = [] if dsn is None else ["--dsn", dsn]
        return click.testing.CliRunner().invoke(
            cli, [*address, "concept", "sql", *arguments], catch_exceptions=False, prog_name="provenance"
        )

    return invoke


def test_it_prints_the_sql_of_all_concepts_in_a_file(run: Run) -> None:
    """Up and down, without a database."""
    up, down = run(), run("--down")
    assert (0, up_sql(USER, NOTE), "") == (up.exit_code, up.stdout, up.stderr)
    assert (0, down_sql(USER, NOTE), "") == (down.exit_code, down.stdout, down.stderr)
    assert {"sql": up_sql(USER, NOTE)} == json.loads(run("--json").stdout)


def test_one_of_several_concepts(run: Run) -> None:
    """It is linked with the others, which are not printed."""
    assert ["note"] == [declared.name for declared in load("concepts.py:note")]
    printed = run("concepts.py:note").stdout
    assert "CREATE TABLE public.notes (" in printed
    assert "LEFT JOIN public.users" in printed
    assert "CREATE TABLE public.users" not in printed


def test_a_list_of_concepts(home: Path) -> None:
    """At the top level, each once; by its name too, where it need not be at the top level otherwise."""
    (home / "concepts.py").write_text(DECLARED + "both = [user, note]\nother = [1]\n", encoding="utf-8")
    assert ["user", "note"] == [declared.name for declared in load("concepts.py")]
    assert ["user", "note"] == [declared.name for declared in load("concepts.py:both")]


def test_a_module(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported from where the person is, even where that is not on the path."""
    package = home / "shop_for_concepts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "declared.py").write_text(DECLARED, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(home))])
    before = list(sys.path)
    assert ["user", "note"] == [declared.name for declared in load("shop_for_concepts.declared")]
    assert ["user"] == [declared.name for declared in load("shop_for_concepts.declared:user")]
    assert before == sys.path


def test_what_stands_beside_a_file_can_be_imported(home: Path) -> None:
    """As when Python runs it; and nothing is left behind."""
    (home / "beside_concepts.py").write_text(DECLARED, encoding="utf-8")
    (home / "deep.py").write_text("from beside_concepts import user\n", encoding="utf-8")
    before = list(sys.path)
    assert ["user"] == [declared.name for declared in load(str(home / "deep.py"))]
    assert before == sys.path
    assert not [name for name in sys.modules if name.startswith("provenance_declared_in")]


def test_linked_concepts_beside_what_they_were_linked_from(home: Path) -> None:
    """They are the same ones, whichever stands first."""
    both = "from provenance.concepts import linked\nboth = linked(user, note)\n"
    (home / "concepts.py").write_text(DECLARED + both, encoding="utf-8")
    (home / "linked_first.py").write_text("from concepts import both, note, user\n", encoding="utf-8")
    for source in ("concepts.py", "concepts.py:both", "linked_first.py"):
        assert list(linked(USER, NOTE)) == load(source)
    assert [linked(USER, NOTE)[1]] == load("concepts.py:note")


def test_two_declarations_of_one_concept(home: Path, run: Run) -> None:
    """They are not the same one."""
    other = DECLARED + "other = Concept(name='user')\n"
    assert "Error: two concepts are named user; rename one\n" == run(text=other).stderr


def test_a_path_with_colons(home: Path) -> None:
    """What follows the last one is a name only if the path is whole without it."""
    (home / "d:r").mkdir()
    for path in (home / "a:b.py", home / "d:r" / "c.py"):
        path.write_text(DECLARED, encoding="utf-8")
        assert ["user", "note"] == [declared.name for declared in load(str(path))]
        assert ["user"] == [declared.name for declared in load(f"{path}:user")]


@pytest.mark.parametrize(
    "change", ["sys.path.insert(0, '/nowhere')", "sys.path.pop(0)", "sys.path.insert(0, '/nowhere'); sys.path.pop(1)"]
)
def test_a_file_that_changes_the_path(home: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Its own changes stay, and ours does not."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    expected = ["/nowhere"] * ("insert" in change) + sys.path
    (home / "concepts.py").write_text(f"import sys\n{change}\n{DECLARED}", encoding="utf-8")
    load("concepts.py")
    assert expected == sys.path


def test_changes_and_apply(run: Run, provenance_dsn: str) -> None:
    """What differs is printed, then done, and then there is nothing to change."""
    printed = run("--changes", dsn=provenance_dsn)
    assert (0, up_sql(USER, NOTE)) == (printed.exit_code, printed.stdout)
    assert "made user\nmade note\n" == run("--apply", dsn=provenance_dsn).stdout
    assert "nothing to change\n" == run("--apply", dsn=provenance_dsn).stdout
    same = run("--changes", dsn=provenance_dsn)
    assert (0, "", "nothing to change\n") == (same.exit_code, same.stdout, same.stderr)
    change = "ALTER TABLE public.users ALTER COLUMN name {} NOT NULL;\n"
    assert change.format("DROP") in run("--changes", dsn=provenance_dsn, text=CHANGED).stdout
    assert change.format("SET") in run("--changes", "--down", dsn=provenance_dsn).stdout
    applied = json.loads(run("--apply", "--json", dsn=provenance_dsn).stdout)
    assert ([], ["user"], True) == (applied["created"], applied["changed"], change.format("DROP") in applied["sql"])
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        assert () == plan(connection, *load("concepts.py")).changed


def test_dropping_columns_has_to_be_allowed(run: Run, provenance_dsn: str) -> None:
    """Without the option it is refused, with the reason."""
    run("--apply", dsn=provenance_dsn, text=CHANGED)
    refused = run("--changes", dsn=provenance_dsn, text=SHORTER)
    assert (2, "") == (refused.exit_code, refused.stdout)
    assert refused.stderr.startswith("Error: dropping the column name would lose what is in it; allow it with")
    assert "changed user\n" == run("--apply", "--drop-columns", dsn=provenance_dsn).stdout


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        (
            "nothing.py",
            "",
            "there is no file nothing.py; give the path of a Python file, or the dotted name of a module",
        ),
        (
            "no_such.module",
            "",
            "there is no module no_such.module; run this where it can be imported, or give the path",
        ),
        ("concepts.py", "", "no concept is declared in concepts.py; expected a Concept, or a list of them, at its top"),
        ("concepts.py:nothing", DECLARED, "there is no nothing in concepts.py; it has user, note"),
        ("concepts.py:nothing", "", "there is no nothing in concepts.py; it has no concept at all"),
        (
            "concepts.py:Concept",
            DECLARED,
            "no concept is declared in concepts.py:Concept; expected a Concept, or a list",
        ),
        ("concepts.py", "a = (\nb", "concepts.py cannot be loaded: line 1 of concepts.py: '(' was never closed"),
        (
            "concepts.py",
            "1 / 0",
            "concepts.py cannot be loaded: ZeroDivisionError: division by zero (line 1 of concepts.py)\n",
        ),
        ("concepts.py", "import nothing_there", "concepts.py cannot be loaded: ModuleNotFoundError: No module named"),
        (
            "concepts.py",
            "import sys; sys.exit('stop')",
            "concepts.py cannot be loaded: SystemExit: stop (line 1 of concepts.py)\n",
        ),
        ("concepts.py", "a\0b", "concepts.py cannot be loaded: source code string cannot contain null bytes\n"),
        (".", "", "there is no module .; run this where it can be imported, or give the path"),
        ("a b.c", "", "there is no module a b.c; run this where it can be imported, or give the path"),
        (
            "importing",
            "",
            "importing cannot be loaded: ModuleNotFoundError: No module named 'nothing_there' (line 1 of importing)\n",
        ),
        (
            "concepts.py",
            "from provenance.concepts import Concept\nConcept(name='')",
            (
                "the name of a concept is empty: expected printable text of 1 to 100 characters with no white space "
                "around it (line 2 of concepts.py)\n"
            ),
        ),
        (
            "concepts.py",
            DECLARED + "extra = Attribute(\n    name='a',\n    flavour='text')",
            (
                "concepts.py cannot be loaded: TypeError: Attribute.__init__() got an unexpected keyword argument 'flavour' "
                "(line 6 of concepts.py)\n"
            ),
        ),
        (
            "importing.py",
            "",
            "importing.py cannot be loaded: ModuleNotFoundError: No module named 'nothing_there' (line 1 of importing.py)\n",
        ),
        (
            "concepts.py",
            DECLARED.replace("user = Concept", "_ = str"),
            "concepts.py cannot be loaded: TypeError: ",
        ),
        (
            "concepts.py",
            DECLARED.replace('to="user"', 'to="reader"'),
            "the reference user_id of the concept note is to the unknown concept 'reader'",
        ),
    ],
)
def test_a_source_that_cannot_be_used(home: Path, run: Run, source: str, text: str, said: str) -> None:
    """One sentence, on standard error, with the code for wrong usage."""
    (home / "importing.py").write_text("import nothing_there", encoding="utf-8")
    result = run(source, text=text)
    assert (2, "") == (result.exit_code, result.stdout)
    assert result.stderr.replace(f"{home}/", "").startswith(f"Error: {said}")


@pytest.mark.parametrize("options", [["--apply", "--down"], ["--apply", "--changes"], ["--drop-columns"]])
def test_options_that_do_not_go_together(run: Run, options: list[str]) -> None:
    """It is said which, before anything is loaded."""
    result = run("nothing.py", *options)
    assert 2 == result.exit_code
    assert "leave out --down and --changes" in result.stderr or "goes with --changes or --apply" in result.stderr
