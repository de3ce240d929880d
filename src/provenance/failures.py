"""What is stored about an exception: its type, its SQLSTATE, and a message that quotes no row."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import psycopg

from provenance.values import message

# How far down the chain of causes a database error is looked for.
_DEPTH = 8
# Class 22 (data exception) quotes the offending value between double quotes: invalid input syntax for type integer: "…".
_QUOTED = re.compile(r'".*"', re.DOTALL)


@attrs.frozen(kw_only=True)
class Failure:
    """The three columns a failed action has beyond a completed one."""

    error_type: str | None
    error_code: str | None
    error_message: str | None


def _qualified_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from or wraps, nearest first."""
    current: BaseException | None = error
    for _ in range(_DEPTH):
        if current is None:
            return
        yield current
        # SQLAlchemy keeps the driver's error in .orig; Django and most others chain it.
        wrapped = getattr(current, "orig", None)
        current = wrapped if isinstance(wrapped, BaseException) else current.__cause__ or current.__context__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a hostile __str__ must not replace the error that is being recorded
        return ""


def _primary(error: psycopg.Error) -> str:
    """Return the server's one-line message; the full text would quote the row ("Failing row contains …")."""
    primary = error.diag.message_primary
    if primary is None:
        return _text(error)
    if (error.sqlstate or "").startswith("22"):
        return _QUOTED.sub('"…"', primary)
    return primary


def describe(error: BaseException) -> Failure:
    """Return what to store about *error*. Never raises."""
    text = _text(error)
    wrapped = getattr(error, "orig", None)
    if isinstance(wrapped, psycopg.Error):
        # SQLAlchemy's own text goes on with the SQL and its parameters.
        text = _primary(wrapped)
    code: str | None = None
    for link in _chain(error):
        if isinstance(link, psycopg.Error):
            code = code or link.sqlstate
            text = _without_row(text, link)
    return Failure(error_type=_qualified_name(error), error_code=code, error_message=message(text))


def _without_row(text: str, error: psycopg.Error) -> str:
    """Return *text* with everything the server said about *error* cut down to its harmless part."""
    diag = error.diag
    text = text.replace(_text(error), _primary(error)) if _text(error) else text
    for quoted in (diag.message_detail, diag.context, diag.internal_query):
        if quoted:
            text = text.replace(quoted, "…")
    if diag.message_primary:
        text = text.replace(diag.message_primary, _primary(error))
    return text
