-- The clock is PostgreSQL's, also for a gateway, and one that was far ahead leads nobody.
COMMENT ON COLUMN sdb_scope.decided_at IS 'The time of the newest decision, by the clock of the database. The next one is later even if the clock went back a little; when it is more than 10 s ahead of the clock, the clock counts';
COMMENT ON COLUMN sdb_inbox.received_at IS 'When the gateway received it, by the clock of the database as the gateway last read it';
COMMENT ON COLUMN sdb_inbox.decided_at IS 'When it was decided, by the clock of the database after the lock. Later than the decision before it, unless that was more than 10 s ahead of the clock: the order of decisions is position';
