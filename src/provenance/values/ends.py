"""Where the value behind a key in a text ends, and what takes its place.

Where it cannot be told where a value ends, everything up to the end of the text is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from provenance.values.texts import REDACTED

Hides = Callable[[str], bool]
Span = tuple[int, int, str]
"""Where a value begins and ends, and what takes its place."""

_WHOLE_LINES = ("authorization", "cookie")

# A quote is escaped by what makes the opening one, or doubled. One that is never closed goes on to the end. The letters
# before it are those of Python and SQL.
_QUOTED = re.compile(
    r"""(?P<open>(?:[bBrRuUfFnNeExX]{0,2}|[uU]&)(?P<quote>\\{0,9}["'`]|&(?:quot|\#34|\#39|apos);))
    (?:(?<!\\)(?P=quote){2} | (?!(?<!\\)(?P=quote)).)*+
    (?P<close>(?P=quote)|\Z)""",
    re.VERBOSE | re.DOTALL,
)
# The closing single one is an apostrophe too, inside a word.
_CURLED = re.compile(
    "\u201c[^\u201d]*+\u201d?|\u201e[^\u201c\u201d]*+[\u201c\u201d]?|\xab[^\xbb]*+\xbb?|\u2018(?:[^\u2019]|\u2019(?=\\w))*+\u2019?"
)
_ALREADY = re.compile(re.escape(REDACTED) + r"""(?=[\s,;&"'`)\]}<]|\Z)""")
# A block of YAML: what is indented deeper than its key, on the lines that follow.
_BLOCK = re.compile(r"[|>][-+0-9]{0,2}[ \t]*+(?:#[^\r\n]*+)?(?=\r?\n|\\n)")
_LINES = re.compile(r"([ \t]*+)([^\r\n]*+)(?:\r?\n|\r|\Z)")
# These say that there is a secret, or none.
_CONSTANT = re.compile(r"""(?i:null|none|nil|true|false|enabled|disabled)(?=[\s,;&"'`)\]}<]|\Z)""")
_WHOLE_CONSTANT = re.compile(_CONSTANT.pattern + r"[ \t,;)\]}]*+(?=[\r\n]|\Z)")
_LINE = re.compile(r"[^\r\n]++")
_REST_OF_HEADER = re.compile(r"""[^\r\n"']++""")
# Ends before what looks like the next pair.
_WORD = re.compile(
    r"""(?:(?i:bearer|basic|digest|negotiate|token|apikey)[ ]+)?(?:(?![;,&][ ]?[\w.%+\[\]-]{1,64}["']?[ ]?[=:])\S)++"""
)
_REST_OF_QUOTED = re.compile(r"""(?:(?![;,&\s][ ]?[\w.%+\[\]-]{1,64}[ ]?[=:])[^\r\n"'`])++""")
# Quoted twice (''x''), or in part; not the key of the next pair.
_MORE = re.compile(r"""(?=[^\W_])(?![\w.%+-]{1,128}+\\{0,9}["'`]?\]?[ \t]{0,5}[=:])""" + _WORD.pattern)
# The repr of an object: Token(…), <Token …>.
_OPENED = re.compile(r"[\w.]{0,100}+\(|<")
_BRACKETS = re.compile(r"""\\{0,9}["'`]|[(\[{)\]}]""")
_ANGLES = re.compile(r"""\\{0,9}["'`]|[<>]""")


def quoted(text: str, at: int) -> re.Match[str] | None:
    """Return the quoted text that begins at *at*, whose groups are what opens and what closes it."""
    return _QUOTED.match(text, at)


def bracket_end(text: str, at: int) -> int:
    """Return where the bracket ends that opens at *at*: behind the one that closes it, or with the text."""
    pattern = _ANGLES if text[at] == "<" else _BRACKETS
    depth = 0
    while found := pattern.search(text, at):
        at = found.end()
        if found[0] in "([{<":
            depth += 1
        elif found[0] in ")]}>":
            depth -= 1
            if depth == 0:
                return at
        elif inner := _QUOTED.match(text, found.start()):  # pragma: no branch - it begins with a quote
            at = inner.end()
    return len(text)


def _quoted_value(text: str, found: re.Match[str]) -> tuple[int, str]:
    content = text[found.end("open") : found.start("close")]
    if found["close"] and len(content) in (1, 2) and not any(map(str.isalnum, content)):
        # The token of a parser: Unexpected token: '}'.
        return found.end(), found[0]
    end = found.end()
    if not found["close"] and found["open"] != found["quote"]:
        # The letters before the quote may be the value, and the quote that of something around it.
        return end, REDACTED
    if more := _MORE.match(text, end):
        end = more.end()
    return end, found["open"] + REDACTED + found["close"]


def _block_end(text: str, key_end: int, at: int) -> int:
    """Return where the block of YAML ends whose lines begin behind *at*."""
    if text[at] == "\\":
        return len(text)
    head = text[text.rfind("\n", 0, key_end) + 1 : key_end]
    indent = len(head) - len(head.lstrip(" \t-"))
    end = at
    for line in _LINES.finditer(text, at):
        if line[2]:
            if line.start() > at and len(line[1]) <= indent:
                break
            end = line.end(2)
    return end


def hidden_value(text: str, at: int, key: str, *, headed: bool = False, opened: bool = False) -> tuple[int, str]:
    """Return where the value ends that begins at *at*, and what takes its place.

    Args:
        text: what it is part of.
        at: where it begins.
        key: what it belongs to.
        headed: whether the key begins a line, as that of a header does.
        opened: whether the key begins a quoted text, as in 'PGPASSWORD=a b'.
    """
    if found := _QUOTED.match(text, at):
        return _quoted_value(text, found)
    if found := _CURLED.match(text, at):
        return found.end(), REDACTED
    if _ALREADY.match(text, at):
        return at, ""
    if text[at : at + 1] in ("[", "{"):
        return len(text), REDACTED
    if found := _BLOCK.match(text, at):
        return _block_end(text, at, found.end()), REDACTED
    of_header = key.lower().endswith(_WHOLE_LINES)
    if (_WHOLE_CONSTANT if headed or of_header else _CONSTANT).match(text, at):
        return at, ""
    found = _OPENED.match(text, at)
    inner = bracket_end(text, found.end() - 1) if found else at
    patterns = (_LINE,) if headed else (_REST_OF_HEADER,) if of_header else (_WORD, _REST_OF_QUOTED)[: 1 + opened]
    end = max([inner, *(found.end() for pattern in patterns if (found := pattern.match(text, inner)))])
    return end, REDACTED if end > at else ""


def replaced(text: str, spans: Iterable[Span]) -> str:
    """Return *text* with something else in the place of each span."""
    parts: list[str] = []
    done = 0
    for begin, end, replacement in spans:
        parts += text[done:begin], replacement
        done = end
    return "".join([*parts, text[done:]])
