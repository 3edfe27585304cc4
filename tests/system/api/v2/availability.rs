//! The availability of components over a year of incidents.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::domain::{component::ComponentId, timestamp::Timestamp};

use super::{
    read,
    year::{Outage, Year},
};
use harness::{Fixture, NOW, System, tests};

tests!(
    availability_is_what_the_incidents_of_a_year_make_of_it,
    availability_is_that_of_a_year_with_moves,
    availability_has_every_component_and_twelve_months,
);

const AVAILABILITY: &str = "/v2/availability";
const COMPONENTS: i32 = 6;

/// Incidents of all impacts, which overlap, over 14 months until now; one goes on.
const HISTORY: &str = "
    INSERT INTO incident (id, text, start_date, end_date, impact, system)
    SELECT n, 'Incident', begin, CASE WHEN n <> 7 THEN begin + make_interval(mins => n * 37 % 2900) END,
        n % 4, n % 2 = 0
    FROM generate_series(1, 400) n,
        LATERAL (SELECT date_trunc('minute', now_utc) - make_interval(hours => n * 25 + 1) AS begin) AS b;
    INSERT INTO incident_component_relation
    SELECT n, c FROM generate_series(1, 400) n, generate_series(1, 6) c WHERE (n + c) % 5 < 2";

async fn availability_is_what_the_incidents_of_a_year_make_of_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    for number in 1..=COMPONENTS {
        system.components(&[(&format!("Service {number}"), &[])]).await?;
    }
    // In one transaction: they affected their components from their start.
    system.sql(&format!("BEGIN; {}; COMMIT", HISTORY.replace("now_utc", NOW))).await?;
    let mut of_each = BTreeMap::new();
    for component in 1..=COMPONENTS {
        of_each.insert(ComponentId(component), outages(&system, component).await?);
    }
    is_available(&system, &of_each).await?;
    system.finish().await
}

/// Intervals of a year, half of which are only noted yet.
async fn availability_is_that_of_a_year_with_moves(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for number in 1..=COMPONENTS {
        system.components(&[(&format!("Service {number}"), &[])]).await?;
    }
    let year = Year::new(COMPONENTS, now(&system).await?)?;
    ensure!(year.moves > 50, "only {} moves", year.moves);
    for (number, ((incident, component, began), (impact, ended))) in
        year.telling.intervals().iter().enumerate()
    {
        let statement = if number.is_multiple_of(2) {
            "INSERT INTO sdb_affected (incident_id, component_id, impact, began, ended)
            VALUES ($1, $2, $3, $4, $5)"
        } else {
            "INSERT INTO sdb_affected_change (recorded_at, incident_id, components, impact, began, ended)
            VALUES ('infinity', $1, ARRAY[$2::integer], $3, $4, $5)"
        };
        sqlx::query(statement)
            .bind(incident)
            .bind(component)
            .bind(impact)
            .bind(began)
            .bind(ended)
            .execute(&system.database)
            .await?;
    }
    is_available(&system, &year.outages).await?;
    system.finish_with_logs()
}

async fn now(system: &System) -> Result<Timestamp> {
    let now = sqlx::AssertSqlSafe(format!("SELECT {NOW}"));
    Ok(sqlx::query_scalar(now).fetch_one(&system.database).await?)
}

/// Holds the answer against these outages.
async fn is_available(system: &System, of_each: &BTreeMap<ComponentId, Vec<Outage>>) -> Result<()> {
    let before = now(system).await?;
    let answer = read(system, AVAILABILITY).await?;
    let after = now(system).await?;
    let mut with_outage = 0;
    for component in 1..=COMPONENTS {
        let outages = of_each.get(&ComponentId(component)).map_or(&[][..], Vec::as_slice);
        let shown = &answer.body["data"][usize::try_from(component)? - 1];
        ensure!(shown["id"] == component, "{shown}");
        for month in shown["availability"].as_array().context("no months")? {
            let percentage = month["percentage"].as_f64().context("no percentage")?;
            let (least, most) = expected(system, month, outages, before, after).await?;
            ensure!(
                (least - 1e-5..=most + 1e-5).contains(&percentage),
                "{component}, {month}: not between {least} and {most}"
            );
            with_outage += usize::from(percentage < 100.0);
        }
    }
    ensure!(with_outage > 40, "only {with_outage} months have an outage");
    Ok(())
}

/// From the incidents themselves, not from what was recorded of them.
async fn outages(system: &System, component: i32) -> Result<Vec<Outage>> {
    let rows: Vec<(Timestamp, Option<Timestamp>)> = sqlx::query_as(
        "SELECT start_date, end_date FROM incident JOIN incident_component_relation ON incident_id = id
        WHERE component_id = $1 AND impact = 3",
    )
    .bind(component)
    .fetch_all(&system.database)
    .await?;
    Ok(rows.iter().map(|(begin, end)| (begin.as_micros(), end.map(Timestamp::as_micros))).collect())
}

/// The availability in a month, as it was at one of both times.
async fn expected(
    system: &System,
    month: &Value,
    outages: &[Outage],
    before: Timestamp,
    after: Timestamp,
) -> Result<(f64, f64)> {
    let (begin, end): (Timestamp, Timestamp) = sqlx::query_as(
        "SELECT make_timestamp($1, $2, 1, 0, 0, 0), make_timestamp($1, $2, 1, 0, 0, 0) + interval '1 month'",
    )
    .bind(i32::try_from(month["year"].as_i64().context("no year")?)?)
    .bind(i32::try_from(month["month"].as_i64().context("no month")?)?)
    .fetch_one(&system.database)
    .await?;
    let at = |now: Timestamp| {
        let (begin, end) = (begin.as_micros(), end.as_micros().min(now.as_micros()));
        // The month began only after that.
        if end <= begin {
            return 100.0;
        }
        // Each part between two begins or ends is either all outage or not at all.
        let mut cuts: Vec<i64> = outages
            .iter()
            .flat_map(|(from, to)| [*from, to.unwrap_or(end)])
            .chain([begin, end])
            .map(|cut| cut.clamp(begin, end))
            .collect();
        cuts.sort_unstable();
        let covered = |from: i64, to: i64| {
            outages.iter().any(|(begin, end)| *begin <= from && end.is_none_or(|end| end >= to))
        };
        let available: i64 = cuts
            .windows(2)
            .filter(|part| part[0] < part[1] && !covered(part[0], part[1]))
            .map(|part| part[1] - part[0])
            .sum();
        100.0 * available as f64 / (end - begin) as f64
    };
    let (one, other) = (at(before), at(after));
    Ok((one.min(other), one.max(other)))
}

async fn availability_has_every_component_and_twelve_months(fixture: Arc<Fixture>) -> Result<()> {
    let system =
        System::start_with(&fixture, &[("DNS", &[("region", "R1")]), ("CDN", &[])]).await?;
    let answer = read(&system, AVAILABILITY).await?;
    let data = answer.body["data"].as_array().context("no data")?;
    ensure!(data.len() == 2 && data[0]["region"] == "R1" && data[1]["region"] == "", "{answer:?}");
    for component in data {
        let months = component["availability"].as_array().context("no months")?;
        ensure!(months.len() == 12, "{component}");
        ensure!(months.iter().all(|month| month["percentage"] == 100.0), "{component}");
        let ordinal = |month: &Value| month["year"].as_i64().zip(month["month"].as_i64());
        let ordinals: Vec<i64> =
            months.iter().filter_map(ordinal).map(|(year, month)| year * 12 + month).collect();
        ensure!(ordinals.windows(2).all(|pair| pair[0] == pair[1] + 1), "{component}");
    }
    // An outage shows a minute later at the latest, or when the components change.
    ensure!(system.post(&harness::status_update("CDN", 3)).await?.status == 201);
    system
        .sql(
            "UPDATE incident SET start_date = start_date - interval '1 year';
            INSERT INTO component (id, name) VALUES (3, 'Mail')",
        )
        .await?;
    let answer = read(&system, AVAILABILITY).await?;
    let months = &answer.body["data"][1]["availability"];
    ensure!(months[0]["percentage"] == 0.0 && months[11]["percentage"] == 0.0, "{answer:?}");
    ensure!(answer.body["data"][0]["availability"][0]["percentage"] == 100.0, "{answer:?}");
    ensure!(answer.body.get("incomplete").is_none(), "{answer:?}");
    system
        .sql("INSERT INTO sdb_affected_pending DEFAULT VALUES; UPDATE component SET name = 'Post' WHERE id = 3")
        .await?;
    let answer = read(&system, AVAILABILITY).await?;
    ensure!(answer.body["incomplete"] == true, "{answer:?}");
    system.finish().await
}
