"""The workload of an ORM: what it costs to know who changed a row, beside the packages that people use for it today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import attrs

from benchmarks.measuring import Comparison, Goal, Share, interleaved
from benchmarks.peers import django_orm, sqlalchemy_orm
from benchmarks.peers.sampling import Sample, Variant
from benchmarks.peers.workers import running
from benchmarks.places import PLACES, at
from benchmarks.server import new_database

_PER_SAMPLE = 40
_WARM_UP = 50


@attrs.frozen
class _Orm:
    name: str
    variants: Mapping[str, Variant]
    goals: Sequence[Share]
    why: str


_ORMS = [
    _Orm(
        "SQLAlchemy",
        sqlalchemy_orm.VARIANTS,
        [Share("provenance", 0.25, "postgresql-audit")],
        "two round trips, in a transaction of the application's",
    ),
    _Orm(
        "Django",
        django_orm.VARIANTS,
        [Share("provenance, row captured", 1.0, "django-pghistory")],
        "two round trips, in a transaction of the application's; the other one has no action to record",
    ),
]


def _version(distribution: str) -> str | None:
    """Return the version of what is installed: nobody needs the peers for anything else."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def run(rounds: int, places: Sequence[str]) -> list[Comparison]:
    """Measure one update in a transaction through each ORM that is there, on a server of its own in every place."""
    found: list[Comparison] = []
    for place in dict.fromkeys(places):
        with at(PLACES[place]) as address:
            for orm in _ORMS:
                found += _compared(orm, place, address, rounds)
    return found


def _compared(orm: _Orm, place: str, address: str, rounds: int) -> list[Comparison]:
    variants = {name: variant for name, variant in orm.variants.items() if all(map(_version, variant.needs))}
    if not variants:
        return []
    samples = _samples(orm.name, variants, address, rounds)
    goals: list[Goal] = [goal for goal in orm.goals if {goal.variant, goal.other} <= variants.keys()]
    times = Comparison(
        title=f"An update through {orm.name}, {place}",
        method=_method(variants, PLACES[place].meaning),
        unit="µs",
        digits=0,
        samples={name: [sample.microseconds for sample in taken] for name, taken in samples.items()},
        goals=goals,
        why=orm.why,
    )
    if place != "local":
        return [times]
    return [
        times,
        Comparison(
            title=f"The write-ahead log of that: an update through {orm.name}",
            method=_method(variants, "without full pages"),
            unit="bytes",
            digits=0,
            samples={name: [sample.logged for sample in taken] for name, taken in samples.items()},
        ),
    ]


def _method(variants: Mapping[str, Variant], where: str) -> str:
    needed = dict.fromkeys(distribution for variant in variants.values() for distribution in variant.needs)
    return (
        f"{', '.join(f'{distribution} {_version(distribution)}' for distribution in needed)}; {where}. "
        "In each transaction an account is read and gets another balance, in another request of the same user; all but "
        "`bare` record both. Each variant has a process and a database of its own, where it is seen in the end that nothing "
        f"was left out. Each sample is {_PER_SAMPLE} transactions with random rows."
    )


def _samples(orm: str, variants: Mapping[str, Variant], address: str, rounds: int) -> dict[str, list[Sample]]:
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(running(name, variant, new_database(address, f"{orm} {name}")))
            for name, variant in variants.items()
        }
        for worker in workers.values():
            worker.sample(_WARM_UP)
        samples = interleaved(
            {name: partial(worker.sample, _PER_SAMPLE) for name, worker in workers.items()}, rounds=rounds
        )
        for worker in workers.values():
            worker.finish()
    return samples
