//! Settings as the Python dashboard reads them: decoded as JSON where they are JSON, and never trimmed.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{file, refused};
use harness::{CLAIM, Fixture, SECRET, System, answer, tests, token};

tests!(
    tokens_of_the_python_dashboard_stay_good_however_its_settings_are_written,
    keys_and_claims_that_are_no_text_there_are_refused,
    addresses_and_other_settings_may_be_quoted,
    secrets_may_be_in_files,
    a_secret_file_that_cannot_be_used_stops_both_programs,
);

/// Whether a token is good at a gateway: without a body, a good one gets 415.
async fn is_good(system: &System, gateway: usize, token: &str) -> Result<bool> {
    let request = system.request_to(gateway, reqwest::Method::POST, "/api/v1/component_status");
    match answer(request.bearer_auth(token)).await?.status {
        401 => Ok(false),
        415 => Ok(true),
        other => anyhow::bail!("the answer is {other}"),
    }
}

/// What is written, and the key or claim that the Python dashboard has then.
fn ways(text: &str) -> Vec<(String, String)> {
    let same = |text: String| (text.clone(), text);
    vec![
        same(text.to_owned()),
        (format!("\"{text}\""), text.to_owned()),
        (format!(" \"{text}\"\n"), text.to_owned()),
        (format!("\"{text}\\n\""), format!("{text}\n")),
        (format!("\" \\u00fc {text}\""), format!(" ü {text}")),
        same(format!("{text}\n")),
        same(format!("  {text} ")),
        same(format!("'{text}'")),
        same(format!("\"{text}")),
        same(format!("\"{text}\" # old")),
    ]
}

async fn tokens_of_the_python_dashboard_stay_good_however_its_settings_are_written(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let current = "b-secret-that-is-long-enough-for-tests";
    for (written, key) in ways(SECRET) {
        let previous = [("SDB_SECRET_KEY", current), ("SDB_SECRET_KEY_PREVIOUS", &written)];
        for variables in [&[("SDB_SECRET_KEY", written.as_str())][..], &previous] {
            system.start_gateway(variables).await?;
            let last = system.gateways.len() - 1;
            // Earlier versions trimmed it, and decoded nothing.
            for (key, good) in [(key.as_str(), true), (written.trim(), true), ("x", false)] {
                let token = token(key, &json!({ CLAIM: "dummy" }));
                let is_good = is_good(&system, last, &token).await?;
                ensure!(is_good == good, "{written:?}: a token of {key:?} is good: {is_good}");
            }
            let log = system.gateways[last].log()?;
            let warned = log.contains("Quotes and white space in settings");
            ensure!(warned == (key != written.trim()), "{written:?}: {log}");
            ensure!(!log.contains(SECRET), "the log shows the key");
            // One at a time: each has connections of its own.
            system.gateways[last].signal(Signal::SIGTERM)?;
        }
        let variables = [("SDB_SECRET_KEY", written.as_str())];
        let binary = &system.context.binaries.gateway;
        let (done, made) = system.context.command(binary, &["token"], &variables).await?;
        let (_, signed) = made.trim().rsplit_once('.').unwrap_or_default();
        let (content, _) = made.trim().rsplit_once('.').unwrap_or_default();
        let expected = jsonwebtoken::crypto::sign(
            content.as_bytes(),
            &jsonwebtoken::EncodingKey::from_secret(key.as_bytes()),
            jsonwebtoken::Algorithm::HS256,
        )?;
        ensure!(done && signed == expected, "{written:?}: {made}");
    }

    for (written, claim) in ways("team") {
        system.start_gateway(&[("SDB_API_PAYLOAD_KEY", &written)]).await?;
        let last = system.gateways.len() - 1;
        for (claim, good) in [(claim.as_str(), true), (written.trim(), true), (CLAIM, false)] {
            let token = token(SECRET, &json!({ claim: "dummy" }));
            let is_good = is_good(&system, last, &token).await?;
            ensure!(is_good == good, "{written:?}: a token with {claim:?} is good: {is_good}");
        }
        system.gateways[last].signal(Signal::SIGTERM)?;
    }
    Ok(())
}

/// The last line of a gateway that does not start.
async fn last_line(system: &mut System, variables: &[(&str, &str)]) -> Result<String> {
    let log = refused(system, "gateway", variables).await?;
    Ok(log.lines().last().unwrap_or_default().to_owned())
}

async fn keys_and_claims_that_are_no_text_there_are_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for (name, written, says) in [
        ("SDB_SECRET_KEY", "12345678901234567890123456789012", "as JSON it is a number"),
        ("SDB_SECRET_KEY", "-1.5e300\n", "as JSON it is a number"),
        ("SDB_SECRET_KEY", "true", "as JSON it is a boolean"),
        ("SDB_SECRET_KEY", "null", "as JSON it is null"),
        ("SDB_SECRET_KEY", "[\"hush\"]", "as JSON it is a list"),
        ("SDB_SECRET_KEY", "{\"hush\": 1}", "as JSON it is an object"),
        ("SDB_SECRET_KEY", "\"hush \\udc80\"", "as JSON it is a text that is not Unicode"),
        // What bytes that are not UTF-8 are read as.
        ("SDB_SECRET_KEY", "hush \u{fffd}", "must be UTF-8"),
        ("SDB_SECRET_KEY", "\"\"", "must be a text"),
        ("SDB_SECRET_KEY", "\" \"", "must be a text"),
        ("SDB_SECRET_KEY_PREVIOUS", "0", "as JSON it is a number"),
        ("SDB_API_PAYLOAD_KEY", "5", "as JSON it is a number"),
        ("SDB_API_PAYLOAD_KEY", "\"exp\"", "a claim of your own"),
    ] {
        let said = last_line(&mut system, &[(name, written)]).await?;
        ensure!(said.starts_with(&format!("gateway: {name} is ")), "{written}: {said}");
        ensure!(said.contains(says) && !said.contains("hush"), "{written}: {said}");
    }
    // Written as it says, it is good.
    system.start_gateway(&[("SDB_API_PAYLOAD_KEY", "\"5\"")]).await?;
    ensure!(is_good(&system, 0, &token(SECRET, &json!({ "5": 1 }))).await?);
    Ok(())
}

async fn addresses_and_other_settings_may_be_quoted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let quoted = |text: &str| Value::from(text).to_string();
    let (database, amqp) =
        (quoted(&system.database_uri), format!("{}\n", quoted(&system.amqp_uri)));
    let other = format!("{}?connect_timeout=5", system.database_uri);
    let variables = [
        ("SDB_DATABASE_URI", database.as_str()),
        ("SDB_SQLALCHEMY_DATABASE_URI", &other),
        ("SDB_AMQP_URI", &amqp),
        ("SDB_PARTITIONS", "\"4\""),
        ("SDB_LOG_FORMAT", "\"json\"\n"),
        ("SDB_V1_CONFLICT", "\"true\""),
    ];
    let worker = &system.context.binaries.worker;
    let (done, said) = system.context.command(worker, &["migrate"], &variables).await?;
    ensure!(done && said.contains("Updates take 4 partitions"), "{said}");
    // The Python dashboard would use the other one.
    ensure!(
        said.starts_with("SDB_DATABASE_URI is used, and SDB_SQLALCHEMY_DATABASE_URI"),
        "{said}"
    );
    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    system.components(&[("DNS", &[])]).await?;
    let update = json!({ "name": "DNS", "impact": 2 });
    for status in [201, 409] {
        let answer = system.post(&update).await?;
        ensure!(answer.status == status, "{answer:?}");
    }
    for process in [&system.workers[0], &system.gateways[0]] {
        let log = process.log()?;
        ensure!(log.contains("SDB_SQLALCHEMY_DATABASE_URI, which differs"), "{log}");
    }
    // Where both name the same, nothing is said.
    let same = [variables[0], ("SDB_SQLALCHEMY_DATABASE_URI", database.as_str()), variables[3]];
    let worker = &system.context.binaries.worker;
    let (done, said) = system.context.command(worker, &["migrate"], &same).await?;
    ensure!(done && said.starts_with("The tables are up to date."), "{said}");
    system.finish().await
}

async fn secrets_may_be_in_files(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let text = |path: PathBuf| path.into_os_string().into_string().ok().context("no text");
    let database = text(file(&fixture, "database", &format!("{}\n", system.database_uri))?)?;
    let amqp = text(file(&fixture, "amqp", &system.amqp_uri)?)?;
    let current = "b-secret-that-is-long-enough-for-tests";
    let key = text(file(&fixture, "key", &format!("{current}\n"))?)?;
    let previous = text(file(&fixture, "previous", SECRET)?)?;
    let variables = [
        ("SDB_DATABASE_URI", ""),
        ("SDB_DATABASE_URI_FILE", database.as_str()),
        ("SDB_AMQP_URI", ""),
        ("SDB_AMQP_URI_FILE", &amqp),
        ("SDB_SECRET_KEY", ""),
        ("SDB_SECRET_KEY_FILE", &key),
        ("SDB_SECRET_KEY_PREVIOUS_FILE", &previous),
    ];
    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    for (key, good) in [(current, true), (SECRET, true), ("b-secret", false)] {
        let is_good = is_good(&system, 0, &token(key, &json!({ CLAIM: "dummy" }))).await?;
        ensure!(is_good == good, "a token of {key} is good: {is_good}");
    }
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&json!({ "name": "DNS", "impact": 2 })).await?;
    ensure!(answer.status == 201, "{answer:?}");
    for process in [&system.workers[0], &system.gateways[0]] {
        let log = process.log()?;
        ensure!(!log.contains("unknown setting") && !log.contains("_FILE"), "{log}");
    }
    // A command reads what it needs and no more.
    let variables = [("SDB_SECRET_KEY_FILE", key.as_str()), ("SDB_AMQP_URI_FILE", "/none")];
    let gateway = &system.context.binaries.gateway;
    let (done, said) = system.context.command(gateway, &["token"], &variables).await?;
    ensure!(done && is_good(&system, 0, said.trim()).await?, "{said}");
    system.finish().await
}

async fn a_secret_file_that_cannot_be_used_stops_both_programs(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let none = fixture.folder.join("none");
    let none = none.to_str().context("no text")?;
    for (program, name) in
        [("gateway", "SDB_SECRET_KEY"), ("gateway", "SDB_AMQP_URI"), ("worker", "SDB_DATABASE_URI")]
    {
        let variable = format!("{name}_FILE");
        let log = refused(&mut system, program, &[(&variable, none)]).await?;
        let says = format!("{program}: {name} and {variable} are both set: set one of them");
        ensure!(log.contains(&says), "{log}");
        let log = refused(&mut system, program, &[(name, ""), (&variable, none)]).await?;
        let says = format!("{program}: {variable}: {none} can't be used: No such file");
        ensure!(log.contains(&says), "{log}");
    }
    Ok(())
}
