"""The servers, each started once per test process, when the first test asks for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from uuid import uuid4

import attrs
import pytest

from tests.contrib import apps, servers

with warnings.catch_warnings():
    # Starlette's test client wants httpx2 and warns, when it is first imported, if it finds the httpx we use elsewhere.
    warnings.filterwarnings("ignore", r"Using `httpx` with `starlette\.testclient` is deprecated", UserWarning)
    import starlette.testclient  # noqa: F401

WSGI_SERVERS: dict[str, Callable[[], AbstractContextManager[servers.Listening]]] = {
    "wsgiref": partial(servers.wsgiref, apps.wsgi),
    "werkzeug": partial(servers.werkzeug_dev, apps.wsgi),
    "cheroot": partial(servers.cheroot_pool, apps.wsgi),
    "waitress": servers.waitress,
    "gunicorn-sync": partial(servers.gunicorn, "--worker-class=sync"),
    "gunicorn-gthread": partial(servers.gunicorn, "--worker-class=gthread", "--threads=2"),
    "granian-wsgi": partial(servers.granian, "wsgi"),
}
ASGI_SERVERS: dict[str, Callable[[], AbstractContextManager[servers.Listening]]] = {
    "uvicorn": partial(servers.uvicorn_asyncio, apps.asgi),
    "hypercorn": partial(servers.hypercorn_asyncio, apps.asgi),
    "granian-asgi": partial(servers.granian, "asgi"),
}


@pytest.fixture(scope="session")
def _start() -> Iterator[Callable[[str], servers.Listening]]:
    running: dict[str, servers.Listening] = {}
    with ExitStack() as stack:

        def start(name: str) -> servers.Listening:
            if name not in running:
                listening = stack.enter_context((WSGI_SERVERS | ASGI_SERVERS)[name]())
                running[name] = attrs.evolve(listening, name=name)
            return running[name]

        yield start


@pytest.fixture
def request_id() -> str:
    """An id that no other test uses, because the servers are shared."""
    return str(uuid4())


@pytest.fixture(params=WSGI_SERVERS)
def wsgi_server(request: pytest.FixtureRequest, _start: Callable[[str], servers.Listening]) -> servers.Listening:
    """Each WSGI server in turn, serving ``tests.contrib.apps.wsgi``."""
    return _start(request.param)


@pytest.fixture(params=ASGI_SERVERS)
def asgi_server(request: pytest.FixtureRequest, _start: Callable[[str], servers.Listening]) -> servers.Listening:
    """Each ASGI server in turn, serving ``tests.contrib.apps.asgi``."""
    return _start(request.param)
