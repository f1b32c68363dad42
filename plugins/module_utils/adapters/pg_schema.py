# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of a database, read from the catalogue as text that can be compared."""

from __future__ import annotations

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_facts import stable
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import facts

# Everything of the users' own: neither the server's nor an extension's. A restore gives an explicit default grant back as none, so both are shown alike.
_COMMON = """
WITH spaces AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), extended AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
  SELECT c.*, format('%I.%I', s.nspname, c.relname) AS full_name FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)
), grants AS (
  SELECT c.oid, 0 AS part, c.relowner AS owner, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
    FROM relations c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL SELECT a.attrelid, a.attnum, NULL, a.attacl FROM pg_attribute a JOIN relations c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL
)
"""
_ACL = "(SELECT coalesce(string_agg(item::text, ' ' ORDER BY item::text COLLATE \"C\"), 'nobody') FROM unnest({acl}) AS item)"


def _acl(acl: str) -> str:
    return _ACL.format(acl=acl)


_PARTS = (
    # Schemas; the owner of public is the server's business.
    f"""SELECT 'schema' AS kind, quote_ident(nspname) AS name, format('owner %s, grants %s', pg_get_userbyid(nspowner),
      {_acl("coalesce(nspacl, acldefault('n', nspowner))")}) AS definition
    FROM spaces WHERE NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = spaces.oid)""",
    f"""SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
      WHEN 'f' THEN 'foreign table' END, c.full_name,
      concat_ws(', ', 'owner ' || pg_get_userbyid(c.relowner), CASE c.relpersistence WHEN 'u' THEN 'unlogged' END,
        'partition by ' || CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, 'bound ' || pg_get_expr(c.relpartbound, c.oid),
        'inherits ' || (SELECT string_agg(i.inhparent::regclass::text, ' ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid),
        'options ' || (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(c.reloptions) AS o),
        CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced row security' END,
        CASE WHEN c.relreplident <> 'd' THEN 'replica identity ' || c.relreplident::text END,
        CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'not populated' END,
        'grants ' || {_acl("g.acl")}) || CASE WHEN c.relkind IN ('v', 'm') THEN E'\\n' || pg_get_viewdef(c.oid) ELSE '' END
    FROM relations c JOIN grants g ON g.oid = c.oid AND g.part = 0 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')""",
    # Columns that were dropped leave a gap in the numbers, which a restore closes.
    f"""SELECT 'column', c.full_name || '.' || quote_ident(a.attname),
      concat_ws(', ', 'place ' || row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation NOT IN (0, t.typcollation) THEN 'collation ' || a.attcollation::regcollation::text END,
        CASE WHEN a.attnotnull THEN 'not null' END, nullif('identity ' || a.attidentity::text, 'identity '),
        nullif('generated ' || a.attgenerated::text, 'generated '),
        'default ' || pg_get_expr(d.adbin, d.adrelid), CASE WHEN a.attstorage <> t.typstorage THEN 'storage ' || a.attstorage::text END,
        'grants ' || {_acl("g.acl")})
    FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum LEFT JOIN grants g ON g.oid = a.attrelid AND g.part = a.attnum
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')""",
    """SELECT 'sequence', c.full_name, format('%s from %s by %s between %s and %s, cache %s, %s, owner %s, of %s', format_type(q.seqtypid, NULL), q.seqstart,
      q.seqincrement, q.seqmin, q.seqmax, q.seqcache, CASE WHEN q.seqcycle THEN 'cycle' ELSE 'no cycle' END, pg_get_userbyid(c.relowner),
      coalesce((SELECT d.refobjid::regclass || '.' || quote_ident(a.attname) FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 LIMIT 1), 'no column'))
      || ', grants ' || """
    + _acl("g.acl")
    + """ FROM relations c JOIN pg_sequence q ON q.seqrelid = c.oid JOIN grants g ON g.oid = c.oid AND g.part = 0""",
    # NOT NULL is told by the column; the constraint behind it has a catalogue row in newer versions only.
    """SELECT 'constraint', coalesce(c.full_name, k.contypid::regtype::text) || '.' || quote_ident(k.conname),
      pg_get_constraintdef(k.oid) || CASE WHEN k.convalidated THEN '' ELSE ', not validated' END
    FROM pg_constraint k JOIN spaces s ON s.oid = k.connamespace LEFT JOIN relations c ON c.oid = k.conrelid
    WHERE k.contype NOT IN ('t', 'n') AND (c.oid IS NOT NULL OR k.contypid <> 0)""",
    """SELECT 'index', x.full_name, concat_ws(', ', pg_get_indexdef(i.indexrelid), CASE WHEN i.indisclustered THEN 'clustered' END,
      CASE WHEN i.indisreplident THEN 'replica identity' END, CASE WHEN NOT (i.indisvalid AND i.indisready AND i.indislive) THEN 'invalid' END)
    FROM relations x JOIN pg_index i ON i.indexrelid = x.oid""",
    """SELECT 'trigger', c.full_name || '.' || quote_ident(t.tgname), pg_get_triggerdef(t.oid) || ', enabled ' || t.tgenabled::text
    FROM relations c JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal""",
    """SELECT 'rule', c.full_name || '.' || quote_ident(r.rulename), pg_get_ruledef(r.oid) || ', enabled ' || r.ev_enabled::text
    FROM relations c JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'""",
    """SELECT 'policy', c.full_name || '.' || quote_ident(p.polname), format('%s for %s to %s using %s check %s',
      CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, p.polcmd,
      (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END, ' ' ORDER BY 1) FROM unnest(p.polroles) AS r),
      coalesce(pg_get_expr(p.polqual, p.polrelid), 'nothing'), coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'nothing'))
    FROM relations c JOIN pg_policy p ON p.polrelid = c.oid""",
    f"""SELECT 'function', p.oid::regprocedure::text, format('owner %s, grants %s', pg_get_userbyid(p.proowner),
      {_acl("coalesce(p.proacl, acldefault('f', p.proowner))")})
      || E'\\n' || CASE WHEN p.prokind = 'a' THEN 'aggregate, ' || (SELECT concat_ws(', ', 'over ' || g.aggtransfn::text,
        'of ' || format_type(g.aggtranstype, NULL),
        'final ' || g.aggfinalfn::text, 'from ' || g.agginitval) FROM pg_aggregate g WHERE g.aggfnoid = p.oid) ELSE pg_get_functiondef(p.oid) END
    FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace
    WHERE NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid)""",
    f"""SELECT CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' ELSE 'range' END, t.oid::regtype::text,
      concat_ws(', ', (SELECT string_agg(quote_literal(e.enumlabel), ' ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
        CASE WHEN t.typbasetype <> 0 THEN format_type(t.typbasetype, t.typtypmod) END, CASE WHEN t.typnotnull THEN 'not null' END, 'default ' || t.typdefault,
        (SELECT 'of ' || format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid),
        'owner ' || pg_get_userbyid(t.typowner), 'grants ' || {_acl("coalesce(t.typacl, acldefault('T', t.typowner))")})
    FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r') AND NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid)""",
    """SELECT 'extension', quote_ident(x.extname), x.extversion || ' in ' || x.extnamespace::regnamespace FROM pg_extension x""",
    """SELECT 'statistics', format('%I.%I', s.nspname, x.stxname), pg_get_statisticsobjdef(x.oid)
    FROM pg_statistic_ext x JOIN spaces s ON s.oid = x.stxnamespace""",
    """SELECT 'event trigger', quote_ident(evtname), format('%s calls %s, enabled %s, tags %s', evtevent, evtfoid::regprocedure, evtenabled, evttags)
    FROM pg_event_trigger e WHERE NOT EXISTS (SELECT 1 FROM extended x WHERE x.classid = 'pg_event_trigger'::regclass AND x.objid = e.oid)""",
    """SELECT 'publication', quote_ident(p.pubname), format('all tables %s, insert %s, update %s, delete %s, tables %s', p.puballtables, p.pubinsert,
      p.pubupdate, p.pubdelete, (SELECT string_agg(r.prrelid::regclass::text, ' ' ORDER BY 1) FROM pg_publication_rel r WHERE r.prpubid = p.oid))
    FROM pg_publication p""",
    f"""SELECT 'default grants', concat_ws(' ', 'of', pg_get_userbyid(d.defaclrole), 'on', d.defaclobjtype,
      'in ' || nullif(d.defaclnamespace, 0)::regnamespace::text),
      {_acl("d.defaclacl")} FROM pg_default_acl d""",
    """SELECT (o).type, (o).identity, '' FROM (
      SELECT pg_identify_object(v.classid, v.oid, 0) AS o, v.classid, v.oid FROM (
        SELECT 'pg_collation'::regclass AS classid, oid FROM pg_collation UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast
        UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
        UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
        UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language) v
      WHERE v.oid >= 16384 AND NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = v.classid AND e.objid = v.oid)) AS made""",
    """SELECT 'comment on ' || (o).type, (o).identity, description FROM (
      SELECT pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o, d.description FROM pg_description d
      WHERE d.objoid >= 16384 AND NOT EXISTS (SELECT 1 FROM extended e WHERE e.classid = d.classoid AND e.objid = d.objoid)
        AND d.classoid <> 'pg_extension'::regclass) AS commented""",
)


def schema_fingerprint(session: Session) -> facts.Schema:
    """Return the schema as text and its SHA-256: owners, grants, columns, constraints, indexes, views, functions, types, policies, triggers, comments.

    The same database read twice gives the same text, and so does its restored copy. Of operators, casts, collations, text search and
    foreign servers only the names are in it.
    """
    with stable(session):
        return facts.schema(session.query(_COMMON + "\nUNION ALL\n".join(_PARTS)))
