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
    holder,
    in_pipeline,
    prepares,
    release,
    transaction_status,
)
from provenance.drivers.messages import message, send_apart
from provenance.drivers.pooler import asuit_pooler, suit_pooler
from provenance.drivers.preceding import before_next, nothing_before_next, undoes_nothing
from provenance.drivers.running import (
    arun,
    arun_together,
    aswitch_autocommit,
    run,
    run_together,
    switch_autocommit,
)

__all__ = [
    "AnyConnection",
    "AsyncConnection",
    "SyncConnection",
    "answers_bytes",
    "aquiesce",
    "arun",
    "arun_together",
    "asuit_pooler",
    "aswitch_autocommit",
    "before_next",
    "cut",
    "hang_up",
    "hold",
    "holder",
    "in_pipeline",
    "message",
    "nothing_before_next",
    "prepares",
    "release",
    "run",
    "run_together",
    "send_apart",
    "suit_pooler",
    "switch_autocommit",
    "transaction_status",
    "undoes_nothing",
]
