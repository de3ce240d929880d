"""The one sentence that an error becomes, and the exit code that goes with it."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

import click
import psycopg

from provenance.cli.output import clean
from provenance.errors import (
    ArchiveError,
    Held,
    MigrationError,
    NotCaptured,
    ProvenanceError,
    SchemaNotReady,
    TableRefused,
    TrailUnavailable,
)

EXIT_CODES = """\b
Exit codes:
  0  done
  1  done, and something is wrong: differences, what the doctor found, a failed
     migration, an action that is not recorded, a view that could not be
     refreshed, an answer of no to a question
  2  wrong usage or configuration
  3  the database cannot be reached, or broke off; trying again may help
  4  the schema is missing or too old, or the role lacks a right

Errors are one sentence on standard error, with --json too.
"""


class Problem(click.ClickException):
    """Ends the command with a sentence; the subclass says with which exit code."""

    def __init__(self, sentence: str) -> None:
        super().__init__(clean(sentence))


class BadNews(Problem):
    """The command ran, and this is the answer."""

    exit_code = 1


class Misuse(Problem):
    """The command was called or set up wrongly. Click's own usage errors have the same code."""

    exit_code = 2


class DatabaseTrouble(Problem):
    """The database did not do its part."""

    exit_code = 3


class SchemaTrouble(Problem):
    """The database needs an operator."""

    exit_code = 4


# libpq's reasons, without the address: of a malformed one, any part may be a piece of the password.
_REASON = re.compile(r"connection to server .* failed: (?:FATAL: +)?(.+)")


def _reason(error: psycopg.Error) -> str:
    if error.diag.message_primary is not None:
        return error.diag.message_primary
    if found := _REASON.search(str(error)):
        return found[1]
    return "its host name is not known" if "resolve host" in str(error) else type(error).__name__


def _problem(error: ProvenanceError | psycopg.Error) -> Problem:
    match error:
        case SchemaNotReady():
            return SchemaTrouble(str(error))
        case MigrationError(__cause__=psycopg.errors.InsufficientPrivilege()):
            return SchemaTrouble(str(error))
        case MigrationError() | TableRefused() | NotCaptured() | ArchiveError() | Held():
            return BadNews(str(error))
        case TrailUnavailable():
            return DatabaseTrouble(str(error))
        case ProvenanceError():
            return Misuse(str(error))
        case (
            psycopg.errors.InvalidSchemaName()
            | psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedColumn()
            | psycopg.errors.UndefinedFunction()
        ):
            return SchemaTrouble(
                "the provenance schema is missing in this database, or too old; run `provenance migrate up`"
            )
        case psycopg.errors.InsufficientPrivilege():
            return SchemaTrouble(f"the database refused: {_reason(error)}; connect as a role that has this right")
        case _:
            return DatabaseTrouble(f"the database cannot be reached, or broke off: {_reason(error)}")


@contextmanager
def translated() -> Generator[None]:
    """Turn what the library and the database raise into a :class:`Problem`; anything else is a bug, and shows as one."""
    try:
        yield
    except (ProvenanceError, psycopg.Error) as error:
        raise _problem(error) from error
