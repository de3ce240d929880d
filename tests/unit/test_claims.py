"""What the documentation claims to be tested is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("guarantees", "faults")
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(file: str) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_is_there(page: str) -> None:
    """A promise without its test is no promise."""
    text = (ROOT / f"docs/explanation/{page}.md").read_text(encoding="utf-8")
    named = _NAMED.findall(text)
    assert len(named) > 20
    assert [f"{file}::{test}" for file, test in named if test not in names_in(file)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_a_test(page: str) -> None:
    """Or says why there is none."""
    for line in (ROOT / f"docs/explanation/{page}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| Fault", "| Promise")):
            assert "`tests/" in line or line.rstrip().endswith(("| the same |", "here. |")), line


def test_the_front_page_leads_to_every_page() -> None:
    """In a clone there is no navigation beside it."""
    wanted = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert len(wanted) > 30
    assert wanted - {"index.md"} == linked
