-- Reports never outlive their component, nor wait for those who delete it; only those who need our functions may
-- call them.

-- Those that have ended, for the hourly deletion. A renewal changes neither column.
CREATE INDEX sdb_report_ended ON sdb_report (ended_at) WHERE NOT is_live;

-- A deletion does not see the reports that were written since its snapshot, so those of an inserted component's id
-- are an earlier component's.
COMMENT ON FUNCTION sdb_forget_reports IS 'Deletes the reports of components that are deleted, and those that are left of an earlier component with an inserted one''s id';

-- Without waiting: a session that deletes components may hold them for any time, and every worker would wait for us.
CREATE OR REPLACE FUNCTION sdb_keep_components(ids integer[]) RETURNS SETOF integer LANGUAGE sql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
    SELECT id FROM component WHERE id = ANY(ids) ORDER BY id FOR KEY SHARE SKIP LOCKED
$$;
COMMENT ON FUNCTION sdb_keep_components IS 'Prevents these components from being deleted until the transaction ends; returns those that exist and that nobody else has locked';

-- A trigger needs no right to its function, only who creates one does. Workers with a role of their own keep theirs.
REVOKE EXECUTE ON FUNCTION sdb_touch, sdb_move_version, sdb_forget_reports, sdb_keep_components FROM PUBLIC;
DO $$
DECLARE
    writer regrole;
BEGIN
    FOR writer IN
        SELECT DISTINCT granted.grantee FROM pg_class, aclexplode(relacl) AS granted
        WHERE pg_class.oid = 'sdb_report'::regclass AND granted.privilege_type = 'INSERT' AND granted.grantee <> 0
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION sdb_keep_components TO %s', writer);
    END LOOP;
END $$;
