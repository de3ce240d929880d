"""Arguments that are more than text, and the options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from provenance.errors import InvalidRequestID
from provenance.ids import floor_id, parse_request_id
from provenance.models import EntityRef
from provenance.statements.partitions import FURTHEST, MONTHS_AHEAD
from provenance.statements.reading import MAX_LIMIT

Command = TypeVar("Command", bound=Callable[..., Any])

_AGE = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """Return the time that *text* names: ISO 8601, in UTC unless it has an offset, or an age such as ``15m``."""
    try:
        if match := _AGE.fullmatch(text):
            at = datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        floor_id(at)  # refuses a time that no id can be compared with
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            "expected a time after 1970 such as 2026-01-31T12:00Z, or an age such as 15m, 2h or 7d."
        ) from error
    return at


def entity_ref(text: str) -> EntityRef:
    """Return the entity that ``TYPE:ID`` names; the id may contain colons."""
    kind, _, entity_id = text.partition(":")
    if not kind or not entity_id:
        raise click.BadParameter("expected TYPE:ID, such as publisher_zman:7.")
    return EntityRef(type=kind, id=entity_id)


def month_of(text: str) -> date:
    """Return the first day of the month that ``YYYY-MM`` names."""
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise click.BadParameter("expected a month such as 2026-01.") from error


def request_key(text: str) -> UUID:
    """Return the request id, out of any form in which requests may bring it."""
    try:
        return parse_request_id(text)
    except InvalidRequestID as error:
        raise click.BadParameter(f"{error}.") from error


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def limit_option(what: str) -> Callable[[Command], Command]:
    """Return what adds ``--limit``, of so many of *what*."""
    return click.option(
        "--limit",
        type=click.IntRange(1, MAX_LIMIT),
        default=50,
        show_default=True,
        metavar="N",
        help=f"How many {what} at most; up to {MAX_LIMIT}.",
    )


def page_options(command: Command) -> Command:
    """Add ``--limit`` and ``--before``."""
    command = click.option(
        "--before", type=click.UUID, metavar="ID", help="Go on where a page ended, with the id it named."
    )(command)
    return limit_option("actions")(command)


def ahead_option(command: Command) -> Command:
    """Add ``--ahead``."""
    return click.option(
        "--ahead",
        type=click.IntRange(0, FURTHEST),
        default=MONTHS_AHEAD,
        show_default=True,
        metavar="MONTHS",
        help="For how many months beyond this one there shall be partitions.",
    )(command)


def destination_option(command: Command) -> Command:
    """Add ``--to``."""
    return click.option(
        "--to",
        "root",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="The directory of the archive, for what goes to one.",
    )(command)


def hold_option(command: Command) -> Command:
    """Add ``--hold``."""
    return click.option(
        "--hold",
        type=click.FloatRange(0.1, 60),
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        help="For how long a table may be locked at a time.",
    )(command)


def spool_option(command: Command) -> Command:
    """Add ``--spool``."""
    return click.option(
        "--spool",
        "spools",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        multiple=True,
        metavar="DIR",
        help="Let no month leave of which a row waits here.",
    )(command)


def archive_option(command: Command) -> Command:
    """Add ``--archive``."""
    return click.option(
        "--archive",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        metavar="DIR",
        help="Look into this archive instead of the database.",
    )(command)
