"""Actions begun in SQL inside a tracked block."""

from __future__ import annotations

from provenance.testing import RecordedActions
from provenance.trail import Trail

APPROVE = "SELECT provenance.complete_action(provenance.record_action('approve', 'order'))"


def test_a_function_may_record_an_action_of_its_own(trail: Trail, recorded_actions: RecordedActions) -> None:
    """It becomes a child of the block, in its tree, and the block goes on as before."""
    with (
        trail.track_action("outer", concept="work") as outer,
        trail.track_action("inner", concept="work") as inner,
    ):
        inner.connection.execute(APPROVE)
        inner.connection.execute("INSERT INTO work (id) VALUES (1)")
    recorded_actions.expect("""
        outer completed
          inner completed
            approve completed
    """)
    tree = trail.actions.tree(outer.id)
    assert tree is not None
    assert ["outer", "inner", "approve"] == [action.action_type for _, action in tree.walk()]


def test_an_action_left_open_in_sql_does_not_undo_the_work(trail: Trail, recorded_actions: RecordedActions) -> None:
    """The setting it changed is SQL's own; what proves the transaction is another one."""
    with trail.track_action("outer", concept="work") as outer:
        outer.connection.execute("SELECT provenance.record_action('approval', 'order')")
        with trail.track_action("inner", concept="work") as inner:
            inner.connection.execute("INSERT INTO work (id) VALUES (1)")
        outer.connection.execute("INSERT INTO work (id) VALUES (2)")
    recorded_actions.expect("""
        outer completed
          approval pending
          inner completed
    """)
