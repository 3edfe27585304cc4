//! Which manual incidents and maintenances cover the components of a batch.

/// A query for the manual incidents and the maintenances (of any origin) that are active at some time from
/// `now` to `until` of a `clock` in the same FROM: those without an end by `sdb_incident_open`, those with an
/// end to come by `sdb_incident_end`.
macro_rules! active_manual {
    () => {
        "SELECT id FROM incident
        WHERE end_date IS NULL AND (NOT system OR impact = 0)
            AND impact BETWEEN 0 AND 3 AND start_date <= clock.until
        UNION ALL
        SELECT id FROM incident
        WHERE end_date > clock.now AND (NOT system OR impact = 0)
            AND impact BETWEEN 0 AND 3 AND start_date <= clock.until"
    };
}
pub(crate) use active_manual;

/// CTEs up to `covering (incident_id, component_id)`: the manual incidents and the maintenances (of any
/// origin) that are active at some time from `now` to `until` of the CTE `clock`, with those of the components
/// `$1` that each has.
///
/// The planner knows neither how few incidents are active nor how many a component once had, and would choose
/// a slow plan when its estimates are wrong. So the plan is fixed: `MATERIALIZED` and `OFFSET 0` prevent another
/// order of the joins, and a condition on `few` runs only one branch of the union.
///
/// 1. `active`: the incidents that cover something.
/// 2. `active_count`: whether they are few; it reads 101 of them at most.
/// 3. If they are few, which is the rule, `covering` looks up the components of each.
/// 4. If they are many, it looks up the incidents of each component by `sdb_relation_component`, from
///    the `oldest` active one on.
///
/// So a batch's cost depends neither on closed incidents nor on the active ones of other components. The
/// exception: if many are active, the closed incidents that a component had since the oldest active one count.
macro_rules! covering_ctes {
    () => {
        concat!(
            "active AS MATERIALIZED (SELECT i.id FROM clock, LATERAL (",
            $crate::store::covering::active_manual!(),
            ") AS i",
            "), active_count AS MATERIALIZED (
            SELECT count(*) <= 100 AS few FROM (SELECT FROM active LIMIT 101) AS first
        ), oldest AS MATERIALIZED (
            SELECT least(
                (SELECT id FROM incident WHERE end_date IS NULL AND (NOT system OR impact = 0)
                    ORDER BY id LIMIT 1),
                (SELECT min(id) FROM (SELECT id FROM incident
                    WHERE end_date > (SELECT now FROM clock) OFFSET 0) AS ending)) AS id
        ), covering AS MATERIALIZED (
            SELECT active.id AS incident_id, r.component_id
            FROM active, LATERAL (
                SELECT component_id FROM incident_component_relation
                WHERE incident_id = active.id OFFSET 0
            ) AS r
            WHERE (SELECT few FROM active_count) AND r.component_id = ANY($1::integer[])
            UNION ALL
            SELECT i.id, touched.id
            FROM unnest($1::integer[]) AS touched (id), LATERAL (
                SELECT incident_id FROM incident_component_relation
                WHERE component_id = touched.id AND incident_id >= (SELECT id FROM oldest)
                OFFSET 0
            ) AS r, LATERAL (
                SELECT id FROM incident
                WHERE id = r.incident_id AND (NOT system OR impact = 0)
                    AND impact BETWEEN 0 AND 3 AND start_date <= (SELECT until FROM clock)
                    AND (end_date IS NULL OR end_date > (SELECT now FROM clock))
                OFFSET 0
            ) AS i
            WHERE NOT (SELECT few FROM active_count)
        )"
        )
    };
}
pub(crate) use covering_ctes;
