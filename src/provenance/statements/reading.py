"""The statements that read the trail: one per repository method.

All of them read the view ``provenance.action_log``, in which begun actions show as pending. Time order is id order, so
newest-first lists page by id, and a range of time is a range of ids, bounded on both sides: with a lower bound alone
the default partition stays in every plan.

Bodies are fetched as text and parsed here: connections of the application's may have their own idea of what a JSON column
is, and one body that Python cannot parse must not hide the page it is on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import attrs
from psycopg import sql

from provenance import ids
from provenance.models import Action, ActionTree, ChainLink, JSONValue, Page, Status
from provenance.statements import Row, Rows, Statement

COLUMNS: LiteralString = (
    "a.id, a.root_id, a.parent_action_id, a.action_type, a.concept, a.status, a.tenant_id, a.user_id, a.request_id, "
    "a.correlation_id, a.entity_type, a.entity_id, a.payload::text, a.result::text, a.metadata::text, "
    "a.error_type, a.error_code, a.error_message, a.started_at, a.completed_at, a.duration_ms, a.recorded_at, "
    "a.erased_by_action_id"
)

MAX_DEPTH = 100
"""How far a causal chain is followed; a deeper one is cut there."""
MAX_LIMIT = 1_000
"""The most rows one page may hold."""

# Ids made on other machines may be ahead of this clock, by a day at least.
_SKEW = timedelta(days=2)


_UNREADABLE: JSONValue = {"$unreadable": "value"}
# What the library writes is at most 32 levels deep. How deep Python can read, and write again, depends on its version.
_DEEPEST = 200
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]')


# Whole rows are decoded by the page: what json.loads() does around this costs more than most bodies.
_parsed = json.JSONDecoder().raw_decode


def _too_deep(text: str) -> bool:
    # Each level has two brackets.
    if len(text) <= 2 * _DEEPEST or text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[1]:
            depth += 1
            if depth > _DEEPEST:
                return True
        elif found[0][0] != '"':
            depth -= 1
    return False


def _body(text: str | None) -> JSONValue:
    """Parse the text of a jsonb column. An integer of 5,000 digits is valid there, and more than Python accepts."""
    if text is None:
        return None
    if _too_deep(text):
        return _UNREADABLE
    try:
        value: JSONValue
        value, end = _parsed(text)
    except ValueError:
        return _UNREADABLE
    return value if end == len(text) else _UNREADABLE


_STATUSES = {str(status): status for status in Status}


def _utc(value: Any) -> Any:
    """Return an aware time, if it is one, in UTC."""
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)


def decode_action(row: Row) -> Action:
    """Decode one row of :data:`COLUMNS`."""
    (
        action_id,
        root_id,
        parent_action_id,
        action_type,
        concept,
        status,
        tenant_id,
        user_id,
        request_id,
        correlation_id,
        entity_type,
        entity_id,
        payload,
        result,
        metadata,
        error_type,
        error_code,
        error_message,
        started_at,
        completed_at,
        duration_ms,
        recorded_at,
        erased_by_action_id,
    ) = row
    return Action(
        id=action_id,
        root_id=root_id,
        parent_action_id=parent_action_id,
        action_type=action_type,
        concept=concept,
        status=_STATUSES[status],
        tenant_id=tenant_id,
        user_id=user_id,
        request_id=request_id,
        correlation_id=correlation_id,
        entity_type=entity_type,
        entity_id=entity_id,
        payload=_body(payload),
        result=_body(result),
        metadata=_body(metadata),
        error_type=error_type,
        error_code=error_code,
        error_message=error_message,
        started_at=_utc(started_at),
        completed_at=_utc(completed_at),
        duration_ms=duration_ms,
        recorded_at=_utc(recorded_at),
        erased_by_action_id=erased_by_action_id,
    )


def _one(rows: Rows) -> Action | None:
    return decode_action(rows[0]) if rows else None


def _all(rows: Rows) -> list[Action]:
    return [decode_action(row) for row in rows]


def _links(rows: Rows) -> list[ChainLink]:
    return [ChainLink(action=decode_action(row[:-1]), depth=row[-1]) for row in rows]


def get(action_id: UUID) -> Statement[Action | None]:
    """One action by its id."""
    return Statement(
        f"SELECT {COLUMNS} FROM provenance.action_log a WHERE a.id = %(id)s ORDER BY a.completed_at LIMIT 1",
        {"id": _id(action_id)},
        _one,
    )


def by_request(request_id: UUID, *, limit: int) -> Statement[list[Action]]:
    """What a request did, oldest first."""
    return Statement(
        f"""SELECT {COLUMNS} FROM provenance.action_log a
             WHERE a.request_id = %(request)s ORDER BY a.id LIMIT %(limit)s""",
        {"request": request_id, "limit": checked_limit(limit)},
        _all,
    )


# OFFSET 0 keeps the planner from merging a step into the rest: each is then a look-up of one id in the indexes, where a join
# with the view would read all pending actions at every step, and for the last one the whole table.


DOWN: LiteralString = """down (id, depth) AS (
                SELECT %(id)s::uuid, 0
                UNION ALL
                SELECT child.id, down.depth + 1
                  FROM down CROSS JOIN LATERAL (
                       SELECT c.id FROM provenance.action_log c WHERE c.parent_action_id = down.id OFFSET 0) child
                 WHERE down.depth < %(depth)s
            ) CYCLE id SET looped USING path"""
"""An action and what it caused, with the steps between, down to a depth."""


def chain(action_id: UUID, *, max_depth: int) -> Statement[list[ChainLink]]:
    """An action and what it caused, directly and indirectly, parents before children."""
    return Statement(
        f"""WITH RECURSIVE {DOWN}
            SELECT {COLUMNS}, steps.depth
              FROM (SELECT id, min(depth) AS depth FROM down WHERE NOT looped GROUP BY id) steps
             CROSS JOIN LATERAL (SELECT l.* FROM provenance.action_log l WHERE l.id = steps.id OFFSET 0) a
             ORDER BY steps.depth, a.id""",
        {"id": _id(action_id), "depth": _depth(max_depth)},
        _links,
    )


def ancestors(action_id: UUID, *, max_depth: int) -> Statement[list[ChainLink]]:
    """An action and what led to it, nearest first."""
    # Each step brings the whole action along. To look it up again, and the first one apart, would be to plan for all months
    # three times, and for the first one by its value, so that the server would never keep a general plan.
    return Statement(
        f"""WITH RECURSIVE up (id, depth, found) AS (
                SELECT %(id)s::uuid, -1, NULL::provenance.action_log
                UNION ALL
                SELECT (step.found).parent_action_id, up.depth + 1, step.found
                  FROM up CROSS JOIN LATERAL (
                       SELECT l AS found FROM provenance.action_log l WHERE l.id = up.id OFFSET 0) step
                 WHERE up.depth < %(depth)s
            ) CYCLE id SET looped USING path
            SELECT {COLUMNS}, up.depth
              FROM up CROSS JOIN LATERAL (SELECT (up.found).*) a
             WHERE up.depth >= 0
             ORDER BY up.depth""",
        {"id": _id(action_id), "depth": _depth(max_depth)},
        _links,
    )


def tree(action_id: UUID) -> Statement[ActionTree | None]:
    """The whole tree that an action is in."""
    return Statement(
        f"""WITH top AS MATERIALIZED (SELECT m.root_id FROM provenance.action_log m WHERE m.id = %(id)s LIMIT 1)
            SELECT {COLUMNS} FROM provenance.action_log a WHERE a.id = (SELECT top.root_id FROM top)
            UNION ALL
            SELECT {COLUMNS} FROM provenance.action_log a
             WHERE a.root_id = (SELECT top.root_id FROM top) AND a.parent_action_id IS NOT NULL""",
        {"id": _id(action_id)},
        build_tree,
    )


def build_tree(rows: Rows) -> ActionTree | None:
    """Arrange the rows of one tree; members whose parent is not recorded hang below the oldest one."""
    return arrange(_all(rows))


_Children = dict[int, list[Action]]


def arrange(actions: Iterable[Action]) -> ActionTree | None:
    """Arrange the actions of one tree, oldest first. Every action appears once, even where parents form a cycle."""
    # By number: looking up a UUID calls Python twice.
    members = {action.id.int: action for action in sorted(actions, key=lambda action: action.id.int)}
    if not members:
        return None
    roots = [action for action in members.values() if action.id == action.root_id]
    top = (roots or list(members.values()))[0]
    children: _Children = {}
    for action in members.values():
        if action is not top:
            parent = action.parent_action_id
            above = parent.int if parent is not None and parent.int in members else top.id.int
            children.setdefault(above, []).append(action)
    reached = _reachable(top, children)
    for number, action in members.items():
        # Parents in a cycle are below nobody: the first of them is shown below the top.
        if number not in reached:
            children.setdefault(top.id.int, []).append(action)
            reached |= _reachable(action, children)
    return _assemble(top, children)


def _reachable(start: Action, children: _Children) -> set[int]:
    found, waiting = {start.id.int}, [start.id.int]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            number = child.id.int
            if number not in found:
                found.add(number)
                waiting.append(number)
    return found


def _assemble(top: Action, children: _Children) -> ActionTree:
    """Build the tree bottom-up, without recursion: a chain may be longer than the interpreter's stack."""
    order, seen = [top], {top.id.int}
    for action in order:
        for child in children.get(action.id.int, ()):
            number = child.id.int
            if number not in seen:
                seen.add(number)
                order.append(child)
    built: dict[int, ActionTree] = {}
    for action in reversed(order):
        number = action.id.int
        below = tuple([built.pop(child.id.int) for child in children.get(number, ()) if child.id.int in built])
        built[number] = ActionTree(action=action, children=below)
    return built[top.id.int]


@attrs.frozen(kw_only=True)
class Filter:
    """What a search asks for; what is left out does not matter."""

    action_type: str | None = None
    concept: str | None = None
    status: Status | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    request_id: UUID | None = None
    correlation_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_TEXT_FILTERS: tuple[LiteralString, ...] = (
    "action_type",
    "concept",
    "user_id",
    "tenant_id",
    "request_id",
    "correlation_id",
    "entity_type",
    "entity_id",
)


def _bound(at: datetime) -> sql.Literal:
    """Return the least id of a moment, of whatever version: what partitions are bounded by."""
    return sql.Literal(UUID(int=ids.floor_id(at).int >> 80 << 80))


_FIRST = sql.Literal(UUID(int=0))


def _end() -> datetime:
    """Return a moment after all there is; the same one all day, for a statement that differs each time is never prepared."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + _SKEW


def search(wanted: Filter, *, before: UUID | None, limit: int) -> Statement[Page[Action]]:
    """Actions that fit, newest first, one page at a time."""
    limit = checked_limit(limit)
    params: dict[str, Any] = {"limit": limit + 1}
    conditions: list[LiteralString] = []
    if before is not None:
        conditions.append(" AND a.id < %(before)s")
        params["before"] = ids.as_action_id(before, "before")
    for name in _TEXT_FILTERS:
        if (value := getattr(wanted, name)) is not None:
            conditions.append(f" AND a.{name} = %({name})s")
            params[name] = value
    if wanted.tenant_id:
        # The general plan of a prepared statement cannot know that the parameter is not the empty text, and the index leaves
        # that out.
        conditions.append(" AND a.tenant_id <> ''")
    if wanted.status is not None:
        conditions.append(" AND a.status = %(status)s")
        params["status"] = wanted.status.value
    # The limit comes by a subquery, so that a plan for these values knows as little of it as one for any values. It would
    # seem the cheaper one for ever, and be made anew each time, which takes longer than all the rest.
    written: LiteralString = (
        f"SELECT {COLUMNS} FROM provenance.action_log a WHERE a.id >= {{}} AND a.id < {{}}{''.join(conditions)} "
        "ORDER BY a.id DESC LIMIT (SELECT %(limit)s::bigint)"
    )
    # The range goes in as constants. As parameters of a prepared statement, whose general plan takes any range for a narrow
    # one, they would have every action looked at instead of those of a request.
    query = sql.SQL(written).format(_bound(wanted.since) if wanted.since else _FIRST, _bound(wanted.until or _end()))

    def page(rows: Rows) -> Page[Action]:
        items = tuple(_all(rows[:limit]))
        return Page(items=items, next=items[-1].id if len(rows) > limit else None)

    return Statement(query, params, page)


def _id(action_id: UUID) -> UUID:
    return ids.as_action_id(action_id, "action_id")


def checked_limit(limit: int) -> int:
    """Return how many rows a page may hold, checked."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit: expected 1 to {MAX_LIMIT}, got {limit}; use before= to get the next page")
    return limit


def _depth(depth: int) -> int:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"max_depth: expected 0 to {MAX_DEPTH}, got {depth}")
    return depth
