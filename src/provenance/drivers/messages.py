"""Several statements without parameters in one message of the simple protocol, by what is public of psycopg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import adapt, errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from provenance.drivers.connections import AnyConnection
from provenance.statements import Row, Statement, text


def error_in(connection: AnyConnection, results: Sequence[PGresult]) -> psycopg.Error | None:
    """Return the error among results, if one is there."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            return errors.error_from_result(result, encoding=connection.info.encoding)
    return None


def check(connection: AnyConnection, results: Sequence[PGresult]) -> None:
    """Raise the error among results, if one is there."""
    if (error := error_in(connection, results)) is not None:
        raise error


def answers(connection: AnyConnection, statements: Sequence[Statement[Any]], results: Sequence[PGresult]) -> list[Any]:
    """Return the decoded answers of statements."""
    found: list[Any] = []
    for statement, result in zip(statements, results, strict=True):
        rows: list[Row] = []
        if result.status == ExecStatus.TUPLES_OK:
            transformer = adapt.Transformer(connection)
            transformer.set_pgresult(result)
            rows = transformer.load_rows(0, result.ntuples, tuple)
        found.append(statement.decode(rows))
    return found


def in_one_message(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[PGresult]]:
    """Run statements, the later ones only if the earlier ones succeed."""
    connection.pgconn.send_query(b"; ".join([text(statement, connection) for statement in statements]))
    results: list[PGresult] = yield from generators.execute(connection.pgconn)
    check(connection, results)
    return results


def message(connection: AnyConnection, statements: Sequence[Statement[Any]]) -> PQGen[list[Any]]:
    """Run statements that do not end a transaction; return the decoded answers.

    A generator for ``connection.wait()``, to be run with ``connection.lock``.
    """
    results = yield from in_one_message(connection, statements)
    return answers(connection, statements, results)
