"""The same service behind each web front, through real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from provenance import AsyncTrail
from provenance.examples.zmanim import flask_app, starlette_app, wsgi_app
from provenance.examples.zmanim.servers import serve_asgi, serve_wsgi
from provenance.examples.zmanim.service import ZmanimLinkingService
from provenance.testing import RecordedActions

Call = tuple[str, str, Any]
"""Method, path below the publisher, and body."""
Serve = Callable[[ZmanimLinkingService, str], AbstractContextManager[str]]

FRONTS: dict[str, Serve] = {
    "flask": lambda service, dsn: serve_wsgi(flask_app.create_app(service)),
    "starlette": lambda service, dsn: serve_asgi(starlette_app.create_app(service, AsyncTrail(dsn))),
    "wsgi": lambda service, dsn: serve_wsgi(wsgi_app.create_app(service)),
}


@pytest.fixture(params=FRONTS)
def client(
    request: pytest.FixtureRequest, service: ZmanimLinkingService, provenance_dsn: str
) -> Iterator[httpx.Client]:
    """Yield a client of each front in turn."""
    with (
        FRONTS[request.param](service, provenance_dsn) as address,
        httpx.Client(base_url=address, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def request_id() -> str:
    """The id the client gives its request."""
    return str(uuid4())


def _ask(client: httpx.Client, method: str, path: str, request_id: str, body: Any = None) -> httpx.Response:
    headers = {"X-Request-ID": request_id, "X-User": "dvora"}
    response = client.request(method, path, json=body, headers=headers)
    assert [request_id] == response.headers.get_list("X-Request-ID")
    return response


def test_a_request_is_one_root_action_under_its_own_id(
    client: httpx.Client, request_id: str, recorded_actions: RecordedActions
) -> None:
    """The response carries the client's X-Request-ID, and so does everything that was done."""
    response = _ask(client, "POST", "/publishers/1/zmanim", request_id, {"zman_id": 1, "mode": "link"})
    assert (201, {"id": 1, "publisher_id": 1, "zman_id": 1, "formula": None}) == (response.status_code, response.json())
    link, notice = recorded_actions.all(request_id=request_id)
    assert (None, link.id) == (link.parent_action_id, notice.parent_action_id)
    for action in (link, notice):
        assert ("completed", "dvora", "1") == (action.status, action.user_id, action.tenant_id)
    assert 2 == len(recorded_actions.all())


@pytest.mark.parametrize(
    ("call", "status", "answer"),
    [
        (("POST", "/zmanim", {"zman_id": 2, "mode": "copy"}), 201, {"formula": "sunrise"}),
        (("POST", "/zmanim/import", {"zman_ids": [1, 2]}), 200, {"linked": [1, 2], "skipped": []}),
        (("POST", "/coverage", {"place": "Jerusalem"}), 201, {"id": 1}),
        (("POST", "/zmanim", {"zman_id": 99, "mode": "link"}), 404, {"error": "SourceNotFound"}),
        (("PUT", "/zmanim/1/formula", {"formula": "noon"}), 404, {"error": "CopyNotFound"}),
    ],
)
def test_routes_answer_alike(
    client: httpx.Client, recorded_actions: RecordedActions, call: Call, status: int, answer: dict[str, Any]
) -> None:
    """Status and body are those of the service's answer or error, and one root action says so."""
    (method, path, body), request_id = call, str(uuid4())
    response = _ask(client, method, f"/publishers/1{path}", request_id, body)
    assert status == response.status_code
    assert answer == {name: value for name, value in response.json().items() if name in answer}
    [root] = [action for action in recorded_actions.all(request_id=request_id) if action.parent_action_id is None]
    assert ("completed" if status < 400 else "failed") == root.status


def test_a_duplicate_is_a_conflict(client: httpx.Client, request_id: str, recorded_actions: RecordedActions) -> None:
    """409, and a failed action that says why."""
    order = {"zman_id": 1, "mode": "link"}
    _ask(client, "POST", "/publishers/1/zmanim", str(uuid4()), order)
    response = _ask(client, "POST", "/publishers/1/zmanim", request_id, order)
    message = "publisher 1 has zman 1 already"
    assert (409, {"error": "DuplicateZman", "message": message}) == (response.status_code, response.json())
    assert ("failed", message) == (
        (action := recorded_actions.one(request_id=request_id)).status,
        action.error_message,
    )


def test_editing_and_rebalancing(client: httpx.Client, request_id: str, recorded_actions: RecordedActions) -> None:
    """The remaining routes, when what they need is there."""
    _ask(client, "POST", "/publishers/1/zmanim", str(uuid4()), {"zman_id": 2, "mode": "copy"})
    _ask(client, "POST", "/publishers/1/coverage", str(uuid4()), {"place": "Jerusalem"})
    edited = _ask(client, "PUT", "/publishers/1/zmanim/2/formula", request_id, {"formula": "noon"})
    assert (200, "noon") == (edited.status_code, edited.json()["formula"])
    assert ("edit_formula", "completed", "dvora") == (
        (action := recorded_actions.one(request_id=request_id)).action_type,
        action.status,
        action.user_id,
    )
    rebalanced = _ask(client, "POST", "/publishers/1/coverage/rebalance", str(uuid4()))
    assert (200, {"share": 1.0}) == (rebalanced.status_code, rebalanced.json())


def test_a_crash_is_a_500_with_the_request_id(
    client: httpx.Client, request_id: str, recorded_actions: RecordedActions, database: psycopg.Connection[Any]
) -> None:
    """Nobody handles the error, and still the response and the trail know the request."""
    response = _ask(client, "POST", "/publishers/1/coverage/rebalance", request_id)
    assert 500 == response.status_code
    crash, notice = recorded_actions.all(request_id=request_id)
    assert ("failed", "ZeroDivisionError", "division by zero", "rolled_back") == (
        crash.status,
        crash.error_type,
        crash.error_message,
        notice.status,
    )
    assert [(0,)] == database.execute("SELECT count(*) FROM notifications").fetchall()


@pytest.mark.parametrize("content", [b"{}", b"{", b"\xff"])
def test_a_body_that_lacks_something_is_refused(
    client: httpx.Client, request_id: str, recorded_actions: RecordedActions, content: bytes
) -> None:
    """400, whether it is JSON or not, before any action begins."""
    headers = {"X-Request-ID": request_id, "Content-Type": "application/json"}
    response = client.post("/publishers/1/zmanim", content=content, headers=headers)
    assert (400, "BadRequest", request_id) == (
        response.status_code,
        response.json()["error"],
        response.headers["X-Request-ID"],
    )
    assert [] == recorded_actions.all()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/publishers/1/zmanim", 405), ("POST", "/nowhere", 404)]
)
def test_other_routes_are_the_frameworks_business(
    client: httpx.Client, request_id: str, method: str, path: str, status: int
) -> None:
    """What the application does not serve still carries the request id."""
    assert status == _ask(client, method, path, request_id).status_code


def test_a_server_that_does_not_start_says_so() -> None:
    """The failure of an ASGI lifespan is raised here, and the thread is gone."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="the application did not start"), serve_asgi(broken):
        pass
