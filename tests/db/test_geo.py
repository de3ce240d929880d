"""Locations: one row for the same places however many ask at once, and what they resolve to."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from provenance import track_action
from provenance.concepts import Computed, Concept, ConceptRefused, InvalidConcept, InvalidEntity, apply, plan, remove
from provenance.errors import NoCurrentAction, SchemaNotReady
from provenance.geo import AsyncGeoRepository, ContradictoryLevels, Geography, GeoRepository, Level, LevelColumns
from provenance.trail import Trail
from tests.support import colours, places, roles
from tests.support.colours import Blocking, done
from tests.support.places import GEOGRAPHY, LEVELS

pytestmark = pytest.mark.anyio

colour = colours.colour

JERUSALEM = {"continent": 1, "country": 10, "region": 100, "city": 1000}
LAKEWOOD = {"continent": 2, "country": 20, "region": 200, "district": 2000, "city": 3000}


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop psycopg knows."""
    return "asyncio"


@pytest.fixture
def provenance_dsn(provenance_dsn: str) -> str:
    """The address of a database with places in it."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        places.make(connection)
    return provenance_dsn


def repository(colour: Blocking) -> Any:
    """Return a repository of the colour."""
    return (GeoRepository if isinstance(colour.trail, Trail) else AsyncGeoRepository)(GEOGRAPHY, colour.trail)


async def made(colour: Blocking, **given: Any) -> UUID:
    """Return the id of a location, found or made in an action of its own."""
    async with colour.track("place"):
        location_id: UUID = await done(repository(colour).find_or_create(**given))
        return location_id


def count(dsn: str) -> int:
    """Return how many locations there are."""
    with psycopg.connect(dsn) as connection:
        [(number,)] = connection.execute("SELECT count(*) FROM geo_locations").fetchall()
        return int(number)


async def test_the_same_places_are_the_same_location(colour: Blocking) -> None:
    """Asked twice, the answer is one id; the row says its level and where it lies."""
    first = await made(colour, **JERUSALEM)
    assert first == await made(colour, **JERUSALEM)
    location = await done(repository(colour).resolve(first))
    assert ("city", "Jerusalem", "Jerusalem > Jerusalem District > Israel > Asia") == (
        location.level,
        location.name,
        location.hierarchy,
    )


async def test_any_subset_of_levels_is_a_location(colour: Blocking) -> None:
    """Each has an id of its own, its narrowest level, and a hierarchy without the levels that are missing."""
    names = dict(zip(LEVELS, ("North America", "United States", "New Jersey", "Ocean County", "Lakewood"), strict=True))
    seen = set[UUID]()
    for there in product([True, False], repeat=len(LEVELS)):
        given = {level: LAKEWOOD[level] for level, wanted in zip(LEVELS, there, strict=True) if wanted}
        location_id = await made(colour, **given)
        assert location_id == await made(colour, **given, **dict.fromkeys(set(LEVELS) - set(given)))
        seen.add(location_id)
        location = await done(repository(colour).resolve(str(location_id)))
        assert location.hierarchy == " > ".join(names[level] for level in reversed(LEVELS) if level in given)
        narrowest = max(given, key=LEVELS.index, default="world")
        assert (location.level, location.name) == (narrowest, names.get(narrowest))
        assert {level: key for level, key in location.places.items() if key is not None} == given
    assert len(seen) == 2 ** len(LEVELS) == count(colour.dsn)


async def test_what_a_location_resolves_to(colour: Blocking) -> None:
    """Names in other languages fall back level by level; coordinates are of the narrowest place that has both."""
    repo = repository(colour)
    jerusalem, lakewood, world = [
        await done(repo.resolve(await made(colour, **given))) for given in (JERUSALEM, LAKEWOOD, {})
    ]
    assert jerusalem.names == {"he": "ירושלים"}
    assert jerusalem.hierarchies == {"he": "ירושלים > Jerusalem District > ישראל > אסיה"}
    assert (jerusalem.latitude, jerusalem.longitude) == (31.769, 35.2163)
    assert jerusalem.codes == {"country": "IL"}
    assert lakewood.names == {"he": "Lakewood"}
    assert (lakewood.latitude, lakewood.longitude) == (39.76, -98.5)
    assert (world.name, world.hierarchy, world.latitude, world.longitude) == (None, "", None, None)
    assert world.codes == {"country": None}


async def test_many_at_once(colour: Blocking) -> None:
    """The ids come in the order of the wanted, doubles included, whether they were there or not; few statements do it."""
    repo = repository(colour)
    known = await made(colour, **JERUSALEM)
    wanted = [{"country": 20}, JERUSALEM, {"city": 7}, {"country": 20}, {}]
    async with colour.track("place"):
        ids = await done(repo.find_or_create_many(wanted))
    assert ids[1] == known
    assert ids[0] == ids[3]
    assert len(set(ids)) == 4 == count(colour.dsn)
    assert [found.places["city"] for found in (await done(repo.resolve_many([ids[2]]))).values()] == [7]
    assert [] == await done(repo.find_or_create_many([]))


async def test_finding_makes_nothing(colour: Blocking) -> None:
    """Outside any action too; a level that is left out is not any, but none."""
    repo = repository(colour)
    assert await done(repo.find(**JERUSALEM)) is None
    location_id = await made(colour, **JERUSALEM)
    assert location_id == await done(repo.find(**JERUSALEM))
    assert await done(repo.find(city=1000)) is None
    assert location_id == await done(repo.find_or_create(**JERUSALEM))
    with pytest.raises(NoCurrentAction, match="writing a geo_location needs an action"):
        await done(repo.find_or_create(city=1000))
    assert count(colour.dsn) == 1


async def test_a_place_that_is_not_there_is_shown_as_dangling(colour: Blocking) -> None:
    """It lends no name, and neither does the next broader one; it can be listed."""
    repo = repository(colour)
    location_id = await made(colour, country=10, city=7)
    location = await done(repo.resolve(location_id))
    assert (location.level, location.name, location.hierarchy, location.dangling) == ("city", None, "Israel", ("city",))
    await done(repo.rows.refresh())
    assert [(found.column, found.value) for found in await done(repo.rows.dangling())] == [("city_id", 7)]


async def test_a_place_without_a_name_is_not_called_by_a_broader_one(colour: Blocking) -> None:
    """It is there, and has no name."""
    location = await done(repository(colour).resolve(await made(colour, country=10, city=4000)))
    assert (location.name, location.hierarchy, location.dangling) == (None, "Israel", ())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"country": 20, "city": 1000}, "city 1000 lies in country 10, not in 20"),
        ({"region": 100, "district": 2000}, "district 2000 lies in region 200, not in 100"),
        ({"continent": 2, "country": 10}, "country 10 lies in continent 1, not in 2"),
        # By way of levels that are not named.
        ({"continent": 2, "city": 1000}, "city 1000 lies in continent 1, not in 2"),
        ({"country": 10, "district": 2000}, "district 2000 lies in country 20, not in 10"),
    ],
)
async def test_places_that_contradict_each_other_are_refused(
    colour: Blocking, given: dict[str, int], sentence: str
) -> None:
    """The sentence names both; none of several is made."""
    async with colour.track("place"):
        with pytest.raises(ContradictoryLevels) as caught:
            await done(repository(colour).find_or_create_many([LAKEWOOD, given]))
    assert str(caught.value) == (f"{sentence}; name places that lie within each other, or correct the tables of places")
    assert count(colour.dsn) == 0


@pytest.mark.parametrize("key", [1.5, True, "1", [1, 2], {"a": 1}])
async def test_a_key_that_a_cast_would_falsify_is_refused(colour: Blocking, key: Any) -> None:
    """A key of another type is not rounded, cut off or taken for several."""
    with pytest.raises(InvalidEntity, match="the city: expected a key of type integer, got"):
        await done(repository(colour).find(city=key))


async def test_levels_that_there_are_not_are_refused(colour: Blocking) -> None:
    """Before any SQL."""
    repo = repository(colour)
    expected = "a geo_location has no level town; expected continent, country, region, district, city"
    for method in ("find", "find_or_create"):
        with pytest.raises(InvalidEntity) as caught:
            await done(getattr(repo, method)(town=1))
        assert str(caught.value) == expected
    with pytest.raises(InvalidEntity, match="listing by town: a geo_location has no such level; expected continent"):
        await done(repo.list_resolved(where={"town": 1}))
    with pytest.raises(InvalidEntity, match="entity_id: expected the UUID of a geo_location"):
        await done(repo.resolve("Jerusalem"))


async def test_listing_is_of_the_last_refresh(colour: Blocking) -> None:
    """By places and by level, page by page; what is renamed shows after a refresh, and in resolve() at once."""
    repo = repository(colour)
    ids = [
        await made(colour, **given) for given in (JERUSALEM, LAKEWOOD, {"country": 10}, {"country": 20, "city": 3000})
    ]
    assert () == (await done(repo.list_resolved())).items
    await done(repo.rows.refresh())

    async def listed(**where: Any) -> list[UUID]:
        return [location.id for location in await done(repo.list_resolved(where=where))]

    assert await listed(country=20) == [ids[3], ids[1]]
    assert await listed(level="country") == [ids[2]]
    assert await listed(country=20, region=None) == [ids[3]]
    page = await done(repo.list_resolved(limit=3))
    rest = await done(repo.list_resolved(limit=3, before=page.next))
    assert [location.id for location in (*page, *rest)] == ids[::-1]
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        connection.execute("UPDATE regions SET name = 'Garden State' WHERE id = 200")
    renamed = "Lakewood > Ocean County > Garden State > United States > North America"
    [shown] = await done(repo.list_resolved(where={"region": 200}))
    assert "New Jersey" in shown.hierarchy
    assert renamed == (await done(repo.resolve(ids[1]))).hierarchy
    await done(repo.rows.refresh())
    [shown] = await done(repo.list_resolved(where={"region": 200}))
    assert shown.hierarchy == renamed


async def test_a_deleted_location_is_made_anew(colour: Blocking) -> None:
    """It is neither found nor resolved; the new one has another id."""
    repo = repository(colour)
    location_id = await made(colour, **JERUSALEM)
    async with colour.track("delete"):
        await done(repo.rows.soft_delete(location_id))
    assert await done(repo.find(**JERUSALEM)) is None
    assert await done(repo.resolve(location_id)) is None
    assert await done(repo.resolve(uuid4())) is None
    assert location_id != await made(colour, **JERUSALEM)


async def test_deleted_as_often_as_it_is_made(colour: Blocking) -> None:
    """There is an end to trying, with an error that says so."""
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        connection.execute(
            """CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
               CREATE TRIGGER swallow BEFORE INSERT ON geo_locations FOR EACH ROW EXECUTE FUNCTION swallow()"""
        )
    async with colour.track("place"):
        with pytest.raises(ConceptRefused, match="1 of 1 locations are deleted by somebody else as often"):
            await done(repository(colour).find_or_create(city=1000))


async def test_without_the_table(colour: Blocking) -> None:
    """The error says what to run."""
    with psycopg.connect(colour.dsn, autocommit=True) as connection:
        remove(connection, GEOGRAPHY.concept)
    with pytest.raises(SchemaNotReady, match="lacks the concept geo_location as it is declared"):
        await done(repository(colour).find(city=1000))


async def test_a_role_without_rights_is_told_which_it_lacks(colour: Blocking, provenance_dsn: str) -> None:
    """One after another; with all of them it finds, makes and resolves."""
    with roles.writer(provenance_dsn) as (role, address), psycopg.connect(provenance_dsn, autocommit=True) as owner:
        app = type(colour)()
        await app.open(address)
        for right, lacking in (
            ("SELECT ON geo_locations", "table geo_locations"),
            (f"SELECT ON {', '.join(level.table for level in GEOGRAPHY.levels)}", "table countries"),
            ("INSERT ON geo_locations", "table geo_locations"),
        ):
            with pytest.raises(SchemaNotReady) as caught:
                await made(app, **JERUSALEM)
            assert str(caught.value) == (
                f"this database role lacks a right that working with the concept geo_location needs (permission denied for "
                f"{lacking}); have the owner of that grant it, or connect as another role"
            )
            owner.execute(f"GRANT {right} TO {role}".encode())
        location_id = await made(app, **JERUSALEM)
        assert location_id == await done(repository(app).find(**JERUSALEM))
        assert "Jerusalem" == (await done(repository(app).resolve(location_id))).name
        await app.close()


def test_callers_at_once_make_each_location_once(provenance_dsn: str) -> None:
    """32 of them, all wanting the same 1,000, some one at a time and some in bulk, each in another order."""
    wanted = [{"country": 10 + number % 2 * 10, "city": 5000 + number} for number in range(1000)]
    start = threading.Barrier(32)

    def ask(caller: int, trail: Trail) -> dict[int, UUID]:
        repo, turned = GeoRepository(GEOGRAPHY, trail), wanted[caller * 31 :] + wanted[: caller * 31]
        if caller % 3 == 0:
            turned.reverse()
        start.wait(timeout=60)
        ids = list[UUID]()
        for first in range(0, 1000, step := 1 + caller % 4 * 333):
            with trail.track_action("place", concept="geo_location"):
                ids += repo.find_or_create_many(turned[first : first + step])
        return {places["city"]: location_id for places, location_id in zip(turned, ids, strict=True)}

    with Trail(provenance_dsn, max_size=32) as trail, ThreadPoolExecutor(32) as executor:
        answers = list(executor.map(ask, range(32), [trail] * 32))
    assert count(provenance_dsn) == 1000
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0].values())) == 1000


def test_declarations_can_be_members_of_sets() -> None:
    """Equal ones are one member, whatever mappings they were made with."""

    def declared(language: str) -> tuple[Level, Geography, LevelColumns]:
        country = Level(name="country", table="public.countries", languages={language: "name_he"})
        city = Level(name="city", table="public.cities", within={"country": "country_id"})
        geography = Geography(levels=[country, city])
        return (
            country,
            geography,
            LevelColumns(geography=geography, table="public.coverage", columns={"city": "city_id"}),
        )

    assert {*declared("he"), *declared("he")} == {*declared("he")}
    assert len({*declared("he"), *declared("yi")}) == 6


def test_both_colours_have_the_same_methods() -> None:
    """The same names, parameters and answers, but for the await and the trail."""

    def signatures(cls: type) -> dict[str, str]:
        return {
            name: str(inspect.signature(member))
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and name[0] != "_"
        }

    assert signatures(GeoRepository) == signatures(AsyncGeoRepository)
    assert {"find", "find_or_create", "find_or_create_many", "list_resolved", "resolve", "resolve_many"} == set(
        signatures(GeoRepository)
    )


def test_a_geography_may_grow_a_level(provenance_dsn: str) -> None:
    """The locations that are there keep their ids and name nothing of it; it can be taken back."""
    quarter = Level(name="quarter", table="public.quarters", type="bigint", within={"city": "city_id"})
    grown = Geography(levels=[*GEOGRAPHY.levels, quarter])
    with psycopg.connect(provenance_dsn, autocommit=True) as connection, Trail(provenance_dsn) as trail:
        connection.execute("CREATE TABLE quarters (id bigint PRIMARY KEY, name text, city_id integer)")
        with trail.track_action("place", concept="geo_location"):
            before = GeoRepository(GEOGRAPHY, trail).find_or_create(**JERUSALEM)
        assert apply(connection, grown.concept).changed == ("geo_location",)
        repo = GeoRepository(grown, trail)
        assert before == repo.find(**JERUSALEM)
        with trail.track_action("place", concept="geo_location"):
            location_id = repo.find_or_create(**JERUSALEM, quarter=5)
        location = repo.resolve(location_id)
        assert location is not None
        assert (location.level, location.dangling) == ("quarter", ("quarter",))
        # What does not know of the new level yet goes on finding its own.
        assert before == GeoRepository(GEOGRAPHY, trail).find(**JERUSALEM)
        assert plan(connection, grown.concept).script.up == ""


def test_other_types_of_keys_and_odd_names(trail: Trail, provenance_dsn: str) -> None:
    """Keys are what the level says; names of tables and columns are quoted; a percent sign is no parameter."""
    geography = Geography(
        name="spot",
        world="100% everywhere",
        separator=" % ",
        levels=[
            Level(name="zone", table='public."Zone %s"', key='"', type="text", label="na'me", code="%"),
            Level(name="user", table="public.select", type="uuid", within={"zone": "select"}),
        ],
    )
    key = uuid4()
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute(
            r'''CREATE TABLE "Zone %s" ("""" text PRIMARY KEY, "na'me" text, "%" text);
                INSERT INTO "Zone %s" VALUES ('a%s', 'A%s', '%');
                CREATE TABLE "select" (id uuid PRIMARY KEY, name text, "select" text)'''
        )
        connection.execute('INSERT INTO "select" VALUES (%s, %s, %s)', (key, "me", "a%s"))
        apply(connection, geography.concept)
    repo = GeoRepository(geography, trail)
    with track_action("place", concept="spot"):
        location_id, world = repo.find_or_create_many([{"zone": "a%s", "user": key}, {}])
        with pytest.raises(ContradictoryLevels, match=f"user {key} lies in zone a%s, not in b"):
            repo.find_or_create(zone="b", user=key)
    found = repo.resolve_many([location_id, world])
    assert (found[location_id].hierarchy, found[location_id].codes) == ("me % A%s", {"zone": "%"})
    assert found[world].level == "100% everywhere"


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (lambda: Geography(levels=[]), "a Geography has no levels; name at least one"),
        (lambda: Geography(levels=["city"]), "levels: expected Level in the list, got str"),  # type: ignore[list-item]
        (
            lambda: Level(name="City", table="public.cities"),
            "the level 'City': expected a name of lower-case letters, digits and underscores, such as city",
        ),
        (
            lambda: Level(name="city", table="cities"),
            'the table of a Target: expected a table with its schema, such as public.users or public."Users"',
        ),
        (
            lambda: Level(name="city", table="public.cities", languages={"x": "name"}),
            "the level city: 'x' is no language tag; write it as in he or zh-Hant",
        ),
        (
            lambda: Level(name="city", table="public.cities", languages=["he"]),  # type: ignore[arg-type]
            "expected a mapping such as {'he': 'name_hebrew'}, got list",
        ),
        (
            lambda: Level(name="city", table="public.cities", latitude="lat"),
            "the level city has half of its coordinates; give latitude= and longitude=",
        ),
        (
            lambda: Geography(levels=[Level(name="world", table="public.worlds")]),
            "a Geography has two levels of one name: world, world; rename one, or give another world=",
        ),
        (
            lambda: Geography(levels=[Level(name="city", table="public.cities")], separator="\n"),
            "the separator of a Geography is empty or cannot be printed; use one such as ' > '",
        ),
        (
            lambda: Geography(levels=[Level(name="city", table="public.cities", within={"country": "country_id"})]),
            "the level city is said to lie within 'country', which is no broader level; broader are: none",
        ),
        (
            lambda: Concept(name="a", computed=[Computed(name="b", sql="1"), Computed(name="b", sql="2")]),
            "the resolved view of the concept a would have two columns named b; rename the computed one",
        ),
    ],
)
def test_declarations_that_are_refused(declare: Any, sentence: str) -> None:
    """When they are made, each with one sentence."""
    with pytest.raises(InvalidConcept) as caught:
        declare()
    assert str(caught.value) == sentence
