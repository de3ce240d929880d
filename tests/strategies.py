"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import attrs
from hypothesis import settings
from hypothesis import strategies as st

unhurried = settings(deadline=None)
"""For tests that may share a machine with a database: an example is not wrong for being slow."""


CANARY = hashlib.sha256(b"canary").hexdigest()[:16]
"""What must never be stored or said. Computed, because Hypothesis also tries literals of the source as values."""


class Colour(enum.Enum):
    """An enum whose values are of several types."""

    RED = "red"
    TWO = 2
    BOTH = ("red", 2)


class Point(NamedTuple):
    """A named tuple."""

    x: Any
    y: Any


@dataclasses.dataclass
class Box:
    """A dataclass with one field."""

    content: Any


@attrs.define
class Crate:
    """An attrs class with one field."""

    content: Any


class Pairs(Mapping[Any, Any]):
    """A mapping that is no dict."""

    def __init__(self, content: dict[Any, Any]) -> None:
        self._content = content

    def __getitem__(self, key: Any) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


class Hostile:
    """An object on which every protocol that a converter might try goes wrong."""

    def _fail(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError(CANARY)

    __repr__ = __str__ = __iter__ = __len__ = __hash__ = __json__ = __bool__ = model_dump = keys = items = _fail

    @property
    def __class__(self) -> Any:
        raise RuntimeError(CANARY)


class HostileMapping(Pairs):
    """A mapping whose iteration breaks off."""

    def __iter__(self) -> Iterator[Any]:
        yield from self._content
        raise RuntimeError(CANARY)


@dataclasses.dataclass
class HostileBox:
    """A dataclass whose field cannot be read."""

    content: Any

    def __getattribute__(self, name: str) -> Any:
        if name == "content":
            raise RuntimeError(CANARY)
        return super().__getattribute__(name)


plain_keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
"""Keys that jsonb holds as they are."""

_plain_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)

plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**999), max_value=10**999)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_keys, inner, max_size=4),
    max_leaves=15,
)
"""What a JSON document holds, and jsonb stores without loss."""

any_text = st.text(st.characters(), max_size=20)
"""Text with NUL and lone surrogates in it."""

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**3318, max_value=2**3324)
    | st.floats()
    | any_text
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.sampled_from(Colour)
    | st.binary(max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.binary(max_size=20).map(memoryview)
    | st.just(PurePosixPath("/etc/hosts"))
)
_keys = any_text | st.integers() | st.floats() | st.booleans() | st.none() | st.uuids() | st.dates()
_bad_keys = st.tuples(st.integers()) | st.binary(max_size=4) | st.decimals(allow_nan=False)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.dictionaries(_keys, inner, max_size=4).map(Pairs)
        | st.builds(Point, inner, inner)
        | st.builds(Box, inner)
        | st.builds(Crate, inner)
        | st.sets(st.integers() | any_text, max_size=4)
        | st.frozensets(st.floats() | st.booleans(), max_size=4)
    )


convertible = st.recursive(_scalars, _containers, max_leaves=12)
"""Values of every type that has a JSON form (two keys may still become equal)."""


def _cyclic(inner: Any) -> list[Any]:
    loop: list[Any] = [inner]
    loop.append({"again": loop})
    return loop


anything = st.recursive(
    _scalars
    | st.sampled_from([object, len, timedelta, Ellipsis, NotImplemented, Exception(CANARY)])
    | st.builds(Hostile)
    | st.builds(object)
    | st.builds(threading.Lock)
    | st.builds(lambda: (number for number in range(3)))
    | st.just(Decimal("sNaN")),
    lambda inner: (
        _containers(inner)
        | st.dictionaries(_keys | _bad_keys, inner, max_size=4)
        | st.dictionaries(_keys, inner, max_size=2).map(HostileMapping)
        | st.builds(HostileBox, inner)
        | inner.map(_cyclic)
    ),
    max_leaves=12,
)
"""Any object at all: convertible, without a JSON form, cyclic or hostile."""
