"""SQL text, parameters and row decoder side by side; no I/O.

A statement is a value: it can be tested without a database, and run by either colour of driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, LiteralString, TypeVar

import attrs
from psycopg import sql
from psycopg.abc import AdaptContext

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


@attrs.frozen
class Statement(Generic[T_co]):
    """A query, its parameters, and what its rows mean."""

    query: LiteralString | bytes | sql.Composed
    params: Mapping[str, object] | None
    decode: Callable[[Rows], T_co]
    prepare: bool | None = None
    """Whether the server shall keep it for the next time; ``None`` leaves that to psycopg."""
    numbered: tuple[str | None, ...] | None = None
    """Texts in ASCII for ``$1``, ``$2`` and so on, which need nothing done to them; ``params`` are empty then."""
    commands: int = 1
    """How many there are in the query; of more than one, none has an answer, and there are no parameters."""


def text(statement: Statement[Any], context: AdaptContext) -> bytes:
    """Return the SQL of a statement as it is sent."""
    query = statement.query
    if isinstance(query, bytes):
        return query
    return query.as_bytes(context) if isinstance(query, sql.Composed) else query.encode()


def command(query: LiteralString | bytes | sql.Composed) -> Statement[None]:
    """Return a statement without parameters and without an answer: transaction control, settings."""
    return Statement(query.encode() if isinstance(query, str) else query, None, nothing)
