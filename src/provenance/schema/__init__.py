"""The database schema: numbered migrations, the runner that applies them, and the check that nothing has drifted."""

from provenance.schema.catalogue import verify
from provenance.schema.migrations import Migration, known_migrations
from provenance.schema.obstacles import obstacles
from provenance.schema.plain import script
from provenance.schema.runner import Applied, MigrationState, down, status, up

__all__ = [
    "Applied",
    "Migration",
    "MigrationState",
    "down",
    "known_migrations",
    "obstacles",
    "script",
    "status",
    "up",
    "verify",
]
