"""Whether the months that come have their partitions, and those that went are where they belong."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import partial
from uuid import UUID

import attrs

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.errors import AS_OWNER
from provenance.statements import Rows, Statement, as_they_are
from provenance.statements.partitions import TABLES, month_after, strays

_NAME = "partitions"
_finding = partial(Finding, check=_NAME)

# With fewer months ahead than this, nobody has seen to them for months.
_ENOUGH = 3


@attrs.frozen
class _Parent:
    """A partitioned table of the trail."""

    name: str
    by_id: bool
    this_month: date
    attached: frozenset[str]
    detached: tuple[str, ...]
    detaching: tuple[str, ...]

    @property
    def ahead(self) -> int:
        """How many months after this one have a partition without a gap; -1: not even this one has."""
        return next(
            number for number in range(-1, len(self.attached) + 1) if self._name_of(number + 1) not in self.attached
        )

    def _name_of(self, months: int) -> str:
        return f"{self.name}_{month_after(self.this_month, months):%Y_%m}"


def _parents(rows: Rows) -> list[_Parent]:
    return [
        _Parent(name, by_id, this_month, frozenset(attached), tuple(detached), tuple(detaching))
        for name, by_id, this_month, attached, detached, detaching in rows
    ]


_PARENTS = Statement(
    r"""SELECT p.relname::text, a.atttypid = 'uuid'::regtype,
               date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date,
               COALESCE(array_agg(c.relname::text) FILTER (WHERE i.inhparent = p.oid AND NOT i.inhdetachpending), '{}'),
               COALESCE(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE c.oid <> 0 AND i.inhparent IS NULL),
                        '{}'),
               COALESCE(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE i.inhdetachpending), '{}')
          FROM pg_partitioned_table t JOIN pg_class p ON p.oid = t.partrelid
          JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0]
          LEFT JOIN (pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid)
            ON c.relnamespace = p.relnamespace AND c.relkind = 'r' AND c.relname ~ ('^' || p.relname || '_\d{4}_\d{2}$')
         WHERE p.relnamespace = to_regnamespace('provenance')
         GROUP BY p.relname, a.atttypid ORDER BY p.relname""",
    None,
    _parents,
)


def _span(partition: str) -> tuple[date, date]:
    """Return the first days of the month that a partition is named after, and of the next."""
    year, number = (int(part) for part in partition.rsplit("_", 2)[1:])
    begins = date(year, number, 1)
    return begins, month_after(begins, 1)


def _bounds(partition: str, *, by_id: bool) -> tuple[str, str]:
    """Return in SQL from where to where the rows of a partition are."""
    first, last = (f"'{day} 00:00Z'" for day in _span(partition))
    return (f"provenance.uuid_floor({first})", f"provenance.uuid_floor({last})") if by_id else (first, last)


def _attached(parent: str, partition: str, *, by_id: bool) -> str:
    """Return the SQL that attaches a partition to its parent."""
    first, last = _bounds(partition, by_id=by_id)
    return f"ALTER TABLE provenance.{parent} ATTACH PARTITION provenance.{partition} FOR VALUES FROM ({first}) TO ({last});"


def _missing(connection: SyncConnection, _: Limits) -> list[Finding]:
    found: list[Finding] = []
    for parent in run(connection, _PARENTS):
        table = f"provenance.{parent.name}"
        if parent.ahead < _ENOUGH:
            since = f"{month_after(parent.this_month, parent.ahead + 1):%Y-%m}"
            found.append(
                _finding(
                    severity=Severity.WARNING if parent.ahead >= 1 else Severity.ERROR,
                    subject=table,
                    problem=f"has no partition for {since}: rows of that month go to {table}_default, and a month that is "
                    "there cannot leave",
                    remedy="SELECT provenance.ensure_partitions();",
                )
            )
        found += [
            _finding(
                severity=Severity.WARNING,
                subject=f"provenance.{name}",
                problem=f"is detached from {table}: its rows are in no answer",
                remedy=f"{_attached(parent.name, name, by_id=parent.by_id)}\n"
                f"-- or, when it is to leave: ALTER TABLE provenance.{name} SET SCHEMA of_your_archive;",
            )
            for name in parent.detached
        ]
        found += [
            _finding(
                severity=Severity.WARNING,
                subject=f"provenance.{name}",
                problem=f"was being detached from {table} when that was broken off: its rows are in no answer",
                remedy=f"ALTER TABLE {table} DETACH PARTITION provenance.{name} FINALIZE;",
            )
            for name in parent.detaching
        ]
    return found


# Its guards and its rights are nobody's business but its own, and its rows are in every answer.
_ELSEWHERE = Statement(
    """SELECT i.inhparent::regclass::text, i.inhrelid::regclass::text,
              format(CASE WHEN c.relispartition THEN 'ALTER TABLE %1$s DETACH PARTITION %2$s;'
                          ELSE 'ALTER TABLE %2$s NO INHERIT %1$s;' END, i.inhparent::regclass, i.inhrelid::regclass)
         FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
        WHERE p.relnamespace = to_regnamespace('provenance') AND p.relkind IN ('r', 'p') AND c.relkind IN ('r', 'p', 'f')
          AND c.relnamespace <> p.relnamespace ORDER BY 1, 2""",
    None,
    as_they_are,
)

_BOUNDS = Statement(
    r"""SELECT p.relname::text, c.relname::text, a.atttypid = 'uuid'::regtype, pg_get_expr(c.relpartbound, c.oid)
          FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_partitioned_table t ON t.partrelid = p.oid
          JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0]
         WHERE p.relnamespace = to_regnamespace('provenance') AND c.relname ~ ('^' || p.relname || '_\d{4}_\d{2}$')
         ORDER BY 1, 2""",
    None,
    as_they_are,
)


def _expected_bounds(partition: str, *, by_id: bool) -> str:
    """Return the bounds of a partition as the server prints them."""
    days = _span(partition)
    if by_id:
        # As provenance.uuid_floor() says: nothing but the milliseconds.
        moments = (datetime(day.year, day.month, 1, tzinfo=UTC).timestamp() for day in days)
        first, last = (str(UUID(int=int(moment) * 1000 << 80)) for moment in moments)
    else:
        first, last = (f"{day} 00:00:00+00" for day in days)
    return f"FOR VALUES FROM ('{first}') TO ('{last}')"


def _out_of_place(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        *(
            _finding(
                severity=Severity.ERROR,
                subject=f"provenance.{name}",
                problem=f"does not hold the rows of the month in its name, but those {bounds.removeprefix('FOR VALUES ')}: "
                "the rows of that month go elsewhere",
                remedy=f"BEGIN;\nALTER TABLE provenance.{parent} DETACH PARTITION provenance.{name};\n"
                f"{_attached(parent, name, by_id=by_id)}\nCOMMIT;",
            )
            for parent, name, by_id, bounds in run(connection, _BOUNDS)
            if bounds != _expected_bounds(name, by_id=by_id)
        ),
        *(
            _finding(
                severity=Severity.ERROR,
                subject=child,
                problem=f"is a part of {parent} and not in its schema: nothing guards the rows in it, and they are in every "
                "answer",
                remedy=detach,
            )
            for parent, child, detach in run(connection, _ELSEWHERE)
        ),
    ]


def _misplaced(connection: SyncConnection, limits: Limits) -> list[Finding]:
    return [
        _finding(
            severity=Severity.WARNING,
            subject=f"provenance.{table}_default",
            problem=f"holds rows of {name[-7:].replace('_', '-')} ({count} of those looked at): they can be read, but that "
            "month gets no partition, and cannot leave",
            remedy=f"SELECT * FROM provenance.empty_default('{table}');",
        )
        for table in TABLES
        for name, count in run(connection, strays(table, limits.rows)).items()
    ]


MISPLACED = Check(name=_NAME, what="whether rows are in the default partitions", needs=AS_OWNER, look=_misplaced)
OUT_OF_PLACE = Check(name=_NAME, what="whether partitions are what their names say", needs=READER, look=_out_of_place)
MISSING = Check(name=_NAME, what="whether the coming months have partitions", needs=READER, look=_missing)
