"""Several statements in one round trip, by parts of psycopg that are not its public interface.

``connection.pipeline()`` sends each statement by itself, which wakes the server as often, and makes a cursor for each. What
psycopg has prepared stays its own business: it is asked, and told, as by its cursors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs
import psycopg
from psycopg import adapt, generators
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from provenance.drivers.connections import AnyConnection, transaction_status
from provenance.drivers.messages import MANNER, answers, error_in, in_one_message
from provenance.statements import Statement, apart, command, text


class _Numbered:
    """A statement whose parameters are numbered, as psycopg keeps account of those it has prepared."""

    __slots__ = ("query", "types")

    def __init__(self, text: str, count: int) -> None:
        self.query = text.encode()
        # The server knows best.
        self.types = (0,) * count


_numbered = lru_cache(_Numbered)


def _cache(connection: AnyConnection) -> PrepareManager:
    return connection._prepared  # pyright: ignore[reportPrivateUsage]


@attrs.define
class _Sent:
    """A statement on its way that may be kept by the server."""

    query: Any
    prepare: Prepare
    name: bytes


def _converted(connection: AnyConnection, statement: Statement[Any]) -> tuple[Any, Sequence[Any], Sequence[Any] | None]:
    """Return a query as psycopg knows it, its parameters as they are sent, and their formats."""
    if statement.numbered is not None:
        numbered: Any = statement.query
        values = [None if value is None else value.encode() for value in statement.numbered]
        return _numbered(numbered, len(values)), values, None
    query = PostgresQuery(adapt.Transformer(connection))
    query.convert(statement.query, statement.params)
    return query, query.params or (), query.formats


def _send(connection: AnyConnection, statement: Statement[Any]) -> _Sent:
    wire = connection.pgconn
    query, values, formats = _converted(connection, statement)
    prepare, name = _cache(connection).get(query, statement.prepare)
    if prepare is Prepare.NO:
        wire.send_query_params(query.query, values, param_types=query.types, param_formats=formats)
    else:
        if prepare is Prepare.SHOULD:
            wire.send_prepare(name, query.query, param_types=query.types)
        wire.send_query_prepared(name, values, param_formats=formats)
    return _Sent(query, prepare, name)


def _answers(connection: AnyConnection, expected: int) -> PQGen[list[PGresult]]:
    """Wait for what came of what is in the pipeline, and for its end."""
    results: list[PGresult] = []
    try:
        for _ in range(expected + 1):
            results += yield from generators.fetch_many(connection.pgconn)
    except psycopg.Error as lost:
        # Why the server hung up says more than that it did. Of some reasons psycopg has no class for lost connections.
        said = error_in(connection, results)
        raise said if isinstance(said, psycopg.OperationalError) else lost from said
    if (error := error_in(connection, results)) is not None:
        raise error
    return results


def _in_pipeline(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[PGresult]]:
    """Run statements by the extended protocol. There is one Sync and no Flush: PgBouncer 1.18 cannot do with more."""
    wire = connection.pgconn
    sent: list[_Sent | None] = []
    expected = len(statements)
    wire.enter_pipeline_mode()
    try:
        for statement in statements:
            if statement.params is None:
                # Transaction control and settings gain nothing from being prepared.
                wire.send_query_params(text(statement, connection), None)
                sent.append(None)
                continue
            sent.append(one := _send(connection, statement))
            if one.prepare is Prepare.SHOULD:
                expected += 1
        wire.pipeline_sync()
        yield from generators.send(wire)
        found = yield from _answers(connection, expected)
    except BaseException:
        # One that is lost is in no mode.
        if wire.status != ConnStatus.BAD:
            try:
                wire.exit_pipeline_mode()
            except psycopg.OperationalError:
                # Interrupted while answers are to come, which would be taken for those of what is asked next.
                wire.finish()
        raise
    wire.exit_pipeline_mode()
    results: list[PGresult] = []
    answered = iter(found)
    for each in sent:
        result = next(answered)
        if each is not None:
            if each.prepare is Prepare.SHOULD:
                # What it came to is the second one.
                result = next(answered)
            cache = _cache(connection)
            if (key := cache.maybe_add_to_cache(each.query, each.prepare, each.name)) is not None:
                cache.validate(key, each.prepare, each.name, [result])
        results.append(result)
    return results


def switch_autocommit(connection: AnyConnection, on: bool) -> None:
    """Do what the setter does, whose lock and wait cost more than the rest of lending a connection.

    Raises:
        psycopg.ProgrammingError: a transaction is open.
    """
    if transaction_status(connection) != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("autocommit cannot be switched in a transaction")
    connection._autocommit = on  # pyright: ignore[reportPrivateUsage]


def trip(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[Any]]:
    """Run statements, the later ones only if the earlier ones succeed; return the decoded answers.

    A generator for ``connection.wait()``, to be run with ``connection.lock``. The connection is not in pipeline mode.
    """
    owed = not connection._autocommit and transaction_status(connection) == TransactionStatus.IDLE  # pyright: ignore[reportPrivateUsage]
    if owed:
        # The BEGIN of psycopg's; it would send it by itself and wait.
        statements = (command(connection._get_tx_start_command()), *statements)  # pyright: ignore[reportPrivateUsage]
    plain = all([statement.params is None for statement in statements])  # noqa: C419 - a generator costs more
    together = plain and not MANNER.apart
    results = (
        yield from in_one_message(connection, statements) if together else _in_pipeline(connection, apart(statements))
    )
    rolled_back = b"ROLLBACK" in [result.command_status for result in results]
    cache = _cache(connection)
    if rolled_back:
        # As after every rollback of psycopg's: what was prepared may be about objects that never were.
        cache.clear()
    if rolled_back or not plain:
        yield from cache.maintain_gen(connection)
    found = answers(connection, statements, results)
    return found[1:] if owed else found
