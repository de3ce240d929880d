"""Declared concepts as SQL: what it makes, that it takes back exactly that, and how it follows a changed declaration."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, LiteralString

import attrs
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import conninfo, sql

from provenance import schema
from provenance.concepts import (
    Attribute,
    Concept,
    ConceptRefused,
    LiveIndex,
    Reference,
    Target,
    changes,
    down_sql,
    linked,
    up_sql,
)
from provenance.concepts.ddl import qualified
from provenance.concepts.naming import KEYWORDS, LONGEST, literal, quoted
from tests.strategies import unhurried

Connection = psycopg.Connection[Any]
Catalogue = dict[str, list[Any]]

ACT = "SELECT provenance.record_action('test', 'work')"

# Every definition that there is outside the system's own schemas, by name: order of columns and identity of objects aside.
_CATALOGUE: dict[str, LiteralString] = {
    "schemas": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_'",
    "relations": """
        SELECT c.oid::regclass::text, c.relkind, c.relpersistence, c.relacl::text, c.reloptions::text, c.relispopulated,
               c.relreplident, c.relhastriggers, obj_description(c.oid, 'pg_class'),
               CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
          FROM pg_class c WHERE c.relnamespace = ANY (%(ours)s)""",
    "columns": """
        SELECT a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl::text,
               a.attstorage, a.attcollation::regcollation::text, pg_get_expr(d.adbin, d.adrelid),
               col_description(c.oid, a.attnum)
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = ANY (%(ours)s) AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraints": """
        SELECT k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid), k.convalidated
          FROM pg_constraint k WHERE k.connamespace = ANY (%(ours)s)""",
    "indexes": """
        SELECT pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisunique, x.indisprimary
          FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE c.relnamespace = ANY (%(ours)s)""",
    "triggers": """
        SELECT pg_get_triggerdef(t.oid), t.tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = ANY (%(ours)s)""",
    "functions": """
        SELECT pg_get_functiondef(p.oid), p.proacl::text, obj_description(p.oid, 'pg_proc')
          FROM pg_proc p WHERE p.pronamespace = ANY (%(ours)s)""",
    "types": """
        SELECT t.oid::regtype::text, t.typtype, t.typcategory FROM pg_type t WHERE t.typnamespace = ANY (%(ours)s)""",
    "dependencies": """
        SELECT pg_describe_object(d.classid, d.objid, 0), pg_describe_object(d.refclassid, d.refobjid, 0), d.deptype::text
          FROM pg_depend d
         WHERE (d.classid, d.objid) IN (SELECT 'pg_class'::regclass, c.oid FROM pg_class c
                                         WHERE c.relnamespace = ANY (%(ours)s) AND c.relkind <> 'm')
           AND d.refclassid <> 'pg_namespace'::regclass AND d.objsubid = 0""",
}


def catalogue(connection: Connection) -> Catalogue:
    """Return every definition in the database, to be compared."""
    [(ours,)] = connection.execute(
        "SELECT array_agg(oid) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ).fetchall()
    return {
        kind: sorted(connection.execute(query, {"ours": ours}).fetchall(), key=repr)
        for kind, query in _CATALOGUE.items()
    }


@pytest.fixture(scope="module")
def connected(provenance_server: str, provenance_template: str) -> Iterator[Connection]:
    """Yield a connection to a database that the tests of this module share."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        with psycopg.connect(conninfo.make_conninfo(provenance_server, dbname=name), autocommit=True) as opened:
            opened.execute(
                """CREATE TABLE public.publishers (id integer PRIMARY KEY, name text NOT NULL, "Language" text);
                   CREATE SCHEMA "Other";
                   CREATE TABLE "Other"."Select" ("Key" uuid PRIMARY KEY, "order" text)"""
            )
            yield opened
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connection(connected: Connection) -> Iterator[Connection]:
    """Yield it in a transaction that will be rolled back."""
    with connected.transaction(force_rollback=True):
        yield connected


def run(connection: Connection, text: str) -> None:
    connection.execute(text.encode())


def one(connection: Connection, query: LiteralString, *params: object) -> Any:
    """Return the only value of the only row."""
    [(value,)] = connection.execute(query, params).fetchall()
    return value


USER = Concept(name="user", attributes=[Attribute(name="name", type="text")])
NOTE = Concept(
    name="note",
    references=[
        Reference(column="user_id", to="user", labels={"user_name": "name"}),
        Reference(
            column="publisher_id",
            type="integer",
            to=Target(table="public.publishers"),
            labels={"publisher": "name", "language": "Language"},
            nullable=True,
        ),
        Reference(column="ticket", nullable=True),
    ],
    attributes=[
        Attribute(name="title", type="varchar(200)", check="title <> ''"),
        Attribute(name="body", type="jsonb", nullable=True),
        Attribute(name="status", type="text", default="'new'"),
    ],
    indexes=[LiveIndex(columns=["user_id"]), LiveIndex(columns=["publisher_id", "title"], unique=True)],
)


def test_the_keywords_are_those_of_the_server(connection: Connection) -> None:
    """Whatever this server quotes is quoted here; other versions may have more."""
    rows = connection.execute("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'").fetchall()
    assert {word for (word,) in rows} - KEYWORDS == set()


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12))
@example("plain")
@example("Mixed")
@example("order")
@example('a"b')
@example("1st")
@example("é")
@settings(unhurried, max_examples=200)
def test_quoting_is_that_of_the_server(connected: Connection, name: str) -> None:
    """A quoted name is read back as that name, and a literal as that text."""
    run(connected, f"SELECT 1 AS {quoted(name[:10])}")
    assert name[:10] == connected.execute(f"SELECT 1 AS {quoted(name[:10])}".encode()).description[0].name  # type: ignore[index]
    for conforming in ("on", "off"):
        run(connected, f"SET standard_conforming_strings = {conforming}; SET escape_string_warning = off")
        assert [(name,)] == connected.execute(f"SELECT {literal(name)}".encode()).fetchall()
    run(connected, "RESET standard_conforming_strings; RESET escape_string_warning")


def test_down_takes_back_exactly_what_up_made(connection: Connection) -> None:
    """The whole catalogue is compared, before and after."""
    before = catalogue(connection)
    run(connection, up_sql(USER, NOTE))
    assert before != catalogue(connection)
    run(connection, down_sql(USER, NOTE))
    assert before == catalogue(connection)


def test_what_is_made_is_what_was_declared(connection: Connection) -> None:
    """Columns, types, nullability and defaults of the table; the columns of the view."""
    run(connection, up_sql(USER, NOTE))
    rows = connection.execute(
        """SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
            WHERE attrelid = 'public.notes'::regclass AND attnum > 0 ORDER BY attnum"""
    ).fetchall()
    assert rows == [
        ("id", "uuid", True),
        ("user_id", "uuid", True),
        ("publisher_id", "integer", False),
        ("ticket", "uuid", False),
        ("title", "character varying(200)", True),
        ("body", "jsonb", False),
        ("status", "text", True),
        ("created_by_action_id", "uuid", True),
        ("updated_by_action_id", "uuid", True),
        ("created_at", "timestamp with time zone", True),
        ("updated_at", "timestamp with time zone", True),
        ("deleted_at", "timestamp with time zone", False),
    ]
    assert [] == connection.execute("SELECT FROM pg_constraint WHERE contype = 'f'").fetchall()
    view = connection.execute("SELECT * FROM public.notes_resolved").description
    assert view is not None
    assert [column.name for column in view] == [
        *("id", "user_id", "publisher_id", "ticket", "title", "body", "status"),
        *("created_by_action_id", "updated_by_action_id", "created_at", "updated_at"),
        *("user_name", "user_id_dangling", "publisher", "language", "publisher_id_dangling"),
    ]


def test_a_row_is_stamped_whoever_writes_it(connection: Connection) -> None:
    """Plain SQL too: the actions, the times, and a key whose version says that it carries the time."""
    run(connection, up_sql(USER))
    made_by = one(connection, ACT)
    row_id = one(connection, "INSERT INTO public.users (name) VALUES ('ada') RETURNING id")
    made = connection.execute("SELECT created_at, updated_at FROM public.users").fetchone()
    changed_by = one(connection, ACT)
    connection.execute(
        "UPDATE public.users SET name = 'eve', created_at = 'epoch', created_by_action_id = %s", (row_id,)
    )
    assert 7 == row_id.version
    changed = connection.execute(
        "SELECT created_by_action_id, updated_by_action_id, created_at, updated_at > created_at FROM public.users"
    ).fetchone()
    assert made is not None
    assert (made_by, changed_by, made[0], True) == changed


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO public.users (name) VALUES ('ada')",
        "UPDATE public.users SET name = 'eve'",
        "DELETE FROM public.users",
        "TRUNCATE public.users",
    ],
)
def test_a_write_outside_any_action_is_refused(connection: Connection, write: LiteralString) -> None:
    """Also one that would touch no row."""
    run(connection, up_sql(USER))
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match=r"of public\.users refused: no action is current"
    ):
        connection.execute(write)


def test_a_natural_key_is_free_again_once_its_row_is_deleted(connection: Connection) -> None:
    """Unique among live rows; null counts as a value there."""
    run(connection, up_sql(USER, NOTE))
    connection.execute(ACT)
    insert: LiteralString = "INSERT INTO public.notes (user_id, title) VALUES (gen_random_uuid(), 'a')"
    connection.execute(insert)
    with pytest.raises(psycopg.errors.UniqueViolation, match="notes_publisher_id__title_key"), connection.transaction():
        connection.execute(insert)
    connection.execute("UPDATE public.notes SET deleted_at = now()")
    connection.execute(insert)
    assert 2 == one(connection, "SELECT count(*) FROM public.notes")


def test_the_view_shows_labels_and_tells_of_dangling_references(connection: Connection) -> None:
    """A reference to nothing is not the same as none; deleted rows are not there."""
    run(connection, up_sql(USER, NOTE))
    connection.execute(ACT)
    connection.execute("INSERT INTO public.publishers VALUES (1, 'Har Nof', 'he')")
    user = one(connection, "INSERT INTO public.users (name) VALUES ('ada') RETURNING id")
    insert: LiteralString = "INSERT INTO public.notes (user_id, publisher_id, title) VALUES (%s, %s, %s)"
    connection.execute(insert, (user, 1, "whole"))
    connection.execute(insert, (user, 2, "dangling"))
    connection.execute(insert, (user, None, "without"))
    connection.execute(insert, (user, 1, "deleted"))
    connection.execute("UPDATE public.notes SET deleted_at = now() WHERE title = 'deleted'")
    connection.execute("SELECT public.refresh_notes_resolved()")
    shown = connection.execute(
        """SELECT title, user_name, user_id_dangling, publisher, language, publisher_id_dangling
             FROM public.notes_resolved ORDER BY id"""
    ).fetchall()
    assert [
        ("whole", "ada", False, "Har Nof", "he", False),
        ("dangling", "ada", False, None, None, True),
        ("without", "ada", False, None, None, False),
    ] == sorted(shown, key=lambda row: ["whole", "dangling", "without"].index(row[0]))


def test_a_writer_of_the_trail_needs_no_more_than_rights_on_the_table(connection: Connection) -> None:
    """An application role inserts, updates, lists and refreshes; it cannot refresh unless it is let."""
    run(connection, up_sql(USER))
    role = f"app_{secrets.token_hex(6)}"
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    connection.execute("SELECT provenance.grant_writer(%s)", (role,))
    for grant in ("SELECT, INSERT, UPDATE ON public.users", "SELECT ON public.users_resolved"):
        run(connection, f"GRANT {grant} TO {role}")
    run(connection, f"SET LOCAL ROLE {role}")
    connection.execute(ACT)
    connection.execute("INSERT INTO public.users (name) VALUES ('ada')")
    connection.execute("UPDATE public.users SET name = 'eve'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refresh_users_resolved"), connection.transaction():
        connection.execute("SELECT public.refresh_users_resolved()")
    run(
        connection,
        f"RESET ROLE; GRANT EXECUTE ON FUNCTION public.refresh_users_resolved() TO {role}; SET LOCAL ROLE {role}",
    )
    assert True is one(connection, "SELECT public.refresh_users_resolved()")
    assert "eve" == one(connection, "SELECT name FROM public.users_resolved")
    run(connection, "RESET ROLE")


def test_a_hostile_search_path_changes_nothing(connection: Connection) -> None:
    """Tables, types, functions and operators of the same names come first in the path, and are not taken; the path stays."""
    run(connection, up_sql(USER, NOTE))
    expected = catalogue(connection)
    run(connection, down_sql(USER, NOTE))
    run(
        connection,
        """CREATE SCHEMA evil;
           CREATE DOMAIN evil.uuid AS text; CREATE DOMAIN evil.timestamptz AS text; CREATE DOMAIN evil.integer AS text;
           CREATE FUNCTION evil.clock_timestamp() RETURNS text RETURN 'never';
           CREATE FUNCTION evil.equal(uuid, uuid) RETURNS boolean RETURN true;
           CREATE OPERATOR evil.= (FUNCTION = evil.equal, LEFTARG = uuid, RIGHTARG = uuid);
           CREATE TABLE evil.publishers (id pg_catalog.int4);
           CREATE TEMPORARY TABLE users (id text);
           CREATE TEMPORARY TABLE publishers (id text);
           SET LOCAL search_path = evil, pg_temp, pg_catalog;""",
    )
    run(connection, up_sql(USER, NOTE))
    assert "evil, pg_temp, pg_catalog" == one(connection, "SHOW search_path")
    run(
        connection,
        "SET LOCAL search_path = DEFAULT; DROP SCHEMA evil CASCADE; DROP TABLE pg_temp.users, pg_temp.publishers",
    )
    assert expected == catalogue(connection)


def test_names_that_need_quotes(connection: Connection) -> None:
    """Mixed case, reserved words, quotes, dots and long names, everywhere a name may stand."""
    awkward = Concept(
        name="Odd Thing",
        table='"Other"."odd "".thing"',
        references=[
            Reference(column="select", to=Target(table='"Other"."Select"', key="Key"), labels={"Order": "order"}),
            Reference(
                column="Publisher", type="integer", to=Target(table="public.publishers"), labels={"user": "name"}
            ),
        ],
        attributes=[Attribute(name="Wer'da", type="text", default=r"'\'", check="\"Wer'da\" <> ''")],
        indexes=[LiveIndex(columns=["select", "Wer'da"]), LiveIndex(columns=["Wer'da"], unique=True)],
    )
    before = catalogue(connection)
    run(connection, up_sql(awkward))
    connection.execute(ACT)
    connection.execute("""INSERT INTO "Other"."odd "".thing" ("select", "Publisher") VALUES (gen_random_uuid(), 1)""")
    connection.execute("""SELECT "Other"."refresh_odd "".thing_resolved"()""")
    assert [("\\", None, True)] == connection.execute(
        """SELECT "Wer'da", "Order", select_dangling FROM "Other"."odd "".thing_resolved" """
    ).fetchall()
    run(connection, down_sql(awkward))
    assert before == catalogue(connection)


def test_long_names_are_cut_by_us_and_not_by_the_server(connection: Connection) -> None:
    """Every derived name fits, and two that begin alike stay different."""
    long = "é" * 31
    first, second = (
        Concept(
            name=f"long{number}",
            table=f'public."{long}{number}"',
            references=[Reference(column=long, to="long1")],
            attributes=[Attribute(name=f"a{long}", type="text", check="true"), Attribute(name="b" * 63, type="text")],
            indexes=[LiveIndex(columns=[long]), LiveIndex(columns=[long, f"a{long}"]), LiveIndex(columns=["b" * 63])],
        )
        for number in (1, 2)
    )
    before = catalogue(connection)
    with connection.cursor() as cursor:
        notices: list[str | None] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        cursor.execute(up_sql(first, second).encode())
    assert [] == notices
    assert LONGEST == max(len(name.encode()) for name in (*first.relations(), *second.relations()))
    names = connection.execute("SELECT view_name, is_resolved FROM provenance.resolved_views()").fetchall()
    assert {(qualified(concept.resolved), True) for concept in (first, second)} == set(names)
    run(connection, down_sql(first, second))
    assert before == catalogue(connection)


def test_concepts_may_refer_to_each_other_and_to_themselves(connection: Connection) -> None:
    """Tables are made before any view."""
    egg = Concept(name="egg", references=[Reference(column="hen_id", to="hen")])
    hen = Concept(
        name="hen", references=[Reference(column="egg_id", to="egg"), Reference(column="mother_id", to="hen")]
    )
    before = catalogue(connection)
    run(connection, up_sql(egg, hen))
    assert 1 == one(connection, "SELECT count(*) FROM pg_matviews WHERE matviewname = 'hens_resolved'")
    run(connection, down_sql(egg, hen))
    assert before == catalogue(connection)


def test_the_same_declaration_gives_the_same_text() -> None:
    """To the letter: a migration that is generated again shows no difference."""
    again = attrs.evolve(NOTE, attributes=list(NOTE.attributes))
    assert up_sql(USER, NOTE) == up_sql(USER, again)


# --- Changes ---------------------------------------------------------------------------------------------------------

LINKED = linked(USER, NOTE)[1]


def _without(name: str) -> tuple[Attribute, ...]:
    return tuple(attribute for attribute in NOTE.attributes if attribute.name != name)


def _with(name: str, **changed: Any) -> list[Attribute]:
    return [attrs.evolve(a, **changed) if a.name == name else a for a in NOTE.attributes]


CHANGED: dict[str, Concept] = {
    "attribute added": attrs.evolve(
        LINKED,
        attributes=[
            Attribute(name="sent_at", type="timestamptz", nullable=True, check="sent_at > 'epoch'"),
            *NOTE.attributes,
        ],
    ),
    "attribute with default added": attrs.evolve(
        LINKED, attributes=[*NOTE.attributes, Attribute(name="tries", type="int", default="0")]
    ),
    "attributes dropped": attrs.evolve(LINKED, attributes=_without("body")[:1]),
    "reference added": attrs.evolve(
        LINKED,
        references=[
            *LINKED.references,
            Reference(
                column="other_id",
                nullable=True,
                to=Target(table='"Other"."Select"', key="Key"),
                labels={"other": "order"},
            ),
        ],
    ),
    "references dropped": attrs.evolve(LINKED, references=LINKED.references[:1], indexes=[]),
    "reference resolved": attrs.evolve(
        LINKED,
        references=[
            *LINKED.references[:2],
            Reference(column="ticket", nullable=True, to=Target(table='"Other"."Select"', key="Key")),
        ],
    ),
    "reference made an attribute": attrs.evolve(
        LINKED,
        references=LINKED.references[:2],
        attributes=[
            *NOTE.attributes,
            Attribute(name="ticket", type="uuid", nullable=True, default="gen_random_uuid()"),
        ],
    ),
    "labels changed": attrs.evolve(
        LINKED,
        references=[attrs.evolve(LINKED.references[0], labels={"user": "name", "since": "created_at"})],
        indexes=[],
    ),
    "default changed": attrs.evolve(LINKED, attributes=_with("status", default="'fresh'")),
    "default dropped": attrs.evolve(LINKED, attributes=_with("status", default=None)),
    "check changed": attrs.evolve(LINKED, attributes=_with("title", check="length(title) > 1")),
    "check added": attrs.evolve(LINKED, attributes=_with("status", check="status IN ('new', 'old')")),
    "check dropped": attrs.evolve(LINKED, attributes=_with("title", check=None)),
    "made nullable": attrs.evolve(LINKED, attributes=_with("status", nullable=True)),
    "made not null": attrs.evolve(LINKED, attributes=_with("body", nullable=False)),
    "key may be null": attrs.evolve(LINKED, attributes=_with("title", nullable=True)),
    "varchar longer": attrs.evolve(LINKED, attributes=_with("title", type="character varying(300)")),
    "varchar made text": attrs.evolve(LINKED, attributes=_with("title", type="text")),
    "integer made bigint": attrs.evolve(
        LINKED,
        references=[LINKED.references[0], attrs.evolve(LINKED.references[1], type="int8"), *LINKED.references[2:]],
    ),
    "index added": attrs.evolve(LINKED, indexes=[*NOTE.indexes, LiveIndex(columns=["status", "title"])]),
    "index dropped": attrs.evolve(LINKED, indexes=NOTE.indexes[1:]),
    "index made unique": attrs.evolve(LINKED, indexes=[LiveIndex(columns=["user_id"], unique=True), NOTE.indexes[1]]),
    "order changed": attrs.evolve(LINKED, attributes=list(reversed(NOTE.attributes))),
    "type spelled otherwise": attrs.evolve(LINKED, attributes=_with("title", type="character  varying( 200 )")),
}


@pytest.mark.parametrize("new", CHANGED.values(), ids=CHANGED)
def test_a_change_makes_what_the_new_declaration_would_have_made(connection: Connection, new: Concept) -> None:
    """On a table with a row in it; and its down makes the old one again."""
    run(connection, up_sql(USER, new))
    expected = catalogue(connection)
    run(connection, down_sql(USER, new))
    run(connection, up_sql(USER, NOTE))
    connection.execute(ACT)
    connection.execute("INSERT INTO public.notes (user_id, title, body) VALUES (gen_random_uuid(), 'abc', '{}')")
    before = catalogue(connection)
    script = changes(LINKED, new, drop_columns=True)
    run(connection, script.up)
    assert expected == catalogue(connection)
    run(connection, script.down)
    assert before == catalogue(connection)
    assert 1 == one(connection, "SELECT count(*) FROM public.notes")


def test_a_default_and_a_check_are_those_of_the_new_type(connection: Connection) -> None:
    """Postgres keeps them with casts to the old one; what is declared is said anew, there and back."""
    was = Attribute(name="state", type="varchar(20)", default="'new'", check="state IN ('new', 'old')")
    (old,) = linked(Concept(name="thing", attributes=[was]))
    (new,) = linked(Concept(name="thing", attributes=[attrs.evolve(was, type="text")]))
    run(connection, up_sql(new))
    expected = catalogue(connection)
    run(connection, down_sql(new))
    run(connection, up_sql(old))
    before = catalogue(connection)
    script = changes(old, new)
    run(connection, script.up)
    assert expected == catalogue(connection)
    run(connection, script.down)
    assert before == catalogue(connection)


def test_no_change_is_no_sql() -> None:
    """Nothing to review, nothing to run."""
    script = changes(LINKED, LINKED)
    assert ("", "") == (script.up, script.down)


def test_a_rebuilt_view_is_readable_by_whoever_could_read_it(connection: Connection) -> None:
    """Rights of roles and of everybody, with and without the right to pass them on."""
    run(connection, up_sql(USER, NOTE))
    role = f"Reader {secrets.token_hex(6)}"
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    grant = sql.SQL("GRANT SELECT ON public.notes_resolved TO {} WITH GRANT OPTION").format(sql.Identifier(role))
    connection.execute(grant)
    connection.execute("GRANT SELECT ON public.notes_resolved TO PUBLIC")
    rights: LiteralString = "SELECT relacl::text FROM pg_class WHERE oid = 'public.notes_resolved'::regclass"
    before = one(connection, rights)
    run(connection, changes(LINKED, CHANGED["labels changed"], drop_columns=True).up)
    assert before == one(connection, rights)


def test_a_view_of_somebody_elses_stops_the_change(connection: Connection) -> None:
    """It is not dropped along."""
    run(connection, up_sql(USER, NOTE))
    connection.execute("CREATE VIEW public.mine AS SELECT title FROM public.notes_resolved")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist), connection.transaction():
        run(connection, changes(LINKED, CHANGED["varchar made text"]).up)


names = st.sampled_from(
    ["a", "b", "order", "Mixed", "a_b", "ab_", "with space", "ü", "x" * 63, "'q'", "live", "resolved", "found", "view"]
)
types = st.sampled_from(["text", "varchar(20)", "int", "numeric(10,2)", "jsonb", "timestamptz(3)", "text[]", "uuid"])


@st.composite
def declarations(draw: st.DrawFn) -> Concept:
    """A concept whose columns are all nullable or have a default, so that any may be added to a table with rows."""
    columns = draw(st.lists(names, unique=True, max_size=6))
    split = draw(st.integers(0, len(columns)))
    references = [
        Reference(
            column=column,
            nullable=True,
            to=draw(st.sampled_from([None, Target(table='"Other"."Select"', key="Key"), "thing"])),
        )
        for column in columns[:split]
    ]
    attributes = [
        Attribute(
            name=column,
            type=draw(types),
            nullable=True,
            default=draw(st.sampled_from([None, "NULL"])),
            check=draw(st.sampled_from([None, f"{quoted(column)} IS NULL OR true"])),
        )
        for column in columns[split:]
    ]
    indexable = [name for name in columns if name not in {a.name for a in attributes if a.type == "jsonb"}]
    indexes = draw(
        st.lists(
            st.builds(
                LiveIndex, columns=st.lists(st.sampled_from(indexable), min_size=1, unique=True), unique=st.booleans()
            ),
            unique=True,
            max_size=4,
        )
        if indexable
        else st.just([])
    )
    return Concept(name="thing", references=references, attributes=attributes, indexes=indexes)


@given(declarations())
@settings(unhurried, max_examples=60)
def test_any_declaration_is_valid_sql_that_can_be_taken_back(connected: Connection, declared: Concept) -> None:
    """Up, a refresh, down; and the catalogue is what it was."""
    with connected.transaction(force_rollback=True):
        before = catalogue(connected)
        run(connected, up_sql(declared))
        run(connected, "SELECT public.refresh_things_resolved()")
        run(connected, down_sql(declared))
        assert before == catalogue(connected)


@given(declarations(), declarations())
@settings(unhurried, max_examples=60)
def test_any_change_ends_where_the_new_declaration_begins(connected: Connection, old: Concept, new: Concept) -> None:
    """Or is refused with a reason; taken back, it ends where the old one began."""
    (old,), (new,) = linked(old), linked(new)
    try:
        script = changes(old, new, drop_columns=True)
    except ConceptRefused:
        return
    with connected.transaction(force_rollback=True):
        run(connected, up_sql(new))
        expected = catalogue(connected)
        run(connected, down_sql(new))
        run(connected, up_sql(old))
        before = catalogue(connected)
        run(connected, script.up)
        assert expected == catalogue(connected)
        run(connected, script.down)
        assert before == catalogue(connected)


def test_concepts_leave_nothing_in_the_schema_of_provenance(connection: Connection) -> None:
    """What `migrate verify` says of it does not change."""
    before = schema.verify(connection)
    run(connection, up_sql(USER, NOTE))
    assert before == schema.verify(connection)
