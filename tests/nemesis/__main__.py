"""Run it: ``python -m tests.nemesis --seconds 60 --seed 1``. The exit code is 0 if everything is as it must be, else 1."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from pathlib import Path

import attrs

from tests.nemesis import mutants
from tests.nemesis.profiles import EVERYTHING
from tests.nemesis.run import run
from tests.support.cluster import Cluster


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for whoever waits for it


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=None, help="what is decided by chance")
    parser.add_argument("--actions", type=int, default=0, help="go on until so many were begun")
    parser.add_argument("--mutant", choices=sorted(mutants.ALL), help="run a broken variant, under its own faults")
    parser.add_argument(
        "--crashes", type=float, default=None, help="crashes of the server a second, instead of the usual"
    )
    parser.add_argument(
        "--binaries", type=Path, default=None, help="where initdb and postgres are, instead of the wheel's"
    )
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    profile = mutants.ALL[given.mutant].profile if given.mutant else EVERYTHING
    if given.crashes is not None:
        profile = attrs.evolve(profile, crashes=given.crashes)
    # The server and its directory are to be removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _say(f"seed {seed}, {given.mutant or 'no mutant'}")
    with Cluster(given.binaries) as cluster:
        figures, verdict = run(
            cluster,
            profile,
            seconds=given.seconds,
            seed=seed,
            actions=given.actions,
            mutant=given.mutant,
            say=_say,
        )
    for line in (*figures.lines(), *verdict.counts(), *verdict.lines()):
        _say(line)
    return 1 if verdict else 0


if __name__ == "__main__":
    sys.exit(main())
