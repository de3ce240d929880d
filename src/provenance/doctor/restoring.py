"""The SQL that makes what differs again what the migrations make."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from provenance.doctor.findings import Severity
from provenance.doctor.names import divided, granted
from provenance.schema import known_migrations
from provenance.schema.catalogue import Difference

_CAPTURE = re.compile(r"capture_\d+\(\)")


@attrs.frozen
class Explained:
    """One thing that is the matter with an object of the schema."""

    what: str
    """What is the matter, in the plural."""
    name: str
    remedy: str
    severity: Severity = Severity.ERROR
    why: str | None = None
    """What follows from it, where that is not what follows from any such difference."""


def explained(difference: Difference, owner: str) -> Iterator[Explained]:
    """Return what is the matter with an object, one thing after the other."""
    name, expected, found = difference.name, difference.expected, difference.found
    match difference.kind:
        case "grant":
            yield Explained("has a right that nobody should have", name, _revoke(name, found or ""))
        case "schema" | "relation" | "function" if found is not None and expected is not None:
            yield from _altered(difference, owner)
        case "trigger":
            yield _trigger(name, expected, found)
        case "index":
            yield _index(name, expected, found)
        case _ if found is None:
            yield Explained(f"{difference.kind} is missing", name, _made_again(difference))
        case _ if expected is None:
            yield Explained(f"{difference.kind} should not be there", name, _removed(difference))
        case _:
            yield Explained(f"{difference.kind} was changed", name, _made_again(difference))


def _revoke(name: str, privileges: str) -> str:
    role, object_name = granted(name)
    if object_name == "schema provenance":
        return f"REVOKE {privileges} ON SCHEMA provenance FROM {role};"
    if object_name.endswith(")"):
        return f"REVOKE {privileges} ON FUNCTION {object_name} FROM {role};"
    table, column = divided(object_name)
    of_column = f" ({column})" if column else ""
    rights = ", ".join(f"{privilege}{of_column}" for privilege in dict.fromkeys(privileges.split(", ")))
    return f"REVOKE {rights} ON provenance.{table} FROM {role};"


def _trigger(name: str, expected: str | None, found: str | None) -> Explained:
    table, trigger = divided(name)
    drop = f"DROP TRIGGER {trigger} ON provenance.{table};"
    if expected is None:
        return Explained("trigger should not be there", name, drop)
    definition = expected.rpartition(" enabled ")[0]
    always = f"ALTER TABLE provenance.{table} ENABLE ALWAYS TRIGGER {trigger};"
    if found is None:
        return Explained("trigger is missing", name, f"{definition};\n{always}")
    if found.rpartition(" enabled ")[0] == definition:
        what = "trigger is disabled" if found.endswith("D") else "trigger does not fire in every session"
        return Explained(what, name, always)
    return Explained("trigger was changed", name, f"{drop}\n{definition};\n{always}")


def _index(name: str, expected: str | None, found: str | None) -> Explained:
    # Of a partitioned table: made with those of its partitions, and not concurrently.
    whole = " ON ONLY " in (expected or found or "")
    drop = f"DROP INDEX {'' if whole else 'CONCURRENTLY '}provenance.{name};"
    if expected is None:
        return Explained("index should not be there", name, drop, Severity.WARNING)
    if found is None:
        severity = Severity.ERROR if "UNIQUE" in expected else Severity.WARNING
        return Explained("index is missing", name, f"{expected.replace(' ON ONLY ', ' ON ', 1)};", severity)
    if found == f"{expected} INVALID":
        return Explained("index is invalid", name, f"REINDEX INDEX CONCURRENTLY provenance.{name};")
    return Explained(
        "index was changed", name, f"{drop}\n{expected.replace(' ON ONLY ', ' ON ', 1)};", Severity.WARNING
    )


# "ALTER TABLE" does for views and sequences too.
_ALTERED = {"function": "FUNCTION", "relation": "TABLE"}
_OPTION = r"[\w.]+=[\w.]+"


def _altered(difference: Difference, owner: str) -> Iterator[Explained]:
    """Take apart what may differ of a table, view or function, and is put right by one ALTER each."""
    kind, name = difference.kind, difference.name
    expected, found = difference.expected or "", difference.found or ""
    alter = "ALTER SCHEMA provenance" if kind == "schema" else f"ALTER {_ALTERED[kind]} provenance.{name}"
    options = re.search(rf" with ({_OPTION}(?:,{_OPTION})*)", found)
    known = re.search(r" with ", expected)
    rest = found
    if its := re.search(r' owned by ("(?:[^"]|"")+"|\S+)', found):
        yield Explained(f"{kind} is owned by {its[1]}, and not by {owner}", name, f"{alter} OWNER TO {owner};")
        rest = rest.replace(its[0], "")
    if " unlogged" in found:
        yield Explained("relation is not logged: a crash empties it", name, f"{alter} SET LOGGED;")
        rest = rest.replace(" unlogged", "")
    if options and not known:
        names = ", ".join(option.partition("=")[0] for option in options[1].split(","))
        yield Explained("relation has storage settings", name, f"{alter} RESET ({names});", Severity.WARNING)
        rest = rest.replace(options[0], "")
    if " row level security" in expected and " row level security" not in found:
        yield Explained("row level security is disabled", name, f"{alter} ENABLE ROW LEVEL SECURITY;")
        rest = _inserted(rest, " row level security", expected)
    if " forced" in found:
        yield Explained("row level security binds the owner too", name, f"{alter} NO FORCE ROW LEVEL SECURITY;")
        rest = rest.replace(" forced", "")
    if rest == expected.replace(" body as captured", " body without its mark") != expected:
        yield Explained(
            "function has lost its mark, as in a dump without comments",
            name,
            _made_again(difference),
            Severity.WARNING,
            "whether it does what it was made for cannot be told",
        )
    elif rest != expected:
        yield Explained(f"{kind} was changed", name, _made_again(difference))


def _inserted(text: str, part: str, expected: str) -> str:
    """Return a text with a part of the expected one at its place there."""
    place = expected.index(part)
    return f"{text[:place]}{part}{text[place:]}"


_ARTICLE: dict[str, str] = {"column": "COLUMN", "constraint": "CONSTRAINT"}


def _removed(difference: Difference) -> str:
    kind, name = difference.kind, difference.name
    table, part = divided(name)
    match kind:
        case "relation":
            # Nobody knows what is in it.
            what = "VIEW" if (difference.found or "").startswith("view") else "TABLE"
            return f"ALTER {what} provenance.{name} SET SCHEMA public;"
        case "function":
            return f"DROP ROUTINE provenance.{name};"
        case "rule" | "policy":
            return f"DROP {kind.upper()} {part} ON provenance.{table};"
        case _:
            return f"ALTER TABLE provenance.{table} DROP {_ARTICLE[kind]} {part};"


def _made_again(difference: Difference) -> str:
    kind, name = difference.kind, difference.name
    table, part = divided(name)
    if _CAPTURE.fullmatch(name):
        return "capture its table again, with the settings that it has: provenance coverage; provenance capture TABLE"
    if kind == "constraint":
        drop = f"DROP CONSTRAINT {part}, " if difference.found else ""
        return f"ALTER TABLE provenance.{table} {drop}ADD CONSTRAINT {part} {difference.expected};"
    wanted = name.partition("(")[0] if kind == "function" else part or name
    return f"make it again as {_where(wanted)} (in provenance/schema/migrations of the installed library)"


def _where(wanted: str) -> str:
    """Say which migration is the last that makes an object of this name, or else has something to do with it."""
    for pattern in (rf"CREATE [A-Z ]+(?:provenance\.)?{re.escape(wanted)}\b", rf"\b{re.escape(wanted)}\b"):
        if found := [one for one in known_migrations() if re.search(pattern, one.up)]:
            return f"{found[-1].version:04}_{found[-1].name}.up.sql does"
    return "the migrations do"
