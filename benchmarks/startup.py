"""The workload of a start: for how long a new process is busy importing the library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from benchmarks.measuring import Comparison, Within, interleaved

_FOUNDATIONS = "psycopg and attrs"
_LIBRARY = "import provenance"

# What comes first, and is not counted, and what comes then: an application that has a database has its driver all the same.
_STATEMENTS: Mapping[str, tuple[str, str]] = {
    _FOUNDATIONS: ("", "import psycopg, attrs"),
    _LIBRARY: ("import psycopg, attrs", "import provenance"),
    "the middleware": ("import psycopg, attrs", "import provenance.contrib.asgi, provenance.contrib.wsgi"),
    "a trail and its actions": ("import psycopg, attrs", "from provenance import Trail, track_action"),
}

_SCRIPT = """
from time import process_time_ns
{first}
begun = process_time_ns()
{then}
print(process_time_ns() - begun)
"""


def _taken(first: str, then: str) -> float:
    """Return the milliseconds of processor time that imports take after others, in a process of their own."""
    # What is installed was compiled beforehand, and so is what is measured here: by the first process that imports it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _SCRIPT.format(first=first, then=then)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 - fixed
    return int(done.stdout) / 1_000_000


def run(rounds: int) -> list[Comparison]:
    """Measure what it costs to import the library, beyond what it rests on."""
    for statements in list(_STATEMENTS.values())[-2:]:  # which import, and so compile, all there is
        _taken(*statements)
    variants = {name: partial(_taken, *statements) for name, statements in _STATEMENTS.items()}
    return [
        Comparison(
            title="Imports in a new process",
            method="Processor time, from compiled files, a new process for each sample. All but the first line is what "
            "comes on top of psycopg and attrs. `import provenance` alone loads next to nothing, for its names are imported "
            "when they are first asked for: the last line says what those cost that a service needs.",
            unit="ms",
            digits=1,
            samples=interleaved(variants, rounds=rounds),
            baseline=_FOUNDATIONS,
            goals=[Within(_LIBRARY, 40.0)],
        )
    ]
