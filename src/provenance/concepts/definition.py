"""What a concept is declared to be. Pure: a declaration is checked when it is made, without a database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from provenance.concepts import checks, column_types, naming
from provenance.concepts.errors import InvalidConcept
from provenance.concepts.parts import Attribute, Computed, LiveIndex, Reference, Target
from provenance.errors import InvalidAction
from provenance.values import name as action_name


def _references(value: Iterable[Reference]) -> tuple[Reference, ...]:
    return checks.several(value, Reference, "references")


def _attributes(value: Iterable[Attribute]) -> tuple[Attribute, ...]:
    return checks.several(value, Attribute, "attributes")


def _indexes(value: Iterable[LiveIndex]) -> tuple[LiveIndex, ...]:
    return checks.several(value, LiveIndex, "indexes")


def _computed(value: Iterable[Computed]) -> tuple[Computed, ...]:
    return checks.several(value, Computed, "computed")


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
        object.__setattr__(self, "table", checks.qualified(table, what))
        if (schema := self.place[0]) in checks.NOT_YOURS or schema.startswith("pg_"):
            raise InvalidConcept(f"{what} is in the schema {schema}, which is not yours; give it one of your own")
        self._check_columns()
        self._check_indexes()

    def _check_columns(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if column in seen:
                raise InvalidConcept(f"the concept {self.name} has two columns named {column}; rename one")
            seen.add(column)
        shown = seen | {*checks.RESERVED}
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
        return checks.table_name(self.table, "the table")

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
        if source not in (*checks.RESERVED, *found.columns):
            raise InvalidConcept(
                f"{what} takes the label {label} from {source!r}, which is no column of the concept {found.name}; it has "
                f"{', '.join((*checks.RESERVED, *found.columns))}"
            )
    return attrs.evolve(reference, to=Target(table=found.table), concept=found.name)
