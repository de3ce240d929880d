"""Runs statements on psycopg connections, in both colours: the only place that talks to the server."""

from provenance.drivers.connections import (
    AnyConnection,
    AsyncConnection,
    SyncConnection,
    answers_bytes,
    aquiesce,
    cut,
    hang_up,
    hold,
    in_pipeline,
    release,
    transaction_status,
)
from provenance.drivers.pooler import asuit_pooler, suit_pooler
from provenance.drivers.running import arun, arun_together, run, run_together

__all__ = [
    "AnyConnection",
    "AsyncConnection",
    "SyncConnection",
    "answers_bytes",
    "aquiesce",
    "arun",
    "arun_together",
    "asuit_pooler",
    "cut",
    "hang_up",
    "hold",
    "in_pipeline",
    "release",
    "run",
    "run_together",
    "suit_pooler",
    "transaction_status",
]
