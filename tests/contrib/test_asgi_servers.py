"""The ASGI middleware under real servers; every test runs against each of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest
import websockets
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websocket_connect

from tests.contrib.apps import CHUNKS
from tests.contrib.clients import arrival, connect, get, get_bytes, raw, seen
from tests.contrib.samples import ON_THE_WIRE, is_minted
from tests.contrib.servers import HOST, Listening, wait_until


def test_id_goes_in_and_comes_back(asgi_server: Listening, request_id: str) -> None:
    """The application works under the inbound id, the response carries it, and then the request is over."""
    reply = get(asgi_server.port, "/", ("X-Request-ID", request_id))
    assert (200, [request_id], arrival(request_id)) == (reply.status, reply.request_ids, reply.json())
    wait_until(lambda: seen(asgi_server.port, request_id)["closed"] is True, "the request is over")


def test_next_request_of_a_connection_is_another(asgi_server: Listening, request_id: str) -> None:
    """Requests that share a connection share nothing else."""
    with connect(asgi_server.port) as connection:
        replies = [connection.request("/first", headers=[("X-Request-ID", request_id)])]
        replies += [connection.request("/next") for _ in range(2)]
    ids = [reply.json()["request_id"] for reply in replies]
    assert (3, request_id) == (len(set(ids)), ids[0])
    assert [([id_], True) for id_ in ids] == [(reply.request_ids, reply.json()["clean"]) for reply in replies]


@pytest.mark.parametrize(("path", "size"), [("/", None), ("/upload", 300_000)])
def test_pipelined_requests_keep_apart(asgi_server: Listening, path: str, size: int | None) -> None:
    """Requests sent in one go, with small or large bodies, each find their own id and nobody else's actor.

    Uvicorn starts the later ones inside the Context of the one before, while that one is still open.
    """
    ids = [str(uuid4()) for _ in range(5)]
    body = None if size is None else b"x" * size
    sent = [get_bytes(path, b"X-Request-ID: " + id_.encode(), body=body) for id_ in ids]
    replies = raw(asgi_server.port, b"".join(sent), len(sent))
    assert [([id_], id_, True) for id_ in ids] == [
        (reply.request_ids, reply.json()["request_id"], reply.json()["clean"]) for reply in replies
    ]


def test_pipelined_requests_without_an_id_get_different_ones(asgi_server: Listening) -> None:
    """A request that brings no id is not taken for a part of the one before it."""
    replies = raw(asgi_server.port, get_bytes("/") * 5, 5)
    ids = [reply.json()["request_id"] for reply in replies]
    assert (5, [[id_] for id_ in ids]) == (len(set(ids)), [reply.request_ids for reply in replies])


@pytest.mark.parametrize("path", ["/stream", "/twice/stream"])
def test_stream_knows_its_request(asgi_server: Listening, request_id: str, path: str) -> None:
    """A stream has its id to the last chunk."""
    reply = get(asgi_server.port, path, ("X-Request-ID", request_id))
    assert ([request_id], [request_id] * CHUNKS) == (reply.request_ids, reply.lines)


def test_failing_application_leaves_nothing_behind(asgi_server: Listening, request_id: str) -> None:
    """After an exception the request is over and the next one is clean."""
    assert 500 == get(asgi_server.port, "/fails", ("X-Request-ID", request_id)).status
    wait_until(lambda: seen(asgi_server.port, request_id)["closed"] is True, "the request is over")
    reply = get(asgi_server.port, "/")
    assert arrival(reply.request_ids[0]) == reply.json()


@pytest.mark.parametrize("path", ["/own-header", "/twice/own-header"])
def test_header_of_the_application_is_replaced(asgi_server: Listening, request_id: str, path: str) -> None:
    """The response carries our header once, although the application set two; also when installed twice."""
    reply = get(asgi_server.port, path, ("X-Request-ID", request_id))
    assert [request_id] == reply.request_ids


def test_head_carries_the_header(asgi_server: Listening, request_id: str) -> None:
    """A HEAD request is a request."""
    with connect(asgi_server.port) as connection:
        reply = connection.request("/", method="HEAD", headers=[("X-Request-ID", request_id)])
    assert (200, [request_id], b"") == (reply.status, reply.request_ids, reply.body)


def test_state_of_the_lifespan_stays_clean(asgi_server: Listening, request_id: str) -> None:
    """The id is published in this request's state, and not in the one that all requests start from."""
    state = get(asgi_server.port, "/state", ("X-Request-ID", request_id)).json()
    opened = {"pool": "opened at startup"}
    assert {"request": opened | {"request_id": request_id}, "lifespan": opened} == state


def test_many_at_once_keep_apart(asgi_server: Listening) -> None:
    """32 clients at once each read a stream of their own."""
    ids = [str(uuid4()) for _ in range(32)]
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda id_: get(asgi_server.port, "/stream", ("X-Request-ID", id_)), ids))
    assert [([id_], [id_] * CHUNKS) for id_ in ids] == [(reply.request_ids, reply.lines) for reply in replies]


@contextmanager
def websocket(server: Listening, path: str, request_id: str) -> Iterator[ClientConnection]:
    """Open a WebSocket with an inbound id."""
    url = f"ws://{HOST}:{server.port}{path}"
    with websocket_connect(url, additional_headers={"X-Request-ID": request_id}) as connection:
        yield connection


@pytest.mark.parametrize("path", ["/ws", "/twice/ws"])
def test_websocket_carries_the_header(asgi_server: Listening, request_id: str, path: str) -> None:
    """The handshake's response has our header once, and every message is handled inside the request."""
    with websocket(asgi_server, path, request_id) as connection:
        received = []
        for _ in range(2):
            connection.send("which request is this?")
            received.append(connection.recv())
        assert connection.response is not None
        values = connection.response.headers.get_all("X-Request-ID")
    # Granian sends no headers of an application in a handshake.
    assert ([] if asgi_server.name == "granian-asgi" else [request_id]) == values
    assert [request_id] * 2 == received


@pytest.mark.parametrize("path", ["/denied", "/twice/denied"])
def test_denied_websocket_carries_the_header(asgi_server: Listening, request_id: str, path: str) -> None:
    """A response instead of a handshake has our header once."""
    with pytest.raises(websockets.InvalidStatus) as denied, websocket(asgi_server, path, request_id):
        pass
    response = denied.value.response
    assert response.body is not None
    assert (403, [request_id], request_id) == (
        response.status_code,
        response.headers.get_all("X-Request-ID"),
        response.body.decode(),
    )


@pytest.mark.parametrize("second", [b"X-Request-ID", b"x-request-id", b"X-REQUEST-ID"])
def test_repeated_header_is_refused(asgi_server: Listening, request_id: str, second: bytes) -> None:
    """Of two values none is believed, be they equal, and the response has one header."""
    headers = [b"X-Request-ID: " + request_id.encode(), second + b": " + request_id.encode(), b"Connection: close"]
    [reply] = raw(asgi_server.port, get_bytes("/", *headers))
    assert is_minted(reply.json()["request_id"])
    assert arrival(reply.request_ids[0]) == reply.json()


def test_underscored_twin_is_no_request_id(asgi_server: Listening, request_id: str) -> None:
    """A header spelt with underscores is another header."""
    headers = [b"X-Request-ID: " + request_id.encode(), b"X_Request_ID: spoofed", b"Connection: close"]
    [reply] = raw(asgi_server.port, get_bytes("/", *headers))
    assert ([request_id], arrival(request_id)) == (reply.request_ids, reply.json())


@pytest.mark.parametrize("inbound", ON_THE_WIRE.values(), ids=ON_THE_WIRE)
def test_hostile_header_is_refused(asgi_server: Listening, inbound: str, caplog: pytest.LogCaptureFixture) -> None:
    """A hostile value is refused by the server, or dropped by us; then it is neither repeated nor logged."""
    sent = inbound.encode("latin-1")
    [reply] = raw(asgi_server.port, get_bytes("/", b"X-Request-ID: " + sent, b"Connection: close"))
    if reply.status != 200:
        assert reply.status in {400, 431}
        return
    assert is_minted(reply.json()["request_id"])
    assert arrival(reply.request_ids[0]) == reply.json()
    if inbound.strip():
        assert inbound not in caplog.text + asgi_server.output()


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n", "\r\n ", "\r ", "\n "])
def test_line_end_in_a_header_sets_no_header(asgi_server: Listening, request_id: str, line_end: str) -> None:
    """However a server reads a line end inside the value, the response has no header that the client made up."""
    sent = f"X-Request-ID: {request_id}{line_end}Set-Cookie: admin=1".encode()
    for reply in raw(asgi_server.port, get_bytes("/", sent, b"Connection: close")):
        assert [] == reply.values("set-cookie")
        if reply.status == 200:
            assert [True] == [value == request_id or is_minted(value) for value in reply.request_ids]
