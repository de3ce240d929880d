"""Says of work outside the database, for as long as its process lives, that it is under way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from provenance.context import CurrentAction
from provenance.errors import TrailUnavailable
from provenance.forking import renew_in_children
from provenance.statements import Statement, intents

logger = logging.getLogger("provenance")

# Seconds between two signs of life: a lease outlasts some that are missed.
_EVERY = intents.LEASE.total_seconds() / 6


class Heartbeat:
    """A thread that is there while work outside the database is. Safe to use from several threads.

    Args:
        attempt: runs a statement in a durable transaction of its own, from any thread.
    """

    def __init__(self, attempt: Callable[[Statement[Any]], object]) -> None:
        self._attempt = attempt
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Forget the work, as after a fork: it is done by the parent."""
        self._lock = threading.Lock()
        self._work: list[CurrentAction] = []
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def begin(self, work: CurrentAction) -> None:
        """Say of *work* that it is under way, until it is not open any more."""
        with self._lock:
            self._work.append(work)
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._beat, name="provenance-heartbeat", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop. What is still under way is unknown once its lease is over."""
        self._stopped.set()
        if (thread := self._thread) is not None:
            thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(_EVERY):
            with self._lock:
                self._work = [work for work in self._work if work.open]
                if not self._work:
                    self._thread = None
                    return
                action_ids = [work.ref.id for work in self._work]
            try:
                self._attempt(intents.extend(action_ids))
            except (psycopg.Error, TrailUnavailable) as error:
                # While this lasts the work shows as unknown, which it is to everybody else; and it may still end well.
                logger.warning("provenance: it cannot be said that work is under way (%s)", type(error).__name__)
