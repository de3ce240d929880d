"""Looks at all there is to look at, one check after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import psycopg
from psycopg import errors

from provenance.doctor import (
    clocks,
    indexes,
    installation,
    intents,
    keys,
    orphans,
    partitions,
    rights,
    roles,
    server,
    settings,
    tables,
)
from provenance.doctor import spools as spool_checks
from provenance.doctor.findings import Check, Finding, Limits, NotSeen, unchecked
from provenance.drivers import SyncConnection, run
from provenance.errors import NotConfigured
from provenance.schema.catalogue import PRINTED_ALIKE
from provenance.statements import Statement, command, truth

_CHECKS = (
    installation.DIFFERENCES,
    partitions.MISPLACED,
    partitions.MISSING,
    partitions.OUT_OF_PLACE,
    roles.POWERFUL,
    roles.READING,
    rights.RIGHTS,
    settings.HINDERING,
    tables.BROKEN,
    tables.UNTRACKED,
    tables.UNSTAMPED,
    intents.BACKLOG,
    orphans.ORPHANS,
    keys.KEYS,
    clocks.CLOCKS,
    indexes.INDEXES,
    server.DURABILITY,
    settings.WAITING,
    server.TRANSACTIONS,
    server.VACUUM,
)

CHECKS = (*dict.fromkeys(check.name for check in _CHECKS), "spool")
"""The names of the families of checks, in the order in which they are done."""

# Nothing is written, nobody is waited for, and whatever takes long is given up. Names come out qualified.
_CAREFULLY = command(
    "SET LOCAL transaction_read_only = on; SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '1s'; "
    f"{PRINTED_ALIKE}; SET LOCAL search_path = pg_catalog, pg_temp"
)

_SEES_ALL = Statement(
    """SELECT NOT row_security_active('provenance.actions')
           OR EXISTS (SELECT FROM provenance.readers r WHERE r.tenant_id IS NULL)""",
    None,
    truth,
)


def diagnose(
    connection: psycopg.Connection[object],
    spools: Iterable[str | os.PathLike[str]] = (),
    *,
    skip: Sequence[str] = (),
    limits: Limits | None = None,
) -> list[Finding]:
    """Say whether the audit trail of a database can be relied on: everything that deviates, each with a remedy.

    Reads only, in transactions of its own, or in savepoints of the caller's; gives up what takes longer than ten seconds.
    What the role may not look at is among the findings, as unchecked.

    Args:
        connection: to the database, as the owner of the schema; as a reader it tells less.
        spools: directories on this machine where rows may wait.
        skip: names of checks that shall not be done.
        limits: how far to look, and from where on something is too much.

    Returns:
        What was found, and what could not be looked at.

    Raises:
        NotConfigured: *skip* names something that is no check.
        psycopg.Error: the connection is not usable.
    """
    if unknown := [name for name in skip if name not in CHECKS]:
        raise NotConfigured(f"skip: there is no check {unknown[0]}; there are {', '.join(CHECKS)}")
    found: list[Finding] = []
    with connection.transaction(force_rollback=True):
        run(connection, _CAREFULLY)
        fits, version = installation.fitting(connection)
    if "schema" not in skip:
        found += version
    wanted = [check for check in _CHECKS if check.name not in skip]
    for check in wanted:
        if fits or not check.of_trail:
            found += _done(connection, check, limits or Limits())
    if not fits and (left := dict.fromkeys(check.name for check in wanted if check.of_trail)):
        found.append(unchecked("schema", ", ".join(left), "provenance migrate up"))
    if "spool" not in skip:
        found += [finding for directory in spools for finding in spool_checks.examined(directory)]
    return found


def _done(connection: SyncConnection, check: Check, limits: Limits) -> list[Finding]:
    try:
        # Rolled back, so that the settings do not outlive it in a transaction of the caller's.
        with connection.transaction(force_rollback=True):
            run(connection, _CAREFULLY)
            if check.of_rows and not run(connection, _SEES_ALL):
                raise NotSeen  # noqa: TRY301
            return list(check.look(connection, limits))
    except (NotSeen, errors.InsufficientPrivilege):
        return [unchecked(check.name, check.what, check.needs)]
    except (errors.QueryCanceled, errors.LockNotAvailable):
        return [
            unchecked(check.name, f"{check.what}; it took too long", "run this again when the database is less busy")
        ]
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction):
        return [unchecked(check.name, f"{check.what}; a part of the schema is missing", "put the schema right first")]
