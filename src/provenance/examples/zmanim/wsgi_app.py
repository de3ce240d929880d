"""The application as plain WSGI, with werkzeug's routing, request and response but no framework."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs
from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import Map, Rule

from provenance import set_actor
from provenance.contrib.wsgi import ProvenanceMiddleware
from provenance.examples.zmanim import wire
from provenance.examples.zmanim.service import ServiceError, ZmanimLinkingService

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

_ROUTES = Map(
    [
        Rule("/publishers/<int:publisher_id>/zmanim", endpoint="link_or_copy", methods=["POST"]),
        Rule("/publishers/<int:publisher_id>/zmanim/import", endpoint="link_all", methods=["POST"]),
        Rule("/publishers/<int:publisher_id>/zmanim/<int:zman_id>/formula", endpoint="edit_formula", methods=["PUT"]),
        Rule("/publishers/<int:publisher_id>/coverage", endpoint="add_coverage", methods=["POST"]),
        Rule("/publishers/<int:publisher_id>/coverage/rebalance", endpoint="rebalance_coverage", methods=["POST"]),
    ]
)


def create_app(service: ZmanimLinkingService) -> WSGIApplication:
    """Return a WSGI application that serves *service*."""
    return ProvenanceMiddleware(_Application(service))


class _Application:
    def __init__(self, service: ZmanimLinkingService) -> None:
        self._service = service
        self._endpoints: dict[str, Callable[..., Response]] = {
            "link_or_copy": self._link_or_copy,
            "link_all": self._link_all,
            "edit_formula": self._edit_formula,
            "add_coverage": self._add_coverage,
            "rebalance_coverage": self._rebalance_coverage,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            endpoint, arguments = _ROUTES.bind_to_environ(request.environ).match()
            set_actor(user_id=request.headers.get(wire.USER_HEADER), tenant_id=arguments["publisher_id"])
            return self._endpoints[endpoint](request.get_json(silent=True), **arguments)
        except ServiceError as error:
            return _json(*wire.refusal(error))
        except HTTPException as error:
            return Response.force_type(error.get_response(request.environ))
        except Exception:  # noqa: BLE001 - the last resort, as a framework has one
            _log.exception("%s %s failed", request.method, request.path)
            return Response.force_type(InternalServerError().get_response(request.environ))

    def _link_or_copy(self, body: object, publisher_id: int) -> Response:
        zman_id, mode = wire.link_order(body)
        return _json(attrs.asdict(self._service.link_or_copy(publisher_id, zman_id, mode)), 201)

    def _link_all(self, body: object, publisher_id: int) -> Response:
        return _json(attrs.asdict(self._service.link_all(publisher_id, wire.import_order(body))), 200)

    def _edit_formula(self, body: object, publisher_id: int, zman_id: int) -> Response:
        return _json(attrs.asdict(self._service.edit_formula(publisher_id, zman_id, wire.formula(body))), 200)

    def _add_coverage(self, body: object, publisher_id: int) -> Response:
        return _json({"id": self._service.add_coverage(publisher_id, wire.place(body))}, 201)

    def _rebalance_coverage(self, _: object, publisher_id: int) -> Response:
        return _json({"share": self._service.rebalance_coverage(publisher_id)}, 200)


def _json(body: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")
