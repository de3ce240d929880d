"""A proxy between client and Postgres that counts round trips and can cut the line at a chosen moment."""

from __future__ import annotations

import itertools
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg
from psycopg import conninfo


class Line:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self._buffer = b""
        self._started = False

    def cut(self) -> None:
        """End the traffic both ways. Closing is left to the thread that pumps: it would not notice if another one did."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self.client.close()
        self.server.close()

    def messages(self, data: bytes) -> list[tuple[bytes, bytes, bytes]]:
        """Return the complete messages that *data* from the client brings, as type and body, and as they are."""
        self._buffer += data
        found: list[tuple[bytes, bytes, bytes]] = []
        while True:
            # The startup message, the first one, has no type byte.
            head = 5 if self._started else 4
            if len(self._buffer) < head:
                return found
            (length,) = struct.unpack("!I", self._buffer[head - 4 : head])
            total = length + head - 4
            if len(self._buffer) < total:
                return found
            kind = self._buffer[:1] if self._started else b"startup"
            found.append((kind, self._buffer[head:total], self._buffer[:total]))
            self._buffer = self._buffer[total:]
            self._started = True


class Proxy:
    """Listens on loopback and passes everything on to the server of *address*.

    ``round_trips`` counts the messages a client waits for an answer to: simple queries (Q) and syncs (S). Cancel requests
    go over the proxy too. ``before_forward`` may be set to a function that sees every client message before it is
    passed on, and ``after_answer`` to one that sees every chunk from the server before it is; either may cut the line.
    While it is ``down`` nobody gets through.
    """

    down = False

    def __init__(self, address: str) -> None:
        parameters = conninfo.conninfo_to_dict(address)
        host, port = str(parameters.get("host") or "localhost"), int(parameters.get("port") or 5432)
        self._target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = conninfo.make_conninfo(
            address,
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            sslmode="disable",
            gssencmode="disable",
        )
        self.round_trips = 0
        self.queries: list[bytes] = []
        self.before_forward: Callable[[Line, bytes, bytes], None] | None = None
        self.after_answer: Callable[[Line, bytes], None] | None = None
        self.lines: list[Line] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for line in self.lines:
            line.cut()
        for thread in self._threads:
            thread.join()

    def go_down(self) -> None:
        """Cut every line, and let nobody through until ``down`` is false again."""
        self.down = True
        # Those there are: whoever waits for the first to be cut may have raised the proxy again before the last one is.
        for line in tuple(self.lines):
            line.cut()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            return server
        return socket.create_connection(self._target)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:  # nobody is there, now
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(client, server)
            self.lines.append(line)
            if self.down:  # since it was looked at
                line.cut()
            thread = threading.Thread(target=self._pump, args=(line,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, line: Line) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(line.client, selectors.EVENT_READ)
            selector.register(line.server, selectors.EVENT_READ)
            try:
                while True:
                    for key, _ in selector.select():
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        data = source.recv(65536)
                        if not data:
                            return
                        if source is line.client:
                            self._forward(line, data)
                        else:
                            if self.after_answer is not None:
                                self.after_answer(line, data)
                            line.client.sendall(data)
            except (OSError, ValueError):
                return
            finally:
                line.close()

    def _forward(self, line: Line, data: bytes) -> None:
        """Pass messages on one by one, so that the line can be cut between two that come together.

        But not a flush (H) apart from the sync before it, after which psycopg always sends one: when the answer to the sync
        was quicker, PgBouncer would take it for the beginning of something, and keep a server connection for the client.
        """
        messages = line.messages(data)
        held = b""
        for (kind, body, message), following in itertools.zip_longest(messages, messages[1:]):
            self._watch(line, kind, body)
            held += message
            if following is None or following[0] != b"H":
                line.server.sendall(held)
                held = b""

    def _watch(self, line: Line, kind: bytes, body: bytes) -> None:
        if kind in (b"Q", b"S"):
            self.round_trips += 1
        if kind in (b"Q", b"P"):
            self.queries.append(body)
        if self.before_forward is not None:
            self.before_forward(line, kind, body)


def count(proxy: Proxy, work: Callable[[], object]) -> int:
    """Return how many round trips *work* takes."""
    before = proxy.round_trips
    work()
    return proxy.round_trips - before


def connect(proxy: Proxy) -> psycopg.Connection[tuple[object, ...]]:
    """Return a connection through the proxy."""
    return psycopg.connect(proxy.address)
