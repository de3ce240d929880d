"""What the application does. It knows its tables and provenance; it does not know which framework serves it.

Who is acting, and in which request, is not passed down: the front has said so with ``set_actor`` and the middleware.
"""

from __future__ import annotations

import enum
from typing import Any

import attrs
import psycopg
from psycopg.rows import class_row

from provenance import AsyncTrail, Trail


class ServiceError(Exception):
    """The base of what callers must expect; a front turns each kind into an answer."""


class NotFound(ServiceError):
    """Something the caller named does not exist."""


class SourceNotFound(NotFound):
    """There is no such master definition."""


class PublisherNotFound(NotFound):
    """There is no such publisher."""


class CopyNotFound(NotFound):
    """The publisher has no copy of that zman; a linked one has no formula of its own to edit."""


class Conflict(ServiceError):
    """The request contradicts what is there already."""


class DuplicateZman(Conflict):
    """The publisher has that zman already."""


class Mode(enum.StrEnum):
    """How a publisher takes over a master definition."""

    LINK = "link"
    """Follow it: a correction of the master reaches the publisher."""
    COPY = "copy"
    """Take its formula as it is now, to edit."""


@attrs.frozen(kw_only=True)
class Zman:
    """A master definition."""

    id: int
    name: str
    formula: str


@attrs.frozen(kw_only=True)
class PublisherZman:
    """A zman as a publisher has it; ``formula`` is ``None`` for a linked one."""

    id: int
    publisher_id: int
    zman_id: int
    formula: str | None


@attrs.frozen(kw_only=True)
class Imported:
    """What became of a list of zmanim."""

    linked: list[int]
    skipped: list[int]


_EDIT_FORMULA = """
    UPDATE publisher_zmanim SET formula = %(formula)s
     WHERE publisher_id = %(publisher)s AND zman_id = %(zman)s AND formula IS NOT NULL
    RETURNING id, publisher_id, zman_id, formula"""


class ZmanimLinkingService:
    """Gives publishers their zmanim.

    Args:
        trail: where its actions are recorded; its connections are the application's.
    """

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def link_or_copy(self, publisher_id: int, zman_id: int, mode: Mode) -> PublisherZman:
        """Link a master definition to a publisher, or copy it, and tell the publisher.

        Args:
            publisher_id: who shall have it.
            zman_id: the master definition.
            mode: whether to follow it or to take a copy.

        Raises:
            SourceNotFound: there is no such definition.
            PublisherNotFound: there is no such publisher.
            DuplicateZman: the publisher has it already.
        """
        with self._trail.track_action(
            f"{mode}_zman",
            concept="zman",
            entity_type="publisher_zman",
            payload={"publisher_id": publisher_id, "source_zman_id": zman_id, "mode": mode},
        ) as action:
            source = _source(action.connection, zman_id)
            _check_publisher(action.connection, publisher_id)
            with action.connection.cursor(row_factory=class_row(PublisherZman)) as cursor:
                # Asking first and inserting then would let two requests at once both find it free.
                made = cursor.execute(
                    """INSERT INTO publisher_zmanim (publisher_id, zman_id, formula) VALUES (%s, %s, %s)
                       ON CONFLICT (publisher_id, zman_id) DO NOTHING
                       RETURNING id, publisher_id, zman_id, formula""",
                    (publisher_id, zman_id, source.formula if mode is Mode.COPY else None),
                ).fetchone()
            if made is None:
                raise DuplicateZman(f"publisher {publisher_id} has zman {zman_id} already")
            action.entity_id = made.id
            self._notify(publisher_id, f"{source.name} is now among your zmanim")
            action.result = attrs.asdict(made)
            return made

    def link_all(self, publisher_id: int, zman_ids: list[int]) -> Imported:
        """Link several master definitions at once, leaving out those the publisher has already.

        Raises:
            SourceNotFound: one of them does not exist; then none is linked.
            PublisherNotFound: there is no such publisher.
        """
        with self._trail.track_action(
            "import_zmanim",
            concept="publisher",
            entity_type="publisher",
            entity_id=publisher_id,
            payload={"source_zman_ids": zman_ids},
        ) as action:
            imported = Imported(linked=[], skipped=[])
            for zman_id in zman_ids:
                try:
                    self.link_or_copy(publisher_id, zman_id, Mode.LINK)
                except DuplicateZman:
                    # The inner action had a savepoint: it is recorded as failed, and this one goes on.
                    imported.skipped.append(zman_id)
                else:
                    imported.linked.append(zman_id)
            action.result = attrs.asdict(imported)
            return imported

    def edit_formula(self, publisher_id: int, zman_id: int, formula: str) -> PublisherZman:
        """Change the formula of a copied zman.

        Raises:
            CopyNotFound: the publisher does not have it, or has it linked.
        """
        with self._trail.track_action(
            "edit_formula", concept="zman", entity_type="publisher_zman", payload={"formula": formula}
        ) as action:
            with action.connection.cursor(row_factory=class_row(PublisherZman)) as cursor:
                wanted = {"publisher": publisher_id, "zman": zman_id, "formula": formula}
                edited = cursor.execute(_EDIT_FORMULA, wanted).fetchone()
            if edited is None:
                raise _no_copy(publisher_id, zman_id)
            action.entity_id = edited.id
            return edited

    def save_algorithm(self, publisher_id: int, name: str, formula: str) -> int:
        """Give a publisher a way of computing, or change the one of that name, and return its id.

        Raises:
            PublisherNotFound: there is no such publisher.
        """
        with self._trail.track_action(
            "save_algorithm", concept="algorithm", entity_type="algorithm", payload={"name": name, "formula": formula}
        ) as action:
            _check_publisher(action.connection, publisher_id)
            [(algorithm_id,)] = action.connection.execute(
                """INSERT INTO algorithms (publisher_id, name, formula) VALUES (%s, %s, %s)
                   ON CONFLICT (publisher_id, name) DO UPDATE SET formula = excluded.formula
                   RETURNING id""",
                (publisher_id, name, formula),
            ).fetchall()
            action.entity_id = algorithm_id
            return int(algorithm_id)

    def add_coverage(self, publisher_id: int, place: str) -> int:
        """Make a publisher responsible for a place, and return the id of the coverage.

        Raises:
            PublisherNotFound: there is no such publisher.
        """
        with self._trail.track_action(
            "add_coverage", concept="coverage", entity_type="publisher_coverage", payload={"place": place}
        ) as action:
            _check_publisher(action.connection, publisher_id)
            [(coverage_id,)] = action.connection.execute(
                "INSERT INTO publisher_coverage (publisher_id, place) VALUES (%s, %s) RETURNING id",
                (publisher_id, place),
            ).fetchall()
            action.entity_id = coverage_id
            return int(coverage_id)

    def rebalance_coverage(self, publisher_id: int) -> float:
        """Give every place a publisher covers the same share, and return it.

        It has a bug, for the trail to tell of: nobody has thought of a publisher that covers no place.
        """
        with self._trail.track_action(
            "rebalance_coverage", concept="publisher", entity_type="publisher", entity_id=publisher_id
        ) as action:
            self._notify(publisher_id, "your coverage is being rebalanced")
            [(places,)] = action.connection.execute(
                "SELECT count(*) FROM publisher_coverage WHERE publisher_id = %s", (publisher_id,)
            ).fetchall()
            share: float = 1 / places
            action.connection.execute(
                "UPDATE publisher_coverage SET share = %s WHERE publisher_id = %s", (share, publisher_id)
            )
            action.result = {"places": places, "share": share}
            return share

    def _notify(self, publisher_id: int, message: str) -> None:
        with self._trail.track_action(
            "notify_publisher", concept="notification", entity_type="notification", payload={"message": message}
        ) as action:
            [(notification_id,)] = action.connection.execute(
                "INSERT INTO notifications (publisher_id, message) VALUES (%s, %s) RETURNING id",
                (publisher_id, message),
            ).fetchall()
            action.entity_id = notification_id


class AsyncFormulaService:
    """Edits formulas without blocking the event loop; the same statement as the service above, awaited.

    Args:
        trail: where its actions are recorded.
    """

    def __init__(self, trail: AsyncTrail) -> None:
        self._trail = trail

    async def edit_formula(self, publisher_id: int, zman_id: int, formula: str) -> PublisherZman:
        """Change the formula of a copied zman.

        Raises:
            CopyNotFound: the publisher does not have it, or has it linked.
        """
        async with self._trail.track_action(
            "edit_formula", concept="zman", entity_type="publisher_zman", payload={"formula": formula}
        ) as action:
            async with action.connection.cursor(row_factory=class_row(PublisherZman)) as cursor:
                wanted = {"publisher": publisher_id, "zman": zman_id, "formula": formula}
                await cursor.execute(_EDIT_FORMULA, wanted)
                edited = await cursor.fetchone()
            if edited is None:
                raise _no_copy(publisher_id, zman_id)
            action.entity_id = edited.id
            return edited


def _source(connection: psycopg.Connection[Any], zman_id: int) -> Zman:
    with connection.cursor(row_factory=class_row(Zman)) as cursor:
        found = cursor.execute("SELECT id, name, formula FROM zmanim WHERE id = %s", (zman_id,)).fetchone()
    if found is None:
        raise SourceNotFound(f"there is no zman {zman_id}")
    return found


def _check_publisher(connection: psycopg.Connection[Any], publisher_id: int) -> None:
    if not connection.execute("SELECT FROM publishers WHERE id = %s", (publisher_id,)).fetchall():
        raise PublisherNotFound(f"there is no publisher {publisher_id}")


def _no_copy(publisher_id: int, zman_id: int) -> CopyNotFound:
    return CopyNotFound(f"publisher {publisher_id} has no copy of zman {zman_id} to edit")
