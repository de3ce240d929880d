"""Keys and values inside texts: settings, headers, forms, connection strings, log lines, markup, and JSON that is cut off.

Where it cannot be told where a value ends, more is hidden rather than less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote_plus

from provenance.values.texts import REDACTED

Hides = Callable[[str], bool]
Span = tuple[int, int, str]
"""Where a value begins and ends, and what takes its place."""

_LONGEST_KEY = 128

# Behind a key, a closing quote or bracket, or a blank. Two colons are a cast or a path, one with slashes is an address, and
# one between digits of a time needs no look at them.
_SEPARATOR = re.compile(
    r"""[=:](?<=[\w"'`\] \t][=:])(?!:|//)
    (?!(?:(?<=[0-9]T[0-9]{2}:)|(?<=[:\ +][0-9]{2}:))[0-9]{2})
    [=>]{0,2}[ \t]*+""",
    re.VERBOSE,
)
# Read backwards from the separator: blanks, the end of a quoted key or an index, the key, and the word before it.
_BACKWARDS = re.compile(r"""[ \t]{0,5}\]?(?:["'`]\\{0,9})?([\w.%+-]++)(?:[ ]([\w-]++))?""")
# A key that is one only together with the word before it: "api key", "card number".
_SECOND_WORDS = frozenset({"code", "codes", "id", "key", "keys", "number", "phrase"})
_WHOLE_LINES = ("authorization", "cookie")

# A quote is escaped by what makes the opening one, or doubled. One that is never closed goes on to the end.
_QUOTED = re.compile(
    r"""(?P<open>[bBrRuU]{0,2}(?P<quote>\\{0,9}["'`]))
    (?:(?<!\\)(?P=quote){2} | (?!(?<!\\)(?P=quote)).)*+
    (?P<close>(?P=quote)|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_ALREADY = re.compile(re.escape(REDACTED) + r"""(?=[\s,;&"'`)\]}<]|\Z)""")
_LINE = re.compile(r"[^\r\n]++")
_REST_OF_HEADER = re.compile(r"""[^\r\n"']++""")
# Ends before what looks like the next pair.
_WORD = re.compile(
    r"""(?:(?i:bearer|basic|digest|negotiate|token|apikey)[ ]+)?(?:(?![;,&][ ]?[\w.%+\[\]-]{1,64}["']?[ ]?[=:])\S)++"""
)

_FLAG = re.compile(r"(?<!\S)--([A-Za-z][\w-]*+)[ \t]++(?![-\s])")

# RFC 7578: the headers of a part end at an empty line.
_EMPTY_LINE = re.compile(r"\n\r?\n")
_NAME = re.compile(r"""\bname="?([^"\r\n;]++)""")
_LONGEST_HEADERS = 500

_ELEMENT = re.compile(r"(<([\w:.-]{1,99})(?:\s[^<>]{0,300})?>(?:<!\[CDATA\[)?)([^<]++)(?=</|\Z)")


def _hidden_value(text: str, at: int, key: str, *, headed: bool) -> tuple[int, str]:
    """Return where the value ends that begins at *at*, and what takes its place.

    *headed* says that its key begins a line, as that of a header does.
    """
    if quoted := _QUOTED.match(text, at):
        return quoted.end(), quoted["open"] + REDACTED + quoted["close"]
    if _ALREADY.match(text, at):
        return at, ""
    if text[at : at + 1] in ("[", "{"):
        return len(text), REDACTED
    of_header = key.lower().endswith(_WHOLE_LINES)
    found = (_LINE if headed else _REST_OF_HEADER if of_header else _WORD).match(text, at)
    return (found.end(), REDACTED) if found else (at, "")


def _key_before(text: str, start: int, at: int, hides: Hides) -> tuple[str, bool] | None:
    """Return the key of a secret that ends at *at*, and whether it begins a line, or ``None`` when there is none."""
    backwards = text[max(start, at - _LONGEST_KEY) : at][::-1]
    found = _BACKWARDS.match(backwards)
    if found is None:
        return None
    key = found[1][::-1]
    if "%" in key or "+" in key:
        key = unquote_plus(key)
    if not hides(key) and not (found[2] and key.lower() in _SECOND_WORDS and hides(f"{found[2][::-1]} {key}")):
        return None
    before = text[max(at - found.end() - 8, 0) : at - found.end()].rstrip(" \t\"'`-")
    return key, not before or before.endswith(("\n", "\r"))


def _pairs(text: str, hides: Hides) -> Iterator[Span]:
    done = position = 0
    while separator := _SEPARATOR.search(text, position):
        position = separator.end()
        found = _key_before(text, done, separator.start(), hides)
        if found is None:
            continue
        key, begins_line = found
        end, replacement = _hidden_value(text, position, key, headed=begins_line and separator[0].startswith(": "))
        yield position, end, replacement
        done = position = end


def _flags(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while flag := _FLAG.search(text, position):
        position = flag.end()
        if hides(flag[1]):
            end, replacement = _hidden_value(text, position, flag[1], headed=False)
            yield position, end, replacement
            position = end


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


def _replaced(text: str, spans: Iterable[Span]) -> str:
    """Return *text* with something else in the place of each span."""
    parts: list[str] = []
    done = 0
    for begin, end, replacement in spans:
        parts += text[done:begin], replacement
        done = end
    return "".join([*parts, text[done:]])


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the values whose key is a secret's.

    Args:
        text: anything.
        hides: tells of a key whether it is.
    """
    if "=" in text or ":" in text:
        text = _replaced(text, _pairs(text, hides))
    if "--" in text:
        text = _replaced(text, _flags(text, hides))
    if "form-data;" in text:
        text = _replaced(text, _multipart(text, hides))
    if "</" in text:
        text = _ELEMENT.sub(lambda found: found[1] + REDACTED if hides(found[2]) else found[0], text)
    return text
