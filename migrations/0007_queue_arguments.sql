-- The arguments that queues are declared with. RabbitMQ refuses a declaration with other arguments than a queue has, so
-- the queues of a database that stands keep theirs; `worker topology change --arguments` makes new ones.
ALTER TABLE sdb_topology ADD COLUMN arguments smallint NOT NULL DEFAULT 1 CHECK (arguments > 0);
COMMENT ON COLUMN sdb_topology.arguments IS 'The arguments of the queues: 1, those of earlier releases; 2, their leaders are spread over the nodes of a cluster too. Only `worker topology` changes it';
