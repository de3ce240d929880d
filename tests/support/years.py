"""Years of rows leave month by month, while everybody works and the archiver is killed now and then.

``python -m tests.support.years --actions 1000000 --months 36 --kills 20`` says how it went; ``tests/db/test_years.py`` does
the same with fewer rows.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import attrs
import psycopg

from provenance import Trail, drivers, schema
from provenance.archive import Month, contents, ledger, restore_month, verify_month
from provenance.archive.columns import TABLES, Summary, summarized
from tests.support import months
from tests.support.cluster import Cluster

_WRITERS = 4
_READERS = 2

# Chains, tenants, users and entities as an application has them, spread evenly over the month.
_FILL = """
WITH span AS (SELECT %(first)s::timestamptz AS first, %(last)s::timestamptz - %(first)s::timestamptz AS length),
     dated AS (SELECT n, span.first + span.length * n / (%(rows)s + 1) AS at FROM span, generate_series(1, %(rows)s) n),
     made AS (SELECT n, at, overlay(provenance.uuid_floor(at)::text placing lpad(to_hex(n), 12, '0') from 25)::uuid AS id
                FROM dated)
INSERT INTO provenance.actions (id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id,
    entity_type, entity_id, payload, started_at, completed_at, duration_ms)
SELECT id, id, NULL, 'a' || mod(n, 9), 'c', 'completed', 't' || mod(n, 20), 'u' || mod(n, 500), id, 'e',
       mod(n, 1000)::text, jsonb_build_object('number', n, 'text', repeat(md5(n::text), 5)), at, at, n / 7.0
  FROM made"""
_CHANGES = """
WITH span AS (SELECT %(first)s::timestamptz AS first, %(last)s::timestamptz - %(first)s::timestamptz AS length)
INSERT INTO provenance.row_changes (seq, recorded_at, row_slot, ordinal, table_id, shape_id, operation, row_key, new_row)
SELECT n, span.first + span.length * n / (%(rows)s + 1), n, 1, 1, 1, 'insert', '(' || n || ')',
       '(' || n || ',' || md5(n::text) || ')'
  FROM span, generate_series(1, %(rows)s) n"""


@attrs.define
class Latencies:
    """How long writes took, in seconds: before anything left, and meanwhile."""

    before: list[float] = attrs.field(factory=list)
    meanwhile: list[float] = attrs.field(factory=list)
    leaving: bool = False
    failed: list[str] = attrs.field(factory=list)

    def add(self, seconds: float) -> None:
        (self.meanwhile if self.leaving else self.before).append(seconds)


def percentile(seconds: list[float], share: float) -> float:
    """Return in milliseconds below what that share of them is."""
    return sorted(seconds)[int(len(seconds) * share)] * 1000 if seconds else float("nan")


def fill(owner: psycopg.Connection[Any], actions: int, past: list[date]) -> dict[tuple[str, date], Summary]:
    """Make the months with their rows, and return what each of them holds."""
    found: dict[tuple[str, date], Summary] = {}
    each = actions // len(past)
    for table, statement, rows in (("actions", _FILL, each), ("row_changes", _CHANGES, each // 5)):
        for first in past:
            moment = datetime(first.year, first.month, 1, tzinfo=UTC)
            name = months.make(owner, table, moment)
            following = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
            owner.execute(statement.encode(), {"first": moment, "last": following, "rows": rows})
            buckets = drivers.run(owner, summarized(TABLES[table], name))
            found[table, first] = sum(buckets.values(), Summary())
    owner.execute("VACUUM ANALYZE provenance.actions, provenance.row_changes")
    return found


@contextmanager
def work(dsn: str, latencies: Latencies) -> Iterator[Callable[[], int]]:
    """Have writers and readers work; yield what says how much is written."""
    stopped, written = threading.Event(), [0] * _WRITERS

    def write(trail: Trail, number: int) -> None:
        began = time.perf_counter()
        with trail.track_action("add", concept="account", payload={"number": number}) as action:
            action.connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", (number,))
        latencies.add(time.perf_counter() - began)
        written[number] += 1

    def read(trail: Trail, number: int) -> None:
        # Without pacing they would only measure each other.
        time.sleep(0.02)
        trail.actions.entity_history("e", number)

    def keep_on(trail: Trail, doing: Callable[[Trail, int], None], number: int) -> None:
        while not stopped.is_set():
            try:
                doing(trail, number)
            except Exception as error:  # noqa: BLE001 - that is what is asked for
                latencies.failed.append(f"{doing.__name__}: {error!r}")
                return

    with Trail(dsn, max_size=_WRITERS + _READERS) as trail:
        jobs = [(write, number) for number in range(_WRITERS)] + [(read, number) for number in range(_READERS)]
        threads = [threading.Thread(target=keep_on, args=(trail, doing, number)) for doing, number in jobs]
        for thread in threads:
            thread.start()
        try:
            yield lambda: sum(written)
        finally:
            stopped.set()
            for thread in threads:
                thread.join()


# The command line, which says at its end how much memory it took at its peak.
_ARCHIVER = """
import re
from pathlib import Path
from provenance.cli import main
try:
    main()
finally:
    # What getrusage() says counts the process that this one was forked from.
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def leave(dsn: str, root: Path, kills: int, longest: float, seed: int) -> tuple[int, int]:
    """Run the archiver until it is done, and kill it so often meanwhile, after so many seconds at most.

    Return how often it was, and how many bytes the last one took.
    """
    command = [sys.executable, "-c", _ARCHIVER, "--dsn", dsn, "archive", "run", "--to", str(root), "--keep", "0"]
    by_chance, killed = random.Random(seed), 0  # noqa: S311 - any moments will do
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said, errors = process.communicate(timeout=by_chance.uniform(0.4, longest) if killed < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        if process.returncode == 0:
            return killed, int(said.splitlines()[-1])
        # The server may not have noticed yet that the one before is gone.
        if "being moved or erased by another session" not in errors:
            raise AssertionError(errors)
        time.sleep(0.1)


@attrs.frozen(kw_only=True)
class Report:
    """How it went."""

    rows: int
    killed: int
    memory_bytes: int
    """At its peak, of the archiver."""
    written: int
    latencies: Latencies
    seconds: float

    def __str__(self) -> str:
        before, meanwhile = (percentile(each, 0.99) for each in (self.latencies.before, self.latencies.meanwhile))
        return (
            f"{self.rows} rows left in {self.seconds:.0f} s, the archiver killed {self.killed} times, "
            f"{self.memory_bytes >> 20} MiB at its peak; {self.written} actions meanwhile, "
            f"p99 {before:.1f} ms before and {meanwhile:.1f} ms meanwhile, "
            f"longest {percentile(self.latencies.before, 0.999999):.1f} and "
            f"{percentile(self.latencies.meanwhile, 0.999999):.1f} ms"
        )


def run(
    dsn: str,
    root: Path,
    *,
    actions: int,
    past: list[date],
    kills: int,
    longest: float = 4.0,
    calm: float,
    seed: int = 1,
) -> Report:
    """Fill months, let them leave while everybody works, and let them come back.

    Raises:
        AssertionError: something is lost, doubled or not as it was.
    """
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE account (id integer PRIMARY KEY, n integer NOT NULL)")
        owner.execute("INSERT INTO account SELECT n, 0 FROM generate_series(0, 9) n")
        owner.execute("SELECT provenance.ensure_partitions()")
        expected = fill(owner, actions, past)
        latencies = Latencies()
        with work(dsn, latencies) as written:
            time.sleep(calm)
            latencies.leaving, began = True, time.monotonic()
            killed, memory = leave(dsn, root, kills, longest, seed)
            seconds = time.monotonic() - began
        count = written()
        assert latencies.failed == []
        left = ledger(owner)
        assert {(one.table, one.month): Summary(one.rows, one.digest) for one in left} == expected
        assert len(left) == len(expected)
        held = {(month.table.name, month.first): verify_month(root, month).summary for month in contents(root)}
        assert held == expected
        added = owner.execute("SELECT count(*) FROM provenance.actions WHERE action_type = 'add'").fetchone()
        assert added == (count,) == owner.execute("SELECT sum(n) FROM account").fetchone()
        with Trail(dsn) as trail:
            for table, first in expected:
                restore_month(trail, root, table, first)
                month = Month(TABLES[table], first, 1)
                there = drivers.run(owner, summarized(month.table, month.partition))
                assert sum(there.values(), Summary()) == expected[table, first]
        assert schema.verify(owner) == []
    rows = sum(summary.rows for summary in expected.values())
    return Report(rows=rows, killed=killed, memory_bytes=memory, written=count, latencies=latencies, seconds=seconds)


def past_months(count: int) -> list[date]:
    """Return the first days of so many months before this one, the oldest first."""
    now = datetime.now(UTC)
    number = now.year * 12 + now.month - 1
    return [date(each // 12, each % 12 + 1, 1) for each in range(number - count, number)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.years", description=__doc__)
    parser.add_argument("--actions", type=int, default=1_000_000)
    parser.add_argument("--months", type=int, default=36)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--calm", type=float, default=20.0, help="for how many seconds nothing leaves at first")
    given = parser.parse_args()
    with Cluster() as cluster, tempfile.TemporaryDirectory() as directory:
        with cluster.connect() as owner:
            schema.up(owner)
        report = run(
            cluster.conninfo,
            Path(directory) / "archive",
            actions=given.actions,
            past=past_months(given.months),
            kills=given.kills,
            calm=given.calm,
        )
    print(report)  # noqa: T201 - that is what it is for


if __name__ == "__main__":
    main()
