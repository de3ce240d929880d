"""The workload of row capture: what it costs to store what rows were before and after each change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, LiteralString

import attrs
from psycopg import sql
from psycopg.abc import Query
from psycopg_pool import ConnectionPool

from benchmarks.measuring import Comparison, Times, interleaved
from provenance import schema
from provenance.trail import Trail

ROWS = 1_000

# A single action is over so soon that there can be many more of them in a round. What is prepared and cached on the way is
# there after the first few.
_ACTIONS_PER_ROUND = 20
_WARM_UP = 10

# How much WAL there is does not depend on what else the machine does, so that few samples tell all, and each takes a
# checkpoint.
_MOST_WAL_ROUNDS = 5

# What a plain update costs depends on where the new versions of rows go, and with it every ratio: on full pages they go to
# other ones, and into the index; where there is room they stay on the page (HOT), which is cheapest. So both are measured.
_FULL, _ROOMY = 100, 30

# When a table is tidied up is ours to say.
_TABLE = sql.SQL(
    """
    CREATE TABLE {0} (
        id bigint PRIMARY KEY,
        name text NOT NULL,
        title text,
        amount numeric(12, 2) NOT NULL,
        quantity integer NOT NULL,
        active boolean NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        note text,
        kind text NOT NULL
    ) WITH (autovacuum_enabled = off);
    INSERT INTO {0}
    SELECT i, 'name ' || i, 'some title ' || i, i * 1.5, i, true, now(), now(), repeat('note ', 5), 'kind'
      FROM generate_series(1, {1}) AS i
    """
)

_UPDATE: LiteralString = "UPDATE {} SET quantity = quantity + 1, amount = amount + 1, updated_at = clock_timestamp()"

_HAND_WRITTEN = Path(__file__).with_name("hand_written.sql")


@attrs.frozen
class _Variant:
    name: str
    table: str
    log: sql.Identifier | None = None
    """Where the changes of its table are stored."""

    def sql(self, statement: LiteralString) -> bytes:
        """Return a statement about its table, ready to be sent: putting it together is not what is measured."""
        return sql.SQL(statement).format(sql.Identifier(self.table)).as_bytes()


_ROW_CHANGES = sql.Identifier("provenance", "row_changes")
_BULK = [
    _Variant("bare", "bare"),
    _Variant("captured", "captured", _ROW_CHANGES),
    _Variant("row trigger, JSON diff", "diffed", sql.Identifier("audit_diffs")),
    _Variant("statement trigger, whole rows", "copied", sql.Identifier("audit_rows")),
]
_SINGLE = [_Variant("bare", "plain"), _Variant("captured and stamped", "accounted", _ROW_CHANGES)]


@attrs.frozen
class _Taken:
    """What one bulk update took."""

    statement: float
    """Milliseconds."""
    committed: float
    """Milliseconds, from the beginning of the statement until the block is left."""
    wal: float
    """Bytes for each row, of the statement."""
    images: int
    """How many pages its transaction logged whole."""


def run(address: str, rounds: int) -> list[Comparison]:
    """Measure a bulk update, a single one, and the WAL of the first, in an empty database."""
    # One connection for everything: what a session has planned and cached is then there for every variant.
    with ConnectionPool(address, min_size=1, max_size=1, kwargs={"autocommit": True}) as pool, Trail(pool) as trail:
        bench = _Bench(trail)
        bench.prepare()
        return [
            *bench.bulk(rounds, "on full pages", _FULL),
            *bench.bulk(rounds, "on pages with room", _ROOMY),
            bench.single(rounds),
            *bench.wal(min(rounds, _MOST_WAL_ROUNDS)),
        ]


@attrs.frozen
class _Bench:
    trail: Trail

    def prepare(self) -> None:
        """Make the tables, and see that what is going to be measured does what it is measured for."""
        with self.trail.pool.connection() as connection:
            schema.up(connection)
        for variant in (*_BULK, *_SINGLE):
            self.execute(_TABLE.format(sql.Identifier(variant.table), sql.Literal(ROWS)))
        self.execute(_HAND_WRITTEN.read_bytes())
        self.trail.stamp("accounted")
        for table in ("captured", "accounted"):
            self.trail.capture(table)
        for variant in (*_BULK, *_SINGLE):
            self.check(variant)

    def bulk(self, rounds: int, where: str, fillfactor: int) -> list[Comparison]:
        """Measure how long it takes to change all rows of a table."""

        def measure(variant: _Variant) -> _Taken:
            self.rewrite(variant, fillfactor)
            # The session has forgotten its plans for the table, as it happens in production once in a while, not every time.
            self.update(variant)
            return self.update(variant)

        taken = interleaved({variant.name: partial(measure, variant) for variant in _BULK}, rounds=rounds)
        method = (
            f"One UPDATE of all {ROWS:,} rows of a table of ten columns, three of which change, with no index but the "
            "primary key, inside `with trail.track_action(...)`. Each variant has a table of its own. Before each "
            f"measurement VACUUM FULL rewrites it, with a fillfactor of {fillfactor}, and the same UPDATE runs once "
            "unmeasured, in an action of its own. Where the changes are stored is never emptied."
        )
        goals = [Times("captured", at_most=3)]
        why = "a row for each change, however little the change itself costs"
        return [
            Comparison(
                title=f"UPDATE of {ROWS:,} rows {where}, the statement",
                method=f"{method} The time is that of the statement, without its commit.",
                unit="ms",
                digits=2,
                samples={name: [each.statement for each in found] for name, found in taken.items()},
                goals=goals,
                why=why,
            ),
            Comparison(
                title=f"UPDATE of {ROWS:,} rows {where}, with its commit",
                method="The same updates. The time is that from the beginning of the statement until the block is left: the "
                "action is recorded, in the bare variant too, and the WAL is flushed.",
                unit="ms",
                digits=2,
                samples={name: [each.committed for each in found] for name, found in taken.items()},
                goals=goals,
                why=why,
            ),
        ]

    def single(self, rounds: int) -> Comparison:
        """Measure how long an action takes that changes one row."""

        def measure(statement: bytes, ids: Iterator[int]) -> float:
            began = perf_counter()
            with self.trail.track_action("benchmark", concept="benchmark") as action:
                action.connection.execute(statement, [next(ids)])
            return _milliseconds(began, perf_counter())

        variants = {
            variant.name: partial(measure, variant.sql(_UPDATE + " WHERE id = %s"), cycle(range(1, ROWS + 1)))
            for variant in _SINGLE
        }
        for variant in _SINGLE:
            self.rewrite(variant, _FULL)
        interleaved(variants, rounds=_WARM_UP)
        return Comparison(
            title="An action that changes one row",
            method="`with trail.track_action(...)` around an UPDATE of one row by its primary key, from before the block is "
            "entered until it is left and committed. The tables are made like those above, with the two columns of the "
            "stamps in one of them, and have full pages at first; rows take turns, and Postgres prunes their pages.",
            unit="ms",
            digits=3,
            samples=interleaved(variants, rounds=rounds * _ACTIONS_PER_ROUND),
            goals=[Times("captured and stamped", at_most=1.35)],
        )

    def wal(self, rounds: int) -> list[Comparison]:
        """Measure how much WAL the bulk update writes, when pages must be logged whole and when none is."""

        def measure(variant: _Variant) -> tuple[float, float]:
            self.rewrite(variant, _FULL)
            self.execute("CHECKPOINT")
            return self.update(variant).wal, self.update_without_images(variant).wal

        taken = interleaved({variant.name: partial(measure, variant) for variant in _BULK}, rounds=rounds)
        return [
            Comparison(
                title="WAL per changed row on full pages",
                method="How far the statement of the bulk update moves `pg_current_wal_insert_lsn()`, divided by the number "
                "of rows. The first update after a checkpoint is left to the next table; this is the first one after it "
                "whose whole transaction logs no full-page image, as `pg_stat_get_backend_wal()` counts them.",
                unit="bytes",
                digits=0,
                samples={name: [without for _, without in found] for name, found in taken.items()},
            ),
            Comparison(
                title="WAL per changed row on full pages, right after a checkpoint",
                method="The same, in the first update after VACUUM FULL and CHECKPOINT: a full-page image is logged of each "
                "page that was there before and is changed. The more changes are stored already, the more pages of their "
                "indexes those are.",
                unit="bytes",
                digits=0,
                samples={name: [most for most, _ in found] for name, found in taken.items()},
            ),
        ]

    def update(self, variant: _Variant) -> _Taken:
        """Change all rows of a table in an action."""
        statement = variant.sql(_UPDATE)
        images = self.images()
        with self.trail.track_action("benchmark", concept="benchmark") as action:
            connection = action.connection
            (lsn,) = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchall()[0]
            began = perf_counter()
            connection.execute(statement)
            done = perf_counter()
            (wal,) = connection.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [lsn]).fetchall()[0]
            asked = perf_counter()
        left = perf_counter()
        return _Taken(
            statement=_milliseconds(began, done),
            committed=_milliseconds(began, done) + _milliseconds(asked, left),
            wal=float(wal) / ROWS,
            images=self.images() - images,
        )

    def update_without_images(self, variant: _Variant) -> _Taken:
        """Change all rows, again until no page is changed for the first time since the checkpoint."""
        for _ in range(10):
            if not (taken := self.update(variant)).images:
                return taken
        raise RuntimeError(
            f"{variant.name}: every update logs whole pages; is the server making checkpoints all the time?"
        )

    def images(self) -> int:
        """Return how many pages this session has logged whole."""
        # Sessions tell the others what they did now and then; this one is to do it before it is asked.
        self.execute("SELECT pg_stat_force_next_flush()")
        (count,) = self.execute("SELECT wal_fpi FROM pg_stat_get_backend_wal(pg_backend_pid())")[0]
        return int(count)

    def rewrite(self, variant: _Variant, fillfactor: int) -> None:
        """Put a table into a state that does not depend on what was measured before, with its rows as they are."""
        table = sql.Identifier(variant.table)
        self.execute(sql.SQL("ALTER TABLE {} SET (fillfactor = {})").format(table, sql.Literal(fillfactor)))
        self.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(table))

    def check(self, variant: _Variant) -> None:
        """See that the changes of a table are stored: what does nothing is always fast."""
        with self.trail.track_action("benchmark", concept="benchmark") as action:
            action.connection.execute(variant.sql(_UPDATE))
        if variant.log is None:
            return
        count = sql.SQL("SELECT count(*) FROM {} WHERE action_id = {}").format(variant.log, sql.Literal(action.id))
        (stored,) = self.execute(count)[0]
        if stored != ROWS:
            raise RuntimeError(f"{variant.name}: {ROWS} rows were changed, and {stored} changes stored")

    def execute(self, statement: Query) -> list[tuple[Any, ...]]:
        """Run a statement outside any action, and return its rows."""
        with self.trail.pool.connection() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _milliseconds(since: float, until: float) -> float:
    return (until - since) * 1_000
