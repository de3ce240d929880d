"""Which types mean the same, and which changes of type keep every value as it is. Pure."""

from __future__ import annotations

import re

_SYNONYMS = {
    "int": "integer",
    "int4": "integer",
    "int2": "smallint",
    "int8": "bigint",
    "bool": "boolean",
    "decimal": "numeric",
    "character varying": "varchar",
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
    "real": "float4",
}
_PARTS = re.compile(r"([a-z][a-z0-9 ]*?) ?(?:\( ?([0-9]+) ?(?:, ?([0-9]+) ?)?\))?", re.ASCII)
_INTEGERS = ("smallint", "integer", "bigint")

Parts = tuple[str, int | None, int | None]


def parts(written: str) -> Parts | None:
    """Return the name of a type in one spelling, with its one or two numbers; ``None`` for types of another form."""
    found = _PARTS.fullmatch(" ".join(written.lower().split()))
    if found is None:
        return None
    name, first, second = found.groups()
    return _SYNONYMS.get(name, name), None if first is None else int(first), None if second is None else int(second)


def same(one: str, other: str) -> bool:
    """Return whether two types are known to be the same."""
    return one == other or (parts(one) is not None and parts(one) == parts(other))


def is_json(written: str) -> bool:
    """Return whether values of the type are JSON documents."""
    return parts(written) in (("json", None, None), ("jsonb", None, None))


def rewrites(old: str, new: str) -> bool:
    """Return whether a widening writes the whole table anew: integers of another size."""
    return not same(old, new) and (parts(old) or ("",))[0] in _INTEGERS


def widens(old: str, new: str) -> bool:
    """Return whether every value of the old type is a value of the new one, unchanged."""
    before, after = parts(old), parts(new)
    if before is None or after is None:
        return False
    match before, after:
        case ("smallint" | "integer", None, None), ("integer" | "bigint", None, None):
            return _INTEGERS.index(before[0]) < _INTEGERS.index(after[0])
        case ("varchar", _, None), ("text", None, None) | ("varchar", None, None):
            return True
        case ("varchar", int(length), None), ("varchar", int(longer), None):
            return length < longer
        case ("numeric", int(), _), ("numeric", None, None):
            return True
        case ("numeric", int(digits), scale), ("numeric", int(more), new_scale):
            # A longer fraction would print every value anew: 1.5 as 1.50.
            return digits < more and (scale or 0) == (new_scale or 0)
        case _:
            return False
