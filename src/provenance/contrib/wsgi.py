"""Middleware for WSGI applications (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from provenance.context import RequestFrame, enter_frame
from provenance.contrib._exchange import Exchange, is_served

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ProvenanceMiddleware"]


class ProvenanceMiddleware:
    """Give every request a frame, and its response the request id.

    The application runs in a :class:`contextvars.Context` of its own for each request, from the call to the last chunk
    and ``close()``: a streamed body still knows its request, and nothing stays behind on the server's thread. So
    context variables that the application sets are not seen by middleware outside this one; the id is also in
    ``environ["provenance.request_id"]`` (text), for error pages and access logs. When the application itself raises,
    the server writes the error page, and that one does not carry the header.

    Args:
        app: the WSGI application.
        trust: whether callers may choose the request id: ``True`` or ``False`` for all, or a predicate on the environ,
            asked of each request that brings one. Unless it returns ``True``, the request gets a new id.
        header: the inbound header; given twice, both values are dropped, because servers join them with a comma.
            Cheroot keeps the last one instead, and it and granian also let ``X_Request_ID`` replace ``X-Request-ID``:
            behind these, have a proxy remove what clients may not send.
        response_header: the response header that carries the accepted inbound value or the new id; ``None`` means
            ``X-Request-ID``. One that the application sets itself is replaced.
        disclose: a further response header that always carries our own request id; ``None`` for none.

    Raises:
        TypeError: *trust* is neither a bool nor a plain function.
        ValueError: a header name is not one, or *disclose* is the same as *response_header*.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        trust: bool | Callable[[WSGIEnvironment], bool] = True,
        header: str = "X-Request-ID",
        response_header: str | None = None,
        disclose: str | None = None,
    ) -> None:
        self.app = app
        self._exchange = Exchange(trust=trust, header=header, response_header=response_header, disclose=disclose)
        self._key = "HTTP_" + header.upper().replace("-", "_")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_served(environ):
            return self.app(environ, start_response)
        frame, ours = self._exchange.begin(environ, [environ[self._key]] if self._key in environ else [])
        replaced = self._exchange.replaced

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            headers = [pair for pair in headers if pair[0].lower() not in replaced] + ours
            # Without exc_info as without us: there are servers and test clients that take two arguments only.
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        context = copy_context()
        try:
            context.run(enter_frame, frame)  # and never left: the Context is discarded with the request
            body = context.run(self.app, environ, start)
        except BaseException:
            frame.closed = True
            raise
        # A list gives the server its Content-Length, and its own file wrapper gives it sendfile: neither is wrapped.
        if type(body) in (list, tuple) or _is_file(body, environ):
            frame.closed = True
            return body
        return _Body(body, context, frame)


def _is_file(body: object, environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Body:
    """A streamed body, iterated and closed inside its request's Context.

    Not a generator: one that is closed before its first chunk runs nothing, and so would not close the application's.
    """

    __slots__ = ("_context", "_frame", "_iterable", "_iterator")

    def __init__(self, iterable: Iterable[bytes], context: Context, frame: RequestFrame) -> None:
        self._iterable = iterable
        self._iterator: Iterator[bytes] | None = None
        self._context = context
        self._frame = frame

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = self._context.run(iter, self._iterable)
            return self._context.run(next, self._iterator)
        except BaseException:
            # No chunk follows, and not every server calls close() (asgiref's WsgiToAsgi never does).
            self._frame.closed = True
            raise

    def close(self) -> None:
        iterable, self._iterable = self._iterable, ()
        close: Callable[[], object] | None = getattr(iterable, "close", None)
        if close is None:
            self._frame.closed = True
            return
        # What the application does on close is the last part of this request, even after the last chunk.
        self._frame.closed = False
        try:
            self._run(close)
        finally:
            self._frame.closed = True

    def _run(self, close: Callable[[], object]) -> None:
        entered = False

        def enter() -> None:
            nonlocal entered
            entered = True
            close()

        try:
            self._context.run(enter)
        except RuntimeError:
            if entered:
                raise
            # The Context is busy: another thread is inside next(). A copy still belongs to this request.
            self._context.copy().run(close)
