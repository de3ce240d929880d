"""The design that provenance started from, as an application would use it: a row is inserted, and updated in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg

_BEGUN: LiteralString = """
INSERT INTO original_actions
    (action_type, concept, user_id, publisher_id, request_id, entity_type, entity_id, payload, parent_action_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id"""
_ENDED: LiteralString = """
UPDATE original_actions SET status = 'completed', result = %s, completed_at = now(),
       duration_ms = EXTRACT(MILLISECONDS FROM now() - started_at) WHERE id = %s"""


def create(connection: psycopg.Connection[Any]) -> None:
    """Make its table."""
    connection.execute(Path(__file__).with_name("original.sql").read_bytes())


def begin(
    connection: psycopg.Connection[Any],
    *,
    user_id: str,
    publisher_id: str | None,
    request_id: UUID,
    entity_type: str,
    entity_id: object,
    payload: object,
    parent: object = None,
) -> object:
    """Record that an action is begun, and return its id."""
    values = (user_id, publisher_id, request_id, entity_type, str(entity_id), json.dumps(payload), parent)
    [(action_id,)] = connection.execute(_BEGUN, ("transfer", "account", *values)).fetchall()
    return action_id


def end(connection: psycopg.Connection[Any], action_id: object) -> None:
    """Record that it is completed."""
    connection.execute(_ENDED, ('{"ok":true}', action_id))
