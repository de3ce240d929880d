"""Middleware and installer for Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from starlette.applications import Starlette
from starlette.types import ASGIApp

from provenance.contrib._exchange import Exchange, Options
from provenance.contrib.asgi import ProvenanceMiddleware

__all__ = ["ProvenanceMiddleware", "install"]


class _Outermost:
    """Builds an application's middleware stack with ours around it."""

    def __init__(self, build: Callable[[], ASGIApp], options: Options) -> None:
        self._build = build
        self._options = options

    def __call__(self) -> ASGIApp:
        return ProvenanceMiddleware(self._build(), **self._options)


def install(app: Starlette, **options: Unpack[Options]) -> None:
    """Make the middleware the outermost of a Starlette or FastAPI application.

    It covers unhandled errors too: the handler of a 500 knows the request, and its response carries the id. (Starlette
    puts what ``app.add_middleware`` adds inside its own handler of those.) An application that has it already is left
    as it is.

    Args:
        app: the application, before its first request.
        options: the keywords of :class:`provenance.contrib.asgi.ProvenanceMiddleware`.

    Raises:
        RuntimeError: the application has started.
        TypeError: an option is unknown or of the wrong type.
        ValueError: a header name is not one.
    """
    Exchange(**options)  # a wrong option is reported here, not by the first request
    if isinstance(app.build_middleware_stack, _Outermost):
        return
    if app.middleware_stack is not None:
        raise RuntimeError("the application has started and its middleware is fixed; call install() before that")
    app.build_middleware_stack = _Outermost(app.build_middleware_stack, options)  # type: ignore[method-assign]
