"""Settings that a server, a database or a role has by default, and with which the trail is not what it should be."""

from __future__ import annotations

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.schema.flavors import INSTALLED
from provenance.statements import Statement, as_they_are

# What this session has set itself does not count; what its role has by default is listed with that.
_OF_SERVER = """
SELECT s.name, 'this server', format('ALTER SYSTEM SET %%I = %%s; SELECT pg_reload_conf();', s.name, s.boot_val)
  FROM pg_settings s JOIN harmful h ON h.name = s.name AND lower(s.reset_val) ~ h.value
 WHERE s.source NOT IN ('global', 'database', 'user', 'database user', 'client', 'session') AND s.boot_val <> s.reset_val"""
_OF_SOME = """
SELECT h.name,
       CASE WHEN g.setrole = 0 AND g.setdatabase = 0 THEN 'all roles'
            ELSE concat_ws(' in ', 'role ' || quote_ident(r.rolname), 'database ' || quote_ident(d.datname)) END,
       CASE WHEN g.setrole = 0 AND g.setdatabase = 0 THEN format('ALTER ROLE ALL RESET %%I;', h.name)
            WHEN g.setrole = 0 THEN format('ALTER DATABASE %%I RESET %%I;', d.datname, h.name)
            ELSE format('ALTER ROLE %%I%%s RESET %%I;', r.rolname, ' IN DATABASE ' || quote_ident(d.datname), h.name) END
  FROM pg_db_role_setting g CROSS JOIN LATERAL unnest(g.setconfig) c (text)
  JOIN harmful h ON h.name = split_part(c.text, '=', 1) AND lower(split_part(c.text, '=', 2)) ~ h.value
  LEFT JOIN pg_roles r ON r.oid = g.setrole
  LEFT JOIN pg_database d ON d.oid = g.setdatabase
 WHERE (g.setdatabase = 0 OR d.datname = current_database())"""

_OFF = "^(of|off|f|fa|fal|fals|false|n|no|0)$"
_ON = "^(on|t|tr|tru|true|y|ye|yes|1)$"

# Of any role: it may be the one by which work is committed that a row tells of.
_NOT_WAITED_FOR = Statement(
    f"WITH harmful (name, value) AS (VALUES ('synchronous_commit', %(off)s)) {_OF_SERVER} UNION ALL {_OF_SOME} ORDER BY 2",
    {"off": _OFF},
    as_they_are,
)

_BY_THOSE_WHO_RECORD = Statement(
    f"""WITH harmful (name, value) AS (
             VALUES ('row_security', %(off)s), ('default_transaction_read_only', %(on)s),
                    ('session_replication_role', '^replica$'))
        {_OF_SERVER} UNION ALL {_OF_SOME}
           AND (g.setrole = 0 OR has_any_column_privilege(g.setrole, 'provenance.actions', 'INSERT')
                                 AND NOT r.rolsuper AND NOT (h.name = 'row_security' AND r.rolbypassrls))
         ORDER BY 1, 2""",
    {"off": _OFF, "on": _ON},
    as_they_are,
)

_WHAT = {
    "row_security": "is off: whoever does not pass by row-level security gets an error instead of recording",
    "default_transaction_read_only": "is on: nothing can be recorded",
    "citus.propagate_set_commands": "is not local: workers are not told which action is current, and stamp nothing",
    "citus.enable_local_execution": "is not on: Citus connects to itself for each action, as the owner of the trail",
    "citus.use_citus_managed_tables": "is not off: Citus takes new months of the trail for tables of its own",
    "session_replication_role": "is replica: stamps, and what refuses writes outside an action, are passed by",
}


def _durability(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        Finding(
            check="durability",
            severity=Severity.WARNING,
            subject=f"{name} of {where}",
            problem="is off: a crash may take back work, with its action, that was said to be committed",
            remedy=remedy,
        )
        for name, where, remedy in run(connection, _NOT_WAITED_FOR)
    ]


# Of the database, a role or a server, whatever holds for this session: an application's connections should be like it.
_ON_CITUS = Statement(
    f"""SELECT s.name, quote_ident(current_database()),
              format('ALTER DATABASE %I SET %s = %s;', current_database(), s.name, s.wanted)
         FROM (VALUES ('citus.propagate_set_commands', 'local'), ('citus.use_citus_managed_tables', 'off'),
                      ('citus.enable_local_execution', 'on')) s (name, wanted)
        -- A copy of the database may be where there is no Citus.
        WHERE {INSTALLED}
          AND to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL
          AND current_setting(s.name, true) IS DISTINCT FROM s.wanted
        ORDER BY 1""",
    None,
    as_they_are,
)


def _hindering(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        Finding(
            check="roles", severity=Severity.ERROR, subject=f"{name} of {where}", problem=_WHAT[name], remedy=remedy
        )
        for statement in (_BY_THOSE_WHO_RECORD, _ON_CITUS)
        for name, where, remedy in run(connection, statement)
    ]


WAITING = Check(
    name="durability",
    what="whether commits are waited for",
    needs="connect as any role",
    look=_durability,
    of_trail=False,
)
HINDERING = Check(name="roles", what="whether settings keep those who record from it", needs=READER, look=_hindering)
