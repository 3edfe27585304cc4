-- Removes from the Python dashboard's tables what attach.sql and `worker migrate` added. Our own tables stay,
-- because they have the record of all decisions.

DO $$
DECLARE
    ours record;
BEGIN
    FOR ours IN SELECT tgname, tgrelid::regclass AS shared_table FROM pg_trigger
        WHERE tgrelid IN (to_regclass('component'), to_regclass('component_attribute'),
                to_regclass('incident'), to_regclass('incident_component_relation'),
                to_regclass('incident_status'))
            AND (tgname = 'sdb_touch' OR tgname LIKE 'sdb\_affected\_%')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', ours.tgname, ours.shared_table);
    END LOOP;
    -- What is noted is applied now: afterwards nobody does.
    IF to_regclass('sdb_affected_change') IS NOT NULL THEN
        PERFORM sdb_affected_apply_all(ARRAY(SELECT DISTINCT incident_id FROM sdb_affected_change));
    END IF;
    IF to_regclass('component') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS sdb_forget_reports ON component;
        DROP TRIGGER IF EXISTS sdb_forget_all_reports ON component;
        DROP TRIGGER IF EXISTS sdb_forget_earlier_reports ON component;
    END IF;
END $$;

ALTER TABLE IF EXISTS incident DROP CONSTRAINT IF EXISTS sdb_one_active_system_incident_per_impact;
DROP INDEX IF EXISTS sdb_incident_open, sdb_incident_active, sdb_incident_end, sdb_incident_start,
    sdb_incident_impact, sdb_relation_component, sdb_status_in_order;
