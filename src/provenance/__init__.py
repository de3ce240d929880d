"""An audit trail that tells the truth: one row in Postgres per state-changing operation."""

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
    InvalidAction,
    InvalidRequestID,
    MigrationError,
    MisusedAction,
    NoCurrentAction,
    NoRequestScope,
    NotCommitted,
    NotConfigured,
    ProvenanceError,
    SchemaNotReady,
    TrailUnavailable,
    UnserializableValue,
    WrongColour,
)
from provenance.ids import parse_request_id
from provenance.models import Action, ActionRef, ActionTree, ChainLink, EntityRef, Page, Status
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
    "AsyncActionRepository",
    "AsyncTrackedAction",
    "AsyncTrail",
    "ChainLink",
    "EntityRef",
    "InvalidAction",
    "InvalidRequestID",
    "MigrationError",
    "MisusedAction",
    "NoCurrentAction",
    "NoRequestScope",
    "NotCommitted",
    "NotConfigured",
    "Page",
    "ProvenanceError",
    "Redactor",
    "SchemaNotReady",
    "Status",
    "TrackedAction",
    "Trail",
    "TrailUnavailable",
    "UnserializableValue",
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
