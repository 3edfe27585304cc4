-- Several gateways and workers: who lives, how the shape of the queues changes, and what an operator
-- put back.

CREATE TABLE sdb_worker (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seen_at timestamp NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE sdb_worker IS 'The workers that live: each says so twice a second, and takes every so-manieth partition by its place among them';
COMMENT ON COLUMN sdb_worker.id IS 'Given anew whenever a worker joins, so that one that was away for too long can be told from itself';
COMMENT ON COLUMN sdb_worker.seen_at IS 'When it last said so, by the clock of the database';

-- A clock that was set back leaves times in the future behind, which are nobody's.
CREATE VIEW sdb_living_worker AS SELECT id, seen_at FROM sdb_worker
    WHERE seen_at BETWEEN (clock_timestamp() AT TIME ZONE 'UTC') - interval '3 seconds'
        AND (clock_timestamp() AT TIME ZONE 'UTC') + interval '3 seconds';
COMMENT ON VIEW sdb_living_worker IS 'The workers that count: the partitions are theirs, and no other may commit a decision';

ALTER TABLE sdb_topology
    ADD COLUMN phase varchar NOT NULL DEFAULT 'open' CHECK (phase IN ('open', 'draining', 'closed'));
COMMENT ON COLUMN sdb_topology.phase IS 'open: updates are taken; draining: workers empty the queues and gateways answer 503; closed: the queues are left alone. Only `worker topology` changes it';

ALTER TABLE sdb_parked ADD COLUMN put_back_at timestamp;
COMMENT ON COLUMN sdb_parked.put_back_at IS 'When an operator last put it back; the row goes when it is applied';
