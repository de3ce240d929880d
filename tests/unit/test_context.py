"""The request frame: opening, nesting, being left elsewhere, naming the actor, and travelling in a carrier."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provenance.context import (
    UNSET,
    CurrentAction,
    RequestFrame,
    current_frame,
    extract,
    get_request_id,
    get_request_id_or_generate,
    inject,
    innermost_action,
    live_frame,
    open_frame,
    request_scope,
    set_actor,
    set_innermost_action,
)
from provenance.errors import InvalidAction, InvalidRequestID, MisusedAction, NoRequestScope, ProvenanceError
from provenance.models import ActionRef
from provenance.values import identifier
from tests.strategies import any_text, unhurried

ID = UUID("0af76519-16cd-43dd-8448-eb211c80319c")
OTHER_ID = UUID("11111111-2222-4333-8444-555555555555")
REF = ActionRef(UUID("01890a5d-ac96-774b-bcce-b302099a8057"), UUID("01890a5d-ac96-774b-bcce-b302099a8058"))


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Check that a test starts and ends outside any request and any action."""
    assert (None, None) == (current_frame(), innermost_action())
    yield
    assert (None, None) == (current_frame(), innermost_action())


def actor() -> tuple[str | None, str]:
    """Return user and tenant of the current frame."""
    frame = current_frame()
    assert frame is not None
    return frame.user_id, frame.tenant_id


# Opening


def test_there_is_nothing_outside_any_request() -> None:
    """Without a scope there is no frame, no id and no action."""
    assert (None, None, None, None) == (current_frame(), live_frame(), get_request_id(), innermost_action())


def test_a_scope_carries_what_it_was_given() -> None:
    """Every argument ends up in the frame as text, and the id is the one the helpers return."""
    with request_scope(ID, correlation_id="job 7", user_id=OTHER_ID, tenant_id=12, parent=REF) as frame:
        assert (frame, frame, ID, ID) == (current_frame(), live_frame(), get_request_id(), get_request_id_or_generate())
        assert (ID, "job 7", str(OTHER_ID), "12", REF, False) == (
            frame.request_id,
            frame.correlation_id,
            frame.user_id,
            frame.tenant_id,
            frame.parent,
            frame.closed,
        )

    assert frame.closed is True


def test_an_empty_scope_has_only_a_minted_id() -> None:
    """Without arguments the scope makes an id, which stays the same throughout, and knows nobody."""
    with request_scope() as frame:
        assert (get_request_id(), 7) == (get_request_id(), (get_request_id() or ID).version)
        assert (None, None, "", None) == (frame.correlation_id, frame.user_id, frame.tenant_id, frame.parent)


def test_a_frame_that_was_made_with_a_text_has_a_uuid() -> None:
    """The middleware knows a request by the text of its id; whoever asks gets a UUID, and the same one every time."""
    frame = RequestFrame(request_id=str(ID))

    assert (ID, True) == (frame.request_id, frame.request_id is frame.request_id)


def test_generated_ids_are_not_remembered() -> None:
    """Outside any request every call makes a new id and leaves no trace."""
    assert get_request_id_or_generate() != get_request_id_or_generate()
    assert current_frame() is None


@pytest.mark.parametrize(
    "text", [str(ID), ID.hex, f"00-{ID.hex}-b7ad6b7169203331-01", f"Root=1-{ID.hex[:8]}-{ID.hex[8:]}"]
)
def test_a_scope_reads_every_form_of_request_id(text: str) -> None:
    """A request id may be given in any form that a header may have."""
    with request_scope(text):
        assert ID == get_request_id()


@pytest.mark.parametrize("text", ["", "x", str(UUID(int=0)), f"{ID}\r\n"])
def test_a_scope_refuses_other_texts(text: str) -> None:
    """A text that is no request id is an error here: it comes from the program and not from a stranger."""
    with pytest.raises(InvalidRequestID):
        request_scope(text)


@pytest.mark.parametrize("argument", ["correlation_id", "user_id", "tenant_id"])
def test_a_scope_refuses_ids_of_other_types(argument: str) -> None:
    """A wrong type is refused by the name of the argument, when the scope is made."""
    with pytest.raises(InvalidAction) as caught:
        request_scope(**{argument: 1.5})  # type: ignore[arg-type]

    assert f"{argument}: expected text, an int or a UUID, got float" == str(caught.value)


@pytest.mark.parametrize("value", [7, b"0af7651916cd43dd", object()], ids=["int", "bytes", "object"])
def test_a_scope_refuses_request_ids_of_other_types(value: Any) -> None:
    """Something that is neither a UUID nor text is refused at once and not when a row is written."""
    with pytest.raises(ProvenanceError):
        request_scope(value)


def test_a_scope_opens_once_at_a_time() -> None:
    """Entering a scope that is open is refused, and does not disturb it."""
    scope = request_scope(ID)
    with scope as frame:
        with pytest.raises(MisusedAction) as caught:
            scope.__enter__()
        assert (frame, False) == (current_frame(), frame.closed)

    assert "this request_scope is open already; call request_scope() again for another one" == str(caught.value)


def test_a_scope_can_be_used_again() -> None:
    """One after the other is fine: each time a new frame, and a new id when none was given."""
    scope = request_scope(user_id="u1")
    with scope as first:
        set_actor(user_id="u2")
    with scope as second:
        assert ("u1", "") == actor()

    assert first is not second
    assert first.request_id != second.request_id


def test_leaving_a_scope_that_is_not_open_does_nothing() -> None:
    """An exit too many changes nothing for whoever is there by then."""
    scope = request_scope()
    with scope:
        pass
    with request_scope(ID) as frame:
        scope.__exit__(None, None, None)

        assert (frame, False) == (live_frame(), frame.closed)


# Nesting


def test_scopes_nest() -> None:
    """The inner request hides the outer one, its actor and its action, and gives them back."""
    action = CurrentAction(REF, None)
    with request_scope(ID, user_id="outer") as outer:
        set_innermost_action(action)
        with request_scope(OTHER_ID) as inner:
            assert (inner, OTHER_ID, None) == (live_frame(), get_request_id(), innermost_action())
            assert (None, "") == actor()
        assert (outer, ID, action, False) == (live_frame(), get_request_id(), innermost_action(), outer.closed)


def test_a_scope_is_left_by_an_exception_as_well() -> None:
    """The exception passes unchanged, the frame is closed and the outer one is back."""
    error = KeyboardInterrupt()
    with request_scope(ID) as outer:
        with pytest.raises(KeyboardInterrupt) as caught, request_scope() as inner:
            raise error
        assert (error, True, outer) == (caught.value, inner.closed, live_frame())


def test_a_frame_replaces_whatever_a_server_left_behind() -> None:
    """A request that starts inside the context of the previous one sees nothing of it, open or not."""
    left = CurrentAction(REF, RequestFrame(request_id=OTHER_ID, user_id="stranger"))
    assert left.frame is not None

    def serve() -> tuple[UUID | None, str | None, CurrentAction | None]:
        open_frame(left.frame or RequestFrame()).__enter__()
        set_innermost_action(left)
        with open_frame(RequestFrame(request_id=ID)) as frame:
            return get_request_id(), frame.user_id, innermost_action()

    assert (ID, None, None) == contextvars.copy_context().run(serve)


def test_scopes_left_in_the_wrong_order_leave_nothing_live() -> None:
    """Leaving the outer before the inner never brings a closed request back to life."""

    def cross() -> list[UUID | None]:
        first, second = request_scope(ID), request_scope(OTHER_ID)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        seen = [get_request_id()]
        second.__exit__(None, None, None)
        return [*seen, get_request_id()]

    assert [OTHER_ID, None] == contextvars.copy_context().run(cross)


# Being left in another Context


def streaming(seen: list[UUID | None], frames: list[RequestFrame]) -> Iterator[int]:
    """Yield twice inside a scope, noting the request id at each step."""
    with request_scope(OTHER_ID) as frame:
        frames.append(frame)
        seen.append(get_request_id())
        yield 1
        seen.append(get_request_id())
        yield 2


def in_a_copy(step: Callable[..., Any], *args: Any) -> Any:
    """Run one step in a fresh copy of the context, as a framework does with each chunk of a streamed body."""
    return contextvars.copy_context().run(step, *args)


def test_a_generator_driven_in_copies_leaves_the_caller_alone() -> None:
    """A scope inside a generator whose every step runs in a copy ends without an error and touches nobody else."""
    seen: list[UUID | None] = []
    frames: list[RequestFrame] = []
    with request_scope(ID) as outer:
        generator = streaming(seen, frames)
        steps = [in_a_copy(next, generator, None) for _ in range(3)]

        assert [1, 2, None] == steps
        assert (outer, False, True) == (live_frame(), outer.closed, frames[0].closed)
    assert [OTHER_ID, ID] == seen


def test_a_generator_closed_in_a_copy_closes_its_frame() -> None:
    """Closing the generator from another context closes the request that it had opened."""
    frames: list[RequestFrame] = []

    def use() -> tuple[int, bool, UUID | None]:
        generator = streaming([], frames)
        first = next(generator)
        in_a_copy(generator.close)
        return first, frames[0].closed, get_request_id()

    assert (1, True, None) == in_a_copy(use)


def test_a_scope_left_in_another_thread_is_closed_everywhere() -> None:
    """A block entered here and left by another thread with an empty context is over for both."""
    scope = request_scope(ID)

    def use() -> tuple[bool, UUID | None, RequestFrame | None]:
        frame = scope.__enter__()
        thread = threading.Thread(target=scope.__exit__, args=(None, None, None))
        thread.start()
        thread.join(30)
        return frame.closed, get_request_id(), live_frame()

    assert (True, None, None) == in_a_copy(use)


def test_an_async_generator_closed_by_another_task_closes_its_frame() -> None:
    """The same for an async generator that another task shuts down."""
    frames: list[RequestFrame] = []

    async def body() -> Any:
        with request_scope(ID) as frame:
            frames.append(frame)
            yield get_request_id()

    async def use() -> UUID | None:
        generator = body()
        first = await asyncio.create_task(anext(generator))
        await asyncio.create_task(generator.aclose())
        assert current_frame() is None
        return first

    assert ID == asyncio.run(use())
    assert frames[0].closed is True


# Code that outlives its request


def test_a_task_that_outlives_its_request_belongs_to_none() -> None:
    """A forgotten task still finds the frame, but it is closed: no id, no actor to name, nothing to send along."""

    async def straggler(over: asyncio.Event) -> RequestFrame | None:
        assert ID == get_request_id()
        await over.wait()
        assert (None, None, {}) == (live_frame(), get_request_id(), inject())
        with pytest.raises(NoRequestScope):
            set_actor(user_id="late")
        assert ID != get_request_id_or_generate()
        return current_frame()

    async def use() -> None:
        over = asyncio.Event()
        with request_scope(ID, user_id="u1") as frame:
            task = asyncio.create_task(straggler(over))
            await asyncio.sleep(0)
        over.set()
        assert frame is await task
        assert (True, "u1") == (frame.closed, frame.user_id)

    asyncio.run(use())


# Tasks and threads


def test_concurrent_tasks_keep_their_requests_apart() -> None:
    """Two hundred tasks that interleave at every step each see their own id and actor."""

    async def request(number: int) -> bool:
        with request_scope(UUID(int=number), user_id=number) as frame:
            for _ in range(5):
                await asyncio.sleep(0)
                set_actor(tenant_id=number)
                if (UUID(int=number), frame, (str(number), str(number))) != (get_request_id(), live_frame(), actor()):
                    return False
        return get_request_id() is None

    async def use() -> list[bool]:
        return await asyncio.gather(*(request(number) for number in range(1, 201)))

    assert [True] * 200 == asyncio.run(use())


def test_concurrent_threads_keep_their_requests_apart() -> None:
    """Threads that are inside their requests at the same time each see their own."""
    inside = threading.Barrier(16)

    def request(number: int) -> tuple[UUID | None, UUID | None]:
        with request_scope(UUID(int=number)):
            inside.wait(timeout=30)
            seen = get_request_id()
            inside.wait(timeout=30)
        return seen, get_request_id()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(request, range(1, 17), timeout=60))

    assert [(UUID(int=number), None) for number in range(1, 17)] == seen


# set_actor


def test_the_actor_can_be_named_from_a_thread() -> None:
    """A thread that runs in a copy of the context names the actor of the request it was started by."""
    with request_scope() as frame, concurrent.futures.ThreadPoolExecutor(1) as pool:
        context = contextvars.copy_context()
        pool.submit(context.run, lambda: set_actor(user_id="u1", tenant_id="t1")).result(timeout=30)

        assert ("u1", "t1") == actor()
        assert ("u1", "t1") == (frame.user_id, frame.tenant_id)


def test_the_actor_can_be_named_from_to_thread_and_from_a_task() -> None:
    """The same for what asyncio starts: a worker thread and a child task."""

    async def name_tenant() -> None:
        set_actor(tenant_id="t1")

    async def use() -> tuple[str | None, str]:
        with request_scope():
            await asyncio.to_thread(set_actor, user_id="u1")
            await asyncio.create_task(name_tenant())
            return actor()

    assert ("u1", "t1") == asyncio.run(use())


@pytest.mark.parametrize(
    ("given_actor", "expected"),
    [
        ({}, ("u1", "t1")),
        ({"user_id": UNSET, "tenant_id": UNSET}, ("u1", "t1")),
        ({"user_id": "u2"}, ("u2", "t1")),
        ({"tenant_id": 2}, ("u1", "2")),
        ({"user_id": None}, (None, "t1")),
        ({"user_id": ""}, (None, "t1")),
        ({"tenant_id": None}, ("u1", "")),
        ({"user_id": ID, "tenant_id": ID}, (str(ID), str(ID))),
        ({"user_id": 0}, ("0", "t1")),
    ],
)
def test_set_actor_changes_what_it_is_given(given_actor: dict[str, Any], expected: tuple[str | None, str]) -> None:
    """What is left out stays, None forgets, and ids of any kind become text."""
    with request_scope(user_id="u1", tenant_id="t1"):
        set_actor(**given_actor)

        assert expected == actor()


def test_set_actor_names_the_actor_of_the_innermost_request() -> None:
    """The outer request of a nested one keeps its own actor."""
    with request_scope(user_id="outer"):
        with request_scope():
            set_actor(user_id="inner")
        assert ("outer", "") == actor()


def test_set_actor_needs_a_request() -> None:
    """Outside any request the error says how to open one."""
    with pytest.raises(NoRequestScope) as caught:
        set_actor(user_id="u1")

    assert (
        "set_actor() needs a request to belong to; install the middleware, or open one with request_scope()"
    ) == str(caught.value)


def test_set_actor_needs_the_context_of_the_request() -> None:
    """A thread that was started without the context does not name the actor of some other request."""
    with (
        request_scope(user_id="u1"),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(NoRequestScope),
    ):
        pool.submit(set_actor, user_id="u2").result(timeout=30)


@pytest.mark.parametrize("argument", ["user_id", "tenant_id"])
def test_set_actor_refuses_other_types(argument: str) -> None:
    """A wrong type is refused by the name of the argument and changes nothing."""
    with request_scope(user_id="u1", tenant_id="t1"):
        with pytest.raises(InvalidAction) as caught:
            set_actor(**{argument: True})  # type: ignore[arg-type]
        assert ("u1", "t1") == actor()

    assert f"{argument}: expected text, an int or a UUID, got bool" == str(caught.value)


def test_set_actor_changes_both_or_nothing() -> None:
    """A bad tenant does not leave a new user with the old tenant behind."""
    with request_scope(user_id="u1", tenant_id="t1"):
        with pytest.raises(InvalidAction):
            set_actor(user_id="u2", tenant_id=1.5)  # type: ignore[arg-type]
        assert ("u1", "t1") == actor()


# inject and extract


def test_inject_writes_nothing_outside_any_request() -> None:
    """Without a request and an action the carrier stays as it is."""
    assert {} == inject()


def test_inject_writes_everything_it_knows() -> None:
    """The carrier holds header names in lower case and percent-encoded ASCII values."""
    with request_scope(ID, correlation_id="job/7", user_id="משה", tenant_id="t 1"):
        set_innermost_action(CurrentAction(REF, live_frame()))
        carrier = inject()

    assert {
        "x-request-id": "0af76519-16cd-43dd-8448-eb211c80319c",
        "provenance-correlation-id": "job%2F7",
        "provenance-user-id": "%D7%9E%D7%A9%D7%94",
        "provenance-tenant-id": "t%201",
        "provenance-action": "01890a5d-ac96-774b-bcce-b302099a8057 01890a5d-ac96-774b-bcce-b302099a8058",
    } == carrier


def test_inject_writes_into_the_carrier_it_is_given() -> None:
    """A carrier of the caller's own is completed and returned."""
    own = {"task": "link"}
    with request_scope(ID):
        returned = inject(own)

    assert {"task": "link", "x-request-id": str(ID)} == own
    assert own is returned


def test_inject_leaves_out_what_there_is_not() -> None:
    """A frame without an id, and an action that has ended, are not written."""

    def use() -> Any:
        with open_frame(RequestFrame(user_id="u1")) as frame:
            ended = CurrentAction(REF, frame)
            ended.open = False
            set_innermost_action(ended)
            return inject()

    assert {"provenance-user-id": "u1"} == in_a_copy(use)


def test_an_action_outside_any_request_is_carried() -> None:
    """A script without a request still hands on the action it is in."""

    def use() -> Any:
        set_innermost_action(CurrentAction(REF, None))
        return inject()

    assert {"provenance-action": f"{REF.id} {REF.root_id}"} == in_a_copy(use)


_ids = st.none() | any_text | st.integers() | st.uuids() | st.text(min_size=250, max_size=300)


@given(st.uuids().filter(lambda value: value.int != 0), _ids, _ids, st.none() | any_text, st.booleans())
def test_what_is_injected_is_extracted(
    request_id: UUID, user: Any, tenant: Any, correlation: Any, inside_action: bool
) -> None:
    """Request, actor and action arrive unchanged on the other side, through JSON and as HTTP headers."""
    with request_scope(request_id, user_id=user, tenant_id=tenant, correlation_id=correlation):
        set_innermost_action(CurrentAction(REF, live_frame()) if inside_action else None)
        carrier = json.loads(json.dumps(dict(inject())))

    assert [] == [value for value in carrier.values() if not re.fullmatch("[!-~]+( [!-~]+)?", value)]
    with extract({name.title(): value for name, value in carrier.items()}) as frame:
        assert (
            request_id,
            identifier(user, ""),
            identifier(tenant, "") or "",
            identifier(correlation, ""),
            REF if inside_action else None,
            None,
        ) == (
            frame.request_id,
            frame.user_id,
            frame.tenant_id,
            frame.correlation_id,
            frame.parent,
            innermost_action(),
        )


def test_an_empty_carrier_opens_a_new_request() -> None:
    """A message that carries nothing is processed under a minted id."""
    with extract({}) as frame:
        assert (7, None, "", None) == ((frame.request_id or ID).version, frame.user_id, frame.tenant_id, frame.parent)


BAD_ACTIONS = [
    "",
    " ",
    str(ID),
    f"{ID} ",
    f" {ID}",
    f"{ID}  {ID}",
    f"{ID} x",
    f"x {ID}",
    f"{ID} {ID} {ID}",
    f"{ID}\t{ID}",
    f"{ID} {UUID(int=0)}",
    f"{ID} {ID}\r\n",
    "a" * 65_536,
]


@pytest.mark.parametrize("text", BAD_ACTIONS, ids=range(len(BAD_ACTIONS)))
def test_a_malformed_action_is_left_out(text: str) -> None:
    """Without two well-formed ids there is no parent, and the rest of the message still counts."""
    with extract({"provenance-action": text, "provenance-user-id": "u1"}) as frame:
        assert (None, "u1") == (frame.parent, frame.user_id)


@pytest.mark.parametrize(
    "text", ["", "x", f"{ID}\r\n", f"{ID},{ID}", str(UUID(int=0)), "a" * 65_536, "\u0660" * 32], ids=range(7)
)
def test_a_malformed_request_id_is_replaced(text: str) -> None:
    """A request id that no header may have is not taken from a message either."""
    with extract({"x-request-id": text}) as frame:
        assert 7 == (frame.request_id or ID).version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("%", "%"),
        ("%zz", "%zz"),
        ("%00", r"\u0000"),
        ("%ff", "\ufffd"),
        ("%ED%A0%80", "\ufffd\ufffd\ufffd"),
        ("\ud800", r"\ud800"),
        ("a%0D%0Ab", "a\r\nb"),
        ("מ", "מ"),
    ],
)
def test_odd_texts_are_stored_safely(text: str, expected: str | None) -> None:
    """Whatever percent-encoding yields, the id is fit for a text column."""
    with extract({"provenance-user-id": text}) as frame:
        assert expected == frame.user_id


@pytest.mark.parametrize("value", [None, 7, b"u1", ["u1"], {"a": 1}], ids=["None", "int", "bytes", "list", "dict"])
@pytest.mark.parametrize("key", ["x-request-id", "provenance-user-id", "provenance-tenant-id", "provenance-action"])
def test_values_that_are_no_text_are_left_out(key: str, value: Any) -> None:
    """A carrier decoded from someone else's message may hold anything."""
    with extract({key: value, "provenance-correlation-id": "c"}) as frame:
        assert ("c", None, "", None) == (frame.correlation_id, frame.user_id, frame.tenant_id, frame.parent)


@pytest.mark.parametrize("key", [7, None, ("x-request-id",)], ids=["int", "None", "tuple"])
def test_keys_that_are_no_text_are_left_out(key: Any) -> None:
    """A key of another type is no name of ours and no reason to lose the message."""
    with extract({key: "x", "provenance-user-id": "u1"}) as frame:
        assert "u1" == frame.user_id


_names = st.sampled_from(
    [
        "x-request-id",
        "X-Request-ID",
        "provenance-user-id",
        "provenance-tenant-id",
        "provenance-correlation-id",
        "Provenance-Action",
    ]
)
_anything_said = any_text | st.sampled_from(["%", "%00", "%ff%fe", f"{ID} {ID}", str(ID), "\r\n"]) | st.integers()


@unhurried
@given(st.dictionaries(_names | any_text, _anything_said | st.none() | st.binary(max_size=5), max_size=6))
@example({"provenance-user-id": "%41" * 30_000, "provenance-tenant-id": "\0" * 65_536})
def test_no_carrier_is_an_error(carrier: dict[str, Any]) -> None:
    """A stranger's message always opens a request, with an id and with ids that fit their columns."""
    with extract(carrier) as frame:
        texts = [frame.user_id or "", frame.tenant_id, frame.correlation_id or ""]

        assert (UUID, False) == (type(frame.request_id), frame.closed)
        assert [] == [text for text in texts if len(text) > 256 or "\0" in text]
        assert texts == [text.encode().decode() for text in texts]


def test_extract_does_not_change_the_carrier() -> None:
    """The message can be put back into the queue as it was."""
    carrier = {"X-Request-ID": str(ID), "other": "x"}
    with extract(carrier):
        pass

    assert {"X-Request-ID": str(ID), "other": "x"} == carrier
