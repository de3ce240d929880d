"""The ASGI middleware against the letter of the ASGI specification, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from typing import Any
from uuid import UUID

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
from provenance.contrib.asgi import ProvenanceMiddleware
from provenance.models import ActionRef
from tests.contrib.samples import REQUEST_ID, is_minted

App = Callable[[Any, Any, Any], Awaitable[None]]
OURS = (b"x-request-id", REQUEST_ID.encode())


def scope_of(*request_ids: str, kind: str = "http", **more: Any) -> dict[str, Any]:
    """Return the scope of a request with these inbound ids; with the usual one when none is given."""
    headers = [(b"x-request-id", value.encode()) for value in request_ids or (REQUEST_ID,)]
    return {"type": kind, "headers": headers, **more}


async def never() -> dict[str, Any]:
    raise AssertionError("nothing was to be received")


async def ask(app: App, scope: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Run an application for one request, and return what it sent."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope_of() if scope is None else scope, never, send)
    return sent


async def empty(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("start", ["http.response.start", "websocket.accept", "websocket.http.response.start"])
def test_every_start_of_a_response_carries_the_header(start: str) -> None:
    """The header replaces the application's own, in a new message; what was sent is left alone."""
    theirs = {
        "type": start,
        "other": 1,
        "headers": [(b"X-Request-Id", b"1"), [b"server", b"s"], (b"x-request-id", b"2")],
    }
    before = {**theirs, "headers": list(theirs["headers"])}  # type: ignore[call-overload]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(theirs)

    sent = asyncio.run(ask(ProvenanceMiddleware(app), scope_of(kind=start.partition(".")[0])))
    assert [{"type": start, "other": 1, "headers": [[b"server", b"s"], OURS]}] == sent
    assert before == theirs


@pytest.mark.parametrize("headers", [{}, {"headers": None}, {"headers": ()}, {"headers": iter(())}])
def test_start_may_have_no_headers(headers: dict[str, Any]) -> None:
    """``headers`` is optional, and any iterable will do."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", **headers})

    sent = asyncio.run(ask(ProvenanceMiddleware(app), scope_of(kind="websocket")))
    assert [{"type": "websocket.accept", "headers": [OURS]}] == sent


def test_other_messages_pass_untouched() -> None:
    """Bodies, trailers, pushes and frames of a WebSocket are the application's alone: the same objects arrive."""
    messages = [
        {"type": kind, "headers": [(b"x-request-id", b"1")]}
        for kind in ("http.response.body", "http.response.trailers", "http.response.push", "websocket.close")
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    sent = asyncio.run(ask(ProvenanceMiddleware(app)))
    assert [True] * 4 == [ours is theirs for ours, theirs in zip(sent, messages, strict=True)]
    assert [[(b"x-request-id", b"1")]] * 4 == [message["headers"] for message in sent]


def test_receive_is_the_servers() -> None:
    """Nothing stands between the application and what it receives."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(receive)

    asyncio.run(ask(ProvenanceMiddleware(app)))
    assert [never] == given


@pytest.mark.parametrize("kind", ["lifespan", "something of tomorrow"])
def test_other_scopes_pass_untouched(kind: str) -> None:
    """What is neither HTTP nor WebSocket is no request: no frame, the same scope, the same callables."""
    given: list[Any] = []

    async def app(*arguments: Any) -> None:
        given.extend([*arguments, current_frame()])

    scope = {"type": kind, "state": {}}
    arguments = (scope, object(), object())
    asyncio.run(ProvenanceMiddleware(app)(*arguments))
    assert [True] * 3 == [mine is theirs for mine, theirs in zip(given[:3], arguments, strict=True)]
    assert ({"type": kind, "state": {}}, None) == (scope, given[3])


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-request-id", REQUEST_ID.encode()), (b"x-request-id", REQUEST_ID.encode())],
        [(b"x-request-id", REQUEST_ID.encode()), (b"x-request-id", b"other")],
        [(b"x_request_id", REQUEST_ID.encode())],
        [(b"x-request-id ", REQUEST_ID.encode())],
        [(b"x-request-id-2", REQUEST_ID.encode())],
        [],
    ],
)
def test_only_one_header_of_exactly_that_name_counts(headers: list[tuple[bytes, bytes]]) -> None:
    """Repeated headers are dropped, and names that merely look alike are other headers."""
    scope = {"type": "http", "headers": headers}
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    frame = scope["provenance.frame"]
    assert is_minted(str(frame.request_id))  # type: ignore[attr-defined]
    assert frame.correlation_id is None  # type: ignore[attr-defined]


def test_underscored_twin_does_not_shadow_the_header() -> None:
    """A header with an underscore, which many proxies let through, cannot replace the real one."""
    scope = scope_of()
    scope["headers"].append((b"x_request_id", b"spoofed"))
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    assert REQUEST_ID == scope["provenance.request_id"]


def test_scope_without_headers_is_served() -> None:
    """A scope made by hand may lack headers."""
    scope = {"type": "http"}
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    assert is_minted(scope["provenance.request_id"])


def test_frame_is_open_until_the_application_returns() -> None:
    """The request lasts beyond its last chunk, for background work, and no longer."""
    states: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await empty(scope, receive, send)
        states.extend([str(get_request_id()), scope["provenance.frame"].closed])

    async def serve() -> RequestFrame | None:
        await ask(ProvenanceMiddleware(app), scope)
        return current_frame()

    scope = scope_of()
    assert asyncio.run(serve()) is None
    assert [REQUEST_ID, False] == states
    assert scope["provenance.frame"].closed


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_exception_ends_the_request_and_goes_on(error: type[BaseException]) -> None:
    """An error or a cancellation leaves no frame behind and reaches the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async def serve() -> RequestFrame | None:
        with pytest.raises(error):
            await ask(ProvenanceMiddleware(app), scope)
        return current_frame()

    scope = scope_of()
    assert asyncio.run(serve()) is None
    assert (True, REQUEST_ID) == (scope["provenance.frame"].closed, scope["provenance.request_id"])


def test_cancelled_request_is_over() -> None:
    """A server that cancels the task of a gone client leaves the request closed; its clean-up still knows the id."""
    seen: list[str] = []

    async def serve() -> bool:
        waiting = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(str(get_request_id()))

        scope = scope_of()
        task = asyncio.create_task(ask(ProvenanceMiddleware(app), scope))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return scope["provenance.frame"].closed

    assert asyncio.run(serve())
    assert [REQUEST_ID] == seen


def test_leftover_of_another_request_is_overridden() -> None:
    """Started inside another request, as uvicorn does when pipelining, this one inherits no id, actor or action."""
    seen: list[Any] = []
    other = RequestFrame(request_id=UUID(int=1), user_id="somebody else")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        frame = current_frame()
        assert frame is not None
        seen.extend([str(get_request_id()), frame.user_id, innermost_action()])
        set_actor(user_id="me")

    async def serve() -> tuple[Any, ...]:
        with open_frame(other):
            set_innermost_action(action)
            await ask(ProvenanceMiddleware(app))
            return current_frame(), innermost_action(), other.user_id, other.closed

    action = CurrentAction(ActionRef(UUID(int=2), UUID(int=2)), other)
    assert (other, action, "somebody else", False) == asyncio.run(serve())
    assert [REQUEST_ID, None, None] == seen


def test_task_that_outlives_the_request_is_outside_it() -> None:
    """A task started in a request and forgotten finds no request once that one is over."""

    async def serve() -> list[str]:
        over = asyncio.Event()
        seen: list[str] = []
        tasks = []

        async def forgotten() -> None:
            seen.append(str(get_request_id()))
            await over.wait()
            seen.append(str(get_request_id()))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(asyncio.create_task(forgotten()))
            await asyncio.sleep(0)

        await ask(ProvenanceMiddleware(app))
        over.set()
        await asyncio.gather(*tasks)
        return seen

    assert [REQUEST_ID, "None"] == asyncio.run(serve())


def test_requests_at_once_keep_apart() -> None:
    """One installation serves 200 requests at a time without mixing up ids or actors."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        set_actor(user_id=scope["path"])
        await asyncio.sleep(0)
        frame = current_frame()
        assert frame is not None
        headers = [(b"seen", f"{frame.request_id} {frame.user_id}".encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def serve() -> list[list[dict[str, Any]]]:
        installed = ProvenanceMiddleware(app)
        return await asyncio.gather(*(ask(installed, scope_of(id_, path=f"user of {id_}")) for id_ in ids))

    ids = [str(UUID(int=number)) for number in range(1, 201)]
    expected = [[(b"seen", f"{id_} user of {id_}".encode()), (b"x-request-id", id_.encode())] for id_ in ids]
    assert expected == [sent[0]["headers"] for sent in asyncio.run(serve())]


def test_two_installations_are_one() -> None:
    """The inner one passes everything through: one header, one frame, the outer one's options."""
    frames: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        frames.append(current_frame())
        await empty(scope, receive, send)

    inner = ProvenanceMiddleware(app, trust=False, response_header="X-Inner")
    scope = scope_of()
    sent = asyncio.run(ask(ProvenanceMiddleware(inner), scope))
    assert [OURS] == sent[0]["headers"]
    assert [scope["provenance.frame"]] == frames


def test_scope_that_is_used_again_is_a_new_request() -> None:
    """The mark of an earlier run in the same scope does not switch the middleware off."""

    async def serve() -> list[bytes]:
        scope = {"type": "http", "headers": []}
        installed = ProvenanceMiddleware(empty)
        return [(await ask(installed, scope))[0]["headers"][0][1] for _ in range(2)]

    first, second = asyncio.run(serve())
    assert first != second


def test_mark_of_another_context_is_not_trusted() -> None:
    """A marked scope that is run without its frame being current gets a frame of its own."""
    scope = scope_of()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(str(get_request_id()))
        await empty(scope, receive, send)

    async def retry(scope: Any, receive: Any, send: Any) -> None:
        inner = ProvenanceMiddleware(app)(scope, receive, send)
        await asyncio.get_running_loop().create_task(inner, context=untouched)

    untouched = copy_context()
    sent = asyncio.run(ask(ProvenanceMiddleware(retry), scope))
    assert [REQUEST_ID] == seen
    assert [OURS] == sent[0]["headers"]


def test_id_is_published_in_the_state() -> None:
    """``request.state.request_id`` works without this library, inside and outside the middleware."""
    scope = scope_of()
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    assert {"request_id": REQUEST_ID} == scope["state"]


def test_scope_is_the_servers() -> None:
    """What the application writes into the scope, as routers do, is there for metrics middleware outside."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = "/orders/{id}"

    scope = scope_of()
    asyncio.run(ask(ProvenanceMiddleware(app), scope))
    assert "/orders/{id}" == scope["route"]


def test_state_of_the_server_is_filled_in_place() -> None:
    """What outer middleware keeps in the state, and reads back from it later, stays in one dict."""
    state = {"pool": "opened at startup"}
    scope = scope_of(state=state)
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    assert scope["state"] is state
    assert {"pool": "opened at startup", "request_id": REQUEST_ID} == state


def test_foreign_state_is_left_alone() -> None:
    """A state that is no dict is somebody else's business."""
    state = ("no", "dict")
    scope = scope_of(state=state)
    asyncio.run(ask(ProvenanceMiddleware(empty), scope))
    assert scope["state"] is state


def test_plain_function_that_returns_an_awaitable_is_an_application() -> None:
    """An application need not be a coroutine function."""

    def app(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        return empty(scope, receive, send)

    sent = asyncio.run(ask(ProvenanceMiddleware(app)))
    assert [OURS] == sent[0]["headers"]


def test_async_generator_closed_by_another_task_harms_nobody() -> None:
    """A stream that another task closes ends outside its request without an error."""
    seen: list[str] = []

    async def chunks() -> AsyncIterator[str]:
        try:
            yield str(get_request_id())
            yield "never"
        finally:
            seen.append(str(get_request_id()))

    async def serve() -> None:
        streams: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            streams.append(chunks())
            seen.append(await anext(streams[0]))

        await ask(ProvenanceMiddleware(app))
        await asyncio.create_task(streams[0].aclose())

    asyncio.run(serve())
    assert [REQUEST_ID, "None"] == seen
