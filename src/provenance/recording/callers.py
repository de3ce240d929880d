"""Who runs a block, and what was said of its action."""

from __future__ import annotations

import os
import threading
from asyncio import Task, current_task
from enum import Enum
from typing import Any
from uuid import UUID

import attrs


class Colour(Enum):
    """Whether a block waits by blocking or by ``await``."""

    SYNC = "with"
    ASYNC = "async with"


Owner = tuple[int, int, "Task[Any] | None"]


def owner_here() -> Owner:
    """Return who is running: a process, a thread and, inside asyncio, a task.

    A process that was forked inside a block has its thread and its context, and must not touch its connection.
    """
    try:
        task = current_task()
    except RuntimeError:
        task = None
    return os.getpid(), threading.get_ident(), task


# Not frozen, as little as a row: setting a field of a frozen instance is a call of its own.
@attrs.define(kw_only=True)
class ActionSpec:
    """What the caller said about an action, checked."""

    action_type: str
    concept: str
    entity_type: str | None = None
    entity_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    request_id: UUID | None = None


def inherit(spec: ActionSpec, outer: ActionSpec) -> ActionSpec:
    """Return what holds of an action inside another one: what the outer one was told explicitly, too."""
    return ActionSpec(
        action_type=spec.action_type,
        concept=spec.concept,
        entity_type=spec.entity_type,
        entity_id=spec.entity_id,
        user_id=spec.user_id or outer.user_id,
        tenant_id=spec.tenant_id or outer.tenant_id,
        request_id=spec.request_id or outer.request_id,
    )
