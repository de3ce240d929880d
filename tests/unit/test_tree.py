"""Arranging the actions of a tree: what parents say is not always a tree."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from provenance.models import Action, ActionTree, Status
from provenance.statements.reading import arrange, build_tree
from tests.strategies import unhurried

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


def action(number: int, parent: int | None = None, root: int = 1) -> Action:
    """Return an action that is known by its number only."""
    return Action(
        id=UUID(int=number),
        root_id=UUID(int=root),
        parent_action_id=None if parent is None else UUID(int=parent),
        action_type=str(number),
        concept="node",
        status=Status.COMPLETED,
        tenant_id="",
        user_id=None,
        request_id=None,
        correlation_id=None,
        entity_type=None,
        entity_id=None,
        payload=None,
        result=None,
        metadata=None,
        error_type=None,
        error_code=None,
        error_message=None,
        started_at=BEGUN,
        completed_at=BEGUN,
        duration_ms=0.0,
        recorded_at=BEGUN,
    )


def outline(tree: ActionTree | None) -> list[tuple[int, int]]:
    """Return the tree as depths and numbers, in the order it is walked."""
    assert tree is not None
    return [(depth, node.id.int) for depth, node in tree.walk()]


def test_no_rows_are_no_tree() -> None:
    """Nothing arranged is nothing."""
    assert arrange([]) is None
    assert build_tree([]) is None


def test_children_hang_below_their_parents_oldest_first() -> None:
    """The order of the rows does not matter."""
    rows = [action(4, 2), action(3, 1), action(1), action(5, 2), action(2, 1)]
    assert outline(arrange(rows)) == [(0, 1), (1, 2), (2, 4), (2, 5), (1, 3)]


def test_a_row_that_is_there_twice_counts_once() -> None:
    """Both halves of a union may find the same action."""
    assert outline(arrange([action(1), action(2, 1), action(2, 1), action(1)])) == [(0, 1), (1, 2)]


def test_orphans_hang_below_the_root() -> None:
    """A parent that is not recorded does not hide its children."""
    assert outline(arrange([action(1), action(3, 2), action(4, 3)])) == [(0, 1), (1, 3), (2, 4)]


def test_without_a_root_the_oldest_is_the_top() -> None:
    """The root of a tree may be missing: it failed to be written, or its month is archived."""
    assert outline(arrange([action(5, 2), action(3, 1), action(4, 3)])) == [(0, 3), (1, 4), (1, 5)]


def test_the_root_is_the_top_though_it_has_a_parent_and_is_not_the_oldest() -> None:
    """What says that it is the root is believed."""
    rows = [action(2, 7, root=7), action(7, 2, root=7), action(9, 7, root=7)]
    assert outline(arrange(rows)) == [(0, 7), (1, 2), (1, 9)]


def test_its_own_parent() -> None:
    """The shortest cycle there is, at the top and below it."""
    assert outline(arrange([action(1, 1)])) == [(0, 1)]
    assert outline(arrange([action(1), action(2, 2)])) == [(0, 1), (1, 2)]


def test_a_cycle_apart_from_the_root() -> None:
    """The first member of a cycle is shown below the root, the others below it."""
    rows = [action(1), action(2, 4), action(3, 2), action(4, 3), action(5, 4)]
    assert outline(arrange(rows)) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_two_cycles() -> None:
    """Each is shown once."""
    rows = [action(1), action(2, 3), action(3, 2), action(4, 5), action(5, 4)]
    assert outline(arrange(rows)) == [(0, 1), (1, 2), (2, 3), (1, 4), (2, 5)]


@unhurried
@given(st.data())
def test_every_action_appears_once_whatever_the_parents_say(data: st.DataObject) -> None:
    """Any parents at all: orphans, cycles, several roots; and whoever can be below its parent is."""
    numbers = data.draw(st.lists(st.integers(1, 30), unique=True, min_size=1, max_size=20))
    parents: dict[int, int | None] = {
        number: data.draw(st.none() | st.integers(1, 35), label=f"parent of {number}") for number in numbers
    }
    rows = [action(number, parent) for number, parent in parents.items()]
    tree = arrange(rows)
    assert tree is not None
    found = outline(tree)
    assert sorted(numbers) == sorted(number for _, number in found)
    assert tree.action.id.int == (1 if 1 in parents else min(numbers))
    below: dict[int, int] = {}
    path: list[int] = []
    for depth, number in found:
        del path[depth:]
        if path:
            below[number] = path[-1]
        path.append(number)
    for number in numbers:
        # Follow the parents as recorded: a member of no cycle, and not the top, hangs where its parent says.
        seen, above = {number}, parents[number]
        while above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        in_cycle = above in seen
        if number != tree.action.id.int and not in_cycle:
            parent = parents[number]
            assert below[number] == (parent if parent in parents else tree.action.id.int)


def test_a_chain_longer_than_the_interpreters_stack() -> None:
    """Building, walking and dropping a deep tree does not recurse."""
    count = 10_000
    tree: ActionTree | None = arrange([action(number, number - 1 or None) for number in range(1, count + 1)])
    assert outline(tree) == [(number - 1, number) for number in range(1, count + 1)]
    del tree


def test_a_deep_cycle() -> None:
    """Ten thousand actions that follow one another in a circle are a chain below the root."""
    rows = [action(1), action(2, 10_001), *(action(number, number - 1) for number in range(3, 10_002))]
    assert outline(arrange(rows)) == [(0, 1), *((number - 1, number) for number in range(2, 10_002))]


def test_many_cycles_and_orphans() -> None:
    """Five thousand cycles and ten thousand orphans under one root: none is lost, none is shown twice."""
    cycles = [action(n, n + 1 if n % 2 == 0 else n - 1) for n in range(2, 10_002)]
    orphans = [action(n, 99_999) for n in range(20_000, 30_000)]
    assert len(outline(arrange([action(1), *cycles, *orphans]))) == 20_001


def row(number: int, parent: int | None) -> tuple[Any, ...]:
    """Return an action as the database answers it."""
    ids = (UUID(int=number), UUID(int=1), None if parent is None else UUID(int=parent))
    return (*ids, "t", "c", "completed", "", *[None] * 11, BEGUN, BEGUN, 1.5, BEGUN, None)


def test_build_tree_arranges_rows() -> None:
    """The decoder of the statement is the same arrangement."""
    assert outline(build_tree([row(1, None), row(2, 1)])) == [(0, 1), (1, 2)]
