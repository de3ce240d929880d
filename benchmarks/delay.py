"""``python -m benchmarks.delay``: a line to a Postgres socket on which everything takes its time, as to another machine.

What arrives from the client is passed on when its time has come, however much comes behind it: it is a long line and not a
slow one. Answers are passed on at once, so a round trip takes so much longer. It runs in a process of its own, or it would
take turns with the client that is measured.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from psycopg import conninfo

_CHUNK = 65536


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    target.close()


def _pass_on_later(source: socket.socket, target: socket.socket, delay: float) -> None:
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        with suppress(OSError):
            while True:
                due, data = under_way.get()
                # The system lets one sleep a little too long.
                if (rest := due - time.monotonic() - 0.000_06) > 0:
                    time.sleep(rest)
                while time.monotonic() < due:
                    pass
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        try:
            data = source.recv(_CHUNK)
        except OSError:
            data = b""
        under_way.put((time.monotonic() + delay, data))
        if not data:
            return


def serve(target: str, delay: float) -> None:
    """Print the port, and pass everything on to the socket of a server until killed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            server.connect(target)
            threading.Thread(target=_pass_on_later, args=(client, server, delay), daemon=True).start()
            threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()


@contextmanager
def delayed(address: str, delay: float) -> Generator[str]:
    """Yield the address of a server as seen from so many seconds away, there and back."""
    parameters = conninfo.conninfo_to_dict(address)
    target = f"{parameters['host']}/.s.PGSQL.{parameters.get('port', 5432)}"
    command = [sys.executable, "-m", "benchmarks.delay", target, str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this very module
        try:
            port = int(process.stdout.readline()) if process.stdout else 0
            yield conninfo.make_conninfo(address, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        finally:
            process.kill()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))
