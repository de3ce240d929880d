"""The numbered SQL files of this folder. A released file is never edited: the ledger keeps its checksum."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

import attrs

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.up\.sql")


@attrs.frozen(kw_only=True)
class Migration:
    """One step of the schema: the SQL that takes it, and the SQL that takes it back."""

    version: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """SHA-256 over both directions, as hex."""
        return hashlib.sha256(f"{self.up}\0{self.down}".encode()).hexdigest()


@cache
def known_migrations() -> tuple[Migration, ...]:
    """Return the migrations this version of the library ships, in order."""
    folder = files(__name__)
    found = [match for entry in folder.iterdir() if (match := _FILE.fullmatch(entry.name))]
    return tuple(
        Migration(
            version=int(match["version"]),
            name=match["name"],
            up=(folder / match[0]).read_text(encoding="utf-8"),
            down=(folder / f"{match['version']}_{match['name']}.down.sql").read_text(encoding="utf-8"),
        )
        for match in sorted(found, key=lambda match: match["version"])
    )
