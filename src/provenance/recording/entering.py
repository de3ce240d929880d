"""What entering a block must do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus

from provenance import drivers
from provenance.drivers import AnyConnection
from provenance.errors import MisusedAction, ProvenanceError, TrailUnavailable, WrongColour
from provenance.models import Status
from provenance.recording import keys, owed
from provenance.recording.blocks import Block, Unit, unit_on
from provenance.recording.callers import Colour, owner_here
from provenance.recording.steps import Checkout, CheckSchema, Giveback, Intend, Journal, Run, Steps
from provenance.statements import Statement, commands, intents
from provenance.statements import recording as statements
from provenance.statements.intents import Transaction
from provenance.statements.keys import TAKEN, Claim
from provenance.statements.keys import claim as claim_key
from provenance.statements.recording import ActionRow, Settings


def enclosing_block(
    around: Block | None, *, host: object, colour: Colour, connection: AnyConnection | None
) -> Block | None:
    """Return the block in whose transaction a new one belongs, or ``None``.

    Only code of the same thread and task may share a connection: two tasks that interleave savepoints would record work
    that does not exist.

    Raises:
        MisusedAction: the connection belongs to an action that another task or thread has open.
        WrongColour: the enclosing block of this task is of the other colour, so its connection cannot be used.
    """
    if connection is not None:
        unit = unit_on(connection)
        if unit is None:
            return None
        if unit.owner != owner_here():
            raise MisusedAction(
                "this connection is inside an action that another task or thread has open; give each its own connection"
            )
        return unit.innermost
    # Work outside the database has no transaction; what is done inside it belongs to the one around it.
    while around is not None and around.unit is None:
        around = around.around
    if around is None or not around.open or around.unit is None or around.unit.owner != owner_here():
        return None
    if around.colour is not colour:
        raise WrongColour(
            f"`{colour.value}` inside an open `{around.colour.value}` of the same task would work on another connection "
            f"and commit apart from {around.label}; use `{around.colour.value}` here too, or pass connection="
        )
    # A block of another trail belongs in another database.
    return around.unit.innermost if around.host is host else None


def refuse_open_unit(connection: AnyConnection) -> None:
    """Refuse a connection that an open block is working on.

    Raises:
        MisusedAction: it is inside one.
    """
    if unit_on(connection) is not None:
        raise MisusedAction(
            "a begun action cannot be resumed on a connection that is inside an open action; leave connection= out, or give "
            "it another one"
        )


def enter(
    block: Block, *, connection: AnyConnection | None, transaction: bool, savepoint: bool, stamp: bool
) -> Steps[None]:
    """Open the block. Whatever it raises, the block is to be withdrawn then.

    Raises:
        TrailUnavailable: the database cannot be reached.
        SchemaNotReady: it has not been migrated.
        MisusedAction: the transaction to work in is not usable.
    """
    given = connection or (block.enclosing.unit.connection if block.enclosing and block.enclosing.unit else None)
    if given is not None and drivers.in_pipeline(given):
        raise MisusedAction(
            f"{block.label}: the connection is inside connection.pipeline(), where the state of its transaction is not "
            "known; open the pipeline inside the block instead"
        )
    if not transaction:
        yield from _enter_detached(block)
    elif block.enclosing is not None:
        yield from _enter_nested(block, block.enclosing, savepoint=savepoint, stamp=stamp)
    elif connection is None:
        yield from _enter_pooled(block)
    elif connection.autocommit and drivers.transaction_status(connection) == TransactionStatus.IDLE:
        yield from _enter_own(block, connection)
    else:
        yield from _enter_joined(block, connection)


def withdraw(block: Block, error: BaseException) -> Steps[None]:
    """Leave everything as it was before a block whose body has not run, since *error* struck while it was entered.

    Nobody is around it yet, so it may have struck anywhere: what has been done is seen by what there is.

    Raises:
        TrailUnavailable: to be raised instead of *error*, where it says that the connection does not work.
        IdempotencyKeyBusy: likewise, where it says that the key is taken.
        NotCommitted: it has turned out that the body of an inner block before this one ended the transaction.
    """
    unit = block.unit
    if block.enclosing is not None and unit is not None:
        yield from _withdraw_inner(block, unit, error)
    else:
        if unit is not None:
            # Of a connection that is lost the server undoes everything by itself.
            with suppress(psycopg.Error):
                yield from _undo(block, unit)
            unit.end()
        if block.borrowed is not None:
            yield Giveback(block, drivers.transaction_status(block.borrowed) != TransactionStatus.IDLE)
        block.close()
    if block.declared and not isinstance(error, (psycopg.Error, ProvenanceError)):
        # It may have been made durable that it is begun, and its key be taken, for a body that will not run.
        yield Journal((block.row(Status.FAILED, block.described(error)),))
    _refuse(block, error)


def _undo(block: Block, unit: Unit) -> Steps[None]:
    if unit.status == TransactionStatus.ACTIVE:
        # It was being waited for, and nobody will read the answer; the server rolls back.
        drivers.cut(unit.connection)
    elif block.savepoint is None:
        if unit.status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            yield Run(unit.connection, (statements.ROLLBACK,), insist=True)
    elif block.before is None:
        yield from _back_out(block, unit.connection)
    else:
        # The server has answered, so the savepoint is there and need not be asked for; and it is not to stay.
        yield Run(unit.connection, (statements.rollback_over(block.savepoint),))


def _withdraw_inner(block: Block, unit: Unit, error: BaseException) -> Steps[None]:
    applied = True
    with suppress(psycopg.Error):
        applied = yield from _back_out(block, unit.connection)
    if block in unit.open_blocks:
        unit.open_blocks.remove(block)
    block.close()
    if unit.owed and applied:
        owed.not_told(unit, error)
    elif unit.owed:
        owed.tell_before_next(unit)


def _enter_detached(block: Block) -> Steps[None]:
    yield CheckSchema(None)
    if not block.intended:
        return
    block.declared = True
    # One that waited would keep a connection of the journal's from everybody else.
    claim: Claim | None = yield Intend(block.evidence(None), block, *_claiming(block, may_wait=False))
    if claim is not None:
        keys.check(block, claim)


def _current(block: Block, *first: str) -> tuple[Statement[None], ...]:
    return statements.make(statements.settings_of(block.ref, block.tenant_id), *first)


def _claiming(block: Block, *, may_wait: bool) -> tuple[Statement[Claim], ...]:
    return () if block.key is None else (claim_key(block.row(Status.PENDING), block.key, may_wait=may_wait),)


def _last_words(block: Block, *, joined: bool) -> tuple[Statement[Any], ...]:
    """Claim the key, and ask which transaction this is, where that must be known."""
    claiming = _claiming(block, may_wait=True)
    if not block.intended:
        return claiming
    return *((intents.open_block(block.ref.id),) if joined else ()), *claiming, intents.CURRENT_TRANSACTION


def _begun(block: Block, answers: list[Any], *, joined: bool, standing: Sequence[ActionRow] = ()) -> Steps[None]:
    """See that the block has its key, and make durable that it is begun and in which transaction, which has its id by now.

    In the other order a crash could give the id to somebody else's transaction, which would then answer for this one.
    """
    transaction: Transaction | None = answers[-1] if block.intended else None
    if block.key is not None:
        keys.check(block, answers[-2] if transaction else answers[-1], standing)
    if transaction is None:
        return
    block.xid = transaction.xid
    if not block.resumed:
        block.declared = True
        yield Intend(block.evidence(transaction, joined=joined), block)


def _refuse_bytes(block: Block) -> NoReturn:
    raise MisusedAction(
        f"{block.label}: the connection's client_encoding is SQL_ASCII, so that no text can be read from it; connect "
        "with client_encoding=utf8"
    )


def _open_unit(block: Block, connection: AnyConnection, *, joined: bool) -> Unit:
    """Note what the block is about to use, so that it can be withdrawn from there."""
    block.unit = unit = Unit(connection=connection, outermost=block, owner=block.owner, joined=joined)
    return unit


def _entered(block: Block, unit: Unit) -> None:
    unit.open_blocks.append(block)
    drivers.hold(unit.connection, unit)


def _enter_pooled(block: Block) -> Steps[None]:
    connection: AnyConnection = yield Checkout(block)
    try:
        yield from _enter_own(block, connection)
    except (psycopg.Error, TrailUnavailable):
        # The server was restarted while the connection lay in the pool. With the transaction all went that had been done in
        # it; evidence of the action would not have gone.
        if block.xid is not None or drivers.transaction_status(connection) != TransactionStatus.UNKNOWN:
            raise
        yield Giveback(block, broken=True)
        connection = yield Checkout(block, checked=True)
        yield from _enter_own(block, connection)


def _enter_own(block: Block, connection: AnyConnection) -> Steps[None]:
    begin = statements.begin(block.level or connection.isolation_level, connection.read_only, connection.deferrable)
    if drivers.answers_bytes(connection):
        _refuse_bytes(block)
    if not (block.host.ready and block.borrowed is not None):
        yield CheckSchema(connection)
    unit = _open_unit(block, connection, joined=False)
    last_words = _last_words(block, joined=False)
    answers = yield Run(connection, (*_current(block, begin), *last_words))
    if last_words:
        yield from _begun(block, answers, joined=False)
    _entered(block, unit)


def _enter_joined(block: Block, connection: AnyConnection) -> Steps[None]:
    if drivers.transaction_status(connection) == TransactionStatus.INERROR:
        raise MisusedAction(
            f"{block.label}: the transaction of the given connection is aborted by an earlier error; roll it back first"
        )
    if drivers.answers_bytes(connection):
        _refuse_bytes(block)
    block.savepoint = block.ref.id
    opening = (
        commands(statements.savepoint(block.savepoint)),
        statements.READ_SETTINGS,
        *_current(block),
        *_last_words(block, joined=True),
    )
    unit = _open_unit(block, connection, joined=True)
    answers: list[Any] = []
    if not block.host.ready:
        # What is looked at decides how the rest is sent; within the savepoint, for it may fail.
        answers += yield Run(connection, opening[:1])
        yield CheckSchema(connection)
    answers += yield Run(connection, opening[len(answers) :])
    block.before = answers[1]
    yield CheckSchema(connection)
    yield from _begun(block, answers, joined=True)
    _entered(block, unit)


def _refuse(block: Block, error: BaseException) -> None:
    """Say in words of ours that the key is taken, or that the connection does not work; other errors go on as they are."""
    if isinstance(error, TAKEN) and block.key is not None:
        raise keys.busy(block) from error
    if (getattr(error, "sqlstate", None) or "").startswith("40"):
        return  # callers retry on these
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        raise TrailUnavailable(
            f"{block.label}: the connection is not usable ({type(error).__name__}: {error}); nothing has been done yet"
        ) from error


def _back_out(block: Block, connection: AnyConnection) -> Steps[bool]:
    """Leave the connection as it was after entering was interrupted; return whether its statements may have been run."""
    status = drivers.transaction_status(connection)
    if status == TransactionStatus.INERROR and block.savepoint is not None:
        yield Run(connection, (statements.rollback_to(block.savepoint),), insist=True)
    if status != TransactionStatus.INTRANS:
        return True
    settings: Settings
    (settings,) = yield Run(connection, (statements.READ_SETTINGS,), insist=True)
    if not settings.are_of(block.ref):
        return False
    if block.savepoint is not None:
        yield Run(connection, (statements.rollback_to(block.savepoint),), insist=True)
        return True
    assert block.enclosing is not None  # noqa: S101 - only an inner block may do without a savepoint
    yield Run(connection, _current(block.enclosing.nearest_marked), insist=True)
    return True


def _enter_nested(block: Block, enclosing: Block, *, savepoint: bool, stamp: bool) -> Steps[None]:
    unit = enclosing.unit
    assert unit is not None  # noqa: S101 - enclosing_block() returns blocks with a unit only
    if unit.meddled or unit.status != TransactionStatus.INTRANS:
        raise MisusedAction(
            f"{block.label}: the transaction of the enclosing {enclosing.label} is not usable any more: an error aborted "
            "it or the body ended it; let the enclosing block end first"
        )
    block.unit = unit
    last_words = _last_words(block, joined=unit.joined)
    if stamp or last_words:
        yield from _mark(block, enclosing, unit, last_words, savepoint=savepoint)
    else:
        # Nothing of it concerns the server.
        block.marked = False
    block.height = len(unit.standing)
    unit.open_blocks.append(block)


def _mark(
    block: Block, enclosing: Block, unit: Unit, last_words: tuple[Statement[Any], ...], *, savepoint: bool
) -> Steps[None]:
    """Have what is done from here on be the block's, as far as the server is concerned."""
    if last_words:
        # They may fail, and what the settings were before would not be known.
        yield from owed.tell(unit)
    drivers.nothing_before_next(unit.connection)
    if savepoint:
        block.savepoint = block.ref.id
    first = (statements.savepoint(block.savepoint),) if block.savepoint else ()
    answers = yield Run(
        unit.connection, (statements.READ_SETTINGS, *owed.words(unit), *_current(block, *first), *last_words)
    )
    settings: Settings = answers[0]
    if not settings.block and not unit.owed:
        unit.meddle(enclosing, f"the body of {enclosing.label} ended its transaction and began another")
        raise MisusedAction(f"{block.label}: {enclosing.doomed}; let the enclosing block end first")
    block.before = owed.told(unit, settings)
    if last_words:
        yield from _begun(block, answers, joined=unit.joined, standing=unit.standing)
