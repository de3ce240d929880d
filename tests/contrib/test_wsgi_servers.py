"""The WSGI middleware under real servers; every test runs against each of them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.contrib.apps import CHUNKS
from tests.contrib.clients import arrival, connect, get, get_bytes, raw, seen
from tests.contrib.samples import ON_THE_WIRE, is_minted
from tests.contrib.servers import HOST, Listening, wait_until


def test_id_goes_in_and_comes_back(wsgi_server: Listening, request_id: str) -> None:
    """The application works under the inbound id, and the response carries it."""
    reply = get(wsgi_server.port, "/", ("X-Request-ID", request_id))
    assert (200, [request_id], arrival(request_id)) == (reply.status, reply.request_ids, reply.json())


def test_correlation_id_goes_in_and_comes_back(wsgi_server: Listening) -> None:
    """A name that is no UUID is repeated, and kept beside a new request id."""
    reply = get(wsgi_server.port, "/", ("X-Request-ID", "their-name.1"))
    assert is_minted(reply.json()["request_id"])
    assert (["their-name.1"], "their-name.1") == (reply.request_ids, reply.json()["correlation_id"])


def test_next_request_of_a_connection_is_another(wsgi_server: Listening, request_id: str) -> None:
    """Requests that share a connection and a thread share nothing else."""
    with connect(wsgi_server.port) as connection:
        first = connection.request("/first", headers=[("X-Request-ID", request_id)])
        second = connection.request("/second")
        third = connection.request("/third")
    ids = [reply.json()["request_id"] for reply in (first, second, third)]
    assert (3, request_id) == (len(set(ids)), ids[0])
    assert [arrival(id_) for id_ in ids] == [reply.json() for reply in (first, second, third)]
    assert [[id_] for id_ in ids] == [reply.request_ids for reply in (first, second, third)]


@pytest.mark.parametrize("path", ["/stream", "/twice/stream"])
def test_stream_knows_its_request(wsgi_server: Listening, request_id: str, path: str) -> None:
    """A stream has its id to the last chunk and on close; then the request is over."""
    reply = get(wsgi_server.port, path, ("X-Request-ID", request_id))
    assert ([request_id], [request_id] * CHUNKS) == (reply.request_ids, reply.lines)
    wait_until(lambda: seen(wsgi_server.port, request_id)["on_close"] is not None, "the server has closed the body")
    wait_until(lambda: seen(wsgi_server.port, request_id)["closed"] is True, "the request is over")
    assert {"closed": True, "on_close": request_id} == seen(wsgi_server.port, request_id)


def test_client_that_goes_away_ends_the_request(wsgi_server: Listening, request_id: str) -> None:
    """An endless stream whose client has left is closed inside its request, and leaves nothing behind."""
    with socket.create_connection((HOST, wsgi_server.port), 20) as client:
        client.sendall(get_bytes("/endless", b"X-Request-ID: " + request_id.encode()))
        assert client.recv(1)
    wait_until(lambda: seen(wsgi_server.port, request_id)["closed"] is True, "the request is over")
    assert request_id == seen(wsgi_server.port, request_id)["on_close"]
    reply = get(wsgi_server.port, "/")
    assert arrival(reply.request_ids[0]) == reply.json()


def test_list_body_ends_the_request(wsgi_server: Listening, request_id: str) -> None:
    """A body that is complete at once needs no close()."""
    get(wsgi_server.port, "/", ("X-Request-ID", request_id))
    assert {"closed": True, "on_close": None} == seen(wsgi_server.port, request_id)


@pytest.mark.parametrize("path", ["/fails", "/breaks", "/twice/fails"])
def test_failing_application_leaves_nothing_behind(wsgi_server: Listening, request_id: str, path: str) -> None:
    """After an exception, before or amid the body, the request is over and the next one is clean."""
    with socket.create_connection((HOST, wsgi_server.port), 20) as client:
        client.sendall(get_bytes(path, b"X-Request-ID: " + request_id.encode(), b"Connection: close"))
        while client.recv(1 << 16):
            pass
    wait_until(lambda: seen(wsgi_server.port, request_id)["closed"] is True, "the request is over")
    reply = get(wsgi_server.port, "/")
    assert arrival(reply.request_ids[0]) == reply.json()


def test_header_of_the_application_is_replaced(wsgi_server: Listening, request_id: str) -> None:
    """The response carries our header once, although the application set two."""
    reply = get(wsgi_server.port, "/own-header", ("X-Request-ID", request_id))
    assert [request_id] == reply.request_ids


def test_two_installations_give_one_header(wsgi_server: Listening) -> None:
    """Installed twice, the middleware works once."""
    reply = get(wsgi_server.port, "/twice/")
    assert arrival(reply.request_ids[0]) == reply.json()


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_head_carries_the_header(wsgi_server: Listening, request_id: str, path: str) -> None:
    """A HEAD request is a request."""
    with connect(wsgi_server.port) as connection:
        reply = connection.request(path, method="HEAD", headers=[("X-Request-ID", request_id)])
    assert (200, [request_id], b"") == (reply.status, reply.request_ids, reply.body)


def test_large_upload_knows_its_request(wsgi_server: Listening, request_id: str) -> None:
    """A request body that takes several reads changes nothing."""
    with connect(wsgi_server.port) as connection:
        reply = connection.request(
            "/upload", method="POST", headers=[("X-Request-ID", request_id)], body=b"x" * 300_000
        )
    assert (["300000"], arrival(request_id)) == (reply.values("x-received"), reply.json())


def test_lazy_start_carries_the_header(wsgi_server: Listening, request_id: str) -> None:
    """An application that starts its response with its first chunk gets the header too."""
    reply = get(wsgi_server.port, "/lazy", ("X-Request-ID", request_id))
    # Granian reads status and headers before the first chunk: there such an application has no headers at all.
    assert ([] if wsgi_server.name == "granian-wsgi" else [request_id]) == reply.request_ids
    assert [request_id] * CHUNKS == reply.lines


def test_write_knows_its_request(wsgi_server: Listening, request_id: str) -> None:
    """The old write() callable is the server's, where the server has one."""
    reply = get(wsgi_server.port, "/write", ("X-Request-ID", request_id))
    # Granian's start_response returns None, so that the application fails.
    expected = (500, []) if wsgi_server.name == "granian-wsgi" else (200, [request_id] * 2)
    assert expected == (reply.status, reply.lines)


def test_file_is_sent(wsgi_server: Listening, request_id: str) -> None:
    """A file in the server's own wrapper arrives whole and with the header, where the server has such a wrapper."""
    reply = get(wsgi_server.port, "/file", ("X-Request-ID", request_id))
    if wsgi_server.name in {"werkzeug", "cheroot", "granian-wsgi"}:
        assert 500 == reply.status
    else:
        assert ([request_id], arrival(request_id)) == (reply.request_ids, reply.json())


def test_many_at_once_keep_apart(wsgi_server: Listening) -> None:
    """32 clients at once each read a stream of their own."""
    ids = [str(uuid4()) for _ in range(32)]
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda id_: get(wsgi_server.port, "/stream", ("X-Request-ID", id_)), ids))
    assert [([id_], [id_] * CHUNKS) for id_ in ids] == [(reply.request_ids, reply.lines) for reply in replies]


def test_repeated_header_is_refused(wsgi_server: Listening, request_id: str) -> None:
    """Of two different values none is believed, unless the server shows us only one of them."""
    headers = [b"X-Request-ID: first", b"X-Request-ID: " + request_id.encode(), b"Connection: close"]
    [reply] = raw(wsgi_server.port, get_bytes("/", *headers))
    if wsgi_server.name == "cheroot":  # keeps the last
        assert [request_id] == reply.request_ids
    else:
        assert is_minted(reply.json()["request_id"])
    assert arrival(reply.request_ids[0]) == reply.json()


# A WSGI environ cannot tell X_Request_ID from X-Request-ID; these servers do not drop it, as the others do.
KEEPS_UNDERSCORES = {"wsgiref": None, "cheroot": "spoofed", "granian-wsgi": "spoofed"}


def test_underscored_twin_is_no_request_id(wsgi_server: Listening, request_id: str) -> None:
    """A header spelt with underscores does not become the id, but for what the server makes of it."""
    headers = [b"X-Request-ID: " + request_id.encode(), b"X_Request_ID: spoofed", b"Connection: close"]
    [reply] = raw(wsgi_server.port, get_bytes("/", *headers))
    found = reply.json()
    if wsgi_server.name in KEEPS_UNDERSCORES:
        assert is_minted(found["request_id"])
        assert KEEPS_UNDERSCORES[wsgi_server.name] == found["correlation_id"]
    else:
        assert ([request_id], arrival(request_id)) == (reply.request_ids, found)


@pytest.mark.parametrize("inbound", ON_THE_WIRE.values(), ids=ON_THE_WIRE)
def test_hostile_header_is_refused(wsgi_server: Listening, inbound: str, caplog: pytest.LogCaptureFixture) -> None:
    """A hostile value is refused by the server, or dropped by us; then it is neither repeated nor logged."""
    sent = inbound.encode("latin-1")
    [reply] = raw(wsgi_server.port, get_bytes("/", b"X-Request-ID: " + sent, b"Connection: close"))
    if reply.status != 200:
        assert reply.status in {400, 431}
        return
    assert is_minted(reply.json()["request_id"])
    assert arrival(reply.request_ids[0]) == reply.json()
    if inbound.strip():
        assert inbound not in caplog.text + wsgi_server.output()


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n", "\r\n ", "\r ", "\n "])
def test_line_end_in_a_header_sets_no_header(wsgi_server: Listening, request_id: str, line_end: str) -> None:
    """However a server reads a line end inside the value, the response has no header that the client made up."""
    sent = f"X-Request-ID: {request_id}{line_end}Set-Cookie: admin=1".encode()
    for reply in raw(wsgi_server.port, get_bytes("/", sent, b"Connection: close")):
        assert [] == reply.values("set-cookie")
        if reply.status == 200:
            assert [True] == [value == request_id or is_minted(value) for value in reply.request_ids]
