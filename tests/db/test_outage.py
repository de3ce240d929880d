"""The database goes away and comes back: rows of the trail are kept meanwhile, and none is lost, doubled or untrue."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from provenance import forking
from provenance.errors import NotConfigured, TrailUnavailable
from provenance.journal import JournalHealth, Spool, Usage, outage
from provenance.journal.spool import Kind
from provenance.statements.recording import row_json
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import databases, outages
from tests.support.colours import Awaiting, Blocking, done
from tests.support.outages import settled, until
from tests.support.proxy import Line, Proxy
from tests.support.rows import action_row

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye
line = outages.line
hurried = outages.hurried
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("hurried")]

PATIENCE = 10.0

Opened = Callable[..., Awaitable[Blocking]]


class Boom(Exception):
    """What a body raises."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(params=[Blocking, Awaiting])
async def opened(request: pytest.FixtureRequest, provenance_dsn: str, line: Proxy) -> AsyncIterator[Opened]:
    """Opens a trail of each colour whose journal, but not its pool, is behind the line."""
    colours: list[Blocking] = []

    async def open_trail(**options: Any) -> Blocking:
        colour: Blocking = request.param()
        await colour.open(options.pop("pool_dsn", provenance_dsn), **{"journal": line.address, **options})
        colours.append(colour)
        return colour

    yield open_trail
    for colour in colours:
        await colour.close()


async def send(colour: Blocking, number: int = 0, *, fails: bool = False) -> None:
    """Do work outside the database, whose row is the journal's to write."""
    with suppress(Boom):
        async with colour.track("mail", transaction=False, entity_type="letter", entity_id=number) as action:
            action.result = number
            if fails:
                raise Boom


def health(colour: Blocking) -> JournalHealth:
    found: JournalHealth = colour.trail.health()
    return found


async def replayed(colour: Blocking, rows: int) -> None:
    """Wait until so many rows of the spool are written, and their files gone."""

    def over() -> bool:
        found = health(colour)
        return found.replayed == rows and found.spool is not None and not found.spool.waiting

    await until(over)


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "provenance" and record.levelno == level]


def row(**changes: Any) -> str:
    """Return a row as a spool has it."""
    return row_json(action_row(action_type="kept", **{"status": "failed", **changes}))


# --- An outage, from its beginning to its end ------------------------------------------------------------------------


async def test_rows_are_kept_and_written_later(
    opened: Opened,
    directory: Path,
    line: Proxy,
    recorded_actions: RecordedActions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each exactly once; one loud line says when it began, and one when it ended."""
    colour = await opened(spool=directory)
    line.go_down()
    for number in range(5):
        await send(colour, number, fails=number % 2 == 1)
    assert "" == recorded_actions.outline()
    assert not health(colour).reachable
    assert health(colour).kept == 5
    assert health(colour).spool == Usage(waiting=5, quarantined=0, bytes=_size(directory))
    (message,) = said(caplog, logging.ERROR)
    assert message == (
        "provenance: the journal cannot be reached (TrailUnavailable); until it can, rows of the trail are kept in "
        f"{directory}"
    )
    line.down = False
    await replayed(colour, 5)
    await until(lambda: health(colour).reachable)
    assert [(found.entity_id, found.status.value, found.result) for found in recorded_actions.all()] == [
        (str(number), "failed" if number % 2 else "completed", number) for number in range(5)
    ]
    assert health(colour).spool == Usage(waiting=0, quarantined=0, bytes=0)
    (message,) = said(caplog, logging.WARNING)
    assert message.startswith("provenance: the journal can be reached again, after ")
    await send(colour, 5)
    assert health(colour).kept == 5
    assert len(recorded_actions.all()) == 6


async def test_nobody_waits_twice(opened: Opened, directory: Path, line: Proxy) -> None:
    """The first failure finds out, within its deadline; while the outage lasts the rest do not try."""
    colour = await opened(spool=directory)
    line.go_down()
    await send(colour)
    begun = time.monotonic()
    for number in range(20):
        await send(colour, number)
    # A try each would have taken at least six seconds.
    assert time.monotonic() - begun < 3


async def test_a_second_outage_is_another_incident(
    opened: Opened, directory: Path, line: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """It is noticed and said like the first."""
    colour = await opened(spool=directory)
    for _ in range(2):
        line.go_down()
        await send(colour)
        line.down = False
        await until(lambda: health(colour).reachable)
    assert len(said(caplog, logging.ERROR)) == len(said(caplog, logging.WARNING)) == 2


async def test_without_a_spool_the_end_is_noticed_too(
    opened: Opened, line: Proxy, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are logged in full meanwhile, and written again afterwards."""
    colour = await opened()
    await send(colour, 9)
    line.go_down()
    for number in range(2):
        await send(colour, number)
    assert health(colour).lost == 2
    assert health(colour).spool is None
    rows = [message.partition("rows: ")[2] for message in said(caplog, logging.ERROR) if "rows: " in message]
    assert [json.loads(found)[0]["entity_id"] for found in rows] == ["0", "1"]
    line.down = False
    await until(lambda: health(colour).reachable)
    await send(colour, 2)
    assert [found.entity_id for found in recorded_actions.all()] == ["9", "2"]


async def test_what_cannot_be_kept_is_logged(
    opened: Opened, directory: Path, line: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A full spool loses no word, and counts."""
    colour = await opened(spool=Spool(directory, max_bytes=10))
    line.go_down()
    await send(colour, 7)
    assert (health(colour).kept, health(colour).lost) == (0, 1)
    (message,) = (found for found in said(caplog, logging.ERROR) if "rows: " in found)
    assert "could not be recorded (the spool is full); rows: [{" in message
    assert '"entity_id":"7"' in message


async def test_a_spool_that_is_gone_is_no_error_of_the_caller(
    opened: Opened, directory: Path, line: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody deletes the directory: the row is logged."""
    colour = await opened(spool=directory)
    line.go_down()
    moved = await anyio.Path(directory).rename(directory.with_name("moved"))
    await send(colour, 7)
    assert any(
        "(the spool cannot be written: No such file or directory); rows: " in found
        for found in said(caplog, logging.ERROR)
    )
    assert (health(colour).spool, health(colour).spool_error) == (None, f"{directory}: No such file or directory")
    await moved.rename(directory)
    assert (health(colour).spool, health(colour).spool_error) == (Usage(waiting=0, quarantined=0, bytes=0), None)


# --- New actions meanwhile -------------------------------------------------------------------------------------------


async def test_work_goes_on_by_default(
    opened: Opened, directory: Path, line: Proxy, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """The work's own connection is there, and takes the row with it."""
    colour = await opened(spool=directory)
    line.go_down()
    await send(colour)
    async with colour.track("add") as action:
        await done(action.connection.execute("INSERT INTO work (id) VALUES (1)"))
    assert "add completed" == recorded_actions.outline()
    assert eye.execute("SELECT count(*) FROM work").fetchone() == (1,)


@pytest.mark.parametrize("transaction", [True, False])
async def test_work_is_refused_on_request(
    opened: Opened, line: Proxy, recorded_actions: RecordedActions, *, transaction: bool
) -> None:
    """Nothing is done whose failure could not be recorded, and the pool gets its connection back; afterwards it goes on."""
    colour = await opened(on_unavailable="raise")
    await send(colour)
    line.go_down()
    await send(colour)
    for _ in range(2):
        with pytest.raises(TrailUnavailable, match=r"the journal cannot be reached, .* nothing has been done yet"):
            async with colour.track("add", transaction=transaction):
                pytest.fail("the body ran")
    line.down = False
    await until(lambda: health(colour).reachable)
    async with colour.track("add", transaction=transaction):
        pass
    assert "mail completed\nadd completed" == recorded_actions.outline()


async def test_an_outage_is_noticed_by_work_that_cannot_begin(opened: Opened, line: Proxy) -> None:
    """Not by the journal alone: afterwards health() tells, and the next one is refused at once."""
    colour = await opened(pool_dsn=line.address, on_unavailable="raise")
    async with colour.track("add"):
        pass
    line.go_down()
    with pytest.raises(TrailUnavailable):
        async with colour.track("add"):
            pytest.fail("the body ran")
    await until(lambda: not health(colour).reachable)
    begun = time.monotonic()
    with pytest.raises(TrailUnavailable, match="the journal cannot be reached"):
        async with colour.track("add"):
            pytest.fail("the body ran")
    # The pool would have waited for five seconds.
    assert time.monotonic() - begun < 3
    line.down = False
    await until(lambda: health(colour).reachable)


async def test_a_pool_that_is_used_up_is_no_outage(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """The journal is asked, and it has connections of its own."""
    colour = await opened(on_unavailable="raise")
    colour.pool.timeout = 0.05
    borrowed = await done(colour.pool.getconn())
    with pytest.raises(TrailUnavailable, match="PoolTimeout"):
        async with colour.track("add"):
            pytest.fail("the body ran")
    await until(lambda: colour.trail._outage._thread is None)
    assert health(colour).reachable
    assert [] == said(caplog, logging.ERROR)
    await done(colour.pool.putconn(borrowed))
    async with colour.track("add"):
        pass


def test_another_policy_is_refused(provenance_dsn: str) -> None:
    """The two there are get named."""
    with pytest.raises(NotConfigured, match=r'on_unavailable: expected "raise" or "spool", not \'ignore\''):
        Trail(provenance_dsn, on_unavailable="ignore")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# --- What the spool may hold -----------------------------------------------------------------------------------------


async def test_what_an_earlier_process_left_is_written(
    opened: Opened, directory: Path, recorded_actions: RecordedActions
) -> None:
    """The first action sees to it; rows of one file belong together, of both kinds."""
    left = Spool(directory)
    left.put(Kind.OUTCOME, [row(entity_type="a", entity_id="1"), row(entity_type="a", entity_id="2")])
    left.put(Kind.DOUBT, [row(entity_type="a", entity_id="3", error_message="nobody knows")])
    colour = await opened(spool=directory)
    async with colour.track("add"):
        pass
    await replayed(colour, 3)
    assert sorted((found.entity_id or "", found.status.value) for found in recorded_actions.all()) == [
        ("", "completed"),
        ("1", "failed"),
        ("2", "failed"),
        ("3", "unknown"),
    ]


async def test_what_is_replayed_twice_is_there_once(
    opened: Opened, directory: Path, recorded_actions: RecordedActions
) -> None:
    """Two processes that share a directory may both replay a file."""
    text = row()
    for _ in range(2):
        Spool(directory).put(Kind.OUTCOME, [text])
    colour = await opened(spool=directory)
    async with colour.track("add"):
        pass
    await replayed(colour, 2)
    assert sorted(found.action_type for found in recorded_actions.all()) == ["add", "kept"]


async def test_what_the_database_refuses_is_set_aside(
    opened: Opened, directory: Path, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """One such row holds back neither the others nor the end of the outage; it waits for a person."""
    poison = row(status="sideways")
    Spool(directory).put(Kind.OUTCOME, [row(), row(), poison, row()])
    Spool(directory).put(Kind.OUTCOME, [row()])
    colour = await opened(spool=directory)
    async with colour.track("add"):
        pass
    await replayed(colour, 4)
    assert (health(colour).refused, health(colour).spool) == (
        1,
        Usage(waiting=0, quarantined=1, bytes=_size(directory)),
    )
    assert len(recorded_actions.all()) == 5
    (path,) = (directory / "quarantine").iterdir()
    entry = Spool(directory).read(path)
    assert entry is not None
    assert entry.rows == (poison,)
    assert said(caplog, logging.ERROR) == [
        f"provenance: 1 action(s) set aside in {directory}; the database refuses them: 23514"
    ]


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.rows"))


async def test_a_damaged_file_is_set_aside(
    opened: Opened, directory: Path, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is replayed."""
    kept = Spool(directory)
    kept.put(Kind.OUTCOME, [row()])
    (path,) = kept.waiting()
    path.write_bytes(path.read_bytes()[:-5])
    kept.put(Kind.OUTCOME, [row()])
    colour = await opened(spool=directory)
    async with colour.track("add"):
        pass
    await replayed(colour, 1)
    assert (len(recorded_actions.all()), health(colour).refused) == (2, 1)
    assert said(caplog, logging.ERROR) == [f"provenance: {path} is damaged and set aside"]


async def test_many_rows_are_replayed_in_batches(
    opened: Opened, directory: Path, line: Proxy, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one statement each nor one for all; in the order in which they were kept."""
    monkeypatch.setattr(outage, "_BATCH_ROWS", 10)
    left = Spool(directory)
    for number in range(25):
        left.put(Kind.OUTCOME, [row(entity_type="a", entity_id=str(number))])
    colour = await opened(spool=directory)
    async with colour.track("add"):
        pass
    await replayed(colour, 25)
    assert sum(b"provenance.write_missing_actions" in query for query in line.queries) == 3
    assert len(recorded_actions.all()) == 26


async def test_what_the_database_refuses_at_once_is_no_outage(
    opened: Opened, directory: Path, eye: psycopg.Connection[Any], recorded_actions: RecordedActions
) -> None:
    """A rule of the team's own, say: the row waits for a person, and the next one is written."""
    eye.execute("ALTER TABLE provenance.actions ADD CONSTRAINT ours CHECK (entity_id <> '13')")
    colour = await opened(spool=directory)
    for number in (13, 14):
        await send(colour, number)
    assert (health(colour).reachable, health(colour).refused, health(colour).kept) == (True, 1, 0)
    assert [found.entity_id for found in recorded_actions.all()] == ["14"]


async def test_a_trail_that_is_locked_is_an_outage(
    opened: Opened, provenance_dsn: str, directory: Path, recorded_actions: RecordedActions
) -> None:
    """Nobody waits longer than the deadline, and what was kept is written when the lock is gone."""
    colour = await opened(spool=directory)
    with psycopg.connect(provenance_dsn) as other:
        other.execute("LOCK TABLE provenance.actions IN EXCLUSIVE MODE")
        for number in range(3):
            await send(colour, number)
        assert (health(colour).reachable, health(colour).kept) == (False, 3)
    await replayed(colour, 3)
    assert len(recorded_actions.all()) == 3


def test_more_than_the_journal_can_take(
    provenance_dsn: str,
    directory: Path,
    line: Proxy,
    recorded_actions: RecordedActions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A hundred at once on a slow line: each waits for the deadline at most, and is written, kept, or counted and logged."""
    waits: list[float] = []
    with Trail(provenance_dsn, journal=line.address, spool=Spool(directory, max_bytes=20_000)) as trail:
        line.after_answer = lambda _, data: time.sleep(0.05)

        def send_one(number: int) -> None:
            with trail.track_action("mail", concept="work", transaction=False, entity_id=number):
                begun = time.monotonic()
            waits.append(time.monotonic() - begun)

        with ThreadPoolExecutor(32) as threads:
            list(threads.map(send_one, range(100)))
        line.after_answer = None
        found = settled(trail)
    logged = re.findall(r'"entity_id":"(\d+)"', " ".join(said(caplog, logging.ERROR)))
    written = [row.entity_id or "" for row in recorded_actions.all()]
    assert sorted(written + logged, key=int) == [str(number) for number in range(100)]
    assert (found.replayed, found.lost) == (found.kept, len(logged))
    assert min(found.kept, found.lost) > 0
    # For a connection, for the server, and for two cores that are busy with a hundred.
    assert max(waits) < 10


@pytest.mark.parametrize("reached", [False, True])
async def test_an_outcome_that_nobody_could_ask_for_is_known_later(
    opened: Opened,
    provenance_dsn: str,
    directory: Path,
    line: Proxy,
    recorded_actions: RecordedActions,
    *,
    reached: bool,
) -> None:
    """The answer to a COMMIT is lost, and the database gone: what is replayed says failed only if it was not committed."""
    with Proxy(provenance_dsn) as others:
        colour = await opened(spool=directory, pool_dsn=others.address)
        async with colour.track("first"):
            pass

        def cut(broken: Line) -> None:
            others.go_down()
            line.go_down()

        def watch(broken: Line, kind: bytes, body: bytes) -> None:
            if b"COMMIT" in body:
                others.before_forward = None
                if reached:
                    others.after_answer = lambda broken, data: cut(broken)
                else:
                    cut(broken)

        with pytest.raises(psycopg.OperationalError) as caught:
            async with colour.track("add") as action:
                others.before_forward = watch
        assert [f"provenance: whether action {action.id} was committed is not known"] == caught.value.__notes__
        others.after_answer = None
        line.down = others.down = False
        await until(lambda: health(colour).reachable)
        await replayed(colour, 1)
    assert recorded_actions.outline() == f"first completed\nadd {'completed' if reached else 'failed'}"


# --- The journal's connection ----------------------------------------------------------------------------------------


async def test_another_connection_when_one_breaks(
    opened: Opened, directory: Path, line: Proxy, recorded_actions: RecordedActions
) -> None:
    """A backend that is terminated while it writes is no outage."""
    colour = await opened(spool=directory)
    cut: list[Line] = []

    def once(broken: Line, kind: bytes, body: bytes) -> None:
        if not cut and b"provenance.write_missing_actions" in body:
            cut.append(broken)
            broken.cut()

    line.before_forward = once
    await send(colour)
    assert cut
    assert ("mail completed", True, 0) == (recorded_actions.outline(), health(colour).reachable, health(colour).kept)


def test_connections_that_nobody_gives_back(
    provenance_dsn: str, directory: Path, recorded_actions: RecordedActions
) -> None:
    """As when exceptions out of signal handlers strike where they were taken: the journal takes others."""
    with Trail(provenance_dsn, spool=directory) as trail:
        for number in range(3):
            with trail.track_action("mail", concept="work", transaction=False, entity_id=number):
                pass
            if number == 0:
                pool = trail._journal._pool
                lost = [pool.getconn(), pool.getconn()]
        settled(trail)
        with trail.track_action("mail", concept="work", transaction=False, entity_id=3):
            pass
        assert (trail.health().kept, trail.health().lost) == (2, 0)
    for connection in lost:
        connection.close()
    assert sorted(row.entity_id or "" for row in recorded_actions.all()) == ["0", "1", "2", "3"]


async def test_a_server_that_does_not_answer_is_not_waited_for(
    opened: Opened, directory: Path, line: Proxy, recorded_actions: RecordedActions
) -> None:
    """The caller is free within the deadline; that the row arrives after all does no harm."""
    colour = await opened(spool=directory)
    await send(colour, 1)
    silent = threading.Event()
    stalled: list[Line] = []

    def stall(quiet: Line, data: bytes) -> None:
        stalled.append(quiet)
        silent.wait(PATIENCE)

    line.after_answer = stall
    begun = time.monotonic()
    await send(colour, 2)
    assert time.monotonic() - begun < 5
    assert stalled
    line.after_answer = None
    silent.set()
    await until(lambda: health(colour).replayed >= 1 and health(colour).reachable)
    assert sorted(found.entity_id or "" for found in recorded_actions.all()) == ["1", "2"]


async def test_a_fork_starts_afresh(
    opened: Opened, directory: Path, line: Proxy, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a child process does first: other pools, no outage and no thread; those of others are not touched."""
    colour = await opened(spool=directory)
    line.go_down()
    await send(colour, 1)
    trail = type(colour.trail)(colour.dsn)
    async with colour.entering(trail.track_action("before", concept="work")):
        pass
    theirs, given = trail.pool, colour.trail.pool
    with monkeypatch.context() as patch:
        known = {trail, trail._journal, colour.trail, colour.trail._journal, colour.trail._outage}
        patch.setattr(forking, "_known", known)
        forking._start_afresh()
    assert trail.pool is not theirs
    assert colour.trail.pool is given
    assert not theirs.closed
    assert health(colour).reachable
    line.down = False
    async with colour.entering(trail.track_action("after", concept="work")):
        pass
    await send(colour, 2)
    await done(trail.close())
    await done(theirs.close())
    # The new pool may have tried to connect before the line was there again, and begun an outage of its own.
    await until(lambda: {found.action_type for found in recorded_actions.all()} == {"after", "before", "mail"})


# --- Processes -------------------------------------------------------------------------------------------------------

_FORKING = """
import os, sys
from provenance import Trail, track_action

dsn, spool = sys.argv[1:]
trail = Trail(dsn, spool=spool)

def record(who):
    with trail.track_action(who, concept="work") as action:
        action.connection.execute("SELECT 1")
    try:
        with trail.track_action(who, concept="work", transaction=False):
            raise LookupError
    except LookupError:
        pass

record("parent before")
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        record(f"child {number}")
        trail.close()
        os._exit(0)
    children.append(child)
with trail.track_action("parent meanwhile", concept="work") as action:
    inside = os.fork()
    if inside == 0:
        # The child has the context of the block, and must not have its connection.
        with trail.track_action("child inside", concept="work") as own:
            assert own.connection is not action.connection
        trail.close()
        os._exit(0)
    action.connection.execute("SELECT 1")
    children.append(inside)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
for how in ("exits", "returns", "raises"):
    for detached in (False, True):
        parent = os.getpid()
        try:
            with trail.track_action(f"parent of one that {how}", concept="work", transaction=not detached) as action:
                child = os.fork()
                if child == 0 and how == "exits":
                    sys.exit(0)
                if child == 0 and how == "raises":
                    raise MemoryError
                if child:
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                    if not detached:
                        action.connection.execute("INSERT INTO work VALUES (%s)", (len(how),))
        except (SystemExit, MemoryError):
            assert os.getpid() != parent
        if os.getpid() != parent:
            trail.close()
            os._exit(0)
record("parent after")
trail.close()
"""


def test_processes_forked_from_one_that_has_recorded(
    provenance_dsn: str, directory: Path, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Each has connections of its own, also one that is forked inside a block, and leaves that; nobody's are broken."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING, provenance_dsn, str(directory)],
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    lines = recorded_actions.outline().splitlines()
    assert sorted(line.strip() for line in lines) == sorted(
        f"{who} {status}"
        for who, statuses in {
            **{
                who: ["completed", "failed"]
                for who in ("parent before", "parent after", "child 0", "child 1", "child 2")
            },
            "parent meanwhile": ["completed"],
            "child inside": ["completed"],
            **{f"parent of one that {how}": ["completed", "completed"] for how in ("exits", "raises", "returns")},
        }.items()
        for status in statuses
    )
    assert "  child inside completed" in lines
    assert databases.work(eye) == [5, 6, 7]
