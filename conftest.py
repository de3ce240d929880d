"""What every test can use, and the pages of the documentation as tests."""

from __future__ import annotations

import os
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
from tests.support.pgbouncer import PgBouncer

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


# PROVENANCE_TEST_POOLER=pgbouncer sends the suite through PgBouncer, in transaction mode. As many transactions as a test has
# open at once have to find a server connection each, and the journal one more; other clients wait, or share.
_POOLER = os.environ.get("PROVENANCE_TEST_POOLER", "")
_POOL_SIZE = 5


def pytest_configure(config: pytest.Config) -> None:
    if _POOLER not in ("", "pgbouncer"):
        raise pytest.UsageError(f"PROVENANCE_TEST_POOLER: expected pgbouncer, not {_POOLER}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("direct")
    if _POOLER and marker is not None:
        (reason,) = marker.args
        pytest.skip(f"not through a pooler: {reason}")


@pytest.fixture(scope="session")
def pooler(provenance_server: str) -> Iterator[PgBouncer | None]:
    """What stands between the tests and the server, if the suite is to go through it."""
    if not _POOLER:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch, PgBouncer(provenance_server, pool_size=_POOL_SIZE) as running:
        # What is asked of an application behind PgBouncer, for all the connections that tests make.
        for connect in (psycopg.Connection.connect, psycopg.AsyncConnection.connect):
            patch.setitem(connect.__kwdefaults__, "prepare_threshold", None)
        yield running


@pytest.fixture
def provenance_dsn(provenance_dsn: str, pooler: PgBouncer | None) -> str:
    """The address of this test's database, through the pooler if there is one."""
    return provenance_dsn if pooler is None else pooler.through(provenance_dsn)


@pytest.fixture
def direct_dsn(provenance_dsn: str, pooler: PgBouncer | None) -> str:
    """The same past the pooler, for what needs a session, or only looks on."""
    return provenance_dsn if pooler is None else pooler.direct(provenance_dsn)


@pytest.fixture
def recorded_actions(direct_dsn: str) -> Iterator[Any]:
    """What is recorded in this test's database."""
    from provenance.testing import RecordedActions  # noqa: PLC0415 - a plugin, whose assertions pytest is still to rewrite

    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield RecordedActions(connection)


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
