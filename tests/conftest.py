"""Fixtures of the whole suite."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

pytest_plugins = ["provenance.testing"]


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
