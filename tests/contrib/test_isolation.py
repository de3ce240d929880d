"""Many requests at once through real servers: no row has another's request, actor or parent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import flask
import psycopg
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from provenance import AsyncTrail, Trail, get_request_id
from provenance.contrib.flask import Provenance
from provenance.contrib.starlette import install
from provenance.testing import RecordedActions
from tests.contrib import servers
from tests.contrib.clients import connect, get_bytes, raw
from tests.contrib.servers import Listening
from tests.support import databases
from tests.support.jobs import Job, assert_all_recorded

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn

CONNECTIONS = 16
PER_CONNECTION = 8


@pytest.fixture
def eye(direct_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that looks."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def starlette_app(dsn: str) -> Starlette:
    """Return an application that does the job named in the path, asynchronously."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, AsyncTrail]]:
        async with AsyncTrail(dsn, max_size=8) as trail:
            yield {"trail": trail}

    async def work(request: Request) -> PlainTextResponse:
        job = Job(request.path_params["number"])
        await job.awork(request.state.trail)
        return PlainTextResponse(str(get_request_id()))

    app = Starlette(routes=[Route("/{number:int}", work)], lifespan=lifespan)
    install(app)
    return app


def flask_app(trail: Trail) -> flask.Flask:
    """Return an application that does the job named in the path."""
    app = flask.Flask(__name__)
    Provenance(app)

    @app.get("/<int:number>")
    def work(number: int) -> str:
        Job(number).work(trail)
        return str(get_request_id())

    return app


def all_at_once(jobs: list[Job], send: Callable[[list[Job]], list[tuple[int, str, list[str]]]]) -> None:
    """Send the jobs over many connections at once, and fail unless each response is the one of its request."""
    batches = [jobs[first::CONNECTIONS] for first in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = list(threads.map(send, batches))
    assert [[(200, str(job.request_id), [str(job.request_id)]) for job in batch] for batch in batches] == answers


def test_pipelined_through_uvicorn(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Requests sent in one go on each of several connections, each with its own id and actor."""
    jobs = [Job(number) for number in range(CONNECTIONS * PER_CONNECTION)]
    with servers.uvicorn_asyncio(starlette_app(provenance_dsn)) as server:

        def send(batch: list[Job]) -> list[tuple[int, str, list[str]]]:
            sent = [get_bytes(f"/{job.number}", f"X-Request-ID: {job.request_id}".encode()) for job in batch]
            replies = raw(server.port, b"".join(sent), len(sent))
            return [(reply.status, reply.body.decode(), reply.request_ids) for reply in replies]

        all_at_once(jobs, send)
    assert_all_recorded(jobs, recorded_actions, eye)


@pytest.mark.parametrize("serve", [servers.werkzeug_dev, servers.cheroot_pool])
def test_through_a_wsgi_server(
    provenance_dsn: str,
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    serve: Callable[[Any], AbstractContextManager[Listening]],
) -> None:
    """One after the other on each of several connections, in many threads or all in the same one."""
    jobs = [Job(number) for number in range(CONNECTIONS * PER_CONNECTION)]
    with Trail(provenance_dsn, max_size=8) as trail, serve(flask_app(trail)) as server:

        def send(batch: list[Job]) -> list[tuple[int, str, list[str]]]:
            with connect(server.port) as connection:
                replies = [
                    connection.request(f"/{job.number}", headers=[("X-Request-ID", str(job.request_id))])
                    for job in batch
                ]
            return [(reply.status, reply.body.decode(), reply.request_ids) for reply in replies]

        all_at_once(jobs, send)
    assert_all_recorded(jobs, recorded_actions, eye)
