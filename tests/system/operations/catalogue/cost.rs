//! What operators' commands cost the workers, which wait for the scope's lock meanwhile.

use std::{
    fmt::Write,
    fs,
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use super::apply;
use harness::{Fixture, NOW, System, tests};

tests!(statements_under_the_scopes_lock_do_not_grow_with_the_components,);

/// The statements of one command, as PostgreSQL logs them.
struct Statements {
    /// All of them.
    all: usize,
    /// From the scope's lock to the end of its transaction.
    under_the_lock: usize,
}

/// Runs a command that succeeds, and counts its statements.
async fn counted(
    system: &System,
    run: impl Future<Output = Result<(bool, String)>>,
) -> Result<Statements> {
    let mut log = fs::File::open(system.context.postgres().log())?;
    log.seek(SeekFrom::End(0))?;
    let (done, said) = run.await?;
    ensure!(done, "{said}");
    let mut text = String::new();
    // What other tests log meanwhile may be cut off anywhere.
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    text.push_str(&String::from_utf8_lossy(&bytes));
    // Another session's statements are not logged, but for those of this test's own pool.
    let statements: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" LOG:  execute ") || line.contains(" LOG:  statement: "))
        .collect();
    let process = |line: &str| line.split(['[', ']']).nth(1).map(str::to_owned);
    let begins = statements
        .iter()
        .find(|line| line.contains("pg_advisory_xact_lock") || line.contains("SET LOCAL idle_in"))
        .with_context(|| format!("no statement is logged: {text}"))?;
    let pid = process(begins);
    let own: Vec<&&str> = statements.iter().filter(|line| process(line) == pid).collect();
    let locked = own.iter().position(|line| line.contains("SET LOCAL idle_in"));
    let ended = own.iter().rposition(|line| line.contains("COMMIT"));
    let under_the_lock = match (locked, ended) {
        (Some(locked), Some(ended)) => ended - locked + 1,
        _ => 0,
    };
    Ok(Statements { all: own.len(), under_the_lock })
}

/// What each command costs with so many components: its name, its statements under the scope's lock,
/// and all of them.
async fn costs(system: &System, components: usize) -> Result<Vec<(&'static str, usize, usize)>> {
    let mut costs = Vec::new();
    let mut note =
        |what, Statements { all, under_the_lock }| costs.push((what, under_the_lock, all));
    let entry = |name: &str, n: usize, category: &str| {
        format!("{name} {n}, attributes: {{region: R1, category: {category}}}")
    };
    let file = |parts: &[Vec<String>]| -> Vec<String> { parts.concat() };
    let some = |name: &str, category: &str| -> Vec<String> {
        (0..components).map(|n| entry(name, n, category)).collect()
    };
    let first = file(&[some("Old", "A"), some("Moved", "A"), some("Gone", "A")]);
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    note("add", counted(system, apply(system, &first, &[])).await?);

    // All are in one incident of the system, and every second one in another.
    system
        .sql(&format!(
            "INSERT INTO incident (text, start_date, impact, system)
                VALUES ('Minor', {NOW}, 1, true), ('Major', {NOW}, 2, true);
            INSERT INTO incident_component_relation SELECT i.id, c.id FROM incident i, component c
                WHERE c.name LIKE 'Old %' AND (i.impact = 1 OR c.id % 2 = 0)"
        ))
        .await?;
    let ids = system.texts("SELECT id::text FROM component WHERE name LIKE 'Old %'").await?;
    let with = |option: &'static str| ids.iter().flat_map(move |id| [option, id.as_str()]);
    let open: Vec<&str> = ["incident", "open", "--title", "T", "--impact", "3"]
        .into_iter()
        .chain(with("--component"))
        .collect();
    note("open", counted(system, system.worker_command(&open)).await?);
    let number = system.texts("SELECT max(id)::text FROM incident").await?;
    let other = ["incident", "open", "--title", "U", "--impact", "1", "--component", "Gone 0"];
    note("open for one", counted(system, system.worker_command(&other)).await?);
    let last = system.texts("SELECT max(id)::text FROM incident").await?;
    let change: Vec<&str> = ["incident", "change", &last[0], "--title", "V"]
        .into_iter()
        .chain(with("--add-component"))
        .collect();
    note("change", counted(system, system.worker_command(&change)).await?);
    let moved =
        format!("SELECT count(*) FROM incident WHERE end_date IS NULL AND id <> {}", last[0]);
    ensure!(system.count(&moved).await? == 0, "{number:?} and those before are not closed");
    for command in [
        &["incident", "comment", &last[0], "--status", "fixing", "Now"][..],
        &["incident", "remove-component", &last[0], "Gone 0"],
        &["incident", "close", &last[0]],
    ] {
        note("one more", counted(system, system.worker_command(command)).await?);
    }
    let window = ["--start", "2999-01-01 00:00", "--end", "2999-01-02 00:00"];
    let schedule: Vec<&str> = ["maintenance", "schedule", "--title", "W", "--description", "D"]
        .into_iter()
        .chain(window)
        .chain(with("--component"))
        .collect();
    note("schedule", counted(system, system.worker_command(&schedule)).await?);

    // Nothing is active any more. All at once: added, changed, renamed and removed.
    system
        .sql(
            "DELETE FROM incident_component_relation r USING component c
        WHERE r.component_id = c.id AND c.name LIKE 'Gone %'",
        )
        .await?;
    let renamed =
        (0..components).map(|n| format!("{}, renamed-from: Old {n}", entry("New", n, "B")));
    let second = file(&[renamed.collect(), some("Moved", "B"), some("Added", "A")]);
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    note("all at once", counted(system, apply(system, &second, &["--prune"])).await?);
    let names = "SELECT count(*) FROM component WHERE name LIKE 'New %' OR name LIKE 'Moved %'
        OR name LIKE 'Added %'";
    ensure!(system.count(names).await? == 3 * components as i64);
    ensure!(system.count("SELECT count(*) FROM component").await? == 3 * components as i64);
    system
        .sql(
            "TRUNCATE incident_component_relation, incident_status, component_attribute, component,
            incident CASCADE",
        )
        .await?;
    Ok(costs)
}

async fn statements_under_the_scopes_lock_do_not_grow_with_the_components(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    system.sql(&format!("ALTER DATABASE {} SET log_statement = 'all'", system.vhost)).await?;
    let few = costs(&system, 3).await?;
    let many = costs(&system, 300).await?;
    let mut table = String::new();
    for (what, under_the_lock, all) in &many {
        writeln!(table, "{what}: {under_the_lock} of {all}")?;
    }
    ensure!(few == many, "with 3 components {few:?}, with 300\n{table}");
    for (what, under_the_lock, all) in many {
        ensure!(under_the_lock <= 13 && all <= 26, "{what}: {table}");
        ensure!((under_the_lock > 0) == (what != "add"), "{what}: {table}");
    }
    system.finish().await
}
