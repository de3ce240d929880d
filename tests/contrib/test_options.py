"""What both middlewares make of a request's header and of their options, and where wrong options are reported."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID
from wsgiref.util import setup_testing_defaults

import attrs
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from provenance.context import RequestFrame, current_frame
from provenance.contrib import asgi, flask, starlette, wsgi
from tests.contrib.samples import AMAZON, DROPPED, REQUEST_ID, TRACEPARENT, is_minted


@attrs.frozen
class Seen:
    """A request's frame, as the application had it, and the response headers that the middleware added."""

    frame: RequestFrame
    headers: list[tuple[str, str]]


Through = Callable[..., Seen]


def through_wsgi(inbound: dict[str, str], **options: Any) -> Seen:
    """Send one request through the WSGI middleware."""
    frames: list[Any] = []
    started: list[tuple[str, str]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        frames.append(current_frame())
        start_response("200 OK", [])
        return []

    environ: dict[str, Any] = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in inbound.items()}
    setup_testing_defaults(environ)
    wsgi.ProvenanceMiddleware(app, **options)(environ, lambda status, headers: started.extend(headers))
    return Seen(frames[0], [(name.lower(), value) for name, value in started])


def through_asgi(inbound: dict[str, str], **options: Any) -> Seen:
    """Send one request through the ASGI middleware."""
    frames: list[Any] = []
    started: list[tuple[bytes, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        frames.append(current_frame())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        started.extend(message["headers"])

    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in inbound.items()]
    scope = {"type": "http", "headers": headers}
    asyncio.run(asgi.ProvenanceMiddleware(app, **options)(scope, None, send))
    return Seen(frames[0], [(name.decode(), value.decode("latin-1")) for name, value in started])


@pytest.fixture(params=[through_wsgi, through_asgi], ids=["wsgi", "asgi"])
def through(request: pytest.FixtureRequest) -> Through:
    """The function that sends a request through the WSGI, then the ASGI middleware."""
    return request.param


@pytest.mark.parametrize(
    ("inbound", "request_id"),
    [
        (REQUEST_ID, REQUEST_ID),
        (REQUEST_ID.replace("-", ""), REQUEST_ID),
        (REQUEST_ID.upper(), REQUEST_ID),
        (TRACEPARENT, "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
        (AMAZON, "67891233-abcd-ef01-2345-678912345678"),
    ],
)
def test_inbound_id_becomes_the_request_id(through: Through, inbound: str, request_id: str) -> None:
    """A trusted value of 128 bits is the request id, and comes back as it was sent."""
    seen = through({"X-Request-ID": inbound})
    assert (UUID(request_id), None) == (seen.frame.request_id, seen.frame.correlation_id)
    assert [("x-request-id", inbound)] == seen.headers


@pytest.mark.parametrize("inbound", ["035873B9-9CBC_AC14000A-0050_6196BA3C", "+1", "a" * 200, "0" * 32])
def test_other_inbound_value_becomes_the_correlation_id(through: Through, inbound: str) -> None:
    """A trusted value that is no 128-bit id is kept beside a new request id, and comes back as it was sent."""
    seen = through({"X-Request-ID": inbound})
    assert is_minted(str(seen.frame.request_id))
    assert inbound == seen.frame.correlation_id
    assert [("x-request-id", inbound)] == seen.headers


@pytest.mark.parametrize("inbound", DROPPED.values(), ids=DROPPED)
def test_hostile_value_is_replaced(through: Through, inbound: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no id at all is dropped whole: a new id, no exception and nothing in the log."""
    caplog.set_level(logging.DEBUG)
    seen = through({"X-Request-ID": inbound})
    assert is_minted(str(seen.frame.request_id))
    assert seen.frame.correlation_id is None
    assert [("x-request-id", str(seen.frame.request_id))] == seen.headers
    assert [] == [record for record in caplog.records if record.name.startswith("provenance")]


@given(st.text(st.characters(max_codepoint=0xFF), max_size=600))
def test_any_wsgi_value_gives_one_printable_header(inbound: str) -> None:
    """Whatever a WSGI server lets through, the response carries one header of printable ASCII."""
    [(name, value)] = through_wsgi({"X-Request-ID": inbound}).headers
    assert "x-request-id" == name
    assert re.fullmatch("[!-~]([ -~]*[!-~])?", value)


@given(st.lists(st.binary(max_size=600), max_size=3))
def test_any_asgi_values_give_one_printable_header(values: list[bytes]) -> None:
    """Whatever an ASGI server lets through, the response carries one header of printable ASCII."""
    started: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        started.append(message)

    scope = {"type": "http", "headers": [(b"x-request-id", value) for value in values]}
    asyncio.run(asgi.ProvenanceMiddleware(app)(scope, None, send))
    [(name, value)] = started[0]["headers"]
    assert b"x-request-id" == name
    assert re.fullmatch(b"[!-~]([ -~]*[!-~])?", value)


def test_request_without_header_gets_an_id(through: Through) -> None:
    """A request that brings no id gets a new one, which the response carries."""
    seen = through({"X-Other": REQUEST_ID})
    assert is_minted(str(seen.frame.request_id))
    assert [("x-request-id", str(seen.frame.request_id))] == seen.headers


def test_untrusted_value_is_only_a_correlation_id(through: Through) -> None:
    """At the edge the caller's id is kept for searching, and the response carries ours."""
    seen = through({"X-Request-ID": REQUEST_ID}, trust=False)
    assert is_minted(str(seen.frame.request_id))
    assert REQUEST_ID == seen.frame.correlation_id
    assert [("x-request-id", str(seen.frame.request_id))] == seen.headers


@pytest.mark.parametrize(
    ("answer", "request_id_is_theirs"), [(True, True), (False, False), (None, False), (1, False), ("10.0.0.1", False)]
)
def test_predicate_decides_by_returning_true(through: Through, answer: Any, request_id_is_theirs: bool) -> None:
    """Only ``True`` means trust; something merely truthy may be a predicate that never decided."""
    seen = through({"X-Request-ID": REQUEST_ID}, trust=lambda request: answer)
    assert request_id_is_theirs == (seen.frame.request_id == UUID(REQUEST_ID))


def test_predicate_is_given_the_request() -> None:
    """The predicate sees the environ, or the scope, before anything is written into it."""
    asked: list[dict[str, Any]] = []

    def trust(request: dict[str, Any]) -> bool:
        asked.append(dict(request))
        return True

    through_wsgi({"X-Request-ID": REQUEST_ID}, trust=trust)
    through_asgi({"X-Request-ID": REQUEST_ID}, trust=trust)
    assert REQUEST_ID == asked[0]["HTTP_X_REQUEST_ID"]
    assert {"type": "http", "headers": [(b"x-request-id", REQUEST_ID.encode())]} == asked[1]


def test_predicate_is_not_asked_about_nothing(through: Through) -> None:
    """A request without the header needs nobody's trust."""
    asked: list[Any] = []
    assert is_minted(str(through({}, trust=asked.append).frame.request_id))
    assert [] == asked


def test_failing_predicate_means_no_trust(through: Through, caplog: pytest.LogCaptureFixture) -> None:
    """A predicate that raises costs the caller the trust, not the request; its message, which may quote, stays out."""

    def trust(request: Any) -> bool:
        raise LookupError(f"no such proxy, header was {REQUEST_ID}")

    seen = through({"X-Request-ID": REQUEST_ID}, trust=trust)
    assert is_minted(str(seen.frame.request_id))
    [record] = caplog.records
    assert "trust= raised LookupError; the caller is not trusted" == record.getMessage()
    assert (logging.WARNING, None) == (record.levelno, record.exc_info)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_predicate_does_not_hold_up_a_shutdown(stop: type[BaseException]) -> None:
    """What is not an error of the predicate goes through."""

    def trust(request: Any) -> bool:
        raise stop

    with pytest.raises(stop):
        through_wsgi({"X-Request-ID": REQUEST_ID}, trust=trust)


@pytest.mark.parametrize("header", ["X-Amzn-Trace-Id", "x-amzn-trace-id"])
def test_inbound_header_can_be_another(through: Through, header: str) -> None:
    """``header`` names the inbound header only, in any case; the response keeps X-Request-ID."""
    seen = through({"X-Amzn-Trace-Id": AMAZON, "X-Request-ID": REQUEST_ID}, header=header)
    assert UUID("67891233-abcd-ef01-2345-678912345678") == seen.frame.request_id
    assert [("x-request-id", AMAZON)] == seen.headers


def test_response_header_can_be_another(through: Through) -> None:
    """``response_header`` names the response's header only."""
    seen = through({"X-Request-ID": REQUEST_ID}, response_header="X-Trace")
    assert [("x-trace", REQUEST_ID)] == seen.headers


def test_own_id_can_be_disclosed(through: Through) -> None:
    """``disclose`` adds a header with our id, beside the one that repeats the caller's."""
    seen = through({"X-Request-ID": "their-name"}, disclose="X-Our-ID")
    assert [("x-request-id", "their-name"), ("x-our-id", str(seen.frame.request_id))] == seen.headers


async def _async_predicate(request: object) -> bool:
    return False


INSTALLATIONS = {
    "wsgi": lambda **options: wsgi.ProvenanceMiddleware(lambda environ, start_response: [], **options),
    "asgi": lambda **options: asgi.ProvenanceMiddleware(Starlette(), **options),
    "flask": flask.Provenance,
    "flask with app": lambda **options: flask.Provenance(Flask("app"), **options),
    "starlette": lambda **options: starlette.install(Starlette(), **options),
}


@pytest.mark.parametrize("install", INSTALLATIONS.values(), ids=INSTALLATIONS)
@pytest.mark.parametrize("option", ["header", "response_header", "disclose"])
@pytest.mark.parametrize("name", ["", "X Request ID", "X-Request-ID:", "X-Request-ID\r\n", "X-Größe", b"X-Request-ID"])
def test_malformed_header_name_is_refused(install: Callable[..., object], option: str, name: object) -> None:
    """A header name is checked at installation; the error says which option and does not repeat the value."""
    with pytest.raises(
        ValueError, match=f"^{option}= is not a valid HTTP header name; expected a text such as "
    ) as info:
        install(**{option: name})
    assert f"{option}= is not a valid HTTP header name; expected a text such as 'X-Request-ID'" == str(info.value)


@pytest.mark.parametrize("install", INSTALLATIONS.values(), ids=INSTALLATIONS)
@pytest.mark.parametrize("trust", ["10.0.0.0/8", None, 1, _async_predicate])
def test_unusable_trust_is_refused(install: Callable[..., object], trust: object) -> None:
    """A list of proxies, or a coroutine function, would be taken for trust in everybody."""
    message = "trust= must be True, False or a function (not a coroutine function) that returns one of them"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        install(trust=trust)


@pytest.mark.parametrize("install", INSTALLATIONS.values(), ids=INSTALLATIONS)
@pytest.mark.parametrize(
    "options", [{"disclose": "x-request-id"}, {"response_header": "X-Trace", "disclose": "x-TRACE"}]
)
def test_same_header_twice_is_refused(install: Callable[..., object], options: dict[str, str]) -> None:
    """Two ids under one name would be one header too many."""
    with pytest.raises(
        ValueError, match=r"^disclose= and response_header= name the same header; give disclose= a name"
    ):
        install(**options)


@pytest.mark.parametrize("install", INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_unknown_option_is_refused(install: Callable[..., object]) -> None:
    """A misspelt option is an error at installation."""
    with pytest.raises(TypeError, match="headers"):
        install(headers="X-Request-ID")
