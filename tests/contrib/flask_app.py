"""A Flask application whose every hook notes the request it runs in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask, Response, g, request, stream_with_context

from provenance.context import current_frame, get_request_id, set_actor

CHUNKS = 3
pages = Blueprint("pages", __name__)


def _id() -> str:
    return str(get_request_id())


@pages.get("/")
def index() -> str:
    return _id()


@pages.get("/async")
async def asynchronous() -> str:
    set_actor(user_id="async view")
    return _id()


@pages.get("/actor")
def actor() -> str:
    frame = current_frame()
    assert frame is not None
    before = frame.user_id
    set_actor(user_id=request.args["user"])
    return f"{before} {frame.user_id}"


@pages.get("/stream")
def stream() -> Response:
    def chunks() -> Iterator[str]:
        for _ in range(CHUNKS):
            yield f"{_id()} {request.path}\n"

    return Response(stream_with_context(chunks()))


@pages.get("/fails")
def fails() -> str:
    raise RuntimeError("the view failed")


def create_app(notes: list[tuple[str, str]], **config: Any) -> Flask:
    """Return a new application; its hooks append their name and the current request id to *notes*."""
    app = Flask(__name__)
    app.config.update(config)
    app.register_blueprint(pages)

    @app.before_request
    def before() -> None:
        g.before = _id()
        notes.append(("before", _id()))

    @app.after_request
    def after(response: Response) -> Response:
        notes.append(("after", _id()))
        response.call_on_close(lambda: notes.append(("close", _id())))
        return response

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        notes.append(("teardown", _id()))

    @app.errorhandler(500)
    def failed(error: Exception) -> tuple[str, int]:
        return f"please quote {_id()}", 500

    return app
