"""Migrations as plain SQL, for tools and people who run SQL themselves."""

from __future__ import annotations

from provenance.errors import MigrationError
from provenance.schema.migrations import Migration, known_migrations
from provenance.schema.runner import LEDGER, LOCK_KEY

# The settings are those of the transaction: whoever runs the statements one by one finds them gone at the second. The ledger
# is read once the lock is held, as the runner reads it.
_BEGIN = """\
-- The schema provenance, from version {since} to version {to}.
-- To be run in one transaction, by the role that shall own the schema or a member of it.
DO $provenance$
BEGIN
    PERFORM pg_catalog.set_config('provenance.migrating', '{since} {to}', true),
            pg_catalog.set_config('provenance.migrating_path', pg_catalog.current_setting('search_path'), true),
            pg_catalog.set_config('provenance.migrating_role', pg_catalog.current_setting('role'), true);
    SET LOCAL search_path = pg_catalog, pg_temp;
END
$provenance$;
DO $provenance$
DECLARE
    owner name;
    applied text[] := '{{}}';
    expected CONSTANT text[] := '{{{expected}}}';
BEGIN
    IF pg_catalog.current_setting('provenance.migrating', true) IS DISTINCT FROM '{since} {to}' THEN
        RAISE EXCEPTION 'this is to be run in one transaction, and nothing is done'
            USING HINT = 'Give psql --single-transaction, or put BEGIN before it and COMMIT behind it.';
    END IF;
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
END
$provenance$;
"""

_END = """
DO $provenance$
BEGIN
    PERFORM set_config('role', current_setting('provenance.migrating_role'), true),
            set_config('search_path', current_setting('provenance.migrating_path'), true);
END
$provenance$;
"""

_MONTHS = """
DO $provenance$
BEGIN
    PERFORM provenance.ensure_partitions();
END
$provenance$;
"""


def script(since: int, to: int) -> str:
    """Return the SQL that takes the schema from a version to another one, and notes that as the runner does.

    To be run in one transaction. Refuses, before it does anything, a database that is not at version *since*.

    Args:
        since: the version that the schema is at; 0: it is not there.
        to: the version that it shall be at; 0: it is removed, with everything that is recorded.

    Raises:
        MigrationError: this version of the library does not know such a version.
    """
    known = known_migrations()
    for version in (since, to):
        if not 0 <= version <= len(known):
            raise MigrationError(
                f"expected versions from 0 to {len(known)}, got {version}; a newer library may know it"
            )
    expected = ",".join(f'"{migration.version} {migration.checksum}"' for migration in known[:since])
    steps = [_up(migration) for migration in known[since:to]] + [
        _down(migration) for migration in reversed(known[to:since])
    ]
    if since == 0 < to:
        steps.insert(0, LEDGER)
    if since < to:
        steps.append(_MONTHS)
    elif to == 0 < since:
        steps.append("DROP TABLE provenance.migrations;\nDROP SCHEMA provenance;")
    begin = _BEGIN.format(
        since=since,
        to=to,
        expected=expected,
        lock=LOCK_KEY,
        edited=", or one of its migrations is another one" if since else "",
    )
    return "\n".join([begin, *steps, _END])


def _up(migration: Migration) -> str:
    return (
        f"-- {migration.version:04} {migration.name}\n\n{migration.up}\n"
        "INSERT INTO provenance.migrations (version, name, checksum) "
        f"VALUES ({migration.version}, '{migration.name}', '{migration.checksum}');\n"
    )


def _down(migration: Migration) -> str:
    return (
        f"-- {migration.version:04} {migration.name}, taken back\n\n{migration.down}\n"
        f"DELETE FROM provenance.migrations WHERE version = {migration.version};\n"
    )
