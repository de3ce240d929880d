"""Identifiers, names, messages, redaction and the conversion to JSON."""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import enum
import hashlib
import inspect
import io
import json
import keyword
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import attrs
import pydantic
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from provenance.errors import InvalidAction, UnserializableValue
from provenance.values import REDACTED, Redactor, identifier, message, name, to_json, to_json_marked
from tests.strategies import (
    CANARY,
    Box,
    Colour,
    Crate,
    Hostile,
    HostileBox,
    HostileMapping,
    Pairs,
    Point,
    any_text,
    anything,
    convertible,
    plain_json,
    unhurried,
)

SOME_UUID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
REDACTOR = Redactor()


class Text(str):
    """Text that misbehaves wherever it can."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError(CANARY)

    __repr__ = __format__ = __len__ = __eq__ = strip = replace = __getitem__ = __str__
    __hash__ = str.__hash__


class Number(int):
    """An int that misbehaves wherever it can."""

    def __repr__(self) -> str:
        raise RuntimeError(CANARY)

    __str__ = __int__ = __index__ = bit_length = __hash__ = __repr__


class Grade(enum.StrEnum):
    """An enum whose members are text."""

    GOOD = "good"


class Level(enum.IntEnum):
    """An enum whose members are ints."""

    LOW = 1


class Coded(enum.StrEnum):
    """An enum whose members are text but have another value."""

    FIRST = "first"

    def __new__(cls, text: str) -> Coded:
        member = str.__new__(cls, text)
        member._value_ = 1
        return member


def kind_of(value: object) -> str:
    """Return a test id for a value that may not be asked for its text."""
    return type(value).__name__


def json_of(value: object, **options: Any) -> Any:
    """Convert strictly and parse the text again."""
    text = to_json(value, options.pop("redactor", REDACTOR), what="payload", **options)
    return None if text is None else json.loads(text)


def refusal_of(value: object) -> str:
    """Return the message of the refusal that a value meets."""
    with pytest.raises(UnserializableValue) as caught:
        to_json(value, REDACTOR, what="payload")
    return str(caught.value)


def marked_of(value: object, **options: Any) -> tuple[Any, str | None]:
    """Convert leniently and parse the text again."""
    text, warning = to_json_marked(value, REDACTOR, what="result", **options)
    return None if text is None else json.loads(text), warning


# identifier


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("user-1", "user-1"),
        (" ", " "),
        ("משתמש", "משתמש"),
        (0, "0"),
        (-7, "-7"),
        (SOME_UUID, "01890a5d-ac96-774b-bcce-b302099a8057"),
        (Grade.GOOD, "good"),
        (Level.LOW, "1"),
        (Text("u1"), "u1"),
        (Number(7), "7"),
        ("a\0b", r"a\u0000b"),
        ("a\ud800b", r"a\ud800b"),
        ("\ud83d\ude00", r"\ud83d\ude00"),
        ("x" * 256, "x" * 256),
    ],
    ids=kind_of,
)
def test_identifier_becomes_text(value: Any, expected: str | None) -> None:
    """Text, ints and UUIDs become storable text; nothing and the empty text mean that there is none."""
    actual = identifier(value, "user_id")

    assert (expected, str if expected else type(None)) == (actual, type(actual))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "bool"), (1.5, "float"), (b"u", "bytes"), (["u"], "list"), (object(), "object"), (Colour.RED, "Colour")],
)
def test_identifier_refuses_other_types(value: Any, kind: str) -> None:
    """Any other type is refused at the call, by its name and without the value."""
    with pytest.raises(InvalidAction) as caught:
        identifier(value, "user_id")

    assert f"user_id: expected text, an int or a UUID, got {kind}" == str(caught.value)


@pytest.mark.parametrize("length", [257, 300])
def test_long_identifiers_are_cut_to_a_digest_of_the_whole(length: int) -> None:
    """An id of more than 256 characters ends in the first 16 hex digits of its SHA-256."""
    value = "ü" * length

    assert "ü" * 232 + "~sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16] == identifier(value, "entity_id")


@pytest.mark.parametrize(
    ("first", "second"), [("x" * 9999 + "1", "x" * 9999 + "2"), (10**5000, 10**5000 + 1)], ids=kind_of
)
def test_long_identifiers_stay_different(first: Any, second: Any) -> None:
    """Ids that differ only beyond the cut, and ints too long for str(), stay different in 256 characters."""
    texts = {identifier(first, "entity_id"), identifier(second, "entity_id")}

    assert [256, 256] == [len(text or "") for text in texts]


@given(any_text | st.text(st.characters(), min_size=200, max_size=300))
def test_identifiers_are_storable(value: str) -> None:
    """Whatever the text, the id encodes as UTF-8, has no NUL and at most 256 characters."""
    actual = identifier(value, "user_id") or ""

    assert (True, False, bool(value)) == (len(actual.encode()) <= 1024, "\0" in actual, bool(actual))
    assert len(actual) <= 256


# name


@pytest.mark.parametrize("value", ["link_zman", "x", "a b", "זמן", "publisher.zman/v2", "n" * 100])
def test_names_are_returned_as_they_are(value: str) -> None:
    """A printable name of up to 100 characters passes unchanged."""
    assert value == name(value, "concept")


@pytest.mark.parametrize("value", [Grade.GOOD, Text("good")], ids=kind_of)
def test_names_become_plain_text(value: str) -> None:
    """A subclass of str is read as the text it holds."""
    actual = name(value, "concept")

    assert ("good", str) == (actual, type(actual))


EXPECTED = "expected printable text of 1 to 100 characters with no white space around it"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, f"action_type: {EXPECTED}, got NoneType"),
        (7, f"action_type: {EXPECTED}, got int"),
        (b"link", f"action_type: {EXPECTED}, got bytes"),
        (Colour.RED, f"action_type: {EXPECTED}, got Colour"),
        ("", f"action_type is empty: {EXPECTED}"),
        ("n" * 101, f"action_type has 101 characters: {EXPECTED}"),
        (" link", f"action_type begins or ends with white space: {EXPECTED}"),
        ("link\n", f"action_type begins or ends with white space: {EXPECTED}"),
        ("\u2003", f"action_type begins or ends with white space: {EXPECTED}"),
        ("li\0nk", f"action_type has characters that cannot be printed: {EXPECTED}"),
        ("li\nnk", f"action_type has characters that cannot be printed: {EXPECTED}"),
        ("li\x1b[31mnk", f"action_type has characters that cannot be printed: {EXPECTED}"),
        ("li\u202enk", f"action_type has characters that cannot be printed: {EXPECTED}"),
        ("li\ud800nk", f"action_type has characters that cannot be printed: {EXPECTED}"),
    ],
)
def test_bad_names_are_refused(value: object, complaint: str) -> None:
    """The refusal says which argument, what was wrong and what is expected, and does not repeat the value."""
    with pytest.raises(InvalidAction) as caught:
        name(value, "action_type")

    assert complaint == str(caught.value)


# message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("the zman is linked already\nline 2", "the zman is linked already\nline 2"),
        ("a\0b\udcff", r"a\u0000b\udcff"),
        (Text("plain"), "plain"),
        ("m" * 4096, "m" * 4096),
        ("m" * 4097, "m" * 4073 + " [cut: 4097 characters]"),
    ],
    ids=kind_of,
)
def test_messages_are_made_storable(text: str, expected: str) -> None:
    """Free text keeps its line breaks, loses what a column cannot hold and says where it was cut."""
    actual = message(text, redact=REDACTOR.redact)

    assert (expected, str) == (actual, type(actual))


def test_escapes_count_towards_the_cap_of_a_message() -> None:
    """A message that only outgrows its limit by being escaped is cut too, and gives its own length."""
    assert r"\u0000\u0000 [cut: 6 characters]" == message("\0" * 6, limit=32, redact=REDACTOR.redact)


@given(any_text, st.integers(min_value=0, max_value=40))
def test_messages_fit(text: str, limit: int) -> None:
    """No message is longer than its limit, however small, and each encodes as UTF-8 without NUL."""
    actual = message(text, limit, redact=REDACTOR.redact)

    assert (True, False) == (len(actual) <= limit, b"\0" in actual.encode())


def test_a_huge_message_is_not_copied() -> None:
    """Only the part of a message that is kept is worked on."""
    text = "\0" * 20_000_000
    tracemalloc.start()
    try:
        message(text, redact=REDACTOR.redact)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


# Redactor

HIDDEN = re.findall(
    r"\S+",
    """
    password passwd pwd passphrase passcode password_confirmation passwordConfirmation userPassword user-password
    PASSWORD DB_PASSWORD DBpassword password1 password_2 password.hash passwordHash passwordhash userpassword newPasswd
    pass_word db_pass smtpPass pass PGPASSWORD passwords
    secret secrets secretKey SECRET_KEY secretkey client_secret clientSecret clientsecret secret_id vault.secret
    aws_secret_access_key AWSSecretAccessKey APIsecret
    token accessToken access_token refresh_token csrf_token csrftoken CSRFToken X-CSRFToken csrftokens idToken tokens
    authToken OAuthToken id_tokens accesstoken
    apiKey api_key api-key API_KEY APIKey APIkey apikey X-API-Key api_keys apiKeys api_key_v2 stripeApiKey myapikey
    private_key privateKey PRIVATE_KEY ssh_key encryption_key encryptionKey signingKey signing_key master-key
    access_key accountKey shared_key hmac_key auth_key
    authorization Authorization Proxy-Authorization authorization_code auth basic_auth auth_code
    cookie Cookie cookies Set-Cookie session_cookie sessionid session_id sessionId session_key PHPSESSID:sessid
    credential credentials aws_credentials userCredentials
    cvv CVV cvc cvv2 cardCvc ssn SSN SSNs social_security_number pin PIN user_pin pin_code PINs
    otp otp_code totp TOTPs jwt JWT JWTs bearer bearer_value _csrf xsrf
    card_number cardNumber credit_card creditCardNumber debit_card security_code verification_code recovery_codes
    backup_codes seed_phrase mfa_code
    JSESSIONID jsessionid PHPSESSID mysqlpwd dbpwd userpwd apipass authpass sshpass SSHPASS storepass keypass dbpass userpass
    creds aws_creds cc_number ccNumber cc_no card_no cardNo bindpw psk wpa_psk presharedKey pre_shared_key twoFactorCode
    two_factor_code sms_code 2fa_code
    password_name has_the_db_password password_is_set his_password hash_password this_password db_password_set token_details
    access_tokens tokens_new test_pass api_password_prefix token_arn_value password_url access_token_details
""",
)

KEPT = re.findall(
    r"\S+",
    """
    monkey turkey keyboard key keys primary_key primaryKey public_key foreign_key key_id keyId access_key_id
    private_key_id sort_key cache_key partition_key
    tokenizer tokenized token_count max_tokens maxTokens prompt_tokens total_tokens
    cached_input_tokens token_limit tokenCount token_type token_expiry token_id tokenId tokencount
    secretary secretariat secretion passenger passport compass bypass passive pass_rate surpassed
    author authored_by authority authentic auth_method auth_type oauth_provider
    cookies_policy cookie_consent cookie_policy password_policy password_changed_at password_length passwordless
    passwordless_login
    session sessions session_count description assertion pinned pins_at spin opinion pinterest shipping pincode
    laptop potpie iban name email id user_id mode source_zman_id bear bearing card cardinal credits creditor number
    trespass surpass overpass encompass session_count notepad_no discard_no cardnotes cwd ppsk_count risk desk
    sacred credits incredible account_number acc_number factor_codes_count load_factor ufa_code
    has_password hasPassword has_api_key is_password_set isPasswordSet password_strength secret_arn secretArn secret_name
    api_key_name apiKeyName api_key_prefix cvc_check card_number_last4 cookie_domain cookie_name authorization_status
    boarding_pass boardingPass tokens_used tokens_total eos_token bos_token input_token_details prompt_tokens_details
    completion_tokens_details token_url token_endpoint jwt_issuer token_issuer otp_sent_to details
    כותרת ключ 123 _ - a
""",
)


@pytest.mark.parametrize("key", HIDDEN)
def test_keys_of_secrets_are_hidden(key: str) -> None:
    """A key with a secret's name among its words is hidden, however the words are joined."""
    assert REDACTOR.hides(key) is True


@pytest.mark.parametrize("key", ["", *KEPT])
def test_other_keys_are_kept(key: str) -> None:
    """A key that only contains the letters of a secret's name, or tells about a secret, is kept."""
    assert REDACTOR.hides(key) is False


def test_letters_of_full_width_are_the_same_letters() -> None:
    """Who writes Japanese types them by mistake."""
    assert [True, True, False] == [
        REDACTOR.hides("".join(chr(ord(letter) + 0xFEE0) for letter in key))
        for key in ("password", "API_KEY", "monkey")
    ]


@pytest.mark.parametrize(
    ("extra", "key", "expected"),
    [
        ("iban", "iban", True),
        ("iban", "customerIBAN", True),
        ("iban", "ibans", True),
        ("iban", "urban", False),
        ("national_id", "applicantNationalId", True),
        ("national_id", "nationalid", True),
        ("national_id", "national", False),
        ("national_id", "id_national", False),
        ("date of birth", "child_date-of-birth", True),
        ("dateOfBirth", "date_of_purchase", False),
        ("session_count", "session_count", True),
        ("ת.ז", "ת_ז", True),
        ("contraseña", "Contraseña", True),
    ],
)
def test_extra_keys_are_hidden(extra: str, key: str, expected: bool) -> None:
    """An extra key hides every key in which its words follow one another."""
    assert expected == Redactor(extra=[extra]).hides(key)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("page_token", False), ("pageToken", False), ("PAGE-TOKEN", False), ("next_page_token", True), ("token", True)],
)
def test_kept_keys_are_kept_as_a_whole(key: str, expected: bool) -> None:
    """A kept key is kept in any spelling, and no other key with it."""
    assert expected == Redactor(keep=("page_token",)).hides(key)


def test_keep_wins_over_extra() -> None:
    """A key that is both extra and kept is kept."""
    assert Redactor(extra=("iban",), keep=("iban",)).hides("iban") is False


@pytest.mark.parametrize("argument", ["extra", "keep"])
def test_a_single_text_is_no_list_of_keys(argument: str) -> None:
    """A text in the place of a list is refused: it would be read letter by letter."""
    with pytest.raises(TypeError) as caught:
        Redactor(**{argument: "iban"})  # type: ignore[arg-type]

    assert 'expected a list of keys, got text; write ("iban",) for a single key' == str(caught.value)


@pytest.mark.parametrize("key", ["", "123", "--"])
def test_a_key_without_letters_is_refused(key: str) -> None:
    """A key in which there is nothing to compare is refused instead of matching everything or nothing."""
    with pytest.raises(ValueError, match="a key without any letter cannot be matched; give keys as they are written"):
        Redactor(extra=("iban", key))


def test_redactors_compare_by_their_keys() -> None:
    """Two redactors with the same keys are equal and show them."""
    assert (Redactor(extra=["a"]), "Redactor(extra=('a',), keep=(), patterns=(), capture={})") == (
        Redactor(extra=("a",)),
        repr(Redactor(extra=("a",))),
    )


def test_long_keys_are_judged_without_being_remembered() -> None:
    """A key of any length is judged by all its words, and only short ones stay in memory."""
    redactor = Redactor()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        verdicts = {redactor.hides(f"{number}_{'x' * 10_000}_password") for number in range(200)}
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert {True} == verdicts
    assert grown < 200_000


@given(st.lists(st.sampled_from(["user", "old", "x", "api", "data"]), max_size=3), st.sampled_from(["token", "secret"]))
def test_every_way_to_join_words_is_seen_through(words: list[str], secret: str) -> None:
    """Snake, kebab, camel, Pascal, dotted and screaming case of the same words get the same answer."""
    parts = [*words, secret, "value"]
    pascal = "".join(part.capitalize() for part in parts)
    spellings = ["_".join(parts), "-".join(parts), ".".join(parts), " ".join(parts), "_".join(parts).upper()]

    assert [True] * 7 == [REDACTOR.hides(key) for key in [*spellings, pascal, pascal[0].lower() + pascal[1:]]]


def suspected(key: str, redactor: Redactor = REDACTOR) -> bool:
    """Return whether the pattern is found in the ASCII letters of a key, as the database looks for it."""
    return re.search(redactor.suspicious, re.sub("[^a-z]", "", key.lower())) is not None


def spelled(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Keys made of words in any case, with anything but letters between them, or nothing."""
    cased = st.builds(lambda word, change: change(word), words, st.sampled_from([str.lower, str.upper, str.capitalize]))
    between = st.sampled_from(["", "_", "-", " ", ".", "1", "\u00b7", "\u0663", "\u0301"])
    return st.lists(st.builds(str.__add__, cased, between), min_size=1, max_size=4).map("".join)


def test_every_known_key_of_a_secret_is_suspected() -> None:
    """Also those that are hidden only as the last word."""
    assert [] == [key for key in HIDDEN if not suspected(key)]


# The words of the rule, in parts too, and what makes a key harmless.
PARTS = REDACTOR.suspicious.split("|") + re.findall(
    r"\S+", "api key keys card number session id s es at count type user x basic word code hash"
)


@given(spelled(st.sampled_from(PARTS) | st.text("apikeystonrdcw", max_size=8)))
@example("csrfTokens")
@example("db_pass")
@example("PHPSESSID:sessid")
@example("JWTs")
def test_every_key_that_is_hidden_is_suspected(key: str) -> None:
    """The pattern for columns that come later misses none, whatever the words and however they are joined."""
    assume(REDACTOR.hides(key))
    assert suspected(key)


@given(st.data(), st.lists(spelled(st.sampled_from(["date", "of", "birth", "iban", "x"])), min_size=1, max_size=2))
def test_every_key_that_is_hidden_in_addition_is_suspected(data: st.DataObject, extra: list[str]) -> None:
    """Wherever the words of an extra key follow one another in it."""
    redactor = Redactor(extra=extra)
    key = data.draw(spelled(st.sampled_from([*extra, "date", "of", "birth", "iban", "user", "s"])))
    assume(redactor.hides(key))
    assert suspected(key, redactor)


@pytest.mark.parametrize("key", ["id", "name", "created_at", "email", "monkey", "primary_key", "iban"])
def test_ordinary_keys_are_not_suspected(key: str) -> None:
    """Or every column that comes later would be masked."""
    assert suspected(key) is False


def test_the_pattern_is_the_same_every_time() -> None:
    """It is stored with the table, and in migrations: sets have no order, so it is sorted."""
    words = Redactor(extra=("iban", "Date of Birth")).suspicious.split("|")
    assert {"iban", "dateofbirth"} < set(words)
    assert sorted(set(words)) == words


# to_json


def nothing_secret(value: object) -> bool:
    """Return whether no text and no number in a value looks like a secret: Hypothesis knows the literals of these tests."""
    if isinstance(value, list):
        return all(map(nothing_secret, value))
    if isinstance(value, dict):
        return all(nothing_secret(key) and nothing_secret(item) for key, item in value.items())
    return REDACTOR.redact(str(value)) == str(value)


def keys_of(value: object) -> set[str]:
    """Return all keys with a letter in them, of every object in a value."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if isinstance(value, dict):
        return {key for key in value if any(map(str.isalpha, key))}.union(*map(keys_of, value.values()))
    return set()


@given(plain_json)
@unhurried
def test_plain_json_survives_the_round_trip(value: Any) -> None:
    """JSON data comes back as it went in, types included, when no key of it is hidden."""
    assume(nothing_secret(value))
    text = to_json(value, Redactor(keep=keys_of(value)), what="payload", limit=10**6)

    assert repr(value) == repr(None if text is None else json.loads(text))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"mode": "link", "source_zman_id": 7}, '{"mode":"link","source_zman_id":7}'),
        ([True, False, None, 1.5, -0.0, "é"], '[true,false,null,1.5,-0.0,"\\u00e9"]'),
        ("", '""'),
        (0, "0"),
        (False, "false"),
        ({}, "{}"),
        ([], "[]"),
        (None, None),
    ],
)
def test_text_is_compact_ascii(value: object, expected: str | None) -> None:
    """The text has no blanks and only ASCII; None stays None."""
    assert expected == to_json(value, REDACTOR, what="payload")


class Sorted(dict[str, int]):
    """A dict that hides what it holds."""

    def items(self) -> Any:
        raise RuntimeError(CANARY)

    __iter__ = keys = __getitem__ = __len__ = items


class Shy(list[int]):
    """A list that hides what it holds."""

    def __iter__(self) -> Any:
        raise RuntimeError(CANARY)


class Model:
    """What a pydantic model looks like from outside."""

    def __init__(self, dumped: object) -> None:
        self.dumped = dumped

    def model_dump(self, *, mode: str) -> object:
        """Return what the test wants to see dumped."""
        return {"mode": mode, "dumped": self.dumped}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, [])), [1, [2, []]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", 1, None}), ["b", 1, None]),
        ({(2, "x"), (1, "y")}, [[1, "y"], [2, "x"]]),
        (datetime(2024, 2, 29, 12, 30, 0, 5, tzinfo=UTC), "2024-02-29T12:30:00.000005+00:00"),
        (datetime(2024, 2, 29), "2024-02-29T00:00:00"),  # noqa: DTZ001
        (date(2024, 2, 29), "2024-02-29"),
        (time(12, 30), "12:30:00"),
        (timedelta(days=1, microseconds=250_000), 86400.25),
        (timedelta(seconds=-5), -5.0),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), "NaN"),
        (SOME_UUID, "01890a5d-ac96-774b-bcce-b302099a8057"),
        (PurePosixPath("/a/b"), "/a/b"),
        (PureWindowsPath("c:/a"), "c:\\a"),
        (Colour.RED, "red"),
        (Colour.TWO, 2),
        (Colour.BOTH, ["red", 2]),
        (Grade.GOOD, "good"),
        (Level.LOW, 1),
        (Coded.FIRST, 1),
        (b"\0\xff", {"$bytes": "AP8="}),
        (bytearray(b"ab"), {"$bytes": "YWI="}),
        (memoryview(b"abcd")[::2], {"$bytes": "YWM="}),
        (Point(1, [Point("a", None)]), {"x": 1, "y": [{"x": "a", "y": None}]}),
        (Box({"a": Box(1)}), {"content": {"a": {"content": 1}}}),
        (Crate([Crate(1)]), {"content": [{"content": 1}]}),
        (Pairs({"a": 1}), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (Model(SOME_UUID), {"mode": "json", "dumped": "01890a5d-ac96-774b-bcce-b302099a8057"}),
        (Text("plain"), "plain"),
        (Number(7), 7),
        (type("Half", (float,), {"__repr__": None, "__float__": None})(0.5), 0.5),
        (Sorted(a=1), {"a": 1}),
        (Shy([1, 2]), [1, 2]),
        (float("nan"), {"$float": "NaN"}),
        (float("inf"), {"$float": "Infinity"}),
        (float("-inf"), {"$float": "-Infinity"}),
        (2**3320 - 1, 2**3320 - 1),
        (2**3320, {"$int": "0x1" + "0" * 830}),
        (-(2**3320), {"$int": "-0x1" + "0" * 830}),
        ("a\0b\\", {"$str": r"a\u0000b\\"}),
        ("\udc80é", {"$str": r"\udc80é"}),
        ("\ud83d\ude00", {"$str": r"\ud83d\ude00"}),
        (PurePosixPath("a\udce9"), {"$str": r"a\udce9"}),
        ("tab\tline\x7f😀\ufffe", "tab\tline\x7f😀\ufffe"),
        ({"a\0b": 1, "c\ud800": 2}, {r"a\u0000b": 1, r"c\ud800": 2}),
        ({"מפתח": 1}, {"מפתח": 1}),
    ],
    ids=kind_of,
)
def test_conversions(value: object, expected: object) -> None:
    """Every supported type has one documented JSON form, which overrides in subclasses do not change."""
    assert repr(expected) == repr(json_of(value))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (1, "1"),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        (True, "true"),
        (None, "null"),
        (SOME_UUID, "01890a5d-ac96-774b-bcce-b302099a8057"),
        (Colour.RED, "red"),
        (Colour.TWO, "2"),
        (Grade.GOOD, "good"),
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00+00:00"),
        (Text("k"), "k"),
        (2**3320, "0x1" + "0" * 830),
    ],
    ids=kind_of,
)
def test_keys_become_text(key: object, expected: str) -> None:
    """Keys that JSON itself would write as text, and those with one obvious text, are accepted."""
    assert {expected: "v"} == json_of({key: "v"})


def test_pydantic_models_are_dumped_by_themselves() -> None:
    """A model's own JSON form is used, in which its secrets are masked, and the keys are judged like any others."""

    class Order(pydantic.BaseModel):
        at: datetime
        code: pydantic.SecretStr
        token: str

    order = Order(at=datetime(2024, 2, 29, tzinfo=UTC), code=pydantic.SecretStr("1234"), token=CANARY)

    assert {"at": "2024-02-29T00:00:00Z", "code": "**********", "token": REDACTED} == json_of(order)


@given(any_text)
def test_escaped_text_can_be_restored(text: str) -> None:
    """The marked form of text that jsonb cannot hold loses nothing."""
    assume(nothing_secret(text))
    stored = json_of(text)
    if isinstance(stored, dict):
        stored = re.sub(
            r"\\(\\|u([0-9a-f]{4}))",
            lambda found: chr(int(found[2], 16)) if found[2] else "\\",
            stored["$str"],
        )

    assert text == stored


def nested(depth: int, inner: object = "deep") -> Any:
    """Return lists and objects around a value, *depth* levels of them."""
    for level in range(depth):
        inner = [inner] if (depth - level) % 2 else {"k": inner}
    return inner


def test_depth_is_capped() -> None:
    """Thirty-two levels are kept; what would be the thirty-third is marked, and scalars at the bottom are not."""
    assert nested(32) == json_of(nested(32))
    assert nested(32, "2024-02-29") == json_of(nested(32, date(2024, 2, 29)))
    assert nested(32, {"$truncated": "depth"}) == json_of(nested(33))
    assert nested(32, {"$truncated": "depth"}) == json_of(nested(100_000))


@pytest.mark.parametrize("value", [Model(None), Box(None), [None], {"k": None}, Pairs({"k": None}), {1}, frozenset()])
def test_every_container_counts_as_a_level(value: object) -> None:
    """No kind of container gets around the cap."""
    assert nested(32, {"$truncated": "depth"}) == json_of(nested(32, value))


def test_a_model_that_dumps_itself_ends_at_the_cap() -> None:
    """A chain that is made up on the way ends where any other does."""

    class Matryoshka:
        def model_dump(self, *, mode: str) -> object:
            return Matryoshka()

    assert {"$truncated": "depth"} == json_of(Matryoshka())


def test_the_same_object_twice_is_no_cycle() -> None:
    """Only an object inside itself is a cycle; one that is shared is written each time."""
    shared = [1]

    assert {"a": [1], "b": [[1]]} == json_of({"a": shared, "b": [shared]})


# What the strict form refuses


def loop() -> dict[str, Any]:
    """Return an object that contains itself."""
    value: dict[str, Any] = {"items": []}
    value["items"].append({"back": value})
    return value


NO_FORM = "has no JSON form; convert it to text, a number, a list or a dict"
EQUAL_KEYS = "two keys become the same JSON key; use text keys that differ"
BROKEN = "result: converting it to JSON failed; pass plain data instead"
RAISED = "raised RuntimeError; pass plain data instead"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object(), f"payload: a value of type object {NO_FORM}"),
        (
            {"items": [0, 1, 2, {"handle": io.StringIO()}]},
            f"payload.items[3].handle: a value of type _io.StringIO {NO_FORM}",
        ),
        ({"a b": (object(),)}, f'payload["a b"][0]: a value of type object {NO_FORM}'),
        ({"é\n": object()}, f'payload["\\u00e9\\n"]: a value of type object {NO_FORM}'),
        ({7: object()}, f'payload["7"]: a value of type object {NO_FORM}'),
        ({"k" * 65: object()}, f'payload["{"k" * 64}..."]: a value of type object {NO_FORM}'),
        ({"k" * 64: object()}, f"payload.{'k' * 64}: a value of type object {NO_FORM}"),
        ([{1, len}], f"payload[0][*]: a value of type builtin_function_or_method {NO_FORM}"),
        ({"p": Point(1, range(3))}, f"payload.p.y: a value of type range {NO_FORM}"),
        (Box(Crate(3j)), f"payload.content.content: a value of type complex {NO_FORM}"),
        ({"m": Model(3j)}, f"payload.m.dumped: a value of type complex {NO_FORM}"),
        ((n for n in ()), f"payload: a value of type generator {NO_FORM}"),
        ({"t": Hostile}, f"payload.t: a value of type type {NO_FORM}"),
        (loop(), "payload.items[0].back: the value contains itself; pass data without references back"),
        ({"a": {b"k": 1}}, "payload.a: a key of type bytes has no JSON form; use text"),
        ({"a": {"b": 2, (1,): 1}}, "payload.a: a key of type tuple has no JSON form; use text"),
        ({"a": {1: "x", "1": "y"}}, f'payload.a["1"]: {EQUAL_KEYS}'),
        ({"a\0": 1, "a\\u0000": 2}, rf'payload["a\\u0000"]: {EQUAL_KEYS}'),
        (
            [Hostile()],
            f"payload[0]: reading a value of type tests.strategies.Hostile {RAISED}",
        ),
        (
            {"m": HostileMapping({"a": 1})},
            f"payload.m: reading a value of type tests.strategies.HostileMapping {RAISED}",
        ),
        (
            {"b": HostileBox(1)},
            f"payload.b: reading a value of type tests.strategies.HostileBox {RAISED}",
        ),
    ],
    ids=kind_of,
)
def test_refusals_name_path_and_type(value: object, expected: str) -> None:
    """What has no JSON form is refused with the path to it and its type, and never its value."""
    assert expected == refusal_of(value)


def test_the_error_of_the_callers_code_is_the_cause() -> None:
    """The exception that a property raised is kept as the cause, for the traceback only."""
    with pytest.raises(UnserializableValue) as caught:
        to_json([HostileBox(1)], REDACTOR, what="payload")

    assert RuntimeError is type(caught.value.__cause__)


class Meta(type):
    """A metaclass that will not tell a class's name."""

    def __getattribute__(cls, attribute: str) -> Any:
        if attribute == "__qualname__":
            raise RuntimeError(CANARY)
        return super().__getattribute__(attribute)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Meta("Named", (), {}), "unnamed"),
        (type("Named", (), {"__qualname__": "line\nbreak", "__module__": "m"}), "unnamed"),
        (type("Named", (), {"__qualname__": "N" * 300, "__module__": "m"}), "m." + "N" * 98),
        (type("Named", (), {"__module__": None}), "None.Named"),
    ],
    ids=kind_of,
)
def test_type_names_are_bounded(kind: type, expected: str) -> None:
    """The name of a type is printable, at most 100 characters, and can always be had."""
    assert f"payload: a value of type {expected} {NO_FORM}" == refusal_of(kind())


def test_lazy_proxies_are_left_alone() -> None:
    """A proxy that claims another class is not asked for it: answering could load an object from the database."""
    asked: list[str] = []

    class Proxy:
        @property
        def __class__(self) -> Any:
            asked.append("__class__")
            return dict

        def __getattr__(self, attribute: str) -> Any:
            asked.append(attribute)
            return None

    assert (f"payload: a value of type {__name__}.{Proxy.__qualname__} {NO_FORM}", []) == (refusal_of(Proxy()), asked)


def test_no_hook_of_an_unknown_object_is_called() -> None:
    """Neither text forms nor iteration nor JSON hooks of an unknown object run."""
    called: list[str] = []

    def hook(which: str) -> Callable[[object], Any]:
        return lambda self: called.append(which)

    names = ["__repr__", "__str__", "__iter__", "__json__", "__html__", "__len__", "__bool__", "__dict__", "to_dict"]
    unknown = type("Unknown", (), {each: hook(each) for each in names} | {"__slots__": ()})()
    to_json_marked({"a": unknown}, REDACTOR, what="result")

    assert [] == called


# What the lenient form does instead


@pytest.mark.parametrize(
    ("value", "stored", "where"),
    [
        (object(), {"$unserializable": "object"}, "result: a value of type object has"),
        ([1, Hostile(), 2], [1, {"$unserializable": "tests.strategies.Hostile"}, 2], "result[1]: reading a value"),
        (loop(), {"items": [{"back": {"$cycle": True}}]}, "result.items[0].back: the value contains itself"),
        ({"a": {b"k": "v", "b": 1}}, {"a": {"$key": {"$unserializable": "bytes"}, "b": 1}}, "result.a: a key of type"),
        ({1: "x", "1": "y"}, {"1": {"$duplicate": ["x", "y"]}}, 'result["1"]: two keys become'),
        (
            {1: "x", "1": "y", Level.LOW: 3, None: 0, "null": 1},
            {"1": {"$duplicate": [3, "y"]}, "null": {"$duplicate": [0, 1]}},
            'result["1"]: two keys become',
        ),
        (
            [HostileMapping({"a": 1}), HostileBox(1), 2],
            [
                {"$unserializable": "tests.strategies.HostileMapping"},
                {"$unserializable": "tests.strategies.HostileBox"},
                2,
            ],
            "result[0]: reading a value",
        ),
        ({"ok": 1, "bad": {1j}}, {"ok": 1, "bad": [{"$unserializable": "complex"}]}, "result.bad[*]: a value of type"),
    ],
    ids=kind_of,
)
def test_what_has_no_form_is_marked(value: object, stored: object, where: str) -> None:
    """The rest of the value is kept, the part is marked, and the warning is the sentence of the strict form."""
    actual, warning = marked_of(value)

    assert stored == actual
    assert where == (warning or "")[: len(where)]


def test_three_equal_keys_keep_three_values() -> None:
    """No value is lost, however many keys become equal."""
    actual, _ = marked_of({1: "a", "1": "b", enum.Enum("One", {"ONE": 1}).ONE: "c"})

    assert {"1": {"$duplicate": [{"$duplicate": ["a", "b"]}, "c"]}} == actual


@pytest.mark.parametrize("value", [None, {"id": 7}, [1, "a"], Box(1)])
def test_good_values_bring_no_warning(value: object) -> None:
    """The lenient form of a good value is the strict one."""
    assert (to_json(value, REDACTOR, what="result"), None) == to_json_marked(value, REDACTOR, what="result")


@given(anything, st.sampled_from([0, 50, 32_768]))
@unhurried
def test_lenient_never_raises_and_is_always_storable(value: object, limit: int) -> None:
    """Any object at all becomes text that jsonb accepts, within its limit or the length of a mark."""
    text, warning = to_json_marked(value, REDACTOR, what="result", limit=limit)

    assert_storable(text, limit)
    assert (False, False) == (CANARY in (text or ""), CANARY in (warning or ""))
    assert (warning or "").isprintable()


@given(anything, st.sampled_from([50, 32_768]))
@unhurried
def test_strict_and_lenient_agree(value: object, limit: int) -> None:
    """Where the strict form succeeds the lenient one is the same; otherwise the warning is its error."""
    lenient, warning = to_json_marked(value, REDACTOR, what="payload", limit=limit)

    assert strict_of(value, limit) == ((lenient, None) if warning is None else (None, warning))


def strict_of(value: object, limit: int = 32_768) -> tuple[str | None, str | None]:
    """Return the text of the strict form, or the message of its error."""
    try:
        return to_json(value, REDACTOR, what="payload", limit=limit), None
    except UnserializableValue as error:
        return None, str(error)


@given(convertible)
@unhurried
def test_supported_values_are_storable_or_have_equal_keys(value: object) -> None:
    """A value of supported types is only ever refused because two of its keys become equal."""
    text, error = strict_of(value)

    assert_storable(text, 32_768)
    assert (error or EQUAL_KEYS).endswith(EQUAL_KEYS)


def assert_storable(text: str | None, limit: int) -> None:
    """Check everything that PostgreSQL asks of jsonb input, and that nothing is lost in silence on the way in."""
    if text is None:
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(pairs) == len({key for key, _ in pairs})
        return dict(pairs)

    def bounded(digits: str) -> None:
        assert len(digits) <= 1001

    parsed = json.loads(text, object_pairs_hook=unique, parse_int=bounded, parse_constant=pytest.fail)
    assert text.isascii()
    assert len(text) <= max(limit, 2300)
    assert re.search("[\0\ud800-\udfff]", decoded_text(parsed)) is None


def decoded_text(value: object) -> str:
    """Return all text in parsed JSON, keys too."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(key + decoded_text(item) for key, item in value.items())
    return "".join(map(decoded_text, value)) if isinstance(value, list) else ""


def test_errors_outside_exception_pass() -> None:
    """KeyboardInterrupt and its like are not a property of the value and are not held up."""

    class Interrupted(Pairs):
        def __iter__(self) -> Iterator[Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_json_marked(Interrupted({}), REDACTOR, what="result")


def test_the_end_of_the_stack_is_survived() -> None:
    """Called with hardly any stack left, the lenient form still answers."""

    def descend(levels: int) -> tuple[str | None, str | None]:
        return descend(levels - 1) if levels else to_json_marked([[["v"]]], REDACTOR, what="result")

    answers: set[tuple[str | None, str | None]] = set()
    left = sys.getrecursionlimit() - len(inspect.stack())
    for levels in range(left - 40, left):
        with contextlib.suppress(RecursionError):  # the call itself no longer fits
            answers.add(descend(levels))

    assert {('[[["v"]]]', None), ('{"$unserializable":"value"}', BROKEN)} <= answers


# Redaction inside values

_FIELD_NAMES = [key for key in HIDDEN if key.isidentifier() and not keyword.iskeyword(key) and key[0] != "_"]
_IN_BASE64 = base64.b64encode(CANARY.encode()).decode().rstrip("=")[:-1]
_POISON = st.sampled_from(
    [CANARY, [CANARY], {"a": CANARY}, {CANARY: 1}, (1, {"b": [CANARY]}), {CANARY}, CANARY.encode(), Box(CANARY)]
) | st.builds(Hostile)


@st.composite
def poisoned(draw: st.DrawFn) -> tuple[Any, str]:
    """Return a value with a secret under a hidden key somewhere inside, and that key."""
    key = draw(st.sampled_from(_FIELD_NAMES))
    value: Any = {**draw(st.dictionaries(st.text("xyz"), st.integers(), max_size=2)), key: draw(_POISON)}
    wrappers: list[Callable[[Any, Any], Any]] = [
        lambda inner, other: [other, inner],
        lambda inner, other: (inner, other),
        lambda inner, other: {"other": other, "inner": inner},
        lambda inner, other: {"inner": inner, 7: other},
        lambda inner, other: Pairs({"inner": inner}),
        lambda inner, other: Point(other, inner),
        lambda inner, other: Box(inner),
        lambda inner, other: Crate(inner),
        lambda inner, other: Model(inner),
        lambda inner, other: attrs.make_class("Held", [key])(inner),
        lambda inner, other: dataclasses.make_dataclass("Held", [key])(inner),
        collections.namedtuple("Held", [key, "rest"]),
    ]
    for wrap in draw(st.lists(st.sampled_from(wrappers), max_size=6)):
        value = wrap(value, draw(anything))
    return value, key


@given(poisoned(), st.sampled_from([100, 32_768]))
@unhurried
def test_secrets_never_get_out(found: tuple[Any, str], limit: int) -> None:
    """What stands under a hidden key is in no text, no mark, no warning and no error, at any depth."""
    value, _ = found
    said = list(to_json_marked(value, REDACTOR, what="result", limit=limit))
    try:
        said.append(to_json(value, REDACTOR, what="payload", limit=limit))
    except UnserializableValue as error:
        said.append(str(error))

    assert [] == [text for text in said if text and (CANARY in text or _IN_BASE64 in text)]


class Rare(dict[Any, Any]):
    """A dict that is no plain one, so that no short cut is taken for it."""


def rare(value: Any) -> Any:
    """Return the value with other dicts in the place of plain ones."""
    if type(value) is dict:
        return Rare({key: rare(item) for key, item in value.items()})
    return list(map(rare, value)) if type(value) is list else value


KEYS = st.sampled_from(
    [
        "name",
        "Value",
        "value",
        "key",
        "field",
        "old",
        "new",
        "loc",
        "input",
        "password",
        "note",
        "a\x00",
        "a\\u0000",
        "",
        1,
    ]
) | st.text("ab 4-", max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("password")
LEAVES |= st.sampled_from([4111111111111111, -4111111111111111, 10**13, 10**13 - 1, {1}, b"a", object(), SOME_UUID])
SHAPED = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=40) | st.lists(inner), max_leaves=60)


@example({"name": "password", "value": "hush"}, 32_768)
@example({"a\x00": 1, "a\\u0000": 2}, 32_768)
@example({"n" * 2000: 1}, 32_768)
@example({f"{number}": number for number in range(33)}, 32_768)
@given(SHAPED, st.integers(0, 100) | st.just(32_768))
@unhurried
def test_plain_dicts_are_written_as_others_are(value: Any, limit: int) -> None:
    """The short cut for them changes nothing: not the text, not the refusal."""
    for redactor in (REDACTOR, Redactor(patterns=["b+"]), Redactor(capture={"a": ["name", "old.new"]})):
        for convert in (strict, to_json_marked):
            captured = {"captured": redactor.captured("a")} if convert is strict else {}
            quick, slow = (
                convert(each, redactor, what="payload", limit=limit, **captured) for each in (value, rare(value))
            )
            assert quick == slow


def strict(value: object, redactor: Redactor, **options: Any) -> str | None:
    """Return the text, or the refusal."""
    try:
        return to_json(value, redactor, **options)
    except UnserializableValue as refused:
        return str(refused)


def test_a_key_may_pretend_to_be_another() -> None:
    """Text that says it equals another one is judged by what it is."""

    class Sly(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return other in ("note", "password")

        __hash__ = lambda self: hash("note")  # noqa: E731

    assert json_of({"note": "hush"}) == {"note": "hush"}
    assert json_of({Sly("password"): "hush"}) == {"password": REDACTED}


def test_hidden_values_are_not_looked_at() -> None:
    """A hidden value is replaced whatever it is, without being read: even one that could not be stored."""
    value = {"password": Hostile(), "n": 1, "Cookie": None, "nested": [{"apiKey": loop(), "keyboard": "us"}]}

    assert {
        "password": REDACTED,
        "n": 1,
        "Cookie": REDACTED,
        "nested": [{"apiKey": REDACTED, "keyboard": "us"}],
    } == json_of(value)


@pytest.mark.parametrize(
    "key",
    [enum.Enum("Field", {"P": "password"}).P, enum.StrEnum("Field", {"P": "password"}).P, Text("password")],
    ids=kind_of,
)
def test_keys_that_are_no_plain_text_are_judged_by_their_text(key: Any) -> None:
    """A secret's name is recognised behind an enum member or a subclass of str too."""
    assert {"password": REDACTED} == json_of({key: "v"})


def test_the_value_of_an_unreadable_key_is_dropped() -> None:
    """Nobody can tell whether a key without a text form names a secret, so its value is not stored."""
    actual, _ = marked_of({b"password": CANARY})

    assert {"$key": {"$unserializable": "bytes"}} == actual


def test_the_redactor_given_decides() -> None:
    """The user's own lists apply inside values."""
    redactor = Redactor(extra=("iban",), keep=("page_token",))

    assert {"iban": REDACTED, "page_token": "n", "token": REDACTED} == json_of(
        {"iban": "DE00", "page_token": "n", "token": "t"}, redactor=redactor
    )


# Caps


def test_a_text_at_the_limit_is_stored_whole() -> None:
    """The limit is the longest text that is stored as it is."""
    assert "x" * 98 == json_of("x" * 98, limit=100)
    assert ["$truncated"] == list(json_of("x" * 99, limit=100))


@pytest.mark.parametrize("convert", [json_of, lambda value, limit: marked_of(value, limit=limit)[0]])
def test_a_text_over_the_limit_is_stored_as_size_digest_and_head(convert: Callable[..., Any]) -> None:
    """Size and digest are those of the redacted JSON text, and its beginning is kept."""
    text = '{"password":"[redacted]","note":"' + "\\u05d0" * 400 + '"}'

    assert {
        "$truncated": {
            "bytes": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "head": text[:1000],
        }
    } == convert({"password": "hunter2", "note": "א" * 400}, limit=2000)


def test_what_is_far_over_the_limit_is_given_up_on_the_way() -> None:
    """Beyond four times the limit the rest is not converted, and the mark says that it describes a part."""
    text = "[" + ",".join(["1234567"] * 50) + "]"

    assert {
        "$truncated": {
            "bytes": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "head": text,
            "partial": True,
        }
    } == json_of([1234567] * 1_000_000, limit=100)


class Endless(Pairs):
    """A mapping without end that counts how often it was asked."""

    asked = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.asked += 1
            yield self.asked

    def __getitem__(self, key: object) -> list[object]:
        return []


def test_mappings_without_end_end() -> None:
    """Conversion stops asking once the text cannot fit any more."""
    endless = Endless({})
    actual = json_of(endless, limit=1000)

    assert (True, True) == (actual["$truncated"]["partial"], endless.asked < 1000)


@pytest.mark.parametrize(
    "huge",
    [
        "x" * 20_000_000,
        "\0" * 20_000_000,
        b"x" * 20_000_000,
        memoryview(b"x" * 20_000_000),
        1 << 80_000_000,
        [0] * 2_000_000,
        {"x" * 20_000_000: 1},
        {"x" * 20_000_000 + "password": 1},
        ["x" * (4 * 32_768 - 6), "x" * 20_000_000],
        ["x" * (4 * 32_768 - 4), "x" * 20_000_000],
        ["x" * (4 * 32_768 - 3), "x" * 20_000_000],
        ["x" * (4 * 32_768), "x" * 20_000_000],
    ],
    ids=lambda huge: type(huge).__name__,
)
def test_huge_values_cost_little(huge: object) -> None:
    """Memory, and with it time, is bounded by the limit and not by the value."""
    tracemalloc.start()
    try:
        text = to_json(huge, REDACTOR, what="payload")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert json.loads(text or "")["$truncated"]["partial"] is True
    assert peak < 15_000_000


def test_wide_sets_and_branching_loops_cost_little() -> None:
    """A set is not sorted as a whole, and a value that branches into itself is marked where it meets itself."""
    branching: list[Any] = []
    branching += [branching] * 10

    assert json_of(set(range(500_000)), limit=1000)["$truncated"]["partial"] is True
    assert ([{"$cycle": True}] * 10, True) == (marked_of(branching)[0], marked_of(branching)[1] is not None)


@example(depth=12)
@given(st.integers(min_value=5, max_value=14))
@unhurried
def test_a_shared_value_that_would_explode_is_cut(depth: int) -> None:
    """Ten references to the same list on every level make 10**n leaves; only what fits is written."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * 10

    assert json_of(value, limit=1000)["$truncated"]["partial"] is True
