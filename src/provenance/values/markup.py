"""Elements of XML and HTML inside texts, whole or cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provenance.values.ends import Hides, Span, replaced
from provenance.values.texts import REDACTED

_OPENING = re.compile(r"<([\w:.-]{1,99}+)((?:\s[^<>]{0,300}+)?)>(?:<!\[CDATA\[)?")
_NAMED = re.compile(r"""\s(?:name|key)\s{0,5}=\s{0,5}["']([^"'<>\s]{1,128}+)["']""", re.IGNORECASE)
# What follows a placeholder: login <user> <password>, postgres://<user>:<password>@<host>.
_AFTER_PLACEHOLDER = re.compile(r"""[\s<>@:/.,;|()\[\]{}"'`=&?]|\Z""")


def _closing(text: str, name: str, at: int) -> int:
    """Return where an element is closed, or where the text ends."""
    tag = f"</{name}"
    while (at := text.find(tag, at)) >= 0:
        after = text[at + len(tag) : at + len(tag) + 1]
        if not after or after in "> \t\r\n":
            return at
        at += len(tag)
    return len(text)


def _elements(text: str, hides: Hides) -> Iterator[Span]:
    closed = "</" in text
    next_closing = position = 0
    while opening := _OPENING.search(text, position):
        position = opening.end()
        name, attributes = opening.groups()
        if attributes.endswith("/"):
            continue
        end = position
        if hides(name):
            begins = opening.start()
            if closed:
                end = _closing(text, name, position)
            elif (begins and text[begins - 1] == ">") or not _AFTER_PLACEHOLDER.match(text, position):
                end = len(text)
        elif closed and (named := _NAMED.search(attributes)) and hides(named[1]):
            # <entry key="password">…</entry>, and not <input name="password">, which has no end.
            if 0 <= next_closing < position:
                next_closing = text.find("</", position)
            if next_closing >= 0 and text.startswith(name, next_closing + 2):
                end = next_closing
        if end > position:
            yield position, end, REDACTED
            position = end


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the content of elements that are named like a secret."""
    return replaced(text, _elements(text, hides)) if "<" in text and ">" in text else text
