"""What a Postgres that is distributed over several servers needs beside the migrations."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import LiteralString

import attrs

from provenance.errors import MigrationError

FLAVORS = ("citus",)
"""The names of the flavors there are."""


@attrs.frozen(kw_only=True)
class Flavor:
    """SQL that is run with the migrations on a distributed Postgres."""

    name: str
    check: str
    """Raises, before anything is changed, where the flavor does not fit."""
    up: str
    down: str
    """Run when all else that was in the schema ``provenance`` is gone, also where the flavor was never installed."""
    expected: dict[str, dict[str, str]]
    """What the catalogue of a database has beside what the migrations make: kind of object → its name → its definition."""


INSTALLED: LiteralString = "to_regprocedure('provenance.commit_in_two_phases()') IS NOT NULL"
"""Whether the flavor for Citus is installed, in SQL."""

KEEP_HERE: LiteralString = f"""pg_catalog.set_config('citus.enable_ddl_propagation', 'off', true)
     WHERE {INSTALLED}"""
"""What follows SELECT, or PERFORM, before each step in a database with a flavor, so that nothing is made elsewhere too.

The functions of stamps come to workers with the first table that is stamped. A migration that changes one of those has to
switch this on again for it.
"""


@cache
def citus() -> Flavor:
    """Return the flavor for Citus."""
    folder = files(__name__)
    check, up, down = ((folder / f"citus.{step}.sql").read_text(encoding="utf-8") for step in ("check", "up", "down"))
    expected = json.loads((folder / "citus.json").read_text(encoding="utf-8"))
    return Flavor(name="citus", check=check, up=up, down=down, expected=expected)


def flavor_named(name: str | None) -> Flavor | None:
    """Return a flavor by its name; ``None`` for that of an ordinary Postgres, which needs nothing.

    Raises:
        MigrationError: there is none of that name.
    """
    if name is None:
        return None
    if name not in FLAVORS:
        raise MigrationError(f"there is no flavor {name!r}; there is {', '.join(FLAVORS)}")
    return citus()
