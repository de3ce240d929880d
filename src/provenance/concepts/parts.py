"""What a concept is made of: its references and attributes, its indexes, and what its view computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from provenance.concepts import checks, naming
from provenance.concepts.errors import InvalidConcept


@attrs.frozen(kw_only=True)
class Target:
    """A table whose rows a reference names by their key.

    Args:
        table: with its schema: ``"public.users"``. A view will do.
        key: the column that identifies a row, and that the reference holds.
    """

    table: str
    key: str = "id"

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "table", checks.qualified(self.table, "the table of a Target"))
        checks.name(self.key, f"the key of {self.table}")

    @property
    def place(self) -> tuple[str, str]:
        """The schema and the name of the table."""
        return checks.table_name(self.table, "the table of a Target")


def _labels(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return checks.pairs(value, "labels: expected a mapping of names to columns, such as {'user_name': 'name'}")


def _reads(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return checks.pairs(value, "reads: expected a mapping of columns to types, such as {'country_id': 'integer'}")


@attrs.frozen(kw_only=True)
class Reference:
    """An opaque id of something that another concept owns: a column, and never a foreign key.

    Args:
        column: ``"user_id"``.
        to: what it resolves to: a :class:`Target`, or the name of another declared concept. Without it the id is one of
            another system, and nothing is looked up.
        labels: which columns of that are shown in the resolved view, and as what: ``{"user_name": "name"}``.
        type: the Postgres type of the id.
        nullable: whether there may be none.
        concept: the concept that *to* named, filled in by :func:`linked`.
        reads: which columns of that are read beside the labels, by whoever works with the concept, and what type they are
            compared with: ``{"country_id": "integer"}``. Nothing is made of them; that they are there is checked when the
            declaration is applied.

    Raises:
        InvalidConcept: one of them is not what it should be.
    """

    column: str
    to: Target | str | None = None
    labels: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_labels)
    type: str = "uuid"
    nullable: bool = False
    concept: str | None = None
    # Not a part of what is made: another one changes neither the table nor the view.
    reads: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_reads, eq=False)

    def __attrs_post_init__(self) -> None:
        checks.column(self.column, "the reference")
        what = f"the reference {self.column}"
        if not (self.to is None or isinstance(self.to, (Target, str))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidConcept(
                f"{what}: to= takes a Target or the name of a declared concept, not {type(self.to).__name__}"
            )
        for label, source in self.labels:
            checks.column(label, f"a label of {what}")
            checks.name(source, f"the column behind the label {label} of {what}")
        for source, compared in self.reads:
            checks.name(source, f"a column that {what} reads")
            checks.type_name(compared, f"the column {source} that {what} reads")
        if (self.labels or self.reads) and self.to is None:
            given = "labels" if self.labels else "reads"
            raise InvalidConcept(
                f"{what} has {given} and nothing to take them from; give to=, or leave the {given} out"
            )
        object.__setattr__(self, "type", checks.type_name(self.type, what))
        checks.flag(self.nullable, f"nullable of {what}")

    @property
    def target(self) -> Target | None:
        """The table that the reference resolves to, or ``None``.

        Raises:
            InvalidConcept: it is a concept that has not been looked for yet.
        """
        if isinstance(self.to, str):
            raise InvalidConcept(
                f"the reference {self.column} is to the concept {self.to!r}; pass both concepts, or link them with linked()"
            )
        return self.to

    @property
    def flag(self) -> str:
        """The column of the resolved view that says whether the id names nothing."""
        return naming.fitted(self.column, "_dangling")


@attrs.frozen(kw_only=True)
class Attribute:
    """A column that holds a value.

    Args:
        name: of the column.
        type: a Postgres type: ``"text"``, ``"numeric(10,2)"``, ``"jsonb"``. Outside ``pg_catalog`` with its schema.
        nullable: whether there may be none.
        default: an SQL expression: ``"'pending'"``, ``"0"``.
        check: an SQL condition on the row: ``"title <> ''"``.

    Raises:
        InvalidConcept: one of them is not what it should be.
    """

    name: str
    type: str
    nullable: bool = False
    default: str | None = None
    check: str | None = None

    def __attrs_post_init__(self) -> None:
        checks.column(self.name, "the attribute")
        what = f"the attribute {self.name}"
        checks.flag(self.nullable, f"nullable of {what}")
        object.__setattr__(self, "type", checks.type_name(self.type, what))
        if self.default is not None:
            object.__setattr__(self, "default", checks.one_piece(self.default, f"the default of {what}"))
        if self.check is not None:
            object.__setattr__(self, "check", checks.one_piece(self.check, f"the check of {what}"))

    @property
    def constraint(self) -> str:
        """The name of the check."""
        return naming.fitted(self.name, "_check")


def _columns(value: Iterable[str]) -> tuple[str, ...]:
    return checks.several(value, str, "the columns of a LiveIndex")


@attrs.frozen(kw_only=True)
class LiveIndex:
    """An index on the rows that are not deleted.

    Args:
        columns: references and attributes. Rows with the same values are listed newest first from it.
        unique: makes them the natural key: no two live rows have the same values. Null is a value here.

    Raises:
        InvalidConcept: there are no columns, or one is named twice.
    """

    columns: tuple[str, ...] = attrs.field(converter=_columns)
    unique: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.columns:
            raise InvalidConcept("a LiveIndex has no columns; name at least one reference or attribute")
        if len(set(self.columns)) < len(self.columns):
            raise InvalidConcept(f"a LiveIndex names a column twice: {', '.join(self.columns)}; name each once")
        checks.flag(self.unique, f"unique of the LiveIndex on {', '.join(self.columns)}")


@attrs.frozen(kw_only=True)
class Computed:
    """A column of the resolved view that is made of its other columns.

    Args:
        name: of the column.
        sql: an SQL expression on references, attributes and labels: ``"concat_ws(', ', street, city_name)"``.

    Raises:
        InvalidConcept: one of them is not what it should be.
    """

    name: str
    sql: str

    def __attrs_post_init__(self) -> None:
        checks.column(self.name, "the computed column")
        object.__setattr__(self, "sql", checks.one_piece(self.sql, f"the SQL of the computed column {self.name}"))
