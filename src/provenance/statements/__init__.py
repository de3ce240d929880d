"""SQL text, parameters and row decoder side by side; no I/O.

A statement is a value: it can be tested without a database, and run by either colour of driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, LiteralString, TypeVar

import attrs
from psycopg import sql
from psycopg.abc import AdaptContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Row = tuple[Any, ...]
Rows = Sequence[Row]


def nothing(rows: Rows) -> None:
    """Decode the answer of a statement that has none."""


def truth(rows: Rows) -> bool:
    """Decode the answer to a question of yes or no."""
    return bool(rows[0][0])


def as_they_are(rows: Rows) -> list[Row]:
    """Decode rows that whoever asks takes apart itself."""
    return list(rows)


@attrs.define
class Statement(Generic[T_co]):
    """A query, its parameters, and what its rows mean.

    Never changed. It is not frozen, for setting a field of a frozen instance is a call of its own.
    """

    query: LiteralString | bytes | sql.Composed
    params: Mapping[str, object] | None
    decode: Callable[[Rows], T_co]
    prepare: bool | None = None
    """Whether the server shall keep it for the next time; ``None`` leaves that to psycopg."""
    numbered: tuple[str | None, ...] | None = None
    """Texts in ASCII for ``$1``, ``$2`` and so on, which need nothing done to them; ``params`` are empty then."""
    commands: tuple[str, ...] = ()
    """Several commands instead of a query: without parameters, and none has an answer."""


def text(statement: Statement[Any], context: AdaptContext) -> bytes:
    """Return the SQL of a statement as it is sent."""
    if statement.commands:
        return "; ".join(statement.commands).encode()
    query = statement.query
    if isinstance(query, str):
        return query.encode()
    return query if isinstance(query, bytes) else query.as_bytes(context)


def command(query: LiteralString | bytes | sql.Composed) -> Statement[None]:
    """Return a statement without parameters and without an answer: transaction control, settings."""
    return Statement(query.encode() if isinstance(query, str) else query, None, nothing)


def commands(*texts: str) -> Statement[None]:
    """Return several such in one, in ASCII: each by itself takes the client several times as long."""
    return Statement(b"", None, nothing, commands=texts)


def apart(statements: Sequence[Statement[Any]]) -> list[Statement[Any]]:
    """Return statements of one command each, for where several cannot be sent as one."""
    return [
        each
        for statement in statements
        for each in (map(command, map(str.encode, statement.commands)) if statement.commands else (statement,))
    ]


def decoded(statements: Sequence[Statement[Any]], results: Sequence[T], rows: Callable[[T], Rows]) -> list[Any]:
    """Return the answers of statements, given one result for each that :func:`apart` returns, and how to get its rows."""
    found: list[Any] = []
    position = -1
    for statement in statements:
        position += len(statement.commands) or 1
        # Most have no answer.
        found.append(None if statement.decode is nothing else statement.decode(rows(results[position])))
    return found
