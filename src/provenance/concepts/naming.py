"""How names and texts are written in SQL, and which names are derived from others. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

LONGEST = 63
"""Bytes. Postgres cuts longer names silently."""

# What quote_ident() quotes: pg_get_keywords() without the unreserved ones, of all supported versions.
_WORDS = """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast char
    character check coalesce collate collation column concurrently constraint create cross current_catalog current_date
    current_role current_schema current_time current_timestamp current_user dec decimal default deferrable desc distinct do
    else end except exists extract false fetch float for foreign freeze from full grant greatest group grouping having ilike
    in initially inner inout int integer intersect interval into is isnull join json json_array json_arrayagg json_exists
    json_object json_objectagg json_query json_scalar json_serialize json_table json_value lateral leading least left like
    limit localtime localtimestamp merge_action national natural nchar none normalize not notnull null nullif numeric offset
    on only or order out outer overlaps overlay placing position precision primary real references returning right row select
    session_user setof similar smallint some substring symmetric system_user table tablesample then time timestamp to
    trailing treat trim true union unique user using values varchar variadic verbose when where window with xmlattributes
    xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
"""
KEYWORDS = frozenset(_WORDS.split())

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)


def quoted(name: str) -> str:
    """Return an identifier as SQL, in quotes only where it needs them."""
    if _PLAIN.fullmatch(name) and name not in KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL, whatever ``standard_conforming_strings`` is."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def fitted(name: str, suffix: str = "") -> str:
    """Return *name* with a suffix, cut and told apart by a hash where Postgres would cut it silently."""
    whole = name + suffix
    if len(whole.encode()) <= LONGEST:
        return whole
    mark = f"_{_digest(whole)}{suffix}"
    return name.encode()[: LONGEST - len(mark.encode())].decode(errors="ignore") + mark


def index_name(relation: str, columns: Iterable[str], suffix: str) -> str:
    """Return the name of an index on columns; no other list of columns has the same."""
    columns = tuple(columns)
    joined = "__".join(columns)
    if any("__" in column or column.startswith("_") or column.endswith("_") for column in columns):
        # Only without these can one see where a column ends.
        joined += f"_{_digest(repr(columns))}"
    return fitted(f"{relation}_{joined}", suffix)
