"""``track_action`` as a decorator, and generators with a block inside."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from starlette.concurrency import iterate_in_threadpool

import provenance
from provenance import Trail, current_action, request_scope, track_action
from provenance.errors import MisusedAction, NoCurrentAction, NotCommitted, NotConfigured, ProvenanceError, WrongColour
from provenance.testing import RecordedActions
from provenance.trail import AsyncTrail
from tests.support import databases

T = TypeVar("T")

recycler = databases.recycler
provenance_dsn = databases.provenance_dsn
eye = databases.eye

INSERT = "INSERT INTO work (id) VALUES (%s)"


@pytest.fixture(autouse=True)
def _configured(trail: Trail) -> None:
    """Every test here uses the module-level decorator."""


def present(eye: psycopg.Connection[Any]) -> list[int]:
    """Return the work that is committed."""
    return [row[0] for row in eye.execute("SELECT id FROM work ORDER BY id").fetchall()]


def insert(number: int) -> None:
    """Do work in the current action."""
    action = current_action()
    assert isinstance(action, provenance.TrackedAction)
    action.connection.execute(INSERT, (number,))


async def ainsert(number: int) -> None:
    """Do work in the current action."""
    action = current_action()
    assert isinstance(action, provenance.AsyncTrackedAction)
    await action.connection.execute(INSERT, (number,))


def in_a_loop(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function, and close the trail that it used in its own loop."""

    async def run() -> T:
        async with provenance.get_async_trail():
            return await main()

    return asyncio.run(run())


def outside_any_action() -> bool:
    with suppress(NoCurrentAction):
        current_action()
        return False
    return True


# --- Functions -------------------------------------------------------------------------------------------------------


@track_action("double", concept="work", entity_type="number", payload={"by": 2})
def double(number: int, *, fail: bool = False) -> int:
    """Double a number."""
    insert(number)
    if fail:
        raise LookupError("told to")
    action = current_action()
    action.entity_id = number
    action.result = number * 2
    return number * 2


def test_function(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """A call is an action."""
    assert 6 == double(3)
    assert outside_any_action()
    row = recorded_actions.one()
    assert ("double", "completed", "number", "3", {"by": 2}, 6, [3]) == (
        row.action_type,
        row.status,
        row.entity_type,
        row.entity_id,
        row.payload,
        row.result,
        present(eye),
    )


def test_function_that_raises(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """The error comes out, the work is undone."""
    with pytest.raises(LookupError, match="told to"):
        double(3, fail=True)
    row = recorded_actions.one()
    assert ("failed", "LookupError", []) == (row.status, row.error_type, present(eye))


def test_recursive_function(recorded_actions: RecordedActions) -> None:
    """Each call is an action of its own, inside the one that made it."""

    @track_action("descend", concept="work")
    def descend(depth: int) -> int:
        return 0 if depth == 0 else 1 + descend(depth - 1)

    assert 2 == descend(2)
    recorded_actions.expect("""
        descend completed
          descend completed
            descend completed
    """)


def test_function_called_from_many_threads(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """The decorator holds no state that calls could share."""
    numbers = list(range(16))
    with ThreadPoolExecutor(8) as threads:
        assert [number * 2 for number in numbers] == list(threads.map(double, numbers))
    assert [(str(number), number * 2) for number in numbers] == sorted(
        ((row.entity_id, row.result) for row in recorded_actions.all()), key=lambda pair: int(pair[0] or -1)
    )
    assert numbers == present(eye)


def test_coroutine_function(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """A call, awaited, is an action; calls at the same time are separate."""

    @track_action("double", concept="work")
    async def adouble(number: int) -> int:
        await ainsert(number)
        current_action().entity_id = number
        if number == 2:
            raise LookupError("two")
        return number * 2

    async def main() -> list[int | BaseException]:
        return await asyncio.gather(*map(adouble, (1, 2, 3)), return_exceptions=True)

    answers = in_a_loop(main)
    assert (2, LookupError, 6) == (answers[0], type(answers[1]), answers[2])
    assert [("1", "completed"), ("2", "failed"), ("3", "completed")] == sorted(
        (row.entity_id or "", row.status.value) for row in recorded_actions.all()
    )
    assert [1, 3] == present(eye)


def test_coroutine_that_is_never_awaited(recorded_actions: RecordedActions) -> None:
    """Nothing has begun, so nothing is recorded."""

    @track_action("double", concept="work")
    async def adouble() -> None:
        pytest.fail("ran")

    adouble().close()
    assert "" == recorded_actions.outline()


def _coroutine() -> Awaitable[int]:
    async def answer() -> int:
        return pytest.fail("ran")

    return answer()


def _future() -> Awaitable[int]:
    return asyncio.get_running_loop().create_future()


class _Awaitable:
    def __await__(self) -> Generator[Any, None, int]:
        yield
        return 1


@pytest.mark.parametrize("make", [_coroutine, _future, _Awaitable])
def test_plain_function_that_returns_an_awaitable(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any], make: Callable[[], Awaitable[int]]
) -> None:
    """Its work would run after the action has ended, so it is refused, named, and what it did is undone."""

    @track_action("double", concept="work")
    def later() -> Awaitable[int]:
        insert(1)
        return make()

    async def main() -> None:
        with pytest.raises(WrongColour, match=r"later returned an awaitable"):
            later()

    asyncio.run(main())
    gc.collect()
    row = recorded_actions.one()
    assert ("failed", "provenance.errors.WrongColour", []) == (row.status, row.error_type, present(eye))


class Service:
    """Has methods of every kind."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @track_action("method", concept="work")
    def method(self, number: int) -> int:
        return self.factor * number

    @classmethod
    @track_action("class_method", concept="work")
    def class_method(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @staticmethod
    @track_action("static_method", concept="work")
    def static_method(number: int) -> int:
        return number

    @property
    @track_action("property", concept="work")
    def tracked_property(self) -> int:
        return self.factor

    @track_action("generator_method", concept="work")
    def generator_method(self) -> Iterator[int]:
        yield self.factor

    @track_action("async_method", concept="work")
    async def async_method(self) -> int:
        return self.factor


def test_methods(recorded_actions: RecordedActions) -> None:
    """They are bound as methods are."""
    service = Service(2)
    assert (6, 6) == (service.method(3), Service.method(service, 3))
    assert ("Service 1", "Service 1") == (service.class_method(1), Service.class_method(1))
    assert (5, 5) == (service.static_method(5), Service.static_method(5))
    assert (2, [2], 2) == (
        service.tracked_property,
        list(service.generator_method()),
        in_a_loop(service.async_method),
    )
    names = [row.action_type for row in recorded_actions.all()]
    assert [
        *["method"] * 2,
        *["class_method"] * 2,
        *["static_method"] * 2,
        "property",
        "generator_method",
        "async_method",
    ] == names


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_above_staticmethod_or_classmethod(kind: Any) -> None:
    """The wrong order is refused where it is written, not at the first call."""
    with pytest.raises((ProvenanceError, TypeError), match=kind.__name__):
        track_action("static", concept="work")(kind(lambda number: number))


def test_partial_functions(recorded_actions: RecordedActions) -> None:
    """A partial is tracked as what it stands for."""

    async def coroutine(number: int) -> int:
        return number

    def generator(number: int) -> Iterator[int]:
        yield number

    async def async_generator(number: int) -> AsyncIterator[int]:
        yield number

    track = track_action("partial", concept="work")

    async def main() -> tuple[int, list[int]]:
        tracked = track(functools.partial(async_generator, 3))
        return await track(functools.partial(coroutine, 1))(), [item async for item in tracked()]

    assert (1, [3]) == in_a_loop(main)
    assert [2] == list(track(functools.partial(generator, 2))())
    assert ["completed"] * 3 == [row.status for row in recorded_actions.all()]


def test_metadata_of_the_function() -> None:
    """Name, documentation, signature and kind are those of the function."""

    @track_action("x", concept="work")
    async def coroutine(a: int, *, b: str = "c") -> None:
        """Do it."""

    @track_action("x", concept="work")
    def generator() -> Iterator[int]:
        yield 1

    @track_action("x", concept="work")
    async def async_generator() -> AsyncIterator[int]:
        yield 1

    assert ("double", "Double a number.", __name__) == (double.__name__, double.__doc__, double.__module__)
    assert "(number: 'int', *, fail: 'bool' = False) -> 'int'" == str(inspect.signature(double))
    assert "(a: 'int', *, b: 'str' = 'c') -> 'None'" == str(inspect.signature(coroutine))
    assert ["double", "coroutine", "generator", "async_generator"] == [
        function.__wrapped__.__name__  # type: ignore[attr-defined]
        for function in (double, coroutine, generator, async_generator)
    ]
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    assert [
        [False, False, False],
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ] == [[kind(function) for kind in kinds] for function in (double, coroutine, generator, async_generator)]


def test_decorator_of_a_trail(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """``trail.track_action`` decorates too, and records into that trail."""
    with Trail(provenance_dsn) as other:

        @other.track_action("add", concept="work")
        def add() -> str:
            action = current_action()
            assert isinstance(action, provenance.TrackedAction)
            return action.connection.info.dbname

        assert psycopg.conninfo.conninfo_to_dict(provenance_dsn)["dbname"] == add()
    assert "add completed" == recorded_actions.outline()


def test_the_trail_is_looked_up_when_called(provenance_dsn: str, recorded_actions: RecordedActions) -> None:
    """Modules that decorate are imported before the application is configured."""

    @track_action("add", concept="work")
    def add() -> None:
        pass

    sync, asynchronous = provenance.get_trail(), provenance.get_async_trail()
    for colour in provenance.recording.Colour:  # type: ignore[attr-defined]
        provenance.tracking.set_default_host(colour, None)  # type: ignore[attr-defined]
    with pytest.raises(NotConfigured, match=r"provenance\.configure"):
        add()
    for host in (sync, asynchronous):
        provenance.tracking.set_default_host(host.colour, host)  # type: ignore[attr-defined]
    add()
    assert "add completed" == recorded_actions.outline()


# --- Generators ------------------------------------------------------------------------------------------------------


@track_action("count", concept="work")
def count(*, upto: int = 3, fail_at: int | None = None) -> Generator[int, str | None, str]:
    """Insert and yield numbers; be told something in between; return what was told."""
    told = []
    for number in range(1, upto + 1):
        if number == fail_at:
            raise LookupError(number)
        insert(number)
        try:
            told.append((yield number) or "")
        except ArithmeticError as error:
            told.append(type(error).__name__)
    return " ".join(told)


def test_generator_is_tracked_over_its_iteration(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """One action, from the first item to the end; between the items it is not the current one."""
    numbers = count()
    assert "" == recorded_actions.outline()
    for number in numbers:
        assert outside_any_action()
        assert ("", []) == (recorded_actions.outline(), present(eye)), number
    assert ("count completed", [1, 2, 3]) == (recorded_actions.outline(), present(eye))


def test_generator_that_is_never_started(recorded_actions: RecordedActions) -> None:
    """Nothing has begun, so nothing is recorded."""
    numbers = count()
    del numbers
    count().close()
    assert "" == recorded_actions.outline()


def test_sending_throwing_and_returning(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """send(), a throw() that the generator handles, and its return value all get through."""

    def delegate() -> Generator[int, str | None, str]:
        return (yield from count())

    numbers = delegate()
    assert 1 == next(numbers)
    assert 2 == numbers.send("hello")
    assert 3 == numbers.throw(ZeroDivisionError())
    with pytest.raises(StopIteration) as stopped:
        numbers.send("bye")
    assert "hello ZeroDivisionError bye" == stopped.value.value
    assert ("count completed", [1, 2, 3]) == (recorded_actions.outline(), present(eye))


def test_throwing_what_the_generator_does_not_handle(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """It fails with what was thrown in, which comes out again."""
    numbers, error = count(), KeyError("thrown in")
    next(numbers)
    with pytest.raises(KeyError) as caught:
        numbers.throw(error)
    assert caught.value is error
    row = recorded_actions.one()
    assert ("failed", "KeyError", []) == (row.status, row.error_type, present(eye))


def test_generator_that_raises(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """What it has yielded is yielded; what it has written is undone."""
    seen = []
    with pytest.raises(LookupError):
        for number in count(fail_at=3):
            seen.append(number)  # noqa: PERF402 - the loop is what is tested
    row = recorded_actions.one()
    assert ([1, 2], "failed", "LookupError", []) == (seen, row.status, row.error_type, present(eye))


def _close(numbers: Generator[int, Any, Any]) -> None:
    numbers.close()


def _break(numbers: Generator[int, Any, Any]) -> None:
    for _ in numbers:
        break


def _drop(numbers: Generator[int, Any, Any]) -> None:
    next(numbers)


@pytest.mark.parametrize("leave", [_close, _break, _drop])
def test_generator_that_is_left_early(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any], leave: Callable[[Any], None]
) -> None:
    """It has not done what it set out to do: the action fails, and its work is undone."""
    numbers = count()
    assert 1 == next(numbers)
    leave(numbers)
    del numbers
    gc.collect()
    row = recorded_actions.one()
    assert ("failed", "GeneratorExit", []) == (row.status, row.error_type, present(eye))
    assert outside_any_action()


def test_generator_that_tidies_up_when_left(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Its own finally runs inside the action."""
    tidied = []

    @track_action("tidy", concept="work")
    def tidy() -> Iterator[int]:
        try:
            yield 1
        finally:
            tidied.append(current_action().id)

    with closing(tidy()) as numbers:  # type: ignore[type-var]
        next(numbers)
    assert [recorded_actions.one().id] == tidied


def test_actions_inside_a_generator_are_its_children(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Before and after every item."""

    @track_action("outer", concept="work")
    def generator() -> Iterator[int]:
        for number in (1, 2):
            double(number)
            yield number
        double(3)

    assert [1, 2] == list(generator())
    recorded_actions.expect("""
        outer completed
          double completed
          double completed
          double completed
    """)
    assert [1, 2, 3] == present(eye)


def test_actions_of_the_consumer_are_its_own(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """What the consumer does between two items commits on its own, even when the generator fails."""
    with pytest.raises(LookupError):
        for number in count(fail_at=3):
            double(number * 10)
    assert [("count", "failed", None), ("double", "completed", None), ("double", "completed", None)] == [
        (row.action_type, row.status, row.parent_action_id) for row in recorded_actions.all()
    ]
    assert [10, 20] == present(eye)


def test_generator_outside_the_database(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """It has no transaction to hand over between the items, and its consumer's actions are no part of it either."""

    @track_action("letters", concept="work", transaction=False)
    def letters() -> Generator[int]:
        for number in (1, 2):
            double(number)
            yield number

    for number in letters():
        assert outside_any_action()
        double(number * 10)
    recorded_actions.expect("""
        letters completed
          double completed
          double completed
        double completed
        double completed
    """)
    assert [1, 2, 10, 20] == present(eye)


def test_actions_of_the_consumer_inside_a_block(recorded_actions: RecordedActions) -> None:
    """Inside another block they are children of that block, as the generator is."""
    with track_action("outer", concept="work"):
        for number in count(upto=2):
            double(number * 10)
    recorded_actions.expect("""
        outer completed
          count completed
          double completed
          double completed
    """)


def test_generator_resumed_inside_another_action(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A generator begun outside goes on in its own transaction, whatever is open where it is resumed."""
    numbers = count(upto=2)
    next(numbers)
    with suppress(KeyError), track_action("consumer", concept="work") as consumer:
        assert [2] == list(numbers)
        assert current_action() is consumer
        insert(10)
        raise KeyError("x")
    assert {("count", "completed", None), ("consumer", "failed", None)} == {
        (row.action_type, row.status, row.parent_action_id) for row in recorded_actions.all()
    }
    assert [1, 2] == present(eye)


def test_interleaved_generators_are_separate(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Outside any block each has a transaction of its own."""

    @track_action("numbers", concept="work")
    def numbers(first: int) -> Iterator[int]:
        for number in (first, first + 1):
            insert(number)
            yield number

    left, right = numbers(1), numbers(10)
    assert [1, 10, 2, 11] == [next(left), next(right), next(left), next(right)]
    with suppress(StopIteration):
        next(left)
    assert [1, 2] == present(eye)
    with suppress(StopIteration):
        next(right)
    assert [1, 2, 10, 11] == present(eye)
    assert "numbers completed\nnumbers completed" == recorded_actions.outline()


def test_interleaved_generators_inside_a_block(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """Inside a block they would have to interleave savepoints: refused, and nothing untrue is recorded."""

    @track_action("numbers", concept="work")
    def numbers(first: int) -> Iterator[int]:
        for number in (first, first + 1):
            insert(number)
            yield number

    with pytest.raises(NotCommitted, match="still open at its end"), track_action("outer", concept="work"):
        for _ in zip(numbers(1), numbers(10), strict=True):
            pass
    gc.collect()
    assert {"failed"} == {row.status for row in recorded_actions.all()}
    assert [] == present(eye)


@pytest.mark.parametrize("autocommit", [True, False])
def test_generator_that_outlives_its_enclosing_block(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any], autocommit: bool
) -> None:
    """The enclosing block cannot commit its work, and it gets no connection for more, which is somebody else's by then."""
    with (
        ConnectionPool(
            provenance_dsn, min_size=1, max_size=1, timeout=5, open=True, kwargs={"autocommit": autocommit}
        ) as pool,
        Trail(pool) as trail,
    ):

        @trail.track_action("count", concept="work")
        def numbers() -> Iterator[int]:
            for number in (1, 2):
                insert(number)
                yield number

        with pytest.raises(NotCommitted, match="still open at its end"), trail.track_action("outer", concept="work"):
            outliving = numbers()
            next(outliving)
        with suppress(MisusedAction, NotCommitted):
            next(outliving)
        with trail.track_action("next", concept="work"):
            insert(3)
    assert {("outer", "failed"), ("count", "failed"), ("next", "completed")} == {
        (row.action_type, row.status.value) for row in recorded_actions.all()
    }
    assert [3] == present(eye)


# --- In other threads and Contexts -----------------------------------------------------------------------------------


def undecorated(*, fail_at: int | None = None) -> Iterator[int]:
    """Have a block inside, as people write it."""
    with track_action("count", concept="work") as action:
        for number in (1, 2, 3):
            if number == fail_at:
                raise LookupError(number)
            action.connection.execute(INSERT, (number,))
            yield number


def in_copied_contexts(numbers: Iterator[int]) -> Iterator[int]:
    """Iterate with a Context of its own for every item."""
    with suppress(StopIteration):
        while True:
            yield contextvars.copy_context().run(next, numbers)


def in_new_threads(numbers: Iterator[int]) -> Iterator[int]:
    """Iterate with a thread of its own for every item."""
    over = object()
    while True:
        found: list[Any] = []
        context = contextvars.copy_context()

        def step(found: list[Any] = found, context: contextvars.Context = context) -> None:
            try:
                found.append(context.run(next, numbers, over))
            except LookupError as error:
                found.append(error)

        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        if found[0] is over:
            return
        yield found[0]


def as_starlette_does(numbers: Iterator[int]) -> Iterator[int]:
    """Iterate as Starlette sends a streaming body."""

    async def main() -> list[int]:
        return [number async for number in iterate_in_threadpool(numbers)]

    yield from asyncio.run(main())


@pytest.mark.parametrize("iterate", [in_copied_contexts, in_new_threads, as_starlette_does])
@pytest.mark.parametrize("generator", [count, undecorated])
@pytest.mark.parametrize("fail_at", [None, 3])
def test_iterated_elsewhere(
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    iterate: Callable[[Iterator[int]], Iterator[int]],
    *,
    generator: Callable[..., Iterator[int]],
    fail_at: int | None,
) -> None:
    """Entered in one Context and left in another, a block still writes its row, and no Context keeps a trace of it."""
    with request_scope(user_id="ann"):
        with suppress(LookupError):
            assert [1, 2, 3] == list(iterate(generator(fail_at=fail_at)))
        assert outside_any_action()
        double(10)
    row = recorded_actions.one(action_type="count")
    expected = ("completed", [1, 2, 3, 10]) if fail_at is None else ("failed", [10])
    assert (*expected, "ann") == (row.status, present(eye), row.user_id)
    assert recorded_actions.one(action_type="double").parent_action_id is None


@pytest.mark.parametrize("iterate", [in_copied_contexts, in_new_threads])
def test_left_early_elsewhere(
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    iterate: Callable[[Iterator[int]], Iterator[int]],
) -> None:
    """An undecorated generator that is closed elsewhere than it was begun fails as any other."""
    numbers = undecorated()
    for _ in iterate(numbers):
        break
    thread = threading.Thread(target=numbers.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    row = recorded_actions.one()
    assert ("failed", "GeneratorExit", []) == (row.status, row.error_type, present(eye))


def test_actions_inside_a_generator_that_moves(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """The block moves with its generator: what is done inside is its child in every thread."""

    @track_action("outer", concept="work")
    def generator() -> Iterator[int]:
        for number in (1, 2):
            double(number)
            yield number

    assert [1, 2] == list(in_new_threads(generator()))
    recorded_actions.expect("""
        outer completed
          double completed
          double completed
    """)
    assert [1, 2] == present(eye)


# --- Asynchronous generators -----------------------------------------------------------------------------------------


@track_action("count", concept="work")
async def acount(*, upto: int = 3, fail_at: int | None = None) -> AsyncGenerator[int, str | None]:
    """Insert and yield numbers; be told something in between, and store it."""
    told = []
    for number in range(1, upto + 1):
        if number == fail_at:
            raise LookupError(number)
        await ainsert(number)
        try:
            told.append((yield number) or "")
        except ArithmeticError as error:
            told.append(type(error).__name__)
    current_action().result = " ".join(told)


def test_async_generator(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """One action over the whole iteration; between the items it is not the current one."""

    async def main() -> list[int]:
        seen = []
        async for number in acount():
            assert outside_any_action()
            seen.append(number)
        return seen

    assert [1, 2, 3] == in_a_loop(main)
    assert ("count completed", [1, 2, 3]) == (recorded_actions.outline(), present(eye))


def test_async_generator_that_raises(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """The error comes out where the next item was asked for."""

    async def main() -> list[int]:
        seen = []
        with pytest.raises(LookupError):
            async for number in acount(fail_at=3):
                seen.append(number)  # noqa: PERF401 - the loop is what is tested
        return seen

    assert [1, 2] == in_a_loop(main)
    row = recorded_actions.one()
    assert ("failed", "LookupError", []) == (row.status, row.error_type, present(eye))


def test_async_generator_driven_by_other_tasks(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """asend() and a handled athrow() from a task each; the action stays one."""

    async def in_a_task(work: Any) -> Any:
        async def run() -> Any:
            return await work

        return await asyncio.create_task(run())

    async def main() -> list[int]:
        numbers = acount()
        seen = [
            await in_a_task(anext(numbers)),
            await in_a_task(numbers.asend("hello")),
            await in_a_task(numbers.athrow(ZeroDivisionError())),
        ]
        with pytest.raises(StopAsyncIteration):
            await in_a_task(numbers.asend("bye"))
        assert outside_any_action()
        return seen

    assert [1, 2, 3] == in_a_loop(main)
    row = recorded_actions.one()
    assert ("completed", "hello ZeroDivisionError bye", [1, 2, 3]) == (row.status, row.result, present(eye))


async def _aclose(numbers: AsyncGenerator[int, Any]) -> None:
    await anext(numbers)
    await numbers.aclose()


async def _aclose_in_a_task(numbers: AsyncGenerator[int, Any]) -> None:
    await anext(numbers)
    await asyncio.create_task(_finish(numbers))


async def _finish(numbers: AsyncGenerator[int, Any]) -> None:
    await numbers.aclose()


async def _aclosing(numbers: AsyncGenerator[int, Any]) -> None:
    async with aclosing(numbers):
        async for _ in numbers:
            break


@pytest.mark.parametrize("leave", [_aclose, _aclose_in_a_task, _aclosing])
def test_async_generator_that_is_left_early(
    recorded_actions: RecordedActions,
    eye: psycopg.Connection[Any],
    leave: Callable[[AsyncGenerator[int, Any]], Awaitable[None]],
) -> None:
    """The action fails and its work is undone, whichever task closes the generator."""

    async def main() -> None:
        await leave(acount())
        assert outside_any_action()
        assert "count failed" == recorded_actions.outline()

    in_a_loop(main)
    row = recorded_actions.one()
    assert ("failed", "GeneratorExit", []) == (row.status, row.error_type, present(eye))


def test_async_generator_that_is_dropped(recorded_actions: RecordedActions, eye: psycopg.Connection[Any]) -> None:
    """asyncio closes what nobody closed, and the row is there."""

    async def main() -> None:
        async for _ in acount():
            break
        gc.collect()
        async with asyncio.timeout(10):
            while recorded_actions.outline() != "count failed":  # noqa: ASYNC110 - a row cannot set an event
                await asyncio.sleep(0.005)

    in_a_loop(main)
    assert [] == present(eye)


def test_consumer_of_an_async_generator_is_cancelled(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Cancelled while the generator works, it fails as cancelled."""

    @track_action("wait", concept="work")
    async def wait(begun: asyncio.Event) -> AsyncIterator[int]:
        await ainsert(1)
        yield 1
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        begun = asyncio.Event()

        async def consume() -> None:
            async for _ in wait(begun):
                pass

        task = asyncio.create_task(consume())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_a_loop(main)
    row = recorded_actions.one()
    assert ("failed", "asyncio.exceptions.CancelledError", []) == (row.status, row.error_type, present(eye))


def test_actions_of_an_async_consumer_are_its_own(
    recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """Between two items the consumer is outside the generator's action, inside it again at the next."""

    @track_action("add", concept="work")
    async def add(number: int) -> None:
        await ainsert(number)

    @track_action("outer", concept="work")
    async def generator() -> AsyncIterator[int]:
        for number in (1, 2):
            await add(number)
            yield number
        raise LookupError

    async def main() -> None:
        with suppress(LookupError):
            async for number in generator():
                await add(number * 10)

    in_a_loop(main)
    recorded_actions.expect("""
        outer failed
          add rolled_back
          add rolled_back
        add completed
        add completed
    """)
    assert [10, 20] == present(eye)


def test_undecorated_async_generator_in_other_tasks(
    provenance_dsn: str, recorded_actions: RecordedActions, eye: psycopg.Connection[Any]
) -> None:
    """A block inside, entered by one task and left by another, still writes its row."""

    async def main() -> None:
        async with AsyncTrail(provenance_dsn) as trail:

            async def generator() -> AsyncIterator[int]:
                async with trail.track_action("count", concept="work") as action:
                    for number in (1, 2):
                        await action.connection.execute(INSERT, (number,))
                        yield number

            numbers = generator()
            with suppress(StopAsyncIteration):
                while True:
                    await asyncio.create_task(_next(numbers))
            assert outside_any_action()

    asyncio.run(main())
    assert ("count completed", [1, 2]) == (recorded_actions.outline(), present(eye))


async def _next(numbers: AsyncIterator[int]) -> int:
    return await anext(numbers)
