"""That no secret reaches the database, the spool or the log, by whatever way it comes."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from provenance import AsyncTrail, Redactor, Trail
from provenance.testing import RecordedActions
from tests.strategies import CANARY
from tests.support import databases
from tests.support.rows import stored

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

REDACTOR = Redactor(extra=("iban",), patterns=[r"CASE-\w+"], capture={"login": ["user", "method"]})
ADDRESS = f"postgresql://ada:{CANARY}@db/app"
LEAKY = f"could not reach {ADDRESS} for CASE-{CANARY} with iban={CANARY}"
CLEAN = "could not reach postgresql://ada:[redacted]@db/app for [redacted] with iban=[redacted]"


@pytest.fixture
def redacting(provenance_dsn: str) -> Any:
    """A trail with keys, patterns and a capture list of its own."""
    with Trail(provenance_dsn, redactor=REDACTOR) as trail:
        yield trail


def test_secrets_in_texts_are_stored_nowhere(
    redacting: Trail, eye: psycopg.Connection[Any], recorded_actions: RecordedActions, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those of payload, result and metadata nor those of an error, and the log does not know them either."""
    caplog.set_level(logging.DEBUG)
    with (
        pytest.raises(ValueError, match=CANARY),
        redacting.track_action("add", concept="work", payload=[ADDRESS], metadata={ADDRESS: 1}) as action,
    ):
        action.result = {ADDRESS: object()}
        raise ValueError(LEAKY)

    row = recorded_actions.one()
    assert (["postgresql://ada:[redacted]@db/app"], CLEAN) == (row.payload, row.error_message)
    assert 'result["postgresql://ada:[redacted]@db/app"]: a value of type object' in caplog.text
    assert CANARY not in stored(eye) + caplog.text


def test_reasons_of_failures_are_redacted(redacting: Trail, recorded_actions: RecordedActions) -> None:
    """Whether they are given inside a block, to an action begun elsewhere, or by a block inside another."""
    with redacting.track_action("outer", concept="work"):
        with pytest.raises(ValueError, match=CANARY), redacting.track_action("inner", concept="work"):
            raise ValueError(LEAKY)
        with redacting.track_action("said", concept="work") as action:
            action.fail(LEAKY)
    with (
        pytest.raises(ValueError, match=CANARY),
        redacting.track_action("detached", concept="work", transaction=False),
    ):
        raise ValueError(LEAKY)
    redacting.fail(redacting.begin("begun", concept="work", payload={"a": LEAKY}), LEAKY)

    assert {"outer": None, "inner": CLEAN, "said": CLEAN, "detached": CLEAN, "begun": CLEAN} == {
        row.action_type: row.error_message for row in recorded_actions.all()
    }


@attrs.define
class Login:
    password: int = attrs.field(validator=attrs.validators.instance_of(int))


def _command() -> None:
    raise subprocess.CalledProcessError(1, ["psql", "--password", f"a {CANARY}", "-e", f"PGPASSWORD=a {CANARY}"])


def _field() -> None:
    Login(password=f"a {CANARY}")  # type: ignore[arg-type]


def _headers() -> None:
    raise ValueError([("Cookie", f"a {CANARY}"), {"name": "token", "value": f"b {CANARY}"}])


@pytest.mark.parametrize("fail", [_command, _field, _headers])
def test_messages_of_everyday_exceptions_hold_no_secret(
    redacting: Trail, eye: psycopg.Connection[Any], fail: Callable[[], None]
) -> None:
    """Of commands that failed, of validators, and of whatever was handed to an exception."""
    with (
        pytest.raises((subprocess.CalledProcessError, TypeError, ValueError), match=CANARY),
        redacting.track_action("add", concept="work"),
    ):
        fail()

    assert "[redacted]" in stored(eye)
    assert CANARY not in stored(eye)


async def areasons(trail: AsyncTrail) -> None:
    async with trail:
        with pytest.raises(ValueError, match=CANARY):
            async with trail.track_action("login", concept="work", payload={"user": 7, "x": CANARY}) as action:
                action.result = LEAKY
                raise ValueError(LEAKY)


@pytest.mark.anyio
async def test_secrets_in_texts_are_stored_nowhere_async(
    provenance_dsn: str, eye: psycopg.Connection[Any], recorded_actions: RecordedActions
) -> None:
    """In the other colour too."""
    await areasons(AsyncTrail(provenance_dsn, redactor=REDACTOR))

    row = recorded_actions.one()
    assert ({"user": 7, "x": "[redacted]"}, CLEAN) == (row.payload, row.error_message)
    assert CANARY not in stored(eye)


def test_of_an_action_type_only_what_is_named_is_stored(
    redacting: Trail, eye: psycopg.Connection[Any], recorded_actions: RecordedActions
) -> None:
    """By every way in which such an action begins; of other types, all."""
    payload = {"user": "ada", "method": "otp", "answer": CANARY, "handle": object()}
    with redacting.track_action("login", concept="session", payload=payload) as action:
        action.result = {"answer": 42}
    redacting.begin("login", concept="session", payload=payload)
    with redacting.track_action("logout", concept="session", payload={"answer": 42}):
        pass

    kept = {"user": "ada", "method": "otp", "answer": "[redacted]", "handle": "[redacted]"}
    assert [kept, kept, {"answer": 42}] == [row.payload for row in recorded_actions.all()]
    assert [{"answer": 42}, None, None] == [row.result for row in recorded_actions.all()]
    assert CANARY not in stored(eye)


def test_the_spool_holds_no_secret(tmp_path: Path) -> None:
    """What is kept in files until the database can be reached is redacted before."""
    nowhere = "host=127.0.0.1 port=1 connect_timeout=1"
    with (
        Trail(nowhere, spool=tmp_path / "spool", redactor=REDACTOR) as trail,
        pytest.raises(ValueError, match=CANARY),
        trail.track_action("add", concept="work", payload={"a": LEAKY}, transaction=False),
    ):
        raise ValueError(LEAKY)

    texts = [path.read_text() for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [True, False] == [any(word in text for text in texts) for word in ("could not reach", CANARY)]
