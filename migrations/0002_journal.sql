-- Our own tables, beside those of the Python dashboard. Times are UTC.

CREATE TABLE sdb_topology (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    version integer NOT NULL CHECK (version > 0),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    queue_limit integer NOT NULL CHECK (queue_limit > 0),
    prefetch integer NOT NULL CHECK (prefetch BETWEEN 1 AND 10000)
);
COMMENT ON TABLE sdb_topology IS 'The shape of the queues, one row: gateways and workers with other settings do not start';
COMMENT ON COLUMN sdb_topology.one_row IS 'Always true: there is one row';
COMMENT ON COLUMN sdb_topology.version IS 'Part of the queues'' names';
COMMENT ON COLUMN sdb_topology.partitions IS 'Queues that the components are spread over: id modulo this';
COMMENT ON COLUMN sdb_topology.queue_limit IS 'Updates that one queue holds before it refuses more';
COMMENT ON COLUMN sdb_topology.prefetch IS 'Updates of one queue that a worker holds';

CREATE TABLE sdb_scope (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    position bigint NOT NULL DEFAULT 0,
    decided_at timestamp NOT NULL DEFAULT '1970-01-01'
);
COMMENT ON TABLE sdb_scope IS 'The lock that every deciding transaction holds: one row, since the rules couple all active system incidents';
COMMENT ON COLUMN sdb_scope.one_row IS 'Always true: there is one row';
COMMENT ON COLUMN sdb_scope.position IS 'The place of the newest update in the inbox';
COMMENT ON COLUMN sdb_scope.decided_at IS 'The time of the newest decision: the next one is later even if the clock went back';
INSERT INTO sdb_scope DEFAULT VALUES;

CREATE TABLE sdb_inbox (
    id uuid PRIMARY KEY,
    component_id integer NOT NULL,
    impact smallint NOT NULL CHECK (impact BETWEEN 1 AND 3),
    text varchar NOT NULL,
    received_at timestamp NOT NULL,
    decided_at timestamp NOT NULL,
    position bigint NOT NULL,
    outcome varchar NOT NULL CHECK (outcome IN
        ('opened', 'joined', 'raised', 'moved', 'unchanged', 'suppressed', 'repeated', 'rejected')),
    reason varchar NOT NULL,
    incident_id integer,
    original uuid,
    CONSTRAINT sdb_inbox_decided_has_incident
        CHECK ((incident_id IS NULL) = (outcome IN ('repeated', 'rejected'))),
    CONSTRAINT sdb_inbox_copy_has_original
        CHECK ((original IS NULL) = (outcome NOT IN ('repeated', 'rejected')))
) PARTITION BY RANGE (id);
COMMENT ON TABLE sdb_inbox IS 'Every status update that was decided, once: what makes a redelivery harmless, and the journal from which the state can be explained';
COMMENT ON COLUMN sdb_inbox.id IS 'UUIDv7 given by the gateway; its time places the row in a part';
COMMENT ON COLUMN sdb_inbox.component_id IS 'The component; no foreign key, since the record outlives the catalogue';
COMMENT ON COLUMN sdb_inbox.impact IS 'The reported impact';
COMMENT ON COLUMN sdb_inbox.text IS 'The title of an incident that it opened, or would have opened';
COMMENT ON COLUMN sdb_inbox.received_at IS 'When the gateway received it, by the gateway''s clock';
COMMENT ON COLUMN sdb_inbox.decided_at IS 'When it was decided: the database''s clock after the lock, strictly increasing with position';
COMMENT ON COLUMN sdb_inbox.position IS 'Its place in commit order';
COMMENT ON COLUMN sdb_inbox.outcome IS 'What it did; repeated or rejected: its idempotency key was used before';
COMMENT ON COLUMN sdb_inbox.reason IS 'The rule that decided it';
COMMENT ON COLUMN sdb_inbox.incident_id IS 'The incident that held or covered the component right after; no foreign key, since the record outlives it';
COMMENT ON COLUMN sdb_inbox.original IS 'For repeated and rejected: the update that used the idempotency key first';

-- Readers follow the commit order; nothing looks an update up by component.
CREATE INDEX sdb_inbox_position ON sdb_inbox (position);

CREATE TABLE sdb_idempotency_key (
    key varchar PRIMARY KEY,
    fingerprint varchar NOT NULL,
    update_id uuid NOT NULL,
    used_at timestamp NOT NULL
);
COMMENT ON TABLE sdb_idempotency_key IS 'Idempotency keys of the last 24 hours and the update that each was first used for';
COMMENT ON COLUMN sdb_idempotency_key.key IS 'As the client sent it';
COMMENT ON COLUMN sdb_idempotency_key.fingerprint IS 'SHA-256 of the meaning of the body';
COMMENT ON COLUMN sdb_idempotency_key.update_id IS 'The update that used it first';
COMMENT ON COLUMN sdb_idempotency_key.used_at IS 'When that update was decided';
CREATE INDEX sdb_idempotency_key_used_at ON sdb_idempotency_key (used_at);

CREATE TABLE sdb_parked (
    id bigserial PRIMARY KEY,
    delivery_key varchar NOT NULL CONSTRAINT sdb_parked_delivery_key UNIQUE,
    update_id uuid,
    queue varchar NOT NULL,
    reason varchar NOT NULL,
    parked_at timestamp NOT NULL,
    payload bytea NOT NULL
);
COMMENT ON TABLE sdb_parked IS 'Messages that could not be applied for a reason of their own, for an operator to see and put back';
COMMENT ON COLUMN sdb_parked.id IS 'For the operator''s commands';
COMMENT ON COLUMN sdb_parked.delivery_key IS 'The update''s id, or the message''s id and the SHA-256 of its bytes where it can''t be read: a redelivery is parked once';
COMMENT ON COLUMN sdb_parked.update_id IS 'The update, where the message could be read that far';
COMMENT ON COLUMN sdb_parked.queue IS 'Where it came from';
COMMENT ON COLUMN sdb_parked.reason IS 'Why it could not be applied';
COMMENT ON COLUMN sdb_parked.parked_at IS 'When it was parked';
COMMENT ON COLUMN sdb_parked.payload IS 'The message as it came';
CREATE INDEX sdb_parked_update_id ON sdb_parked (update_id);

CREATE TABLE sdb_version (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    lists bigint NOT NULL DEFAULT 1,
    catalogue bigint NOT NULL DEFAULT 1
);
COMMENT ON TABLE sdb_version IS 'Tells readers when the lists or the catalogue changed: one row';
COMMENT ON COLUMN sdb_version.one_row IS 'Always true: there is one row';
COMMENT ON COLUMN sdb_version.lists IS 'Moves with every transaction that changes a component, an attribute, an incident, a relation or an update';
COMMENT ON COLUMN sdb_version.catalogue IS 'Moves with every transaction that changes a component or an attribute';
INSERT INTO sdb_version DEFAULT VALUES;

CREATE TABLE sdb_touched (what varchar NOT NULL);
COMMENT ON TABLE sdb_touched IS 'Empty to every reader: a row stands here from the first change of a transaction to its commit';
COMMENT ON COLUMN sdb_touched.what IS 'lists or catalogue';

-- The version is one row, so whoever moves it makes other writers wait. It is therefore moved at
-- commit, as the last lock of a transaction: two transactions can't wait for each other over it.
-- Statement triggers can't be deferred; a deferred row trigger on sdb_touched does that part.
--
-- The functions run with their owner's rights, so that the Python dashboard's user needs none on
-- our tables.
CREATE FUNCTION sdb_touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('sdb.touched_' || TG_ARGV[0], true)
        IS DISTINCT FROM pg_current_xact_id()::text
    THEN
        PERFORM set_config('sdb.touched_' || TG_ARGV[0], pg_current_xact_id()::text, true);
        INSERT INTO sdb_touched VALUES (TG_ARGV[0]);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_touch IS 'Notes, once a transaction, that it changes what the argument names';

CREATE FUNCTION sdb_move_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE sdb_version SET
        lists = lists + 1,
        catalogue = catalogue + (NEW.what = 'catalogue')::integer;
    DELETE FROM sdb_touched;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_move_version IS 'Moves the version that readers compare';

CREATE CONSTRAINT TRIGGER sdb_move_version AFTER INSERT ON sdb_touched
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION sdb_move_version();

-- The lowest UUIDv7 of an instant.
CREATE FUNCTION sdb_first_id(instant timestamp) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;
COMMENT ON FUNCTION sdb_first_id IS 'The lowest UUIDv7 of an instant (UTC): the bound of a part of the inbox';

-- A part holds a week: few enough for every statement to look at, small enough to drop.
--
-- A part is made beside the inbox and attached, which stops nobody; made as a part at once, it
-- would wait for every reader, and everybody else for it.
CREATE FUNCTION sdb_make_inbox_parts(days integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now timestamp := clock_timestamp() AT TIME ZONE 'UTC';
    week date;
    part text;
BEGIN
    -- Workers do this side by side.
    PERFORM pg_advisory_xact_lock(hashtext('sdb_inbox_parts'));
    -- From the oldest week that is kept: an update may wait long for the first worker.
    FOR week IN
        SELECT generate_series(
            date_trunc('week', now - make_interval(days => days)),
            date_trunc('week', now) + interval '14 days',
            '7 days')::date
    LOOP
        part := 'sdb_inbox_' || to_char(week, 'YYYYMMDD');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE sdb_inbox INCLUDING ALL)', part);
            EXECUTE format('ALTER TABLE sdb_inbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                part, sdb_first_id(week), sdb_first_id(week + 7));
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION sdb_make_inbox_parts IS 'Makes the parts of the inbox for the weeks that are kept and two more';

-- Dropping waits for every reader of the inbox, and everybody else for it; so it gives up at once
-- and is tried again an hour later.
CREATE FUNCTION sdb_drop_inbox_parts(days integer) RETURNS void LANGUAGE plpgsql
SET lock_timeout = '100ms' AS $$
DECLARE
    first_kept timestamp := (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(days => days);
    part text;
BEGIN
    FOR part IN
        SELECT child.relname FROM pg_inherits
            JOIN pg_class child ON child.oid = inhrelid
            WHERE inhparent = 'sdb_inbox'::regclass
                AND to_date(right(child.relname, 8), 'YYYYMMDD') + 7 <= first_kept
    LOOP
        EXECUTE format('DROP TABLE %I', part);
    END LOOP;
END $$;
COMMENT ON FUNCTION sdb_drop_inbox_parts IS 'Drops the parts of the inbox that hold nothing younger than so many days';
