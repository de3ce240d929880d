"""Plain text on its way into a row: identifiers, names and messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from types import NoneType
from uuid import UUID

from provenance.errors import InvalidAction

REDACTED = "[redacted]"
"""What stands in the place of a value that was hidden."""

# PostgreSQL refuses U+0000 in text and jsonb, and UTF-8 has no form for surrogates. A str never needs them: any that is
# there is lone, two in a row included (https://www.postgresql.org/docs/current/datatype-json.html).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# str() of a larger int raises ValueError (sys.set_int_max_str_digits), and numeric ends at 131,072 digits.
LARGEST_DECIMAL_BITS = 3320  # just under 1,000 decimal digits

# An index entry is at most 2,704 bytes, and a character at most 4.
_LONGEST_IDENTIFIER = 256
LONGEST_NAME = 100
_LARGE = 2**63


Identifier = str | int | UUID
"""What names a user, a tenant, an entity or a piece of work."""


def escaped(text: str) -> str:
    return UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def digits(number: int) -> str:
    return int.__repr__(number) if int.bit_length(number) <= LARGEST_DECIMAL_BITS else hex(number)


def identifier(value: Identifier | None, what: str) -> str | None:
    r"""Return the text that a user, tenant, entity or correlation id is stored as.

    Characters that a text column cannot hold are written as ``\uXXXX``. An id of more than 256 characters is cut and
    ends in a part of its SHA-256, so that ids which differ only at the end stay different.

    Args:
        value: text, an int or a UUID; ``None`` and ``""`` mean that there is none.
        what: the name of the argument, for the error.

    Raises:
        InvalidAction: *value* is of another type.
    """
    if value is None:
        return None
    if type(value) is int and -_LARGE < value < _LARGE:
        return int.__repr__(value)
    if isinstance(value, str):
        text = escaped(str.__str__(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        text = digits(value)
    elif isinstance(value, UUID):
        text = str(value)
    else:
        raise InvalidAction(f"{what}: expected text, an int or a UUID, got {type(value).__name__}")
    if len(text) > _LONGEST_IDENTIFIER:
        mark = "~sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]
        text = text[: _LONGEST_IDENTIFIER - len(mark)] + mark
    return text or None


def tenant(value: Identifier | None) -> str | None:
    """Return the tenant that is meant: ``None`` for whichever it is, and the empty text, as rows carry it, for none.

    Raises:
        InvalidAction: *value* is of another type than an id.
    """
    return None if value is None else identifier(value, "tenant_id") or ""


_EXPECTED = f"expected printable text of 1 to {LONGEST_NAME} characters with no white space around it"
_OPTIONAL = (str, NoneType)


def name(value: object, what: str) -> str:
    """Return an action type, concept or entity type, checked.

    Args:
        value: printable text of 1 to 100 characters with no white space around it.
        what: the name of the argument, for the error.

    Raises:
        InvalidAction: it is anything else. The message does not repeat it.
    """
    if not isinstance(value, str):
        raise InvalidAction(f"{what}: {_EXPECTED}, got {type(value).__name__}")
    text = str.__str__(value)
    if not text:
        raise InvalidAction(f"{what} is empty: {_EXPECTED}")
    if len(text) > LONGEST_NAME:
        raise InvalidAction(f"{what} has {len(text)} characters: {_EXPECTED}")
    if text != text.strip():
        raise InvalidAction(f"{what} begins or ends with white space: {_EXPECTED}")
    if not text.isprintable():
        raise InvalidAction(f"{what} has characters that cannot be printed: {_EXPECTED}")
    return text


def reason(value: object) -> str:
    """Return a text that says why something is done, checked, as it can be stored.

    Raises:
        InvalidAction: it is no text, or says nothing.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidAction("reason: expected a text that says why, for whoever asks later")
    return escaped(str.__str__(value))


# An application has few, and gives them again with every action.
_known_name = lru_cache(1024)(name)


def names(action_type: object, concept: object, entity_type: object) -> tuple[str, str, str | None]:
    """Return what an action is called, checked as by :func:`name`; an entity type may be ``None``.

    Raises:
        InvalidAction: one of them is not what it should be.
    """
    # No subclass: one may be equal to another text than its own.
    check = _known_name if type(action_type) is type(concept) is str and type(entity_type) in _OPTIONAL else name
    return (
        check(action_type, "action_type"),
        check(concept, "concept"),
        None if entity_type is None else check(entity_type, "entity_type"),
    )


# A text is worked on up to so many times its limit; a longer one is given up on the way.
PATIENCE = 4


def beginning(text: str, limit: int) -> str:
    """Return the first characters of a text; where it is cut, without the word that the cut goes through.

    Half a secret would not be recognised as one.
    """
    if len(text) <= limit:
        return text
    head = text[:limit]
    whole = head.rsplit(None, 1)
    return head if len(whole) < 2 else head[: len(head) - len(whole[1])]


def message(text: str, limit: int = 4096, *, redact: Callable[[str], str]) -> str:
    r"""Return free text, such as the message of an error, fit for a text column.

    Characters that the column cannot hold are written as ``\uXXXX``; a longer text is cut and says so at its end.

    Args:
        text: anything.
        limit: the most characters to return.
        redact: hides what is secret in a text.
    """
    text = str.__str__(text)
    safe = escaped(redact(beginning(text, limit * PATIENCE))[: limit + 1])
    if len(safe) <= limit and len(text) <= limit * PATIENCE:
        return safe
    mark = f" [cut: {len(text)} characters]"
    return (safe[: max(limit - len(mark), 0)] + mark)[:limit]
