"""What names, types and SQL a declaration may be made of.

Each returns what it was given, checked, or raises :class:`InvalidConcept`, whose message calls it *what*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from provenance.concepts import expressions, naming
from provenance.concepts.errors import InvalidConcept

RESERVED = ("id", "created_by_action_id", "updated_by_action_id", "created_at", "updated_at", "deleted_at")
"""The columns that every concept has."""

# tableoid and the like: columns that every table has already.
_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TYPE = re.compile(r"[\w\s.,()\[\]\"$]+")


def name(value: object, what: str) -> str:
    """Return a name that Postgres keeps whole."""
    if not isinstance(value, str):
        raise InvalidConcept(f"{what}: expected a name, got {type(value).__name__}")
    if not value:
        raise InvalidConcept(f"{what} is empty; give it a name of 1 to {naming.LONGEST} bytes")
    if not value.isprintable():
        raise InvalidConcept(f"{what} has characters that cannot be printed; leave them out")
    if (size := len(value.encode(errors="surrogatepass"))) > naming.LONGEST:
        raise InvalidConcept(
            f"{what} {value!r} has {size} bytes, and Postgres keeps {naming.LONGEST}; choose a shorter one"
        )
    return value


def column(value: object, what: str) -> str:
    """Return the name of a column that a concept may have besides those of every concept."""
    wanted = name(value, what)
    if wanted in RESERVED:
        raise InvalidConcept(
            f"{what} {wanted!r} is reserved: every concept has the columns {', '.join(RESERVED)}; choose another name"
        )
    if wanted in _SYSTEM:
        raise InvalidConcept(f"{what} {wanted!r} is a system column of Postgres; choose another name")
    return wanted


def one_piece(value: object, what: str) -> str:
    """Return an expression or a type: one, on one line, so that it cannot be mistaken for what surrounds it."""
    if not isinstance(value, str):
        raise InvalidConcept(f"{what}: expected SQL as text, got {type(value).__name__}")
    if not value.strip():
        raise InvalidConcept(f"{what} is empty; leave it out, or give the SQL")
    if not value.isprintable():
        raise InvalidConcept(f"{what}: expected SQL on one line")
    if (flaw := expressions.flaw(value)) is not None:
        raise InvalidConcept(f"{what}: expected one whole piece of SQL, and it has {flaw}; write that piece alone")
    return value.strip()


def type_name(value: object, what: str) -> str:
    """Return the name of a type; whether there is one of that name is for the database to say."""
    written = one_piece(value, f"the type of {what}")
    if not _TYPE.fullmatch(written):
        raise InvalidConcept(f"the type of {what}: expected the name of a Postgres type such as text or numeric(10,2)")
    return written


# Where Postgres and this library keep what is theirs; every schema that begins with pg_ is the server's.
NOT_YOURS = frozenset({"provenance", "information_schema"})
_TABLE = re.compile(r'("(?:[^"]|"")+"|[^".\s]+)\.("(?:[^"]|"")+"|[^".\s]+)')


def table_name(value: object, what: str) -> tuple[str, str]:
    """Return the schema and the name that a qualified table name consists of."""
    if not isinstance(value, str) or not (found := _TABLE.fullmatch(value)):
        raise InvalidConcept(f'{what}: expected a table with its schema, such as public.users or public."Users"')
    schema, table = (part[1:-1].replace('""', '"') if part[0] == '"' else part for part in found.groups())
    return name(schema, f"the schema of {what}"), name(table, f"the name of {what}")


def qualified(value: str, what: str) -> str:
    """Return a qualified table name as Postgres spells it."""
    return ".".join(map(naming.quoted, table_name(value, what)))


def flag(value: object, what: str) -> bool:
    """Return what is true or false, and not merely taken for it."""
    if not isinstance(value, bool):
        raise InvalidConcept(f"{what}: expected True or False, got {type(value).__name__}")
    return value


def several(value: Iterable[Any], kind: type, what: str) -> tuple[Any, ...]:
    """Return the items of a list that are all of one kind."""
    if isinstance(value, str) or not isinstance(value, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidConcept(f"{what}: expected a list of {kind.__name__}, got {type(value).__name__}")
    items = tuple(value)
    for item in items:
        if not isinstance(item, kind):
            raise InvalidConcept(f"{what}: expected {kind.__name__} in the list, got {type(item).__name__}")
    return items


def pairs(value: Mapping[str, str] | Iterable[tuple[str, str]], expected: str) -> tuple[tuple[str, str], ...]:
    """Return the members of a mapping; *expected* is the whole message where there is none."""
    try:
        members = dict(value)
    except (TypeError, ValueError):
        raise InvalidConcept(expected) from None
    return tuple(members.items())
