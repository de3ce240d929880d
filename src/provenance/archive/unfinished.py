"""What keeps a month from leaving: something of it may still be recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from uuid import UUID

from provenance import drivers, ids
from provenance.archive.files import Month
from provenance.archive.steps import MonthStays, moments
from provenance.errors import ArchiveError
from provenance.journal.spool import Damaged, Spool
from provenance.statements import Rows, Statement


def _count(rows: Rows) -> int:
    return int(rows[0][0])


def refuse_begun(connection: drivers.SyncConnection, month: Month) -> None:
    """Refuse a month of which actions have no outcome.

    Raises:
        MonthStays: it is such a month.
    """
    first, last = moments(month)
    begun = drivers.run(
        connection,
        Statement(
            """SELECT count(*) FROM provenance.action_intents i
                WHERE i.id >= provenance.uuid_floor(%(first)s) AND i.id < provenance.uuid_floor(%(last)s)""",
            {"first": first, "last": last},
            _count,
        ),
    )
    if begun:
        raise MonthStays(
            f"{begun} action(s) that were begun in {month.first:%Y-%m} have no recorded outcome; run `provenance recover`, "
            "and end with trail.complete() or trail.fail() what `provenance log --status unknown` lists"
        )


def refuse_spooled(month: Month, spools: Iterable[Path]) -> None:
    """Refuse a month of which rows wait in a spool.

    Raises:
        MonthStays: it is such a month.
        ArchiveError: a file of a spool is damaged.
    """
    first, last = moments(month)
    for spool in spools:
        if waiting := sum(first <= at < last for at in _spooled(spool)):
            raise MonthStays(
                f"{waiting} row(s) of {month.first:%Y-%m} wait in the spool {spool}; run `provenance recover --spool "
                f"{spool}`"
            )


def _spooled(spool: Path) -> Iterator[datetime]:
    """Yield when the actions were begun whose rows wait in a spool."""
    for path in (*spool.glob("*.rows"), *spool.glob("*.rows.begun")):
        try:
            entry = Spool.read(path)
        except Damaged as error:
            raise ArchiveError(
                f"{path} cannot be read ({error}); nobody knows of which months it holds rows"
            ) from error
        for row in entry.rows if entry is not None else ():
            if (begun := ids.moment_of(UUID(json.loads(row)["id"]))) is not None:
                yield begun
