"""Through PgBouncer, where clients take turns on a server connection that none of them knows of."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import conninfo, sql
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import drivers, request_scope, schema
from provenance.cli.app import cli
from provenance.errors import NotCommitted, TrailUnavailable
from provenance.journal import connections
from provenance.statements import Statement, command, recording
from provenance.testing import RecordedActions
from provenance.trail import AsyncTrail, Trail
from tests.support import databases
from tests.support.colours import Awaiting, Blocking, done
from tests.support.pgbouncer import PgBouncer, executable
from tests.support.proxy import Line, Proxy

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.direct("these tests start a PgBouncer of their own"),
    pytest.mark.skipif(
        executable() is None, reason="PgBouncer is not installed (Debian's package is called pgbouncer)"
    ),
]

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

WORK = "INSERT INTO work (id) VALUES (%s)"
BACKEND = "SELECT pg_backend_pid()"
POOL_SIZE = 2
# More often than psycopg has a statement done before it prepares it.
OFTEN = 8


class Boom(Exception):
    """What a body raises."""


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture(scope="module")
def bouncer(provenance_server: str) -> Iterator[PgBouncer]:
    """The clients of a database share two server connections: one for work, one for what the journal writes meanwhile."""
    with PgBouncer(provenance_server, pool_size=POOL_SIZE) as running:
        yield running


@pytest.fixture
def address(bouncer: PgBouncer, provenance_dsn: str) -> str:
    """The address of this test's database through PgBouncer."""
    return bouncer.through(provenance_dsn)


class OfItsOwn(Blocking):
    """A blocking trail made from an address, whose pool knows nothing of PgBouncer."""

    async def open(self, dsn: str, **options: Any) -> None:
        self.dsn, self.trail = dsn, Trail(dsn, **options)
        self.pool = self.trail.pool

    async def close(self) -> None:
        self.trail.close()


class AwaitingOfItsOwn(Awaiting):
    """An awaiting one."""

    async def open(self, dsn: str, **options: Any) -> None:
        self.dsn, self.trail = dsn, AsyncTrail(dsn, **options)
        self.pool = self.trail.pool

    async def close(self) -> None:
        await self.trail.close()


COLOURS = [OfItsOwn, AwaitingOfItsOwn]


@pytest.fixture(params=COLOURS)
async def colour(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Blocking]:
    """A trail of each colour in turn."""
    opened: Blocking = request.param()
    await opened.open(address)
    yield opened
    await opened.close()


async def value(connection: Any, query: str) -> Any:
    """Return the one value that a query answers with, by either colour of connection."""
    found = await done((await done(connection.execute(query))).fetchone())
    return found[0]


# --- Server connections that clients share ---------------------------------------------------------------------------

CLEAN = """
SELECT COALESCE(current_setting('provenance.action_id', true), ''), COALESCE(current_setting('provenance.block', true), ''),
       COALESCE(current_setting('provenance.done', true), ''), provenance.current_action_id()"""


class Strangers:
    """Other clients, as many as there are server connections, who know of nothing but what they do themselves."""

    def __init__(self, address: str) -> None:
        self._connections = [
            psycopg.connect(address, autocommit=True, prepare_threshold=None) for _ in range(POOL_SIZE)
        ]

    def see(self, query: LiteralString) -> dict[int, list[Any]]:
        """Return what each server process answers, all of them being held at the same time; nothing of it stays."""
        with ExitStack() as transactions:
            for connection in self._connections:
                transactions.enter_context(connection.transaction(force_rollback=True))
            found = {}
            for connection in self._connections:
                (pid,) = connection.execute(BACKEND).fetchone() or ()
                found[pid] = connection.execute(query).fetchall()
        assert POOL_SIZE == len(found)
        return found

    def find_nothing(self) -> set[int]:
        """Return the server processes, after checking that nobody has left anything there."""
        seen = self.see(CLEAN)
        assert [[("", "", "", None)]] * POOL_SIZE == list(seen.values())
        written = self.see("INSERT INTO work (id) SELECT pg_backend_pid() RETURNING action_id")
        assert [[(None,)]] * POOL_SIZE == list(written.values())
        return set(seen)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@pytest.fixture
def strangers(address: str) -> Iterator[Strangers]:
    made = Strangers(address)
    yield made
    made.close()


async def test_clients_share_a_server_connection(colour: Blocking, strangers: Strangers) -> None:
    """What the other tests here rest on: one process does the queries of two clients."""
    there = strangers.find_nothing()
    async with colour.track("add") as action:
        own = await value(action.connection, BACKEND)
        greeted = action.connection.info.backend_pid
    assert own in there
    assert greeted not in there
    assert there == strangers.find_nothing()


@pytest.mark.parametrize("mode", ["own", "joined", "detached"])
@pytest.mark.parametrize("ending", ["success", "failure", "failure inside", "database error", "swallowed"])
async def test_nothing_is_left_for_the_next_client(
    colour: Blocking, mode: str, ending: str, strangers: Strangers, recorded_actions: RecordedActions
) -> None:
    """Neither an action nor an actor, however a block ends."""
    there = strangers.find_nothing()
    connection = await colour.connect(prepare_threshold=None) if mode == "joined" else None
    apart: dict[str, Any] = {"transaction": False} if mode == "detached" else {}
    with request_scope(user_id="ada", tenant_id="north"), suppress(Boom, psycopg.Error, NotCommitted):
        async with colour.track("outer", connection=connection, **apart) as outer:
            if mode != "detached":
                await done(outer.connection.execute(WORK, (1,)))
            async with colour.track("inner", **apart):
                if ending == "failure inside":
                    raise Boom
            if ending == "failure":
                raise Boom
            if mode != "detached" and ending in ("database error", "swallowed"):
                with suppress(psycopg.Error) if ending == "swallowed" else nullcontext():
                    await done(outer.connection.execute("SELECT 1 / 0"))
    if connection is not None:
        await done(connection.rollback() if ending == "swallowed" else connection.commit())
        await done(connection.close())
    assert there == strangers.find_nothing()
    async with colour.track("of nobody"):
        pass
    row = recorded_actions.one(action_type="of nobody")
    assert (None, "", None, None) == (row.user_id, row.tenant_id, row.parent_action_id, row.request_id)
    assert {"ada"} == {row.user_id for row in recorded_actions.all() if row.action_type != "of nobody"}


@pytest.mark.parametrize("joined", [False, True])
async def test_nothing_is_left_by_a_cancelled_task(
    address: str, strangers: Strangers, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], joined: bool
) -> None:
    """Its query is cancelled, through PgBouncer as well, and its failure is recorded."""
    there = strangers.find_nothing()

    def busy() -> bool:
        return bool(
            eye.execute(
                "SELECT FROM pg_stat_activity WHERE pid = ANY(%s) AND wait_event = 'PgSleep'", ([*there],)
            ).rowcount
        )

    async def work(trail: AsyncTrail, connection: psycopg.AsyncConnection[Any] | None) -> None:
        with request_scope(user_id="ada", tenant_id="north"):
            async with trail.track_action("slow", concept="work", connection=connection) as action:
                await action.connection.execute("SELECT pg_sleep(60)")

    async with AsyncTrail(address) as trail:
        connection = await psycopg.AsyncConnection.connect(address, prepare_threshold=None) if joined else None
        task = asyncio.create_task(work(trail, connection))
        async with asyncio.timeout(20):
            while not busy():  # noqa: ASYNC110 - what is waited for happens in the server
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if connection is not None:
            await connection.rollback()
            await connection.close()
    assert there == strangers.find_nothing()
    row = recorded_actions.one()
    assert ("failed", "asyncio.exceptions.CancelledError", "ada") == (row.status, row.error_type, row.user_id)


_KILLED = """
import os, signal, sys
from provenance import Trail, request_scope

trail = Trail(sys.argv[1])
with request_scope(user_id="ada", tenant_id="north"), trail.track_action("outer", concept="work") as outer:
    outer.connection.execute("INSERT INTO work (id) VALUES (1)")
    with trail.track_action("inner", concept="work"):
        print(outer.connection.execute("SELECT pg_backend_pid()").fetchone()[0], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_by_a_killed_client(
    address: str, strangers: Strangers, recorded_actions: RecordedActions
) -> None:
    """PgBouncer gives up a server connection whose client went away in a transaction."""
    there = strangers.find_nothing()
    ended = subprocess.run([sys.executable, "-c", _KILLED, address], capture_output=True, text=True, check=False)
    assert (-signal.SIGKILL, "") == (ended.returncode, ended.stderr)
    assert {int(ended.stdout)} == there - strangers.find_nothing()
    assert [] == recorded_actions.all()


def test_everybody_is_recorded_as_who_they_are(
    address: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """More clients than server connections, at once: each action has its own actor, each row of work its own action."""

    def work(trail: Trail, client: int) -> None:
        for number in range(OFTEN):
            with (
                request_scope(user_id=f"user-{client}", tenant_id=f"tenant-{client}"),
                suppress(Boom),
                trail.track_action("add", concept="work", entity_id=client) as action,
            ):
                action.connection.execute(WORK, (100 * client + number,))
                if number % 4 == 3:
                    raise Boom

    trails = [Trail(address) for _ in range(2 * POOL_SIZE)]
    with ThreadPoolExecutor(len(trails)) as threads:
        list(threads.map(work, trails, range(len(trails))))
    for trail in trails:
        trail.close()
    rows = recorded_actions.all()
    assert [(f"user-{row.entity_id}", f"tenant-{row.entity_id}") for row in rows] == [
        (row.user_id, row.tenant_id) for row in rows
    ]
    assert {"completed": 3 * OFTEN, "failed": OFTEN} == Counter(str(row.status) for row in rows)
    own = eye.execute(
        "SELECT w.id / 100 = a.entity_id::int FROM work w LEFT JOIN provenance.actions a ON a.id = w.action_id"
    ).fetchall()
    assert [(True,)] * 3 * OFTEN == own


# --- What the journal leaves behind ----------------------------------------------------------------------------------


async def use_the_journal(colour: Blocking, number: int = 0) -> None:
    """Have it write everything there is to write."""
    for durability in ("atomic", "intent"):
        for ending in (None, Boom):
            with suppress(Boom):
                async with colour.track("detached", transaction=False, durability=durability):
                    if ending is not None:
                        raise ending
    async with colour.track("once", transaction=False, idempotency_key=f"key-{number}"):
        pass
    await done(colour.trail.complete(await done(colour.trail.begin("begun", concept="work"))))
    await done(colour.trail.fail(await done(colour.trail.begin("begun", concept="work")), "no"))
    begun = await done(colour.trail.begin("begun", concept="work"))
    async with colour.entering(await done(colour.trail.resume(begun))):
        pass


async def changed_settings(strangers: Strangers, colour: Blocking) -> set[str]:
    """Return which settings of the server connections are others, or for another reason, once the journal has written."""
    settings = "SELECT pg_backend_pid(), name, setting, source FROM pg_settings"
    before = {row for rows in strangers.see(settings).values() for row in rows}
    await use_the_journal(colour)
    after = {row for rows in strangers.see(settings).values() for row in rows}
    # A language that is loaded when it is first needed brings settings with it.
    return {name for _, name, _, _ in before - after}


async def test_the_journal_leaves_no_setting_behind(colour: Blocking, strangers: Strangers) -> None:
    """Not even its deadlines, which would end the slow queries of whoever comes next."""
    assert set() == await changed_settings(strangers, colour)


def for_the_session(timeout: timedelta) -> list[Statement[None]]:
    """What a journal would say that knows nothing of poolers."""
    return [command("SET synchronous_commit = on"), command("SET statement_timeout = '5s'")]


async def test_a_setting_for_the_session_would_be_noticed(
    colour: Blocking, strangers: Strangers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is able to fail."""
    monkeypatch.setattr(recording, "journal_settings", for_the_session)
    assert {"statement_timeout", "synchronous_commit"} == await changed_settings(strangers, colour)


def test_clients_with_another_encoding(address: str, recorded_actions: RecordedActions) -> None:
    """The journal sets its encoding, which PgBouncer keeps track of: each client gets its own answers."""
    kwargs = {"client_encoding": "LATIN1", "prepare_threshold": None}
    with ConnectionPool(address, kwargs=kwargs, min_size=1, max_size=1) as pool, Trail(pool) as trail:
        for text in ("é", "Ж"):
            with trail.track_action("note", concept="work", transaction=False, payload={"text": text}):
                pass
            with pool.connection() as connection:
                seen = connection.execute("SELECT current_setting('client_encoding'), 'é'").fetchone()
            assert ("LATIN1", "é") == seen
    assert [{"text": "é"}, {"text": "Ж"}] == [row.payload for row in recorded_actions.all()]


# --- What goes over the wire -----------------------------------------------------------------------------------------

# That the encoding is set for the session is all right: it is one of the few settings a pooler restores for each client.
_OF_A_SESSION = re.compile(
    rb"""\bSET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b|client_encoding\b) | \bset_config\([^)]*,\s*false
       | \bLISTEN\b | \bPREPARE\b | \bWITH\s+HOLD\b | \bCREATE\s+TEMP | \bDISCARD\b
       | \bpg_(try_)?advisory_lock""",
    re.VERBOSE | re.IGNORECASE,
)
_OTHER_SETS = re.compile(rb"\b(UPDATE|ALTER|DO UPDATE)\b[^;]*?\bSET\b", re.IGNORECASE | re.DOTALL)


class Wire:
    """What all clients have sent to PgBouncer."""

    def __init__(self, proxy: Proxy) -> None:
        self.address = proxy.address
        self.named: list[bytes] = []
        self.of_the_session: list[bytes] = []
        self.messages = 0
        proxy.before_forward = self._saw

    def _saw(self, line: Line, kind: bytes, body: bytes) -> None:
        if kind not in (b"Q", b"P"):
            return
        self.messages += 1
        text = body
        if kind == b"P":
            name, text = body.split(b"\0", 1)
            if name:
                self.named.append(text)
        if _OF_A_SESSION.search(_OTHER_SETS.sub(b"", text)):
            self.of_the_session.append(text)


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    with Proxy(address) as proxy:
        yield Wire(proxy)


async def do_everything(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Do each thing more often than psycopg waits before it prepares a statement."""
    trail = colour.trail
    eye.execute("CREATE TABLE place (id integer PRIMARY KEY, name text); CREATE TABLE stamped (id integer PRIMARY KEY)")
    eye.execute("CREATE MATERIALIZED VIEW shown AS SELECT id FROM place; CREATE UNIQUE INDEX ON shown (id)")
    await done(trail.capture("place"))
    await done(trail.stamp("stamped"))
    caller = await colour.connect(prepare_threshold=None)
    for number in range(OFTEN):
        async with colour.track("own", idempotency_key=str(number), durability="intent") as own:
            await done(own.connection.execute("INSERT INTO place VALUES (%s, 'here')", (number,)))
            await done(own.connection.execute("INSERT INTO stamped VALUES (%s)", (number,)))
            for ending in (None, Boom):
                with suppress(Boom):
                    async with colour.track("inner"):
                        await done(own.connection.execute("UPDATE place SET name = 'there' WHERE id = %s", (number,)))
                        if ending is not None:
                            raise ending
        for connection in (None, caller):
            for ending in (None, Boom):
                with suppress(Boom):
                    async with colour.track("step", connection=connection):
                        if ending is not None:
                            raise ending
            with suppress(NotCommitted):
                async with colour.track("swallowed", connection=connection) as action:
                    with suppress(psycopg.Error):
                        await done(action.connection.execute("SELECT 1 / 0"))
            await done(caller.rollback())
        await use_the_journal(colour, number)
        await done(trail.refresh("shown"))
        await done(trail.actions.get(own.id))
        await done(trail.actions.tree(own.id))
        await done(trail.actions.search(concept="work"))
        await done(trail.changes.history("place", number))
        await done(trail.changes.blame("place", number))
        await done(trail.coverage())
        await done(trail.recover())
        await done(trail.erase(user_id=f"user-{number}", reason="asked to be forgotten"))
    await done(caller.close())


@pytest.mark.parametrize("kind", COLOURS)
async def test_nothing_of_a_session_goes_over_the_wire(
    kind: type[Blocking], wire: Wire, eye: psycopg.Connection[Any]
) -> None:
    """No named statement, no setting, lock, cursor or table that outlives the transaction, whatever a trail does."""
    colour = kind()
    await colour.open(wire.address)
    await do_everything(colour, eye)
    await colour.close()
    assert wire.messages > 100
    assert ([], []) == (wire.named, wire.of_the_session)


@pytest.mark.parametrize("kind", COLOURS)
async def test_a_named_statement_would_be_noticed(
    kind: type[Blocking], wire: Wire, eye: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is able to fail."""

    async def unaware(connection: Any) -> None:
        pass

    monkeypatch.setattr(drivers, "suit_pooler", lambda connection: None)
    monkeypatch.setattr(drivers, "asuit_pooler", unaware)
    colour = kind()
    await colour.open(wire.address)
    with suppress(psycopg.Error):
        for _ in range(OFTEN):
            async with colour.track("own"):
                pass
    await colour.close()
    assert any(b"INSERT INTO provenance.actions" in text for text in wire.named)


@pytest.mark.parametrize("kind", COLOURS)
async def test_a_setting_on_the_wire_would_be_noticed(
    kind: type[Blocking], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither is a setting for the session missed."""
    monkeypatch.setattr(recording, "journal_settings", for_the_session)
    colour = kind()
    await colour.open(wire.address)
    await use_the_journal(colour)
    await colour.close()
    assert any(b"SET statement_timeout" in text for text in wire.of_the_session)


@pytest.mark.parametrize("kind", COLOURS)
async def test_the_trails_own_pool_prepares_where_it_can(
    kind: type[Blocking], address: str, provenance_dsn: str
) -> None:
    """Behind PgBouncer it does not, and directly it does, as psycopg would."""
    found = []
    for where in (address, provenance_dsn):
        colour = kind()
        await colour.open(where)
        async with colour.track("own") as action:
            found.append(action.connection.prepare_threshold)
        await colour.close()
    assert [None, 5] == found


# --- As the documentation says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_pool_of_the_applications(address: str, recorded_actions: RecordedActions, autocommit: bool) -> None:
    """All it has to say is that nothing be prepared."""
    kwargs = {"prepare_threshold": None, "autocommit": autocommit}
    async with (
        AsyncConnectionPool(address, kwargs=kwargs, max_size=4, open=False) as apool,
        AsyncTrail(apool) as atrail,
    ):
        with ConnectionPool(address, kwargs=kwargs, max_size=4, open=True) as pool, Trail(pool) as trail:
            for number in range(OFTEN):
                with trail.track_action("add", concept="work") as action:
                    action.connection.execute(WORK, (number,))
                async with atrail.track_action("add", concept="work") as added:
                    await added.connection.execute(WORK, (OFTEN + number,))
    assert {"completed": 2 * OFTEN} == Counter(str(row.status) for row in recorded_actions.all())


@pytest.fixture
def narrow(provenance_server: str, provenance_dsn: str) -> Iterator[PgBouncer]:
    """One server connection for the application, and another one for whom the database is called journal."""
    found = conninfo.conninfo_to_dict(provenance_dsn)
    entry = " ".join(f"{key}='{found[key]}'" for key in ("host", "port", "dbname") if key in found)
    with PgBouncer(provenance_server, pool_size=1, databases=f"journal = {entry}") as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals have little patience."""
    monkeypatch.setattr(connections, "DEADLINE", timedelta(milliseconds=500))


@pytest.mark.usefixtures("impatient")
def test_the_journal_waits_for_no_work(
    narrow: PgBouncer, provenance_dsn: str, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """With an entry of its own it finds a server connection while work holds all the others."""
    address = narrow.through(provenance_dsn)
    journal = conninfo.make_conninfo(address, dbname="journal")
    with Trail(address, journal=journal) as trail:
        with trail.track_action("declared", concept="work", durability="intent"):
            pass
        with psycopg.connect(address) as connection:
            with suppress(Boom), trail.track_action("joined", concept="work", connection=connection):
                raise Boom
            recorded_actions.expect("""
                declared completed
                joined failed
            """)
    assert [] == caplog.messages


@pytest.mark.usefixtures("impatient")
def test_a_journal_that_has_to_wait_for_the_work_gives_up(narrow: PgBouncer, provenance_dsn: str) -> None:
    """Sharing the one server connection, it would wait for itself; it says so in time, before anything is done."""
    with (
        Trail(narrow.through(provenance_dsn)) as trail,
        pytest.raises(TrailUnavailable, match="nothing has been done"),
        trail.track_action("declared", concept="work", durability="intent"),
    ):
        pytest.fail("entered")


# --- The command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(provenance_server: str, bouncer: PgBouncer) -> Iterator[str]:
    """The address of an empty database through PgBouncer."""
    name = f"provenance_bare_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield bouncer.through(conninfo.make_conninfo(provenance_server, dbname=name))
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def run(dsn: str, *arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(cli, ["--dsn", dsn, *arguments], catch_exceptions=False, prog_name="provenance")
    return answer.exit_code, answer.output


def test_migrating(bare: str) -> None:
    """Two deploys at once, up, and all the way down again."""
    command = [sys.executable, "-c", "from provenance.cli import main; main()", "--dsn", bare, "migrate", "up"]
    deploys = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [0, 0] == [deploy.wait(60) for deploy in deploys]
    assert (0, "no differences\n") == run(bare, "migrate", "verify")
    with Trail(bare) as trail, trail.track_action("add", concept="work"):
        pass
    code, log = run(bare, "log")
    assert (0, 1) == (code, log.count("add"))
    assert 0 == run(bare, "migrate", "down", "--to", "0", "--yes")[0]
    with psycopg.connect(bare, prepare_threshold=None) as connection:
        assert (None,) == connection.execute("SELECT to_regnamespace('provenance')").fetchone()


def test_migrating_from_python(bare: str) -> None:
    """With a connection that prepares nothing."""
    for _ in range(2):
        with psycopg.connect(bare, autocommit=True, prepare_threshold=None) as connection:
            schema.up(connection)
            schema.down(connection, to=0)
