"""Secrets whose name stands beside them as a value: pairs, objects of a name and a value, arguments of a command."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from provenance.values.arguments import next_item
from provenance.values.ends import Hides
from provenance.values.texts import REDACTED

_Key = TypeVar("_Key")

_LONGEST_NAME = 128
# What names the value beside it: cookies and headers in a HAR file, environments of containers, lists of changes, and
# errors of pydantic.
_HELD: Mapping[str, tuple[str, ...]] = {
    "name": ("value",),
    "key": ("value",),
    "field": ("value", "old", "new"),
    "loc": ("input",),
}
_LONGEST_NAMING = max(map(len, _HELD))


def _text(value: object) -> str | None:
    """Return text as it is, and bytes as the text that they are in headers."""
    # By type(), which asks no lazy proxy.
    if issubclass(type(value), str):
        return str.__str__(cast("str", value))
    return value.decode("latin-1") if type(value) is bytes else None


def _names_secret(value: object, hides: Hides) -> bool:
    name = _text(value)
    # The name of a thing in a shop may have such a word too, and others beside it.
    return name is not None and len(name) <= _LONGEST_NAME and len(name.split()) == 1 and hides(name)


def _part_names_secret(value: object, hides: Hides) -> bool:
    """Return whether a name, or the path to a field, is that of a secret."""
    parts = cast("list[object]", value) if type(value) in (list, tuple) else [value]
    return any(_names_secret(part, hides) for part in parts)


def _is_pair(value: object) -> bool:
    if type(value) not in (list, tuple):
        return False
    pair = cast("list[object]", value)
    return len(pair) == 2 and _text(pair[0]) is not None


def _hidden_pair(pair: object, hides: Hides) -> object:
    # A tuple is looked at by itself.
    if type(pair) is not list:
        return pair
    name, value = cast("list[object]", pair)
    if _is_hidden(value) or not _names_secret(name, hides):
        return cast("list[object]", pair)
    return [name, REDACTED]


def _is_hidden(value: object) -> bool:
    return type(value) is str and value == REDACTED


def _is_flag(item: object) -> bool:
    return type(item) is str and item.startswith("-")


def _hidden_arguments(items: list[object], hides: Hides) -> list[object]:
    if not any(map(_is_flag, items)):
        return items
    command = _text(items[0]) or ""
    return items[:1] + [
        next_item(cast("str", flag), item, command, hides) if _is_flag(flag) and not _is_hidden(item) else item
        for flag, item in itertools.pairwise(items)
    ]


def hidden_items(items: list[object], hides: Hides, *, of_tuple: bool = False) -> list[object]:
    """Return the items of a list or tuple with ``[redacted]`` in the place of what the item before names.

    A tuple of two is a pair, and its second item hidden when the first is the name of a secret. A list of two may as
    well be one of names, such as ``["password", "email"]``: it is a pair only among others, in a list that has nothing
    else in it.
    """
    if of_tuple and len(items) == 2 and _names_secret(items[0], hides):
        return [items[0], REDACTED]
    if items and all(map(_is_pair, items)):
        return [_hidden_pair(item, hides) for item in items]
    return _hidden_arguments(items, hides)


def _held(key: object) -> tuple[str, ...]:
    """Return which members' values are named by the value under *key*."""
    text = _text(key)
    return _HELD.get(text.lower(), ()) if text is not None and len(text) <= _LONGEST_NAMING else ()


def may_name_values(keys: Iterable[str]) -> bool:
    """Return whether :func:`hidden_members` may hide something among members with these keys."""
    names = {key.lower() for key in keys}
    return any(not names.isdisjoint(_HELD[name]) for name in names & _HELD.keys())


def hidden_members(members: list[tuple[_Key, object]], hides: Hides) -> list[tuple[_Key, object]]:
    """Return the members of an object with ``[redacted]`` in the place of the value that another one names."""
    # Most objects have no such member. A loop, for it is asked of every object there is.
    for key, _ in members:
        if type(key) is not str or (len(text := cast("str", key)) <= _LONGEST_NAMING and text.lower() in _HELD):
            break
    else:
        return members
    held = {holder for key, item in members for holder in _held(key) if _part_names_secret(item, hides)}
    if not held:
        return members
    return [(key, REDACTED if (_text(key) or "").lower() in held else item) for key, item in members]
