//! `worker broker check-policies` finds policies of a real RabbitMQ that can lose updates.

use std::{process::Stdio, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, process::Command};

use harness::{Fixture, System, tests};

tests!(policies_that_can_lose_updates_are_found);

/// Runs the command on what RabbitMQ prints about the policies of this virtual host.
async fn check(system: &System) -> Result<(bool, String)> {
    let listed = |command: &str| {
        let arguments = [command, "-p", &system.vhost, "--formatter", "json"];
        system.context.rabbitmq().ctl(&arguments)
    };
    let printed = format!("{}\n{}", listed("list_policies")?, listed("list_operator_policies")?);
    let mut command = Command::new(&system.context.binaries.worker)
        .args(["broker", "check-policies"])
        .env_clear()
        .env("SDB_DATABASE_URI", &system.database_uri)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = command.stdin.take().context("no input")?;
    input.write_all(printed.as_bytes()).await?;
    drop(input);
    let output = command.wait_with_output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

async fn policies_that_can_lose_updates_are_found(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    let ctl = |arguments: &[&str]| fixture.rabbitmq().ctl(arguments);
    let (fine, said) = check(&system).await?;
    ensure!(fine && said.contains("No policy can lose updates."), "{said}");
    for (definition, setting) in [
        (r#"{"message-ttl": 60000}"#, "message-ttl = 60000 on sdb.updates.v1.p0 and "),
        (r#"{"expires": 60000}"#, "expires = 60000 on sdb.updates.v1.p0 and "),
        (r#"{"delivery-limit": 5}"#, "delivery-limit = 5 on sdb.updates.v1.p0 and "),
        (r#"{"overflow": "drop-head"}"#, r#"overflow = "drop-head" on sdb.updates.v1.p0 and "#),
        (r#"{"max-length": 10}"#, "max-length = 10 on sdb.dead.v1 and "),
        (r#"{"max-length-bytes": 10}"#, "max-length-bytes = 10 on sdb.dead.v1 and "),
        (
            r#"{"alternate-exchange": "amq.direct"}"#,
            r#"alternate-exchange = "amq.direct" on sdb.publish.v1 and "#,
        ),
    ] {
        ctl(&["set_policy", "-p", &system.vhost, "lossy", ".*", definition, "--apply-to", "all"])?;
        let (fine, said) = check(&system).await?;
        ensure!(!fine && said.contains("Policy `lossy` (pattern `.*`) sets"), "{said}");
        ensure!(said.contains(setting), "{definition}: {said}");
    }
    // One of higher priority takes its place; an operator policy applies all the same.
    let none = r#"{"max-in-memory-length": 1000}"#;
    let own = ["set_policy", "-p", &system.vhost, "own", r"^sdb\.", none, "--priority", "9"];
    ctl(&own)?;
    let (fine, said) = check(&system).await?;
    ensure!(fine, "{said}");
    let ttl = r#"{"message-ttl": 60000}"#;
    let operator = ["set_operator_policy", "-p", &system.vhost, "limits", "updates", ttl];
    ctl(&[&operator[..], &["--apply-to", "queues"]].concat())?;
    let (fine, said) = check(&system).await?;
    ensure!(!fine && said.contains("Policy `limits` (pattern `updates`) sets"), "{said}");
    system.finish().await
}
