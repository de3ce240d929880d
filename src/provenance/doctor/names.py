"""Names as the catalogue gives them: each part quoted where SQL needs it, so that it can go into a remedy as it is."""

from __future__ import annotations

import re

# Whoever may make a trigger may name it as he likes: a quoted name can hold anything.
_NAME = r'"(?:[^"]|"")*"|[^\s".]+'
_OF_TABLE = re.compile(rf"({_NAME})\.({_NAME})", re.DOTALL)
_ON_OBJECT = re.compile(rf"({_NAME}) on (.+)", re.DOTALL)


def divided(name: str) -> tuple[str, str]:
    """Return the table that a column, a trigger or the like is of, and its own name; ``""`` where it is not of a table."""
    found = _OF_TABLE.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


def granted(name: str) -> tuple[str, str]:
    """Return to whom something is granted, and on what."""
    found = _ON_OBJECT.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)
