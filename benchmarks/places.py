"""Where work is measured: what the server does to keep it, and how far away it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

import attrs
from psycopg.conninfo import make_conninfo

from benchmarks.delay import delayed
from tests.support.cluster import Cluster

_DISTANCE = 0.000_5
"""Seconds that a round trip takes longer, as between two machines in a data centre."""

_LOSSY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@attrs.frozen
class Place:
    """A server, and the way to it."""

    meaning: str
    durable: bool = False
    """Whether the server waits for its disk."""
    pinned: bool = False
    """Whether client and server share one processor, so that the work of both adds up instead of overlapping."""
    over_tcp: bool = False
    distant: bool = False


PLACES = {
    "local": Place("a Unix socket, fsync off"),
    "pinned": Place("a Unix socket, fsync off, client and server on one processor", pinned=True),
    "durable": Place("a Unix socket, fsync on", durable=True),
    "tcp": Place("TCP over loopback, fsync off", over_tcp=True),
    "distant": Place("0.5 ms more for each round trip, fsync off", distant=True),
}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def _pinned() -> Generator[None]:
    before = os.sched_getaffinity(0)
    # What is started from here on inherits it.
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _running(place: Place) -> Generator[str]:
    port = _free_port() if place.over_tcp else None
    with Cluster(port=port, settings=() if place.durable else _LOSSY) as cluster:
        yield cluster.conninfo if port is None else make_conninfo(cluster.conninfo, host="127.0.0.1", sslmode="disable")


@contextmanager
def at(place: Place) -> Generator[str]:
    """Yield the address of a new server."""
    if place.pinned:
        with _pinned(), _running(place) as address:
            yield address
    elif place.distant:
        with _running(place) as address, delayed(address, _DISTANCE) as longer:
            yield longer
    else:
        with _running(place) as address:
            yield address
