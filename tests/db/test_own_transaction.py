"""A block with a transaction of its own."""

from __future__ import annotations

import pytest

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
