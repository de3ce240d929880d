"""What differs from what the migrations make, in groups."""

from __future__ import annotations

import re
from collections.abc import Iterable

from provenance.doctor.findings import Finding, Severity
from provenance.doctor.names import divided, granted
from provenance.doctor.restoring import Explained, explained
from provenance.schema.catalogue import Difference
from provenance.schema.runner import listed

# The name that a column, a trigger and the like begin with is that of their table.
_PARTITION = re.compile(r"(?:actions|row_changes)_\d{4}_\d{2}")
_AS_PARTITION = re.compile(r"^(actions|row_changes)_(?:\d{4}_\d{2}|default)(?![a-z0-9])")

_WHY = {
    "schema": "whoever owns it can take it away, or give it to others",
    "relation": "the trail cannot be written or read as it should be",
    "column": "what is recorded is not what the library means",
    "constraint": "rows may be stored that nobody can read, or none at all",
    "index": "reading or writing the trail is slow",
    "trigger": "recorded rows can be changed, or none be written",
    "rule": "rows may go elsewhere, or nowhere",
    "policy": "rows may be seen by whom they are not meant for, or be hidden",
    "function": "what it does is not what was released",
    "grant": "recorded rows can be changed, forged or seen by whom they are not meant for",
}


def grouped(differences: Iterable[Difference], owner: str) -> list[Finding]:
    """Return a finding for each kind of difference, naming all objects that have it.

    What a table that is missing, detached or somebody else's has and has not is no difference of its own. Nor is what a
    partition has, or lacks, from its table: what is made or dropped there is so everywhere.
    """
    found = list(differences)
    apart = {difference.name for difference in found if difference.kind == "relation" and _is_apart(difference)}
    traits = {trait for difference in found for trait in _traits(difference)}
    groups: dict[tuple[str, str, Severity], list[Explained]] = {}
    keys = {_own_name(difference) for difference in found if difference.kind == "constraint"}
    for difference in found:
        if difference.kind == "index" and difference.name in keys:
            # It comes and goes with its constraint.
            continue
        if _table(difference) in apart and (difference.kind != "relation" or _is_detached(difference)):
            continue
        inherited = {(kind, _as_of_table(name), side) for kind, name, side in _traits(difference)}
        if inherited and inherited <= traits - _traits(difference):
            continue
        for one in explained(difference, owner):
            groups.setdefault((difference.kind, one.what, one.severity), []).append(one)
    return [
        Finding(
            check="schema",
            severity=severity,
            subject=listed([one.name for one in its]),
            problem=f"{what}: {its[0].why or _WHY[kind]}",
            remedy="\n".join(dict.fromkeys(one.remedy for one in its)),
        )
        for (kind, what, severity), its in groups.items()
    ]


def _as_of_table(name: str) -> str:
    """Return the name that what a partition has from its table has there; its keys are named after it."""
    return ".".join(_AS_PARTITION.sub(r"\1", part, count=1) for part in name.split("."))


def _is_apart(difference: Difference) -> bool:
    return difference.expected is None or difference.found is None or _is_detached(difference)


def _is_detached(difference: Difference) -> bool:
    """Return whether a difference is that a monthly partition is attached to nothing, which another check tells."""
    return _PARTITION.fullmatch(difference.name) is not None and " of " not in (difference.found or "")


def _table(difference: Difference) -> str:
    """Return the table that a difference is about, or is on."""
    if difference.kind == "index":
        return _indexed(difference.found or difference.expected or "").partition(" ")[0]
    name = granted(difference.name)[1] if difference.kind == "grant" else difference.name
    return divided(name)[0]


def _own_name(difference: Difference) -> str:
    return divided(difference.name)[1]


def _indexed(definition: str) -> str:
    """Return what an index is on and how: those of partitions have names of their own."""
    return definition.partition(" ON ")[2].removeprefix("ONLY ").removeprefix("provenance.")


def _traits(difference: Difference) -> set[tuple[str, str, str]]:
    """Return what a table lacks and what it has, as partitions get it from their table; empty for what they do not."""
    expected, found = difference.expected or "", difference.found or ""
    only_altered = (
        found == f"{expected} INVALID" or found.rpartition(" enabled ")[0] == expected.rpartition(" enabled ")[0] != ""
    )
    if difference.kind not in {"column", "constraint", "index", "trigger"} or only_altered:
        return set()
    return {
        (difference.kind, _indexed(text) if difference.kind == "index" else difference.name, side)
        for text, side in ((expected, "lacks"), (found, "has"))
        if text
    }
