"""The text in which rows and their keys are stored, and what it means. Pure.

A row is stored as Postgres prints a composite value: ``(7,"Alot, GRA",)`` has three fields, the last of which is
null. Which columns the fields are is said by the row's shape, a JSON list of name, type and whether the value is masked;
masked columns have no field. In a quoted field, quotes and backslashes are doubled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import attrs
import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format

from provenance.errors import InvalidAction
from provenance.models import RowValues, Truncated
from provenance.values import REDACTED

KeyPart = str | int | UUID | Decimal | float | date | datetime | bytes
Key = KeyPart | Sequence[KeyPart]
"""A primary key: its value, or the values of its columns in the order of the key."""

_FIELD = re.compile(r'("(?:[^"]|"")*"|[^,]*),')
_DOUBLED = re.compile(r'(["\\])\1')
_TRUNCATED = re.compile(r'\{"\$truncated":\{"bytes":(\d+),"sha256":"([0-9a-f]{64})"\}\}')
_MODIFIER = re.compile(r"\([^)]*\)")

Load = Callable[[str], object]
Texts = dict[str, str | None]
"""The fields of a stored row by column, without those that are masked."""


def split(text: str) -> list[str | None]:
    """Return the fields of a composite value's text."""
    fields: list[str | None] = []
    for field in _FIELD.findall(text[1:-1] + ","):
        if not field:
            fields.append(None)
        elif field[0] == '"':
            fields.append(_DOUBLED.sub(r"\1", field[1:-1]))
        else:
            fields.append(field)
    return fields


def _oid(type_name: str) -> int:
    """Return the number of a built-in type, or 0, which stands for text."""
    name = _MODIFIER.sub("", type_name)
    # A month is not thirty days, and would be in Python.
    if name.startswith("interval") or psycopg.adapters.types.get(name.removesuffix("[]")) is None:
        return 0
    return psycopg.adapters.types.get_oid(name)


def _loader(type_name: str) -> Load:
    oid = _oid(type_name)
    load: Callable[[Any], object] = Transformer().get_loader(oid, Format.TEXT).load

    def value(text: str) -> object:
        if found := _TRUNCATED.fullmatch(text):
            return Truncated(bytes=int(found[1]), sha256=found[2])
        try:
            return load(text.encode())
        except (ValueError, ArithmeticError, RecursionError, psycopg.Error):
            # Valid in Postgres and more than Python can hold, such as a date before Christ.
            return text

    return value


@attrs.frozen
class Field:
    """One column of a stored row."""

    name: str
    masked: bool
    load: Load = attrs.field(eq=False, repr=False)


@attrs.frozen
class Shape:
    """What the fields of a stored row are."""

    fields: tuple[Field, ...]

    def texts(self, text: str | None) -> Texts | None:
        """Take the text of a row apart; ``None`` where there is no row."""
        if text is None:
            return None
        names = [field.name for field in self.fields if not field.masked]
        # Without any column, the text is that of a single null field.
        return dict(zip(names, split(text), strict=True)) if names else {}

    def values(self, texts: Texts | None) -> RowValues | None:
        """Return the values of a row by column, in the order of the table; ``None`` where there is no row."""
        if texts is None:
            return None
        values: dict[str, object] = {}
        for field in self.fields:
            if field.masked:
                values[field.name] = REDACTED
            else:
                stored = texts[field.name]
                values[field.name] = None if stored is None else field.load(stored)
        return MappingProxyType(values)

    def changed(self, old: Texts | None, new: Texts | None, masked_changes: Collection[str]) -> tuple[str, ...]:
        """Return the columns that differ between two rows: all of them where there is only one."""
        if old is None or new is None:
            return tuple(field.name for field in self.fields)
        return tuple(
            field.name
            for field in self.fields
            if (field.name in masked_changes if field.masked else old[field.name] != new[field.name])
        )


def shape_of(text: str) -> Shape:
    """Read a shape."""
    return Shape(tuple(Field(name, masked, _loader(type_name)) for name, type_name, masked in json.loads(text)))


def _part(value: object) -> str:
    """Return a text that Postgres reads as the value of a key column, whatever type that has."""
    match value:
        case str():
            return value
        case bool():
            return "t" if value else "f"
        case int() | UUID():
            return str(value)
        case Decimal():
            return format(value, "f")
        case float():
            return repr(value)
        case datetime():
            # A column without time zone would take no notice of an offset.
            return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
        case date():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case _:
            raise InvalidAction(
                f"key: expected text, a number, a UUID, a date or bytes, or a list of them, got {type(value).__name__}"
            )


def key_parts(key: Key) -> list[str]:
    """Return a text for each value of a primary key.

    Raises:
        InvalidAction: it is of a type that is none for a key, or an empty list.
    """
    parts = [_part(part) for part in key] if isinstance(key, (list, tuple)) else [_part(key)]
    if not parts:
        raise InvalidAction("key: expected one value at least, got an empty list")
    return parts
