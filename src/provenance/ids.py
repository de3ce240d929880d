"""Identifiers: time-ordered UUIDs, and what an inbound request-id header is worth.

Pure functions, apart from reading the clock and the random source.
"""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from provenance.errors import InvalidAction, InvalidRequestID
from provenance.forking import renew_in_children

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_MS = 1_000_000
_MAX_MS = (1 << 48) - 1


class _Clock:
    """Hands out strictly increasing UUIDv7 time fields, even when the wall clock is set back.

    The 48-bit millisecond is followed by 12 bits of sub-millisecond fraction (RFC 9562, section 6.2, method 3), so
    ids made in one process sort in the order they were made.
    """

    def __init__(self) -> None:
        self._last = 0
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Start with a free lock: a fork taken while another thread held it would leave it held in the child."""
        self._lock = threading.Lock()

    def tick(self, now_ns: int) -> int:
        """Return 60 bits: milliseconds since 1970 and a 1/4096 ms fraction, greater than any returned before."""
        ticks = (now_ns << 12) // _NS_PER_MS
        with self._lock:
            if ticks <= self._last:
                ticks = self._last + 1
            self._last = ticks
        return ticks


_clock = _Clock()


def new_id() -> UUID:
    """Return a new UUIDv7; ids of one process sort in the order of the calls.

    Its 32 hex digits are also a valid W3C trace-id.
    """
    return new_id_at(time.time_ns())


def new_id_at(now_ns: int) -> UUID:
    """Return a new UUIDv7 for a wall-clock reading in nanoseconds since 1970."""
    ticks = _clock.tick(now_ns)
    milliseconds, fraction = ticks >> 12, ticks & 0xFFF
    random_bits = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random_bits)


def new_request_id() -> str:
    """Return a new UUIDv7 as text; unlike those of :func:`new_id`, two of the same millisecond are in no order.

    It takes no lock, and never is a UUID on the way: every request needs its id as text, and few need it otherwise.
    """
    made = (time.time_ns() // _NS_PER_MS).to_bytes(6, "big") + os.urandom(10)
    digits = made.hex()
    variant = "89ab"[made[6] >> 6]  # two bits that the version displaces
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


as_text = lru_cache(maxsize=1024)(str)
"""Return an id as text. That of an action is asked for several times in its transaction, and ``UUID`` makes it anew."""


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def moment(microseconds: int) -> str:
    """Return microseconds since 1970 as ISO 8601 text in UTC; datetimes take several times as long to get there."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}+00:00"


def microseconds(at: datetime) -> int:
    """Return an aware datetime as microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def floor_id(at: datetime) -> UUID:
    """Return the smallest UUIDv7 of the millisecond of *at*, to bound a range of ids by time.

    Raises:
        ValueError: *at* is naive, or outside the years a UUIDv7 can hold.
    """
    if at.tzinfo is None:
        raise ValueError("expected a datetime with a time zone, got a naive one; use datetime.now(UTC)")
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= _MAX_MS:
        raise ValueError(f"{at.isoformat()} cannot be expressed as a UUIDv7; expected a time after 1970")
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62)


def moment_of(action_id: UUID) -> datetime | None:
    """Return the moment that a UUIDv7 carries, to the millisecond; ``None`` of an id whose moment no calendar has."""
    try:
        return _EPOCH + timedelta(milliseconds=action_id.int >> 80)
    except OverflowError:
        return None


# The forms of a 128-bit request id that are in wide use. Every pattern is ASCII only and closed at both ends:
# uuid.UUID() itself would accept braces, "urn:uuid:", Unicode digits and any number of hyphens.
_HYPHENATED = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"[0-9a-fA-F]{32}")
# https://www.w3.org/TR/trace-context/#traceparent-header: lower case, version ff is forbidden, and only versions
# after 00 may carry further fields.
_TRACEPARENT = re.compile(
    r"(?:00-(?P<v0>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00|ff)[0-9a-f]{2}-(?P<vn>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-+\--~]*)?)"
)
# AWS X-Amzn-Trace-Id: Root=1-<8 hex: seconds>-<24 hex>, among other ;-separated fields. Fields are printable ASCII without
# comma: the value is echoed in a response header, and a comma may be two values joined.
_AWS_ROOT = re.compile(
    r"(?:[A-Za-z]+=[!-+\--:<-~]*;)*Root=1-([0-9a-fA-F]{8})-([0-9a-fA-F]{24})(?:;[A-Za-z]+=[!-+\--:<-~]*)*"
)
# Google X-Cloud-Trace-Context: TRACE_ID/SPAN_ID;o=OPTIONS.
_GCP_TRACE = re.compile(r"([0-9a-fA-F]{32})/[0-9]{1,20}(?:;o=[0-9]+)?")
_TOKEN = re.compile(r"[A-Za-z0-9._+/=:@~-]{1,200}")
_LONGEST = 512
_NIL = str(UUID(int=0))

ACCEPTED_FORMS = (
    "a UUID of 36 characters or 32 hex digits, a W3C traceparent, an AWS 'Root=1-…' trace id or a Google "
    "'TRACE_ID/SPAN_ID' trace id, and not all zero"
)


def _convert(text: str) -> str | None:
    """Return the request id that *text* stands for, as a UUID is written."""
    if _HYPHENATED.fullmatch(text):
        found = text.lower()
    elif (digits := _digits_of(text)) is not None:
        digits = digits.lower()
        found = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    else:
        return None
    return None if found == _NIL else found


def _digits_of(text: str) -> str | None:
    if len(text) > _LONGEST:
        return None
    if _DIGITS.fullmatch(text):
        return text
    if match := _TRACEPARENT.fullmatch(text):
        return match["v0"] or match["vn"]
    if text.count("Root=") == 1 and (match := _AWS_ROOT.fullmatch(text)):
        return match[1] + match[2]
    if match := _GCP_TRACE.fullmatch(text):
        return match[1]
    return None


def parse_request_id(text: str) -> UUID:
    """Return the request id that *text* stands for.

    Args:
        text: a UUID of 36 characters or 32 hex digits, a W3C ``traceparent``, an AWS ``Root=1-…`` trace id or a Google
            ``TRACE_ID/SPAN_ID`` trace id.

    Raises:
        InvalidRequestID: it is none of these, or all zero. The message does not repeat the text, which may be hostile.
    """
    found = _convert(text)
    if found is None:
        raise InvalidRequestID(f"not a request id: expected {ACCEPTED_FORMS}")
    return UUID(found)


def as_request_id(value: UUID | str | None) -> UUID | None:
    """Return a request id that a caller gave as an argument.

    Raises:
        InvalidRequestID: it is a text of no accepted form, or neither text nor UUID.
    """
    if value is None or isinstance(value, UUID):
        return value
    if isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return parse_request_id(value)
    raise InvalidRequestID(f"request_id: expected a UUID or a text, got {type(value).__name__}")


def as_action_id(value: object, what: str) -> UUID:
    """Return an action's id that a caller gave as an argument: a UUID, or the text of one.

    Raises:
        InvalidAction: it is neither.
    """
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value if isinstance(value, str) else None)
    except (TypeError, ValueError):
        raise InvalidAction(f"{what}: expected the UUID of an action") from None


def identify(inbound: list[str], *, trusted: bool) -> tuple[str, str | None, str]:
    """Decide a request's identity from the values of its request-id header.

    A single well-formed value of a trusted caller becomes the request id when it stands for 128 bits, and the
    correlation id otherwise. An untrusted caller's value is only ever a correlation id. Anything else (none, several,
    control characters, commas, too long) is dropped whole: stripping characters would merge different ids.

    Args:
        inbound: every value of the header in this request, decoded as latin-1.
        trusted: whether the caller may choose the request id.

    Returns:
        The request id, as text; the caller's own name for the request, if it has one; and what the response header says.
    """
    correlation_id = None
    if len(inbound) == 1:
        given = inbound[0]
        converted = _convert(given)
        if trusted and converted is not None:
            return converted, None, given
        correlation_id = given if _TOKEN.fullmatch(given) else converted
    minted = new_request_id()
    return minted, correlation_id, correlation_id if trusted and correlation_id is not None else minted
