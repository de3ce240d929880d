"""Which way imports run: from the rooms that know nothing to those that know more."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import provenance

SOURCE = Path(provenance.__file__).parent

# A module may import those of its own layer that stand before it, and any layer below.
LAYERS = [
    [
        "forking",
        "errors",
        "models.actions",
        "models.changes",
        "models.keeping",
        "models.upkeep",
        "models",
        "values.texts",
        "values.keys",
        "values.cards",
        "values.tokens",
        "values.ends",
        "values.arguments",
        "values.complaints",
        "values.named",
        "values.pairs",
        "values.markup",
        "values.neighbours",
        "values.documents",
        "values.redactor",
        "values.writing",
        "values",
        "ids",
        "context",
    ],
    ["failures", "translation"],
    [
        "statements",
        "statements.recording",
        "statements.intents",
        "statements.keys",
        "statements.reading",
        "statements.rows",
        "statements.changes",
        "statements.tables",
        "statements.views",
        "statements.erasing",
        "statements.partitions",
        "statements.holds",
        "statements.retention",
        "statements.upkeep",
        "statements.version",
    ],
    [
        "drivers.connections",
        "drivers.pooler",
        "drivers.messages",
        "drivers.preceding",
        "drivers.trips",
        "drivers.running",
        "drivers",
    ],
    [
        "recording.callers",
        "recording.blocks",
        "recording.steps",
        "recording.keys",
        "recording.owed",
        "recording.entering",
        "recording.leaving",
        "recording.abandoned",
        "recording",
    ],
    ["tracking.handles", "tracking.driving", "tracking.hosts", "tracking.block", "tracking", "repository"],
    [
        "journal.spool",
        "journal.heartbeat",
        "journal.limits",
        "journal.outage",
        "journal.answered",
        "journal.connections",
        "journal",
    ],
    [
        "changes",
        "capture",
        "refreshing",
        "outliving",
        "recovery",
        "erasure",
        "holds",
        "policies",
        "upkeep.report",
        "upkeep.partitions",
        "upkeep",
    ],
    ["setting_up"],
    ["trail"],
    ["configuration"],
    ["__init__"],
    ["schema.migrations", "schema.flavors", "schema.runner", "schema.plain", "schema.catalogue", "schema", "embedded"],
    ["doctor"],
    [
        "archive.columns",
        "archive.parquet",
        "archive.files",
        "archive.ledger",
        "archive.steps",
        "archive.exporting",
        "archive.unfinished",
        "archive.leaving",
        "archive.restoring",
        "archive.retiring",
        "archive.iceberg",
        "archive.reading",
        "archive",
    ],
    ["concepts"],
    ["geo"],
    ["contrib", "testing", "examples", "cli"],
    ["__main__"],
]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def rank(module: str) -> int:
    """Return the position of a module in the order of layers."""
    candidates = [module, module.split(".", maxsplit=1)[0]]
    order = [name for layer in LAYERS for name in layer]
    return next(order.index(name) for name in candidates if name in order)


def imports(module: str) -> set[str]:
    """Return the modules of this library that a module imports when it is imported."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "provenance":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                dotted = f"{base}.{alias.name}".strip(".")
                found.add(dotted if dotted in MODULES else base or "__init__")
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.partition(".")[2] or "__init__"
                for alias in node.names
                if alias.name.partition(".")[0] == "provenance"
            }
    return found - {module}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(module: str) -> None:
    """The order of the rooms is the order of the imports."""
    upwards = {name for name in imports(module) if rank(name) > rank(module)}
    assert upwards == set()


def test_nothing_imports_contrib() -> None:
    """Adapters are leaves: only they know each other."""
    users = {module for module in MODULES if any(name.split(".")[0] == "contrib" for name in imports(module))}
    assert {user for user in users if not user.startswith(("contrib", "examples"))} == set()


def test_schema_knows_only_errors() -> None:
    """Migrations can be run by anybody, without the rest of the library."""
    found = set().union(*(imports(module) for module in MODULES if module.startswith("schema")))
    assert {name for name in found if not name.startswith("schema")} == {"errors"}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a new process has loaded after a statement."""
    script = f"{statement}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_importing_the_library_imports_nothing_else() -> None:
    """Its names are imported when they are asked for: a process that needs few of them starts without the others."""
    loaded = loaded_by("import provenance")
    assert {"provenance"} == {name for name in loaded if name.startswith("provenance")}
    assert set() == loaded & {"psycopg", "psycopg_pool", "attrs", "asgiref", "werkzeug"}


def test_middleware_imports_no_driver_and_nothing_that_records() -> None:
    """What a request needs is its context."""
    loaded = loaded_by("import provenance.contrib.asgi, provenance.contrib.wsgi")
    assert set() == loaded & {
        "psycopg",
        "psycopg_pool",
        "asgiref",
        "werkzeug",
        "provenance.tracking",
        "provenance.journal",
    }


def test_every_name_is_what_a_type_checker_takes_it_for() -> None:
    """The names are imported twice: by a type checker, and when they are asked for."""
    tree = ast.parse(MODULES["__init__"].read_text(encoding="utf-8"))
    found = {
        alias.name: getattr(import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("provenance.")
        for alias in node.names
        if node.module
    }
    assert found == {name: getattr(provenance, name) for name in provenance.__all__}
    assert set(found) <= set(dir(provenance))


def test_there_is_no_other_name() -> None:
    """A misspelt name is reported as it is for any module."""
    with pytest.raises(AttributeError, match=r"^module 'provenance' has no attribute 'track_acton'$"):
        provenance.track_acton  # type: ignore[attr-defined]  # noqa: B018 - asking is all


def test_the_whole_library_imports_no_framework() -> None:
    """The core runs on psycopg, its pool and attrs alone."""
    distributions = packages_distributions()
    modules = {name.partition(".")[0] for name in loaded_by("from provenance import *")}
    loaded = {name for module in modules for name in distributions.get(module, [])}
    assert loaded - {"provenance-trail", "pip", "setuptools"} <= {
        "attrs",
        "coverage",
        "psycopg",
        "psycopg-binary",
        "psycopg-pool",
        "typing_extensions",
        "typing-extensions",
    }
