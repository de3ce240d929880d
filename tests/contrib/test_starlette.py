"""The middleware in Starlette and FastAPI, with their test client and behind uvicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import websockets
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from websockets.sync.client import connect as websocket_connect

from provenance.contrib import asgi
from provenance.contrib.starlette import ProvenanceMiddleware, install
from tests.contrib import servers
from tests.contrib.clients import get, get_bytes, raw
from tests.contrib.samples import REQUEST_ID, is_minted
from tests.contrib.starlette_app import CHUNKS, Notes, create_app, create_fastapi_app, noting_user

HEADERS = {"X-Request-ID": REQUEST_ID}


def added(notes: Notes) -> Starlette:
    app = create_app(notes)
    app.add_middleware(ProvenanceMiddleware)
    return app


def listed(notes: Notes) -> Starlette:
    return create_app(notes, [Middleware(ProvenanceMiddleware, trust=True)])


def installed(notes: Notes) -> Starlette:
    app = create_app(notes)
    install(app)
    return app


def wrapped(notes: Notes) -> asgi.ProvenanceMiddleware:
    return asgi.ProvenanceMiddleware(create_app(notes))


def all_of_them(notes: Notes) -> asgi.ProvenanceMiddleware:
    app = create_app(notes, [Middleware(ProvenanceMiddleware)])
    install(app)
    app.add_middleware(ProvenanceMiddleware)
    return asgi.ProvenanceMiddleware(app)


Installation = Callable[[Notes], Starlette]
EVERY_WAY = pytest.mark.parametrize("create", [added, listed, installed, wrapped, all_of_them])


def client_of(app: Starlette | FastAPI) -> TestClient:
    """Return a client that sees a 500 as a browser does, not as an exception."""
    return TestClient(app, raise_server_exceptions=False)


@EVERY_WAY
@pytest.mark.parametrize("prefix", ["", "/mounted"])
@pytest.mark.parametrize("path", ["/", "/sync", "/own-header", "/missing"])
def test_every_response_carries_the_header_once(create: Installation, prefix: str, path: str) -> None:
    """However it is installed, and however often, also in a mounted application."""
    reply = client_of(create([])).get(prefix + path, headers=HEADERS)
    assert [REQUEST_ID] == reply.headers.get_list("x-request-id")


@EVERY_WAY
@pytest.mark.parametrize(("path", "times"), [("/", 3), ("/sync", 1), ("/own-header", 1), ("/mounted/", 3)])
def test_views_know_the_request(create: Installation, path: str, times: int) -> None:
    """Views of both colours and threads they use run inside the request; ``request.state`` has its id."""
    assert " ".join([REQUEST_ID] * times) == client_of(create([])).get(path, headers=HEADERS).text


@EVERY_WAY
@pytest.mark.parametrize("path", ["/stream/sync", "/stream/async", "/mounted/stream/sync"])
def test_streams_know_the_request(create: Installation, path: str) -> None:
    """Generators of both colours have the id to the last chunk."""
    assert [REQUEST_ID] * CHUNKS == client_of(create([])).get(path, headers=HEADERS).text.split()


@EVERY_WAY
def test_background_tasks_know_the_request(create: Installation) -> None:
    """What Starlette runs after the response still belongs to the request."""
    notes: Notes = []
    client_of(create(notes)).get("/background", headers=HEADERS)
    assert [("background", REQUEST_ID)] == notes


@EVERY_WAY
def test_websockets_carry_the_header(create: Installation) -> None:
    """An accepted WebSocket has our header once."""
    with client_of(create([])).websocket_connect("/ws", headers=HEADERS) as socket:
        values = [value for name, value in socket.extra_headers or () if name == b"x-request-id"]
        assert ([REQUEST_ID.encode()], REQUEST_ID) == (values, socket.receive_text())


@pytest.mark.parametrize("create", [installed, wrapped, all_of_them])
def test_unhandled_error_carries_the_header(create: Installation) -> None:
    """Installed outermost, the middleware covers Starlette's own handling of errors: header, context and state."""
    reply = client_of(create([])).get("/fails", headers=HEADERS)
    assert (500, [REQUEST_ID]) == (reply.status_code, reply.headers.get_list("x-request-id"))
    assert f"{REQUEST_ID} {REQUEST_ID}" == reply.text


@pytest.mark.parametrize("debug", [True, False])
def test_unhandled_error_without_a_handler_carries_the_header(debug: bool) -> None:
    """Starlette's own error pages carry the header too."""
    app = create_app([], debug=debug, handler=False)
    install(app)
    reply = client_of(app).get("/fails", headers=HEADERS)
    assert (500, [REQUEST_ID]) == (reply.status_code, reply.headers.get_list("x-request-id"))


def test_unhandled_error_inside_added_middleware_still_finds_the_id() -> None:
    """With ``add_middleware`` the handler of errors is outside, so its response lacks the header, but not the id."""
    reply = client_of(added([])).get("/fails", headers=HEADERS)
    assert (500, []) == (reply.status_code, reply.headers.get_list("x-request-id"))
    assert f"None {REQUEST_ID}" == reply.text


def test_unhandled_error_still_reaches_the_server() -> None:
    """The exception goes on after the response, for the server's log."""
    with pytest.raises(RuntimeError, match=r"^the view failed$"):
        TestClient(installed([])).get("/fails")


@pytest.mark.parametrize("path", ["/", "/sync"])
@pytest.mark.parametrize("outermost", [True, False])
def test_base_http_middleware_in_between(outermost: bool, path: str) -> None:
    """Other middleware that runs the view in a task of its own sees the id, and the actor that the view has set."""
    notes: Notes = []
    if outermost:
        app = create_app(notes, [noting_user(notes)])
        install(app)
    else:
        app = create_app(notes, [Middleware(ProvenanceMiddleware), noting_user(notes)])
    assert REQUEST_ID in client_of(app).get(path, headers=HEADERS).text
    assert [("on the way in", REQUEST_ID), ("actor", f"from the {'loop' if path == '/' else 'pool'}")] == notes


def test_installing_again_changes_nothing() -> None:
    """The first call counts; a later one is no error, even when the application has started."""
    app = create_app([])
    install(app)
    build = app.build_middleware_stack
    install(app, trust=False)
    assert build is app.build_middleware_stack
    client = client_of(app)
    assert REQUEST_ID == client.get("/", headers=HEADERS).headers["x-request-id"]
    install(app)


def test_installing_too_late_is_refused() -> None:
    """Once the first request has fixed the middleware, installing would do nothing, so it is an error."""
    app = create_app([])
    client_of(app).get("/")
    message = "the application has started and its middleware is fixed; call install() before that"
    with pytest.raises(RuntimeError) as info:
        install(app)
    assert message == str(info.value)


def test_middleware_may_be_added_after_installing() -> None:
    """The installation stays outermost whatever is added later."""
    notes: Notes = []
    app = create_app(notes)
    install(app)
    app.user_middleware.append(noting_user(notes))
    client_of(app).get("/sync", headers=HEADERS)
    assert [("on the way in", REQUEST_ID), ("actor", "from the pool")] == notes


def test_options_reach_the_middleware() -> None:
    """The keywords of ``install`` are the middleware's."""
    app = create_app([])
    install(app, header="traceparent", response_header="X-Trace", disclose="X-Own", trust=lambda scope: False)
    reply = client_of(app).get("/", headers=HEADERS | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert [True, True] == [is_minted(reply.headers[name]) for name in ("x-trace", "x-own")]
    assert "x-request-id" not in reply.headers


@pytest.mark.parametrize("path", ["/sync", "/async"])
@pytest.mark.parametrize("outermost", [True, False])
def test_fastapi_dependency_sets_the_actor(path: str, outermost: bool) -> None:
    """An actor set in a sync dependency, in a thread of the pool, is there in the endpoint."""
    app = create_fastapi_app()
    if outermost:
        install(app)
    else:
        app.add_middleware(ProvenanceMiddleware)
    reply = client_of(app).get(path, headers=HEADERS)
    expected = {"dependency": REQUEST_ID, "endpoint": REQUEST_ID, "user": "from a sync dependency"}
    assert (expected, [REQUEST_ID]) == (reply.json(), reply.headers.get_list("x-request-id"))


def test_fastapi_unhandled_error_carries_the_header() -> None:
    """``install`` covers FastAPI's own stack."""
    app = create_fastapi_app()
    install(app)
    reply = client_of(app).get("/fails", headers=HEADERS)
    assert (500, [REQUEST_ID]) == (reply.status_code, reply.headers.get_list("x-request-id"))
    assert f"{REQUEST_ID} {REQUEST_ID}" == reply.text


@pytest.fixture(scope="module")
def notes() -> Notes:
    """What the served application has noted."""
    return []


@pytest.fixture(scope="module")
def server(notes: Notes) -> Iterator[servers.Listening]:
    """Uvicorn, serving an application with ``install`` and a BaseHTTPMiddleware inside."""
    app = create_app(notes, [noting_user(notes)])
    install(app)
    with servers.uvicorn_asyncio(app) as listening:
        yield listening


@pytest.mark.parametrize("path", ["/stream/sync", "/stream/async"])
def test_served_streams_know_the_request(server: servers.Listening, request_id: str, path: str) -> None:
    """Behind uvicorn too, with a BaseHTTPMiddleware in between, streams have the id to the last chunk."""
    reply = get(server.port, path, ("X-Request-ID", request_id))
    assert ([request_id], [request_id] * CHUNKS) == (reply.request_ids, reply.lines)


def test_served_unhandled_errors_carry_the_header(server: servers.Listening, request_id: str) -> None:
    """Behind uvicorn too, a 500 carries the header and knows its id, and the next request is another."""
    failed = get(server.port, "/fails", ("X-Request-ID", request_id))
    following = get(server.port, "/sync")
    assert (500, [request_id], [request_id] * 2) == (failed.status, failed.request_ids, failed.lines)
    assert following.lines == following.request_ids != [request_id]


def test_served_pipelined_requests_keep_apart(server: servers.Listening, notes: Notes, request_id: str) -> None:
    """Pipelined requests, through the thread pool and a background task, each keep to their own id."""
    ids = [request_id, *(f"{request_id[:-1]}{digit}" for digit in "wxyz")]
    sent = b"".join(get_bytes("/background", b"X-Request-ID: " + id_.encode()) for id_ in ids)
    replies = raw(server.port, sent, len(ids))
    assert [[id_] for id_ in ids] == [reply.request_ids for reply in replies]
    seen = [reply.body.decode() for reply in replies]
    assert (len(ids), request_id) == (len(set(seen)), seen[0])
    servers.wait_until(
        lambda: {("background", id_) for id_ in seen} <= set(notes), "all background tasks have run in their requests"
    )


def test_served_websockets_carry_the_header(server: servers.Listening, request_id: str) -> None:
    """Behind uvicorn, accepting and denying a WebSocket both carry the header once."""
    url = f"ws://{servers.HOST}:{server.port}"
    headers = {"X-Request-ID": request_id}
    with websocket_connect(f"{url}/ws", additional_headers=headers) as connection:
        assert connection.response is not None
        assert [request_id] == connection.response.headers.get_all("x-request-id")
        assert request_id == connection.recv()
    with pytest.raises(websockets.InvalidStatus) as denied:
        websocket_connect(f"{url}/denied", additional_headers=headers)
    assert (403, [request_id]) == (
        denied.value.response.status_code,
        denied.value.response.headers.get_all("x-request-id"),
    )
