"""``provenance concept``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import attrs
import click

from provenance.cli.database import connected
from provenance.cli.declared import module, split
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import json_option
from provenance.cli.problems import Misuse
from provenance.concepts import Concept, Plan, apply, down_sql, linked, plan, up_sql
from provenance.geo import Geography


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
        InvalidConcept: a declaration is wrong, by itself or among the others.
    """
    place, name = split(source)
    loaded = module(place)
    known = _concepts(vars(loaded).values())
    if name:
        if (found := getattr(loaded, name, None)) is None:
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
    """Return the concepts among some values, those of geographies, and in lists among them, each once, linked or not."""
    found: dict[Concept, Concept] = {}
    for value in values:
        items = cast("list[object]", value) if isinstance(value, (list, tuple)) else [value]
        for item in items:
            declared = item.concept if isinstance(item, Geography) else item
            if isinstance(declared, Concept):
                found.setdefault(_unlinked(declared), declared)
    return list(found.values())


def _unlinked(declared: Concept) -> Concept:
    references = [
        reference if reference.concept is None else attrs.evolve(reference, to=reference.concept, concept=None)
        for reference in declared.references
    ]
    return attrs.evolve(declared, references=references)
