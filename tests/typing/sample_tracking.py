"""An application that tracks what it does, as the type checkers must accept it; and what they must refuse."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import timedelta
from typing import Any, assert_type
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import provenance
from provenance import (
    Action,
    ActionRef,
    ActionTree,
    AsyncTrackedAction,
    AsyncTrail,
    ChainLink,
    Page,
    Redactor,
    Status,
    TrackedAction,
    Trail,
    current_action,
    get_async_trail,
    get_request_id,
    get_request_id_or_generate,
    get_trail,
    inject,
    parse_request_id,
    request_scope,
    set_actor,
    track_action,
)

# --- Setting up ------------------------------------------------------------------------------------------------------


def configure(pool: ConnectionPool, async_pool: AsyncConnectionPool) -> None:
    assert_type(provenance.configure("postgresql:///app"), Trail)
    assert_type(provenance.configure("postgresql:///app", journal="postgresql://db/app", max_size=4), Trail)
    assert_type(provenance.configure(pool=pool), Trail)
    assert_type(provenance.configure(pool=pool, async_pool=async_pool, redactor=Redactor()), Trail)
    assert_type(provenance.configure(async_pool=async_pool), AsyncTrail)
    cautious = Redactor(
        extra=["iban"], patterns=[r"CASE-\d+", re.compile("x")], capture={"login": ["user", "device.kind"]}
    )
    assert_type(provenance.configure(pool=pool, redactor=cautious), Trail)
    assert_type(cautious.redact("token=x"), str)
    assert_type(get_trail(), Trail)
    assert_type(get_async_trail(), AsyncTrail)
    provenance.configure()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def pool_of_dicts() -> ConnectionPool[psycopg.Connection[dict[str, Any]]]:
    return ConnectionPool("postgresql:///app", connection_class=psycopg.Connection[dict[str, Any]], open=False)


own_trail = Trail(pool_of_dicts())


# --- Blocks ----------------------------------------------------------------------------------------------------------


def link_zman(source_zman_id: int, *, user_id: UUID) -> int:
    with track_action(
        "link_zman",
        concept="zman",
        entity_type="publisher_zman",
        payload={"mode": "link", "source_zman_id": source_zman_id},
        metadata={"via": "sample"},
        user_id=user_id,
        tenant_id=7,
        request_id="4bf92f3577b34da6a3ce929d0e0e4736",
    ) as action:
        assert_type(action, TrackedAction)
        assert_type(action.connection, psycopg.Connection[Any])
        row = action.connection.execute("SELECT id FROM zman WHERE id = %s", (source_zman_id,)).fetchone()
        if row is None:
            action.fail("no such zman")
            return 0
        new_id: int = row[0]
        action.entity_id = new_id
        action.entity_type = "zman"
        action.result = {"id": new_id, "tags": ("a", "b"), "by": user_id}
        action.metadata = {"seen": {1, 2}}
        assert_type(action.id, UUID)
        assert_type(action.ref, ActionRef)
        assert_type(action.request_id, UUID | None)
        assert_type(action.entity_id, str | None)
    return new_id


def typed_rows() -> str | None:
    with track_action("read", concept="zman") as action, action.connection.cursor(row_factory=dict_row) as cursor:
        assert_type(cursor, psycopg.Cursor[dict[str, Any]])
        found = cursor.execute("SELECT name FROM zman").fetchone()
        return None if found is None else str(found["name"])


async def alink_zman(source_zman_id: int) -> int:
    async with track_action("link_zman", concept="zman") as action:
        assert_type(action, AsyncTrackedAction)
        assert_type(action.connection, psycopg.AsyncConnection[Any])
        cursor = await action.connection.execute("SELECT id FROM zman WHERE id = %s", (source_zman_id,))
        row = await cursor.fetchone()
        action.result = [1, 2, 3]
        return 0 if row is None else int(row[0])


def joined(connection: psycopg.Connection[tuple[Any, ...]], parent: TrackedAction, earlier: Action) -> None:
    with track_action("copy", concept="zman", connection=connection, parent=parent):
        pass
    for caused_by in (parent, earlier, earlier.ref, earlier.id):
        with track_action("copy", concept="zman", parent=caused_by, savepoint=False):
            pass
    with track_action("mail", concept="zman", transaction=False) as detached:
        detached.result = "sent"


async def ajoined(connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
    async with track_action("copy", concept="zman", connection=connection):
        pass


def refused() -> None:
    track_action("no concept")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    track_action(1, concept="zman")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    track_action("x", concept="zman", user_id=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    track_action("x", concept="zman", connection="dsn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    track_action("x", concept="zman", unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with track_action("x", concept="zman") as action:
        action.entity_id = 1.5  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        action.id = UUID(int=1)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        action.fail()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        action.reslut = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# --- Decorators ------------------------------------------------------------------------------------------------------


@track_action("close_account", concept="account")
def close_account(account_id: int, *, reason: str = "") -> bool:
    current_action().result = {"reason": reason}
    return account_id > 0


@track_action("close_account", concept="account")
async def aclose_account(account_id: int) -> str:
    return str(account_id)


@track_action("export", concept="account")
def export(limit: int) -> Generator[bytes, int, str]:
    sent = yield b""
    return str(sent + limit)


@track_action("export", concept="account")
async def aexport(limit: int) -> AsyncGenerator[bytes, None]:
    yield bytes(limit)


@track_action("export", concept="account")
async def aexport_lines() -> AsyncIterator[str]:
    yield ""


class Service:
    @track_action("method", concept="account")
    def method(self, number: int) -> Iterator[int]:
        yield number

    @classmethod
    @track_action("method", concept="account")
    def class_method(cls, number: int) -> int:
        return number


async def call(callback: Callable[[int], Awaitable[str]]) -> str:
    return await callback(1)


def decorated() -> None:
    assert_type(close_account(1, reason="asked"), bool)
    assert_type(export(1), Generator[bytes, int, str])
    assert_type(aexport(1), AsyncGenerator[bytes, None])
    assert_type(aexport_lines(), AsyncIterator[str])
    assert_type(Service().method(1), Iterator[int])
    assert_type(Service.class_method(1), int)
    close_account("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    close_account(1, why="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Service().method("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def adecorated() -> None:
    assert_type(await call(aclose_account), str)
    assert_type(await aclose_account(1), str)
    async for line in aexport_lines():
        assert_type(line, str)


@own_trail.track_action("own", concept="account")
def tracked_by_an_own_trail(number: int) -> int:
    with own_trail.track_action("inner", concept="account") as action:
        assert_type(action, TrackedAction)
    return number


assert_type(tracked_by_an_own_trail(1), int)


# --- Actions that outlive a block ------------------------------------------------------------------------------------


def explicit(trail: Trail, connection: psycopg.Connection[Any]) -> None:
    action_id = trail.begin(
        "import", concept="file", entity_type="file", entity_id=1, payload=[1], expires_in=timedelta(hours=1)
    )
    assert_type(action_id, UUID)
    trail.complete(action_id, {"rows": 3})
    trail.complete(action_id, connection=connection)
    trail.fail(action_id, "no disk")
    trail.fail(action_id, OSError("no disk"), connection=connection)
    with trail.resume(action_id) as action:
        assert_type(action, TrackedAction)
    trail.begin("import", concept="file", unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    trail.fail(action_id, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def aexplicit(trail: AsyncTrail) -> None:
    action_id = await trail.begin("import", concept="file")
    await trail.complete(action_id)
    await trail.fail(action_id, "no disk")
    async with await trail.resume(action_id) as action:
        assert_type(action, AsyncTrackedAction)


# --- Reading ---------------------------------------------------------------------------------------------------------


def read(trail: Trail, action_id: UUID) -> None:
    assert_type(trail.actions.get(action_id), Action | None)
    assert_type(trail.actions.by_request("4bf92f3577b34da6a3ce929d0e0e4736"), list[Action])
    assert_type(trail.actions.chain(action_id), list[ChainLink])
    assert_type(trail.actions.ancestors(action_id), list[ChainLink])
    assert_type(trail.actions.tree(action_id), ActionTree | None)
    assert_type(trail.actions.entity_history("zman", 7, limit=10), Page[Action])
    page = trail.actions.search(concept="zman", status=Status.FAILED, user_id=7)
    for action in page.items:
        assert_type(action.status, Status)
        assert_type(action.duration_ms, float | None)
    trail.actions.search(nothing=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def aread(trail: AsyncTrail, action_id: UUID) -> None:
    assert_type(await trail.actions.get(action_id), Action | None)
    assert_type(await trail.actions.by_user(7), Page[Action])


# --- The request -----------------------------------------------------------------------------------------------------


def job(message: dict[str, str]) -> None:
    with request_scope(parse_request_id("4bf92f3577b34da6a3ce929d0e0e4736"), user_id=1, tenant_id="acme"):
        set_actor(user_id=None)
        assert_type(get_request_id(), UUID | None)
        assert_type(get_request_id_or_generate(), UUID)
        inject(message)
    with provenance.extract(message):
        pass
