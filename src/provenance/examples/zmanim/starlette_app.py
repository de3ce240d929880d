"""The application as a Starlette application, with the three ways an endpoint can reach the database.

A plain ``def`` endpoint runs in Starlette's thread pool; an ``async def`` one sends blocking work there itself, or awaits
the asynchronous trail. All three see the request's frame.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from json import JSONDecodeError

import attrs
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from provenance import AsyncTrail, set_actor
from provenance.contrib.starlette import install
from provenance.examples.zmanim import wire
from provenance.examples.zmanim.service import AsyncFormulaService, ServiceError, ZmanimLinkingService


def create_app(service: ZmanimLinkingService, async_trail: AsyncTrail) -> Starlette:
    """Return a Starlette application that serves *service*.

    Args:
        service: what it serves.
        async_trail: for the endpoints that await; closed when the application shuts down, in its own event loop.
    """
    formulas = AsyncFormulaService(async_trail)

    async def link_or_copy(request: Request) -> JSONResponse:
        publisher_id = _identify(request)
        zman_id, mode = wire.link_order(await _body(request))
        made = await run_in_threadpool(service.link_or_copy, publisher_id, zman_id, mode)
        return JSONResponse(attrs.asdict(made), 201)

    async def link_all(request: Request) -> JSONResponse:
        publisher_id = _identify(request)
        zman_ids = wire.import_order(await _body(request))
        return JSONResponse(attrs.asdict(await run_in_threadpool(service.link_all, publisher_id, zman_ids)))

    async def edit_formula(request: Request) -> JSONResponse:
        publisher_id = _identify(request)
        zman_id: int = request.path_params["zman_id"]
        formula = wire.formula(await _body(request))
        return JSONResponse(attrs.asdict(await formulas.edit_formula(publisher_id, zman_id, formula)))

    async def add_coverage(request: Request) -> JSONResponse:
        publisher_id = _identify(request)
        place = wire.place(await _body(request))
        return JSONResponse({"id": await run_in_threadpool(service.add_coverage, publisher_id, place)}, 201)

    def rebalance_coverage(request: Request) -> JSONResponse:
        return JSONResponse({"share": service.rebalance_coverage(_identify(request))})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with async_trail:
            yield

    app = Starlette(
        routes=[
            Route("/publishers/{publisher_id:int}/zmanim", link_or_copy, methods=["POST"]),
            Route("/publishers/{publisher_id:int}/zmanim/import", link_all, methods=["POST"]),
            Route("/publishers/{publisher_id:int}/zmanim/{zman_id:int}/formula", edit_formula, methods=["PUT"]),
            Route("/publishers/{publisher_id:int}/coverage", add_coverage, methods=["POST"]),
            Route("/publishers/{publisher_id:int}/coverage/rebalance", rebalance_coverage, methods=["POST"]),
        ],
        exception_handlers={ServiceError: _refuse},
        lifespan=lifespan,
    )
    install(app)
    return app


def _identify(request: Request) -> int:
    """Say who is acting, for which publisher, and return the publisher."""
    publisher_id: int = request.path_params["publisher_id"]
    set_actor(user_id=request.headers.get(wire.USER_HEADER), tenant_id=publisher_id)
    return publisher_id


async def _body(request: Request) -> object:
    try:
        return await request.json()
    except (JSONDecodeError, UnicodeDecodeError):
        return None


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for these only
    body, status = wire.refusal(error)
    return JSONResponse(body, status)
