"""How an application installs the middleware, as the type checkers must accept it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, assert_type

from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from provenance.contrib import asgi, wsgi
from provenance.contrib.flask import Provenance
from provenance.contrib.starlette import ProvenanceMiddleware, install

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def wsgi_application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def from_our_network(environ: WSGIEnvironment) -> bool:
    return str(environ.get("REMOTE_ADDR", "")).startswith("10.")


bare_wsgi: WSGIApplication = wsgi.ProvenanceMiddleware(wsgi_application)
bare_wsgi_with_options: WSGIApplication = wsgi.ProvenanceMiddleware(
    wsgi_application,
    trust=from_our_network,
    header="X-Amzn-Trace-Id",
    response_header="X-Request-ID",
    disclose="X-Our-Request-ID",
)


async def asgi_application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def from_our_own_proxy(scope: Scope) -> bool:
    client: tuple[str, int] | None = scope.get("client")
    return client is not None and client[0] == "10.0.0.1"


bare_asgi: Callable[[Scope, Receive, Send], Awaitable[None]] = asgi.ProvenanceMiddleware(asgi_application)
bare_asgi_with_options = asgi.ProvenanceMiddleware(asgi_application, trust=from_our_own_proxy, header="traceparent")

flask_app = Flask(__name__)
assert_type(Provenance(flask_app), Provenance)

extension = Provenance(trust=False, disclose="X-Our-Request-ID")


def create_flask_app() -> Flask:
    app = Flask(__name__)
    extension.init_app(app)
    return app


starlette_app = Starlette()
install(starlette_app, trust=from_our_own_proxy)

starlette_with_list = Starlette(middleware=[Middleware(ProvenanceMiddleware, trust=False)])
starlette_with_add = Starlette()
starlette_with_add.add_middleware(ProvenanceMiddleware, header="traceparent", disclose="X-Our-Request-ID")

fastapi_app = FastAPI()
install(fastapi_app)
fastapi_with_add = FastAPI()
fastapi_with_add.add_middleware(ProvenanceMiddleware, trust=lambda scope: scope["scheme"] == "https")
wrapped_fastapi = ProvenanceMiddleware(fastapi_app)


def options_are_checked() -> None:
    install(FastAPI(), headers="X-Request-ID")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Provenance(trust="10.0.0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wsgi.ProvenanceMiddleware(wsgi_application, header=b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def asynchronous_predicate(scope: Any) -> bool:
    return True


def predicates_are_not_asynchronous() -> None:
    ProvenanceMiddleware(asgi_application, trust=asynchronous_predicate)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
