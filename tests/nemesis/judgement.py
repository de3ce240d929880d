"""What must be true of the trail, read from the data and from what the workers said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import attrs
import psycopg

from tests.nemesis.diaries import Diaries

UNRESOLVED = ("pending", "unknown")

# One statement, so that all of it is seen at the same moment.
_STATE = """
SELECT COALESCE(a.id, w.action_id), a.status, a.action_type, a.parent_action_id, a.root_id, (a.payload ->> 'rows')::integer,
       COALESCE(w.rows, 0), a.error_message
  FROM (SELECT * FROM provenance.action_log l WHERE l.id >= %(floor)s) AS a
  FULL JOIN (SELECT l.action_id, count(*)::integer AS rows FROM ledger l WHERE l.action_id >= %(floor)s GROUP BY 1) AS w
    ON w.action_id = a.id"""


@attrs.frozen
class Seen:
    """An action, or work of one that the trail does not know."""

    id: UUID
    status: str | None
    kind: str | None
    parent: UUID | None
    root: UUID | None
    rows: int | None
    """How many rows of work it was to write."""
    found: int
    """How many of them are there."""
    why: str | None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.status}, {self.found} of {self.rows} row(s) of work" + (
            f" ({self.why})" if self.why else ""
        )


def look(eye: psycopg.Connection[Any], floor: UUID) -> list[Seen]:
    """Return everything that was begun since."""
    return [Seen(*row) for row in eye.execute(_STATE, {"floor": floor}).fetchall()]


@attrs.define
class Verdict:
    """What is not as it must be."""

    lost: list[str] = attrs.field(factory=list)
    """Begun, or done, and not in the trail."""
    phantom: list[str] = attrs.field(factory=list)
    """Completed, and its work is not there."""
    unresolved: list[str] = attrs.field(factory=list)
    """Neither done nor undone, or evidence that is left over."""
    contradictory: list[str] = attrs.field(factory=list)
    """Undone, and its work is there; or not as the caller was told, or as the other actions have it."""

    def __bool__(self) -> bool:
        """Whether anything is."""
        return bool(self.lost or self.phantom or self.unresolved or self.contradictory)

    def counts(self) -> Iterator[str]:
        for field in attrs.fields(Verdict):
            yield f"{field.name:>14} {len(getattr(self, field.name))}"

    def lines(self) -> Iterator[str]:
        for field in attrs.fields(Verdict):
            for found in getattr(self, field.name):
                yield f"{field.name}: {found}"

    def __iadd__(self, other: Verdict) -> Verdict:
        for field in attrs.fields(Verdict):
            getattr(self, field.name).extend(getattr(other, field.name))
        return self


def at_any_time(state: list[Seen]) -> Verdict:
    """Judge what must hold at every moment, whatever is under way: I1, I2 and I4."""
    verdict = Verdict()
    ids: set[UUID] = set()
    for one in state:
        if one.id in ids:
            verdict.contradictory.append(f"two rows: {one}")
        ids.add(one.id)
        if one.status is None:
            verdict.lost.append(f"work without an action: {one}")
        elif one.status == "completed":
            if one.found != one.rows:
                verdict.phantom.append(str(one))
        elif one.found:
            verdict.contradictory.append(str(one))
    return verdict


def at_rest(state: list[Seen], diaries: Diaries, judged: set[UUID], floor: UUID) -> Verdict:
    """Judge what must hold when nothing is under way and everything has been recovered.

    Args:
        state: all there is.
        diaries: what the workers said.
        judged: actions that somebody else gave an outcome.
        floor: only what was begun since matters.
    """
    verdict = at_any_time(state)
    known = {one.id: one for one in state if one.status is not None}
    for action_id in diaries.begun:
        if action_id >= floor and action_id not in known:
            verdict.lost.append(f"begun, and not in the trail: {diaries.begun[action_id][0]} {action_id}")
    for one in known.values():
        if one.status in UNRESOLVED:
            verdict.unresolved.append(str(one))
        verdict.contradictory.extend(_family(one, known, diaries))
        if one.id not in judged and one.id in diaries.done and one.status != "completed":
            verdict.contradictory.append(f"the caller was told that it is done: {one}")
        if one.id in diaries.undone and one.status == "completed":
            verdict.contradictory.append(f"the caller was told that it is undone: {one}")
    for unit in diaries.refused:
        if min(unit) >= floor and not unit & judged:
            verdict.contradictory.append(f"refused as settled, and nobody had: {' '.join(map(str, unit))}")
    return verdict


def _family(one: Seen, known: dict[UUID, Seen], diaries: Diaries) -> Iterator[str]:
    if one.id in diaries.begun and (one.kind, one.parent) != diaries.begun[one.id]:
        yield f"not as it was begun: {one}"
    if one.parent is None:
        if one.root != one.id:
            yield f"a root that is not its own: {one}"
        return
    parent = known.get(one.parent)
    if parent is None:
        yield f"without its parent: {one}"
    elif parent.root != one.root:
        yield f"in another tree than its parent: {one}"
    elif one.kind == "inner" and one.status == "completed" and parent.status != "completed":
        yield f"completed inside one that is not: {one}, in {parent}"
