//! The roles of SECURITY.md: its statements run as they stand, every program and command works with its role,
//! and each right is needed.

mod programs;
mod roles;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

use harness::{Fixture, System, eventually, tests};

use self::{
    programs::{
        a_gateways_role_has_the_rights_that_it_needs,
        a_workers_role_needs_its_rights_on_our_tables,
        a_workers_role_needs_its_rights_on_the_shared_tables, park,
        the_rights_on_rabbitmq_are_needed,
    },
    roles::Roles,
};

tests!(
    the_owners_role_migrates_and_detaches,
    a_gateways_role_has_the_rights_that_it_needs,
    a_workers_role_needs_its_rights_on_our_tables,
    a_workers_role_needs_its_rights_on_the_shared_tables,
    the_role_that_views_has_the_rights_that_it_needs,
    the_catalogues_role_has_the_rights_that_it_needs,
    the_operators_role_has_the_rights_that_it_needs,
    the_role_for_queues_has_the_rights_that_it_needs,
    the_rights_on_rabbitmq_are_needed,
    what_uses_no_server_needs_no_rights,
    functions_with_the_owners_rights_serve_nobody_else,
);

async fn the_owners_role_migrates_and_detaches(fixture: Arc<Fixture>) -> Result<()> {
    // The first `migrate` is among what is prepared.
    let roles = Roles::new(&fixture, "ro").await?;
    // As when the inbox is without a week, or an index was lost.
    let newest = "SELECT max(inhrelid::regclass::text) FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass";
    let part: String = sqlx::query_scalar(newest).fetch_one(&roles.system.database).await?;
    roles.system.sql(&format!("DROP TABLE {part}; DROP INDEX sdb_incident_end")).await?;
    roles.works(&["migrate"], "owner").await?;
    let foreign = "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'sdb_inbox'::regclass AND relowner <> 'ro_worker'::regrole";
    ensure!(
        roles.system.count(foreign).await? == 0,
        "a worker could not drop what `migrate` makes"
    );
    // Also while PostgreSQL still shows the session of a process that was stopped just now.
    let options: PgConnectOptions = roles.system.database_uri.parse()?;
    let last = PgConnection::connect_with(&options.application_name("worker")).await?;
    let ends = async {
        // The command has met it at least once.
        let looked = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND usename = 'ro_owner'
                AND query LIKE 'SELECT EXISTS (SELECT FROM pg_stat_activity%'";
        eventually("the command looks for sessions", async || {
            Ok(roles.system.count(looked).await? > 0)
        })
        .await?;
        anyhow::Ok(last.close().await?)
    };
    try_join(roles.works(&["detach"], "owner"), ends).await?;
    roles.works(&["migrate"], "owner").await?;
    // It may make tables and parts by its membership alone.
    roles.system.sql(&format!("DROP TABLE {part}; REVOKE ro_worker FROM ro_owner")).await?;
    let error = roles.works(&["migrate"], "owner").await.err().context("not a member")?;
    ensure!(format!("{error:#}").contains("permission denied"), "{error:#}");
    roles.system.sql("GRANT ro_worker TO ro_owner").await?;
    roles.works(&["migrate"], "owner").await?;
    roles.system.finish_with_logs()
}

/// A catalogue file of the test's own.
fn file(system: &System, name: &str, yaml: &str) -> Result<String> {
    let path = system.context.folder.join(name);
    fs::write(&path, yaml)?;
    Ok(path.to_str().context("the path is no text")?.to_owned())
}

async fn the_role_that_views_has_the_rights_that_it_needs(fixture: Arc<Fixture>) -> Result<()> {
    let roles = Roles::new(&fixture, "rv").await?;
    let system = &roles.system;
    system.components(&[("DNS", &[("region", "R1")]), ("Old", &[])]).await?;
    park(system).await?;
    let open = ["incident", "open", "--title", "T", "--impact", "1", "--component", "1"];
    system.worker_succeeds(&open).await?;
    let (more, fewer) = (
        file(
            system,
            "more.yaml",
            "components:\n  - name: New\n  - name: Newer\n    renamed-from: Old\n",
        )?,
        file(system, "fewer.yaml", "components:\n  - name: DNS\n    attributes: {region: R1}\n")?,
    );
    let policies = "[]\n[]\n";
    roles
        .each_is_needed(
            "viewer",
            |_| true,
            async || {
                for arguments in [
                    &["catalogue", "apply", "--dry-run", &more][..],
                    &["catalogue", "apply", "--dry-run", "--prune", &fewer],
                    &["incident", "list"],
                    &["incident", "show", "1"],
                    &["parked", "list"],
                    &["parked", "show", "1"],
                    &["report", "list"],
                    &["topology", "show"],
                    &["broker", "check-policies"],
                ] {
                    roles.run(arguments, "viewer", policies).await?;
                }
                Ok(())
            },
        )
        .await?;
    roles.system.finish_with_logs()
}

async fn the_catalogues_role_has_the_rights_that_it_needs(fixture: Arc<Fixture>) -> Result<()> {
    let roles = Roles::new(&fixture, "rc").await?;
    let system = &roles.system;
    let one = "  - name: One\n    attributes: {region: R1, category: A}\n";
    let renamed =
        "  - name: Uno\n    attributes: {region: R1, category: A}\n    renamed-from: One\n";
    let files = [
        ("first.yaml", format!("components:\n{one}  - name: Two\n")),
        ("moved.yaml", format!("components:\n{}", one.replace("category: A", "category: B"))),
        ("back.yaml", format!("components:\n{one}")),
        ("renamed.yaml", format!("components:\n{renamed}")),
        ("last.yaml", "components:\n  - name: Other\n".to_owned()),
    ];
    let mut paths = Vec::new();
    for (name, yaml) in &files {
        paths.push(file(system, name, yaml)?);
    }
    roles
        .each_is_needed(
            "catalogue",
            |_| true,
            async || {
                system.sql("DELETE FROM component_attribute; DELETE FROM component").await?;
                for path in &paths {
                    roles.works(&["catalogue", "apply", "--dry-run", path], "catalogue").await?;
                    roles.works(&["catalogue", "apply", path], "catalogue").await?;
                }
                let said =
                    roles.works(&["catalogue", "apply", "--prune", &paths[4]], "catalogue").await?;
                ensure!(said.contains("removed"), "{said}");
                Ok(())
            },
        )
        .await?;
    roles.system.finish_with_logs()
}

async fn the_operators_role_has_the_rights_that_it_needs(fixture: Arc<Fixture>) -> Result<()> {
    let roles = Roles::new(&fixture, "rp").await?;
    let system = &roles.system;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let run = async |arguments: &[&str]| roles.works(arguments, "operator").await;
    let id_of = |said: &str| -> Result<String> {
        let body: Value = serde_json::from_str(said).with_context(|| said.to_owned())?;
        Ok(body["id"].as_i64().context("no id")?.to_string())
    };
    let date = async |minutes: i32| -> Result<String> {
        let query = format!(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '{minutes} minutes',
                'YYYY-MM-DD HH24:MI')"
        );
        Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?)
    };
    roles
        .each_is_needed(
            "operator",
            |_| true,
            async || {
                system
                    .sql(
                        "DELETE FROM incident_component_relation; DELETE FROM incident_status;
                    DELETE FROM incident",
                    )
                    .await?;
                let open = ["incident", "open", "--title", "T", "--impact", "1", "--json"];
                let said =
                    run(&[&open[..], &["--component", "1", "--component", "2"]].concat()).await?;
                let id = id_of(&said)?;
                run(&["incident", "comment", &id, "--status", "analyzing", "We look"]).await?;
                run(&["incident", "change", &id, "--title", "Other", "--impact", "2"]).await?;
                run(&["incident", "remove-component", &id, "2"]).await?;
                run(&["incident", "close", &id]).await?;
                run(&["incident", "list"]).await?;
                run(&["incident", "show", &id]).await?;
                let (start, end) = (date(-1).await?, date(60).await?);
                let schedule =
                    ["maintenance", "schedule", "--title", "M", "--component", "2", "--json"];
                let said =
                    run(&[&schedule[..], &["--start", &start, "--end", &end]].concat()).await?;
                let id = id_of(&said)?;
                run(&["maintenance", "change", &id, "--title", "N"]).await?;
                run(&["maintenance", "end", &id]).await.map(drop)
            },
        )
        .await?;
    roles.system.finish_with_logs()
}

async fn the_role_for_queues_has_the_rights_that_it_needs(fixture: Arc<Fixture>) -> Result<()> {
    let mut roles = Roles::new(&fixture, "rq").await?;
    roles.system.start_worker(&[]).await?;
    roles.system.start_gateway(&[]).await?;
    let system = &roles.system;
    system.components(&[("DNS", &[])]).await?;
    let partitions = AtomicUsize::new(8);
    roles
        .each_is_needed(
            "queues",
            |_| true,
            async || {
                eventually("the queues of the last change are there", async || {
                    Ok(system.get("/readyz").await?.body["status"] == "ready")
                })
                .await?;
                system.sql("DELETE FROM sdb_parked").await?;
                park(system).await?;
                roles.works(&["parked", "list"], "queues").await?;
                roles.works(&["parked", "requeue", "--all"], "queues").await?;
                system
                    .sql(
                        "INSERT INTO sdb_report (component_id, source, key, is_live, first_at,
                            last_at, update_id)
                        SELECT id, '', '', true, now(), now(), gen_random_uuid() FROM component
                        ON CONFLICT (component_id, source, key) DO UPDATE SET is_live = true",
                    )
                    .await?;
                roles.works(&["report", "end", "DNS"], "queues").await?;
                roles.works(&["topology", "show"], "queues").await?;
                let wanted = (24 - partitions.load(Ordering::Relaxed)).to_string();
                roles.works(&["topology", "change", "--partitions", &wanted], "queues").await?;
                partitions.store(wanted.parse()?, Ordering::Relaxed);
                Ok(())
            },
        )
        .await?;
    roles.system.finish_with_logs()
}

async fn functions_with_the_owners_rights_serve_nobody_else(fixture: Arc<Fixture>) -> Result<()> {
    let roles = Roles::new(&fixture, "rf").await?;
    let system = &roles.system;
    system.components(&[("DNS", &[])]).await?;
    let report =
        "INSERT INTO sdb_report (component_id, source, key, is_live, first_at, last_at, update_id)
        SELECT id, '', '', true, now(), now(), gen_random_uuid() FROM component";
    system.sql(report).await?;
    let version = system.count("SELECT lists FROM sdb_version").await?;
    // Tables of the session, with our names, are none of ours.
    let mut session = system.database.acquire().await?.detach();
    sqlx::raw_sql(
        "CREATE TEMPORARY TABLE sdb_report (component_id integer);
        CREATE TEMPORARY TABLE sdb_touched (what varchar);
        DELETE FROM component",
    )
    .execute(&mut session)
    .await?;
    session.close().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_report").await? == 0, "its report is left");
    ensure!(system.count("SELECT lists FROM sdb_version").await? > version, "no list is newer");
    let callers = system
        .texts(
            "SELECT concat(role.rolname, ' ', proname) FROM pg_proc, pg_roles role
            WHERE proname IN ('sdb_touch', 'sdb_move_version', 'sdb_forget_reports', 'sdb_keep_components')
                AND role.rolname LIKE 'rf%' AND role.rolname <> 'rf_owner'
                AND has_function_privilege(role.oid, pg_proc.oid, 'EXECUTE')",
        )
        .await?;
    ensure!(callers == ["rf_worker sdb_keep_components"], "{callers:?}");
    roles.system.finish_with_logs()
}

async fn what_uses_no_server_needs_no_rights(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    let binaries = fixture.binaries.clone();
    let key = [("SDB_SECRET_KEY", harness::SECRET)];
    let (done, said) = fixture.command(&binaries.gateway, &["token"], &key).await?;
    ensure!(done && !said.trim().is_empty(), "{said}");
    let address = system.addresses[0].clone();
    let at = [("SDB_BIND", address.as_str())];
    let (done, said) = fixture.command(&binaries.gateway, &["health", "--ready"], &at).await?;
    ensure!(done, "{said}");
    system.workers.clear();
    system.start_worker(&[("SDB_ADMIN_ADDRESS", "127.0.0.1:0")]).await?;
    let log = system.workers[0].log()?;
    let line = log.lines().find(|line| line.contains("serving health and metrics"));
    let line: Value = serde_json::from_str(line.context("no address")?)?;
    let at = [("SDB_ADMIN_ADDRESS", line["address"].as_str().context("no address")?)];
    let (done, said) = fixture.command(&binaries.worker, &["health"], &at).await?;
    ensure!(done, "{said}");
    system.finish().await
}
