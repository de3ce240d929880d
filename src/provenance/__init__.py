"""An audit trail that tells the truth: one row in Postgres per state-changing operation."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provenance.changes import AsyncChangeRepository, ChangeRepository
    from provenance.configuration import configure, get_async_trail, get_trail
    from provenance.context import (
        extract,
        get_request_id,
        get_request_id_or_generate,
        inject,
        request_scope,
        set_actor,
    )
    from provenance.errors import (
        ActionNotPending,
        AlreadyDone,
        ArchiveBusy,
        ArchiveError,
        Held,
        IdempotencyConflict,
        IdempotencyKeyBusy,
        InvalidAction,
        InvalidRequestID,
        MigrationError,
        MisusedAction,
        NoCurrentAction,
        NoRequestScope,
        NotCaptured,
        NotCommitted,
        NotConfigured,
        ProvenanceError,
        SchemaNotReady,
        TableRefused,
        TrailUnavailable,
        UnserializableValue,
        WrongColour,
    )
    from provenance.ids import parse_request_id
    from provenance.journal import JournalHealth, Spool, Usage
    from provenance.models import (
        Action,
        ActionRef,
        ActionTree,
        Blame,
        ChainLink,
        ChangePage,
        Ending,
        EntityRef,
        Erasure,
        Growth,
        IndexUse,
        LegalHold,
        Operation,
        Page,
        Partition,
        Recovery,
        Refresh,
        RetentionPolicy,
        RowBlame,
        RowChange,
        Status,
        TableCoverage,
        TableRow,
        TableUpkeep,
        Truncated,
        Upkeep,
        ViewState,
    )
    from provenance.repository import ActionRepository, AsyncActionRepository
    from provenance.tracking import AsyncTrackedAction, TrackedAction, current_action, track_action
    from provenance.trail import AsyncTrail, Trail
    from provenance.values import Redactor

__version__ = "0.1.0.dev0"

__all__ = [
    "Action",
    "ActionNotPending",
    "ActionRef",
    "ActionRepository",
    "ActionTree",
    "AlreadyDone",
    "ArchiveBusy",
    "ArchiveError",
    "AsyncActionRepository",
    "AsyncChangeRepository",
    "AsyncTrackedAction",
    "AsyncTrail",
    "Blame",
    "ChainLink",
    "ChangePage",
    "ChangeRepository",
    "Ending",
    "EntityRef",
    "Erasure",
    "Growth",
    "Held",
    "IdempotencyConflict",
    "IdempotencyKeyBusy",
    "IndexUse",
    "InvalidAction",
    "InvalidRequestID",
    "JournalHealth",
    "LegalHold",
    "MigrationError",
    "MisusedAction",
    "NoCurrentAction",
    "NoRequestScope",
    "NotCaptured",
    "NotCommitted",
    "NotConfigured",
    "Operation",
    "Page",
    "Partition",
    "ProvenanceError",
    "Recovery",
    "Redactor",
    "Refresh",
    "RetentionPolicy",
    "RowBlame",
    "RowChange",
    "SchemaNotReady",
    "Spool",
    "Status",
    "TableCoverage",
    "TableRefused",
    "TableRow",
    "TableUpkeep",
    "TrackedAction",
    "Trail",
    "TrailUnavailable",
    "Truncated",
    "UnserializableValue",
    "Upkeep",
    "Usage",
    "ViewState",
    "WrongColour",
    "configure",
    "current_action",
    "extract",
    "get_async_trail",
    "get_request_id",
    "get_request_id_or_generate",
    "get_trail",
    "inject",
    "parse_request_id",
    "request_scope",
    "set_actor",
    "track_action",
]

_HOMES = {
    "changes": "AsyncChangeRepository ChangeRepository",
    "configuration": "configure get_async_trail get_trail",
    "context": "extract get_request_id get_request_id_or_generate inject request_scope set_actor",
    "errors": (
        "ActionNotPending AlreadyDone ArchiveBusy ArchiveError Held IdempotencyConflict IdempotencyKeyBusy InvalidAction "
        "InvalidRequestID MigrationError MisusedAction NoCurrentAction NoRequestScope NotCaptured NotCommitted "
        "NotConfigured ProvenanceError SchemaNotReady TableRefused TrailUnavailable UnserializableValue WrongColour"
    ),
    "ids": "parse_request_id",
    "journal": "JournalHealth Spool Usage",
    "models": (
        "Action ActionRef ActionTree Blame ChainLink ChangePage Ending EntityRef Erasure Growth IndexUse LegalHold "
        "Operation Page Partition Recovery Refresh RetentionPolicy RowBlame RowChange Status TableCoverage TableRow "
        "TableUpkeep Truncated Upkeep ViewState"
    ),
    "repository": "ActionRepository AsyncActionRepository",
    "tracking": "AsyncTrackedAction TrackedAction current_action track_action",
    "trail": "AsyncTrail Trail",
    "values": "Redactor",
}
"""The modules that the public names are imported from, when they are first asked for."""
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # pragma: no branch - a type checker is to know a misspelt name

    def __getattr__(name: str) -> object:
        """Import what is asked for when it is first asked for: a process waits for nothing that it does not use."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
