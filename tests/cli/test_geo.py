"""``geo backfill``: there, back, and what it says of a declaration that it cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from provenance.trail import Trail
from tests.support import places, roles

Run = Callable[..., click.testing.Result]

DECLARED = """
from provenance.geo import LevelColumns
from tests.support.places import GEOGRAPHY

COVERAGE = LevelColumns(geography=GEOGRAPHY, table="public.coverage")
"""


@pytest.fixture
def connection(provenance_dsn: str) -> Any:
    """A connection to a database with places and some coverage."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        places.make(connection)
        connection.execute(
            """CREATE TABLE coverage (id integer PRIMARY KEY, continent_id integer, country_id integer, region_id integer,
                                     district_id integer, city_id integer);
               INSERT INTO coverage (id, country_id, city_id) VALUES (1, 10, 1000), (2, 10, NULL), (3, 10, 1000)"""
        )
        yield connection


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A file that declares the table."""
    (tmp_path / "declared.py").write_text(DECLARED, encoding="utf-8")
    return f"{tmp_path / 'declared.py'}"


def rows(connection: psycopg.Connection[Any]) -> list[Any]:
    """Return the table."""
    return connection.execute("SELECT * FROM coverage ORDER BY id").fetchall()


def test_there_and_back(run: Run, connection: psycopg.Connection[Any], source: str, provenance_dsn: str) -> None:
    """The column for the id comes and goes; twice is no harm; all batches of one run are in one request."""
    before = rows(connection)
    result = run("geo", "backfill", f"{source}:COVERAGE", "--batch", "2", dsn=provenance_dsn)
    assert (0, "public.coverage: 3 rows, 2 new locations, 2 batches\n", "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )
    assert len({row[-1] for row in rows(connection)}) == 2
    with Trail(provenance_dsn) as trail:
        [request_id] = {action.request_id for action in trail.actions.entity_history("table", "public.coverage")}
        assert request_id is not None
    result = run("geo", "backfill", f"{source}:COVERAGE", "--json", dsn=provenance_dsn)
    assert {
        "table": "public.coverage",
        "rows": 0,
        "locations": 0,
        "batches": 0,
        "left": 0,
        "differing": 0,
    } == json.loads(result.stdout)
    connection.execute("UPDATE coverage SET city_id = NULL")
    result = run("geo", "backfill", f"{source}:COVERAGE", dsn=provenance_dsn)
    assert (1, True) == (
        result.exit_code,
        result.stderr.startswith("Error: public.coverage has 2 rows with an id that says"),
    )
    result = run("geo", "backfill", f"{source}:COVERAGE", "--overwrite", dsn=provenance_dsn)
    assert 2 == result.exit_code
    result = run("geo", "backfill", f"{source}:COVERAGE", "--back", "--overwrite", dsn=provenance_dsn)
    assert (0, "public.coverage: 2 rows, 0 new locations, 1 batch\n") == (result.exit_code, result.stdout)
    assert before == rows(connection)
    result = run("geo", "backfill", f"{source}:COVERAGE", "--back", dsn=provenance_dsn)
    assert (2, "Error: public.coverage has no column geo_location_id, so there is nothing to carry back\n") == (
        result.exit_code,
        result.stderr,
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_it_counts_in_words_that_fit(
    run: Run, connection: psycopg.Connection[Any], source: str, provenance_dsn: str, kept: int
) -> None:
    """Of one there is no plural, and nothing to do is no batch and no action."""
    connection.execute("DELETE FROM coverage WHERE id > %s", [kept])
    nothing = "0 rows, 0 new locations, 0 batches"
    for options, said in (((), "1 row, 1 new location, 1 batch" if kept else nothing), (("--back",), nothing)):
        result = run("geo", "backfill", f"{source}:COVERAGE", *options, dsn=provenance_dsn)
        assert (0, f"public.coverage: {said}\n") == (result.exit_code, result.stdout)
    with Trail(provenance_dsn) as trail:
        assert kept == len(trail.actions.entity_history("table", "public.coverage").items)


def test_rows_that_come_meanwhile(
    run: Run, connection: psycopg.Connection[Any], source: str, provenance_dsn: str
) -> None:
    """They are told of, with the code 1: run it again."""
    connection.execute(
        """ALTER TABLE coverage ADD COLUMN geo_location_id uuid;
           CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN IF pg_trigger_depth() = 1 THEN INSERT INTO coverage (id, city_id) VALUES (-1, 1000); END IF;
                      RETURN NULL; END';
           CREATE TRIGGER more AFTER UPDATE ON coverage FOR EACH STATEMENT EXECUTE FUNCTION more()"""
    )
    connection.execute("UPDATE coverage SET city_id = NULL WHERE id = 2")
    connection.execute("DELETE FROM coverage WHERE id IN (-1, 2)")
    result = run("geo", "backfill", f"{source}:COVERAGE", dsn=provenance_dsn)
    sentence = "public.coverage has 1 row that somebody wrote meanwhile, and that can be done now; run it again"
    assert (1, f"Error: {sentence}\n") == (result.exit_code, result.stderr)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "names no table; put the name of its declaration after a colon, as in places.py:COVERAGE"),
        (":NOTHING", "declare the table there, or correct the name"),
        (":GEOGRAPHY", "declare the table there, or correct the name"),
    ],
)
def test_a_declaration_that_is_not_there(run: Run, source: str, name: str, sentence: str) -> None:
    """One sentence, with the code 2, before any database is needed."""
    result = run("geo", "backfill", f"{source}{name}", dsn="host=nowhere")
    assert 2 == result.exit_code
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith(f"{sentence}\n")


def test_contradictions_are_one_sentence(
    run: Run, connection: psycopg.Connection[Any], source: str, provenance_dsn: str
) -> None:
    """Nothing was written but the column for the id."""
    connection.execute("INSERT INTO coverage (id, country_id, city_id) VALUES (4, 20, 1000)")
    result = run("geo", "backfill", f"{source}:COVERAGE", dsn=provenance_dsn)
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: in 1 row of public.coverage the levels contradict each other: city 1000 lies in country 10, not in 20; "
        "correct the rows or the tables of places, and run it again\n"
    )
    assert {row[-1] for row in rows(connection)} == {None}


PLACES = "continents, countries, regions, districts, cities"


def test_the_owner_of_the_table_needs_few_other_rights(
    run: Run, connection: psycopg.Connection[Any], source: str, provenance_dsn: str
) -> None:
    """Those of find_or_create(), there and back. Until it has them it is told what it lacks, with the code 4."""
    with roles.writer(provenance_dsn) as (role, address):
        refused = run("geo", "backfill", f"{source}:COVERAGE", dsn=address)
        sentence = "permission denied for table coverage; public.coverage is as it was; connect as its owner"
        assert (2, f"Error: {sentence}\n") == (refused.exit_code, refused.stderr)
        connection.execute(f"ALTER TABLE coverage OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}".encode())
        for right, lacking in (
            (f"SELECT ON {PLACES}", "table countries"),
            ("SELECT ON geo_locations", "table geo_locations"),
            ("INSERT ON geo_locations", "table geo_locations"),
        ):
            result = run("geo", "backfill", f"{source}:COVERAGE", dsn=address)
            assert (4, "", True) == (
                result.exit_code,
                result.stdout,
                f"lacks a right that working with the concept geo_location needs (permission denied for {lacking})"
                in result.stderr,
            )
            connection.execute(f"GRANT {right} TO {role}".encode())
        for options in ((), ("--back",)):
            result = run("geo", "backfill", f"{source}:COVERAGE", *options, dsn=address)
            assert (0, "") == (result.exit_code, result.stderr)
        connection.execute("ALTER TABLE coverage OWNER TO CURRENT_USER")


WRONG = """
from provenance.geo import Geography, Level, LevelColumns

GEOGRAPHY = Geography(
    name="spot",
    levels=[
        Level(name="country", table="public.countries"),
        Level(name="region", table="public.regions", within={"country": "land_id"}),
    ],
)
COVERAGE = LevelColumns(geography=GEOGRAPHY, table="public.coverage")
"""


def test_a_geography_that_does_not_fit_is_refused_before_anything_is_changed(
    run: Run, connection: psycopg.Connection[Any], tmp_path: Path, provenance_dsn: str
) -> None:
    """When it is applied, and when the tables of places were changed after that; what is wrong is said, and only that."""
    source = tmp_path / "wrong.py"
    source.write_text(WRONG, encoding="utf-8")
    before = rows(connection)
    sentence = (
        "Error: the reference spot.region_id resolves to public.regions, which has no column land_id; it has id, name, "
        "country_id\n"
    )
    for option in ("--apply", "--changes"):
        result = run("concept", "sql", str(source), option, dsn=provenance_dsn)
        assert (2, "", sentence) == (result.exit_code, result.stdout, result.stderr)
    connection.execute("ALTER TABLE regions RENAME country_id TO land_id")
    assert 0 == run("concept", "sql", str(source), "--apply", dsn=provenance_dsn).exit_code
    connection.execute("ALTER TABLE regions RENAME land_id TO country_id")
    result = run("geo", "backfill", f"{source}:COVERAGE", dsn=provenance_dsn)
    assert (2, "", sentence) == (result.exit_code, result.stdout, result.stderr)
    assert before == rows(connection)


def test_the_concept_of_a_geography_is_found(run: Run, source: str) -> None:
    """``concept sql`` prints its SQL too."""
    result = run("concept", "sql", f"{source}:GEOGRAPHY", dsn="host=nowhere")
    assert "CREATE TABLE public.geo_locations (" in result.stdout
