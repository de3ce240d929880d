"""The connection a command works on."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, Unpack
from uuid import UUID

import click
import psycopg
from psycopg import conninfo
from psycopg.errors import Diagnostic

from provenance.archive.reading import ArchivedActions
from provenance.changes import ChangeRepository
from provenance.cli.output import clean
from provenance.cli.problems import Misuse
from provenance.models import Action, ActionTree, Page
from provenance.repository import ActionRepository, Filters
from provenance.trail import Trail
from provenance.translation import address_parts
from provenance.values import Identifier

# A person is waiting, or a deploy that can try again.
_DEFAULTS = {"connect_timeout": "10", "fallback_application_name": "provenance", "client_encoding": "utf8"}


def address(dsn: str | None) -> str:
    """Return the address with our defaults added.

    Raises:
        Misuse: there is none.
        NotConfigured: it is malformed.
    """
    if dsn is None:
        raise Misuse("no database address; give --dsn, or set PROVENANCE_DSN")
    return conninfo.make_conninfo("", **(_DEFAULTS | address_parts(dsn)))


@contextmanager
def connected(dsn: str | None) -> Generator[psycopg.Connection[Any]]:
    """Yield a connection in autocommit mode; warnings of the server go to standard error."""
    # No command runs a statement so often that preparing it would pay, and behind a pooler that would fail.
    with psycopg.connect(address(dsn), autocommit=True, prepare_threshold=None) as connection:
        connection.add_notice_handler(_warn)
        yield connection


@contextmanager
def recording(dsn: str | None, spool: Path | None = None) -> Generator[Trail]:
    """Yield what records actions."""
    # The trail's pool tries again for seconds, and logs each attempt, before it says that there is no connection, and not
    # why. So the database is reached without it first.
    with connected(dsn):
        pass
    # What becomes of its connections is no news to whoever reads one sentence.
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
    with Trail(address(dsn), spool=spool) as trail:
        yield trail


class Actions(Protocol):
    """What reads actions, in a database or in an archive."""

    def get(self, action_id: UUID) -> Action | None: ...
    def tree(self, action_id: UUID) -> ActionTree | None: ...
    def entity_history(
        self, entity_type: str, entity_id: Identifier, *, before: UUID | None = None, limit: int = 50
    ) -> Page[Action]: ...
    def search(self, *, before: UUID | None = None, limit: int = 50, **wanted: Unpack[Filters]) -> Page[Action]: ...


@contextmanager
def actions(dsn: str | None, archive: Path | None = None) -> Generator[Actions]:
    """Yield what reads the trail, or an archive of it."""
    if archive is not None:
        yield ArchivedActions(archive)
        return
    with connected(dsn) as connection:
        yield ActionRepository(lambda: nullcontext(connection))


@contextmanager
def changes(dsn: str | None) -> Generator[ChangeRepository]:
    """Yield what reads row changes."""
    with connected(dsn) as connection:
        yield ChangeRepository(lambda: nullcontext(connection))


def _warn(diagnostic: Diagnostic) -> None:
    if diagnostic.severity_nonlocalized == "WARNING":
        click.echo(f"Warning: {clean(diagnostic.message_primary or '')}", err=True)
