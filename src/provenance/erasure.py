"""Taking out of the trail what was said of somebody, in both colours. Each erasure is an action."""

from __future__ import annotations

from abc import ABC
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import attrs
import psycopg
from psycopg import IsolationLevel

from provenance import drivers, tracking
from provenance.errors import Held, InvalidAction, MisusedAction, NotCaptured
from provenance.models import Erasure
from provenance.statements.erasing import Erased, Subject
from provenance.statements.erasing import erase as statement
from provenance.statements.rows import Key, key_parts
from provenance.tracking import AsyncTrackedAction, TrackedAction
from provenance.translation import named, sentence, translated
from provenance.values import Identifier, identifier, name, tenant
from provenance.values import reason as why


def _subject(
    user_id: Identifier | None,
    entity: tuple[str, Identifier] | None,
    row: tuple[str, Key] | None,
    tenant_id: Identifier | None,
) -> Subject:
    if sum(given is not None for given in (user_id, entity, row)) != 1:
        raise InvalidAction("erase: expected one of user_id, entity and row")
    table, key = row or (None, None)
    kind, entity_id = entity or (None, None)
    return Subject(
        user_id=identifier(user_id, "user_id"),
        entity_type=None if kind is None else name(kind, "entity"),
        entity_id=identifier(entity_id, "entity"),
        table=table,
        key=None if key is None else key_parts(key),
        tenant_id=tenant(tenant_id),
    )


@contextmanager
def _erasing(table: str | None) -> Generator[None]:
    with translated("erasing", rights="owner"):
        try:
            with nullcontext() if table is None else named("table", table):
                yield
        except psycopg.errors.UndefinedObject as error:
            raise NotCaptured(sentence(error)) from error
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise MisusedAction(
                "erase: the transaction around it is at an isolation level that does not see what is committed meanwhile; "
                "call it outside of that block, or at READ COMMITTED"
            ) from error
        except psycopg.errors.RestrictViolation as error:
            raise Held(sentence(error)) from error
        except psycopg.errors.InvalidParameterValue as error:
            raise InvalidAction(f"row: {sentence(error)}") from error


class _Erasing:
    track_action: type[tracking.track_action]

    def _erase_action(self, subject: Subject, reason: str) -> tracking.track_action:
        about = {"user_id": subject.user_id, "table": subject.table, "key": subject.key, "tenant_id": subject.tenant_id}
        return self.track_action(
            "erase",
            concept="trail",
            entity_type=subject.entity_type or ("user" if subject.user_id else "row"),
            entity_id=subject.entity_id or subject.user_id or f"{subject.table} {' '.join(subject.key or ())}",
            payload={"reason": why(reason), **{what: value for what, value in about.items() if value is not None}},
            durability="intent",
            # It could not see the declaration otherwise, which is committed after its transaction has begun.
        ).at(IsolationLevel.READ_COMMITTED)

    def _note_erasure(self, action: TrackedAction | AsyncTrackedAction, erased: Erased) -> Erasure:
        counts = attrs.asdict(erased)
        action.result = counts
        return Erasure(action_id=action.id, **counts)


class Erasing(_Erasing, ABC):
    """What a :class:`Trail` takes out of itself."""

    def erase(
        self,
        *,
        reason: str,
        user_id: Identifier | None = None,
        entity: tuple[str, Identifier] | None = None,
        row: tuple[str, Key] | None = None,
        tenant_id: Identifier | None = None,
    ) -> Erasure:
        """Take out what was recorded of a user, an entity or a row, for good. That something was done, and by whom, stays.

        Of actions payload, result, metadata and error message go; of the rows that they changed all values, so that a row
        change tells no more than which columns it changed. It needs the rights of the owner of the schema.

        What is under way, or waits in a spool, comes in later: do it again then. The tables hold on disk what was taken out
        until they are vacuumed, and backups hold it as long as there are any.

        Args:
            reason: why, for whoever asks later; kept in the action that tells of it.
            user_id: of all that this user did.
            entity: its type and id: of all that was done to it.
            row: the name of a captured table and a primary key: of all changes of this row, whoever made them.
            tenant_id: within this tenant only; ``""`` for what belongs to none.

        Raises:
            InvalidAction: there is no reason, or not exactly one of *user_id*, *entity* and *row*.
            NotCaptured: changes of the table of *row* are not recorded.
            Held: a legal hold keeps some of it. Nothing is erased.
            SchemaNotReady: this role may not erase.
            TrailUnavailable: the database cannot be reached.
        """
        subject = _subject(user_id, entity, row, tenant_id)
        with self._erase_action(subject, reason) as action:
            with _erasing(subject.table):
                erased = drivers.run(action.connection, statement(subject))
            return self._note_erasure(action, erased)


class AsyncErasing(_Erasing, ABC):
    """What an :class:`AsyncTrail` takes out of itself."""

    async def erase(
        self,
        *,
        reason: str,
        user_id: Identifier | None = None,
        entity: tuple[str, Identifier] | None = None,
        row: tuple[str, Key] | None = None,
        tenant_id: Identifier | None = None,
    ) -> Erasure:
        """Take out what was recorded of a user, an entity or a row, for good. That something was done, and by whom, stays.

        Of actions payload, result, metadata and error message go; of the rows that they changed all values, so that a row
        change tells no more than which columns it changed. It needs the rights of the owner of the schema.

        What is under way, or waits in a spool, comes in later: do it again then. The tables hold on disk what was taken out
        until they are vacuumed, and backups hold it as long as there are any.

        Args:
            reason: why, for whoever asks later; kept in the action that tells of it.
            user_id: of all that this user did.
            entity: its type and id: of all that was done to it.
            row: the name of a captured table and a primary key: of all changes of this row, whoever made them.
            tenant_id: within this tenant only; ``""`` for what belongs to none.

        Raises:
            InvalidAction: there is no reason, or not exactly one of *user_id*, *entity* and *row*.
            NotCaptured: changes of the table of *row* are not recorded.
            Held: a legal hold keeps some of it. Nothing is erased.
            SchemaNotReady: this role may not erase.
            TrailUnavailable: the database cannot be reached.
        """
        subject = _subject(user_id, entity, row, tenant_id)
        async with self._erase_action(subject, reason) as action:
            with _erasing(subject.table):
                erased = await drivers.arun(action.connection, statement(subject))
            return self._note_erasure(action, erased)
