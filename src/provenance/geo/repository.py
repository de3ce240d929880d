"""Finding, making and resolving locations: the same methods in both colours."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any
from uuid import UUID

from provenance.concepts import (
    AsyncConceptRepository,
    ConceptRefused,
    ConceptRepository,
    InvalidEntity,
    ResolvedEntity,
)
from provenance.concepts import statements as concept_statements
from provenance.concepts.access import Access, AsyncAccess
from provenance.geo import statements
from provenance.geo.errors import ContradictoryLevels
from provenance.geo.levels import Geography
from provenance.geo.models import Location, location
from provenance.geo.statements import Contradiction, Places
from provenance.models import Page
from provenance.statements import Statement
from provenance.trail import AsyncTrail, Trail

_NOTHING: Mapping[str, object] = {}
_ROUNDS = 5


def _refuse(contradictions: list[Contradiction]) -> None:
    if contradictions:
        raise ContradictoryLevels(
            f"{contradictions[0]}; name places that lie within each other, or correct the tables of places"
        )


def _finding_or_making(
    geography: Geography, wanted: list[Places]
) -> Generator[tuple[Statement[Any], bool], Any, list[UUID]]:
    """Yield statements, and whether they write; get their answers; return the ids, in the order of the wanted."""
    ids: dict[int, UUID] = {}
    missing = list(range(len(wanted)))
    for _ in range(_ROUNDS):
        found: dict[int, UUID] = yield statements.find(geography, [wanted[number] for number in missing]), False
        ids |= {missing[number]: found_id for number, found_id in found.items()}
        missing = [number for number in missing if number not in ids]
        if not missing:
            return [ids[number] for number in range(len(wanted))]
        rest = [wanted[number] for number in missing]
        if (question := statements.contradictions(geography, rest)) is not None:
            _refuse((yield question, True))
        # Whoever is making the same one is waited for. It is seen by the next look, unless it is deleted by then.
        yield statements.add(geography, rest), True
    raise ConceptRefused(
        f"{len(missing)} of {len(wanted)} locations are deleted by somebody else as often as they are made; try again"
    )


class _GeoRepository:
    """What both colours have in common."""

    def __init__(self, geography: Geography) -> None:
        self._geography = geography

    def _wanted(self, places: Iterable[Mapping[str, Any]]) -> list[Places]:
        return [self._geography.places(given) for given in places]

    def _where(self, where: Mapping[str, object]) -> dict[str, object]:
        """Return conditions on columns for conditions on levels."""
        columns = {level.name: level.column for level in self._geography.levels} | {"level": "level"}
        if unknown := [name for name in where if name not in columns]:
            raise InvalidEntity(
                f"listing by {unknown[0]}: a {self._geography.name} has no such level; expected {', '.join(columns)}"
            )
        return {columns[name]: value for name, value in where.items()}

    def _locations(self, entities: Iterable[ResolvedEntity]) -> list[Location]:
        return [location(self._geography, entity) for entity in entities]


class GeoRepository(_GeoRepository):
    """Finds, makes and resolves locations.

    Args:
        geography: the levels that they are made of.
        trail: whose actions making one is part of, and whose connections reads take; the configured one when left out.
    """

    rows: ConceptRepository
    """The repository of the concept that locations are: to delete one softly, read its history, list dangling places."""

    def __init__(self, geography: Geography, trail: Trail | None = None) -> None:
        super().__init__(geography)
        self.rows = ConceptRepository(geography.concept, trail)
        self._access = Access(geography.name, trail)

    def find_or_create(self, /, **places: Any) -> UUID:
        """Return the id of the location that names these places, and make it if there is none.

        However many do so at once, there is one row. Two transactions that each make several, in different orders, may
        deadlock as with any rows; :meth:`find_or_create_many` has one order.

        Args:
            places: keys of places, by level: ``country=117, city=281184``. A level that is left out, or ``None``, is not
                named. Places that are not there are taken as given, and shown as dangling.

        Raises:
            InvalidEntity: there is no such level.
            ContradictoryLevels: a place does not lie within another.
            NoCurrentAction, MisusedAction: it has to be made, and there is no current action of this trail.
            SchemaNotReady: the database does not have what is declared, or the role lacks a right.
        """
        [found] = self.find_or_create_many([places])
        return found

    def find_or_create_many(self, places: Iterable[Mapping[str, Any]]) -> list[UUID]:
        """Return the ids of many locations, in the order of *places*, and make those that are not there.

        A few statements, however many they are.

        Args:
            places: for each location what :meth:`find_or_create` takes. The same may be there twice.

        Raises:
            InvalidEntity, ContradictoryLevels, NoCurrentAction, MisusedAction, SchemaNotReady: as for
                :meth:`find_or_create`; none is made.
        """
        if not (wanted := self._wanted(places)):
            return []
        work = _finding_or_making(self._geography, wanted)
        statement, writes = next(work)
        while True:
            answer = self._access.write(statement) if writes else self._access.read(statement)
            try:
                statement, writes = work.send(answer)
            except StopIteration as end:
                ids: list[UUID] = end.value
                return ids

    def find(self, /, **places: Any) -> UUID | None:
        """Return the id of the location that names just these places, or ``None``.

        Raises:
            InvalidEntity: there is no such level.
            TrailUnavailable: outside an action, the database cannot be reached.
            SchemaNotReady: as for :meth:`find_or_create`.
        """
        return self._access.read(statements.find(self._geography, self._wanted([places]))).get(0)

    def resolve(self, location_id: UUID | str) -> Location | None:
        """Return a location with the names that its places have now; ``None`` when there is none, or it is deleted.

        Raises:
            InvalidEntity: *location_id* is no UUID.
            TrailUnavailable, SchemaNotReady: as for :meth:`find`.
        """
        return next(iter(self.resolve_many([location_id]).values()), None)

    def resolve_many(self, location_ids: Iterable[UUID | str]) -> dict[UUID, Location]:
        """Return several, by id; without those that are not there or deleted.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`resolve`.
        """
        found = self._access.read(concept_statements.resolve(self._geography.concept, location_ids))
        return dict(zip(found, self._locations(found.values()), strict=True))

    def list_resolved(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[Location]:
        """Return locations as of the last refresh of the resolved view, newest first, a page at a time.

        Args:
            where: keys of places by level, ``None`` for locations that name none of it; ``"level"`` for the narrowest.
            before: the ``next`` of the page before this one.
            limit: how many at most, up to 1,000.

        Raises:
            InvalidEntity: there is no such level, or an argument is not what it should be.
            TrailUnavailable, SchemaNotReady: as for :meth:`find`.
        """
        page = self.rows.list_resolved(where=self._where(where), before=before, limit=limit)
        return Page(items=tuple(self._locations(page)), next=page.next)


class AsyncGeoRepository(_GeoRepository):
    """Finds, makes and resolves locations with ``await``; see :class:`GeoRepository`.

    Args:
        geography: the levels that they are made of.
        trail: as for :class:`GeoRepository`; an asynchronous one.
    """

    rows: AsyncConceptRepository
    """The repository of the concept that locations are: to delete one softly, read its history, list dangling places."""

    def __init__(self, geography: Geography, trail: AsyncTrail | None = None) -> None:
        super().__init__(geography)
        self.rows = AsyncConceptRepository(geography.concept, trail)
        self._access = AsyncAccess(geography.name, trail)

    async def find_or_create(self, /, **places: Any) -> UUID:
        """Return the id of the location that names these places, and make it if there is none.

        However many do so at once, there is one row. Two transactions that each make several, in different orders, may
        deadlock as with any rows; :meth:`find_or_create_many` has one order.

        Args:
            places: keys of places, by level: ``country=117, city=281184``. A level that is left out, or ``None``, is not
                named. Places that are not there are taken as given, and shown as dangling.

        Raises:
            InvalidEntity: there is no such level.
            ContradictoryLevels: a place does not lie within another.
            NoCurrentAction, MisusedAction: it has to be made, and there is no current action of this trail.
            SchemaNotReady: the database does not have what is declared, or the role lacks a right.
        """
        [found] = await self.find_or_create_many([places])
        return found

    async def find_or_create_many(self, places: Iterable[Mapping[str, Any]]) -> list[UUID]:
        """Return the ids of many locations, in the order of *places*, and make those that are not there.

        A few statements, however many they are.

        Args:
            places: for each location what :meth:`find_or_create` takes. The same may be there twice.

        Raises:
            InvalidEntity, ContradictoryLevels, NoCurrentAction, MisusedAction, SchemaNotReady: as for
                :meth:`find_or_create`; none is made.
        """
        if not (wanted := self._wanted(places)):
            return []
        work = _finding_or_making(self._geography, wanted)
        statement, writes = next(work)
        while True:
            answer = await (self._access.write(statement) if writes else self._access.read(statement))
            try:
                statement, writes = work.send(answer)
            except StopIteration as end:
                ids: list[UUID] = end.value
                return ids

    async def find(self, /, **places: Any) -> UUID | None:
        """Return the id of the location that names just these places, or ``None``.

        Raises:
            InvalidEntity: there is no such level.
            TrailUnavailable: outside an action, the database cannot be reached.
            SchemaNotReady: as for :meth:`find_or_create`.
        """
        return (await self._access.read(statements.find(self._geography, self._wanted([places])))).get(0)

    async def resolve(self, location_id: UUID | str) -> Location | None:
        """Return a location with the names that its places have now; ``None`` when there is none, or it is deleted.

        Raises:
            InvalidEntity: *location_id* is no UUID.
            TrailUnavailable, SchemaNotReady: as for :meth:`find`.
        """
        return next(iter((await self.resolve_many([location_id])).values()), None)

    async def resolve_many(self, location_ids: Iterable[UUID | str]) -> dict[UUID, Location]:
        """Return several, by id; without those that are not there or deleted.

        Raises:
            InvalidEntity, TrailUnavailable, SchemaNotReady: as for :meth:`resolve`.
        """
        found = await self._access.read(concept_statements.resolve(self._geography.concept, location_ids))
        return dict(zip(found, self._locations(found.values()), strict=True))

    async def list_resolved(
        self, *, where: Mapping[str, object] = _NOTHING, before: UUID | str | None = None, limit: int = 50
    ) -> Page[Location]:
        """Return locations as of the last refresh of the resolved view, newest first, a page at a time.

        Args:
            where: keys of places by level, ``None`` for locations that name none of it; ``"level"`` for the narrowest.
            before: the ``next`` of the page before this one.
            limit: how many at most, up to 1,000.

        Raises:
            InvalidEntity: there is no such level, or an argument is not what it should be.
            TrailUnavailable, SchemaNotReady: as for :meth:`find`.
        """
        page = await self.rows.list_resolved(where=self._where(where), before=before, limit=limit)
        return Page(items=tuple(self._locations(page)), next=page.next)
