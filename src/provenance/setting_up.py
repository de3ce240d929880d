"""What a trail of either colour is set up with: its pool, its spool and its options; and whether an action may begin."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, Literal, TypeVar, get_args

from psycopg import capabilities

from provenance import drivers
from provenance.errors import NotConfigured, SchemaNotReady, TrailUnavailable
from provenance.forking import leave_to_parent
from provenance.journal import JournalHealth, Outage, Spool
from provenance.recording import Block
from provenance.statements.recording import Installed
from provenance.tracking.hosts import Durability
from provenance.translation import address_parts
from provenance.values import Redactor

SCHEMA_VERSION = 7
"""The schema this version of the library writes."""

T = TypeVar("T")

SpoolOrPath = Spool | str | PathLike[str]

OnUnavailable = Literal["raise", "spool"]
"""What becomes of new actions while it is known that the journal cannot be reached; see :class:`Trail`."""


# Seconds that a block waits for a connection of the trail's own pool.
_PATIENCE = 10.0


def as_spool(given: SpoolOrPath | None) -> Spool | None:
    if given is None or isinstance(given, Spool):
        return given
    try:
        directory = os.fspath(given)
    except TypeError:
        raise NotConfigured(f"spool: expected a directory or a Spool, got {type(given).__name__}") from None
    if not directory:
        raise NotConfigured("spool: expected a directory, got an empty text; leave it out for none")
    return Spool(directory)


def checked_address(given: str) -> str:
    """Return an address, checked: a pool would try a malformed one again and again."""
    if not given.strip():
        raise NotConfigured(
            'the address of the database is empty; give a conninfo string or URL, such as "postgresql:///app"'
        )
    address_parts(given)
    return given


def pool_maker(
    kind: Callable[..., T], address: str, max_size: int, configure: Callable[..., object]
) -> Callable[[], T]:
    """Return what makes a pool of the trail's own, not opened yet."""
    return partial(
        kind,
        checked_address(address),
        min_size=0,
        max_size=max_size,
        timeout=_PATIENCE,
        open=False,
        name="provenance",
        configure=configure,
    )


class SetUp:
    """What both colours have in common."""

    pool: Any
    _outage: Outage
    _make_pool: Callable[[], Any] | None = None
    """Of the trail's own pool; ``None`` where that was handed in."""

    def __init__(self, redactor: Redactor | None, on_unavailable: OnUnavailable, durability: Durability) -> None:
        # Pipeline mode, which puts several statements into one round trip, needs libpq 14.
        capabilities.has_pipeline(check=True)
        if on_unavailable not in get_args(OnUnavailable):
            raise NotConfigured(f'on_unavailable: expected "raise" or "spool", not {on_unavailable!r}')
        if durability not in get_args(Durability):
            raise NotConfigured(f'durability: expected "atomic" or "intent", not {durability!r}')
        self.durability: Durability = durability
        self._fail_closed = on_unavailable == "raise"
        self.redactor = redactor or Redactor()
        self.ready = False
        """The schema has been seen to be there."""
        self._closed = False
        self.abandoned: deque[Block] = deque()
        """Blocks that nobody can leave any more; what they hold is given back when the next one is entered."""

    def start_afresh(self) -> None:
        """Take another pool in a child process, if it is the trail's own, and let go of what the parent has borrowed."""
        self.abandoned = deque()
        if self._make_pool is not None:
            leave_to_parent(self.pool)
            self.pool = self._make_pool()

    def health(self) -> JournalHealth:
        """Return whether the journal can be reached, and what became of its rows; looks at each file of the spool."""
        return self._outage.health()

    def _check_open(self) -> None:
        """See that a new action may begin.

        Raises:
            TrailUnavailable: the trail is closed, or is told to refuse work whose failure it could not record.
        """
        if self._closed:
            raise TrailUnavailable("this trail is closed; nothing has been done yet")
        if self._fail_closed and self._outage.down:
            raise TrailUnavailable(
                "the journal cannot be reached, so that a failure could not be recorded; nothing has been done yet; new "
                "actions are refused until it can, as on_unavailable says"
            )

    def _may_wait(self, connection: drivers.AnyConnection | None) -> bool:
        """Whether work may begin although the database cannot be seen: it needs none now, and its row can be kept."""
        return connection is None and self._outage.keeps and not self._fail_closed

    @contextmanager
    def _perhaps_later(self, connection: drivers.AnyConnection | None) -> Generator[None]:
        """Let work begin that may wait for the database, although the schema cannot be seen."""
        try:
            yield
        except TrailUnavailable as error:
            if not self._may_wait(connection):
                raise
            self._outage.begin(error)

    def _schema_found(self, found: Installed) -> None:
        if found.version < SCHEMA_VERSION:
            raise SchemaNotReady(
                f"the provenance schema is at version {found.version} in this database, and version {SCHEMA_VERSION} is "
                "needed; run `provenance migrate up`"
            )
        if found.on_citus:
            drivers.send_apart()
        self.ready = True
        self._outage.wake()
