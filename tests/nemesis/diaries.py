"""What workers say of their actions: a file for each of them, which outlives it.

A line is a word and what it is about. That a body has begun is on the disk before it does anything; whatever else is said
is known at the time, and a worker that is killed has simply not said it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import attrs


class Diary:
    """The file of one worker."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _say(self, *words: object) -> None:
        # One write for a line, so that half of it is never there.
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())

    def begun(self, action_id: UUID, kind: str, parent: UUID | None) -> None:
        """Say, durably, that the body of an action has begun."""
        self._say("begun", action_id, kind, parent or "-")
        os.fsync(self._descriptor)

    def done(self, found: Iterable[UUID]) -> None:
        """Say that these were left, and their work committed, as far as the caller was told."""
        for action_id in found:
            self._say("done", action_id)

    def undone(self, found: Iterable[UUID]) -> None:
        """Say that the caller was told that the work of these is not committed."""
        for action_id in found:
            self._say("undone", action_id)

    def refused(self, found: Iterable[UUID]) -> None:
        """Say that one of these had been given an outcome by somebody else while it was under way."""
        self._say("refused", *found)

    def strange(self, error: BaseException) -> None:
        """Say that something came out of a block that must not."""
        self._say("strange", repr(error).replace("\n", " "))


@attrs.define
class Diaries:
    """All that was said, read as it grows."""

    directory: Path
    begun: dict[UUID, tuple[str, UUID | None]] = attrs.field(factory=dict)
    """Kind and parent of each action."""
    done: set[UUID] = attrs.field(factory=set)
    undone: set[UUID] = attrs.field(factory=set)
    refused: list[frozenset[UUID]] = attrs.field(factory=list)
    strange: list[str] = attrs.field(factory=list)
    _read: dict[Path, int] = attrs.field(factory=dict)

    def read(self) -> None:
        """Read on."""
        for path in sorted(self.directory.glob("*.diary")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode().splitlines():
                self._understand(*line.split(" ", 1))

    def _understand(self, word: str, rest: str) -> None:
        match word:
            case "begun":
                action_id, kind, parent = rest.split(" ")
                self.begun[UUID(action_id)] = kind, None if parent == "-" else UUID(parent)
            case "done":
                self.done.add(UUID(rest))
            case "undone":
                self.undone.add(UUID(rest))
            case "refused":
                self.refused.append(frozenset(map(UUID, rest.split(" "))))
            case _:
                self.strange.append(rest)
