"""What is handed back about locations: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import attrs

from provenance.concepts import ResolvedEntity
from provenance.geo.levels import Geography, suffix


@attrs.frozen(kw_only=True)
class Location:
    """A location with the names of its places."""

    id: UUID
    level: str
    """The narrowest level that it names a place of; ``"world"`` when it names none."""
    places: Mapping[str, Any]
    """The keys of its places by level; ``None`` where it names none."""
    name: str | None
    """That of its narrowest place; ``None`` for the world, and when that place is not there."""
    hierarchy: str
    """The names of all its places, the narrowest first; levels that it names no place of are left out."""
    names: Mapping[str, str | None]
    """``name`` in other languages, by tag; in the language of the labels where there is none."""
    hierarchies: Mapping[str, str]
    """``hierarchy`` in other languages, by tag."""
    codes: Mapping[str, Any]
    """The codes of its places, by level, for the levels that have codes."""
    latitude: float | None
    """Degrees, of the narrowest place that has coordinates."""
    longitude: float | None
    """Degrees, of the same place."""
    dangling: tuple[str, ...]
    """The levels whose place is not there."""


def location(geography: Geography, entity: ResolvedEntity) -> Location:
    """Return a row of the resolved view as a location."""
    columns = {level.column: level.name for level in geography.levels}
    return Location(
        id=entity.id,
        level=entity["level"],
        places={name: entity[column] for column, name in columns.items()},
        name=entity["name"],
        hierarchy=entity["hierarchy"],
        names={tag: entity[f"name_{suffix(tag)}"] for tag in geography.languages},
        hierarchies={tag: entity[f"hierarchy_{suffix(tag)}"] for tag in geography.languages},
        codes={level.name: entity[f"{level.name}_code"] for level in geography.levels if level.code is not None},
        latitude=entity["latitude"],
        longitude=entity["longitude"],
        dangling=tuple(columns[column] for column in entity.dangling),
    )
