"""Which connections have answered lately."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from weakref import WeakKeyDictionary

from provenance import drivers

_LATELY = 5.0
"""Seconds for which a connection that has answered may be trusted to do so again."""

_enough: ContextVar[bool] = ContextVar("provenance_answer_will_do", default=False)


@contextmanager
def a_recent_answer_will_do() -> Generator[None]:
    """Have connections that are taken here not be asked if they have answered lately."""
    try:
        # In here, for an interruption may come at any time, and this would hold for all of the thread's life.
        _enough.set(True)
        yield
    finally:
        _enough.set(False)


class Answered:
    """When the connections of a pool have answered last.

    One that has just done so need not be asked whether it still does, by those who can do again what it is needed for.
    """

    def __init__(self) -> None:
        self._times: WeakKeyDictionary[drivers.AnyConnection, float] = WeakKeyDictionary()

    def note(self, connection: drivers.AnyConnection) -> None:
        """Note that a connection has answered just now."""
        self._times[connection] = monotonic()

    def will_do(self, connection: drivers.AnyConnection) -> bool:
        """Return whether a connection need not be asked."""
        return _enough.get() and monotonic() - self._times.get(connection, -_LATELY) < _LATELY
