"""Databases for modules with many small tests: emptied between two tests instead of made anew, which takes far longer.

A module that wants this says so::

    recycler = databases.recycler
    provenance_dsn = databases.provenance_dsn
    eye = databases.eye  # where a test looks at what is committed
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.pgbouncer import PgBouncer

# Who last changed which row of the catalogue: it differs as soon as a test has made, dropped, altered or granted
# anything. What vacuuming notes there is written in place and does not show.
_CATALOGUE = """
SELECT array_agg(found ORDER BY found) FROM (
    SELECT 'class' || oid || xmin FROM pg_class UNION ALL
    SELECT 'attribute' || attrelid || attnum || xmin FROM pg_attribute UNION ALL
    SELECT 'proc' || oid || xmin FROM pg_proc UNION ALL
    SELECT 'trigger' || oid || xmin FROM pg_trigger UNION ALL
    SELECT 'constraint' || oid || xmin FROM pg_constraint UNION ALL
    SELECT 'type' || oid || xmin FROM pg_type UNION ALL
    SELECT 'namespace' || oid || xmin FROM pg_namespace UNION ALL
    SELECT 'extension' || oid || xmin FROM pg_extension UNION ALL
    SELECT 'policy' || oid || xmin FROM pg_policy UNION ALL
    SELECT 'database' || oid || xmin FROM pg_database WHERE datname = current_database() UNION ALL
    SELECT 'setting' || s.setrole || s.xmin FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
     WHERE d.datname = current_database()
) AS rows (found)"""

_EMPTY = """
SET LOCAL lock_timeout = '5s';
ALTER TABLE provenance.actions DISABLE TRIGGER refuse_change;
DELETE FROM provenance.actions;
ALTER TABLE provenance.actions ENABLE ALWAYS TRIGGER refuse_change;
DELETE FROM provenance.action_intents;
DELETE FROM provenance.idempotency_keys;
DELETE FROM provenance.open_blocks;
DELETE FROM provenance.readers;
DELETE FROM provenance.legal_holds;
DELETE FROM provenance.retention_policies;
DELETE FROM provenance.archived_months;
DELETE FROM work;
"""


def backend(connection: psycopg.Connection[Any]) -> int:
    """Return the server process that does the connection's queries: behind a pooler it is not who greeted the client."""
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or ()
    return int(pid)


class Recycler:
    """Hands out a database as the template has it."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._name: str | None = None
        self._catalogue: Any = None

    def take(self) -> str:
        """Return the address of a database that is as new, with nobody connected."""
        if self._name is None or not self._emptied():
            self.discard()
            self._name = f"provenance_test_{secrets.token_hex(8)}"
            self._administer(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(self._name), sql.Identifier(self._template)
                )
            )
            with psycopg.connect(self._address(), autocommit=True) as connection:
                self._catalogue = self._state(connection)
        return self._address()

    def discard(self) -> None:
        """Drop the database, if there is one."""
        if self._name is not None:
            self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))
            self._name = None

    def _address(self) -> str:
        assert self._name is not None
        return make_conninfo(self._server, dbname=self._name)

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement)

    @staticmethod
    def _state(connection: psycopg.Connection[Any]) -> Any:
        return connection.execute(_CATALOGUE).fetchone()

    def _emptied(self) -> bool:
        """Remove the rows of the test before, and return whether that makes the database as new."""
        with psycopg.connect(self._address(), autocommit=True) as connection:
            connection.execute(
                """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
            )
            if self._state(connection) != self._catalogue:
                return False
            with connection.transaction():
                connection.execute(_EMPTY)
            self._catalogue = self._state(connection)
        return True


@pytest.fixture(scope="module")
def recycler(provenance_server: str, provenance_template: str) -> Iterator[Recycler]:
    """One database for the tests of a module."""
    made = Recycler(provenance_server, provenance_template)
    yield made
    made.discard()


@pytest.fixture
def provenance_dsn(recycler: Recycler, pooler: PgBouncer | None) -> str:
    """The address of a database with nothing in it but what the template has, through the pooler if there is one."""
    address = recycler.take()
    return address if pooler is None else pooler.through(address)


@pytest.fixture
def eye(direct_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another connection, that sees what is committed."""
    with psycopg.connect(direct_dsn, autocommit=True) as connection:
        yield connection


def work(eye: psycopg.Connection[Any]) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]
