"""Statements as values: their text, their parameters, and what their rows mean. No database."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import IsolationLevel, sql

from provenance.models import ActionRef, Status
from provenance.statements import Statement, command, intents, reading, recording
from provenance.statements.intents import Evidence, Intent, Transaction
from provenance.statements.reading import Filter
from provenance.statements.recording import ActionRow, Settings
from tests.strategies import unhurried
from tests.support import rows

ID = UUID("01890000-0000-7000-8000-000000000001")
ROOT = UUID("01890000-0000-7000-8000-000000000002")
PARENT = UUID("01890000-0000-7000-8000-000000000003")
REQUEST = UUID("01890000-0000-7000-8000-000000000004")
AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def text(statement: Statement[Any]) -> str:
    """Return the statement's SQL."""
    if statement.commands:
        return "; ".join(statement.commands)
    query = statement.query
    if isinstance(query, bytes):
        return query.decode()
    return query.as_string(None) if isinstance(query, sql.Composed) else query


def texts(statements: Sequence[Statement[Any]]) -> list[str]:
    """Return the SQL of statements."""
    return list(map(text, statements))


def params(statement: Statement[Any]) -> Mapping[str, object]:
    """Return the statement's parameters, which it must have."""
    assert statement.params is not None
    return statement.params


def action_row(**changed: Any) -> ActionRow:
    """Return a row of the one id these tests are about."""
    return rows.action_row(id=ID, **changed)


# --- Transaction control ---------------------------------------------------------------------------------------------


def test_a_command_has_no_parameters_and_no_answer() -> None:
    """What needs no answer can be sent together with other commands."""
    statement = command("BEGIN")
    assert (text(statement), statement.params, statement.decode([("ignored",)])) == ("BEGIN", None, None)


@pytest.mark.parametrize(
    ("isolation", "read_only", "deferrable", "expected"),
    [
        (None, None, None, "BEGIN"),
        (IsolationLevel.READ_UNCOMMITTED, None, None, "BEGIN ISOLATION LEVEL READ UNCOMMITTED"),
        (IsolationLevel.READ_COMMITTED, None, None, "BEGIN ISOLATION LEVEL READ COMMITTED"),
        (IsolationLevel.REPEATABLE_READ, True, None, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        (IsolationLevel.SERIALIZABLE, False, True, "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE DEFERRABLE"),
        (None, None, False, "BEGIN NOT DEFERRABLE"),
    ],
)
def test_begin_says_what_the_connection_says(
    isolation: IsolationLevel | None, read_only: bool | None, deferrable: bool | None, expected: str
) -> None:
    """Every attribute that is set is spelled out, and what is not set is left to the server."""
    assert recording.begin(isolation, read_only, deferrable) == expected


def test_settings_end_with_the_transaction() -> None:
    """They are set with SET LOCAL, in one statement with what comes before, and cleared by the empty text."""
    settings = recording.settings_of(ActionRef(ID, ROOT), "t")
    (together,) = texts(recording.make(settings, "BEGIN", recording.done(12)))
    assert together.split("; ") == [
        "BEGIN",
        "SET LOCAL provenance.done = '12'",
        f"SET LOCAL provenance.action_id = '{ID}'",
        f"SET LOCAL provenance.block = '{ID} {ROOT} t'",
    ]
    assert texts(recording.make(Settings())) == ["SET LOCAL provenance.action_id = ''; SET LOCAL provenance.block = ''"]


@pytest.mark.parametrize("tenant", ["a 'b'", "\\", "'; DROP TABLE t; --", "\n", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_setting_that_needs_quoting_is_quoted(tenant: str) -> None:
    """What could end the literal goes in as psycopg quotes it, and so does all else that is not plain."""
    quoted = sql.Literal(f"{ID} {ROOT} {tenant}").as_string(None)
    assert texts(recording.make(recording.settings_of(ActionRef(ID, ROOT), tenant), "BEGIN")) == [
        "BEGIN",
        f"SET LOCAL provenance.action_id = '{ID}'",
        f"SET LOCAL provenance.block = {quoted}",
    ]
    assert texts(recording.make(Settings(action=tenant))) == [
        f"SET LOCAL provenance.action_id = {sql.Literal(tenant).as_string(None)}",
        "SET LOCAL provenance.block = ''",
    ]


def test_a_reference_made_of_hostile_text_is_quoted() -> None:
    """Whatever its type says: a caller can make a reference himself."""
    root = "'; DROP TABLE t; --"
    quoted = sql.Literal(f"{ID} {root} ").as_string(None)
    settings = recording.settings_of(ActionRef(ID, cast("UUID", root)), "")
    assert texts(recording.make(settings))[-1] == f"SET LOCAL provenance.block = {quoted}"


def test_savepoints_are_named_after_their_action() -> None:
    """Nothing but the digits of an id is in a name."""
    name = f"provenance_{ID.hex}"
    assert recording.savepoint(ID) == f"SAVEPOINT {name}"
    assert recording.release(ID) == f"RELEASE SAVEPOINT {name}"
    assert text(recording.rollback_to(ID)) == f"ROLLBACK TO SAVEPOINT {name}"
    assert text(recording.rollback_over(ID)) == f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((None, None, None), Settings()),
        (("", "", ""), Settings(action="", block="", done=0)),
        ((str(ID), f"{ID} {ROOT} ", "7"), Settings(action=str(ID), block=f"{ID} {ROOT} ", done=7)),
    ],
)
def test_settings_that_are_not_set_are_empty_and_zero(row: tuple[str | None, ...], expected: Settings) -> None:
    """A setting nobody has made is null; one that has been reset is the empty text."""
    assert recording.READ_SETTINGS.decode([row]) == expected


@pytest.mark.parametrize("tenant", ["t", "", " ", " a  b ", f"{ID} {ROOT}", "'\n\"", "\N{HEBREW LETTER ALEF}"])
def test_the_tenant_of_a_block_is_all_that_follows_its_ids(tenant: str) -> None:
    """Whatever is in it: the ids are of one length, so that SQL can cut it out by its place."""
    ref = ActionRef(ID, ROOT)
    settings = recording.settings_of(ref, tenant)
    (literal,) = re.findall(r"block = '(.*)'$", texts(recording.make(settings))[-1], re.DOTALL)
    stored = literal.replace("''", "'")
    assert stored[74:] == tenant
    assert recording.READ_SETTINGS.decode([(str(ID), stored, None)]) == settings
    assert settings.are_of(ref)
    assert not settings.are_of(ActionRef(ROOT, ROOT))
    assert not Settings().are_of(ref)


@pytest.mark.parametrize(
    ("timeout", "milliseconds"), [(timedelta(seconds=5), 5000), (timedelta(microseconds=1), 1), (timedelta(0), 1)]
)
def test_the_journal_never_waits_without_end(timeout: timedelta, milliseconds: int) -> None:
    """A timeout of 0 ms would mean none at all to the server."""
    assert [text(statement) for statement in recording.journal_settings(timeout)] == [
        "SET LOCAL synchronous_commit = on",
        f"SET LOCAL lock_timeout = '{milliseconds}ms'",
        f"SET LOCAL statement_timeout = '{milliseconds}ms'",
    ]


# --- Rows on their way in --------------------------------------------------------------------------------------------


def test_what_a_row_does_not_have_is_left_out() -> None:
    """An absent key reads as null, and costs nothing."""
    assert json.loads(recording.row_json(action_row())) == {
        "id": str(ID),
        "root_id": str(ID),
        "action_type": "t",
        "concept": "c",
        "status": "completed",
        "tenant_id": "",
        "started_at": "2026-03-01T12:30:15.250000+00:00",
        "completed_at": "2026-03-01T12:30:15.250000+00:00",
        "duration_ms": 1.5,
    }


def test_bodies_go_in_as_the_json_they_are() -> None:
    """A body is not quoted again, and a text that looks like JSON stays a text."""
    row = action_row(
        payload='{"a": [1, null]}', result="null", metadata="[]", error_message="{}", ordinal=3, fence=UUID(int=7)
    )
    found = json.loads(recording.row_json(row))
    wanted = ("payload", "result", "metadata", "error_message", "ordinal", "fence")
    assert [found[key] for key in wanted] == [{"a": [1, None]}, None, [], "{}", 3, str(UUID(int=7))]


@unhurried
@given(st.text(), st.text(), st.none() | st.text(), st.floats(0, 1e12), st.uuids())
def test_a_row_survives_the_trip_through_json(
    action_type: str, tenant: str, user: str | None, duration: float, request: UUID
) -> None:
    """Quotes, control characters and every script arrive as they were; the JSON itself is ASCII."""
    row = action_row(action_type=action_type, tenant_id=tenant, user_id=user, duration_ms=duration, request_id=request)
    found = recording.row_json(row)
    assert found.isascii()
    assert {
        key: json.loads(found).get(key) for key in ("action_type", "tenant_id", "user_id", "duration_ms", "request_id")
    } == {
        "action_type": action_type,
        "tenant_id": tenant,
        "user_id": user,
        "duration_ms": duration,
        "request_id": str(request),
    }


def test_rows_are_one_parameter() -> None:
    """However many rows there are, the statement is the same text, so that it can stay prepared."""
    rows = [action_row(), action_row(status="failed")]
    one, two = recording.insert(rows[:1], prepares=True), recording.insert(rows, prepares=True)
    assert text(one) == text(two)
    assert [row["status"] for row in json.loads(str(params(two)["rows"]))] == ["completed", "failed"]
    assert list(params(one)) == ["rows"]


def test_a_row_that_is_alone_is_planned_once() -> None:
    """By the client's preparing it where that is allowed, and by the function where it is not."""
    row = action_row(fence=ID)
    assert text(recording.insert([row], prepares=True)).strip().startswith("INSERT INTO provenance.actions")
    assert text(recording.insert([row], prepares=False)) == "SELECT provenance.write_actions(%(rows)s::json)"


def test_only_work_and_row_together_insert_without_a_way_out() -> None:
    """The row of committed work must conflict; what is written afterwards must not."""
    assert "write_actions" in text(recording.insert([action_row()], prepares=True))
    assert "write_missing_actions" in text(recording.insert_missing([action_row()]))
    insert, note = intents.insert_doubt([action_row()])
    assert text(insert).endswith("\nON CONFLICT DO NOTHING")
    assert "provenance.action_intents" in text(insert)
    assert "provenance.doubt_intent" in text(note)


# --- Questions and answers -------------------------------------------------------------------------------------------


def test_the_outcome_of_an_action_is_a_status_or_none() -> None:
    """The function answers one row with one column."""
    statement = recording.outcome(ID)
    assert (text(statement), params(statement)) == ("SELECT provenance.outcome(%(id)s)", {"id": ID})
    assert (statement.decode([("failed",)]), statement.decode([(None,)])) == ("failed", None)


def test_the_schema_version_is_a_number() -> None:
    """The answer of the server decides whether the trail can be written."""
    assert recording.INSTALLED.decode([(1, False, True)]) == recording.Installed(1, months_due=False, on_citus=True)


def test_a_pending_action_that_is_none() -> None:
    """The function answers null when the action is not pending."""
    assert intents.pending_action(ID).decode([(None,) * 14]) is None


def test_a_pending_action_with_everything() -> None:
    """What was begun comes back with its types; the moment it began is in UTC whatever the server's time zone."""
    began = datetime.fromisoformat("2026-03-01T18:00:15.25+05:30")
    found = (ID, ROOT, PARENT, "approve", "order", "t", "u", REQUEST, "c", "order", "7", '{"a": 1}', "[]", began)
    expected = Intent(
        id=ID,
        root_id=ROOT,
        parent_action_id=PARENT,
        action_type="approve",
        concept="order",
        tenant_id="t",
        user_id="u",
        request_id=REQUEST,
        correlation_id="c",
        entity_type="order",
        entity_id="7",
        payload='{"a": 1}',
        metadata="[]",
        started_at=AT,
    )
    statement = intents.pending_action(ID)
    intent = statement.decode([found])
    assert intent == expected
    assert intent is not None
    assert intent.started_at.tzinfo is UTC


def test_a_row_counts_as_receipt_if_its_transaction_is_committed() -> None:
    """Where no transaction is named, any will do."""
    assert [recording.committed(None).decode([(True,)]), recording.committed("7").decode([(False,)])] == [True, False]


def test_beginning_and_completing_name_every_argument() -> None:
    """The SQL functions are called with named arguments, so that a later one may gain a parameter."""
    begin = intents.begin_action(action_row(payload="{}"), timedelta(hours=2))
    named = set(re.findall(r"(\w+) => %\(\1\)s", text(begin)))
    assert named == {
        "action_type",
        "concept",
        "user_id",
        "tenant_id",
        "request_id",
        "parent_action_id",
        "entity_type",
        "entity_id",
        "payload",
        "metadata",
        "expires_in",
        "correlation_id",
        "id",
        "started_at",
        "root_id",
    }
    assert {key: params(begin)[key] for key in ("id", "payload", "expires_in")} == {
        "id": ID,
        "payload": "{}",
        "expires_in": timedelta(hours=2),
    }
    complete = intents.complete_action(ID, status="failed", result=None, error_message="m", error_code="22012")
    assert params(complete) == {
        "id": ID,
        "status": "failed",
        "result": None,
        "error_message": "m",
        "error_type": None,
        "error_code": "22012",
    }


def test_evidence_is_a_row_and_more() -> None:
    """What is known of the work stands beside what is known of the action; nothing of it is doubtful."""
    row = action_row(payload='{"a": 1}')
    leased = Evidence(row=row, worker="h:7", transaction=None)
    declared = Evidence(row=row, worker="h:7", transaction=Transaction("17", 4), joined=True)
    plain = json.loads(recording.row_json(row))
    assert json.loads(intents.evidence_json(leased)) == {
        **plain,
        "worker": "h:7",
        "key": None,
        "work_xid": None,
        "system_identifier": None,
        "joined": False,
        "lease": "60.0 seconds",
    }
    assert json.loads(intents.evidence_json(declared)) == {
        **plain,
        "worker": "h:7",
        "key": None,
        "work_xid": "17",
        "system_identifier": 4,
        "joined": True,
        "lease": None,
    }


def test_which_rows_there_may_be_evidence_of() -> None:
    """Kept rows are asked as they are; a payload that looks like it does no harm."""
    declared, plain = action_row(intended=True), action_row(payload='{"intended":true}')
    kept = [recording.row_json(declared), recording.row_json(plain)]
    assert intents.intended([declared, plain]) == [ID]
    assert intents.intended(kept) == [ID, ID]
    assert intents.intended([recording.row_json(action_row())]) == []
    assert intents.forget_all(intents.intended([plain])) == ()


# --- Reading ---------------------------------------------------------------------------------------------------------


def row(**changed: Any) -> tuple[Any, ...]:
    """Return an action as the database answers it."""
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    columns: dict[str, Any] = {
        "id": ID,
        "root_id": ROOT,
        "parent_action_id": PARENT,
        "action_type": "t",
        "concept": "c",
        "status": "failed",
        "tenant_id": "tenant",
        "user_id": "user",
        "request_id": REQUEST,
        "correlation_id": "correlation",
        "entity_type": "e",
        "entity_id": "7",
        "payload": '{"a": 1}',
        "result": None,
        "metadata": "[]",
        "error_type": "ValueError",
        "error_code": "22012",
        "error_message": "no",
        "started_at": AT.astimezone(elsewhere),
        "completed_at": (AT + timedelta(seconds=1)).astimezone(elsewhere),
        "duration_ms": 1000.5,
        "recorded_at": (AT + timedelta(seconds=2)).astimezone(elsewhere),
        "erased_by_action_id": PARENT,
    }
    return tuple({**columns, **changed}.values())


def test_an_action_is_decoded_column_by_column() -> None:
    """Every column lands in its field, bodies are parsed and times are UTC."""
    found = reading.get(ID).decode([row()])
    assert found is not None
    assert attrs.asdict(found) == {
        "id": ID,
        "root_id": ROOT,
        "parent_action_id": PARENT,
        "action_type": "t",
        "concept": "c",
        "status": Status.FAILED,
        "tenant_id": "tenant",
        "user_id": "user",
        "request_id": REQUEST,
        "correlation_id": "correlation",
        "entity_type": "e",
        "entity_id": "7",
        "payload": {"a": 1},
        "result": None,
        "metadata": [],
        "error_type": "ValueError",
        "error_code": "22012",
        "error_message": "no",
        "started_at": AT,
        "completed_at": AT + timedelta(seconds=1),
        "duration_ms": 1000.5,
        "recorded_at": AT + timedelta(seconds=2),
        "erased_by_action_id": PARENT,
    }
    assert [time.tzinfo for time in (found.started_at, found.completed_at, found.recorded_at) if time] == [UTC] * 3


def test_a_pending_action_has_no_end() -> None:
    """What has not ended yet has no time of its end and no duration."""
    found = reading.get(ID).decode([row(status="pending", completed_at=None, duration_ms=None)])
    assert found is not None
    assert (found.status, found.completed_at, found.duration_ms) == (Status.PENDING, None, None)


@pytest.mark.parametrize("body", ["1" * 5_000, "[" * 100_000 + "]" * 100_000, "1 2"])
def test_a_body_that_python_cannot_parse_hides_nothing_else(body: str) -> None:
    """Postgres stores numbers and depths that the parser of Python refuses; the action is still shown."""
    found = reading.get(ID).decode([row(payload=body)])
    assert found is not None
    assert (found.id, found.payload, found.metadata) == (ID, {"$unreadable": "value"}, [])


def test_nothing_found() -> None:
    """No rows are ``None``, an empty list, an empty page."""
    assert reading.get(ID).decode([]) is None
    assert reading.by_request(REQUEST, limit=1).decode([]) == []
    assert reading.chain(ID, max_depth=1).decode([]) == []
    assert reading.ancestors(ID, max_depth=1).decode([]) == []
    assert reading.tree(ID).decode([]) is None
    page = reading.search(Filter(), before=None, limit=1).decode([])
    assert (page.items, page.next, len(page), list(page)) == ((), None, 0, [])


def test_a_chain_carries_its_depths() -> None:
    """The last column of a step is its distance."""
    links = reading.chain(ID, max_depth=5).decode([(*row(), 0), (*row(id=PARENT), 1)])
    assert [(link.action.id, link.depth) for link in links] == [(ID, 0), (PARENT, 1)]


@pytest.mark.parametrize("limit", [0, -1, 1_001])
def test_a_page_has_a_size(limit: int) -> None:
    """Neither an empty page nor an unbounded one can be asked for."""
    with pytest.raises(
        ValueError, match=rf"^limit: expected 1 to 1000, got {limit}; use before= to get the next page$"
    ):
        reading.search(Filter(), before=None, limit=limit)
    with pytest.raises(ValueError, match=r"^limit: expected 1 to 1000"):
        reading.by_request(REQUEST, limit=limit)


@pytest.mark.parametrize("depth", [-1, 101])
def test_a_chain_has_a_depth(depth: int) -> None:
    """How far a chain is followed is capped in both directions."""
    for statement in (reading.chain, reading.ancestors):
        with pytest.raises(ValueError, match=rf"^max_depth: expected 0 to 100, got {depth}$"):
            statement(ID, max_depth=depth)


def test_one_row_more_than_a_page_tells_that_there_is_another() -> None:
    """The extra row is not shown; the next page begins below the last one shown."""
    statement = reading.search(Filter(), before=None, limit=2)
    assert params(statement)["limit"] == 3
    rows = [row(id=UUID(int=number)) for number in (9, 8, 7)]
    full = statement.decode(rows)
    assert ([action.id.int for action in full], full.next) == ([9, 8], UUID(int=8))
    last = statement.decode(rows[:2])
    assert ([action.id.int for action in last], last.next) == ([9, 8], None)


def bounds(statement: Statement[Any]) -> tuple[UUID, UUID]:
    """Return the range of ids that is searched, which stands in the text."""
    found = re.search(r"WHERE a\.id >= '(\S+)'::uuid AND a\.id < '(\S+)'::uuid", text(statement))
    assert found is not None
    return UUID(found[1]), UUID(found[2])


def least(at: datetime) -> UUID:
    """Return the least 128 bits that begin with a moment's milliseconds."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def test_a_range_of_time_is_a_range_of_ids() -> None:
    """Both bounds are always there: without the upper one the default partition would be in every plan."""
    until = AT + timedelta(days=1)
    bounded = reading.search(Filter(since=AT, until=until), before=ID, limit=1)
    assert bounds(bounded) == (least(AT), least(until))
    assert params(bounded) == {"limit": 2, "before": ID}
    day = timedelta(days=1)
    earliest = datetime.now(UTC)
    first, last = bounds(reading.search(Filter(), before=None, limit=1))
    latest = datetime.now(UTC)
    assert first == UUID(int=0)
    assert least(earliest + day) <= last <= least(latest + 2 * day)
    # The same text until midnight: the server would not know again what differs each time.
    assert (last.int >> 80) % int(day.total_seconds() * 1000) == 0


def test_a_naive_time_is_refused() -> None:
    """A time without a zone would silently mean another moment."""
    with pytest.raises(ValueError, match="naive"):
        reading.search(Filter(since=AT.replace(tzinfo=None)), before=None, limit=1)
    with pytest.raises(ValueError, match="naive"):
        reading.search(Filter(until=AT.replace(tzinfo=None)), before=None, limit=1)


FILTERS: dict[str, Any] = {
    "action_type": "a",
    "concept": "c",
    "user_id": "u",
    "tenant_id": "t",
    "request_id": REQUEST,
    "correlation_id": "x",
    "entity_type": "e",
    "entity_id": "7",
    "status": Status.FAILED,
}


def test_every_filter_is_a_condition() -> None:
    """A filter that is forgotten in the statement would find too much."""
    assert FILTERS.keys() | {"since", "until"} == {field.name for field in attrs.fields(Filter)}
    for name, value in FILTERS.items():
        statement = reading.search(Filter(**{name: value}), before=None, limit=1)
        assert re.search(rf" AND a\.{name} = %\({name}\)s", text(statement)), name
        assert params(statement)[name] == value
        assert not (FILTERS.keys() - {name}) & params(statement).keys()


def test_a_tenant_is_looked_for_in_its_index() -> None:
    """The index leaves out rows of no tenant, and the condition that says so must be in the text."""
    assert "a.tenant_id <> ''" in text(reading.search(Filter(tenant_id="t"), before=None, limit=1))
    assert "a.tenant_id <> ''" not in text(reading.search(Filter(tenant_id=""), before=None, limit=1))


def test_reading_names_nothing_but_the_view() -> None:
    """Pending actions are in every answer, and no search_path has a say in it."""
    for statement in (
        reading.get(ID),
        reading.by_request(REQUEST, limit=1),
        reading.chain(ID, max_depth=1),
        reading.ancestors(ID, max_depth=1),
        reading.tree(ID),
        reading.search(Filter(**FILTERS), before=ID, limit=1),
    ):
        sources = set(re.findall(r"(?:FROM|JOIN)\s+(?!LATERAL)([\w.]+)", text(statement)))
        assert sources - {"down", "top", "up"} == {"provenance.action_log"}
