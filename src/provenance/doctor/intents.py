"""Actions that were begun and have no outcome, although they could have one."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import attrs

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity, ago
from provenance.drivers import SyncConnection, run
from provenance.statements import Rows, Statement

_NAME = "intents"
_finding = partial(Finding, check=_NAME)


@attrs.frozen
class _Waiting:
    """Intents in the same situation."""

    why: str
    count: int
    age: timedelta
    """Of the oldest."""
    first: UUID
    transactions: int
    """How many have begun since the oldest one's."""


def _waiting(rows: Rows) -> dict[str, _Waiting]:
    return {row[0]: _Waiting(*row) for row in rows}


def waiting(limits: Limits) -> Statement[dict[str, _Waiting]]:
    """Group the oldest intents by why they wait.

    Whether a transaction is over is seen in the same snapshot as the intent, which it may just have dropped.
    """
    return Statement(
        """SELECT f.why, count(*), max(statement_timestamp() - f.recorded_at), (array_agg(f.id ORDER BY f.id))[1],
                  COALESCE(max(f.transactions), 0)::bigint
             FROM (SELECT i.id, i.recorded_at,
                          pg_snapshot_xmax(pg_current_snapshot())::text::numeric - i.work_xid::text::numeric AS transactions,
                          CASE WHEN i.doubt IS NOT NULL THEN 'doubtful'
                               WHEN i.system_identifier <> (SELECT c.system_identifier FROM pg_control_system() c)
                                 OR pg_visible_in_snapshot(i.work_xid, pg_current_snapshot()) THEN 'over'
                               WHEN i.work_xid IS NULL AND i.expires_at < statement_timestamp() THEN 'expired' END AS why
                     FROM (SELECT * FROM provenance.action_intents ORDER BY id LIMIT %(rows)s) i
                    WHERE i.recorded_at < statement_timestamp() - %(grace)s) f
            WHERE f.why IS NOT NULL GROUP BY f.why""",
        {"rows": limits.rows, "grace": limits.grace},
        _waiting,
    )


def _backlog(connection: SyncConnection, limits: Limits) -> list[Finding]:
    groups = run(connection, waiting(limits))
    found: list[Finding] = []
    if over := groups.get("over"):
        soon = over.transactions > limits.unfrozen
        why = "; the server will soon have forgotten what became of it" if soon else ""
        found.append(
            _finding(
                severity=Severity.ERROR if soon else Severity.WARNING,
                subject="provenance.action_intents",
                problem=f"{over.count} actions show as pending although their transactions are over, the oldest for up to "
                f"{ago(over.age)} ({over.first}){why}: recovery does not run",
                remedy="provenance recover",
            )
        )
    for name, what in (("expired", "were never finished"), ("doubtful", "have an outcome that nobody knows")):
        if group := groups.get(name):
            found.append(
                _finding(
                    severity=Severity.WARNING,
                    subject="provenance.action_intents",
                    problem=f"{group.count} actions {what}, the oldest begun {ago(group.age)} ago ({group.first}): what "
                    "they did is for a person to find out",
                    remedy="provenance log --status unknown\n"
                    "-- then, for each: SELECT provenance.complete_action('ID', status => 'completed');\n"
                    "-- or: SELECT provenance.complete_action('ID', status => 'failed', error_message => 'REASON');",
                )
            )
    return found


BACKLOG = Check(
    name=_NAME, what="whether actions wait for recovery, or for a person", needs=READER, look=_backlog, of_rows=True
)
