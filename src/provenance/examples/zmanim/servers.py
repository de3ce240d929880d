"""Real HTTP servers on free loopback ports, each in a thread for the time of a ``with`` block."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_HOST = "127.0.0.1"


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the name is werkzeug's
        pass


@contextmanager
def serve_wsgi(app: WSGIApplication) -> Generator[str]:
    """Serve a WSGI application with werkzeug, a thread per connection; yield its address."""
    server = make_server(_HOST, 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), name="werkzeug")
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def serve_asgi(app: Callable[..., Any]) -> Generator[str]:
    """Serve an ASGI application with uvicorn; yield its address.

    Raises:
        RuntimeError: the application did not start.
    """
    with socket.create_server((_HOST, 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5))

        def run() -> None:
            # That is how it reports a failed start, which we notice below.
            with suppress(SystemExit):
                server.run([listener])

        thread = threading.Thread(target=run, name="uvicorn")
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
                if not thread.is_alive():
                    raise RuntimeError("the application did not start; uvicorn has logged why")
            yield f"http://{_HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
