"""Real servers on free loopback ports, each as a context manager that yields where it listens.

Servers that can be told to stop run in a thread of the test process, the others beside it. All of them serve one
application of ``tests.contrib.apps`` from one process, so that the application can be asked what it has seen.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import attrs
import cheroot.makefile
import cheroot.wsgi
import hypercorn.asyncio
import hypercorn.config
import uvicorn
import werkzeug.serving

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]
# When a body breaks off, Cheroot leaves the rest of it to the garbage collector, which tries to send it on the closed
# socket, in whatever test is running then.
cheroot.makefile.BufferedWriter.__del__ = lambda self: None
_PATIENCE = 20.0
_BACKLOG = 64  # clients that come at once and must not wait for their SYN to be sent again


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll *condition* until it holds; fail, naming *what*, when it does not in time."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.01)


@attrs.frozen
class Listening:
    """A running server: its port, the name its fixture gave it, and what it has written when it is a process."""

    port: int
    _output: IO[bytes] | None = None
    name: str = ""

    def output(self) -> str:
        """Return the log of a server process, and nothing for a server in a thread."""
        return "" if self._output is None else Path(self._output.name).read_text("latin-1")


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind((HOST, 0))
    sock.listen(_BACKLOG)
    return sock


@contextmanager
def _thread(run: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(_PATIENCE)
        assert not thread.is_alive(), "the server did not stop"


class _Server(WSGIServer):
    request_queue_size = _BACKLOG


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def wsgiref(app: Any) -> Iterator[Listening]:
    """The reference server: one thread, HTTP/1.0."""
    with (
        make_server(HOST, 0, app, server_class=_Server, handler_class=_QuietHandler) as server,
        _thread(lambda: server.serve_forever(poll_interval=0.01), server.shutdown),
    ):
        yield Listening(server.server_port)


class _KeepAliveHandler(werkzeug.serving.WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def werkzeug_dev(app: Any) -> Iterator[Listening]:
    """Werkzeug's development server, a thread per connection."""
    server = werkzeug.serving.make_server(HOST, 0, app, threaded=True, request_handler=_KeepAliveHandler)
    with _thread(lambda: server.serve_forever(poll_interval=0.01), server.shutdown):
        yield Listening(server.server_port)


@contextmanager
def cheroot_pool(app: Any) -> Iterator[Listening]:
    """Cheroot with one worker thread, so that every connection shares it."""
    server = cheroot.wsgi.Server((HOST, 0), app, numthreads=1, request_queue_size=_BACKLOG)
    server.prepare()
    with _thread(server.serve, server.stop):
        yield Listening(server.bind_addr[1])


@contextmanager
def uvicorn_asyncio(app: Any) -> Iterator[Listening]:
    """Uvicorn as it comes, on the standard event loop."""
    with _bound() as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        with _thread(lambda: server.run([sock]), lambda: setattr(server, "should_exit", True)):
            wait_until(lambda: server.started, "uvicorn has started")
            yield Listening(sock.getsockname()[1])


@contextmanager
def hypercorn_asyncio(app: Any) -> Iterator[Listening]:
    """Hypercorn on the standard event loop."""
    sock = _bound()
    listening = Listening(sock.getsockname()[1])
    config = hypercorn.config.Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.graceful_timeout = 1
    config.errorlog = None
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def trigger() -> None:
        await over.wait()

    def run() -> None:
        loop.run_until_complete(hypercorn.asyncio.serve(app, config, shutdown_trigger=trigger))

    with _thread(run, lambda: loop.call_soon_threadsafe(over.set)):
        yield listening
    loop.close()


@contextmanager
def _process(arguments: Sequence[str], port: int, fds: Sequence[int] = ()) -> Iterator[Listening]:
    with tempfile.NamedTemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdout=output, stderr=output, pass_fds=fds
        )
        listening = Listening(port, output)

        def answers() -> bool:
            assert process.poll() is None, listening.output()
            with socket.socket() as probe:
                return probe.connect_ex((HOST, port)) == 0

        try:
            wait_until(answers, f"{arguments[0]} listens")
            yield listening
        finally:
            process.terminate()
            process.wait(_PATIENCE)


@contextmanager
def gunicorn(*options: str) -> Iterator[Listening]:
    """Gunicorn with one worker process, and *options* to choose its class."""
    with _bound() as sock:
        bind = f"fd://{sock.fileno()}"
        arguments = ["gunicorn", "--bind", bind, "--no-control-socket", *options, "tests.contrib.apps:wsgi"]
        with _process(arguments, sock.getsockname()[1], [sock.fileno()]) as listening:
            yield listening


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@contextmanager
def waitress() -> Iterator[Listening]:
    """Waitress with two worker threads."""
    port = _free_port()
    with _process(["waitress", f"--listen={HOST}:{port}", "--threads=2", "tests.contrib.apps:wsgi"], port) as listening:
        yield listening


@contextmanager
def granian(interface: str) -> Iterator[Listening]:
    """Granian with one worker, for ``wsgi`` or ``asgi``."""
    port = _free_port()
    arguments = ["granian", "--host", HOST, "--port", str(port), "--interface", interface]
    with _process([*arguments, f"tests.contrib.apps:{interface}"], port) as listening:
        yield listening
