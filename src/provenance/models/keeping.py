"""What was taken out of the trail, what must stay in it, and for how long."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import attrs

RetentionOutcome = Literal["delete", "archive"]
"""What becomes of rows that nobody must keep any more."""


@attrs.frozen(kw_only=True)
class Erasure:
    """How much was taken out of the trail."""

    action_id: UUID
    """The action that tells of it."""
    actions: int
    """Actions whose payload, result, metadata or error message is gone."""
    pending: int
    """Begun actions whose payload or metadata is gone. What their outcome says is still to come."""
    row_changes: int
    """Row changes of which is left that they were made, and to which columns."""
    idempotency_keys: int
    """Keys whose input cannot be compared any more."""


@attrs.frozen(kw_only=True)
class LegalHold:
    """What must neither be erased nor leave for an archive, until it is released: all that fits everything said here."""

    name: str
    reason: str
    tenant_id: str | None = None
    user_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    concept: str | None = None
    action_type: str | None = None
    since: datetime | None = None
    """Begun then or later."""
    until: datetime | None = None
    """Begun before that."""
    placed_at: datetime
    """By the database's clock."""
    action_id: UUID
    """The action that placed it."""


@attrs.frozen(kw_only=True)
class RetentionPolicy:
    """How long actions must be kept that fit everything said here, and what they changed; and what becomes of them then."""

    name: str
    reason: str
    keep: timedelta | None
    """For whole days; ``None``: for ever."""
    outcome: RetentionOutcome
    """``"delete"`` or ``"archive"``."""
    tenant_id: str | None = None
    """``""`` for what belongs to none; ``None``: whatever it is."""
    concept: str | None = None
    action_type: str | None = None
    set_at: datetime
    """By the database's clock."""
    action_id: UUID
    """The action that set it."""
