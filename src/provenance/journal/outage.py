"""What becomes of the journal's rows while the database cannot be reached, and how it is found again.

Whoever records an action must not wait for a database that is not there, time and again. So the first failure opens an
outage: from then on rows are kept at once, and a thread in the background tries the database, ever less often, until it
has written what was kept.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import psycopg

from provenance.errors import TrailUnavailable
from provenance.forking import renew_in_children
from provenance.journal.spool import Damaged, Entry, Kind, Spool, SpoolFull, Usage
from provenance.models import Status
from provenance.statements import Statement, intents, recording
from provenance.statements.intents import Evidence
from provenance.statements.recording import ActionRow

logger = logging.getLogger("provenance")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
"""Seconds between two attempts; each may be up to a half shorter, so that many processes do not come at once."""

# How many rows are replayed in one statement, and how many characters.
_BATCH_ROWS, _BATCH_SIZE = 500, 1_000_000

# SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded.
_AT_FAULT = ("22", "23", "54")


def writing(kind: Kind, rows: Sequence[ActionRow | str]) -> tuple[Statement[Any], ...]:
    """Return the statements that write rows, in one transaction."""
    match kind:
        case Kind.OUTCOME:
            return recording.insert_missing(rows), *intents.forget_all(intents.intended(rows))
        case Kind.DOUBT:
            return intents.insert_doubt(rows)
        case Kind.INTENT:  # pragma: no branch - the last kind
            return (intents.insert(rows),)


def at_fault(error: Exception) -> bool:
    """Return whether the rows themselves are what the database does not take, so that trying again is of no use."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(_AT_FAULT)
    return isinstance(error, psycopg.DataError)


@attrs.frozen(kw_only=True)
class JournalHealth:
    """How the journal of a trail is, and what became of its rows in this process."""

    reachable: bool
    unreachable_since: datetime | None
    kept: int
    """Rows that were put into the spool."""
    replayed: int
    """Rows of the spool that were written to the database, whichever process put them there."""
    refused: int
    """Rows that the database will not take; in quarantine, where there is a spool."""
    lost: int
    """Rows that could only be logged."""
    spool: Usage | None
    """What the spool holds now, of all processes; ``None`` where there is none, or it cannot be looked at."""
    spool_error: str | None = None
    """Why the spool cannot be looked at: its directory is gone, for instance."""


class Outage:
    """Whether the database can be reached, and what is kept until it can. Safe to use from several threads.

    Args:
        spool: where rows are kept; without one they are logged at ERROR level, complete, so that a person can still put
            them back.
        attempt: runs statements in a durable transaction of its own, from any thread.
    """

    def __init__(self, spool: Spool | None, attempt: Callable[..., object]) -> None:
        self._spool = spool
        self._attempt = attempt
        self._kept = self._replayed = self._refused = self._lost = 0
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Forget the outage, as after a fork: its thread has stayed with the parent."""
        self._lock = threading.Lock()
        self._since: datetime | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def down(self) -> bool:
        """Whether it is known that the database cannot be reached."""
        return self._since is not None

    @property
    def keeps(self) -> bool:
        """Whether there is a spool."""
        return self._spool is not None

    def wake(self) -> None:
        """See to what earlier processes have left in the spool."""
        if self._spool is not None and self._spool.waiting():
            with self._lock:
                self._start_mending()

    def keep(self, kind: Kind, rows: Sequence[ActionRow], error: Exception | None) -> None:
        """Keep rows that cannot be written because of *error*, or because of the outage there is. Never raises."""
        texts = [recording.row_json(row) for row in rows]
        if error is not None and at_fault(error):
            self._set_aside(kind, texts, error)
            return
        if (trouble := self._put(kind, texts, error)) is not None:
            self._log(texts, trouble)
        self.begin(error)

    def keep_intent(self, evidence: Evidence, error: Exception | None, *, may_wait: bool) -> None:
        """Keep evidence that cannot be written, if it may wait and there is a spool.

        Raises:
            TrailUnavailable: it may not, or there is none, or it is full or broken.
        """
        trouble: str | None = "the journal cannot be reached"
        if may_wait and self._spool is not None:
            trouble = self._put(Kind.INTENT, [intents.evidence_json(evidence)], error)
        self.begin(error)
        if trouble is not None:
            raise TrailUnavailable(
                f"it cannot be made durable that the action is begun ({trouble}); nothing has been done yet"
            ) from error

    def keep_doubtful(self, rows: Sequence[ActionRow], error: Exception) -> None:
        """Keep rows that are to be written only if the transaction in doubt has not written them. Never raises.

        By the time they are replayed it is over, and if it was committed its rows are there. They are not to be logged: as
        they stand they may be wrong, and whoever asks for this logs that the outcome is not known.
        """
        if self._put(Kind.OUTCOME, [recording.row_json(row) for row in rows], error) is not None:
            self._lost += len(rows)
        self.begin(error)

    def health(self) -> JournalHealth:
        """Return how things are."""
        since = self._since
        usage = trouble = None
        if self._spool is not None:
            try:
                usage = self._spool.usage()
            except OSError as error:
                trouble = f"{self._spool.directory}: {error.strerror}"
        return JournalHealth(
            reachable=since is None,
            unreachable_since=since,
            kept=self._kept,
            replayed=self._replayed,
            refused=self._refused,
            lost=self._lost,
            spool=usage,
            spool_error=trouble,
        )

    def stop(self) -> None:
        """Stop trying. What is in the spool stays there, for the next process."""
        self._stopped.set()
        if (thread := self._thread) is not None:
            thread.join()

    # -- keeping --

    def _put(self, kind: Kind, texts: Sequence[str], error: Exception | None) -> str | None:
        """Keep rows in the spool; return why they are not, if so."""
        if self._spool is None:
            return type(error).__name__ if error else "during an outage"
        try:
            self._spool.put(kind, texts)
        except SpoolFull:
            return "the spool is full"
        except OSError as trouble:
            return f"the spool cannot be written: {trouble.strerror}"
        self._kept += len(texts)
        return None

    def _set_aside(self, kind: Kind, texts: Sequence[str], error: Exception) -> None:
        """Keep rows for a person to look at."""
        reason = f"the database refuses them: {getattr(error, 'sqlstate', None) or type(error).__name__}"
        self._refused += len(texts)
        if self._spool is not None:
            try:
                self._spool.set_aside_rows(kind, texts)
            except OSError as trouble:
                reason += f"; quarantine cannot be written: {trouble.strerror}"
            else:
                logger.error("provenance: %d action(s) set aside in %s; %s", len(texts), self._spool.directory, reason)
                return
        self._log(texts, reason)

    def _log(self, texts: Sequence[str], reason: str) -> None:
        self._lost += len(texts)
        logger.error(
            "provenance: %d action(s) could not be recorded (%s); rows: [%s]", len(texts), reason, ",".join(texts)
        )

    # -- the outage --

    def suspect(self) -> None:
        """Have it seen, in the background, whether the database can be reached: somebody else than the journal could not."""
        with self._lock:
            self._start_mending()

    def begin(self, error: Exception | None) -> None:
        """Note that the database could not be reached, if it was tried, and see to it that it is tried again."""
        with self._lock:
            if error is not None:
                self._unreachable(error)
            # Here, and not before the rows were kept: the thread may just have found nothing left to do.
            self._start_mending()

    def _unreachable(self, error: Exception) -> None:
        if self._since is not None:
            return
        self._since = datetime.now(UTC)
        meanwhile = f"kept in {self._spool.directory}" if self._spool else "logged, for want of a spool"
        logger.error(
            "provenance: the journal cannot be reached (%s); until it can, rows of the trail are %s",
            type(error).__name__,
            meanwhile,
        )

    def _start_mending(self) -> None:
        if self._thread is None and not self._stopped.is_set():
            self._thread = threading.Thread(target=self._mend, name="provenance-journal-outage", daemon=True)
            self._thread.start()

    def _mend(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopped.wait(random.uniform(pause / 2, pause)):  # noqa: S311 - nothing to guess here
            try:
                self._replay()
            except (psycopg.Error, TrailUnavailable, OSError) as error:
                logger.debug("provenance: the journal cannot be reached yet: %s", type(error).__name__)
                if isinstance(error, (psycopg.OperationalError, TrailUnavailable)):
                    with self._lock:
                        self._unreachable(error)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            with self._lock:
                if self._over():
                    return

    def _over(self) -> bool:
        """Whether nothing has come since; then the thread is done."""
        if self._since is not None or (self._spool is not None and self._spool.waiting()):
            return False
        self._thread = None
        return True

    def _reached(self) -> None:
        with self._lock:
            if (since := self._since) is None:
                return
            seconds = (datetime.now(UTC) - since).total_seconds()
            logger.warning("provenance: the journal can be reached again, after %.1f s", seconds)
            self._since = None  # last: whoever sees it has been told

    # -- replaying --

    def replay(self) -> int:
        """Write what waits in the spool, now; return how many rows were written.

        Raises:
            TrailUnavailable, psycopg.Error: the database cannot be reached, or refuses this role.
        """
        before = self._replayed
        self._replay()
        return self._replayed - before

    def restore(self, texts: Iterable[str]) -> int:
        """Write rows that could only be logged; return how many were written. Those that are there already stay as they are.

        Raises:
            TrailUnavailable, psycopg.Error: as for :meth:`replay`.
        """
        before = self._replayed
        for batch in _batches([Entry(_NOWHERE, _kind_of(text), (text,)) for text in texts]):
            self._write_batch(batch)
        return self._replayed - before

    def _replay(self) -> None:
        waiting = self._spool.waiting() if self._spool else []
        if self._spool is None or not waiting:
            # An id for a transaction is only given out where one may write.
            self._attempt(recording.CURRENT_XID)
            self._reached()
            return
        begun, refused = time.monotonic(), self._refused
        for batch in _batches(self._entries(self._spool, waiting)):
            self._write_batch(batch)
            for entry in batch:
                self._spool.done(entry.path)
            self._reached()
        logger.info(
            "provenance: %d files of the spool replayed in %.1f s, %d row(s) of them set aside",
            len(waiting),
            time.monotonic() - begun,
            self._refused - refused,
        )

    def _entries(self, spool: Spool, paths: Iterable[Path]) -> Iterator[Entry]:
        for path in paths:
            try:
                entry = spool.read(path)
            except Damaged:
                spool.set_aside(path)
                self._refused += 1
                logger.error("provenance: %s is damaged and set aside", path)  # noqa: TRY400 - a traceback says no more
                continue
            if entry is not None:
                yield entry

    def _write_batch(self, batch: Sequence[Entry]) -> None:
        self._write_out(batch[0].kind, [row for entry in batch for row in entry.rows])

    def _write_out(self, kind: Kind, texts: Sequence[str]) -> None:
        """Write rows, and set those aside that the database does not take."""
        try:
            self._attempt(*writing(kind, texts))
        except psycopg.Error as error:
            if not at_fault(error):
                raise
            if len(texts) == 1:
                self._set_aside(kind, texts, error)
                return
            half = len(texts) // 2
            self._write_out(kind, texts[:half])
            self._write_out(kind, texts[half:])
        else:
            self._replayed += len(texts)


# Where rows are that are in no file.
_NOWHERE = Path()


def _kind_of(text: str) -> Kind:
    """Return of what kind a row is that was logged: only evidence of an outcome that nobody can know is pending."""
    return Kind.DOUBT if json.loads(text).get("status") == Status.PENDING else Kind.OUTCOME


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Put together what one statement can write."""
    batch: list[Entry] = []
    rows = size = 0
    for entry in entries:
        more = sum(map(len, entry.rows))
        full = rows + len(entry.rows) > _BATCH_ROWS or size + more > _BATCH_SIZE
        if batch and (full or entry.kind != batch[0].kind):
            yield batch
            batch, rows, size = [], 0, 0
        batch.append(entry)
        rows, size = rows + len(entry.rows), size + more
    if batch:
        yield batch
