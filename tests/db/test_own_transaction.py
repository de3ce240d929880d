"""A block with a transaction of its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import attrs
import pytest
from psycopg_pool import ConnectionPool

from provenance import request_scope
from provenance.testing import RecordedActions
from provenance.trail import Trail


def test_success_is_one_completed_row(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Work and row commit together, and a column default sees the action."""
    with trail.track_action("add", concept="work", payload={"id": 1}) as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
        action.result = {"id": 1}
    row = recorded_actions.one()
    assert (row.status, row.payload, row.result) == ("completed", {"id": 1}, {"id": 1})
    assert row.duration_ms is not None and row.duration_ms > 0


def test_failure_is_durable_though_the_work_rolled_back(trail: Trail, recorded_actions: RecordedActions) -> None:
    """The exception goes on, the work is gone, the failed row is there."""
    with pytest.raises(ValueError, match="no such thing"), trail.track_action("add", concept="work") as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
        raise ValueError("no such thing")
    row = recorded_actions.one()
    assert (row.status, row.error_type, row.error_message) == ("failed", "ValueError", "no such thing")


def test_a_connection_that_prepares_nothing_stores_the_same(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions
) -> None:
    """What is written through a function of the schema there is what a prepared statement writes elsewhere."""

    def track(trail: Trail) -> None:
        described: dict[str, Any] = {
            "entity_type": "zman",
            "entity_id": "7",
            "tenant_id": "hof",
            "metadata": {"a": None},
        }
        with (
            request_scope(UUID(int=7), user_id="Ада", correlation_id='a"b'),
            trail.track_action("add", concept="work", payload={"é": [1, "x"]}, **described) as action,
        ):
            action.result = {"ok": True}

    track(trail)
    with (
        ConnectionPool(provenance_dsn, kwargs={"prepare_threshold": None}, min_size=1, open=True) as pool,
        Trail(pool) as unprepared,
    ):
        track(unprepared)
    own = {"id", "root_id", "started_at", "completed_at", "duration_ms", "recorded_at", "xid"}
    one, two = (
        {name: value for name, value in attrs.asdict(row).items() if name not in own} for row in recorded_actions.all()
    )
    assert one == two
    assert (one["user_id"], one["payload"], one["metadata"]) == ("Ада", {"é": [1, "x"]}, {"a": None})
