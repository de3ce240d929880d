"""Roles that could change what they record, or read what nobody let them read."""

from __future__ import annotations

from functools import partial

from provenance.doctor.findings import READER, Check, Finding, Limits, NotSeen, Severity
from provenance.drivers import SyncConnection, run
from provenance.errors import AS_OWNER
from provenance.statements import Rows, Statement, truth

_NAME = "roles"
_finding = partial(Finding, check=_NAME)


def _texts(rows: Rows) -> list[tuple[str, ...]]:
    return [tuple(row) for row in rows]


# A membership that gives neither the rights nor the role, as whoever creates a role gets one, makes no writer. But whoever
# may give out the owner can have it. Servers before 16 have one kind only, and no columns that tell them apart.
_POWERFUL = Statement(
    """WITH RECURSIVE membership (member, role, in_use, admin) AS (
           SELECT m.member, m.roleid,
                  COALESCE((to_jsonb(m) ->> 'inherit_option')::boolean OR (to_jsonb(m) ->> 'set_option')::boolean, true),
                  m.admin_option
             FROM pg_auth_members m),
       top (owner) AS (
           SELECT c.relowner FROM pg_class c
            WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname = 'actions'),
       owner (role) AS (
           SELECT t.owner FROM top t
            UNION SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'provenance'
            UNION SELECT m.member FROM owner o JOIN membership m ON m.role = o.role AND (m.in_use OR m.admin)),
       mighty (role) AS (
           SELECT r.oid FROM pg_roles r
            WHERE r.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')),
       writer (role) AS (
           SELECT g.grantee
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            CROSS JOIN LATERAL (SELECT f.* FROM aclexplode(a.attacl) f
                                UNION ALL SELECT f.* FROM aclexplode(c.relacl) f WHERE f.grantee <> c.relowner) g
            WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname = 'actions' AND g.privilege_type = 'INSERT'
            UNION SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pg_write_all_data'
            UNION SELECT m.member FROM writer w JOIN membership m ON m.role = w.role AND m.in_use)
       SELECT quote_ident(r.rolname), f.how, f.remedy
         FROM writer w JOIN pg_roles r ON r.oid = w.role CROSS JOIN top
        CROSS JOIN LATERAL (
              SELECT 'is a superuser', format('ALTER ROLE %I NOSUPERUSER;', r.rolname) WHERE r.rolsuper
               UNION ALL
              SELECT 'passes by row-level security', format('ALTER ROLE %I NOBYPASSRLS;', r.rolname)
               WHERE r.rolbypassrls AND NOT r.rolsuper
               UNION ALL
              SELECT 'owns the trail', 'SELECT provenance.make_roles();' WHERE r.oid = top.owner
               UNION ALL
              SELECT 'is a member of its owner', string_agg(format('REVOKE %I FROM %I;', g.rolname, r.rolname), E'\n')
                FROM membership m JOIN pg_roles g ON g.oid = m.role
               WHERE m.member = r.oid AND (m.in_use OR m.admin) AND m.role IN (SELECT o.role FROM owner o)
                 AND r.oid <> top.owner
              HAVING count(*) > 0
               UNION ALL
              SELECT 'is a member of ' || string_agg(DISTINCT p.rolname, ', '),
                     string_agg(DISTINCT format('REVOKE %I FROM %I;', g.rolname, r.rolname), E'\n')
                FROM mighty y JOIN pg_roles p ON p.oid = y.role
                JOIN membership m ON m.member = r.oid AND m.in_use AND pg_has_role(m.role, p.oid, 'MEMBER')
                JOIN pg_roles g ON g.oid = m.role
               WHERE NOT r.rolsuper
              HAVING count(*) > 0) f (how, remedy)
        WHERE r.rolcanlogin ORDER BY 1, 2""",
    None,
    _texts,
)


def _powerful(connection: SyncConnection, _: Limits) -> list[Finding]:
    return [
        _finding(
            severity=Severity.ERROR,
            subject=f"role {role}",
            problem=f"may record, and {how}: whoever takes over the application can change what it did",
            remedy=remedy,
        )
        for role, how, remedy in run(connection, _POWERFUL)
    ]


_ALL_BINDINGS = Statement("SELECT NOT row_security_active('provenance.readers')", None, truth)

_UNBOUND = Statement(
    """SELECT quote_ident(r.rolname), string_agg(DISTINCT format('provenance.%I', c.relname), ', ')
         FROM pg_class c
        CROSS JOIN LATERAL (
              SELECT f.* FROM aclexplode(c.relacl) f
               UNION ALL
              SELECT f.* FROM pg_attribute a CROSS JOIN aclexplode(a.attacl) f WHERE a.attrelid = c.oid) g
         JOIN pg_roles r ON r.oid = g.grantee
        WHERE c.relnamespace = to_regnamespace('provenance') AND g.privilege_type = 'SELECT' AND g.grantee <> c.relowner
          AND NOT EXISTS (SELECT FROM provenance.readers b WHERE b.role_name = r.rolname)
        GROUP BY r.rolname ORDER BY 1""",
    None,
    _texts,
)

_UNRESTRICTED = Statement(
    """SELECT quote_ident(r.rolname),
              format('ALTER ROLE %I %s;', r.rolname, CASE WHEN r.rolsuper THEN 'NOSUPERUSER' ELSE 'NOBYPASSRLS' END)
         FROM pg_roles r
        WHERE (r.rolsuper OR r.rolbypassrls)
          AND EXISTS (SELECT FROM provenance.readers b WHERE b.role_name = r.rolname AND b.tenant_id IS NOT NULL)
        ORDER BY 1""",
    None,
    _texts,
)

_GONE = Statement(
    """SELECT DISTINCT quote_ident(b.role_name), format('DELETE FROM provenance.readers WHERE role_name = %L;', b.role_name)
         FROM provenance.readers b WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = b.role_name) ORDER BY 1""",
    None,
    _texts,
)


def _reading(connection: SyncConnection, _: Limits) -> list[Finding]:
    if not run(connection, _ALL_BINDINGS):
        raise NotSeen
    return [
        *(
            _finding(
                severity=Severity.WARNING,
                subject=f"role {role}",
                problem=f"may read {tables} without having been made a reader: nobody decided what it sees of the trail",
                remedy=f"REVOKE SELECT ON {tables} FROM {role};\n"
                f"-- or, when it shall read the trail: provenance migrate grant --reader {role}",
            )
            for role, tables in run(connection, _UNBOUND)
        ),
        *(
            _finding(
                severity=Severity.ERROR,
                subject=f"role {role}",
                problem="is bound to tenants and passes by row-level security: it sees rows of all of them",
                remedy=remedy,
            )
            for role, remedy in run(connection, _UNRESTRICTED)
        ),
        *(
            _finding(
                severity=Severity.WARNING,
                subject=f"role {role}",
                problem="is bound as a reader and does not exist: whoever gets that name will read the trail",
                remedy=remedy,
            )
            for role, remedy in run(connection, _GONE)
        ),
    ]


POWERFUL = Check(name=_NAME, what="whether those who record can change it", needs=READER, look=_powerful)
READING = Check(name=_NAME, what="which roles may read the trail", needs=AS_OWNER, look=_reading)
