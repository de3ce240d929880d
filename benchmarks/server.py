"""The server that is measured, and what there is to know about it and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

import provenance
from provenance.embedded import EmbeddedPostgres

# What moves the numbers most. They are left as the wheel has them, and read back instead of assumed.
_SETTINGS = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "data_checksums",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "jit",
]


@contextmanager
def running_server() -> Generator[str]:
    """Yield the address of a new server that keeps what it commits, as one in production would: fsync costs."""
    with EmbeddedPostgres(durable=True) as server:
        yield server.conninfo


def new_database(server: str, name: str) -> str:
    """Return the address of an empty database, so that no workload inherits what another left behind."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return conninfo.make_conninfo(server, dbname=name)


def logged(connection: psycopg.Connection[Any]) -> int:
    """Return how many bytes of write-ahead log the server has written so far."""
    ((found,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
    return int(found)


def facts(server: str) -> dict[str, str]:
    """Return what a reader must know to compare the numbers with others."""
    with psycopg.connect(server) as connection:
        version = connection.execute("SELECT version()").fetchone()
        settings = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) WITH ORDINALITY AS f (name, n) ORDER BY n",
            [_SETTINGS],
        ).fetchall()
    return {
        "provenance": provenance.__version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}, psycopg {psycopg.__version__}",
        "Postgres": version[0] if version else "unknown",
        "Settings": ", ".join(f"`{name} = {value}`" for name, value in settings),
        "CPU": f"{_cpu()}, {os.cpu_count()} logical",
        "System": platform.platform(),
    }


def _cpu() -> str:
    """Return the model of the processor, which Python itself does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
