"""Secrets are planted in everything that the trail is given, and then looked for in every byte that is left of it.

Rows of captured tables are not among them: their secrets are in the application's own tables, in the same files.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click.testing
import pytest
from werkzeug.test import Client, EnvironBuilder
from werkzeug.wrappers import Request, Response

from provenance import request_scope, schema
from provenance.cli.app import cli
from provenance.contrib.wsgi import ProvenanceMiddleware
from provenance.trail import Trail
from tests.support import outages
from tests.support.cluster import Cluster
from tests.support.outages import settled
from tests.support.proxy import Proxy
from tests.support.rows import stored

hurried = outages.hurried
pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.direct("the server is the test's own")]

HARMLESS = "lighthouse"
"""Stands beside every secret, and must be found wherever a secret would be."""


class LeakyError(Exception):
    """What bodies raise; nothing else may be passed over."""


class Planted:
    """Makes secrets that are like no other text, and remembers them."""

    def __init__(self) -> None:
        self.secrets: list[str] = []

    def secret(self) -> str:
        self.secrets.append(made := uuid.uuid4().hex)
        return made

    def texts(self) -> list[str]:
        """Return texts with a secret each, in the forms in which they get into texts."""
        secret = self.secret
        return [
            f"{HARMLESS} {text}"
            for text in (
                f"could not reach postgresql://ada:{secret()}@db:5432/app",
                f"sent Authorization: Bearer {secret()}",
                f"Cookie: session={secret()}",
                f"host=db password={secret()} user=ada",
                f'{{"user": "ada", "password": "{secret()}", "n": 1}}',
                f"user=ada&client_secret={secret()}&n=1",
                f"https://example.org/callback?access_token={secret()}&state=1",
                f"export API_KEY='{secret()}'",
                f"-----BEGIN {'PRIVATE'} KEY-----\n{secret()}\n-----END {'PRIVATE'} KEY-----",
                f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.{secret()}",
                f"{'ghp'}_{secret()}abcd",
                f"{'sk'}_live_{secret()}",
                f"<password>{secret()}</password>",
                f"login(user='ada', password='{secret()}')",
            )
        ]

    def document(self) -> dict[str, Any]:
        """Return a document with secrets under telling keys and in texts, on several levels."""
        return {
            "place": HARMLESS,
            "password_confirmation": self.secret(),
            "secretKey": self.secret().encode(),
            "users": [{"name": HARMLESS, "api-token": self.secret(), "cards": ("x", {"cvv": self.secret()})}],
            "texts": self.texts(),
            "key": {"authorization": {"deep": [self.secret()]}},
            f"postgresql://ada:{self.secret()}@db/app": "a key",
        }

    def error(self) -> Exception:
        """Return an error that says them all, as its cause and its notes do."""
        error = LeakyError("; ".join(self.texts()))
        error.add_note(self.texts()[0])
        error.__cause__ = LookupError(self.texts()[1])
        return error


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that logs every statement, and every parameter."""
    with Cluster() as made:
        made.set(("log_statement=all", "log_min_duration_statement=0", "log_min_error_statement=debug1"))
        with made.connect() as owner:
            schema.up(owner)
            owner.execute("ALTER TABLE provenance.actions ADD CONSTRAINT ours CHECK (action_type <> 'refused')")
        yield made


def record_everything(trail: Trail, planted: Planted) -> None:
    """Give the trail secrets by every way there is."""
    given = {"concept": "work", "entity_type": "place"}
    with trail.track_action(
        "add", payload=planted.document(), metadata=planted.document(), durability="intent", **given
    ) as action:
        action.result = planted.document()
        with suppress(LeakyError), trail.track_action("inner", payload=planted.document(), **given):
            raise planted.error()
        with trail.track_action("said", **given) as inner:
            inner.fail("; ".join(planted.texts()))
    for transaction in (True, False):
        with (
            suppress(LeakyError),
            trail.track_action(
                "failing", payload=planted.document(), transaction=transaction, durability="intent", **given
            ),
        ):
            raise planted.error()
    begun = [trail.begin("begun", payload=planted.document(), metadata=planted.document(), **given) for _ in range(3)]
    trail.complete(begun[0], result=planted.document())
    trail.fail(begun[1], planted.error())


def serve(trail: Trail, planted: Planted) -> None:
    """Answer requests whose every header has a secret in it."""

    @Request.application
    def application(request: Request) -> Response:
        with suppress(LeakyError), trail.track_action("serve", concept="work", payload=dict(request.args)):
            raise planted.error()
        return Response("")

    for trust in (True, False):
        client = Client(ProvenanceMiddleware(application, trust=trust))
        secret = planted.secret
        client.open(
            EnvironBuilder(
                path=f"/{HARMLESS}",
                query_string=f"token={secret()}",
                headers={
                    "Authorization": f"Bearer {secret()}",
                    "Cookie": f"session={secret()}",
                    "X-Request-ID": f"{HARMLESS} password={secret()}",
                    "traceparent": f"00-{secret()}-{HARMLESS}",
                    "X-Api-Key": secret(),
                    "User-Agent": f"password={secret()}",
                },
            )
        )


def exported(cluster: Cluster, trail: Trail) -> str:
    """Return what the commands of the command line print."""
    first = trail.actions.search(limit=1).items[0]
    printed = ""
    for command in (
        ["log", "--limit", "200"],
        ["show", str(first.id)],
        ["history", "place", HARMLESS],
        ["doctor"],
        ["status"],
        ["recover"],
    ):
        for form in ([], ["--json"]):
            answer = click.testing.CliRunner().invoke(
                cli, ["--dsn", cluster.conninfo, *command, *form], prog_name="provenance"
            )
            assert answer.exception is None or isinstance(answer.exception, SystemExit), command
            printed += answer.output
    return printed


def files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_no_secret_is_left_anywhere(cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in files, log and write-ahead log of the server nor in tables, spool, the library's log and exports."""
    caplog.set_level(logging.DEBUG)
    planted = Planted()
    spool = tmp_path / "spool"
    with (
        Proxy(cluster.conninfo) as way,
        Trail(cluster.conninfo, journal=way.address, spool=spool) as trail,
        Trail(cluster.conninfo, journal=way.address) as spoolless,
    ):
        with request_scope():
            record_everything(trail, planted)
        serve(trail, planted)
        serve(spoolless, planted)
        way.go_down()
        for durability in ("intent", "atomic"):
            with (
                suppress(LeakyError),
                trail.track_action(
                    "kept", concept="work", payload=planted.document(), transaction=False, durability=durability
                ),
            ):
                raise planted.error()
        kept = files(spool)
        # Without a spool, rows are logged in full.
        with (
            suppress(LeakyError),
            spoolless.track_action("logged", concept="work", payload=planted.document(), transaction=False),
        ):
            raise planted.error()
        way.down = False
        # Two outcomes, and that one of them was begun.
        assert settled(trail).replayed == 3
        # What the database refuses is set aside in the spool.
        with trail.track_action("refused", concept="work", payload=planted.document(), transaction=False):
            pass
        assert trail.health().refused == 1
        printed = exported(cluster, trail)
        with cluster.connect() as eye:
            tables = stored(eye)
            eye.execute("CHECKPOINT")
    cluster.stop()
    left = {
        "data directory": files(cluster.home),
        "spool during the outage": kept,
        "spool": files(spool),
        "tables": tables.encode(),
        "log": caplog.text.encode(),
        "exports": printed.encode(),
    }
    found = [
        (place, secret) for place, content in left.items() for secret in planted.secrets if secret.encode() in content
    ]
    assert found == []
    assert [place for place, content in left.items() if HARMLESS.encode() not in content] == []
    assert len(planted.secrets) > 200
