"""The workload of a web application: one row is updated in a transaction, and it is to be known who did it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any, LiteralString

import psycopg
from psycopg.pq import ExecStatus
from psycopg_pool import ConnectionPool

from benchmarks.measuring import Comparison, interleaved
from benchmarks.places import PLACES, Place, at
from provenance import ids, request_scope, schema
from provenance.trail import Trail

_ROWS = 10_000
_PER_SAMPLE = 40
_WARM_UP = 200

_UPDATE: LiteralString = "UPDATE accounts SET balance = balance + 1 WHERE id = %s"

_PAYLOAD = {
    "amount": "12.50",
    "currency": "EUR",
    "from": "0192f3c4-5d6e-7a8b-9c0d-1e2f3a4b5c6d",
    "to": "0192f3c4-5d6e-7a8b-9c0d-1e2f3a4b5c6e",
    "note": "monthly subscription, second reminder",
}
"""About 200 bytes of JSON."""

_BEGUN: LiteralString = """
INSERT INTO original_actions (action_type, concept, user_id, publisher_id, request_id, entity_type, entity_id, payload)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id"""
_ENDED: LiteralString = """
UPDATE original_actions SET status = 'completed', result = %s, completed_at = now(),
       duration_ms = EXTRACT(MILLISECONDS FROM now() - started_at) WHERE id = %s"""

# What one who writes by hand knows: what a row of the trail looks like, and which of its values need no quoting.
_BY_HAND = b"""
INSERT INTO provenance.actions (id, root_id, action_type, concept, status, user_id, request_id, entity_type, entity_id,
    payload, result, started_at, completed_at, duration_ms)
VALUES ($1, $1, 'transfer', 'account', 'completed', 'ada', $2, 'account', $3, $4, '{"ok":true}', now(), clock_timestamp(),
    1.5)"""


def _set_up(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection)
        connection.execute((Path(__file__).with_name("original.sql")).read_bytes())
        connection.execute(
            "CREATE TABLE accounts (id integer PRIMARY KEY, owner text NOT NULL, balance numeric NOT NULL) "
            "WITH (fillfactor = 70)"
        )
        connection.execute(
            "INSERT INTO accounts SELECT i, 'owner ' || i, 100 FROM generate_series(1, %s) AS i", (_ROWS,)
        )
        connection.execute("VACUUM ANALYZE accounts")


class _Bench:
    """The same update in different company. One connection does all of them."""

    def __init__(self, pool: ConnectionPool[Any], trail: Trail) -> None:
        self._pool = pool
        self._trail = trail
        self._request = ids.new_id()
        self._request_text = str(self._request)
        with pool.connection() as connection:
            connection.pgconn.prepare(b"by_hand", _BY_HAND)

    def bare(self, row: int) -> None:
        """The transaction alone."""
        with self._pool.connection() as connection:
            connection.execute(_UPDATE, (row,))

    def tracked(self, row: int) -> None:
        """As an action."""
        with self._trail.track_action(
            "transfer", concept="account", entity_type="account", entity_id=row, payload=_PAYLOAD
        ) as action:
            action.connection.execute(_UPDATE, (row,))
            action.result = {"ok": True}

    def original(self, row: int) -> None:
        """With a row that is inserted before and updated after."""
        with self._pool.connection() as connection:
            [(action_id,)] = connection.execute(
                _BEGUN,
                ("transfer", "account", "ada", "1", self._request, "account", str(row), json.dumps(_PAYLOAD)),
            ).fetchall()
            connection.execute(_UPDATE, (row,))
            connection.execute(_ENDED, ('{"ok":true}', action_id))

    def by_hand(self, row: int) -> None:
        """With a row of the trail in as many round trips as the transaction alone: what no library can do better."""
        with self._pool.connection() as connection:
            wire = connection.pgconn
            action_id = str(ids.new_id())
            wire.exec_(f"BEGIN; SET LOCAL provenance.action_id = '{action_id}'".encode())
            connection.execute(_UPDATE, (row,))
            values = [action_id, self._request_text, str(row), json.dumps(_PAYLOAD)]
            wire.enter_pipeline_mode()
            wire.send_query_prepared(b"by_hand", [value.encode() for value in values])
            wire.send_query_params(b"COMMIT", [])
            wire.pipeline_sync()
            for expected in (ExecStatus.COMMAND_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC):
                if not (answer := wire.get_result()) or answer.status != expected:
                    raise RuntimeError(wire.get_error_message())
                if expected != ExecStatus.PIPELINE_SYNC:
                    wire.get_result()
            wire.exit_pipeline_mode()

    @property
    def variants(self) -> dict[str, Callable[[int], None]]:
        return {"bare": self.bare, "tracked": self.tracked, "original design": self.original, "by hand": self.by_hand}

    def samples(self, rounds: int) -> dict[str, list[float]]:
        """Return microseconds per update."""
        with request_scope(self._request, user_id="ada"):
            for variant in self.variants.values():
                _taken(variant, _WARM_UP)
            return interleaved(
                {name: partial(_taken, variant, _PER_SAMPLE) for name, variant in self.variants.items()}, rounds=rounds
            )

    def wal(self, rounds: int) -> dict[str, list[float]]:
        """Return bytes of write-ahead log per update."""
        with request_scope(self._request, user_id="ada"):
            return interleaved(
                {name: partial(self._logged, variant) for name, variant in self.variants.items()}, rounds=rounds
            )

    def _logged(self, variant: Callable[[int], None]) -> float:
        before = self._position()
        _taken(variant, _PER_SAMPLE)
        return (self._position() - before) / _PER_SAMPLE

    def _position(self) -> int:
        with self._pool.connection() as connection:
            ((found,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        return int(found)


def _taken(variant: Callable[[int], None], updates: int) -> float:
    rows = random.choices(range(1, _ROWS + 1), k=updates)  # noqa: S311 - nothing to guess here
    begun = perf_counter_ns()
    for row in rows:
        variant(row)
    return (perf_counter_ns() - begun) / 1_000 / updates


def run(rounds: int, places: Sequence[str]) -> list[Comparison]:
    """Measure one update in a transaction, on a server of its own in every place."""
    found: list[Comparison] = []
    for name in dict.fromkeys(places):
        place = PLACES[name]
        with at(place) as address:
            _set_up(address)
            with ConnectionPool(address, min_size=1, max_size=1) as pool, Trail(pool) as trail:
                found += _measured(_Bench(pool, trail), name, place, rounds)
    return found


def _measured(bench: _Bench, name: str, place: Place, rounds: int) -> list[Comparison]:
    taken = Comparison(
        title=f"One update in a transaction, {name}",
        method=f"{place.meaning}. Each sample is {_PER_SAMPLE} updates of random rows.",
        unit="µs",
        digits=0,
        samples=bench.samples(rounds),
    )
    if name != "local":
        return [taken]
    return [
        taken,
        Comparison(
            title="The write-ahead log of one update",
            method=f"Without full pages. Each sample is {_PER_SAMPLE} updates of random rows.",
            unit="bytes",
            digits=0,
            samples=bench.wal(max(2, rounds // 5)),
        ),
    ]
