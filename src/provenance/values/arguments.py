"""Flags of command lines inside texts, also as the lists in which they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provenance.values.ends import Hides, Span, hidden_value, replaced
from provenance.values.texts import REDACTED

# The value follows on the same line or the next one, or as the next item of a list.
_FLAG = re.compile(
    r"""(?<![^\s"'`])--([A-Za-z][\w-]*+)(?:
    (?:[ \t]++(?:\\?\r?\n[ \t]*+)?|\\?\r?\n[ \t]*+)(?![-\s]|\\{0,9}["'`]--[A-Za-z])
    | \\{0,9}["'`](?:,\s*+|[ \t]++)(?=[bBrRuU]{0,2}\\{0,9}["'`](?!-)))""",
    re.VERBOSE,
)
# curl -u user:password. Two numbers are ids of a user and a group, in a line about a container.
_USER = re.compile(
    r"""(?<![^\s"'`])(?P<head>(?:-[uU]|--user|--proxy-user)(?:[ \t]++|=|\\{0,9}["'`],\s*+)
    (?P<quote>\\{0,9}["'`])?(?![0-9]++:[0-9]++(?![^\s"'`]))[^\s:"'`\\]{1,100}+:)
    (?(quote)(?:(?!(?P=quote)).)++|[^\s"'`]++)""",
    re.VERBOSE | re.DOTALL,
)
_USER_FLAGS = frozenset({"-u", "-U", "--user", "--proxy-user"})


def is_secret(flag: str, hides: Hides) -> bool:
    """Return whether the value of a flag, written without its dashes, is a secret; the path of a file is none."""
    return hides(flag) and not flag.endswith("-file")


def next_item(flag: str, value: object, command: str, hides: Hides) -> object:
    """Return what is stored of *value*, the argument of *command* that follows *flag*."""
    text = value if type(value) is str else ""
    if text.startswith("-"):
        return value
    user, colon, _ = text.partition(":")
    if colon and flag in _USER_FLAGS and command.endswith("curl"):
        return f"{user}:{REDACTED}"
    return REDACTED if flag.startswith("--") and is_secret(flag[2:], hides) else value


def _flags(text: str, hides: Hides) -> Iterator[Span]:
    position = 0
    while flag := _FLAG.search(text, position):
        position = flag.end()
        if is_secret(flag[1], hides):
            end, replacement = hidden_value(text, position, flag[1])
            yield position, end, replacement
            position = end


def hidden(text: str, hides: Hides) -> str:
    """Return *text* without the secrets that are arguments of a command."""
    if "--" in text:
        text = replaced(text, _flags(text, hides))
    return _USER.sub(rf"\g<head>{REDACTED}", text) if "curl" in text else text
