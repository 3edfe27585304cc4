//! What clients may say about traces, and how much of what they say is kept.

use std::sync::{Arc, PoisonError};

use anyhow::{Result, ensure};
use reqwest::Method;

use super::{CLIENT, Collector, PROCESS, REQUEST, Span, trace_id, within};
use harness::{Fixture, System, answer, eventually, status_update, tests};

tests!(a_stranger_decides_neither_trace_nor_sampling, long_texts_are_cut_before_they_are_exported,);

/// The spans of requests for this address, by what the query says.
async fn asked(collector: &Collector, query: &str) -> Result<Vec<Span>> {
    let found = || {
        let spans = collector.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans
            .iter()
            .filter(|span| span.attribute("url.query") == query)
            .cloned()
            .collect::<Vec<_>>()
    };
    eventually("the request has a span", async || Ok(!found().is_empty())).await?;
    Ok(found())
}

async fn a_stranger_decides_neither_trace_nor_sampling(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[])]).await?;
    let named = |number: u8, flags: &str| format!("00-{}-{CLIENT}-{flags}", trace_id(number));

    // Without a token a request has a trace of its own, that leads to the client's, and is recorded as if
    // the client had not named one: whether it asks for it or against it.
    for (number, flags, token) in [(1, "01", None), (2, "00", None), (3, "00", Some("garbage"))] {
        let query = format!("name=stranger{number}");
        let path = format!("/api/v1/component_status?{query}");
        let mut request = system.request_to(0, Method::GET, &path);
        request = request.header("traceparent", named(number, flags));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        ensure!(answer(request).await?.status == 200);
        let spans = asked(&collector, &query).await?;
        ensure!(spans.len() == 1 && spans[0].trace != trace_id(number), "{spans:#?}");
        ensure!(spans[0].parent.is_empty(), "{spans:#?}");
        ensure!(spans[0].links == [(trace_id(number), CLIENT.to_owned())], "{spans:#?}");
    }
    // So is an update that is refused for its token.
    let refused = system.request_to(0, Method::POST, "/api/v1/component_status?refused");
    let refused = refused.header("traceparent", named(4, "00")).bearer_auth("garbage");
    ensure!(answer(refused.json(&status_update("DNS", 1))).await?.status == 401);
    let spans = asked(&collector, "refused").await?;
    ensure!(spans[0].links == [(trace_id(4), CLIENT.to_owned())], "{spans:#?}");

    // With one the client's word counts, for updates and for all else.
    let known = system.request_to(0, Method::GET, "/api/v1/incidents?known");
    let known = known.header("traceparent", named(5, "01")).bearer_auth(&system.token);
    ensure!(answer(known).await?.status == 200);
    let spans = asked(&collector, "known").await?;
    ensure!(spans[0].trace == trace_id(5) && spans[0].parent == CLIENT, "{spans:#?}");
    let quiet = system.update(&status_update("DNS", 1)).header("traceparent", named(6, "00"));
    ensure!(answer(quiet.header("Prefer", "wait=30")).await?.status == 201);
    let update = within(system.update(&status_update("DNS", 1)), &trace_id(7));
    ensure!(answer(update.header("Prefer", "wait=30")).await?.status == 200);
    collector.wait_for(&trace_id(7), &[REQUEST, PROCESS]).await?;
    ensure!(collector.trace(&trace_id(6)).is_empty(), "{:#?}", collector.trace(&trace_id(6)));
    // What names no trace at all is no error, and leads nowhere.
    let nonsense = system.request_to(0, Method::GET, "/api/v1/incidents?nonsense");
    ensure!(answer(nonsense.header("traceparent", "00-nonsense")).await?.status == 200);
    let spans = asked(&collector, "nonsense").await?;
    ensure!(spans[0].links.is_empty() && spans[0].parent.is_empty(), "{spans:#?}");
    system.finish().await
}

async fn long_texts_are_cut_before_they_are_exported(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&collector.variables()).await?;
    let limited = |limit| {
        let [endpoint, delay] = collector.variables();
        [endpoint, delay, limit]
    };
    system.start_gateway(&limited(("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "40"))).await?;
    system.start_gateway(&limited(("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "50"))).await?;
    for (gateway, limit) in [(0, 1_024), (1, 40), (2, 50)] {
        let query = format!("name={gateway}{}", "x".repeat(5_000));
        let path = format!("/api/v1/component_status?{query}");
        let agent = format!("agent{gateway}{}", "y".repeat(5_000));
        let request = system.request_to(gateway, Method::GET, &path).header("User-Agent", &agent);
        ensure!(answer(request).await?.status == 200);
        let spans = asked(&collector, &query[..limit]).await?;
        ensure!(spans[0].attribute("user_agent.original") == &agent[..limit], "{spans:#?}");
        let path = format!("/api/{gateway}{}", "z".repeat(5_000));
        let request = system.request_to(gateway, Method::GET, &format!("{path}?none{gateway}"));
        ensure!(answer(request).await?.status == 404);
        let spans = asked(&collector, &format!("none{gateway}")).await?;
        ensure!(spans[0].attribute("url.path") == &path[..limit], "{spans:#?}");
        ensure!(spans[0].name == "GET", "{spans:#?}");
    }
    let mut refused =
        system.launch("gateway", &limited(("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "long")))?;
    ensure!(!refused.ended().await?.success());
    let log = refused.log()?;
    let says = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT is `long`, but must be a whole number";
    ensure!(log.contains(says), "{log}");
    system.finish().await
}
