"""Captured tables: what every row was before and after each change, whatever changes it and however the table is made."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import conninfo, sql

from provenance import InvalidAction, NotCaptured, Operation, RowChange, TableRefused, Truncated
from provenance.trail import Trail
from provenance.values import Redactor
from tests.support import colours
from tests.support.colours import Blocking, done

pytestmark = pytest.mark.anyio

colour = colours.colour


@pytest.fixture
def eye(direct_dsn: str) -> Any:
    """Another connection, in autocommit mode."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def stored(eye: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Return what is stored, in order: operation, keys and the texts of the rows."""
    return eye.execute(
        "SELECT operation, old_key, row_key, old_row, new_row FROM provenance.row_changes ORDER BY table_id, seq, ordinal"
    ).fetchall()


def changes(trail: Trail, table: str, key: Any) -> list[RowChange]:
    """Return the changes of a row, oldest first."""
    return list(reversed(trail.changes.history(table, key, limit=1000).items))


def brief(change: RowChange) -> tuple[Any, ...]:
    return change.operation, dict(change.old) if change.old else None, dict(change.new) if change.new else None


WORK = {"secret": None, "action_id": None}


async def test_old_and_new_row_are_stored_with_the_action(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """For an insert, an update and a delete, with everything there is to say of each."""
    await done(colour.trail.capture("work", keep=["secret"]))
    async with colour.track("make", tenant_id="a tenant's") as made:
        await done(made.connection.execute("INSERT INTO work (id, action_id) VALUES (1, NULL)"))
    async with colour.track("change") as changed:
        await done(changed.connection.execute("UPDATE work SET secret = 'x' WHERE id = 1"))
    async with colour.track("drop") as dropped:
        await done(dropped.connection.execute("DELETE FROM work"))
    page = await done(colour.trail.changes.history("work", 1))
    delete, update, insert = page
    before, after = {"id": 1, **WORK}, {"id": 1, **WORK, "secret": "x"}
    assert [brief(change) for change in (insert, update, delete)] == [
        (Operation.INSERT, None, before),
        (Operation.UPDATE, before, after),
        (Operation.DELETE, after, None),
    ]
    assert [change.changed for change in (insert, update, delete)] == [tuple(before), ("secret",), tuple(before)]
    assert [change.action_id for change in (insert, update, delete)] == [made.id, changed.id, dropped.id]
    assert [change.tenant_id for change in (insert, update, delete)] == ["a tenant's", "", ""]
    rows = {action.id: action for action in (await done(colour.trail.actions.search())).items}
    assert rows[made.id].recorded_at - insert.recorded_at < timedelta(minutes=1)
    assert (insert.table, insert.key, insert.old_key, insert.db_user) == ("public.work", "1", None, "postgres")
    assert eye.execute("SELECT xid::text FROM provenance.actions WHERE id = %s", (made.id,)).fetchone() == (
        str(insert.xid),
    )


STATEMENTS = {
    "INSERT INTO work (id) SELECT * FROM generate_series(3, 4)": [("insert", 3), ("insert", 4)],
    "INSERT INTO work (id) VALUES (1), (3) ON CONFLICT (id) DO UPDATE SET secret = 'x'": [("insert", 3), ("update", 1)],
    "INSERT INTO work (id) VALUES (1) ON CONFLICT DO NOTHING": [],
    "UPDATE work SET secret = id::text": [("update", 1), ("update", 2)],
    "UPDATE work SET secret = 'x' WHERE id = 7": [],
    "UPDATE work SET secret = secret": [],
    "DELETE FROM work WHERE id = 2": [("delete", 2)],
    "TRUNCATE work": [("truncate", 1), ("truncate", 2)],
    "TRUNCATE other, work": [("truncate", 1), ("truncate", 2)],
    """MERGE INTO work w USING (VALUES (1, 'm'), (2, NULL), (3, 'n')) AS s (id, v) ON s.id = w.id
        WHEN MATCHED AND s.v IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET secret = s.v
        WHEN NOT MATCHED THEN INSERT (id, secret) VALUES (s.id, s.v)""": [("insert", 3), ("update", 1), ("delete", 2)],
    "WITH gone AS (DELETE FROM work WHERE id = 1 RETURNING *) INSERT INTO work SELECT id + 8, secret FROM gone": [
        ("insert", 9),
        ("delete", 1),
    ],
    "UPDATE parent SET id = 5": [("update", 1)],
    "DELETE FROM parent": [("delete", 1)],
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_way_to_write_is_captured(trail: Trail, eye: psycopg.Connection[Any], statement: str) -> None:
    """Bulk statements, upserts, MERGE, TRUNCATE, what foreign keys do, in whatever SQL."""
    eye.execute("""CREATE TABLE other (id integer);
        CREATE TABLE parent (id integer PRIMARY KEY); INSERT INTO parent VALUES (1);
        ALTER TABLE work ADD parent_id integer REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE;
        INSERT INTO work (id, parent_id) VALUES (1, 1), (2, NULL)""")
    trail.capture("work", keep=["secret"])
    with trail.track_action("write", concept="work") as action:
        action.connection.execute(statement.encode())
    page = trail.changes.of_action(action.id)
    assert sorted((change.operation, int(change.key)) for change in page) == sorted(STATEMENTS[statement])


def test_copy_is_captured(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Like any other insert."""
    trail.capture("work")
    with eye.cursor().copy("COPY work (id) FROM STDIN") as copy:
        for number in range(3):
            copy.write_row((number,))
    assert [(row[0], row[2]) for row in stored(eye)] == [("insert", "0"), ("insert", "1"), ("insert", "2")]


def test_what_is_rolled_back_was_never_there(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Changes live and die with the work they tell of."""
    trail.capture("work")
    with pytest.raises(ZeroDivisionError), trail.track_action("write", concept="work") as action:
        action.connection.execute("INSERT INTO work (id) VALUES (1)")
        raise ZeroDivisionError
    assert stored(eye) == []
    assert trail.changes.of_action(action.id).items == ()


def test_rows_of_a_bulk_update_are_paired_although_their_keys_change(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """A thousand rows whose keys are turned around in one statement: matching them by key would pair strangers."""
    eye.execute("""CREATE TABLE turned (id integer PRIMARY KEY DEFERRABLE, name text);
        INSERT INTO turned SELECT i, 'row ' || i FROM generate_series(1, 1000) i""")
    trail.capture("turned")
    eye.execute("UPDATE turned SET id = 1001 - id")
    rows = stored(eye)
    assert len(rows) == 1000
    for operation, old_key, row_key, old_row, new_row in rows:
        assert operation == "update"
        assert int(row_key) == 1001 - int(old_key)
        assert old_row == f'({old_key},"row {old_key}")'
        assert new_row == f'({row_key},"row {old_key}")'


def test_the_first_and_the_millionth_row_are_paired_by_one_plan(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """What was planned for one row serves a thousand without comparing each with each."""
    trail.capture("work", keep=["secret"])
    eye.execute("INSERT INTO work (id) VALUES (0)")
    eye.execute("UPDATE work SET secret = 'x'")
    eye.execute("INSERT INTO work (id) SELECT generate_series(1, 20000)")
    eye.execute("SET statement_timeout = '20s'")
    eye.execute("UPDATE work SET secret = id::text")
    assert eye.execute("SELECT count(*) FROM provenance.row_changes WHERE operation = 'update'").fetchone() == (20_002,)


def test_statements_of_a_function_are_captured_one_by_one(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """In the order in which they were done."""
    trail.capture("work", keep=["secret"])
    eye.execute("""DO $$ BEGIN INSERT INTO work (id) VALUES (1); UPDATE work SET secret = 'a';
                          UPDATE work SET secret = 'b'; DELETE FROM work; END $$""")
    assert [change.operation.value for change in changes(trail, "work", 1)] == ["insert", "update", "update", "delete"]


async def test_hidden_columns_are_never_stored(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Of excluded ones nothing is known; of masked ones, that they changed."""
    eye.execute("""CREATE TABLE people (id integer PRIMARY KEY, name text, notes text, password_hash text, born date,
                                       api_token text)""")
    await done(colour.trail.capture("people", exclude=["notes"], mask=["born"]))
    eye.execute("INSERT INTO people VALUES (1, 'Ann', 'n0te', 'h4sh', '1970-01-01', 't0ken')")
    eye.execute("UPDATE people SET notes = 'n0te2'")
    eye.execute("UPDATE people SET password_hash = 'h4sh2', api_token = NULL, name = 'Eve'")
    eye.execute("UPDATE people SET password_hash = 'h4sh2'")
    eye.execute("UPDATE people SET born = '1971-01-01'")
    everything = str(eye.execute("SELECT * FROM provenance.row_changes").fetchall())
    assert not any(secret in everything for secret in ("n0te", "h4sh", "t0ken", "1970-01-01", "1971-01-01"))
    born, several, insert = await done(colour.trail.changes.history("people", 1))
    hidden = {"password_hash": "[redacted]", "born": "[redacted]", "api_token": "[redacted]"}
    assert dict(insert.new) == {"id": 1, "name": "Ann", **hidden}
    assert (several.changed, born.changed) == (("name", "password_hash", "api_token"), ("born",))


def test_columns_that_sound_like_secrets_can_be_kept(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """By name, or by the trail's redactor."""
    trail.capture("work", keep=["secret"])
    eye.execute("INSERT INTO work (id, secret) VALUES (1, 'said')")
    assert changes(trail, "work", 1)[0].new == {"id": 1, "secret": "said", "action_id": None}
    trail.redactor = Redactor(keep=["secret"])
    trail.capture("work")
    eye.execute("UPDATE work SET secret = 'again'")
    assert changes(trail, "work", 1)[1].new == {"id": 1, "secret": "again", "action_id": None}


def test_columns_added_later_are_captured_unless_they_sound_like_secrets(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """With no step in between; what was stored before reads as it was."""
    trail.redactor = Redactor(extra=["Bank account"])
    trail.capture("work", keep=["secret"])
    eye.execute("INSERT INTO work (id) VALUES (1)")
    eye.execute(
        "ALTER TABLE work ADD colour text, ADD api_key text, ADD bankaccount text; ALTER TABLE work DROP action_id"
    )
    eye.execute("UPDATE work SET colour = 'red', api_key = 'k', bankaccount = 'b'")
    eye.execute("UPDATE work SET id = 2")
    insert, update = changes(trail, "work", 1)[:2]
    assert dict(insert.new or {}) == {"id": 1, "secret": None, "action_id": None}
    masked = {"api_key": "[redacted]", "bankaccount": "[redacted]"}
    assert dict(update.old or {}) == {"id": 1, "secret": None, "colour": None, **masked}
    assert dict(update.new or {}) == {"id": 1, "secret": None, "colour": "red", **masked}
    assert update.changed == ("colour", "api_key", "bankaccount")
    assert changes(trail, "work", 2)[0].changed == ("id",)
    eye.execute("DELETE FROM work")
    assert changes(trail, "work", 2)[-1].operation == Operation.DELETE


def test_a_hidden_column_that_is_renamed_stays_hidden(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Nobody can know which of the new names is the old one, so all are masked until somebody says anew."""
    eye.execute("CREATE TABLE people (id integer PRIMARY KEY, pin text, notes text)")
    trail.capture("people", exclude=["notes"])
    eye.execute("ALTER TABLE people RENAME pin TO harmless; ALTER TABLE people RENAME notes TO remarks")
    eye.execute("INSERT INTO people VALUES (1, '1234', 'hush')")
    assert dict(changes(trail, "people", 1)[0].new or {}) == {
        "id": 1,
        "harmless": "[redacted]",
        "remarks": "[redacted]",
    }
    assert "1234" not in str(stored(eye))
    trail.capture("people", mask=["harmless"])
    eye.execute("UPDATE people SET remarks = 'hear'")
    assert dict(changes(trail, "people", 1)[1].new or {}) == {"id": 1, "harmless": "[redacted]", "remarks": "hear"}


ALTERATIONS = [
    "ALTER TABLE t ADD more text DEFAULT 'm'",
    "ALTER TABLE t DROP name",
    "ALTER TABLE t RENAME name TO title",
    "ALTER TABLE t ALTER n TYPE text",
    "ALTER TABLE t RENAME id TO ident",
    "ALTER TABLE t DROP n; ALTER TABLE t ADD n integer",
    "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t DROP id",
    "ALTER TABLE t RENAME TO renamed; ALTER TABLE renamed RENAME TO t",
]


# Postgres refuses to rename or drop a partition key.
FIRMER = [alteration for alteration in ALTERATIONS if not alteration.endswith(("RENAME id TO ident", "DROP id"))]


@pytest.mark.parametrize(
    ("alteration", "partitioned"), [*((each, False) for each in ALTERATIONS), *((each, True) for each in FIRMER)]
)
def test_an_altered_table_is_still_captured(
    trail: Trail, eye: psycopg.Connection[Any], alteration: str, partitioned: bool
) -> None:
    """In a session that wrote to it before as well as in a new one; no write fails for it."""
    eye.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, name text, n integer)" + " PARTITION BY RANGE (id)" * partitioned
    )
    if partitioned:
        eye.execute("CREATE TABLE t_1 PARTITION OF t DEFAULT")
    trail.capture("t")
    eye.execute("INSERT INTO t (id, name, n) VALUES (1, 'a', 1); UPDATE t SET n = 2; DELETE FROM t")
    before = len(stored(eye))
    eye.execute(alteration.encode())
    with trail.track_action("write", concept="t") as action:
        for connection in (eye, action.connection):
            connection.execute(
                "INSERT INTO t (n) VALUES (1)" if "DROP id" in alteration else "INSERT INTO t VALUES (1)"
            )
            connection.execute("UPDATE t SET n = COALESCE(n::integer, 0) + 5")
            connection.execute("DELETE FROM t")
    names = [
        name
        for (name,) in eye.execute(
            """SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum"""
        )
    ]
    page = trail.changes.of_action(action.id)
    assert [change.operation.value for change in page] == ["insert", "update", "delete"]
    for change in page:
        assert list(change.old or change.new or ()) == names
    assert len(stored(eye)) == before + 6
    trail.capture("t") if "DROP id" not in alteration else None
    eye.execute("DELETE FROM t")


PARTITIONED = """
CREATE TABLE parted (id integer, region text, name text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
-- Attached, with its columns in another order and one that was dropped.
CREATE TABLE parted_b (name text, gone text, region text NOT NULL, id integer NOT NULL);
ALTER TABLE parted_b DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_b FOR VALUES IN ('b')"""


def test_partitioned_tables_are_captured(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Through the parent, aimed at a partition, and in partitions that come later or by another layout."""
    eye.execute(PARTITIONED)
    trail.capture("parted")
    eye.execute("CREATE TABLE parted_c PARTITION OF parted FOR VALUES IN ('c')")
    eye.execute("INSERT INTO parted SELECT 1, r, 'x' FROM unnest('{a,b,c}'::text[]) r")
    for partition in ("parted_a", "parted_b", "parted_c"):
        eye.execute(sql.SQL("UPDATE {} SET name = 'y'").format(sql.Identifier(partition)))
    eye.execute("UPDATE parted SET region = 'c', id = 2 WHERE region = 'a'")
    eye.execute("TRUNCATE parted_b")
    eye.execute("DELETE FROM parted_c WHERE id = 1")
    eye.execute("TRUNCATE parted")
    history = {
        key: [
            (change.operation.value, (change.new or change.old or {})["name"])
            for change in changes(trail, "parted", key)
        ]
        for key in ((1, "a"), (1, "b"), (1, "c"), (2, "c"))
    }
    assert history == {
        (1, "a"): [("insert", "x"), ("update", "y"), ("delete", "y")],
        (1, "b"): [("insert", "x"), ("update", "y"), ("truncate", "y")],
        (1, "c"): [("insert", "x"), ("update", "y"), ("delete", "y")],
        (2, "c"): [("insert", "y"), ("truncate", "y")],
    }
    assert trail.changes.table_as_of("parted", datetime.now(UTC)) == []
    trail.capture("parted")
    eye.execute("INSERT INTO parted_c VALUES (3, 'c', 'z'); TRUNCATE parted_c")
    assert [change.operation.value for change in changes(trail, "parted", (3, "c"))] == ["insert", "truncate"]


def test_inherited_columns_are_captured(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Of the child, and through the parent."""
    eye.execute("""CREATE TABLE parent (id integer PRIMARY KEY, name text);
                   CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (parent)""")
    trail.capture("parent")
    trail.capture("child")
    eye.execute("INSERT INTO child VALUES (1, 'a', 'x')")
    eye.execute("UPDATE parent SET name = 'b'")
    assert [brief(change) for change in changes(trail, "child", 1)] == [
        ("insert", None, {"id": 1, "name": "a", "extra": "x"})
    ]
    assert [brief(change) for change in changes(trail, "parent", 1)] == [
        ("update", {"id": 1, "name": "a"}, {"id": 1, "name": "b"})
    ]


VALUES: dict[str, tuple[str, Any]] = {
    "boolean": ("true", True),
    "smallint": ("-3", -3),
    "bigint": ("9223372036854775807", 2**63 - 1),
    "numeric(30, 10)": ("12345678901234567890.0123456789", Decimal("12345678901234567890.0123456789")),
    "numeric": ("'NaN'", "NaN"),
    "double precision": ("0.1", 0.1),
    "text": ("E'a \"b\" \\\\ (c), d\\ne '", 'a "b" \\ (c), d\ne '),
    "character varying(20)": ("''", ""),
    "character(3)": ("'x'", "x  "),
    "uuid": ("'00000000-0000-0000-0000-000000000001'", UUID(int=1)),
    "bytea": (r"'\x00ff5c22'", b'\x00\xff\\"'),
    "date": ("'2026-01-02'", date(2026, 1, 2)),
    "timestamp(3) with time zone": ("'2026-01-02 03:04:05.678+02'", datetime(2026, 1, 2, 1, 4, 5, 678000, UTC)),
    "timestamp": ("'infinity'", "infinity"),
    "interval": ("'1 month 2 days'", "P1M2D"),
    "json": ("'{\"a\": [1]}'", {"a": [1]}),
    "jsonb": ("'{\"a\": null}'", {"a": None}),
    "integer[]": ("'{1,NULL,3}'", [1, None, 3]),
    "text[]": ("ARRAY['a,b', 'c\"d', NULL]", ["a,b", 'c"d', None]),
    "mood": ("'so so'", "so so"),
    "mood[]": ("'{so so,ok}'", '{"so so",ok}'),
    "posint": ("7", "7"),
    "int4range": ("'[1,5)'", None),
    "point": ("'(1,2)'", "(1,2)"),
    "pair": ("ROW(1, 'a,b')", '(1,"a,b")'),
    "money": ("'1.50'", "$1.50"),
}


@pytest.mark.parametrize("type_name", VALUES)
def test_values_of_every_type_come_back(trail: Trail, eye: psycopg.Connection[Any], type_name: str) -> None:
    """As what psycopg makes of them, or else as text; null is null."""
    eye.execute("""CREATE TYPE mood AS ENUM ('ok', 'so so'); CREATE DOMAIN posint AS integer CHECK (VALUE > 0);
                   CREATE TYPE pair AS (a integer, b text); SET timezone = 'Asia/Jerusalem'; SET datestyle = 'German'""")
    literal, expected = VALUES[type_name]
    eye.execute(f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})".encode())
    trail.capture("t")
    eye.execute(f"INSERT INTO t VALUES (1, {literal}), (2, NULL)".encode())  # noqa: S608 - of the list above
    eye.execute("UPDATE t SET v = NULL WHERE id = 1")
    insert, update = changes(trail, "t", 1)
    value = (insert.new or {})["v"]
    if type_name == "int4range":
        expected = psycopg.types.range.Range(1, 5, "[)")
    if type_name == "numeric":
        value = str(value)
    if type_name == "money":
        value = str(value)[-5:]
        assert value.endswith("1.50")
    else:
        assert value == expected
    assert (update.old or {})["v"] == (insert.new or {})["v"] or type_name == "numeric"
    assert (update.new or {})["v"] is None
    assert (changes(trail, "t", 2)[0].new or {})["v"] is None


def test_generated_columns_are_stored(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Those that the table stores; virtual ones are nothing but the others once more."""
    virtual = ", v integer GENERATED ALWAYS AS (n + 1)" if eye.info.server_version >= 180000 else ""
    eye.execute(
        f"CREATE TABLE t (id integer PRIMARY KEY, n integer, s integer GENERATED ALWAYS AS (n * 2) STORED{virtual})".encode()
    )
    trail.capture("t")
    eye.execute("INSERT INTO t (id, n) VALUES (1, 5)")
    eye.execute("UPDATE t SET n = 6")
    insert, update = changes(trail, "t", 1)
    assert brief(insert) == ("insert", None, {"id": 1, "n": 5, "s": 10})
    assert update.changed == ("n", "s")


def test_a_long_value_is_replaced_by_its_length_and_digest(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """The others of its row are kept, and so is a value that is just short enough."""
    long = "ä" * 1_000_000 + '"\\'
    eye.execute("CREATE TABLE t (id integer PRIMARY KEY, body text, name text, raw bytea)")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES (1, %s, %s, NULL)", (long, "x" * 32_768))
    eye.execute("UPDATE t SET name = 'a, \"b\"', raw = %s", (b"\0" * 20_000,))
    insert, update = changes(trail, "t", 1)
    cut = Truncated(bytes=2_000_002, sha256=sha256(long.encode()).hexdigest())
    assert dict(insert.new or {}) == {"id": 1, "body": cut, "name": "x" * 32_768, "raw": None}
    raw = Truncated(bytes=40_002, sha256=sha256(("\\x" + "00" * 20_000).encode()).hexdigest())
    assert dict(update.new or {}) == {"id": 1, "body": cut, "name": 'a, "b"', "raw": raw}
    assert update.changed == ("name", "raw")
    trail.capture("t", max_bytes=64)
    eye.execute("UPDATE t SET name = %s", ("y" * 65,))
    assert isinstance((changes(trail, "t", 1)[2].new or {})["name"], Truncated)


def test_awkward_names_are_captured(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Mixed case, quotes, percent signs, reserved words, 63 bytes, and the names that the trigger itself uses."""
    names = ['I\'d "quoted" %s', "select", "ordinal", "seq", "key", "row", "facts", "c1", "by_place", "n" * 63, "%1$s"]
    table = sql.Identifier('Strange.Schema "x"', "Täble % $$ $source$ ")
    eye.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier('Strange.Schema "x"')))
    eye.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}, {}))").format(
            table,
            sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in names),
            sql.Identifier(names[1]),
            sql.Identifier(names[0]),
        )
    )
    name = table.as_string(eye)
    trail.capture(name, mask=["%1$s"])
    values = [f"v{number}" for number, _ in enumerate(names)]
    eye.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(table, sql.SQL(", ").join(map(sql.Literal, values))))
    eye.execute(sql.SQL("UPDATE {} SET {} = 'new', \"%1$s\" = 'x'").format(table, sql.Identifier(names[9])))
    insert, update = changes(trail, name, ["v1", "v0"])
    assert dict(insert.new or {}) == dict(zip(names, values, strict=True)) | {"%1$s": "[redacted]"}
    assert update.changed == (names[9], "%1$s")
    assert update.table == name


def test_a_hostile_search_path_and_a_temporary_table_of_the_same_name_change_nothing(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """What is stored is decided by the trail, not by the session that writes."""
    trail.capture("work", keep=["secret"])
    eye.execute("""CREATE SCHEMA evil;
        CREATE FUNCTION evil.concat(VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_concat';
        CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
        CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR evil.<> (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
        CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
        CREATE TABLE evil.row_changes (id integer); CREATE TABLE evil.pg_attribute (attname text);
        SET search_path = evil, pg_catalog, public;
        CREATE TEMP TABLE work (id integer); CREATE TEMP TABLE old_rows (id integer); CREATE TEMP TABLE new_rows (id text);
        CREATE TEMP TABLE pg_attribute (attname text)""")
    eye.execute("INSERT INTO public.work (id, secret) VALUES (1, 'a')")
    eye.execute("UPDATE public.work SET secret = 'b'")
    eye.execute("TRUNCATE public.work")
    eye.execute("RESET search_path")
    assert [change.operation.value for change in changes(trail, "public.work", 1)] == ["insert", "update", "truncate"]


def test_a_cast_of_the_applications_own_is_not_run(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """A cast to text is somebody's function, which would run with the rights of the trail's owner."""
    eye.execute("""CREATE TYPE mood AS ENUM ('ok');
        CREATE FUNCTION to_lie(mood) RETURNS text LANGUAGE sql AS $$ SELECT 'lie' $$;
        CREATE CAST (mood AS text) WITH FUNCTION to_lie(mood) AS IMPLICIT;
        CREATE TABLE t (id mood PRIMARY KEY, m mood)""")
    trail.capture("t", mask=[])
    eye.execute("INSERT INTO t VALUES ('ok', 'ok')")
    assert stored(eye) == [("insert", None, "ok", None, "(ok,ok)")]


def test_a_session_in_replica_role_is_captured(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Ordinary triggers sleep then."""
    trail.capture("work")
    eye.execute("SET session_replication_role = replica")
    eye.execute("INSERT INTO work (id) VALUES (1)")
    eye.execute("TRUNCATE work")
    assert [row[0] for row in stored(eye)] == ["insert", "truncate"]


def test_a_role_that_may_only_write_the_table_is_captured(
    trail: Trail, eye: psycopg.Connection[Any], provenance_dsn: str
) -> None:
    """It needs no right on the trail, has none, and cannot say who it is."""
    trail.capture("work")
    eye.execute("CREATE ROLE provenance_worker LOGIN")
    try:
        eye.execute(
            "GRANT INSERT, SELECT ON work TO provenance_worker; GRANT USAGE ON SCHEMA public TO provenance_worker"
        )
        with psycopg.connect(conninfo.make_conninfo(provenance_dsn, user="provenance_worker"), autocommit=True) as own:
            own.execute("INSERT INTO work (id, action_id) VALUES (1, NULL)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute("SELECT provenance.capture_table('work')")
        (change,) = changes(trail, "work", 1)
        assert (change.db_user, change.action_id) == ("provenance_worker", None)
    finally:
        eye.execute("DROP OWNED BY provenance_worker; DROP ROLE provenance_worker")


def test_the_tenant_of_an_action_begun_in_sql_is_stored(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """It is looked up, where no block says it."""
    trail.capture("work")
    with eye.transaction():
        eye.execute("SELECT provenance.record_action('make', 'work', tenant_id => 'theirs')")
        eye.execute("INSERT INTO work (id) VALUES (1)")
        eye.execute("SELECT provenance.complete_action(provenance.current_action_id())")
    with trail.track_action("outer", concept="work", tenant_id="ours") as action:
        action.connection.execute("SELECT provenance.record_action('make', 'work', tenant_id => 'theirs')")
        action.connection.execute("INSERT INTO work (id) VALUES (2)")
        action.connection.execute("SELECT provenance.complete_action(provenance.current_action_id())")
        action.connection.execute("INSERT INTO work (id) VALUES (3)")
    assert [changes(trail, "work", key)[0].tenant_id for key in (1, 2, 3)] == ["theirs", "theirs", "ours"]


def test_long_and_secret_keys_are_kept_as_digests(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """And are found by what they are."""
    eye.execute(
        "CREATE TABLE t (token text PRIMARY KEY, n integer); CREATE TABLE long (id text PRIMARY KEY, n integer)"
    )
    trail.capture("t")
    trail.capture("long")
    long = "k" * 2_000
    eye.execute("INSERT INTO t VALUES ('s3cret', 1)")
    eye.execute("INSERT INTO long VALUES (%s, 1), ('short', 2)", (long,))
    (change,) = changes(trail, "t", "s3cret")
    assert change.key == f"sha256:{sha256(b's3cret').hexdigest()}"
    assert change.new == {"token": "[redacted]", "n": 1}
    assert [(changes(trail, "long", key)[0].new or {})["n"] for key in (long, "short")] == [1, 2]
    assert "s3cret" not in str(stored(eye))


def test_a_text_that_looks_like_the_mark_of_a_long_value_is_marked_itself(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """Nobody can pretend that a value was too long; one that only holds the mark within it is stored as it is."""
    forged = '{"$truncated":{"bytes":40000,"sha256":"' + "0" * 64 + '"}}'
    eye.execute("CREATE TABLE t (id integer PRIMARY KEY, a text, b text, c json, d jsonb)")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES (1, %s, %s, %s, %s)", (forged, f"x{forged}", forged, forged))
    eye.execute("UPDATE t SET b = %s", (forged[:-1],))
    insert, update = changes(trail, "t", 1)
    marked = Truncated(bytes=len(forged), sha256=sha256(forged.encode()).hexdigest())
    assert insert.new == {"id": 1, "a": marked, "b": f"x{forged}", "c": marked, "d": json.loads(forged)}
    cut = Truncated(bytes=len(forged) - 1, sha256=sha256(forged[:-1].encode()).hexdigest())
    assert update.new == {"id": 1, "a": marked, "b": cut, "c": marked, "d": json.loads(forged)}
    assert (update.old, update.changed) == (insert.new, ("b",))


KEYS: dict[str, Any] = {
    "boolean": False,
    "bigint": -5,
    "numeric": Decimal("1E+2"),
    "double precision": 1.0,
    "text": 'a "b", (c)',
    "uuid": UUID(int=7),
    "date": date(2026, 1, 2),
    "timestamptz": datetime(2026, 1, 2, 3, 4, 5, 670000, UTC),
    "timestamp": datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - what the column holds
    "bytea": b"\x00\xff",
}


@pytest.mark.parametrize("type_name", KEYS)
def test_keys_of_every_type_are_found(trail: Trail, eye: psycopg.Connection[Any], type_name: str) -> None:
    """By the value that Python has for them, alone and as a part."""
    key = KEYS[type_name]
    eye.execute(f"CREATE TABLE t (id {type_name} PRIMARY KEY)".encode())
    eye.execute(f"CREATE TABLE u (a {type_name}, b integer, PRIMARY KEY (b, a))".encode())
    trail.capture("t")
    trail.capture("u")
    eye.execute("INSERT INTO t VALUES (%s)", (key,))
    eye.execute("INSERT INTO u VALUES (%s, 1)", (key,))
    assert len(changes(trail, "t", key)) == 1
    assert len(changes(trail, "t", [key])) == 1
    assert len(changes(trail, "u", [1, key])) == 1


# A type, a key, what is asked for, and whether the column takes both for the same.
SAME: list[tuple[str, Any, Any, bool]] = [
    ("double precision", 1e15, 1e15, True),
    ("double precision", 1e22, "1e22", True),
    ("double precision", float("inf"), float("inf"), True),
    ("double precision", float("nan"), float("nan"), True),
    ("real", 0.1, 0.1, True),
    ("numeric(10,2)", Decimal("1.50"), Decimal("1.5"), True),
    ("numeric(10,2)", Decimal("1.50"), 1.5, True),
    ("numeric(10,2)", Decimal("1.50"), Decimal("1.504"), False),
    ("numeric", Decimal("Infinity"), Decimal("Infinity"), True),
    ("character(5)", "ab", "ab", True),
    ("character(5)", "ab", "ab   ", True),
    ("character(5)", "abcde", "abcdefg", False),
    ("character varying(3)", "abc", "abcd", False),
    ("integer", 7, " 007 ", True),
    ("uuid", UUID(int=7), "{00000000-0000-0000-0000-000000000007}", True),
    ("timestamptz", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T05:04:05+02:00", True),
    ("timestamptz", "infinity", "infinity", True),
    ("interval", "P1M", "1 month", True),
    ("int4range", "[1,6)", "[1,5]", True),
    ("price", Decimal("1.50"), Decimal("1.5"), True),
    ("prices", Decimal("1.50"), Decimal("1.5"), True),
    ("mood", "so so", "so so", True),
    ("mood", "so so", "so-so", False),
    ("tight.mood", "ok", "ok", True),
]


@pytest.mark.parametrize(("type_name", "key", "asked", "same"), SAME)
def test_a_key_is_what_the_column_takes_it_for(
    trail: Trail, eye: psycopg.Connection[Any], type_name: str, *, key: Any, asked: Any, same: bool
) -> None:
    """However it is written; and nothing that would fit only when it is rounded or cut off."""
    eye.execute("""CREATE TYPE mood AS ENUM ('ok', 'so so'); CREATE DOMAIN price AS numeric(10, 2);
                   CREATE DOMAIN prices AS price; CREATE SCHEMA tight; CREATE TYPE tight.mood AS ENUM ('ok');
                   SET timezone = 'Asia/Jerusalem'""")
    eye.execute(f"CREATE TABLE t (id {type_name} PRIMARY KEY)".encode())
    eye.execute(f"CREATE TABLE u (a text, b {type_name}, PRIMARY KEY (b, a))".encode())
    for table in ("t", "u"):
        trail.capture(table)
        trail.adopt(table)
    eye.execute(f"INSERT INTO t VALUES (%s::{type_name})".encode(), (key,))  # noqa: S608 - of the list above
    eye.execute("INSERT INTO u SELECT 'x, y', id FROM t")
    at = datetime.now(UTC) + timedelta(minutes=1)
    for _ in range(2):
        assert len(changes(trail, "public.t", asked)) == same
        assert len(changes(trail, "public.u", [asked, "x, y"])) == same
        assert len(trail.changes.blame("public.u", [asked, "x, y"])) == 2 * same
        assert (trail.changes.as_of("public.t", asked, at) is not None) == same
        # A table that is gone is asked for by the types that it had.
        eye.execute("DROP TABLE IF EXISTS t, u")


def test_a_type_that_was_changed_hides_no_key(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """It is looked for in the forms of every type that the column had, also before the next change is stored."""
    eye.execute("CREATE TABLE t (id numeric(10, 2) PRIMARY KEY, n integer)")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES (1.5, 1); ALTER TABLE t ALTER id TYPE numeric(12, 4)")
    assert len(changes(trail, "t", 1.5)) == 1
    row = trail.changes.as_of("t", 1.5, datetime.now(UTC) + timedelta(minutes=1))
    assert str((row or {})["id"]) == "1.5000"
    eye.execute("UPDATE t SET n = 2")
    assert [change.key for change in changes(trail, "t", 1.5)] == ["1.50", "1.5000"]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        (1, "1 value was given"),
        ([1], "1 value was given"),
        ([1, 2, 3], "3 values were given"),
        ([1, "seven"], "'seven' is no integer"),
        ([10**30, 2], f"'{10**30}' is no integer"),
    ],
)
def test_a_key_that_is_none_of_the_tables_is_refused(
    trail: Trail, eye: psycopg.Connection[Any], key: Any, wrong: str
) -> None:
    """That there are no changes of it would be taken for an answer; also when the table is gone."""
    eye.execute("CREATE TABLE u (a integer, b integer, PRIMARY KEY (a, b))")
    trail.capture("u")
    eye.execute("INSERT INTO u VALUES (1, 2)")
    assert len(changes(trail, "u", [1, 2])) == 1
    expected = f"key: the key of public.u is (a integer, b integer), and {wrong}"
    at = datetime.now(UTC) + timedelta(minutes=1)
    for _ in range(2):
        for ask in (trail.changes.history, trail.changes.blame):
            with pytest.raises(InvalidAction) as refusal:
                ask("public.u", key)
            assert str(refusal.value) == expected
        with pytest.raises(InvalidAction) as refusal:
            trail.changes.as_of("public.u", key, at)
        assert str(refusal.value) == expected
        eye.execute("DROP TABLE IF EXISTS u")


def test_a_key_that_the_table_once_had_is_asked_for(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """What was stored under another type is found by it."""
    eye.execute("CREATE TABLE t (id text PRIMARY KEY)")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES ('seven'); DELETE FROM t; ALTER TABLE t ALTER id TYPE integer USING 7")
    trail.capture("t")
    assert [change.operation.value for change in changes(trail, "t", "seven")] == ["insert", "delete"]


def test_no_history_is_hidden_when_the_key_was_another(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Capturing the table again notes its new key only; what is stored under the one before is found by that."""
    eye.execute("CREATE TABLE t (id integer CONSTRAINT t_pkey PRIMARY KEY, a integer NOT NULL, b integer NOT NULL)")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES (7, 1, 2); INSERT INTO t VALUES (5, 3, 4); UPDATE t SET id = 6 WHERE id = 5")
    at = datetime.now(UTC) + timedelta(minutes=1)
    eye.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a, b)")
    trail.capture("t")
    assert [len(changes(trail, "t", key)) for key in (7, 5, 6, [1, 2])] == [1, 2, 1, 0]
    assert len(trail.changes.blame("t", 7)) == 3
    assert trail.changes.as_of("t", 7, at) == {"id": 7, "a": 1, "b": 2}
    with pytest.raises(
        InvalidAction, match=r"^key: the key of public\.t is \(a integer, b integer\), and 1 value was given"
    ):
        trail.changes.history("t", 8)


def test_a_domain_of_the_applications_own_is_not_run(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Its check is somebody's function, which would run with the rights of whoever reads."""
    eye.execute("""CREATE FUNCTION spy(integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('application_name') = 'reader' THEN RAISE EXCEPTION 'executed'; END IF; RETURN true; END $$;
        CREATE DOMAIN spied AS integer CHECK (spy(VALUE)); CREATE TABLE t (id spied PRIMARY KEY)""")
    trail.capture("t")
    eye.execute("INSERT INTO t VALUES (7); SET application_name = 'reader'")
    found = eye.execute(
        "SELECT provenance.key_texts(provenance.captures_of('t', 't'), 't'::regclass, '{007}')"
    ).fetchone()
    assert found is not None
    assert "7" in found[0]


REFUSED = {
    "nope": "there is no table nope; write its name with its schema, unless that is in the search path",
    "Nope": (
        "there is no table Nope; write its name with its schema, unless that is in the search path, and with capitals in "
        "double quotes, as in '\"Nope\"'"
    ),
    "nope.work": "there is no table nope.work; write its name with its schema, unless that is in the search path",
    "a.b.c.d": "improper relation name (too many dotted names): a.b.c.d",
    "a_view": "public.a_view cannot be captured: it is a view; name the table behind it",
    "keyless": (
        "public.keyless cannot be captured: it has no primary key, so that nobody could tell which row a change was made "
        "to; give it one with ALTER TABLE … ADD PRIMARY KEY"
    ),
    "parted_a": "public.parted_a cannot be captured: it is a partition; name its parent, public.parted",
    "provenance.row_changes": "provenance.row_changes cannot be captured: it is not a table of yours",
    "pg_temp.mine": "there is no table pg_temp.mine; write its name with its schema, unless that is in the search path",
}


@pytest.mark.parametrize("table", REFUSED)
async def test_a_table_that_cannot_be_captured_is_refused_with_the_reason(
    colour: Blocking, eye: psycopg.Connection[Any], table: str
) -> None:
    """And nothing is half-done."""
    eye.execute(PARTITIONED)
    eye.execute("CREATE VIEW a_view AS SELECT 1 AS id; CREATE TABLE keyless (id integer)")
    with pytest.raises(TableRefused) as caught:
        await done(colour.trail.capture(table))
    assert str(caught.value) == REFUSED[table]
    assert eye.execute("SELECT count(*) FROM provenance.captured_tables").fetchone() == (0,)
    assert eye.execute(
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_%' AND prorettype = 'trigger'::regtype"
    ).fetchone() == (0,)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"exclude": ["nope"]}, "public.work has no column nope; its columns are id, secret, action_id"),
    ({"mask": ["Id"]}, "public.work has no column Id; its columns are id, secret, action_id"),
    ({"keep": ["nope"]}, "keep: work has no column nope; its columns are id, secret, action_id"),
    (
        {"exclude": ["id"]},
        "column id of public.work cannot be excluded: it is in the primary key; mask it: the key is then kept as a digest",
    ),
    ({"max_bytes": 1}, "max_bytes: expected 64 to 16777216, got 1"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
async def test_wrong_settings_are_refused(colour: Blocking, settings: dict[str, Any], message: str) -> None:
    """With the name of what is wrong."""
    with pytest.raises(TableRefused) as caught:
        await done(colour.trail.capture("work", **settings))
    assert str(caught.value) == message


def test_capturing_in_sql_masks_what_sounds_like_a_secret(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """By the words of the library's own redactor, unless it is said to be harmless."""
    eye.execute("CREATE TABLE t (id integer PRIMARY KEY, api_key text, shipping text)")
    eye.execute("SELECT provenance.capture_table('t', kept => '{shipping}')")
    eye.execute("INSERT INTO t VALUES (1, 'k', 's')")
    assert dict(changes(trail, "t", 1)[0].new or {}) == {"id": 1, "api_key": "[redacted]", "shipping": "s"}
    assert eye.execute("SELECT suspicious FROM provenance.captured_tables").fetchone() == (Redactor().suspicious,)


async def test_a_text_for_a_list_of_columns_is_refused(colour: Blocking) -> None:
    """It would mean its letters."""
    with pytest.raises(TypeError, match=r'^mask: expected a list of columns, got text; write \["secret"\]'):
        await done(colour.trail.capture("work", mask="secret"))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"exclude": ["id", "secret"], "mask": ["secret"]}, "exclude and mask"),
        ({"exclude": ["secret"], "keep": ["secret"]}, "exclude and keep"),
        ({"mask": ["secret"], "keep": ["secret"]}, "mask and keep"),
    ],
)
async def test_a_column_in_two_settings_is_refused(
    colour: Blocking, settings: dict[str, list[str]], names: str
) -> None:
    """Each says something else of it."""
    with pytest.raises(InvalidAction, match=f"^{names} both name the column secret; name it in one of them only$"):
        await done(colour.trail.capture("work", **settings))


def test_an_owner_of_the_trail_that_may_not_read_the_table_is_refused(
    trail: Trail, eye: psycopg.Connection[Any]
) -> None:
    """It could not store what a TRUNCATE removes."""
    eye.execute("CREATE ROLE provenance_owner")
    try:
        eye.execute("ALTER SCHEMA provenance OWNER TO provenance_owner")
        with pytest.raises(TableRefused, match="the owner of the schema provenance, provenance_owner, may not read it"):
            trail.capture("work")
    finally:
        eye.execute("ALTER SCHEMA provenance OWNER TO CURRENT_USER; DROP ROLE provenance_owner")


async def test_releasing_stops_capturing_and_keeps_what_was_stored(
    colour: Blocking, eye: psycopg.Connection[Any]
) -> None:
    """Of a table that is gone altogether, too; what was in between two captures is not known."""
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("INSERT INTO work (id) VALUES (1)")
    await done(colour.trail.release("work"))
    eye.execute("UPDATE work SET secret = 'unseen'")
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute("UPDATE work SET secret = 'seen'")
    eye.execute("DROP TABLE work")
    update, insert = await done(colour.trail.changes.history("public.work", 1))
    assert (insert.operation, update.old["secret"], update.new["secret"]) == ("insert", "unseen", "seen")
    with pytest.raises(
        NotCaptured, match=r"^there is no table work in the search path; row changes of public\.work have been captured"
    ):
        await done(colour.trail.changes.history("work", 1))


async def test_releasing_what_is_not_captured_is_refused(colour: Blocking) -> None:
    """And so is adopting it."""
    with pytest.raises(TableRefused, match=r"^row changes of public\.work are not captured$"):
        await done(colour.trail.release("work"))
    with pytest.raises(TableRefused, match=r"^row changes of public\.work are not captured; capture it first$"):
        await done(colour.trail.adopt("work"))


@pytest.mark.parametrize("partitioned", [False, True])
def test_releasing_leaves_a_table_as_it_was(trail: Trail, eye: psycopg.Connection[Any], partitioned: bool) -> None:
    """No trigger, no function."""
    eye.execute(PARTITIONED)
    table = "parted" if partitioned else "work"
    trail.capture(table)
    trail.release(table)
    assert (
        eye.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'provenance%'").fetchall()
        == []
    )
    assert eye.execute(r"SELECT proname FROM pg_proc WHERE proname ~ '^capture_\d'").fetchall() == []


def test_a_renamed_table_keeps_its_history(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Under its new name."""
    trail.capture("work")
    eye.execute("INSERT INTO work (id) VALUES (1); ALTER TABLE work RENAME TO job; DELETE FROM job")
    assert [change.operation.value for change in changes(trail, "job", 1)] == ["insert", "delete"]
    trail.release("job")
    assert len(changes(trail, "job", 1)) == 2


def test_capturing_is_recorded_as_an_action(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Who turned it on, how, and who off."""
    trail.capture("work", exclude=["action_id"])
    eye.execute("INSERT INTO work (id) VALUES (1)")
    trail.release("work")
    off, on = trail.actions.entity_history("table", "work").items
    settings = {"exclude": ["action_id"], "mask": [], "keep": [], "max_bytes": 32768}
    assert (on.action_type, on.payload, off.action_type) == ("capture_table", settings, "release_table")


async def test_adopting_stores_the_rows_that_were_there_before(colour: Blocking, eye: psycopg.Connection[Any]) -> None:
    """Once, and not those whose changes tell already what they were."""
    eye.execute("INSERT INTO work (id) SELECT generate_series(1, 5)")
    await done(colour.trail.capture("work", keep=["secret"]))
    eye.execute(
        "UPDATE work SET secret = 'x' WHERE id = 1; UPDATE work SET id = 7 WHERE id = 2; DELETE FROM work WHERE id = 3"
    )
    assert await done(colour.trail.adopt("work")) == 2
    assert await done(colour.trail.adopt("work")) == 0
    action = (await done(colour.trail.actions.search(action_type="adopt_table"))).items[1]
    assert action.result == {"rows": 2}
    (baseline,) = await done(colour.trail.changes.history("work", 4))
    assert brief(baseline) == ("baseline", None, {"id": 4, **WORK})
    page = await done(colour.trail.changes.of_action(action.id))
    assert [(change.operation, change.key) for change in page] == [("baseline", "4"), ("baseline", "5")]


def test_a_change_that_is_under_way_comes_after_the_baseline(trail: Trail, eye: psycopg.Connection[Any]) -> None:
    """Adopting waits for nobody and still stores what such a row was before."""
    eye.execute("INSERT INTO work (id) VALUES (1)")
    trail.capture("work", keep=["secret"])
    with eye.transaction():
        eye.execute("UPDATE work SET secret = 'x'")
        assert trail.adopt("work") == 1
    assert [change.operation.value for change in changes(trail, "work", 1)] == ["baseline", "update"]
