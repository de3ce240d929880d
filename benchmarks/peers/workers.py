"""A process for each variant: an ORM and what listens to it are global to one, and would slow the others down in it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers.sampling import Bench, Sample, Variant

# They are forked from one that has imported what the variants have in common, and nothing of any peer: beginning each anew
# takes longer than a short run does. This process itself has threads, and cannot be forked.
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


def _processors() -> set[int] | None:
    """Return on which processors this process runs, where there is a choice."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _serve(pipe: Connection, variant: Variant, address: str, processors: set[int] | None) -> None:
    """Take samples of as many transactions as is asked for, until it is none, and then check what was recorded."""
    if processors is not None:
        # The process from which this one is forked may have begun in another place.
        os.sched_setaffinity(0, processors)
    bench = Bench(variant, address)
    while times := pipe.recv():
        pipe.send(bench.sample(times))
    bench.check()
    pipe.send(None)


class Worker:
    """A process that is idle unless it is asked for a sample."""

    def __init__(self, name: str, pipe: Connection) -> None:
        self._name = name
        self._pipe = pipe

    def sample(self, times: int) -> Sample:
        """Return what a transaction took there."""
        sample: Sample = self._asked(times)
        return sample

    def finish(self) -> None:
        """See that all that was done there is recorded."""
        self._asked(0)

    def _asked(self, times: int) -> Any:
        try:
            self._pipe.send(times)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self._name}: its process has ended, and has said why") from None


@contextmanager
def running(name: str, variant: Variant, address: str) -> Generator[Worker]:
    """Yield a worker that prepares itself."""
    pipe, far_end = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(far_end, variant, address, _processors()), name=name, daemon=True)
    with pipe:
        process.start()
        # It is open in the process alone, so that it closes with it.
        far_end.close()
        try:
            yield Worker(name, pipe)
        finally:
            process.kill()
            process.join()
