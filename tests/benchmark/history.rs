//! Databases with a past, made by SQL.

use anyhow::Result;
use harness::System;

/// Adds closed incidents, each with so many updates and so many components. Newer ones end later, and
/// the last one ended a minute ago.
///
/// Those of the system are what monitoring left behind; manual ones an operator made.
pub(crate) async fn add_incidents(
    system: &System,
    incidents: u32,
    updates: u32,
    components: u32,
    of_the_system: bool,
) -> Result<()> {
    system
        .sql(&format!(
            "WITH made AS (
                INSERT INTO incident (text, start_date, end_date, impact, system)
                SELECT 'Incident ' || n, began, began + interval '30 seconds', 1 + n % 3,
                    {of_the_system}
                FROM generate_series(1, {incidents}) n, LATERAL (
                    SELECT (now() AT TIME ZONE 'UTC') - make_interval(mins => {incidents} - n + 2)
                        AS began
                ) AS times
                RETURNING id, start_date
            ), said AS (
                INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
                SELECT id, start_date + make_interval(secs => u),
                    'Service ' || (id + u) % 50 || ' (R1) is looked at by its team: update ' || u,
                    (ARRAY['resolved', 'analyzing', 'fixing', 'observing'])[1 + u % 4]
                FROM made, generate_series(1, {updates}) u
                ORDER BY id, u
            )
            INSERT INTO incident_component_relation (incident_id, component_id)
            SELECT DISTINCT made.id, component.id
            FROM made, generate_series(0, {components} - 1) c, component
            WHERE component.id = 1 + (made.id + c * 33) % 100"
        ))
        .await?;
    Ok(())
}

/// Adds decided updates of the last days to the inbox, and moves the place of the next one.
pub(crate) async fn add_inbox(system: &System, rows: u64) -> Result<()> {
    system
        .sql(&format!(
            "INSERT INTO sdb_inbox (id, component_id, impact, text, received_at, decided_at,
                position, outcome, reason, incident_id)
            SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000'
                    || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
                1 + n % 100, 1, 'Incident', at, at, n, 'unchanged', 'covered_by_system_incident', 1
            FROM generate_series(1, {rows}::bigint) n, LATERAL (
                SELECT (now() AT TIME ZONE 'UTC') - interval '29 days' * (1 - n / {rows}.0) AS at
            ) AS times;
            UPDATE sdb_scope SET position = {rows}"
        ))
        .await?;
    Ok(())
}

/// Cleans up and counts what was added, so that plans know the sizes and no clean-up comes in between.
pub(crate) async fn settle(system: &System) -> Result<()> {
    system
        .sql(
            "VACUUM (ANALYZE) component, component_attribute, incident, incident_status,
                incident_component_relation, sdb_inbox",
        )
        .await?;
    system.sql("CHECKPOINT").await
}
