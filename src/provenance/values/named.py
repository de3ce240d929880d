"""Secrets inside texts whose name stands beside them as a value: pairs, and objects of a name and a value."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provenance.values.ends import Hides, Span, hidden_value, quoted, replaced
from provenance.values.texts import REDACTED

# The repr of a tuple, or of a list: ('X-Api-Key', '…'), [b'cookie', b'…'].
_PAIR = re.compile(r"""[(\[][bBrRuU]{0,2}(\\{0,9}["'])([^\s"'`\\]{1,128}+)\1,\s{0,5}""")
_LAST = re.compile(r"\s{0,5}[)\]]|\Z")
_BARE = re.compile(r"[\w.+-]++(?=[)\]])")
_OPENED = re.compile(r"[\w.]{0,100}+\(|[\[{<]")
# {"name": "token", "value": …}, in YAML and in the attributes of an element too.
_NAME = re.compile(
    r"""(?<![\w.-])(?:name|key|field)(?:\\{0,9}["'`])?[ \t]{0,5}[=:][ \t]{0,5}
    (?:\\{0,9}["'`])?([^\s"'`\\,;&<>{}=]{1,128}+)""",
    re.VERBOSE | re.IGNORECASE,
)
_VALUE = re.compile(
    r"""(?:(?!(?<![\w.-])(?:name|key|field)(?![\w.-]))[^<>{}]){0,200}?
    (?<![\w.-])value(?:\\{0,9}["'`])?[ \t]{0,5}[=:][ \t]{0,5}""",
    re.VERBOSE | re.IGNORECASE,
)


def _is_pair(text: str, at: int) -> bool:
    """Return whether what opens at *at* is a tuple, or a list inside another one."""
    return text[at] == "(" or text[max(at - 5, 0) : at].rstrip().endswith(("[", "],"))


def _pairs(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while pair := _PAIR.search(text, position):
        position = pair.end()
        if not hides(pair[2]) or not _is_pair(text, pair.start()):
            continue
        if found := quoted(text, position):
            # There may be a third item: such a tuple is one of names. Or a pair begins where that quote seemed to.
            if _LAST.match(text, found.end()):
                yield position, found.end(), found["open"] + REDACTED + found["close"]
                position = found.end()
        elif found := _BARE.match(text, position):
            yield position, found.end(), REDACTED
            position = found.end()
        elif _OPENED.match(text, position):
            end, replacement = hidden_value(text, position, pair[2])
            yield position, end, replacement
            position = end


def _values(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while name := _NAME.search(text, position):
        position = name.end()
        if hides(name[1]) and (value := _VALUE.match(text, position)):
            end, replacement = hidden_value(text, value.end(), name[1])
            yield value.end(), end, replacement
            position = end


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the values beside which the name of a secret stands."""
    if "," in text and ("(" in text or "[" in text):
        text = replaced(text, _pairs(text, hides))
    if "alue" in text or "ALUE" in text:
        text = replaced(text, _values(text, hides))
    return text
