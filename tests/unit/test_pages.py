"""The tool that runs the documentation: it notices what is wrong, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import pages

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

ONE = "01a20675-e88c-7a01-9204-8f442bf0f174"
TWO = "01a20675-e8c7-7a13-a05d-d85e42e34f08"
OURS = "01b00000-0000-7000-8000-000000000001"
OTHER = "01b00000-0000-7000-8000-000000000002"


@pytest.fixture
def reader(tmp_path: Path) -> pages.Reader:
    """Somebody without a database."""
    return pages.Reader(tmp_path, "")


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("completed\n", "completed\n"),
        ("TOOK   ID\n2.1 ms  x\n", "TOOK      ID\n14.75 ms  x\n"),
        ("at 2026-01-01 00:00:00.000Z", "at 2027-12-31 23:59:59.999Z"),
        ("first\n...\nlast", "first\nanything\nat all\nlast"),
        (f"{ONE} {TWO} {ONE}", f"{OURS} {OTHER} {OURS}"),
    ],
)
def test_what_may_differ_may_differ(reader: pages.Reader, expected: str, printed: str) -> None:
    """Ids, times, durations, gaps and what is left out do not matter."""
    assert pages.compare(expected, printed, reader) is None


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("completed", "failed"),
        ("completed", ""),
        ("completed", "completed\nand more"),
        ("took 2.1 ms", "took long"),
        (f"{ONE} {ONE}", f"{OURS} {OTHER}"),
        ("first\n...\nlast", "first\nanything"),
    ],
)
def test_anything_else_is_a_difference(reader: pages.Reader, expected: str, printed: str) -> None:
    """The difference shows both texts."""
    assert f"the page says:\n{expected}\n\nbut it is:\n{printed}" == pages.compare(expected, printed, reader)


def test_an_id_of_the_page_stands_for_the_same_id_from_then_on(reader: pages.Reader) -> None:
    """What one command printed can be given to the next."""
    pages.compare(f"id {ONE}", f"id {OURS}", reader)
    assert f"provenance show {OURS}" == reader.own(f"provenance show {ONE}")
    assert pages.compare(ONE, OTHER, reader) is not None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_example_is_left_out(path: Path) -> None:
    """Every block in a language that is run is found, and there are no languages that look like one."""
    document = pages.pages(ROOT).parse(path)
    text = re.sub(r"<!--.*?-->", "", document.text, flags=re.DOTALL)
    languages = re.findall(r"^ *```(\S.*)$", text, flags=re.MULTILINE)
    # py is for what cannot be run here, and the page says so.
    assert set() == set(languages) - pages.LANGUAGES - {"py"}
    found = [region for _, region in document.regions if document.text[region.start : region.end].lstrip()[:3] == "```"]
    assert len([language for language in languages if language in pages.LANGUAGES]) == len(found)
