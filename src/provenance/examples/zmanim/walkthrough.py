"""A walk through the application: real servers, real requests, and what the trail says about them afterwards."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import httpx
import psycopg
from psycopg import sql

from provenance import Action, ActionTree, AsyncTrail, EntityRef, Trail, schema
from provenance.examples.zmanim import flask_app, starlette_app, tables, wire, wsgi_app
from provenance.examples.zmanim.journey import Journey, travel
from provenance.examples.zmanim.servers import serve_asgi, serve_wsgi
from provenance.examples.zmanim.service import ZmanimLinkingService
from provenance.geo.batches import Progress
from provenance.ids import new_id


@attrs.frozen(kw_only=True)
class Step:
    """A request of the walk, below ``/publishers/<id>``, and the status it must get."""

    title: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    user: str
    expected: int


STEPS = (
    Step(
        title="link dawn",
        method="POST",
        path="/zmanim",
        body={"zman_id": 1, "mode": "link"},
        user="dvora",
        expected=201,
    ),
    Step(
        title="copy sunrise",
        method="POST",
        path="/zmanim",
        body={"zman_id": 2, "mode": "copy"},
        user="dvora",
        expected=201,
    ),
    Step(
        title="link dawn once more",
        method="POST",
        path="/zmanim",
        body={"zman_id": 1, "mode": "link"},
        user="yosef",
        expected=409,
    ),
    Step(
        title="link a zman that does not exist",
        method="POST",
        path="/zmanim",
        body={"zman_id": 99, "mode": "link"},
        user="yosef",
        expected=404,
    ),
    Step(
        title="link three at once, one of them a duplicate",
        method="POST",
        path="/zmanim/import",
        body={"zman_ids": [1, 3, 4]},
        user="dvora",
        expected=200,
    ),
    Step(
        title="edit the formula of the copy",
        method="PUT",
        path="/zmanim/2/formula",
        body={"formula": "sunrise - 3 min"},
        user="yosef",
        expected=200,
    ),
    Step(
        title="rebalance coverage, and crash",
        method="POST",
        path="/coverage/rebalance",
        body=None,
        user="yosef",
        expected=500,
    ),
)

_MADE_BY = {
    "publisher_zmanim": ("link_zman", "copy_zman"),
    "notifications": ("notify_publisher",),
}


@attrs.frozen(kw_only=True)
class Exchange:
    """A request that was made, what came back, and what the trail recorded under its id."""

    step: Step
    request_id: str
    echoed: str | None
    status: int
    trees: tuple[ActionTree, ...]

    def problem(self) -> str | None:
        """Say what is not as it must be, if anything is."""
        if self.status != self.step.expected:
            return f"expected status {self.step.expected}, got {self.status}"
        if self.echoed != self.request_id:
            return "the response does not carry the request's X-Request-ID"
        if len(self.trees) != 1:
            return f"expected one action with everything it caused, found {len(self.trees)}"
        return None


@attrs.frozen(kw_only=True)
class Front:
    """One of the web fronts, and what it was asked."""

    name: str
    server: str
    exchanges: tuple[Exchange, ...]


@attrs.frozen(kw_only=True)
class Tally:
    """Domain rows beside the completed actions that made them."""

    table: str
    action_types: tuple[str, ...]
    rows: int
    matched: int
    """How many different completed actions the rows name as their maker."""
    actions: int

    def problem(self) -> str | None:
        """Say so unless every row has its action, and every action its row."""
        if self.rows == self.matched == self.actions:
            return None
        return (
            f"{self.rows} rows in {self.table} name {self.matched} completed actions as their makers, and the trail has "
            f"{self.actions}"
        )


@attrs.frozen(kw_only=True)
class Story:
    """Everything the walk has to tell."""

    server_version: str
    fronts: tuple[Front, ...]
    entity: EntityRef
    history: tuple[Action, ...]
    tallies: tuple[Tally, ...]
    journey: Journey | None
    """Through geography; ``None`` when it was not made."""

    def problems(self) -> list[str]:
        """Return a sentence for each thing that is not as it must be."""
        found = [
            f"{front.name}, {exchange.step.title}: {problem}"
            for front in self.fronts
            for exchange in front.exchanges
            if (problem := exchange.problem())
        ]
        found += [problem for tally in self.tallies if (problem := tally.problem())]
        return found + (self.journey.problems() if self.journey else [])


@contextmanager
def _without_tracebacks() -> Generator[None]:
    """Keep the servers from logging the crash that one step provokes; the trail tells of it."""
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", flask_app.__name__, wsgi_app.__name__)]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def walk(conninfo: str, *, cities: int = 0, progress: Progress | None = None) -> Story:
    """Prepare an empty database, serve the application three times, make all requests, and read what was recorded.

    Args:
        conninfo: the address of a database that may be filled.
        cities: how many to load for the journey through geography, which follows; 0 for no journey.
        progress: called with how far that has come.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection, Trail(conninfo) as trail:
        schema.up(connection)
        tables.create(connection)
        service = ZmanimLinkingService(trail)
        with _without_tracebacks(), ExitStack() as serving:
            over_starlette = starlette_app.create_app(service, AsyncTrail(conninfo))
            addresses = {
                ("Flask", "werkzeug"): serving.enter_context(serve_wsgi(flask_app.create_app(service))),
                ("Starlette", "uvicorn"): serving.enter_context(serve_asgi(over_starlette)),
                ("plain WSGI", "werkzeug"): serving.enter_context(serve_wsgi(wsgi_app.create_app(service))),
            }
            # The environment's proxy is not for loopback.
            client = serving.enter_context(httpx.Client(trust_env=False))
            fronts = tuple(
                Front(
                    name=name,
                    server=server,
                    exchanges=tuple(_ask(client, f"{address}/publishers/{number}", step, trail) for step in STEPS),
                )
                for number, ((name, server), address) in enumerate(addresses.items(), start=1)
            )
        entity = EntityRef(type="publisher_zman", id=_copied(connection))
        return Story(
            server_version=connection.info.parameter_status("server_version") or "",
            fronts=fronts,
            entity=entity,
            history=trail.actions.entity_history(entity.type, entity.id).items,
            tallies=tuple(_tally(connection, table, types) for table, types in _MADE_BY.items()),
            journey=None if cities == 0 else travel(conninfo, trail, cities=cities, progress=progress),
        )


def _ask(client: httpx.Client, base: str, step: Step, trail: Trail) -> Exchange:
    request_id = str(new_id())
    headers = {"X-Request-ID": request_id, wire.USER_HEADER: step.user}
    response = client.request(step.method, base + step.path, json=step.body, headers=headers)
    roots = [action.id for action in trail.actions.by_request(request_id) if action.parent_action_id is None]
    return Exchange(
        step=step,
        request_id=request_id,
        echoed=response.headers.get("X-Request-ID"),
        status=response.status_code,
        trees=tuple(tree for root in roots if (tree := trail.actions.tree(root)) is not None),
    )


def _copied(connection: psycopg.Connection[Any]) -> str:
    # 0 is nobody's id: if the copy went wrong, its history is empty, and the problems say why.
    [(copy_id,)] = connection.execute(
        "SELECT COALESCE(min(id), 0)::text FROM publisher_zmanim WHERE publisher_id = 1 AND zman_id = 2"
    ).fetchall()
    return str(copy_id)


def _tally(connection: psycopg.Connection[Any], table: str, action_types: tuple[str, ...]) -> Tally:
    query = sql.SQL(
        """WITH made AS (
               SELECT id FROM provenance.actions WHERE status = 'completed' AND action_type = ANY(%s))
           SELECT count(*), count(DISTINCT made.id), (SELECT count(*) FROM made)
             FROM {} domain LEFT JOIN made ON made.id = domain.created_by_action_id"""
    ).format(sql.Identifier(table))
    [(rows, matched, actions)] = connection.execute(query, (list(action_types),)).fetchall()
    return Tally(table=table, action_types=action_types, rows=rows, matched=matched, actions=actions)
