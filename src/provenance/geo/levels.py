"""What places an application knows, and how a location is made of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs

from provenance.concepts import (
    Attribute,
    Computed,
    Concept,
    InvalidConcept,
    InvalidEntity,
    LiveIndex,
    Reference,
    Target,
    column_types,
)
from provenance.concepts.naming import literal, quoted

_WORD = re.compile(r"[a-z][a-z0-9_]{0,30}", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*", re.ASCII)


def _mapping(value: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidConcept(f"expected a mapping such as {{'he': 'name_hebrew'}}, got {type(value).__name__}")
    return dict(value)


def qualified_table(value: str) -> str:
    """Return the name of a table with its schema, as SQL."""
    return Target(table=value).table


@attrs.frozen(kw_only=True)
class Level:
    """A table of places of one kind: countries, cities.

    Args:
        name: what the level is called: ``"city"``; lower-case letters, digits and underscores.
        table: with its schema: ``"public.cities"``.
        key: the column that identifies a place.
        type: the Postgres type of the key.
        label: the column that holds the name of a place.
        languages: the columns that hold its names in other languages, by language tag: ``{"he": "name_hebrew"}``.
        code: the column that holds its code, such as that of a country.
        latitude: the column that holds the latitude of its middle, in degrees.
        longitude: the column that holds the longitude, in degrees.
        within: the columns that hold the keys of the places it lies in, by level: ``{"country": "country_id"}``. Locations
            that contradict them are refused.

    Raises:
        InvalidConcept: one of them is not what it should be.
    """

    name: str
    table: str = attrs.field(converter=qualified_table)
    key: str = "id"
    type: str = "integer"
    label: str = "name"
    # A mapping has no hash; equal levels have equal ones without it.
    languages: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_mapping, hash=False)
    code: str | None = None
    latitude: str | None = None
    longitude: str | None = None
    within: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_mapping, hash=False)

    def __attrs_post_init__(self) -> None:
        if not _WORD.fullmatch(self.name):
            raise InvalidConcept(
                f"the level {self.name!r}: expected a name of lower-case letters, digits and underscores, such as city"
            )
        for tag in self.languages:
            if not _LANGUAGE.fullmatch(tag):
                raise InvalidConcept(f"the level {self.name}: {tag!r} is no language tag; write it as in he or zh-Hant")
        if (self.latitude is None) != (self.longitude is None):
            raise InvalidConcept(f"the level {self.name} has half of its coordinates; give latitude= and longitude=")

    @property
    def column(self) -> str:
        """The column of a location that holds a place of this level."""
        return f"{self.name}_id"

    def reference(self, types: Mapping[str, str]) -> Reference:
        """Return that column, and what of the place is shown with a location.

        Args:
            types: those of the keys of broader levels.
        """
        labels = {f"{self.name}_name": self.label}
        labels |= {f"{self.name}_name_{suffix(tag)}": column for tag, column in self.languages.items()}
        shown = {"code": self.code, "latitude": self.latitude, "longitude": self.longitude}
        labels |= {f"{self.name}_{what}": column for what, column in shown.items() if column is not None}
        target = Target(table=self.table, key=self.key)
        reads = [(column, types[broader]) for broader, column in self.within.items()]
        return Reference(column=self.column, to=target, labels=labels, type=self.type, nullable=True, reads=reads)


Way = tuple[tuple[Level, str], ...]


def _key(level: Level, value: Any) -> Any:
    """Refuse what a cast would take for another key, or for several."""
    whole = column_types.is_integer(level.type)
    kind = cast("type[object]", type(value))
    if value is not None and (issubclass(kind, (list, tuple, dict)) or (whole and kind is not int)):
        raise InvalidEntity(f"the {level.name}: expected a key of type {level.type}, got {kind.__name__}")
    return value


def _text(column: str) -> str:
    """Return SQL for a name: tables may have them in several types and collations, and empty ones are none."""
    return f"NULLIF({quoted(column)}::text COLLATE \"default\", '')"


def suffix(tag: str) -> str:
    """Return a language tag as a part of a column's name."""
    return tag.lower().replace("-", "_")


def _levels(value: Iterable[Level]) -> tuple[Level, ...]:
    levels = tuple(value)
    for level in levels:
        if not isinstance(level, Level):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidConcept(f"levels: expected Level in the list, got {type(level).__name__}")
    return levels


@attrs.frozen(kw_only=True)
class Geography:
    """The levels that a location is made of, and the concept that locations are.

    A location is a row with an opaque id that names at most one place of each level. Whatever lies somewhere holds that one
    id, instead of a column for each level.

    Args:
        levels: the broadest first: continent, country, region, district, city.
        name: what actions call a location, as ``entity_type``.
        table: of locations, with its schema; ``public.<name>s`` when left out.
        world: the level of the location that names no place at all.
        separator: what stands between the names in ``hierarchy``.

    Raises:
        InvalidConcept: there are no levels, or they contradict each other.
    """

    levels: tuple[Level, ...] = attrs.field(converter=_levels)
    name: str = "geo_location"
    table: str = ""
    world: str = "world"
    separator: str = " > "
    concept: Concept = attrs.field(init=False, eq=False, repr=False)
    """The concept: its SQL and repository are those of any other."""

    def __attrs_post_init__(self) -> None:
        if not self.levels:
            raise InvalidConcept("a Geography has no levels; name at least one")
        names = [level.name for level in self.levels]
        if len({*names, self.world}) <= len(names):
            raise InvalidConcept(
                f"a Geography has two levels of one name: {', '.join([self.world, *names])}; rename one, or give another "
                "world="
            )
        if not self.separator.isprintable() or not self.separator:
            raise InvalidConcept("the separator of a Geography is empty or cannot be printed; use one such as ' > '")
        for number, level in enumerate(self.levels):
            for broader in level.within:
                if broader not in names[:number]:
                    raise InvalidConcept(
                        f"the level {level.name} is said to lie within {broader!r}, which is no broader level; broader are: "
                        f"{', '.join(names[:number]) or 'none'}"
                    )
        object.__setattr__(self, "concept", self._concept())

    def _concept(self) -> Concept:
        types = {level.name: level.type for level in self.levels}
        return Concept(
            name=self.name,
            table=self.table,
            references=[level.reference(types) for level in self.levels],
            attributes=[
                Attribute(name="level", type="text", check=f"level = {self.level_sql()}"),
                # Whoever does not know of a level, because another version of the application has added it, does not take a
                # location that names a place of it for one of its own.
                Attribute(
                    name="named", type="smallint", check=f"named = num_nonnulls({', '.join(map(quoted, self.key))})"
                ),
            ],
            indexes=[LiveIndex(columns=self.key, unique=True)],
            computed=[*self._names(), *self._coordinates()],
        )

    @property
    def narrowest_first(self) -> tuple[Level, ...]:
        """The levels in the order in which a location takes its name from them."""
        return self.levels[::-1]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell locations apart, the most telling first."""
        return tuple(level.column for level in self.narrowest_first)

    @property
    def languages(self) -> tuple[str, ...]:
        """The tags of all languages that any level has names in, beside that of the labels."""
        return tuple(dict.fromkeys(tag for level in self.levels for tag in level.languages))

    def level_sql(self, columns: Mapping[str, str] | None = None) -> str:
        """Return SQL for the narrowest level that is given.

        Args:
            columns: SQL for the columns by level; those of a location when left out.
        """
        named = columns or {level.name: quoted(level.column) for level in self.levels}
        cases = " ".join(
            f"WHEN {named[level.name]} IS NOT NULL THEN {literal(level.name)}"
            for level in self.narrowest_first
            if level.name in named
        )
        return f"CASE {cases} ELSE {literal(self.world)} END"

    def places(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key of a place, or ``None``, for each level.

        Raises:
            InvalidEntity: there is no such level, or a key is none of its type.
        """
        names = [level.name for level in self.levels]
        if unknown := [name for name in given if name not in names]:
            raise InvalidEntity(f"a {self.name} has no level {unknown[0]}; expected {', '.join(names)}")
        return {level.name: _key(level, given.get(level.name)) for level in self.levels}

    def ways(self) -> list[tuple[Way, str]]:
        """Return how one gets from the places of each level to those of broader levels that they lie in, the shortest way.

        A way is the levels that are passed, each with the column that leads on; with it comes the level that it ends at.
        """
        known = {level.name: level for level in self.levels}
        found: list[tuple[Way, str]] = []
        for level in self.levels:
            ends = dict[str, Way]()
            ways: list[tuple[Way, str]] = [((), level.name)]
            for way, last in ways:
                for broader, column in known[last].within.items():
                    if broader not in ends:
                        ends[broader] = (*way, (known[last], column))
                        ways.append((ends[broader], broader))
            found += [(way, end) for end, way in ends.items()]
        return found

    def _names(self) -> Iterable[Computed]:
        for tag in (None, *self.languages):
            ending = "" if tag is None else f"_{suffix(tag)}"
            shown = {level.name: self._shown(level, tag) for level in self.narrowest_first}
            own = " ".join(f"WHEN {literal(name)} THEN {label}" for name, label in shown.items())
            # The name of a place that is not there is not that of the next broader one.
            yield Computed(name=f"name{ending}", sql=f"CASE level {own} END")
            joined = ", ".join([literal(self.separator), *shown.values()])
            yield Computed(name=f"hierarchy{ending}", sql=f"concat_ws({joined})")

    def _shown(self, level: Level, tag: str | None) -> str:
        label = _text(f"{level.name}_name")
        if tag is None or tag not in level.languages:
            return label
        return f"COALESCE({_text(f'{level.name}_name_{suffix(tag)}')}, {label})"

    def _coordinates(self) -> Iterable[Computed]:
        for what in ("latitude", "longitude"):
            # Both from the same place: half of one and half of another would be nowhere.
            cases = " ".join(
                f"WHEN {quoted(f'{level.name}_latitude')} IS NOT NULL AND {quoted(f'{level.name}_longitude')} IS NOT NULL "
                f"THEN {quoted(f'{level.name}_{what}')}::float8"
                for level in self.narrowest_first
                if level.latitude is not None
            )
            yield Computed(name=what, sql=f"CASE {cases} END" if cases else "NULL::float8")
