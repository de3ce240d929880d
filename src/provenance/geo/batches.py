"""Moves a table from columns for levels to one id, in batches that are actions, and back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import psycopg
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.concepts import ConceptRefused, database
from provenance.concepts.access import explained
from provenance.concepts.naming import quoted
from provenance.errors import MisusedAction, NoCurrentAction
from provenance.geo.errors import ContradictoryLevels
from provenance.geo.level_columns import LevelColumns, reference_sql
from provenance.geo.moving import Key, Moving, Range, State
from provenance.geo.source import Source, read_source
from provenance.geo.statements import Contradiction
from provenance.statements import Statement, command
from provenance.tracking import current_action
from provenance.trail import Trail
from provenance.translation import sentence

Connection = psycopg.Connection[Any]
Progress = Callable[[int, int], None]
"""Called after each batch with how many rows are done, and how many there were to do."""

BATCH = 10_000
"""Rows of a batch. Its transaction holds locks on them, so it is to be short."""

# The bytes of "geo" as a number; beside it the lock has that of the table.
_LOCK_CLASS = int.from_bytes(b"geo", "big")
_LOCK_TIMEOUT = "5s"

# What one may meet that is gone the next time: a deadlock, a row that is locked, a snapshot that is too old.
_PASSING = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.SerializationFailure,
)
_ATTEMPTS = 5


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
    differing: int = 0
    """How many rows have an id that says something else than their columns, because one of them was written later."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return how many there are of something: ``1 row``, ``2 rows``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


# -- the column --


def add_reference(connection: Connection, form: LevelColumns) -> bool:
    """Add the column for the id unless it is there, and return whether it was added.

    Args:
        connection: as the role that owns the table; with no transaction open.
        form: the table.

    Raises:
        ConceptRefused: the table or a column is not there or not fit, or the geography does not fit the tables of places,
            or somebody holds a lock; nothing was changed.
    """
    with _altering(connection, form):
        if read_source(connection, form).has_reference:
            return False
        _check_places(connection, form)
        _lock(connection, form)
        # Somebody else may have added it before the lock was had.
        if read_source(connection, form).has_reference:
            return False
        _run(connection, reference_sql(form).up)
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
        moving = _moving(connection, form, ", so there is nothing to drop")[0]
        # Nobody writes between the look and the drop.
        _lock(connection, form)
        with explained(form.geography.name):
            state = drivers.run(connection, moving.state())
        if lost := max(state.differing, state.unmovable):
            raise ConceptRefused(
                f"{form.table} has {counted(lost, 'row')} with an id in {form.reference} that says something else than the "
                "columns; carry it back first"
            )
        _run(connection, reference_sql(form).down)


def _lock(connection: Connection, form: LevelColumns) -> None:
    _run(connection, f"LOCK TABLE {form.table} IN ACCESS EXCLUSIVE MODE")


def _run(connection: Connection, script: str) -> None:
    """Run statements that are made of a declaration, on connections of any kind."""
    drivers.run(connection, command(database.as_sql(script)))


@contextmanager
def _altering(connection: Connection, form: LevelColumns) -> Generator[None]:
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise ConceptRefused(
            f"changing {form.table} needs a connection with no transaction open; commit or roll back first"
        )
    try:
        with connection.transaction():
            # At a stricter level the rows would be looked at as they were before the lock was waited for.
            _run(connection, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            with _with(connection, "lock_timeout", _LOCK_TIMEOUT), _seeing_all(connection):
                yield
    except psycopg.errors.LockNotAvailable as error:
        raise ConceptRefused(
            f"{form.table} has been in use for {_LOCK_TIMEOUT}, and nothing was changed; run it again when it is not"
        ) from error
    except psycopg.errors.DependentObjectsStillExist as error:
        raise ConceptRefused(f"{sentence(error)}; {form.table} is as it was") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConceptRefused(f"{sentence(error)}; {form.table} is as it was; connect as its owner") from error


@contextmanager
def _with(connection: Connection, setting: str, value: str) -> Generator[None]:
    """Have a setting for a while, in the transaction that is open. An error undoes that, and the setting with it."""
    query = "SELECT pg_catalog.current_setting(%(name)s), pg_catalog.set_config(%(name)s, %(value)s, true)"

    def put(value: str) -> Statement[str]:
        return Statement(query, {"name": setting, "value": value}, lambda rows: str(rows[0][0]))

    before = drivers.run(connection, put(value))
    yield
    drivers.run(connection, put(before))


@contextmanager
def _seeing_all(connection: Connection) -> Generator[None]:
    """Fail where policies would hide rows from this role: what it does not see would be left out without a word."""
    with _with(connection, "row_security", "off"):
        yield


def _check_places(connection: Connection, form: LevelColumns) -> None:
    """Refuse a geography that does not fit the tables of places, which say what rows contradict themselves."""
    concept = form.geography.concept
    # Types are meant as in a declaration that is applied.
    with _with(connection, "search_path", "pg_catalog, pg_temp"):
        database.check_types(connection, concept)
        database.check_references(connection, concept, [concept])
        database.check_reads(connection, concept, [concept])


def _moving(connection: Connection, form: LevelColumns, otherwise: str) -> tuple[Moving, Source]:
    """Look at a table that has the column for the id; *otherwise* is what to say when it has not."""
    source = read_source(connection, form)
    if not source.has_reference:
        raise ConceptRefused(f"{form.table} has no column {form.reference}{otherwise}")
    return Moving(form, source.key), source


# -- the rows --


@attrs.frozen
class _Direction:
    """What is done with a batch, and to which rows."""

    action_type: str
    condition: str
    work: Callable[[Connection, Moving, Range], tuple[int, int]]
    """Returns how many rows were written, and how many locations made."""
    left: Callable[[State], int]
    """How many rows are still to be done."""


def backfill(trail: Trail, form: LevelColumns, *, batch: int = BATCH, progress: Progress | None = None) -> Moved:
    """Give each row that names places the id of their location, and make the locations that are missing.

    Every batch is an action and a transaction of its own. So it can be stopped at any time, by force too, and run again: it
    goes on with the rows that have no id. Several at once take turns. Rows that name no place are left alone, and so are
    those that have an id already, whatever their columns say: ``differing`` counts those that contradict it.

    Args:
        trail: whose actions the batches are; of a role that may write the table and that of locations.
        form: the table; the column for the id must be there.
        batch: rows of a batch.
        progress: called after each batch.

    Raises:
        ContradictoryLevels: a row names places that do not lie within each other. Nothing was written, unless the row came
            while this was running.
        ConceptRefused: the table or a column is not there, or not fit; or the geography does not fit the tables of places.
        SchemaNotReady: the role lacks a right, or the table of locations is not as declared.
        MisusedAction: an action is open, of which the batches would be a part.
        psycopg.Error: a batch failed, and did so again: a row is locked for long, or policies hide rows from this role.
            What was done before it stays.
        ValueError: *batch* is not positive.
    """
    _refuse_within_action(batch)
    with _reading(trail, form) as connection:
        moving, _ = _moving(connection, form, "; add it with add_reference()")
        _check_places(connection, form)
        _refuse_contradictions(connection, moving, Range())
        state = drivers.run(connection, moving.state())
    there = _Direction("backfill_locations", moving.waiting, _move, lambda state: state.waiting)
    return _in_batches(trail, moving, there, batch, total=state.waiting, progress=progress)


def carry_back(
    trail: Trail, form: LevelColumns, *, batch: int = BATCH, overwrite: bool = False, progress: Progress | None = None
) -> Moved:
    """Write the places of each row's location into its columns for levels: the reverse of :func:`backfill`.

    Safe to stop and to run again, like that. The ids stay; :func:`drop_reference` drops them.

    Args:
        trail: as for :func:`backfill`.
        form: the table.
        batch: rows of a batch.
        overwrite: whether to write over columns that name other places than the id does, too.
        progress: called after each batch.

    Raises:
        ConceptRefused: the location of a row is not there, or says what the columns cannot; or columns name other places,
            and *overwrite* is not given; or a column cannot be written. Nothing was written.
        SchemaNotReady, MisusedAction, psycopg.Error, ValueError: as for :func:`backfill`.
    """
    _refuse_within_action(batch)
    with _reading(trail, form) as connection:
        moving, source = _moving(connection, form, ", so there is nothing to carry back")
        if source.generated:
            raise ConceptRefused(f"{form.table}.{quoted(source.generated[0])} is generated, and cannot be written")
        state = drivers.run(connection, moving.state())
        if state.unmovable:
            raise ConceptRefused(
                f"{form.table} has {counted(state.unmovable, 'row')} that cannot be carried back: the location is not "
                "there, or names a place of a level that the table has no column for, or no place; give another location, "
                "or add the column"
            )
        if state.contested and not overwrite:
            raise ConceptRefused(
                f"{form.table} has {counted(state.contested, 'row')} with columns that name other places than the id does; "
                "if the ids are right, allow it with overwrite=True, or --overwrite"
            )
    held = f"s.{quoted(form.reference)} IS NOT NULL"
    back = _Direction("carry_locations_back", held, _carry, lambda state: state.differing)
    return _in_batches(trail, moving, back, batch, total=state.differing, progress=progress)


def _refuse_within_action(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch: expected a positive number of rows, got {batch}")
    try:
        open_action = current_action()
    except NoCurrentAction:
        return
    raise MisusedAction(
        f"the batches would be a part of the action {open_action.id}, and none of them would be kept if that fails; call "
        "this outside any action"
    )


@contextmanager
def _reading(trail: Trail, form: LevelColumns) -> Generator[Connection]:
    with (
        explained(form.geography.name),
        trail.connection() as connection,
        connection.transaction(),
        _seeing_all(connection),
    ):
        yield connection


def _move(connection: Connection, moving: Moving, rows: Range) -> tuple[int, int]:
    made = drivers.run(connection, moving.add(rows))
    # After that, because a row may have changed since the look at all of them. What was made is undone with the action.
    _refuse_contradictions(connection, moving, rows)
    masks = drivers.run(connection, moving.masks(rows))
    return sum(drivers.run(connection, moving.move(rows, given)) for given in masks), made


def _carry(connection: Connection, moving: Moving, rows: Range) -> tuple[int, int]:
    # For each row its location by key; the planner would rather read all locations for every batch.
    with _with(connection, "enable_hashjoin", "off"):
        return drivers.run(connection, moving.carry_back(rows)), 0


def _in_batches(
    trail: Trail, moving: Moving, way: _Direction, batch: int, *, total: int, progress: Progress | None
) -> Moved:
    moved = Moved(rows=0, locations=0, batches=0, left=total, differing=0)
    after: Key | None = None
    # Nothing to do is no batch, and no action.
    while total:
        done, made, after = _patiently(trail, moving, way, after, batch)
        moved = attrs.evolve(moved, rows=moved.rows + done, locations=moved.locations + made, batches=moved.batches + 1)
        if progress is not None:
            progress(min(moved.rows, total), total)
        if after is None:
            break
    with _reading(trail, moving.form) as connection:
        state = drivers.run(connection, moving.state())
    return attrs.evolve(moved, left=way.left(state), differing=state.differing)


def _patiently(
    trail: Trail, moving: Moving, way: _Direction, after: Key | None, size: int
) -> tuple[int, int, Key | None]:
    """Do one batch, again if what stood in its way may be gone by then."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(*_PASSING):
            return _batch(trail, moving, way, after, size)
    return _batch(trail, moving, way, after, size)


def _batch(trail: Trail, moving: Moving, way: _Direction, after: Key | None, size: int) -> tuple[int, int, Key | None]:
    """Do one batch, and return how much was done, and up to which key; ``None`` at the end of the table."""
    table = moving.form.table
    with trail.track_action(way.action_type, concept="table", entity_type="table", entity_id=table) as action:
        connection = action.connection
        # Two at once would make each other wait crosswise for rows. So the second waits here, and finds them done.
        drivers.run(connection, moving.alone(_LOCK_CLASS))
        with (
            explained(moving.form.geography.name),
            _with(connection, "lock_timeout", _LOCK_TIMEOUT),
            _seeing_all(connection),
        ):
            # By the primary key: of a column that was just added nothing is known, and the planner would sort all rows.
            with _with(connection, "enable_sort", "off"):
                upto = drivers.run(connection, moving.bound(way.condition, after, size))
            done, made = way.work(connection, moving, Range(after, upto))
        action.result = {"rows": done, "locations": made, "after": after, "upto": upto}
        return done, made, upto


def _refuse_contradictions(connection: Connection, moving: Moving, rows: Range) -> None:
    question = moving.contradictions(rows)
    found: list[Contradiction] = [] if question is None else drivers.run(connection, question)
    if found:
        rest = f" (and {counted(len(found) - 1, 'more contradiction')})" if len(found) > 1 else ""
        raise ContradictoryLevels(
            f"in {counted(found[0].rows, 'row')} of {moving.form.table} the levels contradict each other: {found[0]}{rest}; "
            "correct the rows or the tables of places, and run it again"
        )
