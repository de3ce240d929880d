"""Reading row changes: history, blame, what an action changed, and what rows and tables were at some time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provenance import InvalidAction, NotCaptured, SchemaNotReady
from provenance.changes import AsyncChangeRepository, ChangeRepository
from provenance.statements import changes as statements
from provenance.trail import Trail
from tests.support import colours
from tests.support.colours import Blocking, done

pytestmark = pytest.mark.anyio

colour = colours.colour


@pytest.fixture
def eye(direct_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another connection, in autocommit mode."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def now(eye: psycopg.Connection[Any]) -> datetime:
    """Return the database's time."""
    ((at,),) = eye.execute("SELECT clock_timestamp()").fetchall()
    assert isinstance(at, datetime)
    return at


async def test_history_comes_newest_first_and_in_pages(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Without gap or overlap, across captures and changes of the key."""
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("INSERT INTO work (id) VALUES (1)")
    for number in range(3):
        eye.execute("UPDATE work SET secret = %s", (number,))
    await done(colour.trail.release("work"))
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("UPDATE work SET id = 2; UPDATE work SET id = 1; DELETE FROM work")
    changes = colour.trail.changes
    whole = (await done(changes.history("work", 1, limit=100))).items
    assert [change.operation.value for change in whole] == [
        "delete", "update", "update", "update", "update", "update", "insert",
    ]  # fmt: skip
    assert [(change.old_key, change.key) for change in whole[:3]] == [(None, "1"), ("2", "1"), ("1", "2")]
    paged, before = [], None
    while True:
        page = await done(changes.history("work", 1, before=before, limit=2))
        paged += list(page)
        if (before := page.next) is None:
            break
        assert len(page) == 2
    assert paged == list(whole)


async def test_of_action_gives_what_it_and_its_descendants_changed(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Oldest first, in pages, with all rows of bulk statements and nothing of others that were written meanwhile."""
    await done(colour.trail.capture("work", keep=["secret"]))
    async with colour.track("outer") as outer:
        await done(outer.connection.execute("INSERT INTO work (id) SELECT generate_series(1, 30)"))
        eye.execute("INSERT INTO work (id) VALUES (100)")
        async with colour.track("inner") as inner:
            await done(inner.connection.execute("UPDATE work SET secret = id::text WHERE id BETWEEN 4 AND 5"))
        await done(outer.connection.execute("DELETE FROM work WHERE id > 29 AND id < 100"))
    changes = colour.trail.changes
    whole = (await done(changes.of_action(outer.id, limit=100))).items
    told = [(change.operation.value, int(change.key)) for change in whole]
    assert told == [*(("insert", n) for n in range(1, 31)), ("update", 4), ("update", 5), ("delete", 30)]
    alone = (await done(changes.of_action(outer.id, descendants=False, limit=100))).items
    assert alone == tuple(change for change in whole if change.operation != "update")
    assert (await done(changes.of_action(inner.id))).items == whole[30:32]
    paged, after = [], None
    while True:
        page = await done(changes.of_action(outer.id, after=after, limit=7))
        paged += list(page)
        if (after := page.next) is None:
            break
    assert paged == list(whole)
    assert (await done(changes.of_action(uuid4()))).items == ()


async def test_blame_tells_of_every_column_who_last_set_it(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """The action with its user and request; nobody's writes and values from before the capture are told apart."""
    eye.execute("CREATE TABLE t (id integer PRIMARY KEY, a text, b text, c text, d text, password text)")
    eye.execute("INSERT INTO t VALUES (1, 'a0', 'b0', 'c0', 'd0', 'p0')")
    await done(colour.trail.capture("t"))
    async with colour.track("first", user_id="ann") as first:
        await done(first.connection.execute("UPDATE t SET a = 'a1', b = 'b1', password = 'p1'"))
    async with colour.track("second", user_id="ben") as second:
        await done(second.connection.execute("UPDATE t SET b = 'b2'"))
    eye.execute("UPDATE t SET c = 'c3'")
    blame = {found.column: found for found in await done(colour.trail.changes.blame("t", 1))}
    told = {
        column: (found.value, found.action and found.action.user_id, found.change is not None)
        for column, found in blame.items()
    }
    assert told == {
        "id": (1, None, False),
        "a": ("a1", "ann", True),
        "b": ("b2", "ben", True),
        "c": ("c3", None, True),
        "d": ("d0", None, False),
        "password": ("[redacted]", "ann", True),
    }
    assert list(told) == ["id", "a", "b", "c", "d", "password"]
    assert blame["b"].action == await done(colour.trail.actions.get(second.id))


async def test_blame_follows_a_row_through_changes_of_its_key(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """And not into the lives of others that had the key."""
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("INSERT INTO work (id, secret) VALUES (3, 'a stranger'); DELETE FROM work")
    async with colour.track("make") as made:
        await done(made.connection.execute("INSERT INTO work (id, secret) VALUES (1, 'x'), (2, 'y')"))
    async with colour.track("move") as moved:
        await done(moved.connection.execute("UPDATE work SET id = id + 1 WHERE id = 2"))
        await done(moved.connection.execute("UPDATE work SET id = id + 1 WHERE id = 1"))
    for key, value in ((3, "y"), (2, "x")):
        blame = {found.column: found for found in await done(colour.trail.changes.blame("work", key))}
        assert (blame["id"].action.id, blame["secret"].action.id) == (moved.id, made.id)
        assert blame["secret"].value == value


async def test_blame_of_a_row_that_is_gone_tells_what_it_was_last(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """With a column that the table has no more; a key that nothing is known of has none."""
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("INSERT INTO work (id, secret) VALUES (1, 'x'); UPDATE work SET secret = 'y'; DELETE FROM work")
    eye.execute("ALTER TABLE work DROP secret; DELETE FROM work")
    blame = {found.column: found for found in await done(colour.trail.changes.blame("work", 1))}
    assert (blame["secret"].value, blame["secret"].change.operation.value) == ("y", "update")
    assert blame["id"].change.operation.value == "insert"
    unknown = await done(colour.trail.changes.blame("work", 7))
    assert (unknown.columns, unknown.ended) == ((), None)


@pytest.mark.parametrize(
    "end", ["DELETE FROM work WHERE id = 1", "TRUNCATE work", "UPDATE work SET id = 2 WHERE id = 1"]
)
async def test_blame_says_that_and_by_whom_a_row_came_to_its_end(
    colour: Blocking, eye: psycopg.Connection[Any], end: str
) -> None:
    """It was removed, or has another key now; who last set its columns is told all the same."""
    await done(colour.trail.capture("work", keep=["secret"]))
    async with colour.track("make", user_id="ann") as made:
        await done(made.connection.execute("INSERT INTO work (id, secret) VALUES (1, 'x')"))
    found = await done(colour.trail.changes.blame("work", 1))
    assert found.ended is None
    async with colour.track("end", user_id="ben") as ending:
        await done(ending.connection.execute(end))
    found = await done(colour.trail.changes.blame("work", 1))
    assert [(entry.column, entry.action and entry.action.id) for entry in found] == [
        ("id", made.id), ("secret", made.id), ("action_id", made.id)
    ]  # fmt: skip
    (newest, *_) = await done(colour.trail.changes.history("work", 1))
    assert found.ended.change == newest
    assert found.ended.change.operation.value == end.split(maxsplit=1)[0].lower()
    assert (found.ended.action.id, found.ended.action.user_id) == (ending.id, "ben")
    eye.execute("INSERT INTO work (id) VALUES (1)")
    assert (await done(colour.trail.changes.blame("work", 1))).ended is None
    eye.execute("DELETE FROM work WHERE id = 1")
    last = (await done(colour.trail.changes.blame("work", 1))).ended
    assert (last.change.db_user, last.action) == ("postgres", None)


async def test_blame_of_a_row_that_only_lost_its_key_tells_what_it_was(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Nothing else is stored of it; and a row that took the key over in the same statement is there."""
    eye.execute("INSERT INTO work (id, secret) VALUES (1, 'x'), (2, 'y')")
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("UPDATE work SET id = id + 1 WHERE id = 2; UPDATE work SET id = id + 1 WHERE id = 1")
    blame = await done(colour.trail.changes.blame("work", 1))
    assert [(found.value, found.change) for found in blame] == [(1, None), ("x", None), (None, None)]
    assert (blame.ended.change.old_key, blame.ended.change.key) == ("1", "2")
    assert (await done(colour.trail.changes.blame("work", 2))).ended is None
    eye.execute("CREATE TABLE turned (id integer PRIMARY KEY DEFERRABLE)")
    await done(colour.trail.capture("turned"))
    eye.execute("INSERT INTO turned VALUES (1), (2); UPDATE turned SET id = 3 - id")
    assert [(await done(colour.trail.changes.blame("turned", key))).ended for key in (1, 2)] == [None, None]


async def test_blame_begins_at_the_baseline(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """An adopted row has a first change, which is the adoption's."""
    eye.execute("INSERT INTO work (id) VALUES (1)")
    await done(colour.trail.capture("work"))
    await done(colour.trail.adopt("work"))
    blame = await done(colour.trail.changes.blame("work", 1))
    assert {found.change.operation.value for found in blame} == {"baseline"}
    assert {found.action.action_type for found in blame} == {"adopt_table"}


async def test_as_of_looks_back_forward_and_at_the_table(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Rows that were never changed, and those that were changed later only, are known too."""
    eye.execute(
        "INSERT INTO work (id, secret) VALUES (1, 'never'), (2, 'later'), (3, 'before'), (4, 'gone'), (5, 'moved')"
    )
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("UPDATE work SET secret = 'since' WHERE id = 3")
    at = now(eye)
    eye.execute("""UPDATE work SET secret = 'now' WHERE id = 2; DELETE FROM work WHERE id = 4;
                   UPDATE work SET id = 50 WHERE id = 5; INSERT INTO work (id) VALUES (6)""")
    rows = await done(colour.trail.changes.table_as_of("work", at))
    assert {row.key: row.values["secret"] for row in rows} == {
        "1": "never",
        "2": "later",
        "3": "since",
        "4": "gone",
        "5": "moved",
    }
    for row in rows:
        assert await done(colour.trail.changes.as_of("work", int(row.key), at)) == row.values
    assert await done(colour.trail.changes.as_of("work", 6, at)) is None
    assert await done(colour.trail.changes.as_of("work", 50, at)) is None
    assert (await done(colour.trail.changes.as_of("work", 50, now(eye))))["secret"] == "moved"  # noqa: S105 - a column


async def test_as_of_needs_no_table_any_more_where_rows_were_adopted(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """What was stored outlives it."""
    eye.execute("INSERT INTO work (id) VALUES (1), (2)")
    await done(colour.trail.capture("work"))
    at = now(eye)
    await done(colour.trail.adopt("work"))
    eye.execute("DELETE FROM work WHERE id = 2")
    later = now(eye)
    eye.execute("DROP TABLE work")
    changes = colour.trail.changes
    assert [row.key for row in await done(changes.table_as_of("public.work", at))] == ["1", "2"]
    assert [row.key for row in await done(changes.table_as_of("public.work", later))] == ["1"]


@pytest.mark.parametrize("end", ["SELECT provenance.release_table('work')", "DROP TABLE work"])
async def test_what_a_table_was_is_not_guessed_at_once_it_is_gone(
    colour: Blocking, eye: psycopg.Connection[Any], end: str
) -> None:
    """Rows that never changed are stored only by adopting; what is known of a row that did change is told."""
    eye.execute("INSERT INTO work (id) VALUES (1), (2), (3)")
    await done(colour.trail.capture("work"))
    eye.execute("UPDATE work SET id = 30 WHERE id = 3; DELETE FROM work WHERE id = 2; INSERT INTO work (id) VALUES (4)")
    at = now(eye)
    eye.execute(end.encode())
    changes = colour.trail.changes
    message = (
        r"^what was in public\.work at .* is not known: it was released or dropped without having been adopted, and rows "
        r"that did not change while it was captured are not stored; adopt a table before that$"
    )
    with pytest.raises(NotCaptured, match=message):
        await done(changes.table_as_of("public.work", at))
    for key in (1, 7):
        with pytest.raises(NotCaptured, match=message):
            await done(changes.as_of("public.work", key, at))
    found = {key: await done(changes.as_of("public.work", key, at)) for key in (2, 3, 4, 30)}
    assert {key: row and row["id"] for key, row in found.items()} == {2: None, 3: None, 4: 4, 30: 30}


async def test_adopting_an_empty_table_makes_what_is_known_of_it_complete(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Although there is no row that says so; and adopting again does not undo it."""
    await done(colour.trail.capture("work"))
    assert await done(colour.trail.adopt("work")) == 0
    eye.execute("INSERT INTO work (id) VALUES (1)")
    at = now(eye)
    assert await done(colour.trail.adopt("work")) == 0
    await done(colour.trail.release("work"))
    assert [row.key for row in await done(colour.trail.changes.table_as_of("work", at))] == ["1"]
    assert await done(colour.trail.changes.as_of("work", 2, at)) is None


async def test_adopting_what_policies_hide_in_part_does_not_make_it_complete(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Rows that the adopting role cannot see are not stored."""
    eye.execute("INSERT INTO work (id) VALUES (1)")
    await done(colour.trail.capture("work"))
    at = now(eye)
    eye.execute("""CREATE ROLE provenance_blind;
        ALTER TABLE work ENABLE ROW LEVEL SECURITY;
        GRANT USAGE ON SCHEMA provenance TO provenance_blind;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA provenance TO provenance_blind;
        GRANT ALL ON ALL TABLES IN SCHEMA provenance TO provenance_blind;
        GRANT SELECT ON work TO provenance_blind""")
    try:
        eye.execute("SET ROLE provenance_blind; SELECT provenance.adopt_table('work'); RESET ROLE")
        await done(colour.trail.release("work"))
        with pytest.raises(NotCaptured, match="without having been adopted"):
            await done(colour.trail.changes.table_as_of("work", at))
    finally:
        eye.execute("DROP OWNED BY provenance_blind; DROP ROLE provenance_blind")


def test_a_table_captured_anew_when_a_partition_is_detached_is_told_right(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """Detaching fires no trigger; a new stretch begins without its rows, and the old one still has them."""
    eye.execute("""CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (2);
        CREATE TABLE parted_2 PARTITION OF parted DEFAULT; INSERT INTO parted VALUES (1), (2)""")
    trail.capture("parted")
    before = now(eye)
    trail.adopt("parted")
    with eye.transaction():
        eye.execute("SELECT provenance.release_table('parted')")
        eye.execute("ALTER TABLE parted DETACH PARTITION parted_1")
        eye.execute("SELECT provenance.capture_table('parted')")
    trail.adopt("parted")
    assert [row.key for row in trail.changes.table_as_of("parted", before)] == ["1", "2"]
    assert [row.key for row in trail.changes.table_as_of("parted", now(eye))] == ["2"]
    assert [trail.changes.as_of("parted", key, now(eye)) for key in (1, 2)] == [None, {"id": 2}]


async def test_as_of_a_time_without_capture_is_refused(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Before it began, and between two."""
    before = now(eye)
    await done(colour.trail.capture("work"))
    during = now(eye)
    await done(colour.trail.adopt("work"))
    await done(colour.trail.release("work"))
    between = now(eye)
    await done(colour.trail.capture("work"))
    changes = colour.trail.changes
    assert await done(changes.table_as_of("work", during)) == []
    unknown = "what was in work at {} is not known: its row changes were not captured then; "

    async def refuse(at: datetime, hint: str) -> None:
        for call in (lambda: changes.table_as_of("work", at), lambda: changes.as_of("work", 1, at)):
            with pytest.raises(NotCaptured) as caught:
                await done(call())
            assert _timeless(str(caught.value)) == unknown.format("…") + hint

    await refuse(before, "they were captured from … until …")
    await refuse(between, "the table was released at …, and captured again at …")
    await done(colour.trail.release("work"))
    await refuse(now(eye), "the table was released at …, and is not captured any more")
    ((released,),) = eye.execute("SELECT max(released_at) FROM provenance.captured_tables").fetchall()
    with pytest.raises(NotCaptured, match=re.escape(f"released at {released.astimezone(UTC):%Y-%m-%d %H:%M:%S}")):
        await done(changes.table_as_of("work", now(eye)))


async def test_as_of_a_time_before_the_capture_says_since_when(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """While it is still going on."""
    before = now(eye)
    await done(colour.trail.capture("work"))
    with pytest.raises(NotCaptured) as caught:
        await done(colour.trail.changes.table_as_of("work", before))
    assert _timeless(str(caught.value)).endswith("captured then; they are captured since …")


def _timeless(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d [\d:.]+\+00", "…", text)


async def test_reading_what_was_never_captured_is_refused(colour: Blocking) -> None:
    """With its name and the remedy."""
    changes = colour.trail.changes
    for call in (
        lambda: changes.history("work", 1),
        lambda: changes.blame("work", 1),
        lambda: changes.as_of("work", 1, datetime.now(UTC)),
        lambda: changes.table_as_of("work", datetime.now(UTC)),
    ):
        with pytest.raises(NotCaptured) as caught:
            await done(call())
        assert str(caught.value) == (
            "row changes of public.work have never been captured; capture it with `provenance capture public.work`"
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone",
            "there is no table gone in the search path; row changes of public.gone have been captured, so write that",
        ),
        (
            "GONE",
            "there is no table GONE in the search path; row changes of public.gone have been captured, so write that",
        ),
        ("app.gone", "there is no table app.gone; row changes of public.gone have been captured, so write that"),
        (
            "big",
            (
                'there is no table big in the search path; row changes of other."Big", public."Big" have been captured, so '
                "write one of these"
            ),
        ),
        (
            "nope",
            (
                "there is no table nope in the search path, and none of that name has ever been captured; write its name "
                "with its schema"
            ),
        ),
        ("app.nope", "there is no table app.nope, and none of that name has ever been captured"),
    ],
)
async def test_reading_of_a_table_that_is_not_there_names_what_was_captured(
    colour: Blocking, eye: psycopg.Connection[Any], name: str, message: str
) -> None:
    """It is never said of a dropped table that it was not captured."""
    eye.execute("""CREATE SCHEMA other; CREATE TABLE gone (id integer PRIMARY KEY);
        CREATE TABLE "Big" (id integer PRIMARY KEY); CREATE TABLE other."Big" (id integer PRIMARY KEY)""")
    for table in ("gone", '"Big"', 'other."Big"'):
        await done(colour.trail.capture(table))
        eye.execute(f"INSERT INTO {table} VALUES (1); DROP TABLE {table}".encode())  # noqa: S608
    changes = colour.trail.changes
    for call in (lambda: changes.history(name, 1), lambda: changes.table_as_of(name, datetime.now(UTC))):
        with pytest.raises(NotCaptured) as caught:
            await done(call())
        assert str(caught.value) == message
    assert len(await done(changes.history("PUBLIC.Gone", 1))) == 1


async def test_arguments_that_cannot_be_meant_are_refused(colour: Blocking) -> None:
    """Each with its name, before anything is asked or in the database's words."""
    await done(colour.trail.capture("work"))
    changes = colour.trail.changes
    for call, message in (
        (lambda: changes.history("work", object()), "^key: expected text, a number, a UUID, .* got object$"),
        (lambda: changes.history("work", []), "^key: expected one value at least, got an empty list$"),
        (lambda: changes.history("work", 1, before="x"), "^before: expected the next of a page of changes$"),
        (lambda: changes.of_action(uuid4(), after="1.2.x"), "^after: expected the next of a page of changes$"),
        (lambda: changes.as_of("work", 1, datetime(2026, 1, 1)), "^at: expected a datetime with a time zone"),  # noqa: DTZ001
        (lambda: changes.history("a.b.c.d", 1), "^table: "),
    ):
        with pytest.raises(InvalidAction, match=message):
            await done(call())
    with pytest.raises(ValueError, match=r"^limit: expected 1 to 1000, got 0"):
        await done(changes.history("work", 1, limit=0))


def test_both_colours_have_the_same_methods() -> None:
    """With the same arguments."""
    for name, method in inspect.getmembers(ChangeRepository, inspect.isfunction):
        if not name.startswith("_"):
            twin = getattr(AsyncChangeRepository, name)
            assert inspect.signature(method) == inspect.signature(twin)
            assert inspect.getdoc(method) == inspect.getdoc(twin)


def test_a_reader_may_read_changes_and_nothing_else(
    trail: Trail, eye: psycopg.Connection[Any], provenance_dsn: str
) -> None:
    """What a table was needs a look at the table itself, and so the right to it."""
    eye.execute("CREATE ROLE provenance_reading LOGIN")
    try:
        eye.execute("SELECT provenance.grant_reader('provenance_reading')")
        trail.capture("work", keep=["secret"])
        eye.execute("INSERT INTO work (id) VALUES (1)")
        address = psycopg.conninfo.make_conninfo(provenance_dsn, user="provenance_reading")
        with psycopg.connect(address, autocommit=True) as own:
            changes = ChangeRepository(lambda: nullcontext(own))
            assert len(changes.history("work", 1)) == 1
            assert len(changes.blame("work", 1)) == 3
            with pytest.raises(SchemaNotReady) as caught:
                changes.as_of("work", 1, now(eye))
            assert str(caught.value) == (
                "this database role lacks a right that reading row changes needs (permission denied for table work); have "
                "the owner of the table grant it USAGE on its schema and, to see what was there, SELECT on it; what is the "
                "trail's, `provenance migrate grant --reader ROLE` grants"
            )
            eye.execute("CREATE SCHEMA hidden")
            with pytest.raises(SchemaNotReady, match=r"\(permission denied for schema hidden\); have the owner of the"):
                changes.history("hidden.work", 1)
            eye.execute("GRANT SELECT ON work TO provenance_reading")
            assert changes.as_of("work", 1, now(eye)) == {"id": 1, "secret": None, "action_id": None}
            assert own.execute("SELECT table_name FROM provenance.coverage() WHERE is_captured").fetchall() == [
                ("public.work",)
            ]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute("SELECT provenance.release_table('work')")
    finally:
        eye.execute("DROP OWNED BY provenance_reading; DROP ROLE provenance_reading")


def test_the_changes_of_a_row_are_found_by_index(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Among very many of other rows, and those of an action among those of others."""
    trail.capture("work", keep=["secret"])
    eye.execute("INSERT INTO work (id) SELECT generate_series(1, 20000)")
    with trail.track_action("change", concept="work") as action:
        action.connection.execute("UPDATE work SET secret = 'x' WHERE id = 7")
    eye.execute("UPDATE work SET secret = id::text")
    eye.execute("ANALYZE provenance.row_changes; SET enable_seqscan = off")
    for statement, index in (
        (statements.history("work", 7, before=None, limit=10), "row_changes_.*row_slot_idx"),
        (statements.blame("work", 7), "row_changes_.*row_slot_idx"),
        (statements.of_action(action.id, descendants=True, after=None, limit=10), "row_changes_.*action_id_seq"),
    ):
        plan = "\n".join(line for (line,) in eye.execute(b"EXPLAIN " + str(statement.query).encode(), statement.params))
        assert re.search(index, plan)


# A history of random statements. The table as it really was is written down after each of them.
KEYS = st.integers(1, 4)
STATEMENTS = st.one_of(
    st.builds("INSERT INTO t VALUES ({}, {}) ON CONFLICT (id) DO UPDATE SET v = excluded.v".format, KEYS, KEYS),
    st.builds("INSERT INTO t SELECT g, {} FROM generate_series(1, 4) g WHERE g NOT IN (SELECT id FROM t)".format, KEYS),
    st.builds("UPDATE t SET v = v + 1 WHERE id <= {}".format, KEYS),
    st.builds("UPDATE t SET id = {} - id WHERE id < {}".format, st.integers(4, 6), KEYS),
    st.builds("UPDATE t SET id = 1 + id % 4".format),
    st.builds("UPDATE t SET v = NULL".format),
    st.builds("DELETE FROM t WHERE id = {}".format, KEYS),
    st.just("TRUNCATE t"),
)


@pytest.mark.parametrize("partitioned", [False, True])
def test_as_of_equals_the_real_table_at_every_instant_of_a_random_history(
    trail: Trail, eye: psycopg.Connection[Any], partitioned: bool
) -> None:
    """Including deletes, re-inserts and changes of keys, adopted or not; or it is refused, and never false."""
    kind = " PARTITION BY RANGE (id)" if partitioned else ""
    eye.execute(f"CREATE TABLE t (id integer PRIMARY KEY{' DEFERRABLE' * (not partitioned)}, v integer){kind}".encode())
    if partitioned:
        eye.execute(
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (3); CREATE TABLE t_2 PARTITION OF t DEFAULT"
        )

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sets(KEYS),
        st.lists(STATEMENTS, min_size=1, max_size=12),
        st.integers(0, 12),
        st.sampled_from(["kept", "adopted and released", "released"]),
    )
    def check(present: set[int], history: list[str], adopted_after: int, end: str) -> None:
        eye.execute("DELETE FROM t")
        for key in sorted(present):
            eye.execute("INSERT INTO t VALUES (%s, 0)", (key,))
        trail.capture("t")
        really: list[tuple[datetime, dict[str, dict[str, Any]]]] = []

        def look() -> None:
            rows = eye.execute("SELECT id, v FROM t").fetchall()
            really.append((now(eye), {str(key): {"id": key, "v": v} for key, v in rows}))

        look()
        for number, statement in enumerate(history):
            if number == adopted_after:
                trail.adopt("t")
            # One that fails changes nothing.
            with suppress(psycopg.errors.UniqueViolation, psycopg.errors.ObjectNotInPrerequisiteState):
                eye.execute(statement.encode())
            look()
        adopted = end == "adopted and released" or adopted_after < len(history)
        if end == "adopted and released":
            trail.adopt("t")
        if end != "kept":
            # From now on, only what was stored tells; without a baseline, a row that never changed is not in it.
            trail.release("t")
        complete = end == "kept" or adopted
        for at, rows in really:
            for key in range(1, 6):
                with nullcontext() if complete else suppress(NotCaptured):
                    found = trail.changes.as_of("t", key, at)
                    assert (None if found is None else dict(found)) == rows.get(str(key))
            with nullcontext() if complete else pytest.raises(NotCaptured):
                assert {row.key: dict(row.values) for row in trail.changes.table_as_of("t", at)} == rows
        if end == "kept":
            trail.release("t")

    check()


def test_the_clock_may_step_back(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Changes count in the order in which they were done, whatever their times."""
    trail.capture("work", keep=["secret"])
    eye.execute("INSERT INTO work (id, secret) VALUES (1, 'a')")
    eye.execute("UPDATE work SET secret = 'b'")
    later = now(eye) + timedelta(hours=1)
    eye.execute("ALTER TABLE provenance.row_changes DISABLE TRIGGER refuse_change")
    eye.execute(
        "UPDATE provenance.row_changes SET recorded_at = recorded_at + interval '1 minute' WHERE operation = 'insert'"
    )
    row = trail.changes.as_of("work", 1, later)
    assert row is not None
    assert row["secret"] == "b"  # noqa: S105 - a column
