"""The service, without any framework: what it does, and what the trail says it did."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg import sql

from provenance import AsyncTrail, request_scope
from provenance.examples.zmanim.service import (
    AsyncFormulaService,
    CopyNotFound,
    DuplicateZman,
    Imported,
    Mode,
    PublisherNotFound,
    PublisherZman,
    SourceNotFound,
    ZmanimLinkingService,
)
from provenance.ids import new_id
from provenance.testing import RecordedActions

Database = psycopg.Connection[Any]


def _rows(database: Database, table: str = "publisher_zmanim") -> list[Any]:
    return database.execute(sql.SQL("SELECT * FROM {} ORDER BY id").format(sql.Identifier(table))).fetchall()


def test_a_linked_zman_records_one_completed_action(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """Who, in which request, what, on which row, with what outcome and how long it took."""
    request_id = new_id()
    with request_scope(request_id, user_id="dvora", tenant_id=1):
        linked = service.link_or_copy(1, 2, Mode.LINK)
    action = recorded_actions.one(action_type="link_zman")
    assert ("zman", "completed", "dvora", "1", request_id) == (
        action.concept,
        action.status,
        action.user_id,
        action.tenant_id,
        action.request_id,
    )
    assert ("publisher_zman", str(linked.id)) == (action.entity_type, action.entity_id)
    assert {"publisher_id": 1, "source_zman_id": 2, "mode": "link"} == action.payload
    assert {"id": linked.id, "publisher_id": 1, "zman_id": 2, "formula": None} == action.result
    assert action.completed_at is not None
    assert action.completed_at > action.started_at
    assert action.duration_ms is not None
    assert action.duration_ms > 0
    assert [(linked.id, 1, 2, None, action.id, action.id)] == _rows(database)


def test_a_copied_zman_has_a_formula_of_its_own(
    service: ZmanimLinkingService, recorded_actions: RecordedActions
) -> None:
    """A copy takes the master's formula as it is."""
    copied = service.link_or_copy(1, 1, Mode.COPY)
    assert PublisherZman(id=copied.id, publisher_id=1, zman_id=1, formula="sunrise - 72 min") == copied
    recorded_actions.expect("""
        copy_zman completed
          notify_publisher completed
    """)


def test_an_unknown_source_leaves_one_failed_action_and_no_row(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The error is raised, the failure with its message is durable, and the domain tables are unchanged."""
    with pytest.raises(SourceNotFound, match="there is no zman 99"):
        service.link_or_copy(1, 99, Mode.LINK)
    action = recorded_actions.one()
    assert ("link_zman", "zman", "failed", "there is no zman 99") == (
        action.action_type,
        action.concept,
        action.status,
        action.error_message,
    )
    assert f"{SourceNotFound.__module__}.SourceNotFound" == action.error_type
    assert {"publisher_id": 1, "source_zman_id": 99, "mode": "link"} == action.payload
    assert ([], []) == (_rows(database), _rows(database, "notifications"))


def test_an_unknown_publisher_is_refused(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The reference has no foreign key; the service checks it."""
    with pytest.raises(PublisherNotFound, match="there is no publisher 9"):
        service.link_or_copy(9, 1, Mode.LINK)
    assert ("failed", []) == (recorded_actions.one().status, _rows(database))


def test_a_duplicate_is_refused(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """A publisher has a zman once, linked or copied."""
    service.link_or_copy(1, 1, Mode.LINK)
    before = _rows(database)
    with pytest.raises(DuplicateZman, match="publisher 1 has zman 1 already"):
        service.link_or_copy(1, 1, Mode.COPY)
    assert before == _rows(database)
    recorded_actions.expect("""
        link_zman completed
          notify_publisher completed
        copy_zman failed
    """)


def test_of_two_at_once_one_is_the_duplicate(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The refusal does not depend on who looked first."""
    together = Barrier(4)

    def link() -> bool:
        together.wait(10)
        try:
            service.link_or_copy(1, 1, Mode.LINK)
        except DuplicateZman:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        outcomes = [future.result() for future in [pool.submit(link) for _ in range(4)]]
    assert [False, False, False, True] == sorted(outcomes)
    [row] = _rows(database)
    assert recorded_actions.one(action_type="link_zman", status="completed").id == row[4]
    assert 3 == len(recorded_actions.all(action_type="link_zman", status="failed"))


def test_an_import_skips_duplicates_and_goes_on(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The inner action fails and is undone alone; the outer one completes and says what it skipped."""
    service.link_or_copy(1, 3, Mode.LINK)
    assert Imported(linked=[1, 2], skipped=[3]) == service.link_all(1, [1, 3, 2])
    assert {"linked": [1, 2], "skipped": [3]} == recorded_actions.one(action_type="import_zmanim").result
    assert [3, 1, 2] == [row[2] for row in _rows(database)]
    recorded_actions.expect("""
        link_zman completed
          notify_publisher completed
        import_zmanim completed
          link_zman completed
            notify_publisher completed
          link_zman failed
          link_zman completed
            notify_publisher completed
    """)


def test_an_import_is_all_or_nothing_about_sources(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """What was linked before the unknown one is undone, and the trail says that it was."""
    with pytest.raises(SourceNotFound):
        service.link_all(1, [1, 99])
    assert ([], []) == (_rows(database), _rows(database, "notifications"))
    recorded_actions.expect("""
        import_zmanim failed
          link_zman rolled_back
            notify_publisher rolled_back
          link_zman failed
    """)


def test_every_row_names_the_action_that_made_it(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The innermost action is the maker: the notification's is not the link's."""
    service.link_or_copy(1, 1, Mode.LINK)
    [[*_, link_maker, _]], [[*_, note_maker]] = _rows(database), _rows(database, "notifications")
    assert (
        recorded_actions.one(action_type="link_zman").id,
        recorded_actions.one(action_type="notify_publisher").id,
    ) == (
        link_maker,
        note_maker,
    )


def test_an_edit_names_the_action_that_changed_the_row(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """Created by one action and updated by another."""
    copied = service.link_or_copy(1, 1, Mode.COPY)
    edited = service.edit_formula(1, 1, "sunrise - 90 min")
    assert PublisherZman(id=copied.id, publisher_id=1, zman_id=1, formula="sunrise - 90 min") == edited
    action = recorded_actions.one(action_type="edit_formula")
    maker = recorded_actions.one(action_type="copy_zman")
    assert [(copied.id, 1, 1, "sunrise - 90 min", maker.id, action.id)] == _rows(database)
    assert maker.entity == action.entity


def test_a_link_cannot_be_edited(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """It follows its source; there is no formula to edit."""
    service.link_or_copy(1, 1, Mode.LINK)
    before = _rows(database)
    with pytest.raises(CopyNotFound, match="publisher 1 has no copy of zman 1 to edit"):
        service.edit_formula(1, 1, "noon")
    assert (before, "failed") == (_rows(database), recorded_actions.one(action_type="edit_formula").status)


def test_the_awaited_edit_does_the_same(
    service: ZmanimLinkingService, database: Database, provenance_dsn: str, recorded_actions: RecordedActions
) -> None:
    """Both colours write the same row and the same action."""
    copied = service.link_or_copy(1, 1, Mode.COPY)

    async def edit() -> PublisherZman:
        async with AsyncTrail(provenance_dsn) as trail:
            formulas = AsyncFormulaService(trail)
            with pytest.raises(CopyNotFound, match="publisher 2 has no copy of zman 1 to edit"):
                await formulas.edit_formula(2, 1, "noon")
            return await formulas.edit_formula(1, 1, "noon")

    edited = asyncio.run(edit())
    assert PublisherZman(id=copied.id, publisher_id=1, zman_id=1, formula="noon") == edited
    failed, completed = recorded_actions.all(action_type="edit_formula")
    assert ("failed", None, "completed", str(copied.id)) == (
        failed.status,
        failed.entity_id,
        completed.status,
        completed.entity_id,
    )
    assert completed.id == _rows(database)[0][5]


def test_coverage_is_shared_evenly(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """Added by one action each, and rebalanced by another."""
    first, second = service.add_coverage(1, "Jerusalem"), service.add_coverage(1, "Safed")
    assert 0.5 == service.rebalance_coverage(1)
    makers = [action.id for action in recorded_actions.all(action_type="add_coverage")]
    changer = recorded_actions.one(action_type="rebalance_coverage")
    assert [
        (first, 1, "Jerusalem", None, None, None, None, None, 0.5, makers[0], changer.id),
        (second, 1, "Safed", None, None, None, None, None, 0.5, makers[1], changer.id),
    ] == _rows(database, "publisher_coverage")
    assert {"places": 2, "share": 0.5} == changer.result


def test_an_algorithm_is_made_and_changed(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """The row names the action that made it, and the one that changed it last."""
    made = service.save_algorithm(1, "fixed", "sunrise - 72 min")
    assert made == service.save_algorithm(1, "fixed", "sunrise - 90 min")
    first, second = recorded_actions.all(action_type="save_algorithm")
    assert [(made, 1, "fixed", "sunrise - 90 min", first.id, second.id)] == _rows(database, "algorithms")
    with pytest.raises(PublisherNotFound):
        service.save_algorithm(9, "fixed", "sunrise")


def test_coverage_of_nobody_is_refused(service: ZmanimLinkingService, database: Database) -> None:
    """The publisher is checked here too."""
    with pytest.raises(PublisherNotFound):
        service.add_coverage(9, "Jerusalem")
    assert [] == _rows(database, "publisher_coverage")


def test_a_crash_is_recorded_with_all_it_undid(
    service: ZmanimLinkingService, database: Database, recorded_actions: RecordedActions
) -> None:
    """A bug leaves the same kind of evidence as a refusal, and its inner work counts as undone."""
    with pytest.raises(ZeroDivisionError):
        service.rebalance_coverage(1)
    recorded_actions.expect("""
        rebalance_coverage failed
          notify_publisher rolled_back
    """)
    assert "ZeroDivisionError" == recorded_actions.one(action_type="rebalance_coverage").error_type
    assert [] == _rows(database, "notifications")
