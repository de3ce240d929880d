"""A run: rounds of work under faults, each of which ends with everything recovered and judged."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from provenance import ids, schema
from provenance.errors import ProvenanceError
from provenance.trail import Trail
from tests.nemesis import judgement, processes
from tests.nemesis.diaries import Diaries
from tests.nemesis.judgement import Verdict
from tests.nemesis.processes import Place, Ways
from tests.nemesis.profiles import Profile
from tests.nemesis.programs import SCHEMA
from tests.support.cluster import Cluster, until

_FORKS = multiprocessing.get_context("forkserver")
_EVERYTHING = UUID(int=0)

# How often what must hold at any time is looked at, in seconds.
_GLANCE = 1.0


@attrs.define
class Figures:
    """What has happened."""

    seconds: float = 0.0
    rounds: int = 0
    actions: int = 0
    completed: int = 0
    failed: int = 0
    rolled_back: int = 0
    kills: int = 0
    terminations: int = 0
    crashes: int = 0
    cuts_before: int = 0
    cuts_during: int = 0
    cuts_after: int = 0
    outages: int = 0
    verdicts: int = 0
    sweeps: int = 0
    in_spool: int = 0
    """Files that were in the spool at the end of a round; others were replayed before."""
    by_hand: int = 0
    """Work outside the database whose process was killed: nobody can know, so a person says."""

    def lines(self) -> Iterator[str]:
        for field in attrs.fields(Figures):
            value = getattr(self, field.name)
            yield (
                f"{field.name.replace('_', ' '):>14} {value:.1f}"
                if isinstance(value, float)
                else (f"{field.name.replace('_', ' '):>14} {value}")
            )


@attrs.define
class Nemesis:
    """Brings down on workers what a profile says.

    Args:
        cluster: the server; running.
        place: where all this is.
        say: what tells a person of it.
    """

    cluster: Cluster
    place: Place
    say: Callable[[str], None]
    figures: Figures = attrs.field(factory=Figures)
    verdict: Verdict = attrs.field(factory=Verdict)
    judged: set[UUID] = attrs.field(factory=set)
    _diaries: Diaries = attrs.field(init=False)
    _rng: random.Random = attrs.field(init=False)
    _workers: dict[int, Any] = attrs.field(factory=dict)
    _recoveries: dict[int, Any] = attrs.field(factory=dict)
    _counts: Any = attrs.field(init=False)
    _sweeps: Any = attrs.field(init=False)
    _starts: Iterator[int] = attrs.field(factory=itertools.count)
    _ways: Ways = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._diaries = Diaries(self.place.diaries)
        self._rng = random.Random(self.place.seed)
        # Without locks: who is killed would leave them locked. Each has one writer.
        self._counts = _FORKS.RawArray("l", 4)
        self._sweeps = [_FORKS.RawValue("l", 0) for _ in range(self.profile.recoveries)]

    @property
    def profile(self) -> Profile:
        return self.place.profile

    def _look(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.place.conninfo, autocommit=True, connect_timeout=5)

    # -- processes --

    def _start(self, target: Callable[..., None], *args: object) -> Any:
        process = _FORKS.Process(target=target, args=(self.place, *args), daemon=True)
        process.start()
        return process

    def _start_worker(self, number: int) -> None:
        # Some have lines that are never cut.
        direct = Ways(self.place.conninfo, self.place.conninfo)
        self._workers[number] = self._start(
            processes.work, direct if number % 3 == 2 else self._ways, number, next(self._starts)
        )

    def _start_recovery(self, number: int) -> None:
        self._recoveries[number] = self._start(processes.recover, self._sweeps[number])

    @contextmanager
    def _link(self) -> Iterator[None]:
        ours, theirs = _FORKS.Pipe()
        process = self._start(processes.link, self._counts, theirs, next(self._starts))
        theirs.close()
        try:
            self._ways = _received(ours)
            yield
        finally:
            _kill(process)

    # -- faults --

    def _kill_somebody(self) -> None:
        # A recovery now and then.
        if self._recoveries and self._rng.random() < 0.1:
            number = self._rng.choice(sorted(self._recoveries))
            _kill(self._recoveries[number])
            self._start_recovery(number)
        else:
            number = self._rng.choice(sorted(self._workers))
            _kill(self._workers[number])
            self._start_worker(number)
        self.figures.kills += 1

    def _terminate_somebody(self) -> None:
        with self._look() as eye:
            found = eye.execute(
                """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
                      AND pid <> pg_backend_pid() ORDER BY pid"""
            ).fetchall()
            if found:
                eye.execute("SELECT pg_terminate_backend(%s)", self._rng.choice(found))
                self.figures.terminations += 1

    def _crash(self) -> None:
        # Just when a body has begun: what it relies on has hardly been written.
        begun = self._begun()
        self.cluster.crash(lambda: self._begun() > begun)
        self.figures.crashes += 1
        self.cluster.start()

    def _begun(self) -> int:
        self._diaries.read()
        return len(self._diaries.begun)

    def _judge_somebody(self) -> None:
        """Give an action an outcome that is under way, as a person might who takes it for dead."""
        with self._look() as eye:
            found = eye.execute("SELECT id FROM provenance.action_log WHERE status = 'pending' ORDER BY id").fetchall()
            if not found:
                return
            (action_id,) = self._rng.choice(found)
            self.judged.add(action_id)
            # Whoever has written its row already, and not committed, is not waited for.
            eye.execute("SET lock_timeout = '100ms'")
            with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.NoDataFound, psycopg.errors.UniqueViolation):
                eye.execute("SELECT provenance.complete_action(%s, status => 'failed')", (action_id,))
                self.figures.verdicts += 1

    # -- a round --

    def round(self, seconds: float) -> None:
        """Work under faults, then recover and judge."""
        floor = UUID(int=ids.new_id().int >> 80 << 80)
        with ExitStack() as stack:
            stack.enter_context(self._link())
            stack.callback(self._stop)
            for number in range(self.profile.recoveries):
                self._start_recovery(number)
            for number in range(self.profile.workers):
                self._start_worker(number)
            self._act(time.monotonic() + seconds, floor)
        self.figures.rounds += 1
        if not self.verdict:
            self._recover(floor)
        self._count()

    def _act(self, end: float, floor: UUID) -> None:
        faults = {
            self._kill_somebody: self.profile.kills,
            self._terminate_somebody: self.profile.terminations,
            self._crash: self.profile.crashes,
            self._judge_somebody: self.profile.verdicts,
        }
        rates = {fault: rate for fault, rate in faults.items() if rate}
        due = {fault: self._next(rate) for fault, rate in rates.items()}
        glance = time.monotonic() + _GLANCE
        while not self.verdict:
            fault = min(due, key=lambda fault: due[fault], default=None)
            moment = min(glance, end, due[fault] if fault else end)
            time.sleep(max(0.0, moment - time.monotonic()))
            if moment == end:
                return
            if moment == glance:
                with self._look() as eye:
                    self.verdict += judgement.at_any_time(judgement.look(eye, floor))
                glance = time.monotonic() + _GLANCE
            else:
                assert fault is not None
                fault()
                due[fault] = self._next(rates[fault])

    def _next(self, rate: float) -> float:
        return time.monotonic() + self._rng.expovariate(rate)

    def _stop(self) -> None:
        """Kill everybody: nobody is left to say anything."""
        for process in (*self._workers.values(), *self._recoveries.values()):
            process.kill()
        for process in (*self._workers.values(), *self._recoveries.values()):
            process.join()
        self.figures.kills += len(self._workers)
        self._workers.clear()
        self._recoveries.clear()

    def _recover(self, floor: UUID) -> None:
        """Bring everything to its end, and judge."""
        with Trail(self.place.conninfo, spool=self.place.spool) as trail, self._look() as eye:
            # They may have sent what is still being done.
            until(lambda: _alone(eye), "the server to be done with the dead")
            health = trail.health()
            assert health.spool is not None
            self.figures.in_spool += health.spool.waiting
            trail._outage.wake()
            with suppress(TimeoutError):
                until(lambda: _emptied(trail), "the spool to be replayed")
            if (left := trail.health().spool) is not None and (left.waiting or left.quarantined):
                self.verdict.unresolved.append(f"in the spool: {left}")
            with suppress(TimeoutError):
                until(lambda: _recovered(trail, eye), "everything to be recovered", 30.0)
            self._say_of_detached(trail, eye)
            self._diaries.read()
            state = judgement.look(eye, floor)
            self.verdict += judgement.at_rest(state, self._diaries, self.judged, floor)
            for (left_over,) in eye.execute("SELECT id FROM provenance.action_intents").fetchall():
                self.verdict.unresolved.append(f"evidence that is left over: {left_over}")

    def _say_of_detached(self, trail: Trail, eye: psycopg.Connection[Any]) -> None:
        """Give work outside the database an outcome that its process had no time to tell."""
        self._diaries.read()
        told = self._diaries.done | self._diaries.undone
        found = eye.execute(
            "SELECT id FROM provenance.action_log WHERE status IN ('pending', 'unknown') AND action_type = 'detached'"
        ).fetchall()
        for (action_id,) in found:
            if action_id not in told:
                trail.fail(action_id, "its process was killed")
                self.figures.by_hand += 1

    def _count(self) -> None:
        self._diaries.read()
        for line in self._diaries.strange:
            self.verdict.contradictory.append(f"out of a block came {line}")
        self.figures.actions = len(self._diaries.begun)
        it = self.figures
        it.cuts_before, it.cuts_during, it.cuts_after, it.outages = self._counts
        self.figures.sweeps = sum(count.value for count in self._sweeps)

    def conclude(self) -> None:
        """See that nothing has changed since, and count."""
        with self._look() as eye:
            state = judgement.look(eye, _EVERYTHING)
        if not self.verdict:
            self.verdict += judgement.at_rest(state, self._diaries, self.judged, _EVERYTHING)
        for status in ("completed", "failed", "rolled_back"):
            setattr(self.figures, status, sum(one.status == status for one in state))


def _received(connection: Connection) -> Ways:
    if not connection.poll(60):
        raise TimeoutError("waited 60 s for the link")
    found: Ways = connection.recv()
    return found


def _kill(process: Any) -> None:
    process.kill()
    process.join()


def _emptied(trail: Trail) -> bool:
    found = trail.health().spool
    return found is not None and not found.waiting


def _recovered(trail: Trail, eye: psycopg.Connection[Any]) -> bool:
    """Recover; return whether nothing is left but what nobody can know, and work outside the database."""
    with suppress(ProvenanceError):
        trail.recover()
    found = eye.execute(
        """SELECT count(*) FROM provenance.action_intents i
            WHERE i.doubt IS NULL
              AND (i.action_type <> 'detached' OR EXISTS (SELECT FROM provenance.actions a WHERE a.id = i.id))"""
    ).fetchone()
    return found == (0,)


def _alone(eye: psycopg.Connection[Any]) -> bool:
    """Return whether the server has noticed that everybody is dead."""
    found = eye.execute(
        """SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    ).fetchone()
    return found == (0,)


def run(
    cluster: Cluster,
    profile: Profile,
    *,
    seconds: float,
    seed: int,
    actions: int = 0,
    mutant: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Figures, Verdict]:
    """Do rounds until the time is over and so many actions were begun, or until something is found.

    Args:
        cluster: the server; running, and nobody else's.
        profile: which faults there are.
        seconds: how long.
        seed: what is decided by chance; what the machine makes of it differs each time.
        actions: how many at least.
        mutant: which broken variant of the protocol.
        say: what tells a person of it.
    """
    # What is to be imported is imported once, and not by each worker.
    _FORKS.set_forkserver_preload(["tests.nemesis.processes"])
    cluster.set(profile.settings)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="provenance-nemesis-") as directory, _database(cluster) as address:
        place = Place(address, Path(directory), profile, seed, mutant)
        place.diaries.mkdir()
        nemesis = Nemesis(cluster, place, say)
        end = begun + seconds
        while not nemesis.verdict and (time.monotonic() < end or nemesis.figures.actions < actions):
            left = end - time.monotonic()
            nemesis.round(min(profile.round, left) if left > 1 else profile.round)
            say(_summary(nemesis, time.monotonic() - begun))
        nemesis.conclude()
    nemesis.figures.seconds = time.monotonic() - begun
    return nemesis.figures, nemesis.verdict


@contextmanager
def _database(cluster: Cluster) -> Iterator[str]:
    name = f"nemesis_{secrets.token_hex(4)}"
    with cluster.connect() as owner:
        owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    address = make_conninfo(cluster.conninfo, dbname=name)
    with psycopg.connect(address, autocommit=True) as owner:
        schema.up(owner)
        owner.execute(SCHEMA)
    yield address
    with cluster.connect() as owner:
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _summary(nemesis: Nemesis, seconds: float) -> str:
    it = nemesis.figures
    cuts = it.cuts_before + it.cuts_during + it.cuts_after
    return (
        f"{seconds:6.1f} s, round {it.rounds}: {it.actions} actions, {it.kills} kills, {it.terminations} terminations, "
        f"{it.crashes} crashes, {cuts} cuts, {it.outages} outages, {it.verdicts} verdicts, {it.sweeps} sweeps"
    )
