"""The statements that keep retention policies, and that find and take out what nobody must keep any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString
from uuid import UUID

import attrs
from psycopg import sql

from provenance.models import RetentionPolicy
from provenance.statements import Rows, Statement, nothing
from provenance.statements.holds import COVERED
from provenance.statements.partitions import FROM_PARTITIONS, NAMED

# --- Policies --------------------------------------------------------------------------------------------------------

_COLUMNS: LiteralString = (
    "p.name, p.reason, p.days, p.outcome, p.tenant_id, p.concept, p.action_type, p.set_at, p.action_id"
)


def _policies(rows: Rows) -> list[RetentionPolicy]:
    return [
        RetentionPolicy(
            name=name,
            reason=reason,
            keep=None if days is None else timedelta(days=days),
            outcome=outcome,
            tenant_id=tenant_id,
            concept=concept,
            action_type=action_type,
            set_at=set_at.astimezone(UTC),
            action_id=action_id,
        )
        for name, reason, days, outcome, tenant_id, concept, action_type, set_at, action_id in rows
    ]


POLICIES = Statement(
    f"SELECT {_COLUMNS} FROM provenance.retention_policies p ORDER BY p.name",
    None,
    _policies,
)


def put(name: str, reason: str, said: Mapping[str, object], action_id: UUID) -> Statement[list[RetentionPolicy]]:
    """Set a policy, in place of the one that has this name."""
    return Statement(
        f"""INSERT INTO provenance.retention_policies AS p (name, reason, days, outcome, tenant_id, concept, action_type,
                   action_id)
            VALUES (%(name)s, %(reason)s, %(days)s, %(outcome)s, %(tenant_id)s, %(concept)s, %(action_type)s,
                    %(action_id)s)
            ON CONFLICT (name) DO UPDATE
               SET reason = excluded.reason, days = excluded.days, outcome = excluded.outcome,
                   tenant_id = excluded.tenant_id, concept = excluded.concept, action_type = excluded.action_type,
                   set_at = excluded.set_at, action_id = excluded.action_id
            RETURNING {_COLUMNS}""",
        {"name": name, "reason": reason, "action_id": action_id, **said},
        _policies,
    )


def remove(name: str) -> Statement[list[RetentionPolicy]]:
    """Remove a policy; answers none where none has this name."""
    return Statement(
        f"DELETE FROM provenance.retention_policies p WHERE p.name = %(name)s RETURNING {_COLUMNS}",
        {"name": name},
        _policies,
    )


# --- What is due -----------------------------------------------------------------------------------------------------


def _names(rows: Rows) -> list[tuple[str, date]]:
    return [(table, month) for table, month in rows]


DUE_MONTHS = Statement(
    f"""SELECT m.table_name, m.month FROM (SELECT {NAMED} {FROM_PARTITIONS}) AS m
         WHERE m.month < (statement_timestamp() AT TIME ZONE 'UTC')
                         - make_interval(days => (SELECT min(p.days) FROM provenance.retention_policies p))
         ORDER BY m.table_name = 'actions', m.month""",
    None,
    _names,
)
"""The months of which something may be due; those of row changes first, as an action leaves after what it changed."""

# Of each row whose action it is, how that is judged, and whether it is lost: it has left, and nobody here knows what it was.
# A row change that was made outside any action is judged by its tenant and its own time.
_JUDGED: dict[str, tuple[LiteralString, ...]] = {
    "actions": ("", "t.id", "t.concept", "t.action_type", "t.started_at", "false"),
    "row_changes": (
        "LEFT JOIN provenance.actions a ON a.id = t.action_id",
        "t.action_id",
        "a.concept",
        "a.action_type",
        "COALESCE(a.started_at, t.recorded_at)",
        "(t.action_id IS NOT NULL AND a.id IS NULL)",
    ),
}


def _said(table: str) -> LiteralString:
    """Return the beginning of a query: which policy holds for each kind of rows in a partition.

    For changes of a lost action, if there is a policy for all of its tenant: all that may be for it, together. They are kept
    for as long as the longest of them says, and are archived if one of them says that.
    """
    joined, _, concept, action_type, _, lost = _JUDGED[table]
    return f"""
        WITH kind AS (
            SELECT DISTINCT t.tenant_id, {concept} AS concept, {action_type} AS action_type, {lost} AS lost
              FROM ONLY provenance.{{partition}} t {joined}),
        said AS MATERIALIZED (
            SELECT k.*, p.name, p.days, p.outcome
              FROM kind k CROSS JOIN LATERAL (
                   SELECT r.name, r.days, r.outcome
                     FROM provenance.retention_of(k.tenant_id, k.concept, k.action_type) AS r WHERE NOT k.lost
                    UNION ALL
                   SELECT g.name, l.days, l.outcome
                     FROM provenance.retention_of(k.tenant_id, NULL, NULL) AS g
                    CROSS JOIN LATERAL (
                          SELECT CASE WHEN bool_and(o.days IS NOT NULL) THEN max(o.days) END AS days,
                                 CASE WHEN bool_or(o.outcome = 'archive') THEN 'archive' ELSE 'delete' END AS outcome
                            FROM provenance.retention_policies o
                           WHERE o.tenant_id IS NULL OR o.tenant_id = k.tenant_id) AS l
                    WHERE k.lost AND g.name IS NOT NULL) AS p
             WHERE p.days IS NOT NULL AND k.concept IS DISTINCT FROM 'trail')"""


def _due(table: str, partition: str, *, changed: bool) -> sql.Composed:
    """Return the query for the rows of a partition that nobody must keep any more.

    Each with its place, the policy that says so, what becomes of it, and the hold that keeps it all the same. What was done
    to the trail itself stays; so does what has no outcome yet. For an archive rows leave once nobody must keep any of their
    month, so that it gets no more files than it has to.
    """
    joined, action_id, concept, action_type, moment, lost = _JUDGED[table]
    # Its row changes go first, so that nobody has to guess what they are of.
    unchanged: LiteralString = (
        "WHERE d.hold IS NOT NULL OR NOT EXISTS (SELECT FROM provenance.row_changes r"
        " WHERE r.action_id = d.action_id AND r.ordinal = 1 AND r.recorded_at >= {since})"
        if table == "actions" and not changed
        else ""
    )
    # By what can be hashed: a comparison that knows null is made with every kind of the tenant.
    query: LiteralString = f"""{_said(table)}
        SELECT d.place, d.policy, d.outcome, d.hold FROM (
        SELECT t.ctid AS place, {action_id} AS action_id, s.name AS policy, s.outcome,
               (SELECT h.name FROM provenance.legal_holds h WHERE {COVERED[table]} ORDER BY h.name LIMIT 1) AS hold
          FROM ONLY provenance.{{partition}} t {joined}
          JOIN said s ON s.tenant_id = t.tenant_id AND s.lost = {lost}
                     AND COALESCE(s.concept, '') = COALESCE({concept}, '')
                     AND (s.concept IS NULL) = ({concept} IS NULL)
                     AND COALESCE(s.action_type, '') = COALESCE({action_type}, '')
                     AND (s.action_type IS NULL) = ({action_type} IS NULL)
         CROSS JOIN LATERAL (SELECT statement_timestamp() - make_interval(days => s.days) AS until) AS u
         WHERE {moment} < CASE s.outcome WHEN 'archive' THEN date_trunc('month', u.until, 'UTC') ELSE u.until END
           AND NOT EXISTS (SELECT FROM provenance.action_intents i WHERE i.id = {action_id})) AS d
        {unchanged}"""
    # The clock of whoever made the id and that of the database may differ.
    first = datetime.strptime(partition[-7:], "%Y_%m").replace(tzinfo=UTC) - timedelta(days=1)
    return sql.SQL(query).format(partition=sql.Identifier(partition), since=sql.Literal(first))


@attrs.frozen
class Count:
    """How many rows of a partition are due."""

    policy: str
    outcome: str
    hold: str | None
    """The legal hold that keeps them."""
    rows: int


def _counts(rows: Rows) -> list[Count]:
    return [Count(*row) for row in rows]


_COUNTED: LiteralString = (
    "SELECT d.policy, d.outcome, d.hold, count(*) FROM {} d "
    "GROUP BY d.policy, d.outcome, d.hold ORDER BY 1, 2, 3 NULLS FIRST"
)


def due(table: str, month: date) -> Statement[list[Count]]:
    """Count what is due of a month, as if the row changes had gone already."""
    query = sql.SQL(_COUNTED).format(sql.SQL("({})").format(_due(table, f"{table}_{month:%Y_%m}", changed=True)))
    return Statement(query, None, _counts)


# --- What leaves -----------------------------------------------------------------------------------------------------

_LEAVING = sql.Identifier("pg_temp", "provenance_leaving")
CHOSEN_HERE: LiteralString = "JOIN pg_temp.provenance_leaving l ON l.place = t.ctid AND l.hold IS NULL"
"""Joins the rows of a partition, as ``t``, that leave, whatever becomes of them."""
LEAVING: LiteralString = f"{CHOSEN_HERE} AND l.outcome = 'archive'"
"""Joins those that leave for an archive."""


def choose(table: str, month: date) -> Statement[None]:
    """Note what leaves of a month until the transaction ends. Nothing may be erased meanwhile: that would move rows."""
    query = sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS {}")
    return Statement(query.format(_LEAVING, _due(table, f"{table}_{month:%Y_%m}", changed=False)), None, nothing)


CHOSEN = Statement(sql.SQL(_COUNTED).format(_LEAVING), None, _counts)
"""Count what was chosen."""


def taken_out(partition: str, outcome: str, told: LiteralString) -> sql.Composed:
    """Return the query that takes out the chosen rows of an outcome, and tells of them: both are one statement.

    Args:
        partition: the name of the partition.
        outcome: what becomes of them.
        told: what is told of them, as ``t``.
    """
    query: LiteralString = f"""
        WITH gone AS (
            DELETE FROM ONLY provenance.{{partition}} t USING {{leaving}} l
             WHERE l.place = t.ctid AND l.hold IS NULL AND l.outcome = {{outcome}} RETURNING t.*)
        {told}"""
    return sql.SQL(query).format(partition=sql.Identifier(partition), leaving=_LEAVING, outcome=sql.Literal(outcome))


def _gaps(rows: Rows) -> dict[int, datetime]:
    return dict(rows)


def gaps(partition: str) -> Statement[dict[int, datetime]]:
    """Return for each captured table the time of the last of its changes that are chosen to be deleted."""
    query: LiteralString = (
        "SELECT t.table_id, max(t.recorded_at) FROM ONLY provenance.{} t "
        f"{CHOSEN_HERE} AND l.outcome = 'delete' GROUP BY 1"
    )
    return Statement(sql.SQL(query).format(sql.Identifier(partition)), None, _gaps)


def note_gaps(found: Mapping[int, datetime]) -> Statement[None]:
    """Note of captured tables until when their row changes are incomplete."""
    return Statement(
        """UPDATE provenance.captured_tables c SET incomplete_until = GREATEST(c.incomplete_until, g.until)
             FROM unnest(%(tables)s::integer[], %(moments)s::timestamptz[]) AS g (table_id, until)
            WHERE c.id = g.table_id""",
        {"tables": [*found], "moments": [*found.values()]},
        nothing,
    )


def deleted_later(table: str, month: date) -> Statement[str | None]:
    """Return the name of a policy that deletes some of a month, now or later; ``None``: no policy does."""
    query: LiteralString = f"{_said(table)} SELECT min(s.name) FROM said s WHERE s.outcome = 'delete'"
    return Statement(sql.SQL(query).format(partition=sql.Identifier(f"{table}_{month:%Y_%m}")), None, _name)


def _name(rows: Rows) -> str | None:
    name: str | None = rows[0][0]
    return name


def forget_keys(partition: str, chosen: LiteralString = "") -> Statement[None]:
    """Forget the idempotency keys of actions that leave: what was done under them is not known here any more."""
    query: LiteralString = (
        "DELETE FROM provenance.idempotency_keys k"
        f" WHERE k.action_id IN (SELECT t.id FROM ONLY provenance.{{}} t {chosen})"
    )
    return Statement(sql.SQL(query).format(sql.Identifier(partition)), None, nothing)
