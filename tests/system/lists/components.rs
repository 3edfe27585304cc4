//! The list of components: its order, its filters, the incidents of each.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{CATALOGUE, ids, windows};
use harness::{COMPONENT_STATUS, Fixture, INCIDENTS, System, same, tests};

tests!(
    components_are_listed_by_id_with_their_incidents,
    components_are_filtered_by_a_literal_prefix_of_the_name,
    components_are_filtered_by_an_attribute,
    a_name_with_an_attribute_gives_one_component,
    active_components_show_only_incidents_that_are_active_now,
);

async fn components_are_listed_by_id_with_their_incidents(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system
        .sql(
            "INSERT INTO incident_component_relation VALUES
                (2, 1), (1, 1), (6, 1), (3, 2), (1, 2), (5, 4)",
        )
        .await?;
    let incidents = system.get(INCIDENTS).await?.body;
    let incident = |id: i64| {
        let found = incidents.as_array().into_iter().flatten().find(|i| i["id"] == id);
        found.cloned().unwrap_or_default()
    };
    let list = system.get(COMPONENT_STATUS).await?;
    ensure!(list.status == 200 && list.header("content-type") == "application/json", "{list:?}");
    let expected = json!([
        {
            "id": 1, "name": "DNS",
            "attributes": [
                { "name": "region", "value": "R1" },
                { "name": "category", "value": "Network" },
            ],
            "incidents": [incident(6), incident(1), incident(2)],
        },
        {
            "id": 2, "name": "DNS",
            "attributes": [
                { "name": "region", "value": "R2" },
                { "name": "category", "value": "Network" },
            ],
            "incidents": [incident(3), incident(1)],
        },
        {
            "id": 3, "name": "DNS server",
            "attributes": [{ "name": "region", "value": "R1" }],
            "incidents": [],
        },
        {
            "id": 4, "name": "CDN",
            "attributes": [{ "name": "zone", "value": "R1" }],
            "incidents": [incident(5)],
        },
    ]);
    same(&list.body, &expected)?;
    system.finish().await
}

async fn components_are_filtered_by_a_literal_prefix_of_the_name(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    for (name, expected) in [
        ("", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11][..]),
        ("DNS", &[1, 2, 3, 5]),
        ("DNS%20", &[3]),
        ("DNS+s", &[3]),
        ("dns", &[]),
        ("NS", &[]),
        ("%25", &[]),
        ("50", &[6, 7]),
        ("50%25", &[6]),
        ("_", &[]),
        ("a_", &[8]),
        ("a", &[8, 9, 10]),
        ("a%5C", &[10]),
        ("Gr%C3%B6%C3%9Fe%20%26%20%3C", &[11]),
        ("'%20OR%20''='", &[]),
    ] {
        let list = system.get(&format!("{COMPONENT_STATUS}?name={name}")).await?;
        ensure!(list.status == 200 && list.body.is_array(), "{name}: {list:?}");
        ensure!(ids(&list.body) == expected, "{name}: {:?}", ids(&list.body));
    }
    system.finish().await
}

async fn components_are_filtered_by_an_attribute(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    for (name, value, expected) in [
        ("region", "R1", &[1, 3, 5][..]),
        ("region", "R2", &[2]),
        ("category", "Network", &[1, 2]),
        ("zone", "R1", &[4]),
        ("region", "R%201%262", &[11]),
        ("region", "R", &[]),
        ("region", "%25", &[]),
        ("region", "", &[]),
        ("Region", "R1", &[]),
        ("nothing", "R1", &[]),
    ] {
        let path = format!("{COMPONENT_STATUS}?attribute_name={name}&attribute_value={value}");
        let list = system.get(&path).await?;
        ensure!(list.status == 200 && list.body.is_array(), "{path}: {list:?}");
        ensure!(ids(&list.body) == expected, "{path}: {:?}", ids(&list.body));
        ensure!(list.header("etag").starts_with("W/\""), "{path}: {list:?}");
    }
    system.finish().await
}

async fn a_name_with_an_attribute_gives_one_component(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (2, 1), (3, 1), (1, 5)").await?;
    let whole = system.get(COMPONENT_STATUS).await?.body;
    for (name, attribute, value, id) in [
        // The lowest of components 1 and 5.
        ("DNS", "region", "R1", 1),
        ("DNS", "region", "R2", 2),
        ("DNS%20server", "region", "R1", 3),
        ("Gr%C3%B6%C3%9Fe%20%26%20%3Cb%3E", "region", "R%201%262", 11),
    ] {
        let path = format!(
            "{COMPONENT_STATUS}?name={name}&attribute_name={attribute}&attribute_value={value}"
        );
        let one = system.get(&path).await?;
        ensure!(one.status == 200 && one.body.is_object(), "{path}: {one:?}");
        same(&one.body, &whole[id - 1])?;
    }
    let path = format!("{COMPONENT_STATUS}?name=DNS&attribute_name=region&attribute_value=R1");
    let active = system.get(&format!("{path}&active=true")).await?;
    ensure!(active.body["id"] == 1 && ids(&active.body["incidents"]) == [3], "{active:?}");
    for (name, attribute, value) in [
        // The name is exact.
        ("DN", "region", "R1"),
        ("dns", "region", "R1"),
        ("DNS", "region", "R3"),
        ("DNS", "zone", "R1"),
        ("Nobody", "region", "R1"),
        ("", "region", "R1"),
    ] {
        let path = format!(
            "{COMPONENT_STATUS}?name={name}&attribute_name={attribute}&attribute_value={value}"
        );
        let none = system.get(&path).await?;
        ensure!(none.status == 404 && none.body["code"] == 404, "{path}: {none:?}");
        ensure!(none.body["status"] == "Not Found", "{path}: {none:?}");
        ensure!(none.body["message"].is_string(), "{path}: {none:?}");
    }
    system.finish().await
}

async fn active_components_show_only_incidents_that_are_active_now(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..3]).await?;
    windows(&system).await?;
    system
        .sql(
            "INSERT INTO incident_component_relation SELECT id, 1 FROM incident;
            INSERT INTO incident_component_relation VALUES (2, 2);",
        )
        .await?;
    for (query, expected) in [
        ("active=true", vec![vec![4, 3, 8, 1], vec![], vec![]]),
        ("active=false", vec![vec![6, 7, 4, 3, 8, 1, 2, 5], vec![2], vec![]]),
        ("active=true&name=DNS%20", vec![vec![]]),
        ("active=true&attribute_name=region&attribute_value=R1", vec![vec![4, 3, 8, 1], vec![]]),
    ] {
        let list = system.get(&format!("{COMPONENT_STATUS}?{query}")).await?;
        let shown: Vec<Vec<i64>> =
            list.body.as_array().into_iter().flatten().map(|c| ids(&c["incidents"])).collect();
        ensure!(shown == expected, "{query}: {shown:?}");
    }
    system.finish().await
}
