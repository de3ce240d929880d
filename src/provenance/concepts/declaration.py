r"""A declaration as text, kept in the comment of its table: it is read from there when the declaration has changed.

There it survives a dump, shows in ``\d+`` and needs no table of its own.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from provenance.concepts.definition import Concept
from provenance.concepts.errors import ConceptRefused
from provenance.concepts.parts import Attribute, Computed, LiveIndex, Reference, Target

_MARK = "Rows of a concept of provenance, declared as:\n"


def written(concept: Concept) -> str:
    """Return the comment of the concept's table: the declaration as JSON, a line for each of its parts."""
    document = {"name": concept.name, "table": concept.table}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    for key in ("references", "attributes", "indexes", "computed"):
        if items := getattr(concept, key):
            rows = ",\n  ".join(json.dumps(_fields(item), ensure_ascii=False) for item in items)
            lines.append(f"{json.dumps(key)}: [\n  {rows}]")
    return _MARK + "{" + ",\n ".join(lines) + "}"


def _fields(item: attrs.AttrsInstance) -> dict[str, Any]:
    """Return what was said of a part, without what it is when nothing is said."""
    fields = {field.name: (getattr(item, field.name), field.default) for field in attrs.fields(type(item)) if field.eq}
    return {name: _plain(name, value) for name, (value, default) in fields.items() if value != default}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Target):
        return _fields(value)
    if name == "labels":
        return dict(value)
    return value


def read(comment: str | None, what: str) -> Concept | None:
    """Return the declaration that a table's comment holds, or ``None`` when it holds none.

    Args:
        comment: of the table.
        what: the table, for the error.

    Raises:
        ConceptRefused: it holds one that was tampered with, or that a later version of this library has written.
    """
    if comment is None or not comment.startswith(_MARK):
        return None
    try:
        document = json.loads(comment.removeprefix(_MARK))
        return Concept(
            name=document.pop("name"),
            references=[_reference(item) for item in document.pop("references", [])],
            attributes=[Attribute(**item) for item in document.pop("attributes", [])],
            indexes=[LiveIndex(**item) for item in document.pop("indexes", [])],
            computed=[Computed(**item) for item in document.pop("computed", [])],
            **document,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConceptRefused(
            f"the declaration in the comment of {what} cannot be read ({type(error).__name__}); restore the comment from "
            "your migrations, or upgrade provenance"
        ) from error


def _reference(item: dict[str, Any]) -> Reference:
    to = item.pop("to", None)
    return Reference(to=Target(**to) if isinstance(to, dict) else to, **item)  # pyright: ignore[reportUnknownArgumentType]
