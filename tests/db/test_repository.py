"""Reading the trail, in both colours: every method, and its bounds."""

from __future__ import annotations

import asyncio
import inspect
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import conninfo, sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool

from provenance import ids
from provenance.errors import InvalidAction, InvalidRequestID
from provenance.models import ActionTree, Page, Status
from provenance.repository import ActionRepository, AsyncActionRepository
from provenance.trail import Trail

BASE = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def number(n: int) -> UUID:
    """Return the id of the n-th action of a test: made n seconds after BASE."""
    return UUID(int=ids.floor_id(BASE + n * SECOND).int | n)


def numbers(actions: Any) -> list[int]:
    """Return which actions these are."""
    return [action.id.int & 0xFFFF for action in actions]


class Bench(Protocol):
    """A repository of either colour, awaited where it must be, and a connection in a transaction that is rolled back."""

    actions: Any

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]: ...


class Blocking:
    """The blocking colour."""

    def __init__(self, address: str, **options: Any) -> None:
        self.connection = psycopg.connect(address, **options)
        self.actions = ActionRepository(lambda: nullcontext(self.connection))

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self.connection.close()


class _Awaited:
    def __init__(self, runner: asyncio.Runner, repository: AsyncActionRepository) -> None:
        self._runner, self._repository = runner, repository

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._repository, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


class Awaiting:
    """The awaiting colour, run to its end call by call."""

    def __init__(self, address: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        connecting = psycopg.AsyncConnection.connect(address, **options)
        self.connection: psycopg.AsyncConnection[Any] = self.runner.run(connecting)

        @asynccontextmanager
        async def connect() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
            yield self.connection

        self.actions = _Awaited(self.runner, AsyncActionRepository(connect))

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        async def run() -> list[tuple[Any, ...]]:
            cursor = await self.connection.execute(query.encode(), params)
            return await cursor.fetchall() if cursor.description else []

        return self.runner.run(run())

    def close(self) -> None:
        self.runner.run(self.connection.close())
        self.runner.close()


COLOURS: dict[str, type[Blocking] | type[Awaiting]] = {"sync": Blocking, "async": Awaiting}


@pytest.fixture(scope="module")
def database(provenance_server: str, provenance_template: str) -> Iterator[str]:
    """Yield a migrated database that the tests of this module share, each in a transaction that is rolled back."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        yield conninfo.make_conninfo(provenance_server, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(params=COLOURS)
def bench(request: pytest.FixtureRequest, database: str) -> Iterator[Bench]:
    """Yield a repository of each colour in turn."""
    opened = COLOURS[request.param](database)
    yield opened
    opened.close()


def ended(bench: Bench, n: int, **columns: object) -> None:
    """Insert an ended action, a root unless said otherwise."""
    started = BASE + n * SECOND
    row: dict[str, object] = {
        "id": number(n),
        "root_id": number(n),
        "action_type": "a",
        "concept": "c",
        "status": "completed",
        "started_at": started,
        "completed_at": started + SECOND,
        "duration_ms": 1000.0,
        **columns,
    }
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    bench.execute(f"INSERT INTO provenance.actions ({names}) VALUES ({values})", row)  # noqa: S608


def begun(bench: Bench, n: int, **columns: object) -> None:
    """Insert a begun action, a root unless said otherwise."""
    row: dict[str, object] = {
        "id": number(n),
        "root_id": number(n),
        "action_type": "a",
        "concept": "c",
        "started_at": BASE + n * SECOND,
        **columns,
    }
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    bench.execute(f"INSERT INTO provenance.action_intents ({names}) VALUES ({values})", row)  # noqa: S608


def child(bench: Bench, n: int, parent: int, root: int = 1, *, insert: Callable[..., None] = ended) -> None:
    """Insert a member of a tree."""
    insert(bench, n, parent_action_id=number(parent), root_id=number(root))


def links(chain: Any) -> list[tuple[int, int]]:
    return [(link.depth, link.action.id.int & 0xFFFF) for link in chain]


def outline(tree: ActionTree | None) -> list[tuple[int, int]]:
    assert tree is not None
    return [(depth, action.id.int & 0xFFFF) for depth, action in tree.walk()]


# --- Twins -----------------------------------------------------------------------------------------------------------


def test_twins() -> None:
    """Both colours have the same methods with the same parameters, answers and explanations."""

    def methods(repository: type) -> dict[str, Any]:
        return {name: method for name, method in vars(repository).items() if not name.startswith("_")}

    blocking, awaiting = methods(ActionRepository), methods(AsyncActionRepository)
    assert list(blocking) == list(awaiting)
    for name, method in blocking.items():
        assert inspect.signature(method) == inspect.signature(awaiting[name]), name
        assert inspect.getdoc(method) == inspect.getdoc(awaiting[name]), name
        assert inspect.iscoroutinefunction(awaiting[name]), name
        assert not inspect.iscoroutinefunction(method), name


# --- One action ------------------------------------------------------------------------------------------------------


def test_get(bench: Bench) -> None:
    """An action by its id, or nothing."""
    ended(bench, 1, action_type="approve", payload='{"a": [1, null]}')
    found = bench.actions.get(number(1))
    assert (found.id, found.action_type, found.status, found.payload) == (
        number(1),
        "approve",
        Status.COMPLETED,
        {"a": [1, None]},
    )
    assert bench.actions.get(number(2)) is None


def test_times_are_utc_whatever_the_session_is(bench: Bench) -> None:
    """The same moments, in UTC, with the server's word of when the row was written."""
    bench.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    ended(bench, 1)
    begun(bench, 2)
    found, pending = bench.actions.get(number(1)), bench.actions.get(number(2))
    assert (found.started_at, found.completed_at) == (BASE + SECOND, BASE + 2 * SECOND)
    assert (pending.started_at, pending.completed_at, pending.duration_ms) == (BASE + 2 * SECOND, None, None)
    (now,) = bench.execute("SELECT clock_timestamp()")[0]
    assert timedelta(0) <= now - found.recorded_at < timedelta(minutes=1)
    times = (found.started_at, found.completed_at, found.recorded_at, pending.started_at, pending.recorded_at)
    assert {time.tzinfo for time in times} == {UTC}


def test_a_pending_action_becomes_unknown_and_then_ends(bench: Bench) -> None:
    """Pending while an outcome may come, unknown when its time is over or it is in doubt, ended once a row says so."""
    later, earlier = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=1)
    begun(bench, 1)
    begun(bench, 2, expires_at=later)
    begun(bench, 3, expires_at=earlier)
    begun(bench, 4, doubt="the link broke", expires_at=later)
    begun(bench, 5, expires_at=earlier)
    ended(bench, 5)
    found = {n: bench.actions.get(number(n)) for n in range(1, 6)}
    assert {n: action.status for n, action in found.items()} == {
        1: Status.PENDING,
        2: Status.PENDING,
        3: Status.UNKNOWN,
        4: Status.UNKNOWN,
        5: Status.COMPLETED,
    }
    assert found[4].error_message == "the link broke"
    # Once only, though both its evidence and its outcome are there.
    assert numbers(bench.actions.search(limit=10)) == [5, 4, 3, 2, 1]


def test_bodies_do_not_depend_on_the_applications_json(database: str) -> None:
    """An application may load its JSON columns with anything; an action's bodies are plain values."""
    for colour in COLOURS.values():
        bench = colour(database)
        try:
            set_json_loads(lambda data: f"custom {data!r}", bench.connection)
            ended(bench, 1, payload='{"a": 1.5}', result="null", metadata='"text"')
            found = bench.actions.get(number(1))
            assert (found.payload, found.result, found.metadata) == ({"a": 1.5}, None, "text")
        finally:
            bench.close()


@pytest.mark.parametrize("body", ["1e6000", "[" * 3_000 + "]" * 3_000, '{"a":' * 201 + "1" + "}" * 201])
def test_a_body_that_python_cannot_read_does_not_hide_the_others(bench: Bench, body: str) -> None:
    """Anybody who may write could otherwise make a listing fail for everybody who reads."""
    for n in (1, 2, 3):
        ended(bench, n, payload=body if n == 2 else '"fine"')
    assert [action.payload for action in bench.actions.search(limit=10)] == ["fine", {"$unreadable": "value"}, "fine"]


@pytest.mark.parametrize(
    "body", ["[" * 200 + "]" * 200, '["' + "[" * 300 + '"]', "[" + "[[]," * 150 + "1" + "]" * 151, '{"\\"[": "{"}']
)
def test_a_body_is_judged_by_its_depth_alone(bench: Bench, body: str) -> None:
    """Brackets side by side, and those in texts, are no depth."""
    ended(bench, 1, payload=body)
    assert json.loads(body) == bench.actions.get(number(1)).payload


@pytest.mark.parametrize("colour", COLOURS)
def test_the_row_factory_is_the_applications_business(database: str, colour: str) -> None:
    """A connection that answers dictionaries reads as well."""
    bench = COLOURS[colour](database, row_factory=dict_row)
    try:
        ended(bench, 1)
        child(bench, 2, 1)
        assert numbers([bench.actions.get(number(1))]) == [1]
        assert numbers(bench.actions.search()) == [2, 1]
        assert links(bench.actions.chain(number(1))) == [(0, 1), (1, 2)]
        assert outline(bench.actions.tree(number(2))) == [(0, 1), (1, 2)]
    finally:
        bench.close()


# --- Requests --------------------------------------------------------------------------------------------------------


def test_by_request(bench: Bench) -> None:
    """Oldest first, pending ones among them, and nothing of another request."""
    request = uuid4()
    for n, insert in ((4, ended), (1, begun), (3, begun), (2, ended)):
        insert(bench, n, request_id=request)
    ended(bench, 5, request_id=uuid4())
    ended(bench, 6)
    assert numbers(bench.actions.by_request(request)) == [1, 2, 3, 4]
    assert numbers(bench.actions.by_request(str(request).upper())) == [1, 2, 3, 4]
    assert numbers(bench.actions.by_request(f"00-{request.hex}-0000000000000001-01")) == [1, 2, 3, 4]
    assert numbers(bench.actions.by_request(request, limit=2)) == [1, 2]
    assert bench.actions.by_request(uuid4()) == []


def test_by_request_refuses_what_is_no_request_id(bench: Bench) -> None:
    """Text that could never have been recorded is an error, not an empty answer."""
    for text in ("", "x", "0" * 32):
        with pytest.raises(InvalidRequestID):
            bench.actions.by_request(text)
        with pytest.raises(InvalidRequestID):
            bench.actions.search(request_id=text)


# --- Chains ----------------------------------------------------------------------------------------------------------


def family(bench: Bench) -> None:
    """1 caused 2 and 3; 2 caused 4, which is pending and caused 5; 6 is a stranger."""
    ended(bench, 1)
    child(bench, 2, 1)
    child(bench, 3, 1)
    child(bench, 4, 2, insert=begun)
    child(bench, 5, 4)
    ended(bench, 6)


def test_chain(bench: Bench) -> None:
    """Downwards, parents before children, pending links included."""
    family(bench)
    assert links(bench.actions.chain(number(1))) == [(0, 1), (1, 2), (1, 3), (2, 4), (3, 5)]
    assert links(bench.actions.chain(number(4))) == [(0, 4), (1, 5)]
    assert links(bench.actions.chain(number(6))) == [(0, 6)]
    assert links(bench.actions.chain(number(1), max_depth=1)) == [(0, 1), (1, 2), (1, 3)]
    assert links(bench.actions.chain(number(1), max_depth=0)) == [(0, 1)]
    assert bench.actions.chain(number(99)) == []


def test_ancestors(bench: Bench) -> None:
    """Upwards, nearest first, pending links included."""
    family(bench)
    assert links(bench.actions.ancestors(number(5))) == [(0, 5), (1, 4), (2, 2), (3, 1)]
    assert links(bench.actions.ancestors(number(5), max_depth=2)) == [(0, 5), (1, 4), (2, 2)]
    assert links(bench.actions.ancestors(number(1))) == [(0, 1)]
    assert bench.actions.ancestors(number(99)) == []


def test_tree(bench: Bench) -> None:
    """The same whole tree, whichever member is asked for."""
    family(bench)
    whole = [(0, 1), (1, 2), (2, 4), (3, 5), (1, 3)]
    for n in range(1, 6):
        assert outline(bench.actions.tree(number(n))) == whole
    assert outline(bench.actions.tree(number(6))) == [(0, 6)]
    assert bench.actions.tree(number(99)) is None


def test_what_was_caused_by_an_action_that_is_not_recorded(bench: Bench) -> None:
    """A parent that is still running, or whose row was lost, does not hide its children."""
    child(bench, 2, 1)
    child(bench, 3, 2)
    assert links(bench.actions.chain(number(1))) == [(1, 2), (2, 3)]
    assert links(bench.actions.ancestors(number(3))) == [(0, 3), (1, 2)]
    assert outline(bench.actions.tree(number(3))) == [(0, 2), (1, 3)]
    assert bench.actions.tree(number(1)) is None


def test_cycles_end(bench: Bench) -> None:
    """Parents that form a circle, which only a hand can make, are followed once around."""
    ended(bench, 1)
    child(bench, 2, 4)
    child(bench, 3, 2)
    child(bench, 4, 3, insert=begun)
    child(bench, 5, 5)
    assert links(bench.actions.chain(number(2))) == [(0, 2), (1, 3), (2, 4)]
    assert links(bench.actions.ancestors(number(2))) == [(0, 2), (1, 4), (2, 3)]
    assert links(bench.actions.chain(number(5))) == [(0, 5)]
    assert links(bench.actions.ancestors(number(5))) == [(0, 5)]
    assert outline(bench.actions.tree(number(4))) == [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5)]


def test_a_root_that_names_a_parent(bench: Bench) -> None:
    """It is in the tree once."""
    child(bench, 1, 2)
    child(bench, 2, 1)
    assert outline(bench.actions.tree(number(2))) == [(0, 1), (1, 2)]


def test_chains_are_cut_and_trees_are_not(bench: Bench) -> None:
    """A chain is followed for a hundred steps; a tree is one read, however deep."""
    ended(bench, 1)
    for n in range(2, 131):
        child(bench, n, n - 1)
    assert links(bench.actions.chain(number(1))) == [(n - 1, n) for n in range(1, 102)]
    assert links(bench.actions.ancestors(number(130))) == [(130 - n, n) for n in range(130, 29, -1)]
    assert outline(bench.actions.tree(number(77))) == [(n - 1, n) for n in range(1, 131)]


@pytest.mark.parametrize("depth", [-1, 101])
def test_depths_have_bounds(bench: Bench, depth: int) -> None:
    """Asking for more than is ever followed is an error, not a shorter answer."""
    for method in (bench.actions.chain, bench.actions.ancestors):
        with pytest.raises(ValueError, match=rf"^max_depth: expected 0 to 100, got {depth}$"):
            method(number(1), max_depth=depth)


# --- Listings --------------------------------------------------------------------------------------------------------


def listed(bench: Bench) -> None:
    """Insert actions of several users, tenants and entities, ended and pending."""
    common = {"user_id": "7", "tenant_id": "t", "entity_type": "zman", "entity_id": "42"}
    ended(bench, 1, **common)
    begun(bench, 2, **common)
    ended(bench, 3, **{**common, "user_id": "8"})
    ended(bench, 4, **{**common, "tenant_id": "u"})
    ended(bench, 5, **{**common, "entity_id": "43"})
    ended(bench, 6, **{**common, "entity_type": "city"})
    ended(bench, 7)


def test_listings_are_newest_first(bench: Bench) -> None:
    """Of an entity, a user and a tenant; ids may be numbers or UUIDs, as when recording."""
    listed(bench)
    assert numbers(bench.actions.entity_history("zman", 42)) == [4, 3, 2, 1]
    assert numbers(bench.actions.entity_history("zman", "43")) == [5]
    assert numbers(bench.actions.by_user("7")) == [6, 5, 4, 2, 1]
    assert numbers(bench.actions.by_user(8)) == [3]
    assert numbers(bench.actions.by_tenant("t")) == [6, 5, 3, 2, 1]
    assert numbers(bench.actions.by_tenant("")) == [7]
    subject = uuid4()
    ended(bench, 8, user_id=str(subject))
    assert numbers(bench.actions.by_user(subject)) == [8]
    assert numbers(bench.actions.by_user("nobody")) == []


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_id_does_not_find_everything(bench: Bench, empty: Any) -> None:
    """What a caller without a user would pass is refused, by name, before any SQL."""
    listed(bench)
    for method, name in (
        (bench.actions.by_user, "user_id"),
        (partial(bench.actions.entity_history, "zman"), "entity_id"),
        (lambda value: bench.actions.entity_history(value, 1), "entity_type"),
    ):
        with pytest.raises(InvalidAction, match=rf"^{name}: expected a value to look for, got "):
            method(empty)
    for name in ("action_type", "concept", "user_id", "correlation_id", "entity_type", "entity_id"):
        with pytest.raises(InvalidAction, match=rf"^{name}: expected a value to look for, got "):
            bench.actions.search(**{name: empty})


def test_no_tenant_at_all_does_not_find_everything(bench: Bench) -> None:
    """The empty text is the tenant of rows without one; nothing is no tenant."""
    listed(bench)
    for method in (bench.actions.by_tenant, lambda value: bench.actions.search(tenant_id=value)):
        with pytest.raises(InvalidAction, match=r"^tenant_id: expected a value to look for, got None; leave it out"):
            method(None)
    for name in ("status", "request_id", "since", "until"):
        with pytest.raises(InvalidAction, match=rf"^{name}: expected a value to look for, got None; leave it out"):
            bench.actions.search(**{name: None})


def test_ids_of_another_type_are_refused(bench: Bench) -> None:
    """As when recording."""
    with pytest.raises(InvalidAction, match=r"^user_id: expected text, an int or a UUID, got float$"):
        bench.actions.by_user(1.5)


def test_search_filters(bench: Bench) -> None:
    """Each filter alone, and all that are given together."""
    request = uuid4()
    special: dict[str, Any] = {
        "action_type": "approve",
        "concept": "order",
        "user_id": "7",
        "tenant_id": "t",
        "request_id": request,
        "correlation_id": "x/1",
        "entity_type": "zman",
        "entity_id": "42",
    }
    ended(bench, 1)
    for n, (name, value) in enumerate(special.items(), start=2):
        ended(bench, n, **{name: value})
    ended(bench, 20, **special)
    begun(bench, 21, **special)
    ended(bench, 22, **special, status="failed")
    for n, (name, value) in enumerate(special.items(), start=2):
        assert numbers(bench.actions.search(**{name: value})) == [22, 21, 20, n], name
    assert numbers(bench.actions.search(**special)) == [22, 21, 20]
    assert numbers(bench.actions.search(**{**special, "user_id": 7})) == [22, 21, 20]
    assert numbers(bench.actions.search(**special, status="failed")) == [22]
    assert numbers(bench.actions.search(**special, status=Status.PENDING)) == [21]
    assert numbers(bench.actions.search(**{**special, "concept": "other"})) == []
    assert len(bench.actions.search()) == 12


@pytest.mark.parametrize("status", list(Status))
def test_search_by_status(bench: Bench, status: Status) -> None:
    """Derived ones too."""
    for n, stored in enumerate(("completed", "failed", "rolled_back")):
        ended(bench, n, status=stored)
    begun(bench, 3)
    begun(bench, 4, doubt="?")
    expected = {"completed": 0, "failed": 1, "rolled_back": 2, "pending": 3, "unknown": 4}
    assert numbers(bench.actions.search(status=status)) == [expected[status]]
    assert numbers(bench.actions.search(status=status.value)) == [expected[status]]


def test_search_by_an_unknown_status(bench: Bench) -> None:
    """A word that is no status is an error."""
    with pytest.raises(ValueError, match="status: expected one of pending, completed"):
        bench.actions.search(status="done")


def test_search_by_time(bench: Bench) -> None:
    """From the first moment on, up to the second without it, to the millisecond."""
    for n in range(1, 6):
        ended(bench, n)
    since, before = BASE + 2 * SECOND, BASE + 4 * SECOND
    moment = timedelta(milliseconds=1)
    assert numbers(bench.actions.search(since=since, until=before)) == [3, 2]
    assert numbers(bench.actions.search(since=since)) == [5, 4, 3, 2]
    assert numbers(bench.actions.search(since=since + moment)) == [5, 4, 3]
    assert numbers(bench.actions.search(until=before)) == [3, 2, 1]
    assert numbers(bench.actions.search(until=before + moment)) == [4, 3, 2, 1]
    assert numbers(bench.actions.search(since=before, until=since)) == []


def test_ids_of_clocks_that_are_ahead_are_found(bench: Bench) -> None:
    """Other machines' clocks are not this one's: an hour ahead is shown, years ahead only when asked for."""
    now = datetime.now(UTC)
    ahead = {1: now + timedelta(hours=1), 2: now + timedelta(days=4000)}
    for n, moment in ahead.items():
        ended(bench, n, id=UUID(int=ids.floor_id(moment).int | n))
    assert numbers(bench.actions.search()) == [1]
    assert numbers(bench.actions.search(until=now + timedelta(days=5000))) == [2, 1]


def test_text_that_cannot_be_stored_is_not_found(bench: Bench) -> None:
    """A NUL or half a surrogate in a search field is no error of the driver's."""
    ended(bench, 1)
    for name in ("action_type", "concept", "user_id", "tenant_id", "correlation_id", "entity_type", "entity_id"):
        for text in ("a\0", "\ud800", "x" * 100_000):
            assert numbers(bench.actions.search(**{name: text})) == []


def test_what_was_recorded_with_an_odd_id_is_found_by_it(trail: Trail) -> None:
    """Ids are looked for in the form they were stored in: cut, escaped, as text."""
    for odd in ("x" * 1_000, "nul \0 and half a pair \udc00", -7, 2**70, uuid4()):
        with trail.track_action("a", concept="c", user_id=odd, entity_type="e", entity_id=odd, tenant_id=odd) as action:
            pass
        assert [found.id for found in trail.actions.by_user(odd)] == [action.id]
        assert [found.id for found in trail.actions.by_tenant(odd)] == [action.id]
        assert [found.id for found in trail.actions.entity_history("e", odd)] == [action.id]


# --- Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_have_neither_gaps_nor_doubles_while_rows_are_added(bench: Bench, limit: int) -> None:
    """What was there when the first page was read is read once, ended and pending alike."""
    there = list(range(100, 121))
    for n in there:
        (begun if n % 3 == 0 else ended)(bench, n, user_id="7")
        ended(bench, n + 200, user_id="8")
    read: list[int] = []
    before: UUID | None = None
    newer = 1_000
    while True:
        page: Page[Any] = bench.actions.by_user("7", before=before, limit=limit)
        read += numbers(page)
        assert len(page) <= limit
        for _ in range(3):
            ended(bench, newer, user_id="7")
            newer += 1
        # An action that is pending on one page and ends before the next is read.
        if before is not None:
            bench.execute("DELETE FROM provenance.action_intents WHERE id = %(id)s", {"id": before})
        if page.next is None:
            break
        before = page.next
        if (before.int & 0xFFFF) % 3 == 0:
            ended(bench, before.int & 0xFFFF, user_id="7")
    assert read == there[::-1]


def test_the_last_page_says_so(bench: Bench) -> None:
    """Also when it is exactly full, or empty."""
    for n in (1, 2, 3, 4):
        ended(bench, n)
    first = bench.actions.search(limit=2)
    second = bench.actions.search(limit=2, before=first.next)
    assert (numbers(first), first.next, numbers(second), second.next) == ([4, 3], number(3), [2, 1], None)
    beyond = bench.actions.search(limit=2, before=number(1))
    assert (numbers(beyond), beyond.next) == ([], None)


@pytest.mark.parametrize("limit", [0, -1, 1_001])
def test_limits_have_bounds(bench: Bench, limit: int) -> None:
    """Neither nothing nor everything can be asked for."""
    for method in (
        bench.actions.search,
        partial(bench.actions.by_user, 7),
        partial(bench.actions.by_tenant, 7),
        partial(bench.actions.entity_history, "e", 7),
        partial(bench.actions.by_request, uuid4()),
    ):
        with pytest.raises(ValueError, match=rf"^limit: expected 1 to 1000, got {limit}; "):
            method(limit=limit)


# --- Pools -----------------------------------------------------------------------------------------------------------


def test_a_repository_gives_its_connection_back(database: str) -> None:
    """One connection serves any number of reads, failing ones too."""
    with ConnectionPool(database, min_size=1, max_size=1, timeout=10, open=True) as pool:
        repository = ActionRepository(pool.connection)
        for _ in range(3):
            assert repository.get(number(1)) is None
            with pytest.raises(ValueError, match="limit"):
                repository.search(limit=0)
    assert pool.get_stats().get("requests_errors", 0) == 0


def test_search_by_something_unknown(bench: Bench) -> None:
    """A misspelt filter must not find everything."""
    with pytest.raises(TypeError, match="unknown filter user; expected action_type, concept"):
        bench.actions.search(user="ada")  # type: ignore[call-arg]
