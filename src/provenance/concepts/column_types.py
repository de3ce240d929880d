"""Which types mean the same, and which changes of type keep every value as it is. Pure."""

from __future__ import annotations

import re

# What SQL calls the built-in types that have a name of their own in the grammar, and what the catalogue calls them.
_CATALOGUE = {
    "smallint": "int2",
    "int": "int4",
    "integer": "int4",
    "bigint": "int8",
    "boolean": "bool",
    "dec": "numeric",
    "decimal": "numeric",
    "real": "float4",
    "float": "float8",
    "double precision": "float8",
    "char": "bpchar",
    "character": "bpchar",
    "nchar": "bpchar",
    "char varying": "varchar",
    "character varying": "varchar",
    "bit varying": "varbit",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_PARTS = re.compile(r"([a-z][a-z0-9_ ]*?) ?(?:\( ?([0-9]+) ?(?:, ?([0-9]+) ?)?\) ?([a-z ]+)?)?", re.ASCII)
_INTEGERS = ("int2", "int4", "int8")

Parts = tuple[str, int | None, int | None]


def parts(written: str) -> Parts | None:
    """Return the name of a built-in type in the catalogue's spelling, with its one or two numbers; ``None`` for others."""
    found = _PARTS.fullmatch(" ".join(written.lower().split()).removeprefix("pg_catalog."))
    if found is None:
        return None
    name, first, second, rest = found.groups()
    spelled = f"{name} {rest}" if rest else name
    return (
        _CATALOGUE.get(spelled, spelled),
        None if first is None else int(first),
        None if second is None else int(second),
    )


def bare(written: str) -> str | None:
    """Return a built-in type as SQL, whatever the search_path is and without a length: a cast to it cuts nothing off.

    ``None`` for types of somebody's own, and for spellings that hardly anybody uses.
    """
    whole = written.strip()
    element = whole.rstrip("[]0123456789 ") if whole.endswith("]") else whole
    name, first, _ = parts(element) or ("of somebody's own", None, None)
    if name.startswith("interval"):
        name = "interval"
    if " " in name:
        return None
    if name == "float8" and first is not None and first <= 24:
        name = "float4"
    return f'pg_catalog."{name}"' + ("[]" if element != whole else "")


def same(one: str, other: str) -> bool:
    """Return whether two types are known to be the same."""
    return one == other or (parts(one) is not None and parts(one) == parts(other))


def is_integer(written: str) -> bool:
    """Return whether values of the type are whole numbers."""
    return parts(written) in [(name, None, None) for name in _INTEGERS]


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
        case ("int2" | "int4", None, None), ("int4" | "int8", None, None):
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
