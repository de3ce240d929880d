"""Which faults there are in a run, and how often."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Profile:
    """Faults by their mean number a second."""

    kills: float = 0.0
    """Of workers and recoveries, by SIGKILL."""
    terminations: float = 0.0
    """Of connections, by ``pg_terminate_backend()``."""
    crashes: float = 0.0
    """Of the server with all its processes."""
    cuts: float = 0.0
    """Of lines, at a COMMIT."""
    outages: float = 0.0
    """Of the journal alone: nobody gets through to it for a while."""
    outage: float = 1.0
    """Seconds that one lasts at most."""
    verdicts: float = 0.0
    """Somebody gives an action an outcome while its work is under way."""
    linger: float = 0.0
    """Seconds that a body may take at most."""
    cancellations: float = 0.0
    """How many of the attempts of an awaiting worker are cancelled if they take more than a moment."""
    slow_commits: float = 0.0
    """How many of the blocks make the commit take its time."""
    workers: int = 4
    recoveries: int = 2
    round: float = 10.0
    """Seconds until everything is stopped and checked."""
    settings: tuple[str, ...] = ()
    """Of the server."""


EVERYTHING = Profile(
    kills=1.0,
    terminations=2.0,
    crashes=0.08,
    cuts=2.0,
    outages=0.1,
    verdicts=0.5,
    linger=0.02,
    cancellations=0.1,
    slow_commits=0.02,
)
"""What an honest protocol must stand."""
