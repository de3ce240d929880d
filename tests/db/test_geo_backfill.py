"""Moving a table from a column for each level to one id: in batches, stopped and run again, at once, and back."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import psycopg
import pytest

from provenance import geo
from provenance.concepts import ConceptRefused, InvalidConcept, apply
from provenance.errors import MisusedAction, SchemaNotReady
from provenance.geo import ContradictoryLevels, Geography, Level, LevelColumns
from provenance.geo import batches as batches_of_geo
from provenance.models import Action
from provenance.trail import Trail
from tests.support import places
from tests.support.places import GEOGRAPHY, LEVELS

Connection = psycopg.Connection[Any]

COVERAGE = LevelColumns(geography=GEOGRAPHY, table="public.coverage")
TABLE = """
CREATE TABLE coverage (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, publisher integer NOT NULL DEFAULT 1,
    continent_id integer, country_id integer, region_id integer, district_id integer, city_id integer)
"""
ROWS = """
INSERT INTO coverage (continent_id, country_id, region_id, district_id, city_id) VALUES
    (1, 10, 100, NULL, 1000), (1, 10, 100, NULL, 1000), (2, 20, 200, 2000, 3000), (NULL, 10, NULL, NULL, NULL),
    (NULL, NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL, 7), (1, NULL, NULL, NULL, NULL), (2, 20, NULL, NULL, 3000)
"""
# What a location says, or NULL where the row has none.
RESOLVED = """
SELECT c.id, l.level, l.continent_id, l.country_id, l.region_id, l.district_id, l.city_id
  FROM coverage c LEFT JOIN geo_locations l ON l.id = c.geo_location_id ORDER BY c.id
"""
AS_COLUMNS = "SELECT id, continent_id, country_id, region_id, district_id, city_id FROM coverage ORDER BY id"
WAITING = """
SELECT count(*) FROM coverage
 WHERE geo_location_id IS NULL AND num_nonnulls(continent_id, country_id, region_id, district_id, city_id) > 0
"""


@pytest.fixture
def connection(provenance_dsn: str) -> Any:
    """A connection to a database with places and some coverage."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        places.make(connection)
        connection.execute(TABLE)
        connection.execute(ROWS)
        yield connection


def many(connection: Connection, rows: int) -> None:
    """Add rows whose levels are given in all manners, each place in several rows."""
    connection.execute(
        """INSERT INTO coverage (continent_id, country_id, region_id, city_id)
            SELECT CASE WHEN n %% 2 = 0 THEN 1 END, CASE WHEN n %% 3 = 0 THEN 10 END, CASE WHEN n %% 5 = 0 THEN 100 END,
                   CASE WHEN n %% 7 > 0 THEN 10000 + n / 3 END
              FROM generate_series(1, %s) AS n""",
        [rows],
    )


def answers(connection: Connection, query: str) -> list[Any]:
    """Return the rows of a query."""
    return connection.execute(query.encode()).fetchall()


def batches(trail: Trail) -> list[Action]:
    """Return the actions about the table, oldest first."""
    return list(trail.actions.entity_history("table", "public.coverage", limit=1000))[::-1]


def test_each_row_gets_the_id_of_its_location(connection: Connection, trail: Trail) -> None:
    """Rows of the same places get the same one; those that name none are left alone; the columns stay as they were."""
    before = answers(connection, AS_COLUMNS)
    assert geo.add_reference(connection, COVERAGE)
    assert not geo.add_reference(connection, COVERAGE)
    moved = geo.backfill(trail, COVERAGE)
    assert moved == geo.Moved(rows=7, locations=6, batches=1, left=0)
    assert answers(connection, AS_COLUMNS) == before
    levels = ["city", "city", "city", "country", None, "city", "continent", "city"]
    assert answers(connection, RESOLVED) == [
        (number, level, *(row[1:] if level else [None] * 5))
        for number, (level, row) in enumerate(zip(levels, before, strict=True), 1)
    ]
    [action] = batches(trail)
    assert ("backfill_locations", {"rows": 7, "locations": 6, "after": None, "upto": None}) == (
        action.action_type,
        action.result,
    )


def test_it_goes_by_batches_that_are_actions(connection: Connection, trail: Trail) -> None:
    """Each tells up to which key it went; progress is told after each."""
    geo.add_reference(connection, COVERAGE)
    told = list[tuple[int, int]]()
    moved = geo.backfill(trail, COVERAGE, batch=3, progress=lambda done, total: told.append((done, total)))
    assert moved == geo.Moved(rows=7, locations=6, batches=3, left=0)
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert [action.result["upto"] for action in batches(trail)] == [["3"], ["7"], None]


def test_run_twice_it_does_nothing(connection: Connection, trail: Trail) -> None:
    """There is nothing to do the second time."""
    geo.add_reference(connection, COVERAGE)
    geo.backfill(trail, COVERAGE)
    before = answers(connection, "SELECT xmin, * FROM coverage ORDER BY id")
    assert geo.backfill(trail, COVERAGE) == geo.Moved(rows=0, locations=0, batches=0, left=0)
    assert answers(connection, "SELECT xmin, * FROM coverage ORDER BY id") == before


KILLED = """
import sys
from provenance import Trail, geo
from tests.db.test_geo_backfill import COVERAGE
with Trail(sys.argv[1]) as trail:
    geo.backfill(trail, COVERAGE, batch=7_000, progress=lambda done, total: print(done, flush=True))
"""


def test_killed_and_run_again_it_ends_as_if_it_had_not_been(connection: Connection, trail: Trail) -> None:
    """Row for row, and no location is there twice or for nothing."""
    many(connection, 200_000)
    geo.add_reference(connection, COVERAGE)
    connection.execute("CREATE TABLE uninterrupted (LIKE coverage INCLUDING ALL)")
    connection.execute("INSERT INTO uninterrupted OVERRIDING SYSTEM VALUE SELECT * FROM coverage")
    arguments = [sys.executable, "-c", KILLED, connection.info.dsn]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(random.randint(1, 20)):  # noqa: S311 - anywhere
            assert process.stdout.readline()
        # By now it is somewhere in the next batch.
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = answers(connection, "SELECT count(geo_location_id) FROM coverage")[0][0]
    assert 0 < done < 200_000
    moved = geo.backfill(trail, COVERAGE)
    assert moved.left == 0
    interrupted = answers(connection, RESOLVED)
    locations = answers(connection, "SELECT count(*) FROM geo_locations")
    assert locations == answers(connection, "SELECT count(DISTINCT geo_location_id) FROM coverage")
    assert geo.backfill(trail, LevelColumns(geography=GEOGRAPHY, table="public.uninterrupted")).locations == 0
    assert interrupted == answers(connection, RESOLVED.replace("coverage", "uninterrupted"))


def test_several_at_once_take_turns(connection: Connection, trail: Trail) -> None:
    """No row is done twice, none is forgotten, and none of them fails."""
    many(connection, 5_000)
    geo.add_reference(connection, COVERAGE)
    start = threading.Barrier(4)

    def run(_: int) -> geo.Moved:
        start.wait(timeout=30)
        return geo.backfill(trail, COVERAGE, batch=97)

    with ThreadPoolExecutor(4) as executor:
        moved = list(executor.map(run, range(4)))
    [(rows, locations)] = answers(
        connection, "SELECT count(geo_location_id), count(DISTINCT geo_location_id) FROM coverage"
    )
    assert sum(one.rows for one in moved) == rows
    assert sum(one.locations for one in moved) == locations
    assert answers(connection, WAITING) == [(0,)]


def test_rows_that_come_meanwhile_are_told(connection: Connection, trail: Trail) -> None:
    """Those that come behind it are counted, and done by the next run."""
    geo.add_reference(connection, COVERAGE)

    def progress(done: int, total: int) -> None:
        assert done <= total
        connection.execute("INSERT INTO coverage (id, city_id) OVERRIDING SYSTEM VALUE VALUES (-%s, 1000)", [done])

    assert geo.backfill(trail, COVERAGE, batch=4, progress=progress).left == 2
    assert geo.backfill(trail, COVERAGE) == geo.Moved(rows=2, locations=1, batches=1, left=0)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("city_id, country_id) VALUES (1000, 20)", "city 1000 lies in country 10, not in 20"),
        ("district_id, region_id) VALUES (2000, 100)", "district 2000 lies in region 200, not in 100"),
    ],
)
def test_levels_that_contradict_each_other_stop_it_before_it_begins(
    connection: Connection, trail: Trail, row: str, sentence: str
) -> None:
    """The sentence says how many rows say what; nothing was written."""
    geo.add_reference(connection, COVERAGE)
    for _ in range(2):
        connection.execute(f"INSERT INTO coverage ({row}".encode())
    with pytest.raises(ContradictoryLevels) as caught:
        geo.backfill(trail, COVERAGE, batch=1)
    assert str(caught.value) == (
        f"in 2 rows of public.coverage the levels contradict each other: {sentence}; correct the rows or the tables of "
        "places, and run it again"
    )
    assert batches(trail) == []
    assert answers(connection, "SELECT count(*) FROM geo_locations") == [(0,)]


def test_a_contradiction_that_comes_meanwhile_fails_its_batch(connection: Connection, trail: Trail) -> None:
    """The batches before it stay; its own is undone, and recorded as failed; several kinds are counted."""
    geo.add_reference(connection, COVERAGE)

    def progress(done: int, total: int) -> None:
        connection.execute("INSERT INTO coverage (city_id, country_id, region_id) VALUES (1000, 20, 200)")

    with pytest.raises(ContradictoryLevels, match=r"not in 20 \(and 1 more contradiction\)"):
        geo.backfill(trail, COVERAGE, batch=4, progress=progress)
    assert [action.status for action in batches(trail)] == ["completed", "failed"]
    assert answers(connection, "SELECT count(geo_location_id) FROM coverage") == [(4,)]


def test_it_can_be_carried_back(connection: Connection, trail: Trail) -> None:
    """What the ids say is written into the columns; then the column of ids can be dropped, and all is as it was."""
    shape = """SELECT attname, attnum FROM pg_attribute
                WHERE attrelid = 'coverage'::regclass AND attnum > 0 AND NOT attisdropped"""
    before, columns = answers(connection, AS_COLUMNS), answers(connection, shape)
    geo.add_reference(connection, COVERAGE)
    geo.backfill(trail, COVERAGE)
    connection.execute(
        """UPDATE coverage
              SET continent_id = NULL, country_id = NULL, region_id = NULL, district_id = NULL, city_id = NULL"""
    )
    with pytest.raises(ConceptRefused) as caught:
        geo.drop_reference(connection, COVERAGE)
    assert str(caught.value) == (
        "public.coverage has 7 rows with an id in geo_location_id that says something else than the columns; "
        "carry it back first"
    )
    told = list[tuple[int, int]]()
    moved = geo.carry_back(trail, COVERAGE, batch=5, progress=lambda done, total: told.append((done, total)))
    assert moved == geo.Moved(rows=7, locations=0, batches=2, left=0)
    assert told == [(5, 7), (7, 7)]
    assert geo.carry_back(trail, COVERAGE) == geo.Moved(rows=0, locations=0, batches=0, left=0)
    geo.drop_reference(connection, COVERAGE)
    assert (before, columns) == (answers(connection, AS_COLUMNS), answers(connection, shape))


def test_columns_that_are_written_after_the_id_are_told(connection: Connection, trail: Trail) -> None:
    """It is not known which is right, so the backfill leaves them, and they are not written over unless one says so."""
    geo.add_reference(connection, COVERAGE)
    geo.backfill(trail, COVERAGE)
    connection.execute(
        "UPDATE coverage SET continent_id = 2, country_id = 20, region_id = NULL, city_id = 3000 WHERE id = 1"
    )
    assert geo.backfill(trail, COVERAGE) == geo.Moved(rows=0, locations=0, batches=0, left=0, differing=1)
    with pytest.raises(ConceptRefused) as caught:
        geo.carry_back(trail, COVERAGE)
    assert str(caught.value) == (
        "public.coverage has 1 row with columns that name other places than the id does; if the ids are right, allow it "
        "with overwrite=True, or --overwrite"
    )
    assert geo.carry_back(trail, COVERAGE, overwrite=True).rows == 1
    assert geo.backfill(trail, COVERAGE).differing == 0


def test_it_is_not_part_of_another_action(connection: Connection, trail: Trail) -> None:
    """Its batches would be undone with that."""
    geo.add_reference(connection, COVERAGE)
    with trail.track_action("migrate", concept="schema"):
        for move in (geo.backfill, geo.carry_back):
            with pytest.raises(MisusedAction, match="call this outside any action"):
                move(trail, COVERAGE)


def test_what_stands_in_the_way_for_a_while(
    connection: Connection, trail: Trail, provenance_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that meets a locked row is done again; the failed one is recorded; one that is locked for good fails."""
    monkeypatch.setattr(batches_of_geo, "_LOCK_TIMEOUT", "50ms")
    geo.add_reference(connection, COVERAGE)
    with psycopg.connect(provenance_dsn) as other:
        other.execute("UPDATE coverage SET publisher = 2 WHERE id = 3")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            geo.backfill(trail, COVERAGE)
        refuse = batches_of_geo._refuse_contradictions
        calls = iter(range(10))

        def releasing(*args: Any) -> None:
            if next(calls) == 2:
                other.rollback()
            refuse(*args)

        monkeypatch.setattr(batches_of_geo, "_refuse_contradictions", releasing)
        assert geo.backfill(trail, COVERAGE).rows == 7
    assert [action.status for action in batches(trail)] == ["failed"] * 6 + ["completed"]


def test_a_column_that_somebody_adds_meanwhile(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the lock looks again once it has it."""
    lock = batches_of_geo._lock

    def adding(locked: Connection, form: LevelColumns) -> None:
        locked.execute("ALTER TABLE coverage ADD COLUMN geo_location_id uuid")
        lock(locked, form)

    monkeypatch.setattr(batches_of_geo, "_lock", adding)
    assert not geo.add_reference(connection, COVERAGE)


def test_changing_the_table_needs_a_transaction_of_its_own(connection: Connection) -> None:
    """And nothing that depends on the column."""
    with connection.transaction(), pytest.raises(ConceptRefused, match="needs a connection with no transaction open"):
        geo.add_reference(connection, COVERAGE)
    geo.add_reference(connection, COVERAGE)
    connection.execute("CREATE VIEW shown AS SELECT geo_location_id FROM coverage")
    with pytest.raises(ConceptRefused, match=r"public.coverage is as it was"):
        geo.drop_reference(connection, COVERAGE)


def test_a_row_of_the_whole_world_is_not_carried_back(connection: Connection, trail: Trail) -> None:
    """Columns cannot tell it from a row that names no place."""
    geo.add_reference(connection, COVERAGE)
    with trail.track_action("place", concept="coverage") as action:
        world = geo.GeoRepository(GEOGRAPHY, trail).find_or_create()
        action.connection.execute("UPDATE coverage SET geo_location_id = %s WHERE id = 5", (world,))
    with pytest.raises(ConceptRefused, match=r"^public.coverage has 1 row that cannot be carried back"):
        geo.carry_back(trail, COVERAGE)
    with pytest.raises(ConceptRefused, match=r"^public.coverage has 1 row with an id"):
        geo.drop_reference(connection, COVERAGE)


def test_columns_that_nobody_can_write(connection: Connection, trail: Trail) -> None:
    """They can be moved from, not to; included columns are none of the key."""
    connection.execute(
        """CREATE TABLE placed (id integer, city_id integer GENERATED ALWAYS AS (id * 1000) STORED, note text,
                               PRIMARY KEY (id) INCLUDE (note));
           INSERT INTO placed VALUES (1), (3), (4)"""
    )
    form = LevelColumns(geography=GEOGRAPHY, table="public.placed", columns={"city": "city_id"})
    geo.add_reference(connection, form)
    assert geo.backfill(trail, form, batch=1).rows == 3
    with pytest.raises(ConceptRefused, match=r"public.placed.city_id is generated, and cannot be written"):
        geo.carry_back(trail, form)


def test_what_cannot_be_carried_back_is_refused(connection: Connection, trail: Trail) -> None:
    """A location that names a level without a column here, and one that is not there; nothing was written."""
    geo.add_reference(connection, COVERAGE)
    geo.backfill(trail, COVERAGE)
    narrow = LevelColumns(
        geography=GEOGRAPHY, table="public.coverage", columns={"city": "city_id", "country": "country_id"}
    )
    connection.execute("UPDATE coverage SET geo_location_id = gen_random_uuid() WHERE id = 4")
    for form, lost in ((narrow, "6 rows"), (COVERAGE, "1 row")):
        with pytest.raises(ConceptRefused) as caught:
            geo.carry_back(trail, form)
        assert str(caught.value) == (
            f"public.coverage has {lost} that cannot be carried back: the location is not there, or names a place of a "
            "level that the table has no column for, or no place; give another location, or add the column"
        )
        with pytest.raises(ConceptRefused, match=r"rows? with an id in geo_location_id that says something"):
            geo.drop_reference(connection, form)


def test_a_table_with_columns_for_some_levels(connection: Connection, trail: Trail) -> None:
    """Under other names, with other types that compare, odd names and a key of several columns of its own order."""
    connection.execute(
        """CREATE TABLE "Shops %s" ("the {country}" bigint, town smallint, b text, "a%s" uuid DEFAULT gen_random_uuid(),
                                   PRIMARY KEY (b, "a%s"));
           INSERT INTO "Shops %s" SELECT 10, CASE WHEN n % 2 = 0 THEN 1000 END, 'x''' || n % 3
             FROM generate_series(1, 100) AS n"""
    )
    form = LevelColumns(
        geography=GEOGRAPHY,
        table='public."Shops %s"',
        columns={"city": "town", "country": "the {country}"},
        reference='Lies "in" %s',
    )
    geo.add_reference(connection, form)
    moved = geo.backfill(trail, form, batch=9)
    assert moved == geo.Moved(rows=100, locations=2, batches=12, left=0)
    connection.execute('UPDATE "Shops %s" SET town = NULL')
    assert geo.carry_back(trail, form, batch=9, overwrite=True).rows == 50
    geo.drop_reference(connection, form)


def test_a_geography_whose_levels_say_nothing_of_each_other(connection: Connection, trail: Trail) -> None:
    """Nothing can contradict."""
    loose = Geography(name="spot", levels=[Level(name=name, table=f"public.{name}") for name in LEVELS])
    form = LevelColumns(geography=loose, table="public.coverage")
    for name in LEVELS:
        connection.execute(f"CREATE VIEW {name} AS SELECT 1 AS id, ''::text AS name".encode())
    apply(connection, loose.concept)
    geo.add_reference(connection, form)
    assert geo.backfill(trail, form).rows == 7
    with trail.track_action("place", concept="spot"):
        assert geo.GeoRepository(loose, trail).find_or_create(country=20, city=1000)


@pytest.mark.parametrize(
    ("change", "form", "sentence"),
    [
        ("", {"table": "public.nowhere"}, "there is no table public.nowhere; create it first, or correct the name"),
        (
            "CREATE VIEW shown AS SELECT * FROM coverage",
            {"table": "public.shown"},
            "public.shown is a view, whose rows cannot be given ids; name the table itself",
        ),
        (
            "ALTER TABLE coverage DROP CONSTRAINT coverage_pkey",
            {},
            "public.coverage has no primary key, so its rows cannot be told apart; add one",
        ),
        (
            "",
            {"columns": {"city": "town"}},
            (
                "public.coverage has no column town; it has id, publisher, continent_id, country_id, region_id, "
                "district_id, city_id"
            ),
        ),
        (
            "",
            {"reference": "publisher"},
            "public.coverage.publisher is of type integer and cannot hold an id; give another reference=",
        ),
        (
            "ALTER TABLE coverage ALTER city_id TYPE uuid USING NULL",
            {},
            (
                "public.coverage.city_id is of type uuid, and the key of a city is of type integer; correct the type of the "
                "level, or of the column"
            ),
        ),
        (
            "ALTER TABLE coverage ADD COLUMN geo_location_id uuid NOT NULL DEFAULT gen_random_uuid()",
            {},
            (
                "public.coverage.geo_location_id is not null, or has a value by itself, so it is not known which rows have "
                "an id; make it nullable without a default"
            ),
        ),
        (
            "DROP TABLE geo_locations CASCADE",
            {},
            "there is no table public.geo_locations for the locations; apply the concept of the geography first",
        ),
    ],
)
def test_a_table_that_is_not_fit_is_refused(
    connection: Connection, trail: Trail, change: str, form: dict[str, Any], sentence: str
) -> None:
    """With one sentence, whatever is asked; nothing is changed."""
    connection.execute(change.encode())
    unfit = LevelColumns(**{"geography": GEOGRAPHY, "table": "public.coverage"} | form)
    for ask in (geo.backfill, geo.carry_back):
        with pytest.raises(ConceptRefused) as caught:
            ask(trail, unfit)
        assert str(caught.value) == sentence
    for alter in (geo.add_reference, geo.drop_reference):
        with pytest.raises(ConceptRefused) as caught:
            alter(connection, unfit)
        assert str(caught.value) == sentence


UNFIT = [
    (
        {"within": {"country": "land_id"}},
        (
            "the reference geo_location.region_id resolves to public.regions, which has no column land_id; it has id, name, "
            "country_id"
        ),
    ),
    (
        {"within": {"country": "name"}},
        (
            "the reference geo_location.region_id resolves to public.regions, whose column name is of type text and is "
            "compared with the type integer; name another column, or correct the types"
        ),
    ),
    (
        {"table": "public.regionz"},
        "the reference geo_location.region_id resolves to public.regionz, and there is no such table; create it first",
    ),
    (
        {"type": "nothing"},
        (
            "Postgres does not know the type nothing of geo_location.region_id; correct it, create it first, or write it "
            "with its schema"
        ),
    ),
]


@pytest.mark.parametrize(("wrong", "sentence"), UNFIT)
def test_a_geography_that_does_not_fit_the_tables_of_places_is_refused(
    connection: Connection, trail: Trail, wrong: dict[str, Any], sentence: str
) -> None:
    """Before anything is changed, the column for the id included; what is there already can still be carried back."""
    region = attrs.evolve(GEOGRAPHY.levels[2], **wrong)
    broken = Geography(levels=[*GEOGRAPHY.levels[:2], region, *GEOGRAPHY.levels[3:]])
    unfit = LevelColumns(geography=broken, table="public.coverage", columns={"country": "country_id"})
    before = answers(connection, "SELECT * FROM coverage")
    with pytest.raises(ConceptRefused) as caught:
        geo.add_reference(connection, unfit)
    assert (sentence, before) == (str(caught.value), answers(connection, "SELECT * FROM coverage"))
    geo.add_reference(connection, COVERAGE)
    with pytest.raises(ConceptRefused) as caught:
        geo.backfill(trail, unfit)
    assert (sentence, [(7,)]) == (str(caught.value), answers(connection, WAITING))
    assert 0 == geo.carry_back(trail, unfit).rows
    geo.drop_reference(connection, unfit)


def test_locations_that_are_not_as_declared_are_told(connection: Connection, trail: Trail) -> None:
    """It is the concept that has to be applied, and not the schema of the trail."""
    connection.execute("CREATE TABLE quarters (id integer PRIMARY KEY, name text)")
    quarter = Level(name="quarter", table="public.quarters")
    grown = LevelColumns(geography=Geography(levels=[*GEOGRAPHY.levels, quarter]), table="public.coverage")
    connection.execute("ALTER TABLE coverage ADD COLUMN quarter_id integer")
    geo.add_reference(connection, grown)
    for ask in (geo.backfill, geo.carry_back):
        with pytest.raises(SchemaNotReady) as caught:
            ask(trail, grown)
        assert str(caught.value) == (
            "the database lacks the concept geo_location as it is declared (column l.quarter_id does not exist); run your "
            "migrations, or `provenance concept sql --apply`"
        )
    with pytest.raises(SchemaNotReady, match=r"^the database lacks the concept geo_location"):
        geo.drop_reference(connection, grown)


def test_without_the_column_for_the_id(connection: Connection, trail: Trail) -> None:
    """The error says how to add it; for the way back there is nothing to do."""
    absent = r"^public\.coverage has no column geo_location_id"
    with pytest.raises(ConceptRefused, match=rf"{absent}; add it with add_reference\(\)$"):
        geo.backfill(trail, COVERAGE)
    with pytest.raises(ConceptRefused, match=f"{absent}, so there is nothing to carry back$"):
        geo.carry_back(trail, COVERAGE)
    with pytest.raises(ConceptRefused, match=f"{absent}, so there is nothing to drop$"):
        geo.drop_reference(connection, COVERAGE)


def test_a_batch_has_rows(connection: Connection, trail: Trail) -> None:
    """A number that is not positive is refused."""
    geo.add_reference(connection, COVERAGE)
    with pytest.raises(ValueError, match="batch: expected a positive number of rows, got 0"):
        geo.backfill(trail, COVERAGE, batch=0)


def test_a_lock_that_is_held(connection: Connection, provenance_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds the column waits a short time, so that nobody waits behind."""
    monkeypatch.setattr(batches_of_geo, "_LOCK_TIMEOUT", "50ms")
    with psycopg.connect(provenance_dsn) as other:
        other.execute("SELECT * FROM coverage")
        with pytest.raises(ConceptRefused) as caught:
            geo.add_reference(connection, COVERAGE)
    assert str(caught.value) == (
        "public.coverage has been in use for 50ms, and nothing was changed; run it again when it is not"
    )


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (
            {"columns": {"town": "city_id"}},
            (
                "the columns of public.coverage: the geography has no level town; it has continent, country, region, "
                "district, city"
            ),
        ),
        (
            {"columns": {"city": "place", "country": "place"}},
            "public.coverage: a column has two meanings (place, place, geo_location_id); name each once",
        ),
        (
            {"reference": "city_id"},
            (
                "public.coverage: a column has two meanings (continent_id, country_id, region_id, district_id, city_id, "
                "city_id); name each once"
            ),
        ),
    ],
)
def test_declarations_that_are_refused(form: dict[str, Any], sentence: str) -> None:
    """When they are made."""
    with pytest.raises(InvalidConcept) as caught:
        LevelColumns(**{"geography": GEOGRAPHY, "table": "public.coverage"} | form)
    assert str(caught.value) == sentence
