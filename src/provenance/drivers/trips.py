"""Several statements in one round trip, by parts of psycopg that are not its public interface.

``connection.pipeline()`` sends each statement by itself, which wakes the server as often, and makes a cursor for each. What
psycopg has prepared stays its own business: it is asked, and told, as by its cursors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg import adapt, generators
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery
from psycopg.abc import PQGen, Transformer
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from provenance.drivers.connections import AnyConnection, transaction_status
from provenance.drivers.messages import answers, check, error_in, in_one_message
from provenance.statements import Statement, command, text


@attrs.frozen
class _Sent:
    """A statement on its way."""

    query: PostgresQuery | None
    prepare: Prepare = Prepare.NO
    name: bytes = b""

    @property
    def results(self) -> int:
        """How many answers it has; what it came to is the last of them."""
        return 2 if self.prepare is Prepare.SHOULD else 1


def _cache(connection: AnyConnection) -> PrepareManager:
    return connection._prepared  # pyright: ignore[reportPrivateUsage]


def _send(connection: AnyConnection, statement: Statement[Any], transformer: Transformer) -> _Sent:
    wire, cache = connection.pgconn, _cache(connection)
    if statement.params is None:
        # Transaction control and settings gain nothing from being prepared.
        wire.send_query_params(text(statement, transformer), None)
        return _Sent(None)
    query = PostgresQuery(transformer)
    query.convert(statement.query, statement.params)
    prepare, name = cache.get(query, statement.prepare)
    if prepare is Prepare.NO:
        wire.send_query_params(query.query, query.params, param_types=query.types, param_formats=query.formats)
    else:
        if prepare is Prepare.SHOULD:
            wire.send_prepare(name, query.query, param_types=query.types)
        wire.send_query_prepared(name, query.params, param_formats=query.formats)
    return _Sent(query, prepare, name)


def _answers(connection: AnyConnection, sent: Sequence[_Sent]) -> PQGen[list[PGresult]]:
    """Wait for what the statements in the pipeline came to."""
    results: list[PGresult] = []
    try:
        for _ in range(sum(statement.results for statement in sent) + 1):
            results += yield from generators.fetch_many(connection.pgconn)
    except psycopg.Error as lost:
        # Why the server hung up says more than that it did. Of some reasons psycopg has no class for lost connections.
        said = error_in(connection, results)
        raise said if isinstance(said, psycopg.OperationalError) else lost from said
    check(connection, results)
    return results


def _end_pipeline(wire: PGconn) -> None:
    # One that is lost is in no mode.
    if wire.status != ConnStatus.BAD:
        wire.exit_pipeline_mode()


def _in_pipeline(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[PGresult]]:
    """Run statements by the extended protocol. There is one Sync and no Flush: PgBouncer 1.18 cannot do with more."""
    wire, cache, transformer = connection.pgconn, _cache(connection), adapt.Transformer(connection)
    wire.enter_pipeline_mode()
    try:
        sent = [_send(connection, statement, transformer) for statement in statements]
        wire.pipeline_sync()
        yield from generators.send(wire)
        found = iter((yield from _answers(connection, sent)))
    finally:
        _end_pipeline(wire)
    results = [[next(found) for _ in range(statement.results)][-1] for statement in sent]
    for statement, result in zip(sent, results, strict=True):
        if statement.query is not None:
            key = cache.maybe_add_to_cache(statement.query, statement.prepare, statement.name)
            if key is not None:
                cache.validate(key, statement.prepare, statement.name, [result])
    return results


def switch_autocommit(connection: AnyConnection, on: bool) -> None:
    """Do what the setter does, whose lock and wait cost more than the rest of lending a connection.

    Raises:
        psycopg.ProgrammingError: a transaction is open.
    """
    if transaction_status(connection) != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("autocommit cannot be switched in a transaction")
    connection._autocommit = on  # pyright: ignore[reportPrivateUsage]


def _begin(connection: AnyConnection) -> tuple[Statement[None], ...]:
    """Return the BEGIN that psycopg owes the server, if it does; it would send it by itself and wait."""
    if connection.autocommit or transaction_status(connection) != TransactionStatus.IDLE:
        return ()
    return (command(connection._get_tx_start_command()),)  # pyright: ignore[reportPrivateUsage]


def trip(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[Any]]:
    """Run statements, the later ones only if the earlier ones succeed; return the decoded answers.

    A generator for ``connection.wait()``, to be run with ``connection.lock``. The connection is not in pipeline mode.
    """
    begin = _begin(connection)
    statements = (*begin, *statements)
    plain = all(statement.params is None for statement in statements)
    results = yield from (in_one_message if plain else _in_pipeline)(connection, statements)
    rolled_back = b"ROLLBACK" in [result.command_status for result in results]
    cache = _cache(connection)
    if rolled_back:
        # As after every rollback of psycopg's: what was prepared may be about objects that never were.
        cache.clear()
    if rolled_back or not plain:
        yield from cache.maintain_gen(connection)
    return answers(connection, statements, results)[len(begin) :]
