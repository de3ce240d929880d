"""Arguments that are more than text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.cli.parameters import entity_ref, moment, request_key
from provenance.models import EntityRef


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:30Z", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T12:30:15.5+02:00", datetime(2026, 1, 31, 10, 30, 15, 500_000, tzinfo=UTC)),
        ("2026-01-31 12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_time_in_iso_8601(text: str, expected: datetime) -> None:
    """A time without an offset is in UTC."""
    assert expected == moment(text)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("3w", timedelta(weeks=3)),
        ("0s", timedelta()),
    ],
)
def test_an_age(text: str, age: timedelta) -> None:
    """An age counts back from now."""
    earliest = datetime.now(UTC) - age
    at = moment(text)
    assert earliest <= at <= datetime.now(UTC) - age


@pytest.mark.parametrize(
    "text", ["", "yesterday", "7", "h", "-1h", "1.5h", "2H", "٣h", "1969-12-31", "100000d", "999999999w", "2026-02-30"]
)
def test_anything_else_is_no_time(text: str) -> None:
    """The message says what is expected, and does not repeat what was given."""
    with pytest.raises(click.BadParameter) as refused:
        moment(text)
    assert (
        "expected a time after 1970 such as 2026-01-31T12:00Z, or an age such as 15m, 2h or 7d."
        == refused.value.message
    )


@given(st.from_regex(r"[^:]+", fullmatch=True), st.text(min_size=1))
def test_an_entity_is_cut_at_the_first_colon(kind: str, entity_id: str) -> None:
    """Ids may contain colons, types may not."""
    assert EntityRef(type=kind, id=entity_id) == entity_ref(f"{kind}:{entity_id}")


@pytest.mark.parametrize("text", ["", "zman", "zman:", ":7"])
def test_half_an_entity_is_refused(text: str) -> None:
    """Type and id are both needed."""
    with pytest.raises(click.BadParameter, match="expected TYPE:ID"):
        entity_ref(text)


def test_a_request_in_any_accepted_form() -> None:
    """What may stand in the header may stand here."""
    assert UUID("4bf92f35-77b3-4da6-a3ce-929d0e0e4736") == request_key(
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    )


def test_no_request_id() -> None:
    """The message lists the accepted forms."""
    with pytest.raises(click.BadParameter, match="a UUID of 36 characters"):
        request_key("x")
