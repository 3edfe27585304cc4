//! Databases that are not UTF-8: what they hold is shown, what they can't hold is refused, and neither
//! stops anything else.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::task::spawn_blocking;

use crate::parking::{Publisher, message};
use harness::{Fixture, System, eventually, tests};

tests!(
    a_latin1_database_is_served,
    a_win1252_database_with_bytes_that_mean_nothing_is_served,
    a_sql_ascii_database_with_bytes_that_are_not_utf8_is_served,
    a_text_that_the_database_lacks_characters_for_parks_its_update_alone,
    in_utf8_reading_costs_nothing,
    a_database_that_an_earlier_version_has_prepared_is_prepared_first,
);

/// What a database of an encoding holds and shows.
struct Encoding {
    name: &'static str,
    /// What `worker migrate` says of it.
    says: &'static str,
    /// The bytes of a name, and how it is shown.
    bytes: &'static str,
    shown: &'static str,
    /// Whether it has the arrow `→`.
    has_arrow: bool,
}

/// A system on an empty database of this encoding.
pub(crate) async fn bare(fixture: &Arc<Fixture>, encoding: &str) -> Result<System> {
    let mut system = System::bare(fixture).await?;
    system.database.close().await;
    let (context, name) = (fixture.clone(), system.vhost.clone());
    let statement = format!(
        "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    );
    spawn_blocking(move || {
        context.postgres().drop_database(&name)?;
        context.postgres().psql("postgres", &statement)
    })
    .await??;
    let pool = PgPoolOptions::new().max_connections(3);
    system.database = pool.connect(&system.database_uri).await?;
    Ok(system)
}

/// The same, prepared, with three components: the name of the first is these bytes.
async fn prepared(fixture: &Arc<Fixture>, encoding: &Encoding) -> Result<System> {
    let mut system = bare(fixture, encoding.name).await?;
    let said = system.worker_succeeds(&["migrate"]).await?;
    ensure!(said.contains(encoding.says), "{said}");
    let (name, bytes) = (encoding.name, encoding.bytes);
    let text = format!("convert_from('\\x{bytes}'::bytea, '{name}')");
    let statements = format!(
        "INSERT INTO component (name) VALUES ({text}), ('CDN'), ('VPN');
        INSERT INTO component_attribute (component_id, name, value) VALUES (1, 'city', {text});
        INSERT INTO incident (text, start_date, impact) VALUES ({text}, '2026-01-01', 1);
        INSERT INTO incident_component_relation VALUES (1, 1);
        INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            VALUES (1, '2026-01-01', {text}, {text});"
    );
    system.sql(&statements).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    Ok(system)
}

async fn is_served(fixture: &Arc<Fixture>, encoding: Encoding) -> Result<()> {
    let system = prepared(fixture, &encoding).await?;
    let shown = encoding.shown;
    let incidents = system.get("/api/v1/incidents").await?;
    ensure!(incidents.status == 200, "{incidents:?}");
    ensure!(incidents.body[0]["text"] == shown, "{incidents:?}");
    ensure!(incidents.body[0]["updates"][0]["text"] == shown, "{incidents:?}");
    ensure!(incidents.body[0]["updates"][0]["status"] == shown, "{incidents:?}");
    let components = system.get("/api/v1/component_status").await?;
    let first = &components.body[0];
    ensure!(components.status == 200 && first["name"] == shown, "{components:?}");
    ensure!(first["attributes"][0]["value"] == shown, "{components:?}");
    ensure!(first["incidents"][0]["text"] == shown, "{components:?}");

    // What the database can't hold is nowhere in it.
    for query in ["name=%E2%86%92", "attribute_name=city&attribute_value=%E2%86%92"] {
        let none = system.get(&format!("/api/v1/component_status?{query}")).await?;
        ensure!(none.status == 200 && none.body == json!([]), "{query}: {none:?}");
    }
    let query = "name=CDN&attribute_name=%E2%86%92&attribute_value=x";
    let nobody = system.get(&format!("/api/v1/component_status?{query}")).await?;
    ensure!(nobody.status == 404, "{nobody:?}");
    let unknown = system.post(&json!({ "name": "→", "impact": 1 })).await?;
    ensure!(unknown.status == 400 && unknown.body["message"] == "Component not found");

    // Updates name a component as it is shown.
    let attributes = json!([{ "name": "city", "value": shown }]);
    let update = json!({ "name": shown, "impact": 2, "text": "Größe", "attributes": attributes });
    let opened = system.post(&update).await?;
    ensure!(opened.status == 201 && opened.body["text"] == "Größe", "{opened:?}");
    let receipt = format!("/api/v1/updates/{}", opened.header("update-id"));
    let receipt = system.get(&receipt).await?.body;
    ensure!(receipt["component"]["name"] == shown, "{receipt}");
    ensure!(receipt["incident"]["text"] == "Größe", "{receipt}");
    let joined = system.post(&json!({ "name": "CDN", "impact": 2 })).await?;
    let text = &joined.body["updates"][0]["text"];
    ensure!(*text == "CDN () added to Größe", "{joined:?}");

    let update = json!({ "name": "VPN", "impact": 3, "text": "a → b" });
    let arrow = system.post(&update).await?;
    if encoding.has_arrow {
        ensure!(arrow.status == 201 && arrow.body["text"] == "a → b", "{arrow:?}");
    } else {
        let name = encoding.name;
        let problem =
            format!("Has a character that the database's encoding, {name}, does not have.");
        ensure!(arrow.status == 422, "{arrow:?}");
        ensure!(arrow.body["errors"]["json"]["text"] == json!([problem]), "{arrow:?}");
    }

    // An operator's commands.
    let listed = system.worker_succeeds(&["incident", "list"]).await?;
    ensure!(listed.contains(&format!("{shown}: {shown} ({shown})")), "{listed}");
    let closed = system.worker_succeeds(&["incident", "close", "1", "--text", "Über"]).await?;
    ensure!(closed.contains("resolved: Über"), "{closed}");
    let open = ["incident", "open", "--title", "→", "--impact", "1", "--component", "VPN"];
    let (done, said) = system.worker_command(&open).await?;
    ensure!(done == encoding.has_arrow, "{said}");
    ensure!(done || said.contains("has no equivalent in encoding"), "{said}");
    let file = system.context.folder.join("catalogue.yaml");
    std::fs::write(&file, "components: [{name: CDN}, {name: Añadido}]")?;
    let file = file.to_str().context("the path is no text")?;
    let said = system.worker_succeeds(&["catalogue", "apply", file]).await?;
    ensure!(said.contains("1 added, 0 changed, 1 as they were, 2 not"), "{said}");
    let lists = system.get("/api/v1/component_status?name=A%C3%B1").await?;
    ensure!(lists.body[0]["name"] == "Añadido", "{lists:?}");
    system.finish().await
}

async fn a_latin1_database_is_served(fixture: Arc<Fixture>) -> Result<()> {
    let encoding = Encoding {
        name: "LATIN1",
        says: "The encoding of the database is LATIN1: updates with characters that it lacks are",
        bytes: "5afc72696368",
        shown: "Zürich",
        has_arrow: false,
    };
    is_served(&fixture, encoding).await
}

async fn a_win1252_database_with_bytes_that_mean_nothing_is_served(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let encoding = Encoding {
        name: "WIN1252",
        says: "The encoding of the database is WIN1252: updates with characters that it lacks are",
        bytes: "5a8172fc6368",
        shown: "Z?r?ch",
        has_arrow: false,
    };
    is_served(&fixture, encoding).await
}

async fn a_sql_ascii_database_with_bytes_that_are_not_utf8_is_served(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let encoding = Encoding {
        name: "SQL_ASCII",
        says: "The encoding of the database is SQL_ASCII: PostgreSQL does not validate text",
        bytes: "5afc72696368",
        shown: "Z?rich",
        has_arrow: true,
    };
    is_served(&fixture, encoding).await
}

async fn a_text_that_the_database_lacks_characters_for_parks_its_update_alone(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let encoding = Encoding {
        name: "LATIN1",
        says: "LATIN1",
        bytes: "444e53",
        shown: "DNS",
        has_arrow: false,
    };
    let system = prepared(&fixture, &encoding).await?;
    // As a gateway sends it that could not ask the database.
    let publisher = Publisher::connect(&system).await?;
    let mut sent = Vec::new();
    for (id, name, text) in [(2, "CDN", "Große"), (3, "VPN", "→"), (2, "CDN", "again")] {
        let mut update = message(&system, id, name).await?;
        update.text = text.to_owned();
        publisher.send_update(&update).await?;
        sent.push(update.id);
    }
    let mut receipts = Vec::new();
    for id in sent {
        let path = format!("/api/v1/updates/{id}");
        let mut receipt = Value::Null;
        eventually("the update is settled", async || {
            receipt = system.get(&path).await?.body;
            Ok(receipt["state"] != "pending")
        })
        .await?;
        receipts.push(receipt);
    }
    let states = receipts.iter().map(|receipt| receipt["state"].clone()).collect::<Vec<_>>();
    ensure!(states == ["done", "parked", "done"], "{receipts:?}");
    let reason = receipts[1]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("has no equivalent in encoding \"LATIN1\""), "{reason}");
    let (done, parked) = system.worker_command(&["parked", "list"]).await?;
    ensure!(done && parked.contains("VPN ()"), "{parked}");
    system.drained().await?;
    system.finish_with_logs()
}

async fn in_utf8_reading_costs_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let migrate = async || {
        let (done, said) = system.worker_command(&["migrate"]).await?;
        ensure!(done && !said.contains("encoding"), "{said}");
        anyhow::Ok(())
    };
    let plan = async || -> Result<String> {
        let explain = "EXPLAIN (VERBOSE, COSTS OFF) SELECT sdb_readable(name) FROM component";
        let lines: Vec<String> = sqlx::query_scalar(explain).fetch_all(&system.database).await?;
        Ok(lines.join("\n"))
    };
    migrate().await?;
    ensure!(!plan().await?.contains("sdb_readable"), "{}", plan().await?);
    let before =
        system.count("SELECT xmin::text::bigint FROM pg_proc WHERE proname = 'sdb_readable'");
    let before = before.await?;
    migrate().await?;
    let after =
        system.count("SELECT xmin::text::bigint FROM pg_proc WHERE proname = 'sdb_readable'");
    ensure!(before == after.await?, "the function was made again");
    // As a dump of another encoding brings it.
    system
        .sql(
            "CREATE OR REPLACE FUNCTION sdb_readable(value text) RETURNS text
            LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN value; END $$",
        )
        .await?;
    ensure!(plan().await?.contains("sdb_readable"));
    migrate().await?;
    ensure!(!plan().await?.contains("sdb_readable"), "{}", plan().await?);
    Ok(())
}

async fn a_database_that_an_earlier_version_has_prepared_is_prepared_first(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.sql("DROP FUNCTION sdb_readable").await?;
    for program in ["gateway", "worker"] {
        let mut process = system.launch(program, &[])?;
        let status = process.ended().await?;
        let log = process.log()?;
        ensure!(!status.success() && log.contains("`worker migrate`"), "{program}: {log}");
    }
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(done, "{said}");
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.finish().await
}
