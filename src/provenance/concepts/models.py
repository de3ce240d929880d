"""What a repository hands back: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import attrs


@attrs.frozen(kw_only=True)
class Entity:
    """A row of a concept. ``entity["title"]`` is ``entity.values["title"]``.

    Times are aware datetimes in UTC, by the database's clock.
    """

    id: UUID
    values: Mapping[str, Any]
    """References and attributes by name; JSON as Python values, everything else as psycopg reads it."""
    created_by_action_id: UUID
    updated_by_action_id: UUID
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@attrs.frozen(kw_only=True)
class ResolvedEntity(Entity):
    """A row with what its references name, as of the last refresh."""

    labels: Mapping[str, Any]
    """By the names that they were declared with; ``None`` where a reference is empty or dangling."""
    dangling: tuple[str, ...]
    """The references that name nothing."""

    def __getitem__(self, name: str) -> Any:
        return self.labels[name] if name in self.labels else self.values[name]


@attrs.frozen(kw_only=True)
class DanglingReference:
    """A reference that names nothing, as of the last refresh."""

    entity_id: UUID
    column: str
    value: Any
