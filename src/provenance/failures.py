"""What is stored about an exception: its type, its SQLSTATE, and a message that quotes no row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import attrs
import psycopg

from provenance.errors import InvalidAction
from provenance.values import Redactor, message

# How many exceptions of a chain or group are looked at.
_BREADTH = 32
# Data exceptions (class 22) and syntax errors (42601, also raised by to_tsquery) quote the offending value, in the
# quotation marks of the server's language: invalid input syntax for type integer: "…".
_QUOTING = ("22", "42601")
_QUOTED = re.compile("[\"'\xab\xbb\u2018-\u201f\u300c].*[\"'\xab\xbb\u2018-\u201f\u300d]", re.DOTALL)
# Where the text of a database error, as psycopg or SQLAlchemy print it, begins to quote rows, parameters and SQL.
_ROW = re.compile(
    r"(?<!\s)\s*(?:DETAIL:|CONTEXT:|QUERY:|LINE \d+:|Failing row contains|Key \([^)]*\)=|\[SQL:|\[parameters:).*",
    re.DOTALL,
)


@attrs.frozen(kw_only=True)
class Failure:
    """The three columns a failed action has beyond a completed one."""

    error_type: str | None
    error_code: str | None
    error_message: str | None


def _qualified_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _wrapped(error: BaseException) -> BaseException | None:
    """Return the driver's error that SQLAlchemy keeps in its own."""
    try:
        wrapped = getattr(error, "orig", None)
    except Exception:  # noqa: BLE001 - a hostile property must not replace the error that is being recorded
        return None
    return wrapped if isinstance(wrapped, BaseException) else None


def _related(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all it was raised from, wraps or groups, nearest first."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _BREADTH:
        current = waiting.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [_wrapped(current), current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", current).exceptions


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a hostile __str__ must not replace the error that is being recorded
        return ""


def _primary(error: psycopg.Error) -> str:
    """Return the server's one-line message; the full text would quote the row ("Failing row contains …")."""
    primary = error.diag.message_primary
    if primary is None:
        # Raised by psycopg itself, which quotes the value it cannot convert.
        return "a value could not be converted" if isinstance(error, psycopg.DataError) else _text(error)
    if (error.sqlstate or "").startswith(_QUOTING):
        return _QUOTED.sub('"…"', primary)
    return primary


def stated(reason: str | BaseException, redactor: Redactor) -> Failure:
    """Return what to store of the reason that somebody gives for a failure; *redactor* decides what is hidden in it.

    Raises:
        InvalidAction: it is neither text nor an exception.
    """
    if isinstance(reason, BaseException):
        return describe(reason, redactor)
    if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidAction(f"the reason of a failure: expected text or an exception, got {type(reason).__name__}")
    return Failure(error_type=None, error_code=None, error_message=message(reason, redact=redactor.redact))


def describe(error: BaseException, redactor: Redactor) -> Failure:
    """Return what to store about *error*; *redactor* decides what is hidden in its message.

    Never raises, whatever the error's own code does; Ctrl-C apart.
    """
    try:
        return _described(error, redactor)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a property or __str__ that exits must not replace the error that is recorded
        return Failure(error_type=_qualified_name(error), error_code=None, error_message="")


def _described(error: BaseException, redactor: Redactor) -> Failure:
    wrapped = _wrapped(error)
    # SQLAlchemy's own text goes on with the SQL and its parameters.
    text = _primary(wrapped) if isinstance(wrapped, psycopg.Error) else _text(error)
    code: str | None = None
    for related in _related(error):
        if isinstance(related, psycopg.Error):
            code = code or related.sqlstate
            text = _without_row(text, related)
    text = message(_ROW.sub(" …", text), redact=redactor.redact)
    return Failure(error_type=_qualified_name(error), error_code=code, error_message=text)


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
