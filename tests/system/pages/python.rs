//! The pages on a database that the Python dashboard has filled: they show what its own show.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{Page, page};
use harness::{Fixture, System, tests};

tests!(
    a_database_of_alembic_shows_what_its_own_pages_show,
    a_database_of_the_orm_shows_what_its_own_pages_show,
);

/// Rows as its provisioning and its forms write them: the description of a maintenance is an update, and a component
/// that a person moves leaves a link in both incidents.
const CONTENTS: &str = "
    INSERT INTO component (id, name) VALUES (1, 'DNS'), (2, 'DNS'), (3, 'Object Storage'), (4, 'Mail');
    INSERT INTO component_attribute (component_id, name, value) VALUES
        (1, 'region', 'EU-DE'), (1, 'category', 'Network'), (1, 'type', 'dns'),
        (2, 'region', 'EU-NL'), (2, 'category', 'Network'), (2, 'type', 'dns'),
        (3, 'region', 'EU-DE'), (3, 'category', 'Storage'), (3, 'type', 'obs'),
        (4, 'region', 'EU-NL'), (4, 'category', 'Application'), (4, 'type', 'mail');
    INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
        (1, 'Old and over', '2026-01-03 10:11', '2026-01-04 12:13', 3, true),
        (2, 'Slow answers', '2026-02-05 14:15', NULL, 1, true),
        (3, 'No R&D <network>', '2026-02-06 16:17', NULL, 2, false),
        (4, 'New disks', '2026-02-07 18:19', '2098-01-01 20:21', 0, false),
        (5, 'New routers', '2098-02-01 06:00', '2098-02-01 08:00', 0, false);
    INSERT INTO incident_component_relation (incident_id, component_id)
        VALUES (1, 4), (2, 2), (3, 1), (4, 3), (5, 4);
    INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
        (1, '2026-01-03 10:20', 'We look', 'analyzing'),
        (1, '2026-01-04 12:13', 'It works again', 'resolved'),
        (2, '2026-02-06 16:17',
            'DNS (EU-DE, Network, dns) moved to <a href=''/incidents/3''>No R&D <network></a>', 'SYSTEM'),
        (3, '2026-02-06 16:17',
            'DNS (EU-DE, Network, dns) moved from <a href=''/incidents/2''>Slow answers</a>', 'SYSTEM'),
        (3, '2026-02-06 16:40', 'A cable is cut', 'fixing'),
        (4, '2026-02-07 18:00', 'Nothing will be slow', 'description'),
        (4, '2026-02-07 18:20', 'We begin', 'in progress');";

async fn a_database_of_alembic_shows_what_its_own_pages_show(fixture: Arc<Fixture>) -> Result<()> {
    let tables = include_str!("../../data/python-alembic.sql");
    let version = "INSERT INTO alembic_version VALUES ('14621c95e3ee');";
    its_pages(&fixture, &[tables, version].concat()).await
}

async fn a_database_of_the_orm_shows_what_its_own_pages_show(fixture: Arc<Fixture>) -> Result<()> {
    its_pages(&fixture, include_str!("../../data/python-orm.sql")).await
}

/// Each text stands where that dashboard's page of the same address has it; times are UTC there, too.
async fn its_pages(fixture: &Arc<Fixture>, tables: &str) -> Result<()> {
    let mut system = System::bare(fixture).await?;
    system.sql(tables).await?;
    system.sql(CONTENTS).await?;
    system.worker_succeeds(&["migrate"]).await?;
    system.start_gateway(&[]).await?;

    let index = page(&system, "/").await?;
    has(&index, &["Major problem with 1 component", "EU-DE", "EU-NL"])?;
    has(&index, &["Application", "Network", "Storage", "DNS", "Object Storage", "Mail"])?;
    has(&part(&index, 2)?, &["Slow answers", "Minor problem", "DNS (EU-NL)", "2026-02-05 14:15"])?;
    let manual = part(&index, 3)?;
    has(&manual, &["No R&#38;D &#60;network&#62;", "Major problem", "DNS (EU-DE)"])?;
    has(&manual, &["2026-02-06 16:17", "fixing", "2026-02-06 16:40", "A cable is cut"])?;
    let running = part(&index, 4)?;
    has(&running, &["New disks", "Maintenance", "Nothing will be slow", "Object Storage (EU-DE)"])?;
    has(&running, &["2026-02-07 18:19", "2098-01-01 20:21", "in progress", "We begin"])?;
    has(&part(&index, 5)?, &["New routers", "Mail (EU-NL)", "2098-02-01 06:00"])?;
    // In its order: incidents by their start, newest first, then maintenances.
    let order = [3, 2, 4].map(|id| index.text.find(&format!("id=\"incident-{id}\"")));
    ensure!(order.is_sorted() && order[0].is_some(), "{order:?}");

    let over = page(&system, "/incidents/1").await?;
    has(
        &over,
        &["Old and over", "Outage", "Mail (EU-NL)", "2026-01-03 10:11", "2026-01-04 12:13"],
    )?;
    has(&over, &["analyzing", "2026-01-03 10:20", "We look", "resolved", "It works again"])?;
    has(&page(&system, "/incidents/3").await?, &["href=\"/incidents/2\"", "Slow answers"])?;
    let history = page(&system, "/history/2026-01").await?;
    has(&history, &["January 2026", "Old and over", "2026-01-03 10:11", "2026-01-04 12:13"])?;
    ensure!(page(&system, "/incidents/6").await?.status == 404);
    system.finish().await
}

/// An incident or a maintenance on the first page.
fn part(index: &Page, id: i32) -> Result<Page> {
    let begin = format!("id=\"incident-{id}\"");
    let found = index.text.split_once(&begin).and_then(|(_, rest)| rest.split("</article>").next());
    let text = found.ok_or_else(|| anyhow::anyhow!("{id} is not there: {}", index.text))?;
    Ok(Page { status: 200, headers: index.headers.clone(), text: text.to_owned() })
}

fn has(page: &Page, texts: &[&str]) -> Result<()> {
    for text in texts {
        ensure!(page.status == 200 && page.has(text), "{text} is not there: {}", page.text);
    }
    Ok(())
}
