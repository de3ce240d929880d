"""The statements that write the trail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import LiteralString
from uuid import UUID

import attrs
from psycopg import IsolationLevel, sql

from provenance.ids import as_text
from provenance.models import ActionRef
from provenance.statements import Rows, Statement, command, commands, nothing, truth

BEGIN = command("BEGIN")
COMMIT = command("COMMIT")
ROLLBACK = command("ROLLBACK")

_ISOLATION: dict[IsolationLevel, LiteralString] = {
    IsolationLevel.READ_UNCOMMITTED: "ISOLATION LEVEL READ UNCOMMITTED",
    IsolationLevel.READ_COMMITTED: "ISOLATION LEVEL READ COMMITTED",
    IsolationLevel.REPEATABLE_READ: "ISOLATION LEVEL REPEATABLE READ",
    IsolationLevel.SERIALIZABLE: "ISOLATION LEVEL SERIALIZABLE",
}

# The transaction-local settings. action_id is what triggers and column defaults read, and SQL may change it: a function may
# begin an action of its own. block is ours: the id, the root and the tenant of the innermost tracked block. done is the
# number of the last inner block that finished and has not been undone since.
_ACTION: LiteralString = "provenance.action_id"
_BLOCK: LiteralString = "provenance.block"
_DONE: LiteralString = "provenance.done"

# Nothing in it ends a literal, and an empty one is one.
_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9_.:@+ -]*", re.ASCII).fullmatch


def _setting(name: LiteralString, value: str) -> Statement[None]:
    """Set something until the transaction, or the savepoint around this, ends. SET takes no parameters."""
    if _NEEDS_NO_QUOTING(value):
        # Composing takes psycopg ten times as long.
        return command(f"SET LOCAL {name} = '{value}'".encode())
    return command(sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), sql.Literal(value)))


@cache
def begin(isolation: IsolationLevel | None, read_only: bool | None, deferrable: bool | None) -> LiteralString:
    """Return the command that opens a transaction as a connection says; ``None`` leaves a choice to the server."""
    words: list[LiteralString] = ["BEGIN"]
    if isolation is not None:
        words.append(_ISOLATION[isolation])
    if read_only is not None:
        words.append("READ ONLY" if read_only else "READ WRITE")
    if deferrable is not None:
        words.append("DEFERRABLE" if deferrable else "NOT DEFERRABLE")
    return " ".join(words)


_LENGTH_OF_ID = 36


@attrs.define
class Settings:
    """The transaction-local settings as the server has them; one that nobody has made is empty. Never changed."""

    action: str = ""
    """The id of the current action."""
    block: str = ""
    """The ids of the innermost tracked block and of its root, and its tenant."""
    done: int = 0

    def are_of(self, ref: ActionRef) -> bool:
        """Return whether that is the innermost tracked block."""
        return self.block[:_LENGTH_OF_ID] == as_text(ref.id)


def settings_of(ref: ActionRef, tenant_id: str) -> Settings:
    """Return the settings that make a tracked block the innermost one, and its action the current one."""
    action_id = as_text(ref.id)
    root_id = action_id if ref.root_id is ref.id else as_text(ref.root_id)
    return Settings(action_id, f"{action_id} {root_id} {tenant_id}")


def make(settings: Settings, *first: str) -> tuple[Statement[None], ...]:
    """Set the action and the block until the transaction, or the savepoint around this, ends.

    Args:
        settings: what to set.
        first: commands without values to be run before that.
    """
    if _NEEDS_NO_QUOTING(settings.block) and _NEEDS_NO_QUOTING(settings.action):
        both = f"SET LOCAL {_ACTION} = '{settings.action}'", f"SET LOCAL {_BLOCK} = '{settings.block}'"
        return (commands(*first, *both),)
    return *map(commands, first), _setting(_ACTION, settings.action), _setting(_BLOCK, settings.block)


def done(ordinal: int) -> str:
    """Return the command that notes that the inner block with this number has finished."""
    return f"SET LOCAL {_DONE} = '{ordinal}'"


def savepoint(action_id: UUID) -> str:
    """Return the command that sets the savepoint of an action."""
    return f"SAVEPOINT provenance_{action_id.hex}"


def release(action_id: UUID) -> str:
    """Return the command that keeps what has been done since the savepoint of an action."""
    return f"RELEASE SAVEPOINT provenance_{action_id.hex}"


def _rollback_to(action_id: UUID) -> str:
    return f"ROLLBACK TO SAVEPOINT provenance_{action_id.hex}"


def rollback_to(action_id: UUID) -> Statement[None]:
    """Undo what has been done since the savepoint of an action."""
    return commands(_rollback_to(action_id))


def rollback_over(action_id: UUID) -> Statement[None]:
    """Undo what has been done since the savepoint of an action, and drop the savepoint."""
    return commands(_rollback_to(action_id), release(action_id))


def _settings(rows: Rows) -> Settings:
    action, block, ordinal = rows[0]
    return Settings(action or "", block or "", int(ordinal or 0))


READ_SETTINGS = Statement(
    "SELECT current_setting('provenance.action_id', true), current_setting('provenance.block', true), "
    "current_setting('provenance.done', true)",
    None,
    _settings,
)


@attrs.define(kw_only=True)
class ActionRow:
    """A row on its way into ``provenance.actions``. Bodies are JSON text, times are ISO 8601 text.

    Never changed. It is not frozen, for setting a field of a frozen instance is a call of its own.
    """

    id: UUID
    root_id: UUID | None
    """``None``: the parent is known by its bare id, and the database looks its root up."""
    parent_action_id: UUID | None
    action_type: str
    concept: str
    status: str
    tenant_id: str
    user_id: str | None
    request_id: UUID | None
    correlation_id: str | None
    entity_type: str | None
    entity_id: str | None
    payload: str | None
    result: str | None
    metadata: str | None
    error_type: str | None
    error_code: str | None
    error_message: str | None
    started_at: str
    completed_at: str
    duration_ms: float
    ordinal: int | None = None
    """Of a finished inner block: it counts as completed only while ``provenance.done`` has reached this number."""
    fence: UUID | None = None
    """Of the outermost block of its own transaction: it is inserted only while that is the one in which the block with this
    id was the last to begin; its own id, or that of one inside it."""
    intended: bool = False
    """There may be evidence that it was begun, which its outcome makes superfluous."""


_BODIES = frozenset({"payload", "result", "metadata"})
_FIELDS = tuple((field.name, f'"{field.name}":', field.name in _BODIES) for field in attrs.fields(ActionRow))


def row_json(row: ActionRow) -> str:
    """Return the row as a JSON object; bodies go in as the JSON they are."""
    fields: list[str] = []
    for name, key, body in _FIELDS:
        value: object = getattr(row, name)
        if value is None or value is False:
            continue
        if body:
            fields.append(f"{key}{value}")
        elif isinstance(value, str):
            fields.append(key + encode_basestring_ascii(value))
        elif isinstance(value, UUID):
            fields.append(f'{key}"{as_text(value)}"')
        else:
            fields.append(f"{key}{'true' if value is True else repr(value)}")
    return f"{{{','.join(fields)}}}"


def rows_param(rows: Iterable[ActionRow | str]) -> Mapping[str, object]:
    """Return rows as one JSON parameter; some may be what :func:`row_json` made of them."""
    texts = [row if isinstance(row, str) else row_json(row) for row in rows]
    return {"rows": f"[{','.join(texts)}]"}


_WRITE: LiteralString = "SELECT provenance.write_actions(%(rows)s::json)"
_WRITE_MISSING: LiteralString = "SELECT provenance.write_missing_actions(%(rows)s::json)"


# What the first one does, of a row that is alone, for a connection that prepares statements: then it is less work for the
# server, and for the client. Parameters are in the encoding of the connection, which the application chooses; JSON escapes
# what is not ASCII.
_INSERT_ALONE: LiteralString = """
INSERT INTO provenance.actions (
    id, root_id, parent_action_id, action_type, concept, status, tenant_id, user_id, request_id, correlation_id,
    entity_type, entity_id, payload, result, metadata, started_at, completed_at, duration_ms)
VALUES (CASE WHEN split_part(current_setting('provenance.block', true), ' ', 1) = $1::uuid::text THEN $1::uuid END,
        COALESCE($2::uuid, provenance.root_of($3::uuid), $3::uuid), $3::uuid, $4, $5, $6, $7, $8, $9::uuid, $10, $11, $12,
        $13::jsonb, $14::jsonb, $15::jsonb, $16::timestamptz, $17::timestamptz, $18::double precision)"""


def _alone(row: ActionRow) -> tuple[str | None, ...] | None:
    """Return the parameters of the statement for a row that is alone, or ``None`` if it takes the other one."""
    if row.error_message is not None or row.fence is None or (row.fence is not row.id and row.fence != row.id):
        return None
    action_id = as_text(row.id)
    values = (
        action_id,
        action_id if row.root_id is row.id else None if row.root_id is None else as_text(row.root_id),
        None if row.parent_action_id is None else as_text(row.parent_action_id),
        row.action_type,
        row.concept,
        row.status,
        row.tenant_id,
        row.user_id,
        None if row.request_id is None else as_text(row.request_id),
        row.correlation_id,
        row.entity_type,
        row.entity_id,
        row.payload,
        row.result,
        row.metadata,
        row.started_at,
        row.completed_at,
        repr(row.duration_ms),
    )
    return values if "".join(filter(None, values)).isascii() else None


def insert(rows: Sequence[ActionRow], *, prepares: bool) -> Statement[None]:
    """Insert the rows as part of the work: a row that is there already makes it fail.

    The row with a fence inserts a null id, and so fails, when its transaction is no longer the one the block opened, and a
    null root when the beginning of the block that its fence names has been undone.

    Args:
        rows: the rows.
        prepares: the connection prepares statements that come again.
    """
    if prepares and len(rows) == 1 and (values := _alone(rows[0])) is not None:
        return Statement(_INSERT_ALONE, {}, nothing, numbered=values)
    return Statement(_WRITE, rows_param(rows), nothing)


def insert_missing(rows: Iterable[ActionRow | str]) -> Statement[None]:
    """Insert those rows nobody else has inserted; waits for a transaction that is just inserting them.

    Rows that were kept meanwhile come as what :func:`row_json` made of them.
    """
    return Statement(_WRITE_MISSING, rows_param(rows), nothing)


@cache
def journal_settings(timeout: timedelta) -> tuple[Statement[None], ...]:
    """Make one small transaction durable and bounded in time, without leaving anything behind on the connection."""
    milliseconds = max(1, int(timeout.total_seconds() * 1000))
    limit = sql.Literal(f"{milliseconds}ms")
    return (
        command("SET LOCAL synchronous_commit = on"),
        command(sql.SQL("SET LOCAL lock_timeout = {}").format(limit)),
        command(sql.SQL("SET LOCAL statement_timeout = {}").format(limit)),
    )


def _optional_text(rows: Rows) -> str | None:
    value = rows[0][0]
    return None if value is None else str(value)


def outcome(action_id: UUID) -> Statement[str | None]:
    """Ask for the recorded status of an action."""
    return Statement("SELECT provenance.outcome(%(id)s)", {"id": action_id}, _optional_text)


def _text(rows: Rows) -> str:
    return str(rows[0][0])


CURRENT_XID = Statement("SELECT pg_current_xact_id()::text", None, _text)


def committed(xid: str | None) -> Statement[bool]:
    """Ask whether a transaction is committed; of none in particular, yes."""
    return Statement("SELECT %(xid)s::xid8 IS NULL OR pg_xact_status(%(xid)s::xid8) = 'committed'", {"xid": xid}, truth)


@attrs.frozen
class Installed:
    """What a trail finds when it is first used."""

    version: int
    """Of the schema."""
    months_due: bool
    """The next month has no partition yet, and this role may make it."""
    on_citus: bool
    """It is of the flavor for Citus."""


def _installed(rows: Rows) -> Installed:
    return Installed(*rows[0])


INSTALLED = Statement(
    # Where many rows are in a default partition, making months takes long: that is for somebody to do who can wait.
    """SELECT provenance.schema_version(),
              pg_catalog.has_function_privilege('provenance.ensure_partitions(integer)', 'EXECUTE')
              AND pg_catalog.pg_relation_size('provenance.actions_default') < 8388608
              AND pg_catalog.pg_relation_size('provenance.row_changes_default') < 8388608
              AND pg_catalog.to_regclass('provenance.actions_' || pg_catalog.to_char(
                  pg_catalog.date_trunc('month', pg_catalog.clock_timestamp() AT TIME ZONE 'UTC')
                  + pg_catalog.make_interval(months => 1), 'YYYY_MM')) IS NULL,
              pg_catalog.to_regprocedure('provenance.commit_in_two_phases()') IS NOT NULL""",
    None,
    _installed,
)
