"""The workload of ingest: rows that the journal kept in an outage, written to the trail afterwards."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import attrs
import psycopg
from psycopg import sql

from benchmarks import population
from benchmarks.measuring import Comparison, Result, Times, interleaved
from benchmarks.writes import PAYLOAD
from provenance import ids, schema
from provenance.journal import Journal, Spool
from provenance.journal.spool import Kind
from provenance.statements.recording import ActionRow, row_json

_MOST_ROWS = 10_000
_PER_FILE = 100
_MOST_ROUNDS = 10
"""A sample takes long, and so few of them tell enough."""

_COPY, _REPLAYED = "COPY", "replayed"

# The other fields are about how a row gets into the table.
_COLUMNS = [field.name for field in attrs.fields(ActionRow) if field.name not in ("ordinal", "fence", "intended")]
_COPY_IN = sql.SQL("COPY provenance.actions ({}) FROM STDIN").format(sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))


def run(rounds: int, actions: int) -> list[Result]:
    """Measure on an empty trail, and on one of so many actions."""
    with population.server() as address:
        with psycopg.connect(address, autocommit=True) as connection:
            schema.up(connection)
        empty = _compared("an empty trail", address, rounds, actions)
        with population.database(address, actions) as made:
            return [empty, _compared(f"a trail of {actions:,} actions", made, rounds, actions)]


def _compared(where: str, address: str, rounds: int, actions: int) -> Comparison:
    with psycopg.connect(address, autocommit=True) as connection, TemporaryDirectory() as directory:
        spool = Spool(directory)
        with closing(Journal(address, spool=spool)) as journal:
            bench = _Bench(connection, journal, spool, actions)
            samples = interleaved({_COPY: bench.copied, _REPLAYED: bench.replayed}, rounds=min(rounds, _MOST_ROUNDS))
    return Comparison(
        title=f"Ingest into {where}",
        method=f"{bench.size:,} rows of this month, other ones each time, into the same table with all its indexes, on a "
        "server that waits for its disk. `COPY` has them as text, in one statement. `replayed` has them in a spool, in "
        f"files of {_PER_FILE} rows, and writes them as after an outage: batch by batch, each in a transaction, leaving "
        "what is there already as it is, so that it may be done again after a crash.",
        unit="µs per row",
        digits=1,
        samples=samples,
        baseline=_COPY,
        goals=[Times(_REPLAYED, 1 / 0.65)],
        why="COPY need not look whether a row is there already",
    )


class _Bench:
    def __init__(self, connection: psycopg.Connection[Any], journal: Journal, spool: Spool, actions: int) -> None:
        self._connection = connection
        self._journal = journal
        self._spool = spool
        self._actions = actions
        self._chance = random.Random(actions)  # noqa: S311 - nothing to guess here
        self.size = min(_MOST_ROWS, actions)

    def copied(self) -> float:
        """Return microseconds per row."""
        lines = "".join(_line(row) for row in self._rows()).encode()
        begun = perf_counter()
        with self._connection.cursor() as cursor, cursor.copy(_COPY_IN) as copy:
            copy.write(lines)
        return self._per_row(perf_counter() - begun)

    def replayed(self) -> float:
        """Return microseconds per row."""
        texts = [row_json(row) for row in self._rows()]
        for first in range(0, len(texts), _PER_FILE):
            self._spool.put(Kind.OUTCOME, texts[first : first + _PER_FILE])
        begun = perf_counter()
        written = self._journal.outage.replay()
        seconds = perf_counter() - begun
        if written != len(texts):
            raise RuntimeError(f"{len(texts) - written} rows were not written")
        return self._per_row(seconds)

    def _per_row(self, seconds: float) -> float:
        return seconds * 1e6 / self.size

    def _rows(self) -> list[ActionRow]:
        rows: list[ActionRow] = []
        payload = json.dumps(PAYLOAD)
        now = datetime.now(UTC)
        for number in range(self.size):
            subject = population.draw(self._chance, self._actions)
            made = ids.new_id()
            # One in seven is caused by the one before, in the same request.
            cause = rows[-1] if number % 7 == 6 else None
            rows.append(
                ActionRow(
                    id=made,
                    root_id=cause.root_id if cause else made,
                    parent_action_id=cause.id if cause else None,
                    action_type="transfer",
                    concept="account",
                    status="completed",
                    tenant_id="",
                    user_id=cause.user_id if cause else subject.user_id,
                    request_id=cause.request_id if cause else ids.new_id(),
                    correlation_id=None,
                    entity_type=subject.entity_type,
                    entity_id=subject.entity_id,
                    payload=payload,
                    result='{"ok":true}',
                    metadata=None,
                    error_type=None,
                    error_code=None,
                    error_message=None,
                    started_at=now.isoformat(),
                    completed_at=(now + timedelta(milliseconds=5)).isoformat(),
                    duration_ms=5.0,
                )
            )
        return rows


def _line(row: ActionRow) -> str:
    """Return a row in the text format of COPY. Nothing in it needs escaping."""
    values: Sequence[object] = [getattr(row, name) for name in _COLUMNS]
    return "\t".join(r"\N" if value is None else str(value) for value in values) + "\n"
