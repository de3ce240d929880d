"""``track_action``: the two colours of a tracked block."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar, cast, get_args
from uuid import UUID

import psycopg
from psycopg import IsolationLevel

from provenance import ids, recording
from provenance.context import current_frame, innermost_action, live_frame, set_innermost_action
from provenance.drivers import AnyConnection
from provenance.errors import InvalidAction, MisusedAction, NotConfigured, WrongColour
from provenance.models import Action, ActionRef, Status
from provenance.recording import ActionSpec, Block, Colour, Steps
from provenance.statements.intents import Intent
from provenance.statements.recording import ActionRow
from provenance.tracking.driving import adrive, drive, shielded
from provenance.tracking.handles import ActionHandle, AsyncTrackedAction, TrackedAction
from provenance.tracking.hosts import AsyncHost, Durability, Host, default_host
from provenance.values import Identifier, identifier, names, to_json

logger = logging.getLogger("provenance")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


Parent = Action | ActionRef | TrackedAction | AsyncTrackedAction | UUID
"""What ``parent=`` takes. A bare UUID has its tree looked up when the row is written; the others know it."""


def _parent_ref(parent: Parent) -> ActionRef | UUID:
    if isinstance(parent, ActionRef):
        return parent
    return parent.ref if isinstance(parent, (Action, ActionHandle)) else ids.as_action_id(parent, "parent")


def check_colour(connection: AnyConnection, colour: Colour) -> None:
    """Refuse a connection that belongs to the other colour."""
    if isinstance(connection, psycopg.Connection) != (colour is Colour.SYNC):
        raise WrongColour(
            f"`{colour.value}` was given a connection of the other colour; "
            "psycopg.Connection goes with `with`, psycopg.AsyncConnection with `async with`"
        )


def _check_connection(connection: object, *, transaction: bool) -> None:
    if not transaction:
        raise InvalidAction("transaction=False holds no connection; leave connection= out")
    if not isinstance(connection, (psycopg.Connection, psycopg.AsyncConnection)):
        raise InvalidAction(
            f"connection: expected a psycopg connection, got {type(connection).__name__}; with SQLAlchemy, pass "
            "session.connection().connection.driver_connection"
        )


def _log_unrecorded(block: Block, error: Exception) -> None:
    # Where it happened without what was said: the messages, of the body's exception too, may quote rows.
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error(
        "provenance: recording the failure of %s failed (%s) at\n%s", block.label, type(error).__name__, frames
    )


class track_action:
    """Record what a block does as one row: completed only if its work committed, failed durably though it rolled back.

    Use it with ``with``, ``async with``, or as a decorator of functions and generators of either colour. By default the
    block gets a connection and a transaction of its own; inside another block of the same task and thread it becomes a
    child in that block's transaction, with a savepoint; with ``connection=`` it joins the transaction open there.

    Args:
        action_type: what is done, at most 100 characters: ``"link_zman"``.
        concept: the domain noun it is done to, at most 100 characters: ``"zman"``.
        entity_type: the kind of row it is about, at most 100 characters.
        entity_id: which one: text, int or UUID. May be set on the handle later.
        payload: the input: anything with a JSON form. Secret-looking keys are hidden.
        metadata: a mapping of whatever else is worth keeping.
        user_id: who does it, instead of the request's user.
        tenant_id: for which tenant, instead of the request's.
        request_id: under which request, instead of the current one: a UUID or a text :func:`parse_request_id` accepts.
        parent: which action caused it, instead of the enclosing one. Of a bare id the tree is looked up among recorded
            actions; to hang a child below one that is still open, pass the action itself or its ``ref``.
        connection: a psycopg connection to work on. If it has a transaction open, or autocommit off, its transaction is
            joined and never committed or rolled back here; an idle one in autocommit mode gets a transaction.
        transaction: ``False`` for work outside Postgres: no connection is held, and the row is written at the end.
        savepoint: ``False`` makes an inner block do without: then its failure dooms the enclosing block.
        stamp: ``False`` makes an inner block do without a round trip of its own: what it changes is stamped and captured as
            the enclosing action's, and its failure dooms the enclosing block. Of no effect together with an idempotency key
            or ``durability="intent"``.
        durability: ``"intent"`` makes durable that the action is begun before its body runs, at the cost of a small
            transaction of its own: whatever then ends the process, ``provenance recover`` finds out what became of the
            action. With ``"atomic"`` an action is known of once its outcome is recorded. Left out, it is as the trail says.
        idempotency_key: text, an int or a UUID that the caller chose for this piece of work: of several actions of one type
            and tenant with the same key, one is done. The key is part of the transaction: rolled back with the work, it is
            free again. An action outside Postgres with a key is always declared, as with ``durability="intent"``.

    Raises:
        InvalidAction: an argument is empty, too long or of the wrong kind.
        InvalidRequestID: *request_id* is a text of no accepted form.
        UnserializableValue: on entering, *payload* or *metadata* has no JSON form.
        NotConfigured: on entering, there is no trail of this colour.
        TrailUnavailable: on entering, the database cannot be reached.
        SchemaNotReady: on entering, the database has not been migrated.
        AlreadyDone: on entering, the work of *idempotency_key* is done, with the same input; holds its result.
        IdempotencyConflict: on entering, *idempotency_key* was used with another input.
        IdempotencyKeyBusy: on entering, another action holds *idempotency_key* and has no outcome yet.
        MisusedAction: on entering, this object or the connection is in use elsewhere.
        WrongColour: on entering, the enclosing block or the connection is of the other colour.
        NotCommitted: on leaving, the body returned normally but its work is not committed.
    """

    _host: ClassVar[Any] = None
    _level: IsolationLevel | None = None

    def __init__(
        self,
        action_type: str,
        *,
        concept: str,
        entity_type: str | None = None,
        entity_id: Identifier | None = None,
        payload: object = None,
        metadata: Mapping[str, object] | None = None,
        user_id: Identifier | None = None,
        tenant_id: Identifier | None = None,
        request_id: UUID | str | None = None,
        parent: Parent | None = None,
        connection: AnyConnection | None = None,
        transaction: bool = True,
        savepoint: bool = True,
        stamp: bool = True,
        durability: Durability | None = None,
        idempotency_key: Identifier | None = None,
    ) -> None:
        action_type, concept, entity_type = names(action_type, concept, entity_type)
        self._spec = ActionSpec(
            action_type=action_type,
            concept=concept,
            entity_type=entity_type,
            entity_id=identifier(entity_id, "entity_id"),
            user_id=None if user_id is None else identifier(user_id, "user_id"),
            tenant_id=None if tenant_id is None else identifier(tenant_id, "tenant_id"),
            request_id=None if request_id is None else ids.as_request_id(request_id),
        )
        if metadata is not None and not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidAction(f"metadata: expected a mapping, got {type(metadata).__name__}")
        if durability is not None and durability not in get_args(Durability):
            raise InvalidAction(f'durability: expected "atomic" or "intent", not {durability!r}')
        if connection is not None:
            _check_connection(connection, transaction=transaction)
        self._payload = payload
        self._metadata = metadata
        self._parent = None if parent is None else _parent_ref(parent)
        self._connection = connection
        self._transaction = transaction
        self._savepoint = savepoint
        self._stamp = stamp
        self._durability = durability
        self._key = None if idempotency_key is None else identifier(idempotency_key, "idempotency_key")
        self._intent: Intent | None = None

    @classmethod
    def resuming(cls, intent: Intent, connection: AnyConnection | None) -> track_action:
        """Return a block that goes on with an action begun elsewhere; see ``Trail.resume``."""
        block = cls(intent.action_type, concept=intent.concept, connection=connection)
        block._intent = intent
        return block

    # -- entering and leaving, as far as both colours agree --

    def _reserve(self, colour: Colour) -> tuple[Block, Steps[None]]:
        """Make the block, without I/O, and reserve this object for it; return also what entering it takes."""
        host = self._host or default_host(colour)
        if host.colour is not colour:
            raise NotConfigured(
                f"this track_action belongs to a trail of the other colour; use `{host.colour.value}` with it"
            )
        if self._connection is not None:
            check_colour(self._connection, colour)
        block = self._prepare(host)
        # In one step, so that of two threads one is refused. A lock would be held while the payload is converted, which
        # runs code of the caller's.
        reserved: object = vars(self).setdefault("_block", block)
        if reserved is not block:
            raise MisusedAction(
                f"track_action({self._spec.action_type!r}): this object is open already; call track_action() anew "
                "for every block"
            )
        return block, recording.enter(
            block,
            connection=self._connection,
            transaction=self._transaction,
            savepoint=self._savepoint,
            stamp=self._stamp,
        )

    def pending_row(self) -> ActionRow:
        """Return the row of an action of a trail's own ``track_action`` that has begun and has no outcome yet; no I/O."""
        return self._prepare(self._host).row(Status.PENDING)

    def _prepare(self, host: Host | AsyncHost) -> Block:
        """Return the block that entering now would open; no I/O."""
        colour, redactor = host.colour, host.redactor
        if self._intent is not None:
            if self._connection is not None:
                recording.refuse_open_unit(self._connection)
            return Block.resuming(self._intent, host=host, colour=colour, frame=live_frame())
        frame = current_frame()
        metadata = self._metadata
        if frame is not None and frame.closed:
            metadata = {**(metadata or {}), "originated_by": {"request_id": frame.request_id}}
            frame = None
        found = innermost_action()
        if found is not None:
            found = recording.live_action(found)
        around = found if isinstance(found, Block) else None
        # After its request is over, code may still run in its context: what it does is not part of that request.
        if around is not None and around.frame is not None and around.frame.closed:
            around = None
        enclosing = (
            recording.enclosing_block(around, host=host, colour=colour, connection=self._connection)
            if self._transaction and (around is not None or self._connection is not None)
            else None
        )
        # The innermost block on the connection is not the parent when it is a generator that is suspended meanwhile.
        shared = enclosing is not None and around is not None and around.unit in (enclosing.unit, None)
        nearest = around if shared or enclosing is None else enclosing
        block = Block(
            self._spec,
            host=host,
            colour=colour,
            frame=frame,
            around=nearest,
            parent=self._parent or (nearest.ref if nearest else frame.parent if frame else None),
            payload=None
            if self._payload is None
            else to_json(self._payload, redactor, what="payload", captured=redactor.captured(self._spec.action_type)),
            metadata=None if metadata is None else to_json(metadata, redactor, what="metadata"),
            intended=(self._durability or host.durability) == "intent"
            or (self._key is not None and not self._transaction),
            key=self._key,
        )
        block.enclosing = enclosing
        block.level = self._level
        return block

    def at(self, level: IsolationLevel) -> track_action:
        """Have a transaction of the block's own be at *level*, whatever the connection is set to; return the block."""
        self._level = level
        return self

    def _let_go(self) -> None:
        """Make this object free for another block; what is to be done about one that nobody has left is done later."""
        block: Block | None = vars(self).get("_block")
        if block is None:
            return
        if block.unfinished:
            recording.cut_off(block)
            block.host.abandoned.append(block)
        block.close()
        vars(self).pop("_block", None)

    def _entered(self) -> Block:
        block: Block | None = vars(self).get("_block")
        if block is None:
            raise MisusedAction(f"track_action({self._spec.action_type!r}): left without having been entered")
        return block

    def __del__(self) -> None:
        # An exception that a signal handler raises may hit between the end of the body and the first line of __exit__; then
        # nobody leaves the block any more. This may run anywhere.
        self._let_go()

    # -- with --

    def __enter__(self) -> TrackedAction:
        block, entering = self._reserve(Colour.SYNC)
        try:
            drive(entering, block.host.perform)
            action = TrackedAction(block, block.host.redactor)
            set_innermost_action(block)
            block.handle = action
        except BaseException as error:
            try:
                drive(recording.withdraw(block, error), block.host.perform)
            finally:
                self._let_go()
            raise
        return action

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        block = self._entered()
        try:
            try:
                block.suspend()
                drive(recording.leave(block, exc), block.host.perform)
            except BaseException as stroke:
                if block.unfinished:
                    drive(recording.cut_short(block, exc, stroke), block.host.perform)
                raise
        except Exception as error:
            if exc is None:
                raise
            # The body's own exception goes on, whatever happened to its row.
            _log_unrecorded(block, error)
        finally:
            self._let_go()

    # -- async with --

    async def __aenter__(self) -> AsyncTrackedAction:
        block, entering = self._reserve(Colour.ASYNC)
        try:
            await adrive(entering, block.host.perform)
            action = AsyncTrackedAction(block, block.host.redactor)
            set_innermost_action(block)
            block.handle = action
        except BaseException as error:
            try:
                await shielded(adrive(recording.withdraw(block, error), block.host.perform))
            finally:
                self._let_go()
            raise
        return action

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        block = self._entered()
        try:
            try:
                block.suspend()
                leaving = adrive(recording.leave(block, exc), block.host.perform)
                # After an exception the task may be cancelled already, and would be again at every await.
                await (leaving if exc is None else shielded(leaving))
            except BaseException as stroke:
                if block.unfinished:
                    await shielded(adrive(recording.cut_short(block, exc, stroke), block.host.perform))
                raise
        except Exception as error:
            if exc is None:
                raise
            _log_unrecorded(block, error)
        finally:
            self._let_go()

    # -- decorator --

    def _again(self) -> track_action:
        """Return a block like this one that nobody has entered."""
        again = copy.copy(self)
        vars(again).pop("_block", None)
        return again

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Track every call of *function*; of a generator function, the whole iteration."""
        if self._key is not None:
            raise InvalidAction(
                "idempotency_key: a decorator would use one key for all calls; open a block in the function instead"
            )
        if isinstance(function, (staticmethod, classmethod, property)):
            raise InvalidAction(
                f"track_action() was put above @{type(cast('object', function)).__name__}; put it below, next to the "
                "function"
            )
        if inspect.isasyncgenfunction(function):
            decorated: Any = self._around_async_generator(function)
        elif inspect.iscoroutinefunction(function):
            decorated = self._around_coroutine(function)
        elif inspect.isgeneratorfunction(function):
            decorated = self._around_generator(function)
        else:
            decorated = self._around_function(function)
        return cast("Callable[P, R]", functools.wraps(function)(decorated))

    def _around_function(self, function: Callable[..., T]) -> Callable[..., T]:
        def tracked(*args: Any, **kwargs: Any) -> T:
            with self._again():
                answer = function(*args, **kwargs)
                # By its type: a proxy may do anything when it is asked for an attribute.
                if hasattr(type(answer), "__await__"):
                    if inspect.iscoroutine(answer):
                        answer.close()
                    raise WrongColour(
                        f"{getattr(function, '__qualname__', 'the function')} returned an awaitable, whose work would "
                        "run after the action has ended; decorate an `async def` function instead"
                    )
                return answer

        return tracked

    def _around_coroutine(self, function: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def tracked(*args: Any, **kwargs: Any) -> T:
            async with self._again():
                return await function(*args, **kwargs)

        return tracked

    def _around_generator(self, function: Callable[..., Generator[T, Any, Any]]) -> Callable[..., Any]:
        def tracked(*args: Any, **kwargs: Any) -> Generator[T, Any, Any]:
            with (block := self._again()):
                inner = function(*args, **kwargs)
                resume: Callable[[], T] = functools.partial(next, inner)
                while True:
                    try:
                        item = resume()
                    except StopIteration as stop:
                        return stop.value
                    # Between two items the consumer runs, and what it does is not part of this action.
                    run = block._suspended()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        run.resume()
                        inner.close()
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator to handle
                        run.resume()
                        resume = functools.partial(inner.throw, error)
                    else:
                        run.resume()
                        resume = functools.partial(inner.send, sent)

        return tracked

    def _around_async_generator(self, function: Callable[..., AsyncGenerator[T, Any]]) -> Callable[..., Any]:
        async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[T, Any]:
            async with (block := self._again()):
                inner = function(*args, **kwargs)
                resume: Callable[[], Awaitable[T]] = inner.__anext__
                while True:
                    try:
                        item = await resume()
                    except StopAsyncIteration:
                        return
                    run = block._suspended()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        run.resume()
                        await inner.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, for the generator to handle
                        run.resume()
                        resume = functools.partial(inner.athrow, error)
                    else:
                        run.resume()
                        resume = functools.partial(inner.asend, sent)

        return tracked

    def _suspended(self) -> Block:
        block = self._entered()
        block.suspend()
        return block


def bound(host: Host | AsyncHost) -> type[track_action]:
    """Return a ``track_action`` that records into *host* instead of the default trail."""
    return type("track_action", (track_action,), {"_host": host, "__doc__": track_action.__doc__})
