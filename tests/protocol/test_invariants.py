"""The invariants hold for random programs, and the machine that says so notices when the protocol is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from provenance.errors import ProvenanceError
from tests.protocol import mutants
from tests.protocol.machine import Awaiting, Blocking, Colour, Programs


@pytest.fixture(params=[Blocking, Awaiting])
def programs(request: pytest.FixtureRequest, provenance_dsn: str, direct_dsn: str) -> Iterator[type[Programs]]:
    """Yield a machine of each colour."""
    make: Callable[[str], Colour] = request.param
    running = make(provenance_dsn)
    with psycopg.connect(direct_dsn, autocommit=True) as looking:

        class Bound(Programs):
            colour = running
            dsn = provenance_dsn
            eye: psycopg.Connection[Any] = looking

        yield Bound
    running.close()


# A pool that replaces a connection does so in a thread of its own, with a random delay, which Hypothesis takes for ours.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")

RUN = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_trail_tells_the_truth_about_random_programs(programs: type[Programs]) -> None:
    """I1, I2, I4 and I5 over nested blocks, savepoints, errors, endings by method and by text, other tasks and threads."""
    run_state_machine_as_test(programs, settings=RUN)


# Found quickly or not at all; the same programs every time, so that this test does not depend on luck.
HUNT = settings(
    RUN,
    max_examples=1_500,
    phases=[Phase.generate],
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)


@pytest.mark.parametrize("mutation", mutants.ALL, ids=lambda mutation: mutation.__name__)
def test_a_broken_protocol_is_noticed(
    mutation: mutants.Mutation, programs: type[Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine fails on every mutant: it can tell truth from falsehood."""
    mutation(monkeypatch)
    with pytest.raises((AssertionError, psycopg.Error, ProvenanceError)):
        run_state_machine_as_test(programs, settings=HUNT)
