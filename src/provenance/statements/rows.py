"""The text in which rows and their keys are stored, and what it means. Pure.

A row is stored as Postgres prints a composite value: ``(7,"Alot, GRA",)`` has three fields, the last of which is
null. Which columns the fields are is said by the row's shape, a JSON list of name, type and whether the value is masked;
masked columns have no field. In a quoted field, quotes and backslashes are doubled.
"""

from __future__ import annotations

import hashlib
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
_QUOTED = re.compile(r'["\\(),\s]', re.ASCII)
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


def joined(fields: Sequence[str]) -> str:
    """Return the text of a composite value, as Postgres prints it."""
    return f"({','.join(map(_quoted, fields))})"


def _quoted(field: str) -> str:
    if field and not _QUOTED.search(field):
        return field
    doubled = field.replace("\\", "\\\\").replace('"', '""')
    return f'"{doubled}"'


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
    """Return the text that Postgres prints for the value of a key column."""
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
            return repr(value).removesuffix(".0")
        case datetime():
            text = (value.astimezone(UTC) if value.tzinfo else value).isoformat(sep=" ")
            text = text.removesuffix("+00:00")
            return (text.rstrip("0") if "." in text else text) + ("+00" if value.tzinfo else "")
        case date():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case _:
            raise InvalidAction(
                f"key: expected text, a number, a UUID, a date or bytes, or a list of them, got {type(value).__name__}"
            )


def key_texts(key: Key) -> list[str]:
    """Return the texts that a primary key may be stored as: itself, or its digest where it is long or masked.

    Raises:
        InvalidAction: it is of a type that is none for a key.
    """
    if isinstance(key, (list, tuple)):
        text = _part(key[0]) if len(key) == 1 else joined([_part(part) for part in key])
    else:
        text = _part(key)
    return [text, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"]
