"""Values that libraries quote when they say what is wrong with them, apart from the name of the field."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provenance.values.ends import Hides, Span, replaced
from provenance.values.texts import REDACTED

# pydantic has the path of the field on a line of its own, and the message indented below it.
_INPUT = "input_value="
_AFTER_INPUT = ", input_type="
_LONGEST_MESSAGE = 1_000
# attrs: 'password' must be <class 'int'> (got 'x' that is a <class 'str'>), in a tuple that has the value once more.
_GOT = re.compile(
    r"""["'`]([\w.-]{1,128}+)\\{0,9}["'`][ ]must[ ](?:match[ ]regex[ ] | be[ ][^\n]{0,500}?\(got[ ])""", re.VERBOSE
)


def _about_secret(before: str, hides: Hides) -> bool:
    """Return whether what stands before an input is a message about a field that holds a secret."""
    lines = before.replace("\\n", "\n").split("\n")[:-1]
    path = next((line for line in reversed(lines) if line[:1].strip()), "")
    return any(map(hides, path.split(".")))


def _inputs(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while (at := text.find(_INPUT, position)) >= 0:
        position = at + len(_INPUT)
        if _about_secret(text[max(at - _LONGEST_MESSAGE, 0) : at], hides):
            end = text.find(_AFTER_INPUT, position)
            end = len(text) if end < 0 else end
            yield position, end, REDACTED
            position = end


def _quoted_inputs(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while got := _GOT.search(text, position):
        if hides(got[1]):
            yield got.end(), len(text), REDACTED
            return
        position = got.end()


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the values that were found wrong, of fields that hold a secret."""
    if _INPUT in text:
        text = replaced(text, _inputs(text, hides))
    if " must " in text:
        text = replaced(text, _quoted_inputs(text, hides))
    return text
