-- A journal of every change of the shared tables, of what the inbox got and of what was parked, with
-- the transaction that made it. It is written by triggers, in the writer's own transaction: what is
-- rolled back leaves nothing, and what is committed is there, whether its writer learned of it or not.
--
-- The functions run with their owner's rights, so that other writers need none on these tables.

CREATE SCHEMA verdict;
GRANT USAGE ON SCHEMA verdict TO PUBLIC;

CREATE TABLE verdict.journal (
    seq bigserial PRIMARY KEY,
    xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    -- The begin of the transaction, in microseconds since 1970.
    began bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000000)::bigint,
    -- The begin of the statement.
    at bigint NOT NULL DEFAULT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
    application varchar NOT NULL DEFAULT current_setting('application_name'),
    what varchar NOT NULL,
    old jsonb,
    new jsonb,
    -- Which transactions the writer sees: kept where it is a decision, or parks something.
    snapshot varchar
);

-- Seen by every transaction that begins after this.
CREATE TABLE verdict.mark (
    at bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    snapshot varchar NOT NULL DEFAULT pg_current_snapshot()::text
);

-- The tables as they were when the journal began.
CREATE TABLE verdict.start (what varchar NOT NULL, row jsonb NOT NULL);

CREATE FUNCTION verdict.note_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO verdict.journal (what, old, new, snapshot) VALUES (
        TG_TABLE_NAME,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
        CASE WHEN TG_TABLE_NAME = 'sdb_parked' THEN pg_current_snapshot()::text END);
    RETURN NULL;
END $$;

-- To empty a table is to delete its rows.
CREATE FUNCTION verdict.note_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('INSERT INTO verdict.journal (what, old) SELECT %L, to_jsonb(t) FROM %I.%I t',
        TG_TABLE_NAME, TG_TABLE_SCHEMA, TG_TABLE_NAME);
    -- What follows from these tables is emptied, even if they are empty.
    IF TG_TABLE_NAME IN ('incident', 'incident_component_relation') THEN
        INSERT INTO verdict.journal (what) VALUES (TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION verdict.note_inbox() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO verdict.journal (what, new, snapshot)
    SELECT 'sdb_inbox', jsonb_agg(id), pg_current_snapshot()::text FROM fresh HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER verdict_note AFTER INSERT ON sdb_inbox REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION verdict.note_inbox();

DO $$
DECLARE
    noted text;
BEGIN
    FOREACH noted IN ARRAY ARRAY['component', 'component_attribute', 'incident',
        'incident_component_relation', 'incident_status', 'sdb_parked']
    LOOP
        EXECUTE format('CREATE TRIGGER verdict_note AFTER INSERT OR UPDATE OR DELETE ON %I
            FOR EACH ROW EXECUTE FUNCTION verdict.note_row()', noted);
        EXECUTE format('CREATE TRIGGER verdict_note_truncate BEFORE TRUNCATE ON %I
            FOR EACH STATEMENT EXECUTE FUNCTION verdict.note_truncate()', noted);
    END LOOP;
END $$;

-- Begins the journal anew, from what the tables have now. Earlier releases lack some of them.
CREATE FUNCTION verdict.start_journal() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE verdict.journal, verdict.mark, verdict.start;
    INSERT INTO verdict.start
        SELECT 'component', to_jsonb(t) FROM component t
        UNION ALL SELECT 'component_attribute', to_jsonb(t) FROM component_attribute t
        UNION ALL SELECT 'incident', to_jsonb(t) FROM incident t
        UNION ALL SELECT 'incident_component_relation', to_jsonb(t)
            FROM incident_component_relation t
        UNION ALL SELECT 'incident_status', to_jsonb(t) FROM incident_status t
        UNION ALL SELECT 'sdb_scope', jsonb_build_object('position', position) FROM sdb_scope;
    IF to_regclass('sdb_report') IS NOT NULL THEN
        INSERT INTO verdict.start SELECT 'sdb_report', to_jsonb(t) FROM sdb_report t;
    END IF;
    IF to_regclass('sdb_affected_interval') IS NOT NULL THEN
        INSERT INTO verdict.start SELECT 'sdb_affected', to_jsonb(t) FROM sdb_affected_interval t;
    ELSIF to_regclass('sdb_affected') IS NOT NULL THEN
        INSERT INTO verdict.start SELECT 'sdb_affected', to_jsonb(t) FROM sdb_affected t;
    END IF;
END $$;
SELECT verdict.start_journal();
