"""Whether those who record have the rights they need, and whether what is still to be made gives out too many."""

from __future__ import annotations

import re
from functools import partial

import attrs

from provenance.doctor.findings import READER, Check, Finding, Limits, Severity
from provenance.drivers import SyncConnection, run
from provenance.statements import Rows, Statement, as_they_are

_NAME = "roles"
_error = partial(Finding, check=_NAME, severity=Severity.ERROR)


@attrs.frozen
class _Granted:
    """What a writer is given."""

    actions: list[str]
    """Which columns of the table."""
    intents: list[str]
    functions: list[str]


def _granted(rows: Rows) -> _Granted:
    # The statements are put together of several literals.
    text = re.sub(r"'\s+'", "", "".join(source for (source,) in rows))
    columns = {
        table: listed.split(", ") for listed, table in re.findall(r"INSERT \(([\w, ]+)\) ON provenance\.(\w+)", text)
    }
    functions = "".join(re.findall(r"EXECUTE ON FUNCTION ([^']+) TO", text))
    return _Granted(
        columns.get("actions", []), columns.get("action_intents", []), re.findall(r"provenance\.(\w+)", functions)
    )


# What it was granted depends on the version by which it was.
_WRITERS = Statement(
    "SELECT p.prosrc FROM pg_proc p WHERE p.pronamespace = to_regnamespace('provenance') AND p.proname = 'grant_writer'",
    None,
    _granted,
)


def _lacking(granted: _Granted) -> Statement[list[tuple[str, str, str]]]:
    """Find the roles that were made writers and lack a part of what writers have."""
    return Statement(
        """WITH writer (role) AS (
               SELECT DISTINCT g.grantee
                 FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN aclexplode(a.attacl) g
                WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname = 'actions'
                  AND g.privilege_type = 'INSERT' AND g.grantee <> 0),
           lack (role, what) AS (
               SELECT w.role, 'USAGE on the schema' FROM writer w
                WHERE NOT has_schema_privilege(w.role, 'provenance', 'USAGE')
                UNION
               SELECT w.role, 'INSERT on actions' FROM writer w CROSS JOIN unnest(%(actions)s::text[]) c (name)
                WHERE NOT has_column_privilege(w.role, 'provenance.actions', c.name, 'INSERT')
                UNION
               SELECT w.role, 'INSERT on action_intents' FROM writer w CROSS JOIN unnest(%(intents)s::text[]) c (name)
                WHERE NOT has_column_privilege(w.role, 'provenance.action_intents', c.name, 'INSERT')
                UNION
               SELECT w.role, 'EXECUTE on ' || p.proname FROM writer w CROSS JOIN pg_proc p
                WHERE p.pronamespace = to_regnamespace('provenance') AND p.proname = ANY (%(functions)s::text[])
                  AND NOT has_function_privilege(w.role, p.oid, 'EXECUTE'))
           SELECT quote_ident(r.rolname), string_agg(l.what, ', ' ORDER BY l.what),
                  format('SELECT provenance.grant_writer(%%L);', r.rolname)
             FROM lack l JOIN pg_roles r ON r.oid = l.role GROUP BY r.rolname ORDER BY 1""",
        attrs.asdict(granted),
        as_they_are,
    )


_BORN_WITH = Statement(
    """SELECT CASE WHEN g.grantee = 0 THEN 'everybody' ELSE 'role ' || quote_ident(pg_get_userbyid(g.grantee)) END,
              string_agg(DISTINCT g.privilege_type, ', ' ORDER BY g.privilege_type),
              string_agg(DISTINCT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE %s ON TABLES FROM %s;',
                                         pg_get_userbyid(d.defaclrole),
                                         CASE WHEN d.defaclnamespace <> 0 THEN ' IN SCHEMA provenance' END,
                                         g.privilege_type,
                                         CASE WHEN g.grantee = 0 THEN 'PUBLIC'
                                              ELSE quote_ident(pg_get_userbyid(g.grantee)) END), E'\\n')
         FROM pg_default_acl d CROSS JOIN aclexplode(d.defaclacl) g
         JOIN pg_class c ON c.relnamespace = to_regnamespace('provenance') AND c.relname = 'actions'
        WHERE d.defaclrole = c.relowner AND d.defaclobjtype = 'r' AND g.grantee <> d.defaclrole
          AND d.defaclnamespace IN (0, c.relnamespace)
          AND g.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
        GROUP BY g.grantee ORDER BY 1""",
    None,
    as_they_are,
)


def _rights(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        *(
            _error(
                subject=f"role {role}",
                problem=f"may record, and lacks {lacks}: recording fails, or a part of it does",
                remedy=remedy,
            )
            for role, lacks, remedy in run(connection, _lacking(run(connection, _WRITERS)))
        ),
        *(
            _error(
                subject=whom,
                problem=f"would be given {rights} on every new partition: recorded rows could be changed or forged",
                remedy=remedy,
            )
            for whom, rights, remedy in run(connection, _BORN_WITH)
        ),
    ]


RIGHTS = Check(name=_NAME, what="whether those who record have what they need", needs=READER, look=_rights)
