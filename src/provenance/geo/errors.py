"""What is wrong with a location."""

from __future__ import annotations

from provenance.errors import ProvenanceError


class ContradictoryLevels(ProvenanceError, ValueError):
    """A place does not lie within another that is named with it; nothing has been written."""
