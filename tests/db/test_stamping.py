"""Stamped tables: the database itself notes which action made and which last changed a row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from provenance import TableRefused
from provenance.trail import Trail
from tests.support import colours
from tests.support.colours import Blocking, done

pytestmark = pytest.mark.anyio

colour = colours.colour

STAMPS = "SELECT created_by_action_id, updated_by_action_id FROM work ORDER BY id"


@pytest.fixture
def eye(direct_dsn: str) -> Any:
    """Another connection, that sees what is committed."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def stamps(eye: psycopg.Connection[Any]) -> list[tuple[UUID | None, UUID | None]]:
    return eye.execute(STAMPS).fetchall()


def triggers(eye: psycopg.Connection[Any], table: str = "work") -> set[str]:
    rows = eye.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", (table,))
    return {name for (name,) in rows}


async def test_a_row_names_the_action_that_made_it_and_the_one_that_changed_it_last(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Both columns are filled without the application's doing, from the transaction's action."""
    await done(colour.trail.stamp("work"))
    async with colour.track("make") as made:
        await done(made.connection.execute("INSERT INTO work (id) VALUES (1), (2)"))
    async with colour.track("change") as changed:
        await done(changed.connection.execute("UPDATE work SET secret = 'x' WHERE id = 1"))
    assert stamps(eye) == [(made.id, changed.id), (made.id, made.id)]


async def test_in_nested_blocks_the_innermost_action_is_noted(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """And after it the enclosing one again."""
    await done(colour.trail.stamp("work"))
    async with colour.track("outer") as outer:
        async with colour.track("inner") as inner:
            await done(inner.connection.execute("INSERT INTO work (id) VALUES (1)"))
        await done(outer.connection.execute("INSERT INTO work (id) VALUES (2)"))
    assert stamps(eye) == [(inner.id, inner.id), (outer.id, outer.id)]


def test_who_made_a_row_cannot_be_changed(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """What a statement says itself about the two columns does not count."""
    trail.stamp("work")
    lie = UUID(int=7)
    with trail.track_action("make", concept="work") as made:
        made.connection.execute("INSERT INTO work (id, created_by_action_id) VALUES (1, %s)", (lie,))
    with trail.track_action("change", concept="work") as changed:
        changed.connection.execute("UPDATE work SET created_by_action_id = %s, updated_by_action_id = %s", (lie, lie))
    assert stamps(eye) == [(made.id, changed.id)]


def test_a_write_outside_any_action_shows(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """The row says that its present version is nobody's, and still who made it."""
    eye.execute("INSERT INTO work (id) VALUES (1)")
    trail.stamp("work")
    with trail.track_action("make", concept="work") as made:
        made.connection.execute("INSERT INTO work (id) VALUES (2), (3)")
    eye.execute("UPDATE work SET secret = 'x' WHERE id = 3")
    assert stamps(eye) == [(None, None), (made.id, made.id), (made.id, None)]


STRICT = [
    "INSERT INTO work (id) VALUES (2)",
    "UPDATE work SET secret = 'x'",
    "DELETE FROM work",
    "TRUNCATE work",
    "COPY work (id) FROM STDIN",
]


@pytest.mark.parametrize("statement", STRICT)
def test_strict_refuses_writes_outside_any_action(trail: Trail, eye: psycopg.Connection[Any], statement: str) -> None:
    """With a sentence that says what to do."""
    trail.stamp("work", strict=True)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        if statement.startswith("COPY"):
            with eye.cursor().copy(statement) as copy:
                copy.write_row((2,))
        else:
            eye.execute(statement.encode())
    verb = "INSERT" if statement.startswith("COPY") else statement.split(" ", maxsplit=1)[0]
    assert caught.value.diag.message_primary == f"{verb} of public.work refused: no action is current"
    assert caught.value.diag.message_hint == (
        "Write inside track_action(); in SQL, call provenance.record_action() first in the transaction."
    )


@pytest.mark.parametrize("statement", STRICT[:4])
def test_strict_lets_actions_write(trail: Trail, eye: psycopg.Connection[Any], statement: str) -> None:
    """Whatever they do."""
    trail.stamp("work", strict=True)
    with trail.track_action("work", concept="work") as action:
        action.connection.execute(statement.encode())


def test_stamping_again_changes_whether_it_is_strict(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """And nothing else."""
    trail.stamp("work")
    before = triggers(eye)
    trail.stamp("work", strict=True)
    assert triggers(eye) - before == {"provenance_require_action", "provenance_require_action_truncate"}
    trail.stamp("work", strict=False)
    assert triggers(eye) == before
    eye.execute("INSERT INTO work (id) VALUES (1)")


PARTITIONED = """
CREATE TABLE parted (id integer, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a')"""


def test_writes_aimed_at_a_partition_are_stamped_and_refused_too(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Also of a partition that came later."""
    eye.execute(PARTITIONED)
    trail.stamp("parted", strict=True)
    eye.execute("CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b')")
    with trail.track_action("make", concept="work") as made:
        made.connection.execute("INSERT INTO parted_a VALUES (1, 'a'); INSERT INTO parted_b VALUES (1, 'b')")
    rows = eye.execute("SELECT created_by_action_id, updated_by_action_id FROM parted").fetchall()
    assert rows == [(made.id, made.id)] * 2
    for statement in (
        "INSERT INTO parted_b VALUES (2, 'b')",
        "UPDATE parted_b SET id = 3",
        "DELETE FROM parted_b",
        "TRUNCATE parted_a",
        "DELETE FROM parted",
        "TRUNCATE parted",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            eye.execute(statement.encode())
    with trail.track_action("drop", concept="work") as action:
        action.connection.execute("DELETE FROM parted_b; UPDATE parted SET id = 9; TRUNCATE parted")


@pytest.mark.parametrize("strict", [False, True])
def test_unstamping_leaves_a_table_as_it_was(trail: Trail, eye: psycopg.Connection[Any], strict: bool) -> None:
    """Columns and triggers, of partitions too."""
    eye.execute(PARTITIONED)
    columns = """SELECT attrelid::regclass::text, attname FROM pg_attribute
                  WHERE attrelid IN ('work'::regclass, 'parted'::regclass, 'parted_a'::regclass)
                    AND attnum > 0 AND NOT attisdropped ORDER BY 1, attnum"""
    before = eye.execute(columns).fetchall()
    for table in ("work", "parted"):
        trail.stamp(table, strict=strict)
    assert eye.execute(columns).fetchall() != before
    for table in ("work", "parted"):
        trail.unstamp(table)
    assert eye.execute(columns).fetchall() == before
    assert (triggers(eye), triggers(eye, "parted"), triggers(eye, "parted_a")) == (set(), set(), set())


def test_columns_that_were_there_before_stay(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Applications that filled them by hand lose nothing."""
    eye.execute("ALTER TABLE work ADD created_by_action_id uuid")
    eye.execute("INSERT INTO work (id, created_by_action_id) VALUES (1, %s)", (UUID(int=1),))
    trail.stamp("work")
    trail.unstamp("work")
    assert eye.execute("SELECT created_by_action_id FROM work").fetchall() == [(UUID(int=1),)]
    with pytest.raises(psycopg.errors.UndefinedColumn):
        eye.execute("SELECT updated_by_action_id FROM work")


REFUSED = {
    "nope": "there is no table nope; write its name with its schema, unless that is in the search path",
    "a_view": "public.a_view cannot be stamped: it is a view; name the table behind it",
    "a_matview": "public.a_matview cannot be stamped: it is a view; name the table behind it",
    "a_foreign": "public.a_foreign cannot be stamped: it is a foreign table; do it in the database where its rows are",
    "a_sequence": "public.a_sequence cannot be stamped: it is no table",
    "parted_a": "public.parted_a cannot be stamped: it is a partition; name its parent, public.parted",
    "provenance.actions": "provenance.actions cannot be stamped: it is not a table of yours",
    "pg_catalog.pg_class": "pg_catalog.pg_class cannot be stamped: it is not a table of yours",
    "other_type": (
        "public.other_type has a column created_by_action_id of its own: it is integer, and not uuid; "
        "rename or convert that column first"
    ),
    "computed": (
        "public.computed has a column updated_by_action_id of its own: it is uuid, generated, and not uuid; "
        "rename or convert that column first"
    ),
}


@pytest.mark.parametrize("table", REFUSED)
async def test_a_table_that_cannot_be_stamped_is_refused_with_the_reason(
    colour: Blocking, eye: psycopg.Connection[Any], table: str
) -> None:
    """And nothing is half-done; that somebody tried is recorded."""
    eye.execute(PARTITIONED)
    eye.execute("""
        CREATE VIEW a_view AS SELECT 1 AS id; CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE a_foreign (id integer) SERVER nowhere; CREATE SEQUENCE a_sequence;
        CREATE TABLE other_type (id integer, created_by_action_id integer);
        CREATE TABLE computed (id uuid, updated_by_action_id uuid GENERATED ALWAYS AS (id) STORED)""")
    with pytest.raises(TableRefused) as caught:
        await done(colour.trail.stamp(table))
    assert str(caught.value) == REFUSED[table]
    assert eye.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'provenance_stamp%'").fetchone() == (0,)
    (attempt,) = (await done(colour.trail.actions.search(action_type="stamp_table"))).items
    assert (attempt.status, attempt.entity_id) == ("failed", table)


def test_a_temporary_table_is_refused(trail: Trail) -> None:
    """Even inside the session that has it."""
    with (
        pytest.raises(TableRefused, match=r"^pg_temp.*mine cannot be stamped: it is a temporary table"),
        trail.track_action("work", concept="work") as action,
    ):
        action.connection.execute("CREATE TEMP TABLE mine (id integer PRIMARY KEY)")
        trail.stamp("pg_temp.mine")


async def test_unstamping_what_is_not_stamped_is_refused(colour: Blocking) -> None:
    """With its name."""
    with pytest.raises(TableRefused, match=r"^public\.work is not stamped$"):
        await done(colour.trail.unstamp("work"))


async def test_a_table_in_use_is_not_waited_for(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """A lock that waits would hold up every writer behind it."""
    with eye.transaction():
        eye.execute("INSERT INTO work (id) VALUES (1)")
        with pytest.raises(TableRefused, match="could not be locked within two seconds"):
            await done(colour.trail.stamp("work"))


def test_stamping_is_recorded_as_an_action(trail: Trail) -> None:
    """Who turned it on, and who off."""
    trail.stamp("work", strict=True)
    trail.unstamp("work")
    off, on = trail.actions.entity_history("table", "work").items
    assert (on.action_type, on.payload, off.action_type) == ("stamp_table", {"strict": True}, "unstamp_table")


async def test_coverage_tells_what_is_accounted_for(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Per table of the application: how it is watched, and what was written past the trail."""
    eye.execute("CREATE TABLE other (id integer PRIMARY KEY); CREATE SCHEMA app; CREATE TABLE app.third (id integer)")
    eye.execute("INSERT INTO work (id) VALUES (1)")
    await done(colour.trail.stamp("work", strict=False))
    await done(colour.trail.stamp("app.third", strict=True))
    await done(colour.trail.capture("work"))
    async with colour.track("make") as made:
        await done(made.connection.execute("INSERT INTO work (id) VALUES (2), (3)"))
    (before,) = eye.execute("SELECT clock_timestamp()").fetchone() or (None,)
    eye.execute("UPDATE work SET secret = 'x' WHERE id = 3")
    third, other, work = await done(colour.trail.coverage())
    assert (work.table, work.stamped, work.strict, work.captured) == ("public.work", True, False, True)
    assert (work.rows, work.untracked_rows, work.last_untracked_by) == (3, 2, "postgres")
    assert work.last_untracked_at > before
    assert (third.table, third.stamped, third.strict, third.captured) == ("app.third", True, True, False)
    assert (third.rows, third.untracked_rows, third.last_untracked_at) == (0, 0, None)
    assert (other.table, other.stamped, other.captured, other.rows) == ("public.other", False, False, None)


def test_a_disabled_trigger_does_not_count(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """A table whose triggers somebody switched off is not called stamped."""
    trail.stamp("work")
    trail.capture("work")
    eye.execute("ALTER TABLE work DISABLE TRIGGER USER")
    (work,) = trail.coverage()
    assert (work.stamped, work.captured) == (False, False)
    names = "capture_delete, capture_insert, capture_truncate, capture_update, stamp_insert, stamp_update"
    assert work.gaps == (f"disabled on public.work: {names}",)


def test_a_capture_that_sleeps_in_replica_sessions_does_not_count(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """As it is after triggers were switched off and on again; both are mended by saying it again."""
    trail.stamp("work", strict=True)
    trail.capture("work")
    assert [(table.stamped, table.strict, table.captured, table.gaps) for table in trail.coverage()] == [
        (True, True, True, ())
    ]
    eye.execute("ALTER TABLE work DISABLE TRIGGER ALL; ALTER TABLE work ENABLE TRIGGER ALL")
    (work,) = trail.coverage()
    assert (work.stamped, work.strict, work.captured) == (True, True, False)
    names = "capture_delete, capture_insert, capture_truncate, capture_update"
    assert work.gaps == (f"not enabled always on public.work: {names}",)
    trail.capture("work")
    (work,) = trail.coverage()
    assert (work.captured, work.gaps) == (True, ())


def test_a_capture_that_lost_a_trigger_does_not_count(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """What is written is captured in part only then."""
    trail.capture("work")
    eye.execute("DROP TRIGGER provenance_capture_update ON work")
    assert [table.captured for table in trail.coverage()] == [False]


def test_last_untracked_write_is_told_although_triggers_were_disabled(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """It is stored; that later ones are not does not undo it."""
    trail.capture("work")
    eye.execute("INSERT INTO work (id) VALUES (1); ALTER TABLE work DISABLE TRIGGER USER")
    assert [table.last_untracked_by for table in trail.coverage()] == ["postgres"]


def test_partitions_that_escape_in_part_are_gaps(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """TRUNCATE aimed at one that came later; everything aimed at one whose triggers were disabled."""
    eye.execute(PARTITIONED)
    trail.stamp("parted", strict=True)
    trail.capture("parted")
    eye.execute("CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b')")
    (parted, _) = trail.coverage()
    assert (parted.stamped, parted.strict, parted.captured) == (True, True, True)
    assert parted.gaps == ("missing on public.parted_b: capture_truncate, require_action_truncate",)
    trail.stamp("parted", strict=True)
    trail.capture("parted")
    assert [table.gaps for table in trail.coverage()] == [(), ()]
    eye.execute("ALTER TABLE parted_a DISABLE TRIGGER USER")
    (parted, _) = trail.coverage()
    assert (parted.stamped, parted.strict, parted.captured) == (False, False, False)
    names = "capture_insert, capture_truncate, require_action, require_action_truncate, stamp_insert, stamp_update"
    assert parted.gaps == (f"disabled on public.parted_a: {names}",)
    trail.stamp("parted", strict=True)
    trail.capture("parted")
    assert [table.gaps for table in trail.coverage()] == [(), ()]
