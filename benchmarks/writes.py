"""The workload of a web application: rows are updated in a transaction, and it is to be known who did it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any, LiteralString

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg_pool import ConnectionPool

from benchmarks import original
from benchmarks.measuring import Added, Comparison, Goal, Share, Times, interleaved
from benchmarks.places import PLACES, Place, at
from benchmarks.server import logged
from provenance import ids, request_scope, schema, track_action
from provenance.trail import Trail

_Variants = dict[str, Callable[[int], None]]

_ROWS = 10_000
_PER_SAMPLE = 40
_WARM_UP = 200
_INNER = 10
"""How many actions there are inside another one."""

_UPDATE: LiteralString = "UPDATE accounts SET balance = balance + 1 WHERE id = %s"
_UPDATE_CAPTURED: LiteralString = "UPDATE captured_accounts SET balance = balance + 1 WHERE id = %s"

PAYLOAD = {
    "amount": "12.50",
    "currency": "EUR",
    "from": "0192f3c4-5d6e-7a8b-9c0d-1e2f3a4b5c6d",
    "to": "0192f3c4-5d6e-7a8b-9c0d-1e2f3a4b5c6e",
    "note": "monthly subscription, second reminder",
}
"""About 200 bytes of JSON."""

# What one who writes by hand knows: what a row of the trail looks like, and which of its values need no quoting.
_BY_HAND = b"""
INSERT INTO provenance.actions (id, root_id, action_type, concept, status, user_id, request_id, entity_type, entity_id,
    payload, result, started_at, completed_at, duration_ms)
VALUES ($1, $1, 'transfer', 'account', 'completed', 'ada', $2, 'account', $3, $4, '{"ok":true}', now(), clock_timestamp(),
    1.5)"""

_ALL_BY_HAND = b"""
INSERT INTO provenance.actions (id, root_id, parent_action_id, action_type, concept, status, user_id, request_id,
    entity_type, entity_id, payload, result, started_at, completed_at, duration_ms)
SELECT r.id, $2, r.parent, 'transfer', 'account', 'completed', 'ada', $3,
    'account', r.entity, r.payload, '{"ok":true}', now(), clock_timestamp(), 1.5
  FROM json_to_recordset($1::json) AS r (id uuid, parent uuid, entity text, payload jsonb)"""


_ONE = "One update in a transaction"
_TEN = "Ten updates in a transaction, each an action inside another one"
_CAPTURED = "One update in a transaction, of a row whose changes are captured"

_GOALS: dict[tuple[str, str], list[Goal]] = {
    (_ONE, "local"): [Times("tracked", 1.6)],
    (_ONE, "pinned"): [Times("tracked", 2.0), Share("tracked", 0.40, "original design")],
    (_ONE, "durable"): [Times("tracked", 1.30), Share("tracked", 0.25, "original design")],
    (_ONE, "distant"): [Times("tracked", 1.10), Share("tracked", 0.11, "original design")],
    (_TEN, "local"): [Times("tracked", 2.6)],
    (_TEN, "pinned"): [Times("tracked, without stamps", 1.65)],
    (_TEN, "durable"): [Times("tracked, without stamps", 1.40)],
    (_TEN, "distant"): [Times("tracked", 2.2), Times("tracked, without stamps", 1.20)],
    (_CAPTURED, "pinned"): [Times("captured and tracked", 2.5)],
    (_CAPTURED, "durable"): [Times("captured and tracked", 1.5)],
    (_CAPTURED, "distant"): [Times("captured and tracked", 1.2)],
}
"""What was set out for, by work and place."""

_WHY = {
    _ONE: "Python, after each wait",
    _TEN: "Python for each action, after each wait; a round trip for each that is stamped",
    _CAPTURED: "Python, after each wait; a second row",
}
"""Where the time goes."""

_LOG_GOALS: dict[str, list[Goal]] = {_ONE: [Added("tracked", 900)]}


def _set_up(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        schema.up(connection)
        original.create(connection)
        connection.execute(
            "CREATE TABLE accounts (id integer PRIMARY KEY, owner text NOT NULL, balance numeric NOT NULL) "
            "WITH (fillfactor = 70)"
        )
        connection.execute(
            "INSERT INTO accounts SELECT i, 'owner ' || i, 100 FROM generate_series(1, %s) AS i", (_ROWS,)
        )
        connection.execute("CREATE TABLE captured_accounts (LIKE accounts INCLUDING ALL) WITH (fillfactor = 70)")
        connection.execute("INSERT INTO captured_accounts SELECT * FROM accounts")
        connection.execute("SELECT provenance.capture_table('captured_accounts')")
        connection.execute("VACUUM ANALYZE accounts, captured_accounts")


class _Bench:
    """The same updates in different company. One connection does all of them."""

    def __init__(self, pool: ConnectionPool[Any], trail: Trail) -> None:
        self._pool = pool
        self._trail = trail
        self._request = ids.new_id()
        self._request_text = str(self._request)
        with pool.connection() as connection:
            connection.pgconn.prepare(b"by_hand", _BY_HAND)
            connection.pgconn.prepare(b"all_by_hand", _ALL_BY_HAND)

    # -- one update --

    def bare(self, row: int) -> None:
        """The transaction alone."""
        with self._pool.connection() as connection:
            connection.execute(_UPDATE, (row,))

    def tracked(self, row: int) -> None:
        """As an action."""
        with self._action(row) as action:
            action.connection.execute(_UPDATE, (row,))
            action.result = {"ok": True}

    def original(self, row: int) -> None:
        """With a row that is inserted before and updated after."""
        with self._pool.connection() as connection:
            action_id = self._begin_original(connection, row, None)
            connection.execute(_UPDATE, (row,))
            original.end(connection, action_id)

    def by_hand(self, row: int) -> None:
        """With a row of the trail in as many round trips as the transaction alone: what no library can do better."""
        with self._pool.connection() as connection:
            action_id = str(ids.new_id())
            connection.pgconn.exec_(f"BEGIN; SET LOCAL provenance.action_id = '{action_id}'".encode())
            connection.execute(_UPDATE, (row,))
            _finish(connection.pgconn, b"by_hand", [action_id, self._request_text, str(row), json.dumps(PAYLOAD)])

    # -- ten updates, each an action, inside another action --

    def ten_bare(self, row: int) -> None:
        with self._pool.connection() as connection:
            for number in range(_INNER):
                connection.execute(_UPDATE, (_other(row, number),))

    def ten_tracked(self, row: int, *, savepoint: bool = True, stamp: bool = True) -> None:
        with self._action(row) as action:
            for number in range(_INNER):
                inner = _other(row, number)
                with self._action(inner, savepoint=savepoint, stamp=stamp):
                    action.connection.execute(_UPDATE, (inner,))
            action.result = {"ok": True}

    def ten_original(self, row: int) -> None:
        with self._pool.connection() as connection:
            outer = self._begin_original(connection, row, None)
            for number in range(_INNER):
                inner = self._begin_original(connection, _other(row, number), outer)
                connection.execute(_UPDATE, (_other(row, number),))
                original.end(connection, inner)
            original.end(connection, outer)

    def ten_by_hand(self, row: int) -> None:
        """All rows in one statement at the end; the updates are stamped with the outer action."""
        with self._pool.connection() as connection:
            outer = str(ids.new_id())
            connection.pgconn.exec_(f"BEGIN; SET LOCAL provenance.action_id = '{outer}'".encode())
            rows: list[dict[str, object]] = [{"id": outer, "entity": row, "payload": PAYLOAD}]
            for number in range(_INNER):
                inner = _other(row, number)
                connection.execute(_UPDATE, (inner,))
                rows.append({"id": str(ids.new_id()), "parent": outer, "entity": inner, "payload": PAYLOAD})
            _finish(connection.pgconn, b"all_by_hand", [json.dumps(rows), outer, self._request_text])

    # -- one update of a row whose changes are captured --

    def captured(self, row: int) -> None:
        with self._pool.connection() as connection:
            connection.execute(_UPDATE_CAPTURED, (row,))

    def captured_and_tracked(self, row: int) -> None:
        with self._action(row) as action:
            action.connection.execute(_UPDATE_CAPTURED, (row,))
            action.result = {"ok": True}

    def _action(self, row: int, *, savepoint: bool = True, stamp: bool = True) -> track_action:
        return self._trail.track_action(
            "transfer",
            concept="account",
            entity_type="account",
            entity_id=row,
            payload=PAYLOAD,
            savepoint=savepoint,
            stamp=stamp,
        )

    def _begin_original(self, connection: psycopg.Connection[Any], row: int, parent: object) -> object:
        return original.begin(
            connection,
            user_id="ada",
            publisher_id="1",
            request_id=self._request,
            entity_type="account",
            entity_id=row,
            payload=PAYLOAD,
            parent=parent,
        )

    @property
    def workloads(self) -> dict[str, _Variants]:
        return {
            _ONE: {
                "bare": self.bare,
                "tracked": self.tracked,
                "original design": self.original,
                "by hand": self.by_hand,
            },
            _TEN: {
                "bare": self.ten_bare,
                "tracked": self.ten_tracked,
                "tracked, without savepoints": partial(self.ten_tracked, savepoint=False),
                "tracked, without stamps": partial(self.ten_tracked, stamp=False),
                "original design": self.ten_original,
                "by hand": self.ten_by_hand,
            },
            _CAPTURED: {
                "bare": self.bare,
                "captured": self.captured,
                "captured and tracked": self.captured_and_tracked,
            },
        }

    def samples(self, variants: _Variants, rounds: int) -> dict[str, list[float]]:
        """Return microseconds per transaction."""
        with request_scope(self._request, user_id="ada"):
            for variant in variants.values():
                _taken(variant, _WARM_UP)
            return interleaved(
                {name: partial(_taken, variant, _PER_SAMPLE) for name, variant in variants.items()}, rounds=rounds
            )

    def wal(self, variants: _Variants, rounds: int) -> dict[str, list[float]]:
        """Return bytes of write-ahead log per transaction."""
        with request_scope(self._request, user_id="ada"):
            return interleaved(
                {name: partial(self._logged, variant) for name, variant in variants.items()}, rounds=rounds
            )

    def _logged(self, variant: Callable[[int], None]) -> float:
        before = self._position()
        _taken(variant, _PER_SAMPLE)
        return (self._position() - before) / _PER_SAMPLE

    def _position(self) -> int:
        with self._pool.connection() as connection:
            return logged(connection)


def _other(row: int, number: int) -> int:
    return (row + number * 997) % _ROWS + 1


def _finish(wire: PGconn, statement: bytes, values: list[str]) -> None:
    """Insert rows of the trail and commit, in one round trip."""
    wire.enter_pipeline_mode()
    wire.send_query_prepared(statement, [value.encode() for value in values])
    wire.send_query_params(b"COMMIT", [])
    wire.pipeline_sync()
    for expected in (ExecStatus.COMMAND_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC):
        if not (answer := wire.get_result()) or answer.status != expected:
            raise RuntimeError(wire.get_error_message())
        if expected != ExecStatus.PIPELINE_SYNC:
            wire.get_result()
    wire.exit_pipeline_mode()


def _taken(variant: Callable[[int], None], times: int) -> float:
    rows = random.choices(range(1, _ROWS + 1), k=times)  # noqa: S311 - nothing to guess here
    begun = perf_counter_ns()
    for row in rows:
        variant(row)
    return (perf_counter_ns() - begun) / 1_000 / times


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
    found: list[Comparison] = []
    for title, variants in bench.workloads.items():
        found.append(
            Comparison(
                title=f"{title}, {name}",
                method=f"{place.meaning}. Each sample is {_PER_SAMPLE} transactions with random rows.",
                unit="µs",
                digits=0,
                samples=bench.samples(variants, rounds),
                goals=_GOALS.get((title, name), []),
                why=_WHY[title],
            )
        )
        if name == "local":
            found.append(
                Comparison(
                    title=f"The write-ahead log of that: {title[:1].lower()}{title[1:]}",
                    method=f"Without full pages. Each sample is {_PER_SAMPLE} transactions with random rows.",
                    unit="bytes",
                    digits=0,
                    samples=bench.wal(variants, max(2, rounds // 5)),
                    goals=_LOG_GOALS.get(title, []),
                )
            )
    return found
