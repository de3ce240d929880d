"""A trail to measure on: so many actions over the last three years, in a partition for each month, the same ones each time.

The server makes the rows itself, and inserts them in the order of their time, into the indexes as they stand: these are then
as full as those of a trail that has grown, and not as full as new ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import psycopg
from psycopg import conninfo, sql
from psycopg.rows import class_row

from provenance import schema
from tests.support.cluster import Cluster

MONTHS = 37
"""How many months there are actions in: three years, and what there is of this month."""
BLOCK = 1_000
"""After so many actions their kinds repeat; the first ones of a block are the chain."""
CHAIN = 51
"""How many actions are in a chain."""
_AT_ONCE = 250_000
"""How many rows are inserted in one transaction."""

# Which type an entity is of follows from its rank, as in the database.
_TYPES = ("account", "order", "invoice", "shipment", "contact")

_FUNCTIONS = Path(__file__).with_name("population.sql")

_PARTITIONS = """
SELECT format('CREATE TABLE provenance.%%I PARTITION OF provenance.actions '
              'FOR VALUES FROM (provenance.uuid_floor(%%L)) TO (provenance.uuid_floor(%%L))',
              to_char(month, '"actions_"YYYY_MM'), month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC')
  FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => ago)
          FROM generate_series(1, %(months)s - 1) AS ago) AS months (month)"""

_EXTENT = """
INSERT INTO population.extent
SELECT begun.ms, (extract(epoch FROM now()) * 1000 - 60000 - begun.ms) / %(actions)s, %(users)s, %(entities)s
  FROM (SELECT extract(epoch FROM (date_trunc('month', now() AT TIME ZONE 'UTC')
                                   - make_interval(months => %(months)s - 1)) AT TIME ZONE 'UTC') * 1000) AS begun (ms)"""

_LOAD = """
INSERT INTO provenance.actions (id, root_id, parent_action_id, action_type, concept, status, user_id, request_id,
       entity_type, entity_id, payload, result, error_type, error_message, started_at, completed_at, duration_ms,
       recorded_at)
SELECT id, root_id, parent_action_id, action_type, concept, status, user_id, request_id,
       entity_type, entity_id, payload, result, error_type, error_message, started_at, completed_at, duration_ms,
       completed_at
  FROM population.actions(%(first)s, %(last)s)"""

_PICKED = """
SELECT made.id, made.request_id, made.user_id, made.entity_type, made.entity_id, made.entity_rank, made.started_at
  FROM unnest(%(numbers)s::bigint[]) WITH ORDINALITY AS wanted (n, place)
 CROSS JOIN LATERAL population.actions(wanted.n, wanted.n) AS made ORDER BY wanted.place"""


@attrs.frozen
class Member:
    """What there is to ask about an action."""

    id: UUID
    request_id: UUID
    user_id: str
    entity_type: str
    entity_id: str
    entity_rank: int
    """How busy the entity is: the first one is the busiest."""
    started_at: datetime


@attrs.frozen
class Subject:
    """Who does something next, and to what."""

    user_id: str
    entity_type: str
    entity_id: str


@contextmanager
def server(*settings: str) -> Generator[str]:
    """Yield the address of a new server that has room for a trail, and does nothing of itself while it is measured."""
    room = ("shared_buffers=1GB", "max_wal_size=4GB", "checkpoint_timeout=1h", "autovacuum=off")
    with Cluster(settings=(*room, *settings)) as cluster:
        yield cluster.conninfo


@contextmanager
def database(address: str, actions: int) -> Generator[str]:
    """Yield the address of a database with a trail of so many actions, and drop it in the end: it may take gigabytes."""
    name = sql.Identifier(f"trail_of_{actions}")
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            made = conninfo.make_conninfo(address, dbname=f"trail_of_{actions}")
            with psycopg.connect(made, autocommit=True) as connection:
                _load(connection, actions)
            yield made
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def batches(actions: int) -> Iterable[dict[str, int]]:
    """Return the numbers of the first and the last action of each batch that is written at once."""
    return ({"first": first, "last": min(first + _AT_ONCE, actions) - 1} for first in range(0, actions, _AT_ONCE))


def pick(connection: psycopg.Connection[Any], numbers: Iterable[int]) -> list[Member]:
    """Return the actions with these numbers."""
    with connection.cursor(row_factory=class_row(Member)) as cursor:
        return cursor.execute(_PICKED, {"numbers": list(numbers)}).fetchall()


def draw(chance: random.Random, actions: int) -> Subject:
    """Return a user and an entity of a trail of so many actions, the busy ones more often, as among its actions."""
    entity = _zipf(chance, _entities(actions))
    return Subject(f"user-{_zipf(chance, _users(actions))}", _TYPES[entity % len(_TYPES)], str(entity))


def _users(actions: int) -> int:
    return max(10, actions // 1_000)


def _entities(actions: int) -> int:
    return max(100, actions // 20)


def _zipf(chance: random.Random, members: int) -> int:
    return int(math.exp(chance.random() * math.log(members + 1)))


def _load(connection: psycopg.Connection[Any], actions: int) -> None:
    schema.up(connection)
    connection.execute(_FUNCTIONS.read_bytes())
    extent = {"actions": actions, "months": MONTHS, "users": _users(actions), "entities": _entities(actions)}
    connection.execute(_EXTENT, extent)
    for (statement,) in connection.execute(_PARTITIONS, {"months": MONTHS}).fetchall():
        connection.execute(statement)
    for batch in batches(actions):
        connection.execute(_LOAD, batch)
    connection.execute("VACUUM ANALYZE provenance.actions")
