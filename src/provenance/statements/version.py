"""Which version of the schema a database has, for any role."""

from __future__ import annotations

from provenance.statements import Rows, Statement


def _version(rows: Rows) -> int | None:
    return int(rows[0][0]) if rows else None


# Out of the catalogue: readers may not call the function, and no role can where there is none.
VERSION = Statement(
    r"""SELECT pg_catalog.substring(pg_catalog.pg_get_function_sqlbody(p.oid), '\d+')
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'provenance' AND p.proname = 'schema_version'""",
    None,
    _version,
)
