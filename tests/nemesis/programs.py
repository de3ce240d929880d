"""What workers do: actions of every kind, one inside the other, that fail, are caught and are rolled back.

Each block writes rows into ``ledger`` that name it, so that what was committed can be read from the data.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import attrs
import psycopg
from psycopg import IsolationLevel

from provenance.errors import NotCommitted, ProvenanceError
from tests.nemesis.diaries import Diary
from tests.nemesis.hands import Blocking

SCHEMA = """
CREATE TABLE ledger (action_id uuid NOT NULL, n integer NOT NULL, PRIMARY KEY (action_id, n));
CREATE TABLE contended (id integer PRIMARY KEY, n integer NOT NULL);
INSERT INTO contended SELECT i, 0 FROM generate_series(1, 4) AS i;
CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * 0.4);
    RETURN NULL;
END
$$;
-- A commit that takes time, for rows with the number 0.
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.n = 0) EXECUTE FUNCTION take_time();
"""

LEVELS = [None, IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
_DEPTH = 3


class Boom(Exception):
    """What a body raises."""


@attrs.define
class Unit:
    """One transaction, and what its end will mean for the actions in it."""

    begun: list[UUID] = attrs.field(factory=list)
    standing: list[UUID] = attrs.field(factory=list)
    """Left normally, and not undone since."""
    in_doubt: bool = False
    """Whoever owns the transaction has sent COMMIT and knows no answer."""

    def undo(self, mark: int) -> None:
        """Note that the work of those that were left since is undone."""
        del self.standing[mark:]


@attrs.define
class Life:
    """One thread or task of a worker: attempt after attempt, until it is killed.

    Args:
        hands: the colour.
        diary: where it says what it knows.
        rng: what it does.
        linger: seconds that a body may take at most.
        cancellations: how many of the attempts are cancelled if they take more than a moment, where that can be.
        slow_commits: how many of the blocks make their transaction's commit take its time.
    """

    hands: Blocking
    diary: Diary
    rng: random.Random
    linger: float
    cancellations: float
    slow_commits: float
    _connections: dict[bool, Any] = attrs.field(factory=dict)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    async def forever(self) -> None:
        while True:
            try:
                await self.attempt()
            except Exception as error:
                self.diary.strange(error)
                raise

    async def attempt(self) -> None:
        """Do one thing, and say what came of it."""
        kinds: list[Callable[[Unit], Awaitable[None]]] = [self.own, self.joined, self.alone]
        (kind,) = self.rng.choices(kinds, [6, 4, 1])
        unit = Unit()
        try:
            async with self.hands.within(self.rng.uniform(0, 0.1) if self.chance(self.cancellations) else None):
                await kind(unit)
        except TimeoutError:
            # In the body, or in the COMMIT: who was cancelled was told nothing.
            await self.let_go()
            return
        except (Boom, psycopg.errors.DivisionByZero):
            unit.standing.clear()
        except (psycopg.Error, ProvenanceError) as error:
            if isinstance(error, NotCommitted) and isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                self.diary.refused(unit.begun)
            doubt = unit.in_doubt or any("not known" in note for note in getattr(error, "__notes__", ()))
            await self.let_go()
            await self.hands.pause()
            if doubt:
                return
            unit.standing.clear()
        self.diary.done(unit.standing)
        self.diary.undone(set(unit.begun) - set(unit.standing))

    # -- connections of the application's --

    async def connection(self, *, autocommit: bool) -> Any:
        """Return a connection that is not the trail's, at some isolation level."""
        if (found := self._connections.get(autocommit)) is None:
            found = self._connections[autocommit] = await self.hands.connect(autocommit=autocommit)
        await self.hands.isolate(found, self.rng.choice(LEVELS))
        return found

    async def let_go(self) -> None:
        """Close what may be broken, or inside a transaction."""
        while self._connections:
            _, connection = self._connections.popitem()
            with suppress(psycopg.Error):
                await self.hands.done(connection.close())

    async def execute(self, connection: Any, query: str, *params: object) -> None:
        await self.hands.done(connection.execute(query, params))

    # -- what is done --

    async def own(self, unit: Unit) -> None:
        """An action with a transaction of its own, on a connection of the pool or a given one."""
        connection = await self.connection(autocommit=True) if self.chance(0.5) else None
        async with self.block(unit, "own", None, connection=connection) as action:
            await self.contents(unit, action, 0)
            await self.trouble(0.15, action.connection)
        unit.standing.append(action.id)

    async def joined(self, unit: Unit) -> None:
        """Actions in a transaction of the caller's, who may roll it back."""
        connection = await self.connection(autocommit=False)
        for _ in range(self.rng.randint(1, 3)):
            undo = self.chance(0.2)
            if undo:
                await self.execute(connection, "SAVEPOINT callers")
            mark = len(unit.standing)
            try:
                async with self.block(unit, "joined", None, connection=connection) as action:
                    await self.contents(unit, action, 0)
                    await self.trouble(0.2, action.connection)
            except (Boom, psycopg.errors.DivisionByZero):
                unit.undo(mark)
            else:
                unit.standing.append(action.id)
            if undo:
                await self.execute(connection, "ROLLBACK TO SAVEPOINT callers")
                unit.undo(mark)
        if self.chance(0.2):
            await self.hands.done(connection.rollback())
            unit.undo(0)
            return
        unit.in_doubt = True
        await self.hands.done(connection.commit())

    async def alone(self, unit: Unit) -> None:
        """Work outside the database."""
        await self.detached(None)

    async def detached(self, parent: UUID | None) -> None:
        action = None
        try:
            async with self.hands.track("detached", transaction=False, payload={"rows": 0}) as action:
                self.diary.begun(action.id, "detached", parent)
                await self.trouble(0.3)
        except Boom:
            assert action is not None
            self.diary.undone([action.id])
        else:
            self.diary.done([action.id])

    @asynccontextmanager
    async def block(self, unit: Unit, kind: str, parent: UUID | None, **given: Any) -> AsyncIterator[Any]:
        first = 0 if self.chance(self.slow_commits) else 1
        rows = self.rng.randint(1, 2)
        async with self.hands.track(kind, payload={"rows": rows}, **given) as action:
            self.diary.begun(action.id, kind, parent)
            unit.begun.append(action.id)
            await self.write(action, first)
            yield action
            for n in range(first + 1, first + rows):
                await self.write(action, n)
            if self.linger and self.chance(0.5):
                await self.execute(action.connection, "SELECT pg_sleep(%s)", self.rng.uniform(0, self.linger))

    async def write(self, action: Any, n: int) -> None:
        await self.execute(action.connection, "INSERT INTO ledger VALUES (%s, %s)", action.id, n)

    async def contents(self, unit: Unit, outer: Any, depth: int) -> None:
        """What is inside a block, besides its own rows."""
        if depth == _DEPTH:
            return
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            (kind,) = self.rng.choices(["inner", "savepoint", "bare", "detached", "contend"], [8, 5, 2, 2, 2])
            if kind == "inner":
                await self.inner(unit, outer, depth)
            elif kind == "savepoint":
                await self.in_savepoint(unit, outer, depth)
            elif kind == "bare":
                # What fails in it fails the outer block too, so nothing does.
                async with self.block(unit, "inner", outer.id, savepoint=False) as action:
                    pass
                unit.standing.append(action.id)
            elif kind == "detached":
                await self.detached(outer.id)
            else:
                number = self.rng.randint(1, 4)
                await self.execute(outer.connection, "UPDATE contended SET n = n + 1 WHERE id = %s", number)

    async def inner(self, unit: Unit, outer: Any, depth: int) -> None:
        """An inner block that may fail, which is caught."""
        mark = len(unit.standing)
        try:
            async with self.block(unit, "inner", outer.id) as action:
                await self.contents(unit, action, depth + 1)
                await self.trouble(0.25, action.connection)
        except (Boom, psycopg.errors.DivisionByZero):
            unit.undo(mark)
        else:
            unit.standing.append(action.id)

    async def in_savepoint(self, unit: Unit, outer: Any, depth: int) -> None:
        """A savepoint of the application's around an inner block, rolled back perhaps when that has finished."""
        mark = len(unit.standing)
        await self.execute(outer.connection, "SAVEPOINT mine")
        await self.inner(unit, outer, depth)
        if self.chance(0.5):
            await self.execute(outer.connection, "ROLLBACK TO SAVEPOINT mine")
            unit.undo(mark)
        await self.execute(outer.connection, "RELEASE SAVEPOINT mine")

    async def trouble(self, probability: float, connection: Any = None) -> None:
        if self.chance(probability):
            if connection is not None and self.chance(0.5):
                await self.execute(connection, "SELECT 1 / 0")
            raise Boom
