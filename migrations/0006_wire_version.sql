-- Which version of messages gateways may write, and which ones each live worker reads. A database that stands
-- keeps version 1, which workers of the earlier release read; `worker topology change --wire` raises it.
ALTER TABLE sdb_topology ADD COLUMN wire smallint NOT NULL DEFAULT 1 CHECK (wire > 0);
COMMENT ON COLUMN sdb_topology.wire IS 'The newest version of messages that gateways write: 1, each update alone; 2, several in one message. Only `worker topology` changes it';

ALTER TABLE sdb_worker ADD COLUMN reads smallint NOT NULL DEFAULT 1 CHECK (reads > 0);
COMMENT ON COLUMN sdb_worker.reads IS 'The newest version of messages that it reads; earlier releases do not name it, and read version 1';

CREATE OR REPLACE VIEW sdb_living_worker AS SELECT id, seen_at, reads FROM sdb_worker
    WHERE seen_at BETWEEN (clock_timestamp() AT TIME ZONE 'UTC') - interval '3 seconds'
        AND (clock_timestamp() AT TIME ZONE 'UTC') + interval '3 seconds';

-- A worker of an earlier release would park every message that it can't read.
CREATE FUNCTION sdb_check_wire() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    recorded smallint;
BEGIN
    -- The lock makes a change of the version wait for this worker, or this worker for the change.
    SELECT wire INTO recorded FROM sdb_topology FOR SHARE;
    IF NEW.reads < recorded THEN
        RAISE EXCEPTION 'this worker reads messages up to version %, and gateways write version %', NEW.reads, recorded
            USING HINT = format('Start a newer release of the worker, or run the newer one''s `worker topology change --wire %s` first.', NEW.reads);
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION sdb_check_wire IS 'Refuses a worker that can''t read what gateways write';
CREATE TRIGGER sdb_check_wire BEFORE INSERT ON sdb_worker FOR EACH ROW EXECUTE FUNCTION sdb_check_wire();
