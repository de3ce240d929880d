"""Compares the schema in a database with what the migrations make, object by object. Reads only.

What should be there is kept in ``expected.json``: the catalogue of a fresh installation, in forms that do not vary
between the supported server versions. ``python -m provenance.schema.catalogue DSN`` prints it anew after a migration
was added.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any, LiteralString

import attrs
import psycopg
from psycopg.rows import scalar_row

Connection = psycopg.Connection[Any]
Catalogue = dict[str, dict[str, str]]
"""Kind of object → its name → its definition."""

# Monthly partitions come and go; they are checked against their parent instead of being listed.
_MONTHLY = r"^actions_\d{4}_\d{2}$"

_QUERIES: dict[str, LiteralString] = {
    "table": """
        SELECT c.relname, c.relkind::text || COALESCE(' partitioned by ' || pg_get_partkeydef(c.oid), '')
            || COALESCE(' with ' || array_to_string(c.reloptions, ','), '')
          FROM pg_class c WHERE c.relnamespace = to_regnamespace('provenance') AND c.relkind IN ('r', 'p', 'v')
           AND c.relname !~ %(monthly)s""",
    "column": """
        SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
            || COALESCE(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = to_regnamespace('provenance') AND c.relkind IN ('r', 'p', 'v')
           AND c.relname !~ %(monthly)s""",
    "constraint": """
        SELECT c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname !~ %(monthly)s AND k.contype <> 'n'""",
    "index": """
        SELECT i.relname, pg_get_indexdef(i.oid) || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
         WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname !~ %(monthly)s""",
    "trigger": """
        SELECT c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = to_regnamespace('provenance') AND NOT t.tgisinternal AND c.relname !~ %(monthly)s""",
    "function": """
        SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
               l.lanname || ' ' || p.provolatile::text || CASE WHEN p.prosecdef THEN ' security definer' ELSE '' END
               || ' returns ' || pg_get_function_result(p.oid)
               || COALESCE(' set ' || array_to_string(p.proconfig, ';'), '') || ' body ' || md5(p.prosrc)
          FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.pronamespace = to_regnamespace('provenance')""",
    # What everybody may do: nothing. Grants to named roles are the operator's choice, except rights to change the past.
    "grant": """
        SELECT 'PUBLIC on ' || p.proname, 'EXECUTE'
          FROM pg_proc p CROSS JOIN aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) g
         WHERE p.pronamespace = to_regnamespace('provenance') AND g.grantee = 0
        UNION ALL
        SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END || ' on ' || c.relname,
               string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
          FROM pg_class c CROSS JOIN aclexplode(c.relacl) g
         WHERE c.relnamespace = to_regnamespace('provenance') AND g.grantee <> c.relowner
           AND (g.grantee = 0 OR g.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER'))
         GROUP BY 1""",
}

_PARTITIONS: LiteralString = """
    SELECT c.relname
      FROM pg_class c
     WHERE c.relnamespace = to_regnamespace('provenance') AND c.relname ~ %(monthly)s
       AND 2 <> (SELECT count(*) FROM pg_trigger t
                  WHERE t.tgrelid = c.oid AND t.tgenabled = 'A' AND t.tgname IN ('refuse_change', 'refuse_truncate'))
     ORDER BY c.relname"""


@attrs.frozen(kw_only=True)
class Difference:
    """One thing that is not as the migrations made it."""

    kind: str
    name: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.kind} {self.name} is missing"
        if self.expected is None:
            return f"{self.kind} {self.name} should not be there: {self.found}"
        return f"{self.kind} {self.name} differs: expected {self.expected}; found {self.found}"


def read_catalogue(connection: Connection) -> Catalogue:
    """Return the definitions of everything in the schema ``provenance``, except monthly partitions."""
    found: Catalogue = {}
    with connection.transaction(), connection.cursor() as cursor:
        # Definitions are printed relative to the search_path; an empty one makes them all qualified.
        cursor.execute("SET LOCAL search_path = ''")
        for kind, query in _QUERIES.items():
            found[kind] = dict(sorted(cursor.execute(query, {"monthly": _MONTHLY}).fetchall()))
    return found


def expected_catalogue() -> Catalogue:
    """Return the catalogue a fresh installation of this version has."""
    text = (files(__package__) / "expected.json").read_text(encoding="utf-8")
    catalogue: Catalogue = json.loads(text)
    return catalogue


def verify(connection: Connection) -> list[Difference]:
    """Return how the schema in the database differs from what the migrations make; empty when it does not."""
    expected, found = expected_catalogue(), read_catalogue(connection)
    differences = [
        Difference(kind=kind, name=name, expected=expected[kind].get(name), found=found[kind].get(name))
        for kind in _QUERIES
        for name in sorted(expected[kind].keys() | found[kind].keys())
        if expected[kind].get(name) != found[kind].get(name)
    ]
    with connection.transaction(), connection.cursor(row_factory=scalar_row) as cursor:
        unguarded = cursor.execute(_PARTITIONS, {"monthly": _MONTHLY}).fetchall()
    differences.extend(
        Difference(
            kind="partition",
            name=str(name),
            expected="both guard triggers, enabled always",
            found="a guard trigger is missing or disabled",
        )
        for name in unguarded
    )
    return differences


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as _connection:
        sys.stdout.write(json.dumps(read_catalogue(_connection), indent=1) + "\n")
