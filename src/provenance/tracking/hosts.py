"""Which trail a block records into."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, Protocol

from provenance.errors import NotConfigured
from provenance.recording import Block, Colour, Step
from provenance.values import Redactor

Durability = Literal["atomic", "intent"]
"""When an action can be known of: once its outcome is recorded, or from before its body runs, whatever ends its process."""


class Host(Protocol):
    """What a block needs of the sync trail it records into."""

    @property
    def colour(self) -> Colour: ...
    @property
    def redactor(self) -> Redactor: ...
    @property
    def durability(self) -> Durability: ...
    @property
    def ready(self) -> bool:
        """Whether the schema has been seen to be there."""
        ...

    @property
    def abandoned(self) -> deque[Block]:
        """Where a block is put that nobody can leave any more."""
        ...

    def perform(self, step: Step) -> Any: ...


class AsyncHost(Protocol):
    """What a block needs of the async trail it records into."""

    @property
    def colour(self) -> Colour: ...
    @property
    def redactor(self) -> Redactor: ...
    @property
    def durability(self) -> Durability: ...
    @property
    def ready(self) -> bool: ...
    @property
    def abandoned(self) -> deque[Block]: ...
    async def perform(self, step: Step) -> Any: ...


# The trails that module-level blocks record into; provenance.configure() sets them.
_default_hosts: dict[Colour, Any] = {}


def set_default_host(colour: Colour, host: Host | AsyncHost | None) -> None:
    """Make *host* the one that blocks of a colour use when they are not made by a trail."""
    if host is None:
        _default_hosts.pop(colour, None)
    else:
        _default_hosts[colour] = host


def configured_host(colour: Colour) -> Any:
    """Return the host for a colour, or ``None``."""
    return _default_hosts.get(colour)


def default_host(colour: Colour) -> Any:
    """Return the host for a colour.

    Raises:
        NotConfigured: there is none; the message says what to call.
    """
    if (host := configured_host(colour)) is not None:
        return host
    if _default_hosts:
        other = Colour.ASYNC if colour is Colour.SYNC else Colour.SYNC
        pool = "pool=" if colour is Colour.SYNC else "async_pool="
        raise NotConfigured(
            f"`{colour.value}` needs a trail of its colour, but only `{other.value}` is configured; "
            f"use `{other.value}`, or pass {pool} to provenance.configure()"
        )
    raise NotConfigured("no trail is configured; call provenance.configure(dsn) once, before the first action")
