"""The notifications of the example application: the documented usage, from the first message to its deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from provenance import request_scope
from provenance.concepts import ConceptRepository, EntityNotFound, plan
from provenance.examples.zmanim import notifications, tables
from provenance.examples.zmanim.notifications import NOTIFICATION, USER, NotificationService
from provenance.testing import RecordedActions
from provenance.trail import Trail


@pytest.fixture
def service(provenance_dsn: str, trail: Trail) -> NotificationService:
    """Return the service on a database with the application's tables."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        tables.create(connection)
        notifications.create(connection)
    return NotificationService(trail)


MESSAGE: dict[str, Any] = {"type": "zman_linked", "title": "dawn", "message": "dawn is now among your zmanim"}


def test_a_message_is_made_and_listed_with_what_it_is_about(service: NotificationService) -> None:
    """Names are looked up in tables that other concepts own."""
    dvora = service.sign_up("dvora")
    made = service.notify(dvora.id, publisher_id=1, zman_id=2, **MESSAGE)
    service.refresh()
    (shown,) = service.inbox(dvora.id)
    assert (made.id, "dawn", "pending", None) == (
        shown.id,
        shown["title"],
        shown["delivery_status"],
        shown["sent_at"],
    )
    assert {
        "user_name": "dvora",
        "publisher_name": "Har Nof Calendar",
        "zman_key": "netz_hachama",
        "zman_name": "sunrise",
    } == shown.labels
    assert () == shown.dangling


def test_the_newest_ten_of_a_user(service: NotificationService) -> None:
    """Newest first, and nobody else's."""
    dvora, yosef = service.sign_up("dvora"), service.sign_up("yosef")
    made = [service.notify(user.id, **MESSAGE).id for _ in range(12) for user in (dvora, yosef)]
    service.refresh()
    of_dvora = made[::2]
    assert sorted(of_dvora, reverse=True)[:10] == [shown.id for shown in service.inbox(dvora.id)]


def test_a_message_that_was_sent(service: NotificationService) -> None:
    """Its status and the time are there at once; the inbox has them after the next refresh."""
    dvora = service.sign_up("dvora")
    made = service.notify(dvora.id, **MESSAGE)
    service.refresh()
    sent = service.mark_as_sent(made.id)
    assert "sent" == sent["delivery_status"]
    assert timedelta() <= datetime.now(UTC) - sent["sent_at"] < timedelta(minutes=1)
    assert ["pending"] == [shown["delivery_status"] for shown in service.inbox(dvora.id)]
    service.refresh()
    assert ["sent"] == [shown["delivery_status"] for shown in service.inbox(dvora.id)]


def test_a_message_that_was_deleted(service: NotificationService, trail: Trail) -> None:
    """It leaves the inbox, cannot be sent any more, and is still in the table with its history."""
    dvora = service.sign_up("dvora")
    with request_scope(user_id="yosef"):
        made = service.notify(dvora.id, **MESSAGE)
        service.delete(made.id)
    service.refresh()
    assert [] == service.inbox(dvora.id)
    with pytest.raises(EntityNotFound, match="there is no live user_notification"):
        service.mark_as_sent(made.id)
    repository = ConceptRepository(NOTIFICATION, trail)
    kept = repository.get(made.id, include_deleted=True)
    assert kept is not None
    assert "dawn" == kept["title"]
    assert [("delete_notification", "yosef"), ("notify_user", "yosef")] == [
        (action.action_type, action.user_id) for action in repository.history(made.id)
    ]


def test_a_message_that_may_not_be(service: NotificationService, recorded_actions: RecordedActions) -> None:
    """The checks are the database's; the attempt is recorded as failed."""
    dvora = service.sign_up("dvora")
    with pytest.raises(psycopg.errors.CheckViolation, match="title_check"):
        service.notify(dvora.id, **{**MESSAGE, "title": ""})
    recorded_actions.expect("""
        sign_up completed
        notify_user failed
    """)


def test_a_publisher_that_is_gone_is_reported(service: NotificationService, provenance_dsn: str, trail: Trail) -> None:
    """Without a foreign key nothing keeps it from going; the message says so, and stays in the inbox."""
    dvora = service.sign_up("dvora")
    made = service.notify(dvora.id, publisher_id=3, **MESSAGE)
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM publishers WHERE id = 3")
    service.refresh()
    found = ConceptRepository(NOTIFICATION, trail).dangling()
    assert [(made.id, "publisher_id", 3)] == [(item.entity_id, item.column, item.value) for item in found]
    assert [("publisher_id",)] == [shown.dangling for shown in service.inbox(dvora.id)]


def test_the_tables_are_made_once(service: NotificationService, provenance_dsn: str) -> None:
    """Starting the application again changes nothing."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        notifications.create(connection)
        assert "" == plan(connection, USER, NOTIFICATION).script.up
