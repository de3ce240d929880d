"""Resolved views: made anew without losing who owns and may read them, and with columns that are computed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest

from provenance.concepts import (
    AsyncConceptRepository,
    Attribute,
    Computed,
    Concept,
    ConceptRefused,
    ConceptRepository,
    InvalidConcept,
    LiveIndex,
    Reference,
    Target,
    apply,
    changes,
    down_sql,
    linked,
    up_sql,
)
from provenance.trail import Trail
from tests.db.test_concepts_sql import catalogue
from tests.support import colours
from tests.support.colours import Blocking, done

Connection = psycopg.Connection[Any]

colour = colours.colour

USER = Concept(name="user", attributes=[Attribute(name="name", type="text")])
NOTE = Concept(
    name="note",
    references=[Reference(column="user_id", to="user", labels={"user_name": "name"})],
    attributes=[Attribute(name="title", type="text"), Attribute(name="body", type="text", nullable=True)],
    indexes=[LiveIndex(columns=["title"])],
)
LONGER = attrs.evolve(NOTE, attributes=[*NOTE.attributes, Attribute(name="mood", type="text", nullable=True)])
RIGHTS = """SELECT c.relowner::regrole::text, c.relacl::text,
                   (SELECT array_agg(a.attname || ' ' || a.attacl::text ORDER BY a.attname) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
              FROM pg_class c WHERE c.oid = 'notes_resolved'::regclass"""


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def connection(provenance_dsn: str) -> Iterator[Connection]:
    """Yield a connection to a database of this test's own, with the concepts in it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as opened:
        apply(opened, USER, NOTE)
        yield opened


@pytest.fixture
def roles(connection: Connection) -> Iterator[list[str]]:
    """Yield the names of three roles, two of which may not do anything yet."""
    made = [f"role_{secrets.token_hex(6)}" for _ in range(3)]
    for role in made:
        connection.execute(f"CREATE ROLE {role}".encode())
    connection.execute(
        f"SELECT provenance.grant_writer('{made[0]}'); GRANT ALL ON SCHEMA public TO {made[0]};"
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA provenance TO {made[0]}".encode()
    )
    yield made
    connection.execute("RESET ROLE")
    for role in made:
        connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())


def run(connection: Connection, *texts: str) -> None:
    for text in texts:
        connection.execute(text.encode())


def rights(connection: Connection) -> tuple[Any, ...]:
    [found] = connection.execute(RIGHTS.encode()).fetchall()
    return found


# --- Made anew -------------------------------------------------------------------------------------------------------


def test_a_rebuilt_view_keeps_its_owner(connection: Connection, roles: list[str]) -> None:
    """Whoever runs the script: its function refreshes with the rights of the role that owns both."""
    owner, member, reader = roles
    run(
        connection,
        *(f"ALTER TABLE {name} OWNER TO {owner}" for name in ("users", "notes", "notes_resolved")),
        f"ALTER FUNCTION refresh_notes_resolved OWNER TO {owner}; GRANT {owner} TO {member}",
        f"GRANT EXECUTE ON FUNCTION refresh_notes_resolved TO {reader}",
    )
    for deployer in ("CURRENT_USER", member):
        run(connection, "RESET ROLE" if deployer == "CURRENT_USER" else f"SET ROLE {deployer}")
        for declared in (LONGER, NOTE):
            assert ("note",) == apply(connection, USER, declared, drop_columns=True).changed
            assert owner == rights(connection)[0]
    run(connection, f"RESET ROLE; SET ROLE {reader}")
    assert (True,) == connection.execute("SELECT refresh_notes_resolved()").fetchone()


def test_a_rebuilt_view_keeps_the_rights_on_its_columns(connection: Connection, roles: list[str]) -> None:
    """But for those on a column that is gone; and it is what the change taken back has, too."""
    first, second, _ = roles
    run(
        connection,
        f"GRANT SELECT (id, title), UPDATE (body) ON notes_resolved TO {first}",
        f"GRANT SELECT (title) ON notes_resolved TO PUBLIC; GRANT SELECT ON notes_resolved TO {second} WITH GRANT OPTION",
        f"SET ROLE {second}; GRANT SELECT ON notes_resolved TO {first}",
        "RESET ROLE; REVOKE UPDATE ON notes_resolved FROM CURRENT_USER",
    )
    owner, _, columns = before = rights(connection)
    shorter = attrs.evolve(NOTE, attributes=NOTE.attributes[:1])
    done = apply(connection, USER, LONGER)
    after = rights(connection)
    assert (owner, columns) == (after[0], after[2])
    # Whoever had passed a right on, it comes from the owner now.
    assert str(before[1]).replace(f"r/{second}", f"r/{owner}") == after[1]
    run(connection, done.script.down)
    assert after == rights(connection)
    apply(connection, USER, shorter, drop_columns=True)
    assert [name.split()[0] for name in columns if not name.startswith("body")] == [
        name.split()[0] for name in rights(connection)[2]
    ]


@pytest.mark.parametrize("granted", ["", "GRANT SELECT ON notes_resolved TO PUBLIC"])
def test_a_right_that_was_taken_away_does_not_come_back(connection: Connection, roles: list[str], granted: str) -> None:
    """Though new views have it by default; nor has the owner lost any."""
    _, reader, _ = roles
    run(connection, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {reader}; {granted}")
    apply(connection, USER, LONGER)
    may = "SELECT has_table_privilege(%s, 'notes_resolved', %s)"
    assert (bool(granted),) == connection.execute(may, (reader, "SELECT")).fetchone()
    run(connection, f"GRANT SELECT ON notes_resolved TO {reader}", f"REVOKE ALL ON notes_resolved FROM {reader}")
    apply(connection, USER, attrs.evolve(LONGER, attributes=LONGER.attributes[:1]), drop_columns=True)
    assert (bool(granted),) == connection.execute(may, (reader, "SELECT")).fetchone()
    owner = rights(connection)[0]
    assert [(True,), (True,)] == [connection.execute(may, (owner, right)).fetchone() for right in ("SELECT", "UPDATE")]
    run(connection, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM {reader}")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE INDEX mine ON notes_resolved (body)", "the index mine"),
        ("CREATE STATISTICS mine ON title, body FROM notes_resolved", "the statistics mine"),
        ("COMMENT ON COLUMN notes_resolved.body IS 'what it says'", "the comment on the column body"),
        ("COMMENT ON MATERIALIZED VIEW notes_resolved IS 'ours'", "its comment"),
        ("ALTER MATERIALIZED VIEW notes_resolved SET (fillfactor = 50)", "the options fillfactor=50"),
    ],
)
def test_what_people_have_put_on_a_view_is_not_lost(connection: Connection, made: str, named: str) -> None:
    """The change is refused, naming it; the SQL of changes() too, whatever runs that. What needs no new view goes on."""
    run(connection, made)
    before = catalogue(connection)
    said = f"the view public.notes_resolved has to be made anew, and would lose what was put on it by hand: {named}"
    with pytest.raises(ConceptRefused, match=f"nothing: {said}; drop that first, and make it again afterwards"):
        apply(connection, USER, LONGER)
    script = changes(linked(USER, NOTE)[1], linked(USER, LONGER)[1]).up
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match=said) as caught:
        run(connection, script)
    assert "Take that off first, and put it on again afterwards." == caught.value.diag.message_hint
    assert before == catalogue(connection)
    apply(connection, USER, attrs.evolve(NOTE, indexes=[]))
    assert before != catalogue(connection)


# --- Computed columns ------------------------------------------------------------------------------------------------

SHOWN = attrs.evolve(
    NOTE,
    computed=[
        Computed(name="line", sql="concat_ws(', ', title, user_name)"),
        Computed(name="kind", sql="CASE WHEN body IS NULL THEN 'title; only' ELSE 'whole' END"),
        # A union of queries, were it not one expression.
        Computed(name="size", sql="length(title) + 1"),
    ],
)


def test_computed_columns_come_and_go(provenance_dsn: str) -> None:
    """Up makes them, a change makes the view anew, and down takes it all back."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        empty = catalogue(connection)
        run(connection, up_sql(USER, SHOWN))
        expected = catalogue(connection)
        run(connection, down_sql(USER, SHOWN))
        assert empty == catalogue(connection)
        apply(connection, USER, NOTE)
        before = catalogue(connection)
        added = apply(connection, USER, SHOWN)
        assert expected == catalogue(connection)
        other = attrs.evolve(SHOWN, computed=[*SHOWN.computed[:2], Computed(name="size", sql="length(title)")])
        changed = apply(connection, USER, other)
        assert (("note",), ("note",)) == (added.changed, changed.changed)
        assert "DROP MATERIALIZED VIEW public.notes_resolved;" in changed.script.up
        run(connection, changed.script.down)
        assert expected == catalogue(connection)
        run(connection, added.script.down)
        assert before == catalogue(connection)


def test_a_computed_column_is_one_expression(connection: Connection) -> None:
    """What could end it and begin another query does not."""
    crooked = attrs.evolve(NOTE, computed=[Computed(name="line", sql="1 UNION SELECT 2")])
    with pytest.raises(ConceptRefused, match='syntax error at or near "UNION"'):
        apply(connection, USER, crooked)


def test_a_computed_column_needs_a_name_of_its_own() -> None:
    """Not that of another column of the view."""
    with pytest.raises(InvalidConcept, match="would have two columns named user_name; rename the computed one"):
        attrs.evolve(NOTE, computed=[Computed(name="user_name", sql="'x'")])


@pytest.mark.anyio
async def test_a_row_is_resolved_as_it_is_now(colour: Blocking, connection: Connection) -> None:
    """With labels and computed columns, whenever the view was refreshed; deleted and missing rows are not there."""
    apply(connection, USER, SHOWN)
    repository = ConceptRepository if type(colour) is Blocking else AsyncConceptRepository
    users, notes = (repository(declared, colour.trail) for declared in linked(USER, SHOWN))
    async with colour.track("write"):
        ada = await done(users.create(name="ada"))
        note = await done(notes.create(user_id=ada.id, title="dawn"))
        assert "dawn, ada" == (await done(notes.resolve(note.id)))["line"]
    async with colour.track("rename"):
        await done(users.update(ada.id, name="eve"))
        lost = await done(notes.create(user_id=uuid4(), title="dusk", body="x"))
    assert 0 == len(await done(notes.list_resolved()))
    found = await done(notes.resolve(str(note.id)))
    assert {"user_name": "eve", "line": "dawn, eve", "kind": "title; only", "size": 5} == found.labels
    assert ((), ada.id, None) == (found.dangling, found["user_id"], found.deleted_at)
    found = await done(notes.resolve(lost.id))
    assert {"user_name": None, "line": "dusk", "kind": "whole", "size": 5} == found.labels
    assert ("user_id",) == found.dangling
    await done(notes.refresh())
    assert [lost.id, note.id] == sorted(
        (shown.id for shown in await done(notes.list_resolved())), key=[lost.id, note.id].index
    )
    async with colour.track("delete"):
        await done(notes.soft_delete(note.id))
    assert None is await done(notes.resolve(note.id))
    assert None is await done(notes.resolve(UUID(int=1)))


def test_an_operator_of_somebody_elses_joins_nothing(connection: Connection, trail: Trail) -> None:
    """Even one that fits better than Postgres's own: what is resolved live is what the view is made of."""
    run(
        connection,
        """CREATE FUNCTION never(text, varchar) RETURNS boolean RETURN false;
           CREATE OPERATOR = (LEFTARG = text, RIGHTARG = varchar, FUNCTION = never)""",
    )
    run(connection, "CREATE TABLE places (code text PRIMARY KEY, label text); INSERT INTO places VALUES ('a', 'A')")
    place = Target(table="public.places", key="code")
    shop = Concept(
        name="shop",
        references=[Reference(column="place", type="varchar(9)", to=place, labels={"label": "label"})],
    )
    apply(connection, shop)
    with trail.track_action("write", concept="shop"):
        made = ConceptRepository(shop, trail).create(place="a")
    shown = ConceptRepository(shop, trail).resolve(made.id)
    assert shown is not None
    assert "A" == shown["label"]
