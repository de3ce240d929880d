"""The workload of storage: what is left of an action on disk, and what it writes to the log."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg_pool import ConnectionPool

from benchmarks import original, population
from benchmarks.measuring import Comparison, Result, Share, Within, interleaved
from benchmarks.population import Subject
from benchmarks.server import logged
from benchmarks.writes import PAYLOAD
from provenance import ids, request_scope
from provenance.trail import Trail

_PER_SAMPLE = 40
_MOST_ROUNDS = 10
"""How many pages are logged whole does not depend on what else the machine does, so that few samples tell all."""

_TRACKED, _ORIGINAL, _BARE = "tracked", "original design", "bare"

# The same facts. Ids are random there, and what they refer to must be found again.
_BEGUN: LiteralString = """
INSERT INTO original_actions (id, action_type, concept, user_id, request_id, parent_action_id, entity_type, entity_id,
       payload, started_at)
SELECT md5(id::text)::uuid, action_type, concept, user_id, md5(request_id::text)::uuid, md5(parent_action_id::text)::uuid,
       entity_type, entity_id, payload, started_at
  FROM population.actions(%(first)s, %(last)s)"""
_ENDED: LiteralString = """
UPDATE original_actions AS o
   SET status = made.status, result = made.result, error_message = made.error_message, completed_at = made.completed_at,
       duration_ms = made.duration_ms
  FROM population.actions(%(first)s, %(last)s) AS made
 WHERE o.id = md5(made.id::text)::uuid"""

_SIZES: dict[str, LiteralString] = {
    _TRACKED: """
        SELECT sum(pg_total_relation_size(t.relid))::bigint + pg_total_relation_size('provenance.action_intents')
          FROM pg_partition_tree('provenance.actions') AS t""",
    _ORIGINAL: "SELECT pg_total_relation_size('original_actions')",
}
_DEAD: dict[str, LiteralString] = {
    _TRACKED: "SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables WHERE schemaname = 'provenance'",
    _ORIGINAL: "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'original_actions'",
}

# Few rows, so that the work itself changes next to no pages.
_ACCOUNTS: LiteralString = """
CREATE TABLE accounts (id integer PRIMARY KEY, balance numeric NOT NULL) WITH (fillfactor = 50);
INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 10) AS i"""
_UPDATE: LiteralString = "UPDATE accounts SET balance = balance + 1 WHERE id = %s"

_COMPRESSING = {"options": "-c wal_compression=pglz"}


def run(rounds: int, actions: int) -> list[Result]:
    """Measure on a trail of so many actions."""
    with (
        # Nothing here depends on when something is safe on disk.
        population.server("fsync=off") as address,
        population.database(address, actions) as made,
        psycopg.connect(made, autocommit=True) as eye,
    ):
        original.create(eye)
        for batch in population.batches(actions):
            eye.execute(_BEGUN, batch)
            eye.execute(_ENDED, batch)
            eye.execute("VACUUM ANALYZE original_actions")
        eye.execute(_ACCOUNTS)
        sizes = {name: [_number(eye, query) / actions] for name, query in _SIZES.items()}
        rounds = min(rounds, _MOST_ROUNDS)
        with ConnectionPool(made, min_size=1, max_size=1) as pool, Trail(pool) as trail:
            bench = _Bench(eye, pool, trail, actions)
            wal, dead = bench.logged(rounds), bench.dead()
        with ConnectionPool(made, min_size=1, max_size=1, kwargs=_COMPRESSING) as pool, Trail(pool) as trail:
            compressed = _Bench(eye, pool, trail, actions).logged(rounds)
    return [
        Comparison(
            title=f"Disk per action, {actions:,} actions",
            method="The tables with all their indexes, as they are when actions were recorded in the order of their time. "
            "The original design has the same facts under random ids; each of its rows is inserted as pending and then "
            "updated, and what that leaves behind is vacuumed now and then, and used again.",
            unit="bytes",
            digits=0,
            samples=sizes,
            baseline=_ORIGINAL,
            goals=[Within(_TRACKED, 620)],
        ),
        Comparison(
            title="Dead rows per action",
            method=f"What {_PER_SAMPLE} transactions leave to be vacuumed, each of them an action with an update.",
            unit="rows",
            digits=2,
            samples=dead,
            baseline=_ORIGINAL,
            goals=[Within(_TRACKED, 0)],
        ),
        Comparison(
            title=f"WAL per tracked write right after a checkpoint, {actions:,} actions",
            method=f"How far the first {_PER_SAMPLE} transactions after a CHECKPOINT move `pg_current_wal_insert_lsn()`: "
            "each page that they change is logged whole. Each is an update of one of few rows, in a request of its own, of "
            "a user and about an entity that are busy by Zipf's law.",
            unit="bytes",
            digits=0,
            samples=wal,
            goals=[Share(_TRACKED, 0.30, _ORIGINAL)],
            why="pages of the indexes of entities and of users, whose order is not that of time",
        ),
        Comparison(
            title=f"WAL per tracked write right after a checkpoint, compressed, {actions:,} actions",
            method="The same with `wal_compression = pglz`.",
            unit="bytes",
            digits=0,
            samples=compressed,
        ),
    ]


def _number(connection: psycopg.Connection[Any], query: LiteralString) -> int:
    ((found,),) = connection.execute(query).fetchall()
    return int(found)


class _Bench:
    """The same updates in different company. One connection does all of them."""

    def __init__(self, eye: psycopg.Connection[Any], pool: ConnectionPool[Any], trail: Trail, actions: int) -> None:
        self._eye = eye
        self._pool = pool
        self._trail = trail
        self._actions = actions
        self._chance = random.Random(actions)  # noqa: S311 - nothing to guess here
        self._variants: dict[str, Callable[[Subject], None]] = {
            _BARE: self._bare,
            _TRACKED: self._tracked,
            _ORIGINAL: self._original,
        }

    def logged(self, rounds: int) -> dict[str, list[float]]:
        """Return bytes of write-ahead log per transaction."""
        for variant in self._variants.values():
            self._write(variant)
        return interleaved({name: partial(self._logged, it) for name, it in self._variants.items()}, rounds=rounds)

    def dead(self) -> dict[str, list[float]]:
        """Return dead rows per transaction."""
        return {name: [self._dead(self._variants[name], query)] for name, query in _DEAD.items()}

    def _logged(self, variant: Callable[[Subject], None]) -> float:
        self._eye.execute("CHECKPOINT")
        before = logged(self._eye)
        self._write(variant)
        return (logged(self._eye) - before) / _PER_SAMPLE

    def _dead(self, variant: Callable[[Subject], None], query: LiteralString) -> float:
        before = _number(self._eye, query)
        self._write(variant)
        # Sessions tell the others what they did now and then; this one is to do it before it is asked.
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
        return (_number(self._eye, query) - before) / _PER_SAMPLE

    def _write(self, variant: Callable[[Subject], None]) -> None:
        for _ in range(_PER_SAMPLE):
            variant(population.draw(self._chance, self._actions))

    def _bare(self, subject: Subject) -> None:
        with self._pool.connection() as connection:
            self._update(connection)

    def _tracked(self, subject: Subject) -> None:
        with (
            request_scope(ids.new_id(), user_id=subject.user_id),
            self._trail.track_action(
                "transfer",
                concept="account",
                entity_type=subject.entity_type,
                entity_id=subject.entity_id,
                payload=PAYLOAD,
            ) as action,
        ):
            self._update(action.connection)
            action.result = {"ok": True}

    def _original(self, subject: Subject) -> None:
        with self._pool.connection() as connection:
            action_id = original.begin(
                connection,
                user_id=subject.user_id,
                publisher_id=None,
                request_id=uuid4(),
                entity_type=subject.entity_type,
                entity_id=subject.entity_id,
                payload=PAYLOAD,
            )
            self._update(connection)
            original.end(connection, action_id)

    def _update(self, connection: Any) -> None:
        connection.execute(_UPDATE, (self._chance.randint(1, 10),))
