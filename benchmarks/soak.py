"""The workload of a long day: whether a process that serves requests gives back what each of them needed."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, LiteralString

import attrs
import psycopg

from benchmarks.measuring import Comparison, Times
from provenance import AsyncTrail, Trail, ids, schema, set_actor
from provenance.contrib import asgi, wsgi

_AT_ONCE = 4
"""How many requests of each kind are served at a time."""
_ROWS = 100
_ACTIONS = 2
"""How many a request has, one inside the other."""
_PER_QUARTER = 5
_QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
# The first quarter fills pools and caches. What grows by less than this is lost in what the allocator does.
_BEFORE, _AFTER, _AT_MOST = _QUARTERS[1], _QUARTERS[3], 1.02

_UPDATE: LiteralString = "UPDATE counters SET value = value + 1 WHERE id = %s"
_PAYLOAD = {"amount": "12.50", "note": "monthly subscription, second reminder", "password": "correct horse"}


class _RefusedError(Exception):
    """What one action in five ends with: what an exception holds on to is kept the most easily."""


@attrs.frozen
class _Measurement:
    """What there is in this process between two requests."""

    mebibytes: float
    objects: int

    @classmethod
    def now(cls) -> _Measurement:
        gc.collect()
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(resident_pages * os.sysconf("SC_PAGESIZE") / 2**20, len(gc.get_objects()))


class _Service:
    """Two applications that do the same, and all that is around them."""

    def __init__(self, trail: Trail, async_trail: AsyncTrail) -> None:
        self._trail = trail
        self._async_trail = async_trail
        self._wsgi = wsgi.ProvenanceMiddleware(self._stream)
        self._asgi = asgi.ProvenanceMiddleware(self._answer)
        self._numbers = count()
        self.requests = 0

    async def serve_some(self) -> None:
        """Serve a few requests of both kinds at once, each with a task or a thread of its own."""
        numbers = [next(self._numbers) for _ in range(2 * _AT_ONCE)]
        await asyncio.gather(
            *(asyncio.to_thread(self._call_wsgi, number) for number in numbers[:_AT_ONCE]),
            *(self._call_asgi(number) for number in numbers[_AT_ONCE:]),
        )
        self.requests += len(numbers)

    # -- WSGI: a body that does its work while it is streamed --

    def _stream(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        number = int(environ["PATH_INFO"][1:])
        set_actor(user_id=f"user {number % 10}")
        with suppress(_RefusedError), self._trail.track_action("count", concept="counter", payload=_PAYLOAD) as outer:
            outer.connection.execute(_UPDATE, (number % _ROWS,))
            yield b"one, "
            with self._trail.track_action("count again", concept="counter", entity_id=number) as inner:
                inner.connection.execute(_UPDATE, (number % _ROWS,))
                if number % 5 == 0:
                    raise _RefusedError(f"no {number}")
        yield b"two"

    def _call_wsgi(self, number: int) -> None:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/{number}"}
        if number % 2:
            environ["HTTP_X_REQUEST_ID"] = str(ids.new_id())
        body: Any = self._wsgi(environ, lambda status, headers, exc_info=None: lambda data: None)
        try:
            for _ in body:
                pass
        finally:
            body.close()

    # -- ASGI --

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"][1:])
        set_actor(user_id=f"user {number % 10}")
        with suppress(_RefusedError):
            async with self._async_trail.track_action("count", concept="counter", payload=_PAYLOAD) as outer:
                await outer.connection.execute(_UPDATE, (number % _ROWS,))
                async with self._async_trail.track_action("count again", concept="counter", entity_id=number) as inner:
                    await inner.connection.execute(_UPDATE, (number % _ROWS,))
                    if number % 5 == 0:
                        raise _RefusedError(f"no {number}")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"one, two"})

    async def _call_asgi(self, number: int) -> None:
        headers = [(b"x-request-id", str(ids.new_id()).encode())] if number % 2 else []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            pass

        await self._asgi({"type": "http", "path": f"/{number}", "headers": headers}, receive, send)


def _set_up(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection)
        connection.execute(
            "CREATE TABLE counters (id integer PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 50)"
        )
        connection.execute("INSERT INTO counters SELECT i, 0 FROM generate_series(0, %s) AS i", (_ROWS - 1,))


def _check(address: str, requests: int) -> None:
    with psycopg.connect(address) as connection:
        ((recorded,),) = connection.execute("SELECT count(*) FROM provenance.actions").fetchall()
    if recorded != requests * _ACTIONS:
        raise RuntimeError(f"{requests:,} requests were served, and {recorded:,} actions recorded")


async def _soak(address: str, seconds: float) -> tuple[int, list[_Measurement]]:
    """Return how many requests were served, and what was there at moments that are equally far apart."""
    found: list[_Measurement] = []
    moments = len(_QUARTERS) * _PER_QUARTER
    with Trail(address, max_size=_AT_ONCE) as trail:
        async with AsyncTrail(address, max_size=_AT_ONCE) as async_trail:
            service = _Service(trail, async_trail)
            begun = monotonic()
            for moment in range(1, moments + 1):
                await service.serve_some()
                while monotonic() < begun + seconds * moment / moments:
                    await service.serve_some()
                found.append(_Measurement.now())
    return service.requests, found


def _by_quarter(values: Sequence[float]) -> dict[str, Sequence[float]]:
    return {name: values[i * _PER_QUARTER : (i + 1) * _PER_QUARTER] for i, name in enumerate(_QUARTERS)}


def run(address: str, seconds: float) -> list[Comparison]:
    """Measure what a process needs that serves requests for so many seconds, on an empty database."""
    _set_up(address)
    requests, found = asyncio.run(_soak(address, seconds))
    _check(address, requests)
    method = (
        f"{requests:,} requests in {seconds:,.6g} s, half of them through the WSGI and half through the ASGI middleware, "
        f"{2 * _AT_ONCE} at a time, each with an action inside another one; a fifth of the inner ones fail. "
        "Each sample is taken between requests, after a collection."
    )
    kept: list[tuple[str, str, int, list[float]]] = [
        ("memory", "MiB", 1, [measurement.mebibytes for measurement in found]),
        ("objects", "objects", 0, [measurement.objects for measurement in found]),
    ]
    return [
        Comparison(
            title=f"The {what} of a process that serves",
            method=method,
            unit=unit,
            digits=digits,
            samples=_by_quarter(values),
            baseline=_BEFORE,
            goals=[Times(_AFTER, _AT_MOST)],
        )
        for what, unit, digits, values in kept
    ]
