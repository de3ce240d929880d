"""What a person sees: harmless, complete, and fitted to where it goes."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.cli import output
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.cli.conftest import Run

# A title set through OSC, a C1 CSI, a line overwritten, a line reordered, a line forged.
HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\rd\u202ee\u2028f\ng\x7f"
HARMLESS = r"a\x1b]0;owned\x07b\x9b2Jc\rd\u202ee\u2028f\ng\x7f"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@given(st.text())
def test_cleaned_text_holds_nothing_a_terminal_obeys(text: str) -> None:
    """Controls, formats, separators, surrogates and unassigned characters are all written out."""
    kinds = {unicodedata.category(char) for char in output.clean(text) if char not in "\u200c\u200d"}
    assert set() == kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text().filter(str.isprintable))
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Letters of any script stay as they are."""
    assert text == output.clean(text)


@pytest.mark.parametrize("text", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "👩\u200d💻", "שקיעה"])
def test_joiners_stay(text: str) -> None:
    """Persian is written with a zero-width non-joiner, and emoji are composed with a joiner."""
    assert text == output.clean(text)


def test_what_hostile_text_becomes() -> None:
    """Each character is shown as its escape."""
    assert HARMLESS == output.clean(HOSTILE)


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(None, ""), (0.04, "0.0 ms"), (12.34, "12.3 ms"), (999.9, "999.9 ms"), (1_000, "1.0 s"), (75_250, "75.2 s")],
)
def test_durations(milliseconds: float | None, expected: str) -> None:
    """Milliseconds below a second, seconds from there."""
    assert expected == output.duration(milliseconds)


def test_moments() -> None:
    """Times are in UTC, to the millisecond, and sort as text."""
    assert "2026-01-31 12:30:15.123Z" == output.moment(datetime(2026, 1, 31, 12, 30, 15, 123_999, tzinfo=UTC))


def test_only_known_types_become_json() -> None:
    """A type nobody thought of is a bug, not a guess."""
    with pytest.raises(TypeError, match="set has no JSON form here"):
        output.emit_json({1})


@pytest.fixture
def hostile_action(provenance_dsn: str) -> UUID:
    """An action whose every text is hostile, as only raw SQL can write it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        [(action_id,)] = connection.execute(
            """SELECT provenance.record_action(%(h)s, %(h)s, user_id => %(h)s, tenant_id => %(h)s, entity_type => %(h)s,
                      entity_id => %(h)s, correlation_id => %(h)s, payload => jsonb_build_object(%(h)s::text, %(h)s::text),
                      metadata => to_jsonb(%(h)s::text))""",
            {"h": HOSTILE},
        ).fetchall()
        connection.execute(
            """SELECT provenance.complete_action(%(id)s, status => 'failed', result => to_jsonb(%(h)s::text),
                      error_message => %(h)s, error_type => %(h)s, error_code => %(h)s)""",
            {"id": action_id, "h": HOSTILE},
        )
    found: UUID = action_id
    return found


@pytest.mark.parametrize("terminal", [None, 60, 100_000])
@pytest.mark.parametrize("command", ["log", "history", "show"])
def test_stored_text_cannot_command_the_terminal(
    run: Run, hostile_action: UUID, command: str, terminal: int | None
) -> None:
    """In a pipe, in a narrow terminal and in a wide one, only our own colours and line breaks are left."""
    arguments = {"log": (), "history": (HOSTILE, HOSTILE), "show": (str(hostile_action),)}[command]
    result = run(command, *arguments, terminal=terminal)
    shown = _COLOUR.sub("", result.stdout)
    assert (0, "") == (result.exit_code, result.stderr)
    assert set() == {char for char in shown if not char.isprintable() and char != "\n"}
    assert r"\x1b]0;owned\x07" in shown.replace("\n", "")


def test_json_escapes_instead(run: Run, hostile_action: UUID) -> None:
    """JSON output is ASCII, so that printing it is harmless too."""
    result = run("show", str(hostile_action), "--json")
    assert set() == {char for char in result.stdout if not " " <= char <= "~" and char != "\n"}


@pytest.mark.parametrize("terminal", [None, 80])
def test_a_deep_tree_is_shown_whole(
    run: Run, trail: Trail, recorded_actions: RecordedActions, terminal: int | None
) -> None:
    """However narrow the terminal, no branch is lost and no line is cut."""
    parent = None
    for depth in range(60):
        with trail.track_action("dig", concept="hole", payload={"depth": depth}, parent=parent) as action:
            parent = action.ref
    actions = recorded_actions.all()
    result = run("show", str(actions[0].id), terminal=terminal)
    drawn = [line for line in _COLOUR.sub("", result.stdout).splitlines() if "dig  completed" in line]
    assert [str(action.id) for action in actions] == [line.split()[-1] for line in drawn]


def test_a_pipe_gets_no_colour_no_cut_and_no_trailing_blank(
    run: Run, trail: Trail, recorded_actions: RecordedActions
) -> None:
    """Each action is one line, however long."""
    message = "no " * 500 + "way"
    with pytest.raises(ValueError, match="way"), trail.track_action("try", concept="luck", user_id="u" * 200):
        raise ValueError(message)
    with trail.track_action("try", concept="luck"):
        pass
    result = run("log")
    head, last, first = result.stdout.splitlines()
    assert ["STARTED", "STATUS", "ACTION", "ENTITY", "USER", "TOOK", "ID", "ERROR"] == head.split()
    assert first.endswith(f"{recorded_actions.one(status='failed').id}  ValueError: {message}")
    assert last.endswith(str(recorded_actions.one(status="completed").id))


def test_a_narrow_terminal_gets_no_table(run: Run, trail: Trail, recorded_actions: RecordedActions) -> None:
    """Columns squeezed to a few letters would be unreadable, and a cut id useless."""
    with trail.track_action("link_zman", concept="zman", user_id="dvora", entity_type="zman", entity_id=7):
        pass
    action = recorded_actions.one()
    narrow = _COLOUR.sub("", run("log", terminal=90).stdout)
    took = output.duration(action.duration_ms)
    assert (
        f"{output.moment(action.started_at)}  link_zman  completed  {took}  by dvora  on zman:7\n  {action.id}\n"
    ) == narrow
    assert "STARTED" in run("log", terminal=200).stdout


def test_a_terminal_gets_colours(run: Run, trail: Trail) -> None:
    """The status has a colour of its own."""
    with trail.track_action("link_zman", concept="zman"):
        pass
    assert "\x1b[32mcompleted\x1b[0m" in run("log", terminal=200).stdout
