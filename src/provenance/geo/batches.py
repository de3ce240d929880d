"""Moves a table from columns for levels to one id, in batches that are actions, and back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs
import psycopg

from provenance import drivers
from provenance.concepts import ConceptRefused
from provenance.concepts.naming import quoted
from provenance.geo.errors import ContradictoryLevels
from provenance.geo.level_columns import LevelColumns, reference_sql
from provenance.geo.moving import Key, Moving, Range
from provenance.geo.source import read_source
from provenance.geo.statements import Contradiction
from provenance.statements import Statement
from provenance.trail import Trail

Connection = psycopg.Connection[Any]
Progress = Callable[[int, int], None]
"""Called after each batch with how many rows are done, and how many there were to do."""

BATCH = 10_000
"""Rows of a batch. Its transaction holds locks on them, so it is to be short."""

# The bytes of "geo" as a number; beside it the lock has that of the table.
_LOCK_CLASS = int.from_bytes(b"geo", "big")
_LOCK_TIMEOUT = "5s"


@attrs.frozen(kw_only=True)
class Moved:
    """What was done."""

    rows: int
    """How many rows were written."""
    locations: int
    """How many locations were made."""
    batches: int
    left: int
    """How many rows are not done, because somebody wrote them meanwhile; run it again."""


# -- the column --


def add_reference(connection: Connection, form: LevelColumns) -> bool:
    """Add the column for the id unless it is there, and return whether it was added.

    Args:
        connection: as the role that owns the table; with no transaction open.
        form: the table.

    Raises:
        ConceptRefused: the table or a column is not there or not fit, or somebody holds a lock; nothing was changed.
    """
    with _altering(connection, form):
        if read_source(connection, form).has_reference:
            return False
        connection.execute(reference_sql(form).up.encode())
        return True


def drop_reference(connection: Connection, form: LevelColumns) -> None:
    """Drop the column for the id, if the columns for levels say all that it says.

    Args:
        connection: as for :func:`add_reference`.
        form: the table.

    Raises:
        ConceptRefused: rows have an id that says something else than their columns do, or as for :func:`add_reference`.
    """
    with _altering(connection, form):
        moving = _moving(connection, form)
        # Nobody writes between the look and the drop.
        connection.execute(f"LOCK TABLE {form.table} IN ACCESS EXCLUSIVE MODE".encode())
        if lost := drivers.run(connection, moving.carried_otherwise()) + drivers.run(connection, moving.unmovable()):
            raise ConceptRefused(
                f"{lost} rows of {form.table} have an id in {form.reference} that says something else than their columns; "
                "carry it back first"
            )
        connection.execute(reference_sql(form).down.encode())


@contextmanager
def _altering(connection: Connection, form: LevelColumns) -> Generator[None]:
    try:
        with connection.transaction():
            # Whoever comes after a statement that waits for a lock waits behind it.
            connection.execute(f"SELECT pg_catalog.set_config('lock_timeout', '{_LOCK_TIMEOUT}', true)")
            yield
    except psycopg.errors.LockNotAvailable as error:
        raise ConceptRefused(
            f"{form.table} has been in use for {_LOCK_TIMEOUT}, and nothing was changed; run it again when it is not"
        ) from error


def _moving(connection: Connection, form: LevelColumns) -> Moving:
    source = read_source(connection, form)
    if not source.has_reference:
        raise ConceptRefused(f"{form.table} has no column {form.reference}; add it with add_reference()")
    return Moving(form, source.key)


# -- the rows --


@attrs.frozen
class _Direction:
    """What is done with a batch, and to which rows."""

    action_type: str
    condition: str
    left: Statement[int]
    """How many rows are still to be done."""
    work: Callable[[Connection, Moving, Range], tuple[int, int]]
    """Returns how many rows were written, and how many locations made."""


def backfill(trail: Trail, form: LevelColumns, *, batch: int = BATCH, progress: Progress | None = None) -> Moved:
    """Give each row that names places the id of their location, and make the locations that are missing.

    Every batch is an action and a transaction of its own. So it can be stopped at any time, by force too, and run again: it
    goes on with the rows that have no id. Several at once take turns. Rows that name no place are left alone.

    Args:
        trail: whose actions the batches are; of a role that may write the table and that of locations.
        form: the table; the column for the id must be there.
        batch: rows of a batch.
        progress: called after each batch.

    Raises:
        ContradictoryLevels: a row names places that do not lie within each other. Nothing was written, unless the row came
            while this was running.
        ConceptRefused: the table or a column is not there, or not fit.
        ValueError: *batch* is not positive.
    """
    with trail.connection() as connection:
        moving = _moving(connection, form)
        _refuse_contradictions(connection, moving, Range())
    there = _Direction("backfill_locations", moving.waiting, moving.count(moving.waiting), _move)
    return _in_batches(trail, moving, there, batch, progress)


def carry_back(trail: Trail, form: LevelColumns, *, batch: int = BATCH, progress: Progress | None = None) -> Moved:
    """Write the places of each row's location into its columns for levels: the reverse of :func:`backfill`.

    Safe to stop and to run again, like that. The ids stay; :func:`drop_reference` drops them.

    Args:
        trail: as for :func:`backfill`.
        form: the table.
        batch: rows of a batch.
        progress: called after each batch.

    Raises:
        ConceptRefused: the location of a row is not there, or names a place of a level that has no column here; nothing was
            written.
        ValueError: *batch* is not positive.
    """
    with trail.connection() as connection:
        moving = _moving(connection, form)
        if lost := drivers.run(connection, moving.unmovable()):
            raise ConceptRefused(
                f"{lost} rows of {form.table} cannot be carried back: their location is not there, or names a place of a "
                "level that the table has no column for; give them another location, or add the column"
            )
    held = f"s.{quoted(form.reference)} IS NOT NULL"
    back = _Direction("carry_locations_back", held, moving.carried_otherwise(), _carry)
    return _in_batches(trail, moving, back, batch, progress)


def _move(connection: Connection, moving: Moving, rows: Range) -> tuple[int, int]:
    _refuse_contradictions(connection, moving, rows)
    made = drivers.run(connection, moving.add(rows))
    masks = drivers.run(connection, moving.masks(rows))
    return sum(drivers.run(connection, moving.move(rows, given)) for given in masks), made


def _carry(connection: Connection, moving: Moving, rows: Range) -> tuple[int, int]:
    return drivers.run(connection, moving.carry_back(rows)), 0


def _in_batches(trail: Trail, moving: Moving, way: _Direction, batch: int, progress: Progress | None) -> Moved:
    if batch < 1:
        raise ValueError(f"batch: expected a positive number of rows, got {batch}")
    with trail.connection() as connection:
        total = drivers.run(connection, way.left)
    moved = Moved(rows=0, locations=0, batches=0, left=total)
    after: Key | None = None
    while True:
        done, made, after = _batch(trail, moving, way, after, batch)
        moved = attrs.evolve(moved, rows=moved.rows + done, locations=moved.locations + made, batches=moved.batches + 1)
        if progress is not None:
            progress(min(moved.rows, total), total)
        if after is None:
            break
    with trail.connection() as connection:
        return attrs.evolve(moved, left=drivers.run(connection, way.left))


def _batch(trail: Trail, moving: Moving, way: _Direction, after: Key | None, size: int) -> tuple[int, int, Key | None]:
    """Do one batch, and return how much was done, and up to which key; ``None`` at the end of the table."""
    table = moving.form.table
    with trail.track_action(way.action_type, concept="table", entity_type="table", entity_id=table) as action:
        connection = action.connection
        # Two at once would make each other wait crosswise for rows. So the second waits here, and finds them done.
        drivers.run(connection, moving.alone(_LOCK_CLASS))
        upto = drivers.run(connection, moving.bound(way.condition, after, size))
        done, made = way.work(connection, moving, Range(after, upto))
        action.result = {"rows": done, "locations": made, "after": after, "upto": upto}
        return done, made, upto


def _refuse_contradictions(connection: Connection, moving: Moving, rows: Range) -> None:
    question = moving.contradictions(rows)
    found: list[Contradiction] = [] if question is None else drivers.run(connection, question)
    if found:
        rest = f" (and {len(found) - 1} more contradictions)" if len(found) > 1 else ""
        raise ContradictoryLevels(
            f"in {found[0].rows} rows of {moving.form.table} the levels contradict each other: {found[0]}{rest}; correct "
            "the rows or the tables of places, and run it again"
        )
