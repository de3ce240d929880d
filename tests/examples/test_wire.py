"""What the fronts accept as a body, and how they answer errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.examples.zmanim import wire
from provenance.examples.zmanim.service import CopyNotFound, DuplicateZman, Mode, PublisherNotFound, ServiceError


def test_a_link_order() -> None:
    """The zman and the mode."""
    assert (1, Mode.COPY) == wire.link_order({"zman_id": 1, "mode": "copy"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"mode": "link"}, "zman_id: expected a JSON object with a field of this name, of type int"),
        ({"zman_id": "1", "mode": "link"}, "zman_id: expected a JSON object with a field of this name, of type int"),
        ({"zman_id": True, "mode": "link"}, "zman_id: expected a JSON object with a field of this name, of type int"),
        ({"zman_id": 1, "mode": "steal"}, "mode: expected link or copy"),
        ([1], "mode: expected a JSON object with a field of this name, of type str"),
        (None, "mode: expected a JSON object with a field of this name, of type str"),
    ],
)
def test_no_link_order(body: object, message: str) -> None:
    """The message names the field and what it must be, not what it was."""
    with pytest.raises(wire.BadRequest) as refused:
        wire.link_order(body)
    assert message == str(refused.value)


@given(st.lists(st.integers()))
def test_an_import_order(zman_ids: list[int]) -> None:
    """Any list of whole numbers."""
    assert zman_ids == wire.import_order({"zman_ids": zman_ids})


@pytest.mark.parametrize("zman_ids", [1, "12", [1, "2"], [True], None])
def test_no_import_order(zman_ids: object) -> None:
    """Anything else is refused."""
    with pytest.raises(wire.BadRequest, match=r"^zman_ids: expected a "):
        wire.import_order({"zman_ids": zman_ids})


@pytest.mark.parametrize(("read", "field"), [(wire.formula, "formula"), (wire.place, "place")])
def test_texts(read: Callable[[object], str], field: str) -> None:
    """Text is taken as it is, and nothing else is."""
    assert "noon" == read({field: "noon"})
    with pytest.raises(wire.BadRequest, match=f"^{field}: expected"):
        read({field: None})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CopyNotFound("what"), 404),
        (PublisherNotFound("what"), 404),
        (DuplicateZman("what"), 409),
        (wire.BadRequest("what"), 400),
    ],
)
def test_errors_have_their_status(error: ServiceError, status: int) -> None:
    """The kind decides the status; the class and the message are the body."""
    answer: tuple[dict[str, Any], int] = ({"error": type(error).__name__, "message": "what"}, status)
    assert answer == wire.refusal(error)
