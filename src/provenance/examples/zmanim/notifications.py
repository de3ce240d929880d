"""Messages to users: a concept that is declared, whose table and queries are made from the declaration.

``provenance concept sql provenance.examples.zmanim.notifications`` prints the SQL for review. The other tables of the
application are in ``tables.sql``; a message names their rows by id alone, and the resolved view looks up their names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from provenance import Trail
from provenance.concepts import (
    Attribute,
    Concept,
    ConceptRepository,
    Entity,
    LiveIndex,
    Reference,
    ResolvedEntity,
    Target,
    apply,
    linked,
)

USER, NOTIFICATION = linked(
    Concept(name="user", attributes=[Attribute(name="name", type="text", check="name <> ''")]),
    Concept(
        name="user_notification",
        references=[
            Reference(column="user_id", to="user", labels={"user_name": "name"}),
            Reference(
                column="publisher_id",
                type="integer",
                to=Target(table="public.publishers"),
                labels={"publisher_name": "name"},
                nullable=True,
            ),
            Reference(
                column="zman_id",
                type="integer",
                to=Target(table="public.zmanim"),
                labels={"zman_key": "key", "zman_name": "name"},
                nullable=True,
            ),
        ],
        attributes=[
            Attribute(name="type", type="text", check="type IN ('zman_linked', 'zman_changed', 'announcement')"),
            Attribute(name="title", type="text", check="title <> ''"),
            Attribute(name="message", type="text"),
            Attribute(
                name="delivery_status",
                type="text",
                default="'pending'",
                check="delivery_status IN ('pending', 'sent', 'failed')",
            ),
            Attribute(
                name="sent_at",
                type="timestamptz",
                nullable=True,
                check="(sent_at IS NOT NULL) = (delivery_status = 'sent')",
            ),
        ],
        indexes=[LiveIndex(columns=["user_id"])],
    ),
)


def create(connection: psycopg.Connection[Any]) -> None:
    """Create the tables and views, or change them to what is declared now."""
    apply(connection, USER, NOTIFICATION)


class NotificationService:
    """Keeps the messages to users. Each method that writes is an action of its own, so each message has a history.

    Args:
        trail: where its actions are recorded.
    """

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._users = ConceptRepository(USER, trail)
        self._notifications = ConceptRepository(NOTIFICATION, trail)

    def sign_up(self, name: str) -> Entity:
        """Make a user."""
        with self._trail.track_action("sign_up", concept="user"):
            return self._users.create(name=name)

    def notify(self, user_id: UUID, **message: object) -> Entity:
        """Make a message to a user, to be sent.

        Args:
            user_id: who is to get it.
            message: ``type``, ``title`` and ``message``, and what it is about: ``publisher_id``, ``zman_id``.
        """
        with self._trail.track_action("notify_user", concept="user_notification", payload=message):
            return self._notifications.create(user_id=user_id, **message)

    def mark_as_sent(self, notification_id: UUID) -> Entity:
        """Note that a message has been sent, and when.

        Raises:
            provenance.concepts.EntityNotFound: there is none, or it was deleted.
        """
        with self._trail.track_action("mark_as_sent", concept="user_notification"):
            return self._notifications.update(notification_id, delivery_status="sent", sent_at=datetime.now(UTC))

    def delete(self, notification_id: UUID) -> Entity:
        """Take a message out of sight; it stays in the table.

        Raises:
            provenance.concepts.EntityNotFound: there is none, or it was deleted already.
        """
        with self._trail.track_action("delete_notification", concept="user_notification"):
            return self._notifications.soft_delete(notification_id)

    def inbox(self, user_id: UUID) -> list[ResolvedEntity]:
        """Return the newest 10 messages to a user, with what they are about, as of the last refresh."""
        return list(self._notifications.list_resolved(where={"user_id": user_id}, limit=10))

    def refresh(self) -> None:
        """Bring the inboxes up to date: after bulk work, and from a scheduler."""
        self._notifications.refresh()
