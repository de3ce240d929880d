"""The processes of a run: workers, recoveries and the links that are cut. Each runs until it is killed."""

from __future__ import annotations

import logging
import random
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from provenance.errors import ProvenanceError
from provenance.journal import connections, outage
from provenance.trail import Trail
from tests.nemesis import mutants
from tests.nemesis.diaries import Diary
from tests.nemesis.hands import Awaiting, Blocking
from tests.nemesis.profiles import Profile
from tests.nemesis.programs import Life
from tests.support.proxy import Line, Proxy

LIVES = 2
"""Threads or tasks of a worker."""


@attrs.frozen
class Place:
    """Where a run takes place; goes from one process to another."""

    conninfo: str
    """Straight to the server."""
    directory: Path
    profile: Profile
    seed: int
    mutant: str | None

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def diaries(self) -> Path:
        return self.directory / "diaries"


def _get_ready(place: Place, log: str) -> None:
    """Be as a worker of a run is: less patient than the library, so that more happens, and perhaps broken."""
    connections.DEADLINE = timedelta(seconds=2)
    outage._FIRST_PAUSE, outage._LONGEST_PAUSE = 0.05, 0.5
    logging.basicConfig(filename=place.directory / log, level=logging.WARNING)
    # The pools say of each attempt that it failed.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    if place.mutant is not None:
        mutants.ALL[place.mutant].apply(pytest.MonkeyPatch())


@attrs.frozen
class Ways:
    """Addresses of the server for a worker."""

    work: str
    journal: str


def work(place: Place, ways: Ways, number: int, start: int) -> None:
    """Act until killed: an even number awaits, an odd one blocks. No two of a run begin with the same *start*."""
    _get_ready(place, "workers.log")
    diary = Diary(place.diaries / f"{start}.diary")
    profile = place.profile

    async def live(hands: Blocking, life: int) -> None:
        rng = random.Random(f"{place.seed} {start} {life}")
        await Life(hands, diary, rng, profile.linger, profile.cancellations, profile.slow_commits).forever()

    try:
        hands = (Blocking if number % 2 else Awaiting)(ways.work, ways.journal, place.spool)
        hands.run(live, LIVES)
    except Exception as error:
        diary.strange(error)
        raise


def recover(place: Place, count: Any) -> None:
    """Recover, again and again."""
    _get_ready(place, "recoveries.log")
    while True:
        trail = Trail(place.conninfo, max_size=1)
        with suppress(ProvenanceError, psycopg.Error):
            while True:
                trail.recover()
                count.value += 1
                time.sleep(0.03)  # else there would be time for nothing else
        trail.close()


class Cutter:
    """Cuts a line at a COMMIT now and then: before it, while it is being done, and when it has been."""

    def __init__(self, rng: random.Random, rate: float, counts: Any) -> None:
        self._rng = rng
        self._rate = rate
        self._counts = counts
        self._doomed: set[Line] = set()
        self._of_the_journal: set[Line] = set()
        """Lines on which the open transaction is one of the journal's."""
        self._plan()

    def _plan(self) -> None:
        self._due = time.monotonic() + self._rng.expovariate(self._rate)
        self._kind = self._rng.randrange(3)
        # The journal commits far more often than work does.
        self._spares_the_journal = self._rng.random() < 0.7

    def before_forward(self, line: Line, kind: bytes, body: bytes) -> None:
        if kind not in (b"Q", b"P"):
            return
        if b"BEGIN" in body:
            self._of_the_journal.discard(line)
        if b"lock_timeout" in body:
            self._of_the_journal.add(line)
        if b"COMMIT" not in body or time.monotonic() < self._due:
            return
        if self._spares_the_journal and line in self._of_the_journal:
            return
        kind_of_cut = self._kind
        self._counts[kind_of_cut] += 1
        self._plan()
        if kind_of_cut == 0:
            raise OSError
        if kind_of_cut == 1:
            # Shut towards the client only: what it sent still goes to the server, and there is nobody to answer.
            with suppress(OSError):
                line.client.shutdown(socket.SHUT_RDWR)
        else:
            self._doomed.add(line)

    def after_answer(self, line: Line, _: bytes) -> None:
        if line in self._doomed:
            self._doomed.discard(line)
            raise OSError


def link(place: Place, counts: Any, ready: Any, start: int) -> None:
    """Pass on what workers send to the server, cut lines, and let nobody through to the journal for a while."""
    profile, rng = place.profile, random.Random(f"{place.seed} {start}")
    with Proxy(place.conninfo) as work, Proxy(place.conninfo) as journal:
        if profile.cuts:
            cutter = Cutter(rng, profile.cuts, counts)
            work.before_forward, work.after_answer = cutter.before_forward, cutter.after_answer
            journal.before_forward, journal.after_answer = cutter.before_forward, cutter.after_answer
        ready.send(Ways(work.address, journal.address))
        while True:
            time.sleep(rng.expovariate(profile.outages) if profile.outages else 60.0)
            if profile.outages:
                journal.go_down()
                counts[3] += 1
                time.sleep(rng.uniform(0.2, 1.0) * profile.outage)
                journal.down = False
