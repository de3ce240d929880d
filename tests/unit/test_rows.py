"""The text in which rows and keys are stored: taking it apart, its values, and the texts of keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provenance.errors import InvalidAction
from provenance.models import Truncated
from provenance.statements.rows import Key, Shape, key_parts, shape_of, split
from provenance.values import REDACTED

SOME_UUID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")

# Every character that means something in the text of a composite value, white space of Postgres and other, and plain text.
awkward_text = st.text(st.sampled_from('"\\,() \t\n\r\v\f\u00a0\u2003\x1c\x85{}ax7é😀')) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=20
)


def printed(fields: Sequence[str | None], *, quoted: bool) -> str:
    """Return the text of a composite value with nulls: all fields quoted, as in cut rows, or only those that must."""

    def one(field: str | None) -> str:
        if field is None:
            return ""
        doubled = "".join(character * 2 if character in '"\\' else character for character in field)
        return f'"{doubled}"' if quoted or not field or any(c in field for c in '"\\,() \t\n\r\v\f') else field

    return f"({','.join(map(one, fields))})"


@given(st.lists(st.none() | awkward_text, min_size=1, max_size=6), st.booleans())
@example([None], False)
@example(["", None, ""], False)
@example(['"', "\\", '\\"', '""', "\\\\"], True)
def test_fields_are_taken_apart(fields: list[str | None], quoted: bool) -> None:
    """Whatever is in them, quoted or not; null stays apart from the empty text."""
    assert fields == split(printed(fields, quoted=quoted))


def test_a_row_without_fields_reads_as_a_single_null() -> None:
    """The text of both is the same, so that the shape must tell."""
    assert [None] == split("()")


def shape(**fields: tuple[str, bool]) -> Shape:
    return shape_of(json.dumps([[name, type_name, masked] for name, (type_name, masked) in fields.items()]))


SHAPE = shape(id=("integer", False), pin=("text", True), name=("character varying(20)", False))


def test_a_row_is_read_by_its_shape() -> None:
    """Masked columns have no field in the text, and stand in their place among the values."""
    texts = SHAPE.texts("(7,Ada)")
    assert texts == {"id": "7", "name": "Ada"}
    values = SHAPE.values(texts)
    assert values is not None
    assert [("id", 7), ("pin", REDACTED), ("name", "Ada")] == list(values.items())


def test_no_row_has_no_texts_and_no_values() -> None:
    """Before an insert, and after a delete."""
    assert (None, None) == (SHAPE.texts(None), SHAPE.values(None))


def test_null_is_none_whatever_the_type() -> None:
    """And differs from the empty text."""
    assert {"id": None, "pin": REDACTED, "name": ""} == SHAPE.values(SHAPE.texts('(,"")'))


@pytest.mark.parametrize("masked", [True, False])
def test_a_row_of_which_nothing_is_shown_has_no_texts(masked: bool) -> None:
    """All its columns are masked, or there are none."""
    empty = shape(pin=("text", True)) if masked else shape()
    assert ({}, {"pin": REDACTED} if masked else {}) == (empty.texts("()"), empty.values(empty.texts("()")))


@pytest.mark.parametrize("text", ["(7)", "(7,Ada,)"])
def test_a_row_of_another_shape_is_not_guessed_at(text: str) -> None:
    """Too few fields or too many would put values under the wrong names."""
    with pytest.raises(ValueError, match="zip"):
        SHAPE.texts(text)


def test_values_cannot_be_changed() -> None:
    """They are what was, and shared by whoever reads them."""
    values: Any = SHAPE.values(SHAPE.texts("(7,Ada)"))
    with pytest.raises(TypeError):
        values["id"] = 8


VALUES: list[tuple[str, str, object]] = [
    ("integer", "7", 7),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("boolean", "t", True),
    ("numeric(10,2)", "1.50", Decimal("1.50")),
    ("double precision", "1e+22", 1e22),
    ("text", "7", "7"),
    ("character varying(20)", "x", "x"),
    ("character(3)", "x  ", "x  "),
    ("uuid", str(SOME_UUID), SOME_UUID),
    ("bytea", "\\x00ff", b"\x00\xff"),
    ("date", "2026-01-31", date(2026, 1, 31)),
    ("timestamp without time zone", "2026-01-31 12:30:00.5", datetime(2026, 1, 31, 12, 30, 0, 500_000)),  # noqa: DTZ001
    ("jsonb", '{"a": [1, null]}', {"a": [1, None]}),
    ("integer[]", "{1,NULL,3}", [1, None, 3]),
    ("numeric(10,2)[]", "{1.50}", [Decimal("1.50")]),
    # A month has no length in Python.
    ("interval", "P1M", "P1M"),
    ("interval(3)", "P1M", "P1M"),
    ("interval[]", "{P1M}", "{P1M}"),
    # What psycopg does not know is text.
    ("public.mood", "so so", "so so"),
    ("public.mood[]", "{ok}", "{ok}"),
    # What Python cannot hold is text.
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("date", "infinity", "infinity"),
    ("timestamp with time zone", "294276-12-31 00:00:00+00", "294276-12-31 00:00:00+00"),
    ("json", "7" * 5_000, "7" * 5_000),
    ("json", "[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
]


@pytest.mark.parametrize(
    ("type_name", "text", "value"), VALUES, ids=[f"{name} {text[:20]}" for name, text, _ in VALUES]
)
def test_values_are_those_of_psycopg_or_else_text(type_name: str, text: str, value: object) -> None:
    """By the name of the type, with or without its modifier."""
    (field,) = shape(it=(type_name, False)).fields
    loaded = field.load(text)
    assert (type(value), value) == (type(loaded), loaded)


def test_a_moment_is_aware() -> None:
    """Whatever zone it is printed in, it is the same moment."""
    (field,) = shape(it=("timestamp with time zone", False)).fields
    assert datetime(2026, 1, 31, 12, tzinfo=UTC) == field.load("2026-01-31 12:00:00+00")


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize("type_name", ["text", "bytea", "jsonb", "public.mood"])
def test_a_value_that_was_too_long_says_so(type_name: str) -> None:
    """In a column of any type."""
    (field,) = shape(it=(type_name, False)).fields
    text = f'{{"$truncated":{{"bytes":40000,"sha256":"{DIGEST}"}}}}'
    assert Truncated(bytes=40000, sha256=DIGEST) == field.load(text)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"$truncated":{{"bytes":1,"sha256":"{DIGEST}"}}}} ',
        f'{{"$truncated": {{"bytes": 1, "sha256": "{DIGEST}"}}}}',
        f'{{"$truncated":{{"bytes":1,"sha256":"{DIGEST[1:]}"}}}}',
        f'{{"$truncated":{{"bytes":-1,"sha256":"{DIGEST}"}}}}',
    ],
)
def test_a_text_that_only_resembles_the_mark_is_a_text(text: str) -> None:
    """The mark is written in exactly one way."""
    (field,) = shape(it=("text", False)).fields
    assert text == field.load(text)


def test_what_changed_is_what_differs() -> None:
    """In the order of the table; of masked columns, those that are said to have."""
    old, new = SHAPE.texts("(7,Ada)"), SHAPE.texts("(7,)")
    assert ((), ("name",), ("pin",), ("pin", "name")) == (
        SHAPE.changed(old, old, ()),
        SHAPE.changed(old, new, ()),
        SHAPE.changed(old, old, ["pin"]),
        SHAPE.changed(old, new, ["pin"]),
    )


def test_everything_changes_when_a_row_comes_or_goes() -> None:
    """Masked columns too."""
    row = SHAPE.texts("(7,Ada)")
    every = ("id", "pin", "name")
    assert [every, every] == [SHAPE.changed(None, row, ()), SHAPE.changed(row, None, ())]


def test_empty_text_and_null_differ() -> None:
    """So a change from one to the other is a change."""
    assert ("name",) == SHAPE.changed(SHAPE.texts('(7,"")'), SHAPE.texts("(7,)"), ())


class Level(IntEnum):
    HIGH = 3


class Numbers(list[int]):
    """A list of another name."""


KEYS: list[tuple[Key, list[str]]] = [
    ("a b", ["a b"]),
    ("", [""]),
    (7, ["7"]),
    (-(2**63), ["-9223372036854775808"]),
    (True, ["t"]),
    (False, ["f"]),
    (Level.HIGH, ["3"]),
    (SOME_UUID, [str(SOME_UUID)]),
    (Decimal("1.50"), ["1.50"]),
    (Decimal("1E+3"), ["1000"]),
    (Decimal("NaN"), ["NaN"]),
    (1.0, ["1.0"]),
    (1e16, ["1e+16"]),
    (float("-inf"), ["-inf"]),
    (date(26, 1, 2), ["0026-01-02"]),
    (datetime(2026, 1, 2, 3, 4, 5), ["2026-01-02T03:04:05"]),  # noqa: DTZ001
    (datetime(2026, 1, 2, 3, 4, 0, tzinfo=timezone(timedelta(hours=-10))), ["2026-01-02T13:04:00+00:00"]),
    (b"", ["\\x"]),
    (b"\x00\xff", ["\\x00ff"]),
    ([7], ["7"]),
    (("a b",), ["a b"]),
    ([1, "a b"], ["1", "a b"]),
    ((SOME_UUID, b"\x00", True), [str(SOME_UUID), "\\x00", "t"]),
    (Numbers([1, 2]), ["1", "2"]),
]


@pytest.mark.parametrize(("key", "parts"), KEYS, ids=[f"{type(key).__name__} {parts}" for key, parts in KEYS])
def test_a_key_is_asked_for_by_texts_that_postgres_reads(key: Key, parts: list[str]) -> None:
    """One for each of its columns; what the column makes of them is for the server to say."""
    assert parts == key_parts(key)


@pytest.mark.parametrize("key", [None, {"id": 7}, {7}, timedelta(1), bytearray(b"x"), [7, None], [[7, 8], 9], object()])
def test_what_can_be_no_key_is_refused(key: Any) -> None:
    """With the name of its type and without its value."""
    wrong = key[-1] if key == [7, None] else key[0] if isinstance(key, list) else key
    with pytest.raises(InvalidAction) as caught:
        key_parts(key)
    assert str(caught.value) == (
        f"key: expected text, a number, a UUID, a date or bytes, or a list of them, got {type(wrong).__name__}"
    )


@pytest.mark.parametrize("key", [[], ()])
def test_a_key_of_nothing_is_refused(key: Any) -> None:
    """Every key has a column."""
    with pytest.raises(InvalidAction, match=r"^key: expected one value at least, got an empty list$"):
        key_parts(key)
