"""Roles that own nothing, as an application has one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo, sql


@contextmanager
def writer(dsn: str) -> Iterator[tuple[str, str]]:
    """Make a writer of the trail that may do nothing else; yield its name and the address that it logs in with."""
    name = f"provenance_app_{secrets.token_hex(8)}"
    role = sql.Identifier(name)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        try:
            owner.execute("SELECT provenance.grant_writer(%s)", (name,))
            yield name, conninfo.make_conninfo(dsn, user=name)
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
