"""Tracked blocks: thin over :mod:`provenance.recording`, which decides, and over the trail, which does the I/O."""

from provenance.tracking.block import Parent, bound, track_action
from provenance.tracking.driving import adrive, drive
from provenance.tracking.handles import AsyncTrackedAction, TrackedAction, current_action
from provenance.tracking.hosts import configured_host, default_host, set_default_host

__all__ = [
    "AsyncTrackedAction",
    "Parent",
    "TrackedAction",
    "adrive",
    "bound",
    "configured_host",
    "current_action",
    "default_host",
    "drive",
    "set_default_host",
    "track_action",
]
