"""Middleware for ASGI applications (version 3, single callable)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from provenance.context import open_frame
from provenance.contrib._exchange import REQUEST_ID_KEY, Exchange, is_served

__all__ = ["ProvenanceMiddleware"]

_RESPONSE_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class ProvenanceMiddleware:
    """Give every HTTP request and WebSocket a frame, and its response the request id.

    The frame is open until the application returns, background tasks included. The id is also in
    ``scope["state"]["request_id"]`` (Starlette's ``request.state.request_id``) and ``scope["provenance.request_id"]``,
    both as text, for code outside this middleware. When the application itself raises before it has begun its response,
    the server writes the error page, and that one does not carry the header.

    Args:
        app: the ASGI application. Wrap one of ASGI 2 with ``asgiref.compatibility.guarantee_single_callable`` first.
        trust: whether callers may choose the request id: ``True`` or ``False`` for all, or a predicate on the scope,
            asked of each request that brings one. Unless it returns ``True``, the request gets a new id.
        header: the inbound header; given twice, both values are dropped.
        response_header: the response header that carries the accepted inbound value or the new id; ``None`` means
            ``X-Request-ID``. One that the application sets itself is replaced.
        disclose: a further response header that always carries our own request id; ``None`` for none.

    Raises:
        TypeError: *trust* is neither a bool nor a plain function.
        ValueError: a header name is not one, or *disclose* is the same as *response_header*.
    """

    # The broadest types, because no two frameworks' own ASGI types accept each other's applications.
    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        *,
        trust: bool | Callable[[Any], bool] = True,
        header: str = "X-Request-ID",
        response_header: str | None = None,
        disclose: str | None = None,
    ) -> None:
        self.app = app
        self._exchange = Exchange(trust=trust, header=header, response_header=response_header, disclose=disclose)
        self._header = header.lower().encode()
        self._names = tuple(name.encode() for name in self._exchange.replaced)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or is_served(scope):
            await self.app(scope, receive, send)
            return
        inbound = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == self._header]
        frame, headers = self._exchange.begin(scope, inbound)
        # Servers hand each request a copy of the lifespan's state. It is filled in place, as is the scope: Starlette
        # and metrics middleware outside this one read there what the application has set.
        state = scope.setdefault("state", {})
        if isinstance(state, dict):
            state["request_id"] = scope[REQUEST_ID_KEY]
        names = self._names
        ours = [(name.lower().encode(), value.encode()) for name, value in headers]

        async def send_with_id(message: Any) -> None:
            if message["type"] in _RESPONSE_STARTS:
                theirs = [pair for pair in message.get("headers") or () if pair[0].lower() not in names]
                message = {**message, "headers": theirs + ours}
            await send(message)

        with open_frame(frame):
            await self.app(scope, receive, send_with_id)
