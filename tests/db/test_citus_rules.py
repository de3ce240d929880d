"""What a distributed Postgres asks of the library's SQL, held against all of it.

Each rule is about something that Citus refuses, or worse, accepts and does otherwise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import provenance
from provenance.schema.catalogue import expected_catalogue
from provenance.schema.flavors import flavor_named

Connection = psycopg.Connection[Any]

SOURCE = Path(provenance.__file__).parent
GROWING = ("actions", "action_intents", "row_changes", "idempotency_keys")
# What is sent to workers with a table that is stamped. Nothing else of the schema is there.
ON_WORKERS = {"stamp_insert", "stamp_update", "require_action"}


def texts() -> Iterator[tuple[str, str]]:
    """Yield each SQL file without its comments, and each string of the Python files that is no docstring."""
    for path in sorted((SOURCE / "schema").rglob("*.sql")):
        yield path.name, re.sub(r"--.*", "", path.read_text())
    for path in sorted(SOURCE.rglob("*.py")):
        if "examples" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value
            elif isinstance(node, ast.JoinedStr):
                yield path.name, ast.unparse(node)


TEXTS = list(texts())

RULES = {
    # set_config() does not reach a worker, and says nothing; a SET for the session does not either.
    "the current action is told by SET LOCAL": r"set_config\s*\(\s*'provenance\.(action_id|block|done)'"
    r"|\bSET\s+(SESSION\s+)?provenance\.\w+",
    # Months could not be detached, and a key of the table itself cannot be without that by which it is distributed.
    "no foreign key leads to the trail": r"\bREFERENCES\s+provenance\.",
    # Distributed, a table would have another key.
    "a conflict names no columns": rf"INSERT\s+INTO\s+provenance\.({'|'.join(GROWING)}|%I|\{{\}})[^;]*?"
    r"ON\s+CONFLICT\s*(\(|ON\b)",
    # Each worker has its own transaction, so there are several in one.
    "nothing is joined by transaction": r"\.xid\s*=\s*\w+\.xid|USING\s*\([^)]*\bxid\b",
    # Those of a session are lost, or left held, behind a pooler.
    "advisory locks end with the transaction": r"\bpg_(try_)?advisory_(un)?lock",
    # On a worker the table has the name of a shard.
    "the name of a trigger's table is no data": r"(?m)^(?!.*\bRAISE\b).*\bTG_(TABLE_NAME|RELNAME)\b",
    # Not supported with a table that is distributed, nor seen on it by a subscription.
    "no month is detached concurrently": r"DETACH\s+PARTITION\s+\S+\s+CONCURRENTLY",
}

BAD = {
    "the current action is told by SET LOCAL": (
        "SELECT set_config('provenance.action_id', $1, true)",
        "SET provenance.action_id = 'x'",
        "SET SESSION provenance.block = 'x'",
    ),
    "no foreign key leads to the trail": ("action_id uuid REFERENCES provenance.actions",),
    "a conflict names no columns": (
        "INSERT INTO provenance.actions (id) VALUES (1) ON CONFLICT (id) DO NOTHING",
        "INSERT INTO provenance.%I SELECT 1 ON CONFLICT (id) DO NOTHING",
        "INSERT INTO provenance.action_intents (id)\nSELECT 1\nON CONFLICT ON CONSTRAINT x DO NOTHING",
    ),
    "nothing is joined by transaction": ("JOIN provenance.row_changes r ON r.xid = a.xid", "JOIN b USING (id, xid)"),
    "advisory locks end with the transaction": ("SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock(1)"),
    "the name of a trigger's table is no data": ("INSERT INTO x VALUES (TG_TABLE_NAME)", "name := TG_TABLE_NAME"),
    "no month is detached concurrently": ("ALTER TABLE a DETACH PARTITION provenance.%I CONCURRENTLY",),
}


def broken(rule: str) -> list[tuple[str, str]]:
    """Return where a rule is broken."""
    pattern = re.compile(RULES[rule], re.IGNORECASE)
    return [(name, found[0]) for name, text in TEXTS if (found := pattern.search(text))]


@pytest.mark.parametrize("rule", RULES)
def test_every_statement_keeps(rule: str) -> None:
    """Whatever is in a file or a string of the library."""
    assert [] == broken(rule)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BAD.items() for text in texts])
def test_a_rule_finds_what_breaks_it(rule: str, text: str) -> None:
    """As these do."""
    assert re.search(RULES[rule], text, re.IGNORECASE)


def test_the_rules_see_the_statements() -> None:
    """Those that record, in SQL and in Python, are among what is looked at."""
    everything = "\n".join(text for _, text in TEXTS)
    for some in ("INSERT INTO provenance.actions", "SET LOCAL", "pg_advisory_xact_lock", "ON CONFLICT DO NOTHING"):
        assert some in everything
    assert len(TEXTS) > 1000


def test_every_table_that_grows_has_its_tenant() -> None:
    """Never null, and fixed when the row is written: by it the rows could be distributed one day. No table of ours has a
    foreign key.
    """
    columns = expected_catalogue()["column"]
    for table in GROWING:
        assert columns[f"{table}.tenant_id"].startswith("text not null")
    assert [] == [name for name, text in expected_catalogue()["constraint"].items() if "FOREIGN KEY" in text]
    assert {"uuid not null"} == {columns[f"{table}.root_id"] for table in ("actions", "action_intents")}


def test_only_functions_that_need_nothing_go_to_workers(provenance_dsn: str) -> None:
    """They read one setting and their row: no table and no function of the schema, no path, and nobody else's rights."""
    with psycopg.connect(provenance_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int); SELECT provenance.stamp_table('orders', strict => true)")
        found = connection.execute(
            """SELECT DISTINCT p.proname, p.prosrc, p.prosecdef, p.proconfig
                 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = 'orders'::regclass"""
        ).fetchall()
        connection.execute("DROP TABLE orders")
    assert {name for name, *_ in found} == ON_WORKERS
    for name, source, definer, settings in found:
        assert not definer, name
        assert settings is None, name
        assert needs(source) == set(), name


def needs(source: str) -> set[str]:
    """Return what the source of a function needs that is not everywhere: tables, and functions of no system schema."""
    code = re.sub(r"--.*", "", source)
    unquoted = re.sub(r"'(?:[^']|'')*'", "''", code)
    called = set(re.findall(r"([\w.]+)\s*\(", unquoted)) - {"COALESCE", "IF", "IN"}
    tables = set(re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+([\w.]+)", unquoted))
    return {name for name in called | tables if not name.startswith("pg_catalog.")} | set(
        re.findall(r"\bprovenance\.\w+", unquoted)
    )


@pytest.mark.parametrize(
    "source",
    [
        "BEGIN NEW.x := provenance.current_action_id(); RETURN NEW; END",
        "BEGIN PERFORM 1 FROM pg_class; RETURN NEW; END",
        "BEGIN INSERT INTO provenance.actions VALUES (1); RETURN NEW; END",
        "BEGIN NEW.x := current_setting('provenance.action_id'); RETURN NEW; END",
    ],
)
def test_a_function_that_needs_something_is_found(source: str) -> None:
    """As these do."""
    assert needs(source)


def test_the_flavor_hands_citus_one_table_with_nothing_in_it() -> None:
    """All others stay tables of Postgres's own, on the coordinator, where each statement finds them."""
    flavor = flavor_named("citus")
    assert flavor is not None
    code = re.sub(r"--.*", "", flavor.up)
    handed: Callable[[str], list[str]] = lambda text: re.findall(r"(?:citus_add\w+|create_\w+_table)\('([\w.]+)'", text)  # noqa: E731
    assert ["provenance_citus.two_phase"] == handed(code)
    assert [] == [name for name, text in TEXTS if name != "citus.up.sql" and handed(text)]
    done = re.findall(r"\b(?:INSERT INTO|UPDATE|DELETE FROM|MERGE|LOCK|TRUNCATE)\s[^;]*(?=;)", code)
    assert ["DELETE FROM provenance_citus.two_phase"] == done
