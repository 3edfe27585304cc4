-- What we add to the tables of the Python dashboard, beside the indexes and the constraint that
-- `worker migrate` makes itself. Run each time, so it changes nothing that stands; detach.sql takes
-- all of it off again.

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
        -- Only where it is missing: making a trigger stops writers for a moment.
        IF NOT EXISTS (SELECT FROM pg_trigger
            WHERE tgrelid = shared_table::regclass AND tgname = 'sdb_touch')
        THEN
            EXECUTE format('CREATE TRIGGER sdb_touch
                AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
                FOR EACH STATEMENT EXECUTE FUNCTION sdb_touch(%L)', shared_table, what);
            -- Whatever was changed without it, readers have not seen.
            UPDATE sdb_version SET lists = lists + 1, catalogue = catalogue + 1;
        END IF;
    END LOOP;
END $$;

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
        EXECUTE format('SELECT max(id) FROM %I', shared_table) INTO highest;
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence) INTO last;
        IF highest > last THEN
            PERFORM setval(sequence, highest);
        END IF;
    END LOOP;
END $$;
