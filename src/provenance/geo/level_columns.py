"""A table that says where its rows lie by a column for each level, and is to say so by one id. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from provenance.concepts import InvalidConcept, Script, Target
from provenance.concepts.naming import literal, quoted
from provenance.geo.levels import Geography, qualified_table


@attrs.frozen(kw_only=True)
class LevelColumns:
    """A table with a column for each level, or for some, and the column that shall take their place.

    Args:
        geography: the levels.
        table: with its schema: ``"public.publisher_coverage"``. It must have a primary key.
        columns: the columns by level; ``<level>_id`` for every level when left out.
        reference: the column for the id of a location.

    Raises:
        InvalidConcept: one of them is not what it should be.
    """

    geography: Geography
    table: str = attrs.field(converter=qualified_table)
    columns: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    reference: str = "geo_location_id"

    def __attrs_post_init__(self) -> None:
        names = [level.name for level in self.geography.levels]
        if unknown := [name for name in self.columns if name not in names]:
            raise InvalidConcept(
                f"the columns of {self.table}: the geography has no level {unknown[0]}; it has {', '.join(names)}"
            )
        # In the order of the levels, whatever the order they were given in.
        columns = {level.name: level.column for level in self.geography.levels} if not self.columns else self.columns
        object.__setattr__(self, "columns", {name: columns[name] for name in names if name in columns})
        held = [*self.columns.values(), self.reference]
        if len(set(held)) < len(held):
            raise InvalidConcept(f"{self.table}: a column has two meanings ({', '.join(held)}); name each once")

    @property
    def place(self) -> tuple[str, str]:
        """The schema and the name of the table."""
        return Target(table=self.table).place

    def held(self, alias: str) -> dict[str, str]:
        """Return SQL for the columns, by level."""
        return {name: f"{alias}.{quoted(column)}" for name, column in self.columns.items()}

    @property
    def types(self) -> dict[str, str]:
        """The type of the key, by level."""
        return {level.name: level.type for level in self.geography.levels if level.name in self.columns}


def reference_sql(form: LevelColumns) -> Script:
    """Return the SQL that adds the column for the id, and the SQL that drops it, for migrations of your own.

    Adding it is quick whatever the size of the table: the column is empty.
    """
    column = quoted(form.reference)
    concept = form.geography.concept
    comment = literal(f"An id out of {concept.table}.id; not a foreign key, on purpose.")
    return Script(
        up=(
            f"ALTER TABLE {form.table} ADD COLUMN {column} pg_catalog.uuid;\n"
            f"COMMENT ON COLUMN {form.table}.{column} IS {comment};\n"
        ),
        down=f"ALTER TABLE {form.table} DROP COLUMN {column};\n",
    )
