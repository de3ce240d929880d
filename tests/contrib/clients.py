"""HTTP clients for the tests: one that behaves, and one that sends whatever bytes it is told to."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from tests.contrib.servers import HOST

_TIMEOUT = 20


@attrs.frozen
class Reply:
    """A response; *request_ids* are all values of its ``X-Request-ID`` headers."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def request_ids(self) -> list[str]:
        return self.values("x-request-id")

    @property
    def lines(self) -> list[str]:
        return self.body.decode().split()

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def json(self) -> Any:
        return json.loads(self.body)


def _reply(response: http.client.HTTPResponse) -> Reply:
    body = response.read()
    return Reply(response.status, response.getheaders(), body)


class Connection:
    """One connection; several requests share it where the server keeps it open."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)

    def request(
        self, path: str, *, method: str = "GET", headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
    ) -> Reply:
        self._http.putrequest(method, path)
        for name, value in headers:
            self._http.putheader(name, value)
        if body is not None:
            self._http.putheader("Content-Length", str(len(body)))
        self._http.endheaders(body)
        return _reply(self._http.getresponse())

    def close(self) -> None:
        self._http.close()


@contextmanager
def connect(port: int) -> Iterator[Connection]:
    connection = Connection(port)
    try:
        yield connection
    finally:
        connection.close()


def get(port: int, path: str, *headers: tuple[str, str]) -> Reply:
    """Send one GET on a connection of its own."""
    with connect(port) as connection:
        return connection.request(path, headers=headers)


class _KeptOpen(io.BufferedReader):
    """A reader that survives the response that believes to own it, so that the next one can follow."""

    def makefile(self, mode: str) -> _KeptOpen:
        return self

    def close(self) -> None:
        pass


def raw(port: int, sent: bytes, replies: int = 1) -> list[Reply]:
    """Send bytes in one go and read that many responses; fewer when the server hangs up first."""
    with socket.create_connection((HOST, port), _TIMEOUT) as sock:
        sock.sendall(sent)
        reader = _KeptOpen(socket.SocketIO(sock, "r"))
        received = []
        for _ in range(replies):
            response = http.client.HTTPResponse(reader, method="GET")  # type: ignore[arg-type]
            try:
                response.begin()
            except (http.client.BadStatusLine, ConnectionError):
                break
            received.append(_reply(response))
        return received


def get_bytes(path: str, *headers: bytes, body: bytes | None = None) -> bytes:
    """Return the bytes of one HTTP/1.1 request."""
    lines = [b"Host: localhost", *headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    start = b"%s %s HTTP/1.1" % (b"GET" if body is None else b"POST", path.encode())
    return b"\r\n".join([start, *lines, b"", body or b""])


def seen(port: int, request_id: str) -> Any:
    """Ask an application of ``tests.contrib.apps`` what it knows of an earlier request."""
    return get(port, f"/seen/{request_id}").json()


def arrival(request_id: str, correlation_id: str | None = None) -> dict[str, object]:
    """Return what those applications answer when they find this request and nothing of any other."""
    return {"request_id": request_id, "correlation_id": correlation_id, "clean": True, "leaked": False}
