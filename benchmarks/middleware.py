"""The workload of a request: what it costs to give it an id that all its code can ask for, and its response that id.

No server, no framework and no event loop: an application that does next to nothing is called, and what is around it counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from importlib.metadata import version
from time import thread_time_ns
from typing import Any

from benchmarks.measuring import Comparison, Goal, Times, interleaved
from provenance.contrib import asgi, wsgi

# Short turns, and many of them: what else the machine does comes and goes within a second, and meets all variants alike.
_CALLS = 100
_TURNS = 20
_WARM_UP = 200

_INBOUND = "0af76519-16cd-43dd-8448-eb211c80319c"

_BY_HAND = "by hand"
_OURS = "provenance"

Call = Callable[[], None]

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def _installed(peers: Mapping[str, Callable[[Any], Any]], app: Any) -> dict[str, Any]:
    """Return the application inside each peer that is there: nobody needs them for anything else."""
    found: dict[str, Any] = {}
    for name, make in peers.items():
        with suppress(ModuleNotFoundError):
            found[f"{name} {version(name)}"] = make(app)
    return found


# -- ASGI --------------------------------------------------------------------------------------------------------------


async def _asgi_application(scope: Any, receive: Any, send: Any) -> None:
    # New ones for each request: there is middleware that adds to the list.
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


class _AsgiByHand:
    """What one writes who needs no more: the caller's id or a new one, in a context variable and in the response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = found.decode("latin-1") if found else str(uuid.uuid4())
        token = _request_id.set(request_id)

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _request_id.reset(token)


def _scope(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


_HEADERS = [(b"host", b"localhost"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")]


def _asgi_call(app: Any, headers: list[tuple[bytes, bytes]]) -> Call:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    def call() -> None:
        running = app(_scope(headers), receive, send)
        try:
            running.send(None)
        except StopIteration:
            return
        raise RuntimeError("the application waits for something")

    return call


def _asgi_variants(inbound: str | None) -> dict[str, Call]:
    headers = _HEADERS if inbound is None else [*_HEADERS, (b"x-request-id", inbound.encode())]
    variants: dict[str, Any] = {
        "bare": _asgi_application,
        _BY_HAND: _AsgiByHand(_asgi_application),
        _OURS: asgi.ProvenanceMiddleware(_asgi_application),
        **_installed(_ASGI_PEERS, _asgi_application),
    }
    return {name: _asgi_call(app, headers) for name, app in variants.items()}


def _correlation_id(app: Any) -> Any:
    from asgi_correlation_id import CorrelationIdMiddleware  # noqa: PLC0415 - need not be installed

    return CorrelationIdMiddleware(app)


def _starlette_context(app: Any) -> Any:
    from starlette_context.middleware import RawContextMiddleware  # noqa: PLC0415 - need not be installed
    from starlette_context.plugins import RequestIdPlugin  # noqa: PLC0415

    return RawContextMiddleware(app, plugins=(RequestIdPlugin(),))


def _opentelemetry_asgi(app: Any) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415 - need not be installed

    return OpenTelemetryMiddleware(app)


_ASGI_PEERS: Mapping[str, Callable[[Any], Any]] = {
    "asgi-correlation-id": _correlation_id,
    "starlette-context": _starlette_context,
    "opentelemetry-instrumentation-asgi": _opentelemetry_asgi,
}


# -- WSGI --------------------------------------------------------------------------------------------------------------


def _wsgi_application(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


class _WsgiByHand:
    """As for ASGI: in a context of the request's own, so that nothing stays behind on the thread."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        request_id = environ.get("HTTP_X_REQUEST_ID") or str(uuid.uuid4())

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", request_id)], exc_info)

        def served() -> Iterable[bytes]:
            _request_id.set(request_id)
            chunks: Iterable[bytes] = self._app(environ, start)
            return chunks

        return copy_context().run(served)


def _wsgi_call(app: Any, headers: Mapping[str, str]) -> Call:
    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        pass

    def call() -> None:
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "HTTP_USER_AGENT": "benchmark",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            **headers,
        }
        chunks = app(environ, start_response)
        for _ in chunks:
            pass
        if (close := getattr(chunks, "close", None)) is not None:
            close()

    return call


def _opentelemetry_wsgi(app: Any) -> Any:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware  # noqa: PLC0415 - need not be installed

    return OpenTelemetryMiddleware(app)


_WSGI_PEERS: Mapping[str, Callable[[Any], Any]] = {"opentelemetry-instrumentation-wsgi": _opentelemetry_wsgi}


def _wsgi_variants(inbound: str | None) -> dict[str, Call]:
    headers = {} if inbound is None else {"HTTP_X_REQUEST_ID": inbound}
    variants: dict[str, Any] = {
        "bare": _wsgi_application,
        _BY_HAND: _WsgiByHand(_wsgi_application),
        _OURS: wsgi.ProvenanceMiddleware(_wsgi_application),
        **_installed(_WSGI_PEERS, _wsgi_application),
    }
    return {name: _wsgi_call(app, headers) for name, app in variants.items()}


# -- both --------------------------------------------------------------------------------------------------------------


def _taken(call: Call) -> float:
    """Return the microseconds of processor time that a call takes."""
    begun = thread_time_ns()
    for _ in range(_CALLS):
        call()
    return (thread_time_ns() - begun) / 1_000 / _CALLS


def _added(samples: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return what each variant adds to the bare application of its round."""
    bare = samples["bare"]
    return {
        name: [taken - base for taken, base in zip(its, bare, strict=True)]
        for name, its in samples.items()
        if name != "bare"
    }


def _compared(title: str, variants: Mapping[str, Call], rounds: int, goals: Sequence[Goal] = ()) -> Comparison:
    for call in variants.values():
        for _ in range(_WARM_UP):
            call()
    turns = {name: lambda call=call: _taken(call) for name, call in variants.items()}
    samples = interleaved(turns, rounds=rounds * _TURNS)
    return Comparison(
        title=title,
        method=f"Processor time that is added to an application that answers at once. Each sample is {_CALLS:,} requests. "
        "OpenTelemetry is without an SDK, so that it records nothing.",
        unit="µs",
        digits=2,
        samples=_added(samples),
        baseline=_BY_HAND,
        goals=goals,
    )


def run(rounds: int) -> list[Comparison]:
    """Measure what a request costs with middleware around the application.

    The goals are for requests that bring no id. Of one that brings one, what is written by hand believes every word: it
    says what not looking saves, and is nothing to keep to.
    """
    return [
        _compared("A request to an ASGI application", _asgi_variants(None), rounds, [Times(_OURS, 1.5)]),
        _compared("A request to a WSGI application", _wsgi_variants(None), rounds, [Times(_OURS, 1.0)]),
        _compared("A request that brings its id to an ASGI application", _asgi_variants(_INBOUND), rounds),
        _compared("A request that brings its id to a WSGI application", _wsgi_variants(_INBOUND), rounds),
    ]
