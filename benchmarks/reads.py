"""The workload of reads: what a repository is asked, of trails of several sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from operator import methodcaller
from time import perf_counter_ns
from typing import Any

import psycopg
from psycopg import conninfo

from benchmarks import population
from benchmarks.measuring import Comparison, Curves, Growth, Percentile, Result, Times, interleaved
from benchmarks.population import BLOCK, CHAIN, MONTHS
from provenance.repository import ActionRepository

_Question = Callable[[ActionRepository], Any]

_PER_ROUND = 10
# Until a statement is prepared, and then until it has a general plan.
_WARM_UP = 15
_DIFFERENT = 200
"""How many actions there are questions about, of each kind."""

_PREPARED, _UNPREPARED = "prepared", "unprepared"
_THRESHOLDS = {_PREPARED: 5, _UNPREPARED: None}
"""After how many executions a connection prepares a statement."""
_AT_MOST = {_PREPARED: 4, _UNPREPARED: 10}
"""Milliseconds in which 99 of 100 answers are to be there."""

_BASELINE = "by request"

_METHOD = f"""\
Questions of `ActionRepository` about random actions of a trail, over a Unix socket, from the call until rows are decoded,
asked by a role that `grant_reader()` lets read all of it. The trail is in memory, a gigabyte of it in the server's own. Its
actions are spread over {MONTHS} monthly partitions. Users and entities are busy by Zipf's law. Trees are chains of {CHAIN}
actions: `tree` and `ancestors` are asked of the last one, `descendants` of the first one. `busy entity` is the newest page
of 50 of one of the three busiest, `next page` one of theirs from a random action on, `quiet entity` the newest page of one
with hardly any actions. `user` is the newest page of the user of a random action, and `search` that of a type of action
within 30 days. """

_WHY = {
    # Where the time goes.
    _PREPARED: "fifty rows to decode, where a request has few; what an action has caused is looked for step by step, in all "
    "months",
    _UNPREPARED: "all months are planned for each time",
}

_HOW = {
    _PREPARED: "Statements are prepared as psycopg does unless told otherwise, once they were executed five times; the "
    "server decides when a plan for any value will do.",
    _UNPREPARED: "Statements are never prepared, as through some poolers: the server plans each of them anew.",
}


def run(rounds: int, sizes: Sequence[int]) -> list[Result]:
    """Measure at each size."""
    measured: dict[str, dict[int, dict[str, list[float]]]] = {how: {} for how in _HOW}
    # What a crash would leave of it does not matter to reads.
    with population.server("fsync=off", "full_page_writes=off") as address:
        for size in sorted(set(sizes)):
            with population.database(address, size) as made, _reader(made) as reading:
                questions = _questions(made, size)
                for how, threshold in _THRESHOLDS.items():
                    with psycopg.connect(reading, autocommit=True, prepare_threshold=threshold) as connection:
                        measured[how][size] = _samples(connection, questions, rounds)
    return [
        *(_comparison(how, *max(by_size.items())) for how, by_size in measured.items()),
        *(_curves(how, by_size) for how, by_size in measured.items()),
    ]


@contextmanager
def _reader(address: str) -> Generator[str]:
    """Yield the address by which one logs in who may read, and nothing else; policies do not hold for owners."""
    name = "trail_reader"
    with psycopg.connect(address, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {name} LOGIN")
        try:
            owner.execute("SELECT provenance.grant_reader(%s)", (name,))
            yield conninfo.make_conninfo(address, user=name)
        finally:
            owner.execute(f"DROP OWNED BY {name}")
            owner.execute(f"DROP ROLE {name}")


def _comparison(how: str, size: int, samples: Mapping[str, Sequence[float]]) -> Comparison:
    return Comparison(
        title=f"Reading, {how}, {size:,} actions",
        method=_METHOD + _HOW[how],
        unit="ms",
        digits=2,
        samples=samples,
        baseline=_BASELINE,
        goals=[
            *(Percentile(name, _AT_MOST[how], 99) for name in samples),
            *(Times(name, 3) for name in samples if name != _BASELINE),
        ],
        why=_WHY[how],
    )


def _curves(how: str, by_size: Mapping[int, Mapping[str, Sequence[float]]]) -> Curves:
    names = next(iter(by_size.values()))
    smaller, larger = 1_000_000, 10_000_000
    return Curves(
        title=f"Reading, {how}, as the trail grows",
        method="The same questions.",
        unit="ms",
        digits=2,
        sizes_of="actions",
        samples={name: {size: samples[name] for size, samples in by_size.items()} for name in names},
        goals=[Growth(name, 1.3, smaller, larger) for name in names if {smaller, larger} <= by_size.keys()],
        why="the sooner the answer, the more it is disturbed by what else the machine does",
    )


def _questions(address: str, size: int) -> dict[str, list[_Question]]:
    chance = random.Random(size)  # noqa: S311 - nothing to guess here
    numbers = [chance.randrange(size) for _ in range(_DIFFERENT)]
    blocks = [chance.randrange(size // BLOCK) * BLOCK for _ in range(_DIFFERENT)]
    with psycopg.connect(address, autocommit=True) as connection:
        some = population.pick(connection, numbers)
        firsts = population.pick(connection, blocks)
        lasts = population.pick(connection, [block + CHAIN - 1 for block in blocks])
        first_block = population.pick(connection, range(min(size, 10 * BLOCK)))
    busy = list({(one.entity_type, one.entity_id) for one in first_block if one.entity_rank <= 3})
    quiet = sorted([*first_block, *some], key=lambda one: one.entity_rank)[-_DIFFERENT:]
    later = sorted(one.id for one in some)[_DIFFERENT // 2 :]
    return {
        _BASELINE: [methodcaller("by_request", one.request_id) for one in some],
        "tree": [methodcaller("tree", one.id) for one in lasts],
        "descendants": [methodcaller("chain", one.id) for one in firsts],
        "ancestors": [methodcaller("ancestors", one.id) for one in lasts],
        "busy entity": [methodcaller("entity_history", *entity) for entity in busy],
        "next page": [methodcaller("entity_history", *entity, before=before) for before in later for entity in busy],
        "quiet entity": [methodcaller("entity_history", one.entity_type, one.entity_id) for one in quiet],
        "user": [methodcaller("by_user", one.user_id) for one in some],
        "search": [
            methodcaller(
                "search", action_type="publish", since=one.started_at - timedelta(days=30), until=one.started_at
            )
            for one in some
            if one.id in later
        ],
    }


def _samples(
    connection: psycopg.Connection[Any], questions: Mapping[str, Sequence[_Question]], rounds: int
) -> dict[str, list[float]]:
    repository = ActionRepository(lambda: nullcontext(connection))
    for name, asked in questions.items():
        # What finds nothing is always fast.
        if not all(question(repository) for question in random.choices(asked, k=_WARM_UP)):  # noqa: S311
            raise RuntimeError(f"{name}: nothing is found")
    taken = interleaved({name: partial(_taken, repository, asked) for name, asked in questions.items()}, rounds=rounds)
    return {name: [each for sample in samples for each in sample] for name, samples in taken.items()}


def _taken(repository: ActionRepository, asked: Sequence[_Question]) -> list[float]:
    """Return milliseconds."""
    taken: list[float] = []
    for question in random.choices(asked, k=_PER_ROUND):  # noqa: S311
        begun = perf_counter_ns()
        question(repository)
        taken.append((perf_counter_ns() - begun) / 1e6)
    return taken
