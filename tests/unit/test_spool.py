"""The directory that keeps rows while the database cannot be reached."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import NotConfigured
from provenance.journal import spool
from provenance.journal.spool import Damaged, Kind, Spool, SpoolFull, Usage


@pytest.fixture
def kept(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def entries(kept: Spool) -> list[tuple[Kind, tuple[str, ...]]]:
    found = [kept.read(path) for path in kept.waiting()]
    return [(entry.kind, entry.rows) for entry in found if entry is not None]


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.lists(st.dictionaries(st.text(), st.text()), max_size=3)), max_size=5)
)
def test_what_is_put_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[Kind, list[dict[str, str]]]]
) -> None:
    """Any text, in the order in which it was put."""
    kept = Spool(tmp_path_factory.mktemp("spool"))
    put = [(kind, tuple(json.dumps(row) for row in rows)) for kind, rows in given_rows]
    for kind, rows in put:
        kept.put(kind, rows)
    assert entries(kept) == put


def test_line_breaks_between_tokens_are_no_ends_of_rows(kept: Spool) -> None:
    """JSON that somebody has laid out means the same afterwards."""
    kept.put(Kind.OUTCOME, ['{\n"a":\n1}', '{"b":2}'])
    ((_, rows),) = entries(kept)
    assert [json.loads(row) for row in rows] == [{"a": 1}, {"b": 2}]


def test_only_this_user_may_look(kept: Spool) -> None:
    """The directories and the files have the modes of secrets."""
    kept.put(Kind.OUTCOME, ["{}"])
    (path,) = kept.waiting()
    modes = [found.stat().st_mode & 0o777 for found in (kept.directory, kept.directory / "quarantine", path)]
    assert modes == [0o700, 0o700, 0o600]


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """It may have been prepared by somebody else; the remedy is named."""
    tmp_path.chmod(0o750)
    with pytest.raises(
        NotConfigured, match=r"must belong to the user of this process, and nobody else may enter it.*chmod 700"
    ):
        Spool(tmp_path)


@pytest.mark.parametrize("made", ["a link", "a file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, made: str) -> None:
    """A link could lead anywhere."""
    path = tmp_path / "spool"
    path.symlink_to(tmp_path) if made == "a link" else path.touch()
    with pytest.raises(NotConfigured, match=r"is no directory|cannot be made"):
        Spool(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content + b"x",
        lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    ],
)
def test_a_damaged_file_is_noticed(kept: Spool, damage: object) -> None:
    """Cut short, emptied, longer, or with one bit turned over."""
    kept.put(Kind.OUTCOME, ['{"id":1}'])
    (path,) = kept.waiting()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(Damaged):
        kept.read(path)


def test_files_that_are_done_or_set_aside_do_not_wait(kept: Spool) -> None:
    """Quarantine counts towards what the spool holds; doing either twice, as another process might, does no harm."""
    for number in range(3):
        kept.put(Kind.OUTCOME, [str(number)])
    first, second, third = kept.waiting()
    for _ in range(2):
        kept.done(first)
        kept.set_aside(second)
    assert kept.waiting() == [third]
    assert kept.read(first) is None
    kept.set_aside_rows(Kind.OUTCOME, ["4"])
    usage = kept.usage()
    assert (usage.waiting, usage.quarantined) == (1, 2)
    assert usage.bytes == 3 * third.stat().st_size


def test_it_is_bounded(tmp_path: Path) -> None:
    """What would go beyond the bound is refused, and there is room again when something is done with."""
    kept = Spool(tmp_path / "spool", max_bytes=1_000)
    while True:
        try:
            kept.put(Kind.OUTCOME, ["x" * 200])
        except SpoolFull:
            break
    assert kept.usage() == Usage(waiting=3, quarantined=0, bytes=3 * kept.waiting()[0].stat().st_size)
    kept.done(kept.waiting()[0])
    kept.put(Kind.OUTCOME, ["x" * 200])
    with pytest.raises(SpoolFull):
        kept.put(Kind.OUTCOME, ["x" * 200])


def test_what_other_processes_put_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is added up anew once it is a second old."""
    one, other = (Spool(tmp_path / "spool", max_bytes=700) for _ in range(2))
    one.put(Kind.OUTCOME, ["x" * 200])
    other.put(Kind.OUTCOME, ["x" * 200])
    monkeypatch.setattr(spool, "_FRESH_SECONDS", 0)
    with pytest.raises(SpoolFull):
        one.put(Kind.OUTCOME, ["x" * 200])


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond a hundred bytes: for a write, that is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_and_leaves_nothing(kept: Spool, request: pytest.FixtureRequest) -> None:
    """No half file is there to be replayed, or to take room."""
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match="File too large"):
        kept.put(Kind.OUTCOME, ["x" * 200])
    assert os.listdir(kept.directory) == ["quarantine"]


def test_a_file_of_a_writer_that_was_killed_is_taken_over(kept: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is whole it is worth replaying; while its writer may live it is left alone."""
    kept.put(Kind.OUTCOME, ["1"])
    (path,) = kept.waiting()
    begun = path.rename(f"{path}.begun")
    assert kept.waiting() == []
    monkeypatch.setattr(spool, "_GIVEN_UP_SECONDS", -1)
    assert kept.waiting() == [path]
    assert not begun.exists()


def test_threads_put_without_losing_anything(kept: Spool) -> None:
    """Each write is a file of its own."""
    threads = [threading.Thread(target=lambda: [kept.put(Kind.OUTCOME, ["{}"]) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.usage().waiting == 80


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves whole files only."""
    program = (
        "import sys; from provenance.journal.spool import Kind, Spool\n"
        "kept = Spool(sys.argv[1])\n"
        "while True:\n    kept.put(Kind.OUTCOME, ['x' * 1000]); print('kept', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "spool")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        process.kill()
        said += process.stdout.readlines()
    found = entries(Spool(tmp_path / "spool"))
    assert len(found) >= said.count(b"kept\n")
    assert {rows for _, rows in found} == {("x" * 1000,)}
