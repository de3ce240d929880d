"""Months as Parquet files: writing them, reading them back, and the manifest that says what they hold.

The directories are named as Hive names them, which most readers take for columns::

    actions/tenant_hash=d/month=2025-11/part-1.parquet
    months/actions-2025-11-1.json

A manifest is written last. Files without one are of an attempt that came to nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from uuid import UUID

import attrs

from provenance.archive.columns import TABLES, Column, Summary, Table, Values, row_digest
from provenance.errors import ArchiveError

_MANIFEST = re.compile(r"([a-z_]+)-(\d{4})-(0[1-9]|1[0-2])-(\d+)\.json")

FORMAT = 1
"""Of what is written here; a reader refuses what it does not know."""


@attrs.frozen
class Month:
    """A month of a table, and which time it leaves: late rows make another edition of it."""

    table: Table
    first: date
    edition: int

    def __str__(self) -> str:
        return f"{self.table.name} of {self.first:%Y-%m}"

    @property
    def partition(self) -> str:
        """The name of its partition."""
        return f"{self.table.name}_{self.first:%Y_%m}"

    def file(self, root: Path, bucket: str) -> Path:
        """Where the rows of a bucket are."""
        directory = root / self.table.name / f"tenant_hash={bucket}" / f"month={self.first:%Y-%m}"
        return directory / f"part-{self.edition}.parquet"

    def manifest(self, root: Path) -> Path:
        """Where it is said what they are."""
        return root / "months" / f"{self.table.name}-{self.first:%Y-%m}-{self.edition}.json"


@attrs.frozen(kw_only=True)
class File:
    """A file of a month."""

    path: str
    """Below the directory of the archive, with slashes."""
    rows: int
    bytes: int
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What a month consists of."""

    rows: int
    digest: int
    action_id: UUID
    """The action by which it was written."""
    files: tuple[File, ...]

    @property
    def summary(self) -> Summary:
        return Summary(self.rows, self.digest)


@contextmanager
def _durably(path: Path) -> Generator[Path]:
    """Yield where to write a file; it gets its name once all of it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers take what begins with a dot for none of their business.
    unfinished = path.with_name(f".{path.name}.unfinished")
    yield unfinished
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    for directory in (path.parent, *path.parent.parents[:3]):
        # Those above the archive may be closed to us, and were there before.
        with suppress(PermissionError):
            handle = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def write(month: Month, root: Path, bucket: str, rows: Iterable[Values]) -> None:
    """Write the rows of a bucket, in place of what is there."""
    from provenance.archive import parquet  # noqa: PLC0415 - only with the extra

    table = month.table
    with _durably(month.file(root, bucket)) as path:
        parquet.write(path, (*table.columns, *table.added), rows)


def read(month: Month, root: Path, files: Iterable[File]) -> Iterator[Values]:
    """Yield the rows of files, a few at a time in memory, without what was added for readers.

    Raises:
        ArchiveError: a file is not there, or cannot be read.
    """
    from provenance.archive import parquet  # noqa: PLC0415 - only with the extra

    for file in files:
        yield from parquet.read(root / file.path, month.table.columns)


def summary_of(columns: tuple[Column, ...], rows: Iterable[Values]) -> Summary:
    """Summarize rows."""
    count = digest = 0
    for values in rows:
        count += 1
        digest += row_digest(columns, values)
    return Summary(count, digest)


def close(month: Month, root: Path, buckets: Iterable[str], action_id: UUID) -> Manifest:
    """Read back what has been written, and write the manifest."""
    files = tuple(_described(month.file(root, bucket), root) for bucket in buckets)
    summary = summary_of(month.table.columns, read(month, root, files))
    manifest = Manifest(rows=summary.rows, digest=summary.digest, action_id=action_id, files=files)
    document = {
        "format": FORMAT,
        "table": month.table.name,
        "month": f"{month.first:%Y-%m}",
        "edition": month.edition,
        "rows": manifest.rows,
        "digest": str(manifest.digest),
        "action_id": str(action_id),
        "files": [attrs.asdict(file) for file in files],
    }
    with _durably(month.manifest(root)) as path:
        path.write_text(json.dumps(document, indent=2) + "\n")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(path: Path, root: Path) -> File:
    from provenance.archive import parquet  # noqa: PLC0415 - only with the extra

    return File(
        path=path.relative_to(root).as_posix(),
        rows=parquet.count(path),
        bytes=path.stat().st_size,
        sha256=_sha256(path),
    )


def manifest_of(month: Month, root: Path) -> Manifest | None:
    """Return what a month is said to consist of; ``None`` if it is not there in full.

    Raises:
        ArchiveError: that cannot be read, or is of a newer format.
    """
    path = month.manifest(root)
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ArchiveError(
                f"{path} is of format {document['format']}, and this version of provenance knows {FORMAT}"
            )
        files = tuple(File(**file) for file in document["files"])
        return Manifest(
            rows=document["rows"],
            digest=int(document["digest"]),
            action_id=UUID(document["action_id"]),
            files=files,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path} is no manifest of an archive; restore it from a backup") from error


def check(month: Month, root: Path, expected: Manifest) -> None:
    """See that the files of a month are what its manifest says.

    Raises:
        ArchiveError: one is not there, or is another one.
    """
    for file in expected.files:
        path = root / file.path
        if not path.is_file() or _sha256(path) != file.sha256:
            raise ArchiveError(f"{path} is not the file that was written; restore it from a backup")
    found = summary_of(month.table.columns, read(month, root, expected.files))
    if found != expected.summary:
        raise ArchiveError(f"the rows of {month} in {root} are not those that were written; restore them from a backup")


def discard(month: Month, root: Path) -> None:
    """Remove what an attempt has left of a month."""
    month.manifest(root).unlink(missing_ok=True)
    for directory in root.glob(f"{month.table.name}/tenant_hash=*/month={month.first:%Y-%m}"):
        for name in (f"part-{month.edition}.parquet", f".part-{month.edition}.parquet.unfinished"):
            (directory / name).unlink(missing_ok=True)


def contents(root: Path) -> list[Month]:
    """Return which months an archive holds in full, the oldest first."""
    found = [
        Month(TABLES[named[1]], date(int(named[2]), int(named[3]), 1), int(named[4]))
        for path in root.glob("months/*.json")
        if (named := _MANIFEST.fullmatch(path.name)) and named[1] in TABLES
    ]
    return sorted(found, key=lambda month: (month.first, month.table.name, month.edition))


def manifest_there(month: Month, root: Path) -> Manifest:
    """Return what a month is said to consist of.

    Raises:
        ArchiveError: as :func:`manifest_of`, or it is not there.
    """
    manifest = manifest_of(month, root)
    if manifest is None:
        raise ArchiveError(f"{root} holds no {month}")
    return manifest


def verify_month(root: Path, month: Month) -> Manifest:
    """See that the files of a month are what they were when they were written, and hold the rows that they held.

    Raises:
        ArchiveError: they are not.
    """
    manifest = manifest_there(month, root)
    check(month, root, manifest)
    return manifest
