"""Texts that are encoded: JSON inside a text, and what is percent-encoded in addresses and forms.

They are read, cleaned like any value, and written again; one in which nothing is hidden stays as it is, to the letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeVar, cast
from urllib.parse import quote, unquote_plus

from provenance.values.keys import Rule
from provenance.values.neighbours import hidden_items, hidden_members
from provenance.values.texts import REDACTED

_BLANK = "\ufeff \t\r\n"
_ENDS = {"{": "}", "[": "]", '"': '"'}
dumps = json.JSONEncoder(separators=(",", ":")).encode
"""Writes compact ASCII JSON."""
# What may stand between two separators of an address or a form.
_PIECE = re.compile(r"""[^\s&;,?\#="'<>]++""")
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


_Part = TypeVar("_Part")


class _Literal(str):
    """A number as it was written, which may be longer than an int or a float can be."""

    __slots__ = ()


class _Members(list[tuple[str, object]]):
    """The members of an object, equal keys included."""


class _Rewriter:
    """Writes parsed JSON anew, with secrets hidden."""

    def __init__(self, rule: Rule, redact: Callable[[str], str]) -> None:
        self._rule = rule
        self._redact = redact
        self.changed = False

    def write(self, value: object) -> str:
        if isinstance(value, _Members):
            members = self._compared(value, hidden_members(value, self._rule.hides))
            return f"{{{','.join([self._member(key, item) for key, item in members])}}}"
        if isinstance(value, list):
            items = cast("list[object]", value)
            return f"[{','.join(map(self.write, self._compared(items, hidden_items(items, self._rule.hides))))}]"
        if isinstance(value, _Literal):
            clean = self._redact(value)
            return value if clean == value else self._replaced(clean)
        return self._text(value) if isinstance(value, str) else dumps(value)

    def _compared(self, parts: list[_Part], clean: list[_Part]) -> list[_Part]:
        self.changed = self.changed or clean != parts
        return clean

    def _member(self, key: str, item: object) -> str:
        if self._rule.hides(key):
            return f"{self._text(key)}:{dumps(REDACTED) if item == REDACTED else self._replaced(REDACTED)}"
        if isinstance(item, str) and self._rule.keeps(key):
            return f"{self._text(key)}:{item if isinstance(item, _Literal) else dumps(item)}"
        return f"{self._text(key)}:{self.write(item)}"

    def _text(self, text: str) -> str:
        clean = self._redact(text)
        return dumps(text) if clean == text else self._replaced(clean)

    def _replaced(self, clean: str) -> str:
        self.changed = True
        return dumps(clean)


_read = json.JSONDecoder(
    object_pairs_hook=_Members, parse_float=_Literal, parse_int=_Literal, parse_constant=_Literal, strict=False
).decode


def redacted_json(text: str, rule: Rule, redact: Callable[[str], str]) -> str | None:
    """Return JSON text with its secrets hidden, or ``None`` when it is none.

    Args:
        text: anything.
        rule: tells what becomes of a key.
        redact: hides what is inside a text.
    """
    bare = text.strip(_BLANK)
    if len(bare) < 2 or _ENDS.get(bare[0]) != bare[-1]:
        return None
    rewriter = _Rewriter(rule, redact)
    try:
        written = rewriter.write(_read(bare))
    except (ValueError, RecursionError):
        return None
    return written if rewriter.changed else text


def redacted_encoded(text: str, redact: Callable[[str], str]) -> str:
    """Return *text* with the secrets hidden that are percent-encoded in it.

    Args:
        text: anything.
        redact: hides what is inside a text.
    """

    def cleaned(found: re.Match[str]) -> str:
        if not _ESCAPE.search(found[0]) and "+" not in found[0][1:]:
            return found[0]
        decoded = unquote_plus(found[0])
        clean = redact(decoded)
        return found[0] if clean == decoded else quote(clean, safe="[]:/@", errors="replace")

    return _PIECE.sub(cleaned, text)
