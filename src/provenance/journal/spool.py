"""The spool: a directory that keeps rows of the trail while the database cannot be reached.

Each write is a file of its own, made as mail spools make theirs: written under a name that nobody reads, fsynced, renamed,
and the directory fsynced. So nobody ever sees half a file, any number of processes may share a directory without locks, and
nothing is held open that a fork could share. What is in it is replayed by the ids of the actions, so that replaying it
twice does no harm.

The rows are as they go to the database: what is secret has been hidden in them already.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import attrs

from provenance import ids
from provenance.errors import NotConfigured
from provenance.forking import renew_in_children

MAX_BYTES: Final = 64 * 1024 * 1024
"""How much a spool holds unless said otherwise."""

_FORMAT = b"provenance spool 1 "

# How long a size that was added up is believed; other processes may share the directory.
_FRESH_SECONDS = 1.0

# A file under its first name for so long was given up by its writer.
_GIVEN_UP_SECONDS = 60.0


class Kind(Enum):
    """What the rows of a file are."""

    OUTCOME = "outcome"
    """Of actions that have ended."""
    DOUBT = "doubt"
    """Of actions whose outcome nobody can know."""
    INTENT = "intent"
    """Evidence of actions that have begun."""


class SpoolFull(Exception):
    """The rows would take the spool beyond its bound."""


class Damaged(Exception):
    """A file is not as it was written."""


@attrs.frozen
class Entry:
    """One file: rows that were written together."""

    path: Path
    kind: Kind
    rows: tuple[str, ...]
    """Each a JSON object."""


@attrs.frozen(kw_only=True)
class Usage:
    """What a spool holds."""

    waiting: int
    """Files that are to be replayed."""
    quarantined: int
    """Files that the database refused, or that are damaged: a person must look at them."""
    bytes: int
    """Of both."""


class Spool:
    """A directory of rows that wait for the database. Safe to use from several threads and processes.

    Args:
        directory: made if it is not there, for this user alone. It must be on a disk that survives what the database
            does not: not the database's own, and no tmpfs.
        max_bytes: how much it may hold, what is in quarantine included. With several processes that share it, each may
            go beyond that by what the others wrote within the last second.

    Raises:
        NotConfigured: *directory* cannot be made, is no directory of this user's, or others may enter it.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> None:
        self.directory = Path(directory).absolute()
        self.max_bytes = max_bytes
        self._quarantine = self.directory / "quarantine"
        for made in (self.directory, self._quarantine):
            _make_private(made)
        self._size = 0
        self._added_up_at: float | None = None
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Start with a free lock: a fork taken while another thread held it would leave it held in the child."""
        self._lock = threading.Lock()

    def put(self, kind: Kind, rows: Sequence[str]) -> None:
        """Keep rows, each a JSON object, durably: when this returns they survive a crash of the machine.

        Raises:
            SpoolFull: there is no room within the bound.
            OSError: the disk is full, or gone.
        """
        content = _content(kind, rows)
        with self._lock:
            self._make_room(len(content))
        self._write(self.directory, content)

    def waiting(self) -> list[Path]:
        """Return the files to replay, oldest first."""
        self._adopt_given_up()
        return sorted(self.directory.glob("*.rows"))

    @staticmethod
    def read(path: Path) -> Entry | None:
        """Return what a file holds; ``None`` if another process has done with it.

        Raises:
            Damaged: it is not as it was written.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        kind, rows = _parsed(content)
        return Entry(path, kind, rows)

    def done(self, path: Path) -> None:
        """Forget a file whose rows are in the database."""
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> None:
        """Move a file into quarantine."""
        with suppress(FileNotFoundError):
            path.replace(self._quarantine / path.name)

    def set_aside_rows(self, kind: Kind, rows: Sequence[str]) -> None:
        """Keep rows in quarantine that the database has refused, whatever the bound: they are what it is for.

        Raises:
            OSError: the disk is full, or gone.
        """
        self._write(self._quarantine, _content(kind, rows))

    def usage(self) -> Usage:
        """Return what the spool holds; looks at each file."""
        waiting = list(_sizes(self.directory))
        quarantined = list(_sizes(self._quarantine))
        return Usage(waiting=len(waiting), quarantined=len(quarantined), bytes=sum(waiting) + sum(quarantined))

    def _make_room(self, size: int) -> None:
        now = time.monotonic()
        stale = self._added_up_at is None or now - self._added_up_at > _FRESH_SECONDS
        if stale or self._size + size > self.max_bytes:
            self._size = self.usage().bytes
            self._added_up_at = now
        if self._size + size > self.max_bytes:
            raise SpoolFull
        self._size += size

    def _write(self, directory: Path, content: bytes) -> None:
        name = f"{ids.new_id().hex}.rows"
        begun = directory / f"{name}.begun"
        descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            begun.replace(directory / name)
        except BaseException:
            begun.unlink(missing_ok=True)
            raise
        _sync_directory(directory)

    def _adopt_given_up(self) -> None:
        """Take over files whose writer ended before it could give them their last name.

        It never said that the rows are kept, but if they are whole they are worth keeping; else they are damaged.
        """
        for begun in self.directory.glob("*.rows.begun"):
            with suppress(FileNotFoundError):
                if time.time() - begun.stat().st_mtime > _GIVEN_UP_SECONDS:
                    begun.replace(begun.with_suffix(""))


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise NotConfigured(
            f"the spool {directory} cannot be made ({error.strerror}); name another directory"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise NotConfigured(f"the spool {directory} is no directory; name one of its own, on a disk that lasts")
    if hasattr(os, "geteuid") and (
        found.st_uid != os.geteuid() or found.st_mode & 0o077
    ):  # pragma: no branch - Windows
        raise NotConfigured(
            f"the spool {directory} must belong to the user of this process, and nobody else may enter it: it holds rows of "
            "the trail; chown and chmod 700 it, or name another directory"
        )


def _sync_directory(directory: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # pragma: no branch - Windows cannot, and needs not
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sizes(directory: Path) -> Iterator[int]:
    with os.scandir(directory) as found:
        for entry in found:
            if entry.name.endswith(".rows"):
                with suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_size


def _content(kind: Kind, rows: Sequence[str]) -> bytes:
    # A line each. In JSON a line break can only stand between two tokens, where a space is as good.
    lines = [kind.value, *(row.replace("\n", " ") for row in rows)]
    body = "\n".join(lines).encode()
    return _FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _parsed(content: bytes) -> tuple[Kind, tuple[str, ...]]:
    first, _, body = content.partition(b"\n")
    if first != _FORMAT + hashlib.sha256(body).hexdigest().encode():
        raise Damaged
    kind, *rows = body.decode().split("\n")
    return Kind(kind), tuple(rows)
