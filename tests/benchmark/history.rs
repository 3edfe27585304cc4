//! Databases with a past, made by SQL.

use anyhow::Result;
use harness::System;

/// Who made incidents.
pub(crate) enum Whose {
    Persons,
    /// Every other one monitoring left behind.
    All,
}

/// Adds closed incidents, each with so many updates and so many components. Newer ones end later, and
/// the last one ended a minute ago.
pub(crate) async fn add_incidents(
    system: &System,
    incidents: u32,
    updates: u32,
    components: u32,
    whose: Whose,
) -> Result<()> {
    let of_the_system = match whose {
        Whose::Persons => "false",
        Whose::All => "n % 2 = 0",
    };
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

/// Incidents of the system that stand at most: one of each impact.
pub(crate) const SYSTEM_INCIDENTS: u32 = 3;

/// Adds components, each with a manual incident and a system incident, all of which are active.
pub(crate) async fn add_others(system: &System, components: u32) -> Result<()> {
    system
        .sql(&format!(
            "WITH others AS (
                INSERT INTO component (name)
                SELECT 'Other ' || n FROM generate_series(1, {components}) n RETURNING id
            ), attributes AS (
                INSERT INTO component_attribute (component_id, name, value)
                SELECT id, 'region', 'R1' FROM others
            ), made AS (
                INSERT INTO incident (text, start_date, impact, system)
                SELECT 'Incident ' || n, (now() AT TIME ZONE 'UTC') - make_interval(mins => n),
                    CASE WHEN n <= {SYSTEM_INCIDENTS} THEN n ELSE 1 + n % 3 END,
                    n <= {SYSTEM_INCIDENTS}
                FROM generate_series(1, {SYSTEM_INCIDENTS} + {components}) n
                RETURNING id, start_date, system
            ), said AS (
                INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
                SELECT id, start_date, 'It is looked at.', 'analyzing' FROM made
            ), numbered AS (
                SELECT id, system, row_number() OVER (PARTITION BY system ORDER BY id) AS n FROM made
            )
            INSERT INTO incident_component_relation (incident_id, component_id)
            SELECT numbered.id, other.id
            FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM others) AS other
            JOIN numbered ON numbered.n = CASE WHEN system
                THEN 1 + other.n % {SYSTEM_INCIDENTS} ELSE other.n END"
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

/// Adds components, each with a hundred reports that stand; so many reports in all.
pub(crate) async fn add_reports(system: &System, reports: u64) -> Result<()> {
    system
        .sql(&format!(
            "WITH reported AS (
                INSERT INTO component (name)
                SELECT 'Reported ' || n FROM generate_series(1, {reports} / 100) n RETURNING id
            )
            INSERT INTO sdb_report (component_id, source, key, is_live, first_at, last_at, update_id)
            SELECT id, 'source ' || n, '', true, now, now, gen_random_uuid()
            FROM reported, generate_series(1, 100) n, LATERAL (
                SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now
            ) AS clock"
        ))
        .await?;
    system.sql("VACUUM (ANALYZE) sdb_report").await
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
