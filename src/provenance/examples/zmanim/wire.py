"""The HTTP side that the three fronts share: what a body must hold, and which status an error gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from provenance.examples.zmanim.service import Conflict, Mode, NotFound, ServiceError

T = TypeVar("T")

USER_HEADER = "X-User"
"""Who is asking. Stands for what a real application learns from its authentication: nobody checks it here."""


class BadRequest(ServiceError):
    """The body does not hold what the route needs."""


_STATUS: Mapping[type[ServiceError], int] = {NotFound: 404, Conflict: 409, BadRequest: 400}


def refusal(error: ServiceError) -> tuple[dict[str, str], int]:
    """Return the body and the status that answer an error of the service."""
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return {"error": type(error).__name__, "message": str(error)}, status


def link_order(body: object) -> tuple[int, Mode]:
    """Return the zman and the mode out of ``{"zman_id": 1, "mode": "link"}``.

    Raises:
        BadRequest: the body is anything else.
    """
    mode = _field(body, "mode", str)
    if mode not in list(Mode):
        raise BadRequest("mode: expected link or copy")
    return _field(body, "zman_id", int), Mode(mode)


def import_order(body: object) -> list[int]:
    """Return the zmanim out of ``{"zman_ids": [1, 2]}``.

    Raises:
        BadRequest: the body is anything else.
    """
    zman_ids = cast("list[object]", _field(body, "zman_ids", list))
    if not all(type(zman_id) is int for zman_id in zman_ids):
        raise BadRequest("zman_ids: expected a list of whole numbers")
    return cast("list[int]", zman_ids)


def formula(body: object) -> str:
    """Return the formula out of ``{"formula": "sunrise - 72 min"}``.

    Raises:
        BadRequest: the body is anything else.
    """
    return _field(body, "formula", str)


def place(body: object) -> str:
    """Return the place out of ``{"place": "Jerusalem"}``.

    Raises:
        BadRequest: the body is anything else.
    """
    return _field(body, "place", str)


def _field(body: object, name: str, kind: type[T]) -> T:
    value = cast("dict[str, Any]", body).get(name) if isinstance(body, dict) else None
    # Not isinstance: true and false are of type bool, which is a kind of int.
    if type(value) is not kind:
        raise BadRequest(f"{name}: expected a JSON object with a field of this name, of type {kind.__name__}")
    return value
