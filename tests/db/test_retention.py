"""Retention: what nobody must keep any more goes, and nothing else; what is left tells no lie."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from provenance import Trail, request_scope, schema
from provenance.archive import archive_month, contents, due_rows, ledger, restore_month, retire_month, retiring
from provenance.archive.reading import ArchivedActions
from provenance.archive.retiring import Retired
from provenance.errors import ArchiveError, InvalidAction, MigrationError, NotCaptured, SchemaNotReady
from provenance.journal import Spool
from provenance.journal.spool import Kind
from provenance.statements.recording import row_json
from provenance.statements.retention import Count
from provenance.testing import RecordedActions
from tests.support import colours, databases, months, roles
from tests.support.colours import Blocking, done
from tests.support.months import first_of, insert
from tests.support.rows import action_row

pytestmark = pytest.mark.anyio

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
colour = colours.colour

Connection = psycopg.Connection[Any]

MARCH = date(2021, 3, 1)
INSIDE = datetime(2021, 3, 9, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def owner(provenance_dsn: str) -> Iterator[Connection]:
    """A connection of the owner's, in autocommit mode, with partitions for a February and a March long past."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        for table in ("actions", "row_changes"):
            for month in (2, 3):
                months.make(connection, table, first_of(2021, month))
        yield connection


@pytest.fixture
def trail(provenance_dsn: str) -> Iterator[Trail]:
    """The owner's trail."""
    with Trail(provenance_dsn) as trail:
        yield trail


def retire(trail: Trail, **options: Any) -> list[Retired]:
    """Let go all that is due."""
    return [retire_month(trail, table, month, **options) for table, month, _ in due_rows(trail)]


def left(owner: Connection) -> dict[str, int]:
    """Return how many actions of each type there are, without those of the trail itself."""
    query = "SELECT action_type, count(*) FROM provenance.actions WHERE concept <> 'trail' GROUP BY 1"
    return dict(owner.execute(query).fetchall())


# --- Policies ---------------------------------------------------------------------------------------------------------


async def test_policies_are_actions(colour: Blocking, recorded_actions: RecordedActions) -> None:
    """Setting, replacing and removing each, with why."""
    first = await done(colour.trail.set_retention("logins", keep=90 * DAY, action_type="login", reason="our rules"))
    assert (90 * DAY, "delete", "login", None, None) == (
        first.keep,
        first.outcome,
        first.action_type,
        first.concept,
        first.tenant_id,
    )
    assert [first] == await done(colour.trail.retention_policies())
    second = await done(
        colour.trail.set_retention(
            "logins", keep=None, tenant_id="", concept="user", outcome="archive", reason="a new law"
        )
    )
    assert [second] == await done(colour.trail.retention_policies())
    assert (None, "archive", None, "user", "") == (
        second.keep,
        second.outcome,
        second.action_type,
        second.concept,
        second.tenant_id,
    )
    assert second == await done(colour.trail.remove_retention("logins", reason="no law"))
    with pytest.raises(
        InvalidAction, match="there is no retention policy logins; `provenance retention list` lists all"
    ):
        await done(colour.trail.remove_retention("logins", reason="no law"))
    assert [] == await done(colour.trail.retention_policies())
    set_first, _, removed, _ = recorded_actions.all()
    assert ("set_retention", "logins", "our rules", first.action_id) == (
        set_first.action_type,
        set_first.entity_id,
        (set_first.payload or {})["reason"],
        set_first.id,
    )
    assert ("remove_retention", {"reason": "no law"}) == (removed.action_type, removed.payload)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "a\x00"}, "name has characters that cannot be printed"),
        ({"name": " "}, "name.*expected printable text of 1 to 100 characters"),
        ({"reason": ""}, "reason: expected a text that says why"),
        ({"keep": timedelta(hours=36)}, "keep: expected a number of whole days up to a hundred years"),
        ({"keep": timedelta()}, "keep: expected a number of whole days"),
        ({"keep": -DAY}, "keep: expected a number of whole days"),
        ({"keep": 36_526 * DAY}, "keep: expected a number of whole days"),
        ({"keep": 90}, "keep: expected a number of whole days"),
        ({"concept": "trail"}, "concept: what was done to the trail itself is always kept"),
        ({"outcome": "burn"}, "outcome: expected delete or archive, got 'burn'"),
        ({"concept": None}, "concept: expected of what the policy is; leave it out for all"),
        ({"action_type": ""}, "action_type: expected of what the policy is"),
        ({"tenant_id": 1.5}, "tenant_id"),
    ],
)
async def test_policies_that_make_no_sense(colour: Blocking, given: dict[str, Any], problem: str) -> None:
    """Rather than letting go more than was meant."""
    with pytest.raises(InvalidAction, match=problem):
        await done(colour.trail.set_retention(**({"name": "p", "keep": DAY, "reason": "r"} | given)))
    assert [] == await done(colour.trail.retention_policies())


async def test_reasons_that_no_column_can_hold(colour: Blocking) -> None:
    """They are written as any other text that is recorded."""
    found = await done(colour.trail.set_retention("all", keep=None, reason="a\x00\ud800"))
    assert "a\\u0000\\ud800" == found.reason
    assert [found] == await done(colour.trail.retention_policies())


async def test_a_misspelt_kind(colour: Blocking) -> None:
    """It would be a policy for everything."""
    with pytest.raises(TypeError, match="unknown type; expected tenant_id, concept, action_type"):
        await done(colour.trail.set_retention("p", keep=DAY, reason="r", type="login"))


def test_only_the_owner_sets_policies(owner: Connection, provenance_dsn: str) -> None:
    """A maintainer may neither set, remove nor read them, nor let anything go."""
    with Trail(provenance_dsn) as trail:
        trail.set_retention("all", keep=DAY, reason="r")
    with roles.writer(provenance_dsn) as (name, dsn), Trail(dsn) as trail:
        owner.execute("SELECT provenance.grant_maintainer(%s)", (name,))
        for attempt in (
            lambda: trail.set_retention("p", keep=DAY, reason="r"),
            lambda: trail.remove_retention("all", reason="r"),
            trail.retention_policies,
            lambda: due_rows(trail),
            lambda: retire_month(trail, "actions", MARCH),
        ):
            with pytest.raises(SchemaNotReady, match="connect as the role that owns the schema provenance"):
                attempt()


def test_policies_are_not_migrated_away(owner: Connection, trail: Trail) -> None:
    """They would be gone without a word."""
    trail.set_retention("all", keep=None, reason="a law")
    with pytest.raises(MigrationError, match="there are retention policies, which would be gone"):
        schema.down(owner, to=6)
    assert ["all"] == [policy.name for policy in trail.retention_policies()]


def test_why_something_goes_is_not_erased(owner: Connection, trail: Trail) -> None:
    """Neither by whom it was, nor by the policy."""
    with request_scope(user_id="boss"):
        trail.set_retention("all", keep=None, reason="a law")
    for what in ({"user_id": "boss"}, {"entity": ("retention_policy", "all")}):
        assert 0 == trail.erase(reason="asked to", **what).actions


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        ([], None),
        ([("other", {"action_type": "logout"})], None),
        ([("all", {}), ("type", {"action_type": "login"})], "type"),
        ([("two", {"tenant_id": "t", "concept": "user"}), ("type", {"action_type": "login"})], "two"),
        ([("short", {"concept": "user", "keep": 1}), ("long", {"action_type": "login", "keep": 2})], "long"),
        ([("ever", {"concept": "user", "keep": None}), ("long", {"action_type": "login", "keep": 2})], "ever"),
        ([("b", {"outcome": "archive"}), ("a", {"outcome": "delete"})], "b"),
        ([("b", {}), ("a", {})], "a"),
    ],
)
def test_which_policy_holds(
    owner: Connection, trail: Trail, policies: list[tuple[str, dict[str, Any]]], found: str | None
) -> None:
    """The one that says most; then the one that keeps it the longest; then the one that does not destroy."""
    for name, said in policies:
        keep = said.pop("keep", 5)
        trail.set_retention(name, keep=None if keep is None else keep * DAY, reason="r", **said)
    query = "SELECT (provenance.retention_of('t', 'user', 'login')).name"
    assert (found,) == owner.execute(query).fetchone()


# --- What goes --------------------------------------------------------------------------------------------------------


def test_what_is_due_goes(owner: Connection, trail: Trail, recorded_actions: RecordedActions) -> None:
    """And what is younger, or kept for ever, or of no policy stays; how many went by which policy is recorded."""
    for moment in (INSIDE, datetime.now(UTC)):
        for action_type, tenant_id in (("login", "t"), ("login", "vip"), ("pay", "t"), ("view", "t")):
            insert(owner, "actions", moment, action_type=action_type, tenant_id=tenant_id)
    trail.set_retention("logins", keep=90 * DAY, action_type="login", reason="r")
    trail.set_retention("vip", keep=None, action_type="login", tenant_id="vip", reason="r")
    trail.set_retention("views", keep=30 * DAY, action_type="view", reason="r")
    due = [("actions", MARCH, [Count("logins", "delete", None, 1), Count("views", "delete", None, 1)])]
    assert due == due_rows(trail)
    (gone,) = retire(trail)
    assert (2, 0, {}) == (gone.deleted, gone.archived, gone.held)
    assert {"login": 3, "pay": 2, "view": 1} == left(owner)
    (action,) = [one for one in recorded_actions.all() if one.id == gone.action_id]
    assert ("apply_retention", "partition", "actions_2021_03") == (
        action.action_type,
        action.entity_type,
        action.entity_id,
    )
    assert {"deleted": 2, "archived": 0, "held": {}, "policies": {"logins": 1, "views": 1}} == action.result
    assert [] == due_rows(trail)


def test_a_month_that_leaves_meanwhile(owner: Connection, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not counted, and the others are."""
    insert(owner, "actions", INSIDE)
    trail.set_retention("all", keep=DAY, reason="r")
    count = retiring.statements.due

    def leave(table: str, month: date) -> Any:
        if (table, month.month) == ("actions", 2):
            owner.execute("DROP TABLE provenance.actions_2021_02")
        return count(table, month)

    monkeypatch.setattr(retiring.statements, "due", leave)
    assert [("actions", MARCH)] == [(table, month) for table, month, _ in due_rows(trail)]


def test_to_the_day(owner: Connection, trail: Trail) -> None:
    """In the month in which it is as in any other."""
    now = datetime.now(UTC)
    for days in (9.999, 10.001):
        insert(owner, "actions", now - days * DAY)
    trail.set_retention("all", keep=10 * DAY, reason="r")
    assert [1] == [gone.deleted for gone in retire(trail)]
    assert {"t": 1} == left(owner)


def test_what_was_done_to_the_trail_stays(owner: Connection, trail: Trail) -> None:
    """Whatever the policy says: it tells why something is not there."""
    for kind in ("erase", "archive_month", "anything"):
        insert(owner, "actions", INSIDE, concept="trail", action_type=kind)
    trail.set_retention("all", keep=DAY, reason="r")
    assert [] == due_rows(trail)
    assert 0 == retire_month(trail, "actions", MARCH).deleted


def test_what_has_no_outcome_stays(owner: Connection, trail: Trail) -> None:
    """Of an action that is recorded the intent may still be there: it would be taken for one that is not."""
    action_id = insert(owner, "actions", INSIDE)
    insert(owner, "row_changes", INSIDE, action_id=action_id)
    begun = months.id_at(INSIDE)
    insert(owner, "row_changes", INSIDE, action_id=begun, row_key="(2)")
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at)"
        " SELECT i, i, 't', 'c', %s FROM unnest(%s::uuid[]) i",
        (INSIDE, [action_id, begun]),
    )
    trail.set_retention("all", keep=DAY, reason="r")
    assert [] == due_rows(trail)
    assert [0, 0] == [retire_month(trail, table, MARCH).deleted for table in ("row_changes", "actions")]


def test_row_changes_go_first(owner: Connection, trail: Trail) -> None:
    """By the policy of their action, in whatever month they are; as long as one is there, so is the action."""
    action_id = insert(owner, "actions", datetime(2021, 2, 28, tzinfo=UTC), action_type="login")
    stays = insert(owner, "actions", INSIDE, action_type="pay")
    for number, of in enumerate((action_id, stays)):
        for ordinal in (1, 2):
            insert(owner, "row_changes", INSIDE, action_id=of, seq=number, ordinal=ordinal)
    insert(owner, "row_changes", INSIDE, seq=7, action_id=None)
    trail.set_retention("logins", keep=DAY, action_type="login", reason="r")
    assert 0 == retire_month(trail, "actions", date(2021, 2, 1)).deleted
    assert {"login": 1, "pay": 1} == left(owner)
    assert [(table, month) for table, month, _ in due_rows(trail)] == [
        ("row_changes", MARCH),
        ("actions", date(2021, 2, 1)),
    ]
    assert [2, 1] == [gone.deleted for gone in retire(trail)]
    assert {"pay": 1} == left(owner)
    seqs = owner.execute("SELECT seq FROM provenance.row_changes ORDER BY seq, ordinal").fetchall()
    assert [(1,), (1,), (7,)] == seqs


def test_row_changes_of_no_action_that_is_here(owner: Connection, trail: Trail) -> None:
    """Their tenant and their time is all that is known: a policy that asks for more is not for them."""
    insert(owner, "row_changes", INSIDE, tenant_id="t")
    insert(owner, "row_changes", INSIDE, tenant_id="t", seq=2, action_id=months.id_at(INSIDE))
    trail.set_retention("logins", keep=DAY, action_type="t", concept="c", reason="r")
    assert [] == due_rows(trail)
    trail.set_retention("tenant", keep=DAY, tenant_id="t", reason="r")
    assert [2] == [gone.deleted for gone in retire(trail)]


def test_row_changes_of_an_action_that_has_left_stay_as_long_as_any_policy_says(
    owner: Connection, trail: Trail, tmp_path: Path
) -> None:
    """Nobody knows any more of which kind it was: it might be what is kept the longest, or archived."""
    trail.set_retention("all", keep=30 * DAY, reason="r")
    trail.set_retention("pay", keep=None, action_type="pay", reason="r")
    trail.set_retention("others", keep=None, tenant_id="others", reason="r")
    insert(owner, "row_changes", INSIDE, action_id=months.id_at(INSIDE))
    assert [] == due_rows(trail)
    trail.set_retention("pay", keep=36_000 * DAY, action_type="pay", reason="r")
    assert [] == due_rows(trail)
    trail.set_retention("pay", keep=300 * DAY, action_type="pay", outcome="archive", reason="r")
    assert [("row_changes", MARCH, [Count("all", "archive", None, 1)])] == due_rows(trail)
    assert [1] == [gone.archived for gone in retire(trail, root=tmp_path)]


def test_clocks_that_differ(owner: Connection, trail: Trail) -> None:
    """A row change may seem to be older than its action: the action stays all the same."""
    action_id = insert(owner, "actions", first_of(2021, 3) + timedelta(seconds=1))
    insert(owner, "row_changes", first_of(2021, 3) - timedelta(seconds=1), action_id=action_id)
    trail.set_retention("all", keep=DAY, reason="r")
    assert 0 == retire_month(trail, "actions", MARCH).deleted
    assert [1, 1] == [gone.deleted for gone in retire(trail)]


def test_a_month_of_which_a_policy_deletes_something_does_not_leave(
    owner: Connection, trail: Trail, tmp_path: Path
) -> None:
    """Not even later: the archive would keep it for ever."""
    insert(owner, "actions", INSIDE, action_type="login")
    trail.set_retention("pay", keep=DAY, action_type="pay", reason="r")
    trail.set_retention("logins", keep=36_000 * DAY, action_type="login", reason="r")
    with pytest.raises(ArchiveError, match="the retention policy logins deletes some of actions of 2021-03, which an"):
        archive_month(trail, tmp_path, "actions", MARCH)
    trail.set_retention("logins", keep=36_000 * DAY, action_type="login", outcome="archive", reason="r")
    assert 1 == archive_month(trail, tmp_path, "actions", MARCH).rows


@pytest.mark.parametrize("scope", [{"user_id": "ada"}, {"concept": "c", "tenant_id": ""}])
def test_what_is_held_stays(owner: Connection, trail: Trail, scope: dict[str, Any]) -> None:
    """With its row changes, and says by which hold; what is not held goes all the same."""
    for number, about in enumerate(({"user_id": "ada"}, {"user_id": "bob", "tenant_id": "t"})):
        action_id = insert(owner, "actions", INSIDE, **about)
        tenant_id = about.get("tenant_id", "")
        insert(owner, "row_changes", INSIDE, seq=number, action_id=action_id, tenant_id=tenant_id)
    trail.set_retention("all", keep=DAY, reason="r")
    trail.place_hold("case 7", reason="a court", **scope)
    both = [Count("all", "delete", None, 1), Count("all", "delete", "case 7", 1)]
    assert [both, both] == [counts for _, _, counts in due_rows(trail)]
    assert [(1, {"case 7": 1}), (1, {"case 7": 1})] == [(gone.deleted, gone.held) for gone in retire(trail)]
    assert [("ada",)] == owner.execute("SELECT user_id FROM provenance.actions WHERE concept = 'c'").fetchall()
    trail.release_hold("case 7", reason="settled")
    assert [(1, {}), (1, {})] == [(gone.deleted, gone.held) for gone in retire(trail)]


def test_keys_go_with_their_actions(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """Whether they leave alone or with their month; others would be told that the work has no outcome yet."""
    for key, action_type in (("gone", "login"), ("stays", "pay")):
        action_id = insert(owner, "actions", INSIDE, action_type=action_type)
        owner.execute(
            "INSERT INTO provenance.idempotency_keys (tenant_id, action_type, key, input_digest, action_id)"
            " VALUES ('', %s, %s, '', %s)",
            (action_type, key, action_id),
        )
    keys = "SELECT key FROM provenance.idempotency_keys"
    trail.set_retention("logins", keep=DAY, action_type="login", reason="r")
    retire(trail)
    assert [("stays",)] == owner.execute(keys).fetchall()
    archive_month(trail, tmp_path, "actions", MARCH)
    assert [] == owner.execute(keys).fetchall()


def test_nobody_erases_meanwhile(owner: Connection, trail: Trail, provenance_dsn: str) -> None:
    """What is erased is moved, and would be missed."""
    insert(owner, "actions", INSIDE)
    trail.set_retention("all", keep=DAY, reason="r")
    with psycopg.connect(provenance_dsn) as erasing:
        erasing.execute("SELECT pg_advisory_xact_lock_shared(31651020444888674)")
        with pytest.raises(ArchiveError, match="rows of the trail are being moved or erased by another session"):
            retire(trail)
    assert {"t": 1} == left(owner)


def test_a_month_of_which_a_row_waits_in_a_spool_stays(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """It may be one of those that go, and would come back."""
    insert(owner, "actions", INSIDE)
    trail.set_retention("all", keep=DAY, reason="r")
    spool = Spool(tmp_path / "spool")
    spool.put(Kind.OUTCOME, [json.dumps({"id": str(months.id_at(INSIDE))})])
    with pytest.raises(ArchiveError, match=r"1 row\(s\) of 2021-03 wait in the spool"):
        retire(trail, spools=[tmp_path / "spool"])
    assert {"t": 1} == left(owner)


def test_a_policy_waits_for_what_goes_by_others(owner: Connection, trail: Trail, provenance_dsn: str) -> None:
    """What has been set holds: nothing goes afterwards by what was said before."""
    trail.set_retention("all", keep=DAY, reason="r")
    with psycopg.connect(provenance_dsn) as retiring_one:
        retiring_one.execute("SELECT pg_advisory_xact_lock(31651020444888674)")
        for change in (
            lambda: trail.set_retention("all", keep=None, reason="r"),
            lambda: trail.remove_retention("all", reason="r"),
        ):
            with ThreadPoolExecutor(1) as executor:
                changing = executor.submit(change)
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
                while owner.execute(waiting).fetchone() == (0,):
                    assert not changing.done()
                retiring_one.rollback()
                assert "all" == changing.result().name
            retiring_one.execute("SELECT pg_advisory_xact_lock(31651020444888674)")


def test_the_guard_lets_nothing_else_through(owner: Connection, trail: Trail) -> None:
    """Neither outside such an action, nor what was done to the trail inside one, nor an update."""
    insert(owner, "actions", INSIDE)
    insert(owner, "actions", INSIDE, concept="trail")
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"is insert-only: (DELETE|UPDATE) refused")
    with refused:
        owner.execute("DELETE FROM provenance.actions")
    for query in (
        "DELETE FROM provenance.actions WHERE concept = 'trail'",
        "UPDATE provenance.actions SET payload = NULL",
    ):
        with refused, trail.track_action("apply_retention", concept="trail", durability="intent") as action:
            action.connection.execute(query.encode())
    for about in ({"concept": "shop"}, {"action_type": "other"}):
        said = {"action_type": "apply_retention", "concept": "trail"} | about
        with refused, trail.track_action(**said, durability="intent") as action:
            action.connection.execute("DELETE FROM provenance.actions")
    with refused, trail.track_action("apply_retention", concept="trail") as action:
        action.connection.execute("DELETE FROM provenance.actions")


@pytest.mark.parametrize(
    ("table", "month"), [("actions", date(2020, 1, 1)), ("actions", date(2021, 3, 2)), ("x", MARCH)]
)
def test_what_is_no_month(owner: Connection, trail: Trail, table: str, month: date) -> None:
    """It says so."""
    with pytest.raises(ArchiveError, match=r"there is no partition|expected one of actions, row_changes"):
        retire_month(trail, table, month)


# --- To an archive ----------------------------------------------------------------------------------------------------


@pytest.fixture
def some(owner: Connection, trail: Trail) -> list[UUID]:
    """Two actions of a type that goes to an archive, with a row change each, and one that stays."""
    ids = [insert(owner, "actions", INSIDE + number * DAY, action_type="login", user_id="ada") for number in range(2)]
    for number, action_id in enumerate(ids):
        insert(owner, "row_changes", INSIDE, seq=number, action_id=action_id)
    insert(owner, "actions", INSIDE, action_type="pay")
    trail.set_retention("logins", keep=90 * DAY, action_type="login", outcome="archive", reason="r")
    return ids


def test_to_an_archive_and_back(owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID]) -> None:
    """What the files hold is what went, as the statement says that took it out; it comes back as it was."""
    before = {table: months.contents(owner, f"{table}_2021_03") for table in ("actions", "row_changes")}
    changes, actions = retire(trail, root=tmp_path)
    assert [(0, 2), (0, 2)] == [(gone.deleted, gone.archived) for gone in (changes, actions)]
    assert {"pay": 1} == left(owner)
    assert [(MARCH, 2, False), (MARCH, 2, False)] == [(one.month, one.rows, one.whole) for one in ledger(owner)]
    assert set(some) == {action.id for action in ArchivedActions(tmp_path).search()}
    assert [] == due_rows(trail)
    for table, rows in before.items():
        restore_month(trail, tmp_path, table, MARCH)
        assert rows == months.contents(owner, f"{table}_2021_03")
    assert [] == ledger(owner)
    assert [2, 2] == [gone.archived for gone in retire(trail, root=tmp_path)]
    archive_month(trail, tmp_path, "actions", MARCH)
    assert [(1, False), (2, True)] == [(one.edition, one.whole) for one in ledger(owner) if one.table == "actions"]
    restore_month(trail, tmp_path, "actions", MARCH)
    assert before["actions"] == months.contents(owner, "actions_2021_03")
    assert [] == schema.verify(owner)


def test_without_a_directory(owner: Connection, trail: Trail, some: list[UUID]) -> None:
    """Nothing goes."""
    with pytest.raises(
        ArchiveError, match=r"2 row\(s\) of row_changes of 2021-03 go to an archive, .* name its directory"
    ):
        retire(trail)
    assert {"login": 2, "pay": 1} == left(owner)


def test_both_outcomes_at_once(owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID]) -> None:
    """What is to be deleted is in no file."""
    trail.set_retention("payments", keep=DAY, action_type="pay", reason="r")
    _, actions = retire(trail, root=tmp_path)
    assert (1, 2) == (actions.deleted, actions.archived)
    assert {} == left(owner)
    assert set(some) == {action.id for action in ArchivedActions(tmp_path).search()}


def test_a_month_goes_to_an_archive_once_all_of_it_may(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """Rather than every day a little of it, in files of its own."""
    now = datetime.now(UTC)
    age = timedelta(days=(now - now.replace(day=1)).days + 5)
    insert(owner, "actions", now - age)
    trail.set_retention("all", keep=DAY, outcome="archive", reason="r")
    insert(owner, "actions", now - timedelta(seconds=1))
    found = due_rows(trail)
    assert all(month < now.date().replace(day=1) for _, month, _ in found)


def test_rows_that_come_meanwhile_stay(owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID]) -> None:
    """Which ones go is found out once."""

    def come(_done: int, _total: int) -> None:
        insert(owner, "actions", INSIDE, action_type="login")

    retire_month(trail, "row_changes", MARCH, root=tmp_path)
    assert 2 == retire_month(trail, "actions", MARCH, root=tmp_path, tell=come).archived
    assert {"login": 1, "pay": 1} == left(owner)


def test_files_that_hold_something_else(
    owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes, and the files are removed."""
    monkeypatch.setattr(retiring, "Summary", lambda *_: object())
    monkeypatch.setattr(retiring, "sum", lambda *_: object(), raising=False)
    with pytest.raises(ArchiveError, match="row_changes of 2021-03 changed while it was archived; run it again"):
        retire(trail, root=tmp_path)
    assert {"login": 2, "pay": 1} == left(owner)
    assert ([], []) == (contents(tmp_path), ledger(owner))
    assert [] == list(tmp_path.rglob("*.parquet"))


def test_what_has_left_does_not_come_in_again(
    owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID]
) -> None:
    """Out of a spool that nobody knew of: it would be there twice. What was begun in that month may still end."""
    begun = months.id_at(INSIDE)
    owner.execute(
        "INSERT INTO provenance.action_intents (id, root_id, action_type, concept, started_at)"
        " VALUES (%(id)s, %(id)s, 'login', 'c', %(at)s)",
        {"id": begun, "at": INSIDE},
    )
    retire(trail, root=tmp_path)
    row = row_json(action_row(id=some[0], status="failed"))
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="the month of this action is archived"):
        owner.execute("SELECT provenance.write_missing_actions(%s)", (f"[{row}]",))
    owner.execute(
        "SELECT provenance.write_missing_actions(%s)", (f"[{row_json(action_row(id=begun, status='failed'))}]",)
    )
    assert ("failed",) == owner.execute("SELECT provenance.outcome(%s)", (begun,)).fetchone()


def test_a_deletion_that_fails_leaves_no_files(
    owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was to be archived in the same month: it is here still, and may be erased."""
    trail.set_retention("payments", keep=DAY, action_type="pay", reason="r")
    retire_month(trail, "row_changes", MARCH, root=tmp_path)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(retiring, "_delete", fail)
    with pytest.raises(ZeroDivisionError):
        retire_month(trail, "actions", MARCH, root=tmp_path)
    assert {"login": 2, "pay": 1} == left(owner)
    assert ["row_changes"] == [month.table.name for month in contents(tmp_path)]
    assert [] == list((tmp_path / "actions").rglob("*.parquet"))


def test_editions_in_several_directories(owner: Connection, trail: Trail, tmp_path: Path, some: list[UUID]) -> None:
    """All come back, from where they were written; one that is not there any more is said to be missing."""
    before = months.contents(owner, "actions_2021_03")
    retire(trail, root=tmp_path / "a")
    archive_month(trail, tmp_path / "b", "actions", MARCH)
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(ArchiveError, match=r"that was written to .*/a"):
        restore_month(trail, tmp_path / "b", "actions", MARCH)
    restore_month(trail, tmp_path / "c", "actions", MARCH)
    assert before == months.contents(owner, "actions_2021_03")


# --- What is left tells no lie ----------------------------------------------------------------------------------------


def age(owner: Connection, by: timedelta) -> None:
    """Make everything older that was captured."""
    owner.execute("ALTER TABLE provenance.row_changes DISABLE TRIGGER refuse_change")
    owner.execute(
        "UPDATE provenance.row_changes SET recorded_at = recorded_at - %s WHERE recorded_at > '2022-01-01Z'", (by,)
    )
    owner.execute("ALTER TABLE provenance.row_changes ENABLE ALWAYS TRIGGER refuse_change")
    for column in ("captured_at", "released_at"):
        query = "UPDATE provenance.captured_tables SET {0} = {0} - %s WHERE {0} > '2022-01-01Z'"
        owner.execute(sql.SQL(query).format(sql.Identifier(column)), (by,))
    owner.execute("ALTER TABLE provenance.actions DISABLE TRIGGER refuse_change")
    owner.execute(
        "UPDATE provenance.actions SET started_at = started_at - %s WHERE concept = 'c' AND started_at > '2022-01-01Z'",
        (by,),
    )
    owner.execute("ALTER TABLE provenance.actions ENABLE ALWAYS TRIGGER refuse_change")


def now(owner: Connection) -> datetime:
    ((moment,),) = owner.execute("SELECT clock_timestamp()").fetchall()
    assert isinstance(moment, datetime)
    return moment


KEYS = st.integers(1, 3)
STATEMENTS = st.one_of(
    st.builds("INSERT INTO t VALUES ({}, {}) ON CONFLICT (id) DO UPDATE SET v = excluded.v".format, KEYS, KEYS),
    st.builds("UPDATE t SET v = v + 1 WHERE id <= {}".format, KEYS),
    st.builds("UPDATE t SET id = 4 - id WHERE id < {}".format, KEYS),
    st.builds("DELETE FROM t WHERE id = {}".format, KEYS),
    st.just("TRUNCATE t"),
)


def test_what_a_table_was_is_told_truly_or_not_at_all(owner: Connection, trail: Trail) -> None:
    """Whichever of its changes have gone: of the time after the last of them it is known, and of that before it is not."""
    owner.execute("CREATE TABLE t (id integer PRIMARY KEY, v integer)")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        history=st.lists(st.tuples(STATEMENTS, st.booleans()), min_size=2, max_size=8),
        adopt=st.booleans(),
        release=st.booleans(),
    )
    def check(history: list[tuple[str, bool]], adopt: bool, release: bool) -> None:
        owner.execute("DELETE FROM t")
        owner.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
        trail.capture("t")
        if adopt:
            trail.adopt("t")
        really: list[tuple[datetime, dict[str, Any]]] = []
        gone: datetime | None = None
        for statement, goes in history:
            with (
                suppress(psycopg.errors.UniqueViolation),
                trail.track_action("login" if goes else "pay", concept="c") as action,
            ):
                action.connection.execute(statement.encode())
            really.append((now(owner), {str(key): v for key, v in owner.execute("SELECT id, v FROM t").fetchall()}))
        if release:
            trail.release("t")
        by = timedelta(days=(datetime.now(UTC) - datetime(2021, 3, 9, tzinfo=UTC)).days)
        age(owner, by)
        ((gone,),) = owner.execute(
            "SELECT max(r.recorded_at) FROM provenance.row_changes r JOIN provenance.actions a ON a.id = r.action_id"
            " WHERE a.action_type = 'login' AND r.table_id = (SELECT max(id) FROM provenance.captured_tables)"
        ).fetchall()
        trail.set_retention("logins", keep=DAY, action_type="login", reason="r")
        retire_month(trail, "row_changes", MARCH)
        known = 0
        for moment, rows in really:
            at = moment - by
            for key in range(1, 5):
                try:
                    found = trail.changes.as_of("public.t", key, at)
                except NotCaptured:
                    assert gone is not None or (release and not adopt)
                    continue
                assert (None if found is None else found["v"]) == rows.get(str(key))
                known += 1
        if gone is None or (gone < really[-1][0] - by and not release):
            assert known or release
        if not release:
            trail.release("t")

    check()


def test_months_that_are_away_are_not_made_up(owner: Connection, trail: Trail, tmp_path: Path) -> None:
    """What a row was then is not known until they come back; of what it was afterwards what came next tells."""
    owner.execute("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    trail.capture("t")
    owner.execute("INSERT INTO t VALUES (1, 'a')")
    moments = [datetime(2021, 1, 9, tzinfo=UTC), datetime(2021, 2, 9, tzinfo=UTC), INSIDE]
    for value in "bc":
        owner.execute("UPDATE t SET v = %s", (value,))
    owner.execute("ALTER TABLE provenance.row_changes DISABLE TRIGGER refuse_change")
    months.make(owner, "row_changes", first_of(2021, 1))
    owner.execute(
        "UPDATE provenance.row_changes r SET recorded_at = m.at FROM"
        " (SELECT row_number() OVER () AS n, at FROM unnest(%s::timestamptz[]) at) m"
        " WHERE m.n = (SELECT count(DISTINCT o.seq) FROM provenance.row_changes o WHERE o.seq <= r.seq)",
        (moments,),
    )
    owner.execute("UPDATE provenance.captured_tables SET captured_at = '2020-01-01Z'")

    def was(*day: int) -> str | None:
        row = trail.changes.as_of("t", 1, datetime(*day, tzinfo=UTC))  # type: ignore[misc]
        return None if row is None else str(row["v"])

    expected = [((2021, 1, 20), "a"), ((2021, 2, 20), "b"), ((2021, 3, 1), "b"), ((2021, 3, 20), "c")]
    assert [value for _, value in expected] == [was(*day) for day, _ in expected]
    for first in (2, 1):
        archive_month(trail, tmp_path, "row_changes", date(2021, first, 1))
        for day in ((2021, 1, 20), (2021, 2, 20)):
            with pytest.raises(
                NotCaptured,
                match=re.escape("some of its row changes until 2021-03-01 00:00:00+00 have left the database"),
            ):
                was(*day)
        assert ["b", "c"] == [was(2021, 3, 1), was(2021, 3, 20)]
        assert datetime(2021, 3, 1, tzinfo=UTC) == trail.changes.blame("t", 1).incomplete_until
        assert datetime(2021, 3, 1, tzinfo=UTC) == trail.changes.history("t", 1).incomplete_until
    for first in (2, 1):
        restore_month(trail, tmp_path, "row_changes", date(2021, first, 1))
    assert trail.changes.blame("t", 1).incomplete_until is None
    assert trail.changes.history("t", 1).incomplete_until is None
    assert [value for _, value in expected] == [was(*day) for day, _ in expected]
