"""What stands on the schema from outside of it, and would stop its removal or be broken by it. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, LiteralString

import attrs
import psycopg
from psycopg.rows import class_row

from provenance.schema.migrations import known_migrations

Connection = psycopg.Connection[Any]

# A function whose body is text depends on nothing in the catalogue: one that refreshes a view is known by what it calls.
_DEPENDENTS: LiteralString = """
WITH doomed (class, id, name) AS (
    SELECT f.* FROM (
        SELECT 'pg_proc'::regclass, p.oid, p.proname FROM pg_proc p WHERE p.pronamespace = to_regnamespace('provenance')
        UNION ALL
        SELECT 'pg_class'::regclass, c.oid, c.relname FROM pg_class c WHERE c.relnamespace = to_regnamespace('provenance')
        UNION ALL
        SELECT 'pg_type'::regclass, t.oid, t.typname FROM pg_type t WHERE t.typnamespace = to_regnamespace('provenance')
    ) AS f (class, id, name)
     WHERE f.name !~ %(kept)s),
dependent AS (
    SELECT DISTINCT d.classid, d.objid, d.objsubid, t.tgname::text AS trigger,
           COALESCE(t.tgrelid, a.adrelid, r.ev_class, NULLIF(k.conrelid, 0), p.polrelid, c.oid) AS relation
      FROM doomed JOIN pg_depend d ON d.refclassid = doomed.class AND d.refobjid = doomed.id AND d.deptype = 'n'
      LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
      LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
      LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
      LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
      LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
      LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
     -- Those of partitions go with that of the table.
     WHERE t.tgparentid IS NULL OR t.tgparentid = 0)
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table, o.trigger,
       pg_describe_object(o.classid, o.objid, o.objsubid) AS description
  FROM dependent o CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, o.objsubid) AS i
  LEFT JOIN pg_class c ON c.oid = COALESCE(pg_partition_root(o.relation), o.relation)
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE COALESCE(n.nspname, i.schema) IS DISTINCT FROM 'provenance'
UNION
SELECT NULL, NULL, pg_describe_object('pg_proc'::regclass, p.oid, 0)
  FROM pg_proc p
 WHERE strpos(p.prosrc, 'provenance.refresh_view(') > 0 AND p.pronamespace <> to_regnamespace('provenance')
   AND EXISTS (SELECT FROM doomed WHERE doomed.name = 'refresh_view')
 ORDER BY 1, 2, 3
"""


@attrs.frozen(kw_only=True)
class Dependent:
    """Something outside the schema that needs something in it."""

    table: str | None
    """The table or view it is part of, qualified, and quoted where SQL needs it."""
    trigger: str | None
    description: str


def _kept(to: int) -> str:
    """Return a pattern for the names of what stays at a version: what the steps up to it would drop."""
    names = [
        name
        for migration in known_migrations()
        if migration.version <= to
        for name in re.findall(r"provenance\.(\w+)", migration.down)
    ]
    # Of a table there are partitions and types too.
    return rf"^_?({'|'.join([*names, 'migrations'])})(_default|_\d{{4}}_\d{{2}})?$" if names else "^$"


def _explained(dependents: Iterable[Dependent]) -> list[str]:
    """Return for each table what it has and what takes that off, and for all else what it is."""
    found = list(dependents)
    triggers = {(one.table, one.trigger) for one in found if one.trigger is not None}
    concepts = {table for table, trigger in triggers if trigger == "provenance_touch"}
    said: dict[str, None] = {}
    for one in found:
        trigger = one.trigger or ""
        if trigger.startswith("provenance_capture_"):
            said[f"{one.table} is captured (`provenance capture {one.table} --release`)"] = None
        elif one.table in concepts:
            said[f"{one.table} is the table of a concept (`provenance concept sql FILE --down`)"] = None
        elif trigger.startswith(("provenance_stamp_", "provenance_require_action")):
            said[f"{one.table} is stamped (`provenance stamp {one.table} --undo`)"] = None
        else:
            said[f"{one.description} (drop or change it)"] = None
    return list(said)


def obstacles(connection: Connection, *, to: int) -> list[str]:
    """Return what stands on that part of the schema which going back to a version takes away, each with what releases it.

    Empty when there is nothing. What somebody else put into the schema itself is not looked for.

    Args:
        connection: to the database.
        to: the version to go back to; 0 removes the schema altogether.
    """
    # Rolled back, so that the path does not outlive this in a transaction of the caller's. It has names come out qualified.
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=class_row(Dependent)) as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        return _explained(cursor.execute(_DEPENDENTS, {"kept": _kept(to)}).fetchall())
