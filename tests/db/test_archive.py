"""Months leave for files, and come back; whatever happens, each row is in one place and known to be."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provenance import Trail, schema
from provenance.archive import archive_month, contents, due_months, ledger, parquet, restore_month, steps, verify_month
from provenance.archive import columns as archived_columns
from provenance.archive.reading import ArchivedActions
from provenance.errors import ArchiveError, NotConfigured, SchemaNotReady
from provenance.journal.spool import Kind, Spool
from provenance.models import Action
from provenance.testing import RecordedActions
from tests.support import databases, months, roles
from tests.support.months import first_of, id_at, insert, places

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

Connection = psycopg.Connection[Any]

TABLES = ("actions", "row_changes")
MARCH = date(2021, 3, 1)
INSIDE = datetime(2021, 3, 9, 12, tzinfo=UTC)


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, in autocommit mode, to a database that has a March long past."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        for table in TABLES:
            months.make(connection, table, first_of(2021, 3))
        yield connection


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """The owner's trail."""
    with Trail(provenance_dsn) as trail:
        yield trail


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the archive is to be."""
    return tmp_path / "archive"


def some_rows(owner: Connection, table: str) -> list[str]:
    """Insert rows of March, with all that a row may hold, and return what there is."""
    hostile = 'a"b\\c,d\n(e)\u05d0\u2028\U0001f600'
    moments = [first_of(2021, 3), INSIDE, first_of(2021, 4) - timedelta(microseconds=1)]
    if table == "actions":
        for number, moment in enumerate(moments):
            nested = json.dumps({hostile: [1.5, None, hostile, 10**30]})
            insert(
                owner,
                table,
                moment,
                tenant_id=f"t{number}",
                user_id=hostile,
                request_id=uuid4(),
                correlation_id="-",
                entity_type="e",
                entity_id=hostile,
                payload=nested,
                result='"x"',
                metadata="null",
                error_type="E",
                error_code="40001",
                error_message=hostile,
                status="failed",
                parent_action_id=uuid4(),
                erased_by_action_id=uuid4(),
                duration_ms=0.1 + number / 3,
                recorded_at=moment + timedelta(days=400),
                xid=str(2**62 + number),
                db_user="somebody",
            )
            insert(owner, table, moment)
    else:
        owner.execute("CREATE TABLE account (id integer PRIMARY KEY, name text, password text)")
        owner.execute("SELECT provenance.capture_table('account')")
        owner.execute("INSERT INTO account VALUES (1, %s, 'pw'), (2, NULL, NULL)", (hostile,))
        owner.execute("UPDATE account SET name = 'x', password = 'other'")
        owner.execute(
            """INSERT INTO provenance.row_changes
                   SELECT (r).* FROM (SELECT jsonb_populate_record(r, jsonb_build_object('recorded_at', m)) AS r
                                        FROM provenance.row_changes r CROSS JOIN unnest(%s::timestamptz[]) m) s""",
            (moments,),
        )
        # Of a table that nobody knows any more.
        insert(owner, table, INSIDE, table_id=99, shape_id=99)
    return months.contents(owner, f"{table}_2021_03")


# --- There and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_there_and_back(
    owner: Connection, trail: Trail, root: Path, recorded_actions: RecordedActions, table: str
) -> None:
    """The partition is gone and noted, what was done is an action; restored, each row is what it was, to the last bit."""
    rows = some_rows(owner, table)
    told: list[tuple[int, int]] = []
    left = archive_month(trail, root, table, MARCH, tell=lambda done, total: told.append((done, total)))
    assert f"{table}_2021_03" not in months.attached(owner)
    assert owner.execute("SELECT to_regclass(%s)", (f"provenance.{table}_2021_03",)).fetchone() == (None,)
    assert [left] == ledger(owner)
    assert (table, MARCH, 1, len(rows), str(root)) == (left.table, left.month, left.edition, left.rows, left.location)
    assert (len(rows), len(rows)) == told[-1]
    (action,) = [one for one in recorded_actions.all() if one.id == left.action_id]
    assert ("archive_month", f"{table}_2021_03") == (action.action_type, action.entity_id)
    assert {"rows": len(rows), "edition": 1} == action.result
    (month,) = contents(root)
    assert len(rows) == verify_month(root, month).rows
    back = restore_month(trail, root, table, MARCH)
    assert (left.rows, left.digest) == (back.rows, back.digest)
    assert (rows, []) == (months.contents(owner, f"{table}_2021_03"), ledger(owner))
    assert [] == schema.verify(owner)
    assert verify_month(root, month)


def test_row_changes_can_be_read_without_the_database(owner: Connection, trail: Trail, root: Path) -> None:
    """With the name of their table, and rows as JSON of the texts in them; a masked column is in none."""
    some_rows(owner, "row_changes")
    archive_month(trail, root, "row_changes", MARCH)
    import duckdb  # noqa: PLC0415

    found = duckdb.sql(
        f"SELECT DISTINCT table_name, operation, old, new FROM '{root}/row_changes/*/*/*.parquet' WHERE row_key LIKE '%2%'"  # noqa: S608
    ).fetchall()
    assert {
        ("public.account", "insert", None, '{"id": "2", "name": null}'),
        ("public.account", "update", '{"id": "2", "name": null}', '{"id": "2", "name": "x"}'),
    } == {*found}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
    number=st.floats(allow_nan=True, allow_infinity=True),
    moment=st.integers(0, 220_000_000_000_000_000).map(
        lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    ),
)
def test_the_digest_is_the_same_here_and_there(owner: Connection, text: str, number: float, moment: datetime) -> None:
    """Whatever the values are: the server says of a row what is said here of its values."""
    table = archived_columns.TABLES["actions"]
    with owner.transaction(force_rollback=True):
        insert(owner, "actions", INSIDE, error_message=text, tenant_id=text, duration_ms=number, started_at=moment)
        ((bucket, expected),) = owner_run(owner, archived_columns.summarized(table, "actions_2021_03")).items()
        query = archived_columns.selected(table, "actions_2021_03", bucket)
        (values,) = archived_columns.completed(table, owner.execute(query).fetchall())
    assert expected == archived_columns.Summary(1, archived_columns.row_digest(table.columns, values))


def owner_run(connection: Connection, statement: Any) -> Any:
    return statement.decode(connection.execute(statement.query, statement.params).fetchall())


def test_a_directory_of_another_database(owner: Connection, trail: Trail, root: Path) -> None:
    """Its months are not touched, and none comes beside them; what an attempt of this one has left is its own."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    restore_month(trail, root, "actions", MARCH)
    owner.execute("DELETE FROM provenance.archived_months")
    # Its own, by the action that it was.
    archive_month(trail, root, "actions", MARCH)
    restore_month(trail, root, "actions", MARCH)
    owner.execute("DELETE FROM provenance.archived_months")
    (month,) = contents(root)
    path = month.manifest(root)
    path.write_text(path.read_text().replace(json.loads(path.read_bytes())["action_id"], str(uuid4())))
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    for table in TABLES:
        assert f"{root} holds actions of 2021-03, which have not left this database; name another directory" == refused(
            trail, root, table
        )
    assert before == {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_a_month_without_rows(owner: Connection, trail: Trail, root: Path) -> None:
    """It leaves as any other, and comes back."""
    archive_month(trail, root, "actions", MARCH)
    assert 0 == verify_month(root, contents(root)[0]).rows
    restore_month(trail, root, "actions", MARCH)
    assert "actions_2021_03" in months.attached(owner)


def test_months_that_are_due(owner: Connection) -> None:
    """Those before the months that stay, the oldest first; the current one never."""
    months.make(owner, "actions", first_of(2020, 12))
    found = due_months(owner, 3, date(2021, 7, 15))
    assert [("actions", date(2020, 12, 1)), ("row_changes", MARCH), ("actions", MARCH)] == [
        (due.table, due.month) for due in found
    ]
    assert [date(2020, 12, 1)] == [due.month for due in due_months(owner, 4, date(2021, 7, 15))]
    assert [] == due_months(owner, 0, date(2020, 12, 31))


# --- Reading ----------------------------------------------------------------------------------------------------------


def family(owner: Connection) -> list[UUID]:
    """Insert an action with children, some of another month, tenant and user, and return their ids."""
    months.make(owner, "actions", first_of(2021, 4))
    made: list[UUID] = []
    for number in range(7):
        values = {} if number == 0 else {"root_id": made[0], "parent_action_id": made[(number - 1) // 2]}
        made.append(
            insert(
                owner,
                "actions",
                INSIDE + timedelta(days=5 * number, milliseconds=1),
                **values,
                tenant_id="abc"[number % 3],
                user_id=f"u{number % 2}",
                entity_type="e",
                entity_id=f"{number % 2}",
                request_id=UUID(int=number // 4 + 1),
                correlation_id=f"c{number}",
                action_type=f"a{number % 3}",
            )
        )
    return made


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"limit": 3},
        {"action_type": "a1"},
        {"concept": "c", "status": "completed"},
        {"concept": "other"},
        {"user_id": "u1"},
        {"tenant_id": "b"},
        {"tenant_id": ""},
        {"request_id": UUID(int=1)},
        {"correlation_id": "c3"},
        {"entity_type": "e", "entity_id": 1},
        {"since": INSIDE + timedelta(days=5)},
        {"until": INSIDE + timedelta(days=26)},
        {"since": INSIDE + timedelta(days=10), "until": INSIDE + timedelta(days=21), "tenant_id": "a"},
        {"since": datetime(2022, 1, 1, tzinfo=UTC)},
    ],
)
def test_an_archive_answers_as_the_database_does(
    owner: Connection, trail: Trail, root: Path, wanted: dict[str, Any]
) -> None:
    """What is searched for, page by page."""
    family(owner)

    def pages(actions: Any) -> list[Action]:
        found, page = (
            [],
            actions.search(until=datetime(2021, 12, 1, tzinfo=UTC), **wanted)
            if "until" not in wanted
            else (actions.search(**wanted)),
        )
        found += page.items
        while page.next is not None:
            page = actions.search(**(wanted | {"before": page.next}))
            found += page.items
        return found

    expected = pages(trail.actions)
    for month in (MARCH, date(2021, 4, 1)):
        archive_month(trail, root, "actions", month)
    assert expected == pages(ArchivedActions(root))


def test_one_action_and_its_tree(owner: Connection, trail: Trail, root: Path) -> None:
    """Over several months; and none, where there is none."""
    made = family(owner)
    expected = [(trail.actions.get(one), trail.actions.tree(one)) for one in made]
    history = trail.actions.entity_history("e", 0)
    for month in (MARCH, date(2021, 4, 1)):
        archive_month(trail, root, "actions", month)
    archived = ArchivedActions(root)
    assert expected == [(archived.get(one), archived.tree(one)) for one in made]
    assert history == archived.entity_history("e", 0)
    unknown = id_at(INSIDE)
    assert (None, None) == (archived.get(unknown), archived.tree(unknown))
    assert archived.get(id_at(datetime(2024, 1, 1, tzinfo=UTC))) is None


def test_actions_whose_clock_or_id_is_odd(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """One that seems older than what caused it, one whose parent nobody knows, and ids that no calendar has."""
    months.make(owner, "actions", first_of(2021, 4))
    parent = insert(owner, "actions", first_of(2021, 4))
    child = insert(owner, "actions", first_of(2021, 4) - timedelta(seconds=1), root_id=parent, parent_action_id=parent)
    insert(owner, "actions", INSIDE, root_id=parent)
    foreign = insert(owner, "actions", INSIDE, root_id=UUID(int=2**128 - 1), parent_action_id=UUID(int=2**128 - 1))
    expected = [trail.actions.tree(one) for one in (parent, child)]
    # A directory of such a name is no column of the files in it.
    root = tmp_path / "user_id=7"
    for month in (MARCH, date(2021, 4, 1)):
        archive_month(trail, root, "actions", month)
    (root / "months" / "actions-2021-03-1 (copy).json").write_text("{}")
    archived = ArchivedActions(root)
    assert expected == [archived.tree(one) for one in (parent, child)]
    alone = archived.tree(foreign)
    assert alone is not None
    assert foreign == alone.action.id
    assert {None} == {action.user_id for action in archived.search(until=datetime(2022, 1, 1, tzinfo=UTC))}
    assert archived.get(UUID(int=2**128 - 1)) is None


def test_what_is_no_archive(tmp_path: Path) -> None:
    """The message says what makes one."""
    with pytest.raises(ArchiveError, match="is no archive; `provenance archive run --to DIR` makes one"):
        ArchivedActions(tmp_path)


# --- What must not leave, and what must not come --------------------------------------------------------------------


def refused(trail: Trail, root: Path, table: str = "actions", month: date = MARCH, **options: Any) -> str:
    """Return why a month cannot leave."""
    with pytest.raises(ArchiveError) as caught:
        archive_month(trail, root, table, month, **options)
    return str(caught.value)


def test_months_that_cannot_leave(
    owner: Connection, trail: Trail, root: Path, recorded_actions: RecordedActions
) -> None:
    """What is not here, or not over, or no month; that it was tried is recorded."""
    assert "there is no partition provenance.actions_2020_01" in refused(trail, root, month=date(2020, 1, 1))
    this_month = datetime.now(UTC).date().replace(day=1)
    assert f"{this_month:%Y-%m} is not over" == refused(trail, root, month=this_month)
    assert "expected one of actions, row_changes and the first day of a month, got 'users'" in refused(
        trail, root, "users"
    )
    assert "got 'actions' and 2021-03-02" in refused(trail, root, month=date(2021, 3, 2))
    assert {"failed"} == {one.status.value for one in recorded_actions.all()}
    assert not root.exists()


def test_a_month_of_which_an_action_is_open_stays(owner: Connection, trail: Trail, root: Path) -> None:
    """It may still get its outcome, which would have no month to go to."""
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at)"
        " VALUES (%s, %s, 't', 'c', %s)",
        (begun := id_at(INSIDE), begun, INSIDE),
    )
    assert "1 action(s) that were begun in 2021-03 have no recorded outcome; run `provenance recover`" in refused(
        trail, root
    )
    assert archive_month(trail, root, "row_changes", MARCH)
    owner.execute("DELETE FROM provenance.action_intents")
    assert archive_month(trail, root, "actions", MARCH)


def spooled(directory: Path, moment: datetime) -> Spool:
    """Put a row of a moment into a spool."""
    spool = Spool(directory)
    action_id = str(id_at(moment))
    row = {
        "id": action_id,
        "root_id": action_id,
        "action_type": "late",
        "concept": "c",
        "status": "failed",
        "tenant_id": "",
    }
    row |= {"started_at": moment.isoformat(), "completed_at": moment.isoformat(), "duration_ms": 1}
    spool.put(Kind.OUTCOME, [json.dumps(row)])
    return spool


def test_a_month_of_which_a_row_waits_in_a_spool_stays(
    owner: Connection, trail: Trail, root: Path, tmp_path: Path
) -> None:
    """Until it is written; one of another month keeps nobody."""
    spooled(tmp_path / "other", first_of(2021, 4))
    spooled(tmp_path / "spool", INSIDE)
    spools = [tmp_path / "other", tmp_path / "spool"]
    said = refused(trail, root, spools=spools)
    assert (
        f"1 row(s) of 2021-03 wait in the spool {tmp_path}/spool; run `provenance recover --spool {tmp_path}/spool`"
        == said
    )
    (waiting,) = (tmp_path / "spool").glob("*.rows")
    waiting.write_bytes(b"x" + waiting.read_bytes())
    assert "nobody knows of which months it holds rows" in refused(trail, root, spools=spools)
    waiting.unlink()
    # One of an id that no calendar has is of no month.
    Spool(tmp_path / "spool").put(Kind.OUTCOME, [json.dumps({"id": str(UUID(int=2**128 - 1))})])
    assert archive_month(trail, root, "actions", MARCH, spools=spools)


def test_a_row_that_comes_late_is_set_aside(
    owner: Connection, trail: Trail, root: Path, tmp_path: Path, provenance_dsn: str
) -> None:
    """Only the archive could tell whether it is recorded. Once the month is back it can be written."""
    archive_month(trail, root, "actions", MARCH)
    spooled(tmp_path / "spool", INSIDE)
    spooled(tmp_path / "spool", datetime.now(UTC))
    with Trail(provenance_dsn, spool=tmp_path / "spool") as late:
        assert 1 == late.replay()
    (aside,) = (tmp_path / "spool" / "quarantine").iterdir()
    assert "actions_default" not in places(owner, "actions")
    restore_month(trail, root, "actions", MARCH)
    rows = [json.loads(line) for line in aside.read_text().splitlines() if line.startswith("{")]
    assert 1 == trail.replay(map(json.dumps, rows))
    assert {"actions_2021_03": 1} == {name: n for name, n in places(owner, "actions").items() if "2021" in name}


def test_rows_that_came_late_leave_as_another_edition(owner: Connection, trail: Trail, root: Path) -> None:
    """And come back together with the first; after that the month is one again."""
    first = some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    insert(owner, "actions", INSIDE, action_type="late")
    with pytest.raises(
        ArchiveError, match=r"have come to provenance\.actions_default since it left; run `provenance partition`"
    ):
        restore_month(trail, root, "actions", MARCH)
    owner.execute("SELECT provenance.empty_default('actions')")
    late = months.contents(owner, "actions_2021_03")
    assert 2 == archive_month(trail, root, "actions", MARCH).edition
    assert [1, 2] == [one.edition for one in ledger(owner)]
    assert len(first) + 1 == len(ArchivedActions(root).search(until=datetime(2022, 1, 1, tzinfo=UTC)).items)
    assert len(first) + 1 == restore_month(trail, root, "actions", MARCH).rows
    assert sorted(first + late) == months.contents(owner, "actions_2021_03")
    assert 1 == archive_month(trail, root, "actions", MARCH).edition
    assert [1] == [month.edition for month in contents(root)]
    assert len(first) + 1 == len(ArchivedActions(root).search(until=datetime(2022, 1, 1, tzinfo=UTC)).items)


def test_a_month_comes_back_beside_rows_that_came_late(owner: Connection, trail: Trail, root: Path) -> None:
    """Which have a partition by then."""
    first = some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    insert(owner, "actions", INSIDE, action_type="late")
    owner.execute("SELECT provenance.empty_default('actions')")
    late = months.contents(owner, "actions_2021_03")
    restore_month(trail, root, "actions", MARCH)
    assert sorted(first + late) == months.contents(owner, "actions_2021_03")
    assert [] == schema.verify(owner)


@pytest.mark.parametrize("tenant_id", ["late", ""])
def test_a_month_that_changes_meanwhile_stays(owner: Connection, trail: Trail, root: Path, tenant_id: str) -> None:
    """Whether the row that has come is in a file or in none. The next attempt takes it too."""
    some_rows(owner, "actions")

    def come(_done: int, _total: int) -> None:
        with suppress(IndexError):
            late.pop()
            insert(owner, "actions", INSIDE, tenant_id=tenant_id)

    late = [1]
    said = refused(trail, root, tell=come)
    assert "actions of 2021-03 changed while it was archived; run it again" == said
    assert 7 == places(owner, "actions")["actions_2021_03"]
    assert [] == ledger(owner)
    assert 7 == archive_month(trail, root, "actions", MARCH).rows


def test_an_attempt_that_comes_to_nothing_leaves_nothing(
    owner: Connection, trail: Trail, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it may be erased the next day."""
    some_rows(owner, "actions")
    monkeypatch.setattr(steps, "TRIES", 1)
    with psycopg.connect(owner.info.dsn) as other:
        other.execute("SELECT count(*) FROM provenance.actions")
        assert "was in use by one transaction or another each of 1 times" in refused(trail, root)
        other.rollback()
        other.execute("LOCK TABLE provenance.actions_default IN SHARE UPDATE EXCLUSIVE MODE")
        assert "was in use by one transaction or another each of 1 times" in refused(trail, root)
    assert [] == [path for path in root.rglob("*") if path.is_file()]


def test_what_a_killed_attempt_has_left_is_removed(owner: Connection, trail: Trail, root: Path) -> None:
    """By the next one, whatever month that is of."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    restore_month(trail, root, "actions", MARCH)
    owner.execute("DELETE FROM provenance.archived_months")
    archive_month(trail, root, "row_changes", MARCH)
    assert ["row_changes"] == [month.table.name for month in contents(root)]
    assert [] == [*root.glob("actions/*/*/*")]


def test_what_is_there_already_is_not_written_again(owner: Connection, trail: Trail, root: Path) -> None:
    """If it is what is to be written, and whole."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    told: list[int] = []
    for damaged in (False, True):
        restore_month(trail, root, "actions", MARCH)
        if damaged:
            next(iter(root.glob("actions/*/*/*.parquet"))).write_bytes(b"damaged")
        archive_month(trail, root, "actions", MARCH, tell=lambda done, _: told.append(done))
        assert damaged == bool(told)
    assert verify_month(root, contents(root)[0])


def test_a_row_that_waits_while_its_month_leaves_is_refused(owner: Connection, provenance_dsn: str) -> None:
    """It would be there twice: it may be in the archive."""
    row = {"id": str(id_at(INSIDE)), "root_id": str(uuid4()), "action_type": "t", "concept": "c", "status": "failed"}
    row |= {"tenant_id": "", "started_at": INSIDE.isoformat(), "completed_at": INSIDE.isoformat(), "duration_ms": 1}
    writer = psycopg.connect(provenance_dsn, autocommit=True)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            writer.execute("SELECT provenance.write_missing_actions(%s::json)", (json.dumps([row]),))
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    with owner.transaction():
        owner.execute("LOCK TABLE ONLY provenance.actions IN ACCESS EXCLUSIVE MODE")
        thread.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        while owner.execute(waits, (writer.info.backend_pid,)).fetchone() == (0,):
            pass
        owner.execute("INSERT INTO provenance.archived_months VALUES ('actions', '2021-03-01', 1, 0, 0, 'x')")
        owner.execute("DROP TABLE provenance.actions_2021_03")
    thread.join()
    writer.close()
    assert ["the month of this action is archived"] == [error.diag.message_primary for error in errors]
    assert {} == places(owner, "actions")


def test_rows_that_are_here_already(owner: Connection, trail: Trail, root: Path) -> None:
    """They came back in another way; the month does not come back beside them."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    action = ArchivedActions(root).search(until=datetime(2022, 1, 1, tzinfo=UTC)).items[0]
    months.make(owner, "actions", first_of(2021, 3))
    insert(owner, "actions", INSIDE, id=action.id)
    with pytest.raises(
        ArchiveError, match=f"rows of actions of 2021-03 are here already .*{action.id}.*; nothing has come back"
    ):
        restore_month(trail, root, "actions", MARCH)


def test_a_directory_that_cannot_be_written(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """It is said which file, and why."""
    some_rows(owner, "actions")
    (tmp_path / "archive").write_text("a file")
    said = refused(trail, tmp_path / "archive")
    assert f"{tmp_path}/archive cannot be written or read (Not a directory: " in said
    assert 6 == places(owner, "actions")["actions_2021_03"]


def test_directories_above_that_are_closed(
    owner: Connection, trail: Trail, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were there before, so nothing of them need be on disk."""
    some_rows(owner, "actions")
    real = os.open

    def closed(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if Path(path) == root.parent:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", closed)
    assert archive_month(trail, root, "actions", MARCH)


def test_a_month_that_takes_too_long_to_count_stays(owner: Connection, trail: Trail, root: Path) -> None:
    """The table is not locked for longer than that."""
    owner.execute(
        "INSERT INTO provenance.actions (id, root_id, action_type, concept, status, started_at, completed_at, duration_ms)"
        " SELECT i, i, 't', 'c', 'completed', now(), now(), 1 FROM"
        " (SELECT overlay(provenance.uuid_floor('2021-03-02Z')::text"
        " placing lpad(to_hex(n), 12, '0') from 25)::uuid AS i FROM generate_series(1, 30000) n) s"
    )
    said = refused(trail, root, longest_hold=0.001)
    assert "counting the rows of actions of 2021-03 takes longer than the table may be locked (0.001 s)" in said
    assert 30_000 == places(owner, "actions")["actions_2021_03"]


def test_nobody_erases_meanwhile(owner: Connection, trail: Trail, root: Path, provenance_dsn: str) -> None:
    """And while somebody does, no month leaves: the file would have what is erased."""
    insert(owner, "actions", INSIDE, user_id="7")
    with psycopg.connect(provenance_dsn) as erasing:
        erasing.execute("SELECT pg_advisory_xact_lock_shared(31651020444888674)")
        assert "rows of the trail are being moved or erased by another session" in refused(trail, root)
    waited = threading.Event()
    erased: list[Any] = []

    def erase(_done: int, _total: int) -> None:
        thread.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        while owner.execute(query).fetchone() == (0,):
            pass
        waited.set()

    thread = threading.Thread(target=lambda: erased.append(trail.erase(user_id="7", reason="asked")))
    archive_month(trail, root, "actions", MARCH, tell=erase)
    thread.join()
    assert waited.is_set()
    assert 0 == erased[0].actions


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_files_that_are_damaged(owner: Connection, trail: Trail, root: Path) -> None:
    """It is noticed when they are verified, read or restored, and nothing is restored then."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    (month,) = contents(root)
    path = next(iter(root.glob("actions/*/*/*.parquet")))
    whole = path.read_bytes()
    for damaged in (whole[:-100], bytes(len(whole)), b""):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match="is not the file that was written; restore it from a backup"):
            verify_month(root, month)
        with pytest.raises(ArchiveError, match="cannot be read"):
            restore_month(trail, root, "actions", MARCH)
        with pytest.raises(ArchiveError, match=r"a file in .* cannot be read; `provenance archive verify` says which"):
            ArchivedActions(root).search(until=datetime(2022, 1, 1, tzinfo=UTC))
    path.unlink()
    with pytest.raises(ArchiveError, match="is not the file that was written"):
        verify_month(root, month)
    with pytest.raises(ArchiveError, match="cannot be read"):
        restore_month(trail, root, "actions", MARCH)
    assert 1 == len(ledger(owner))
    assert owner.execute("SELECT to_regclass('provenance.actions_2021_03')").fetchone() == (None,)
    path.write_bytes(whole)
    assert restore_month(trail, root, "actions", MARCH)


def test_files_with_other_rows(owner: Connection, trail: Trail, root: Path) -> None:
    """Somebody has written them again: nothing is restored."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    table = archived_columns.TABLES["actions"]
    path = next(iter(root.glob("actions/*/*/*.parquet")))
    rows = [list(values) for values in parquet.read(path, table.columns)]
    rows[0][table.columns.index(archived_columns.Column("action_type"))] = "other"
    parquet.write(path, table.columns, rows)
    with pytest.raises(ArchiveError, match="the rows of actions of 2021-03 are not what has left; nothing is restored"):
        restore_month(trail, root, "actions", MARCH)
    assert "actions_2021_03" not in months.attached(owner)


def test_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are written at a time, all are."""
    columns = (archived_columns.Column("name"),)
    for limit in ("_GROUP_ROWS", "_GROUP_BYTES"):
        for size in (1, 2, 7, 8):
            monkeypatch.setattr(parquet, limit, size)
            parquet.write(tmp_path / "rows", columns, [(f"{number}",) for number in range(8)])
            assert [(f"{number}",) for number in range(8)] == [*parquet.read(tmp_path / "rows", columns)]
        monkeypatch.undo()


def test_manifests_that_are_damaged(owner: Connection, trail: Trail, root: Path) -> None:
    """Each says what is wrong: of another format, no manifest, another month's, or none."""
    some_rows(owner, "actions")
    archive_month(trail, root, "actions", MARCH)
    (month,) = contents(root)
    path = month.manifest(root)
    whole = json.loads(path.read_bytes())
    for text, problem in (
        ("{", "is no manifest of an archive"),
        ("{}", "is no manifest of an archive"),
        ("[]", "is no manifest of an archive"),
        (json.dumps(whole | {"action_id": 7}), "is no manifest of an archive"),
        (json.dumps(whole | {"format": 2}), "is of format 2, and this version of provenance knows 1"),
        (json.dumps(whole | {"rows": 5}), "are not those that were written"),
    ):
        path.write_text(text)
        with pytest.raises(ArchiveError, match=problem):
            verify_month(root, month)
    with pytest.raises(ArchiveError, match="does not hold the actions of 2021-03 that has left; that was written to"):
        restore_month(trail, root, "actions", MARCH)
    path.unlink()
    with pytest.raises(ArchiveError, match="holds no actions of 2021-03"):
        verify_month(root, month)
    with pytest.raises(ArchiveError, match="does not hold the actions of 2021-03 that has left"):
        restore_month(trail, root, "actions", MARCH)
    assert [] == contents(root)


def test_files_of_something_else_are_nobodys_business(root: Path) -> None:
    """A later version may archive more tables."""
    (root / "months").mkdir(parents=True)
    (root / "months" / "seals-2021-03-1.json").write_text("{}")
    assert [] == contents(root)


def test_what_has_not_left_cannot_come_back(owner: Connection, trail: Trail, root: Path) -> None:
    """It is said where to look for what has."""
    with pytest.raises(ArchiveError, match="have not left this database; `provenance archive list` lists what has"):
        restore_month(trail, root, "actions", MARCH)


def test_whoever_is_not_the_owner_lets_nothing_leave(owner: Connection, root: Path, provenance_dsn: str) -> None:
    """A maintainer may not make evidence disappear."""
    with roles.writer(provenance_dsn) as (name, dsn), Trail(dsn) as trail:
        owner.execute("SELECT provenance.grant_maintainer(%s)", (name,))
        with pytest.raises(SchemaNotReady, match="connect as the role that owns the schema provenance"):
            archive_month(trail, root, "actions", MARCH)
    assert "actions_2021_03" in months.attached(owner)


def test_without_the_extra(owner: Connection, trail: Trail, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, and the month stays."""
    some_rows(owner, "actions")
    monkeypatch.delitem(sys.modules, "provenance.archive.parquet", raising=False)
    import provenance.archive as package  # noqa: PLC0415

    monkeypatch.delattr(package, "parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotConfigured, match=r"run: pip install 'provenance-trail\[archive\]'"):
        archive_month(trail, root, "actions", MARCH)
    assert 6 == places(owner, "actions")["actions_2021_03"]
    (root / "months").mkdir(parents=True, exist_ok=True)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(NotConfigured, match=r"run: pip install 'provenance-trail\[archive\]'"):
        ArchivedActions(root).search()


# --- Killed -----------------------------------------------------------------------------------------------------------

KILLED = 8


def test_killed_at_any_moment(owner: Connection, trail: Trail, root: Path, provenance_dsn: str) -> None:
    """Again and again: in the end each month has left once, with all its rows and no other."""
    firsts = [first_of(2021, 3), *(first_of(2022, number) for number in range(1, 7))]
    for first in firsts[1:]:
        months.make(owner, "actions", first)
    for first in firsts:
        for number in range(300):
            insert(owner, "actions", first + timedelta(hours=number), tenant_id=f"t{number % 5}")
    before = [row for row in months.contents(owner, "actions") if ",t," in row]
    command = [
        sys.executable,
        "-m",
        "provenance",
        "--dsn",
        provenance_dsn,
        "archive",
        "run",
        "--to",
        str(root),
        "--keep",
        "13",
    ]
    generator = random.Random(7)  # noqa: S311 - any moments will do
    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            # It takes a while to start; what is left of it is when there is something to interrupt.
            said, errors = process.communicate(timeout=None if kills == KILLED else generator.uniform(0.5, 2.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            # Its transaction ends when the server notices.
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            while (owner.execute(waiting).fetchone() or (0,))[0] > 0:
                pass
            continue
        assert (0, "") == (process.returncode, errors)
        break
    assert said
    left = [one for one in ledger(owner) if one.table == "actions"]
    assert [(first.date(), 300) for first in firsts] == [(one.month, one.rows) for one in left]
    for month in contents(root):
        verify_month(root, month)
    for one in left:
        restore_month(trail, root, "actions", one.month)
    assert before == [row for row in months.contents(owner, "actions") if ",t," in row]
