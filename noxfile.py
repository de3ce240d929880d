"""The checks, each in an environment of its own: ``nox -l`` lists them."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "docs", "minimal"]
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13"]

CORE = """
import sys
from importlib.metadata import distributions

import provenance
from provenance import *
from provenance import schema

frameworks = {"click", "django", "fastapi", "flask", "pytest", "rich", "starlette"}
installed = frameworks & {found.name.lower() for found in distributions()}
assert not installed, f"installing the core installs {sorted(installed)}"
loaded = (frameworks | {"asgiref", "werkzeug"}) & {name.partition(".")[0] for name in sys.modules}
assert not loaded, f"the core loads {sorted(loaded)}"
with provenance.request_scope() as frame:
    assert provenance.get_request_id() == frame.request_id
"""


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite and the documentation; arguments go to pytest."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the suite and measure its branch coverage."""
    session.install("-e", ".[dev]")
    session.run("pytest", "--cov", "--cov-report=term-missing:skip-covered", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with two checkers."""
    session.install("-e", ".[dev]")
    session.run("mypy")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; broken links and warnings are errors."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", f"{session.create_tmp()}/site")


@nox.session
def minimal(session: nox.Session) -> None:
    """Install the core alone, and see that it imports and pulls in no framework."""
    session.install(".", "psycopg-binary")
    session.run("python", "-W", "error", "-c", CORE)
