"""PgBouncer in transaction mode in front of the test server.

With ``PROVENANCE_TEST_POOLER=pgbouncer`` the suite goes through it: the address a test is given (``provenance_dsn``) leads
to PgBouncer, and what looks on or administers (``eye``, ``recorded_actions``, ``direct_dsn``) to the server itself.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

PORT = 6432
_PATIENCE = 20.0

_CONFIGURATION = """
[databases]
{databases}

[pgbouncer]
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
; a socket only: nobody else on this machine's network finds it
listen_addr =
listen_port = {port}
unix_socket_dir = {home}
auth_type = trust
auth_file = {home}/users
; tests make roles, which no file knows
auth_user = {user}
auth_query = SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1
admin_users = {user}
logfile = {home}/log
; a test that starves fails, rather than wait for its timeout
query_wait_timeout = 20
server_login_retry = 1
"""


def executable() -> str | None:
    """Return where PgBouncer is installed; Debian puts it where only root looks."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


_FALLEN = "in function disconnect_client(): bad client state"


class PgBouncer:
    """A running PgBouncer.

    Args:
        server: the address of the server it stands in front of.
        pool_size: how many server connections the clients of one database share, per role.
        databases: further lines of its section ``[databases]``; any other database is reached by its own name.
    """

    def __init__(self, server: str, *, pool_size: int, databases: str = "") -> None:
        self._server = conninfo.conninfo_to_dict(server)
        self._pool_size = pool_size
        self._databases = databases
        self._user = str(self._server.get("user") or pwd.getpwuid(os.geteuid()).pw_name)
        self._home = Path(tempfile.mkdtemp(prefix="provenance-bouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def through(self, address: str) -> str:
        """Return the address that leads to the same database through PgBouncer."""
        return conninfo.make_conninfo(address, host=str(self._home), port=PORT)

    def direct(self, address: str) -> str:
        """Return the address that leads to the same database past PgBouncer."""
        found = conninfo.conninfo_to_dict(address) | {"host": None, "port": None}
        where = {key: self._server[key] for key in ("host", "port") if key in self._server}
        return conninfo.make_conninfo(**(found | where))

    def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command of PgBouncer's own, such as ``SHOW SERVERS``."""
        address = conninfo.make_conninfo(host=str(self._home), port=PORT, dbname="pgbouncer", user=self._user)
        with psycopg.connect(address, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        return (self._home / "log").read_text()

    def _configure(self) -> None:
        host, port = self._server.get("host") or "/var/run/postgresql", self._server.get("port") or 5432
        databases = [self._databases, f"* = host={_quoted(host)} port={port}"]
        (self._home / "ini").write_text(
            _CONFIGURATION.format(
                databases="\n".join(databases), pool_size=self._pool_size, port=PORT, home=self._home, user=self._user
            )
        )
        (self._home / "users").write_text(f'"{self._user}" "{self._server.get("password") or ""}"\n')

    def _unprivileged(self) -> dict[str, Any]:
        """Return whom to run it as: it refuses root, and has to get at the server's socket."""
        if os.geteuid() != 0:
            return {}
        host = str(self._server.get("host") or "/var/run/postgresql")
        uid = Path(host).stat().st_uid if host.startswith("/") else 0
        someone = pwd.getpwuid(uid or pwd.getpwnam("nobody").pw_uid)
        for path in (self._home, *self._home.iterdir()):
            shutil.chown(path, someone.pw_uid, someone.pw_gid)
        return {"user": someone.pw_uid, "group": someone.pw_gid, "extra_groups": []}

    def __enter__(self) -> Self:
        command = executable()
        assert command is not None, "pgbouncer is not installed"
        self._configure()
        self._command = [command, "-q", str(self._home / "ini")]
        self._process = subprocess.Popen(self._command, **self._unprivileged())
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(psycopg.OperationalError):
                self.console("SHOW VERSION")
                return self
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.01)

    def _supervise(self) -> None:
        """Start it again, as systemd would, when it falls over a client that cancels a query and hangs up at once.

        That is a fault of version 1.18: https://github.com/pgbouncer/pgbouncer/issues/801. Nothing else is forgiven.
        """
        while self._process is not None:
            self._process.wait()
            if self._stopping or _FALLEN not in self.log().splitlines()[-1]:
                return
            self._process = subprocess.Popen(self._command, **self._unprivileged())

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._stopping = True
        # At once: SIGINT would wait for whoever is still connected.
        self._process.terminate()
        self._process.wait(_PATIENCE)
        self._supervisor.join(_PATIENCE)
        shutil.rmtree(self._home)
