"""What a concept is declared to be. Pure: a declaration is checked when it is made, without a database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from provenance.concepts import column_types, expressions, naming
from provenance.concepts.errors import InvalidConcept
from provenance.errors import InvalidAction
from provenance.values import name as action_name

RESERVED = ("id", "created_by_action_id", "updated_by_action_id", "created_at", "updated_at", "deleted_at")
"""The columns that every concept has."""

# tableoid and the like: columns that every table has already.
_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TYPE = re.compile(r"[\w\s.,()\[\]\"$]+")


def _name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidConcept(f"{what}: expected a name, got {type(value).__name__}")
    if not value:
        raise InvalidConcept(f"{what} is empty; give it a name of 1 to {naming.LONGEST} bytes")
    if not value.isprintable():
        raise InvalidConcept(f"{what} has characters that cannot be printed; leave them out")
    if (size := len(value.encode(errors="surrogatepass"))) > naming.LONGEST:
        raise InvalidConcept(
            f"{what} {value!r} has {size} bytes, and Postgres keeps {naming.LONGEST}; choose a shorter one"
        )
    return value


def _column(value: object, what: str) -> str:
    column = _name(value, what)
    if column in RESERVED:
        raise InvalidConcept(
            f"{what} {column!r} is reserved: every concept has the columns {', '.join(RESERVED)}; choose another name"
        )
    if column in _SYSTEM:
        raise InvalidConcept(f"{what} {column!r} is a system column of Postgres; choose another name")
    return column


def _sql(value: object, what: str) -> str:
    """Return an expression or a type: one, on one line, so that it cannot be mistaken for what surrounds it."""
    if not isinstance(value, str):
        raise InvalidConcept(f"{what}: expected SQL as text, got {type(value).__name__}")
    if not value.strip():
        raise InvalidConcept(f"{what} is empty; leave it out, or give the SQL")
    if not value.isprintable():
        raise InvalidConcept(f"{what}: expected SQL on one line")
    if (flaw := expressions.flaw(value)) is not None:
        raise InvalidConcept(f"{what}: expected one whole piece of SQL, and it has {flaw}; write that piece alone")
    return value.strip()


def _type(value: object, what: str) -> str:
    written = _sql(value, f"the type of {what}")
    if not _TYPE.fullmatch(written):
        raise InvalidConcept(f"the type of {what}: expected the name of a Postgres type such as text or numeric(10,2)")
    return written


# Where Postgres and this library keep what is theirs; every schema that begins with pg_ is the server's.
_NOT_YOURS = frozenset({"provenance", "information_schema"})
_TABLE = re.compile(r'("(?:[^"]|"")+"|[^".\s]+)\.("(?:[^"]|"")+"|[^".\s]+)')


def table_name(value: object, what: str) -> tuple[str, str]:
    """Return the schema and the name that a qualified table name consists of.

    Raises:
        InvalidConcept: it is no such name.
    """
    if not isinstance(value, str) or not (found := _TABLE.fullmatch(value)):
        raise InvalidConcept(f'{what}: expected a table with its schema, such as public.users or public."Users"')
    schema, table = (part[1:-1].replace('""', '"') if part[0] == '"' else part for part in found.groups())
    return _name(schema, f"the schema of {what}"), _name(table, f"the name of {what}")


def _qualified(value: str, what: str) -> str:
    return ".".join(map(naming.quoted, table_name(value, what)))


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidConcept(f"{what}: expected True or False, got {type(value).__name__}")
    return value


def _tuple(value: Iterable[Any], kind: type, what: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidConcept(f"{what}: expected a list of {kind.__name__}, got {type(value).__name__}")
    items = tuple(value)
    for item in items:
        if not isinstance(item, kind):
            raise InvalidConcept(f"{what}: expected {kind.__name__} in the list, got {type(item).__name__}")
    return items


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
        object.__setattr__(self, "table", _qualified(self.table, "the table of a Target"))
        _name(self.key, f"the key of {self.table}")

    @property
    def place(self) -> tuple[str, str]:
        """The schema and the name of the table."""
        return table_name(self.table, "the table of a Target")


def _pairs(value: Mapping[str, str] | Iterable[tuple[str, str]], expected: str) -> tuple[tuple[str, str], ...]:
    try:
        pairs = dict(value)
    except (TypeError, ValueError):
        raise InvalidConcept(expected) from None
    return tuple(pairs.items())


def _labels(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return _pairs(value, "labels: expected a mapping of names to columns, such as {'user_name': 'name'}")


def _reads(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return _pairs(value, "reads: expected a mapping of columns to types, such as {'country_id': 'integer'}")


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
        _column(self.column, "the reference")
        what = f"the reference {self.column}"
        if not (self.to is None or isinstance(self.to, (Target, str))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidConcept(
                f"{what}: to= takes a Target or the name of a declared concept, not {type(self.to).__name__}"
            )
        for label, source in self.labels:
            _column(label, f"a label of {what}")
            _name(source, f"the column behind the label {label} of {what}")
        for source, compared in self.reads:
            _name(source, f"a column that {what} reads")
            _type(compared, f"the column {source} that {what} reads")
        if (self.labels or self.reads) and self.to is None:
            given = "labels" if self.labels else "reads"
            raise InvalidConcept(
                f"{what} has {given} and nothing to take them from; give to=, or leave the {given} out"
            )
        object.__setattr__(self, "type", _type(self.type, what))
        _flag(self.nullable, f"nullable of {what}")

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
        _column(self.name, "the attribute")
        what = f"the attribute {self.name}"
        _flag(self.nullable, f"nullable of {what}")
        object.__setattr__(self, "type", _type(self.type, what))
        if self.default is not None:
            object.__setattr__(self, "default", _sql(self.default, f"the default of {what}"))
        if self.check is not None:
            object.__setattr__(self, "check", _sql(self.check, f"the check of {what}"))

    @property
    def constraint(self) -> str:
        """The name of the check."""
        return naming.fitted(self.name, "_check")


def _columns(value: Iterable[str]) -> tuple[str, ...]:
    return _tuple(value, str, "the columns of a LiveIndex")


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
        _flag(self.unique, f"unique of the LiveIndex on {', '.join(self.columns)}")


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
        _column(self.name, "the computed column")
        object.__setattr__(self, "sql", _sql(self.sql, f"the SQL of the computed column {self.name}"))


def _references(value: Iterable[Reference]) -> tuple[Reference, ...]:
    return _tuple(value, Reference, "references")


def _attributes(value: Iterable[Attribute]) -> tuple[Attribute, ...]:
    return _tuple(value, Attribute, "attributes")


def _indexes(value: Iterable[LiveIndex]) -> tuple[LiveIndex, ...]:
    return _tuple(value, LiveIndex, "indexes")


def _computed(value: Iterable[Computed]) -> tuple[Computed, ...]:
    return _tuple(value, Computed, "computed")


@attrs.frozen(kw_only=True)
class Concept:
    """A noun of the domain that owns a table and names rows of others by opaque ids alone.

    Args:
        name: what actions call it, as ``entity_type``: ``"notification"``.
        table: with its schema; ``public.<name>s`` when left out.
        references: ids of what other concepts own.
        attributes: its own values.
        indexes: on live rows, beside the one for listing them all.
        computed: further columns of the resolved view.

    Raises:
        InvalidConcept: something is not what it should be, or two columns have the same name.
    """

    name: str
    table: str = ""
    references: tuple[Reference, ...] = attrs.field(default=(), converter=_references)
    attributes: tuple[Attribute, ...] = attrs.field(default=(), converter=_attributes)
    indexes: tuple[LiveIndex, ...] = attrs.field(default=(), converter=_indexes)
    computed: tuple[Computed, ...] = attrs.field(default=(), converter=_computed)

    def __attrs_post_init__(self) -> None:
        try:
            action_name(self.name, "the name of a concept")
        except InvalidAction as error:
            raise InvalidConcept(str(error)) from None
        what = f"the table of the concept {self.name}"
        table = self.table or f"public.{naming.quoted(f'{self.name}s')}"
        object.__setattr__(self, "table", _qualified(table, what))
        if (schema := self.place[0]) in _NOT_YOURS or schema.startswith("pg_"):
            raise InvalidConcept(f"{what} is in the schema {schema}, which is not yours; give it one of your own")
        self._check_columns()
        self._check_indexes()

    def _check_columns(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if column in seen:
                raise InvalidConcept(f"the concept {self.name} has two columns named {column}; rename one")
            seen.add(column)
        shown = seen | {*RESERVED}
        for reference in self.references:
            added = [label for label, _ in reference.labels] + ([reference.flag] if reference.to is not None else [])
            for column in added:
                if column in shown:
                    raise InvalidConcept(
                        f"the resolved view of the concept {self.name} would have two columns named {column}; rename the "
                        f"label of {reference.column}, or the other column"
                    )
                shown.add(column)
        for computed in self.computed:
            if computed.name in shown:
                raise InvalidConcept(
                    f"the resolved view of the concept {self.name} would have two columns named {computed.name}; rename "
                    "the computed one"
                )
            shown.add(computed.name)

    def _check_indexes(self) -> None:
        known, seen = set(self.columns), set[tuple[tuple[str, ...], bool]]()
        for index in self.indexes:
            for column in index.columns:
                if column not in known:
                    raise InvalidConcept(
                        f"an index of the concept {self.name} is on {column!r}, which is none of its references and "
                        f"attributes; it has {', '.join(self.columns) or 'none'}"
                    )
            if (index.columns, index.unique) in seen:
                raise InvalidConcept(
                    f"the concept {self.name} has the index on {', '.join(index.columns)} twice; drop one"
                )
            seen.add((index.columns, index.unique))

    @property
    def place(self) -> tuple[str, str]:
        """The schema and the name of the table."""
        return table_name(self.table, "the table")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the references and the attributes, in the order of the table."""
        return (*(reference.column for reference in self.references), *(a.name for a in self.attributes))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of what the resolved view adds: labels of references, and computed columns."""
        shown = (label for reference in self.references for label, _ in reference.labels)
        return (*shown, *(computed.name for computed in self.computed))

    @property
    def types(self) -> dict[str, str]:
        """The type of each of them."""
        return {r.column: r.type for r in self.references} | {a.name: a.type for a in self.attributes}

    @property
    def nullable(self) -> frozenset[str]:
        """Which of them may be null."""
        return frozenset(r.column for r in self.references if r.nullable) | {
            a.name for a in self.attributes if a.nullable
        }

    @property
    def resolved(self) -> tuple[str, str]:
        """The schema and the name of the resolved view."""
        schema, table = self.place
        return schema, naming.fitted(table, "_resolved")

    @property
    def refresh(self) -> tuple[str, str]:
        """The schema and the name of the function that refreshes it."""
        schema, table = self.place
        return schema, naming.fitted(f"refresh_{table}", "_resolved")

    def index_name(self, index: LiveIndex) -> str:
        """Return the name of an index on the table."""
        return naming.index_name(self.place[1], index.columns, "_key" if index.unique else "_live")

    def view_index_name(self, index: LiveIndex) -> str:
        """Return the name of the same index on the resolved view."""
        return naming.index_name(self.resolved[1], index.columns, "_idx")

    def relations(self) -> Iterator[str]:
        """Yield the names of all tables, views and indexes of the concept, in its schema."""
        _, table = self.place
        _, resolved = self.resolved
        yield table
        yield self.pkey
        yield self.live_index
        yield resolved
        yield self.view_key
        for index in self.indexes:
            yield self.index_name(index)
        yield from dict.fromkeys(map(self.view_index_name, self.indexes))

    @property
    def pkey(self) -> str:
        """The name of the primary key."""
        return naming.fitted(self.place[1], "_pkey")

    @property
    def live_index(self) -> str:
        """The name of the index that lists live rows."""
        return naming.fitted(self.place[1], "_live")

    @property
    def view_key(self) -> str:
        """The name of the unique index of the resolved view."""
        return naming.fitted(self.resolved[1], "_pkey")


def linked(*concepts: Concept) -> tuple[Concept, ...]:
    """Return the concepts with the references among them, which name others, looked up.

    Raises:
        InvalidConcept: one refers to a concept that is not among them, by another type than its key has, or to a column
            that it does not have; or two of them have the same name, or a table or index of the same name.
    """
    known: dict[str, Concept] = {}
    relations: dict[tuple[str, str], str] = {}
    for concept in concepts:
        if concept.name in known:
            raise InvalidConcept(f"two concepts are named {concept.name}; rename one")
        known[concept.name] = concept
        for relation in concept.relations():
            place = concept.place[0], relation
            if place in relations:
                raise InvalidConcept(
                    f"the concepts {relations[place]} and {concept.name} would both make "
                    f"{'.'.join(map(naming.quoted, place))}; give one of them another table"
                )
            relations[place] = concept.name
    return tuple(
        attrs.evolve(concept, references=[_link(concept, reference, known) for reference in concept.references])
        for concept in concepts
    )


def _link(concept: Concept, reference: Reference, known: Mapping[str, Concept]) -> Reference:
    if not isinstance(reference.to, str):
        return reference
    what = f"the reference {reference.column} of the concept {concept.name}"
    found = known.get(reference.to)
    if found is None:
        raise InvalidConcept(
            f"{what} is to the unknown concept {reference.to!r}; declare that and pass it too, or name a table with "
            f"Target (known here: {', '.join(sorted(known))})"
        )
    if not column_types.same(reference.type, "uuid"):
        raise InvalidConcept(
            f"{what} is of type {reference.type}, and the key of a concept is a uuid; declare it as uuid"
        )
    for label, source in reference.labels:
        if source not in (*RESERVED, *found.columns):
            raise InvalidConcept(
                f"{what} takes the label {label} from {source!r}, which is no column of the concept {found.name}; it has "
                f"{', '.join((*RESERVED, *found.columns))}"
            )
    return attrs.evolve(reference, to=Target(table=found.table), concept=found.name)
