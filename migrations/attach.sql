-- Adds our triggers to the tables of the Python dashboard. `worker migrate` runs it each time, after it has
-- created the indexes and the constraint, so it must not change what exists. detach.sql removes everything.

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
        -- Only if it is missing: creating a trigger blocks writers for a moment.
        IF NOT EXISTS (SELECT FROM pg_trigger
            WHERE tgrelid = shared_table::regclass AND tgname = 'sdb_touch')
        THEN
            EXECUTE format('CREATE TRIGGER sdb_touch
                AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
                FOR EACH STATEMENT EXECUTE FUNCTION sdb_touch(%L)', shared_table, what);
            -- Readers have not seen what was changed without the trigger.
            UPDATE sdb_version SET lists = lists + 1, catalogue = catalogue + 1;
        END IF;
    END LOOP;
END $$;

-- The reports of a component go with it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = 'component'::regclass AND tgname = 'sdb_forget_reports')
    THEN
        CREATE TRIGGER sdb_forget_reports AFTER DELETE ON component REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION sdb_forget_reports();
        CREATE TRIGGER sdb_forget_all_reports AFTER TRUNCATE ON component
            FOR EACH STATEMENT EXECUTE FUNCTION sdb_forget_reports();
        -- Without the trigger, ids may have been given to other components.
        DELETE FROM sdb_report;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = 'component'::regclass AND tgname = 'sdb_forget_earlier_reports')
    THEN
        CREATE TRIGGER sdb_forget_earlier_reports AFTER INSERT ON component REFERENCING NEW TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION sdb_forget_reports();
    END IF;
END $$;

-- Sets the sequences to the highest id: rows may have been copied in together with their ids.
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
        EXECUTE format('SELECT max(id) FROM %I', shared_table) INTO highest;
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence) INTO last;
        IF highest > last THEN
            PERFORM setval(sequence, highest);
        END IF;
    END LOOP;
END $$;
