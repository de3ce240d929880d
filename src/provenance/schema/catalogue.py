"""Compares the schema in a database with what the migrations make, object by object. Reads only.

What should be there is kept in ``expected.json``: the catalogue of a fresh installation, in forms that do not vary
between the supported server versions. ``python -m provenance.schema.catalogue DSN`` prints it anew after a migration
was added.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.resources import files
from typing import Any, LiteralString

import attrs
import psycopg
from psycopg.rows import tuple_row

from provenance.schema.flavors import INSTALLED, citus

Connection = psycopg.Connection[Any]
Catalogue = dict[str, dict[str, str]]
"""Kind of object → its name → its definition."""

# Monthly partitions come and go. Each must be what the default partition of its table is.
_MONTHLY = re.compile(r"(actions|row_changes)_\d{4}_\d{2}")

# So do the trigger functions of captured tables. Their bodies are made of the table's columns; each is to be what was made.
_CAPTURE = re.compile(r"capture_\d+\(\)")
_CAPTURE_MODEL = (
    "plpgsql v parallel u security definer returns trigger set search_path=pg_catalog, pg_temp;TimeZone=UTC;DateStyle=ISO;"
    "IntervalStyle=iso_8601;bytea_output=hex;extra_float_digits=1;lc_monetary=C;plan_cache_mode=force_generic_plan;"
    f"enable_nestloop=off;enable_hashjoin=off;jit=off arguments {hashlib.md5(b'', usedforsecurity=False).hexdigest()} body "
    "as captured"
)

_QUERIES: dict[str, LiteralString] = {
    # An object of another owner than the rest could be changed by somebody who was given the schema to use.
    "schema": """
        SELECT n.nspname,
               'schema' || CASE WHEN n.nspowner <> {owner} THEN ' owned by ' || n.nspowner::regrole::text ELSE '' END
          FROM pg_namespace n
         WHERE n.nspname = 'provenance'
            OR n.nspname = 'provenance_citus' AND {flavored}""",
    "relation": r"""
        SELECT CASE n.nspname WHEN 'provenance' THEN '' ELSE n.nspname || '.' END || quote_ident(c.relname),
               CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                    WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' END
               || CASE c.relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END
               || COALESCE(' by ' || pg_get_partkeydef(c.oid), '')
               || COALESCE(' of ' || (SELECT string_agg(h.inhparent::regclass::text, ', ')
                                        FROM pg_inherits h WHERE h.inhrelid = c.oid), '')
               -- Used again, a number would be that of another change.
               || COALESCE((SELECT format(' by %s from %s to %s%s', q.seqincrement, q.seqmin, q.seqmax,
                                          CASE WHEN q.seqcycle THEN ' cycle' END)
                              FROM pg_sequence q WHERE q.seqrelid = c.oid), '')
               || COALESCE(' with ' || array_to_string(c.reloptions, ','), '')
               || CASE WHEN c.relrowsecurity THEN ' row level security' ELSE '' END
               || CASE WHEN c.relforcerowsecurity THEN ' forced' ELSE '' END
               || CASE WHEN c.relowner <> {owner} THEN ' owned by ' || c.relowner::regrole::text ELSE '' END
               -- Servers differ in layout and in where they repeat the one-letter names of the tables.
               || CASE WHEN c.relkind IN ('v', 'm')
                       THEN ' as ' || md5(regexp_replace(pg_get_viewdef(c.oid), '\s|\m[a-z]\.', '', 'g')) ELSE '' END
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'provenance' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            OR n.nspname = 'provenance_citus' AND c.relname = 'two_phase' AND {flavored}""",
    "column": """
        SELECT quote_ident(c.relname) || '.' || quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
            || COALESCE(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = to_regnamespace('provenance') AND c.relkind IN ('r', 'p', 'v')""",
    "constraint": """
        SELECT quote_ident(c.relname) || '.' || quote_ident(k.conname), pg_get_constraintdef(k.oid)
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE c.relnamespace = to_regnamespace('provenance') AND k.contype <> 'n'""",
    "index": """
        SELECT quote_ident(i.relname), pg_get_indexdef(i.oid) || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
         WHERE c.relnamespace = to_regnamespace('provenance')""",
    "trigger": """
        SELECT quote_ident(c.relname) || '.' || quote_ident(t.tgname),
               pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = to_regnamespace('provenance') AND NOT t.tgisinternal""",
    "rule": """
        SELECT quote_ident(c.relname) || '.' || quote_ident(r.rulename), pg_get_ruledef(r.oid)
          FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
         WHERE c.relnamespace = to_regnamespace('provenance') AND r.rulename <> '_RETURN'""",
    # One that restricts, or holds for somebody only, hides rows or lets through what others refuse.
    "policy": r"""
        SELECT quote_ident(c.relname) || '.' || quote_ident(p.polname),
               CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
                    ELSE 'all' END
               || CASE WHEN p.polpermissive THEN '' ELSE ' restrictive' END
               || CASE WHEN p.polroles = '{0}' THEN '' ELSE ' to some' END
               || ' using '
               || md5(regexp_replace(COALESCE(pg_get_expr(p.polqual, p.polrelid), 'true'), '\s|\m[a-z]\.', '', 'g'))
               || ' check ' || COALESCE(pg_get_expr(p.polwithcheck, p.polrelid), 'as using')
          FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
         WHERE c.relnamespace = to_regnamespace('provenance')""",
    "function": """
        SELECT quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')',
               l.lanname || ' ' || p.provolatile::text || ' parallel ' || p.proparallel::text
               || CASE WHEN p.proisstrict THEN ' strict' ELSE '' END
               || CASE WHEN p.prosecdef THEN ' security definer' ELSE '' END
               || COALESCE(' returns ' || pg_get_function_result(p.oid), '')
               || COALESCE(' set ' || array_to_string(p.proconfig, ';'), '')
               || CASE WHEN p.proowner <> {owner} THEN ' owned by ' || p.proowner::regrole::text ELSE '' END
               || ' arguments ' || md5(pg_get_function_arguments(p.oid))
               || ' body '
               || CASE WHEN p.proname ~ '^capture_[0-9]+$' AND obj_description(p.oid, 'pg_proc')
                            = 'sha256:' || encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex')
                       THEN 'as captured'
                    WHEN p.proname ~ '^capture_[0-9]+$' AND obj_description(p.oid, 'pg_proc') IS NULL
                       THEN 'without its mark' ELSE md5(COALESCE(pg_get_function_sqlbody(p.oid), p.prosrc)) END
          FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'provenance'""",
    # What everybody may do: nothing. Grants to named roles are the operator's choice, except rights to change the past: to
    # alter or remove rows, to say oneself when, in what transaction and by whom a row was written, or to add objects.
    "grant": """
        WITH granted (grantee, owner, object, privilege, column_name) AS (
            SELECT g.grantee, n.nspowner, 'schema provenance', g.privilege_type, NULL
              FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) g
             WHERE n.nspname = 'provenance'
            UNION ALL
            SELECT g.grantee, p.proowner, p.oid::regprocedure::text, g.privilege_type, NULL
              FROM pg_proc p CROSS JOIN aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) g
             WHERE p.pronamespace = to_regnamespace('provenance')
            UNION ALL
            SELECT g.grantee, c.relowner, quote_ident(c.relname), g.privilege_type, NULL
              FROM pg_class c CROSS JOIN aclexplode(c.relacl) g
             WHERE c.relnamespace = to_regnamespace('provenance')
            UNION ALL
            SELECT g.grantee, c.relowner, quote_ident(c.relname) || '.' || quote_ident(a.attname), g.privilege_type,
                   a.attname
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN aclexplode(a.attacl) g
             WHERE c.relnamespace = to_regnamespace('provenance'))
        SELECT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END || ' on ' || object,
               string_agg(privilege, ', ' ORDER BY privilege)
          FROM granted
         WHERE grantee <> owner
           AND (grantee = 0
                OR privilege IN ('CREATE', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
                OR privilege = 'INSERT'
                   AND COALESCE(column_name IN ('recorded_at', 'xid', 'db_user', 'erased_by_action_id'), true))
         GROUP BY 1""",
}


# Whoever owns most of it, whatever one object was given to.
OWNER: LiteralString = """(SELECT mode() WITHIN GROUP (ORDER BY o.relowner) FROM pg_class o
                            WHERE o.relnamespace = to_regnamespace('provenance'))"""

# Definitions and times are printed relative to these.
PRINTED_ALIKE: LiteralString = (
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; "
    "SET LOCAL quote_all_identifiers = off; SET LOCAL standard_conforming_strings = on; SET LOCAL client_encoding = 'UTF8'"
)


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
    """Return the definitions of everything in the schema ``provenance``."""
    found: Catalogue = {}
    # Rolled back, so that the settings do not outlive this in a transaction of the caller's.
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=tuple_row) as cursor:
        # With an empty search_path all names come out qualified.
        cursor.execute(f"SET LOCAL search_path = ''; {PRINTED_ALIKE}")
        for kind, query in _QUERIES.items():
            found[kind] = dict(
                sorted(cursor.execute(query.replace("{owner}", OWNER).replace("{flavored}", INSTALLED)).fetchall())
            )
    return found


def _installed(catalogue: Catalogue) -> Catalogue:
    """Return the part of a catalogue that does not depend on the month."""
    return {
        kind: {
            name: text for name, text in entries.items() if not _MONTHLY.search(name) and not _CAPTURE.fullmatch(name)
        }
        for kind, entries in catalogue.items()
    }


def expected_catalogue() -> Catalogue:
    """Return the catalogue a fresh installation of this version has, without its monthly partitions."""
    text = (files("provenance.schema") / "expected.json").read_text(encoding="utf-8")
    catalogue: Catalogue = json.loads(text)
    return catalogue


def _with_partitions(catalogue: Catalogue, partitions: list[str]) -> Catalogue:
    """Return the catalogue with monthly partitions of these names, modelled on the default partition of their table."""
    models = {partition: re.sub(r"\d{4}_\d{2}", "default", partition) for partition in partitions}
    return {
        kind: entries
        | {
            name.replace(model, partition): text.replace(model, partition)
            for partition, model in models.items()
            for name, text in entries.items()
            if model in name
        }
        for kind, entries in catalogue.items()
    }


def _with_captures(catalogue: Catalogue, found: dict[str, str]) -> Catalogue:
    """Return the catalogue with the trigger functions of captured tables that were found, as they must be."""
    captures = {name: _CAPTURE_MODEL for name in found if _CAPTURE.fullmatch(name)}
    return catalogue | {"function": catalogue["function"] | captures}


def _with_flavor(catalogue: Catalogue, found: dict[str, str]) -> Catalogue:
    """Return the catalogue with what belongs to the flavor whose function was found."""
    added = citus().expected
    if found.keys().isdisjoint(added["function"]):
        return catalogue
    return {kind: entries | added.get(kind, {}) for kind, entries in catalogue.items()}


def verify(connection: Connection) -> list[Difference]:
    """Return how the schema in the database differs from what the migrations make; empty when it does not.

    Every monthly partition there is must be attached and be made like the default partition of its table.
    """
    found = read_catalogue(connection)
    partitions = [name for name in found["relation"] if _MONTHLY.fullmatch(name)]
    expected = _with_flavor(expected_catalogue(), found["function"])
    expected = _with_captures(_with_partitions(expected, partitions), found["function"])
    return [
        Difference(kind=kind, name=name, expected=expected[kind].get(name), found=found[kind].get(name))
        for kind in _QUERIES
        for name in sorted(expected[kind].keys() | found[kind].keys())
        if expected[kind].get(name) != found[kind].get(name)
    ]


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as _connection:
        sys.stdout.write(json.dumps(_installed(read_catalogue(_connection)), indent=1) + "\n")
