"""The entry point, and what the command itself offers."""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import provenance
from provenance import cli
from provenance.cli import app
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run

SCRIPT = Path(sys.executable).parent / "provenance"


def _without(module: str) -> Callable[..., Any]:
    original = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "provenance.cli.app":
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return original(name, *args, **kwargs)

    return refusing


@pytest.mark.parametrize("module", ["click", "rich"])
def test_a_missing_extra_is_one_sentence_and_code_2(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without click or rich the command says what to install."""
    monkeypatch.setattr(builtins, "__import__", _without(module))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (
        2,
        "",
        f"Error: the command line needs {module}, which is not installed; run: pip install 'provenance-trail[cli]'\n",
    ) == (stopped.value.code, *capsys.readouterr())


def test_another_missing_module_is_a_bug_and_shows_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extra's own packages are excused."""
    monkeypatch.setattr(builtins, "__import__", _without("provenance.cli.log"))
    with pytest.raises(ModuleNotFoundError, match=r"provenance\.cli\.log"):
        cli.main()


def test_standard_output_need_not_be_reconfigurable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaced standard output by a buffer gets the text too."""
    monkeypatch.setattr(sys, "argv", ["provenance", "--version"])
    monkeypatch.setattr(sys, "stdout", replacement := io.StringIO())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (0, f"provenance {provenance.__version__}\n") == (stopped.value.code, replacement.getvalue())


def test_letters_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is told so before anything is written."""
    monkeypatch.setattr(sys, "argv", ["provenance", "--version"])
    monkeypatch.setattr(sys, "stdout", replacement := io.TextIOWrapper(io.BytesIO(), "latin-1"))
    with pytest.raises(SystemExit):
        cli.main()
    assert "backslashreplace" == replacement.errors


def test_the_help_documents_the_exit_codes(run: Run) -> None:
    """Each code that a command can end with is listed."""
    result = run("--help", dsn="")
    listed = re.findall(r"^    (\d)  ", result.stdout.partition("Exit codes:")[2], re.MULTILINE)
    assert (0, ["0", "1", "2", "3", "4"]) == (result.exit_code, listed)


def test_the_script_survives_an_encoding_without_the_stored_letters(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions
) -> None:
    """On a Latin-1 terminal a Hebrew name is escaped instead of ending the command with a traceback."""
    with trail.track_action("greet", concept="person", user_id="דבורה"):
        pass
    environment = {**os.environ, "PROVENANCE_DSN": provenance_dsn, "PYTHONIOENCODING": "latin-1"}
    result = subprocess.run(
        [SCRIPT, "show", str(recorded_actions.one().id)], env=environment, capture_output=True, check=False
    )
    assert (0, b"") == (result.returncode, result.stderr)
    assert rb"user       \u05d3\u05d1\u05d5\u05e8\u05d4" in result.stdout
    assert b"`-- greet  completed" in result.stdout


def test_a_reader_that_stops_early_sees_no_traceback(trail: Trail, provenance_dsn: str) -> None:
    """``provenance log | head`` is an ordinary thing to do."""
    for _ in range(3):
        with trail.track_action("write", concept="book", payload={"text": "x" * 60_000}):
            pass
    environment = {**os.environ, "PROVENANCE_DSN": provenance_dsn}
    with subprocess.Popen(
        [SCRIPT, "log", "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"{\n" == process.stdout.readline()
        process.stdout.close()
        assert b"" == process.stderr.read()


def groups(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the arguments that lead to each group of commands."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, (*path, name))


@pytest.mark.parametrize("path", [*groups(app.cli)], ids=" ".join)
def test_no_summary_of_a_command_is_cut(run: Run, path: tuple[str, ...]) -> None:
    """Nor needs a second line, on a terminal of eighty columns."""
    listed = run(*path, "--help", dsn="", terminal=80).stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    lines = listed.splitlines()
    group = functools.reduce(lambda found, name: found.commands[name], path, app.cli)
    assert sorted(group.commands) == [line.split()[0] for line in lines]
    assert [line for line in lines if line.endswith("...")] == []


def test_the_package_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For whoever has no scripts on his path; to import it runs nothing."""
    monkeypatch.setattr("sys.argv", ["provenance", "--version"])
    importlib.import_module("provenance.__main__")
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        # That it is imported already is what is tested.
        warnings.simplefilter("ignore", RuntimeWarning)
        runpy.run_module("provenance.__main__", run_name="__main__")
    assert (0, f"provenance {provenance.__version__}\n") == (ended.value.code, capsys.readouterr().out)
