"""Resolved views: refreshed once at a time, each time as an action, and how stale they are."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql
from psycopg_pool import ConnectionPool

from provenance import Refresh, SchemaNotReady, TableRefused, ViewState
from provenance.refreshing import AsyncViews, Views
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.support import colours
from tests.support.colours import Blocking, done
from tests.support.databases import eye

__all__ = ["colour", "eye"]

pytestmark = pytest.mark.anyio

colour = colours.colour

Connection = psycopg.Connection[Any]

SETUP = """
CREATE TABLE source (id integer PRIMARY KEY, name text);
INSERT INTO source VALUES (1, 'one');
CREATE MATERIALIZED VIEW shown AS SELECT id, name FROM source;
CREATE UNIQUE INDEX ON shown (id);
"""

FUNCTION = """
CREATE FUNCTION refresh_{0}() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$SELECT provenance.refresh_view('public.{0}')$$;
REVOKE ALL ON FUNCTION refresh_{0}() FROM PUBLIC
"""


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def provenance_dsn(provenance_dsn: str) -> str:
    """The address of a database with a table and a view of it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(SETUP)
        connection.execute("SELECT pg_stat_force_next_flush()")
    return provenance_dsn


def make_function(eye: Connection, view: str = "shown") -> None:
    eye.execute(FUNCTION.format(view).encode())


def write(eye: Connection, statement: str) -> None:
    """Execute a statement, and have it counted."""
    eye.execute(statement.encode())
    eye.execute("SELECT pg_stat_force_next_flush()")


def rows(eye: Connection, view: str = "shown") -> list[tuple[Any, ...]]:
    return eye.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(view))).fetchall()


def state(trail: Trail, view: str = "public.shown") -> ViewState:
    (found,) = (state for state in trail.views() if state.view == view)
    return found


# -- a refresh --


@pytest.mark.parametrize("concurrently", [True, False])
async def test_a_refresh_is_an_action(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions, concurrently: bool
) -> None:
    """About the view, by its full name; the answer names the action."""
    write(eye, "INSERT INTO source VALUES (2, 'two')")
    found = await done(colour.trail.refresh("shown", concurrently=concurrently))
    action = recorded_actions.one(action_type="refresh_view")
    assert Refresh(view="public.shown", refreshed=True, action_id=action.id) == found
    assert ("completed", "view", "view", "public.shown", {"concurrently": concurrently}) == (
        action.status,
        action.concept,
        action.entity_type,
        action.entity_id,
        action.payload,
    )
    assert {"refreshed": True, "rows_written": 2} == action.result
    assert [(1, "one"), (2, "two")] == rows(eye)


async def test_inside_an_action_it_is_a_part_of_that(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions
) -> None:
    """It sees what the action has written, and others see it when that has committed."""
    async with colour.track("import") as action:
        await done(action.connection.execute("INSERT INTO source VALUES (2, 'two')"))
        await done(colour.trail.refresh("shown"))
        assert [(1, "one")] == rows(eye)
    assert [(1, "one"), (2, "two")] == rows(eye)
    recorded_actions.expect("""
        import completed
          refresh_view completed
    """)


async def test_of_two_at_once_the_second_does_not_wait(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions
) -> None:
    """It answers that another session is at it, and its action says so; that other one's work counts."""
    with psycopg.connect(colour.dsn) as first:
        first.execute("SELECT provenance.refresh_view('shown')")
        eye.execute("SET lock_timeout = '1ms'")
        found = await done(colour.trail.refresh("shown"))
        assert not found.refreshed
        assert (False,) == eye.execute("SELECT provenance.refresh_view('shown')").fetchone()
    by_whom = {made.id == found.action_id: made for made in recorded_actions.all()[1:]}
    assert [("completed", {"refreshed": False, "rows_written": 1})] * 2 == [
        (made.status, made.result) for made in (by_whom[True], by_whom[False])
    ]
    (shown,) = await done(colour.trail.views())
    assert shown.action_id not in (None, found.action_id)


async def test_another_view_is_none_of_their_business(colour: Blocking, eye: Connection) -> None:
    """Only refreshes of the same view keep each other off."""
    eye.execute("CREATE MATERIALIZED VIEW other AS SELECT 1 AS id; CREATE UNIQUE INDEX ON other (id)")
    with psycopg.connect(colour.dsn) as first:
        first.execute("SELECT provenance.refresh_view('shown')")
        assert (await done(colour.trail.refresh("other"))).refreshed


def test_readers_go_on_reading(trail: Trail, eye: Connection) -> None:
    """Those that have begun hold no concurrent refresh up, and those that come see the rows of before."""
    write(eye, "INSERT INTO source VALUES (2, 'two')")
    with psycopg.connect(eye.info.dsn) as reader:
        assert [(1, "one")] == rows(reader)
        with trail.track_action("work", concept="work"):
            trail.refresh("shown")
            eye.execute("SET lock_timeout = '1ms'")
            assert [(1, "one")] == rows(eye)
        assert [(1, "one"), (2, "two")] == rows(reader)


async def test_a_lock_that_cannot_be_had(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in a sentence, and recorded as failed."""
    eye.execute("ALTER FUNCTION provenance.refresh_view SET lock_timeout = '50ms'")
    with psycopg.connect(colour.dsn) as holder:
        holder.execute("SELECT FROM shown")
        with pytest.raises(TableRefused, match=r"^the view could not be locked within five seconds, because"):
            await done(colour.trail.refresh("shown", concurrently=False))
    action = recorded_actions.one(action_type="refresh_view")
    assert ("failed", "55P03", "public.shown") == (action.status, action.error_code, action.entity_id)


def test_the_patience_is_five_seconds(eye: Connection) -> None:
    """As the message says; and it is the function's own setting."""
    settings = eye.execute("SELECT proconfig FROM pg_proc WHERE proname = 'refresh_view'").fetchone()
    assert (["search_path=pg_catalog, pg_temp", "lock_timeout=5s"],) == settings


def test_a_view_that_holds_nothing_yet_is_filled(trail: Trail, eye: Connection) -> None:
    """Although that cannot be done concurrently."""
    eye.execute(
        "CREATE MATERIALIZED VIEW empty AS SELECT id FROM source WITH NO DATA; CREATE UNIQUE INDEX ON empty (id)"
    )
    make_function(eye, "empty")
    assert (False, None) == (state(trail, "public.empty").populated, state(trail, "public.empty").refreshed_at)
    assert trail.refresh("empty").refreshed
    assert [(1,)] == rows(eye, "empty")
    assert state(trail, "public.empty").populated


REFUSED = [
    ("nope", "^there is no view nope; write its name with its schema, unless that is in the search path$", "42P01"),
    # Older servers miss the schema first.
    ("nope.nope", "^there is no view nope.nope; write its name with its schema, ", "42P01 3F000"),
    ("a.b.c.d", "^improper (relation name|qualified name)", "42601"),
    ("else.where.shown", "^cross-database references are not implemented", "0A000"),
    ('"', '^" is no name in SQL; write a part with .* in double quotes, as in \'"My View"\'$', "42602"),
    ("source", "^public.source is not a materialized view, so there is nothing to refresh; name one$", None),
    ("plain", "^public.plain is not a materialized view", None),
]


@pytest.mark.parametrize(("name", "message", "code"), REFUSED)
async def test_what_is_no_view_to_refresh(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions, *, name: str, message: str, code: str | None
) -> None:
    """Refused in a sentence, and recorded as failed."""
    eye.execute("CREATE VIEW plain AS SELECT 1 AS id")
    with pytest.raises(TableRefused, match=message):
        await done(colour.trail.refresh(name))
    action = recorded_actions.one(action_type="refresh_view")
    assert "failed" == action.status
    assert code == action.error_code or (code is not None and action.error_code in code.split())


async def test_a_view_without_a_unique_index(colour: Blocking, eye: Connection) -> None:
    """Refused with the remedy; the blocking way needs none."""
    eye.execute("CREATE MATERIALIZED VIEW bare AS SELECT id FROM source; CREATE UNIQUE INDEX ON bare (id) WHERE id > 0")
    with pytest.raises(TableRefused) as caught:
        await done(colour.trail.refresh("bare"))
    assert (
        'cannot refresh materialized view "public.bare" concurrently; create a unique index with no WHERE clause on one or '
        "more columns of the materialized view"
    ) == str(caught.value)
    assert (await done(colour.trail.refresh("bare", concurrently=False))).refreshed


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ("INSERT INTO source VALUES (2, 'zero')", psycopg.errors.DivisionByZero, "22012"),
        ("INSERT INTO source VALUES (2, 'twice')", psycopg.errors.UniqueViolation, "23505"),
    ],
)
async def test_a_query_that_fails(
    colour: Blocking, eye: Connection, recorded_actions: RecordedActions, *, change: str, kind: type, code: str
) -> None:
    """The error comes as it is, the action is a failed one, and the view is as it was."""
    eye.execute("""CREATE MATERIALIZED VIEW odd AS SELECT CASE WHEN name = 'twice' THEN 1 ELSE id END AS id,
                       1 / CASE WHEN name = 'zero' THEN 0 ELSE 1 END AS one FROM source;
                   CREATE UNIQUE INDEX ON odd (id)""")
    eye.execute(change.encode())
    with pytest.raises(kind):
        await done(colour.trail.refresh("odd", concurrently=code == "22012"))
    action = recorded_actions.one(action_type="refresh_view")
    assert ("failed", code, "public.odd") == (action.status, action.error_code, action.entity_id)
    assert [(1, 1)] == rows(eye, "odd")


@pytest.mark.direct("PgBouncer refuses startup options")
async def test_a_hostile_search_path_changes_nothing(provenance_dsn: str, eye: Connection) -> None:
    """Tables and functions of the same names come first in it, and are not taken."""
    eye.execute("""
        CREATE SCHEMA evil;
        CREATE TABLE evil.pg_class (oid oid); CREATE TABLE evil.pg_depend (objid oid);
        CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text RETURN 1 / 0;
        CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text RETURN 1 / 0;
        CREATE FUNCTION evil.pg_try_advisory_xact_lock(integer, integer) RETURNS boolean RETURN false;
        CREATE DOMAIN evil.regclass AS text""")
    make_function(eye)
    address = conninfo.make_conninfo(provenance_dsn, options="-c search_path=evil,pg_catalog")
    with Trail(address) as trail:
        assert trail.refresh("public.shown").refreshed
        assert ["public.shown"] == [state.view for state in trail.views()]


def test_names_that_need_quotes(trail: Trail, eye: Connection, recorded_actions: RecordedActions) -> None:
    """They are quoted in what is answered and recorded, and one can be passed on to the other."""
    eye.execute("""CREATE SCHEMA "My Schema"; CREATE MATERIALIZED VIEW "My Schema"."a ""b"" %s" AS SELECT 1 AS id;
                   CREATE UNIQUE INDEX ON "My Schema"."a ""b"" %s" (id)""")
    name = '"My Schema"."a ""b"" %s"'
    assert name == trail.refresh(name).view
    assert name == trail.views()[0].view
    assert name == recorded_actions.one(action_type="refresh_view").entity_id


# -- in SQL --


def test_a_refresh_in_sql_is_recorded_too(trail: Trail, eye: Connection, recorded_actions: RecordedActions) -> None:
    """By the function itself, so that a job in the database shows as well."""
    eye.execute("SELECT provenance.refresh_view('shown', concurrently => false)")
    action = recorded_actions.one(action_type="refresh_view")
    assert ("completed", {"concurrently": False}, True) == (
        action.status,
        action.payload,
        action.result["refreshed"],  # type: ignore[index, call-overload]
    )
    assert (action.id, "public.shown") == (state(trail).action_id, action.entity_id)
    assert (None,) == eye.execute("SELECT provenance.refresh_view(NULL)").fetchone()


def test_a_refresh_in_sql_is_part_of_the_action_around_it(
    trail: Trail, eye: Connection, recorded_actions: RecordedActions
) -> None:
    """Also when the trail has refreshed before in the same transaction; afterwards that action is the current one again."""
    with trail.track_action("import", concept="work") as action:
        trail.refresh("shown")
        action.connection.execute("SELECT provenance.refresh_view('shown')")
        assert (action.id,) == action.connection.execute("SELECT provenance.current_action_id()").fetchone()
    recorded_actions.expect("""
        import completed
          refresh_view completed
          refresh_view completed
    """)


# -- roles --


@pytest.fixture
def log_in(provenance_dsn: str, eye: Connection) -> Iterator[Callable[..., tuple[str, Trail]]]:
    """Make a role with a grant of the trail's, and a trail that it logs in to."""
    roles: list[str] = []
    trails: list[tuple[Trail, Any]] = []

    def make(*grants: str) -> tuple[str, Trail]:
        role = f"refreshing_{secrets.token_hex(8)}"
        roles.append(role)
        eye.execute(f"CREATE ROLE {role} LOGIN".encode())
        for grant in grants:
            eye.execute(f"SELECT provenance.grant_{grant}('{role}')".encode())
        pool = ConnectionPool(conninfo.make_conninfo(provenance_dsn, user=role), min_size=0, max_size=2, open=True)
        trails.append((Trail(pool), pool))
        return role, trails[-1][0]

    yield make
    for trail, pool in trails:
        trail.close()
        pool.close()
    for role in roles:
        eye.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(role)))


def give(eye: Connection, role: str) -> None:
    """Make a role the owner of the view and of its function."""
    eye.execute(
        f"""GRANT CREATE ON SCHEMA public TO {role}; GRANT SELECT ON source TO {role};
                    ALTER MATERIALIZED VIEW shown OWNER TO {role};
                    ALTER FUNCTION refresh_shown() OWNER TO {role}""".encode()
    )


def test_a_writer_refreshes_through_the_owners_function(
    eye: Connection, log_in: Callable[..., tuple[str, Trail]], recorded_actions: RecordedActions
) -> None:
    """Neither needs to be more than a writer of the trail. One action tells of it, and it is the writer's."""
    make_function(eye)
    owner, _ = log_in("writer")
    give(eye, owner)
    writer, trail = log_in("writer")
    eye.execute(f"GRANT EXECUTE ON FUNCTION refresh_shown() TO {writer}".encode())
    write(eye, "INSERT INTO source VALUES (2, 'two')")
    assert trail.refresh("shown").refreshed
    assert [(1, "one"), (2, "two")] == rows(eye)
    action = recorded_actions.one(action_type="refresh_view")
    assert (writer,) == eye.execute("SELECT db_user FROM provenance.actions WHERE id = %s", (action.id,)).fetchone()


def test_an_owner_needs_to_be_no_more_than_a_writer(
    eye: Connection, log_in: Callable[..., tuple[str, Trail]], recorded_actions: RecordedActions
) -> None:
    """It refreshes in either way, by the trail and in SQL."""
    make_function(eye)
    owner, trail = log_in("writer")
    give(eye, owner)
    assert trail.refresh("shown", concurrently=False).refreshed
    with trail.connection() as connection:
        assert (True,) == connection.execute("SELECT refresh_shown()").fetchone()
    assert ["completed"] * 2 == [action.status for action in recorded_actions.all()]


def test_who_may_not_refresh_is_told_what_would_help(eye: Connection, log_in: Callable[..., tuple[str, Trail]]) -> None:
    """A function of the owner's, or the right to call it."""
    _, trail = log_in("writer")
    who = "public.shown belongs to postgres, and this role may not refresh it; "
    with pytest.raises(TableRefused) as caught:
        trail.refresh("shown")
    assert f"{who}connect as its owner, or have that role make a function for others to call" == str(caught.value)
    make_function(eye)
    with pytest.raises(TableRefused) as caught:
        trail.refresh("shown")
    assert f"{who}have its owner grant EXECUTE on the function public.refresh_shown() to this role" == str(caught.value)


def test_who_may_maintain_a_view_may_refresh_it(eye: Connection, log_in: Callable[..., tuple[str, Trail]]) -> None:
    """From Postgres 17 on."""
    if eye.info.server_version < 170000:
        pytest.skip("the right is not known yet")
    role, trail = log_in("writer")
    eye.execute(f"GRANT MAINTAIN ON shown TO {role}".encode())
    assert trail.refresh("shown").refreshed


@pytest.mark.parametrize(
    "change",
    [
        "ALTER FUNCTION refresh_shown() SECURITY INVOKER",
        "ALTER FUNCTION refresh_shown() OWNER TO {role}",
        "DROP FUNCTION refresh_shown(); CREATE FUNCTION refresh_shown() RETURNS void SECURITY DEFINER LANGUAGE sql AS ''",
        "ALTER FUNCTION refresh_shown() RENAME TO refresh_other; DROP FUNCTION refresh_other()",
    ],
)
def test_a_function_that_is_not_the_owners_or_runs_with_other_rights_does_not_count(
    eye: Connection, log_in: Callable[..., tuple[str, Trail]], trail: Trail, change: str
) -> None:
    """Otherwise whoever refreshes all views would run anybody's code."""
    make_function(eye)
    assert ["public.shown"] == [state.view for state in trail.views()]
    role, theirs = log_in("writer")
    eye.execute(f"GRANT CREATE ON SCHEMA public TO {role}".encode())
    eye.execute(change.format(role=role).encode())
    assert [] == trail.views()
    with pytest.raises(TableRefused, match="have that role make a function"):
        theirs.refresh("shown")


def test_a_role_without_rights_on_the_trail(eye: Connection, log_in: Callable[..., tuple[str, Trail]]) -> None:
    """A writer without those of this version, or no reader: what to run is said."""
    role, trail = log_in("writer")
    eye.execute(f"REVOKE EXECUTE ON FUNCTION provenance.view_to_refresh FROM {role}".encode())
    with pytest.raises(SchemaNotReady, match=r"refreshing a view needs .* `provenance migrate grant --writer ROLE`$"):
        trail.refresh("shown")
    with pytest.raises(SchemaNotReady, match=r"state of the views needs .* `provenance migrate grant --reader ROLE`$"):
        trail.views()


def test_a_reader_sees_how_stale_views_are(
    eye: Connection, log_in: Callable[..., tuple[str, Trail]], trail: Trail
) -> None:
    """Without any right on the views or their tables."""
    trail.refresh("shown")
    _, theirs = log_in("reader")
    assert trail.views() == theirs.views()


# -- how stale --


async def test_the_state_of_a_view(colour: Blocking, eye: Connection) -> None:
    """When and by which action it was last refreshed, and how many rows have been written since."""
    assert [] == await done(colour.trail.views())
    make_function(eye)
    never = ViewState(
        view="public.shown", resolved=True, populated=True, refreshed_at=None, action_id=None, changed_rows=None
    )
    assert [never] == await done(colour.trail.views())
    await done(colour.trail.refresh("shown"))
    found = await done(colour.trail.refresh("shown"))
    (fresh,) = await done(colour.trail.views())
    assert (found.action_id, 0) == (fresh.action_id, fresh.changed_rows)
    assert fresh.refreshed_at.tzinfo is UTC
    assert timedelta(0) <= datetime.now(UTC) - fresh.refreshed_at < timedelta(minutes=1)
    write(eye, "INSERT INTO source VALUES (2, 'two'), (3, 'three')")
    write(eye, "UPDATE source SET name = 'x' WHERE id > 1")
    write(eye, "DELETE FROM source WHERE id = 3")
    (stale,) = await done(colour.trail.views())
    assert (fresh.refreshed_at, 5) == (stale.refreshed_at, stale.changed_rows)


def test_only_refreshes_that_took_place_count(trail: Trail, eye: Connection) -> None:
    """Not one that failed, was rolled back, or was left to another session; nor an action that says something odd."""
    refreshed = trail.refresh("shown")
    with pytest.raises(RuntimeError), trail.track_action("work", concept="work"):
        trail.refresh("shown")
        raise RuntimeError
    with suppress(TableRefused), trail.track_action("work", concept="work"):
        trail.refresh("nope")
    assert refreshed.action_id == state(trail).action_id
    for result in (
        {"refreshed": True},
        {"refreshed": True, "rows_written": "x"},
        {"refreshed": True, "rows_written": -1},
    ):
        with trail.track_action("refresh_view", concept="view", entity_type="view", entity_id="public.shown") as action:
            action.result = result
        assert (action.id, None) == (state(trail).action_id, state(trail).changed_rows)


def test_rolled_back_rows_count(trail: Trail, eye: Connection) -> None:
    """The number is an upper bound."""
    trail.refresh("shown")
    with suppress(psycopg.errors.UniqueViolation):
        eye.execute("INSERT INTO source VALUES (2, 'two'), (1, 'again')")
    eye.execute("SELECT pg_stat_force_next_flush()")
    assert 2 == state(trail).changed_rows


def test_what_is_written_while_it_runs_counts_as_later(trail: Trail, eye: Connection) -> None:
    """It may not be in the view."""
    waiting = "SELECT FROM pg_locks WHERE relation = 'shown'::regclass AND NOT granted"
    with psycopg.connect(eye.info.dsn) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("SELECT FROM shown")
        refresh = pool.submit(trail.refresh, "shown", concurrently=False)
        deadline = time.monotonic() + 5
        while not eye.execute(waiting).fetchall():
            assert time.monotonic() < deadline
        write(eye, "INSERT INTO source VALUES (2, 'two')")
        reader.rollback()
        assert refresh.result(timeout=5).refreshed
    assert [(1, "one")] == rows(eye)
    assert 1 == state(trail).changed_rows


def test_what_truncate_removes_does_not_count(trail: Trail, eye: Connection) -> None:
    """As is documented: the server does not count it."""
    trail.refresh("shown")
    write(eye, "TRUNCATE source")
    assert 0 == state(trail).changed_rows


@pytest.mark.parametrize(
    "reset",
    ["SELECT pg_stat_reset()", "SELECT pg_stat_reset_single_table_counters('source'::regclass)"],
)
def test_when_the_statistics_were_reset_nothing_is_known(trail: Trail, eye: Connection, reset: str) -> None:
    """Until the next refresh, however much is written meanwhile."""
    trail.refresh("shown")
    write(eye, reset)
    write(eye, "INSERT INTO source SELECT n, 'n' FROM generate_series(2, 1000) n")
    assert state(trail).changed_rows is None
    trail.refresh("shown")
    assert 0 == state(trail).changed_rows


def test_when_a_source_is_gone_nothing_is_known(trail: Trail, eye: Connection) -> None:
    """What was counted there is gone too."""
    eye.execute("""CREATE TABLE parts (id integer) PARTITION BY LIST (id);
                   CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
                   CREATE MATERIALIZED VIEW of_parts AS SELECT id FROM parts; CREATE UNIQUE INDEX ON of_parts (id)""")
    write(eye, "INSERT INTO parts VALUES (1)")
    trail.refresh("of_parts")
    eye.execute("DROP TABLE parts_1")
    assert state(trail, "public.of_parts").changed_rows is None


def test_rows_of_partitions_and_children_count(trail: Trail, eye: Connection) -> None:
    """Also of those that came after the refresh."""
    eye.execute("""CREATE TABLE parts (id integer, kind text) PARTITION BY LIST (kind);
                   CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a') PARTITION BY RANGE (id);
                   CREATE TABLE parts_a1 PARTITION OF parts_a FOR VALUES FROM (0) TO (10);
                   CREATE TABLE child () INHERITS (source);
                   CREATE MATERIALIZED VIEW parted AS SELECT p.id FROM parts p UNION ALL SELECT s.id FROM source s;
                   CREATE UNIQUE INDEX ON parted (id)""")
    trail.refresh("parted")
    eye.execute("CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b')")
    write(eye, "INSERT INTO parts VALUES (1, 'a'), (20, 'b')")
    write(eye, "INSERT INTO child VALUES (30, 'c')")
    assert 3 == state(trail, "public.parted").changed_rows


def test_views_come_after_what_they_read(trail: Trail, eye: Connection) -> None:
    """Through plain views too; and rows count through all of them, once for each thing read."""
    eye.execute("""CREATE VIEW between AS SELECT id FROM shown WHERE id > 0;
                   CREATE MATERIALIZED VIEW above AS SELECT b.id FROM between b JOIN source s USING (id);
                   CREATE UNIQUE INDEX ON above (id);
                   CREATE MATERIALIZED VIEW zero AS SELECT 0 AS id; CREATE UNIQUE INDEX ON zero (id)""")
    for view in ("above", "shown", "zero"):
        make_function(eye, view)
    order = ["public.zero", "public.shown", "public.above"]
    assert order == [found.view for found in trail.views()]
    for view in order:
        trail.refresh(view)
    write(eye, "INSERT INTO source VALUES (2, 'two')")
    assert [0, 1, 1] == [found.changed_rows for found in trail.views()]
    trail.refresh("shown")
    # One row of the table and one of the view below it: until it is refreshed itself, it is out of date.
    assert [0, 0, 2] == [found.changed_rows for found in trail.views()]
    trail.refresh("above")
    assert [0, 0, 0] == [found.changed_rows for found in trail.views()]


def test_views_refreshed_in_the_wrong_order_show_as_stale(trail: Trail, eye: Connection) -> None:
    """What reads a view that was refreshed later is behind it."""
    eye.execute("CREATE MATERIALIZED VIEW above AS SELECT id FROM shown; CREATE UNIQUE INDEX ON above (id)")
    write(eye, "INSERT INTO source VALUES (2, 'two')")
    trail.refresh("above")
    trail.refresh("shown", concurrently=False)
    assert state(trail, "public.above").changed_rows
    assert [(1,)] == rows(eye, "above")


def test_views_that_read_each_other_in_a_circle(trail: Trail, eye: Connection) -> None:
    """Postgres lets people make such; it must not hold up the rest."""
    eye.execute("""CREATE VIEW a AS SELECT 1 AS id; CREATE VIEW b AS SELECT id FROM a;
                   CREATE MATERIALIZED VIEW of_circle AS SELECT id FROM b; CREATE UNIQUE INDEX ON of_circle (id);
                   CREATE OR REPLACE VIEW a AS SELECT id FROM b""")
    make_function(eye, "of_circle")
    make_function(eye)
    assert ["public.shown", "public.of_circle"] == [found.view for found in trail.views()]


def test_a_long_name(trail: Trail, eye: Connection) -> None:
    """Where refresh_<view> would not fit, the function is known by what it does."""
    name = "v" * 60
    eye.execute(f"ALTER MATERIALIZED VIEW shown RENAME TO {name}".encode())
    eye.execute(FUNCTION.replace("refresh_{0}", "brief").format(name).encode())
    assert [(f"public.{name}", True)] == [(found.view, found.resolved) for found in trail.views()]


def test_the_last_refresh_is_found_by_the_index(trail: Trail, eye: Connection) -> None:
    """However many actions there are."""
    trail.refresh("shown")
    eye.execute("""SET search_path = pg_catalog;
                   INSERT INTO provenance.actions (id, root_id, action_type, concept, status, entity_type, entity_id,
                       started_at, completed_at, duration_ms)
                   SELECT id, id, 'x', 'x', 'completed', 'x', n::text, now(), now(), 0
                     FROM (SELECT provenance.uuid_v7() AS id, n FROM generate_series(1, 5000) n) AS made;
                   ANALYZE provenance.actions""")
    (source,) = eye.execute("SELECT prosrc FROM pg_proc WHERE proname = 'resolved_views'").fetchone() or ("",)
    plan = "\n".join(line for (line,) in eye.execute(b"EXPLAIN " + source.encode()))
    assert "entity_type_entity_id_id_idx" in plan
    # Empty ones are quicker read whole.
    assert f"Seq Scan on actions_{datetime.now(UTC):%Y_%m}" not in plan


def test_both_colours_have_the_same_methods() -> None:
    """The same names, parameters and documentation."""
    for name, method in vars(Views).items():
        if not name.startswith("_") and name != "connection":
            assert inspect.signature(method) == inspect.signature(vars(AsyncViews)[name])
            assert method.__doc__ == vars(AsyncViews)[name].__doc__
