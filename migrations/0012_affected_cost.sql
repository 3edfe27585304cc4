-- What is noted of when components were affected is applied with fewer statements. What is recorded stays the same.

-- Applies changes with these ids of an incident. The caller has locked them, and all earlier changes of the incident are
-- applied already. A statement for each component that ends would cost twice as much as one for all, and six times as much
-- if only their incident has ended. But it must not be a join, which might compare each interval with each end. If only
-- the incident has ended, its intervals are read by the primary key, and so in its order. Otherwise the intervals of each
-- component are looked up (OFFSET 0 leaves the planner no other way), and changed by the conflict with themselves. None of
-- them can be deleted meanwhile: who deletes intervals first waits for what is noted.
CREATE OR REPLACE FUNCTION sdb_affected_apply(incident integer, ids bigint[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    until timestamp := (SELECT min(ended) FROM sdb_affected_change
        WHERE incident_id = incident AND id = ANY(ids) AND began IS NULL AND components IS NULL);
BEGIN
    IF EXISTS (SELECT FROM sdb_affected_change
        WHERE incident_id = incident AND id = ANY(ids) AND began IS NULL AND components IS NOT NULL)
    THEN
        INSERT INTO sdb_affected AS a (incident_id, component_id, impact, began, ended)
        SELECT incident, ends.component_id, going.impact, going.began, greatest(going.began, ends.time)
        FROM (SELECT component_id, min(ended) AS time FROM (
                SELECT component_id, ended FROM sdb_affected_change, unnest(components) AS component_id
                WHERE incident_id = incident AND id = ANY(ids) AND began IS NULL
                UNION ALL
                SELECT component_id, until FROM sdb_affected
                WHERE incident_id = incident AND until IS NOT NULL AND (ended IS NULL OR ended > until)
            ) AS each_end GROUP BY 1) AS ends,
            LATERAL (SELECT impact, began FROM sdb_affected
                WHERE incident_id = incident AND component_id = ends.component_id
                    AND (ended IS NULL OR ended > ends.time) OFFSET 0) AS going
        ORDER BY ends.component_id, going.began
        ON CONFLICT (incident_id, component_id, began) DO UPDATE SET ended = excluded.ended
        WHERE a.ended IS NULL OR a.ended > excluded.ended;
    ELSIF until IS NOT NULL THEN
        UPDATE sdb_affected SET ended = greatest(began, until)
        WHERE incident_id = incident AND (ended IS NULL OR ended > until);
    END IF;
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
