"""The Flask extension, with Flask's own test client and behind a real server."""

from __future__ import annotations

from collections.abc import Iterator

import flask
import pytest
from flask import Flask

from provenance.context import current_frame
from provenance.contrib.flask import Provenance
from provenance.contrib.wsgi import ProvenanceMiddleware
from tests.contrib import servers
from tests.contrib.clients import connect, get
from tests.contrib.flask_app import CHUNKS, create_app
from tests.contrib.samples import REQUEST_ID, is_minted

HEADERS = {"X-Request-ID": REQUEST_ID}


@pytest.fixture
def notes() -> list[tuple[str, str]]:
    """What the hooks of ``app`` have noted."""
    return []


@pytest.fixture
def app(notes: list[tuple[str, str]]) -> Flask:
    """A new application with the extension."""
    app = create_app(notes)
    Provenance(app)
    return app


def test_installs_with_the_constructor() -> None:
    """``Provenance(app)`` wraps the WSGI callable, not the application object, and registers itself."""
    app = Flask("app")
    extension = Provenance(app)
    assert ProvenanceMiddleware is type(app.wsgi_app)
    assert extension is app.extensions["provenance"]


def test_installs_with_init_app() -> None:
    """One extension object serves any number of applications, and keeps none of them."""
    extension = Provenance(trust=False)
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        extension.init_app(app)
    assert [extension, extension] == [app.extensions["provenance"] for app in apps]
    assert [] == [value for value in vars(extension).values() if isinstance(value, Flask)]
    replies = [app.test_client().get("/", headers=HEADERS) for app in apps]
    assert [True, True] == [is_minted(reply.headers["X-Request-ID"]) for reply in replies]


def test_installing_again_changes_nothing() -> None:
    """The first installation of an application stays, whoever asks again."""
    app = Flask("app")
    first = Provenance(app)
    installed = app.wsgi_app
    first.init_app(app)
    Provenance(app, trust=False)
    assert installed is app.wsgi_app
    assert first is app.extensions["provenance"]


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/async", 200), ("/missing", 404), ("/fails", 500)])
def test_every_response_carries_the_header(app: Flask, path: str, status: int) -> None:
    """Answers of views, of Flask itself and to unhandled errors all carry the id."""
    reply = app.test_client().get(path, headers=HEADERS)
    assert (status, [REQUEST_ID]) == (reply.status_code, reply.headers.getlist("X-Request-ID"))


@pytest.mark.parametrize("path", ["/", "/async"])
def test_views_know_the_request(app: Flask, path: str) -> None:
    """Sync and async views run inside the request."""
    assert REQUEST_ID == app.test_client().get(path, headers=HEADERS).text


def test_handler_of_errors_knows_the_request(app: Flask) -> None:
    """The page for an unhandled error can name the request."""
    assert f"please quote {REQUEST_ID}" == app.test_client().get("/fails", headers=HEADERS).text


@pytest.mark.parametrize("path", ["/", "/fails"])
def test_hooks_know_the_request(app: Flask, notes: list[tuple[str, str]], path: str) -> None:
    """All that Flask calls around a view, up to the close of the response, runs inside the request."""
    app.test_client().get(path, headers=HEADERS).close()
    assert [(hook, REQUEST_ID) for hook in ("before", "after", "teardown", "close")] == notes


def test_stream_with_context_knows_the_request(app: Flask, notes: list[tuple[str, str]]) -> None:
    """A stream has both Flask's request and ours to its last chunk, and so has its teardown."""
    reply = app.test_client().get("/stream", headers=HEADERS)
    assert [f"{REQUEST_ID} /stream"] * CHUNKS == reply.text.splitlines()
    reply.close()
    assert {(hook, REQUEST_ID) for hook in ("before", "after", "teardown", "close")} == set(notes)


def test_abandoned_stream_leaves_no_context_on_the_thread(app: Flask) -> None:
    """A stream that is neither finished nor closed does not leave Flask's context, or ours, to the next request."""
    environ = flask.testing.EnvironBuilder(app, "/stream").get_environ()
    body = iter(app(environ, lambda *arguments: lambda data: None))
    next(body)
    assert (False, False, None) == (flask.has_request_context(), flask.has_app_context(), current_frame())
    body.close()  # type: ignore[attr-defined]


def test_client_as_context_manager_keeps_flasks_context(app: Flask) -> None:
    """``with client:`` still lets a test look at the request after the response."""
    with app.test_client() as client:
        client.get("/", headers=HEADERS)
        assert ("/", REQUEST_ID) == (flask.request.path, flask.g.before)


def test_actor_belongs_to_one_request(app: Flask) -> None:
    """An actor set in a view is on the request's frame, and gone with it."""
    client = app.test_client()
    assert ["None ann", "None bob"] == [client.get(f"/actor?user={user}").text for user in ("ann", "bob")]


def test_options_reach_the_middleware() -> None:
    """The extension's keywords are the middleware's."""
    app = create_app([])
    Provenance(app, header="X-Trace", response_header="X-Trace", disclose="X-Own", trust=lambda environ: True)
    reply = app.test_client().get("/", headers={"X-Trace": REQUEST_ID, "X-Request-ID": "other"})
    assert (REQUEST_ID, REQUEST_ID) == (reply.headers["X-Trace"], reply.headers["X-Own"])


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Listening]:
    """Cheroot with one worker thread, serving an application with the extension."""
    app = create_app([])
    Provenance(app)
    with servers.cheroot_pool(app) as listening:
        yield listening


def test_served_stream_knows_its_request(server: servers.Listening) -> None:
    """Behind a real server too, a stream has its id to the last chunk."""
    reply = get(server.port, "/stream", *HEADERS.items())
    assert ([REQUEST_ID], [REQUEST_ID, "/stream"] * CHUNKS) == (reply.request_ids, reply.lines)


def test_served_requests_share_nothing(server: servers.Listening) -> None:
    """Requests on one connection and one thread, one of them failing, inherit nothing from each other."""
    with connect(server.port) as connection:
        paths = ("/actor?user=ann", "/fails", "/async", "/actor?user=bob")
        replies = [connection.request(path) for path in paths]
    assert [200, 500, 200, 200] == [reply.status for reply in replies]
    assert [b"None ann", b"None bob"] == [replies[0].body, replies[3].body]
    assert 4 == len({reply.request_ids[0] for reply in replies})
    assert f"please quote {replies[1].request_ids[0]}" == replies[1].body.decode()
