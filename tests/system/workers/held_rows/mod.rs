//! Rows that others hold: an open transaction of the Python dashboard, an operator or a person with psql
//! holds up the updates that need its rows, and nothing else.

mod order;
mod rows;

use std::sync::Arc;

use anyhow::Result;

use harness::{Fixture, System, tests_of};

tests_of!(order, rows);

/// One queue, of which a worker holds few messages; the components' ids are 1, 2, 3 and 4.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system =
        System::prepared_with(fixture, &[("SDB_PARTITIONS", "1"), ("SDB_PREFETCH", "8")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[]), ("VPN", &[])]).await?;
    Ok(system)
}
