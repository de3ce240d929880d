"""The application as a Flask application."""

from __future__ import annotations

from typing import Any

import attrs
from flask import Flask, request

from provenance import set_actor
from provenance.contrib.flask import Provenance
from provenance.examples.zmanim import wire
from provenance.examples.zmanim.service import ServiceError, ZmanimLinkingService

Answer = tuple[dict[str, Any], int]


def create_app(service: ZmanimLinkingService) -> Flask:
    """Return a Flask application that serves *service*."""
    app = Flask(__name__)
    Provenance(app)

    @app.before_request
    def identify() -> None:
        set_actor(
            user_id=request.headers.get(wire.USER_HEADER), tenant_id=(request.view_args or {}).get("publisher_id")
        )

    @app.errorhandler(ServiceError)
    def refuse(error: ServiceError) -> Answer:
        return wire.refusal(error)

    @app.post("/publishers/<int:publisher_id>/zmanim")
    def link_or_copy(publisher_id: int) -> Answer:
        zman_id, mode = wire.link_order(request.get_json(silent=True))
        return attrs.asdict(service.link_or_copy(publisher_id, zman_id, mode)), 201

    @app.post("/publishers/<int:publisher_id>/zmanim/import")
    def link_all(publisher_id: int) -> Answer:
        zman_ids = wire.import_order(request.get_json(silent=True))
        return attrs.asdict(service.link_all(publisher_id, zman_ids)), 200

    @app.put("/publishers/<int:publisher_id>/zmanim/<int:zman_id>/formula")
    def edit_formula(publisher_id: int, zman_id: int) -> Answer:
        formula = wire.formula(request.get_json(silent=True))
        return attrs.asdict(service.edit_formula(publisher_id, zman_id, formula)), 200

    @app.post("/publishers/<int:publisher_id>/coverage")
    def add_coverage(publisher_id: int) -> Answer:
        place = wire.place(request.get_json(silent=True))
        return {"id": service.add_coverage(publisher_id, place)}, 201

    @app.post("/publishers/<int:publisher_id>/coverage/rebalance")
    def rebalance_coverage(publisher_id: int) -> Answer:
        return {"share": service.rebalance_coverage(publisher_id)}, 200

    return app
