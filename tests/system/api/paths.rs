//! Which paths lead where: those that clients make of a base address with a slash too many, or encode.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use harness::{ADMIN, Fixture, System, answer, eventually, http, tests};

tests!(
    slashes_and_encoded_characters_too_many_lead_to_the_same_routes,
    a_parameter_with_an_encoded_slash_is_no_other_route,
    probes_may_write_paths_likewise,
    the_root_leads_people_to_the_documentation,
);

/// Asks as the path is written: a client library would change it.
async fn get(system: &System, address: &str, method: &str, path: &str) -> Result<http::Raw> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        system.token
    );
    http::exchange(address, &request, false).await
}

async fn post(system: &System, path: &str, impact: u8) -> Result<http::Raw> {
    let body = json!({ "name": "DNS", "impact": impact }).to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
        Prefer: wait=30\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        system.token,
        body.len()
    );
    http::exchange(&system.addresses[0], &request, false).await
}

/// Both paths are answered with the same body, which `HEAD` leaves out.
async fn are_the_same(system: &System, path: &str, other: &str) -> Result<()> {
    let expected = get(system, &system.addresses[0], "GET", path).await?;
    ensure!(expected.status == 200, "{path}: {expected:?}");
    for method in ["GET", "HEAD"] {
        let got = get(system, &system.addresses[0], method, other).await?;
        ensure!(got.status == 200, "{method} {other}: {got:?}");
        let body = if method == "GET" { expected.body.as_str() } else { "" };
        ensure!(got.body == body, "{other} is another than {path}: {got:?}");
    }
    Ok(())
}

async fn slashes_and_encoded_characters_too_many_lead_to_the_same_routes(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let mut impact = 0;
    for path in [
        "/api/v1/component_status",
        "//api/v1/component_status",
        "/api/v1//component%5Fstatus?x=//%5f",
    ] {
        impact += 1;
        let posted = post(&system, path, impact).await?;
        ensure!(posted.status == 201, "{path}: {posted:?}");
        let receipt = posted.header("update-id");
        ensure!(!receipt.is_empty(), "{path}: {posted:?}");
        for receipt in
            [format!("//api//v1//updates//{receipt}"), format!("/%61pi/v1/updates/{receipt}")]
        {
            let got = get(&system, &system.addresses[0], "GET", &receipt).await?;
            ensure!(got.status == 200 && got.body.contains("\"done\""), "{receipt}: {got:?}");
        }
    }
    for (path, others) in [
        (
            "/api/v1/component_status",
            &[
                "//api/v1/component_status",
                "/api//v1/component_status",
                "///api///v1///component_status",
                "/api/v1/component%5Fstatus",
                "/api/v1/component%5fstatus",
                "//api/v1/%63omponent_statu%73",
            ][..],
        ),
        (
            "/api/v1/incidents?limit=1",
            &["/api/v1//incidents?limit=1", "//api/v%31/incidents?limit=1"],
        ),
        ("/api-spec.json", &["//api-spec.json", "/api%2Dspec%2Ejson"]),
        ("/healthz", &["//healthz", "/health%7A"]),
    ] {
        for other in others {
            are_the_same(&system, path, other).await?;
        }
    }
    // For a moment the database may not answer in its time.
    eventually("both paths say that the gateway is ready", async || {
        Ok(are_the_same(&system, "/readyz", "//readyz").await.is_ok())
    })
    .await?;
    // The Python dashboard has no such paths either.
    for path in [
        "/api/v1/component_status/",
        "/api/v1/incidents//",
        "/api%2Fv1/incidents",
        "/api/v1/component%255Fstatus",
        "/api/v1/component%5Gstatus",
        "/api/v1/incidents%00",
        "/api/v1/./incidents",
        "/api/v1/%2E%2E/v1/incidents",
        "/API/v1/incidents",
    ] {
        let got = get(&system, &system.addresses[0], "GET", path).await?;
        ensure!(got.status == 404 && got.body.contains("\"code\":404"), "{path}: {got:?}");
    }
    // What is counted by route has no more routes than there are.
    let metrics = get(&system, &system.addresses[0], "GET", "//metrics").await?;
    let routes: BTreeSet<&str> =
        metrics.body.split("route=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let expected = [
        "/api-spec.json",
        "/api/v1/component_status",
        "/api/v1/incidents",
        "/api/v1/updates/{id}",
        "/healthz",
        "/metrics",
        "/readyz",
        "none",
    ];
    ensure!(routes.iter().all(|route| expected.contains(route)), "{routes:?}");
    ensure!(routes.len() >= expected.len() - 1, "{routes:?}");
    system.finish().await
}

async fn a_parameter_with_an_encoded_slash_is_no_other_route(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for path in [
        "/api/v1/updates/..%2Fincidents",
        "/api/v1/updates/%2E%2E%2Fincidents",
        "/api/v1/updates/x%2Fy",
        "/api/v1/updates/%2F",
        "/api/v1/updates/%2f%2fapi%2fv1%2fincidents",
    ] {
        let got = get(&system, &system.addresses[0], "GET", path).await?;
        let says = "There is no update with this id";
        ensure!(got.status == 404 && got.body.contains(says), "{path}: {got:?}");
        // Nor does it pass the check of the token.
        let refused = answer(system.request_to(0, Method::GET, path)).await?;
        ensure!(refused.status == 401, "{path}: {refused:?}");
    }
    for path in ["/api/v1%2Fincidents", "/api/v1/%2Fincidents", "/%2Fapi/v1/incidents"] {
        let got = get(&system, &system.addresses[0], "GET", path).await?;
        ensure!(got.status == 404 && got.body.contains("There is nothing"), "{path}: {got:?}");
    }
    system.finish().await
}

async fn probes_may_write_paths_likewise(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[ADMIN]).await?;
    for process in [&system.workers[0], &system.gateways[0]] {
        let address = process.admin_address().await?;
        for path in ["//healthz", "/%68ealthz", "//metrics", "/metric%73"] {
            let got = get(&system, &address, "GET", path).await?;
            ensure!(got.status == 200, "{address}{path}: {got:?}");
        }
        eventually("it is ready", async || {
            Ok(get(&system, &address, "GET", "//readyz").await?.status == 200)
        })
        .await?;
        for path in ["/metrics/", "/metrics%2F", "//"] {
            let got = get(&system, &address, "GET", path).await?;
            ensure!(got.status == 404, "{address}{path}: {got:?}");
        }
    }
    // What is not for clients is not theirs by another way of writing it.
    for path in ["//metrics", "/metric%73"] {
        let got = get(&system, &system.addresses[0], "GET", path).await?;
        ensure!(got.status == 404, "{path}: {got:?}");
    }
    system.finish().await
}

async fn the_root_leads_people_to_the_documentation(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_PAGE", "off")]).await?;
    for (method, path) in [("GET", "/"), ("HEAD", "/"), ("GET", "//"), ("GET", "/?from=there")] {
        let got = get(&system, &system.addresses[0], method, path).await?;
        ensure!(got.status == 307 && got.body.is_empty(), "{method} {path}: {got:?}");
        ensure!(got.header("location") == "/api-docs", "{method} {path}: {got:?}");
        ensure!(got.header("x-content-type-options") == "nosniff", "{got:?}");
    }
    let page = system.request_to(0, Method::GET, "/").send().await?;
    ensure!(page.status() == 200 && page.url().path() == "/api-docs", "{page:?}");
    let refused = answer(system.request_to(0, Method::POST, "/")).await?;
    ensure!(refused.status == 405 && refused.header("allow").contains("GET"), "{refused:?}");
    system.finish().await
}
