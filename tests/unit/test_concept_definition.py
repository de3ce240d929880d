"""What may be declared, and what is said of a declaration that contradicts itself."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.concepts import (
    Attribute,
    Computed,
    Concept,
    ConceptRefused,
    InvalidConcept,
    LiveIndex,
    Reference,
    Target,
    changes,
    column_types,
    declaration,
    expressions,
    linked,
    naming,
    up_sql,
)
from tests.strategies import unhurried

TITLE = Attribute(name="title", type="text")
USER = Concept(name="user", attributes=[Attribute(name="name", type="text")])


def concept(**given: Any) -> Concept:
    return Concept(**{"name": "note", **given})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        # Names.
        (lambda: Attribute(name="", type="text"), "the attribute is empty; give it a name of 1 to 63 bytes"),
        (lambda: Attribute(name=7, type="text"), "the attribute: expected a name, got int"),  # type: ignore[arg-type]
        (
            lambda: Attribute(name="a\nb", type="text"),
            "the attribute has characters that cannot be printed; leave them out",
        ),
        (
            lambda: Attribute(name="é" * 32, type="text"),
            f"the attribute '{'é' * 32}' has 64 bytes, and Postgres keeps 63; choose a shorter one",
        ),
        (
            lambda: Attribute(name="deleted_at", type="text"),
            (
                "the attribute 'deleted_at' is reserved: every concept has the columns id, created_by_action_id, "
                "updated_by_action_id, created_at, updated_at, deleted_at; choose another name"
            ),
        ),
        (lambda: Reference(column="id"), "the reference 'id' is reserved: every concept has the columns id, "),
        (
            lambda: Attribute(name="xmin", type="text"),
            "the attribute 'xmin' is a system column of Postgres; choose another",
        ),
        (lambda: concept(name=""), "the name of a concept is empty: "),
        (lambda: concept(name="x" * 101), "the name of a concept has 101 characters: "),
        (
            lambda: concept(name="x" * 63),
            f"the name of the table of the concept {'x' * 63} '{'x' * 63}s' has 64 bytes, and Postgres keeps 63",
        ),
        # Tables.
        (
            lambda: concept(table="notes"),
            'the table of the concept note: expected a table with its schema, such as public.users or public."Users"',
        ),
        (lambda: Target(table="a.b.c"), "the table of a Target: expected a table with its schema"),
        (lambda: Target(table=None), "the table of a Target: expected a table with its schema"),  # type: ignore[arg-type]
        (lambda: Target(table="public.users", key=""), "the key of public.users is empty"),
        *(
            (
                lambda schema=schema: concept(table=f"{schema}.notes"),
                f"the table of the concept note is in the schema {schema}, which is not yours; give it one of your own",
            )
            for schema in ("provenance", "information_schema", "pg_catalog", "pg_temp", "pg_toast")
        ),
        # Types, defaults and checks.
        (lambda: Attribute(name="a", type=" "), "the type of the attribute a is empty; leave it out, or give the SQL"),
        (lambda: Attribute(name="a", type=str), "the type of the attribute a: expected SQL as text, got type"),  # type: ignore[arg-type]
        (
            lambda: Attribute(name="a", type="text; DROP"),
            "the type of the attribute a: expected one whole piece of SQL, and it has a semicolon; write that piece alone",
        ),
        (
            lambda: Attribute(name="a", type="text = text"),
            "the type of the attribute a: expected the name of a Postgres type",
        ),
        (
            lambda: Reference(column="a", type="uuid--"),
            "the type of the reference a: expected one whole piece of SQL, and it has a comment",
        ),
        (lambda: Attribute(name="a", type="text", default=""), "the default of the attribute a is empty"),
        (
            lambda: Attribute(name="a", type="int", default=0),
            "the default of the attribute a: expected SQL as text, got int",
        ),  # type: ignore[arg-type]
        (
            lambda: Attribute(name="a", type="text", check="a\n> ''"),
            "the check of the attribute a: expected SQL on one line",
        ),
        (
            lambda: Attribute(name="a", type="text", nullable="no"),
            "nullable of the attribute a: expected True or False, got",
        ),  # type: ignore[arg-type]
        # References.
        (
            lambda: Reference(column="a", to=USER),
            "the reference a: to= takes a Target or the name of a declared concept, not",
        ),  # type: ignore[arg-type]
        (
            lambda: Reference(column="a", labels={"b": "c"}),
            "the reference a has labels and nothing to take them from; give to=, or leave the labels out",
        ),
        (
            lambda: Reference(column="a", reads={"b": "integer"}),
            "the reference a has reads and nothing to take them from; give to=, or leave the reads out",
        ),
        (lambda: Reference(column="a", to="user", reads=["name"]), "reads: expected a mapping of columns to types"),  # type: ignore[list-item]
        (
            lambda: Reference(column="a", to="user", reads={"b": ""}),
            "the type of the column b that the reference a reads",
        ),
        (lambda: Reference(column="a", to="user", labels=["name"]), "labels: expected a mapping of names to columns"),  # type: ignore[list-item]
        (
            lambda: Reference(column="a", to="user", labels={"id": "name"}),
            "a label of the reference a 'id' is reserved",
        ),
        (
            lambda: Reference(column="a", to="user", labels={"b": ""}),
            "the column behind the label b of the reference a is empty",
        ),
        # Indexes.
        (lambda: LiveIndex(columns=[]), "a LiveIndex has no columns; name at least one reference or attribute"),
        (lambda: LiveIndex(columns="title"), "the columns of a LiveIndex: expected a list of str, got str"),
        (lambda: LiveIndex(columns=["a", 1]), "the columns of a LiveIndex: expected str in the list, got int"),  # type: ignore[list-item]
        (lambda: LiveIndex(columns=["a", "a"]), "a LiveIndex names a column twice: a, a; name each once"),
        (lambda: LiveIndex(columns=["a"], unique=1), "unique of the LiveIndex on a: expected True or False, got int"),  # type: ignore[arg-type]
        # Together.
        (lambda: concept(attributes=TITLE), "attributes: expected a list of Attribute, got Attribute"),
        (lambda: concept(references=[TITLE]), "references: expected Reference in the list, got Attribute"),
        (lambda: concept(indexes=["title"]), "indexes: expected LiveIndex in the list, got str"),
        (lambda: concept(attributes=[TITLE, TITLE]), "the concept note has two columns named title; rename one"),
        (
            lambda: concept(references=[Reference(column="title")], attributes=[TITLE]),
            "the concept note has two columns named title; rename one",
        ),
        (
            lambda: concept(
                references=[Reference(column="user_id", to="user", labels={"title": "name"})], attributes=[TITLE]
            ),
            "the resolved view of the concept note would have two columns named title; rename the label of user_id, or",
        ),
        (
            lambda: concept(
                references=[Reference(column="a", to="user")], attributes=[Attribute(name="a_dangling", type="text")]
            ),
            "the resolved view of the concept note would have two columns named a_dangling; rename the label of a, or",
        ),
        (
            lambda: concept(indexes=[LiveIndex(columns=["id"])], attributes=[TITLE]),
            "an index of the concept note is on 'id', which is none of its references and attributes; it has title",
        ),
        (
            lambda: concept(indexes=[LiveIndex(columns=["a"])]),
            "an index of the concept note is on 'a', which is none of",
        ),
        (
            lambda: concept(attributes=[TITLE], indexes=[LiveIndex(columns=["title"])] * 2),
            "the concept note has the index on title twice; drop one",
        ),
        # Several.
        (lambda: linked(USER, USER), "two concepts are named user; rename one"),
        (
            lambda: linked(USER, concept(table="public.users_resolved")),
            "the concepts user and note would both make public.users_resolved; give one of them another table",
        ),
        (
            lambda: up_sql(concept(references=[Reference(column="user_id", to="user")])),
            (
                "the reference user_id of the concept note is to the unknown concept 'user'; declare that and pass it "
                "too, or name a table with Target (known here: note)"
            ),
        ),
        (
            lambda: linked(USER, concept(references=[Reference(column="user_id", to="user", type="integer")])),
            "the reference user_id of the concept note is of type integer, and the key of a concept is a uuid; declare it",
        ),
        (
            lambda: linked(USER, concept(references=[Reference(column="u", to="user", labels={"nick": "nick"})])),
            (
                "the reference u of the concept note takes the label nick from 'nick', which is no column of the "
                "concept user; it has id, created_by_action_id, updated_by_action_id, created_at, updated_at, deleted_at"
            ),
        ),
        (
            lambda: concept(references=[Reference(column="user_id", to="user")]).references[0].target,
            "the reference user_id is to the concept 'user'; pass both concepts, or link them with linked()",
        ),
    ],
)
def test_a_declaration_that_cannot_be(make: Any, said: str) -> None:
    """At once, in one sentence that names the thing and the remedy; a ValueError."""
    with pytest.raises(InvalidConcept) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_filled_in() -> None:
    """The table is named after the concept; text around SQL goes; names are quoted where they must be."""
    assert "public.notes" == concept().table
    assert 'public."Odd things"' == Concept(name="Odd thing").table
    assert 'public."Plain"' == Target(table='"public"."Plain"').table
    assert 'public."a""."' == Target(table='public."a""."').table
    spaced = Attribute(name="a", type=" text ", default=" 'x' ", check=" a > '' ")
    assert Attribute(name="a", type="text", default="'x'", check="a > ''") == spaced


def test_declarations_are_values() -> None:
    """Equal when they say the same, usable as keys, and not to be changed."""
    one, other = concept(attributes=[TITLE]), concept(attributes=(attrs.evolve(TITLE),))
    assert {one} == {other}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


def test_linking_twice_changes_nothing() -> None:
    """What is linked may be passed alone from then on."""
    together = linked(USER, concept(references=[Reference(column="user_id", to="user", labels={"by": "name"})]))
    assert together == linked(*together)
    assert Target(table="public.users") == together[1].references[0].target
    assert up_sql(together[1])


# --- Expressions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "whole",
    [
        "'--'",
        "'it''s /* not */ a comment; or two, really'",
        r"E'a\';\\'",
        "$$;$$",
        "$q$ ); -- $q$",
        '"a;b" > 0',
        "f(a, b)",
        "ARRAY[1, 2]",
        "CASE WHEN (a)[1] > 0 THEN 'x' ELSE 'y' END",
        "a - -1",
    ],
)
def test_one_whole_expression(whole: str) -> None:
    """What looks like more stands in a literal, in quotes or in brackets."""
    assert None is expressions.flaw(whole)
    assert whole == Attribute(name="a", type="text", check=whole).check


@pytest.mark.parametrize(
    ("more", "flaw"),
    [
        ("true); DROP TABLE users; SELECT (1", "a bracket that was never opened"),
        ("true; DROP TABLE users", "a semicolon"),
        ("(a > 0", "a bracket that is never closed"),
        ("a > 0)", "a bracket that was never opened"),
        ("(a > 0]", "a bracket that was never opened"),
        ("a > 'x", "a quote that is never closed"),
        (r"E'a\'", "a quote that is never closed"),
        ('"a > 0', "a quote that is never closed"),
        ("$q$ a", "a quote that is never closed"),
        ("0, b int", "a comma outside brackets"),
        ("'a' -- b", "a comment"),
        ("a /* b */", "a comment"),
    ],
)
def test_more_or_less_than_one_expression(more: str, flaw: str) -> None:
    """Defaults, checks and computed columns stand where anything might follow, so they are refused."""
    for make in (
        lambda: Attribute(name="a", type="text", default=more),
        lambda: Attribute(name="a", type="text", check=more),
        lambda: Computed(name="a", sql=more),
    ):
        with pytest.raises(InvalidConcept, match=f"expected one whole piece of SQL, and it has {flaw}; write that"):
            make()


def test_the_names_in_an_expression() -> None:
    """As Postgres knows them; what is in literals is none."""
    sql = """BODY <> 'title' AND "Größe" > E'\\'x' OR f("a""b", Ü$1) /* x */ > $$ z $$"""
    assert {"body", "and", "Größe", "or", "f", 'a"b', "Ü$1", "x"} == expressions.names(sql)


# --- Names -----------------------------------------------------------------------------------------------------------

_columns = st.lists(st.text("ab_", min_size=1, max_size=3), min_size=1, max_size=4).map(tuple)


@given(_columns, _columns)
@settings(unhurried, max_examples=1_000)
def test_two_lists_of_columns_have_two_names(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Wherever one column ends and the next one begins."""
    names = {naming.index_name("t", columns, "_live") for columns in (one, other)}
    assert len({one, other}) == len(names)


@given(st.text(min_size=1, max_size=80), st.sampled_from(["", "_live", "_resolved"]))
@settings(unhurried)
def test_a_derived_name_fits(name: str, suffix: str) -> None:
    """In bytes; it ends in what it is, and is what it was where it fits."""
    name = name.encode(errors="ignore").decode()
    derived = naming.fitted(name, suffix)
    assert len(derived.encode()) <= naming.LONGEST
    assert derived.endswith(suffix)
    assert (derived == name + suffix) == (len((name + suffix).encode()) <= naming.LONGEST)


def test_long_names_that_begin_alike_stay_different() -> None:
    """By a hash of the whole."""
    one, other = naming.fitted("x" * 70, "_live"), naming.fitted("x" * 71, "_live")
    assert ("x" * 49, "x" * 49) == (one[:49], other[:49])
    assert one != other
    assert one == naming.fitted("x" * 70, "_live")


# --- Types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("varchar(10)", "character varying( 20 )", True),
        ("varchar(10)", "varchar", True),
        ("varchar(10)", "text", True),
        ("varchar", "text", True),
        ("varchar(20)", "varchar(10)", False),
        ("text", "varchar(10)", False),
        ("char(3)", "text", False),
        ("smallint", "int", True),
        ("int4", "bigint", True),
        ("int2", "INT8", True),
        ("bigint", "integer", False),
        ("integer", "numeric", False),
        ("numeric(8, 2)", "numeric(10,2)", True),
        ("numeric(8)", "decimal(10, 0)", True),
        ("numeric(8,2)", "numeric", True),
        ("numeric(8,2)", "numeric(10,3)", False),
        ("numeric", "numeric(10,2)", False),
        ("numeric(10,2)", "numeric(8,2)", False),
        ("text[]", "varchar[]", False),
        ("text", "public.citext", False),
        ("text", "jsonb", False),
    ],
)
def test_which_types_hold_all_values_of_another(old: str, new: str, expected: bool) -> None:
    """Only what is known to keep every value as it is."""
    assert expected is column_types.widens(old, new)


def test_types_that_are_the_same() -> None:
    """In whatever spelling; of other types, in the same one."""
    assert column_types.same("INTEGER", "int4")
    assert column_types.same("timestamp  with time zone", "timestamptz")
    assert column_types.same('public."Mood"', 'public."Mood"')
    assert not column_types.same("public.mood", "public.Mood")
    assert not column_types.same("varchar(10)", "varchar(11)")
    assert column_types.same("pg_catalog.int4", "int")
    assert column_types.same("timestamp( 3 ) with time zone", "timestamptz(3)")
    assert column_types.is_json("pg_catalog.jsonb")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("integer", 'pg_catalog."int4"'),
        ("pg_catalog.varchar( 9 )", 'pg_catalog."varchar"'),
        # Without a length, these names mean the length 1.
        ("char(3)", 'pg_catalog."bpchar"'),
        ("bit(3)", 'pg_catalog."bit"'),
        ("float(24)", 'pg_catalog."float4"'),
        ("float(25)", 'pg_catalog."float8"'),
        ("interval day to second(3)", 'pg_catalog."interval"'),
        ("timestamp(3) with time zone", 'pg_catalog."timestamptz"'),
        ("numeric(10,2)[3][]", 'pg_catalog."numeric"[]'),
        ("nchar(3)", 'pg_catalog."bpchar"'),
        ("national character(3)", None),
        ("public.mood", None),
        ('"Mood"', None),
    ],
)
def test_a_cast_that_cuts_nothing_off(written: str, expected: str | None) -> None:
    """To the built-in type, whatever the search_path is; nothing is known of others."""
    assert expected == column_types.bare(written)


def test_which_widenings_write_the_table_anew() -> None:
    """Integers of another size do; longer text does not."""
    assert column_types.rewrites("int", "bigint")
    assert not column_types.rewrites("int", "integer")
    assert not column_types.rewrites("varchar(1)", "text")
    assert not column_types.rewrites("text[]", "text[][]")


# --- The declaration as a comment ------------------------------------------------------------------------------------

NOTE = concept(
    references=[
        Reference(column="user_id", to="user", labels={"by": "name"}),
        Reference(column="place", to=Target(table='geo."Places"', key="code"), type="text", nullable=True),
        Reference(column="ticket"),
    ],
    attributes=[TITLE, Attribute(name="n", type="int", nullable=True, default="0", check="n >= 0 AND 'é' <> '\\'")],
    indexes=[LiveIndex(columns=["title", "n"], unique=True)],
)


@pytest.mark.parametrize("declared", [NOTE, concept(), linked(USER, NOTE)[1]])
def test_a_declaration_is_read_back_as_it_was_written(declared: Concept) -> None:
    """A line for each part, so that a difference shows which."""
    text = declaration.written(declared)
    assert declared == declaration.read(text, "public.notes")
    parts = len(declared.references) + len(declared.attributes) + len(declared.indexes)
    assert parts == sum(line.startswith("  {") for line in text.splitlines())


@pytest.mark.parametrize("comment", [None, "", "Notes of users."])
def test_other_comments_are_no_declaration(comment: str | None) -> None:
    """The table is somebody else's."""
    assert None is declaration.read(comment, "public.notes")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", "["),
        ('"name": "note"', '"name": 7'),
        ('"type": "text"', '"kind": "text"'),
        ('"name": "note",', ""),
        ("}]}", "}], "),
        ('"column": "ticket"', '"column": "id"'),
        ('"default": "0"', '"default": "0; ALTER ROLE me SUPERUSER"'),
        ('"default": "0"', '"default": "0), evil int, CHECK (true"'),
        ("n >= 0", "true); ALTER ROLE me SUPERUSER; SELECT (1"),
    ],
)
def test_a_declaration_that_was_tampered_with(old: str, new: str) -> None:
    """It is named, and nothing is guessed."""
    text = declaration.written(NOTE).replace(old, new, 1)
    with pytest.raises(ConceptRefused, match=r"^the declaration in the comment of public\.notes cannot be read \("):
        declaration.read(text, "public.notes")


# --- Changes that are refused ----------------------------------------------------------------------------------------

LINKED = linked(USER, NOTE)[1]


def attributes(*others: Attribute, without: str = "") -> list[Attribute]:
    return [*(a for a in LINKED.attributes if a.name != without), *others]


@pytest.mark.parametrize(
    ("changed", "drop", "said"),
    [
        (
            {"name": "memo"},
            False,
            (
                "the table public.notes holds the concept note, and renaming it to memo would part its rows from "
                "their history; keep the name, or declare the new concept on a table of its own"
            ),
        ),
        (
            {"table": "public.memos"},
            False,
            "the concept note is in public.notes, and a declaration does not move it to public.memos; keep the table, or",
        ),
        (
            {"attributes": attributes(Attribute(name="title", type="varchar(9)"), without="title")},
            True,
            "the column title is text, and not every value of it is known to stay what it is as varchar(9); add a column",
        ),
        (
            {"attributes": attributes(Attribute(name="body", type="text"))},
            True,
            "the column body is new and not null, and rows that are there would have no value for it; make it nullable, or",
        ),
        (
            {"references": [*LINKED.references, Reference(column="other_id")]},
            True,
            "the column other_id is new and not null, and rows that are there would have no value for it; make it nullable",
        ),
        (
            {"attributes": attributes(without="n"), "indexes": []},
            False,
            "dropping the column n would lose what is in it; allow it with drop_columns=True, or --drop-columns",
        ),
        (
            {
                "attributes": attributes(Attribute(name="count", type="int", nullable=True), without="n"),
                "indexes": [],
            },
            False,
            (
                "dropping the column n would lose what is in it (if it is to be renamed to count: keep both, and copy "
                "the values first); allow it with drop_columns=True, or --drop-columns"
            ),
        ),
        (
            {"attributes": attributes(without="title"), "indexes": []},
            True,
            (
                "the column title is not null, so code that is running still has to write it, and dropping it could not "
                "be taken back; make it nullable first, and drop it with the next change"
            ),
        ),
        (
            {"attributes": [Attribute(name="title", type="text", check="n > 0 OR title > ''")], "indexes": []},
            True,
            "the check of title names the column n, and would be dropped with it; change the check too",
        ),
        *(
            (
                {"attributes": [Attribute(name="title", type="text", check=check)], "indexes": []},
                True,
                "the check of title names the column n, and would be dropped with it; change the check too",
            )
            for check in ("N > 0", '"n" > 0', "title > 'n' OR(N)>0")
        ),
    ],
)
def test_a_change_that_would_lose_or_guess(changed: dict[str, Any], drop: bool, said: str) -> None:
    """One sentence with the reason and what to do instead."""
    with pytest.raises(ConceptRefused) as caught:
        changes(LINKED, attrs.evolve(LINKED, **changed), drop_columns=drop)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_word_in_a_literal_is_no_column() -> None:
    """The check stays, and nothing stands in the way."""
    kept = Attribute(name="title", type="text", check="title <> 'n'")
    old = attrs.evolve(LINKED, attributes=attributes(kept, without="title"), indexes=[])
    assert "DROP COLUMN n;" in changes(old, attrs.evolve(old, attributes=[kept]), drop_columns=True).up
