-- What a worker's batch changes is recorded in two steps: its triggers write one row for each statement and incident,
-- with all components, and later, outside of the scope's lock, these changes are applied to sdb_affected. The end of an
-- incident is recorded like that for every program: batches wait for the incident's row meanwhile. For all other changes
-- the triggers change sdb_affected at once, as before.

CREATE TABLE sdb_affected_change (
    incident_id integer NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamp NOT NULL,
    components integer[],
    impact smallint,
    began timestamp,
    ended timestamp,
    CHECK (began IS NOT NULL OR ended IS NOT NULL),
    PRIMARY KEY (incident_id, id)
-- The components of a batch stay in the row: to compress them, or to move them elsewhere, costs more than to write them.
) WITH (toast_tuple_target = 8160);
ALTER TABLE sdb_affected_change ALTER COLUMN components SET STORAGE EXTERNAL;
COMMENT ON TABLE sdb_affected_change IS 'Changes to sdb_affected that are not applied to it yet, by workers'' batches and by the end of incidents: components of an incident whose intervals begin, or end';
COMMENT ON COLUMN sdb_affected_change.incident_id IS 'The incident or maintenance';
COMMENT ON COLUMN sdb_affected_change.id IS 'The order of the changes of an incident. Only transactions that have locked the incident''s row write them, one after the other';
COMMENT ON COLUMN sdb_affected_change.recorded_at IS 'Time of the statement, by the clock of the database';
COMMENT ON COLUMN sdb_affected_change.components IS 'The components; none: all that the incident has affected';
COMMENT ON COLUMN sdb_affected_change.impact IS 'The impact of intervals that begin';
COMMENT ON COLUMN sdb_affected_change.began IS 'Begin of intervals; none: the components'' intervals end';
COMMENT ON COLUMN sdb_affected_change.ended IS 'End of the intervals, as in sdb_affected. If they only end here: those that end earlier stay as they are';

-- Incidents without such changes are read from the table alone, with every condition. Of the others, an end also counts for
-- intervals that end later already: a component may have left just after an end that is written at the same time, or the
-- clock may have been set back. Of several intervals that begin together, the last one stays. The end of a whole incident
-- also counts for components that were added to it afterwards: they end when they began.
CREATE VIEW sdb_affected_interval AS
SELECT incident_id, component_id, impact, began, ended FROM sdb_affected a
WHERE NOT EXISTS (SELECT FROM sdb_affected_change c WHERE c.incident_id = a.incident_id)
UNION ALL
SELECT incident_id, component_id, impact, began,
    CASE WHEN coalesce(ended, own_until, until) IS NOT NULL THEN greatest(began, least(ended, own_until, until)) END AS ended
FROM (
    SELECT id, incident_id, component_id, impact, began, ended,
        min(ended) FILTER (WHERE began IS NULL) OVER (PARTITION BY incident_id, component_id
            ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS own_until
    FROM (
        SELECT 0 AS id, incident_id, component_id, impact, began, ended FROM sdb_affected a
        WHERE EXISTS (SELECT FROM sdb_affected_change c WHERE c.incident_id = a.incident_id)
        UNION ALL
        SELECT id, incident_id, component_id, impact, began, ended
        FROM sdb_affected_change, unnest(components) AS component_id
    ) AS recorded_and_noted
) AS all_of_them LEFT JOIN (
    SELECT incident_id, min(ended) AS until FROM sdb_affected_change
    WHERE began IS NULL AND components IS NULL GROUP BY 1
) AS whole USING (incident_id)
WHERE began IS NOT NULL AND NOT EXISTS (SELECT FROM sdb_affected_change c
    WHERE (c.incident_id, c.began) = (all_of_them.incident_id, all_of_them.began)
        AND c.id > all_of_them.id AND all_of_them.component_id = ANY(c.components));
COMMENT ON VIEW sdb_affected_interval IS 'The intervals of sdb_affected, with the changes that are not applied to it yet';
COMMENT ON TABLE sdb_affected IS 'The intervals in which incidents and maintenances affected components, one row each: kept by triggers, whichever program changes an incident. Some changes come here a little later: sdb_affected_interval has all. No foreign keys, which would lock rows of the dashboard''s tables; the rows go with their incident, and those of a deleted component stay until then';

-- Who reads the intervals may read them as they are now.
DO $$
DECLARE
    reader regrole;
BEGIN
    FOR reader IN
        SELECT DISTINCT granted.grantee FROM pg_class, aclexplode(relacl) AS granted
        WHERE pg_class.oid = 'sdb_affected'::regclass AND granted.privilege_type = 'SELECT' AND granted.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT ON sdb_affected_interval TO %s', reader);
    END LOOP;
END $$;

-- Whether the transaction is a worker's batch (worker/src/store/state_lock.rs). Workers of earlier releases don't
-- say so.
CREATE FUNCTION sdb_affected_is_later() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT current_setting('sdb.affected_later', true) = 'on'
$$;
COMMENT ON FUNCTION sdb_affected_is_later IS 'Whether the changes of this transaction are applied to sdb_affected later';

-- Applies changes with these ids of an incident. The caller has locked them, and all earlier changes of the incident are
-- applied already. The loop is for the plan: a join might compare each interval with each end.
CREATE FUNCTION sdb_affected_apply(incident integer, ids bigint[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
    ends record;
    until timestamp := (SELECT min(ended) FROM sdb_affected_change
        WHERE incident_id = incident AND id = ANY(ids) AND began IS NULL AND components IS NULL);
BEGIN
    FOR ends IN SELECT component_id, min(ended) AS time FROM (
            SELECT component_id, ended FROM sdb_affected_change, unnest(components) AS component_id
            WHERE incident_id = incident AND id = ANY(ids) AND began IS NULL
            UNION ALL
            SELECT component_id, until FROM sdb_affected
            WHERE incident_id = incident AND until IS NOT NULL AND (ended IS NULL OR ended > until)
        ) AS each_end GROUP BY 1 ORDER BY 1
    LOOP
        UPDATE sdb_affected SET ended = greatest(began, ends.time)
        WHERE incident_id = incident AND component_id = ends.component_id
            AND (ended IS NULL OR ended > ends.time);
    END LOOP;
    WITH taken AS MATERIALIZED (
        DELETE FROM sdb_affected_change WHERE incident_id = incident AND id = ANY(ids)
        RETURNING id, components, impact, began, ended
    )
    INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
    -- Of several that begin together, the last one stays.
    SELECT DISTINCT ON (component_id, began) incident, component_id, impact, began,
        CASE WHEN coalesce(ended, own_until, until) IS NOT NULL THEN greatest(began, least(ended, own_until, until)) END
    FROM (SELECT component_id, id, impact, began, ended,
            min(ended) FILTER (WHERE began IS NULL) OVER (PARTITION BY component_id
                ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS own_until
        FROM taken, unnest(components) AS component_id) AS noted
    WHERE began IS NOT NULL
    ORDER BY component_id, began, id DESC
    ON CONFLICT (incident_id, component_id, began) DO UPDATE SET impact = excluded.impact, ended = excluded.ended;
END $$;
COMMENT ON FUNCTION sdb_affected_apply IS 'Applies changes of an incident to sdb_affected';

-- Before sdb_affected itself is changed: waits for those who apply changes of the same incidents.
CREATE FUNCTION sdb_affected_apply_all(incidents integer[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
    noted record;
BEGIN
    FOR noted IN SELECT incident_id, array_agg(id) AS ids FROM (
            SELECT incident_id, id FROM sdb_affected_change WHERE incident_id = ANY(incidents)
            ORDER BY incident_id, id FOR UPDATE) AS locked
        GROUP BY 1 ORDER BY 1
    LOOP
        PERFORM sdb_affected_apply(noted.incident_id, noted.ids);
    END LOOP;
END $$;
COMMENT ON FUNCTION sdb_affected_apply_all IS 'Applies all changes of these incidents to sdb_affected';

-- Workers call it. It takes the oldest changes of one incident, and of so few components that it takes a moment. It takes
-- those of an incident that is quiet, which has had no change for some time, and those that have been left for long. It
-- waits only for those who have changed intervals, and not for long: they may be about to wait for it.
CREATE FUNCTION sdb_affected_apply_some(quiet interval, long interval) RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '100ms' AS $$
DECLARE
    most_changes CONSTANT integer := 1000;
    most_components CONSTANT integer := 20000;
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
    incident integer;
    oldest bigint[];
BEGIN
    FOR incident IN SELECT incident_id FROM sdb_affected_change GROUP BY 1
        HAVING max(recorded_at) <= now - quiet OR min(recorded_at) <= now - long ORDER BY min(id)
    LOOP
        oldest := ARRAY(SELECT id FROM (
            SELECT id, sum(cardinality(components)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW)
                AS before
            FROM (SELECT id, components FROM sdb_affected_change WHERE incident_id = incident
                ORDER BY id LIMIT most_changes) AS first) AS summed
            WHERE before IS NULL OR before < most_components);
        BEGIN
            -- If another transaction applies one of them, those after it have to wait for its end. Those that are
            -- missing now are applied.
            oldest := ARRAY(SELECT id FROM sdb_affected_change WHERE incident_id = incident AND id = ANY(oldest)
                ORDER BY id FOR UPDATE NOWAIT);
            IF oldest <> '{}' THEN
                PERFORM sdb_affected_apply(incident, oldest);
                RETURN true;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            -- The next one may be free. Nothing of this one stays locked.
        END;
    END LOOP;
    RETURN false;
END $$;
COMMENT ON FUNCTION sdb_affected_apply_some IS 'Applies some changes to sdb_affected; returns whether there were any that nobody else has locked';

CREATE OR REPLACE FUNCTION sdb_affected_close() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
BEGIN
    IF sdb_affected_is_later() THEN
        INSERT INTO sdb_affected_change (incident_id, recorded_at, components, ended)
        SELECT incident_id, now, array_agg(component_id), now FROM old_rows GROUP BY 1;
        RETURN NULL;
    END IF;
    PERFORM sdb_affected_apply_all(ARRAY(SELECT DISTINCT incident_id FROM old_rows));
    -- A nested loop keeps the order. To lock the rows first would cost a batch half as much as to change them.
    UPDATE sdb_affected a SET ended = greatest(a.began, now)
    FROM (SELECT incident_id, component_id FROM old_rows ORDER BY 1, 2) AS o
    WHERE a.incident_id = o.incident_id AND a.component_id = o.component_id
        AND (a.ended IS NULL OR a.ended > now);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION sdb_affected_open() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
    new_incidents int8multirange := coalesce(nullif(current_setting('sdb.new_incidents', true), ''), '{}');
    incidents integer[];
BEGIN
    IF sdb_affected_is_later() THEN
        -- A batch has locked its incidents.
        INSERT INTO sdb_affected_change (incident_id, recorded_at, components, impact, began, ended)
        SELECT i.id, now, n.components, i.impact, begin.time,
            CASE WHEN i.end_date IS NOT NULL THEN greatest(i.end_date, begin.time) END
        FROM (SELECT incident_id, array_agg(component_id) AS components FROM new_rows GROUP BY 1) AS n
            JOIN incident i ON i.id = n.incident_id, LATERAL (SELECT CASE WHEN i.id::bigint <@ new_incidents
                THEN i.start_date ELSE greatest(i.start_date, least(now, i.end_date)) END AS time) AS begin;
        RETURN NULL;
    END IF;
    incidents := ARRAY(SELECT DISTINCT incident_id FROM new_rows);
    -- An incident that someone else is changing counts as it is afterwards. The foreign key's lock does not
    -- wait for a new end or impact.
    PERFORM FROM incident WHERE id = ANY(incidents) ORDER BY id FOR NO KEY UPDATE;
    PERFORM sdb_affected_apply_all(incidents);
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

CREATE OR REPLACE FUNCTION sdb_affected_incident() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    now timestamp := statement_timestamp() AT TIME ZONE 'UTC';
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
            DELETE FROM sdb_affected_change WHERE incident_id = changed.id;
            DELETE FROM sdb_affected WHERE incident_id = changed.id;
            CONTINUE;
        END IF;
        IF (changed.new_start, changed.new_impact, changed.new_end)
            IS NOT DISTINCT FROM (changed.old_start, changed.old_impact, changed.old_end)
        THEN
            CONTINUE;
        END IF;
        -- The statement has locked the incident's row, as a batch does before it notes something of it: so the order of
        -- their changes is that of id. Batches that wait for the row don't wait until all intervals have ended.
        IF changed.old_end IS NULL
            AND (changed.new_start, changed.new_impact) = (changed.old_start, changed.old_impact)
        THEN
            INSERT INTO sdb_affected_change (incident_id, recorded_at, ended)
            VALUES (changed.id, now, changed.new_end);
            CONTINUE;
        END IF;
        PERFORM sdb_affected_apply_all(ARRAY[changed.id]);
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

CREATE OR REPLACE FUNCTION sdb_affected_delete() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM sdb_affected_change;
        DELETE FROM sdb_affected;
    ELSE
        DELETE FROM sdb_affected_change WHERE incident_id = ANY(ARRAY(SELECT id FROM old_rows));
        DELETE FROM sdb_affected WHERE incident_id = ANY(ARRAY(SELECT id FROM old_rows));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION sdb_affected_compare(incidents integer[]) RETURNS integer[] LANGUAGE plpgsql SECURITY DEFINER
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
    PERFORM sdb_affected_apply_all(locked);

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

CREATE OR REPLACE FUNCTION sdb_affected_compare_rest() RETURNS integer[] LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    at_once CONSTANT integer := 100;
    rest integer[];
BEGIN
    -- Workers of earlier releases call no other function. Those of this one leave nothing for so long while they are alive.
    -- What is applied stays locked until the end, so this takes a moment only: the rest is left for the next time.
    WHILE clock_timestamp() < statement_timestamp() + interval '2 seconds'
        AND sdb_affected_apply_some('1 minute', '1 minute')
    LOOP
        NULL;
    END LOOP;
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

-- Only functions of the record and worker detach call these.
REVOKE EXECUTE ON FUNCTION sdb_affected_apply, sdb_affected_apply_all FROM PUBLIC;

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
