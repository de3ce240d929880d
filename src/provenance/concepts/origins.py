"""Which expression of a declaration an error of the server is about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from provenance.concepts import ddl
from provenance.concepts.definition import Concept
from provenance.concepts.naming import quoted


@attrs.frozen
class _Part:
    """An expression, and what stands before and behind it in a script."""

    concept: Concept
    called: str
    before: str
    expression: str
    behind: str = ""

    @property
    def written(self) -> str:
        return f"{self.before}({self.expression}){self.behind}"

    def covers(self, script: str, index: int) -> bool:
        """Return whether it is at an index, its parentheses included: one that ends too early is noticed at the last."""
        start = script.find(self.written)
        while start >= 0:
            opening = start + len(self.before)
            if opening <= index < opening + len(self.expression) + 2:
                return True
            start = script.find(self.written, start + 1)
        return False


def at(concepts: Iterable[Concept], script: str, position: int) -> str | None:
    """Return what the declaration calls the expression at a place of a script, or ``None`` when there is none.

    Args:
        concepts: whose script it is, or a statement of it.
        script: the SQL.
        position: in characters, from 1, as the server counts.
    """
    found = [part for part in _parts(concepts) if part.covers(script, position - 1)]
    if not found:
        return None
    # Two concepts may have the same column: it is that of the one whose table is named last before it.
    tables = [ddl.qualified(part.concept.place) for part in found]
    nearest = max(
        range(len(found)), key=lambda number: (script.rfind(tables[number], 0, position), len(tables[number]))
    )
    return found[nearest].called


def within(concepts: Iterable[Concept], context: str) -> str | None:
    """Return what the declaration calls the only expression in what the server says it was doing, or ``None``."""
    found = [
        part
        for part in _parts(concepts)
        if part.written in context and f" {ddl.qualified(part.concept.place)} " in context
    ]
    return found[0].called if len(found) == 1 else None


def _parts(concepts: Iterable[Concept]) -> Iterator[_Part]:
    for concept in concepts:
        for attribute in concept.attributes:
            what = f"{concept.name}.{attribute.name}"
            if (default := attribute.default) is not None:
                column = ddl.column(attribute).removesuffix(f"({default})")
                for before in (column, f"ALTER COLUMN {quoted(attribute.name)} SET DEFAULT "):
                    yield _Part(concept, f"the default of {what}", before, default)
            if attribute.check is not None:
                before = f"CONSTRAINT {quoted(attribute.constraint)} CHECK "
                yield _Part(concept, f"the check of {what}", before, attribute.check)
        for computed in concept.computed:
            behind = f" AS {quoted(computed.name)}"
            yield _Part(concept, f"the computed column {concept.name}.{computed.name}", "", computed.sql, behind)
