"""``provenance erase``: takes out of the trail what was recorded of somebody."""

from __future__ import annotations

import attrs
import click

from provenance import request_scope
from provenance.cli.database import recording
from provenance.cli.output import clean, emit_json
from provenance.cli.parameters import entity_ref, json_option
from provenance.models import EntityRef


@click.command(short_help="Take out what was recorded of somebody.")
@click.option("--user", metavar="ID", help="Of all that this user did.")
@click.option("--entity", type=entity_ref, metavar="TYPE:ID", help="Of all that was done to this entity.")
@click.option("--row", "table", metavar="TABLE", help="Of all changes of one row of this captured table.")
@click.option("--key", "keys", multiple=True, metavar="VALUE", help="The primary key of that row, a value each.")
@click.option("--tenant", metavar="ID", help="Within this tenant only; '' for what belongs to none.")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever asks later.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def erase(
    dsn: str | None,
    *,
    user: str | None,
    entity: EntityRef | None,
    table: str | None,
    keys: tuple[str, ...],
    tenant: str | None,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Take out, for good, what was recorded of a user, an entity or a row: payloads, results, metadata, errors and values.

    That something was done, by whom and when, stays; and so does the erasure itself, as an action.
    """
    if sum(given is not None for given in (user, entity, table)) != 1:
        raise click.UsageError("give one of --user ID, --entity TYPE:ID and --row TABLE")
    if (table is None) != (not keys):
        raise click.UsageError("--row TABLE and --key VALUE go together")
    if not yes:
        whom = f"user {user}" if user else f"{entity.type} {entity.id}" if entity else f"{table} {' '.join(keys)}"
        click.confirm(
            f"This takes what was recorded of {clean(whom)} out of the trail, for good. Go on?", abort=True, err=True
        )
    with recording(dsn) as trail, request_scope():
        done = trail.erase(
            user_id=user,
            entity=(entity.type, entity.id) if entity else None,
            row=(table, list(keys)) if table else None,
            tenant_id=tenant,
            reason=reason,
        )
    if as_json:
        emit_json(attrs.asdict(done))
        return
    click.echo(
        f"{done.actions} action(s), {done.pending} pending action(s) and {done.row_changes} row change(s) erased"
    )
    if not (done.actions or done.pending or done.row_changes):
        click.echo("Nothing was found; is it spelled as it was recorded?", err=True)
    click.echo(f"recorded as action {done.action_id}")
