//! A clock of PostgreSQL that a test sets.

use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::{Fixture, System, verdict};

/// `clock_timestamp()` of every session that begins from now on, ahead by what a table says. A schema that
/// is searched before PostgreSQL's own has a function of that name.
const SHIFTED_CLOCK: &str = "
    CREATE SCHEMA shifted;
    CREATE TABLE shifted.clock (ahead interval NOT NULL);
    INSERT INTO shifted.clock VALUES ('0');
    CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT pg_catalog.clock_timestamp() + ahead FROM shifted.clock';
    GRANT USAGE ON SCHEMA shifted TO PUBLIC;
    GRANT SELECT ON shifted.clock TO PUBLIC;";

/// A prepared database with a clock that the test sets: the clock stands first, since views and functions keep
/// the one that they were made with.
pub(super) async fn prepared(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::bare(fixture).await?;
    system.sql(SHIFTED_CLOCK).await?;
    let path =
        format!("ALTER DATABASE {} SET search_path = public, shifted, pg_catalog", system.vhost);
    system.sql(&path).await?;
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(done, "{said}");
    let mut connection = system.database.acquire().await?;
    verdict::install(&mut connection).await?;
    drop(connection);
    Ok(system)
}

/// Sets PostgreSQL's clock to an instant, an expression over the true `now`, and lets it go on from there.
pub(super) async fn set_clock(system: &System, instant: &str) -> Result<()> {
    let set = format!(
        "UPDATE shifted.clock SET ahead = ({instant}) - now
        FROM (SELECT pg_catalog.clock_timestamp() AT TIME ZONE 'UTC' AS now) AS true_clock"
    );
    system.sql(&set).await
}
