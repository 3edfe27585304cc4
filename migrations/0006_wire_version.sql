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

-- Limits count messages now; and every comment in the terms of docs/concepts.md.
COMMENT ON COLUMN sdb_topology.queue_limit IS 'Messages that one queue holds before it refuses more';
COMMENT ON COLUMN sdb_topology.prefetch IS 'Unacknowledged messages of one queue that a worker holds';
COMMENT ON TABLE sdb_topology IS 'The number of partitions and their limits, one row: gateways and workers with other settings do not start';
COMMENT ON COLUMN sdb_topology.partitions IS 'Number of queues over which the components are distributed: component id modulo this';
COMMENT ON TABLE sdb_scope IS 'One row, the lock of every transaction that decides: the rules couple all active system incidents';
COMMENT ON COLUMN sdb_scope.decided_at IS 'Time of the newest decision, by the clock of the database. The next one is later even if the clock goes back a little; if it is more than 10 s ahead of the clock, the clock is used';
COMMENT ON TABLE sdb_inbox IS 'Every applied status update, once: makes redeliveries harmless, and is the journal that explains the state';
COMMENT ON COLUMN sdb_inbox.id IS 'UUIDv7 assigned by the gateway; its time determines the partition of the row';
COMMENT ON COLUMN sdb_inbox.component_id IS 'The component; no foreign key, because the record outlives the catalogue';
COMMENT ON COLUMN sdb_inbox.received_at IS 'Time of arrival at the gateway, by the clock of the database as last read by the gateway';
COMMENT ON COLUMN sdb_inbox.decided_at IS 'Time of the decision, by the clock of the database after the lock. Later than the previous decision, unless that was more than 10 s ahead of the clock: position has the order';
COMMENT ON COLUMN sdb_inbox.incident_id IS 'The incident that had or covered the component right after; no foreign key, because the record outlives it';
COMMENT ON COLUMN sdb_idempotency_key.used_at IS 'Time of that update''s decision';
COMMENT ON TABLE sdb_parked IS 'Messages that could not be applied for a reason of their own, for an operator to inspect and requeue';
COMMENT ON COLUMN sdb_parked.delivery_key IS 'The update''s id, or the message''s id and the SHA-256 of its bytes if it can''t be read: a redelivery is parked once';
COMMENT ON TABLE sdb_touched IS 'Always empty for readers: a row exists from the first change of a transaction until its commit';
COMMENT ON FUNCTION sdb_first_id IS 'The lowest UUIDv7 of an instant (UTC): the lower bound of a partition of the inbox';
COMMENT ON FUNCTION sdb_make_inbox_parts IS 'Creates the partitions of the inbox for the weeks that are kept and two more';
COMMENT ON FUNCTION sdb_drop_inbox_parts IS 'Drops the partitions of the inbox in which every row is older than the given number of days';
COMMENT ON TABLE sdb_worker IS 'The live workers: each renews its row twice a second, and takes every n-th partition, starting at its rank among them';
COMMENT ON COLUMN sdb_worker.id IS 'New at each joining, so that a worker whose membership has expired is not mistaken for its next membership';
COMMENT ON VIEW sdb_living_worker IS 'The workers whose membership has not expired: only they have partitions and may commit';
