"""Hosts whose clock is off, by what they and the database say of the same moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.ids import floor_id
from provenance.statements import Row, Statement, as_they_are

_finding = partial(Finding, check="clocks", severity=Severity.WARNING)

# What was amiss days ago may be mended, and rows of then are as they are.
_RECENT = timedelta(days=1)


def _deviating(limits: Limits, now: datetime) -> Statement[list[Row]]:
    """Find rows that ended later than they were recorded, and ones that were recorded long after they ended.

    Blocks inside others are recorded with the outermost one, and rows out of a spool several to a transaction.
    """
    return Statement(
        """SELECT f.db_user, f.ahead, count(*), max(f.seconds), (array_agg(f.id ORDER BY f.id DESC))[1]
             FROM (SELECT a.id, a.db_user, a.completed_at > a.recorded_at AS ahead,
                          abs(extract(epoch FROM a.completed_at - a.recorded_at)) AS seconds,
                          a.parent_action_id, count(*) OVER (PARTITION BY a.xid) AS written_with
                     FROM (SELECT a.id, a.db_user, a.completed_at, a.recorded_at, a.parent_action_id, a.xid
                             FROM provenance.actions a WHERE a.id >= %(since)s
                            ORDER BY a.id DESC LIMIT %(rows)s) a) f
            WHERE f.seconds > %(clock)s AND (f.ahead OR f.parent_action_id IS NULL AND f.written_with = 1)
            GROUP BY 1, 2 ORDER BY 1, 2""",
        {
            "since": floor_id(now - min(limits.recent, _RECENT)),
            "rows": limits.rows,
            "clock": limits.clock.total_seconds(),
        },
        as_they_are,
    )


def _look(connection: SyncConnection, limits: Limits) -> list[Finding]:
    return [
        _finding(
            subject=f"hosts that record as {user}",
            problem=(
                f"{count} actions of the last day ended up to {seconds:.0f} s later than they were recorded ({example}): "
                "the clock of a host is ahead, and its actions are listed in a wrong order"
                if ahead
                else f"{count} actions of the last day were recorded up to {seconds:.0f} s after they ended ({example}): "
                "the clock of a host is behind, or they waited in a spool or in a transaction of their caller's"
            ),
            remedy="have the hosts set their clocks by NTP, and see with: chronyc tracking, or timedatectl",
        )
        for user, ahead, count, seconds, example in run(connection, _deviating(limits, datetime.now(UTC)))
    ]


CLOCKS = Check(
    name="clocks", what="whether the clocks of hosts agree with the database's", needs=READER, look=_look, of_rows=True
)
