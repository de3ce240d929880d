"""Locations: opaque ids for places, however many levels of them an application knows, instead of a column for each level."""

from provenance.geo.batches import Moved, add_reference, backfill, carry_back, drop_reference
from provenance.geo.errors import ContradictoryLevels
from provenance.geo.level_columns import LevelColumns, reference_sql
from provenance.geo.levels import Geography, Level
from provenance.geo.models import Location
from provenance.geo.repository import AsyncGeoRepository, GeoRepository

__all__ = [
    "AsyncGeoRepository",
    "ContradictoryLevels",
    "GeoRepository",
    "Geography",
    "Level",
    "LevelColumns",
    "Location",
    "Moved",
    "add_reference",
    "backfill",
    "carry_back",
    "drop_reference",
    "reference_sql",
]
