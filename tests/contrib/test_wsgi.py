"""The WSGI middleware against the letter of PEP 3333, without a server."""

from __future__ import annotations

import gc
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any
from uuid import UUID
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from provenance.context import (
    CurrentAction,
    RequestFrame,
    current_frame,
    get_request_id,
    innermost_action,
    open_frame,
    set_actor,
    set_innermost_action,
)
from provenance.contrib.wsgi import ProvenanceMiddleware
from provenance.models import ActionRef
from tests.contrib.samples import REQUEST_ID

Started = list[tuple[Any, ...]]


def environ_of(request_id: str | None = REQUEST_ID, **more: Any) -> dict[str, Any]:
    """Return the environ of a request, with an inbound id unless that is ``None``."""
    environ: dict[str, Any] = dict(more)
    setup_testing_defaults(environ)
    if request_id is not None:
        environ["HTTP_X_REQUEST_ID"] = request_id
    return environ


def recorder() -> tuple[Started, Callable[..., Callable[[bytes], object]]]:
    """Return a list, and a ``start_response`` that notes its arguments there."""
    started: Started = []

    def start_response(*arguments: Any) -> Callable[[bytes], object]:
        started.append(arguments)
        return lambda data: None

    return started, start_response


def streaming(make_body: Callable[[], Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return an application whose body is what *make_body* returns."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return make_body()

    return app


def ask(app: Callable[..., Iterable[bytes]], environ: dict[str, Any] | None = None) -> Any:
    """Call an application through the middleware and return the body that the server would get."""
    return ProvenanceMiddleware(app)(environ_of() if environ is None else environ, recorder()[1])


def request_id_now() -> str:
    return str(get_request_id())


def three_ids() -> Iterator[bytes]:
    for _ in range(3):
        yield request_id_now().encode()


class Body:
    """An iterable that is not its own iterator, and notes what its ``close()`` sees."""

    def __init__(self, chunks: Iterable[bytes] = (), fails: BaseException | None = None) -> None:
        self.chunks = chunks
        self.fails = fails
        self.closed_in: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed_in.append(request_id_now())
        if self.fails is not None:
            raise self.fails


def test_satisfies_the_validator() -> None:
    """Neither the application's nor the server's side of the middleware breaks a rule that wsgiref can check."""
    errors = io.StringIO()
    started, start_response = recorder()

    @validator
    def server_side(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        return ProvenanceMiddleware(validator(streaming(three_ids)))(environ, start)

    environ = environ_of(**{"wsgi.errors": errors, "QUERY_STRING": ""})
    body = server_side(environ, lambda status, headers, exc_info=None: start_response(status, headers))
    assert [REQUEST_ID.encode()] * 3 == list(body)
    body.close()  # type: ignore[attr-defined]
    del body
    gc.collect()
    assert [("200 OK", [("Content-Type", "text/plain"), ("X-Request-ID", REQUEST_ID)])] == started
    assert "" == errors.getvalue()


@pytest.mark.parametrize("body", [[b"a"], (b"a", b"b"), []])
def test_list_body_is_returned_as_it_is(body: Any) -> None:
    """A server sees the length of a list or tuple, and the request is over at once."""
    frames = []

    def make_body() -> Any:
        frames.append(current_frame())
        return body

    assert ask(streaming(make_body)) is body
    assert [True] == [frame.closed for frame in frames]


def test_list_with_a_close_is_closed_in_the_request() -> None:
    """A body that only derives from list may do something on close, so it is treated as any other."""

    class ClosingList(list[bytes], Body):
        def __init__(self) -> None:
            Body.__init__(self)

    theirs = ClosingList()
    body = ask(streaming(lambda: theirs))
    body.close()
    assert [REQUEST_ID] == theirs.closed_in


def test_file_wrapper_is_returned_as_it_is() -> None:
    """A server recognises its own file wrapper, to use sendfile; the request is over at once."""
    frames = []
    wrapped = FileWrapper(io.BytesIO(b"file"))

    def make_body() -> Any:
        frames.append(current_frame())
        return wrapped

    assert ask(streaming(make_body), environ_of(**{"wsgi.file_wrapper": FileWrapper})) is wrapped
    assert [True] == [frame.closed for frame in frames]


def test_file_wrapper_may_be_a_function() -> None:
    """uWSGI's file wrapper is no class; asking whether a body is an instance of it must not raise."""
    environ = environ_of(**{"wsgi.file_wrapper": lambda file, size=0: file})
    assert [b"file"] == list(ask(streaming(lambda: iter([b"file"])), environ))


def test_stream_knows_its_request_to_the_last_chunk() -> None:
    """Every chunk is made inside the request, whatever the server's thread does in between."""
    body = ask(streaming(three_ids))
    assert [(REQUEST_ID.encode(), None)] * 3 == [(chunk, current_frame()) for chunk in body]


def test_iteration_begins_in_the_request() -> None:
    """A body that does its work in ``__iter__`` does it inside the request."""

    class Eager(Body):
        def __iter__(self) -> Iterator[bytes]:
            return iter([request_id_now().encode()])

    assert [REQUEST_ID.encode()] == list(ask(streaming(Eager)))


def test_exhausted_stream_ends_the_request() -> None:
    """A server that never calls close() does not keep a request open."""
    environ = environ_of()
    body = ask(streaming(three_ids), environ)
    frame = environ["provenance.frame"]
    states = [frame.closed for _ in body]
    assert ([False] * 3, True) == (states, frame.closed)


def test_chunk_that_raises_ends_the_request() -> None:
    """After an exception there is no further chunk, so the request is over; the exception goes on."""
    environ = environ_of()

    def breaking() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("broke off")

    body = ask(streaming(breaking), environ)
    assert b"a" == next(body)
    with pytest.raises(ValueError, match=r"^broke off$"):
        next(body)
    assert environ["provenance.frame"].closed


def test_body_that_cannot_be_iterated_is_still_closed() -> None:
    """An error of the body's ``__iter__`` reaches the server, which then closes the body."""

    class Broken(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("no chunks")

    theirs = Broken()
    body = ask(streaming(lambda: theirs))
    with pytest.raises(ValueError, match=r"^no chunks$"):
        list(body)
    body.close()
    assert [REQUEST_ID] == theirs.closed_in


def test_close_before_the_first_chunk_closes_the_application() -> None:
    """A client that is gone before the first chunk still has its body closed, inside the request."""
    theirs = Body([b"a"])
    environ = environ_of()
    body = ask(streaming(lambda: theirs), environ)
    body.close()
    assert ([REQUEST_ID], True) == (theirs.closed_in, environ["provenance.frame"].closed)


def test_close_midway_ends_the_request() -> None:
    """A body that is abandoned after some chunks is closed once, inside the request."""
    seen = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            seen.append(request_id_now())

    environ = environ_of()
    body = ask(streaming(chunks), environ)
    next(body)
    body.close()
    assert ([REQUEST_ID], True) == (seen, environ["provenance.frame"].closed)


def test_close_after_the_last_chunk_is_inside_the_request() -> None:
    """What an application does on close knows the request; then it is over."""
    theirs = Body([b"a"])
    environ = environ_of()
    body = ask(streaming(lambda: theirs), environ)
    assert [b"a"] == list(body)
    body.close()
    assert ([REQUEST_ID], True) == (theirs.closed_in, environ["provenance.frame"].closed)


def test_close_happens_once() -> None:
    """A second close() does nothing and does not open the request again."""
    theirs = Body([b"a"])
    environ = environ_of()
    body = ask(streaming(lambda: theirs), environ)
    body.close()
    body.close()
    assert ([REQUEST_ID], True) == (theirs.closed_in, environ["provenance.frame"].closed)
    assert [] == list(body)


def test_body_without_close_can_be_closed() -> None:
    """An iterator with no close() is a body too."""
    environ = environ_of()
    body = ask(streaming(lambda: iter([b"a"])), environ)
    body.close()
    assert environ["provenance.frame"].closed


@pytest.mark.parametrize("error", [ValueError("on close"), RuntimeError("on close")])
def test_close_that_raises_ends_the_request(error: Exception) -> None:
    """An error of the application's close() goes on, after one attempt, and leaves the request over."""
    theirs = Body(fails=error)
    environ = environ_of()
    body = ask(streaming(lambda: theirs), environ)
    with pytest.raises(type(error), match=r"^on close$"):
        body.close()
    assert ([REQUEST_ID], True) == (theirs.closed_in, environ["provenance.frame"].closed)


def test_close_while_another_thread_makes_a_chunk() -> None:
    """A close() from outside reaches the application at once, and as this request, although its Context is busy."""
    working, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        working.set()
        assert go_on.wait(10)
        yield b"late"

    theirs = Body(chunks())
    body = ask(streaming(lambda: theirs))
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(next(body)))
    thread.start()
    assert working.wait(10)
    with open_frame(RequestFrame(request_id=UUID(int=1))):
        body.close()
    go_on.set()
    thread.join(10)
    assert ([REQUEST_ID], [b"late"]) == (theirs.closed_in, received)


def test_application_that_raises_ends_the_request() -> None:
    """The exception goes on; error pages outside still find the id in the environ."""
    environ = environ_of()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match=r"^no answer$"):
        ask(app, environ)
    assert (REQUEST_ID, True) == (environ["provenance.request_id"], environ["provenance.frame"].closed)
    assert current_frame() is None


def test_nothing_is_left_on_the_thread() -> None:
    """Neither the frame nor a variable that the application sets survives the call, even with the body unfinished."""
    variable = ContextVar("variable", default="server's")

    def chunks() -> Iterator[bytes]:
        yield variable.get().encode()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        variable.set("application's")
        return streaming(chunks)(environ, start_response)

    body = ask(app)
    assert (None, "server's") == (current_frame(), variable.get())
    assert [b"application's"] == list(body)
    assert "server's" == variable.get()


def test_outer_context_is_visible_inside() -> None:
    """Variables set by the server or by outer middleware reach the application."""
    variable: ContextVar[bytes] = ContextVar("variable")

    def serve() -> list[bytes]:
        variable.set(b"outer")
        return list(ask(streaming(lambda: (variable.get() for _ in range(2)))))

    assert [b"outer", b"outer"] == Context().run(serve)


def test_interleaved_bodies_keep_apart() -> None:
    """Two bodies iterated in turns on one thread each know their own request."""
    ids = [REQUEST_ID, str(UUID(int=7))]
    bodies = [ask(streaming(three_ids), environ_of(request_id)) for request_id in ids]
    assert [tuple(request_id.encode() for request_id in ids)] * 3 == list(zip(*bodies, strict=True))


def test_context_token_can_be_reset_on_close() -> None:
    """A token made in the call is good in close(): both run in the same Context."""
    variable = ContextVar("variable", default="before")
    after: list[str] = []

    class Resetting(Body):
        def __init__(self) -> None:
            super().__init__([b"a"])
            self.token = variable.set("during")

        def close(self) -> None:
            variable.reset(self.token)
            after.append(variable.get())

    body = ask(streaming(Resetting))
    assert [b"a"] == list(body)
    body.close()
    assert ["before"] == after


def test_leftover_of_another_request_is_overridden() -> None:
    """A thread that still carries someone else's frame and action serves this request as if it carried nothing."""
    seen: list[Any] = []
    other = RequestFrame(request_id=UUID(int=1), user_id="somebody else")

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        frame = current_frame()
        assert frame is not None
        seen.extend([request_id_now(), frame.user_id, innermost_action()])
        set_actor(user_id="me")
        return streaming(list)(environ, start_response)

    with open_frame(other):
        action = CurrentAction(ActionRef(UUID(int=2), UUID(int=2)), other)
        set_innermost_action(action)
        ask(app)
        left = (current_frame(), innermost_action(), other.user_id, other.closed)
    assert [REQUEST_ID, None, None] == seen
    assert (other, action, "somebody else", False) == left


def test_thread_that_outlives_the_request_is_outside_it() -> None:
    """Code that copied the request's Context and runs on finds no request any more."""
    contexts: list[Context] = []

    def make_body() -> list[bytes]:
        contexts.append(copy_context())
        return []

    ask(streaming(make_body))
    assert [None] == [context.run(get_request_id) for context in contexts]


def test_two_installations_are_one() -> None:
    """The inner one passes everything through: one header, one frame, the outer one's options."""
    frames: list[Any] = []

    def make_body() -> Iterator[bytes]:
        frames.append(current_frame())
        return three_ids()

    started, start_response = recorder()
    inner = ProvenanceMiddleware(streaming(make_body), trust=False, response_header="X-Inner")
    environ = environ_of()
    body = ProvenanceMiddleware(inner)(environ, start_response)
    assert [REQUEST_ID.encode()] * 3 == list(body)
    assert [("200 OK", [("Content-Type", "text/plain"), ("X-Request-ID", REQUEST_ID)])] == started
    assert [environ["provenance.frame"]] == frames


def test_environ_that_is_used_again_is_a_new_request() -> None:
    """Middleware that retries with the same environ gets a request of its own, even with the first body abandoned."""
    environ = environ_of(request_id=None)
    app = ProvenanceMiddleware(streaming(three_ids))
    first = next(iter(app(environ, recorder()[1])))
    second = next(iter(app(environ, recorder()[1])))
    assert first != second
    assert environ["provenance.request_id"].encode() == second


def test_header_of_the_application_is_replaced() -> None:
    """The response has our header once, whatever the application calls its own; its list is left alone."""
    theirs = [("x-request-id", "1"), ("Content-Type", "text/plain"), ("X-REQUEST-ID", "2"), ("X-Our-Id", "3")]
    before = list(theirs)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", theirs)
        return []

    started, start_response = recorder()
    ProvenanceMiddleware(app, disclose="X-Our-ID")(environ_of(), start_response)
    ours = [("X-Request-ID", REQUEST_ID), ("X-Our-ID", REQUEST_ID)]
    assert [("200 OK", [("Content-Type", "text/plain"), *ours])] == started
    assert before == theirs


def test_start_response_may_be_late_and_twice() -> None:
    """A start inside the first chunk, and a second one with exc_info, carry the header and pass exc_info on."""
    failures: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            int("failed")
        except ValueError:
            failures.append(sys.exc_info())
            start_response("500 Internal Server Error", [], failures[0])
        yield b"sorry"

    started, start_response = recorder()
    body = ProvenanceMiddleware(app)(environ_of(), start_response)
    assert [] == started
    assert [b"sorry"] == list(body)
    ours = [("X-Request-ID", REQUEST_ID)]
    assert [("200 OK", ours), ("500 Internal Server Error", ours, failures[0])] == started


def test_write_is_the_servers() -> None:
    """The application gets the very write() that the server returned, and writes inside its request."""
    written: list[tuple[bytes, str]] = []

    def write(data: bytes) -> None:
        written.append((data, request_id_now()))

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = start_response("200 OK", [])
        assert given is write
        given(b"a")
        return []

    ProvenanceMiddleware(app)(environ_of(), lambda status, headers: write)
    assert [(b"a", REQUEST_ID)] == written
