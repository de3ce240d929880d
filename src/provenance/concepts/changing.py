"""What turns a table that was made from one declaration into that of another, or the reason why not. Pure.

Only what keeps every value is done. What would lose or guess is refused, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from provenance.concepts import column_types, ddl, expressions, rebuilding
from provenance.concepts.definition import Concept
from provenance.concepts.errors import ConceptRefused
from provenance.concepts.naming import literal, quoted
from provenance.concepts.parts import Attribute, Reference


@attrs.frozen(kw_only=True)
class Script:
    """SQL, and the SQL that takes it back; both empty when there is nothing to do."""

    up: str
    down: str


@attrs.frozen(kw_only=True)
class Change:
    """Two declarations of a concept, and what a database says about them that they do not say themselves."""

    old: Concept
    new: Concept
    alike: frozenset[str] = frozenset()
    """The columns whose type is the same by another name."""
    present: frozenset[str] = frozenset()
    """The statements of indexes of the new declaration that are on the table already."""

    def back(self) -> Change:
        """Return what takes it back, made of the declarations alone where it can be."""
        return Change(old=self.new, new=self.old, alike=self.alike)

    def retyped(self, name: str) -> bool:
        """Return whether a column that both have changes its type."""
        return name not in self.alike and not column_types.same(self.old.types[name], self.new.types[name])


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
    wanted = Change(old=old, new=new)
    refuse(wanted, drop_columns=drop_columns)
    _refuse_lost_checks(wanted)
    return Script(up=ddl.script(change(wanted)), down=ddl.script(change(wanted.back())))


def change(*wanted: Change) -> list[str]:
    """Return the statements of changes that are not refused, in groups; empty when all declarations are alike.

    All views go before any table changes, and come back after: one concept's view may show what another's table holds.
    """
    changed = [pair for pair in wanted if pair.old != pair.new]
    disturbed = {pair.old.table for pair in changed if _disturbs(pair)}
    rebuilt = [
        pair
        for pair in wanted
        if ddl.view_definition(pair.old) != ddl.view_definition(pair.new) or _shows(pair.old) & disturbed
    ]
    kept = [pair for pair in changed if pair not in rebuilt]
    return [
        *(rebuilding.drop(pair.old) for pair in rebuilt),
        *("".join(_table(pair)) for pair in changed),
        *("".join(_indexes(pair.new, ddl.view_indexes(pair.old), ddl.view_indexes(pair.new))) for pair in kept),
        *(rebuilding.recreate(pair.new) for pair in rebuilt),
    ]


def _disturbs(wanted: Change) -> bool:
    """Return whether columns change that a view may show, which Postgres does not allow."""
    return any(name not in wanted.new.types or wanted.retyped(name) for name in wanted.old.columns)


def _shows(concept: Concept) -> set[str]:
    """Return the tables that the resolved view reads."""
    targets = (reference.target for reference in concept.references)
    return {concept.table, *(target.table for target in targets if target is not None)}


def _columns(concept: Concept) -> dict[str, Reference | Attribute]:
    declared: list[Reference | Attribute] = [*concept.references, *concept.attributes]
    return dict(zip(concept.columns, declared, strict=True))


def _default(declared: Reference | Attribute) -> str | None:
    return declared.default if isinstance(declared, Attribute) else None


# -- what is refused --


def refuse(wanted: Change, *, drop_columns: bool) -> None:
    """Refuse a change that would lose values, or that somebody has to decide something about first.

    Raises:
        ConceptRefused: with the reason.
    """
    old, new = wanted.old, wanted.new
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
    for name in (name for name in new.columns if name in old.types):
        if wanted.retyped(name):
            _refuse_type(name, old.types[name], new.types[name])
    added = [name for name in after if name not in before]
    for name in dropped(wanted):
        _refuse_dropped(name, before[name], added=added, allowed=drop_columns)
    for name in added:
        _refuse_added(name, after[name])


def _refuse_type(name: str, old: str, new: str) -> None:
    if not column_types.widens(old, new):
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


def _refuse_dropped(name: str, declared: Reference | Attribute, *, added: list[str], allowed: bool) -> None:
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


def dropped(wanted: Change) -> list[str]:
    """Return the columns that the new declaration does not have."""
    return [name for name in wanted.old.columns if name not in wanted.new.types]


def _refuse_lost_checks(wanted: Change) -> None:
    for name in dropped(wanted):
        for attribute in wanted.new.attributes:
            if attribute.check is not None and name in expressions.names(attribute.check):
                raise lost_check(attribute.name, name)


def lost_check(attribute: str, column: str) -> ConceptRefused:
    """Return what to raise when a column is dropped and a check that stays needs it."""
    return ConceptRefused(
        f"the check of {attribute} names the column {column}, and would be dropped with it; change the check too"
    )


# -- what is done --


def _table(wanted: Change) -> Iterator[str]:
    old, new = wanted.old, wanted.new
    table = ddl.qualified(new.place)
    before, after = _columns(old), _columns(new)
    old_checks, new_checks = checks(old), checks(new)
    retyped = {name for name in before if name in after and wanted.retyped(name)}
    # One on a column of another type would keep its casts to the old one.
    kept = {name for name, check in (old_checks.items() & new_checks.items()) if not expressions.names(check) & retyped}
    old_indexes, new_indexes = table_indexes(old), table_indexes(new)
    yield from _drop_indexes(old, old_indexes, new_indexes)
    for name in old_checks:
        if name not in kept:
            yield f"ALTER TABLE {table} DROP CONSTRAINT {quoted(name)};\n"
    for name in before:
        if name not in after:
            yield f"ALTER TABLE {table} DROP COLUMN {quoted(name)};\n"
    for name, declared in after.items():
        if name in before:
            yield from _column(table, name, before[name], declared, retyped=name in retyped)
        else:
            yield f"ALTER TABLE {table} ADD COLUMN {ddl.column(declared)};\n"
    added = {name: check for name, check in new_checks.items() if name not in kept}
    for name, check in added.items():
        yield f"ALTER TABLE {table} ADD CONSTRAINT {quoted(name)} CHECK ({check}) NOT VALID;\n"
    yield from _create_indexes(old_indexes, new_indexes, wanted.present)
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
        if not column_types.widens(old.type, new.type):
            yield _unless_values_change(table, name, new.type)
        if column_types.rewrites(old.type, new.type):
            yield "-- Writes the whole table anew, and nobody can read it meanwhile.\n"
        yield f"{alter} TYPE {new.type};\n"
    if _default(old) != (default := _default(new)) or (retyped and default is not None):
        yield f"{alter} DROP DEFAULT;\n" if default is None else f"{alter} SET DEFAULT ({default});\n"
    if new.nullable and not old.nullable:
        yield f"{alter} DROP NOT NULL;\n"
    elif old.nullable and not new.nullable:
        yield "-- Reads the whole table, and nobody can write to it meanwhile.\n"
        yield f"{alter} SET NOT NULL;\n"


def _unless_values_change(table: str, name: str, new: str) -> str:
    """Return what fails where a value would be rounded or cut: Postgres itself does that silently."""
    column, told = f"t.{quoted(name)}", literal(f"a value of the column {name} would not be the same as {new}")
    return f"""\
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
IF EXISTS (SELECT FROM {table} AS t WHERE {column}::{new} IS DISTINCT FROM {column}) THEN
    RAISE EXCEPTION USING ERRCODE = 'data_exception', MESSAGE = {told}, HINT = 'Change those values first.';
END IF;
"""  # noqa: S608 - every name is quoted


def checks(concept: Concept) -> dict[str, str]:
    """Return the declared checks by the names of their constraints."""
    return {a.constraint: a.check for a in concept.attributes if a.check is not None}


def table_indexes(concept: Concept) -> dict[str, str]:
    """Return the statements that make the declared indexes on the table, by name."""
    return {concept.index_name(index): ddl.table_index(concept, index) for index in concept.indexes}


def _drop_indexes(concept: Concept, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name, statement in old.items():
        if new.get(name) != statement:
            yield f"DROP INDEX {ddl.qualified((concept.place[0], name))};\n"


def _create_indexes(old: dict[str, str], new: dict[str, str], present: frozenset[str]) -> Iterator[str]:
    made = [statement for name, statement in new.items() if statement not in {old.get(name), *present}]
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
