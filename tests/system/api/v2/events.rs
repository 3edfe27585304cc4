//! How events are shown.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{COMPONENTS, EVENTS, is_refused, read};
use harness::{Fixture, NOW, System, same, status_update, tests};

tests!(
    components_are_a_bare_list,
    an_event_has_what_the_rows_have,
    the_status_of_an_event_follows_from_its_times_and_its_updates,
    texts_of_the_service_are_markdown,
);

async fn components_are_a_bare_list(fixture: Arc<Fixture>) -> Result<()> {
    let components: [harness::Component<'_>; 2] =
        [("DNS", &[("region", "R1"), ("category", "Net")]), ("<CDN>", &[])];
    let system = System::start_with(&fixture, &components).await?;
    let listed = read(&system, COMPONENTS).await?;
    let attributes = json!([
        { "name": "region", "value": "R1" },
        { "name": "category", "value": "Net" },
    ]);
    let expected = json!([
        { "id": 1, "name": "DNS", "attributes": attributes },
        { "id": 2, "name": "<CDN>", "attributes": [] },
    ]);
    same(&listed.body, &expected)?;
    system.finish().await
}

async fn an_event_has_what_the_rows_have(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[]), ("CDN", &[])]).await?;
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
                (5, 'Slow <b>', '2026-01-02 03:04:05.678901', '2026-01-03', 2, false),
                (6, 'Planned', '2999-01-01', 'infinity', 0, false);
            INSERT INTO incident_component_relation VALUES (5, 2), (5, 1);
            INSERT INTO incident_status (incident_id, timestamp, text, status) VALUES
                (5, '2026-01-02 06:00', 'We *look* <i>', 'analyzing'),
                (5, '2026-01-02 05:00', 'The older one', 'description'),
                (5, '2026-01-02 07:00', 'What it is', 'description'),
                (5, '2026-01-03 00:00', 'Done', 'resolved')",
        )
        .await?;
    let update = |id: u32, status: &str, text: &str, timestamp: &str| json!({ "id": id, "status": status, "text": text, "timestamp": timestamp });
    let expected = json!({
        "id": 5, "title": "Slow <b>", "impact": 2, "components": [1, 2],
        "start_date": "2026-01-02T03:04:05.678901Z", "end_date": "2026-01-03T00:00:00.000000Z",
        "system": false, "type": "incident", "status": "resolved",
        "updates": [
            update(0, "analysing", "We *look* <i>", "2026-01-02T06:00:00.000000Z"),
            update(1, "resolved", "Done", "2026-01-03T00:00:00.000000Z"),
        ],
        "description": "What it is",
    });
    same(&read(&system, &format!("{EVENTS}/5")).await?.body, &expected)?;
    let list = read(&system, EVENTS).await?;
    same(&list.body["data"][1], &expected)?;
    let planned = &list.body["data"][0];
    ensure!(planned["id"] == 6 && planned["type"] == "maintenance", "{planned}");
    ensure!(
        planned["components"] == json!([]) && planned.get("description").is_none(),
        "{planned}"
    );
    let pagination =
        json!({ "pageIndex": 1, "recordsPerPage": 50, "totalRecords": 2, "totalPages": 1 });
    same(&list.body["pagination"], &pagination)?;

    is_refused(&read(&system, &format!("{EVENTS}/7")).await?, 404, "event does not exist")?;
    for bad in ["x", "-", "99999999999", "1.5", "%FF"] {
        is_refused(&read(&system, &format!("{EVENTS}/{bad}")).await?, 400, "")?;
    }
    let past = read(&system, &format!("{EVENTS}?page=9&limit=10")).await?;
    let pagination =
        json!({ "pageIndex": 9, "recordsPerPage": 10, "totalRecords": 2, "totalPages": 1 });
    same(&past.body, &json!({ "data": [], "pagination": pagination }))?;
    system.sql("TRUNCATE incident CASCADE").await?;
    let pagination =
        json!({ "pageIndex": 1, "recordsPerPage": 50, "totalRecords": 0, "totalPages": 0 });
    same(&read(&system, EVENTS).await?.body, &json!({ "data": [], "pagination": pagination }))?;
    system.finish().await
}

/// Start and end in hours from now, impact, statuses of its updates from the oldest on, and the status.
type Case = (i32, Option<i32>, u8, &'static [&'static str], &'static str);

async fn the_status_of_an_event_follows_from_its_times_and_its_updates(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let cases: [Case; 14] = [
        (-1, None, 1, &[], "detected"),
        (-1, None, 1, &["SYSTEM", "nonsense"], "detected"),
        (-1, None, 1, &["analyzing"], "analysing"),
        (-1, None, 1, &["analyzing", "fixing", "SYSTEM"], "fixing"),
        (-1, None, 1, &["fixing", "observing"], "observing"),
        (-1, None, 1, &["resolved", "reopened"], "reopened"),
        (-1, None, 1, &["impact changed"], "impact changed"),
        (-1, Some(1), 1, &["observing"], "observing"),
        (-2, Some(-1), 1, &["observing"], "resolved"),
        (1, Some(2), 0, &["scheduled"], "planned"),
        (-1, Some(2), 0, &["scheduled"], "in_progress"),
        (-1, None, 0, &["scheduled", "modified"], "modified"),
        (-2, Some(-1), 0, &["modified"], "completed"),
        (1, None, 0, &["modified"], "planned"),
    ];
    let system = System::start(&fixture).await?;
    for (id, (start, end, impact, statuses, _)) in (1..).zip(cases) {
        let end =
            end.map_or("NULL".to_owned(), |hours| format!("{NOW} + interval '{hours} hours'"));
        system
            .sql(&format!(
                "INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
                ({id}, 'x', {NOW} + interval '{start} hours', {end}, {impact}, false)"
            ))
            .await?;
        for (minute, status) in statuses.iter().enumerate() {
            system
                .sql(&format!(
                    "INSERT INTO incident_status (incident_id, timestamp, text, status)
                    VALUES ({id}, {NOW} + interval '{minute} minutes', 'x', '{status}')"
                ))
                .await?;
        }
    }
    for (id, case) in (1..).zip(cases) {
        let event = read(&system, &format!("{EVENTS}/{id}")).await?;
        ensure!(event.body["status"] == case.4, "{case:?}: {event:?}");
        let query = format!("{EVENTS}?status={}", case.4.replace(' ', "%20"));
        let list = read(&system, &query).await?;
        let all = list.body["data"].as_array().map_or(&[][..], Vec::as_slice);
        let expected = cases.iter().filter(|other| other.4 == case.4).count();
        ensure!(
            all.len() == expected && all.iter().any(|one| one["id"] == id),
            "{case:?}: {list:?}"
        );
        ensure!(all.iter().all(|one| one["status"] == case.4), "{list:?}");
        ensure!(list.body["pagination"]["totalRecords"] == expected, "{list:?}");
    }
    system.finish().await
}

async fn texts_of_the_service_are_markdown(fixture: Arc<Fixture>) -> Result<()> {
    let system =
        System::start_with(&fixture, &[("R&D_1", &[("region", "<R>")]), ("CDN", &[])]).await?;
    let post = async |name: &str, impact: u8, text: &str| -> Result<Value> {
        let mut update = status_update(name, impact);
        update["text"] = json!(text);
        let answer = system.post(&update).await?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(answer.body["id"].clone())
    };
    let first = post("R&D_1", 1, "it's [a](b) *c*").await?;
    post("CDN", 1, "x").await?;
    let second = post("R&D_1", 2, "worse").await?;
    let texts = async |id: &Value| -> Result<Vec<Value>> {
        let event = read(&system, &format!("{EVENTS}/{id}")).await?;
        let updates = event.body["updates"].as_array().cloned().unwrap_or_default();
        ensure!(updates.iter().all(|update| update["status"] == "SYSTEM"), "{event:?}");
        Ok(updates.iter().map(|update| update["text"].clone()).collect())
    };
    let expected = [
        json!(r"CDN () added to it's \[a\](b) \*c\*"),
        json!(format!(r"R\&D\_1 (\<R\>) moved to [worse](/Event/{second})")),
    ];
    ensure!(texts(&first).await? == expected, "{:?}", texts(&first).await?);
    let expected =
        [json!(format!(r"R\&D\_1 (\<R\>) moved from [it's \[a\](b) \*c\*](/Event/{first})"))];
    ensure!(texts(&second).await? == expected, "{:?}", texts(&second).await?);
    system.finish().await
}
