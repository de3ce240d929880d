"""Keys and values inside texts: settings, headers, forms, connection strings, log lines, and JSON that is cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

from provenance.values.ends import Hides, Span, hidden_value, replaced
from provenance.values.texts import REDACTED

_LONGEST_KEY = 128
_QUOTES = ('"', "'", "`")

# Behind a key, a closing quote or bracket, or a blank. Two colons are a cast or a path, one with slashes is an address, and
# one between digits of a time needs no look at them. Colons may be wide, blanks fixed, and what is bold closed behind both.
_BLANK = "\\ \\t\xa0\u2002-\u200a\u202f\u3000"
_SEPARATOR = re.compile(
    rf"""[=:\uff1a\uff1d](?<=[\w"'`\];*{_BLANK}][=:\uff1a\uff1d])(?!:|//)
    (?!(?:(?<=[0-9]T[0-9]{{2}}:)|(?<=[:\ +][0-9]{{2}}:))[0-9]{{2}})
    [=>]{{0,2}}(?:\*{{1,2}}(?=[{_BLANK}]))?[{_BLANK}]*+""",
    re.VERBOSE,
)
# Between the name of a header and its value.
_HEADED = re.compile(rf":\*{{0,2}}[{_BLANK}]|\uff1a")
# Read backwards from the separator: blanks, the end of a quoted key or an index, the key, and the word before it.
_BACKWARDS = re.compile(
    rf"""[{_BLANK}]{{0,5}}\]?(?:["'`]\\{{0,9}}|;(?:touq|43\#|93\#|sopa)&|\*{{1,2}})?([\w.%+-]++)(?:[ ]([\w-]++))?"""
)
# A key that is one only together with the word before it: "api key", "card number".
_SECOND_WORDS = frozenset({"code", "codes", "id", "key", "keys", "number", "phrase"})

# RFC 7578: the headers of a part end at an empty line.
_EMPTY_LINE = re.compile(r"\n\r?\n")
_NAME = re.compile(r"""\bname="?([^"\r\n;]++)""")
_LONGEST_HEADERS = 500


def _key_before(text: str, start: int, at: int, hides: Hides) -> tuple[str, bool, bool] | None:
    """Return the key of a secret that ends at *at*, or ``None`` when there is none.

    Returns:
        The key, and whether it begins a line, and a quoted text.
    """
    backwards = text[max(start, at - _LONGEST_KEY) : at][::-1]
    found = _BACKWARDS.match(backwards)
    if found is None:
        return None
    key = found[1][::-1]
    if "%" in key or "+" in key:
        key = unquote_plus(key)
    if not hides(key) and not (found[2] and key.lower() in _SECOND_WORDS and hides(f"{found[2][::-1]} {key}")):
        return None
    if key.startswith("--") and key.endswith("-file"):
        return None
    before = text[max(at - found.end() - 8, 0) : at - found.end()]
    opened = before.endswith(_QUOTES) and not any(quote in found[0] for quote in _QUOTES)
    before = before.rstrip(" \t\"'`-*")
    return key, not before or before.endswith(("\n", "\r")), opened


def _pairs(text: str, hides: Hides) -> Iterator[Span]:
    done = position = 0
    while separator := _SEPARATOR.search(text, position):
        position = separator.end()
        found = _key_before(text, done, separator.start(), hides)
        if found is None:
            continue
        key, begins_line, opened = found
        headed = begins_line and _HEADED.match(separator[0]) is not None
        end, replacement = hidden_value(text, position, key, headed=headed, opened=opened)
        yield position, end, replacement
        done = position = end


def _multipart(text: str, hides: Hides) -> Iterator[Span]:
    done = position = 0
    while empty := _EMPTY_LINE.search(text, position):
        position = empty.end()
        headers = text[max(done, empty.start() - _LONGEST_HEADERS) : empty.start()].rpartition("form-data;")
        field = _NAME.search(headers[2]) if headers[1] else None
        if field and hides(field[1]):
            end = text.find("\n--", position)
            end = len(text) if end < 0 else end
            yield position, end, REDACTED
            done = position = end


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the values whose key is a secret's.

    Args:
        text: anything.
        hides: tells of a key whether it is.
    """
    if "=" in text or ":" in text or "\uff1a" in text or "\uff1d" in text:
        text = replaced(text, _pairs(text, hides))
    if "form-data;" in text:
        text = replaced(text, _multipart(text, hides))
    return text
