"""Runs the examples of the README and of docs/, one test a page.

The language of a fenced block says what happens to it:

- ``python`` is executed; one whose first line is a comment with a file's name (``# app.py``) is saved there instead.
- ``sql`` is executed in the page's database.
- ``console`` is a terminal: lines after ``$ `` are run, the others are compared with what they printed.
- ``output`` is compared with what the blocks since the last comparison printed.
- ``sh`` is for the reader's machine and is not run. Extras that it installs must exist.

Everything else is text. In what is compared, ``...`` stands for anything; ids, times and the width of gaps may differ,
but an id that the page names twice is the same id twice. ``<!--- keeps-running --->`` before a terminal says that its
command goes on running, and ``<!--- invisible-code-block: python`` holds what a page needs and a reader does not.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import psycopg
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer

FIXTURE = "documentation"
"""The name of the fixture, a :class:`Reader`, in which a page is run."""

_PATIENCE = 60
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_EXTRAS = re.compile(r"(?:provenance-trail|\.)\[([\w,]+)\]")
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# What differs from run to run, and the pattern that stands for it.
_VARIABLE = re.compile(
    rf"(?P<id>{_UUID})"
    r"|(?P<gap> {2,})"
    r"|(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?)"
    r"|(?P<clock>\b\d\d:\d\d:\d\d(?:\.\d+)?\b)"
    r"|(?P<duration>\d+(?:\.\d+)? ?m?s\b)"
    r"|(?P<anything>\.\.\.)"
)
_PATTERNS = {
    "gap": r" +",
    "time": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?",
    "clock": r"\d\d:\d\d:\d\d(?:\.\d+)?",
    "duration": r"\d+(?:\.\d+)? ?m?s",
    "anything": r".*?",
}


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


class Reader:
    """Somebody who follows a page: with a terminal, a directory and a database."""

    def __init__(self, directory: Path, dsn: str) -> None:
        tools, self.directory = directory / "bin", directory / "home"
        tools.mkdir()
        self.directory.mkdir()
        (tools / "curl").write_text(f"#!{sys.executable}\n{_CURL}", encoding="utf-8")
        (tools / "curl").chmod(0o755)
        self.dsn = dsn
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PROVENANCE_DSN": dsn,
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.printed = ""
        self.keeps_running = False
        self.ids: dict[str, str] = {}
        # A page writes down a port; here it is whichever is free.
        self._port = _free_port()
        self._running: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def own(self, text: str) -> str:
        """Return a text of the page with the ids and the port that it is about here."""
        text = self.with_port(text)
        for theirs, ours in self.ids.items():
            text = text.replace(theirs, ours)
        return text

    def with_port(self, text: str) -> str:
        """Return a text of the page with the port that it is about here."""
        return re.sub(r"(?<=127\.0\.0\.1:)8000\b|(?<=--port )8000\b", self._port, text)

    def run(self, line: str, expected: str) -> str | None:
        """Run a line in the terminal, and return how its output differs from what the page says."""
        line = self.own(line)
        if exported := re.fullmatch(r"export (\w+)=(.*)", line):
            self.environment[exported[1]] = self._printed(f"printf %s {exported[2]}")
            return None
        if self.keeps_running:
            self.keeps_running = False
            return self._keep_running(line, expected)
        return compare(expected, self._printed(line), self)

    def _printed(self, line: str) -> str:
        with self._start(line) as program:
            try:
                return program.communicate(timeout=_PATIENCE)[0]
            except subprocess.TimeoutExpired:
                # As its reader would, who has waited for long enough.
                program.send_signal(signal.SIGINT)
                raise

    def _start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", line],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _keep_running(self, line: str, expected: str) -> str | None:
        """Start a program, and wait until it has printed what the page says."""
        running = self._start(f"exec {line}")
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.extend(running.stdout or ()))
        reading.start()
        self._running.append((running, reading))
        deadline = time.monotonic() + _PATIENCE
        while difference := compare(expected, "".join(lines), self):
            if time.monotonic() > deadline or not reading.is_alive():
                return difference
            time.sleep(0.02)
        return None

    def close(self) -> None:
        """End what goes on running, the last one first."""
        for running, reading in reversed(self._running):
            running.send_signal(signal.SIGINT)
            running.wait(_PATIENCE)
            reading.join()
            for pipe in (running.stdin, running.stdout):
                assert pipe is not None
                pipe.close()


# The real one is not everywhere the suite runs.
_CURL = """
import argparse, http.client, urllib.parse

parser = argparse.ArgumentParser()
parser.add_argument("-i", action="store_true", required=True)
parser.add_argument("-X", default=None)
parser.add_argument("-H", action="append", default=[])
parser.add_argument("-d", default=None)
parser.add_argument("url")
given = parser.parse_args()
address = urllib.parse.urlsplit(given.url if "//" in given.url else f"//{given.url}")
connection = http.client.HTTPConnection(address.netloc, timeout=30)
headers = dict(line.split(": ", 1) for line in given.H)
connection.request(given.X or ("GET" if given.d is None else "POST"), address.path, given.d, headers)
response = connection.getresponse()
print(f"HTTP/1.1 {response.status} {response.reason}")
for name, value in response.getheaders():
    print(f"{name}: {value}")
print()
print(response.read().decode())
"""


def reader(example: Example) -> Reader:
    found: Reader = example.namespace[FIXTURE]
    return found


_python = PythonEvaluator()


def run_python(example: Example) -> None:
    """Execute a block, or save it where it says which file it is."""
    following = reader(example)
    if named := _FILE.match(example.parsed):
        path = following.directory / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example.parsed, encoding="utf-8")
        return
    example.namespace["__name__"] = "example"
    with redirect_stdout(io.StringIO()) as printed, chdir(following.directory):
        _python(example)
    following.printed += printed.getvalue()


def run_sql(example: Example) -> None:
    """Execute statements; the rows of the last one are printed as psql would, unaligned."""
    following = reader(example)
    with psycopg.connect(following.dsn, autocommit=True) as connection:
        cursor = connection.execute(example.parsed.encode())
        while cursor.nextset():
            pass
        for row in cursor.fetchall() if cursor.description else []:
            following.printed += " | ".join("" if value is None else str(value) for value in row) + "\n"


def run_console(example: Example) -> str | None:
    """Run the commands of a terminal session and compare what they print."""
    following = reader(example)
    for command, expected in _session(example.parsed):
        if difference := following.run(command, expected):
            return f"$ {command}\n{difference}"
    return None


def _session(text: str) -> Iterator[tuple[str, str]]:
    command, output = "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:].rstrip("\n"), ""
        elif command.endswith("\\"):
            command = command[:-1] + line.strip()
        else:
            output += line
    yield command, output


def check_output(example: Example) -> str | None:
    """Compare what has been printed since the last time."""
    following = reader(example)
    printed, following.printed = following.printed, ""
    return compare(example.parsed, printed, following)


def check_extras(example: Example) -> str | None:
    """Refuse to tell people to install an extra that does not exist."""
    known = set(metadata("provenance-trail").get_all("Provides-Extra") or ())
    wanted = {extra for found in _EXTRAS.findall(example.parsed) for extra in found.split(",")}
    return f"no such extras: {sorted(wanted - known)}" if wanted - known else None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def compare(expected: str, printed: str, following: Reader) -> str | None:
    """Return how a text differs from what the page says, or ``None``; learn the ids that it names."""
    learnt: list[str] = []

    def pattern(found: re.Match[str]) -> str:
        kind, text = str(found.lastgroup), found[0]
        if kind != "id":
            return _PATTERNS[kind]
        if text in following.ids:
            return following.ids[text]
        if text in learnt:
            return f"(?P=id{learnt.index(text)})"
        learnt.append(text)
        return f"(?P<id{len(learnt) - 1}>{_UUID})"

    wanted, place = "", 0
    text = _trimmed(following.with_port(expected))
    for found in _VARIABLE.finditer(text):
        wanted += re.escape(text[place : found.start()]) + pattern(found)
        place = found.end()
    wanted += re.escape(text[place:])
    got = _trimmed(printed)
    matched = re.fullmatch(wanted, got, re.DOTALL)
    if matched is None:
        return f"the page says:\n{following.own(text)}\n\nbut it is:\n{got}"
    following.ids |= {theirs: matched[f"id{number}"] for number, theirs in enumerate(learnt)}
    return None


class Page(Document):
    """A page, all of whose examples are one test: they build on each other, and workers share out tests."""

    def examples(self) -> Iterator[Example]:
        """Return the one example that runs them all, if there are any."""
        if self.regions:
            yield Example(self, 1, 0, Region(0, self.end, evaluator=self._run), self.namespace)

    def _run(self, _: Example) -> None:
        for example in super().examples():
            try:
                example.evaluate()
            except SybilFailure:
                raise
            except Exception as error:  # noqa: BLE001 - whatever an example raises is reported as its failure
                # Sybil's own report of it does not expect examples inside an example.
                raise SybilFailure(example, "".join(traceback.format_exception(error))) from None


def keep_running(example: Example) -> None:
    """Let the next command go on running."""
    reader(example).keeps_running = True


class KeepsRunningParser:
    """Finds ``<!--- keeps-running --->``."""

    def __call__(self, document: Document) -> Iterator[Region]:
        for region in DirectiveInHTMLCommentLexer("keeps-running")(document):
            region.evaluator = keep_running
            yield region


_EVALUATORS: dict[str, Any] = {
    "python": run_python,
    "sql": run_sql,
    "console": run_console,
    "output": check_output,
    "sh": check_extras,
}


LANGUAGES = frozenset(_EVALUATORS)
"""The languages of blocks that something is done with."""


def pages(root: Path) -> Sybil:
    """Return what collects the README and the pages of docs/ below *root*."""
    return Sybil(
        parsers=[
            KeepsRunningParser(),
            *(CodeBlockParser(language, evaluator) for language, evaluator in _EVALUATORS.items()),
        ],
        path=str(root),
        patterns=["README.md", "docs/*.md", "docs/*/*.md"],
        fixtures=[FIXTURE],
        document_types={".md": Page},
    )
