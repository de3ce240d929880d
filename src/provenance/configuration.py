"""The trail that module-level ``track_action`` records into."""

from __future__ import annotations

from typing import Any, overload

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from provenance import tracking
from provenance.errors import NotConfigured
from provenance.recording import Colour
from provenance.setting_up import OnUnavailable, SpoolOrPath
from provenance.tracking.hosts import Durability
from provenance.trail import AsyncTrail, Trail
from provenance.values import Redactor


@overload
def configure(
    conninfo: str,
    *,
    journal: str | None = ...,
    redactor: Redactor | None = ...,
    max_size: int = ...,
    spool: SpoolOrPath | None = ...,
    on_unavailable: OnUnavailable = ...,
    durability: Durability = ...,
) -> Trail: ...
@overload
def configure(
    *,
    pool: ConnectionPool[Any],
    async_pool: AsyncConnectionPool[Any] | None = ...,
    journal: str | None = ...,
    redactor: Redactor | None = ...,
    spool: SpoolOrPath | None = ...,
    on_unavailable: OnUnavailable = ...,
    durability: Durability = ...,
) -> Trail: ...
@overload
def configure(
    *,
    async_pool: AsyncConnectionPool[Any],
    journal: str | None = ...,
    redactor: Redactor | None = ...,
    spool: SpoolOrPath | None = ...,
    on_unavailable: OnUnavailable = ...,
    durability: Durability = ...,
) -> AsyncTrail: ...
def configure(
    conninfo: str | None = None,
    *,
    pool: ConnectionPool[Any] | None = None,
    async_pool: AsyncConnectionPool[Any] | None = None,
    journal: str | None = None,
    redactor: Redactor | None = None,
    max_size: int = 10,
    spool: SpoolOrPath | None = None,
    on_unavailable: OnUnavailable = "spool",
    durability: Durability = "atomic",
) -> Trail | AsyncTrail:
    """Set up what module-level ``track_action`` records into. Call it once, when the application starts.

    Give either an address, and both colours get a pool of their own, made when first used; or the pools the application
    has, of one colour or both.

    Args:
        conninfo: a conninfo string or URL: ``"postgresql:///app"``.
        pool: the application's pool, for ``with track_action``.
        async_pool: the application's pool, for ``async with track_action``.
        journal: as for :class:`Trail`.
        redactor: as for :class:`Trail`.
        max_size: of each pool made here.
        spool: as for :class:`Trail`.
        on_unavailable: as for :class:`Trail`.
        durability: as for :class:`Trail`.

    Returns:
        The trail; the asynchronous one when only *async_pool* is given. :func:`get_trail` and :func:`get_async_trail`
        return either later.

    Raises:
        NotConfigured: neither an address nor a pool is given, or both are; or as for :class:`Trail`.
    """
    if (conninfo is None) == (pool is None and async_pool is None):
        raise NotConfigured("configure() takes either an address or the pools of the application")
    trail = async_trail = None
    if (for_sync := pool or conninfo) is not None:
        trail = Trail(
            for_sync,
            journal=journal,
            redactor=redactor,
            max_size=max_size,
            spool=spool,
            on_unavailable=on_unavailable,
            durability=durability,
        )
    if (for_async := async_pool or conninfo) is not None:
        async_trail = AsyncTrail(
            for_async,
            journal=journal,
            redactor=redactor,
            max_size=max_size,
            spool=spool,
            on_unavailable=on_unavailable,
            durability=durability,
        )
    tracking.set_default_host(Colour.SYNC, trail)
    tracking.set_default_host(Colour.ASYNC, async_trail)
    configured = trail or async_trail
    assert configured is not None  # noqa: S101 - one of the two was given
    return configured


def get_trail() -> Trail:
    """Return the trail that ``with track_action`` records into.

    Raises:
        NotConfigured: there is none.
    """
    trail: Trail = tracking.default_host(Colour.SYNC)
    return trail


def get_async_trail() -> AsyncTrail:
    """Return the trail that ``async with track_action`` records into.

    Raises:
        NotConfigured: there is none.
    """
    trail: AsyncTrail = tracking.default_host(Colour.ASYNC)
    return trail
