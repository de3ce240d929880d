"""Spools on this machine: rows that are not in the trail yet."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

from provenance.doctor.findings import Finding, Severity, ago, unchecked
from provenance.journal.spool import Damaged, Spool
from provenance.schema.runner import listed

_finding = partial(Finding, check="spool")

_WAITING = (".rows", ".rows.begun")


def examined(spool: str | os.PathLike[str]) -> list[Finding]:
    """Return what is wrong with a spool; nothing in it is changed, and nothing made."""
    directory = Path(spool).absolute()
    try:
        return list(_examined(directory))
    except PermissionError:
        return [unchecked("spool", "what is in this spool", "run this as the user whose spool it is", str(directory))]


def _examined(directory: Path) -> Iterator[Finding]:
    subject, quoted = str(directory), shlex.quote(str(directory))
    try:
        found = directory.lstat()
    except FileNotFoundError:
        yield _finding(
            severity=Severity.ERROR,
            subject=subject,
            problem="is not there: a process that was to keep rows in it has never started, or keeps them elsewhere",
            remedy=f"mkdir -m 700 {quoted}  # as the user of the application",
        )
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _finding(
            severity=Severity.ERROR,
            subject=subject,
            problem="is no directory: a process that is to use it does not start",
            remedy=f"name another directory, or: rm {quoted} && mkdir -m 700 {quoted}",
        )
        return
    quarantine = directory / "quarantine"
    for private in (directory, quarantine):
        if private.exists() and private.stat().st_mode & 0o077:
            yield _finding(
                severity=Severity.ERROR,
                subject=str(private),
                problem=f"has mode {stat.S_IMODE(private.stat().st_mode):o}: others may read rows of the trail, and a "
                "process that is to use it does not start",
                remedy=f"chmod 700 {shlex.quote(str(private))}",
            )
    waiting = sorted(path for path in directory.iterdir() if path.name.endswith(_WAITING))
    yield from _damaged(directory, waiting)
    if waiting:
        yield _finding(
            severity=Severity.WARNING,
            subject=subject,
            problem=f"{len(waiting)} files wait for the database, the oldest for {_age(waiting)}: their rows are not in "
            "the trail yet",
            remedy="see that the database can be reached, and start a process that uses this spool: its first action has "
            "them replayed",
        )
    aside = sorted(quarantine.glob("*.rows")) if quarantine.exists() else []
    if aside:
        yield _finding(
            severity=Severity.ERROR,
            subject=str(quarantine),
            problem=f"{len(aside)} files were set aside, the oldest {_age(aside)} ago: they are damaged, or the database "
            "refused their rows",
            remedy="remove what the log says stood in the way, then: "
            f"mv {shlex.quote(str(quarantine))}/*.rows {quoted}/",
        )


def _damaged(directory: Path, waiting: list[Path]) -> Iterator[Finding]:
    broken: list[str] = []
    for path in waiting:
        # One that is being written is not whole yet.
        if path.suffix == ".rows":
            try:
                Spool.read(path)
            except Damaged:
                broken.append(path.name)
    if broken:
        names = " ".join(shlex.quote(str(directory / name)) for name in broken)
        yield _finding(
            severity=Severity.ERROR,
            subject=str(directory),
            problem=f"{len(broken)} files are not as they were written ({listed(broken)}): their rows will not be replayed",
            remedy=f"see what is left in them, and what wrote there or how the disk is, then: mv {names} "
            f"{shlex.quote(str(directory / 'quarantine'))}/",
        )


def _age(files: list[Path]) -> str:
    # Replayed meanwhile, perhaps.
    written = [path.stat().st_mtime for path in files if path.exists()]
    return ago(timedelta(seconds=time.time() - min(written, default=time.time())))
