"""Running the command line inside the test process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click.testing
import psycopg
import pytest

from provenance.cli.app import cli

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs a command, as in a pipe unless ``terminal=`` gives a width.

    Unless ``dsn=`` names another, it runs on a database of this test's own.
    """
    for name in ("PROVENANCE_DSN", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def invoke(
        *arguments: str, dsn: str | None = None, answer: str = "", terminal: int | None = None
    ) -> click.testing.Result:
        env = {} if terminal is None else {"FORCE_COLOR": "1", "COLUMNS": str(terminal), "LINES": "50"}
        address = request.getfixturevalue("provenance_dsn") if dsn is None else dsn
        return click.testing.CliRunner().invoke(
            cli, ["--dsn", address, *arguments], input=answer, env=env, catch_exceptions=False, prog_name="provenance"
        )

    return invoke


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Return what runs a command with ``--json`` and returns the document; the command must succeed."""

    def invoke(*arguments: str, **options: Any) -> Any:
        result = run(*arguments, "--json", **options)
        assert (0, "") == (result.exit_code, result.stderr)
        return json.loads(result.stdout)

    return invoke


@pytest.fixture
def empty_dsn(provenance_dsn: str) -> str:
    """Return the address of this test's database, with the provenance schema taken out."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA provenance CASCADE")
    return provenance_dsn
