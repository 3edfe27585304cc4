//! Alerts with titles that the database's encoding lacks characters for.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{BOTH, WEBHOOK, incidents, incidents_are, of, send};
use crate::servers::encodings;
use harness::{CLAIM, Fixture, SECRET, System, answer, tests, token};

tests!(
    a_title_that_can_not_be_stored_has_what_is_left_of_it,
    a_title_that_can_not_be_checked_is_sent_in_ascii,
    a_source_that_can_not_be_stored_is_refused,
);

/// A system on a database of LATIN1.
async fn latin1(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = encodings::bare(fixture, "LATIN1").await?;
    system.worker_succeeds(&["migrate"]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("CDN", &[]), ("DNS", &[]), ("VPN", &[])]).await?;
    Ok(system)
}

/// An alert of a component with a title.
fn titled(component: &str, title: &str, severity: &str) -> Value {
    let mut alert = of(component, "Slow");
    alert["labels"]["severity"] = json!(severity);
    alert["annotations"] = json!({ "summary": title });
    alert
}

/// Alerts of which each opens an incident; the encoding lacks the arrow only.
fn alerts() -> [Value; 3] {
    [
        titled("CDN", "CDN ist träge", "warning"),
        titled("DNS", "DNS ist träge → warten", "error"),
        titled("VPN", "VPN is slow", "critical"),
    ]
}

async fn a_title_that_can_not_be_stored_has_what_is_left_of_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = latin1(&fixture).await?;
    for path in BOTH {
        let taken = answer(send(&system, path, &alerts())).await?;
        ensure!(taken.status == 200, "{taken:?}");
    }
    system.drained().await?;
    let expected = ["CDN ist träge: CDN", "DNS ist tr?ge ? warten: DNS", "VPN is slow: VPN"];
    ensure!(incidents(&system).await? == expected, "{:?}", incidents(&system).await?);
    system.finish().await
}

/// PostgreSQL is stalled: it answers nobody, and no connection ends.
async fn a_title_that_can_not_be_checked_is_sent_in_ascii(fixture: Arc<Fixture>) -> Result<()> {
    let fixture = fixture.with_own_postgres()?;
    let system = latin1(&fixture).await?;
    fixture.postgres().pause();
    // More of them than the gateway has connections.
    let many: Vec<Value> =
        (0..40).flat_map(|number| [titled("DNS", &format!("{number} →"), "error")]).collect();
    let all = [&alerts()[..], &many].concat();
    let taken = answer(send(&system, WEBHOOK, &all)).await;
    fixture.postgres().resume();
    let taken = taken?;
    ensure!(taken.status == 200 && taken.body["accepted"] == 43, "{taken:?}");
    let expected = ["CDN ist tr?ge: CDN", "DNS ist tr?ge ? warten: DNS", "VPN is slow: VPN"];
    incidents_are(&system, &expected).await?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 43);
    // None is parked.
    system.finish().await
}

async fn a_source_that_can_not_be_stored_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = latin1(&fixture).await?;
    for (source, status) in [("prométhée", 200), ("prometheus→1", 422)] {
        system.token = token(SECRET, &json!({ CLAIM: true, "sub": source }));
        for path in BOTH {
            let answered = answer(send(&system, path, &alerts())).await?;
            ensure!(answered.status == status, "{answered:?}");
            let says = &answered.body["errors"]["json"]["source"];
            ensure!(says.is_array() == (status == 422), "{answered:?}");
        }
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 6);
    system.finish().await
}
