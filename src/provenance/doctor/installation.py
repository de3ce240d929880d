"""Whether the schema is there, of this version, and as it was made."""

from __future__ import annotations

from functools import partial

from provenance import schema
from provenance.doctor.differences import grouped
from provenance.doctor.findings import Check, Finding, Limits, Severity, unchecked
from provenance.drivers import SyncConnection, run
from provenance.errors import AS_OWNER, MigrationError
from provenance.schema import known_migrations
from provenance.schema.catalogue import OWNER
from provenance.statements import Rows, Statement
from provenance.statements.version import VERSION

_error = partial(Finding, check="schema", severity=Severity.ERROR, subject="schema provenance")


def fitting(connection: SyncConnection) -> tuple[bool, list[Finding]]:
    """Return whether the schema is one that can be looked at, and what is wrong with its version."""
    try:
        states = schema.status(connection)
    except MigrationError:
        return _fitting_by_version(run(connection, VERSION))
    problems = [
        _error(
            problem=state.problem,
            remedy="pip install --upgrade provenance-trail"
            if state.version > known_migrations()[-1].version
            else f"restore {state.version:04}_{state.name}.up.sql and .down.sql as released: pip install --force-reinstall "
            "provenance-trail",
        )
        for state in states
        if state.problem
    ]
    if not any(state.applied_at for state in states):
        return False, [_missing()]
    if waiting := [f"{state.version:04} ({state.name})" for state in states if not state.applied_at]:
        return False, [*problems, _behind(f"migrations are not applied: {', '.join(waiting)}")]
    return True, problems


def _missing() -> Finding:
    return _error(problem="is missing: nothing is recorded in this database", remedy="provenance migrate up")


def _behind(what: str) -> Finding:
    return _error(problem=f"is too old for this version of the library; {what}", remedy="provenance migrate up")


def _fitting_by_version(version: int | None) -> tuple[bool, list[Finding]]:
    """Judge by the version alone, for a role that may not read the ledger."""
    newest = known_migrations()[-1].version
    ledger = unchecked("schema", "whether the migrations that are applied are the released ones", AS_OWNER)
    if version is None:
        return False, [_missing()]
    if version < newest:
        return False, [_behind(f"it is at version {version}, and {newest} is needed"), ledger]
    if version > newest:
        problem = f"is at version {version}, and this version of the library knows {newest}"
        return True, [_error(problem=problem, remedy="pip install --upgrade provenance-trail"), ledger]
    return True, [ledger]


def _owner(rows: Rows) -> str:
    return str(rows[0][0])


_OWNER = Statement(f"SELECT quote_ident(pg_get_userbyid({OWNER}))", None, _owner)


def _differences(connection: SyncConnection, _: Limits) -> list[Finding]:
    return grouped(schema.verify(connection), run(connection, _OWNER))


DIFFERENCES = Check(
    name="schema",
    what="whether tables, triggers, functions and rights are as the migrations make them",
    needs=AS_OWNER,
    look=_differences,
)
