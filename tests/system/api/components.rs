//! How an update names its component, and how a component is named in an incident's updates.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{is_error, texts};
use harness::{COMPONENT_STATUS, Fixture, System, answer, same, status_update, tests};

tests!(
    hostile_names_are_escaped_in_the_updates_alone,
    a_component_is_named_with_its_attributes_in_catalogue_order,
    a_component_is_found_by_its_name_and_attributes,
    attributes_are_limited_and_refusals_stay_short,
    a_component_that_is_added_to_the_catalogue_is_known_without_a_restart,
);

async fn hostile_names_are_escaped_in_the_updates_alone(fixture: Arc<Fixture>) -> Result<()> {
    let name = "<b>DNS</b> & \"co\"";
    let value = "R'1</a><script>";
    let title = "<img src=x onerror='alert(1)'> & \"more\"";
    let other = "</a><i>Other</i>";
    let escaped_label =
        "&lt;b&gt;DNS&lt;/b&gt; &amp; &quot;co&quot; (R&#x27;1&lt;/a&gt;&lt;script&gt;)";
    let escaped_title = "&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt; &amp; &quot;more&quot;";
    let escaped_other = "&lt;/a&gt;&lt;i&gt;Other&lt;/i&gt;";
    let system = System::start_with(
        &fixture,
        &[(name, &[("region", value)]), ("First", &[]), ("Second", &[])],
    )
    .await?;
    let post = async |name: &str, impact: u8, text: &str| {
        system.post(&json!({ "name": name, "impact": impact, "text": text })).await
    };
    let opened = post("First", 1, title).await?;
    ensure!(opened.status == 201 && opened.body["text"] == title, "{opened:?}");
    let joined = post(name, 1, "x").await?;
    ensure!(joined.body["text"] == title, "{joined:?}");
    ensure!(
        texts(&joined.body) == [format!("{escaped_label} added to {escaped_title}")],
        "{joined:?}"
    );

    let opened = post("Second", 2, other).await?;
    ensure!(opened.status == 201 && opened.body["text"] == other, "{opened:?}");
    let moved = post(name, 2, "x").await?;
    ensure!(
        texts(&moved.body)
            == [format!("{escaped_label} moved from <a href='/incidents/1'>{escaped_title}</a>")],
        "{moved:?}"
    );
    let left = system.get("/api/v1/incidents").await?;
    let left = &left.body.as_array().context("no list")?[1];
    ensure!(left["text"] == title, "{left}");
    ensure!(
        texts(left)[0]
            == format!("{escaped_label} moved to <a href='/incidents/2'>{escaped_other}</a>"),
        "{left}"
    );

    let shown = system.get("/api/v1/component_status").await?;
    same(&shown.body[0]["name"], &json!(name))?;
    same(&shown.body[0]["attributes"], &json!([{ "name": "region", "value": value }]))?;
    system.finish().await
}

async fn a_component_is_named_with_its_attributes_in_catalogue_order(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let attributes: &[(&str, &str)] = &[("type", "z"), ("region", "m"), ("category", "a")];
    let system = System::start_with(&fixture, &[("DNS", &[]), ("CDN", attributes)]).await?;
    ensure!(system.post(&json!({ "name": "DNS", "impact": 1, "text": "T" })).await?.status == 201);
    let sent = json!([
        { "name": "category", "value": "a" },
        { "name": "type", "value": "z" },
        { "name": "region", "value": "m" },
    ]);
    let update = json!({ "name": "CDN", "impact": 1, "attributes": sent });
    let joined = system.post(&update).await?;
    ensure!(texts(&joined.body) == ["CDN (z, m, a) added to T"], "{joined:?}");
    let expected = json!([
        { "name": "type", "value": "z" },
        { "name": "region", "value": "m" },
        { "name": "category", "value": "a" },
    ]);
    same(&system.get("/api/v1/component_status").await?.body[1]["attributes"], &expected)?;
    let receipt = system.get(&format!("/api/v1/updates/{}", joined.header("update-id"))).await?;
    let expected = json!({ "id": 2, "name": "CDN", "attributes": expected });
    same(&receipt.body["component"], &expected)?;
    system.finish().await
}

async fn a_component_is_found_by_its_name_and_attributes(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(
        &fixture,
        &[
            ("DNS", &[("region", "R1"), ("type", "dns")]),
            ("DNS", &[("region", "R2"), ("type", "dns")]),
            ("DNS", &[("region", "R1")]),
            ("DNS", &[("region", "R1")]),
            ("CDN", &[("region", "R1"), ("type", "cdn")]),
            ("VPN", &[("region", "R1")]),
            ("VPN", &[]),
        ],
    )
    .await?;
    let post = async |name: &str, attributes: &[(&str, &str)]| {
        let attributes: Vec<Value> = attributes
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        system.post(&json!({ "name": name, "impact": 1, "attributes": attributes })).await
    };
    for (name, attributes, id) in [
        ("DNS", &[("type", "dns"), ("region", "R1")][..], 1),
        // Exact before larger, and of two exact ones the lowest id.
        ("DNS", &[("region", "R1")], 3),
        ("DNS", &[("region", "R2")], 2),
        ("CDN", &[], 5),
        ("VPN", &[], 7),
        ("VPN", &[("region", "R1")], 6),
        // Of a repeated name the last value.
        ("DNS", &[("region", "R1"), ("type", "dns"), ("region", "R2")], 2),
    ] {
        let answer = post(name, attributes).await?;
        ensure!([200, 201].contains(&answer.status), "{name} {attributes:?}: {answer:?}");
        let id_of_update = answer.header("update-id");
        let receipt = system.get(&format!("/api/v1/updates/{id_of_update}")).await?;
        ensure!(receipt.body["component"]["id"] == id, "{name} {attributes:?}: {receipt:?}");
    }
    for (name, attributes) in [
        ("Nobody", &[][..]),
        ("DN", &[]),
        ("dns", &[("region", "R1")]),
        ("DNS", &[("region", "R3")]),
        ("CDN", &[("region", "R1"), ("type", "cdn"), ("more", "x")]),
        ("CDN", &[("type", "R1")]),
    ] {
        let answer = post(name, attributes).await?;
        is_error(&answer, 400).with_context(|| format!("{name} {attributes:?}"))?;
        same(&answer.body["message"], &json!("Component not found"))?;
    }
    let ambiguous = post("DNS", &[("type", "dns")]).await?;
    is_error(&ambiguous, 400)?;
    let message = ambiguous.body["message"].as_str().unwrap_or_default();
    ensure!(message.contains("DNS (R1, dns)") && message.contains("DNS (R2, dns)"), "{message}");
    ensure!(!message.contains("DNS (R1);"), "{message}");
    system.finish().await
}

/// Whatever is sent, and however many components have a name.
async fn attributes_are_limited_and_refusals_stay_short(fixture: Arc<Fixture>) -> Result<()> {
    let longest = "ü".repeat(50);
    let system =
        System::start_with(&fixture, &[("CDN", &[("region", &longest), ("type", "cdn")])]).await?;
    system
        .sql(
            "INSERT INTO component (id, name) SELECT n, 'Node' FROM generate_series(1001, 6000) n;
            INSERT INTO component_attribute (component_id, name, value)
                SELECT n, 'region', 'R1' FROM generate_series(1001, 6000) n;
            INSERT INTO component_attribute (component_id, name, value)
                SELECT n, 'node', 'Node ' || n FROM generate_series(1001, 6000) n",
        )
        .await?;
    system.catalogue_seen().await?;
    let attribute = |name: &str, value: &str| json!({ "name": name, "value": value });
    let post = async |name: &str, attributes: Vec<Value>| {
        system.post(&json!({ "name": name, "impact": 1, "attributes": attributes })).await
    };
    // One of thousands is found, and of thousands that may be meant a few are named.
    let found =
        post("Node", vec![attribute("region", "R1"), attribute("node", "Node 4711")]).await?;
    ensure!(found.status == 201, "{found:?}");
    let ambiguous = post("Node", vec![attribute("region", "R1")]).await?;
    is_error(&ambiguous, 400)?;
    let message = ambiguous.body["message"].as_str().unwrap_or_default();
    ensure!(message.contains("Node (R1, Node 1001); Node (R1, Node 1002)"), "{message}");
    ensure!(message.ends_with("and 4990 more") && message.len() < 1_000, "{message}");

    let region = attribute("region", &longest);
    ensure!(post("CDN", vec![region.clone(); 32]).await?.status == 201);
    let many = post("CDN", vec![region; 33]).await?;
    let expected = |problem: Value| json!({ "json": { "attributes": problem } });
    same(&many.body["errors"], &expected(json!(["Longer than maximum length 32."])))?;
    let long = "x".repeat(256);
    for (attributes, problem) in [
        (attribute(&long, "R1"), json!({ "name": ["Longer than maximum length 255."] })),
        (attribute("region", &long), json!({ "value": ["Longer than maximum length 255."] })),
    ] {
        let refused = post("CDN", vec![attributes]).await?;
        is_error(&refused, 422)?;
        same(&refused.body["errors"], &expected(json!({ "0": problem })))?;
    }
    // Bodies of 60 KiB with all wrong that they can hold.
    let body =
        |attributes: &str| format!(r#"{{"name":"CDN","impact":1,"attributes":[{attributes}]}}"#);
    let fields: Vec<String> = (0..6_000).map(|n| format!("\"{n:x}\":1")).collect();
    let wrong = [
        body(&vec!["1"; 30_000].join(",")),
        body(&vec!["{}"; 20_000].join(",")),
        body(&format!("{{{}}}", fields.join(","))),
        format!("{{{}}}", fields.join(",")),
    ];
    for body in wrong {
        let request =
            system.request_to(0, Method::POST, COMPONENT_STATUS).bearer_auth(&system.token);
        let request = request.header("Content-Type", "application/json").body(body);
        let refused = answer(request).await?;
        is_error(&refused, 422)?;
        let length = refused.body.to_string().len();
        ensure!(length < 2_000, "{length} bytes: {refused:?}");
    }
    for (query, parameter) in [
        (format!("attribute_name={long}&attribute_value=R1"), "attribute_name"),
        (format!("attribute_name=region&attribute_value={long}"), "attribute_value"),
    ] {
        let refused = system.get(&format!("{COMPONENT_STATUS}?{query}")).await?;
        is_error(&refused, 422)?;
        let problem = json!({ "query": { parameter: ["Longer than maximum length 255."] } });
        same(&refused.body["errors"], &problem)?;
    }
    system.finish().await
}

async fn a_component_that_is_added_to_the_catalogue_is_known_without_a_restart(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[("region", "R1")])]).await?;
    // Each is asked for at once: the catalogue is read again on a miss.
    for number in 0..3 {
        system
            .sql(&format!(
                "WITH new AS (INSERT INTO component (name) VALUES ('New {number}') RETURNING id)
                INSERT INTO component_attribute (component_id, name, value)
                SELECT id, 'region', 'R1' FROM new"
            ))
            .await?;
        let attributes = json!([{ "name": "region", "value": "R1" }]);
        let update =
            json!({ "name": format!("New {number}"), "impact": 1, "attributes": attributes });
        let answer = system.post(&update).await?;
        ensure!(answer.status == 201, "{number}: {answer:?}");
    }
    // Nobody misses this one: it makes a match that was clear ambiguous.
    system
        .sql(
            "INSERT INTO component (id, name) VALUES (100, 'DNS');
            INSERT INTO component_attribute (component_id, name, value)
            VALUES (100, 'region', 'R2');",
        )
        .await?;
    system.catalogue_seen().await?;
    is_error(&system.post(&status_update("DNS", 1)).await?, 400)?;
    // And one that is gone is gone.
    system
        .sql(
            "DELETE FROM component_attribute WHERE component_id = 100;
            DELETE FROM component WHERE id = 100;",
        )
        .await?;
    system.catalogue_seen().await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    system.finish().await
}
