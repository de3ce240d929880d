"""Making a resolved view anew: a view cannot be altered, and who owns it and may read it is to stay the same. Pure.

Both halves are blocks of PL/pgSQL, for :func:`ddl.script`. Types of variables are looked up before that has set the
search_path, so they are written with their schema.
"""

from __future__ import annotations

import hashlib

from provenance.concepts import ddl
from provenance.concepts.definition import Concept
from provenance.concepts.naming import literal

_GRANTEE = "CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END"


def _setting(concept: Concept) -> str:
    return f"provenance.rights_{hashlib.sha256(ddl.qualified(concept.resolved).encode()).hexdigest()[:8]}"


def drop(concept: Concept) -> str:
    """Return the block that drops the view and keeps in a setting what was granted on it.

    It fails where people have put something on the view that the declaration knows nothing of.
    """
    view = ddl.qualified(concept.resolved)
    known = ", ".join(map(literal, (concept.view_key, *ddl.view_indexes(concept))))
    return f"""\
-- The view is made anew. Whoever owns it and whoever may read it stay the same.
DECLARE
    view CONSTANT pg_catalog.regclass := {literal(view)};
    lost CONSTANT pg_catalog.text := (
        SELECT string_agg(l.what, ', ' ORDER BY l.what)
          FROM (SELECT format('the index %I', i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                 WHERE x.indrelid = view AND i.relname <> ALL (ARRAY[{known}])
                UNION ALL
                SELECT format('the statistics %I', t.stxname) FROM pg_statistic_ext t WHERE t.stxrelid = view
                UNION ALL
                SELECT format('the comment on the column %I', a.attname) FROM pg_attribute a
                 WHERE a.attrelid = view AND col_description(view, a.attnum) IS NOT NULL
                UNION ALL
                SELECT 'its comment' WHERE obj_description(view, 'pg_class') <> {literal(ddl.view_comment(concept))}
                UNION ALL
                SELECT format('the options %s', array_to_string(c.reloptions, ', ')) FROM pg_class c
                 WHERE c.oid = view AND c.reloptions IS NOT NULL) AS l (what));
BEGIN
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'the view % has to be made anew, and would lose what was put on it by hand: %', view, lost
            USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Take that off first, and put it on again afterwards.';
    END IF;
    PERFORM set_config('{_setting(concept)}', (
        SELECT jsonb_agg(jsonb_build_array(s.on_column, s.command) ORDER BY s.step)
          FROM (SELECT 1, NULL, format('ALTER MATERIALIZED VIEW %s OWNER TO %s', view, c.relowner::regrole)
                  FROM pg_class c WHERE c.oid = view
                UNION ALL
                -- Without a list of rights the owner has them all.
                SELECT 2, NULL, format('REVOKE ALL ON %s FROM %s', view, c.relowner::regrole)
                  FROM pg_class c WHERE c.oid = view AND c.relacl IS NOT NULL
                UNION ALL
                SELECT 3, h.on_column,
                       format('GRANT %s%s ON %s TO %s%s', g.privilege_type, ' (' || quote_ident(h.on_column) || ')', view,
                              {_GRANTEE}, CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
                  FROM (SELECT NULL, c.relacl FROM pg_class c WHERE c.oid = view
                        UNION ALL
                        SELECT a.attname::text, a.attacl FROM pg_attribute a
                         WHERE a.attrelid = view) AS h (on_column, rights)
                 CROSS JOIN aclexplode(h.rights) g) AS s (step, on_column, command))::text, true);
    DROP MATERIALIZED VIEW {view};
END;
"""  # noqa: S608 - every name is quoted


def recreate(concept: Concept) -> str:
    """Return the statements that make the view again, with the rights that were on it, and no others.

    New objects may get rights by default that somebody has taken away from this one. A column may be gone.
    """
    view = ddl.qualified(concept.resolved)
    return f"""\
{ddl.view(concept)}DECLARE
    view CONSTANT pg_catalog.regclass := {literal(view)};
    command pg_catalog.text;
BEGIN
    FOR command IN
        SELECT c.command
          FROM (SELECT 0, format('REVOKE ALL ON %s FROM %s', view, {_GRANTEE})
                  FROM pg_class c CROSS JOIN aclexplode(c.relacl) g WHERE c.oid = view AND g.grantee <> c.relowner
                UNION ALL
                SELECT s.step, s.saved ->> 1
                  FROM jsonb_array_elements(current_setting('{_setting(concept)}')::jsonb)
                       WITH ORDINALITY AS s (saved, step)
                 WHERE s.saved ->> 0 IS NULL
                    OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = view AND a.attname = s.saved ->> 0)
               ) AS c (step, command)
         ORDER BY c.step
    LOOP
        EXECUTE command;
    END LOOP;
END;
"""  # noqa: S608 - every name is quoted
