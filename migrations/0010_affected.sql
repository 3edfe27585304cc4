-- When each component was affected by which incident. Statement triggers on the Python dashboard's tables keep
-- it, whichever program writes (migrations/attach.sql creates them), so that edits by others are recorded, too.

CREATE TABLE sdb_affected (
    incident_id integer NOT NULL,
    component_id integer NOT NULL,
    impact smallint NOT NULL,
    began timestamp NOT NULL,
    ended timestamp CHECK (ended >= began),
    PRIMARY KEY (incident_id, component_id, began)
-- Each row is updated once, when it ends: with space on its page, no index has to change.
) WITH (fillfactor = 50);
COMMENT ON TABLE sdb_affected IS 'The intervals in which incidents and maintenances affected components, one row each: kept by triggers, whichever program changes an incident. No foreign keys, which would lock rows of the dashboard''s tables; the rows go with their incident, and those of a deleted component stay until then';
COMMENT ON COLUMN sdb_affected.incident_id IS 'The incident or maintenance';
COMMENT ON COLUMN sdb_affected.component_id IS 'The component';
COMMENT ON COLUMN sdb_affected.impact IS 'The impact of the incident during the interval';
COMMENT ON COLUMN sdb_affected.began IS 'Begin of the interval: the incident''s start, or the time of the statement that added the component or changed the impact, by the clock of the database';
COMMENT ON COLUMN sdb_affected.ended IS 'End of the interval: the incident''s end, possibly to come, or the time of the statement that removed the component or changed the impact; none while it is open. Equal to began if the component was never affected';

-- To find the outages of a component. Every batch would pay for an index of all intervals.
CREATE INDEX sdb_affected_outage ON sdb_affected (component_id, began) WHERE impact >= 3;

CREATE TABLE sdb_affected_pending (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    incidents integer[]
);
COMMENT ON TABLE sdb_affected_pending IS 'A row from the creation of the triggers until sdb_affected has been compared with every incident';
COMMENT ON COLUMN sdb_affected_pending.one_row IS 'Always true: there is at most one row';
COMMENT ON COLUMN sdb_affected_pending.incidents IS 'The incidents that are not compared yet, because others had locked them; none: `worker migrate` has not compared all of them';

-- All functions run with their owner's rights, so that the Python dashboard's user needs none on our tables.
-- They find rows by index only: a plan is kept for the session, and may have been made for many rows or for an
-- empty table. The time is that of the statement, and so the same for all rows that it changes.
-- They change or lock existing rows in the order of the primary key: two transactions of others that change the same
-- rows wait for each other in one order.

-- An incident that is inserted is remembered until the end of its transaction, as ranges of ids: components
-- that are added to it meanwhile are affected from its start.
CREATE FUNCTION sdb_affected_new_incident() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('sdb.new_incidents', (ids
        + coalesce(nullif(current_setting('sdb.new_incidents', true), ''), '{}')::int8multirange)::text, true)
    FROM (SELECT range_agg(int8range(id, id, '[]')) AS ids FROM new_rows) AS inserted
    WHERE ids IS NOT NULL;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_affected_new_incident IS 'Remembers the incidents that the transaction inserts';

-- ON CONFLICT costs every insertion as much as the index entry itself. It is only needed for a component that was
-- removed and is added again at the same time, or to an incident that has ended.
CREATE FUNCTION sdb_affected_reopen(incident integer, component integer, now timestamp, is_new boolean)
RETURNS void LANGUAGE sql SET enable_seqscan = off AS $$
    INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
    SELECT i.id, component, i.impact, begin.time,
        CASE WHEN i.end_date IS NOT NULL THEN greatest(i.end_date, begin.time) END
    FROM incident i, LATERAL (SELECT CASE WHEN is_new THEN i.start_date
        ELSE greatest(i.start_date, least(now, i.end_date)) END AS time) AS begin
    WHERE i.id = incident
    ON CONFLICT (incident_id, component_id, began) DO UPDATE SET impact = excluded.impact, ended = excluded.ended
$$;
COMMENT ON FUNCTION sdb_affected_reopen IS 'Opens an interval for a component, or continues the one with the same begin';

-- An interval with an end in the future is one of an incident that will end then.
CREATE FUNCTION sdb_affected_close() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
BEGIN
    -- A nested loop keeps the order. To lock the rows first would cost a batch half as much as to change them.
    UPDATE sdb_affected a SET ended = greatest(a.began, now)
    FROM (SELECT incident_id, component_id FROM old_rows ORDER BY 1, 2) AS o
    WHERE a.incident_id = o.incident_id AND a.component_id = o.component_id
        AND (a.ended IS NULL OR a.ended > now);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_affected_close IS 'Ends the intervals of components that are removed from an incident';

CREATE FUNCTION sdb_affected_open() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
    new_incidents int8multirange := coalesce(nullif(current_setting('sdb.new_incidents', true), ''), '{}');
    incidents integer[] := ARRAY(SELECT DISTINCT incident_id FROM new_rows);
BEGIN
    -- An incident that someone else is changing counts as it is afterwards. The foreign key's lock does not
    -- wait for a new end or impact.
    PERFORM FROM incident WHERE id = ANY(incidents) ORDER BY id FOR NO KEY UPDATE;
    BEGIN
        -- One index lookup per incident, not per component.
        WITH opened AS MATERIALIZED (
            SELECT id, impact, end_date, CASE WHEN id::bigint <@ new_incidents THEN start_date
                ELSE greatest(start_date, least(now, end_date)) END AS began
            FROM incident WHERE id = ANY(incidents)
        )
        INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
        SELECT o.id, n.component_id, o.impact, o.began,
            CASE WHEN o.end_date IS NOT NULL THEN greatest(o.end_date, o.began) END
        FROM new_rows n JOIN opened o ON o.id = n.incident_id;
    EXCEPTION WHEN unique_violation THEN
        PERFORM sdb_affected_reopen(n.incident_id, n.component_id, now, n.incident_id::bigint <@ new_incidents)
        FROM new_rows n;
    END;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_affected_open IS 'Opens an interval for each component that is added to an incident';

CREATE FUNCTION sdb_affected_incident() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    changed record;
BEGIN
    -- A join of both tables would compare each row with each other one.
    FOR changed IN
        SELECT id, max(start_date) FILTER (WHERE is_new) AS new_start,
            max(start_date) FILTER (WHERE NOT is_new) AS old_start,
            max(end_date) FILTER (WHERE is_new) AS new_end,
            max(end_date) FILTER (WHERE NOT is_new) AS old_end,
            max(impact) FILTER (WHERE is_new) AS new_impact,
            max(impact) FILTER (WHERE NOT is_new) AS old_impact
        FROM (SELECT true AS is_new, id, start_date, end_date, impact FROM new_rows
            UNION ALL SELECT false, id, start_date, end_date, impact FROM old_rows) AS both_states
        GROUP BY id ORDER BY id
    LOOP
        IF changed.new_start IS NULL THEN
            -- Its id was changed, and so it has no components.
            DELETE FROM sdb_affected WHERE incident_id = changed.id;
            CONTINUE;
        END IF;
        IF (changed.new_start, changed.new_impact, changed.new_end)
            IS NOT DISTINCT FROM (changed.old_start, changed.old_impact, changed.old_end)
        THEN
            CONTINUE;
        END IF;
        PERFORM FROM sdb_affected WHERE incident_id = changed.id
            AND (ended IS NULL OR ended > changed.new_end OR changed.old_end IS NOT NULL
                OR changed.new_start <> changed.old_start)
        ORDER BY component_id, began FOR UPDATE;
        IF changed.new_start <> changed.old_start THEN
            PERFORM sdb_affected_move_start(changed.id, changed.old_start, changed.new_start, changed.old_end);
        END IF;
        IF changed.new_impact <> changed.old_impact THEN
            PERFORM sdb_affected_change_impact(changed.id, changed.old_impact, changed.new_impact,
                changed.old_end, changed.new_end);
        END IF;
        IF changed.new_end IS DISTINCT FROM changed.old_end THEN
            PERFORM sdb_affected_move_end(changed.id, changed.old_end, changed.new_end);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_affected_incident IS 'Changes the intervals of incidents whose start, end or impact has changed';

-- What has left the incident has an end of its own, even if it left after the incident's end.
CREATE FUNCTION sdb_affected_ends_with(incident integer, component integer, began timestamp, ended timestamp,
    incident_ended timestamp) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT incident_ended IS NOT NULL AND ended = greatest(began, incident_ended)
        AND EXISTS (SELECT FROM incident_component_relation
            WHERE incident_id = incident AND component_id = component)
$$;
COMMENT ON FUNCTION sdb_affected_ends_with IS 'Whether an interval ends with its incident, at that time, and follows its end';

-- `old_end` is the end of the incident before; none also if it is unknown.
CREATE FUNCTION sdb_affected_move_start(incident integer, old_start timestamp, new_start timestamp,
    old_end timestamp) RETURNS void LANGUAGE sql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    -- No interval begins before its incident; of several that would begin together, the last one stays.
    WITH moved AS (
        DELETE FROM sdb_affected
        WHERE incident_id = incident AND (began = old_start OR began < new_start)
        RETURNING component_id, impact, began, CASE
            WHEN sdb_affected_ends_with(incident, component_id, began, ended, old_end)
                THEN greatest(new_start, old_end)
            -- Its component left before the start: it was never affected.
            WHEN ended = began THEN new_start
            WHEN ended IS NOT NULL THEN greatest(ended, new_start) END AS ended
    )
    INSERT INTO sdb_affected AS a (incident_id, component_id, impact, began, ended)
    SELECT DISTINCT ON (component_id) incident, component_id, impact, new_start, ended
    FROM moved ORDER BY component_id, ended DESC, began DESC
    ON CONFLICT (incident_id, component_id, began) DO UPDATE SET ended =
        CASE WHEN a.ended IS NOT NULL AND excluded.ended IS NOT NULL THEN greatest(a.ended, excluded.ended) END
$$;
COMMENT ON FUNCTION sdb_affected_move_start IS 'Intervals that began at the start of their incident follow it';

CREATE FUNCTION sdb_affected_change_impact(incident integer, old_impact smallint, new_impact smallint,
    old_end timestamp, new_end timestamp) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
    change timestamp := least(now, new_end);
BEGIN
    IF old_end <= now THEN
        -- One that is opened again gets another interval.
        IF new_end IS NOT NULL THEN
            UPDATE sdb_affected SET impact = new_impact WHERE incident_id = incident AND impact = old_impact;
        END IF;
        RETURN;
    END IF;
    UPDATE sdb_affected SET impact = new_impact
    WHERE incident_id = incident AND began >= change
        AND (ended IS NULL OR (old_end IS NOT NULL
            AND sdb_affected_ends_with(incident, component_id, began, ended, old_end)));
    WITH split AS (
        UPDATE sdb_affected SET ended = change
        WHERE incident_id = incident AND began < change
            AND (ended IS NULL OR (old_end IS NOT NULL
                AND sdb_affected_ends_with(incident, component_id, began, ended, old_end)))
        RETURNING component_id
    )
    INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
    -- Also one that is empty, if it ends with its incident: the last one has the incident's impact.
    SELECT incident, component_id, new_impact, change, new_end FROM split
    ON CONFLICT (incident_id, component_id, began)
        DO UPDATE SET impact = excluded.impact, ended = excluded.ended;
END $$;
COMMENT ON FUNCTION sdb_affected_change_impact IS 'Open intervals are divided at the time of the change; the impact of an incident that has ended is corrected';

CREATE FUNCTION sdb_affected_move_end(incident integer, old_end timestamp, new_end timestamp)
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
BEGIN
    IF new_end IS NULL AND old_end <= now THEN
        -- A component that someone else is removing counts as it is afterwards.
        INSERT INTO sdb_affected (incident_id, component_id, impact, began)
        SELECT i.id, r.component_id, i.impact, greatest(now, i.start_date)
        FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
        WHERE i.id = incident FOR KEY SHARE OF r
        ON CONFLICT (incident_id, component_id, began)
            DO UPDATE SET impact = excluded.impact, ended = excluded.ended;
        RETURN;
    END IF;
    IF old_end IS NOT NULL THEN
        -- Of several intervals of a component, those before the last one end where the next one begins.
        UPDATE sdb_affected a SET ended = least(
            CASE WHEN new_end IS NOT NULL THEN greatest(a.began, new_end) END,
            (SELECT min(next.began) FROM sdb_affected next WHERE next.incident_id = incident
                AND next.component_id = a.component_id AND next.began > a.began))
        WHERE a.incident_id = incident
            AND sdb_affected_ends_with(incident, a.component_id, a.began, a.ended, old_end);
    END IF;
    IF new_end IS NOT NULL THEN
        -- Nothing goes on after the incident, what left before at a later time included.
        UPDATE sdb_affected SET ended = greatest(began, new_end)
        WHERE incident_id = incident AND (ended IS NULL OR ended > greatest(began, new_end));
    END IF;
END $$;
COMMENT ON FUNCTION sdb_affected_move_end IS 'Intervals that ended with their incident follow its end; an incident without an end any more opens new ones';

CREATE FUNCTION sdb_affected_delete() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM sdb_affected;
    ELSE
        DELETE FROM sdb_affected WHERE incident_id = ANY(ARRAY(SELECT id FROM old_rows));
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sdb_affected_delete IS 'Deletes the intervals of incidents that are deleted';

-- Compares the intervals of these incidents with what the tables have: for what was written before there were
-- triggers, or while there were none. What is right stays. Times that nobody recorded are those of the incident,
-- or now. Returns the incidents of which another session has locked rows; they are left out.
CREATE FUNCTION sdb_affected_compare(incidents integer[]) RETURNS integer[] LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
    locked integer[];
    moved record;
BEGIN
    locked := ARRAY(SELECT id FROM incident WHERE id = ANY(incidents)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED);
    -- The relation of a component that someone is removing is locked.
    locked := ARRAY(SELECT i.id FROM unnest(locked) AS i (id)
        WHERE (SELECT count(*) FROM incident_component_relation r WHERE r.incident_id = i.id)
            = (SELECT count(*) FROM (SELECT FROM incident_component_relation r
                WHERE r.incident_id = i.id FOR KEY SHARE SKIP LOCKED) AS free));

    -- Of a component that is not in the incident any more.
    UPDATE sdb_affected a SET ended = greatest(a.began, least(now, i.end_date))
    FROM incident i
    WHERE i.id = ANY(locked) AND a.incident_id = i.id AND (a.ended IS NULL OR a.ended > now)
        AND NOT EXISTS (SELECT FROM incident_component_relation r
            WHERE r.incident_id = i.id AND r.component_id = a.component_id);
    FOR moved IN
        SELECT i.id, i.start_date FROM incident i WHERE i.id = ANY(locked) AND EXISTS (SELECT
            FROM sdb_affected a WHERE a.incident_id = i.id AND a.began < i.start_date) ORDER BY i.id
    LOOP
        PERFORM sdb_affected_move_start(moved.id, '-infinity', moved.start_date, NULL);
    END LOOP;
    -- The latest interval of each component: its impact, then its end.
    UPDATE sdb_affected a SET impact = i.impact
    FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id, LATERAL (
        SELECT l.began FROM sdb_affected l
        WHERE l.incident_id = r.incident_id AND l.component_id = r.component_id
        ORDER BY l.began DESC LIMIT 1) AS latest
    WHERE i.id = ANY(locked)
        AND (a.incident_id, a.component_id, a.began) = (r.incident_id, r.component_id, latest.began)
        AND a.impact <> i.impact AND (i.end_date <= now OR a.began >= now);
    UPDATE sdb_affected a SET ended = latest.ends
    FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id, LATERAL (
        SELECT l.began, CASE
            WHEN l.impact <> i.impact THEN now
            WHEN i.end_date IS NOT NULL THEN greatest(l.began, i.end_date) END AS ends
        FROM sdb_affected l
        WHERE l.incident_id = r.incident_id AND l.component_id = r.component_id
        ORDER BY l.began DESC LIMIT 1) AS latest
    WHERE i.id = ANY(locked)
        AND (a.incident_id, a.component_id, a.began) = (r.incident_id, r.component_id, latest.began)
        AND a.ended IS DISTINCT FROM latest.ends
        -- One that ended, while its incident goes on, is followed by another one.
        AND (a.ended IS NULL OR a.ended > now OR i.end_date <= now);
    INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
    SELECT i.id, r.component_id, i.impact, begin.time,
        CASE WHEN i.end_date IS NOT NULL THEN greatest(i.end_date, begin.time) END
    FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
        LEFT JOIN LATERAL (SELECT l.began, l.ended FROM sdb_affected l
            WHERE l.incident_id = r.incident_id AND l.component_id = r.component_id
            ORDER BY l.began DESC LIMIT 1) AS latest ON true,
        LATERAL (SELECT CASE WHEN latest.began IS NULL THEN i.start_date
            ELSE greatest(now, i.start_date) END AS time) AS begin
    WHERE i.id = ANY(locked)
        AND (latest.began IS NULL OR (latest.ended <= now AND (i.end_date IS NULL OR i.end_date > now)))
    ON CONFLICT (incident_id, component_id, began)
        DO UPDATE SET impact = excluded.impact, ended = excluded.ended;
    RETURN ARRAY(SELECT i.id FROM incident i WHERE i.id = ANY(incidents) AND i.id <> ALL(locked));
END $$;
COMMENT ON FUNCTION sdb_affected_compare IS 'Corrects the intervals of incidents, for what was written without the triggers; returns those that someone else has locked';

-- Who may create a trigger with one of these functions on a table of his own could delete what they keep.
REVOKE EXECUTE ON FUNCTION sdb_affected_new_incident, sdb_affected_incident, sdb_affected_open, sdb_affected_close,
    sdb_affected_delete, sdb_affected_compare FROM PUBLIC;

-- Workers call it, too, and need no rights on the table. Incidents that are still locked come last the next time.
CREATE FUNCTION sdb_affected_compare_rest() RETURNS integer[] LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    at_once CONSTANT integer := 100;
    rest integer[];
BEGIN
    SELECT p.incidents INTO rest FROM sdb_affected_pending p WHERE p.incidents IS NOT NULL
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    rest := rest[at_once + 1:] || sdb_affected_compare(rest[:at_once]);
    IF rest = '{}' THEN
        DELETE FROM sdb_affected_pending;
    ELSE
        UPDATE sdb_affected_pending SET incidents = rest;
    END IF;
    RETURN rest;
END $$;
COMMENT ON FUNCTION sdb_affected_compare_rest IS 'Compares some of the incidents that others had locked; returns those that are left';

-- Names of tables must not be looked up among the caller's temporary tables, which come first unless pg_temp is
-- named: a role that may write incidents could put a table of its own in the place of ours.
DO $$
DECLARE
    path text := (SELECT string_agg(quote_ident(name), ', ' ORDER BY place)
        FROM unnest(current_schemas(false)) WITH ORDINALITY AS schemas (name, place));
    ours regprocedure;
BEGIN
    FOR ours IN SELECT oid FROM pg_proc
        WHERE prosecdef AND proname LIKE 'sdb\_%' AND pronamespace = ANY(SELECT to_regnamespace(quote_ident(name))
            FROM unnest(current_schemas(false)) AS schemas (name))
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s, pg_temp', ours, path);
    END LOOP;
END $$;
