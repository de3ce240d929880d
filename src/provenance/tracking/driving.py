"""Performs the steps of an operation, in either colour."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from provenance.recording import Step, Steps

logger = logging.getLogger("provenance")

T = TypeVar("T")


def drive(steps: Steps[T], perform: Callable[[Step], Any]) -> T:
    """Perform the steps of an operation, blocking."""
    try:
        step = next(steps)
        while True:
            try:
                answer = perform(step)
            except BaseException as error:  # noqa: BLE001 - the operation decides what an interruption means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as stop:
        return cast("T", stop.value)


async def adrive(steps: Steps[T], perform: Callable[[Step], Awaitable[Any]], step: Step | None = None) -> T:
    """Perform the steps of an operation; once interrupted, the rest of it is shielded from further cancellation."""
    try:
        step = step or next(steps)
        while True:
            try:
                answer = await perform(step)
            except asyncio.CancelledError as error:
                step = steps.throw(error)
                return await shielded(adrive(steps, perform, step))
            except BaseException as error:  # noqa: BLE001 - the operation decides what an interruption means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as stop:
        return cast("T", stop.value)


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
