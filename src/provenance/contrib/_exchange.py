"""What the WSGI and the ASGI middleware share: their options, and one request's frame and response headers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, MutableMapping
from inspect import iscoroutinefunction
from typing import Any, TypedDict

from provenance.context import RequestFrame, live_frame
from provenance.ids import identify

_log = logging.getLogger(__name__)

_DEFAULT_HEADER = "X-Request-ID"
# https://www.rfc-editor.org/rfc/rfc9110#name-tokens: what a field name may consist of.
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FRAME_KEY = "provenance.frame"
REQUEST_ID_KEY = "provenance.request_id"
"""Where the environ or the scope holds the request id, as text of 36 characters, for code outside the middleware."""


class Options(TypedDict, total=False):
    """The keywords every installation takes; the middleware classes say what they mean."""

    trust: bool | Callable[[Any], bool]
    header: str
    response_header: str | None
    disclose: str | None


class Exchange:
    """The checked options of one installation; shared by all its requests, so it holds nothing about any of them."""

    def __init__(
        self,
        *,
        trust: bool | Callable[[Any], bool] = True,
        header: str = _DEFAULT_HEADER,
        response_header: str | None = None,
        disclose: str | None = None,
    ) -> None:
        if iscoroutinefunction(trust) or not (callable(trust) or type(trust) is bool):
            raise TypeError(
                "trust= must be True, False or a function (not a coroutine function) that returns one of them"
            )
        _field_name("header", header)
        self._trust = trust
        self._echo = _field_name("response_header", _DEFAULT_HEADER if response_header is None else response_header)
        self._disclose = None if disclose is None else _field_name("disclose", disclose)
        self.replaced = tuple(name.lower() for name in (self._echo, self._disclose) if name is not None)
        """The names of our response headers, in lower case."""
        if len(set(self.replaced)) != len(self.replaced):
            raise ValueError("disclose= and response_header= name the same header; give disclose= a name of its own")

    def begin(
        self, request: MutableMapping[str, Any], inbound: list[str]
    ) -> tuple[RequestFrame, list[tuple[str, str]]]:
        """Identify a request and mark its environ or scope.

        Args:
            request: the WSGI environ or the ASGI scope.
            inbound: every value of the inbound header, decoded as latin-1.

        Returns:
            The request's frame, and the headers that its response must carry.
        """
        request_id, correlation_id, echo = identify(inbound, trusted=bool(inbound) and self._trusts(request))
        frame = RequestFrame(request_id=request_id, correlation_id=correlation_id)
        request[_FRAME_KEY] = frame
        request[REQUEST_ID_KEY] = request_id
        if self._disclose is None:
            return frame, [(self._echo, echo)]
        return frame, [(self._echo, echo), (self._disclose, request_id)]

    def _trusts(self, request: MutableMapping[str, Any]) -> bool:
        if not callable(self._trust):
            return self._trust
        try:
            # Not merely truthy: a predicate that forgot to decide must not let everybody in.
            return self._trust(request) is True
        except Exception as exc:  # noqa: BLE001 - a bug in the predicate must not cost the request
            # Only the type: the message of the exception may quote the header, which may be hostile.
            _log.warning("trust= raised %s; the caller is not trusted", type(exc).__name__)
            return False


def is_served(request: Mapping[str, Any]) -> bool:
    """Say whether an outer installation serves this very request.

    The mark alone may be left over from an earlier run of the same environ or scope, and the context alone may be that
    of another request (uvicorn and Daphne start pipelined requests inside it).
    """
    frame = live_frame()
    if frame is None:
        return False
    # A WSGI application mounted in an ASGI one is served by the installation out there, if a2wsgi mounts it.
    return request.get(_FRAME_KEY) is frame or request.get("asgi.scope", {}).get(_FRAME_KEY) is frame


def _field_name(option: str, value: object) -> str:
    if not isinstance(value, str) or _FIELD_NAME.fullmatch(value) is None:
        raise ValueError(f"{option}= is not a valid HTTP header name; expected a text such as 'X-Request-ID'")
    return value
