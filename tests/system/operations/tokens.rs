//! `gateway token`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use super::run;
use harness::{Fixture, SECRET, System, answer, tests};

tests!(a_token_of_the_gateway_is_accepted,);

async fn a_token_of_the_gateway_is_accepted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let previous = "another-key-that-is-long-enough-too";
    system
        .start_gateway(&[("SDB_API_PAYLOAD_KEY", "mine"), ("SDB_SECRET_KEY_PREVIOUS", previous)])
        .await?;
    system.components(&[("DNS", &[])]).await?;
    let gateway = &fixture.binaries.gateway;
    let mine = ("SDB_API_PAYLOAD_KEY", "mine");
    for (arguments, variables, accepted) in [
        (&["token"][..], &[("SDB_SECRET_KEY", SECRET)][..], [true, false]),
        (&["token", "--client", "a monitor"], &[("SDB_SECRET_KEY", SECRET)], [true, false]),
        (&["token", "--source", "probe-1"], &[("SDB_SECRET_KEY", SECRET)], [true, false]),
        (&["token", "--days", "1"], &[("SDB_SECRET_KEY", SECRET), mine], [false, true]),
        (&["token", "--days", "0"], &[("SDB_SECRET_KEY", SECRET)], [true, false]),
        (&["token"], &[("SDB_SECRET_KEY", previous), mine], [false, true]),
        (&["token"], &[("SDB_SECRET_KEY", "a-key-that-nobody-has-ever-heard-of")], [false, false]),
    ] {
        let (done, said) = fixture.command(gateway, arguments, variables).await?;
        let token = said.trim();
        ensure!(done && token.split('.').count() == 3 && !token.contains(' '), "{said}");
        for (number, accepted) in accepted.into_iter().enumerate() {
            let request = system
                .request_to(number, reqwest::Method::POST, "/api/v1/component_status")
                .bearer_auth(token)
                .json(&json!({ "name": "DNS", "impact": 1 }));
            let answer = answer(request).await?;
            ensure!((answer.status != 401) == accepted, "{arguments:?} at {number}: {answer:?}");
        }
    }
    // Also those that were answered before their outcome was known.
    system.drained().await?;
    // The source of an update that names none: the client's name where it was not given.
    let sources = system.texts("SELECT DISTINCT source FROM sdb_report ORDER BY source").await?;
    ensure!(sources == ["a monitor", "monitor", "probe-1"], "{sources:?}");
    let too_long = "x".repeat(256);
    for source in ["", "a\nb", &too_long] {
        let arguments = ["token", "--source", source];
        let (done, said) =
            fixture.command(gateway, &arguments, &[("SDB_SECRET_KEY", SECRET)]).await?;
        ensure!(!done && said.contains("a source has 1 to 255 characters"), "{said}");
    }
    let (done, said) = fixture.command(gateway, &["token"], &[]).await?;
    ensure!(!done && said.contains("SDB_SECRET_KEY is not set"), "{said}");
    // No gateway accepts a claim that is empty, so no token with one is made.
    let (done, said) =
        fixture.command(gateway, &["token", "--client", ""], &[("SDB_SECRET_KEY", SECRET)]).await?;
    ensure!(!done && said.contains("client"), "a token that nobody accepts: {said}");
    system.finish().await
}
