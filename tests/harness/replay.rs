//! What must hold of the state of any system.

use anyhow::{Result, ensure};
use sqlx::PgPool;

use super::verdict::{self, Expected};

/// Invariant 5: what was decided, the state and the timelines are what the model makes of the same
/// updates, and of what others wrote beside them. Something must have been decided.
pub async fn agrees(database: &PgPool) -> Result<()> {
    let mut connection = database.acquire().await?;
    let mut run = verdict::read(&mut connection).await?;
    run.expected =
        Expected { compares: true, unknown_may_be_given_up: true, ..Expected::default() };
    verdict::judge(&run).into_result()?;
    Ok(())
}

/// Invariant 3, as the database has it.
pub async fn holds_one_active_incident(database: &PgPool) -> Result<()> {
    let shared_impacts: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT impact FROM incident
            WHERE system AND end_date IS NULL GROUP BY impact HAVING count(*) > 1) AS twice",
    )
    .fetch_one(database)
    .await?;
    ensure!(shared_impacts == 0, "{shared_impacts} impacts have several active incidents");
    let doubled: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT component_id FROM incident_component_relation r
            JOIN incident i ON i.id = r.incident_id
            WHERE i.system AND i.end_date IS NULL GROUP BY component_id HAVING count(*) > 1) AS d",
    )
    .fetch_one(database)
    .await?;
    ensure!(doubled == 0, "{doubled} components are in several active incidents");
    Ok(())
}
