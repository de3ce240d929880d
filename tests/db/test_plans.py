"""How the statements that read the trail are planned: by which indexes, and in which months."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs
import psycopg
import pytest
from psycopg import conninfo, sql
from psycopg.rows import dict_row

from provenance.models import Status
from provenance.repository import ActionRepository
from provenance.statements import Statement, reading
from provenance.statements.reading import Filter

SMALL = 100
"""Tables of fewer rows may be read from end to end."""

PLANS = pytest.mark.parametrize("plan", ["custom", "generic"])


@pytest.fixture(scope="module")
def planned(provenance_server: str, provenance_template: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to a database with actions over four months: every tenth is a child, the last 2,000 pending."""
    name = f"provenance_test_{secrets.token_hex(8)}"
    with psycopg.connect(provenance_server, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(provenance_template))
        )
        address = conninfo.make_conninfo(provenance_server, dbname=name)
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(
                """
                SET synchronous_commit = off;
                CREATE TEMP TABLE made AS
                SELECT n, (left(provenance.uuid_floor(clock_timestamp() + n * interval '7 minutes')::text, 14) || '7'
                           || substr(gen_random_uuid()::text, 16))::uuid AS id
                  FROM generate_series(1, 26000) n;
                CREATE TEMP TABLE rows AS
                SELECT id, CASE WHEN n % 10 = 0 THEN lag(id) OVER w ELSE id END AS root_id,
                       CASE WHEN n % 10 = 0 THEN lag(id) OVER w END AS parent_action_id, 'a' AS action_type, 'c' AS concept,
                       't' || n % 300 AS tenant_id, 'u' || n % 300 AS user_id, md5((n / 3)::text)::uuid AS request_id,
                       'x' || n AS correlation_id, 'e' AS entity_type, (n % 500)::text AS entity_id, now() AS started_at, n
                  FROM made WINDOW w AS (ORDER BY n);
                INSERT INTO provenance.actions (id, root_id, parent_action_id, action_type, concept, tenant_id, user_id,
                       request_id, correlation_id, entity_type, entity_id, started_at, completed_at, duration_ms, status)
                SELECT id, root_id, parent_action_id, action_type, concept, tenant_id, user_id, request_id, correlation_id,
                       entity_type, entity_id, started_at, started_at, 1, 'completed' FROM rows WHERE n <= 24000;
                INSERT INTO provenance.action_intents (id, root_id, parent_action_id, action_type, concept, tenant_id,
                       user_id, request_id, correlation_id, entity_type, entity_id, started_at)
                SELECT id, root_id, parent_action_id, action_type, concept, tenant_id, user_id, request_id, correlation_id,
                       entity_type, entity_id, started_at FROM rows WHERE n > 24000;
                ANALYZE provenance.actions, provenance.action_intents"""
            )
            yield connection
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@attrs.frozen
class Scan:
    """One scan that was executed."""

    kind: str
    table: str
    index: str | None
    """What the index is on, as its name says; of the part of a bitmap scan that reads the table, none."""


def executed(connection: psycopg.Connection[Any], statement: Statement[Any], plan: str) -> list[Scan]:
    """Execute the statement as a prepared one with this kind of plan, and return its scans."""
    assert statement.params is not None
    query = statement.query.as_string(None) if isinstance(statement.query, sql.Composed) else statement.query
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
    for position, name in enumerate(names, start=1):
        query = query.replace(f"%({name})s", f"${position}")
    arguments = sql.SQL(", ").join(
        sql.Literal(str(value) if isinstance(value, UUID) else value)
        for value in (statement.params[name] for name in names)
    )
    connection.execute(f"DEALLOCATE ALL; SET plan_cache_mode = force_{plan}_plan; PREPARE q AS {query}".encode())
    explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE q({})").format(arguments)
    row = connection.execute(explain).fetchone()
    assert row is not None
    waiting, found = [row[0][0]["Plan"]], list[Scan]()
    while waiting:
        node = waiting.pop()
        # Whether a pending action has ended meanwhile is looked up for each, where it was found by other means.
        if not node["Actual Loops"] or node.get("Parent Relationship") == "SubPlan":
            continue
        waiting += node.get("Plans", [])
        if name := node.get("Index Name"):
            of = re.fullmatch(r"(action_intents|actions_(?:\d{4}_\d{2}|default))_(\w+)", name)
            assert of is not None
            found.append(Scan(node["Node Type"], of[1], of[2].removesuffix("_idx")))
        elif "Relation Name" in node:
            found.append(Scan(node["Node Type"], node["Relation Name"], None))
    return found


def large_months(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the partitions that are too large to be read from end to end, oldest first."""
    rows = connection.execute(
        r"""SELECT relname::text FROM pg_class
             WHERE relnamespace = 'provenance'::regnamespace AND relname ~ '^actions_\d{4}_\d{2}$' AND reltuples >= %s
             ORDER BY relname""",
        (SMALL,),
    ).fetchall()
    return [row[0] for row in rows]


def month(connection: psycopg.Connection[Any], action_id: UUID) -> str:
    """Return the partition that an action is in."""
    row = connection.execute(
        "SELECT c.relname::text FROM provenance.actions a JOIN pg_class c ON c.oid = a.tableoid WHERE a.id = %s",
        (action_id,),
    ).fetchone()
    assert row is not None
    found: str = row[0]
    return found


def member(connection: psycopg.Connection[Any], condition: str) -> dict[str, Any]:
    """Return some action that is not among the first ones."""
    with connection.cursor(row_factory=dict_row) as cursor:
        query = f"SELECT * FROM provenance.action_log WHERE {condition} ORDER BY id OFFSET 100 LIMIT 1"  # noqa: S608
        row = cursor.execute(query.encode()).fetchone()
    assert row is not None
    return row


def search(*, before: UUID | None = None, limit: int = 50, **wanted: Any) -> Statement[Any]:
    """Ask for a page; the trail of this database lies in the coming months."""
    future = datetime.now(UTC) + timedelta(days=200)
    return reading.search(Filter(**{"until": future, **wanted}), before=before, limit=limit)


def statements(connection: psycopg.Connection[Any]) -> dict[str, Statement[Any]]:
    some = member(connection, "parent_action_id IS NOT NULL")
    late = member(connection, "id > (SELECT id FROM provenance.actions ORDER BY id OFFSET 15000 LIMIT 1)")["id"]
    entity = {"entity_type": "e", "entity_id": some["entity_id"]}
    return {
        "get": reading.get(some["id"]),
        "by_request": reading.by_request(some["request_id"], limit=1_000),
        "chain": reading.chain(some["root_id"], max_depth=100),
        "ancestors": reading.ancestors(some["id"], max_depth=100),
        "tree": reading.tree(some["id"]),
        "entity_history": search(**entity),
        "entity_history, next page": search(**entity, before=late),
        "by_user": search(user_id=some["user_id"]),
        "by_user, next page": search(user_id=some["user_id"], before=late),
        "by_tenant": search(tenant_id=some["tenant_id"]),
        "by_tenant, next page": search(tenant_id=some["tenant_id"], before=late),
        "by correlation": search(correlation_id=some["correlation_id"]),
        "newest": search(),
        "newest, next page": search(before=late),
    }


INDEXES = {
    "get": {"pkey"},
    "by_request": {"request_id"},
    "chain": {"parent_action_id", "pkey"},
    "ancestors": {"pkey"},
    "tree": {"root_id", "pkey"},
    "entity_history": {"entity_type_entity_id_id"},
    "entity_history, next page": {"entity_type_entity_id_id"},
    "by_user": {"user_id_id"},
    "by_user, next page": {"user_id_id"},
    "by_tenant": {"tenant_id_id"},
    "by_tenant, next page": {"tenant_id_id"},
    "by correlation": {"correlation_id"},
    "newest": {"pkey"},
    "newest, next page": {"pkey"},
}


@PLANS
@pytest.mark.parametrize("method", INDEXES)
def test_each_method_has_its_indexes(planned: psycopg.Connection[Any], method: str, plan: str) -> None:
    """Every month is read by the index that was made for it, first planned for its values or for any."""
    large = large_months(planned)
    scans = [scan for scan in executed(planned, statements(planned)[method], plan) if scan.table in large]
    assert {scan.index for scan in scans if scan.kind != "Bitmap Heap Scan"} == INDEXES[method]


@PLANS
@pytest.mark.parametrize("method", ["get", "by_request", "chain", "ancestors", "tree"])
def test_pending_actions_are_looked_up(planned: psycopg.Connection[Any], method: str, plan: str) -> None:
    """What asks for certain actions does not read all that are pending."""
    scans = executed(planned, statements(planned)[method], plan)
    assert [scan for scan in scans if (scan.kind, scan.table) == ("Seq Scan", "action_intents")] == []


@PLANS
def test_an_action_is_looked_for_in_its_month(planned: psycopg.Connection[Any], plan: str) -> None:
    """Neither other months nor the default partition are looked at, for it and for what led to it."""
    some = member(planned, "parent_action_id IS NOT NULL")
    where = {month(planned, some["id"]), month(planned, some["parent_action_id"])}
    assert {scan.table for scan in executed(planned, reading.get(some["id"]), plan)} - {"action_intents"} == {
        month(planned, some["id"])
    }
    scans = executed(planned, reading.ancestors(some["id"], max_depth=100), plan)
    assert {scan.table for scan in scans} - {"action_intents"} == where


@PLANS
@pytest.mark.parametrize("method", [name for name in INDEXES if name.endswith("next page")])
def test_the_next_page_is_not_looked_for_in_later_months(
    planned: psycopg.Connection[Any], method: str, plan: str
) -> None:
    """The months after the last action of the page before are not looked at."""
    statement = statements(planned)[method]
    assert statement.params is not None
    latest = month(planned, statement.params["before"])
    assert {scan.table for scan in executed(planned, statement, plan) if scan.table > latest} <= {"actions_default"}


@PLANS
@pytest.mark.parametrize("wanted", [{}, {"user_id": "u5"}, {"tenant_id": "t5"}, {"status": Status.COMPLETED}])
def test_a_search_within_a_month_reads_that_month_only(
    planned: psycopg.Connection[Any], wanted: dict[str, Any], plan: str
) -> None:
    """Other months, and the default partition, are not looked at."""
    middle = datetime.now(UTC) + timedelta(days=62)
    since = middle.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    until = (since + timedelta(days=40)).replace(day=1)
    scans = executed(planned, search(since=since, until=until, limit=1_000, **wanted), plan)
    assert {scan.table for scan in scans} - {"action_intents"} == {f"actions_{since:%Y_%m}"}


def index_scans(connection: psycopg.Connection[Any], index: str) -> int:
    """Return how often the partitions' indexes of this name were used so far."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(
        r"""SELECT sum(idx_scan)::int FROM pg_stat_user_indexes
             WHERE schemaname = 'provenance' AND indexrelname ~ ('^actions_\d{4}_\d{2}_' || %s || '_idx$')""",
        (index,),
    ).fetchone()
    assert row is not None
    assert row[0] is not None
    found: int = row[0]
    return found


def test_prepared_statements_stay_fast(planned: psycopg.Connection[Any]) -> None:
    """After some calls the server plans a prepared statement for any value; a tenant is then still found by its index."""
    with psycopg.connect(planned.info.dsn, autocommit=True) as connection:
        repository = ActionRepository(lambda: nullcontext(connection))
        until = datetime.now(UTC) + timedelta(days=200)
        for _ in range(20):
            page = repository.search(tenant_id="t5", until=until, limit=20)
        assert len(page) == 20
        before = index_scans(connection, "tenant_id_id")
        repository.search(tenant_id="t5", until=until, limit=20)
        assert index_scans(connection, "tenant_id_id") > before


def test_a_page_from_the_newest_on_is_prepared_once(planned: psycopg.Connection[Any]) -> None:
    """Asked again a moment later, the server knows the statement: planning takes longer than all the rest."""
    with psycopg.connect(planned.info.dsn, autocommit=True, prepare_threshold=0) as connection:
        repository = ActionRepository(lambda: nullcontext(connection))
        for user in ("u5", "u6", "u7"):
            repository.by_user(user)
        found = connection.execute(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'user_id'", prepare=False
        )
        assert found.fetchone() == (1,)


def test_what_is_written_is_planned_as_one_statement(planned: psycopg.Connection[Any]) -> None:
    """The rows are not collected first: what makes rows of the JSON becomes a part of the statement that inserts them."""
    lines = planned.execute("EXPLAIN (COSTS OFF) SELECT * FROM provenance.incoming_actions('[]')").fetchall()
    assert lines == [("Function Scan on json_to_recordset r",)]
