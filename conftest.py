"""What every test can use, and the pages of the documentation as tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provenance import tracking
from provenance.recording import Colour
from provenance.trail import Trail
from tests.support import pages

# A shell that starts the suite in the background lets it ignore Ctrl-C, and every server that the tests start would inherit
# that; they are ended by Ctrl-C, as a person would.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["provenance.testing", "pytester"]

pytest_collect_file = pages.pages(Path(__file__).parent).pytest()


@pytest.fixture(scope="session")
def provenance_setup() -> Any:
    """A table for the work that actions tell of."""

    def setup(connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            """CREATE TABLE work (
                   id integer PRIMARY KEY,
                   secret text,
                   action_id uuid DEFAULT provenance.current_action_id(),
                   CONSTRAINT late UNIQUE (secret) DEFERRABLE INITIALLY DEFERRED)"""
        )

    return setup


@pytest.fixture
def documentation(
    trail: Trail, provenance_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pages.Reader]:
    """Somebody who follows a page, with a database and a trail of their own."""
    monkeypatch.setenv("PROVENANCE_DSN", provenance_dsn)
    monkeypatch.setenv("PROVENANCE_SPOOL", str(tmp_path / "spool"))
    reader = pages.Reader(tmp_path, provenance_dsn)
    yield reader
    reader.close()
    if (configured := tracking.configured_host(Colour.SYNC)) is not trail:
        configured.close()
