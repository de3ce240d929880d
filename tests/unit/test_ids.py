"""Time-ordered ids, and what an inbound request-id header is worth."""

from __future__ import annotations

import concurrent.futures
import itertools
import re
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provenance import ids
from provenance.errors import InvalidRequestID, ProvenanceError
from provenance.ids import floor_id, identify, microseconds, moment, new_id, new_id_at, new_request_id, parse_request_id

HYPHENS = "0af76519-16cd-43dd-8448-eb211c80319c"
DIGITS = "0af7651916cd43dd8448eb211c80319c"
THE_ID = UUID(DIGITS)
AWS_ROOT = "Root=1-0af76519-16cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

SPRING = datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPRING_NS = int(SPRING.timestamp()) * 1_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a clock of its own: readings from the future would otherwise hold for the rest of the run."""
    monkeypatch.setattr(ids, "_clock", ids._Clock())


def milliseconds_of(made: UUID) -> int:
    """Return the time that a UUIDv7 says it was made at."""
    return made.int >> 80


# Making ids


def test_new_ids_are_uuids_of_version_7() -> None:
    """A new id is an RFC 9562 UUIDv7 of this moment."""
    before = time.time_ns() // 1_000_000
    made = new_id()

    assert (7, RFC_4122) == (made.version, made.variant)
    assert before <= milliseconds_of(made) <= time.time_ns() // 1_000_000


def test_new_ids_are_w3c_trace_ids() -> None:
    """Its digits serve as a trace-id: 32 lower-case hex digits, not all zero."""
    made = new_id()

    assert re.fullmatch("[0-9a-f]{32}", made.hex)
    assert made == parse_request_id(f"00-{made.hex}-{SPAN}-01")


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("nanoseconds", "time_fields"),
    [
        (0, "00000000-0000-7001"),
        (SPRING_NS, "018e9220-b1c0-7000"),
        (SPRING_NS + 999_999, "018e9220-b1c0-7fff"),
        (SPRING_NS + 500_000, "018e9220-b1c0-7800"),
        (SPRING_NS + 1_000_000, "018e9220-b1c1-7000"),
    ],
)
def test_time_fields(nanoseconds: int, time_fields: str) -> None:
    """48 bits of milliseconds, the version and 12 bits of the fraction of a millisecond, as in RFC 9562 §6.2."""
    assert time_fields == str(new_id_at(nanoseconds))[:18]


# Request ids, which are made as text


@given(
    now=st.integers(min_value=0, max_value=2**48 * 1_000_000 - 1),
    random=st.binary(min_size=10, max_size=10),
)
@example(now=0, random=bytes(10))
@example(now=SPRING_NS, random=b"\xff" * 10)
def test_a_new_request_id_is_a_uuid_of_version_7(now: int, random: bytes) -> None:
    """Whatever the clock and the random bytes, it is the text of an RFC 9562 UUIDv7 of that moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids.time, "time_ns", lambda: now)
        patch.setattr(ids.os, "urandom", lambda count: random)
        text = new_request_id()

    made = UUID(text)
    assert (text, 7, RFC_4122) == (str(made), made.version, made.variant)
    assert now // 1_000_000 == milliseconds_of(made)


def test_request_ids_of_the_same_moment_differ_in_74_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and threads that read the same clock still make different ids: no bit is fixed, or a copy of another."""
    monkeypatch.setattr(ids.time, "time_ns", lambda: SPRING_NS)
    numbers = [UUID(new_request_id()).int for _ in range(400)]
    columns = {tuple(number >> bit & 1 for number in numbers) for bit in range(80)}

    # Each random bit is a column of its own; six are the version and the variant, which are all ones or all noughts.
    assert 74 + 2 == len(columns)


@pytest.mark.usefixtures("clock")
@given(st.lists(st.integers(min_value=0, max_value=2**47 * 1_000_000), min_size=2, max_size=20))
def test_ids_rise_whatever_the_clock_reads(readings: list[int]) -> None:
    """Ids sort in the order they were made, although the clock stands still, jumps ahead or is set back."""
    ids._clock = ids._Clock()
    made = [new_id_at(reading) for reading in readings]

    assert sorted(set(made)) == made


@pytest.mark.usefixtures("clock")
def test_ids_stay_close_to_the_time_when_the_clock_is_set_back() -> None:
    """After an hour backwards the ids go on from the latest time seen, by 1/4096 of a millisecond each."""
    latest = new_id_at(SPRING_NS)
    after = [new_id_at(SPRING_NS - 3_600_000_000_000) for _ in range(4096)]

    assert milliseconds_of(latest) + 1 == milliseconds_of(after[-1])


@pytest.mark.usefixtures("clock")
def test_ids_of_the_same_moment_differ_in_62_random_bits() -> None:
    """Two processes that read the same clock still make different ids."""
    tails = set()
    for _ in range(100):
        ids._clock = ids._Clock()
        tails.add(new_id_at(SPRING_NS).int & (1 << 62) - 1)

    assert 100 == len(tails)
    assert 62 == max(tails).bit_length()


@pytest.mark.usefixtures("clock")
def test_ids_of_many_threads_are_unique_and_rise_in_each() -> None:
    """Threads that make ids at once never get the same time fields, and each gets rising ones."""
    start = threading.Barrier(8)

    def make() -> list[UUID]:
        start.wait(timeout=30)
        return [new_id_at(SPRING_NS) for _ in range(5_000)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            batches = [future.result(timeout=60) for future in [pool.submit(make) for _ in range(8)]]
    finally:
        sys.setswitchinterval(before)

    assert [sorted(batch) for batch in batches] == batches
    assert 40_000 == len({made.int >> 64 for made in itertools.chain.from_iterable(batches)})


def test_a_forked_child_makes_ids_while_the_lock_was_held() -> None:
    """A fork taken while another thread is making an id leaves a child that works and makes ids of its own."""
    script = """
        import os, signal, threading
        from provenance import ids

        held, done = threading.Event(), threading.Event()

        def hold():
            with ids._clock._lock:
                held.set()
                done.wait(30)

        threading.Thread(target=hold).start()
        held.wait(30)
        if os.fork() == 0:
            signal.alarm(20)
            print(ids.new_id(), flush=True)
            os._exit(0)
        done.set()
        _, status = os.wait()
        print(ids.new_id(), os.waitstatus_to_exitcode(status))
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    child, parent, status = result.stdout.split()

    assert "0" == status
    assert UUID(child) != UUID(parent)


# Times and ids


@example(EPOCH)
@example(EPOCH - timedelta(microseconds=1))
@example(SPRING - timedelta(microseconds=1))
@given(st.datetimes())
def test_moment(at: datetime) -> None:
    """Microseconds become the text that a datetime has, its fraction always in full, and come from one."""
    at = at.replace(tzinfo=UTC)

    assert at.isoformat(timespec="microseconds") == moment(microseconds(at))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (SPRING, "018e9220-b1c0-7000-8000-000000000000"),
        (SPRING + timedelta(microseconds=999), "018e9220-b1c0-7000-8000-000000000000"),
        (SPRING + timedelta(microseconds=1000), "018e9220-b1c1-7000-8000-000000000000"),
        (SPRING.astimezone(timezone(timedelta(hours=3))), "018e9220-b1c0-7000-8000-000000000000"),
        (datetime(1970, 1, 1, tzinfo=UTC), "00000000-0000-7000-8000-000000000000"),
        (datetime.max.replace(tzinfo=UTC), "e677d21f-dbff-7000-8000-000000000000"),
    ],
)
def test_floor_id(at: datetime, expected: str) -> None:
    """The bound is the smallest UUIDv7 of the millisecond, in whatever zone the time is given."""
    assert UUID(expected) == floor_id(at)


@pytest.mark.usefixtures("clock")
@given(st.integers(min_value=0, max_value=2**47 * 1_000_000))
def test_floor_id_bounds_the_ids_of_its_time(nanoseconds: int) -> None:
    """The floor of a time is not above an id made then, and the floor of the next millisecond is above it."""
    ids._clock = ids._Clock()
    made = new_id_at(nanoseconds)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=nanoseconds // 1_000_000)

    assert floor_id(at) <= made < floor_id(at + timedelta(milliseconds=1))


@pytest.mark.parametrize(
    ("at", "complaint"),
    [
        (datetime(2024, 3, 31), "expected a datetime with a time zone, got a naive one; use datetime.now(UTC)"),  # noqa: DTZ001
        (
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            "1969-12-31T23:59:59.999999+00:00 cannot be expressed as a UUIDv7; expected a time after 1970",
        ),
    ],
)
def test_floor_id_refuses_what_no_id_can_tell(at: datetime, complaint: str) -> None:
    """A naive datetime and a time before 1970 are refused."""
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        floor_id(at)


# Reading request ids

ACCEPTED = {
    "hyphens": HYPHENS,
    "hex digits": DIGITS,
    "upper case": HYPHENS.upper(),
    "mixed digits": DIGITS.upper(),
    "traceparent": f"00-{DIGITS}-{SPAN}-01",
    "traceparent not sampled": f"00-{DIGITS}-{SPAN}-00",
    "traceparent of a later version": f"01-{DIGITS}-{SPAN}-01",
    "later version with more fields": f"cc-{DIGITS}-{SPAN}-01-what-the-future-will-be",
    "later version ending in a hyphen": f"cc-{DIGITS}-{SPAN}-01-",
    "AWS": AWS_ROOT,
    "AWS from a load balancer": f"Self=1-67891234-12456789abcdef012345678;{AWS_ROOT}",
    "AWS with parent and sampling": f"{AWS_ROOT};Parent=53995c3f42cd8ad8;Sampled=1",
    "AWS with lineage": f"{AWS_ROOT};Lineage=a87bd80c:0|68fd508a:5|c512fbe3:2",
    "AWS upper case": f"Root=1-{DIGITS[:8].upper()}-{DIGITS[8:].upper()}",
    "Google": f"{DIGITS}/1",
    "Google with options": f"{DIGITS}/12345678901234567890;o=1",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_every_accepted_form_is_converted(text: str) -> None:
    """Each form of a 128-bit id in wide use is read without loss."""
    assert THE_ID == parse_request_id(text)


REFUSED = {
    "empty": "",
    "word": "x",
    "all zero": "00000000-0000-0000-0000-000000000000",
    "all zero digits": "0" * 32,
    "all zero traceparent": f"00-{'0' * 32}-{SPAN}-01",
    "all zero AWS": "Root=1-00000000-" + "0" * 24,
    "all zero Google": "0" * 32 + "/1",
    "braces": "{" + HYPHENS + "}",
    "many braces": "{{{" + HYPHENS,
    "urn": "urn:uuid:" + HYPHENS,
    "many urns": "urn:uuid:" * 50 + HYPHENS,
    "many hyphens": "-" * 5000 + DIGITS,
    "hyphens elsewhere": "0af7-651916cd43dd-8448eb21-1c80-319c",
    "hyphen at the end": DIGITS + "-",
    "31 digits": DIGITS[1:],
    "33 digits": DIGITS + "0",
    "no hex digit": "g" + DIGITS[1:],
    "underscores": "0a_f7651916cd43dd8448eb211c80319",
    "sign": "+" + DIGITS[1:],
    "prefix": "0x" + DIGITS[2:],
    "Arabic digits": "\u0660" * 32,
    "full-width digits": "\uff11" * 32,
    "white space": f" {HYPHENS}",
    "white space after": f"{HYPHENS} ",
    "line feed after": f"{HYPHENS}\n",
    "CRLF after": f"{DIGITS}\r\n",
    "CRLF in 32 characters": f"{DIGITS[2:]}\r\n",
    "header injection": f"{HYPHENS}\r\nSet-Cookie: a=b",
    "NUL": f"{HYPHENS}\0",
    "control character": "\x01" + HYPHENS,
    "latin-1": "\xff" + HYPHENS,
    "two with a comma": f"{HYPHENS},{HYPHENS}",
    "two with comma and space": f"{HYPHENS}, {HYPHENS}",
    "64 kB": "a" * 65_536,
    "64 kB of hex digits": DIGITS * 2048,
    "path": "../../etc/passwd",
    "SQL": "'; DROP TABLE actions; --",
    "terminal escape": "\x1b[31mred\x1b[0m",
    "bidi override": "\u202e" + HYPHENS,
    "lone surrogate": "\ud800",
    "quotes": f'"{HYPHENS}"',
    "traceparent upper case": f"00-{DIGITS.upper()}-{SPAN}-01",
    "traceparent version ff": f"ff-{DIGITS}-{SPAN}-01",
    "traceparent short id": f"00-{DIGITS[1:]}-{SPAN}-01",
    "traceparent short span": f"00-{DIGITS}-{SPAN[1:]}-01",
    "traceparent short version": f"0-{DIGITS}-{SPAN}-01",
    "traceparent without flags": f"00-{DIGITS}-{SPAN}",
    "traceparent flags of one digit": f"00-{DIGITS}-{SPAN}-1",
    "traceparent with more fields": f"00-{DIGITS}-{SPAN}-01-more",
    "traceparent ending in a hyphen": f"00-{DIGITS}-{SPAN}-01-",
    "later version without a hyphen": f"cc-{DIGITS}-{SPAN}-01.more",
    "later version with CRLF": f"cc-{DIGITS}-{SPAN}-01-\r\nSet-Cookie: a=b",
    "later version with latin-1": f"cc-{DIGITS}-{SPAN}-01-\xff",
    "AWS without root": "Self=1-0af76519-16cd43dd8448eb211c80319c",
    "AWS version 2": "Root=2-0af76519-16cd43dd8448eb211c80319c",
    "AWS short": "Root=1-0af76519-16cd43dd8448eb211c80319",
    "AWS bare": "1-0af76519-16cd43dd8448eb211c80319c",
    "AWS field without a name": f"{AWS_ROOT};=1",
    "AWS lower case": "root=1-0af76519-16cd43dd8448eb211c80319c",
    "AWS with header injection": f"{AWS_ROOT};Self=\r\nSet-Cookie: a=b",
    "AWS with header injection before": f"Self=\r\nSet-Cookie: a=b;{AWS_ROOT}",
    "AWS with NUL": f"Self=\0;{AWS_ROOT}",
    "AWS with latin-1": f"{AWS_ROOT};Self=\xff",
    "AWS with a terminal escape": f"{AWS_ROOT};Self=\x1b[31m",
    "AWS twice with a comma": f"{AWS_ROOT};Sampled=1,Root=1-67891233-abcdef012345678912345678;Sampled=1",
    "AWS of 64 kB": f"{AWS_ROOT};Self=" + "a" * 65_536,
    "AWS of 513 characters": f"{AWS_ROOT};Self=".ljust(513, "a"),
    "Google without span": f"{DIGITS}/",
    "Google with a long span": f"{DIGITS}/" + "1" * 21,
    "Google with a path": f"{DIGITS}/../x",
    "Google with other options": f"{DIGITS}/1;o=x",
    "Google with hyphens": f"{HYPHENS}/1",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_everything_else_is_refused(text: str) -> None:
    """What is none of the forms is refused with the accepted ones named and the text not repeated."""
    with pytest.raises(InvalidRequestID) as caught:
        parse_request_id(text)

    assert (
        "not a request id: expected a UUID of 36 characters or 32 hex digits, a W3C traceparent, an AWS 'Root=1-…' "
        "trace id or a Google 'TRACE_ID/SPAN_ID' trace id, and not all zero"
    ) == str(caught.value)
    assert (True, True) == (isinstance(caught.value, ValueError), isinstance(caught.value, ProvenanceError))


def test_two_roots_are_no_answer() -> None:
    """An AWS header that names two traces is refused, as two headers are."""
    with pytest.raises(InvalidRequestID):
        parse_request_id(f"{AWS_ROOT};Root=1-67891233-abcdef012345678912345678")


@given(st.uuids().filter(lambda value: value.int != 0))
def test_uuids_survive_as_text(value: UUID) -> None:
    """Any UUID but the nil one is read back from its text and from its digits, in either case."""
    texts = [str(value), value.hex, str(value).upper(), value.hex.upper()]

    assert [value] * 4 == [parse_request_id(text) for text in texts]


@given(st.integers(min_value=1, max_value=2**128 - 1))
def test_trace_ids_survive_in_every_envelope(number: int) -> None:
    """A trace id is the same id in each of the headers that carry it."""
    digits = f"{number:032x}"
    envelopes = [f"00-{digits}-{SPAN}-01", f"Root=1-{digits[:8]}-{digits[8:]}", f"{digits}/1;o=1"]

    assert [UUID(digits)] * 3 == [parse_request_id(text) for text in envelopes]


# Deciding who a request is


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_trusted_caller_chooses_the_request_id(text: str) -> None:
    """A trusted 128-bit id becomes the request id and is echoed as it came."""
    assert (HYPHENS, None, text) == identify([text], trusted=True)


TOKENS = {
    "word": "x",
    "Heroku": "8e5f0c4a-4f1e+b/3=",
    "Heroku leading plus": "+abcdefghijklmnopqrst",
    "ULID": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "HAProxy": "035873B9-9CBC_AC14000A-0050_6196BA3C_0001-2F6B",
    "chi": "host.example.com/gCbRQJ9W1v-000001",
    "urn": "urn:uuid:" + HYPHENS,
    "nil": str(UUID(int=0)),
    "upper-case traceparent": f"00-{DIGITS.upper()}-{SPAN}-01",
    "every character": "AZaz09._+/=:@~-",
    "200 characters": "r" * 200,
}


@pytest.mark.parametrize("text", TOKENS.values(), ids=TOKENS.keys())
def test_a_trusted_token_becomes_the_correlation_id(text: str) -> None:
    """A harmless text that is no 128-bit id is kept beside a minted request id, and echoed."""
    request_id, correlation_id, echo = identify([text], trusted=True)

    assert (7, text, text) == (UUID(request_id).version, correlation_id, echo)


@pytest.mark.parametrize("text", [*TOKENS.values(), HYPHENS, DIGITS, AWS_ROOT, f"00-{DIGITS}-{SPAN}-01", f"{DIGITS}/1"])
def test_an_untrusted_caller_only_gets_a_correlation_id(text: str) -> None:
    """At the edge the request id is always minted and echoed, and the caller's own is kept beside it."""
    request_id, correlation_id, echo = identify([text], trusted=False)

    assert (7, text, request_id) == (UUID(request_id).version, correlation_id, echo)
    assert HYPHENS != request_id


@pytest.mark.parametrize("text", [f"{AWS_ROOT};Parent=53995c3f42cd8ad8;Sampled=1", f"{DIGITS}/1;o=1"])
def test_an_untrusted_trace_id_is_kept_without_its_envelope(text: str) -> None:
    """A form with characters that no correlation id may have is kept as the id it stands for."""
    request_id, correlation_id, echo = identify([text], trusted=False)

    assert (HYPHENS, request_id) == (correlation_id, echo)


# What REFUSED has that is a harmless token all the same, and may become a correlation id.
_DROPPED = {
    key: text for key, text in REFUSED.items() if not re.fullmatch(r"[A-Za-z0-9._+/=:@~-]{1,200}", text, re.ASCII)
}
_DROPPED |= {
    "201 characters": "r" * 201,
    "percent": "%0d%0a",
    "star": "*",
    "backslash": "\\",
    "blank": "a b",
    "tab": "\t",
}


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("text", _DROPPED.values(), ids=_DROPPED.keys())
def test_everything_else_is_dropped_whole(text: str, trusted: bool) -> None:
    """A value that is neither leaves no trace: a minted id, no correlation id, and the minted id echoed."""
    request_id, correlation_id, echo = identify([text], trusted=trusted)

    assert (7, None, request_id) == (UUID(request_id).version, correlation_id, echo)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("values", [[], [HYPHENS, HYPHENS], [HYPHENS, "x"], ["", HYPHENS], ["a", "b", "c"]])
def test_no_header_or_several_are_worth_nothing(values: list[str], trusted: bool) -> None:
    """Without exactly one header value the id is minted: nobody can say which of several is meant."""
    request_id, correlation_id, echo = identify(values, trusted=trusted)

    assert (7, None, request_id) == (UUID(request_id).version, correlation_id, echo)


_header_characters = st.characters(max_codepoint=255)
_headers = st.text(_header_characters, max_size=60) | st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            [HYPHENS, DIGITS, "Root=1-", DIGITS[:8], DIGITS[8:], "-", SPAN, "/", ";", "=", ",", "\r\n", "\0"]
        ),
        max_size=8,
    ),
)


@given(st.lists(_headers, max_size=2), st.booleans())
@example(values=["a" * 65_536], trusted=True)
def test_no_header_raises_or_reaches_the_response_unchecked(values: list[str], trusted: bool) -> None:
    """Whatever arrives, there is a request id, and response header and correlation id are bounded printable ASCII."""
    request_id, correlation_id, echo = identify(values, trusted=trusted)

    assert (request_id, True) == (str(UUID(request_id)), UUID(request_id).int != 0)
    assert re.fullmatch(r"[!-~]{1,512}", echo)
    assert correlation_id is None or re.fullmatch(r"[A-Za-z0-9._+/=:@~-]{1,200}", correlation_id)


@given(st.text(max_size=600))
def test_parsing_any_text_gives_an_id_or_its_own_error(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        found = parse_request_id(text)
    except InvalidRequestID:
        found = None

    assert found is None or found.int != 0


@pytest.mark.parametrize("piece", ["Self=", "a=;", "Root=1-", ";", "Root=1-;", "a=a;a"])
def test_hostile_repetition_takes_no_time(piece: str) -> None:
    """The patterns cannot be made to backtrack: the longest text they look at is done in well under 0.1 s of CPU."""
    text = (piece * 512)[:512]
    begun = time.thread_time()
    request_id, _, echo = identify([text], trusted=True)

    assert (request_id, True) == (echo, time.thread_time() - begun < 0.1)


def test_the_moment_of_an_id() -> None:
    """To the millisecond, as it was made; of an id that is no UUIDv7 perhaps none that a calendar has."""
    at = datetime(2027, 2, 28, 23, 59, 59, 999_000, tzinfo=UTC)
    assert at == ids.moment_of(ids.floor_id(at))
    assert datetime(1970, 1, 1, tzinfo=UTC) == ids.moment_of(UUID(int=0))
    assert ids.moment_of(UUID(int=2**128 - 1)) is None
