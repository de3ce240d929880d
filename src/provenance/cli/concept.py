"""``provenance concept``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from provenance.cli.database import connected
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import Misuse
from provenance.concepts import Concept, Plan, apply, down_sql, linked, plan, up_sql
from provenance.errors import ProvenanceError


@click.group()
def concept() -> None:
    """Turn declared concepts into SQL."""


@concept.command()
@click.argument("source", metavar="FILE_OR_MODULE")
@click.option("--down", is_flag=True, help="Print what takes it back.")
@click.option("--changes", is_flag=True, help="Print only what differs from the database.")
@click.option("--apply", "applying", is_flag=True, help="Make the database what is declared.")
@click.option("--drop-columns", is_flag=True, help="Allow columns to be dropped, with what is in them.")
@json_option
@click.pass_obj
def sql(
    dsn: str | None,
    *,
    source: str,
    down: bool,
    changes: bool,
    applying: bool,
    drop_columns: bool,
    as_json: bool,
) -> None:
    """Print the SQL that makes the concepts declared in FILE_OR_MODULE.

    That is a file such as concepts.py, or a module such as app.concepts. With a name after a colon, as in
    app.concepts:notification, it is that concept alone, or that list of concepts.
    """
    if applying and (down or changes):
        raise click.UsageError("--apply does not print; leave out --down and --changes")
    if drop_columns and not (applying or changes):
        raise click.UsageError("--drop-columns goes with --changes or --apply")
    concepts = load(source)
    if applying:
        with connected(dsn) as connection:
            _report(apply(connection, *concepts, drop_columns=drop_columns), as_json=as_json)
        return
    if changes:
        with connected(dsn) as connection:
            script = plan(connection, *concepts, drop_columns=drop_columns).script
        text = script.down if down else script.up
    else:
        text = down_sql(*concepts) if down else up_sql(*concepts)
    if as_json:
        emit_json({"sql": text})
    elif text:
        click.echo(text, nl=False)
    else:
        click.echo("nothing to change", err=True)


def _report(done: Plan, *, as_json: bool) -> None:
    if as_json:
        emit_json({"created": done.created, "changed": done.changed, "sql": done.script.up})
        return
    for name in done.created:
        click.echo(f"made {clean(name)}")
    for name in done.changed:
        click.echo(f"changed {clean(name)}")
    if not done.script.up:
        click.echo("nothing to change")


# -- finding declarations --


def load(source: str) -> list[Concept]:
    """Return the concepts that are declared somewhere, in their order there, linked with all others of that place.

    Args:
        source: a file ending in ``.py``, or a module; with a name after a colon, only that.

    Raises:
        Misuse: there is no such file, module or name; it cannot be loaded; or no concept is in it.
        InvalidConcept: a declaration is wrong.
    """
    place, _, name = source.partition(":")
    module = _module(place)
    known = _concepts(vars(module).values())
    if name:
        if (found := getattr(module, name, None)) is None:
            raise Misuse(f"there is no {name} in {place}; it has {_names(known) or 'no concept at all'}")
        wanted = _concepts([found])
        known = _concepts([*known, *wanted])
    else:
        wanted = known
    if not wanted:
        raise Misuse(f"no concept is declared in {source}; expected a Concept, or a list of them, at its top level")
    names = {declared.name for declared in wanted}
    return [declared for declared in linked(*known) if declared.name in names]


def _names(concepts: Iterable[Concept]) -> str:
    return ", ".join(declared.name for declared in concepts)


def _concepts(values: Iterable[Any]) -> list[Concept]:
    """Return the concepts among some values, and in lists among them, each once."""
    found: dict[Concept, None] = {}
    for value in values:
        if isinstance(value, Concept):
            found[value] = None
        elif isinstance(value, (list, tuple)):
            items = cast("list[object]", value)
            found |= {item: None for item in items if isinstance(item, Concept)}
    return list(found)


def _module(place: str) -> ModuleType:
    try:
        return _file(Path(place)) if place.endswith(".py") else _dotted(place)
    except (Misuse, ProvenanceError):
        raise
    except SyntaxError as error:
        raise Misuse(f"{place} cannot be loaded: line {error.lineno} of {error.filename}: {error.msg}") from error
    except Exception as error:  # the file may do anything when it is loaded
        raise Misuse(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Misuse(f"there is no file {path}; give the path of a Python file, or the dotted name of a module")
    name = f"provenance_declared_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - it is known what to do with a file ending in .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    # What stands beside it can be imported, as when Python runs the file.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        del sys.modules[name]
    return module


def _dotted(name: str) -> ModuleType:
    # A script is started with the directory that it is in; the application is where the person is.
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise Misuse(
            f"there is no module {name}; run this where it can be imported, or give the path of a file ending in .py"
        ) from error
    finally:
        sys.path.pop(0)
