//! A catalogue file is applied, once and as a whole, or refused.

use std::{fmt::Write, fs, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::operations::{
    ALEMBIC, ALEMBIC_HEAD, ORM, apply, contents, file, migrate, post, python_database, run, update,
};
use harness::{Fixture, System, tests};

tests!(
    the_sample_catalogue_is_applied_once,
    a_changed_attribute_is_changed_in_place,
    a_catalogue_that_makes_no_sense_is_refused,
    a_value_longer_than_its_column_is_refused,
    catalogues_applied_at_once_add_each_component_once,
);

async fn apply_well(system: &System, path: &Path, says: &str) -> Result<String> {
    let (done, said) = apply(system, path).await?;
    ensure!(done && said.contains(says), "{said:?} does not say {says:?}");
    Ok(said)
}

async fn the_sample_catalogue_is_applied_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sample-catalogue.yaml");
    let components = fs::read_to_string(&path)?.matches("- name:").count();
    let said = apply_well(&system, &path, &format!("{components} added, 0 changed")).await?;
    ensure!(said.contains("added    Object Storage (Region 1, Storage, obs)"), "{said}");
    let (rows, version) = (contents(&system).await?, "SELECT lists + catalogue FROM sdb_version");
    let before = system.count(version).await?;
    let again = format!("0 added, 0 changed, {components} as they were, 0 not in the file");
    apply_well(&system, &path, &again).await?;
    ensure!(system.count(version).await? == before, "the version moved");
    ensure!(contents(&system).await? == rows);

    // The gateways see it without a restart.
    system.catalogue_seen().await?;
    let storage = json!({
        "name": "Object Storage",
        "impact": 1,
        "attributes": [{ "name": "region", "value": "Region 2" }],
    });
    post(&system, &storage, 201, 1).await?;
    let list = system.get("/api/v1/component_status").await?;
    ensure!(list.body.as_array().map(Vec::len) == Some(components), "{list:?}");
    system.finish().await
}

async fn a_changed_attribute_is_changed_in_place(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let first = "components:
  - name: DNS
    attributes: {region: R1, category: Net}
  - name: DNS
    attributes: {region: R2, category: Net}
  - name: Bare
";
    apply_well(&system, &file(&fixture, "first.yaml", first)?, "3 added").await?;
    system.catalogue_seen().await?;
    post(&system, &update("DNS", "R2", 2), 201, 1).await?;
    let id_of = |region: &str| {
        format!("SELECT component_id::bigint FROM component_attribute WHERE value = '{region}'")
    };
    let (one, two) = (system.count(&id_of("R1")).await?, system.count(&id_of("R2")).await?);

    let second = first.replace("region: R2, category: Net", "category: Network, region: R2");
    let said = apply_well(
        &system,
        &file(&fixture, "second.yaml", &second)?,
        "0 added, 1 changed, 2 as they were, 0 not in the file",
    )
    .await?;
    ensure!(said.contains("changed  DNS (R2, Net) to DNS (Network, R2)"), "{said}");
    ensure!(system.count(&id_of("R1")).await? == one && system.count(&id_of("R2")).await? == two);
    ensure!(system.count(&id_of("Network")).await? == two);
    ensure!(system.count("SELECT count(*) FROM component").await? == 3);
    system.catalogue_seen().await?;
    post(&system, &update("DNS", "R2", 2), 200, 1).await?;
    let list = system.get("/api/v1/component_status").await?;
    let changed = list.body.as_array().and_then(|all| all.iter().find(|each| each["id"] == two));
    let attributes =
        json!([{ "name": "category", "value": "Network" }, { "name": "region", "value": "R2" }]);
    let changed = changed.context("it is not listed")?;
    ensure!(changed["attributes"] == attributes && changed["incidents"][0]["id"] == 1, "{changed}");

    // What the file does not have stays, and is said.
    let third = "components:\n  - name: Bare\n";
    let said = apply_well(
        &system,
        &file(&fixture, "third.yaml", third)?,
        "0 added, 0 changed, 1 as they were, 2 not in the file",
    )
    .await?;
    ensure!(said.contains("stays    DNS (R1, Net)"), "{said}");
    system.finish().await
}

async fn a_catalogue_that_makes_no_sense_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let good = file(&fixture, "good.yaml", "components:\n  - name: DNS\n")?;
    apply_well(&system, &good, "1 added").await?;
    let before = (contents(&system).await?, system.count("SELECT lists FROM sdb_version").await?);
    for (yaml, says) in [
        ("", "components"),
        ("just words", "line 1"),
        ("components:\n  - name: New\n  - title: CDN\n", "line 3"),
        ("components:\n  - name: New\n  - name: CDN\n    attributes: [region]\n", "line 4"),
        ("components:\n  - name: New\n  - name: CDN\n    attributes: {region: }\n", "region"),
        ("components:\n  - name: New\n  - name: ''\n", "line 3: the name of a component is empty"),
        (
            "components:\n  - name: New\n    renamed-from: A\n  - name: New\n    renamed-from: B\n",
            "line 4: New () is also in line 2, with another `renamed-from`",
        ),
        ("components:\n  - name: New\n    attributes: {a: b, a: c}\n", "line 3"),
        ("components:\n  - name: \"a\\u0000b\"\n", "line 2: the name of a component has a control"),
        ("components: [\n", "line"),
    ] {
        let (done, said) = apply(&system, &file(&fixture, "nonsense.yaml", yaml)?).await?;
        ensure!(!done, "{yaml:?}: {said}");
        ensure!(said.contains("nonsense.yaml") && said.contains(says), "{yaml:?}: {said}");
        ensure!(!said.contains("panicked"), "{yaml:?}: {said}");
    }
    let (done, said) = apply(&system, &fixture.folder.join("missing.yaml")).await?;
    ensure!(!done && said.contains("missing.yaml can't be read"), "{said}");
    let after = (contents(&system).await?, system.count("SELECT lists FROM sdb_version").await?);
    ensure!(after == before, "something was changed");
    system.finish().await
}

async fn a_value_longer_than_its_column_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let orm = python_database(&fixture, ORM).await?;
    migrate(&orm).await?;
    let entry = |name: &str, key: &str, value: &str| {
        format!("  - name: {name}\n    attributes: {{{key}: {value}}}\n")
    };
    let (fits, long) = ("ü".repeat(50), "ü".repeat(51));
    let (key_fits, long_key) = ("k".repeat(30), "k".repeat(31));
    let before = contents(&orm).await?;
    for (bad, limit) in
        [(entry("Long", "region", &long), "50"), (entry("Key", &long_key, "R"), "30")]
    {
        let yaml = format!("components:\n{}{bad}", entry("Fits", &key_fits, &fits));
        let (done, said) = apply(&orm, &file(&fixture, "long.yaml", &yaml)?).await?;
        ensure!(!done && said.contains("line 4") && said.contains(limit), "{said}");
    }
    ensure!(contents(&orm).await? == before, "something was added");
    let yaml = format!("components:\n{}", entry("Fits", &key_fits, &fits));
    apply_well(&orm, &file(&fixture, "fits.yaml", &yaml)?, "1 added").await?;

    // The Alembic form has no such limit.
    let name = format!("{}_a", orm.vhost);
    let servers = fixture.servers.clone();
    let uri = tokio::task::spawn_blocking(move || servers.postgres().create_database(&name));
    let uri = uri.await??;
    let mut alembic = PgConnection::connect(&uri).await?;
    sqlx::raw_sql(ALEMBIC).execute(&mut alembic).await?;
    sqlx::query("INSERT INTO alembic_version VALUES ($1)")
        .bind(ALEMBIC_HEAD)
        .execute(&mut alembic)
        .await?;
    let yaml = format!("components:\n{}", entry("Long", &long_key, &long));
    let path = file(&fixture, "longer.yaml", &yaml)?;
    let path = path.to_str().context("the path is no text")?;
    for (arguments, says) in
        [(&["migrate"][..], "Applied"), (&["catalogue", "apply", path], "1 added")]
    {
        let variables = [("SDB_DATABASE_URI", uri.as_str())];
        let (done, said) = fixture.command(&fixture.binaries.worker, arguments, &variables).await?;
        ensure!(done && said.contains(says), "{said}");
    }
    orm.finish().await
}

async fn catalogues_applied_at_once_add_each_component_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let mut yaml = "components:\n".to_owned();
    for number in 0..100 {
        write!(yaml, "  - name: Service {number}\n    attributes: {{region: R{}}}\n", number % 2)?;
    }
    let path = file(&fixture, "hundred.yaml", &yaml)?;
    let said = try_join_all((0..4).map(|_| apply(&system, &path))).await?;
    ensure!(said.iter().all(|(done, _)| *done), "{said:?}");
    let adding = said.iter().filter(|(_, said)| said.contains("100 added, 0 changed")).count();
    let same = said.iter().filter(|(_, said)| said.contains("100 as they were")).count();
    ensure!((adding, same) == (1, 3), "{said:?}");
    ensure!(system.count("SELECT count(*) FROM component").await? == 100);
    ensure!(system.count("SELECT count(*) FROM component_attribute").await? == 100);
    system.finish().await
}
