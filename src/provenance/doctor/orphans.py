"""Actions below a parent of which nothing is recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.ids import floor_id
from provenance.schema.runner import listed
from provenance.statements import Rows, Statement


def _ids(rows: Rows) -> list[UUID]:
    return [found for (found,) in rows]


def _orphans(limits: Limits, now: datetime) -> Statement[list[UUID]]:
    """Find them among the newest actions.

    A parent without an intent is recorded when it ends, after what it caused. One whose month has left is not missed.
    """
    return Statement(
        """SELECT a.id
             FROM (SELECT a.id, a.parent_action_id, a.recorded_at FROM provenance.actions a
                    WHERE a.id >= %(since)s AND a.id < %(until)s ORDER BY a.id DESC LIMIT %(rows)s) a
            WHERE a.parent_action_id >= %(since)s AND a.recorded_at < statement_timestamp() - %(open)s
              AND NOT EXISTS (SELECT FROM provenance.actions p WHERE p.id = a.parent_action_id OFFSET 0)
              AND NOT EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = a.parent_action_id OFFSET 0)
            ORDER BY a.id LIMIT 1000""",
        {
            "since": floor_id(now - limits.recent),
            "until": floor_id(now + timedelta(days=1)),
            "open": limits.transaction,
            "rows": limits.rows,
        },
        _ids,
    )


def _look(connection: SyncConnection, limits: Limits) -> list[Finding]:
    if not (found := run(connection, _orphans(limits, datetime.now(UTC)))):
        return []
    return [
        Finding(
            check="orphans",
            severity=Severity.WARNING,
            subject=listed([str(one) for one in found]),
            problem=f"of the parents of {len(found)} actions of the last {limits.recent.days} days nothing is recorded: "
            "nobody can say what caused them",
            remedy=f"provenance show {found[0]}\n"
            '-- a process that was killed leaves nothing of a block, unless that has durability="intent"',
        )
    ]


ORPHANS = Check(
    name="orphans", what="whether the parents of recent actions are recorded", needs=READER, look=_look, of_rows=True
)
