"""The statements of a repository, one a method: made from the declaration; no I/O.

JSON is fetched as text and parsed here: connections of the application's may have their own idea of what such a column is.
None is prepared on the server: a prepared one would fail once a deploy has changed the type of a column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import UUID

from psycopg import sql

from provenance.concepts import column_types, ddl
from provenance.concepts.checks import RESERVED
from provenance.concepts.definition import Concept
from provenance.concepts.errors import InvalidEntity
from provenance.concepts.models import DanglingReference, Entity, ResolvedEntity
from provenance.concepts.naming import quoted
from provenance.errors import UnserializableValue
from provenance.models import Page
from provenance.statements import Row, Rows, Statement
from provenance.statements.reading import MAX_LIMIT

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
_OURS = RESERVED[1:-1]
# Postgres refuses U+0000, and UTF-8 has no form for surrogates; a str needs neither.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_EQUALS = sql.SQL("OPERATOR(pg_catalog.=)")


def escaped(text: Any) -> sql.SQL:
    """Return SQL in which names of the declaration stand, quoted, hence no literal; a percent sign is no parameter."""
    return sql.SQL(text.replace("%", "%%"))


def _table(concept: Concept) -> sql.SQL:
    return escaped(ddl.qualified(concept.place))


# -- values in --


def _known(concept: Concept, given: Mapping[str, object], what: str) -> None:
    if unknown := [name for name in given if name not in concept.types]:
        raise InvalidEntity(
            f"{what} a {concept.name}: it has no {', '.join(unknown)}; expected {', '.join(concept.columns) or 'nothing'}"
        )


def _parameter(concept: Concept, name: str, value: object) -> object:
    if value is None or not column_types.is_json(concept.types[name]):
        return value
    what = f"{concept.name}.{name}"
    try:
        written = json.dumps(value, allow_nan=False)
        flaw = _flaw(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnserializableValue(
            f"{what}: expected a value with a JSON form ({type(error).__name__}); convert it first"
        ) from None
    if flaw is not None:
        raise UnserializableValue(f"{what}: expected a value with a JSON form, without {flaw}; convert it first")
    return written


def _flaw(value: object) -> str | None:
    """Return what in a value Python has a JSON form for, and Postgres has not or would read as something else."""
    if isinstance(value, str):
        return "text with U+0000 or a surrogate" if _UNSTORABLE.search(value) else None
    members: Iterable[object] = ()
    if isinstance(value, dict):
        held = cast("dict[object, object]", value)
        if other := [key for key in held if not isinstance(key, str)]:
            return f"a key of type {type(other[0]).__name__}"
        members = (*held, *held.values())
    elif isinstance(value, (list, tuple)):
        members = cast("Iterable[object]", value)
    return next((found for member in members if (found := _flaw(member)) is not None), None)


def _parameters(concept: Concept, given: Mapping[str, object]) -> dict[str, object]:
    # By number: a name may hold what a placeholder cannot.
    return {f"v{number}": _parameter(concept, name, value) for number, (name, value) in enumerate(given.items())}


def as_id(concept: Concept, value: object, what: str) -> UUID:
    """Return the id of a row, given as a UUID or the text of one.

    Raises:
        InvalidEntity: it is neither.
    """
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value if isinstance(value, str) else None)
    except (TypeError, ValueError):
        raise InvalidEntity(f"{what}: expected the UUID of a {concept.name}") from None


def _limit(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise InvalidEntity(f"limit: expected a number from 1 to {MAX_LIMIT}, got {type(limit).__name__}")
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidEntity(f"limit: expected 1 to {MAX_LIMIT}, got {limit}; use before= to get the next page")
    return limit


# -- rows out --


def _columns(concept: Concept) -> list[str]:
    return [
        f"e.{quoted(name)}::pg_catalog.text" if column_types.is_json(written) else f"e.{quoted(name)}"
        for name, written in concept.types.items()
    ]


def _fields(concept: Concept) -> sql.SQL:
    return escaped(", ".join(["e.id", *_columns(concept), *(f"e.{name}" for name in (*_OURS, "deleted_at"))]))


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


def _decoded(concept: Concept, row: Row) -> dict[str, Any]:
    """Return what both kinds of row begin with, by the names of :class:`Entity`."""
    count = len(concept.columns)
    created_by, updated_by, created_at, updated_at = row[count + 1 : count + 5]
    values = {
        name: json.loads(value) if value is not None and column_types.is_json(written) else value
        for (name, written), value in zip(concept.types.items(), row[1 : count + 1], strict=True)
    }
    return {
        "id": row[0],
        "values": values,
        "created_by_action_id": created_by,
        "updated_by_action_id": updated_by,
        "created_at": _utc(created_at),
        "updated_at": _utc(updated_at),
    }


def _entity(concept: Concept) -> Callable[[Row], Entity]:
    return lambda row: Entity(**_decoded(concept, row), deleted_at=None if row[-1] is None else _utc(row[-1]))


def _label(value: object, document: str | None) -> object:
    return value if document is None else json.loads(document)


def _resolved(concept: Concept) -> Callable[[Row], ResolvedEntity]:
    labels, count = concept.labels, len(concept.labels)
    flagged = [reference.column for reference in concept.references if reference.to is not None]
    start = len(concept.columns) + 5

    def decode(row: Row) -> ResolvedEntity:
        values, documents, flags = row[start : start + count], row[start + count :][:count], row[start + 2 * count :]
        return ResolvedEntity(
            **_decoded(concept, row),
            deleted_at=None,
            labels=dict(zip(labels, map(_label, values, documents), strict=True)),
            dangling=tuple(column for column, flag in zip(flagged, flags, strict=True) if flag),
        )

    return decode


def _one(decode: Callable[[Row], T]) -> Callable[[Rows], T | None]:
    return lambda rows: decode(rows[0]) if rows else None


def _page(decode: Callable[[Row], E], limit: int) -> Callable[[Rows], Page[E]]:
    def page(rows: Rows) -> Page[E]:
        items = tuple(map(decode, rows[:limit]))
        return Page(items=items, next=items[-1].id if len(rows) > limit else None)

    return page


# -- writing --


def create(concept: Concept, values: Mapping[str, object]) -> Statement[Entity]:
    """Insert a row; what is left out takes its default."""
    _known(concept, values, "creating")
    columns = escaped(", ".join(map(quoted, values)))
    placeholders = sql.SQL(", ").join(sql.Placeholder(f"v{number}") for number in range(len(values)))
    what = sql.SQL("({}) VALUES ({})").format(columns, placeholders) if values else sql.SQL("DEFAULT VALUES")
    decode = _entity(concept)
    return Statement(
        sql.SQL("INSERT INTO {} AS e {} RETURNING {}").format(_table(concept), what, _fields(concept)),
        _parameters(concept, values),
        lambda rows: decode(rows[0]),
        prepare=False,
    )


def update(concept: Concept, entity_id: UUID | str, values: Mapping[str, object]) -> Statement[Entity | None]:
    """Change some columns of a live row."""
    _known(concept, values, "updating")
    if not values:
        raise InvalidEntity(f"updating a {concept.name}: nothing to change; name at least one reference or attribute")
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(escaped(quoted(name)), sql.Placeholder(f"v{number}"))
        for number, name in enumerate(values)
    )
    return _change(concept, entity_id, assignments, _parameters(concept, values), deleted=False)


def soft_delete(concept: Concept, entity_id: UUID | str) -> Statement[Entity | None]:
    """Mark a live row as deleted."""
    return _change(concept, entity_id, sql.SQL("deleted_at = pg_catalog.clock_timestamp()"), {}, deleted=False)


def restore(concept: Concept, entity_id: UUID | str) -> Statement[Entity | None]:
    """Make a deleted row a live one."""
    return _change(concept, entity_id, sql.SQL("deleted_at = NULL"), {}, deleted=True)


def _change(
    concept: Concept, entity_id: UUID | str, assignments: sql.Composable, params: Mapping[str, object], *, deleted: bool
) -> Statement[Entity | None]:
    return Statement(
        sql.SQL("UPDATE {} AS e SET {} WHERE e.id {} %(id)s AND e.deleted_at IS {} RETURNING {}").format(
            _table(concept), assignments, _EQUALS, sql.SQL("NOT NULL" if deleted else "NULL"), _fields(concept)
        ),
        {**params, "id": as_id(concept, entity_id, "entity_id")},
        _one(_entity(concept)),
        prepare=False,
    )


# -- reading --


def get(concept: Concept, entity_id: UUID | str, *, include_deleted: bool) -> Statement[Entity | None]:
    """One row by its id."""
    live = sql.SQL("" if include_deleted else " AND e.deleted_at IS NULL")
    return Statement(
        sql.SQL("SELECT {} FROM {} AS e WHERE e.id {} %(id)s{}").format(
            _fields(concept), _table(concept), _EQUALS, live
        ),
        {"id": as_id(concept, entity_id, "entity_id")},
        _one(_entity(concept)),
        prepare=False,
    )


def _listing(
    concept: Concept,
    fields: sql.Composable,
    source: sql.Composable,
    conditions: list[sql.Composable],
    *,
    where: Mapping[str, object],
    before: UUID | str | None,
    limit: int,
) -> tuple[sql.Composed, dict[str, object]]:
    if not isinstance(where, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidEntity(f"where: expected a mapping of names to values, got {type(where).__name__}")
    _known(concept, where, "listing by values of")
    params: dict[str, object] = {"limit": _limit(limit) + 1}
    for number, (name, value) in enumerate(where.items()):
        if column_types.parts(concept.types[name]) == ("json", None, None):
            raise InvalidEntity(f"{concept.name}.{name} is json, which Postgres does not compare; declare it as jsonb")
        column = escaped(f"e.{quoted(name)}")
        if value is None:
            conditions.append(sql.SQL("{} IS NULL").format(column))
        else:
            conditions.append(_equality(column, sql.Placeholder(f"v{number}"), concept.types[name]))
            params[f"v{number}"] = _parameter(concept, name, value)
    if before is not None:
        conditions.append(sql.SQL("e.id OPERATOR(pg_catalog.<) %(before)s"))
        params["before"] = as_id(concept, before, "before")
    query = sql.SQL("SELECT {} FROM {} AS e WHERE {} ORDER BY e.id DESC LIMIT %(limit)s").format(
        fields, source, sql.SQL(" AND ").join(conditions or [sql.SQL("true")])
    )
    return query, params


def _equality(column: sql.SQL, placeholder: sql.Placeholder, written: str) -> sql.Composed:
    """Return a comparison with a value of the column's type.

    Of types that are not built in, nothing is known here about what equality is: it is looked for as in any query.
    """
    if (kind := column_types.bare(written)) is None:
        return sql.SQL("{} = {}").format(column, placeholder)
    return sql.SQL("{} {} {}::{}").format(column, _EQUALS, placeholder, escaped(kind))


def list_live(
    concept: Concept, *, where: Mapping[str, object], before: UUID | str | None, limit: int
) -> Statement[Page[Entity]]:
    """Live rows, newest first: ids carry the time."""
    live: list[sql.Composable] = [sql.SQL("e.deleted_at IS NULL")]
    query, params = _listing(concept, _fields(concept), _table(concept), live, where=where, before=before, limit=limit)
    return Statement(query, params, _page(_entity(concept), limit), prepare=False)


def _resolved_fields(concept: Concept) -> sql.SQL:
    flags = [reference.flag for reference in concept.references if reference.to is not None]
    shown = [f"e.{name}" for name in (*_OURS, *map(quoted, concept.labels))]
    documents = [_document(f"e.{quoted(label)}") for label in concept.labels]
    return escaped(
        ", ".join(["e.id", *_columns(concept), *shown, *documents, *(f"e.{quoted(flag)}" for flag in flags)])
    )


def _document(label: str) -> str:
    """Return the text of a label that is JSON, and null for others: what type a label has, only the server knows."""
    kinds = "ARRAY['pg_catalog.json', 'pg_catalog.jsonb']::pg_catalog.regtype[]"
    return f"CASE WHEN pg_catalog.pg_typeof({label}) {ddl.EQUALS} ANY ({kinds}) THEN {label}::pg_catalog.text END"


def resolve(concept: Concept, entity_ids: Iterable[UUID | str]) -> Statement[dict[UUID, ResolvedEntity]]:
    """Live rows with what their references name now, by id; not from the view, but from what the view is made of."""
    ids = [as_id(concept, entity_id, "entity_id") for entity_id in entity_ids]
    query = sql.SQL("SELECT {} FROM ({}) AS e WHERE e.id {} ANY(%(ids)s)").format(
        _resolved_fields(concept), escaped(ddl.resolved_query(concept)), _EQUALS
    )
    decode = _resolved(concept)
    return Statement(query, {"ids": ids}, lambda rows: {row[0]: decode(row) for row in rows}, prepare=False)


def list_resolved(
    concept: Concept, *, where: Mapping[str, object], before: UUID | str | None, limit: int
) -> Statement[Page[ResolvedEntity]]:
    """Live rows with what their references name, newest first, from the resolved view."""
    view = escaped(ddl.qualified(concept.resolved))
    query, params = _listing(concept, _resolved_fields(concept), view, [], where=where, before=before, limit=limit)
    return Statement(query, params, _page(_resolved(concept), limit), prepare=False)


def dangling(concept: Concept, *, before: UUID | str | None, limit: int) -> Statement[Page[DanglingReference]]:
    """References that name nothing, those of the newest rows first, from the resolved view."""
    references = [reference for reference in concept.references if reference.to is not None]
    flags = [f"e.{quoted(reference.flag)}" for reference in references]
    values = [f"e.{quoted(reference.column)}" for reference in references]
    conditions: list[sql.Composable] = [escaped(f"({' OR '.join(flags or ['false'])})")]
    query, params = _listing(
        concept,
        escaped(", ".join(["e.id", *flags, *values])),
        escaped(ddl.qualified(concept.resolved)),
        conditions,
        where={},
        before=before,
        limit=limit,
    )

    def page(rows: Rows) -> Page[DanglingReference]:
        items = tuple(
            DanglingReference(entity_id=row[0], column=reference.column, value=row[1 + len(references) + place])
            for row in rows[:limit]
            for place, reference in enumerate(references)
            if row[1 + place]
        )
        return Page(items=items, next=items[-1].entity_id if len(rows) > limit else None)

    return Statement(query, params, page, prepare=False)
