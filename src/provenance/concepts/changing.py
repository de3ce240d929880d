"""What turns a table that was made from one declaration into that of another, or the reason why not. Pure.

Only what keeps every value is done. What would lose or guess is refused, with what to do instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import attrs

from provenance.concepts import column_types, ddl
from provenance.concepts.definition import Attribute, Concept, Reference
from provenance.concepts.errors import ConceptRefused
from provenance.concepts.naming import literal, quoted


@attrs.frozen(kw_only=True)
class Script:
    """SQL, and the SQL that takes it back; both empty when there is nothing to do."""

    up: str
    down: str


def changes(old: Concept, new: Concept, *, drop_columns: bool = False) -> Script:
    """Return the SQL that changes a concept from one declaration to another.

    Both must be linked, where they refer to other concepts by name.

    Args:
        old: what the table was made from.
        new: what it shall be.
        drop_columns: allows columns to be dropped, with what is in them.

    Raises:
        ConceptRefused: the change would lose values, or somebody has to decide something first.
    """
    refuse(old, new, drop_columns=drop_columns)
    return Script(up=ddl.script(change((old, new))), down=ddl.script(change((new, old))))


def change(*pairs: tuple[Concept, Concept]) -> list[str]:
    """Return the statements of changes that are not refused, in groups; empty when all declarations are alike.

    All views go before any table changes, and come back after: one concept's view may show what another's table holds.
    """
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    disturbed = {old.table for old, new in changed if _disturbs(old, new)}
    rebuilt = [
        (old, new)
        for old, new in pairs
        if ddl.view_definition(old) != ddl.view_definition(new) or _shows(old) & disturbed
    ]
    kept = [pair for pair in changed if pair not in rebuilt]
    return [
        *(_drop_view(old) for old, _ in rebuilt),
        *("".join(_table(old, new)) for old, new in changed),
        *("".join(_indexes(new, ddl.view_indexes(old), ddl.view_indexes(new))) for old, new in kept),
        *(_recreate_view(new) for _, new in rebuilt),
    ]


def _disturbs(old: Concept, new: Concept) -> bool:
    """Return whether columns change that a view may show, which Postgres does not allow."""
    return any(name not in new.types or _retyped(name, old, new) for name in old.columns)


def _shows(concept: Concept) -> set[str]:
    """Return the tables that the resolved view reads."""
    targets = (reference.target for reference in concept.references)
    return {concept.table, *(target.table for target in targets if target is not None)}


def _retyped(name: str, old: Concept, new: Concept) -> bool:
    return not column_types.same(old.types[name], new.types[name])


def _columns(concept: Concept) -> dict[str, Reference | Attribute]:
    declared: list[Reference | Attribute] = [*concept.references, *concept.attributes]
    return dict(zip(concept.columns, declared, strict=True))


def _kept(old: Concept, new: Concept) -> list[str]:
    return [name for name in new.columns if name in old.types]


def _default(declared: Reference | Attribute) -> str | None:
    return declared.default if isinstance(declared, Attribute) else None


# -- what is refused --


def refuse(old: Concept, new: Concept, *, drop_columns: bool) -> None:
    """Refuse a change that would lose values, or that somebody has to decide something about first.

    Raises:
        ConceptRefused: with the reason.
    """
    if old.name != new.name:
        raise ConceptRefused(
            f"the table {old.table} holds the concept {old.name}, and renaming it to {new.name} would part its rows from "
            "their history; keep the name, or declare the new concept on a table of its own"
        )
    if old.table != new.table:
        raise ConceptRefused(
            f"the concept {old.name} is in {old.table}, and a declaration does not move it to {new.table}; keep the table, "
            "or declare a new concept there and copy the rows"
        )
    before, after = _columns(old), _columns(new)
    for name in _kept(old, new):
        _refuse_type(name, old.types[name], new.types[name])
    added = [name for name in after if name not in before]
    for name in (name for name in before if name not in after):
        _refuse_dropped(name, before[name], new, added=added, allowed=drop_columns)
    for name in added:
        _refuse_added(name, after[name])


def _refuse_type(name: str, old: str, new: str) -> None:
    if not column_types.same(old, new) and not column_types.widens(old, new):
        raise ConceptRefused(
            f"the column {name} is {old}, and not every value of it is known to stay what it is as {new}; add a column of "
            "the new type, copy the values, and drop this one later"
        )


def _refuse_added(name: str, declared: Reference | Attribute) -> None:
    if not declared.nullable and _default(declared) is None:
        raise ConceptRefused(
            f"the column {name} is new and not null, and rows that are there would have no value for it; make it nullable, "
            "or give it a default"
        )


def _refuse_dropped(
    name: str, declared: Reference | Attribute, new: Concept, *, added: list[str], allowed: bool
) -> None:
    if not allowed:
        renamed = f" (if it is to be renamed to {added[0]}: keep both, and copy the values first)" if added else ""
        raise ConceptRefused(
            f"dropping the column {name} would lose what is in it{renamed}; allow it with "
            "drop_columns=True, or --drop-columns"
        )
    if not declared.nullable and _default(declared) is None:
        raise ConceptRefused(
            f"the column {name} is not null, so code that is running still has to write it, and dropping it could not be "
            "taken back; make it nullable first, and drop it with the next change"
        )
    for attribute in new.attributes:
        if attribute.check is not None and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", attribute.check):
            raise ConceptRefused(
                f"the check of {attribute.name} names the column {name}, and would be dropped with it; change the check too"
            )


# -- what is done --


def _table(old: Concept, new: Concept) -> Iterator[str]:
    table = ddl.qualified(new.place)
    before, after = _columns(old), _columns(new)
    old_checks, new_checks = _checks(old), _checks(new)
    old_indexes, new_indexes = _table_indexes(old), _table_indexes(new)
    yield from _drop_indexes(old, old_indexes, new_indexes)
    for name, check in old_checks.items():
        if new_checks.get(name) != check:
            yield f"ALTER TABLE {table} DROP CONSTRAINT {quoted(name)};\n"
    for name in before:
        if name not in after:
            yield f"ALTER TABLE {table} DROP COLUMN {quoted(name)};\n"
    for name, declared in after.items():
        if name in before:
            yield from _column(table, name, before[name], declared, retyped=_retyped(name, old, new))
        else:
            yield f"ALTER TABLE {table} ADD COLUMN {ddl.column(declared)};\n"
    added = {name: check for name, check in new_checks.items() if old_checks.get(name) != check}
    for name, check in added.items():
        yield f"ALTER TABLE {table} ADD CONSTRAINT {quoted(name)} CHECK ({check}) NOT VALID;\n"
    yield from _create_indexes(old_indexes, new_indexes)
    for name in added:
        yield "-- Reads the whole table. On a large one, run it later and by itself: nobody waits for it then.\n"
        yield f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted(name)};\n"
    yield ddl.table_comment(new)
    for name, declared in after.items():
        yield from _comment(new, name, before.get(name), declared)


def _column(
    table: str, name: str, old: Reference | Attribute, new: Reference | Attribute, *, retyped: bool
) -> Iterator[str]:
    alter = f"ALTER TABLE {table} ALTER COLUMN {quoted(name)}"
    if retyped:
        if column_types.rewrites(old.type, new.type):
            yield "-- Writes the whole table anew, and nobody can read it meanwhile.\n"
        yield f"{alter} TYPE {new.type};\n"
    if _default(old) != (default := _default(new)):
        yield f"{alter} DROP DEFAULT;\n" if default is None else f"{alter} SET DEFAULT {default};\n"
    if new.nullable and not old.nullable:
        yield f"{alter} DROP NOT NULL;\n"
    elif old.nullable and not new.nullable:
        yield "-- Reads the whole table, and nobody can write to it meanwhile.\n"
        yield f"{alter} SET NOT NULL;\n"


def _checks(concept: Concept) -> dict[str, str]:
    return {a.constraint: a.check for a in concept.attributes if a.check is not None}


def _table_indexes(concept: Concept) -> dict[str, str]:
    return {concept.index_name(index): ddl.table_index(concept, index) for index in concept.indexes}


def _drop_indexes(concept: Concept, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name, statement in old.items():
        if new.get(name) != statement:
            yield f"DROP INDEX {ddl.qualified((concept.place[0], name))};\n"


def _create_indexes(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    made = [statement for name, statement in new.items() if old.get(name) != statement]
    if made:
        yield "-- Nobody can write meanwhile. On a large table, run it first and by itself, with CONCURRENTLY.\n"
    yield from made


def _indexes(concept: Concept, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    yield from _drop_indexes(concept, old, new)
    yield from (statement for name, statement in new.items() if old.get(name) != statement)


def _comment(
    concept: Concept, name: str, old: Reference | Attribute | None, new: Reference | Attribute
) -> Iterator[str]:
    if isinstance(new, Reference):
        if not isinstance(old, Reference) or old.to != new.to:
            yield ddl.column_comment(concept, new)
    elif isinstance(old, Reference):
        yield f"COMMENT ON COLUMN {ddl.qualified(concept.place)}.{quoted(name)} IS NULL;\n"


# A view cannot be altered, so it is made anew; who could read the old one shall read the new one.


def _granted(concept: Concept) -> str:
    return f"provenance.granted_{hashlib.sha256(ddl.qualified(concept.resolved).encode()).hexdigest()[:8]}"


def _drop_view(concept: Concept) -> str:
    view = ddl.qualified(concept.resolved)
    return f"""\
-- The view is made anew. Whoever may read it now may read it then.
SELECT set_config('{_granted(concept)}', COALESCE((
    SELECT string_agg(format('GRANT %s ON %s TO %s%s', g.privilege_type, c.oid::regclass,
                             CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END,
                             CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ')
      FROM pg_class c CROSS JOIN aclexplode(c.relacl) g
     WHERE c.oid = {literal(view)}::regclass AND g.grantee <> c.relowner), ''), true);
DROP MATERIALIZED VIEW {view};
"""  # noqa: S608 - every name is quoted


def _recreate_view(concept: Concept) -> str:
    return ddl.view(concept) + f"DO $$ BEGIN EXECUTE current_setting('{_granted(concept)}'); END $$;\n"
