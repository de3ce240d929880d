"""What is stored about an exception."""

from __future__ import annotations

import time

import psycopg
import pytest

from provenance.errors import InvalidAction
from provenance.failures import Failure, stated
from provenance.failures import describe as described
from provenance.values import Redactor


def describe(error: BaseException, redactor: Redactor = Redactor()) -> Failure:  # noqa: B008
    """Describe it as a trail that is set up with nothing special does."""
    return described(error, redactor)


class Wrapped(Exception):
    """As SQLAlchemy wraps the driver's error: its own text goes on with SQL and parameters."""

    def __init__(self, orig: BaseException) -> None:
        super().__init__(f"({type(orig).__name__}) {orig}\n[parameters: ('hunter2',)]")
        self.orig = orig


class Mute(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.fixture
def not_null(provenance_dsn: str) -> psycopg.Error:
    """A database error whose full text quotes the row."""
    return _error(provenance_dsn, "INSERT INTO work (id, secret) VALUES (NULL, 'hunter2')")


def _error(dsn: str, query: str) -> psycopg.Error:
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(query.encode())
    return caught.value


def test_an_ordinary_error_keeps_its_type_and_text() -> None:
    """Builtins go without their module."""
    assert describe(ValueError("too old")) == Failure(error_type="ValueError", error_code=None, error_message="too old")


def test_the_type_is_qualified() -> None:
    """Two libraries may both have an Error."""
    assert describe(Mute()) == Failure(error_type=f"{__name__}.Mute", error_code=None, error_message="")


def test_a_database_error_does_not_quote_the_row(not_null: psycopg.Error) -> None:
    """Only the server's one-line message is kept."""
    assert "hunter2" in str(not_null)
    assert describe(not_null) == Failure(
        error_type="psycopg.errors.NotNullViolation",
        error_code="23502",
        error_message='null value in column "id" of relation "work" violates not-null constraint',
    )


def test_a_data_exception_does_not_quote_the_value(provenance_dsn: str) -> None:
    """The one-line message of class 22 would."""
    error = _error(provenance_dsn, "SELECT 'hunter2'::integer")
    assert describe(error).error_message == 'invalid input syntax for type integer: "…"'


def test_a_wrapper_with_orig_is_described_by_what_it_wraps(not_null: psycopg.Error) -> None:
    """SQL and parameters stay out."""
    found = describe(Wrapped(not_null))
    assert (found.error_type, found.error_code) == (f"{__name__}.Wrapped", "23502")
    assert found.error_message == 'null value in column "id" of relation "work" violates not-null constraint'


def test_text_that_embeds_a_database_error_is_cleaned(not_null: psycopg.Error) -> None:
    """As in: raise ServiceError(f"could not save: {error}") from error."""
    error = RuntimeError(f"could not save: {not_null}")
    error.__cause__ = not_null
    found = describe(error)
    assert found.error_code == "23502"
    assert (
        found.error_message
        == 'could not save: null value in column "id" of relation "work" violates not-null constraint'
    )


def test_embedded_detail_alone_is_cleaned_too(not_null: psycopg.Error) -> None:
    """Whoever formats the diagnostics himself does not get them past."""
    error = RuntimeError(f"detail was {not_null.diag.message_detail}")
    error.__context__ = not_null
    assert describe(error).error_message == "detail was …"


def test_an_error_of_the_client_keeps_its_text() -> None:
    """It has no diagnostics, and quotes nothing."""
    error = psycopg.OperationalError("the connection is closed")
    assert describe(error) == Failure(
        error_type="psycopg.OperationalError", error_code=None, error_message="the connection is closed"
    )


def test_an_empty_database_error_changes_nothing() -> None:
    """There is nothing to replace."""
    error = RuntimeError("plain")
    error.__cause__ = psycopg.OperationalError()
    assert describe(error).error_message == "plain"


def test_a_circle_of_causes_ends() -> None:
    """Exceptions can be chained into a ring."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe(first).error_message == "a"


def test_ctrl_c_while_an_error_is_described() -> None:
    """It is not swallowed with what the error's own code may raise."""

    class Slow(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Slow())


def test_secrets_in_the_text_of_an_error_are_hidden() -> None:
    """Whoever raised it quoted what he had: an address, a header, a body."""
    error = RuntimeError('GET https://ada:hunter2@h/?token=x said 401: {"password": "hunter2", "n": 1}')
    found = describe(error)
    assert found.error_message == (
        'GET https://ada:[redacted]@h/?token=[redacted] said 401: {"password": "[redacted]", "n": 1}'
    )


def test_the_redactor_given_decides_what_is_hidden_in_an_error() -> None:
    """The user's own keys and patterns apply there too."""
    redactor = Redactor(extra=("iban",), patterns=[r"CASE-\d+"])
    assert described(ValueError("iban=DE00 of CASE-7"), redactor).error_message == "iban=[redacted] of [redacted]"
    assert stated("iban=DE00 of CASE-7", redactor) == Failure(
        error_type=None, error_code=None, error_message="iban=[redacted] of [redacted]"
    )


def test_a_reason_is_text_or_an_exception() -> None:
    """An exception is described, and anything else refused."""
    assert stated(ValueError("token=x"), Redactor()).error_message == "token=[redacted]"
    with pytest.raises(InvalidAction, match="the reason of a failure: expected text or an exception, got int"):
        stated(5, Redactor())  # type: ignore[arg-type]


def test_a_secret_is_hidden_before_the_text_is_cut() -> None:
    """A token that the cap goes through would not be recognised any more."""
    found = describe(RuntimeError("x" * 4060 + " sk-" + "proj-aB3dEfGh1jKlMn0pQrStUvWx" + "." * 20))
    assert found.error_message == "x" * 4060 + " [redacted]" + "." * 20


def test_a_text_of_blanks_takes_no_time() -> None:
    """What is cut off a database error begins with blanks, and looking for them must not be quadratic."""
    begun = time.process_time()
    describe(RuntimeError(" " * 1_000_000 + "x"))
    assert time.process_time() - begun < 5


class Exiting(Exception):
    """Leaves the process when it is shown."""

    def __str__(self) -> str:
        raise SystemExit


def test_an_error_that_exits_when_it_is_shown() -> None:
    """Its type is kept all the same."""
    assert describe(Exiting()) == Failure(error_type=f"{__name__}.Exiting", error_code=None, error_message="")
