"""A journal whose line can be cut, and what waits for it to come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import anyio
import pytest

from provenance.journal import JournalHealth, connections, outage
from provenance.trail import Trail
from tests.support import cluster
from tests.support.proxy import Proxy

PATIENCE = 10.0


@pytest.fixture
def line(provenance_dsn: str) -> Iterator[Proxy]:
    """What the journal connects through."""
    with Proxy(provenance_dsn) as proxy:
        yield proxy


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals have little patience, yet enough for a slow machine to connect, and try again soon."""
    monkeypatch.setattr(connections, "DEADLINE", timedelta(seconds=1))
    monkeypatch.setattr(outage, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(outage, "_LONGEST_PAUSE", 0.05)


def settled(trail: Trail, patience: float = PATIENCE) -> JournalHealth:
    """Wait, with a deadline, until an outage is over and everything that was kept is in the database; return how it went."""
    health = trail.health()

    def over() -> bool:
        nonlocal health
        health = trail.health()
        return health.reachable and health.spool is not None and not health.spool.waiting

    cluster.until(over, "the spool to be replayed", patience)
    return health


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens where nobody tells
            await anyio.sleep(0.005)
