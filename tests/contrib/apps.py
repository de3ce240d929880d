"""Bare WSGI and ASGI applications that tell what they see of their request; served by real servers in the tests.

``/seen/<request id>`` tells later what is known of an earlier request. Both applications are wrapped twice: from
outside by a probe that looks for frames the server or the middleware left behind, and below ``/twice`` by a second
installation.
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from provenance.context import RequestFrame, current_frame, get_request_id, innermost_action, set_actor
from provenance.contrib.asgi import ProvenanceMiddleware as ASGIMiddleware
from provenance.contrib.wsgi import ProvenanceMiddleware as WSGIMiddleware

CHUNKS = 3
_frames: dict[str, RequestFrame] = {}
_on_close: dict[str, str] = {}


def _id() -> str:
    return str(get_request_id())


def _arrive(path: str, leaked: bool) -> bytes:
    frame = current_frame()
    assert frame is not None
    # Nobody has said who acts yet: whoever is found here has been left behind by another request.
    stranger, action = frame.user_id, innermost_action()
    set_actor(user_id=path)
    _frames[_id()] = frame
    return json.dumps(
        {
            "request_id": _id(),
            "correlation_id": frame.correlation_id,
            "clean": stranger is None and action is None,
            "leaked": leaked,
        }
    ).encode()


def _seen(request_id: str) -> bytes:
    frame = _frames.get(request_id)
    closed = None if frame is None else frame.closed
    return json.dumps({"closed": closed, "on_close": _on_close.get(request_id)}).encode()


class _Stream:
    """Chunks that name the current request, and a ``close()`` that notes it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._request_id = _id()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        _on_close[self._request_id] = _id()


def _ids() -> Iterator[bytes]:
    for _ in range(CHUNKS):
        yield f"{_id()}\n".encode()


def _endless() -> Iterator[bytes]:
    while True:
        yield b" " * (1 << 16)


def _breaking() -> Iterator[bytes]:
    yield f"{_id()}\n".encode()
    raise RuntimeError("the body broke off")


_TEXT = [("Content-Type", "text/plain")]


def _wsgi_inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:  # noqa: PLR0911
    path = environ["PATH_INFO"].removeprefix("/twice")
    if path.startswith("/seen/"):
        start_response("200 OK", _TEXT)
        return [_seen(path.removeprefix("/seen/"))]
    arrival = _arrive(path, environ["test.leaked"])
    match path:
        case "/fails":
            raise RuntimeError("the application failed")
        case "/stream":
            start_response("200 OK", _TEXT)
            return _Stream(_ids())
        case "/endless":
            start_response("200 OK", _TEXT)
            return _Stream(_endless())
        case "/breaks":
            start_response("200 OK", _TEXT)
            return _Stream(_breaking())
        case "/lazy":
            return _lazy(start_response)
        case "/write":
            write = start_response("200 OK", _TEXT)
            write(f"{_id()}\n".encode())
            return [f"{_id()}\n".encode()]
        case "/file":
            start_response("200 OK", _TEXT)
            return environ["wsgi.file_wrapper"](io.BytesIO(arrival), 1 << 16)  # type: ignore[no-any-return]
        case "/upload":
            received = len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            start_response("200 OK", [*_TEXT, ("X-Received", str(received))])
            return [arrival]
        case "/own-header":
            start_response("200 OK", [*_TEXT, ("x-request-id", "theirs"), ("X-REQUEST-ID", "theirs too")])
            return [arrival]
        case _:
            start_response("200 OK", [*_TEXT, ("Content-Length", str(len(arrival)))])
            return [arrival]


def _lazy(start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", _TEXT)
    yield from _ids()


_wsgi_once = WSGIMiddleware(_wsgi_inner)
_wsgi_twice = WSGIMiddleware(_wsgi_once)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application, with the probe outermost."""
    environ["test.leaked"] = current_frame() is not None
    app = _wsgi_twice if environ["PATH_INFO"].startswith("/twice") else _wsgi_once
    return app(environ, start_response)


_Send = Callable[[dict[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_HEADERS = [(b"content-type", b"text/plain")]
_lifespan_state: dict[str, Any] = {}


async def _respond(send: _Send, chunks: Iterable[bytes], headers: list[tuple[bytes, bytes]] = _HEADERS) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _received(receive: _Receive) -> int:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message.get("more_body", False)
    return size


async def _websocket(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    await receive()
    if scope["path"].removeprefix("/twice") == "/denied":
        await send({"type": "websocket.http.response.start", "status": 403, "headers": _HEADERS})
        await send({"type": "websocket.http.response.body", "body": _id().encode()})
        return
    await send({"type": "websocket.accept", "headers": [(b"X-Request-Id", b"theirs")]})
    message = await receive()
    while message["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": _id()})
        message = await receive()


async def _lifespan(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    _lifespan_state["shared"] = scope["state"]
    scope["state"]["pool"] = "opened at startup"
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _asgi_inner(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    path = scope["path"].removeprefix("/twice")
    if path.startswith("/seen/"):
        await _respond(send, [_seen(path.removeprefix("/seen/"))])
        return
    arrival = _arrive(path, scope["test.leaked"])
    match path:
        case "/fails":
            raise RuntimeError("the application failed")
        case "/stream":
            await _respond(send, _ids())
        case "/upload":
            received = await _received(receive)
            await _respond(send, [arrival], [*_HEADERS, (b"x-received", str(received).encode())])
        case "/own-header":
            await _respond(send, [arrival], [*_HEADERS, (b"x-request-id", b"theirs"), (b"X-REQUEST-ID", b"theirs")])
        case "/state":
            states = {"request": scope["state"], "lifespan": _lifespan_state["shared"]}
            await _respond(send, [json.dumps(states).encode()])
        case _:
            await _respond(send, [arrival], [*_HEADERS, (b"content-length", str(len(arrival)).encode())])


_asgi_once = ASGIMiddleware(lambda s, r, w: (_websocket if s["type"] == "websocket" else _asgi_inner)(s, r, w))
_asgi_twice = ASGIMiddleware(_asgi_once)


async def asgi(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    """The ASGI application, with the probe outermost."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
        return
    frame = current_frame()
    scope["test.leaked"] = frame is not None
    await (_asgi_twice if scope["path"].startswith("/twice") else _asgi_once)(scope, receive, send)
