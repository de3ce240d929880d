"""Bringing a database to what is declared, or saying why not and changing nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import attrs
import psycopg
import pytest

from provenance.concepts import (
    Attribute,
    Computed,
    Concept,
    ConceptRefused,
    ConceptRepository,
    InvalidConcept,
    LiveIndex,
    Plan,
    Reference,
    Script,
    Target,
    apply,
    changes,
    down_sql,
    linked,
    plan,
    remove,
    up_sql,
)
from provenance.errors import SchemaNotReady
from provenance.testing import RecordedActions
from provenance.trail import Trail
from tests.db.test_concepts_sql import catalogue

Connection = psycopg.Connection[Any]

USER = Concept(name="user", attributes=[Attribute(name="name", type="varchar(50)")])
NOTE = Concept(
    name="note",
    references=[Reference(column="user_id", to="user", labels={"user_name": "name"})],
    attributes=[Attribute(name="title", type="text"), Attribute(name="body", type="text", nullable=True)],
    indexes=[LiveIndex(columns=["user_id"])],
)
WIDER = attrs.evolve(
    USER, attributes=[Attribute(name="name", type="text"), Attribute(name="nick", type="text", nullable=True)]
)


@pytest.fixture
def connection(provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection to a database of this test's own."""
    with psycopg.connect(provenance_dsn, autocommit=True) as opened:
        yield opened


def refused(connection: Connection, *concepts: Concept, **options: Any) -> str:
    """Return why concepts are refused; nothing may have changed."""
    before = catalogue(connection)
    with pytest.raises(ConceptRefused) as caught:
        apply(connection, *concepts, **options)
    assert before == catalogue(connection)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_made_once(connection: Connection) -> None:
    """The second deploy finds nothing to do; what was run is what up_sql() prints."""
    script = Script(up=up_sql(USER, NOTE), down=down_sql(USER, NOTE))
    first = plan(connection, USER, NOTE)
    assert Plan(created=("user", "note"), changed=(), script=script) == first
    assert first == apply(connection, USER, NOTE)
    assert Plan(created=(), changed=(), script=Script(up="", down="")) == apply(connection, USER, NOTE)


def test_planning_changes_nothing(connection: Connection) -> None:
    """It only reads."""
    before = catalogue(connection)
    plan(connection, USER, NOTE)
    assert before == catalogue(connection)


def test_what_was_changed_is_changed(connection: Connection) -> None:
    """Several concepts in one script, new ones with them: one's view may show what another's table holds."""
    apply(connection, USER, NOTE)
    connection.execute("CREATE TABLE publishers (id integer PRIMARY KEY, name text)")
    before = catalogue(connection)
    labelled = attrs.evolve(
        NOTE, references=[Reference(column="user_id", to="user", labels={"user_name": "name", "nick": "nick"})]
    )
    tag = Concept(name="tag", references=[Reference(column="note_id", to="note", labels={"title": "title"})])
    done = apply(connection, WIDER, labelled, tag)
    assert (("tag",), ("user", "note")) == (done.created, done.changed)
    after = catalogue(connection)
    connection.execute(done.script.down.encode())
    assert before == catalogue(connection)
    remove(connection, USER, NOTE)
    apply(connection, WIDER, labelled, tag)
    assert after == catalogue(connection)


def test_the_view_of_a_concept_that_stays_follows_another_that_changes(connection: Connection) -> None:
    """Postgres would refuse to change a column that a view shows, so the view goes and comes back."""
    apply(connection, USER, NOTE)
    done = apply(connection, WIDER, NOTE)
    assert ((), ("user",)) == (done.created, done.changed)
    [(kind,)] = connection.execute(
        """SELECT format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = 'notes_resolved'::regclass AND attname = 'user_name'"""
    ).fetchall()
    assert "text" == kind


def test_one_statement_of_a_change_fails(connection: Connection) -> None:
    """None of it has happened, and it is said why."""
    apply(connection, USER, NOTE)
    with connection.transaction():
        connection.execute("SELECT provenance.record_action('write', 'note')")
        connection.execute("INSERT INTO notes (user_id, title) VALUES (gen_random_uuid(), '')")
    checked = attrs.evolve(
        NOTE, attributes=[Attribute(name="title", type="text", check="title <> ''"), NOTE.attributes[1]]
    )
    assert (
        'applying the declaration failed and changed nothing: check constraint "title_check" of relation "notes" '
        "is violated by some row; correct the declaration, or the rows"
    ) == refused(connection, USER, checked)


FAILED = "applying the declaration failed and changed nothing: "
SIZE = Attribute(name="größe", type="int", nullable=True)


def expressed(name: str, **given: Any) -> Concept:
    """Return a concept with an expression, behind a column whose name is not ASCII."""
    return Concept(name=name, attributes=[SIZE, Attribute(**{"name": "s", "type": "text", "nullable": True} | given)])


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ({"check": "s IN ()"}, 'check of thing.s: syntax error at or near ")"; correct the declaration'),
        ({"check": "m <> ''"}, 'check of thing.s: column "m" does not exist; correct the declaration'),
        ({"check": "s"}, "check of thing.s: argument of CHECK must be type boolean, not type text; correct the"),
        ({"check": "s IN (SELECT '')"}, "check of thing.s: cannot use subquery in check constraint; correct the"),
        ({"default": "1 +"}, 'default of thing.s: syntax error at or near ")"; correct the declaration'),
        ({"default": "größe"}, "default of thing.s: cannot use column reference in DEFAULT expression; correct the"),
        ({"default": "'a'", "type": "int"}, 'default of thing.s: invalid input syntax for type integer: "a"; correct'),
        ({"default": "absent()"}, "default of thing.s: function absent() does not exist; no function matches"),
        ({"default": "1", "type": "bool"}, 'default of thing.s: column "s" is of type boolean but default expression'),
    ],
)
def test_whose_sql_is_wrong_is_said(connection: Connection, expression: dict[str, Any], said: str) -> None:
    """In a new table beside another with such a column, or with the very same, and in a table that is there already."""
    wrong = expressed("thing", **expression)
    same = attrs.evolve(wrong, name="thin", table="public.thin")
    assert refused(connection, expressed("fine"), wrong).startswith(f"{FAILED}the {said}")
    assert refused(connection, wrong, same).startswith(f"{FAILED}the {said}")
    assert refused(connection, same, wrong).startswith(f"{FAILED}the {said.replace('thing', 'thin')}")
    apply(connection, attrs.evolve(wrong, attributes=[SIZE]))
    assert refused(connection, wrong).startswith(f"{FAILED}the {said}")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("größe +", 'syntax error at or near ")"; correct the declaration'),
        ("gröse", 'column "gröse" does not exist; perhaps you meant to reference the column "resolved.größe"'),
    ],
)
def test_which_computed_column_is_wrong_is_said(connection: Connection, sql: str, said: str) -> None:
    """By its name in the declaration."""
    wrong = attrs.evolve(
        expressed("thing"), computed=[Computed(name="a", sql="größe + 1"), Computed(name="b", sql=sql)]
    )
    assert f"{FAILED}the computed column thing.b: {said}" == refused(connection, wrong)


def test_a_column_whose_wrong_default_is_not_the_only_expression(connection: Connection) -> None:
    """The server does not say where it is, but names the column."""
    wrong = Concept(
        name="thing",
        attributes=[
            Attribute(name="a", type="int", default="1"),
            Attribute(name="b", type="boolean", default="1"),
        ],
    )
    assert 'failed and changed nothing: column "b" is of type boolean but default' in refused(connection, wrong)


def test_a_dropped_column_has_to_be_allowed(connection: Connection) -> None:
    """As for changes()."""
    apply(connection, USER, NOTE)
    shorter = attrs.evolve(NOTE, attributes=NOTE.attributes[:1])
    assert refused(connection, USER, shorter).startswith("dropping the column body would lose what is in it")
    assert ("note",) == apply(connection, USER, shorter, drop_columns=True).changed


_SERVER = "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER s FOREIGN DATA WRAPPER none"
IN_THE_WAY = {
    "CREATE TABLE notes (id int)": "a table",
    "CREATE TABLE notes (id int) PARTITION BY RANGE (id)": "a partitioned table",
    "CREATE VIEW notes AS SELECT 1 AS id": "a view",
    "CREATE MATERIALIZED VIEW notes AS SELECT 1 AS id": "a materialized view",
    "CREATE SEQUENCE notes": "a sequence",
    "CREATE TYPE notes AS (id int)": "a composite type",
    "CREATE INDEX notes ON work (secret)": "an index",
    f"{_SERVER}; CREATE FOREIGN TABLE notes (id int) SERVER s": "a foreign table",
}


@pytest.mark.parametrize(("made", "kind"), IN_THE_WAY.items(), ids=IN_THE_WAY.values())
def test_something_else_of_that_name(connection: Connection, made: str, kind: str) -> None:
    """Whatever it is, it stays, and is named."""
    connection.execute(made.encode())
    assert (
        f"public.notes is {kind} that was not made from a declaration; give the concept note another table, or move "
        "that one out of the way"
    ) == refused(connection, USER, NOTE)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            "CREATE VIEW notes_resolved AS SELECT 1 AS id",
            (
                "the concept note needs the name public.notes_resolved, which is a view already; rename that, or give "
                "the concept another table"
            ),
        ),
        (
            "CREATE INDEX notes_user_id_live ON work (secret)",
            "the concept note needs the name public.notes_user_id_live, which is an index already; rename that, or give",
        ),
        (
            "CREATE FUNCTION refresh_notes_resolved() RETURNS int RETURN 1",
            "the concept note needs the name public.refresh_notes_resolved, which is a function already; rename that, or",
        ),
    ],
)
def test_something_else_of_a_derived_name(connection: Connection, made: str, said: str) -> None:
    """The table's name alone being free is not enough."""
    connection.execute(made.encode())
    assert refused(connection, USER, NOTE).startswith(said)


def test_the_table_of_another_concept(connection: Connection) -> None:
    """It is not taken over."""
    apply(connection, USER)
    assert "public.users is the table of the concept user; give the concept reader another one" == refused(
        connection, Concept(name="reader", table="public.users")
    )


def reference(to: Target | str, **given: Any) -> Concept:
    return Concept(name="thing", references=[Reference(column="of", to=to, **given)])


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        (Concept(name="note", table="nowhere.notes"), "there is no schema nowhere for nowhere.notes; create it first"),
        (
            Concept(name="note", attributes=[Attribute(name="mood", type="mood")]),
            "Postgres does not know the type mood of note.mood; correct it, create it first, or write it with its schema",
        ),
        (
            Concept(name="note", attributes=[Attribute(name="mood", type="text NOT NULL")]),
            "Postgres does not know the type text NOT NULL of note.mood; correct it",
        ),
        (
            Concept(name="note", attributes=[Attribute(name="mood", type="a.b.mood")]),
            "Postgres does not know the type a.b.mood of note.mood; correct it",
        ),
        (
            Concept(name="note", attributes=[Attribute(name="n", type="int", check="m > 0")]),
            'applying the declaration failed and changed nothing: the check of note.n: column "m" does not exist; correct',
        ),
        (
            reference(Target(table="public.nothing")),
            "the reference thing.of resolves to public.nothing, and there is no such table; create it first",
        ),
        (
            reference(Target(table="public.numbers")),
            "the reference thing.of resolves to public.numbers, and there is no such table; create it first",
        ),
        (
            reference(Target(table="public.work"), labels={"a": "name"}, type="integer"),
            "the reference thing.of resolves to public.work, which has no column name; it has id, secret, action_id",
        ),
        (
            reference(Target(table="public.work", key="key")),
            "the reference thing.of resolves to public.work, which has no column key; it has id, secret, action_id",
        ),
        (
            reference(Target(table="public.work", key="action_id")),
            "the reference thing.of resolves to public.work.action_id, which may hold the same value twice; reference",
        ),
        (
            reference(Target(table="public.work")),
            "the reference thing.of is of type uuid, and public.work.id is of type integer; declare the reference",
        ),
        (
            reference(Target(table="public.things", key="of")),
            "the reference thing.of resolves to public.things.of, which may hold the same value twice; reference a column",
        ),
        (
            reference(Target(table="public.things"), type="text"),
            "the reference thing.of is of type text, and public.things.id is of type uuid; declare the reference as uuid",
        ),
        (
            reference(Target(table="public.work"), type="integer", reads={"key": "uuid"}),
            "the reference thing.of resolves to public.work, which has no column key; it has id, secret, action_id",
        ),
        (
            reference(Target(table="public.work"), type="integer", reads={"action_id": "uuid", "secret": "integer"}),
            (
                "the reference thing.of resolves to public.work, whose column secret is of type text and is compared "
                "with the type integer; name another column, or correct the types"
            ),
        ),
        (
            attrs.evolve(
                reference(Target(table="public.things"), reads={"kind": "integer"}),
                attributes=[Attribute(name="kind", type="text")],
            ),
            "the reference thing.of resolves to public.things, whose column kind is of type text and is compared with the",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_the_database(connection: Connection, concept: Concept, said: str) -> None:
    """It is refused with what was looked for and what to do."""
    connection.execute("CREATE SEQUENCE public.numbers")
    assert refused(connection, concept).startswith(said)


@pytest.mark.parametrize(
    "concept",
    [
        reference(Target(table="public.work"), type="bigint", reads={"id": "bigint", "secret": "varchar(9)"}),
        reference(Target(table="public.things"), reads={"id": "uuid", "of": "uuid"}),
        reference(Target(table="public.listed"), type="integer"),
        reference(Target(table="public.shown"), type="integer", labels={"secret": "secret"}),
        Concept(name="thing", references=[Reference(column="ticket", type="text")]),
        Concept(name="thing", attributes=[Attribute(name="mood", type="public.mood")]),
        Concept(name="thing", attributes=[Attribute(name="moods", type="public.mood[]")]),
    ],
)
def test_what_fits(connection: Connection, concept: Concept) -> None:
    """Integers of another size, views and materialized views, types with their schema."""
    connection.execute(
        """CREATE TYPE mood AS ENUM ('good');
           CREATE VIEW listed AS SELECT * FROM work;
           CREATE MATERIALIZED VIEW shown AS SELECT * FROM work;
           CREATE UNIQUE INDEX ON shown (id)"""
    )
    before = catalogue(connection)
    assert ("thing",) == apply(connection, concept).created
    remove(connection, concept)
    assert before == catalogue(connection)


def test_what_is_read_of_a_reference_changes_nothing_and_is_checked(connection: Connection) -> None:
    """Also where the concept is there already and has not changed."""
    apply(connection, reference(Target(table="public.work"), type="integer"))
    assert (
        "" == plan(connection, reference(Target(table="public.work"), type="integer", reads={"id": "bigint"})).script.up
    )
    assert (
        "the reference thing.of resolves to public.work, which has no column key; it has id, secret, action_id"
    ) == refused(connection, reference(Target(table="public.work"), type="integer", reads={"key": "bigint"}))


def test_an_unknown_concept(connection: Connection) -> None:
    """As without a database."""
    with pytest.raises(InvalidConcept, match="is to the unknown concept 'user'"):
        plan(connection, NOTE)


def test_without_the_provenance_schema(connection: Connection) -> None:
    """It says what to run."""
    connection.execute("DROP SCHEMA provenance CASCADE")
    with pytest.raises(
        SchemaNotReady, match="is missing in this database, or too old for concepts; run `provenance migrate up`"
    ):
        apply(connection, USER)


def test_a_connection_in_the_middle_of_something(connection: Connection) -> None:
    """What else is in its transaction is not ours to commit."""
    with connection.transaction(), pytest.raises(ConceptRefused, match="needs a connection with no transaction open"):
        apply(connection, USER)


def test_a_lock_that_is_held(connection: Connection, provenance_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for for ever, because everybody else would wait behind; nor is another deploy."""
    apply(connection, USER)
    monkeypatch.setattr("provenance.concepts.ddl.LOCK_TIMEOUT", "10ms")
    with psycopg.connect(provenance_dsn) as other:
        other.execute("SELECT * FROM users")
        said = refused(connection, WIDER)
        other.rollback()
        other.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(b"concept", "big"),))
        assert said == refused(connection, WIDER)
    assert (
        "applying the declaration failed and changed nothing: canceling statement due to lock timeout; another "
        "transaction has held a lock for 5s; run it again when that has ended"
    ) == said


def test_a_role_that_may_not(connection: Connection) -> None:
    """It is said who may."""
    connection.execute("CREATE ROLE provenance_nobody_in_concepts")
    try:
        connection.execute("SET ROLE provenance_nobody_in_concepts")
        with pytest.raises(
            ConceptRefused, match=r"failed and changed nothing: permission denied .*; connect as the role that"
        ):
            apply(connection, USER)
        connection.execute("RESET ROLE")
    finally:
        connection.execute("DROP ROLE provenance_nobody_in_concepts")


def test_an_owner_must_be_a_writer_of_the_trail(connection: Connection) -> None:
    """Its views could not be refreshed otherwise. It says what to run; that done, an ordinary role refreshes."""
    role = "provenance_owner_in_concepts"
    connection.execute(
        f"""CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}; GRANT USAGE ON SCHEMA provenance TO {role};
            GRANT EXECUTE ON FUNCTION provenance.touch, provenance.stamp_insert, provenance.stamp_update,
                provenance.require_action, provenance.uuid_v7 TO {role}; SET ROLE {role}""".encode()
    )
    try:
        assert refused(connection, USER) == (
            f"the resolved views would belong to {role}, which lacks the rights on the trail to refresh them; run "
            f"`provenance migrate grant --writer {role}` first (nothing was changed)"
        )
        connection.execute(f"RESET ROLE; SELECT provenance.grant_writer('{role}'); SET ROLE {role}".encode())
        apply(connection, USER)
        assert (True,) == connection.execute("SELECT refresh_users_resolved()").fetchone()
    finally:
        connection.execute(f"RESET ROLE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())


def test_something_that_depends_on_it(connection: Connection) -> None:
    """It is named, and not dropped along."""
    apply(connection, USER)
    connection.execute("CREATE VIEW mine AS SELECT name FROM users_resolved")
    said = (
        " failed and changed nothing: cannot drop materialized view users_resolved because other objects depend on it (view "
        "mine depends on materialized view users_resolved); drop that first, and make it again afterwards; if it is the "
        "view of another concept, pass that concept too"
    )
    before = catalogue(connection)
    with pytest.raises(ConceptRefused) as caught:
        remove(connection, USER)
    assert "removing the concepts" + said.replace("users_", "public.users_").replace("mine", "public.mine") == str(
        caught.value
    ).replace("view users_", "view public.users_").replace("view mine", "view public.mine")
    assert before == catalogue(connection)


def test_removing_what_is_not_there(connection: Connection) -> None:
    """Nothing is removed, not what is there either."""
    apply(connection, USER)
    before = catalogue(connection)
    with pytest.raises(
        ConceptRefused, match=r"^there is no table public\.notes, so there is nothing to remove; leave it out"
    ):
        remove(connection, USER, NOTE)
    assert before == catalogue(connection)


def test_two_deploys_at_once(connection: Connection, provenance_dsn: str) -> None:
    """One makes it, and the other finds it made."""
    plans: list[Plan] = []
    ready = threading.Barrier(2)

    def deploy() -> None:
        with psycopg.connect(provenance_dsn, autocommit=True) as own:
            ready.wait()
            plans.append(apply(own, USER, NOTE))

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(), ("user", "note")] == sorted(done.created for done in plans)
    assert "" == plan(connection, USER, NOTE).script.up


@pytest.mark.direct("PgBouncer takes another server connection")
def test_a_connection_that_breaks_off(connection: Connection, provenance_dsn: str) -> None:
    """That is the driver's to say: it says nothing about the declaration."""
    with psycopg.connect(provenance_dsn, autocommit=True) as own:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (own.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            plan(own, USER)


def test_no_action_is_recorded_of_it(connection: Connection, recorded_actions: RecordedActions) -> None:
    """Who changes tables is said by the migrations, not by the trail."""
    apply(connection, USER)
    recorded_actions.expect("")


def test_a_change_in_a_migration_of_the_teams_own(connection: Connection) -> None:
    """What changes() prints may be run by any tool; the next plan finds it done."""
    apply(connection, USER, NOTE)
    (old, _), (new, note) = linked(USER, NOTE), linked(WIDER, NOTE)
    with connection.transaction():
        connection.execute(
            changes(old, attrs.evolve(new, attributes=[*USER.attributes, WIDER.attributes[1]])).up.encode()
        )
    planned = plan(connection, attrs.evolve(WIDER, attributes=[*USER.attributes, WIDER.attributes[1]]), note)
    assert ((), (), "") == (planned.created, planned.changed, planned.script.up)


def test_the_table_of_a_concept_counts_as_stamped_strictly(connection: Connection, trail: Trail) -> None:
    """Nobody has to stamp it, and nobody is told to."""
    apply(connection, USER)
    (found,) = [table for table in trail.coverage() if table.table == "public.users"]
    assert (True, True, 0) == (found.stamped, found.strict, found.untracked_rows)


def test_row_changes_of_a_concept_are_captured_through_a_change_of_it(connection: Connection, trail: Trail) -> None:
    """What a row was before and after, with the columns that it has then."""
    apply(connection, USER)
    trail.capture("public.users")
    with trail.track_action("sign_up", concept="user"):
        made = ConceptRepository(USER, trail).create(name="ada")
    apply(connection, WIDER)
    with trail.track_action("rename", concept="user"):
        ConceptRepository(WIDER, trail).update(made.id, name="x" * 60, nick="x")
    changed = [change.changed for change in trail.changes.history("public.users", made.id)]
    assert {"name", "nick", "updated_by_action_id", "updated_at"} == set(changed[0])
    assert 2 == len(changed)
