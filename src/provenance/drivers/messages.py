"""Several statements without parameters in one message of the simple protocol, by what is public of psycopg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg import adapt, errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from provenance.drivers.connections import AnyConnection
from provenance.statements import Row, Statement, apart, decoded, text


@attrs.define
class _Manner:
    """How this process sends several statements."""

    apart: bool = False


MANNER = _Manner()


def send_apart() -> None:
    """Have every statement be a message of its own from now on.

    Citus passes SET LOCAL on to its workers as the text of the whole message that it came in: a SAVEPOINT or RELEASE that
    is in there too would be done there once more than here. A process that has a trail on Citus talks so to all servers.
    """
    MANNER.apart = True


def error_in(connection: AnyConnection, results: Sequence[PGresult]) -> psycopg.Error | None:
    """Return the error among results, if one is there."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            return errors.error_from_result(result, encoding=connection.info.encoding)
    return None


def answers(connection: AnyConnection, statements: Sequence[Statement[Any]], results: Sequence[PGresult]) -> list[Any]:
    """Return the decoded answers of statements."""

    def rows(result: PGresult) -> list[Row]:
        if result.status != ExecStatus.TUPLES_OK:
            return []
        transformer = adapt.Transformer(connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    return decoded(statements, results, rows)


def in_one_message(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[PGresult]]:
    """Run statements, the later ones only if the earlier ones succeed."""
    wire = connection.pgconn
    wire.send_query(b"; ".join([text(statement, connection) for statement in statements]))
    results: list[PGresult] = yield from generators.execute(wire)
    if (error := error_in(connection, results)) is not None:
        raise error
    return results


def message(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[Any]]:
    """Run statements that do not end a transaction, in one message unless they are sent apart; return the decoded answers.

    A generator for ``connection.wait()``, to be run with ``connection.lock``.
    """
    results: list[PGresult] = []
    for together in [[one] for one in apart(statements)] if MANNER.apart else [statements]:
        results += yield from in_one_message(connection, together)
    return answers(connection, statements, results)
