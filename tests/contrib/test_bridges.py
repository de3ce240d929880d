"""WSGI applications inside ASGI ones and the reverse, through the bridges that people use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from a2wsgi import ASGIMiddleware, WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.test import Client

from provenance.context import RequestFrame, current_frame, get_request_id
from provenance.contrib import asgi, wsgi
from provenance.contrib.flask import Provenance
from provenance.contrib.starlette import install
from tests.contrib.flask_app import CHUNKS, create_app
from tests.contrib.samples import REQUEST_ID

HEADERS = {"X-Request-ID": REQUEST_ID}
Frames = list[RequestFrame | None]


def noting(frames: Frames) -> Callable[..., Iterator[bytes]]:
    """Return a WSGI application that notes its frame at the call, and streams its request id."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        frames.append(current_frame())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (f"{get_request_id()}\n".encode() for _ in range(CHUNKS))

    return app


def outside(app: Callable[..., Any], frames: Frames) -> Callable[..., Any]:
    """Return *app* with a probe around it that notes what is left on the thread of the bridge."""

    def probe(environ: dict[str, Any], start_response: Any) -> Any:
        frames.append(current_frame())
        return app(environ, start_response)

    return probe


@pytest.mark.parametrize("bridge", [WsgiToAsgi, WSGIMiddleware], ids=["asgiref", "a2wsgi"])
def test_wsgi_middleware_under_a_bridge(bridge: Callable[[Any], Any]) -> None:
    """Streams know their request, which is over afterwards even where close() is never called; nothing is left."""
    inside: Frames = []
    before: Frames = []
    client = TestClient(bridge(outside(wsgi.ProvenanceMiddleware(noting(inside)), before)))
    for _ in range(2):
        reply = client.get("/", headers=HEADERS)
        assert [REQUEST_ID] == reply.headers.get_list("x-request-id")
        assert [REQUEST_ID] * CHUNKS == reply.text.split()
    assert [True, True] == [frame is not None and frame.closed for frame in inside]
    assert [None, None] == before


@pytest.mark.parametrize("bridge", [WsgiToAsgi, WSGIMiddleware], ids=["asgiref", "a2wsgi"])
def test_bridge_under_the_asgi_middleware(bridge: Callable[[Any], Any]) -> None:
    """A WSGI application in the bridge's thread knows the request of the ASGI middleware outside."""
    reply = TestClient(asgi.ProvenanceMiddleware(bridge(noting([])))).get("/", headers=HEADERS)
    assert [REQUEST_ID] == reply.headers.get_list("x-request-id")
    assert [REQUEST_ID] * CHUNKS == reply.text.split()


@pytest.mark.parametrize("bridge", [WsgiToAsgi, WSGIMiddleware], ids=["asgiref", "a2wsgi"])
def test_middleware_on_both_sides_of_a_bridge(bridge: Callable[[Any], Any]) -> None:
    """Two installations give one header."""
    app = asgi.ProvenanceMiddleware(bridge(wsgi.ProvenanceMiddleware(noting([]))))
    reply = TestClient(app).get("/", headers=HEADERS)
    assert [REQUEST_ID] == reply.headers.get_list("x-request-id")
    assert [REQUEST_ID] * CHUNKS == reply.text.split()


def test_flask_mounted_in_starlette_is_one_request() -> None:
    """Both extensions installed, a2wsgi between them: Flask works under the very id that the response carries."""
    mounted: Flask = create_app([])
    Provenance(mounted)
    app = Starlette(routes=[Mount("/flask", WSGIMiddleware(mounted))])
    install(app)
    replies = [TestClient(app).get("/flask/") for _ in range(2)]
    assert [[reply.text] for reply in replies] == [reply.headers.get_list("x-request-id") for reply in replies]
    assert 2 == len({reply.text for reply in replies})


def test_asgi_application_under_a_wsgi_server() -> None:
    """The ASGI middleware works behind a2wsgi, under a WSGI server and inside the WSGI middleware."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": str(get_request_id()).encode()})

    bridged: Any = ASGIMiddleware(asgi.ProvenanceMiddleware(app))
    for served in (bridged, wsgi.ProvenanceMiddleware(bridged)):
        reply = Client(served).get("/", headers=HEADERS)
        assert ([REQUEST_ID], REQUEST_ID) == (reply.headers.getlist("X-Request-ID"), reply.text)
