"""Says in terms of the trail what the driver or the server refused: the one place where their errors are translated."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict

from provenance.errors import AS_OWNER, ActionNotPending, NotConfigured, SchemaNotReady, TableRefused, TrailUnavailable

# What SQL reads as the name that it is, words of the language apart.
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def not_pending(action_id: UUID | None) -> ActionNotPending:
    """Return what to raise when an action is not waiting for an outcome."""
    return ActionNotPending(
        f"action {action_id} is not pending: it was never begun here, or it already has an outcome; "
        "look it up with trail.actions.get()"
    )


def unavailable(error: Exception, what: str) -> TrailUnavailable:
    """Return what to raise when there is no connection for *what*."""
    return TrailUnavailable(
        f"no database connection for {what} ({type(error).__name__}: {error}); nothing has been done yet; check that the "
        "pool is open and large enough, and that the database is up: the logger psycopg.pool says why none is to be had"
    )


def unreachable(error: psycopg.Error) -> bool:
    """Return whether the server is gone, going or full, rather than there and of another mind."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "53"))


def sentence(error: psycopg.Error) -> str:
    """Return what the server said and what it advised, as one sentence."""
    said = error.diag.message_primary or type(error).__name__
    advice = (error.diag.message_hint or "").rstrip(".")
    return f"{said}; {advice[:1].lower()}{advice[1:]}" if advice else said


def _quoted(name: str) -> str:
    """Return a name with those of its parts in double quotes that need them, as far as that can be guessed."""
    return ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in name.split("."))


def misnamed(kind: str, name: str) -> str:
    """Return what is wrong with a text that Postgres does not read as the name of a table or view."""
    if not name.strip():
        return f"expected the name of a {kind}, got an empty text"
    meant = f'"My {kind.capitalize()}"' if '"' in name else _quoted(name)
    return f"{name} is no name in SQL; write a part with spaces, capitals or signs in double quotes, as in '{meant}'"


def _missing(kind: str, name: str) -> str:
    """Return what to say of a name that no table or view has."""
    said = f"there is no {kind} {name}; write its name with its schema, unless that is in the search path"
    if '"' in name or name == name.lower():
        return said
    return f"{said}, and with capitals in double quotes, as in '{_quoted(name)}'"


@contextmanager
def named(kind: str, name: str) -> Generator[None]:
    """Say of the name of a table or view that it is none, or that there is none of that name.

    Raises:
        TableRefused: it is so.
    """
    try:
        yield
    except psycopg.errors.InvalidName as error:
        raise TableRefused(misnamed(kind, name)) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise TableRefused(_missing(kind, name)) from error


def address_parts(address: str) -> dict[str, Any]:
    """Return what a conninfo string or URL consists of.

    Raises:
        NotConfigured: it is malformed.
    """
    try:
        return conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        # libpq's own message quotes the malformed part, which may be a piece of the password; hence `from None`.
        raise NotConfigured(
            "the database address is malformed; expected postgresql://user@host/database, or host=... dbname=..."
        ) from None


@contextmanager
def translated(
    what: str, action_id: UUID | None = None, *, rights: Literal["writer", "reader", "maintainer", "owner"] = "writer"
) -> Generator[None]:
    """Translate what a statement of ours outside any block of the caller's may raise.

    Args:
        what: what needs the statement.
        action_id: the action that it is about.
        rights: whose rights *what* needs.

    Raises:
        ActionNotPending: *action_id* was never begun, or already has an outcome.
        SchemaNotReady: the schema is missing, or the role lacks a right.
        TrailUnavailable: there is no connection, or it broke.
    """
    try:
        yield
    except (psycopg.errors.NoDataFound, psycopg.errors.UniqueViolation) as error:
        raise not_pending(action_id) from error
    except psycopg.errors.InsufficientPrivilege as error:
        remedy = (
            AS_OWNER
            if rights == "owner"
            else f"connect as another role, or have the owner of the schema run `provenance migrate grant --{rights} ROLE`"
        )
        raise SchemaNotReady(
            f"this database role lacks a right that {what} needs ({error.diag.message_primary}); {remedy}"
        ) from error
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise SchemaNotReady(
            "the provenance schema is missing in this database, or too old; run `provenance migrate up`"
        ) from error
    except psycopg.OperationalError as error:
        if not unreachable(error):
            raise
        raise unavailable(error, what) from error
