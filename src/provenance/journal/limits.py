"""How long an answer is waited for: whoever does not get one in time hangs up, and is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import psycopg

from provenance import drivers
from provenance.errors import TrailUnavailable


def _silent(seconds: float) -> TrailUnavailable:
    return TrailUnavailable(f"the database has not answered within {seconds:g} s; the connection to it is given up")


@contextmanager
def limited(connection: drivers.SyncConnection, seconds: float) -> Generator[None]:
    """Hang up when the server, or the network, has not answered in time.

    Raises:
        TrailUnavailable: it has not.
    """
    lock = threading.Lock()
    over = struck = False

    def strike() -> None:
        nonlocal struck
        with lock:
            if not over:  # pragma: no branch - else the answer has come just as the time was up
                struck = True
                drivers.hang_up(connection)

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    try:
        # In here, for an interruption may come at any time, and it would hang up on whoever has the connection then.
        timer.start()
        yield
    except psycopg.OperationalError as error:
        if struck:
            raise _silent(seconds) from error
        raise
    finally:
        with lock:
            over = True
        timer.cancel()


@asynccontextmanager
async def alimited(connection: drivers.AsyncConnection, seconds: float) -> AsyncGenerator[None]:
    """Hang up in time; see :func:`limited`."""
    struck = False

    def strike() -> None:
        nonlocal struck
        struck = True
        drivers.hang_up(connection)

    timer = asyncio.get_running_loop().call_later(seconds, strike)
    try:
        yield
    except psycopg.OperationalError as error:
        if struck:
            raise _silent(seconds) from error
        raise
    finally:
        timer.cancel()
