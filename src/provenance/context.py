"""Which request is being served, by whom, inside which action: carried by contextvars.

The variable holds one mutable frame per request. Values set further down the stack (in a copied context, in a thread of
a pool) never travel back up through a contextvar, so they are written into the frame, which everyone below the
middleware shares.

Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import quote, unquote
from uuid import UUID

import attrs

from provenance import ids
from provenance.errors import InvalidRequestID, MisusedAction, NoRequestScope
from provenance.models import ActionRef
from provenance.values import identifier


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET
"""Marks an argument that was not given, where ``None`` means something."""
Unset = Literal[_Unset.UNSET]


@attrs.define(kw_only=True, eq=False)
class RequestFrame:
    """What is known about the request, job or script run that the code is part of.

    One frame is shared by everything that serves the request, whatever thread or task it runs in.
    """

    _request_id: UUID | str | None = attrs.field(default=None, alias="request_id")
    """The text is that of a UUID; it is made one when somebody asks, for most requests record nothing."""
    correlation_id: str | None = None
    user_id: str | None = None
    tenant_id: str = ""
    parent: ActionRef | None = None
    """The action in another process that caused this work; see :func:`extract`."""
    closed: bool = False
    """The request is over. Code that still runs (a forgotten task, a long-lived thread) no longer belongs to it."""

    @property
    def request_id(self) -> UUID | None:
        """The request's id; ``None`` for a frame that was made without one."""
        if isinstance(self._request_id, str):
            self._request_id = UUID(self._request_id)
        return self._request_id


class CurrentAction:
    """What the context knows of an action; the tracking layer subclasses it."""

    __slots__ = ("frame", "open", "ref")

    def __init__(self, ref: ActionRef, frame: RequestFrame | None) -> None:
        self.ref = ref
        self.frame = frame
        self.open = True


_frame: ContextVar[RequestFrame | None] = ContextVar("provenance_request_frame", default=None)
_action: ContextVar[CurrentAction | None] = ContextVar("provenance_current_action", default=None)


# Asked for at every turn of every action, these are the very methods of the variables.
current_frame: Final[Callable[[], RequestFrame | None]] = _frame.get
"""Returns the frame of the request being served, closed or not, or ``None`` outside any."""

innermost_action: Final[Callable[[], CurrentAction | None]] = _action.get
"""Returns the innermost action this code runs inside, even one that has ended meanwhile in another task."""

set_innermost_action: Final[Callable[[CurrentAction | None], object]] = _action.set
"""Makes an action the innermost one.

Restore the previous one by value, for a token does not survive a change of Context.
"""


def live_frame() -> RequestFrame | None:
    """Return the frame of the request being served, or ``None`` outside any and once the request is over."""
    frame = _frame.get()
    return None if frame is None or frame.closed else frame


def enter_frame(frame: RequestFrame) -> None:
    """Make *frame* the current one, with no action around it, in a Context that is discarded with it."""
    _frame.set(frame)
    _action.set(None)


class open_frame:
    """Make *frame* the current one for a ``with`` block, with no action around it.

    The frame is set whatever was there before: servers start a request inside the context of the previous one (uvicorn
    and Daphne with pipelined requests), so finding a frame says nothing about being nested. Leaving closes it and
    restores what was there before by value, and only in a context that still has this frame: a block may be left in
    another context than it was entered in.
    """

    __slots__ = ("_before", "frame")

    def __init__(self, frame: RequestFrame) -> None:
        self.frame = frame

    def __enter__(self) -> RequestFrame:
        self._before = (_frame.get(), _action.get())
        enter_frame(self.frame)
        return self.frame

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.frame.closed = True
        if _frame.get() is self.frame:
            frame, action = self._before
            _frame.set(frame)
            _action.set(action)


class request_scope:
    """Open a request frame by hand: for scripts, cron jobs, queue workers and tests.

    Actions inside share one request id, exactly as those of one HTTP request do.

    Args:
        request_id: a :class:`~uuid.UUID`, a text :func:`parse_request_id` accepts, or ``None`` to mint one.
        correlation_id: the name another system has for this work; any text, capped at 256 characters.
        user_id: who asked for it: text, int or UUID.
        tenant_id: the tenant it belongs to: text, int or UUID.
        parent: the action of another process that caused it; see :func:`extract`.

    Raises:
        InvalidRequestID: *request_id* is neither a UUID nor a text of an accepted form.
        InvalidAction: another id is of another type.
    """

    __slots__ = ("_make", "_open", "_request_id")

    def __init__(
        self,
        request_id: UUID | str | None = None,
        *,
        correlation_id: str | None = None,
        user_id: str | int | UUID | None = None,
        tenant_id: str | int | UUID | None = None,
        parent: ActionRef | None = None,
    ) -> None:
        self._request_id = ids.as_request_id(request_id)
        self._make = partial(
            RequestFrame,
            correlation_id=identifier(correlation_id, "correlation_id"),
            user_id=identifier(user_id, "user_id"),
            tenant_id=identifier(tenant_id, "tenant_id") or "",
            parent=parent,
        )
        self._open: open_frame | None = None

    def __enter__(self) -> RequestFrame:
        if self._open is not None:
            raise MisusedAction("this request_scope is open already; call request_scope() again for another one")
        self._open = open_frame(self._make(request_id=self._request_id or ids.new_id()))
        return self._open.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.__exit__(exc_type, exc, tb)
            self._open = None


def get_request_id() -> UUID | None:
    """Return the id of the request being served, or ``None`` outside any."""
    frame = live_frame()
    return None if frame is None else frame.request_id


def get_request_id_or_generate() -> UUID:
    """Return the id of the request being served, or a new one outside any; a new one is not remembered."""
    return get_request_id() or ids.new_id()


def set_actor(
    *, user_id: str | int | UUID | Unset | None = UNSET, tenant_id: str | int | UUID | Unset | None = UNSET
) -> None:
    """Say who is acting, as soon as it is known.

    Works from anywhere below the middleware: after authentication, in a dependency, in a thread of a pool. The user is
    read when an action ends, so it may still be set inside one; the tenant is fixed when an action begins and
    affects later actions only.

    Args:
        user_id: text, int or UUID; ``None`` forgets it; left out, it stays as it is.
        tenant_id: the same, for the tenant.

    Raises:
        NoRequestScope: no request is being served here.
        InvalidAction: an id is of another type.
    """
    frame = live_frame()
    if frame is None:
        raise NoRequestScope(
            "set_actor() needs a request to belong to; install the middleware, or open one with request_scope()"
        )
    user = frame.user_id if isinstance(user_id, _Unset) else identifier(user_id, "user_id")
    tenant = frame.tenant_id if isinstance(tenant_id, _Unset) else identifier(tenant_id, "tenant_id") or ""
    frame.user_id, frame.tenant_id = user, tenant


REQUEST_KEY = "x-request-id"
_CORRELATION_KEY = "provenance-correlation-id"
_USER_KEY = "provenance-user-id"
_TENANT_KEY = "provenance-tenant-id"
_ACTION_KEY = "provenance-action"


def inject(carrier: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Write request, actor and current action into *carrier*, for a queue message or a call to a service of your own.

    The keys are lower-case header names and the values are ASCII, so that the carrier can be JSON, message
    attributes or HTTP headers. It names the user: do not send it to strangers.

    Args:
        carrier: what to write into; a new ``dict`` when left out.

    Returns:
        The carrier. Outside any request nothing is written.
    """
    carrier = {} if carrier is None else carrier
    frame, action = live_frame(), innermost_action()
    if frame is not None:
        if frame.request_id is not None:
            carrier[REQUEST_KEY] = str(frame.request_id)
        for key, value in (
            (_CORRELATION_KEY, frame.correlation_id),
            (_USER_KEY, frame.user_id),
            (_TENANT_KEY, frame.tenant_id),
        ):
            if value:
                carrier[key] = quote(value, safe="")
    if action is not None and action.open:
        carrier[_ACTION_KEY] = f"{action.ref.id} {action.ref.root_id}"
    return carrier


def extract(carrier: Mapping[Any, object]) -> request_scope:
    """Return the :class:`request_scope` that continues what :func:`inject` wrote; enter it with ``with``.

    Names are compared without regard to case. Values that are missing or malformed are left out, never an error, so
    that a message of an older version or of a stranger still gets processed; without a usable request id one is minted.
    """
    found = {key.lower(): value for key, value in carrier.items() if isinstance(key, str) and isinstance(value, str)}
    return request_scope(
        _uuid_or_none(found.get(REQUEST_KEY, "")),
        correlation_id=_unquoted(found.get(_CORRELATION_KEY)),
        user_id=_unquoted(found.get(_USER_KEY)),
        tenant_id=_unquoted(found.get(_TENANT_KEY)),
        parent=_ref_or_none(found.get(_ACTION_KEY, "")),
    )


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _uuid_or_none(text: str) -> UUID | None:
    try:
        return ids.parse_request_id(text)
    except InvalidRequestID:
        return None


def _ref_or_none(text: str) -> ActionRef | None:
    action, _, root = text.partition(" ")
    action_id, root_id = _uuid_or_none(action), _uuid_or_none(root)
    return None if action_id is None or root_id is None else ActionRef(action_id, root_id)
