"""The server under the trail: whether it keeps what it was given, and whether something holds it up."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from provenance.doctor.findings import Check, Finding, Limits, Severity, ago, unchecked
from provenance.drivers import SyncConnection, run
from provenance.statements import Row, Rows, Statement, as_they_are, truth

_durability = partial(Finding, check="durability")
_transactions = partial(Finding, check="transactions")
_vacuum = partial(Finding, check="vacuum")

_ANY = "connect as any role"
_MONITOR = "grant pg_monitor to this role"


def _names(rows: Rows) -> list[str]:
    return [name for (name,) in rows]


_OFF = Statement(
    """SELECT s.name FROM pg_settings s
        WHERE s.name IN ('fsync', 'full_page_writes', 'autovacuum', 'track_counts') AND s.setting = 'off' ORDER BY 1""",
    None,
    _names,
)


def _encoding(connection: SyncConnection) -> list[Finding]:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding in ("UTF8", None):
        return []
    return [
        _durability(
            severity=Severity.ERROR,
            subject="this database",
            problem=f"its encoding is {encoding}: text that has no form in it is refused, and with it the work that the "
            "text is part of",
            remedy="-- dump it, and restore it into one that is made with\n"
            "-- CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0;",
        )
    ]


def _kept(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        *_encoding(connection),
        *(
            _durability(
                severity=Severity.ERROR,
                subject=name,
                problem="is off: a crash of the machine may destroy the trail, and all else in this cluster",
                remedy=f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            )
            for name in run(connection, _OFF)
            if name in {"fsync", "full_page_writes"}
        ),
    ]


_SEES_SESSIONS = Statement(
    "SELECT r.rolsuper OR pg_has_role('pg_read_all_stats', 'USAGE') FROM pg_roles r WHERE r.rolname = current_user",
    None,
    truth,
)


def _open(limits: Limits) -> Statement[list[Row]]:
    """Find transactions that have been open for long; prepared ones belong to no session."""
    return Statement(
        """SELECT format('session %%s of %%s in %%s', a.pid, a.usename, a.datname), clock_timestamp() - a.xact_start,
                  format('SELECT pg_terminate_backend(%%s);', a.pid), false
             FROM pg_stat_activity a
            WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
              AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL OR a.datname = current_database())
              AND a.xact_start < statement_timestamp() - %(open)s
            UNION ALL
           SELECT format('prepared transaction %%L of %%s in %%s', p.gid, p.owner, p.database),
                  clock_timestamp() - p.prepared, format('ROLLBACK PREPARED %%L;', p.gid), true
             FROM pg_prepared_xacts p
            WHERE p.prepared < statement_timestamp() - %(open)s
            ORDER BY 4 DESC, 2 DESC""",
        {"open": limits.transaction},
        as_they_are,
    )


def held_up(subject: str, age: timedelta, remedy: str, prepared: bool) -> Finding:
    """Return what to say of a transaction that has been open for long."""
    return _transactions(
        severity=Severity.ERROR if prepared else Severity.WARNING,
        subject=subject,
        problem=f"has been open for {ago(age)}: vacuum and new partitions wait for it"
        + (", and no restart ends it" if prepared else ""),
        remedy=remedy + ("\n-- or COMMIT PREPARED, connected to that database; ask its transaction manager" * prepared),
    )


def _holding_up(connection: SyncConnection, limits: Limits) -> list[Finding]:
    found = [held_up(*row) for row in run(connection, _open(limits))]
    if not run(connection, _SEES_SESSIONS):
        found.append(unchecked("transactions", "how long transactions of other roles have been open", _MONITOR))
    return found


_AGE = Statement(
    """SELECT age(d.datfrozenxid), 1.5 * current_setting('autovacuum_freeze_max_age')::integer
         FROM pg_database d WHERE d.datname = current_database()""",
    None,
    lambda rows: (int(rows[0][0]), int(rows[0][1])),
)


def unfrozen(age: int, most: int) -> list[Finding]:
    """Return what to say of how far vacuum is behind."""
    if age <= most:
        return []
    return [
        _vacuum(
            severity=Severity.ERROR,
            subject="this database",
            problem=f"its oldest row is {age} transactions old, and vacuum should have come by at {most // 3 * 2}: at two "
            "thousand million the server refuses all writes",
            remedy="VACUUM (FREEZE);",
        )
    ]


def _vacuumed(connection: SyncConnection, _: Limits) -> list[Finding]:
    off = [
        _vacuum(
            severity=Severity.ERROR,
            subject=name,
            problem="is off: tables and indexes grow without end, and what the server forgets it forgets too late",
            remedy=f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
        )
        for name in run(connection, _OFF)
        if name in {"autovacuum", "track_counts"}
    ]
    return off + unfrozen(*run(connection, _AGE))


DURABILITY = Check(
    name="durability", what="whether the server keeps what it was given", needs=_ANY, look=_kept, of_trail=False
)
TRANSACTIONS = Check(
    name="transactions", what="how long transactions have been open", needs=_MONITOR, look=_holding_up, of_trail=False
)
VACUUM = Check(name="vacuum", what="whether vacuum comes by", needs=_ANY, look=_vacuumed, of_trail=False)
