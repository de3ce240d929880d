"""Migrations as plain SQL, for tools and people who run SQL themselves."""

from __future__ import annotations

from provenance.errors import MigrationError
from provenance.schema.flavors import INSTALLED, KEEP_HERE, Flavor, citus, flavor_named
from provenance.schema.migrations import Migration, known_migrations
from provenance.schema.runner import LEDGER, LOCK_KEY

# One statement: whoever runs it, and however, it is done as a whole or not at all. The first names are qualified, since the
# path is the caller's until then; what comes later is planned when its turn comes.
_SCRIPT = """\
-- The schema provenance, from version {since} to version {to}. One statement: all of it happens, or nothing.
-- To be run by the role that shall own the schema, or a member of it.
DO $provenance$
DECLARE
    path CONSTANT text := pg_catalog.current_setting('search_path');
    role CONSTANT text := pg_catalog.current_setting('role');
    owner name;
    applied text[] := '{{}}';
    expected CONSTANT text[] := '{{{expected}}}';
BEGIN
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'this is to be run at READ COMMITTED, to see what others do meanwhile';
    END IF;
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'the encoding of this database is %, and the trail needs UTF8', getdatabaseencoding()
            USING HINT = 'Make the database with CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    PERFORM pg_advisory_xact_lock({lock});
    SELECT r.rolname INTO owner FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
     WHERE n.nspname = 'provenance' AND r.rolname <> current_user AND pg_has_role(r.oid, 'MEMBER');
    IF owner IS NOT NULL THEN
        EXECUTE format('SET LOCAL ROLE %I', owner);
    END IF;
    IF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'provenance' AND c.relname = 'migrations') THEN
        SELECT array_agg(m.version || ' ' || m.checksum ORDER BY m.version) INTO applied FROM provenance.migrations m;
    END IF;
    IF COALESCE(applied, '{{}}') <> expected THEN
        RAISE EXCEPTION 'this is for the schema provenance at version {since}, and here it is at version %{edited}',
            COALESCE(split_part(applied[cardinality(applied)], ' ', 1), '0')
            USING HINT = 'See `provenance migrate status`; nothing is done.';
    END IF;
{steps}
    PERFORM set_config('role', role, true), set_config('search_path', path, true);
END
$provenance$;
"""

_MONTHS = "    PERFORM provenance.ensure_partitions();\n"


def script(since: int, to: int, *, flavor: str | None = None) -> str:
    """Return the SQL that takes the schema from a version to another one, and notes that as the runner does.

    It is one statement. It refuses, before it does anything, a database that is not at version *since*.

    Args:
        since: the version that the schema is at; 0: it is not there.
        to: the version that it shall be at; 0: it is removed, with everything that is recorded.
        flavor: ``"citus"`` for the coordinator of Citus, on the way to the newest version.

    Raises:
        MigrationError: this version of the library does not know such a version or flavor.
    """
    known = known_migrations()
    chosen = flavor_named(flavor)
    if chosen and not since < to == len(known):
        raise MigrationError(f"a flavor is for a way up to the newest version, {len(known)}")
    for version in (since, to):
        if not 0 <= version <= len(known):
            raise MigrationError(
                f"expected versions from 0 to {len(known)}, got {version}; a newer library may know it"
            )
    steps = [_up(migration) for migration in known[since:to]]
    steps += [_down(migration) for migration in reversed(known[to:since])]
    if since == 0 < to:
        steps.insert(0, _execute(LEDGER))
    if chosen:
        steps.append(_flavored(chosen))
    if since < to:
        steps.insert(0, _execute(chosen.check) if chosen else f"    PERFORM {KEEP_HERE};\n")
        steps.append(_MONTHS)
    elif to == 0 < since:
        steps.append(_execute(citus().down))
        steps.append(_execute("DROP TABLE provenance.migrations; DROP SCHEMA provenance;"))
    return _SCRIPT.format(
        since=since,
        to=to,
        expected=",".join(f'"{migration.version} {migration.checksum}"' for migration in known[:since]),
        lock=LOCK_KEY,
        edited=", or one of its migrations is another one" if since else "",
        steps="\n".join(steps),
    )


def _execute(text: str) -> str:
    return f"    EXECUTE $migration$\n{text}\n$migration$;\n"


def _flavored(flavor: Flavor) -> str:
    return f"    IF NOT ({INSTALLED}) THEN\n{_execute(flavor.up)}    END IF;\n"


def _up(migration: Migration) -> str:
    return (
        f"    -- {migration.version:04} {migration.name}\n{_execute(migration.up)}"  # noqa: S608 - of our own files
        "    INSERT INTO provenance.migrations (version, name, checksum)\n"
        f"    VALUES ({migration.version}, '{migration.name}', '{migration.checksum}');\n"
    )


def _down(migration: Migration) -> str:
    return (
        f"    -- {migration.version:04} {migration.name}, taken back\n{_execute(migration.down)}"  # noqa: S608 - of our own files
        f"    DELETE FROM provenance.migrations m WHERE m.version = {migration.version};\n"
    )
