"""What must not be shared with a child process: locks, threads, and connections to the database."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that holds what a child process cannot use."""

    def start_afresh(self) -> None:
        """Let go of it, without touching it: it belongs to the parent still, and may be in any state."""
        ...


_known: WeakSet[Forkable] = WeakSet()

# Kept for as long as the process lives: taking a pool apart would use its locks, which may be held by nobody who is here.
_of_the_parent: list[object] = []


def renew_in_children(thing: Forkable) -> None:
    """Have *thing* start afresh in every process that is forked from here on."""
    _known.add(thing)


def leave_to_parent(thing: object) -> None:
    """Never use *thing* again, and never take it apart."""
    _of_the_parent.append(thing)


def _start_afresh() -> None:
    for thing in list(_known):
        thing.start_afresh()


if hasattr(os, "register_at_fork"):  # pragma: no branch - absent on Windows, where there is no fork
    os.register_at_fork(after_in_child=_start_afresh)
