"""A pytest plugin: a real Postgres for every test, and helpers to say what must have been recorded.

Turn it on in the top-level ``conftest.py``::

    pytest_plugins = ["provenance.testing"]

The server is the one ``PROVENANCE_TEST_DSN`` names (a role that may create databases), or else an embedded one. It is
prepared once per session: a template database with the provenance schema and whatever ``provenance_setup`` adds. Every
test that asks for ``provenance_dsn`` gets a fresh copy of it.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Unpack
from uuid import UUID

import psycopg
import pytest
from psycopg import conninfo, sql

import provenance
from provenance import schema, tracking
from provenance.embedded import EmbeddedPostgres
from provenance.models import Action
from provenance.recording import Colour
from provenance.repository import ActionRepository, Filters
from provenance.trail import Trail

Setup = Callable[[psycopg.Connection[Any]], object]


@pytest.fixture(scope="session")
def provenance_server() -> Iterator[str]:
    """Yield the address of a server whose role may create databases."""
    if address := os.environ.get("PROVENANCE_TEST_DSN"):
        yield address
        return
    with EmbeddedPostgres(durable=False) as server:
        yield server.conninfo


@pytest.fixture(scope="session")
def provenance_setup() -> Setup:
    """Override this to create your application's own tables in the template database."""
    return lambda connection: None


def _database(server: str, name: str) -> str:
    return conninfo.make_conninfo(server, dbname=name)


@pytest.fixture(scope="session")
def provenance_template(provenance_server: str, provenance_setup: Setup) -> Iterator[str]:
    """Yield the name of the template database: migrated, set up, and with nobody connected."""
    name = f"provenance_template_{secrets.token_hex(4)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(_database(provenance_server, name), autocommit=True) as connection:
            schema.up(connection)
            provenance_setup(connection)
        yield name
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def provenance_dsn(provenance_server: str, provenance_template: str) -> Iterator[str]:
    """Yield the address of a database of this test's own."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(provenance_template)
            )
        )
        yield _database(provenance_server, name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """Yield a trail in this test's database, configured as the default for both colours until the test ends.

    An asynchronous test that uses module-level ``async with track_action`` closes the asynchronous trail itself, in its
    own event loop: ``async with provenance.get_async_trail(): ...``.
    """
    before = {colour: tracking.configured_host(colour) for colour in Colour}
    configured = provenance.configure(provenance_dsn)
    try:
        yield configured
    finally:
        configured.close()
        for colour, host in before.items():
            tracking.set_default_host(colour, host)


class RecordedActions:
    """What is in the trail of this test's database, for assertions. Works in tests of either colour: it blocks.

    An *outline* is the trail as text, one line an action, oldest first and children indented below their parent::

        link_zman completed
          notify_publisher failed
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._repository = ActionRepository(lambda: nullcontext(connection))

    def all(self, **wanted: Unpack[Filters]) -> list[Action]:
        """Return the actions that fit, oldest first."""
        return list(reversed(self._repository.search(limit=1_000, **wanted).items))

    def one(self, **wanted: Unpack[Filters]) -> Action:
        """Return the only action that fits, and fail the test when there are none or several."""
        found = self.all(**wanted)
        if len(found) != 1:
            pytest.fail(f"expected one action with {wanted or 'any properties'}, found {len(found)}:\n{self.outline()}")
        return found[0]

    def outline(self) -> str:
        """Return the whole trail as text."""
        actions = self.all()
        children: dict[UUID | None, list[Action]] = {}
        known = {action.id for action in actions}
        for action in actions:
            parent = action.parent_action_id if action.parent_action_id in known else None
            children.setdefault(parent, []).append(action)
        lines: list[str] = []
        waiting = [(0, action) for action in reversed(children.get(None, []))]
        while waiting:
            depth, action = waiting.pop()
            lines.append(f"{'  ' * depth}{action.action_type} {action.status}")
            waiting.extend((depth + 1, child) for child in reversed(children.get(action.id, [])))
        return "\n".join(lines)

    def expect(self, outline: str) -> None:
        """Fail the test, showing the difference, unless the trail has this outline; common indentation does not matter."""
        expected, found = _dedented(outline), self.outline()
        if expected != found:
            difference = difflib.unified_diff(
                expected.splitlines(), found.splitlines(), "expected", "recorded", lineterm="", n=1_000
            )
            pytest.fail("the trail is not as expected:\n" + "\n".join(difference))


def _dedented(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    return "\n".join(line[margin:] for line in lines)


@pytest.fixture
def recorded_actions(provenance_dsn: str) -> Iterator[RecordedActions]:
    """Yield what is recorded in this test's database."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        yield RecordedActions(connection)
