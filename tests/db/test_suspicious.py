"""Columns that come after the capture: the database masks at least those that the redactor would have hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from provenance.values import Redactor


@pytest.fixture
def eye(direct_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def masked(eye: psycopg.Connection[Any], names: list[str], redactor: Redactor) -> set[str]:
    """Return which columns of a table are masked that was captured before it had any of them."""
    with eye.transaction(force_rollback=True):
        columns = [sql.SQL("{} text").format(sql.Identifier(name)) for name in names]
        eye.execute(sql.SQL("CREATE TABLE later ({})").format(sql.SQL(", ").join(columns)))
        rows = eye.execute(
            """SELECT c.name FROM provenance.captured_columns(jsonb_populate_record(
                          NULL::provenance.captured_tables,
                          jsonb_build_object('excluded', '{}'::text[], 'masked', '{}'::text[], 'kept', '{}'::text[],
                                             'suspicious', %s::text)), 'later'::regclass) c
                WHERE c.hidden = 'masked'""",
            (redactor.suspicious,),
        )
        return {name for (name,) in rows}


REDACTORS = [
    Redactor(),
    Redactor(extra=("iban", "date of birth", "Kennwort")),
    Redactor(extra=("סיסמה", "Größe", "Maß", "número de cuenta")),
]
PARTS = [
    *Redactor().suspicious.split("|"),
    *["api", "key", "card", "number", "s", "count", "user", "date", "of", "birth", "iban", "kennwort"],
    *["סיסמה", "größe", "mass", "número", "de", "cuenta", "paß"],
]
SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}
anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
cased = st.builds(
    lambda word, change: change(word), st.sampled_from(PARTS), st.sampled_from([str, str.upper, str.title])
)
column_names = (
    st.lists(cased | anything | st.sampled_from(["_", "1", "\u00b7", "\u0663", "\u0301"]), min_size=1, max_size=5)
    .map("".join)
    .filter(lambda name: 0 < len(name.encode()) <= 63 and name not in SYSTEM_COLUMNS)
)


# The database is the same for all examples because nothing stays in it.
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(column_names, min_size=1, max_size=40, unique=True), redactor=st.sampled_from(REDACTORS))
@example(
    names=["api\u0663key", "api\u0301_Key", "JWTs", "db_pass", "\uff50assword", "Date.Of_BIRTH", "kennw\u00f6rter"],
    redactor=REDACTORS[1],
)
@example(
    names=["paß", "user_סיסמה", "GRÖSSE", "größe", "MASS", "numeroDeCuenta", "Número_de_Cuenta", "\u212aey"],
    redactor=REDACTORS[2],
)
def test_every_column_that_would_be_hidden_is_masked(
    eye: psycopg.Connection[Any], names: list[str], redactor: Redactor
) -> None:
    """Whatever its name is made of, in every alphabet."""
    hidden = {name for name in names if redactor.hides(name)}
    assert set() == hidden - masked(eye, names, redactor)


def test_a_column_that_does_not_sound_like_a_secret_is_not_masked(eye: psycopg.Connection[Any]) -> None:
    """A name that contains such a word is, because nobody has looked at it yet."""
    assert {"shipping", "PIN"} == masked(eye, ["id", "name", "shipping", "PIN", "created_at"], Redactor())


def test_a_name_in_another_alphabet_is_masked(eye: psycopg.Connection[Any]) -> None:
    """What it sounds like is for the redactor to say, when the table is captured again."""
    assert {"שם", "prénom"} == masked(eye, ["id", "שם", "prénom"], Redactor())
