"""The reference application on a database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from provenance.examples.zmanim import tables
from provenance.examples.zmanim.service import ZmanimLinkingService
from provenance.trail import Trail


@pytest.fixture
def database(provenance_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in autocommit mode to a database with the application's tables."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        tables.create(connection)
        yield connection


@pytest.fixture
def service(database: psycopg.Connection[Any], trail: Trail) -> ZmanimLinkingService:
    """Return the service, recording into this test's trail."""
    return ZmanimLinkingService(trail)
