"""What happens in the process of a variant: accounts are updated, and it is seen that this was recorded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import LiteralString
from uuid import UUID

import attrs
import psycopg

from benchmarks.server import logged
from provenance import ids, schema

USER_ID = 1

_ROWS = 10_000
_BALANCE = 100

Write = Callable[[int, UUID], None]
"""Updates the account with an id, for a request."""


@attrs.frozen
class Variant:
    """A way to update an account through an ORM."""

    set_up: Callable[[str], Write]
    """Prepares a process for it, and an empty database. It is named to the process, and so is a function of a module."""
    needs: Sequence[str]
    """The distributions that have to be installed for it."""
    recorded: LiteralString | None = None
    """A query for the number of requests of which the user and the row are recorded."""


@attrs.frozen
class Sample:
    """What a transaction took, on average."""

    microseconds: float
    logged: float
    """Bytes of write-ahead log."""


def fill(address: str) -> None:
    """Put the accounts into their table, which the ORM has made."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("ALTER TABLE accounts SET (fillfactor = 70)")
        # What has been there from the beginning is nobody's change: triggers do not see it.
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO accounts (id, owner, balance) SELECT i, 'owner ' || i, %s FROM generate_series(1, %s) AS i",
            (_BALANCE, _ROWS),
        )
        connection.execute("VACUUM ANALYZE accounts")


def add_provenance(address: str, *, captured: bool = False) -> None:
    """Make the trail in the database of the accounts."""
    with psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection)
        if captured:
            connection.execute("SELECT provenance.capture_table('accounts')")


ACTIONS: LiteralString = """
SELECT count(DISTINCT request_id) FROM provenance.actions
 WHERE status = 'completed' AND user_id = '1' AND entity_type = 'account' AND entity_id IS NOT NULL"""
CHANGES: LiteralString = """
SELECT count(DISTINCT a.request_id) FROM provenance.actions a JOIN provenance.row_changes c ON c.action_id = a.id
 WHERE a.status = 'completed' AND a.user_id = '1' AND c.operation = 'update' AND c.row_key = a.entity_id"""


class Bench:
    """One variant in its database."""

    def __init__(self, variant: Variant, address: str) -> None:
        self._recorded: LiteralString | None = variant.recorded
        self._write = variant.set_up(address)
        self._observer = psycopg.connect(address, autocommit=True)
        self._done = 0

    def sample(self, times: int) -> Sample:
        """Update random accounts so many times, each in a request of its own."""
        rows = random.choices(range(1, _ROWS + 1), k=times)  # noqa: S311 - nothing to guess here
        work = [(row, ids.new_id()) for row in rows]
        before = logged(self._observer)
        begun = perf_counter_ns()
        for row, request_id in work:
            self._write(row, request_id)
        taken = perf_counter_ns() - begun
        written = logged(self._observer) - before
        self._done += times
        return Sample(taken / 1_000 / times, written / times)

    def check(self) -> None:
        """See that all was done, and recorded: what does nothing is fast."""
        written = self._asked("SELECT sum(balance) FROM accounts") - _ROWS * _BALANCE
        if written != self._done:
            raise RuntimeError(f"{self._done} transactions added {written} to the accounts")
        if self._recorded is not None and (recorded := self._asked(self._recorded)) != self._done:
            raise RuntimeError(f"of {self._done} transactions {recorded} are recorded with their request, user and row")

    def _asked(self, query: LiteralString) -> int:
        ((found,),) = self._observer.execute(query).fetchall()
        return int(found)
