"""The same application for Starlette and for FastAPI; where the request id is seen, it is answered or noted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from provenance.context import current_frame, get_request_id, set_actor
from provenance.contrib.starlette import ProvenanceMiddleware

CHUNKS = 3
Notes = list[tuple[str, str]]


def _id() -> str:
    return str(get_request_id())


def _user() -> str:
    frame = current_frame()
    assert frame is not None
    return str(frame.user_id)


def sync_view(request: Request) -> Response:
    """Run in the thread pool, where a context variable that is set would not come back."""
    set_actor(user_id="from the pool")
    return PlainTextResponse(_id())


async def async_view(request: Request) -> Response:
    set_actor(user_id="from the loop")
    return PlainTextResponse(f"{_id()} {await asyncio.to_thread(_id)} {request.state.request_id}")


async def sync_stream(request: Request) -> Response:
    """Starlette runs each ``next()`` of a sync generator in a fresh copy of the context."""

    def chunks() -> Iterator[str]:
        for _ in range(CHUNKS):
            yield f"{_id()}\n"

    return StreamingResponse(chunks())


async def async_stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        for _ in range(CHUNKS):
            yield f"{_id()}\n"

    return StreamingResponse(chunks())


async def own_header(request: Request) -> Response:
    return PlainTextResponse(_id(), headers={"x-request-id": "theirs"})


async def fails(request: Request) -> Response:
    raise RuntimeError("the view failed")


async def websocket(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-request-id", b"theirs")])
    await socket.send_text(_id())
    await socket.close()


async def denied(socket: WebSocket) -> None:
    await socket.send_denial_response(PlainTextResponse(_id(), 403))


async def failed(request: Request, error: Exception) -> Response:
    """Handle an unhandled error: what the context knows, and what the request carries."""
    return PlainTextResponse(f"{_id()} {request.state.request_id}", 500)


def create_app(
    notes: Notes, middleware: list[Middleware] | None = None, *, debug: bool = False, handler: bool = True
) -> Starlette:
    """Return a new Starlette application; its background task notes its request in *notes*."""

    def background(request: Request) -> Response:
        return PlainTextResponse(_id(), background=BackgroundTask(lambda: notes.append(("background", _id()))))

    routes = [
        Route("/", async_view),
        Route("/sync", sync_view),
        Route("/stream/sync", sync_stream),
        Route("/stream/async", async_stream),
        Route("/own-header", own_header),
        Route("/background", background),
        Route("/fails", fails),
        WebSocketRoute("/ws", websocket),
        WebSocketRoute("/denied", denied),
    ]
    inner = Starlette(routes=list(routes), middleware=[Middleware(ProvenanceMiddleware)])
    handlers: dict[Any, Any] = {Exception: failed} if handler else {}
    return Starlette(
        debug=debug,
        routes=[*routes, Mount("/mounted", inner)],
        middleware=middleware or [],
        exception_handlers=handlers,
    )


def noting_user(notes: Notes) -> Middleware:
    """Return a BaseHTTPMiddleware, which runs what is inside it in another task, that notes the actor afterwards."""

    async def dispatch(request: Request, call_next: Callable[[Request], Any]) -> Response:
        notes.append(("on the way in", _id()))
        response: Response = await call_next(request)
        notes.append(("actor", _user()))
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)


def _authenticated() -> str:
    set_actor(user_id="from a sync dependency", tenant_id=7)
    return _id()


def _sync_endpoint(seen: Annotated[str, Depends(_authenticated)]) -> dict[str, str]:
    return {"dependency": seen, "endpoint": _id(), "user": _user()}


async def _async_endpoint(seen: Annotated[str, Depends(_authenticated)]) -> dict[str, str]:
    return {"dependency": seen, "endpoint": _id(), "user": _user()}


def _failing_endpoint() -> None:
    raise RuntimeError("the endpoint failed")


def create_fastapi_app() -> FastAPI:
    """Return a new FastAPI application with sync and async endpoints behind a sync dependency."""
    app = FastAPI(exception_handlers={Exception: failed})
    app.get("/sync")(_sync_endpoint)
    app.get("/async")(_async_endpoint)
    app.get("/fails")(_failing_endpoint)
    return app
