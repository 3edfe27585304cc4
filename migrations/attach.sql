-- What we add to the tables of the Python dashboard. Run by `worker migrate` each time, so it
-- changes nothing that stands; detach.sql takes it off again.

DO $$
DECLARE
    shared_table text;
    what text;
BEGIN
    FOR shared_table, what IN VALUES
        ('component', 'catalogue'),
        ('component_attribute', 'catalogue'),
        ('incident', 'lists'),
        ('incident_component_relation', 'lists'),
        ('incident_status', 'lists')
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER sdb_touch
            AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
            FOR EACH STATEMENT EXECUTE FUNCTION sdb_touch(%L)', shared_table, what);
    END LOOP;
END $$;

-- The active incidents, few among many.
CREATE INDEX IF NOT EXISTS sdb_incident_open ON incident (id) WHERE end_date IS NULL;
-- Ends that the ETag of the active lists watches, and maintenances that have yet to end.
CREATE INDEX IF NOT EXISTS sdb_incident_end ON incident (end_date);
-- Lists, newest start first.
CREATE INDEX IF NOT EXISTS sdb_incident_start ON incident (start_date DESC, id DESC);
-- The incidents of a component.
CREATE INDEX IF NOT EXISTS sdb_relation_component ON incident_component_relation (component_id, incident_id);
-- The updates of an incident in order, and its newest.
CREATE INDEX IF NOT EXISTS sdb_status_in_order ON incident_status (incident_id, "timestamp");

-- Sequences go to the highest id: rows may have been copied in with theirs.
DO $$
DECLARE
    shared_table text;
    sequence text;
    highest bigint;
    last bigint;
BEGIN
    FOREACH shared_table IN ARRAY
        ARRAY['component', 'component_attribute', 'incident', 'incident_status']
    LOOP
        sequence := pg_get_serial_sequence(shared_table, 'id');
        IF sequence IS NULL THEN
            RAISE EXCEPTION 'table % has no sequence for its id', shared_table;
        END IF;
        EXECUTE format('SELECT max(id) FROM %I', shared_table) INTO highest;
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence) INTO last;
        IF highest > last THEN
            PERFORM setval(sequence, highest);
        END IF;
    END LOOP;
END $$;
