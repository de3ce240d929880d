"""What can be said of an SQL expression without a database: that it is one, and which names are in it. Pure.

As Postgres reads it with ``standard_conforming_strings``, which is on everywhere but on request.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<literal>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<unclosed>[eE]?'|"|\$(?:[^\W\d]\w*)?\$)
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>[\d$][\w$]*)
    |(?P<comment>--|/\*)
    |(?P<mark>.)
    """,
    re.VERBOSE,
)
_ALONE = {"comment": "a comment", "unclosed": "a quote that is never closed"}
# Postgres leaves other letters as they are.
_LOWERED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PAIRS = {")": "(", "]": "["}


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(sql):
        kind = found.lastgroup or ""
        yield kind, found[kind]


def flaw(sql: str) -> str | None:
    """Return why a text on one line is not a single expression that ends where it stands, or ``None``."""
    opened: list[str] = []
    for kind, text in _tokens(sql):
        if text == ";" or kind in _ALONE:
            return _ALONE.get(kind, "a semicolon")
        if text in "([":
            opened.append(text)
        elif text in _PAIRS and (not opened or opened.pop() != _PAIRS[text]):
            return "a bracket that was never opened"
        elif text == "," and not opened:
            return "a comma outside brackets"
    return "a bracket that is never closed" if opened else None


def names(sql: str) -> set[str]:
    """Return the identifiers and words in an expression, as Postgres knows them: what is not quoted in lower case."""
    tokens = list(_tokens(sql))
    words = {text.translate(_LOWERED) for kind, text in tokens if kind == "word"}
    return words | {text[1:-1].replace('""', '"') for kind, text in tokens if kind == "quoted"}
