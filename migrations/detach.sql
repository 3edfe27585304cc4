-- Removes from the Python dashboard's tables what attach.sql and `worker migrate` added. Our own tables stay,
-- because they have the record of all decisions.

DO $$
DECLARE
    shared_table text;
BEGIN
    FOREACH shared_table IN ARRAY ARRAY['component', 'component_attribute', 'incident',
        'incident_component_relation', 'incident_status']
    LOOP
        IF to_regclass(shared_table) IS NOT NULL THEN
            EXECUTE format('DROP TRIGGER IF EXISTS sdb_touch ON %I', shared_table);
        END IF;
    END LOOP;
    IF to_regclass('component') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS sdb_forget_reports ON component;
        DROP TRIGGER IF EXISTS sdb_forget_all_reports ON component;
        DROP TRIGGER IF EXISTS sdb_forget_earlier_reports ON component;
    END IF;
END $$;

ALTER TABLE IF EXISTS incident DROP CONSTRAINT IF EXISTS sdb_one_active_system_incident_per_impact;
DROP INDEX IF EXISTS sdb_incident_open, sdb_incident_active, sdb_incident_end, sdb_incident_start,
    sdb_incident_impact, sdb_relation_component, sdb_status_in_order;
