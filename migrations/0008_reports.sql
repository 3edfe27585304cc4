-- Reports: what each source says of a component until it takes it back. Updates of version 3 write them.

CREATE TABLE sdb_report (
    component_id integer NOT NULL,
    source varchar NOT NULL,
    key varchar NOT NULL,
    is_live boolean NOT NULL,
    first_at timestamp NOT NULL,
    last_at timestamp NOT NULL,
    ttl bigint,
    update_id uuid NOT NULL,
    starts_at timestamp,
    ended_at timestamp,
    ends_at timestamp,
    PRIMARY KEY (component_id, source, key)
) WITH (
    -- A renewal changes no indexed column and finds space on the row's page, so it writes no index.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02
);
COMMENT ON TABLE sdb_report IS 'What a source says of a component until it takes it back, one row for each of its keys; an ended one stays for a day. No foreign key: it would stop those who empty the component''s table. A trigger deletes a component''s reports with it';
COMMENT ON COLUMN sdb_report.component_id IS 'The component';
COMMENT ON COLUMN sdb_report.source IS 'Who speaks; empty if unknown';
COMMENT ON COLUMN sdb_report.key IS 'What of several matters of the component the source speaks about; empty if it has one';
COMMENT ON COLUMN sdb_report.is_live IS 'Whether it stands: the source has not taken it back';
COMMENT ON COLUMN sdb_report.first_at IS 'Time of the decision of its first update since it last ended';
COMMENT ON COLUMN sdb_report.last_at IS 'Time of the decision of its last update';
COMMENT ON COLUMN sdb_report.ttl IS 'Seconds for which the source says that it is valid, as last given';
COMMENT ON COLUMN sdb_report.update_id IS 'Its last update';
COMMENT ON COLUMN sdb_report.starts_at IS 'The newest start that the source gave';
COMMENT ON COLUMN sdb_report.ended_at IS 'Time of the decision of its last end; 24 hours later, that end no longer counts';
COMMENT ON COLUMN sdb_report.ends_at IS 'The newest end that the source gave';

-- The live reports of a component.
CREATE INDEX sdb_report_live ON sdb_report (component_id) WHERE is_live;

CREATE FUNCTION sdb_forget_reports() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM sdb_report;
    ELSE
        DELETE FROM sdb_report WHERE component_id IN (SELECT id FROM gone);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_forget_reports IS 'Deletes the reports of components that are deleted: their ids may be used again';

-- With its owner's rights: a worker may not change components.
CREATE FUNCTION sdb_keep_components(ids integer[]) RETURNS SETOF integer LANGUAGE sql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
    SELECT id FROM component WHERE id = ANY(ids) ORDER BY id FOR KEY SHARE
$$;
COMMENT ON FUNCTION sdb_keep_components IS 'Prevents these components from being deleted until the transaction ends; returns those that exist';

-- The inbox has every input of a decision. Its rows are checked by new constraints from now on; `worker migrate`
-- validates them for the older rows afterwards, because that takes time and needs no strong lock.
ALTER TABLE sdb_inbox
    ADD COLUMN source varchar,
    ADD COLUMN key varchar,
    ADD COLUMN ttl bigint,
    ADD COLUMN starts_at timestamp,
    ADD COLUMN ends_at timestamp,
    ALTER COLUMN impact DROP NOT NULL,
    DROP CONSTRAINT sdb_inbox_impact_check,
    DROP CONSTRAINT sdb_inbox_outcome_check,
    DROP CONSTRAINT sdb_inbox_decided_has_incident,
    DROP CONSTRAINT sdb_inbox_copy_has_original,
    ADD CONSTRAINT sdb_inbox_impact_or_ok CHECK (
        CASE WHEN impact IS NULL THEN source IS NOT NULL ELSE impact BETWEEN 1 AND 3 END) NOT VALID,
    ADD CONSTRAINT sdb_inbox_report CHECK (
        CASE WHEN source IS NULL THEN num_nonnulls(key, ttl, starts_at, ends_at) = 0
        ELSE key IS NOT NULL END) NOT VALID,
    ADD CONSTRAINT sdb_inbox_outcome CHECK (outcome IN ('opened', 'joined', 'raised', 'moved', 'left',
        'closed', 'unchanged', 'suppressed', 'repeated', 'rejected')) NOT VALID,
    ADD CONSTRAINT sdb_inbox_has_incident CHECK (
        CASE WHEN outcome IN ('repeated', 'rejected') THEN incident_id IS NULL
        ELSE incident_id IS NOT NULL OR (source IS NOT NULL AND outcome = 'unchanged') END) NOT VALID,
    ADD CONSTRAINT sdb_inbox_has_original CHECK (
        CASE WHEN outcome = 'repeated' THEN original IS NOT NULL
        WHEN outcome = 'rejected' THEN original IS NOT NULL OR reason = 'too_many_reports'
        ELSE original IS NULL END) NOT VALID;
COMMENT ON COLUMN sdb_inbox.impact IS 'The reported impact; none for ok';
COMMENT ON COLUMN sdb_inbox.incident_id IS 'The incident that had or covered the component right after, or that it left; none if there was none, or if no rule decided. No foreign key, because the record outlives it';
COMMENT ON COLUMN sdb_inbox.outcome IS 'What it did; repeated: its idempotency key was used before; rejected: with another body, or its component has too many reports';
COMMENT ON COLUMN sdb_inbox.original IS 'The update that used its idempotency key first';
COMMENT ON COLUMN sdb_inbox.source IS 'Who speaks, empty if unknown; none for an update without a report';
COMMENT ON COLUMN sdb_inbox.key IS 'The key of its report';
COMMENT ON COLUMN sdb_inbox.ttl IS 'Seconds for which the source says that the report is valid';
COMMENT ON COLUMN sdb_inbox.starts_at IS 'When what it reports began, by the source';
COMMENT ON COLUMN sdb_inbox.ends_at IS 'When it ended, by the source';

COMMENT ON COLUMN sdb_topology.wire IS 'The newest version of messages that gateways write: 1, each update alone; 2, several in one message; 3, updates with reports. Only `worker topology` changes it';
