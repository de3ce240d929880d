"""Reading actions out of an archive, without a database: DuckDB looks into the files."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, Unpack
from uuid import UUID

from provenance import ids
from provenance.archive.columns import TABLES, Kind, Values, bucket_of
from provenance.archive.files import contents, manifest_there
from provenance.errors import ArchiveError, NotConfigured
from provenance.models import Action, ActionTree, Page
from provenance.repository import Filters, filter_of
from provenance.statements.reading import COLUMNS, Filter, arrange, checked_limit, decode_action
from provenance.values import Identifier

_ACTIONS = TABLES["actions"]
_MOMENTS = {column.name for column in _ACTIONS.columns if column.kind is Kind.MOMENT}

# Those that a repository asks the database for, in the order in which an action is decoded.
_COLUMNS: list[LiteralString] = [name.removeprefix("a.").removesuffix("::text") for name in COLUMNS.split(", ")]
_IDS = {"id", "root_id", "parent_action_id", "request_id", "erased_by_action_id"}
_SELECTED: LiteralString = ", ".join(f"epoch_us({name})" if name in _MOMENTS else name for name in _COLUMNS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _IDS:
        return UUID(value)
    return _EPOCH + timedelta(microseconds=value) if name in _MOMENTS else value


def _action(values: Values) -> Action:
    return decode_action(tuple(_value(name, value) for name, value in zip(_COLUMNS, values, strict=True)))


class ArchivedActions:
    """Reads the actions in an archive, as an :class:`ActionRepository` reads those in a database.

    Args:
        root: the directory of the archive.

    Raises:
        ArchiveError: it is no archive.
    """

    def __init__(self, root: Path) -> None:
        if not (root / "months").is_dir():
            raise ArchiveError(f"{root} is no archive; `provenance archive run --to DIR` makes one")
        self._root = root

    def get(self, action_id: UUID) -> Action | None:
        """Return an action, or ``None``."""
        month = _month_of(ids.as_action_id(action_id, "action_id"))
        found = self._read(self._files(month, month), "id = $id", {"id": str(action_id)}, 1)
        return found[0] if found else None

    def tree(self, action_id: UUID) -> ActionTree | None:
        """Return the tree that an action is in, as far as it is in the archive, from its root down, or ``None``."""
        action = self.get(action_id)
        if action is None:
            return None
        # Clocks differ: what an action has caused may seem to be older than itself.
        root = _month_of(action.root_id)
        since = None if root is None else min(root, _month_of(action_id) or root) - timedelta(days=1)
        members = "id = $root OR (root_id = $root AND parent_action_id IS NOT NULL) OR id = $id"
        given = {"root": str(action.root_id), "id": str(action_id)}
        return arrange(self._read(self._files(since and since.replace(day=1), None), members, given, None))

    def entity_history(
        self, entity_type: str, entity_id: Identifier, *, before: UUID | None = None, limit: int = 50
    ) -> Page[Action]:
        """Return what was done to an entity, newest first, a page at a time."""
        return self.search(entity_type=entity_type, entity_id=entity_id, before=before, limit=limit)

    def search(self, *, before: UUID | None = None, limit: int = 50, **wanted: Unpack[Filters]) -> Page[Action]:
        """Return the actions that fit all that is given, newest first, a page at a time; as a repository's ``search``."""
        limit = checked_limit(limit)
        asked = filter_of(**wanted)
        conditions, given = _conditions(asked)
        if before is not None:
            conditions.append("id < $before")
            given["before"] = str(ids.as_action_id(before, "before"))
        since, until = (None if moment is None else _month(moment) for moment in (asked.since, asked.until))
        files = self._files(since, until, asked.tenant_id)
        found = self._read(files, " AND ".join(conditions) or "true", given, limit + 1)
        items = tuple(found[:limit])
        return Page(items=items, next=items[-1].id if len(found) > limit else None)

    def _files(self, since: date | None, until: date | None, tenant_id: str | None = None) -> list[str]:
        """Return which files may hold the actions of these months and of a tenant."""
        bucket = None if tenant_id is None else bucket_of(tenant_id)
        return [
            str(self._root / file.path)
            for month in contents(self._root)
            if month.table is _ACTIONS
            and (since is None or since <= month.first)
            and (until is None or month.first <= until)
            for file in manifest_there(month, self._root).files
            if bucket is None or f"/tenant_hash={bucket}/" in file.path
        ]

    def _read(
        self, files: list[str], condition: LiteralString, given: dict[str, Any], limit: int | None
    ) -> list[Action]:
        try:
            import duckdb  # noqa: PLC0415 - only with the extra
        except ImportError as error:
            raise NotConfigured(
                "what looks into archives is not installed; run: pip install 'provenance-trail[archive]'"
            ) from error
        if not files:
            return []
        there = "read_parquet($files, hive_partitioning = false)"
        query = f"SELECT {_SELECTED} FROM {there} WHERE {condition} ORDER BY id DESC LIMIT $limit"  # noqa: S608
        try:
            with duckdb.connect() as connection:
                rows = connection.execute(query, {"files": files, "limit": limit, **given}).fetchall()
        except duckdb.Error as error:
            raise ArchiveError(
                f"a file in {self._root} cannot be read; `provenance archive verify` says which"
            ) from error
        return [_action(row) for row in rows]


def _month_of(action_id: UUID) -> date | None:
    """Return the month in which an action is by its id; ``None`` for one that no calendar has."""
    moment = ids.moment_of(action_id)
    return None if moment is None else _month(moment)


def _month(moment: datetime) -> date:
    at = moment.astimezone(UTC)
    return date(at.year, at.month, 1)


def _conditions(wanted: Filter) -> tuple[list[LiteralString], dict[str, Any]]:
    """Return what a search asks for, in SQL and as parameters."""
    conditions: list[LiteralString] = []
    given: dict[str, Any] = {}
    texts: tuple[LiteralString, ...] = (
        *("action_type", "concept", "status", "user_id", "tenant_id", "request_id", "correlation_id", "entity_type"),
        "entity_id",
    )
    for name in texts:
        if (value := getattr(wanted, name)) is not None:
            conditions.append(f"{name} = ${name}")
            given[name] = str(value)
    if wanted.since is not None:
        conditions.append("id >= $since")
        given["since"] = str(UUID(int=ids.floor_id(wanted.since).int >> 80 << 80))
    if wanted.until is not None:
        conditions.append("id < $until")
        given["until"] = str(UUID(int=ids.floor_id(wanted.until).int >> 80 << 80))
    return conditions, given
