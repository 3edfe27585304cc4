//! Reads a run from the database.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use model::{Standing, affected::Intervals};
use serde_json::Value;
use shared::domain::{
    component::ComponentId, incident::IncidentId, timestamp::Timestamp, update_id::UpdateId,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    run::{InboxRow, Mark, ParkedChange, ParkedRow, Reports, Run, Snapshot, Transaction},
    tables::{Change, Row, time},
};

/// Begins a journal in a prepared database.
pub async fn install(database: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(include_str!("journal.sql")).execute(database).await?;
    Ok(())
}

/// Whether the database has a journal.
pub async fn is_installed(database: &mut PgConnection) -> Result<bool> {
    let found = "SELECT to_regclass('verdict.journal') IS NOT NULL";
    Ok(sqlx::query_scalar(found).fetch_one(database).await?)
}

/// Begins the journal anew.
pub async fn begin(database: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT verdict.start_journal()").execute(database).await?;
    Ok(())
}

/// Notes that whatever is committed now is seen by all that begins later: without it an edit has one
/// batch that may have begun before it.
pub async fn mark(database: &mut PgConnection) -> Result<()> {
    sqlx::query("INSERT INTO verdict.mark DEFAULT VALUES").execute(database).await?;
    Ok(())
}

/// Reads a run, all of it at one moment. What was sent is not in the database.
pub async fn read(database: &mut PgConnection) -> Result<Run> {
    let mut transaction =
        database.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let run = read_in(&mut transaction).await?;
    transaction.commit().await?;
    Ok(run)
}

async fn read_in(database: &mut PgConnection) -> Result<Run> {
    let mut run = Run::default();
    let start: Vec<(String, Value)> =
        sqlx::query_as("SELECT what, row FROM verdict.start").fetch_all(&mut *database).await?;
    for (table, row) in start {
        match table.as_str() {
            "sdb_scope" => {
                run.start_position = row["position"].as_i64().context("no position")?;
            }
            "sdb_affected" => add_interval(&mut run.start_affected, &row)?,
            "sdb_report" => insert_report(&mut run.start_reports, &row)?,
            _ => run.start.insert(Row::read(&table, &row)?),
        }
    }
    run.transactions = transactions(database).await?;
    let marks: Vec<(i64, String)> =
        sqlx::query_as("SELECT at, snapshot FROM verdict.mark ORDER BY at")
            .fetch_all(&mut *database)
            .await?;
    for (at, snapshot) in marks {
        let snapshot = Snapshot::read(&snapshot).with_context(|| snapshot.clone())?;
        run.marks.push(Mark { at, snapshot });
    }
    run.inbox = sqlx::query_as::<_, InboxRow>(
        "SELECT id, component_id, impact, source, key, ttl, starts_at, ends_at, text, position,
            decided_at, outcome, reason, incident_id, original
        FROM sdb_inbox ORDER BY position",
    )
    .fetch_all(&mut *database)
    .await?;
    let parked: Vec<Value> = sqlx::query_scalar("SELECT to_jsonb(p) FROM sdb_parked p ORDER BY id")
        .fetch_all(&mut *database)
        .await?;
    run.parked = parked.iter().map(ParkedRow::read).collect::<Result<_>>()?;
    let affected: Vec<Value> =
        sqlx::query_scalar("SELECT to_jsonb(a) FROM sdb_affected_interval a")
            .fetch_all(&mut *database)
            .await?;
    for row in &affected {
        add_interval(&mut run.affected, row)?;
    }
    let reports: Vec<Value> = sqlx::query_scalar("SELECT to_jsonb(r) FROM sdb_report r")
        .fetch_all(&mut *database)
        .await?;
    for row in &reports {
        insert_report(&mut run.end_reports, row)?;
    }
    for table in [
        "component",
        "component_attribute",
        "incident",
        "incident_component_relation",
        "incident_status",
    ] {
        let query = format!("SELECT to_jsonb(t) FROM {table} t");
        let rows: Vec<Value> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut *database).await?;
        for row in rows {
            run.end.insert(Row::read(table, &row)?);
        }
    }
    Ok(run)
}

fn add_interval(intervals: &mut Intervals, row: &Value) -> Result<()> {
    let number = |name: &str| row[name].as_i64().with_context(|| format!("{name} in {row}"));
    let incident = IncidentId(number("incident_id")?.try_into()?);
    let component = ComponentId(number("component_id")?.try_into()?);
    let began = time(row["began"].as_str().context("no begin")?)?;
    let ended = row["ended"].as_str().map(time).transpose()?;
    let interval = (number("impact")?.try_into()?, ended);
    let other = intervals.insert((incident, component, began), interval);
    ensure!(other.is_none(), "two intervals begin together: {row}");
    Ok(())
}

/// Adds a report as `to_jsonb` writes it.
fn insert_report(reports: &mut Reports, row: &Value) -> Result<()> {
    let component = row["component_id"].as_i64().context("no component")?;
    let text = |name: &str| row[name].as_str().map(str::to_owned).with_context(|| name.to_owned());
    let at = |name: &str| row[name].as_str().map(time).transpose();
    let standing = Standing {
        stands: row["is_live"].as_bool().context("is_live")?,
        first: at("first_at")?.context("first_at")?,
        last: at("last_at")?.context("last_at")?,
        ttl: row["ttl"].as_i64(),
        start: at("starts_at")?,
        ended: at("ended_at")?,
        end: at("ends_at")?,
    };
    let id = (ComponentId(i32::try_from(component)?), text("source")?, text("key")?);
    reports.insert(id, standing);
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Entry {
    seq: i64,
    xid: i64,
    began: i64,
    at: i64,
    application: String,
    what: String,
    old: Option<Value>,
    new: Option<Value>,
    snapshot: Option<String>,
}

async fn transactions(database: &mut PgConnection) -> Result<Vec<Transaction>> {
    let entries: Vec<Entry> = sqlx::query_as(
        "SELECT seq, xid, began, at, application, what, old, new, snapshot
        FROM verdict.journal ORDER BY seq",
    )
    .fetch_all(database)
    .await?;
    let mut by_xid: HashMap<i64, Transaction> = HashMap::new();
    for entry in entries {
        let transaction = by_xid.entry(entry.xid).or_default();
        transaction.xid = u64::try_from(entry.xid)?;
        transaction.began = entry.began;
        transaction.seq = entry.seq;
        if let Some(snapshot) = &entry.snapshot {
            let snapshot = Snapshot::read(snapshot).with_context(|| snapshot.clone())?;
            transaction.snapshot.get_or_insert(snapshot);
        }
        add(transaction, &entry).with_context(|| format!("entry {} of the journal", entry.seq))?;
        transaction.application = entry.application;
    }
    let mut transactions: Vec<Transaction> = by_xid.into_values().collect();
    transactions.sort_by_key(|transaction| transaction.seq);
    Ok(transactions)
}

fn add(transaction: &mut Transaction, entry: &Entry) -> Result<()> {
    match entry.what.as_str() {
        "sdb_inbox" => {
            let ids = entry.new.clone().context("no ids")?;
            transaction.decided.extend(serde_json::from_value::<Vec<UpdateId>>(ids)?);
        }
        "sdb_parked" => transaction.parked.push(ParkedChange {
            old: entry.old.as_ref().map(ParkedRow::read).transpose()?,
            new: entry.new.as_ref().map(ParkedRow::read).transpose()?,
        }),
        table => {
            let row = |row: &Option<Value>| row.as_ref().map(|row| Row::read(table, row));
            let (old, new) = (row(&entry.old).transpose()?, row(&entry.new).transpose()?);
            let at = Timestamp::from_micros(entry.at)?;
            transaction.changes.push(Change { seq: entry.seq, at, old, new });
        }
    }
    Ok(())
}

impl ParkedRow {
    fn read(row: &Value) -> Result<Self> {
        let payload = row["payload"].as_str().and_then(|text| text.strip_prefix("\\x"));
        Ok(Self {
            id: row["id"].as_i64().context("no id")?,
            update: row["update_id"].as_str().map(str::parse).transpose()?.map(UpdateId),
            reason: row["reason"].as_str().unwrap_or_default().to_owned(),
            parked_at: row["parked_at"].as_str().unwrap_or_default().to_owned(),
            is_put_back: !row["put_back_at"].is_null(),
            payload: bytes(payload.context("no payload")?)?,
        })
    }
}

/// Bytes in hexadecimal digits.
fn bytes(digits: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.as_bytes().chunks(2) {
        match (pair, str::from_utf8(pair)) {
            ([_, _], Ok(pair)) => bytes.push(u8::from_str_radix(pair, 16)?),
            _ => bail!("`{digits}` are no bytes"),
        }
    }
    Ok(bytes)
}
