"""Idempotency keys that are held by nothing."""

from __future__ import annotations

from provenance.doctor.findings import Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.errors import AS_OWNER
from provenance.statements import Row, Statement, as_they_are


def _held_by_nothing(limits: Limits) -> Statement[list[Row]]:
    return Statement(
        """SELECT k.action_type, count(*), min(k.claimed_at), (array_agg(k.key ORDER BY k.claimed_at))[1],
                  string_agg(format('DELETE FROM provenance.idempotency_keys '
                                    'WHERE (tenant_id, action_type, key, action_id) = (%%L, %%L, %%L, %%L);',
                                    k.tenant_id, k.action_type, k.key, k.action_id), E'\\n' ORDER BY k.claimed_at)
             FROM (SELECT k.* FROM provenance.idempotency_keys k
                    WHERE k.claimed_at > statement_timestamp() - %(recent)s
                      AND k.claimed_at < statement_timestamp() - %(open)s
                    ORDER BY k.claimed_at DESC LIMIT %(rows)s) k
            WHERE NOT EXISTS (SELECT FROM provenance.actions a WHERE a.id = k.action_id OFFSET 0)
              AND NOT EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = k.action_id OFFSET 0)
            GROUP BY k.action_type ORDER BY 1""",
        {"recent": limits.recent, "open": limits.transaction, "rows": limits.rows},
        as_they_are,
    )


def _look(connection: SyncConnection, limits: Limits) -> list[Finding]:
    return [
        Finding(
            check="keys",
            severity=Severity.WARNING,
            subject=f"idempotency keys of {action_type}",
            problem=f"{count} are held by actions of which nothing is recorded, the oldest since {at:%Y-%m-%d %H:%M}Z "
            f"({key}): whoever sends one again is told that it is being done",
            remedy=f"-- once it is clear that the work was not done:\n{deletions}",
        )
        for action_type, count, at, key, deletions in run(connection, _held_by_nothing(limits))
    ]


KEYS = Check(name="keys", what="whether idempotency keys are held by nothing", needs=AS_OWNER, look=_look, of_rows=True)
