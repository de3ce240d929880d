"""A short run of the nemesis, and that it finds broken protocols out. ``pytest -m 'not nemesis'`` leaves both out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import attrs
import pytest

from tests.nemesis import mutants
from tests.nemesis.profiles import EVERYTHING
from tests.nemesis.run import run
from tests.support.cluster import Cluster

pytestmark = pytest.mark.nemesis

LIMIT = 30.0
"""Seconds in which a mutant must be found out."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that may be made to crash."""
    with Cluster() as made:
        yield made


def test_the_trail_tells_the_truth_whatever_happens(cluster: Cluster) -> None:
    """I1 to I5 under kills, crashes, cut lines and outages of the journal, with two recoveries all the time."""
    profile = attrs.evolve(EVERYTHING, crashes=0.15, outages=0.3)
    figures, verdict = run(cluster, profile, seconds=20, seed=secrets.randbelow(1_000_000))
    assert list(verdict.lines()) == []
    assert min(figures.actions, figures.completed, figures.kills, figures.sweeps) > 0


@pytest.mark.parametrize("name", mutants.ALL)
def test_a_broken_protocol_is_found_out(name: str, cluster: Cluster) -> None:
    """Each mutant brings about a contradiction soon, under the faults that provoke it."""
    _, verdict = run(cluster, mutants.ALL[name].profile, seconds=LIMIT, seed=1, mutant=name)
    assert verdict
