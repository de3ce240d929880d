"""Working with the rows of a concept: the same methods in both colours, one statement each."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from provenance.concepts import ddl, statements
from provenance.concepts.access import Access, AsyncAccess
from provenance.concepts.definition import Concept
from provenance.concepts.errors import EntityNotFound
from provenance.concepts.models import DanglingReference, Entity, ResolvedEntity
from provenance.models import Action, Page
from provenance.statements import Statement
from provenance.tracking import AsyncTrackedAction, TrackedAction
from provenance.trail import AsyncTrail, Trail

_NOTHING: Mapping[str, object] = {}


class _Repository:
    """What both colours have in common."""

    def __init__(self, concept: Concept) -> None:
        self._concept = concept

    def _wrote(self, action: TrackedAction | AsyncTrackedAction, entity: Entity | None, missing: str) -> Entity:
        """Note which row an action is about, unless it says so itself."""
        if entity is None:
            raise EntityNotFound(f"{missing}; look with get(..., include_deleted=True)")
        if action.entity_type in (None, self._concept.name) and action.entity_id is None:
            action.entity_type = self._concept.name
            action.entity_id = entity.id
        return entity

    def _missing(self, entity_id: UUID | str, what: str = "live") -> str:
        return f"there is no {what} {self._concept.name} {statements.as_id(self._concept, entity_id, 'entity_id')}"


class ConceptRepository(_Repository):
    """Writes and reads the rows of a concept.

    The action that a write is part of is about the row, unless it names another entity: the first row written becomes its
    entity. So give each row an action of its own where each shall have a history. The history is what actions say: it
    lacks those that say they are about something else, and has one whose write of the row was rolled back to a savepoint.

    Args:
        concept: its declaration.
        trail: whose actions the writes are part of, and whose connections reads take; the configured one when left out.
    """

    def __init__(self, concept: Concept, trail: Trail | None = None) -> None:
        super().__init__(concept)
        self._access = Access(concept.name, trail)

    def _write(self, statement: Statement[Entity | None] | Statement[Entity], missing: str = "") -> Entity:
        action = self._access.acting()
        return self._wrote(action, self._access.write(statement), missing)

    def create(self, /, **values: object) -> Entity:
        """Make a row, and return it with its id.

        Args:
            values: references and attributes by name; JSON attributes take Python values. What is left out has its default.

        Raises:
            InvalidEntity: the concept has no reference or attribute of such a name.
            UnserializableValue: a value of a JSON attribute has no JSON form.
            NoCurrentAction, MisusedAction: there is no current action of this trail that has a connection.
            SchemaNotReady: the database does not have what is declared, or the role lacks a right.
        """
        return self._write(statements.create(self._concept, values))

    def update(self, entity_id: UUID | str, /, **values: object) -> Entity:
        """Change some values of a live row, and return it.

        Raises:
            EntityNotFound: there is no such live row.
            InvalidEntity: no value is given, or one that the concept does not have; or *entity_id* is no UUID.
            UnserializableValue, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`create`.
        """
        return self._write(statements.update(self._concept, entity_id, values), self._missing(entity_id))

    def soft_delete(self, entity_id: UUID | str) -> Entity:
        """Mark a live row as deleted, and return it; it stays in the table, and is listed no more.

        Raises:
            EntityNotFound: there is no such live row.
            InvalidEntity, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`update`.
        """
        return self._write(statements.soft_delete(self._concept, entity_id), self._missing(entity_id))

    def restore(self, entity_id: UUID | str) -> Entity:
        """Make a deleted row a live one again, and return it.

        Raises:
            EntityNotFound: there is no such deleted row.
            psycopg.errors.UniqueViolation: another row has taken its natural key meanwhile.
            InvalidEntity, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`update`.
        """
        return self._write(statements.restore(self._concept, entity_id), self._missing(entity_id, "deleted"))

    def get(self, entity_id: UUID | str, *, include_deleted: bool = False) -> Entity | None:
        """Return a live row, or ``None``; with *include_deleted* a deleted one too.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
            TrailUnavailable: outside an action, the database cannot be reached.
            SchemaNotReady: as for :meth:`create`.
        """
        return self._access.read(statements.get(self._concept, entity_id, include_deleted=include_deleted))

    def resolve(self, entity_id: UUID | str) -> ResolvedEntity | None:
        """Return a live row with what its references name now, whenever the view was refreshed; or ``None``.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        found = self._access.read(statements.resolve(self._concept, [entity_id]))
        return next(iter(found.values()), None)

    def list_live(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[Entity]:
        """Return live rows as they are now, newest first, a page at a time.

        Args:
            where: values that rows must have, by the names of references and attributes; ``None`` means null.
            before: the ``next`` of the page before this one.
            limit: how many rows at most, up to 1,000.

        Raises:
            InvalidEntity: the concept has no such column, or an argument is not what it should be.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        return self._access.read(statements.list_live(self._concept, where=where, before=before, limit=limit))

    def list_resolved(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[ResolvedEntity]:
        """Return live rows with what their references name, as of the last refresh, newest first, a page at a time.

        Args:
            where: as for :meth:`list_live`.
            before: as for :meth:`list_live`.
            limit: as for :meth:`list_live`.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`list_live`.
        """
        return self._access.read(statements.list_resolved(self._concept, where=where, before=before, limit=limit))

    def dangling(self, *, before: UUID | str | None = None, limit: int = 50) -> Page[DanglingReference]:
        """Return the references of live rows that name nothing, as of the last refresh, those of the newest rows first.

        Args:
            before: the ``next`` of the page before this one.
            limit: of how many rows at most, up to 1,000.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`list_live`.
        """
        return self._access.read(statements.dangling(self._concept, before=before, limit=limit))

    def refresh(self) -> bool:
        """Bring the resolved view up to date, as an action; see :meth:`Trail.refresh`.

        Inside an action it is a part of that, and others see it when that has committed.

        Returns:
            ``False`` when another session is refreshing the view, so that this one did not.

        Raises:
            TableRefused: this role may not refresh the view, or it is in use.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        return self._access.refresh(ddl.qualified(self._concept.resolved))

    def history(self, entity_id: UUID | str, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return the committed, failed and begun actions about a row, newest first, a page at a time.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
        """
        row = statements.as_id(self._concept, entity_id, "entity_id")
        return self._access.trail.actions.entity_history(self._concept.name, row, before=before, limit=limit)


class AsyncConceptRepository(_Repository):
    """Writes and reads the rows of a concept with ``await``; see :class:`ConceptRepository`.

    Args:
        concept: its declaration.
        trail: as for :class:`ConceptRepository`; an asynchronous one.
    """

    def __init__(self, concept: Concept, trail: AsyncTrail | None = None) -> None:
        super().__init__(concept)
        self._access = AsyncAccess(concept.name, trail)

    async def _write(self, statement: Statement[Entity | None] | Statement[Entity], missing: str = "") -> Entity:
        action = self._access.acting()
        return self._wrote(action, await self._access.write(statement), missing)

    async def create(self, /, **values: object) -> Entity:
        """Make a row, and return it with its id.

        Args:
            values: references and attributes by name; JSON attributes take Python values. What is left out has its default.

        Raises:
            InvalidEntity: the concept has no reference or attribute of such a name.
            UnserializableValue: a value of a JSON attribute has no JSON form.
            NoCurrentAction, MisusedAction: there is no current action of this trail that has a connection.
            SchemaNotReady: the database does not have what is declared, or the role lacks a right.
        """
        return await self._write(statements.create(self._concept, values))

    async def update(self, entity_id: UUID | str, /, **values: object) -> Entity:
        """Change some values of a live row, and return it.

        Raises:
            EntityNotFound: there is no such live row.
            InvalidEntity: no value is given, or one that the concept does not have; or *entity_id* is no UUID.
            UnserializableValue, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`create`.
        """
        return await self._write(statements.update(self._concept, entity_id, values), self._missing(entity_id))

    async def soft_delete(self, entity_id: UUID | str) -> Entity:
        """Mark a live row as deleted, and return it; it stays in the table, and is listed no more.

        Raises:
            EntityNotFound: there is no such live row.
            InvalidEntity, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`update`.
        """
        return await self._write(statements.soft_delete(self._concept, entity_id), self._missing(entity_id))

    async def restore(self, entity_id: UUID | str) -> Entity:
        """Make a deleted row a live one again, and return it.

        Raises:
            EntityNotFound: there is no such deleted row.
            psycopg.errors.UniqueViolation: another row has taken its natural key meanwhile.
            InvalidEntity, NoCurrentAction, MisusedAction, SchemaNotReady: as for :meth:`update`.
        """
        return await self._write(statements.restore(self._concept, entity_id), self._missing(entity_id, "deleted"))

    async def get(self, entity_id: UUID | str, *, include_deleted: bool = False) -> Entity | None:
        """Return a live row, or ``None``; with *include_deleted* a deleted one too.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
            TrailUnavailable: outside an action, the database cannot be reached.
            SchemaNotReady: as for :meth:`create`.
        """
        return await self._access.read(statements.get(self._concept, entity_id, include_deleted=include_deleted))

    async def resolve(self, entity_id: UUID | str) -> ResolvedEntity | None:
        """Return a live row with what its references name now, whenever the view was refreshed; or ``None``.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        found = await self._access.read(statements.resolve(self._concept, [entity_id]))
        return next(iter(found.values()), None)

    async def list_live(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[Entity]:
        """Return live rows as they are now, newest first, a page at a time.

        Args:
            where: values that rows must have, by the names of references and attributes; ``None`` means null.
            before: the ``next`` of the page before this one.
            limit: how many rows at most, up to 1,000.

        Raises:
            InvalidEntity: the concept has no such column, or an argument is not what it should be.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        return await self._access.read(statements.list_live(self._concept, where=where, before=before, limit=limit))

    async def list_resolved(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[ResolvedEntity]:
        """Return live rows with what their references name, as of the last refresh, newest first, a page at a time.

        Args:
            where: as for :meth:`list_live`.
            before: as for :meth:`list_live`.
            limit: as for :meth:`list_live`.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`list_live`.
        """
        return await self._access.read(statements.list_resolved(self._concept, where=where, before=before, limit=limit))

    async def dangling(self, *, before: UUID | str | None = None, limit: int = 50) -> Page[DanglingReference]:
        """Return the references of live rows that name nothing, as of the last refresh, those of the newest rows first.

        Args:
            before: the ``next`` of the page before this one.
            limit: of how many rows at most, up to 1,000.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`list_live`.
        """
        return await self._access.read(statements.dangling(self._concept, before=before, limit=limit))

    async def refresh(self) -> bool:
        """Bring the resolved view up to date, as an action; see :meth:`AsyncTrail.refresh`.

        Inside an action it is a part of that, and others see it when that has committed.

        Returns:
            ``False`` when another session is refreshing the view, so that this one did not.

        Raises:
            TableRefused: this role may not refresh the view, or it is in use.
            TrailUnavailable, SchemaNotReady: as for :meth:`get`.
        """
        return await self._access.refresh(ddl.qualified(self._concept.resolved))

    async def history(self, entity_id: UUID | str, *, before: UUID | None = None, limit: int = 50) -> Page[Action]:
        """Return the committed, failed and begun actions about a row, newest first, a page at a time.

        Raises:
            InvalidEntity: *entity_id* is no UUID.
        """
        row = statements.as_id(self._concept, entity_id, "entity_id")
        return await self._access.trail.actions.entity_history(self._concept.name, row, before=before, limit=limit)
