"""Performs the steps of an operation, in either colour."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import GeneratorType
from typing import Any, TypeVar, cast

from provenance.recording import Step, Steps

logger = logging.getLogger("provenance")

T = TypeVar("T")


def drive(steps: Steps[T], perform: Callable[[Step], Any]) -> T:
    """Perform the steps of an operation, blocking.

    Ctrl-C in a step that must not be lost is raised only when the operation is over.
    """
    interruption: BaseException | None = None
    resume: Callable[[Any], Step] = steps.send
    value: Any = None
    while True:
        try:
            step = resume(value)
            while True:
                try:
                    answer = perform(step)
                except BaseException as error:  # noqa: BLE001 - the operation decides what an error means
                    if step.insist and interruption is None and not isinstance(error, Exception):
                        interruption = error
                    else:
                        step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as stop:
            if interruption is not None:
                raise interruption from None
            result: T = stop.value
            return result
        except BaseException as error:
            if not _over(steps):
                # It struck here, before or after a step: for the operation it is an interruption of that step.
                resume, value = steps.throw, error
            elif interruption is not None and isinstance(error, Exception):
                raise interruption from error
            else:
                raise


def _over(steps: Steps[Any]) -> bool:
    return inspect.getgeneratorstate(cast("GeneratorType[Any, Any, Any]", steps)) == inspect.GEN_CLOSED


async def adrive(steps: Steps[T], perform: Callable[[Step], Awaitable[Any]], step: Step | None = None) -> T:
    """Perform the steps of an operation, from *step* on if it has begun.

    Once it is cancelled, the rest of it is shielded from further cancellation, and the cancellation is raised when it is
    over.
    """
    try:
        step = step or next(steps)
        while True:
            try:
                answer = await perform(step)
            except asyncio.CancelledError as cancellation:
                if not step.insist:
                    step = steps.throw(cancellation)
                try:
                    await shielded(adrive(steps, perform, step))
                except Exception as error:
                    raise cancellation from error
                raise
            except BaseException as error:  # noqa: BLE001 - the operation decides what an error means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def shielded(work: Awaitable[T]) -> T:
    """Await *work* to its end in a task of its own; a cancellation that arrives meanwhile is raised afterwards.

    Each step has a deadline, so the end comes.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.warning("provenance: %s after a cancellation", type(failure).__name__)
        raise cancelled
    return task.result()
